//! One examination, from two opened checkpoints to its record: pair, diff, judge.
//!
//! This file is the map of the program. Nothing here measures or decides; each line hands a value to the next stage.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::prelude::*;

use crate::account::{Account, withhold};
use crate::arch::Kind;
use crate::checkpoint::adapter::Adapter;
use crate::checkpoint::anomaly::CODE_ON_LOAD;
use crate::checkpoint::{Anomaly, Checkpoint};
use crate::combine;
use crate::diff::{self, Observer};
use crate::error::{Error, ErrorKind, Result, panic_text};
use crate::examination::{
    Claim, Coverage, Depth, Examination, FileDigest, Finding, Relation, SCHEMA, Side, Status, Tool, Verdict,
};
use crate::overlay;
use crate::pair;
use crate::relation::{self, relation};
use crate::signature::{Catalogue, Family};
use crate::source;
use crate::verdict;

/// Imports that a finding names; the anomalies have all.
const IMPORTS_NAMED: usize = 16;

/// What an examination needs beside the two checkpoints.
pub struct Settings<'a> {
    /// The signatures.
    pub catalogue: &'a Catalogue,
    /// Whether to hash files whose SHA-256 is not known.
    pub digests: bool,
    /// What the publisher says, where that was looked up.
    pub claim: Option<Claim>,
    /// Watches progress.
    pub observer: &'a dyn Observer,
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
    /// A local path.
    pub fn local(path: impl Into<String>) -> Self {
        Self { source: path.into(), revision: None }
    }
}

/// Compares two opened checkpoints in full. A panic on the way is caught and becomes the outcome of this pair alone.
pub fn compare(
    (base, base_name): (&Checkpoint, &Named),
    (candidate, candidate_name): (&Checkpoint, &Named),
    settings: &Settings<'_>,
) -> Examination {
    let compared = catch_unwind(AssertUnwindSafe(|| examine((base, base_name), (candidate, candidate_name), settings)));
    let error = match compared {
        Ok(Ok(examination)) => return examination,
        Ok(Err(error)) => error,
        Err(panic) => Error::new(ErrorKind::Internal, format!("a defect of orthoscope: {}", panic_text(&*panic))),
    };
    failed(base_name, candidate_name, &error, settings)
}

/// The same without the fence: what cannot be examined comes back as an error.
pub fn examine(
    (base, base_name): (&Checkpoint, &Named),
    (candidate, candidate_name): (&Checkpoint, &Named),
    settings: &Settings<'_>,
) -> Result<Examination> {
    // An adapter is judged as the weights it makes of the base, computed row by row as they are read.
    let settled = overlay::settle(base, candidate)?;
    let is_adapter = Adapter::of(candidate)?.is_some();
    let published = candidate;
    let candidate = settled.as_ref().unwrap_or(candidate);
    let pairing = pair::pair(base, candidate);
    let measured = diff::measure(base, candidate, &pairing, settings.observer)?;
    let mut profile = diff::summary::summarize(&pairing, &measured).profile;
    layout(&mut profile.model, base, candidate);
    let (relation, rank) = relation(base, candidate, &pairing, &profile, is_adapter);
    let mut account = Account::of_pairing(&pairing);
    measured.not_examined.iter().for_each(|left| account.unpaired(left, left.reason.clone()));
    let coverage = Coverage {
        tensors: (pairing.pairs.len() + pairing.only_base.len()) as u64,
        compared: profile.tensors.len() as u64,
        identical: profile.tensors.iter().filter(|tensor| tensor.sameness == diff::stats::Sameness::Identical).count()
            as u64,
        bytes_read: measured.bytes_read,
        not_examined: Vec::new(),
    };
    let (status, reason) = match coverage.compared {
        0 => (Status::Failed, Some("no tensor could be compared".to_owned())),
        _ => (Status::Complete, None),
    };
    let writers = profile.tensors.iter().filter(|tensor| tensor.role.kind == Kind::Writer).count();
    if writers == 0 && coverage.compared > coverage.identical {
        account.gap("*", "no matrix that writes to the residual stream was compared");
    }
    let mut anomalies: Vec<Anomaly> = base.anomalies.iter().chain(&candidate.anomalies).cloned().collect();
    anomalies.sort();
    let mut examination = Examination {
        schema: SCHEMA.to_owned(),
        tool: tool(settings.catalogue),
        base: side(base, base_name, settings.digests)?,
        candidate: side(published, candidate_name, settings.digests)?,
        status,
        reason,
        depth: Depth::Full,
        coverage,
        relation,
        rank,
        verdict: Verdict::Inconclusive,
        because: String::new(),
        orthogonalization: None,
        findings: Vec::new(),
        anomalies,
        claim: settings.claim.clone(),
        profile: Some(profile),
        surroundings: Vec::new(),
        variants: Vec::new(),
    };
    account.enter(&mut examination);
    judge(&mut examination, settings.catalogue);
    Ok(examination)
}

