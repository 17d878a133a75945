//! GGUF: one file or several parts, with metadata that stand in for a configuration.
//!
//! Tensor names stay as the file has them; shapes are turned round into PyTorch order (slowest axis first). Metadata
//! are kept as text under their own keys, so that lineage (`general.base_model.*`, `general.source.*`, `general.name`)
//! can be read as claims. An adapter (`general.type` = `adapter`, `adapter.type` = `lora`) is opened like a model: its
//! factors are the tensors `X.lora_a` (rank × input) and `X.lora_b` (output × rank), its scale is `adapter.lora.alpha`
//! in the metadata over the rank, or by 1 where that is 0.
//!
//! Types that leave part of a matrix's scale to a tensor of its own (`X.scale`) are decoded with that scale, and are
//! [`Storage::Packed`] then.
//!
//! Tensors that cannot be decoded (unknown type, outside of the file, impossible shape, big-endian file) are listed as
//! [`Storage::Unreadable`]. So is every missing part of a split file, under the part's own file name, since a part's
//! tensors cannot be named without it: what was not read must not look as if it were not there.

mod config;
mod header;
mod scale;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use self::header::{GgufHeader, GgufTensor};
use crate::checkpoint::collect::Anomalies;
use crate::checkpoint::files::Written;
use crate::checkpoint::gguf_names::{base_name, is_gguf, part_name, split_part};
use crate::checkpoint::{
    Anomaly, AnomalyKind, Checkpoint, CheckpointFile, FileSet, Format, Storage, TensorEntry, anomaly, unknown_dtype,
    variants,
};
use crate::error::{Error, ErrorKind, Result};
use crate::source::ByteSource;
use crate::tensor::ggml_type;

/// The GGUF format.
///
/// Of a set of files that holds several variants of a model the largest is opened; to open another one, or each, narrow
/// the set to it ([`variants::Variant::narrow`]).
#[derive(Debug, Clone, Copy)]
pub struct Gguf;

impl Format for Gguf {
    fn name(&self) -> &'static str {
        Written::Gguf.format()
    }

    /// By the ending `.gguf`. Only a file given alone, and files whose names have no ending at all (blobs of a
    /// content-addressed store), are asked for their first bytes: for a remote file that costs a request.
    fn recognizes(&self, files: &FileSet) -> bool {
        if files.files.keys().any(|name| is_gguf(name)) {
            return true;
        }
        let alone = files.files.len() == 1;
        files.files.iter().any(|(name, source)| {
            (alone || !base_name(name).contains('.')) && source.len() >= 24 && begins_with_magic(source.as_ref())
        })
    }

    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let mut names = largest(files);
        if names.is_empty() {
            let blob = files.files.iter().find(|(_, source)| source.len() >= 24 && begins_with_magic(source.as_ref()));
            names.extend(blob.map(|(name, _)| name.clone()));
        }
        let Some(first) = names.first() else {
            return Err(Error::new(ErrorKind::NotFound, format!("opening {}: no GGUF file in it", files.label)));
        };
        let parts = match split_part(first) {
            Some((stem, _, count)) => {
                let present: BTreeMap<u32, &String> =
                    names.iter().filter_map(|name| Some((split_part(name)?.1, name))).collect();
                let name = |part| present.get(&part).map_or_else(|| part_name(stem, part, count), |&name| name.clone());
                (1..=count).map(name).collect()
            }
            None => vec![first.clone()],
        };
        Assembly::default().open(files, &parts)
    }
}

/// The files of the largest variant, which is the most exact one. Files that go with a model (vision projectors,
/// importance matrices) count only where there is nothing else.
fn largest(files: &FileSet) -> Vec<String> {
    let found = variants::of_files(files).into_iter().filter(|variant| variant.format() == Gguf.name());
    // Of equals the first, as the list is in order.
    let largest = found.reduce(|best, next| if next.bytes > best.bytes { next } else { best });
    let any = || files.files.keys().find(|name| is_gguf(name)).cloned().into_iter().collect();
    largest.map_or_else(any, |largest| largest.files)
}

