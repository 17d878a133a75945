//! Repositories through the client: listings to their end, one repository's facts and files, and its files' bytes.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, header};

use super::cache::CachedRepo;
use super::client::Attempt;
use super::{Ask, Bucket, Client, Environment, Hub, Meter, Place, Query, RepoFile, RepoInfo, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::RepoId;
use crate::limits;
use crate::source::ByteSource;
use crate::source::mmap::Mmap;
use crate::source::remote::{KEEP, Ranges, RemoteFile};

/// Follows a listing to its end, page by page; `each` may stop it by returning false. Tells what the hub kept back.
pub fn list(
    client: &Client,
    hub: &dyn Hub,
    query: &Query,
    meter: &Meter,
    each: &mut dyn FnMut(Vec<RepoInfo>) -> Result<bool>,
) -> Result<Option<String>> {
    let mut next = vec![hub.list(query)?];
    let mut incomplete = None;
    let mut pages = 0usize;
    while let Some(ask) = next.pop() {
        pages += 1;
        if pages > limits::MAX_PAGES {
            return Err(Error::new(ErrorKind::TooLarge, format!("listing {}: too many pages", shown(&ask.url))));
        }
        let answer = client.ask(hub, &ask, meter)?;
        let page = hub.read_list(&ask, &answer)?;
        incomplete = incomplete.or(page.incomplete);
        if !each(page.items)? {
            break;
        }
        next.extend(page.more);
    }
    Ok(incomplete)
}

/// One repository's facts.
pub fn info(client: &Client, hub: &dyn Hub, name: &str, revision: Option<&str>, meter: &Meter) -> Result<RepoInfo> {
    let mut ask = hub.info(name, revision)?;
    // A renamed or wrongly-cased repository answers with a redirect on the hub itself.
    for _ in 0..3 {
        let answer = client.ask(hub, &ask, meter)?;
        if answer.status < 300 {
            return hub.read_info(&answer);
        }
        let place = hub.read_place(&answer)?;
        if place.url.origin() != hub.endpoint().origin() {
            break;
        }
        ask = Ask::get(place.url, Bucket::Api);
    }
    Err(Error::new(ErrorKind::Network, format!("asking {}: redirected in a circle", shown(&ask.url))))
}

/// One repository at one revision, with its file list.
#[derive(Clone)]
pub struct Repo {
    client: Arc<Client>,
    hub: Arc<dyn Hub>,
    cached: Option<Arc<CachedRepo>>,
    id: RepoId,
    revision: String,
    files: Vec<RepoFile>,
    incomplete: Option<String>,
}

impl Repo {
    /// Lists a repository's files at a revision (a commit wherever the hub has them).
    pub fn open(
        client: &Arc<Client>,
        hub: &Arc<dyn Hub>,
        environment: &Environment,
        name: &str,
        revision: &str,
        meter: &Meter,
    ) -> Result<Self> {
        let id = RepoId { hub: hub.prefix().to_owned(), name: name.to_owned() };
        let cached = (hub.prefix() == "hf").then(|| CachedRepo::find(environment, name)).flatten();
        let mut repo = Self {
            client: client.clone(),
            hub: hub.clone(),
            cached: cached.map(Arc::new),
            id,
            revision: revision.to_owned(),
            files: Vec::new(),
            incomplete: None,
        };
        if client.settings().offline && hub.endpoint().scheme() != "file" {
            let known = repo.cached.as_ref().and_then(|cached| {
                let commit = cached.commit(revision).unwrap_or_else(|| revision.to_owned());
                Some((cached.tree(&commit)?, commit))
            });
            let (files, commit) = known.ok_or_else(|| {
                Error::new(ErrorKind::Offline, format!("opening {}: not in the cache, and offline", repo.id))
            })?;
            (repo.files, repo.revision) = (files, commit);
            return Ok(repo);
        }
        let mut next = vec![hub.tree(name, revision)?];
        let mut pages = 0usize;
        while let Some(ask) = next.pop() {
            pages += 1;
            let answer = client.ask(hub.as_ref(), &ask, meter)?;
            let page = hub.read_tree(&ask, &answer)?;
            repo.files.extend(page.items);
            repo.incomplete = repo.incomplete.or(page.incomplete);
            next.extend(page.more);
            if repo.files.len() > limits::MAX_TREE_FILES || pages > limits::MAX_PAGES {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("listing {}: more files than a model has", repo.id),
                ));
            }
        }
        repo.files.sort_by(|a, b| a.path.cmp(&b.path));
        repo.files.dedup_by(|a, b| a.path == b.path);
        Ok(repo)
    }

    /// The repository.
    pub fn id(&self) -> &RepoId {
        &self.id
    }

    /// The revision that everything is read at.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Its files, sorted by path.
    pub fn files(&self) -> &[RepoFile] {
        &self.files
    }

    /// What the hub kept back of the file list, in words.
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.as_deref()
    }

    /// The file at a path.
    pub fn file(&self, path: &str) -> Option<&RepoFile> {
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok().and_then(|at| self.files.get(at))
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(super) fn hub(&self) -> &dyn Hub {
        self.hub.as_ref()
    }

    pub(super) fn hf_cache(&self) -> Option<&CachedRepo> {
        self.cached.as_deref()
    }

    /// A small file's bytes, whole: from disk if it is there, else over the hub's redirects.
    pub fn small(&self, path: &str, meter: &Meter) -> Result<Vec<u8>> {
        let doing = || format!("reading {path} of {}", self.id);
        let listed = self.file(path);
        if let Some(listed) = listed
            && let Some(found) = self.on_disk(listed)
            && listed.bytes <= limits::MAX_JSON_BYTES
        {
            return std::fs::read(found).map_err(|error| Error::io(doing(), error));
        }
        let mut ask = self.hub.file(&self.id.name, &self.revision, path)?;
        for _ in 0..5 {
            let answer = self.client.ask(self.hub(), &ask, meter)?;
            if answer.status >= 300 {
                let place = self.hub.read_place(&answer)?;
                let ours = place.url.origin() == self.hub.endpoint().origin();
                ask = Ask::get(place.url, if ours { Bucket::Resolver } else { Bucket::Delivery });
                continue;
            }
            if let Some(listed) = listed
                && listed.bytes != answer.body.len() as u64
            {
                let (want, got) = (listed.bytes, answer.body.len());
                return Err(Error::new(ErrorKind::Moved, format!("{}: {got} bytes where {want} are listed", doing())));
            }
            return Ok(answer.body.to_vec());
        }
        Err(Error::new(ErrorKind::Network, format!("{}: redirected in a circle", doing())))
    }

    /// A file's bytes on demand: a memory map where the file is on this machine, ranges over the network otherwise.
    pub fn source(&self, file: &RepoFile, meter: &Arc<Meter>) -> Result<Arc<dyn ByteSource>> {
        if let Some(path) = self.on_disk(file) {
            return Ok(Arc::new(Mmap::open(&path, file.path.clone())?));
        }
        if !file.large {
            return Ok(Arc::new(SmallFile {
                repo: self.clone(),
                file: file.clone(),
                meter: meter.clone(),
                bytes: OnceLock::new(),
            }));
        }
        let ranges = Arc::new(RepoRanges::new(self, file, meter));
        Ok(Arc::new(RemoteFile::new(file.path.clone(), file.bytes, KEEP, ranges)))
    }
}

