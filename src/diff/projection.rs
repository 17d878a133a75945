//! Projection regression: is a change "a direction taken out of what the base writes"?
//!
//! For a writer W (residual width d × input width n) orthogonalization is Δ = -λ r (Wᵀr)ᵀ. Its rank is one, its left
//! vector is r, and its right vector is a function of the base: that last fact decides. In a small subspace of
//! candidate directions Q (d × m) the change is regressed on the base, QᵀΔ ≈ A QᵀW; a removal shows as A ≈ -λ r rᵀ:
//! symmetric, one negative eigenvalue, nothing on the positive side. Everything is done twice, with rows as they are
//! and with rows divided by the base's row norms (the coordinates of tools that normalise rows first).
//!
//! `docs/detector.md` has the derivation and what was measured.

use faer::{Mat, MatRef};

use super::consistency::{self, Along, Grams};
use super::operator::{Moments, Want};
use super::oriented::Oriented;
use super::spectrum::{self, Svd};
use crate::arch::Axis;
use crate::error::Result;
use crate::tensor::numbers::{dot, median};

/// Columns of the range finder: the change's own top directions that are kept in view.
pub const SKETCH: usize = 12;
/// The same for a writer: as many loud directions as anyone is expected to lay over a removal, and room beside them.
pub const SKETCH_WRITER: usize = 24;

/// The change's own top directions.
pub struct TopVectors {
    /// As the rows are.
    pub raw: Svd,
    /// With rows divided by the base's row norms; `None` where that is not asked for.
    pub normalised: Option<Svd>,
    /// Left vectors and values of the change without the coordinates that were set aside; `None` where none were.
    pub kept: Option<(Mat<f64>, Vec<f64>)>,
}

/// Randomised range finder (Halko, Martinsson and Tropp 2011) for the top `width` singular triplets of the change.
///
/// `start` is Δ times a sign matrix, as the first pass made it (stored orientation). `power_steps` sharpen it unless
/// `energy` (‖Δ‖²) is caught already. `norms` asks for the row-normalised triplets beside the raw ones, `kept` says
/// which of the other coordinates are not set aside; all share every pass.
pub fn top_vectors(
    oriented: &Oriented<'_>,
    start: &Mat<f32>,
    energy: f64,
    norms: Option<&[f64]>,
    kept: Option<&[bool]>,
    power_steps: usize,
) -> Result<TopVectors> {
    let inverse: Option<Vec<f64>> = norms.map(|norms| norms.iter().map(|norm| 1.0 / norm).collect());
    let mut sketch = facing_residual(oriented, start)?;
    let mut normalised_sketch = inverse.as_ref().map(|inverse| {
        let mut copy = sketch.clone();
        spectrum::scale_rows(&mut copy, inverse);
        copy
    });
    let mut result = None;
    let mut without = None;
    for step in 0..=power_steps {
        let basis = spectrum::orthonormal(sketch.as_ref());
        let normalised_basis = normalised_sketch.as_ref().map(|sketch| spectrum::orthonormal(sketch.as_ref()));
        let mut probes = vec![basis.as_ref()];
        let weighted = normalised_basis.as_ref().zip(inverse.as_ref()).map(|(basis, inverse)| {
            let mut weighted = basis.clone();
            spectrum::scale_rows(&mut weighted, inverse);
            weighted
        });
        probes.extend(weighted.as_ref().map(|weighted| weighted.as_ref()));
        let inner = spectrum::widen(&oriented.to_other(spectrum::beside(&probes).as_ref(), Want::Change)?.change);
        let count = basis.ncols();
        let raw = spectrum::svd_of_product(basis.as_ref(), inner.as_ref().subcols(0, count));
        let normalised = normalised_basis.map(|basis| {
            let width = basis.ncols();
            spectrum::svd_of_product(basis.as_ref(), inner.as_ref().subcols(count, width))
        });
        let caught: f64 = raw.values.iter().map(|value| value * value).sum();
        let vectors = TopVectors { raw, normalised, kept: None };
        if step == power_steps || (caught >= 0.98 * energy && kept.is_none()) {
            result = Some(vectors);
            break;
        }
        let mut backs = vec![vectors.raw.right.as_ref()];
        backs.extend(vectors.normalised.as_ref().map(|svd| svd.right.as_ref()));
        let masked = kept.map(|kept| {
            let mut right = inner.subcols(0, count).to_owned();
            mask_rows(&mut right, kept);
            spectrum::orthonormal(right.as_ref())
        });
        backs.extend(masked.as_ref().map(|masked| masked.as_ref()));
        let again = spectrum::widen(&oriented.to_residual(spectrum::beside(&backs).as_ref(), Want::Change)?.change);
        let split = vectors.raw.right.ncols();
        sketch = again.subcols(0, split).to_owned();
        if let Some(masked) = &masked {
            let product = again.subcols(again.ncols() - masked.ncols(), masked.ncols());
            without = product
                .thin_svd()
                .ok()
                .map(|svd| (svd.U().to_owned(), svd.S().column_vector().iter().copied().collect::<Vec<f64>>()));
        }
        if let (Some(inverse), Some(svd)) = (&inverse, &vectors.normalised) {
            let mut copy = again.subcols(split, svd.right.ncols()).to_owned();
            spectrum::scale_rows(&mut copy, inverse);
            normalised_sketch = Some(copy);
        }
        result = Some(vectors);
    }
    let nothing =
        || spectrum::svd_of_product(Mat::zeros(oriented.width(), 0).as_ref(), Mat::zeros(oriented.other(), 0).as_ref());
    let mut result = result.unwrap_or_else(|| TopVectors { raw: nothing(), normalised: None, kept: None });
    result.kept = without;
    Ok(result)
}

