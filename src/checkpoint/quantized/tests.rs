//! Groups that fit and groups that do not. Numbers are checked against the tools themselves in `tests/oracles`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::checkpoint::FileSet;
use crate::checkpoint::safetensors::{NewTensor, to_bytes};
use crate::source::{ByteSource, Bytes};

/// Name, dtype, shape, bytes (filled up with zeros).
type Part<'a> = (&'a str, &'a str, &'a [u64], &'a [u8]);

fn open(quantization: Value, parts: &[Part<'_>]) -> Checkpoint {
    let bytes: Vec<Vec<u8>> = (parts.iter())
        .map(|(_, dtype, shape, bytes)| {
            let dtype = DType::named(dtype).unwrap();
            let mut bytes = bytes.to_vec();
            bytes.resize(dtype.bytes_of(shape.iter().product()).unwrap() as usize, 0);
            bytes
        })
        .collect();
    let tensors: Vec<NewTensor<'_>> = (parts.iter().zip(&bytes))
        .map(|((name, dtype, shape, _), bytes)| NewTensor { name, dtype: DType::named(dtype).unwrap(), shape, bytes })
        .collect();
    let file = to_bytes(&tensors, &BTreeMap::new()).unwrap();
    let config = json!({ "quantization_config": quantization }).to_string().into_bytes();
    let sources = [("model.safetensors", file), ("config.json", config)].map(|(name, bytes)| {
        let source: Arc<dyn ByteSource> = Arc::new(Bytes::new(name, bytes));
        (name.to_owned(), source)
    });
    let files = FileSet { label: "test".to_owned(), files: sources.into(), ..FileSet::default() };
    crate::checkpoint::open(&files).unwrap()
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let entry = &checkpoint.tensors[name];
    let mut out = vec![0.0; entry.elements() as usize];
    checkpoint.decode(entry, 0, &mut out).unwrap();
    out
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn scheme(checkpoint: &Checkpoint, name: &str) -> String {
    match &checkpoint.tensors[name].storage {
        Storage::Packed(decoder) => decoder.scheme().to_owned(),
        _ => panic!("{name} is not packed"),
    }
}

#[test]
fn scaled_codes_are_multiplied_block_by_block() {
    // 0x38 is 1 in E4M3.
    let ones: &[u8] = &[0x38; 12];
    let scales = floats(&[1.0, 2.0, 3.0, 4.0]);
    let parts: [Part<'_>; 2] =
        [("w.weight", "F8_E4M3", &[3, 4], ones), ("w.weight_scale_inv", "F32", &[2, 2], &scales)];
    let checkpoint = open(json!({"weight_block_size": [2, 2]}), &parts);
    assert_eq!(values(&checkpoint, "w.weight"), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
    assert_eq!(scheme(&checkpoint, "w.weight"), "fp8-block2x2");
    assert_eq!(checkpoint.tensors.len(), 1, "the scales are part of the weight");
    let mut piece = [0.0; 3];
    checkpoint.decode(&checkpoint.tensors["w.weight"], 5, &mut piece).unwrap();
    assert_eq!(piece, [1.0, 2.0, 2.0]);
}

#[test]
fn experts_of_gpt_oss_are_transposed() {
    // One expert, two outputs, one block: code 2 (1.0) everywhere but the first input of the second output: code 4
    // (2.0).
    let mut blocks = [0x22u8; 32];
    blocks[16] = 0x24;
    let scales = [127u8, 128];
    let checkpoint = open(
        json!({"quant_method": "mxfp4"}),
        &[("e.down_proj_blocks", "U8", &[1, 2, 1, 16], &blocks), ("e.down_proj_scales", "U8", &[1, 2, 1], &scales)],
    );
    assert_eq!(checkpoint.tensors["e.down_proj"].shape, [1, 32, 2]);
    assert_eq!(values(&checkpoint, "e.down_proj")[..4], [1.0, 4.0, 1.0, 2.0]);
}

#[test]
fn groups_that_do_not_fit_are_told_and_not_read() {
    let state: &[u8] = br#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[8,16]}"#;
    let text = state.len() as u64;
    let cases: Vec<(Vec<Part<'_>>, &str, &str)> = vec![
        (
            vec![("w.weight", "F8_E4M3", &[4, 4], &[]), ("w.weight_scale", "F32", &[3, 9], &[])],
            "w.weight",
            "do not fit [4, 4]",
        ),
        (
            vec![("w.weight", "F8_E4M3", &[4, 4], &[]), ("w.weight_scale", "I32", &[1], &[])],
            "w.weight",
            "its scales are I32",
        ),
        (vec![("w.weight", "I8", &[4, 4], &[]), ("w.SCB", "F32", &[3], &[])], "w.weight", "do not go with [3] scales"),
        (
            vec![("w.weight", "I8", &[4, 4], &[]), ("w.SCB", "F32", &[4], &[]), ("w.weight_format", "U8", &[], &[2])],
            "w.weight",
            "tile order",
        ),
        (
            vec![
                ("w.weight", "U8", &[63, 1], &[]),
                ("w.weight.absmax", "F32", &[2], &[]),
                ("w.weight.quant_map", "F32", &[16], &[]),
                ("w.weight.quant_state.bitsandbytes__nf4", "U8", std::slice::from_ref(&text), state),
            ],
            "w.weight",
            "63 bytes of codes for shape [8, 16]",
        ),
        (
            vec![
                ("w.weight", "U8", &[64, 1], &[]),
                ("w.weight.absmax", "F32", &[3], &[]),
                ("w.weight.quant_map", "F32", &[16], &[]),
                ("w.weight.quant_state.bitsandbytes__nf4", "U8", std::slice::from_ref(&text), state),
            ],
            "w.weight",
            "3 scales for 128 codes in blocks of 64",
        ),
        (
            vec![
                ("w.weight.absmax", "F32", &[3], &[]),
                ("w.weight", "U8", &[4, 1], &[]),
                ("w.weight.quant_state.bitsandbytes__nf4", "U8", &[2], b"{}"),
            ],
            "w.weight",
            "its state has no shape",
        ),
        (
            vec![("w.qweight", "I32", &[4, 8], &[]), ("w.scales", "F16", &[1, 8], &[])],
            "w.weight",
            "w.qzeros is missing",
        ),
        (
            vec![
                ("w.qweight", "I32", &[4, 8], &[]),
                ("w.scales", "F16", &[1, 8], &[]),
                ("w.qzeros", "I32", &[1, 7], &[]),
            ],
            "w.weight",
            "not laid out as GPTQ lays them",
        ),
        (
            vec![
                ("w.qweight", "I32", &[32, 1], &[]),
                ("w.scales", "F16", &[3, 8], &[]),
                ("w.qzeros", "I32", &[3, 1], &[]),
            ],
            "w.weight",
            "not laid out as AWQ lays them",
        ),
        (
            vec![("w.weight_packed", "I32", &[4, 4], &[]), ("w.weight_scale", "F32", &[4, 1], &[])],
            "w.weight",
            "w.weight_shape is missing",
        ),
        (
            vec![
                ("w.weight_packed", "I32", &[4, 4], &[]),
                ("w.weight_scale", "F32", &[4, 1], &[]),
                ("w.weight_shape", "I64", &[2], &[4, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            ],
            "w.weight",
            "do not hold 65535 codes",
        ),
        (vec![("w_blocks", "U8", &[1, 2, 1, 15], &[]), ("w_scales", "U8", &[1, 2, 1], &[])], "w", "do not fit"),
        (
            vec![
                ("w.weight", "U8", &[4, 8], &[]),
                ("w.weight_scale", "F8_E4M3", &[4, 3], &[]),
                ("w.weight_scale_2", "F32", &[1], &[]),
            ],
            "w.weight",
            "do not fit 4 × 16 codes",
        ),
    ];
    for (parts, name, reason) in cases {
        let checkpoint = open(Value::Null, &parts);
        match &checkpoint.tensors[name].storage {
            // A group that a scheme does not fit may be one of a quantiser that is not read, and is told as that then.
            Storage::Unreadable(told) => {
                assert!(told.contains(reason) || told.contains("which is not read"), "{reason:?} is not in {told:?}");
            }
            _ => panic!("{reason}: it is read"),
        }
        let told: Vec<&str> = checkpoint.anomalies.iter().map(|anomaly| anomaly.kind.as_str()).collect();
        assert!(told.contains(&"quantized-group"), "{reason}: {told:?}");
    }
}

#[test]
fn both_forms_of_one_weight_are_told() {
    let checkpoint = open(
        Value::Null,
        &[
            ("w.weight", "F32", &[8, 32], &[]),
            ("w.qweight", "I32", &[4, 8], &[]),
            ("w.scales", "F16", &[1, 8], &[]),
            ("w.qzeros", "I32", &[1, 1], &[]),
        ],
    );
    assert_eq!(checkpoint.anomalies[0].kind, "duplicate-tensor");
    assert!(matches!(checkpoint.tensors["w.weight"].storage, Storage::Plain));
    assert!(matches!(checkpoint.tensors["w.qweight"].storage, Storage::Unreadable(_)));
}

#[test]
fn a_promised_quantisation_that_is_not_there_is_told() {
    let checkpoint = open(json!({"quant_method": "aqlm"}), &[("w.codes", "I8", &[4, 4], &[])]);
    assert_eq!(checkpoint.anomalies[0].kind, "quantization-not-found");
    assert!(checkpoint.anomalies[0].detail.contains("aqlm"));
    let plain = open(Value::Null, &[("w.weight", "F8_E4M3", &[4, 4], &[])]);
    assert!(plain.anomalies.is_empty() && matches!(plain.tensors["w.weight"].storage, Storage::Plain));
}

#[test]
fn codes_of_mlx_cross_the_borders_of_words() {
    // 32 codes of 3 bits, 0 to 7 over and over, lowest bits first: 24 bits for eight of them.
    let eight: u32 = (0..8).map(|code| code << (3 * code)).sum();
    let codes: Vec<u8> = (0..4).flat_map(|_| eight.to_le_bytes()[..3].to_vec()).collect();
    let (scales, biases) = (floats(&[0.5]), floats(&[-1.0]));
    let checkpoint = open(
        json!({"bits": 3, "group_size": 32}),
        &[
            ("w.weight", "U32", &[1, 3], &codes),
            ("w.scales", "F32", &[1, 1], &scales),
            ("w.biases", "F32", &[1, 1], &biases),
            ("w.bias", "F32", &[1], &[]),
        ],
    );
    let once = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5];
    assert_eq!(values(&checkpoint, "w.weight"), [once; 4].concat());
    assert_eq!(scheme(&checkpoint, "w.weight"), "mlx-3bit-g32");
    assert_eq!(checkpoint.tensors.keys().collect::<Vec<_>>(), ["w.bias", "w.weight"]);
}

#[test]
fn sizes_of_mlx_are_held_to_the_config() {
    let parts: [Part<'_>; 3] =
        [("w.weight", "U32", &[4, 8], &[]), ("w.scales", "F16", &[4, 2], &[]), ("w.biases", "F16", &[4, 2], &[])];
    for (config, reason) in [
        (json!({"bits": 8, "group_size": 16}), None),
        (json!({"bits": 4, "group_size": 64}), Some("4 bits in groups of 64, which config.json states")),
        (json!({"bits": 4, "group_size": 32, "w": {"bits": 7}}), Some("no 7 bits")),
        (json!({"bits": 4, "group_size": 32, "mode": "ternary"}), Some("mode \"ternary\"")),
        (json!({"bits": 4, "group_size": 32, "mode": "mxfp4"}), Some("its scales are F16")),
        (Value::Null, Some("does not say with how many bits")),
    ] {
        match (&open(config, &parts).tensors["w.weight"].storage, reason) {
            (Storage::Packed(_), None) => {}
            (Storage::Unreadable(told), Some(reason)) => assert!(told.contains(reason), "{told}"),
            (_, reason) => panic!("{reason:?}"),
        }
    }
}

fn any_part() -> impl Strategy<Value = (&'static str, &'static str, Vec<u64>)> {
    let name = prop::sample::select(vec![
        "w.weight",
        "w.weight_scale",
        "w.weight_scale_inv",
        "w.weight_scale_2",
        "w.weight_packed",
        "w.weight_shape",
        "w.weight_zero_point",
        "w.weight_g_idx",
        "w.qweight",
        "w.qzeros",
        "w.scales",
        "w.g_idx",
        "w.SCB",
        "w.biases",
        "w.trellis",
        "w.suh",
        "w.W_q",
        "w.codes",
        "w.codebooks",
        "w.weight._data",
        "w.weight._scale",
        "w.weight.absmax",
        "w_blocks",
        "w_scales",
    ]);
    let dtype = prop::sample::select(vec!["I32", "I32", "U32", "F16", "F32", "U8", "I8", "F8_E4M3", "I64"]);
    (name, dtype, prop::collection::vec(0u64..34, 0..4))
}

proptest! {
    #[test]
    fn any_group_is_survived(parts in prop::collection::vec(any_part(), 1..6), fill in any::<u8>(), fp8 in any::<bool>()) {
        let bytes = vec![fill; 1 << 20];
        let mut seen = std::collections::BTreeSet::new();
        let parts: Vec<Part<'_>> = parts.iter()
            .filter(|part| seen.insert(part.0))
            .map(|(name, dtype, shape)| {
                let length = DType::named(dtype).unwrap().bytes_of(shape.iter().product()).unwrap();
                (*name, *dtype, shape.as_slice(), &bytes[..(length as usize).min(1 << 20)])
            })
            .collect();
        let method = if fp8 { json!({"quant_method": "fp8", "group_size": u64::from(fill)}) } else { Value::Null };
        let checkpoint = open(method, &parts);
        for entry in checkpoint.tensors.values() {
            let mut out = vec![0.0; entry.elements().min(5000) as usize];
            let _ = checkpoint.decode(entry, 0, &mut out);
            let _ = checkpoint.decode(entry, entry.elements() - out.len() as u64, &mut out);
        }
    }
}
