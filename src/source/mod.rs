//! Where bytes come from: one trait, behind it a memory map of a local file or HTTP ranges of a remote one.

pub mod hash;
pub mod mmap;
pub mod parse;
pub mod private;
pub mod remote;

use std::borrow::Cow;
use std::ops::Range;

use crate::error::Result;

/// Random access to the bytes of one file.
///
/// `read` past the end is an error, never a short read, so a caller may trust the length it gets.
pub trait ByteSource: Send + Sync {
    /// The file's name as its repository or folder spells it, for messages.
    fn name(&self) -> &str;

    /// The file's length in bytes.
    fn len(&self) -> u64;

    /// Whether the file is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`: borrowed where they are mapped, owned where they were fetched.
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>>;

    /// Says that these ranges will be read soon, so that a remote source may fetch them together. A hint: it never
    /// fails and may do nothing.
    fn prefetch(&self, _ranges: &[Range<u64>]) {}
}

/// A file held in memory: for tests, and for small files that were fetched whole.
#[derive(Debug, Clone)]
pub struct Bytes {
    name: String,
    bytes: Vec<u8>,
}

impl Bytes {
    /// A named byte string.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

impl ByteSource for Bytes {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        slice(&self.name, &self.bytes, range).map(Cow::Borrowed)
    }
}

/// `bytes[range]`, or an error that names the file and both lengths.
pub(crate) fn slice<'a>(name: &str, bytes: &'a [u8], range: Range<u64>) -> Result<&'a [u8]> {
    use crate::error::{Error, ErrorKind};
    let start = usize::try_from(range.start).ok();
    let end = usize::try_from(range.end).ok();
    start.zip(end).and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
        Error::new(
            ErrorKind::Malformed,
            format!("reading bytes {}..{} of {name}, which has {} bytes", range.start, range.end, bytes.len()),
        )
    })
}
/// Whether two files hold the same bytes.
pub fn is_same(one: &dyn ByteSource, other: &dyn ByteSource) -> bool {
    let length = one.len();
    // Bytes that are compared in one go.
    let step = 4 << 20;
    length == other.len()
        && (0..length.div_ceil(step)).all(|at| {
            let range = at * step..length.min((at + 1) * step);
            matches!((one.read(range.clone()), other.read(range)), (Ok(one), Ok(other)) if one == other)
        })
}
