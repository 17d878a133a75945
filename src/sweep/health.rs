//! How sweeps of an index have ended, and what is stuck in their queue: for who looks after one that nobody watches.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::Row;

use super::lock;
use super::queue::failed;
use super::work::{Run, last_runs};
use crate::error::Result;
use crate::index::Index;

/// Attempts without an outcome from which on a waiting repository is told of: a run makes no more of them.
const FAILING: u32 = 3;

/// Seconds that a repository may be with a worker: two hours of requests, and time for what it and its base hold.
const LONG: i64 = 6 * 3600;

/// Seconds after which what waits has been passed over by several nights.
const PASSED_OVER: i64 = 7 * 86_400;

/// Names told of each kind.
const NAMED: usize = 3;

/// How sweeps of an index are.
#[derive(Debug)]
pub struct Health {
    /// Whether one is at work now.
    pub running: bool,
    /// The last one, whether it ended or not.
    pub last: Option<Run>,
    /// When the last one that ended did.
    pub ended: Option<Timestamp>,
    /// How many that began after that did not end, with the one at work.
    pub unended: u64,
    /// Repositories that are with a worker for longer than any should be, or with a process that is gone.
    pub held: Stuck,
    /// Repositories that were tried several times without an outcome.
    pub failing: Stuck,
    /// Repositories that wait since many nights.
    pub passed_over: Stuck,
    /// Repositories whose last outcome is trouble that may pass: the network, a hub, a disk.
    pub troubled: Stuck,
}

/// Rows of the queue: how many, and the first of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// How many.
    pub count: u64,
    /// The names of some.
    pub named: Vec<String>,
}

/// What is known of the sweeps of the index at `path`, which is open to read.
pub fn health(index: &Index, path: &Path, now: i64) -> Result<Health> {
    let running = lock::is_held(path);
    let one = |sql: &str| {
        index
            .connection()
            .query_row(sql, [], |row: &Row<'_>| row.get::<_, Option<i64>>(0))
            .map_err(failed("reading the last sweeps"))
    };
    let ended = one("SELECT max(ended) FROM sweep_run")?;
    let unended = one(
        "SELECT count(*) FROM sweep_run WHERE id > (SELECT coalesce(max(id), 0) FROM sweep_run WHERE ended IS NOT NULL)",
    )?;
    // A lease without a sweep is a killed one's, however young.
    let leased_before = if running { now - LONG } else { i64::MAX };
    Ok(Health {
        running,
        last: last_runs(index, 1)?.pop(),
        ended: ended.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        unended: unended.and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
        held: stuck(index, "state = 'leased' AND changed < ?1", leased_before)?,
        failing: stuck(index, "state = 'queued' AND attempts >= ?1", i64::from(FAILING))?,
        passed_over: stuck(index, "state = 'queued' AND first_seen < ?1 AND examined IS NULL", now - PASSED_OVER)?,
        troubled: stuck(index, "state = 'done' AND passing = ?1", 1)?,
    })
}

fn stuck(index: &Index, which: &str, bound: i64) -> Result<Stuck> {
    let doing = "looking through the sweep's queue";
    let connection = index.connection();
    let count: i64 = connection
        .query_row(&format!("SELECT count(*) FROM sweep_queue WHERE {which}"), [bound], |row| row.get(0))
        .map_err(failed(doing))?;
    let sql = format!(
        "SELECT hub || ':' || repository FROM sweep_queue WHERE {which}
         ORDER BY attempts DESC, changed, hub, repository LIMIT {NAMED}"
    );
    let named = connection
        .prepare(&sql)
        .and_then(|mut statement| statement.query_map([bound], |row| row.get(0))?.collect())
        .map_err(failed(doing))?;
    Ok(Stuck { count: u64::try_from(count).unwrap_or(0), named })
}
