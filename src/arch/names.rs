//! Takes a tensor name apart: wrapper prefixes, tower, block number, path inside the block, expert, weight or bias.

use serde::{Deserialize, Serialize};

/// Whether a tensor is a module's weight (or its only parameter) or its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parameter {
    /// The weight, or a bare parameter.
    Weight,
    /// The bias.
    Bias,
}

/// A tensor name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The name without wrapper prefixes.
    pub stripped: String,
    /// Whether it lies outside the text decoder (vision and audio towers, projectors, encoders, draft heads).
    pub outside: bool,
    /// The block, counted from 0 as in the name; in a later stack of an architecture with several, from behind the
    /// blocks of those before.
    pub layer: Option<u32>,
    /// The stack it lies in (`encoder.`, `decoder.`), where the architecture has several; empty elsewhere.
    pub stack: &'static str,
    /// The module path inside the block (inside the model, when there is no block), without expert number and
    /// without `.weight` or `.bias`.
    pub path: String,
    /// The expert number in the name.
    pub expert: Option<u32>,
    /// Weight or bias.
    pub parameter: Parameter,
}

/// Prefixes that wrappers put before a name: compilers, data parallelism, adapters, multimodal shells, pipelines.
const PREFIXES: &[&str] = &[
    "_orig_mod.",
    "module.",
    "base_model.",
    "model.",
    "language_model.",
    "text_model.",
    "transformer.",
    "gpt_neox.",
    "backbone.",
    "llm.",
    "thinker.",
    "cond_stage_model.",
];

/// Segments before the block number that say: not the text decoder.
const OUTSIDE: &[&str] = &[
    "visual",
    "vision",
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "vision_embed_tokens",
    "vision_language_adapter",
    "audio",
    "audio_tower",
    "audio_model",
    "audio_encoder",
    "audio_embed",
    "multi_modal_projector",
    "mm_projector",
    "embed_vision",
    "embed_audio",
    "encoder",
    "talker",
    "code2wav",
    "token2wav",
    "vpm",
    "apm",
    "resampler",
    "img_projector",
    "image_newline",
    "mlp1",
    "mtp",
    "v",
    "mm",
    "a",
];

/// Segments that stand before a block number.
const BLOCKS: &[&str] = &["layers", "h", "blocks", "block", "layer", "blk", "decoder_layer", "albert_layer_groups"];

/// Removes wrapper prefixes, those of `more` among them, until none is left.
pub fn strip<'a>(name: &'a str, more: &[&str]) -> &'a str {
    let mut rest = name;
    loop {
        let before = rest;
        // ComfyUI keeps a pipeline's text encoder as `text_encoders.<name>.transformer.…`.
        if let Some(tail) = rest.strip_prefix("text_encoders.")
            && let Some((_, tail)) = tail.split_once('.')
        {
            rest = tail;
        }
        for prefix in PREFIXES.iter().chain(more) {
            if let Some(tail) = rest.strip_prefix(prefix)
                && !tail.is_empty()
            {
                rest = tail;
            }
        }
        if rest == before {
            return rest;
        }
    }
}

impl Parsed {
    /// Takes `name` apart; `more` are prefixes of the architecture's own (`encoder.` for ChatGLM).
    pub fn new(name: &str, more: &[&str]) -> Self {
        let stripped = strip(name, more);
        let mut segments: Vec<&str> = stripped.split('.').filter(|segment| *segment != "base_layer").collect();
        let block = segments.windows(2).position(|pair| BLOCKS.contains(&pair[0]) && pair[1].parse::<u32>().is_ok());
        let before = block.unwrap_or(segments.len());
        // T5 names the blocks of its two halves alike; BERT's relatives have no decoder at all.
        let t5 = stripped.starts_with("decoder.block.");
        let outside = t5 || segments[..before].iter().any(|segment| OUTSIDE.contains(segment));
        let layer = block.and_then(|at| segments[at + 1].parse().ok());
        let parameter = match segments.last() {
            Some(&"bias") if segments.len() > 1 => Parameter::Bias,
            _ => Parameter::Weight,
        };
        if matches!(segments.last(), Some(&"weight" | &"bias")) && segments.len() > 1 {
            segments.pop();
        }
        let inside = block.map_or(0, |at| at + 2).min(segments.len());
        let mut path = String::new();
        let mut expert = None;
        for (at, segment) in segments.iter().enumerate().skip(inside) {
            let previous = at.checked_sub(1).and_then(|at| segments.get(at)).copied().unwrap_or("");
            if expert.is_none()
                && let Ok(number) = segment.parse::<u32>()
            {
                if previous == "experts" {
                    expert = Some(number);
                    continue;
                }
                // Older GGUF files keep each expert apart: `blk.0.ffn_down.3.weight`.
                if matches!(previous, "ffn_down" | "ffn_up" | "ffn_gate") {
                    expert = Some(number);
                    path.push_str("_exps");
                    continue;
                }
            }
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(segment);
        }
        // Stacked expert biases are bare parameters: `mlp.experts.down_proj_bias`.
        let (path, parameter) = match path.strip_suffix("_bias") {
            Some(weight) if path.contains("experts.") => (weight.to_owned(), Parameter::Bias),
            _ => (path, parameter),
        };
        Self { stripped: stripped.to_owned(), outside, layer, stack: "", path, expert, parameter }
    }
}

