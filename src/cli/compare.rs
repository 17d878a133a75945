//! `orthoscope compare BASE CANDIDATE`, or with `--base BASE`: two local checkpoints, one verdict.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::{ExitStatus, FailOn, Global, hubs, log};
use crate::diff::DiffObserver;
use crate::error::Result;
use crate::examination::Examination;
use crate::examine::identify::known_by;
use crate::examine::{self, ExaminationContext};
use crate::index::Index;
use crate::index::fingerprints::EnrolledAs;
use crate::report::{Report, UploadFacts, sanitise};

/// Columns of a name in a progress line, so that a bar is left beside it in a narrow terminal.
const ABOUT: usize = 32;

/// Compare two local checkpoints: what the candidate is to the base, and whether a direction was orthogonalized out of
/// it
#[derive(Args)]
#[command(override_usage = "orthoscope compare [OPTIONS] <BASE> <CANDIDATE>
       orthoscope compare [OPTIONS] --base <BASE> <CANDIDATE>")]
#[command(after_help = "Examples:
  orthoscope compare ./Llama-3.2-1B ./suspicious-upload
  orthoscope compare --base ./Llama-3.2-1B ./suspicious-upload
  orthoscope compare base.safetensors candidate.gguf --format json | jq .verdict
  orthoscope compare base/ candidate/ --digests --index evidence.db
  orthoscope compare ./base ./quantisations --fail-on medium

A folder or a file on each side, in any format that orthoscope reads. Of a candidate's folder that holds a model in several \
forms (safetensors, a dozen GGUF quantisations, an adapter), every one is examined, and the gravest verdict is the folder's. \
Exit status 2 where nothing was found and not everything could be compared, or nothing could be told.")]
pub struct CompareArguments {
    /// The checkpoint that the candidate is said to derive from, a folder or a file; with --base, the candidate itself
    #[arg(value_name = "BASE")]
    first: PathBuf,
    /// The checkpoint in question: a folder or a file
    #[arg(value_name = "CANDIDATE", required_unless_present = "base")]
    second: Option<PathBuf>,
    /// The base by its name, so that the two cannot be swapped
    #[arg(long, value_name = "PATH", conflicts_with = "second")]
    base: Option<PathBuf>,
    /// Exit with status 1 on findings of this severity and above
    #[arg(long, value_enum, default_value_t = FailOn::High)]
    fail_on: FailOn,
    /// Compute the SHA-256 of every weight file of both sides, so that the report can be held against the files later
    #[arg(long)]
    digests: bool,
    /// Every checkpoint in a folder is examined with or without it
    #[arg(long, hide = true)]
    all_variants: bool,
    /// Do not record the examination in the index
    #[arg(long)]
    no_record: bool,
}

impl CompareArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let renderer = global.renderer(global.format(), false)?;
        let (base, candidate) = self.sides();
        hubs::check_here(base)?;
        hubs::check_here(candidate)?;
        let digests = hubs::digests(self.digests, renderer);
        let catalogue = global.catalogue()?;
        let bar = Bar::new(global.shows_progress(), "comparing");
        let settings = ExaminationContext { catalogue: &catalogue, digests, claim: None, observer: &bar };
        // Unreadable is an outcome with a record, not just a message.
        let examination = examine::compare_paths(base, candidate, &settings);
        bar.finish();
        let now = jiff::Timestamp::now();
        // What took minutes is printed also where it cannot be recorded.
        let recorded = if self.no_record { Ok(()) } else { record(&global.index, base, &examination, now) };
        let status = self.fail_on.status([&examination]);
        let facts = UploadFacts { examined_at: Some(moment(now)), listing: None };
        let facts = BTreeMap::from([(examination.id().hex(), facts)]);
        let report = Report { facts, ..Report::with_catalogue(vec![examination], &catalogue) };
        renderer.render(&report, &global.style(), out)?;
        super::tell_undone(status, &report.examinations);
        recorded.and(Ok(status))
    }

    /// Base and candidate: both in their places, or the base by its option and the candidate alone.
    fn sides(&self) -> (&Path, &Path) {
        match (&self.base, &self.second) {
            (Some(base), _) => (base, &self.first),
            (None, second) => (&self.first, second.as_deref().unwrap_or(&self.first)),
        }
    }
}

/// Records an examination, and what its base is known by. A base that cannot be fingerprinted is recorded without.
fn record(index: &Path, base: &Path, examination: &Examination, now: jiff::Timestamp) -> Result<()> {
    let mut index = Index::open(index)?;
    index.record(examination, now)?;
    match known_by(base) {
        Some(fingerprint) => index.enroll(&fingerprint, EnrolledAs::Base, now),
        None => Ok(()),
    }
}

/// A time as the index keeps it, to the second.
pub(super) fn moment(time: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// A progress bar on standard error; invisible where there is no terminal.
pub struct Bar {
    bar: ProgressBar,
    shown: AtomicU64,
}

impl Bar {
    /// A bar that shows itself or not, and says what is done. It takes the width that the words leave.
    pub fn new(visible: bool, doing: &'static str) -> Self {
        let bar = if visible { ProgressBar::new(1000) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix:.bold}{msg} {wide_bar} {percent:>3} %  {elapsed}{left}");
        bar.set_prefix(doing);
        log::beside(&bar);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("left", left));
        Self { bar, shown: AtomicU64::new(0) }
    }

    /// Says what is looked at.
    pub fn about(&self, what: &str) {
        self.bar.set_prefix(format!("examining {}", sanitise::fit(&sanitise::name(what), ABOUT, "…")));
        self.bar.set_position(0);
        self.shown.store(0, Ordering::Relaxed);
        self.bar.enable_steady_tick(std::time::Duration::from_millis(200));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// How long is left, once something is done to tell it by.
pub(super) fn left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    if state.pos() > 0 && state.len().is_none_or(|len| state.pos() < len) {
        let _ = write!(out, " (about {:#} left)", HumanDuration(state.eta()));
    }
}

impl DiffObserver for Bar {
    fn progress(&self, done: u64, total: u64) {
        let permille = done.saturating_mul(1000) / total.max(1);
        if self.shown.fetch_max(permille, Ordering::Relaxed) < permille {
            self.bar.set_position(permille.min(1000));
        }
    }
}
