//! PyTorch's own format (`.bin`, `.pt`, `.pth`, `.ckpt`): a pickle beside raw storages, in a zip archive or, before
//! PyTorch 1.6, one after the other in a plain file.
//!
//! Layouts: `torch/serialization.py` (`_save`, `_legacy_save`). Nothing is unpickled: [`machine`] reads what the pickle
//! describes, [`tensors`] finds the tensors in it, and what loading would import beyond the rebuilding of tensors
//! becomes an anomaly `code-on-load`.

mod harm;
mod machine;
mod strided;
mod tensors;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;

pub use harm::only_does_harm;

use super::assembly::{Assembly, FilePart};
use super::collect::{Anomalies, shown};
use super::disguise::{Disguise, by_content};
use super::files::Written;
use super::shards::Naming;
use super::{Anomaly, AnomalyKind, Checkpoint, FileSet, Format, anomaly, read_as, turn};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MANY_TENSORS, MAX_PICKLE_BYTES, MAX_PICKLES};
use crate::source::ByteSource;
use machine::{Import, Pickle};
use tensors::Storages;

/// PyTorch's own format.
pub struct PyTorch;

const NAMING: Naming =
    Naming { written: Written::PyTorch, stems: &["pytorch_model", "model", "diffusion_pytorch_model"] };

/// Whether a file of the set is one of a model in this format, by its name.
pub(crate) fn is_model(files: &FileSet, name: &str) -> bool {
    NAMING.is_model(files, name)
}

