//! From pairs to the model: the named numbers that signatures speak of.

use super::change;
use super::channel::{PRUNED, is_channel, shared_direction};
use super::consensus::{Consensus, choose_coordinates, fitted};
use super::fits::{
    AGREEMENT, CONSISTENCY, CONSISTENCY_ALONE, CONSISTENCY_HINT, HELD_OUT, OWN_COMPONENT, REAL_WIDTH, ROW_SPREADS,
    layers_of, spread, tensor_measurement,
};
use super::limit::{LEAST, UNTESTABLE, detection_limit};
use super::measured::{AsOperator, Change, Fitted, Measurements};
use super::{in_place, rounding};
use crate::arch::{Axis, Kind};
use crate::pair::Pairing;
use crate::profile::names;
use crate::profile::{Coordinates, Numbers, Profile, Projection, Sameness, TensorMeasurement};
use crate::tensor::numbers::{cosine, median};

/// |c| of the transposed test from which the other side counts as edited.
const TRANSPOSED: f64 = 0.995;

/// The pooled gap where nothing else stands beside the lowest eigenvalue.
const NO_NEXT: f64 = 1e6;
/// Support is whole with this gap,
const GAP_WHOLE: f64 = 6.0;
/// or so many sure writers.
const SURE_WHOLE: f64 = 6.0;

/// The model as a whole.
pub struct ModelSummary {
    /// Named numbers and one row per pair.
    pub profile: Profile,
    /// The shared direction (global scope) in the coordinates that won, d numbers; empty when there is none.
    pub direction: Vec<f64>,
}

/// Sums the measurements up.
pub fn summarize(pairing: &Pairing, measured: &Measurements<'_>) -> ModelSummary {
    let coordinates = choose_coordinates(&measured.pairs);
    let consensus = Consensus::new(&measured.pairs, coordinates, &measured.shared[coordinates]);
    let directions: Vec<Option<&Fitted>> = measured.pairs.iter().map(|pair| fitted(pair, coordinates)).collect();
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
    let writers = of_kind(&tensors, Kind::Writer);
    projections(&mut model, &writers, coordinates);
    held_out(&mut model, &writers);
    pooled(&mut model, &writers, &consensus);
    limits(&mut model, measured, &tensors, &writers);
    hints(&mut model, &writers);
    additions(&mut model, &writers);
    readers(&mut model, &of_kind(&tensors, Kind::Reader));
    drafts(&mut model, &tensors);
    let direction = shared_direction(measured, &tensors, &directions);
    model.put(names::PROJECTION_CHANNEL, 0.0);
    if !direction.is_empty() {
        channels(&mut model, &tensors, &directions, &direction);
    }
    ends(&mut model, &tensors);
    if let Some(operator) = &measured.as_operator {
        as_operator(&mut model, operator);
    }
    other_side(&mut model, measured, &tensors);
    biases(&mut model, measured, &direction);
    model.keep_finite();
    let mut profile = Profile { model, tensors };
    rounding::summarize(pairing, measured, &mut profile);
    in_place::summarize(&mut profile.model, measured, &profile.tensors);
    ModelSummary { profile, direction }
}

/// Matrices with the fit that was made of each.
type Fits<'t> = Vec<(&'t TensorMeasurement, &'t Projection)>;

/// Those of one kind that have a fit.
fn of_kind(tensors: &[TensorMeasurement], kind: Kind) -> Fits<'_> {
    let of = tensors.iter().filter(|tensor| tensor.role.kind == kind);
    of.filter_map(|tensor| Some((tensor, tensor.projection.as_ref()?))).collect()
}

/// Layers that these matrices lie in.
fn layers(fits: &[(&TensorMeasurement, &Projection)]) -> f64 {
    layers_of(fits.iter().map(|(tensor, _)| *tensor))
}

/// Writers that fit a removed direction.
fn fitting<'t>(writers: &Fits<'t>) -> Fits<'t> {
    writers.iter().copied().filter(|(_, p)| p.fits && p.strength > 0.0).collect()
}

