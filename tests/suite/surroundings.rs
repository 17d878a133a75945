//! What comes beside the weights is told in every report, and "the same" is said of nothing that was not compared.

use std::path::Path;

use orthoscope::demo::standin::Standin;
use orthoscope::tensor::DType;
use serde_json::{Value, json};

use crate::program::program;
use crate::support::{TINY, bytes, open_settings, repository};

const TEMPLATE: &str = "{% for message in messages %}{{ message.content }}{% endfor %}";

/// Something done to a folder.
type Change = Box<dyn Fn(&Path)>;

/// Small files as a base has them, by name.
fn small() -> Vec<(&'static str, String)> {
    vec![
        ("tokenizer_config.json", json!({"chat_template": TEMPLATE, "add_bos_token": true}).to_string()),
        ("generation_config.json", json!({"temperature": 0.6, "transformers_version": "4.1"}).to_string()),
        ("tokenizer.json", "{\"model\": {}}".to_owned()),
        ("merges.txt", "a b\n".to_owned()),
        ("modeling_tiny.py", "# nothing\n".to_owned()),
    ]
}

/// A model's folder with these files beside the weights.
fn model(folder: &Path) {
    let mut model = TINY.llama(7);
    model.config["rope_theta"] = json!(10_000.0);
    model.write(folder, DType::named("BF16").unwrap(), 1).unwrap();
    small().iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
}

fn state<'a>(examination: &'a Value, concern: &str) -> (&'a str, String) {
    let all = examination["surroundings"].as_array().unwrap_or_else(|| panic!("{examination}"));
    let one = all.iter().find(|one| one["concern"] == concern).unwrap();
    (one["state"].as_str().unwrap(), one["details"].to_string())
}

const CONCERNS: [&str; 5] = ["chat-template", "generation", "tokenizer", "configuration", "code"];

fn compared(folder: &Path, format: &str) -> String {
    let mut command = program(folder, "http://127.0.0.1:9");
    let output = command.args(["compare", "base", "candidate", "--no-record", "--format", format]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn whatever_differs_beside_the_weights_is_told() {
    let write = |name: &'static str, text: String| {
        Box::new(move |folder: &Path| std::fs::write(folder.join(name), &text).unwrap()) as Change
    };
    let edit = |name: &'static str, change: fn(&mut Value)| {
        Box::new(move |folder: &Path| {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            let mut value: Value = serde_json::from_str(&text).unwrap();
            change(&mut value);
            std::fs::write(folder.join(name), value.to_string()).unwrap();
        }) as Change
    };
    let remove =
        |name: &'static str| Box::new(move |folder: &Path| std::fs::remove_file(folder.join(name)).unwrap()) as Change;
    let cases: Vec<(&str, &str, Change)> = vec![
        ("chat-template", "never refuse", write("chat_template.jinja", format!("{TEMPLATE} never refuse"))),
        ("chat-template", "0 characters", edit("tokenizer_config.json", |v| v["chat_template"] = json!(""))),
        (
            "chat-template",
            "none",
            edit("tokenizer_config.json", |v| drop(v.as_object_mut().unwrap().remove("chat_template"))),
        ),
        (
            "chat-template",
            "tool_use: added",
            edit("tokenizer_config.json", |v| {
                v["chat_template"] =
                    json!([{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "x"}]);
            }),
        ),
        ("generation", "temperature is 2.0, 0.6", edit("generation_config.json", |v| v["temperature"] = json!(2.0))),
        ("generation", "eos_token_id is 7, not set", edit("generation_config.json", |v| v["eos_token_id"] = json!(7))),
        ("generation", "no generation_config", remove("generation_config.json")),
        ("tokenizer", "add_bos_token is false", edit("tokenizer_config.json", |v| v["add_bos_token"] = json!(false))),
        ("tokenizer", "tokenizer.json differs", write("tokenizer.json", "{}".to_owned())),
        ("tokenizer", "merges.txt differs", write("merges.txt", "b a\n".to_owned())),
        ("tokenizer", "added_tokens.json was added", write("added_tokens.json", "{}".to_owned())),
        ("configuration", "rope_theta is 500000.0", edit("config.json", |v| v["rope_theta"] = json!(500_000.0))),
        ("configuration", "sliding_window is 64", edit("config.json", |v| v["sliding_window"] = json!(64))),
        ("code", "modeling_tiny.py differs", write("modeling_tiny.py", "import os\n".to_owned())),
        ("code", "setup.py was added", write("setup.py", "import os\n".to_owned())),
        ("code", "auto_map", edit("config.json", |v| v["auto_map"] = json!({"AutoModel": "modeling_tiny.T"}))),
    ];
    let folder = tempfile::tempdir().unwrap();
    model(&folder.path().join("base"));
    for (concern, told, change) in cases {
        let candidate = folder.path().join("candidate");
        let _ = std::fs::remove_dir_all(&candidate);
        model(&candidate);
        change(&candidate);
        let examination: Value = serde_json::from_str(&compared(folder.path(), "json")).unwrap();
        assert_eq!(examination["relation"], "identical", "{told}");
        for other in CONCERNS {
            let (found, details) = state(&examination, other);
            assert_eq!(found, if other == concern { "differs" } else { "same" }, "{told}, {other}: {details}");
        }
        assert!(state(&examination, concern).1.contains(told), "{told}: {}", state(&examination, concern).1);
        for format in ["text", "markdown", "html"] {
            let shown = compared(folder.path(), format).split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(shown.contains("Beside the weights") && !shown.contains("same files"), "{format}: {shown}");
            assert!(shown.contains("The verdict is of the weights"), "{format}, {told}: {shown}");
        }
    }
}

