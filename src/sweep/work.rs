//! Takes rows out of the queue, a bounded number at a time, until nothing is left, the budget is spent, or a stop is
//! asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Severity};
use crate::examine::Examiner;
use crate::examine::repository::RepositoryOutcome;
use crate::hub::RepoInfo;
use crate::ids::RepoId;
use crate::index::fingerprints::{EnrolledAs, enroll};
use crate::index::triage::{Listing, record_listing};
use crate::index::write::Writer;
use crate::index::{self, Index};

use super::plan::{self, Plan, PlannedCounts};
use super::queue::{MOST_ATTEMPTS, Queue, QueueEnding, QueueItem};

/// How a sweep runs.
#[derive(Debug, Clone)]
pub struct SweepSettings {
    /// Repositories examined at a time.
    pub workers: usize,
    /// Attempts of a repository that meets network trouble, per run.
    pub tries: u32,
    /// How long a repository rests between them.
    pub rest: SignedDuration,
    /// Repositories examined in this run at most.
    pub limit: Option<u64>,
    /// Keep polling for new uploads, this far apart.
    pub watch: Option<Duration>,
}

impl Default for SweepSettings {
    fn default() -> Self {
        Self { workers: 4, tries: 3, rest: SignedDuration::from_secs(30), limit: None, watch: None }
    }
}

/// A run as the index has it.
#[derive(Debug, Clone)]
pub struct Run {
    /// When it began.
    pub started: Timestamp,
    /// When it ended; `None` while it runs, and for one that was killed.
    pub ended: Option<Timestamp>,
    /// What it did, where it ended.
    pub summary: Option<SweepSummary>,
}

/// The last runs, latest first.
pub fn last_runs(index: &Index, most: u32) -> Result<Vec<Run>> {
    // Seconds out of range can only come from a foreign hand.
    let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    index
        .connection()
        .prepare_cached("SELECT started, ended, summary FROM sweep_run ORDER BY id DESC LIMIT ?1")
        .and_then(|mut statement| {
            let run = |row: &rusqlite::Row<'_>| {
                let summary: Option<String> = row.get(2)?;
                Ok(Run {
                    started: time(row.get(0)?),
                    ended: row.get::<_, Option<i64>>(1)?.map(time),
                    summary: summary.and_then(|text| serde_json::from_str(&text).ok()),
                })
            };
            statement.query_map([most], run)?.collect()
        })
        .map_err(|error| index::failed("reading the last sweeps", error))
}

/// What a run did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepSummary {
    /// What was listed.
    pub listed: PlannedCounts,
    /// Repositories that ended in an outcome.
    pub examined: u64,
    /// Per outcome: verdict, or kind of failure.
    pub outcomes: BTreeMap<String, u64>,
    /// Per relation.
    pub relations: BTreeMap<String, u64>,
    /// Per depth.
    pub depths: BTreeMap<String, u64>,
    /// Findings per severity.
    pub findings: BTreeMap<String, u64>,
    /// Why repositories could not be examined, with how many each.
    pub reasons: BTreeMap<String, u64>,
    /// Requests sent.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Of them, weights.
    pub weight_bytes: u64,
    /// Per outcome, all that was judged since the last run that ended: where runs before this one were killed, which
    /// told nobody. Empty where none was.
    pub unreported: BTreeMap<String, u64>,
    /// Rows still queued.
    pub left: u64,
    /// Whether the run was stopped by the user.
    pub stopped: bool,
    /// Whether as many were examined as were asked for, and more could have been.
    pub limited: bool,
    /// Whether the night's budget ran out.
    pub out_of_budget: bool,
    /// Seconds it took.
    pub seconds: f64,
    /// The worst severity found, also by runs before this one that were killed.
    #[serde(skip)]
    pub worst: Option<Severity>,
}