/// The statistics that decide: over the writers that fit, or over all that changed where none does.
fn projections(model: &mut Numbers, writers: &Fits<'_>, coordinates: Coordinates) {
    let fits = fitting(writers);
    model.put(names::PROJECTION_TENSORS, fits.len() as f64);
    model.put(names::PROJECTION_LAYERS, layers(&fits));
    let alone = writers.iter().filter(|(_, p)| p.alone && p.strength > 0.0).count();
    model.put(names::PROJECTION_ALONE, alone as f64);
    let experts = fits.iter().filter(|(tensor, _)| tensor.role.expert.is_some()).count();
    model.put(names::EXPERT_PROJECTION_TENSORS, experts as f64);
    if writers.is_empty() {
        return;
    }
    model.put(names::PROJECTION_ROW_SPREAD, median(writers.iter().map(|(_, p)| p.row_spread)));
    model.put(names::PROJECTION_CONSISTENCY_ALL, median(writers.iter().map(|(_, p)| p.consistency)));
    model.put(names::PROJECTION_SHARE, fits.len() as f64 / writers.len() as f64);
    model.put(names::PROJECTION_ROW_NORMALISED, coordinates.as_number());
    let shown = if fits.is_empty() { writers } else { &fits };
    let middle = |of: &dyn Fn(&Projection) -> f64| median(shown.iter().map(|(_, p)| of(p)));
    for (measurement, value) in [
        (names::PROJECTION_CONSISTENCY, middle(&|p| p.consistency)),
        (names::PROJECTION_EXPLAINED, middle(&|p| p.explained)),
        (names::PROJECTION_STRENGTH, middle(&|p| p.strength)),
        (names::PROJECTION_STRENGTH_MAX, shown.iter().map(|(_, p)| p.strength).fold(f64::MIN, f64::max)),
        (names::PROJECTION_STRENGTH_MIN, shown.iter().map(|(_, p)| p.strength).fold(f64::MAX, f64::min)),
        (names::PROJECTION_QUIETNESS, middle(&|p| p.quietness)),
        (names::PROJECTION_AGREEMENT, middle(&|p| p.agreement)),
        (names::PROJECTION_CROSS_FIT, middle(&|p| p.cross_fit)),
        (names::PROJECTION_BALANCE, middle(&|p| p.balance)),
        (names::PROJECTION_OWN_COMPONENT, middle(&|p| p.own_component)),
        (names::PROJECTION_DIRECTIONS, middle(&|p| f64::from(p.directions))),
        (names::PROJECTION_ROW_NORM_DRIFT, median(shown.iter().map(|(tensor, _)| tensor.norm_drift[0]))),
        (names::PROJECTION_COLUMN_NORM_DRIFT, median(shown.iter().map(|(tensor, _)| tensor.norm_drift[1]))),
    ] {
        model.put(measurement, value);
    }
    let siblings: Vec<f64> = shown.iter().filter_map(|(_, p)| p.sibling_agreement).collect();
    if !siblings.is_empty() {
        model.put(names::PROJECTION_SIBLING_AGREEMENT, median(siblings));
    }
}

/// Writers along the direction that the other layers chose.
fn held_out(model: &mut Numbers, writers: &Fits<'_>) {
    if writers.is_empty() {
        return;
    }
    let held: Fits<'_> =
        writers.iter().copied().filter(|(_, p)| p.shared_consistency.is_some_and(|c| c >= HELD_OUT)).collect();
    model.put(names::HELD_OUT_TENSORS, held.len() as f64);
    model.put(names::HELD_OUT_LAYERS, layers(&held));
    model.put(names::HELD_OUT_SHARE, held.len() as f64 / writers.len() as f64);
    model.put(names::HELD_OUT_CONSISTENCY, median(writers.iter().filter_map(|(_, p)| p.shared_consistency)));
    model.put(names::HELD_OUT_STRENGTH, median(held.iter().filter_map(|(_, p)| p.shared_strength)));
}

