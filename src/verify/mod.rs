//! Whether files are what somebody says they are: sizes and hashes against a hub, a list of checksums or a model
//! signature, names against first bytes, headers against themselves. No base is needed and no weight is interpreted.
//!
//! A [`Subject`] is the files; a [`Reference`] is what one party states of them; every [`Check`] of [`CHECKS`] looks at
//! one file with what is stated of it. What concerns several files (missing and added ones, shard indexes, signatures)
//! comes after. A file whose contents were not hashed is never called equal to anything.

pub mod bundle;
mod contents;
pub mod files;
pub mod hash;
mod header;
pub mod magic;
pub mod manifest;
pub mod reference;
mod shards;
pub mod signature;
mod size;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use crate::checkpoint::Anomaly;
use crate::examination::Severity;
use crate::ids::Digest;
use crate::report::words;
use crate::source::ByteSource;

pub use files::{Subject, SubjectContent, SubjectFile};
pub use reference::{Expected, Reference};

/// The schema's name and version; a change that breaks a reader raises the number.
pub const SCHEMA: &str = "orthoscope/verification/1";

/// What came of one check, by gravity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// There was nothing to check.
    NotApplicable,
    /// It agrees.
    Ok,
    /// Left out, as nobody asked for what it takes (downloading, a key).
    NotChecked,
    /// The file is stated somewhere and is not there.
    Absent,
    /// It could not be checked.
    Failed,
    /// It does not agree.
    Differs,
}

impl CheckOutcome {
    /// Words for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotApplicable => "-",
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Differs => "differs",
        }
    }
}

/// One check with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The check: `listed`, `size`, `digest`, `magic`, `header`; of the whole also `manifest`, `signature`, `index`.
    pub check: &'static str,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// What the file was held against, where that was somebody's statement.
    pub against: Option<String>,
    /// One sentence, where there is more to say.
    pub detail: Option<String>,
}

/// An oddity of a file with its weight here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GradedOddity {
    /// How grave; `high` makes the whole differ.
    pub severity: Severity,
    /// The oddity.
    #[serde(flatten)]
    pub anomaly: Anomaly,
}

/// One file with everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its path relative to the top.
    pub name: String,
    /// Its length; none where it is not there.
    pub bytes: Option<u64>,
    /// What its first bytes say it is, where they were read.
    pub kind: Option<String>,
    /// The SHA-256 of its contents, where it was computed.
    pub sha256: Option<Digest>,
    /// The checks.
    pub checks: Vec<Checked>,
    /// Oddities of its header.
    pub oddities: Vec<GradedOddity>,
}

impl FileReport {
    fn new(name: &str, bytes: Option<u64>) -> Self {
        Self { name: name.to_owned(), bytes, kind: None, sha256: None, checks: Vec::new(), oddities: Vec::new() }
    }

    /// The gravest outcome of this check.
    pub fn outcome(&self, check: &str) -> CheckOutcome {
        let of = self.checks.iter().filter(|checked| checked.check == check);
        of.map(|checked| checked.outcome).max().unwrap_or(CheckOutcome::NotApplicable)
    }

    /// The gravest outcome of all checks.
    pub fn gravest(&self) -> CheckOutcome {
        let worst = self.checks.iter().map(|checked| checked.outcome).max().unwrap_or(CheckOutcome::NotApplicable);
        if is_grave(&self.oddities) { CheckOutcome::Differs } else { worst }
    }
}

fn is_grave(oddities: &[GradedOddity]) -> bool {
    oddities.iter().any(|oddity| oddity.severity >= Severity::High)
}

/// One party's statement as it was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferenceReport {
    /// `hub`, `cache`, `manifest` or `signature`.
    pub kind: &'static str,
    /// Repository and revision, or the file that holds the statement.
    pub name: String,
    /// Files it speaks of.
    pub files: u64,
    /// Whether it means to name every file, so that others are additions.
    pub complete: bool,
    /// The signature, where there is one.
    pub signature: Option<signature::FileSignature>,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifiedEnding {
    /// Every content that somebody states a hash of was hashed, and all agrees.
    Agrees,
    /// What was looked at agrees; contents were not hashed, as nobody asked for that or nobody states hashes of them.
    NotHashed,
    /// Something differs, or is grave.
    Differs,
    /// Something could not be checked, or is absent.
    Incomplete,
}

