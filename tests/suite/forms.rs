//! Repositories and folders that hold a model in several forms: each is judged, and one verdict is given over all.

use std::path::Path;

use assert_cmd::Command;
use orthoscope::demo::standin::{Repository, Standin};
use orthoscope::demo::tiny::edits::RemovalKind;
use orthoscope::demo::tiny::gguf::{self, Quantization};
use orthoscope::demo::tiny::{Model, TinySize};
use serde_json::Value;

use crate::program::program;
use crate::support::{TINY, ablated, bytes, open_settings, repository};

/// A pickle that imports `os.system`, in protocol 2; its fourth byte is the import's opcode.
const COMMAND: &[u8] = b"\x80\x02}cos\nsystem\nX\x04\0\0\0true\x85R.";

fn compare(folder: &Path, arguments: &[&str], status: i32) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orthoscope"));
    let assert = command
        .current_dir(folder)
        .args(["compare", "base", "candidate", "--format", "json", "--no-record"])
        .args(arguments)
        .assert();
    serde_json::from_slice(&assert.code(status).get_output().stdout).unwrap()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn config(folder: &Path, side: &str, model: &Model) {
    write(folder, &format!("{side}/config.json"), model.config.to_string().as_bytes());
}

fn verdicts(examination: &Value) -> Vec<(&str, &str)> {
    let variants = examination["variants"].as_array().map(Vec::as_slice).unwrap_or_default();
    variants
        .iter()
        .map(|one| (one["candidate"]["variant"].as_str().unwrap(), one["verdict"].as_str().unwrap()))
        .collect()
}

#[test]
fn an_edited_quantisation_beside_honest_weights_decides() {
    let folder = tempfile::tempdir().unwrap();
    let base = TINY.llama(1);
    let edited = ablated(&base, 10, 1.0, RemovalKind::Plain);
    for side in ["base", "candidate"] {
        config(folder.path(), side, &base);
        write(folder.path(), &format!("{side}/model.safetensors"), &bytes(&base, "BF16"));
    }
    for quantization in [Quantization::Q8_0, Quantization::Q4_0, Quantization::F16] {
        let name = format!("candidate/tiny-{}.gguf", quantization.as_str());
        write(folder.path(), &name, &gguf::bytes(&edited, "tiny", quantization));
    }
    let found = compare(folder.path(), &[], 1);
    assert_eq!(found["verdict"], "orthogonalized");
    assert_eq!(
        verdicts(&found),
        [
            ("model.safetensors", "clear"),
            ("Q8_0", "orthogonalized"),
            ("F16", "orthogonalized"),
            ("Q4_0", "orthogonalized")
        ]
    );
    assert!(found["because"].as_str().unwrap().contains("This is of Q8_0, one of 4 variants examined"));
    assert_eq!(found["coverage"]["not_examined"].as_array().unwrap().len(), 0);
    assert_eq!(found["candidate"]["files"].as_array().unwrap().len(), 4);
    let all = compare(folder.path(), &["--all-variants"], 1);
    assert_eq!(verdicts(&all), verdicts(&found), "the whole folder either way");
    let strength = &all["variants"][3]["orthogonalization"]["strength"];
    for one in strength.as_array().unwrap() {
        assert!((one["lambda"].as_f64().unwrap() - 1.0).abs() < 0.1, "{one}");
    }
}

