//! The SQLite index: every examination with all its measurements, what was judged from them, and queries over both.
//!
//! One file, one writer at a time, any number of readers beside it (write-ahead log). The schema is documented in
//! `src/index/migrations/` and, for those who query it themselves, in `docs/index.md`. A later migration may add
//! tables; a released one is never edited, and a database of each released schema is kept in `tests/index/` and opened
//! by the tests.

mod bounded;
mod checksum;
pub mod decision;
pub mod fingerprints;
mod json;
mod judgement;
mod load;
pub mod prevalence;
mod query;
mod rejudge;
mod sql;
mod store;
mod tensors;
pub mod triage;
mod variants;
pub mod write;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

pub use judgement::PastJudgement;
pub use query::{
    Cursor, ExaminationFilter, ExaminationRow, Exported, FindingFilter, FindingRow, ListOrder, PageBounds, Paged,
    RepositoryRow,
};
pub use rejudge::Rejudged;
pub use store::{Recorded, record};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;
use crate::ids::Digest;
use crate::source::private;

/// Every schema change, oldest first. A new one is a file and a line here; released files are never edited.
const STEPS: &[&str] = &[
    include_str!("migrations/0001-examinations.sql"),
    include_str!("migrations/0002-queue.sql"),
    include_str!("migrations/0003-triage.sql"),
    include_str!("migrations/0004-variants.sql"),
    include_str!("migrations/0005-checksums.sql"),
    include_str!("migrations/0006-claims.sql"),
    include_str!("migrations/0007-surroundings.sql"),
    include_str!("migrations/0008-misfits.sql"),
    include_str!("migrations/0009-fingerprints.sql"),
];

/// The schema's version in this build: the number of migrations.
pub const SCHEMA_VERSION: usize = STEPS.len();

/// `PRAGMA application_id` of an index: "orth" in ASCII.
const APPLICATION_ID: i64 = 0x6f72_7468;

/// How long a connection waits for another one's lock.
const BUSY: Duration = Duration::from_secs(30);

/// Bytes of the shortest SQLite file: one page.
const SHORTEST: u64 = 512;

/// How long one that was turned away without a wait lets the other one work.
const AGAIN: Duration = Duration::from_millis(20);

/// An open index.
pub struct Index {
    connection: Connection,
    path: String,
    frozen: bool,
}

/// An examination as the index has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredExamination {
    /// Its id.
    pub id: Digest,
    /// The examination, equal to what was recorded.
    pub examination: Examination,
    /// When these measurements were first made.
    pub first_seen: Timestamp,
    /// When they were last made.
    pub last_seen: Timestamp,
    /// How often.
    pub runs: u64,
    /// When the current judgement was made.
    pub judged_at: Timestamp,
}

impl Index {
    /// Opens an index to read and write, creating it (for its user alone) or bringing its schema up to date.
    pub fn open(path: &Path) -> Result<Self> {
        not_cut(path, 1)?;
        create(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::prepare(Self::connect(path, flags)?, &path.display().to_string())
    }

    /// Opens an index that must exist already, to read and write.
    pub fn open_existing(path: &Path) -> Result<Self> {
        must_exist(path)?;
        Self::open(path)
    }

    /// Opens an existing index to read. It has to have this build's schema, since reading changes nothing.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        let (index, version) = Self::open_as_it_is(path)?;
        if version == SCHEMA_VERSION as i64 { Ok(index) } else { Err(outdated(path, version)) }
    }

    /// Opens an existing index to read, after bringing an older schema up to date where the file can be written.
    pub fn open_to_read(path: &Path) -> Result<Self> {
        let (index, version) = Self::open_as_it_is(path)?;
        match version == SCHEMA_VERSION as i64 {
            true => Ok(index),
            false if index.frozen => Err(outdated(path, version)),
            false => {
                drop(index);
                Self::open(path)
            }
        }
    }

    /// An existing index, whatever its schema, with the version of that.
    ///
    /// A file in write-ahead-log mode needs a second one beside it even to be read. Where none can be made (read-only
    /// media), it is read as one that nobody changes, which holds as long as nobody can.
    fn open_as_it_is(path: &Path) -> Result<(Self, i64)> {
        must_exist(path)?;
        let name = path.display().to_string();
        let doing = format!("opening index {name}");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Self::connect(path, flags).and_then(|connection| {
            let version = Self::check(&connection, &name)?;
            Ok((connection, version))
        });
        let (connection, version, frozen) = match opened {
            Ok((connection, version)) => (connection, version, false),
            Err(error) if is_unwritable(&error) => {
                let journal = PathBuf::from(format!("{name}-wal"));
                if journal.metadata().is_ok_and(|journal| journal.len() > 0) {
                    let what = format!(
                        "{doing}: nothing can be written there, and its last changes, in {}, can then not be read; copy both \
                         files to where you can write",
                        journal.display()
                    );
                    return Err(Error::new(ErrorKind::Index, what));
                }
                let real = path.canonicalize().map_err(|error| Error::io(&doing, error))?;
                // The path as part of an address: with its question marks and per cent signs escaped.
                let mut address = url::Url::from_file_path(&real)
                    .map_err(|()| Error::new(ErrorKind::Usage, format!("{doing}: not a path of this machine")))?;
                address.set_query(Some("immutable=1"));
                let flags = flags | OpenFlags::SQLITE_OPEN_URI;
                let connection =
                    Connection::open_with_flags(address.as_str(), flags).map_err(|error| failed(&doing, error))?;
                let version = Self::check(&connection, &name)?;
                (connection, version, true)
            }
            Err(error) => return Err(error),
        };
        configure(&connection).map_err(|error| failed(&doing, error))?;
        Ok((Self { connection, path: name, frozen }, version))
    }

