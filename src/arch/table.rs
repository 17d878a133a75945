//! The table of architectures: one row per family, each a handful of choices on top of `PLAIN`.
//!
//! To add a family: one row and one line in [`ARCHITECTURES`]; names that no group of `rules.rs` has go into a new
//! group.

use super::rules::{
    ALBERT, ATTENTION, BART, BERT, CLASSIC, CLIP, DISTILBERT, EXPERTS, FALCON_NORMS, GEMMA_EXTRAS, GGUF_FUSED_UP,
    GGUF_GEMMA4, GGUF_LINEAR, GGUF_LLAMA_NORM, GLM4_NORMS, GRANITE, LATENT_ATTENTION, META, MIXERS, MLP, NEMOTRON_H,
    NORMS, PHI_MIXER, QWEN1_MLP, RWKV, Rule, SANDWICH_NORMS, T5, TOP, VIT,
};

/// How query, key and value rows lie in a fused projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedQkv {
    /// All queries, all keys, all values.
    Concatenated,
    /// Head by head: its query, its key, its value (GPT-NeoX, Bloom, ChatGLM 1, Persimmon).
    PerHead,
    /// Group by group: the group's queries, its key, its value (InternLM 2).
    PerGroup,
    /// Per group, per head or concatenated as the configuration says (Falcon).
    Falcon,
}

/// How gate and up rows lie in a fused projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedGate {
    /// All of the gate, then all of up.
    Concatenated,
    /// Alternating: gate, up, gate, up (gpt-oss).
    Interleaved,
}

/// What a conversion to GGUF changes beside the names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GgufLayout {
    /// Rows of q and k are regrouped per head from halves to pairs.
    pub permuted_rotary: bool,
    /// Added to norm gains.
    pub norm_shift: f32,
    /// Value heads of linear attention are regrouped from key-head order to tiles.
    pub tiled_value_heads: bool,
    /// Names with another meaning than usual.
    pub rules: &'static [Rule],
}

/// One family of architectures.
#[derive(Debug)]
pub struct Architecture {
    /// Its name in records.
    pub family: &'static str,
    /// `model_type` values of `config.json` and `general.architecture` values of GGUF. A `*` at the end means any tail.
    pub types: &'static [&'static str],
    /// Module paths that tell it where no configuration does: all must be present.
    pub marks: &'static [&'static str],
    /// Groups of rules, an earlier one deciding.
    pub rules: &'static [&'static [Rule]],
    /// Name prefixes of its own.
    pub prefixes: &'static [&'static str],
    /// Beginnings of the names of its stacks of blocks, where it has several, each with a residual stream of its own.
    pub stacks: &'static [&'static str],
    /// Whether matrices of blocks are stored input first (`Conv1D`).
    pub input_first: bool,
    /// Whether stacked experts are stored input first: (experts, in, out).
    pub experts_input_first: bool,
    /// The layout of fused query, key and value.
    pub qkv: FusedQkv,
    /// The layout of fused gate and up.
    pub gate_up: FusedGate,
    /// What its GGUF files differ in.
    pub gguf: GgufLayout,
}

const AS_STORED: GgufLayout =
    GgufLayout { permuted_rotary: false, norm_shift: 0.0, tiled_value_heads: false, rules: &[] };
const PERMUTED: GgufLayout = GgufLayout { permuted_rotary: true, ..AS_STORED };
const GAIN_PLUS_ONE: GgufLayout = GgufLayout { norm_shift: 1.0, ..AS_STORED };

/// Llama's names in all their extensions; every family starts from it.
const COMMON: &[&[Rule]] = &[TOP, ATTENTION, LATENT_ATTENTION, MLP, EXPERTS, GRANITE, MIXERS, NORMS, CLASSIC, META];

/// What a row does not say.
const PLAIN: Architecture = Architecture {
    family: "plain",
    types: &[],
    marks: &[],
    rules: COMMON,
    prefixes: &[],
    stacks: &[],
    input_first: false,
    experts_input_first: false,
    qkv: FusedQkv::Concatenated,
    gate_up: FusedGate::Concatenated,
    gguf: AS_STORED,
};

