//! The one place that talks to hubs: sends, waits, retries, counts, keeps tokens at home. Async ends here.
//!
//! Redirects are never followed by the HTTP library: each is read, and the token is sent on only while scheme, host and
//! port stay the hub's own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use super::meter::{Meter, Totals};
use super::pace::{Pace, Turn};
use super::reach::{self, Reach};
use super::{Answer, Ask, Bucket, Hub, Verb, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// How the client behaves; the defaults suit the public hubs.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Forbids every request.
    pub offline: bool,
    /// Attempts of one request that meets overload or a broken connection.
    pub tries: u32,
    /// Wait before the second attempt; doubled for each further one, with jitter.
    pub first_wait: Duration,
    /// Longest wait of our own choosing.
    pub longest_wait: Duration,
    /// Longest wait that a server may ask for before we give up, in a refusal or ahead of one.
    pub patience: Duration,
    /// Longest silence of a connection.
    pub silence: Duration,
    /// Time of one request until its headers are there, and of its body beside what its bytes allow.
    pub request_time: Duration,
    /// Bytes a second that a body keeps on average, once that time is over.
    pub slowest: u64,
    /// Time of requests and waits spent on one repository, beside what its bytes allow.
    pub repository_time: Duration,
    /// How far redirects may lead; `None`: as far as the hub is itself.
    pub reach: Option<Reach>,
    /// Ranges of one file fetched at a time.
    pub parallel: usize,
    /// Where whole files are kept.
    pub cache: PathBuf,
    /// Bytes that downloads leave free on the file system of the cache.
    pub reserve: u64,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            offline: false,
            tries: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(8),
            patience: Duration::from_secs(900),
            silence: Duration::from_secs(30),
            request_time: Duration::from_secs(limits::REQUEST_SECONDS),
            slowest: limits::SLOWEST_BYTES_PER_SECOND,
            repository_time: Duration::from_secs(limits::REPOSITORY_SECONDS),
            reach: None,
            parallel: 6,
            cache: PathBuf::from(".orthoscope-cache"),
            reserve: limits::DISK_RESERVE_BYTES,
        }
    }
}

/// The `User-Agent` of every request.
pub const USER_AGENT: &str =
    concat!("orthoscope/", env!("CARGO_PKG_VERSION"), " (provenance scanner; ", env!("CARGO_PKG_NAME"), ")");

/// A client of all hubs. Methods block; any number of threads may call them at once.
pub struct Client {
    settings: ClientSettings,
    https: Mutex<BTreeMap<Way, reqwest::Client>>,
    reaches: Mutex<BTreeMap<String, Reach>>,
    proxies: BTreeSet<String>,
    pace: Pace,
    stop: CancellationToken,
    runtime: tokio::runtime::Runtime,
}

/// How a connection is made: past the proxy or not, and how far a name may lead (`None`: anywhere, for the hub itself).
type Way = (bool, Option<Reach>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both maps are caches, each change of which is one insertion.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body as far as it came, with status and headers.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Why it ended before its end, if it did.
    pub(super) cut: Option<&'static str>,
}

