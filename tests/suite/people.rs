//! What people see, through the program itself: names made to harm are harmless in every report, page and answer, and
//! `doctor` asks each hub with its own token only.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use assert_cmd::Command;
use orthoscope::demo::standin::{Standin, StandinSettings};
use orthoscope::examination::Examination;
use orthoscope::index::Index;
use orthoscope::index::decision::Choice;
use orthoscope::report::sanitise;
use serde_json::{Value, json};

use crate::support::{TOKEN, variables};

const SCRIPT: &str = "<script>alert(1)</script>";

/// Names that a publisher could try, and what each would do where it is not kept from it.
fn names() -> Vec<String> {
    vec![
        format!("hf:{SCRIPT}/x"),
        format!("hf:owner/{}", "A".repeat(1 << 20)),
        "hf:owner/\u{202e}gnp.exe\u{2066}".to_owned(),
        "hf:owner/\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m".to_owned(),
        "=1+1".to_owned(),
        "+1+1".to_owned(),
        "-1+cmd|' /C calc'!A0".to_owned(),
        "@SUM(1+1)".to_owned(),
        "\t=1+1".to_owned(),
        "\r=1+1".to_owned(),
        "hf:owner/`x`](javascript:alert(1)) ![y](http://z) | <img src=x onerror=alert(1)>\n# heading".to_owned(),
    ]
}

/// An examination in which everything that a repository controls is this text.
fn hostile(number: usize, name: &str) -> Examination {
    let digest = format!("sha256:{number:064x}");
    let imports = json!({ "imports": [name, format!("posix.system in {name}")] });
    let finding = |id: &str, evidence: Value| {
        json!({
            "id": format!("{id}{number:011x}"), "signature": name, "signature_hash": digest, "severity": "high",
            "status": "stable", "evidence": evidence,
        })
    };
    let side = json!({
        "source": name, "revision": name, "digest": digest, "format": name,
        "files": [{ "name": name, "bytes": 7, "sha256": digest }],
    });
    let mut whole = json!({
        "schema": "orthoscope/examination/1", "tool": { "version": name, "catalogue": name },
        "base": { "source": format!("{name}/base"), "revision": name, "digest": digest, "format": name, "files": [] },
        "candidate": side, "status": "partial", "reason": name, "depth": "full",
        "coverage": {
            "tensors": 3, "compared": 2, "identical": 1, "bytes_read": 10,
            "not_examined": [{ "tensor": name, "reason": name }],
        },
        "relation": "edited", "verdict": "orthogonalized", "because": name,
        "orthogonalization": {
            "p_value": 0.01, "consistency": 0.99, "explained": 0.9, "coordinates": name, "directions": 1, "scope": name,
            "tensors": 1, "layers": [0], "detection_limit": 0.01, "recipe": [name],
            "strength": [{ "layer": 0, "module": name, "lambda": 0.5, "stderr": 0.01 }],
        },
        "findings": [finding("a", json!({ name: { "value": 1.0, "min": 0.5 } })), finding("b", imports)],
        "anomalies": [{ "kind": name, "file": name, "tensor": name, "detail": name }],
        // A card's front matter with markup in it ends up here.
        "claim": {
            "base": name, "relation": name, "holds": false,
            "evidence": [{ "from": name, "says": format!("{name} <b onclick=alert(1)>card</b>") }],
        },
    });
    let mut variant = whole.clone();
    variant["candidate"]["variant"] = json!(name);
    whole["variants"] = json!([variant.clone(), variant]);
    serde_json::from_value(whole).unwrap()
}

fn orthoscope(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orthoscope"));
    command.current_dir(folder).env("ORTHOSCOPE_INDEX", folder.join("index.db")).env("HF_HUB_OFFLINE", "1");
    command
}

fn world() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::open(&folder.path().join("index.db")).unwrap();
    for (number, name) in names().iter().enumerate() {
        index.record(&hostile(number, name), "2026-01-02T03:04:05Z".parse().unwrap()).unwrap();
    }
    folder
}

/// Nothing in it can move a cursor, hide or reorder text, and the megabyte is told rather than shown.
fn assert_harmless(what: &str, text: &str, longest: usize) {
    let bad = text.chars().find(|c| *c != '\n' && sanitise::is_unsafe(*c));
    assert_eq!(bad, None, "{what}: {bad:?}");
    assert!(text.len() < longest, "{what}: {} bytes", text.len());
}

fn assert_no_markup(what: &str, page: &str) {
    for forbidden in [SCRIPT, "<script", "<img", "<b onclick", "javascript:alert(1))\""] {
        assert!(!page.contains(forbidden), "{what} has {forbidden}");
    }
}

