//! A verdict from a few rows: what a contiguous block of rows of each of some writers tells when the base is at hand.
//!
//! A removed direction changes a writer W (d × n, residual rows) by Δ = -λ r (Wᵀr)ᵀ. A block I of rows of Δ shows the
//! right vector v ∝ Wᵀr in full, and with the base (WWᵀ + εI)⁻¹Wv ∝ r is then known for *all* rows. So every writer
//! gives the directions that its rows' right vectors are solved to; what the writers share is pooled, every direction
//! counting once, however loud; and in the pooled span each writer is asked for the direction of largest c
//! ([`crate::diff::consistency`]), with P = QᵀW over all rows and R = Q_IᵀΔ_I over those seen, chosen on half of the
//! columns and tested on the other half. A removal is in many writers the same direction, and held-out c is high along
//! it; nothing honest that was measured has both.
//!
//! Before that, columns that changed more than a removal can change them are set aside, and a uniform scale is taken
//! off. What the screen would have missed is measured: a removal is planted in the very change that is there, and
//! looked for.
//!
//! Rows divided by their norms (D⁻¹W) show the row-normalised form of the edit; its solution is D times the other's.
//!
//! Everything here is a function of numbers: who fetches which rows, and what is done with the answer, is elsewhere.
//! Three steps: [`look`] at each block, [`pool`] what was seen, [`examine`] each block in it; then [`judge`] all.

mod judge;
mod look;
mod pool;

use faer::Mat;

pub use self::judge::judge;
pub use self::look::{Sight, look};
pub use self::pool::{Examined, Pool, examine, pool};
use crate::diff::factor::Factor;
use crate::diff::spectrum;
use crate::error::Result;
use crate::profile::{ByCoordinates, Coordinates};

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
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Evidence {
    /// c of the direction of largest c in the pooled span, on columns that did not choose it.
    pub consistency: f64,
    /// |cosine| of that direction with the second nearest of the other writers'.
    pub agreement: f64,
    /// c of the best of the block's loudest right vectors by itself: between what is predicted of the rows seen and
    /// what is there. ±1/√rows by chance.
    pub own: f64,
}

/// What one block told.
#[derive(Debug, Clone, PartialEq)]
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
    /// What speaks for a removal.
    pub evidence: ByCoordinates<Evidence>,
    /// λ̂ of the whole direction. Too low where other directions of the pool help to explain the rows.
    pub strength: ByCoordinates<f64>,
    /// Right vectors that are removals by themselves.
    pub removals: ByCoordinates<usize>,
    /// c along the singular component of W that the direction leans on, as a share of c along the direction: 1 when the
    /// edit drops that component.
    pub own_component: ByCoordinates<f64>,
}

/// What the screen makes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScreenDecision {
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
#[derive(Debug, Clone, PartialEq)]
pub struct Screened {
    /// The decision.
    pub decision: ScreenDecision,
    /// Why, in one clause.
    pub because: String,
    /// Where the blocks fit better.
    pub coordinates: Coordinates,
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
    /// Median over fitting blocks of c along W's own component as a share of c: 1 where that was dropped, and where so
    /// many are gone that the rank was reduced.
    pub own_component: f64,
    /// Every block, in the order given.
    pub blocks: Vec<BlockMeasurement>,
}

/// Held-out c, and |cosine| with the second nearest other writer's direction, from which a writer fits a removed
/// direction.
const FITS: Evidence = Evidence { consistency: 0.55, agreement: 0.7, own: 0.8 };

fn through(matrix: &Mat<f64>, vector: &[f64]) -> Vec<f64> {
    (0..matrix.nrows()).map(|i| (0..matrix.ncols()).map(|j| matrix[(i, j)] * vector[j]).sum()).collect()
}

fn column(matrix: &Mat<f64>, at: usize) -> Vec<f64> {
    matrix.col(at).iter().copied().collect()
}

/// A direction that nobody chose, to plant a removal along.
fn probe(width: usize) -> Vec<f64> {
    let signs = spectrum::widen(&spectrum::signs(width, 1, 5));
    signs.col(0).iter().map(|sign| sign / (width as f64).sqrt()).collect()
}

#[cfg(test)]
mod tests;