#[test]
fn models_in_folders_of_their_own_are_examined_each() {
    let folder = tempfile::tempdir().unwrap();
    let base = TINY.llama(1);
    let edited = ablated(&base, 10, 1.0, RemovalKind::Plain);
    config(folder.path(), "base", &base);
    write(folder.path(), "base/model.safetensors", &bytes(&base, "BF16"));
    for (name, model) in [("balanced", &base), ("max", &edited)] {
        config(folder.path(), &format!("candidate/{name}"), model);
        write(folder.path(), &format!("candidate/{name}/model.safetensors"), &bytes(model, "BF16"));
    }
    let found = compare(folder.path(), &[], 1);
    let expected = [("balanced/model.safetensors", "clear"), ("max/model.safetensors", "orthogonalized")];
    assert_eq!(verdicts(&found), expected);
    assert_eq!(found["coverage"]["not_examined"], serde_json::json!([]));
    assert_eq!(found["candidate"]["files"].as_array().unwrap().len(), 2, "each once");
    // On a hub as well, where copies of one form are screened.
    let mut both = Repository::new("user/both").with("README.md", "---\nbase_model: org/base\n---\n");
    for (name, model) in [("balanced", &base), ("max", &edited)] {
        both = both
            .with(&format!("{name}/config.json"), model.config.to_string())
            .with(&format!("{name}/model.safetensors"), bytes(model, "BF16"));
    }
    let base = repository("org/base", &base, bytes(&base, "BF16")).with("README.md", "# Base\n");
    let standin = Standin::start(vec![base, both], open_settings()).unwrap();
    let mut scan = program(folder.path(), standin.hub());
    let output = scan.args(["scan", "hf:user/both", "--format", "json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((verdicts(&found), found["verdict"].as_str().unwrap()), (expected.to_vec(), "orthogonalized"));
}

#[test]
fn a_quantisation_is_compared_with_the_bases_own_where_it_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let base = TINY.llama(1);
    config(folder.path(), "base", &base);
    write(folder.path(), "base/model.safetensors", &bytes(&base, "BF16"));
    write(folder.path(), "base/tiny-Q4_0.gguf", &gguf::bytes(&base, "tiny", Quantization::Q4_0));
    write(folder.path(), "candidate/copy-Q4_0.gguf", &gguf::bytes(&base, "copy", Quantization::Q4_0));
    let same = compare(folder.path(), &[], 0);
    assert_eq!(same["verdict"], "clear");
    assert_eq!(same["coverage"]["identical"], same["coverage"]["compared"], "bit for bit");
    // Named with `scan --base` it is the same base.
    let scanned = Command::new(env!("CARGO_BIN_EXE_orthoscope"))
        .current_dir(folder.path())
        .args(["scan", "./candidate", "--base", "./base", "--format", "json", "--no-record"])
        .output()
        .unwrap();
    let scanned: Value = serde_json::from_slice(&scanned.stdout).unwrap();
    assert_eq!(scanned["coverage"]["identical"], same["coverage"]["compared"], "{scanned}");
    // A removal fainter than four bits of noise, and still a change of the writers alone.
    let edited = ablated(&base, 10, 0.3, RemovalKind::Plain);
    write(folder.path(), "candidate/copy-Q4_0.gguf", &gguf::bytes(&edited, "copy", Quantization::Q4_0));
    let found = compare(folder.path(), &[], 1);
    assert_eq!(found["verdict"], "orthogonalized");
    let readers = found["coverage"]["identical"].as_u64().unwrap();
    assert_eq!(readers, found["coverage"]["compared"].as_u64().unwrap() - 8, "all but the eight writers");
}

#[test]
fn a_pickle_that_would_run_code_is_a_finding_of_its_own_under_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let base = TINY.llama(1);
    config(folder.path(), "base", &base);
    write(folder.path(), "base/model.safetensors", &bytes(&base, "BF16"));
    for name in ["pytorch_model.bin", "model.safetensors"] {
        let _ = std::fs::remove_dir_all(folder.path().join("candidate"));
        write(folder.path(), &format!("candidate/{name}"), COMMAND);
        let found = compare(folder.path(), &[], 1);
        assert_ne!(found["verdict"], "clear", "{name}");
        let finding = &found["findings"][0];
        assert_eq!((finding["signature"].as_str(), finding["severity"].as_str()), (Some("code-on-load"), Some("high")));
        let import = finding["evidence"]["imports"][0].as_str().unwrap();
        assert!(import.starts_with(name) && import.contains("\"os.system\" (opcode at byte 3 of"), "{import}");
    }
    // Beside honest weights it is the honest weights' verdict that waits for the file that cannot be compared.
    write(folder.path(), "candidate/pytorch_model.bin", COMMAND);
    write(folder.path(), "candidate/model.safetensors", &bytes(&base, "BF16"));
    config(folder.path(), "candidate", &base);
    let found = compare(folder.path(), &[], 1);
    assert_eq!(verdicts(&found), [("model.safetensors", "clear"), ("pytorch_model.bin", "inconclusive")]);
    assert_eq!(found["verdict"], "inconclusive");
    assert_eq!(found["findings"][0]["signature"], "code-on-load");
}

