//! Which module path means which part: groups of rules that the architectures of the table are put together from.
//!
//! A rule names the path inside a block (or, with a leading `^`, at the model's top), the slot it fills and what it
//! does. The slot is the same in every naming scheme, so that `attention.wo`, `attn.c_proj` and `attn_output` meet; its
//! last segment is the canonical module name. What is stored first axis first is not said here: a writer's output and a
//! reader's input are the residual stream, and the architecture says whether matrices are stored output or input first.

use super::Kind;

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Module path inside the block; `^` in front for the model's top.
    pub path: &'static str,
    /// The part it plays, the same in every naming scheme.
    pub slot: &'static str,
    /// What it does.
    pub kind: Kind,
}

const fn writer(path: &'static str, slot: &'static str) -> Rule {
    Rule { path, slot, kind: Kind::Writer }
}
const fn reader(path: &'static str, slot: &'static str) -> Rule {
    Rule { path, slot, kind: Kind::Reader }
}
const fn norm(path: &'static str, slot: &'static str) -> Rule {
    Rule { path, slot, kind: Kind::Norm }
}
const fn router(path: &'static str, slot: &'static str) -> Rule {
    Rule { path, slot, kind: Kind::Router }
}
const fn other(path: &'static str, slot: &'static str) -> Rule {
    Rule { path, slot, kind: Kind::Other }
}

/// Embedding, head and last norm, in every spelling met.
pub const TOP: &[Rule] = &[
    Rule { path: "^embed_tokens", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^tok_embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^embed", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^wte", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^embd.wte", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^embed_in", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^word_embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^embedding.word_embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^embedding", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^token_embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^in_out_embed", slot: "embed_tokens", kind: Kind::Embedding },
    other("^wpe", "embed_positions"),
    other("^embed_positions", "embed_positions"),
    Rule { path: "^lm_head", slot: "lm_head", kind: Kind::Head },
    Rule { path: "^lm_head.linear", slot: "lm_head", kind: Kind::Head },
    Rule { path: "^embed_out", slot: "lm_head", kind: Kind::Head },
    Rule { path: "^output", slot: "lm_head", kind: Kind::Head },
    Rule { path: "^output_layer", slot: "lm_head", kind: Kind::Head },
    Rule { path: "^head", slot: "lm_head", kind: Kind::Head },
    norm("^norm", "final_norm"),
    norm("^norm_f", "final_norm"),
    norm("^ln_f", "final_norm"),
    norm("^final_layernorm", "final_norm"),
    norm("^final_layer_norm", "final_norm"),
    norm("^lm_head.ln", "final_norm"),
    norm("^word_embeddings_layernorm", "embedding_norm"),
    norm("^embedding_norm", "embedding_norm"),
    other("^embed_tokens_per_layer", "embed_tokens_per_layer"),
    reader("^per_layer_model_projection", "per_layer_model_projection"),
    norm("^per_layer_projection_norm", "per_layer_projection_norm"),
];

/// Attention of Llama and everything that follows its names.
pub const ATTENTION: &[Rule] = &[
    reader("self_attn.q_proj", "q_proj"),
    reader("self_attn.k_proj", "k_proj"),
    reader("self_attn.v_proj", "v_proj"),
    reader("self_attn.qkv_proj", "qkv_proj"),
    reader("self_attn.W_pack", "qkv_proj"),
    reader("self_attn.query_key_value", "qkv_proj"),
    writer("self_attn.o_proj", "o_proj"),
    writer("self_attn.out_proj", "o_proj"),
    writer("self_attn.dense", "o_proj"),
    reader("self_attn.g_proj", "attention_gate"),
    reader("self_attn.gate_proj", "attention_gate"),
    norm("self_attn.q_norm", "q_norm"),
    norm("self_attn.k_norm", "k_norm"),
    norm("self_attn.v_norm", "v_norm"),
    norm("self_attn.q_layernorm", "q_norm"),
    norm("self_attn.k_layernorm", "k_norm"),
    norm("self_attn.query_layernorm", "q_norm"),
    norm("self_attn.key_layernorm", "k_norm"),
    other("self_attn.sinks", "attention_sinks"),
    other("self_attn.rotary_emb.inv_freq", "rotary_frequencies"),
];