    /// Whether it is read from where nothing can be written, on the word that nobody changes it meanwhile.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// An index that lives and dies with the program.
    pub fn in_memory() -> Result<Self> {
        let name = "in memory";
        let connection =
            Connection::open_in_memory().map_err(|error| failed(format!("opening index {name}"), error))?;
        Self::prepare(connection, name)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
        Connection::open_with_flags(path, flags)
            .map_err(|error| failed(format!("opening index {}", path.display()), error))
    }

    fn prepare(mut connection: Connection, name: &str) -> Result<Self> {
        let doing = format!("opening index {name}");
        let version = Self::check(&connection, name)?;
        let step = |error: rusqlite::Error| failed(&doing, error);
        // SQLite opens a file that it may not write for reading, without a word.
        if connection.is_readonly("main").map_err(step)? {
            return Err(Error::new(ErrorKind::Index, format!("{doing}: it cannot be written")));
        }
        configure(&connection).map_err(step)?;
        write_ahead(&connection).map_err(step)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(step)?;
        if version < SCHEMA_VERSION as i64 {
            Self::migrate(&mut connection, name)?;
        }
        Ok(Self { connection, path: name.to_owned(), frozen: false })
    }

    /// Brings the schema up to date, all of it or nothing.
    fn migrate(connection: &mut Connection, name: &str) -> Result<()> {
        let doing = format!("bringing the schema of index {name} up to date");
        let step = |error: rusqlite::Error| failed(&doing, error);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(step)?;
        // Asked again under the lock: another process may have been faster.
        let version = usize::try_from(Self::check(&transaction, name)?).unwrap_or(0);
        for sql in STEPS.iter().skip(version) {
            transaction.execute_batch(sql).map_err(step)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION as i64).map_err(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(step)?;
        transaction.commit().map_err(step)
    }

    /// The schema's version, or why this is not an index that this build can use.
    fn check(connection: &Connection, name: &str) -> Result<i64> {
        let doing = format!("opening index {name}");
        connection.busy_timeout(BUSY).map_err(|error| failed(&doing, error))?;
        // One statement, so that what another process is about to make is seen whole or not at all.
        let (application, version, tables): (i64, i64, i64) = connection
            .query_row(
                "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
                 (SELECT count(*) FROM sqlite_schema)",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .map_err(|error| failed(&doing, error))?;
        if tables > 0 && application != APPLICATION_ID {
            return Err(Error::new(ErrorKind::Usage, format!("{doing}: it is a database of another program")));
        }
        if version > SCHEMA_VERSION as i64 {
            return Err(Error::new(
                ErrorKind::Index,
                format!("{doing}: its schema {version} is newer than this build's {SCHEMA_VERSION}; update orthoscope"),
            ));
        }
        Ok(version)
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The connection: for modules that keep tables of their own in the index.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection, to write with.
    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Records an examination in a transaction of its own; see [`record`].
    pub fn record(&mut self, examination: &Examination, now: Timestamp) -> Result<Recorded> {
        let doing = "recording an examination";
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| failed(doing, error))?;
        let recorded = record(&transaction, examination, now)?;
        transaction.commit().map_err(|error| failed(doing, error))?;
        Ok(recorded)
    }

    /// The examination whose id starts with these hex digits; more than one such is an error that says so.
    pub fn get(&self, prefix: &str) -> Result<Option<StoredExamination>> {
        self.key_of(prefix)?.map(|key| load::stored(&self.connection, key)).transpose()
    }

    /// The same without its measurements and those of its variants, which may be of a hundred thousand tensors.
    pub fn get_short(&self, prefix: &str) -> Result<Option<StoredExamination>> {
        self.key_of(prefix)?.map(|key| load::short(&self.connection, key)).transpose()
    }

    fn key_of(&self, prefix: &str) -> Result<Option<i64>> {
        let doing = format!("looking for examination {prefix:?}");
        let prefix = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let Some(end) = hex_range_end(prefix) else { return Ok(None) };
        let mut statement = self
            .connection
            .prepare_cached("SELECT key FROM examination WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2")
            .map_err(|error| failed(&doing, error))?;
        let keys: Vec<i64> = statement
            .query_map([prefix, end.as_str()], |row| row.get(0))
            .and_then(Iterator::collect)
            .map_err(|error| failed(&doing, error))?;
        match keys.as_slice() {
            [] => Ok(None),
            [key] => Ok(Some(*key)),
            _ => Err(Error::new(ErrorKind::Usage, format!("{doing}: several begin like this; give more of the id"))),
        }
    }

    /// The text of the signature with that hash (`sha256:…`), where a catalogue with it was recorded.
    pub fn signature_text(&self, hash: &str) -> Result<Option<String>> {
        self.connection
            .prepare_cached("SELECT text FROM signature WHERE hash = ?1")
            .and_then(|mut statement| statement.query_row([hash], |row| row.get(0)).optional())
            .map_err(|error| failed(format!("looking for signature {hash}"), error))
    }

    /// SQLite's own check of the file: the faults it finds, none as a rule.
    pub fn integrity(&self) -> Result<Vec<String>> {
        let doing = format!("checking index {}", self.path);
        let mut statement = self.connection.prepare("PRAGMA integrity_check").map_err(|error| failed(&doing, error))?;
        let lines: Vec<String> = statement
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect)
            .map_err(|error| failed(&doing, error))?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }

    /// Writes a consistent copy of the index, journal included, to a new file.
    pub fn snapshot(&self, to: &Path) -> Result<()> {
        let doing = format!("copying index {} to {}", self.path, to.display());
        if to.exists() {
            return Err(Error::new(ErrorKind::Usage, format!("{doing}: the file exists")));
        }
        create(to)?;
        let target = to.to_str().ok_or_else(|| Error::new(ErrorKind::Usage, format!("{doing}: not a UTF-8 path")))?;
        self.connection.execute("VACUUM INTO ?1", [target]).map(|_| ()).map_err(|error| {
            // What is there is empty, or part of a copy.
            let _ = std::fs::remove_file(to);
            failed(&doing, error)
        })
    }
}

/// An index that is to be read or changed must be there, and more than nothing.
fn must_exist(path: &Path) -> Result<()> {
    if path.exists() {
        return not_cut(path, 0);
    }
    let name = path.display();
    Err(Error::new(
        ErrorKind::NotFound,
        format!("opening index {name}: there is no such file; name another with --index, or scan something first"),
    ))
}

/// SQLite takes a file of fewer bytes than a page for a new database. Here it is one that lost its contents, or no
/// database; `shortest` is the length from which on that is an error.
fn not_cut(path: &Path, shortest: u64) -> Result<()> {
    match path.metadata() {
        Ok(file) if file.is_file() && (shortest..SHORTEST).contains(&file.len()) => {
            let what = if file.len() == 0 { "it is an empty file" } else { "it is too short a file" };
            let doing =
                format!("opening index {}: {what}; restore a copy, or name another with --index", path.display());
            Err(Error::new(ErrorKind::Index, doing))
        }
        _ => Ok(()),
    }
}

/// Makes an empty file that only its user can read, where there is none: SQLite takes it for a new database, and gives
/// the files beside it the same rights.
fn create(path: &Path) -> Result<()> {
    match private::options().write(true).create_new(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io(format!("making index {}", path.display()), error)),
    }
}

