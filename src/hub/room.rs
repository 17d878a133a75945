//! Room on the disk, asked for before a download and not found out by filling it.

use std::path::Path;

use super::Client;
use crate::error::{Error, ErrorKind, Result};

/// Free bytes of the file system that a folder is on, where the system tells.
#[cfg(unix)]
pub fn free(folder: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(folder).ok()?;
    facts.f_bavail.checked_mul(facts.f_frsize)
}

/// Free bytes of the file system that a folder is on, where the system tells.
#[cfg(not(unix))]
pub fn free(_: &Path) -> Option<u64> {
    None
}

impl Client {
    /// Whether `further` bytes fit into the cache with the reserve left over; an `Io` error where they do not, as when
    /// the disk were full.
    pub fn make_sure_of_room(&self, further: u64, doing: &str) -> Result<()> {
        let reserve = self.settings().reserve;
        // A cache that is not there yet will be where the nearest folder is.
        let Some(free) = self.cache().ancestors().find(|folder| folder.is_dir()).and_then(free) else { return Ok(()) };
        if further == 0 || further.saturating_add(reserve) <= free {
            return Ok(());
        }
        let cache = self.cache().display();
        Err(Error::new(
            ErrorKind::Io,
            format!("{doing}: no room for {further} bytes in {cache}: {free} are free, of which {reserve} are kept so"),
        ))
    }
}
