//! Putting repositories into records: sides, digests, file sets, and examinations that could not be made.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::files::is_worth_reading;
use crate::error::Error;
use crate::examination::{Coverage, Depth, Examination, FileDigest, Relation, SCHEMA, Side, Status, Tool, Verdict};
use crate::hub::fetch::Repo;
use crate::surroundings;

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
pub fn side_of_repo(repo: &Repo, format: Option<&str>) -> Side {
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
        revision: Some(repo.revision().to_owned()),
        digest: Side::digest_of(&files),
        files,
        format: format.map(str::to_owned),
        variant: None,
    }
}

/// A folder of this machine as one side.
pub fn side_of_path(name: &str, checkpoint: &Checkpoint) -> Side {
    let files: Vec<FileDigest> = checkpoint
        .files
        .iter()
        .map(|file| FileDigest {
            name: file.name.clone(),
            bytes: file.source.len(),
            sha256: file.sha256.map(|sha256| sha256.to_string()),
        })
        .collect();
    Side {
        source: name.to_owned(),
        revision: None,
        digest: Side::digest_of(&files),
        files,
        format: Some(checkpoint.format.to_owned()),
        variant: None,
    }
}

/// An examination with nothing in it yet: what is known before any weight is read.
pub fn blank(tool: Tool, base: Side, candidate: Side) -> Examination {
    Examination {
        schema: SCHEMA.to_owned(),
        tool,
        base,
        candidate,
        status: Status::Complete,
        reason: None,
        depth: Depth::Hashes,
        coverage: Coverage::default(),
        relation: Relation::Incomparable,
        rank: None,
        verdict: Verdict::Inconclusive,
        because: String::new(),
        orthogonalization: None,
        findings: Vec::new(),
        anomalies: Vec::new(),
        claim: None,
        profile: None,
        surroundings: Vec::new(),
        variants: Vec::new(),
    }
}

/// An examination that could not be made, with its reason: an outcome like any other, and never "clear".
pub fn failed(tool: Tool, base: Side, candidate: Side, error: &Error) -> Examination {
    let mut examination = blank(tool, base, candidate);
    examination.status = Status::Failed;
    examination.reason = Some(format!("{}: {}", error.kind.as_str(), error.one_line()));
    examination.because = "not examined".to_owned();
    examination
}
