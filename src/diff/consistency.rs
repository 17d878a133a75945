//! The direction along which a change is most nearly the removal of it: the maximum of c itself, not of any energy.
//!
//! With P = QᵀW and R = QᵀΔ in the span of candidate directions Q, c(x) = -⟨Pᵀx, Rᵀx⟩ / (|Pᵀx| |Rᵀx|). As |p||q| is the
//! minimum over λ of (λ|p|² + |q|²/λ)/2, the largest c is the largest generalized eigenvalue of S = -(PRᵀ + RPᵀ)/2
//! against (λ PPᵀ + RRᵀ/λ)/2, maximised over λ. Loud parts of a change are in both forms and count for nothing;
//! `docs/detector.md` has what was measured.

use faer::linalg::solvers::SolveCore as _;
use faer::{Mat, MatRef, Side};

use super::spectrum;

/// Base and change along one direction r: |p|², |q|², ⟨p,q⟩ with p = Wᵀr and q = Δᵀr.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Along {
    /// |Wᵀr|².
    pub pp: f64,
    /// |Δᵀr|².
    pub qq: f64,
    /// ⟨Wᵀr, Δᵀr⟩.
    pub pq: f64,
}

impl Along {
    /// Projection consistency c: 1 for a removal, -1 for an amplification, about 0 for an arbitrary change.
    pub fn consistency(&self) -> f64 {
        let scale = (self.pp * self.qq).sqrt();
        if scale > 0.0 { (-self.pq / scale).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// λ̂ without any scale beside it.
    pub fn strength(&self) -> f64 {
        if self.pp > 0.0 { -self.pq / self.pp } else { 0.0 }
    }

    /// The part of ‖Δ‖² that -λ̂ r pᵀ accounts for.
    pub fn caught(&self) -> f64 {
        if self.pp > 0.0 { self.pq * self.pq / self.pp } else { 0.0 }
    }
}

/// Strengths tried, a factor of 3 apart; the best one is then refined.
const STRENGTHS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 9.0];
/// Golden-section steps in log λ around the best of them: each narrows the bracket to 0.618 of itself, from a factor of
/// 9 to one of 1.001.
const NARROWED: usize = 16;
/// 1/φ, where a golden section looks.
const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// Keeps the form positive definite where the base writes nothing along some direction, relative to the mean of PPᵀ.
const RIDGE: f64 = 1e-9;

/// Inner products of base and change inside a candidate subspace, over some of the other coordinates.
#[derive(Debug, Clone)]
pub struct Grams {
    /// P Pᵀ with P = QᵀW.
    pub pp: Mat<f64>,
    /// R Rᵀ with R = QᵀΔ.
    pub rr: Mat<f64>,
    /// R Pᵀ.
    pub rp: Mat<f64>,
}

impl Grams {
    /// Of nothing yet.
    pub fn zeros(width: usize) -> Self {
        let zeros = || Mat::zeros(width, width);
        Self { pp: zeros(), rr: zeros(), rp: zeros() }
    }

    /// Adds some of the other coordinates: rows of Wᵀ Q and of Δᵀ Q.
    pub fn add(&mut self, p: MatRef<'_, f64>, r: MatRef<'_, f64>) {
        self.pp += p.transpose() * p;
        self.rr += r.transpose() * r;
        self.rp += r.transpose() * p;
    }

    /// ‖R‖².
    pub fn energy(&self) -> f64 {
        (0..self.rr.nrows()).map(|i| self.rr[(i, i)]).sum()
    }

    /// Mean of |Wᵀq|² over the basis.
    pub fn mean(&self) -> f64 {
        mean_diagonal(&self.pp)
    }

    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        Self { pp: &self.pp + &other.pp, rr: &self.rr + &other.rr, rp: &self.rp + &other.rp }
    }

    /// Without a uniform scale: of Δ - αW instead of Δ.
    pub fn without_scale(&self, alpha: f64) -> Self {
        let rp = &self.rp - faer::Scale(alpha) * &self.pp;
        let rr =
            &self.rr - faer::Scale(alpha) * (&self.rp + self.rp.transpose()) + faer::Scale(alpha * alpha) * &self.pp;
        Self { pp: self.pp.clone(), rr, rp }
    }

