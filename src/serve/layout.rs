//! The frame of every page.

use axum::response::{Html, IntoResponse};
use maud::{DOCTYPE, Markup, html};

use super::App;
use super::access::Session;
use crate::report::html::disclaimer;
use crate::report::sanitise;

/// A page for a visitor who is in.
pub(super) fn page(app: &App, session: &Session, title: &str, here: &str, body: Markup) -> Html<String> {
    let links = [
        ("/", "Overview"),
        ("/queue", "Queue"),
        ("/tree", "Family trees"),
        ("/prevalence", "Prevalence"),
        ("/decisions", "Decisions"),
        ("/api/openapi.json", "API"),
    ];
    let head = html! {
        header class="site" {
            a class="name" href="/" { "orthoscope" }
            nav aria-label="Pages" {
                @for (address, name) in links {
                    a href=(address) aria-current=[(address == here).then_some("page")] { (name) }
                }
            }
            @if app.access.needs_token() {
                form method="post" action="/logout" {
                    input type="hidden" name="form_token" value=(app.access.form_token(session));
                    button type="submit" { "Log out" }
                }
            }
        }
    };
    frame(title, head, body)
}

/// A page for anybody.
pub(super) fn plain(title: &str, body: Markup) -> impl IntoResponse {
    frame(title, html! { header class="site" { span class="name" { "orthoscope" } } }, body)
}

fn frame(title: &str, head: Markup, body: Markup) -> Html<String> {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (sanitise::name(title)) " – orthoscope" }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="/icon.svg";
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                (head)
                main id="main" { (body) }
                footer class="site" { (disclaimer()) }
            }
        }
    };
    Html(markup.into_string())
}

/// Whether a name fits an address: browsers and proxies refuse longer ones, and a page need not repeat a megabyte.
pub(super) fn fits(name: &str) -> bool {
    name.len() <= 2000
}

/// A query string of the fields that are not empty.
pub(super) fn query<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        if !value.is_empty() {
            out.append_pair(name, value);
        }
    }
    out.finish()
}
