//! Counting requests and bytes, and stopping at a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    parent: Option<Arc<Meter>>,
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
