//! Measures every pair: equality first, then moments, then the low-rank structure of the change.
//!
//! Three stages, each parallel over pairs and merged in the order of pairs:
//!
//! 1. [`survey`]: equal bits? a cast? columns that only moved ([`order`])? else moments and the top directions of the change;
//! 2. [`pool`]: which directions the writers (and the readers) of the whole model share, each writer's counted once;
//! 3. [`examine_projection`]: the direction of largest [`consistency`] in the span of shared and own directions.
//!
//! Two of the numbers are taken again where the first look cannot tell them: [`rank`] and, through a quantiser, the
//! strength ([`grid`]). [`summary`] then says which pairs fit a removed direction, given what the other layers show, and names the numbers
//! that signatures speak of.

pub mod change;
pub mod consistency;
pub mod grid;
pub mod kernel;
pub mod operator;
pub mod order;
pub mod projection;
pub mod rank;
pub mod requantize;
pub mod spectrum;
pub mod summary;

use std::collections::BTreeMap;
use std::sync::Once;

use faer::Mat;
use rayon::prelude::*;

use self::operator::{Gauge, Moments, Operator, Want};
use self::order::Aside;
use self::projection::{Along, Fit, Oriented, Regression, SKETCH, SKETCH_WRITER, TopVectors};
use self::requantize::Scheme;
use crate::arch::{Axis, Kind};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_ADDED_BIAS_NUMBERS;
use crate::pair::{Pair, Pairing, Unpaired};
use crate::profile::Sameness;
use crate::tensor::numbers::median;
use crate::tensor::{DType, Family};

/// Own directions of a writer that are kept for pooling and for its regression.
const OWN_WRITER: usize = 20;
/// Own directions kept of any other matrix,
const OWN: usize = 4;
/// and of one expert among many: a mixture has thousands of them.
const OWN_EXPERT: usize = 4;
/// Shared directions of the whole model that enter every regression.
const SHARED: usize = 12;
/// Directions that enter a regression are at most one for so many of the other coordinates, so that each half of them
/// still tests what the other chose.
const COORDINATES_EACH: usize = 4;
/// Power steps of a writer's range finder. Other matrices do without: a direction taken out of them is the loudest thing
/// in their change or nothing that could be told from training.
const POWER_STEPS: usize = 1;
/// A matrix that does not write is asked for a removed direction only when its loudest one stands out of noise this far
/// (energy over the mean energy of a direction).
const LOUD: f64 = 12.0;
/// A scale per row or column is divided out before anything else when it explains this share of the change.
const GAUGE_SHARE: f64 = 0.5;
/// Share of a direction that the base lacks, of what the candidate has, from which λ of the base means nothing.
const LACKING: f64 = 0.9;
/// c of W p beside r from which the direction is a mixture of W's own components, all of them dropped.
const OWN_LOST: f64 = 0.9;
/// It must also be as lost, or nearly: the strength there over the strength along r.
const OWN_ALIKE: f64 = 0.5;
/// ‖Δ‖/‖W‖ up to which two matrices are one, computed in another order: a few last places of binary32 (2⁻²⁴ = 6e-8). A removal with λ of 1e-5
/// moves more.
const ARITHMETIC: f64 = 2.5e-7;
/// Sides below this have no spectrum worth the name.
const SMALLEST_SIDE: usize = 8;

/// Told how far a comparison is; called from many threads.
pub trait Observer: Sync {
    /// `done` of `total` units of work (pairs, weighted by size) are done.
    fn progress(&self, _done: u64, _total: u64) {}
}

/// Watches nothing.
pub struct Unobserved;

impl Observer for Unobserved {}

/// What the first stage found of one pair.
enum Surveyed<'a> {
    Same(Sameness),
    Requantized(Scheme),
    NotExamined(String),
    Changed(Box<Changed<'a>>),
}

/// A changed pair.
struct Changed<'a> {
    oriented: Oriented<'a>,
    moments: Moments,
    norms: Option<Vec<f64>>,
    scale_explained: [f64; 3],
    tops: Option<Tops>,
    values: Vec<f64>,
    energy: f64,
    aside: Aside,
    /// Sums of what is stored, where rows that are all zero were left out of `moments`.
    stored: Option<Moments>,
}

impl Changed<'_> {
    /// Sums of what is stored.
    fn stored(&self) -> &Moments {
        self.stored.as_ref().unwrap_or(&self.moments)
    }
}

/// The leading directions of a change in the residual stream.
struct Tops {
    /// Orthonormal, of what was not set aside.
    raw: Mat<f64>,
    normalised: Option<Mat<f64>>,
    /// The singular value behind the last of them: what a removal must exceed to be among them. 0 when there is no more.
    next: f64,
    /// First right vector, for the test of the other side.
    right: Vec<f64>,
}

/// What the third stage found of one writer, reader, embedding or head.
pub struct Projected {
    /// In raw and in row-normalised coordinates.
    pub sides: [Option<Coordinates>; 2],
    /// |cos(u, W v)| of the change's own top vectors: 1 for an edit of the other side (u = W v).
    pub transposed: f64,
    /// |mean|·√n of the first right vector: 1 when the change adds one vector to every input channel.
    pub uniform_right: f64,
    /// First right vector (n numbers), for agreement on the other side; kept for writers whose other side fits.
    pub right: Vec<f64>,
    /// The smallest λ that would have been found in this very change: planted in it and looked for. Writers only.
    pub limit: Option<f64>,
    /// The uniform scale that the change carries (weight decay), which is a removal of every direction alike.
    pub uniform: f64,
}

