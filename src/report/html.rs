//! The dossier of an examination as HTML: one file that asks no other host for anything, readable in print, in light
//! and dark, by keyboard and by screen reader. The browser's pages use the same parts.
//!
//! All text goes through maud, which escapes it, after [`sanitise`] has made it harmless to look at.

use std::io::Write;

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::error::Result;
use crate::examination::{Examination, Finding, Side, Verdict};
use crate::index::decision::Decision;
use crate::profile::names::MEASUREMENTS;
use crate::report::table::{severity_name, word};
use crate::report::words::{self, Told, number, percent, strength};
use crate::report::{
    Renderer, Report, Style, beside, chart, evidence, oddities, paragraphs, plot, sanitise, variants, writing,
};

/// The stylesheet of dossiers and pages.
pub const STYLESHEET: &str = include_str!("templates/style.css");

/// Rows of a long table shown; the JSON has them all.
const ROWS: usize = 400;

/// The renderer.
pub struct Html;

impl Renderer for Html {
    fn name(&self) -> &'static str {
        "html"
    }

    fn purpose(&self) -> &'static str {
        "a self-contained dossier to look at, print or attach"
    }

    fn extension(&self) -> &'static str {
        "html"
    }

    fn media_type(&self) -> &'static str {
        "text/html; charset=utf-8"
    }

    fn render(&self, report: &Report, _: &Style, out: &mut dyn Write) -> Result<()> {
        let title = match report.examinations.as_slice() {
            [one] => format!("{}: {}", sanitise::name(&one.candidate.source), word(one)),
            several => format!("{} examinations", several.len()),
        };
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="Content-Security-Policy" content=(policy());
                    meta name="referrer" content="no-referrer";
                    title { (title) " – orthoscope" }
                    style { (PreEscaped(STYLESHEET)) }
                }
                body {
                    a class="skip" href="#main" { "Skip to the report" }
                    main id="main" {
                        @for (index, examination) in report.examinations.iter().enumerate() {
                            (dossier(examination, report, index, &html! {}))
                        }
                    }
                    footer class="site" { (disclaimer()) }
                }
            }
        };
        out.write_all(page.into_string().as_bytes()).map_err(writing)
    }
}

/// What a dossier may load: its own stylesheet, recognised by its hash, and nothing else.
fn policy() -> String {
    let digest = crate::ids::Digest::of(STYLESHEET.as_bytes());
    let hash = base64::engine::general_purpose::STANDARD.encode(digest.0);
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

/// The sentence under every page.
pub fn disclaimer() -> Markup {
    html! {
        p {
            "orthoscope compares weights with a base. It says what the weights are consistent with, how sure that is, "
            "and where its limits are; it does not say who did what, or whether a model is safe."
        }
    }
}

/// A class made of a verdict's or severity's word.
pub fn class(word: &str) -> String {
    word.replace(' ', "-")
}

/// The whole dossier of one examination, the one at this place of the report, with something to do beside its verdict.
pub fn dossier(examination: &Examination, report: &Report, place: usize, beside: &Markup) -> Markup {
    // Keeps the ids of several on one page apart.
    let id = format!("e{place}");
    let told = words::tell(examination);
    let word = word(examination);
    html! {
        article aria-labelledby={ (id) "-heading" } {
            h1 id={ (id) "-heading" } { (sanitise::name(&examination.candidate.source)) }
            p class="quiet" {
                "compared with " span class="mono" { (base_name(&examination.base)) }
            }
            div class="top" {
                section class={ "verdict " (class(word)) } aria-label="Verdict" {
                    span class={ "word " (class(word)) } { (word.to_uppercase()) }
                    p class="sentence" { (told.headline) }
                    @for line in &told.sure { p { (line) } }
                }
                (beside)
                (decisions(report.decided(place)))
                div class="cards" {
                    (card("Why", &told.why))
                    (card("What it means", &told.means))
                    (card("What it does not say", &told.limits))
                }
            }
            (variant_table(examination))
            (pictures(examination, &id))
            (signatures(examination, report))
            (look_alikes(examination, report))
            (identity(examination, report))
            (kinship(&told))
            (looked_at(examination, &told))
            (besides(examination))
            (anomalies(examination))
            (appeal(&told))
            (glossary(examination))
        }
    }
}

/// The checkpoints of a repository that holds several.
fn variant_table(examination: &Examination) -> Markup {
    let lines = variants::lines(examination);
    html! {
        @if !lines.is_empty() {
            h2 { "Variants examined" }
            p {
                "The repository holds " (words::count(lines.len() as u64, "checkpoint that was", "checkpoints that were"))
                " examined, each by itself; the verdict on the whole and the numbers below are those of the gravest."
            }
            div class="scroll" tabindex="0" role="region" aria-label="Variants examined" {
                table {
                    thead { tr {
                        th scope="col" { "file or quantisation" } th scope="col" { "format" } th scope="col" { "verdict" }
                        th scope="col" { "relation" } th scope="col" { "strength and limit, or why not" }
                    } }
                    tbody {
                        @for line in lines.iter().take(ROWS) {
                            tr {
                                th scope="row" class="long" { (line.name) }
                                td class="keep" { (line.format) }
                                td { span class={ "word " (class(line.verdict)) } { (line.verdict) } }
                                td class="keep" { (line.relation) }
                                td class="long" { (line.detail) }
                            }
                        }
                    }
                }
            }
            (more(lines.len()))
        }
    }
}

fn base_name(base: &Side) -> String {
    if base.source.is_empty() { "no base".to_owned() } else { sanitise::name(&base.source) }
}

fn card(heading: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            section class="card" {
                h2 { (heading) }
                ul { @for line in lines { li { (line) } } }
            }
        }
    }
}

