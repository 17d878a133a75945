//! The two sides of a record: how they are named, their files and digests.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::files::is_worth_reading;
use crate::error::Result;
use crate::examination::surroundings;
use crate::examination::{FileDigest, Side};
use crate::hub::fetch::Repo;
use crate::source;

/// Whether a format reader may want a file.
pub fn is_wanted(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    // Vocabularies are large and say nothing of weights.
    is_worth_reading(path)
        || (name.ends_with(".json") && !name.starts_with("tokenizer") && !name.starts_with("vocab"))
        || surroundings::is_read(path)
}

/// What the hub calls the contents of a repository's files: the git name where it tells one, else the SHA-256.
pub fn contents_of(repo: &Repo) -> BTreeMap<String, String> {
    let named = repo.files().iter().filter_map(|file| {
        let git = file.git.map(|git| format!("git:{}", hex::encode(git.0)));
        Some((file.path.clone(), git.or_else(|| file.sha256.map(|sha256| sha256.to_string()))?))
    });
    named.collect()
}

/// A repository as one side of an examination: its weight files, and their digest where the hub tells all of theirs.
pub fn of_repository(repo: &Repo, format: Option<&str>) -> Side {
    let files: Vec<FileDigest> = repo
        .files()
        .iter()
        .filter(|file| is_worth_reading(&file.path))
        .map(|file| FileDigest {
            name: file.path.clone(),
            bytes: file.bytes,
            sha256: file.sha256.map(|sha256| sha256.to_string()),
        })
        .collect();
    Side {
        source: repo.id().to_string(),
        revision: Some(repo.revision().to_string()),
        digest: Side::digest_of(&files),
        files,
        format: format.map(str::to_owned),
        variant: None,
    }
}

/// How the two sides are named in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `hf:org/name` or a path.
    pub source: String,
    /// The commit, where there is one.
    pub revision: Option<String>,
}

impl Named {
    /// As a side of which no file is known.
    pub fn side(&self) -> Side {
        Side { source: self.source.clone(), revision: self.revision.clone(), ..Side::default() }
    }

    /// A local path.
    pub fn local(path: impl Into<String>) -> Self {
        Self { source: path.into(), revision: None }
    }
}

/// One side of the record. Digests that are not known are computed when asked for, a file a thread.
pub fn of_checkpoint(checkpoint: &Checkpoint, named: &Named, digests: bool) -> Result<Side> {
    let files: Vec<FileDigest> = checkpoint
        .files
        .par_iter()
        .map(|file| {
            let sha256 = match file.sha256 {
                Some(known) => Some(known),
                None if digests => Some(source::hash::sha256(file.source.as_ref())?),
                None => None,
            };
            Ok(FileDigest {
                name: file.name.clone(),
                bytes: file.source.len(),
                sha256: sha256.map(|digest| digest.to_string()),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Side {
        source: named.source.clone(),
        revision: named.revision.clone(),
        digest: Side::digest_of(&files),
        files,
        format: Some(checkpoint.format.to_owned()),
        variant: None,
    })
}
