//! Prevalence as text, as a page's body, and as values: counts of the index with shares and intervals.

use maud::{Markup, html};
use serde_json::{Value, json};

use crate::index::prevalence::{DIMENSIONS, Dimension, Group, Prevalence};
use crate::judge::verdict::CONTROLS_WERE;
use crate::report::chart::{self, Room, Share, fitting};
use crate::report::html::scroll;
use crate::report::rates::{
    Detector, ShareInterval, corrected, exact, expected_false_positives, weighted_sums, wilson,
};
use crate::report::table::{Elastic, laid};
use crate::report::{sanitise, words};

/// Groups of a table; the values have them all.
const ROWS: usize = 200;

/// Groups of a table that stands open.
const OPEN_ROWS: usize = 24;

/// Groups of the terminal's table.
const TERMINAL_ROWS: usize = 15;

/// The shares of one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Orthogonalized among examined, Wilson's interval.
    pub wilson: ShareInterval,
    /// The same with the exact interval.
    pub exact: ShareInterval,
    /// Share of downloads.
    pub downloads: ShareInterval,
    /// Corrected for the detector's rates.
    pub corrected: Option<ShareInterval>,
}

/// The shares of a group.
pub fn shares(group: &Group, detector: Option<Detector>) -> Shares {
    let [hits, all, squares] = group.downloads;
    Shares {
        wilson: wilson(group.orthogonalized, group.examined),
        exact: exact(group.orthogonalized, group.examined),
        downloads: weighted_sums(hits, all, squares),
        corrected: detector.and_then(|detector| corrected(group.orthogonalized, group.examined, detector)),
    }
}

/// A dimension's heading.
const fn heading(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Base => "By base",
        Dimension::Family => "By family",
        Dimension::Size => "By size of the base's weights",
        Dimension::Format => "By form",
        Dimension::Month => "By month of upload",
        Dimension::Uploader => "By uploader",
    }
}

/// What the numbers rest on, in sentences.
fn basis(counts: &Prevalence, detector: Option<Detector>) -> Vec<String> {
    let mut lines = vec![
        "Each repository counts once, by its newest examination that did not fail. Shares are of the repositories that \
         could be examined; those that could not be are counted beside them, and nothing is assumed about them."
            .to_owned(),
        "Intervals are 95 %: Wilson's for counts, Wilson's at Kish's effective sample size for downloads. They say what \
         chance does, not what the choice of repositories does: this is prevalence in the index, not on a hub."
            .to_owned(),
    ];
    lines.push(match detector {
        Some(detector) => {
            let (sensitivity, false_positives) = detector.rates();
            let (finds, raises) = (words::percent(sensitivity), words::percent(false_positives));
            let how = match detector {
                Detector::Exact { .. } => {
                    "Rogan and Gladen; the two rates are taken as exact, so the intervals are too narrow: --rates takes them with \
                     their counts"
                        .to_owned()
                }
                Detector::Measured { found, raised } => format!(
                    "Rogan and Gladen, with the limits of Lang and Reiczigel, which hold what chance did to rates counted on {} and {} \
                     labelled pairs",
                    found.of, raised.of
                ),
            };
            format!("Corrected for a detector that finds {finds} and raises {raises} of the others ({how}).")
        }
        None => "Not corrected for the detector's own rates.".to_owned(),
    });
    if let Some(expected) = expected_false_positives(counts.overall.examined) {
        lines.push(format!("{} The controls were {CONTROLS_WERE}.", expected.told()));
    }
    if counts.waiting > 0 {
        lines.push(format!(
            "{} listed by a hub and not looked at yet.",
            words::count(counts.waiting, "repository", "repositories")
        ));
    }
    lines
}

