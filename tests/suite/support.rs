//! Worlds of tiny models for sweeps: derivatives of one base, as repositories of the stand-in hub.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orthoscope::demo::standin::{Gate, Repository, StandinSettings, Surprise};
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::{Model, TinySize, Weight, direction};
use orthoscope::diff::Unobserved;
use orthoscope::examination::Examination;
use orthoscope::examine::Examiner;
use orthoscope::examine::base::Bases;
use orthoscope::examine::settings::ExamineSettings;
use orthoscope::hub::{Client, ClientSettings, Environment, Meter};
use orthoscope::index::{ExaminationFilter, Index};
use orthoscope::signature::Catalogue;
use orthoscope::sweep::plan::Plan;
use orthoscope::tensor::DType;

/// The token of the tests' users; it opens nothing.
pub const TOKEN: &str = "hf_not_a_real_token_but_a_secret";

pub const TINY: TinySize = TinySize { width: 64, layers: 4, inner: 160, heads: 4, vocabulary: 96 };

const CARD: &str = "---\nbase_model: org/base\n---\n# Derivative\n";

/// What a repository of the test hub is, and how it must end.
pub const KINDS: &[(&str, &str)] = &[
    ("ablated", "orthogonalized"),
    ("half-ablated", "orthogonalized"),
    ("row-normalised", "orthogonalized"),
    ("tuned", "clear"),
    ("low-rank", "clear"),
    ("reupload", "clear"),
    ("renamed", "clear"),
    ("gated", "denied"),
    ("gated-reupload", "clear"),
    ("disabled", "disabled"),
    ("no-weights", "unsupported"),
    ("broken", "malformed"),
    ("deleted", "not-found"),
    ("moved", "moved"),
    ("other-size", "inconclusive"),
];

/// λ of one direction removed from every writer.
pub fn ablated(base: &Model, seed: u64, strength: f64, form: RemovalKind) -> Model {
    let width = base.config["hidden_size"].as_u64().unwrap() as usize;
    let r = direction(seed, "removed", width);
    let mut model = base.clone();
    for name in base.writers() {
        edits::orthogonalize(model.tensors.get_mut(&name).unwrap(), &r, strength, form);
    }
    model
}

/// With a block for multi-token prediction behind its blocks.
pub fn with_draft(base: &Model, layers: usize) -> Model {
    let mut model = base.clone();
    for (name, weight) in &base.tensors {
        if let Some(rest) = name.strip_prefix("model.layers.0.") {
            model.tensors.insert(format!("model.layers.{layers}.{rest}"), weight.clone());
        }
    }
    let width = base.config["hidden_size"].as_u64().unwrap() as usize;
    let joins = Weight { shape: vec![width, 2 * width], values: direction(66, "joins", 2 * width * width) };
    model.tensors.insert(format!("model.layers.{layers}.eh_proj.weight"), joins);
    model
}

/// Trained further.
pub fn tuned(base: &Model, seed: u64) -> Model {
    let mut model = base.clone();
    edits::fine_tune(&mut model, 0.02, seed);
    model
}

/// A LoRA merged into all linear layers.
pub fn low_rank(base: &Model, seed: u64, rank: usize) -> Model {
    let mut model = base.clone();
    for name in base.linear() {
        edits::add_low_rank(model.tensors.get_mut(&name).unwrap(), rank, 0.05, seed, &name);
    }
    model
}

/// Through 8 bits and back.
pub fn quantized(base: &Model) -> Model {
    let mut model = base.clone();
    for name in base.linear() {
        edits::quantize(model.tensors.get_mut(&name).unwrap(), 8);
    }
    model
}

/// The model as one safetensors file.
pub fn bytes(model: &Model, dtype: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path(), DType::named(dtype).unwrap(), 1).unwrap();
    std::fs::read(folder.path().join("model.safetensors")).unwrap()
}

/// A repository with these weights, a card and a configuration.
pub fn repository(name: impl Into<String>, model: &Model, weights: Vec<u8>) -> Repository {
    Repository::new(name)
        .with("README.md", CARD)
        .with("config.json", model.config.to_string())
        .with("model.safetensors", weights)
}

