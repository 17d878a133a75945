//! GGUF files built byte by byte: honest ones, odd ones, and ones made to do harm.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use serde_json::json;

use super::Gguf;
use crate::checkpoint::{Checkpoint, FileSet, Format, Storage};
use crate::error::{ErrorKind, Result};
use crate::limits::{MAX_METADATA_TEXT_BYTES, MAX_METADATA_TEXTS_BYTES, MAX_NAMES_BYTES, MAX_TENSOR_NAME_BYTES};
use crate::source::{ByteSource, Bytes};

const U32: u32 = 4;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const F32: u32 = 0;
const Q8_0: u32 = 8;

fn header(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(version.to_le_bytes());
    file.extend(tensors.to_le_bytes());
    file.extend(keys.to_le_bytes());
    file
}

fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = (text.as_ref().len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_ref());
    bytes
}

fn key(name: &str, kind: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [string(name), kind.to_le_bytes().to_vec(), value.as_ref().to_vec()].concat()
}

fn number(name: &str, value: u32) -> Vec<u8> {
    key(name, U32, value.to_le_bytes())
}

fn array(kind: u32, length: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [kind.to_le_bytes().to_vec(), length.to_le_bytes().to_vec(), elements.as_ref().to_vec()].concat()
}

/// A tensor entry; extents fastest first, as the file has them.
fn tensor(name: &str, extents: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((extents.len() as u32).to_le_bytes());
    bytes.extend(extents.iter().flat_map(|extent| extent.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A version 3 file: keys, tensors, padding, data.
fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let mut file = header(3, tensors.len() as u64, keys.len() as u64);
    file.extend(keys.concat());
    file.extend(tensors.concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}

fn set(files: &[(&str, &[u8])]) -> FileSet {
    let source = |(name, bytes): &(&str, &[u8])| {
        let source: Arc<dyn ByteSource> = Arc::new(Bytes::new(*name, *bytes));
        ((*name).to_owned(), source)
    };
    FileSet { label: "test".to_owned(), files: files.iter().map(source).collect(), ..FileSet::default() }
}

fn open(bytes: &[u8]) -> Result<Checkpoint> {
    Gguf.open(&set(&[("m.gguf", bytes)]))
}

fn refused(bytes: &[u8], kind: ErrorKind, message: &str) {
    let error = open(bytes).expect_err("the file was opened");
    assert!(error.kind == kind && error.one_line().contains(message), "{:?}: {}", error.kind, error.one_line());
    assert!(error.one_line().contains("m.gguf"), "no file name: {}", error.one_line());
}

/// Opens a file that has exactly these kinds of oddities (sorted).
fn odd(bytes: &[u8], kinds: &[&str]) -> Checkpoint {
    let checkpoint = open(bytes).expect("an odd file is still opened");
    let found: Vec<&str> = checkpoint.anomalies.iter().map(|anomaly| anomaly.kind.as_str()).collect();
    assert_eq!(found, kinds, "{:?}", checkpoint.anomalies);
    checkpoint
}

fn unreadable(checkpoint: &Checkpoint, name: &str) -> String {
    match &checkpoint.tensors[name].storage {
        Storage::Unreadable(reason) => reason.clone(),
        _ => panic!("{name} is readable"),
    }
}

fn floats(count: u32) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

/// Two tensors: 2 × 3 of F32 in 24 bytes (padded to 32), and one Q8_0 block of 1, 2, 3, … under a scale of 2.
fn model() -> Vec<u8> {
    let keys = [
        key("general.architecture", TEXT, string("llama")),
        key("general.base_model.0.repo_url", TEXT, string("https://example.org/base")),
        number("llama.embedding_length", 64),
        number("llama.attention.head_count", 8),
        key("llama.attention.head_count_kv", ARRAY, array(U32, 2, [2u32.to_le_bytes(), 4u32.to_le_bytes()].concat())),
        key("tokenizer.ggml.tokens", ARRAY, array(TEXT, 3, [string("a"), string([0xff]), string("c")].concat())),
        key("general.tags", ARRAY, array(TEXT, 2, [string("x"), string("y")].concat())),
    ];
    let tensors = [tensor("a.weight", &[3, 2], F32, 0), tensor("b.weight", &[32], Q8_0, 32)];
    let mut data = floats(6);
    data.resize(32, 0);
    data.extend([0x00, 0x40]);
    data.extend(1..=32);
    file(&keys, &tensors, &data)
}

#[test]
fn an_honest_file_opens_without_oddities() {
    let checkpoint = odd(&model(), &[]);
    assert_eq!(checkpoint.format, "gguf");
    let (a, b) = (&checkpoint.tensors["a.weight"], &checkpoint.tensors["b.weight"]);
    assert_eq!((a.dtype.name, &a.shape[..], b.dtype.name, &b.shape[..]), ("F32", &[2, 3][..], "Q8_0", &[32][..]));
    let mut numbers = [0.0; 2];
    checkpoint.decode(a, 3, &mut numbers).expect("decodes");
    assert_eq!(numbers, [3.0, 4.0]);
    checkpoint.decode(b, 30, &mut numbers).expect("decodes");
    assert_eq!(numbers, [62.0, 64.0]);
    assert_eq!(checkpoint.raw(b).expect("reads").expect("is plain").len(), 34);
    assert_eq!(
        checkpoint.config,
        json!({
            "gguf_architecture": "llama", "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": [2, 4],
            "head_dim": 8, "vocab_size": 3,
        })
    );
    assert_eq!(checkpoint.metadata["general.base_model.0.repo_url"], "https://example.org/base");
    assert_eq!(checkpoint.metadata["general.tags"], "[x, y]");
    assert_eq!(checkpoint.metadata["tokenizer.ggml.tokens"], "[… (3 in all)]");
}

#[test]
fn adapters_keep_their_keys_and_factors() {
    let keys = [
        key("general.type", TEXT, string("adapter")),
        key("adapter.type", TEXT, string("lora")),
        key("adapter.lora.alpha", 6, 0.1f32.to_le_bytes()),
    ];
    let tensors = [
        tensor("blk.0.ffn_down.weight.lora_a", &[8, 1], F32, 0),
        tensor("blk.0.ffn_down.weight.lora_b", &[1, 8], F32, 32),
    ];
    let checkpoint = odd(&file(&keys, &tensors, &floats(16)), &[]);
    assert_eq!(checkpoint.metadata["adapter.lora.alpha"], "0.1");
    assert_eq!(checkpoint.tensors["blk.0.ffn_down.weight.lora_a"].shape, [1, 8]);
    assert_eq!(checkpoint.tensors["blk.0.ffn_down.weight.lora_b"].shape, [8, 1]);
}

#[test]
fn scales_beside_a_matrix_are_applied_where_the_type_needs_them() {
    const NVFP4: u32 = 40;
    // A block of 64: scales 1 (0x38 in E4M3), all codes 2 (1.0).
    let ones = [&[0x38; 4][..], &[0x22; 32]].concat();
    let experts = [&ones[..], &ones[..]].concat();
    let tensors = [
        tensor("up.weight", &[64], NVFP4, 0),
        tensor("up.scale", &[1], F32, 64),
        tensor("experts.weight", &[64, 1, 2], NVFP4, 96),
        tensor("experts.weight.scale", &[2], F32, 192),
        tensor("bare.weight", &[64], NVFP4, 224),
        tensor("other.weight", &[8], F32, 288),
        tensor("other.scale", &[1], F32, 320),
    ];
    let mut data = vec![0; 352];
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &ones);
    put(64, &3f32.to_le_bytes());
    put(96, &experts);
    put(192, &[5f32.to_le_bytes(), 7f32.to_le_bytes()].concat());
    put(224, &ones);
    put(288, &floats(8));
    put(320, &9f32.to_le_bytes());
    let checkpoint = odd(&file(&[], &tensors, &data), &[]);
    let numbers = |name: &str, first: u64, count: usize| {
        let mut numbers = vec![0.0; count];
        checkpoint.decode(&checkpoint.tensors[name], first, &mut numbers).expect("decodes");
        numbers
    };
    assert_eq!(numbers("up.weight", 0, 64), [3.0; 64]);
    assert_eq!(numbers("experts.weight", 62, 4), [5.0, 5.0, 7.0, 7.0]);
    assert_eq!(numbers("bare.weight", 0, 64), [1.0; 64]);
    assert_eq!(numbers("other.weight", 1, 1), [1.0]);
    assert!(
        matches!(&checkpoint.tensors["up.weight"].storage, Storage::Packed(packed) if packed.scheme() == "nvfp4-scaled")
    );
}

#[test]
fn only_gguf_is_recognised() {
    let model = model();
    assert!(Gguf.recognizes(&set(&[("m.GGUF", b""), ("config.json", b"{}")])));
    assert!(Gguf.recognizes(&set(&[("pytorch_model.bin", &model)])), "alone, its bytes tell");
    assert!(Gguf.recognizes(&set(&[("sha256-01", &model), ("config.json", b"{}")])), "a blob without an ending");
    assert!(!Gguf.recognizes(&set(&[("pytorch_model.bin", &model), ("config.json", b"{}")])));
    assert!(!Gguf.recognizes(&set(&[("sha256-01", b"something else, long enough to be asked")])));
    assert!(Gguf.open(&set(&[("sha256-01", &model), ("config.json", b"{}")])).is_ok());
    let error = Gguf.open(&set(&[("config.json", b"{}"), ("a", b"")])).expect_err("nothing to open");
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[test]
fn what_is_no_gguf_is_refused_with_a_hint() {
    let long = |start: &[u8]| [start, &[0; 40]].concat();
    refused(&[], ErrorKind::Malformed, "0 bytes are too few");
    refused(b"GGUF\x03\0\0\0", ErrorKind::Malformed, "8 bytes are too few");
    refused(&long(b"version https://git-lfs"), ErrorKind::Malformed, "Git LFS pointer");
    refused(&long(b"PK\x03\x04"), ErrorKind::Malformed, "zip archive");
    refused(&long(b"<!DOCTYPE html>"), ErrorKind::Malformed, "HTML page");
    refused(&long(&[0x80, 4, 0x95]), ErrorKind::Malformed, "Python pickle");
    refused(&long(b"tjgg"), ErrorKind::Malformed, "older than GGUF");
    refused(&header(4, 0, 0), ErrorKind::Unsupported, "GGUF version 4");
}

#[test]
fn counts_and_lengths_are_checked_before_anything_is_allocated() {
    refused(&header(3, 0, u64::MAX), ErrorKind::Malformed, "18446744073709551615 keys are announced, but only 0 bytes");
    refused(&header(3, 1 << 40, 0), ErrorKind::TooLarge, "1099511627776 tensors; the cap is 300000");
    refused(&header(3, 1000, 0), ErrorKind::Malformed, "1000 tensors are announced, but only 0 bytes follow");
    let one_key = |value: Vec<u8>| [header(3, 0, 1), value].concat();
    let name = [(1u64 << 31).to_le_bytes().to_vec(), vec![b'x'; 20]].concat();
    refused(&one_key(name), ErrorKind::Malformed, "the name of a key has a string length of 2147483648, but only 20");
    let text = key("k", TEXT, u64::MAX.to_le_bytes());
    refused(&one_key(text), ErrorKind::Malformed, "the value of \"k\" has a string length of 18446744073709551615");
    let long = key("k", ARRAY, array(U64, 1 << 61, [0; 64]));
    refused(&one_key(long), ErrorKind::Malformed, "is an array of 2305843009213693952 elements, but only 64 bytes");
    let texts = key("tokenizer.k", ARRAY, array(TEXT, 3, [string("a"), string("b"), vec![255; 8]].concat()));
    refused(&one_key(texts), ErrorKind::Malformed, "the value of \"tokenizer.k\"");
    refused(&one_key(key("k", 13, [0; 8])), ErrorKind::Malformed, "has the unknown type 13");
    refused(&one_key(key("k", ARRAY, array(99, 1, [0; 8]))), ErrorKind::Malformed, "array of the unknown type 99");
    refused(&one_key(number("k", 1)[..15].to_vec()), ErrorKind::Malformed, "needs 4 bytes, but only");
}

#[test]
fn arrays_nest_only_so_deep() {
    let nested = |depth: usize| {
        let inner = (0..depth).fold(Vec::new(), |inner, _| array(ARRAY, 1, inner));
        [header(3, 0, 1), key("k", ARRAY, [inner, array(U32, 0, [])].concat())].concat()
    };
    assert_eq!(odd(&nested(2), &[]).metadata["k"], "[[… (1 in all)]]");
    refused(&nested(64), ErrorKind::TooLarge, "nested deeper than 64");
    refused(&nested(100_000), ErrorKind::TooLarge, "nested deeper than 64");
}

#[test]
fn duplicates_are_oddities_and_the_first_counts() {
    let twice = file(&[number("k", 1), number("k", 2)], &[], &[]);
    assert_eq!(odd(&twice, &["duplicate-key"]).metadata["k"], "1");
    let tensors = [tensor("w", &[8], F32, 0), tensor("w", &[8], F32, 32)];
    let checkpoint = odd(&file(&[], &tensors, &floats(16)), &["duplicate-tensor"]);
    assert_eq!(checkpoint.anomalies[0].tensor.as_deref(), Some("w"));
    let mut first = [0.0];
    checkpoint.decode(&checkpoint.tensors["w"], 1, &mut first).expect("decodes");
    assert_eq!(first, [1.0]);
    assert!(checkpoint.tensors["w (duplicate)"].is_unreadable(), "the other is no silence");
}

#[test]
fn gaps_overlaps_and_bytes_behind_are_found() {
    let overlap = [tensor("v", &[16], F32, 0), tensor("w", &[8], F32, 32)];
    let checkpoint = odd(&file(&[], &overlap, &floats(16)), &["overlap"]);
    assert!(checkpoint.anomalies[0].detail.contains("overlap those of v"), "{:?}", checkpoint.anomalies);
    let gap = [tensor("v", &[8], F32, 0), tensor("w", &[8], F32, 96)];
    let checkpoint = odd(&file(&[], &gap, &floats(32)), &["gap"]);
    assert!(checkpoint.anomalies[0].detail.starts_with("64 bytes before it"), "{:?}", checkpoint.anomalies);
    let checkpoint = odd(&file(&[], &[tensor("v", &[8], F32, 0)], &floats(17)), &["trailing-bytes"]);
    assert!(checkpoint.anomalies[0].detail.starts_with("36 bytes after"), "{:?}", checkpoint.anomalies);
    // Padding after the last tensor is what writers do.
    odd(&file(&[], &[tensor("v", &[1], F32, 0)], &floats(8)), &[]);
}

#[test]
fn a_tensor_that_cannot_be_read_costs_only_itself() {
    let with = |bad: Vec<u8>, data: u32| file(&[], &[tensor("good", &[8], F32, 0), bad], &floats(data));
    let cases: [(Vec<u8>, u32, &[&str], &str); 8] = [
        (tensor("bad", &[8], 4, 32), 16, &["unknown-dtype"], "ggml type 4 is not known"),
        (tensor("bad", &[8], u32::MAX, 32), 16, &["unknown-dtype"], "ggml type 4294967295 is not known"),
        (tensor("bad", &[9], F32, 32), 16, &["outside-file"], "36 bytes at offset 32 end after the file's"),
        (tensor("bad", &[8], F32, u64::MAX - 31), 8, &["outside-file"], "32 bytes at offset 18446744073709551584"),
        (tensor("bad", &[33], Q8_0, 32), 8, &["wrong-size"], "rows of 33 elements do not fill Q8_0 blocks of 32"),
        (tensor("bad", &[0, 1 << 40, 1 << 40], F32, 32), 8, &["wrong-size"], "more elements than can be counted"),
        (tensor("bad", &[1 << 62, 2], F32, 32), 8, &["wrong-size"], "are too many"),
        (tensor("bad", &[1; 9], F32, 32), 8, &["too-many-dimensions"], "too many dimensions"),
    ];
    for (bad, data, kinds, reason) in cases {
        let checkpoint = odd(&with(bad, data), kinds);
        assert!(unreadable(&checkpoint, "bad").contains(reason), "{}", unreadable(&checkpoint, "bad"));
        let bad = &checkpoint.tensors["bad"];
        assert!(bad.range.end <= checkpoint.files[0].source.len());
        bad.elements();
        checkpoint.bytes();
        let mut numbers = [0.0; 8];
        assert!(checkpoint.decode(bad, 0, &mut numbers).is_err());
        checkpoint.decode(&checkpoint.tensors["good"], 0, &mut numbers).expect("the good one is readable");
        assert_eq!(numbers[7], 7.0);
    }
    let extents = [header(3, 1, 0), string("t"), u32::MAX.to_le_bytes().to_vec(), vec![0; 64]].concat();
    refused(&extents, ErrorKind::Malformed, "4294967295 extents of tensor \"t\" are announced");
}

#[test]
fn alignment_is_obeyed_and_checked() {
    let aligned = |alignment: u32, offset: u64| {
        let keys = [number("general.alignment", alignment)];
        let tensors = [tensor("v", &[4], F32, 0), tensor("w", &[4], F32, offset)];
        let mut bytes = file(&keys, &tensors, &[]);
        bytes.resize(bytes.len().next_multiple_of(if alignment == 64 { 64 } else { 32 }), 0);
        [bytes, vec![0; offset as usize + 16]].concat()
    };
    odd(&aligned(64, 64), &[]);
    odd(&aligned(32, 20), &["misaligned"]);
    for bad in [0, 48, 1 << 31] {
        odd(&aligned(bad, 32), &["bad-alignment"]);
    }
}

#[test]
fn names_that_are_not_text_are_kept_and_reported() {
    let entry = [string([b'w', 0xff]), tensor("", &[1], F32, 0)[8..].to_vec()].concat();
    let checkpoint = odd(&file(&[], &[entry], &floats(1)), &["invalid-utf8"]);
    assert!(checkpoint.tensors.contains_key("w\u{fffd}"));
}

#[test]
fn big_endian_files_are_listed_but_not_decoded() {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_be_bytes());
    bytes.extend(1u64.to_be_bytes());
    bytes.extend(1u64.to_be_bytes());
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    text(&mut bytes, "general.architecture");
    bytes.extend(TEXT.to_be_bytes());
    text(&mut bytes, "llama");
    text(&mut bytes, "w");
    bytes.extend(1u32.to_be_bytes());
    bytes.extend(8u64.to_be_bytes());
    bytes.extend(F32.to_be_bytes());
    bytes.extend(0u64.to_be_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 32, 0);
    let checkpoint = odd(&bytes, &["big-endian"]);
    assert_eq!(checkpoint.config["gguf_architecture"], "llama");
    assert_eq!(checkpoint.tensors["w"].shape, [8]);
    assert_eq!(unreadable(&checkpoint, "w"), "big-endian numbers");
}

#[test]
fn version_1_has_short_lengths() {
    let mut bytes = b"GGUF".to_vec();
    for word in [1u32, 1, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([1, 0, 0, 0, b'k', 4, 0, 0, 0, 7, 0, 0, 0]);
    bytes.extend([1, 0, 0, 0, b'w', 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(floats(8));
    let checkpoint = odd(&bytes, &["old-version"]);
    assert_eq!(checkpoint.metadata["k"], "7");
    assert_eq!(checkpoint.tensors["w"].shape, [8]);
}

#[test]
fn version_2_is_like_version_3() {
    let mut bytes = model();
    bytes[4] = 2;
    odd(&bytes, &[]);
}

fn part(number: u16, count: u16, all: u32, name: &str) -> Vec<u8> {
    let keys = [
        key("split.no", 2, number.to_le_bytes()),
        key("split.count", 2, count.to_le_bytes()),
        key("split.tensors.count", 5, all.to_le_bytes()),
    ];
    file(&keys, &[tensor(name, &[8], F32, 0)], &floats(8))
}

#[test]
fn split_files_are_one_checkpoint() {
    let (one, two) = (part(0, 2, 2, "v"), part(1, 2, 2, "w"));
    let files = set(&[("d/m-00001-of-00002.gguf", &one), ("d/m-00002-of-00002.gguf", &two)]);
    let checkpoint = Gguf.open(&files).expect("opens");
    assert!(checkpoint.anomalies.is_empty(), "{:?}", checkpoint.anomalies);
    assert_eq!((checkpoint.tensors["v"].file, checkpoint.tensors["w"].file, checkpoint.files.len()), (0, 1, 2));
}

#[test]
fn a_missing_or_broken_part_stays_visible() {
    let (one, two) = (part(0, 2, 2, "v"), part(1, 2, 2, "w"));
    let missing = Gguf.open(&set(&[("m-00002-of-00002.gguf", &two)])).expect("opens");
    assert_eq!(missing.anomalies[0].kind, "missing-shard");
    assert_eq!(unreadable(&missing, "m-00001-of-00002.gguf"), "part 1 of 2 is missing");
    let broken =
        Gguf.open(&set(&[("m-00001-of-00002.gguf", b"PK\x03\x04"), ("m-00002-of-00002.gguf", &two)])).expect("opens");
    assert_eq!(broken.anomalies[0].kind, "unreadable-file");
    assert!(unreadable(&broken, "m-00001-of-00002.gguf").contains("too few"));
    assert!(broken.tensors.contains_key("w"));
    let swapped = Gguf.open(&set(&[("m-00001-of-00002.gguf", &two), ("m-00002-of-00002.gguf", &one)])).expect("opens");
    assert_eq!(swapped.anomalies.iter().filter(|anomaly| anomaly.kind == "split-mismatch").count(), 2);
    let renamed = odd(&one, &["missing-shard"]);
    assert!(unreadable(&renamed, "m.gguf (other parts)").contains("part 1 of 2"));
    let fewer = part(0, 2, 5, "v");
    let fewer = Gguf.open(&set(&[("m-00001-of-00002.gguf", &fewer), ("m-00002-of-00002.gguf", &two)])).expect("opens");
    assert_eq!(fewer.anomalies[0].kind, "missing-tensors");
    let neither = Gguf.open(&set(&[("m-00001-of-00002.gguf", b""), ("m-00002-of-00002.gguf", b"")]));
    assert_eq!(neither.expect_err("nothing to read").kind, ErrorKind::Malformed);
}

#[test]
fn oddities_are_capped() {
    let tensors: Vec<Vec<u8>> = (0..1500).map(|i| tensor(&format!("t{i}"), &[8], 4, 0)).collect();
    let checkpoint = open(&file(&[], &tensors, &[])).expect("opens");
    assert_eq!(checkpoint.anomalies.len(), 1001);
    assert!(checkpoint.anomalies.iter().any(|anomaly| anomaly.kind == "more-anomalies"));
    assert_eq!(checkpoint.tensors.len(), 1500);
}

#[test]
fn texts_and_names_are_kept_up_to_a_number_of_bytes() {
    let long = "x".repeat(MAX_METADATA_TEXT_BYTES);
    let keys: Vec<Vec<u8>> = (0..200).map(|at| key(&format!("k{at}"), TEXT, string(&long))).collect();
    let checkpoint = open(&file(&keys, &[tensor("w", &[8], F32, 0)], &floats(8))).expect("opens");
    let kept: usize = checkpoint.metadata.values().map(String::len).sum();
    assert!(checkpoint.metadata.len() == 200 && kept < MAX_METADATA_TEXTS_BYTES + 200 * 100, "{kept}");
    assert_eq!(checkpoint.metadata["k199"], format!("… ({} bytes in all)", long.len()));
    let name = "n".repeat(MAX_TENSOR_NAME_BYTES);
    let tensors = vec![tensor(&name, &[], F32, 0); MAX_NAMES_BYTES / MAX_TENSOR_NAME_BYTES + 1];
    refused(&file(&[], &tensors, &[]), ErrorKind::TooLarge, "the names of its tensors have more than");
}

/// A file that counts what is read of it.
struct Counted(Bytes, AtomicU64, AtomicU64);

impl ByteSource for Counted {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.2.fetch_add(range.end - range.start, Ordering::Relaxed);
        self.0.read(range)
    }
}

#[test]
fn a_long_header_takes_few_requests_and_the_data_none() {
    let tokens: Vec<u8> = (0..250_000).flat_map(|i| string(format!("token{i}"))).collect();
    let keys = [
        key("tokenizer.ggml.tokens", ARRAY, array(TEXT, 250_000, tokens)),
        key("tokenizer.ggml.scores", ARRAY, array(6, 250_000, vec![0; 1_000_000])),
    ];
    let header_bytes: usize = keys.iter().map(Vec::len).sum();
    let bytes = file(&keys, &[tensor("w", &[1 << 22], F32, 0)], &vec![0; 1 << 24]);
    let source = Arc::new(Counted(Bytes::new("m.gguf", bytes), AtomicU64::new(0), AtomicU64::new(0)));
    let files = BTreeMap::from([("m.gguf".to_owned(), source.clone() as Arc<dyn ByteSource>)]);
    let checkpoint = Gguf.open(&FileSet { label: "test".to_owned(), files, ..FileSet::default() }).expect("opens");
    assert_eq!(checkpoint.tensors.len(), 1);
    let (requests, read) = (source.1.load(Ordering::Relaxed), source.2.load(Ordering::Relaxed));
    assert!(requests <= 6, "{requests} requests");
    assert!(read < 2 * header_bytes as u64, "{read} bytes read of a header of {header_bytes}");
}

/// Opens whatever it is, and decodes all that says it can be decoded.
fn exercise(bytes: &[u8]) {
    let Ok(checkpoint) = open(bytes) else { return };
    checkpoint.bytes();
    for entry in checkpoint.tensors.values() {
        assert!(entry.range.end <= bytes.len() as u64);
        let mut numbers = vec![0.0; entry.elements().min(1 << 16) as usize];
        let decoded = checkpoint.decode(entry, 0, &mut numbers);
        assert_eq!(decoded.is_ok(), matches!(entry.storage, Storage::Plain), "{}", entry.name);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), version in 0u32..5) {
        exercise(&bytes);
        exercise(&[&b"GGUF"[..], &version.to_le_bytes(), &bytes].concat());
        exercise(&[header(version, 2, 2), bytes].concat());
    }

    #[test]
    fn damaged_files_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = model();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        exercise(&bytes);
    }
}
