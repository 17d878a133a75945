//! The program on bad input: what it says, how it ends, and that the index survives.

use std::path::Path;

use assert_cmd::Command;
use orthoscope::demo::tiny::TinySize;
use orthoscope::index::Index;
use orthoscope::tensor::BF16;

struct Outcome {
    code: i32,
    text: String,
}

/// Runs `compare` on two folders with an index in the first one's parent.
fn compare(base: &Path, candidate: &Path, index: &Path) -> Outcome {
    let output = Command::cargo_bin("orthoscope")
        .unwrap()
        .args([
            "compare",
            base.to_str().unwrap(),
            candidate.to_str().unwrap(),
            "--index",
            index.to_str().unwrap(),
            "-v",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked"), "{text}");
    Outcome { code: output.status.code().unwrap(), text }
}

/// A base, a candidate made from its file by `spoil`, and the outcome of comparing them. The index must hold the
/// examination afterwards.
fn spoiled(spoil: impl FnOnce(&Path)) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let (base, candidate, index) =
        (folder.path().join("base"), folder.path().join("candidate"), folder.path().join("index.db"));
    let model = TinySize { width: 32, layers: 2, inner: 64, heads: 2, vocabulary: 40 }.llama(1);
    model.write(&base, &BF16, 1).unwrap();
    model.write(&candidate, &BF16, 1).unwrap();
    spoil(&candidate);
    let outcome = compare(&base, &candidate, &index);
    let recorded = Index::open_read_only(&index).unwrap();
    assert!(recorded.integrity().unwrap().is_empty());
    let rows = recorded.examinations(&Default::default(), Default::default(), Default::default()).unwrap();
    assert_eq!(rows.rows.len(), 1, "{}", outcome.text);
    outcome
}

fn rewrite(folder: &Path, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, change(bytes)).unwrap();
}

/// Edits the JSON header, keeping the data.
fn reheader(folder: &Path, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    rewrite(folder, |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: serde_json::Map<_, _> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let header = serde_json::to_vec(&header).unwrap();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header);
        out.extend(&bytes[8 + length..]);
        out
    });
}

fn expect(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, code, "{}", outcome.text);
    for word in words {
        assert!(outcome.text.contains(word), "no {word:?} in: {}", outcome.text);
    }
}

#[test]
fn a_truncated_shard_costs_its_last_tensors_and_is_said() {
    let outcome = spoiled(|folder| {
        rewrite(folder, |mut bytes| {
            bytes.truncate(bytes.len() - 5000);
            bytes
        });
    });
    expect(&outcome, 2, &["model.safetensors", "not examined"]);
}

#[test]
fn a_header_of_two_hundred_megabytes_is_refused_by_name() {
    let outcome = spoiled(|folder| {
        rewrite(folder, |mut bytes| {
            bytes[..8].copy_from_slice(&200_000_000u64.to_le_bytes());
            bytes
        });
    });
    expect(&outcome, 2, &["model.safetensors", "200"]);
}

#[test]
fn overlapping_tensors_are_an_anomaly_with_their_names() {
    let outcome = spoiled(|folder| {
        reheader(folder, |header| {
            let other = header["model.layers.0.self_attn.q_proj.weight"]["data_offsets"].clone();
            header["model.layers.0.self_attn.k_proj.weight"]["data_offsets"] = other;
        });
    });
    assert!(outcome.text.contains("overlap") && outcome.text.contains("k_proj"), "{}", outcome.text);
}

#[test]
fn tensors_full_of_nan_are_not_examined() {
    let outcome = spoiled(|folder| {
        rewrite(folder, |mut bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            bytes[8 + length..].fill(0xff);
            bytes
        });
    });
    expect(&outcome, 2, &["not finite"]);
}

#[test]
fn an_empty_folder_and_a_folder_that_is_no_model_say_what_was_looked_for() {
    let outcome = spoiled(|folder| {
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::create_dir(folder).unwrap();
    });
    expect(&outcome, 2, &["candidate", "safetensors"]);
    let outcome = spoiled(|folder| {
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("README.txt"), "hello").unwrap();
    });
    expect(&outcome, 2, &["candidate", "safetensors"]);
}

#[test]
fn a_missing_folder_is_a_mistake_in_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("index.db");
    let outcome = compare(&folder.path().join("base"), &folder.path().join("candidate"), &index);
    expect(&outcome, 64, &["base", "no such file or folder"]);
    assert!(!index.exists(), "nothing is recorded");
}

#[test]
fn a_pickle_named_safetensors_is_found_out() {
    let outcome = spoiled(|folder| {
        rewrite(folder, |_| b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85q\x02Rq\x03.".to_vec());
    });
    assert!(outcome.code != 0, "{}", outcome.text);
    assert!(outcome.text.contains("pickle"), "{}", outcome.text);
}

#[test]
fn names_that_would_move_a_terminals_cursor_do_not_reach_it() {
    let outcome = spoiled(|folder| {
        reheader(folder, |header| {
            let entry = header.remove("model.layers.1.mlp.up_proj.weight").unwrap();
            header.insert("model.layers.1.\u{1b}[2J\u{202e}up.weight".to_owned(), entry);
        });
    });
    assert!(!outcome.text.contains('\u{1b}') && !outcome.text.contains('\u{202e}'), "{}", outcome.text);
}

#[test]
fn bad_usage_ends_with_64() {
    let status =
        |arguments: &[&str]| Command::cargo_bin("orthoscope").unwrap().args(arguments).output().unwrap().status;
    assert_eq!(status(&["compare", "only-one"]).code(), Some(64));
    assert_eq!(status(&["no-such-command"]).code(), Some(64));
    assert_eq!(status(&["--help"]).code(), Some(0));
}