    /// As if the candidate were the base and the base the candidate: W + Δ and -Δ.
    pub fn reversed(&self) -> Self {
        let pp = &self.pp + &self.rp + self.rp.transpose() + &self.rr;
        let rp = faer::Scale(-1.0) * (&self.rp + &self.rr);
        Self { pp, rr: self.rr.clone(), rp }
    }

    /// As if λ of the direction `e` had been removed too: Δ - λ r (Wᵀr)ᵀ instead of Δ.
    pub fn planted(&self, e: &[f64], lambda: f64) -> Self {
        self.planted_as(e, e, lambda)
    }

    /// As if Δ - λ u (Wᵀr)ᵀ were there instead of Δ, for r = Q `e` and `left` = Qᵀu: what of u is in the rows that Δ
    /// was seen in.
    pub fn planted_as(&self, left: &[f64], e: &[f64], lambda: f64) -> Self {
        let column = |values: &[f64]| Mat::from_fn(values.len(), 1, |i, _| values[i]);
        let (left, e) = (column(left), column(e));
        let through = &self.pp * &e;
        let along = &self.rp * &e;
        let pp = (e.transpose() * &through)[(0, 0)];
        let rp = &self.rp - faer::Scale(lambda) * &left * through.transpose();
        let cross = &along * left.transpose();
        let rr = &self.rr - faer::Scale(lambda) * (&cross + cross.transpose())
            + faer::Scale(lambda * lambda * pp) * &left * left.transpose();
        Self { pp: self.pp.clone(), rr, rp }
    }

    /// Base and change along one direction.
    pub fn along(&self, e: &[f64]) -> Along {
        let form = |matrix: &Mat<f64>| {
            let mut total = 0.0;
            for (j, right) in e.iter().enumerate() {
                for (i, left) in e.iter().enumerate() {
                    total += left * matrix[(i, j)] * right;
                }
            }
            total
        };
        Along { pp: form(&self.pp), qq: form(&self.rr), pq: form(&self.rp) }
    }

    /// The edit as an operator on the subspace: A of QᵀΔ ≈ A QᵀW, slightly ridged.
    pub fn operator(&self) -> Mat<f64> {
        let width = self.pp.nrows();
        let mut ridged = self.pp.clone();
        let ridge = 1e-6 * mean_diagonal(&self.pp);
        (0..width).for_each(|i| ridged[(i, i)] += ridge);
        let Ok(cholesky) = ridged.llt(Side::Lower) else { return Mat::zeros(width, width) };
        // A = R Pᵀ (P Pᵀ)⁻¹ and P Pᵀ is symmetric: solve for Aᵀ.
        let mut transposed = self.rp.transpose().to_owned();
        cholesky.solve_in_place_with_conj(faer::Conj::No, transposed.as_mut());
        transposed.transpose().to_owned()
    }

    /// ‖W'ᵀW' - WᵀW‖ over 2‖ΔᵀW‖, of what of the change lies in this subspace: 0 where the change turns what W writes
    /// and neither takes away nor adds (a rotation, a reflection), 1/2 for a removal, 0.7 for what has nothing to do
    /// with W.
    pub fn isometry(&self) -> f64 {
        let trace = |a: &Mat<f64>, b: &Mat<f64>| -> f64 {
            let width = a.nrows();
            (0..width).map(|i| (0..width).map(|j| a[(i, j)] * b[(j, i)]).sum::<f64>()).sum()
        };
        // ΔᵀW = RᵀP in this subspace, and the Gram matrices hold all inner products of P and R.
        let across = trace(&self.rr, &self.pp);
        let moved = 2.0 * across
            + 2.0 * trace(&self.rp, &self.rp)
            + 4.0 * trace(&self.rr, &self.rp)
            + trace(&self.rr, &self.rr);
        if across > 0.0 { moved.max(0.0).sqrt() / (2.0 * across.sqrt()) } else { 1.0 }
    }

