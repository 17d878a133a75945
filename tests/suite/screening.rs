//! A screen of a few rows over HTTP against the full comparison of the same pair.

use std::path::Path;
use std::time::Instant;

use orthoscope::checkpoint::folder;
use orthoscope::diff::Unobserved;
use orthoscope::examination::Examination;
use orthoscope::ids::RepoId;
use orthoscope::pipeline::{self, Named};
use orthoscope::standin::{Content, Repository, Standin};
use orthoscope::sweep::{Escalate, ExamineSettings};
use orthoscope::tensor::DType;
use orthoscope::tiny::edits::Form;
use orthoscope::tiny::{Model, Size};

use crate::support::{ablated, bench, catalogue, low_rank, open_settings, quantized, tuned};

/// One candidate, screened and compared.
pub struct Row {
    /// What it is.
    pub kind: &'static str,
    /// Its weights, in bytes.
    pub bytes: u64,
    /// Of them, read by the screen.
    pub read: u64,
    /// Requests of the screen.
    pub requests: u64,
    /// Seconds of the screen.
    pub screening: f64,
    /// Seconds of the full comparison.
    pub comparing: f64,
    /// What the screen says.
    pub screened: Examination,
    /// What the full comparison says.
    pub full: Examination,
}

type Make = fn(&Model) -> Model;

const CANDIDATES: &[(&str, Make)] = &[
    ("removed, λ = 0.2", |base| ablated(base, 20, 0.2, Form::Plain)),
    ("removed, λ = 0.5", |base| ablated(base, 21, 0.5, Form::Plain)),
    ("removed, λ = 1", |base| ablated(base, 22, 1.0, Form::Plain)),
    ("fine-tuned", |base| tuned(base, 30)),
    ("LoRA of rank 8 merged", |base| low_rank(base, 40, 8)),
    ("quantised, then cast", quantized),
];

/// Screens and compares a candidate of each kind with a base of that size.
pub fn run(size: Size, each: &mut dyn FnMut(&Row)) {
    let folder = tempfile::tempdir().unwrap();
    let base = size.llama(1);
    let written = |model: &Model, name: &str| {
        let path = folder.path().join(name);
        model.write(&path, DType::named("BF16").unwrap(), 1).unwrap();
        let mut repository = Repository::new(name).with("config.json", model.config.to_string());
        repository.files.insert("model.safetensors".into(), Content::disk(&path.join("model.safetensors")).unwrap());
        (repository.with("README.md", "---\nbase_model: org/base\n---\n"), path)
    };
    let (repository, base_path) = written(&base, "org/base");
    let standin = Standin::start(vec![repository], open_settings()).unwrap();
    let settings = ExamineSettings { escalate: Escalate::Never, ..ExamineSettings::default() };
    let bench = bench(standin.hub(), folder.path(), settings);
    for (at, (kind, make)) in CANDIDATES.iter().enumerate() {
        let name = format!("someone/candidate-{at}");
        let candidate = make(&base);
        let (repository, path) = written(&candidate, &name);
        drop(candidate);
        let bytes = repository.files["model.safetensors"].len();
        standin.push(repository);
        let id = RepoId { hub: "hf".into(), name: name.clone() };
        let hub = orthoscope::hub::of(&id, &bench.environment).unwrap();
        let facts = orthoscope::hub::fetch::info(&bench.client, hub.as_ref(), &name, None, &bench.night).unwrap();
        // The base is fetched once for all, so it is no part of the time of one.
        let base_name = "hf:org/base";
        bench
            .bases
            .get(base_name, None, &bench.client, &bench.environment, bench.stages.as_ref(), &bench.night)
            .unwrap();
        let start = Instant::now();
        let outcome = bench.examine(&id, &facts, Some(base_name)).unwrap();
        let screening = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let full = compared(&base_path, &path);
        let comparing = start.elapsed().as_secs_f64();
        standin.delete(&name);
        std::fs::remove_dir_all(&path).unwrap();
        each(&Row {
            kind,
            bytes,
            read: outcome.spent.weight_bytes,
            requests: outcome.spent.requests,
            screening,
            comparing,
            screened: outcome.examination,
            full,
        });
    }
}

fn compared(base: &Path, candidate: &Path) -> Examination {
    let (base, candidate) = (folder::open_path(base).unwrap(), folder::open_path(candidate).unwrap());
    let catalogue = catalogue();
    let settings = pipeline::Settings { catalogue: &catalogue, digests: false, claim: None, observer: &Unobserved };
    pipeline::compare((&base, &Named::local("base")), (&candidate, &Named::local("candidate")), &settings)
}

impl Row {
    /// One line for people.
    pub fn line(&self) -> String {
        let share = 100.0 * self.read as f64 / self.bytes as f64;
        format!(
            "{:22} screen {:?} in {:.1} s ({} of {} bytes, {share:.2} %, {} requests)  full {:?} in {:.1} s  {}",
            self.kind,
            self.screened.verdict,
            self.screening,
            self.read,
            self.bytes,
            self.requests,
            self.full.verdict,
            self.comparing,
            self.screened.because,
        )
    }
}

#[test]
fn a_screen_says_what_the_full_comparison_says() {
    let size = Size { width: 448, layers: 12, inner: 1792, heads: 28, vocabulary: 1000 };
    run(size, &mut |row| {
        println!("{}", row.line());
        assert_eq!(row.screened.verdict, row.full.verdict, "{}", row.line());
        // The least that a screen reads is more than half a percent of so small a model.
        assert!(row.read * 100 <= row.bytes, "{}", row.line());
    });
}
