//! What all blocks together say, every threshold of it, and the smallest removal that they would have shown.

use std::cmp::Ordering;

use faer::Mat;

use super::look::{BlockChange, Sight};
use super::pool::{BlockSide, Examined, POOLED_SHARE, Pool, chosen, shared};
use super::{BlockMeasurement, Evidence, FITS, ScreenDecision, Screened, probe, through};
use crate::profile::{ByCoordinates, Coordinates};
use crate::tensor::numbers::{cosine, dot, median};

/// Share of c, along a singular component of W itself, from which the change is as well explained by dropping that.
pub(super) const OWN_COMPONENT: f64 = 0.985;

/// Right vectors of one block that are removals by themselves, from which its rank was reduced rather than directions
/// removed.
pub(super) const REDUCED: usize = 6;

/// Below these a writer is quiet. Between the two the rows do not decide.
pub(super) const QUIET: Evidence = Evidence { consistency: 0.4, agreement: 0.6, own: 0.6 };

/// λ̂ below which nothing fits: small errors of the base's basis look like removals of this size.
pub(super) const FAINTEST: f64 = 0.01;

/// Writers, and layers, in which a direction must fit: one alone is no finding.
pub(super) const WRITERS: usize = 3;

/// See [`WRITERS`].
pub(super) const LAYERS: usize = 2;

/// The largest limit with which "clear" says something: real removals use 0.5 and more in their strongest layers. The
/// second is for directions that no two writers share, of which rows show less.
pub(super) const BLIND_ABOVE: f64 = 0.35;

/// See [`BLIND_ABOVE`].
pub(super) const BLIND_ALONE_ABOVE: f64 = 1.0;

/// Strengths planted: from this, each 1.25 times the one before.
pub(super) const LEAST_PLANTED: f64 = 0.02;

/// See [`LEAST_PLANTED`].
pub(super) const PLANTED: i32 = 23;

/// A limit above this is none.
pub(super) const UNTESTABLE: f64 = 9.0;

/// |cosine| of each direction with the second nearest other one; 0 where there are not as many.
pub(super) fn agreements(directions: &[&[f64]]) -> Vec<f64> {
    (directions.iter().enumerate())
        .map(|(at, one)| {
            let others = directions.iter().enumerate().filter(|(other, _)| *other != at);
            let mut cosines: Vec<f64> = others.map(|(_, other)| cosine(one, other).abs()).collect();
            cosines.sort_by(|a, b| b.total_cmp(a));
            cosines.get(1).copied().unwrap_or(0.0)
        })
        .collect()
}

impl Evidence {
    pub(super) fn fits(&self) -> bool {
        self.consistency >= FITS.consistency && self.agreement >= FITS.agreement
    }

    /// Nothing of all that speaks for a removal, in most of many and in all but one of them.
    pub(super) fn are_quiet(all: &[ByCoordinates<Self>]) -> bool {
        Coordinates::ALL.into_iter().all(|coordinates| {
            // More than half: a dozen writers are called clear by it, which must not be the easier for their even
            // number, as it would be by the mean of the two in the middle.
            let most = |is_below: fn(&Self) -> bool| {
                all.iter().filter(|one| is_below(&one[coordinates])).count() * 2 > all.len()
            };
            let near = |one: &Self| one.consistency >= QUIET.consistency && one.agreement >= QUIET.agreement;
            most(|one| one.consistency < QUIET.consistency)
                && most(|one| one.agreement < QUIET.agreement)
                && all.iter().filter(|one| near(&one[coordinates]) || one[coordinates].own >= QUIET.own).count() <= 1
        })
    }
}

/// The smallest λ planted at which `is_found`; infinite where none is.
pub(super) fn planted_limit(is_found: &dyn Fn(f64) -> bool) -> f64 {
    let at = |step: i32| LEAST_PLANTED * 1.25f64.powi(step);
    let (mut missed, mut found) = (-1, PLANTED);
    while found - missed > 1 {
        let middle = missed + (found - missed) / 2;
        if is_found(at(middle)) { found = middle } else { missed = middle }
    }
    if found < PLANTED { at(found) } else { f64::INFINITY }
}

