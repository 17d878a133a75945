//! The flat form of an examination: one row with stable column names, for CSV and Parquet alike.

use std::ops::Deref;

use crate::examination::{Depth, Examination, Orthogonalization};
use crate::ids::Digest;
use crate::index::decision::{Decision, OPEN};
use crate::report::table::severity_name;
use crate::report::words::{false_positive_limit, is_reversed, removal, uploader};
use crate::report::{ListingFacts, Report, UploadFacts, variants};

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text.
    Text(Option<String>),
    /// A whole number.
    Count(Option<u64>),
    /// A number; absent where it was not measured or is not finite.
    Number(Option<f64>),
    /// Yes or no.
    Flag(Option<bool>),
}

/// The type of a column's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// [`Cell::Text`].
    Text,
    /// [`Cell::Count`].
    Count,
    /// [`Cell::Number`].
    Number,
    /// [`Cell::Flag`].
    Flag,
}

/// What a row is made of; all of an examination can be asked of it.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    examination: &'a Examination,
    id: Digest,
    facts: Option<&'a UploadFacts>,
    decisions: &'a [Decision],
}

impl Row<'_> {
    /// What a hub's listing last said of the candidate.
    fn listing(&self) -> Option<&ListingFacts> {
        self.facts?.listing.as_ref()
    }
}

impl Deref for Row<'_> {
    type Target = Examination;

    fn deref(&self) -> &Examination {
        self.examination
    }
}

/// The rows of a report.
pub fn rows(report: &Report) -> Vec<Row<'_>> {
    let all = report.examinations.iter().enumerate();
    all.map(|(place, examination)| {
        let id = examination.id();
        Row { examination, id, facts: report.facts.get(&id.hex()), decisions: report.decided(place) }
    })
    .collect()
}

