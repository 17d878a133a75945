//! `orthoscope findings list | show ID`: what the index holds that needs a look.

use std::io::Write;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::report::find;
use super::sweep::parse_date;
use super::{ExitStatus, Global, hubs};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{RELATIONS, Relation, STATUSES, Severity, Status, VERDICTS, Verdict};
use crate::index::{Cursor, ExaminationFilter, FindingFilter, FindingRow, Index, PageBounds};
use crate::report::table::{Elastic, laid};
use crate::report::words::{count, short_id};
use crate::report::{Report, json, sanitise};
use crate::signature::Catalogue;
use crate::sweep::work::last_runs;

/// List the findings of the index, or show one with its evidence
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope findings list --index nightly.db
  orthoscope findings list --severity high --since 2026-01-31 --format json
  orthoscope findings list --base hf:meta-llama/Llama-3.2-1B --verdict suspect
  orthoscope findings show 3f2a9c1b04de")]
pub struct FindingsArguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once, by the command line")]
enum What {
    /// List findings, those of the most severe examinations first
    #[command(after_help = "Examples:
  orthoscope findings list --severity high --limit 20
  orthoscope findings list --new --severity low
  orthoscope findings list --verdict orthogonalized --format json")]
    List(List),
    /// Show the examination that a finding is in, with its evidence
    #[command(after_help = "Examples:
  orthoscope findings show 3f2a9c1b04de
  orthoscope findings show hf:someone/model
  orthoscope findings show 3f2a9c1b04de --format markdown")]
    Show {
        /// The finding's id, or the examination's, or the beginning of one; or a candidate as it is spelled in the
        /// index
        #[arg(value_name = "WHAT")]
        what: String,
    },
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    filter: FilterArguments,
    /// Of examinations that the last sweep was the first to make
    #[arg(long, conflicts_with = "since")]
    new: bool,
    /// Findings to list at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "PLACE")]
    after: Option<Cursor>,
}

/// Which examinations.
#[derive(Args, Debug, Clone, Default)]
pub struct FilterArguments {
    /// With this verdict; may be repeated
    #[arg(long = "verdict", value_name = "VERDICT", value_parser = words(&VERDICTS, Verdict::as_str))]
    verdicts: Vec<Verdict>,
    /// With this relation to the base; may be repeated
    #[arg(long = "relation", value_name = "RELATION", value_parser = words(&RELATIONS, Relation::as_str))]
    relations: Vec<Relation>,
    /// With this status; may be repeated
    #[arg(long = "status", value_name = "STATUS", value_parser = words(&STATUSES, Status::as_str))]
    statuses: Vec<Status>,
    /// With findings of this severity and above
    #[arg(long, value_enum)]
    severity: Option<SeverityChoice>,
    /// With a finding of this signature
    #[arg(long, value_name = "ID")]
    signature: Option<String>,
    /// Of derivatives of this base (hf:org/name)
    #[arg(long, value_name = "REPO", value_parser = hubs::spelled)]
    base: Option<String>,
    /// Of this candidate (hf:org/name)
    #[arg(long, value_name = "REPO", value_parser = hubs::spelled)]
    candidate: Option<String>,
    /// Of candidates with this in their name
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Examined on this day or later (2026-01-31, or with a time)
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    since: Option<String>,
}

/// A severity on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SeverityChoice {
    /// Worth knowing
    Info,
    /// Worth a note
    Low,
    /// Worth a look
    Medium,
    /// Worth acting on
    High,
}

/// Words of the record, as JSON spells them: help and completions list them, and no other is taken.
fn words<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(move |value| name(*value)))
        .try_map(move |word| all.iter().copied().find(|value| name(*value) == word).ok_or("not one of these"))
}

impl FilterArguments {
    /// As the index is asked. A name that is nowhere in it can match nothing and is refused: an empty answer would be
    /// read as an all-clear.
    pub fn examinations(&self, index: &Index, catalogue: &Catalogue) -> Result<ExaminationFilter> {
        if let Some(signature) = &self.signature {
            let mut known = index.signatures_found()?;
            known.extend(catalogue.signatures().iter().map(|signature| signature.id().to_owned()));
            known.sort();
            known.dedup();
            refuse_unknown("signature", signature, &known)?;
        }
        if let Some(base) = &self.base {
            refuse_unknown("base of this index", base, &index.bases_compared()?)?;
        }
        if let Some(candidate) = &self.candidate
            && index.newest(candidate, None)?.is_none()
        {
            let alike: Vec<String> = index.search(candidate, 20)?.into_iter().map(|row| row.source).collect();
            refuse_unknown("candidate of this index", candidate, &alike)?;
        }
        let since = match self.since.as_deref() {
            Some(text) if text.len() == 10 => Some(format!("{text}T00:00:00Z")),
            other => other.map(str::to_owned),
        };
        let since = since.map(|text| text.parse::<Timestamp>()).transpose();
        Ok(ExaminationFilter {
            verdicts: self.verdicts.clone(),
            relations: self.relations.clone(),
            statuses: self.statuses.clone(),
            severity: self.severity.map(|severity| match severity {
                SeverityChoice::Info => Severity::Info,
                SeverityChoice::Low => Severity::Low,
                SeverityChoice::Medium => Severity::Medium,
                SeverityChoice::High => Severity::High,
            }),
            signature: self.signature.clone(),
            base: self.base.clone(),
            candidate: self.candidate.clone(),
            search: self.search.clone(),
            since: since.map_err(|error| Error::because(ErrorKind::Usage, "reading --since", error))?,
            ..ExaminationFilter::default()
        })
    }
}