/// Multi-head latent attention (DeepSeek V2 and later, Mistral Large 3, Kimi, MiniCPM3).
pub const LATENT_ATTENTION: &[Rule] = &[
    reader("self_attn.q_a_proj", "q_a_proj"),
    norm("self_attn.q_a_layernorm", "q_a_norm"),
    other("self_attn.q_b_proj", "q_b_proj"),
    reader("self_attn.kv_a_proj_with_mqa", "kv_a_proj"),
    norm("self_attn.kv_a_layernorm", "kv_a_norm"),
    other("self_attn.kv_b_proj", "kv_b_proj"),
    other("self_attn.k_b_proj", "k_b_proj"),
    other("self_attn.v_b_proj", "v_b_proj"),
    other("self_attn.o_a_proj", "o_a_proj"),
    writer("self_attn.o_b_proj", "o_proj"),
    other("self_attn.indexer.wq_b", "indexer.wq_b"),
    reader("self_attn.indexer.wk", "indexer.wk"),
    norm("self_attn.indexer.k_norm", "indexer.k_norm"),
    reader("self_attn.indexer.weights_proj", "indexer.weights_proj"),
    // DeepSeek's own names.
    reader("attn.wq_a", "q_a_proj"),
    other("attn.wq_b", "q_b_proj"),
    reader("attn.wq", "q_proj"),
    reader("attn.wkv_a", "kv_a_proj"),
    other("attn.wkv_b", "kv_b_proj"),
    reader("attn.wkv", "kv_a_proj"),
    norm("attn.q_norm", "q_a_norm"),
    norm("attn.kv_norm", "kv_a_norm"),
    other("attn.wo_a", "o_a_proj"),
    writer("attn.wo_b", "o_proj"),
    writer("attn.wo", "o_proj"),
    reader("ffn.w1", "gate_proj"),
    writer("ffn.w2", "down_proj"),
    reader("ffn.w3", "up_proj"),
    reader("ffn.experts.w1", "gate_proj"),
    writer("ffn.experts.w2", "down_proj"),
    reader("ffn.experts.w3", "up_proj"),
    reader("ffn.shared_experts.w1", "shared.gate_proj"),
    writer("ffn.shared_experts.w2", "shared.down_proj"),
    reader("ffn.shared_experts.w3", "shared.up_proj"),
    router("ffn.gate", "router"),
    norm("attn_norm", "pre_attention_norm"),
    norm("ffn_norm", "pre_mlp_norm"),
];

/// The gated MLP of Llama, and two-matrix ones of the same shell.
pub const MLP: &[Rule] = &[
    reader("mlp.gate_proj", "gate_proj"),
    reader("mlp.up_proj", "up_proj"),
    reader("mlp.gate_up_proj", "gate_up_proj"),
    writer("mlp.down_proj", "down_proj"),
    reader("mlp.fc1", "up_proj"),
    writer("mlp.fc2", "down_proj"),
    reader("mlp.c_fc", "up_proj"),
    writer("mlp.c_proj", "down_proj"),
    reader("mlp.dense_h_to_4h", "up_proj"),
    writer("mlp.dense_4h_to_h", "down_proj"),
    reader("feed_forward.gate_proj", "gate_proj"),
    reader("feed_forward.up_proj", "up_proj"),
    writer("feed_forward.down_proj", "down_proj"),
    reader("feed_forward.w1", "gate_proj"),
    writer("feed_forward.w2", "down_proj"),
    reader("feed_forward.w3", "up_proj"),
    reader("residual_mlp.w1", "residual.gate_proj"),
    writer("residual_mlp.w2", "residual.down_proj"),
    reader("residual_mlp.w3", "residual.up_proj"),
];

