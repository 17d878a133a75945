//! Whether a pair fits a removed direction, given what the other layers show: the rule, and every threshold of it.

use std::collections::BTreeSet;

use super::change::{self, Spectrum};
use super::consensus::{Consensus, choose_coordinates, fitted};
use super::consistency::Along;
use super::measured::{Change, Fitted, Measurements, PairMeasurement};
use crate::arch::Kind;
use crate::profile::{Coordinates, Projection, Sameness, TensorMeasurement};
use crate::tensor::numbers::{cosine, median};

/// Least held-out consistency of a writer that fits, when others agree with its direction. Honest changes of real
/// weights stay below 0.14 at the median, those of tiny models below 0.67; edits are above 0.95, through coarse
/// quantisers above 0.88.
pub const CONSISTENCY: f64 = 0.85;

/// The same where no other writer agrees.
pub const CONSISTENCY_ALONE: f64 = 0.95;

/// With others that agree, held-out c from here on is no chance either, though too little for a finding.
pub const CONSISTENCY_HINT: f64 = 0.5;

/// In residual streams of this width and more it is none without them either, where half of the changed writers have
/// it: honest changes of real models stayed below 0.14 at the median, those of tiny ones did not.
pub(super) const REAL_WIDTH: u64 = 512;

/// Least agreement with the directions of other writers.
pub const AGREEMENT: f64 = 0.75;

/// c along a direction chosen without the layer, from which a writer counts as held out.
pub(super) const HELD_OUT: f64 = 0.5;

/// Among thousands of experts a few tell as much as all.
pub(super) const EXPERTS_ASKED: u32 = 4;
/// From here on the direction is the matrix's own singular vector: the edit drops a component of W,
pub const OWN_COMPONENT: f64 = 0.999;

/// unless others lost the same direction: no two matrices have the same singular vectors.
const NOT_OWN: f64 = 0.9;

/// Loud ones of different matrices are close, though; a direction that is this much the matrix's own is no shared one.
const EXACTLY_OWN: f64 = 0.9999;

/// Enough where most other writers lost one of their own.
const NEARLY_OWN: f64 = 0.98;

/// Directions lost together from which a matrix was reduced in rank, where no other writer shares one.
const REDUCED: u32 = 8;

/// λ̂ must stand this many standard errors from zero,
pub const SIGMAS: f64 = 5.0;

/// and beyond what is left of a uniform scale.
const FAINTEST: f64 = 0.005;

/// This many times the uniform scale of the change: weight decay takes away every direction alike.
const ABOVE_SCALE: f64 = 3.0;

/// and this many times the standard deviation of the rows' own factors: rows that were each scaled by a factor of their
/// own (DoRA's magnitudes) look like a removal along any direction that gathers rows of one factor, the loud channel's
/// row above all. Of 4,096 normal numbers the largest is 3.7.
pub(super) const ROW_SPREADS: f64 = 5.0;

/// Writers that lost directions of their own each are a removal when there are so many, in two layers, and half of the
/// changed ones, with [`CONSISTENCY_SURE`]: where a base that was trained hard is compared with its own parent, narrow
/// matrices come near it one by one (`tests/real/controls.py`, crossed cases: medians of 0.965 and 0.976).
const SPREAD: usize = 3;

/// More directions at once that no other matrix lost are what a lower rank leaves out, rather than what an editor takes
/// from each.
const OWN_DIRECTIONS: u32 = 2;

/// One or two say nothing among so many whose median c is this, in a narrow model.
const MANY: usize = 8;

const LEANING: f64 = 0.3;

/// c from which a writer fits without doubt.
pub(super) const CONSISTENCY_SURE: f64 = 0.985;