impl Client {
    /// A client. It opens no connection before the first request.
    pub fn new(settings: ClientSettings) -> Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("orthoscope-net")
            .enable_all()
            .build()
            .map_err(|error| Error::io("starting the network threads", error))?;
        Ok(Arc::new(Self {
            settings,
            https: Mutex::default(),
            reaches: Mutex::default(),
            proxies: reach::proxies(),
            pace: Pace::default(),
            stop: CancellationToken::new(),
            runtime,
        }))
    }

    /// The settings.
    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// A token that, once cancelled, ends every wait and request with [`ErrorKind::Interrupted`].
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// A meter for one repository: `limit` bytes, and the time of the settings.
    pub fn meter(&self, what: &'static str, limit: Option<u64>, parent: Option<Arc<Meter>>) -> Arc<Meter> {
        Meter::timed(what, limit, (self.settings.repository_time, self.settings.slowest), parent)
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn http(&self, url: &Url, reach: Option<Reach>) -> Result<reqwest::Client> {
        let local = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let mut made = locked(&self.https);
        if let Some(http) = made.get(&(local, reach)) {
            return Ok(http.clone());
        }
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(USER_AGENT)
            .connect_timeout(Duration::from_secs(10).min(self.settings.request_time))
            .read_timeout(self.settings.silence);
        if local {
            builder = builder.no_proxy();
        }
        if let Some(reach) = reach {
            let free = if local { BTreeSet::new() } else { self.proxies.clone() };
            builder = builder.dns_resolver(Arc::new(reach::AddressFilter { reach, free }));
        }
        let http =
            builder.build().map_err(|error| Error::because(ErrorKind::Network, "setting up the HTTP client", error))?;
        made.insert((local, reach), http.clone());
        Ok(http)
    }

    /// How far redirects of a hub may lead. Its own name is looked up once.
    async fn reach(&self, endpoint: &Url) -> Reach {
        if let Some(reach) = self.settings.reach {
            return reach;
        }
        let origin = endpoint.origin().ascii_serialization();
        if let Some(reach) = locked(&self.reaches).get(&origin) {
            return *reach;
        }
        let addresses = reach::addresses(endpoint).await;
        let reach = Reach::allowed_to(&addresses);
        // A name that only the proxy knows is not asked for again; otherwise the network may come back.
        if !addresses.is_empty() || !self.proxies.is_empty() {
            locked(&self.reaches).insert(origin, reach);
        }
        reach
    }

    /// Sends one request, waits and retries as needed, and reads the answer of any status below 400 with `read`, of a
    /// body of at most `cap` bytes. The hub's refusal is an error of the right kind. An answer that `read` finds
    /// malformed (a proxy's page, a body cut by a broken intermediary) is asked for again.
    pub fn ask<T>(
        &self,
        hub: &dyn Hub,
        ask: &Ask,
        cap: u64,
        meter: &Meter,
        read: &dyn Fn(&Answer) -> Result<T>,
    ) -> Result<T> {
        self.block_on(self.ask_async(hub, ask, &[], cap, meter, read))
    }

    pub(super) async fn ask_async<T>(
        &self,
        hub: &dyn Hub,
        ask: &Ask,
        extra: &[(http::HeaderName, http::HeaderValue)],
        cap: u64,
        meter: &Meter,
        read: &dyn Fn(&Answer) -> Result<T>,
    ) -> Result<T> {
        if ask.url.scheme() == "file" {
            let answer = super::disk::answer(&ask.url)?;
            return match hub.refusal(&answer) {
                Some(refusal) => Err(Error::new(refusal.kind, format!("asking {}: {}", hub.prefix(), refusal.message))),
                None => read(&answer),
            };
        }
        let doing = || format!("asking {}", shown(&ask.url));
        let _busy = meter.busy();
        let mut attempt = Attempt::new(self);
        loop {
            let turn = attempt.turn(ask, meter).await?;
            let trouble = match self.send(hub, ask, extra, turn, cap, meter).await {
                Err(error) if error.kind == ErrorKind::Network => error,
                Err(error) => return Err(error),
                Ok((Reply { cut: Some(why), .. }, _)) => {
                    Error::new(ErrorKind::Network, format!("{}: the answer {why}", doing()))
                }
                Ok((reply, told)) => {
                    let answer =
                        Answer { url: ask.url.clone(), status: reply.status, headers: reply.headers, body: reply.body };
                    match hub.refusal(&answer) {
                        None => match read(&answer) {
                            Err(error) if matches!(error.kind, ErrorKind::Malformed | ErrorKind::Network) => error,
                            done => return done,
                        },
                        Some(refusal) => {
                            let error = Error::new(refusal.kind, format!("{}: {}", doing(), refusal.message));
                            if !refusal.passing {
                                return Err(error);
                            }
                            if let Some(wait) = told {
                                attempt.told(wait, error)?;
                                continue;
                            }
                            error
                        }
                    }
                }
            };
            attempt.again(trouble).await?;
        }
    }

    /// One attempt of one request: counted, its body read up to `cap` bytes. The second value is the wait the server
    /// asked for when it refused.
    async fn send(
        &self,
        hub: &dyn Hub,
        ask: &Ask,
        extra: &[(http::HeaderName, http::HeaderValue)],
        turn: Turn<'_>,
        cap: u64,
        meter: &Meter,
    ) -> Result<(Reply, Option<Duration>)> {
        let (response, told) = self.open(hub, ask, extra, turn, meter).await?;
        Ok((self.body(response, ask, cap, meter).await?, told))
    }

    /// Reads a body up to `cap` bytes, counting each as it comes.
    pub(super) async fn body(&self, response: reqwest::Response, ask: &Ask, cap: u64, meter: &Meter) -> Result<Reply> {
        let doing = || format!("reading {}", shown(&ask.url));
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let stated: Option<u64> = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        if stated.is_some_and(|stated| stated > cap) {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{}: {} bytes, more than {cap}", doing(), stated.unwrap_or(0)),
            ));
        }
        let mut body = BytesMut::with_capacity(stated.unwrap_or(0).min(1 << 20) as usize);
        let mut flow = self.flow(response, ask.bucket == Bucket::Delivery, meter);
        let mut cut = loop {
            match flow.next().await? {
                Step::Bytes(chunk) => {
                    if body.len() as u64 + chunk.len() as u64 > cap {
                        return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {cap} bytes", doing())));
                    }
                    body.extend_from_slice(&chunk);
                }
                Step::End => break None,
                Step::Broken(why) => break Some(why),
            }
        };
        if stated.is_some_and(|stated| stated != body.len() as u64) {
            cut = cut.or(Some(BROKE_OFF));
        }
        Ok(Reply { status, headers, body: body.freeze(), cut })
    }

    /// A body to be read piece by piece.
    pub(super) fn flow<'a>(&'a self, response: reqwest::Response, weights: bool, meter: &'a Meter) -> Flow<'a> {
        Flow { client: self, meter, response, weights, started: Instant::now(), received: 0 }
    }

    /// One attempt up to the headers.
    pub(super) async fn open(
        &self,
        hub: &dyn Hub,
        ask: &Ask,
        extra: &[(http::HeaderName, http::HeaderValue)],
        turn: Turn<'_>,
        meter: &Meter,
    ) -> Result<(reqwest::Response, Option<Duration>)> {
        let doing = || format!("asking {}", shown(&ask.url));
        let ours = ask.url.origin() == hub.endpoint().origin();
        let reach = if ours {
            None
        } else {
            let reach = self.interruptible(self.reach(hub.endpoint())).await?;
            reach::check(hub.endpoint(), &ask.url, reach, &self.proxies)?;
            Some(reach)
        };
        let http = self.http(&ask.url, reach)?;
        let mut request = match ask.verb {
            Verb::Get => http.get(ask.url.clone()),
            Verb::Post => http.post(ask.url.clone()),
        };
        // Compressed bodies have no usable ranges or lengths.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if ours {
            for (name, value) in hub.credentials() {
                request = request.header(name, value);
            }
        }
        for (name, value) in extra {
            request = request.header(name, value);
        }
        if let Some((kind, body)) = &ask.body {
            request = request.header(header::CONTENT_TYPE, *kind).body(body.clone());
        }
        meter.count_request();
        match self.within(meter, Some(self.settings.request_time), request.send()).await? {
            None => Err(Error::new(ErrorKind::Network, format!("{}: {SLOW_HEADERS}", doing()))),
            Some(Err(error)) => match reach::forbidden(&error) {
                Some(why) => Err(Error::new(ErrorKind::Malformed, format!("{}: {why}", doing()))),
                // The error's text would repeat the address with its signature.
                None => Err(Error::because(ErrorKind::Network, doing(), error.without_url())),
            },
            Some(Ok(response)) => {
                let told = turn.answered(response.status().as_u16(), response.headers(), Instant::now());
                Ok((response, told))
            }
        }
    }

    pub(super) async fn sleep(&self, wait: Duration) -> Result<()> {
        self.interruptible(tokio::time::sleep(wait)).await
    }

    /// Waits without a request (for pollers); ends early with `Interrupted` when the client is stopped.
    pub fn pause(&self, wait: Duration) -> Result<()> {
        self.block_on(self.sleep(wait))
    }

    async fn interruptible<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::new(ErrorKind::Interrupted, "stopped on request")),
            done = future => Ok(done),
        }
    }

    /// Waits for something for `time` at most (`None` when that is over), and no longer than the meter allows
    /// (`Budget`).
    async fn within<T>(
        &self,
        meter: &Meter,
        time: Option<Duration>,
        future: impl Future<Output = T>,
    ) -> Result<Option<T>> {
        let left = meter.time_left();
        let Some(most) = time.into_iter().chain(left).min() else {
            return self.interruptible(future).await.map(Some);
        };
        match self.interruptible(tokio::time::timeout(most, future)).await? {
            Ok(done) => Ok(Some(done)),
            Err(_) if left.is_some_and(|left| left <= most) => Err(meter.out_of_time()),
            Err(_) => Ok(None),
        }
    }

    /// The folder for orthoscope's own cache.
    pub fn cache(&self) -> &Path {
        &self.settings.cache
    }
}

