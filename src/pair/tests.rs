//! Tests of pairing across naming schemes and layouts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::testing::{TestTensor, checkpoint, numbers, tensor};
use super::*;
use crate::arch::{Axis, Kind};

/// Decodes a whole view.
pub fn decoded(checkpoint: &Checkpoint, view: &View) -> Vec<f32> {
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

fn llama_named(layers: u32) -> Vec<TestTensor> {
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
fn renamed(tensors: Vec<TestTensor>, mut name: impl FnMut(&str) -> String) -> Vec<TestTensor> {
    tensors.into_iter().map(|TestTensor(old, shape, values)| TestTensor(name(&old), shape, values)).collect()
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

#[test]
fn heads_that_are_tied_or_dropped() {
    let base = checkpoint(llama_config(), llama_named(1));
    let headless: Vec<TestTensor> = llama_named(1).into_iter().filter(|tensor| tensor.0 != "lm_head.weight").collect();
    let pairing = check(&base, &checkpoint(json!({"tie_word_embeddings": true}), headless));
    assert_eq!(
        pairing.only_base,
        [Unpaired {
            tensor: "lm_head.weight".into(),
            reason: "tied to model.embed_tokens.weight in the candidate".into(),
            loaded: false,
        }]
    );

    // The base ties: a candidate's head is compared with the base's embedding.
    let headless = llama_named(1).into_iter().filter(|tensor| tensor.0 != "lm_head.weight").collect();
    let base = checkpoint(llama_config(), headless);
    let mut tensors: Vec<TestTensor> =
        llama_named(1).into_iter().filter(|tensor| tensor.0 != "lm_head.weight").collect();
    let TestTensor(_, shape, values) = tensor("model.embed_tokens.weight", &[40, D]);
    tensors.push(TestTensor("lm_head.weight".into(), shape, values));
    let pairing = check(&base, &checkpoint(llama_config(), tensors));
    let head = by_name(&pairing)["lm_head.weight"];
    assert_eq!((head.role.kind, head.base.tensor.as_str()), (Kind::Head, "model.embed_tokens.weight"));
    assert!(pairing.only_candidate.is_empty() && pairing.notes.len() == 1);
}

#[test]
fn an_embedding_that_two_stacks_share_may_be_kept_once() {
    let config = || json!({ "model_type": "t5", "d_model": D });
    let named = |names: &[&str]| -> Vec<TestTensor> {
        let mut tensors: Vec<TestTensor> = names
            .iter()
            .map(|name| TestTensor((*name).to_owned(), vec![40, D], tensor("shared", &[40, D]).2))
            .collect();
        for stack in ["encoder", "decoder"] {
            tensors.push(tensor(&format!("{stack}.block.0.layer.0.SelfAttention.o.weight"), &[D, D]));
            tensors.push(tensor(&format!("{stack}.final_layer_norm.weight"), &[D]));
        }
        tensors
    };
    let all = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
    let pairing = pair(&checkpoint(config(), named(&all)), &checkpoint(config(), named(&all[..1])));
    assert!(pairing.only_base.iter().all(|left| !left.loaded), "{:?}", pairing.only_base);
    assert_eq!((pairing.only_base.len(), pairing.pairs.len()), (2, 5));
    let pairing = pair(&checkpoint(config(), named(&all[..1])), &checkpoint(config(), named(&all)));
    assert!(pairing.only_base.is_empty() && pairing.only_candidate.is_empty());
    assert_eq!(pairing.pairs.iter().filter(|pair| pair.base.tensor == "shared.weight").count(), 3);
    let layers: Vec<Option<u32>> =
        pairing.pairs.iter().filter(|pair| pair.role.kind == Kind::Writer).map(|pair| pair.role.layer).collect();
    assert_eq!(layers, [Some(1), Some(0)], "the decoder's layers stand behind the encoder's");
}

#[test]
fn a_resized_vocabulary_is_compared_where_it_is_common() {
    let base = checkpoint(llama_config(), llama_named(1));
    let mut tensors: Vec<TestTensor> =
        llama_named(1).into_iter().filter(|tensor| tensor.0 != "model.embed_tokens.weight").collect();
    let TestTensor(name, _, mut values) = tensor("model.embed_tokens.weight", &[40, D]);
    values.extend(numbers(1, 3 * D as usize));
    tensors.push(TestTensor(name, vec![43, D], values));
    let pairing = check(&base, &checkpoint(llama_config(), tensors));
    let embedding = by_name(&pairing)["model.embed_tokens.weight"];
    assert_eq!((embedding.base.rows, embedding.candidate.rows), (40, 40));
    assert!(embedding.candidate.is_contiguous());
    assert_eq!(
        pairing.notes,
        ["model.embed_tokens.weight: vocabulary grown from 40 to 43 rows; the first 40 are compared"]
    );
}

#[test]
fn missing_added_and_misshapen_tensors_are_listed() {
    let base = checkpoint(llama_config(), llama_named(1));
    let mut tensors: Vec<TestTensor> = llama_named(1)
        .into_iter()
        .filter(|tensor| !tensor.0.contains("k_proj") && !tensor.0.contains("v_proj"))
        .collect();
    tensors.push(tensor("model.layers.0.self_attn.k_proj.weight", &[12, D]));
    tensors.push(tensor("model.layers.0.mlp.down_proj.bias", &[D]));
    let pairing = check(&base, &checkpoint(llama_config(), tensors));
    let reasons = |list: &[Unpaired]| -> Vec<(String, String)> {
        list.iter().map(|unpaired| (unpaired.tensor.clone(), unpaired.reason.clone())).collect()
    };
    let shape = "shape 8 × 16 against 12 × 16".to_owned();
    assert_eq!(
        reasons(&pairing.only_base),
        [
            ("model.layers.0.self_attn.k_proj.weight".to_owned(), shape.clone()),
            ("model.layers.0.self_attn.v_proj.weight".to_owned(), "not in the candidate".to_owned())
        ]
    );
    assert_eq!(
        reasons(&pairing.only_candidate),
        [
            ("model.layers.0.mlp.down_proj.bias".to_owned(), "not in the base".to_owned()),
            ("model.layers.0.self_attn.k_proj.weight".to_owned(), shape)
        ]
    );
}

fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

fn experts_config(model_type: &str) -> Value {
    json!({"model_type": model_type, "hidden_size": D, "num_attention_heads": 4, "num_key_value_heads": 4})
}

/// Three experts one by one, `gate_up` fused or not, inner width `inner`.
fn single_experts(inner: u64) -> Vec<TestTensor> {
    let mut tensors = vec![tensor("model.embed_tokens.weight", &[40, D])];
    for expert in 0..3 {
        for (module, shape) in [("gate_proj", [inner, D]), ("up_proj", [inner, D]), ("down_proj", [D, inner])] {
            tensors.push(tensor(&format!("model.layers.0.mlp.experts.{expert}.{module}.weight"), &shape));
        }
    }
    tensors
}

fn values_of(tensors: &[TestTensor], name: &str) -> Vec<f32> {
    tensors.iter().find(|tensor| tensor.0 == name).unwrap().2.clone()
}

/// The same experts stacked: output first as transformers 5 writes them, or input first as gpt-oss and Llama 4.
fn stacked_experts(inner: u64, input_first: bool, interleaved: bool) -> Vec<TestTensor> {
    let single = single_experts(inner);
    let (mut gate_up, mut down) = (Vec::new(), Vec::new());
    for expert in 0..3 {
        let of = |module: &str| values_of(&single, &format!("model.layers.0.mlp.experts.{expert}.{module}.weight"));
        let (gate, up) = (of("gate_proj"), of("up_proj"));
        let fused: Vec<f32> = if interleaved {
            gate.chunks(D as usize).zip(up.chunks(D as usize)).flat_map(|(a, b)| [a, b].concat()).collect()
        } else {
            [gate, up].concat()
        };
        let (width, inner) = (D as usize, inner as usize);
        if input_first {
            gate_up.extend(transpose(&fused, 2 * inner, width));
            down.extend(transpose(&of("down_proj"), width, inner));
        } else {
            gate_up.extend(fused);
            down.extend(of("down_proj"));
        }
    }
    let shape = |rows: u64, columns: u64| if input_first { vec![3, columns, rows] } else { vec![3, rows, columns] };
    vec![
        tensor("model.embed_tokens.weight", &[40, D]),
        TestTensor("model.layers.0.mlp.experts.gate_up_proj".into(), shape(2 * inner, D), gate_up),
        TestTensor("model.layers.0.mlp.experts.down_proj".into(), shape(D, inner), down),
    ]
}

#[test]
fn stacked_experts_meet_single_ones() {
    for inner in [24, D] {
        for (model_type, input_first, interleaved) in
            [("qwen3_moe", false, false), ("gpt_oss", true, true), ("llama4_text", true, false)]
        {
            let single = checkpoint(experts_config(model_type), single_experts(inner));
            let stacked = checkpoint(experts_config(model_type), stacked_experts(inner, input_first, interleaved));
            for (base, candidate) in [(&single, &stacked), (&stacked, &single)] {
                let pairing = check(base, candidate);
                assert_eq!(pairing.pairs.len(), 10, "{model_type} {inner}: {pairing:#?}");
                assert!(pairing.only_base.is_empty() && pairing.only_candidate.is_empty());
                for pair in &pairing.pairs {
                    let along = match pair.role.residual {
                        Some(Axis::Rows) => pair.base.rows,
                        Some(Axis::Columns) => pair.base.columns,
                        None => panic!("{}", pair.name),
                    };
                    assert_eq!(along, D, "{}", pair.name);
                }
            }
            let pairing = check(&stacked, &stacked);
            assert_eq!(pairing.pairs.len(), 7);
            let pairs = by_name(&pairing);
            let third = pairs["model.layers.0.mlp.experts.down_proj[2]"];
            assert_eq!((third.role.expert, third.base.offset), (Some(2), 2 * D * inner));
            let axis = if input_first { Axis::Columns } else { Axis::Rows };
            assert_eq!(third.role.residual, Some(axis));
            assert!(third.base.is_contiguous() && third.candidate.is_contiguous());
        }
    }
}

#[test]
fn fused_projections_meet_split_ones() {
    // Two key-value groups of two heads, heads of four rows.
    let config = |model_type: &str| json!({"model_type": model_type, "hidden_size": D, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4});
    let width = D as usize;
    let split = |prefix: &str| {
        ["q_proj", "k_proj", "v_proj"]
            .iter()
            .zip([16u64, 8, 8])
            .map(|(module, rows)| tensor(&format!("{prefix}.0.self_attn.{module}.weight"), &[rows, D]))
            .collect::<Vec<TestTensor>>()
    };
    let parts = split("model.layers");
    let rows_of = |at: usize| -> Vec<Vec<f32>> { parts[at].2.chunks(width).map(<[f32]>::to_vec).collect() };
    let (q, k, v) = (rows_of(0), rows_of(1), rows_of(2));
    let concatenated = [q.clone(), k.clone(), v.clone()].concat();
    let grouped: Vec<Vec<f32>> = (0..2)
        .flat_map(|group| {
            [&q[group * 8..group * 8 + 8], &k[group * 4..group * 4 + 4], &v[group * 4..group * 4 + 4]].concat()
        })
        .collect();
    for (model_type, name, rows) in [
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", concatenated),
        ("internlm2", "model.layers.0.attention.wqkv.weight", grouped),
    ] {
        let fused = TestTensor(name.into(), vec![32, D], rows.concat());
        let mut one = vec![tensor("model.embed_tokens.weight", &[40, D]), fused];
        one.push(tensor("model.layers.0.self_attn.o_proj.weight", &[D, D]));
        let mut other = split("model.layers");
        other.push(tensor("model.embed_tokens.weight", &[40, D]));
        other.push(tensor("model.layers.0.self_attn.o_proj.weight", &[D, D]));
        let (one, other) = (checkpoint(config(model_type), one), checkpoint(config(model_type), other));
        for (base, candidate) in [(&one, &other), (&other, &one)] {
            let pairing = check(base, candidate);
            assert_eq!(pairing.pairs.len(), 5, "{model_type} {pairing:#?}");
            assert!(pairing.only_base.is_empty() && pairing.only_candidate.is_empty());
        }
        let pairing = check(&one, &other);
        assert!(by_name(&pairing).contains_key(format!("{name}[q_proj]").as_str()));
    }
}

#[test]
fn fused_biases_and_heads_of_neox() {
    let config = json!({"model_type": "gpt_neox", "hidden_size": 8, "num_attention_heads": 2});
    // Per head: query, key, value of four rows each.
    let pick = |values: &[f32], part: usize, width: usize| -> Vec<f32> {
        (0..2)
            .flat_map(|head| values[(head * 3 + part) * 4 * width..(head * 3 + part + 1) * 4 * width].to_vec())
            .collect()
    };
    let weight = tensor("gpt_neox.layers.0.attention.query_key_value.weight", &[24, 8]);
    let bias = tensor("gpt_neox.layers.0.attention.query_key_value.bias", &[24]);
    let mut split = vec![tensor("gpt_neox.embed_in.weight", &[40, 8])];
    for (part, module) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
        let name = |kind: &str| format!("gpt_neox.layers.0.self_attn.{module}.{kind}");
        split.push(TestTensor(name("weight"), vec![8, 8], pick(&weight.2, part, 8)));
        split.push(TestTensor(name("bias"), vec![8], pick(&bias.2, part, 1)));
    }
    let fused = checkpoint(config.clone(), vec![tensor("gpt_neox.embed_in.weight", &[40, 8]), weight, bias]);
    let split = checkpoint(config, split);
    for (base, candidate) in [(&fused, &split), (&split, &fused)] {
        let pairing = check(base, candidate);
        assert_eq!(pairing.pairs.len(), 7, "{pairing:#?}");
        assert!(pairing.only_base.is_empty() && pairing.only_candidate.is_empty());
    }
}

#[test]
fn conv1d_meets_linear() {
    let config = json!({"model_type": "gpt2", "n_embd": D, "n_head": 4});
    let names = [("attn.c_attn", 3 * D, D), ("attn.c_proj", D, D), ("mlp.c_fc", 24, D), ("mlp.c_proj", D, 24)];
    let mut conv = vec![tensor("transformer.wte.weight", &[40, D])];
    let mut linear = vec![tensor("token_embd.weight", &[40, D])];
    linear[0].2 = conv[0].2.clone();
    let gguf = [("attn_qkv", 0), ("attn_output", 1), ("ffn_up", 2), ("ffn_down", 3)];
    for (name, at) in gguf {
        let (path, out, inner) = names[at];
        let stored = tensor(&format!("transformer.h.0.{path}.weight"), &[inner, out]);
        let values = transpose(&stored.2, inner as usize, out as usize);
        linear.push(TestTensor(format!("blk.0.{name}.weight"), vec![out, inner], values));
        conv.push(stored);
    }
    let (conv, mut linear) = (checkpoint(config, conv), checkpoint(Value::Null, linear));
    linear.metadata.insert("general.architecture".into(), "gpt2".into());
    let pairing = check(&conv, &linear);
    assert_eq!(pairing.pairs.len(), 5, "{pairing:#?}");
    let pairs = by_name(&pairing);
    let output = pairs["transformer.h.0.attn.c_proj.weight"];
    assert_eq!((output.role.residual, output.base.is_contiguous()), (Some(Axis::Columns), true));
    assert!(output.candidate.transposed);
    let back = check(&linear, &conv);
    let pairs = by_name(&back);
    let output = pairs["blk.0.attn_output.weight"];
    assert_eq!((output.role.residual, output.base.is_contiguous()), (Some(Axis::Rows), true));
    assert_eq!(output.role.module, "o_proj");
}

/// Rows of each head regrouped from halves to pairs.
fn to_pairs(values: &[f32], head: usize, width: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(width).collect();
    let mut out = Vec::new();
    for head_rows in rows.chunks(head) {
        for at in 0..head / 2 {
            out.extend(head_rows[at]);
            out.extend(head_rows[at + head / 2]);
        }
    }
    out
}

const TO_META: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("model.embed_tokens", "tok_embeddings"),
    ("lm_head", "output"),
    ("model.norm", "norm"),
    ("model.layers", "layers"),
];

const TO_GGUF: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.up_proj", "ffn_up"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("model.embed_tokens", "token_embd"),
    ("lm_head", "output"),
    ("model.norm", "output_norm"),
    ("model.layers", "blk"),
];

