//! Whole sweeps against the stand-in hub: every repository ends in a recorded outcome, whatever happens on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orthoscope::demo::standin::{Port, Rates, Standin, StandinSettings};
use orthoscope::demo::tiny::edits::RemovalKind;
use orthoscope::examination::{Depth, Examination, Relation, Severity, Status, Verdict};
use orthoscope::examine::Examiner;
use orthoscope::examine::settings::{Escalate, ExamineSettings};
use orthoscope::hub::Meter;
use orthoscope::sweep;
use orthoscope::sweep::queue::Queue;
use orthoscope::sweep::work::{self, Silent, SweepSettings, SweepSummary};

use crate::support::{KINDS, TINY, ablated, bench, bytes, open_settings, plan, recorded, repository, variables, world};

fn sweep_with(
    bench: &Examiner,
    folder: &Path,
    settings: &SweepSettings,
    observer: &dyn work::SweepObserver,
) -> (SweepSummary, BTreeMap<String, Examination>) {
    let index = folder.join("index.db");
    let (summary, _) = sweep::sweep(bench, &index, &plan(), settings, observer).unwrap();
    (summary, recorded(&index, bench.environment.get("HF_ENDPOINT").unwrap()))
}

fn sweep(hub: &str, folder: &Path) -> (SweepSummary, BTreeMap<String, Examination>) {
    let settings = SweepSettings { rest: jiff::SignedDuration::ZERO, ..SweepSettings::default() };
    sweep_with(&bench(hub, folder, ExamineSettings::default()), folder, &settings, &Silent)
}

fn expected(name: &str) -> &'static str {
    let kind = name.rsplit_once('/').unwrap().1.rsplit_once('-').unwrap().0;
    KINDS.iter().find(|(known, _)| *known == kind).unwrap().1
}