/// Mixtures of experts, per expert or stacked (the expert number is not part of the path).
pub const EXPERTS: &[Rule] = &[
    router("mlp.gate", "router"),
    router("mlp.router", "router"),
    router("mlp.router.gate", "router"),
    router("mlp.gate.wg", "router"),
    other("mlp.gate.e_score_correction_bias", "router_correction"),
    other("mlp.e_score_correction_bias", "router_correction"),
    reader("mlp.experts.gate_proj", "gate_proj"),
    reader("mlp.experts.up_proj", "up_proj"),
    reader("mlp.experts.gate_up_proj", "gate_up_proj"),
    writer("mlp.experts.down_proj", "down_proj"),
    reader("mlp.experts.w1", "gate_proj"),
    writer("mlp.experts.w2", "down_proj"),
    reader("mlp.experts.w3", "up_proj"),
    reader("mlp.shared_expert.gate_proj", "shared.gate_proj"),
    reader("mlp.shared_expert.up_proj", "shared.up_proj"),
    writer("mlp.shared_expert.down_proj", "shared.down_proj"),
    router("mlp.shared_expert_gate", "shared_router"),
    reader("mlp.shared_experts.gate_proj", "shared.gate_proj"),
    reader("mlp.shared_experts.up_proj", "shared.up_proj"),
    writer("mlp.shared_experts.down_proj", "shared.down_proj"),
    reader("mlp.shared_mlp.gate_proj", "shared.gate_proj"),
    reader("mlp.shared_mlp.up_proj", "shared.up_proj"),
    writer("mlp.shared_mlp.down_proj", "shared.down_proj"),
    router("block_sparse_moe.gate", "router"),
    router("block_sparse_moe.router.layer", "router"),
    other("block_sparse_moe.e_score_correction_bias", "router_correction"),
    reader("block_sparse_moe.experts.w1", "gate_proj"),
    writer("block_sparse_moe.experts.w2", "down_proj"),
    reader("block_sparse_moe.experts.w3", "up_proj"),
    reader("block_sparse_moe.experts.gate_up_proj", "gate_up_proj"),
    writer("block_sparse_moe.experts.down_proj", "down_proj"),
    reader("block_sparse_moe.shared_experts.gate_proj", "shared.gate_proj"),
    reader("block_sparse_moe.shared_experts.up_proj", "shared.up_proj"),
    writer("block_sparse_moe.shared_experts.down_proj", "shared.down_proj"),
    router("feed_forward.router", "router"),
    router("feed_forward.gate", "router"),
    other("feed_forward.expert_bias", "router_correction"),
    reader("feed_forward.experts.gate_up_proj", "gate_up_proj"),
    reader("feed_forward.experts.gate_proj", "gate_proj"),
    reader("feed_forward.experts.up_proj", "up_proj"),
    writer("feed_forward.experts.down_proj", "down_proj"),
    reader("feed_forward.experts.w1", "gate_proj"),
    writer("feed_forward.experts.w2", "down_proj"),
    reader("feed_forward.experts.w3", "up_proj"),
    reader("feed_forward.shared_expert.gate_proj", "shared.gate_proj"),
    reader("feed_forward.shared_expert.up_proj", "shared.up_proj"),
    writer("feed_forward.shared_expert.down_proj", "shared.down_proj"),
];

/// IBM's stacks: `input_linear` holds gate and up, `output_linear` writes.
pub const GRANITE: &[Rule] = &[
    reader("block_sparse_moe.input_linear", "gate_up_proj"),
    writer("block_sparse_moe.output_linear", "down_proj"),
    reader("shared_mlp.input_linear", "shared.gate_up_proj"),
    writer("shared_mlp.output_linear", "shared.down_proj"),
    router("block_sparse_moe.router.layer", "router"),
];

/// Linear attention, state spaces and short convolutions.
pub const MIXERS: &[Rule] = &[
    reader("linear_attn.in_proj_qkvz", "linear.in_proj_qkvz"),
    reader("linear_attn.in_proj_ba", "linear.in_proj_ba"),
    reader("linear_attn.in_proj_qkv", "linear.in_proj_qkv"),
    reader("linear_attn.in_proj_z", "linear.in_proj_z"),
    reader("linear_attn.in_proj_a", "linear.in_proj_a"),
    reader("linear_attn.in_proj_b", "linear.in_proj_b"),
    writer("linear_attn.out_proj", "out_proj"),
    other("linear_attn.conv1d", "linear.conv1d"),
    norm("linear_attn.norm", "linear.norm"),
    other("linear_attn.A_log", "linear.A_log"),
    other("linear_attn.dt_bias", "linear.dt_bias"),
    reader("mamba.in_proj", "ssm.in_proj"),
    writer("mamba.out_proj", "out_proj"),
    other("mamba.x_proj", "ssm.x_proj"),
    other("mamba.dt_proj", "ssm.dt_proj"),
    other("mamba.dt_bias", "ssm.dt_bias"),
    other("mamba.conv1d", "ssm.conv1d"),
    other("mamba.A_log", "ssm.A_log"),
    other("mamba.D", "ssm.D"),
    norm("mamba.norm", "ssm.norm"),
    norm("mamba.dt_layernorm", "ssm.dt_norm"),
    norm("mamba.b_layernorm", "ssm.b_norm"),
    norm("mamba.c_layernorm", "ssm.c_norm"),
    reader("mixer.in_proj", "ssm.in_proj"),
    writer("mixer.out_proj", "out_proj"),
    other("mixer.x_proj", "ssm.x_proj"),
    other("mixer.dt_proj", "ssm.dt_proj"),
    other("mixer.dt_bias", "ssm.dt_bias"),
    other("mixer.conv1d", "ssm.conv1d"),
    other("mixer.A_log", "ssm.A_log"),
    other("mixer.D", "ssm.D"),
    norm("mixer.norm", "ssm.norm"),
    reader("conv.in_proj", "conv.in_proj"),
    writer("conv.out_proj", "out_proj"),
    other("conv.conv", "conv.conv"),
];

