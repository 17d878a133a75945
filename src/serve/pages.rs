//! The pages: queue, dossier with decisions, history of a repository.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Form, Path, Query, RawQuery, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::access::Session;
use super::asked::{self, DECISIONS, DECLARED, ListAsked, OUTCOMES, SEVERITIES, relations, severity_word, sorts};
use super::{App, PageFailure, layout};
use crate::error::{Error, ErrorKind, Result};
use crate::index::decision::{CHOICES, Choice, OPEN};
use crate::index::triage::{CLAIMS, TriagePage, TriageRow, WordColumn};
use crate::index::{Index, StoredExamination};
use crate::report::html as dossiers;
use crate::report::words::{self, age, when};
use crate::report::{Report, UploadFacts, sanitise};

/// Rows of a page of the queue.
const ROWS: u32 = 50;

/// Examinations that the queue counts at most.
const COUNTED: u32 = 10_000;

/// Rows of a repository's history.
const HISTORY_ROWS: u32 = 200;

/// Columns of a reason in a list.
const WHY_COLUMNS: usize = 120;

pub(super) type HtmlPage = Result<Html<String>, PageFailure>;

/// The strength of a removal, where one fits: a number, or the smallest and the largest.
pub(super) fn lambda(row: &TriageRow) -> String {
    match (row.lambda_min, row.lambda_max) {
        (Some(low), Some(high)) if words::strength(low) == words::strength(high) => words::strength(low),
        (Some(low), Some(high)) => format!("{} to {}", words::strength(low), words::strength(high)),
        _ => "–".to_owned(),
    }
}

/// Whether what a row says stands in words beside its verdict: a claim of a base that the weights do not bear out.
pub(super) fn is_false_claim(row: &TriageRow) -> bool {
    row.claim == "false"
}

pub(super) async fn queue(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    RawQuery(raw): RawQuery,
    asked: Result<Query<ListAsked>, QueryRejection>,
) -> HtmlPage {
    // A form sends its fields also where all are empty, and means everything.
    let asked = if raw.is_none_or(|raw| raw.is_empty()) { ListAsked::waiting() } else { asked::of(asked)? };
    let (filter, sort) = asked.read()?;
    let wanted = asked.clone();
    let (page, matching, kinds) = app
        .read(move |index, _| {
            let page = index.triage(&filter, sort, wanted.after(), ROWS)?;
            let kinds = [
                index.kinds(WordColumn::Format)?,
                index.kinds(WordColumn::Family)?,
                index.kinds(WordColumn::Signature)?,
            ];
            Ok((page, index.matching(&filter, COUNTED + 1)?, kinds))
        })
        .await?;
    let body = html! {
        h1 { "Queue" }
        (filters(&asked, &kinds))
        p class="count" {
            strong {
                @if matching > u64::from(COUNTED) { "more than " (COUNTED) " examinations" }
                @else { (words::count(matching, "examination", "examinations")) }
            }
            @for (name, value) in asked.fields().into_iter().filter(|(name, value)| !value.is_empty() && *name != "sort") {
                " · " (FILTERS.iter().find(|(field, _)| *field == name).map_or(name, |(_, label)| *label)) ": "
                (sanitise::name(value))
            }
        }
        (list(&app, &asked, &page))
    };
    Ok(layout::page(&app, &session, "Queue", "/queue", body))
}

/// The fields of the form, with their labels.
const FILTERS: [(&str, &str); 16] = [
    ("text", "Repository contains"),
    ("outcome", "Verdict"),
    ("severity", "Severity from"),
    ("decision", "Decision"),
    ("uploader", "Uploader"),
    ("signature", "Signature"),
    ("declared", "Declared"),
    ("claim", "Claim of a base"),
    ("relation", "Relation"),
    ("base", "Base"),
    ("family", "Family"),
    ("form", "Form"),
    ("downloads", "Downloads from"),
    ("since", "Examined from"),
    ("until", "Examined to"),
    ("sort", "Sort by"),
];