/// The first sketch as a span in the residual stream, whichever axis that lies on.
fn facing_residual(oriented: &Oriented<'_>, start: &Mat<f32>) -> Result<Mat<f64>> {
    let start = spectrum::widen(start);
    match oriented.residual {
        Axis::Rows => Ok(start),
        Axis::Columns => {
            let basis = spectrum::orthonormal(start.as_ref());
            Ok(spectrum::widen(&oriented.to_residual(basis.as_ref(), Want::Change)?.change))
        }
    }
}

/// Sets the rows that are not kept to zero.
pub fn mask_rows(matrix: &mut Mat<f64>, kept: &[bool]) {
    for column in matrix.col_iter_mut() {
        column.iter_mut().zip(kept).filter(|(_, kept)| !**kept).for_each(|(value, _)| *value = 0.0);
    }
}

/// The regression of one pair in one system of coordinates.
pub struct Regression {
    /// Orthonormal candidate directions, d × m.
    pub basis: Mat<f64>,
    grams: Grams,
    halves: [Grams; 2],
    /// A in that basis.
    pub operator: Mat<f64>,
    /// Eigenvalues of A's symmetric part, ascending.
    pub eigenvalues: Vec<f64>,
    eigenvectors: Mat<f64>,
    /// Wᵀ Q and Δᵀ Q, n × m, for the right vectors of directions chosen later; zero where set aside.
    p: Mat<f64>,
    r: Mat<f64>,
}

/// The loudest pieces of a writer's change, for what they are as an operator on the residual stream.
pub struct Leading {
    /// Left singular vectors, d × k.
    pub left: Mat<f32>,
    /// Right singular vectors, n × k.
    pub right: Mat<f32>,
    /// Squared singular values.
    pub squares: Vec<f64>,
    /// See [`Grams::isometry`].
    pub isometry: f64,
    /// c along the first left vector, which no fit chose.
    pub leaning: f64,
}

/// The direction chosen by consistency.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// In the regression's basis, of length 1.
    pub e: Vec<f64>,
    /// c on the half of the other coordinates that did not choose, mean of both ways; below zero for a direction that
    /// the candidate has and the base lacks.
    pub consistency: f64,
    /// The smaller of both, in absolute value, with the same sign.
    pub lower: f64,
    /// λ̂ of the reverse: what of the direction the base lacks, as a share of what the candidate has. 0 for a removal.
    pub reverse: f64,
}