/// Norms where the second norm of a block stands before the MLP.
pub const NORMS: &[Rule] = &[
    norm("input_layernorm", "pre_attention_norm"),
    norm("post_attention_layernorm", "pre_mlp_norm"),
    norm("pre_feedforward_layernorm", "pre_mlp_norm"),
    norm("post_feedforward_layernorm", "post_mlp_norm"),
    norm("pre_ff_layernorm", "pre_mlp_norm"),
    norm("attention_norm", "pre_attention_norm"),
    norm("operator_norm", "pre_attention_norm"),
    norm("ffn_norm", "pre_mlp_norm"),
    norm("ln_1", "pre_attention_norm"),
    norm("ln_2", "pre_mlp_norm"),
    norm("norm_1", "pre_attention_norm"),
    norm("norm_2", "pre_mlp_norm"),
    norm("norm", "pre_attention_norm"),
];

/// Norms where `post_attention_layernorm` stands after attention (Gemma 2 and later, OLMo 2, GLM-4-0414).
pub const SANDWICH_NORMS: &[Rule] = &[
    norm("post_attention_layernorm", "post_attention_norm"),
    norm("post_self_attn_layernorm", "post_attention_norm"),
    norm("pre_feedforward_layernorm", "pre_mlp_norm"),
    norm("post_feedforward_layernorm", "post_mlp_norm"),
    norm("post_mlp_layernorm", "post_mlp_norm"),
];

/// GLM-4-0414 keeps Llama's meaning of `post_attention_layernorm` beside its own two norms.
pub const GLM4_NORMS: &[Rule] = &[
    norm("post_attention_layernorm", "pre_mlp_norm"),
    norm("post_self_attn_layernorm", "post_attention_norm"),
    norm("post_mlp_layernorm", "post_mlp_norm"),
];

/// Gemma 3n and 4: per-layer inputs, AltUp, LAuReL, and the second norms of the mixture.
///
/// AltUp's projections map copies of the residual stream to one another, so both their axes are residual; they are
/// neither writers nor readers.
pub const GEMMA_EXTRAS: &[Rule] = &[
    reader("per_layer_input_gate", "per_layer_input_gate"),
    writer("per_layer_projection", "per_layer_projection"),
    norm("post_per_layer_input_norm", "post_per_layer_input_norm"),
    other("altup.correction_coefs", "altup.correction_coefs"),
    other("altup.correct_output_scale", "altup.correct_output_scale"),
    other("altup.prediction_coefs", "altup.prediction_coefs"),
    router("altup.modality_router", "altup.modality_router"),
    norm("altup.router_norm", "altup.router_norm"),
    reader("laurel.linear_left", "laurel.linear_left"),
    writer("laurel.linear_right", "laurel.linear_right"),
    norm("laurel.post_laurel_norm", "laurel.post_norm"),
    norm("pre_feedforward_layernorm_2", "pre_mlp_norm_2"),
    norm("post_feedforward_layernorm_1", "post_mlp_norm_1"),
    norm("post_feedforward_layernorm_2", "post_mlp_norm_2"),
    router("router.proj", "router"),
    other("router.scale", "router.scale"),
    other("router.per_expert_scale", "router.per_expert_scale"),
    other("layer_scalar", "layer_scalar"),
    // Gemma 4's experts stand beside its dense MLP, so they have a slot of their own.
    reader("experts.gate_up_proj", "experts.gate_up_proj"),
    writer("experts.down_proj", "experts.down_proj"),
    reader("moe.gate_up_proj", "experts.gate_up_proj"),
    writer("moe.down_proj", "experts.down_proj"),
    other("moe.per_expert_scale", "router.per_expert_scale"),
];

