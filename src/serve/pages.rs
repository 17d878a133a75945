//! The pages: overview, queue, dossier with decisions, history of a repository.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::access::Session;
use super::{App, Failure, layout};
use crate::error::{Error, ErrorKind, Result};
use crate::index::decision::{CHOICES, Choice, Decision};
use crate::index::triage::{Kind, SORTS, Sort, TriageFilter, TriagePage, TriageRow};
use crate::index::{Index, Stored};
use crate::report::html as dossiers;
use crate::report::{Facts, Note, Report, sanitise};

/// Rows of a page of the queue.
const ROWS: u32 = 50;

/// Rows of a repository's history.
const HISTORY_ROWS: u32 = 200;

type Page = Result<Html<String>, Failure>;

/// The words of outcomes, most serious first.
pub(super) const OUTCOMES: [&str; 5] = ["orthogonalized", "suspect", "inconclusive", "clear", "not-examined"];

/// The words of severities by number.
pub(super) const SEVERITIES: [&str; 5] = ["none", "info", "low", "medium", "high"];

pub(super) fn severity_word(severity: i64) -> &'static str {
    usize::try_from(severity).ok().and_then(|index| SEVERITIES.get(index)).copied().unwrap_or("none")
}

/// A time for people: minutes, UTC.
pub(super) fn when(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

pub(super) async fn home(State(app): State<Arc<App>>, Extension(session): Extension<Session>) -> Page {
    let (outcomes, decided, newest, sweep) = app
        .read(|index, _| {
            let serious = TriageFilter { decision: Some("open".into()), severity: Some(1), ..TriageFilter::default() };
            Ok((
                index.outcomes()?,
                index.decided()?,
                index.triage(&serious, Sort::Severity, None, 10)?,
                last_sweep(index)?,
            ))
        })
        .await?;
    let counts: BTreeMap<&str, u64> = outcomes.iter().map(|(word, count)| (word.as_str(), *count)).collect();
    let open = decided.iter().find(|(word, _)| word == "open").map_or(0, |(_, count)| *count);
    let body = html! {
        h1 { "Overview" }
        h2 { "Examinations in the index" }
        div class="tiles" {
            @for word in OUTCOMES {
                a class="tile" href={ "/queue?" (layout::query([("outcome", word)])) } {
                    span class="value" { (counts.get(word).copied().unwrap_or(0)) }
                    span class={ "word " (word) } { (word) }
                }
            }
            a class="tile" href="/queue?decision=open" {
                span class="value" { (open) }
                "not decided"
            }
        }
        h2 { "Last sweep" }
        @match sweep {
            Some(facts) => dl class="facts" { @for (name, value) in &facts { dt { (name) } dd { (value) } } },
            None => p { "No sweep is recorded in this index. " code { "orthoscope sweep" } " makes one." },
        }
        h2 { "Most serious, not decided" }
        (table(&newest.items))
        p { a href="/queue?decision=open" { "The whole queue" } }
    };
    Ok(layout::page(&app, &session, "Overview", "/", body))
}

/// What is recorded of the last sweep, as names and values; `None` where there is no such record.
fn last_sweep(index: &Index) -> Result<Option<Vec<(String, String)>>> {
    use rusqlite::OptionalExtension as _;
    let sql = |error| crate::index::failed("reading the last sweep", error);
    let connection = index.connection();
    let known: bool = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'sweep_run'", [], |row| {
            row.get(0)
        })
        .map_err(sql)?;
    if !known {
        return Ok(None);
    }
    let row: Option<(i64, Option<i64>, Option<String>)> = connection
        .query_row("SELECT started, ended, summary FROM sweep_run ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()
        .map_err(sql)?;
    let Some((started, ended, summary)) = row else { return Ok(None) };
    let told = |seconds: i64| Timestamp::from_second(seconds).map(when).unwrap_or_default();
    let mut facts = vec![("started".to_owned(), told(started))];
    facts.push(("ended".to_owned(), ended.map_or_else(|| "not yet, or it was interrupted".to_owned(), told)));
    let summary: serde_json::Value = summary.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    flatten("", &summary, &mut facts);
    Ok(Some(facts))
}

/// The plain values of nested objects, with their path as the name.
fn flatten(path: &str, value: &serde_json::Value, facts: &mut Vec<(String, String)>) {
    use serde_json::Value;
    const FACTS: usize = 40;
    if facts.len() >= FACTS {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = sanitise::name(name).replace('_', " ");
                flatten(&if path.is_empty() { name } else { format!("{path}, {name}") }, value, facts);
            }
        }
        Value::Null => {}
        Value::Array(list) => facts.push((path.to_owned(), list.len().to_string())),
        Value::String(text) => facts.push((path.to_owned(), sanitise::sentence(text))),
        Value::Bool(_) | Value::Number(_) => facts.push((path.to_owned(), value.to_string())),
    }
}

