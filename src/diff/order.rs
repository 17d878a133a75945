//! Columns of a writer that only moved, and columns that changed more than a removal can change them.
//!
//! The columns of a writer, and the rows of a reader, belong to neurons of an MLP or to value channels of a head.
//! Swapping two of them, together with what feeds them, leaves the model's outputs as they are, and makes a change that
//! is louder than any edit; so does turning the sign of one. Both are undone exactly before the change is taken.
//!
//! Of what is left, a removal cannot have done everything: |Δ_j| ≤ λ |cos(r, w_j)| |w_j| for every column j, and |cos|
//! is about 1/√d for a direction that is not the column's own. Columns far beyond that, and far beyond the others, are
//! set aside.

use super::kernel::Sums;
use super::operator::{Gauge, Moments, Want};
use super::oriented::Oriented;
use super::reordering::Reordering;
use super::spectrum;
use crate::arch::Axis;
use crate::error::Result;
use crate::tensor::numbers::dot;

/// A column is set aside when |Δ_j|/|w_j| exceeds this over √d,
const BEYOND_CHANCE: f64 = 6.0;
/// and this many times the middle column's.
const BEYOND_MEDIAN: f64 = 4.0;
/// |Δ_j|²/|w_j|² from which a column may be another one, and median of it from which all may have moved: 2 for columns that have nothing to do
/// with one another.
const ALL_MOVED: f64 = 0.5;
/// Numbers by which columns are known again.
const MARKS: usize = 16;
/// A column is one of the base's when what is left between them is at most this share of its length, squared.
const SAME: f64 = 0.1;
/// Columns looked for among one another: the work grows with the square.
const MOST: usize = 8192;

/// What of the other coordinates of a writer does not enter the fit, and what was put back.
#[derive(Debug, Clone, Default)]
pub struct ColumnsAside {
    /// Which are kept; `None` when all are.
    pub kept: Option<Vec<bool>>,
    /// How many were put back in their place.
    pub moved: usize,
}

impl ColumnsAside {
    /// Share that is set aside.
    pub fn share(&self) -> f64 {
        self.kept
            .as_ref()
            .map_or(0.0, |kept| kept.iter().filter(|kept| !**kept).count() as f64 / kept.len().max(1) as f64)
    }
}

/// |Δ_j|²/|w_j|² of every other coordinate.
fn ratios(oriented: &Oriented<'_>, moments: &Moments) -> Vec<f64> {
    oriented.other_sums(moments).map(|(ww, _, dd)| ratio(ww, dd)).collect()
}

/// |Δ_j|²/|w_j|² out of the two; infinite where the base has nothing and the candidate has.
pub fn ratio(ww: f64, dd: f64) -> f64 {
    if ww > 0.0 {
        dd / ww
    } else if dd > 0.0 {
        f64::INFINITY
    } else {
        0.0
    }
}

/// The middle of ratios of which some are infinite, where a column of zeros became another: they count.
fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn bound(width: usize, ratios: &[f64]) -> f64 {
    let chance = BEYOND_CHANCE * BEYOND_CHANCE / width.max(1) as f64;
    chance.max(BEYOND_MEDIAN * BEYOND_MEDIAN * middle(ratios))
}

/// Which of the other coordinates a removal can have changed as much as they changed; `None` when that is all of them.
pub fn explicable(oriented: &Oriented<'_>, moments: &Moments) -> Option<Vec<bool>> {
    within_reach(oriented.width(), &ratios(oriented, moments))
}

/// The same from every coordinate's |Δ_j|²/|w_j|², in a residual stream of `width`.
pub fn within_reach(width: usize, ratios: &[f64]) -> Option<Vec<bool>> {
    let bound = bound(width, ratios);
    let kept: Vec<bool> = ratios.iter().map(|ratio| *ratio <= bound).collect();
    kept.iter().any(|kept| !kept).then_some(kept)
}

/// ‖Δ - αW‖² over the coordinates that are kept.
pub fn kept_energy(oriented: &Oriented<'_>, moments: &Moments, kept: &[bool], alpha: f64) -> f64 {
    let sums = oriented.other_sums(moments).zip(kept).filter(|(_, kept)| **kept);
    sums.map(|((ww, dw, dd), _)| dd - 2.0 * alpha * dw + alpha * alpha * ww).sum::<f64>().max(0.0)
}

/// A uniform scale of the change.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Uniform {
    /// Middle of ⟨Δ_j, w_j⟩/|w_j|² over the other coordinates: a few loud ones do not move it.
    pub middle: f64,
    /// The same where most coordinates have it, so that it is a scale (weight decay) and no trace of something else; 0
    /// otherwise.
    pub alpha: f64,
}

/// Spread (between quartiles) of a scale, over its middle, up to which it is one. A removal's is 2.7.
const SPREAD: f64 = 0.5;