/// Names of GPT-2, GPT-J, Bloom, Falcon, GPT-NeoX, MPT, OPT, Phi, ChatGLM, EXAONE.
pub const CLASSIC: &[Rule] = &[
    reader("attn.c_attn", "qkv_proj"),
    writer("attn.c_proj", "o_proj"),
    reader("attn.q_proj", "q_proj"),
    reader("attn.k_proj", "k_proj"),
    reader("attn.v_proj", "v_proj"),
    writer("attn.out_proj", "o_proj"),
    reader("attn.Wqkv", "qkv_proj"),
    reader("mlp.fc_in", "up_proj"),
    writer("mlp.fc_out", "down_proj"),
    reader("ffn.up_proj", "up_proj"),
    writer("ffn.down_proj", "down_proj"),
    reader("attention.query_key_value", "qkv_proj"),
    writer("attention.dense", "o_proj"),
    reader("self_attention.query_key_value", "qkv_proj"),
    writer("self_attention.dense", "o_proj"),
    reader("fc1", "up_proj"),
    writer("fc2", "down_proj"),
    reader("attn.attention.q_proj", "q_proj"),
    reader("attn.attention.k_proj", "k_proj"),
    reader("attn.attention.v_proj", "v_proj"),
    writer("attn.attention.out_proj", "o_proj"),
    reader("mlp.c_fc_0", "gate_proj"),
    reader("mlp.c_fc_1", "up_proj"),
    other("attn.bias", "causal_mask"),
    other("attn.masked_bias", "causal_mask_value"),
    other("attention.bias", "causal_mask"),
    other("attention.masked_bias", "causal_mask_value"),
    other("attention.rotary_emb.inv_freq", "rotary_frequencies"),
    norm("self_attn_layer_norm", "pre_attention_norm"),
    norm("final_layer_norm", "pre_mlp_norm"),
    norm("ln", "pre_attention_norm"),
];

/// Phi's first names, where the mixer is attention.
pub const PHI_MIXER: &[Rule] = &[reader("mixer.Wqkv", "qkv_proj"), writer("mixer.out_proj", "o_proj")];

/// Falcon with two norms before its parallel halves; GGUF calls that of the MLP the first.
pub const FALCON_NORMS: &[Rule] = &[norm("ln_mlp", "pre_attention_norm"), norm("ln_attn", "pre_attention_norm_2")];

/// Qwen 1: `w1` is the up projection and `w2` the gate.
pub const QWEN1_MLP: &[Rule] = &[reader("mlp.w1", "up_proj"), reader("mlp.w2", "gate_proj")];

/// Names of Meta's and Mistral's consolidated files, and of InternLM 2.
pub const META: &[Rule] = &[
    reader("attention.wq", "q_proj"),
    reader("attention.wk", "k_proj"),
    reader("attention.wv", "v_proj"),
    reader("attention.wqkv", "qkv_proj"),
    writer("attention.wo", "o_proj"),
    norm("attention.q_norm", "q_norm"),
    norm("attention.k_norm", "k_norm"),
    reader("attention.wq_a", "q_a_proj"),
    other("attention.wq_b", "q_b_proj"),
    norm("attention.q_a_norm", "q_a_norm"),
    reader("attention.wkv_a_with_mqa", "kv_a_proj"),
    norm("attention.kv_a_norm", "kv_a_norm"),
    other("attention.wkv_b", "kv_b_proj"),
    reader("experts.w1", "gate_proj"),
    writer("experts.w2", "down_proj"),
    reader("experts.w3", "up_proj"),
    reader("shared_experts.w1", "shared.gate_proj"),
    writer("shared_experts.w2", "shared.down_proj"),
    reader("shared_experts.w3", "shared.up_proj"),
    router("gate", "router"),
];

/// Nemotron-H: every block is one mixer, its output always added to the stream.
pub const NEMOTRON_H: &[Rule] = &[
    reader("mixer.q_proj", "q_proj"),
    reader("mixer.k_proj", "k_proj"),
    reader("mixer.v_proj", "v_proj"),
    writer("mixer.o_proj", "o_proj"),
    reader("mixer.up_proj", "up_proj"),
    writer("mixer.down_proj", "down_proj"),
    router("mixer.gate", "router"),
    reader("mixer.experts.up_proj", "up_proj"),
    writer("mixer.experts.down_proj", "down_proj"),
    reader("mixer.shared_experts.up_proj", "shared.up_proj"),
    writer("mixer.shared_experts.down_proj", "shared.down_proj"),
    reader("mixer.fc1_latent_proj", "latent_down_proj"),
    writer("mixer.fc2_latent_proj", "latent_up_proj"),
];

