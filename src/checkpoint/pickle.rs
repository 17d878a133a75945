//! PyTorch's own format (`.bin`, `.pt`, `.pth`, `.ckpt`): a pickle beside raw storages, in a zip archive or, before
//! PyTorch 1.6, one after the other in a plain file.
//!
//! Layouts: `torch/serialization.py` (`_save`, `_legacy_save`). Nothing is unpickled: [`machine`] reads what the pickle
//! describes, [`tensors`] finds the tensors in it, and what loading would import beyond the rebuilding of tensors
//! becomes an anomaly `code-on-load`.

mod machine;
mod strided;
mod tensors;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;

use super::assembly::{Assembly, Part};
use super::collect::{Anomalies, shown};
use super::misnamed::by_content;
use super::shards::Naming;
use super::{Checkpoint, FileSet, Format, safetensors};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_PICKLE_BYTES;
use machine::{Import, Pickle};
use tensors::Storages;

/// PyTorch's own format.
pub struct PyTorch;

const NAMING: Naming =
    Naming { extensions: &["bin", "pt", "pth", "ckpt"], stems: &["pytorch_model", "model", "diffusion_pytorch_model"] };

/// Whether a file of the set is one of a model in this format, by its name.
pub(crate) fn is_model(files: &FileSet, name: &str) -> bool {
    NAMING.is_model(files, name)
}

impl Format for PyTorch {
    fn name(&self) -> &'static str {
        "pytorch"
    }

    fn recognizes(&self, files: &FileSet) -> bool {
        NAMING.matches(files)
    }

    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let mut anomalies = Anomalies::default();
        let selection = NAMING.select(files, &mut anomalies)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("opening {}: no PyTorch file of a model", files.label))
        })?;
        Assembly::new(anomalies).read(files, &selection, self.name(), read_file)
    }
}

/// Reads one file of either layout.
pub(crate) fn read_file(assembly: &mut Assembly, part: &Part<'_>) -> Result<()> {
    let first = part.source.read(0..part.source.len().min(64))?;
    if by_content(part.source.as_ref()) == Some("safetensors") {
        let what = "its first bytes are those of a safetensors file, and it is read as one";
        assembly.anomalies.file("safetensors-in-pytorch", part.name, what);
        return safetensors::read_file(assembly, part);
    }
    let zipped = first.starts_with(b"PK\x03\x04") || first.starts_with(b"PK\x05\x06");
    assembly.push_file(part, BTreeMap::new());
    if zipped {
        read_archive(assembly, part)
    } else if first.starts_with(b"\x80") || first.first().is_some_and(|byte| b"c(}]il".contains(byte)) {
        read_legacy(assembly, part)
    } else if first.starts_with(b"GGUF") || first.starts_with(b"lmgg") || first.starts_with(b"tjgg") {
        assembly.anomalies.file("gguf-in-pytorch", part.name, "its first bytes are those of a ggml file");
        Err(Error::new(ErrorKind::Malformed, format!("reading {}: it is a ggml file, not a pickle", part.name)))
    } else {
        let what = match safetensors::disguise(&first) {
            Some(other) => format!("{}, not a pickle", safetensors::describe(other).1),
            None => "neither a zip archive nor a pickle".to_owned(),
        };
        Err(Error::new(ErrorKind::Malformed, format!("reading {}: it is {what}", part.name)))
    }
}

/// What stands in the way of reading on, with the pickle's own reason.
fn broken(part: &Part<'_>, pickle: &Pickle) -> Error {
    let reason = pickle.broken.as_deref().unwrap_or("it returns nothing");
    Error::new(ErrorKind::Malformed, format!("reading the pickle in {}: {reason}", part.name))
}

/// Notes every import that is not part of rebuilding tensors.
fn note_imports(anomalies: &mut Anomalies, file: &str, pickle: &Pickle, place: &str, offset: u64) {
    for Import { module, name, position } in &pickle.imports {
        if !tensors::rebuilds_tensors(module, name) {
            let named = shown(&format!("{module}.{name}"));
            let at = offset + *position as u64;
            let detail = format!("loading it would import {named:?} (opcode at byte {at} of {place})");
            anomalies.file("code-on-load", file, detail);
        }
    }
}

/// Pickles of one archive that are read. PyTorch writes one, TorchScript two or three.
const MAX_PICKLES: usize = 16;

