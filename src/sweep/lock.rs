//! One sweep of an index at a time: an operating-system lock on a file beside the index, which a killed process cannot
//! keep. The file is there as long as a sweep is, and longer only after a kill.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// How often a lock is tried for: who only looks ([`is_held`]) holds it for a moment.
const TRIES: u32 = 5;

/// How long between.
const PAUSE: Duration = Duration::from_millis(20);

/// The lock, until it is dropped.
pub(super) struct Lock {
    /// The lock goes with its handle.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of the index at `index`. `Usage` when another sweep holds it.
    pub(super) fn take(index: &Path) -> Result<Self> {
        let path = beside(index);
        for _ in 0..TRIES {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|error| Error::io(format!("opening {}", path.display()), error))?;
            // Who held it before may have taken the file away since it was opened here: a lock on what nobody else can
            // open any more keeps nobody out.
            if file.try_lock().is_ok() && is_at(&file, &path) {
                return Ok(Self { _file: file, path });
            }
            thread::sleep(PAUSE);
        }
        Err(Error::new(ErrorKind::Usage, format!("sweeping into {}: another sweep is at it", index.display())))
    }
}

impl Drop for Lock {
    /// Takes the file away while the lock is held, so that it can be nobody else's. Where an open file cannot be taken
    /// away it stays, as harmless as after a kill.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a sweep is at the index now.
pub fn is_held(index: &Path) -> bool {
    let Ok(file) = File::open(beside(index)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn beside(index: &Path) -> PathBuf {
    PathBuf::from(format!("{}.sweep-lock", index.display()))
}

/// Whether the open file is the one that has the path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    matches!((file.metadata(), fs::metadata(path)), (Ok(held), Ok(found))
        if (held.dev(), held.ino()) == (found.dev(), found.ino()))
}

/// Elsewhere an open file keeps its path.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_leaves_no_file_behind_and_is_none_on_a_file_that_was_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("index.db");
        assert!(!is_held(&index));
        let lock = Lock::take(&index).unwrap();
        assert!(is_held(&index) && Lock::take(&index).is_err());
        // Somebody opens the file and waits while its holder ends: the path is another file's by the time of the lock.
        let waiting = File::open(beside(&index)).unwrap();
        drop(lock);
        assert!(!beside(&index).exists());
        waiting.try_lock().unwrap();
        #[cfg(unix)]
        assert!(!is_at(&waiting, &beside(&index)));
        let next = Lock::take(&index).unwrap();
        #[cfg(unix)]
        assert!(!is_at(&waiting, &beside(&index)));
        assert!(is_held(&index));
        drop(next);
        // What a kill left behind keeps nobody out.
        fs::write(beside(&index), "").unwrap();
        assert!(!is_held(&index));
        drop(Lock::take(&index).unwrap());
        assert!(!beside(&index).exists());
    }

    #[test]
    fn of_many_that_try_at_once_one_at_a_time_holds_the_lock() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("index.db");
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Ok(lock) = Lock::take(&index) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                        thread::yield_now();
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 0);
    }
}