fn filters(asked: &ListAsked, [formats, families, signatures]: &[Vec<String>; 3]) -> Markup {
    let of = |list: &[String]| list.iter().filter(|word| layout::fits(word)).cloned().collect::<Vec<_>>();
    let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let values = asked.fields();
    html! {
        // Shown where there is little room only: there the form is folded away until this is ticked.
        input class="fold" type="checkbox" id="fold";
        label class="fold" for="fold" { "Show the filters" }
        form class="filters" method="get" action="/queue" role="search" {
            @for (name, label) in FILTERS {
                @let value = values.iter().find(|(field, _)| *field == name).map_or("", |(_, value)| *value);
                @match name {
                    "text" => (input(name, label, "search", value)),
                    "base" | "uploader" => (input(name, label, "text", value)),
                    "downloads" => (input(name, label, "number", value)),
                    "since" | "until" => (input(name, label, "date", value)),
                    "outcome" => (select(name, label, &owned(&OUTCOMES), value, Some("any"))),
                    "severity" => (select(name, label, &owned(&SEVERITIES), value, Some("any"))),
                    "decision" => (select(name, label, &owned(&DECISIONS), value, Some("any"))),
                    "signature" => (select(name, label, &of(signatures), value, Some("any"))),
                    "declared" => (select(name, label, &owned(&DECLARED), value, Some("any"))),
                    "claim" => (select(name, label, &owned(&CLAIMS), value, Some("any"))),
                    "relation" => (select(name, label, &owned(&relations()), value, Some("any"))),
                    "family" => (select(name, label, &of(families), value, Some("any"))),
                    "form" => (select(name, label, &of(formats), value, Some("any"))),
                    _ => (select(name, label, &owned(&sorts()), value, None)),
                }
            }
            div class="buttons" {
                button type="submit" { "Show" }
                a href="/queue" { "Reset" }
                a href="/queue?severity=none" { "Everything" }
            }
        }
    }
}

fn input(name: &str, label: &str, kind: &str, value: &str) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) type=(kind) value=(value) min=[(kind == "number").then_some("0")];
        }
    }
}

fn select(name: &str, label: &str, words: &[String], chosen: &str, any: Option<&str>) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                @if let Some(any) = any { option value="" selected[chosen.is_empty()] { (any) } }
                @for word in words {
                    option value=(word) selected[word == chosen] { (sanitise::name(word)) }
                }
            }
        }
    }
}

fn list(app: &App, asked: &ListAsked, page: &TriagePage) -> Markup {
    html! {
        @if page.items.is_empty() {
            p { "Nothing matches." }
        } @else {
            (table(app, &page.items))
        }
        nav class="pages" aria-label="Parts of the list" {
            @if asked.after().is_some() { a href=(asked.address("")) { "First part" } }
            @if let Some(next) = &page.next { a rel="next" href=(asked.address(next)) { "Next part" } }
        }
    }
}

/// Examinations, one a row.
pub(super) fn table(app: &App, rows: &[TriageRow]) -> Markup {
    let now = (app.clock)();
    html! {
        (dossiers::scroll("Examinations", html! {
            table class="stack" {
                thead { tr {
                    th scope="col" { "verdict" } th scope="col" { "severity" } th scope="col" { "repository" }
                    th class="n" scope="col" { "λ" } th scope="col" { "why" } th scope="col" { "uploader" }
                    th scope="col" { "age" } th scope="col" { "declared" }
                } }
                tbody {
                    @for row in rows {
                        tr {
                            td { (verdict(row)) }
                            td { span class={ "word " (severity_word(row.severity)) } { (severity_word(row.severity)) } }
                            th scope="row" class="long" {
                                a href={ "/examination/" (row.id) } { (sanitise::name(&row.candidate)) }
                                span class="under" { (about(row)) }
                            }
                            td class="n" data-label="λ" { (lambda(row)) }
                            (why(app, row))
                            td class="name" data-label="uploader" { (uploader(row)) }
                            td class="keep" data-label="age" title=(when(row.first_seen)) { (age(row.first_seen, now)) }
                            td data-label="declared" { (if row.declared { "yes" } else { "no" }) }
                        }
                    }
                }
            }
        }))
    }
}

/// The verdict's word, and what stands beside it: a claim that is false, a decision.
pub(super) fn verdict(row: &TriageRow) -> Markup {
    html! {
        span class={ "word " (row.outcome) } { (row.outcome) }
        @if is_false_claim(row) { span class="under word suspect" { "false claim of a base" } }
        @if row.decision != OPEN { span class="under" { (row.decision) } }
    }
}

/// Why a row is there: what its gravest finding is of, or else its reason; the whole reason when it is pointed at.
pub(super) fn why(app: &App, row: &TriageRow) -> Markup {
    let because = sanitise::sentence(&row.because);
    let signature = row.signature.as_deref().and_then(|id| app.catalogue.get(id));
    let told = signature.map_or_else(|| because.clone(), |signature| sanitise::sentence(&signature.front.title));
    html! { td class="long why" title=(because) { (sanitise::fit(&told, WHY_COLUMNS, "…")) } }
}

/// What a repository is, in a line under its name.
fn about(row: &TriageRow) -> String {
    let mut told = vec![match row.base.is_empty() {
        true => "no base".to_owned(),
        false => format!("of {}", sanitise::name(&row.base)),
    }];
    told.push(row.relation.clone());
    if !row.format.is_empty() {
        told.push(sanitise::fit(&sanitise::name(&row.format), 18, "…"));
    }
    if let Some(downloads) = row.downloads {
        told.push(words::count(downloads, "download", "downloads"));
    }
    told.join(" · ")
}

