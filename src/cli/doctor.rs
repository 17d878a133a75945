//! `orthoscope doctor`: whether this machine has what orthoscope needs, and what to do where not.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::{ExitStatus, Global, VERSION};
use crate::error::{Error, Result};
use crate::hub::probe::{Token, probe};
use crate::hub::{Client, ClientSettings, Environment, HUBS, HubEntry, free, shown};
use crate::index::Index;
use crate::report::json::write_value;
use crate::report::{RENDERERS, sanitise, words};
use crate::sweep::health::{Health, Stuck, health};

/// Check network, tokens, quotas, caches, disk, processor, catalogue and index, and say what to do about what is wrong
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope doctor
  orthoscope doctor --offline --quick
  orthoscope doctor --index nightly.db --format json

Each hub is asked one cheap question, with its own token (--offline asks none). Of an index that sweeps write into, the age of \
the last sweep, runs that never ended and repositories stuck in the queue are told. Exit status 2 when something has to be \
done; what is only worth knowing is a note. Tokens are never shown.")]
pub struct DoctorArguments {
    /// Leave out the check of every page of the index, which reads all of it
    #[arg(long)]
    quick: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Good,
    Note,
    Bad,
}

/// One check.
#[derive(Debug, serde::Serialize)]
struct Check {
    what: &'static str,
    state: State,
    told: String,
    /// What to do.
    advice: Option<String>,
}

impl Check {
    fn good(what: &'static str, told: impl Into<String>) -> Self {
        Self { what, state: State::Good, told: told.into(), advice: None }
    }

    fn note(what: &'static str, told: impl Into<String>, advice: &str) -> Self {
        Self { what, state: State::Note, told: told.into(), advice: Some(advice.to_owned()) }
    }

    fn bad(what: &'static str, told: impl Into<String>, advice: &str) -> Self {
        Self { what, state: State::Bad, told: told.into(), advice: Some(advice.to_owned()) }
    }
}

impl DoctorArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let mut checks = vec![program(), processor(), catalogue(global)];
        checks.extend(index(&global.index, self.quick));
        let environment = Environment::of_process();
        checks.extend(hubs(global, &environment));
        checks.extend(places(global, &environment));
        let written = |error| Error::io("writing the answer", error);
        if global.format() == "json" {
            write_value(&checks, &global.style(), out)?;
            writeln!(out).map_err(written)?;
        } else {
            for check in &checks {
                let mark = match check.state {
                    State::Good => "ok  ",
                    State::Note => "note",
                    State::Bad => "BAD ",
                };
                writeln!(out, "{mark}  {:<11} {}", check.what, sanitise::sentence(&check.told)).map_err(written)?;
                if let Some(advice) = &check.advice {
                    writeln!(out, "                  {}", sanitise::sentence(advice)).map_err(written)?;
                }
            }
        }
        let bad = checks.iter().any(|check| check.state == State::Bad);
        Ok(if bad { ExitStatus::Incomplete } else { ExitStatus::Success })
    }
}

fn program() -> Check {
    let formats: Vec<&str> = RENDERERS.iter().map(|renderer| renderer.name()).collect();
    Check::good("program", format!("orthoscope {}, output formats {}", *VERSION, formats.join(", ")))
}

fn processor() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let features = features();
    let told = format!(
        "{threads} threads, {}",
        if features.is_empty() { "no wide vectors".into() } else { features.join(" ") }
    );
    if cfg!(target_arch = "x86_64") && !features.contains(&"avx2") {
        return Check::note("processor", told, "without AVX2 comparisons take several times as long");
    }
    Check::good("processor", told)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    known.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

fn catalogue(global: &Global) -> Check {
    match global.catalogue() {
        Ok(catalogue) => {
            Check::good("catalogue", format!("{} signatures, {}", catalogue.signatures().len(), catalogue.hash()))
        }
        Err(error) => {
            Check::bad("catalogue", error.one_line(), "correct the file named; `orthoscope signatures check` says more")
        }
    }
}

