//! The dossier of an examination as HTML: one file that asks no other host for anything, readable in print, in light
//! and dark, by keyboard and by screen reader. The browser's pages use the same parts.
//!
//! All text goes through maud, which escapes it, after [`sanitise`] has made it harmless to look at.

mod sections;
mod tables;

use std::io::Write;

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::error::Result;
use crate::examination::Examination;
use crate::report::table::word;
use crate::report::{Renderer, Report, Style, sanitise, words, writing};

pub use sections::{meaning, signature};
pub use tables::scroll;

/// The stylesheet of dossiers and pages.
pub const STYLESHEET: &str = include_str!("../templates/style.css");

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
                "compared with " span class="mono" { (sections::base_name(&examination.base)) }
            }
            div class="top" {
                section class={ "verdict " (class(word)) } aria-label="Verdict" {
                    span class={ "word " (class(word)) } { (word.to_uppercase()) }
                    p class="sentence" { (told.headline) }
                    @for line in &told.sure { p { (line) } }
                }
                (beside)
                (sections::decisions(report.decided(place)))
                div class="cards" {
                    (sections::card("Why", &told.why))
                    (sections::card("What it means", &told.means))
                    (sections::card("What it does not say", &told.limits))
                }
            }
            (sections::several(examination))
            (sections::pictures(examination, &id))
            (sections::signatures(examination, report))
            (sections::look_alikes(examination, report))
            (sections::identity(examination, report))
            (sections::kinship(&told))
            (sections::looked_at(examination, &told))
            (sections::besides(examination))
            (sections::anomalies(examination))
            (sections::appeal(&told))
            (sections::glossary(examination))
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
