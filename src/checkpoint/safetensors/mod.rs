//! The safetensors format: one file or shards with an index.

mod header;
mod write;

use std::collections::BTreeMap;

pub use write::{NewTensor, encode_floats, to_bytes, write, write_sharded};

use super::assembly::{Assembly, FilePart};
use super::collect::{Anomalies, kept_name, shown};
use super::disguise::Disguise;
use super::files::Written;
use super::shards::Naming;
use super::{AnomalyKind, Checkpoint, FileSet, Format, Storage, TensorEntry, anomaly, read_as, unknown_dtype};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, DTypeFamily};
use header::{Described, SafetensorsHeader};

/// The safetensors format.
pub struct Safetensors;

const NAMING: Naming = Naming { written: Written::Safetensors, stems: &["model", "diffusion_pytorch_model"] };

/// Whether a file of the set is one of a model in this format, by its name.
pub(crate) fn is_model(files: &FileSet, name: &str) -> bool {
    NAMING.is_model(files, name)
}

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        Written::Safetensors.format()
    }

    fn recognizes(&self, files: &FileSet) -> bool {
        NAMING.matches(files)
    }

    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let mut anomalies = Anomalies::default();
        let selection = NAMING.select(files, &mut anomalies)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("opening {}: no safetensors file of a model", files.label))
        })?;
        Assembly::new(anomalies).read(files, &selection, self.name(), read_file)
    }
}

/// The bytes of the data that a description gives a tensor, if it gives any.
fn stated_range(described: &Described) -> Option<(u64, u64)> {
    match described.offsets.as_deref() {
        Ok(&[start, end]) if start <= end => Some((start, end)),
        _ => None,
    }
}

/// The same bytes in the file, where they are inside.
fn placed(stated: (u64, u64), data_start: u64, file_bytes: u64) -> Option<std::ops::Range<u64>> {
    let range = data_start.checked_add(stated.0)?..data_start.checked_add(stated.1)?;
    (range.end <= file_bytes).then_some(range)
}

/// Reads one file's header.
pub(crate) fn read_file(assembly: &mut Assembly, part: &FilePart<'_>) -> Result<()> {
    let (name, source) = (part.name, part.source);
    let first = source.read(0..source.len().min(64))?;
    if let Some(other) = Disguise::of(&first) {
        let (kind, what) = other.told();
        assembly.anomalies.file(kind, name, format!("its first bytes are those of {what}"));
        if matches!(other, Disguise::Zip | Disguise::Pickle) {
            return read_as(Written::PyTorch, assembly, part);
        }
        return Err(Error::new(ErrorKind::Malformed, format!("reading {name}: it is {what}, not safetensors")));
    }
    let header = header::read(source.as_ref())?;
    let file = assembly.files.len();
    let metadata = string_metadata(&mut assembly.anomalies, name, &header);
    assembly.push_file(part, metadata);
    if header.padded_front {
        assembly.anomalies.file(anomaly::ODD_HEADER, name, "something stands before the header's opening brace");
    }
    layout(&mut assembly.anomalies, name, &header, source.len());
    for (tensor, described) in header.tensors {
        let mut entry =
            checked_entry(&mut assembly.anomalies, name, &tensor, described, header.data_start, source.len());
        entry.file = file;
        assembly.insert(name, &tensor, entry)?;
    }
    Ok(())
}

fn string_metadata(anomalies: &mut Anomalies, name: &str, header: &SafetensorsHeader) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::new();
    if header.metadata.len() > 1 {
        anomalies.file(anomaly::ODD_METADATA, name, "__metadata__ comes more than once");
    }
    for pairs in &header.metadata {
        if pairs.not_a_map {
            anomalies.file(anomaly::ODD_METADATA, name, "__metadata__ is not an object");
        }
        for key in &pairs.odd {
            anomalies.file(anomaly::ODD_METADATA, name, format!("the value of {:?} is not a string", shown(key)));
        }
        if pairs.left_out > 0 {
            anomalies.file(anomaly::ODD_METADATA, name, format!("{} more entries are not kept", pairs.left_out));
        }
        for (key, value) in &pairs.pairs {
            if metadata.insert(key.clone(), value.clone()).is_some() {
                anomalies.file(anomaly::ODD_METADATA, name, format!("{:?} comes twice", shown(key)));
            }
        }
    }
    metadata
}

/// Checks one description against the file.
fn checked_entry(
    anomalies: &mut Anomalies,
    file: &str,
    tensor: &str,
    described: Described,
    data_start: u64,
    file_bytes: u64,
) -> TensorEntry {
    let mut check = Check { anomalies, file, tensor, wrong: None };
    check.name();
    check.fields(&described);
    let dtype = check.dtype(&described);
    let stated = stated_range(&described);
    let (shape, elements) = check.shape(described.shape);
    check.offsets(described.offsets, stated.is_some());
    let range = stated.and_then(|stated| check.place(stated, data_start, file_bytes));
    if let (Some((start, end)), Some(elements)) = (stated, elements) {
        check.size(dtype, elements, end - start);
    }
    TensorEntry {
        name: kept_name(tensor),
        dtype,
        shape,
        file: 0,
        range: range.unwrap_or(0..0),
        storage: match check.wrong {
            Some(what) => Storage::Unreadable(what),
            None => Storage::Plain,
        },
    }
}

/// The check of one tensor's description: what is odd about it, and the first thing that makes it unreadable.
struct Check<'a> {
    anomalies: &'a mut Anomalies,
    file: &'a str,
    tensor: &'a str,
    wrong: Option<String>,
}

