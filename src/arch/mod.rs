//! Which tensors write to the residual stream and which read from it, and how each is stored.
//!
//! Orientation comes from the table of architectures, never from a shape: `o_proj` is often square.

use serde::{Deserialize, Serialize};

/// What a tensor does in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its output is added to the residual stream (attention output, MLP output, an expert's output).
    Writer,
    /// Its input is the residual stream (q, k, v, gate, up and their fusions).
    Reader,
    /// Token embeddings: rows are added to the residual stream first of all.
    Embedding,
    /// The output head: reads the residual stream last of all.
    Head,
    /// A norm gain or bias.
    Norm,
    /// A router of a mixture of experts.
    Router,
    /// A bias of a writer or reader.
    Bias,
    /// Anything else: convolutions, rotary tables, vision towers, scales.
    Other,
}

/// An axis of a stored matrix (of one expert's matrix where experts are stacked).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// The first axis (slow in memory): a PyTorch `Linear` that writes has its output here.
    Rows,
    /// The second axis (fast in memory): a GPT-2 `Conv1D` that writes has its output here, and so has an embedding.
    Columns,
}

/// The part one tensor, or one expert's slice of one, plays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Role {
    /// What it does.
    pub kind: Kind,
    /// The canonical module name: `o_proj` (attention output), `down_proj` (MLP output), `out_proj` (linear attention,
    /// state space or convolution output), `q_proj`, `k_proj`, `v_proj`, `qkv_proj`, `gate_proj`, `up_proj`,
    /// `gate_up_proj`, `embed_tokens`, `lm_head`, `router`, …, whatever the architecture itself calls it.
    pub module: String,
    /// The block it belongs to, counted from 0 as in the name.
    pub layer: Option<u32>,
    /// The expert it belongs to; for stacked experts the index on the stacking axis.
    pub expert: Option<u32>,
    /// Which axis of the stored matrix is the residual stream.
    pub residual: Option<Axis>,
}
