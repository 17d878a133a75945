//! Where a checkpoint comes from, by its weights: the nearest of the fingerprints that the index has, and what that
//! says of the candidate's own claim.

use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Examiner;
use super::located::Located;
use crate::checkpoint::{self, folder};
use crate::error::Result;
use crate::examination::{Examination, Relation, Status, Verdict};
use crate::hub::{Meter, on_hub};
use crate::ids::Location;
use crate::index::Index;
use crate::index::fingerprints::EnrolledFingerprint;
use crate::kinship::{self, Fingerprint, Fingerprinted, Likeness, PreparedFingerprint};

/// The schema's name and version; a change that breaks a reader raises the number.
pub const IDENTIFICATION_SCHEMA: &str = "orthoscope/identification/1";

/// Of the nearest, so many are examined in full where they lie on this machine.
const EXAMINED: usize = 1;

/// A claimed base is passed by where another is this much nearer: distance is one less similarity. Of a chain of
/// derivatives the nearer link lies at a part of the distance, while quantising the candidate moves it from all alike.
const NEARER: f64 = 0.9;

/// What becomes of a candidate's claim of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimStanding {
    /// The claimed base is kin, and none that is enrolled is nearer.
    Holds,
    /// The claimed base is kin, and a nearer one is enrolled: a grandparent was claimed.
    HoldsNearerKnown,
    /// The claimed base is enrolled and not kin.
    False,
    /// No base is claimed.
    None,
    /// It cannot be told: the claimed base is not enrolled, or nothing that has the candidate's shape.
    NotEnrolled,
}

impl ClaimStanding {
    /// The word that JSON has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::HoldsNearerKnown => "holds-nearer-known",
            Self::False => "false",
            Self::None => "none",
            Self::NotEnrolled => "not-enrolled",
        }
    }
}

/// The candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdentifiedCandidate {
    /// A path, or a repository.
    pub source: String,
    /// Its commit, where there is one.
    pub revision: Option<String>,
    /// The format of the checkpoint that was looked at: the one that loaders would take.
    pub format: String,
    /// Bytes of weights read: of a repository those received.
    pub bytes_read: u64,
    /// Its family by names and shapes.
    pub architecture: String,
    /// Width of the residual stream, 0 where it is not known.
    pub width: u64,
    /// Blocks.
    pub layers: u32,
    /// The bases that it claims, strongest evidence first.
    pub claims: Vec<String>,
}

/// An enrolled checkpoint that is kin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NearestKin {
    /// A path, or a repository.
    pub source: String,
    /// Its commit, where there is one.
    pub revision: Option<String>,
    /// Of what was sampled, one less its distance: 1 for the same weights.
    #[serde(serialize_with = "short")]
    pub similarity: f64,
    /// Chance that strangers are as alike.
    pub p_value: f64,
    /// Whether it is kin; only kin is listed.
    pub kin: bool,
    /// What the candidate is to it, where it could be examined.
    pub relation: Option<Relation>,
    /// The verdict of that examination.
    pub verdict: Option<Verdict>,
}

/// Similarity to eight digits: what lies beyond is rounding of sums.
fn short<S: Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1e8).round() / 1e8)
}

/// What a candidate is by its weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Identification {
    /// [`IDENTIFICATION_SCHEMA`].
    pub schema: &'static str,
    /// The candidate.
    pub candidate: IdentifiedCandidate,
    /// What becomes of its claim.
    pub standing: ClaimStanding,
    /// Fingerprints that the index has.
    pub enrolled: u64,
    /// Kin, nearest first.
    pub nearest: Vec<NearestKin>,
    /// How many of those enrolled have the candidate's shape.
    #[serde(skip)]
    pub comparable: u64,
}

/// Takes the fingerprint of what the user names.
pub fn enrollment(examiner: &Examiner, what: &str) -> Result<(EnrolledFingerprint, u64)> {
    let meter = meter(examiner);
    let located = Located::open(what, &examiner.client, &examiner.environment, &meter)?;
    let taken = super::fenced(what, || kinship::fingerprint(&checkpoint::open(&located.files)?))?;
    let bytes = read(&located, &taken, &meter);
    let (source, revision) = (located.named.source, located.named.revision);
    Ok((EnrolledFingerprint { source, revision, fingerprint: taken.fingerprint }, bytes))
}

