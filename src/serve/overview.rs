//! The first page: what the last sweep found, what of it is new, what waits longest, and what could not be looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use jiff::Timestamp;
use maud::{Markup, html};

use super::access::Session;
use super::asked::OUTCOMES;
use super::pages::{self, HtmlPage, lambda};
use super::{App, layout};
use crate::index::triage::{News, NotExaminedClass, TriageFilter, TriageRow};
use crate::report::chart::{self, Room};
use crate::report::html::scroll;
use crate::report::sanitise;
use crate::report::words::{age, bytes, count, when};
use crate::sweep::work::{Run, SweepSummary, last_runs};

/// Sweeps that are shown beside one another.
const RUNS: u32 = 12;

/// Rows of each list.
const ROWS: u32 = 10;

/// What waits for a decision is counted up to this.
const COUNTED: u32 = 10_000;

/// What the page shows.
struct Overview {
    outcomes: Vec<(String, u64)>,
    runs: Vec<Run>,
    news: Vec<News>,
    waiting: Vec<TriageRow>,
    all_waiting: u64,
    not_examined: Vec<NotExaminedClass>,
}

pub(super) async fn home(State(app): State<Arc<App>>, Extension(session): Extension<Session>) -> HtmlPage {
    let now = (app.clock)();
    let shown = app
        .read(move |index, _| {
            let runs = last_runs(index, RUNS)?;
            let last = runs.first();
            let news = match last {
                Some(run) => index.news(run.started, run.ended.unwrap_or(now), ROWS + 1)?,
                None => Vec::new(),
            };
            Ok(Overview {
                outcomes: index.outcomes()?,
                news,
                waiting: index.waiting_longest(ROWS)?,
                all_waiting: index.matching(&TriageFilter::waiting(), COUNTED)?,
                not_examined: index.not_examined(last.map(|run| run.started))?,
                runs,
            })
        })
        .await?;
    let body = html! {
        h1 { "Overview" }
        @match shown.runs.first() {
            Some(run) => (last_sweep(run, shown.runs.iter().skip(1).find(|run| run.ended.is_some()), now)),
            None => p class="lead" {
                "No sweep is recorded in this index. " code { "orthoscope sweep" } " makes one. "
                (waits(shown.all_waiting))
            },
        }
        @if !shown.runs.is_empty() { (new(&app, &shown.news)) }
        h2 { "Waits longest for a decision" }
        @if shown.waiting.is_empty() { p { "Nothing waits." } } @else {
            (pages::table(&app, &shown.waiting))
            p { a href="/queue" { "The whole queue" } ": " (waits(shown.all_waiting)) }
        }
        (unexamined(&shown.not_examined, shown.runs.is_empty()))
        (sweeps(&shown.runs))
        (tiles(&shown.outcomes))
    };
    Ok(layout::page(&app, &session, "Overview", "/", body))
}

fn waits(all: u64) -> String {
    let more = if all >= u64::from(COUNTED) { "or more " } else { "" };
    format!("{} {more}of low severity and above, not decided.", count(all, "examination", "examinations"))
}

/// Time that something took.
fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        seconds if seconds < 3_600.0 => {
            format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), (seconds % 60.0).floor())
        }
        seconds => format!("{:.0} h {:.0} min", (seconds / 3_600.0).floor(), (seconds % 3_600.0 / 60.0).floor()),
    }
}

fn of(summary: &SweepSummary, outcome: &str) -> u64 {
    summary.outcomes.get(outcome).copied().unwrap_or(0)
}

/// Outcomes that are no verdict: kinds of failure.
fn failures(summary: &SweepSummary) -> u64 {
    summary.outcomes.iter().filter(|(word, _)| !OUTCOMES.contains(&word.as_str())).map(|(_, count)| count).sum()
}

fn last_sweep(run: &Run, before: Option<&Run>, now: Timestamp) -> Markup {
    let (Some(ended), Some(summary)) = (run.ended, &run.summary) else {
        return html! {
            p class="lead" {
                "The last sweep began on " (when(run.started)) " and has not ended: it runs still, or it was killed. "
                "The next one goes on where it was."
            }
        };
    };
    let ago = match age(ended, now).as_str() {
        "now" => "just now".to_owned(),
        age => format!("{age} ago"),
    };
    let open = [
        (summary.left > 0)
            .then(|| format!("{} left for the next sweep", count(summary.left, "repository is", "repositories are"))),
        summary.stopped.then(|| "it was stopped".to_owned()),
        summary.limited.then(|| "it ended at its limit of repositories".to_owned()),
        summary.out_of_budget.then(|| "it ended at the night's budget of bytes".to_owned()),
        (!summary.listed.incomplete.is_empty()).then(|| "not everything could be listed".to_owned()),
    ];
    let open: Vec<String> = open.into_iter().flatten().collect();
    html! {
        p class="lead" {
            "The last sweep ended on " (when(ended)) ", " (ago) ", and examined "
            (count(summary.examined, "repository", "repositories")) " of " (summary.listed.seen) " listed: "
            strong { (of(summary, "orthogonalized")) " orthogonalized" } ", " (of(summary, "suspect")) " suspect, "
            (failures(summary)) " could not be examined."
        }
        p {
            "It took " (duration(summary.seconds)) " and received " (bytes(summary.bytes)) " in "
            (count(summary.requests, "request", "requests")) ", " (bytes(summary.weight_bytes)) " of it weights."
            @if !open.is_empty() { " Not all was done: " (open.join("; ")) "." }
            @if let Some((before, summary)) = before.and_then(|run| Some((run, run.summary.as_ref()?))) {
                " The one before, on " (when(before.started)) ", examined " (summary.examined) " and found "
                (of(summary, "orthogonalized")) " orthogonalized and " (of(summary, "suspect")) " suspect."
            }
        }
    }
}

