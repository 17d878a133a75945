//! `orthoscope compare BASE CANDIDATE`: two local checkpoints, one verdict.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{ExitStatus, FailOn, Global};
use crate::checkpoint::folder;
use crate::diff::Observer;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;
use crate::forms;
use crate::index::Index;
use crate::pipeline::{self, Named, Settings};
use crate::report::{self, Report};

/// Compare two local checkpoints: what the candidate is to the base, and whether a direction was orthogonalized out of it
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope compare ./Llama-3.2-1B ./suspicious-upload
  orthoscope compare base.safetensors candidate.gguf --format json | jq .verdict
  orthoscope compare base/ candidate/ --digests --index evidence.db
  orthoscope compare ./base ./quantisations --fail-on medium

A folder or a file on each side, in any format that orthoscope reads. Of a candidate's folder that holds a model in several
forms (safetensors, a dozen GGUF quantisations, an adapter), every one is examined, and the gravest verdict is the folder's.
Exit status 2 where nothing was found and not everything could be compared, or nothing could be told.")]
pub struct Arguments {
    /// The checkpoint that the candidate is said to derive from: a folder or a file
    base: PathBuf,
    /// The checkpoint in question: a folder or a file
    candidate: PathBuf,
    /// Exit with status 1 on findings of this severity and above
    #[arg(long, value_enum, default_value_t = FailOn::High)]
    fail_on: FailOn,
    /// Compute the SHA-256 of every weight file of both sides for the record
    #[arg(long)]
    digests: bool,
    /// Every checkpoint in a folder is examined with or without it
    #[arg(long, hide = true)]
    all_variants: bool,
    /// Do not record the examination in the index
    #[arg(long)]
    no_record: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let renderer = report::renderer(&global.format)
            .ok_or_else(|| Error::new(ErrorKind::Usage, format!("no output format is called {:?}", global.format)))?;
        let catalogue = global.catalogue()?;
        let bar = Bar::new(global.shows_progress());
        let settings = Settings { catalogue: &catalogue, digests: self.digests, claim: None, observer: &bar };
        let named = |path: &Path| Named::local(path.display().to_string());
        let (base_name, candidate_name) = (named(&self.base), named(&self.candidate));
        let examine = || {
            let mut base = forms::Base::open(base_name.clone(), folder::file_set(&self.base)?)?;
            forms::examine(&mut base, &folder::file_set(&self.candidate)?, &candidate_name, &settings)
        };
        // Unreadable is an outcome with a record, not just a message.
        let examination =
            examine().unwrap_or_else(|error| pipeline::failed(&base_name, &candidate_name, &error, &settings));
        bar.finish();
        // What took minutes is printed also where it cannot be recorded.
        let recorded = if self.no_record { Ok(()) } else { record(&global.index, &examination) };
        let status = self.fail_on.status([&examination]);
        let report = Report::with_catalogue(vec![examination], &catalogue);
        renderer.render(&report, &global.style(), out)?;
        super::tell_undone(status, &report.examinations);
        recorded.and(Ok(status))
    }
}

/// Records one examination with the present time.
pub fn record(index: &Path, examination: &Examination) -> Result<()> {
    Index::open(index)?.record(examination, jiff::Timestamp::now())?;
    Ok(())
}

/// A progress bar on standard error; invisible where there is no terminal.
pub struct Bar {
    bar: ProgressBar,
    shown: AtomicU64,
}

impl Bar {
    /// A bar that shows itself or not.
    pub fn new(visible: bool) -> Self {
        let bar = if visible { ProgressBar::new(1000) } else { ProgressBar::hidden() };
        let style =
            ProgressStyle::with_template("{prefix:.bold}{msg} {bar:32} {percent:>3} %  {elapsed} (about {eta} left)");
        bar.set_prefix("comparing");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, shown: AtomicU64::new(0) }
    }

    /// Says what is looked at.
    pub fn about(&self, what: &str) {
        self.bar.set_prefix(report::sanitise::name(what));
        self.bar.set_position(0);
        self.shown.store(0, Ordering::Relaxed);
        self.bar.enable_steady_tick(std::time::Duration::from_millis(200));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Bar {
    fn progress(&self, done: u64, total: u64) {
        let permille = done.saturating_mul(1000) / total.max(1);
        if self.shown.fetch_max(permille, Ordering::Relaxed) < permille {
            self.bar.set_position(permille.min(1000));
        }
    }
}
