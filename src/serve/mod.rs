//! The index in a browser: server-rendered pages that need no script, and the same as JSON.
//!
//! Loopback without a token, anything else only with one. Everything that came from a repository is escaped; no page may
//! load anything but this server's own stylesheet.

mod access;
mod api;
mod layout;
mod openapi;
mod pages;
mod prevalence;
mod tree;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use jiff::Timestamp;
use maud::html;

use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::report::html::STYLESHEET;
use crate::report::sanitise;
use crate::signature::Catalogue;

pub use access::MIN_TOKEN_CHARACTERS;

/// Bytes of a request's body: a decision's note and its form.
const MAX_BODY_BYTES: usize = 128 * 1024;

/// Open read connections that are kept.
const IDLE_READERS: usize = 8;

/// What to serve and to whom.
pub struct Settings {
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
    pub(crate) access: access::Access,
    pub(crate) clock: fn() -> Timestamp,
    readers: Mutex<Vec<Index>>,
    writer: Mutex<Index>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded stays whole when a holder panics: a list of connections, and a connection whose open transaction
    // was rolled back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl App {
    /// Opens the index (bringing its schema up to date) and checks who may come in.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a bind address beyond loopback without a token, or a token that is too short.
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let access = access::Access::new(&settings)?;
        let writer = Index::open(&settings.index)?;
        Ok(Self {
            index: settings.index,
            catalogue: settings.catalogue,
            access,
            clock: settings.clock,
            readers: Mutex::new(Vec::new()),
            writer: Mutex::new(writer),
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
        blocking(move || change(&mut lock(&app.writer), &app)).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::because(ErrorKind::Internal, "answering a request", error))?
}

/// Every page and every part of the API.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(pages::home))
        .route("/queue", get(pages::queue))
        .route("/examination/{id}", get(pages::dossier))
        .route("/examination/{id}/decide", post(pages::decide))
        .route("/repository", get(pages::repository))
        .route("/tree", get(tree::page))
        .route("/prevalence", get(prevalence::page))
        .route("/decisions", get(pages::decisions))
        .route("/login", get(access::login_form).post(access::login))
        .route("/logout", post(access::logout))
        .route("/style.css", get(stylesheet))
        .route("/icon.svg", get(icon))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/api/openapi.json", get(openapi::document))
        .route("/api/v1/examinations", get(api::list))
        .route("/api/v1/examinations/{id}", get(api::one))
        .route("/api/v1/examinations/{id}/decisions", get(api::decisions).post(api::decide))
        .route("/api/v1/repositories/history", get(api::history))
        .route("/api/v1/prevalence", get(api::prevalence))
        .fallback(|| async { Failure(Error::new(ErrorKind::NotFound, "there is no such page")) })
        .layer(middleware::from_fn_with_state(app.clone(), access::guard))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

/// Serves until told to stop. `ready` is given the address that is listened on.
pub fn run(settings: Settings, ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let bind = settings.bind;
    let app = Arc::new(App::new(settings)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the server", error))?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(bind)
            .await
            .map_err(|error| Error::io(format!("listening on {bind}; name another address with --bind"), error))?;
        ready(listener.local_addr().map_err(|error| Error::io("listening", error))?);
        axum::serve(listener, router(app))
            .with_graceful_shutdown(stop())
            .await
            .map_err(|error| Error::io("serving", error))
    })
}

/// Waits for an interrupt or a request to end.
async fn stop() {
    let interrupt = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    #[cfg(unix)]
    {
        let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(_) => return interrupt.await,
        };
        tokio::select! {
            () = interrupt => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    interrupt.await;
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
pub(crate) struct Failure(pub(crate) Error);

impl From<Error> for Failure {
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

impl IntoResponse for Failure {
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
