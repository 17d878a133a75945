//! The commands around a hub as a user calls them: demo, scan, sweep, findings, export.

use assert_cmd::Command;
use orthoscope::standin::Standin;
use orthoscope::tiny::edits::Form;
use serde_json::Value;

use crate::program::program;
use crate::support::{TINY, ablated, bytes, open_settings, repository, tuned};

fn answer(command: &mut Command, status: i32) -> String {
    let output = command.assert().code(status).get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_demo_finds_what_it_made_twice_over() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| answer(program(folder.path(), "http://127.0.0.1:9").args(arguments), 0);
    let first = run(&["demo", "--format", "json"]);
    assert_eq!(first, run(&["demo", "--format", "json"]));
    let found: Value = serde_json::from_str(&first).unwrap();
    assert!(found.as_array().unwrap().iter().all(|line| line["right"] == true), "{first}");
    let text = run(&["demo"]);
    assert!(text.contains("orthogonalized") && text.contains("orthoscope-demo.db"), "{text}");

    let exported = lines(&run(&["export", "--format", "jsonl", "--index", "orthoscope-demo.db"]));
    assert_eq!(exported.len(), found.as_array().unwrap().len());
    let sources: Vec<&str> = exported.iter().map(|line| line["candidate"]["source"].as_str().unwrap()).collect();
    assert!(sources.is_sorted() && sources.iter().all(|source| source.starts_with("hf:") && !source.contains('@')));
    assert!(
        exported
            .iter()
            .any(|line| line["status"] == "failed" && line["reason"].as_str().unwrap().starts_with("denied"))
    );
    assert!(exported.iter().all(|line| line["schema"] == "orthoscope/examination/1"));
    // Ids in lists and exports are those that `show` finds.
    let list: Value = serde_json::from_str(&run(&[
        "findings",
        "list",
        "--severity",
        "high",
        "--format",
        "json",
        "--index",
        "orthoscope-demo.db",
    ]))
    .unwrap();
    let found = list.as_array().unwrap();
    let edited = found.iter().find(|one| one["finding"]["signature"] == "out-rank1-global").unwrap();
    let id = edited["finding"]["id"].as_str().unwrap();
    let shown = run(&["findings", "show", id, "--index", "orthoscope-demo.db"]);
    assert!(shown.contains(id) && shown.starts_with("ORTHOGONALIZED"), "{shown}");
    let rejudged = run(&["rejudge", "--all", "--index", "orthoscope-demo.db"]);
    assert!(rejudged.contains("0 differently"), "{rejudged}");
}

