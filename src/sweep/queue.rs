//! The queue of a sweep, in the index's own SQLite file: explicit states, leases, attempts.
//!
//! One process sweeps one index at a time (an operating-system lock on a file beside it, [`super::lock`]), so leases
//! found at the start belong to nobody and are taken back at once. Within the process each worker leases one row at a
//! time and holds it until it hands in an outcome, however long that takes: no clock ends a lease, as a row that is
//! taken from a live worker would be examined twice. A row is done only after its examination was recorded, and
//! recording the same examination twice changes nothing, so a kill at any moment loses and doubles nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::lock::Lock;
use super::plan::{ExaminedKey, Planned, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Severity;
use crate::hub::RepoInfo;
use crate::index::{Index, failed as index_failed};
use crate::limits::{MAX_LISTING_BYTES, MAX_TAG_BYTES, MAX_TAGS};

/// Leases without an outcome after which a repository is given up: it may be what kills the process.
pub const MOST_ATTEMPTS: u32 = 12;

/// One row to work on.
#[derive(Debug, Clone)]
pub struct QueueItem {
    /// Short name of the hub.
    pub hub: String,
    /// The repository's name.
    pub repository: String,
    /// The base asked for (`hf:org/name`), or empty.
    pub base: String,
    /// What the listing said.
    pub facts: RepoInfo,
    /// Leases so far, with this one.
    pub attempts: u32,
}

/// What a row ended in.
#[derive(Debug, Clone)]
pub struct QueueEnding<'a> {
    /// Commit, depth and tool version, one a line: the same again is skipped.
    pub examined: &'a str,
    /// Verdict or kind of failure.
    pub outcome: &'a str,
    /// Whether another night may end otherwise though nothing changed.
    pub passing: bool,
    /// In words, for failures.
    pub reason: Option<&'a str>,
}

/// Counts by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Waiting for a worker.
    pub queued: u64,
    /// With a worker.
    pub leased: u64,
    /// Ended.
    pub done: u64,
}

/// What was judged in runs that were killed, which told nobody, and in the run that went on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreported {
    /// Repositories per outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The worst severity found.
    pub worst: Option<Severity>,
}

/// The queue.
pub struct Queue {
    index: Mutex<Index>,
    /// Held as long as the queue is open, and given up after the index is closed.
    _lock: Lock,
}

pub(super) fn failed(doing: &str) -> impl Fn(rusqlite::Error) -> Error + '_ {
    move |error| index_failed(doing, error)
}

/// The second that is so long after a time, as the queue keeps times.
fn later(time: Timestamp, rest: SignedDuration) -> i64 {
    time.as_second().saturating_add(rest.as_secs())
}

/// Whether a row that changed at that second has rested so long.
fn has_rested(changed: i64, rest: SignedDuration, now: Timestamp) -> bool {
    now.as_second().saturating_sub(changed) >= rest.as_secs()
}

/// What a listing said of a repository, as the queue keeps it: what only a hostile uploader makes long is left out, as
/// one row must not fill the index. What is asked for again when the repository is examined may be missing whole.
fn facts_of(row: &RepoInfo, doing: &str) -> Result<String> {
    let text =
        |row: &RepoInfo| serde_json::to_string(row).map_err(|error| Error::because(ErrorKind::Internal, doing, error));
    let short = |tag: &&String| tag.len() <= MAX_TAG_BYTES;
    if row.tags.len() <= MAX_TAGS && row.tags.iter().all(|tag| short(&tag)) {
        let facts = text(row)?;
        if facts.len() <= MAX_LISTING_BYTES {
            return Ok(facts);
        }
    }
    let mut row = RepoInfo { tags: row.tags.iter().filter(short).take(MAX_TAGS).cloned().collect(), ..row.clone() };
    for spare in [&mut row.card, &mut row.config, &mut row.base_models] {
        if spare.to_string().len() > MAX_LISTING_BYTES / 4 {
            *spare = serde_json::Value::Null;
        }
    }
    text(&row)
}

