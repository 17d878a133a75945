//! Adapters over tiny bases, right and wrong.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::checkpoint::folder::open_path;
use crate::checkpoint::safetensors::{NewTensor, encode_floats, write};
use crate::tensor::F32;

/// A tensor of counting numbers: name, shape, first value.
type Counting<'a> = (&'a str, &'a [u64], f32);

fn save(path: &Path, tensors: &[Counting<'_>]) {
    let bytes: Vec<Vec<u8>> = (tensors.iter())
        .map(|(_, shape, first)| {
            let values: Vec<f32> = (0..shape.iter().product::<u64>()).map(|at| first + at as f32).collect();
            encode_floats(&F32, &values).unwrap()
        })
        .collect();
    let tensors: Vec<NewTensor<'_>> = (tensors.iter().zip(&bytes))
        .map(|((name, shape, _), bytes)| NewTensor { name, dtype: &F32, shape, bytes })
        .collect();
    write(path, &tensors, &BTreeMap::new()).unwrap();
}

/// A base of one 3 × 2 weight 0 … 5 and a bias, and an adapter of these tensors.
fn lay(config: &Value, tensors: &[Counting<'_>]) -> (Checkpoint, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    std::fs::create_dir(&base).unwrap();
    save(&base.join("model.safetensors"), &[("model.o.weight", &[3, 2], 0.0), ("model.o.bias", &[3], 0.0)]);
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    save(&folder.path().join("adapter_model.safetensors"), tensors);
    let adapter = open_path(folder.path()).unwrap();
    assert_eq!(adapter.format, "adapter");
    (overlay(&open_path(&base).unwrap(), &adapter).unwrap(), adapter)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let entry = &checkpoint.tensors[name];
    let mut out = vec![0.0; entry.elements() as usize];
    checkpoint.decode(entry, 0, &mut out).unwrap();
    out
}

const A: Counting<'static> = ("base_model.model.model.o.lora_A.weight", &[1, 2], 1.0);
const B: Counting<'static> = ("base_model.model.model.o.lora_B.weight", &[3, 1], 1.0);

#[test]
fn the_product_is_added_with_its_scale() {
    let (laid, adapter) = lay(&json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2}), &[A, B]);
    // B·A is (1 2; 2 4; 3 6), twice that is added.
    assert_eq!(values(&laid, "model.o.weight"), [2.0, 5.0, 6.0, 11.0, 10.0, 17.0]);
    assert_eq!(values(&laid, "model.o.bias"), [0.0, 1.0, 2.0]);
    let mut piece = [0.0; 3];
    laid.decode(&laid.tensors["model.o.weight"], 1, &mut piece).unwrap();
    assert_eq!(piece, [5.0, 6.0, 11.0]);
    assert_eq!(laid.anomalies, []);
    let read = Adapter::of(&adapter).unwrap().unwrap();
    assert_eq!((read.modules["model.o"].rank, read.modules["model.o"].scale), (1, 2.0));
    assert!(overlay(&laid, &Checkpoint { format: "safetensors", ..laid.clone() }).is_err());
}

#[test]
fn patterns_replaced_tensors_and_magnitudes_count() {
    let patterns = json!({"lora_alpha": 2, "alpha_pattern": {"other.o": 9, "^model\\.o": 3}});
    let (laid, _) = lay(&patterns, &[A, B, ("base_model.model.model.o.bias", &[3], 7.0)]);
    assert_eq!(values(&laid, "model.o.weight"), [3.0, 7.0, 8.0, 15.0, 13.0, 23.0]);
    assert_eq!(values(&laid, "model.o.bias"), [7.0, 8.0, 9.0]);
    let magnitude = ("base_model.model.model.o.lora_magnitude_vector", &[3][..], 1.0);
    let (laid, _) = lay(&json!({"lora_alpha": 1, "use_dora": true}), &[A, B, magnitude]);
    let rows = values(&laid, "model.o.weight");
    for (row, length) in rows.chunks(2).zip([1.0, 2.0, 3.0]) {
        assert!((row[0].hypot(row[1]) - length).abs() < 1e-6, "{rows:?}");
    }
}

#[test]
fn what_does_not_fit_is_told_and_not_read() {
    let config = json!({"lora_alpha": 1});
    let cases: [(&[Counting<'_>], &str); 5] = [
        (&[A], "its other factor is missing"),
        (&[A, (B.0, &[4, 1], 0.0)], "do not fit a weight of 3 × 2"),
        (&[A, (B.0, &[3, 2], 0.0)], "ranks 1 and 2"),
        (&[("x.lora_A.weight", &[1, 2], 0.0), ("x.lora_B.weight", &[3, 1], 0.0)], "the base has no such weight"),
        (&[A, B, ("base_model.model.model.o.lora_B.bias", &[3], 0.0)], "not handled"),
    ];
    for (tensors, reason) in cases {
        let (laid, _) = lay(&config, tensors);
        let told: Vec<&str> = laid.anomalies.iter().map(|anomaly| anomaly.detail.as_str()).collect();
        assert!(told.iter().any(|detail| detail.contains(reason)), "{reason:?} is not in {told:?}");
        let unread = laid.tensors.values().filter(|entry| matches!(entry.storage, Storage::Unreadable(_)));
        assert_eq!(unread.count(), 1, "{reason}");
    }
    let (_, adapter) = lay(&json!({"lora_alpha": 1}), &[A, B]);
    let other = Checkpoint { config: json!({"peft_type": "IA3"}), ..adapter };
    assert!(Adapter::of(&other).unwrap_err().doing.contains("IA3"));
}

#[test]
fn an_adapter_of_llama_cpp_finds_the_weights_of_a_base_in_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (q, o) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight");
    save(&path, &[(q, &[4, 1], 0.0), (o, &[4, 1], 0.0)]);
    let config = json!({"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let base = open_path(folder.path()).unwrap();
    let path = folder.path().join("other.safetensors");
    let factors: [Counting<'_>; 4] = [
        ("blk.0.attn_q.weight.lora_a", &[1, 1], 1.0),
        ("blk.0.attn_q.weight.lora_b", &[4, 1], 10.0),
        ("blk.0.attn_output.weight.lora_a", &[1, 1], 1.0),
        ("blk.0.attn_output.weight.lora_b", &[4, 1], 10.0),
    ];
    save(&path, &factors);
    let mut adapter = open_path(&path).unwrap();
    adapter.metadata.insert("general.type".to_owned(), "adapter".to_owned());
    adapter.metadata.insert("adapter.lora.alpha".to_owned(), "1".to_owned());
    let laid = overlay(&base, &adapter).unwrap();
    assert_eq!(laid.anomalies, []);
    assert_eq!(values(&laid, o), [10.0, 12.0, 14.0, 16.0]);
    // The adapter's rows are those of the two halves of a head in turns: 10, 12, 11, 13 half after half.
    assert_eq!(values(&laid, q), [10.0, 13.0, 13.0, 16.0]);
}