/// One column.
pub struct Column {
    /// Its name; never reused for something else.
    pub name: &'static str,
    /// What it holds.
    pub what: &'static str,
    /// The type of its cells.
    pub kind: Type,
    /// Its value in a row.
    pub value: fn(&Row<'_>) -> Cell,
}

const fn column(name: &'static str, kind: Type, what: &'static str, value: fn(&Row<'_>) -> Cell) -> Column {
    Column { name, what, kind, value }
}

fn text(value: impl Into<String>) -> Cell {
    Cell::Text(Some(value.into()))
}

/// A number of the orthogonalization evidence.
fn measured(examination: &Examination, value: fn(&Orthogonalization) -> f64) -> Cell {
    Cell::Number(examination.orthogonalization.as_ref().map(value).filter(|v| v.is_finite()))
}

/// λ̂ of the changed writers, lowest first; none where no writer fits a removal, since any change has some strength
/// along some direction.
fn strengths(examination: &Examination) -> Vec<f64> {
    removal(examination).map(Orthogonalization::strengths).unwrap_or_default()
}

/// Every column, in order. New ones are added at the end.
pub static COLUMNS: &[Column] = &[
    column("candidate", Type::Text, "the examined repository, folder or file", |e| text(&e.candidate.source)),
    column("candidate_revision", Type::Text, "its commit", |e| Cell::Text(e.candidate.revision.clone())),
    column("candidate_digest", Type::Text, "SHA-256 over its files' digests", |e| {
        Cell::Text(e.candidate.digest.clone())
    }),
    column("candidate_format", Type::Text, "its format", |e| Cell::Text(e.candidate.format.clone())),
    column("base", Type::Text, "what it was compared with", |e| text(&e.base.source)),
    column("base_revision", Type::Text, "the base's commit", |e| Cell::Text(e.base.revision.clone())),
    column("base_digest", Type::Text, "SHA-256 over the base's files' digests", |e| Cell::Text(e.base.digest.clone())),
    column("status", Type::Text, "complete, partial or failed", |e| text(e.status.as_str())),
    column("reason", Type::Text, "why not complete", |e| Cell::Text(e.reason.clone())),
    column("depth", Type::Text, "hashes, screen or full", |e| {
        text(match e.depth {
            Depth::Hashes => "hashes",
            Depth::Screen => "screen",
            Depth::Full => "full",
        })
    }),
    column("relation", Type::Text, "what the candidate is to the base", |e| text(e.relation.as_str())),
    column("rank", Type::Count, "rank of a low-rank edit", |e| Cell::Count(e.rank.map(u64::from))),
    column("verdict", Type::Text, "orthogonalized, suspect, clear or inconclusive", |e| text(e.verdict.as_str())),
    column("p_value", Type::Number, "false-positive bound by the calibration's controls", |e| {
        measured(e, |o| o.p_value)
    }),
    column("consistency", Type::Number, "median projection consistency", |e| measured(e, |o| o.consistency)),
    column("explained", Type::Number, "median share of the change explained", |e| measured(e, |o| o.explained)),
    column("coordinates", Type::Text, "raw or row-normalised", |e| {
        Cell::Text(e.orthogonalization.as_ref().map(|o| o.coordinates.clone()))
    }),
    column("directions", Type::Count, "directions removed together", |e| {
        Cell::Count(e.orthogonalization.as_ref().map(|o| u64::from(o.directions)))
    }),
    column("scope", Type::Text, "global or per-layer", |e| {
        Cell::Text(e.orthogonalization.as_ref().map(|o| o.scope.clone()))
    }),
    column("tensors_fit", Type::Count, "writers that fit", |e| {
        Cell::Count(e.orthogonalization.as_ref().map(|o| o.tensors))
    }),
    column("layers_fit", Type::Count, "layers with such a writer", |e| {
        Cell::Count(e.orthogonalization.as_ref().map(|o| o.layers.len() as u64))
    }),
    column("lambda_min", Type::Number, "smallest strength of a changed writer, where a writer fits", |e| {
        Cell::Number(strengths(e).first().copied())
    }),
    column("lambda_median", Type::Number, "median strength of the changed writers, where a writer fits", |e| {
        Cell::Number(removal(e).and_then(Orthogonalization::median_strength))
    }),
    column("lambda_max", Type::Number, "largest strength of a changed writer, where a writer fits", |e| {
        Cell::Number(strengths(e).last().copied())
    }),
    column(
        "detection_limit",
        Type::Number,
        "smallest strength that half of the changed writers would have shown",
        |e| measured(e, |o| o.detection_limit),
    ),
    column("tensors", Type::Count, "tensors of the base", |e| Cell::Count(Some(e.coverage.tensors))),
    column("tensors_compared", Type::Count, "of them, compared", |e| Cell::Count(Some(e.coverage.compared))),
    column("tensors_identical", Type::Count, "of these, bit-identical", |e| Cell::Count(Some(e.coverage.identical))),
    column("tensors_not_examined", Type::Count, "tensors not compared", |e| {
        Cell::Count(Some(e.coverage.not_examined.len() as u64))
    }),
    column("bytes_read", Type::Count, "bytes of weights read", |e| Cell::Count(Some(e.coverage.bytes_read))),
    column("findings", Type::Text, "ids of the findings, space between", |e| {
        text(e.findings.iter().map(|f| f.id.as_str()).collect::<Vec<_>>().join(" "))
    }),
    column("signatures", Type::Text, "signatures that held, space between", |e| {
        text(e.findings.iter().map(|f| f.signature.as_str()).collect::<Vec<_>>().join(" "))
    }),
    column("severity", Type::Text, "highest severity of a finding", |e| {
        Cell::Text(e.findings.iter().map(|f| f.severity).max().map(|s| severity_name(s).to_owned()))
    }),
    column("anomalies", Type::Count, "oddities of the files", |e| Cell::Count(Some(e.anomalies.len() as u64))),
    column("claim_base", Type::Text, "the base that the publisher names", |e| {
        Cell::Text(e.claim.as_ref().and_then(|c| c.base.clone()))
    }),
    column("claim_relation", Type::Text, "the relation that the publisher names", |e| {
        Cell::Text(e.claim.as_ref().and_then(|c| c.relation.clone()))
    }),
    column("claim_holds", Type::Flag, "whether the weights bear the claim out", |e| {
        Cell::Flag(e.claim.as_ref().and_then(|c| c.holds))
    }),
    column("tool_version", Type::Text, "orthoscope's version", |e| text(&e.tool.version)),
    column("catalogue", Type::Text, "hash of the signature catalogue", |e| text(&e.tool.catalogue)),
    column("variants", Type::Count, "checkpoints examined, each by itself", |e| {
        Cell::Count(Some(e.variants.len().max(1) as u64))
    }),
    column(
        "variant_verdicts",
        Type::Text,
        "name and verdict of each where there are several, semicolon between",
        |e| {
            let told: Vec<_> =
                variants::lines(e).iter().map(|line| format!("{}: {}", line.name, line.verdict)).collect();
            Cell::Text((!told.is_empty()).then(|| told.join("; ")))
        },
    ),
    column("examination", Type::Text, "the examination's id", |e| text(e.id.hex())),
    column(
        "false_positive_limit",
        Type::Number,
        "exact upper 95 % limit of false positives by the controls, where a writer fits",
        |e| Cell::Number(removal(e).and_then(false_positive_limit)),
    ),
    column(
        "swapped",
        Type::Flag,
        "whether the change is a removal seen from the wrong side: base and candidate may be swapped",
        |e| Cell::Flag(e.orthogonalization.as_ref().map(|_| is_reversed(e))),
    ),
    column("decision", Type::Text, "what was decided last, open where nothing was", |e| {
        text(e.decisions.last().map_or(OPEN, |decision| decision.decision.as_str()))
    }),
    column("decided_at", Type::Text, "when, RFC 3339", |e| {
        Cell::Text(e.decisions.last().map(|decision| decision.made_at.to_string()))
    }),
    column("decided_by", Type::Text, "by whom, as given", |e| {
        Cell::Text(e.decisions.last().map(|decision| decision.who.clone()))
    }),
    column("decided_because", Type::Text, "the reason given", |e| {
        Cell::Text(e.decisions.last().map(|decision| decision.note.clone()))
    }),
    column("examined_at", Type::Text, "when it was examined last, RFC 3339", |e| {
        Cell::Text(e.facts.and_then(|facts| facts.examined_at.clone()))
    }),
    column("uploader", Type::Text, "the candidate's owner on its hub", |e| {
        Cell::Text(uploader(&e.candidate).map(str::to_owned))
    }),
    column("created_at", Type::Text, "when the candidate's repository was made, RFC 3339", |e| {
        Cell::Text(e.listing().and_then(|listing| listing.created_at.clone()))
    }),
    column("downloads", Type::Count, "its downloads of the last 30 days, when it was listed last", |e| {
        Cell::Count(e.listing().and_then(|listing| listing.downloads))
    }),
    column("declared", Type::Flag, "whether its name or tags say that refusals were taken out", |e| {
        Cell::Flag(e.listing().map(|listing| listing.declared))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn names_are_unique_snake_case() {
        let mut names: Vec<_> = COLUMNS.iter().map(|c| c.name).collect();
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COLUMNS.len());
    }

    #[test]
    fn cells_have_their_columns_type() {
        for row in rows(&sample::everything()) {
            for column in COLUMNS {
                let kind = match (column.value)(&row) {
                    Cell::Text(_) => Type::Text,
                    Cell::Count(_) => Type::Count,
                    Cell::Number(_) => Type::Number,
                    Cell::Flag(_) => Type::Flag,
                };
                assert_eq!(kind, column.kind, "{}", column.name);
            }
        }
    }

    /// Writers that are the base's own have no strength, and of an even number the middle is between two.
    #[test]
    fn a_variant_is_as_strong_in_a_table_as_in_its_line() {
        let mut examination = sample::orthogonalized();
        let evidence = examination.orthogonalization.as_mut().unwrap();
        evidence.strength.truncate(5);
        let strengths = [0.0, 1.0, 0.0, 0.5, 0.0];
        assert_eq!(evidence.strength.len(), strengths.len());
        evidence.strength.iter_mut().zip(strengths).for_each(|(one, lambda)| one.lambda = lambda);
        assert_eq!((evidence.strengths(), evidence.median_strength()), (vec![0.5, 1.0], Some(0.75)));
        let row = Row { examination: &examination, id: examination.id(), facts: None, decisions: &[] };
        let column = COLUMNS.iter().find(|column| column.name == "lambda_median").unwrap();
        assert_eq!((column.value)(&row), Cell::Number(Some(0.75)));
        examination.variants = vec![examination.clone()];
        assert!(variants::lines(&examination)[0].detail.starts_with("λ 0.75 at the median"));
        evidence_of_nothing(&mut examination);
        assert_eq!(examination.orthogonalization.unwrap().median_strength(), None);
    }

    fn evidence_of_nothing(examination: &mut Examination) {
        let evidence = examination.orthogonalization.as_mut().unwrap();
        evidence.strength.iter_mut().for_each(|one| one.lambda = 0.0);
    }

    #[test]
    fn the_documentation_lists_every_column() {
        let documented = include_str!("../../docs/reports.md");
        for column in COLUMNS {
            let kind = format!("{:?}", column.kind).to_lowercase();
            let line = format!("| `{}` | {kind} | {} |", column.name, column.what);
            assert!(documented.contains(&line), "docs/reports.md lacks: {line}");
        }
    }
}