fn begins_with_magic(source: &dyn ByteSource) -> bool {
    source.read(0..4).is_ok_and(|bytes| bytes.as_ref() == b"GGUF")
}

/// The oddities of one file.
#[derive(Debug)]
pub(super) struct Oddities {
    file: String,
    list: Anomalies,
}

impl Oddities {
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), list: Anomalies::default() }
    }

    pub fn add(&mut self, kind: AnomalyKind, tensor: Option<&str>, detail: String) {
        match tensor {
            Some(tensor) => self.list.tensor(kind, &self.file, tensor, detail),
            None => self.list.file(kind, &self.file, detail),
        }
    }

    fn into_list(self) -> Vec<Anomaly> {
        self.list.finish()
    }
}

/// A checkpoint as it grows part by part.
#[derive(Default)]
struct Assembly {
    files: Vec<CheckpointFile>,
    tensors: BTreeMap<String, TensorEntry>,
    values: BTreeMap<String, header::Value>,
    anomalies: Vec<Anomaly>,
    /// Entries in the headers read, duplicates included.
    listed: u64,
    /// Parts that could not be read, and why.
    absent: Vec<(String, String)>,
}

impl Assembly {
    fn open(mut self, files: &FileSet, parts: &[String]) -> Result<Checkpoint> {
        let mut failure = None;
        for (index, name) in parts.iter().enumerate() {
            let mut oddities = Oddities::new(name);
            match files.files.get(name) {
                None => {
                    let detail = format!("part {} of {} is missing", index + 1, parts.len());
                    oddities.add(anomaly::MISSING_SHARD, None, detail.clone());
                    self.absent.push((name.clone(), detail));
                }
                Some(source) => match header::read(source.as_ref(), &mut oddities) {
                    Ok(header) => self.part(files, name, source, header, (index, parts.len()), &mut oddities),
                    // A source that fails is not an odd file: it may answer next time.
                    Err(error) if parts.len() == 1 || !is_about_bytes(error.kind) => return Err(error),
                    Err(error) => {
                        let detail = error.one_line();
                        oddities.add(anomaly::UNREADABLE_FILE, None, detail.clone());
                        self.absent.push((name.clone(), detail));
                        failure.get_or_insert(error);
                    }
                },
            }
            self.anomalies.append(&mut oddities.into_list());
        }
        match failure {
            Some(error) if self.files.is_empty() => return Err(error),
            _ => {}
        }
        if self.files.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("opening {}: no part of it is there", files.label)));
        }
        Ok(self.finish(&files.label, parts))
    }

    /// Adds a part whose header was read. `place` is its index and the number of parts.
    fn part(
        &mut self,
        files: &FileSet,
        name: &str,
        source: &Arc<dyn ByteSource>,
        mut header: GgufHeader,
        place: (usize, usize),
        oddities: &mut Oddities,
    ) {
        if header.big_endian {
            oddities.add(
                anomaly::BIG_ENDIAN,
                None,
                "numbers are stored highest byte first; tensors are not decoded".to_owned(),
            );
        }
        self.check_split(&header, name, place, oddities);
        self.listed += header.tensors.len() as u64;
        let file = self.files.len();
        let listed = std::mem::take(&mut header.tensors);
        for entry in entries(&header, listed, file, source.len(), oddities) {
            match self.tensors.entry(entry.name.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                Entry::Occupied(first) => {
                    let first = first.get();
                    let detail = format!(
                        "listed again at bytes {}..{} of {name}; the first one, at {}..{} of {}, counts",
                        entry.range.start,
                        entry.range.end,
                        first.range.start,
                        first.range.end,
                        self.files.get(first.file).map_or(name, |file| &file.name),
                    );
                    oddities.add(anomaly::DUPLICATE_TENSOR, Some(&entry.name), detail);
                    // Some loaders refuse such a file, some take the later: what the later holds was not looked at.
                    let name = format!("{} (duplicate)", entry.name);
                    let reason = "another tensor of the same name counts, and loaders do not agree which".to_owned();
                    let spare = TensorEntry { name: name.clone(), storage: Storage::Unreadable(reason), ..entry };
                    self.tensors.entry(name).or_insert(spare);
                }
            }
        }
        for (key, value) in header.values {
            self.values.entry(key).or_insert(value);
        }
        self.files.push(CheckpointFile {
            name: name.to_owned(),
            source: source.clone(),
            sha256: files.digests.get(name).copied(),
            metadata: BTreeMap::new(),
        });
    }

    /// Compares what a header says of its place among parts with what its name says.
    fn check_split(
        &mut self,
        header: &GgufHeader,
        name: &str,
        (index, parts): (usize, usize),
        oddities: &mut Oddities,
    ) {
        let stated = |key: &str| header.values.get(key).and_then(header::Value::count);
        let Some(count) = stated("split.count").filter(|count| *count > 1) else { return };
        let number = stated("split.no").map_or(0, |number| number.saturating_add(1));
        if parts > 1 {
            if count != parts as u64 || number != index as u64 + 1 {
                let detail = format!("named part {} of {parts}, but says it is part {number} of {count}", index + 1);
                oddities.add(anomaly::SPLIT_MISMATCH, None, detail);
            }
        } else {
            let detail = format!("says it is part {number} of {count}, and no name tells where the others are");
            oddities.add(anomaly::MISSING_SHARD, None, detail.clone());
            self.absent.push((format!("{name} (other parts)"), detail));
        }
    }

    fn finish(mut self, label: &str, parts: &[String]) -> Checkpoint {
        let stated = self.values.get("split.tensors.count").and_then(header::Value::count);
        if let Some(stated) = stated
            && self.absent.is_empty()
            && stated != self.listed
        {
            let first = parts.first().map_or(label, String::as_str);
            let mut oddities = Oddities::new(first);
            let detail = format!("split.tensors.count is {stated}, but the parts list {}", self.listed);
            oddities.add(anomaly::MISSING_TENSORS, None, detail.clone());
            self.anomalies.append(&mut oddities.into_list());
            if stated > self.listed {
                self.absent.push((format!("{first} (other tensors)"), detail));
            }
        }
        for (name, reason) in self.absent {
            self.tensors.entry(name.clone()).or_insert(TensorEntry::unreadable(name, reason));
        }
        scale::attach(&self.files, &mut self.tensors);
        self.anomalies.sort();
        let config = config::config(&self.values, |name| self.tensors.contains_key(name));
        Checkpoint {
            label: label.to_owned(),
            format: Gguf.name(),
            files: self.files,
            config,
            metadata: self.values.iter().map(|(key, value)| (key.clone(), value.text())).collect(),
            tensors: self.tensors,
            anomalies: self.anomalies,
        }
    }
}

