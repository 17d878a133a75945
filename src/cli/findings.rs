//! `orthoscope findings`: lists what the index holds, and shows one finding or examination.

use std::io::Write;
use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use super::ExitStatus;
use super::plain::plain;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Relation, Severity, Verdict};
use crate::index::{ExaminationFilter, FindingFilter, FindingRow, Index, Page, PastJudgement, Stored};
use crate::signature::file::severity_word;

/// List and show findings of the index.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  orthoscope findings list --verdict orthogonalized --since 2026-01-01\n  \
                        orthoscope findings list --base hf:org/model --format json\n  orthoscope findings show 3f1c")]
pub struct FindingsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: FindingsCommand,
}

/// What `orthoscope findings` can do.
#[derive(Debug, Subcommand)]
pub enum FindingsCommand {
    /// One line for each finding, most severe examinations first.
    List(ListArgs),
    /// One finding or examination with everything that is known of it.
    Show {
        /// The first digits of the id of a finding or of an examination.
        id: String,
        /// Text or JSON.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

/// Which findings, and how many.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Of examinations with this verdict; may be given several times.
    #[arg(long, value_enum)]
    pub verdict: Vec<VerdictWord>,
    /// At least this severe.
    #[arg(long, value_enum, default_value_t = SeverityWord::Low)]
    pub severity: SeverityWord,
    /// Of this signature.
    #[arg(long, value_name = "ID")]
    pub signature: Option<String>,
    /// Of derivatives of this base.
    #[arg(long, value_name = "REPO")]
    pub base: Option<String>,
    /// Of candidates with this text in their name.
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Examined on or after this date (2026-01-31) or time (2026-01-31T12:00:00Z).
    #[arg(long, value_name = "DATE", value_parser = moment)]
    pub since: Option<Timestamp>,
    /// At most this many.
    #[arg(long, default_value_t = 100)]
    pub limit: u32,
    /// Go on after the place that an earlier list ended with.
    #[arg(long, value_name = "PLACE")]
    pub after: Option<String>,
    /// Text or JSON.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    Text,
    /// For a program.
    Json,
}

/// A verdict on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerdictWord {
    /// Consistent with weight orthogonalization.
    Orthogonalized,
    /// Some of the signs.
    Suspect,
    /// None of the signs.
    Clear,
    /// Could not be told.
    Inconclusive,
}

impl From<VerdictWord> for Verdict {
    fn from(word: VerdictWord) -> Self {
        match word {
            VerdictWord::Orthogonalized => Self::Orthogonalized,
            VerdictWord::Suspect => Self::Suspect,
            VerdictWord::Clear => Self::Clear,
            VerdictWord::Inconclusive => Self::Inconclusive,
        }
    }
}

/// A severity on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SeverityWord {
    /// Look-alikes and packaging too.
    Info,
    /// Worth a note.
    Low,
    /// Worth a look.
    Medium,
    /// Worth acting on.
    High,
}

impl From<SeverityWord> for Severity {
    fn from(word: SeverityWord) -> Self {
        match word {
            SeverityWord::Info => Self::Info,
            SeverityWord::Low => Self::Low,
            SeverityWord::Medium => Self::Medium,
            SeverityWord::High => Self::High,
        }
    }
}

/// A date, or a time with its zone.
fn moment(text: &str) -> std::result::Result<Timestamp, String> {
    text.parse::<Timestamp>()
        .or_else(|_| format!("{text}T00:00:00Z").parse())
        .map_err(|error| format!("{error}; give a date like 2026-01-31, or a time like 2026-01-31T12:00:00Z"))
}

/// Runs `orthoscope findings` on the index at `index`, printing to `out`.
pub fn run(args: &FindingsArgs, index: &Path, out: &mut dyn Write) -> Result<ExitStatus> {
    let index = Index::open_read_only(index)?;
    let text = match &args.command {
        FindingsCommand::List(args) => list(args, &index)?,
        FindingsCommand::Show { id, format } => show(id, *format, &index)?,
    };
    out.write_all(text.as_bytes()).map_err(|error| Error::io("writing the answer", error))?;
    Ok(ExitStatus::Success)
}

