//! The JSON API: the same as the pages, for programs. `GET /api/openapi.json` describes it.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::asked::{self, ListAsked};
use super::{App, pages, prevalence as correction, status_of};
use crate::error::{Error, Result};
use crate::report::json::write_value;
use crate::report::{Style, prevalence as shares, sanitise};

/// Rows of a page when none are asked for.
const ROWS: u32 = 100;

/// An error as JSON.
pub(super) struct ApiFailure(Error);

impl From<Error> for ApiFailure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        let status = status_of(&self.0);
        let body = json!({ "error": sanitise::sentence(&self.0.one_line()), "kind": self.0.kind.as_str() });
        (status, axum::Json(body)).into_response()
    }
}

type Answer = Result<Response, ApiFailure>;

/// A value as JSON that is harmless to print.
fn answer(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut body = Vec::new();
    write_value(value, &Style { lines: true, ..Style::default() }, &mut body)?;
    body.push(b'\n');
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

pub(super) async fn list(State(app): State<Arc<App>>, asked: Result<Query<ListAsked>, QueryRejection>) -> Answer {
    let asked = asked::of(asked)?;
    let (filter, sort) = asked.read()?;
    let rows = asked.rows()?.unwrap_or(ROWS);
    let page = app.read(move |index, _| index.triage(&filter, sort, asked.after(), rows)).await?;
    answer(StatusCode::OK, &page)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Detail {
    /// `1` for all measurements.
    profile: String,
}

pub(super) async fn one(State(app): State<Arc<App>>, Path(id): Path<String>, Query(asked): Query<Detail>) -> Answer {
    let whole = asked.profile == "1";
    let stored = app.read(move |index, _| if whole { pages::find(index, &id) } else { pages::find_short(index, &id) });
    answer(StatusCode::OK, &stored.await?.examination)
}

pub(super) async fn decisions(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let decisions = app
        .read(move |index, _| {
            let id = pages::find_short(index, &id)?.id.hex();
            index.decisions(&id)
        })
        .await?;
    answer(StatusCode::OK, &decisions)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DecideJson {
    decision: String,
    who: String,
    #[serde(default)]
    note: String,
}

/// Takes JSON only: a form of another site cannot send that without asking first, and is never allowed to.
pub(super) async fn decide(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    axum::Json(wanted): axum::Json<DecideJson>,
) -> Answer {
    let choice = pages::choice(&wanted.decision)?;
    let decision = app
        .write(move |index, app| {
            let id = pages::find_short(index, &id)?.id.hex();
            index.decide(&id, &wanted.who, choice, &wanted.note, (app.clock)())
        })
        .await?;
    answer(StatusCode::CREATED, &decision)
}

pub(super) async fn history(State(app): State<Arc<App>>, Query(asked): Query<pages::Source>) -> Answer {
    let rows = app.read(move |index, _| index.repository_rows(&asked.source, 500)).await?;
    answer(StatusCode::OK, &rows)
}

pub(super) async fn prevalence(State(app): State<Arc<App>>, Query(asked): Query<correction::DetectorAsked>) -> Answer {
    let detector = asked.read()?;
    let counts = app.read(|index, _| index.prevalence()).await?;
    answer(StatusCode::OK, &shares::values(&counts, detector))
}
