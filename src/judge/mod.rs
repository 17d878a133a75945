//! From measurements to words, once: the only place that writes an examination's verdict, its findings and whether its
//! claim holds, and that decides its relation.

pub mod account;
pub mod combine;
pub mod recipe;
pub mod relation;
pub mod verdict;

use self::account::withhold;
use crate::checkpoint::Anomaly;
use crate::checkpoint::anomaly::CODE_ON_LOAD;
use crate::examination::{Depth, Examination, Finding, Tool, Verdict};
use crate::profile::names;
use crate::signature::{Catalogue, SignatureFamily};

/// Imports that a finding names; the anomalies have all.
const IMPORTS_NAMED: usize = 16;

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
        profile.model.put(names::CODE_ON_LOAD, imports as f64);
    }
}

/// Puts the imports, with the places of their opcodes, into the evidence of findings about code.
fn name_imports(findings: &mut [Finding], anomalies: &[Anomaly], catalogue: &Catalogue) {
    let of_code = |finding: &&mut Finding| {
        catalogue.get(&finding.signature).is_some_and(|signature| signature.front.family == SignatureFamily::Code)
    };
    for finding in findings.iter_mut().filter(of_code) {
        let code = anomalies.iter().filter(|anomaly| anomaly.is(CODE_ON_LOAD)).take(IMPORTS_NAMED);
        let imports: Vec<String> = code.map(|anomaly| format!("{}: {}", anomaly.file, anomaly.detail)).collect();
        if let Some(evidence) = finding.evidence.as_object_mut() {
            evidence.insert("imports".to_owned(), imports.into());
        }
    }
}

/// The verdict that an examination would have, for a way that goes deeper where it is none.
pub fn foresee(examination: &Examination, catalogue: &Catalogue) -> Verdict {
    let Some(profile) = &examination.profile else { return Verdict::Inconclusive };
    let mut seen = Examination::blank(examination.base.clone(), examination.candidate.clone());
    (seen.status, seen.reason) = (examination.status, examination.reason.clone());
    seen.verdict = verdict::conclude(catalogue, profile, examination.relation, &examination.id()).verdict;
    withhold(&mut seen);
    seen.verdict
}

/// This version with that catalogue.
pub fn tool(catalogue: &Catalogue) -> Tool {
    Tool { version: env!("CARGO_PKG_VERSION").to_owned(), catalogue: catalogue.hash().to_string() }
}