/// One system of coordinates.
pub struct Coordinates {
    /// The regression, long vectors forgotten.
    pub regression: Regression,
    /// QᵀS with S the shared directions: how to express one in the regression's basis.
    pub shared: Mat<f64>,
    /// The fitted direction, d numbers.
    pub direction: Vec<f64>,
    /// Its fit.
    pub fit: Fit,
    /// The lower c of the two halves that did not choose.
    pub cross_fit: f64,
    /// Directions that fit: λ̂ and c of each.
    pub others: Vec<(f64, f64)>,
    /// Largest positive over largest negative eigenvalue.
    pub balance: f64,
}

impl Coordinates {
    /// Base and change along a direction given in the shared basis; `None` when the regression does not span it.
    pub fn along_shared(&self, e: &[f64]) -> Option<Along> {
        if self.shared.ncols() != e.len() {
            return None;
        }
        let inside: Vec<f64> = (0..self.shared.nrows())
            .map(|i| e.iter().enumerate().map(|(j, weight)| weight * self.shared[(i, j)]).sum())
            .collect();
        Some(self.regression.along(&inside))
    }
}

/// Everything measured of one pair, before the model is looked at as a whole.
pub struct Measured<'a> {
    /// The pair.
    pub pair: &'a Pair,
    /// Dtype or scheme of base and candidate.
    pub dtypes: [String; 2],
    /// Equality.
    pub sameness: Sameness,
    /// Sums; `None` when nothing changed.
    pub moments: Option<Sized>,
    /// The projection; `None` when nothing changed or the pair does not face the residual stream.
    pub projected: Option<Projected>,
    /// λ by the bounds of a quantiser's levels, for writers where they tell more than regression does.
    pub through_grid: Option<grid::Strength>,
}

/// The numbers of one changed pair that do not depend on other pairs.
pub struct Sized {
    /// Rows and columns as stored.
    pub shape: [usize; 2],
    /// Over all elements.
    pub total: kernel::Sums,
    /// Median |norm ratio - 1| of rows and columns.
    pub norm_drift: [f64; 2],
    /// Rows that changed.
    pub changed_rows: Vec<bool>,
    /// Whether the candidate's numbers stand on a quantiser's levels, stored as its codes or not, and the base's do not.
    pub quantized: bool,
    /// Share of ‖Δ‖² explained by one factor, one per row, one per column.
    pub scale_explained: [f64; 3],
    /// ‖Δ‖² after the scale that was divided out, if one was.
    pub energy: f64,
    /// Largest singular values of that change.
    pub values: Vec<f64>,
    /// Largest share of ‖W‖² in one row and in one column, for the noise edge.
    pub peaks: [f64; 2],
    /// Significand bits of the candidate's dtype.
    pub precision: u32,
    /// Router rows that changed length and not direction.
    pub rescaled_rows: u64,
    /// Δ itself where the pair is a vector (a bias, a norm): its values.
    pub vector: Option<Vec<f64>>,
    /// Columns (rows, where the residual stream lies on the columns) that only moved or changed their sign, undone before anything else.
    pub moved: usize,
    /// Share of them that changed more than a removal could have changed them.
    pub set_aside: f64,
    /// Share of the residual stream that is all zero in the candidate and not in the base; left out of every fit.
    pub erased: f64,
    /// Rows as stored that are all zero in the candidate and not in the base.
    pub zeroed_rows: u64,
}

/// The outcome of measuring: pairs measured, and those that could not be.
pub struct Measurements<'a> {
    /// In the order of the pairing.
    pub pairs: Vec<Measured<'a>>,
    /// With reasons.
    pub not_examined: Vec<Unpaired>,
    /// Shared directions, raw and row-normalised, d × k each.
    pub shared: [Mat<f64>; 2],
    /// Biases on the candidate's writers that the base does not have.
    pub added_biases: Vec<Vec<f64>>,
    /// Bytes of weights looked at, both sides.
    pub bytes_read: u64,
}

static SEQUENTIAL: Once = Once::new();

/// Measures every pair of a pairing.
pub fn measure<'a>(
    base: &'a Checkpoint,
    candidate: &'a Checkpoint,
    pairing: &'a Pairing,
    observer: &dyn Observer,
) -> Result<Measurements<'a>> {
    // Work is parallel over tensors and segments; a parallel product inside a tile only costs.
    SEQUENTIAL.call_once(|| faer::set_global_parallelism(faer::Par::Seq));
    let total: u64 = pairing.pairs.iter().map(|pair| pair.base.elements()).sum::<u64>().max(1);
    let done = std::sync::atomic::AtomicU64::new(0);
    let advance = |elements: u64| {
        let before = done.fetch_add(elements, std::sync::atomic::Ordering::Relaxed);
        observer.progress((before + elements) / 2, total);
    };

    let surveyed: Vec<Surveyed<'a>> = pairing
        .pairs
        .par_iter()
        .map(|pair| {
            let found = survey(pair, base, candidate).unwrap_or_else(|error| Surveyed::NotExamined(error.one_line()));
            let changed = matches!(found, Surveyed::Changed(_));
            advance(pair.base.elements() * if changed { 1 } else { 2 });
            found
        })
        .collect();

    let shared = pool(&pairing.pairs, &surveyed);
    let pairs: Vec<Result<Measured<'a>, Unpaired>> = pairing
        .pairs
        .par_iter()
        .zip(surveyed)
        .map(|(pair, found)| {
            let measured = finish(pair, found, &shared, base, candidate);
            advance(pair.base.elements());
            measured.map_err(|reason| Unpaired { tensor: pair.name.clone(), reason, loaded: true })
        })
        .collect();

    let mut measurements = Measurements {
        pairs: Vec::new(),
        not_examined: Vec::new(),
        shared: shared.writers,
        added_biases: added_biases(candidate, pairing),
        bytes_read: 0,
    };
    for (pair, result) in pairing.pairs.iter().zip(pairs) {
        match result {
            Ok(measured) => {
                measurements.bytes_read += stored_bytes(base, &pair.base) + stored_bytes(candidate, &pair.candidate);
                measurements.pairs.push(measured);
            }
            Err(not_examined) => measurements.not_examined.push(not_examined),
        }
    }
    rank::widen(base, candidate, &mut measurements.pairs)?;
    grid::refine(base, candidate, &mut measurements)?;
    Ok(measurements)
}