    /// The direction of largest c, of length 1; `None` where nothing changed in this subspace or the base writes
    /// nothing.
    pub fn most_consistent(&self) -> Option<Vec<f64>> {
        let width = self.pp.nrows();
        let mean = mean_diagonal(&self.pp);
        if width == 0 || !(mean > 0.0 && mean_diagonal(&self.rr) > 0.0) {
            return None;
        }
        // Coordinates in which PPᵀ is the identity and RRᵀ is diagonal, so that every λ is one scaling away.
        let (values, vectors) = spectrum::symmetric_eigen(self.pp.as_ref());
        let white = Mat::from_fn(width, width, |i, j| vectors[(i, j)] / (values[j].max(0.0) + RIDGE * mean).sqrt());
        let (squares, rotation) = spectrum::symmetric_eigen((white.transpose() * &self.rr * &white).as_ref());
        let to_basis = &white * &rotation;
        let symmetric = (&self.rp + self.rp.transpose()) * -0.5;
        let inside = to_basis.transpose() * &symmetric * &to_basis;
        let best_at = |lambda: f64| -> Option<Vec<f64>> {
            let scale: Vec<f64> =
                squares.iter().map(|square| (0.5 * (lambda + square.max(0.0) / lambda)).sqrt().recip()).collect();
            let scaled = Mat::from_fn(width, width, |i, j| scale[i] * inside[(i, j)] * scale[j]);
            let (_, vectors) = spectrum::symmetric_eigen(scaled.as_ref());
            let top = vectors.col_iter().next_back()?;
            let y = Mat::from_fn(width, 1, |i, _| scale[i] * top[i]);
            let x = &to_basis * y;
            let length = x.norm_l2();
            (length > 0.0 && length.is_finite()).then(|| x.col(0).iter().map(|value| value / length).collect())
        };
        // The largest eigenvalue at λ bounds c from above only where λ = |q|/|p|, so it is c itself that is climbed.
        let measured = |lambda: f64| best_at(lambda).map(|e| (self.along(&e).consistency(), e));
        let mut best: Option<(f64, Vec<f64>)> = None;
        let mut at = 0;
        for (index, lambda) in STRENGTHS.iter().enumerate() {
            if let Some(found) = measured(*lambda).filter(|found| best.as_ref().is_none_or(|best| found.0 > best.0)) {
                (best, at) = (Some(found), index);
            }
        }
        let log = |index: usize| STRENGTHS.get(index).or(STRENGTHS.last()).map_or(0.0, |lambda| lambda.ln());
        let (mut low, mut high) = (log(at.saturating_sub(1)), log(at + 1));
        let look = |log: f64, best: &mut Option<(f64, Vec<f64>)>| -> f64 {
            let Some(found) = measured(log.exp()) else { return f64::NEG_INFINITY };
            let c = found.0;
            if best.as_ref().is_none_or(|best| c > best.0) {
                *best = Some(found);
            }
            c
        };
        let (mut left, mut right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        let (mut at_left, mut at_right) = (look(left, &mut best), look(right, &mut best));
        for _ in 0..NARROWED {
            if at_left >= at_right {
                (high, right, at_right) = (right, left, at_left);
                left = high - GOLDEN * (high - low);
                at_left = look(left, &mut best);
            } else {
                (low, left, at_left) = (left, right, at_right);
                right = low + GOLDEN * (high - low);
                at_right = look(right, &mut best);
            }
        }
        best.map(|(_, e)| e)
    }
}

/// Other coordinates are dealt to two halves in runs of this many, so that neighbours (heads, quantiser blocks) stay
/// together.
const HALF_RUN: usize = 64;

/// Inner products over each of two halves of the other coordinates: rows of Wᵀ Q and of Δᵀ Q.
pub fn halves(p: MatRef<'_, f64>, r: MatRef<'_, f64>) -> [Grams; 2] {
    let mut halves = [Grams::zeros(p.ncols()), Grams::zeros(p.ncols())];
    let n = p.nrows();
    // Few coordinates are dealt in shorter runs, or one half would stay empty.
    let run = HALF_RUN.min((n / 8).max(1));
    for (index, start) in (0..n).step_by(run).enumerate() {
        let count = run.min(n - start);
        halves[index % 2].add(p.subrows(start, count), r.subrows(start, count));
    }
    halves
}

/// c of the direction of largest c, chosen on one half of the other coordinates and tested on the other, both ways: no
/// selection is in it. Each of the two, in order of the half that tested.
pub fn held_out(halves: &[Grams; 2]) -> [f64; 2] {
    [(1, 0), (0, 1)].map(|(choose, test): (usize, usize)| {
        halves[choose].most_consistent().map_or(0.0, |e| halves[test].along(&e).consistency())
    })
}

fn mean_diagonal(matrix: &Mat<f64>) -> f64 {
    (0..matrix.nrows()).map(|i| matrix[(i, i)]).sum::<f64>() / matrix.nrows().max(1) as f64
}

/// The directions that most of these subspaces share: leading eigenvectors of Σ q qᵀ over their orthonormal bases q, so
/// that every direction counts once, however loud. `width` rows each; others are left out.
pub fn shared<'m>(spans: &[&'m Mat<f64>], width: usize, count: usize) -> Mat<f64> {
    let spans: Vec<&'m Mat<f64>> =
        spans.iter().copied().filter(|span| span.nrows() == width && span.ncols() > 0).collect();
    if spans.is_empty() || width == 0 {
        return Mat::zeros(width, 0);
    }
    let total: usize = spans.iter().map(|span| span.ncols()).sum();
    if total.min(width) <= EXACT {
        if total <= width {
            let views: Vec<_> = spans.iter().map(|span| span.as_ref()).collect();
            let Ok(svd) = spectrum::beside(&views).thin_svd() else { return Mat::zeros(width, 0) };
            return svd.U().subcols(0, count.min(svd.U().ncols())).to_owned();
        }
        let mut sum = Mat::<f64>::zeros(width, width);
        for span in &spans {
            sum += *span * span.transpose();
        }
        let (_, vectors) = spectrum::symmetric_eigen(sum.as_ref());
        return Mat::from_fn(width, count.min(width), |i, j| vectors[(i, width - 1 - j)]);
    }
    // Subspace iteration: what dozens of subspaces share stands far above what they do not.
    let block = (2 * count).min(width);
    let mut basis = spectrum::orthonormal(spectrum::widen(&spectrum::signs(width, block, 3)).as_ref());
    for _ in 0..ITERATIONS {
        let mut next = Mat::<f64>::zeros(width, basis.ncols());
        for span in &spans {
            next += *span * (span.transpose() * &basis);
        }
        basis = spectrum::orthonormal(next.as_ref());
    }
    let mut inner = Mat::<f64>::zeros(basis.ncols(), basis.ncols());
    for span in &spans {
        let part = span.transpose() * &basis;
        inner += part.transpose() * &part;
    }
    let (_, vectors) = spectrum::symmetric_eigen(inner.as_ref());
    let kept = Mat::from_fn(basis.ncols(), count.min(basis.ncols()), |i, j| vectors[(i, basis.ncols() - 1 - j)]);
    &basis * kept
}