/// A file that hubs serve whole only: fetched when its first byte is read.
struct SmallFile {
    repo: Repo,
    file: RepoFile,
    meter: Arc<Meter>,
    bytes: OnceLock<Vec<u8>>,
}

impl ByteSource for SmallFile {
    fn name(&self) -> &str {
        &self.file.path
    }

    fn len(&self) -> u64 {
        self.file.bytes
    }

    fn read(&self, range: Range<u64>) -> Result<std::borrow::Cow<'_, [u8]>> {
        let bytes = match self.bytes.get() {
            Some(bytes) => bytes,
            None => {
                let bytes = self.repo.small(&self.file.path, &self.meter)?;
                self.bytes.get_or_init(|| bytes)
            }
        };
        crate::source::slice(&self.file.path, bytes, range).map(std::borrow::Cow::Borrowed)
    }
}

/// Ranges of one large file of a repository. The signed address is looked up once and renewed when it is refused.
pub(super) struct RepoRanges {
    repo: Repo,
    file: RepoFile,
    meter: Arc<Meter>,
    place: tokio::sync::Mutex<Option<Place>>,
}

impl RepoRanges {
    pub(super) fn new(repo: &Repo, file: &RepoFile, meter: &Arc<Meter>) -> Self {
        Self { repo: repo.clone(), file: file.clone(), meter: meter.clone(), place: tokio::sync::Mutex::new(None) }
    }

    pub(super) fn file(&self) -> &RepoFile {
        &self.file
    }

    pub(super) fn client(&self) -> &Client {
        &self.repo.client
    }

    pub(super) fn hub(&self) -> &dyn Hub {
        self.repo.hub()
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) async fn forget_place(&self) {
        *self.place.lock().await = None;
    }