/// What a checkpoint of this machine is known by; `None` where no fingerprint of it can be taken.
pub fn known_by(path: &Path) -> Option<EnrolledFingerprint> {
    let source = path.display().to_string();
    let taken = super::fenced(&source, || kinship::fingerprint(&checkpoint::open(&folder::file_set(path)?)?)).ok()?;
    Some(EnrolledFingerprint { source, revision: None, fingerprint: taken.fingerprint })
}

/// Finds the kin of what the user names among those enrolled, `limit` of them at most.
pub fn identify(examiner: &Examiner, index: &Index, what: &str, limit: usize) -> Result<Identification> {
    let meter = meter(examiner);
    let located = Located::open(what, &examiner.client, &examiner.environment, &meter)?;
    let (opened, taken) = super::fenced(what, || {
        let opened = checkpoint::open(&located.files)?;
        let taken = kinship::fingerprint(&opened)?;
        Ok((opened, taken))
    })?;
    let prefix = located.hub();
    let claims: Vec<String> =
        located.claim(&opened)?.bases.into_iter().map(|base| format!("{prefix}:{base}")).collect();
    let mut ranking = rank(index, &located.named.source, &taken.fingerprint, &claims, limit)?;
    for nearest in ranking.nearest.iter_mut().take(EXAMINED) {
        let examined = examined(examiner, what, &located, &nearest.source);
        nearest.relation = examined.as_ref().map(|examination| examination.relation);
        nearest.verdict = examined.map(|examination| examination.verdict);
    }
    let candidate = IdentifiedCandidate {
        bytes_read: read(&located, &taken, &meter),
        source: located.named.source,
        revision: located.named.revision,
        format: opened.format.to_owned(),
        architecture: taken.fingerprint.family,
        width: taken.fingerprint.width,
        layers: taken.fingerprint.layers,
        claims,
    };
    let KinRanking { standing, enrolled, comparable, nearest } = ranking;
    Ok(Identification { schema: IDENTIFICATION_SCHEMA, candidate, standing, enrolled, nearest, comparable })
}

fn meter(examiner: &Examiner) -> Arc<Meter> {
    examiner.client.meter("this repository's", examiner.settings.max_bytes, Some(examiner.night.clone()))
}

/// Bytes of weights that a fingerprint took.
fn read(located: &Located, taken: &Fingerprinted, meter: &Meter) -> u64 {
    if located.id.is_some() { meter.totals().weight_bytes } else { taken.bytes_read }
}

/// The examination of a candidate against one of its kin that lies on this machine; `None` where it cannot be had.
fn examined(examiner: &Examiner, what: &str, located: &Located, base: &str) -> Option<Examination> {
    if on_hub(base).is_some() || !Path::new(base).exists() {
        return None;
    }
    let examination = match what.parse::<Location>().ok()? {
        Location::Path(path) => examiner.examine_path(&path, Some(base), false, examiner.observer.as_ref()),
        Location::Hub(id, revision) => {
            let facts = located.facts.clone()?;
            let id = located.id.clone().unwrap_or(id);
            examiner.examine_at(&id, &facts, Some(base), revision.as_ref()).ok()?.examination
        }
    };
    (examination.status != Status::Failed).then_some(examination)
}

/// What the index says of a fingerprint.
pub struct KinRanking {
    /// What becomes of the claim.
    pub standing: ClaimStanding,
    /// Fingerprints in the index.
    pub enrolled: u64,
    /// Of them, those that have the candidate's shape.
    pub comparable: u64,
    /// Kin, nearest first.
    pub nearest: Vec<NearestKin>,
}

/// An enrolled checkpoint beside the likeness that it has to the candidate.
struct Ranked {
    /// Whether it is enrolled under the candidate's own name.
    itself: bool,
    source: String,
    revision: Option<String>,
    likeness: Likeness,
}