/// The operator over all changed writers together.
fn pooled(model: &mut Numbers, writers: &Fits<'_>, consensus: &Consensus) {
    let (values, _) = consensus.without(None);
    let Some(lowest) = values.first() else { return };
    let fits = fitting(writers);
    let next = values.get(1).copied().unwrap_or(0.0).min(0.0).abs().max(values.last().copied().unwrap_or(0.0).abs());
    let gap = if next > 0.0 { (-lowest / next).max(0.0) } else { NO_NEXT };
    let sure = fits.iter().filter(|(_, p)| p.consistency >= CONSISTENCY_ALONE).count() as f64;
    let share = fits.len() as f64 / writers.len().max(1) as f64;
    model.put(names::PROJECTION_POOLED_STRENGTH, -lowest);
    model.put(names::PROJECTION_POOLED_GAP, gap);
    model.put(names::PROJECTION_SUPPORT, share.max(gap / GAP_WHOLE).max(sure / SURE_WHOLE).min(1.0));
}

/// The smallest strength that would have been seen, and what was put back or set aside before anything was asked.
fn limits(model: &mut Numbers, measured: &Measurements<'_>, tensors: &[TensorMeasurement], writers: &Fits<'_>) {
    // Over the writers that changed: what the others could hide is nothing.
    let limits: Vec<f64> = tensors
        .iter()
        .zip(&measured.pairs)
        .filter(|(tensor, _)| tensor.role.kind == Kind::Writer && tensor.sameness == Sameness::Changed)
        .map(|(tensor, pair)| {
            let planted = pair.projected.as_ref().and_then(|projected| projected.limit);
            // Where everything that changed was set aside, nothing is left to hide in.
            let aside = pair.moments.as_ref().is_some_and(|change| change.set_aside > 0.0);
            let scaled = tensor.projection.as_ref().map_or(0.0, |p| ROW_SPREADS * p.row_spread);
            let planted = planted.unwrap_or_else(|| if aside { 0.0 } else { detection_limit(tensor) });
            planted.max(scaled).clamp(LEAST, UNTESTABLE)
        })
        .collect();
    if tensors.iter().any(|tensor| tensor.role.kind == Kind::Writer) {
        // What the rows' factors excuse in any writer is not above the limit that is printed: else scaling the edited
        // ones would hide them behind the others.
        let excused = |p: &Projection| {
            let limit = ROW_SPREADS * p.row_spread;
            if p.consistency >= CONSISTENCY_HINT && (LEAST..limit).contains(&p.strength) { limit } else { 0.0 }
        };
        let excused = writers.iter().map(|(_, p)| excused(p)).fold(0.0, f64::max);
        model.put(names::PROJECTION_DETECTION_LIMIT, median(limits).max(excused.min(UNTESTABLE)));
    }
    let aside: Vec<&Change> = measured
        .pairs
        .iter()
        .filter(|pair| pair.pair.role.kind == Kind::Writer)
        .filter_map(|pair| pair.moments.as_ref())
        .collect();
    model.put(names::WRITERS_MOVED_COLUMNS, aside.iter().map(|change| change.moved as f64).sum());
    model.put(names::PROJECTION_SET_ASIDE, aside.iter().map(|change| change.set_aside).fold(0.0, f64::max));
}

/// Width of the residual stream that a matrix faces.
fn width(tensor: &TensorMeasurement) -> u64 {
    match tensor.role.residual {
        Some(Axis::Columns) => tensor.shape[1],
        _ => tensor.shape[0],
    }
}

