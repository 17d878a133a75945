//! The named numbers of a profile: name, unit, meaning. A number that is not declared here cannot be written into one.

/// A number measured over the whole model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Measurement {
    /// Its name in profiles, signatures and the index.
    pub name: &'static str,
    /// `count`, `share` (0 to 1), `cosine` (-1 to 1), `strength` (λ: 1 removes all), `ratio`.
    pub unit: &'static str,
    /// What it is, in one sentence.
    pub what: &'static str,
}

/// Declares each measurement as a constant, for those who write and read it, and all of them as the list that
/// signatures are held to.
macro_rules! measurements {
    ($($constant:ident = $name:literal, $unit:literal, $what:literal;)*) => {
        $(
            #[doc = $what]
            pub const $constant: Measurement = Measurement { name: $name, unit: $unit, what: $what };
        )*

        /// Every named measurement. Those that do not apply to a pair of checkpoints are absent from its profile; a
        /// clause over an absent measurement does not hold.
        pub static MEASUREMENTS: &[Measurement] = &[$($constant),*];
    };
}

measurements! {
    // Footprint: which parts of the model changed at all.
    TENSORS_CHANGED_SHARE = "tensors.changed_share", "share", "compared tensors that are not bit-identical";
    WRITERS_TOTAL = "writers.total", "count", "matrices that write to the residual stream and were compared";
    WRITERS_CHANGED = "writers.changed", "count", "writers that are not bit-identical";
    WRITERS_CHANGED_SHARE = "writers.changed_share", "share", "writers that are not bit-identical";
    READERS_CHANGED_SHARE = "readers.changed_share", "share", "readers that are not bit-identical";
    EMBEDDINGS_CHANGED_SHARE = "embeddings.changed_share", "share",
        "embeddings and output heads that are not bit-identical";
    NORMS_CHANGED_SHARE = "norms.changed_share", "share", "norms that are not bit-identical";
    ROUTERS_CHANGED_SHARE = "routers.changed_share", "share", "routers that are not bit-identical";
    WRITERS_ERASED = "writers.erased", "count",
        "writers in which two and more coordinates of the residual stream became zero as a whole; they enter no fit";
    LAYERS_TOTAL = "layers.total", "count", "layers with a compared writer";
    LAYERS_CHANGED = "layers.changed", "count", "layers with a changed writer";
    LAYERS_CONTIGUOUS = "layers.contiguous", "share",
        "changed layers inside the longest unbroken run of changed layers";
    // The change itself.
    DELTA_RELATIVE = "delta.relative", "ratio", "median of ‖Δ‖/‖W‖ over changed matrices";
    DELTA_RELATIVE_MAX = "delta.relative_max", "ratio", "largest ‖Δ‖/‖W‖ of a changed matrix";
    DELTA_COSINE = "delta.cosine", "cosine", "median cosine of base and candidate over all compared matrices";
    DELTA_CHANGED_FRACTION = "delta.changed_fraction", "share",
        "median share of elements that changed, over changed matrices";
    DELTA_ZEROED = "delta.zeroed", "share", "median share of elements set to zero, over changed matrices";
    ZEROED_TENSORS = "zeroed.tensors", "count", "matrices of which rows (one in 32 and more) became zero as a whole";
    DELTA_SCALE_EXPLAINED = "delta.scale_explained", "share",
        "median share of ‖Δ‖² that one factor per matrix explains";
    DELTA_ROW_SCALE_EXPLAINED = "delta.row_scale_explained", "share",
        "median share of ‖Δ‖² that one factor per row explains";
    DELTA_COLUMN_SCALE_EXPLAINED = "delta.column_scale_explained", "share",
        "median share of ‖Δ‖² that one factor per column explains";
    // Rank and noise.
    RANK_TOP1 = "rank.top1", "share", "median energy share of the largest singular value of Δ, over changed matrices";
    RANK_TOP3 = "rank.top3", "share", "median energy share of the three largest, over changed matrices";
    RANK_ABOVE_NOISE = "rank.above_noise", "count", "median number of singular values of Δ above the noise edge";
    RANK_ENDS = "rank.ends", "share",
        "changed matrices whose change ends at a low rank: large values, a cliff, and behind it noise alone; of those whose spectrum is known that far";
    RANK_EXPLAINED = "rank.explained", "share", "median share of ‖Δ‖² beyond rounding that those values explain";
    NOISE_RELATIVE = "noise.relative", "ratio", "median relative size of what is left of Δ without its large values";
    NOISE_UNIFORMITY = "noise.uniformity", "ratio", "spread of that size over matrices (standard deviation over mean)";
    NOISE_KURTOSIS = "noise.kurtosis", "ratio",
        "median blockwise kurtosis of Δ: 1.8 for rounding to a grid, 3 for Gaussian noise";
    NOISE_GRID = "noise.grid", "share",
        "changed matrices whose candidate stands on a quantiser's levels, or whose Δ is uniform as rounding to a grid leaves it";
    // Projection of writers: the statistic that decides.
    PROJECTION_TENSORS = "projection.tensors", "count", "writers that fit a removed direction (see docs/detector.md)";
    PROJECTION_LAYERS = "projection.layers", "count", "layers with such a writer";
    PROJECTION_ALONE = "projection.alone", "count",
        "writers that fit a removed direction by themselves, with which no other layer or writer agrees";
    PROJECTION_SHARE = "projection.share", "share", "such writers among the changed ones";
    PROJECTION_SUPPORT = "projection.support", "ratio",
        "0.5 when half of the changed writers fit, or the pooled gap is 3, or three writers fit with c of 0.985 and more; more when more";
    PROJECTION_CONSISTENCY = "projection.consistency", "cosine",
        "median projection consistency c over those writers; over all changed writers when none fits";
    PROJECTION_CONSISTENCY_ALL = "projection.consistency_all", "cosine", "median c over all changed writers";
    PROJECTION_EXPLAINED = "projection.explained", "share",
        "median share of ‖Δ‖² that the removed direction explains, over those writers";
    PROJECTION_STRENGTH = "projection.strength", "strength", "median λ over those writers";
    PROJECTION_STRENGTH_MAX = "projection.strength_max", "strength", "largest λ over those writers";
    PROJECTION_STRENGTH_MIN = "projection.strength_min", "strength", "smallest λ over those writers";
    PROJECTION_QUIETNESS = "projection.quietness", "ratio",
        "median energy left along the direction over the mean energy per direction left: 1 when the removal explains the direction wholly";
    PROJECTION_ROW_SPREAD = "projection.row_spread", "ratio",
        "median over changed writers of the standard deviation of the factors that rows were scaled by; five times that is no removal";
    PROJECTION_ROW_NORMALISED = "projection.row_normalised", "share",
        "1 when rows divided by their norms fit better than raw rows";
    PROJECTION_AGREEMENT = "projection.agreement", "cosine",
        "median |cosine| of a writer's direction with the direction of the other layers";
    PROJECTION_SIBLING_AGREEMENT = "projection.sibling_agreement", "cosine",
        "median |cosine| between writers of one layer";
    PROJECTION_CROSS_FIT = "projection.cross_fit", "cosine", "median c on data that did not choose the direction";
    PROJECTION_BALANCE = "projection.balance", "ratio",
        "median of the largest positive over the largest negative eigenvalue of the edit seen as an operator";
    PROJECTION_OWN_COMPONENT = "projection.own_component", "cosine",
        "median |cosine| of the direction with W times its own right vector: 1 when the edit drops a singular component of W";
    PROJECTION_AXIS_WEIGHT = "projection.axis_weight", "share",
        "largest squared coordinate of the shared direction: 1 when it is one residual channel";
    PROJECTION_CHANNEL = "projection.channel", "share",
        "1 when the direction is one residual channel, and what is left of it off that channel is nothing that writers agree on";
    PROJECTION_CHANNEL_PRUNED = "projection.channel_pruned", "share",
        "1 when that channel is gone wholly from every writer and from the embedding, as pruning leaves it";
    PROJECTION_HINTED = "projection.hinted", "count",
        "writers whose change measures as a removal, those with a c of 0.5 and more that others agree with among them";
    PROJECTION_HINTED_LAYERS = "projection.hinted_layers", "count", "layers with such a writer";
    PROJECTION_OWN_SHARE = "projection.own_share", "share",
        "changed writers that measure as a removal of a singular component of their own";
    PROJECTION_SET_ASIDE = "projection.set_aside", "share",
        "largest share of a writer's columns that changed more than a removal could have changed them, left out of the fit";
    WRITERS_MOVED_COLUMNS = "writers.moved_columns", "count",
        "columns of writers that only moved or changed their sign, put back before anything was measured";
    PROJECTION_DIRECTIONS = "projection.directions", "count", "directions removed together";
    PROJECTION_ROW_NORM_DRIFT = "projection.row_norm_drift", "ratio", "median |row norm ratio - 1| over those writers";
    PROJECTION_COLUMN_NORM_DRIFT = "projection.column_norm_drift", "ratio",
        "median |column norm ratio - 1| over those writers";
    HELD_OUT_TENSORS = "held_out.tensors", "count",
        "writers with c of 0.5 and more along the direction that the other layers share, chosen without their layer";
    HELD_OUT_LAYERS = "held_out.layers", "count", "layers with such a writer";
    HELD_OUT_SHARE = "held_out.share", "share", "such writers among the changed ones";
    HELD_OUT_CONSISTENCY = "held_out.consistency", "cosine", "median c along that direction over all changed writers";
    HELD_OUT_STRENGTH = "held_out.strength", "strength", "median λ along that direction over those writers";
    PROJECTION_POOLED_STRENGTH = "projection.pooled_strength", "strength",
        "λ of the pooled operator over all changed writers";
    PROJECTION_POOLED_GAP = "projection.pooled_gap", "ratio", "its lowest eigenvalue over the next one";
    PROJECTION_DETECTION_LIMIT = "projection.detection_limit", "strength",
        "smallest λ that would have been seen in half of the writers";
    // Writers as an operator that need not be symmetric: present where they are of low rank and most are no removal.
    OPERATOR_WRITERS = "operator.writers", "count",
        "writers, two of eight layers at most, of which it was told what their change reads of the residual stream";
    OPERATOR_COVECTORS = "operator.covectors", "cosine",
        "median over them of |cosine| of what the change reads with the second nearest other layer's, or the layer's other writer's: 1 where one operator was applied to all";
    OPERATOR_STRENGTH = "operator.strength", "strength",
        "median share of what is read that is lost: λ of a removal, less of an oblique one, 0 where it is written elsewhere";
    OPERATOR_CHANNEL = "operator.channel", "share",
        "median of the largest squared coordinate of what is read: 1 when it is one residual channel";
    OPERATOR_INCLUSION = "operator.inclusion", "share",
        "median share of the loudest right vector of a change that lies in the base's row space, of writers half again as wide as the residual stream: 1 for anything done to what is written, width over columns by chance";
    OPERATOR_ISOMETRY = "operator.isometry", "ratio",
        "median of ‖W'ᵀW' - WᵀW‖ over 2‖ΔᵀW‖: 0 when what is written is only turned, 0.5 for a removal";
    OPERATOR_LEFTS = "operator.lefts", "cosine",
        "median |cosine| of the loudest direction of a writer's change with the second nearest other layer's";
    OPERATOR_LEAST_LEANING = "operator.least_leaning", "cosine",
        "smallest c along that direction, of all these writers";
    // The same along the other side and with the other sign.
    ADDITION_TENSORS = "addition.tensors", "count", "writers in which a direction was amplified (λ below zero)";
    ADDITION_LAYERS = "addition.layers", "count", "layers with such a writer";
    ADDITION_CONSISTENCY = "addition.consistency", "cosine", "median -c over those writers";
    READER_PROJECTION_TENSORS = "reader_projection.tensors", "count", "readers that fit a removed input direction";
    READER_PROJECTION_LAYERS = "reader_projection.layers", "count", "layers with such a reader";
    READER_PROJECTION_CONSISTENCY = "reader_projection.consistency", "cosine", "median c over those readers";
    READER_PROJECTION_STRENGTH = "reader_projection.strength", "strength", "median λ over those readers";
    READER_PROJECTION_AGREEMENT = "reader_projection.agreement", "cosine",
        "median |cosine| of their directions with one another";
    WRONG_SIDE_TENSORS = "wrong_side.tensors", "count",
        "writers whose input side, not output side, fits a removed direction";
    WRONG_SIDE_LAYERS = "wrong_side.layers", "count", "layers with such a writer";
    WRONG_SIDE_AGREEMENT = "wrong_side.agreement", "cosine", "median |cosine| of those directions with one another";
    EMBEDDING_STRENGTH = "embedding.strength", "strength", "λ of the shared direction in the embedding";
    EMBEDDING_CONSISTENCY = "embedding.consistency", "cosine", "its projection consistency";
    HEAD_STRENGTH = "head.strength", "strength", "λ of the shared direction in the output head";
    HEAD_CONSISTENCY = "head.consistency", "cosine", "its projection consistency";
    EXPERT_PROJECTION_TENSORS = "expert_projection.tensors", "count", "expert writers that fit a removed direction";
    DRAFT_PROJECTION_TENSORS = "draft_projection.tensors", "count",
        "writers of draft blocks (multi-token prediction) that fit a removed direction, in the stream of their own";
    // A screen of a few rows (see docs/detector.md): present only where no more was read.
    SCREEN_TENSORS = "screen.tensors", "count", "writers of which a block of rows was read";
    SCREEN_CHANGED = "screen.changed", "count", "of them, with a changed element in the block";
    SCREEN_FITTING = "screen.fitting", "count", "of them, fitting a removed direction";
    SCREEN_LAYERS = "screen.layers", "count", "layers with such a writer";
    SCREEN_CONSISTENCY = "screen.consistency", "cosine",
        "median held-out c of the rows over fitting writers, or over all changed ones";
    SCREEN_STRENGTH = "screen.strength", "strength", "median λ over the same; rather too low";
    SCREEN_AGREEMENT = "screen.agreement", "cosine",
        "median over the same of |cosine| with the second nearest writer's direction";
    SCREEN_OWN_COMPONENT = "screen.own_component", "share",
        "median over fitting writers of c along the matrix's own component, over c; 1 for a reduced rank";
    SCREEN_DETECTION_LIMIT = "screen.detection_limit", "strength",
        "smallest λ of a shared direction that the rows would have shown";
    SCREEN_LIMIT_ALONE = "screen.limit_alone", "strength",
        "smallest λ of a direction of one writer that the rows would have shown";
    SCREEN_COLUMNS_ASIDE = "screen.columns_aside", "share",
        "median share of columns that changed more than a removal can change them";
    SCREEN_ROW_NORMALISED = "screen.row_normalised", "share", "1 when rows divided by their norms fit better";
    SCREEN_WRITERS_CHANGED_SHARE = "screen.writers_changed_share", "share",
        "sampled other writers that are not the base's";
    SCREEN_READERS_CHANGED_SHARE = "screen.readers_changed_share", "share", "sampled readers that are not the base's";
    SCREEN_EMBEDDINGS_CHANGED_SHARE = "screen.embeddings_changed_share", "share",
        "sampled embeddings and heads that are not the base's";
    SCREEN_NORMS_CHANGED_SHARE = "screen.norms_changed_share", "share", "sampled norms that are not the base's";
    SCREEN_ROUTERS_CHANGED_SHARE = "screen.routers_changed_share", "share", "sampled routers that are not the base's";
    SCREEN_OTHER_CHANGED_SHARE = "screen.other_changed_share", "share", "other sampled tensors that are not the base's";
    // Whether a quantised candidate is the base rounded and nothing else.
    ROUNDING_TENSORS = "rounding.tensors", "count", "tensors that the candidate stores as a quantiser's codes";
    ROUNDING_WITHIN = "rounding.within", "count",
        "of them, those in which every number is on the level next to the base's, within what its scheme rounds";
    ROUNDING_LOOSE = "rounding.loose", "count",
        "of them, those in which all but a few numbers are, and these within a step, as searches by importance leave it";
    ROUNDING_UNTOLD = "rounding.untold", "count",
        "of them, those whose scheme does not code the nearest level (GPTQ, AWQ), or not numbers one by one";
    ROUNDING_UNACCOUNTED = "rounding.unaccounted", "count",
        "tensors not shown to be the base's own, a cast of it or the base rounded, and those left out";
    // Codes that changed under scales that did not.
    IN_PLACE_WRITERS = "in_place.writers", "count",
        "changed writers in one scheme on both sides whose scales, free to be any number, are the base's, every one";
    IN_PLACE_LAYERS = "in_place.layers", "count", "layers with such a writer";
    IN_PLACE_SHARE = "in_place.share", "share", "such writers among all changed tensors of which that could be asked";
    // Other traces.
    BIAS_ADDED = "bias.added", "count", "biases on writers that the base does not have";
    BIAS_ALIGNMENT = "bias.alignment", "cosine",
        "largest |cosine| of a new or changed writer bias with the shared direction, or with one another";
    STEERING_UNIFORM_RIGHT = "steering.uniform_right", "count",
        "writers whose change is one vector added to every input channel alike";
    ROUTER_ROWS_SCALED = "router.rows_scaled", "count", "router rows that changed length and not direction";
    SPARSE_ROWS = "sparse.rows", "share", "median share of rows that changed, over changed writers";
    SPARSE_OVERLAP = "sparse.overlap", "share",
        "mean overlap (Jaccard) of the sets of changed rows of different writers";
    MERGE_DROP_RATE = "merge.drop_rate", "share",
        "share of unchanged elements when it is the same in every changed matrix";
    CODE_ON_LOAD = "code.on_load", "count",
        "imports that loading the candidate's pickles would run, outside the list that tensors need";
    LAYOUT_IDENTICAL_FILES = "layout.identical_files", "count", "weight files that are the base's, bit for bit";
    LAYOUT_METADATA_DROPPED = "layout.metadata_dropped", "count", "changed files that lost the base's format metadata";
    LAYOUT_LOST_TENSORS = "layout.lost_tensors", "count", "base tensors that the candidate lacks";
    LAYOUT_ADDED_TENSORS = "layout.added_tensors", "count", "candidate tensors that the base lacks";
}
