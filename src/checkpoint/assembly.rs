//! Puts the tensors of several files together into one checkpoint: what every format with shards has in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::collect::{Anomalies, config_json, shown};
use super::shards::{Selection, ShardIndex};
use super::{AnomalyKind, Checkpoint, CheckpointFile, FileSet, Storage, TensorEntry, anomaly, slices, turn};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::limits::{MANY_TENSORS, MAX_NAMES_BYTES, MAX_TENSOR_NAME_BYTES, MAX_TENSORS};
use crate::source::ByteSource;

/// Enough for the header of 97 of 100 published files, so that a remote source needs one request.
const FIRST_READ: u64 = 100_000;

/// Kinds of anomalies that are the answer when a file has them: such a checkpoint opens even without a tensor.
const TELLING: &[AnomalyKind] = &[anomaly::CODE_ON_LOAD, anomaly::PICKLE_IN_SAFETENSORS];

/// What has been read so far.
#[derive(Default)]
pub(crate) struct Assembly {
    /// Files whose header was read.
    pub files: Vec<CheckpointFile>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Oddities.
    pub anomalies: Anomalies,
    /// Tensors whose names a later file holds too.
    pub repeated: BTreeMap<String, Vec<TensorEntry>>,
    /// How many these are.
    repeats: usize,
    /// Files whose header could not be read, and why.
    unread: BTreeMap<String, String>,
    /// Bytes of the tensors' names.
    name_bytes: usize,
}

/// One file of a selection as it is read.
pub(crate) struct FilePart<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub source: &'a Arc<dyn ByteSource>,
    /// Its digest where known.
    pub sha256: Option<Digest>,
}

impl Assembly {
    /// An empty one with the anomalies of the selection.
    pub fn new(anomalies: Anomalies) -> Self {
        Self { anomalies, ..Self::default() }
    }

