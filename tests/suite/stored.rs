//! Weights stored in unusual ways: what is read is judged as if it were stored plainly, what is not read is told, and the
//! relation says only what was shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use assert_cmd::Command;
use orthoscope::checkpoint::{Checkpoint, FileSet, Storage};
use orthoscope::demo::standin::{Repository, Standin};
use orthoscope::demo::tiny::edits::RemovalKind;
use orthoscope::demo::tiny::gguf::{self, Quantization, interleaved};
use orthoscope::demo::tiny::quantized::{self, TinyTensor};
use orthoscope::demo::tiny::torch::{self, NewView};
use orthoscope::demo::tiny::{Model, Weight, normal, random};
use orthoscope::source::{ByteSource, Bytes};
use orthoscope::tensor::{BF16, DType, F32, U8};
use serde_json::{Value, json};

use crate::program::program;
use crate::support::{TINY, ablated, bytes, open_settings, tuned};

fn compare(folder: &Path, candidate: &str) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_orthoscope"))
        .current_dir(folder)
        .args(["compare", "base", candidate, "--format", "json", "--no-record"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let found = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{:?}", output.stderr));
    (output.status.code().unwrap(), found)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A folder with the tiny base.
fn with_base() -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let base = TINY.llama(1);
    base.write(&folder.path().join("base"), &BF16, 1).unwrap();
    (folder, base)
}

fn removed(base: &Model) -> Model {
    ablated(base, 10, 1.0, RemovalKind::Plain)
}

/// A way of storing a model.
type Writer = Box<dyn Fn(&Model, &Path)>;

/// Writes a model by a scheme for each matrix; `config` is added to the model's own.
fn by(config: Value, replace: impl Fn(&str, &Weight) -> Option<Vec<TinyTensor>> + 'static) -> Writer {
    Box::new(move |model, folder| {
        let mut all = model.config.clone();
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let tensors = quantized::stored(model, &replace);
        quantized::write(folder, "model.safetensors", &tensors, &all).unwrap();
    })
}

fn of_layer(name: &str) -> bool {
    name.contains("_proj")
}

fn nf4(storage: &'static DType) -> Writer {
    let config = json!({ "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true } });
    by(config, move |name, weight| of_layer(name).then(|| quantized::nf4(name, weight, storage)))
}

/// MLX with so many bits, and 8 for the writers of layer 2 by an entry of their own.
fn mlx(bits: usize) -> Writer {
    let own = |name: &str| name.contains("layers.2.") && name.contains("down_proj");
    let config = json!({ "quantization": {
        "group_size": 32, "bits": bits, "model.layers.2.mlp.down_proj": { "group_size": 32, "bits": 8 },
    }});
    by(config, move |name, weight| Some(quantized::mlx(name, weight, if own(name) { 8 } else { bits }, 32)))
}

fn fp8() -> Writer {
    let config = json!({ "quantization_config": { "quant_method": "compressed-tensors" } });
    by(config, |name, weight| of_layer(name).then(|| quantized::fp8(name, weight)))
}

fn q4_0() -> Writer {
    Box::new(|model, folder| write(folder, "m-Q4_0.gguf", &gguf::bytes(model, "tiny", Quantization::Q4_0)))
}

fn signatures(found: &Value) -> Vec<&str> {
    found["findings"].as_array().unwrap().iter().map(|one| one["signature"].as_str().unwrap()).collect()
}

/// Name of the way, and how it stores a model.
fn ways() -> Vec<(&'static str, Writer)> {
    vec![
        ("nf4 as bytes", nf4(&U8)),
        ("nf4 as bf16", nf4(&BF16)),
        ("nf4 as f32", nf4(&F32)),
        ("fp8", fp8()),
        ("q4_0", q4_0()),
        ("mlx 4", mlx(4)),
        ("mlx 5", mlx(5)),
        ("mlx 6", mlx(6)),
        ("mlx 8", mlx(8)),
    ]
}

#[test]
fn an_honest_quantisation_is_that_and_nothing_else() {
    let (folder, base) = with_base();
    for (way, store) in ways() {
        store(&base, &folder.path().join(way));
        let (status, found) = compare(folder.path(), way);
        let told = (status, found["relation"].as_str().unwrap(), found["verdict"].as_str().unwrap());
        assert_eq!(told, (0, "quantized", "clear"), "{way}: {}", found["because"]);
        let wrong = ["fine-tune", "pruning", "trained-afterwards"];
        assert!(!signatures(&found).iter().any(|id| wrong.contains(id)), "{way}: {:?}", signatures(&found));
        assert_eq!(found["status"], "complete", "{way}");
    }
}

#[test]
fn a_removal_under_a_quantiser_is_found_and_no_training_is_said() {
    let (folder, base) = with_base();
    let edited = removed(&base);
    for (way, store) in ways() {
        store(&edited, &folder.path().join(way));
        let (status, found) = compare(folder.path(), way);
        assert_eq!((status, found["verdict"].as_str().unwrap()), (1, "orthogonalized"), "{way}: {}", found["because"]);
        let ids = signatures(&found);
        assert!(!ids.contains(&"trained-afterwards") && !ids.contains(&"fine-tune"), "{way}: {ids:?}");
    }
}

/// A matrix in whole numbers of 8 bits with a scale a row; every number of places in `moved` one code further.
fn int8(moved: usize) -> Writer {
    by(json!({}), move |name, weight| {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for (row, values) in weight.values.chunks_exact(weight.shape[1]).enumerate() {
            let largest = values.iter().fold(0.0f32, |most, value| most.max(value.abs())).max(f32::MIN_POSITIVE);
            scales.push(largest / 127.0);
            codes.extend(values.iter().enumerate().map(|(at, value)| {
                let code = (value * 127.0 / largest).round();
                let code = if (row + at) % 64 < moved && code < 127.0 { code + 1.0 } else { code };
                code as i8 as u8
            }));
        }
        let shape: Vec<u64> = weight.shape.iter().map(|side| *side as u64).collect();
        let column = Weight { shape: vec![weight.shape[0], 1], values: scales };
        let codes = TinyTensor { name: name.to_owned(), dtype: DType::named("I8").unwrap(), shape, bytes: codes };
        of_layer(name).then(|| vec![codes, TinyTensor::plain(&format!("{name}_scale"), &F32, &column)])
    })
}

/// The whole report as JSON with its measurements.
fn measured(folder: &Path, candidate: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_orthoscope"))
        .current_dir(folder)
        .args(["compare", "base", candidate, "--format", "json", "-vv", "--no-record"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn rounding(found: &Value, what: &str) -> f64 {
    found["profile"]["model"][format!("rounding.{what}")].as_f64().unwrap_or_else(|| panic!("no rounding.{what}"))
}

/// Tensors named as not the base rounded.
fn beyond(found: &Value) -> Vec<&str> {
    let anomalies = found["anomalies"].as_array().unwrap().iter();
    anomalies.filter(|one| one["kind"] == "beyond-rounding").map(|one| one["tensor"].as_str().unwrap()).collect()
}

fn rounded_ways() -> Vec<(&'static str, Writer)> {
    let q8_0: Writer =
        Box::new(|model, folder| write(folder, "m-Q8_0.gguf", &gguf::bytes(model, "tiny", Quantization::Q8_0)));
    let mut all = ways();
    all.extend([("q8_0", q8_0), ("int8", int8(0))]);
    all
}

#[test]
fn every_tensor_of_a_faithful_quantisation_is_counted() {
    let (folder, base) = with_base();
    for (way, store) in rounded_ways() {
        store(&base, &folder.path().join(way));
        let found = measured(folder.path(), way);
        let finding = found["findings"].as_array().unwrap().iter();
        let finding = finding.filter(|one| one["signature"] == "faithful-quantisation").collect::<Vec<_>>();
        assert_eq!(finding.len(), 1, "{way}: {:?} {:?}", signatures(&found), beyond(&found));
        assert_eq!(rounding(&found, "within"), rounding(&found, "tensors"), "{way}");
        assert!(rounding(&found, "tensors") >= 28.0 && beyond(&found).is_empty(), "{way}: {:?}", beyond(&found));
        assert_eq!(found["verdict"], "clear", "{way}");
    }
}

#[test]
fn one_tensor_that_is_not_the_base_rounded_is_named() {
    let (folder, base) = with_base();
    let (matrix, norm) = ("model.layers.1.self_attn.v_proj.weight", "model.layers.2.input_layernorm.weight");
    let mut edited = base.clone();
    orthoscope::demo::tiny::edits::add_noise(edited.tensors.get_mut(matrix).unwrap(), 0.1, 3, "noise");
    let mut swapped = base.clone();
    let other = swapped.tensors["model.layers.3.self_attn.v_proj.weight"].clone();
    swapped.tensors.insert(matrix.to_owned(), other);
    let mut scaled = base.clone();
    scaled.tensors.get_mut(norm).unwrap().values.iter_mut().for_each(|value| *value *= 1.25);
    for (way, store) in rounded_ways() {
        for (what, model, named) in
            [("edited", &edited, matrix), ("swapped", &swapped, matrix), ("scaled", &scaled, norm)]
        {
            let candidate = format!("{way} {what}");
            store(model, &folder.path().join(&candidate));
            let found = measured(folder.path(), &candidate);
            assert!(!signatures(&found).contains(&"faithful-quantisation"), "{candidate}");
            let expected = match (way.starts_with('q'), named == matrix) {
                (false, _) => named,
                (true, true) => "blk.1.attn_v.weight",
                (true, false) => "blk.2.attn_norm.weight",
            };
            assert_eq!(beyond(&found), [expected], "{candidate}");
            assert_eq!(rounding(&found, "unaccounted"), 1.0, "{candidate}");
        }
    }
}

#[test]
fn codes_that_are_not_the_nearest_are_faithful_in_no_scheme_and_say_nothing_where_a_scheme_means_them() {
    let (folder, base) = with_base();
    int8(6)(&base, &folder.path().join("int8"));
    let found = measured(folder.path(), "int8");
    assert_eq!(rounding(&found, "untold"), rounding(&found, "tensors"));
    assert!(beyond(&found).is_empty() && !signatures(&found).contains(&"faithful-quantisation"));
    let further = tuned(&base, 5);
    for (way, store) in [("fp8", fp8()), ("mlx 4", mlx(4)), ("q4_0", q4_0())] {
        let candidate = format!("{way} of another");
        store(&further, &folder.path().join(&candidate));
        let found = measured(folder.path(), &candidate);
        assert!(!signatures(&found).contains(&"faithful-quantisation"), "{candidate}");
        assert!(rounding(&found, "unaccounted") > 10.0, "{candidate}");
    }
}

/// Every matrix in 8 bits with a scale a row: those of `fixed`, whatever the weights are now.
fn int8_under(fixed: &Model) -> Writer {
    let fixed = fixed.clone();
    by(json!({}), move |name, weight| {
        let rows =
            |weight: &Weight| weight.values.chunks_exact(weight.shape[1]).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let largest = |row: &Vec<f32>| row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let scales: Vec<f32> = rows(&fixed.tensors[name]).iter().map(|row| largest(row) / 127.0).collect();
        let codes = rows(weight).into_iter().zip(&scales).flat_map(|(row, scale)| {
            row.iter().map(|value| (value / scale).round().clamp(-127.0, 127.0) as i8 as u8).collect::<Vec<_>>()
        });
        let shape: Vec<u64> = weight.shape.iter().map(|side| *side as u64).collect();
        let codes =
            TinyTensor { name: name.to_owned(), dtype: DType::named("I8").unwrap(), shape, bytes: codes.collect() };
        let column = Weight { shape: vec![weight.shape[0], 1], values: scales };
        of_layer(name).then(|| vec![codes, TinyTensor::plain(&format!("{name}_scale"), &F32, &column)])
    })
}

#[test]
fn writers_edited_in_their_codes_are_told_from_writers_that_were_quantised_again() {
    let folder = tempfile::tempdir().unwrap();
    let base = TINY.llama(1);
    int8_under(&base)(&base, &folder.path().join("base"));
    let faint = ablated(&base, 10, 0.08, RemovalKind::Plain);
    for (name, under) in [("in place", &base), ("again", &faint)] {
        int8_under(under)(&faint, &folder.path().join(name));
        let found = measured(folder.path(), name);
        let told = signatures(&found).contains(&"edited-in-place");
        assert_eq!(told, name == "in place", "{name}: {:?}", signatures(&found));
        let verdict = found["verdict"].as_str().unwrap();
        assert!(name != "in place" || ["suspect", "orthogonalized"].contains(&verdict), "{verdict}");
        assert_eq!(found["profile"]["model"]["in_place.share"], if told { 1.0 } else { 0.0 }, "{name}");
    }
    let all = tuned(&base, 5);
    int8_under(&base)(&all, &folder.path().join("all"));
    assert!(!signatures(&measured(folder.path(), "all")).contains(&"edited-in-place"));
}

/// MLX's `mxfp4`: codes that have their half among the codes, under a power of two; or the halves under the next one.
fn mxfp4(halved: bool) -> Writer {
    let config = json!({ "quantization": { "mode": "mxfp4", "group_size": 32, "bits": 4 } });
    by(config, move |name, weight| {
        // 0, 1, 2, 3, 4, 6 of either sign, and 0, 0.5, 1, 1.5, 2, 3.
        let whole = [0u32, 2, 4, 5, 6, 7, 10, 12, 13, 14, 15];
        let half = [0u32, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13];
        let of = |value: &f32| (value.to_bits() >> 9) as usize % whole.len();
        let code = |value: &f32| if halved { half[of(value)] } else { whole[of(value)] };
        let words = weight
            .values
            .chunks(8)
            .map(|eight| eight.iter().enumerate().fold(0u32, |word, (at, value)| word | code(value) << (4 * at)));
        let [rows, columns] = [weight.shape[0] as u64, weight.shape[1] as u64];
        let stem = name.strip_suffix(".weight").unwrap();
        let exponent = if halved { 121 } else { 120 };
        let scales = vec![exponent; (rows * columns / 32) as usize];
        let bytes = words.flat_map(u32::to_le_bytes).collect();
        let codes = TinyTensor {
            name: name.to_owned(),
            dtype: &orthoscope::tensor::U32,
            shape: vec![rows, columns / 8],
            bytes,
        };
        let scales =
            TinyTensor { name: format!("{stem}.scales"), dtype: &U8, shape: vec![rows, columns / 32], bytes: scales };
        Some(vec![codes, scales])
    })
}

#[test]
fn other_codes_of_the_same_numbers_are_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let base = TINY.llama(1);
    mxfp4(false)(&base, &folder.path().join("base"));
    mxfp4(true)(&base, &folder.path().join("recoded"));
    let files =
        ["base", "recoded"].map(|side| std::fs::read(folder.path().join(side).join("model.safetensors")).unwrap());
    assert_ne!(files[0], files[1]);
    let found = measured(folder.path(), "recoded");
    assert_eq!(found["profile"]["model"]["tensors.changed_share"], 0.0);
    assert_eq!((found["verdict"].as_str().unwrap(), found["relation"].as_str().unwrap()), ("clear", "recast"));
    assert!(
        found["profile"]["model"].get("in_place.share").is_none() && !signatures(&found).contains(&"edited-in-place")
    );
}

/// What `trained-afterwards`, `fine-tune` and `pruning` are there for is still said.
#[test]
fn training_and_pruning_are_still_told() {
    let (folder, base) = with_base();
    let mut both = removed(&base);
    orthoscope::demo::tiny::edits::fine_tune(&mut both, 0.05, 3);
    both.write(&folder.path().join("both"), &BF16, 1).unwrap();
    let mut dense = tuned(&base, 5);
    for name in base.linear() {
        let weight = dense.tensors.get_mut(&name).unwrap();
        let size = weight.values.iter().map(|value| value * value).sum::<f32>() / weight.values.len() as f32;
        let noise = normal(&mut random(5, &name), weight.values.len());
        weight.values.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.05 * size.sqrt() * noise);
    }
    dense.write(&folder.path().join("tuned"), &BF16, 1).unwrap();
    let mut pruned = base.clone();
    for name in base.linear() {
        orthoscope::demo::tiny::edits::prune(pruned.tensors.get_mut(&name).unwrap(), 0.3);
    }
    pruned.write(&folder.path().join("pruned"), &BF16, 1).unwrap();
    for (side, signature) in [("both", "trained-afterwards"), ("tuned", "fine-tune"), ("pruned", "pruning")] {
        let (_, found) = compare(folder.path(), side);
        assert!(signatures(&found).contains(&signature), "{side}: {:?}", signatures(&found));
    }
}

#[test]
fn scales_of_mlx_are_no_matrices_of_the_model() {
    let (folder, base) = with_base();
    mlx(4)(&base, &folder.path().join("mlx"));
    let checkpoint = orthoscope::checkpoint::folder::open_path(&folder.path().join("mlx")).unwrap();
    let names: Vec<&String> = checkpoint.tensors.keys().collect();
    assert_eq!(names, base.tensors.keys().collect::<Vec<_>>());
    for (name, weight) in &base.tensors {
        let shape: Vec<usize> = checkpoint.tensors[name].shape.iter().map(|side| *side as usize).collect();
        assert_eq!(shape, weight.shape, "{name}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_orthoscope"))
        .current_dir(folder.path())
        .args(["inspect", "mlx", "--format", "json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains(".scales") && !text.contains(".biases") && text.contains("mlx-4bit-g32"), "{text}");
}

/// Opens tensors (name, dtype, shape) filled with ones.
fn open(config: &Value, tensors: &[(String, &str, Vec<u64>)]) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let stored: Vec<TinyTensor> = tensors
        .iter()
        .map(|(name, dtype, shape)| {
            let dtype = DType::named(dtype).unwrap();
            let bytes = vec![1; dtype.bytes_of(shape.iter().product()).unwrap() as usize];
            TinyTensor { name: name.clone(), dtype, shape: shape.clone(), bytes }
        })
        .collect();
    quantized::write(folder.path(), "model.safetensors", &stored, config).unwrap();
    orthoscope::checkpoint::folder::open_path(folder.path()).unwrap()
}

fn unreadable<'c>(checkpoint: &'c Checkpoint, name: &str) -> &'c str {
    match checkpoint.tensors.get(name).map(|entry| &entry.storage) {
        Some(Storage::Unreadable(reason)) => reason,
        Some(_) => panic!("{name} is readable"),
        None => panic!("no {name} in {:?}", checkpoint.tensors.keys()),
    }
}

/// A tensor's name below its module, dtype and shape.
type PartOfGroup = (&'static str, &'static str, &'static [u64]);

/// What a quantiser writes for one module: the parts beside it, and the word that names it.
const GROUPS: &[(&[PartOfGroup], &str)] = &[
    (&[("trellis", "I16", &[4, 4, 48]), ("suh", "F16", &[64]), ("svh", "F16", &[64])], "EXL3"),
    (&[("trellis", "I16", &[4, 4]), ("SU", "F16", &[64]), ("SV", "F32", &[64]), ("tlut", "F16", &[512, 2])], "QTIP"),
    (
        &[
            ("q_weight", "I32", &[8, 64]),
            ("q_scale", "I32", &[2, 8]),
            ("q_scale_max", "F16", &[2]),
            ("q_groups", "I16", &[4]),
            ("q_invperm", "I32", &[64]),
        ],
        "EXL2",
    ),
    (&[("W_q", "U8", &[32, 64]), ("scale", "F16", &[64, 1]), ("zero", "F16", &[64, 1]), ("nbits", "I32", &[1])], "HQQ"),
    (&[("W_q", "U8", &[32, 64]), ("meta.scale", "F16", &[64, 1]), ("meta.zero", "F16", &[64, 1])], "HQQ"),
    (
        &[("codes", "I16", &[64, 8, 1]), ("codebooks", "F16", &[1, 256, 1, 8]), ("scales", "F16", &[64, 1, 1, 1])],
        "AQLM",
    ),
    (&[("Qidxs", "I64", &[64, 8]), ("SU", "F16", &[64]), ("SV", "F16", &[64]), ("Wscale", "F32", &[1])], "QuIP#"),
    (&[("dense_weights", "I64", &[64]), ("in_perm", "I16", &[64]), ("row_offsets", "I32", &[65])], "SpQR"),
    (
        &[
            ("indices", "I32", &[1, 64, 8]),
            ("centroids.weight", "F16", &[1, 2048]),
            ("weight_scale", "F16", &[64]),
            ("weight_bias", "F16", &[64]),
            ("perm", "I16", &[64]),
        ],
        "VPTQ",
    ),
    (&[("weight._data", "I8", &[64, 64]), ("weight._scale", "F16", &[64, 1])], "Quanto"),
    (&[("_weight_qdata", "I8", &[64, 64]), ("_weight_scale", "F32", &[64, 1])], "torchao"),
    (&[("qweight", "I8", &[64, 32]), ("wscales", "F16", &[1, 64]), ("lora_up", "F16", &[64, 8])], "SVDQuant"),
    (&[("qweight", "I32", &[8, 64]), ("lookup_table", "F16", &[64, 16])], "SqueezeLLM"),
    (&[("qweight", "I32", &[4, 64, 2]), ("lut4", "F16", &[64, 16])], "Any-Precision"),
    (&[("B", "I32", &[4, 128]), ("s", "F16", &[1, 64])], "Marlin"),
    (&[("weight", "I8", &[64, 32]), ("weights_scaling_factor", "F16", &[64])], "TensorRT-LLM"),
    (&[("weight", "I16", &[16, 64]), ("scales", "F16", &[64]), ("tables", "F16", &[256])], "HIGGS"),
    (&[("weight", "I8", &[64, 64]), ("weight_scales", "F16", &[64])], "EETQ"),
    (&[("weight", "U8", &[16, 64]), ("weight_scale", "BF16", &[1])], "BitNet"),
    (
        &[("weight", "U8", &[2048, 1]), ("weight.absmax", "F32", &[64]), ("weight.quant_map", "F32", &[16])],
        "bitsandbytes",
    ),
    (&[("compressed", "BF16", &[2048]), ("bitmask", "U8", &[64, 8]), ("row_offsets", "I64", &[64, 1])], "sparse form"),
    (&[("qweight", "I32", &[8, 64])], "without the scales"),
    (&[("weight", "I32", &[64, 8]), ("absmax", "F32", &[64])], "absmax beside it"),
    (&[("weight", "F8_E4M3", &[64, 64]), ("scales", "F32", &[64])], "scales beside it"),
    (&[("weight", "I32", &[64, 64])], "nothing says"),
    (&[("weight", "U8", &[4096])], "nothing says"),
    (&[("weight", "U32", &[64, 8]), ("scales", "F16", &[64, 1]), ("biases", "F16", &[64, 1])], "MLX"),
];

#[test]
fn quantised_groups_that_nobody_reads_become_weights_that_cannot_be_read() {
    let module = "model.layers.0.mlp.down_proj";
    for (parts, word) in GROUPS {
        let mut tensors: Vec<(String, &str, Vec<u64>)> =
            parts.iter().map(|(part, dtype, shape)| (format!("{module}.{part}"), *dtype, shape.to_vec())).collect();
        tensors.push(("model.norm.weight".to_owned(), "BF16", vec![64]));
        let checkpoint = open(&json!({ "model_type": "llama" }), &tensors);
        let reason = unreadable(&checkpoint, &format!("{module}.weight"));
        assert!(reason.contains(word), "{word}: {reason}");
        if *word != "MLX" {
            let names: Vec<&String> = checkpoint.tensors.keys().collect();
            assert_eq!(names, [&format!("{module}.weight"), "model.norm.weight"], "{word}: strangers");
        }
        assert!(!checkpoint.anomalies.is_empty(), "{word} is not told");
    }
}

/// Unit vectors under the names of writers, as packs for servers that take them out at load are published.
fn pack(folder: &Path, base: &Model) {
    let names = base.writers();
    let mut tensors: Vec<TinyTensor> = (names.iter())
        .map(|name| {
            let values = orthoscope::demo::tiny::direction(9, name, TINY.width);
            let name = name.strip_suffix(".weight").unwrap();
            TinyTensor::plain(name, &F32, &Weight { shape: vec![TINY.width], values })
        })
        .collect();
    tensors.push(TinyTensor::plain("__coefs__", &F32, &Weight { shape: vec![2], values: vec![1.0, 3.0] }));
    quantized::write(folder, "refusal_dirs.safetensors", &tensors, &Value::Null).unwrap();
}

#[test]
fn a_pack_of_directions_is_told_and_never_clear() {
    let (folder, base) = with_base();
    pack(&folder.path().join("pack"), &base);
    let (status, found) = compare(folder.path(), "pack");
    assert_eq!((status, found["status"].as_str().unwrap()), (2, "failed"));
    assert_eq!(found["verdict"], "inconclusive");
    let reason = found["reason"].as_str().unwrap();
    let told = format!("directions, no weights: nothing to compare; {} unit vectors", base.writers().len());
    assert!(reason.contains(&told) && reason.contains("layers.0.mlp.down_proj"), "{reason}");
    let output = Command::new(env!("CARGO_BIN_EXE_orthoscope"))
        .current_dir(folder.path())
        .args(["inspect", "pack", "--format", "json"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("directions-only"));
    // Vectors of any other length are no directions, and a model's own vectors are not taken for some.
    let opened = orthoscope::checkpoint::folder::open_path(&folder.path().join("base")).unwrap();
    assert!(orthoscope::checkpoint::pack::refuse(&opened).is_ok());
    let norm = TinyTensor::plain("model.norm.weight", &F32, &Weight { shape: vec![64], values: vec![1.0; 64] });
    quantized::write(&folder.path().join("norm"), "model.safetensors", &[norm], &Value::Null).unwrap();
    let opened = orthoscope::checkpoint::folder::open_path(&folder.path().join("norm")).unwrap();
    assert!(orthoscope::checkpoint::pack::refuse(&opened).is_ok());
}

/// A repository of what a folder holds, with a card that names its base.
fn published(name: &str, folder: &Path, base: Option<&str>) -> Repository {
    let mut repository = Repository::new(name);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        repository = repository.with(path.file_name().unwrap().to_str().unwrap(), std::fs::read(&path).unwrap());
    }
    let card = base.map_or("# A base\n".to_owned(), |base| format!("---\nbase_model: {base}\n---\n"));
    repository.with("README.md", card)
}

#[test]
fn a_quantised_repository_that_a_card_names_is_the_base() {
    let (folder, base) = with_base();
    let at = |name: &str| folder.path().join(name);
    fp8()(&base, &at("base-fp8"));
    fp8()(&base, &at("copy"));
    fp8()(&removed(&base), &at("edited"));
    pack(&at("pack"), &base);
    let repositories = vec![
        published("org/base", &at("base"), None),
        published("org/base-fp8", &at("base-fp8"), Some("org/base")),
        published("user/copy", &at("copy"), Some("org/base-fp8")),
        published("user/edited", &at("edited"), Some("org/base-fp8")),
        published("user/pack", &at("pack"), Some("org/base")),
    ];
    let standin = Standin::start(repositories, open_settings()).unwrap();
    let scan = |arguments: &[&str]| -> Value {
        let mut command = program(folder.path(), standin.hub());
        let output = command.args(["scan", "--format", "json"]).args(arguments).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let copy = scan(&["hf:user/copy"]);
    assert_eq!((copy["base"]["source"].as_str(), copy["verdict"].as_str()), (Some("hf:org/base-fp8"), Some("clear")));
    let edited = scan(&["hf:user/edited"]);
    assert_eq!(edited["base"]["source"], "hf:org/base-fp8");
    assert_eq!(edited["verdict"], "orthogonalized", "{}", edited["because"]);
    // Not a step from weights to codes: both sides are in the same.
    assert_ne!(edited["relation"], "quantized");
    let against_plain = scan(&["hf:user/edited", "--base", "hf:org/base"]);
    assert_eq!(against_plain["verdict"], "orthogonalized", "{}", against_plain["because"]);
    let quantised = scan(&["hf:org/base-fp8", "--base", "hf:org/base", "--escalate", "always"]);
    assert!(signatures(&quantised).contains(&"faithful-quantisation"), "{:?}", signatures(&quantised));
    let pack = scan(&["hf:user/pack"]);
    assert_eq!((&pack["status"], &pack["verdict"]), (&"failed".into(), &"inconclusive".into()));
    assert!(pack["reason"].as_str().unwrap().contains("directions, no weights"), "{}", pack["reason"]);
}

/// EXL3 leaves what its maker chose in 16 bits; here the writers.
#[test]
fn what_an_unread_scheme_left_in_plain_form_is_judged() {
    let (folder, base) = with_base();
    for (model, name) in [(&base, "honest"), (&removed(&base), "edited")] {
        let store = by(json!({}), |name, weight| {
            let stem = name.strip_suffix(".weight")?;
            let read = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"].iter().any(|part| stem.ends_with(part));
            let [rows, columns] = [weight.shape[0] as u64, weight.shape[1] as u64];
            let part = |part: &str, dtype: &str, shape: Vec<u64>| {
                let dtype = DType::named(dtype).unwrap();
                let bytes = vec![1; dtype.bytes_of(shape.iter().product()).unwrap() as usize];
                TinyTensor { name: format!("{stem}.{part}"), dtype, shape, bytes }
            };
            let trellis = part("trellis", "I16", vec![columns / 16, rows / 16, 64]);
            read.then(|| vec![trellis, part("suh", "F16", vec![columns]), part("svh", "F16", vec![rows])])
        });
        store(model, &folder.path().join(name));
        let (_, found) = compare(folder.path(), name);
        let verdict = if name == "edited" { "orthogonalized" } else { "inconclusive" };
        assert_eq!((found["status"].as_str().unwrap(), found["verdict"].as_str().unwrap()), ("partial", verdict));
        let left = found["coverage"]["not_examined"].as_array().unwrap();
        let named = left.iter().filter(|one| one["reason"].as_str().unwrap().contains("EXL3"));
        assert_eq!(named.count(), 5 * TINY.layers, "{left:?}");
    }
}

#[test]
fn whole_numbers_that_belong_to_models_stay_what_they_are() {
    let buffers = [
        ("model.embeddings.position_ids", "I64", vec![1, 512]),
        ("transformer.h.0.attn.bias", "U8", vec![1, 1, 64, 64]),
        ("model.layers.0.mlp.gate.tid2eid", "I32", vec![64, 4]),
        ("model.layers.0.mask", "BOOL", vec![64, 64]),
        ("bn.num_batches_tracked", "I64", vec![]),
    ];
    let tensors: Vec<_> = buffers.into_iter().map(|(name, dtype, shape)| (name.to_owned(), dtype, shape)).collect();
    let checkpoint = open(&Value::Null, &tensors);
    assert_eq!(checkpoint.tensors.len(), 5);
    assert!(checkpoint.tensors.values().all(|entry| matches!(entry.storage, Storage::Plain)));
    assert!(
        checkpoint.anomalies.iter().all(|anomaly| !anomaly.kind.starts_with("unread")),
        "{:?}",
        checkpoint.anomalies
    );
}

#[test]
fn a_matrix_quantised_in_some_layers_only_is_told() {
    let (folder, base) = with_base();
    let store = by(json!({}), |name, weight| {
        (of_layer(name) && !name.contains("layers.1.")).then(|| quantized::fp8(name, weight))
    });
    store(&base, &folder.path().join("mixed"));
    let checkpoint = orthoscope::checkpoint::folder::open_path(&folder.path().join("mixed")).unwrap();
    let told: Vec<&str> = (checkpoint.anomalies.iter())
        .filter(|anomaly| anomaly.kind == "partly-quantized")
        .map(|anomaly| anomaly.detail.as_str())
        .collect();
    assert_eq!(told.len(), 7);
    assert!(told.contains(&"model.layers.*.mlp.down_proj.weight: 1 in plain form, 3 quantised"), "{told:?}");
}

/// A tensor as a pickle describes it: name, weight, strides, first element, stored bytes.
type Pickled<'a> = (&'a String, &'a Weight, Vec<usize>, usize, Vec<u8>);

/// A state dict of PyTorch: as it is, or with every matrix stored as the transpose of a larger storage.
fn pickled(tensors: &BTreeMap<String, Weight>, strided: bool) -> Vec<u8> {
    let made: Vec<Pickled<'_>> = tensors
        .iter()
        .map(|(name, weight)| match (strided, weight.shape.as_slice()) {
            (true, &[rows, columns]) => {
                // TinyTensor columns × (rows + 3), from the second stored number of each on.
                let wide = rows + 3;
                let mut values = vec![0.5; columns * wide];
                for (at, value) in weight.values.iter().enumerate() {
                    values[at % columns * wide + at / columns + 1] = *value;
                }
                (name, weight, vec![1, wide], 1, values)
            }
            (_, shape) => {
                let strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
                (name, weight, strides, 0, weight.values.clone())
            }
        })
        .map(|(name, weight, strides, offset, values)| {
            let bytes = values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
            (name, weight, strides, offset, bytes)
        })
        .collect();
    let views: Vec<NewView<'_>> = made
        .iter()
        .map(|(name, weight, strides, offset, storage)| NewView {
            name,
            dtype: &BF16,
            shape: &weight.shape,
            strides,
            offset: *offset,
            storage,
        })
        .collect();
    torch::bytes(&views)
}

#[test]
fn strided_tensors_of_equal_bits_are_repackaged_and_edited_ones_not_quantised() {
    let (folder, base) = with_base();
    let edited = removed(&base);
    for (side, model) in [("views", &base), ("edited", &edited)] {
        write(folder.path(), &format!("{side}/config.json"), base.config.to_string().as_bytes());
        write(folder.path(), &format!("{side}/pytorch_model.bin"), &pickled(&model.tensors, true));
    }
    let (status, found) = compare(folder.path(), "views");
    assert_eq!((status, found["relation"].as_str()), (0, Some("repackaged")), "{found}");
    assert_eq!(found["coverage"]["identical"], found["coverage"]["tensors"]);
    edited.write(&folder.path().join("plain"), &BF16, 1).unwrap();
    let plain = compare(folder.path(), "plain").1;
    let (status, found) = compare(folder.path(), "edited");
    assert_eq!((status, found["verdict"].as_str()), (1, Some("orthogonalized")));
    assert_eq!(found["relation"], plain["relation"], "the same edit, whatever its strides");
    assert_ne!(found["relation"], "quantized");
}

#[test]
fn a_weight_file_is_what_its_bytes_are_whatever_it_is_called() {
    let (folder, base) = with_base();
    let edited = removed(&base);
    let contents = [
        ("safetensors", bytes(&edited, "BF16")),
        ("pytorch", pickled(&edited.tensors, false)),
        ("gguf", gguf::bytes(&edited, "tiny", Quantization::F16)),
    ];
    for (content, bytes) in &contents {
        for ending in ["safetensors", "sft", "gguf", "bin", "pt", "pth", "ckpt"] {
            for beside in [false, true] {
                let side = format!("{content}-{ending}-{beside}");
                write(folder.path(), &format!("{side}/model.{ending}"), bytes);
                if beside {
                    write(folder.path(), &format!("{side}/config.json"), base.config.to_string().as_bytes());
                }
                let (status, found) = compare(folder.path(), &side);
                assert_eq!((status, found["verdict"].as_str()), (1, Some("orthogonalized")), "{side}: {found}");
                assert_eq!(found["candidate"]["files"][0]["name"], format!("model.{ending}"), "{side}");
            }
        }
    }
}

#[test]
fn what_is_no_weights_by_any_name_says_so_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    TINY.llama(1).write(&folder.path().join("base"), &BF16, 1).unwrap();
    for ending in ["safetensors", "gguf", "bin"] {
        write(folder.path(), &format!("text-{ending}/model.{ending}"), b"no weights of any kind whatever, but text\n");
        let (status, found) = compare(folder.path(), &format!("text-{ending}"));
        assert_eq!(status, 2);
        assert!(found["reason"].as_str().unwrap().contains(&format!("model.{ending}")), "{found}");
    }
}

/// The files of Meta's layout for so many devices.
fn parallel(model: &Model, count: usize, embeddings_by_rows: bool) -> Vec<Vec<u8>> {
    let heads = model.config["num_attention_heads"].as_u64().unwrap() as usize;
    let renamed: BTreeMap<String, Weight> = model
        .tensors
        .iter()
        .map(|(name, weight)| {
            let parts = [
                ("model.layers.", "layers."),
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
                ("model.norm", "norm"),
                ("lm_head", "output"),
            ];
            let meta = parts.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
            let rotary = name.contains("q_proj") || name.contains("k_proj");
            let values = if rotary { interleaved(weight, heads) } else { weight.values.clone() };
            (meta, Weight { shape: weight.shape.clone(), values })
        })
        .collect();
    let slice = |name: &str, weight: &Weight, number: usize| -> Weight {
        let &[rows, columns] = weight.shape.as_slice() else { return weight.clone() };
        let by_columns = name.ends_with("wo.weight")
            || name.ends_with("w2.weight")
            || name.starts_with("tok_embeddings") && !embeddings_by_rows;
        if by_columns {
            let width = columns / count;
            let values = weight.values.chunks_exact(columns).flat_map(|row| &row[number * width..(number + 1) * width]);
            Weight { shape: vec![rows, width], values: values.copied().collect() }
        } else {
            let part = weight.values.len() / count;
            let values = weight.values[number * part..(number + 1) * part].to_vec();
            Weight { shape: vec![rows / count, columns], values }
        }
    };
    (0..count)
        .map(|number| {
            let part = renamed.iter().map(|(name, weight)| (name.clone(), slice(name, weight, number))).collect();
            pickled(&part, false)
        })
        .collect()
}

#[test]
fn slices_of_a_model_cut_for_several_devices_are_joined() {
    let (folder, base) = with_base();
    let edited = removed(&base);
    for (count, by_rows) in [(2, false), (4, false), (2, true)] {
        for (word, model, expected) in [("same", &base, (0, "clear")), ("removed", &edited, (1, "orthogonalized"))] {
            let side = format!("{word}-{count}-{by_rows}");
            for (number, file) in parallel(model, count, by_rows).iter().enumerate() {
                write(folder.path(), &format!("{side}/consolidated.{number:02}.pth"), file);
            }
            let (status, found) = compare(folder.path(), &side);
            assert_eq!((status, found["verdict"].as_str().unwrap()), expected, "{side}: {found}");
            assert_eq!(found["status"], "complete", "{side}");
            if word == "same" {
                assert_eq!(found["relation"], "repackaged", "{side}");
            }
        }
    }
}

#[test]
fn a_missing_slice_is_never_clear_and_never_unrelated() {
    let (folder, base) = with_base();
    let files = parallel(&base, 4, false);
    for (number, file) in files.iter().enumerate().filter(|(number, _)| *number != 1) {
        write(folder.path(), &format!("gap/consolidated.{number:02}.pth"), file);
    }
    let (_, found) = compare(folder.path(), "gap");
    assert_ne!(found["relation"], "unrelated", "{found}");
    assert_ne!((&found["verdict"], &found["status"]), (&json!("clear"), &json!("complete")));
    assert!(found["coverage"]["not_examined"].to_string().contains("a slice of it is missing"), "{found}");
}

fn set(files: &[(&str, Vec<u8>)]) -> FileSet {
    let source = |name: &str, bytes: &[u8]| -> Arc<dyn ByteSource> { Arc::new(Bytes::new(name, bytes.to_vec())) };
    FileSet {
        label: "test".to_owned(),
        files: files.iter().map(|(name, bytes)| ((*name).to_owned(), source(name, bytes))).collect(),
        ..FileSet::default()
    }
}

/// A file with one tensor.
fn single(name: &str, shape: &[u64], value: u8) -> Vec<u8> {
    let bytes = vec![value; shape.iter().product::<u64>() as usize * 4];
    let tensor = orthoscope::checkpoint::safetensors::NewTensor { name, dtype: &F32, shape, bytes: &bytes };
    orthoscope::checkpoint::safetensors::to_bytes(&[tensor], &BTreeMap::new()).unwrap()
}

#[test]
fn one_name_with_two_contents_cannot_be_read_and_equal_copies_can() {
    let shards = |one: Vec<u8>, two: Vec<u8>| {
        orthoscope::checkpoint::open(&set(&[
            ("model-00001-of-00002.safetensors", one),
            ("model-00002-of-00002.safetensors", two),
        ]))
        .unwrap()
    };
    let same = shards(single("a.weight", &[2, 3], 1), single("a.weight", &[2, 3], 1));
    assert!(matches!(same.tensors["a.weight"].storage, Storage::Plain));
    for other in [single("a.weight", &[2, 3], 2), single("a.weight", &[3, 2], 1)] {
        let two = shards(single("a.weight", &[2, 3], 1), other);
        let reason = unreadable(&two, "a.weight");
        assert!(reason.contains("00001-of-00002") && reason.contains("00002-of-00002"), "{reason}");
        assert!(two.anomalies.iter().any(|anomaly| anomaly.kind == "duplicate-tensor"));
    }
}
