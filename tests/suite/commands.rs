//! The commands around a hub as a user calls them: demo, scan, sweep, findings, export.

use assert_cmd::Command;
use orthoscope::demo::standin::Standin;
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::{TinySize, direction};
use orthoscope::tensor::DType;
use serde_json::Value;

use crate::program::program;
use crate::support::{TINY, ablated, bytes, open_settings, repository, tuned};

/// A hub with a base and one edited derivative of it.
fn one_edited() -> Standin {
    let base = TINY.llama(1);
    let repositories = vec![
        repository("org/base", &base, bytes(&base, "BF16")).with("README.md", "# Base\n"),
        repository("someone/edited", &base, bytes(&ablated(&base, 3, 1.0, RemovalKind::Plain), "BF16")),
    ];
    Standin::start(repositories, open_settings()).unwrap()
}

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
    let elsewhere = folder.path().join("kept.db");
    let mut command = program(folder.path(), "http://127.0.0.1:9");
    let text = answer(command.arg("demo").env("ORTHOSCOPE_INDEX", &elsewhere), 0);
    assert!(!elsewhere.exists(), "the demonstration's examinations are none of the user's");
    assert!(text.contains("orthogonalized") && text.contains("orthoscope-demo.db"), "{text}");
    // Into a pipe names go whole.
    let listed = run(&["findings", "list", "--index", "orthoscope-demo.db"]);
    assert!(listed.contains("hf:") && !listed.contains('…'), "{listed}");
    assert!(text.contains("trained further, with a card that names no base"), "{text}");

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
    // GGUF files and adapters are of their base's family.
    let stats: Value =
        serde_json::from_str(&run(&["stats", "--format", "json", "--index", "orthoscope-demo.db"])).unwrap();
    let families = stats["by"]["family"].as_array().unwrap();
    let unknown = families.iter().find(|family| family["label"] == "not known").unwrap();
    let incomparable = exported.iter().filter(|line| line["relation"] == "incomparable" && line["status"] != "failed");
    assert_eq!(unknown["examined"], incomparable.count(), "{families:?}");
    let rejudged = run(&["rejudge", "--all", "--index", "orthoscope-demo.db"]);
    assert!(rejudged.contains("0 differently"), "{rejudged}");
}