fn translated(tensors: Vec<TestTensor>, names: &[(&str, &str)], permute: bool) -> Vec<TestTensor> {
    tensors
        .into_iter()
        .map(|TestTensor(name, shape, values)| {
            let values = if permute && (name.contains("q_proj") || name.contains("k_proj")) {
                to_pairs(&values, 4, D as usize)
            } else {
                values
            };
            let name = names.iter().fold(name, |name, (from, to)| name.replace(from, to));
            TestTensor(name, shape, values)
        })
        .collect()
}

fn gguf(architecture: &str, tensors: Vec<TestTensor>) -> Checkpoint {
    let mut checkpoint = checkpoint(Value::Null, tensors);
    let keys = [
        ("embedding_length", "16"),
        ("attention.head_count", "4"),
        ("attention.head_count_kv", "2"),
        ("block_count", "2"),
    ];
    checkpoint.metadata.insert("general.architecture".into(), architecture.into());
    for (key, value) in keys {
        checkpoint.metadata.insert(format!("{architecture}.{key}"), value.into());
    }
    checkpoint
}

#[test]
fn consolidated_and_gguf_names_with_rotary_rows() {
    let modules = checkpoint(llama_config(), llama_named(2));
    let meta_config = json!({"dim": D, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2});
    let meta = checkpoint(meta_config, translated(llama_named(2), TO_META, true));
    let quantised = gguf("llama", translated(llama_named(2), TO_GGUF, true));
    for (base, candidate) in [
        (&modules, &meta),
        (&meta, &modules),
        (&modules, &quantised),
        (&quantised, &modules),
        (&meta, &quantised),
        (&quantised, &meta),
    ] {
        let pairing = check(base, candidate);
        assert_eq!(pairing.pairs.len(), base.tensors.len(), "{pairing:#?}");
        assert!(pairing.only_base.is_empty() && pairing.only_candidate.is_empty() && pairing.notes.is_empty());
        // `output.weight` is spelled alike in GGUF and consolidated files.
        assert!(pairing.renamed + 1 >= base.tensors.len());
        for pair in pairing.pairs.iter().filter(|pair| pair.role.kind == Kind::Writer) {
            assert!(pair.base.is_contiguous() && pair.candidate.is_contiguous(), "{}", pair.name);
            assert_eq!(pair.role.residual, Some(Axis::Rows));
        }
    }
    let pairing = check(&quantised, &quantised);
    assert!(pairing.pairs.iter().all(|pair| pair.base.is_contiguous() && pair.candidate.is_contiguous()));
}

