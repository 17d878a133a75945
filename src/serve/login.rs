//! Logging in and out.

use std::sync::Arc;

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;

use super::{App, layout};

#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

#[derive(Deserialize)]
pub(super) struct Link {
    token: Option<String>,
}

/// The form; or the address printed at the start, which carries the token.
pub(super) async fn login_form(State(app): State<Arc<App>>, Query(link): Query<Link>) -> Response {
    match link.token {
        _ if !app.access.needs_token() => Redirect::to("/").into_response(),
        Some(token) => app.log_in(&token).await,
        None => form(None).into_response(),
    }
}

fn form(wrong: Option<&str>) -> impl IntoResponse {
    layout::plain(
        "Log in",
        html! {
            h1 { "orthoscope" }
            @if let Some(wrong) = wrong { p role="alert" { (wrong) } }
            form method="post" action="/login" {
                div class="form-row" {
                    label for="token" { "Token" }
                    input id="token" name="token" type="password" autocomplete="current-password" required;
                }
                button type="submit" { "Log in" }
            }
        },
    )
}

pub(super) async fn login(State(app): State<Arc<App>>, Form(login): Form<Login>) -> Response {
    app.log_in(&login.token).await
}

impl App {
    async fn log_in(&self, token: &str) -> Response {
        if self.access.knows(token.trim()).await {
            return self.access.admit();
        }
        (StatusCode::UNAUTHORIZED, form(Some("That is not the token."))).into_response()
    }
}

pub(super) async fn logout(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.access.dismiss(&headers)
}
