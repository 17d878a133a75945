//! A verdict from a few rows: what a contiguous block of rows of each of some writers tells when the base is at hand.
//!
//! A removed direction changes a writer W (d × n, residual rows) by Δ = -λ r (Wᵀr)ᵀ. A block I of rows of Δ shows the
//! right vector v ∝ Wᵀr in full. With the base, s = (WWᵀ + εI)⁻¹Wv ∝ r is then predicted for *all* rows, and the fetched
//! rows' own left coefficients u = Δ_I v test the prediction: c = -cos(s_I, u) is 1 for a removal and about ±1/√|I| by
//! chance. With D the rows' norms, the row-normalised form of the edit has u ∝ -(D²s)_I instead; both are tried.
//!
//! Everything here is a function of numbers: who fetches which rows, and what is done with the answer, is elsewhere.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::{Accum, Mat, MatRef, Par};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Rows decoded at a time while a Gram matrix is built: two panels of a 28,672-column writer are 117 MB.
const PANEL: usize = 512;

/// The ridge ε as a share of the mean squared singular value of W. Weak directions of W carry mostly rounding noise of
/// the candidate, which an exact inverse would blow up.
const RIDGE: f64 = 1e-4;

/// Right vectors of Δ_I tried: the largest may belong to a training that came after the removal.
const VECTORS: usize = 3;

/// c from which a block counts as fitting, with few rows and with many. By chance c is 1/√rows.
const FITS_FEW: f64 = 0.90;
const FITS_MANY: f64 = 0.80;

/// Median c of changed blocks below which a model may be called clear. Honest training stayed at 0.42 with 8 rows and
/// at 0.17 with 32.
const CLEAR_BELOW: f64 = 0.60;

/// Detection limit from which "clear" would say nothing: real removals use 0.5 and more in their strongest layers.
const BLIND_ABOVE: f64 = 0.35;

