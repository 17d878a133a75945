//! Waiting as long as a server says, per host and per quota.
//!
//! A hub states its quota with every answer (`RateLimit: "api";r=REMAINING;t=SECONDS`, IETF draft) and its displeasure
//! with status 429 and `Retry-After`. Nothing is guessed: a request starts only when the last statement leaves room for
//! it beside those under way, and none starts before a stated wait is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::Bucket;

/// What is known of a quota.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Quota {
    /// Nothing yet (or its window is over): one request at a time until an answer tells.
    Unknown,
    /// The server answers without stating one.
    Unstated,
    /// So many requests left, in a window that ends then.
    Stated { left: u64, ends: Instant },
}

#[derive(Debug)]
struct Lane {
    quota: Quota,
    closed_until: Option<Instant>,
    under_way: u64,
}

/// The waits of all hosts.
#[derive(Debug, Default)]
pub(super) struct Pace {
    lanes: Mutex<BTreeMap<(String, Bucket), Lane>>,
}

/// A statement rounds its seconds in an unknown direction; one more second is what the hub's own client adds.
const ROUNDING: Duration = Duration::from_secs(1);

impl Pace {
    fn lanes(&self) -> MutexGuard<'_, BTreeMap<(String, Bucket), Lane>> {
        // A panic while the lock was held cannot leave a lane half-written: every change is one assignment.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a request now, or says how long to wait before asking again.
    pub(super) fn start(&self, host: &str, bucket: Bucket, now: Instant) -> Result<Turn<'_>, Duration> {
        match self.wait(host, bucket, now) {
            None => Ok(Turn { pace: self, host: host.to_owned(), bucket, under_way: true }),
            Some(wait) => Err(wait),
        }
    }

    fn wait(&self, host: &str, bucket: Bucket, now: Instant) -> Option<Duration> {
        let mut lanes = self.lanes();
        let lane = lanes.entry((host.to_owned(), bucket)).or_insert(Lane {
            quota: Quota::Unknown,
            closed_until: None,
            under_way: 0,
        });
        if let Some(until) = lane.closed_until {
            if now < until {
                return Some(until - now);
            }
            lane.closed_until = None;
            lane.quota = Quota::Unknown;
        }
        if let Quota::Stated { ends, .. } = lane.quota
            && now >= ends
        {
            lane.quota = Quota::Unknown;
        }
        let short = Duration::from_millis(20);
        let wait = match lane.quota {
            Quota::Unstated => None,
            Quota::Unknown => (lane.under_way > 0).then_some(short),
            Quota::Stated { left, ends } if left <= lane.under_way => {
                Some(if lane.under_way == 0 { ends - now } else { short.min(ends - now) })
            }
            Quota::Stated { .. } => None,
        };
        if wait.is_none() {
            lane.under_way += 1;
        }
        wait
    }

    /// A request is over, without an answer.
    fn lost(&self, host: &str, bucket: Bucket) {
        if let Some(lane) = self.lanes().get_mut(&(host.to_owned(), bucket)) {
            lane.under_way = lane.under_way.saturating_sub(1);
        }
    }

    /// A request was answered: takes note of what the server states. Returns the wait it asked for, if it refused.
    fn answered(&self, host: &str, bucket: Bucket, status: u16, headers: &HeaderMap, now: Instant) -> Option<Duration> {
        let stated = rate_limit(headers);
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(&(host.to_owned(), bucket))?;
        lane.under_way = lane.under_way.saturating_sub(1);
        match (stated, lane.quota) {
            (Some((left, seconds)), quota) => {
                let ends = now + Duration::from_secs(seconds) + ROUNDING;
                // Answers overtake one another: within one window the lowest remainder is the newest.
                let same_window = match quota {
                    Quota::Stated { ends: before, .. } => {
                        before.max(ends) - before.min(ends) < Duration::from_millis(1500)
                    }
                    _ => false,
                };
                lane.quota = match quota {
                    Quota::Stated { left: before, ends } if same_window => {
                        Quota::Stated { left: left.min(before), ends }
                    }
                    _ => Quota::Stated { left, ends },
                };
            }
            (None, Quota::Unknown) if status < 400 => lane.quota = Quota::Unstated,
            (None, _) => {}
        }
        if status != 429 && status != 503 {
            return None;
        }
        let wait = match (retry_after(headers), stated) {
            (Some(seconds), Some((0, window))) => Some(Duration::from_secs(seconds.max(window)) + ROUNDING),
            (Some(seconds), _) => Some(Duration::from_secs(seconds)),
            (None, Some((0, window))) => Some(Duration::from_secs(window) + ROUNDING),
            (None, _) => None,
        }?;
        let until = now + wait;
        lane.closed_until = Some(lane.closed_until.map_or(until, |before| before.max(until)));
        Some(wait)
    }
}

