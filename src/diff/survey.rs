//! First stage, one pair at a time: equal bits, a cast, a quantiser and back, or else moments and the leading
//! directions of the change.

use faer::Mat;

use super::operator::{Gauge, Moments, Operator, Want};
use super::order::{self, ColumnsAside};
use super::oriented::Oriented;
use super::projection::{self, SKETCH, SKETCH_WRITER, TopVectors};
use super::requantize::Quantizer;
use super::spectrum;
use crate::arch::{Axis, Kind, Role};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::pair::{Pair, View};
use crate::profile::{Coordinates, Sameness};
use crate::tensor::{DType, DTypeFamily};

/// Own directions of a writer that are kept for pooling and for its regression.
const OWN_WRITER: usize = 20;

/// Own directions kept of any other matrix,
const OWN: usize = 4;

/// and of one expert among many: a mixture has thousands of them.
const OWN_EXPERT: usize = 4;

/// Power steps of a writer's range finder. Other matrices do without: a direction taken out of them is the loudest
/// thing in their change or nothing that could be told from training.
const POWER_STEPS: usize = 1;

/// A scale per row or column is divided out before anything else when it explains this share of the change.
const GAUGE_SHARE: f64 = 0.5;

/// One factor that explains this much leaves nothing for a factor per row or column.
const NEARLY_WHOLE: f64 = 0.95;

/// ‖Δ‖/‖W‖ up to which two matrices are one, computed in another order: a few last places of binary32 (2⁻²⁴ = 6e-8). A
/// removal with λ of 1e-5 moves more.
const ARITHMETIC: f64 = 2.5e-7;

/// Sides below this have no spectrum worth the name.
const SMALLEST_SIDE: usize = 8;

/// Floats that a candidate may have been cast to, or through: F16, BF16, E4M3, E5M2 as (precision, smallest exponent).
const CASTS: [(u32, i32); 4] = [(11, -14), (8, -126), (4, -6), (3, -14)];

/// What the first stage found of one pair.
pub(super) enum Surveyed<'a> {
    Same(Sameness),
    Requantized(Quantizer),
    NotExamined(String),
    Changed(Box<Changed<'a>>),
}

impl Surveyed<'_> {
    pub(super) fn tops(&self) -> Option<&Tops> {
        match self {
            Self::Changed(changed) => changed.tops.as_ref(),
            Self::Same(_) | Self::Requantized(_) | Self::NotExamined(_) => None,
        }
    }
}

/// A changed pair.
pub(super) struct Changed<'a> {
    pub(super) oriented: Oriented<'a>,
    pub(super) moments: Moments,
    pub(super) norms: Option<Vec<f64>>,
    pub(super) scale_explained: [f64; 3],
    pub(super) tops: Option<Tops>,
    pub(super) values: Vec<f64>,
    pub(super) energy: f64,
    pub(super) aside: ColumnsAside,
    /// Sums of what is stored, where rows that are all zero were left out of `moments`.
    pub(super) stored: Option<Moments>,
}

impl Changed<'_> {
    /// Sums of what is stored.
    pub(super) fn stored(&self) -> &Moments {
        self.stored.as_ref().unwrap_or(&self.moments)
    }
}

/// The leading directions of a change in the residual stream.
pub(super) struct Tops {
    /// Orthonormal, of what was not set aside.
    pub(super) raw: Mat<f64>,
    pub(super) normalised: Option<Mat<f64>>,
    /// The singular value behind the last of them: what a removal must exceed to be among them. 0 when there is no
    /// more.
    pub(super) next: f64,
    /// First right vector, for the test of the other side.
    pub(super) right: Vec<f64>,
}

impl Tops {
    /// In these coordinates, where there are any.
    pub(super) fn of(&self, coordinates: Coordinates) -> Option<&Mat<f64>> {
        match coordinates {
            Coordinates::Raw => Some(&self.raw),
            Coordinates::RowNormalised => self.normalised.as_ref(),
        }
    }
}

