//! Files and folders for their user alone: the index names gated models and holds notes on decisions, the cache holds
//! weights that others on the machine may have no grant for.

use std::fs::{DirBuilder, OpenOptions};
use std::path::Path;

/// Makes a folder and those above it, where they are missing.
pub fn folder(path: &Path) -> std::io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Options for opening a file, under which one that is made is the user's alone.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_made_is_the_users_alone() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("a/b");
        folder(&inner).unwrap();
        folder(&inner).unwrap();
        options().write(true).create(true).truncate(false).open(inner.join("c")).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!([&*top.path().join("a"), &*inner, &*inner.join("c")].map(mode), [0o700, 0o700, 0o600]);
    }
}
