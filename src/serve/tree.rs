//! A base's family tree: its derivatives, theirs, and what was found in each.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;

use super::access::Session;
use super::pages::{is_false_claim, lambda};
use super::{App, PageFailure, layout};
use crate::error::Result;
use crate::index::Index;
use crate::index::triage::TriageRow;
use crate::report::html::scroll;
use crate::report::sanitise;

/// Generations below the base.
const DEPTH: usize = 3;

/// Children shown of one node, and nodes of the whole tree.
const CHILDREN: usize = 24;
const NODES: usize = 150;

/// Examinations looked at for one node's children (a repository may have several).
const EXAMINATIONS: u32 = 400;

/// One derivative, by its most serious examination against the node above.
struct Node {
    row: TriageRow,
    below: Below,
}

/// What is below a node.
#[derive(Default)]
struct Below {
    children: Vec<Node>,
    /// Derivatives that are not shown.
    left_out: usize,
}

#[derive(Deserialize)]
pub(super) struct TreeAsked {
    #[serde(default)]
    base: String,
}

pub(super) async fn page(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Query(asked): Query<TreeAsked>,
) -> Result<Html<String>, PageFailure> {
    let base = asked.base.clone();
    let (bases, tree) = app
        .read(move |index, _| {
            let tree = if base.is_empty() {
                None
            } else {
                let mut seen = BTreeSet::from([base.clone()]);
                let mut room = NODES;
                Some(grow(index, &base, DEPTH, &mut seen, &mut room)?)
            };
            Ok((index.bases(100)?, tree))
        })
        .await?;
    let body = html! {
        h1 { "Family trees" }
        @match &tree {
            Some(tree) if !tree.children.is_empty() => {
                h2 { (sanitise::name(&asked.base)) }
                (legend())
                (table(tree, &asked.base))
                p { a href={ "/queue?" (layout::query([("base", asked.base.as_str()), ("severity", "none")])) } { "All of its derivatives in the queue" } }
            }
            Some(_) => p { "Nothing in the index derives from " span class="mono" { (sanitise::name(&asked.base)) } "." },
            None => {}
        }
        h2 { "Bases in the index" }
        @if bases.is_empty() { p { "None yet." } } @else {
            table {
                thead { tr { th scope="col" { "base" } th class="n" scope="col" { "examinations" } } }
                tbody {
                    @for (base, count) in &bases {
                        tr {
                            th scope="row" {
                                @if layout::fits(base) {
                                    a href={ "/tree?" (layout::query([("base", base.as_str())])) } { (sanitise::name(base)) }
                                } @else {
                                    (sanitise::name(base))
                                }
                            }
                            td class="n" { (count) }
                        }
                    }
                }
            }
        }
    };
    Ok(layout::page(&app, &session, "Family trees", "/tree", body))
}

/// The tree below a repository: each derivative once, at the place where it is met first.
fn grow(index: &Index, source: &str, depth: usize, seen: &mut BTreeSet<String>, room: &mut usize) -> Result<Below> {
    let mut below = Below::default();
    if depth == 0 {
        return Ok(below);
    }
    let mut rows: Vec<TriageRow> = index.derivatives(source, EXAMINATIONS)?;
    // The first row of a repository is its most serious one.
    rows.retain(|row| seen.insert(row.candidate.clone()));
    for row in rows {
        if below.children.len() >= CHILDREN || *room == 0 {
            below.left_out += 1;
            continue;
        }
        *room -= 1;
        let further = grow(index, &row.candidate, depth - 1, seen, room)?;
        below.children.push(Node { row, below: further });
    }
    Ok(below)
}

/// A sign beside the colour.
fn sign(outcome: &str) -> &'static str {
    match outcome {
        "orthogonalized" => "●",
        "suspect" => "◐",
        "clear" => "○",
        "inconclusive" => "?",
        _ => "–",
    }
}

fn legend() -> Markup {
    html! {
        p class="legend" {
            @for outcome in super::asked::OUTCOMES {
                span class={ "word " (outcome) } { (sign(outcome)) " " (outcome) } " "
            }
        }
    }
}

fn table(tree: &Below, base: &str) -> Markup {
    html! {
        (scroll("Family tree", html! {
            table class="stack tree" {
                caption { "Derivatives of " (sanitise::name(base)) ", the most serious first; each below what it derives from" }
                thead { tr {
                    th scope="col" { "repository" } th scope="col" { "verdict" } th class="n" scope="col" { "λ" }
                    th scope="col" { "relation" } th class="n" scope="col" { "downloads" }
                } }
                tbody { (rows(tree, base, 0)) }
            }
        }))
    }
}

fn rows(below: &Below, parent: &str, depth: usize) -> Markup {
    html! {
        @for node in &below.children {
            @let row = &node.row;
            tr {
                th scope="row" class={ "long depth" (depth) } {
                    span class={ "word " (row.outcome) } aria-hidden="true" { (sign(&row.outcome)) } " "
                    a href={ "/examination/" (row.id) } { (sanitise::name(&row.candidate)) }
                    @if depth > 0 { span class="under" { "of " (sanitise::name(parent)) } }
                }
                td {
                    span class={ "word " (row.outcome) } { (row.outcome) }
                    @if is_false_claim(row) { span class="under word suspect" { "false claim of a base" } }
                }
                td class="n" data-label="λ" { (lambda(row)) }
                td class="keep" { (row.relation) }
                td class="n" data-label="downloads" { (row.downloads.map_or("–".to_owned(), |count| count.to_string())) }
            }
            (rows(&node.below, &row.candidate, depth + 1))
        }
        @if below.left_out > 0 {
            tr { td colspan="5" class={ "quiet depth" (depth) } { "and " (below.left_out) " more of " (sanitise::name(parent)) } }
        }
    }
}
