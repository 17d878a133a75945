//! A base's family tree as a picture: its derivatives, theirs, and what was found in each.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;

use super::access::Session;
use super::{App, Failure, layout};
use crate::error::Result;
use crate::index::Index;
use crate::index::triage::TriageRow;
use crate::report::sanitise;

/// Generations below the base.
const DEPTH: usize = 3;

/// Children drawn of one node, and nodes of the whole picture.
const CHILDREN: usize = 24;
const NODES: usize = 150;

/// Examinations looked at for one node's children (a repository may have several).
const EXAMINATIONS: u32 = 400;

/// One repository of the tree.
struct Node {
    source: String,
    /// Its newest examination's id and outcome against the node above; `None` at the root.
    examined: Option<(String, String)>,
    children: Vec<Node>,
    /// Derivatives that are not drawn.
    left_out: usize,
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    base: String,
}

pub(super) async fn page(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Result<Html<String>, Failure> {
    let base = asked.base.clone();
    let (bases, tree) = app
        .read(move |index, _| {
            let tree = if base.is_empty() {
                None
            } else {
                let mut seen = BTreeSet::from([base.clone()]);
                let mut room = NODES;
                Some(grow(index, base, None, DEPTH, &mut seen, &mut room)?)
            };
            Ok((index.bases(100)?, tree))
        })
        .await?;
    let body = html! {
        h1 { "Family trees" }
        @match &tree {
            Some(tree) if !tree.children.is_empty() => {
                h2 { (sanitise::name(&tree.source)) }
                figure { div class="scroll" tabindex="0" role="region" aria-label="Family tree" { (picture(tree)) } }
                details { summary { "The same as a list" } ul { (item(tree)) } }
                p { a href={ "/queue?" (layout::query([("base", tree.source.as_str())])) } { "All of its derivatives in the queue" } }
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
fn grow(
    index: &Index,
    source: String,
    examined: Option<(String, String)>,
    depth: usize,
    seen: &mut BTreeSet<String>,
    room: &mut usize,
) -> Result<Node> {
    let mut node = Node { source, examined, children: Vec::new(), left_out: 0 };
    if depth == 0 {
        return Ok(node);
    }
    let mut rows: Vec<TriageRow> = index.derivatives(&node.source, EXAMINATIONS)?;
    // The first row of a repository is its most serious one.
    rows.retain(|row| seen.insert(row.candidate.clone()));
    for row in rows {
        if node.children.len() >= CHILDREN || *room == 0 {
            node.left_out += 1;
            continue;
        }
        *room -= 1;
        node.children.push(grow(index, row.candidate, Some((row.id, row.outcome)), depth - 1, seen, room)?);
    }
    Ok(node)
}

const COLUMN: f64 = 290.0;
const BOX: f64 = 250.0;
const ROW: f64 = 34.0;

/// A node placed: column from the left, middle of its box from the top.
struct Placed<'a> {
    node: &'a Node,
    column: usize,
    middle: f64,
    parent: Option<f64>,
}

/// Places leaves below one another and parents at the middle of their children. Gives the node's own middle.
fn place<'a>(node: &'a Node, column: usize, next: &mut f64, out: &mut Vec<Placed<'a>>) -> f64 {
    let mine = out.len();
    out.push(Placed { node, column, middle: 0.0, parent: None });
    let mut middles = Vec::new();
    let mut children = Vec::new();
    for child in &node.children {
        children.push(out.len());
        middles.push(place(child, column + 1, next, out));
    }
    if node.left_out > 0 && !node.children.is_empty() {
        *next += ROW;
    }
    let middle = match (middles.first(), middles.last()) {
        (Some(first), Some(last)) => (first + last) / 2.0,
        _ => {
            *next += ROW;
            *next - ROW / 2.0
        }
    };
    for child in children {
        out[child].parent = Some(middle);
    }
    out[mine].middle = middle;
    middle
}

fn picture(tree: &Node) -> Markup {
    let mut next = 6.0;
    let mut placed = Vec::new();
    place(tree, 0, &mut next, &mut placed);
    let columns = placed.iter().map(|p| p.column).max().unwrap_or(0) + 1;
    let (width, height) = (columns as f64 * COLUMN, next + 6.0);
    let at = |value: f64| format!("{value:.1}");
    html! {
        svg class="chart tree" role="group" aria-labelledby="tree-title tree-desc" width=(at(width)) height=(at(height))
            viewBox={ "0 0 " (at(width)) " " (at(height)) } {
            title id="tree-title" { "Derivatives of " (sanitise::name(&tree.source)) }
            desc id="tree-desc" { (placed.len() - 1) " derivatives, the most serious first; the list below says the same." }
            @for p in &placed {
                @let x = 4.0 + p.column as f64 * COLUMN;
                @if let Some(parent) = p.parent {
                    @let from = x - COLUMN + BOX;
                    path class="branch" d={ "M" (at(from)) " " (at(parent)) "C" (at(from + 20.0)) " " (at(parent)) " " (at(x - 20.0)) " " (at(p.middle)) " " (at(x)) " " (at(p.middle)) } {}
                }
                (boxed(p, x))
            }
        }
    }
}

fn boxed(p: &Placed<'_>, x: f64) -> Markup {
    let at = |value: f64| format!("{value:.1}");
    let outcome = p.node.examined.as_ref().map_or("base", |(_, outcome)| outcome.as_str());
    let name = sanitise::name(&p.node.source);
    let drawn = html! {
        rect class={ "node " (outcome) } x=(at(x)) y=(at(p.middle - 13.0)) width=(at(BOX)) height="26" rx="5" {}
        text class={ "letter " (outcome) } x=(at(x + 9.0)) y=(at(p.middle + 4.0)) { (letter(outcome)) }
        text x=(at(x + 26.0)) y=(at(p.middle + 4.0)) { (sanitise::fit(&name, 34, "…")) title { (name) ": " (outcome) } }
    };
    html! {
        @match &p.node.examined {
            Some((id, _)) => a href={ "/examination/" (id) } aria-label={ (name) ", " (outcome) } { (drawn) },
            None => (drawn),
        }
        @if p.node.left_out > 0 {
            text class="tick" x=(at(x + COLUMN)) y=(at(p.middle + 26.0)) { "and " (p.node.left_out) " more" }
        }
    }
}

/// A sign beside the colour.
fn letter(outcome: &str) -> &'static str {
    match outcome {
        "orthogonalized" => "●",
        "suspect" => "◐",
        "clear" => "○",
        "base" => "■",
        _ => "?",
    }
}

fn item(node: &Node) -> Markup {
    html! {
        li {
            @match &node.examined {
                Some((id, outcome)) => { a href={ "/examination/" (id) } { (sanitise::name(&node.source)) } ": " (outcome) },
                None => (sanitise::name(&node.source)),
            }
            @if !node.children.is_empty() { ul { @for child in &node.children { (item(child)) } } }
            @if node.left_out > 0 { p class="quiet" { "and " (node.left_out) " more" } }
        }
    }
}
