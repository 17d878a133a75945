//! From pairs to the model: which pairs fit a removed direction, given what the other layers show, and the named numbers.

use std::collections::{BTreeMap, BTreeSet};

use faer::Mat;

use super::change::{self, Spectrum};
use super::spectrum;
use super::{Coordinates, Measured, Measurements, Sized};
use crate::arch::Kind;
use crate::pair::Pairing;
use crate::profile::names::{self, Measurement};
use crate::profile::{Numbers, Profile, Projection, Sameness, TensorMeasurement};
use crate::tensor::numbers::{cosine, median};

/// Least held-out consistency of a writer that fits, when others agree with its direction. Honest changes of real weights stay
/// below 0.14 at the median, those of tiny models below 0.67; edits are above 0.95, through coarse quantisers above 0.88.
pub const CONSISTENCY: f64 = 0.85;
/// The same where no other writer agrees.
pub const CONSISTENCY_ALONE: f64 = 0.95;
/// With others that agree, held-out c from here on is no chance either, though too little for a finding.
pub const CONSISTENCY_HINT: f64 = 0.5;
/// In residual streams of this width and more it is none without them either, where half of the changed writers have it: honest changes
/// of real models stayed below 0.14 at the median, those of tiny ones did not.
const REAL_WIDTH: u64 = 512;
/// Least agreement with the directions of other writers.
pub const AGREEMENT: f64 = 0.75;
/// c along a direction chosen without the layer, from which a writer counts as held out.
const HELD_OUT: f64 = 0.5;
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
/// and this many times the standard deviation of the rows' own factors: rows that were each scaled by a factor of their own (DoRA's
/// magnitudes) look like a removal along any direction that gathers rows of one factor, the loud channel's row above all. Of 4,096 normal
/// numbers the largest is 3.7.
const ROW_SPREADS: f64 = 5.0;
/// Writers that lost directions of their own each are a removal when there are so many, in two layers, and half of the changed ones, with
/// [`CONSISTENCY_SURE`]: where a base that was trained hard is compared with its own parent, narrow matrices come near it one by one
/// (`tests/real/controls.py`, crossed cases: medians of 0.965 and 0.976).
const SPREAD: usize = 3;
/// More directions at once that no other matrix lost are what a lower rank leaves out, rather than what an editor takes from each.
const OWN_DIRECTIONS: u32 = 2;
/// One or two say nothing among so many whose median c is this, in a narrow model.
const MANY: usize = 8;
const LEANING: f64 = 0.3;
/// A direction is one channel when its other coordinates hold less than this of it (squared), or no other writer agrees with them.
const OFF_CHANNEL: f64 = 1e-4;
/// Squared coordinate from which a channel is one of the direction's loud ones.
const LOUD_CHANNEL: f64 = 0.1;
/// λ of a channel that was pruned is 1 within this.
const PRUNED: f64 = 0.05;
/// |c| of the transposed test from which the other side counts as edited.
const TRANSPOSED: f64 = 0.995;

/// The model as a whole.
pub struct Summary {
    /// Named numbers and one row per pair.
    pub profile: Profile,
    /// The shared direction (global scope) in the coordinates that won, d numbers; empty when there is none.
    pub direction: Vec<f64>,
}

/// c from which a writer fits without doubt.
const CONSISTENCY_SURE: f64 = 0.985;

/// Sums the measurements up.
pub fn summarize(pairing: &Pairing, measured: &Measurements<'_>) -> Summary {
    let coordinates = choose_coordinates(&measured.pairs);
    let consensus = Consensus::new(&measured.pairs, coordinates, &measured.shared[coordinates]);
    let directions: Vec<Option<&Coordinates>> = measured.pairs.iter().map(|pair| fitted(pair, coordinates)).collect();
    let mut tensors: Vec<TensorMeasurement> = measured
        .pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| tensor_measurement(index, pair, measured, &directions, &consensus))
        .collect();
    spread(&mut tensors);
    let mut model = Numbers::default();
    change::footprint(&mut model, pairing, &tensors);
    change::change(&mut model, &tensors, &measured.pairs);
    let direction = projections(&mut model, measured, &tensors, &directions, &consensus, coordinates);
    others(&mut model, measured, &tensors, &direction);
    model.keep_finite();
    Summary { profile: Profile { model, tensors }, direction }
}

/// Along which direction the strength of each writer is asked for.
pub struct Directions {
    /// For each pair: unit, d numbers; `None` where none was removed.
    pub along: Vec<Option<Vec<f64>>>,
    /// Whether they are directions of rows divided by their norms.
    pub row_normalised: bool,
}

