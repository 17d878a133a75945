//! The safetensors format: one file or shards with an index.

mod header;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use header::{Disguise, disguise};
pub use write::{NewTensor, encode_floats, to_bytes, write, write_sharded};

use super::collect::{Anomalies, config_json, kept_name, shown};
use super::shards::{Naming, Selection, ShardIndex};
use super::{Checkpoint, CheckpointFile, FileSet, Format, Storage, TensorEntry, unknown_dtype};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_TENSORS;
use crate::source::ByteSource;
use crate::tensor::{DType, Family};
use header::{Described, Header};

/// The safetensors format.
pub struct Safetensors;

const NAMING: Naming = Naming { extensions: &["safetensors", "sft"], stems: &["model", "diffusion_pytorch_model"] };

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn recognizes(&self, files: &FileSet) -> bool {
        NAMING.matches(files)
    }

    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let mut anomalies = Anomalies::default();
        let selection = NAMING.select(files, &mut anomalies)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("opening {}: no safetensors file of a model", files.label))
        })?;
        let mut opened = Opened { anomalies, ..Opened::default() };
        let mut first_error = None;
        for name in &selection.files {
            let Some(source) = files.files.get(name) else { continue };
            source.prefetch(&[0..source.len().min(FIRST_READ)]);
            let digest = files.digests.get(name).copied();
            if let Err(error) = opened.file(name, source, digest) {
                opened.unread.insert(name.clone(), error.one_line());
                opened.anomalies.file("unreadable-file", name, error.one_line());
                first_error = first_error.or(Some(error));
            }
        }
        if let Some(index) = &selection.index {
            opened.compare_with(index);
        }
        if opened.tensors.is_empty() {
            return Err(opened.nothing(files, &selection, first_error));
        }
        let config = config_json(files, &selection.folder, &mut opened.anomalies);
        Ok(Checkpoint {
            label: files.label.clone(),
            format: self.name(),
            files: opened.files,
            tensors: opened.tensors,
            config,
            metadata: BTreeMap::new(),
            anomalies: opened.anomalies.finish(),
        })
    }
}

/// Enough for the header of 97 of 100 published files, so that a remote source needs one request.
const FIRST_READ: u64 = 100_000;

/// Where a tensor's bytes are said to be.
enum Place {
    There,
    Outside,
    Unknown,
}

/// What has been read so far.
#[derive(Default)]
struct Opened {
    files: Vec<CheckpointFile>,
    tensors: BTreeMap<String, TensorEntry>,
    anomalies: Anomalies,
    /// Files whose header could not be read, and why.
    unread: BTreeMap<String, String>,
}

impl Opened {
    /// Reads one file's header.
    fn file(&mut self, name: &str, source: &Arc<dyn ByteSource>, sha256: Option<crate::ids::Digest>) -> Result<()> {
        let first = source.read(0..source.len().min(64))?;
        if let Some(other) = disguise(&first) {
            let (kind, what) = describe(other);
            self.anomalies.file(kind, name, format!("its first bytes are those of {what}"));
            return Err(Error::new(ErrorKind::Malformed, format!("reading {name}: it is {what}, not safetensors")));
        }
        let header = header::read(source.as_ref())?;
        let file = self.files.len();
        let metadata = self.metadata(name, &header);
        if header.padded_front {
            self.anomalies.file("odd-header", name, "something stands before the header's opening brace");
        }
        let mut ranges = Vec::new();
        let mut cut_short = false;
        for (tensor, described) in header.tensors {
            let (mut entry, place) = self.entry(name, &tensor, &described, header.data_start, source.len());
            entry.file = file;
            match place {
                Place::There => ranges.push((entry.range.clone(), tensor.clone())),
                Place::Outside => cut_short = true,
                Place::Unknown => {}
            }
            self.insert(name, &tensor, entry)?;
        }
        self.layout(name, header.data_start, source.len(), ranges, cut_short);
        self.files.push(CheckpointFile { name: name.to_owned(), source: Arc::clone(source), sha256, metadata });
        Ok(())
    }