/// The body of the page.
pub fn markup(counts: &Prevalence, detector: Option<Detector>) -> Markup {
    let all = shares(&counts.overall, detector);
    let group = &counts.overall;
    html! {
        div class="tiles" {
            (tile("repositories listed", &group.listed.to_string()))
            (tile("examined", &group.examined.to_string()))
            (tile("not examinable", &group.not_examinable().to_string()))
            (tile("orthogonalized", &group.orthogonalized.to_string()))
            (tile("of the examined", &known(group.examined > 0, all.wilson)))
            (tile("of downloads", &known(group.downloads[1] > 0.0, all.downloads)))
            @if let Some(corrected) = all.corrected { (tile("corrected for the detector", &corrected.told())) }
        }
        @for line in basis(counts, detector) { p class="quiet" { (line) } }
        p class="quiet" { "In the pictures: the share of examined repositories that are orthogonalized, with 95 % intervals." }
        @for dimension in DIMENSIONS {
            @if let Some(groups) = counts.groups.get(&dimension) { (section(dimension, groups, detector)) }
        }
        (declared(counts))
        (delays(counts))
        @if !counts.reasons.is_empty() {
            h2 { "Why repositories could not be examined" }
            table {
                thead { tr { th scope="col" { "reason" } th class="n" scope="col" { "repositories" } } }
                tbody { @for (reason, count) in &counts.reasons { tr { th scope="row" { (reason) } td class="n" { (count) } } } }
            }
        }
    }
}

fn tile(label: &str, value: &str) -> Markup {
    html! { div class="tile" { span class="value" { (value) } (label) } }
}

/// A dimension as a picture: share by group with intervals. `None` when nothing was examined.
pub fn picture(dimension: Dimension, groups: &[Group], detector: Option<Detector>, room: Room) -> Option<Markup> {
    let drawn: Vec<Share> = groups
        .iter()
        .filter(|group| group.examined > 0)
        .map(|group| {
            let rate = shares(group, detector);
            let rate = rate.corrected.unwrap_or(rate.wilson);
            Share {
                label: group.label.clone(),
                share: rate.share,
                interval: (rate.low, rate.high),
                counts: format!("{} of {}", group.orthogonalized, group.examined),
            }
        })
        .take(20)
        .collect();
    let title = format!("Share orthogonalized, {}", heading(dimension).to_lowercase());
    chart::bars(&drawn, &format!("prevalence-{}", dimension.as_str()), &title, room)
}

/// What names and tags say against the weights, as a picture.
pub fn declared_picture(counts: &Prevalence, room: Room) -> Option<Markup> {
    let d = &counts.declared;
    let bar = |label: &str, hits: u64, of: u64| {
        let rate = wilson(hits, of);
        let (share, interval) = (rate.share, (rate.low, rate.high));
        (of > 0).then(|| Share { label: label.to_owned(), share, interval, counts: format!("{hits} of {of}") })
    };
    let drawn: Vec<Share> = [
        bar("orthogonalized, not declared", d.undeclared_found, d.declared_found + d.undeclared_found),
        bar("declared, not orthogonalized", d.declared_not_found, d.declared_found + d.declared_not_found),
    ]
    .into_iter()
    .flatten()
    .collect();
    chart::bars(&drawn, "prevalence-declared", "What a search by name misses, and what it raises in vain", room)
}

/// Days from a base's release to its first orthogonalized derivative, as a picture.
pub fn delays_picture(counts: &Prevalence, room: Room) -> Option<Markup> {
    let days: Vec<(String, i64)> = counts.delays.iter().map(|delay| (delay.base.clone(), delay.days)).collect();
    chart::lengths(&days, "prevalence-delays", "Days from release to the first orthogonalized derivative", "days", room)
}

fn section(dimension: Dimension, groups: &[Group], detector: Option<Detector>) -> Markup {
    html! {
        h2 { (heading(dimension)) }
        @if let Some(picture) = fitting(|room| picture(dimension, groups, detector, room)) { figure { (picture) } }
        @if groups.len() > OPEN_ROWS {
            details { summary { "The numbers of all " (groups.len()) " groups" } (group_table(dimension, groups, detector)) }
        } @else {
            (group_table(dimension, groups, detector))
        }
    }
}