#[test]
fn names_made_to_harm_are_harmless_in_every_report() {
    let folder = world();
    let run = |arguments: &[&str]| {
        let output = orthoscope(folder.path()).args(arguments).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
        // `doctor` may have something to say; the others have only findings to tell of.
        let worst = if arguments[0] == "doctor" { 2 } else { 1 };
        assert!(output.status.code().is_some_and(|code| code <= worst), "{arguments:?}: {errors}");
        assert_harmless("standard error", &errors, 5_000);
        assert!(!output.stdout.is_empty() || arguments.contains(&"--out"), "{arguments:?} said nothing: {errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    for format in ["table", "html", "markdown", "csv", "sarif"] {
        let text = run(&["export", "--format", format]);
        assert_harmless(format, &text, 1_000_000);
        if format == "html" {
            assert_no_markup(format, &text);
        }
        if format == "csv" {
            for cell in csv::ReaderBuilder::new()
                .from_reader(text.as_bytes())
                .records()
                .flat_map(|row| row.unwrap().iter().map(str::to_owned).collect::<Vec<_>>())
            {
                let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
                assert!(!formula, "{cell:?}");
            }
        }
        if format == "sarif" {
            let log: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(log["runs"][0]["results"].as_array().unwrap().len(), 2 * names().len());
        }
    }
    // Records are whole: the same strings, spelled so that a terminal shows them.
    for format in ["json", "jsonl", "in-toto"] {
        let text = run(&["export", "--format", format]);
        assert_harmless(format, &text, 200 << 20);
    }
    assert_eq!(run(&["export", "--format", "in-toto"]).lines().count(), names().len());
    for arguments in [&["findings", "list"][..], &["stats"], &["doctor", "--quick"]] {
        assert_harmless(&arguments.join(" "), &run(arguments), 100_000);
    }
    let page = run(&["stats", "--format", "html", "--charts", "charts"]);
    assert_harmless("stats", &page, 300_000);
    assert_no_markup("stats", &page);
    for file in std::fs::read_dir(folder.path().join("charts")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending != "png") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert_harmless(&path.display().to_string(), &text, 100_000);
            assert_no_markup("a chart", if path.extension().unwrap() == "svg" { &text } else { "" });
        }
    }
    for number in 0..names().len() {
        for id in [format!("a{number:011x}"), format!("b{number:011x}")] {
            assert_harmless("explain", &run(&["explain", &id]), 20_000);
            for format in ["text", "html", "markdown"] {
                let text = run(&["report", "--finding", &id, "--format", format]);
                assert_harmless(format, &text, 100_000);
                if format == "html" {
                    assert_no_markup(format, &text);
                }
            }
        }
    }
}