fn ending(examination: &Examination) -> String {
    match examination.status {
        Status::Failed => examination.reason.as_ref().unwrap().split(':').next().unwrap().to_owned(),
        _ => examination.verdict.as_str().to_owned(),
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
    assert_eq!(summary.exit_status(|severity| severity >= Severity::High), 1, "{summary:?}");
    assert_eq!(summary.exit_status(|_| false), 2, "three were broken, and three had no weights");
    assert_eq!(summary.undone(), ["3 ended as malformed", "3 ended as unsupported"]);
    let by = |kind: &str| found.values().find(|e| e.candidate.source.contains(kind)).unwrap();
    assert_eq!(by("/reupload").relation, Relation::Identical);
    assert_eq!(by("/renamed").relation, Relation::Repackaged);
    assert_eq!((by("/other-size").depth, by("/reupload").depth), (Depth::Screen, Depth::Hashes));
    assert_eq!(by("/other-size").relation, Relation::Incomparable);
    assert_eq!(by("/other-size").claim.as_ref().unwrap().holds, None, "of what cannot be compared nothing follows");
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
    let edited = ablated(&base, 77, 1.0, RemovalKind::Plain);
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
    let settings = StandinSettings {
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
        .args(["--concurrency", "16"])
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
    let settings = || StandinSettings { rates: Rates::all(0.01, 1), ..open_settings() };
    let standin = Standin::start(world(120), settings()).unwrap();
    let undisturbed = tempfile::tempdir().unwrap();
    let start = Instant::now();
    // Some of this world cannot be read: not everything asked for can be done.
    assert_eq!(program(standin.hub(), undisturbed.path()).status().unwrap().code(), Some(2));
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
    assert_eq!(program(standin.hub(), killed.path()).status().unwrap().code(), Some(2));
    let found = recorded(&killed.path().join("index.db"), standin.hub());
    assert_eq!(found.len(), wanted.len());
    for (key, examination) in &wanted {
        assert_eq!(&found[key], examination, "{key}");
    }
    // What the killed ones held in the cache is gone with them.
    let left: Vec<_> = ["parts", "factors"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(killed.path().join("cache").join(folder)).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
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
    assert_eq!(summary.exit_status(|_| false), 2);
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
    let names: Vec<&str> = orthoscope::profile::names::MEASUREMENTS.iter().map(|m| m.name).collect();
    assert!(profile.model.keys().all(|name| names.contains(&name.as_str())), "{:?}", profile.model.keys());
    let auto = one(ExamineSettings::default(), "user0/ablated-000");
    assert_eq!((auto.depth, auto.verdict), (Depth::Full, Verdict::Orthogonalized));
    let always = ExamineSettings { escalate: Escalate::Always, ..ExamineSettings::default() };
    assert_eq!(one(always, "user3/tuned-003").depth, Depth::Full);
    let poor = ExamineSettings { max_bytes: Some(200_000), ..ExamineSettings::default() };
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
    struct StopAfter<'a>(&'a Examiner);
    impl work::SweepObserver for StopAfter<'_> {
        fn examined(
            &self,
            _: &orthoscope::ids::RepoId,
            _: &orthoscope::examine::repository::RepositoryOutcome,
            done: u64,
            _: u64,
        ) {
            if done == 5 {
                self.0.client.stop().cancel();
            }
        }
    }
    let (summary, _) = sweep_with(&bench, folder.path(), &SweepSettings::default(), &StopAfter(&bench));
    assert!(summary.stopped && summary.left > 0);
    let counts = Queue::open(&folder.path().join("index.db"), jiff::Timestamp::UNIX_EPOCH).unwrap().counts().unwrap();
    assert_eq!((counts.leased, counts.done), (0, summary.examined));
    let (rest, found) = sweep(standin.hub(), folder.path());
    assert_eq!(rest.examined, 60 - summary.examined);
    assert_endings(&found, 60);
}

#[test]
fn a_watch_finds_what_is_uploaded_meanwhile() {
    let standin = Standin::start(world(15), StandinSettings { list_page: 5, ..open_settings() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(standin.hub(), folder.path(), ExamineSettings::default());
    let base = TINY.llama(1);
    let mut late = repository("late/upload", &base, bytes(&ablated(&base, 88, 1.0, RemovalKind::Plain), "BF16"));
    late.created = "2026-03-01T00:00:00.000Z".to_owned();
    struct Uploads<'a>(&'a Standin, &'a Examiner, std::sync::Mutex<Option<orthoscope::demo::standin::Repository>>);
    impl work::SweepObserver for Uploads<'_> {
        fn examined(
            &self,
            id: &orthoscope::ids::RepoId,
            _: &orthoscope::examine::repository::RepositoryOutcome,
            done: u64,
            _: u64,
        ) {
            if id.name == "late/upload" {
                self.1.client.stop().cancel();
            } else if done == 15
                && let Some(repository) = self.2.lock().unwrap().take()
            {
                self.0.clear_log();
                self.0.push(repository);
            }
        }
    }
    let settings = SweepSettings { watch: Some(Duration::from_millis(200)), ..SweepSettings::default() };
    let observer = Uploads(&standin, &bench, std::sync::Mutex::new(Some(late)));
    let (summary, found) = sweep_with(&bench, folder.path(), &settings, &observer);
    assert_eq!((summary.examined, summary.stopped), (16, true));
    assert!(found.values().any(|e| e.candidate.source == "hf:late/upload" && e.verdict == Verdict::Orthogonalized));
    let pages = standin.log().iter().filter(|entry| entry.target.contains("/api/models?")).count();
    assert!(pages <= 2, "a poll reads the listing until nothing on it is new: {pages} pages");
}

#[test]
fn a_limit_leaves_the_rest_and_says_so() {
    let standin = Standin::start(world(15), open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = SweepSettings { limit: Some(4), ..SweepSettings::default() };
    let first =
        sweep_with(&bench(standin.hub(), folder.path(), ExamineSettings::default()), folder.path(), &settings, &Silent)
            .0;
    assert_eq!((first.examined, first.left, first.limited), (4, 11, true));
    assert_eq!(first.exit_status(|_| false), 0, "all that was asked for was done");
    let (rest, found) = sweep(standin.hub(), folder.path());
    assert_eq!(rest.examined, 11);
    assert_endings(&found, 15);
}

#[test]
fn a_claimed_base_is_fetched_up_to_a_size_and_a_given_one_at_any() {
    let standin = Standin::start(world(3), open_settings()).unwrap();
    let examined = |base: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        let settings = ExamineSettings { max_base_bytes: Some(10_000), ..ExamineSettings::default() };
        let bench = bench(standin.hub(), folder.path(), settings);
        let id = orthoscope::ids::RepoId { hub: "hf".into(), name: "user0/ablated-000".into() };
        let hub = orthoscope::hub::of(&id, &bench.environment).unwrap();
        let info = orthoscope::hub::fetch::info(&bench.client, hub.as_ref(), &id.name, None, &bench.night).unwrap();
        standin.clear_log();
        // What was too large for an upload to claim is not too large for the user, in the same run.
        let outcome = bench.examine(&id, &info, None).unwrap();
        assert_eq!(outcome.word(), "too-large");
        let reason = outcome.examination.reason.unwrap();
        assert!(reason.contains("hf:org/base") && reason.contains("--max-base-bytes"), "{reason}");
        assert!(standin.log().iter().all(|entry| entry.port == Port::Hub), "not a byte was fetched");
        base.map(|base| bench.examine(&id, &info, Some(base)).unwrap().word())
    };
    assert_eq!(examined(Some("hf:org/base")), Some("orthogonalized"));
}

#[test]
fn what_killed_runs_judged_counts_in_the_next_ones_exit_status() {
    let base = TINY.llama(1);
    let mut repositories = world(0);
    repositories.push(repository("a/ablated", &base, bytes(&ablated(&base, 5, 1.0, RemovalKind::Plain), "BF16")));
    repositories.push(repository("b/copy", &base, bytes(&base, "BF16")));
    let standin = Standin::start(repositories, open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let one = SweepSettings { limit: Some(1), workers: 1, ..SweepSettings::default() };
    let run = |settings: &SweepSettings| {
        let bench = bench(standin.hub(), folder.path(), ExamineSettings::default());
        sweep_with(&bench, folder.path(), settings, &Silent).0
    };
    let high = |severity| severity >= Severity::High;
    let first = run(&one);
    assert_eq!((first.outcomes["orthogonalized"], first.exit_status(high)), (1, 1));
    // As a kill leaves it: judged and recorded, and never told.
    let index = rusqlite::Connection::open(folder.path().join("index.db")).unwrap();
    index.execute("UPDATE sweep_run SET ended = NULL, summary = NULL", []).unwrap();
    let second = run(&one);
    assert_eq!((second.examined, second.outcomes.contains_key("orthogonalized")), (1, false));
    assert_eq!(second.unreported["orthogonalized"], 1);
    assert_eq!(second.exit_status(high), 1);
    // Now it has been told.
    let third = run(&one);
    assert_eq!((third.unreported.is_empty(), third.exit_status(high)), (true, 0));
}

#[test]
fn an_absent_base_is_named_and_every_status_of_two_has_its_line() {
    let base = TINY.llama(1);
    let mut repositories = world(15);
    repositories.push(
        repository("x/derivative", &base, bytes(&base, "BF16"))
            .with("README.md", "---\nbase_model: org/gone\n---\n# Derivative\n"),
    );
    let standin = Standin::start(repositories, open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("index.db");
    let swept = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_orthoscope"))
            .args(["sweep", "--format", "json", "--quiet", "--fail-on", "never", "--index"])
            .arg(&index)
            .args(arguments)
            .envs(variables(standin.hub(), folder.path()))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), said, summary)
    };
    for absent in ["hf:org/nowhere", "hf:org/gone"] {
        let (status, said, summary) = swept(&["--base", absent]);
        assert_eq!((status, said.lines().count()), (2, 1), "{said}");
        assert!(said.contains(&format!("the base {absent} cannot be found")), "{said}");
        assert_eq!(summary["examined"], 0);
    }
    assert!(recorded(&index, standin.hub()).is_empty());
    // The other listings are followed all the same.
    let (status, said, summary) = swept(&["--base", "hf:org/nowhere", "--base", "hf:org/base"]);
    assert_eq!((status, &summary["examined"]), (2, &15.into()));
    for part in ["hf:org/nowhere", "1 ended as malformed", "1 ended as unsupported"] {
        assert!(said.contains(part), "{said}");
    }
    let (status, said, _) = swept(&["--base", "hf:org/base"]);
    assert_eq!((status, said.as_str()), (0, ""));
    // A base that was there yesterday.
    standin.delete("org/base");
    standin.push(
        repository("x/later", &base, bytes(&base, "BF16"))
            .with("README.md", "---\nbase_model: org/base\n---\n# Later\n"),
    );
    let (status, said, summary) = swept(&["--base", "hf:org/base"]);
    assert_eq!((status, said.lines().count(), &summary["outcomes"]["no-base"]), (2, 1, &1.into()), "{said}");
    assert!(said.contains("the base hf:org/base cannot be found"), "{said}");
}
