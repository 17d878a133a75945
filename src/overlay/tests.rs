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

/// A base of two 3 × 2 weights 0 … 5 and a bias, and an adapter of these tensors.
fn lay(config: &Value, tensors: &[Counting<'_>]) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    std::fs::create_dir(&base).unwrap();
    let of_base: [Counting<'_>; 4] = [
        ("model.o.weight", &[3, 2], 0.0),
        ("model.o.bias", &[3], 0.0),
        ("model.p.weight", &[3, 2], 0.0),
        ("model.embed_tokens.weight", &[4, 2], 0.0),
    ];
    save(&base.join("model.safetensors"), &of_base);
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    save(&folder.path().join("adapter_model.safetensors"), tensors);
    let adapter = open_path(folder.path()).unwrap();
    assert_eq!(adapter.format, "adapter");
    overlay(&open_path(&base).unwrap(), &adapter)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let entry = &checkpoint.tensors[name];
    let mut out = vec![0.0; entry.elements() as usize];
    checkpoint.decode(entry, 0, &mut out).unwrap();
    out
}

fn unread(checkpoint: &Checkpoint) -> Vec<(&str, &[u64])> {
    let unread = checkpoint.tensors.values().filter(|entry| matches!(entry.storage, Storage::Unreadable(_)));
    unread.map(|entry| (entry.name.as_str(), entry.shape.as_slice())).collect()
}

const A: Counting<'static> = ("base_model.model.model.o.lora_A.weight", &[1, 2], 1.0);
const B: Counting<'static> = ("base_model.model.model.o.lora_B.weight", &[3, 1], 1.0);
/// A pair that can always be used.
const PA: Counting<'static> = ("base_model.model.model.p.lora_A.weight", &[1, 2], 1.0);
const PB: Counting<'static> = ("base_model.model.model.p.lora_B.weight", &[3, 1], 1.0);

#[test]
fn the_product_is_added_with_its_scale() {
    let laid = lay(&json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2}), &[A, B]).unwrap();
    // B·A is (1 2; 2 4; 3 6), twice that is added.
    assert_eq!(values(&laid, "model.o.weight"), [2.0, 5.0, 6.0, 11.0, 10.0, 17.0]);
    assert_eq!(values(&laid, "model.o.bias"), [0.0, 1.0, 2.0]);
    let mut piece = [0.0; 3];
    laid.decode(&laid.tensors["model.o.weight"], 1, &mut piece).unwrap();
    assert_eq!(piece, [5.0, 6.0, 11.0]);
    assert_eq!(laid.anomalies, []);
    assert!(overlay(&laid, &Checkpoint { format: "safetensors", ..laid.clone() }).is_err());
}

#[test]
fn patterns_replaced_tensors_and_magnitudes_count() {
    let patterns = json!({"r": 1, "lora_alpha": 2, "alpha_pattern": {"other.o": 9, "^model\\.o": 3}});
    let laid = lay(&patterns, &[A, B, ("base_model.model.model.o.bias", &[3], 7.0)]).unwrap();
    assert_eq!(values(&laid, "model.o.weight"), [3.0, 7.0, 8.0, 15.0, 13.0, 23.0]);
    assert_eq!(values(&laid, "model.o.bias"), [7.0, 8.0, 9.0]);
    let magnitude = ("base_model.model.model.o.lora_magnitude_vector", &[3][..], 1.0);
    let laid = lay(&json!({"r": 1, "lora_alpha": 1, "use_dora": true}), &[A, B, magnitude]).unwrap();
    let rows = values(&laid, "model.o.weight");
    for (row, length) in rows.chunks(2).zip([1.0, 2.0, 3.0]) {
        assert!((row[0].hypot(row[1]) - length).abs() < 1e-6, "{rows:?}");
    }
}

#[test]
fn a_product_is_added_to_what_replaces_the_weight() {
    let replaced = ("base_model.model.model.o.base_layer.weight", &[3, 2][..], 100.0);
    let laid = lay(&json!({"r": 1, "lora_alpha": 1}), &[A, B, replaced]).unwrap();
    assert_eq!(values(&laid, "model.o.weight"), [101.0, 103.0, 104.0, 107.0, 107.0, 111.0]);
    assert_eq!(unread(&laid), []);
}