/// |cos(s, Wv)| from which the change is as well explained by a dropped singular component of W itself.
const OWN_COMPONENT: f64 = 0.985;

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
                faer::linalg::matmul::matmul(
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

    /// (WWᵀ + εI)⁻¹ b.
    fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = b.to_vec();
        for i in 0..self.rows {
            let row = self.row(i);
            let sum: f64 = row[..i].iter().zip(&x).map(|(l, x)| f64::from(*l) * x).sum();
            x[i] = (x[i] - sum) / f64::from(row[i]);
        }
        for i in (0..self.rows).rev() {
            let row = self.row(i);
            let value = x[i] / f64::from(row[i]);
            x[i] = value;
            for (l, x) in row[..i].iter().zip(&mut x) {
                *x -= f64::from(*l) * value;
            }
        }
        x
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
    /// W·v for the base's whole writer.
    pub times: &'a (dyn Fn(&[f32]) -> Result<Vec<f64>> + Sync),
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
    /// Share of ‖Δ‖² in the largest singular value.
    pub top: f64,
    /// Share of ‖Δ‖² that one factor for the whole block explains.
    pub scale_explained: f64,
    /// c in raw coordinates and in row-normalised ones.
    pub consistency: [f64; 2],
    /// Share of v inside the row space of W: 1 for a removal, rows/columns by chance.
    pub row_space: f64,
    /// λ̂ in raw coordinates and in row-normalised ones.
    pub strength: [f64; 2],
    /// |cos(s, Wv)|: 1 when the edit drops a singular component of W.
    pub own_component: f64,
    /// Smallest λ that this block would have shown.
    pub detection_limit: f64,
    /// The predicted direction in raw and row-normalised coordinates, unit length; left out of records.
    #[serde(skip)]
    pub directions: [Vec<f64>; 2],
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
    /// Median c over fitting blocks, or over all changed ones when none fits.
    pub consistency: f64,
    /// Median λ̂ likewise.
    pub strength: f64,
    /// Median |cosine| between the directions of fitting blocks.
    pub agreement: f64,
    /// Median detection limit of the changed blocks.
    pub detection_limit: f64,
    /// Median |cos(r, W v)| over fitting blocks: 1 where the direction is the matrix's own, as in a dropped component.
    pub own_component: f64,
    /// Every block, in the order given.
    pub blocks: Vec<BlockMeasurement>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let scale = (dot(a, a) * dot(b, b)).sqrt();
    if scale > 0.0 { dot(a, b) / scale } else { 0.0 }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Measures one block. `Ok(None)` when it holds numbers that are not finite.
pub fn measure(block: &Block<'_>) -> Result<Option<BlockMeasurement>> {
    let n = block.columns;
    let m = block.base.len().checked_div(n).unwrap_or(0);
    let shaped = m > 0
        && block.base.len() == m * n
        && block.candidate.len() == m * n
        && block.first_row + m <= block.factor.rows();
    if !shaped {
        return Err(Error::new(ErrorKind::Internal, format!("screening {}: a block of the wrong size", block.name)));
    }
    let mut result = BlockMeasurement {
        name: block.name.to_owned(),
        layer: block.layer,
        rows: m,
        changed: false,
        relative: 0.0,
        top: 0.0,
        scale_explained: 0.0,
        consistency: [0.0; 2],
        row_space: 0.0,
        strength: [0.0; 2],
        own_component: 0.0,
        detection_limit: 0.0,
        directions: [Vec::new(), Vec::new()],
    };
    let mut delta: Vec<f64> =
        block.candidate.iter().zip(block.base).map(|(new, old)| f64::from(*new) - f64::from(*old)).collect();
    if !delta.iter().all(|value| value.is_finite()) {
        return Ok(None);
    }
    let energy = dot(&delta, &delta);
    if energy == 0.0 {
        return Ok(Some(result));
    }
    result.changed = true;
    let base: Vec<f64> = block.base.iter().map(|value| f64::from(*value)).collect();
    let base_energy = dot(&base, &base);
    result.relative = (energy / base_energy.max(f64::MIN_POSITIVE)).sqrt();
    let along = dot(&delta, &base);
    result.scale_explained = along * along / (energy * base_energy).max(f64::MIN_POSITIVE);
    // A removal has some share along W itself; only a change that is mostly a rescale is freed of it.
    if result.scale_explained > 0.5 {
        let scale = along / base_energy;
        delta.iter_mut().zip(&base).for_each(|(delta, base)| *delta -= scale * base);
    }

    let rows: Vec<&[f64]> = delta.chunks_exact(n).collect();
    let gram: Vec<f64> = (0..m * m).map(|at| dot(rows[at / m], rows[at % m])).collect();
    let (values, vectors) = symmetric_eigen(gram, m);
    let total: f64 = values.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    result.top = values[0] / total;
    let noise = (values.iter().skip(VECTORS.min(m)).sum::<f64>().max(0.0) / (m * n) as f64).sqrt();
    let norm = block.factor.squares.iter().map(|square| f64::from(*square)).sum::<f64>().sqrt();
    let d = block.factor.rows() as f64;
    result.detection_limit = noise * ((m as f64).sqrt() + (n as f64).sqrt()) * d / ((m as f64).sqrt() * norm);

    let mut best = f64::NEG_INFINITY;
    for k in 0..VECTORS.min(m) {
        if values[k] <= 1e-9 * values[0] || values[k] <= 0.0 {
            break;
        }
        let sigma = values[k].sqrt();
        let left = &vectors[k];
        let mut right = vec![0.0f64; n];
        for (coefficient, row) in left.iter().zip(&rows) {
            right.iter_mut().zip(*row).for_each(|(sum, value)| *sum += coefficient * value / sigma);
        }
        let right: Vec<f32> = right.iter().map(|value| *value as f32).collect();
        let times = (block.times)(&right)?;
        if times.len() != block.factor.rows() {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("screening {}: a product of the wrong size", block.name),
            ));
        }
        let s = block.factor.solve(&times);
        if !s.iter().all(|value| value.is_finite()) {
            continue;
        }
        let u: Vec<f64> = left.iter().map(|value| value * sigma).collect();
        let seen = block.first_row..block.first_row + m;
        let squares = &block.factor.squares[seen.clone()];
        let scaled: Vec<f64> = s[seen.clone()].iter().zip(squares).map(|(s, square)| s * f64::from(*square)).collect();
        let row_space = dot(&times, &s).clamp(0.0, 1.0);
        let consistency = [-cosine(&s[seen.clone()], &u), -cosine(&scaled, &u)];
        let score = row_space * consistency[0].max(consistency[1]);
        if score <= best {
            continue;
        }
        best = score;
        let sure = row_space > 0.8 && consistency[0].max(consistency[1]) > 0.95;
        let spread: Vec<f64> =
            s.iter().zip(&block.factor.squares).map(|(s, square)| s * f64::from(*square).sqrt()).collect();
        let fit = |shape: &[f64], length: f64| {
            let size = dot(shape, shape);
            if size > 0.0 { -dot(shape, &u) / size * length } else { 0.0 }
        };
        result.strength = [fit(&s[seen], dot(&s, &s)), fit(&scaled, dot(&spread, &spread))];
        result.consistency = consistency;
        result.row_space = row_space;
        result.own_component = cosine(&s, &times).abs();
        result.directions = [unit(s), unit(spread)];
        if sure {
            break;
        }
    }
    Ok(Some(result))
}

