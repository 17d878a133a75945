//! What others state of files: a hub's listing, names of cached blobs, lists of checksums, model signatures.

use std::collections::BTreeMap;

use super::bundle::{self, Resource};
use super::hash::Hash;
use super::signature::{self, FileSignature, FileSignatureState, PublicKey};
use super::{CheckOutcome, Checked, FileReport, ReferenceReport, Subject, SubjectFile, manifest};
use crate::error::Result;
use crate::hub::fetch::Repo;
use crate::limits::MAX_MANIFEST_BYTES;

/// Paths that git and signing tools leave out of account, beside those that a signer names.
const NEVER_SIGNED: &[&str] = &[".git", ".gitattributes", ".github", ".gitignore"];

/// One thing that is stated of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its length.
    pub bytes: Option<u64>,
    /// Its hash.
    pub hash: Option<Hash>,
    /// The part that the hash is of; the whole file where there is none.
    pub range: Option<std::ops::Range<u64>>,
}

impl Expected {
    /// A hash of the whole file.
    pub fn hash(hash: Hash) -> Self {
        Self { hash: Some(hash), ..Self::default() }
    }

    /// As a signed resource, if it has a hash.
    pub(super) fn resource(&self) -> Option<Resource> {
        Some(Resource { range: self.range.clone(), hash: self.hash.clone()? })
    }
}

/// What one party states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// `hub`, `cache`, `manifest` or `signature`.
    pub kind: &'static str,
    /// Repository and revision, or the file that holds the statement.
    pub name: String,
    /// What is stated, by file.
    pub expected: BTreeMap<String, Vec<Expected>>,
    /// Whether it means to name every file, so that others are additions.
    pub complete: bool,
    /// Paths that may be there all the same, with what is below them.
    pub ignored: Vec<String>,
    /// Whether empty files go unnamed, as they have no parts.
    pub skips_empty: bool,
    /// What came of reading the statement itself.
    pub checks: Vec<Checked>,
    /// The signature, where there is one.
    pub signature: Option<FileSignature>,
}

impl Reference {
    /// What the names of blobs in a hub's cache say; nothing yet.
    pub(super) fn cache(commit: Option<String>) -> Self {
        let name = commit.map_or_else(|| "the cache".to_owned(), |commit| format!("the cache's blobs of {commit}"));
        Self { kind: "cache", name, ..Self::default() }
    }

    /// What a hub lists of a repository; with `offline` what a cache remembers of that, which may be only part of it.
    pub fn hub(repo: &Repo, offline: bool) -> Self {
        let files = repo.files().iter().map(|file| {
            let hash = file.sha256.map(Hash::from).or_else(|| file.git.map(Hash::from));
            (file.path.clone(), vec![Expected { bytes: Some(file.bytes), hash, range: None }])
        });
        let mut reference = Self {
            kind: if offline { "cache" } else { "hub" },
            name: format!("{}@{}", repo.id(), repo.revision()),
            expected: files.collect(),
            complete: !offline,
            ..Self::default()
        };
        if let Some(missing) = repo.incomplete() {
            reference.complete = false;
            reference.put("listed", CheckOutcome::Failed, format!("the hub's list is not whole: {missing}"));
        }
        reference
    }

