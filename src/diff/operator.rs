//! One pair of matrices as an operator: passes over its tiles, with base and change multiplied by a few columns.
//!
//! A pass decodes a tile of base and candidate, subtracts, and multiplies both by a skinny matrix while they are in
//! cache. Rows are cut into segments of a size that depends on the shape alone and segments are merged in order, so a
//! result does not depend on the number of threads.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use super::kernel::{self, ColumnSums, Scratch, Sums};
use super::reordering::Reordering;
use super::requantize::{self, Match, Quantizer};
use crate::arch::Axis;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::TILE_ELEMENTS;
use crate::pair::Pair;

/// Elements of one segment, the unit of parallel work inside a matrix.
const SEGMENT_ELEMENTS: u64 = 4 << 20;

/// A matrix wider than this is cut into rows of this width for its moments; such a "row" (a flattened vector or a
/// convolution) has no meaning of its own, and nothing else is computed of it.
const MAX_ROW_ELEMENTS: u64 = 1 << 20;

/// What of a row's energy must be gone for it to be zero now: all but the rounding of sums.
const GONE: f64 = 1.0 - 1e-9;
/// Rows of the residual stream set to zero from which they are damage or pruning: a removal along a mixture of channels
/// leaves none of them zero. One alone is judged as a direction that is one channel.
const ERASED_LEAST: usize = 2;

/// A pair of matrices of one shape, `rows` × `columns` as the base stores them.
#[derive(Clone)]
pub struct Operator<'a> {
    /// The pair.
    pub pair: &'a Pair,
    base: &'a Checkpoint,
    candidate: &'a Checkpoint,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// A scale of the candidate that is divided out before the change is taken.
    pub gauge: Gauge,
    /// Where the base's columns or rows are in the candidate, if some moved.
    pub order: Option<Reordering>,
    /// Rows or columns that the candidate has set to zero and that count for nothing on either side.
    pub erased: Option<Erased>,
}

/// Which rows, or which columns, are all zero in the candidate and not in the base.
#[derive(Debug, Clone, PartialEq)]
pub struct Erased {
    /// Rows or columns as stored.
    pub axis: Axis,
    /// Which of them.
    pub which: Vec<bool>,
}

impl Erased {
    /// How many.
    pub fn count(&self) -> usize {
        self.which.iter().filter(|erased| **erased).count()
    }

    /// Sets them to zero in rows of the base from `first` on, as they are in the candidate.
    fn apply(&self, first: usize, columns: usize, w: &mut [f32]) {
        for (row, w) in w.chunks_exact_mut(columns).enumerate() {
            match self.axis {
                Axis::Rows if self.which.get(first + row).copied().unwrap_or(false) => w.fill(0.0),
                Axis::Rows => {}
                Axis::Columns => {
                    w.iter_mut().zip(&self.which).filter(|(_, erased)| **erased).for_each(|(value, _)| *value = 0.0);
                }
            }
        }
    }
}

/// A scale that a derivative may carry beside its edit: the candidate is multiplied by these factors first.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Gauge {
    /// Nothing to divide out.
    #[default]
    None,
    /// One factor per row.
    Rows(Vec<f32>),
    /// One factor per column.
    Columns(Vec<f32>),
}

/// Sums of a whole pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moments {
    /// Over all elements.
    pub total: Sums,
    /// Per row.
    pub rows: Vec<Sums>,
    /// Per column.
    pub columns: ColumnSums,
}

/// Which matrix of the pair a skinny product is wanted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Δ alone.
    Change,
    /// Δ and W.
    Both,
}

/// A skinny product with the change, and with the base where it was asked for.
#[derive(Debug, Clone)]
pub struct Product {
    /// Of Δ.
    pub change: Mat<f32>,
    /// Of W; empty unless asked for.
    pub base: Mat<f32>,
}

/// Moments of one segment of rows: per row, per column, and its rows of the product.
type MomentsPart = (Vec<Sums>, ColumnSums, Mat<f32>);

impl<'a> Operator<'a> {
    /// The operator of a pair. Errors when its sides are larger than this machine can address.
    pub fn new(pair: &'a Pair, base: &'a Checkpoint, candidate: &'a Checkpoint) -> Result<Self> {
        let (mut rows, mut columns) = (pair.base.rows, pair.base.columns);
        if columns > MAX_ROW_ELEMENTS {
            (rows, columns) = reshape(pair.base.elements());
        }
        let size = |side: u64| {
            usize::try_from(side).map_err(|e| Error::because(ErrorKind::TooLarge, format!("sizing {}", pair.name), e))
        };
        Ok(Self {
            pair,
            base,
            candidate,
            rows: size(rows)?,
            columns: size(columns)?,
            gauge: Gauge::None,
            order: None,
            erased: None,
        })
    }

