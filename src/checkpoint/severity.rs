//! How serious something is: one scale for oddities of files and for findings.

use serde::{Deserialize, Serialize};

/// How serious it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a note.
    Low,
    /// Worth a look.
    Medium,
    /// Worth acting on.
    High,
}