fn uploader(row: &TriageRow) -> Markup {
    html! {
        @if row.uploader.is_empty() { "–" }
        @else if layout::fits(&row.uploader) {
            a href={ "/queue?" (layout::query([("uploader", row.uploader.as_str())])) } { (sanitise::name(&row.uploader)) }
        } @else { (sanitise::name(&row.uploader)) }
    }
}

/// The examination of an id, or the error that there is none.
pub(super) fn find(index: &Index, id: &str) -> Result<StoredExamination> {
    index.get(id)?.ok_or_else(|| missing(id))
}

/// The same without measurements.
pub(super) fn find_short(index: &Index, id: &str) -> Result<StoredExamination> {
    index.get_short(id)?.ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no examination {:?}", sanitise::name(id)))
}

/// What a dossier is asked for with: the examination that was decided on before.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Before {
    after: String,
}

pub(super) async fn dossier(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Query(before): Query<Before>,
) -> HtmlPage {
    let (stored, facts, decisions, past, next, before) = app
        .read(move |index, _| {
            let stored = find(index, &id)?;
            let id = stored.id.hex();
            let before = match index.get_short(&before.after)? {
                Some(before) => {
                    index.decisions(&before.id.hex())?.pop().map(|last| (before.examination.candidate.source, last))
                }
                None => None,
            };
            let (decisions, past) = (index.decisions(&id)?, index.past_judgements(&id)?);
            let facts = UploadFacts::of(index, &stored)?;
            Ok((stored, facts, decisions, past, index.next_waiting(&id)?, before))
        })
        .await?;
    let id = stored.id.hex();
    let candidate = stored.examination.candidate.source.clone();
    let base = stored.examination.base.source.clone();
    let title = candidate.clone();
    let mut report = Report::with_catalogue(vec![stored.examination], &app.catalogue);
    report.facts.insert(id.clone(), facts);
    report.decisions.insert(0, decisions);
    let who = before.as_ref().map_or("", |(_, decision)| decision.who.as_str());
    let form = decision_form(&app, &session, &id, who);
    let body = html! {
        @if let Some((source, decision)) = &before {
            p class="recorded" role="status" {
                "Recorded of " a href={ "/examination/" (decision.examination) } { (sanitise::name(source)) } ": "
                (decision.decision.told()) ", by " (sanitise::name(&decision.who)) "."
            }
        }
        p class="quiet" {
            "examined " (when(stored.last_seen)) ", judged " (when(stored.judged_at)) "; "
            @if layout::fits(&candidate) {
                a href={ "/repository?" (layout::query([("source", candidate.as_str())])) } { "all examinations of this repository" }
            }
            @if !base.is_empty() && layout::fits(&base) {
                " · " a href={ "/tree?" (layout::query([("base", base.as_str())])) } { "family tree of its base" }
            }
            " · " a href={ "/api/v1/examinations/" (id) } { "as JSON" }
            @if let Some(next) = &next {
                " · " a href={ "/examination/" (next.id) } { "next that waits" }
            }
        }
        @for (place, examination) in report.examinations.iter().enumerate() {
            (dossiers::dossier(examination, &report, place, &form))
        }
        @if !past.is_empty() {
            h2 { "Earlier judgements of the same measurements" }
            ul {
                @for judgement in &past {
                    li {
                        (when(judgement.judged_at)) ": " (judgement.verdict.as_str()) ", "
                        (judgement.relation.as_str()) ", by catalogue "
                        span class="mono" { (sanitise::name(&judgement.catalogue)) }
                    }
                }
            }
        }
    };
    Ok(layout::page(&app, &session, &title, "", body))
}

fn decision_form(app: &App, session: &Session, id: &str, who: &str) -> Markup {
    html! {
        section class="card decide" aria-labelledby="decide" {
            h2 id="decide" { "Record a decision" }
            form method="post" action={ "/examination/" (id) "/decide" } {
                input type="hidden" name="form_token" value=(app.access.form_token(session));
                fieldset {
                    legend { "Decision" }
                    @for choice in CHOICES {
                        label class="choice" {
                            input type="radio" name="decision" value=(choice.as_str()) required;
                            " " (choice.told())
                        }
                    }
                }
                div class="form-row" {
                    label for="note" { "Why" }
                    textarea id="note" name="note" rows="3" maxlength="10000" required {}
                }
                div class="form-row" {
                    label for="who" { "Who decides" }
                    input id="who" name="who" type="text" autocomplete="name" maxlength="100" value=(sanitise::name(who)) required;
                }
                button type="submit" { "Record, and on to the next" }
                p class="quiet" { "Decisions are only ever added, and shown with name and time." }
            }
        }
    }
}

