//! What is measured: per pair in [`TensorMeasurement`], over the model in the named numbers of [`MEASUREMENTS`].
//!
//! Signatures speak of the named numbers only, so a stored [`Profile`] can be judged again without the weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::arch::Role;

/// A number measured over the whole model.
pub struct Measurement {
    /// Its name in profiles, signatures and the index.
    pub name: &'static str,
    /// `count`, `share` (0 to 1), `cosine` (-1 to 1), `strength` (λ: 1 removes all), `ratio`.
    pub unit: &'static str,
    /// What it is, in one sentence.
    pub what: &'static str,
}

/// Blockwise kurtosis below this is an error uniform on a grid (1.8), and not training (3 and more).
pub const GRID_KURTOSIS: f64 = 2.3;

const fn measurement(name: &'static str, unit: &'static str, what: &'static str) -> Measurement {
    Measurement { name, unit, what }
}

/// Every named measurement. Those that do not apply to a pair of checkpoints are absent from its profile; a clause over
/// an absent measurement does not hold.
pub static MEASUREMENTS: &[Measurement] = &[
    // Footprint: which parts of the model changed at all.
    measurement("tensors.changed_share", "share", "compared tensors that are not bit-identical"),
    measurement("writers.total", "count", "matrices that write to the residual stream and were compared"),
    measurement("writers.changed", "count", "writers that are not bit-identical"),
    measurement("writers.changed_share", "share", "writers that are not bit-identical"),
    measurement("readers.changed_share", "share", "readers that are not bit-identical"),
    measurement("embeddings.changed_share", "share", "embeddings and output heads that are not bit-identical"),
    measurement("norms.changed_share", "share", "norms that are not bit-identical"),
    measurement("routers.changed_share", "share", "routers that are not bit-identical"),
    measurement(
        "writers.erased",
        "count",
        "writers in which two and more coordinates of the residual stream became zero as a whole; they enter no fit",
    ),
    measurement("layers.total", "count", "layers with a compared writer"),
    measurement("layers.changed", "count", "layers with a changed writer"),
    measurement("layers.contiguous", "share", "changed layers inside the longest unbroken run of changed layers"),
    // The change itself.
    measurement("delta.relative", "ratio", "median of ‖Δ‖/‖W‖ over changed matrices"),
    measurement("delta.relative_max", "ratio", "largest ‖Δ‖/‖W‖ of a changed matrix"),
    measurement("delta.cosine", "cosine", "median cosine of base and candidate over all compared matrices"),
    measurement("delta.changed_fraction", "share", "median share of elements that changed, over changed matrices"),
    measurement("delta.zeroed", "share", "median share of elements set to zero, over changed matrices"),
    measurement("zeroed.tensors", "count", "matrices of which rows (one in 32 and more) became zero as a whole"),
    measurement("delta.scale_explained", "share", "median share of ‖Δ‖² that one factor per matrix explains"),
    measurement("delta.row_scale_explained", "share", "median share of ‖Δ‖² that one factor per row explains"),
    measurement("delta.column_scale_explained", "share", "median share of ‖Δ‖² that one factor per column explains"),
    // Rank and noise.
    measurement("rank.top1", "share", "median energy share of the largest singular value of Δ, over changed matrices"),
    measurement("rank.top3", "share", "median energy share of the three largest, over changed matrices"),
    measurement("rank.above_noise", "count", "median number of singular values of Δ above the noise edge"),
    measurement(
        "rank.ends",
        "share",
        "changed matrices whose change ends at a low rank: large values, a cliff, and behind it noise alone; of those whose spectrum is known that far",
    ),
    measurement("rank.explained", "share", "median share of ‖Δ‖² beyond rounding that those values explain"),
    measurement("noise.relative", "ratio", "median relative size of what is left of Δ without its large values"),
    measurement("noise.uniformity", "ratio", "spread of that size over matrices (standard deviation over mean)"),
    measurement(
        "noise.kurtosis",
        "ratio",
        "median blockwise kurtosis of Δ: 1.8 for rounding to a grid, 3 for Gaussian noise",
    ),
    measurement(
        "noise.grid",
        "share",
        "changed matrices whose candidate stands on a quantiser's levels, or whose Δ is uniform as rounding to a grid leaves it",
    ),
    // Projection of writers: the statistic that decides.
    measurement("projection.tensors", "count", "writers that fit a removed direction (see docs/detector.md)"),
    measurement("projection.layers", "count", "layers with such a writer"),
    measurement(
        "projection.alone",
        "count",
        "writers that fit a removed direction by themselves, with which no other layer or writer agrees",
    ),
    measurement("projection.share", "share", "such writers among the changed ones"),
    measurement(
        "projection.support",
        "ratio",
        "0.5 when half of the changed writers fit, or the pooled gap is 3, or three writers fit with c of 0.985 and more; more when more",
    ),
    measurement(
        "projection.consistency",
        "cosine",
        "median projection consistency c over those writers; over all changed writers when none fits",
    ),
    measurement("projection.consistency_all", "cosine", "median c over all changed writers"),
    measurement(
        "projection.explained",
        "share",
        "median share of ‖Δ‖² that the removed direction explains, over those writers",
    ),
    measurement("projection.strength", "strength", "median λ over those writers"),
    measurement("projection.strength_max", "strength", "largest λ over those writers"),
    measurement("projection.strength_min", "strength", "smallest λ over those writers"),
    measurement(
        "projection.quietness",
        "ratio",
        "median energy left along the direction over the mean energy per direction left: 1 when the removal explains the direction wholly",
    ),
    measurement(
        "projection.row_spread",
        "ratio",
        "median over changed writers of the standard deviation of the factors that rows were scaled by; five times that is no removal",
    ),
    measurement("projection.row_normalised", "share", "1 when rows divided by their norms fit better than raw rows"),
    measurement(
        "projection.agreement",
        "cosine",
        "median |cosine| of a writer's direction with the direction of the other layers",
    ),
    measurement("projection.sibling_agreement", "cosine", "median |cosine| between writers of one layer"),
    measurement("projection.cross_fit", "cosine", "median c on data that did not choose the direction"),
    measurement(
        "projection.balance",
        "ratio",
        "median of the largest positive over the largest negative eigenvalue of the edit seen as an operator",
    ),
    measurement(
        "projection.own_component",
        "cosine",
        "median |cosine| of the direction with W times its own right vector: 1 when the edit drops a singular component of W",
    ),
    measurement(
        "projection.axis_weight",
        "share",
        "largest squared coordinate of the shared direction: 1 when it is one residual channel",
    ),
    measurement(
        "projection.channel",
        "share",
        "1 when the direction is one residual channel, and what is left of it off that channel is nothing that writers agree on",
    ),
    measurement(
        "projection.channel_pruned",
        "share",
        "1 when that channel is gone wholly from every writer and from the embedding, as pruning leaves it",
    ),
    measurement(
        "projection.hinted",
        "count",
        "writers whose change measures as a removal, those with a c of 0.5 and more that others agree with among them",
    ),
    measurement("projection.hinted_layers", "count", "layers with such a writer"),
    measurement(
        "projection.own_share",
        "share",
        "changed writers that measure as a removal of a singular component of their own",
    ),
    measurement(
        "projection.set_aside",
        "share",
        "largest share of a writer's columns that changed more than a removal could have changed them, left out of the fit",
    ),
    measurement(
        "writers.moved_columns",
        "count",
        "columns of writers that only moved or changed their sign, put back before anything was measured",
    ),
    measurement("projection.directions", "count", "directions removed together"),
    measurement("projection.row_norm_drift", "ratio", "median |row norm ratio - 1| over those writers"),
    measurement("projection.column_norm_drift", "ratio", "median |column norm ratio - 1| over those writers"),
    measurement(
        "held_out.tensors",
        "count",
        "writers with c of 0.5 and more along the direction that the other layers share, chosen without their layer",
    ),
    measurement("held_out.layers", "count", "layers with such a writer"),
    measurement("held_out.share", "share", "such writers among the changed ones"),
    measurement("held_out.consistency", "cosine", "median c along that direction over all changed writers"),
    measurement("held_out.strength", "strength", "median λ along that direction over those writers"),
    measurement("projection.pooled_strength", "strength", "λ of the pooled operator over all changed writers"),
    measurement("projection.pooled_gap", "ratio", "its lowest eigenvalue over the next one"),
    measurement(
        "projection.detection_limit",
        "strength",
        "smallest λ that would have been seen in half of the writers",
    ),
    // The same along the other side and with the other sign.
    measurement("addition.tensors", "count", "writers in which a direction was amplified (λ below zero)"),
    measurement("addition.layers", "count", "layers with such a writer"),
    measurement("addition.consistency", "cosine", "median -c over those writers"),
    measurement("reader_projection.tensors", "count", "readers that fit a removed input direction"),
    measurement("reader_projection.layers", "count", "layers with such a reader"),
    measurement("reader_projection.consistency", "cosine", "median c over those readers"),
    measurement("reader_projection.strength", "strength", "median λ over those readers"),
    measurement("reader_projection.agreement", "cosine", "median |cosine| of their directions with one another"),
    measurement("wrong_side.tensors", "count", "writers whose input side, not output side, fits a removed direction"),
    measurement("wrong_side.layers", "count", "layers with such a writer"),
    measurement("wrong_side.agreement", "cosine", "median |cosine| of those directions with one another"),
    measurement("embedding.strength", "strength", "λ of the shared direction in the embedding"),
    measurement("embedding.consistency", "cosine", "its projection consistency"),
    measurement("head.strength", "strength", "λ of the shared direction in the output head"),
    measurement("head.consistency", "cosine", "its projection consistency"),
    measurement("expert_projection.tensors", "count", "expert writers that fit a removed direction"),
    // A screen of a few rows (see docs/detector.md): present only where no more was read.
    measurement("screen.tensors", "count", "writers of which a block of rows was read"),
    measurement("screen.changed", "count", "of them, with a changed element in the block"),
    measurement("screen.fitting", "count", "of them, fitting a removed direction"),
    measurement("screen.layers", "count", "layers with such a writer"),
    measurement(
        "screen.consistency",
        "cosine",
        "median held-out c of the rows over fitting writers, or over all changed ones",
    ),
    measurement("screen.strength", "strength", "median λ over the same; rather too low"),
    measurement(
        "screen.agreement",
        "cosine",
        "median over the same of |cosine| with the second nearest writer's direction",
    ),
    measurement(
        "screen.own_component",
        "share",
        "median over fitting writers of c along the matrix's own component, over c; 1 for a reduced rank",
    ),
    measurement(
        "screen.detection_limit",
        "strength",
        "smallest λ of a shared direction that the rows would have shown",
    ),
    measurement(
        "screen.limit_alone",
        "strength",
        "smallest λ of a direction of one writer that the rows would have shown",
    ),
    measurement(
        "screen.columns_aside",
        "share",
        "median share of columns that changed more than a removal can change them",
    ),
    measurement("screen.row_normalised", "share", "1 when rows divided by their norms fit better"),
    measurement("screen.writers_changed_share", "share", "sampled other writers that are not the base's"),
    measurement("screen.readers_changed_share", "share", "sampled readers that are not the base's"),
    measurement("screen.embeddings_changed_share", "share", "sampled embeddings and heads that are not the base's"),
    measurement("screen.norms_changed_share", "share", "sampled norms that are not the base's"),
    measurement("screen.routers_changed_share", "share", "sampled routers that are not the base's"),
    measurement("screen.other_changed_share", "share", "other sampled tensors that are not the base's"),
    // Other traces.
    measurement("bias.added", "count", "biases on writers that the base does not have"),
    measurement(
        "bias.alignment",
        "cosine",
        "largest |cosine| of a new or changed writer bias with the shared direction, or with one another",
    ),
    measurement(
        "steering.uniform_right",
        "count",
        "writers whose change is one vector added to every input channel alike",
    ),
    measurement("router.rows_scaled", "count", "router rows that changed length and not direction"),
    measurement("sparse.rows", "share", "median share of rows that changed, over changed writers"),
    measurement("sparse.overlap", "share", "mean overlap (Jaccard) of the sets of changed rows of different writers"),
    measurement("merge.drop_rate", "share", "share of unchanged elements when it is the same in every changed matrix"),
    measurement(
        "code.on_load",
        "count",
        "imports that loading the candidate's pickles would run, outside the list that tensors need",
    ),
    measurement("layout.identical_files", "count", "weight files that are the base's, bit for bit"),
    measurement("layout.metadata_dropped", "count", "changed files that lost the base's format metadata"),
    measurement("layout.lost_tensors", "count", "base tensors that the candidate lacks"),
    measurement("layout.added_tensors", "count", "candidate tensors that the base lacks"),
];

/// How one pair compares before any statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sameness {
    /// Same dtype, same bits.
    Identical,
    /// The candidate is the base rounded to the candidate's dtype, or to a narrower one and back, bit for bit; or computed again, with each row
    /// equal to a few last places of binary32.
    Recast,
    /// The candidate is the base through a known quantiser and back, bit for bit; the scheme stands as its dtype.
    Requantized,
    /// Something else.
    Changed,
}

/// A direction fitted to one writer (or, transposed, to one reader).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Standard deviation of the factors that rows were scaled by. Kept while the profile is made; `projection.row_spread` is the model's.
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
    /// The last value above the noise edge over the first below it: large where a low rank ends, 0 where it is not known.
    pub cliff: f64,
    /// Share of ‖Δ‖² in the last value computed: what could still be hidden behind the others.
    pub last_share: f64,
    /// Relative size of Δ without them.
    pub noise: f64,
    /// The fit of a removed output direction (writers, embeddings) or input direction (readers, head), if one was made.
    pub projection: Option<Projection>,
}

/// Everything measured of one pair of checkpoints.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// Named numbers over the model.
    pub model: BTreeMap<String, f64>,
    /// One row per pair, in the order of the base's names.
    pub tensors: Vec<TensorMeasurement>,
}