/// Whether an error is about what the bytes are, and not about getting them.
fn is_about_bytes(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Malformed | ErrorKind::TooLarge | ErrorKind::Unsupported)
}

/// The tensors of a header, placed in the file of `length` bytes; whatever is wrong with them goes to `oddities`.
fn entries(
    header: &GgufHeader,
    tensors: Vec<GgufTensor>,
    file: usize,
    length: u64,
    oddities: &mut Oddities,
) -> Vec<TensorEntry> {
    let mut starts: Vec<u64> =
        tensors.iter().filter_map(|listed| header.data_start.checked_add(listed.offset)).collect();
    starts.sort_unstable();
    let mut entries = Vec::with_capacity(tensors.len());
    for listed in tensors {
        let start = header.data_start.checked_add(listed.offset);
        if !listed.offset.is_multiple_of(header.alignment) {
            oddities.add(
                anomaly::MISALIGNED,
                Some(&listed.name),
                format!("its offset {} is not a multiple of {}", listed.offset, header.alignment),
            );
        }
        let dtype = ggml_type(listed.kind);
        let shape: Vec<u64> = listed.extents.iter().flat_map(|extents| extents.iter()).rev().copied().collect();
        let (range, storage, shape) = match extent(&listed, &shape, start, length) {
            Ok(range) if header.big_endian => (range, Storage::Unreadable("big-endian numbers".to_owned()), shape),
            Ok(range) => (range, Storage::Plain, shape),
            Err(Refusal { kind, reason, counted }) => {
                if let Some(kind) = kind {
                    oddities.add(kind, Some(&listed.name), reason.clone());
                }
                // Nothing tells where such a tensor ends; it may reach to the next one, so nothing before that counts
                // as a gap.
                let range = match start {
                    Some(start) if start < length => {
                        let next = starts.get(starts.partition_point(|&other| other <= start));
                        start..next.map_or(length, |&next| next.min(length))
                    }
                    _ => 0..0,
                };
                (range, Storage::Unreadable(reason), if counted { shape } else { vec![0] })
            }
        };
        let dtype = dtype.unwrap_or(unknown_dtype());
        entries.push(TensorEntry { name: listed.name, dtype, shape, file, range, storage });
    }
    check_layout(header, &entries, length, oddities);
    entries
}

