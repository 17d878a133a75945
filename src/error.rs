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

/// What a base that is not there is said to be; one word of [`ErrorKind::NoBase`] for two reasons, told apart by this.
pub const BASE_IS_GONE: &str = "cannot be found";

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::Io,
        Self::NotFound,
        Self::NoBase,
        Self::Malformed,
        Self::TooLarge,
        Self::Unsupported,
        Self::Network,
        Self::Denied,
        Self::Disabled,
        Self::Moved,
        Self::Budget,
        Self::Offline,
        Self::Usage,
        Self::Index,
        Self::Interrupted,
        Self::Internal,
    ];

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

/// Why a repository could not be examined, as reports count it: reasons are sentences with names in them, and there are
/// as many as repositories. Of a stored reason ([`Error::reason`], or several behind the names of their variants) the
/// first kind decides.
pub fn reason_class(reason: &str) -> &'static str {
    let is_word = |part: &str| ErrorKind::ALL.into_iter().find(|kind| kind.as_str() == part);
    match reason.split(": ").find_map(is_word) {
        Some(ErrorKind::Denied) => "needs an access grant",
        Some(ErrorKind::Disabled) => "taken down",
        Some(ErrorKind::NotFound | ErrorKind::Moved) => "gone",
        Some(ErrorKind::NoBase) if reason.contains(BASE_IS_GONE) => "its base is gone",
        Some(ErrorKind::NoBase) => "names no base",
        Some(ErrorKind::Unsupported) => "no weights in a known format",
        Some(ErrorKind::Budget | ErrorKind::TooLarge) => "over a budget",
        Some(ErrorKind::Malformed) => "broken files",
        Some(ErrorKind::Network | ErrorKind::Offline) => "hub not reachable",
        Some(ErrorKind::Internal) => "a defect of orthoscope",
        Some(ErrorKind::Io | ErrorKind::Usage | ErrorKind::Index | ErrorKind::Interrupted) | None => "something else",
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

    /// The reason that a record keeps: the kind's word, and the whole chain. [`reason_class`] knows it again.
    pub fn reason(&self) -> String {
        format!("{}: {}", self.kind.as_str(), self.one_line())
    }

    /// The whole chain on one line.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and classes are in indexes and reports: a kind that is told by another word is another reason there.
    #[test]
    fn every_kind_of_error_is_of_its_class() {
        let classes = [
            ("io", "something else"),
            ("not-found", "gone"),
            ("no-base", "names no base"),
            ("malformed", "broken files"),
            ("too-large", "over a budget"),
            ("unsupported", "no weights in a known format"),
            ("network", "hub not reachable"),
            ("denied", "needs an access grant"),
            ("disabled", "taken down"),
            ("moved", "gone"),
            ("budget", "over a budget"),
            ("offline", "hub not reachable"),
            ("usage", "something else"),
            ("index", "something else"),
            ("interrupted", "something else"),
            ("internal", "a defect of orthoscope"),
        ];
        let text = "opening hf:io/network: reading network: the header of denied is cut";
        let found = ErrorKind::ALL.map(|kind| {
            let reason = Error::new(kind, text).reason();
            assert_eq!(reason_class(&format!("Q4_K_M: {reason}")), reason_class(&reason));
            (kind.as_str(), reason_class(&reason))
        });
        assert_eq!(found, classes);
        let gone = Error::new(ErrorKind::NoBase, format!("hf:a/b: the base hf:c/d {BASE_IS_GONE}: 404")).reason();
        assert_eq!(reason_class(&gone), "its base is gone");
        assert_eq!(["", "a sentence: of nobody's"].map(reason_class), ["something else"; 2]);
    }
}