fn group_table(dimension: Dimension, groups: &[Group], detector: Option<Detector>) -> Markup {
    html! {
        (scroll(heading(dimension), html! {
            table class="stack tight" {
                thead { tr {
                    th scope="col" { (dimension.as_str()) }
                    th class="n" scope="col" { "listed" } th class="n" scope="col" { "examined" }
                    th class="n" scope="col" { "not examinable" } th class="n" scope="col" { "orthogonalized" }
                    th class="n" scope="col" { "suspect" } th class="n" scope="col" { "share (95 %)" }
                    th class="n" scope="col" { "exact interval" } th class="n" scope="col" { "of downloads" }
                    @if detector.is_some() { th class="n" scope="col" { "corrected" } }
                } }
                tbody {
                    @for group in groups.iter().take(ROWS) {
                        @let rate = shares(group, detector);
                        tr {
                            th scope="row" class="long" { (sanitise::name(&group.label)) }
                            td class="n" data-label="listed" { (group.listed) }
                            td class="n" data-label="examined" { (group.examined) }
                            td class="n" data-label="not examinable" {
                                (group.not_examinable())
                                @if let Some(reasons) = reasons_told(group) { span class="quiet" { (reasons) } }
                            }
                            td class="n" data-label="orthogonalized" { (group.orthogonalized) }
                            td class="n" data-label="suspect" { (group.suspect) }
                            td class="n rate" data-label="share (95 %)" { (known(group.examined > 0, rate.wilson)) }
                            td class="n rate" data-label="exact interval" { (known(group.examined > 0, rate.exact)) }
                            td class="n rate" data-label="of downloads" { (known(group.downloads[1] > 0.0, rate.downloads)) }
                            @if detector.is_some() {
                                td class="n rate" data-label="corrected" { (rate.corrected.filter(|_| group.examined > 0).map_or("–".to_owned(), |r| r.told())) }
                            }
                        }
                    }
                }
            }
        }))
        @if groups.len() > ROWS { p class="quiet" { "and " (groups.len() - ROWS) " more" } }
    }
}