impl Check<'_> {
    /// Something for which the tensor cannot be read.
    fn wrong(&mut self, kind: AnomalyKind, what: String) {
        self.anomalies.tensor(kind, self.file, self.tensor, what.clone());
        self.wrong.get_or_insert(what);
    }

    fn name(&mut self) {
        if self.tensor.is_empty() || self.tensor.chars().any(char::is_control) {
            let shown = format!("{:?}", shown(self.tensor));
            self.anomalies.tensor(anomaly::ODD_NAME, self.file, &shown, "an empty name, or control characters");
        }
    }

    /// Whether it has the three fields of a description, once each, and no others.
    fn fields(&mut self, described: &Described) {
        if !described.is_object {
            self.wrong(anomaly::BAD_DESCRIPTION, "its description is not an object".to_owned());
        }
        if described.extra_fields > 0 {
            let what = format!("{} unknown fields", described.extra_fields);
            self.anomalies.tensor(anomaly::EXTRA_FIELD, self.file, self.tensor, what);
        }
        if described.double_fields > 0 {
            let what = "dtype, shape or data_offsets come twice; the last counts";
            self.anomalies.tensor(anomaly::DUPLICATE_FIELD, self.file, self.tensor, what);
        }
    }

    fn dtype(&mut self, described: &Described) -> &'static DType {
        let Some(text) = &described.dtype else {
            if described.is_object {
                self.wrong(anomaly::UNKNOWN_DTYPE, "it has no dtype".to_owned());
            }
            return unknown_dtype();
        };
        DType::named(text)
            .filter(|dtype| matches!(dtype.family, DTypeFamily::Float | DTypeFamily::Integer))
            .unwrap_or_else(|| {
                self.wrong(anomaly::UNKNOWN_DTYPE, format!("its dtype is {:?}", shown(text)));
                unknown_dtype()
            })
    }

    /// The shape and its number of elements; none where that is more than can be counted.
    fn shape(&mut self, described: Result<Box<[u64]>, &'static str>) -> (Vec<u64>, Option<u64>) {
        let shape = match described {
            Ok(shape) => shape.into_vec(),
            Err(what) => {
                self.wrong(anomaly::BAD_SHAPE, format!("shape: {what}"));
                vec![0]
            }
        };
        // Zeros must not hide an overflow: readers that multiply in another order would meet it.
        if shape.iter().filter(|size| **size > 0).try_fold(1u64, |p, size| p.checked_mul(*size)).is_none() {
            self.wrong(anomaly::SHAPE_OVERFLOW, format!("its shape {shape:?} has more than 2^64 elements"));
            return (vec![0], None);
        }
        let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        (shape, elements)
    }

    /// Whether the offsets state a range.
    fn offsets(&mut self, described: Result<Box<[u64]>, &'static str>, state_a_range: bool) {
        match described {
            Ok(other) if !state_a_range => self.wrong(anomaly::BAD_OFFSETS, format!("data_offsets are {other:?}")),
            Ok(_) => {}
            Err(what) => self.wrong(anomaly::BAD_OFFSETS, format!("data_offsets: {what}")),
        }
    }

    /// The stated bytes in the file, where they are inside.
    fn place(&mut self, stated: (u64, u64), data_start: u64, file_bytes: u64) -> Option<std::ops::Range<u64>> {
        let range = placed(stated, data_start, file_bytes);
        if range.is_none() {
            let ((start, end), there) = (stated, file_bytes - data_start);
            let what = format!("its bytes are {start}..{end} of the data, which has {there}");
            self.wrong(anomaly::OUTSIDE_FILE, what);
        }
        range
    }

    /// Whether the stated bytes are as many as the elements take.
    fn size(&mut self, dtype: &'static DType, elements: u64, stated: u64) {
        if dtype == unknown_dtype() || dtype.bytes_of(elements) == Some(stated) {
            return;
        }
        let what = match dtype.bytes_of(elements) {
            Some(bytes) => format!("{stated} bytes for {elements} {}, which take {bytes}", dtype.name),
            None => format!("{elements} {} do not fill whole blocks of {}", dtype.name, dtype.block),
        };
        self.wrong(anomaly::WRONG_SIZE, what);
    }
}

/// Overlaps, gaps and trailing bytes.
fn layout(anomalies: &mut Anomalies, file: &str, header: &SafetensorsHeader, file_bytes: u64) {
    let mut ranges = Vec::new();
    let mut cut_short = false;
    for (tensor, described) in &header.tensors {
        let Some(stated) = stated_range(described) else { continue };
        match placed(stated, header.data_start, file_bytes) {
            Some(range) if range.is_empty() => {}
            Some(range) => ranges.push((range.start, range.end, tensor.as_str())),
            None => cut_short = true,
        }
    }
    ranges.sort_by_key(|(start, end, _)| (*start, *end));
    let mut end = header.data_start;
    let mut last = "";
    for (start, stop, tensor) in ranges {
        if start < end {
            let shared = stop.min(end) - start;
            anomalies.tensor(anomaly::OVERLAP, file, tensor, format!("shares {shared} bytes with {}", shown(last)));
        } else if start > end {
            let gap = start - end;
            anomalies.tensor(anomaly::GAP, file, tensor, format!("{gap} bytes before it belong to no tensor"));
        }
        if stop > end {
            end = stop;
            last = tensor;
        }
    }
    // A file that was cut short ends inside a tensor: those bytes are that tensor's, not strangers.
    if end < file_bytes && !cut_short {
        let detail = format!("{} bytes after the last tensor", file_bytes - end);
        anomalies.file(anomaly::TRAILING_BYTES, file, detail);
    }
}

#[cfg(test)]
mod tests;