impl SweepSummary {
    /// What of that which was asked for was not done, in words.
    pub fn undone(&self) -> Vec<String> {
        let mut undone = Vec::new();
        if self.left > 0 && !self.limited {
            undone.push(format!("{} left in the queue", self.left));
        }
        for kind in UNDONE {
            let of = |outcomes: &BTreeMap<String, u64>| outcomes.get(*kind).copied().unwrap_or(0);
            // What was judged since the last run that ended holds this run's as well.
            match of(&self.outcomes).max(of(&self.unreported)) {
                0 => {}
                count => undone.push(format!("{count} ended as {kind}")),
            }
        }
        undone.extend(self.listed.incomplete.iter().map(|said| format!("not listed in full: {said}")));
        undone
    }

    /// The exit status of the command: 1 for findings that count, 2 when not all that was asked for was done.
    pub fn exit_status(&self, counts: impl Fn(Severity) -> bool) -> u8 {
        if self.worst.is_some_and(counts) {
            return 1;
        }
        if self.undone().is_empty() { 0 } else { 2 }
    }
}

/// Outcomes that say nothing of a repository whose files are there to be read: it may be what would have been found,
/// and whoever uploads can bring most of them about.
const UNDONE: &[&str] = &["network", "io", "internal", "budget", "index", "malformed", "unsupported", "too-large"];

/// Hears of progress.
pub trait SweepObserver: Sync {
    /// Planning is over.
    fn planned(&self, _listed: &PlannedCounts) {}
    /// A row ended; `done` of `total` rows of this round have.
    fn examined(&self, _repository: &RepoId, _outcome: &RepositoryOutcome, _done: u64, _total: u64) {}
}

/// An observer that does nothing.
pub struct Silent;

impl SweepObserver for Silent {}

/// Plans and works until done. With `watch`, until stopped.
pub fn sweep(
    examiner: &Examiner,
    queue: &Queue,
    writer: &Writer,
    plan: &Plan,
    settings: &SweepSettings,
    observer: &dyn SweepObserver,
) -> Result<SweepSummary> {
    let started = Instant::now();
    let described = serde_json::to_string(plan).unwrap_or_default();
    let run = queue.begin(&described, Timestamp::now())?;
    let mut summary = SweepSummary::default();
    for poll in 0.. {
        match plan::list(examiner, queue, plan, poll) {
            Ok(listed) => {
                observer.planned(&listed);
                summary.listed.seen += listed.seen;
                summary.listed.queued += listed.queued;
                summary.listed.waiting += listed.waiting;
                summary.listed.unchanged += listed.unchanged;
                note(settings, &summary, &listed.incomplete);
                // What an earlier poll of a watch could not list, this one has.
                summary.listed.incomplete = listed.incomplete;
            }
            Err(error) if error.kind == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind, ErrorKind::Usage | ErrorKind::Unsupported | ErrorKind::Index) => {
                return Err(error);
            }
            // What is already queued is worked on all the same, and the trouble told at the end.
            Err(error) => {
                let said = vec![error.one_line()];
                note(settings, &summary, &said);
                summary.listed.incomplete = said;
            }
        }
        round(examiner, queue, writer, settings, observer, &mut summary)?;
        summary.limited = settings.limit.is_some_and(|limit| summary.examined >= limit);
        let Some(pause) = settings.watch.filter(|_| !summary.limited) else { break };
        if examiner.client.stop().is_cancelled() || examiner.client.pause(pause).is_err() {
            break;
        }
    }
    let totals = examiner.night.totals();
    (summary.requests, summary.bytes, summary.weight_bytes) = (totals.requests, totals.bytes, totals.weight_bytes);
    let counts = queue.counts()?;
    summary.left = counts.queued + counts.leased;
    summary.stopped = examiner.client.stop().is_cancelled();
    summary.out_of_budget = examiner.night.was_refused() || examiner.night.is_spent();
    summary.seconds = started.elapsed().as_secs_f64();
    let unreported = queue.unreported(run)?;
    summary.worst = summary.worst.max(unreported.worst);
    summary.unreported = unreported.outcomes;
    queue.end(run, &serde_json::to_string(&summary).unwrap_or_default(), Timestamp::now())?;
    Ok(summary)
}

