//! Every family's names and shapes, small sizes, square attention outputs among them.

use serde_json::{Value, json};

use super::*;

/// Width of the residual stream in these tests.
const D: u64 = 64;

/// Checks `(name, shape, "kind module axis")` under a configuration; `-` stands for no axis.
fn check(config: Value, expected: &[(&str, &[u64], &str)]) -> ResolvedArchitecture {
    let resolved = resolve(&config, expected.iter().map(|(name, shape, _)| (*name, *shape)));
    for (name, shape, text) in expected {
        let role = resolved.role(name, shape);
        let axis = match role.residual {
            Some(Axis::Rows) => "rows",
            Some(Axis::Columns) => "columns",
            None => "-",
        };
        let kind = format!("{:?}", role.kind).to_lowercase();
        assert_eq!(format!("{kind} {} {axis}", role.module), *text, "{name} of {}", resolved.family);
    }
    resolved
}

fn typed(model_type: &str) -> Value {
    json!({"model_type": model_type, "hidden_size": D, "num_attention_heads": 4})
}

const LLAMA_BLOCK: &[(&str, &[u64], &str)] = &[
    ("model.embed_tokens.weight", &[500, D], "embedding embed_tokens columns"),
    ("lm_head.weight", &[500, D], "head lm_head columns"),
    ("model.norm.weight", &[D], "norm final_norm -"),
    ("model.layers.0.self_attn.q_proj.weight", &[D, D], "reader q_proj columns"),
    ("model.layers.0.self_attn.q_proj.bias", &[D], "bias q_proj -"),
    ("model.layers.0.self_attn.k_proj.weight", &[32, D], "reader k_proj columns"),
    ("model.layers.0.self_attn.v_proj.weight", &[32, D], "reader v_proj columns"),
    ("model.layers.0.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
    ("model.layers.0.self_attn.o_proj.bias", &[D], "bias o_proj columns"),
    ("model.layers.0.mlp.gate_proj.weight", &[96, D], "reader gate_proj columns"),
    ("model.layers.0.mlp.up_proj.weight", &[96, D], "reader up_proj columns"),
    ("model.layers.0.mlp.down_proj.weight", &[D, 96], "writer down_proj rows"),
    ("model.layers.0.input_layernorm.weight", &[D], "norm pre_attention_norm -"),
];

#[test]
fn families_with_llamas_names() {
    for model_type in
        ["llama", "mistral", "qwen2", "qwen3", "gemma", "cohere", "stablelm", "olmo", "exaone4", "granite"]
    {
        let resolved = check(typed(model_type), LLAMA_BLOCK);
        assert_ne!(resolved.family, "fallback", "{model_type}");
        assert_eq!(resolved.width, Some(D));
    }
    assert_eq!(check(Value::Null, LLAMA_BLOCK).family, "llama");
}

#[test]
fn mixtral_and_fused_experts() {
    let resolved = check(
        typed("mixtral"),
        &[
            ("model.layers.1.block_sparse_moe.gate.weight", &[8, D], "router router columns"),
            ("model.layers.1.block_sparse_moe.experts.3.w1.weight", &[96, D], "reader gate_proj columns"),
            ("model.layers.1.block_sparse_moe.experts.3.w2.weight", &[D, 96], "writer down_proj rows"),
            ("model.layers.1.mlp.experts.gate_up_proj", &[8, 192, D], "reader gate_up_proj columns"),
            ("model.layers.1.mlp.experts.down_proj", &[8, D, 96], "writer down_proj rows"),
            // Square slices keep the table's orientation.
            ("model.layers.2.mlp.experts.down_proj", &[8, D, D], "writer down_proj rows"),
        ],
    );
    let single = resolved.part("model.layers.1.block_sparse_moe.experts.3.w2.weight", &[D, 96]);
    assert_eq!((single.role.expert, single.stack), (Some(3), None));
    assert_eq!(resolved.part("model.layers.1.mlp.experts.down_proj", &[8, D, 96]).stack, Some(8));
}

#[test]
fn experts_stored_input_first() {
    check(
        typed("gpt_oss"),
        &[
            ("model.layers.0.self_attn.sinks", &[4], "other attention_sinks -"),
            ("model.layers.0.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
            ("model.layers.0.mlp.router.weight", &[4, D], "router router columns"),
            ("model.layers.0.mlp.router.bias", &[4], "bias router -"),
            ("model.layers.0.mlp.experts.down_proj", &[4, D, D], "writer down_proj columns"),
            ("model.layers.0.mlp.experts.down_proj_bias", &[4, D], "bias down_proj columns"),
            ("model.layers.0.mlp.experts.gate_up_proj", &[4, D, 128], "reader gate_up_proj rows"),
            ("model.layers.0.mlp.experts.gate_up_proj_bias", &[4, 128], "bias gate_up_proj -"),
        ],
    );
    check(
        json!({"model_type": "llama4", "text_config": {"model_type": "llama4_text", "hidden_size": D}}),
        &[
            ("language_model.model.layers.1.feed_forward.experts.down_proj", &[4, 96, D], "writer down_proj columns"),
            (
                "language_model.model.layers.1.feed_forward.experts.gate_up_proj",
                &[4, D, 192],
                "reader gate_up_proj rows",
            ),
            ("language_model.model.layers.1.feed_forward.router.weight", &[4, D], "router router columns"),
            (
                "language_model.model.layers.1.feed_forward.shared_expert.down_proj.weight",
                &[D, 96],
                "writer down_proj rows",
            ),
            ("vision_model.model.layers.0.self_attn.o_proj.weight", &[D, D], "other o_proj -"),
        ],
    );
    // Published input first, re-saved output first: the width tells, and the table where slices are square.
    check(
        typed("qwen3_vl_moe_text"),
        &[
            ("model.language_model.layers.0.mlp.experts.down_proj", &[4, 96, D], "writer down_proj columns"),
            ("model.language_model.layers.1.mlp.experts.down_proj", &[4, D, 96], "writer down_proj rows"),
            ("model.language_model.layers.2.mlp.experts.down_proj", &[4, D, D], "writer down_proj columns"),
            ("model.visual.blocks.0.attn.proj.weight", &[D, D], "other proj -"),
        ],
    );
}

#[test]
fn qwen_with_linear_attention_and_shared_experts() {
    let resolved = check(
        typed("qwen3_next"),
        &[
            ("model.layers.0.linear_attn.in_proj_qkvz.weight", &[200, D], "reader in_proj_qkvz columns"),
            ("model.layers.0.linear_attn.in_proj_ba.weight", &[8, D], "reader in_proj_ba columns"),
            ("model.layers.0.linear_attn.out_proj.weight", &[D, D], "writer out_proj rows"),
            ("model.layers.0.linear_attn.conv1d.weight", &[120, 1, 4], "other conv1d -"),
            ("model.layers.0.linear_attn.A_log", &[4], "other A_log -"),
            ("model.layers.0.linear_attn.norm.weight", &[16], "norm norm -"),
            ("model.layers.0.mlp.gate.weight", &[8, D], "router router columns"),
            ("model.layers.0.mlp.experts.7.down_proj.weight", &[D, 32], "writer down_proj rows"),
            ("model.layers.0.mlp.shared_expert.down_proj.weight", &[D, 32], "writer down_proj rows"),
            ("model.layers.0.mlp.shared_expert_gate.weight", &[1, D], "router shared_router columns"),
            ("mtp.layers.0.mlp.down_proj.weight", &[D, 32], "other down_proj rows"),
            ("mtp.layers.0.self_attn.q_proj.weight", &[D, D], "other q_proj -"),
            ("mtp.fc.weight", &[D, 128], "other fc -"),
        ],
    );
    let routed = resolved.part("model.layers.0.mlp.experts.7.down_proj.weight", &[D, 32]);
    let shared = resolved.part("model.layers.0.mlp.shared_expert.down_proj.weight", &[D, 32]);
    assert_ne!(routed.key, shared.key);
}

#[test]
fn the_first_qwen() {
    check(
        typed("qwen"),
        &[
            ("transformer.wte.weight", &[500, D], "embedding embed_tokens columns"),
            ("transformer.h.0.attn.c_attn.weight", &[192, D], "reader qkv_proj columns"),
            ("transformer.h.0.attn.c_proj.weight", &[D, D], "writer o_proj rows"),
            ("transformer.h.0.mlp.w1.weight", &[96, D], "reader up_proj columns"),
            ("transformer.h.0.mlp.w2.weight", &[96, D], "reader gate_proj columns"),
            ("transformer.h.0.mlp.c_proj.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
}

#[test]
fn gemma_in_all_ages() {
    for model_type in ["gemma2", "gemma3_text"] {
        check(
            typed(model_type),
            &[
                ("model.layers.0.post_attention_layernorm.weight", &[D], "norm post_attention_norm -"),
                ("model.layers.0.pre_feedforward_layernorm.weight", &[D], "norm pre_mlp_norm -"),
                ("model.layers.0.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
            ],
        );
    }
    check(
        json!({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text", "hidden_size": D}}),
        &[
            ("model.language_model.embed_tokens_per_layer.weight", &[500, 512], "other embed_tokens_per_layer -"),
            (
                "model.language_model.per_layer_model_projection.weight",
                &[512, D],
                "reader per_layer_model_projection columns",
            ),
            (
                "model.language_model.layers.0.per_layer_input_gate.weight",
                &[16, D],
                "reader per_layer_input_gate columns",
            ),
            ("model.language_model.layers.0.per_layer_projection.weight", &[D, 16], "writer per_layer_projection rows"),
            ("model.language_model.layers.0.laurel.linear_left.weight", &[8, D], "reader linear_left columns"),
            ("model.language_model.layers.0.laurel.linear_right.weight", &[D, 8], "writer linear_right rows"),
            ("model.language_model.layers.0.altup.modality_router.weight", &[4, D], "router modality_router columns"),
            ("model.language_model.layers.0.altup.prediction_coefs.weight", &[16, 4], "other prediction_coefs -"),
            ("model.language_model.layers.0.mlp.down_proj.weight", &[D, 96], "writer down_proj rows"),
            ("model.embed_vision.embedding_projection.weight", &[D, 32], "other embedding_projection -"),
        ],
    );
    check(
        json!({"model_type": "gemma4", "text_config": {"model_type": "gemma4_text", "hidden_size": D}}),
        &[
            ("model.language_model.layers.0.layer_scalar", &[1], "other layer_scalar -"),
            ("model.language_model.layers.0.router.proj.weight", &[4, D], "router router columns"),
            ("model.language_model.layers.0.experts.down_proj", &[4, D, 96], "writer down_proj rows"),
            ("model.language_model.layers.0.experts.gate_up_proj", &[4, 192, D], "reader gate_up_proj columns"),
            ("model.language_model.layers.0.mlp.down_proj.weight", &[D, 96], "writer down_proj rows"),
            ("model.language_model.layers.0.post_feedforward_layernorm_1.weight", &[D], "norm post_mlp_norm_1 -"),
        ],
    );
}

#[test]
fn phi() {
    check(
        typed("phi"),
        &[
            ("model.layers.0.self_attn.dense.weight", &[D, D], "writer o_proj rows"),
            ("model.layers.0.mlp.fc1.weight", &[96, D], "reader up_proj columns"),
            ("model.layers.0.mlp.fc2.weight", &[D, 96], "writer down_proj rows"),
            ("model.layers.0.mlp.fc2.bias", &[D], "bias down_proj columns"),
            ("model.final_layernorm.weight", &[D], "norm final_norm -"),
        ],
    );
    check(
        typed("phi3"),
        &[
            ("model.layers.0.self_attn.qkv_proj.weight", &[128, D], "reader qkv_proj columns"),
            ("model.layers.0.mlp.gate_up_proj.weight", &[192, D], "reader gate_up_proj columns"),
            ("model.layers.0.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
        ],
    );
}

#[test]
fn olmo_two_has_norms_after() {
    check(
        typed("olmo2"),
        &[
            ("model.layers.0.post_attention_layernorm.weight", &[D], "norm post_attention_norm -"),
            ("model.layers.0.post_feedforward_layernorm.weight", &[D], "norm post_mlp_norm -"),
            ("model.layers.0.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
        ],
    );
}

#[test]
fn gpt_two_stores_input_first() {
    check(
        json!({"model_type": "gpt2", "n_embd": D, "n_head": 4}),
        &[
            ("transformer.wte.weight", &[500, D], "embedding embed_tokens columns"),
            ("transformer.wpe.weight", &[100, D], "other embed_positions -"),
            ("transformer.h.0.attn.c_attn.weight", &[D, 192], "reader qkv_proj rows"),
            ("transformer.h.0.attn.c_proj.weight", &[D, D], "writer o_proj columns"),
            ("transformer.h.0.attn.c_proj.bias", &[D], "bias o_proj columns"),
            ("transformer.h.0.mlp.c_fc.weight", &[D, 96], "reader up_proj rows"),
            ("transformer.h.0.mlp.c_proj.weight", &[96, D], "writer down_proj columns"),
            ("transformer.h.0.ln_1.weight", &[D], "norm pre_attention_norm -"),
        ],
    );
}

#[test]
fn neox_gptj_bloom_falcon_opt_mpt() {
    check(
        typed("gpt_neox"),
        &[
            ("gpt_neox.embed_in.weight", &[500, D], "embedding embed_tokens columns"),
            ("embed_out.weight", &[500, D], "head lm_head columns"),
            ("gpt_neox.layers.0.attention.query_key_value.weight", &[192, D], "reader qkv_proj columns"),
            ("gpt_neox.layers.0.attention.dense.weight", &[D, D], "writer o_proj rows"),
            ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
    check(
        json!({"model_type": "gptj", "n_embd": D}),
        &[
            ("transformer.h.0.attn.out_proj.weight", &[D, D], "writer o_proj rows"),
            ("transformer.h.0.mlp.fc_in.weight", &[96, D], "reader up_proj columns"),
            ("transformer.h.0.mlp.fc_out.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
    for (model_type, head) in [("bloom", "word_embeddings.weight"), ("falcon", "transformer.word_embeddings.weight")] {
        check(
            typed(model_type),
            &[
                (head, &[500, D], "embedding embed_tokens columns"),
                ("transformer.h.0.self_attention.query_key_value.weight", &[192, D], "reader qkv_proj columns"),
                ("transformer.h.0.self_attention.dense.weight", &[D, D], "writer o_proj rows"),
                ("transformer.h.0.mlp.dense_4h_to_h.weight", &[D, 96], "writer down_proj rows"),
            ],
        );
    }
    check(
        typed("opt"),
        &[
            ("model.decoder.embed_tokens.weight", &[500, D], "embedding embed_tokens columns"),
            ("model.decoder.layers.0.self_attn.out_proj.weight", &[D, D], "writer o_proj rows"),
            ("model.decoder.layers.0.fc1.weight", &[96, D], "reader up_proj columns"),
            ("model.decoder.layers.0.fc2.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
    check(
        json!({"model_type": "mpt", "d_model": D}),
        &[
            ("transformer.blocks.0.attn.Wqkv.weight", &[192, D], "reader qkv_proj columns"),
            ("transformer.blocks.0.attn.out_proj.weight", &[D, D], "writer o_proj rows"),
            ("transformer.blocks.0.ffn.down_proj.weight", &[D, 96], "writer down_proj rows"),
            ("transformer.norm_f.weight", &[D], "norm final_norm -"),
        ],
    );
}

#[test]
fn deepseek_and_its_draft_block() {
    check(
        typed("deepseek_v3"),
        &[
            ("model.layers.3.self_attn.q_a_proj.weight", &[24, D], "reader q_a_proj columns"),
            ("model.layers.3.self_attn.q_b_proj.weight", &[80, 24], "other q_b_proj -"),
            ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", &[40, D], "reader kv_a_proj columns"),
            ("model.layers.3.self_attn.kv_b_proj.weight", &[80, 32], "other kv_b_proj -"),
            ("model.layers.3.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
            ("model.layers.3.mlp.gate.e_score_correction_bias", &[8], "other router_correction -"),
            ("model.layers.3.mlp.experts.0.down_proj.weight", &[D, 32], "writer down_proj rows"),
            ("model.layers.3.mlp.shared_experts.down_proj.weight", &[D, 32], "writer down_proj rows"),
            ("model.layers.4.eh_proj.weight", &[D, 128], "other eh_proj -"),
            ("model.layers.4.self_attn.o_proj.weight", &[D, D], "other o_proj rows"),
            ("model.layers.4.self_attn.q_a_proj.weight", &[24, D], "other q_a_proj -"),
        ],
    );
    check(
        typed("deepseek_v4"),
        &[
            ("layers.3.attn.wo_a.weight", &[24, 80], "other o_a_proj -"),
            ("layers.3.attn.wo_b.weight", &[D, 24], "writer o_proj rows"),
            ("layers.3.ffn.shared_experts.w2.weight", &[D, 32], "writer down_proj rows"),
            ("layers.3.ffn.experts.5.w2.weight", &[D, 32], "writer down_proj rows"),
            ("layers.3.ffn.gate.weight", &[8, D], "router router columns"),
            ("embed.weight", &[500, D], "embedding embed_tokens columns"),
            ("head.weight", &[500, D], "head lm_head columns"),
        ],
    );
}

#[test]
fn glm_and_chatglm() {
    check(
        typed("glm4"),
        &[
            ("model.layers.0.post_attention_layernorm.weight", &[D], "norm pre_mlp_norm -"),
            ("model.layers.0.post_self_attn_layernorm.weight", &[D], "norm post_attention_norm -"),
            ("model.layers.0.mlp.gate_up_proj.weight", &[192, D], "reader gate_up_proj columns"),
            ("model.layers.0.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
        ],
    );
    check(
        typed("glm4_moe"),
        &[
            ("model.layers.1.mlp.experts.2.down_proj.weight", &[D, 32], "writer down_proj rows"),
            ("model.layers.1.mlp.shared_experts.down_proj.weight", &[D, 32], "writer down_proj rows"),
        ],
    );
    check(
        typed("chatglm"),
        &[
            ("transformer.embedding.word_embeddings.weight", &[500, D], "embedding embed_tokens columns"),
            ("transformer.output_layer.weight", &[500, D], "head lm_head columns"),
            ("transformer.encoder.layers.0.self_attention.query_key_value.weight", &[96, D], "reader qkv_proj columns"),
            ("transformer.encoder.layers.0.self_attention.dense.weight", &[D, D], "writer o_proj rows"),
            ("transformer.encoder.layers.0.mlp.dense_h_to_4h.weight", &[192, D], "reader gate_up_proj columns"),
            ("transformer.encoder.layers.0.mlp.dense_4h_to_h.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
}

#[test]
fn granite_lfm_mamba_jamba_nemotron() {
    check(
        typed("granitemoehybrid"),
        &[
            ("model.layers.0.mamba.in_proj.weight", &[150, D], "reader in_proj columns"),
            ("model.layers.0.mamba.out_proj.weight", &[D, 96], "writer out_proj rows"),
            ("model.layers.0.block_sparse_moe.input_linear.weight", &[4, 192, D], "reader gate_up_proj columns"),
            ("model.layers.0.block_sparse_moe.output_linear.weight", &[4, D, D], "writer down_proj rows"),
            ("model.layers.0.block_sparse_moe.router.layer.weight", &[4, D], "router router columns"),
            ("model.layers.0.shared_mlp.input_linear.weight", &[192, D], "reader gate_up_proj columns"),
            ("model.layers.0.shared_mlp.output_linear.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
    check(
        typed("lfm2"),
        &[
            ("model.layers.0.conv.in_proj.weight", &[192, D], "reader in_proj columns"),
            ("model.layers.0.conv.out_proj.weight", &[D, D], "writer out_proj rows"),
            ("model.layers.0.conv.conv.weight", &[D, 1, 3], "other conv -"),
            ("model.layers.1.self_attn.out_proj.weight", &[D, D], "writer o_proj rows"),
            ("model.layers.1.feed_forward.w2.weight", &[D, 96], "writer down_proj rows"),
            ("model.layers.1.feed_forward.w3.weight", &[96, D], "reader up_proj columns"),
        ],
    );
    check(
        typed("mamba"),
        &[
            ("backbone.embeddings.weight", &[500, D], "embedding embed_tokens columns"),
            ("backbone.layers.0.mixer.in_proj.weight", &[256, D], "reader in_proj columns"),
            ("backbone.layers.0.mixer.out_proj.weight", &[D, 128], "writer out_proj rows"),
            ("backbone.layers.0.mixer.A_log", &[128, 16], "other A_log -"),
            ("backbone.layers.0.norm.weight", &[D], "norm pre_attention_norm -"),
        ],
    );
    check(
        typed("jamba"),
        &[
            ("model.layers.0.mamba.out_proj.weight", &[D, 128], "writer out_proj rows"),
            ("model.layers.0.feed_forward.down_proj.weight", &[D, 96], "writer down_proj rows"),
            ("model.layers.1.feed_forward.experts.0.down_proj.weight", &[D, 96], "writer down_proj rows"),
            ("model.layers.1.feed_forward.router.weight", &[4, D], "router router columns"),
        ],
    );
    check(
        typed("nemotron_h"),
        &[
            ("backbone.layers.0.mixer.out_proj.weight", &[D, 128], "writer out_proj rows"),
            ("backbone.layers.1.mixer.down_proj.weight", &[D, 96], "writer down_proj rows"),
            ("backbone.layers.2.mixer.o_proj.weight", &[D, D], "writer o_proj rows"),
        ],
    );
    check(typed("nemotron"), &[("model.layers.0.mlp.down_proj.weight", &[D, 96], "writer down_proj rows")]);
}

#[test]
fn internlm_baichuan_exaone_minimax() {
    check(
        typed("internlm2"),
        &[
            ("model.tok_embeddings.weight", &[500, D], "embedding embed_tokens columns"),
            ("output.weight", &[500, D], "head lm_head columns"),
            ("model.layers.0.attention.wqkv.weight", &[96, D], "reader qkv_proj columns"),
            ("model.layers.0.attention.wo.weight", &[D, D], "writer o_proj rows"),
            ("model.layers.0.feed_forward.w2.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
    check(
        typed("baichuan"),
        &[
            ("model.layers.0.self_attn.W_pack.weight", &[192, D], "reader qkv_proj columns"),
            ("model.layers.0.self_attn.o_proj.weight", &[D, D], "writer o_proj rows"),
        ],
    );
    check(
        typed("exaone"),
        &[
            ("transformer.h.0.attn.attention.out_proj.weight", &[D, D], "writer o_proj rows"),
            ("transformer.h.0.mlp.c_fc_0.weight", &[96, D], "reader gate_proj columns"),
            ("transformer.h.0.mlp.c_proj.weight", &[D, 96], "writer down_proj rows"),
        ],
    );
    check(
        typed("minimax_m2"),
        &[("model.layers.0.block_sparse_moe.experts.0.w2.weight", &[D, 96], "writer down_proj rows")],
    );
}

#[test]
fn consolidated_names() {
    let resolved = check(
        json!({"dim": D, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2}),
        &[
            ("tok_embeddings.weight", &[500, D], "embedding embed_tokens columns"),
            ("output.weight", &[500, D], "head lm_head columns"),
            ("norm.weight", &[D], "norm final_norm -"),
            ("layers.0.attention.wq.weight", &[D, D], "reader q_proj columns"),
            ("layers.0.attention.wo.weight", &[D, D], "writer o_proj rows"),
            ("layers.0.feed_forward.w1.weight", &[96, D], "reader gate_proj columns"),
            ("layers.0.feed_forward.w2.weight", &[D, 96], "writer down_proj rows"),
            ("layers.0.ffn_norm.weight", &[D], "norm pre_mlp_norm -"),
        ],
    );
    assert_eq!(resolved.scheme, NamingScheme::Consolidated);
}

#[test]
fn gguf_names() {
    let resolved = check(
        json!({"general.architecture": "llama", "llama.embedding_length": D, "llama.attention.head_count": 4}),
        &[
            ("token_embd.weight", &[500, D], "embedding embed_tokens columns"),
            ("output.weight", &[500, D], "head lm_head columns"),
            ("output_norm.weight", &[D], "norm final_norm -"),
            ("blk.0.attn_q.weight", &[D, D], "reader q_proj columns"),
            ("blk.0.attn_output.weight", &[D, D], "writer o_proj rows"),
            ("blk.0.ffn_down.weight", &[D, 96], "writer down_proj rows"),
            ("blk.0.ffn_down_exps.weight", &[8, D, D], "writer down_proj rows"),
            ("blk.0.ffn_gate_inp.weight", &[8, D], "router router columns"),
        ],
    );
    assert_eq!((resolved.scheme, resolved.facts.head_dim), (NamingScheme::Gguf, Some(16)));
    // GGUF keeps gpt-oss and GPT-2 output first, whatever their own files do.
    check(
        json!({"general.architecture": "gpt-oss", "gpt-oss.embedding_length": D}),
        &[
            ("blk.0.ffn_down_exps.weight", &[4, D, D], "writer down_proj rows"),
            ("blk.0.ffn_down_exps.bias", &[4, D], "bias down_proj columns"),
            ("blk.0.post_attention_norm.weight", &[D], "norm pre_mlp_norm -"),
        ],
    );
    check(
        json!({"general.architecture": "gpt2", "gpt2.embedding_length": D}),
        &[("blk.0.attn_output.weight", &[D, D], "writer o_proj rows")],
    );
}

#[test]
fn encoders_and_decoders_have_a_stream_each() {
    let t5: &[(&str, &[u64], &str)] = &[
        ("shared.weight", &[500, D], "embedding embed_tokens columns"),
        ("encoder.embed_tokens.weight", &[500, D], "embedding embed_tokens columns"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", &[96, D], "reader q_proj columns"),
        ("encoder.block.0.layer.0.SelfAttention.o.weight", &[D, 96], "writer o_proj rows"),
        (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            &[32, 4],
            "other relative_positions -",
        ),
        ("encoder.block.1.layer.0.layer_norm.weight", &[D], "norm pre_attention_norm -"),
        ("encoder.block.1.layer.1.DenseReluDense.wi_0.weight", &[96, D], "reader gate_proj columns"),
        ("encoder.block.1.layer.1.DenseReluDense.wo.weight", &[D, D], "writer down_proj rows"),
        ("encoder.final_layer_norm.weight", &[D], "norm final_norm -"),
        ("decoder.block.0.layer.1.EncDecAttention.k.weight", &[96, D], "other k_proj -"),
        ("decoder.block.0.layer.1.EncDecAttention.o.weight", &[D, D], "writer o_proj rows"),
        ("decoder.block.0.layer.2.DenseReluDense.wi.weight", &[96, D], "reader up_proj columns"),
        ("decoder.block.0.layer.2.DenseReluDense.wo.weight", &[D, 96], "writer down_proj rows"),
        ("decoder.final_layer_norm.weight", &[D], "norm final_norm -"),
        ("lm_head.weight", &[500, D], "head lm_head columns"),
    ];
    let resolved = check(json!({"model_type": "t5", "d_model": D}), t5);
    assert_eq!(resolved.role("encoder.block.1.layer.0.SelfAttention.o.weight", &[D, D]).layer, Some(1));
    assert_eq!(resolved.role("decoder.block.0.layer.0.SelfAttention.o.weight", &[D, D]).layer, Some(2));
    let keys: BTreeSet<ParameterKey> = t5.iter().map(|(name, shape, _)| resolved.part(name, shape).key).collect();
    assert_eq!(keys.len(), t5.len(), "each tensor is one of its own");
    assert_eq!(check(Value::Null, t5).family, "t5");

    let whisper: &[(&str, &[u64], &str)] = &[
        ("model.encoder.conv1.weight", &[D, 80, 3], "other conv1 -"),
        ("model.encoder.embed_positions.weight", &[150, D], "other embed_positions -"),
        ("model.encoder.layers.0.self_attn.q_proj.weight", &[D, D], "reader q_proj columns"),
        ("model.encoder.layers.0.self_attn.out_proj.weight", &[D, D], "writer o_proj rows"),
        ("model.encoder.layers.0.self_attn.out_proj.bias", &[D], "bias o_proj columns"),
        ("model.encoder.layers.0.self_attn_layer_norm.weight", &[D], "norm pre_attention_norm -"),
        ("model.encoder.layers.0.fc1.weight", &[256, D], "reader up_proj columns"),
        ("model.encoder.layers.0.fc2.weight", &[D, 256], "writer down_proj rows"),
        ("model.encoder.layers.0.final_layer_norm.weight", &[D], "norm pre_mlp_norm -"),
        ("model.encoder.layer_norm.weight", &[D], "norm final_norm -"),
        ("model.decoder.embed_tokens.weight", &[500, D], "embedding embed_tokens columns"),
        ("model.decoder.layers.0.self_attn.out_proj.weight", &[D, D], "writer o_proj rows"),
        ("model.decoder.layers.0.encoder_attn.v_proj.weight", &[D, D], "other v_proj -"),
        ("model.decoder.layers.0.encoder_attn.out_proj.weight", &[D, D], "writer o_proj rows"),
        ("model.decoder.layers.0.encoder_attn_layer_norm.weight", &[D], "norm cross_norm -"),
        ("model.decoder.layers.0.fc2.weight", &[D, 256], "writer down_proj rows"),
        ("model.decoder.layer_norm.weight", &[D], "norm final_norm -"),
        ("proj_out.weight", &[500, D], "head lm_head columns"),
    ];
    let resolved = check(json!({"model_type": "whisper", "d_model": D}), whisper);
    let keys: BTreeSet<ParameterKey> = whisper.iter().map(|(name, shape, _)| resolved.part(name, shape).key).collect();
    assert_eq!(keys.len(), whisper.len());
    assert_eq!(check(Value::Null, whisper).family, "bart");
}

#[test]
fn encoders_of_text() {
    let distilbert: &[(&str, &[u64], &str)] = &[
        ("distilbert.embeddings.word_embeddings.weight", &[500, D], "embedding embed_tokens columns"),
        ("distilbert.embeddings.position_embeddings.weight", &[128, D], "other embed_positions -"),
        ("distilbert.transformer.layer.0.attention.q_lin.weight", &[D, D], "reader q_proj columns"),
        ("distilbert.transformer.layer.0.attention.out_lin.weight", &[D, D], "writer o_proj rows"),
        ("distilbert.transformer.layer.0.attention.out_lin.bias", &[D], "bias o_proj columns"),
        ("distilbert.transformer.layer.0.sa_layer_norm.weight", &[D], "norm attention_norm -"),
        ("distilbert.transformer.layer.0.ffn.lin1.weight", &[256, D], "reader up_proj columns"),
        ("distilbert.transformer.layer.0.ffn.lin2.weight", &[D, 256], "writer down_proj rows"),
    ];
    assert_eq!(check(json!({"model_type": "distilbert", "dim": D}), distilbert).width, Some(D));
    assert_eq!(check(Value::Null, distilbert).family, "distilbert");

    let roberta: &[(&str, &[u64], &str)] = &[
        ("roberta.embeddings.word_embeddings.weight", &[500, D], "embedding embed_tokens columns"),
        ("roberta.encoder.layer.3.attention.self.query.weight", &[D, D], "reader q_proj columns"),
        ("roberta.encoder.layer.3.attention.output.dense.weight", &[D, D], "writer o_proj rows"),
        ("roberta.encoder.layer.3.intermediate.dense.weight", &[256, D], "reader up_proj columns"),
        ("roberta.encoder.layer.3.output.dense.weight", &[D, 256], "writer down_proj rows"),
    ];
    for config in [typed("roberta"), Value::Null] {
        assert_eq!(check(config, roberta).family, "bert");
    }

    let block = "albert.encoder.albert_layer_groups.0.albert_layers.0";
    let named = |part: &str| format!("{block}.{part}");
    let albert: Vec<(String, &[u64], &str)> = vec![
        ("albert.embeddings.word_embeddings.weight".to_owned(), &[500, 16], "other embed_tokens -"),
        ("albert.encoder.embedding_hidden_mapping_in.weight".to_owned(), &[D, 16], "other embedding_projection -"),
        (named("attention.query.weight"), &[D, D], "reader q_proj columns"),
        (named("attention.dense.weight"), &[D, D], "writer o_proj rows"),
        (named("attention.LayerNorm.weight"), &[D], "norm attention_norm -"),
        (named("ffn.weight"), &[256, D], "reader up_proj columns"),
        (named("ffn_output.weight"), &[D, 256], "writer down_proj rows"),
        (named("full_layer_layer_norm.weight"), &[D], "norm mlp_norm -"),
    ];
    let albert: Vec<(&str, &[u64], &str)> =
        albert.iter().map(|(name, shape, text)| (name.as_str(), *shape, *text)).collect();
    for config in [typed("albert"), Value::Null] {
        assert_eq!(check(config, &albert).family, "albert");
    }
}

#[test]
fn encoders_of_pictures_and_recurrent_models() {
    let vit: &[(&str, &[u64], &str)] = &[
        ("vit.embeddings.cls_token", &[1, 1, D], "other class_token -"),
        ("vit.embeddings.patch_embeddings.projection.weight", &[D, 3, 16, 16], "other patch_projection -"),
        ("vit.encoder.layer.0.attention.attention.query.weight", &[D, D], "reader q_proj columns"),
        ("vit.encoder.layer.0.attention.output.dense.weight", &[D, D], "writer o_proj rows"),
        ("vit.encoder.layer.0.intermediate.dense.weight", &[256, D], "reader up_proj columns"),
        ("vit.encoder.layer.0.output.dense.weight", &[D, 256], "writer down_proj rows"),
        ("vit.encoder.layer.0.layernorm_before.weight", &[D], "norm pre_attention_norm -"),
        ("vit.layernorm.weight", &[D], "norm final_norm -"),
    ];
    for config in [typed("vit"), Value::Null] {
        assert_eq!(check(config, vit).family, "vit");
    }
    let resolved = check(
        json!({"model_type": "clip", "text_config": {"model_type": "clip_text_model", "hidden_size": D}}),
        &[
            ("text_model.embeddings.token_embedding.weight", &[500, D], "embedding embed_tokens columns"),
            ("text_model.encoder.layers.0.self_attn.q_proj.weight", &[D, D], "reader q_proj columns"),
            ("text_model.encoder.layers.0.self_attn.out_proj.weight", &[D, D], "writer o_proj rows"),
            ("text_model.encoder.layers.0.mlp.fc1.weight", &[256, D], "reader up_proj columns"),
            ("text_model.encoder.layers.0.mlp.fc2.weight", &[D, 256], "writer down_proj rows"),
            ("text_model.encoder.layers.0.layer_norm1.weight", &[D], "norm pre_attention_norm -"),
            ("text_model.final_layer_norm.weight", &[D], "norm final_norm -"),
            ("vision_model.encoder.layers.0.self_attn.out_proj.weight", &[96, 96], "other out_proj -"),
            ("text_projection.weight", &[32, D], "other text_projection -"),
            ("logit_scale", &[], "other logit_scale -"),
        ],
    );
    assert_eq!(resolved.family, "clip");
    let rwkv: &[(&str, &[u64], &str)] = &[
        ("rwkv.embeddings.weight", &[500, D], "embedding embed_tokens columns"),
        ("rwkv.blocks.0.pre_ln.weight", &[D], "norm embedding_norm -"),
        ("rwkv.blocks.0.attention.key.weight", &[D, D], "reader k_proj columns"),
        ("rwkv.blocks.0.attention.receptance.weight", &[D, D], "reader receptance_proj columns"),
        ("rwkv.blocks.0.attention.output.weight", &[D, D], "writer o_proj rows"),
        ("rwkv.blocks.0.attention.time_decay", &[D], "other time_decay -"),
        ("rwkv.blocks.0.feed_forward.key.weight", &[256, D], "reader up_proj columns"),
        ("rwkv.blocks.0.feed_forward.receptance.weight", &[D, D], "reader mlp_gate columns"),
        ("rwkv.blocks.0.feed_forward.value.weight", &[D, 256], "writer down_proj rows"),
        ("rwkv.ln_out.weight", &[D], "norm final_norm -"),
        ("head.weight", &[500, D], "head lm_head columns"),
    ];
    for config in [typed("rwkv"), Value::Null] {
        assert_eq!(check(config, rwkv).family, "rwkv");
    }
    check(
        typed("mamba"),
        &[
            ("backbone.embeddings.weight", &[500, D], "embedding embed_tokens columns"),
            ("backbone.layers.0.mixer.in_proj.weight", &[256, D], "reader in_proj columns"),
            ("backbone.layers.0.mixer.x_proj.weight", &[36, 128], "other x_proj -"),
            ("backbone.layers.0.mixer.out_proj.weight", &[D, 128], "writer out_proj rows"),
            ("backbone.layers.0.norm.weight", &[D], "norm pre_attention_norm -"),
        ],
    );
}

#[test]
fn an_unknown_architecture_falls_back() {
    let resolved = check(
        json!({"model_type": "brand_new", "hidden_size": D}),
        &[
            ("model.token_embed.weight", &[500, D], "embedding embed_tokens columns"),
            ("model.layers.0.mixing.query.weight", &[D, D], "reader query columns"),
            ("model.layers.0.attention_thing.proj_out.weight", &[D, D], "writer o_proj rows"),
            ("model.layers.0.ffn.contract.weight", &[D, 96], "writer contract rows"),
            ("model.layers.0.ffn.expand.weight", &[96, D], "reader expand columns"),
            ("model.layers.0.odd.weight", &[D, D], "other odd -"),
        ],
    );
    assert_eq!(resolved.family, "fallback");
}

#[test]
fn conv1d_matrices_are_told_by_width_where_they_are_not_square() {
    check(
        typed("llama"),
        &[
            ("model.layers.0.mlp.up_proj.weight", &[D, 96], "reader up_proj rows"),
            ("model.layers.0.mlp.gate_proj.weight", &[D, 96], "reader gate_proj rows"),
            ("model.layers.0.mlp.down_proj.weight", &[96, D], "writer down_proj columns"),
        ],
    );
}
