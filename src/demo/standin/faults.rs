//! Faults: by chance, by script, and by quota.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Port, StandinSettings};

/// One way for a request to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Status 503 with `Retry-After: 1`.
    Unavailable,
    /// Status 429, and every request of that quota refused until the stated wait is over.
    Limited,
    /// The connection closes without an answer's body.
    Dropped,
    /// The body ends halfway.
    Truncated,
    /// The answer comes late.
    Slow,
    /// JSON that is none.
    Garbage,
    /// 206 for another range than asked for.
    WrongRange,
    /// 200 and the whole file in place of a range.
    IgnoredRange,
    /// A compressed body.
    Compressed,
    /// The signed address is refused as expired.
    Expired,
    /// An answer that looks whole and has half of its body.
    Short,
    /// 206 for a file of another length.
    OtherLength,
    /// 416, as if the file were shorter.
    Unsatisfiable,
    /// A body of the right length with other bytes in it. By script alone: in a range nobody can notice it.
    OtherBytes,
    /// A body of a byte every 20 ms. By script alone: it takes until a deadline.
    Drip,
}

/// Every fault that a client overcomes by asking again.
pub const FAULTS: &[Fault] = &[
    Fault::Unavailable,
    Fault::Limited,
    Fault::Dropped,
    Fault::Truncated,
    Fault::Slow,
    Fault::Garbage,
    Fault::WrongRange,
    Fault::IgnoredRange,
    Fault::Compressed,
    Fault::Expired,
    Fault::Short,
    Fault::OtherLength,
    Fault::Unsatisfiable,
];

impl Fault {
    /// Whether it can happen there.
    fn fits(self, port: Port) -> bool {
        match self {
            Self::Unavailable | Self::Dropped | Self::Truncated | Self::Slow => true,
            Self::Short | Self::OtherBytes | Self::Drip => true,
            Self::Limited | Self::Garbage => port == Port::Hub,
            Self::WrongRange | Self::IgnoredRange | Self::Compressed | Self::Expired => port == Port::Delivery,
            Self::OtherLength | Self::Unsatisfiable => port == Port::Delivery,
        }
    }
}

/// Share of requests that meet each fault, 0 to 1.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// The shares.
    pub shares: BTreeMap<Fault, f64>,
    /// Seconds that a 429 by chance asks to wait.
    pub wait: u64,
}

impl Rates {
    /// The same share of every one of [`FAULTS`].
    pub fn all(share: f64, wait: u64) -> Self {
        Self { shares: FAULTS.iter().map(|fault| (*fault, share)).collect(), wait }
    }
}

/// Chance faults one address meets in a row at most: a client that tries five times must get through.
const IN_A_ROW: u32 = 3;

#[derive(Default)]
struct Window {
    ends: Option<Instant>,
    used: u64,
    refused: Option<(Instant, Instant)>,
}

struct Script {
    fault: Fault,
    part: String,
    left: u32,
}

/// What is pressing at the moment.
#[derive(Default)]
pub(crate) struct Pressure {
    windows: BTreeMap<&'static str, Window>,
    scripts: Vec<Script>,
    met: BTreeMap<String, u32>,
}

/// What a quota says to one request.
pub(crate) struct Ruling {
    /// Requests left and seconds to the end of the window, for the header.
    pub(crate) stated: Option<(u64, u64, u64)>,
    /// Whether the request is refused.
    pub(crate) refused: bool,
    /// Milliseconds since a refusal whose wait is not over.
    pub(crate) inside_wait: Option<u64>,
}

impl Pressure {
    pub(crate) fn script(&mut self, fault: Fault, part: &str, times: u32) {
        self.scripts.push(Script { fault, part: part.to_owned(), left: times });
    }

    /// The fault this request meets, if one.
    pub(crate) fn fault(&mut self, settings: &StandinSettings, port: Port, target: &str) -> Option<Fault> {
        if let Some(script) = self
            .scripts
            .iter_mut()
            .find(|script| script.left > 0 && script.fault.fits(port) && target.contains(&script.part))
        {
            script.left -= 1;
            return Some(script.fault);
        }
        if settings.rates.shares.is_empty() {
            return None;
        }
        // By address and count, not by clock or thread, so that a run's faults are the same each time. A signature is
        // not part of the address.
        let address = target.split("&Signature").next().unwrap_or(target).split("Expires").next().unwrap_or(target);
        let count = self.met.entry(address.to_owned()).or_default();
        *count += 1;
        if *count > IN_A_ROW {
            return None;
        }
        let mut random = fastrand::Rng::with_seed(settings.seed ^ hash(address) ^ (u64::from(*count) << 48));
        let mut left = random.f64();
        for (fault, share) in settings.rates.shares.iter().filter(|(fault, _)| fault.fits(port)) {
            if left < *share {
                return Some(*fault);
            }
            left -= share;
        }
        None
    }

    /// Counts a request against its quota.
    pub(crate) fn count(&mut self, bucket: &'static str, quota: Option<u64>, length: Duration) -> Ruling {
        let now = Instant::now();
        let window = self.windows.entry(bucket).or_default();
        let inside_wait = window
            .refused
            .filter(|(_, until)| now < *until)
            .map(|(since, _)| now.saturating_duration_since(since).as_millis() as u64);
        if window.ends.is_none_or(|ends| now >= ends) {
            window.ends = Some(now + length);
            window.used = 0;
        }
        window.used += 1;
        let ends = window.ends.unwrap_or(now);
        let seconds = (ends - now).as_secs_f64().ceil() as u64;
        let stated = quota.map(|quota| (quota.saturating_sub(window.used), seconds, quota));
        let refused = inside_wait.is_some() || quota.is_some_and(|quota| window.used > quota);
        if refused && inside_wait.is_none() {
            window.refused = Some((now, ends));
        }
        Ruling { stated, refused, inside_wait }
    }

    /// Refuses a quota's requests for some seconds; returns the wait to state.
    pub(crate) fn close(&mut self, bucket: &'static str, seconds: u64) {
        let now = Instant::now();
        let window = self.windows.entry(bucket).or_default();
        window.refused = Some((now, now + Duration::from_secs(seconds)));
    }

    /// Seconds until a refused quota opens again, rounded up.
    pub(crate) fn wait(&self, bucket: &'static str) -> u64 {
        let now = Instant::now();
        self.windows
            .get(bucket)
            .and_then(|window| window.refused)
            .map_or(1, |(_, until)| until.saturating_duration_since(now).as_secs_f64().ceil() as u64)
    }
}

fn hash(text: &str) -> u64 {
    let digest = crate::ids::Digest::of(text.as_bytes());
    digest.0[..8].iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}