/// The numbers of the biases that the candidate adds to its writers, up to a cap on all together; what cannot be read is left out here
/// and told where the checkpoint is accounted for.
fn added_biases(candidate: &Checkpoint, pairing: &Pairing) -> Vec<Vec<f64>> {
    let mut room = MAX_ADDED_BIAS_NUMBERS;
    let read = |view: &crate::pair::View| {
        let entry = candidate.tensors.get(&view.tensor)?;
        room = room.checked_sub(view.elements())?;
        let mut numbers = vec![0.0; usize::try_from(view.elements()).ok()?];
        candidate.decode(entry, view.offset, &mut numbers).ok()?;
        Some(numbers.into_iter().map(f64::from).collect())
    };
    pairing.added_biases.iter().filter_map(read).collect()
}

/// Bytes that a view covers in its checkpoint.
fn stored_bytes(checkpoint: &Checkpoint, view: &crate::pair::View) -> u64 {
    checkpoint.tensors.get(&view.tensor).map_or(0, |entry| {
        let whole = entry.range.end.saturating_sub(entry.range.start);
        match entry.elements() {
            0 => 0,
            elements => (u128::from(whole) * u128::from(view.elements()) / u128::from(elements)) as u64,
        }
    })
}

/// Floats that a candidate may have been cast to, or through: F16, BF16, E4M3, E5M2 as (precision, smallest exponent).
const CASTS: [(u32, i32); 4] = [(11, -14), (8, -126), (4, -6), (3, -14)];

/// Whether both sides hold floats of one dtype, no wider than binary32, and no codes: equal numbers are equal bits then,
/// however the bytes lie.
fn same_format(pair: &Pair, base: &Checkpoint, candidate: &Checkpoint) -> bool {
    let format = |view: &crate::pair::View, checkpoint: &Checkpoint| {
        let entry = checkpoint.tensors.get(&view.tensor).filter(|entry| !entry.is_quantized())?;
        (entry.dtype.family == Family::Float && (1..=24).contains(&entry.dtype.precision)).then_some(entry.dtype)
    };
    let [base, candidate] = [format(&pair.base, base), format(&pair.candidate, candidate)];
    base.is_some() && base == candidate && pair.base.shift == pair.candidate.shift
}

