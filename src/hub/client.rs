//! The one place that talks to hubs: sends, waits, retries, counts, keeps tokens at home. Async ends here.
//!
//! Redirects are never followed by the HTTP library: each is read, and the token is sent on only while scheme, host and
//! port stay the hub's own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use super::meter::{Meter, Totals};
use super::pace::Pace;
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
    /// Longest wait that a server may ask for before we give up.
    pub patience: Duration,
    /// Longest silence of a connection.
    pub silence: Duration,
    /// Ranges of one file fetched at a time.
    pub parallel: usize,
    /// Where whole files are kept.
    pub cache: PathBuf,
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
            parallel: 6,
            cache: PathBuf::from(".orthoscope-cache"),
        }
    }
}

/// The `User-Agent` of every request.
pub const USER_AGENT: &str =
    concat!("orthoscope/", env!("CARGO_PKG_VERSION"), " (provenance scanner; ", env!("CARGO_PKG_NAME"), ")");

/// A client of all hubs. Methods block; any number of threads may call them at once.
pub struct Client {
    settings: ClientSettings,
    http: OnceLock<Result<Http, String>>,
    pace: Pace,
    stop: CancellationToken,
    runtime: tokio::runtime::Runtime,
}

struct Http {
    outside: reqwest::Client,
    loopback: reqwest::Client,
}