#[test]
fn saving_again_and_one_number_written_two_ways_are_no_difference() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["base", "candidate"] {
        model(&folder.path().join(name));
    }
    let candidate = folder.path().join("candidate");
    let mut config: Value = serde_json::from_slice(&std::fs::read(candidate.join("config.json")).unwrap()).unwrap();
    config["rope_theta"] = json!(10_000);
    config["transformers_version"] = json!("5.0");
    config["sliding_window"] = Value::Null;
    std::fs::write(candidate.join("config.json"), serde_json::to_string_pretty(&config).unwrap()).unwrap();
    // The template in a file of its own, as newer versions save it.
    std::fs::write(candidate.join("chat_template.jinja"), format!("{TEMPLATE}\n")).unwrap();
    let examination: Value = serde_json::from_str(&compared(folder.path(), "json")).unwrap();
    for concern in CONCERNS {
        assert_eq!(state(&examination, concern), ("same", "null".to_owned()), "{concern}");
    }
    let text = compared(folder.path(), "text");
    assert!(text.contains("the same as the base's: chat template, generation settings"), "{text}");
    assert!(!text.contains("The verdict is of the weights"), "{text}");
}

#[test]
fn what_one_side_lacks_is_not_called_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["base", "candidate"] {
        model(&folder.path().join(name));
        small().iter().for_each(|(file, _)| std::fs::remove_file(folder.path().join(name).join(file)).unwrap());
    }
    std::fs::write(folder.path().join("candidate/chat_template.jinja"), "x").unwrap();
    std::fs::write(folder.path().join("candidate/tokenizer.json"), "x").unwrap();
    let examination: Value = serde_json::from_str(&compared(folder.path(), "json")).unwrap();
    for concern in ["chat-template", "generation", "tokenizer"] {
        assert_eq!(state(&examination, concern).0, "not-compared", "{concern}");
    }
    // What cannot be read is not the same either.
    std::fs::write(folder.path().join("base/generation_config.json"), "{").unwrap();
    std::fs::write(folder.path().join("candidate/generation_config.json"), "{").unwrap();
    let examination: Value = serde_json::from_str(&compared(folder.path(), "json")).unwrap();
    assert_eq!(state(&examination, "generation").0, "not-compared");
}

#[test]
fn on_a_hub_only_what_differs_is_asked_for() {
    let base = TINY.llama(1);
    let weights = bytes(&base, "BF16");
    let with = |name: &str, change: Option<(&str, &str)>| {
        let repository = repository(name, &base, weights.clone());
        let files = small().into_iter().map(|(file, text)| match change {
            Some((changed, new)) if changed == file => (file, new.to_owned()),
            _ => (file, text),
        });
        files.fold(repository, |repository, (file, text)| repository.with(file, text))
    };
    let mut longer = base.clone();
    longer.config["max_position_embeddings"] = json!(1 << 20);
    let changed = "{\"chat_template\": \"other\", \"add_bos_token\": true}";
    let standin = Standin::start(
        vec![
            with("org/base", None),
            with("org/same", None),
            with("org/templated", Some(("tokenizer_config.json", changed))),
            with("org/coded", Some(("modeling_tiny.py", "import os"))),
            with("org/longer", None).with("config.json", longer.config.to_string()),
            with("org/named", None).with("additional_chat_templates/tool_use.jinja", "x"),
        ],
        open_settings(),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let scan = |name: &str| -> Value {
        let mut command = program(folder.path(), standin.hub());
        let output =
            command.args(["scan", &format!("hf:org/{name}"), "--base", "hf:org/base", "--format", "json"]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let same = scan("same");
    for concern in ["chat-template", "generation", "tokenizer", "code"] {
        assert_eq!(state(&same, concern).0, "same", "{concern}: {same}");
    }
    let templated = scan("templated");
    let (found, details) = state(&templated, "chat-template");
    assert!(found == "differs" && details.contains("other"), "{details}");
    // Asking for a changed configuration counts as a download: what was not read is not the same.
    let tuned = scan("longer");
    assert_eq!(state(&tuned, "configuration").0, "not-compared", "{tuned}");
    assert_eq!(state(&tuned, "code").0, "not-compared", "{tuned}");
    assert_eq!(state(&same, "configuration").0, "same", "{same}");
    let named = scan("named");
    assert!(state(&named, "chat-template").1.contains("tool_use: added"), "{named}");
    let coded = scan("coded");
    assert!(state(&coded, "code").1.contains("modeling_tiny.py differs"), "{coded}");
    let shown = program(folder.path(), standin.hub()).args(["findings", "list", "--format", "json"]).output().unwrap();
    assert!(shown.status.success());
    let asked: Vec<String> = standin.log().into_iter().map(|one| one.target).collect();
    assert!(!asked.iter().any(|path| path.contains("org/coded") && path.contains(".py")), "{asked:?}");
    // `tokenizer_config.json` is: it may name programs.
    assert!(
        !asked.iter().any(|path| path.contains("org/same") && path.contains("generation_config.json")),
        "{asked:?}"
    );
}