/// A list as an address asks for it. All fields are text, so that a form's empty fields are no errors.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    pub outcome: String,
    pub severity: String,
    pub base: String,
    pub family: String,
    pub form: String,
    pub decision: String,
    pub downloads: String,
    pub since: String,
    pub until: String,
    pub text: String,
    pub sort: String,
    pub after: String,
}

impl Asked {
    /// The filter and order that are meant.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] naming the field that cannot be read.
    pub(super) fn read(&self) -> Result<(TriageFilter, Sort)> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let wrong = |field: &str, text: &str, wanted: &str| {
            Error::new(ErrorKind::Usage, format!("reading {field} {text:?}: it has to be {wanted}"))
        };
        let day = |field: &str, text: &str, later: i64| match given(text) {
            None => Ok(None),
            Some(text) => {
                let date: jiff::civil::Date =
                    text.parse().map_err(|_| wrong(field, &text, "a date like 2026-01-31"))?;
                let start = date.to_zoned_datetime(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp().as_second());
                start
                    .ok()
                    .and_then(|start| Timestamp::from_second(start + later).ok())
                    .map(Some)
                    .ok_or_else(|| wrong(field, &text, "a date like 2026-01-31"))
            }
        };
        let severity = match given(&self.severity) {
            None => None,
            Some(word) => Some(
                SEVERITIES
                    .iter()
                    .position(|severity| *severity == word)
                    .and_then(|index| i64::try_from(index).ok())
                    .ok_or_else(|| wrong("severity", &word, "none, info, low, medium or high"))?,
            ),
        };
        let downloads = match given(&self.downloads) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| wrong("downloads", &text, "a whole number"))?),
        };
        let sort = match given(&self.sort) {
            None => Sort::default(),
            Some(word) => SORTS
                .into_iter()
                .find(|sort| sort.as_str() == word)
                .ok_or_else(|| wrong("sort", &word, "severity, newest or downloads"))?,
        };
        let filter = TriageFilter {
            outcome: given(&self.outcome),
            severity,
            base: given(&self.base),
            family: given(&self.family),
            form: given(&self.form),
            decision: given(&self.decision),
            downloads,
            since: day("since", &self.since, 0)?,
            // The day named is inside.
            until: day("until", &self.until, 86_400)?,
            text: given(&self.text),
        };
        Ok((filter, sort))
    }

    /// The page after one, as it was asked for.
    pub(super) fn after(&self) -> Option<&str> {
        Some(self.after.as_str()).filter(|after| !after.is_empty())
    }

    fn address(&self, after: &str) -> String {
        let fields = [
            ("outcome", self.outcome.as_str()),
            ("severity", &self.severity),
            ("base", &self.base),
            ("family", &self.family),
            ("form", &self.form),
            ("decision", &self.decision),
            ("downloads", &self.downloads),
            ("since", &self.since),
            ("until", &self.until),
            ("text", &self.text),
            ("sort", &self.sort),
            ("after", after),
        ];
        format!("/queue?{}", layout::query(fields))
    }
}

