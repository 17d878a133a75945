//! What the fuzz targets share: opening bytes as a checkpoint and using all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use orthoscope::checkpoint::{self, Checkpoint, FileSet, Storage};
use orthoscope::source::{ByteSource, Bytes};

/// Most elements decoded of one tensor.
const ELEMENTS: u64 = 1 << 12;

/// Most tensors decoded; a header of a megabyte can list tens of thousands.
const TENSORS: usize = 256;

/// Files in memory.
pub fn files(files: &[(&str, &[u8])]) -> FileSet {
    let source = |(name, bytes): &(&str, &[u8])| {
        let source: Arc<dyn ByteSource> = Arc::new(Bytes::new(*name, *bytes));
        ((*name).to_owned(), source)
    };
    FileSet { label: "fuzz".to_owned(), files: files.iter().map(source).collect(), ..FileSet::default() }
}

/// Most bytes of tensor data made for a header.
const DATA: usize = 1 << 16;

/// A safetensors file of that header, its data repeated to [`DATA`] bytes.
pub fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    file.extend(data.iter().copied().cycle().take(DATA));
    file
}

/// Opens the files in whatever format they are and uses everything that was found. Refusals are fine; panics are not.
pub fn exercise(files: &FileSet) {
    if let Ok(checkpoint) = checkpoint::open(files) {
        everything(&checkpoint);
    }
}

/// Reads the ends of every tensor, and holds the checkpoint to what its types promise.
pub fn everything(checkpoint: &Checkpoint) {
    checkpoint.bytes();
    for (name, entry) in &checkpoint.tensors {
        assert_eq!(name, &entry.name, "a tensor under another tensor's name");
        entry.elements();
        let file = checkpoint.files.get(entry.file).expect("a tensor's file is listed");
        if matches!(entry.storage, Storage::Plain) {
            assert!(entry.range.end <= file.source.len(), "{name} ends outside of its file");
        }
    }
    for entry in checkpoint.tensors.values().take(TENSORS) {
        let _ = checkpoint.raw(entry);
        let elements = entry.elements();
        let count = elements.min(ELEMENTS);
        let mut numbers = vec![0.0; count as usize];
        let _ = checkpoint.decode(entry, 0, &mut numbers);
        let _ = checkpoint.decode(entry, elements - count, &mut numbers);
        let mut one = [0.0];
        let _ = checkpoint.decode(entry, elements / 2, &mut one);
    }
}