    /// Reads every file of the selection with `read_one`, compares with the shard index, and makes the checkpoint.
    pub fn read(
        mut self,
        files: &FileSet,
        selection: &Selection,
        format: &'static str,
        read_one: impl Fn(&mut Self, &FilePart<'_>) -> Result<()>,
    ) -> Result<Checkpoint> {
        let mut first_error = None;
        for name in &selection.files {
            let Some(source) = files.files.get(name) else { continue };
            let beginning = 0..source.len().min(FIRST_READ);
            source.prefetch(std::slice::from_ref(&beginning));
            let part = FilePart { name, source, sha256: files.digests.get(name).copied() };
            if let Err(error) = read_one(&mut self, &part) {
                self.unread.insert(name.clone(), error.one_line());
                self.anomalies.file(anomaly::UNREADABLE_FILE, name, error.one_line());
                first_error = first_error.or(Some(error));
            }
        }
        let repeated = std::mem::take(&mut self.repeated);
        slices::settle(&self.files, &mut self.tensors, &mut self.anomalies, repeated);
        match &selection.index {
            Some(index) => self.compare_with(index),
            // The shards that are there say that there are others: without an index they stand for their tensors.
            None => {
                let missing = selection.missing.iter().map(|name| (name.clone(), "it is not there".to_owned()));
                self.unread.extend(missing);
            }
        }
        let nothing = self.tensors.is_empty() || self.files.is_empty();
        if !nothing {
            self.stand_in_for_unread();
        }
        if nothing && !TELLING.iter().any(|kind| self.anomalies.has(*kind)) {
            return Err(first_error.unwrap_or_else(|| {
                let mut absent = selection.index.iter().flat_map(|index| index.absent.values());
                let what = match (selection.files.as_slice(), absent.next().cloned()) {
                    (_, Some(first)) => format!("none of the shards that its index names can be read: {first}"),
                    (read, None) => format!("no tensor in {}", read.join(", ")),
                };
                Error::new(ErrorKind::Malformed, format!("opening {}: {what}", files.label))
            }));
        }
        let config = config_json(files, &selection.folder, &mut self.anomalies);
        Ok(Checkpoint {
            label: files.label.clone(),
            format,
            files: self.files,
            tensors: self.tensors,
            config,
            metadata: BTreeMap::new(),
            anomalies: self.anomalies.finish(),
        })
    }

    /// Lists every file that could not be read as something that could not: what it holds cannot be named without it.
    fn stand_in_for_unread(&mut self) {
        for (file, reason) in std::mem::take(&mut self.unread) {
            let entry = TensorEntry::unreadable(file.clone(), format!("the file could not be read: {reason}"));
            self.tensors.entry(file).or_insert(entry);
        }
    }

    /// Puts a file on the list, before its tensors: should one of them fail, the others still name the right file.
    pub fn push_file(&mut self, part: &FilePart<'_>, metadata: BTreeMap<String, String>) {
        let source = Arc::clone(part.source);
        self.files.push(CheckpointFile { name: part.name.to_owned(), source, sha256: part.sha256, metadata });
    }

    /// Puts a tensor on the list. Of two with one name in one file the later is what loaders take; the earlier stays
    /// listed. Of two in different files [`slices`] says what they are, once all are read.
    pub fn insert(&mut self, file: &str, tensor: &str, mut entry: TensorEntry) -> Result<()> {
        if self.tensors.len() + self.repeats >= MAX_TENSORS {
            return Err(Error::new(ErrorKind::TooLarge, format!("reading {file}: more than {MAX_TENSORS} tensors")));
        }
        self.name_bytes = self.name_bytes.saturating_add(entry.name.len());
        if self.name_bytes > MAX_NAMES_BYTES {
            let what = format!("reading {file}: the names of its tensors have more than {MAX_NAMES_BYTES} bytes");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        if self.tensors.len() == MANY_TENSORS {
            turn::take();
        }
        if tensor.len() > MAX_TENSOR_NAME_BYTES {
            self.anomalies.tensor(anomaly::ODD_NAME, file, tensor, format!("its name has {} bytes", tensor.len()));
            entry.storage = Storage::Unreadable("its name is too long".to_owned());
        }
        let in_file = entry.file;
        let Some(mut before) = self.tensors.insert(entry.name.clone(), entry) else { return Ok(()) };
        if before.file != in_file {
            self.repeats += 1;
            self.repeated.entry(before.name.clone()).or_default().push(before);
            return Ok(());
        }
        let elsewhere = self.files.get(before.file).map_or(file, |file| file.name.as_str()).to_owned();
        let detail =
            format!("also in {elsewhere} at {}..{}; loaders take the later", before.range.start, before.range.end);
        self.anomalies.tensor(anomaly::DUPLICATE_TENSOR, file, tensor, detail);
        // A few are listed by name; the anomalies speak for the rest.
        let spare = (1..=8).map(|number| format!("{} (duplicate {number})", before.name));
        if let Some(name) = spare.into_iter().find(|name| !self.tensors.contains_key(name)) {
            before.name = name;
            before.storage = Storage::Unreadable("another tensor of the same name is what loaders take".to_owned());
            self.tensors.insert(before.name.clone(), before);
        }
        Ok(())
    }

    /// Compares what the shards hold with what their index says.
    fn compare_with(&mut self, index: &ShardIndex) {
        for (tensor, file) in &index.map {
            if let Some(entry) = self.tensors.get(tensor) {
                let real = self.files.get(entry.file).map_or("", |file| file.name.as_str());
                if real != file {
                    let detail = format!("{} says {}, it is in {real}", index.name, shown(file));
                    self.anomalies.tensor(anomaly::WRONG_SHARD, real, tensor, detail);
                }
                continue;
            }
            let reason = match index.absent.get(file).or_else(|| self.unread.get(file)) {
                Some(reason) => reason.clone(),
                None => {
                    let detail = format!("{} says it is in this file", index.name);
                    self.anomalies.tensor(anomaly::NOT_IN_SHARD, file, tensor, detail);
                    format!("it is not in {file}, where {} says it is", index.name)
                }
            };
            self.tensors.insert(tensor.clone(), TensorEntry::unreadable(tensor.clone(), reason));
        }
        let unlisted: Vec<(String, usize)> = (self.tensors.values())
            .filter(|entry| !index.map.contains_key(&entry.name) && !entry.name.contains(" (duplicate "))
            .map(|entry| (entry.name.clone(), entry.file))
            .collect();
        for (tensor, file) in unlisted {
            let file = self.files.get(file).map_or("", |file| file.name.as_str()).to_owned();
            self.anomalies.tensor(anomaly::NOT_IN_INDEX, &file, &tensor, format!("{} does not list it", index.name));
        }
    }
}
