//! The inner loops: one pass over a tile of base and candidate gives the change and its moments.
//!
//! Written once as plain loops over lanes; `pulp` picks the widest vector unit at run time. Sums run in `f32` over one
//! row of at most a few ten thousand elements in [`LANES`] parallel chains (relative error below 1e-6) and are carried
//! on in `f64`.

use pulp::{Arch, Simd, WithSimd};

/// Independent accumulators per sum.
const LANES: usize = 16;

/// Length of the blocks whose kurtosis is taken: the block of the common quantisers.
const BLOCK: usize = 32;

/// Kurtosis is sampled on every `KURTOSIS_STRIDE`-th row; it is a shape, and a sample tells it.
pub const KURTOSIS_STRIDE: u64 = 4;

/// Sums over elements: of one row, or of a whole matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Σ w².
    pub ww: f64,
    /// Σ Δ².
    pub dd: f64,
    /// Σ Δw.
    pub dw: f64,
    /// max |Δ|.
    pub max: f32,
    /// Elements that changed.
    pub changed: u64,
    /// Elements that were not zero and are now.
    pub zeroed: u64,
    /// Elements not finite in the base, in the candidate.
    pub not_finite: [u64; 2],
    /// Σ of the squared power of two below each candidate element: times 2^(2-2·precision)/12 the rounding noise.
    pub exponent: f64,
    /// Σ of blockwise kurtosis of Δ, and the blocks it was taken over.
    pub kurtosis: f64,
    /// Blocks behind `kurtosis`.
    pub blocks: u64,
}

impl Sums {
    /// Adds another part of the same matrix.
    pub fn add(&mut self, other: &Sums) {
        self.ww += other.ww;
        self.dd += other.dd;
        self.dw += other.dw;
        self.max = self.max.max(other.max);
        self.changed += other.changed;
        self.zeroed += other.zeroed;
        self.not_finite[0] += other.not_finite[0];
        self.not_finite[1] += other.not_finite[1];
        self.exponent += other.exponent;
        self.kurtosis += other.kurtosis;
        self.blocks += other.blocks;
    }
}

/// Per-column sums of one segment of rows, in `f64` across tiles.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnSums {
    /// Σ w² per column.
    pub ww: Vec<f64>,
    /// Σ Δ² per column.
    pub dd: Vec<f64>,
    /// Σ Δw per column.
    pub dw: Vec<f64>,
}

impl ColumnSums {
    /// Zeros for `columns` columns.
    pub fn zeros(columns: usize) -> Self {
        Self { ww: vec![0.0; columns], dd: vec![0.0; columns], dw: vec![0.0; columns] }
    }

    /// Adds another segment's sums.
    pub fn add(&mut self, other: &ColumnSums) {
        for (mine, theirs) in [(&mut self.ww, &other.ww), (&mut self.dd, &other.dd), (&mut self.dw, &other.dw)] {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
    }
}

/// Turns the candidate's tile into the change and sums both up.
///
/// `base` and `candidate` hold whole rows of `columns` elements, the first of which is row `first_row` of the matrix.
/// After the call `candidate` holds Δ = candidate - base and `base` is cleaned: an element that is not finite on
/// either side counts as zero on both. `rows` receives one [`Sums`] per row.
pub fn moments(
    base: &mut [f32],
    candidate: &mut [f32],
    columns: usize,
    first_row: u64,
    rows: &mut Vec<Sums>,
    column_sums: &mut ColumnSums,
    scratch: &mut Scratch,
) {
    scratch.reset(columns);
    Arch::new().dispatch(TileMoments { base, candidate, columns, first_row, rows, scratch: &mut *scratch });
    for (total, part) in
        [(&mut column_sums.ww, &scratch.ww), (&mut column_sums.dd, &scratch.dd), (&mut column_sums.dw, &scratch.dw)]
    {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += f64::from(*part));
    }
}

/// Per-column sums of one tile in `f32`, reused from tile to tile.
#[derive(Debug, Default)]
pub struct Scratch {
    ww: Vec<f32>,
    dd: Vec<f32>,
    dw: Vec<f32>,
}