#[test]
fn biases_and_trained_rows_are_laid_too() {
    let bias = ("base_model.model.model.o.lora_B.bias", &[3][..], 1.0);
    let laid = lay(&json!({"r": 1, "lora_alpha": 2, "lora_bias": true}), &[A, B, bias]).unwrap();
    assert_eq!(values(&laid, "model.o.bias"), [2.0, 5.0, 8.0]);
    let rows = ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", &[2, 2][..], 50.0);
    let config = json!({"r": 1, "lora_alpha": 1, "trainable_token_indices": [3, 1]});
    let laid = lay(&config, &[PA, PB, rows]).unwrap();
    let name = "model.embed_tokens.weight";
    assert_eq!(values(&laid, name), [0.0, 1.0, 52.0, 53.0, 4.0, 5.0, 50.0, 51.0]);
    for first in 0..8 {
        for count in 1..=8 - first {
            let mut piece = vec![0.0; count];
            laid.decode(&laid.tensors[name], first as u64, &mut piece).unwrap();
            assert_eq!(piece, values(&laid, name)[first..first + count], "{first} {count}");
        }
    }
    for indices in [json!([3]), json!([3, 3]), json!([3, 4]), json!(null), json!({"other": [3, 1]}), json!([-1, 1])] {
        let config = json!({"r": 1, "lora_alpha": 1, "trainable_token_indices": indices});
        assert_eq!(unread(&lay(&config, &[PA, PB, rows]).unwrap()), [(name, &[4, 2][..])], "{indices}");
    }
}

