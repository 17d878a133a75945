//! The algebra of every edit that orthoscope tells apart, applied to tiny models: orthogonalizations along random
//! directions, and what honest work does to weights.
//!
//! W is a writer, d × n, residual stream first; r a unit direction; λ a strength.

use super::{Model, Weight, direction, normal, random};
use crate::tensor::numbers::dot;

/// How an orthogonalization is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalKind {
    /// W - λ r rᵀW (Arditi et al. 2024).
    Plain,
    /// W - λ D r (rᵀD⁻¹W), D the row norms.
    RowNormalised,
    /// The plain edit, each row then brought back to its norm.
    RowNormKept,
    /// The plain edit, each column then brought back to its norm.
    ColumnNormKept,
}

/// A weight as `f64` rows for the algebra of an edit.
struct Rows {
    columns: usize,
    values: Vec<f64>,
}

impl Rows {
    fn of(weight: &Weight) -> Self {
        Self { columns: weight.shape[1], values: weight.values.iter().map(|value| f64::from(*value)).collect() }
    }

    fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.columns)
    }

    fn rows_mut(&mut self) -> std::slice::ChunksExactMut<'_, f64> {
        self.values.chunks_exact_mut(self.columns)
    }

    fn back(self, weight: &mut Weight) {
        weight.values = self.values.iter().map(|value| *value as f32).collect();
    }

    fn row_norms(&self) -> Vec<f64> {
        self.rows().map(|row| row.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-30)).collect()
    }

    fn column_norms(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.columns];
        self.rows().for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value));
        sums.iter().map(|sum| sum.sqrt().max(1e-30)).collect()
    }

    /// Wᵀ l.
    fn against(&self, left: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.columns];
        for (row, weight) in self.rows().zip(left) {
            out.iter_mut().zip(row).for_each(|(out, value)| *out += weight * value);
        }
        out
    }

    /// W + factor · l rᵀ.
    fn add_outer(&mut self, factor: f64, left: &[f64], right: &[f64]) {
        for (row, left) in self.rows_mut().zip(left) {
            row.iter_mut().zip(right).for_each(|(value, right)| *value += factor * left * right);
        }
    }
}

fn wide(direction: &[f32]) -> Vec<f64> {
    direction.iter().map(|value| f64::from(*value)).collect()
}

/// Takes λ of the direction out of one writer.
pub fn orthogonalize(weight: &mut Weight, r: &[f32], lambda: f64, kind: RemovalKind) {
    let mut rows = Rows::of(weight);
    let r = wide(r);
    match kind {
        RemovalKind::Plain => {
            let p = rows.against(&r);
            rows.add_outer(-lambda, &r, &p);
        }
        RemovalKind::RowNormalised => {
            let norms = rows.row_norms();
            let inside: Vec<f64> = r.iter().zip(&norms).map(|(r, norm)| r / norm).collect();
            let outside: Vec<f64> = r.iter().zip(&norms).map(|(r, norm)| r * norm).collect();
            let p = rows.against(&inside);
            rows.add_outer(-lambda, &outside, &p);
        }
        RemovalKind::RowNormKept => {
            let before = rows.row_norms();
            let p = rows.against(&r);
            rows.add_outer(-lambda, &r, &p);
            let after = rows.row_norms();
            for ((row, before), after) in rows.rows_mut().zip(before).zip(after) {
                row.iter_mut().for_each(|value| *value *= before / after);
            }
        }
        RemovalKind::ColumnNormKept => {
            let before = rows.column_norms();
            let p = rows.against(&r);
            rows.add_outer(-lambda, &r, &p);
            let after = rows.column_norms();
            for row in rows.rows_mut() {
                row.iter_mut()
                    .zip(before.iter().zip(&after))
                    .for_each(|(value, (before, after))| *value *= before / after);
            }
        }
    }
    rows.back(weight);
}