impl Regression {
    /// Regresses change on base in the span of `basis`; `product` holds Wᵀ·basis and Δᵀ·basis. Fitted that are not
    /// `kept` count for nothing. `alpha` is a uniform scale that is no part of the change.
    pub fn new(basis: Mat<f64>, mut p: Mat<f64>, mut r: Mat<f64>, kept: Option<&[bool]>, alpha: f64) -> Self {
        if let Some(kept) = kept {
            mask_rows(&mut p, kept);
            mask_rows(&mut r, kept);
        }
        let halves = consistency::halves(p.as_ref(), r.as_ref());
        let halves = halves.map(|half| half.without_scale(alpha));
        let grams = halves[0].plus(&halves[1]);
        let operator = grams.operator();
        let (eigenvalues, eigenvectors) = spectrum::symmetric_eigen(operator.as_ref());
        Self { basis, grams, halves, operator, eigenvalues, eigenvectors, p, r }
    }

    /// ‖QᵀΔ‖²: what of the change is in the span.
    pub fn energy(&self) -> f64 {
        self.grams.energy()
    }

    /// Base and change along a direction given in the basis.
    pub fn along(&self, e: &[f64]) -> Along {
        self.grams.along(e)
    }

    /// The direction of largest c, removed or (where that is certain and a removal is not) added; `None` where nothing
    /// changed.
    pub fn choose(&self) -> Option<Chosen> {
        let mean = |folds: [f64; 2]| 0.5 * (folds[0] + folds[1]);
        let removed = consistency::held_out(&self.halves);
        let reversed = [self.halves[0].reversed(), self.halves[1].reversed()];
        let added = consistency::held_out(&reversed);
        if mean(added) >= CERTAIN && mean(removed) < CERTAIN {
            let whole = reversed[0].plus(&reversed[1]);
            let e = whole.most_consistent()?;
            let along = whole.along(&e);
            let reverse = along.strength();
            if along.pp <= LOUDEST * self.grams.mean() {
                return Some(Chosen { consistency: -mean(added), lower: -added[0].min(added[1]), e, reverse });
            }
        }
        let e = self.grams.most_consistent()?;
        Some(Chosen { consistency: mean(removed), lower: removed[0].min(removed[1]), e, reverse: 0.0 })
    }

    /// The smallest λ at which a removal of the direction `e`, added to this very change, would be chosen with a
    /// held-out c of at least `enough`: it is added, and looked for.
    pub fn planted_limit(&self, e: &[f64], enough: f64) -> f64 {
        let along = self.along(e);
        if along.pp <= 0.0 {
            return f64::INFINITY;
        }
        // c along e itself is t/√(t² + left/pp) with t the strength that is seen.
        let left = (along.qq - along.pq * along.pq / along.pp).max(0.0);
        let bound = enough / (1.0 - enough * enough).sqrt();
        let mut lambda = bound * (left / along.pp).sqrt() + (along.pq / along.pp).max(0.0);
        for _ in 0..PLANTED {
            let [first, second] = [0, 1].map(|half| self.halves[half].planted(e, lambda));
            let [a, b] = consistency::held_out(&[first, second]);
            if 0.5 * (a + b) >= enough {
                return lambda;
            }
            lambda = (1.4 * lambda).max(1e-6);
        }
        f64::INFINITY
    }

    /// Every eigenvector of A with its eigenvalue, of one sign: `removed` takes negative eigenvalues, otherwise
    /// positive ones.
    pub fn candidates(&self, removed: bool) -> Vec<(f64, Vec<f64>)> {
        self.eigenvalues
            .iter()
            .enumerate()
            .filter(|(_, value)| if removed { **value < 0.0 } else { **value > 0.0 })
            .map(|(index, value)| (*value, self.eigenvectors.col(index).iter().copied().collect()))
            .collect()
    }

    /// A direction of the basis in the residual stream, d numbers.
    pub fn direction(&self, e: &[f64]) -> Vec<f64> {
        combine(self.basis.as_ref(), e)
    }

    /// (Wᵀr, Δᵀr) of a direction given in the basis, n numbers each.
    pub fn right(&self, e: &[f64]) -> (Vec<f64>, Vec<f64>) {
        (combine(self.p.as_ref(), e), combine(self.r.as_ref(), e))
    }

