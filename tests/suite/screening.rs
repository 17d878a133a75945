//! A screen of a few rows over HTTP against the full comparison of the same pair.

use std::path::Path;
use std::time::Instant;

use orthoscope::checkpoint::folder;
use orthoscope::demo::standin::{FileContent, Repository, Standin};
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::{Model, TinySize, Weight};
use orthoscope::diff::Unobserved;
use orthoscope::examination::Examination;
#[cfg(test)]
use orthoscope::examination::Verdict;
use orthoscope::examine;
use orthoscope::examine::settings::{Escalate, ExamineSettings};
use orthoscope::examine::sides::Named;
use orthoscope::ids::RepoId;
use orthoscope::tensor::DType;

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

/// Makes a candidate of the base.
pub type Make = fn(&Model) -> Model;

/// What examples and tests compare in size and time.
pub const CANDIDATES: &[(&str, Make)] = &[
    ("removed, λ = 0.2", |base| ablated(base, 20, 0.2, RemovalKind::Plain)),
    ("removed, λ = 0.5", |base| ablated(base, 21, 0.5, RemovalKind::Plain)),
    ("removed, λ = 1", |base| ablated(base, 22, 1.0, RemovalKind::Plain)),
    ("fine-tuned", |base| tuned(base, 30)),
    ("LoRA of rank 8 merged", |base| low_rank(base, 40, 8)),
    ("quantised, then cast", quantized),
];

fn each_writer(base: Model, change: impl Fn(&str, &mut Weight)) -> Model {
    let mut model = base;
    for name in model.writers() {
        change(&name, model.tensors.get_mut(&name).unwrap());
    }
    model
}

/// A change of that rank in every writer, as many times as loud as a whole removal.
fn louder(base: Model, rank: usize, times: f64) -> Model {
    let size = times / (base.config["hidden_size"].as_f64().unwrap()).sqrt();
    each_writer(base, |name, weight| edits::add_low_rank(weight, rank, size, 51, name))
}

/// Sixteen pairs of neurons of every layer change places: the outputs stay.
fn swapped(base: Model) -> Model {
    let mut model = base;
    let names: Vec<String> = model.linear().into_iter().filter(|name| name.contains("mlp")).collect();
    for name in names {
        let weight = model.tensors.get_mut(&name).unwrap();
        let columns = weight.shape[1];
        for (a, b) in (0..16).map(|pair| (5 * pair, 5 * pair + 2)) {
            if name.contains("down_proj") {
                weight.values.chunks_exact_mut(columns).for_each(|row| row.swap(a, b));
            } else {
                (0..columns).for_each(|at| weight.values.swap(a * columns + at, b * columns + at));
            }
        }
    }
    model
}

/// A few input columns of every writer hold something else.
fn noisy_columns(base: Model) -> Model {
    each_writer(base, |name, weight| {
        let columns = weight.shape[1];
        let mut other = weight.clone();
        edits::add_noise(&mut other, 2.0, 52, name);
        for (at, (value, other)) in weight.values.iter_mut().zip(&other.values).enumerate() {
            if (at % columns).is_multiple_of(41) {
                *value = *other;
            }
        }
    })
}

fn half(base: &Model) -> Model {
    ablated(base, 23, 0.5, RemovalKind::Plain)
}

/// Edited, and hidden under something louder.
const HIDDEN: &[(&str, Make)] = &[
    ("removed, swapped neurons", |base| swapped(half(base))),
    ("removed, noisy columns", |base| noisy_columns(half(base))),
    ("removed, rank 1, 30 times", |base| louder(half(base), 1, 30.0)),
    ("removed, rank 8, 10 times", |base| louder(half(base), 8, 10.0)),
    ("row-normalised, swapped", |base| swapped(ablated(base, 24, 0.8, RemovalKind::RowNormalised))),
    ("row-normalised, rank 1", |base| louder(ablated(base, 24, 0.8, RemovalKind::RowNormalised), 1, 30.0)),
];