#[test]
fn what_does_not_fit_makes_its_target_unreadable() {
    type Target = (&'static str, &'static [u64]);
    let o: Target = ("model.o.weight", &[3, 2]);
    let config = json!({"r": 1, "lora_alpha": 1});
    let twice = ("model.o.lora_A.weight", &[1, 2][..], 0.0);
    let cases: [(&[Counting<'_>], &str, Target); 9] = [
        (&[A], "its other factor is missing", o),
        (&[B], "its other factor is missing", o),
        (&[A, (B.0, &[4, 1], 0.0)], "do not fit a weight of 3 × 2", o),
        (&[A, (B.0, &[3, 2], 0.0)], "ranks 1 and 2", o),
        (&[(A.0, &[2, 2], 0.0), (B.0, &[3, 2], 0.0)], "have rank 2, and its configuration says 1", o),
        (&[A, B, ("base_model.model.model.o.lora_B.bias", &[3], 0.0)], "lora_bias does not say so", o),
        (&[A, B, twice], "two tensors are its A", o),
        (&[("base_model.model.model.o.lora_E", &[1, 1], 0.0)], "AdaLoRA that is not handled", o),
        (
            &[("x.lora_A.weight", &[1, 2], 0.0), ("x.lora_B.weight", &[3, 1], 0.0)],
            "the base has no such weight",
            ("x.weight", &[1, 2]),
        ),
    ];
    for (tensors, reason, target) in cases {
        let laid = lay(&config, &[tensors, &[PA, PB]].concat()).unwrap();
        let told: Vec<&str> = laid.anomalies.iter().map(|anomaly| anomaly.detail.as_str()).collect();
        assert!(told.iter().any(|detail| detail.contains(reason)), "{reason:?} is not in {told:?}");
        assert_eq!(unread(&laid), [target], "{reason}");
        // By itself it is an error, and not the base.
        let error = lay(&config, tensors).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.doing.contains(reason), "{}", error.doing);
    }
}

#[test]
fn a_configuration_that_is_not_understood_is_an_error() {
    for (config, word) in [
        (json!({"peft_type": "IA3"}), "IA3"),
        (json!({"r": 1, "init_lora_weights": "pissa"}), "pissa"),
        (json!({"r": 1, "lora_alpha": "1"}), "is no number"),
        (json!({"r": 2, "lora_alpha": 1}), "its configuration says 2"),
        (json!({"r": 1, "lora_alpha": 1e308, "alpha_pattern": {}}), "is no number"),
        (json!({"r": 1, "alpha_pattern": {"(?=x)o": 1}}), "alpha_pattern has a key"),
        (json!([]), "adapter_config.json"),
    ] {
        let error = lay(&config, &[A, B]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{config}");
        assert!(error.doing.contains(word), "{word}: {}", error.doing);
    }
}

#[test]
fn an_adapter_of_llama_cpp_finds_the_weights_of_a_base_in_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (q, o) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight");
    save(&path, &[(q, &[4, 4], 0.0), (o, &[4, 4], 0.0)]);
    let config = json!({"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let base = open_path(folder.path()).unwrap();
    let path = folder.path().join("other.safetensors");
    let factors: [Counting<'_>; 4] = [
        ("blk.0.attn_q.weight.lora_a", &[1, 4], 1.0),
        ("blk.0.attn_q.weight.lora_b", &[4, 1], 10.0),
        ("blk.0.attn_output.weight.lora_a", &[1, 4], 1.0),
        ("blk.0.attn_output.weight.lora_b", &[4, 1], 10.0),
    ];
    save(&path, &factors);
    let mut adapter = open_path(&path).unwrap();
    adapter.metadata.insert("general.type".to_owned(), "adapter".to_owned());
    adapter.metadata.insert("adapter.lora.alpha".to_owned(), "1".to_owned());
    let laid = overlay(&base, &adapter).unwrap();
    assert_eq!(laid.anomalies, []);
    let sum = |left: [f32; 4]| -> Vec<f32> {
        (0..16u8).map(|at| f32::from(at) + left[usize::from(at / 4)] * f32::from(at % 4 + 1)).collect()
    };
    assert_eq!(values(&laid, o), sum([10.0, 11.0, 12.0, 13.0]));
    // The adapter's rows are those of the two halves of a head in turns: 10, 12, 11, 13 half after half.
    assert_eq!(values(&laid, q), sum([10.0, 12.0, 11.0, 13.0]));
    // Without the width of a head their order is not known.
    let blind = Checkpoint { config: json!({"model_type": "llama", "hidden_size": 4}), ..base };
    assert_eq!(unread(&overlay(&blind, &adapter).unwrap()), [(q, &[4, 4][..])]);
}

#[test]
fn a_part_that_may_mean_several_tensors_makes_all_of_them_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let name = |tower: &str| format!("{tower}.layers.0.mlp.down_proj.weight");
    let (one, other) = (name("first"), name("second"));
    save(&path, &[(&one, &[3, 2], 0.0), (&other, &[3, 2], 0.0), ("model.o.weight", &[3, 2], 0.0)]);
    let base = open_path(folder.path()).unwrap();
    let adapter = tempfile::tempdir().unwrap();
    std::fs::write(adapter.path().join("adapter_config.json"), r#"{"r": 1, "lora_alpha": 1}"#).unwrap();
    let factors = |module: &str| [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")];
    let save_for = |module: &str| {
        let [a, b] = factors(module);
        let path = adapter.path().join("adapter_model.safetensors");
        save(&path, &[A, B, (&a, &[1, 2], 1.0), (&b, &[3, 1], 1.0)]);
        overlay(&base, &open_path(adapter.path()).unwrap()).unwrap()
    };
    let laid = save_for("model.layers.0.mlp.down_proj");
    assert_eq!(unread(&laid), [(one.as_str(), &[3, 2][..]), (other.as_str(), &[3, 2][..])]);
    assert_eq!(unread(&save_for("wrapper.second.layers.0.mlp.down_proj")), []);
}

#[test]
fn targets_are_looked_up_and_not_searched_for() {
    // Ten thousand modules that the base does not have, over ten thousand tensors: quadratic, this was 10⁸ comparisons
    // of names; the answer is the same for every one of them.
    let tensor = |name: String, shape: &[u64]| {
        let entry = TensorEntry {
            name: name.clone(),
            dtype: &F32,
            shape: shape.to_vec(),
            file: 0,
            range: 0..0,
            storage: Storage::Unreadable("no bytes".to_owned()),
        };
        (name, entry)
    };
    let blank = |tensors| Checkpoint {
        label: "t".to_owned(),
        format: "adapter",
        files: Vec::new(),
        tensors,
        config: json!({"r": 1}),
        metadata: BTreeMap::new(),
        anomalies: Vec::new(),
    };
    let base = blank((0..10_000).map(|at| tensor(format!("model.layers.{at}.x.weight"), &[3, 2])).collect());
    let adapter = blank((0..10_000).map(|at| tensor(format!("other.{at}.lora_A.weight"), &[1, 2])).collect());
    assert!(overlay(&base, &adapter).unwrap_err().doing.contains("none of its parts"));
}