    /// Where the bytes are, and that they are still those of the file list.
    pub(super) async fn place(&self) -> Result<Place> {
        let mut known = self.place.lock().await;
        if let Some(place) = known.as_ref() {
            return Ok(place.clone());
        }
        let ask = self.repo.hub.file(&self.repo.id.name, &self.repo.revision, &self.file.path)?;
        // One byte: a hub that serves the bytes itself must not send the whole file for a look-up.
        let one = [(header::RANGE, HeaderValue::from_static("bytes=0-0"))];
        let answer = self.client().ask_async(self.hub(), &ask, &one, &self.meter).await?;
        let place = self.repo.hub.read_place(&answer)?;
        let moved = |what: String| {
            Error::new(ErrorKind::Moved, format!("reading {} of {}: {what}", self.file.path, self.repo.id))
        };
        let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match &place.commit {
            Some(commit) if is_commit(commit) && is_commit(&self.repo.revision) && *commit != self.repo.revision => {
                return Err(moved(format!("the hub serves commit {commit}, not {}", self.repo.revision)));
            }
            _ => {}
        }
        if let (Some(now), Some(listed)) = (place.sha256, self.file.sha256)
            && now != listed
        {
            return Err(moved(format!("its content is now {now}, listed was {listed}")));
        }
        if place.bytes.is_some_and(|bytes| bytes != self.file.bytes) {
            return Err(moved(format!("its length is no longer {}", self.file.bytes)));
        }
        *known = Some(place.clone());
        Ok(place)
    }

    async fn range(&self, range: Range<u64>) -> Result<Bytes> {
        let doing =
            || format!("reading bytes {}..{} of {} of {}", range.start, range.end, self.file.path, self.repo.id);
        let length = range.end - range.start;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let wish = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1))
            .map_err(|error| Error::because(ErrorKind::Internal, doing(), error))?;
        let mut attempt = Attempt::new(self.client());
        let mut renewals = 0;
        loop {
            let place = self.place().await?;
            let ask = Ask::get(place.url, Bucket::Delivery);
            let extra = [(header::RANGE, wish.clone())];
            let (response, told) = match self.client().open(self.hub(), &ask, &extra, &self.meter).await {
                Ok(opened) => opened,
                Err(error) if error.kind == ErrorKind::Network => {
                    attempt.again(error).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let status = response.status().as_u16();
            let trouble = match status {
                206 => {
                    let wanted = Some((range.start, range.end - 1, Some(self.file.bytes)));
                    let plain = response
                        .headers()
                        .get(header::CONTENT_ENCODING)
                        .is_none_or(|encoding| encoding.as_bytes() == b"identity");
                    if !plain {
                        "the range is compressed, which makes it unusable".to_owned()
                    } else if let Some((_, _, Some(total))) = content_range(response.headers())
                        && total != self.file.bytes
                    {
                        let listed = self.file.bytes;
                        let what = format!("{}: the server's file has {total} bytes, listed are {listed}", doing());
                        return Err(Error::new(ErrorKind::Moved, what));
                    } else if content_range(response.headers()) != wanted {
                        "another range than asked for".to_owned()
                    } else {
                        let reply = self.client().body(response, &ask, length, &self.meter).await?;
                        if !reply.cut && reply.body.len() as u64 == length {
                            return Ok(reply.body);
                        }
                        format!("broke off after {} bytes", reply.body.len())
                    }
                }
                // The whole file in place of a range: never read, it may be a hundred gigabytes.
                200 => "the server ignores ranges".to_owned(),
                416 => {
                    return Err(Error::new(ErrorKind::Moved, format!("{}: the file is shorter than listed", doing())));
                }
                400 | 401 | 403 | 404 | 410 => {
                    renewals += 1;
                    if renewals > 3 {
                        return Err(Error::new(
                            ErrorKind::Denied,
                            format!("{}: status {status} with a fresh address, three times", doing()),
                        ));
                    }
                    self.forget_place().await;
                    continue;
                }
                _ => format!("status {status}"),
            };
            let trouble = Error::new(ErrorKind::Network, format!("{}: {trouble}", doing()));
            match told {
                Some(wait) => attempt.told(wait, trouble)?,
                None => attempt.again(trouble).await?,
            }
        }
    }
}

impl Ranges for RepoRanges {
    fn fetch(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let wanted: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        self.meter.allow(wanted, &format!("reading {} of {}", self.file.path, self.repo.id))?;
        let parallel = self.client().settings().parallel.max(1);
        self.client().block_on(
            stream::iter(ranges.iter().cloned().map(|range| self.range(range))).buffered(parallel).try_collect(),
        )
    }
}

/// `Content-Range: bytes FIRST-LAST/TOTAL`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.trim();
    let (span, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total))
}
