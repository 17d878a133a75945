//! The stand-in's own routes under `/-/`, exempt from faults, quotas and the log: for tests in other languages.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{StandinAsked, json as json_answer, text};
use super::{Fault, StandinState, locked};

/// `GET /-/log`, `DELETE /-/log`, `POST /-/fault {"fault":"unavailable","part":"/api/models","times":2}`.
pub(super) fn answer(state: &Arc<StandinState>, asked: &StandinAsked) -> Response {
    let route: Vec<&str> = asked.path.iter().map(String::as_str).collect();
    match (&asked.method, route.as_slice()) {
        (&Method::GET, ["-", "log"]) => {
            let log = serde_json::to_value(&*locked(&state.log)).unwrap_or_default();
            json_answer(StatusCode::OK, &log)
        }
        (&Method::DELETE, ["-", "log"]) => {
            locked(&state.log).clear();
            json_answer(StatusCode::OK, &json!({}))
        }
        (&Method::POST, ["-", "fault"]) => {
            let wish: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            let fault = wish.get("fault").and_then(|fault| serde_json::from_value::<Fault>(fault.clone()).ok());
            let Some(fault) = fault else { return text(StatusCode::BAD_REQUEST, "no such fault") };
            let part = wish.get("part").and_then(Value::as_str).unwrap_or_default();
            let times = wish.get("times").and_then(Value::as_u64).unwrap_or(1);
            locked(&state.pressure).script(fault, part, times.min(1_000_000) as u32);
            json_answer(StatusCode::OK, &json!({}))
        }
        _ => text(StatusCode::NOT_FOUND, "no such control"),
    }
}
