//! The whole program in one place: the pipeline as a sweep's stages, the index as its store, and a sweep over both.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::checkpoint::Checkpoint;
use crate::diff::{Observer, Unobserved};
use crate::error::Result;
use crate::examination::{Examination, Tool};
use crate::hub::RepoInfo;
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
        let settings = Settings {
            catalogue: &self.catalogue,
            digests: false,
            claim: None,
            observer: self.observer.as_ref(),
        };
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
    fn record(&self, examination: &Examination, _facts: &RepoInfo) -> Result<()> {
        // Only when it is on disk may its row of the queue be done.
        self.writer.record(examination.clone(), Timestamp::now())?.wait().map(|_| ())
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