    /// The leading singular triplets of the change in this span, at most `count`, and what they are as an operator.
    pub fn leading(&self, count: usize) -> Leading {
        let (squares, vectors) = spectrum::symmetric_eigen(self.grams.rr.as_ref());
        let width = squares.len();
        let kept: Vec<usize> = (0..width).rev().take(count).filter(|at| squares[*at] > 0.0).collect();
        let coordinates = |at: usize| -> Vec<f64> { vectors.col(at).iter().copied().collect() };
        let narrow = |columns: &[Vec<f64>], rows: usize| Mat::from_fn(rows, columns.len(), |i, j| columns[j][i] as f32);
        let left: Vec<Vec<f64>> = kept.iter().map(|at| self.direction(&coordinates(*at))).collect();
        let right: Vec<Vec<f64>> = kept
            .iter()
            .map(|at| {
                let length = squares[*at].sqrt();
                combine(self.r.as_ref(), &coordinates(*at)).into_iter().map(|value| value / length).collect()
            })
            .collect();
        Leading {
            left: narrow(&left, self.basis.nrows()),
            right: narrow(&right, self.r.nrows()),
            squares: kept.iter().map(|at| squares[*at]).collect(),
            isometry: self.grams.isometry(),
            leaning: kept.first().map_or(0.0, |at| self.along(&coordinates(*at)).consistency()),
        }
    }

    /// Forgets the long vectors, keeping what later stages need.
    pub fn shrink(&mut self) {
        self.p = Mat::zeros(0, 0);
        self.r = Mat::zeros(0, 0);
    }
}

/// Held-out c from which a direction was removed, or added.
const CERTAIN: f64 = 0.85;
/// What the candidate writes along an added direction, over the mean of the span, squared: a change louder than the
/// base is no direction of it that was lost or made stronger.
const LOUDEST: f64 = 4.5;
/// Strengths planted, each 1.4 times the one before.
const PLANTED: usize = 14;

/// Columns of `matrix` weighted by `e`.
pub fn combine(matrix: MatRef<'_, f64>, e: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; matrix.nrows()];
    for (column, weight) in matrix.col_iter().zip(e) {
        out.iter_mut().zip(column.iter()).for_each(|(out, value)| *out += weight * value);
    }
    out
}

/// λ̂ with what stands beside it, for one direction in one writer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fit {
    /// λ̂, estimated together with a scale.
    pub strength: f64,
    /// Its heteroscedastic standard error.
    pub stderr: f64,
    /// Projection consistency c.
    pub consistency: f64,
    /// Share of the change beyond the scale that the removal explains.
    pub explained: f64,
    /// Energy left along r over the mean energy per direction left.
    pub quietness: f64,
    /// Standard deviation of the factors that rows were scaled by, beyond what else changed in them; 0 where the sums
    /// per row do not tell it.
    pub row_spread: f64,
    /// |cos(r, W v)| with v = Wᵀr normalised.
    pub own_component: f64,
    /// Which scale was estimated beside λ.
    pub scale: ScaleModel,
}

/// The scale estimated beside the removal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScaleModel {
    /// One factor for the matrix.
    #[default]
    Matrix,
    /// One factor per row (row norms restored after the edit).
    Rows,
    /// One factor per column (column norms restored).
    Columns,
}

/// A richer scale model must leave at most this share of what one factor for the matrix leaves. On noise alone d
/// factors of d·n numbers take away a share of 1/n, so 0.8 is never reached by chance.
const SCALE_GAIN: f64 = 0.8;
/// Share of ‖Δ‖² below which what one factor leaves is nothing.
const EXPLAINED: f64 = 1e-6;

/// What is known of the other coordinates that are not set aside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// ‖Δ - αW‖² over them, in the coordinates of the fit.
    pub left: f64,
    /// Their uniform scale α.
    pub alpha: f64,
}