fn index(path: &Path, quick: bool) -> Vec<Check> {
    if !path.exists() {
        let told = format!("{} is not there yet", path.display());
        return vec![Check::note(
            "index",
            told,
            "`orthoscope compare` and `orthoscope scan` make it, or name another with --index",
        )];
    }
    let index = match Index::open_read_only(path) {
        Ok(index) => index,
        Err(error) => {
            return vec![Check::bad(
                "index",
                error.one_line(),
                "name another with --index, or any writing command brings an older one up to date",
            )];
        }
    };
    let outcomes = index.outcomes().unwrap_or_default();
    let all: u64 = outcomes.iter().map(|(_, count)| count).sum();
    let mut checks = vec![Check::good("index", format!("{}: {all} examinations", path.display())), size(path)];
    if index.is_frozen() {
        let told = "nothing can be written beside it; it is read as it stands".to_owned();
        checks.push(Check::note("index", told, "copy it to where you can write, to examine into it or to decide"));
    }
    if !quick {
        checks.push(match index.integrity() {
            Ok(faults) if faults.is_empty() => Check::good("integrity", "every page of the index is sound"),
            Ok(faults) => Check::bad(
                "integrity",
                faults.join("; "),
                "restore a snapshot (`orthoscope export --sqlite`), and check the disk",
            ),
            Err(error) => Check::bad("integrity", error.one_line(), "restore a snapshot, and check the disk"),
        });
        checks.push(rows(&index));
    }
    checks.push(match index.broken_decisions() {
        Ok(broken) if broken.is_empty() => Check::good("decisions", "the audit trail is whole"),
        Ok(broken) => Check::bad(
            "decisions",
            format!("{} were changed by other means", broken.len()),
            "compare with a snapshot; who can write the file?",
        ),
        Err(error) => Check::bad("decisions", error.one_line(), "restore a snapshot"),
    });
    let now = Timestamp::now();
    match health(&index, path, now.as_second()) {
        Ok(health) => checks.extend(sweeps(&health, now)),
        Err(error) => checks.push(Check::bad("sweep", error.one_line(), "restore a snapshot")),
    }
    checks
}

/// A log of changes that is longer than this should have been merged by whoever wrote last.
const LONG_LOG: u64 = 256 << 20;

