//! Shows examinations: one [`Report`], and every way to write it out in [`RENDERERS`].
//!
//! A renderer reads a report and nothing else: no files, no clock, no network. The same report gives the same bytes.

pub mod beside;
pub mod chart;
pub mod charts;
pub mod columns;
pub mod csv;
pub mod evidence;
pub mod html;
pub mod intoto;
pub mod json;
pub mod markdown;
pub mod oddities;
pub mod parquet;
pub mod picture;
pub mod plot;
pub mod prevalence;
pub mod rates;
pub mod sanitise;
pub mod sarif;
pub mod table;
pub mod text;
pub mod variants;
pub mod words;

#[cfg(test)]
pub(crate) mod sample;

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::examination::Examination;
use crate::ids::Digest;
use crate::index::decision::Decision;
use crate::index::triage::{Listing, declares};
use crate::index::{Index, StoredExamination};
use crate::signature::{Catalogue, Signature};

/// What is to be shown.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The examinations, in the order they are to be shown in.
    pub examinations: Vec<Examination>,
    /// The catalogue's prose, by signature id; a signature that is missing here is shown by its id alone.
    pub catalogue: BTreeMap<String, SignatureText>,
    /// The signatures themselves, to tell how those of look-alikes fared.
    pub signatures: Catalogue,
    /// What people decided, by the examination's place in the list, oldest first.
    pub decisions: BTreeMap<usize, Vec<Decision>>,
    /// What is known beside the records, by examination id (64 hex digits).
    pub facts: BTreeMap<String, UploadFacts>,
    /// The commit that the orthoscope which writes this was built from, where it knows.
    pub commit: Option<&'static str>,
}

/// What is known of an examination beside its record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct UploadFacts {
    /// When these measurements were last made, RFC 3339.
    pub examined_at: Option<String>,
    /// What a hub's listing last said of the candidate.
    pub listing: Option<ListingFacts>,
}

/// What a hub's listing said of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListingFacts {
    /// When the repository was made, RFC 3339.
    pub created_at: Option<String>,
    /// Downloads of the last 30 days.
    pub downloads: Option<u64>,
    /// Whether its name or tags say that refusals were taken out.
    pub declared: bool,
}

impl Report {
    /// A report of one examination, without catalogue prose.
    pub fn of(examination: Examination) -> Self {
        Self { examinations: vec![examination], ..Self::default() }
    }

    /// A report of some examinations with the catalogue's prose.
    pub fn with_catalogue(examinations: Vec<Examination>, signatures: &Catalogue) -> Self {
        let text = |signature: &Signature| {
            let [seen, look_alikes, advice] = signature.prose.clone();
            (
                signature.id().to_owned(),
                SignatureText { title: signature.front.title.clone(), seen, look_alikes, advice },
            )
        };
        let catalogue = signatures.signatures().iter().map(text).collect();
        Self { examinations, catalogue, signatures: signatures.clone(), commit: crate::COMMIT, ..Self::default() }
    }

    /// A report of examinations of an index, with what it knows beside the records and what was decided on them.
    pub fn of_index(index: &Index, stored: Vec<StoredExamination>, signatures: &Catalogue) -> Result<Self> {
        let facts = stored.iter().map(|one| Ok((one.id.hex(), UploadFacts::of(index, one)?))).collect::<Result<_>>()?;
        let mut decisions = BTreeMap::new();
        for (place, one) in stored.iter().enumerate() {
            let made = index.decisions(&one.id.hex())?;
            if !made.is_empty() {
                decisions.insert(place, made);
            }
        }
        let examinations = stored.into_iter().map(|one| one.examination).collect();
        Ok(Self { facts, decisions, ..Self::with_catalogue(examinations, signatures) })
    }

    /// The decisions on the examination at this place, oldest first.
    pub fn decided(&self, place: usize) -> &[Decision] {
        self.decisions.get(&place).map_or(&[], Vec::as_slice)
    }

    /// An examination's id, and what is known beside its record.
    pub fn identified(&self, examination: &Examination) -> (Digest, UploadFacts) {
        let id = examination.id();
        let facts = self.facts.get(&id.hex()).cloned().unwrap_or_default();
        (id, facts)
    }
}

impl ListingFacts {
    /// What a listing says of the repository of that source.
    pub fn of(source: &str, listing: &Listing) -> Self {
        Self {
            created_at: listing.created.map(|time| time.to_string()),
            downloads: listing.downloads,
            declared: declares(source, &listing.tags),
        }
    }
}

