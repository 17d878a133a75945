//! Sweeps: what to look at, in which order, and how to lose nothing on the way.
//!
//! [`plan`] lists hubs into the [`queue`]; [`work`] takes rows out of it, has each examined and recorded. How one
//! repository is looked at is [`crate::examine`]'s. [`preview`] tells what would be looked at, and [`health`] how
//! sweeps of an index have ended.

pub mod health;
pub mod lock;
pub mod plan;
pub mod preview;
pub mod queue;
pub mod work;

use std::path::Path;

use jiff::Timestamp;

use self::plan::Plan;
use self::queue::Queue;
use self::work::{SweepSettings, SweepSummary};
use crate::error::Result;
use crate::examine::Examiner;
use crate::index::write::WriterThread;
use crate::index::{Index, Rejudged};

/// Sweeps into the index at `path`: judges what is stored again if the catalogue is another one, plans, examines,
/// records. Tells what was judged again beside the summary.
pub fn sweep(
    examiner: &Examiner,
    path: &Path,
    plan: &Plan,
    settings: &SweepSettings,
    observer: &dyn work::SweepObserver,
) -> Result<(SweepSummary, Rejudged)> {
    let queue = Queue::open(path, Timestamp::now())?;
    let rejudged = Index::open(path)?.judge_again(&examiner.catalogue, false)?;
    let thread = WriterThread::start(path)?;
    let writer = thread.writer()?;
    let summary = work::sweep(examiner, &queue, &writer, plan, settings, observer);
    drop(writer);
    thread.finish()?;
    Ok((summary?, rejudged))
}
