//! The sections of a dossier: a heading, what is to be said, and the picture or table under it.

use maud::{Markup, html};

use super::tables::{self, ROWS, more};
use crate::examination::{Examination, Finding, Side, Verdict};
use crate::index::decision::Decision;
use crate::profile::names::MEASUREMENTS;
use crate::report::table::severity_name;
use crate::report::words::{self, Told, percent};
use crate::report::{Report, beside, chart, evidence, oddities, paragraphs, plot, sanitise, variants};

/// The checkpoints of a repository that holds several.
pub(super) fn several(examination: &Examination) -> Markup {
    let lines = variants::lines(examination);
    html! {
        @if !lines.is_empty() {
            h2 { "Variants examined" }
            p {
                "The repository holds " (words::count(lines.len() as u64, "checkpoint that was", "checkpoints that were"))
                " examined, each by itself; the verdict on the whole and the numbers below are those of the gravest."
            }
            (tables::variants(&lines))
            (more(lines.len()))
        }
    }
}

/// How a base is called in a dossier's heading.
pub(super) fn base_name(base: &Side) -> String {
    if base.source.is_empty() { "no base".to_owned() } else { sanitise::name(&base.source) }
}

/// One of the boxes beside the verdict: a heading and what is to be said under it.
pub(super) fn card(heading: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            section class="card" {
                h2 { (heading) }
                ul { @for line in lines { li { (line) } } }
            }
        }
    }
}

/// Strength, change and agreement over the layers, each as a picture with its numbers.
pub(super) fn pictures(examination: &Examination, id: &str) -> Markup {
    let profile = examination.profile.as_ref();
    html! {
        @if let Some(o) = words::removal(examination) {
            @if let Some(picture) = chart::fitting(|room| chart::strengths(o, &format!("{id}-strength"), room)) {
                h2 { "Strength over layers" }
                figure {
                    (picture)
                    figcaption {
                        "Estimated λ per layer and module; bars reach 1.96 standard errors (95 %). Hollow marks: unchanged, or none found. "
                        "λ = 1 removes the direction wholly, 2 reflects it, below 0 amplifies it."
                    }
                }
                (tables::strengths(&plot::series(o)))
            }
            @if !o.recipe.is_empty() {
                h2 { "The recipe, as far as the weights show it" }
                ul { @for line in &o.recipe { li { (sanitise::sentence(line)) } } }
            }
        }
        @if let Some(profile) = profile {
            @if let Some(picture) = chart::fitting(|room| chart::heat_map(profile, &format!("{id}-heat"), room)) {
                h2 { "Where the weights changed" }
                figure {
                    (picture)
                    figcaption {
                        "Relative change ‖Δ‖/‖W‖ of each module in each layer. W marks the writers: matrices whose "
                        "output is added to the residual stream. An edit of this kind changes writers and little else; "
                        "training changes nearly everything. What was only sampled is not drawn."
                    }
                }
                (tables::changes(&chart::heat(profile)))
            }
            @if let Some(picture) = chart::fitting(|room| chart::agreement(profile, &format!("{id}-agreement"), room)) {
                h2 { "The direction across layers" }
                figure {
                    (picture)
                    figcaption {
                        "How well the direction recovered from each writer agrees with that of the other layers. "
                        "Near 1: the same direction everywhere. At chance: unrelated ones. Values between also occur "
                        "in honest training, so this alone decides nothing."
                    }
                }
                (tables::agreements(&chart::agreements(profile)))
            }
        }
    }
}

/// Every signature that holds.
pub(super) fn signatures(examination: &Examination, report: &Report) -> Markup {
    html! {
        @if !examination.findings.is_empty() {
            h2 { "Signatures that hold" }
            @for finding in &examination.findings { (signature(finding, report)) }
        }
    }
}

/// One finding with each clause's number, and the catalogue's prose.
pub fn signature(finding: &Finding, report: &Report) -> Markup {
    let severity = severity_name(finding.severity);
    let clauses = evidence::clauses(finding);
    let imports = words::listed(finding);
    let text = report.catalogue.get(&finding.signature);
    html! {
        section class="card" {
            h3 {
                (text.map_or_else(|| sanitise::name(&finding.signature), |t| sanitise::sentence(&t.title)))
            }
            p class="quiet" {
                "finding " span class="mono" { (sanitise::name(&finding.id)) } ", signature "
                span class="mono" { (sanitise::name(&finding.signature)) } ", severity "
                span class={ "word " (severity) } { (severity) } ", " (sanitise::name(&finding.status))
            }
            @if !clauses.is_empty() {
                (tables::clauses(&clauses))
            }
            @if !imports.is_empty() {
                h4 { "What loading the files would run" }
                ul { @for import in imports.iter().take(ROWS) { li class="mono" { (import) } } }
                (more(imports.len()))
            }
            @if let Some(text) = text {
                @for (heading, prose) in [("What was seen", &text.seen), ("What else looks like this", &text.look_alikes), ("What to do", &text.advice)] {
                    @if !prose.is_empty() {
                        h4 { (heading) }
                        (prose_of(prose))
                    }
                }
            }
        }
    }
}

/// Prose with its code spans.
fn prose_of(prose: &str) -> Markup {
    html! {
        @for paragraph in paragraphs(prose) {
            p {
                @for (index, piece) in paragraph.split('`').enumerate() {
                    @if index % 2 == 1 { code { (piece) } } @else { (piece) }
                }
            }
        }
    }
}

