//! A stand-in hub on loopback: the protocols of Hugging Face and ModelScope, with faults on demand.
//!
//! `orthoscope demo` sweeps one, and the tests are built on it. It listens on two ports, the hub and the delivery
//! network ("CDN") behind it, so that a token that strays to another origin is noticed. The official Python clients are
//! run against it (`tests/oracles/hub.py`), so that it is what they accept and not what we imagine. One deviation is
//! kept: it speaks plain HTTP, where the official client reads a missing repository from `X-Error-Code` only, so that
//! header is sent also where the real hub leaves it out.

mod answer;
mod control;
mod delivery;
mod faults;
mod huggingface;
mod modelscope;
mod repository;
mod serve;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use faults::{Fault, Rates};
pub use repository::{FileContent, Gate, Repository, Surprise};

use crate::error::{Error, ErrorKind, Result};

/// How the stand-in behaves.
#[derive(Debug, Clone)]
pub struct StandinSettings {
    /// Requests allowed per window, for listings and facts; `None` states no quota.
    pub api_quota: Option<u64>,
    /// Requests allowed per window, for file look-ups.
    pub resolver_quota: Option<u64>,
    /// Length of the quotas' fixed window.
    pub window: Duration,
    /// Life of a signed address.
    pub address_life: Duration,
    /// Rows of a listing page at most.
    pub list_page: usize,
    /// Entries of a tree page at most.
    pub tree_page: usize,
    /// Files of this size and above are large ones; those with a weight's name always are.
    pub large_from: u64,
    /// What redirects to the delivery network name in place of its own address.
    pub delivery_at: Option<String>,
    /// Shares of requests that meet each fault.
    pub rates: Rates,
    /// The token that opens gated repositories.
    pub token: Option<String>,
    /// Decides which requests meet faults.
    pub seed: u64,
}

impl Default for StandinSettings {
    fn default() -> Self {
        Self {
            api_quota: Some(1000),
            resolver_quota: Some(5000),
            window: Duration::from_secs(300),
            address_life: Duration::from_secs(3600),
            list_page: 1000,
            tree_page: 1000,
            large_from: 10 << 20,
            delivery_at: None,
            rates: Rates::default(),
            token: None,
            seed: 1,
        }
    }
}

/// Which of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Port {
    /// The hub.
    Hub,
    /// The delivery network.
    Delivery,
}

/// One request, as it was met.
#[derive(Debug, Clone, Serialize)]
pub struct Logged {
    /// Milliseconds since the start.
    pub at: u64,
    /// The port.
    pub port: Port,
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Whether credentials of any kind came along.
    pub credentials: bool,
    /// The `Accept-Encoding` header.
    pub encoding: Option<String>,
    /// The `User-Agent` header.
    pub agent: Option<String>,
    /// The status answered.
    pub status: u16,
    /// The fault it met, if one.
    pub fault: Option<Fault>,
    /// Milliseconds since the refusal (429) whose wait was not yet over when this request came.
    pub inside_wait: Option<u64>,
}

pub(crate) struct StandinState {
    pub(crate) settings: StandinSettings,
    pub(crate) hub: String,
    pub(crate) delivery: String,
    pub(crate) secret: [u8; 32],
    started: Instant,
    repositories: Mutex<BTreeMap<String, Arc<Repository>>>,
    log: Mutex<Vec<Logged>>,
    pub(crate) pressure: Mutex<faults::Pressure>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The stand-in's data stay meaningful whatever a panicking handler left undone.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StandinState {
    pub(crate) fn repository(&self, name: &str) -> Option<Arc<Repository>> {
        locked(&self.repositories).get(name).cloned()
    }

    pub(crate) fn repositories(&self) -> Vec<Arc<Repository>> {
        locked(&self.repositories).values().cloned().collect()
    }

    pub(crate) fn log(&self, entry: Logged) {
        locked(&self.log).push(entry);
    }

    pub(crate) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// A running stand-in. Dropping it stops it.
pub struct Standin {
    state: Arc<StandinState>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Standin {
    /// Starts one on two free loopback ports.
    pub fn start(repositories: Vec<Repository>, settings: StandinSettings) -> Result<Self> {
        let doing = "starting the stand-in hub";
        let bind = || {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok::<_, std::io::Error>((listener, format!("http://{address}")))
        };
        let (hub_listener, hub) = bind().map_err(|error| Error::io(doing, error))?;
        let (delivery_listener, delivery) = bind().map_err(|error| Error::io(doing, error))?;
        let repositories = repositories.into_iter().map(|repo| (repo.name.clone(), Arc::new(repo))).collect();
        let mut secret = [0u8; 32];
        fastrand::fill(&mut secret);
        let state = Arc::new(StandinState {
            settings,
            hub,
            delivery,
            secret,
            started: Instant::now(),
            repositories: Mutex::new(repositories),
            log: Mutex::default(),
            pressure: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("standin-hub")
            .enable_all()
            .build()
            .map_err(|error| Error::io(doing, error))?;
        let (served, ended) = (state.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("standin-hub".to_owned())
            .spawn(move || {
                runtime.block_on(serve::run(served, hub_listener, delivery_listener, ended));
                // Connections that clients keep open must not keep the process.
                runtime.shutdown_timeout(Duration::from_millis(200));
            })
            .map_err(|error| Error::io(doing, error))?;
        Ok(Self { state, stop, thread: Some(thread) })
    }

    /// The hub's address.
    pub fn hub(&self) -> &str {
        &self.state.hub
    }

    /// The delivery network's address.
    pub fn delivery(&self) -> &str {
        &self.state.delivery
    }

    /// Every request so far.
    pub fn log(&self) -> Vec<Logged> {
        locked(&self.state.log).clone()
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        locked(&self.state.log).clear();
    }

    /// Adds a repository, or pushes a new state of one (its commit changes, the old one is gone).
    pub fn push(&self, repository: Repository) {
        locked(&self.state.repositories).insert(repository.name.clone(), Arc::new(repository));
    }

    /// Deletes a repository.
    pub fn delete(&self, name: &str) {
        locked(&self.state.repositories).remove(name);
    }

    /// The next `times` requests whose target contains `part` meet a fault.
    pub fn inject(&self, fault: Fault, part: &str, times: u32) {
        locked(&self.state.pressure).script(fault, part, times);
    }

    /// Stops serving and waits for the server's thread to end.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.cancel();
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Err(_)) => Err(Error::new(ErrorKind::Internal, "stopping the stand-in hub: it panicked")),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A repository path with each segment percent-encoded.
fn repository_path(path: &str) -> String {
    let encode = |part: &str| {
        let mut url = url::Url::parse("http://localhost/").ok()?;
        url.path_segments_mut().ok()?.pop_if_empty().push(part);
        Some(url.path().trim_start_matches('/').to_owned())
    };
    path.split('/').filter_map(encode).collect::<Vec<_>>().join("/")
}