/// The row of one pair: what changed, and the removal that fits it.
pub(super) fn tensor_measurement(
    index: usize,
    measured: &PairMeasurement<'_>,
    all: &Measurements<'_>,
    directions: &[Option<&Fitted>],
    consensus: &Consensus,
) -> TensorMeasurement {
    let pair = measured.pair;
    let mut tensor = TensorMeasurement::same(pair.name.clone(), pair.role.clone(), measured.sameness);
    tensor.shape = [pair.base.rows, pair.base.columns];
    (tensor.base_dtype, tensor.candidate_dtype) = (measured.dtypes[0].clone(), measured.dtypes[1].clone());
    let Some(change) = &measured.moments else { return tensor };
    size(&mut tensor, change);
    if let Some(side) = directions[index] {
        let company = Company::of(index, side, all, directions, consensus);
        tensor.projection = Some(projection(measured, side, &company));
    }
    tensor
}

/// The size of a change, and its spectrum.
fn size(tensor: &mut TensorMeasurement, change: &Change) {
    let sums = &change.total;
    let elements = (change.shape[0] * change.shape[1]).max(1) as f64;
    let xx = (sums.ww + 2.0 * sums.dw + sums.dd).max(0.0);
    tensor.changed_fraction = sums.changed as f64 / elements;
    tensor.zeroed_fraction = sums.zeroed as f64 / elements;
    tensor.not_finite = sums.not_finite;
    let relative = |energy: f64| if sums.ww > 0.0 { (energy / sums.ww).sqrt() } else { 0.0 };
    tensor.relative_norm = relative(sums.dd);
    tensor.max_abs = f64::from(sums.max);
    tensor.cosine = if sums.ww > 0.0 && xx > 0.0 { (sums.ww + sums.dw) / (sums.ww * xx).sqrt() } else { 0.0 };
    tensor.scale = if sums.ww > 0.0 { sums.dw / sums.ww } else { 0.0 };
    tensor.scale_explained = change.scale_explained;
    tensor.norm_drift = change.norm_drift;
    tensor.changed_rows =
        change.changed_rows.iter().filter(|changed| **changed).count() as f64 / change.changed_rows.len().max(1) as f64;
    tensor.rounding = change::rounding(change);
    tensor.kurtosis = if sums.blocks > 0 { sums.kurtosis / sums.blocks as f64 } else { 0.0 };
    let spectrum = Spectrum::of(change);
    tensor.spectrum = spectrum.shares.clone();
    tensor.effective_rank = spectrum.effective_rank;
    tensor.above_noise = spectrum.above;
    tensor.values_known = spectrum.known;
    tensor.low_rank_share = spectrum.low_rank_share;
    tensor.cliff = spectrum.cliff;
    tensor.last_share = spectrum.last;
    tensor.noise = relative(spectrum.left);
}

/// What the other matrices show of a direction.
struct Company {
    /// |cos| with the nearest writer of its layer, if there is another one.
    sibling: Option<f64>,
    /// |cos| with the second nearest of other layers, or with what they lost together.
    agreement: f64,
    /// Base and change along the direction that the other layers lost.
    along_shared: Option<Along>,
}

impl Company {
    fn of(
        index: usize,
        side: &Fitted,
        all: &Measurements<'_>,
        directions: &[Option<&Fitted>],
        consensus: &Consensus,
    ) -> Self {
        let pair = all.pairs[index].pair;
        let is_writer = pair.role.kind == Kind::Writer;
        // The second nearest of other layers: one may be chance.
        let elsewhere = nearest(index, false, side, all, directions);
        let second = elsewhere.get(1).or(elsewhere.first()).copied();
        let others = if is_writer { consensus.direction_without(pair.role.layer) } else { None };
        let inside = if is_writer { consensus.agreement_without(pair.role.layer, &side.direction) } else { None };
        Self {
            sibling: nearest(index, true, side, all, directions).first().copied(),
            agreement: second.into_iter().chain(inside).fold(0.0, f64::max),
            along_shared: others.as_ref().and_then(|e| side.along_shared(e)),
        }
    }

    /// The most that any other matrix agrees.
    fn most(&self) -> f64 {
        self.agreement.max(self.sibling.unwrap_or(0.0))
    }
}

