//! `orthoscope scan REPO…`: uploads on a hub, or folders, each against the base it claims.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Args;

use super::compare::{Bar, moment};
use super::hubs::{self, Reading};
use super::{ExitStatus, FailOn, Global};
use crate::error::{ErrorKind, Result};
use crate::examination::Examination;
use crate::examine::Examiner;
use crate::examine::base;
use crate::hub::{Meter, RepoInfo};
use crate::ids::{Location, RepoId, Revision};
use crate::index::Index;
use crate::index::fingerprints::EnrolledAs;
use crate::index::triage::Listing;
use crate::report::{ListingFacts, Report, UploadFacts};

/// Examine uploads on a hub, or folders, each against the base it claims or the one given
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope scan hf:someone/Llama-3.2-1B-uncensored
  orthoscope scan hf:someone/model@main --base hf:meta-llama/Llama-3.2-1B --format html > model.html
  orthoscope scan https://huggingface.co/someone/model/tree/main
  orthoscope scan hf:a/one hf:b/two ms:c/three --escalate never --max-bytes 200MB
  orthoscope scan ./downloaded-model --base ./base-model

The base is the one the repository claims: in its card, its tags, its configuration, its files' metadata. The first look \
compares file hashes, the second reads a few rows of some tensors by HTTP range; weights are read further only where that \
does not decide. Each examination is recorded in the index, also of what could not be examined.")]
pub struct ScanArguments {
    /// Repositories (hf:org/name, ms:owner/name, with @revision or without, or the address of their page) or folders
    #[arg(required = true, value_name = "REPO", value_parser = hubs::spelled)]
    repositories: Vec<String>,
    /// The base to compare with, instead of the claimed one
    #[arg(long, value_name = "REPO", value_parser = hubs::spelled)]
    base: Option<String>,
    /// Compute the SHA-256 of every weight file of a folder; those of a repository are known
    #[arg(long)]
    digests: bool,
    #[command(flatten)]
    reading: Reading,
    /// Exit with status 1 on findings of this severity and above
    #[arg(long, value_enum, default_value_t = FailOn::High)]
    fail_on: FailOn,
    /// Do not record the examinations in the index
    #[arg(long)]
    no_record: bool,
}

impl ScanArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        // Several reports one after another are for nobody to read: a line each, unless a format was asked for.
        let format = if self.repositories.len() > 1 && global.format() == "text" { "table" } else { global.format() };
        let renderer = global.renderer(format, false)?;
        self.repositories.iter().chain(&self.base).try_for_each(|name| hubs::check_location(name))?;
        let digests = hubs::digests(self.digests, renderer);
        let catalogue = Arc::new(global.catalogue()?);
        let bar = Arc::new(Bar::new(global.shows_progress(), "examining"));
        let examiner = hubs::examiner(global, &catalogue, self.reading.settings(), None, bar.clone())?;
        hubs::stop_on_signal(&examiner.client)?;
        let mut index = if self.no_record { None } else { Some(Index::open(&global.index)?) };
        let mut examinations = Vec::new();
        let mut facts = BTreeMap::new();
        // What was examined is printed also where it cannot be recorded.
        let mut recorded = Ok(());
        for name in &self.repositories {
            bar.about(name);
            let base = self.base.as_deref();
            let (examination, listing) = match name.parse::<Location>()? {
                Location::Path(path) => {
                    let path = Path::new(&path);
                    (examiner.examine_path(path, base, digests, bar.as_ref()), None)
                }
                Location::Hub(id, revision) => on_a_hub(&examiner, &id, revision.as_ref(), base)?,
            };
            let now = jiff::Timestamp::now();
            if let Some(index) = &mut index {
                recorded = recorded.and(record(index, &examination, listing.as_ref(), now));
                if let Some(base) = examiner.bases.unenrolled(&examination.base.source) {
                    recorded = recorded.and(index.enroll(&base, EnrolledAs::Base, now));
                }
            }
            let listing = listing.as_ref().map(|listing| ListingFacts::of(&examination.candidate.source, listing));
            facts.insert(examination.id().hex(), UploadFacts { examined_at: Some(moment(now)), listing });
            examinations.push(examination);
        }
        bar.finish();
        let status = self.fail_on.status(&examinations);
        let report = Report { facts, ..Report::with_catalogue(examinations, &catalogue) };
        renderer.render(&report, &global.style(), out)?;
        super::tell_undone(status, &report.examinations);
        recorded.and(Ok(status))
    }
}

/// Records an examination, and what the hub said of the repository where it was asked.
fn record(index: &mut Index, examination: &Examination, listing: Option<&Listing>, now: jiff::Timestamp) -> Result<()> {
    index.record(examination, now)?;
    listing.map_or(Ok(()), |listing| index.record_listing(&examination.candidate.source, listing, now))
}

/// One repository of a hub, with what the hub said of it. A stop is an error; whatever else goes wrong is its outcome.
fn on_a_hub(
    examiner: &Examiner,
    id: &RepoId,
    asked: Option<&Revision>,
    base: Option<&str>,
) -> Result<(Examination, Option<Listing>)> {
    let facts = match base::facts(id, asked, &examiner.client, &examiner.environment, &Meter::unlimited()) {
        Ok(facts) => facts,
        Err(error) if error.kind == ErrorKind::Interrupted => return Err(error),
        Err(error) => {
            let facts =
                RepoInfo { name: id.name.clone(), commit: asked.map(ToString::to_string), ..RepoInfo::default() };
            return Ok((examiner.failed(id, &facts, base, &error), None));
        }
    };
    // Offline nothing was asked, and an empty answer would overwrite what a hub once said.
    let listing = (!examiner.client.settings().offline).then(|| Listing::from(&facts));
    // A hub may know the repository by another name by now.
    let id = RepoId { name: facts.name.clone(), ..id.clone() };
    match examiner.examine_at(&id, &facts, base, asked) {
        Ok(outcome) => {
            let base = examiner.bases.facts(&outcome.examination.base.source).map(|facts| Listing::from(&facts));
            let listing = listing.map(|listing| listing.with_family_of(base.as_ref(), &outcome.examination));
            Ok((outcome.examination, listing))
        }
        Err(error) if error.kind == ErrorKind::Interrupted => Err(error),
        Err(error) => Ok((examiner.failed(&id, &facts, base, &error), listing)),
    }
}