/// Fits λ and a scale for the direction r in one writer.
///
/// * `r`: unit direction, d numbers, in the coordinates of the fit;
/// * `(p, q)`: (Wᵀr, Δᵀr), n numbers each, same coordinates;
/// * `(wp, dp)`: (W p, Δ p), d numbers each, in raw coordinates;
/// * `norms`: the base's row norms when the coordinates are row-normalised;
/// * `kept`: where some of the other coordinates are set aside and `(p, q)` are zero there, what is known of those that
///   are not. Sums per row hold the others too, so the only scale then is the uniform one, known beforehand.
///
/// The scale and λ are estimated together: a removal itself has ⟨Δ,W⟩ ≠ 0, so taking a scale out first would bias λ.
///
/// Where rows were scaled after the removal, x = D⁻¹r is the direction that the candidate lacks: beside the fit stands
/// r = D x then, along which λ is to be asked for.
pub fn fit(
    oriented: &Oriented<'_>,
    moments: &Moments,
    r: &[f64],
    (p, q): (&[f64], &[f64]),
    (wp, dp): (&[f64], &[f64]),
    norms: Option<&[f64]>,
    kept: Option<Kept>,
) -> (Fit, Option<Vec<f64>>) {
    let along = Along { pp: dot(p, p), qq: dot(q, q), pq: dot(p, q) };
    if along.pp <= 0.0 || along.qq <= 0.0 {
        return (Fit::default(), None);
    }
    // The moments are of the stored numbers, so what was taken with a scale divided out gets it back.
    let (gauged_residual, factors) = oriented.gauge_factors();
    let restore = |change: &[f64], base: &[f64]| -> Vec<f64> {
        change.iter().zip(base).zip(factors).map(|((d, w), factor)| (d + w) / f64::from(*factor) - w).collect()
    };
    let restored_dp = (gauged_residual == Some(true)).then(|| restore(dp, wp));
    let restored_q = (gauged_residual == Some(false)).then(|| restore(q, p));
    let (q, dp) = (restored_q.as_deref().unwrap_or(q), restored_dp.as_deref().unwrap_or(dp));
    let rows = rows_of(oriented, moments, (wp, dp), norms);
    let line = Line { r, p, q, pp: along.pp, pq: dot(p, q), consistency: along.consistency(), rows: &rows };
    if let Some(kept) = kept {
        return (line.beside_what_is_set_aside(kept), None);
    }
    let simple = line.one_factor();
    // Where a scale per row or column is known to be there, one factor for the matrix is no rival.
    let start = if gauged_residual.is_some() { f64::MAX } else { simple.left };
    let mut best = Model { left: start, ..simple };
    // Where one factor leaves nothing there is nothing to explain better (a row set to zero is a scale of it too).
    let unexplained = gauged_residual.is_some() || simple.left > EXPLAINED * line.total(2);
    let mut unscaled = None;
    if unexplained {
        let (by_rows, scaled) = line.factor_per_row();
        if let Some(model) = by_rows.filter(|model| model.left < SCALE_GAIN * best.left) {
            best = model;
            let length = dot(&scaled, &scaled).sqrt();
            unscaled = (length > 0.0 && length.is_finite())
                .then(|| scaled.iter().map(|value| value / length).collect::<Vec<f64>>());
        }
        // In raw coordinates only: no tool normalises both.
        let by_columns = norms.is_none().then(|| line.factor_per_column(oriented, moments)).flatten();
        if let Some(model) = by_columns.filter(|model| model.left < SCALE_GAIN * best.left) {
            best = model;
            unscaled = None;
        }
    }
    // What is left along r: of the simple model, whose residual along r is q - αp + λp.
    let (along_left, weighted) = line.along(simple.alpha, simple.strength);
    let fit = Fit {
        strength: best.strength,
        stderr: weighted.sqrt() / line.pp,
        consistency: line.consistency,
        explained: if best.scale_left > 0.0 { (1.0 - best.left / best.scale_left).clamp(0.0, 1.0) } else { 0.0 },
        quietness: along_left / (simple.left / r.len() as f64).max(f64::MIN_POSITIVE),
        row_spread: if gauged_residual.is_none() { row_spread(r, &rows, line.pp, p.len()) } else { 0.0 },
        own_component: own_component(r, &rows),
        scale: best.scale,
    };
    (fit, unscaled)
}

/// Rows in the coordinates of the fit: (Σw², ΣΔw, ΣΔ², w·p, Δ·p) of each.
fn rows_of(
    oriented: &Oriented<'_>,
    moments: &Moments,
    (wp, dp): (&[f64], &[f64]),
    norms: Option<&[f64]>,
) -> Vec<[f64; 5]> {
    let residual = oriented.side(moments, true);
    let sums = residual.ww().zip(residual.dw()).zip(residual.dd()).zip(wp.iter().zip(dp)).enumerate();
    sums.map(|(i, (((ww, dw), dd), (wp, dp)))| {
        let s = norms.map_or(1.0, |norms| 1.0 / norms[i]);
        [ww * s * s, dw * s * s, dd * s * s, wp * s, dp * s]
    })
    .collect()
}