/// Sides up to this are decomposed exactly.
const EXACT: usize = 1024;
/// Rounds of the subspace iteration beyond that.
const ITERATIONS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tiny::{normal, random};

    fn matrix(rows: usize, columns: usize, stream: &str) -> Mat<f64> {
        let values = normal(&mut random(7, stream), rows * columns);
        Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j]))
    }

    /// Grams of the two halves of the columns of W and Δ, m × n each.
    fn halves(w: &Mat<f64>, change: &Mat<f64>) -> [Grams; 2] {
        let half = w.ncols() / 2;
        [0, 1].map(|side| {
            let mut grams = Grams::zeros(w.nrows());
            let (p, r) = (
                w.subcols(side * half, half).transpose().to_owned(),
                change.subcols(side * half, half).transpose().to_owned(),
            );
            grams.add(p.as_ref(), r.as_ref());
            grams
        })
    }

    fn removal(w: &Mat<f64>, lambda: f64) -> Mat<f64> {
        // Along the first coordinate.
        Mat::from_fn(w.nrows(), w.ncols(), |i, j| if i == 0 { -lambda * w[(0, j)] } else { 0.0 })
    }

    #[test]
    fn a_faint_removal_is_chosen_under_a_louder_change() {
        let (w, noise) = (matrix(24, 400, "w"), matrix(24, 400, "noise"));
        let loud = Mat::from_fn(24, 400, |i, j| if i == 0 { 0.0 } else { 3.0 * noise[(i, j)] });
        let change = removal(&w, 0.05) + loud;
        let halves = halves(&w, &change);
        assert!(held_out(&halves).iter().all(|c| *c > 0.99), "{:?}", held_out(&halves));
        let e = halves[0].plus(&halves[1]).most_consistent().unwrap();
        assert!(e[0].abs() > 0.99, "{e:?}");
        assert!((halves[0].along(&e).strength() - 0.05).abs() < 0.01);
    }

    #[test]
    fn a_rotation_is_an_isometry_and_a_removal_is_not() {
        let (w, noise) = (matrix(24, 400, "w"), matrix(24, 400, "noise"));
        let whole = |change: &Mat<f64>| {
            let halves = halves(&w, change);
            halves[0].plus(&halves[1]).isometry()
        };
        let (cos, sin) = (0.3f64.cos(), 0.3f64.sin());
        let rotation = Mat::from_fn(24, 400, |i, j| match i {
            0 => (cos - 1.0) * w[(0, j)] - sin * w[(1, j)],
            1 => sin * w[(0, j)] + (cos - 1.0) * w[(1, j)],
            _ => 0.0,
        });
        assert!(whole(&rotation) < 1e-6, "{}", whole(&rotation));
        assert!(whole(&removal(&w, 2.0)) < 1e-6, "a reflection: {}", whole(&removal(&w, 2.0)));
        assert!((whole(&removal(&w, 1.0)) - 0.5).abs() < 1e-6);
        assert!(whole(&(noise * faer::Scale(0.01))) > 0.5);
    }

    #[test]
    fn nothing_consistent_is_chosen_of_noise() {
        let (w, noise) = (matrix(24, 400, "w"), matrix(24, 400, "noise"));
        assert!(held_out(&halves(&w, &noise)).iter().all(|c| *c < 0.4));
        assert_eq!(Grams::zeros(3).most_consistent(), None);
    }

    #[test]
    fn sides_that_were_swapped_show_the_removal_in_reverse() {
        let w = matrix(12, 300, "w");
        let edited = &w + removal(&w, 1.0);
        // The base lacks the direction: there is no -Wᵀr to be seen, but the candidate has it.
        let change = &w - &edited + 1e-3 * matrix(12, 300, "noise");
        let halves = halves(&edited, &change);
        assert!(held_out(&halves).iter().all(|c| *c < 0.5));
        let reversed = [halves[0].reversed(), halves[1].reversed()];
        assert!(held_out(&reversed).iter().all(|c| *c > 0.99));
    }

    #[test]
    fn planting_is_adding_a_removal() {
        let (w, noise) = (matrix(6, 80, "w"), matrix(6, 80, "noise"));
        let e = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let [planted, ..] = halves(&w, &noise).map(|half| half.planted(&e, 0.4));
        let [direct, ..] = halves(&w, &(&noise + removal(&w, 0.4)));
        assert!((&planted.rr - &direct.rr).norm_l2() < 1e-9 && (&planted.rp - &direct.rp).norm_l2() < 1e-9);
    }

    #[test]
    fn what_subspaces_share_is_found_however_many_there_are() {
        for (width, spans) in [(64, 6), (1100, 90)] {
            let common = matrix(width, 1, "common");
            let spans: Vec<Mat<f64>> = (0..spans)
                .map(|at| {
                    let own = matrix(width, 12, &format!("own {at}"));
                    spectrum::orthonormal(spectrum::beside(&[own.as_ref(), common.as_ref()]).as_ref())
                })
                .collect();
            let views: Vec<&Mat<f64>> = spans.iter().collect();
            let found = shared(&views, width, 4);
            let inside = found.transpose() * &common;
            assert!(inside.norm_l2() > 0.98 * common.norm_l2(), "{width}");
        }
    }
}
