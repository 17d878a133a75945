//! Repositories through the client: listings to their end, one repository's facts and files, and its files' bytes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, header};

use super::cache::CachedRepo;
use super::client::Attempt;
use super::{Ask, Bucket, Client, Environment, Hub, Meter, Place, Query, RepoFile, RepoInfo, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, GitName, RepoId, Revision};
use crate::limits;
use crate::source::ByteSource;
use crate::source::mmap::Mmap;
use crate::source::remote::{KEEP, Ranges, RemoteFile};

/// The pages of one listing: none is asked for twice, and news come now and then.
#[derive(Default)]
struct Pages {
    asked: BTreeSet<Digest>,
    /// The first bytes of the hashes of what was listed: millions of names would take hundreds of megabytes.
    seen: BTreeSet<u64>,
    barren: usize,
}

impl Pages {
    /// Before a page is asked for.
    fn ask(&mut self, ask: &Ask) -> Result<()> {
        let doing = || format!("listing {}", shown(&ask.url));
        if !self.asked.insert(Digest::of(ask.url.as_str().as_bytes())) {
            return Err(Error::new(ErrorKind::Malformed, format!("{}: its pages go in a circle", doing())));
        }
        if self.asked.len() > limits::MAX_PAGES {
            return Err(Error::new(ErrorKind::TooLarge, format!("{}: too many pages", doing())));
        }
        Ok(())
    }

    /// After it came, with what it names.
    fn came<'a>(&mut self, ask: &Ask, names: impl Iterator<Item = &'a str>) -> Result<()> {
        let mut news = false;
        for name in names {
            let [a, b, c, d, e, f, g, h, ..] = Digest::of(name.as_bytes()).0;
            news |= self.seen.insert(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        }
        self.barren = if news { 0 } else { self.barren + 1 };
        if self.barren > limits::MAX_EMPTY_PAGES {
            let pages = self.barren;
            let doing = format!("listing {}: nothing new on {pages} pages in a row", shown(&ask.url));
            return Err(Error::new(ErrorKind::Malformed, doing));
        }
        Ok(())
    }
}

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
    let mut pages = Pages::default();
    while let Some(ask) = next.pop() {
        pages.ask(&ask)?;
        let page =
            client.ask(hub, &ask, limits::MAX_LISTING_PAGE_BYTES, meter, &|answer| hub.read_list(&ask, answer))?;
        pages.came(&ask, page.items.iter().map(|item| item.key.as_str()))?;
        incomplete = incomplete.or(page.incomplete);
        if !each(page.items)? {
            break;
        }
        next.extend(page.more);
    }
    Ok(incomplete)
}

/// An answer's own content, or where it is instead.
enum Found<T> {
    Here(T),
    There(Place),
}