#[test]
fn a_row_order_against_the_table_is_found_by_content() {
    let modules = checkpoint(llama_config(), llama_named(2));
    let unpermuted = gguf("llama", translated(llama_named(2), TO_GGUF, false));
    let pairing = check(&modules, &unpermuted);
    assert_eq!(pairing.notes.len(), 2, "{:?}", pairing.notes);
    let qwen = json!({"model_type": "qwen3", "hidden_size": D, "num_attention_heads": 4, "head_dim": 4});
    let pairing = check(&checkpoint(qwen, llama_named(2)), &gguf("qwen3", translated(llama_named(2), TO_GGUF, true)));
    assert_eq!(pairing.notes.len(), 2, "{:?}", pairing.notes);
}

#[test]
fn gemma_gains_are_shifted_in_gguf() {
    let config =
        json!({"model_type": "gemma3_text", "hidden_size": D, "num_attention_heads": 4, "num_key_value_heads": 2});
    let module = vec![
        tensor("model.embed_tokens.weight", &[40, D]),
        TestTensor("model.layers.0.input_layernorm.weight".into(), vec![D], vec![0.5; D as usize]),
        TestTensor("model.layers.0.post_attention_layernorm.weight".into(), vec![D], vec![0.25; D as usize]),
        TestTensor("model.layers.0.pre_feedforward_layernorm.weight".into(), vec![D], vec![0.125; D as usize]),
        TestTensor("model.layers.0.post_feedforward_layernorm.weight".into(), vec![D], vec![0.75; D as usize]),
    ];
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("model.layers", "blk"),
    ];
    let copy = |tensors: &[TestTensor]| -> Vec<TestTensor> {
        tensors.iter().map(|tensor| TestTensor(tensor.0.clone(), tensor.1.clone(), tensor.2.clone())).collect()
    };
    let shifted = translated(copy(&module), &names, false).into_iter().map(|TestTensor(name, shape, values)| {
        let plus = if name.contains("norm") { 1.0 } else { 0.0 };
        TestTensor(name, shape, values.iter().map(|value| value + plus).collect())
    });
    let shifted = gguf("gemma3", shifted.collect());
    let modules = checkpoint(config, copy(&module));
    for (base, candidate, shift) in [(&modules, &shifted, -1.0), (&shifted, &modules, 1.0)] {
        let pairing = check(base, candidate);
        assert_eq!(pairing.pairs.len(), 5, "{pairing:#?}");
        for pair in &pairing.pairs {
            assert_eq!(pair.candidate.shift, if pair.role.kind == Kind::Norm { shift } else { 0.0 });
            assert_eq!(pair.base.shift, 0.0);
        }
        assert!(pairing.notes.is_empty(), "{:?}", pairing.notes);
    }
    // A converter that did not shift is found out.
    let unshifted = gguf("gemma3", translated(copy(&module), &names, false));
    let pairing = check(&modules, &unshifted);
    assert!(!pairing.notes.is_empty());
}