static LLAMA: Architecture = Architecture {
    family: "llama",
    types: &[
        "llama",
        "mllama_text_model",
        "smollm3",
        "yi",
        "arcee",
        "deci",
        "llama-embed",
        "vicuna",
        "xverse",
        "minicpm",
    ],
    gguf: PERMUTED,
    ..PLAIN
};
static MISTRAL: Architecture = Architecture {
    family: "mistral",
    types: &["mistral", "mistral3", "ministral", "ministral3", "mistral4"],
    gguf: PERMUTED,
    ..PLAIN
};
static MIXTRAL: Architecture = Architecture {
    family: "mixtral",
    types: &["mixtral"],
    marks: &["block_sparse_moe.experts.w2"],
    gguf: PERMUTED,
    ..PLAIN
};
static LLAMA4: Architecture = Architecture {
    family: "llama4",
    types: &["llama4*"],
    marks: &["feed_forward.shared_expert.down_proj"],
    experts_input_first: true,
    ..PLAIN
};
static QWEN1: Architecture = Architecture {
    family: "qwen",
    types: &["qwen"],
    marks: &["mlp.w1", "attn.c_attn"],
    rules: &[QWEN1_MLP, TOP, ATTENTION, MLP, NORMS, CLASSIC],
    ..PLAIN
};
static QWEN2: Architecture = Architecture {
    family: "qwen2",
    types: &["qwen2", "qwen2_moe", "qwen2moe", "qwen2_vl*", "qwen2vl", "qwen2_5_vl*", "qwen2_5_omni*", "dream"],
    ..PLAIN
};
static QWEN3: Architecture = Architecture {
    family: "qwen3",
    types: &["qwen3", "qwen3_moe", "qwen3moe", "qwen3_vl", "qwen3_vl_text", "qwen3vl", "rnd1"],
    ..PLAIN
};
static QWEN3_VL_MOE: Architecture = Architecture {
    family: "qwen3-vl-moe",
    types: &["qwen3_vl_moe*", "qwen3vlmoe", "qwen3_omni_moe*"],
    experts_input_first: true,
    ..PLAIN
};
static QWEN3_NEXT: Architecture = Architecture {
    family: "qwen3-next",
    types: &["qwen3_next", "qwen3next"],
    marks: &["linear_attn.out_proj", "linear_attn.in_proj_qkvz"],
    gguf: GgufLayout { norm_shift: 1.0, rules: GGUF_LINEAR, ..AS_STORED },
    ..PLAIN
};
static QWEN35: Architecture = Architecture {
    family: "qwen3.5",
    types: &["qwen3_5*", "qwen35*", "qwen3_6*", "qwen3.5*"],
    marks: &["linear_attn.out_proj"],
    gguf: GgufLayout { norm_shift: 1.0, tiled_value_heads: true, rules: GGUF_LINEAR, ..AS_STORED },
    ..PLAIN
};
static GEMMA: Architecture = Architecture { family: "gemma", types: &["gemma"], gguf: GAIN_PLUS_ONE, ..PLAIN };
static GEMMA2: Architecture = Architecture {
    family: "gemma2",
    types: &["gemma2"],
    marks: &["pre_feedforward_layernorm", "post_feedforward_layernorm"],
    rules: &[SANDWICH_NORMS, TOP, ATTENTION, MLP, EXPERTS, NORMS],
    gguf: GAIN_PLUS_ONE,
    ..PLAIN
};
static GEMMA3: Architecture = Architecture {
    family: "gemma3",
    types: &["gemma3", "gemma3_text", "gemma-embedding"],
    marks: &["pre_feedforward_layernorm", "self_attn.q_norm"],
    rules: &[SANDWICH_NORMS, TOP, ATTENTION, MLP, EXPERTS, NORMS],
    gguf: GAIN_PLUS_ONE,
    ..PLAIN
};
static GEMMA3N: Architecture = Architecture {
    family: "gemma3n",
    types: &["gemma3n*"],
    marks: &["laurel.linear_left"],
    rules: &[SANDWICH_NORMS, GEMMA_EXTRAS, TOP, ATTENTION, MLP, NORMS],
    ..PLAIN
};
static GEMMA4: Architecture = Architecture {
    family: "gemma4",
    types: &["gemma4*"],
    marks: &["layer_scalar", "pre_feedforward_layernorm"],
    rules: &[SANDWICH_NORMS, GEMMA_EXTRAS, TOP, ATTENTION, MLP, EXPERTS, NORMS],
    gguf: GgufLayout { rules: GGUF_GEMMA4, ..AS_STORED },
    ..PLAIN
};
static PHI: Architecture = Architecture {
    family: "phi",
    types: &["phi", "phi-msft", "mixformer-sequential", "phi2"],
    marks: &["self_attn.dense", "mlp.fc1"],
    rules: &[PHI_MIXER, TOP, ATTENTION, MLP, NORMS, CLASSIC],
    ..PLAIN
};
static PHI3: Architecture = Architecture {
    family: "phi3",
    types: &["phi3", "phi3small", "phi3_v", "phi4", "phi4mm", "phi4_multimodal", "phimoe"],
    marks: &["self_attn.qkv_proj", "mlp.gate_up_proj"],
    gguf: GgufLayout { rules: GGUF_FUSED_UP, ..AS_STORED },
    ..PLAIN
};
static OLMO: Architecture = Architecture { family: "olmo", types: &["olmo"], gguf: PERMUTED, ..PLAIN };
static OLMO2: Architecture = Architecture {
    family: "olmo2",
    types: &["olmo2", "olmo3", "olmo_hybrid"],
    rules: &[SANDWICH_NORMS, TOP, ATTENTION, MLP, EXPERTS, MIXERS, NORMS],
    ..PLAIN
};
static OLMOE: Architecture = Architecture { family: "olmoe", types: &["olmoe", "flex_olmo"], ..PLAIN };
static GPT2: Architecture = Architecture {
    family: "gpt2",
    types: &["gpt2", "jais"],
    marks: &["attn.c_attn", "mlp.c_fc"],
    input_first: true,
    ..PLAIN
};
static GPT_BIGCODE: Architecture =
    Architecture { family: "gpt-bigcode", types: &["gpt_bigcode", "starcoder"], ..PLAIN };
