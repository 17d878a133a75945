//! A verdict from a few rows: what a contiguous block of rows of each of some writers tells when the base is at hand.
//!
//! A removed direction changes a writer W (d × n, residual rows) by Δ = -λ r (Wᵀr)ᵀ. A block I of rows of Δ shows the
//! right vector v ∝ Wᵀr in full, and with the base (WWᵀ + εI)⁻¹Wv ∝ r is then known for *all* rows. So every writer gives the
//! directions that its rows' right vectors are solved to; what the writers share is pooled, every direction counting once, however
//! loud; and in the pooled span each writer is asked for the direction of largest c ([`consistency`]), with P = QᵀW over all rows
//! and R = Q_IᵀΔ_I over those seen, chosen on half of the columns and tested on the other half. A removal is in many writers the
//! same direction, and held-out c is high along it; nothing honest that was measured has both.
//!
//! Before that, columns that changed more than a removal can change them are set aside, and a uniform scale is taken off. What the
//! screen would have missed is measured: a removal is planted in the very change that is there, and looked for.
//!
//! Rows divided by their norms (D⁻¹W) show the row-normalised form of the edit; its solution is D times the other's.
//!
//! Everything here is a function of numbers: who fetches which rows, and what is done with the answer, is elsewhere.
//! Three steps: [`look`] at each block, [`pool`] what was seen, [`examine`] each block in it; then [`judge`] all.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use serde::{Deserialize, Serialize};

use crate::diff::consistency::{self, Grams};
use crate::diff::order::{self, Uniform};
use crate::diff::{projection, spectrum};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::tensor::numbers::{cosine, dot, median};

/// Rows decoded at a time while a Gram matrix is built: two panels of a 28,672-column writer are 117 MB.
const PANEL: usize = 512;

/// Elements decoded at a time in a pass over a writer: 4 MB.
const STRIP: usize = 16 * limits::TILE_ELEMENTS;

/// The ridge ε as a share of the mean squared singular value of W. Weak directions of W carry mostly rounding noise of
/// the candidate, which an exact inverse would blow up.
const RIDGE: f64 = 1e-4;

/// Directions of all writers together in which each is examined.
const POOLED: usize = 16;

/// Rows from which columns are judged by what they show: the length of a column over fewer says little.
const ENOUGH_ROWS: usize = 16;

/// Of a block's right vectors, largest first, those that are also tested by themselves: a direction of one writer alone is
/// in no pool, and a merged LoRA of rank 8 may be louder.
const OWN: usize = 12;

/// Right vectors of one block that are removals by themselves, from which its rank was reduced rather than directions removed.
const REDUCED: usize = 6;

/// Share of a right vector inside the row space of W from which it may come from a removal: it is 1 for one, d/n by chance.
const ROW_SPACE: f64 = 0.6;

/// Held-out c, and |cosine| with the second nearest other writer's direction, from which a writer fits a removed direction.
const FITS: Evidence = Evidence { consistency: 0.55, agreement: 0.7, own: 0.8 };

/// Below these a writer is quiet. Between the two the rows do not decide.
const QUIET: Evidence = Evidence { consistency: 0.4, agreement: 0.6, own: 0.6 };

/// λ̂ below which nothing fits: small errors of the base's basis look like removals of this size.
const FAINTEST: f64 = 0.01;

/// Writers, and layers, in which a direction must fit: one alone is no finding.
const WRITERS: usize = 3;
/// See [`WRITERS`].
const LAYERS: usize = 2;

/// The largest limit with which "clear" says something: real removals use 0.5 and more in their strongest layers. The second
/// is for directions that no two writers share, of which rows show less.
const BLIND_ABOVE: f64 = 0.35;
/// See [`BLIND_ABOVE`].
const BLIND_ALONE_ABOVE: f64 = 1.0;

/// Share of a planted direction, squared, that must be in the pooled span.
const POOLED_SHARE: f64 = 0.7;

/// Strengths planted: from this, each 1.25 times the one before.
const LEAST_PLANTED: f64 = 0.02;
/// See [`LEAST_PLANTED`].
const PLANTED: i32 = 23;

/// Share of c, along a singular component of W itself, from which the change is as well explained by dropping that.
const OWN_COMPONENT: f64 = 0.985;

/// Steps of the power iteration from a direction to the component that it leans on.
const OWN_STEPS: usize = 4;

/// A limit above this is none.
const UNTESTABLE: f64 = 9.0;