impl Scratch {
    fn reset(&mut self, columns: usize) {
        for column in [&mut self.ww, &mut self.dd, &mut self.dw] {
            column.clear();
            column.resize(columns, 0.0);
        }
    }
}

/// The loop of [`moments`] as a value, so that all of it is compiled for the vector unit found at run time (a closure
/// would not be inlined there).
struct TileMoments<'t> {
    base: &'t mut [f32],
    candidate: &'t mut [f32],
    columns: usize,
    first_row: u64,
    rows: &'t mut Vec<Sums>,
    scratch: &'t mut Scratch,
}

impl WithSimd for TileMoments<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let tile = self.base.chunks_exact_mut(self.columns).zip(self.candidate.chunks_exact_mut(self.columns));
        for (row, (w, x)) in tile.enumerate() {
            let mut sums = row_moments(w, x);
            column_moments(w, x, self.scratch);
            if (self.first_row + row as u64).is_multiple_of(KURTOSIS_STRIDE) {
                (sums.kurtosis, sums.blocks) = kurtosis(x);
            }
            self.rows.push(sums);
        }
    }
}

const EXPONENT: u32 = 0x7f80_0000;

#[inline(always)]
fn finite(value: f32) -> bool {
    value.to_bits() & EXPONENT != EXPONENT
}

/// One accumulator per lane for every sum of a row.
#[derive(Default)]
struct Lanes {
    ww: [f32; LANES],
    dd: [f32; LANES],
    dw: [f32; LANES],
    exponent: [f32; LANES],
    max: [f32; LANES],
    changed: [u32; LANES],
    zeroed: [u32; LANES],
    bad_base: [u32; LANES],
    bad_candidate: [u32; LANES],
}

impl Lanes {
    /// Takes one element a lane; cleans the base and turns the candidate into the change.
    #[inline(always)]
    fn take(&mut self, w: &mut [f32; LANES], x: &mut [f32; LANES]) {
        let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
        for l in 0..LANES {
            let bad_w = u32::from(w[l].to_bits() & EXPONENT == EXPONENT);
            let bad_x = u32::from(x[l].to_bits() & EXPONENT == EXPONENT);
            self.bad_base[l] = self.bad_base[l].wrapping_add(bad_w);
            self.bad_candidate[l] = self.bad_candidate[l].wrapping_add(bad_x);
            self.changed[l] = self.changed[l].wrapping_add(u32::from(w[l].to_bits() != x[l].to_bits()));
            // All ones where both are finite: an `and` with it keeps the number, and makes zero of it elsewhere.
            let keep = (bad_w | bad_x).wrapping_sub(1);
            a[l] = f32::from_bits(w[l].to_bits() & keep);
            b[l] = f32::from_bits(x[l].to_bits() & keep);
        }
        for l in 0..LANES {
            self.zeroed[l] = self.zeroed[l].wrapping_add(u32::from(a[l] != 0.0) & u32::from(b[l] == 0.0));
            let step = f32::from_bits(b[l].to_bits() & EXPONENT);
            self.exponent[l] += step * step;
            let d = b[l] - a[l];
            self.ww[l] += a[l] * a[l];
            self.dd[l] += d * d;
            self.dw[l] += d * a[l];
            let size = d.abs();
            self.max[l] = if size > self.max[l] { size } else { self.max[l] };
            b[l] = d;
        }
        *w = a;
        *x = b;
    }
}