#[derive(Deserialize)]
pub(super) struct DecideForm {
    form_token: String,
    who: String,
    // Nothing is chosen beforehand, and a browser leaves out what is not chosen.
    #[serde(default)]
    decision: String,
    #[serde(default)]
    note: String,
}

/// The choice of a word that somebody sent.
pub(super) fn choice(word: &str) -> Result<Choice> {
    Choice::from_word(word).ok_or_else(|| {
        let known = CHOICES.map(Choice::as_str).join(", ");
        Error::new(
            ErrorKind::Usage,
            format!("reading the decision {:?}: it has to be one of {known}", sanitise::name(word)),
        )
    })
}

pub(super) async fn decide(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Form(form): Form<DecideForm>,
) -> Result<Response, PageFailure> {
    if !app.access.form_token_holds(&session, &form.form_token) {
        return Err(PageFailure(Error::new(
            ErrorKind::Denied,
            "the form is too old (the server has been started again since); go back, load the page anew and send it again",
        )));
    }
    let choice = choice(&form.decision)?;
    if form.note.trim().is_empty() {
        let what = "recording a decision: say why; whoever reads it later has nothing else to go by";
        return Err(PageFailure(Error::new(ErrorKind::Usage, what)));
    }
    let address = app
        .write(move |index, app| {
            let id = find_short(index, &id)?.id.hex();
            index.decide(&id, &form.who, choice, &form.note, (app.clock)())?;
            Ok(match index.next_waiting(&id)? {
                Some(next) => format!("/examination/{}?after={id}", next.id),
                None => format!("/examination/{id}"),
            })
        })
        .await?;
    Ok(Redirect::to(&address).into_response())
}

#[derive(Deserialize)]
pub(super) struct Source {
    #[serde(default)]
    pub source: String,
}

pub(super) async fn repository(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Source>,
) -> HtmlPage {
    let source = asked.source.clone();
    let rows = app.read(move |index, _| index.repository_rows(&source, HISTORY_ROWS)).await?;
    let body = html! {
        h1 { (sanitise::name(&asked.source)) }
        @if rows.is_empty() {
            p { "This repository has not been examined." }
        } @else {
            h2 { "Examinations, newest first" }
            (dossiers::scroll("History", html! {
                table {
                    thead { tr {
                        th scope="col" { "examined" } th scope="col" { "commit" } th scope="col" { "verdict" }
                        th scope="col" { "base" } th scope="col" { "why" } th scope="col" { "decision" }
                    } }
                    tbody {
                        @for row in &rows {
                            tr {
                                th scope="row" { a href={ "/examination/" (row.id) } { (when(row.seen)) } }
                                td class="mono" { (row.revision.as_deref().map_or("–".to_owned(), |r| sanitise::fit(&sanitise::name(r), 14, "…"))) }
                                td { (verdict(row)) }
                                td class="long" { (sanitise::name(&row.base)) }
                                td class="long" { (sanitise::sentence(&row.because)) }
                                td { (row.decision) }
                            }
                        }
                    }
                }
            }))
        }
    };
    Ok(layout::page(&app, &session, &asked.source, "", body))
}

pub(super) async fn decisions(State(app): State<Arc<App>>, Extension(session): Extension<Session>) -> HtmlPage {
    let (all, broken) =
        app.read(|index, _| Ok((index.last_decisions(HISTORY_ROWS)?, index.broken_decisions()?))).await?;
    let body = html! {
        h1 { "Decisions" }
        p {
            @if broken.is_empty() {
                "The audit trail is whole: every decision's hash follows from the one before."
            } @else {
                strong { "The audit trail is broken" } " at "
                (numbers(&broken)) ": a decision was changed or taken out by other means than orthoscope."
            }
        }
        @if all.is_empty() { p { "None yet." } } @else {
            (dossiers::scroll("Decisions", html! {
                table {
                    thead { tr {
                        th class="n" scope="col" { "number" } th scope="col" { "when" } th scope="col" { "who" }
                        th scope="col" { "decision" } th scope="col" { "examination" } th scope="col" { "why" }
                    } }
                    tbody {
                        @for decision in &all {
                            tr {
                                td class="n" { (decision.key) }
                                td class="keep" { (when(decision.made_at)) }
                                td { (sanitise::name(&decision.who)) }
                                td { (decision.decision.told()) }
                                td class="mono" {
                                    a href={ "/examination/" (decision.examination) } { (decision.examination.get(..12).unwrap_or_default()) }
                                }
                                td class="long" { (sanitise::clean(&decision.note, 2000)) }
                            }
                        }
                    }
                }
            }))
        }
    };
    Ok(layout::page(&app, &session, "Decisions", "/decisions", body))
}

fn numbers(keys: &[i64]) -> String {
    keys.iter().take(20).map(i64::to_string).collect::<Vec<_>>().join(", ")
}
