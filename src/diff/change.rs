//! What changed at all, and how: counts and shares, size, rank and noise, before anything is asked about directions.

use std::collections::BTreeSet;

use super::measured::{Change, PairMeasurement};
use super::spectrum;
use crate::arch::Kind;
use crate::pair::Pairing;
use crate::profile::names::{self, Measurement};
use crate::profile::{GRID_KURTOSIS, Numbers, Sameness, TensorMeasurement};
use crate::tensor::numbers::median;

/// A matrix has lost rows when at least one in so many became zero.
const ZEROED_SHARE: u64 = 32;

/// Relative rounding noise that storing the candidate in its own dtype explains: a uniform error of one last place.
pub(super) fn rounding(sized: &Change) -> f64 {
    if sized.precision == 0 || sized.total.ww <= 0.0 {
        return 0.0;
    }
    let step = 2f64.powi(1 - sized.precision as i32);
    (sized.total.exponent * step * step / 12.0 / sized.total.ww).sqrt()
}

/// Singular values of the change above the noise edge, as far as they are known.
pub fn above_noise(sized: &Change) -> u32 {
    Spectrum::of(sized).above
}

/// A singular value this much above the next may end a low rank.
const STEP: f64 = 1.5;

/// Singular values whose shares are kept in the record.
const KEPT_VALUES: usize = 16;

/// The change's spectrum as far as it is known.
#[derive(Default)]
pub(super) struct Spectrum {
    pub(super) shares: Vec<f64>,
    pub(super) known: u32,
    pub(super) low_rank_share: f64,
    pub(super) cliff: f64,
    pub(super) last: f64,
    pub(super) effective_rank: f64,
    pub(super) above: u32,
    pub(super) left: f64,
}

impl Spectrum {
    pub(super) fn of(sized: &Change) -> Self {
        let [rows, columns] = sized.shape;
        let squares: Vec<f64> = sized.values.iter().map(|value| value * value).collect();
        let total = sized.energy.max(squares.iter().sum());
        if total <= 0.0 || squares.is_empty() {
            return Self { left: total.max(0.0), ..Self::default() };
        }
        let mut left_without = vec![total];
        for square in &squares {
            left_without.push((left_without[left_without.len() - 1] - square).max(0.0));
        }
        let stands = |count: usize| {
            let edge = spectrum::noise_edge(rows, columns, left_without[count], sized.peaks[0], sized.peaks[1]);
            squares[count - 1].sqrt() > edge
        };
        // One after the other, each above the noise that would be left without it; and beyond, where several equal
        // values hide one another, up to a cliff behind which only noise is left.
        let in_turn = (1..=squares.len()).take_while(|count| stands(*count)).count();
        let ends = |count: usize| squares.get(count).is_none_or(|next| squares[count - 1] > STEP * STEP * next);
        let room = rows.min(columns) / 3;
        let at_a_cliff =
            (in_turn + 1..=squares.len().min(room)).rev().find(|count| ends(*count) && stands(*count)).unwrap_or(0);
        let above = in_turn.max(at_a_cliff) as u32;
        let left = left_without[above as usize];
        // Σσ⁴ of the values known, and of the rest as if it were flat.
        let known: f64 = squares.iter().map(|square| square * square).sum();
        let rest = (total - squares.iter().sum::<f64>()).max(0.0);
        let flat = rest * rest / (rows.min(columns).saturating_sub(squares.len()).max(1)) as f64;
        Self {
            shares: squares.iter().take(KEPT_VALUES).map(|square| square / total).collect(),
            known: squares.len() as u32,
            low_rank_share: 1.0 - left / total,
            cliff: match squares.get(above as usize) {
                Some(next) if above > 0 => (squares[above as usize - 1] / next.max(1e-12 * total)).sqrt(),
                _ => 0.0,
            },
            last: squares.last().copied().unwrap_or(0.0) / total,
            effective_rank: total * total / (known + flat).max(f64::MIN_POSITIVE),
            above,
            left,
        }
    }
}

