//! An existing Hugging Face cache, read and never written.
//!
//! Layout (the client's `constants.py` and its `trees/` files): `models--ORG--NAME/snapshots/COMMIT/PATH` is a link to
//! `../../blobs/HASH`, which may itself be a link into the store that all repositories share; `refs/main` holds a
//! commit; `trees/COMMIT.json` lists sizes and SHA-256.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Environment, RepoFile, is_plain_path, text};
use crate::ids::{Digest, GitName};
use crate::limits;

/// One repository's part of the cache.
pub struct CachedRepo {
    root: PathBuf,
    folder: PathBuf,
}

impl CachedRepo {
    /// The folder of `org/name`, if the cache has one.
    pub fn find(environment: &Environment, name: &str) -> Option<Self> {
        if !is_plain_path(name) {
            return None;
        }
        let root = environment.hf_cache().canonicalize().ok()?;
        let folder = root.join(format!("models--{}", name.replace('/', "--")));
        folder.is_dir().then_some(Self { root, folder })
    }

    /// The commit of a branch, as last seen.
    pub fn commit(&self, branch: &str) -> Option<String> {
        if !is_plain_path(branch) {
            return None;
        }
        let commit = std::fs::read_to_string(self.folder.join("refs").join(branch)).ok()?;
        let commit = commit.trim();
        (commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit())).then(|| commit.to_owned())
    }

    /// The file of a snapshot, when it is there with the stated length and stays inside the cache after its links.
    pub fn file(&self, commit: &str, path: &str, bytes: Option<u64>) -> Option<PathBuf> {
        if !is_plain_path(commit) || !is_plain_path(path) {
            return None;
        }
        self.real(&self.folder.join("snapshots").join(commit).join(path), bytes)
    }

    /// The file with this content, whichever snapshot it belongs to.
    pub fn blob(&self, sha256: &Digest, bytes: u64) -> Option<PathBuf> {
        self.real(&self.folder.join("blobs").join(sha256.hex()), Some(bytes))
    }

    fn real(&self, path: &Path, bytes: Option<u64>) -> Option<PathBuf> {
        let real = path.canonicalize().ok()?;
        let metadata = real.metadata().ok()?;
        let right = metadata.is_file() && real.starts_with(&self.root);
        (right && bytes.is_none_or(|bytes| bytes == metadata.len())).then_some(real)
    }

    /// The files of a commit: as the client listed them, else those whose bytes are here.
    pub fn tree(&self, commit: &str) -> Option<Vec<RepoFile>> {
        if !is_plain_path(commit) {
            return None;
        }
        self.listed(commit).or_else(|| self.present(commit))
    }

    fn listed(&self, commit: &str) -> Option<Vec<RepoFile>> {
        let path = self.folder.join("trees").join(format!("{commit}.json"));
        if path.metadata().ok()?.len() > limits::MAX_JSON_BYTES {
            return None;
        }
        let value: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        if value.get("format_version").and_then(Value::as_u64) != Some(1) {
            return None;
        }
        let files = value.get("files")?.as_object()?;
        Some(
            files
                .iter()
                .filter(|(path, _)| is_plain_path(path))
                .filter_map(|(path, facts)| {
                    let size = |key: &str| facts.get(key).and_then(Value::as_u64);
                    let sha256 = text(facts, "lfs_sha256").and_then(|sha| sha.parse().ok());
                    let bytes = size("lfs_size").or_else(|| size("size"))?;
                    Some(RepoFile { path: path.clone(), bytes, large: sha256.is_some(), sha256, git: None })
                })
                .collect(),
        )
    }

    fn present(&self, commit: &str) -> Option<Vec<RepoFile>> {
        let snapshot = self.folder.join("snapshots").join(commit);
        let mut files = Vec::new();
        for entry in walkdir::WalkDir::new(&snapshot).max_depth(8).sort_by_file_name().into_iter().flatten() {
            let Some(path) = entry.path().strip_prefix(&snapshot).ok().and_then(Path::to_str) else { continue };
            let Some(real) = self.file(commit, path, None) else { continue };
            let bytes = real.metadata().ok()?.len();
            // The blob's name is its hash: SHA-256 for large files, a git object name (40 digits) for small ones.
            let link = std::fs::read_link(entry.path()).ok();
            let blob = link.as_ref().and_then(|link| link.file_name()?.to_str());
            let sha256: Option<Digest> = blob.and_then(|blob| blob.parse().ok());
            let git = blob.and_then(GitName::parse);
            files.push(RepoFile { path: path.to_owned(), bytes, large: sha256.is_some(), sha256, git });
        }
        (!files.is_empty()).then_some(files)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn two_links_are_followed_and_none_leaves_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("hub");
        let repo = root.join("models--org--name");
        let commit = "0123456789012345678901234567890123456789";
        for made in ["blobs", "refs", "snapshots/0123456789012345678901234567890123456789", "trees"] {
            std::fs::create_dir_all(repo.join(made)).unwrap();
        }
        std::fs::create_dir_all(root.join("blobs/ab")).unwrap();
        std::fs::write(root.join("blobs/ab/xet"), b"weights").unwrap();
        let sha = Digest::of(b"weights");
        symlink("../../blobs/ab/xet", repo.join("blobs").join(sha.hex())).unwrap();
        let snapshot = repo.join("snapshots").join(commit);
        symlink(format!("../../blobs/{}", sha.hex()), snapshot.join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("secret"), b"secret").unwrap();
        symlink(folder.path().join("secret"), snapshot.join("out")).unwrap();
        std::fs::write(repo.join("refs/main"), commit).unwrap();

        let environment = Environment::empty().with("HF_HUB_CACHE", root.to_str().unwrap());
        let cached = CachedRepo::find(&environment, "org/name").unwrap();
        assert_eq!(cached.commit("main").as_deref(), Some(commit));
        let path = cached.file(commit, "model.safetensors", Some(7)).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"weights");
        assert!(cached.file(commit, "model.safetensors", Some(8)).is_none());
        assert!(cached.file(commit, "out", None).is_none());
        assert!(cached.file(commit, "../x", None).is_none());
        assert!(cached.blob(&sha, 7).is_some());
        let tree = cached.tree(commit).unwrap();
        assert_eq!((tree.len(), tree[0].sha256), (1, Some(sha)));

        let listed = format!(
            r#"{{"format_version":1,"files":{{"a/b":{{"size":3}},"../z":{{"size":1}},
            "w":{{"size":130,"lfs_size":9,"lfs_sha256":"{}"}}}}}}"#,
            sha.hex()
        );
        std::fs::write(repo.join(format!("trees/{commit}.json")), listed).unwrap();
        let tree = cached.tree(commit).unwrap();
        assert_eq!(tree.iter().map(|f| (f.path.as_str(), f.bytes)).collect::<Vec<_>>(), [("a/b", 3), ("w", 9)]);
        assert!(CachedRepo::find(&environment, "org/other").is_none());
    }
}
