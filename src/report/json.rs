//! The examinations as JSON, exactly the record of [`examination`](crate::examination): indented, or one line each.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Verdict};
use crate::index::decision::Decision;
use crate::judge::verdict::{CONTROLS, CONTROLS_CALLED, CONTROLS_WERE};
use crate::report::{ListingFacts, Renderer, Report, Style, sanitise, words, writing};

/// One examination as one document; several as an array. One line (or several lines, see [`Style::lines`]).
pub struct Json;

/// One examination a line.
pub struct JsonLines;

impl Renderer for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn purpose(&self) -> &'static str {
        "the stable record, for programs"
    }

    fn extension(&self) -> &'static str {
        "json"
    }

    fn media_type(&self) -> &'static str {
        "application/json"
    }

    fn render(&self, report: &Report, style: &Style, out: &mut dyn Write) -> Result<()> {
        let shown: Vec<Record<'_>> = records(report, style).collect();
        match shown.as_slice() {
            [one] => write_value(one, style, out)?,
            several => write_value(several, style, out)?,
        }
        out.write_all(b"\n").map_err(writing)
    }
}

impl Renderer for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn purpose(&self) -> &'static str {
        "the stable record, one examination a line"
    }

    fn extension(&self) -> &'static str {
        "jsonl"
    }

    fn media_type(&self) -> &'static str {
        "application/jsonl"
    }

    fn render(&self, report: &Report, style: &Style, out: &mut dyn Write) -> Result<()> {
        let style = Style { lines: true, ..*style };
        for record in records(report, &style) {
            write_value(&record, &style, out)?;
            out.write_all(b"\n").map_err(writing)?;
        }
        Ok(())
    }
}

/// An examination with what is known beside its record: the object of `docs/examination.md`.
#[derive(Serialize)]
pub struct Record<'a> {
    id: String,
    examined_at: Option<String>,
    /// The commit that the writing program was built from.
    commit: Option<&'static str>,
    /// The candidate's page on its hub.
    page: Option<String>,
    uploader: Option<String>,
    listing: Option<ListingFacts>,
    /// What the controls let expect, where something was called.
    false_positives: Option<FalsePositives>,
    #[serde(flatten)]
    examination: Examination,
    /// What people decided on it, oldest first.
    #[serde(skip_serializing_if = "<[Decision]>::is_empty")]
    decisions: &'a [Decision],
}

/// The calibration behind a verdict of `orthogonalized` or `suspect`.
#[derive(Serialize)]
struct FalsePositives {
    controls: u32,
    called: u32,
    limit: f64,
    controls_were: &'static str,
}

impl<'a> Record<'a> {
    /// The record of the examination at this place of a report.
    pub fn of(examination: &Examination, place: usize, report: &'a Report, style: &Style) -> Self {
        let (id, facts) = report.identified(examination);
        let called = matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect);
        let limit = examination.orthogonalization.as_ref().filter(|_| called).and_then(words::false_positive_limit);
        Self {
            id: id.hex(),
            examined_at: facts.examined_at,
            commit: report.commit,
            page: words::page(&examination.candidate),
            uploader: words::uploader(&examination.candidate).map(str::to_owned),
            listing: facts.listing,
            false_positives: limit.map(|limit| FalsePositives {
                controls: CONTROLS,
                called: CONTROLS_CALLED,
                limit,
                controls_were: CONTROLS_WERE,
            }),
            examination: trimmed(examination, style),
            decisions: report.decided(place),
        }
    }
}

fn records<'a>(report: &'a Report, style: &'a Style) -> impl Iterator<Item = Record<'a>> {
    report.examinations.iter().enumerate().map(move |(place, one)| Record::of(one, place, report, style))
}

/// An examination as it is shown: with measurements only where they are asked for.
pub(super) fn trimmed(examination: &Examination, style: &Style) -> Examination {
    if style.profile {
        examination.clone()
    } else {
        // Not cloned with the profile first: one of a large model is megabytes.
        let Examination { schema, tool, base, candidate, status, reason, depth, coverage, .. } = examination;
        Examination {
            schema: schema.clone(),
            tool: tool.clone(),
            base: base.clone(),
            candidate: candidate.clone(),
            status: *status,
            reason: reason.clone(),
            depth: *depth,
            coverage: coverage.clone(),
            relation: examination.relation,
            rank: examination.rank,
            verdict: examination.verdict,
            because: examination.because.clone(),
            orthogonalization: examination.orthogonalization.clone(),
            findings: examination.findings.clone(),
            anomalies: examination.anomalies.clone(),
            claim: examination.claim.clone(),
            surroundings: examination.surroundings.clone(),
            profile: None,
            variants: examination.variants.iter().map(|variant| trimmed(variant, style)).collect(),
        }
    }
}

/// Writes any value as JSON whose text is harmless in a terminal: what [`sanitise::is_unsafe`] names is written as
/// `\uXXXX`, which every reader turns back into the same string.
pub fn write_value<T: Serialize + ?Sized>(value: &T, style: &Style, out: &mut dyn Write) -> Result<()> {
    let result = if style.lines {
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, Visible(CompactFormatter)))
    } else {
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, Visible(PrettyFormatter::new())))
    };
    result.map_err(|error| match error.io_error_kind() {
        Some(kind) => Error::io("writing the report", io::Error::from(kind)),
        None => Error::because(ErrorKind::Internal, "writing the report as JSON", error),
    })
}

/// A formatter that escapes what must not reach a terminal and leaves layout to another.
struct Visible<F>(F);

impl<F: Formatter> Formatter for Visible<F> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(sanitise::is_unsafe) {
            let (before, after) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = after.chars();
            if let Some(character) = characters.next() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn rendered(renderer: &dyn Renderer, report: &Report, style: &Style) -> String {
        let mut out = Vec::new();
        renderer.render(report, style, &mut out).expect("renders");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn the_record_comes_back_as_it_went_in() {
        for examination in sample::everything().examinations {
            let style = Style { profile: true, ..Style::default() };
            let text = rendered(&Json, &Report::of(examination.clone()), &style);
            let back: Examination = serde_json::from_str(&text).expect("reads back");
            assert_eq!(back, examination);
            let without = rendered(&Json, &Report::of(examination.clone()), &Style::default());
            let back: Examination = serde_json::from_str(&without).expect("reads back");
            assert_eq!(back, Examination { profile: None, ..examination });
        }
    }

    #[test]
    fn a_line_each_and_nothing_that_moves_a_cursor() {
        let text = rendered(&JsonLines, &sample::everything(), &Style::default());
        assert_eq!(text.lines().count(), sample::everything().examinations.len());
        assert!(text.contains("\\u202e"));
        assert!(!text.contains('\u{202e}'));
        assert!(!text.contains('\u{9b}'));
    }

    #[test]
    fn shape() {
        insta::assert_snapshot!(rendered(&Json, &Report::of(sample::orthogonalized_short()), &Style::default()));
    }
}