/// `org/base` and derivatives of it, one kind after another.
pub fn world(count: usize) -> Vec<Repository> {
    let base = TINY.llama(1);
    let base_bytes = bytes(&base, "BF16");
    let variants: Vec<Vec<u8>> =
        (0..4u64).map(|seed| bytes(&ablated(&base, seed + 10, 1.0, RemovalKind::Plain), "BF16")).collect();
    let half = bytes(&ablated(&base, 20, 0.5, RemovalKind::Plain), "BF16");
    let normalised = bytes(&ablated(&base, 21, 0.9, RemovalKind::RowNormalised), "BF16");
    let trained: Vec<Vec<u8>> = (0..3u64).map(|seed| bytes(&tuned(&base, seed + 30), "BF16")).collect();
    let merged = bytes(&low_rank(&base, 40, 2), "BF16");
    let other = bytes(&TinySize { width: 48, ..TINY }.llama(50), "BF16");
    let mut repositories = vec![repository("org/base", &base, base_bytes.clone()).with("README.md", "# Base\n")];
    for i in 0..count {
        let (kind, _) = KINDS[i % KINDS.len()];
        let weights = match kind {
            "ablated" => variants[i / KINDS.len() % 4].clone(),
            "half-ablated" => half.clone(),
            "row-normalised" => normalised.clone(),
            "low-rank" => merged.clone(),
            "reupload" | "gated-reupload" | "renamed" => base_bytes.clone(),
            "other-size" => other.clone(),
            "broken" => b"\xff\xff\xff\xff\0\0\0\0 this is no header".to_vec(),
            _ => trained[i % 3].clone(),
        };
        let mut repository = repository(format!("user{}/{kind}-{i:03}", i % 7), &base, weights);
        repository.created = format!("2026-02-{:02}T{:02}:{:02}:00.000Z", 1 + i / 600, i / 60 % 24, i % 60);
        match kind {
            "gated" | "gated-reupload" => repository.gate = Gate::Manual,
            "disabled" => repository.disabled = true,
            "deleted" => repository.surprise = Some(Surprise::Deleted),
            "moved" => repository.surprise = Some(Surprise::Moved),
            "no-weights" | "renamed" => {
                let weights = repository.files.remove("model.safetensors").unwrap();
                if kind == "renamed" {
                    repository.files.insert("other-name.safetensors".to_owned(), weights);
                }
            }
            _ => {}
        }
        repositories.push(repository);
    }
    repositories
}

/// The stand-in trusts the token, so that gated repositories stay shut and public ones open.
pub fn open_settings() -> StandinSettings {
    StandinSettings { token: Some(TOKEN.into()), ..StandinSettings::default() }
}

/// The variables of a user of the stand-in, whose caches are in the folder.
pub fn variables(hub: &str, folder: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("HF_ENDPOINT", hub.to_owned()),
        ("HF_TOKEN", TOKEN.to_owned()),
        ("HF_HOME", folder.join("hf").display().to_string()),
        ("ORTHOSCOPE_CACHE", folder.join("cache").display().to_string()),
    ]
}

/// Everything a sweep needs, impatient.
pub fn bench(hub: &str, folder: &Path, settings: ExamineSettings) -> Examiner {
    let environment = variables(hub, folder)
        .into_iter()
        .fold(Environment::empty(), |environment, (name, value)| environment.with(name, value));
    let client = Client::new(ClientSettings {
        cache: environment.own_cache(),
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(200),
        ..ClientSettings::default()
    })
    .unwrap();
    Examiner {
        client,
        environment,
        catalogue: catalogue(),
        observer: Arc::new(Unobserved),
        settings,
        night: Meter::new("the run's", None, None),
        bases: Bases::default(),
    }
}

pub fn catalogue() -> Arc<Catalogue> {
    Arc::new(Catalogue::builtin().unwrap())
}

pub fn plan() -> Plan {
    Plan { bases: vec!["hf:org/base".into()], ..Plan::default() }
}

/// Every examination of an index by candidate, commit and base, without what depends on retries and ports.
pub fn recorded(index: &Path, hub: &str) -> BTreeMap<String, Examination> {
    let index = Index::open(index).unwrap();
    let mut all = BTreeMap::new();
    for stored in index.export(&ExaminationFilter::default()) {
        let mut examination = stored.unwrap().examination;
        examination.coverage.bytes_read = 0;
        examination.reason = examination.reason.take().map(|reason| reason.replace(hub, "HUB"));
        let key = format!(
            "{}@{} against {}",
            examination.candidate.source,
            examination.candidate.revision.as_deref().unwrap_or_default(),
            examination.base.source
        );
        assert!(all.insert(key.clone(), examination).is_none(), "{key} is there twice");
    }
    all
}