/// Writers whose change measures as a removal, whether or not it is enough for a finding.
fn hints(model: &mut Numbers, writers: &Fits<'_>) {
    // λ̂ is no measure here: through a grid that both sides share it comes out many times too small.
    let stands_out = |p: &Projection| p.strength >= LEAST.max(ROW_SPREADS * p.row_spread);
    let tied = |p: &Projection| p.consistency >= CONSISTENCY_HINT && stands_out(p);
    let wide = writers.iter().filter(|(tensor, p)| tied(p) && width(tensor) >= REAL_WIDTH).count();
    let most = 2 * wide >= writers.len();
    let hinted = |tensor: &TensorMeasurement, p: &Projection| {
        let agrees = p.agreement.max(p.sibling_agreement.unwrap_or(0.0)) >= AGREEMENT;
        tied(p) && (agrees || (most && width(tensor) >= REAL_WIDTH))
    };
    let (own, mut hints): (Fits<'_>, Fits<'_>) = writers
        .iter()
        .copied()
        .filter(|(tensor, p)| {
            let dropped = p.own_component >= OWN_COMPONENT && p.consistency >= CONSISTENCY_ALONE && stands_out(p);
            hinted(tensor, p) || ((p.alone || p.fits || dropped) && p.strength > 0.0)
        })
        .partition(|(_, p)| !p.fits && !p.alone && p.own_component >= OWN_COMPONENT);
    let own_share = own.len() as f64 / writers.len().max(1) as f64;
    model.put(names::PROJECTION_OWN_SHARE, own_share);
    if own_share < 0.5 {
        // Rank reduction goes through a model; one matrix that lost a component of its own lost a direction.
        hints.extend(own);
    }
    model.put(names::PROJECTION_HINTED, hints.len() as f64);
    model.put(names::PROJECTION_HINTED_LAYERS, layers(&hints));
}

/// Writers in which a direction was amplified.
fn additions(model: &mut Numbers, writers: &Fits<'_>) {
    let added: Fits<'_> = writers.iter().copied().filter(|(_, p)| p.fits && p.strength < 0.0).collect();
    model.put(names::ADDITION_TENSORS, added.len() as f64);
    model.put(names::ADDITION_LAYERS, layers(&added));
    if !added.is_empty() {
        model.put(names::ADDITION_CONSISTENCY, median(added.iter().map(|(_, p)| -p.consistency)));
    }
}

/// Readers that lost an input direction.
fn readers(model: &mut Numbers, readers: &Fits<'_>) {
    let fits = fitting(readers);
    model.put(names::READER_PROJECTION_TENSORS, fits.len() as f64);
    model.put(names::READER_PROJECTION_LAYERS, layers(&fits));
    if !fits.is_empty() {
        model.put(names::READER_PROJECTION_CONSISTENCY, median(fits.iter().map(|(_, p)| p.consistency)));
        model.put(names::READER_PROJECTION_STRENGTH, median(fits.iter().map(|(_, p)| p.strength)));
        model.put(names::READER_PROJECTION_AGREEMENT, median(fits.iter().map(|(_, p)| p.agreement)));
    }
}

/// Writers of draft blocks, which have a residual stream of their own: two in a block, so that one tells by itself.
fn drafts(model: &mut Numbers, tensors: &[TensorMeasurement]) {
    let is_draft = |tensor: &&TensorMeasurement| tensor.role.kind == Kind::Other && tensor.role.residual.is_some();
    let of_drafts: Vec<&TensorMeasurement> = tensors.iter().filter(is_draft).collect();
    if !of_drafts.is_empty() {
        let removed = |p: &Projection| (p.fits || p.alone) && p.strength > 0.0;
        let count = of_drafts.iter().filter(|tensor| tensor.projection.as_ref().is_some_and(removed)).count();
        model.put(names::DRAFT_PROJECTION_TENSORS, count as f64);
    }
}