/// What the last sweep says that none before it said.
fn new(app: &App, news: &[News]) -> Markup {
    html! {
        h2 { "New in the last sweep" }
        @if news.is_empty() {
            p { "Nothing that needs a look: whatever it examined came out as before, or of no severity." }
        } @else {
            (scroll("New in the last sweep", html! {
                table class="stack" {
                    thead { tr {
                        th scope="col" { "now" } th scope="col" { "before" } th scope="col" { "repository" }
                        th class="n" scope="col" { "λ" } th scope="col" { "why" }
                    } }
                    tbody {
                        @for one in news.iter().take(ROWS as usize) {
                            tr {
                                td { (pages::verdict(&one.row)) }
                                td class="keep" data-label="before" { (one.before.as_deref().unwrap_or("not seen")) }
                                th scope="row" class="long" {
                                    a href={ "/examination/" (one.row.id) } { (sanitise::name(&one.row.candidate)) }
                                }
                                td class="n" data-label="λ" { (lambda(&one.row)) }
                                (pages::why(app, &one.row))
                            }
                        }
                    }
                }
            }))
            @if news.len() > ROWS as usize {
                p { "and more; " a href="/queue?sort=newest&severity=low" { "the newest first" } }
            }
        }
    }
}

fn unexamined(classes: &[NotExaminedClass], ever: bool) -> Markup {
    html! {
        h2 { @if ever { "Could not be examined" } @else { "Could not be examined in the last sweep" } }
        @if classes.is_empty() { p { "Everything could." } } @else {
            (scroll("Could not be examined", html! {
                table class="stack" {
                    thead { tr {
                        th scope="col" { "why" } th class="n" scope="col" { "repositories" } th scope="col" { "such as" }
                    } }
                    tbody {
                        @for class in classes {
                            tr {
                                th scope="row" { (class.class) }
                                td class="n" data-label="repositories" { (class.count) }
                                td class="long" {
                                    a href={ "/examination/" (class.example.id) } { (sanitise::name(&class.example.candidate)) }
                                    span class="under" { (sanitise::sentence(&class.example.because)) }
                                }
                            }
                        }
                    }
                }
            }))
            p { a href="/queue?outcome=not-examined" { "All that could not be examined" } }
        }
    }
}

/// The last sweeps beside one another, where there are several.
fn sweeps(runs: &[Run]) -> Markup {
    let ended: Vec<(&Run, &SweepSummary)> =
        runs.iter().filter(|run| run.ended.is_some()).filter_map(|run| Some((run, run.summary.as_ref()?))).collect();
    let picture = |id: &str, title: &str, number: fn(&SweepSummary) -> u64| {
        let bars: Vec<(String, i64)> = ended
            .iter()
            .rev()
            .map(|(run, summary)| (when(run.started), i64::try_from(number(summary)).unwrap_or(i64::MAX)))
            .collect();
        chart::lengths(&bars, id, title, "repositories", Room::Narrow)
    };
    html! {
        @if ended.len() > 1 {
            h2 { "The last sweeps" }
            div class="cards small" {
                @for picture in [
                    picture("sweeps-found", "Orthogonalized or suspect", |s| of(s, "orthogonalized") + of(s, "suspect")),
                    picture("sweeps-examined", "Examined", |s| s.examined),
                ].into_iter().flatten() {
                    figure { (picture) }
                }
            }
            (scroll("The last sweeps", html! {
                table class="stack" {
                    thead { tr {
                        th scope="col" { "began" } th class="n" scope="col" { "took" }
                        th class="n" scope="col" { "examined" } th class="n" scope="col" { "orthogonalized" }
                        th class="n" scope="col" { "suspect" } th class="n" scope="col" { "not examined" }
                        th class="n" scope="col" { "received" }
                    } }
                    tbody {
                        @for (run, summary) in &ended {
                            tr {
                                th scope="row" class="keep" { (when(run.started)) }
                                td class="n" data-label="took" { (duration(summary.seconds)) }
                                td class="n" data-label="examined" { (summary.examined) }
                                td class="n" data-label="orthogonalized" { (of(summary, "orthogonalized")) }
                                td class="n" data-label="suspect" { (of(summary, "suspect")) }
                                td class="n" data-label="not examined" { (failures(summary)) }
                                td class="n" data-label="received" { (bytes(summary.bytes)) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

fn tiles(outcomes: &[(String, u64)]) -> Markup {
    let counts: BTreeMap<&str, u64> = outcomes.iter().map(|(word, count)| (word.as_str(), *count)).collect();
    html! {
        h2 { "All examinations in the index" }
        div class="tiles" {
            @for word in OUTCOMES {
                a class="tile" href={ "/queue?" (layout::query([("outcome", word)])) } {
                    span class="value" { (counts.get(word).copied().unwrap_or(0)) }
                    span class={ "word " (word) } { (word) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!([1.06, 184.0, 7_500.0].map(duration), ["1.1 s", "3 min 4 s", "2 h 5 min"]);
        let at = |seconds| Timestamp::from_second(seconds).expect("in range");
        assert_eq!(
            [0, 300, 7_200, 86_400, 3 * 86_400].map(|then| age(at(0), at(then))),
            ["now", "5 min", "2 h", "1 day", "3 days"]
        );
        // A clock that was set back.
        assert_eq!(age(at(100), at(0)), "now");
    }
}