/// Limits for a direction in all blocks, and for directions of single ones.
pub(super) fn limits(sights: &[Sight], raw: &[&BlockSide], basis: &Mat<f64>) -> (f64, f64) {
    if raw.len() < WRITERS {
        return (f64::INFINITY, f64::INFINITY);
    }
    let removed = probe(basis.nrows());
    let inside = through(&basis.transpose().to_owned(), &removed);
    let all_fit = |lambda: f64| {
        let planted: Vec<(f64, Vec<f64>)> = raw
            .iter()
            .filter_map(|side| {
                let left = through(&side.seen, &inside);
                chosen(&[0, 1].map(|half| side.halves[half].planted_as(&left, &inside, lambda)))
            })
            .collect();
        let directions: Vec<&[f64]> = planted.iter().map(|(_, e)| e.as_slice()).collect();
        let agreements = agreements(&directions);
        let c = median(planted.iter().map(|(c, _)| *c));
        c >= FITS.consistency && median(agreements) >= FITS.agreement
    };
    let is_pooled = |lambda: f64| {
        let part = through(&shared(sights, lambda, Coordinates::Raw).transpose().to_owned(), &removed);
        dot(&part, &part) >= POOLED_SHARE
    };
    let changes: Vec<&BlockChange> = sights.iter().filter_map(|sight| sight.change.as_ref()).collect();
    let alone = |lambda: f64| median(changes.iter().map(|change| change.solved(lambda).own.raw)) >= FITS.own;
    (planted_limit(&|lambda| all_fit(lambda) && is_pooled(lambda)), planted_limit(&alone))
}