/// What was decided is in whatever is made of the examination afterwards.
#[test]
fn a_decision_is_in_every_report_export_and_list() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::open(&folder.path().join("index.db")).unwrap();
    let time = "2026-01-02T03:04:05Z".parse().unwrap();
    let decided = index.record(&hostile(1, "hf:owner/plain"), time).unwrap().id.hex();
    // Another one of the same repository, which nobody decided on.
    let mut other = hostile(2, "hf:owner/plain");
    other.coverage.tensors = 5;
    index.record(&other, time).unwrap();
    index.decide(&decided, "A. Moderator", Choice::SecondLook, "somebody else first", time).unwrap();
    index.decide(&decided, "B. Lead", Choice::Dismissed, "declared on the card", time).unwrap();
    drop(index);
    let run = |arguments: &[&str]| {
        let output = orthoscope(folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let finding = format!("a{:011x}", 1);
    for format in ["text", "html", "markdown", "json", "jsonl", "sarif", "csv"] {
        let exported = run(&["export", "--format", if format == "text" { "markdown" } else { format }]);
        for text in [
            run(&["report", "--finding", &finding, "--format", format]),
            run(&["findings", "show", &finding, "--format", format]),
            exported,
        ] {
            for needed in ["dismissed", "B. Lead", "declared on the card"] {
                assert!(text.matches(needed).count() >= 1, "{format} lacks {needed}: {text}");
            }
            assert_eq!(text.contains("somebody else first"), format != "csv", "{format}");
        }
    }
    // Decisions are on an examination, not on all of its repository.
    let exported = run(&["export", "--format", "jsonl"]);
    let records: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decisions: Vec<usize> = records.iter().map(|one| one["decisions"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!((records.len(), decisions.iter().sum::<usize>(), decisions.iter().max()), (2, 2, Some(&2)));
    let csv = run(&["export", "--format", "csv"]);
    let of = |name: &str| {
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let column = reader.headers().unwrap().iter().position(|column| column == name).unwrap();
        let mut cells: Vec<String> = reader.records().map(|row| row.unwrap()[column].to_owned()).collect();
        cells.sort();
        cells
    };
    assert_eq!(of("decision"), ["dismissed", "open"]);
    assert_eq!(of("decided_by"), ["", "B. Lead"]);
    assert_eq!(of("decided_at"), ["", "2026-01-02T03:04:05Z"]);
    assert_eq!(of("examined_at"), ["2026-01-02T03:04:05Z"; 2]);
    assert_eq!(of("uploader"), ["owner"; 2]);
    let list = run(&["findings", "list"]);
    assert_eq!((list.matches("dismissed").count(), list.matches("open").count()), (2, 2), "{list}");
    let list: Vec<Value> = serde_json::from_str(&run(&["findings", "list", "--format", "json"])).unwrap();
    assert!(list.iter().any(|row| row["examination"]["decision"] == "dismissed"), "{list:?}");
}

/// The server, ended with the test.
struct Served {
    child: Child,
    address: String,
    said: BufReader<std::process::ChildStdout>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_orthoscope"))
            .args(["serve", "--bind", "127.0.0.1:0", "--index"])
            .arg(folder.join("index.db"))
            .args(arguments)
            .env_remove("ORTHOSCOPE_TOKEN")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, address, said }
    }

    /// The whole answer to a request with these further headers.
    fn ask(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", self.address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        let answer = self.ask(path, "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {}", &answer[..answer.len().min(400)]);
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

/// What follows the end of an attribute's value.
fn after(rest: &str) -> &str {
    rest.split_once('"').unwrap().1
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[test]
fn names_made_to_harm_are_harmless_on_every_page() {
    let folder = world();
    let served = Served::start(folder.path(), &["--no-token"]);
    let mut pages = vec!["/".to_owned(), "/queue".to_owned(), "/prevalence".to_owned(), "/decisions".to_owned()];
    // A name of a megabyte fits no address.
    for name in names().iter().filter(|name| name.len() < 1000) {
        pages.push(format!("/repository?source={}", encoded(name)));
        pages.push(format!("/tree?base={}", encoded(&format!("{name}/base"))));
        pages.push(format!("/queue?text={}", encoded(name)));
    }
    let list: Value = serde_json::from_str(&served.get("/api/v1/examinations?rows=100")).unwrap();
    for row in list["items"].as_array().unwrap() {
        pages.push(format!("/examination/{}", row["id"].as_str().unwrap()));
    }
    assert_eq!(list["items"].as_array().unwrap().len(), names().len());
    for path in &pages {
        let page = served.get(path);
        // What a form sends back is the name itself; it is never shown.
        let shown: String =
            page.split(" value=\"").enumerate().map(|(n, rest)| if n == 0 { rest } else { after(rest) }).collect();
        assert_harmless(path, &shown, 400_000);
        assert_no_markup(path, &page);
    }
    // Refused with the words there are, which are no better.
    for name in names().iter().filter(|name| name.len() < 1000) {
        for field in ["base", "family", "uploader", "signature", "outcome", name] {
            let path = format!("/queue?{}=x{}", encoded(field), encoded(name));
            let answer = served.ask(&path, "");
            assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
            let page = answer.split_once("\r\n\r\n").unwrap().1;
            assert_harmless(&path, page, 100_000);
            assert_no_markup(&path, page);
        }
    }
    for path in ["/api/v1/examinations?rows=100", "/api/v1/prevalence"] {
        let answer = served.get(path);
        assert!(serde_json::from_str::<Value>(&answer).is_ok(), "{path}");
        assert!(!answer.contains('\u{1b}'), "{path}");
    }
}

#[test]
fn loopback_asks_for_a_token_that_is_printed_with_the_address_to_open() {
    let folder = world();
    let mut served = Served::start(folder.path(), &[]);
    let mut line = String::new();
    served.said.read_line(&mut line).unwrap();
    let link = line.trim().strip_prefix(&format!("open http://{}", served.address)).unwrap().to_owned();
    assert!(served.ask("/api/v1/examinations", "").starts_with("HTTP/1.1 401"));
    let inside = served.ask(&link, "");
    let cookie = inside.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let pair = cookie.split(';').next().unwrap();
    assert!(served.ask("/api/v1/examinations", &format!("Cookie: {pair}\r\n")).starts_with("HTTP/1.1 200"));
    let token = link.split_once("token=").unwrap().1;
    assert!(served.ask("/queue", &format!("Authorization: Bearer {token}\r\n")).starts_with("HTTP/1.1 200"));
    assert!(served.ask("/queue", "Authorization: Bearer another-one-of-some-length\r\n").starts_with("HTTP/1.1 303"));
}

/// A visitor who says nothing does not keep the server from ending.
#[cfg(unix)]
#[test]
fn a_request_to_end_ends_the_server_whoever_is_connected() {
    let folder = world();
    let mut served = Served::start(folder.path(), &["--no-token"]);
    let mut silent = TcpStream::connect(&served.address).unwrap();
    silent.write_all(b"GET / HT").unwrap();
    // Answered after the silent one was accepted.
    served.get("/healthz");
    let number = served.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &number]).status().unwrap().success());
    assert_eq!(served.child.wait().unwrap().code(), Some(0));
}

/// An index with one examination that changed on disk and one of which no digest is known.
fn damaged() -> tempfile::TempDir {
    let folder = world();
    let mut index = Index::open(&folder.path().join("index.db")).unwrap();
    let mut bare = hostile(99, "a folder");
    bare.candidate.files.clear();
    bare.candidate.revision = None;
    index.record(&bare, "2026-01-02T03:04:05Z".parse().unwrap()).unwrap();
    index.connection().execute_batch("UPDATE examination SET because = because || '.' WHERE key = 3").unwrap();
    folder
}

#[test]
fn an_export_leaves_out_what_is_broken_and_says_so() {
    let folder = damaged();
    let run = |arguments: &[&str]| {
        let output = orthoscope(folder.path()).args(arguments).assert().code(2).get_output().clone();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let all = names().len() + 1;
    for format in ["jsonl", "csv", "sarif", "table"] {
        let (text, errors) = run(&["export", "--format", format]);
        assert!(errors.contains(&format!("left out 1 of {all} that cannot be read")), "{format}: {errors}");
        assert!(errors.contains("its rows are not what was written"), "{format}: {errors}");
        if format == "jsonl" {
            assert_eq!(text.lines().count(), all - 1);
        }
    }
    let (text, errors) = run(&["export", "--format", "in-toto"]);
    assert_eq!(text.lines().count(), all - 2);
    assert!(errors.contains(&format!("left out 1 of {all}: no file digest and no commit is known")), "{errors}");
    let (text, _) = run(&["doctor", "--offline"]);
    assert!(text.contains("1 examinations are broken"), "{text}");
}

#[test]
fn doctor_asks_each_hub_with_its_own_token_only() {
    let folder = tempfile::tempdir().unwrap();
    let hugging =
        Standin::start(Vec::new(), StandinSettings { token: Some(TOKEN.to_owned()), ..StandinSettings::default() })
            .unwrap();
    let other = Standin::start(Vec::new(), StandinSettings { api_quota: None, ..StandinSettings::default() }).unwrap();
    let (hub, second) = (hugging.hub().to_owned(), other.hub().to_owned());
    let run = |token: &str, arguments: &[&str], status: i32| {
        let output = Command::new(env!("CARGO_BIN_EXE_orthoscope"))
            .current_dir(folder.path())
            .envs(variables(&hub, folder.path()))
            .env("MODELSCOPE_ENDPOINT", &second)
            .env_remove("MODELSCOPE_API_TOKEN")
            .env_remove("ORTHOSCOPE_INDEX")
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_TOKEN", token)
            .args(["doctor", "--format", "json"])
            .args(arguments)
            .assert()
            .code(status)
            .get_output()
            .clone();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains(token), "{text}");
        serde_json::from_str::<Vec<Value>>(&text).unwrap()
    };
    let told = |checks: &[Value], what: &str| -> Vec<(String, String)> {
        let of =
            |check: &Value| (check["state"].as_str().unwrap().to_owned(), check["told"].as_str().unwrap().to_owned());
        checks.iter().filter(|check| check["what"] == what).map(of).collect()
    };

    let checks = run(TOKEN, &[], 0);
    let network = told(&checks, "network");
    assert_eq!(network.len(), 2, "{network:?}");
    assert!(network.iter().all(|(state, told)| state == "good" && told.contains(" ms")), "{network:?}");
    let tokens = told(&checks, "token");
    assert_eq!(tokens[0], ("good".to_owned(), "Hugging Face takes the one from HF_TOKEN".to_owned()));
    assert_eq!(tokens[1].0, "note");
    let quotas = told(&checks, "quota");
    assert!(quotas[0].1.contains("999 requests left"), "{quotas:?}");
    assert!(quotas[1].1.contains("states none"), "{quotas:?}");
    assert!(told(&checks, "own cache")[0].1.contains("free"), "{checks:?}");
    // One request to each, the token to its own hub alone.
    assert_eq!(hugging.log().iter().map(|entry| entry.credentials).collect::<Vec<_>>(), [true]);
    assert_eq!(other.log().iter().map(|entry| entry.credentials).collect::<Vec<_>>(), [false]);

    let refused = run("hf_withdrawn", &[], 2);
    assert_eq!(told(&refused, "token")[0].0, "bad");
    let requests = hugging.log().len() + other.log().len();
    let offline = run(TOKEN, &["--offline"], 0);
    assert!(told(&offline, "network")[0].1.contains("offline by request"));
    assert_eq!(hugging.log().len() + other.log().len(), requests);
    drop((hugging, other));
    let nowhere = run(TOKEN, &[], 2);
    assert!(told(&nowhere, "network").iter().all(|(state, _)| state == "bad"), "{nowhere:?}");
}
