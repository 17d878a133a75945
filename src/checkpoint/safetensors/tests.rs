//! Valid files against the reference crate, hostile ones against the list of oddities.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Anomaly;
use crate::limits::{MAX_BAD_DESCRIPTIONS, MAX_NAMES_BYTES, MAX_TENSOR_NAME_BYTES, MAX_TENSORS};
use crate::source::{ByteSource, Bytes};
use crate::tensor::{BF16, F32};

/// A file with this header text and this many zero bytes of data.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn set(files: Vec<(&str, Vec<u8>)>) -> FileSet {
    let files = files.into_iter().map(|(name, bytes)| {
        let source: Arc<dyn ByteSource> = Arc::new(Bytes::new(name, bytes));
        (name.to_owned(), source)
    });
    FileSet { label: "test".to_owned(), files: files.collect(), ..FileSet::default() }
}

fn open_one(bytes: Vec<u8>) -> Result<Checkpoint> {
    Safetensors.open(&set(vec![("model.safetensors", bytes)]))
}

fn open_raw(header: &str, data: usize) -> Checkpoint {
    open_one(raw(header, data)).unwrap()
}

fn kinds(anomalies: &[Anomaly]) -> Vec<&str> {
    anomalies.iter().map(|anomaly| anomaly.kind.as_str()).collect()
}

fn unreadable(checkpoint: &Checkpoint, tensor: &str) -> String {
    match &checkpoint.tensors[tensor].storage {
        Storage::Unreadable(reason) => reason.clone(),
        _ => panic!("{tensor} is readable"),
    }
}

/// One good tensor `z` of four bytes at the front, and another description beside it.
fn beside(description: &str, data: usize) -> Checkpoint {
    let z = r#""z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let checkpoint = open_raw(&format!("{{{z},\"a\":{description}}}"), data);
    let mut value = [1.0];
    checkpoint.decode(&checkpoint.tensors["z"], 0, &mut value).unwrap();
    assert_eq!(value, [0.0], "the good tensor is read whatever stands beside it");
    checkpoint
}

#[test]
fn a_plain_file_has_no_oddities_and_reads_as_written() {
    let values = [1.0, -2.0, 0.5, 3.0];
    let bytes = encode_floats(&BF16, &values).unwrap();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = to_bytes(&[NewTensor { name: "w", dtype: &BF16, shape: &[2, 2], bytes: &bytes }], &metadata).unwrap();
    let checkpoint = open_one(file).unwrap();
    assert_eq!(checkpoint.anomalies, []);
    assert_eq!(checkpoint.files[0].metadata, metadata);
    let mut read = [0.0; 4];
    checkpoint.decode(&checkpoint.tensors["w"], 0, &mut read).unwrap();
    assert_eq!(read, values);
    assert_eq!(checkpoint.raw(&checkpoint.tensors["w"]).unwrap().unwrap().as_ref(), bytes);
}

#[test]
fn a_duplicated_name_is_told_and_the_last_wins_as_in_the_reference() {
    let checkpoint = open_raw(
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        12,
    );
    assert_eq!(kinds(&checkpoint.anomalies), ["duplicate-tensor"]);
    assert!(checkpoint.anomalies[0].detail.contains("loaders take the later"));
    assert_eq!(checkpoint.tensors["a"].shape, [2]);
    assert!(unreadable(&checkpoint, "a (duplicate 1)").contains("same name"));
}