static STARCODER2: Architecture = Architecture { family: "starcoder2", types: &["starcoder2"], ..PLAIN };
static GPT_NEO: Architecture =
    Architecture { family: "gpt-neo", types: &["gpt_neo"], marks: &["attn.attention.out_proj", "mlp.c_proj"], ..PLAIN };
static GPT_NEOX: Architecture = Architecture {
    family: "gpt-neox",
    types: &["gpt_neox", "gptneox", "gpt_neox_japanese"],
    marks: &["attention.query_key_value", "mlp.dense_4h_to_h"],
    qkv: FusedQkv::PerHead,
    ..PLAIN
};
static GPTJ: Architecture =
    Architecture { family: "gptj", types: &["gptj", "codegen"], marks: &["mlp.fc_out", "attn.out_proj"], ..PLAIN };
static GPT_OSS: Architecture = Architecture {
    family: "gpt-oss",
    types: &["gpt_oss", "gpt-oss"],
    marks: &["self_attn.sinks", "mlp.experts.down_proj"],
    experts_input_first: true,
    gate_up: FusedGate::Interleaved,
    gguf: GgufLayout { rules: GGUF_LLAMA_NORM, ..AS_STORED },
    ..PLAIN
};
static FALCON: Architecture = Architecture {
    family: "falcon",
    types: &["falcon", "refinedweb", "refinedwebmodel"],
    marks: &["self_attention.query_key_value", "mlp.dense_4h_to_h", "ln_attn"],
    rules: &[FALCON_NORMS, TOP, MLP, NORMS, CLASSIC],
    qkv: FusedQkv::Falcon,
    ..PLAIN
};
static FALCON_H1: Architecture = Architecture { family: "falcon-h1", types: &["falcon_h1", "falcon-h1"], ..PLAIN };
static BLOOM: Architecture = Architecture {
    family: "bloom",
    types: &["bloom"],
    marks: &["self_attention.query_key_value", "mlp.dense_4h_to_h"],
    qkv: FusedQkv::PerHead,
    ..PLAIN
};
static OPT: Architecture = Architecture {
    family: "opt",
    types: &["opt"],
    marks: &["self_attn.out_proj", "fc2", "self_attn_layer_norm"],
    prefixes: &["decoder."],
    ..PLAIN
};
static MPT: Architecture =
    Architecture { family: "mpt", types: &["mpt"], marks: &["attn.Wqkv", "ffn.down_proj"], ..PLAIN };
static COHERE: Architecture =
    Architecture { family: "cohere", types: &["cohere", "cohere2*", "command-r", "aya_vision"], ..PLAIN };
