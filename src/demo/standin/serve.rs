//! The two servers: logging, quotas and faults before any route.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::answer::{StandinAsked, put, text};
use super::{Fault, Logged, Port, StandinState, control, delivery, huggingface, locked, modelscope};
use crate::limits;

/// Serves both ports until stopped.
pub(super) async fn run(
    state: Arc<StandinState>,
    hub: std::net::TcpListener,
    delivery: std::net::TcpListener,
    stop: CancellationToken,
) {
    let serve = |listener: std::net::TcpListener, port: Port| {
        let state = state.clone();
        async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let router = Router::new()
                .fallback(move |Shared(state): Shared<Arc<StandinState>>, request: Request| {
                    answer(state, port, request)
                })
                .with_state(state);
            let _ = axum::serve(listener, router).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        ((), ()) = async { tokio::join!(serve(hub, Port::Hub), serve(delivery, Port::Delivery)) } => {}
    }
}

async fn answer(state: Arc<StandinState>, port: Port, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or_else(|| parts.uri.path().to_owned(), ToString::to_string);
    let body = axum::body::to_bytes(body, limits::MAX_JSON_BYTES as usize).await.unwrap_or_default();
    let decode = |part: &str| {
        // A plus stands for itself in a path, unlike in a query.
        url::form_urlencoded::parse(part.replace('+', "%2B").replace('&', "%26").replace('=', "%3D").as_bytes())
            .map(|(key, _)| key.into_owned())
            .collect::<String>()
    };
    let path: Vec<String> = parts.uri.path().split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let asked = StandinAsked { method: parts.method, path, query, headers: parts.headers, body };
    if asked.path.first().is_some_and(|part| part == "-") {
        return control::answer(&state, &asked);
    }
    let mut logged = Logged {
        at: state.now(),
        port,
        method: asked.method.to_string(),
        range: asked.header("range").map(str::to_owned),
        credentials: asked.headers.contains_key(header::AUTHORIZATION) || asked.headers.contains_key(header::COOKIE),
        encoding: asked.header("accept-encoding").map(str::to_owned),
        agent: asked.header("user-agent").map(str::to_owned),
        status: 0,
        fault: None,
        inside_wait: None,
        target: target.clone(),
    };
    let response = ruled(&state, port, &target, &asked, &mut logged).await;
    logged.status = response.status().as_u16();
    state.log(logged);
    response
}

async fn ruled(
    state: &Arc<StandinState>,
    port: Port,
    target: &str,
    asked: &StandinAsked,
    logged: &mut Logged,
) -> Response {
    if port == Port::Delivery {
        let fault = locked(&state.pressure).fault(&state.settings, port, target);
        logged.fault = fault;
        if let Some(Fault::Unavailable) = fault {
            return text(StatusCode::SERVICE_UNAVAILABLE, "busy");
        }
        let response = delivery::answer(state, asked, fault);
        return spoiled(response, fault).await;
    }
    let bucket = match asked.path.first().map(String::as_str) {
        Some("api" | "openapi") if asked.path.get(1).is_some_and(|part| part == "resolve-cache") => "resolvers",
        Some("api" | "openapi") if asked.path.last().is_none_or(|part| part != "repo") => "api",
        _ => "resolvers",
    };
    let quota = if bucket == "api" { state.settings.api_quota } else { state.settings.resolver_quota };
    let (ruling, fault) = {
        let mut pressure = locked(&state.pressure);
        let ruling = pressure.count(bucket, quota, state.settings.window);
        let fault = if ruling.refused { None } else { pressure.fault(&state.settings, port, target) };
        if fault == Some(Fault::Limited) {
            pressure.close(bucket, state.settings.rates.wait.max(1));
        }
        (ruling, fault)
    };
    logged.fault = fault;
    logged.inside_wait = ruling.inside_wait;
    if ruling.refused || fault == Some(Fault::Limited) {
        let wait = locked(&state.pressure).wait(bucket);
        let mut response = text(StatusCode::TOO_MANY_REQUESTS, "over quota");
        put(&mut response, "ratelimit", &format!("\"{bucket}\";r=0;t={wait}"));
        put(&mut response, "retry-after", &wait.to_string());
        return response;
    }
    let response = match fault {
        Some(Fault::Unavailable) => {
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "busy");
            put(&mut response, "retry-after", "1");
            response
        }
        Some(Fault::Garbage) if bucket == "api" => text(StatusCode::OK, "<html>[{\"id\": \"half"),
        _ => match modelscope::answer(state, asked) {
            Some(response) => response,
            None => huggingface::answer(state, asked),
        },
    };
    let mut response = spoiled(response, fault).await;
    if let Some((left, seconds, quota)) = ruling.stated {
        put(&mut response, "ratelimit", &format!("\"{bucket}\";r={left};t={seconds}"));
        let length = state.settings.window.as_secs().max(1);
        put(&mut response, "ratelimit-policy", &format!("\"fixed window\";\"{bucket}\";q={quota};w={length}"));
    }
    response
}

/// The faults of the line: late, cut short, dropped, dripping, with other bytes.
async fn spoiled(response: Response, fault: Option<Fault>) -> Response {
    match fault {
        Some(Fault::Slow) => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            response
        }
        Some(Fault::Short | Fault::OtherBytes) => {
            let (mut parts, body) = response.into_parts();
            let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            let body: Bytes = match fault {
                Some(Fault::Short) => whole.slice(..whole.len() / 2),
                _ => whole.iter().map(|byte| byte ^ 0x20).collect(),
            };
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            Response::from_parts(parts, Body::from(body))
        }
        Some(Fault::Drip) => {
            let (mut parts, body) = response.into_parts();
            let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
            let stream = futures_util::stream::unfold((whole, 0), |(whole, at)| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let byte = whole.get(at..at + 1).map(Bytes::copy_from_slice)?;
                Some((Ok::<_, std::io::Error>(byte), (whole, at + 1)))
            });
            Response::from_parts(parts, Body::from_stream(stream))
        }
        Some(Fault::Dropped | Fault::Truncated) => {
            let (mut parts, body) = response.into_parts();
            let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            let kept = if fault == Some(Fault::Truncated) { whole.len() / 2 } else { 0 };
            // An answer without a body cannot be cut in two; it is cut off before its end all the same.
            let length = whole.len().max(1);
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            let part = whole.slice(..kept);
            // The pause lets the part be sent before the connection goes.
            let stream = futures_util::stream::iter([Ok(part)]).chain(futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::other("cut"))
            }));
            Response::from_parts(parts, Body::from_stream(stream))
        }
        _ => response,
    }
}