pub(super) async fn queue(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Page {
    let (filter, sort) = asked.read()?;
    let wanted = asked.clone();
    let (page, forms, families) = app
        .read(move |index, _| {
            let page = index.triage(&filter, sort, wanted.after(), ROWS)?;
            Ok((page, index.kinds(Kind::Form)?, index.kinds(Kind::Family)?))
        })
        .await?;
    let body = html! {
        h1 { "Queue" }
        (filters(&asked, &forms, &families))
        (list(&asked, &page))
    };
    Ok(layout::page(&app, &session, "Queue", "/queue", body))
}

fn filters(asked: &Asked, forms: &[(String, u64)], families: &[(String, u64)]) -> Markup {
    let words = |list: &[(String, u64)]| {
        list.iter().map(|(word, _)| word.clone()).filter(|w| !w.is_empty() && layout::fits(w)).collect()
    };
    let forms: Vec<String> = words(forms);
    let families: Vec<String> = words(families);
    let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let decisions: Vec<String> =
        std::iter::once("open".to_owned()).chain(CHOICES.iter().map(|choice| choice.as_str().to_owned())).collect();
    let sorts: Vec<String> = SORTS.iter().map(|sort| sort.as_str().to_owned()).collect();
    html! {
        form class="filters" method="get" action="/queue" role="search" {
            (input("text", "Repository contains", "search", &asked.text))
            (select("outcome", "Verdict", &owned(&OUTCOMES), &asked.outcome, Some("any")))
            (select("severity", "Severity from", &owned(&SEVERITIES), &asked.severity, Some("any")))
            (input("base", "Base", "text", &asked.base))
            (select("family", "Family", &families, &asked.family, Some("any")))
            (select("form", "Form", &forms, &asked.form, Some("any")))
            (input("downloads", "Downloads from", "number", &asked.downloads))
            (input("since", "Examined from", "date", &asked.since))
            (input("until", "Examined to", "date", &asked.until))
            (select("decision", "Decision", &decisions, &asked.decision, Some("any")))
            (select("sort", "Sort by", &sorts, &asked.sort, None))
            button type="submit" { "Show" }
            a href="/queue" { "Clear" }
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

fn list(asked: &Asked, page: &TriagePage) -> Markup {
    html! {
        @if page.items.is_empty() {
            p { "Nothing matches." }
        } @else {
            (table(&page.items))
        }
        nav class="pages" aria-label="Parts of the list" {
            @if asked.after().is_some() { a href=(asked.address("")) { "First part" } }
            @if let Some(next) = &page.next { a rel="next" href=(asked.address(next)) { "Next part" } }
        }
    }
}

/// Examinations, one a row.
pub(super) fn table(rows: &[TriageRow]) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Examinations" {
            table {
                thead { tr {
                    th scope="col" { "verdict" } th scope="col" { "severity" } th scope="col" { "repository" }
                    th scope="col" { "base" } th scope="col" { "relation" } th scope="col" { "form" }
                    th class="n" scope="col" { "downloads" } th scope="col" { "examined" } th scope="col" { "decision" }
                } }
                tbody {
                    @for row in rows {
                        tr {
                            td { span class={ "word " (row.outcome) } { (row.outcome) } }
                            td { span class={ "word " (severity_word(row.severity)) } { (severity_word(row.severity)) } }
                            th scope="row" class="long" {
                                a href={ "/examination/" (row.id) } { (sanitise::name(&row.candidate)) }
                            }
                            td class="long" { @if row.base.is_empty() { "none" } @else { (sanitise::name(&row.base)) } }
                            td class="keep" { (row.relation) }
                            td class="keep" { (sanitise::fit(&sanitise::name(&row.form), 18, "…")) }
                            td class="n" { (row.downloads.map_or("–".to_owned(), |count| count.to_string())) }
                            td class="keep" title=(when(row.seen)) { (row.seen.strftime("%Y-%m-%d").to_string()) }
                            td class="keep" { (row.decision) }
                        }
                    }
                }
            }
        }
    }
}

/// The dossier's parts that the index holds beside the record.
fn notes(decisions: &[Decision]) -> Vec<Note> {
    decisions
        .iter()
        .map(|decision| Note {
            when: when(decision.made_at),
            who: decision.who.clone(),
            decision: decision.decision.told().to_owned(),
            note: decision.note.clone(),
        })
        .collect()
}

/// The examination of an id, or the error that there is none.
pub(super) fn find(index: &Index, id: &str) -> Result<Stored> {
    index.get(id)?.ok_or_else(|| missing(id))
}

/// The same without measurements.
pub(super) fn find_short(index: &Index, id: &str) -> Result<Stored> {
    index.get_short(id)?.ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no examination {:?}", sanitise::name(id)))
}

pub(super) async fn dossier(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Page {
    let (stored, facts, decisions, past) = app
        .read(move |index, _| {
            let stored = find(index, &id)?;
            let id = stored.id.hex();
            let decisions = index.decisions(&id)?;
            let past = index.past_judgements(&id)?;
            let facts = Facts::of(index, &stored)?;
            Ok((stored, facts, decisions, past))
        })
        .await?;
    let id = stored.id.hex();
    let candidate = stored.examination.candidate.source.clone();
    let base = stored.examination.base.source.clone();
    let title = candidate.clone();
    let mut report = Report::with_catalogue(vec![stored.examination], &app.catalogue);
    report.facts.insert(id.clone(), facts);
    report.notes = BTreeMap::from([(candidate.clone(), notes(&decisions))]);
    if decisions.is_empty() {
        report.notes.clear();
    }
    let body = html! {
        p class="quiet" {
            "examined " (when(stored.last_seen)) ", judged " (when(stored.judged_at)) "; "
            @if layout::fits(&candidate) {
                a href={ "/repository?" (layout::query([("source", candidate.as_str())])) } { "all examinations of this repository" }
            }
            @if !base.is_empty() && layout::fits(&base) {
                " · " a href={ "/tree?" (layout::query([("base", base.as_str())])) } { "family tree of its base" }
            }
            " · " a href={ "/api/v1/examinations/" (id) } { "as JSON" }
        }
        @for examination in &report.examinations { (dossiers::dossier(examination, &report, "e")) }
        @if !past.is_empty() {
            h2 { "Earlier judgements of the same measurements" }
            ul {
                @for judgement in &past {
                    li {
                        (when(judgement.judged_at)) ": " (crate::report::words::verdict_name(judgement.verdict)) ", "
                        (crate::report::words::relation_name(judgement.relation)) ", by catalogue "
                        span class="mono" { (sanitise::name(&judgement.catalogue)) }
                    }
                }
            }
        }
        (decision_form(&app, &session, &id))
    };
    Ok(layout::page(&app, &session, &title, "", body))
}

fn decision_form(app: &App, session: &Session, id: &str) -> Markup {
    html! {
        section class="card decide" aria-labelledby="decide" {
            h2 id="decide" { "Record a decision" }
            p class="quiet" { "Decisions are only ever added; this one will be shown with your name and the time." }
            form method="post" action={ "/examination/" (id) "/decide" } {
                input type="hidden" name="form_token" value=(app.access.form_token(session));
                div class="form-row" {
                    label for="who" { "Who decides" }
                    input id="who" name="who" type="text" autocomplete="name" maxlength="100" required;
                }
                div class="form-row" {
                    label for="choice" { "Decision" }
                    select id="choice" name="decision" {
                        @for choice in CHOICES { option value=(choice.as_str()) { (choice.told()) } }
                    }
                }
                div class="form-row" {
                    label for="note" { "Why" }
                    textarea id="note" name="note" rows="4" cols="60" maxlength="10000" {}
                }
                button type="submit" { "Record" }
            }
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Decide {
    form_token: String,
    who: String,
    decision: String,
    #[serde(default)]
    note: String,
}

pub(super) async fn decide(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Form(form): Form<Decide>,
) -> Result<Response, Failure> {
    if !app.access.form_token_holds(&session, &form.form_token) {
        return Err(Failure(Error::new(
            ErrorKind::Denied,
            "the form is too old (the server has been started again since); go back, load the page anew and send it again",
        )));
    }
    let choice = Choice::from_word(&form.decision)
        .ok_or_else(|| Error::new(ErrorKind::Usage, format!("{:?} is no decision", sanitise::name(&form.decision))))?;
    let address = app
        .write(move |index, app| {
            let id = find_short(index, &id)?.id.hex();
            index.decide(&id, &form.who, choice, &form.note, (app.clock)())?;
            Ok(format!("/examination/{id}"))
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
) -> Page {
    let source = asked.source.clone();
    let rows = app.read(move |index, _| index.repository_rows(&source, HISTORY_ROWS)).await?;
    let body = html! {
        h1 { (sanitise::name(&asked.source)) }
        @if rows.is_empty() {
            p { "This repository has not been examined." }
        } @else {
            h2 { "Examinations, newest first" }
            div class="scroll" tabindex="0" role="region" aria-label="History" {
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
                                td { span class={ "word " (row.outcome) } { (row.outcome) } }
                                td class="long" { (sanitise::name(&row.base)) }
                                td class="long" { (sanitise::sentence(&row.because)) }
                                td { (row.decision) }
                            }
                        }
                    }
                }
            }
        }
    };
    Ok(layout::page(&app, &session, &asked.source, "", body))
}

pub(super) async fn decisions(State(app): State<Arc<App>>, Extension(session): Extension<Session>) -> Page {
    let (all, broken) =
        app.read(|index, _| Ok((index.last_decisions(HISTORY_ROWS)?, index.broken_decisions()?))).await?;
    let body = html! {
        h1 { "Decisions" }
        p {
            @if broken.is_empty() {
                "The audit trail is whole: every decision's hash follows from the one before."
            } @else {
                strong { "The audit trail is broken" } " at "
                (words(&broken)) ": a decision was changed or taken out by other means than orthoscope."
            }
        }
        @if all.is_empty() { p { "None yet." } } @else {
            div class="scroll" tabindex="0" role="region" aria-label="Decisions" {
                table {
                    thead { tr {
                        th class="n" scope="col" { "number" } th scope="col" { "when" } th scope="col" { "who" }
                        th scope="col" { "decision" } th scope="col" { "examination" } th scope="col" { "note" }
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
            }
        }
    };
    Ok(layout::page(&app, &session, "Decisions", "/decisions", body))
}

fn words(numbers: &[i64]) -> String {
    numbers.iter().take(20).map(i64::to_string).collect::<Vec<_>>().join(", ")
}