/// The sentence of a measurement.
pub fn meaning(measurement: &str) -> &'static str {
    MEASUREMENTS.iter().find(|m| m.name == measurement).map_or("", |m| m.what)
}

/// What else it could be, where something was called of it.
pub(super) fn look_alikes(examination: &Examination, report: &Report) -> Markup {
    // Nothing was called of the others, so nothing has to be told apart.
    if !matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect) {
        return html! {};
    }
    let considered = evidence::considered(examination, &report.signatures);
    let all = evidence::look_alikes(examination);
    html! {
        @if all.iter().any(|look| look.fits.is_some()) {
            h2 { "Benign look-alikes considered" }
            (tables::look_alikes(&all))
            @if all.iter().any(|look| look.fits.is_none()) {
                p class="quiet" {
                    "Not weighed, for want of a measurement: "
                    (all.iter().filter(|look| look.fits.is_none()).map(|look| look.name).collect::<Vec<_>>().join(", ")) "."
                }
            }
            @if !considered.is_empty() {
                details {
                    summary { "The catalogue's signatures of look-alikes, and the clauses that rule each out" }
                    (tables::considered(&considered))
                }
            }
        }
    }
}

/// What was compared, by what, and what else is known of the candidate.
pub(super) fn identity(examination: &Examination, report: &Report) -> Markup {
    html! {
        h2 { "What was compared" }
        (side("Candidate", &examination.candidate))
        (side("Base", &examination.base))
        dl class="facts" {
            dt { "tool" } dd { "orthoscope " (sanitise::name(&examination.tool.version)) }
            dt { "signature catalogue" } dd class="mono" { (sanitise::name(&examination.tool.catalogue)) }
            dt { "record" } dd class="mono" { (sanitise::name(&examination.schema)) }
            @for (label, text) in words::about(examination, report) {
                dt { (label) }
                // Only addresses that are made here come alive.
                @if text.starts_with("https://") {
                    dd { a href=(text) rel="noreferrer" { (text) } }
                } @else {
                    dd { (text) }
                }
            }
        }
    }
}

fn side(label: &str, side: &Side) -> Markup {
    html! {
        h3 { (label) }
        @if side.source.is_empty() {
            p { "none" }
        } @else {
            dl class="facts" {
                dt { "repository" } dd class="mono" { (sanitise::name(&side.source)) }
                dt { "commit" } dd class="mono" { (side.revision.as_deref().map_or("not a commit".to_owned(), sanitise::name)) }
                dt { "digest" } dd class="mono" { (side.digest.as_deref().map_or("not known".to_owned(), sanitise::name)) }
                dt { "format" } dd { (side.format.as_deref().map_or("not known".to_owned(), sanitise::name)) }
            }
            @if !side.files.is_empty() {
                details {
                    summary { (words::count(side.files.len() as u64, "file", "files")) }
                    (tables::files(label, side))
                    (more(side.files.len()))
                }
            }
        }
    }
}

/// The relation to the base, and what was claimed of it.
pub(super) fn kinship(told: &Told) -> Markup {
    html! {
        h2 { "Relation to the base, and the publisher's claim" }
        p { (told.relation) "." }
        ul { @for line in &told.claim { li { (line) } } }
    }
}

/// How much was looked at, and what was not.
pub(super) fn looked_at(examination: &Examination, told: &Told) -> Markup {
    let c = &examination.coverage;
    html! {
        h2 { "What was looked at, and what was not" }
        p { (told.coverage) "." }
        @if c.tensors > 0 && c.compared < c.tensors {
            p { (percent(c.compared as f64 / c.tensors as f64)) " of the base's tensors were compared." }
        }
        @for (reason, _, _) in told.not_examined.iter().filter(|one| one.1 == 0) { p { (reason) "." } }
        @if told.not_examined.iter().any(|one| one.1 > 0) {
            (tables::not_examined(told))
        }
    }
}

/// What is beside the weights.
pub(super) fn besides(examination: &Examination) -> Markup {
    let lines = beside::lines(examination);
    html! {
        @if !lines.is_empty() {
            h2 { (beside::HEADING) }
            ul {
                @for line in &lines {
                    li { (line) }
                }
            }
        }
    }
}

/// Oddities of the files.
pub(super) fn anomalies(examination: &Examination) -> Markup {
    let all = oddities::grouped(&examination.anomalies);
    html! {
        @if !all.is_empty() {
            h2 { "Oddities of the files" }
            (tables::oddities(&all))
            (more(all.len()))
        }
    }
}

/// What people decided, oldest first.
pub(super) fn decisions(all: &[Decision]) -> Markup {
    html! {
        @if !all.is_empty() {
            section aria-label="Decisions" {
                h2 { "Decisions" }
                (tables::decisions(all))
            }
        }
    }
}

/// How to make the examination again, and what an objection should name.
pub(super) fn appeal(told: &Told) -> Markup {
    html! {
        @if !told.reproduce.is_empty() {
            h2 { "How to check or appeal this" }
            p {
                "Anyone with the two sets of weights can make this examination again; the same version and catalogue "
                "give the same numbers. Whoever disagrees should name the number that is wrong, or a benign change "
                "that explains all of them."
            }
            @for command in &told.reproduce { pre { code { (command) } } }
        }
    }
}

/// The words that a reader may not know.
pub(super) fn glossary(examination: &Examination) -> Markup {
    let words = words::glossary(examination);
    html! {
        @if !words.is_empty() {
            h2 { "Words" }
            dl class="facts" { @for (word, meaning) in &words { dt { (word) } dd { (meaning) } } }
        }
    }
}
