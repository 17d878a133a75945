//! Tests of pairing across naming schemes and layouts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::testing::{Tensor, checkpoint, numbers, tensor};
use super::*;
use crate::arch::{Axis, Kind};

/// Decodes a whole view.
fn decoded(checkpoint: &Checkpoint, view: &View) -> Vec<f32> {
    let mut out = vec![0.0; view.elements() as usize];
    view.decode_rows(checkpoint, 0, &mut out).unwrap();
    out
}

/// Checks that every pair decodes to the same numbers on both sides, and that everything is accounted for.
fn check(base: &Checkpoint, candidate: &Checkpoint) -> Pairing {
    let pairing = pair(base, candidate);
    for pair in &pairing.pairs {
        assert_eq!((pair.base.rows, pair.base.columns), (pair.candidate.rows, pair.candidate.columns), "{}", pair.name);
        assert_eq!(decoded(base, &pair.base), decoded(candidate, &pair.candidate), "{}: {pairing:#?}", pair.name);
        // Rows in the middle, too.
        if pair.base.rows > 1 {
            let mut row = vec![0.0; pair.base.columns as usize];
            pair.base.decode_rows(base, pair.base.rows - 1, &mut row).unwrap();
            let columns = row.len();
            let all = decoded(base, &pair.base);
            assert_eq!(row, all[all.len() - columns..]);
        }
    }
    pairing
}

fn by_name(pairing: &Pairing) -> BTreeMap<&str, &Pair> {
    pairing.pairs.iter().map(|pair| (pair.name.as_str(), pair)).collect()
}

const D: u64 = 16;

fn llama_config() -> Value {
    json!({"model_type": "llama", "hidden_size": D, "num_attention_heads": 4, "num_key_value_heads": 2,
           "head_dim": 4, "num_hidden_layers": 2, "tie_word_embeddings": false})
}

const LLAMA: &[(&str, &[u64])] = &[
    ("self_attn.q_proj.weight", &[D, D]),
    ("self_attn.k_proj.weight", &[8, D]),
    ("self_attn.v_proj.weight", &[8, D]),
    ("self_attn.o_proj.weight", &[D, D]),
    ("mlp.gate_proj.weight", &[24, D]),
    ("mlp.up_proj.weight", &[24, D]),
    ("mlp.down_proj.weight", &[D, 24]),
    ("input_layernorm.weight", &[D]),
    ("post_attention_layernorm.weight", &[D]),
];

fn llama_named(layers: u32) -> Vec<Tensor> {
    let mut tensors = vec![
        tensor("model.embed_tokens.weight", &[40, D]),
        tensor("lm_head.weight", &[40, D]),
        tensor("model.norm.weight", &[D]),
    ];
    for layer in 0..layers {
        tensors.extend(LLAMA.iter().map(|(path, shape)| tensor(&format!("model.layers.{layer}.{path}"), shape)));
    }
    tensors
}

/// The same numbers under other names.
fn renamed(tensors: Vec<Tensor>, name: impl Fn(&str) -> String) -> Vec<Tensor> {
    tensors.into_iter().map(|Tensor(old, shape, values)| Tensor(name(&old), shape, values)).collect()
}

#[test]
fn equal_names_pair_whole() {
    let base = checkpoint(llama_config(), llama_named(2));
    let pairing = check(&base, &base);
    assert_eq!(pairing.pairs.len(), base.tensors.len());
    assert!(pairing.only_base.is_empty() && pairing.only_candidate.is_empty() && pairing.notes.is_empty());
    assert_eq!((pairing.renamed, pairing.residual_width, pairing.architecture.as_str()), (0, Some(D), "llama"));
    assert!(pairing.pairs.iter().all(|pair| pair.base.is_contiguous() && pair.candidate.is_contiguous()));
    let names: Vec<&str> = pairing.pairs.iter().map(|pair| pair.name.as_str()).collect();
    assert!(names.is_sorted());
}

#[test]
fn prefixes_do_not_matter() {
    let base = checkpoint(llama_config(), llama_named(1));
    for prefix in ["language_model.", "_orig_mod.", "module.", "base_model.model.", "text_encoders.x.transformer."] {
        let mut tensors = renamed(llama_named(1), |name| format!("{prefix}{name}"));
        tensors.push(tensor("vision_tower.blocks.0.attn.proj.weight", &[D, D]));
        let pairing = check(&base, &checkpoint(Value::Null, tensors));
        assert_eq!(pairing.pairs.len(), base.tensors.len(), "{prefix}");
        assert_eq!(pairing.renamed, base.tensors.len());
        assert_eq!(pairing.only_candidate[0].tensor, "vision_tower.blocks.0.attn.proj.weight");
        assert_eq!(pairing.only_candidate[0].reason, "not in the base");
    }
}
