//! The names of an adapter's tensors, taken apart.

/// What a tensor of an adapter is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    /// The factor on the side of the inputs.
    A,
    /// The factor on the side of the outputs.
    B,
    /// The same of an embedding, whose weight is the transpose.
    EmbeddingA,
    /// The other of an embedding.
    EmbeddingB,
    /// What is added to the outputs.
    Bias,
    /// The norms that DoRA gives the rows.
    Magnitude,
    /// Rows of an embedding.
    Tokens,
}

/// Who writes names like these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `MODULE.lora_A.weight`, perhaps with the adapter's name before `weight`.
    Peft,
    /// `MODULE.lora_a` with inputs first.
    Mlx,
    /// `TENSOR.lora_a` in a GGUF file.
    LlamaCpp,
}

impl Dialect {
    /// How messages call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peft => "PEFT",
            Self::Mlx => "mlx-lm",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

/// A part of a module's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AdapterPart<'a> {
    /// The module (with llama.cpp the tensor), without what PEFT puts before it.
    pub module: &'a str,
    /// What it is.
    pub which: Which,
    /// The adapter's name, empty where there is none.
    pub adapter: &'a str,
}

/// Beginnings of the segments that PEFT's kinds of adapters other than LoRA name their parts by, and other libraries
/// theirs, with the kind or library.
const OTHERS: &[(&str, &str)] = &[
    ("lora_down", "kohya's scripts"),
    ("lora_up", "kohya's scripts"),
    ("lora_mid", "kohya's scripts"),
    ("lora_unet_", "kohya's scripts"),
    ("lora_te", "kohya's scripts"),
    ("lora_linear_layer", "diffusers"),
    ("to_q_lora", "diffusers"),
    ("to_k_lora", "diffusers"),
    ("to_v_lora", "diffusers"),
    ("to_out_lora", "diffusers"),
    ("lora_E", "PEFT's AdaLoRA"),
    ("lora_ranknum", "PEFT's AdaLoRA"),
    ("lora_", "a kind of LoRA"),
    ("hada_w", "LoHa"),
    ("lokr_w", "LoKr"),
    ("ia3_l", "IA³"),
    ("vera_", "VeRA"),
    ("pvera_", "VeRA"),
    ("oft_", "OFT"),
    ("boft_", "BOFT"),
    ("hra_", "HRA"),
    ("vblora_", "VB-LoRA"),
    ("randlora_", "RandLoRA"),
    ("fourierft_", "FourierFT"),
    ("waveft_", "WaveFT"),
    ("c3a_", "C3A"),
    ("shira_", "SHiRA"),
    ("bone_", "Bone"),
    ("miss_", "MiSS"),
    ("delora_", "DeLoRA"),
    ("hira_", "HiRA"),
    ("road_", "RoAd"),
    ("adaption_", "LLaMA-Adapter"),
    ("prompt_embeddings", "a learned prompt"),
    ("token_adapter", "PEFT's trainable tokens"),
    ("trainable_tokens", "PEFT's trainable tokens"),
    ("modules_to_save", "PEFT"),
    ("original_module", "PEFT"),
];

/// Takes the name of a tensor apart; `None` when it is no part of a kind that is read.
pub(super) fn part(name: &str, dialect: Dialect) -> Option<AdapterPart<'_>> {
    match dialect {
        Dialect::Mlx | Dialect::LlamaCpp => {
            let (module, last) = name.rsplit_once('.')?;
            let which = match last {
                "lora_a" => Which::A,
                "lora_b" => Which::B,
                "m" if dialect == Dialect::Mlx => Which::Magnitude,
                _ => return None,
            };
            Some(AdapterPart { module, which, adapter: "" })
        }
        Dialect::Peft => peft(without_prefix(name)),
    }
}

fn peft(plain: &str) -> Option<AdapterPart<'_>> {
    // The last segment that names a part; a module may be called after another.
    let starts = std::iter::once(0).chain(plain.match_indices('.').map(|(at, _)| at + 1));
    let segment = |start: usize| plain.get(start..)?.split('.').next();
    let (start, kind) = starts.filter_map(|start| Some((start, kind(segment(start)?)?))).next_back()?;
    let module = plain.get(..start)?.strip_suffix('.')?;
    let module = module.strip_suffix(".token_adapter").unwrap_or(module);
    let rest: Vec<&str> = plain.get(start..)?.split('.').skip(1).collect();
    // Factors of linear layers are layers of their own, with a weight; those of embeddings are bare.
    let bare = !matches!(kind, Which::A | Which::B);
    let (adapter, which) = match (rest.as_slice(), kind) {
        (["weight"], Which::A | Which::B | Which::Magnitude) => ("", kind),
        ([adapter, "weight"], Which::A | Which::B | Which::Magnitude) => (*adapter, kind),
        (["bias"], Which::B) => ("", Which::Bias),
        ([adapter, "bias"], Which::B) => (*adapter, Which::Bias),
        ([], _) if bare => ("", kind),
        ([adapter], _) if bare => (*adapter, kind),
        _ => return None,
    };
    Some(AdapterPart { module, which, adapter })
}