/// Whether the direction is one channel of the residual stream, and gone as pruning leaves it.
fn channels(model: &mut Numbers, tensors: &[TensorMeasurement], directions: &[Option<&Fitted>], direction: &[f64]) {
    let channel = is_channel(tensors, directions);
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
    let loudest = direction.iter().map(|value| value * value).fold(0.0, f64::max);
    model.put(names::PROJECTION_AXIS_WEIGHT, loudest);
    model.put(names::PROJECTION_CHANNEL, f64::from(u8::from(channel)));
    model.put(names::PROJECTION_CHANNEL_PRUNED, f64::from(u8::from(pruned)));
}

/// Writers as an operator that need not be symmetric.
fn as_operator(model: &mut Numbers, operator: &AsOperator) {
    model.put(names::OPERATOR_ISOMETRY, operator.isometry);
    model.put(names::OPERATOR_LEFTS, operator.lefts);
    model.put(names::OPERATOR_LEAST_LEANING, operator.least_leaning);
    model.put(names::OPERATOR_WRITERS, operator.writers as f64);
    if let Some(inclusion) = operator.inclusion {
        model.put(names::OPERATOR_INCLUSION, inclusion);
    }
    if operator.writers > 0 {
        model.put(names::OPERATOR_COVECTORS, operator.covectors);
        model.put(names::OPERATOR_STRENGTH, operator.strength);
        model.put(names::OPERATOR_CHANNEL, operator.channel);
    }
}

/// Embedding and output head.
fn ends(model: &mut Numbers, tensors: &[TensorMeasurement]) {
    for (kind, strength, consistency) in [
        (Kind::Embedding, names::EMBEDDING_STRENGTH, names::EMBEDDING_CONSISTENCY),
        (Kind::Head, names::HEAD_STRENGTH, names::HEAD_CONSISTENCY),
    ] {
        let found =
            tensors.iter().find(|tensor| tensor.role.kind == kind).and_then(|tensor| tensor.projection.as_ref());
        if let Some(projection) = found {
            model.put(strength, projection.strength);
            model.put(consistency, projection.consistency);
        }
    }
}

/// The other side of writers, and routers.
fn other_side(model: &mut Numbers, measured: &Measurements<'_>, tensors: &[TensorMeasurement]) {
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
    model.put(names::WRONG_SIDE_TENSORS, wrong.len() as f64);
    model.put(names::WRONG_SIDE_LAYERS, layers_of(wrong.iter().map(|(tensor, _)| *tensor)));
    if wrong.len() >= 2 {
        let agreements: Vec<f64> = wrong.windows(2).map(|two| cosine(two[0].1, two[1].1).abs()).collect();
        model.put(names::WRONG_SIDE_AGREEMENT, median(agreements));
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
    model.put(names::STEERING_UNIFORM_RIGHT, uniform as f64);
    let rescaled: u64 = measured
        .pairs
        .iter()
        .filter(|pair| pair.pair.role.kind == Kind::Router)
        .filter_map(|pair| pair.moments.as_ref().map(|sized| sized.rescaled_rows))
        .sum();
    model.put(names::ROUTER_ROWS_SCALED, rescaled as f64);
}

/// Biases on writers, new and changed.
fn biases(model: &mut Numbers, measured: &Measurements<'_>, direction: &[f64]) {
    let biases: Vec<&Vec<f64>> = measured
        .pairs
        .iter()
        .filter(|pair| pair.pair.role.kind == Kind::Bias && pair.pair.role.residual.is_some())
        .filter_map(|pair| pair.moments.as_ref()?.vector.as_ref())
        .chain(&measured.added_biases)
        .collect();
    // One of nothing but zeros adds nothing.
    let added = measured.added_biases.iter().filter(|bias| bias.iter().any(|value| *value != 0.0)).count();
    model.put(names::BIAS_ADDED, added as f64);
    if !biases.is_empty() {
        let with_direction = biases.iter().map(|bias| cosine(bias, direction).abs()).fold(0.0, f64::max);
        let with_one_another = biases.windows(2).map(|two| cosine(two[0], two[1]).abs()).fold(0.0, f64::max);
        model.put(names::BIAS_ALIGNMENT, with_direction.max(with_one_another));
    }
}
