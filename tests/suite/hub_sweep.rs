//! Whole sweeps against the stand-in hub: every repository ends in a recorded outcome, whatever happens on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orthoscope::examination::{Depth, Examination, Relation, Severity, Status, Verdict};
use orthoscope::hub::{Client, ClientSettings, Environment, Meter};
use orthoscope::standin::{Gate, Port, Rates, Repository, Settings, Standin, Surprise};
use orthoscope::sweep::base::Bases;
use orthoscope::sweep::examine::Bench;
use orthoscope::sweep::plan::Plan;
use orthoscope::sweep::queue::Queue;
use orthoscope::sweep::work::{self, Silent, Summary, SweepSettings};
use orthoscope::sweep::{Escalate, ExamineSettings};

use crate::support::{Model, Rows, Shape, TINY, plain};

const CARD: &str = "---\nbase_model: org/base\n---\n# Derivative\n";
const CONFIG: &str = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"]}"#;

/// What a repository of the test hub is, and how it must end.
const KINDS: &[(&str, &str)] = &[
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

fn world(count: usize) -> Vec<Repository> {
    let base = Model::base(1, TINY);
    let base_bytes = base.bytes("BF16");
    let variants: Vec<Vec<u8>> = (0..4u64).map(|seed| base.ablated(seed + 10, 1.0, false).bytes("BF16")).collect();
    let half = base.ablated(20, 0.5, false).bytes("BF16");
    let normalised = base.ablated(21, 0.9, true).bytes("BF16");
    let tuned: Vec<Vec<u8>> = (0..3u64).map(|seed| base.tuned(seed + 30).bytes("BF16")).collect();
    let low_rank = base.low_rank(40, 2).bytes("BF16");
    let other = Model::base(50, Shape { width: 32, ..TINY }).bytes("BF16");
    let mut repositories =
        vec![Repository::new("org/base").with("config.json", CONFIG).with("model.safetensors", base_bytes.clone())];
    for i in 0..count {
        let (kind, _) = KINDS[i % KINDS.len()];
        let mut repository =
            Repository::new(format!("user{}/{kind}-{i:03}", i % 7)).with("README.md", CARD).with("config.json", CONFIG);
        repository.created = format!("2026-02-{:02}T{:02}:{:02}:00.000Z", 1 + i / 600, i / 60 % 24, i % 60);
        let weights = match kind {
            "ablated" => variants[i / KINDS.len() % 4].clone(),
            "half-ablated" => half.clone(),
            "row-normalised" => normalised.clone(),
            "low-rank" => low_rank.clone(),
            "reupload" | "gated-reupload" | "renamed" => base_bytes.clone(),
            "other-size" => other.clone(),
            "broken" => b"\xff\xff\xff\xff\0\0\0\0 this is no header".to_vec(),
            _ => tuned[i % 3].clone(),
        };
        match kind {
            "gated" | "gated-reupload" => repository.gate = Gate::Manual,
            "disabled" => repository.disabled = true,
            "deleted" => repository.surprise = Some(Surprise::Deleted),
            "moved" => repository.surprise = Some(Surprise::Moved),
            _ => {}
        }
        repository = match kind {
            "no-weights" => repository,
            "renamed" => repository.with("other-name.safetensors", weights),
            _ => repository.with("model.safetensors", weights),
        };
        repositories.push(repository);
    }
    repositories
}

fn bench(hub: &str, folder: &Path, settings: ExamineSettings) -> Bench {
    let environment = Environment::empty()
        .with("HF_ENDPOINT", hub)
        .with("HF_TOKEN", "hf_not_a_real_token_but_a_secret")
        .with("HF_HOME", folder.join("hf").to_str().unwrap());
    let client = Client::new(ClientSettings {
        cache: folder.join("cache"),
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(200),
        ..ClientSettings::default()
    })
    .unwrap();
    Bench {
        client,
        environment,
        stages: plain(),
        settings,
        night: Meter::new("the run's", None, None),
        bases: Bases::default(),
    }
}

fn plan() -> Plan {
    Plan { bases: vec!["hf:org/base".into()], ..Plan::default() }
}

fn sweep(hub: &str, folder: &Path) -> (Summary, BTreeMap<String, Examination>) {
    let bench = bench(hub, folder, ExamineSettings::default());
    let index = folder.join("index.db");
    let store = Rows::open(&index);
    let queue = Queue::open(&index, 0).unwrap();
    let settings = SweepSettings { rest: 0, ..SweepSettings::default() };
    let summary = work::sweep(&bench, &queue, &store, &plan(), &settings, &Silent).unwrap();
    (summary, store.all())
}

fn expected(name: &str) -> &'static str {
    let kind = name.rsplit_once('/').unwrap().1.rsplit_once('-').unwrap().0;
    KINDS.iter().find(|(known, _)| *known == kind).unwrap().1
}