/// Why repositories of a group could not be examined: the commonest reasons.
fn reasons_told(group: &Group) -> Option<String> {
    let mut reasons: Vec<_> = group.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let told: Vec<String> = reasons.iter().take(3).map(|(reason, count)| format!("{reason} {count}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

fn known(known: bool, rate: ShareInterval) -> String {
    if known { rate.told() } else { "–".to_owned() }
}

fn declared(counts: &Prevalence) -> Markup {
    let d = &counts.declared;
    let found = d.declared_found + d.undeclared_found;
    html! {
        h2 { "Names and tags against weights" }
        @if let Some(picture) = fitting(|room| declared_picture(counts, room)) {
            figure { (picture) figcaption { "Shares with 95 % intervals: of the orthogonalized, and of the declared." } }
        }
        (scroll("Names and tags against weights", html! {
            table {
                caption { "Examined repositories. “Declared”: name or tags hold a word such as “abliterated”." }
                thead { tr { th scope="col" { "" } th class="n" scope="col" { "orthogonalized" } th class="n" scope="col" { "not" } } }
                tbody {
                    tr { th scope="row" { "declared" } td class="n" { (d.declared_found) } td class="n" { (d.declared_not_found) } }
                    tr { th scope="row" { "not declared" } td class="n" { (d.undeclared_found) } td class="n" { (d.neither) } }
                }
            }
        }))
        @if found > 0 {
            p { "A search by name misses " (wilson(d.undeclared_found, found).told()) " of the orthogonalized repositories." }
        }
    }
}

fn delays(counts: &Prevalence) -> Markup {
    html! {
        @if !counts.delays.is_empty() {
            h2 { "From a base's release to its first orthogonalized derivative" }
            @if let Some(picture) = fitting(|room| delays_picture(counts, room)) {
                figure { (picture) figcaption { "Days. Both dates are the hub's, of when a repository was made." } }
            }
            (scroll("Days to the first orthogonalized derivative", html! {
                table {
                    thead { tr { th scope="col" { "base" } th class="n" scope="col" { "days" } th scope="col" { "released" } th scope="col" { "first derivative" } } }
                    tbody {
                        @for delay in counts.delays.iter().take(ROWS) {
                            tr {
                                th scope="row" { (sanitise::name(&delay.base)) } td class="n" { (delay.days) }
                                td { (day(delay.released)) } td { (day(delay.first)) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

pub(super) fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.strftime("%Y-%m-%d").to_string()).unwrap_or_default()
}

/// Counts and shares as JSON.
pub fn values(counts: &Prevalence, detector: Option<Detector>) -> Value {
    let group = |group: &Group| {
        let rate = shares(group, detector);
        json!({
            "label": group.label, "listed": group.listed, "examined": group.examined,
            "not_examinable": group.not_examinable(), "reasons": group.reasons, "orthogonalized": group.orthogonalized, "suspect": group.suspect,
            "inconclusive": group.inconclusive,
            // Of nothing there is no share.
            "share": (group.examined > 0).then_some(rate.wilson), "exact": (group.examined > 0).then_some(rate.exact),
            "share_of_downloads": (group.downloads[1] > 0.0).then_some(rate.downloads), "corrected": rate.corrected,
        })
    };
    let groups: serde_json::Map<String, Value> = counts
        .groups
        .iter()
        .map(|(dimension, list)| (dimension.as_str().to_owned(), list.iter().map(group).collect()))
        .collect();
    json!({
        "schema": "orthoscope/prevalence/1",
        "overall": group(&counts.overall),
        "by": groups,
        "not_examinable": counts.reasons.iter().map(|(reason, count)| json!({ "reason": reason, "count": count })).collect::<Vec<_>>(),
        "declared": counts.declared,
        "delays": counts.delays,
        "waiting": counts.waiting,
        "expected_false_positives": expected_false_positives(counts.overall.examined),
        "basis": basis(counts, detector),
    })
}

/// The numbers for a terminal of this width: all, or one dimension.
pub fn text(counts: &Prevalence, dimensions: &[Dimension], detector: Option<Detector>, columns: usize) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let group = &counts.overall;
    let all = shares(group, detector);
    let _ = writeln!(
        out,
        "{} listed, {} examined, {} not examinable, {} orthogonalized: {} of the examined, {} of downloads",
        group.listed,
        group.examined,
        group.not_examinable(),
        group.orthogonalized,
        known(group.examined > 0, all.wilson),
        known(group.downloads[1] > 0.0, all.downloads),
    );
    if let Some(corrected) = all.corrected {
        let _ = writeln!(out, "corrected for the detector: {}", corrected.told());
    }
    for dimension in dimensions {
        let Some(groups) = counts.groups.get(dimension) else { continue };
        let _ = writeln!(out, "\n{}", heading(*dimension));
        let header =
            [dimension.as_str(), "listed", "examined", "not exam.", "orthogon.", "share (95 %)", "of downloads (95 %)"];
        let row = |group: &Group| {
            let rate = shares(group, detector);
            vec![
                sanitise::name(&group.label),
                group.listed.to_string(),
                group.examined.to_string(),
                group.not_examinable().to_string(),
                group.orthogonalized.to_string(),
                known(group.examined > 0, rate.corrected.unwrap_or(rate.wilson)),
                known(group.downloads[1] > 0.0, rate.downloads),
            ]
        };
        let rows: Vec<Vec<String>> = groups.iter().take(TERMINAL_ROWS).map(row).collect();
        for line in laid(&header, &rows, columns.saturating_sub(1), &Elastic { columns: &[0], right: &[1, 2, 3, 4] }) {
            let _ = writeln!(out, " {line}");
        }
        if groups.len() > TERMINAL_ROWS {
            let _ = writeln!(out, "  and {} more", groups.len() - TERMINAL_ROWS);
        }
    }
    let d = &counts.declared;
    let _ = writeln!(
        out,
        "\nNames and tags: {} declared and found, {} declared and not found, {} found and not declared, {} neither",
        d.declared_found, d.declared_not_found, d.undeclared_found, d.neither
    );
    let found = d.declared_found + d.undeclared_found;
    if found > 0 {
        let missed = wilson(d.undeclared_found, found).told();
        let _ = writeln!(out, "A search by name misses {missed} of the orthogonalized repositories.");
    }
    for delay in counts.delays.iter().take(TERMINAL_ROWS) {
        let base = sanitise::name(&delay.base);
        let days = words::count(delay.days.unsigned_abs(), "day", "days");
        let told = if delay.days < 0 { "before its release" } else { "after its release" };
        let _ = writeln!(out, "First orthogonalized derivative of {base}: {days} {told}");
    }
    for (reason, count) in &counts.reasons {
        let _ = writeln!(out, "Not examinable, {reason}: {count}");
    }
    out.push('\n');
    for line in basis(counts, detector) {
        for line in sanitise::wrap(&line, words::prose_width(columns)) {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}