impl Format for PyTorch {
    fn name(&self) -> &'static str {
        Written::PyTorch.format()
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
pub(crate) fn read_file(assembly: &mut Assembly, part: &FilePart<'_>) -> Result<()> {
    let first = part.source.read(0..part.source.len().min(64))?;
    if by_content(part.source.as_ref()) == Some(Written::Safetensors) {
        let what = "its first bytes are those of a safetensors file, and it is read as one";
        assembly.anomalies.file(anomaly::SAFETENSORS_IN_PYTORCH, part.name, what);
        // Loaders that go by its name would unpickle it all the same.
        for code in imports_of(part.source.as_ref(), part.name).into_iter().filter(|one| one.is(anomaly::CODE_ON_LOAD))
        {
            assembly.anomalies.file(anomaly::CODE_ON_LOAD, part.name, code.detail);
        }
        return read_as(Written::Safetensors, assembly, part);
    }
    assembly.push_file(part, BTreeMap::new());
    if is_zip(&first) {
        read_archive(assembly, part)
    } else if begins_pickle(&first) {
        read_legacy(assembly, part)
    } else if first.starts_with(b"GGUF") || first.starts_with(b"lmgg") || first.starts_with(b"tjgg") {
        assembly.anomalies.file(anomaly::GGUF_IN_PYTORCH, part.name, "its first bytes are those of a ggml file");
        Err(Error::new(ErrorKind::Malformed, format!("reading {}: it is a ggml file, not a pickle", part.name)))
    } else {
        let what = match Disguise::of(&first) {
            Some(other) => format!("{}, not a pickle", other.told().1),
            None => "neither a zip archive nor a pickle".to_owned(),
        };
        Err(Error::new(ErrorKind::Malformed, format!("reading {}: it is {what}", part.name)))
    }
}

fn is_zip(first: &[u8]) -> bool {
    first.starts_with(b"PK\x03\x04") || first.starts_with(b"PK\x05\x06")
}

/// Whether a file begins as those do that write pickles.
fn begins_pickle(first: &[u8]) -> bool {
    first.first().is_some_and(|byte| b"\x80c(}]il".contains(byte))
}

/// What loading a file would import beyond the rebuilding of tensors, whatever else the file is: every pickle in it is
/// walked, and nothing else of it is read.
///
/// Anomalies of four kinds come back, all of the file `name`: `code-on-load`; `unreadable-pickle` where a pickle could
/// not be walked to its end; `too-many-pickles` where some were not walked; `not-a-pickle` where the file is none and
/// no archive of any, so that unpickling it would fail before anything is imported.
pub fn imports_of(source: &dyn ByteSource, name: &str) -> Vec<Anomaly> {
    const TOLD: &[AnomalyKind] =
        &[anomaly::CODE_ON_LOAD, anomaly::NOT_A_PICKLE, anomaly::TOO_MANY_PICKLES, anomaly::UNREADABLE_PICKLE];
    let mut anomalies = Anomalies::default();
    if let Err(error) = walk(&mut anomalies, source, name) {
        anomalies.file(anomaly::UNREADABLE_PICKLE, name, error.one_line());
    }
    let mut found = anomalies.finish();
    found.retain(|anomaly| TOLD.iter().any(|kind| anomaly.is(*kind)));
    for anomaly in &mut found {
        anomaly.file = name.to_owned();
    }
    found
}

/// Notes what the pickles of a file import, in either layout.
fn walk(anomalies: &mut Anomalies, source: &dyn ByteSource, name: &str) -> Result<()> {
    let first = source.read(0..source.len().min(TAR_HEADER as u64))?;
    if is_zip(&first) {
        let entries = zip::read_some(source, anomalies, is_pickle)?;
        walk_archive(anomalies, source, name, &entries, |_, _, pickle| match &pickle.broken {
            Some(_) => Err(broken(name, &pickle)),
            None => Ok(()),
        })
    } else if is_tar(&first) {
        let what = "a tar archive, which was PyTorch's first layout; it is not walked";
        Err(Error::new(ErrorKind::Unsupported, format!("reading {name}: {what}")))
    } else {
        match walk_plain(anomalies, source, name) {
            Err(error)
                if error.kind == ErrorKind::Malformed
                    && !begins_pickle(&first)
                    && !anomalies.has(anomaly::CODE_ON_LOAD) =>
            {
                anomalies.file(anomaly::NOT_A_PICKLE, name, error.one_line());
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }
}

/// Bytes of a tar archive's header.
const TAR_HEADER: usize = 512;

/// Whether the first bytes are a tar header, which its checksum alone tells: the sum of all bytes, its own taken as
/// spaces.
fn is_tar(first: &[u8]) -> bool {
    let Some(header) = first.first_chunk::<TAR_HEADER>() else { return false };
    let stated = String::from_utf8_lossy(&header[148..156]);
    let stated = u32::from_str_radix(stated.trim_matches([' ', '\0']), 8);
    let outside = header.iter().enumerate().filter(|(at, _)| !(148..156).contains(at));
    stated.is_ok_and(|stated| stated == outside.map(|(_, byte)| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' '))
}

/// What stands in the way of reading on, with the pickle's own reason.
fn broken(file: &str, pickle: &Pickle) -> Error {
    let reason = pickle.broken.as_deref().unwrap_or("it returns nothing");
    Error::new(ErrorKind::Malformed, format!("reading the pickle in {file}: {reason}"))
}

/// Notes every import that is not part of rebuilding tensors.
fn note_imports(anomalies: &mut Anomalies, file: &str, pickle: &Pickle, place: &str, offset: u64) {
    for Import { module, name, position, times } in &pickle.imports {
        if !tensors::rebuilds_tensors(module, name) {
            let named = shown(&format!("{module}.{name}"));
            let at = offset + *position as u64;
            let again = if *times > 1 { format!(", and {} more", times - 1) } else { String::new() };
            let detail = format!("loading it would import {named:?} (opcode at byte {at} of {place}{again})");
            anomalies.file(anomaly::CODE_ON_LOAD, file, detail);
        }
    }
}

/// Whether an entry of an archive is a pickle, by its name.
fn is_pickle(entry: &str) -> bool {
    entry.ends_with(".pkl") || entry.ends_with(".pickle")
}

/// Reads every pickle among the entries of an archive, notes what it imports, and hands it to `each`. What `each` finds
/// unreadable, and what cannot be decompressed, is noted.
fn walk_archive(
    anomalies: &mut Anomalies,
    source: &dyn ByteSource,
    file: &str,
    entries: &[zip::Entry],
    mut each: impl FnMut(&mut Anomalies, &zip::Entry, Pickle) -> Result<()>,
) -> Result<()> {
    let pickles: Vec<_> = entries.iter().filter(|entry| is_pickle(&entry.name)).collect();
    if pickles.len() > MAX_PICKLES {
        let what = format!("it holds {} pickles, of which {MAX_PICKLES} are read", pickles.len());
        anomalies.file(anomaly::TOO_MANY_PICKLES, file, what);
    }
    for entry in pickles.into_iter().take(MAX_PICKLES) {
        let read = entry.small_bytes(source).and_then(|bytes| {
            let pickle = Pickle::read(&bytes);
            note_imports(anomalies, file, &pickle, &shown(&entry.name), 0);
            each(anomalies, entry, pickle)
        });
        if let Err(error) = read {
            anomalies.file(anomaly::UNREADABLE_PICKLE, file, error.one_line());
        }
    }
    Ok(())
}

/// The zip layout: `NAME/data.pkl` and one entry `NAME/data/KEY` per storage.
fn read_archive(assembly: &mut Assembly, part: &FilePart<'_>) -> Result<()> {
    let entries = zip::read(part.source.as_ref(), &mut assembly.anomalies)?;
    let mut main: Option<(String, Pickle)> = None;
    walk_archive(&mut assembly.anomalies, part.source.as_ref(), part.name, &entries, |anomalies, entry, pickle| {
        let top = entry.name.strip_suffix("data.pkl").filter(|top| top.matches('/').count() <= 1);
        match (top, &main) {
            (Some(top), None) => main = Some((top.to_owned(), pickle)),
            (other, _) => {
                if other.is_some() {
                    anomalies.file(anomaly::TWO_PICKLES, part.name, format!("{} is another one", shown(&entry.name)));
                }
                if pickle.broken.is_some() {
                    return Err(broken(part.name, &pickle));
                }
            }
        }
        Ok(())
    })?;
    if entries.iter().any(|entry| entry.name.ends_with("/constants.pkl") || entry.name.contains("/code/")) {
        let detail = "it is a TorchScript archive, which holds a program of its own beside the weights";
        assembly.anomalies.file(anomaly::TORCHSCRIPT, part.name, detail);
    }
    let (top, pickle) = main.ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("reading {}: the zip archive holds no data.pkl", part.name))
    })?;
    if entries.len() > MANY_TENSORS {
        turn::take();
    }
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
        Some(_) => Err(broken(part.name, &pickle)),
        None => Ok(()),
    })
}