    /// Coordinates of the residual stream (the axis `residual`) along which every number that the base has became zero;
    /// `None` where there is at most one.
    pub fn erased(&self, moments: &Moments, residual: Axis) -> Option<Erased> {
        let gone = |ww: f64, dw: f64, dd: f64| ww > 0.0 && dd >= GONE * ww && -dw >= GONE * ww && dd <= ww / GONE;
        let which: Vec<bool> = match residual {
            Axis::Rows => moments.rows.iter().map(|sums| gone(sums.ww, sums.dw, sums.dd)).collect(),
            Axis::Columns => {
                let columns = &moments.columns;
                columns.ww.iter().zip(&columns.dw).zip(&columns.dd).map(|((ww, dw), dd)| gone(*ww, *dw, *dd)).collect()
            }
        };
        let erased = Erased { axis: residual, which };
        (erased.count() >= ERASED_LEAST).then_some(erased)
    }

    /// The pair, and the two checkpoints that hold it.
    pub(super) fn sides(&self) -> (&'a Pair, &'a Checkpoint, &'a Checkpoint) {
        (self.pair, self.base, self.candidate)
    }

    fn tile_rows(&self) -> usize {
        (TILE_ELEMENTS / self.columns.max(1)).clamp(1, 512)
    }

    fn segments(&self) -> Vec<Range<usize>> {
        let tile = self.tile_rows();
        let rows = (SEGMENT_ELEMENTS as usize / self.columns.max(1)).max(1).next_multiple_of(tile);
        (0..self.rows).step_by(rows).map(|first| first..(first + rows).min(self.rows)).collect()
    }