fn pictures(examination: &Examination, id: &str) -> Markup {
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
                (strength_table(&plot::series(o)))
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
                (heat_table(&chart::heat(profile)))
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
                (agreement_table(&chart::agreements(profile)))
            }
        }
    }
}

fn strength_table(series: &[plot::Series]) -> Markup {
    let layers: std::collections::BTreeSet<u32> = series.iter().flat_map(|s| s.points.keys().copied()).collect();
    html! {
        details {
            summary { "The numbers: λ by layer" }
            div class="scroll" tabindex="0" role="region" aria-label="λ by layer" {
                table {
                    caption { "Estimated λ ± standard error" }
                    thead { tr { th class="n" scope="col" { "layer" } @for s in series { th class="n" scope="col" { (s.module) } } } }
                    tbody {
                        @for layer in layers.iter().take(ROWS) {
                            tr {
                                th class="n" scope="row" { (layer) }
                                @for s in series {
                                    td class="n" {
                                        @match s.points.get(layer) {
                                            Some((lambda, stderr)) if *lambda == 0.0 => { (plot::nothing(*stderr)) },
                                            Some((lambda, stderr)) => { (strength(*lambda)) " ± " (strength(*stderr)) },
                                            None => "–",
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn heat_table(rows: &[chart::HeatRow]) -> Markup {
    html! {
        details {
            summary { "The numbers: relative change by module" }
            div class="scroll" tabindex="0" role="region" aria-label="Relative change by module" {
                table {
                    caption { "Largest and median ‖Δ‖/‖W‖ over layers" }
                    thead { tr {
                        th scope="col" { "module" } th scope="col" { "part" }
                        th class="n" scope="col" { "layers" } th class="n" scope="col" { "changed" }
                        th class="n" scope="col" { "median of changed" } th class="n" scope="col" { "largest" }
                    } }
                    tbody {
                        @for row in rows.iter().take(ROWS) {
                            @let changed = row.changes();
                            tr {
                                th scope="row" { (row.module) }
                                td { (format!("{:?}", row.kind).to_lowercase()) }
                                td class="n" { (row.cells.len()) }
                                td class="n" { (changed.len()) }
                                td class="n" { (changed.get(changed.len() / 2).map_or("–".to_owned(), |v| number(*v))) }
                                td class="n" { (changed.last().map_or("–".to_owned(), |v| number(*v))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn agreement_table(series: &[plot::Series]) -> Markup {
    html! {
        details {
            summary { "The numbers: agreement by module" }
            div class="scroll" tabindex="0" role="region" aria-label="Agreement by module" {
        table {
                thead { tr {
                    th scope="col" { "module" } th class="n" scope="col" { "layers" }
                    th class="n" scope="col" { "lowest" } th class="n" scope="col" { "highest" }
                } }
                tbody {
                    @for s in series.iter().take(ROWS) {
                        @let values: Vec<f64> = s.points.values().map(|p| p.0).collect();
                        tr {
                            th scope="row" { (s.module) }
                            td class="n" { (values.len()) }
                            td class="n" { (format!("{:.3}", values.iter().copied().fold(1.0, f64::min))) }
                            td class="n" { (format!("{:.3}", values.iter().copied().fold(0.0, f64::max))) }
                        }
                    }
                }
            }
        }
        }
    }
}

fn signatures(examination: &Examination, report: &Report) -> Markup {
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
    let imports = evidence::listed(finding);
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
                div class="scroll" tabindex="0" role="region" aria-label="Clauses" {
                    table class="stack" {
                        thead { tr {
                            th scope="col" { "measurement" } th class="n" scope="col" { "value" }
                            th scope="col" { "demanded" } th scope="col" { "what it is" }
                        } }
                        tbody {
                            @for clause in &clauses {
                                tr {
                                    th scope="row" class="mono" { (clause.measurement) }
                                    td class="n" data-label="value" { (clause.value.map_or("–".to_owned(), number)) }
                                    td data-label="demanded" { (clause.bounds().unwrap_or_default()) }
                                    td class="long" { (meaning(&clause.measurement)) }
                                }
                            }
                        }
                    }
                }
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

fn look_alikes(examination: &Examination, report: &Report) -> Markup {
    // Nothing was called of the others, so nothing has to be told apart.
    if !matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect) {
        return html! {};
    }
    let considered = evidence::considered(examination, &report.signatures);
    let all = evidence::look_alikes(examination);
    html! {
        @if all.iter().any(|look| look.fits.is_some()) {
            h2 { "Benign look-alikes considered" }
            div class="scroll" tabindex="0" role="region" aria-label="Benign look-alikes" {
                table class="stack" {
                    thead { tr { th scope="col" { "what else it could be" } th scope="col" { "does it fit?" } th scope="col" { "the number" } } }
                    tbody {
                        @for look in all.iter().filter(|look| look.fits.is_some()) {
                            tr {
                                th scope="row" { (look.name) }
                                td data-label="does it fit?" {
                                    @match look.fits {
                                        Some(true) => "not excluded by this",
                                        _ => "no",
                                    }
                                }
                                td class="long" { (look.told) }
                            }
                        }
                    }
                }
            }
            @if all.iter().any(|look| look.fits.is_none()) {
                p class="quiet" {
                    "Not weighed, for want of a measurement: "
                    (all.iter().filter(|look| look.fits.is_none()).map(|look| look.name).collect::<Vec<_>>().join(", ")) "."
                }
            }
            @if !considered.is_empty() {
                details {
                    summary { "The catalogue's signatures of look-alikes, and the clauses that rule each out" }
                    div class="scroll" tabindex="0" role="region" aria-label="Signatures of look-alikes" {
                        table {
                            thead { tr { th scope="col" { "signature" } th scope="col" { "holds" } th scope="col" { "clauses that do not hold" } } }
                            tbody {
                                @for look in &considered {
                                    tr {
                                        th scope="row" { (sanitise::sentence(look.title)) br; span class="mono quiet" { (sanitise::name(look.signature)) } }
                                        td { (if look.holds { "yes" } else { "no" }) }
                                        td { @for clause in &look.failing { (clause.told()) br; } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn identity(examination: &Examination, report: &Report) -> Markup {
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
                    div class="scroll" tabindex="0" role="region" aria-label={ (label) " files" } {
                        table {
                            thead { tr { th scope="col" { "file" } th class="n" scope="col" { "size" } th scope="col" { "SHA-256" } } }
                            tbody {
                                @for file in side.files.iter().take(ROWS) {
                                    tr {
                                        th scope="row" class="mono" { (sanitise::name(&file.name)) }
                                        td class="n" { (words::bytes(file.bytes)) }
                                        td class="mono" { (file.sha256.as_deref().map_or("not known".to_owned(), sanitise::name)) }
                                    }
                                }
                            }
                        }
                    }
                    (more(side.files.len()))
                }
            }
        }
    }
}

fn more(all: usize) -> Markup {
    html! { @if all > ROWS { p class="quiet" { "and " (all - ROWS) " more; the JSON has them all" } } }
}

fn kinship(told: &Told) -> Markup {
    html! {
        h2 { "Relation to the base, and the publisher's claim" }
        p { (told.relation) "." }
        ul { @for line in &told.claim { li { (line) } } }
    }
}

fn looked_at(examination: &Examination, told: &Told) -> Markup {
    let c = &examination.coverage;
    html! {
        h2 { "What was looked at, and what was not" }
        p { (told.coverage) "." }
        @if c.tensors > 0 && c.compared < c.tensors {
            p { (percent(c.compared as f64 / c.tensors as f64)) " of the base's tensors were compared." }
        }
        @for (reason, _, _) in told.not_examined.iter().filter(|one| one.1 == 0) { p { (reason) "." } }
        @if told.not_examined.iter().any(|one| one.1 > 0) {
            div class="scroll" tabindex="0" role="region" aria-label="Not examined" {
        table {
                thead { tr { th class="n" scope="col" { "tensors" } th scope="col" { "not examined because" } th scope="col" { "such as" } } }
                tbody {
                    @for (reason, number, names) in told.not_examined.iter().filter(|one| one.1 > 0).take(ROWS) {
                        tr { td class="n" { (number) } td { (reason) } td class="mono" { (names.join(", ")) } }
                    }
                }
            }
        }
        }
    }
}

fn besides(examination: &Examination) -> Markup {
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

fn anomalies(examination: &Examination) -> Markup {
    let all = oddities::grouped(&examination.anomalies);
    html! {
        @if !all.is_empty() {
            h2 { "Oddities of the files" }
            div class="scroll" tabindex="0" role="region" aria-label="Oddities of the files" {
                table {
                    thead { tr { th scope="col" { "kind" } th scope="col" { "file" } th scope="col" { "tensor" } th scope="col" { "detail" } } }
                    tbody {
                        @for one in all.iter().take(ROWS) {
                            tr {
                                td { (one.kind()) }
                                td class="mono" { (one.file()) }
                                td class="mono" { (one.first.tensor.as_deref().map_or(String::new(), sanitise::name)) }
                                td class="long" { (one.detail()) }
                            }
                        }
                    }
                }
            }
            (more(all.len()))
        }
    }
}

/// What people decided, oldest first.
fn decisions(all: &[Decision]) -> Markup {
    html! {
        @if !all.is_empty() {
            section aria-label="Decisions" {
                h2 { "Decisions" }
                div class="scroll" tabindex="0" role="region" aria-label="Decisions, oldest first" {
                    table class="stack" {
                        thead { tr {
                            th scope="col" { "when" } th scope="col" { "who" } th scope="col" { "decision" } th scope="col" { "why" }
                        } }
                        tbody {
                            @for decision in all {
                                tr {
                                    td class="keep" { (words::when(decision.made_at)) }
                                    td { (sanitise::name(&decision.who)) }
                                    td { (decision.decision.told()) }
                                    td class="long" { (sanitise::clean(&decision.note, 4000)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn appeal(told: &Told) -> Markup {
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

fn glossary(examination: &Examination) -> Markup {
    let words = words::glossary(examination);
    html! {
        @if !words.is_empty() {
            h2 { "Words" }
            dl class="facts" { @for (word, meaning) in &words { dt { (word) } dd { (meaning) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn page(report: &Report) -> String {
        let mut out = Vec::new();
        Html.render(report, &Style::default(), &mut out).expect("renders");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn nothing_of_a_repository_becomes_markup() {
        let page = page(&sample::everything());
        assert!(!page.contains("<script"), "script");
        assert!(!page.contains("<img"), "img");
        assert!(!page.contains("<b>"), "b");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.len() < 1_000_000, "{}", page.len());
    }

    #[test]
    fn asks_no_host_and_has_no_inline_style() {
        let page = page(&sample::everything());
        for word in ["http://", "https://", "src=", "url(", " style=", "@import", "onload"] {
            // A link to the candidate's page is asked for by who reads, not by the report.
            let without_policy = page.replace("http-equiv", "").replace("https://huggingface.co/", "");
            let hits = without_policy.matches(word).count();
            // `img src=` of the hostile note is text there.
            let escaped = without_policy.matches("&lt;img src=").count();
            assert_eq!(hits - if word == "src=" { escaped } else { 0 }, 0, "{word}");
        }
    }

    #[test]
    fn ids_are_unique() {
        let page = page(&sample::everything());
        let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }

    #[test]
    fn a_moderator_finds_what_the_verdict_rests_on() {
        let page = page(&sample::report(sample::orthogonalized()));
        for needed in [
            "exact upper 95 % limit of that rate is 0.0076",
            "downloads",
            "uploader",
            "2026-01-02T03:04:05Z",
            "Detection limit",
            "0123456789abcdef0123456789abcdef01234567",
            "need not be refusal",
            "Benign look-alikes considered",
            "projection.consistency",
            "How to check or appeal this",
            "272 of 272 tensors",
        ] {
            assert!(page.contains(needed), "{needed}");
        }
    }

    #[test]
    fn variants_and_imports_are_shown() {
        let page = page(&Report::of(sample::several()));
        for needed in [
            "Variants examined",
            "pytorch_model|&lt;b&gt;.bin",
            "reading pytorch_model.bin: not a tensor file",
            "detection limit 0.003",
            "What loading the files would run",
            "posix.system in pytorch_model.bin",
            "a quantisation of hf:example/tiny-base",
        ] {
            assert!(page.contains(needed), "{needed}");
        }
    }
}