/// What becomes of a row that was listed in a state with this key ([`QueueEnding::examined`]). A failure that may pass
/// and has rested is tried again.
pub(super) fn becomes(
    connection: &Connection,
    (hub, repository, base): (&str, &str, &str),
    key: &str,
    (rest, now): (SignedDuration, Timestamp),
) -> Result<Planned> {
    let known: Option<(String, Option<String>, bool, i64)> = connection
        .prepare_cached(
            "SELECT state, examined, passing, changed FROM sweep_queue
             WHERE hub = ?1 AND repository = ?2 AND base = ?3",
        )
        .and_then(|mut statement| {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            statement.query_row(params![hub, repository, base], row).optional()
        })
        .map_err(failed("planning the sweep"))?;
    Ok(match known {
        Some((state, ..)) if state != "done" => Planned::Waiting,
        Some((_, Some(examined), passing, changed))
            if examined == key && (!passing || !has_rested(changed, rest, now)) =>
        {
            Planned::Skipped
        }
        _ => Planned::Queued,
    })
}

/// Whether repositories were examined against this base before.
pub(super) fn knows(connection: &Connection, base: &str) -> Result<bool> {
    connection
        .query_row("SELECT EXISTS (SELECT 1 FROM sweep_queue WHERE base = ?1 AND state = 'done')", [base], |row| {
            row.get(0)
        })
        .map_err(failed("asking the sweep's queue"))
}

impl Queue {
    /// Opens the queue in the SQLite file at `path`, takes the sweep's lock, and takes back leases of processes that
    /// are gone. `Usage` when another sweep holds the lock.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self> {
        let lock = Lock::take(path)?;
        let doing = "opening the sweep's queue";
        let index = Index::open(path)?;
        // A change of the queue that a power failure takes back is made again: examinations are on disk before their
        // rows are done, and recording one twice changes nothing.
        index.connection().pragma_update(None, "synchronous", "NORMAL").map_err(failed(doing))?;
        index
            .connection()
            .execute("UPDATE sweep_queue SET state = 'queued', changed = ?1 WHERE state = 'leased'", [now.as_second()])
            .map_err(failed(doing))?;
        Ok(Self { index: Mutex::new(index), _lock: lock })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Each use is one statement or one transaction, so nothing is left half-done by a panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a listing said. `key` makes from a listed commit the text that [`QueueEnding::examined`]
    /// would carry now. A failure that may pass is tried again once its row has rested so long. All rows in one
    /// transaction.
    pub fn plan(
        &self,
        hub: &str,
        base: &str,
        rows: &[RepoInfo],
        key: &ExaminedKey<'_>,
        rest: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<Planned>> {
        let doing = "planning the sweep";
        let mut index = self.index();
        let transaction =
            index.connection_mut().transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(doing))?;
        let mut planned = Vec::with_capacity(rows.len());
        for row in rows {
            let listed = row.commit.as_deref().unwrap_or_default();
            let facts = facts_of(row, doing)?;
            let what = becomes(&transaction, (hub, &row.name, base), &key(listed), (rest, now))?;
            match what {
                Planned::Queued => transaction
                    .execute(
                        "INSERT INTO sweep_queue (hub, repository, base, listed, facts, state, first_seen, changed)
                         VALUES (?1, ?2, ?3, ?4, ?5, 'queued', ?6, ?6)
                         ON CONFLICT DO UPDATE SET listed = ?4, facts = ?5, state = 'queued', attempts = 0,
                             not_before = 0, changed = ?6",
                        params![hub, row.name, base, listed, facts, now.as_second()],
                    )
                    .map_err(failed(doing))?,
                // What waits is examined as it is now; what is skipped still gets its newest counts.
                Planned::Waiting | Planned::Skipped => transaction
                    .execute(
                        "UPDATE sweep_queue SET listed = ?4, facts = ?5
                         WHERE hub = ?1 AND repository = ?2 AND base = ?3",
                        params![hub, row.name, base, listed, facts],
                    )
                    .map_err(failed(doing))?,
            };
            planned.push(what);
        }
        transaction.commit().map_err(failed(doing))?;
        Ok(planned)
    }