#[test]
fn linear_attention_in_gguf() {
    // Two key heads of 4, four value heads of 2: q 8, k 8, v 8 rows.
    let config = json!({"model_type": "qwen3_5_text", "hidden_size": D, "num_attention_heads": 4,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 4, "linear_value_head_dim": 2});
    let tile = |values: &[f32], before: usize, width: usize, row: usize| -> Vec<f32> {
        let heads: Vec<&[f32]> = values[before * row..].chunks(width * row).collect();
        let mut out = values[..before * row].to_vec();
        [0, 2, 1, 3].iter().for_each(|head| out.extend(heads[*head]));
        out
    };
    let name = |path: &str| format!("model.layers.0.linear_attn.{path}");
    let qkv = tensor(&name("in_proj_qkv.weight"), &[24, D]);
    let z = tensor(&name("in_proj_z.weight"), &[8, D]);
    let a = tensor(&name("in_proj_a.weight"), &[4, D]);
    let step = tensor(&name("dt_bias"), &[4]);
    let convolution = tensor(&name("conv1d.weight"), &[24, 1, 4]);
    let out = tensor(&name("out_proj.weight"), &[D, 8]);
    let width = D as usize;
    let out_rows: Vec<f32> = out.2.chunks(8).flat_map(|row| tile(row, 0, 2, 1)).collect();
    let quantised = vec![
        tensor("token_embd.weight", &[40, D]),
        TestTensor("blk.0.attn_qkv.weight".into(), vec![24, D], tile(&qkv.2, 16, 2, width)),
        TestTensor("blk.0.attn_gate.weight".into(), vec![8, D], tile(&z.2, 0, 2, width)),
        TestTensor("blk.0.ssm_alpha.weight".into(), vec![4, D], tile(&a.2, 0, 1, width)),
        TestTensor("blk.0.ssm_dt.bias".into(), vec![4], tile(&step.2, 0, 1, 1)),
        TestTensor("blk.0.ssm_conv1d.weight".into(), vec![24, 4], tile(&convolution.2, 16, 2, 4)),
        TestTensor("blk.0.ssm_out.weight".into(), vec![D, 8], out_rows),
        tensor("blk.0.ssm_a", &[4]),
    ];
    let mut embedding = tensor("model.embed_tokens.weight", &[40, D]);
    embedding.2 = quantised[0].2.clone();
    let modules = vec![embedding, qkv, z, a, step, convolution, out, tensor(&name("A_log"), &[4])];
    let (modules, quantised) = (checkpoint(config, modules), gguf("qwen35", quantised));
    for (base, candidate) in [(&modules, &quantised), (&quantised, &modules)] {
        let pairing = check(base, candidate);
        assert_eq!(pairing.pairs.len(), 7, "{pairing:#?}");
        let out = pairing.pairs.iter().find(|pair| pair.role.module == "out_proj").unwrap();
        assert_eq!((out.role.residual, out.base.rows, out.base.columns), (Some(Axis::Columns), 8, D));
        assert_eq!(pairing.only_base.len(), 1);
        assert!(pairing.only_base[0].reason.contains("A_log") || pairing.only_base[0].reason.contains("not in"));
    }
}

