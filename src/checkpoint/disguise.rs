//! Files whose first bytes are those of something else than their names promise.

use super::files::Written;
use super::{AnomalyKind, anomaly};
use crate::source::ByteSource;

/// What the first bytes say when they are not those of a safetensors file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disguise {
    /// A zip archive, which is what PyTorch writes.
    Zip,
    /// A bare pickle.
    Pickle,
    /// A GGUF file.
    Gguf,
    /// A pointer that git-lfs left in place of the file.
    LfsPointer,
    /// A page of HTML, which is what a hub answers to an unauthorised download.
    Html,
}

impl Disguise {
    /// Looks at the first bytes of a file; `None` when they may begin a safetensors file.
    pub(crate) fn of(first: &[u8]) -> Option<Self> {
        // A safetensors header begins with `{` right after its length, whatever bytes the length has.
        if first.get(8) == Some(&b'{') {
            return None;
        }
        if first.starts_with(b"PK\x03\x04") || first.starts_with(b"PK\x05\x06") {
            return Some(Self::Zip);
        }
        if first.starts_with(b"GGUF") || first.starts_with(b"FUGG") {
            return Some(Self::Gguf);
        }
        if first.starts_with(b"version https://git-lfs") {
            return Some(Self::LfsPointer);
        }
        let text = first.trim_ascii_start();
        if text.starts_with(b"<!") || text.starts_with(b"<html") {
            return Some(Self::Html);
        }
        match first {
            // PROTO 2 to 5 and then an opcode that writers put first: a frame, an empty container, an import, a number.
            [0x80, 2..=5, next, ..] if b"\x95}](c\x8a)K\x8c".contains(next) => Some(Self::Pickle),
            // Protocol 0 and 1 begin with an import or a mark.
            [b'c' | b'(' | b'}' | b']', rest @ ..] if rest.iter().take(64).any(|byte| *byte == b'\n') => {
                Some(Self::Pickle)
            }
            _ => None,
        }
    }

    /// The anomaly's kind, and what the file is.
    pub(crate) fn told(self) -> (AnomalyKind, &'static str) {
        match self {
            Self::Zip => (anomaly::PICKLE_IN_SAFETENSORS, "a zip archive, as PyTorch writes"),
            Self::Pickle => (anomaly::PICKLE_IN_SAFETENSORS, "a pickle"),
            Self::Gguf => (anomaly::GGUF_IN_SAFETENSORS, "a GGUF file"),
            Self::LfsPointer => (anomaly::LFS_POINTER, "a git-lfs pointer: the file itself was not fetched"),
            Self::Html => (anomaly::HTML_IN_SAFETENSORS, "a web page"),
        }
    }
}

/// The format that a file's first bytes are of.
pub(crate) fn by_content(source: &dyn ByteSource) -> Option<Written> {
    let first = source.read(0..source.len().min(64)).ok()?;
    if let Some((length, rest)) = first.split_first_chunk::<8>()
        && rest.first() == Some(&b'{')
        && u64::from_le_bytes(*length).checked_add(8).is_some_and(|end| end <= source.len())
    {
        return Some(Written::Safetensors);
    }
    match Disguise::of(&first)? {
        Disguise::Zip | Disguise::Pickle => Some(Written::PyTorch),
        Disguise::Gguf => Some(Written::Gguf),
        Disguise::LfsPointer | Disguise::Html => None,
    }
}
