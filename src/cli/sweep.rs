//! `orthoscope sweep`: the derivatives of bases, or whatever else is listed, examined once each and again when changed.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};

use super::compare::left;
use super::hubs::{self, Reading, parse_bytes, parse_duration};
use super::{ExitStatus, FailOn, Global, log};
use crate::diff::Unobserved;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Status, Verdict};
use crate::examine::repository::RepositoryOutcome;
use crate::hub::HUBS;
use crate::ids::RepoId;
use crate::index::Index;
use crate::index::triage::News;
use crate::report::rates::{ExpectedFalsePositives, expected_false_positives};
use crate::report::{json, sanitise, words};
use crate::sweep;
use crate::sweep::plan::{Plan, PlannedCounts};
use crate::sweep::preview::{Preview, preview};
use crate::sweep::work::{SweepObserver, SweepSettings, SweepSummary, last_runs};

/// List the derivatives of bases on a hub and examine those that are new or changed; can be stopped and goes on
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope sweep --base hf:meta-llama/Llama-3.2-1B --index nightly.db
  orthoscope sweep --bases bases.txt --since 2026-01-01 --max-night-bytes 50GB --concurrency 8
  orthoscope sweep --author hf:someone --tag hf:abliterated --escalate never
  orthoscope sweep --base hf:org/name --watch 10m
  orthoscope sweep --bases bases.txt --index nightly.db --dry-run

A repository is examined once for each of its commits. The queue is in the index: stop a sweep with Ctrl-C, or kill it, and \
the next one goes on where it was. Nothing new means one listing for each base and not a byte of weights. What cannot be \
examined is recorded with its reason. With --dry-run the hub is asked for the same listings, and what a sweep would then \
examine is printed; listings do not tell how many bytes a repository has. docs/operations.md tells how to run one every night.")]
pub struct SweepArguments {
    /// Examine the derivatives of this base (hf:org/name); may be repeated
    #[arg(long = "base", value_name = "REPO", value_parser = hubs::spelled)]
    bases: Vec<String>,
    /// A file with bases, one a line; # starts a comment
    #[arg(long = "bases", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Examine the repositories of this owner (hf:owner)
    #[arg(long = "author", value_name = "OWNER", value_parser = hubs::owner)]
    authors: Vec<String>,
    /// Examine the repositories with this tag (hf:tag)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Examine the repositories with this in their name (hf:text)
    #[arg(long = "search", value_name = "TEXT")]
    searches: Vec<String>,
    /// Look for derivatives of the bases on this hub as well (ms)
    #[arg(long, value_name = "HUB", value_parser = PossibleValuesParser::new(HUBS.iter().map(|hub| hub.prefix)))]
    also_on: Vec<String>,
    /// Only repositories made on this day or later (2026-01-31, or with a time)
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    since: Option<String>,
    /// Examine this many repositories at most, and leave the rest for the next run
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    reading: Reading,
    /// Bytes to receive in this run at most, bases and all
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_night_bytes: Option<u64>,
    /// Repositories examined at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// List what would be examined, and neither examine nor record anything
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Keep on, and look for new uploads this often
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "5m", value_parser = parse_duration)]
    watch: Option<Duration>,
    /// Exit with status 1 on findings of this severity and above
    #[arg(long, value_enum, default_value_t = FailOn::High)]
    fail_on: FailOn,
}