    /// Leases the next row until it is done or handed back; those that were tried least come first, so one that kills
    /// its worker does not block the rest.
    pub fn lease(&self, now: Timestamp) -> Result<Option<QueueItem>> {
        let doing = "leasing from the sweep's queue";
        // The column `leased_until` of the released schema is left at its default: leases end with the process, not
        // with time.
        let found = self
            .index()
            .connection()
            .query_row(
                "UPDATE sweep_queue SET state = 'leased', attempts = attempts + 1, changed = ?1
                 WHERE (hub, repository, base) = (
                     SELECT hub, repository, base FROM sweep_queue
                     WHERE state = 'queued' AND not_before <= ?1
                     ORDER BY attempts, first_seen, hub, repository, base LIMIT 1)
                 RETURNING hub, repository, base, facts, attempts",
                [now.as_second()],
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, String>(2)?,
                        row.get::<_, String>(3)?,
                        row.get::<_, u32>(4)?,
                    ))
                },
            )
            .optional()
            .map_err(failed(doing))?;
        let Some((hub, repository, base, facts, attempts)) = found else { return Ok(None) };
        let facts = serde_json::from_str(&facts).map_err(|error| {
            Error::because(ErrorKind::Index, format!("{doing}: the facts of {hub}:{repository}"), error)
        })?;
        Ok(Some(QueueItem { hub, repository, base, facts, attempts }))
    }

    /// The row's examination is recorded: it is done.
    pub fn done(&self, item: &QueueItem, ending: &QueueEnding<'_>, now: Timestamp) -> Result<()> {
        self.index()
            .connection()
            .execute(
                "UPDATE sweep_queue SET state = 'done', attempts = 0, examined = ?4, outcome = ?5, passing = ?6,
                     reason = ?7, changed = ?8
                 WHERE hub = ?1 AND repository = ?2 AND base = ?3",
                params![
                    item.hub,
                    item.repository,
                    item.base,
                    ending.examined,
                    ending.outcome,
                    ending.passing,
                    ending.reason,
                    now.as_second()
                ],
            )
            .map(|_| ())
            .map_err(failed("ending a row of the sweep's queue"))
    }

    /// Back to the queue, to rest so long; the attempt counts.
    pub fn again(&self, item: &QueueItem, rest: SignedDuration, now: Timestamp) -> Result<()> {
        self.index()
            .connection()
            .execute(
                "UPDATE sweep_queue SET state = 'queued', not_before = ?4, changed = ?5
                 WHERE hub = ?1 AND repository = ?2 AND base = ?3",
                params![item.hub, item.repository, item.base, later(now, rest), now.as_second()],
            )
            .map(|_| ())
            .map_err(failed("returning a row to the sweep's queue"))
    }

    /// Back to the queue as if never leased: the user stopped the sweep, or the night's budget is spent.
    pub fn give_back(&self, item: &QueueItem, now: Timestamp) -> Result<()> {
        self.index()
            .connection()
            .execute(
                "UPDATE sweep_queue SET state = 'queued', attempts = max(attempts - 1, 0), changed = ?4
                 WHERE hub = ?1 AND repository = ?2 AND base = ?3",
                params![item.hub, item.repository, item.base, now.as_second()],
            )
            .map(|_| ())
            .map_err(failed("giving a row of the sweep's queue back"))
    }

    /// Counts by state.
    pub fn counts(&self) -> Result<QueueCounts> {
        let doing = "counting the sweep's queue";
        let index = self.index();
        let mut statement = index
            .connection()
            .prepare("SELECT state, count(*) FROM sweep_queue GROUP BY state")
            .map_err(failed(doing))?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
            .map_err(failed(doing))?;
        let mut counts = QueueCounts::default();
        for row in rows {
            let (state, count) = row.map_err(failed(doing))?;
            let count = u64::try_from(count).unwrap_or(0);
            match state.as_str() {
                "queued" => counts.queued = count,
                "leased" => counts.leased = count,
                _ => counts.done = count,
            }
        }
        Ok(counts)
    }

    /// How long until the next resting row may be taken, if rows are waiting at all.
    pub fn next_in(&self, now: Timestamp) -> Result<Option<SignedDuration>> {
        self.index()
            .connection()
            .query_row("SELECT min(not_before) FROM sweep_queue WHERE state = 'queued'", [], |row| {
                row.get::<_, Option<i64>>(0)
            })
            .map(|next| next.map(|next| SignedDuration::from_secs(next.saturating_sub(now.as_second()).max(0))))
            .map_err(failed("asking the sweep's queue"))
    }

    /// What was judged since the last run that ended, where runs after it did not: they were killed, and nobody was
    /// told. With what `run` itself judged so far; empty where the run before ended.
    pub fn unreported(&self, run: i64) -> Result<Unreported> {
        let doing = "asking what killed sweeps judged";
        let index = self.index();
        let connection = index.connection();
        let since: Option<i64> = connection
            .query_row(
                "SELECT min(started) FROM sweep_run WHERE id < ?1 AND ended IS NULL AND id >
                     (SELECT coalesce(max(id), 0) FROM sweep_run WHERE id < ?1 AND ended IS NOT NULL)",
                [run],
                |row| row.get(0),
            )
            .map_err(failed(doing))?;
        let Some(since) = since else { return Ok(Unreported::default()) };
        let mut statement = connection
            .prepare(
                "SELECT coalesce(outcome, ''), count(*) FROM sweep_queue WHERE state = 'done' AND changed >= ?1
                 GROUP BY 1",
            )
            .map_err(failed(doing))?;
        let outcomes = statement
            .query_map([since], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(failed(doing))?;
        let worst: Option<i64> = connection
            .query_row(
                "SELECT max(examination.severity) FROM sweep_queue
                 JOIN repository ON repository.source = sweep_queue.hub || ':' || sweep_queue.repository
                 JOIN examination ON examination.candidate_repository = repository.key AND examination.last_seen >= ?1
                 WHERE sweep_queue.state = 'done' AND sweep_queue.changed >= ?1",
                [since],
                |row| row.get(0),
            )
            .map_err(failed(doing))?;
        Ok(Unreported {
            outcomes: outcomes.into_iter().map(|(word, count)| (word, u64::try_from(count).unwrap_or(0))).collect(),
            worst: match worst {
                Some(4..) => Some(Severity::High),
                Some(3) => Some(Severity::Medium),
                Some(2) => Some(Severity::Low),
                Some(1) => Some(Severity::Info),
                _ => None,
            },
        })
    }

    /// Notes the beginning of a run.
    pub fn begin(&self, plan: &str, now: Timestamp) -> Result<i64> {
        let index = self.index();
        let connection = index.connection();
        connection
            .execute("INSERT INTO sweep_run (started, plan) VALUES (?1, ?2)", params![now.as_second(), plan])
            .map_err(failed("noting the sweep"))?;
        Ok(connection.last_insert_rowid())
    }

    /// Notes the end of a run.
    pub fn end(&self, run: i64, summary: &str, now: Timestamp) -> Result<()> {
        self.index()
            .connection()
            .execute(
                "UPDATE sweep_run SET ended = ?2, summary = ?3 WHERE id = ?1",
                params![run, now.as_second(), summary],
            )
            .map(|_| ())
            .map_err(failed("noting the sweep's end"))
    }
}