/// The number of ten bytes that is the first pickle of a file of the plain layout, as an opcode.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Reads the pickle at a place of a file: a little of the file first, more when that was too little.
fn pickle_at(source: &dyn ByteSource, at: u64) -> Result<Pickle> {
    let most = source.len().saturating_sub(at).min(MAX_PICKLE_BYTES);
    let mut window = most.min(1 << 17);
    loop {
        let pickle = Pickle::read(&source.read(at..at + window)?);
        if !pickle.cut_short || window == most {
            return Ok(pickle);
        }
        window = window.saturating_mul(8).min(most);
    }
}

/// Pickles that PyTorch reads from a file of the plain layout.
const PLAIN_PICKLES: usize = 5;

/// The pickles at the beginning of a file of the plain layout.
struct Plain {
    pickles: Vec<Pickle>,
    /// Where the last of them ends.
    end: u64,
    /// Whether the first is PyTorch's magic number.
    magic: bool,
}

/// Reads the pickles of the plain layout and notes what they import. Of a file that does not begin with the magic
/// number what may be further pickles is walked too, as far as it is any: the number can be spelled in more than one
/// way.
fn walk_plain(anomalies: &mut Anomalies, source: &dyn ByteSource, file: &str) -> Result<Plain> {
    let mut plain = Plain { pickles: Vec::new(), end: 0, magic: false };
    let mut at = 0;
    for number in 0..PLAIN_PICKLES {
        if number > 0 && !plain.magic && at >= source.len() {
            break;
        }
        let pickle = pickle_at(source, at)?;
        note_imports(anomalies, file, &pickle, "the file", at);
        if pickle.broken.is_some() {
            if number > 0 && !plain.magic {
                break;
            }
            return Err(broken(file, &pickle));
        }
        at += pickle.length as u64;
        if number == 0 {
            plain.magic = source.read(0..at.min(64))?.windows(MAGIC.len()).any(|bytes| bytes == MAGIC);
        }
        // Anything else than PyTorch's magic number is a pickle by itself.
        if number == 0 || plain.magic {
            plain.pickles.push(pickle);
            plain.end = at;
        }
    }
    Ok(plain)
}