impl SweepArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let usage = |said: &str| Error::new(ErrorKind::Usage, said.to_owned());
        let plan = self.plan()?;
        if plan.bases.is_empty() && plan.authors.is_empty() && plan.tags.is_empty() && plan.searches.is_empty() {
            return Err(usage("sweeping: name what to list with --base, --bases, --author, --tag or --search"));
        }
        let catalogue = Arc::new(global.catalogue()?);
        let settings = self.reading.settings();
        let examiner = hubs::examiner(global, &catalogue, settings, self.max_night_bytes, Arc::new(Unobserved))?;
        hubs::stop_on_signal(&examiner.client)?;
        if self.dry_run {
            return dry(&preview(&examiner, &global.index, &plan)?, self.limit, global, out);
        }
        let settings = SweepSettings {
            workers: usize::from(self.concurrency),
            limit: self.limit,
            watch: self.watch,
            ..SweepSettings::default()
        };
        let progress = Progress::new(global);
        let swept = sweep::sweep(&examiner, &global.index, &plan, &settings, &progress);
        progress.bar.finish_and_clear();
        let (summary, rejudged) = swept?;
        let expected = expected_false_positives(told_of(&summary));
        let mut news = news(&global.index)?;
        let more = news.len() > NEWS;
        news.truncate(NEWS);
        if global.format() == "json" {
            json::write_value(
                &Answer { summary: &summary, news: &news, expected_false_positives: expected },
                &global.style(),
                out,
            )?;
            writeln!(out).map_err(|error| Error::io("writing the summary", error))?;
        } else {
            let mut text = told(&summary);
            text.push_str(&told_news(&news, more));
            if let Some(expected) = expected {
                for line in sanitise::wrap(&expected.told(), words::prose_width(global.style().width)) {
                    text.push_str(&format!("{line}\n"));
                }
            }
            if rejudged.judged > 0 {
                let (judged, changed) = (rejudged.judged, rejudged.changed.len());
                text.push_str(&format!("judged again with this catalogue: {judged}, differently: {changed}\n"));
            }
            text.push_str(&format!("\nfindings: orthoscope findings list --index {}\n", shown(&global.index)));
            out.write_all(text.as_bytes()).map_err(|error| Error::io("writing the summary", error))?;
        }
        // Also with findings, and also where nobody reads the summary.
        tell_undone(&summary.undone());
        Ok(match summary.exit_status(|severity| self.fail_on.counts(severity)) {
            0 => ExitStatus::Success,
            1 => ExitStatus::Findings,
            _ => ExitStatus::Incomplete,
        })
    }

    fn plan(&self) -> Result<Plan> {
        let mut bases = self.bases.clone();
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::io(format!("reading the bases in {}", path.display()), error))?;
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
            for line in lines.filter(|line| !line.is_empty()) {
                let base = hubs::spelled(line).map_err(|said| Error::new(ErrorKind::Usage, said))?;
                bases.push(base);
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        bases.retain(|base| seen.insert(base.clone()));
        Ok(Plan {
            bases,
            authors: self.authors.clone(),
            tags: self.tags.clone(),
            searches: self.searches.clone(),
            since: self.since.clone(),
            also_on: self.also_on.clone(),
        })
    }
}

/// Says on standard error what was asked for and not done.
fn tell_undone(undone: &[String]) {
    if !undone.is_empty() {
        let said = sanitise::sentence(&undone.join("; "));
        let _ = writeln!(std::io::stderr(), "orthoscope: not everything was done: {said}");
    }
}

/// A preview as JSON, with how many of it one run would examine.
#[derive(serde::Serialize)]
struct Dry<'a> {
    dry_run: bool,
    this_run: u64,
    #[serde(flatten)]
    preview: &'a Preview,
}

/// Writes what a sweep would examine.
fn dry(preview: &Preview, limit: Option<u64>, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
    let all = preview.would_examine.len() as u64;
    let this_run = limit.map_or(all, |limit| limit.min(all));
    let mut text = Vec::new();
    if global.format() == "json" {
        json::write_value(&Dry { dry_run: true, this_run, preview }, &global.style(), &mut text)?;
        text.push(b'\n');
    } else {
        text.extend(told_dry(preview, this_run).into_bytes());
    }
    out.write_all(&text).map_err(|error| Error::io("writing what would be examined", error))?;
    let undone: Vec<String> =
        preview.listed.incomplete.iter().map(|said| format!("not listed in full: {said}")).collect();
    tell_undone(&undone);
    Ok(if undone.is_empty() { ExitStatus::Success } else { ExitStatus::Incomplete })
}

fn told_dry(preview: &Preview, this_run: u64) -> String {
    let mut text = told_listed(&preview.listed);
    let all = preview.would_examine.len() as u64;
    let limited = if this_run < all { format!(", {this_run} of them in this run") } else { String::new() };
    text.push_str(&format!(
        "would examine {}{limited}; nothing was examined or recorded\n  listing took {}, {} received\n",
        words::count(all, "repository", "repositories"),
        words::count(preview.requests, "request", "requests"),
        words::bytes(preview.bytes),
    ));
    for would in &preview.would_examine {
        let state = if would.waiting { "waiting" } else { "new" };
        let commit = would.revision.as_deref().map(|commit| commit.chars().take(12).collect::<String>());
        let base = would.base.as_deref().map_or_else(|| "the base it claims".to_owned(), sanitise::name);
        text.push_str(&format!(
            "  {state:<8} {:<12}  {}  against {base}\n",
            sanitise::name(&commit.unwrap_or_default()),
            sanitise::name(&would.repository),
        ));
    }
    text
}

/// The summary as JSON, with what the controls let expect of so many.
#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    summary: &'a SweepSummary,
    news: &'a [News],
    expected_false_positives: Option<ExpectedFalsePositives>,
}

/// Examinations that are named after a sweep.
const NEWS: usize = 100;

/// What the sweep that has just ended says and none before it said, one more than are named.
fn news(index: &Path) -> Result<Vec<News>> {
    let index = Index::open_to_read(index)?;
    let now = jiff::Timestamp::now();
    match last_runs(&index, 1)?.first() {
        Some(run) => index.news(run.started, run.ended.unwrap_or(now), NEWS as u32 + 1),
        None => Ok(Vec::new()),
    }
}