/// First stage for one pair.
fn survey<'a>(pair: &'a Pair, base: &'a Checkpoint, candidate: &'a Checkpoint) -> Result<Surveyed<'a>> {
    for (view, checkpoint) in [(&pair.base, base), (&pair.candidate, candidate)] {
        let entry = checkpoint.tensors.get(&view.tensor).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{} has no tensor {}", checkpoint.label, view.tensor))
        })?;
        if let crate::checkpoint::Storage::Unreadable(reason) = &entry.storage {
            return Ok(Surveyed::NotExamined(reason.clone()));
        }
    }
    let operator = Operator::new(pair, base, candidate)?;
    if operator.rows == 0 || operator.columns == 0 {
        return Ok(Surveyed::Same(Sameness::Identical));
    }
    if operator.same_bits()? == Some(true) {
        return Ok(Surveyed::Same(Sameness::Identical));
    }
    let float = |view: &crate::pair::View, checkpoint: &Checkpoint| {
        checkpoint.tensors.get(&view.tensor).is_some_and(|entry| entry.dtype.family != Family::Integer)
    };
    if !float(&pair.base, base) && !float(&pair.candidate, candidate) {
        return Ok(Surveyed::NotExamined("integers that differ: nothing to measure".to_owned()));
    }
    if operator.is_rounded(&CASTS)? || operator.is_rounded(&[(24, -126)])? {
        let same = same_format(pair, base, candidate) && operator.is_rounded(&[(24, -126)])?;
        return Ok(Surveyed::Same(if same { Sameness::Identical } else { Sameness::Recast }));
    }

    let dtype = candidate.tensors.get(&pair.candidate.tensor).map(|entry| entry.dtype);
    let own = dtype.and_then(float_format);
    if let Some(own) = own.filter(|_| pair.base.rows > 1 && operator.columns as u64 == pair.base.columns)
        && let Some(scheme) = operator.requantized(own)?
    {
        return Ok(if scheme.is_cast() { Surveyed::Same(Sameness::Recast) } else { Surveyed::Requantized(scheme) });
    }

    let residual = pair.role.residual.unwrap_or(Axis::Rows);
    let matrix = pair.base.rows > 1
        && operator.columns as u64 == pair.base.columns
        && operator.rows.min(operator.columns) >= SMALLEST_SIDE;
    let sketch = if pair.role.kind == Kind::Writer { SKETCH_WRITER } else { SKETCH };
    let signs = matrix.then(|| spectrum::signs(operator.columns, sketch.min(operator.columns), 1));
    let (mut moments, mut start) = operator.moments(signs.as_ref())?;
    let everything = (operator.rows * operator.columns) as u64;
    if moments.total.not_finite.iter().any(|count| *count * 2 > everything) {
        let [in_base, in_candidate] = moments.total.not_finite;
        return Ok(Surveyed::NotExamined(format!(
            "most elements are not finite ({in_base} in the base, {in_candidate} in the candidate, of {everything})"
        )));
    }
    if !(moments.total.ww.is_finite() && moments.total.dd.is_finite()) {
        return Ok(Surveyed::NotExamined("values too large to be squared".to_owned()));
    }
    // Row by row: beside one loud row everything would be small.
    if moments.rows.iter().all(|sums| sums.dd <= ARITHMETIC * ARITHMETIC * sums.ww) {
        return Ok(Surveyed::Same(Sameness::Recast));
    }
    let mut oriented = Oriented { operator, residual };
    let mut aside = Aside::default();
    let mut stored = None;
    if matrix && side_of(pair.role.kind).is_some() {
        oriented.operator.erased = oriented.operator.erased(&moments, residual);
        if oriented.operator.erased.is_some() {
            let (masked, again) = oriented.operator.moments(signs.as_ref())?;
            stored = Some(std::mem::replace(&mut moments, masked));
            start = again;
        }
    }
    if matrix && matches!(pair.role.kind, Kind::Writer | Kind::Reader) {
        if let Some(order) = order::find(&oriented, &moments)? {
            aside.moved = order.moved();
            oriented.operator.order = Some(order);
            (moments, start) = oriented.operator.moments(signs.as_ref())?;
        }
        aside.kept = order::explicable(&oriented, &moments);
    }
    let Oriented { mut operator, .. } = oriented;
    let scale_explained = scale_explained(&moments);
    if moments.total.dd == 0.0 {
        // Nothing but rows that are zero now.
        let oriented = Oriented { operator, residual };
        return Ok(Surveyed::Changed(Box::new(Changed {
            oriented,
            moments,
            norms: None,
            scale_explained,
            tops: None,
            values: Vec::new(),
            energy: 0.0,
            aside,
            stored,
        })));
    }
    let mut energy = moments.total.dd;
    // A loud change of low rank looks like a scale of its rows or columns as well; it is not one. Nor is what was set aside.
    let scaled = matrix && aside.kept.is_none() && !start.as_ref().is_some_and(is_low_rank);
    if scaled && scale_explained[1].max(scale_explained[2]) > GAUGE_SHARE && scale_explained[0] < 0.95 {
        operator.gauge = if scale_explained[1] >= scale_explained[2] {
            Gauge::Rows(factors(moments.rows.iter().map(|sums| (sums.ww, sums.dw))))
        } else {
            Gauge::Columns(factors(moments.columns.ww.iter().zip(&moments.columns.dw).map(|(ww, dw)| (*ww, *dw))))
        };
        energy *= 1.0 - scale_explained[1].max(scale_explained[2]);
        if let Some(signs) = &signs {
            start = Some(operator.times(signs, Want::Change)?.change);
        }
    } else if scaled && scale_explained[0] > GAUGE_SHARE {
        let factor = moments.total.ww / (moments.total.ww + moments.total.dw);
        operator.gauge = Gauge::Rows(vec![factor as f32; operator.rows]);
        energy *= 1.0 - scale_explained[0];
        if let Some(signs) = &signs {
            start = Some(operator.times(signs, Want::Change)?.change);
        }
    }
    let oriented = Oriented { operator, residual };
    let normalise = pair.role.kind == Kind::Writer;
    let norms = normalise.then(|| oriented.row_norms(&moments));
    let (mut tops, mut values) = (None, Vec::new());
    // A reader whose change is flat has no direction to look for; its spectrum is not worth another pass.
    if let Some(start) = start.filter(|start| normalise || !is_flat(start)) {
        let steps = if normalise { POWER_STEPS } else { 0 };
        let vectors =
            projection::top_vectors(&oriented, &start, energy, norms.as_deref(), aside.kept.as_deref(), steps)?;
        values.clone_from(&vectors.raw.values);
        tops = Some(tops_of(&vectors, pair, norms.as_deref()));
    }
    Ok(Surveyed::Changed(Box::new(Changed {
        oriented,
        moments,
        norms,
        scale_explained,
        tops,
        values,
        energy,
        aside,
        stored,
    })))
}

/// Whether most of a change is one direction, by its product with a sign matrix: the product's columns are then nearly
/// parallel.
fn is_low_rank(product: &Mat<f32>) -> bool {
    loudest_share(product) > 0.6
}

/// Whether a change is spread over more directions than training or an edit leaves: the columns of its product with a sign matrix are
/// then as good as independent, and none of k stands above (1 + √(k/r))²/k of their energy, r the directions. Under
/// 1.5/k, r is above 200 for k = 12.
fn is_flat(product: &Mat<f32>) -> bool {
    loudest_share(product) < 1.5 / product.ncols().max(1) as f64
}

fn loudest_share(product: &Mat<f32>) -> f64 {
    let wide = spectrum::widen(product);
    let gram = wide.transpose() * &wide;
    let trace: f64 = (0..gram.nrows()).map(|i| gram[(i, i)]).sum();
    let (values, _) = spectrum::symmetric_eigen(gram.as_ref());
    match values.last() {
        Some(largest) if trace > 0.0 => largest / trace,
        _ => 0.0,
    }
}

/// Precision and smallest normal exponent of the ordinary float dtypes; `None` for everything else.
fn float_format(dtype: &DType) -> Option<(u32, i32)> {
    match dtype.name {
        "F32" | "F64" => Some((24, -126)),
        "BF16" => Some((8, -126)),
        "F16" => Some((11, -14)),
        _ => None,
    }
}

/// Share of ‖Δ‖² explained by one factor for the matrix, one per row, one per column.
fn scale_explained(moments: &Moments) -> [f64; 3] {
    let part = |ww: f64, dw: f64| if ww > 0.0 { dw * dw / ww } else { 0.0 };
    let total = &moments.total;
    let matrix = part(total.ww, total.dw);
    let rows: f64 = moments.rows.iter().map(|sums| part(sums.ww, sums.dw)).sum();
    let columns: f64 = moments.columns.ww.iter().zip(&moments.columns.dw).map(|(ww, dw)| part(*ww, *dw)).sum();
    let share = |energy: f64| if total.dd > 0.0 { (energy / total.dd).clamp(0.0, 1.0) } else { 0.0 };
    [share(matrix), share(rows), share(columns)]
}

