//! A look at one block of rows: what changed in it, and the directions that its right vectors are solved to.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::{Block, BlockMeasurement, FITS, ReadRows, column, probe, through};
use crate::diff::factor::Factor;
use crate::diff::order::{self, Uniform};
use crate::diff::spectrum;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::profile::{ByCoordinates, Coordinates};
use crate::tensor::numbers::{cosine, dot};

/// Rows from which columns are judged by what they show: the length of a column over fewer says little.
pub(super) const ENOUGH_ROWS: usize = 16;

/// Elements decoded at a time in a pass over a writer: 4 MB.
pub(super) const STRIP: usize = 16 * limits::TILE_ELEMENTS;

/// Of a block's right vectors, largest first, those that are also tested by themselves: a direction of one writer alone
/// is in no pool, and a merged LoRA of rank 8 may be louder.
pub(super) const OWN: usize = 12;

/// Share of a right vector inside the row space of W from which it may come from a removal: it is 1 for one, d/n by
/// chance.
pub(super) const ROW_SPACE: f64 = 0.6;

/// Steps of the power iteration from a direction to the component that it leans on.
pub(super) const OWN_STEPS: usize = 4;

/// One block after the first look.
pub struct Sight {
    pub(super) measurement: BlockMeasurement,
    /// `None` where nothing changed but columns that were set aside.
    pub(super) change: Option<BlockChange>,
}

impl Sight {
    /// Whether the whole base is needed to examine it.
    pub fn has_change(&self) -> bool {
        self.change.is_some()
    }
}

/// What is kept of Δ_I (m × n) and of the base's writer between the steps. Whatever a planted removal does to the right
/// vectors follows from it without another pass.
pub(super) struct BlockChange {
    pub(super) first_row: usize,
    pub(super) columns: usize,
    /// Δ_I, row-major; zero where set aside.
    pub(super) delta: Vec<f32>,
    pub(super) kept: Option<Vec<bool>>,
    /// Δ_I Δ_Iᵀ.
    pub(super) gram: Mat<f64>,
    /// W Δ_Iᵀ, d × m, and what it is solved to.
    pub(super) times: Mat<f64>,
    pub(super) solved: Mat<f64>,
    /// The same for the right vector Wᵀr of the probe.
    pub(super) probe_times: Vec<f64>,
    pub(super) probe_solved: Vec<f64>,
    /// Norms of the rows of W.
    pub(super) norms: Vec<f64>,
}

/// What the right vectors of a block are solved to.
pub(super) struct Solved {
    /// d × k.
    pub(super) directions: Mat<f64>,
    /// See [`Evidence::own`](super::Evidence::own).
    pub(super) own: ByCoordinates<f64>,
    /// How many are removals by themselves.
    pub(super) removals: ByCoordinates<usize>,
}

impl BlockChange {
    pub(super) fn rows(&self) -> usize {
        self.gram.nrows()
    }

