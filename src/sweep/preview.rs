//! What a sweep would examine: the same listings, followed into nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rusqlite::params;
use serde::Serialize;

use super::plan::{self, ExaminedKey, Plan, Planned, PlannedCounts, Sink};
use super::queue::{becomes, failed, knows};
use crate::error::Result;
use crate::examine::Examiner;
use crate::hub::RepoInfo;
use crate::index::Index;

/// What a sweep would do now. Neither the queue nor the examinations of the index know of it afterwards.
#[derive(Debug, Clone, Serialize)]
pub struct Preview {
    /// What was listed.
    pub listed: PlannedCounts,
    /// What would be examined: what waits already before what is new.
    pub would_examine: Vec<Would>,
    /// Requests that listing took.
    pub requests: u64,
    /// Bytes that it received.
    pub bytes: u64,
}

/// A repository that would be examined.
#[derive(Debug, Clone, Serialize)]
pub struct Would {
    /// With its hub's prefix.
    pub repository: String,
    /// Its commit, or what stands for one where the hub has none.
    pub revision: Option<String>,
    /// The base to compare with; none where the repository's own claim is taken.
    pub base: Option<String>,
    /// Whether it waits in the queue since an earlier sweep.
    pub waiting: bool,
}

/// Hub, repository and base of a row.
type Place = (String, String, String);

/// Remembers what would be queued, beside the queue of an index that is only read.
struct Looker {
    index: Option<Index>,
    /// What waits, in the order in which it would be taken.
    waiting: Vec<Place>,
    /// Commits of all that would be examined.
    commits: RefCell<BTreeMap<Place, String>>,
}

/// Lists what a sweep into the index at `path` would examine; the index need not be there.
pub fn preview(examiner: &Examiner, path: &Path, plan: &Plan) -> Result<Preview> {
    let index = if path.exists() { Some(Index::open_read_only(path)?) } else { None };
    let queued = index.as_ref().map(queued).transpose()?.unwrap_or_default();
    let waiting = queued.iter().map(|(place, _)| place.clone()).collect();
    let looker = Looker { index, waiting, commits: RefCell::new(queued.into_iter().collect()) };
    let listed = plan::list(examiner, &looker, plan, 0)?;
    let totals = examiner.night.totals();
    let mut commits = looker.commits.into_inner();
    let mut would_examine = Vec::with_capacity(commits.len());
    for place in looker.waiting {
        would_examine.extend(commits.remove(&place).map(|commit| would(place, commit, true)));
    }
    would_examine.extend(commits.into_iter().map(|(place, commit)| would(place, commit, false)));
    Ok(Preview { listed, would_examine, requests: totals.requests, bytes: totals.bytes })
}

fn would((hub, repository, base): Place, commit: String, waiting: bool) -> Would {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Would { repository: format!("{hub}:{repository}"), revision: some(commit), base: some(base), waiting }
}

/// What waits in the queue, or was left in the hands of a killed process, with the commits that were listed.
fn queued(index: &Index) -> Result<Vec<(Place, String)>> {
    index
        .connection()
        .prepare(
            "SELECT hub, repository, base, listed FROM sweep_queue WHERE state <> 'done'
             ORDER BY attempts, first_seen, hub, repository, base",
        )
        .and_then(|mut statement| {
            let row = |row: &rusqlite::Row<'_>| Ok(((row.get(0)?, row.get(1)?, row.get(2)?), row.get(3)?));
            statement.query_map(params![], row)?.collect()
        })
        .map_err(failed("reading the sweep's queue"))
}

impl Sink for Looker {
    fn knows(&self, base: &str) -> Result<bool> {
        self.index.as_ref().map_or(Ok(false), |index| knows(index.connection(), base))
    }

    fn take(
        &self,
        (hub, base): (&str, &str),
        rows: &[RepoInfo],
        key: &ExaminedKey<'_>,
        rest: SignedDuration,
    ) -> Result<Vec<Planned>> {
        let mut commits = self.commits.borrow_mut();
        let now = Timestamp::now();
        let mut planned = Vec::with_capacity(rows.len());
        for row in rows {
            let commit = row.commit.clone().unwrap_or_default();
            let place = (hub.to_owned(), row.name.clone(), base.to_owned());
            let what = match &self.index {
                // Listed twice, it is queued once.
                _ if commits.contains_key(&place) => Planned::Waiting,
                Some(index) => becomes(index.connection(), (hub, &row.name, base), &key(&commit), (rest, now))?,
                None => Planned::Queued,
            };
            if what != Planned::Skipped {
                commits.insert(place, commit);
            }
            planned.push(what);
        }
        Ok(planned)
    }
}