fn list(args: &ListArgs, index: &Index) -> Result<String> {
    let filter = FindingFilter {
        examinations: ExaminationFilter {
            verdicts: args.verdict.iter().map(|word| Verdict::from(*word)).collect(),
            severity: Some(args.severity.into()),
            signature: args.signature.clone(),
            base: args.base.clone(),
            search: args.search.clone(),
            since: args.since,
            ..ExaminationFilter::default()
        },
    };
    let after = args.after.as_deref().map(str::parse).transpose()?;
    let paged = index.findings(&filter, Page { limit: args.limit, after })?;
    let next = paged.next.map(|cursor| cursor.to_string());
    if args.format == Format::Json {
        return to_json(&json!({ "findings": paged.rows, "next": next }));
    }
    let mut text: String = paged.rows.iter().map(line).collect();
    match (paged.rows.len(), next) {
        (0, _) => text.push_str("no findings\n"),
        (_, Some(next)) => text.push_str(&format!("… more: add --after {next}\n")),
        (_, None) => {}
    }
    Ok(text)
}

fn line(row: &FindingRow) -> String {
    let examination = &row.examination;
    let revision = examination.revision.as_deref().map(|revision| format!("@{}", short(revision))).unwrap_or_default();
    format!(
        "{}  {:6}  {:14}  {}  {}{}  of {}  {}\n",
        plain(&row.finding.id),
        severity_word(row.finding.severity),
        verdict_word(examination.verdict),
        plain(&row.finding.signature),
        plain(&examination.candidate),
        plain(&revision),
        plain(&examination.base),
        day(examination.last_seen)
    )
}

/// The beginning of a commit.
fn short(revision: &str) -> String {
    revision.chars().take(12).collect()
}

/// The date, in UTC.
fn day(time: Timestamp) -> String {
    time.to_string().chars().take_while(|c| *c != 'T').collect()
}

const fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Orthogonalized => "orthogonalized",
        Verdict::Suspect => "suspect",
        Verdict::Clear => "clear",
        Verdict::Inconclusive => "inconclusive",
    }
}

fn relation_word(relation: Relation) -> String {
    serde_json::to_value(relation).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn show(id: &str, format: Format, index: &Index) -> Result<String> {
    let findings = index.finding(id)?;
    let examination = match findings.first() {
        Some(row) if findings.iter().any(|other| other.examination.id != row.examination.id) => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("looking for finding {id:?}: several begin like this; give more of the id"),
            ));
        }
        Some(row) => row.examination.id.hex(),
        None => id.to_owned(),
    };
    let Some(stored) = index.get(&examination)? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("looking for {id:?}: no finding or examination begins like this; see `orthoscope findings list`"),
        ));
    };
    let past = index.past_judgements(&examination)?;
    if format == Format::Json {
        return to_json(&json!({
            "id": stored.id,
            "first_seen": stored.first_seen.to_string(),
            "last_seen": stored.last_seen.to_string(),
            "judged_at": stored.judged_at.to_string(),
            "runs": stored.runs,
            "examination": stored.examination,
            "past_judgements": past,
        }));
    }
    Ok(in_words(&stored, &past))
}

