//! Whole files, once: resumed where they broke off, held to their SHA-256, renamed into place complete.
//!
//! Files with a known SHA-256 lie under `blobs/` by that hash, whoever published them, so a shard that a derivative
//! shares with its base is stored once. A file is locked while it grows, so two processes do not write one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use http::{HeaderValue, header};
use sha2::Digest as _;

use super::client::{Attempt, Step};
use super::fetch::{Repo, RepoRanges, content_range};
use super::{Ask, Bucket, Meter, RepoFile, shown, stale};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::source::private;
use crate::source::remote::Ranges;

impl Repo {
    /// Where a whole file is or will be in orthoscope's cache.
    fn cached_at(&self, file: &RepoFile) -> PathBuf {
        let cache = self.client().cache();
        match &file.sha256 {
            Some(sha256) => cache.join("blobs").join(sha256.hex()),
            None => {
                // Without a hash the name must carry hub, repository, revision and path.
                let key = format!("{} {} {}", self.id(), self.revision(), file.path);
                cache.join("files").join(Digest::of(key.as_bytes()).hex())
            }
        }
    }

    /// The whole file on this machine, if it is already there: in the Hugging Face cache, in our own, or on a local
    /// hub.
    pub fn on_disk(&self, file: &RepoFile) -> Option<PathBuf> {
        if let Ok(ask) = self.hub().file(&self.id().name, self.revision(), &file.path)
            && ask.url.scheme() == "file"
        {
            return ask.url.to_file_path().ok();
        }
        if let Some(cached) = self.hf_cache() {
            let found = cached
                .file(self.revision().as_str(), &file.path, Some(file.bytes))
                .or_else(|| cached.blob(&file.sha256?, file.bytes));
            if found.is_some() {
                return found;
            }
        }
        let path = self.cached_at(file);
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.bytes).then_some(path)
    }

    /// Bytes that would be fetched to have all of these files whole.
    pub fn missing<'f>(&self, files: impl IntoIterator<Item = &'f RepoFile>) -> u64 {
        let sizes = files.into_iter().filter(|file| self.on_disk(file).is_none()).map(|file| file.bytes);
        sizes.fold(0, u64::saturating_add)
    }

    /// The whole file on this machine, fetched if need be. Resumes what an earlier attempt left, and refuses content
    /// whose SHA-256 is not the listed one.
    pub fn download(&self, file: &RepoFile, meter: &std::sync::Arc<Meter>) -> Result<PathBuf> {
        if let Some(path) = self.on_disk(file) {
            return Ok(path);
        }
        let path = self.cached_at(file);
        let doing = || format!("downloading {} of {}", file.path, self.id());
        let folder = path.parent().unwrap_or(Path::new("."));
        private::folder(folder).map_err(|error| Error::io(format!("making {}", folder.display()), error))?;
        let partial = path.with_extension("partial");
        // Whoever held the lock before us may have finished the file.
        let is_done = || path.metadata().is_ok_and(|metadata| metadata.len() == file.bytes);
        let growing = stale::growing(&partial, is_done).map_err(|error| Error::io(doing(), error))?;
        let Some(mut growing) = growing else { return Ok(path) };
        match self.grow(file, &mut growing, meter, &doing()) {
            Ok(()) => {}
            Err(error) => {
                // What fills the disk is no help to the next attempt.
                if is_full(&error) {
                    let _ = growing.set_len(0);
                    let _ = std::fs::remove_file(&partial);
                }
                return Err(error);
            }
        }
        std::fs::rename(&partial, &path).map_err(|error| Error::io(doing(), error))?;
        Ok(path)
    }

    /// Makes `growing` the whole file, and durable.
    fn grow(&self, file: &RepoFile, growing: &mut File, meter: &std::sync::Arc<Meter>, doing: &str) -> Result<()> {
        let failed = |error| Error::io(doing, error);
        let ranges = RepoRanges::new(self, file, meter);
        // Wrong content may be a part from before, or the delivery network's fault: it is fetched anew once.
        for again in [true, false] {
            if file.large {
                let have = growing.metadata().map_err(failed)?.len();
                let further = file.bytes.saturating_sub(have);
                meter.allow(further, doing)?;
                self.client().make_sure_of_room(further, doing)?;
                self.client().block_on(ranges.stream(growing, doing))?;
            } else {
                self.client().make_sure_of_room(file.bytes, doing)?;
                let bytes = self.small(&file.path, meter)?;
                growing.set_len(0).and_then(|()| growing.write_all(&bytes)).map_err(failed)?;
            }
            let found = hash(growing).map_err(failed)?;
            let Some(expected) = file.sha256.filter(|expected| *expected != found) else { break };
            // What is there is wrong, not merely short: the next attempt must start anew.
            growing.set_len(0).map_err(failed)?;
            if !again {
                return Err(Error::new(ErrorKind::Moved, format!("{doing}: its content is {found}, not {expected}")));
            }
            self.client().block_on(ranges.forget_place());
        }
        growing.sync_all().map_err(failed)
    }
}

/// Whether an error says that the disk is full.
fn is_full(error: &Error) -> bool {
    let cause = error.source.as_deref().and_then(|source| source.downcast_ref::<std::io::Error>());
    cause.is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    })
}

/// Bytes asked for at a time when parts of a file are collected.
const PART: u64 = 8 << 20;

