//! The commands: one file each, its arguments beside it.

pub mod signatures;

/// The exit status of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// All asked for was done, nothing at or above the threshold was found.
    Success = 0,
    /// Findings.
    Findings = 1,
    /// Not all that was asked for was done.
    Incomplete = 2,
    /// The command line was wrong.
    Usage = 64,
}