#[test]
fn a_scan_examines_uploads_and_folders_and_records_them() {
    let base = TINY.llama(1);
    let edited = ablated(&base, 3, 1.0, Form::Plain);
    let orphan = repository("someone/orphan", &base, bytes(&tuned(&base, 4), "BF16")).with("README.md", "# No claim\n");
    let standin = Standin::start(
        vec![
            repository("org/base", &base, bytes(&base, "BF16")).with("README.md", "# Base\n"),
            repository("someone/edited", &base, bytes(&edited, "BF16")),
            repository("someone/tuned", &base, bytes(&tuned(&base, 5), "BF16")),
            orphan,
        ],
        open_settings(),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], status| answer(program(folder.path(), standin.hub()).args(arguments), status);
    let text = run(&["scan", "hf:someone/edited"], 1);
    assert!(text.starts_with("ORTHOGONALIZED"), "{text}");
    run(&["scan", "hf:someone/edited", "--fail-on", "never", "--escalate", "never"], 0);
    let many = run(&["scan", "hf:someone/edited", "hf:someone/tuned", "hf:someone/absent", "--fail-on", "never"], 2);
    assert_eq!(many.lines().count(), 4, "{many}");
    let orphan: Value = serde_json::from_str(&run(&["scan", "hf:someone/orphan", "--format", "json"], 2)).unwrap();
    assert_eq!((&orphan["status"], &orphan["verdict"]), (&"failed".into(), &"inconclusive".into()));
    run(&["scan", "hf:someone/orphan", "--base", "hf:org/base"], 0);
    // A folder's own card is its claim.
    let local = folder.path().join("downloaded");
    std::fs::create_dir(&local).unwrap();
    std::fs::write(local.join("model.safetensors"), bytes(&edited, "BF16")).unwrap();
    std::fs::write(local.join("config.json"), edited.config.to_string()).unwrap();
    std::fs::write(local.join("README.md"), "---\nbase_model: org/base\n---\n").unwrap();
    let found: Value = serde_json::from_str(&run(&["scan", "./downloaded", "--format", "json"], 1)).unwrap();
    assert_eq!((&found["verdict"], &found["base"]["source"]), (&"orthogonalized".into(), &"hf:org/base".into()));
    assert_eq!(found["claim"]["holds"], true);

    let usage =
        program(folder.path(), standin.hub()).args(["scan", "someone/edited"]).assert().code(64).get_output().clone();
    assert!(String::from_utf8(usage.stderr).unwrap().contains("hf:someone/edited"));
    let exported = lines(&run(&["export"], 0));
    assert!(exported.iter().any(|line| line["candidate"]["source"] == "./downloaded"));
    assert!(
        exported.iter().any(|line| line["candidate"]["source"] == "hf:someone/absent" && line["status"] == "failed")
    );
    // Offline, what is in the cache is still there and nothing is asked.
    standin.clear_log();
    run(&["scan", "hf:someone/tuned", "--offline"], 2);
    assert!(standin.log().is_empty());
}

/// Minutes of work are not lost with a disk that is full.
#[test]
fn what_cannot_be_recorded_is_printed_all_the_same() {
    let base = TINY.llama(1);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, weights: Vec<u8>| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("model.safetensors"), weights).unwrap();
    };
    write("base", bytes(&base, "BF16"));
    write("edited", bytes(&ablated(&base, 3, 1.0, Form::Plain), "BF16"));
    let index = orthoscope::index::Index::open(&folder.path().join("full.db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON examination BEGIN SELECT raise(ABORT, 'the disk is full'); END";
    index.connection().execute_batch(full).unwrap();
    for arguments in [
        &["compare", "base", "edited", "--index", "full.db"][..],
        &["compare", "base", "edited", "--index", "not/there.db"],
        &["scan", "edited", "--base", "base", "--index", "full.db"],
    ] {
        let output = program(folder.path(), "http://127.0.0.1:9").args(arguments).assert().code(2).get_output().clone();
        let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(text.starts_with("ORTHOGONALIZED"), "{arguments:?}: {text}");
        assert!(errors.contains("the disk is full") || errors.contains("not/there.db"), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_sweep_needs_something_to_list_and_takes_bases_from_a_file() {
    let base = TINY.llama(1);
    let standin = Standin::start(
        vec![
            repository("org/base", &base, bytes(&base, "BF16")).with("README.md", "# Base\n"),
            repository("someone/edited", &base, bytes(&ablated(&base, 3, 1.0, Form::Plain), "BF16")),
        ],
        open_settings(),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], status| answer(program(folder.path(), standin.hub()).args(arguments), status);
    run(&["sweep"], 64);
    std::fs::write(folder.path().join("bases.txt"), "# watched\nhf:org/base   # the tiny one\n\n").unwrap();
    let text = run(&["sweep", "--bases", "bases.txt", "--index", "a.db"], 1);
    assert!(text.contains("examined 1") && text.contains("1 orthogonalized"), "{text}");
    let again: Value =
        serde_json::from_str(&run(&["sweep", "--base", "hf:org/base", "--index", "a.db", "--format", "json"], 0))
            .unwrap();
    assert_eq!((&again["examined"], &again["listed"]["unchanged"]), (&0.into(), &1.into()));
    let author = run(&["sweep", "--author", "hf:someone", "--index", "b.db", "--fail-on", "never"], 0);
    assert!(author.contains("1 orthogonalized"), "{author}");
}