/// Sums below this share of what they are differences of are rounding.
const NOTHING: f64 = 1e-9;

/// One direction in one matrix, with all that the models of scale and removal need.
struct Line<'l> {
    /// The direction, d numbers.
    r: &'l [f64],
    /// Wᵀr and Δᵀr, n numbers each.
    p: &'l [f64],
    q: &'l [f64],
    pp: f64,
    pq: f64,
    consistency: f64,
    /// See [`rows_of`].
    rows: &'l [[f64; 5]],
}

/// A removal beside a scale of some kind.
#[derive(Clone, Copy)]
struct Model {
    scale: ScaleModel,
    /// The factor of the matrix; 0 where there is one per row or column.
    alpha: f64,
    /// λ.
    strength: f64,
    /// ‖Δ‖² that it leaves, and that the scale alone would leave.
    left: f64,
    scale_left: f64,
}

impl Line<'_> {
    /// A column of the rows' sums, summed.
    fn total(&self, column: usize) -> f64 {
        self.rows.iter().map(|row| row[column]).sum()
    }

    /// Σ of the squared residual along r with a factor α and a strength λ, and of the same weighted by p, for the
    /// standard error.
    fn along(&self, alpha: f64, lambda: f64) -> (f64, f64) {
        let residuals = || self.p.iter().zip(self.q).map(|(p, q)| (p, q - alpha * p + lambda * p));
        (residuals().map(|(_, left)| left.powi(2)).sum(), residuals().map(|(p, left)| (p * left).powi(2)).sum())
    }

    /// Where columns are set aside: the scale is the uniform one, known beforehand.
    fn beside_what_is_set_aside(&self, Kept { left, alpha }: Kept) -> Fit {
        let lambda = alpha - self.pq / self.pp;
        let (along_left, weighted) = self.along(alpha, lambda);
        let caught = lambda * lambda * self.pp;
        let d = self.r.len() as f64;
        Fit {
            strength: lambda,
            stderr: weighted.sqrt() / self.pp,
            consistency: self.consistency,
            explained: if left > 0.0 { (caught / left).clamp(0.0, 1.0) } else { 0.0 },
            quietness: along_left / ((left - caught).max(0.0) / d).max(f64::MIN_POSITIVE),
            row_spread: 0.0,
            own_component: own_component(self.r, self.rows),
            scale: ScaleModel::Matrix,
        }
    }

    /// One factor α for the matrix: minimise ‖Δ - αW + λ r pᵀ‖².
    fn one_factor(&self) -> Model {
        let (ww, dw, dd) = (self.total(0), self.total(1), self.total(2));
        let (pp, pq) = (self.pp, self.pq);
        let alpha = if ww - pp > NOTHING * ww { (dw - pq) / (ww - pp) } else { 0.0 };
        let lambda = alpha - pq / pp;
        let left = dd + alpha * alpha * ww + lambda * lambda * pp - 2.0 * alpha * dw + 2.0 * lambda * pq
            - 2.0 * alpha * lambda * pp;
        let scale_left = (dd - dw * dw / ww.max(f64::MIN_POSITIVE)).max(0.0);
        Model { scale: ScaleModel::Matrix, alpha, strength: lambda, left: left.max(0.0), scale_left }
    }

    /// One factor per row: x ≈ s w - t p for each row, then λ from t = s λ r. Beside it r with every row scaled as the
    /// candidate's is.
    fn factor_per_row(&self) -> (Option<Model>, Vec<f64>) {
        let pp = self.pp;
        let (mut left, mut scale_left, mut top, mut bottom) = (0.0, 0.0, 0.0, 0.0);
        let mut scaled = self.r.to_vec();
        for (at, ([ww, dw, dd, wp, dp], r)) in self.rows.iter().zip(self.r).enumerate() {
            let determinant = ww * pp - wp * wp;
            scale_left += if *ww > 0.0 { dd - dw * dw / ww } else { *dd };
            if determinant <= NOTHING * ww * pp || *ww <= 0.0 {
                left += if *ww > 0.0 { dd - dw * dw / ww } else { *dd };
                continue;
            }
            let s = (dw * pp - dp * wp) / determinant;
            let t = (dp * ww - dw * wp) / determinant;
            left += dd - s * dw - t * dp;
            let weight = 1.0 + s;
            scaled[at] = weight * r;
            top -= t * weight * r;
            bottom += weight * weight * r * r;
        }
        (Model::of(ScaleModel::Rows, (top, bottom), left, scale_left), scaled)
    }

    /// One factor per column: x ≈ κ w - μ r for each column.
    fn factor_per_column(&self, oriented: &Oriented<'_>, moments: &Moments) -> Option<Model> {
        let other = oriented.side(moments, false);
        let (mut left, mut scale_left, mut top, mut bottom) = (0.0, 0.0, 0.0, 0.0);
        let sums = other.ww().zip(other.dw()).zip(other.dd()).zip(self.p.iter().zip(self.q));
        for (((ww, dw), dd), (p, q)) in sums {
            let determinant = ww - p * p;
            scale_left += if ww > 0.0 { dd - dw * dw / ww } else { dd };
            if determinant <= NOTHING * ww || ww <= 0.0 {
                left += if ww > 0.0 { dd - dw * dw / ww } else { dd };
                continue;
            }
            let kappa = (dw - q * p) / determinant;
            let mu = (q * ww - dw * p) / determinant;
            left += dd - kappa * dw - mu * q;
            let weight = (1.0 + kappa) * p;
            top -= mu * weight;
            bottom += weight * weight;
        }
        Model::of(ScaleModel::Columns, (top, bottom), left, scale_left)
    }
}