/// |cos| with the directions of matrices of one kind, in the same layer or in others; largest first.
fn nearest(
    index: usize,
    same_layer: bool,
    side: &Fitted,
    all: &Measurements<'_>,
    directions: &[Option<&Fitted>],
) -> Vec<f64> {
    let own = &all.pairs[index].pair.role;
    let mut found: Vec<f64> = all
        .pairs
        .iter()
        .zip(directions)
        .enumerate()
        .filter(|(other, (measured, _))| {
            let role = &measured.pair.role;
            let same = own.layer.is_some() && role.layer == own.layer;
            *other != index
                && role.kind == own.kind
                && same == same_layer
                && role.expert.is_none_or(|expert| expert < EXPERTS_ASKED)
        })
        .filter_map(|(_, (_, side))| side.as_ref())
        .map(|other| cosine(&side.direction, &other.direction).abs())
        .collect();
    found.sort_by(|a, b| b.total_cmp(a));
    found
}

/// The removal that fits a matrix best, and whether it is one.
fn projection(measured: &PairMeasurement<'_>, side: &Fitted, company: &Company) -> Projection {
    let (fit, through_grid) = (&side.fit, measured.through_grid);
    let (c, most) = (fit.consistency, company.most());
    let agrees = most >= AGREEMENT;
    let directions_here = side
        .others
        .iter()
        .filter(|(strength, consistency)| {
            consistency.abs() >= CONSISTENCY
                && strength.abs() >= 0.25 * fit.strength.abs()
                && (*strength > 0.0) == (fit.strength > 0.0)
        })
        .count() as u32;
    // So many directions at once, none that another writer lost, are what a lower rank leaves out.
    let reduced = directions_here >= REDUCED
        && most < NOT_OWN
        && company.along_shared.is_none_or(|along| along.consistency().abs() < HELD_OUT);
    let own = if reduced { fit.own_component.max(OWN_COMPONENT) } else { fit.own_component };
    let own_component = own >= EXACTLY_OWN || (own >= OWN_COMPONENT && most < NOT_OWN);
    let uniform = measured.projected.as_ref().map_or(0.0, |projected| projected.uniform);
    let strong = c.abs() >= CONSISTENCY
        && fit.strength.abs() >= SIGMAS * fit.stderr
        && fit.strength.abs() >= FAINTEST.max(ABOVE_SCALE * uniform.abs()).max(ROW_SPREADS * fit.row_spread)
        && !own_component;
    let by_bounds = through_grid.and_then(|grid| grid.lambda);
    // Through a grid that both sides share c is blurred, but every code says between which bounds its number lay: those
    // of this matrix are tried along a direction that the other layers chose.
    let censored = by_bounds.is_some_and(|lambda| lambda >= FAINTEST)
        && (CONSISTENCY_HINT..CONSISTENCY).contains(&c)
        && !own_component;
    Projection {
        strength: by_bounds.unwrap_or(fit.strength),
        stderr: match through_grid {
            Some(grid) if grid.lambda.is_some() => grid.stderr,
            Some(grid) => grid.stderr.max(fit.stderr),
            None => fit.stderr,
        },
        consistency: c,
        cross_fit: side.cross_fit,
        explained: fit.explained,
        quietness: fit.quietness.min(1e6),
        balance: side.balance,
        own_component: own,
        agreement: company.agreement,
        sibling_agreement: company.sibling,
        directions: directions_here.max(1),
        shared_strength: company.along_shared.map(|along| by_bounds.unwrap_or(along.strength())),
        shared_consistency: company.along_shared.map(|along| along.consistency()),
        alone: strong && !agrees && c.abs() >= CONSISTENCY_ALONE,
        fits: (strong || censored) && agrees,
        row_spread: fit.row_spread,
    }
}