/// What depends on the base's writer alone: the Cholesky factor of its regularised Gram matrix, and its row norms.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    rows: usize,
    /// Lower triangle, row after row.
    lower: Vec<f32>,
    /// Squared norm of each row of W.
    squares: Vec<f32>,
}

impl Factor {
    /// Builds the factor of a `rows` × `columns` writer, decoding rows through `read(first_row, out)`. `rows` must not
    /// exceed `columns`: otherwise right vectors do not determine directions.
    pub fn build(rows: usize, columns: usize, read: &mut dyn FnMut(usize, &mut [f32]) -> Result<()>) -> Result<Self> {
        let doing = "factoring a writer of the base";
        if rows == 0 || rows > columns {
            return Err(Error::new(ErrorKind::Unsupported, format!("{doing}: {rows} rows, {columns} columns")));
        }
        let mut gram = Mat::<f32>::zeros(rows, rows);
        let mut left = vec![0.0f32; PANEL.min(rows) * columns];
        let mut right = left.clone();
        for i in (0..rows).step_by(PANEL) {
            let height = PANEL.min(rows - i);
            read(i, &mut left[..height * columns])?;
            for j in (0..=i).step_by(PANEL) {
                let width = PANEL.min(rows - j);
                let other = if i == j {
                    &left[..height * columns]
                } else {
                    read(j, &mut right[..width * columns])?;
                    &right[..width * columns]
                };
                matmul(
                    gram.as_mut().submatrix_mut(i, j, height, width),
                    Accum::Replace,
                    MatRef::from_row_major_slice(&left[..height * columns], height, columns),
                    MatRef::from_row_major_slice(other, width, columns).transpose(),
                    1.0,
                    Par::Seq,
                );
            }
        }
        let squares: Vec<f32> = (0..rows).map(|row| gram[(row, row)]).collect();
        let mean = squares.iter().map(|square| f64::from(*square)).sum::<f64>() / rows as f64;
        if !mean.is_finite() || mean <= 0.0 {
            return Err(Error::new(ErrorKind::Malformed, format!("{doing}: its rows are zero or not finite")));
        }
        for row in 0..rows {
            gram[(row, row)] += (RIDGE * mean) as f32;
        }
        let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f32>(rows, Par::Seq, Default::default()));
        cholesky_in_place(
            gram.as_mut(),
            LltRegularization::default(),
            Par::Seq,
            MemStack::new(&mut memory),
            Default::default(),
        )
        .map_err(|_| Error::new(ErrorKind::Malformed, format!("{doing}: its Gram matrix is not positive")))?;
        let lower = (0..rows).flat_map(|row| (0..=row).map(move |column| (row, column))).map(|at| gram[at]).collect();
        Ok(Self { rows, lower, squares })
    }

    /// A stand-in for blocks that will turn out unchanged, for which nothing is solved.
    pub fn unused(rows: usize) -> Self {
        Self { rows, lower: Vec::new(), squares: Vec::new() }
    }

    /// Rows of the writer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn row(&self, row: usize) -> &[f32] {
        let start = row * (row + 1) / 2;
        &self.lower[start..=start + row]
    }

    /// (WWᵀ + εI)⁻¹ B, d × k.
    fn solve(&self, b: &Mat<f64>) -> Mat<f64> {
        // Row after row, so that each number of the factor is read once for all columns.
        let k = b.ncols();
        let mut x: Vec<f64> = (0..self.rows * k).map(|at| b[(at / k, at % k)]).collect();
        for i in 0..self.rows {
            let row = self.row(i);
            let (before, here) = x.split_at_mut(i * k);
            let here = &mut here[..k];
            for (l, x) in row[..i].iter().zip(before.chunks_exact(k)) {
                here.iter_mut().zip(x).for_each(|(here, x)| *here -= f64::from(*l) * x);
            }
            here.iter_mut().for_each(|here| *here /= f64::from(row[i]));
        }
        for i in (0..self.rows).rev() {
            let row = self.row(i);
            let (before, here) = x.split_at_mut(i * k);
            let here = &mut here[..k];
            here.iter_mut().for_each(|here| *here /= f64::from(row[i]));
            for (l, x) in row[..i].iter().zip(before.chunks_exact_mut(k)) {
                x.iter_mut().zip(&*here).for_each(|(x, here)| *x -= f64::from(*l) * here);
            }
        }
        Mat::from_fn(self.rows, k, |i, j| x[i * k + j])
    }

    /// W Wᵀ b.
    fn gram_times(&self, b: &[f64]) -> Vec<f64> {
        let mut across = vec![0.0; self.rows];
        for (i, b) in b.iter().enumerate().take(self.rows) {
            across.iter_mut().zip(self.row(i)).for_each(|(sum, l)| *sum += f64::from(*l) * b);
        }
        let ridge = RIDGE * self.squares.iter().map(|square| f64::from(*square)).sum::<f64>() / self.rows.max(1) as f64;
        (0..self.rows)
            .map(|i| {
                let sum: f64 = self.row(i).iter().zip(&across).map(|(l, across)| f64::from(*l) * across).sum();
                sum - ridge * b[i]
            })
            .collect()
    }

    /// Norms of the rows of W; those of no length count as 1.
    fn norms(&self) -> Vec<f64> {
        self.squares.iter().map(|square| if *square > 0.0 { f64::from(*square).sqrt() } else { 1.0 }).collect()
    }

    /// The factor as bytes for a cache: a magic word, the number of rows, triangle and squares as little-endian `f32`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + 4 * (self.lower.len() + self.rows));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.rows as u64).to_le_bytes());
        for value in self.lower.iter().chain(&self.squares) {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Factor::to_bytes`] wrote; `None` for anything else, so that a damaged cache is built anew.
    pub fn from_bytes(bytes: &[u8], rows: usize) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (count, values) = rest.split_first_chunk::<8>()?;
        let triangle = rows.checked_mul(rows.checked_add(1)?)? / 2;
        let total = triangle.checked_add(rows)?.checked_mul(4)?;
        if u64::from_le_bytes(*count) != rows as u64 || values.len() != total {
            return None;
        }
        let mut values = values.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
        let lower: Vec<f32> = values.by_ref().take(triangle).collect();
        let squares: Vec<f32> = values.collect();
        lower.iter().chain(&squares).all(|value| value.is_finite()).then_some(Self { rows, lower, squares })
    }
}

const MAGIC: &[u8; 8] = b"ortho/f1";

/// Decodes rows of the base's writer, from the row given: as many as the slice holds.
pub type ReadRows<'a> = dyn Fn(usize, &mut [f32]) -> Result<()> + Sync + 'a;

/// One block of rows of one writer, in base and candidate.
pub struct Block<'a> {
    /// The base's tensor name.
    pub name: &'a str,
    /// Its layer.
    pub layer: Option<u32>,
    /// The first row of the block.
    pub first_row: usize,
    /// Columns of the writer.
    pub columns: usize,
    /// The base's rows, row-major.
    pub base: &'a [f32],
    /// The candidate's rows, as many.
    pub candidate: &'a [f32],
    /// The factor of the base's writer.
    pub factor: &'a Factor,
    /// The base's whole writer.
    pub read: &'a ReadRows<'a>,
}

/// What speaks for a removal in one writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// c of the direction of largest c in the pooled span, on columns that did not choose it.
    pub consistency: f64,
    /// |cosine| of that direction with the second nearest of the other writers'.
    pub agreement: f64,
    /// c of the best of the block's loudest right vectors by itself: between what is predicted of the rows seen and what is
    /// there. ±1/√rows by chance.
    pub own: f64,
}

/// What one block told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockMeasurement {
    /// The base's tensor name.
    pub name: String,
    /// Its layer.
    pub layer: Option<u32>,
    /// Rows compared.
    pub rows: usize,
    /// Whether any element changed.
    pub changed: bool,
    /// ‖Δ‖/‖W‖ over the block.
    pub relative: f64,
    /// Share of the elements that changed that are zero now.
    pub zeroed: f64,
    /// Share of columns that changed more than a removal can change them, and were set aside.
    pub aside: f64,
    /// Share of ‖Δ‖² in the largest singular value, of what was not set aside.
    pub top: f64,
    /// What speaks for a removal, in raw coordinates and in row-normalised ones.
    pub evidence: [Evidence; 2],
    /// λ̂ in raw coordinates and in row-normalised ones, of the whole direction. Too low where other directions of the pool help to
    /// explain the rows.
    pub strength: [f64; 2],
    /// Right vectors that are removals by themselves, in both.
    pub removals: [usize; 2],
    /// c along the singular component of W that the direction leans on, as a share of c along the direction, in both: 1 when the edit
    /// drops that component.
    pub own_component: [f64; 2],
}

/// What the screen makes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Several writers in several layers fit a removed direction.
    Orthogonalized,
    /// Enough writers changed, none fits, and a removal would have shown.
    Clear,
    /// The rows do not decide.
    Undecided,
}

/// Equality of the samples of one kind of tensor beside the writers that a screen solves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Tensors sampled.
    pub taken: usize,
    /// Of them, those whose sample is not the base's.
    pub changed: usize,
}

impl Sampled {
    /// Whether most of what was sampled is not the base's.
    pub fn has_moved(self) -> bool {
        self.changed * 2 > self.taken
    }
}

/// The screen's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Screened {
    /// The decision.
    pub decision: Decision,
    /// Why, in one clause.
    pub because: String,
    /// 0 raw, 1 row-normalised: where the blocks fit better.
    pub coordinates: usize,
    /// Blocks whose elements changed.
    pub changed: usize,
    /// Blocks that fit a removed direction.
    pub fitting: usize,
    /// Layers with such a block.
    pub layers: Vec<u32>,
    /// Median held-out c over fitting blocks, or over all changed ones when none fits.
    pub consistency: f64,
    /// Median λ̂ likewise.
    pub strength: f64,
    /// Median likewise of |cosine| with the second nearest other block's direction.
    pub agreement: f64,
    /// Median |cosine| between the directions of any two fitting blocks: 1 for one direction in all of them.
    pub common: f64,
    /// Smallest λ of a direction in all changed blocks that would have been found, planted in the change that is there.
    pub detection_limit: f64,
    /// The same for directions of single blocks.
    pub limit_alone: f64,
    /// Median over fitting blocks of c along W's own component as a share of c: 1 where that was dropped, and where so many are gone that
    /// the rank was reduced.
    pub own_component: f64,
    /// Every block, in the order given.
    pub blocks: Vec<BlockMeasurement>,
}

fn column(matrix: &Mat<f64>, at: usize) -> Vec<f64> {
    matrix.col(at).iter().copied().collect()
}

/// A direction that nobody chose, to plant a removal along.
fn probe(width: usize) -> Vec<f64> {
    let signs = spectrum::widen(&spectrum::signs(width, 1, 5));
    signs.col(0).iter().map(|sign| sign / (width as f64).sqrt()).collect()
}

/// One block after the first look.
pub struct Sight {
    measurement: BlockMeasurement,
    /// `None` where nothing changed but columns that were set aside.
    change: Option<Change>,
}

impl Sight {
    /// Whether the whole base is needed to examine it.
    pub fn has_change(&self) -> bool {
        self.change.is_some()
    }
}

/// What is kept of Δ_I (m × n) and of the base's writer between the steps. Whatever a planted removal does to the right vectors
/// follows from it without another pass.
struct Change {
    first_row: usize,
    columns: usize,
    /// Δ_I, row-major; zero where set aside.
    delta: Vec<f32>,
    kept: Option<Vec<bool>>,
    /// Δ_I Δ_Iᵀ.
    gram: Mat<f64>,
    /// W Δ_Iᵀ, d × m, and what it is solved to.
    times: Mat<f64>,
    solved: Mat<f64>,
    /// The same for the right vector Wᵀr of the probe.
    probe_times: Vec<f64>,
    probe_solved: Vec<f64>,
    /// Norms of the rows of W.
    norms: Vec<f64>,
}

/// What the right vectors of a block are solved to.
struct Solved {
    /// d × k.
    directions: Mat<f64>,
    /// See [`Evidence::own`].
    own: [f64; 2],
    /// How many are removals by themselves.
    removals: [usize; 2],
}

impl Change {
    fn rows(&self) -> usize {
        self.gram.nrows()
    }

    fn seen<'v>(&self, values: &'v [f64]) -> &'v [f64] {
        values.get(self.first_row..self.first_row + self.rows()).unwrap_or_default()
    }

    /// c along the component of W that a direction leans on most, as a share of the c that it has itself.
    fn own_component(&self, factor: &Factor, mut direction: Vec<f64>, consistency: f64) -> f64 {
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

    /// Right vectors of Δ_I, with λ of the probe planted, solved through the base; the loudest also tested on the rows seen.
    fn solved(&self, lambda: f64) -> Solved {
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
        let (mut own, mut removals) = ([0.0f64; 2], [0; 2]);
        for (k, at) in kept.iter().enumerate() {
            let (s, u) = (column(&directions, k), column(&vectors, *at));
            if dot(&column(&times, k), &s) < ROW_SPACE {
                continue;
            }
            let s = self.seen(&s);
            let scaled: Vec<f64> = s.iter().zip(self.seen(&self.norms)).map(|(s, norm)| s * norm * norm).collect();
            for (side, c) in [-cosine(s, &u), -cosine(&scaled, &u)].into_iter().enumerate() {
                removals[side] += usize::from(c >= FITS.own);
                if k < OWN {
                    own[side] = own[side].max(c);
                }
            }
        }
        Solved { directions, own, removals }
    }
}

/// Each strip of rows of a writer: its first row, and its rows as a matrix.
fn strips(
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

/// Looks at one block: what changed in it, what of that a removal may have done, and the directions that it points to. `None`
/// where it holds numbers that cannot be calculated with.
pub fn look(block: &Block<'_>) -> Result<Option<Sight>> {
    let n = block.columns;
    let m = block.base.len().checked_div(n).unwrap_or(0);
    let d = block.factor.rows();
    let shaped = m > 0 && block.base.len() == m * n && block.candidate.len() == m * n && block.first_row + m <= d;
    if !shaped {
        return Err(Error::new(ErrorKind::Internal, format!("screening {}: a block of the wrong size", block.name)));
    }
    let mut measurement = BlockMeasurement {
        name: block.name.to_owned(),
        layer: block.layer,
        rows: m,
        changed: false,
        relative: 0.0,
        zeroed: 0.0,
        aside: 0.0,
        top: 0.0,
        evidence: [Evidence::default(); 2],
        strength: [0.0; 2],
        removals: [0; 2],
        own_component: [0.0; 2],
    };
    let base: Vec<f64> = block.base.iter().map(|value| f64::from(*value)).collect();
    let mut delta: Vec<f64> = block.candidate.iter().zip(&base).map(|(new, old)| f64::from(*new) - *old).collect();
    let energy = dot(&delta, &delta);
    if !energy.is_finite() {
        return Ok(None);
    }
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

    // Sums over columns, each row counting as long as any other: a loud channel among the rows would speak for all of them.
    let norms = block.factor.norms();
    let mut sums = vec![(0.0f64, 0.0f64, 0.0f64); n];
    for (row, norm) in norms[block.first_row..block.first_row + m].iter().enumerate() {
        let weight = 1.0 / (norm * norm);
        let line = row * n..(row + 1) * n;
        for ((ww, dw, dd), (w, d)) in sums.iter_mut().zip(base[line.clone()].iter().zip(&delta[line])) {
            *ww += weight * w * w;
            *dw += weight * d * w;
            *dd += weight * d * d;
        }
    }
    let kept = (m >= ENOUGH_ROWS)
        .then(|| order::within_reach(d, &sums.iter().map(|(ww, _, dd)| order::ratio(*ww, *dd)).collect::<Vec<_>>()))
        .flatten();
    let is_kept = |at: usize| kept.as_ref().is_none_or(|kept| kept[at]);
    let scales = sums.iter().enumerate().filter(|(at, (ww, ..))| *ww > 0.0 && is_kept(*at));
    let alpha = Uniform::of(scales.map(|(_, (ww, dw, _))| dw / ww).collect()).alpha;
    for (at, (delta, base)) in delta.iter_mut().zip(&base).enumerate() {
        *delta = if is_kept(at % n) { *delta - alpha * base } else { 0.0 };
    }
    measurement.aside = (0..n).filter(|at| !is_kept(*at)).count() as f64 / n as f64;

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

    let mut times = Mat::<f32>::zeros(d, m);
    let right = MatRef::from_row_major_slice(&narrow, m, n).transpose();
    strips(d, n, block.read, &mut |first, strip| {
        let to = times.as_mut().subrows_mut(first, strip.nrows());
        matmul(to, Accum::Replace, strip, right, 1.0, Par::Seq);
    })?;
    let times = spectrum::widen(&times);
    let removed = probe(d);
    let probe_times = block.factor.gram_times(&removed);
    let all = Mat::from_fn(d, m + 1, |i, j| if j < m { times[(i, j)] } else { probe_times[i] });
    let mut solved = block.factor.solve(&all);
    if !solved.col_iter().all(|column| column.iter().all(|value| value.is_finite())) {
        return Ok(None);
    }
    let probe_solved = column(&solved, m);
    solved.truncate(d, m);
    let change = Change {
        first_row: block.first_row,
        columns: n,
        delta: narrow,
        kept,
        gram,
        times,
        solved,
        probe_times,
        probe_solved,
        norms,
    };
    Ok(Some(Sight { measurement, change: Some(change) }))
}

/// What the writers share: an orthonormal basis in raw coordinates, with the probe, and one in row-normalised ones.
pub struct Pool {
    bases: [Mat<f64>; 2],
}

/// Pools what was seen.
pub fn pool(sights: &[Sight]) -> Pool {
    let [raw, normalised] = [0, 1].map(|coordinates| shared(sights, 0.0, coordinates));
    if raw.nrows() == 0 {
        return Pool { bases: [raw, normalised] };
    }
    let removed = probe(raw.nrows());
    let removed = Mat::from_fn(removed.len(), 1, |i, _| removed[i]);
    let raw = spectrum::orthonormal(spectrum::beside(&[raw.as_ref(), removed.as_ref()]).as_ref());
    Pool { bases: [raw, normalised] }
}

/// The directions that most of the blocks share, with λ of the probe planted in each: raw (0) or row-normalised (1).
fn shared(sights: &[Sight], lambda: f64, coordinates: usize) -> Mat<f64> {
    let changes: Vec<&Change> = sights.iter().filter_map(|sight| sight.change.as_ref()).collect();
    // Writers of one model write to one residual stream.
    let width = changes.first().map_or(0, |change| change.norms.len());
    let spans: Vec<Mat<f64>> = (changes.iter())
        .map(|change| {
            let mut directions = change.solved(lambda).directions;
            if coordinates == 1 {
                spectrum::scale_rows(&mut directions, &change.norms);
            }
            spectrum::orthonormal(directions.as_ref())
        })
        .collect();
    consistency::shared(&spans.iter().collect::<Vec<_>>(), width, POOLED)
}

/// One block examined in what all share.
pub struct Examined {
    sight: Sight,
    sides: [Option<Side>; 2],
}

/// A block in one system of coordinates.
struct Side {
    halves: [Grams; 2],
    /// Q_Iᵀ Q_I: what of each direction is in the rows seen.
    seen: Mat<f64>,
    /// The direction of largest c in the pool's basis, of length 1.
    chosen: Vec<f64>,
}

/// Held-out c of the direction of largest c, and that direction.
fn chosen(halves: &[Grams; 2]) -> Option<(f64, Vec<f64>)> {
    let [first, second] = consistency::held_out(halves);
    let e = halves[0].plus(&halves[1]).most_consistent()?;
    Some((0.5 * (first + second), e))
}

fn through(matrix: &Mat<f64>, vector: &[f64]) -> Vec<f64> {
    (0..matrix.nrows()).map(|i| (0..matrix.ncols()).map(|j| matrix[(i, j)] * vector[j]).sum()).collect()
}

/// Examines one block in the pool: one pass over the base's writer.
pub fn examine(mut sight: Sight, pool: &Pool, factor: &Factor, read: &ReadRows<'_>) -> Result<Examined> {
    let Some(change) = &sight.change else { return Ok(Examined { sight, sides: [None, None] }) };
    let (d, m, n) = (change.norms.len(), change.rows(), change.columns);
    let [raw, normalised] = &pool.bases;
    if raw.nrows() != d || normalised.nrows() != d || factor.rows() != d {
        let doing = format!("screening {}: writers of different widths", sight.measurement.name);
        return Err(Error::new(ErrorKind::Unsupported, doing));
    }
    // D⁻¹Q instead of Q gives QᵀD⁻¹W.
    let inverse: Vec<f64> = change.norms.iter().map(|norm| 1.0 / norm).collect();
    let mut scaled = normalised.clone();
    spectrum::scale_rows(&mut scaled, &inverse);
    let probes = spectrum::narrow(spectrum::beside(&[raw.as_ref(), scaled.as_ref()]).as_ref());
    let mut p = Mat::<f32>::zeros(n, probes.ncols());
    strips(d, n, read, &mut |first, strip| {
        let rows = probes.subrows(first, strip.nrows());
        matmul(p.as_mut(), Accum::Add, strip.transpose(), rows, 1.0, Par::Seq);
    })?;
    let mut r = Mat::<f32>::zeros(n, probes.ncols());
    let delta = MatRef::from_row_major_slice(&change.delta, m, n);
    matmul(r.as_mut(), Accum::Replace, delta.transpose(), probes.subrows(change.first_row, m), 1.0, Par::Seq);
    let (mut p, r) = (spectrum::widen(&p), spectrum::widen(&r));
    if let Some(kept) = &change.kept {
        projection::mask_rows(&mut p, kept);
    }
    let Solved { own, removals, .. } = change.solved(0.0);
    sight.measurement.removals = removals;
    let mut sides = [None, None];
    for (at, (start, basis)) in [(0, raw), (raw.ncols(), normalised)].into_iter().enumerate() {
        sight.measurement.evidence[at].own = own[at];
        let count = basis.ncols();
        let halves = consistency::halves(p.subcols(start, count), r.subcols(start, count));
        let Some((c, e)) = chosen(&halves) else { continue };
        let rows = basis.subrows(change.first_row, m);
        let seen = rows.transpose() * rows;
        let share = dot(&e, &through(&seen, &e));
        let direction = through(basis, &e);
        let covector: Vec<f64> = match at {
            1 => direction.iter().zip(&inverse).map(|(direction, inverse)| direction * inverse).collect(),
            _ => direction,
        };
        let along = halves[0].plus(&halves[1]).along(&e);
        let measurement = &mut sight.measurement;
        measurement.evidence[at].consistency = c;
        measurement.own_component[at] = change.own_component(factor, covector, along.consistency());
        let strength = along.strength();
        // The rows seen have only so much of the direction.
        measurement.strength[at] = if share > 0.0 { strength / share } else { 0.0 };
        sides[at] = Some(Side { halves, seen, chosen: e });
    }
    Ok(Examined { sight, sides })
}

/// |cosine| of each direction with the second nearest other one; 0 where there are not as many.
fn agreements(directions: &[&[f64]]) -> Vec<f64> {
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
    fn fits(&self) -> bool {
        self.consistency >= FITS.consistency && self.agreement >= FITS.agreement
    }

    /// Nothing of all that speaks for a removal, in most of many and in all but one of them.
    fn are_quiet(all: &[[Self; 2]]) -> bool {
        (0..2).all(|at| {
            // More than half: a dozen writers are called clear by it, which must not be the easier for their even number, as it would be
            // by the mean of the two in the middle.
            let most =
                |is_below: fn(&Self) -> bool| all.iter().filter(|one| is_below(&one[at])).count() * 2 > all.len();
            let near = |one: &Self| one.consistency >= QUIET.consistency && one.agreement >= QUIET.agreement;
            most(|one| one.consistency < QUIET.consistency)
                && most(|one| one.agreement < QUIET.agreement)
                && all.iter().filter(|one| near(&one[at]) || one[at].own >= QUIET.own).count() <= 1
        })
    }
}

/// The smallest λ planted at which `is_found`; infinite where none is.
fn planted_limit(is_found: &dyn Fn(f64) -> bool) -> f64 {
    let at = |step: i32| LEAST_PLANTED * 1.25f64.powi(step);
    let (mut missed, mut found) = (-1, PLANTED);
    while found - missed > 1 {
        let middle = missed + (found - missed) / 2;
        if is_found(at(middle)) { found = middle } else { missed = middle }
    }
    if found < PLANTED { at(found) } else { f64::INFINITY }
}

/// Limits for a direction in all blocks, and for directions of single ones.
fn limits(sights: &[Sight], raw: &[&Side], basis: &Mat<f64>) -> (f64, f64) {
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
        let part = through(&shared(sights, lambda, 0).transpose().to_owned(), &removed);
        dot(&part, &part) >= POOLED_SHARE
    };
    let changes: Vec<&Change> = sights.iter().filter_map(|sight| sight.change.as_ref()).collect();
    let alone = |lambda: f64| median(changes.iter().map(|change| change.solved(lambda).own[0])) >= FITS.own;
    (planted_limit(&|lambda| all_fit(lambda) && is_pooled(lambda)), planted_limit(&alone))
}

/// Judges the blocks of one candidate together. `unmeasured` is how many more could not be looked at.
pub fn judge(mut examined: Vec<Examined>, pool: &Pool, unmeasured: usize) -> Screened {
    for at in 0..2 {
        let sides: Vec<usize> = (0..examined.len()).filter(|one| examined[*one].sides[at].is_some()).collect();
        let directions: Vec<&[f64]> =
            examined.iter().filter_map(|one| one.sides[at].as_ref()).map(|side| side.chosen.as_slice()).collect();
        for (one, agreement) in sides.into_iter().zip(agreements(&directions)) {
            examined[one].sight.measurement.evidence[at].agreement = agreement;
        }
    }
    let (sights, sides): (Vec<Sight>, Vec<[Option<Side>; 2]>) =
        examined.into_iter().map(|one| (one.sight, one.sides)).unzip();
    let raw: Vec<&Side> = sides.iter().filter_map(|sides| sides[0].as_ref()).collect();
    let blocks: Vec<&BlockMeasurement> = sights.iter().map(|sight| &sight.measurement).collect();
    let changed: Vec<&BlockMeasurement> = blocks.iter().copied().filter(|block| block.changed).collect();
    let fits = |block: &BlockMeasurement, at: usize| block.evidence[at].fits() && block.strength[at] >= FAINTEST;
    let count = |at: usize| changed.iter().filter(|block| fits(block, at)).count();
    let of = |blocks: &[&BlockMeasurement], at: usize| median(blocks.iter().map(|b| b.evidence[at].consistency));
    let coordinates = match (count(0), count(1)) {
        (raw, normalised) if raw == normalised => usize::from(of(&changed, 1) > of(&changed, 0)),
        (raw, normalised) => usize::from(normalised > raw),
    };
    let is_fitting: Vec<bool> = blocks.iter().map(|block| block.changed && fits(block, coordinates)).collect();
    let fitting: Vec<&BlockMeasurement> =
        blocks.iter().copied().zip(&is_fitting).filter(|(_, fits)| **fits).map(|(block, _)| block).collect();
    let mut layers: Vec<u32> = fitting.iter().filter_map(|block| block.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let speaking = if fitting.is_empty() { &changed } else { &fitting };
    let consistency = of(speaking, coordinates);
    let agreement = median(speaking.iter().map(|block| block.evidence[coordinates].agreement));
    let directions: Vec<&[f64]> = (sides.iter().zip(&is_fitting))
        .filter_map(|(sides, fits)| sides[coordinates].as_ref().filter(|_| *fits))
        .map(|side| side.chosen.as_slice())
        .collect();
    let pairs = directions
        .iter()
        .enumerate()
        .flat_map(|(at, one)| directions[at + 1..].iter().map(move |other| cosine(one, other).abs()));
    let common = median(pairs);
    let own_component = median(fitting.iter().map(|block| {
        // A reduced rank is components of W dropped.
        let reduced = block.removals.iter().any(|removals| *removals >= REDUCED);
        if reduced { 1.0 } else { block.own_component[coordinates] }
    }));
    // Where all that changed was set aside, whatever else had been there would be all that is left.
    let (detection_limit, limit_alone) =
        if raw.is_empty() { (LEAST_PLANTED, LEAST_PLANTED) } else { limits(&sights, &raw, &pool.bases[0]) };
    let evidence: Vec<[Evidence; 2]> = changed.iter().map(|block| block.evidence).collect();
    let numbers = format!("c = {consistency:.2}, agreement {agreement:.2}");
    let (decision, because) = if changed.is_empty() {
        (Decision::Undecided, "the sampled rows are the base's, bit for bit".to_owned())
    } else if fitting.len() >= WRITERS && layers.len() >= LAYERS {
        if own_component >= OWN_COMPONENT {
            let why = "the changes fit dropped singular components as well as a removed direction";
            (Decision::Undecided, why.to_owned())
        } else {
            let (count, of, layers) = (fitting.len(), changed.len(), layers.len());
            let why = format!("{count} of {of} changed writers in {layers} layers fit a removed direction");
            (Decision::Orthogonalized, why)
        }
    } else if unmeasured > 0 {
        (Decision::Undecided, format!("{unmeasured} of the sampled writers hold numbers that cannot be measured"))
    } else if changed.len() < WRITERS {
        (Decision::Undecided, format!("only {} of the sampled writers changed", changed.len()))
    } else if !Evidence::are_quiet(&evidence) {
        (Decision::Undecided, format!("the changed writers come near a removed direction ({numbers})"))
    } else if detection_limit > BLIND_ABOVE || limit_alone > BLIND_ALONE_ABOVE {
        let (what, limit) = match detection_limit > BLIND_ABOVE {
            true => ("a removal", detection_limit),
            false => ("a direction removed from one layer alone", limit_alone),
        };
        let below = if limit.is_finite() { format!(" below λ = {limit:.2}") } else { String::new() };
        (Decision::Undecided, format!("{what}{below} would not show in the sampled rows"))
    } else {
        let why = format!("{} writers changed and none fits a removed direction ({numbers})", changed.len());
        (Decision::Clear, why)
    };
    Screened {
        decision,
        because,
        coordinates,
        changed: changed.len(),
        fitting: fitting.len(),
        layers,
        consistency,
        strength: median(speaking.iter().map(|block| block.strength[coordinates])),
        agreement,
        common,
        // A limit above this is none, and JSON has no infinity.
        detection_limit: detection_limit.min(UNTESTABLE),
        limit_alone: limit_alone.min(UNTESTABLE),
        own_component,
        blocks: sights.into_iter().map(|sight| sight.measurement).collect(),
    }
}

#[cfg(test)]
mod tests;