    /// Calls `visit(first row, base tile, candidate tile)` over the tiles of `rows`.
    fn tiles(
        &self,
        rows: Range<usize>,
        mut visit: impl FnMut(usize, &mut [f32], &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let step = self.tile_rows();
        let mut base = vec![0f32; step * self.columns];
        let mut candidate = base.clone();
        for first in rows.clone().step_by(step) {
            let count = step.min(rows.end - first);
            let (w, x) = (&mut base[..count * self.columns], &mut candidate[..count * self.columns]);
            self.decode(first, w, x)?;
            visit(first, w, x)?;
        }
        Ok(())
    }

    /// Rows of both sides from `first` on, as they are compared; a scale is not divided out.
    pub(super) fn decode(&self, first: usize, w: &mut [f32], x: &mut [f32]) -> Result<()> {
        if self.columns as u64 == self.pair.base.columns {
            self.pair.base.decode_rows(self.base, first as u64, w)?;
            if let Some(erased) = &self.erased {
                erased.apply(first, self.columns, w);
            }
            return match &self.order {
                Some(order) => order.decode(self.columns, first, x, &|first, out| self.decode_candidate(first, out)),
                None => self.decode_candidate(first, x),
            };
        }
        // A flattened vector: rows of our own making, so only a contiguous view can be cut this way.
        let start = (first * self.columns) as u64;
        for (view, checkpoint, out) in
            [(&self.pair.base, self.base, &mut *w), (&self.pair.candidate, self.candidate, &mut *x)]
        {
            let entry =
                checkpoint.tensors.get(&view.tensor).filter(|_| view.is_contiguous()).ok_or_else(|| {
                    Error::new(ErrorKind::Unsupported, format!("reading {} as a vector", view.tensor))
                })?;
            checkpoint.decode(entry, view.offset + start, out)?;
        }
        Ok(())
    }

    /// Rows of the candidate as they are stored.
    fn decode_candidate(&self, first: usize, out: &mut [f32]) -> Result<()> {
        self.pair.candidate.decode_rows(self.candidate, first as u64, out)
    }

    /// First pass: moments of everything, and Δ times `right` (columns × k) where given; without a gauge.
    pub fn moments(&self, right: Option<&Mat<f32>>) -> Result<(Moments, Option<Mat<f32>>)> {
        let width = right.map_or(0, |right| right.ncols());
        let parts: Vec<Result<MomentsPart>> = self
            .segments()
            .into_par_iter()
            .map(|rows| {
                let mut sums = Vec::with_capacity(rows.len());
                let mut column_sums = ColumnSums::zeros(self.columns);
                let mut scratch = Scratch::default();
                let mut sketch = Mat::zeros(rows.len(), width);
                let start = rows.start;
                self.tiles(rows, |first, w, x| {
                    kernel::moments(w, x, self.columns, first as u64, &mut sums, &mut column_sums, &mut scratch);
                    if let Some(right) = right {
                        let count = x.len() / self.columns;
                        let tile = MatRef::from_row_major_slice(x, count, self.columns);
                        let target = sketch.as_mut().subrows_mut(first - start, count);
                        matmul(target, Accum::Replace, tile, right.as_ref(), 1.0, Par::Seq);
                    }
                    Ok(())
                })?;
                Ok((sums, column_sums, sketch))
            })
            .collect();
        let mut moments = Moments {
            total: Sums::default(),
            rows: Vec::with_capacity(self.rows),
            columns: ColumnSums::zeros(self.columns),
        };
        let mut product = Mat::zeros(self.rows, width);
        let mut row = 0;
        for part in parts {
            let (sums, column_sums, sketch) = part?;
            product.as_mut().subrows_mut(row, sums.len()).copy_from(&sketch);
            row += sums.len();
            sums.iter().for_each(|sums| moments.total.add(sums));
            moments.rows.extend(sums);
            moments.columns.add(&column_sums);
        }
        Ok((moments, right.map(|_| product)))
    }

    /// M · `right` for M = Δ (and W): `right` is columns × k, the products rows × k.
    pub fn times(&self, right: &Mat<f32>, want: Want) -> Result<Product> {
        let width = right.ncols();
        let base_width = if want == Want::Both { width } else { 0 };
        let parts: Vec<Result<Product>> = self
            .segments()
            .into_par_iter()
            .map(|rows| {
                let start = rows.start;
                let mut out =
                    Product { change: Mat::zeros(rows.len(), width), base: Mat::zeros(rows.len(), base_width) };
                self.tiles(rows, |first, w, x| {
                    self.take_change(first, w, x);
                    let count = x.len() / self.columns;
                    let tile = MatRef::from_row_major_slice(x, count, self.columns);
                    let target = out.change.as_mut().subrows_mut(first - start, count);
                    matmul(target, Accum::Replace, tile, right.as_ref(), 1.0, Par::Seq);
                    if want == Want::Both {
                        let tile = MatRef::from_row_major_slice(w, count, self.columns);
                        let target = out.base.as_mut().subrows_mut(first - start, count);
                        matmul(target, Accum::Replace, tile, right.as_ref(), 1.0, Par::Seq);
                    }
                    Ok(())
                })?;
                Ok(out)
            })
            .collect();
        let mut product = Product { change: Mat::zeros(self.rows, width), base: Mat::zeros(self.rows, base_width) };
        let mut row = 0;
        for part in parts {
            let part = part?;
            let count = part.change.nrows();
            product.change.as_mut().subrows_mut(row, count).copy_from(&part.change);
            if want == Want::Both {
                product.base.as_mut().subrows_mut(row, count).copy_from(&part.base);
            }
            row += count;
        }
        Ok(product)
    }

    /// Mᵀ · `left` for M = Δ (and W): `left` is rows × k, the products columns × k.
    pub fn transposed_times(&self, left: &Mat<f32>, want: Want) -> Result<Product> {
        let width = left.ncols();
        let base_width = if want == Want::Both { width } else { 0 };
        let zeros = || Product { change: Mat::zeros(self.columns, width), base: Mat::zeros(self.columns, base_width) };
        let parts: Vec<Result<Product>> = self
            .segments()
            .into_par_iter()
            .map(|rows| {
                let mut out = zeros();
                self.tiles(rows, |first, w, x| {
                    self.take_change(first, w, x);
                    let count = x.len() / self.columns;
                    let left = left.as_ref().subrows(first, count);
                    let tile = MatRef::from_row_major_slice(x, count, self.columns);
                    matmul(out.change.as_mut(), Accum::Add, tile.transpose(), left, 1.0, Par::Seq);
                    if want == Want::Both {
                        let tile = MatRef::from_row_major_slice(w, count, self.columns);
                        matmul(out.base.as_mut(), Accum::Add, tile.transpose(), left, 1.0, Par::Seq);
                    }
                    Ok(())
                })?;
                Ok(out)
            })
            .collect();
        let mut product = zeros();
        for part in parts {
            let part = part?;
            product.change += &part.change;
            if want == Want::Both {
                product.base += &part.base;
            }
        }
        Ok(product)
    }

    /// Δ itself, element by element, for a vector.
    pub fn vector_change(&self) -> Result<Vec<f64>> {
        let mut change = Vec::with_capacity(self.rows * self.columns);
        self.tiles(0..self.rows, |first, w, x| {
            self.take_change(first, w, x);
            change.extend(x.iter().map(|value| f64::from(*value)));
            Ok(())
        })?;
        Ok(change)
    }

    fn take_change(&self, first: usize, w: &mut [f32], x: &mut [f32]) {
        let (rows, columns) = match &self.gauge {
            Gauge::None => (None, None),
            Gauge::Rows(factors) => (factors.get(first..), None),
            Gauge::Columns(factors) => (None, Some(factors.as_slice())),
        };
        kernel::change(w, x, self.columns, rows, columns);
    }

    /// Whether both sides hold the same bits: one comparison of memory, no decoding. `None` when the sides are stored
    /// in different ways, so that bits say nothing.
    pub fn same_bits(&self) -> Result<Option<bool>> {
        let raw = |checkpoint: &'a Checkpoint, view: &crate::pair::View| -> Result<Option<_>> {
            let Some(entry) = checkpoint.tensors.get(&view.tensor).filter(|_| view.is_contiguous()) else {
                return Ok(None);
            };
            let Some(bytes) = checkpoint.raw(entry)? else { return Ok(None) };
            let range =
                entry.dtype.bytes_of(view.offset).zip(entry.dtype.bytes_of(view.elements())).and_then(
                    |(start, length)| Some(usize::try_from(start).ok()?..usize::try_from(start + length).ok()?),
                );
            Ok(range.map(|range| (entry.dtype, bytes, range)))
        };
        let Some((base_dtype, base, base_range)) = raw(self.base, &self.pair.base)? else { return Ok(None) };
        let Some((dtype, candidate, range)) = raw(self.candidate, &self.pair.candidate)? else { return Ok(None) };
        if base_dtype != dtype {
            return Ok(None);
        }
        let (Some(base), Some(candidate)) = (base.get(base_range), candidate.get(range)) else { return Ok(None) };
        Ok(Some(base == candidate))
    }