/// First stage for one pair.
pub(super) fn survey(operator: Operator<'_>) -> Result<Surveyed<'_>> {
    let (pair, base, candidate) = operator.sides();
    if let Some(same) = same(pair, base, candidate, &operator)? {
        return Ok(same);
    }
    let residual = pair.role.residual.unwrap_or(Axis::Rows);
    let matrix = pair.base.rows > 1
        && operator.columns as u64 == pair.base.columns
        && operator.rows.min(operator.columns) >= SMALLEST_SIDE;
    let sketch = if pair.role.kind == Kind::Writer { SKETCH_WRITER } else { SKETCH };
    let signs = matrix.then(|| spectrum::signs(operator.columns, sketch.min(operator.columns), 1));
    let (moments, start) = operator.moments(signs.as_ref())?;
    if let Some(early) = without_size(&operator, &moments) {
        return Ok(early);
    }
    let changed = Changed {
        scale_explained: [0.0; 3],
        energy: moments.total.dd,
        oriented: Oriented { operator, residual },
        moments,
        norms: None,
        tops: None,
        values: Vec::new(),
        aside: ColumnsAside::default(),
        stored: None,
    };
    changed.look_closer(pair, signs.as_ref(), start).map(|changed| Surveyed::Changed(Box::new(changed)))
}

/// A change that has no size, or none that could be told.
fn without_size<'a>(operator: &Operator<'_>, moments: &Moments) -> Option<Surveyed<'a>> {
    let everything = (operator.rows * operator.columns) as u64;
    if moments.total.not_finite.iter().any(|count| *count * 2 > everything) {
        let [in_base, in_candidate] = moments.total.not_finite;
        return Some(Surveyed::NotExamined(format!(
            "most elements are not finite ({in_base} in the base, {in_candidate} in the candidate, of {everything})"
        )));
    }
    if !(moments.total.ww.is_finite() && moments.total.dd.is_finite()) {
        return Some(Surveyed::NotExamined("values too large to be squared".to_owned()));
    }
    // Row by row: beside one loud row everything would be small.
    let arithmetic = moments.rows.iter().all(|sums| sums.dd <= ARITHMETIC * ARITHMETIC * sums.ww);
    arithmetic.then_some(Surveyed::Same(Sameness::Recast))
}

impl<'a> Changed<'a> {
    /// Undoes what only moved, sets aside what no removal can have done, takes off a scale, and finds the leading
    /// directions of what is left. `start` is the change times the `signs`, where it is a matrix.
    fn look_closer(mut self, pair: &Pair, signs: Option<&Mat<f32>>, mut start: Option<Mat<f32>>) -> Result<Self> {
        let kind = pair.role.kind;
        let residual = self.oriented.residual;
        if signs.is_some() && side_of(&pair.role).is_some() {
            self.oriented.operator.erased = self.oriented.operator.erased(&self.moments, residual);
            if self.oriented.operator.erased.is_some() {
                let (masked, again) = self.oriented.operator.moments(signs)?;
                self.stored = Some(std::mem::replace(&mut self.moments, masked));
                start = again;
            }
        }
        if signs.is_some() && matches!(kind, Kind::Writer | Kind::Reader) {
            if let Some(order) = order::find(&self.oriented, &self.moments)? {
                self.aside.moved = order.moved();
                self.oriented.operator.order = Some(order);
                (self.moments, start) = self.oriented.operator.moments(signs)?;
            }
            self.aside.kept = order::explicable(&self.oriented, &self.moments);
        }
        self.scale_explained = scale_explained(&self.moments);
        self.energy = self.moments.total.dd;
        if self.energy == 0.0 {
            // Nothing but rows that are zero now.
            return Ok(self);
        }
        // A loud change of low rank looks like a scale of its rows or columns as well; it is not one. Nor is what was
        // set aside.
        if let Some(signs) = signs
            && self.aside.kept.is_none()
            && !start.as_ref().is_some_and(is_low_rank)
            && self.unscale()
        {
            start = Some(self.oriented.operator.times(signs, Want::Change)?.change);
        }
        let normalise = kind == Kind::Writer;
        self.norms = normalise.then(|| self.oriented.row_norms(&self.moments));
        // A reader whose change is flat has no direction to look for; its spectrum is not worth another pass.
        if let Some(start) = start.filter(|start| normalise || !is_flat(start)) {
            let steps = if normalise { POWER_STEPS } else { 0 };
            let (norms, kept) = (self.norms.as_deref(), self.aside.kept.as_deref());
            let vectors = projection::top_vectors(&self.oriented, &start, self.energy, norms, kept, steps)?;
            self.values.clone_from(&vectors.raw.values);
            self.tops = Some(tops_of(&vectors, pair, norms));
        }
        Ok(self)
    }

