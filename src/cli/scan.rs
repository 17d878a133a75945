//! `orthoscope scan REPO…`: uploads on a hub, or folders, each against the base it claims.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Args;

use super::compare::Bar;
use super::hubs::{self, Reading};
use super::{ExitStatus, FailOn, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;
use crate::hub::{Meter, RepoInfo};
use crate::ids::{Location, RepoId, Revision};
use crate::index::Index;
use crate::report::{self, Report};
use crate::stages;
use crate::sweep::base;
use crate::sweep::examine::Bench;

/// Examine uploads on a hub, or folders, each against the base it claims or the one given
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope scan hf:someone/Llama-3.2-1B-uncensored
  orthoscope scan hf:someone/model@main --base hf:meta-llama/Llama-3.2-1B --format html > model.html
  orthoscope scan hf:a/one hf:b/two ms:c/three --escalate never --max-bytes 200MB
  orthoscope scan ./downloaded-model --base ./base-model

The base is the one the repository claims: in its card, its tags, its configuration, its files' metadata. The first look
compares file hashes, the second reads a few rows of some tensors by HTTP range; weights are read further only where that
does not decide. Each examination is recorded in the index, also of what could not be examined.")]
pub struct Arguments {
    /// Repositories (hf:org/name, ms:owner/name, with @revision or without) or folders
    #[arg(required = true, value_name = "REPO")]
    repositories: Vec<String>,
    /// The base to compare with, instead of the claimed one
    #[arg(long, value_name = "REPO")]
    base: Option<String>,
    #[command(flatten)]
    reading: Reading,
    /// Exit with status 1 on findings of this severity and above
    #[arg(long, value_enum, default_value_t = FailOn::High)]
    fail_on: FailOn,
    /// Do not record the examinations in the index
    #[arg(long)]
    no_record: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        // Several reports one after another are for nobody to read: a line each, unless a format was asked for.
        let format = if self.repositories.len() > 1 && global.format == "text" { "table" } else { &global.format };
        let renderer = report::renderer(format)
            .ok_or_else(|| Error::new(ErrorKind::Usage, format!("no output format is called {format:?}")))?;
        self.repositories.iter().chain(&self.base).try_for_each(|name| hubs::check_location(name))?;
        let catalogue = Arc::new(global.catalogue()?);
        let bar = Arc::new(Bar::new(global.shows_progress()));
        let bench = hubs::bench(global, &catalogue, self.reading.settings(), None, bar.clone())?;
        hubs::stop_on_signal(&bench.client)?;
        let mut index = if self.no_record { None } else { Some(Index::open(&global.index)?) };
        let mut examinations = Vec::new();
        // What was examined is printed also where it cannot be recorded.
        let mut recorded = Ok(());
        for name in &self.repositories {
            bar.about(name);
            let examination = match base::location(name)? {
                Location::Path(path) => {
                    stages::examine_path(&bench, &catalogue, Path::new(&path), self.base.as_deref(), bar.as_ref())
                }
                Location::Hub(id, revision) => on_a_hub(&bench, &id, revision.as_ref(), self.base.as_deref())?,
            };
            if let Some(index) = &mut index {
                recorded = recorded.and(index.record(&examination, jiff::Timestamp::now()).map(|_| ()));
            }
            examinations.push(examination);
        }
        bar.finish();
        let status = self.fail_on.status(&examinations);
        let report = Report::with_catalogue(examinations, &catalogue);
        renderer.render(&report, &global.style(), out)?;
        super::tell_undone(status, &report.examinations);
        recorded.and(Ok(status))
    }
}

/// One repository of a hub. A stop is an error; whatever else goes wrong is its outcome.
fn on_a_hub(bench: &Bench, id: &RepoId, asked: Option<&Revision>, base: Option<&str>) -> Result<Examination> {
    let revision = asked.map(|revision| revision.0.as_str());
    let facts = match base::facts(id, asked, &bench.client, &bench.environment, &Meter::unlimited()) {
        Ok(facts) => facts,
        Err(error) if error.kind == ErrorKind::Interrupted => return Err(error),
        Err(error) => {
            let facts = RepoInfo { name: id.name.clone(), commit: revision.map(str::to_owned), ..RepoInfo::default() };
            return Ok(bench.failed(id, &facts, base, &error));
        }
    };
    // A hub may know the repository by another name by now.
    let id = RepoId { name: facts.name.clone(), ..id.clone() };
    match bench.examine_at(&id, &facts, base, revision) {
        Ok(outcome) => Ok(outcome.examination),
        Err(error) if error.kind == ErrorKind::Interrupted => Err(error),
        Err(error) => Ok(bench.failed(&id, &facts, base, &error)),
    }
}