/// The uniform scale that a change carries; nothing beside a scale that was divided out.
pub fn uniform_scale(oriented: &Oriented<'_>, moments: &Moments, kept: Option<&[bool]>) -> Uniform {
    if oriented.operator.gauge != Gauge::None {
        return Uniform::default();
    }
    let scales: Vec<f64> = oriented
        .other_sums(moments)
        .enumerate()
        .filter(|(at, (ww, ..))| *ww > 0.0 && kept.is_none_or(|kept| kept.get(*at).copied().unwrap_or(true)))
        .map(|(_, (ww, dw, _))| dw / ww)
        .collect();
    Uniform::of(scales)
}

impl Uniform {
    /// Out of every coordinate's ⟨Δ_j, w_j⟩/|w_j|².
    pub fn of(mut scales: Vec<f64>) -> Self {
        scales.sort_by(f64::total_cmp);
        let at = |share: usize| scales.get(scales.len() * share / 4).copied().unwrap_or(0.0);
        let middle = at(2);
        let is_scale = at(3) - at(1) <= SPREAD * middle.abs();
        Self { middle, alpha: if is_scale { middle } else { 0.0 } }
    }
}

/// Finds the base's columns in the candidate where some are not in their place; `None` where all are, or nothing is
/// found.
pub fn find(oriented: &Oriented<'_>, moments: &Moments) -> Result<Option<Reordering>> {
    let ratios = ratios(oriented, moments);
    let bound = bound(oriented.width(), &ratios);
    let all = middle(&ratios) > ALL_MOVED;
    let suspects: Vec<usize> = (0..ratios.len())
        .filter(|at| if all { ratios[*at] > SAME } else { ratios[*at] > bound.max(ALL_MOVED) })
        .collect();
    if suspects.is_empty() || suspects.len() > MOST {
        return Ok(None);
    }
    let marks = spectrum::widen(&spectrum::signs(oriented.width(), MARKS, 4));
    let product = oriented.to_other(marks.as_ref(), Want::Both)?;
    let of = |at: usize| -> ([f64; MARKS], [f64; MARKS]) {
        let (mut base, mut candidate) = ([0.0; MARKS], [0.0; MARKS]);
        for mark in 0..MARKS {
            base[mark] = f64::from(product.base[(at, mark)]);
            candidate[mark] = base[mark] + f64::from(product.change[(at, mark)]);
        }
        (base, candidate)
    };
    let known: Vec<(usize, [f64; MARKS], [f64; MARKS])> = suspects
        .iter()
        .map(|at| {
            let (base, candidate) = of(*at);
            (*at, base, candidate)
        })
        .collect();
    // (squared distance over squared length, base's, candidate's, sign), nearest first.
    let mut pairs: Vec<(f64, usize, usize, f32)> = Vec::new();
    for (to, base, _) in &known {
        let length = dot(base, base);
        if length <= 0.0 {
            continue;
        }
        let nearest = known
            .iter()
            .map(|(from, _, candidate)| {
                let inner = dot(base, candidate);
                let left = (length + dot(candidate, candidate) - 2.0 * inner.abs()) / length;
                (left, *to, *from, if inner < 0.0 { -1.0 } else { 1.0 })
            })
            .min_by(|a, b| a.0.total_cmp(&b.0));
        pairs.extend(nearest.filter(|(left, ..)| *left <= SAME));
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut from: Vec<Option<(usize, f32)>> = vec![None; ratios.len()];
    let mut taken = vec![false; ratios.len()];
    for (_, to, source, sign) in pairs {
        if from[to].is_none() && !taken[source] {
            from[to] = Some((source, sign));
            taken[source] = true;
        }
    }
    // The rest stay where they are, or fill the places left.
    let mut left: Vec<usize> = Vec::new();
    for at in 0..from.len() {
        if from[at].is_none() && !taken[at] {
            from[at] = Some((at, 1.0));
            taken[at] = true;
        }
    }
    left.extend((0..taken.len()).filter(|at| !taken[*at]));
    let mut left = left.into_iter();
    let from = from.into_iter().map(|place| place.or_else(|| Some((left.next()?, 1.0)))).collect::<Option<Vec<_>>>();
    Ok(from.map(|from| Reordering { columns: oriented.residual == Axis::Rows, from }).filter(|order| order.moved() > 0))
}

impl Oriented<'_> {
    /// (Σw², ΣΔw, ΣΔ²) of every other coordinate.
    pub(super) fn other_sums<'m>(&self, moments: &'m Moments) -> Box<dyn Iterator<Item = (f64, f64, f64)> + 'm> {
        match self.residual {
            Axis::Columns => Box::new(moments.rows.iter().map(|sums: &Sums| (sums.ww, sums.dw, sums.dd))),
            Axis::Rows => Box::new(
                moments
                    .columns
                    .ww
                    .iter()
                    .zip(&moments.columns.dw)
                    .zip(&moments.columns.dd)
                    .map(|((ww, dw), dd)| (*ww, *dw, *dd)),
            ),
        }
    }
}