/// Judges, or judges again, an examination by its stored profile; one of several variants by theirs.
pub fn judge(examination: &mut Examination, catalogue: &Catalogue) {
    examination.tool = tool(catalogue);
    if !examination.variants.is_empty() {
        examination.variants.iter_mut().for_each(|variant| judge(variant, catalogue));
        combine::decide(examination);
        return;
    }
    note_code(examination);
    let holds = relation::bears_out(examination);
    if let Some(claim) = &mut examination.claim {
        claim.holds = holds;
    }
    let key = examination.id();
    let Some(profile) = examination.profile.take() else { return withhold(examination) };
    let conclusion = verdict::conclude(catalogue, &profile, examination.relation, &key);
    // A screen decides by itself, from rows; the catalogue adds its findings.
    if examination.depth == Depth::Full {
        examination.verdict = conclusion.verdict;
        examination.because = conclusion.because;
        examination.orthogonalization = conclusion.orthogonalization;
    }
    withhold(examination);
    examination.findings = conclusion.findings;
    name_imports(&mut examination.findings, &examination.anomalies, catalogue);
    examination.profile = Some(profile);
}

/// Code that would run on loading is a measurement of its own, also where nothing else could be measured.
fn note_code(examination: &mut Examination) {
    let imports = examination.anomalies.iter().filter(|anomaly| anomaly.is(CODE_ON_LOAD)).count();
    if imports > 0 {
        let profile = examination.profile.get_or_insert_default();
        profile.model.insert("code.on_load".to_owned(), imports as f64);
    }
}

/// Puts the imports, with the places of their opcodes, into the evidence of findings about code.
fn name_imports(findings: &mut [Finding], anomalies: &[Anomaly], catalogue: &Catalogue) {
    let of_code = |finding: &&mut Finding| {
        catalogue.get(&finding.signature).is_some_and(|signature| signature.front.family == Family::Code)
    };
    for finding in findings.iter_mut().filter(of_code) {
        let code = anomalies.iter().filter(|anomaly| anomaly.is(CODE_ON_LOAD)).take(IMPORTS_NAMED);
        let imports: Vec<String> = code.map(|anomaly| format!("{}: {}", anomaly.file, anomaly.detail)).collect();
        if let Some(evidence) = finding.evidence.as_object_mut() {
            evidence.insert("imports".to_owned(), imports.into());
        }
    }
}

/// The record of an examination that could not be made.
pub fn failed(base: &Named, candidate: &Named, error: &Error, settings: &Settings<'_>) -> Examination {
    let side =
        |named: &Named| Side { source: named.source.clone(), revision: named.revision.clone(), ..Side::default() };
    Examination {
        schema: SCHEMA.to_owned(),
        tool: tool(settings.catalogue),
        base: side(base),
        candidate: side(candidate),
        status: Status::Failed,
        reason: Some(format!("{}: {}", error.kind.as_str(), error.one_line())),
        depth: Depth::Full,
        coverage: Coverage::default(),
        relation: Relation::Incomparable,
        rank: None,
        verdict: Verdict::Inconclusive,
        because: "the weights could not be examined, so nothing is said about them".to_owned(),
        orthogonalization: None,
        findings: Vec::new(),
        anomalies: Vec::new(),
        claim: settings.claim.clone(),
        profile: None,
        surroundings: Vec::new(),
        variants: Vec::new(),
    }
}

/// This version with that catalogue.
pub fn tool(catalogue: &Catalogue) -> Tool {
    Tool { version: env!("CARGO_PKG_VERSION").to_owned(), catalogue: catalogue.hash().to_string() }
}

/// One side of the record. Digests that are not known are computed when asked for, a file a thread.
fn side(checkpoint: &Checkpoint, named: &Named, digests: bool) -> Result<Side> {
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

/// Traces of how the files were written, for signatures of packaging.
fn layout(model: &mut std::collections::BTreeMap<String, f64>, base: &Checkpoint, candidate: &Checkpoint) {
    let file = |name: &str| base.files.iter().find(|file| file.name == name);
    let identical = candidate
        .files
        .iter()
        .filter(|mine| file(&mine.name).is_some_and(|theirs| mine.sha256.is_some() && mine.sha256 == theirs.sha256))
        .count();
    let dropped = candidate
        .files
        .iter()
        .filter(|mine| {
            file(&mine.name)
                .is_some_and(|theirs| theirs.metadata.contains_key("format") && !mine.metadata.contains_key("format"))
        })
        .count();
    model.insert("layout.identical_files".to_owned(), identical as f64);
    model.insert("layout.metadata_dropped".to_owned(), dropped as f64);
    // What is odd about the files is known to the judge; here none of it is.
    model.insert("code.on_load".to_owned(), 0.0);
}
