//! Sizes of a model, read from `config.json` (Hugging Face, Meta and Mistral spellings) or from GGUF keys.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a configuration says; everything may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigFacts {
    /// `model_type` of the text part, or GGUF's `general.architecture`; lower case.
    pub model_type: String,
    /// `model_type` of the whole (of a multimodal shell), lower case.
    pub outer_type: String,
    /// Width of the residual stream.
    pub hidden: Option<u64>,
    /// Blocks.
    pub layers: Option<u64>,
    /// Rows of the embedding.
    pub vocabulary: Option<u64>,
    /// Query heads.
    pub heads: Option<u64>,
    /// Key and value heads.
    pub kv_heads: Option<u64>,
    /// Width of one head.
    pub head_dim: Option<u64>,
    /// Width of the dense MLP.
    pub intermediate: Option<u64>,
    /// Width of one expert.
    pub expert_intermediate: Option<u64>,
    /// Routed experts of a block.
    pub experts: Option<u64>,
    /// Whether the output head is the embedding.
    pub tied: Option<bool>,
    /// Key heads of linear attention.
    pub linear_key_heads: Option<u64>,
    /// Value heads of linear attention.
    pub linear_value_heads: Option<u64>,
    /// Width of one key head of linear attention.
    pub linear_key_dim: Option<u64>,
    /// Width of one value head of linear attention.
    pub linear_value_dim: Option<u64>,
    /// Falcon's `new_decoder_architecture`, and `multi_query`.
    pub grouped_qkv: Option<bool>,
    /// Falcon's and StarCoder's `multi_query`.
    pub multi_query: Option<bool>,
}

/// Objects inside a configuration that describe the text part, innermost last.
const TEXT_PARTS: &[&str] = &["thinker_config", "text_config", "llm_config", "language_config", "text_cfg"];

impl ConfigFacts {
    /// Reads a configuration and, for what it does not say, the metadata of a GGUF header.
    pub fn read(config: &Value, metadata: &BTreeMap<String, String>) -> Self {
        let mut scopes = vec![config];
        for part in TEXT_PARTS {
            let inner = scopes.last().and_then(|scope| scope.get(part)).filter(|inner| inner.is_object());
            scopes.extend(inner);
        }
        let lookup = Lookup { scopes, metadata };
        let heads = lookup.number(&["num_attention_heads", "n_head", "n_heads", "num_heads"], "attention.head_count");
        let hidden = lookup.number(&["hidden_size", "n_embd", "d_model", "dim", "model_dim"], "embedding_length");
        let multi_query = lookup.flag(&["multi_query"]);
        let kv_heads = lookup
            .number(
                &["num_key_value_heads", "n_kv_heads", "num_kv_heads", "multi_query_group_num", "kv_n_heads"],
                "attention.head_count_kv",
            )
            .or(if multi_query == Some(true) { Some(1) } else { heads });
        let head_dim = lookup
            .number(&["head_dim", "kv_channels", "attention_head_dim"], "attention.key_length")
            .or_else(|| hidden.zip(heads).and_then(|(hidden, heads)| hidden.checked_div(heads)));
        Self {
            model_type: lookup.text("model_type", "general.architecture"),
            outer_type: config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_lowercase(),
            hidden,
            layers: lookup.number(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"], "block_count"),
            vocabulary: lookup.number(&["vocab_size", "padded_vocab_size", "n_vocab"], "vocab_size"),
            heads,
            kv_heads,
            head_dim,
            intermediate: lookup
                .number(&["intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"], "feed_forward_length"),
            expert_intermediate: lookup
                .number(&["moe_intermediate_size", "expert_ffn_hidden_size"], "expert_feed_forward_length"),
            experts: lookup
                .number(&["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"], "expert_count"),
            tied: lookup.flag(&["tie_word_embeddings", "tie_embeddings"]),
            linear_key_heads: lookup.number(&["linear_num_key_heads"], "ssm.group_count"),
            linear_value_heads: lookup.number(&["linear_num_value_heads"], "ssm.time_step_rank"),
            linear_key_dim: lookup.number(&["linear_key_head_dim"], "ssm.state_size"),
            linear_value_dim: lookup.number(&["linear_value_head_dim"], "").or_else(|| {
                let inner = lookup.gguf("ssm.inner_size")?;
                inner.checked_div(lookup.gguf("ssm.time_step_rank")?)
            }),
            grouped_qkv: lookup.flag(&["new_decoder_architecture"]),
            multi_query,
        }
    }

    /// What this says, and where it says nothing what `other` says.
    pub fn or(&self, other: &Self) -> Self {
        let mut both = self.clone();
        macro_rules! fill {
            ($($field:ident),*) => { $(both.$field = both.$field.or(other.$field);)* };
        }
        fill!(
            hidden,
            layers,
            vocabulary,
            heads,
            kv_heads,
            head_dim,
            intermediate,
            expert_intermediate,
            experts,
            tied,
            linear_key_heads,
            linear_value_heads,
            linear_key_dim,
            linear_value_dim,
            grouped_qkv,
            multi_query
        );
        both
    }
}

struct Lookup<'a> {
    scopes: Vec<&'a Value>,
    metadata: &'a BTreeMap<String, String>,
}