fn ending(examination: &Examination) -> String {
    match examination.status {
        Status::Failed => examination.reason.as_ref().unwrap().split(':').next().unwrap().to_owned(),
        _ => orthoscope::sweep::examine::word(&examination.verdict),
    }
}

fn assert_endings(found: &BTreeMap<String, Examination>, count: usize) {
    assert_eq!(found.len(), count);
    for examination in found.values() {
        let name = &examination.candidate.source;
        assert_eq!(ending(examination), expected(name), "{name}: {:?} {}", examination.reason, examination.because);
        assert_eq!(examination.claim.as_ref().unwrap().base.as_deref(), Some("org/base"), "{name}");
    }
}

/// The stand-in trusts any token, so that gated repositories stay shut and public ones open.
fn open_settings() -> Settings {
    Settings { token: Some("hf_not_a_real_token_but_a_secret".into()), ..Settings::default() }
}

#[test]
fn every_kind_of_repository_ends_as_it_should_and_a_second_sweep_reads_nothing() {
    let standin = Standin::start(world(45), open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (summary, found) = sweep(standin.hub(), folder.path());
    assert_endings(&found, 45);
    assert_eq!((summary.examined, summary.left), (45, 0));
    assert_eq!(summary.exit_status(|severity| severity >= Severity::High), 0, "{summary:?}");
    let by = |kind: &str| found.values().find(|e| e.candidate.source.contains(kind)).unwrap();
    assert_eq!(by("/reupload").relation, Relation::Identical);
    assert_eq!(by("/renamed").relation, Relation::Repackaged);
    assert_eq!((by("/tuned").depth, by("/reupload").depth), (Depth::Screen, Depth::Hashes));
    assert_eq!(by("/other-size").relation, Relation::Incomparable);
    assert_eq!(by("/other-size").claim.as_ref().unwrap().holds, Some(false));
    assert_eq!(by("/ablated").claim.as_ref().unwrap().holds, Some(true));
    assert!(by("/ablated").base.digest.as_ref().unwrap().starts_with("sha256:"));

    standin.clear_log();
    let (again, same) = sweep(standin.hub(), folder.path());
    assert_eq!((again.examined, again.listed.unchanged), (0, 45));
    assert_eq!(again.weight_bytes, 0);
    assert_eq!(same, found);
    let log = standin.log();
    let of = |part: &str| log.iter().filter(|entry| entry.target.contains(part)).count();
    assert_eq!((of("/api/models?"), log.len()), (1, 1), "one listing and nothing else");

    // A push to one repository is one examination.
    let base = Model::base(1, TINY);
    let pushed = Repository::new("user3/tuned-003").with("README.md", CARD).with("config.json", CONFIG);
    standin.push(pushed.with("model.safetensors", base.ablated(77, 1.0, false).bytes("BF16")));
    let (third, now) = sweep(standin.hub(), folder.path());
    assert_eq!(third.examined, 1);
    assert_eq!(now.len(), 46, "the older commit's examination is kept");
    let newest = now.values().filter(|e| e.candidate.source == "hf:user3/tuned-003").map(|e| e.verdict);
    assert_eq!(newest.filter(|verdict| *verdict == Verdict::Orthogonalized).count(), 1);
}

#[test]
fn three_hundred_repositories_with_faults_all_end_in_an_outcome() {
    let settings = Settings {
        api_quota: Some(120),
        resolver_quota: Some(300),
        window: Duration::from_secs(2),
        rates: Rates::all(0.03, 1),
        ..open_settings()
    };
    let standin = Standin::start(world(300), settings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let (summary, found) = sweep(standin.hub(), folder.path());
    assert_endings(&found, 300);
    let log = standin.log();
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for entry in &log {
        if let Some(fault) = entry.fault {
            *met.entry(format!("{fault:?}")).or_default() += 1;
        }
        assert!(entry.port == Port::Hub || !entry.credentials, "credentials at the delivery network: {entry:?}");
        assert!(!(entry.target.contains("/resolve") && entry.target.contains("config.json")), "{entry:?}");
        // Requests already under way when a refusal was sent cannot be called back; none starts after it.
        assert!(entry.inside_wait.is_none_or(|since| since < 300), "{entry:?}");
    }
    let statuses = log.iter().fold(BTreeMap::<u16, usize>::new(), |mut map, entry| {
        *map.entry(entry.status).or_default() += 1;
        map
    });
    println!(
        "300 repositories: {:.1} s, {} requests, {} bytes ({} of weights), faults {met:?}, statuses {statuses:?}, \
         outcomes {:?}",
        start.elapsed().as_secs_f64(),
        summary.requests,
        summary.bytes,
        summary.weight_bytes,
        summary.outcomes
    );
    assert!(met.len() >= 9, "too few kinds of faults were met to mean anything: {met:?}");
}

/// The sweep as a process of its own, for the test below to kill. Does nothing in an ordinary run.
#[test]
fn swept_in_a_process_of_its_own() {
    let (Ok(hub), Ok(folder)) = (std::env::var("SWEEP_TEST_HUB"), std::env::var("SWEEP_TEST_FOLDER")) else { return };
    let (summary, _) = sweep(&hub, Path::new(&folder));
    assert_eq!(summary.left, 0);
}

#[test]
fn killed_at_ten_moments_the_index_is_that_of_an_undisturbed_run() {
    let settings = || Settings { rates: Rates::all(0.01, 1), ..open_settings() };
    let standin = Standin::start(world(120), settings()).unwrap();
    let undisturbed = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let (_, mut wanted) = sweep(standin.hub(), undisturbed.path());
    let whole = start.elapsed();
    let without_address = |examination: &mut Examination, hub: &str| {
        examination.reason = examination.reason.take().map(|reason| reason.replace(hub, "HUB"));
    };
    wanted.values_mut().for_each(|examination| without_address(examination, standin.hub()));
    assert_endings(&wanted, 120);

    let standin = Standin::start(world(120), settings()).unwrap();
    let killed = tempfile::tempdir().unwrap();
    let run = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hub_sweep::swept_in_a_process_of_its_own"])
            .env("SWEEP_TEST_HUB", standin.hub())
            .env("SWEEP_TEST_FOLDER", killed.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut random = fastrand::Rng::with_seed(9);
    let mut before_the_end = 0;
    for _ in 0..10 {
        let mut child = run();
        std::thread::sleep(whole.mul_f64(0.02 + 0.16 * random.f64()) + Duration::from_millis(30));
        before_the_end += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(run().wait().unwrap().success());
    let mut found = Rows::open(&killed.path().join("index.db")).all();
    found.values_mut().for_each(|examination| without_address(examination, standin.hub()));
    assert_eq!(found.len(), wanted.len());
    for (key, examination) in &wanted {
        assert_eq!(&found[key], examination, "{key}");
    }
    println!("killed {before_the_end} times before its end; an undisturbed run took {whole:?}");
    assert!(before_the_end >= 3);
}

#[test]
fn a_budget_leaves_the_rest_for_another_night() {
    let standin = Standin::start(world(45), open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(standin.hub(), folder.path(), ExamineSettings::default());
    bench.night = Meter::new("the run's", Some(900_000), None);
    let index = folder.path().join("index.db");
    let store = Rows::open(&index);
    let queue = Queue::open(&index, 0).unwrap();
    let settings = SweepSettings { workers: 1, ..SweepSettings::default() };
    let summary = work::sweep(&bench, &queue, &store, &plan(), &settings, &Silent).unwrap();
    assert!(summary.out_of_budget && summary.left > 0 && summary.examined > 0, "{summary:?}");
    assert!(summary.bytes <= 900_000);
    assert_eq!(summary.exit_status(|severity| severity >= Severity::High), 2);
    drop(queue);
    let (rest, found) = sweep(standin.hub(), folder.path());
    assert_eq!(rest.examined, summary.left);
    assert_endings(&found, 45);
}

#[test]
fn depth_and_escalation_are_obeyed() {
    let standin = Standin::start(world(15), open_settings()).unwrap();
    let one = |settings: ExamineSettings, name: &str| {
        let folder = tempfile::tempdir().unwrap();
        let bench = bench(standin.hub(), folder.path(), settings);
        let id = orthoscope::ids::RepoId { hub: "hf".into(), name: name.into() };
        let hub = orthoscope::hub::of(&id, &bench.environment).unwrap();
        let info = orthoscope::hub::fetch::info(&bench.client, hub.as_ref(), name, None, &bench.night).unwrap();
        bench.examine(&id, &info, Some("hf:org/base")).unwrap().examination
    };
    let hashes = one(ExamineSettings { depth: Depth::Hashes, ..ExamineSettings::default() }, "user0/ablated-000");
    assert_eq!((hashes.depth, hashes.verdict), (Depth::Hashes, Verdict::Inconclusive));
    assert_eq!(hashes.coverage.bytes_read, 0);
    let screen = ExamineSettings { escalate: Escalate::Never, ..ExamineSettings::default() };
    let screened = one(screen, "user0/ablated-000");
    assert_eq!((screened.depth, screened.verdict), (Depth::Screen, Verdict::Orthogonalized));
    let profile = screened.profile.unwrap();
    let names: Vec<&str> = orthoscope::diff::stats::MEASUREMENTS.iter().map(|m| m.name).collect();
    assert!(profile.model.keys().all(|name| names.contains(&name.as_str())), "{:?}", profile.model.keys());
    let auto = one(ExamineSettings::default(), "user0/ablated-000");
    assert_eq!((auto.depth, auto.verdict), (Depth::Full, Verdict::Orthogonalized));
    let always = ExamineSettings { escalate: Escalate::Always, ..ExamineSettings::default() };
    assert_eq!(one(always, "user3/tuned-003").depth, Depth::Full);
    let poor = ExamineSettings { max_bytes: Some(130_000), ..ExamineSettings::default() };
    let stopped = one(poor, "user0/ablated-000");
    assert_eq!((stopped.depth, stopped.status), (Depth::Screen, Status::Partial));
    assert_eq!(stopped.verdict, Verdict::Orthogonalized);
    assert!(stopped.reason.unwrap().contains("budget"));
}

#[test]
fn a_stop_gives_leases_back() {
    let standin = Standin::start(world(60), open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bench = Arc::new(bench(standin.hub(), folder.path(), ExamineSettings::default()));
    let index = folder.path().join("index.db");
    let store = Rows::open(&index);
    let queue = Queue::open(&index, 0).unwrap();
    struct StopAfter<'a>(&'a Bench);
    impl work::Observer for StopAfter<'_> {
        fn examined(&self, _: &orthoscope::ids::RepoId, _: &orthoscope::sweep::examine::Outcome, done: u64, _: u64) {
            if done == 5 {
                self.0.client.stop().cancel();
            }
        }
    }
    let summary = work::sweep(&bench, &queue, &store, &plan(), &SweepSettings::default(), &StopAfter(&bench)).unwrap();
    assert!(summary.stopped && summary.left > 0);
    let counts = queue.counts().unwrap();
    assert_eq!((counts.leased, counts.done), (0, summary.examined));
    drop(queue);
    let (rest, found) = sweep(standin.hub(), folder.path());
    assert_eq!(rest.examined, 60 - summary.examined);
    assert_endings(&found, 60);
}
