//! Connections and how long they may take: a server that anyone can reach must not be held up by those who say nothing.
//!
//! Before it is known who asks, a visitor costs a task and a file handle, so their number and the time each may be
//! silent are bounded. After a signal those who are in the middle of something get a moment to end it, and no more.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits;

/// How many may be connected, and how long each thing may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once; further ones wait in the system's own queue.
    pub connections: usize,
    /// From the first moment of a connection, or the end of an answer, to the end of the next request's headers.
    pub headers: Duration,
    /// From a request's headers to its answer's: the body, the work, and waiting for others.
    pub request: Duration,
    /// After this a connection takes no further request.
    pub connection: Duration,
    /// What a connection that is to end may still take for the answer it is giving.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: limits::MAX_CONNECTIONS,
            headers: Duration::from_secs(10),
            request: Duration::from_secs(30),
            connection: Duration::from_secs(300),
            farewell: Duration::from_secs(5),
        }
    }
}

/// Ends a request that takes too long, so that a body sent a byte at a time holds nothing for ever.
pub(super) async fn in_time(State(most): State<Duration>, request: Request, next: Next) -> Response {
    match timeout(most, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
    }
}

/// Serves until the first signal, then lets go: connections between two requests end at once, the others after
/// [`Limits::farewell`] at the latest, all at the second signal.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, mut signals: UnboundedReceiver<()>) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let (ending, tasks) = (CancellationToken::new(), TaskTracker::new());
    let accepting = async {
        loop {
            // The place comes first: what is not accepted costs this process nothing.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let stream = accept(&listener).await;
            let (router, ending) = (router.clone(), ending.clone());
            tasks.spawn(async move {
                connection(stream, router, limits, ending).await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = next(&mut signals) => {}
    }
    drop(listener);
    ending.cancel();
    tasks.close();
    tokio::select! {
        () = tasks.wait() => {}
        () = next(&mut signals) => {}
    }
}

/// Waits for a signal; for ever when nobody is left who could send one.
async fn next(signals: &mut UnboundedReceiver<()>) {
    if signals.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The next connection. Errors are the visitor's (gone already) or pass (no file handle is free): neither ends the
/// server.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, ending: CancellationToken) {
    // Answers are written whole; holding back their last piece only delays it.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .serve_connection::<_, TowerToHyperService<Router>>(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    // What goes wrong in a connection is over with it.
    tokio::select! {
        _ = serving.as_mut() => return,
        () = ending.cancelled() => {}
        () = sleep(limits.connection) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(limits.farewell, serving).await;
}