/// The direction that the other layers lost, or a writer's own where it lost one of its own.
pub fn directions(measured: &Measurements<'_>) -> Directions {
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
    Directions { along: along.collect(), row_normalised: coordinates == 1 }
}

/// The fit that counts for a pair: writers in the coordinates that won, everything else as it is.
fn fitted<'m>(pair: &'m Measured<'_>, coordinates: usize) -> Option<&'m Coordinates> {
    let projected = pair.projected.as_ref()?;
    let index = if pair.pair.role.kind == Kind::Writer { coordinates } else { 0 };
    projected.sides[index].as_ref()
}

/// 0 for raw rows, 1 for normalised rows: whichever explains more of the writers' changes. Raw wins ties, since rows of
/// equal norm fit both.
fn choose_coordinates(pairs: &[Measured<'_>]) -> usize {
    let score = |index: usize| -> f64 {
        pairs
            .iter()
            .filter(|pair| pair.pair.role.kind == Kind::Writer)
            .filter_map(|pair| pair.projected.as_ref()?.sides[index].as_ref())
            .map(|side| side.fit.consistency.abs().powi(8) * side.fit.explained)
            .sum()
    };
    usize::from(score(1) > 1.02 * score(0))
}

/// What the layers agree on: the edit as an operator on the shared directions, averaged over layers.
struct Consensus {
    /// Sum over writers of A in the shared basis, per layer, and the number of writers.
    layers: BTreeMap<u32, (Mat<f64>, f64)>,
    shared: Mat<f64>,
}

impl Consensus {
    fn new(pairs: &[Measured<'_>], coordinates: usize, shared: &Mat<f64>) -> Self {
        let mut layers: BTreeMap<u32, (Mat<f64>, f64)> = BTreeMap::new();
        let width = shared.ncols();
        for pair in pairs {
            let (Kind::Writer, Some(layer), Some(side)) =
                (pair.pair.role.kind, pair.pair.role.layer, fitted(pair, coordinates))
            else {
                continue;
            };
            if side.shared.ncols() != width || width == 0 {
                continue;
            }
            let inside = side.shared.transpose() * &side.regression.operator * &side.shared;
            let entry = layers.entry(layer).or_insert_with(|| (Mat::zeros(width, width), 0.0));
            entry.0 += inside;
            entry.1 += 1.0;
        }
        Self { layers, shared: shared.clone() }
    }

    /// Eigenvalues and vectors of the average over all layers but one.
    fn without(&self, layer: Option<u32>) -> (Vec<f64>, Mat<f64>) {
        let width = self.shared.ncols();
        let (mut total, mut count) = (Mat::<f64>::zeros(width, width), 0.0);
        for (other, (operator, weight)) in &self.layers {
            if Some(*other) != layer {
                total += operator;
                count += weight;
            }
        }
        if count > 0.0 {
            total *= faer::Scale(1.0 / count);
        }
        spectrum::symmetric_eigen(total.as_ref())
    }

    /// The direction (in the shared basis) that the other layers lost most of; `None` when no other layer changed.
    fn direction_without(&self, layer: Option<u32>) -> Option<Vec<f64>> {
        let has_others = self.layers.keys().any(|other| Some(*other) != layer);
        let (values, vectors) = self.without(layer);
        (has_others && values.first().is_some_and(|value| *value < 0.0))
            .then(|| vectors.col(0).iter().copied().collect())
    }

    /// How much of a direction lies in what the other layers lost: the length of its projection on the directions whose
    /// eigenvalue is at least half the lowest one. `None` when no other layer changed.
    fn agreement_without(&self, layer: Option<u32>, direction: &[f64]) -> Option<f64> {
        if !self.layers.keys().any(|other| Some(*other) != layer) || self.shared.nrows() != direction.len() {
            return None;
        }
        let (values, vectors) = self.without(layer);
        let lowest = values.first().copied().filter(|lowest| *lowest < 0.0)?;
        let mut inside = 0.0;
        for (index, _) in values.iter().enumerate().take_while(|(_, value)| **value <= 0.5 * lowest) {
            let e: Vec<f64> = vectors.col(index).iter().copied().collect();
            inside += cosine(direction, &self.lift(&e)).powi(2);
        }
        Some(inside.sqrt().min(1.0))
    }

    /// A direction of the shared basis in the residual stream.
    fn lift(&self, e: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.shared.nrows()];
        for (column, weight) in self.shared.col_iter().zip(e) {
            out.iter_mut().zip(column.iter()).for_each(|(out, value)| *out += weight * value);
        }
        out
    }
}

fn tensor_measurement(
    index: usize,
    measured: &Measured<'_>,
    all: &Measurements<'_>,
    directions: &[Option<&Coordinates>],
    consensus: &Consensus,
) -> TensorMeasurement {
    let pair = measured.pair;
    let mut tensor = TensorMeasurement {
        name: pair.name.clone(),
        role: pair.role.clone(),
        shape: [pair.base.rows, pair.base.columns],
        base_dtype: measured.dtypes[0].clone(),
        candidate_dtype: measured.dtypes[1].clone(),
        sameness: measured.sameness,
        changed_fraction: 0.0,
        zeroed_fraction: 0.0,
        not_finite: [0, 0],
        relative_norm: 0.0,
        max_abs: 0.0,
        cosine: 1.0,
        scale: 0.0,
        scale_explained: [0.0; 3],
        norm_drift: [0.0; 2],
        changed_rows: 0.0,
        rounding: 0.0,
        kurtosis: 0.0,
        spectrum: Vec::new(),
        effective_rank: 0.0,
        above_noise: 0,
        values_known: 0,
        low_rank_share: 0.0,
        cliff: 0.0,
        last_share: 0.0,
        noise: 0.0,
        projection: None,
    };
    let Some(sized) = &measured.moments else { return tensor };
    let sums = &sized.total;
    let elements = (sized.shape[0] * sized.shape[1]).max(1) as f64;
    let xx = (sums.ww + 2.0 * sums.dw + sums.dd).max(0.0);
    tensor.changed_fraction = sums.changed as f64 / elements;
    tensor.zeroed_fraction = sums.zeroed as f64 / elements;
    tensor.not_finite = sums.not_finite;
    let relative = |energy: f64| if sums.ww > 0.0 { (energy / sums.ww).sqrt() } else { 0.0 };
    tensor.relative_norm = relative(sums.dd);
    tensor.max_abs = f64::from(sums.max);
    tensor.cosine = if sums.ww > 0.0 && xx > 0.0 { (sums.ww + sums.dw) / (sums.ww * xx).sqrt() } else { 0.0 };
    tensor.scale = if sums.ww > 0.0 { sums.dw / sums.ww } else { 0.0 };
    tensor.scale_explained = sized.scale_explained;
    tensor.norm_drift = sized.norm_drift;
    tensor.changed_rows =
        sized.changed_rows.iter().filter(|changed| **changed).count() as f64 / sized.changed_rows.len().max(1) as f64;
    tensor.rounding = change::rounding(sized);
    tensor.kurtosis = if sums.blocks > 0 { sums.kurtosis / sums.blocks as f64 } else { 0.0 };
    let spectrum = Spectrum::of(sized);
    tensor.spectrum = spectrum.shares.clone();
    tensor.effective_rank = spectrum.effective_rank;
    tensor.above_noise = spectrum.above;
    tensor.values_known = spectrum.known;
    tensor.low_rank_share = spectrum.low_rank_share;
    tensor.cliff = spectrum.cliff;
    tensor.last_share = spectrum.last;
    tensor.noise = relative(spectrum.left);

    let Some(side) = directions[index] else { return tensor };
    let is_writer = pair.role.kind == Kind::Writer;
    let cosines = |same_layer: bool| -> Vec<f64> {
        let mut found: Vec<f64> = all
            .pairs
            .iter()
            .zip(directions)
            .enumerate()
            .filter(|(other, (measured, _))| {
                let role = &measured.pair.role;
                let same = pair.role.layer.is_some() && role.layer == pair.role.layer;
                // Among thousands of experts a few tell as much as all.
                *other != index
                    && role.kind == pair.role.kind
                    && same == same_layer
                    && role.expert.is_none_or(|expert| expert < 4)
            })
            .filter_map(|(_, (_, side))| side.as_ref())
            .map(|other| cosine(&side.direction, &other.direction).abs())
            .collect();
        found.sort_by(|a, b| b.total_cmp(a));
        found
    };
    let sibling = cosines(true).first().copied();
    // The second nearest of other layers: one may be chance.
    let elsewhere = cosines(false);
    let nearest = elsewhere.get(1).or(elsewhere.first()).copied();
    let others = if is_writer { consensus.direction_without(pair.role.layer) } else { None };
    let inside = if is_writer { consensus.agreement_without(pair.role.layer, &side.direction) } else { None };
    let along_shared = others.as_ref().and_then(|e| side.along_shared(e));
    let through_grid = measured.through_grid;
    let agreement = nearest.into_iter().chain(inside).fold(0.0, f64::max);
    let fit = &side.fit;
    let c = fit.consistency;
    let most = agreement.max(sibling.unwrap_or(0.0));
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
        && along_shared.is_none_or(|along| along.consistency().abs() < HELD_OUT);
    let own = if reduced { fit.own_component.max(OWN_COMPONENT) } else { fit.own_component };
    let own_component = own >= EXACTLY_OWN || (own >= OWN_COMPONENT && most < NOT_OWN);
    let uniform = measured.projected.as_ref().map_or(0.0, |projected| projected.uniform);
    let strong = c.abs() >= CONSISTENCY
        && fit.strength.abs() >= SIGMAS * fit.stderr
        && fit.strength.abs() >= FAINTEST.max(ABOVE_SCALE * uniform.abs()).max(ROW_SPREADS * fit.row_spread)
        && !own_component;
    // Through a grid that both sides share c is blurred, but every code says between which bounds its number lay: those of this matrix are
    // tried along a direction that the other layers chose.
    let censored = through_grid.and_then(|grid| grid.lambda).is_some_and(|lambda| lambda >= FAINTEST)
        && (CONSISTENCY_HINT..CONSISTENCY).contains(&c)
        && !own_component;
    let fits = (strong || censored) && agrees;
    tensor.projection = Some(Projection {
        strength: through_grid.and_then(|grid| grid.lambda).unwrap_or(fit.strength),
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
        agreement,
        sibling_agreement: sibling,
        directions: directions_here.max(1),
        shared_strength: along_shared
            .map(|along| through_grid.and_then(|grid| grid.lambda).unwrap_or(along.strength())),
        shared_consistency: along_shared.map(|along| along.consistency()),
        alone: strong && !agrees && c.abs() >= CONSISTENCY_ALONE,
        fits,
        row_spread: fit.row_spread,
    });
    tensor
}

/// In a narrow model whose writers all lean on the base (a hard fine-tune undone), one or two that do so most say nothing.
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

/// Counts writers that each lost a direction of their own as fitting, where there are many: consistency alone decides then.
fn spread(tensors: &mut [TensorMeasurement]) {
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

fn layers_of<'m>(tensors: impl Iterator<Item = &'m TensorMeasurement>) -> f64 {
    tensors.filter_map(|tensor| tensor.role.layer).collect::<BTreeSet<u32>>().len() as f64
}

/// The statistics that decide. Returns the direction that the fitting writers share, if they share one.
fn projections(
    model: &mut Numbers,
    measured: &Measurements<'_>,
    tensors: &[TensorMeasurement],
    directions: &[Option<&Coordinates>],
    consensus: &Consensus,
    coordinates: usize,
) -> Vec<f64> {
    let mut put = |measurement: Measurement, value: f64| model.put(measurement, value);
    let writers: Vec<(&TensorMeasurement, &Projection)> = tensors
        .iter()
        .filter(|tensor| tensor.role.kind == Kind::Writer)
        .filter_map(|tensor| Some((tensor, tensor.projection.as_ref()?)))
        .collect();
    if !writers.is_empty() {
        put(names::PROJECTION_ROW_SPREAD, median(writers.iter().map(|(_, p)| p.row_spread)));
        put(names::PROJECTION_CONSISTENCY_ALL, median(writers.iter().map(|(_, p)| p.consistency)));
    }
    let fits: Vec<&(&TensorMeasurement, &Projection)> =
        writers.iter().filter(|(_, p)| p.fits && p.strength > 0.0).collect();
    put(names::PROJECTION_TENSORS, fits.len() as f64);
    put(names::PROJECTION_LAYERS, layers_of(fits.iter().map(|(tensor, _)| *tensor)));
    put(names::PROJECTION_ALONE, writers.iter().filter(|(_, p)| p.alone && p.strength > 0.0).count() as f64);
    put(
        names::EXPERT_PROJECTION_TENSORS,
        fits.iter().filter(|(tensor, _)| tensor.role.expert.is_some()).count() as f64,
    );
    let shown = if fits.is_empty() { writers.iter().collect() } else { fits.clone() };
    if !shown.is_empty() {
        let middle = |of: &dyn Fn(&Projection) -> f64| median(shown.iter().map(|(_, p)| of(p)));
        put(names::PROJECTION_SHARE, fits.len() as f64 / writers.len() as f64);
        put(names::PROJECTION_CONSISTENCY, middle(&|p| p.consistency));
        put(names::PROJECTION_EXPLAINED, middle(&|p| p.explained));
        put(names::PROJECTION_STRENGTH, middle(&|p| p.strength));
        put(names::PROJECTION_STRENGTH_MAX, shown.iter().map(|(_, p)| p.strength).fold(f64::MIN, f64::max));
        put(names::PROJECTION_STRENGTH_MIN, shown.iter().map(|(_, p)| p.strength).fold(f64::MAX, f64::min));
        put(names::PROJECTION_QUIETNESS, middle(&|p| p.quietness));
        put(names::PROJECTION_ROW_NORMALISED, coordinates as f64);
        put(names::PROJECTION_AGREEMENT, middle(&|p| p.agreement));
        put(names::PROJECTION_CROSS_FIT, middle(&|p| p.cross_fit));
        put(names::PROJECTION_BALANCE, middle(&|p| p.balance));
        put(names::PROJECTION_OWN_COMPONENT, middle(&|p| p.own_component));
        put(names::PROJECTION_DIRECTIONS, middle(&|p| f64::from(p.directions)));
        put(names::PROJECTION_ROW_NORM_DRIFT, median(shown.iter().map(|(tensor, _)| tensor.norm_drift[0])));
        put(names::PROJECTION_COLUMN_NORM_DRIFT, median(shown.iter().map(|(tensor, _)| tensor.norm_drift[1])));
        let siblings: Vec<f64> = shown.iter().filter_map(|(_, p)| p.sibling_agreement).collect();
        if !siblings.is_empty() {
            put(names::PROJECTION_SIBLING_AGREEMENT, median(siblings));
        }
    }
    if !writers.is_empty() {
        let held: Vec<(&TensorMeasurement, &Projection)> =
            writers.iter().copied().filter(|(_, p)| p.shared_consistency.is_some_and(|c| c >= HELD_OUT)).collect();
        put(names::HELD_OUT_TENSORS, held.len() as f64);
        put(names::HELD_OUT_LAYERS, layers_of(held.iter().map(|(tensor, _)| *tensor)));
        put(names::HELD_OUT_SHARE, held.len() as f64 / writers.len() as f64);
        put(names::HELD_OUT_CONSISTENCY, median(writers.iter().filter_map(|(_, p)| p.shared_consistency)));
        put(names::HELD_OUT_STRENGTH, median(held.iter().filter_map(|(_, p)| p.shared_strength)));
    }
    let (values, _) = consensus.without(None);
    if let Some(lowest) = values.first() {
        put(names::PROJECTION_POOLED_STRENGTH, -lowest);
        let next =
            values.get(1).copied().unwrap_or(0.0).min(0.0).abs().max(values.last().copied().unwrap_or(0.0).abs());
        let gap = if next > 0.0 { (-lowest / next).max(0.0) } else { 1e6 };
        put(names::PROJECTION_POOLED_GAP, gap);
        let sure = fits.iter().filter(|(_, p)| p.consistency >= CONSISTENCY_ALONE).count() as f64;
        let share = fits.len() as f64 / writers.len().max(1) as f64;
        put(names::PROJECTION_SUPPORT, share.max(gap / 6.0).max(sure / 6.0).min(1.0));
    }
    // Over the writers that changed: what the others could hide is nothing.
    let limits: Vec<f64> = tensors
        .iter()
        .zip(&measured.pairs)
        .filter(|(tensor, _)| tensor.role.kind == Kind::Writer && tensor.sameness == Sameness::Changed)
        .map(|(tensor, pair)| {
            let planted = pair.projected.as_ref().and_then(|projected| projected.limit);
            // Where everything that changed was set aside, nothing is left to hide in.
            let aside = pair.moments.as_ref().is_some_and(|sized| sized.set_aside > 0.0);
            let scaled = tensor.projection.as_ref().map_or(0.0, |p| ROW_SPREADS * p.row_spread);
            let planted = planted.unwrap_or_else(|| if aside { 0.0 } else { detection_limit(tensor) });
            planted.max(scaled).clamp(LEAST, UNTESTABLE)
        })
        .collect();
    if tensors.iter().any(|tensor| tensor.role.kind == Kind::Writer) {
        // What the rows' factors excuse in any writer is not above the limit that is printed: else scaling the edited ones would hide them
        // behind the others.
        let excused = |p: &Projection| {
            let limit = ROW_SPREADS * p.row_spread;
            if p.consistency >= CONSISTENCY_HINT && (LEAST..limit).contains(&p.strength) { limit } else { 0.0 }
        };
        let excused = writers.iter().map(|(_, p)| excused(p)).fold(0.0, f64::max);
        put(names::PROJECTION_DETECTION_LIMIT, median(limits).max(excused.min(UNTESTABLE)));
    }
    let aside: Vec<&Sized> = measured
        .pairs
        .iter()
        .filter(|pair| pair.pair.role.kind == Kind::Writer)
        .filter_map(|pair| pair.moments.as_ref())
        .collect();
    put(names::WRITERS_MOVED_COLUMNS, aside.iter().map(|sized| sized.moved as f64).sum());
    put(names::PROJECTION_SET_ASIDE, aside.iter().map(|sized| sized.set_aside).fold(0.0, f64::max));
    let width = |tensor: &TensorMeasurement| match tensor.role.residual {
        Some(crate::arch::Axis::Columns) => tensor.shape[1],
        _ => tensor.shape[0],
    };
    // λ̂ is no measure here: through a grid that both sides share it comes out many times too small.
    let stands_out = |p: &Projection| p.strength >= LEAST.max(ROW_SPREADS * p.row_spread);
    let tied = |p: &Projection| p.consistency >= CONSISTENCY_HINT && stands_out(p);
    let wide = writers.iter().filter(|(tensor, p)| tied(p) && width(tensor) >= REAL_WIDTH).count();
    let most = 2 * wide >= writers.len();
    let hinted = |tensor: &TensorMeasurement, p: &Projection| {
        let agrees = p.agreement.max(p.sibling_agreement.unwrap_or(0.0)) >= AGREEMENT;
        tied(p) && (agrees || (most && width(tensor) >= REAL_WIDTH))
    };
    let (own, mut hints): (Vec<_>, Vec<_>) = writers
        .iter()
        .copied()
        .filter(|(tensor, p)| {
            let dropped = p.own_component >= OWN_COMPONENT && p.consistency >= CONSISTENCY_ALONE && stands_out(p);
            hinted(tensor, p) || ((p.alone || p.fits || dropped) && p.strength > 0.0)
        })
        .partition(|(_, p)| !p.fits && !p.alone && p.own_component >= OWN_COMPONENT);
    let own_share = own.len() as f64 / writers.len().max(1) as f64;
    put(names::PROJECTION_OWN_SHARE, own_share);
    if own_share < 0.5 {
        // Rank reduction goes through a model; one matrix that lost a component of its own lost a direction.
        hints.extend(own);
    }
    put(names::PROJECTION_HINTED, hints.len() as f64);
    put(names::PROJECTION_HINTED_LAYERS, layers_of(hints.iter().map(|(tensor, _)| *tensor)));
    let added: Vec<_> = writers.iter().filter(|(_, p)| p.fits && p.strength < 0.0).collect();
    put(names::ADDITION_TENSORS, added.len() as f64);
    put(names::ADDITION_LAYERS, layers_of(added.iter().map(|(tensor, _)| *tensor)));
    if !added.is_empty() {
        put(names::ADDITION_CONSISTENCY, median(added.iter().map(|(_, p)| -p.consistency)));
    }

    let readers: Vec<(&TensorMeasurement, &Projection)> = tensors
        .iter()
        .filter(|tensor| tensor.role.kind == Kind::Reader)
        .filter_map(|tensor| Some((tensor, tensor.projection.as_ref()?)))
        .filter(|(_, p)| p.fits && p.strength > 0.0)
        .collect();
    put(names::READER_PROJECTION_TENSORS, readers.len() as f64);
    put(names::READER_PROJECTION_LAYERS, layers_of(readers.iter().map(|(tensor, _)| *tensor)));
    if !readers.is_empty() {
        put(names::READER_PROJECTION_CONSISTENCY, median(readers.iter().map(|(_, p)| p.consistency)));
        put(names::READER_PROJECTION_STRENGTH, median(readers.iter().map(|(_, p)| p.strength)));
        put(names::READER_PROJECTION_AGREEMENT, median(readers.iter().map(|(_, p)| p.agreement)));
    }

    let direction = shared_direction(measured, tensors, directions);
    put(names::PROJECTION_CHANNEL, 0.0);
    if !direction.is_empty() {
        put(names::PROJECTION_AXIS_WEIGHT, direction.iter().map(|value| value * value).fold(0.0, f64::max));
        let channel = is_channel(tensors, directions);
        put(names::PROJECTION_CHANNEL, f64::from(u8::from(channel)));
        let pruned = |kind: Kind| {
            let of: Vec<&TensorMeasurement> = tensors.iter().filter(|tensor| tensor.role.kind == kind).collect();
            let gone = |tensor: &&&TensorMeasurement| {
                let whole = |p: &Projection| p.consistency >= CONSISTENCY && (p.strength - 1.0).abs() <= PRUNED;
                tensor.projection.as_ref().is_some_and(whole)
            };
            // One in twenty may be blurred by something else.
            !of.is_empty() && 20 * of.iter().filter(gone).count() >= 19 * of.len()
        };
        let pruned = channel && pruned(Kind::Writer) && pruned(Kind::Embedding);
        put(names::PROJECTION_CHANNEL_PRUNED, f64::from(u8::from(pruned)));
    }
    direction
}

/// A limit above this is no limit.
const UNTESTABLE: f64 = 9.0;
/// and one below this is not claimed of anything that changed.
const LEAST: f64 = 0.001;

/// The smallest λ at which this writer would have fitted by itself: 0 where it is bit-identical.
///
/// The noise is what is left of the change without its large values; where those are not an edit they can still hide one, so the
/// limit is never below the λ whose energy would reach the last value the range finder saw.
pub fn detection_limit(tensor: &TensorMeasurement) -> f64 {
    if tensor.sameness != Sameness::Changed || tensor.relative_norm == 0.0 {
        return 0.0;
    }
    let (d, n) = match tensor.role.residual {
        Some(crate::arch::Axis::Columns) => (tensor.shape[1] as f64, tensor.shape[0] as f64),
        _ => (tensor.shape[0] as f64, tensor.shape[1] as f64),
    };
    let blind = spectrum::detection_limit(tensor.noise.max(1e-9), d / n.max(1.0), CONSISTENCY);
    let hidden = if tensor.projection.as_ref().is_some_and(|p| p.fits) {
        0.0
    } else {
        tensor.relative_norm * (tensor.last_share * d).sqrt()
    };
    blind.max(hidden)
}

/// Whether the direction that the fitting writers lost is one residual channel and nothing else: off its loudest channels there is
/// next to nothing of it, or nothing that two writers agree on. A removal along a mixture that leans on a channel is none of that.
fn is_channel(tensors: &[TensorMeasurement], directions: &[Option<&Coordinates>]) -> bool {
    let fitting: Vec<&Vec<f64>> = tensors
        .iter()
        .zip(directions)
        .filter(|(tensor, _)| tensor.role.kind == Kind::Writer && tensor.projection.as_ref().is_some_and(|p| p.fits))
        .filter_map(|(_, side)| side.as_ref().map(|side| &side.direction))
        .take(64)
        .collect();
    let off: Vec<(f64, Vec<f64>)> = fitting
        .iter()
        .map(|direction| {
            let rest: Vec<f64> =
                direction.iter().map(|value| if value * value >= LOUD_CHANNEL { 0.0 } else { *value }).collect();
            (rest.iter().map(|value| value * value).sum(), rest)
        })
        .collect();
    let weight = median(off.iter().map(|(weight, _)| *weight));
    let loud = |direction: &&&Vec<f64>| direction.iter().any(|value| value * value >= LOUD_CHANNEL);
    // Two loud channels and more that are lost at one rate along one direction are a mixture: pruning would have left them zero.
    let mixed = |direction: &&&Vec<f64>| direction.iter().filter(|value| *value * *value >= LOUD_CHANNEL).count() > 1;
    if weight > 0.5
        || 2 * fitting.iter().filter(loud).count() < fitting.len()
        || 2 * fitting.iter().filter(mixed).count() > fitting.len()
    {
        return false;
    }
    let nearest: Vec<f64> = off
        .iter()
        .enumerate()
        .map(|(at, (_, rest))| {
            let mut others: Vec<f64> = off
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != at)
                .map(|(_, (_, other))| cosine(rest, other).abs())
                .collect();
            others.sort_by(|a, b| b.total_cmp(a));
            others.get(1).or(others.first()).copied().unwrap_or(0.0)
        })
        .collect();
    weight < OFF_CHANNEL || median(nearest) < CONSISTENCY_HINT
}