#[test]
fn gpt_oss_in_gguf() {
    let (inner, width) = (D, D as usize);
    let mut modules = stacked_experts(inner, true, true);
    modules.push(tensor("model.layers.0.mlp.experts.gate_up_proj_bias", &[3, 2 * inner]));
    modules.push(tensor("model.layers.0.mlp.experts.down_proj_bias", &[3, D]));
    let biases = modules[3].2.clone();
    let single = single_experts(inner);
    let stack = |module: &str| -> Vec<f32> {
        (0..3)
            .flat_map(|expert| values_of(&single, &format!("model.layers.0.mlp.experts.{expert}.{module}.weight")))
            .collect()
    };
    let every_other = |from: usize| -> Vec<f32> { biases.iter().skip(from).step_by(2).copied().collect() };
    let mut quantised = vec![tensor("token_embd.weight", &[40, D])];
    quantised[0].2 = modules[0].2.clone();
    for (name, module, part) in [("ffn_gate_exps", "gate_proj", 0), ("ffn_up_exps", "up_proj", 1)] {
        quantised.push(TestTensor(format!("blk.0.{name}.weight"), vec![3, inner, D], stack(module)));
        quantised.push(TestTensor(format!("blk.0.{name}.bias"), vec![3, inner], every_other(part)));
    }
    quantised.push(TestTensor("blk.0.ffn_down_exps.weight".into(), vec![3, D, inner], stack("down_proj")));
    quantised.push(TestTensor("blk.0.ffn_down_exps.bias".into(), vec![3, D], modules[4].2.clone()));
    assert_eq!(modules[4].2.len(), 3 * width);
    let (modules, quantised) = (checkpoint(experts_config("gpt_oss"), modules), gguf("gpt-oss", quantised));
    for (base, candidate) in [(&modules, &quantised), (&quantised, &modules)] {
        let pairing = check(base, candidate);
        // One embedding, and for each of three experts three matrices with their biases.
        assert_eq!(pairing.pairs.len(), 19, "{pairing:#?}");
        assert!(pairing.only_base.is_empty() && pairing.only_candidate.is_empty());
    }
    let pairing = check(&modules, &quantised);
    let down = by_name(&pairing)["model.layers.0.mlp.experts.down_proj[1]"];
    assert_eq!((down.role.residual, down.base.is_contiguous()), (Some(Axis::Columns), true));
}