impl Repo {
    /// A file of the right length on this machine with only these ranges filled in, deleted when the handle goes. The
    /// rest reads as zeros, so only the ranges asked for may be looked at; they cannot be held to a hash.
    pub fn partial(
        &self,
        file: &RepoFile,
        ranges: &[Range<u64>],
        meter: &std::sync::Arc<Meter>,
    ) -> Result<tempfile::NamedTempFile> {
        let doing = || format!("reading parts of {} of {}", file.path, self.id());
        let mut wanted: Vec<Range<u64>> = ranges.iter().filter(|range| range.start < range.end).cloned().collect();
        wanted.sort_by_key(|range| range.start);
        if wanted.last().is_some_and(|last| last.end > file.bytes) {
            return Err(Error::new(ErrorKind::Malformed, format!("{}: past its end", doing())));
        }
        let total: u64 = wanted.iter().map(|range| range.end - range.start).sum();
        meter.allow(total, &doing())?;
        self.client().make_sure_of_room(total, &doing())?;
        let folder = self.client().cache().join("parts");
        let mut sparse = stale::temporary(&folder).map_err(|error| Error::io(doing(), error))?;
        sparse.as_file().set_len(file.bytes).map_err(|error| Error::io(doing(), error))?;
        let source = RepoRanges::new(self, file, meter);
        let parts: Vec<Range<u64>> = wanted
            .iter()
            .flat_map(|range| {
                (range.start..range.end).step_by(PART as usize).map(|start| start..(start + PART).min(range.end))
            })
            .collect();
        for batch in parts.chunks(self.client().settings().parallel.max(1)) {
            for (range, bytes) in batch.iter().zip(source.fetch(batch)?) {
                sparse
                    .seek(SeekFrom::Start(range.start))
                    .and_then(|_| sparse.write_all(&bytes))
                    .map_err(|error| Error::io(doing(), error))?;
            }
        }
        sparse.flush().map_err(|error| Error::io(doing(), error))?;
        Ok(sparse)
    }
}

fn hash(file: &mut File) -> std::io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Bytes of progress after which a download's attempts are counted anew.
const PROGRESS: u64 = 1 << 20;

impl RepoRanges {
    /// Appends what is missing at the end of `growing`, over as many connections as it takes.
    async fn stream(&self, growing: &mut File, doing: &str) -> Result<()> {
        let total = self.file().bytes;
        let client = self.client();
        let _busy = self.meter().busy();
        let mut attempt = Attempt::new(client);
        let mut renewals = 0;
        loop {
            let have = growing.metadata().map_err(|error| Error::io(doing, error))?.len();
            if have > total {
                growing.set_len(0).map_err(|error| Error::io(doing, error))?;
                continue;
            }
            if have == total {
                return Ok(());
            }
            let place = self.place().await?;
            let ask = Ask::get(place.url.clone(), Bucket::Delivery);
            let range = HeaderValue::from_str(&format!("bytes={have}-{}", total - 1))
                .map_err(|error| Error::because(ErrorKind::Internal, doing, error))?;
            let broken = |what: String| Error::new(ErrorKind::Network, format!("{doing}: {what}"));
            let turn = attempt.turn(&ask, self.meter()).await?;
            let extra = [(header::RANGE, range)];
            let response = match client.open(self.hub(), &ask, &extra, turn, self.meter()).await {
                Ok((response, None)) => response,
                Ok((response, Some(wait))) => {
                    attempt.told(wait, broken(format!("status {}", response.status().as_u16())))?;
                    continue;
                }
                Err(error) if error.kind == ErrorKind::Network => {
                    attempt.again(error).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match response.status().as_u16() {
                206 if content_range(response.headers()) == Some((have, total - 1, Some(total))) => {}
                401 | 403 | 404 | 410 if renewals < 3 => {
                    renewals += 1;
                    self.forget_place().await;
                    continue;
                }
                status @ (401 | 403 | 404 | 410) => {
                    return Err(Error::new(
                        ErrorKind::Denied,
                        format!("{doing}: status {status} at {}", shown(&ask.url)),
                    ));
                }
                416 => {
                    self.forget_place().await;
                    let trouble = format!("{doing}: the server's file is shorter than listed");
                    attempt.again(Error::new(self.contradicted(), trouble)).await?;
                    continue;
                }
                status => {
                    attempt.again(broken(format!("status {status} without the range asked for"))).await?;
                    continue;
                }
            }
            let (grown, trouble) = self.append(response, growing, total - have, doing).await?;
            if grown >= PROGRESS && trouble.is_some() {
                // A long file over a bad line may break off any number of times.
                attempt = Attempt::new(client);
            }
            if have + grown != total {
                attempt.again(broken(format!("the answer {}", trouble.unwrap_or("was too short")))).await?;
            }
        }
    }

    /// Writes an answer's bytes behind what is there, as long as they come and are no more than are missing; how many
    /// they were, and why they ended where that was not their end.
    async fn append(
        &self,
        response: reqwest::Response,
        growing: &mut File,
        missing: u64,
        doing: &str,
    ) -> Result<(u64, Option<&'static str>)> {
        let mut grown = 0u64;
        let mut flow = self.client().flow(response, true, self.meter());
        loop {
            match flow.next().await? {
                Step::Bytes(chunk) => {
                    grown += chunk.len() as u64;
                    if grown > missing {
                        return Ok((grown, Some("has more bytes than asked for")));
                    }
                    growing.write_all(&chunk).map_err(|error| Error::io(doing, error))?;
                }
                Step::End => return Ok((grown, None)),
                Step::Broken(why) => return Ok((grown, Some(why))),
            }
        }
    }
}