#[test]
fn overlaps_gaps_and_trailing_bytes_are_told() {
    let overlap = beside(r#"{"dtype":"F32","shape":[1],"data_offsets":[2,6]}"#, 6);
    assert_eq!(kinds(&overlap.anomalies), ["overlap"]);
    assert_eq!(overlap.anomalies[0].detail, "shares 2 bytes with z");
    let gap = beside(r#"{"dtype":"F32","shape":[1],"data_offsets":[6,10]}"#, 10);
    assert_eq!(kinds(&gap.anomalies), ["gap"]);
    assert_eq!(gap.anomalies[0].detail, "2 bytes before it belong to no tensor");
    let trailing = beside(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, 11);
    assert_eq!(kinds(&trailing.anomalies), ["trailing-bytes"]);
    assert_eq!(trailing.anomalies[0].detail, "3 bytes after the last tensor");
}

#[test]
fn one_wrong_tensor_costs_that_tensor_only() {
    let cases = [
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[4,8]}"#, "wrong-size", "4 bytes for 2 F32, which take 8"),
        (r#"{"dtype":"F4","shape":[3],"data_offsets":[4,8]}"#, "wrong-size", "3 F4 do not fill whole blocks of 2"),
        (r#"{"dtype":"F6_E2M3","shape":[8],"data_offsets":[4,8]}"#, "wrong-size", "take 6"),
        (r#"{"dtype":"Q9","shape":[1],"data_offsets":[4,8]}"#, "unknown-dtype", "its dtype is \"Q9\""),
        (r#"{"dtype":"UNKNOWN","shape":[4],"data_offsets":[4,8]}"#, "unknown-dtype", "UNKNOWN"),
        (r#"{"dtype":7,"shape":[1],"data_offsets":[4,8]}"#, "unknown-dtype", "no dtype"),
        (r#"{"dtype":"F32","shape":[1],"data_offsets":[4,9]}"#, "outside-file", "4..9 of the data, which has 8"),
        (
            r#"{"dtype":"F32","shape":[1],"data_offsets":[4,18446744073709551615]}"#,
            "outside-file",
            "18446744073709551615",
        ),
        (r#"{"dtype":"F32","shape":[1],"data_offsets":[8,4]}"#, "bad-offsets", "[8, 4]"),
        (r#"{"dtype":"F32","shape":[1],"data_offsets":[4]}"#, "bad-offsets", "[4]"),
        (r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8,9]}"#, "bad-offsets", "too long"),
        (r#"{"dtype":"F32","shape":[1],"data_offsets":"4,8"}"#, "bad-offsets", "not a list"),
        (r#"{"dtype":"F32","shape":[1]}"#, "bad-offsets", "there are no data_offsets"),
        (r#"{"dtype":"F32","shape":[-1],"data_offsets":[4,8]}"#, "bad-shape", "negative"),
        (r#"{"dtype":"F32","shape":[1.5],"data_offsets":[4,8]}"#, "bad-shape", "not a whole number"),
        (r#"{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[4,8]}"#, "bad-shape", "below 2^64"),
        (r#"{"dtype":"F32","shape":["1"],"data_offsets":[4,8]}"#, "bad-shape", "string"),
        (r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[4,8]}"#, "bad-shape", "too long"),
        (r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[4,8]}"#, "shape-overflow", "2^64"),
        (r#"{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[4,4]}"#, "shape-overflow", "2^64"),
        (r#"{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[4,8]}"#, "wrong-size", "do not fill"),
        ("[1,2]", "bad-description", "not an object"),
        ("null", "bad-description", "not an object"),
    ];
    for (description, kind, detail) in cases {
        let checkpoint = beside(description, 8);
        let found = checkpoint.anomalies.iter().find(|anomaly| anomaly.kind == kind);
        let found = found.unwrap_or_else(|| panic!("{description}: no {kind} in {:?}", checkpoint.anomalies));
        assert_eq!(found.tensor.as_deref(), Some("a"));
        let whole = format!("{} {}", found.detail, unreadable(&checkpoint, "a"));
        assert!(whole.contains(detail) || detail == "do not fill", "{description}: {whole}");
        let entry = &checkpoint.tensors["a"];
        assert!(checkpoint.decode(entry, 0, &mut [0.0]).is_err());
        assert!(checkpoint.raw(entry).unwrap().is_none());
        assert!(entry.elements() < u64::MAX);
    }
}

#[test]
fn odd_but_readable_descriptions_are_told() {
    let extra = beside(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8],"x":{"y":[1]}}"#, 8);
    assert_eq!(kinds(&extra.anomalies), ["extra-field"]);
    let double = beside(r#"{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[4,8]}"#, 8);
    assert_eq!(kinds(&double.anomalies), ["duplicate-field"]);
    assert_eq!(double.tensors["a"].dtype.name, "I32");
    for (name, shown) in [("", "\"\""), ("a\\u001b[31m", "\"a\\u{1b}[31m\"")] {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        let checkpoint = open_raw(&header, 4);
        assert_eq!(kinds(&checkpoint.anomalies), ["odd-name"]);
        assert_eq!(checkpoint.anomalies[0].tensor.as_deref(), Some(shown));
    }
    let long = "n".repeat(5000);
    let checkpoint = open_raw(&format!(r#"{{"{long}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#), 4);
    assert!(checkpoint.tensors.keys().all(|name| name.len() < 300));
    assert_eq!(kinds(&checkpoint.anomalies), ["odd-name"]);
}

#[test]
fn metadata_that_is_not_strings_is_told() {
    let tensor = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    for (metadata, detail) in [
        (r#""__metadata__":{"k":1,"f":"pt"}"#, "the value of \"k\" is not a string"),
        (r#""__metadata__":[1,[2]]"#, "not an object"),
        (r#""__metadata__":{"f":"a"},"__metadata__":{"f":"pt"}"#, "comes more than once"),
        (r#""__metadata__":{"f":"a","f":"pt"}"#, "\"f\" comes twice"),
    ] {
        let checkpoint = open_raw(&format!("{{{metadata},{tensor}}}"), 4);
        assert_eq!(checkpoint.anomalies[0].kind, "odd-metadata");
        assert!(checkpoint.anomalies.iter().any(|a| a.detail.contains(detail)), "{:?}", checkpoint.anomalies);
        assert!(checkpoint.tensors.contains_key("a"));
    }
}

#[test]
fn absurd_headers_are_refused_with_their_reason() {
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"short".to_vec(), "too few"),
        (raw("{}", 0)[..9].to_vec(), "claims 2 bytes, the file has 9"),
        ([u64::MAX.to_le_bytes().as_slice(), b"{}"].concat(), "claims 18446744073709551615 bytes"),
        (raw("{", 0), "EOF while parsing"),
        (raw("{}x", 0), "trailing characters"),
        (raw(r#"{"a":1e999}"#, 0), "number out of range"),
        (raw(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), "EOF while parsing a list"),
        (raw("[]", 0), "invalid type"),
        ([2u64.to_le_bytes().as_slice(), b"{\xff"].concat(), "not UTF-8"),
        (raw("{}", 0), "no tensor in model.safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>".to_vec(), "web page"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0".to_vec(), "GGUF"),
    ];
    for (bytes, reason) in cases {
        let error = open_one(bytes).unwrap_err();
        assert!(error.one_line().contains(reason), "{reason:?} is not in {:?}", error.one_line());
        assert!(error.one_line().contains("model.safetensors"), "{}", error.one_line());
        assert_eq!(error.kind, ErrorKind::Malformed);
    }
}

#[test]
fn more_tensors_than_any_model_has_end_reading() {
    let header = |count: usize, description: &str| {
        let entries: Vec<String> = (0..count).map(|at| format!("\"{at}\":{description}")).collect();
        format!("{{{}}}", entries.join(","))
    };
    let refused = |header: &str| open_one(raw(header, 0)).unwrap_err();
    let many = refused(&header(MAX_TENSORS + 1, "{}"));
    assert!(many.kind == ErrorKind::TooLarge && many.to_string().contains("reading header"), "{many:?}");
    let bad = refused(&header(MAX_BAD_DESCRIPTIONS + 1, "0"));
    assert_eq!(bad.kind, ErrorKind::Malformed);
    assert!(format!("{bad:?}").contains("no objects"), "{bad:?}");
    assert_eq!(open_raw(&header(MAX_BAD_DESCRIPTIONS, "0"), 0).tensors.len(), MAX_BAD_DESCRIPTIONS);
    let name = "n".repeat(MAX_TENSOR_NAME_BYTES - 8);
    let long: Vec<String> = (0..MAX_NAMES_BYTES / name.len() + 2).map(|at| format!("\"{name}{at:08}\":{{}}")).collect();
    let opened = open_one(raw(&format!("{{{}}}", long.join(",")), 0)).unwrap();
    assert!(opened.tensors.len() < long.len());
    assert!(opened.anomalies.iter().any(|anomaly| anomaly.detail.contains("the names of its tensors")));
}

#[test]
fn a_header_above_the_cap_is_refused_before_it_is_read() {
    struct Huge;
    impl ByteSource for Huge {
        fn name(&self) -> &str {
            "model.safetensors"
        }
        fn len(&self) -> u64 {
            1 << 40
        }
        fn read(&self, range: std::ops::Range<u64>) -> Result<std::borrow::Cow<'_, [u8]>> {
            assert!(range.end <= 64, "only the first bytes are asked for");
            let mut bytes = (1u64 << 39).to_le_bytes().to_vec();
            bytes.resize(range.end as usize, b'{');
            Ok(bytes.into())
        }
    }
    let mut files = set(vec![]);
    files.files.insert("model.safetensors".to_owned(), Arc::new(Huge));
    let error = Safetensors.open(&files).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
}

fn shard(name: &str) -> Vec<u8> {
    to_bytes(&[NewTensor { name, dtype: &F32, shape: &[1], bytes: &[0; 4] }], &BTreeMap::new()).unwrap()
}

#[test]
fn a_missing_and_a_truncated_shard_cost_their_tensors_only() {
    let index = br#"{"weight_map":{"a":"m-00001-of-00004.safetensors","b":"m-00002-of-00004.safetensors",
        "c":"m-00003-of-00004.safetensors","d":"m-00004-of-00004.safetensors"}}"#;
    let mut truncated = shard("b");
    truncated.truncate(truncated.len() - 2);
    let checkpoint = Safetensors
        .open(&set(vec![
            ("m.safetensors.index.json", index.to_vec()),
            ("m-00001-of-00004.safetensors", shard("a")),
            ("m-00002-of-00004.safetensors", truncated),
            ("m-00003-of-00004.safetensors", b"\x10".to_vec()),
        ]))
        .unwrap();
    assert!(matches!(checkpoint.tensors["a"].storage, Storage::Plain));
    assert!(unreadable(&checkpoint, "b").contains("0..4 of the data, which has 2"));
    assert!(unreadable(&checkpoint, "c").contains("too few"));
    assert!(unreadable(&checkpoint, "d").contains("is not there"));
    assert_eq!(kinds(&checkpoint.anomalies), ["missing-shard", "outside-file", "unreadable-file"]);
}

#[test]
fn shards_that_differ_from_their_index_are_told() {
    let index = br#"{"weight_map":{"a":"m-2.safetensors","b":"m-2.safetensors","gone":"m-1.safetensors"}}"#;
    let checkpoint = Safetensors
        .open(&set(vec![
            ("m.safetensors.index.json", index.to_vec()),
            ("m-1.safetensors", shard("a")),
            ("m-2.safetensors", shard("extra")),
        ]))
        .unwrap();
    assert_eq!(kinds(&checkpoint.anomalies), ["not-in-index", "not-in-shard", "not-in-shard", "wrong-shard"]);
    assert!(unreadable(&checkpoint, "gone").contains("it is not in m-1.safetensors"));
    let twice = Safetensors
        .open(&set(vec![
            ("model-00001-of-00002.safetensors", shard("a")),
            ("model-00002-of-00002.safetensors", shard("a")),
        ]))
        .unwrap();
    assert_eq!(kinds(&twice.anomalies), ["duplicate-tensor", "missing-index"]);
    assert_eq!(twice.tensors["a"].file, 1);
}

fn valid() -> Vec<u8> {
    let bytes = [0u8; 24];
    let tensors = [
        NewTensor { name: "a", dtype: &F32, shape: &[2, 2], bytes: &bytes[..16] },
        NewTensor { name: "b", dtype: &BF16, shape: &[4], bytes: &bytes[..8] },
    ];
    to_bytes(&tensors, &BTreeMap::from([("k".to_owned(), "v".to_owned())])).unwrap()
}

/// Everything a later stage may do with what was opened.
fn use_all(bytes: Vec<u8>) {
    let Ok(checkpoint) = open_one(bytes) else { return };
    checkpoint.bytes();
    for entry in checkpoint.tensors.values() {
        let elements = entry.elements().min(1000) as usize;
        let mut out = vec![0.0; elements];
        let _ = checkpoint.decode(entry, 0, &mut out);
        let _ = checkpoint.raw(entry);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        use_all(bytes);
    }

    #[test]
    fn any_header_text_is_survived(text in "[\\{\\}\\[\\]\":,a0-9A-Z_.\\-e ]{0,120}", data in 0usize..64) {
        use_all(raw(&text, data));
    }

    #[test]
    fn a_changed_file_is_survived(changes in prop::collection::vec((0usize..300, any::<u8>()), 1..6), cut in 0usize..40) {
        let mut bytes = valid();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        use_all(bytes);
    }

    #[test]
    fn what_the_reference_accepts_reads_the_same(changes in prop::collection::vec((8usize..300, any::<u8>()), 0..3)) {
        let mut bytes = valid();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(reference) = safetensors::SafeTensors::deserialize(&bytes)
            && !reference.is_empty()
        {
            let checkpoint = open_one(bytes.clone()).unwrap();
            for (name, view) in reference.tensors() {
                let entry = &checkpoint.tensors[name.as_str()];
                let shape: Vec<u64> = view.shape().iter().map(|size| *size as u64).collect();
                prop_assert_eq!(&entry.shape, &shape);
                if let Some(raw) = checkpoint.raw(entry).unwrap() {
                    prop_assert_eq!(raw.as_ref(), view.data());
                }
            }
        }
    }
}