fn kind(segment: &str) -> Option<Which> {
    Some(match segment {
        "lora_A" => Which::A,
        "lora_B" => Which::B,
        "lora_embedding_A" => Which::EmbeddingA,
        "lora_embedding_B" => Which::EmbeddingB,
        "lora_magnitude_vector" => Which::Magnitude,
        "trainable_tokens_delta" => Which::Tokens,
        _ => return None,
    })
}

/// Whose part of an adapter a tensor is by its name, and the module that it belongs to; `None` for a model's own.
pub(super) fn owner(name: &str) -> Option<(&'static str, &str)> {
    let plain = without_prefix(name);
    let mut start = 0;
    for segment in plain.split('.') {
        let found = OTHERS.iter().find(|(beginning, _)| segment.starts_with(beginning));
        if let Some((_, owner)) = found {
            return Some((owner, plain.get(..start).unwrap_or_default().trim_end_matches('.')));
        }
        start += segment.len() + 1;
    }
    // Diffusers' older names: `….lora.down.weight`.
    let lora = plain.find(".lora.down.").or_else(|| plain.find(".lora.up."))?;
    Some(("diffusers", plain.get(..lora)?))
}

/// The name without the prefixes that PEFT puts before the model's own.
pub(super) fn without_prefix(name: &str) -> &str {
    ["base_model.model.", "base_model."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// The name of the base's tensor that a tensor of PEFT's replaces: without the wrappers around its module.
pub(super) fn replaced(name: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = without_prefix(name).split('.').peekable();
    while let Some(segment) = rest.next() {
        match segment {
            "base_layer" | "original_module" => {}
            "modules_to_save" => {
                rest.next_if_eq(&"default");
            }
            _ => segments.push(segment),
        }
    }
    segments.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_peft_come_apart_with_and_without_the_adapters_name() {
        let o = "model.layers.0.self_attn.o_proj";
        for (end, which, adapter) in [
            ("lora_A.weight", Which::A, ""),
            ("lora_B.default.weight", Which::B, "default"),
            ("lora_B.bias", Which::Bias, ""),
            ("lora_B.mine.bias", Which::Bias, "mine"),
            ("lora_magnitude_vector", Which::Magnitude, ""),
            ("lora_magnitude_vector.weight", Which::Magnitude, ""),
            ("lora_magnitude_vector.default.weight", Which::Magnitude, "default"),
            ("lora_embedding_A", Which::EmbeddingA, ""),
            ("lora_embedding_B.default", Which::EmbeddingB, "default"),
            ("token_adapter.trainable_tokens_delta", Which::Tokens, ""),
        ] {
            let name = format!("base_model.model.{o}.{end}");
            let found = part(&name, Dialect::Peft).map(|part| (part.module, part.which, part.adapter));
            assert_eq!(found, Some((o, which, adapter)), "{end}");
        }
        for odd in ["lora_A", "lora_A.weight", "x.lora_A", "x.lora_A.a.b.weight", "x.lora_A.bias", "x.weight", ""] {
            assert_eq!(part(odd, Dialect::Peft), None, "{odd}");
        }
    }

    #[test]
    fn foreign_parts_are_known_by_whose_they_are() {
        assert_eq!(owner("lora_unet_down_blocks_0.lora_down.weight"), Some(("kohya's scripts", "")));
        assert_eq!(owner("a.b.lora_up.weight"), Some(("kohya's scripts", "a.b")));
        assert_eq!(owner("a.attn.to_q.lora.down.weight"), Some(("diffusers", "a.attn.to_q")));
        assert_eq!(owner("base_model.model.a.ia3_l"), Some(("IA³", "a")));
        assert_eq!(owner("a.lora_A.weight"), Some(("a kind of LoRA", "a")));
        for own in ["model.layers.0.self_attn.o_proj.weight", "x.w_lora.lora.0.weight", "flora.weight", ""] {
            assert_eq!(owner(own), None, "{own}");
        }
    }

    #[test]
    fn wrappers_are_taken_off_what_is_replaced() {
        for name in [
            "base_model.model.lm_head.weight",
            "base_model.model.lm_head.modules_to_save.weight",
            "base_model.model.lm_head.modules_to_save.default.weight",
            "base_model.model.lm_head.original_module.weight",
            "base_model.model.lm_head.base_layer.weight",
        ] {
            assert_eq!(replaced(name), "lm_head.weight", "{name}");
        }
    }
}