static DEEPSEEK: Architecture = Architecture {
    family: "deepseek",
    types: &[
        "deepseek",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v4*",
        "deepseek2",
        "kimi_k2*",
        "kimi*",
    ],
    marks: &["self_attn.kv_b_proj"],
    ..PLAIN
};
static GLM4: Architecture = Architecture {
    family: "glm4",
    types: &["glm4", "glm", "glm4v*"],
    marks: &["post_self_attn_layernorm"],
    rules: &[GLM4_NORMS, TOP, ATTENTION, MLP, EXPERTS, NORMS],
    gguf: GgufLayout { rules: GGUF_FUSED_UP, ..AS_STORED },
    ..PLAIN
};
static GLM4_MOE: Architecture = Architecture {
    family: "glm4-moe",
    types: &["glm4_moe*", "glm4moe*", "glm4v_moe*", "glm_moe*", "glm5*"],
    gguf: GgufLayout { rules: GGUF_LLAMA_NORM, ..AS_STORED },
    ..PLAIN
};
static CHATGLM: Architecture = Architecture {
    family: "chatglm",
    types: &["chatglm"],
    marks: &["self_attention.dense", "mlp.dense_h_to_4h"],
    rules: &[CHATGLM_UP, TOP, MLP, NORMS, CLASSIC],
    prefixes: &["encoder."],
    gguf: GgufLayout { rules: GGUF_FUSED_UP, ..AS_STORED },
    ..PLAIN
};
static BERT_ROW: Architecture = Architecture {
    family: "bert",
    types: &["bert", "roberta", "xlm-roberta", "camembert", "electra"],
    marks: &["attention.output.dense", "intermediate.dense"],
    rules: &[BERT],
    prefixes: &["bert.", "roberta.", "electra.", "encoder."],
    ..PLAIN
};
static DISTILBERT_ROW: Architecture = Architecture {
    family: "distilbert",
    types: &["distilbert"],
    marks: &["attention.out_lin", "ffn.lin2"],
    rules: &[DISTILBERT],
    prefixes: &["distilbert."],
    ..PLAIN
};
static ALBERT_ROW: Architecture = Architecture {
    family: "albert",
    types: &["albert"],
    marks: &["albert_layers.0.attention.dense", "albert_layers.0.ffn_output"],
    rules: &[ALBERT],
    prefixes: &["albert.", "encoder."],
    ..PLAIN
};
static T5_ROW: Architecture = Architecture {
    family: "t5",
    types: &["t5", "mt5", "umt5", "longt5"],
    marks: &["layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"],
    rules: &[T5, TOP],
    stacks: &["encoder.", "decoder."],
    ..PLAIN
};
/// Whisper, and the encoders with decoders whose names it took over.
static BART_ROW: Architecture = Architecture {
    family: "bart",
    types: &["bart", "mbart", "marian", "m2m_100", "pegasus", "blenderbot*", "speech_to_text", "whisper"],
    marks: &["encoder_attn.out_proj", "encoder_attn_layer_norm", "self_attn.out_proj", "fc2"],
    rules: &[BART, ATTENTION, CLASSIC, TOP],
    stacks: &["encoder.", "decoder."],
    ..PLAIN
};
static VIT_ROW: Architecture = Architecture {
    family: "vit",
    types: &["vit", "deit", "vit_mae", "vit_msn"],
    marks: &["attention.output.dense", "intermediate.dense", "attention.attention.query"],
    rules: &[VIT, BERT],
    prefixes: &["vit.", "deit.", "encoder."],
    ..PLAIN
};
/// CLIP's text model; its vision tower has a width of its own and lies outside, as every vision tower does.
static CLIP_ROW: Architecture = Architecture {
    family: "clip",
    types: &["clip", "clip_text_model", "siglip", "siglip_text_model"],
    rules: &[CLIP, ATTENTION, MLP],
    prefixes: &["encoder."],
    ..PLAIN
};
static RWKV_ROW: Architecture = Architecture {
    family: "rwkv",
    types: &["rwkv", "rwkv5", "rwkv6", "rwkv7"],
    marks: &["attention.receptance", "feed_forward.receptance"],
    rules: &[RWKV],
    prefixes: &["rwkv."],
    ..PLAIN
};
/// ChatGLM's first MLP matrix holds gate and up.
const CHATGLM_UP: &[Rule] = &[Rule { path: "mlp.dense_h_to_4h", slot: "gate_up_proj", kind: super::Kind::Reader }];
static GRANITE_ROW: Architecture = Architecture {
    family: "granite",
    types: &["granite", "granitemoe", "granitemoeshared"],
    marks: &["block_sparse_moe.output_linear"],
    gguf: PERMUTED,
    ..PLAIN
};
static GRANITE_HYBRID: Architecture = Architecture {
    family: "granite-hybrid",
    types: &["granitemoehybrid", "granitehybrid"],
    marks: &["shared_mlp.output_linear", "mamba.out_proj"],
    gguf: PERMUTED,
    ..PLAIN
};
static LFM2: Architecture =
    Architecture { family: "lfm2", types: &["lfm2*"], marks: &["conv.out_proj", "feed_forward.w2"], ..PLAIN };