fn outdated(path: &Path, version: i64) -> Error {
    Error::new(
        ErrorKind::Index,
        format!(
            "opening index {}: it has schema {version} and needs {SCHEMA_VERSION}; any command that writes brings it up to date",
            path.display()
        ),
    )
}

/// Whether SQLite could not make the files that it needs beside a database.
fn is_unwritable(error: &Error) -> bool {
    let cause = error.source.as_deref().and_then(|source| source.downcast_ref::<rusqlite::Error>());
    let code = cause.and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// Puts the file into write-ahead-log mode, in which it stays; a database in memory keeps its own.
///
/// Of several connections that do so to a new file SQLite turns all but one away at once, without the wait that it was
/// told to make, as each might hold what another waits for. They ask again.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let began = Instant::now();
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && began.elapsed() < BUSY => {
                std::thread::sleep(AGAIN);
            }
            done => return done,
        }
    }
}

/// Settings of every connection.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(128);
    connection.pragma_update(None, "foreign_keys", true)?;
    // A database file is input too: nothing in it may call functions that are not plain SQL.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cache_size", -65_536)
}

/// A database error with what was being done.
pub(crate) fn failed(doing: impl Into<String>, error: rusqlite::Error) -> Error {
    let error = match error {
        // The statement, which may be a whole migration, tells the user nothing.
        rusqlite::Error::SqlInputError { error, msg, .. } => rusqlite::Error::SqliteFailure(error, Some(msg)),
        error => error,
    };
    Error::because(ErrorKind::Index, doing, error)
}

/// The first string of hex digits after all that begin with the prefix; `None` when the prefix is no hex digits.
fn hex_range_end(prefix: &str) -> Option<String> {
    let plain = !prefix.is_empty() && prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // `g` comes after every hex digit.
    plain.then(|| format!("{prefix}g"))
}

#[cfg(test)]
pub(crate) mod samples;
/// A time as RFC 3339 text, for JSON.
fn time_as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[cfg(test)]
mod tests;
