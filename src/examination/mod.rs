//! The record of one examination: the JSON of `docs/examination.md`, and what the index stores.

pub mod surroundings;

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;

use self::surroundings::Surrounding;
use crate::checkpoint::Anomaly;
use crate::error::Error;
use crate::ids::Digest;
use crate::profile::Profile;
use crate::tensor::numbers::median;

pub use crate::checkpoint::severity::Severity;

/// The schema's name and version; a change that breaks a reader raises the number.
pub const SCHEMA: &str = "orthoscope/examination/1";

/// The tool that examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// orthoscope's version.
    pub version: String,
    /// Hash of the signature catalogue, `sha256:…`.
    pub catalogue: String,
}

/// One side of an examination.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Side {
    /// `hf:org/name`, or the path as given.
    pub source: String,
    /// The commit, where there is one.
    pub revision: Option<String>,
    /// SHA-256 over the sorted list of `digest  name` lines of the files, where all digests are known.
    pub digest: Option<String>,
    /// The files with their digests.
    #[serde(default)]
    pub files: Vec<FileDigest>,
    /// Format name (`safetensors`, `gguf`, …).
    #[serde(default)]
    pub format: Option<String>,
    /// Which of a repository's variants it is (`Q4_K_M`, `pytorch_model.bin`), inside [`Examination::variants`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Side {
    /// SHA-256 over the sorted `digest  name` lines of files, where every digest is known.
    pub fn digest_of(files: &[FileDigest]) -> Option<String> {
        let line = |file: &FileDigest| Some(format!("{}  {}\n", file.sha256.as_ref()?, file.name));
        let mut lines: Vec<String> = files.iter().map(line).collect::<Option<_>>()?;
        lines.sort();
        (!lines.is_empty()).then(|| Digest::of(lines.concat().as_bytes()).to_string())
    }
}

/// One file of a side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Name relative to the top.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// `sha256:…` where known.
    pub sha256: Option<String>,
}

/// Whether everything asked for was done. Separate from the verdict: unreadable is never clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All of it.
    Complete,
    /// Some tensors could not be examined.
    Partial,
    /// None of it.
    Failed,
}

/// How deep the examination went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// File hashes only.
    Hashes,
    /// Headers and a few rows.
    Screen,
    /// Every tensor; or, where they decide, every matrix that writes to the residual stream: the others then stand
    /// under `not_examined`.
    Full,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Tensors (experts counted apart) of the base.
    pub tensors: u64,
    /// Of them, compared.
    pub compared: u64,
    /// Of these, bit-identical.
    pub identical: u64,
    /// Bytes of weights read, both sides.
    pub bytes_read: u64,
    /// What was not compared, and why.
    pub not_examined: Vec<NotExamined>,
}

/// One tensor that was not compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NotExamined {
    /// Its name.
    pub tensor: String,
    /// Why.
    pub reason: String,
}

/// What the candidate is to the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// Same tensors, same bits, in the same weight files.
    Identical,
    /// Same tensors in other files or under other names.
    Repackaged,
    /// The base in another float dtype, proven bit for bit.
    Recast,
    /// The base through a quantiser.
    Quantized,
    /// A change of low rank in several matrices (a merged LoRA, an extracted one).
    LowRankEdit,
    /// A few tensors, or a change made from the weights themselves (rescaled, pruned, a component dropped).
    Edited,
    /// Trained further.
    FineTuned,
    /// Built from several models, where that can be told.
    Merged,
    /// An adapter file, not whole weights.
    Adapter,
    /// Same shapes, no kinship.
    Unrelated,
    /// Nothing to compare.
    Incomparable,
}

/// Every verdict.
pub const VERDICTS: [Verdict; 4] = [Verdict::Orthogonalized, Verdict::Suspect, Verdict::Clear, Verdict::Inconclusive];

/// Every status.
pub const STATUSES: [Status; 3] = [Status::Complete, Status::Partial, Status::Failed];

/// Every relation.
pub const RELATIONS: [Relation; 11] = [
    Relation::Identical,
    Relation::Repackaged,
    Relation::Recast,
    Relation::Quantized,
    Relation::LowRankEdit,
    Relation::Edited,
    Relation::FineTuned,
    Relation::Merged,
    Relation::Adapter,
    Relation::Unrelated,
    Relation::Incomparable,
];