/// Names of GGUF files.
pub const GGUF: &[Rule] = &[
    Rule { path: "^token_embd", slot: "embed_tokens", kind: Kind::Embedding },
    other("^position_embd", "embed_positions"),
    Rule { path: "^output", slot: "lm_head", kind: Kind::Head },
    norm("^output_norm", "final_norm"),
    norm("^token_embd_norm", "embedding_norm"),
    other("^per_layer_token_embd", "embed_tokens_per_layer"),
    reader("^per_layer_model_proj", "per_layer_model_projection"),
    norm("^per_layer_proj_norm", "per_layer_projection_norm"),
    other("^rope_freqs", "rope_frequencies"),
    other("^rope_factors_long", "rope_factors_long"),
    other("^rope_factors_short", "rope_factors_short"),
    norm("attn_norm", "pre_attention_norm"),
    norm("attn_norm_2", "pre_attention_norm_2"),
    reader("attn_qkv", "qkv_proj"),
    reader("attn_q", "q_proj"),
    reader("attn_k", "k_proj"),
    reader("attn_v", "v_proj"),
    writer("attn_output", "o_proj"),
    other("attn_sinks", "attention_sinks"),
    reader("attn_gate", "attention_gate"),
    norm("attn_q_norm", "q_norm"),
    norm("attn_k_norm", "k_norm"),
    norm("post_attention_norm", "post_attention_norm"),
    norm("ffn_norm", "pre_mlp_norm"),
    norm("post_ffw_norm", "post_mlp_norm"),
    norm("pre_ffw_norm_2", "pre_mlp_norm_2"),
    norm("post_ffw_norm_1", "post_mlp_norm_1"),
    norm("post_ffw_norm_2", "post_mlp_norm_2"),
    router("ffn_gate_inp", "router"),
    router("ffn_gate_inp_shexp", "shared_router"),
    other("exp_probs_b", "router_correction"),
    reader("ffn_gate", "gate_proj"),
    reader("ffn_up", "up_proj"),
    writer("ffn_down", "down_proj"),
    reader("ffn_gate_exps", "gate_proj"),
    reader("ffn_up_exps", "up_proj"),
    reader("ffn_gate_up_exps", "gate_up_proj"),
    writer("ffn_down_exps", "down_proj"),
    reader("ffn_gate_shexp", "shared.gate_proj"),
    reader("ffn_up_shexp", "shared.up_proj"),
    writer("ffn_down_shexp", "shared.down_proj"),
    reader("ffn_latent_down", "latent_down_proj"),
    writer("ffn_latent_up", "latent_up_proj"),
    other("layer_output_scale", "layer_scalar"),
    reader("inp_gate", "per_layer_input_gate"),
    writer("proj", "per_layer_projection"),
    norm("post_norm", "post_per_layer_input_norm"),
    other("altup_correct_coef", "altup.correction_coefs"),
    other("altup_correct_scale", "altup.correct_output_scale"),
    other("altup_predict_coef", "altup.prediction_coefs"),
    router("altup_router", "altup.modality_router"),
    norm("altup_router_norm", "altup.router_norm"),
    reader("laurel_l", "laurel.linear_left"),
    writer("laurel_r", "laurel.linear_right"),
    norm("laurel_post_norm", "laurel.post_norm"),
    reader("attn_q_a", "q_a_proj"),
    other("attn_q_b", "q_b_proj"),
    reader("attn_kv_a_mqa", "kv_a_proj"),
    other("attn_kv_b", "kv_b_proj"),
    other("attn_k_b", "k_b_proj"),
    other("attn_v_b", "v_b_proj"),
    norm("attn_q_a_norm", "q_a_norm"),
    norm("attn_kv_a_norm", "kv_a_norm"),
    reader("ssm_in", "ssm.in_proj"),
    writer("ssm_out", "out_proj"),
    other("ssm_x", "ssm.x_proj"),
    other("ssm_dt", "ssm.dt_proj"),
    other("ssm_conv1d", "ssm.conv1d"),
    other("ssm_a", "ssm.negative_exponential_of_A_log"),
    other("ssm_d", "ssm.D"),
    norm("ssm_norm", "ssm.norm"),
    norm("ssm_dt_norm", "ssm.dt_norm"),
    norm("ssm_b_norm", "ssm.b_norm"),
    norm("ssm_c_norm", "ssm.c_norm"),
    reader("shortconv.in_proj", "conv.in_proj"),
    writer("shortconv.out_proj", "out_proj"),
    other("shortconv.conv", "conv.conv"),
];

