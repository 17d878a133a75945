//! Properties of pairing over arbitrary names, shapes and configurations.

use proptest::prelude::*;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::testing::{TestTensor, checkpoint, tensor};
use super::tests::decoded;
use super::*;
use crate::arch::Kind;

fn name() -> impl Strategy<Value = String> {
    let prefix = prop::sample::select(vec!["", "model.", "language_model.model.", "transformer.", "_orig_mod."]);
    let middle = prop::sample::select(vec!["layers.0.", "layers.1.", "h.0.", "blk.0.", "layers.4000000000.", ""]);
    let path = prop::sample::select(vec![
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.qkv_proj",
        "self_attn.o_proj",
        "mlp.experts.down_proj",
        "mlp.experts.1.down_proj",
        "mlp.experts.gate_up_proj",
        "mlp.experts.0.up_proj",
        "mlp.gate_up_proj",
        "mlp.gate_proj",
        "attn_q",
        "attn_output",
        "ffn_down_exps",
        "attn.c_attn",
        "attn.c_proj",
        "linear_attn.in_proj_qkvz",
        "linear_attn.in_proj_z",
        "linear_attn.out_proj",
        "ssm_out",
        "embed_tokens",
        "lm_head",
        "token_embd",
        "output",
        "norm",
        "input_layernorm",
        "visual.blocks.0.x",
        "x",
        "",
    ]);
    let end = prop::sample::select(vec![".weight", ".bias", "", "_bias"]);
    (prefix, middle, path, end).prop_map(|(a, b, c, d)| format!("{a}{b}{c}{d}"))
}

fn shape() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop::sample::select(vec![0u64, 1, 2, 3, 4, 6, 8, 12, 16]), 0..4)
}

type Side = (Value, BTreeMap<String, Vec<u64>>);

fn built((config, tensors): &Side) -> Checkpoint {
    checkpoint(config.clone(), tensors.iter().map(|(name, shape)| tensor(name, shape)).collect())
}

fn side() -> impl Strategy<Value = Side> {
    let kinds = vec!["llama", "gpt2", "gpt_oss", "gpt_neox", "internlm2", "qwen3_5", "qwen3_next", "falcon", "odd", ""];
    let config = (prop::sample::select(kinds), 0u64..9, 0u64..5, 0u64..5).prop_map(|(kind, hidden, heads, groups)| {
        json!({"model_type": kind, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": groups,
               "linear_num_key_heads": groups, "linear_num_value_heads": heads, "linear_key_head_dim": 1,
               "linear_value_head_dim": 1, "tie_word_embeddings": heads > 2})
    });
    (config, prop::collection::btree_map(name(), shape(), 0..24))
}

/// Elements of each tensor that the views and the list of unpaired ones cover.
fn account(checkpoint: &Checkpoint, views: &[&View], unpaired: &[Unpaired], free: &[&str]) {
    let mut covered = BTreeMap::<&str, u64>::new();
    for view in views {
        *covered.entry(view.tensor.as_str()).or_default() += view.elements();
    }
    let listed: Vec<&str> = unpaired.iter().map(|unpaired| unpaired.tensor.as_str()).collect();
    for (name, entry) in &checkpoint.tensors {
        let whole = listed.iter().filter(|listed| **listed == name.as_str()).count();
        let in_part = listed.iter().any(|listed| listed.starts_with(&format!("{name}[")));
        assert!(whole <= 1, "{name} listed twice");
        let covered = covered.get(name.as_str()).copied().unwrap_or(0);
        let paired = views.iter().any(|view| view.tensor == *name);
        if free.contains(&name.as_str()) {
            continue;
        }
        assert!(covered <= entry.elements(), "{name} is covered more than once");
        if whole == 1 {
            assert!(!paired, "{name} is paired and unpaired");
        } else {
            assert!(paired || in_part, "{name} is lost");
        }
    }
}

proptest! {
    #[test]
    fn everything_ends_once_in_a_pair_or_in_a_list(base in side(), candidate in side()) {
        let (base, candidate) = (built(&base), built(&candidate));
        let pairing = pair(&base, &candidate);
        let tied: Vec<&str> = pairing.pairs.iter().filter(|pair| pair.role.kind == Kind::Head).map(|pair| pair.base.tensor.as_str()).collect();
        let views: Vec<&View> = pairing.pairs.iter().map(|pair| &pair.base).collect();
        account(&base, &views, &pairing.only_base, &tied);
        let views: Vec<&View> = pairing.pairs.iter().map(|pair| &pair.candidate).collect();
        account(&candidate, &views, &pairing.only_candidate, &[]);
        for pair in &pairing.pairs {
            prop_assert_eq!((pair.base.rows, pair.base.columns), (pair.candidate.rows, pair.candidate.columns));
            decoded(&base, &pair.base);
            decoded(&candidate, &pair.candidate);
        }
        prop_assert_eq!(pair(&base, &candidate), pairing);
    }

    #[test]
    fn arbitrary_names_do_not_panic(names in prop::collection::vec(("\\PC{0,24}", shape()), 0..12)) {
        let tensors = |from: usize| names.iter().skip(from).map(|(name, shape)| tensor(name, shape)).collect::<Vec<_>>();
        let unique = |tensors: Vec<TestTensor>| {
            tensors.into_iter().map(|tensor| (tensor.0.clone(), tensor)).collect::<BTreeMap<_, _>>().into_values().collect()
        };
        pair(&checkpoint(Value::Null, unique(tensors(0))), &checkpoint(Value::Null, unique(tensors(1))));
    }

    #[test]
    fn a_checkpoint_pairs_with_itself(side in side()) {
        let side = built(&side);
        let pairing = pair(&side, &side);
        prop_assert!(pairing.only_base.is_empty(), "{:?}", pairing.only_base);
        prop_assert!(pairing.only_candidate.is_empty());
        prop_assert!(pairing.pairs.iter().all(|pair| pair.base == pair.candidate));
    }
}
