//! The files to verify: a folder or file of this machine, a snapshot in a hub's cache, or a repository on a hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::WalkDir;

use super::hash::Hash;
use super::reference::{Expected, Reference};
use crate::checkpoint::files::is_weights;
use crate::checkpoint::folder;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::fetch::Repo;
use crate::hub::{Meter, RepoFile};
use crate::ids::{Digest, GitName};
use crate::limits::{MAX_FOLDERS_DEEP, MAX_TREE_FILES};
use crate::source::{ByteSource, mmap::Mmap};

/// Where a file's bytes are.
#[derive(Clone)]
pub enum SubjectContent {
    /// On this machine.
    Here(PathBuf),
    /// On a hub, to be read by ranges.
    There(Arc<dyn ByteSource>),
    /// Nowhere: why it cannot be read.
    Unreadable(String),
    /// It was fetched and is not what its hub lists, which is why it was not kept.
    Wrong(String),
}

/// One file.
#[derive(Clone)]
pub struct SubjectFile {
    /// Its path relative to the top, with slashes.
    pub name: String,
    /// Its length, for a file on a hub as listed.
    pub bytes: u64,
    /// Its bytes.
    pub content: SubjectContent,
    /// Whether they are a cache's copy from before, found by what the hub lists: not what it would serve now.
    pub cached: bool,
}

impl SubjectFile {
    /// Whether hashing it takes no download.
    pub fn is_here(&self) -> bool {
        !matches!(self.content, SubjectContent::There(_))
    }

    /// Whether looking at its first bytes would fetch the whole of it: small files of a hub, some of which count as a
    /// download each time.
    pub fn is_costly(&self) -> bool {
        !self.is_here() && !is_weights(&self.name)
    }

    /// Its bytes, or why they cannot be had.
    pub fn source(&self) -> Result<Arc<dyn ByteSource>, String> {
        match &self.content {
            SubjectContent::Here(path) => match Mmap::open(path, self.name.clone()) {
                Ok(map) => Ok(Arc::new(map)),
                Err(error) => Err(error.one_line()),
            },
            SubjectContent::There(source) => Ok(source.clone()),
            SubjectContent::Unreadable(reason) | SubjectContent::Wrong(reason) => Err(reason.clone()),
        }
    }
}

/// The files of one folder, file or repository.
#[derive(Clone)]
pub struct Subject {
    /// How the user names it.
    pub label: String,
    /// The commit, where it is known.
    pub revision: Option<String>,
    /// Files by name.
    pub items: BTreeMap<String, SubjectFile>,
    /// Whether one file was named, so that nothing is said of others.
    pub single: bool,
}

impl Subject {
    /// A small file's bytes, whole.
    pub fn small(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let doing = || format!("reading {name} of {}", self.label);
        let item = self.items.get(name).ok_or_else(|| Error::new(ErrorKind::NotFound, doing()))?;
        if item.bytes > most {
            return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {most} bytes", doing())));
        }
        let source = item.source().map_err(|why| Error::new(ErrorKind::Io, format!("{}: {why}", doing())))?;
        if source.len() > most {
            return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {most} bytes", doing())));
        }
        source.read(0..source.len()).map(|bytes| bytes.into_owned())
    }
}

/// A folder, a file, or a repository's folder in a hub's cache; the latter with what the names of its blobs say. Hidden
/// files belong to it, what git and download tools keep for themselves does not.
pub fn local(path: &Path) -> Result<(Subject, Vec<Reference>)> {
    let doing = || format!("opening {}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(doing(), error))?;
    let label = path.display().to_string();
    if metadata.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let item = SubjectFile {
            name: name.clone(),
            bytes: metadata.len(),
            content: SubjectContent::Here(path.to_owned()),
            cached: false,
        };
        let mut cache = Reference::cache(commit_of(path.parent().unwrap_or(path)));
        if let Some(hash) = blob(path) {
            cache.expected.insert(name.clone(), vec![Expected::hash(hash)]);
        }
        let references = if cache.expected.is_empty() { Vec::new() } else { vec![cache] };
        return Ok((
            Subject { label, revision: None, items: BTreeMap::from([(name, item)]), single: true },
            references,
        ));
    }
    if !metadata.is_dir() {
        return Err(Error::new(ErrorKind::Unsupported, format!("{}: neither a folder nor a file", doing())));
    }
    let top = folder::cache_snapshot(path).unwrap_or_else(|| path.to_owned());
    let real = top.canonicalize().map_err(|error| Error::io(doing(), error))?;
    let (inside, commit) = match cache_root(&real) {
        Some((root, commit)) => (root, Some(commit)),
        None => (real.clone(), None),
    };
    let mut items = BTreeMap::new();
    let mut cache = Reference::cache(commit.clone());
    let walk = WalkDir::new(&real).max_depth(MAX_FOLDERS_DEEP + 1).sort_by_file_name().into_iter();
    for entry in walk.filter_entry(|entry| !is_tools_own(&real, entry)) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let at = error.path().unwrap_or(&real).to_owned();
                if at == real {
                    return Err(Error::because(ErrorKind::Io, doing(), error));
                }
                let name = name_in(&real, &at);
                let content = SubjectContent::Unreadable(format!("it cannot be looked into: {error}"));
                items.insert(name.clone(), SubjectFile { name, bytes: 0, content, cached: false });
                continue;
            }
        };
        let name = name_in(&real, entry.path());
        let item = if entry.file_type().is_dir() {
            if entry.depth() <= MAX_FOLDERS_DEEP {
                continue;
            }
            let what = format!("more than {MAX_FOLDERS_DEEP} folders deep; not looked into");
            SubjectFile { name: name.clone(), bytes: 0, content: SubjectContent::Unreadable(what), cached: false }
        } else {
            one(&name, entry.path(), entry.path_is_symlink(), &inside)
        };
        if let Some(hash) = blob(entry.path()).filter(|_| commit.is_some()) {
            cache.expected.insert(name.clone(), vec![Expected::hash(hash)]);
        }
        items.insert(name, item);
        if items.len() > MAX_TREE_FILES {
            return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {MAX_TREE_FILES} files", doing())));
        }
    }
    let references = if cache.expected.is_empty() { Vec::new() } else { vec![cache] };
    Ok((Subject { label, revision: commit, items, single: false }, references))
}