/// In a narrow model whose writers all lean on the base (a hard fine-tune undone), one or two that do so most say
/// nothing.
fn unremarkable(tensors: &mut [TensorMeasurement], changed: usize) {
    let writers = || tensors.iter().filter(|tensor| tensor.role.kind == Kind::Writer);
    let of = |tensor: &TensorMeasurement| tensor.projection.as_ref().map(|p| p.consistency);
    let narrow = writers().all(|tensor| tensor.shape[0].min(tensor.shape[1]) < REAL_WIDTH);
    let any_fits = writers().any(|tensor| tensor.projection.as_ref().is_some_and(|p| p.fits));
    let alone = writers().filter(|tensor| tensor.projection.as_ref().is_some_and(|p| p.alone)).count();
    let usual = median(writers().filter_map(of));
    if narrow && !any_fits && (1..SPREAD).contains(&alone) && changed >= MANY && usual >= LEANING {
        tensors.iter_mut().filter_map(|tensor| tensor.projection.as_mut()).for_each(|p| p.alone = false);
    }
}

/// Counts writers that each lost a direction of their own as fitting, where there are many: consistency alone decides
/// then.
pub(super) fn spread(tensors: &mut [TensorMeasurement]) {
    let removed = |tensor: &TensorMeasurement| {
        let own = |p: &Projection| p.alone && p.directions <= OWN_DIRECTIONS && p.consistency >= CONSISTENCY_SURE;
        let removed = |p: &Projection| (p.fits || own(p)) && p.strength > 0.0;
        tensor.role.kind == Kind::Writer && tensor.projection.as_ref().is_some_and(removed)
    };
    let changed = tensors
        .iter()
        .filter(|tensor| tensor.role.kind == Kind::Writer && tensor.sameness == Sameness::Changed)
        .count();
    // Where matrix after matrix lost a component of its own, one known a little less exactly lost its own as well.
    let own = |p: &Projection| !p.fits && !p.alone && p.own_component >= OWN_COMPONENT;
    let is_own =
        |tensor: &TensorMeasurement| tensor.role.kind == Kind::Writer && tensor.projection.as_ref().is_some_and(own);
    if changed > 0 && 2 * tensors.iter().filter(|tensor| is_own(tensor)).count() >= changed {
        for projection in tensors.iter_mut().filter_map(|tensor| tensor.projection.as_mut()) {
            if projection.alone && projection.own_component >= NEARLY_OWN {
                projection.alone = false;
                projection.own_component = OWN_COMPONENT;
            }
        }
    }
    unremarkable(tensors, changed);
    let found: Vec<&TensorMeasurement> = tensors.iter().filter(|tensor| removed(tensor)).collect();
    if found.len() < SPREAD || layers_of(found.iter().copied()) < 2.0 || 2 * found.len() < changed {
        return;
    }
    for tensor in tensors.iter_mut().filter(|tensor| removed(tensor)) {
        if let Some(projection) = &mut tensor.projection {
            (projection.fits, projection.alone) = (true, false);
        }
    }
}

pub(super) fn layers_of<'m>(tensors: impl Iterator<Item = &'m TensorMeasurement>) -> f64 {
    tensors.filter_map(|tensor| tensor.role.layer).collect::<BTreeSet<u32>>().len() as f64
}

/// Along which direction the strength of each writer is asked for.
pub struct RemovedDirections {
    /// For each pair: unit, d numbers; `None` where none was removed.
    pub along: Vec<Option<Vec<f64>>>,
    /// The coordinates that they are directions in.
    pub coordinates: Coordinates,
}

/// The direction that the other layers lost, or a writer's own where it lost one of its own.
pub fn directions(measured: &Measurements<'_>) -> RemovedDirections {
    let coordinates = choose_coordinates(&measured.pairs);
    let consensus = Consensus::new(&measured.pairs, coordinates, &measured.shared[coordinates]);
    let along = measured.pairs.iter().map(|measured| {
        let side = fitted(measured, coordinates).filter(|_| measured.pair.role.kind == Kind::Writer)?;
        let shared = consensus.direction_without(measured.pair.role.layer).map(|e| consensus.lift(&e));
        let own = side.fit.consistency.abs() >= CONSISTENCY_SURE;
        shared.filter(|shared| !own || cosine(shared, &side.direction).abs() >= AGREEMENT).or_else(|| {
            // Without others to ask, only its own is left.
            Some(side.direction.clone())
        })
    });
    RemovedDirections { along: along.collect(), coordinates }
}