const SLOW_HEADERS: &str = "no answer in the time allowed";
const BROKE_OFF: &str = "broke off";

/// A body on its way, held to a pace.
pub(super) struct Flow<'a> {
    client: &'a Client,
    meter: &'a Meter,
    response: reqwest::Response,
    weights: bool,
    started: Instant,
    received: u64,
}

/// What came next of a body.
pub(super) enum Step {
    /// More of it.
    Bytes(Bytes),
    /// Nothing: that was all.
    End,
    /// Nothing: it broke off, or came too slowly.
    Broken(&'static str),
}

impl Flow<'_> {
    /// The next bytes. Errors are a stop and a budget of time that is over.
    pub(super) async fn next(&mut self) -> Result<Step> {
        let settings = &self.client.settings;
        let bytes = Duration::from_secs_f64(self.received as f64 / settings.slowest.max(1) as f64);
        let left = (settings.request_time + bytes).saturating_sub(self.started.elapsed());
        Ok(match self.client.within(self.meter, Some(left), self.response.chunk()).await? {
            None => Step::Broken("came too slowly"),
            Some(Ok(Some(chunk))) => {
                self.received += chunk.len() as u64;
                self.meter.count_bytes(chunk.len() as u64, self.weights);
                Step::Bytes(chunk)
            }
            Some(Ok(None)) => Step::End,
            Some(Err(_)) => Step::Broken(BROKE_OFF),
        })
    }
}