/// Why a tensor cannot be read: an anomaly's kind unless one was recorded already, a sentence, and whether its elements
/// can be counted.
struct Refusal {
    kind: Option<AnomalyKind>,
    reason: String,
    counted: bool,
}

/// The bytes of a tensor in its file.
fn extent(listed: &GgufTensor, shape: &[u64], start: Option<u64>, length: u64) -> Result<Range<u64>, Refusal> {
    let refuse = |kind, counted, reason| Refusal { kind: Some(kind), reason, counted };
    if listed.extents.is_none() {
        return Err(Refusal { kind: None, reason: "too many dimensions".to_owned(), counted: false });
    }
    // In the order in which `TensorEntry::elements` multiplies, so that a product that passes here passes there.
    let Some(elements) = shape.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent)) else {
        return Err(refuse(
            anomaly::WRONG_SIZE,
            false,
            format!("shape {shape:?} has more elements than can be counted"),
        ));
    };
    let Some(dtype) = ggml_type(listed.kind) else {
        return Err(refuse(anomaly::UNKNOWN_DTYPE, true, format!("ggml type {} is not known", listed.kind)));
    };
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block as u64) {
        let reason = format!("rows of {row} elements do not fill {} blocks of {}", dtype.name, dtype.block);
        return Err(refuse(anomaly::WRONG_SIZE, true, reason));
    }
    let Some(bytes) = dtype.bytes_of(elements) else {
        return Err(refuse(anomaly::WRONG_SIZE, true, format!("{elements} elements of {} are too many", dtype.name)));
    };
    match start.and_then(|start| Some(start..start.checked_add(bytes)?)) {
        Some(range) if range.end <= length => Ok(range),
        _ => {
            let reason = format!("{bytes} bytes at offset {} end after the file's {length}", listed.offset);
            Err(refuse(anomaly::OUTSIDE_FILE, true, reason))
        }
    }
}

/// Finds overlaps, gaps, and bytes after the last tensor. Padding up to the alignment is no gap.
fn check_layout(header: &GgufHeader, entries: &[TensorEntry], length: u64, oddities: &mut Oddities) {
    let mut placed: Vec<&TensorEntry> = entries.iter().filter(|entry| !entry.range.is_empty()).collect();
    placed.sort_by_key(|entry| (entry.range.start, entry.range.end));
    let aligned = |end: u64| end.checked_next_multiple_of(header.alignment).unwrap_or(u64::MAX);
    let (mut end, mut last) = (header.data_start, None::<&TensorEntry>);
    for entry in placed {
        let Range { start, end: stop } = entry.range;
        if let Some(last) = last.filter(|_| start < end) {
            let detail = format!("bytes {start}..{stop} overlap those of {}, which end at {end}", last.name);
            oddities.add(anomaly::OVERLAP, Some(&entry.name), detail);
        } else if start > aligned(end) {
            let detail = format!("{} bytes before it, from {end}, belong to no tensor", start - end);
            oddities.add(anomaly::GAP, Some(&entry.name), detail);
        }
        if stop > end {
            (end, last) = (stop, Some(entry));
        }
    }
    if length > aligned(end) {
        oddities.add(
            anomaly::TRAILING_BYTES,
            None,
            format!("{} bytes after the last tensor, from {end}", length - end),
        );
    }
}