/// Ranks what is enrolled by its likeness to a fingerprint. What is enrolled under the candidate's own name comes last:
/// it says what the candidate is, and not what it was made from.
pub fn rank(
    index: &Index,
    source: &str,
    fingerprint: &Fingerprint,
    claims: &[String],
    limit: usize,
) -> Result<KinRanking> {
    let (own, itself) = (PreparedFingerprint::of(fingerprint), place(source));
    let (mut enrolled, mut comparable) = (0, 0);
    let (mut found, mut claimed): (Vec<Ranked>, Vec<Option<Likeness>>) = (Vec::new(), Vec::new());
    index.fingerprints(&mut |one| {
        enrolled += 1;
        let likeness = kinship::likeness(&own, &PreparedFingerprint::of(&one.fingerprint));
        comparable += u64::from(likeness.is_some());
        let is_itself = place(&one.source) == itself;
        if claims.iter().any(|claim| names(&one.source, claim)) {
            // One that cannot be compared though it is as wide is not shown to be another.
            let told = likeness.is_some() || one.fingerprint.width != fingerprint.width;
            claimed.extend(told.then(|| likeness.clone()));
        }
        if let Some(likeness) = likeness.filter(|likeness| likeness.is_kin(1)) {
            found.push(Ranked { itself: is_itself, source: one.source, revision: one.revision, likeness });
            nearest_first(&mut found, limit);
        }
        Ok(())
    })?;
    found.retain(|one| one.likeness.is_kin(enrolled));
    let standing = standing(claims, &claimed, &found, enrolled, comparable);
    let nearest = found.into_iter().map(|one| NearestKin {
        source: one.source,
        revision: one.revision,
        similarity: one.likeness.similarity,
        p_value: one.likeness.p_value,
        kin: true,
        relation: None,
        verdict: None,
    });
    Ok(KinRanking { standing, enrolled, comparable, nearest: nearest.collect() })
}

/// Sorts, and keeps as many as are asked for.
fn nearest_first(found: &mut Vec<Ranked>, limit: usize) {
    found.sort_by(|one, other| {
        let nearer = other.likeness.similarity.total_cmp(&one.likeness.similarity);
        one.itself
            .cmp(&other.itself)
            .then(nearer)
            .then_with(|| one.source.cmp(&other.source))
            .then_with(|| one.revision.cmp(&other.revision))
    });
    found.truncate(limit.max(1));
}

/// What becomes of the claims: `claimed` is the likeness to each claimed base that is enrolled, where that can be told.
fn standing(
    claims: &[String],
    claimed: &[Option<Likeness>],
    found: &[Ranked],
    enrolled: u64,
    comparable: u64,
) -> ClaimStanding {
    if claims.is_empty() {
        return if comparable == 0 { ClaimStanding::NotEnrolled } else { ClaimStanding::None };
    }
    if claimed.is_empty() {
        return ClaimStanding::NotEnrolled;
    }
    let kin = claimed.iter().flatten().filter(|likeness| likeness.is_kin(enrolled)).map(|likeness| likeness.similarity);
    let Some(best) = kin.max_by(f64::total_cmp) else { return ClaimStanding::False };
    let nearest = found.first().filter(|one| !one.itself && !claims.iter().any(|claim| names(&one.source, claim)));
    match nearest {
        Some(one) if 1.0 - one.likeness.similarity < NEARER * (1.0 - best) => ClaimStanding::HoldsNearerKnown,
        _ => ClaimStanding::Holds,
    }
}

/// Whether an enrolled place is the claimed repository: the same name, or a folder `…/owner/name`.
fn names(source: &str, claim: &str) -> bool {
    if source.eq_ignore_ascii_case(claim) {
        return true;
    }
    let name = claim.split_once(':').map_or(claim, |(_, name)| name);
    on_hub(source).is_none() && Path::new(source).ends_with(name)
}

/// A place by itself, however it is written: a repository without its revision, or a path from the root.
fn place(name: &str) -> String {
    match name.parse::<Location>() {
        Ok(Location::Hub(id, _)) => id.to_string(),
        Ok(Location::Path(path)) => std::path::absolute(&path).unwrap_or(path).display().to_string(),
        Err(_) => name.to_owned(),
    }
}
