//! What is asked of the stand-in, and the simple answers.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde_json::json;

/// A request with its body read and its path taken apart.
pub(super) struct StandinAsked {
    pub(super) method: Method,
    /// Percent-decoded segments.
    pub(super) path: Vec<String>,
    /// Decoded pairs of the query.
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl StandinAsked {
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of a repeated key, in both spellings (`key` and `key[]`).
    pub(super) fn values(&self, key: &str) -> Vec<&str> {
        let listed = format!("{key}[]");
        self.query.iter().filter(|(name, _)| name == key || *name == listed).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.header("authorization").and_then(|value| value.strip_prefix("Bearer "))
    }
}

/// A short text answer.
pub(super) fn text(status: StatusCode, body: &str) -> Response {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = status;
    put(&mut response, "content-type", "text/plain; charset=utf-8");
    response
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    put(&mut response, "content-type", "application/json; charset=utf-8");
    response
}

/// A refusal as the Hugging Face Hub words it.
pub(super) fn refused(status: u16, code: Option<&str>, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &json!({ "error": message }));
    if let Some(code) = code {
        put(&mut response, "x-error-code", code);
    }
    put(&mut response, "x-error-message", message);
    response
}

/// Sets a header; a value that no header can carry is left out.
pub(super) fn put(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