/// A request that counts as under way until it is answered or dropped.
pub(super) struct Turn<'a> {
    pace: &'a Pace,
    host: String,
    bucket: Bucket,
    under_way: bool,
}

impl Turn<'_> {
    /// The answer is there: takes note of what the server states. Returns the wait it asked for, if it refused.
    pub(super) fn answered(mut self, status: u16, headers: &HeaderMap, now: Instant) -> Option<Duration> {
        self.under_way = false;
        self.pace.answered(&self.host, self.bucket, status, headers, now)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Also where the wait for the answer was given up: a request that counts for ever would stop its whole lane.
        if self.under_way {
            self.pace.lost(&self.host, self.bucket);
        }
    }
}

/// `RateLimit: "api";r=0;t=55`: the scarcest of the quotas stated, as (remaining, seconds to the end of the window).
pub(super) fn rate_limit(headers: &HeaderMap) -> Option<(u64, u64)> {
    headers
        .get_all("ratelimit")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|quota| {
            let parameter = |key: &str| {
                quota.split(';').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
            };
            Some((parameter("r")?, parameter("t")?.min(86_400)))
        })
        .min()
}

/// `Retry-After` in seconds, from its seconds or its date form; at most a day.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds.min(86_400));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = then.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    u64::try_from(seconds).ok().map(|seconds| seconds.min(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap())).collect()
    }

    #[test]
    fn statements_are_read() {
        assert_eq!(rate_limit(&headers(&[("ratelimit", "\"api\";r=0;t=55")])), Some((0, 55)));
        assert_eq!(rate_limit(&headers(&[("ratelimit", "\"a\";r=9;t=5, \"b\";r=3;t=60")])), Some((3, 60)));
        assert_eq!(rate_limit(&headers(&[("ratelimit", "nonsense")])), None);
        assert_eq!(retry_after(&headers(&[("retry-after", "7")])), Some(7));
        assert_eq!(retry_after(&headers(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")])), None);
        assert_eq!(retry_after(&headers(&[("retry-after", "soon")])), None);
    }

    #[test]
    fn requests_under_way_count_against_what_is_left() {
        let pace = Pace::default();
        let now = Instant::now();
        let start = |at| pace.wait("h", Bucket::Api, at);
        assert_eq!(start(now), None);
        assert!(start(now).is_some(), "the first answer is awaited before a second request");
        pace.answered("h", Bucket::Api, 200, &headers(&[("ratelimit", "\"api\";r=2;t=10")]), now);
        assert_eq!((start(now), start(now)), (None, None));
        assert!(start(now).is_some(), "two are left and two are under way");
        pace.answered("h", Bucket::Api, 200, &headers(&[("ratelimit", "\"api\";r=0;t=10")]), now);
        pace.lost("h", Bucket::Api);
        let wait = start(now).unwrap();
        assert!(wait >= Duration::from_secs(10), "{wait:?}");
        assert_eq!(start(now + Duration::from_secs(12)), None);
        assert_eq!(pace.wait("h", Bucket::Resolver, now), None, "another quota is another lane");
    }

    #[test]
    fn a_refusal_closes_the_lane_for_as_long_as_it_says() {
        let pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.wait("h", Bucket::Api, now), None);
        let told = headers(&[("retry-after", "3"), ("ratelimit", "\"api\";r=0;t=5")]);
        assert_eq!(pace.answered("h", Bucket::Api, 429, &told, now), Some(Duration::from_secs(6)));
        assert!(pace.wait("h", Bucket::Api, now + Duration::from_millis(5900)).is_some());
        assert_eq!(pace.wait("h", Bucket::Api, now + Duration::from_millis(6001)), None);
    }

    #[test]
    fn a_request_that_is_given_up_counts_no_longer() {
        let pace = Pace::default();
        let now = Instant::now();
        let first = pace.start("h", Bucket::Api, now).ok().unwrap();
        assert!(pace.start("h", Bucket::Api, now).is_err());
        drop(first);
        let second = pace.start("h", Bucket::Api, now).ok().unwrap();
        second.answered(200, &HeaderMap::new(), now);
        assert_eq!(pace.wait("h", Bucket::Api, now), None);
    }

    #[test]
    fn a_server_without_statements_is_not_slowed() {
        let pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.wait("cdn", Bucket::Delivery, now), None);
        pace.answered("cdn", Bucket::Delivery, 206, &HeaderMap::new(), now);
        for _ in 0..50 {
            assert_eq!(pace.wait("cdn", Bucket::Delivery, now), None);
        }
    }
}