/// GGUF names of linear attention (Qwen3-Next, Qwen3.5), which shares `attn_qkv` and `attn_gate` with plain attention.
pub const GGUF_LINEAR: &[Rule] = &[
    norm("post_attention_norm", "pre_mlp_norm"),
    reader("ssm_in", "linear.in_proj_qkvz"),
    reader("attn_qkv", "linear.in_proj_qkv"),
    reader("attn_gate", "linear.in_proj_z"),
    reader("ssm_ba", "linear.in_proj_ba"),
    reader("ssm_alpha", "linear.in_proj_a"),
    reader("ssm_beta", "linear.in_proj_b"),
    other("ssm_conv1d", "linear.conv1d"),
    norm("ssm_norm", "linear.norm"),
    other("ssm_a", "linear.negative_exponential_of_A_log"),
    other("ssm_dt", "linear.dt_bias"),
];

/// GGUF names where `post_attention_norm` is what Llama calls `post_attention_layernorm`.
pub const GGUF_LLAMA_NORM: &[Rule] = &[norm("post_attention_norm", "pre_mlp_norm")];

/// GGUF files of Phi-3, GLM-4 and ChatGLM keep gate and up fused under the name of the up projection.
pub const GGUF_FUSED_UP: &[Rule] = &[reader("ffn_up", "gate_up_proj")];

