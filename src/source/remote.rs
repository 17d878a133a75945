//! A remote file read by ranges: what was fetched is kept in pieces up to a bound, neighbouring wishes become one
//! request, and nothing is fetched twice while it is kept.
//!
//! How ranges are fetched (addresses, tokens, retries) is behind [`Ranges`]; this file decides only which.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::ByteSource;
use crate::error::{Error, ErrorKind, Result};

/// Fetches ranges of one remote file.
pub trait Ranges: Send + Sync {
    /// The bytes of each range, in order and each of exactly that length, fetched in parallel up to a bound.
    fn fetch(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>>;
}

/// What the first read of a file fetches at least: the headers of 97 % of published safetensors files fit.
const HEAD: u64 = 100_000;

/// Two wishes with no more between them are one request: a request costs more than these bytes.
const GAP: u64 = 16 * 1024;

/// What a read that goes on where another ended fetches at least, so that a header read in crumbs is few requests.
const AHEAD: u64 = 256 * 1024;

/// Reads below this size are crumbs.
const CRUMB: u64 = 64 * 1024;

/// Bytes kept per file unless told otherwise.
pub const KEEP: u64 = 64 << 20;

/// One remote file.
pub struct RemoteFile {
    name: String,
    len: u64,
    keep: u64,
    ranges: Arc<dyn Ranges>,
    pieces: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    by_start: BTreeMap<u64, (Bytes, u64)>,
    held: u64,
    tick: u64,
}

impl Pieces {
    /// The parts of `range` that are held, in order.
    fn held(&mut self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        self.tick += 1;
        let tick = self.tick;
        // Pieces never overlap, so the one before the start is the only one that may reach into the range from outside.
        let first = self.by_start.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.by_start
            .range_mut(first..range.end)
            .filter_map(|(start, (bytes, used))| {
                let end = start + bytes.len() as u64;
                let (from, to) = ((*start).max(range.start), end.min(range.end));
                (from < to).then(|| {
                    *used = tick;
                    (from, bytes.slice((from - start) as usize..(to - start) as usize))
                })
            })
            .collect()
    }