/// The plain layout: magic number, version, system, object, list of storage keys; then per key a count and the bytes.
fn read_legacy(assembly: &mut Assembly, part: &FilePart<'_>) -> Result<()> {
    let size = part.source.len();
    let Plain { pickles, end: mut at, magic } = walk_plain(&mut assembly.anomalies, part.source.as_ref(), part.name)?;
    if !magic && let Some(pickle) = pickles.first() {
        let storages =
            Storages { unreadable: Some("its storages are not in the file".to_owned()), ..Default::default() };
        if at < size {
            let detail = format!("{} bytes after the pickle's end", size - at);
            assembly.anomalies.file(anomaly::TRAILING_BYTES, part.name, detail);
        }
        return tensors::add(assembly, part, pickle, &storages);
    }
    let (Some(system), Some(object), Some(keys)) = (pickles.get(2), pickles.get(3), pickles.get(4)) else {
        return Err(Error::new(ErrorKind::Malformed, format!("reading {}: it is cut short", part.name)));
    };
    let mut storages = Storages::default();
    if tensors::field(system, "little_endian").and_then(|id| system.number(id)) == Some(0) {
        storages.unreadable = Some("its numbers are stored in big-endian order".to_owned());
    }
    let element_bytes = tensors::storage_element_bytes(object);
    let keys = tensors::texts(keys);
    for key in &keys {
        let key = *key;
        let Some(width) = element_bytes.get(key).copied() else {
            let what = format!("storage {} has no known element size; what follows it cannot be found", shown(key));
            assembly.anomalies.file(anomaly::UNKNOWN_STORAGE, part.name, what);
            break;
        };
        match legacy_storage(part, at, width) {
            Some(range) => {
                at = range.end;
                storages.by_key.insert(key.to_owned(), Ok(range));
            }
            None => {
                let what = format!("storage {} and what follows it lie outside the file", shown(key));
                assembly.anomalies.file(anomaly::OUTSIDE_FILE, part.name, what);
                break;
            }
        }
    }
    if at < size && storages.by_key.len() == keys.len() {
        assembly.anomalies.file(
            anomaly::TRAILING_BYTES,
            part.name,
            format!("{} bytes after the last storage", size - at),
        );
    }
    tensors::add(assembly, part, object, &storages)
}

/// The bytes of the storage whose count stands at `at`.
fn legacy_storage(part: &FilePart<'_>, at: u64, element_bytes: u64) -> Option<Range<u64>> {
    let start = at.checked_add(8).filter(|start| *start <= part.source.len())?;
    let count = part.source.read(at..start).ok()?;
    let count = u64::from_le_bytes(count.as_ref().try_into().ok()?);
    let end = start.checked_add(count.checked_mul(element_bytes)?)?;
    (end <= part.source.len()).then_some(start..end)
}

#[cfg(test)]
mod tests;
