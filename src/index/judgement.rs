//! What is judged from an examination's measurements, apart from the measurements: the part that may change.

use jiff::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::sql::{JsonText, Moment, Word, as_text};
use super::{Index, failed, load};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Finding, Orthogonalization, Relation, Severity, Verdict, canonical_json};

/// The judged part of an examination.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Judgement {
    pub(super) catalogue: String,
    pub(super) relation: Relation,
    pub(super) verdict: Verdict,
    pub(super) rest: Rest,
}

/// What a past judgement keeps as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Rest {
    pub(super) rank: Option<u32>,
    pub(super) because: String,
    pub(super) claim_holds: Option<bool>,
    pub(super) orthogonalization: Option<Orthogonalization>,
    pub(super) findings: Vec<Finding>,
}

impl Judgement {
    pub(super) fn of(examination: &Examination) -> Self {
        Self {
            catalogue: examination.tool.catalogue.clone(),
            relation: examination.relation,
            verdict: examination.verdict,
            rest: Rest {
                rank: examination.rank,
                because: examination.because.clone(),
                claim_holds: examination.claim.as_ref().and_then(|claim| claim.holds),
                orthogonalization: examination.orthogonalization.clone(),
                findings: examination.findings.clone(),
            },
        }
    }

    /// The highest severity of its findings: 0 none, 1 info to 4 high.
    pub(super) fn severity(&self) -> i64 {
        self.rest.findings.iter().map(|finding| rank(finding.severity)).max().unwrap_or(0)
    }

    /// Whether two judgements say the same, by whatever catalogue. Numbers are compared as they are printed, so that
    /// not-a-number equals itself.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.relation == other.relation
            && self.verdict == other.verdict
            && canonical_json(&self.rest) == canonical_json(&other.rest)
    }

    /// The JSON that a past judgement is kept as, its keys sorted as [`super::json`] wants them.
    pub(super) fn document(&self) -> Result<String> {
        serde_json::to_value(&self.rest)
            .map(|value| value.to_string())
            .map_err(|error| Error::because(ErrorKind::Internal, "storing a judgement", error))
    }
}

/// The order of severities as the index stores it.
pub(super) const fn rank(severity: Severity) -> i64 {
    match severity {
        Severity::Info => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
    }
}

/// A judgement that a later one took the place of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastJudgement {
    /// The catalogue that judged, `sha256:…`.
    pub catalogue: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its relation.
    pub relation: Relation,
    /// When it was made.
    #[serde(serialize_with = "as_text")]
    pub judged_at: Timestamp,
    /// When another one took its place.
    #[serde(serialize_with = "as_text")]
    pub superseded_at: Timestamp,
    /// Rank, reason, claim, evidence and findings, as in the JSON of an examination.
    pub document: serde_json::Value,
}

impl Index {
    /// The judgements of an examination that later ones took the place of, oldest first.
    pub fn past_judgements(&self, prefix: &str) -> Result<Vec<PastJudgement>> {
        let Some(stored) = self.get(prefix)? else { return Ok(Vec::new()) };
        let key = load::key_of(&self.connection, &stored.id)?;
        past(&self.connection, key)
    }
}

fn past(connection: &Connection, examination: i64) -> Result<Vec<PastJudgement>> {
    let doing = "reading past judgements from the index";
    let mut statement = connection
        .prepare_cached(
            "SELECT c.hash, p.verdict, p.relation, p.judged_at, p.superseded_at, p.document
             FROM past_judgement p JOIN catalogue c ON c.key = p.catalogue WHERE p.examination = ?1 ORDER BY p.ordinal",
        )
        .map_err(|error| failed(doing, error))?;
    statement
        .query_map([examination], |row| {
            Ok(PastJudgement {
                catalogue: row.get(0)?,
                verdict: row.get::<_, Word<_>>(1)?.0,
                relation: row.get::<_, Word<_>>(2)?.0,
                judged_at: row.get::<_, Moment>(3)?.0,
                superseded_at: row.get::<_, Moment>(4)?.0,
                document: row.get::<_, JsonText>(5)?.0,
            })
        })
        .and_then(Iterator::collect)
        .map_err(|error| failed(doing, error))
}