/// Says what a poll of a watch could not list when it happens, as a watch may not end for weeks; what the poll before
/// could not list either is not said again. Without a watch the end of the run is near, and tells.
fn note(settings: &SweepSettings, before: &SweepSummary, incomplete: &[String]) {
    if settings.watch.is_some() {
        for said in incomplete.iter().filter(|said| !before.listed.incomplete.contains(said)) {
            tracing::warn!("not listed in full: {said}");
        }
    }
}

/// Works until no row can be taken.
fn round(
    examiner: &Examiner,
    queue: &Queue,
    writer: &Writer,
    settings: &SweepSettings,
    observer: &dyn SweepObserver,
    summary: &mut SweepSummary,
) -> Result<()> {
    let total =
        queue.counts()?.queued.min(settings.limit.map_or(u64::MAX, |limit| limit - summary.examined.min(limit)));
    let halt = AtomicBool::new(false);
    // Counted when taken, so that several workers together do not pass it.
    let taken = AtomicU64::new(summary.examined);
    let shared = Mutex::new((summary, 0u64, None::<Error>));
    let is_over =
        || halt.load(Ordering::Relaxed) || examiner.client.stop().is_cancelled() || examiner.night.was_refused();
    std::thread::scope(|scope| {
        for _ in 0..settings.workers.max(1) {
            scope.spawn(|| {
                while !is_over() {
                    let earlier = taken.fetch_add(1, Ordering::Relaxed);
                    if settings.limit.is_some_and(|limit| earlier >= limit) {
                        break;
                    }
                    let step = match queue.lease(Timestamp::now()) {
                        Ok(Some(item)) => {
                            one(examiner, queue, writer, settings, &item).map(|ended| Some((item, ended)))
                        }
                        Ok(None) => Ok(None),
                        Err(error) => Err(error),
                    };
                    if !matches!(step, Ok(Some((_, Some(_))))) {
                        taken.fetch_sub(1, Ordering::Relaxed);
                    }
                    match step {
                        Ok(Some((item, Some(outcome)))) => {
                            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                            shared.1 += 1;
                            count(shared.0, &outcome);
                            let id = RepoId { hub: item.hub, name: item.repository };
                            observer.examined(&id, &outcome, shared.1, total);
                        }
                        Ok(Some((_, None))) => {}
                        Ok(None) => match queue.next_in(Timestamp::now()) {
                            // Rows rest: the network may come back. Others may still be leased by fellow workers.
                            Ok(Some(wait)) if wait.is_positive() => {
                                let _ = examiner
                                    .client
                                    .pause(wait.unsigned_abs().clamp(Duration::from_secs(1), Duration::from_secs(5)));
                            }
                            Ok(Some(_)) => {}
                            Ok(None) => break,
                            Err(error) => {
                                halt.store(true, Ordering::Relaxed);
                                shared.lock().unwrap_or_else(PoisonError::into_inner).2 = Some(error);
                            }
                        },
                        Err(error) => {
                            // The index cannot be written: nothing examined from here on would be kept.
                            halt.store(true, Ordering::Relaxed);
                            shared.lock().unwrap_or_else(PoisonError::into_inner).2 = Some(error);
                        }
                    }
                }
            });
        }
    });
    let (_, _, trouble) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    trouble.map_or(Ok(()), Err)
}

