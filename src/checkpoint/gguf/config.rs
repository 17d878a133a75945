//! What a GGUF header says in place of a `config.json`, under the names `config.json` uses.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::header::Value;

/// GGUF keys (after the architecture's prefix) and the `config.json` keys that other parts read.
const KEYS: &[(&str, &str)] = &[
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.value_length", "v_head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.sliding_window", "sliding_window"),
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("context_length", "max_position_embeddings"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("nextn_predict_layers", "num_nextn_predict_layers"),
    ("rope.freq_base", "rope_theta"),
    ("rope.dimension_count", "rope_dimension_count"),
    ("vocab_size", "vocab_size"),
];

/// The configuration a header's values amount to. `has` tells whether the file has a tensor of that name.
///
/// `gguf_architecture` is `general.architecture`; the other keys are those of a Hugging Face `config.json`. A value
/// that differs between layers is an array, one element a layer. `head_dim` is calculated where the file leaves it out.
pub(super) fn config(values: &BTreeMap<String, Value>, has: impl Fn(&str) -> bool) -> Json {
    let mut config = Map::new();
    let Some(Value::Text(architecture)) = values.get("general.architecture") else { return Json::Null };
    config.insert("gguf_architecture".to_owned(), json!(architecture));
    for (key, name) in KEYS {
        if let Some(value) = values.get(&format!("{architecture}.{key}")).and_then(as_json) {
            config.insert((*name).to_owned(), value);
        }
    }
    let number = |config: &Map<String, Json>, name: &str| config.get(name).and_then(Json::as_u64);
    if !config.contains_key("num_key_value_heads")
        && let Some(heads) = config.get("num_attention_heads").cloned()
    {
        config.insert("num_key_value_heads".to_owned(), heads);
    }
    if !config.contains_key("head_dim")
        && let (Some(width), Some(heads)) = (number(&config, "hidden_size"), number(&config, "num_attention_heads"))
        && let Some(head_dim) = width.checked_div(heads)
    {
        config.insert("head_dim".to_owned(), json!(head_dim));
    }
    if !config.contains_key("vocab_size")
        && let Some(Value::Array(length, _)) = values.get("tokenizer.ggml.tokens")
    {
        config.insert("vocab_size".to_owned(), json!(length));
    }
    if has("token_embd.weight") {
        config.insert("tie_word_embeddings".to_owned(), json!(!has("output.weight")));
    }
    Json::Object(config)
}

/// A number, a truth value, a text, or an array of these; an array of equal elements is that element.
fn as_json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Unsigned(number) => json!(number),
        Value::Signed(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Bool(truth) => json!(truth),
        Value::Text(text) => json!(text),
        Value::Array(length, head) => {
            if head.len() as u64 != *length {
                return None;
            }
            let elements = head.iter().map(as_json).collect::<Option<Vec<Json>>>()?;
            match elements.first() {
                Some(first) if elements.iter().all(|element| element == first) => first.clone(),
                _ => Json::Array(elements),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_config_json_and_missing_ones_follow_from_others() {
        let values = BTreeMap::from([
            ("general.architecture".to_owned(), Value::Text("llama".to_owned())),
            ("llama.embedding_length".to_owned(), Value::Unsigned(576)),
            ("llama.attention.head_count".to_owned(), Value::Unsigned(9)),
            ("llama.feed_forward_length".to_owned(), Value::Array(2, vec![Value::Signed(1536), Value::Signed(1536)])),
            ("tokenizer.ggml.tokens".to_owned(), Value::Array(49152, Vec::new())),
            ("qwen2.block_count".to_owned(), Value::Unsigned(1)),
        ]);
        assert_eq!(
            config(&values, |name| name == "token_embd.weight"),
            json!({
                "gguf_architecture": "llama", "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 9,
                "head_dim": 64, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": true,
            })
        );
    }

    #[test]
    fn values_that_differ_between_layers_stay_arrays_and_no_heads_do_not_divide() {
        let values = BTreeMap::from([
            ("general.architecture".to_owned(), Value::Text("x".to_owned())),
            ("x.embedding_length".to_owned(), Value::Unsigned(8)),
            ("x.attention.head_count".to_owned(), Value::Unsigned(0)),
            ("x.attention.head_count_kv".to_owned(), Value::Array(2, vec![Value::Unsigned(1), Value::Unsigned(0)])),
        ]);
        let config = config(&values, |_| false);
        assert_eq!(config["num_key_value_heads"], json!([1, 0]));
        assert_eq!(config["head_dim"], Json::Null);
        assert_eq!(config["tie_word_embeddings"], Json::Null);
    }

    #[test]
    fn without_an_architecture_there_is_no_configuration() {
        assert_eq!(config(&BTreeMap::new(), |_| true), Json::Null);
    }
}