/// Takes λ of an input direction out of one reader: W - λ (W r) rᵀ.
pub fn orthogonalize_reader(weight: &mut Weight, r: &[f32], lambda: f64) {
    let mut rows = Rows::of(weight);
    let r = wide(r);
    for row in rows.rows_mut() {
        let along: f64 = row.iter().zip(&r).map(|(value, r)| value * r).sum();
        row.iter_mut().zip(&r).for_each(|(value, r)| *value -= lambda * along * r);
    }
    rows.back(weight);
}

/// W - λ a (bᵀW): what lies along b is taken away along a. With a = b a removal, with others an oblique one (Belrose et
/// al. 2023, arXiv 2306.03819).
pub fn orthogonalize_obliquely(weight: &mut Weight, a: &[f32], b: &[f32], lambda: f64) {
    let mut rows = Rows::of(weight);
    let p = rows.against(&wide(b));
    rows.add_outer(-lambda, &wide(a), &p);
    rows.back(weight);
}

/// R W with R a rotation by `angle` (radians) in the plane of u and v, which are of length 1 and at right angles.
pub fn rotate(weight: &mut Weight, u: &[f32], v: &[f32], angle: f64) {
    let mut rows = Rows::of(weight);
    let (u, v) = (wide(u), wide(v));
    let (along_u, along_v) = (rows.against(&u), rows.against(&v));
    let (less, sine) = (angle.cos() - 1.0, angle.sin());
    rows.add_outer(less, &u, &along_u);
    rows.add_outer(-sine, &u, &along_v);
    rows.add_outer(less, &v, &along_v);
    rows.add_outer(sine, &v, &along_u);
    rows.back(weight);
}

/// W - r (Wᵀr projected on the span of `count` random inputs)ᵀ: a removal as it is fitted on captured inputs.
pub fn orthogonalize_on_inputs(weight: &mut Weight, r: &[f32], count: usize, seed: u64, purpose: &str) {
    let mut rows = Rows::of(weight);
    let r = wide(r);
    let p = rows.against(&r);
    let mut source = random(seed, purpose);
    let mut inputs: Vec<Vec<f64>> = Vec::new();
    let mut inside = vec![0.0; p.len()];
    for _ in 0..count.min(p.len()) {
        let mut input = wide(&normal(&mut source, p.len()));
        for other in &inputs {
            let share = dot(&input, other);
            input.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
        }
        let length = dot(&input, &input).sqrt().max(f64::MIN_POSITIVE);
        input.iter_mut().for_each(|value| *value /= length);
        let along = dot(&p, &input);
        inside.iter_mut().zip(&input).for_each(|(sum, value)| *sum += along * value);
        inputs.push(input);
    }
    rows.add_outer(-1.0, &r, &inside);
    rows.back(weight);
}

/// W + size · ‖W‖ · (random rank-k product) / ‖product‖: a merged LoRA as training does not constrain it.
pub fn add_low_rank(weight: &mut Weight, rank: usize, size: f64, seed: u64, purpose: &str) {
    let mut rows = Rows::of(weight);
    let mut source = random(seed, purpose);
    let mut change = Rows { columns: rows.columns, values: vec![0.0; rows.values.len()] };
    for _ in 0..rank {
        let left = wide(&normal(&mut source, weight.shape[0]));
        let right = wide(&normal(&mut source, weight.shape[1]));
        change.add_outer(1.0, &left, &right);
    }
    add_scaled(&mut rows, &change.values, size);
    rows.back(weight);
}

/// W + size · ‖W‖ · noise / ‖noise‖.
pub fn add_noise(weight: &mut Weight, size: f64, seed: u64, purpose: &str) {
    let mut rows = Rows::of(weight);
    let noise = wide(&normal(&mut random(seed, purpose), weight.values.len()));
    add_scaled(&mut rows, &noise, size);
    rows.back(weight);
}

fn add_scaled(rows: &mut Rows, change: &[f64], size: f64) {
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let factor = size * norm(&rows.values) / norm(change).max(1e-30);
    rows.values.iter_mut().zip(change).for_each(|(value, change)| *value += factor * change);
}