    /// The known quantiser whose round trip turns the base into the candidate, if one does: chosen on the first row,
    /// then held against all of them. `own` is the candidate's dtype as (precision, smallest normal exponent).
    pub fn requantized(&self, own: (u32, i32)) -> Result<Option<Quantizer>> {
        let mut w = vec![0f32; self.columns];
        let mut x = w.clone();
        self.decode(0, &mut w, &mut x)?;
        // A scale for the whole tensor needs its largest value; it is looked for only when some scheme asks for it.
        let mut largest = None;
        for scheme in requantize::schemes(self.columns) {
            let peak = match (scheme.needs_largest(), largest) {
                (false, _) => 0.0,
                (true, Some(peak)) => peak,
                (true, None) => *largest.insert(self.largest()?),
            };
            // The first group of the first row rules nearly all of them out.
            let first = scheme.first_group(self.columns).min(w.len());
            let mut head = Match::default();
            head.add(&scheme, &w[..first], &x[..first], first, peak, own);
            if !head.holds() {
                continue;
            }
            let parts: Vec<Result<Match>> = self
                .segments()
                .into_par_iter()
                .map(|rows| {
                    let mut part = Match::default();
                    self.tiles(rows, |_, w, x| {
                        part.add(&scheme, w, x, self.columns, peak, own);
                        Ok(())
                    })?;
                    Ok(part)
                })
                .collect();
            let mut whole = Match::default();
            for part in parts {
                whole.merge(part?);
            }
            if whole.holds() {
                return Ok(Some(scheme));
            }
        }
        Ok(None)
    }

    fn largest(&self) -> Result<f32> {
        let mut peak = 0f32;
        self.tiles(0..self.rows, |_, w, _| {
            peak = w.iter().fold(peak, |peak, value| peak.max(value.abs()));
            Ok(())
        })?;
        Ok(peak)
    }

    /// Whether the candidate is the base rounded to one of `formats` (precision, smallest normal exponent), each
    /// element bit for bit. Stops at the first tile in which no format is left.
    pub fn is_rounded(&self, formats: &[(u32, i32)]) -> Result<bool> {
        let mut left = formats.to_vec();
        // Both zeros are one number, and a NaN stays a NaN whatever its payload.
        let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
        for segment in self.segments() {
            for first in segment.clone().step_by(self.tile_rows()) {
                let count = self.tile_rows().min(segment.end - first);
                let mut w = vec![0f32; count * self.columns];
                let mut x = w.clone();
                self.decode(first, &mut w, &mut x)?;
                left.retain(|(precision, min_exponent)| {
                    w.iter().zip(&x).all(|(w, x)| same(kernel::round_to(*w, *precision, *min_exponent), *x))
                });
                if left.is_empty() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// A vector of `elements` as rows: the largest divisor of the count up to 4096 as the width keeps every element.
fn reshape(elements: u64) -> (u64, u64) {
    let width = (1..=4096u64).rev().find(|width| elements.is_multiple_of(*width)).unwrap_or(1);
    (elements / width, width)
}