/// How many files came out how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerifiedCounts {
    /// Files that are there.
    pub files: u64,
    /// Of these, files whose contents were hashed and agree with every statement.
    pub hashed: u64,
    /// Of these, files that a cache had a copy of, so that the copy was hashed and not what the hub serves now.
    pub cached: u64,
    /// Files that are stated, with a hash, and were not hashed.
    pub not_hashed: u64,
    /// Files of which nobody states a hash.
    pub unstated: u64,
    /// Files that differ or are grave.
    pub differ: u64,
    /// Files that could not be checked.
    pub failed: u64,
    /// Files that are stated and not there.
    pub absent: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The version that found it.
    pub version: &'static str,
    /// The folder, file or repository.
    pub source: String,
    /// The commit, where it is known.
    pub revision: Option<String>,
    /// How it ends.
    pub result: VerifiedEnding,
    /// The same in one sentence.
    pub because: String,
    /// The number of files.
    pub counts: VerifiedCounts,
    /// What the files were held against.
    pub references: Vec<ReferenceReport>,
    /// Files, by name.
    pub files: Vec<FileReport>,
    /// Checks of the whole.
    pub checks: Vec<Checked>,
    /// Oddities that concern several files.
    pub oddities: Vec<GradedOddity>,
}

/// Watches progress, from any thread.
pub trait Watch: Sync {
    /// So many more bytes were hashed.
    fn hashed(&self, _bytes: u64) {}
    /// So many bytes are to be hashed in all.
    fn expect(&self, _bytes: u64) {}
}

/// Nobody watches.
pub struct Unwatched;

impl Watch for Unwatched {}

/// One look at one file.
pub struct Look<'a> {
    /// The file.
    pub item: &'a SubjectFile,
    /// What is stated of it, and by whom.
    pub expected: Vec<(&'a Reference, &'a [Expected])>,
    /// What it is, once that was looked at.
    pub kind: Option<magic::ContentKind>,
    /// What is found.
    pub report: FileReport,
    source: Result<Arc<dyn ByteSource>, String>,
    first: Option<Result<Vec<u8>, String>>,
    moved: bool,
    watch: &'a dyn Watch,
}

impl<'a> Look<'a> {
    fn new(item: &'a SubjectFile, references: &'a [Reference], watch: &'a dyn Watch) -> Self {
        let expected = references.iter().filter_map(|reference| Some((reference, reference.of(item)?))).collect();
        Self {
            item,
            expected,
            kind: None,
            report: FileReport::new(&item.name, Some(item.bytes)),
            source: item.source(),
            first: None,
            moved: false,
            watch,
        }
    }

    /// Its length as it is now, which for a remote file is the listed one.
    fn length(&self) -> u64 {
        self.source.as_ref().map_or(self.item.bytes, |source| source.len())
    }

    /// Its bytes, or why they cannot be had.
    fn source(&self) -> Result<&Arc<dyn ByteSource>, String> {
        self.source.as_ref().map_err(Clone::clone)
    }

    /// What to call a check that cannot be made for want of bytes. Content that was fetched and thrown away as wrong is
    /// told once, by its hash.
    fn unread(&self) -> CheckOutcome {
        if matches!(self.item.content, SubjectContent::Wrong(_)) {
            CheckOutcome::NotChecked
        } else {
            CheckOutcome::Failed
        }
    }

    /// Its first bytes, read once.
    fn first(&mut self) -> Result<Vec<u8>, String> {
        if let Some(first) = &self.first {
            return first.clone();
        }
        let first = match &self.source {
            Ok(source) => {
                source.read(0..source.len().min(magic::FIRST)).map(|bytes| bytes.into_owned()).map_err(|error| {
                    self.moved = error.kind == crate::error::ErrorKind::Moved;
                    error.one_line()
                })
            }
            Err(reason) => Err(reason.clone()),
        };
        self.first = Some(first.clone());
        first
    }

    fn put(&mut self, check: &'static str, outcome: CheckOutcome, against: Option<String>, detail: Option<String>) {
        self.report.checks.push(Checked { check, outcome, against, detail });
    }
}

/// One kind of check of a single file.
pub trait Check: Sync {
    /// Its name in records.
    fn name(&self) -> &'static str;