fn in_words(stored: &Stored, past: &[PastJudgement]) -> String {
    let examination: &Examination = &stored.examination;
    let side = |side: &crate::examination::Side| {
        let revision = side.revision.as_deref().map(|revision| format!("@{revision}")).unwrap_or_default();
        let digest = side.digest.as_deref().map(|digest| format!(" ({digest})")).unwrap_or_default();
        plain(&format!("{}{revision}{digest}", side.source)).into_owned()
    };
    let mut text = format!(
        "{} · {}\n{}\n\nCandidate    {}\nBase         {}\nExamination  {}, orthoscope {}, last made {} ({} times)\nCatalogue    {}\n",
        verdict_word(examination.verdict),
        relation_word(examination.relation),
        plain(&examination.because),
        side(&examination.candidate),
        side(&examination.base),
        stored.id,
        plain(&examination.tool.version),
        stored.last_seen,
        stored.runs,
        plain(&examination.tool.catalogue)
    );
    let coverage = &examination.coverage;
    text.push_str(&format!(
        "Coverage     {} of {} tensors compared, {} identical, {} not examined\n",
        coverage.compared,
        coverage.tensors,
        coverage.identical,
        coverage.not_examined.len()
    ));
    if let Some(reason) = &examination.reason {
        text.push_str(&format!("Not all done {}\n", plain(reason)));
    }
    for finding in &examination.findings {
        text.push_str(&format!(
            "\n{}  {}  {} ({})\n",
            plain(&finding.id),
            severity_word(finding.severity),
            plain(&finding.signature),
            plain(&finding.status)
        ));
        for (name, clause) in finding.evidence.as_object().into_iter().flatten() {
            text.push_str(&format!("    {}: {}\n", plain(name), plain(&clause.to_string())));
        }
    }
    for anomaly in &examination.anomalies {
        text.push_str(&format!(
            "\nOddity {} in {}: {}\n",
            plain(&anomaly.kind),
            plain(&anomaly.file),
            plain(&anomaly.detail)
        ));
    }
    for judgement in past {
        text.push_str(&format!(
            "\nUntil {} it was judged {} · {} by catalogue {}\n",
            judgement.superseded_at,
            verdict_word(judgement.verdict),
            relation_word(judgement.relation),
            plain(&judgement.catalogue)
        ));
    }
    text
}

fn to_json(value: &serde_json::Value) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Error::because(ErrorKind::Internal, "writing findings as JSON", error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::index::samples::{at, examination};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: FindingsArgs,
    }

    fn answer(index: &Path, words: &[&str]) -> Result<String> {
        let cli = Cli::try_parse_from(std::iter::once("findings").chain(words.iter().copied())).unwrap();
        let mut out = Vec::new();
        run(&cli.args, index, &mut out).map(|_| String::from_utf8(out).unwrap())
    }

    #[test]
    fn findings_are_listed_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        assert_eq!(answer(&path, &["list"]).unwrap_err().kind, ErrorKind::NotFound);
        let mut index = Index::open(&path).unwrap();
        for seed in 0..30 {
            index.record(&examination(seed), at(0)).unwrap();
        }
        let all: Vec<_> = (0..30).flat_map(|seed| examination(seed).findings).collect();
        let text = answer(&path, &["list", "--severity", "info", "--limit", "1000"]).unwrap();
        assert_eq!(text.lines().count(), all.len(), "every finding is one line, whatever its names hold");
        assert!(!text.contains('\u{202e}') && !text.contains('\0'));
        let high = answer(&path, &["list", "--severity", "high", "--format", "json", "--limit", "3"]).unwrap();
        let high: serde_json::Value = serde_json::from_str(&high).unwrap();
        assert_eq!(high["findings"].as_array().unwrap().len(), 3);
        let next = high["next"].as_str().unwrap();
        let more = answer(&path, &["list", "--severity", "high", "--after", next]).unwrap();
        let wanted = all.iter().filter(|finding| finding.severity == Severity::High).count();
        assert_eq!(more.lines().count(), wanted - 3);
        assert_eq!(answer(&path, &["list", "--since", "2199-01-01"]).unwrap(), "no findings\n");
        let shown = answer(&path, &["show", &all[0].id]).unwrap();
        assert!(shown.contains(&all[0].id) && shown.contains("Coverage"), "{shown}");
        let json = answer(&path, &["show", &examination(4).id().hex(), "--format", "json"]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["id"], examination(4).id().to_string());
        assert_eq!(answer(&path, &["show", "0000000000"]).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn dates_and_times_are_understood() {
        assert_eq!(moment("2026-01-31").unwrap().to_string(), "2026-01-31T00:00:00Z");
        assert_eq!(moment("2026-01-31T12:00:00+01:00").unwrap().to_string(), "2026-01-31T11:00:00Z");
        assert!(moment("yesterday").is_err());
    }
}