impl Sink for Queue {
    fn knows(&self, base: &str) -> Result<bool> {
        knows(self.index().connection(), base)
    }

    fn take(
        &self,
        listing: (&str, &str),
        rows: &[RepoInfo],
        key: &ExaminedKey<'_>,
        rest: SignedDuration,
    ) -> Result<Vec<Planned>> {
        let (hub, base) = listing;
        self.plan(hub, base, rows, key, rest, Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No rest.
    const NONE: SignedDuration = SignedDuration::ZERO;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn repo(name: &str, commit: &str) -> RepoInfo {
        RepoInfo { name: name.into(), commit: Some(commit.into()), ..RepoInfo::default() }
    }

    #[test]
    fn a_row_goes_through_its_states_and_is_skipped_when_nothing_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let key = |commit: &str| format!("{commit}\nscreen\n1\ncat");
        let queue = Queue::open(&path, at(0)).unwrap();
        let plan = |commit: &str, now| {
            queue.plan("hf", "hf:org/base", &[repo("a/b", commit)], &key, NONE, at(now)).unwrap()[0]
        };
        assert_eq!(plan("c1", 1), Planned::Queued);
        assert_eq!(plan("c1", 2), Planned::Waiting);
        let item = queue.lease(at(3)).unwrap().unwrap();
        assert_eq!((item.repository.as_str(), item.attempts), ("a/b", 1));
        assert!(queue.lease(at(4)).unwrap().is_none());
        let ending = QueueEnding { examined: &key("c1"), outcome: "clear", passing: false, reason: None };
        queue.done(&item, &ending, at(5)).unwrap();
        assert_eq!(plan("c1", 6), Planned::Skipped);
        assert_eq!(plan("c2", 7), Planned::Queued, "a new commit");
        let item = queue.lease(at(8)).unwrap().unwrap();
        queue.again(&item, SignedDuration::from_secs(50), at(8)).unwrap();
        assert!(queue.lease(at(9)).unwrap().is_none(), "it rests");
        assert_eq!(queue.next_in(at(10)).unwrap(), Some(SignedDuration::from_secs(48)));
        let item = queue.lease(at(60)).unwrap().unwrap();
        assert_eq!(item.attempts, 2);
        queue.give_back(&item, at(61)).unwrap();
        assert_eq!(queue.lease(at(62)).unwrap().unwrap().attempts, 2);
        let ending = QueueEnding { examined: &key("c2"), outcome: "network", passing: true, reason: Some("down") };
        queue.done(&item, &ending, at(63)).unwrap();
        let resting = queue
            .plan("hf", "hf:org/base", &[repo("a/b", "c2")], &key, SignedDuration::from_secs(100), at(64))
            .unwrap();
        assert_eq!(resting, [Planned::Skipped], "not at once in a watch");
        assert_eq!(plan("c2", 64), Planned::Queued, "a passing failure is tried again another night");
        let other = queue
            .plan("hf", "hf:org/base", &[repo("a/b", "c2")], &|c| format!("{c}\nscreen\n2"), NONE, at(65))
            .unwrap();
        assert_eq!(other, [Planned::Waiting]);
    }

    #[test]
    fn a_row_of_a_listing_takes_no_more_than_its_share() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("index.db"), at(0)).unwrap();
        let mut row = repo("a/b", "c");
        row.tags = (0..500_000).map(|number| format!("tag-{number}")).chain(["x".repeat(10 << 20)]).collect();
        row.card = serde_json::json!({ "text": "y".repeat(10 << 20) });
        row.base_models = serde_json::json!(["org/base"]);
        queue.plan("hf", "", &[row], &|commit| commit.to_owned(), NONE, at(0)).unwrap();
        let length: i64 = queue
            .index()
            .connection()
            .query_row("SELECT length(facts) FROM sweep_queue", [], |row| row.get(0))
            .unwrap();
        assert!(length <= MAX_LISTING_BYTES as i64, "{length}");
        let facts = queue.lease(at(1)).unwrap().unwrap().facts;
        assert_eq!((facts.tags.len(), facts.tags[0].as_str()), (MAX_TAGS, "tag-0"));
        assert_eq!((facts.card, facts.base_models), (serde_json::Value::Null, serde_json::json!(["org/base"])));
    }

    #[test]
    fn leases_of_a_killed_process_come_back_and_two_sweeps_do_not_share_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let queue = Queue::open(&path, at(0)).unwrap();
        let rows = [repo("a/1", "c"), repo("a/2", "c")];
        queue.plan("hf", "", &rows, &|c| c.to_owned(), NONE, at(0)).unwrap();
        let first = queue.lease(at(1)).unwrap().unwrap();
        assert_eq!(Queue::open(&path, at(1)).err().unwrap().kind, ErrorKind::Usage);
        drop(queue);
        let queue = Queue::open(&path, at(2)).unwrap();
        assert_eq!(queue.counts().unwrap(), QueueCounts { queued: 2, leased: 0, done: 0 });
        let next = queue.lease(at(3)).unwrap().unwrap();
        assert_ne!(next.repository, first.repository, "what was tried less comes first");
        assert_eq!(queue.lease(at(4)).unwrap().unwrap().attempts, 2);
    }

    #[test]
    fn a_leased_row_stays_leased_however_late_it_is_until_the_queue_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let queue = Queue::open(&path, at(0)).unwrap();
        queue.plan("hf", "", &[repo("a/1", "c")], &|c| c.to_owned(), NONE, at(0)).unwrap();
        queue.lease(at(1)).unwrap().unwrap();
        for late in [601, 602, 100_000, Timestamp::MAX.as_second()] {
            assert!(queue.lease(at(late)).unwrap().is_none(), "at {late} its worker is still at it");
        }
        assert_eq!(queue.counts().unwrap(), QueueCounts { queued: 0, leased: 1, done: 0 });
        drop(queue);
        let queue = Queue::open(&path, at(2)).unwrap();
        assert_eq!(queue.lease(at(2)).unwrap().unwrap().attempts, 2, "a dead worker's row is free at once");
    }
}