/// Factors that undo a scale estimated by least squares: w/x per row or column; 1 where there is nothing to go by.
fn factors(sums: impl Iterator<Item = (f64, f64)>) -> Vec<f32> {
    sums.map(|(ww, dw)| if ww > 0.0 && ww + dw > 1e-3 * ww { (ww / (ww + dw)) as f32 } else { 1.0 }).collect()
}

fn tops_of(vectors: &TopVectors, pair: &Pair, norms: Option<&[f64]>) -> Tops {
    let keep = match (pair.role.expert, pair.role.kind) {
        (Some(_), _) => OWN_EXPERT,
        (None, Kind::Writer) => OWN_WRITER,
        (None, _) => OWN,
    };
    let first = |matrix: &Mat<f64>| matrix.subcols(0, keep.min(matrix.ncols())).to_owned();
    let column = |matrix: &Mat<f64>| -> Vec<f64> {
        matrix.col_iter().next().map(|column| column.iter().copied().collect()).unwrap_or_default()
    };
    let (raw, values) = match &vectors.kept {
        Some((left, values)) => (first(left), values),
        None => (first(&vectors.raw.left), &vectors.raw.values),
    };
    let normalised = match (&vectors.kept, norms) {
        // What spans the change spans it when its rows are divided as well.
        (Some(_), Some(norms)) => {
            let mut divided = raw.clone();
            let inverse: Vec<f64> = norms.iter().map(|norm| 1.0 / norm).collect();
            spectrum::scale_rows(&mut divided, &inverse);
            Some(spectrum::orthonormal(divided.as_ref()))
        }
        _ => vectors.normalised.as_ref().map(|svd| first(&svd.left)),
    };
    Tops {
        next: values.get(raw.ncols()).or(values.last()).copied().filter(|_| raw.ncols() >= keep).unwrap_or(0.0),
        raw,
        normalised,
        right: column(&vectors.raw.right),
    }
}

/// Directions shared by the writers (raw, row-normalised) and by the readers of a model.
struct Shared {
    writers: [Mat<f64>; 2],
    readers: Mat<f64>,
}

/// Whether a pair faces the residual stream with its rows or columns, and from which side.
fn side_of(kind: Kind) -> Option<bool> {
    match kind {
        Kind::Writer | Kind::Embedding => Some(true),
        Kind::Reader | Kind::Head | Kind::Router => Some(false),
        Kind::Norm | Kind::Bias | Kind::Other => None,
    }
}

/// Second stage: the directions that the changes of the writers, and of the readers, have in common, each matrix's counted once.
/// Where residual streams of several widths meet (towers), the one with the most writers is meant.
fn pool(pairs: &[Pair], surveyed: &[Surveyed<'_>]) -> Shared {
    let of = |kind: Kind, normalised: bool| {
        let spans: Vec<&Mat<f64>> = pairs
            .iter()
            .zip(surveyed)
            .filter(|(pair, _)| pair.role.kind == kind)
            .filter_map(|(_, found)| {
                let tops = found.tops()?;
                if normalised { tops.normalised.as_ref() } else { Some(&tops.raw) }
            })
            .collect();
        let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
        for span in &spans {
            *widths.entry(span.nrows()).or_default() += 1;
        }
        let width = widths.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(width, _)| width);
        consistency::shared(&spans, width, SHARED)
    };
    Shared { writers: [of(Kind::Writer, false), of(Kind::Writer, true)], readers: of(Kind::Reader, false) }
}

impl Surveyed<'_> {
    fn tops(&self) -> Option<&Tops> {
        match self {
            Self::Changed(changed) => changed.tops.as_ref(),
            Self::Same(_) | Self::Requantized(_) | Self::NotExamined(_) => None,
        }
    }
}

/// Third stage for one pair.
fn finish<'a>(
    pair: &'a Pair,
    found: Surveyed<'a>,
    shared: &Shared,
    base: &Checkpoint,
    candidate: &Checkpoint,
) -> Result<Measured<'a>, String> {
    let dtype = |checkpoint: &Checkpoint, view: &crate::pair::View| {
        checkpoint.tensors.get(&view.tensor).map_or_else(String::new, |entry| entry.stored_as().to_owned())
    };
    let dtypes = [dtype(base, &pair.base), dtype(candidate, &pair.candidate)];
    let precision = candidate.tensors.get(&pair.candidate.tensor).map_or(0, |entry| entry.dtype.precision);
    let changed = match found {
        Surveyed::NotExamined(reason) => return Err(reason),
        Surveyed::Requantized(scheme) => {
            let dtypes = [dtypes[0].clone(), format!("{} as {}", scheme.name(), dtypes[1])];
            return Ok(Measured {
                pair,
                dtypes,
                sameness: Sameness::Requantized,
                moments: None,
                projected: None,
                through_grid: None,
            });
        }
        Surveyed::Same(sameness) => {
            return Ok(Measured { pair, dtypes, sameness, moments: None, projected: None, through_grid: None });
        }
        Surveyed::Changed(changed) => changed,
    };
    let projected = match side_of(pair.role.kind) {
        Some(writes) if pair.role.residual.is_some() => {
            examine_projection(&changed, pair, writes, shared).map_err(|error| error.one_line())?
        }
        _ => None,
    };
    let mut sized = sized(&changed, pair, precision).map_err(|error| error.one_line())?;
    if pair.base.rows > 1 {
        // Where the base stands on a grid itself nothing was rounded to one.
        let codes =
            candidate.tensors.get(&pair.candidate.tensor).is_some_and(crate::checkpoint::TensorEntry::is_quantized);
        let on = |view, checkpoint| -> Result<bool, String> {
            Ok(grid::levels(view, checkpoint).map_err(|error| error.one_line())? >= grid::LEVELS)
        };
        sized.quantized =
            if codes { dtypes[0] != dtypes[1] } else { on(&pair.candidate, candidate)? && !on(&pair.base, base)? };
    }
    Ok(Measured { pair, dtypes, sameness: Sameness::Changed, moments: Some(sized), projected, through_grid: None })
}