static MAMBA: Architecture =
    Architecture { family: "mamba", types: &["mamba", "mamba2", "falcon_mamba"], marks: &["mixer.out_proj"], ..PLAIN };
static STABLELM: Architecture = Architecture { family: "stablelm", types: &["stablelm*"], ..PLAIN };
static INTERNLM2: Architecture = Architecture {
    family: "internlm2",
    types: &["internlm2"],
    marks: &["attention.wqkv"],
    qkv: FusedQkv::PerGroup,
    gguf: PERMUTED,
    ..PLAIN
};
static BAICHUAN: Architecture =
    Architecture { family: "baichuan", types: &["baichuan"], marks: &["self_attn.W_pack"], gguf: PERMUTED, ..PLAIN };
static NEMOTRON: Architecture = Architecture { family: "nemotron", types: &["nemotron"], gguf: GAIN_PLUS_ONE, ..PLAIN };
static NEMOTRON_ROW_H: Architecture = Architecture {
    family: "nemotron-h",
    types: &["nemotron_h*"],
    marks: &["mixer.out_proj", "mixer.o_proj"],
    rules: &[NEMOTRON_H, TOP, MIXERS, NORMS],
    ..PLAIN
};
static EXAONE: Architecture =
    Architecture { family: "exaone", types: &["exaone"], marks: &["attn.attention.out_proj", "mlp.c_fc_0"], ..PLAIN };
static EXAONE4: Architecture = Architecture {
    family: "exaone4",
    types: &["exaone4*", "exaone_moe*"],
    rules: &[SANDWICH_NORMS, TOP, ATTENTION, MLP, EXPERTS, NORMS],
    ..PLAIN
};
static JAMBA: Architecture =
    Architecture { family: "jamba", types: &["jamba"], marks: &["mamba.out_proj", "feed_forward.down_proj"], ..PLAIN };
static MINIMAX: Architecture = Architecture {
    family: "minimax",
    types: &["minimax*"],
    marks: &["block_sparse_moe.experts.w2", "self_attn.q_norm"],
    ..PLAIN
};
static HUNYUAN: Architecture = Architecture { family: "hunyuan", types: &["hunyuan*"], ..PLAIN };
static ERNIE: Architecture = Architecture { family: "ernie", types: &["ernie4_5*"], ..PLAIN };
static LLAMA_LIKE: Architecture = Architecture {
    family: "plain-llama-names",
    types: &["seed_oss", "seed-oss", "internlm3", "apertus", "smallthinker", "dots1", "bailing*", "afmoe"],
    ..PLAIN
};

/// Every architecture. Where no configuration names one, the row with the most marks present decides.
pub static ARCHITECTURES: &[&Architecture] = &[
    &LLAMA,
    &MISTRAL,
    &MIXTRAL,
    &LLAMA4,
    &QWEN1,
    &QWEN2,
    &QWEN3,
    &QWEN3_VL_MOE,
    &QWEN3_NEXT,
    &QWEN35,
    &GEMMA,
    &GEMMA2,
    &GEMMA3,
    &GEMMA3N,
    &GEMMA4,
    &PHI,
    &PHI3,
    &OLMO,
    &OLMO2,
    &OLMOE,
    &GPT2,
    &GPT_BIGCODE,
    &STARCODER2,
    &GPT_NEO,
    &GPT_NEOX,
    &GPTJ,
    &GPT_OSS,
    &FALCON,
    &FALCON_H1,
    &BLOOM,
    &OPT,
    &MPT,
    &COHERE,
    &DEEPSEEK,
    &GLM4,
    &GLM4_MOE,
    &CHATGLM,
    &BERT_ROW,
    &DISTILBERT_ROW,
    &ALBERT_ROW,
    &T5_ROW,
    &BART_ROW,
    &VIT_ROW,
    &CLIP_ROW,
    &RWKV_ROW,
    &GRANITE_ROW,
    &GRANITE_HYBRID,
    &LFM2,
    &MAMBA,
    &STABLELM,
    &INTERNLM2,
    &BAICHUAN,
    &NEMOTRON,
    &NEMOTRON_ROW_H,
    &EXAONE,
    &EXAONE4,
    &JAMBA,
    &MINIMAX,
    &HUNYUAN,
    &ERNIE,
    &LLAMA_LIKE,
];