/// Counts and shares of what changed at all.
pub(super) fn footprint(model: &mut Numbers, pairing: &Pairing, tensors: &[TensorMeasurement]) {
    let mut put = |measurement: Measurement, value: f64| model.put(measurement, value);
    let changed = |tensor: &&TensorMeasurement| tensor.sameness == Sameness::Changed;
    let share = |kinds: &[Kind]| -> Option<f64> {
        let of: Vec<_> = tensors.iter().filter(|tensor| kinds.contains(&tensor.role.kind)).collect();
        (!of.is_empty()).then(|| of.iter().copied().filter(changed).count() as f64 / of.len() as f64)
    };
    if !tensors.is_empty() {
        put(names::TENSORS_CHANGED_SHARE, tensors.iter().filter(changed).count() as f64 / tensors.len() as f64);
    }
    let writers: Vec<_> = tensors.iter().filter(|tensor| tensor.role.kind == Kind::Writer).collect();
    put(names::WRITERS_TOTAL, writers.len() as f64);
    put(names::WRITERS_CHANGED, writers.iter().copied().filter(changed).count() as f64);
    for (name, kinds) in [
        (names::WRITERS_CHANGED_SHARE, &[Kind::Writer][..]),
        (names::READERS_CHANGED_SHARE, &[Kind::Reader]),
        (names::EMBEDDINGS_CHANGED_SHARE, &[Kind::Embedding, Kind::Head]),
        (names::NORMS_CHANGED_SHARE, &[Kind::Norm]),
        (names::ROUTERS_CHANGED_SHARE, &[Kind::Router]),
    ] {
        if let Some(value) = share(kinds) {
            put(name, value);
        }
    }
    let layers: BTreeSet<u32> = writers.iter().filter_map(|tensor| tensor.role.layer).collect();
    let touched: BTreeSet<u32> =
        writers.iter().copied().filter(changed).filter_map(|tensor| tensor.role.layer).collect();
    put(names::LAYERS_TOTAL, layers.len() as f64);
    put(names::LAYERS_CHANGED, touched.len() as f64);
    if !touched.is_empty() {
        let (mut longest, mut run, mut last) = (0u32, 0u32, None);
        for layer in &touched {
            run = if last.is_some_and(|last| last + 1 == *layer) { run + 1 } else { 1 };
            longest = longest.max(run);
            last = Some(*layer);
        }
        put(names::LAYERS_CONTIGUOUS, f64::from(longest) / touched.len() as f64);
    }
    put(names::LAYOUT_LOST_TENSORS, pairing.only_base.len() as f64);
    put(names::LAYOUT_ADDED_TENSORS, pairing.only_candidate.len() as f64);
}

