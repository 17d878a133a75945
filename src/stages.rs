//! The whole program in one place: the pipeline as a sweep's stages, the index as its store, and a sweep over both.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::checkpoint::{self, Checkpoint, FileSet, folder, variants};
use crate::claim;
use crate::diff::{Observer, Unobserved};
use crate::error::{Error, ErrorKind, Result, panic_text};
use crate::examination::{Examination, Tool};
use crate::forms;
use crate::hub::{self, RepoInfo};
use crate::index::triage::{Listing, record_listing};
use crate::index::write::{Writer, WriterThread};
use crate::index::{Index, Rejudged};
use crate::pair::{self, Pairing};
use crate::pipeline::{self, Named, Settings};
use crate::signature::Catalogue;
use crate::sweep::examine::Bench;
use crate::sweep::plan::Plan;
use crate::sweep::queue::Queue;
use crate::sweep::work::{self, Summary, SweepSettings};
use crate::sweep::{Stages, Store, seconds_now};

/// The pipeline's stages with one catalogue.
pub struct Pipeline {
    catalogue: Arc<Catalogue>,
    observer: Arc<dyn Observer + Send>,
}

impl Pipeline {
    /// Stages that judge by this catalogue.
    pub fn new(catalogue: Arc<Catalogue>) -> Self {
        Self { catalogue, observer: Arc::new(Unobserved) }
    }

    /// The same, watched while weights are compared.
    #[must_use]
    pub fn watched(self, observer: Arc<dyn Observer + Send>) -> Self {
        Self { observer, ..self }
    }
}

impl Stages for Pipeline {
    fn tool(&self) -> Tool {
        pipeline::tool(&self.catalogue)
    }

    fn pair(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<Pairing> {
        Ok(pair::pair(base, candidate))
    }

    fn compare(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<Examination> {
        let settings =
            Settings { catalogue: &self.catalogue, digests: false, claim: None, observer: self.observer.as_ref() };
        // The names stand in until the sweep puts in what the hub calls the two.
        let (old, new) = (Named::local(base.label.as_str()), Named::local(candidate.label.as_str()));
        pipeline::examine((base, &old), (candidate, &new), &settings)
    }

    fn judge(&self, examination: &mut Examination) {
        pipeline::judge(examination, &self.catalogue);
    }
}

/// The index, written by its one writer.
pub struct Recorder {
    writer: Writer,
}

impl Recorder {
    /// Records through this writer.
    pub fn new(writer: Writer) -> Self {
        Self { writer }
    }
}

impl Store for Recorder {
    fn record(&self, examination: &Examination, facts: &RepoInfo, base: Option<&RepoInfo>) -> Result<()> {
        let (examination, now) = (examination.clone(), Timestamp::now());
        let (listing, base) = (listing(facts), base.map(listing));
        // Only when it is on disk may its row of the queue be done.
        let recorded = self.writer.submit(move |connection| {
            record_listing(connection, &examination.candidate.source, &listing, now)?;
            if let Some(base) = &base {
                record_listing(connection, &examination.base.source, base, now)?;
            }
            crate::index::record(connection, &examination, now)
        })?;
        recorded.wait().map(|_| ())
    }
}

/// What is kept of a hub's word on a repository.
pub fn listing(facts: &RepoInfo) -> Listing {
    Listing {
        downloads: facts.downloads,
        created: facts.created.as_deref().and_then(|text| text.parse().ok()),
        family: facts.config.get("model_type").and_then(|word| word.as_str()).map(str::to_owned),
        tags: facts.tags.clone(),
    }
}

/// Sweeps into the index at `path`: judges what is stored again if the catalogue is another one, plans, examines, records.
/// Tells what was judged again beside the summary.
pub fn sweep(
    bench: &Bench,
    catalogue: &Catalogue,
    path: &Path,
    plan: &Plan,
    settings: &SweepSettings,
    observer: &dyn work::Observer,
) -> Result<(Summary, Rejudged)> {
    let queue = Queue::open(path, seconds_now())?;
    let rejudged = rejudge(&mut Index::open(path)?, catalogue, false)?;
    let thread = WriterThread::start(path)?;
    let recorder = Recorder::new(thread.writer()?);
    let summary = work::sweep(bench, &queue, &recorder, plan, settings, observer);
    drop(recorder);
    thread.finish()?;
    Ok((summary?, rejudged))
}

/// Judges what the index holds again with a catalogue, without any weights.
pub fn rejudge(index: &mut Index, catalogue: &Catalogue, all: bool) -> Result<Rejudged> {
    index.rejudge(
        catalogue,
        all,
        Timestamp::now(),
        |mut examination| {
            pipeline::judge(&mut examination, catalogue);
            Ok(examination)
        },
        |_| true,
    )
}

/// What a folder's files say of its lineage, with the metadata of the weights that are looked at first: what cannot be
/// opened says nothing here, and is told later.
fn declarations(files: &FileSet) -> Result<claim::Declarations> {
    let first = variants::of_files(files).into_iter().next();
    let opened = first.map_or_else(|| checkpoint::open(files), |first| first.open(files)).ok();
    claim::files::declarations(files, opened.as_ref())
}

/// Examines a folder or file of this machine, in all its forms, against the base given or the one that its own files
/// claim, with the SHA-256 of its files where asked for. What cannot be examined is an examination too.
pub fn examine_path(
    bench: &Bench,
    catalogue: &Catalogue,
    path: &Path,
    base: Option<&str>,
    digests: bool,
    observer: &dyn Observer,
) -> Examination {
    let name = path.display().to_string();
    let named = Named::local(name.as_str());
    let mut settings = Settings { catalogue, digests, claim: None, observer };
    let mut tried = base.map(str::to_owned);
    let mut attempt = || {
        let files = folder::file_set(path)?;
        let claim = claim::resolve(&declarations(&files)?, &name, None);
        let asked = match base {
            Some(base) => Ok(base.to_owned()),
            None => claim.bases.first().map(|base| format!("{}:{base}", hub::DEFAULT.prefix)).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("{name}: it claims no base, and none was given with --base"))
            }),
        };
        settings.claim = Some(claim.claim);
        let asked = asked?;
        tried = Some(asked.clone());
        let most = bench.settings.max_base_bytes.filter(|_| base.is_none());
        let stages = bench.stages.as_ref();
        let base = bench.bases.get(&asked, most, &bench.client, &bench.environment, stages, &bench.night)?;
        let mut base = forms::Base::opened(base.side.clone(), Arc::new(base.checkpoint.clone()), base.around.clone());
        forms::examine(&mut base, &files, &named, &settings)
    };
    let examined = catch_unwind(AssertUnwindSafe(&mut attempt)).unwrap_or_else(|panic| {
        let said = panic_text(&*panic);
        Err(Error::new(ErrorKind::Internal, format!("examining {name}: a defect of orthoscope: {said}")))
    });
    examined.unwrap_or_else(|error| {
        let mut failed = pipeline::failed(&Named::local(tried.unwrap_or_default()), &named, &error, &settings);
        pipeline::judge(&mut failed, catalogue);
        failed
    })
}