impl UploadFacts {
    /// What the index knows of an examination in it.
    pub fn of(index: &Index, stored: &StoredExamination) -> Result<Self> {
        let heard = index.heard(&stored.examination.candidate.source)?;
        let listing = heard.map(|heard| ListingFacts {
            created_at: heard.created.map(|time| time.to_string()),
            downloads: heard.downloads,
            declared: heard.declared,
        });
        Ok(Self { examined_at: Some(stored.last_seen.to_string()), listing })
    }
}

/// A signature's prose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignatureText {
    /// What it is, in one line.
    pub title: String,
    /// “What was seen”.
    pub seen: String,
    /// “What else looks like this”.
    pub look_alikes: String,
    /// “What to do”.
    pub advice: String,
}

/// The paragraphs of a signature's prose, each on one line and harmless to show.
pub fn paragraphs(prose: &str) -> Vec<String> {
    let join = |text: &str| sanitise::clean(&text.split_whitespace().collect::<Vec<_>>().join(" "), 4000);
    prose.split("\n\n").map(join).filter(|paragraph| !paragraph.is_empty()).collect()
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Color {
    /// Always.
    Always,
    /// Never.
    #[default]
    Never,
}

/// How to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Colour (terminal text only). Whether the output is a terminal is the caller's to know.
    pub color: Color,
    /// Columns of the terminal, or [`NO_TERMINAL`].
    pub width: usize,
    /// Block characters in plots; ASCII otherwise.
    pub unicode: bool,
    /// JSON on one line each instead of indented.
    pub lines: bool,
    /// All measurements in JSON.
    pub profile: bool,
    /// Every anomaly and every unexamined tensor in text.
    pub verbose: bool,
}

/// The width of what goes into a file or a pipe: names are whole there, for whoever searches them.
pub const NO_TERMINAL: usize = usize::MAX;

impl Default for Style {
    fn default() -> Self {
        Self { color: Color::Never, width: NO_TERMINAL, unicode: true, lines: false, profile: false, verbose: false }
    }
}

/// One way to write a report out.
pub trait Renderer: Sync {
    /// Its name for `--format`.
    fn name(&self) -> &'static str;

    /// What it is for, in one line, for `--help`.
    fn purpose(&self) -> &'static str;

    /// Extension of a file with it.
    fn extension(&self) -> &'static str;

    /// Its media type.
    fn media_type(&self) -> &'static str;

    /// Whether a terminal cannot show it.
    fn is_binary(&self) -> bool {
        false
    }

    /// Whether it names files by their SHA-256, so that an examination without them cannot be written so.
    fn needs_digests(&self) -> bool {
        false
    }

    /// Why an examination cannot be written so, where it cannot; whoever writes many leaves it out and says so.
    fn refuses(&self, _examination: &Examination) -> Option<&'static str> {
        None
    }

    /// Writes the report.
    fn render(&self, report: &Report, style: &Style, out: &mut dyn Write) -> Result<()>;
}

/// Every renderer.
pub static RENDERERS: &[&dyn Renderer] = &[
    &text::Text,
    &table::List,
    &json::Json,
    &json::JsonLines,
    &html::Html,
    &markdown::Markdown,
    &csv::Csv,
    &parquet::Parquet,
    &sarif::Sarif,
    &intoto::InToto,
];

/// The renderer of a name; `md` is short for `markdown`.
pub fn renderer(name: &str) -> Option<&'static dyn Renderer> {
    let name = if name == "md" { "markdown" } else { name };
    RENDERERS.iter().copied().find(|renderer| renderer.name() == name)
}

/// An error of writing the output.
pub(crate) fn writing(error: std::io::Error) -> Error {
    Error::io("writing the report", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renderers_have_distinct_lower_case_names() {
        let mut names: Vec<_> = RENDERERS.iter().map(|r| r.name()).collect();
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RENDERERS.len());
    }

    #[test]
    fn every_renderer_is_deterministic_and_survives_hostile_input() {
        for renderer in RENDERERS {
            let mut report = sample::everything();
            if renderer.name() == "in-toto" {
                // A statement needs a digest to name; the hostile sample has none, which is an error of its own.
                report.examinations.retain(|e| e.candidate.revision.as_deref().is_some_and(|r| r.len() == 40));
            }
            let render = || {
                let mut out = Vec::new();
                renderer
                    .render(&report, &Style::default(), &mut out)
                    .unwrap_or_else(|error| panic!("{}: {error}", renderer.name()));
                out
            };
            let bytes = render();
            assert_eq!(bytes, render(), "{}", renderer.name());
            let Ok(text) = std::str::from_utf8(&bytes) else { continue };
            let unsafe_character = text.chars().find(|c| *c != '\n' && sanitise::is_unsafe(*c));
            assert_eq!(unsafe_character, None, "{}", renderer.name());
        }
    }
}