/// Size, rank and noise of the changes.
pub(super) fn change(model: &mut Numbers, tensors: &[TensorMeasurement], pairs: &[PairMeasurement<'_>]) {
    let matrices: Vec<&TensorMeasurement> =
        tensors.iter().filter(|tensor| tensor.shape[0] > 1 && tensor.role.kind != Kind::Norm).collect();
    let mut put = |measurement: Measurement, value: f64| model.put(measurement, value);
    put(names::DELTA_COSINE, median(matrices.iter().map(|tensor| tensor.cosine)));
    let changed: Vec<&TensorMeasurement> =
        matrices.iter().copied().filter(|tensor| tensor.sameness == Sameness::Changed).collect();
    if changed.is_empty() {
        return;
    }
    let middle = |of: &dyn Fn(&TensorMeasurement) -> f64| median(changed.iter().map(|tensor| of(tensor)));
    put(names::DELTA_RELATIVE, middle(&|tensor| tensor.relative_norm));
    put(names::DELTA_RELATIVE_MAX, changed.iter().map(|tensor| tensor.relative_norm).fold(0.0, f64::max));
    put(names::DELTA_CHANGED_FRACTION, middle(&|tensor| tensor.changed_fraction));
    put(names::DELTA_ZEROED, middle(&|tensor| tensor.zeroed_fraction));
    // Zero is a scale only in name.
    let scaled =
        |tensor: &TensorMeasurement, at: usize| if is_zeroed(tensor) { 0.0 } else { tensor.scale_explained[at] };
    put(names::DELTA_SCALE_EXPLAINED, middle(&|tensor| scaled(tensor, 0)));
    put(names::DELTA_ROW_SCALE_EXPLAINED, middle(&|tensor| scaled(tensor, 1)));
    put(names::DELTA_COLUMN_SCALE_EXPLAINED, middle(&|tensor| scaled(tensor, 2)));
    let zeroed = (tensors.iter().zip(pairs)).filter(|(tensor, pair)| {
        let rows = pair.moments.as_ref().map_or(0, |sized| sized.zeroed_rows);
        tensor.shape[0] > 1 && rows >= 2 && rows * ZEROED_SHARE >= tensor.shape[0]
    });
    put(names::ZEROED_TENSORS, zeroed.count() as f64);
    let erased = (tensors.iter().zip(pairs)).filter(|(tensor, pair)| {
        tensor.role.kind == Kind::Writer && pair.moments.as_ref().is_some_and(|sized| sized.erased > 0.0)
    });
    put(names::WRITERS_ERASED, erased.count() as f64);
    put(names::NOISE_KURTOSIS, middle(&|tensor| tensor.kurtosis));
    let on_grid = (tensors.iter().zip(pairs))
        .filter(|(tensor, _)| {
            tensor.sameness == Sameness::Changed && tensor.shape[0] > 1 && tensor.role.kind != Kind::Norm
        })
        .filter(|(tensor, pair)| is_uniform(tensor) || pair.moments.as_ref().is_some_and(|sized| sized.quantized))
        .count();
    put(names::NOISE_GRID, on_grid as f64 / changed.len() as f64);
    put(names::RANK_TOP1, middle(&|tensor| tensor.spectrum.first().copied().unwrap_or(0.0)));
    put(names::RANK_TOP3, middle(&|tensor| tensor.spectrum.iter().take(3).sum()));
    put(names::RANK_ABOVE_NOISE, middle(&|tensor| f64::from(tensor.above_noise)));
    put(
        names::RANK_EXPLAINED,
        middle(&|tensor| {
            let floor = if tensor.relative_norm > 0.0 { (tensor.rounding / tensor.relative_norm).powi(2) } else { 0.0 };
            if floor < 1.0 { (tensor.low_rank_share / (1.0 - floor)).min(1.0) } else { 0.0 }
        }),
    );
    // Where no value is left behind those known, the rank ended there.
    let exact = middle(&|tensor| tensor.low_rank_share) >= NOTHING_LEFT;
    put(names::RANK_ENDS, low_ranks(&changed).map_or(f64::from(u8::from(exact)), |(_, share)| share));
    let noise: Vec<f64> = changed.iter().map(|tensor| tensor.noise).collect();
    let mean = noise.iter().sum::<f64>() / noise.len() as f64;
    let variance = noise.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / noise.len() as f64;
    put(names::NOISE_RELATIVE, median(noise));
    if mean > 0.0 {
        put(names::NOISE_UNIFORMITY, variance.sqrt() / mean);
    }
    sparse_rows(&mut put, pairs);
    // Dropped elements (DARE): the same share of untouched elements in every matrix, far more than changes too small
    // for the dtype leave untouched.
    let kept: Vec<f64> = changed.iter().map(|tensor| 1.0 - tensor.changed_fraction).collect();
    let too_small =
        middle(&|tensor| if tensor.relative_norm > 0.0 { 1.4 * tensor.rounding / tensor.relative_norm } else { 1.0 });
    let mean = kept.iter().sum::<f64>() / kept.len() as f64;
    let spread = (kept.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / kept.len() as f64).sqrt();
    if kept.len() >= 4 && mean > (8.0 * too_small).max(0.25) && mean < 0.999 && spread < 0.05 {
        model.put(names::MERGE_DROP_RATE, mean);
    }
}

/// Whether the change is an error that is uniform on a grid. Elements set to zero and a base on a grid that was scaled
/// leave one too, and nothing was rounded there; nor does rounding leave a low rank, as steps of one size in a few
/// rounds of training do.
pub fn is_uniform(tensor: &TensorMeasurement) -> bool {
    tensor.kurtosis > 0.0
        && tensor.kurtosis < GRID_KURTOSIS
        && tensor.low_rank_share < 0.5
        && tensor.scale_explained[0] < 0.5
        && !is_zeroed(tensor)
}

/// Whether what changed of a matrix was set to zero.
fn is_zeroed(tensor: &TensorMeasurement) -> bool {
    tensor.zeroed_fraction > 0.0 && tensor.zeroed_fraction >= 0.99 * tensor.changed_fraction
}

/// Share of a change in its large values from which nothing is left behind them.
const NOTHING_LEFT: f64 = 0.9999;
/// A change counts as low-rank when its large values explain this share of it beyond rounding.
pub const LOW_RANK: f64 = 0.9;
/// The last large value over the first small one where a low rank ends.
const CLIFF: f64 = 2.5;

/// The ranks of those matrices whose change is of low rank, and their share of those whose spectrum is known far
/// enough: large values, a cliff, and behind it noise alone. Training of all weights has large values too, but no
/// cliff. `None` where no spectrum tells.
pub fn low_ranks(changed: &[&TensorMeasurement]) -> Option<(Vec<f64>, f64)> {
    // A short list that nearly ran out says nothing: one faint value more and it would have.
    let known: Vec<&&TensorMeasurement> =
        changed.iter().filter(|tensor| tensor.above_noise + 2 < tensor.values_known).collect();
    let ranks: Vec<f64> = known
        .iter()
        .filter(|tensor| {
            let floor = if tensor.relative_norm > 0.0 { (tensor.rounding / tensor.relative_norm).powi(2) } else { 0.0 };
            let ends = tensor.cliff >= CLIFF || tensor.noise <= 2.0 * tensor.rounding;
            tensor.above_noise > 0
                && ends
                && u64::from(tensor.above_noise) * 3 <= tensor.shape[0].min(tensor.shape[1])
                && tensor.low_rank_share >= (LOW_RANK * (1.0 - floor)).max(0.3)
        })
        .map(|tensor| f64::from(tensor.above_noise))
        .collect();
    let share = ranks.len() as f64 / known.len().max(1) as f64;
    (!known.is_empty()).then_some((ranks, share))
}

fn sparse_rows(put: &mut dyn FnMut(Measurement, f64), pairs: &[PairMeasurement<'_>]) {
    let sets: Vec<&Vec<bool>> = pairs
        .iter()
        .filter(|pair| pair.pair.role.kind == Kind::Writer)
        .filter_map(|pair| pair.moments.as_ref().map(|sized| &sized.changed_rows))
        .collect();
    if sets.is_empty() {
        return;
    }
    let share = |set: &Vec<bool>| set.iter().filter(|changed| **changed).count() as f64 / set.len().max(1) as f64;
    put(names::SPARSE_ROWS, median(sets.iter().map(|set| share(set))));
    let overlaps: Vec<f64> = sets
        .windows(2)
        .filter(|two| two[0].len() == two[1].len())
        .map(|two| {
            let both = two[0].iter().zip(two[1]).filter(|(a, b)| **a && **b).count() as f64;
            let either = two[0].iter().zip(two[1]).filter(|(a, b)| **a || **b).count() as f64;
            both / either.max(1.0)
        })
        .collect();
    if !overlaps.is_empty() {
        put(names::SPARSE_OVERLAP, overlaps.iter().sum::<f64>() / overlaps.len() as f64);
    }
}
