//! The index in a browser: server-rendered pages that need no script, and the same as JSON.
//!
//! Whoever asks needs a token, made anew at the start where none is given; only loopback can be served without.
//! Everything that came from a repository is escaped; no page may load anything but this server's own stylesheet.

mod access;
mod api;
mod asked;
mod layout;
mod listen;
mod login;
mod openapi;
mod overview;
mod pages;
mod prevalence;
mod tree;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use jiff::Timestamp;
use maud::html;

use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::limits::MAX_FORM_BYTES;
use crate::report::html::STYLESHEET;
use crate::report::sanitise;
use crate::signature::Catalogue;

pub use access::{MIN_TOKEN_CHARACTERS, fresh_token};
use listen::Limits;

/// Open read connections that are kept.
const IDLE_READERS: usize = 8;

/// What to serve and to whom.
pub struct ServeSettings {
    /// The index.
    pub index: PathBuf,
    /// The signatures, for their prose.
    pub catalogue: Catalogue,
    /// Where to listen.
    pub bind: SocketAddr,
    /// What a visitor has to know; needed when `bind` is not loopback.
    pub token: Option<String>,
    /// Whether visitors come over TLS (a proxy before this), so that cookies are kept to it.
    pub secure: bool,
    /// The time, for decisions.
    pub clock: fn() -> Timestamp,
}

/// The server's state.
pub(crate) struct App {
    index: PathBuf,
    pub(crate) catalogue: Catalogue,
    pub(crate) access: access::ServeAccess,
    pub(crate) clock: fn() -> Timestamp,
    readers: Mutex<Vec<Index>>,
    /// None where the index can be read and not written.
    writer: Option<Mutex<Index>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded stays whole when a holder panics: a list of connections, and a connection whose open transaction
    // was rolled back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl App {
    /// Opens the index (bringing its schema up to date where it can be written) and checks who may come in.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a bind address beyond loopback without a token, or a token that is too short.
    pub(crate) fn new(settings: ServeSettings) -> Result<Self> {
        let access = access::ServeAccess::new(&settings)?;
        let writer = match Index::open(&settings.index) {
            Ok(index) => Some(Mutex::new(index)),
            Err(error) => Index::open_read_only(&settings.index).map(|_| None).map_err(|_| error)?,
        };
        Ok(Self {
            index: settings.index,
            catalogue: settings.catalogue,
            access,
            clock: settings.clock,
            readers: Mutex::new(Vec::new()),
            writer,
        })
    }

    /// Runs a query on a thread that may wait.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Index, &Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let app = self.clone();
        blocking(move || {
            let idle = lock(&app.readers).pop();
            let index = match idle {
                Some(index) => index,
                None => Index::open_read_only(&app.index)?,
            };
            let answer = query(&index, &app);
            let mut readers = lock(&app.readers);
            if readers.len() < IDLE_READERS {
                readers.push(index);
            }
            answer
        })
        .await
    }

    /// Runs a change, one at a time.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Index, &Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let app = self.clone();
        let what = "changing the index: it lies where nothing can be written";
        blocking(move || match &app.writer {
            Some(writer) => change(&mut lock(writer), &app),
            None => Err(Error::new(ErrorKind::Denied, what)),
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::because(ErrorKind::Internal, "answering a request", error))?
}

/// Every page and every part of the API; each request is given at most so long.
pub(crate) fn router(app: Arc<App>, longest: Duration) -> Router {
    Router::new()
        .route("/", get(overview::home))
        .route("/queue", get(pages::queue))
        .route("/examination/{id}", get(pages::dossier))
        .route("/examination/{id}/decide", post(pages::decide))
        .route("/repository", get(pages::repository))
        .route("/tree", get(tree::page))
        .route("/prevalence", get(prevalence::page))
        .route("/decisions", get(pages::decisions))
        .route("/login", get(login::login_form).post(login::login))
        .route("/logout", post(login::logout))
        .route("/style.css", get(stylesheet))
        .route("/icon.svg", get(icon))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/api/openapi.json", get(openapi::document))
        .route("/api/v1/examinations", get(api::list))
        .route("/api/v1/examinations/{id}", get(api::one))
        .route("/api/v1/examinations/{id}/decisions", get(api::decisions).post(api::decide))
        .route("/api/v1/repositories/history", get(api::history))
        .route("/api/v1/prevalence", get(api::prevalence))
        .fallback(|| async { PageFailure(Error::new(ErrorKind::NotFound, "there is no such page")) })
        .layer(middleware::from_fn_with_state(app.clone(), access::guard))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(middleware::from_fn_with_state(longest, listen::in_time))
        .with_state(app)
}

/// Serves until told to stop. `ready` is given the address that is listened on, and whether decisions can be recorded.
pub fn run(settings: ServeSettings, ready: impl FnOnce(SocketAddr, bool)) -> Result<()> {
    let bind = settings.bind;
    let app = Arc::new(App::new(settings)?);
    let writable = app.writer.is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the server", error))?;
    let served = runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(bind)
            .await
            .map_err(|error| Error::io(format!("listening on {bind}; name another address with --bind"), error))?;
        let limits = Limits::default();
        let mut signals = Signals::new()?;
        ready(listener.local_addr().map_err(|error| Error::io("listening", error))?, writable);
        let (told, heard) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                signals.next().await;
                if told.send(()).is_err() {
                    return;
                }
            }
        });
        listen::serve(listener, router(app, limits.request), limits, heard).await;
        Ok(())
    });
    // A query that is still running reads only, or is rolled back by SQLite: nobody waits for its answer.
    runtime.shutdown_background();
    served
}

/// An interrupt, or a request to end.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hear = |kind| signal(kind).map_err(|error| Error::io("listening for signals", error));
        Ok(Self { interrupt: hear(SignalKind::interrupt())?, terminate: hear(SignalKind::terminate())? })
    }

    #[cfg(not(unix))]
    fn new() -> Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next one.
    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

async fn stylesheet() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=300")], STYLESHEET)
}

/// A ring with a gap: what is left when a direction is taken out.
async fn icon() -> impl IntoResponse {
    const ICON: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path d="M24 7a12 12 0 1 0 0 18" fill="none" stroke="#0b62b0" stroke-width="5"/></svg>"##;
    ([(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "max-age=300")], ICON)
}

/// An error as a page.
pub(crate) struct PageFailure(pub(crate) Error);

impl From<Error> for PageFailure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// The status of an error.
pub(crate) fn status_of(error: &Error) -> StatusCode {
    match error.kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Usage => StatusCode::BAD_REQUEST,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for PageFailure {
    fn into_response(self) -> Response {
        let status = status_of(&self.0);
        let text = sanitise::sentence(&self.0.one_line());
        let body = layout::plain(
            status.canonical_reason().unwrap_or("Error"),
            html! {
                h1 { (status.canonical_reason().unwrap_or("Error")) }
                p { (text) }
                p { a href="/" { "To the overview" } }
            },
        );
        (status, body).into_response()
    }
}

#[cfg(test)]
mod tests;