/// What gradient descent on correlated inputs leaves: a few outer products whose right sides come from the span of the
/// matrix's own loud inputs and whose left sides are shared by the layers, over full-rank noise.
pub fn fine_tune(model: &mut Model, size: f64, seed: u64) {
    let shared: Vec<Vec<f32>> = {
        let width = model.config["hidden_size"].as_u64().unwrap_or(0) as usize;
        (0..3).map(|index| direction(seed, &format!("shared gradient {index}"), width)).collect()
    };
    for name in model.linear() {
        let Some(weight) = model.tensors.get_mut(&name) else { continue };
        let mut rows = Rows::of(weight);
        let mut source = random(seed, &name);
        let mut change = Rows { columns: rows.columns, values: wide(&normal(&mut source, rows.values.len())) };
        for rank in 0..6 {
            let mut left = wide(&normal(&mut source, weight.shape[0]));
            if weight.shape[0] == shared[0].len() {
                left.iter_mut().zip(&shared[rank % 3]).for_each(|(a, b)| *a += 8.0 * f64::from(*b));
            }
            let probe = wide(&normal(&mut source, weight.shape[0]));
            let mut right = rows.against(&probe);
            let length = right.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-30);
            let noise = wide(&normal(&mut source, right.len()));
            let root = (right.len() as f64).sqrt();
            right.iter_mut().zip(noise).for_each(|(a, b)| *a = 0.6 * *a / length * root + 0.8 * b);
            change.add_outer(2.0 / (1.0 + rank as f64), &left, &right);
        }
        add_scaled(&mut rows, &change.values, size);
        rows.back(weight);
    }
}

/// Drops the largest singular component of one matrix (found by power iteration): W - σ u vᵀ.
pub fn drop_top_component(weight: &mut Weight) {
    let mut rows = Rows::of(weight);
    let mut left = vec![1.0; weight.shape[0]];
    let mut right = Vec::new();
    for _ in 0..300 {
        right = rows.against(&left);
        let length = right.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-30);
        right.iter_mut().for_each(|value| *value /= length);
        left = rows.rows().map(|row| row.iter().zip(&right).map(|(a, b)| a * b).sum()).collect();
    }
    rows.add_outer(-1.0, &left, &right);
    rows.back(weight);
}

/// Multiplies every element.
pub fn rescale(weight: &mut Weight, factor: f32) {
    weight.values.iter_mut().for_each(|value| *value *= factor);
}

/// Multiplies each column by its factor (a norm gain folded into a reader or out of it).
pub fn scale_columns(weight: &mut Weight, factors: &[f32]) {
    for row in weight.values.chunks_exact_mut(weight.shape[1]) {
        row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
    }
}

/// Sets the smallest `share` of elements to zero.
pub fn prune(weight: &mut Weight, share: f64) {
    let mut sizes: Vec<f32> = weight.values.iter().map(|value| value.abs()).collect();
    sizes.sort_by(f32::total_cmp);
    let threshold = sizes.get((sizes.len() as f64 * share) as usize).copied().unwrap_or(0.0);
    weight.values.iter_mut().filter(|value| value.abs() < threshold).for_each(|value| *value = 0.0);
}

/// Rounds blocks of 32 to signed `bits`-bit integers with one scale a block, and back: what Q8_0 and Q4_0 do.
pub fn quantize(weight: &mut Weight, bits: u32) {
    let top = ((1i32 << (bits - 1)) - 1) as f32;
    for block in weight.values.chunks_mut(32) {
        let largest = block.iter().fold(0f32, |a, b| a.max(b.abs()));
        // As ggml does: codes by the exact step, the step itself stored in binary16.
        let step = largest / top;
        let stored = half::f16::from_f32(step).to_f32();
        if step > 0.0 {
            block.iter_mut().for_each(|value| *value = (*value / step).round().clamp(-top, top) * stored);
        }
    }
}