/// One repository's facts.
pub fn info(
    client: &Client,
    hub: &dyn Hub,
    name: &str,
    revision: Option<&Revision>,
    meter: &Meter,
) -> Result<RepoInfo> {
    let mut ask = hub.info(name, revision)?;
    // A renamed or wrongly-cased repository answers with a redirect on the hub itself.
    for _ in 0..3 {
        let found = client.ask(hub, &ask, limits::MAX_INFO_BYTES, meter, &|answer| match answer.status {
            ..300 => hub.read_info(answer).map(Found::Here),
            _ => hub.read_place(answer).map(Found::There),
        })?;
        let place = match found {
            Found::Here(info) => return Ok(info),
            Found::There(place) => place,
        };
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
    revision: Revision,
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
        revision: &Revision,
        meter: &Meter,
    ) -> Result<Self> {
        let id = RepoId { hub: hub.prefix().to_owned(), name: name.to_owned() };
        let cached = hub.cached(environment, name);
        let mut repo = Self {
            client: client.clone(),
            hub: hub.clone(),
            cached: cached.map(Arc::new),
            id,
            revision: revision.clone(),
            files: Vec::new(),
            incomplete: None,
        };
        if client.settings().offline && !hub.is_here() {
            let known = repo.cached.as_ref().and_then(|cached| {
                let commit = cached.commit(revision.as_str()).map_or_else(|| revision.clone(), Revision);
                Some((cached.tree(commit.as_str())?, commit))
            });
            let (files, commit) = known.ok_or_else(|| {
                Error::new(ErrorKind::Offline, format!("opening {}: not in the cache, and offline", repo.id))
            })?;
            (repo.files, repo.revision) = (files, commit);
            return Ok(repo);
        }
        let mut next = vec![hub.tree(name, revision)?];
        let mut pages = Pages::default();
        while let Some(ask) = next.pop() {
            pages.ask(&ask)?;
            let read = |answer: &super::Answer| hub.read_tree(&ask, answer);
            let page = client.ask(hub.as_ref(), &ask, limits::MAX_JSON_BYTES, meter, &read)?;
            pages.came(&ask, page.items.iter().map(|file| file.path.as_str()))?;
            repo.files.extend(page.items);
            repo.incomplete = repo.incomplete.or(page.incomplete);
            next.extend(page.more);
            if repo.files.len() > limits::MAX_TREE_FILES {
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
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Its files, sorted by path.
    pub fn files(&self) -> &[RepoFile] {
        &self.files
    }

    /// Whether its files lie on this machine without any cache.
    pub fn is_here(&self) -> bool {
        self.hub.is_here()
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
        let _busy = meter.busy();
        let mut attempt = Attempt::new(&self.client);
        let mut other = false;
        loop {
            let Some(listed) = listed else { return self.served(path, limits::MAX_JSON_BYTES, meter) };
            // Redirects have bodies of their own.
            let cap = listed.bytes.max(limits::MAX_REFUSAL_BYTES as u64).min(limits::MAX_JSON_BYTES);
            let (body, got) = match self.served(path, cap, meter) {
                Ok(body) if body.len() as u64 == listed.bytes => (body, None),
                Ok(body) => (Vec::new(), Some(format!("{} bytes", body.len()))),
                Err(error) if error.kind == ErrorKind::TooLarge && listed.bytes <= cap => {
                    (Vec::new(), Some(format!("more than {cap} bytes")))
                }
                Err(error) => return Err(error),
            };
            if let Some(got) = got {
                let trouble = format!("{}: {got} where {} are listed", doing(), listed.bytes);
                self.client.block_on(attempt.again(Error::new(self.contradicted(), trouble)))?;
                continue;
            }
            let same = listed.sha256.is_none_or(|sha256| sha256 == Digest::of(&body))
                && listed.git.is_none_or(|git| git == GitName::of(&body));
            if same {
                return Ok(body);
            }
            let trouble = Error::new(ErrorKind::Moved, format!("{}: its content is not the listed one", doing()));
            if other {
                return Err(trouble);
            }
            other = true;
            self.client.block_on(attempt.again(trouble))?;
        }
    }

    /// A small file's bytes as they are served, over the hub's redirects.
    fn served(&self, path: &str, cap: u64, meter: &Meter) -> Result<Vec<u8>> {
        let mut ask = self.hub.file(&self.id.name, &self.revision, path)?;
        for _ in 0..5 {
            let found = self.client.ask(self.hub(), &ask, cap, meter, &|answer| {
                Ok(match answer.status {
                    ..300 => Found::Here(answer.body.to_vec()),
                    _ => Found::There(self.hub.read_place(answer)?),
                })
            })?;
            let place = match found {
                Found::Here(body) => return Ok(body),
                Found::There(place) => place,
            };
            if let Some(commit) = self.other_commit(&place) {
                let what = format!("reading {path} of {}: the hub serves commit {commit}", self.id);
                return Err(Error::new(ErrorKind::Moved, what));
            }
            let ours = place.url.origin() == self.hub.endpoint().origin();
            ask = Ask::get(place.url, if ours { Bucket::Resolver } else { Bucket::Delivery });
        }
        Err(Error::new(ErrorKind::Network, format!("reading {path} of {}: redirected in a circle", self.id)))
    }

    /// What it is when answers keep contradicting the file list in length. What a commit holds cannot change, so the
    /// answers are at fault, and another night may bring right ones; the client of the largest hub says the same of
    /// short files ("usually due to network issues"). A branch may have moved.
    pub(super) fn contradicted(&self) -> ErrorKind {
        if is_commit(self.revision.as_str()) { ErrorKind::Network } else { ErrorKind::Moved }
    }

    /// The commit that is served, where it is another one than asked for.
    fn other_commit<'p>(&self, place: &'p Place) -> Option<&'p str> {
        let served = place.commit.as_deref().filter(|commit| is_commit(commit))?;
        (is_commit(self.revision.as_str()) && served != self.revision.as_str()).then_some(served)
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

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
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

    pub(super) fn contradicted(&self) -> ErrorKind {
        self.repo.contradicted()
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
        let read = |answer: &super::Answer| self.repo.hub.read_place(answer);
        let mut attempt = Attempt::new(self.client());
        let doing = || format!("reading {} of {}", self.file.path, self.repo.id);
        loop {
            let cap = limits::MAX_INFO_BYTES;
            let place = self.client().ask_async(self.hub(), &ask, &one, cap, &self.meter, &read).await?;
            if let Some(commit) = self.repo.other_commit(&place) {
                let (asked, doing) = (&self.repo.revision, doing());
                return Err(Error::new(
                    ErrorKind::Moved,
                    format!("{doing}: the hub serves commit {commit}, not {asked}"),
                ));
            }
            let contradiction = match (place.sha256, self.file.sha256, place.bytes) {
                (Some(now), Some(listed), _) if now != listed => {
                    format!("{}: its content is now {now}, listed was {listed}", doing())
                }
                (_, _, Some(bytes)) if bytes != self.file.bytes => {
                    format!("{}: its length is now {bytes}, listed was {}", doing(), self.file.bytes)
                }
                _ => {
                    *known = Some(place.clone());
                    return Ok(place);
                }
            };
            let error = Error::new(self.repo.contradicted(), contradiction);
            if error.kind == ErrorKind::Moved {
                return Err(error);
            }
            attempt.again(error).await?;
        }
    }

    /// The bytes of one range, over as many attempts as it takes.
    async fn range(&self, range: Range<u64>) -> Result<Bytes> {
        let doing =
            || format!("reading bytes {}..{} of {} of {}", range.start, range.end, self.file.path, self.repo.id);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wish = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1))
            .map_err(|error| Error::because(ErrorKind::Internal, doing(), error))?;
        let _busy = self.meter.busy();
        let mut attempt = Attempt::new(self.client());
        let mut renewals = 0;
        loop {
            let place = self.place().await?;
            let ask = Ask::get(place.url, Bucket::Delivery);
            let extra = [(header::RANGE, wish.clone())];
            let turn = attempt.turn(&ask, &self.meter).await?;
            let (response, told) = match self.client().open(self.hub(), &ask, &extra, turn, &self.meter).await {
                Ok(opened) => opened,
                Err(error) if error.kind == ErrorKind::Network => {
                    attempt.again(error).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.answered(response, &ask, &range).await? {
                Answered::Whole(bytes) => return Ok(bytes),
                Answered::Trouble(trouble) => {
                    let trouble = Error::new(ErrorKind::Network, format!("{}: {trouble}", doing()));
                    match told {
                        Some(wait) => attempt.told(wait, trouble)?,
                        None => attempt.again(trouble).await?,
                    }
                }
                Answered::Contradicted(trouble) => {
                    self.forget_place().await;
                    attempt.again(Error::new(self.repo.contradicted(), format!("{}: {trouble}", doing()))).await?;
                }
                Answered::Refused(status) => {
                    renewals += 1;
                    if renewals > 3 {
                        return Err(Error::new(
                            ErrorKind::Denied,
                            format!("{}: status {status} with a fresh address, three times", doing()),
                        ));
                    }
                    self.forget_place().await;
                }
            }
        }
    }

    /// What an answer to a wish for a range is, by its status.
    async fn answered(&self, response: reqwest::Response, ask: &Ask, range: &Range<u64>) -> Result<Answered> {
        Ok(match response.status().as_u16() {
            206 => return self.part(response, ask, range).await,
            // The whole file in place of a range: never read, it may be a hundred gigabytes.
            200 => Answered::Trouble("the server ignores ranges".to_owned()),
            416 => Answered::Contradicted("the server's file is shorter than listed".to_owned()),
            status @ (400 | 401 | 403 | 404 | 410) => Answered::Refused(status),
            status => Answered::Trouble(format!("status {status}")),
        })
    }

    /// The bytes of an answer that says it is a range, if it is the one that was asked for.
    async fn part(&self, response: reqwest::Response, ask: &Ask, range: &Range<u64>) -> Result<Answered> {
        let length = range.end - range.start;
        let given = content_range(response.headers());
        let plain =
            response.headers().get(header::CONTENT_ENCODING).is_none_or(|encoding| encoding.as_bytes() == b"identity");
        if !plain {
            return Ok(Answered::Trouble("the range is compressed, which makes it unusable".to_owned()));
        }
        if let Some((_, _, Some(total))) = given
            && total != self.file.bytes
        {
            let trouble = format!("the server's file has {total} bytes, listed are {}", self.file.bytes);
            return Ok(Answered::Contradicted(trouble));
        }
        if given != Some((range.start, range.end - 1, Some(self.file.bytes))) {
            return Ok(Answered::Trouble("another range than asked for".to_owned()));
        }
        match self.client().body(response, ask, length, &self.meter).await {
            Ok(reply) if reply.cut.is_none() && reply.body.len() as u64 == length => Ok(Answered::Whole(reply.body)),
            Ok(reply) => {
                let trouble = format!("{} after {} bytes", reply.cut.unwrap_or("ended"), reply.body.len());
                Ok(Answered::Trouble(trouble))
            }
            Err(error) if error.kind == ErrorKind::TooLarge => {
                Ok(Answered::Trouble("more bytes than asked for".to_owned()))
            }
            Err(error) => Err(error),
        }
    }
}

/// What a server answers to a wish for a range.
enum Answered {
    /// All of its bytes.
    Whole(Bytes),
    /// None that can be used, and why; another attempt may bring them.
    Trouble(String),
    /// That its file is another one than the list says.
    Contradicted(String),
    /// A status that a signed address has which ran out.
    Refused(u16),
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