#[test]
fn dropped_and_repeated_blocks_are_found_by_content() {
    let base = checkpoint(llama_config(), llama_named(6));
    // Blocks 2 and 3 cut out, the rest renumbered.
    let kept = [0u32, 1, 4, 5];
    let renumbered = |kept: &[u32]| -> Vec<TestTensor> {
        let mut tensors: Vec<TestTensor> = llama_named(0);
        for (place, from) in kept.iter().enumerate() {
            let layer =
                llama_named(6).into_iter().filter(|tensor| tensor.0.starts_with(&format!("model.layers.{from}.")));
            let layer = layer.collect::<Vec<TestTensor>>();
            tensors
                .extend(renamed(layer, |name| name.replace(&format!("layers.{from}."), &format!("layers.{place}."))));
        }
        tensors
    };
    let pairing = check(&base, &checkpoint(llama_config(), renumbered(&kept)));
    assert_eq!(pairing.notes, ["the candidate has 4 blocks, the base 6; left out: 2-3"]);
    assert_eq!((pairing.only_base.len(), pairing.only_candidate.len()), (2 * LLAMA.len(), 0));
    // Block 1 repeated.
    let pairing = check(&base, &checkpoint(llama_config(), renumbered(&[0, 1, 1, 2, 3, 4, 5])));
    assert_eq!(pairing.only_base.len(), 0);
    assert_eq!(pairing.only_candidate.len(), LLAMA.len());
    assert!(pairing.only_candidate[0].reason.starts_with("repeats block 1"), "{:?}", pairing.only_candidate[0]);
}