/// Names of a refusal that are listed.
const NAMES_LISTED: usize = 60;

/// Refuses a name that is not among those there are, and lists them.
fn refuse_unknown(what: &str, name: &str, known: &[String]) -> Result<()> {
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let mut listed: Vec<String> = known.iter().take(NAMES_LISTED).map(|name| sanitise::name(name)).collect();
    if known.len() > NAMES_LISTED {
        listed.push(format!("and {} more", known.len() - NAMES_LISTED));
    }
    let there_are =
        if listed.is_empty() { "there are none".to_owned() } else { format!("there are {}", listed.join(", ")) };
    Err(Error::new(ErrorKind::Usage, format!("no {what} is called {:?}; {there_are}", sanitise::name(name))))
}

impl FindingsArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        match self.command {
            What::List(list) => list.run(global, &global.open_index()?, out),
            What::Show { what } => {
                let renderer = global.renderer(global.format(), false)?;
                let index = global.open_index()?;
                let stored = find(&index, &what)?;
                let report = Report::of_index(&index, vec![stored], &global.catalogue()?)?;
                renderer.render(&report, &global.style(), out)?;
                Ok(ExitStatus::Success)
            }
        }
    }
}

impl List {
    fn run(self, global: &Global, index: &Index, out: &mut dyn Write) -> Result<ExitStatus> {
        let mut examinations = self.filter.examinations(index, &global.catalogue()?)?;
        if self.new {
            let last = last_runs(index, 1)?;
            let run = last.first().ok_or_else(|| {
                Error::new(
                    ErrorKind::Usage,
                    "listing what is new: no sweep is recorded in this index; name a day with --since",
                )
            })?;
            examinations.swept_since = Some(run.started);
        }
        let filter = FindingFilter { examinations };
        let paged = index.findings(&filter, PageBounds { limit: self.limit, after: self.after })?;
        let failed = |error| Error::io("writing the findings", error);
        if global.format() == "json" {
            json::write_value(&paged.rows, &global.style(), out)?;
            return writeln!(out).map_err(failed).map(|()| ExitStatus::Success);
        }
        if paged.rows.is_empty() {
            // What findings themselves are asked for says nothing of which examinations were looked through.
            let through = ExaminationFilter { severity: None, signature: None, ..filter.examinations };
            let (all, not_examined) = index.count(&through)?;
            return writeln!(out, "{}", none_in(all, not_examined)).map_err(failed).map(|()| ExitStatus::Success);
        }
        for line in lines(&paged.rows, global.style().width) {
            writeln!(out, "{line}").map_err(failed)?;
        }
        if let Some(next) = paged.next {
            writeln!(out, "\nmore: --after {next}").map_err(failed)?;
        }
        Ok(ExitStatus::Success)
    }
}

/// No findings, and in how much: none in what nobody could read is no all-clear.
fn none_in(all: u64, not_examined: u64) -> String {
    let examined = count(all.saturating_sub(not_examined), "examination", "examinations");
    let not = match not_examined {
        0 => String::new(),
        some => format!(
            "; {some} more could not be made, which says nothing of those weights (`orthoscope export --status failed --format \
             table` lists them)"
        ),
    };
    format!("no findings in {examined}{not}")
}

fn lines(rows: &[FindingRow], width: usize) -> Vec<String> {
    let header =
        ["finding", "severity", "signature", "verdict", "candidate", "base", "examined", "examination", "decision"];
    let row = |row: &FindingRow| {
        let (finding, examination) = (&row.finding, &row.examination);
        vec![
            sanitise::name(&finding.id),
            finding.severity.as_str().to_owned(),
            sanitise::name(&finding.signature),
            examination.verdict.as_str().to_owned(),
            sanitise::name(&examination.candidate),
            sanitise::name(&examination.base),
            examination.last_seen.strftime("%Y-%m-%d").to_string(),
            short_id(&examination.id),
            examination.decision.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    laid(&header, &rows, width, &Elastic { columns: &[4, 5], right: &[] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_findings_are_told_with_how_much_was_looked_through() {
        assert_eq!(none_in(1, 0), "no findings in 1 examination");
        assert!(none_in(3, 2).starts_with("no findings in 1 examination; 2 more could not be made"));
        assert!(none_in(2, 2).starts_with("no findings in 0 examinations; 2 more"));
    }

    #[test]
    fn every_word_of_a_filter_is_one_of_its_list() {
        fn check<T: serde::Serialize + Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static>(
            all: &'static [T],
            name: fn(T) -> &'static str,
        ) {
            let (parser, command) = (words(all, name), clap::Command::new("x"));
            for value in all {
                assert_eq!(serde_json::json!(value), name(*value));
                let parsed = parser.parse_ref(&command, None, name(*value).as_ref());
                assert_eq!(parsed.expect("in the list"), *value);
            }
            assert!(parser.parse_ref(&command, None, "bogus".as_ref()).is_err());
            assert_eq!(parser.possible_values().expect("listed").count(), all.len());
        }
        check(&VERDICTS, Verdict::as_str);
        check(&STATUSES, Status::as_str);
        check(&RELATIONS, Relation::as_str);
    }
}