    pub(super) fn seen<'v>(&self, values: &'v [f64]) -> &'v [f64] {
        values.get(self.first_row..self.first_row + self.rows()).unwrap_or_default()
    }

    /// c along the component of W that a direction leans on most, as a share of the c that it has itself.
    pub(super) fn own_component(&self, factor: &Factor, mut direction: Vec<f64>, consistency: f64) -> f64 {
        for _ in 0..OWN_STEPS {
            direction = factor.gram_times(&direction);
            let length = dot(&direction, &direction).sqrt();
            direction.iter_mut().for_each(|value| *value /= length.max(f64::MIN_POSITIVE));
        }
        let seen = self.seen(&direction);
        let written = dot(&direction, &factor.gram_times(&direction));
        let changed = dot(seen, &through(&self.gram, seen));
        // ⟨Wᵀr, Δᵀr⟩ over the columns is rᵀ WΔᵀ r.
        let both = dot(&direction, &through(&self.times, seen));
        let own = -both / (written * changed).sqrt();
        if own.is_finite() && consistency > 0.0 { (own / consistency).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Right vectors of Δ_I, with λ of the probe planted, solved through the base; the loudest also tested on the rows
    /// seen.
    pub(super) fn solved(&self, lambda: f64) -> Solved {
        let m = self.rows();
        let width = self.norms.len();
        let removed = probe(width);
        let removed = self.seen(&removed);
        // Δ' = Δ - λ r_I pᵀ with p = Wᵀr: Δp is (WΔᵀ)ᵀr, |p|² is rᵀWWᵀr.
        let along: Vec<f64> = (0..m).map(|j| dot(&column(&self.times, j), &probe(width))).collect();
        let energy = dot(&self.probe_times, &probe(width));
        let gram = Mat::from_fn(m, m, |i, j| {
            self.gram[(i, j)] - lambda * (along[i] * removed[j] + removed[i] * along[j])
                + lambda * lambda * energy * removed[i] * removed[j]
        });
        let (values, vectors) = spectrum::symmetric_eigen(gram.as_ref());
        let largest = values.last().copied().unwrap_or(0.0);
        let count = (m / 2).max(1);
        let kept: Vec<usize> = (0..m).rev().take(count).filter(|at| values[*at] > 1e-9 * largest).collect();
        let left = Mat::from_fn(m, kept.len(), |i, k| vectors[(i, kept[k])] / values[kept[k]].sqrt());
        let weight: Vec<f64> = (0..kept.len()).map(|k| lambda * dot(removed, &column(&left, k))).collect();
        let combined = |matrix: &Mat<f64>, planted: &[f64]| -> Mat<f64> {
            let mut out = matrix * &left;
            for (out, weight) in out.col_iter_mut().zip(&weight) {
                out.iter_mut().zip(planted).for_each(|(out, planted)| *out -= weight * planted);
            }
            out
        };
        let directions = combined(&self.solved, &self.probe_solved);
        let times = combined(&self.times, &self.probe_times);
        let mut own = ByCoordinates::<f64>::default();
        let mut removals = ByCoordinates::<usize>::default();
        for (k, at) in kept.iter().enumerate() {
            let (s, u) = (column(&directions, k), column(&vectors, *at));
            if dot(&column(&times, k), &s) < ROW_SPACE {
                continue;
            }
            let s = self.seen(&s);
            let scaled: Vec<f64> = s.iter().zip(self.seen(&self.norms)).map(|(s, norm)| s * norm * norm).collect();
            for coordinates in Coordinates::ALL {
                let predicted = match coordinates {
                    Coordinates::Raw => s,
                    Coordinates::RowNormalised => &scaled,
                };
                let c = -cosine(predicted, &u);
                removals[coordinates] += usize::from(c >= FITS.own);
                if k < OWN {
                    own[coordinates] = own[coordinates].max(c);
                }
            }
        }
        Solved { directions, own, removals }
    }
}

/// Each strip of rows of a writer: its first row, and its rows as a matrix.
pub(super) fn strips(
    rows: usize,
    columns: usize,
    read: &ReadRows<'_>,
    each: &mut dyn FnMut(usize, MatRef<'_, f32>),
) -> Result<()> {
    let step = (STRIP / columns.max(1)).clamp(1, rows.max(1));
    let mut strip = vec![0.0f32; step * columns];
    for first in (0..rows).step_by(step) {
        let height = step.min(rows - first);
        let strip = &mut strip[..height * columns];
        read(first, strip)?;
        each(first, MatRef::from_row_major_slice(strip, height, columns));
    }
    Ok(())
}

/// Looks at one block: what changed in it, what of that a removal may have done, and the directions that it points to.
/// `None` where it holds numbers that cannot be calculated with.
pub fn look(block: &Block<'_>) -> Result<Option<Sight>> {
    let n = block.columns;
    let m = block.base.len().checked_div(n).unwrap_or(0);
    let d = block.factor.rows();
    let shaped = m > 0 && block.base.len() == m * n && block.candidate.len() == m * n && block.first_row + m <= d;
    if !shaped {
        return Err(Error::new(ErrorKind::Internal, format!("screening {}: a block of the wrong size", block.name)));
    }
    let base: Vec<f64> = block.base.iter().map(|value| f64::from(*value)).collect();
    let mut delta: Vec<f64> = block.candidate.iter().zip(&base).map(|(new, old)| f64::from(*new) - *old).collect();
    let energy = dot(&delta, &delta);
    if !energy.is_finite() {
        return Ok(None);
    }
    let mut measurement = BlockMeasurement::same(block, m);
    if energy == 0.0 {
        return Ok(Some(Sight { measurement, change: None }));
    }
    measurement.changed = true;
    let (mut moved, mut zeroed) = (0usize, 0usize);
    for (new, _) in block.candidate.iter().zip(&delta).filter(|(_, delta)| **delta != 0.0) {
        moved += 1;
        zeroed += usize::from(*new == 0.0);
    }
    measurement.zeroed = zeroed as f64 / moved.max(1) as f64;
    measurement.relative = (energy / dot(&base, &base).max(f64::MIN_POSITIVE)).sqrt();
    let kept = set_aside(block, &base, &mut delta);
    measurement.aside = kept.as_ref().map_or(0.0, |kept| kept.iter().filter(|kept| !**kept).count() as f64 / n as f64);

    let rows: Vec<&[f64]> = delta.chunks_exact(n).collect();
    let gram = Mat::from_fn(m, m, |i, j| dot(rows[i.min(j)], rows[i.max(j)]));
    let narrow: Vec<f32> = delta.iter().map(|value| *value as f32).collect();
    // A scale that was taken off leaves the rounding of its numbers.
    let left: f64 = (0..m).map(|i| gram[(i, i)]).sum();
    if left == 0.0 {
        return Ok(Some(Sight { measurement, change: None }));
    }
    if !(left.is_finite() && narrow.iter().all(|value| value.is_finite())) {
        return Ok(None);
    }
    measurement.top = spectrum::symmetric_eigen(gram.as_ref()).0.last().copied().unwrap_or(0.0) / left;
    let solved = solved(block, narrow, kept, gram)?;
    Ok(solved.map(|change| Sight { measurement, change: Some(change) }))
}

/// Takes a uniform scale off a change, and sets aside the columns that changed more than a removal can change them:
/// which are kept, where any is not.
fn set_aside(block: &Block<'_>, base: &[f64], delta: &mut [f64]) -> Option<Vec<bool>> {
    let n = block.columns;
    let m = base.len() / n;
    // Sums over columns, each row counting as long as any other: a loud channel among the rows would speak for all of
    // them.
    let mut sums = vec![(0.0f64, 0.0f64, 0.0f64); n];
    for (row, norm) in block.factor.norms()[block.first_row..block.first_row + m].iter().enumerate() {
        let weight = 1.0 / (norm * norm);
        let line = row * n..(row + 1) * n;
        for ((ww, dw, dd), (w, d)) in sums.iter_mut().zip(base[line.clone()].iter().zip(&delta[line])) {
            *ww += weight * w * w;
            *dw += weight * d * w;
            *dd += weight * d * d;
        }
    }
    let ratios = || sums.iter().map(|(ww, _, dd)| order::ratio(*ww, *dd)).collect::<Vec<_>>();
    let kept = (m >= ENOUGH_ROWS).then(|| order::within_reach(block.factor.rows(), &ratios())).flatten();
    let is_kept = |at: usize| kept.as_ref().is_none_or(|kept| kept[at]);
    let scales = sums.iter().enumerate().filter(|(at, (ww, ..))| *ww > 0.0 && is_kept(*at));
    let alpha = Uniform::of(scales.map(|(_, (ww, dw, _))| dw / ww).collect()).alpha;
    for (at, (delta, base)) in delta.iter_mut().zip(base).enumerate() {
        *delta = if is_kept(at % n) { *delta - alpha * base } else { 0.0 };
    }
    kept
}

/// The rows' right vectors solved for all rows, with a direction that nobody chose beside them to plant a removal
/// along; `None` where the numbers cannot be solved.
fn solved(block: &Block<'_>, delta: Vec<f32>, kept: Option<Vec<bool>>, gram: Mat<f64>) -> Result<Option<BlockChange>> {
    let (n, m, d) = (block.columns, gram.nrows(), block.factor.rows());
    let mut times = Mat::<f32>::zeros(d, m);
    let right = MatRef::from_row_major_slice(&delta, m, n).transpose();
    strips(d, n, block.read, &mut |first, strip| {
        let to = times.as_mut().subrows_mut(first, strip.nrows());
        matmul(to, Accum::Replace, strip, right, 1.0, Par::Seq);
    })?;
    let times = spectrum::widen(&times);
    let probe_times = block.factor.gram_times(&probe(d));
    let all = Mat::from_fn(d, m + 1, |i, j| if j < m { times[(i, j)] } else { probe_times[i] });
    let mut solved = block.factor.solve(&all);
    if !solved.col_iter().all(|column| column.iter().all(|value| value.is_finite())) {
        return Ok(None);
    }
    let probe_solved = column(&solved, m);
    solved.truncate(d, m);
    let norms = block.factor.norms();
    let first_row = block.first_row;
    Ok(Some(BlockChange { first_row, columns: n, delta, kept, gram, times, solved, probe_times, probe_solved, norms }))
}

impl BlockMeasurement {
    /// Of a block of `rows` in which nothing changed.
    fn same(block: &Block<'_>, rows: usize) -> Self {
        Self {
            name: block.name.to_owned(),
            layer: block.layer,
            rows,
            changed: false,
            relative: 0.0,
            zeroed: 0.0,
            aside: 0.0,
            top: 0.0,
            evidence: ByCoordinates::default(),
            strength: ByCoordinates::default(),
            removals: ByCoordinates::default(),
            own_component: ByCoordinates::default(),
        }
    }
}