    /// The parts of `range` that are not held, in order.
    fn missing(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut at = range.start;
        let mut missing = Vec::new();
        for (start, bytes) in self.held(range) {
            if at < start {
                missing.push(at..start);
            }
            at = start + bytes.len() as u64;
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    /// Whether some piece ends exactly here.
    fn ends_at(&self, at: u64) -> bool {
        self.by_start.range(..at).next_back().is_some_and(|(start, (bytes, _))| start + bytes.len() as u64 == at)
    }

    fn keep(&mut self, start: u64, bytes: Bytes, limit: u64) {
        // Another thread may have fetched the same meanwhile: only what is still missing is kept.
        let end = start + bytes.len() as u64;
        for gap in self.missing(&(start..end)) {
            let piece = bytes.slice((gap.start - start) as usize..(gap.end - start) as usize);
            self.held += piece.len() as u64;
            let tick = self.tick;
            self.by_start.insert(gap.start, (piece, tick));
        }
        while self.held > limit && self.by_start.len() > 1 {
            let Some(oldest) = self.by_start.iter().min_by_key(|(_, (_, used))| *used).map(|(start, _)| *start) else {
                break;
            };
            if let Some((bytes, _)) = self.by_start.remove(&oldest) {
                self.held -= bytes.len() as u64;
            }
        }
    }
}

impl RemoteFile {
    /// A file of `len` bytes, called `name` in messages, keeping at most about `keep` bytes.
    pub fn new(name: impl Into<String>, len: u64, keep: u64, ranges: Arc<dyn Ranges>) -> Self {
        Self { name: name.into(), len, keep, ranges, pieces: Mutex::default() }
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        // Every change of the pieces is complete before the next, so a panic elsewhere leaves them usable.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, wanted: &[Range<u64>]) -> Result<Vec<(u64, Bytes)>> {
        let fetched = self.ranges.fetch(wanted)?;
        let right = fetched.len() == wanted.len()
            && fetched.iter().zip(wanted).all(|(bytes, range)| bytes.len() as u64 == range.end - range.start);
        if !right {
            return Err(Error::new(ErrorKind::Internal, format!("fetching ranges of {}: wrong lengths", self.name)));
        }
        let parts: Vec<(u64, Bytes)> = wanted.iter().map(|range| range.start).zip(fetched).collect();
        let mut pieces = self.pieces();
        for (start, bytes) in &parts {
            pieces.keep(*start, bytes.clone(), self.keep);
        }
        Ok(parts)
    }
}

impl ByteSource for RemoteFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::new(
                ErrorKind::Malformed,
                format!("reading bytes {}..{} of {}, which has {}", range.start, range.end, self.name, self.len),
            ));
        }
        let (mut parts, missing) = {
            let mut pieces = self.pieces();
            let missing = pieces.missing(&range);
            let widened = match missing.as_slice() {
                [] => Vec::new(),
                [only] if only.start < HEAD => pieces.missing(&(only.start..only.end.max(HEAD.min(self.len)))),
                [only] if only.end - only.start < CRUMB && pieces.ends_at(only.start) => {
                    pieces.missing(&(only.start..(only.start + AHEAD).min(self.len).max(only.end)))
                }
                _ => missing,
            };
            (pieces.held(&range), widened)
        };
        if !missing.is_empty() {
            parts.extend(self.fetch(&missing)?);
        }
        let mut out = vec![0u8; (range.end - range.start) as usize];
        for (start, bytes) in parts {
            let end = start + bytes.len() as u64;
            let (from, to) = (start.max(range.start), end.min(range.end));
            if from < to {
                out[(from - range.start) as usize..(to - range.start) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(Cow::Owned(out))
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let mut wished: Vec<Range<u64>> =
            ranges.iter().filter(|range| range.start < range.end && range.end <= self.len).cloned().collect();
        wished.sort_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in wished {
            match merged.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(GAP) => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let missing: Vec<Range<u64>> = {
            let mut pieces = self.pieces();
            let mut room = self.keep;
            merged
                .iter()
                .flat_map(|range| pieces.missing(range))
                .take_while(|range| {
                    let fits = range.end - range.start <= room;
                    room = room.saturating_sub(range.end - range.start);
                    fits
                })
                .collect()
        };
        if !missing.is_empty() {
            // A hint: what fails here fails again, and is told, when it is read.
            let _ = self.fetch(&missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        bytes: Vec<u8>,
        asked: Mutex<Vec<Range<u64>>>,
    }

    impl Ranges for Fake {
        fn fetch(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
            self.asked.lock().unwrap().extend_from_slice(ranges);
            Ok(ranges.iter().map(|r| Bytes::copy_from_slice(&self.bytes[r.start as usize..r.end as usize])).collect())
        }
    }

    fn file(len: usize, keep: u64) -> (Arc<Fake>, RemoteFile) {
        let bytes = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        let fake = Arc::new(Fake { bytes, asked: Mutex::default() });
        (fake.clone(), RemoteFile::new("f", len as u64, keep, fake))
    }

    #[test]
    fn the_head_is_fetched_once_and_a_longer_header_only_completed() {
        let (fake, file) = file(1_000_000, KEEP);
        assert_eq!(&*file.read(0..8).unwrap(), &fake.bytes[..8]);
        assert_eq!(&*file.read(8..250_000).unwrap(), &fake.bytes[8..250_000]);
        assert_eq!(*fake.asked.lock().unwrap(), [0..100_000, 100_000..250_000]);
    }

    #[test]
    fn neighbours_are_one_request_and_nothing_is_fetched_twice() {
        let (fake, file) = file(1_000_000, KEEP);
        file.prefetch(&[500_000..500_100, 505_000..505_100, 800_000..800_010, 505_050..505_200]);
        assert_eq!(*fake.asked.lock().unwrap(), [500_000..505_200, 800_000..800_010]);
        assert_eq!(&*file.read(505_060..505_100).unwrap(), &fake.bytes[505_060..505_100]);
        file.prefetch(std::slice::from_ref(&(500_000..500_100)));
        assert_eq!(fake.asked.lock().unwrap().len(), 2);
        assert!(file.read(999_999..1_000_001).is_err());
    }

    #[test]
    fn any_reads_give_the_right_bytes_within_the_bound() {
        let (fake, file) = file(400_000, 50_000);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let start = random.u64(0..400_000);
            let end = (start + random.u64(0..30_000)).min(400_000);
            assert_eq!(&*file.read(start..end).unwrap(), &fake.bytes[start as usize..end as usize]);
            let pieces = file.pieces();
            let held: u64 = pieces.by_start.values().map(|(bytes, _)| bytes.len() as u64).sum();
            assert_eq!(held, pieces.held);
            assert!(held <= 50_000 || pieces.by_start.len() == 1, "{held}");
        }
    }
}