#[test]
fn a_repository_of_several_forms_on_a_hub_gets_one_verdict() {
    let base = TINY.llama(1);
    let edited = ablated(&base, 10, 1.0, RemovalKind::Plain);
    let card = "---\nbase_model: org/base\n---\n";
    let both = repository("user/both", &base, bytes(&base, "BF16"))
        .with("both-Q8_0.gguf", gguf::bytes(&edited, "both", Quantization::Q8_0))
        .with("both-Q4_0.gguf", gguf::bytes(&edited, "both", Quantization::Q4_0));
    let code = Repository::new("user/code")
        .with("README.md", card)
        .with("pytorch_model.bin", COMMAND)
        .with("code-Q8_0.gguf", gguf::bytes(&base, "code", Quantization::Q8_0));
    let repositories =
        vec![repository("org/base", &base, bytes(&base, "BF16")).with("README.md", "# Base\n"), both, code];
    let standin = Standin::start(repositories, open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let scan = |arguments: &[&str]| -> Value {
        let mut command = program(folder.path(), standin.hub());
        let assert = command.args(["scan", "--format", "json"]).args(arguments).assert();
        serde_json::from_slice(&assert.code(1).get_output().stdout).unwrap()
    };
    let found = scan(&["hf:user/both"]);
    let three = [("model.safetensors", "clear"), ("Q8_0", "orthogonalized"), ("Q4_0", "orthogonalized")];
    assert_eq!(verdicts(&found), three);
    assert_eq!(found["variants"][0]["relation"], "identical");
    assert_eq!((found["verdict"].as_str(), found["claim"]["holds"].as_bool()), (Some("orthogonalized"), Some(true)));
    assert_eq!(verdicts(&scan(&["hf:user/both", "--all-variants"])), three);

    let found = scan(&["hf:user/code"]);
    assert_eq!(verdicts(&found), [("Q8_0", "clear"), ("pytorch_model.bin", "inconclusive")]);
    assert_eq!(found["findings"][0]["signature"], "code-on-load");

    // The index gives back what was said, variants and all, and judges it again without the weights.
    let index = orthoscope::index::Index::open(&folder.path().join("orthoscope.db")).unwrap();
    let stored = index.export(&orthoscope::index::ExaminationFilter::default()).map(Result::unwrap);
    let both = stored.map(|stored| stored.examination).find(|one| one.variants.len() > 1).unwrap();
    let mut again = both.clone();
    orthoscope::judge::judge(&mut again, &crate::support::catalogue());
    let text = |examination| serde_json::to_string_pretty(examination).unwrap();
    let (again, both) = (text(&again), text(&both));
    let differing: Vec<_> = again.lines().zip(both.lines()).filter(|(new, old)| new != old).take(5).collect();
    assert_eq!(differing, [], "judging again says something else");
}

#[test]
fn of_what_cannot_be_compared_nothing_follows_for_its_claim_wherever_it_lies() {
    let base = TINY.llama(1);
    let other = TinySize { width: 48, ..TINY }.llama(7);
    let weights = bytes(&other, "BF16");
    let repositories = vec![
        repository("org/base", &base, bytes(&base, "BF16")).with("README.md", "# Base\n"),
        repository("user/other", &other, weights.clone()),
    ];
    let standin = Standin::start(repositories, open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    config(folder.path(), "downloaded", &other);
    write(folder.path(), "downloaded/model.safetensors", &weights);
    write(folder.path(), "downloaded/README.md", b"---\nbase_model: org/base\n---\n");
    for what in ["hf:user/other", "./downloaded"] {
        let mut command = program(folder.path(), standin.hub());
        let output = command.args(["scan", what, "--format", "json"]).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&found["relation"], &found["claim"]["base"]),
            (&"incomparable".into(), &"org/base".into()),
            "{what}"
        );
        assert_eq!(found["claim"]["holds"], Value::Null, "{what}");
    }
}

#[test]
fn a_checkpoint_is_described_from_its_headers_wherever_it_lies() {
    let base = TINY.llama(1);
    let folder = tempfile::tempdir().unwrap();
    let file = gguf::bytes(&base, "tiny", Quantization::Q4_0);
    write(folder.path(), "tiny-Q4_0.gguf", &file);
    let repository = Repository::new("user/tiny")
        .with("README.md", "---\nbase_model: org/base\n---\n")
        .with("tiny-Q4_0.gguf", file)
        .with("tiny-Q8_0.gguf", gguf::bytes(&base, "tiny", Quantization::Q8_0));
    let standin = Standin::start(vec![repository], open_settings()).unwrap();
    let inspect = |what: &str| -> Value {
        let mut command = program(folder.path(), standin.hub());
        let assert = command.args(["inspect", what, "--format", "json"]).assert();
        serde_json::from_slice(&assert.code(0).get_output().stdout).unwrap()
    };
    let count = |one: &Value, kind: &str| -> u64 {
        let modules = one["modules"].as_array().unwrap().iter().filter(|module| module["kind"] == kind);
        modules.map(|module| module["count"].as_u64().unwrap()).sum()
    };
    let local = inspect("tiny-Q4_0.gguf");
    assert_eq!((local["architecture"].as_str(), local["width"].as_u64()), (Some("llama"), Some(64)));
    assert_eq!((count(&local, "writer"), count(&local, "reader"), count(&local, "norm")), (8, 20, 9));
    let remote = inspect("hf:user/tiny");
    assert_eq!((remote["variant"].as_str(), remote["claim"]["base"].as_str()), (Some("Q8_0"), Some("org/base")));
    assert_eq!(remote["others"][0], "Q4_0");
    let log = standin.log();
    let mut weights = log.iter().filter(|entry| entry.method == "GET" && entry.target.contains(".gguf"));
    assert!(weights.all(|entry| entry.range.is_some()), "headers alone, by range");
}
