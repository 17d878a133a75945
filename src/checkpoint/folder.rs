//! Checkpoints on this machine: a folder, a single file, or a snapshot in a hub's cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::WalkDir;

use super::files::{is_small, is_weights};
use super::shards::{split_number, stays_inside};
use super::unread_kinds::unread_kind;
use super::variants::{self, LoadingHints};
use super::{Checkpoint, FileSet};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::limits::{MAX_FILES, MAX_FOLDERS_DEEP};
use crate::source::ByteSource;
use crate::source::mmap::Mmap;

/// Opens the checkpoint in a folder or file. Errors say what was looked for.
pub fn open_path(path: &Path) -> Result<Checkpoint> {
    super::open(&file_set(path)?)
}

/// The files of a folder (or of one file and the small files beside it) as memory maps: whatever holds weights by its
/// name, hidden or deep, whatever an index or configuration names, and the small files that tell what they are.
///
/// A folder of a hub's cache (`models--owner--name`) stands for the snapshot that `refs/main` names, or its only one.
/// Files there are links into `blobs`, whose names are SHA-256 digests; they are taken over into
/// [`FileSet::digests`]. Any other link that leads out of the folder is refused, as is what is no regular file: both
/// stand in [`FileSet::refused`].
pub fn file_set(path: &Path) -> Result<FileSet> {
    let doing = || format!("opening {}", path.display());
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(doing(), e))?;
    let mut set = FileSet { label: path.display().to_string(), ..FileSet::default() };
    if metadata.is_dir() {
        let folder = cache_snapshot(path).unwrap_or_else(|| path.to_owned());
        let root = Root::new(&folder)?;
        for (name, path) in folder_files(&folder, MAX_FOLDERS_DEEP, &mut set.refused)? {
            root.put(&mut set, name, &path);
        }
        // What is loaded by another's word may be called anything.
        let named: Vec<String> = LoadingHints::read(&set).files().map(str::to_owned).collect();
        for name in named {
            if !set.files.contains_key(&name) && stays_inside(&name) {
                let path = folder.join(&name);
                if path.symlink_metadata().is_ok() {
                    root.put(&mut set, name, &path);
                }
            }
        }
    } else if metadata.is_file() {
        let (named, others) = beside(path)?;
        // The file was named itself: it is opened wherever it leads.
        put(&mut set, named, path)?;
        let root = Root::new(folder_of(path))?;
        others.into_iter().for_each(|(name, path)| root.put(&mut set, name, &path));
    } else {
        return Err(Error::new(ErrorKind::Unsupported, format!("{}: neither a folder nor a file", doing())));
    }
    let named = LoadingHints::read(&set);
    let holds = |name: &&String| is_weights(name) || named.files().any(|file| file == name.as_str());
    if !set.files.keys().any(|name| holds(&name)) {
        let unread = set.files.keys().find_map(|name| Some(format!("{name} is {}", unread_kind(name)?)));
        let refused = set.refused.iter().find(|(name, _)| is_weights(name));
        let found = match (refused, unread) {
            (Some((name, reason)), _) => format!("{name}: {reason}"),
            (None, Some(unread)) => format!("{unread}, which is not read"),
            (None, None) => format!("looked for files named {}", variants::endings()),
        };
        return Err(Error::new(ErrorKind::NotFound, format!("{}: no weights there ({found})", doing())));
    }
    Ok(set)
}

fn put(set: &mut FileSet, name: String, path: &Path) -> Result<()> {
    let source: Arc<dyn ByteSource> = Arc::new(Mmap::open(path, name.clone())?);
    if let Some(digest) = blob_digest(path) {
        set.digests.insert(name.clone(), digest);
    }
    set.files.insert(name, source);
    Ok(())
}

/// A folder that files must not lead out of.
struct Root {
    real: PathBuf,
    /// Where a hub's cache keeps the contents of this folder's files.
    blobs: Option<PathBuf>,
}

impl Root {
    fn new(folder: &Path) -> Result<Self> {
        let real = folder.canonicalize().map_err(|e| Error::io(format!("opening {}", folder.display()), e))?;
        let snapshots = real.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
        let blobs = snapshots.and_then(Path::parent).map(|cache| cache.join("blobs")).filter(|blobs| blobs.is_dir());
        Ok(Self { real, blobs })
    }

