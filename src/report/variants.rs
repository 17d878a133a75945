//! The checkpoints of a repository, a line each: what every report shows beside the one verdict.

use crate::examination::{Examination, Status};
use crate::report::{sanitise, words};

/// One variant in the words of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its name: the quantisation of a GGUF file, or its path.
    pub name: String,
    /// Its format.
    pub format: String,
    /// The verdict on it alone, or "not examined".
    pub verdict: &'static str,
    /// What it is to the base.
    pub relation: String,
    /// The strength that was found and the smallest that would have been, or why there is none.
    pub detail: String,
}

impl Line {
    /// The line as a sentence.
    pub fn told(&self) -> String {
        let Self { name, format, verdict, relation, detail } = self;
        format!("{name} ({format}): {verdict}, {relation}; {detail}")
    }
}

/// The variants of an examination; empty where it is of a single checkpoint.
pub fn lines(examination: &Examination) -> Vec<Line> {
    examination.variants.iter().map(line).collect()
}

fn line(variant: &Examination) -> Line {
    let failed = variant.status == Status::Failed;
    let detail = match (&variant.orthogonalization, &variant.reason) {
        (_, Some(reason)) if failed => sanitise::sentence(reason),
        (Some(evidence), _) if words::removal(variant).is_some() => {
            format!(
                "λ {} at the median of what changed, detection limit {}",
                words::strength(evidence.median_strength().unwrap_or(0.0)),
                words::strength(evidence.detection_limit)
            )
        }
        (Some(evidence), _) => format!("detection limit λ = {}", words::strength(evidence.detection_limit)),
        (None, _) => sanitise::sentence(&variant.because),
    };
    Line {
        name: sanitise::name(variant.candidate.variant.as_deref().unwrap_or("unnamed")),
        format: sanitise::name(variant.candidate.format.as_deref().unwrap_or("unknown format")),
        verdict: if failed { "not examined" } else { variant.verdict.as_str() },
        relation: variant.relation.as_str().to_owned(),
        detail,
    }
}
