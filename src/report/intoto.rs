//! An in-toto Statement (attestation framework, Statement v1) of each examination: unsigned, ready for a signer.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Side};
use crate::report::json::{Record, write_value};
use crate::report::{Renderer, Report, Style, sanitise, writing};

/// The type of the predicate: the examination's record.
pub const PREDICATE_TYPE: &str = "urn:orthoscope:examination:1";

/// Why there is no statement of an examination.
const NO_DIGEST: &str = "no file digest and no commit is known; examine it again with --digests";

/// The renderer: one statement a line.
pub struct InToto;

impl Renderer for InToto {
    fn name(&self) -> &'static str {
        "in-toto"
    }

    fn purpose(&self) -> &'static str {
        "an unsigned in-toto statement, for a signer"
    }

    fn extension(&self) -> &'static str {
        "intoto.jsonl"
    }

    fn media_type(&self) -> &'static str {
        "application/vnd.in-toto+json"
    }

    fn needs_digests(&self) -> bool {
        true
    }

    fn refuses(&self, examination: &Examination) -> Option<&'static str> {
        subjects(&examination.candidate).is_empty().then_some(NO_DIGEST)
    }

    fn render(&self, report: &Report, style: &Style, out: &mut dyn Write) -> Result<()> {
        let style = Style { lines: true, ..*style };
        for (place, examination) in report.examinations.iter().enumerate() {
            write_value(&statement(examination, place, report, &style)?, &style, out)?;
            out.write_all(b"\n").map_err(writing)?;
        }
        Ok(())
    }
}

/// The statement of the examination at this place of a report.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when neither a file digest nor a commit of the candidate is known: a statement must name
/// what it is about by digest.
pub fn statement(examination: &Examination, place: usize, report: &Report, style: &Style) -> Result<Value> {
    let subject = subjects(&examination.candidate);
    if subject.is_empty() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("writing an in-toto statement of {}: {NO_DIGEST}", sanitise::name(&examination.candidate.source)),
        ));
    }
    let predicate = serde_json::to_value(Record::of(examination, place, report, style))
        .map_err(|e| Error::because(ErrorKind::Internal, "writing an examination as JSON", e))?;
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }))
}

/// Files by SHA-256, and the repository by its commit.
fn subjects(side: &Side) -> Vec<Value> {
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let entry = |name: String, algorithm: &str, digest: &str| json!({ "name": name, "digest": Map::from_iter([(algorithm.to_owned(), json!(digest.to_ascii_lowercase()))]) });
    let mut all: Vec<Value> = side
        .files
        .iter()
        .filter_map(|file| {
            let digest = file.sha256.as_deref()?;
            let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
            hex(digest, 64).then(|| entry(format!("{}/{}", side.source, file.name), "sha256", digest))
        })
        .collect();
    if let Some(revision) = side.revision.as_deref().filter(|r| hex(r, 40)) {
        all.push(entry(side.source.clone(), "gitCommit", revision));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn subjects_are_files_and_the_commit() {
        let statement =
            statement(&sample::orthogonalized(), 0, &Report::default(), &Style::default()).expect("has digests");
        assert_eq!(statement["subject"][0]["name"], "hf:example/tiny-edited/model.safetensors");
        assert_eq!(statement["subject"][0]["digest"]["sha256"].as_str().map(str::len), Some(64));
        assert_eq!(statement["subject"][1]["digest"]["gitCommit"].as_str().map(str::len), Some(40));
        assert_eq!(statement["predicate"]["verdict"], "orthogonalized");
        assert!(statement["predicate"].get("profile").is_none());
    }

    #[test]
    fn nothing_to_name_is_an_error() {
        let error = statement(&sample::hostile(), 0, &Report::default(), &Style::default()).expect_err("no digest");
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(InToto.refuses(&sample::hostile()).is_some() && InToto.refuses(&sample::orthogonalized()).is_none());
    }
}