    /// Opens a file of the folder, or tells why not.
    fn put(&self, set: &mut FileSet, name: String, path: &Path) {
        let inside = |target: &Path| {
            target.starts_with(&self.real) || self.blobs.as_ref().is_some_and(|blobs| target.starts_with(blobs))
        };
        let opened = match path.canonicalize() {
            Err(error) => Err(error.to_string()),
            Ok(target) if !inside(&target) => Err("a link that leads out of the folder; not followed".to_owned()),
            // Asked before opening: opening a pipe would wait for ever.
            Ok(target) if !target.is_file() => Err("no regular file".to_owned()),
            Ok(_) => put(set, name.clone(), path).map_err(|error| error.one_line()),
        };
        if let Err(reason) = opened {
            set.refused.insert(name, reason);
        }
    }
}

/// Files of the folder whose names may matter, so many folders deep. What cannot be looked into is told in `refused`.
fn folder_files(
    folder: &Path,
    deep: usize,
    refused: &mut BTreeMap<String, String>,
) -> Result<BTreeMap<String, PathBuf>> {
    // The objects of a version control system are no files of the model, and bear no names of weights.
    let entered = |entry: &walkdir::DirEntry| entry.depth() == 0 || entry.file_name() != ".git";
    let mut found = BTreeMap::new();
    let walk = WalkDir::new(folder).max_depth(deep + 1).sort_by_file_name().into_iter();
    for (seen, entry) in walk.filter_entry(entered).enumerate() {
        if seen > 10 * MAX_FILES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("opening {}: more than {} files", folder.display(), 10 * MAX_FILES),
            ));
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.depth() == 0 => {
                return Err(Error::because(ErrorKind::Io, format!("opening {}", folder.display()), e));
            }
            Err(e) => {
                let path = e.path().unwrap_or(folder).to_owned();
                let name = path.strip_prefix(folder).map(shown_name).unwrap_or_default();
                refused.insert(name, format!("cannot be looked into: {e}"));
                continue;
            }
        };
        let Ok(relative) = entry.path().strip_prefix(folder) else { continue };
        let name = shown_name(relative);
        if entry.file_type().is_dir() {
            if entry.depth() > deep {
                refused.insert(name, format!("more than {deep} folders deep; not looked into"));
            }
            continue;
        }
        // A link to a folder is not walked: it could lead in a circle.
        if entry.path_is_symlink() && std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()) {
            refused.insert(name, "a link to a folder; not followed".to_owned());
            continue;
        }
        if is_weights(&name) || is_small(&name) || unread_kind(&name).is_some() {
            found.insert(distinct(name, &found), entry.into_path());
        }
    }
    Ok(found)
}

/// A relative path as a name with slashes. Bytes that are not UTF-8 are written as `\\xNN`, so that two files stay two.
fn shown_name(relative: &Path) -> String {
    let mut name = String::new();
    for chunk in relative.as_os_str().as_encoded_bytes().utf8_chunks() {
        name.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| name.push_str(&format!("\\x{byte:02x}")));
    }
    name.replace(std::path::MAIN_SEPARATOR, "/")
}

/// The name, with a number where another file is already called so.
fn distinct(name: String, taken: &BTreeMap<String, PathBuf>) -> String {
    if !taken.contains_key(&name) {
        return name;
    }
    (2..).map(|number| format!("{name} ({number})")).find(|name| !taken.contains_key(name)).unwrap_or(name)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of a file that was named, and what goes with it: the other parts if it is one of several, the shards if it
/// is an index, and the small files beside it.
fn beside(path: &Path) -> Result<(String, BTreeMap<String, PathBuf>)> {
    let folder = folder_of(path);
    let named = shown_name(Path::new(path.file_name().unwrap_or_default()));
    let mut here = folder_files(folder, 0, &mut BTreeMap::new())?;
    here.remove(&named);
    if let Some(index) = named.strip_suffix(".index.json").filter(|name| is_weights(name)) {
        let stem = index.rsplit_once('.').map_or(index, |(stem, _)| stem);
        here.retain(|name, _| part_of(name).is_some_and(|of| of.0 == stem) || tells(name));
        // An index that cannot be read is told when the checkpoint is opened.
        let of_index = super::shards::names_in_index(&Mmap::open(path, named.clone())?).unwrap_or_default();
        let shards = of_index.into_iter().filter(|name| stays_inside(name) && *name != named);
        here.extend(shards.map(|name| (name.clone(), folder.join(name))).filter(|(_, path)| path.exists()));
    } else {
        let wanted = part_of(&named);
        here.retain(|name, _| (wanted.is_some() && part_of(name) == wanted) || tells(name));
    }
    Ok((named, here))
}

/// A small file of the folder itself, other than a shard index (which would stand for files that were not named).
fn tells(name: &str) -> bool {
    !name.contains('/') && is_small(name) && !name.ends_with(".index.json")
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
