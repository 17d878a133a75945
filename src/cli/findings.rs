//! `orthoscope findings list | show ID`: what the index holds that needs a look.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;

use super::report::of_stored;
use super::sweep::parse_date;
use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Relation, Severity, Status, Verdict};
use crate::index::{Cursor, ExaminationFilter, FindingFilter, FindingRow, Index, Page};
use crate::report::{self, json, sanitise};
use crate::sweep::examine::word as word_of;

/// List the findings of the index, or show one with its evidence
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope findings list --index nightly.db
  orthoscope findings list --severity high --since 2026-01-31 --format json
  orthoscope findings list --base hf:meta-llama/Llama-3.2-1B --verdict suspect
  orthoscope findings show 3f2a9c1b04de")]
pub struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once, by the command line")]
enum What {
    /// List findings, those of the most severe examinations first
    #[command(after_help = "Examples:
  orthoscope findings list --severity high --limit 20
  orthoscope findings list --verdict orthogonalized --format json")]
    List(List),
    /// Show the examination that a finding is in, with its evidence
    #[command(after_help = "Examples:
  orthoscope findings show 3f2a9c1b04de
  orthoscope findings show 3f2a9c1b04de --format markdown")]
    Show {
        /// The finding's id, or the examination's, or the beginning of one
        id: String,
    },
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    filter: Filter,
    /// Findings to list at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "PLACE")]
    after: Option<Cursor>,
}

/// Which examinations.
#[derive(Args, Debug, Clone, Default)]
pub struct Filter {
    /// With this verdict (orthogonalized, suspect, clear, inconclusive); may be repeated
    #[arg(long = "verdict", value_name = "VERDICT", value_parser = word::<Verdict>)]
    verdicts: Vec<Verdict>,
    /// With this relation to the base (fine-tuned, low-rank-edit, …); may be repeated
    #[arg(long = "relation", value_name = "RELATION", value_parser = word::<Relation>)]
    relations: Vec<Relation>,
    /// With this status (complete, partial, failed); may be repeated
    #[arg(long = "status", value_name = "STATUS", value_parser = word::<Status>)]
    statuses: Vec<Status>,
    /// With findings of this severity and above
    #[arg(long, value_enum)]
    severity: Option<SeverityChoice>,
    /// With a finding of this signature
    #[arg(long, value_name = "ID")]
    signature: Option<String>,
    /// Of derivatives of this base (hf:org/name)
    #[arg(long, value_name = "REPO")]
    base: Option<String>,
    /// Of this candidate (hf:org/name)
    #[arg(long, value_name = "REPO")]
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

/// A word of the record, as it is spelled in JSON.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| error.to_string())
}

impl Filter {
    /// As the index is asked.
    pub fn examinations(&self) -> Result<ExaminationFilter> {
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

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let index = global.open_index()?;
        match self.command {
            What::List(list) => list.run(global, &index, out),
            What::Show { id } => show(&id, global, &index, out),
        }
    }
}

impl List {
    fn run(self, global: &Global, index: &Index, out: &mut dyn Write) -> Result<ExitStatus> {
        let filter = FindingFilter { examinations: self.filter.examinations()? };
        let paged = index.findings(&filter, Page { limit: self.limit, after: self.after })?;
        let failed = |error| Error::io("writing the findings", error);
        match global.format.as_str() {
            "json" => {
                json::write_value(&paged.rows, &global.style(), out)?;
                return writeln!(out).map_err(failed).map(|()| ExitStatus::Success);
            }
            "text" | "table" => {}
            other => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("listing findings as {other:?}: text and json; `orthoscope export` knows more formats"),
                ));
            }
        }
        if paged.rows.is_empty() {
            return writeln!(out, "no findings").map_err(failed).map(|()| ExitStatus::Success);
        }
        writeln!(out, "{}", table(&paged.rows)).map_err(failed)?;
        if let Some(next) = paged.next {
            writeln!(out, "\nmore: --after {next}").map_err(failed)?;
        }
        Ok(ExitStatus::Success)
    }
}

fn table(rows: &[FindingRow]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header([
        "finding",
        "severity",
        "signature",
        "verdict",
        "candidate",
        "base",
        "examined",
        "decision",
    ]);
    for row in rows {
        let (finding, examination) = (&row.finding, &row.examination);
        table.add_row([
            sanitise::name(&finding.id),
            word_of(&finding.severity),
            sanitise::name(&finding.signature),
            word_of(&examination.verdict),
            sanitise::name(&examination.candidate),
            sanitise::name(&examination.base),
            examination.last_seen.strftime("%Y-%m-%d").to_string(),
            examination.decision.clone(),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn show(id: &str, global: &Global, index: &Index, out: &mut dyn Write) -> Result<ExitStatus> {
    let renderer = report::renderer(&global.format)
        .ok_or_else(|| Error::new(ErrorKind::Usage, format!("no output format is called {:?}", global.format)))?;
    let found = index.finding(id)?;
    let stored = match found.as_slice() {
        [] => index.get(id)?,
        [first, rest @ ..] => {
            if rest.iter().any(|row| row.finding.id != first.finding.id) {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("looking for finding {id:?}: several begin like this; give more of the id"),
                ));
            }
            index.get(&first.examination.id.hex())?
        }
    };
    let stored = stored.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!(
                "looking for {id:?}: no finding and no examination begins like this; \
            `orthoscope findings list` shows those there are"
            ),
        )
    })?;
    let report = of_stored(index, stored, global)?;
    renderer.render(&report, &global.style(), out)?;
    Ok(ExitStatus::Success)
}