    /// Looks, and puts what it finds into the report.
    fn run(&self, look: &mut Look<'_>);
}

/// Every check of a file, in this order. A new one is a file of this folder and a line here.
pub static CHECKS: &[&dyn Check] =
    &[&size::SizeCheck, &magic::MagicCheck, &contents::ContentsCheck, &header::HeaderCheck];

/// Checks all files against everything that is stated of them. Never fails: what cannot be checked is an outcome.
pub fn verify(subject: &Subject, references: &[Reference], watch: &dyn Watch) -> Verification {
    let hashed = |item: &&SubjectFile| {
        item.is_here() && references.iter().any(|r| r.of(item).is_some_and(|all| all.iter().any(|e| e.hash.is_some())))
    };
    let bytes = subject.items.values().filter(hashed).fold(0u64, |sum, item| sum.saturating_add(item.bytes));
    watch.expect(bytes);
    let mut files: BTreeMap<String, FileReport> = subject
        .items
        .par_iter()
        .map(|(name, item)| {
            let mut look = Look::new(item, references, watch);
            CHECKS.iter().for_each(|check| check.run(&mut look));
            (name.clone(), look.report)
        })
        .collect();
    reference::listed(subject, references, &mut files);
    let (mut checks, oddities) = shards::check(subject, &files);
    for reference in references {
        checks.extend(reference.checks.iter().cloned());
    }
    let files: Vec<FileReport> = files.into_values().collect();
    let counts = count(&files, subject);
    let (result, because) = end(&counts, &files, &checks, &oddities, references);
    Verification {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        source: subject.label.clone(),
        revision: subject.revision.clone(),
        result,
        because,
        counts,
        references: references.iter().map(Reference::report).collect(),
        files,
        checks,
        oddities,
    }
}

fn count(files: &[FileReport], subject: &Subject) -> VerifiedCounts {
    let mut counts = VerifiedCounts::default();
    for file in files {
        counts.files += u64::from(file.bytes.is_some());
        match file.gravest() {
            CheckOutcome::Differs => counts.differ += 1,
            CheckOutcome::Failed => counts.failed += 1,
            CheckOutcome::Absent => counts.absent += 1,
            _ => {}
        }
        match file.outcome("digest") {
            CheckOutcome::Ok => {
                counts.hashed += 1;
                counts.cached += u64::from(subject.items.get(&file.name).is_some_and(|item| item.cached));
            }
            CheckOutcome::NotChecked => counts.not_hashed += 1,
            CheckOutcome::NotApplicable if file.bytes.is_some() => counts.unstated += 1,
            _ => {}
        }
    }
    counts
}

/// How it ends, and a sentence that claims no more than was done.
fn end(
    counts: &VerifiedCounts,
    files: &[FileReport],
    checks: &[Checked],
    oddities: &[GradedOddity],
    references: &[Reference],
) -> (VerifiedEnding, String) {
    let whole = |outcome: CheckOutcome| checks.iter().any(|checked| checked.outcome == outcome);
    let several = |number: u64| words::count(number, "file", "files");
    let mut sentences = Vec::new();
    let code = files.iter().filter(|file| file.oddities.iter().any(header::runs_code)).count() as u64;
    if code > 0 {
        sentences.push(format!("{} would run code on loading", several(code)));
    }
    let differ = counts.differ.saturating_sub(code);
    if differ > 0 {
        let verb = if differ == 1 { "is not what it should be" } else { "are not what they should be" };
        sentences.push(format!("{} {verb}", several(differ)));
    }
    if whole(CheckOutcome::Differs) || is_grave(oddities) {
        sentences.push("what concerns the whole does not agree".to_owned());
    }
    let differs = !sentences.is_empty();
    if counts.absent > 0 {
        sentences.push(format!("{} stated and not there", several(counts.absent)));
    }
    if counts.failed > 0 {
        sentences.push(format!("{} could not be checked", several(counts.failed)));
    }
    if whole(CheckOutcome::Failed) || whole(CheckOutcome::Absent) {
        sentences.push("not everything that was stated could be used".to_owned());
    }
    let incomplete = !differs && !sentences.is_empty();
    if counts.hashed > 0 {
        let verb = if counts.hashed == 1 { "has the contents" } else { "have the contents" };
        let cached = match counts.cached {
            0 => String::new(),
            of => format!(" ({of} by the copy in a cache, not by what the hub serves now)"),
        };
        sentences.push(format!("{} {verb} stated{cached}", several(counts.hashed)));
    }
    if counts.not_hashed > 0 {
        sentences.push(format!("contents of {} not hashed (--download hashes them)", several(counts.not_hashed)));
    }
    if counts.hashed == 0 && counts.not_hashed == 0 && counts.files > 0 {
        sentences.push("contents were compared with nothing, as nobody states hashes of them".to_owned());
    } else if counts.unstated > 0 {
        sentences.push(format!("nobody states a hash of {}", several(counts.unstated)));
    }
    let unchecked = |reference: &Reference| {
        reference
            .signature
            .as_ref()
            .is_some_and(|signature| signature.state == signature::FileSignatureState::NotChecked)
    };
    if references.iter().any(unchecked) {
        sentences.push("who signed was not checked".to_owned());
    }
    let ending = match (differs, incomplete) {
        (true, _) => VerifiedEnding::Differs,
        (_, true) => VerifiedEnding::Incomplete,
        _ if counts.not_hashed == 0 && counts.hashed > 0 => VerifiedEnding::Agrees,
        _ => VerifiedEnding::NotHashed,
    };
    let mut sentence = sentences.join("; ");
    if let Some(first) = sentence.get(..1) {
        let upper = first.to_ascii_uppercase();
        sentence.replace_range(..1, &upper);
    }
    if sentence.is_empty() {
        "There are no files.".clone_into(&mut sentence);
        return (VerifiedEnding::Incomplete, sentence);
    }
    sentence.push('.');
    (ending, sentence)
}