/// How large the index is, beside the room there is.
fn size(path: &Path) -> Check {
    let length = |ending: &str| fs::metadata(format!("{}{ending}", path.display())).map_or(0, |file| file.len());
    let (whole, log) = (length(""), length("-wal"));
    let told = match log {
        0 => words::bytes(whole),
        log => format!("{}, and {} of changes not merged yet", words::bytes(whole), words::bytes(log)),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if log > LONG_LOG {
        let advice = "a reader that never ends keeps them from being merged: end it, then run any command that writes";
        return Check::note("size", told, advice);
    }
    match free(folder) {
        Some(room) if room < whole => {
            let advice =
                "a copy (`orthoscope export --sqlite`) would not fit beside it: make room, or copy to another disk";
            Check::note("size", format!("{told}, {} free", words::bytes(room)), advice)
        }
        _ => Check::good("size", told),
    }
}

/// A sweep every night is late after this.
const LATE: i64 = 2 * 86_400;

/// Runs in a row that did not end, from which on the next one will not either.
const KILLED: u64 = 3;

/// How sweeps of the index have ended and what is stuck; nothing of an index that none wrote into.
fn sweeps(health: &Health, now: Timestamp) -> Vec<Check> {
    let Some(last) = &health.last else { return Vec::new() };
    let ago = |then: Timestamp| match words::age(then, now).as_str() {
        "now" => "just now".to_owned(),
        age => format!("{age} ago"),
    };
    let began = format!("began {} ({})", ago(last.started), words::when(last.started));
    let mut checks = Vec::new();
    checks.push(match (last.ended, health.running) {
        (None, true) => Check::good("sweep", format!("one is at work, which {began}")),
        (None, false) if health.unended >= KILLED => Check::bad(
            "sweep",
            format!("the last {} did not end; the last {began}", health.unended),
            "something kills them: look for want of memory, try --concurrency 1 and -v, and see what is failing below",
        ),
        (None, false) => Check::note(
            "sweep",
            format!("the last, which {began}, did not end: it was killed"),
            "run `orthoscope sweep` again: it goes on where that one was, and nothing is lost",
        ),
        (Some(ended), _) if now.as_second() - ended.as_second() > LATE => Check::note(
            "sweep",
            format!("the last ended {} ({})", ago(ended), words::when(ended)),
            "if one is to run every night, look at what starts it (cron, a timer) and at what it printed",
        ),
        (Some(ended), _) => Check::good("sweep", format!("the last ended {} ({})", ago(ended), words::when(ended))),
    });
    if let (None, Some(ended)) = (last.ended, health.ended) {
        checks
            .push(Check::good("sweep", format!("the last that ended did so {} ({})", ago(ended), words::when(ended))));
    }
    let mut stuck = |which: &Stuck, told: &str, advice: &str| {
        if which.count > 0 {
            let names: Vec<String> = which.named.iter().map(|name| sanitise::name(name)).collect();
            let more = if which.count > names.len() as u64 { ", …" } else { "" };
            let repositories = words::count(which.count, "repository", "repositories");
            checks.push(Check::note("queue", format!("{repositories} {told}: {}{more}", names.join(", ")), advice));
        }
    };
    let held = match health.running {
        true => "with a worker for more than six hours",
        false => "left in the hands of a sweep that was killed",
    };
    let advice = match health.running {
        true => "stop the sweep (Ctrl-C) and start it again with --max-bytes, or -v to see where it stands",
        false => "the next sweep takes them up again by itself",
    };
    stuck(&health.held, held, advice);
    stuck(
        &health.failing,
        "tried three times or more without an outcome",
        "`orthoscope scan REPO -v` shows what happens to one; after twelve attempts it is given up, with that as its outcome",
    );
    stuck(
        &health.passed_over,
        "waiting for more than a week",
        "--limit, --max-night-bytes or the night is too small for what is listed: raise it, or sweep fewer bases",
    );
    stuck(
        &health.troubled,
        "ended in trouble that may pass (network, hub, disk)",
        "the next sweep tries them again; `orthoscope export --status failed --format table` has the reasons",
    );
    checks
}

/// Whether the rows of every examination are those that were written.
fn rows(index: &Index) -> Check {
    let repair = "restore a snapshot (`orthoscope export --sqlite`), and check the disk; exports leave them out";
    match index.broken_examinations() {
        Ok(broken) if broken.is_empty() => match index.without_checksum().unwrap_or_default() {
            0 => Check::good("rows", "every examination is what was written"),
            old => Check::note(
                "rows",
                format!("every examination with a checksum is what was written; {old} have none yet"),
                "those come from an earlier version; `orthoscope rejudge --all` gives a checksum to all with measurements",
            ),
        },
        Ok(broken) => {
            let first = broken.first().map(Error::one_line).unwrap_or_default();
            Check::bad("rows", format!("{} examinations are broken; {first}", broken.len()), repair)
        }
        Err(error) => Check::bad("rows", error.one_line(), repair),
    }
}

/// Every hub that is on a network: whether it answers, how fast, what it makes of the token, what is left of its quota.
fn hubs(global: &Global, environment: &Environment) -> Vec<Check> {
    if global.offline || environment.offline() {
        let told = "offline by request: no hub is asked; only local files and caches are read";
        return vec![Check::note("network", told, "leave out --offline (or HF_HUB_OFFLINE) to ask the hubs")];
    }
    let client = Client::new(ClientSettings {
        tries: 2,
        patience: Duration::from_secs(5),
        silence: Duration::from_secs(10),
        request_time: Duration::from_secs(15),
        cache: environment.own_cache(),
        ..ClientSettings::default()
    });
    let client = match client {
        Ok(client) => client,
        Err(error) => return vec![Check::bad("network", error.one_line(), "no thread or socket could be made")],
    };
    let mut checks: Vec<Check> = std::thread::scope(|scope| {
        let asked: Vec<_> = HUBS.iter().map(|entry| scope.spawn(|| one_hub(&client, entry, environment))).collect();
        asked.into_iter().flat_map(|hub| hub.join().unwrap_or_default()).collect()
    });
    // One hub that cannot be reached is often one that nobody here uses; none at all is the network.
    if checks.iter().any(|check| check.state == State::Good) {
        for check in checks.iter_mut().filter(|check| check.advice.as_deref() == Some(UNREACHABLE)) {
            check.state = State::Note;
        }
    }
    checks
}

const UNREACHABLE: &str = "check the connection and the proxy (HTTPS_PROXY), and HF_ENDPOINT or MODELSCOPE_ENDPOINT where a \
     mirror is meant; --offline works from local files and caches";

/// Nothing for a hub that is a folder of this machine.
fn one_hub(client: &Client, entry: &HubEntry, environment: &Environment) -> Vec<Check> {
    let title = entry.title;
    let hub = match (entry.open)(environment) {
        Ok(hub) if hub.is_here() => return Vec::new(),
        Ok(hub) => hub,
        Err(error) => {
            let advice = "correct the variable; an address is written like https://host";
            return vec![Check::bad("network", format!("{title}: {}", error.one_line()), advice)];
        }
    };
    let at = shown(hub.endpoint());
    let probed = match probe(client, hub.as_ref()) {
        Ok(probed) => probed,
        Err(error) => {
            return vec![Check::bad("network", format!("{title} at {at}: {}", error.one_line()), UNREACHABLE)];
        }
    };
    let milliseconds = probed.latency.as_millis();
    let mut checks = vec![Check::good("network", format!("{title} at {at} answers in {milliseconds} ms"))];
    checks.push(match (probed.token, (entry.token_from)(environment)) {
        (Token::Taken, from) => Check::good(
            "token",
            format!("{title} takes the one from {}", from.unwrap_or_else(|| "the environment".into())),
        ),
        (Token::Refused, from) => Check::bad(
            "token",
            format!("{title} refuses the one from {}", from.unwrap_or_else(|| "the environment".into())),
            "it has expired or was withdrawn: make another at the hub, or unset it to go on without",
        ),
        (Token::None, _) => Check::note(
            "token",
            format!("{title}: none"),
            "without one, gated repositories are not examined and rate limits are lower; set HF_TOKEN or \
             MODELSCOPE_API_TOKEN",
        ),
    });
    checks.push(match probed.left {
        Some((0, seconds)) => Check::note(
            "quota",
            format!("{title}: nothing left for {seconds} s"),
            "a sweep waits by itself; another program may be using the same token or address",
        ),
        Some((left, seconds)) => Check::good("quota", format!("{title}: {left} requests left in the next {seconds} s")),
        None => Check::good("quota", format!("{title} states none")),
    });
    checks
}

/// Whether the folders that are written to can be, and what room there is.
fn places(global: &Global, environment: &Environment) -> Vec<Check> {
    let index = global.index.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut checks = vec![writable("disk", index, "the index cannot be written there; name another with --index")];
    for (what, folder) in [("hub's cache", environment.hf_cache()), ("own cache", environment.own_cache())] {
        checks.push(if folder.is_dir() {
            let entries = fs::read_dir(&folder).map_or(0, |entries| entries.count());
            Check::good(what, format!("{} with {entries} entries{}", folder.display(), room(&folder)))
        } else {
            // The room is that of the nearest folder there is.
            let parent = folder.ancestors().find(|parent| parent.is_dir()).map(room).unwrap_or_default();
            Check::note(what, format!("{} is not there{parent}", folder.display()), "it is made when first needed")
        });
    }
    checks
}

/// Less room than this is soon none.
const LITTLE: u64 = 256 << 20;

fn room(folder: &Path) -> String {
    free(folder).map(|bytes| format!(", {} free", words::bytes(bytes))).unwrap_or_default()
}

fn writable(what: &'static str, folder: &Path, consequence: &str) -> Check {
    match tempfile::NamedTempFile::new_in(folder) {
        Ok(_) if free(folder).is_some_and(|bytes| bytes < LITTLE) => Check::bad(
            what,
            format!("{} can be written{}", folder.display(), room(folder)),
            "an index of a million examinations takes tens of gigabytes: make room, or name another with --index",
        ),
        Ok(_) => Check::good(what, format!("{} can be written{}", folder.display(), room(folder))),
        Err(error) => Check::bad(what, format!("{}: {error}", folder.display()), consequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for address in
            ["ftp://user:SECRET@x", "http://user:SECRET@127.0.0.1:9", "user:SECRET@x", "http://user:SECRET@[x"]
        {
            let environment = Environment::empty().with("HF_ENDPOINT", address);
            let client = Client::new(ClientSettings { tries: 1, ..ClientSettings::default() }).expect("a client");
            let checks = one_hub(&client, HUBS[0], &environment);
            assert_eq!(checks[0].state, State::Bad, "{address}");
            let said = serde_json::to_string(&checks).expect("JSON");
            assert!(!said.contains("SECRET"), "{said}");
        }
    }

    #[test]
    fn a_missing_index_is_a_note_and_a_broken_one_is_bad() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("index.db");
        assert_eq!(index(&path, false)[0].state, State::Note);
        fs::write(&path, [7; 4096]).expect("writes");
        assert_eq!(index(&path, false)[0].state, State::Bad);
        fs::remove_file(&path).expect("removes");
        drop(Index::open(&path).expect("opens"));
        assert!(index(&path, false).iter().all(|check| check.state == State::Good));
    }

    /// The checks of sweeps over an index with these runs (ago when they began and ended) and rows of the queue.
    fn after(runs: &[(i64, Option<i64>)], rows: &[(&str, &str, i64, i64)], locked: bool) -> Vec<(State, String)> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("index.db");
        let now = Timestamp::now();
        let ago = |seconds: i64| now.as_second() - seconds;
        let opened = Index::open(&path).expect("opens");
        for (began, ended) in runs {
            let sql = "INSERT INTO sweep_run (started, ended, plan) VALUES (?1, ?2, '{}')";
            opened.connection().execute(sql, (ago(*began), ended.map(ago))).expect("is noted");
        }
        for (name, state, attempts, changed) in rows {
            let sql =
                "INSERT INTO sweep_queue (hub, repository, base, listed, facts, state, attempts, first_seen, changed)
                       VALUES ('hf', ?1, '', '', '{}', ?2, ?3, ?4, ?4)";
            opened.connection().execute(sql, (name, state, attempts, ago(*changed))).expect("is noted");
        }
        drop(opened);
        let beside = folder.path().join("index.db.sweep-lock");
        let lock = locked.then(|| fs::File::create(beside).expect("a file"));
        if let Some(lock) = &lock {
            lock.try_lock().expect("nobody else has it");
        }
        let of_sweeps = index(&path, true).into_iter().filter(|check| ["sweep", "queue"].contains(&check.what));
        of_sweeps
            .map(|check| {
                assert_eq!(check.advice.is_none(), check.state == State::Good, "{check:?}");
                (check.state, check.told)
            })
            .collect()
    }

    #[test]
    fn a_sweep_that_is_late_killed_or_stuck_is_told() {
        let (hour, day) = (3600, 86_400);
        let states = |checks: &[(State, String)]| checks.iter().map(|(state, _)| *state).collect::<Vec<_>>();
        assert!(after(&[], &[], false).is_empty(), "nothing is said of sweeps where there are none");
        let good = after(&[(9 * hour, Some(8 * hour))], &[("a/done", "done", 0, 8 * hour)], false);
        assert_eq!(states(&good), [State::Good]);
        assert!(good[0].1.starts_with("the last ended 8 h ago"), "{good:?}");
        let late = after(&[(9 * day, Some(9 * day))], &[], false);
        assert_eq!(states(&late), [State::Note]);
        assert!(late[0].1.contains("9 days ago"), "{late:?}");
        let killed = after(&[(2 * day, Some(2 * day)), (hour, None)], &[("a/held", "leased", 1, hour)], false);
        assert_eq!(states(&killed), [State::Note, State::Good, State::Note]);
        assert!(killed[0].1.contains("it was killed") && killed[1].1.contains("2 days ago"), "{killed:?}");
        assert!(
            killed[2].1.contains("1 repository left in the hands of a sweep that was killed: hf:a/held"),
            "{killed:?}"
        );
        let again = after(&[(3 * day, None), (2 * day, None), (hour, None)], &[], false);
        assert_eq!(states(&again), [State::Bad], "{again:?}");
        // At work, what is with a worker is where it should be, for some hours.
        let rows = [("a/new", "leased", 1, hour), ("a/old", "leased", 1, 7 * hour)];
        let running = after(&[(8 * hour, None)], &rows, true);
        assert_eq!(states(&running), [State::Good, State::Note]);
        assert!(running[0].1.contains("one is at work"), "{running:?}");
        assert!(
            running[1].1.contains("1 repository with a worker") && running[1].1.contains("hf:a/old"),
            "{running:?}"
        );
        let rows = [("a/fails", "queued", 4, hour), ("a/waits", "queued", 0, 8 * day), ("a/next", "queued", 0, hour)];
        let waiting = after(&[(hour, Some(hour))], &rows, false);
        assert_eq!(states(&waiting), [State::Good, State::Note, State::Note]);
        assert!(waiting[1].1.contains("hf:a/fails") && waiting[2].1.ends_with("hf:a/waits"), "{waiting:?}");
    }
}
