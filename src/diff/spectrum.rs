//! Small dense linear algebra: orthonormal bases, singular values, and which of them stand above noise.

use faer::{Mat, MatRef, Side};

/// Left vectors, values and right vectors of a matrix known through a low-rank factorisation.
#[derive(Debug, Clone)]
pub struct Svd {
    /// Left vectors, one a column.
    pub left: Mat<f64>,
    /// Values, largest first.
    pub values: Vec<f64>,
    /// Right vectors, one a column.
    pub right: Mat<f64>,
}

/// An orthonormal basis of the columns of `matrix`; columns that add nothing (relative 1e-9 of the largest) are left
/// out.
pub fn orthonormal(matrix: MatRef<'_, f64>) -> Mat<f64> {
    // Columns are brought to one length first, so that a faint direction is not lost beside a loud one.
    let mut scaled = Mat::zeros(matrix.nrows(), matrix.ncols());
    let mut kept = 0;
    for column in matrix.col_iter() {
        let norm = column.norm_l2();
        if norm > 0.0 && norm.is_finite() {
            scaled.col_mut(kept).copy_from(&(column * (1.0 / norm)));
            kept += 1;
        }
    }
    let scaled = scaled.subcols(0, kept);
    if kept == 0 || matrix.nrows() == 0 {
        return Mat::zeros(matrix.nrows(), 0);
    }
    let Ok(svd) = scaled.thin_svd() else { return Mat::zeros(matrix.nrows(), 0) };
    let values = svd.S().column_vector();
    let largest = values[0];
    let rank = values.iter().take_while(|value| **value > 1e-6 * largest).count();
    svd.U().subcols(0, rank).to_owned()
}

/// The singular value decomposition of `left · innerᵀ`, where `left` has orthonormal columns (rows × k) and `inner` is
/// columns × k: left vectors in the space of `left`, right vectors in that of `inner`.
pub fn svd_of_product(left: MatRef<'_, f64>, inner: MatRef<'_, f64>) -> Svd {
    let empty = || Svd { left: Mat::zeros(left.nrows(), 0), values: Vec::new(), right: Mat::zeros(inner.nrows(), 0) };
    if left.ncols() == 0 {
        return empty();
    }
    let Ok(svd) = inner.thin_svd() else { return empty() };
    Svd { left: left * svd.V(), values: svd.S().column_vector().iter().copied().collect(), right: svd.U().to_owned() }
}

/// Eigenvalues (ascending) and eigenvectors of the symmetric part of a square matrix.
pub fn symmetric_eigen(matrix: MatRef<'_, f64>) -> (Vec<f64>, Mat<f64>) {
    if matrix.nrows() == 0 {
        return (Vec::new(), Mat::zeros(0, 0));
    }
    let symmetric = (matrix + matrix.transpose()) * 0.5;
    match symmetric.self_adjoint_eigen(Side::Lower) {
        Ok(eigen) => (eigen.S().column_vector().iter().copied().collect(), eigen.U().to_owned()),
        Err(_) => (vec![0.0; matrix.nrows()], Mat::identity(matrix.nrows(), matrix.nrows())),
    }
}

/// The largest singular value that noise of total energy `energy` would show in a `rows` × `columns` matrix.
///
/// For independent entries of one variance σ² it tends to σ(√m + √n) (Marchenko-Pastur). Rounding noise is not flat:
/// its size follows that of the weights, so `row_peak` and `column_peak`, the largest shares of ‖W‖² in one row and in
/// one column, say where it is loudest, and √(loudest row) + √(loudest column) bounds it (Bandeira and van Handel
/// 2016), which for a flat profile is the same number. The factor 1.02 is what the largest of 120 rounded matrices
/// stayed below.
pub fn noise_edge(rows: usize, columns: usize, energy: f64, row_peak: f64, column_peak: f64) -> f64 {
    let (m, n) = (rows.max(1) as f64, columns.max(1) as f64);
    1.02 * energy.max(0.0).sqrt() * (row_peak.max(1.0 / m).sqrt() + column_peak.max(1.0 / n).sqrt())
}

/// Relative overlap of a planted direction with what a noisy matrix shows of it, squared: (left, right).
///
/// Spiked-matrix theory (Benaych-Georges and Nadakuditi 2012) for signal over noise θ and aspect γ = d/n; zero below
/// the threshold θ = γ^(1/4), where nothing of the direction can be seen in one matrix.
pub fn overlaps(theta: f64, gamma: f64) -> (f64, f64) {
    let square = theta * theta;
    if theta <= 0.0 || square * square <= gamma {
        return (0.0, 0.0);
    }
    let left = 1.0 - gamma * (1.0 + square) / (square * (square + gamma));
    let right = 1.0 - (gamma + square) / (square * (square + 1.0));
    (left.max(0.0), right.max(0.0))
}

