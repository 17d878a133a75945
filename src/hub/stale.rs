//! What a killed process leaves in the cache: temporary files that nobody holds, and downloads that nobody goes on
//! with.
//!
//! Whoever writes holds an operating-system lock on the file, which goes with the process. So what can be locked
//! belongs to nobody. Temporary files are made and locked under a shared lock of their folder, and thrown away under
//! its exclusive lock: none is taken for abandoned between the two.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use crate::limits;
use crate::source::private;

/// The file whose lock a folder's temporary files are made and thrown away under.
const GATE: &str = ".lock";

/// How temporary files' names begin.
const PREFIX: &str = ".tmp";

fn gate(folder: &Path) -> std::io::Result<File> {
    private::options().write(true).create(true).truncate(false).open(folder.join(GATE))
}

/// A temporary file in a folder of the cache, locked as long as it is open.
pub fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    private::folder(folder)?;
    let gate = gate(folder)?;
    // Where the file system has no locks, nothing is thrown away either.
    let _ = gate.lock_shared();
    let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// Opens a file that grows over several runs, and locks it: `None` when `done` says that it is not needed any more,
/// once the lock is had. The file may have been finished or thrown away by whoever held the lock before.
pub(super) fn growing(path: &Path, done: impl Fn() -> bool) -> std::io::Result<Option<File>> {
    loop {
        let file = private::options().read(true).append(true).create(true).open(path)?;
        file.lock()?;
        if done() {
            return Ok(None);
        }
        if is_at(&file, path) {
            return Ok(Some(file));
        }
    }
}

/// Whether a path still leads to an open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(open), Ok(there)) = (file.metadata(), path.metadata()) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Whether a path still leads to an open file: it does where open files cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Throws away what killed processes left in the cache: temporary files that no process holds, and downloads that no
/// process holds and that have not grown for a week. Returns how many. What cannot be removed stays.
pub fn clean(cache: &Path) -> usize {
    let abandoned = SystemTime::now().checked_sub(Duration::from_secs(limits::ABANDONED_SECONDS));
    let mut removed = 0;
    for folder in ["parts", "factors"].map(|name| cache.join(name)) {
        if !folder.is_dir() {
            continue;
        }
        let Ok(gate) = gate(&folder) else { continue };
        // Somebody is just making one: another start will do.
        if gate.try_lock().is_err() {
            continue;
        }
        removed += files(&folder, |name| name.starts_with(PREFIX)).filter(|path| remove(path, None)).count();
    }
    for folder in ["blobs", "files"].map(|name| cache.join(name)) {
        removed += files(&folder, |name| name.ends_with(".partial")).filter(|path| remove(path, abandoned)).count();
    }
    removed
}

fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(move |entry| {
        let plain = entry.file_type().is_ok_and(|kind| kind.is_file());
        (plain && entry.file_name().to_str().is_some_and(&wanted)).then(|| entry.path())
    })
}

/// Removes a file that nobody holds and that was not written since.
fn remove(path: &Path, since: Option<SystemTime>) -> bool {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return false };
    if file.try_lock().is_err() {
        return false;
    }
    let old = since.is_none_or(|since| {
        file.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified < since)
    });
    old && std::fs::remove_file(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_thrown_away_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        let held = temporary(&cache.path().join("parts")).unwrap();
        std::fs::write(cache.path().join("parts/.tmpKilled"), "left").unwrap();
        std::fs::create_dir_all(cache.path().join("factors")).unwrap();
        std::fs::write(cache.path().join("factors/.tmpKilled"), "left").unwrap();
        std::fs::write(cache.path().join("factors/aa"), "kept").unwrap();
        let blobs = cache.path().join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let old = SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
        let put = |name: &str, time: Option<SystemTime>| {
            std::fs::write(blobs.join(name), "part").unwrap();
            if let Some(time) = time {
                File::options().write(true).open(blobs.join(name)).unwrap().set_modified(time).unwrap();
            }
        };
        put("old.partial", Some(old));
        put("young.partial", None);
        put("locked.partial", Some(old));
        put("whole", Some(old));
        let locked = growing(&blobs.join("locked.partial"), || false).unwrap().unwrap();
        assert_eq!(clean(cache.path()), 3);
        assert!(held.path().exists() && cache.path().join("factors/aa").exists());
        for (name, there) in
            [("old.partial", false), ("young.partial", true), ("locked.partial", true), ("whole", true)]
        {
            assert_eq!(blobs.join(name).exists(), there, "{name}");
        }
        drop((held, locked));
        assert_eq!(clean(cache.path()), 1, "the lock goes with its holder");
        assert_eq!(clean(&cache.path().join("nowhere")), 0);
    }

    #[test]
    #[cfg(unix)]
    fn a_file_that_was_thrown_away_under_a_lock_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.partial");
        let first = growing(&path, || false).unwrap().unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || growing(&path, || false).unwrap().unwrap()
        });
        std::thread::sleep(Duration::from_millis(50));
        std::fs::remove_file(&path).unwrap();
        drop(first);
        let second = waiting.join().unwrap();
        assert!(is_at(&second, &path));
    }
}
