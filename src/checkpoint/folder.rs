//! Checkpoints on this machine: a folder, a single file, or a snapshot in a hub's cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::WalkDir;

use super::shards::split_number;
use super::{Checkpoint, FileSet};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::limits::MAX_FILES;
use crate::source::ByteSource;
use crate::source::mmap::Mmap;

/// Extensions of weights.
const WEIGHTS: &[&str] = &["safetensors", "sft", "gguf", "bin", "pt", "pth", "ckpt"];

/// Extensions of the small files that say what the weights are.
const SMALL: &[&str] = &["json", "md"];

/// How many folders deep weights are looked for.
const MAX_FOLDERS_DEEP: usize = 3;

/// Opens the checkpoint in a folder or file. Errors say what was looked for.
pub fn open_path(path: &Path) -> Result<Checkpoint> {
    super::open(&file_set(path)?)
}

/// The files of a folder (or of one file and the small files beside it) as memory maps.
///
/// A folder of a hub's cache (`models--owner--name`) stands for the snapshot that `refs/main` names, or its only one.
/// Files there are links into `blobs`, whose names are SHA-256 digests; they are taken over into
/// [`FileSet::digests`].
pub fn file_set(path: &Path) -> Result<FileSet> {
    let doing = || format!("opening {}", path.display());
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(doing(), e))?;
    let label = path.display().to_string();
    let found = if metadata.is_dir() {
        folder_files(&cache_snapshot(path).unwrap_or_else(|| path.to_owned()), MAX_FOLDERS_DEEP)?
    } else if metadata.is_file() {
        beside(path)?
    } else {
        return Err(Error::new(ErrorKind::Unsupported, format!("{}: neither a folder nor a file", doing())));
    };
    if !found.iter().any(|(name, _)| has_extension(name, WEIGHTS)) {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{}: no weights there (looked for files named .{})", doing(), WEIGHTS.join(", .")),
        ));
    }
    let mut set = FileSet { label, files: BTreeMap::new(), digests: BTreeMap::new() };
    for (name, path) in found {
        if let Some(digest) = blob_digest(&path) {
            set.digests.insert(name.clone(), digest);
        }
        let source: Arc<dyn ByteSource> = Arc::new(Mmap::open(&path, name.clone())?);
        set.files.insert(name, source);
    }
    Ok(set)
}

fn has_extension(name: &str, extensions: &[&str]) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| extensions.iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// Regular files (or links to such) with a wanted extension, so many folders deep; hidden folders are passed over.
fn folder_files(folder: &Path, deep: usize) -> Result<Vec<(String, PathBuf)>> {
    let visible = |entry: &walkdir::DirEntry| {
        entry.depth() == 0 || !(entry.file_type().is_dir() && entry.file_name().to_string_lossy().starts_with('.'))
    };
    let mut found = Vec::new();
    let walk = WalkDir::new(folder).max_depth(deep).sort_by_file_name().into_iter();
    for (seen, entry) in walk.filter_entry(visible).enumerate() {
        if seen > 10 * MAX_FILES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("opening {}: more than {} files", folder.display(), 10 * MAX_FILES),
            ));
        }
        // A folder that may not be read is passed over unless it is the one that was asked for.
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.depth() == 0 => {
                return Err(Error::because(ErrorKind::Io, format!("opening {}", folder.display()), e));
            }
            Err(_) => continue,
        };
        let Ok(relative) = entry.path().strip_prefix(folder) else { continue };
        let name = relative.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
        let wanted = has_extension(&name, WEIGHTS) || has_extension(&name, SMALL);
        // Asked before opening: opening a pipe would wait for ever.
        if wanted && std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file()) {
            found.push((name, entry.into_path()));
        }
    }
    Ok(found)
}

/// One file that was named, the other parts of it if it is one of several, and the small files beside it.
fn beside(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(index) = named.strip_suffix(".index.json").filter(|name| has_extension(name, WEIGHTS)) {
        let stem = index.rsplit_once('.').map_or(index, |(stem, _)| stem).to_owned();
        return Ok(folder_files(folder, 1)?
            .into_iter()
            .filter(|(name, _)| *name == named || part_of(name).is_some_and(|of| of.0 == stem) || is_small(name))
            .collect());
    }
    let wanted = part_of(&named);
    let mut found = vec![(named.clone(), path.to_owned())];
    for (name, path) in folder_files(folder, 1)? {
        let part = wanted.is_some() && part_of(&name) == wanted;
        if name != named && (part || is_small(&name)) {
            found.push((name, path));
        }
    }
    Ok(found)
}

