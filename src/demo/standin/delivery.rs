//! The delivery network: signed addresses that expire, ranges, and no patience for tokens.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use sha2::Digest as _;
use subtle::ConstantTimeEq;

use super::answer::{StandinAsked, put, text};
use super::{Fault, FileContent, StandinState};

/// Bytes sent at a time.
const CHUNK: u64 = 256 * 1024;

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// HMAC-SHA256 (RFC 2104) of the path and the time of expiry.
fn signature(state: &StandinState, path: &str, expires: &str) -> String {
    let keyed = |pad: u8, message: &[&[u8]]| {
        let mut block = [pad; 64];
        block.iter_mut().zip(state.secret).for_each(|(byte, key)| *byte ^= key);
        let mut hasher = sha2::Sha256::new();
        hasher.update(block);
        message.iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    };
    let inner = keyed(0x36, &[path.as_bytes(), b"\n", expires.as_bytes()]);
    hex::encode(keyed(0x5c, &[&inner]))
}

/// A signed address of some content, for `repository` and `path`.
pub(super) fn address(state: &StandinState, repository: &str, path: &str, content: &FileContent) -> String {
    let address = format!("/bridge/{}/{}", content.sha256.hex(), content.delivery_name());
    let expires = format!("{:.3}", seconds_now() + state.settings.address_life.as_secs_f64());
    let signed = signature(state, &address, &expires);
    let named: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("repo", repository)
        .append_pair("path", path)
        .finish();
    let at = state.settings.delivery_at.as_deref().unwrap_or(&state.delivery);
    format!("{at}{address}?{named}&Expires={expires}&Signature={signed}")
}

/// `bytes=A-B`, `bytes=A-` or `bytes=-N` against a length: first and last byte, or what is wrong with it.
fn span(range: &str, length: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let bounds = match (first.trim(), last.trim()) {
        ("", "") => return None,
        ("", count) => (length.saturating_sub(count.parse().ok()?), length.saturating_sub(1)),
        (first, "") => (first.parse().ok()?, length.saturating_sub(1)),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(length.saturating_sub(1))),
    };
    Some(if bounds.0 >= length || bounds.0 > bounds.1 { Err(()) } else { Ok(bounds) })
}

/// Serves content by its address.
pub(super) fn answer(state: &Arc<StandinState>, asked: &StandinAsked, fault: Option<Fault>) -> Response {
    let refuse = |status: StatusCode, code: &str| {
        let body =
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Request refused</Message></Error>");
        let mut response = text(status, &body);
        put(&mut response, "content-type", "application/xml");
        response
    };
    if asked.headers.contains_key("authorization") || asked.headers.contains_key("cookie") {
        return refuse(StatusCode::BAD_REQUEST, "InvalidArgument");
    }
    let path = format!("/{}", asked.path.join("/"));
    let (expires, given) = (asked.value("Expires").unwrap_or(""), asked.value("Signature").unwrap_or(""));
    let right = signature(state, &path, expires).as_bytes().ct_eq(given.as_bytes());
    let live = expires.parse::<f64>().is_ok_and(|expires| seconds_now() < expires);
    if !bool::from(right) || !live || fault == Some(Fault::Expired) {
        return refuse(StatusCode::FORBIDDEN, "AccessDenied");
    }
    let content = asked.value("repo").and_then(|name| state.repository(name)).and_then(|repository| {
        let content = repository.files.get(asked.value("path")?)?.clone();
        (asked.path.get(1)? == &content.sha256.hex()).then_some(content)
    });
    let Some(content) = content else { return refuse(StatusCode::NOT_FOUND, "NoSuchKey") };
    let length = content.len();
    let wanted = asked.header("range").and_then(|range| span(range, length));
    let wanted = if fault == Some(Fault::Unsatisfiable) { Some(Err(())) } else { wanted };
    let (status, (first, last)) = match wanted {
        Some(Err(())) => {
            let mut response = refuse(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
            put(&mut response, "content-range", &format!("bytes */{length}"));
            return response;
        }
        Some(Ok(span)) if fault != Some(Fault::IgnoredRange) => (StatusCode::PARTIAL_CONTENT, span),
        _ => (StatusCode::OK, (0, length.saturating_sub(1))),
    };
    let (first, last) = match fault {
        Some(Fault::WrongRange) if status == StatusCode::PARTIAL_CONTENT && last + 1 < length => (first + 1, last + 1),
        _ => (first, last),
    };
    let count = if length == 0 { 0 } else { last - first + 1 };
    let mut response = if asked.method == Method::HEAD {
        Response::new(Body::empty())
    } else {
        let source = content.source.clone();
        let stream = futures_util::stream::iter((0..count.div_ceil(CHUNK)).map(move |chunk| {
            let from = first + chunk * CHUNK;
            let to = (from + CHUNK).min(first + count);
            source
                .read(from..to)
                .map(|bytes| axum::body::Bytes::from(bytes.into_owned()))
                .map_err(|error| std::io::Error::other(error.one_line()))
        }));
        Response::new(Body::from_stream(stream))
    };
    *response.status_mut() = status;
    put(&mut response, "content-length", &count.to_string());
    put(&mut response, "content-type", "application/octet-stream");
    put(&mut response, "accept-ranges", "bytes");
    put(&mut response, "etag", &format!("\"{}\"", content.delivery_name()));
    if status == StatusCode::PARTIAL_CONTENT {
        let told = if fault == Some(Fault::OtherLength) { length + 1 } else { length };
        put(&mut response, "content-range", &format!("bytes {first}-{last}/{told}"));
    }
    if fault == Some(Fault::Compressed) {
        put(&mut response, "content-encoding", "gzip");
    }
    response
}
