//! What is measured of a pair before the model is looked at as a whole, and of all pairs together.

use faer::Mat;

use super::consistency::Along;
use super::kernel;
use super::projection::{Fit, Leading, Regression};
use crate::pair::{Pair, Unpaired};
use crate::profile::{ByCoordinates, Sameness};
use crate::tensor::levels::LevelChoice;

/// What the third stage found of one writer, reader, embedding or head.
pub struct Projected {
    /// The fit, where one was made.
    pub sides: ByCoordinates<Option<Fitted>>,
    /// |cos(u, W v)| of the change's own top vectors: 1 for an edit of the other side (u = W v).
    pub transposed: f64,
    /// |mean|·√n of the first right vector: 1 when the change adds one vector to every input channel.
    pub uniform_right: f64,
    /// First right vector (n numbers), for agreement on the other side; kept for writers whose other side fits.
    pub right: Vec<f64>,
    /// The smallest λ that would have been found in this very change: planted in it and looked for. Writers only.
    pub limit: Option<f64>,
    /// The uniform scale that the change carries (weight decay), which is a removal of every direction alike.
    pub uniform: f64,
    /// The loudest pieces of the change, where it is of low rank. Writers only.
    pub leading: Option<Leading>,
}

/// One system of coordinates.
pub struct Fitted {
    /// The regression, long vectors forgotten.
    pub regression: Regression,
    /// QᵀS with S the shared directions: how to express one in the regression's basis.
    pub shared: Mat<f64>,
    /// The fitted direction, d numbers.
    pub direction: Vec<f64>,
    /// Its fit.
    pub fit: Fit,
    /// The lower c of the two halves that did not choose.
    pub cross_fit: f64,
    /// Directions that fit: λ̂ and c of each.
    pub others: Vec<(f64, f64)>,
    /// Largest positive over largest negative eigenvalue.
    pub balance: f64,
}

impl Fitted {
    /// Base and change along a direction given in the shared basis; `None` when the regression does not span it.
    pub fn along_shared(&self, e: &[f64]) -> Option<Along> {
        if self.shared.ncols() != e.len() {
            return None;
        }
        let inside: Vec<f64> = (0..self.shared.nrows())
            .map(|i| e.iter().enumerate().map(|(j, weight)| weight * self.shared[(i, j)]).sum())
            .collect();
        Some(self.regression.along(&inside))
    }
}

/// Everything measured of one pair, before the model is looked at as a whole.
pub struct PairMeasurement<'a> {
    /// The pair.
    pub pair: &'a Pair,
    /// Dtype or scheme of base and candidate.
    pub dtypes: [String; 2],
    /// Equality.
    pub sameness: Sameness,
    /// Sums; `None` when nothing changed.
    pub moments: Option<Change>,
    /// The projection; `None` when nothing changed or the pair does not face the residual stream.
    pub projected: Option<Projected>,
    /// λ by the bounds of a quantiser's levels, for writers where they tell more than regression does.
    pub through_grid: Option<StrengthByBounds>,
    /// Whether its numbers are the base's rounded, where the candidate is in codes.
    pub rounded: Option<Rounded>,
    /// Whether its scales are the base's, where both sides are in one scheme and its scales can be any number.
    pub scales_kept: Option<bool>,
}

/// The numbers of one changed pair that do not depend on other pairs.
pub struct Change {
    /// Rows and columns as stored.
    pub shape: [usize; 2],
    /// Over all elements.
    pub total: kernel::Sums,
    /// Median |norm ratio - 1| of rows and columns.
    pub norm_drift: [f64; 2],
    /// Rows that changed.
    pub changed_rows: Vec<bool>,
    /// Whether the candidate's numbers stand on a quantiser's levels, stored as its codes or not, and the base's do
    /// not.
    pub quantized: bool,
    /// Share of ‖Δ‖² explained by one factor, one per row, one per column.
    pub scale_explained: [f64; 3],
    /// ‖Δ‖² after the scale that was divided out, if one was.
    pub energy: f64,
    /// Largest singular values of that change.
    pub values: Vec<f64>,
    /// Largest share of ‖W‖² in one row and in one column, for the noise edge.
    pub peaks: [f64; 2],
    /// Significand bits of the candidate's dtype.
    pub precision: u32,
    /// Router rows that changed length and not direction.
    pub rescaled_rows: u64,
    /// Δ itself where the pair is a vector (a bias, a norm): its values.
    pub vector: Option<Vec<f64>>,
    /// Columns (rows, where the residual stream lies on the columns) that only moved or changed their sign, undone
    /// before anything else.
    pub moved: usize,
    /// Share of them that changed more than a removal could have changed them.
    pub set_aside: f64,
    /// Share of the residual stream that is all zero in the candidate and not in the base; left out of every fit.
    pub erased: f64,
    /// Rows as stored that are all zero in the candidate and not in the base.
    pub zeroed_rows: u64,
}

/// The outcome of measuring: pairs measured, and those that could not be.
pub struct Measurements<'a> {
    /// In the order of the pairing.
    pub pairs: Vec<PairMeasurement<'a>>,
    /// With reasons.
    pub not_examined: Vec<Unpaired>,
    /// Shared directions, d × k.
    pub shared: ByCoordinates<Mat<f64>>,
    /// Biases on the candidate's writers that the base does not have.
    pub added_biases: Vec<Vec<f64>>,
    /// The writers as an operator, where they were asked.
    pub as_operator: Option<AsOperator>,
    /// Bytes of weights looked at, both sides.
    pub bytes_read: u64,
}

/// λ by bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StrengthByBounds {
    /// λ̂; `None` where the untouched base lies between the bounds as well, so that they do not say which it is.
    pub lambda: Option<f64>,
    /// Half of the range over which the squared distance stays within twice its least: no λ̂ is surer than that.
    pub stderr: f64,
}

/// What the changed writers are as an operator, over those that were asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AsOperator {
    /// Writers whose covectors could be told: of low rank, no narrower than the residual stream.
    pub writers: usize,
    /// Median over them of the |cos| of a covector with the second nearest other layer's, or with the layer's other
    /// writer's.
    pub covectors: f64,
    /// Median of what is lost of the covector's own direction: λ of a removal, λ cos(a, b) of an oblique one, 0 where
    /// what was read is written elsewhere.
    pub strength: f64,
    /// Median of the largest squared coordinate of the covector.
    pub channel: f64,
    /// Median share of the loudest right vector that lies in the row space of W, over writers with room for it not
    /// to; `None` where there are fewer than three.
    pub inclusion: Option<f64>,
    /// Median isometry of all writers asked, see [`super::consistency::Grams::isometry`].
    pub isometry: f64,
    /// Median |cos| of the first left vector with that of the second nearest other layer.
    pub lefts: f64,
    /// The smallest c along the first left vector, of all writers asked.
    pub least_leaning: f64,
}

/// How the numbers of one quantised tensor lie to the base's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounded {
    /// What its scheme codes a number as; `None` where numbers are not coded one by one.
    pub choice: Option<LevelChoice>,
    /// Elements looked at.
    pub looked: u64,
    /// Of them, those whose level is not the nearest to the base's number,
    pub outside: u64,
    /// and those more than a step away.
    pub far: u64,
}