/// A small file of the folder itself, other than a shard index (which would stand for files that were not named).
fn is_small(name: &str) -> bool {
    !name.contains('/') && has_extension(name, SMALL) && !name.ends_with(".index.json")
}

/// What numbered parts of one file have in common: stem, count, extension.
fn part_of(name: &str) -> Option<(String, u32, String)> {
    let (stem, extension) = name.rsplit_once('.')?;
    let (stem, _, count) = split_number(stem)?;
    Some((stem.to_owned(), count, extension.to_owned()))
}

/// The snapshot that a cache folder `models--owner--name` stands for.
pub(crate) fn cache_snapshot(path: &Path) -> Option<PathBuf> {
    let snapshots = path.join("snapshots");
    if !snapshots.is_dir() || !path.join("blobs").is_dir() {
        return None;
    }
    if let Ok(revision) = std::fs::read_to_string(path.join("refs").join("main")) {
        let revision = revision.trim();
        let snapshot = snapshots.join(revision);
        if !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_alphanumeric()) && snapshot.is_dir() {
            return Some(snapshot);
        }
    }
    let mut all: Vec<PathBuf> = std::fs::read_dir(snapshots).ok()?.flatten().map(|entry| entry.path()).collect();
    (all.len() == 1).then(|| all.remove(0))
}

/// The digest in the name of the blob that a link leads to, through at most four links.
fn blob_digest(path: &Path) -> Option<Digest> {
    let mut at = path.to_owned();
    for _ in 0..4 {
        let target = std::fs::read_link(&at).ok()?;
        let name = target.file_name()?.to_string_lossy().into_owned();
        if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return name.parse().ok();
        }
        at = at.parent()?.join(target);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::safetensors::{NewTensor, write, write_sharded};
    use crate::tensor::F32;

    const TENSOR: NewTensor<'static> = NewTensor { name: "a.weight", dtype: &F32, shape: &[1], bytes: &[0; 4] };

    #[test]
    fn a_folder_a_file_and_an_index_open() {
        let folder = tempfile::tempdir().unwrap();
        let other = NewTensor { name: "b.weight", ..TENSOR };
        write_sharded(folder.path(), &[TENSOR, other], &BTreeMap::new(), 2).unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        for path in [folder.path().to_owned(), folder.path().join("model-00002-of-00002.safetensors")] {
            let checkpoint = open_path(&path).unwrap();
            assert_eq!(checkpoint.tensors.len(), 2, "{}", path.display());
            assert_eq!(checkpoint.config["model_type"], "llama");
        }
        let index = open_path(&folder.path().join("model.safetensors.index.json")).unwrap();
        assert_eq!(index.tensors.len(), 2);
        assert!(index.anomalies.is_empty(), "{:?}", index.anomalies);
    }

    #[test]
    fn what_is_no_model_says_what_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = open_path(folder.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.doing.contains(".safetensors, .sft, .gguf"), "{}", error.doing);
        std::fs::write(folder.path().join("notes.txt"), "text").unwrap();
        let error = open_path(&folder.path().join("notes.txt")).unwrap_err();
        assert!(error.doing.contains("no weights there"), "{}", error.doing);
        let error = open_path(&folder.path().join("missing")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn a_hub_cache_is_read_through_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("models--o--n");
        let snapshot = cache.join("snapshots").join("abc123");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(cache.join("blobs")).unwrap();
        std::fs::create_dir_all(cache.join("refs")).unwrap();
        std::fs::write(cache.join("refs").join("main"), "abc123\n").unwrap();
        let digest = Digest::of(b"x");
        write(&cache.join("blobs").join(digest.hex()), &[TENSOR], &BTreeMap::new()).unwrap();
        let target = format!("../../blobs/{}", digest.hex());
        std::os::unix::fs::symlink(target, snapshot.join("model.safetensors")).unwrap();
        for path in [&cache, &snapshot, &snapshot.join("model.safetensors")] {
            let checkpoint = open_path(path).unwrap();
            assert_eq!(checkpoint.files[0].sha256, Some(digest), "{}", path.display());
            assert_eq!(checkpoint.tensors.len(), 1);
        }
    }
}