#[inline(always)]
fn row_moments(w: &mut [f32], x: &mut [f32]) -> Sums {
    let mut lanes = Lanes::default();
    let (w_body, w_tail) = w.as_chunks_mut::<LANES>();
    let (x_body, x_tail) = x.as_chunks_mut::<LANES>();
    for (w, x) in w_body.iter_mut().zip(x_body) {
        lanes.take(w, x);
    }
    if !w_tail.is_empty() {
        // Equal zeros add nothing to any sum.
        let (mut w_last, mut x_last) = ([0f32; LANES], [0f32; LANES]);
        w_last[..w_tail.len()].copy_from_slice(w_tail);
        x_last[..x_tail.len()].copy_from_slice(x_tail);
        lanes.take(&mut w_last, &mut x_last);
        w_tail.copy_from_slice(&w_last[..w_tail.len()]);
        x_tail.copy_from_slice(&x_last[..x_tail.len()]);
    }
    let sum = |lanes: &[f32; LANES]| lanes.iter().map(|value| f64::from(*value)).sum::<f64>();
    let count = |lanes: &[u32; LANES]| lanes.iter().map(|value| u64::from(*value)).sum::<u64>();
    Sums {
        ww: sum(&lanes.ww),
        dd: sum(&lanes.dd),
        dw: sum(&lanes.dw),
        max: lanes.max.iter().fold(0.0, |a, b| a.max(*b)),
        changed: count(&lanes.changed),
        zeroed: count(&lanes.zeroed),
        not_finite: [count(&lanes.bad_base), count(&lanes.bad_candidate)],
        exponent: sum(&lanes.exponent),
        kurtosis: 0.0,
        blocks: 0,
    }
}

#[inline(always)]
fn column_moments(w: &[f32], d: &[f32], scratch: &mut Scratch) {
    let sums = scratch.ww.iter_mut().zip(&mut scratch.dd).zip(&mut scratch.dw);
    for ((w, d), ((ww, dd), dw)) in w.iter().zip(d).zip(sums) {
        *ww += w * w;
        *dd += d * d;
        *dw += d * w;
    }
}

/// Σ m₄/m₂² over blocks of [`BLOCK`] elements that are not all zero, and how many there were.
#[inline(always)]
fn kurtosis(d: &[f32]) -> (f64, u64) {
    let (mut total, mut blocks) = (0f64, 0u64);
    for block in d.as_chunks::<BLOCK>().0 {
        let (mut second, mut fourth) = ([0f32; LANES], [0f32; LANES]);
        for half in block.as_chunks::<LANES>().0 {
            for l in 0..LANES {
                let square = half[l] * half[l];
                second[l] += square;
                fourth[l] += square * square;
            }
        }
        let second: f32 = second.iter().sum();
        let fourth: f32 = fourth.iter().sum();
        if second > 0.0 && fourth > 0.0 {
            total += f64::from(fourth) * BLOCK as f64 / (f64::from(second) * f64::from(second));
            blocks += 1;
        }
    }
    (total, blocks)
}

/// Turns the candidate's tile into the change under a known scale: Δ = candidate · row factor · column factor - base.
/// Elements that are not finite count as zero, as in [`moments`].
pub fn change(
    base: &mut [f32],
    candidate: &mut [f32],
    columns: usize,
    row_factors: Option<&[f32]>,
    column_factors: Option<&[f32]>,
) {
    Arch::new().dispatch(TileChange { base, candidate, columns, row_factors, column_factors });
}

/// The loop of [`change`] as a value.
struct TileChange<'t> {
    base: &'t mut [f32],
    candidate: &'t mut [f32],
    columns: usize,
    row_factors: Option<&'t [f32]>,
    column_factors: Option<&'t [f32]>,
}

impl WithSimd for TileChange<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let tile = self.base.chunks_exact_mut(self.columns).zip(self.candidate.chunks_exact_mut(self.columns));
        for (row, (w, x)) in tile.enumerate() {
            if let Some(factors) = self.column_factors {
                x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }
            if let Some(factor) = self.row_factors.and_then(|factors| factors.get(row)) {
                x.iter_mut().for_each(|x| *x *= factor);
            }
            for (w, x) in w.iter_mut().zip(x) {
                let bad = u32::from(!finite(*w)) | u32::from(!finite(*x));
                let keep = bad.wrapping_sub(1);
                let a = f32::from_bits(w.to_bits() & keep);
                *x = f32::from_bits(x.to_bits() & keep) - a;
                *w = a;
            }
        }
    }
}