#[test]
fn a_scan_examines_uploads_and_folders_and_records_them() {
    let base = TINY.llama(1);
    let edited = ablated(&base, 3, 1.0, RemovalKind::Plain);
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

/// A watch may not end for weeks: what it cannot list is told when it happens, on standard error alone.
#[test]
fn a_watch_that_cannot_list_says_so_at_once_unless_told_to_be_quiet() {
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let output = program(folder.path(), NOWHERE)
            .env("ORTHOSCOPE_LOCAL_HUB", folder.path().join("not-there"))
            .args(["sweep", "--author", "local:someone", "--limit", "0", "--format", "json"])
            .args(more)
            .assert()
            .code(2)
            .get_output()
            .clone();
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let last = "orthoscope: not everything was done: ";
    let said = run(&["--watch", "1s"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("orthoscope: warning: not listed in full: asking local: "), "{said}");
    assert!(lines[1].starts_with(last), "{said}");
    // Without a watch the line at the end is near enough.
    for arguments in [&["--watch", "1s", "--quiet"][..], &[]] {
        let said = run(arguments);
        assert!(said.lines().count() == 1 && said.starts_with(last), "{arguments:?}: {said}");
    }
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
    write("edited", bytes(&ablated(&base, 3, 1.0, RemovalKind::Plain), "BF16"));
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
fn a_sweep_names_what_is_new_and_a_decision_is_made_from_the_command_line() {
    let (hub, folder) = (one_edited(), tempfile::tempdir().unwrap());
    let run = |status: i32, arguments: &[&str]| answer(program(folder.path(), hub.hub()).args(arguments), status);
    let sweep = ["sweep", "--base", "hf:org/base", "--format", "json"];
    let first: Value = serde_json::from_str(&run(1, &sweep)).unwrap();
    let news = first["news"].as_array().unwrap();
    assert_eq!(news.len(), 1, "{first}");
    assert_eq!((&news[0]["candidate"], &news[0]["outcome"]), (&"hf:someone/edited".into(), &"orthogonalized".into()));
    assert!(news[0]["before"].is_null() && run(0, &["findings", "list", "--new"]).contains("hf:someone/edited"));
    // Times are kept in seconds: what the next sweep makes is told from what this one made.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second: Value = serde_json::from_str(&run(0, &sweep)).unwrap();
    assert_eq!(second["news"], serde_json::json!([]), "{second}");
    assert!(run(0, &["sweep", "--base", "hf:org/base"]).contains("nothing new that needs a look"));
    assert!(run(0, &["findings", "list", "--new"]).starts_with("no findings in 0 examinations"));
    assert!(!folder.path().join("orthoscope.db.sweep-lock").exists());

    let decide = ["decide", "hf:someone/edited", "confirmed", "--by", "A. Moderator"];
    let told = run(0, &[&decide[..], &["--because", "as its card says"]].concat());
    assert!(told.contains("confirmed, by A. Moderator on 2"), "{told}");
    let listed: Value = serde_json::from_str(&run(0, &["findings", "list", "--format", "json"])).unwrap();
    assert!(listed.as_array().unwrap().iter().all(|row| row["examination"]["decision"] == "confirmed"), "{listed}");
    let report = run(0, &["report", "hf:someone/edited"]);
    assert!(report.contains("as its card says") && report.contains("A. Moderator"), "{report}");
    run(64, &["decide", "hf:someone/edited", "banned", "--by", "A. Moderator"]);
    run(64, &["decide", "hf:someone/edited", "confirmed", "--by", " "]);
    run(2, &["decide", "hf:someone/other", "confirmed", "--by", "A. Moderator"]);
    assert!(run(0, &["report", "hf:someone/edited", "--format", "json"]).matches("\"chain\"").count() == 1);
}

/// Times are kept in seconds, and people compare while a sweep runs: what is new is told by the sweep's own rows.
#[test]
fn what_is_compared_in_the_second_of_a_sweep_is_not_its_news() {
    let (hub, folder) = (one_edited(), folders());
    let index = folder.path().join("orthoscope.db");
    let run = |status: i32, arguments: &[&str]| answer(program(folder.path(), hub.hub()).args(arguments), status);
    run(1, &["compare", "base", "edited"]);
    let swept: Value = serde_json::from_str(&run(1, &["sweep", "--base", "hf:org/base", "--format", "json"])).unwrap();
    run(1, &["compare", "--base", "base", "edited", "--digests"]);
    // However fast it all was: as if it had been in one second.
    let connection = orthoscope::index::Index::open(&index).unwrap();
    connection
        .connection()
        .execute_batch(
            "UPDATE sweep_run SET started = (SELECT min(first_seen) FROM examination),
                 ended = (SELECT max(last_seen) FROM examination)",
        )
        .unwrap();
    drop(connection);
    let named = |news: &Value| -> Vec<String> {
        let rows = news.as_array().unwrap().iter();
        rows.map(|row| row["candidate"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(&swept["news"]), ["hf:someone/edited"]);
    let listed: Value = serde_json::from_str(&run(0, &["findings", "list", "--new", "--format", "json"])).unwrap();
    let rows = listed.as_array().unwrap();
    assert!(!rows.is_empty(), "{listed}");
    assert!(rows.iter().all(|row| row["examination"]["candidate"] == "hf:someone/edited"), "{listed}");
    let news = orthoscope::index::Index::open_read_only(&index).unwrap();
    let span = orthoscope::sweep::work::last_runs(&news, 1).unwrap().remove(0);
    let news = serde_json::to_value(news.news(span.started, span.ended.unwrap(), 10).unwrap()).unwrap();
    assert_eq!(named(&news), ["hf:someone/edited"]);
}

#[test]
fn a_dry_run_lists_what_a_sweep_would_examine_and_leaves_nothing_behind() {
    let (hub, folder) = (one_edited(), tempfile::tempdir().unwrap());
    let index = folder.path().join("orthoscope.db");
    let run = |status: i32, arguments: &[&str]| answer(program(folder.path(), hub.hub()).args(arguments), status);
    let dry = ["sweep", "--base", "hf:org/base", "--dry-run", "--format", "json"];
    let told: Value = serde_json::from_str(&run(0, &dry)).unwrap();
    let would = &told["would_examine"];
    assert_eq!((&would[0]["repository"], &would[0]["base"]), (&"hf:someone/edited".into(), &"hf:org/base".into()));
    assert_eq!(
        (would.as_array().unwrap().len(), &would[0]["waiting"], &told["this_run"]),
        (1, &false.into(), &1.into())
    );
    assert_eq!((&told["listed"]["seen"], &told["listed"]["queued"]), (&1.into(), &1.into()));
    let revision = would[0]["revision"].as_str().unwrap().to_owned();
    // Listings alone were asked for, and as many as are told.
    assert_eq!(told["requests"], hub.log().len(), "{told}");
    assert!(hub.log().iter().all(|entry| !entry.target.contains("/resolve/")), "{:?}", hub.log());
    assert!(!index.exists() && !folder.path().join("orthoscope.db.sweep-lock").exists());
    let text = run(0, &["sweep", "--base", "hf:org/base", "--dry-run", "--limit", "0"]);
    assert!(
        text.contains("would examine 1 repository, 0 of them in this run; nothing was examined or recorded"),
        "{text}"
    );
    assert!(text.contains(&format!("new      {}  hf:someone/edited  against hf:org/base", &revision[..12])), "{text}");

    // What a sweep left in its queue is told, and stays as it is; what it examined is not told.
    run(0, &["sweep", "--base", "hf:org/base", "--limit", "0"]);
    let queue = || {
        let connection = orthoscope::index::Index::open_read_only(&index).unwrap();
        let rows =
            "SELECT group_concat(repository || state || attempts || changed) || (SELECT count(*) FROM sweep_run) ||
             (SELECT count(*) FROM examination) FROM sweep_queue";
        connection.connection().query_row(rows, [], |row| row.get::<_, String>(0)).unwrap()
    };
    let before = queue();
    let told: Value = serde_json::from_str(&run(0, &dry)).unwrap();
    assert_eq!((&told["would_examine"][0]["waiting"], &told["listed"]["waiting"]), (&true.into(), &1.into()), "{told}");
    assert_eq!(queue(), before);
    run(1, &["sweep", "--base", "hf:org/base"]);
    let before = queue();
    let told: Value = serde_json::from_str(&run(0, &dry)).unwrap();
    assert_eq!((&told["would_examine"], &told["listed"]["unchanged"]), (&serde_json::json!([]), &1.into()), "{told}");
    assert_eq!(queue(), before);
    run(64, &["sweep", "--base", "hf:org/base", "--dry-run", "--watch", "1s"]);
    run(2, &["sweep", "--base", "hf:org/absent", "--dry-run"]);
}

#[test]
fn the_base_may_be_given_by_its_option_and_only_once() {
    let folder = folders();
    let run = |arguments: &[&str]| ran(folder.path(), NOWHERE, arguments);
    let found = |arguments: &[&str]| -> Value {
        let (status, text, errors) = run(&[&["compare", "--format", "json", "--no-record"], arguments].concat());
        assert_eq!(status, 1, "{errors}");
        serde_json::from_str(&text).unwrap()
    };
    for arguments in [&["base", "edited"][..], &["--base", "base", "edited"], &["edited", "--base", "base"]] {
        let found = found(arguments);
        assert_eq!((&found["base"]["source"], &found["candidate"]["source"]), (&"base".into(), &"edited".into()));
    }
    for (arguments, named) in [
        (&["base", "edited", "--base", "base"][..], "--base"),
        (&["--base", "base"], "<BASE>"),
        (&["base"], "<CANDIDATE>"),
    ] {
        let (status, text, errors) = run(&[&["compare"], arguments].concat());
        assert_eq!((status, text.as_str()), (64, ""), "{arguments:?}: {errors}");
        assert!(errors.contains(named) && errors.contains("--base <BASE> <CANDIDATE>"), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_sweep_needs_something_to_list_and_takes_bases_from_a_file() {
    let standin = one_edited();
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

/// Folders of tiny checkpoints: a base, one with a direction removed, one further trained and a copy.
fn folders() -> tempfile::TempDir {
    let base = TINY.llama(1);
    let folder = tempfile::tempdir().unwrap();
    for (name, model) in [
        ("base", base.clone()),
        ("edited", ablated(&base, 3, 0.7, RemovalKind::Plain)),
        ("tuned", tuned(&base, 4)),
        ("copy", base.clone()),
    ] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("model.safetensors"), bytes(&model, "BF16")).unwrap();
        std::fs::write(folder.path().join(name).join("config.json"), model.config.to_string()).unwrap();
    }
    folder
}

const NOWHERE: &str = "http://127.0.0.1:9";

/// Exit status, standard output and standard error.
fn ran(folder: &std::path::Path, hub: &str, arguments: &[&str]) -> (i32, String, String) {
    let output = program(folder, hub).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_is_not_there_is_refused_in_one_line_and_leaves_nothing_behind() {
    let folder = folders();
    for arguments in [
        &["compare", "base", "bass"][..],
        &["compare", "bass", "edited"],
        &["compare", "hf:org/base", "edited"],
        &["scan", "bass"],
        &["scan", "edited", "--base", "bass"],
        &["inspect", "bass"],
        &["verify", "bass"],
        &["serve", "--index", "absent.db"],
        &["findings", "list", "--index", "absent.db"],
        &["stats", "--index", "absent.db"],
        &["rejudge", "--index", "absent.db"],
        &["export", "--index", "absent.db"],
        &["sweep", "--base", "https://example.com/a/b"],
        &["evaluate", "absent.json"],
    ] {
        let (status, text, errors) = ran(folder.path(), NOWHERE, arguments);
        assert!(
            status == 64 || (status == 2 && arguments.contains(&"absent.db")) || arguments[0] == "evaluate",
            "{arguments:?}: {status}"
        );
        assert!(status != 0 && text.is_empty(), "{arguments:?}: {text}");
        assert!(errors.lines().count() <= 6 && !errors.contains("panicked"), "{arguments:?}: {errors}");
    }
    let left: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".db"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn words_that_can_match_nothing_are_refused_with_the_list_of_what_there_is() {
    let folder = folders();
    let run = |arguments: &[&str]| ran(folder.path(), NOWHERE, arguments);
    assert_eq!(run(&["compare", "base", "edited"]).0, 1);
    assert_eq!(run(&["compare", "base", "tuned"]).0, 0);
    for (option, listed) in [
        ("--signature", "out-rank1-global"),
        ("--base", "there are base"),
        ("--candidate", "there are"),
        ("--verdict", "orthogonalized"),
        ("--relation", "fine-tuned"),
        ("--status", "failed"),
        ("--severity", "medium"),
        ("--format", "json"),
    ] {
        for command in [&["findings", "list"][..], &["export"]] {
            let (status, text, errors) = run(&[command, &[option, "bogus"]].concat());
            assert_eq!((status, text.as_str()), (64, ""), "{command:?} {option}: {errors}");
            assert!(errors.contains(listed), "{command:?} {option}: {errors}");
        }
    }
    for arguments in [
        &["--format", "sarif", "doctor", "--offline"][..],
        &["--format", "bogus", "rejudge"],
        &["--format", "json", "explain", "edited"],
        &["--format", "json", "serve"],
        &["evaluate", "absent.json", "--form", "bogus"],
        &["sweep", "--base", "hf:a/b", "--also-on", "bogus"],
    ] {
        let (status, text, errors) = run(arguments);
        assert_eq!((status, text.as_str()), (64, ""), "{arguments:?}: {errors}");
    }
    // What there is, is taken.
    for (option, value) in
        [("--signature", "reflection"), ("--base", "base"), ("--candidate", "tuned"), ("--status", "failed")]
    {
        let (status, text, _) = run(&["findings", "list", "--severity", "high", option, value]);
        assert!(status == 0 && (text.starts_with("no findings in") || option == "--base"), "{option}: {text}");
    }
}

#[test]
fn completions_offer_the_words_that_options_take() {
    let folder = tempfile::tempdir().unwrap();
    let (status, script, _) = ran(folder.path(), NOWHERE, &["completions", "bash"]);
    assert_eq!(status, 0);
    for words in ["text table json jsonl html markdown csv parquet", "orthogonalized suspect clear inconclusive"] {
        assert!(script.contains(words), "{words}");
    }
    assert_eq!(ran(folder.path(), NOWHERE, &["manual", "pages"]).0, 0);
    assert!(folder.path().join("pages/orthoscope-findings-list.1").exists());
}

#[test]
fn two_architectures_are_named_where_nothing_could_be_compared() {
    let folder = folders();
    let mut other = TinySize { width: 48, ..TINY }.llama(50);
    other.config["model_type"] = "qwen3".into();
    other.write(&folder.path().join("other"), DType::named("BF16").unwrap(), 1).unwrap();
    let (status, text, errors) = ran(folder.path(), NOWHERE, &["compare", "base", "other"]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status == 2 && text.starts_with("NOT EXAMINED: no tensor could be compared"), "{status} {text} {errors}");
    assert!(text.contains("the base's architecture is llama, the candidate's qwen3"), "{text}");
}

#[test]
fn no_findings_is_told_with_what_was_examined_and_what_was_not() {
    let folder = folders();
    let run = |arguments: &[&str]| ran(folder.path(), NOWHERE, arguments);
    std::fs::create_dir(folder.path().join("broken")).unwrap();
    std::fs::write(folder.path().join("broken/model.safetensors"), b"\xff\xff\xff\xff\0\0\0\0 this is no header")
        .unwrap();
    assert_eq!(run(&["compare", "base", "broken"]).0, 2);
    let (_, text, _) = run(&["findings", "list"]);
    assert!(text.starts_with("no findings in 0 examinations; 1 more could not be made"), "{text}");
    assert_eq!(run(&["compare", "base", "copy"]).0, 0);
    let (_, text, _) = run(&["findings", "list"]);
    assert!(text.starts_with("no findings in 1 examination; 1 more could not be made"), "{text}");
    let (_, text, _) = run(&["findings", "list", "--status", "complete"]);
    assert_eq!(text, "no findings in 1 examination\n");
}

#[test]
fn swapped_sides_are_told_in_every_report() {
    let folder = folders();
    for format in ["text", "markdown", "html", "json"] {
        let (status, text, errors) = ran(folder.path(), NOWHERE, &["compare", "edited", "base", "--format", format]);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.to_lowercase().contains("swapped"), "{format}: {status} {text} {errors}");
        // Numbers that speak of a removal would accuse the original.
        for accusing in ["removal explains", "Recovered strength", "False positives:", "in docs/detector.md"] {
            assert!(!text.contains(accusing), "{format}: {accusing} in {text}");
        }
    }
    let (_, json, _) = ran(folder.path(), NOWHERE, &["compare", "edited", "base", "--format", "json"]);
    let found: Value = serde_json::from_str(&json).unwrap();
    assert!(found["orthogonalization"]["consistency"].as_f64().unwrap() < -0.85);
    assert_ne!(found["verdict"], "orthogonalized");

    // Where the edit reflected a direction in one writer, its inverse is a removal there.
    let base = TINY.llama(1);
    let mut reflected = ablated(&base, 3, 0.7, RemovalKind::Plain);
    let one = base.writers().remove(0);
    let r = direction(3, "removed", TINY.width);
    reflected.tensors.insert(one.clone(), base.tensors[&one].clone());
    edits::orthogonalize(reflected.tensors.get_mut(&one).unwrap(), &r, 1.3, RemovalKind::Plain);
    reflected.write(&folder.path().join("reflected"), DType::named("BF16").unwrap(), 1).unwrap();
    for format in ["text", "markdown", "html"] {
        let (_, text, _) = ran(folder.path(), NOWHERE, &["compare", "reflected", "base", "--format", format]);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("were base and candidate swapped"), "{format}: {text}");
        for accusing in ["removal explains", "Recovered strength", "False positives:", "Recipe", "The recipe"] {
            assert!(!text.contains(accusing), "{format}: {accusing} in {text}");
        }
    }
}

#[test]
fn a_clear_candidate_is_reported_by_its_name_and_by_its_examination() {
    let folder = folders();
    let run = |arguments: &[&str]| ran(folder.path(), NOWHERE, arguments);
    let (_, json, _) = run(&["compare", "base", "tuned", "--format", "json"]);
    let id = serde_json::from_str::<Value>(&json).unwrap()["id"].as_str().unwrap().to_owned();
    let (_, exported, _) = run(&["export"]);
    let exported: Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(exported["id"], id.as_str());
    assert!(exported["examined_at"].as_str().unwrap().ends_with('Z'), "{exported}");
    for what in ["tuned", "./tuned", "tuned/", &id, &id[..12]] {
        for arguments in [&["findings", "show", what][..], &["report", what, "--format", "markdown"]] {
            let (status, text, errors) = run(arguments);
            assert_eq!(status, 0, "{arguments:?}: {errors}");
            assert!(text.contains(&id) && text.to_lowercase().contains("clear"), "{arguments:?}: {text}");
            assert!(text.contains(exported["examined_at"].as_str().unwrap()), "{arguments:?}: {text}");
        }
    }
    assert_eq!(run(&["report", "--examination", &id, "--format", "html"]).0, 0);
    let (status, _, errors) = run(&["report", "nobody"]);
    assert!(status == 2 && errors.contains("no candidate is called so"), "{errors}");
    assert_eq!(run(&["compare", "base", "edited"]).0, 1);
    let (status, text, _) = run(&["explain", "edited"]);
    assert!(status == 0 && text.contains("signature"), "{text}");
}

/// A clear candidate's report has no number that speaks of a removal.
#[test]
fn a_clear_report_does_not_accuse() {
    let folder = folders();
    for candidate in ["tuned", "copy"] {
        let (status, text, _) = ran(folder.path(), NOWHERE, &["compare", "base", candidate]);
        assert_eq!(status, 0, "{text}");
        // A limit says of which writers it speaks.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let headline = words.split(" candidate ").next().unwrap();
        assert_eq!(headline.contains("in half of the changed writers"), headline.contains("λ"), "{headline}");
        assert_eq!(headline.contains("λ"), candidate == "tuned", "{headline}");
        for accusing in ["c = ", "λ over layers", "Recovered strength", "False positives", "removal explains"] {
            assert!(!text.contains(accusing), "{candidate}: {accusing} in {text}");
        }
        let (_, csv, _) = ran(folder.path(), NOWHERE, &["compare", "base", candidate, "--format", "csv"]);
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let headers = reader.headers().unwrap().clone();
        let row = reader.records().next().unwrap().unwrap();
        for column in ["lambda_min", "lambda_median", "lambda_max", "false_positive_limit"] {
            let at = headers.iter().position(|name| name == column).unwrap();
            assert_eq!(&row[at], "", "{candidate}: {column}");
        }
    }
}

#[test]
fn a_report_that_names_files_by_digest_computes_them_and_says_so_first() {
    let folder = folders();
    let (status, text, errors) =
        ran(folder.path(), NOWHERE, &["compare", "base", "edited", "--format", "in-toto", "--fail-on", "never"]);
    assert_eq!(status, 0, "{errors}");
    assert!(errors.starts_with("orthoscope: in-toto names files by their SHA-256"), "{errors}");
    assert!(text.contains("model.safetensors"), "{text}");
    let (_, without, _) = ran(folder.path(), NOWHERE, &["compare", "base", "tuned"]);
    assert!(without.contains("--digests"), "{without}");
    let (_, with, _) = ran(folder.path(), NOWHERE, &["compare", "base", "tuned", "--digests"]);
    assert!(!with.contains("not recorded of both sides") && with.contains("tuned --digests"), "{with}");
}

#[test]
fn output_options_are_spelled_alike_and_an_export_has_a_limit() {
    let folder = folders();
    let run = |arguments: &[&str]| ran(folder.path(), NOWHERE, arguments);
    run(&["compare", "base", "edited"]);
    run(&["compare", "base", "tuned"]);
    assert_eq!(run(&["export"]).1.lines().count(), 2);
    assert_eq!(run(&["export", "--limit", "1"]).1.lines().count(), 1);
    for command in [&["export"][..], &["report", "edited"], &["stats"]] {
        for option in ["-o", "--out", "--output"] {
            let (status, text, errors) = run(&[command, &[option, "written"]].concat());
            assert_eq!((status, text.as_str()), (0, ""), "{command:?} {option}: {errors}");
            std::fs::remove_file(folder.path().join("written")).unwrap();
        }
    }
}

#[test]
fn addresses_of_a_hubs_pages_stand_for_its_repositories() {
    let standin = one_edited();
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| ran(folder.path(), standin.hub(), arguments);
    let page = "https://huggingface.co/someone/edited";
    let (status, text, errors) =
        run(&["scan", page, "--base", "https://huggingface.co/org/base/tree/main", "--format", "json"]);
    assert_eq!(status, 1, "{errors}");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["candidate"]["source"], "hf:someone/edited");
    assert_eq!(found["uploader"], "someone");
    assert!(found["page"].as_str().unwrap().starts_with("https://huggingface.co/someone/edited/tree/"), "{text}");
    assert!(found["listing"]["downloads"].is_u64(), "{text}");
    assert!(found["false_positives"]["limit"].as_f64().unwrap() > 0.007, "{text}");
    let (status, text, _) = run(&["report", page, "--format", "markdown"]);
    assert!(status == 0 && text.contains("- uploader: someone") && text.contains("- downloads: "), "{text}");
    assert_eq!(run(&["findings", "list", "--candidate", page]).0, 0);
    assert_eq!(run(&["inspect", page]).0, 0);
    let (status, text, _) = run(&["sweep", "--base", "https://huggingface.co/org/base", "--fail-on", "never"]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status == 0 && text.contains("by the rate of the controls"), "{text}");
    let (status, _, errors) = run(&["scan", "https://example.com/someone/edited"]);
    assert!(status == 64 && errors.contains("hf:owner/name"), "{errors}");
}

#[test]
fn labels_are_a_closed_set_and_what_cannot_be_read_enters_no_rate() {
    let folder = folders();
    let labels = |label: &str, path: &str| {
        let rows = serde_json::json!([
            {"case": "one", "base": "base", "path": path, "label": label},
            {"case": "two", "base": "base", "path": "tuned", "label": "fine-tuned"},
        ]);
        std::fs::write(folder.path().join("labels.json"), rows.to_string()).unwrap();
        ran(folder.path(), NOWHERE, &["evaluate", "labels.json", "--format", "json"])
    };
    for wrong in ["orthogonalised", "ablated", "honest", ""] {
        let (status, text, errors) = labels(wrong, "edited");
        assert_eq!((status, text.as_str()), (64, ""), "{wrong}");
        assert!(errors.contains("orthogonalized, identical, repackaged, recast"), "{errors}");
    }
    let (status, text, errors) = labels("orthogonalized", "edited");
    assert_eq!(status, 0, "{errors}");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&found["detection"]["rate"], &found["auroc"]), (&1.0.into(), &1.0.into()));
    // A row a case, with nothing measured of what could not be read.
    for (path, status, verdict) in [("edited", 0, "orthogonalized"), ("absent", 2, "")] {
        labels("orthogonalized", path);
        let (code, csv, errors) = ran(folder.path(), NOWHERE, &["evaluate", "labels.json", "--format", "csv"]);
        assert_eq!(code, status, "{errors}");
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let headers = reader.headers().unwrap().clone();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let cell =
            |row: usize, name: &str| rows[row][headers.iter().position(|column| column == name).unwrap()].to_owned();
        assert_eq!((rows.len(), cell(0, "case"), cell(1, "label")), (2, "one".to_owned(), "fine-tuned".to_owned()));
        assert_eq!((cell(0, "verdict"), cell(1, "verdict")), (verdict.to_owned(), "clear".to_owned()));
        assert_eq!(cell(0, "statistic").is_empty(), verdict.is_empty(), "{csv}");
        assert_eq!(cell(0, "reason").contains("absent"), verdict.is_empty(), "{csv}");
    }
    let (status, text, _) = labels("orthogonalized", "absent");
    assert_eq!(status, 2, "{text}");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&found["failed"], &found["detection"]["of"], &found["false_positives"]["of"]),
        (&1.into(), &0.into(), &1.into())
    );
    assert!(found["auroc"].is_null() && found["detection"]["rate"].is_null(), "{text}");
    // Rates without cases of one kind correct nothing.
    std::fs::write(folder.path().join("rates.json"), &text).unwrap();
    ran(folder.path(), NOWHERE, &["compare", "base", "tuned"]);
    let (status, _, errors) = ran(folder.path(), NOWHERE, &["stats", "--rates", "rates.json"]);
    assert!(status == 64 && errors.contains("no detection is in it"), "{errors}");
}
