//! What went wrong, in one type.
//!
//! Policy. Bad news comes in four kinds that are never mixed:
//!
//! * an [`Error`]: *we could not* do something (read a file, reach a hub, open the index);
//! * an [`Anomaly`](crate::checkpoint::Anomaly): *the file is odd*, and we read on;
//! * a [`Finding`](crate::examination::Finding): *judged*, from measurements;
//! * a panic: *our bug*; it is fenced per repository and becomes that repository's outcome.
//!
//! An error says which operation on which thing failed (`doing`, lower case, naming file and tensor) and keeps
//! its cause. Types of other crates stay inside it, so they do not leak into the API. Callers decide on [`ErrorKind`].

use std::fmt;

/// Why an operation could not be done; what a caller may decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The operating system refused (permissions, disk full, device error).
    Io,
    /// The thing asked for does not exist.
    NotFound,
    /// The candidate is there, and the base to hold it against is not, or none is named.
    NoBase,
    /// The bytes do not follow their format so badly that reading cannot go on.
    Malformed,
    /// A cap of [`limits`](crate::limits) was passed.
    TooLarge,
    /// The format, dtype or layout is known but not handled.
    Unsupported,
    /// A request failed after all its retries.
    Network,
    /// The hub wants an access grant or another token (gated, private).
    Denied,
    /// The hub has taken the repository down.
    Disabled,
    /// The revision asked for is gone or moved while it was read.
    Moved,
    /// A byte, request or time budget given by the user is used up.
    Budget,
    /// A request would have been needed, but `--offline` forbids it.
    Offline,
    /// The user asked for something that cannot be (bad argument, bad file given as input).
    Usage,
    /// The SQLite index could not be read or written.
    Index,
    /// The user asked to stop.
    Interrupted,
    /// A panic, caught at the fence: a defect of orthoscope.
    Internal,
}

impl ErrorKind {
    /// A stable lower-case word for JSON and the index.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::NotFound => "not-found",
            Self::NoBase => "no-base",
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::Unsupported => "unsupported",
            Self::Network => "network",
            Self::Denied => "denied",
            Self::Disabled => "disabled",
            Self::Moved => "moved",
            Self::Budget => "budget",
            Self::Offline => "offline",
            Self::Usage => "usage",
            Self::Index => "index",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }
}

/// One failed operation: kind, what was being done, and the cause if another library gave one.
#[derive(Debug)]
pub struct Error {
    /// What a caller may decide on.
    pub kind: ErrorKind,
    /// The operation and the thing it failed on, lower case, e.g. `reading header of model.safetensors`.
    pub doing: String,
    /// The cause, kept as a message chain.
    pub source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a foreign cause.
    pub fn new(kind: ErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), source: None }
    }

    /// An error caused by another library's error.
    pub fn because(
        kind: ErrorKind,
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        Self { kind, doing: doing.into(), source: Some(source.into()) }
    }

    /// An operating-system error on a named thing; "no such file" keeps its own kind.
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::because(kind, doing, source)
    }

    /// The whole chain on one line, for a stored reason.
    pub fn one_line(&self) -> String {
        let mut text = self.doing.clone();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