/// A body as far as it came, with status and headers.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether the body ended before the length its header stated.
    pub(super) cut: bool,
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
        let stop = CancellationToken::new();
        Ok(Arc::new(Self { settings, http: OnceLock::new(), pace: Pace::default(), stop, runtime }))
    }

    /// The settings.
    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// A token that, once cancelled, ends every wait and request with [`ErrorKind::Interrupted`].
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn http(&self, url: &Url) -> Result<&reqwest::Client> {
        let made = self.http.get_or_init(|| {
            let builder = || {
                reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::none())
                    .user_agent(USER_AGENT)
                    .connect_timeout(Duration::from_secs(10))
                    .read_timeout(self.settings.silence)
            };
            let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|error| error.to_string());
            Ok(Http { outside: build(builder())?, loopback: build(builder().no_proxy())? })
        });
        let http = made
            .as_ref()
            .map_err(|error| Error::new(ErrorKind::Network, format!("setting up the HTTP client: {error}")))?;
        let local = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        Ok(if local { &http.loopback } else { &http.outside })
    }

    /// Sends one request, waits and retries as needed, and returns the answer of any status below 400 (or the hub's
    /// refusal as an error of the right kind).
    pub fn ask(&self, hub: &dyn Hub, ask: &Ask, meter: &Meter) -> Result<Answer> {
        self.block_on(self.ask_async(hub, ask, &[], meter))
    }

    pub(super) async fn ask_async(
        &self,
        hub: &dyn Hub,
        ask: &Ask,
        extra: &[(http::HeaderName, http::HeaderValue)],
        meter: &Meter,
    ) -> Result<Answer> {
        if ask.url.scheme() == "file" {
            let answer = super::disk::answer(&ask.url)?;
            return match hub.refusal(&answer) {
                Some(refusal) => Err(Error::new(refusal.kind, format!("asking {}: {}", hub.prefix(), refusal.message))),
                None => Ok(answer),
            };
        }
        let doing = || format!("asking {}", shown(&ask.url));
        let mut attempt = Attempt::new(self);
        loop {
            let cap = limits::MAX_JSON_BYTES;
            let trouble = match self.send(hub, ask, extra, cap, meter).await {
                Err(error) if error.kind == ErrorKind::Network => error,
                Err(error) => return Err(error),
                Ok((reply, _)) if reply.cut => {
                    Error::new(ErrorKind::Network, format!("{}: the answer broke off", doing()))
                }
                Ok((reply, told)) => {
                    let answer =
                        Answer { url: ask.url.clone(), status: reply.status, headers: reply.headers, body: reply.body };
                    let Some(refusal) = hub.refusal(&answer) else {
                        // An answer that should be JSON and is not (a proxy's page, a body cut by a broken
                        // intermediary) is worth asking for again.
                        if ask.bucket != Bucket::Api || answer.status >= 300 || is_json(&answer.body) {
                            return Ok(answer);
                        }
                        attempt
                            .again(Error::new(ErrorKind::Malformed, format!("{}: the answer is not JSON", doing())))
                            .await?;
                        continue;
                    };
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
            };
            attempt.again(trouble).await?;
        }
    }

    /// One attempt of one request: paced, counted, its body read up to `cap` bytes. The second value is the wait the
    /// server asked for when it refused.
    pub(super) async fn send(
        &self,
        hub: &dyn Hub,
        ask: &Ask,
        extra: &[(http::HeaderName, http::HeaderValue)],
        cap: u64,
        meter: &Meter,
    ) -> Result<(Reply, Option<Duration>)> {
        let (response, told) = self.open(hub, ask, extra, meter).await?;
        Ok((self.body(response, ask, cap, meter).await?, told))
    }

    /// Reads a body up to `cap` bytes, counting each as it comes.
    pub(super) async fn body(
        &self,
        mut response: reqwest::Response,
        ask: &Ask,
        cap: u64,
        meter: &Meter,
    ) -> Result<Reply> {
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
        let weights = ask.bucket == Bucket::Delivery;
        let mut body = BytesMut::with_capacity(stated.unwrap_or(0).min(1 << 20) as usize);
        let mut cut = false;
        loop {
            match self.interruptible(response.chunk()).await? {
                Ok(Some(chunk)) => {
                    meter.count_bytes(chunk.len() as u64, weights);
                    if body.len() as u64 + chunk.len() as u64 > cap {
                        return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {cap} bytes", doing())));
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok(None) => break,
                Err(_) => {
                    cut = true;
                    break;
                }
            }
        }
        cut |= stated.is_some_and(|stated| stated != body.len() as u64);
        Ok(Reply { status, headers, body: body.freeze(), cut })
    }

    /// One attempt up to the headers.
    pub(super) async fn open(
        &self,
        hub: &dyn Hub,
        ask: &Ask,
        extra: &[(http::HeaderName, http::HeaderValue)],
        meter: &Meter,
    ) -> Result<(reqwest::Response, Option<Duration>)> {
        let doing = || format!("asking {}", shown(&ask.url));
        if self.settings.offline {
            return Err(Error::new(ErrorKind::Offline, format!("{}: offline mode forbids requests", doing())));
        }
        let host = ask.url.origin().ascii_serialization();
        let mut request = match ask.verb {
            Verb::Get => self.http(&ask.url)?.get(ask.url.clone()),
            Verb::Post => self.http(&ask.url)?.post(ask.url.clone()),
        };
        // Compressed bodies have no usable ranges or lengths.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if ask.url.origin() == hub.endpoint().origin() {
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
        while let Some(wait) = self.pace.start(&host, ask.bucket, Instant::now()) {
            self.sleep(wait).await?;
        }
        meter.count_request();
        let sent = match self.interruptible(request.send()).await {
            Ok(sent) => sent,
            Err(error) => {
                self.pace.lost(&host, ask.bucket);
                return Err(error);
            }
        };
        match sent {
            Err(error) => {
                self.pace.lost(&host, ask.bucket);
                // The error's text would repeat the address with its signature.
                Err(Error::because(ErrorKind::Network, doing(), error.without_url()))
            }
            Ok(response) => {
                let status = response.status().as_u16();
                let told = self.pace.answered(&host, ask.bucket, status, response.headers(), Instant::now());
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

    /// The next bytes of a body being streamed.
    pub(super) async fn chunk(&self, response: &mut reqwest::Response) -> Result<reqwest::Result<Option<Bytes>>> {
        self.interruptible(response.chunk()).await
    }

    async fn interruptible<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::new(ErrorKind::Interrupted, "stopped on request")),
            done = future => Ok(done),
        }
    }

    /// The folder for orthoscope's own cache.
    pub fn cache(&self) -> &Path {
        &self.settings.cache
    }
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// The attempts of one request.
pub(super) struct Attempt<'a> {
    client: &'a Client,
    failed: u32,
    waited: Duration,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client, failed: 0, waited: Duration::ZERO }
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
        self.waited = self.waited.saturating_add(wait);
        if self.waited > self.client.settings.patience {
            let waited = self.waited.as_secs();
            return Err(Error { doing: format!("{}: asked to wait {waited} s in all", trouble.doing), ..trouble });
        }
        Ok(())
    }
}
