//! Sweeps: what to look at, in which order, at which depth, and how to lose nothing on the way.
//!
//! [`plan`] lists hubs into the [`queue`]; [`work`] takes rows out of it; [`examine`] looks at one repository at three
//! depths, cheapest first: file hashes, a [`screening`] of a few rows, the whole weights. Reading formats, pairing and
//! judging are the pipeline's: they come in through [`Stages`], and results leave through [`Store`].

pub mod base;
pub mod examine;
pub mod plan;
pub mod queue;
pub mod record;
pub mod screening;
pub mod work;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint, FileSet};
use crate::error::Result;
use crate::examination::{Depth, Examination, Tool};
use crate::hub::RepoInfo;
use crate::limits;
use crate::pair::Pairing;

/// The pipeline's stages that a sweep needs.
pub trait Stages: Send + Sync {
    /// Version and catalogue, for records and for "nothing new".
    fn tool(&self) -> Tool;

    /// Reads headers.
    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        checkpoint::open(files)
    }

    /// Pairs tensors and gives them roles.
    fn pair(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<Pairing>;

    /// Compares all that both have and judges it.
    fn compare(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<Examination>;

    /// Judges by its measurements (`examination.profile`) an examination whose sides and claim are complete: findings are
    /// known by the examination that they are in.
    fn judge(&self, _examination: &mut Examination) {}
}

/// Where examinations go. Recording the same one again must change nothing.
pub trait Store: Send + Sync {
    /// Records one examination of a repository, with what the hub said of it and of its base (downloads, dates), durably.
    fn record(&self, examination: &Examination, facts: &RepoInfo, base: Option<&RepoInfo>) -> Result<()>;
}

/// When to read more than the rows of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Escalate {
    /// Always, to the whole weights.
    Always,
    /// Where the screen does not decide, or says orthogonalized.
    Auto,
    /// Never: the screen's word stands.
    Never,
}

/// How repositories are examined.
#[derive(Debug, Clone, Serialize)]
pub struct ExamineSettings {
    /// The deepest depth allowed.
    pub depth: Depth,
    /// When to go deeper than the screen.
    pub escalate: Escalate,
    /// Bytes per repository at most, base not counted.
    pub max_bytes: Option<u64>,
    /// Bytes fetched for a base that an upload claims, at most.
    pub max_base_bytes: Option<u64>,
    /// A base given by the user, before all claims.
    pub base: Option<String>,
    /// Share of a candidate's bytes that a screen may read.
    pub screen_share: f64,
    /// Every checkpoint that a repository holds, not one of each form.
    pub all_variants: bool,
}

impl Default for ExamineSettings {
    fn default() -> Self {
        Self {
            depth: Depth::Full,
            escalate: Escalate::Auto,
            max_bytes: None,
            max_base_bytes: Some(limits::MAX_CLAIMED_BASE_BYTES),
            base: None,
            screen_share: 0.004,
            all_variants: false,
        }
    }
}

impl ExamineSettings {
    /// What an examination of `commit` with these settings is known by: the same again is skipped. The catalogue is no
    /// part of it: what is stored is judged again without fetching anything.
    pub fn key(&self, commit: &str, tool: &Tool) -> String {
        let depth = match self.depth {
            Depth::Hashes => "hashes",
            Depth::Screen => "screen",
            Depth::Full => match self.escalate {
                Escalate::Always => "full",
                Escalate::Auto => "auto",
                Escalate::Never => "screen",
            },
        };
        let variants = if self.all_variants { " of all variants" } else { "" };
        format!("{commit}\n{depth}{variants}\n{}", tool.version)
    }
}

/// Seconds since 1970.
pub fn seconds_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