fn examine_projection(changed: &Changed<'_>, pair: &Pair, writes: bool, shared: &Shared) -> Result<Option<Projected>> {
    let Some(tops) = &changed.tops else { return Ok(None) };
    let oriented = &changed.oriented;
    let width = oriented.width();
    let quiet = changed
        .values
        .first()
        .is_none_or(|value| value * value * (width.min(oriented.other()) as f64) < LOUD * changed.energy);
    if pair.role.kind != Kind::Writer && quiet {
        return Ok(None);
    }
    let writer = pair.role.kind == Kind::Writer;
    let kept = changed.aside.kept.as_deref();
    let other = kept.map_or(oriented.other(), |kept| kept.iter().filter(|kept| **kept).count());
    let room = (other / COORDINATES_EACH).min(width / 2).max(2);
    // A direction that nobody chose, to plant a removal along.
    let planted = spectrum::widen(&spectrum::signs(width, 1, 5)) * faer::Scale(1.0 / (width as f64).sqrt());
    // A basis for each system of coordinates, then one pass for both.
    let basis_of = |normalised: usize| -> Mat<f64> {
        let own = if normalised == 1 { tops.normalised.as_ref() } else { Some(&tops.raw) };
        let pooled = if writes { &shared.writers[normalised] } else { &shared.readers };
        // The output head and the router are asked for the writers' directions too.
        let crossed = (!writes).then_some(&shared.writers[0]);
        let probe = (writer && normalised == 0).then_some(&planted);
        let fits = |part: &&Mat<f64>| part.nrows() == width && part.ncols() > 0;
        let parts: Vec<&Mat<f64>> = [probe, own, Some(pooled), crossed].into_iter().flatten().filter(fits).collect();
        let wanted: usize = parts.iter().map(|part| part.ncols()).sum();
        let parts: Vec<_> = parts
            .into_iter()
            .map(|part| {
                part.subcols(0, if wanted > room { (part.ncols() * room).div_ceil(wanted) } else { part.ncols() })
            })
            .collect();
        if parts.is_empty() { Mat::zeros(width, 0) } else { spectrum::orthonormal(spectrum::beside(&parts).as_ref()) }
    };
    let inverse: Option<Vec<f64>> = changed.norms.as_ref().map(|norms| norms.iter().map(|norm| 1.0 / norm).collect());
    let mut bases = vec![basis_of(0)];
    if inverse.is_some() {
        bases.push(basis_of(1));
    }
    let probes: Vec<Mat<f64>> = bases
        .iter()
        .enumerate()
        .map(|(index, basis)| {
            let mut probe = basis.clone();
            if let (1, Some(inverse)) = (index, &inverse) {
                spectrum::scale_rows(&mut probe, inverse);
            }
            probe
        })
        .collect();
    let views: Vec<_> = probes.iter().map(|probe| probe.as_ref()).collect();
    let product = oriented.to_other(spectrum::beside(&views).as_ref(), Want::Both)?;
    let (all_p, all_r) = (spectrum::widen(&product.base), spectrum::widen(&product.change));

    // Choose a direction in each system, then one pass back for W p, Δ p and the other side.
    let mut regressions = Vec::new();
    let mut backs: Vec<Vec<f64>> = Vec::new();
    let mut at = 0;
    let uniform = order::uniform_scale(oriented, &changed.moments, kept);
    let alpha = uniform.alpha;
    for (index, basis) in bases.into_iter().enumerate() {
        let count = basis.ncols();
        let (p, r) = (all_p.subcols(at, count).to_owned(), all_r.subcols(at, count).to_owned());
        at += count;
        let whole = p.clone();
        let regression = Regression::new(basis, p, r, kept, alpha);
        let Some(chosen) = regression.choose() else { continue };
        // Whole: whether the direction is a component of W's own, only all of W tells.
        backs.push(projection::combine(whole.as_ref(), &chosen.e));
        regressions.push((index, regression, chosen));
    }
    if regressions.is_empty() {
        return Ok(None);
    }
    let count = backs.len();
    backs.push(tops.right.clone());
    let n = oriented.other();
    let columns: Vec<Vec<f64>> = backs
        .into_iter()
        .map(|mut back| {
            back.resize(n, 0.0);
            back
        })
        .collect();
    let back = Mat::from_fn(n, columns.len(), |i, j| columns[j][i]);
    let returned = oriented.to_residual(back.as_ref(), Want::Both)?;
    let column =
        |matrix: &Mat<f32>, j: usize| -> Vec<f64> { matrix.col(j).iter().map(|value| f64::from(*value)).collect() };

    let raw = regressions.first().filter(|(index, ..)| *index == 0).map(|(_, regression, _)| regression);
    let inside = |regression: &Regression, direction: &[f64]| -> Vec<f64> {
        let direction = Mat::from_fn(direction.len(), 1, |i, _| direction[i]);
        (regression.basis.transpose() * direction).col(0).iter().copied().collect()
    };
    let (mut limit, mut shared_grid) = (None, false);
    if let Some(regression) = raw.filter(|_| writer) {
        let direction: Vec<f64> = planted.col(0).iter().copied().collect();
        let e = inside(regression, &direction);
        let through = regression.along(&e).pp.sqrt();
        let among = if through > 0.0 { tops.next / through } else { f64::INFINITY };
        let linear = regression.planted_limit(&e, summary::CONSISTENCY).max(among);
        // Where both sides stand on a grid a faint removal moves few codes or none, which adding it to Δ does not show.
        let on_grid = match is_encoded_again(changed) {
            true => grid::planted_limit(oriented, &direction, &regression.basis, summary::CONSISTENCY)?,
            false => None,
        };
        shared_grid = on_grid.is_some();
        limit = Some(on_grid.map_or(linear, |on_grid| linear.max(on_grid)));
    }
    let through: Vec<Vec<f64>> = (0..regressions.len()).map(|back| column(&returned.base, back)).collect();
    let lost = if regressions.iter().any(|(.., chosen)| chosen.consistency.abs() >= summary::CONSISTENCY) {
        lost_beside(changed, &regressions, &through, alpha)?
    } else {
        Vec::new()
    };
    // ‖Δ‖² of what is not set aside, and how much of it the raw span leaves out: sums per row hold all columns, so that in row-normalised
    // coordinates only the span tells.
    let energies = kept.map_or((0.0, 1.0), |kept| {
        let all = order::kept_energy(oriented, &changed.moments, kept, alpha);
        let inside = raw.map_or(all, Regression::energy);
        (all, if inside > 0.0 { (all / inside).max(1.0) } else { 1.0 })
    });
    let mut sides = [None, None];
    for (back, (index, mut regression, chosen)) in regressions.into_iter().enumerate() {
        let direction = regression.direction(&chosen.e);
        let (p, q) = regression.right(&chosen.e);
        let (wp, dp) = (&through[back], column(&returned.change, back));
        let norms = if index == 1 { changed.norms.as_deref() } else { None };
        let left = if index == 0 { energies.0 } else { regression.energy() * energies.1 };
        let known = kept.map(|_| projection::Kept { left, alpha });
        let fit_along = |r: &[f64], pq: (&[f64], &[f64]), back: (&[f64], &[f64])| {
            projection::fit(oriented, &changed.moments, r, pq, back, norms, known)
        };
        let (mut fit, unscaled) = fit_along(&direction, (&p, &q), (wp, &dp));
        if let Some(r) = unscaled.filter(|_| chosen.consistency >= summary::CONSISTENCY) {
            let products = along_direction(oriented, &r, norms)?;
            let [p, q, wp, dp] = &products;
            fit = Fit { own_component: fit.own_component, ..fit_along(&r, (p, q), (wp, dp)).0 };
        }
        fit.consistency = chosen.consistency;
        if shared_grid {
            // λ̂ comes out many times too small there, and is no measure beside the rows' factors.
            fit.row_spread = 0.0;
        }
        if lost.get(back).is_some_and(|lost| {
            lost.consistency().abs() >= OWN_LOST && lost.strength().abs() >= OWN_ALIKE * fit.strength.abs()
        }) {
            // A mixture is known less exactly than one component is.
            fit.own_component = fit.own_component.max(summary::OWN_COMPONENT);
        }
        let removal = chosen.consistency >= 0.0;
        if !removal && (fit.strength >= 0.0 || chosen.reverse > LACKING) {
            // What the base lacks it cannot be measured by: the candidate's own is the measure then.
            fit.strength = -chosen.reverse.max(0.0);
            let left = (1.0 - chosen.consistency * chosen.consistency).max(0.0);
            fit.stderr = chosen.reverse.abs() * (left / oriented.other().max(1) as f64).sqrt();
        }
        let others = regression
            .candidates(removal)
            .iter()
            .map(|(_, e)| {
                let along = regression.along(e);
                (along.strength(), along.consistency())
            })
            .collect();
        let low = regression.eigenvalues.first().copied().unwrap_or(0.0);
        let high = regression.eigenvalues.last().copied().unwrap_or(0.0);
        let balance = if removal { (high / -low).max(0.0) } else { (-low / high).max(0.0) };
        regression.shrink();
        let pooled = if writes { &shared.writers[index] } else { &shared.readers };
        let shared = if pooled.nrows() == width {
            regression.basis.transpose() * pooled
        } else {
            Mat::zeros(regression.basis.ncols(), 0)
        };
        // Only the map to the shared directions is needed from here on; a mixture has thousands of these.
        regression.basis = Mat::zeros(0, 0);
        sides[index] = Some(Coordinates {
            regression,
            shared,
            direction,
            fit,
            cross_fit: chosen.lower,
            others,
            balance: if balance.is_finite() { balance } else { 1.0 },
        });
    }
    let own = column(&returned.change, count);
    let through = column(&returned.base, count);
    let mean: f64 = tops.right.iter().sum::<f64>() / (n as f64).sqrt();
    let length = |vector: &[f64]| vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    let scale = length(&own) * length(&through);
    let inner: f64 = own.iter().zip(&through).map(|(a, b)| a * b).sum();
    Ok(Some(Projected {
        sides,
        transposed: if scale > 0.0 { inner.abs() / scale } else { 0.0 },
        uniform_right: mean.abs(),
        right: tops.right.clone(),
        limit,
        uniform: uniform.middle,
    }))
}

