//! The factor of a base's writer that right vectors are solved with: the Cholesky factor of WWᵀ + εI.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use crate::error::{Error, ErrorKind, Result};

/// Rows decoded at a time while a Gram matrix is built: two panels of a 28,672-column writer are 117 MB.
pub(crate) const PANEL: usize = 512;

/// The ridge ε as a share of the mean squared singular value of W. Weak directions of W carry mostly rounding noise of
/// the candidate, which an exact inverse would blow up.
pub(crate) const RIDGE: f64 = 1e-4;

/// What goes wrong here goes wrong in this.
const DOING: &str = "factoring a writer of the base";

/// What depends on the base's writer alone: the Cholesky factor of its regularised Gram matrix, and its row norms.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    pub(crate) rows: usize,
    /// Lower triangle, row after row.
    pub(crate) lower: Vec<f32>,
    /// Squared norm of each row of W.
    pub(crate) squares: Vec<f32>,
}

impl Factor {
    /// Builds the factor of a `rows` × `columns` writer, decoding rows through `read(first_row, out)`. `rows` must not
    /// exceed `columns`: otherwise right vectors do not determine directions.
    pub fn build(rows: usize, columns: usize, read: &mut dyn FnMut(usize, &mut [f32]) -> Result<()>) -> Result<Self> {
        if rows == 0 || rows > columns {
            return Err(Error::new(ErrorKind::Unsupported, format!("{DOING}: {rows} rows, {columns} columns")));
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
        Self::of_gram(gram)
    }

    /// The same of a writer that is stored the other way round: `read(first, out)` decodes stored rows, each of which
    /// is a column of W, `rows` numbers long.
    pub fn build_transposed(
        rows: usize,
        columns: usize,
        read: &mut dyn FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<Self> {
        if rows == 0 || rows > columns {
            return Err(Error::new(ErrorKind::Unsupported, format!("{DOING}: {rows} rows, {columns} columns")));
        }
        let mut gram = Mat::<f32>::zeros(rows, rows);
        let mut strip = vec![0.0f32; PANEL.min(columns) * rows];
        for first in (0..columns).step_by(PANEL) {
            let strip = &mut strip[..PANEL.min(columns - first) * rows];
            read(first, strip)?;
            let part = MatRef::from_row_major_slice(strip, strip.len() / rows, rows);
            matmul(gram.as_mut(), Accum::Add, part.transpose(), part, 1.0, Par::Seq);
        }
        Self::of_gram(gram)
    }

    /// The factor of WWᵀ, of which the lower triangle is read.
    fn of_gram(mut gram: Mat<f32>) -> Result<Self> {
        let rows = gram.nrows();
        let squares: Vec<f32> = (0..rows).map(|row| gram[(row, row)]).collect();
        let mean = squares.iter().map(|square| f64::from(*square)).sum::<f64>() / rows as f64;
        if !mean.is_finite() || mean <= 0.0 {
            return Err(Error::new(ErrorKind::Malformed, format!("{DOING}: its rows are zero or not finite")));
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
        .map_err(|_| Error::new(ErrorKind::Malformed, format!("{DOING}: its Gram matrix is not positive")))?;
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

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        let start = row * (row + 1) / 2;
        &self.lower[start..=start + row]
    }

    /// (WWᵀ + εI)⁻¹ B, d × k.
    pub(crate) fn solve(&self, b: &Mat<f64>) -> Mat<f64> {
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
    pub(crate) fn gram_times(&self, b: &[f64]) -> Vec<f64> {
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
    pub(crate) fn norms(&self) -> Vec<f64> {
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

pub(crate) const MAGIC: &[u8; 8] = b"ortho/f1";
