//! What is measured: per pair in [`TensorMeasurement`], over the model in the named numbers of [`names::MEASUREMENTS`].
//!
//! Signatures speak of the named numbers only, so a stored [`Profile`] can be judged again without the weights.

pub mod names;

mod coordinates;

use std::collections::BTreeMap;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

pub use self::coordinates::{ByCoordinates, Coordinates};
use self::names::Measurement;
use crate::arch::Role;

/// Blockwise kurtosis below this is an error uniform on a grid (1.8), and not training (3 and more).
pub const GRID_KURTOSIS: f64 = 2.3;

/// How one pair compares before any statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sameness {
    /// Same dtype, same bits.
    Identical,
    /// The candidate is the base rounded to the candidate's dtype, or to a narrower one and back, bit for bit; or
    /// computed again, with each row equal to a few last places of binary32.
    Recast,
    /// The candidate is the base through a known quantiser and back, bit for bit; the scheme stands as its dtype.
    Requantized,
    /// Something else.
    Changed,
}

/// A direction fitted to one writer (or, transposed, to one reader).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Projection {
    /// λ̂: 1 removes the direction, 2 reflects it, below 0 amplifies it.
    pub strength: f64,
    /// Its standard error (heteroscedastic).
    pub stderr: f64,
    /// c = -⟨p,q⟩/(|p||q|) with p = Wᵀr, q = Δᵀr.
    pub consistency: f64,
    /// c for a direction chosen without this data.
    pub cross_fit: f64,
    /// Share of ‖Δ‖² that the removal accounts for.
    pub explained: f64,
    /// Energy left along r over the mean energy per direction left.
    pub quietness: f64,
    /// Largest positive over largest negative eigenvalue of the edit as an operator.
    pub balance: f64,
    /// |cos(r, W v)| with v the edit's right vector.
    pub own_component: f64,
    /// |cos| of the direction with that of the other layers.
    pub agreement: f64,
    /// |cos| with the other writers of its layer, if there are any.
    pub sibling_agreement: Option<f64>,
    /// Directions that fit in this tensor.
    pub directions: u32,
    /// λ along the direction that the other layers share, chosen without this layer; what a writer that does not fit by
    /// itself is credited with.
    pub shared_strength: Option<f64>,
    /// Projection consistency along that direction: nothing of this layer chose it.
    pub shared_consistency: Option<f64>,
    /// Whether it is a removed direction by itself that no other layer and no other writer of its layer agrees with.
    pub alone: bool,
    /// Whether it counts as a removed direction: a removal by itself, and others agree.
    pub fits: bool,
    /// Standard deviation of the factors that rows were scaled by. Kept while the profile is made;
    /// `projection.row_spread` is the model's.
    #[serde(skip)]
    pub row_spread: f64,
}

/// All numbers of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorMeasurement {
    /// The base's tensor name (with expert index where stacked).
    pub name: String,
    /// The part it plays.
    pub role: Role,
    /// Rows and columns as the base stores them.
    pub shape: [u64; 2],
    /// The base's dtype.
    pub base_dtype: String,
    /// The candidate's dtype or scheme.
    pub candidate_dtype: String,
    /// Equality.
    pub sameness: Sameness,
    /// Share of elements whose value changed.
    pub changed_fraction: f64,
    /// Share of elements that were not zero and are now.
    pub zeroed_fraction: f64,
    /// Elements that are not finite in the base and in the candidate.
    pub not_finite: [u64; 2],
    /// ‖Δ‖/‖W‖ (Frobenius).
    pub relative_norm: f64,
    /// max |Δ|.
    pub max_abs: f64,
    /// Cosine of base and candidate.
    pub cosine: f64,
    /// α = ⟨Δ,W⟩/⟨W,W⟩.
    pub scale: f64,
    /// Share of ‖Δ‖² explained by one factor for the matrix, one per row, one per column.
    pub scale_explained: [f64; 3],
    /// Median |norm ratio - 1| of rows and of columns.
    pub norm_drift: [f64; 2],
    /// Share of rows that changed.
    pub changed_rows: f64,
    /// Relative size of the rounding noise that the candidate's dtype alone explains.
    pub rounding: f64,
    /// Mean blockwise kurtosis of Δ.
    pub kurtosis: f64,
    /// Energy shares of the largest singular values of Δ (scale removed), largest first.
    pub spectrum: Vec<f64>,
    /// Participation ratio (Σσ²)²/Σσ⁴ of Δ, estimated.
    pub effective_rank: f64,
    /// Singular values above the noise edge.
    pub above_noise: u32,
    /// How many singular values were computed.
    pub values_known: u32,
    /// Share of ‖Δ‖² in the values above the noise edge.
    pub low_rank_share: f64,
    /// The last value above the noise edge over the first below it: large where a low rank ends, 0 where it is not
    /// known.
    pub cliff: f64,
    /// Share of ‖Δ‖² in the last value computed: what could still be hidden behind the others.
    pub last_share: f64,
    /// Relative size of Δ without them.
    pub noise: f64,
    /// The fit of a removed output direction (writers, embeddings) or input direction (readers, head), if one was made.
    pub projection: Option<Projection>,
}

impl TensorMeasurement {
    /// The row of a pair in which nothing changed, or nothing that has a size; shape and dtypes are still to be told.
    pub fn same(name: String, role: Role, sameness: Sameness) -> Self {
        Self {
            name,
            role,
            shape: [0; 2],
            base_dtype: String::new(),
            candidate_dtype: String::new(),
            sameness,
            changed_fraction: 0.0,
            zeroed_fraction: 0.0,
            not_finite: [0; 2],
            relative_norm: 0.0,
            max_abs: 0.0,
            cosine: 1.0,
            scale: 0.0,
            scale_explained: [0.0; 3],
            norm_drift: [0.0; 2],
            changed_rows: 0.0,
            rounding: 0.0,
            kurtosis: 0.0,
            spectrum: Vec::new(),
            effective_rank: 0.0,
            above_noise: 0,
            values_known: 0,
            low_rank_share: 0.0,
            cliff: 0.0,
            last_share: 0.0,
            noise: 0.0,
            projection: None,
        }
    }
}

/// Everything measured of one pair of checkpoints.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// Named numbers over the model.
    pub model: Numbers,
    /// One row per pair, in the order of the base's names.
    pub tensors: Vec<TensorMeasurement>,
}

/// Named numbers over a model. Only what [`names`] declares can be put in; what an older or newer orthoscope recorded
/// can be read.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Numbers(BTreeMap<String, f64>);

impl Numbers {
    /// Writes a number down.
    pub fn put(&mut self, measurement: Measurement, value: f64) {
        self.0.insert(measurement.name.to_owned(), value);
    }

    /// The number, where it was measured.
    pub fn of(&self, measurement: Measurement) -> Option<f64> {
        self.0.get(measurement.name).copied()
    }

    /// Leaves out what is no number.
    pub fn keep_finite(&mut self) {
        self.0.retain(|_, value| value.is_finite());
    }
}

impl Deref for Numbers {
    type Target = BTreeMap<String, f64>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(String, f64)> for Numbers {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl Profile {
    /// The number over the model, where it was measured.
    pub fn number(&self, measurement: Measurement) -> Option<f64> {
        self.model.of(measurement)
    }
}