/// Rows of which an edit that was encoded again moves a code: at least one in so many. Fewer were set by themselves (a pruned channel).
const MOVED_ROWS: usize = 20;

/// Whether elements moved all over the matrix, as when codes are decoded, edited and encoded again.
fn is_encoded_again(changed: &Changed<'_>) -> bool {
    let moments = changed.stored();
    let rows = moments.rows.iter().filter(|sums| sums.changed > 0).count();
    rows * MOVED_ROWS >= moments.rows.len()
}

/// [Wᵀr, Δᵀr, W Wᵀr, Δ Wᵀr] of one direction, the first two in the coordinates of the row norms given, the others raw.
fn along_direction(oriented: &Oriented<'_>, r: &[f64], norms: Option<&[f64]>) -> Result<[Vec<f64>; 4]> {
    let column = |matrix: &Mat<f32>| -> Vec<f64> { matrix.col(0).iter().map(|value| f64::from(*value)).collect() };
    let probe = Mat::from_fn(r.len(), 1, |at, _| r[at] / norms.map_or(1.0, |norms| norms[at]));
    let product = oriented.to_other(probe.as_ref(), Want::Both)?;
    let (p, q) = (column(&product.base), column(&product.change));
    let right = Mat::from_fn(p.len(), 1, |at, _| p[at]);
    let back = oriented.to_residual(right.as_ref(), Want::Both)?;
    Ok([p, q, column(&back.base), column(&back.change)])
}