impl Model {
    /// λ as a quotient of sums; `None` where nothing was summed.
    fn of(scale: ScaleModel, (top, bottom): (f64, f64), left: f64, scale_left: f64) -> Option<Self> {
        let (left, scale_left) = (left.max(0.0), scale_left.max(0.0));
        (bottom > 0.0).then(|| Self { scale, alpha: 0.0, strength: top / bottom, left, scale_left })
    }
}

/// Standard deviation of the rows' factors s in Δ_i = s w_i - t p + other, about their median, less the part that
/// chance leaves where the other has nothing to do with w_i, and what restoring the rows' norms after the removal makes
/// of them. Robust: medians over rows (Σw², ΣΔw, ΣΔ², w·p, Δ·p), of n elements each.
fn row_spread(r: &[f64], rows: &[[f64; 5]], pp: f64, n: usize) -> f64 {
    /// Median of a squared standard normal number.
    const MEDIAN_SQUARE: f64 = 0.455;
    let (mut factors, mut chance, mut restored) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for ([ww, dw, dd, wp, dp], r) in rows.iter().zip(r) {
        let determinant = ww * pp - wp * wp;
        // A row that is nearly p itself: there a removal is a scale.
        if determinant <= 0.05 * ww * pp || *ww <= 0.0 {
            continue;
        }
        let s = (dw * pp - dp * wp) / determinant;
        let t = (dp * ww - dw * wp) / determinant;
        factors.push(s);
        chance.push((dd - s * dw - t * dp).max(0.0) * pp / (determinant * n as f64));
        // |w - λ r p|² / |w|² is 1 - 2 λ r (w·p)/|w|² + λ² r² |p|²/|w|²: both terms, each with its own coefficient.
        restored[0].push(r * wp / ww);
        restored[1].push(r * r * pp / ww);
    }
    let middle = median(factors.iter().copied());
    factors.iter_mut().for_each(|s| *s -= middle);
    let [first, second] = &mut restored;
    without(second, first);
    without(&mut factors, first);
    without(&mut factors, second);
    let squares = factors.iter().map(|s| s * s);
    (median(squares) / MEDIAN_SQUARE - median(chance)).max(0.0).sqrt()
}

/// Takes off `values` what is a multiple of `other`.
fn without(values: &mut [f64], other: &[f64]) {
    let energy = dot(other, other);
    if energy > 0.0 {
        let share = dot(values, other) / energy;
        values.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
    }
}

/// |cos(r, W p)|: 1 when r is a left singular vector of W.
fn own_component(r: &[f64], rows: &[[f64; 5]]) -> f64 {
    let inner: f64 = r.iter().zip(rows).map(|(r, row)| r * row[3]).sum();
    let length = rows.iter().map(|row| row[3] * row[3]).sum::<f64>().sqrt();
    (inner.abs() / length.max(f64::MIN_POSITIVE)).min(1.0)
}