/// `value` rounded to a binary float of `precision` significand bits whose smallest normal exponent is `min_exponent`,
/// to nearest, ties to even. Values beyond the format's largest are the caller's concern: weights do not get there.
#[inline(always)]
pub fn round_to(value: f32, precision: u32, min_exponent: i32) -> f32 {
    if value == 0.0 || !finite(value) {
        return value;
    }
    let exponent = ((value.to_bits() >> 23) & 0xff) as i32 - 127;
    let quantum = exponent.max(min_exponent) - (precision as i32 - 1);
    // Near 1.5·2^52 quanta the spacing of f64 is one quantum, so adding that number rounds to whole quanta, nearest
    // even; taking it away again is exact.
    let magic = 1.5 * f64::from_bits(((1023 + 52 + quantum) as u64) << 52);
    ((f64::from(value) + magic) - magic) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16_and_f16_agrees_with_the_half_crate() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let value = f32::from_bits(random.u32(..));
            if !finite(value) || value.abs() > 1e30 || value.abs() < 1e-30 {
                continue;
            }
            assert_eq!(round_to(value, 8, -126), half::bf16::from_f32(value).to_f32(), "{value:e}");
            let small = value.clamp(-60_000.0, 60_000.0);
            assert_eq!(round_to(small, 11, -14), half::f16::from_f32(small).to_f32(), "{small:e}");
        }
        for small in [1e-6f32, 3e-8, 6.1e-5, -5.96e-8, 2.9e-8] {
            assert_eq!(round_to(small, 11, -14), half::f16::from_f32(small).to_f32(), "{small:e}");
        }
    }

    #[test]
    fn moments_equal_their_definitions() {
        let mut random = fastrand::Rng::with_seed(7);
        let (rows, columns) = (5usize, 83usize);
        let base: Vec<f32> = (0..rows * columns).map(|_| random.f32() - 0.5).collect();
        let mut candidate: Vec<f32> =
            base.iter().map(|w| w + if random.bool() { 0.1 * random.f32() } else { 0.0 }).collect();
        candidate[3] = 0.0;
        candidate[7] = f32::NAN;
        let (mut w, mut x) = (base.clone(), candidate.clone());
        let (mut sums, mut column_sums) = (Vec::new(), ColumnSums::zeros(columns));
        moments(&mut w, &mut x, columns, 0, &mut sums, &mut column_sums, &mut Scratch::default());
        let mut total = Sums::default();
        sums.iter().for_each(|row| total.add(row));
        let finite_pairs = || {
            base.iter().zip(&candidate).filter(|(_, x)| x.is_finite()).map(|(w, x)| (f64::from(*w), f64::from(x - w)))
        };
        let dd: f64 = finite_pairs().map(|(_, d)| d * d).sum();
        let dw: f64 = finite_pairs().map(|(w, d)| d * w).sum();
        assert!((total.dd - dd).abs() < 1e-6 * dd);
        assert!((total.dw - dw).abs() < 1e-6 * dd.sqrt());
        assert!((column_sums.dd.iter().sum::<f64>() - dd).abs() < 1e-6 * dd);
        assert_eq!(
            total.changed,
            base.iter().zip(&candidate).filter(|(w, x)| w.to_bits() != x.to_bits()).count() as u64
        );
        assert_eq!((total.zeroed, total.not_finite), (1, [0, 1]));
        assert_eq!(x[7], 0.0);
    }

    #[test]
    fn kurtosis_tells_a_grid_from_gaussian_noise() {
        let mut random = fastrand::Rng::with_seed(3);
        let uniform: Vec<f32> = (0..32_000).map(|_| random.f32() - 0.5).collect();
        let normal: Vec<f32> = (0..32_000).map(|_| (0..12).map(|_| random.f32()).sum::<f32>() - 6.0).collect();
        let mean = |(total, blocks): (f64, u64)| total / blocks as f64;
        assert!((mean(kurtosis(&uniform)) - 1.8).abs() < 0.1);
        assert!(mean(kurtosis(&normal)) > 2.6);
    }
}