/// One entry that is no folder; links must end at a file inside.
fn one(name: &str, path: &Path, is_link: bool, inside: &Path) -> SubjectFile {
    let unreadable = |why: String| SubjectFile {
        name: name.to_owned(),
        bytes: 0,
        content: SubjectContent::Unreadable(why),
        cached: false,
    };
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if is_link => return unreadable(format!("a link to nothing that can be read: {error}")),
        Err(error) => return unreadable(format!("it cannot be read: {error}")),
    };
    if is_link && !real.starts_with(inside) {
        return unreadable("a link that leads out of the folder; not followed".to_owned());
    }
    match real.metadata() {
        Ok(metadata) if metadata.is_file() => SubjectFile {
            name: name.to_owned(),
            bytes: metadata.len(),
            content: SubjectContent::Here(real),
            cached: false,
        },
        Ok(metadata) if metadata.is_dir() => unreadable("a link to a folder; not followed".to_owned()),
        Ok(_) => unreadable("neither a file nor a folder".to_owned()),
        Err(error) => unreadable(format!("it cannot be read: {error}")),
    }
}

fn name_in(top: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(top).unwrap_or(path);
    match inside.to_str() {
        Some(name) => name.replace(std::path::MAIN_SEPARATOR, "/"),
        // Names that are no text must not fall together.
        None => format!("{inside:?}"),
    }
}

/// `.git`, and the notes of a download tool below `.cache/huggingface`.
fn is_tools_own(top: &Path, entry: &walkdir::DirEntry) -> bool {
    let inside = entry.path().strip_prefix(top).unwrap_or(entry.path());
    entry.depth() > 0 && (inside == Path::new(".git") || inside == Path::new(".cache/huggingface"))
}

/// The hash in the name of the blob that a link leads to: 64 digits are a SHA-256, 40 a git name.
fn blob(path: &Path) -> Option<Hash> {
    let target = std::fs::read_link(path).ok()?;
    let name = target.file_name()?.to_str()?;
    match name.len() {
        64 => name.parse::<Digest>().ok().map(Hash::from),
        _ => GitName::parse(name).map(Hash::from),
    }
}

/// The cache that a snapshot (`CACHE/models--O--N/snapshots/COMMIT`) is in, and its commit.
fn cache_root(real: &Path) -> Option<(PathBuf, String)> {
    let commit = commit_of(real)?;
    let repository = real.parent()?.parent()?;
    Some((repository.parent()?.to_owned(), commit))
}

fn commit_of(snapshot: &Path) -> Option<String> {
    let snapshots = snapshot.parent()?;
    let repository = snapshots.parent()?.file_name()?.to_str()?;
    (snapshots.file_name()? == "snapshots" && repository.starts_with("models--"))
        .then(|| snapshot.file_name()?.to_str().map(str::to_owned))
        .flatten()
}

/// A repository, with what its hub lists. Files that are on this machine are taken from there; the others are read by
/// ranges, or fetched whole where `download` says so; `fetching` is told of each such file before.
pub fn repository(
    label: &str,
    repo: &Repo,
    meter: &Arc<Meter>,
    download: bool,
    fetching: &dyn Fn(&str),
) -> Result<Subject> {
    let mut items = BTreeMap::new();
    for file in repo.files() {
        if download && repo.on_disk(file).is_none() {
            fetching(&file.path);
        }
        let cached = !repo.is_here() && repo.on_disk(file).is_some();
        let content = content(repo, file, meter, download)?;
        items.insert(file.path.clone(), SubjectFile { name: file.path.clone(), bytes: file.bytes, content, cached });
    }
    let revision = Some(repo.revision().to_string());
    Ok(Subject { label: label.to_owned(), revision, items, single: false })
}

fn content(repo: &Repo, file: &RepoFile, meter: &Arc<Meter>, download: bool) -> Result<SubjectContent> {
    if let Some(path) = repo.on_disk(file) {
        return Ok(SubjectContent::Here(path));
    }
    if !download {
        return Ok(match repo.source(file, meter) {
            Ok(source) => SubjectContent::There(source),
            Err(error) => SubjectContent::Unreadable(error.one_line()),
        });
    }
    match repo.download(file, meter) {
        Ok(path) => Ok(SubjectContent::Here(path)),
        Err(error) if error.kind == ErrorKind::Interrupted => Err(error),
        Err(error) if error.kind == ErrorKind::Moved => Ok(SubjectContent::Wrong(error.one_line())),
        Err(error) => Ok(SubjectContent::Unreadable(error.one_line())),
    }
}