/// The same with nothing under it, and other honest ones.
const HONEST: &[(&str, Make)] = &[
    ("swapped neurons", |base| swapped(base.clone())),
    ("noisy columns", |base| noisy_columns(base.clone())),
    ("rank 1, 30 times", |base| louder(base.clone(), 1, 30.0)),
    ("rank 8, 10 times", |base| louder(base.clone(), 8, 10.0)),
    ("LoRA of rank 1", |base| low_rank(base, 41, 1)),
    ("components dropped", |base| each_writer(base.clone(), |_, weight| edits::drop_top_component(weight))),
    ("rescaled", |base| each_writer(base.clone(), |_, weight| edits::rescale(weight, 1.02))),
];

/// Screens and compares each candidate with a base of that size, the screen in so many threads.
pub fn run(size: TinySize, candidates: &[(&'static str, Make)], threads: usize, each: &mut dyn FnMut(&Row)) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = size.llama(1);
    let written = |model: &Model, name: &str| {
        let path = folder.path().join(name);
        model.write(&path, DType::named("BF16").unwrap(), 1).unwrap();
        let mut repository = Repository::new(name).with("config.json", model.config.to_string());
        repository
            .files
            .insert("model.safetensors".into(), FileContent::disk(&path.join("model.safetensors")).unwrap());
        (repository.with("README.md", "---\nbase_model: org/base\n---\n"), path)
    };
    let (repository, base_path) = written(&base, "org/base");
    let standin = Standin::start(vec![repository], open_settings()).unwrap();
    let settings = ExamineSettings { escalate: Escalate::Never, ..ExamineSettings::default() };
    let bench = bench(standin.hub(), folder.path(), settings);
    for (at, (kind, make)) in candidates.iter().enumerate() {
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
        bench.bases.get(base_name, None, &bench.client, &bench.environment, &bench.night).unwrap();
        let start = Instant::now();
        let outcome = pool.install(|| bench.examine(&id, &facts, Some(base_name))).unwrap();
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
    let settings =
        examine::ExaminationContext { catalogue: &catalogue, digests: false, claim: None, observer: &Unobserved };
    examine::compare((&base, &Named::local("base")), (&candidate, &Named::local("candidate")), &settings)
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

const SMALL: TinySize = TinySize { width: 320, layers: 8, inner: 1280, heads: 20, vocabulary: 400 };

#[test]
fn a_screen_says_what_the_full_comparison_says_or_leaves_it_to_that() {
    let mut left = Vec::new();
    let size = TinySize { width: 448, layers: 12, inner: 1792, heads: 28, vocabulary: 1000 };
    run(size, CANDIDATES, 2, &mut |row| {
        println!("{}", row.line());
        if row.screened.verdict == Verdict::Inconclusive {
            left.push(row.kind);
        } else {
            assert_eq!(row.screened.verdict, row.full.verdict, "{}", row.line());
        }
        // The least that a screen reads is one percent of so small a model.
        assert!(row.read * 80 <= row.bytes, "{}", row.line());
    });
    // In so narrow a model what layers of a generated fine-tune share comes near a removal.
    assert!(left.iter().all(|kind| *kind == "fine-tuned"), "{left:?}");
}

#[test]
fn no_removal_is_clear_to_a_screen_because_something_louder_is_there() {
    let mut found = 0;
    run(SMALL, HIDDEN, 2, &mut |row| {
        println!("{}", row.line());
        assert_ne!(row.screened.verdict, Verdict::Clear, "{}", row.line());
        found += usize::from(row.screened.verdict == Verdict::Orthogonalized);
    });
    assert!(found + 1 >= HIDDEN.len(), "{found} of {} are found", HIDDEN.len());
}

#[test]
fn nothing_honest_is_called_by_a_screen() {
    run(SMALL, HONEST, 2, &mut |row| {
        println!("{}", row.line());
        assert_ne!(row.screened.verdict, Verdict::Orthogonalized, "{}", row.line());
    });
}

#[test]
fn a_screen_does_not_depend_on_threads() {
    let screened = |threads: usize| {
        let mut all = Vec::new();
        run(SMALL, &HIDDEN[3..5], threads, &mut |row| {
            all.push(serde_json::to_string(&(&row.screened, &row.screened.profile)).unwrap());
        });
        all
    };
    assert_eq!(screened(1), screened(3));
}