/// Leading common direction of the fitting writers, signed arbitrarily; empty when none fits.
fn shared_direction(
    measured: &Measurements<'_>,
    tensors: &[TensorMeasurement],
    directions: &[Option<&Coordinates>],
) -> Vec<f64> {
    let chosen: Vec<&Vec<f64>> = tensors
        .iter()
        .zip(directions)
        .zip(&measured.pairs)
        .filter(|((tensor, _), _)| {
            tensor.role.kind == Kind::Writer && tensor.projection.as_ref().is_some_and(|p| p.fits)
        })
        .filter_map(|((_, side), _)| side.as_ref().map(|side| &side.direction))
        .take(256)
        .collect();
    let Some(first) = chosen.first() else { return Vec::new() };
    let stack = Mat::from_fn(first.len(), chosen.len(), |i, j| chosen[j].get(i).copied().unwrap_or(0.0));
    let Ok(svd) = stack.thin_svd() else { return Vec::new() };
    svd.U().col(0).iter().copied().collect()
}

/// Embeddings, the other side, biases, routers: traces beside the writers' projection.
fn others(model: &mut Numbers, measured: &Measurements<'_>, tensors: &[TensorMeasurement], direction: &[f64]) {
    let mut put = |measurement: Measurement, value: f64| model.put(measurement, value);
    for (kind, strength, consistency) in [
        (Kind::Embedding, names::EMBEDDING_STRENGTH, names::EMBEDDING_CONSISTENCY),
        (Kind::Head, names::HEAD_STRENGTH, names::HEAD_CONSISTENCY),
    ] {
        let found =
            tensors.iter().find(|tensor| tensor.role.kind == kind).and_then(|tensor| tensor.projection.as_ref());
        if let Some(projection) = found {
            put(strength, projection.strength);
            put(consistency, projection.consistency);
        }
    }
    let wrong: Vec<(&TensorMeasurement, &Vec<f64>)> = tensors
        .iter()
        .zip(&measured.pairs)
        .filter(|(tensor, _)| {
            tensor.role.kind == Kind::Writer
                && tensor.projection.as_ref().is_some_and(|p| !p.fits && p.consistency < 0.9)
        })
        .filter_map(|(tensor, pair)| {
            let projected = pair.projected.as_ref()?;
            (projected.transposed >= TRANSPOSED && tensor.spectrum.first().is_some_and(|share| *share > 0.5))
                .then_some((tensor, &projected.right))
        })
        .collect();
    put(names::WRONG_SIDE_TENSORS, wrong.len() as f64);
    put(names::WRONG_SIDE_LAYERS, layers_of(wrong.iter().map(|(tensor, _)| *tensor)));
    if wrong.len() >= 2 {
        let agreements: Vec<f64> = wrong.windows(2).map(|two| cosine(two[0].1, two[1].1).abs()).collect();
        put(names::WRONG_SIDE_AGREEMENT, median(agreements));
    }
    let uniform = measured
        .pairs
        .iter()
        .zip(tensors)
        .filter(|(pair, tensor)| {
            tensor.role.kind == Kind::Writer
                && tensor.spectrum.first().is_some_and(|share| *share > 0.5)
                && pair.projected.as_ref().is_some_and(|projected| projected.uniform_right > 0.99)
        })
        .count();
    put(names::STEERING_UNIFORM_RIGHT, uniform as f64);
    let rescaled: u64 = measured
        .pairs
        .iter()
        .filter(|pair| pair.pair.role.kind == Kind::Router)
        .filter_map(|pair| pair.moments.as_ref().map(|sized| sized.rescaled_rows))
        .sum();
    put(names::ROUTER_ROWS_SCALED, rescaled as f64);

    let biases: Vec<&Vec<f64>> = measured
        .pairs
        .iter()
        .filter(|pair| pair.pair.role.kind == Kind::Bias && pair.pair.role.residual.is_some())
        .filter_map(|pair| pair.moments.as_ref()?.vector.as_ref())
        .chain(&measured.added_biases)
        .collect();
    // One of nothing but zeros adds nothing.
    let added = measured.added_biases.iter().filter(|bias| bias.iter().any(|value| *value != 0.0)).count();
    put(names::BIAS_ADDED, added as f64);
    if !biases.is_empty() {
        let with_direction = biases.iter().map(|bias| cosine(bias, direction).abs()).fold(0.0, f64::max);
        let with_one_another = biases.windows(2).map(|two| cosine(two[0], two[1]).abs()).fold(0.0, f64::max);
        put(names::BIAS_ALIGNMENT, with_direction.max(with_one_another));
    }
}
