//! How deep candidates are looked at, and how much may be read.

use serde::{Deserialize, Serialize};

use crate::examination::{Depth, Tool};
use crate::limits;

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