    /// A file with a statement: a list of checksums, or a model signature. Errors when it is neither.
    pub fn read(name: &str, bytes: &[u8], key: Option<&PublicKey>) -> Result<Self> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Self::signed(name, bytes, key);
        }
        let base = name.rsplit(['/', std::path::MAIN_SEPARATOR]).next().unwrap_or(name);
        let list = manifest::parse(base, bytes)?;
        let files = list.entries.into_iter().map(|(file, all)| (file, all.into_iter().map(Expected::hash).collect()));
        let mut reference =
            Self { kind: "manifest", name: name.to_owned(), expected: files.collect(), ..Self::default() };
        for refused in list.refused {
            reference.put("manifest", CheckOutcome::Failed, refused);
        }
        if list.more_refused > 0 {
            let more = list.more_refused;
            reference.put("manifest", CheckOutcome::Failed, format!("{more} more lines that cannot be used"));
        }
        if reference.expected.is_empty() && reference.checks.is_empty() {
            reference.put("manifest", CheckOutcome::Failed, "it names no file".to_owned());
        }
        Ok(reference)
    }

    fn signed(name: &str, bytes: &[u8], key: Option<&PublicKey>) -> Result<Self> {
        let bundle = bundle::parse(name, bytes)?;
        let statement = bundle::statement(name, &bundle)?;
        let signature = signature::check(&bundle, key);
        let mut reference = Self {
            kind: "signature",
            name: name.to_owned(),
            complete: statement.complete,
            skips_empty: statement.sharded,
            ignored: NEVER_SIGNED.iter().map(|path| (*path).to_owned()).collect(),
            ..Self::default()
        };
        // The signature cannot sign itself.
        reference.ignored.push(name.to_owned());
        reference.ignored.extend(statement.ignored.iter().cloned());
        for (file, resources) in statement.resources {
            let expected = resources.into_iter().map(|resource| Expected {
                bytes: None,
                hash: Some(resource.hash),
                range: resource.range,
            });
            reference.expected.insert(file, expected.collect());
        }
        let outcome = match signature.state {
            FileSignatureState::Verified => CheckOutcome::Ok,
            FileSignatureState::NotChecked => CheckOutcome::NotChecked,
            FileSignatureState::Differs => CheckOutcome::Differs,
        };
        reference.put("signature", outcome, signature.because.clone());
        if let Some(root) = &statement.root {
            if root.agrees() {
                reference.put("root", CheckOutcome::Ok, format!("its files hash together to {}", root.computed));
            } else {
                let stated = root.stated.chars().take(80).collect::<String>();
                let what = format!("its files hash together to {} where sha256:{stated} is stated", root.computed);
                reference.put("root", CheckOutcome::Differs, what);
            }
        }
        for refused in statement.refused.iter().take(8) {
            reference.put("signature", CheckOutcome::Failed, refused.clone());
        }
        if statement.refused.len() > 8 {
            let more = statement.refused.len() - 8;
            reference.put("signature", CheckOutcome::Failed, format!("{more} more resources that cannot be used"));
        }
        reference.signature = Some(signature);
        Ok(reference)
    }

    /// The statement that a key was given for and that is not there.
    pub fn missing_signature() -> Self {
        let mut reference = Self { kind: "signature", name: "model.sig".to_owned(), ..Self::default() };
        reference.put(
            "signature",
            CheckOutcome::Absent,
            "a key was given, and no model signature was found".to_owned(),
        );
        reference
    }

    fn put(&mut self, check: &'static str, outcome: CheckOutcome, detail: String) {
        self.checks.push(Checked { check, outcome, against: Some(self.name.clone()), detail: Some(detail) });
    }

    /// What is stated of a file.
    pub fn of(&self, item: &SubjectFile) -> Option<&[Expected]> {
        self.expected.get(&item.name).map(Vec::as_slice)
    }

    fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|path| {
            let path = path.trim_end_matches('/');
            !path.is_empty() && (name == path || name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
        })
    }

    /// Only what is stated of one file, wherever the party keeps it.
    pub fn narrow(&mut self, name: &str) {
        let below = format!("/{name}");
        let found = self.expected.remove(name).or_else(|| {
            let mut same = self.expected.iter().filter(|(path, _)| path.ends_with(&below));
            // Two files of one name leave open which is meant.
            same.next().filter(|_| same.next().is_none()).map(|(_, expected)| expected.clone())
        });
        self.expected = found.map(|expected| (name.to_owned(), expected)).into_iter().collect();
    }

    pub(super) fn report(&self) -> ReferenceReport {
        ReferenceReport {
            kind: self.kind,
            name: self.name.clone(),
            files: self.expected.len() as u64,
            complete: self.complete,
            signature: self.signature.clone(),
        }
    }
}

/// Statements that lie beside the files: lists of checksums and model signatures in the top folder. One that cannot be
/// read is told in a statement without files.
pub fn found(subject: &Subject, key: Option<&PublicKey>) -> Vec<Reference> {
    let mut found = Vec::new();
    for name in subject.items.keys().filter(|name| !name.contains('/')) {
        let (list, signature) = (manifest::is_named_so(name), bundle::is_named_so(name));
        if !list && !signature && !name.ends_with(".sig") {
            continue;
        }
        let read = subject.small(name, MAX_MANIFEST_BYTES);
        // A detached signature of another tool may have the same ending.
        if !list && !signature && read.as_ref().is_ok_and(|bytes| !bundle::looks_like_one(name, bytes)) {
            continue;
        }
        let kind = if list { "manifest" } else { "signature" };
        let reading = |bytes: Vec<u8>| match list {
            true => Reference::read(name, &bytes, key),
            false => Reference::signed(name, &bytes, key),
        };
        found.push(read.and_then(reading).unwrap_or_else(|error| {
            let mut broken = Reference { kind, name: name.clone(), ..Reference::default() };
            broken.put(kind, CheckOutcome::Failed, error.one_line());
            broken
        }));
    }
    found
}

/// Files that are stated and not there, and files that are there and stated nowhere where all should be.
pub(super) fn listed(subject: &Subject, references: &[Reference], files: &mut BTreeMap<String, FileReport>) {
    const CHECK: &str = "listed";
    for reference in references {
        let against = Some(reference.name.clone());
        for name in reference.expected.keys().filter(|name| !subject.items.contains_key(*name)) {
            // Of a signed model nothing may be missing: without it, it is not what was signed.
            let outcome = if reference.kind == "signature" { CheckOutcome::Differs } else { CheckOutcome::Absent };
            let report = files.entry(name.clone()).or_insert_with(|| FileReport::new(name, None));
            let detail = Some("it is stated and not there".to_owned());
            report.checks.push(Checked { check: CHECK, outcome, against: against.clone(), detail });
        }
        for (name, item) in &subject.items {
            let named = reference.expected.contains_key(name);
            let Some(report) = files.get_mut(name) else { continue };
            if named {
                report.checks.push(Checked {
                    check: CHECK,
                    outcome: CheckOutcome::Ok,
                    against: against.clone(),
                    detail: None,
                });
            } else if (reference.complete || subject.single && reference.kind != "cache")
                && !reference.ignores(name)
                && !(reference.skips_empty && item.bytes == 0)
            {
                let detail = Some(format!("it is there and {} does not name it", reference.name));
                // A list of checksums of other files says nothing of this one.
                let outcome = if reference.complete { CheckOutcome::Differs } else { CheckOutcome::Absent };
                report.checks.push(Checked { check: CHECK, outcome, against: against.clone(), detail });
            }
        }
    }
}