/// The zip layout: `NAME/data.pkl` and one entry `NAME/data/KEY` per storage.
fn read_archive(assembly: &mut Assembly, part: &Part<'_>) -> Result<()> {
    let entries = zip::read(part.source.as_ref(), &mut assembly.anomalies)?;
    let is_pickle = |name: &str| name.ends_with(".pkl") || name.ends_with(".pickle");
    let mut main: Option<(String, Pickle)> = None;
    let pickles: Vec<_> = entries.iter().filter(|entry| is_pickle(&entry.name)).collect();
    if pickles.len() > MAX_PICKLES {
        let what = format!("it holds {} pickles, of which {MAX_PICKLES} are read", pickles.len());
        assembly.anomalies.file("odd-zip", part.name, what);
    }
    for entry in pickles.into_iter().take(MAX_PICKLES) {
        let bytes = match entry.small_bytes(part.source.as_ref()) {
            Ok(bytes) => bytes,
            Err(error) => {
                assembly.anomalies.file("unreadable-pickle", part.name, error.one_line());
                continue;
            }
        };
        let pickle = Pickle::read(&bytes);
        note_imports(&mut assembly.anomalies, part.name, &pickle, &shown(&entry.name), 0);
        let top = entry.name.strip_suffix("data.pkl").filter(|top| top.matches('/').count() <= 1);
        match (top, &main) {
            (Some(top), None) => main = Some((top.to_owned(), pickle)),
            (Some(_), Some(_)) => {
                assembly.anomalies.file("two-pickles", part.name, format!("{} is another one", shown(&entry.name)));
            }
            (None, _) => {}
        }
    }
    if entries.iter().any(|entry| entry.name.ends_with("/constants.pkl") || entry.name.contains("/code/")) {
        let detail = "it is a TorchScript archive, which holds a program of its own beside the weights";
        assembly.anomalies.file("torchscript", part.name, detail);
    }
    let (top, pickle) = main.ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("reading {}: the zip archive holds no data.pkl", part.name))
    })?;
    let mut storages = Storages::default();
    for entry in &entries {
        let Some(key) = entry.name.strip_prefix(&top) else { continue };
        if let Some(key) = key.strip_prefix("data/") {
            storages.by_key.insert(key.to_owned(), entry.stored());
        } else if key == "byteorder" && entry.small_bytes(part.source.as_ref())? != b"little" {
            storages.unreadable = Some("its numbers are stored in big-endian order".to_owned());
        }
    }
    tensors::add(assembly, part, &pickle, &storages).and_then(|()| match pickle.broken {
        Some(_) => Err(broken(part, &pickle)),
        None => Ok(()),
    })
}

/// The number of ten bytes that is the first pickle of a file of the plain layout, as an opcode.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Reads the pickle at a place of a file: a little of the file first, more when that was too little.
fn pickle_at(part: &Part<'_>, at: u64) -> Result<Pickle> {
    let most = part.source.len().saturating_sub(at).min(MAX_PICKLE_BYTES);
    let mut window = most.min(1 << 17);
    loop {
        let pickle = Pickle::read(&part.source.read(at..at + window)?);
        if !pickle.cut_short || window == most {
            return Ok(pickle);
        }
        window = window.saturating_mul(8).min(most);
    }
}

/// The plain layout: magic number, version, system, object, list of storage keys; then per key a count and the bytes.
fn read_legacy(assembly: &mut Assembly, part: &Part<'_>) -> Result<()> {
    let size = part.source.len();
    let mut at = 0u64;
    let mut pickles = Vec::new();
    for number in 0..5 {
        let pickle = pickle_at(part, at)?;
        note_imports(&mut assembly.anomalies, part.name, &pickle, "the file", at);
        if pickle.broken.is_some() {
            return Err(broken(part, &pickle));
        }
        at += pickle.length as u64;
        // Anything else than PyTorch's magic number is a pickle by itself.
        let magic = number > 0 || part.source.read(0..at.min(64))?.windows(MAGIC.len()).any(|bytes| bytes == MAGIC);
        pickles.push(pickle);
        if !magic {
            let Some(pickle) = pickles.first() else { break };
            let storages =
                Storages { unreadable: Some("its storages are not in the file".to_owned()), ..Default::default() };
            if at < size {
                let detail = format!("{} bytes after the pickle's end", size - at);
                assembly.anomalies.file("trailing-bytes", part.name, detail);
            }
            return tensors::add(assembly, part, pickle, &storages);
        }
    }
    let (Some(system), Some(object), Some(keys)) = (pickles.get(2), pickles.get(3), pickles.get(4)) else {
        return Err(Error::new(ErrorKind::Malformed, format!("reading {}: it is cut short", part.name)));
    };
    let mut storages = Storages::default();
    if tensors::field(system, "little_endian").and_then(|id| system.number(id)) == Some(0) {
        storages.unreadable = Some("its numbers are stored in big-endian order".to_owned());
    }
    let element_bytes = tensors::storage_element_bytes(object);
    for key in tensors::texts(keys) {
        let Some(width) = element_bytes.get(&key).copied() else {
            let what = format!("storage {} has no known element size; what follows it cannot be found", shown(&key));
            assembly.anomalies.file("unknown-storage", part.name, what);
            break;
        };
        match legacy_storage(part, at, width) {
            Some(range) => {
                at = range.end;
                storages.by_key.insert(key, Ok(range));
            }
            None => {
                let what = format!("storage {} and what follows it lie outside the file", shown(&key));
                assembly.anomalies.file("outside-file", part.name, what);
                break;
            }
        }
    }
    if at < size && storages.by_key.len() == tensors::texts(keys).len() {
        assembly.anomalies.file("trailing-bytes", part.name, format!("{} bytes after the last storage", size - at));
    }
    tensors::add(assembly, part, object, &storages)
}

/// The bytes of the storage whose count stands at `at`.
fn legacy_storage(part: &Part<'_>, at: u64, element_bytes: u64) -> Option<Range<u64>> {
    let start = at.checked_add(8).filter(|start| *start <= part.source.len())?;
    let count = part.source.read(at..start).ok()?;
    let count = u64::from_le_bytes(count.as_ref().try_into().ok()?);
    let end = start.checked_add(count.checked_mul(element_bytes)?)?;
    (end <= part.source.len()).then_some(start..end)
}

#[cfg(test)]
mod tests;