impl Parsed {
    /// Takes `name` apart as one of an architecture whose blocks lie in several stacks; `before` is the number of
    /// blocks before each of them.
    pub fn in_stacks(name: &str, more: &[&str], stacks: &[&'static str], before: &[u32]) -> Self {
        let stripped = strip(name, more);
        let found = stacks.iter().enumerate().find_map(|(at, stack)| Some((at, *stack, stripped.strip_prefix(stack)?)));
        let Some((at, stack, rest)) = found else { return Self::new(name, more) };
        let parsed = Self::new(rest, &[]);
        let first = before.get(at).copied().unwrap_or(0);
        let layer = parsed.layer.and_then(|layer| layer.checked_add(first));
        Self { stripped: stripped.to_owned(), layer, stack, ..parsed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_stripped_in_any_order() {
        for name in [
            "model.layers.0.self_attn.o_proj.weight",
            "language_model.model.layers.0.self_attn.o_proj.weight",
            "model.language_model.layers.0.self_attn.o_proj.weight",
            "base_model.model.model.layers.0.self_attn.o_proj.base_layer.weight",
            "_orig_mod.module.model.layers.0.self_attn.o_proj.weight",
            "text_encoders.qwen3_4b.transformer.model.layers.0.self_attn.o_proj.weight",
        ] {
            let parsed = Parsed::new(name, &[]);
            assert_eq!((parsed.layer, parsed.path.as_str()), (Some(0), "self_attn.o_proj"), "{name}");
            assert!(!parsed.outside);
        }
    }

    #[test]
    fn experts_and_biases_are_seen() {
        let parsed = Parsed::new("model.layers.3.mlp.experts.17.down_proj.weight", &[]);
        assert_eq!((parsed.path.as_str(), parsed.expert), ("mlp.experts.down_proj", Some(17)));
        let parsed = Parsed::new("model.layers.3.mlp.experts.down_proj_bias", &[]);
        assert_eq!((parsed.path.as_str(), parsed.parameter), ("mlp.experts.down_proj", Parameter::Bias));
        let parsed = Parsed::new("blk.2.ffn_down.5.weight", &[]);
        assert_eq!((parsed.path.as_str(), parsed.expert), ("ffn_down_exps", Some(5)));
    }

    #[test]
    fn towers_are_outside() {
        for name in [
            "visual.blocks.0.attn.proj.weight",
            "model.vision_tower.vision_model.encoder.layers.0.self_attn.out_proj.weight",
            "v.blk.0.attn_out.weight",
            "mtp.layers.0.mlp.down_proj.weight",
            "encoder.block.0.layer.0.SelfAttention.o.weight",
        ] {
            assert!(Parsed::new(name, &[]).outside, "{name}");
        }
        assert!(!Parsed::new("transformer.encoder.layers.0.mlp.dense_4h_to_h.weight", &["encoder."]).outside);
    }

    #[test]
    fn odd_names_do_not_panic() {
        for name in ["", ".", "..", "weight", "bias", "layers.", "layers.0", "layers.0.", "h.99999999999.x", "model."] {
            Parsed::new(name, &[]);
        }
    }
}
