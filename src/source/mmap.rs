//! A local file as a memory map. All of the crate's `unsafe` is in this file.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::{ByteSource, slice};
use crate::error::{Error, ErrorKind, Result};

/// A read-only memory map of a local file.
#[derive(Debug)]
pub struct Mmap {
    name: String,
    map: Option<memmap2::Mmap>,
}

impl Mmap {
    /// Maps the file at `path` and calls it `name` in messages. Errors when it cannot be opened or is not a regular
    /// file.
    pub fn open(path: &Path, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let doing = || format!("opening {}", path.display());
        let file = File::open(path).map_err(|e| Error::io(doing(), e))?;
        let metadata = file.metadata().map_err(|e| Error::io(doing(), e))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Unsupported, format!("{}: not a regular file", doing())));
        }
        // An empty file cannot be mapped on every system.
        if metadata.len() == 0 {
            return Ok(Self { name, map: None });
        }
        // Safety: the map is read-only and private to this value, but another process may still change or shorten the
        // file under it. Changed bytes give a wrong measurement, not undefined control flow: every decoder takes any
        // bytes. A shortened file raises SIGBUS, which ends the process; nothing recorded is lost, since the index
        // commits each examination on its own. Checkpoints are written once (hub caches rename complete files into
        // place), which is why a map is acceptable here.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(doing(), e))?;
        Ok(Self { name, map: Some(map) })
    }
}

impl ByteSource for Mmap {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.len() as u64)
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let bytes: &[u8] = self.map.as_ref().map_or(&[], |map| map);
        slice(&self.name, bytes, range).map(Cow::Borrowed)
    }
}