/// What is said about orthogonalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Consistent with weight orthogonalization, and with nothing benign that is known.
    Orthogonalized,
    /// Some of the signs, not enough of them.
    Suspect,
    /// None of the signs, down to the detection limit.
    Clear,
    /// Could not be told.
    Inconclusive,
}

/// λ̂ of one module of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// The layer, from 0.
    pub layer: u32,
    /// The canonical module name.
    pub module: String,
    /// The expert, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u32>,
    /// λ̂; 0 for a writer that is bit-identical.
    pub lambda: f64,
    /// Its standard error.
    pub stderr: f64,
}

/// The evidence on orthogonalization: measured whenever writers changed, whatever the verdict.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Orthogonalization {
    /// Largest p that the calibration allows: (controls at or above this statistic + 1) / (controls + 1).
    pub p_value: f64,
    /// Median projection consistency.
    pub consistency: f64,
    /// Median share of the change that is explained.
    pub explained: f64,
    /// `raw` or `row-normalised`.
    pub coordinates: String,
    /// Directions removed together.
    pub directions: u32,
    /// `global` or `per-layer`.
    pub scope: String,
    /// Writers that fit a removal (λ above zero).
    pub tensors: u64,
    /// Layers with such a writer.
    pub layers: Vec<u32>,
    /// λ̂ per layer and module, all writers of the model.
    pub strength: Vec<Strength>,
    /// Smallest λ that would have been seen.
    pub detection_limit: f64,
    /// The recovered recipe in words, one fact a line (shape over depth, norms kept, side, families consistent with
    /// it).
    #[serde(default)]
    pub recipe: Vec<String>,
}

impl Orthogonalization {
    /// λ̂ of the writers that changed, lowest first: those that are the base's own stand in the list with 0 and have no
    /// strength.
    pub fn strengths(&self) -> Vec<f64> {
        let all = self.strength.iter().map(|one| one.lambda);
        let mut changed: Vec<f64> = all.filter(|lambda| lambda.is_finite() && *lambda != 0.0).collect();
        changed.sort_by(f64::total_cmp);
        changed
    }

    /// The strength of the whole, in one number: the median over the writers that changed; `None` where none did.
    pub fn median_strength(&self) -> Option<f64> {
        let changed = self.strengths();
        (!changed.is_empty()).then(|| median(changed))
    }
}

/// A signature that held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable id: first 12 hex digits of a hash of examination and signature.
    pub id: String,
    /// The signature's id.
    pub signature: String,
    /// The signature's hash, `sha256:…`.
    #[serde(default)]
    pub signature_hash: String,
    /// How serious.
    pub severity: Severity,
    /// Life cycle of the signature: `preview` or `stable`.
    pub status: String,
    /// Each clause that held: measurement name to value and bounds.
    pub evidence: serde_json::Value,
}

/// The words that JSON, the index, options and reports have for each value, once.
macro_rules! words {
    ($($name:ident { $($variant:ident = $word:literal,)* })*) => {
        $(impl $name {
            /// The word, the same in JSON, in the index and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        })*

        #[cfg(test)]
        #[test]
        fn every_word_is_that_of_json() {
            $($(assert_eq!(serde_json::json!($name::$variant), $word);)*)*
        }
    };
}

words! {
    Status { Complete = "complete", Partial = "partial", Failed = "failed", }
    Depth { Hashes = "hashes", Screen = "screen", Full = "full", }
    Relation { Identical = "identical", Repackaged = "repackaged", Recast = "recast", Quantized = "quantized", LowRankEdit = "low-rank-edit", Edited = "edited", FineTuned = "fine-tuned", Merged = "merged", Adapter = "adapter", Unrelated = "unrelated", Incomparable = "incomparable", }
    Verdict { Orthogonalized = "orthogonalized", Suspect = "suspect", Clear = "clear", Inconclusive = "inconclusive", }
    Severity { Info = "info", Low = "low", Medium = "medium", High = "high", }
}

/// What the publisher says the candidate derives from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Claim {
    /// The claimed base, if any.
    pub base: Option<String>,
    /// The claimed relation, if any (`finetune`, `quantized`, `adapter`, `merge`).
    pub relation: Option<String>,
    /// All evidence, strongest first.
    pub evidence: Vec<ClaimEvidence>,
    /// Whether the weights bear the claim out; `None` when there is no claim or it could not be told.
    pub holds: Option<bool>,
}

/// One piece of evidence on lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimEvidence {
    /// Where it stands: `card.base_model`, `config._name_or_path`, `adapter_config`, `gguf.general.base_model`, …
    pub from: String,
    /// What it says.
    pub says: String,
}