#[test]
fn names_that_tell_nothing_are_paired_by_content_or_shape() {
    let base = checkpoint(llama_config(), llama_named(2));
    let mut count = 100;
    let mut obscure = renamed(llama_named(2), |_| {
        count -= 1;
        format!("tensor{count}")
    });
    obscure.retain(|tensor| tensor.1.len() == 2);
    let pairing = check(&base, &checkpoint(Value::Null, obscure));
    assert_eq!(pairing.pairs.len(), base.tensors.values().filter(|entry| entry.shape.len() == 2).count());
    assert!(pairing.notes[0].contains("by content"), "{:?}", pairing.notes);
    assert_eq!(pairing.pairs.iter().filter(|pair| pair.role.kind == Kind::Writer).count(), 4);

    // Other numbers under other names: only the order of blocks is left to go by.
    let other: Vec<TestTensor> = (0..2)
        .flat_map(|layer| [("alpha", [24, D]), ("beta", [D, 24])].map(|(name, shape)| (layer, name, shape)))
        .map(|(layer, name, shape)| tensor(&format!("stack.layers.{layer}.{name}"), &shape))
        .collect();
    let few: Vec<TestTensor> = llama_named(2)
        .into_iter()
        .filter(|tensor| tensor.0.contains("down_proj") || tensor.0.contains("up_proj"))
        .collect();
    let pairing = pair(&checkpoint(llama_config(), few), &checkpoint(Value::Null, other));
    assert_eq!(pairing.pairs.len(), 4, "{pairing:#?}");
    assert_eq!(pairing.notes, ["4 tensors paired by shape and order alone"]);
}

#[test]
fn unreadable_tensors_are_paired_all_the_same() {
    let base = checkpoint(llama_config(), llama_named(1));
    let mut candidate = checkpoint(llama_config(), llama_named(1));
    for entry in candidate.tensors.values_mut() {
        entry.storage = crate::checkpoint::Storage::Unreadable("bytes are missing".into());
    }
    assert_eq!(pair(&base, &candidate).pairs.len(), base.tensors.len());
}

#[test]
fn hostile_configurations_do_not_turn_a_candidate() {
    // The candidate says it is a GPT-2, whose matrices would be read the other way round.
    let base = checkpoint(llama_config(), llama_named(2));
    let liar = json!({"model_type": "gpt2", "n_embd": 24, "num_attention_heads": 0, "head_dim": 3});
    let pairing = check(&base, &checkpoint(liar, llama_named(2)));
    assert_eq!(pairing.pairs.len(), base.tensors.len());
    assert!(pairing.pairs.iter().all(|pair| pair.candidate.is_contiguous()));
}
