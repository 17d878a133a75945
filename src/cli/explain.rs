//! `orthoscope explain FINDING`: each number of a finding, its threshold, where that comes from, and what else it could
//! be.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;

use super::report::find;
use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Finding};
use crate::report::{evidence, html::meaning, paragraphs, sanitise, words};
use crate::signature::Signature;

/// Explain a finding: each number, what it is, its threshold, and where the threshold comes from
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope explain 0a1b2c3d4e5f
  orthoscope explain 0a1b --index nightly.db
  orthoscope explain hf:someone/model

Uses the signature's text as it was when the finding was made, which the index keeps.")]
pub struct ExplainArguments {
    /// A finding's id (or enough of its first digits), or an examination or candidate, whose gravest finding it is then
    #[arg(value_name = "FINDING")]
    what: String,
}

impl ExplainArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let index = global.open_index()?;
        let stored = find(&index, &self.what)?;
        let findings = &stored.examination.findings;
        let named = findings.iter().find(|finding| finding.id.starts_with(&self.what));
        let finding = named.or_else(|| findings.iter().rev().max_by_key(|finding| finding.severity)).ok_or_else(|| {
            let verdict = stored.examination.verdict.as_str();
            let what = sanitise::name(&self.what);
            Error::new(
                ErrorKind::NotFound,
                format!("explaining {what:?}: no signature holds in it ({verdict}); `orthoscope report {what}` tells of it"),
            )
        })?;
        let then = index.signature_text(&finding.signature_hash)?;
        let now = global.catalogue()?.get(&finding.signature).map(|signature| signature.text.clone());
        let changed = then.is_some() && now.is_some() && then != now;
        let signature = then.or(now).and_then(|text| Signature::parse(&finding.signature, &text).ok());
        let text = told(&stored.examination, finding, signature.as_ref(), changed, global.style().width);
        out.write_all(text.as_bytes()).map_err(|error| Error::io("writing the answer", error))?;
        Ok(ExitStatus::Success)
    }
}

fn told(
    examination: &Examination,
    finding: &Finding,
    signature: Option<&Signature>,
    changed: bool,
    width: usize,
) -> String {
    let mut out = String::new();
    let mut paragraph = |indent: &str, text: &str| {
        for line in sanitise::wrap(text, words::prose_width(width) - indent.len()) {
            let _ = writeln!(out, "{indent}{line}");
        }
    };
    let title = signature.map_or_else(|| sanitise::name(&finding.signature), |s| sanitise::sentence(&s.front.title));
    paragraph("", &format!("Finding {} in {}", sanitise::name(&finding.id), words::side(&examination.candidate)));
    paragraph(
        "",
        &format!("{title} (signature {}, {})", sanitise::name(&finding.signature), sanitise::name(&finding.status)),
    );
    paragraph("", &format!("Examination {}", examination.id().hex()));
    if finding.status == "preview" {
        paragraph("", words::PREVIEW);
    }
    if changed {
        paragraph(
            "",
            "The catalogue's signature has changed since; this is the text that judged. `orthoscope rejudge` judges again.",
        );
    }
    paragraph("", "");
    for clause in evidence::clauses(finding) {
        paragraph("", &clause.told());
        let what = meaning(&clause.measurement);
        if !what.is_empty() {
            paragraph("    ", &format!("What it is: {what}."));
        }
        if let Some(signature) = signature {
            if let Some(why) = reason_of(&signature.text, &clause.measurement) {
                paragraph("    ", &format!("Why this threshold: {}", sanitise::clean(&why, 2000)));
            }
            for (note, value) in counter_examples(signature, &clause.measurement) {
                paragraph(
                    "    ",
                    &format!(
                        "Would not hold: {} ({} = {})",
                        sanitise::sentence(note),
                        clause.measurement,
                        words::number(value)
                    ),
                );
            }
        }
        paragraph("", "");
    }
    let imports = words::listed(finding);
    if !imports.is_empty() {
        paragraph("", "Loading the files with a loader that unpickles would run:");
        imports.iter().for_each(|import| paragraph("    ", import));
        paragraph("", "");
    }
    let told = words::tell(examination);
    for line in told.sure.iter().chain(&told.limits) {
        paragraph("", line);
    }
    if let Some(signature) = signature {
        for (heading, prose) in crate::signature::file::HEADINGS.iter().zip(&signature.prose) {
            paragraph("", "");
            paragraph("", heading);
            for text in paragraphs(prose) {
                paragraph("    ", &text);
            }
        }
        if !signature.front.references.is_empty() {
            paragraph("", "");
            paragraph("", &format!("References: {}", sanitise::sentence(&signature.front.references.join(", "))));
        }
    }
    out
}

/// The comment above a clause in the signature's `[when]` table: where its number comes from.
fn reason_of(text: &str, measurement: &str) -> Option<String> {
    let table = text.split("\n[when]\n").nth(1)?.split("\n[").next()?;
    let mut comment: Vec<&str> = Vec::new();
    for line in table.lines() {
        if let Some(words) = line.strip_prefix('#') {
            comment.push(words.trim());
        } else if line.trim_start().starts_with(&format!("\"{measurement}\"")) {
            return (!comment.is_empty()).then(|| comment.join(" "));
        } else {
            comment.clear();
        }
    }
    None
}

/// The counter examples that differ from the first example in this measurement alone.
fn counter_examples<'a>(signature: &'a Signature, measurement: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    signature.front.counter_example.iter().filter_map(move |counter| {
        let instead = counter.instead.as_ref().filter(|instead| instead.len() == 1)?;
        Some((counter.note.as_str(), *instead.get(measurement)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use crate::signature::Catalogue;

    #[test]
    fn a_finding_is_explained_number_by_number() {
        let catalogue = Catalogue::builtin().expect("parses");
        let examination = sample::orthogonalized();
        let text = told(&examination, &examination.findings[0], catalogue.get("out-rank1-global"), false, 100);
        for needed in [
            "Why this threshold: Honest training reaches",
            "Would not hold:",
            "What it is: layers with such a writer",
            "What to do",
        ] {
            assert!(text.contains(needed), "{needed}\n{text}");
        }
    }

    #[test]
    fn imports_are_listed() {
        let text = told(&sample::several(), &sample::code_finding(), None, false, 100);
        assert!(text.contains("    posix.system in pytorch_model.bin"), "{text}");
    }

    #[test]
    fn hostile_findings_are_harmless() {
        let examination = sample::hostile();
        let text = told(&examination, &examination.findings[0], None, true, 1);
        assert!(!text.chars().any(|c| c != '\n' && sanitise::is_unsafe(c)));
    }
}
