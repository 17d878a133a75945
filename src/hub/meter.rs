//! Counting requests and bytes, and stopping at a budget.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// A count of what was asked and received, with an optional limit; a repository's meter has the night's as parent.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    weight_bytes: AtomicU64,
    requests: AtomicU64,
    refused: AtomicBool,
    limit: Option<u64>,
    what: &'static str,
    /// Time, and the bytes a second that lengthen it.
    time: Option<(Duration, u64)>,
    clock: Mutex<Clock>,
    parent: Option<Arc<Meter>>,
}

/// Time with at least one request or wait under way.
#[derive(Debug, Default)]
struct Clock {
    under_way: u32,
    since: Option<Instant>,
    before: Duration,
}

/// Requests and waits that a meter's time runs for, until dropped.
pub(super) struct Busy<'a>(&'a Meter);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut clock = self.0.clock();
        clock.under_way = clock.under_way.saturating_sub(1);
        if clock.under_way == 0
            && let Some(since) = clock.since.take()
        {
            clock.before += since.elapsed();
        }
    }
}

/// What a meter counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests sent, with those that failed.
    pub requests: u64,
    /// Bytes of bodies received, with those of answers that were thrown away.
    pub bytes: u64,
    /// Of them, from places that serve weights.
    pub weight_bytes: u64,
}

impl Meter {
    /// A meter with a limit in bytes; `what` says whose budget it is (`this repository's`, `the run's`).
    pub fn new(what: &'static str, limit: Option<u64>, parent: Option<Arc<Meter>>) -> Arc<Self> {
        Arc::new(Self { limit, what, parent, ..Self::default() })
    }

    /// The same with a limit in time as well: so long, and what its bytes take at so many a second. Only the time of
    /// requests and waits counts.
    pub fn timed(
        what: &'static str,
        limit: Option<u64>,
        time: (Duration, u64),
        parent: Option<Arc<Meter>>,
    ) -> Arc<Self> {
        Arc::new(Self { limit, what, parent, time: Some(time), ..Self::default() })
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        // Each change is complete before anything can panic.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the time run until the guard is dropped; several at once count once.
    pub(super) fn busy(&self) -> Busy<'_> {
        let mut clock = self.clock();
        clock.under_way += 1;
        clock.since.get_or_insert_with(Instant::now);
        Busy(self)
    }

    /// What is left of this meter's time, where it has a limit.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let (time, slowest) = self.time?;
        let bytes = self.bytes.load(Ordering::Relaxed) as f64 / slowest.max(1) as f64;
        let clock = self.clock();
        let spent = clock.before + clock.since.map(|since| since.elapsed()).unwrap_or_default();
        Some((time + Duration::from_secs_f64(bytes)).saturating_sub(spent))
    }

    /// The error that says so.
    pub(super) fn out_of_time(&self) -> Error {
        let seconds = self.time.map_or(0, |(time, _)| time.as_secs());
        let slowest = self.time.map_or(0, |(_, slowest)| slowest);
        Error::new(
            ErrorKind::Budget,
            format!(
                "waiting for a hub: {} time is over ({seconds} s, and a second for each {slowest} bytes received)",
                self.what
            ),
        )
    }

    /// A meter that only counts.
    pub fn unlimited() -> Arc<Self> {
        Self::new("this", None, None)
    }

    /// Whether `further` bytes fit the budget of this meter and of its parents; a `Budget` error where they do not.
    pub fn allow(&self, further: u64, doing: &str) -> Result<()> {
        let spent = self.bytes.load(Ordering::Relaxed);
        if let Some(limit) = self.limit
            && spent.saturating_add(further) > limit
        {
            self.refused.store(true, Ordering::Relaxed);
            return Err(Error::new(
                ErrorKind::Budget,
                format!(
                    "{doing}: {further} further bytes would pass {} budget of {limit} bytes ({spent} spent)",
                    self.what
                ),
            ));
        }
        self.parent.as_ref().map_or(Ok(()), |parent| parent.allow(further, doing))
    }

    /// Whether something was refused for want of this meter's own budget.
    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the budget is used up already.
    pub fn is_spent(&self) -> bool {
        self.limit.is_some_and(|limit| self.bytes.load(Ordering::Relaxed) >= limit)
            || self.parent.as_ref().is_some_and(|parent| parent.is_spent())
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.count_request();
        }
    }

    pub(super) fn count_bytes(&self, bytes: u64, weights: bool) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if weights {
            self.weight_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        if let Some(parent) = &self.parent {
            parent.count_bytes(bytes, weights);
        }
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        Totals {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            weight_bytes: self.weight_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_while_something_is_under_way_and_bytes_lengthen_it() {
        let meter = Meter::timed("this repository's", None, (Duration::from_secs(100), 10), None);
        assert_eq!(meter.time_left(), Some(Duration::from_secs(100)));
        meter.count_bytes(50, true);
        assert_eq!(meter.time_left(), Some(Duration::from_secs(105)));
        {
            let (_one, _other) = (meter.busy(), meter.busy());
            assert!(meter.time_left().unwrap() <= Duration::from_secs(105));
        }
        let rest = meter.time_left();
        assert!(rest.unwrap() > Duration::from_secs(90));
        assert_eq!(meter.time_left(), rest, "nothing is under way");
        assert_eq!(meter.out_of_time().kind, ErrorKind::Budget);
        assert_eq!(Meter::unlimited().time_left(), None);
    }

    #[test]
    fn a_budget_holds_through_the_parent() {
        let night = Meter::new("the run's", Some(100), None);
        let one = Meter::new("this repository's", Some(80), Some(night.clone()));
        assert!(one.allow(80, "reading").is_ok());
        assert_eq!(one.allow(81, "reading").unwrap_err().kind, ErrorKind::Budget);
        one.count_bytes(60, true);
        let other = Meter::new("this repository's", Some(80), Some(night.clone()));
        assert!(other.allow(41, "reading").unwrap_err().doing.contains("the run's"));
        assert_eq!(night.totals().weight_bytes, 60);
        assert!(!night.is_spent());
        other.count_bytes(40, false);
        assert!(night.is_spent() && other.is_spent());
    }
}