/// Judges the blocks of one candidate together. `unmeasured` is how many more could not be looked at.
pub fn judge(mut examined: Vec<Examined>, pool: &Pool, unmeasured: usize) -> Screened {
    agree(&mut examined);
    let (sights, sides): (Vec<Sight>, Vec<ByCoordinates<Option<BlockSide>>>) =
        examined.into_iter().map(|one| (one.sight, one.sides)).unzip();
    let raw: Vec<&BlockSide> = sides.iter().filter_map(|sides| sides.raw.as_ref()).collect();
    let blocks: Vec<&BlockMeasurement> = sights.iter().map(|sight| &sight.measurement).collect();
    let changed: Vec<&BlockMeasurement> = blocks.iter().copied().filter(|block| block.changed).collect();
    let coordinates = coordinates(&changed);
    let is_fitting: Vec<bool> = blocks.iter().map(|block| block.changed && fits(block, coordinates)).collect();
    let fitting: Vec<&BlockMeasurement> =
        blocks.iter().copied().zip(&is_fitting).filter(|(_, fits)| **fits).map(|(block, _)| block).collect();
    let mut layers: Vec<u32> = fitting.iter().filter_map(|block| block.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let speaking = if fitting.is_empty() { &changed } else { &fitting };
    let directions: Vec<&[f64]> = (sides.iter().zip(&is_fitting))
        .filter_map(|(sides, fits)| sides[coordinates].as_ref().filter(|_| *fits))
        .map(|side| side.chosen.as_slice())
        .collect();
    let pairs = directions
        .iter()
        .enumerate()
        .flat_map(|(at, one)| directions[at + 1..].iter().map(move |other| cosine(one, other).abs()));
    // Where all that changed was set aside, whatever else had been there would be all that is left.
    let (detection_limit, limit_alone) =
        if raw.is_empty() { (LEAST_PLANTED, LEAST_PLANTED) } else { limits(&sights, &raw, &pool.bases.raw) };
    let evidence: Vec<ByCoordinates<Evidence>> = changed.iter().map(|block| block.evidence).collect();
    let mut screened = Screened {
        decision: ScreenDecision::Undecided,
        because: String::new(),
        coordinates,
        changed: changed.len(),
        fitting: fitting.len(),
        layers,
        consistency: consistency(speaking, coordinates),
        strength: median(speaking.iter().map(|block| block.strength[coordinates])),
        agreement: median(speaking.iter().map(|block| block.evidence[coordinates].agreement)),
        common: median(pairs),
        detection_limit,
        limit_alone,
        own_component: median(fitting.iter().map(|block| {
            // A reduced rank is components of W dropped.
            let reduced = block.removals.both().into_iter().any(|removals| *removals >= REDUCED);
            if reduced { 1.0 } else { block.own_component[coordinates] }
        })),
        blocks: Vec::new(),
    };
    (screened.decision, screened.because) = decide(&screened, &evidence, unmeasured);
    // A limit above this is none, and JSON has no infinity.
    screened.detection_limit = detection_limit.min(UNTESTABLE);
    screened.limit_alone = limit_alone.min(UNTESTABLE);
    screened.blocks = sights.into_iter().map(|sight| sight.measurement).collect();
    screened
}

/// Holds every block's direction against those of the others.
fn agree(examined: &mut [Examined]) {
    for coordinates in Coordinates::ALL {
        let sides: Vec<usize> = (0..examined.len()).filter(|one| examined[*one].sides[coordinates].is_some()).collect();
        let directions: Vec<&[f64]> = examined
            .iter()
            .filter_map(|one| one.sides[coordinates].as_ref())
            .map(|side| side.chosen.as_slice())
            .collect();
        for (one, agreement) in sides.into_iter().zip(agreements(&directions)) {
            examined[one].sight.measurement.evidence[coordinates].agreement = agreement;
        }
    }
}

/// Whether a block fits a removed direction.
fn fits(block: &BlockMeasurement, coordinates: Coordinates) -> bool {
    block.evidence[coordinates].fits() && block.strength[coordinates] >= FAINTEST
}

/// The median c of blocks.
fn consistency(blocks: &[&BlockMeasurement], coordinates: Coordinates) -> f64 {
    median(blocks.iter().map(|block| block.evidence[coordinates].consistency))
}

/// The coordinates in which more blocks fit; of as many, those in which they fit better.
fn coordinates(changed: &[&BlockMeasurement]) -> Coordinates {
    let fitting = ByCoordinates::new(|each| changed.iter().filter(|block| fits(block, each)).count());
    let c = ByCoordinates::new(|each| consistency(changed, each));
    let is_normalised = match fitting.row_normalised.cmp(&fitting.raw) {
        Ordering::Equal => c.row_normalised > c.raw,
        unequal => unequal == Ordering::Greater,
    };
    if is_normalised { Coordinates::RowNormalised } else { Coordinates::Raw }
}

/// What the rows decide, and why, in one clause.
fn decide(screened: &Screened, evidence: &[ByCoordinates<Evidence>], unmeasured: usize) -> (ScreenDecision, String) {
    let changed = screened.changed;
    let numbers = format!("c = {:.2}, agreement {:.2}", screened.consistency, screened.agreement);
    let because = if changed == 0 {
        "the sampled rows are the base's, bit for bit".to_owned()
    } else if screened.fitting >= WRITERS && screened.layers.len() >= LAYERS {
        if screened.own_component < OWN_COMPONENT {
            let (count, layers) = (screened.fitting, screened.layers.len());
            let why = format!("{count} of {changed} changed writers in {layers} layers fit a removed direction");
            return (ScreenDecision::Orthogonalized, why);
        }
        "the changes fit dropped singular components as well as a removed direction".to_owned()
    } else if unmeasured > 0 {
        format!("{unmeasured} of the sampled writers hold numbers that cannot be measured")
    } else if changed < WRITERS {
        format!("only {changed} of the sampled writers changed")
    } else if !Evidence::are_quiet(evidence) {
        format!("the changed writers come near a removed direction ({numbers})")
    } else if screened.detection_limit > BLIND_ABOVE || screened.limit_alone > BLIND_ALONE_ABOVE {
        let (what, limit) = match screened.detection_limit > BLIND_ABOVE {
            true => ("a removal", screened.detection_limit),
            false => ("a direction removed from one layer alone", screened.limit_alone),
        };
        let below = if limit.is_finite() { format!(" below λ = {limit:.2}") } else { String::new() };
        format!("{what}{below} would not show in the sampled rows")
    } else {
        return (
            ScreenDecision::Clear,
            format!("{changed} writers changed and none fits a removed direction ({numbers})"),
        );
    };
    (ScreenDecision::Undecided, because)
}