/// For each direction r with p = Wᵀr: base and change along what of W p is not along r. W maps the span of its own components to
/// itself, so where those were dropped W p is as lost as r; a removed direction takes r away and leaves the rest.
fn lost_beside(
    changed: &Changed<'_>,
    regressions: &[(usize, Regression, projection::Chosen)],
    through: &[Vec<f64>],
    alpha: f64,
) -> Result<Vec<Along>> {
    let norms = |index: usize| changed.norms.as_deref().filter(|_| index == 1);
    let scale = |norms: Option<&[f64]>, at: usize| norms.and_then(|norms| norms.get(at)).copied().unwrap_or(1.0);
    let probes: Vec<Vec<f64>> = regressions
        .iter()
        .zip(through)
        .map(|((index, regression, chosen), through)| {
            let r = regression.direction(&chosen.e);
            let through: Vec<f64> =
                through.iter().enumerate().map(|(at, value)| value / scale(norms(*index), at)).collect();
            let along: f64 = r.iter().zip(&through).map(|(r, value)| r * value).sum();
            let rest: Vec<f64> = r.iter().zip(&through).map(|(r, value)| value - along * r).collect();
            let length = rest.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            rest.iter().enumerate().map(|(at, value)| value / length / scale(norms(*index), at)).collect()
        })
        .collect();
    let width = changed.oriented.width();
    let probe = Mat::from_fn(width, probes.len(), |i, j| probes[j].get(i).copied().unwrap_or(0.0));
    let product = changed.oriented.to_other(probe.as_ref(), Want::Both)?;
    let kept = changed.aside.kept.as_deref();
    Ok((0..probes.len())
        .map(|at| {
            let mut along = Along::default();
            let pairs = product.base.col(at).iter().zip(product.change.col(at).iter());
            for (place, (p, q)) in pairs.enumerate() {
                if kept.is_none_or(|kept| kept.get(place).copied().unwrap_or(true)) {
                    let p = f64::from(*p);
                    let q = f64::from(*q) - alpha * p;
                    along.pp += p * p;
                    along.qq += q * q;
                    along.pq += p * q;
                }
            }
            along
        })
        .collect())
}

fn sized(changed: &Changed<'_>, pair: &Pair, precision: u32) -> Result<Sized> {
    let moments = changed.stored();
    let ratio =
        |ww: f64, dd: f64, dw: f64| (ww > 0.0).then(|| (((ww + 2.0 * dw + dd).max(0.0) / ww).sqrt() - 1.0).abs());
    let rows: Vec<f64> = moments.rows.iter().filter_map(|sums| ratio(sums.ww, sums.dd, sums.dw)).collect();
    let columns: Vec<f64> = moments
        .columns
        .ww
        .iter()
        .zip(moments.columns.dd.iter().zip(&moments.columns.dw))
        .filter_map(|(ww, (dd, dw))| ratio(*ww, *dd, *dw))
        .collect();
    let rescaled_rows = moments
        .rows
        .iter()
        .filter(|sums| sums.ww > 0.0 && sums.dd > 1e-6 * sums.ww && sums.dw * sums.dw > 0.99 * sums.ww * sums.dd)
        .count() as u64;
    let operator = &changed.oriented.operator;
    let vector = if pair.base.rows == 1 && operator.rows * operator.columns <= 1 << 20 {
        Some(operator.vector_change()?)
    } else {
        None
    };
    let peak = |sums: &mut dyn Iterator<Item = f64>| sums.fold(0.0f64, f64::max);
    Ok(Sized {
        shape: [pair.base.rows as usize, pair.base.columns as usize],
        total: moments.total,
        norm_drift: [median(rows), median(columns)],
        changed_rows: moments.rows.iter().map(|sums| sums.changed > 0).collect(),
        scale_explained: changed.scale_explained,
        energy: changed.energy,
        values: changed.values.clone(),
        peaks: [
            peak(&mut moments.rows.iter().map(|sums| sums.ww)) / moments.total.ww.max(f64::MIN_POSITIVE),
            peak(&mut moments.columns.ww.iter().copied()) / moments.total.ww.max(f64::MIN_POSITIVE),
        ],
        precision,
        quantized: false,
        rescaled_rows,
        vector,
        moved: changed.aside.moved,
        set_aside: changed.aside.share(),
        erased: changed
            .oriented
            .operator
            .erased
            .as_ref()
            .map_or(0.0, |erased| erased.count() as f64 / erased.which.len().max(1) as f64),
        zeroed_rows: moments
            .rows
            .iter()
            .filter(|sums| sums.changed > 0 && sums.zeroed == sums.changed && -sums.dw >= 0.999 * sums.ww)
            .count() as u64,
    })
}