/// One row to its end. `None` when it went back to the queue.
fn one(
    examiner: &Examiner,
    queue: &Queue,
    writer: &Writer,
    settings: &SweepSettings,
    item: &QueueItem,
) -> Result<Option<RepositoryOutcome>> {
    let id = RepoId { hub: item.hub.clone(), name: item.repository.clone() };
    let base = Some(item.base.as_str()).filter(|base| !base.is_empty());
    let given_up = |error: &Error, kind: ErrorKind| RepositoryOutcome {
        examination: examiner.failed(&id, &item.facts, base, error),
        failure: Some(kind),
        spent: Default::default(),
    };
    let outcome = if item.attempts > MOST_ATTEMPTS {
        let error = Error::new(
            ErrorKind::Internal,
            format!("examining {id}: given up after {MOST_ATTEMPTS} attempts that ended without an outcome"),
        );
        given_up(&error, ErrorKind::Internal)
    } else {
        match examiner.examine(&id, &item.facts, base) {
            Ok(outcome) => outcome,
            Err(error) if error.kind == ErrorKind::Interrupted || examiner.night.was_refused() => {
                queue.give_back(item, Timestamp::now())?;
                return Ok(None);
            }
            Err(error) if error.kind == ErrorKind::Index => return Err(error),
            Err(error) if item.attempts < settings.tries => {
                tracing::info!("{id}: {}", error.one_line());
                queue.again(item, settings.rest, Timestamp::now())?;
                return Ok(None);
            }
            Err(error) => given_up(&error, error.kind),
        }
    };
    // Recorded first, ended after: a kill between the two repeats the recording, which changes nothing.
    let base = examiner.bases.facts(&outcome.examination.base.source);
    record(writer, &outcome.examination, &item.facts, base.as_ref())?;
    if let Some(base) = examiner.bases.unenrolled(&outcome.examination.base.source) {
        let now = Timestamp::now();
        // The examination is recorded; that its base is not known by its weights is no reason to repeat it.
        let _ = writer.submit(move |connection| enroll(connection, &base, EnrolledAs::Base, now))?;
    }
    let commit = item.facts.commit.as_deref().unwrap_or_default();
    let examined = examiner.settings.key(commit, &outcome.examination.tool);
    let word = outcome.word();
    let ending = QueueEnding {
        examined: &examined,
        outcome: word,
        passing: outcome.is_passing(),
        reason: outcome.examination.reason.as_deref(),
    };
    queue.done(item, &ending, Timestamp::now())?;
    Ok(Some(outcome))
}

/// Records one examination of a repository, with what the hub said of it and of its base (downloads, dates), durably.
/// Recording the same one again changes nothing.
fn record(writer: &Writer, examination: &Examination, facts: &RepoInfo, base: Option<&RepoInfo>) -> Result<()> {
    let (examination, now) = (examination.clone(), Timestamp::now());
    let base = base.map(Listing::from);
    let listing = Listing::from(facts).with_family_of(base.as_ref(), &examination);
    // Only when it is on disk may its row of the queue be done.
    let recorded = writer.submit(move |connection| {
        record_listing(connection, &examination.candidate.source, &listing, now)?;
        if let Some(base) = &base {
            record_listing(connection, &examination.base.source, base, now)?;
        }
        index::record(connection, &examination, now)
    })?;
    recorded.wait().map(|_| ())
}

fn count(summary: &mut SweepSummary, outcome: &RepositoryOutcome) {
    let examination = &outcome.examination;
    let add = |map: &mut BTreeMap<String, u64>, key: String| *map.entry(key).or_default() += 1;
    summary.examined += 1;
    add(&mut summary.outcomes, outcome.word().to_owned());
    if outcome.failure.is_none() {
        add(&mut summary.relations, examination.relation.as_str().to_owned());
        add(&mut summary.depths, examination.depth.as_str().to_owned());
    } else if let Some(reason) = &examination.reason {
        // The words up to the first name: reasons are counted by kind, not by repository.
        let kind = reason.split(':').next().unwrap_or(reason).to_owned();
        add(&mut summary.reasons, kind);
    }
    for finding in &examination.findings {
        add(&mut summary.findings, finding.severity.as_str().to_owned());
        summary.worst = summary.worst.max(Some(finding.severity));
    }
}