    /// Divides a scale per row, per column or of the whole out where it explains most of the change; whether it did.
    fn unscale(&mut self) -> bool {
        let [whole, rows, columns] = self.scale_explained;
        let moments = &self.moments;
        let (gauge, explained) = if rows.max(columns) > GAUGE_SHARE && whole < NEARLY_WHOLE {
            let gauge = if rows >= columns {
                Gauge::Rows(factors(moments.rows.iter().map(|sums| (sums.ww, sums.dw))))
            } else {
                Gauge::Columns(factors(moments.columns.ww.iter().zip(&moments.columns.dw).map(|(ww, dw)| (*ww, *dw))))
            };
            (gauge, rows.max(columns))
        } else if whole > GAUGE_SHARE {
            let factor = moments.total.ww / (moments.total.ww + moments.total.dw);
            (Gauge::Rows(vec![factor as f32; self.oriented.operator.rows]), whole)
        } else {
            return false;
        };
        self.oriented.operator.gauge = gauge;
        self.energy *= 1.0 - explained;
        true
    }
}

/// Whether the two are one matrix: equal bits, a cast, or a quantiser and back. `None` where something else changed.
fn same<'a>(
    pair: &Pair,
    base: &Checkpoint,
    candidate: &Checkpoint,
    operator: &Operator<'_>,
) -> Result<Option<Surveyed<'a>>> {
    if operator.rows == 0 || operator.columns == 0 {
        return Ok(Some(Surveyed::Same(Sameness::Identical)));
    }
    if operator.same_bits()? == Some(true) {
        return Ok(Some(Surveyed::Same(Sameness::Identical)));
    }
    let float = |view: &View, checkpoint: &Checkpoint| {
        checkpoint.tensors.get(&view.tensor).is_some_and(|entry| entry.dtype.family != DTypeFamily::Integer)
    };
    if !float(&pair.base, base) && !float(&pair.candidate, candidate) {
        return Ok(Some(Surveyed::NotExamined("integers that differ: nothing to measure".to_owned())));
    }
    if operator.is_rounded(&CASTS)? || operator.is_rounded(&[(24, -126)])? {
        let same = same_format(pair, base, candidate) && operator.is_rounded(&[(24, -126)])?;
        return Ok(Some(Surveyed::Same(if same { Sameness::Identical } else { Sameness::Recast })));
    }

    let dtype = candidate.tensors.get(&pair.candidate.tensor).map(|entry| entry.dtype);
    let own = dtype.and_then(float_format);
    if let Some(own) = own.filter(|_| pair.base.rows > 1 && operator.columns as u64 == pair.base.columns)
        && let Some(scheme) = operator.requantized(own)?
    {
        let cast = scheme.is_cast();
        return Ok(Some(if cast { Surveyed::Same(Sameness::Recast) } else { Surveyed::Requantized(scheme) }));
    }
    Ok(None)
}

/// Whether both sides hold floats of one dtype, no wider than binary32, and no codes: equal numbers are equal bits
/// then, however the bytes lie.
fn same_format(pair: &Pair, base: &Checkpoint, candidate: &Checkpoint) -> bool {
    let format = |view: &View, checkpoint: &Checkpoint| {
        let entry = checkpoint.tensors.get(&view.tensor).filter(|entry| !entry.is_quantized())?;
        (entry.dtype.family == DTypeFamily::Float && (1..=24).contains(&entry.dtype.precision)).then_some(entry.dtype)
    };
    let [base, candidate] = [format(&pair.base, base), format(&pair.candidate, candidate)];
    base.is_some() && base == candidate && pair.base.shift == pair.candidate.shift
}

/// Whether most of a change is one direction, by its product with a sign matrix: the product's columns are then nearly
/// parallel.
fn is_low_rank(product: &Mat<f32>) -> bool {
    loudest_share(product) > 0.6
}

/// Whether a change is spread over more directions than training or an edit leaves: the columns of its product with a
/// sign matrix are then as good as independent, and none of k stands above (1 + √(k/r))²/k of their energy, r the
/// directions. Under 1.5/k, r is above 200 for k = 12.
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

/// Whether a pair faces the residual stream with its rows or columns, and from which side.
pub(super) fn side_of(role: &Role) -> Option<bool> {
    match role.kind {
        Kind::Writer | Kind::Embedding => Some(true),
        Kind::Reader | Kind::Head | Kind::Router => Some(false),
        // Of what is outside the model's stream only writers of a draft block's own have an axis that is one.
        Kind::Other => role.residual.map(|_| true),
        Kind::Norm | Kind::Bias => None,
    }
}