/// One examination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// [`SCHEMA`].
    pub schema: String,
    /// Who examined.
    pub tool: Tool,
    /// The base.
    pub base: Side,
    /// The candidate.
    pub candidate: Side,
    /// Whether all was done.
    pub status: Status,
    /// Why not, where not; in a failed examination the outcome.
    pub reason: Option<String>,
    /// How deep.
    pub depth: Depth,
    /// What was looked at.
    pub coverage: Coverage,
    /// What the candidate is to the base.
    pub relation: Relation,
    /// Rank of a low-rank edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// What is said about orthogonalization.
    pub verdict: Verdict,
    /// One sentence: why, and how sure.
    #[serde(default)]
    pub because: String,
    /// The evidence.
    pub orthogonalization: Option<Orthogonalization>,
    /// Signatures that held.
    pub findings: Vec<Finding>,
    /// Oddities of the files.
    pub anomalies: Vec<Anomaly>,
    /// What the publisher says.
    pub claim: Option<Claim>,
    /// What a loader takes beside the weights, held against the base's; empty where it was not compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub surroundings: Vec<Surrounding>,
    /// All measurements; left out of short JSON, always in the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Where a repository holds several checkpoints (formats, quantisations, adapters): the examination of each, in the
    /// order they were looked at. Everything above is then of the one that decides, beside what
    /// [`crate::judge::combine`] says of all. Empty for a single checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Examination>,
}

impl Examination {
    /// An examination with nothing in it yet: what is known before any weight is read. The judge puts the catalogue in.
    pub fn blank(base: Side, candidate: Side) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            tool: Tool { version: env!("CARGO_PKG_VERSION").to_owned(), catalogue: String::new() },
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
    pub fn failed(base: Side, candidate: Side, error: &Error) -> Self {
        Self {
            status: Status::Failed,
            reason: Some(error.reason()),
            because: "the weights could not be examined, so nothing is said about them".to_owned(),
            ..Self::blank(base, candidate)
        }
    }
}

/// What an examination's id is made of: what was looked at and measured, and nothing that was judged from it or that
/// another run of the same would change.
#[derive(Serialize)]
struct Measured<'a> {
    schema: &'a str,
    tool_version: &'a str,
    base: &'a Side,
    candidate: &'a Side,
    status: Status,
    reason: &'a Option<String>,
    depth: Depth,
    tensors: u64,
    compared: u64,
    identical: u64,
    not_examined: &'a [NotExamined],
    anomalies: &'a [Anomaly],
    claim: Option<(&'a Option<String>, &'a Option<String>, &'a [ClaimEvidence])>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    surroundings: &'a [Surrounding],
    profile: &'a Option<Profile>,
}

/// Compact JSON with one spelling of zero.
struct OneZero;

impl Formatter for OneZero {
    fn write_f64<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_f64(writer, if value == 0.0 { 0.0 } else { value })
    }
}

/// Compact JSON that is the same for equal values: negative zero is written as zero.
pub(crate) fn canonical_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    // Plain structs with string keys, written to memory: this cannot fail.
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, OneZero));
    debug_assert!(written.is_ok(), "plain data");
    json
}

impl Examination {
    /// The examination's id: SHA-256 over the JSON of what was examined and measured. The same files measured again
    /// have the same id, and judging again does not change it: bytes read, the catalogue, the relation, the verdict,
    /// the findings and whether the claim holds are left out. Of several variants it is made of theirs, as judging may
    /// change which of them decides.
    pub fn id(&self) -> Digest {
        if !self.variants.is_empty() {
            let ids: Vec<String> = self.variants.iter().map(|variant| variant.id().hex()).collect();
            return Digest::of(&canonical_json(&(&self.schema, &self.base, &self.candidate, ids)));
        }
        let measured = Measured {
            schema: &self.schema,
            tool_version: &self.tool.version,
            base: &self.base,
            candidate: &self.candidate,
            status: self.status,
            reason: &self.reason,
            depth: self.depth,
            tensors: self.coverage.tensors,
            compared: self.coverage.compared,
            identical: self.coverage.identical,
            not_examined: &self.coverage.not_examined,
            anomalies: &self.anomalies,
            claim: self.claim.as_ref().map(|claim| (&claim.base, &claim.relation, claim.evidence.as_slice())),
            surroundings: &self.surroundings,
            profile: &self.profile,
        };
        Digest::of(&canonical_json(&measured))
    }
}