/// The row of a `model_type` or `general.architecture` value.
pub fn of_type(model_type: &str) -> Option<&'static Architecture> {
    let matches = |row: &&&'static Architecture, exact: bool| {
        row.types.iter().any(|name| match name.strip_suffix('*') {
            Some(stem) => !exact && model_type.starts_with(stem),
            None => exact && *name == model_type,
        })
    };
    let rows = || ARCHITECTURES.iter();
    // The longest stem wins, so that `glm4v_moe` is not taken for `glm4v`.
    rows()
        .find(|row| matches(row, true))
        .or_else(|| {
            rows().filter(|row| matches(row, false)).max_by_key(|row| {
                row.types
                    .iter()
                    .filter_map(|name| name.strip_suffix('*'))
                    .filter(|stem| model_type.starts_with(stem))
                    .map(str::len)
                    .max()
            })
        })
        .copied()
}

/// The row whose marks are all present, the one with most marks first; the first row in the table among equals.
pub fn of_marks(present: impl Fn(&str) -> bool) -> Option<&'static Architecture> {
    let mut best: Option<&'static Architecture> = None;
    for row in ARCHITECTURES.iter().copied() {
        let all = !row.marks.is_empty() && row.marks.iter().all(|mark| present(mark));
        if all && best.is_none_or(|best| row.marks.len() > best.marks.len()) {
            best = Some(row);
        }
    }
    best
}

/// The row that stands for Llama's names where nothing more special is known.
pub fn llama() -> &'static Architecture {
    &LLAMA
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn families_and_types_are_unique() {
        let mut families = BTreeSet::new();
        let mut types = BTreeSet::new();
        for row in ARCHITECTURES {
            assert!(families.insert(row.family), "{} twice", row.family);
            assert!(!row.types.is_empty(), "{} has no type", row.family);
            for name in row.types {
                assert!(types.insert(*name), "{name} twice");
            }
        }
    }

    /// `docs/architectures.md` has the same rows in the same order, and tells of each what it changes in the layout.
    #[test]
    fn the_documented_table_is_this_one() {
        let text = include_str!("../../docs/architectures.md");
        let part =
            text.split("\n## The table\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
        let rows = part.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")).skip(1);
        let documented: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(str::trim).collect()).collect();
        let named = |row: &&Architecture| {
            let types: Vec<String> = row.types.iter().map(|name| format!("`{name}`")).collect();
            vec![row.family.to_owned(), types.join(", ")]
        };
        let of_table: Vec<Vec<String>> = ARCHITECTURES.iter().map(named).collect();
        assert_eq!(documented.iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>(), of_table);
        for (row, told) in ARCHITECTURES.iter().zip(documented) {
            for (words, holds) in [
                ("matrices stored input first", row.input_first),
                ("stacked experts stored input first", row.experts_input_first),
                ("gate and up rows alternate", row.gate_up == FusedGate::Interleaved),
                ("fused q, k, v", row.qkv != FusedQkv::Concatenated),
                ("GGUF: q and k in rotary pairs", row.gguf.permuted_rotary),
                ("GGUF: gains plus one", row.gguf.norm_shift > 0.0),
                ("GGUF: value heads in tiles", row.gguf.tiled_value_heads),
            ] {
                assert_eq!(told[2].contains(words), holds, "{}: {words}", row.family);
            }
        }
    }

    #[test]
    fn every_mark_is_a_path_of_its_own_rules() {
        for row in ARCHITECTURES {
            for mark in row.marks {
                assert!(
                    row.rules.iter().any(|group| group.iter().any(|rule| rule.path == *mark)),
                    "{mark} of {}",
                    row.family
                );
            }
        }
    }

    #[test]
    fn types_resolve_to_the_nearest_row() {
        for (name, family) in [
            ("llama", "llama"),
            ("qwen3_vl_moe_text", "qwen3-vl-moe"),
            ("gemma3n_text", "gemma3n"),
            ("gemma3_text", "gemma3"),
            ("glm4v_moe_text", "glm4-moe"),
            ("glm4v_text", "glm4"),
            ("qwen3_5_moe_text", "qwen3.5"),
            ("deepseek_v3", "deepseek"),
            ("llama4_text", "llama4"),
        ] {
            assert_eq!(of_type(name).map(|row| row.family), Some(family), "{name}");
        }
        assert!(of_type("").is_none());
        assert!(of_type("no_such_thing").is_none());
    }
}