/// What is new, a line a repository.
fn told_news(news: &[News], more: bool) -> String {
    if news.is_empty() {
        return "nothing new that needs a look\n".to_owned();
    }
    let mut text = "new, and in need of a look:\n".to_owned();
    for one in news {
        let (outcome, candidate) = (sanitise::name(&one.row.outcome), sanitise::name(&one.row.candidate));
        let why = one.row.signature.as_deref().map(|why| format!("  {}", sanitise::name(why))).unwrap_or_default();
        let before = one.before.as_deref().map(|word| format!("  (before: {})", sanitise::name(word)));
        text.push_str(&format!("  {outcome:<14} {candidate}{why}{}\n", before.unwrap_or_default()));
    }
    if more {
        text.push_str("  and more: orthoscope findings list --new\n");
    }
    text
}

/// Repositories that a verdict was given on.
fn told_of(summary: &SweepSummary) -> u64 {
    let verdicts = [Verdict::Orthogonalized, Verdict::Suspect, Verdict::Clear, Verdict::Inconclusive];
    verdicts.iter().filter_map(|verdict| summary.outcomes.get(verdict.as_str())).sum()
}

/// A path for a command line that can be copied.
pub(super) fn shown(path: &Path) -> String {
    words::quoted(&path.display().to_string())
}

/// A date or a time in RFC 3339, checked.
pub(super) fn parse_date(text: &str) -> Result<String, String> {
    let is_date = text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10;
    if is_date || text.parse::<jiff::Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no date, as in 2026-01-31"))
}

fn told_listed(listed: &PlannedCounts) -> String {
    format!(
        "seen {}: {} new or changed, {} waiting already, {} as examined before\n",
        listed.seen, listed.queued, listed.waiting, listed.unchanged
    )
}

/// The summary for a person.
pub(super) fn told(summary: &SweepSummary) -> String {
    let list = |counts: &std::collections::BTreeMap<String, u64>| {
        let mut sorted: Vec<_> = counts.iter().collect();
        sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        sorted.iter().map(|(word, count)| format!("{count} {}", sanitise::name(word))).collect::<Vec<_>>().join(", ")
    };
    let listed = &summary.listed;
    let mut text = told_listed(listed);
    text.push_str(&format!("examined {} in {:.1} s", summary.examined, summary.seconds));
    if summary.left > 0 {
        text.push_str(&format!(", {} left for the next run", summary.left));
    }
    text.push('\n');
    let mut line = |label: &str, words: String| {
        if !words.is_empty() {
            text.push_str(&format!("  {label:<10} {words}\n"));
        }
    };
    line("outcomes", list(&summary.outcomes));
    line("unreported", list(&summary.unreported));
    line("relations", list(&summary.relations));
    line("depths", list(&summary.depths));
    line("findings", list(&summary.findings));
    line(
        "received",
        format!(
            "{} in {} requests, {} of it weights",
            words::bytes(summary.bytes),
            summary.requests,
            words::bytes(summary.weight_bytes)
        ),
    );
    if !summary.reasons.is_empty() {
        text.push_str("not examined:\n");
        for (reason, count) in &summary.reasons {
            text.push_str(&format!("  {count:>5}  {}\n", sanitise::sentence(reason)));
        }
    }
    for said in &listed.incomplete {
        text.push_str(&format!("not listed in full: {}\n", sanitise::sentence(said)));
    }
    if summary.limited {
        text.push_str("ended at --limit\n");
    }
    if summary.out_of_budget {
        text.push_str("ended at the night's budget of bytes\n");
    }
    if summary.stopped {
        text.push_str("stopped; the next sweep goes on here\n");
    }
    text
}

/// One line of progress, and a line for each repository that needs a look.
pub(super) struct Progress {
    pub(super) bar: ProgressBar,
    pub(super) quiet: bool,
    pub(super) verbose: bool,
}

impl Progress {
    pub(super) fn new(global: &Global) -> Self {
        let bar = if global.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos} of {len} repositories, {elapsed}{left}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("left", left));
        bar.set_message("listing");
        log::beside(&bar);
        if global.shows_progress() {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Self { bar, quiet: global.quiet, verbose: global.verbose > 0 }
    }
}

impl SweepObserver for Progress {
    fn planned(&self, listed: &PlannedCounts) {
        self.bar.set_message("examining");
        self.bar.set_length(listed.queued + listed.waiting);
        self.bar.set_position(0);
        self.bar.reset_eta();
    }

    fn examined(&self, repository: &RepoId, outcome: &RepositoryOutcome, done: u64, total: u64) {
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        let examination = &outcome.examination;
        let needs_a_look = matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect);
        if self.quiet || !(self.verbose || needs_a_look) {
            return;
        }
        let reason = match examination.status {
            Status::Failed => examination.reason.as_deref().unwrap_or_default(),
            Status::Complete | Status::Partial => &examination.because,
        };
        let word = outcome.word();
        let line = format!("{word:<14} {}  {}", sanitise::name(&repository.to_string()), sanitise::sentence(reason));
        if std::io::stderr().is_terminal() {
            self.bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "{line}");
            });
        } else if self.verbose {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}