/// The smallest λ at which the predicted projection consistency reaches `consistency`, for noise of relative size
/// `noise` in a matrix of `gamma` = d/n: the blind detection limit of one matrix along a direction of average loudness.
pub fn detection_limit(noise: f64, gamma: f64, consistency: f64) -> f64 {
    if noise <= 0.0 {
        return 0.0;
    }
    let reaches = |theta: f64| {
        let (left, right) = overlaps(theta, gamma);
        (left * right).sqrt() >= consistency
    };
    let (mut low, mut high) = (gamma.powf(0.25), gamma.powf(0.25) + 1.0);
    while !reaches(high) && high < 1e6 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if reaches(middle) { high = middle } else { low = middle }
    }
    high * noise
}

/// A fixed matrix of ±1: the test matrix of the randomised range finder (Halko, Martinsson and Tropp 2011). Depends on
/// its size and `seed` alone.
pub fn signs(rows: usize, columns: usize, seed: u64) -> Mat<f32> {
    let mut state = fastrand::Rng::with_seed(seed);
    let mut bits = 0u64;
    let mut left = 0;
    Mat::from_fn(rows, columns, |_, _| {
        if left == 0 {
            bits = state.u64(..);
            left = 64;
        }
        left -= 1;
        let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
        bits >>= 1;
        sign
    })
}

/// A wider copy.
pub fn widen(matrix: &Mat<f32>) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| f64::from(matrix[(i, j)]))
}

/// A narrower copy.
pub fn narrow(matrix: MatRef<'_, f64>) -> Mat<f32> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] as f32)
}

/// Columns side by side.
pub fn beside(parts: &[MatRef<'_, f64>]) -> Mat<f64> {
    let rows = parts.first().map_or(0, |part| part.nrows());
    let columns = parts.iter().map(|part| part.ncols()).sum();
    let mut all = Mat::zeros(rows, columns);
    let mut at = 0;
    for part in parts {
        all.as_mut().subcols_mut(at, part.ncols()).copy_from(part);
        at += part.ncols();
    }
    all
}

/// Multiplies row i by `factors[i]`.
pub fn scale_rows(matrix: &mut Mat<f64>, factors: &[f64]) {
    for column in matrix.col_iter_mut() {
        column.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_decomposed_into_its_own_singular_values() {
        let left = orthonormal(Mat::<f64>::from_fn(9, 2, |i, j| (i as f64 * 1.7 + j as f64 * 0.9).sin()).as_ref());
        let inner = Mat::<f64>::from_fn(5, 2, |i, j| if j == 0 { 3.0 * (i as f64).cos() } else { 0.1 * i as f64 });
        let whole = &left * inner.transpose();
        let svd = svd_of_product(left.as_ref(), inner.as_ref());
        let expected = whole.singular_values().unwrap();
        assert!((svd.values[0] - expected[0]).abs() < 1e-12 && (svd.values[1] - expected[1]).abs() < 1e-12);
        let first = &whole * svd.right.col(0);
        assert!((first.norm_l2() - svd.values[0]).abs() < 1e-12);
    }

    #[test]
    fn overlaps_follow_the_published_table() {
        // λ = 0.3 under 4-bit rounding (relative noise 0.0969) and under 3-bit (0.226), aspect 1/2: the predictions
        // 0.923 and 0.590 of the spiked-matrix formulas.
        for (theta, expected) in [(0.3 / 0.0969, 0.923), (0.3 / 0.226, 0.590)] {
            let (left, right) = overlaps(theta, 0.5);
            assert!(((left * right).sqrt() - expected).abs() < 0.005, "{theta}: {}", (left * right).sqrt());
        }
        assert_eq!(overlaps(0.8, 0.5), (0.0, 0.0));
    }

    #[test]
    fn the_detection_limit_is_where_the_prediction_reaches_the_consistency_asked_for() {
        let limit = detection_limit(0.01, 0.5, 0.9);
        let (left, right) = overlaps(limit / 0.01, 0.5);
        assert!(((left * right).sqrt() - 0.9).abs() < 1e-6);
        assert_eq!(detection_limit(0.0, 0.5, 0.9), 0.0);
    }
}