/// The attempts of one request.
pub(super) struct Attempt<'a> {
    client: &'a Client,
    failed: u32,
    told: u32,
    waited: Duration,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client, failed: 0, told: 0, waited: Duration::ZERO }
    }

    /// Waits until the pace lets a request start, as long as patience and the meter's time last.
    pub(super) async fn turn(&mut self, ask: &Ask, meter: &Meter) -> Result<Turn<'a>> {
        let client = self.client;
        let doing = || format!("asking {}", shown(&ask.url));
        if client.settings.offline {
            return Err(Error::new(ErrorKind::Offline, format!("{}: offline mode forbids requests", doing())));
        }
        if meter.time_left().is_some_and(|left| left.is_zero()) {
            return Err(meter.out_of_time());
        }
        let host = ask.url.origin().ascii_serialization();
        loop {
            let wait = match client.pace.start(&host, ask.bucket, Instant::now()) {
                Ok(turn) => return Ok(turn),
                Err(wait) => wait,
            };
            if self.waited.saturating_add(wait) > client.settings.patience {
                return Err(self.impatient(wait, Error::new(ErrorKind::Network, doing())));
            }
            client.within(meter, None, tokio::time::sleep(wait)).await?;
            self.waited = self.waited.saturating_add(wait);
        }
    }

    fn impatient(&self, wait: Duration, trouble: Error) -> Error {
        let (asked, patience) = ((self.waited + wait).as_secs(), self.client.settings.patience.as_secs());
        Error { doing: format!("{}: asked to wait {asked} s in all, more than {patience} s", trouble.doing), ..trouble }
    }

    /// Waits before another attempt, or gives up with `trouble`.
    pub(super) async fn again(&mut self, trouble: Error) -> Result<()> {
        self.failed += 1;
        let settings = &self.client.settings;
        if self.failed >= settings.tries {
            let tries = self.failed;
            return Err(Error { doing: format!("{} ({tries} attempts)", trouble.doing), ..trouble });
        }
        let wait = settings.first_wait.saturating_mul(1 << (self.failed - 1).min(16)).min(settings.longest_wait);
        // Half fixed, half random: many workers that failed together do not come back together.
        self.client.sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await
    }

    /// The server asked for a wait, which the pace will keep: no attempt is lost, but patience ends.
    pub(super) fn told(&mut self, wait: Duration, trouble: Error) -> Result<()> {
        self.told += 1;
        if self.waited.saturating_add(wait) > self.client.settings.patience || self.told > limits::MAX_STATED_WAITS {
            return Err(self.impatient(wait, trouble));
        }
        Ok(())
    }
}