fn unit(mut vector: Vec<f64>) -> Vec<f64> {
    let length = dot(&vector, &vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
    vector
}

/// Judges the blocks of one candidate together.
pub fn judge(blocks: Vec<BlockMeasurement>) -> Screened {
    let changed: Vec<&BlockMeasurement> = blocks.iter().filter(|block| block.changed).collect();
    let of = |blocks: &[&BlockMeasurement], at: usize| median(blocks.iter().map(|b| b.consistency[at]).collect());
    let fits = |block: &BlockMeasurement, at: usize| {
        let least = if block.rows >= 16 { FITS_MANY } else { FITS_FEW };
        block.rows >= 4 && block.consistency[at] >= least && block.strength[at] > 0.0 && block.row_space >= 0.6
    };
    let count = |at: usize| changed.iter().filter(|block| fits(block, at)).count();
    let coordinates = match (count(0), count(1)) {
        (raw, normalised) if raw == normalised => usize::from(of(&changed, 1) > of(&changed, 0)),
        (raw, normalised) => usize::from(normalised > raw),
    };
    let fitting: Vec<&BlockMeasurement> = changed.iter().copied().filter(|block| fits(block, coordinates)).collect();
    let mut layers: Vec<u32> = fitting.iter().filter_map(|block| block.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let speaking = if fitting.is_empty() { &changed } else { &fitting };
    let consistency = of(speaking, coordinates);
    let detection_limit = median(changed.iter().map(|block| block.detection_limit).collect());
    let mut pairs = Vec::new();
    for (i, a) in fitting.iter().enumerate() {
        for b in &fitting[i + 1..] {
            pairs.push(cosine(&a.directions[coordinates], &b.directions[coordinates]).abs());
        }
    }
    let own = median(fitting.iter().map(|block| block.own_component).collect());
    let (decision, because) = if changed.is_empty() {
        (Decision::Undecided, "the sampled rows are the base's, bit for bit".to_owned())
    } else if fitting.len() >= 3 && layers.len() >= 2 && own < OWN_COMPONENT {
        let (count, of, layers) = (fitting.len(), changed.len(), layers.len());
        let why = format!("{count} of {of} changed writers in {layers} layers fit a removed direction");
        (Decision::Orthogonalized, why)
    } else if fitting.len() >= 3 && own >= OWN_COMPONENT {
        (Decision::Undecided, "the changes fit dropped singular components as well as a removed direction".to_owned())
    } else if !fitting.is_empty() {
        (Decision::Undecided, format!("{} of {} changed writers fit a removed direction", fitting.len(), changed.len()))
    } else if changed.len() < 3 {
        (Decision::Undecided, format!("only {} of the sampled writers changed", changed.len()))
    } else if consistency >= CLEAR_BELOW {
        (Decision::Undecided, format!("the changed writers come near a removed direction (c = {consistency:.2})"))
    } else if detection_limit > BLIND_ABOVE {
        let why = format!("a removal below λ = {detection_limit:.2} would not show in the sampled rows");
        (Decision::Undecided, why)
    } else {
        let why = format!("{} writers changed and none fits a removed direction (c = {consistency:.2})", changed.len());
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
        strength: median(speaking.iter().map(|block| block.strength[coordinates]).collect()),
        agreement: median(pairs),
        detection_limit,
        own_component: own,
        blocks,
    }
}

/// Eigenvalues (largest first) and eigenvectors of a small symmetric matrix, by cyclic Jacobi rotations: exact enough,
/// and the same on every machine and thread count.
fn symmetric_eigen(mut a: Vec<f64>, m: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut vectors: Vec<f64> = (0..m * m).map(|at| f64::from(u8::from(at / m == at % m))).collect();
    for _ in 0..60 {
        let off: f64 = (0..m).flat_map(|i| (0..i).map(move |j| i * m + j)).map(|at| a[at] * a[at]).sum();
        let diagonal: f64 = (0..m).map(|i| a[i * m + i] * a[i * m + i]).sum();
        if off <= 1e-28 * diagonal {
            break;
        }
        for p in 0..m {
            for q in p + 1..m {
                let apq = a[p * m + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * m + q] - a[p * m + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..m {
                    let (kp, kq) = (a[k * m + p], a[k * m + q]);
                    a[k * m + p] = c * kp - s * kq;
                    a[k * m + q] = s * kp + c * kq;
                }
                for k in 0..m {
                    let (pk, qk) = (a[p * m + k], a[q * m + k]);
                    a[p * m + k] = c * pk - s * qk;
                    a[q * m + k] = s * pk + c * qk;
                    let (vp, vq) = (vectors[k * m + p], vectors[k * m + q]);
                    vectors[k * m + p] = c * vp - s * vq;
                    vectors[k * m + q] = s * vp + c * vq;
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|i, j| a[j * m + j].total_cmp(&a[i * m + i]));
    let values = order.iter().map(|i| a[i * m + i].max(0.0)).collect();
    let columns = order.iter().map(|i| (0..m).map(|k| vectors[k * m + i]).collect()).collect();
    (values, columns)
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
