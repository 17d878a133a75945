//! The SQLite index: every examination with all its measurements, what was judged from them, and queries over both.
//!
//! One file, one writer at a time, any number of readers beside it (write-ahead log). The schema is documented in
//! `src/index/migrations/` and, for those who query it themselves, in `docs/index.md`. A later migration may add tables; a
//! released one is never edited, and a database of each released schema is kept in `tests/index/` and opened by the tests.

pub mod decision;
mod json;
mod judgement;
mod load;
pub mod prevalence;
mod query;
mod rejudge;
mod sql;
mod store;
pub mod triage;
mod variants;
pub mod write;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use rusqlite_migration::{M, Migrations};

pub use judgement::PastJudgement;
pub use query::{
    Cursor, ExaminationFilter, ExaminationRow, Exported, FindingFilter, FindingRow, Order, Page, Paged, RepositoryRow,
};
pub use rejudge::Rejudged;
pub use store::{Recorded, record};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;
use crate::ids::Digest;

/// Every schema change, oldest first. A new one is a file and a line here; released files are never edited.
const STEPS: &[M<'static>] = &[
    M::up(include_str!("migrations/0001-examinations.sql")),
    M::up(include_str!("migrations/0002-queue.sql")),
    M::up(include_str!("migrations/0003-triage.sql")),
    M::up(include_str!("migrations/0004-variants.sql")),
];

const MIGRATIONS: Migrations<'static> = Migrations::from_slice(STEPS);

/// The schema's version in this build: the number of migrations.
pub const SCHEMA_VERSION: usize = STEPS.len();

/// `PRAGMA application_id` of an index: "orth" in ASCII.
const APPLICATION_ID: i64 = 0x6f72_7468;

/// How long a connection waits for another one's lock.
const BUSY: Duration = Duration::from_secs(30);

/// An open index.
pub struct Index {
    connection: Connection,
    path: String,
}

/// An examination as the index has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
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
    /// Opens an index to read and write, creating it or bringing its schema up to date.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::prepare(Self::connect(path, flags)?, &path.display().to_string())
    }

    /// Opens an index that must exist already, to read and write.
    pub fn open_existing(path: &Path) -> Result<Self> {
        drop(Self::must_exist(path)?);
        Self::open(path)
    }

    fn must_exist(path: &Path) -> Result<String> {
        let name = path.display().to_string();
        if path.exists() {
            return Ok(name);
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("opening index {name}: there is no such file; name another with --index, or scan something first"),
        ))
    }

    /// Opens an existing index to read. It has to have this build's schema, since reading changes nothing.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        let name = Self::must_exist(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Self::connect(path, flags)?;
        let doing = format!("opening index {name}");
        let version = Self::check(&connection, &name)?;
        if version != SCHEMA_VERSION as i64 {
            return Err(Error::new(
                ErrorKind::Index,
                format!(
                    "{doing}: it has schema {version} and needs {SCHEMA_VERSION}; any command that writes brings it up to date"
                ),
            ));
        }
        configure(&connection).map_err(|error| failed(&doing, error))?;
        Ok(Self { connection, path: name })
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
        configure(&connection).map_err(step)?;
        // The journal mode is a property of the file; a database in memory keeps its own.
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(step)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(step)?;
        if version < SCHEMA_VERSION as i64 {
            MIGRATIONS.to_latest(&mut connection).map_err(|error| Error::because(ErrorKind::Index, &doing, error))?;
            connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(step)?;
        }
        Ok(Self { connection, path: name.to_owned() })
    }

    /// The schema's version, or why this is not an index that this build can use.
    fn check(connection: &Connection, name: &str) -> Result<i64> {
        let doing = format!("opening index {name}");
        connection.busy_timeout(BUSY).map_err(|error| failed(&doing, error))?;
        let pragma = |pragma: &str| -> Result<i64> {
            connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(|error| failed(&doing, error))
        };
        let (application, version) = (pragma("application_id")?, pragma("user_version")?);
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
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
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(|error| failed(doing, error))?;
        let recorded = record(&transaction, examination, now)?;
        transaction.commit().map_err(|error| failed(doing, error))?;
        Ok(recorded)
    }

    /// The examination whose id starts with these hex digits; more than one such is an error that says so.
    pub fn get(&self, prefix: &str) -> Result<Option<Stored>> {
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
            [key] => load::stored(&self.connection, *key).map(Some),
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
        let target = to.to_str().ok_or_else(|| Error::new(ErrorKind::Usage, format!("{doing}: not a UTF-8 path")))?;
        self.connection.execute("VACUUM INTO ?1", [target]).map(|_| ()).map_err(|error| failed(&doing, error))
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
