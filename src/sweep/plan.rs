//! What to look at: listings of hubs, put into the queue page by page.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::examine::{Examiner, base};
use crate::hub::{self, Query, RepoInfo, fetch};
use crate::ids::Location;
use crate::judge;

/// What a sweep was asked for.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Plan {
    /// Derivatives of these bases (`hf:org/name`).
    pub bases: Vec<String>,
    /// Repositories of these owners (`hf:owner`).
    pub authors: Vec<String>,
    /// Repositories with these tags (`hf:tag`).
    pub tags: Vec<String>,
    /// Repositories whose name contains these (`hf:text`).
    pub searches: Vec<String>,
    /// Only repositories made at or after this time (RFC 3339, or a date).
    pub since: Option<String>,
    /// A hub to look for derivatives of the bases on, beside their own.
    pub also_on: Vec<String>,
}

/// What planning found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedCounts {
    /// Repositories listed.
    pub seen: u64,
    /// Of them, queued.
    pub queued: u64,
    /// Of them, waiting already.
    pub waiting: u64,
    /// Of them, examined in this very state before.
    pub unchanged: u64,
    /// What hubs kept back, in words.
    pub incomplete: Vec<String>,
}

/// What the listing did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    /// New or changed: queued.
    Queued,
    /// Waiting or being worked on already.
    Waiting,
    /// Examined in this very state before: left alone.
    Skipped,
}

/// Makes from a listed commit the text that tells whether a repository was examined in this very state.
pub type ExaminedKey<'k> = dyn Fn(&str) -> String + 'k;

/// What listings are followed into: the queue, or what only tells what the queue would do.
pub trait Sink {
    /// Whether repositories were examined against this base before.
    fn knows(&self, base: &str) -> Result<bool>;

    /// Takes rows of a listing, of a hub and for a base, and tells what becomes of each. A failure that may pass is
    /// tried again once it has rested for `rest`.
    fn take(
        &self,
        listing: (&str, &str),
        rows: &[RepoInfo],
        key: &ExaminedKey<'_>,
        rest: SignedDuration,
    ) -> Result<Vec<Planned>>;
}

/// One listing to follow.
struct Listing {
    hub: String,
    query: Query,
    /// The base that its rows are examined against; empty: the one each claims.
    base: String,
}

fn listings(plan: &Plan) -> Result<Vec<Listing>> {
    let mut all = Vec::new();
    for name in &plan.bases {
        let Location::Hub(repo, _) = name.parse::<Location>()? else {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("sweeping derivatives of {name}: a base to sweep is on a hub, as in hf:org/name"),
            ));
        };
        let query = Query { base: Some(repo.name.clone()), ..Query::default() };
        for hub in std::iter::once(&repo.hub).chain(plan.also_on.iter().filter(|hub| **hub != repo.hub)) {
            all.push(Listing { hub: hub.clone(), query: query.clone(), base: name.clone() });
        }
    }
    let mut others = |values: &[String], make: &dyn Fn(String) -> Query| {
        for value in values {
            let (entry, text) = hub::on_hub(value).unwrap_or((hub::DEFAULT, value));
            all.push(Listing { hub: entry.prefix.to_owned(), query: make(text.to_owned()), base: String::new() });
        }
    };
    others(&plan.authors, &|author| Query { author: Some(author), ..Query::default() });
    others(&plan.tags, &|tag| Query { tags: vec![tag], ..Query::default() });
    others(&plan.searches, &|search| Query { search: Some(search), ..Query::default() });
    Ok(all)
}

/// Polls after which a watch follows the listings to their end again.
const THOROUGH_EVERY: u64 = 12;

/// How long a repository rests in a watch after a failure that may pass.
const REST: SignedDuration = SignedDuration::from_hours(1);

/// Follows every listing of the plan into the sink. `poll` counts from 0 in a watch: the polls after the first read a
/// listing that has its newest first only until a page with nothing new on it, with a thorough one in between.
pub fn list(examiner: &Examiner, sink: &dyn Sink, plan: &Plan, poll: u64) -> Result<PlannedCounts> {
    let thorough = poll.is_multiple_of(THOROUGH_EVERY);
    let rest = if poll == 0 { SignedDuration::ZERO } else { REST };
    let tool = judge::tool(&examiner.catalogue);
    let key = |commit: &str| examiner.settings.key(commit, &tool);
    let mut total = PlannedCounts::default();
    for listing in listings(plan)? {
        let hub = hub::named(&listing.hub, &examiner.environment)?;
        let newest_first = hub.lists_newest_first();
        // Asked for at the first news, so that a night without any is one request for each listing.
        let before = !listing.base.is_empty() && sink.knows(&listing.base)?;
        let mut known = before || listing.base.is_empty();
        let (mut absent, mut seen, mut fresh) = (None, 0, false);
        let listed = fetch::list(&examiner.client, hub.as_ref(), &listing.query, &examiner.night, &mut |page| {
            let all = page.len();
            let rows: Vec<RepoInfo> = page.into_iter().filter(|row| is_since(row, plan.since.as_deref())).collect();
            let further = rows.len() == all || !newest_first;
            // A base is listed among an owner's repositories, but is not its own derivative.
            let rows: Vec<RepoInfo> =
                rows.into_iter().filter(|row| format!("{}:{}", listing.hub, row.name) != listing.base).collect();
            seen += rows.len() as u64;
            if !known && !rows.is_empty() {
                absent = is_absent(examiner, &listing.base);
                if absent.is_some() {
                    return Ok(false);
                }
                known = true;
            }
            let mut news = false;
            for planned in sink.take((&listing.hub, &listing.base), &rows, &key, rest)? {
                match planned {
                    Planned::Queued => {
                        news = true;
                        fresh = true;
                        total.queued += 1;
                    }
                    Planned::Waiting => total.waiting += 1,
                    Planned::Skipped => total.unchanged += 1,
                }
            }
            Ok(further && (news || thorough || !newest_first))
        });
        total.seen += seen;
        // One that was there before may be gone by now.
        if listed.is_ok() && ((!known && seen == 0) || (before && fresh)) {
            absent = is_absent(examiner, &listing.base);
        }
        match listed {
            Ok(said) => total.incomplete.extend(said.map(|said| format!("{}: {said}", listing.hub))),
            Err(error) if ENDS_ALL.contains(&error.kind) => return Err(error),
            // The other listings are followed all the same, and the trouble told at the end.
            Err(error) => total.incomplete.push(error.one_line()),
        }
        if let Some(said) = absent.filter(|said| !total.incomplete.contains(said)) {
            total.incomplete.push(said);
        }
    }
    Ok(total)
}

/// Errors of one listing that would meet every other one too.
const ENDS_ALL: &[ErrorKind] =
    &[ErrorKind::Interrupted, ErrorKind::Usage, ErrorKind::Unsupported, ErrorKind::Index, ErrorKind::Budget];

/// What the hub says when a base of the plan is not there. What else keeps it from being read is for examinations to
/// tell.
fn is_absent(examiner: &Examiner, name: &str) -> Option<String> {
    let Ok(Location::Hub(repo, revision)) = name.parse::<Location>() else { return None };
    match base::facts(&repo, revision.as_ref(), &examiner.client, &examiner.environment, &examiner.night) {
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Moved) => {
            Some(format!("the base {name} cannot be found: {}", error.one_line()))
        }
        _ => None,
    }
}

/// Times of one form compare as text; a row without a time is kept.
fn is_since(row: &RepoInfo, since: Option<&str>) -> bool {
    match (&row.created, since) {
        (Some(created), Some(since)) => created.as_str() >= since,
        _ => true,
    }
}
