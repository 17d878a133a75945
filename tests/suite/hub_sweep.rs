//! Whole sweeps against the stand-in hub: every repository ends in a recorded outcome, whatever happens on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orthoscope::examination::{Depth, Examination, Relation, Severity, Status, Verdict};
use orthoscope::hub::Meter;
use orthoscope::stages;
use orthoscope::standin::{Port, Rates, Settings, Standin};
use orthoscope::sweep::examine::Bench;
use orthoscope::sweep::queue::Queue;
use orthoscope::sweep::work::{self, Silent, Summary, SweepSettings};
use orthoscope::sweep::{Escalate, ExamineSettings};
use orthoscope::tiny::edits::Form;

use crate::support::{
    KINDS, TINY, ablated, bench, bytes, catalogue, open_settings, plan, recorded, repository, variables, world,
};

fn sweep_with(
    bench: &Bench,
    folder: &Path,
    settings: &SweepSettings,
    observer: &dyn work::Observer,
) -> (Summary, BTreeMap<String, Examination>) {
    let index = folder.join("index.db");
    let (summary, _) = stages::sweep(bench, &catalogue(), &index, &plan(), settings, observer).unwrap();
    (summary, recorded(&index, bench.environment.get("HF_ENDPOINT").unwrap()))
}

fn sweep(hub: &str, folder: &Path) -> (Summary, BTreeMap<String, Examination>) {
    let settings = SweepSettings { rest: 0, ..SweepSettings::default() };
    sweep_with(&bench(hub, folder, ExamineSettings::default()), folder, &settings, &Silent)
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
    let base = TINY.llama(1);
    let edited = ablated(&base, 77, 1.0, Form::Plain);
    standin.push(repository("user3/tuned-003", &base, bytes(&edited, "BF16")));
    let (third, now) = sweep(standin.hub(), folder.path());
    assert_eq!(third.examined, 1);
    assert_eq!(now.len(), 46, "the older commit's examination is kept");
    let newest = now.values().filter(|e| e.candidate.source == "hf:user3/tuned-003").map(|e| e.verdict);
    assert_eq!(newest.filter(|verdict| *verdict == Verdict::Orthogonalized).count(), 1);
}

/// The program itself, sweeping.
fn program(hub: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orthoscope"));
    command
        .args(["sweep", "--base", "hf:org/base", "--format", "json", "--fail-on", "never", "--index"])
        .arg(folder.join("index.db"))
        .envs(variables(hub, folder))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The most memory a running process has held, in bytes, where the system tells.
fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
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
    let answer = folder.path().join("summary.json");
    let mut child = program(standin.hub(), folder.path())
        .args(["--concurrency", "8"])
        .stdout(std::fs::File::create(&answer).unwrap())
        .spawn()
        .unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(peak_memory(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    let seconds = start.elapsed().as_secs_f64();
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(&answer).unwrap()).unwrap();
    assert_eq!((&summary["examined"], &summary["left"]), (&300.into(), &0.into()), "{summary}");
    assert_endings(&recorded(&folder.path().join("index.db"), standin.hub()), 300);
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
        "300 repositories: {seconds:.1} s, at most {:.0} MB of memory, {} requests, {} bytes ({} of weights), \
         faults {met:?}, statuses {statuses:?}, outcomes {}",
        peak as f64 / 1e6,
        summary["requests"],
        summary["bytes"],
        summary["weight_bytes"],
        summary["outcomes"]
    );
    assert!(met.len() >= 9, "too few kinds of faults were met to mean anything: {met:?}");
    assert!(peak < 500_000_000, "{peak} bytes of memory");
}

#[test]
fn killed_at_ten_moments_the_index_is_that_of_an_undisturbed_run() {
    let settings = || Settings { rates: Rates::all(0.01, 1), ..open_settings() };
    let standin = Standin::start(world(120), settings()).unwrap();
    let undisturbed = tempfile::tempdir().unwrap();
    let start = Instant::now();
    assert!(program(standin.hub(), undisturbed.path()).status().unwrap().success());
    let whole = start.elapsed();
    let wanted = recorded(&undisturbed.path().join("index.db"), standin.hub());
    assert_endings(&wanted, 120);

    let standin = Standin::start(world(120), settings()).unwrap();
    let killed = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(9);
    let mut before_the_end = 0;
    for _ in 0..10 {
        let mut child = program(standin.hub(), killed.path()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(0.02 + 0.16 * random.f64()) + Duration::from_millis(30));
        before_the_end += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(program(standin.hub(), killed.path()).status().unwrap().success());
    let found = recorded(&killed.path().join("index.db"), standin.hub());
    assert_eq!(found.len(), wanted.len());
    for (key, examination) in &wanted {
        assert_eq!(&found[key], examination, "{key}");
    }
    println!("killed {before_the_end} times before its end; an undisturbed run took {whole:?}");
    assert!(before_the_end >= 3);
}

/// Enough for the base and some of its derivatives.
const BUDGET: u64 = 4_000_000;

#[test]
fn a_budget_leaves_the_rest_for_another_night() {
    let standin = Standin::start(world(45), open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(standin.hub(), folder.path(), ExamineSettings::default());
    bench.night = Meter::new("the run's", Some(BUDGET), None);
    let settings = SweepSettings { workers: 1, ..SweepSettings::default() };
    let (summary, _) = sweep_with(&bench, folder.path(), &settings, &Silent);
    assert!(summary.out_of_budget && summary.left > 0 && summary.examined > 0, "{summary:?}");
    assert!(summary.bytes <= BUDGET);
    assert_eq!(summary.exit_status(|severity| severity >= Severity::High), 2);
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
    struct StopAfter<'a>(&'a Bench);
    impl work::Observer for StopAfter<'_> {
        fn examined(&self, _: &orthoscope::ids::RepoId, _: &orthoscope::sweep::examine::Outcome, done: u64, _: u64) {
            if done == 5 {
                self.0.client.stop().cancel();
            }
        }
    }
    let (summary, _) = sweep_with(&bench, folder.path(), &SweepSettings::default(), &StopAfter(&bench));
    assert!(summary.stopped && summary.left > 0);
    let counts = Queue::open(&folder.path().join("index.db"), 0).unwrap().counts().unwrap();
    assert_eq!((counts.leased, counts.done), (0, summary.examined));
    let (rest, found) = sweep(standin.hub(), folder.path());
    assert_eq!(rest.examined, 60 - summary.examined);
    assert_endings(&found, 60);
}