/// BERT and its relatives: an encoder whose blocks stand under `encoder.layer`.
pub const BERT: &[Rule] = &[
    Rule { path: "^embeddings.word_embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    other("^embeddings.position_embeddings", "embed_positions"),
    other("^embeddings.token_type_embeddings", "embed_types"),
    norm("^embeddings.LayerNorm", "embedding_norm"),
    reader("attention.self.query", "q_proj"),
    reader("attention.self.key", "k_proj"),
    reader("attention.self.value", "v_proj"),
    writer("attention.output.dense", "o_proj"),
    norm("attention.output.LayerNorm", "attention_norm"),
    reader("intermediate.dense", "up_proj"),
    writer("output.dense", "down_proj"),
    norm("output.LayerNorm", "mlp_norm"),
    other("^pooler.dense", "pooler"),
];

/// DistilBERT: BERT's block in words of its own.
pub const DISTILBERT: &[Rule] = &[
    Rule { path: "^embeddings.word_embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    other("^embeddings.position_embeddings", "embed_positions"),
    norm("^embeddings.LayerNorm", "embedding_norm"),
    reader("attention.q_lin", "q_proj"),
    reader("attention.k_lin", "k_proj"),
    reader("attention.v_lin", "v_proj"),
    writer("attention.out_lin", "o_proj"),
    norm("sa_layer_norm", "attention_norm"),
    reader("ffn.lin1", "up_proj"),
    writer("ffn.lin2", "down_proj"),
    norm("output_layer_norm", "mlp_norm"),
];

/// ALBERT: one block that all layers share. Its embedding is narrower than the stream, and is mapped into it.
pub const ALBERT: &[Rule] = &[
    other("^embeddings.word_embeddings", "embed_tokens"),
    other("^embeddings.position_embeddings", "embed_positions"),
    other("^embeddings.token_type_embeddings", "embed_types"),
    other("^embedding_hidden_mapping_in", "embedding_projection"),
    norm("^embeddings.LayerNorm", "embedding_norm"),
    reader("albert_layers.0.attention.query", "q_proj"),
    reader("albert_layers.0.attention.key", "k_proj"),
    reader("albert_layers.0.attention.value", "v_proj"),
    writer("albert_layers.0.attention.dense", "o_proj"),
    norm("albert_layers.0.attention.LayerNorm", "attention_norm"),
    reader("albert_layers.0.ffn", "up_proj"),
    writer("albert_layers.0.ffn_output", "down_proj"),
    norm("albert_layers.0.full_layer_layer_norm", "mlp_norm"),
    other("^pooler", "pooler"),
];

/// T5, whose blocks number their parts; keys and values across come from the encoder's stream.
pub const T5: &[Rule] = &[
    Rule { path: "^shared", slot: "shared.embed_tokens", kind: Kind::Embedding },
    reader("layer.0.SelfAttention.q", "q_proj"),
    reader("layer.0.SelfAttention.k", "k_proj"),
    reader("layer.0.SelfAttention.v", "v_proj"),
    writer("layer.0.SelfAttention.o", "o_proj"),
    other("layer.0.SelfAttention.relative_attention_bias", "relative_positions"),
    norm("layer.0.layer_norm", "pre_attention_norm"),
    reader("layer.1.EncDecAttention.q", "cross.q_proj"),
    other("layer.1.EncDecAttention.k", "cross.k_proj"),
    other("layer.1.EncDecAttention.v", "cross.v_proj"),
    writer("layer.1.EncDecAttention.o", "cross.o_proj"),
    norm("layer.1.layer_norm", "norm_1"),
    reader("layer.1.DenseReluDense.wi", "up_proj"),
    reader("layer.1.DenseReluDense.wi_0", "gate_proj"),
    reader("layer.1.DenseReluDense.wi_1", "up_proj"),
    writer("layer.1.DenseReluDense.wo", "down_proj"),
    reader("layer.2.DenseReluDense.wi", "up_proj"),
    reader("layer.2.DenseReluDense.wi_0", "gate_proj"),
    reader("layer.2.DenseReluDense.wi_1", "up_proj"),
    writer("layer.2.DenseReluDense.wo", "down_proj"),
    norm("layer.2.layer_norm", "norm_2"),
];

/// Whisper and BART: attention across reads the encoder's stream for keys and values.
pub const BART: &[Rule] = &[
    Rule { path: "^shared", slot: "shared.embed_tokens", kind: Kind::Embedding },
    Rule { path: "^proj_out", slot: "lm_head", kind: Kind::Head },
    reader("encoder_attn.q_proj", "cross.q_proj"),
    other("encoder_attn.k_proj", "cross.k_proj"),
    other("encoder_attn.v_proj", "cross.v_proj"),
    writer("encoder_attn.out_proj", "cross.o_proj"),
    norm("encoder_attn_layer_norm", "cross_norm"),
    other("^conv1", "conv1"),
    other("^conv2", "conv2"),
    norm("^layer_norm", "final_norm"),
    norm("^layernorm_embedding", "embedding_norm"),
];

/// ViT: BERT's blocks over patches of a picture.
pub const VIT: &[Rule] = &[
    other("^embeddings.cls_token", "class_token"),
    other("^embeddings.position_embeddings", "embed_positions"),
    other("^embeddings.patch_embeddings.projection", "patch_projection"),
    reader("attention.attention.query", "q_proj"),
    reader("attention.attention.key", "k_proj"),
    reader("attention.attention.value", "v_proj"),
    norm("layernorm_before", "pre_attention_norm"),
    norm("layernorm_after", "pre_mlp_norm"),
    norm("^layernorm", "final_norm"),
];

/// CLIP's text model.
pub const CLIP: &[Rule] = &[
    Rule { path: "^embeddings.token_embedding", slot: "embed_tokens", kind: Kind::Embedding },
    other("^embeddings.position_embedding", "embed_positions"),
    norm("^final_layer_norm", "final_norm"),
    norm("layer_norm1", "pre_attention_norm"),
    norm("layer_norm2", "pre_mlp_norm"),
    other("^text_projection", "text_projection"),
    other("^visual_projection", "visual_projection"),
    other("^logit_scale", "logit_scale"),
];

/// RWKV, whose value projection of the channel mixing writes under a gate.
pub const RWKV: &[Rule] = &[
    Rule { path: "^embeddings", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^emb", slot: "embed_tokens", kind: Kind::Embedding },
    Rule { path: "^head", slot: "lm_head", kind: Kind::Head },
    norm("^ln_out", "final_norm"),
    norm("pre_ln", "embedding_norm"),
    norm("ln0", "embedding_norm"),
    norm("ln1", "pre_attention_norm"),
    norm("ln2", "pre_mlp_norm"),
    reader("attention.key", "k_proj"),
    reader("attention.value", "v_proj"),
    reader("attention.receptance", "receptance_proj"),
    reader("attention.gate", "attention_gate"),
    writer("attention.output", "o_proj"),
    norm("attention.ln_x", "attention_inner_norm"),
    reader("feed_forward.key", "up_proj"),
    reader("feed_forward.receptance", "mlp_gate"),
    writer("feed_forward.value", "down_proj"),
    reader("att.key", "k_proj"),
    reader("att.value", "v_proj"),
    reader("att.receptance", "receptance_proj"),
    reader("att.gate", "attention_gate"),
    writer("att.output", "o_proj"),
    norm("att.ln_x", "attention_inner_norm"),
    reader("ffn.key", "up_proj"),
    reader("ffn.receptance", "mlp_gate"),
    writer("ffn.value", "down_proj"),
];

/// GGUF names of Gemma 4's mixture, which stands beside a dense MLP.
pub const GGUF_GEMMA4: &[Rule] = &[
    reader("ffn_gate_up_exps", "experts.gate_up_proj"),
    reader("ffn_gate_exps", "experts.gate_proj"),
    reader("ffn_up_exps", "experts.up_proj"),
    writer("ffn_down_exps", "experts.down_proj"),
    other("ffn_gate_inp.scale", "router.scale"),
    other("ffn_down_exps.scale", "router.per_expert_scale"),
];