    fn metadata(&mut self, name: &str, header: &Header) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        if header.metadata.len() > 1 {
            self.anomalies.file("odd-metadata", name, "__metadata__ comes more than once");
        }
        for pairs in &header.metadata {
            if pairs.not_a_map {
                self.anomalies.file("odd-metadata", name, "__metadata__ is not an object");
            }
            for key in &pairs.odd {
                self.anomalies.file("odd-metadata", name, format!("the value of {:?} is not a string", shown(key)));
            }
            if pairs.left_out > 0 {
                self.anomalies.file("odd-metadata", name, format!("{} more entries are not kept", pairs.left_out));
            }
            for (key, value) in &pairs.pairs {
                if metadata.insert(key.clone(), value.clone()).is_some() {
                    self.anomalies.file("odd-metadata", name, format!("{:?} comes twice", shown(key)));
                }
            }
        }
        metadata
    }

    /// Checks one description against the file.
    fn entry(
        &mut self,
        file: &str,
        tensor: &str,
        described: &Described,
        data_start: u64,
        file_bytes: u64,
    ) -> (TensorEntry, Place) {
        let mut wrong: Option<String> = None;
        let mut note = |anomalies: &mut Anomalies, kind: &str, what: String| {
            anomalies.tensor(kind, file, tensor, what.clone());
            wrong.get_or_insert(what);
        };
        let anomalies = &mut self.anomalies;
        if tensor.is_empty() || tensor.chars().any(char::is_control) {
            anomalies.tensor("odd-name", file, &format!("{:?}", shown(tensor)), "an empty name, or control characters");
        }
        if !described.is_object {
            note(anomalies, "bad-description", "its description is not an object".to_owned());
        }
        if described.extra_fields > 0 {
            anomalies.tensor("extra-field", file, tensor, format!("{} unknown fields", described.extra_fields));
        }
        if described.double_fields > 0 {
            anomalies.tensor(
                "duplicate-field",
                file,
                tensor,
                "dtype, shape or data_offsets come twice; the last counts",
            );
        }
        let dtype = match &described.dtype {
            Some(text) => match DType::named(text).filter(|d| matches!(d.family, Family::Float | Family::Integer)) {
                Some(dtype) => dtype,
                None => {
                    note(anomalies, "unknown-dtype", format!("its dtype is {:?}", shown(text)));
                    unknown_dtype()
                }
            },
            None => {
                if described.is_object {
                    note(anomalies, "unknown-dtype", "it has no dtype".to_owned());
                }
                unknown_dtype()
            }
        };
        let shape = match &described.shape {
            Ok(shape) => shape.clone(),
            Err(what) => {
                note(anomalies, "bad-shape", format!("shape: {what}"));
                vec![0]
            }
        };
        let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        // Zeros must not hide an overflow: readers that multiply in another order would meet it.
        let overflow = shape.iter().filter(|size| **size > 0).try_fold(1u64, |p, size| p.checked_mul(*size)).is_none();
        if overflow {
            note(anomalies, "shape-overflow", format!("its shape {shape:?} has more than 2^64 elements"));
        }
        let shape = if overflow { vec![0] } else { shape };
        let offsets = match described.offsets.as_deref() {
            Ok(&[start, end]) if start <= end => Some((start, end)),
            Ok(other) => {
                note(anomalies, "bad-offsets", format!("data_offsets are {other:?}"));
                None
            }
            Err(what) => {
                note(anomalies, "bad-offsets", format!("data_offsets: {what}"));
                None
            }
        };
        let absolute = offsets.and_then(|(start, end)| {
            let range = data_start.checked_add(start)?..data_start.checked_add(end)?;
            (range.end <= file_bytes).then_some(range)
        });
        if let (Some((start, end)), None) = (offsets, &absolute) {
            let there = file_bytes - data_start;
            note(anomalies, "outside-file", format!("its bytes are {start}..{end} of the data, which has {there}"));
        }
        if let (Some((start, end)), Some(elements)) = (offsets, elements)
            && dtype != unknown_dtype()
            && !overflow
            && dtype.bytes_of(elements) != Some(end - start)
        {
            let what = match dtype.bytes_of(elements) {
                Some(bytes) => format!("{} bytes for {elements} {}, which take {bytes}", end - start, dtype.name),
                None => format!("{elements} {} do not fill whole blocks of {}", dtype.name, dtype.block),
            };
            note(anomalies, "wrong-size", what);
        }
        let entry = TensorEntry {
            name: kept_name(tensor),
            dtype,
            shape,
            file: 0,
            range: absolute.clone().unwrap_or(0..0),
            storage: match wrong {
                Some(what) => Storage::Unreadable(what),
                None => Storage::Plain,
            },
        };
        let place = match (offsets, absolute) {
            (_, Some(_)) => Place::There,
            (Some(_), None) => Place::Outside,
            (None, None) => Place::Unknown,
        };
        (entry, place)
    }

    /// Puts a tensor on the list. Of two with one name the later is what loaders take; the earlier stays listed.
    fn insert(&mut self, file: &str, tensor: &str, mut entry: TensorEntry) -> Result<()> {
        if self.tensors.len() >= MAX_TENSORS {
            return Err(Error::new(ErrorKind::TooLarge, format!("reading {file}: more than {MAX_TENSORS} tensors")));
        }
        if tensor.len() > crate::limits::MAX_TENSOR_NAME_BYTES {
            self.anomalies.tensor("odd-name", file, tensor, format!("its name has {} bytes", tensor.len()));
            entry.storage = Storage::Unreadable("its name is too long".to_owned());
        }
        let Some(mut before) = self.tensors.insert(entry.name.clone(), entry) else { return Ok(()) };
        let elsewhere = self.files.get(before.file).map_or(file, |file| file.name.as_str()).to_owned();
        let detail =
            format!("also in {elsewhere} at {}..{}; loaders take the later", before.range.start, before.range.end);
        self.anomalies.tensor("duplicate-tensor", file, tensor, detail);
        // A few are listed by name; the anomalies speak for the rest.
        let spare = (1..=8).map(|number| format!("{} (duplicate {number})", before.name));
        if let Some(name) = spare.into_iter().find(|name| !self.tensors.contains_key(name)) {
            before.name = name;
            before.storage = Storage::Unreadable("another tensor of the same name is what loaders take".to_owned());
            self.tensors.insert(before.name.clone(), before);
        }
        Ok(())
    }

    /// Overlaps, gaps and trailing bytes.
    fn layout(
        &mut self,
        file: &str,
        data_start: u64,
        file_bytes: u64,
        mut ranges: Vec<(std::ops::Range<u64>, String)>,
        cut_short: bool,
    ) {
        ranges.retain(|(range, _)| !range.is_empty());
        ranges.sort_by(|a, b| (a.0.start, a.0.end).cmp(&(b.0.start, b.0.end)));
        let mut end = data_start;
        let mut last = "";
        for (range, tensor) in &ranges {
            if range.start < end {
                let shared = range.end.min(end) - range.start;
                self.anomalies.tensor("overlap", file, tensor, format!("shares {shared} bytes with {}", shown(last)));
            } else if range.start > end {
                let gap = range.start - end;
                self.anomalies.tensor("gap", file, tensor, format!("{gap} bytes before it belong to no tensor"));
            }
            if range.end > end {
                end = range.end;
                last = tensor;
            }
        }
        // A file that was cut short ends inside a tensor: those bytes are that tensor's, not strangers.
        if end < file_bytes && !cut_short {
            let detail = format!("{} bytes after the last tensor", file_bytes - end);
            self.anomalies.file("trailing-bytes", file, detail);
        }
    }

    /// Compares what the shards hold with what their index says.
    fn compare_with(&mut self, index: &ShardIndex) {
        for (tensor, file) in &index.map {
            if let Some(entry) = self.tensors.get(tensor) {
                let real = self.files.get(entry.file).map_or("", |file| file.name.as_str());
                if real != file {
                    let detail = format!("{} says {}, it is in {real}", index.name, shown(file));
                    self.anomalies.tensor("wrong-shard", real, tensor, detail);
                }
                continue;
            }
            let reason = match index.absent.get(file).or_else(|| self.unread.get(file)) {
                Some(reason) => reason.clone(),
                None => {
                    let detail = format!("{} says it is in this file", index.name);
                    self.anomalies.tensor("not-in-shard", file, tensor, detail);
                    format!("it is not in {file}, where {} says it is", index.name)
                }
            };
            self.tensors.insert(
                tensor.clone(),
                TensorEntry {
                    name: tensor.clone(),
                    dtype: unknown_dtype(),
                    shape: vec![0],
                    file: 0,
                    range: 0..0,
                    storage: Storage::Unreadable(reason),
                },
            );
        }
        let unlisted: Vec<(String, usize)> = (self.tensors.values())
            .filter(|entry| !index.map.contains_key(&entry.name) && !entry.name.contains(" (duplicate "))
            .map(|entry| (entry.name.clone(), entry.file))
            .collect();
        for (tensor, file) in unlisted {
            let file = self.files.get(file).map_or("", |file| file.name.as_str()).to_owned();
            self.anomalies.tensor("not-in-index", &file, &tensor, format!("{} does not list it", index.name));
        }
    }

    /// The error when there is not one tensor.
    fn nothing(&self, files: &FileSet, selection: &Selection, first_error: Option<Error>) -> Error {
        first_error.unwrap_or_else(|| {
            let named = selection.files.join(", ");
            Error::new(ErrorKind::Malformed, format!("opening {}: no tensor in {named}", files.label))
        })
    }
}

/// The anomaly's kind, and what the file is.
pub(crate) fn describe(disguise: Disguise) -> (&'static str, &'static str) {
    match disguise {
        Disguise::Zip => ("pickle-in-safetensors", "a zip archive, as PyTorch writes"),
        Disguise::Pickle => ("pickle-in-safetensors", "a pickle"),
        Disguise::Gguf => ("gguf-in-safetensors", "a GGUF file"),
        Disguise::LfsPointer => ("lfs-pointer", "a git-lfs pointer: the file itself was not fetched"),
        Disguise::Html => ("html-in-safetensors", "a web page"),
    }
}

#[cfg(test)]
mod tests;