impl Lookup<'_> {
    /// The first of `keys` in the innermost scope that has one, else the GGUF key `<architecture>.<suffix>`.
    fn number(&self, keys: &[&str], suffix: &str) -> Option<u64> {
        let named =
            self.scopes.iter().rev().find_map(|scope| keys.iter().find_map(|key| scope.get(key).and_then(as_number)));
        named.or_else(|| self.gguf(suffix))
    }

    fn gguf(&self, suffix: &str) -> Option<u64> {
        let architecture = self.text("", "general.architecture");
        if architecture.is_empty() {
            return None;
        }
        let key = format!("{architecture}.{suffix}");
        let inside = self.scopes.first().and_then(|config| config.get(&key)).and_then(as_number);
        inside.or_else(|| self.metadata.get(&key).and_then(|text| text.trim().parse().ok()))
    }

    fn flag(&self, keys: &[&str]) -> Option<bool> {
        self.scopes.iter().rev().find_map(|scope| keys.iter().find_map(|key| scope.get(key).and_then(Value::as_bool)))
    }

    fn text(&self, key: &str, gguf: &str) -> String {
        let named = self
            .scopes
            .iter()
            .rev()
            .find_map(|scope| scope.get(key).or_else(|| scope.get(gguf)).and_then(Value::as_str));
        named.or_else(|| self.metadata.get(gguf).map(String::as_str)).unwrap_or_default().to_lowercase()
    }
}

fn as_number(value: &Value) -> Option<u64> {
    // Per-layer lists stand for one number only when all entries agree.
    match value {
        Value::Array(items) => {
            let first = items.first()?.as_u64()?;
            items.iter().all(|item| item.as_u64() == Some(first)).then_some(first)
        }
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_text_part_of_a_multimodal_configuration_is_read() {
        let config = json!({
            "model_type": "gemma3", "tie_word_embeddings": true, "vision_config": {"hidden_size": 7},
            "text_config": {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 3,
                            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
        });
        let facts = ConfigFacts::read(&config, &BTreeMap::new());
        assert_eq!((facts.hidden, facts.layers, facts.kv_heads), (Some(64), Some(3), Some(2)));
        assert_eq!((facts.head_dim, facts.tied), (Some(32), Some(true)));
        assert_eq!((facts.model_type.as_str(), facts.outer_type.as_str()), ("gemma3_text", "gemma3"));
    }

    #[test]
    fn gguf_keys_stand_in() {
        let metadata: BTreeMap<String, String> = [
            ("general.architecture", "llama"),
            ("llama.embedding_length", "160"),
            ("llama.attention.head_count", "5"),
            ("llama.attention.head_count_kv", "1"),
            ("llama.block_count", "4"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let facts = ConfigFacts::read(&Value::Null, &metadata);
        assert_eq!((facts.hidden, facts.heads, facts.kv_heads), (Some(160), Some(5), Some(1)));
        assert_eq!((facts.head_dim, facts.layers), (Some(32), Some(4)));
    }

    #[test]
    fn nonsense_is_nothing() {
        let config = json!({"hidden_size": -3, "num_attention_heads": 0, "n_head": "x", "text_config": []});
        let facts = ConfigFacts::read(&config, &BTreeMap::new());
        assert_eq!((facts.hidden, facts.heads, facts.head_dim), (None, Some(0), None));
    }
}
