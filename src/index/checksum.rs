//! A hash over all rows of an examination, so that bytes that changed inside them are noticed when they are read.
//!
//! SQLite's own check sees damaged pages and broken trees, not another number in a row. The hash is over the rows as
//! SQL gives them, with names in the place of keys that are shared, and not over the examination as this version spells
//! it: a field that a later version adds changes no hash, as NULL columns are left out. It is no signature: whoever can
//! write the file can write the hash as well.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest as _, Sha256};

use super::sql::execute;
use super::{Index, failed};
use crate::error::{Error, ErrorKind, Result};

/// All that belongs to the examination with key `?1`, in a fixed order.
const PARTS: &[&str] = &[
    "SELECT e.*, c.hash AS catalogue_hash FROM examination e LEFT JOIN catalogue c ON c.key = e.catalogue WHERE e.key = ?1",
    "SELECT s.*, r.source, r.hub, r.owner FROM side s LEFT JOIN repository r ON r.key = s.repository
     WHERE s.key = (SELECT base FROM examination WHERE key = ?1)",
    "SELECT s.*, r.source, r.hub, r.owner FROM side s LEFT JOIN repository r ON r.key = s.repository
     WHERE s.key = (SELECT candidate FROM examination WHERE key = ?1)",
    "SELECT * FROM side_file WHERE side = (SELECT base FROM examination WHERE key = ?1) ORDER BY ordinal",
    "SELECT * FROM side_file WHERE side = (SELECT candidate FROM examination WHERE key = ?1) ORDER BY ordinal",
    "SELECT * FROM not_examined WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM anomaly WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM claim_evidence WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM orthogonalization WHERE examination = ?1",
    "SELECT * FROM orthogonalization_layer WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM recipe WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM strength WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM finding WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM past_judgement WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM measurement WHERE examination = ?1 ORDER BY name",
    "SELECT * FROM tensor WHERE examination = ?1 ORDER BY ordinal",
    "SELECT * FROM variant WHERE examination = ?1 ORDER BY ordinal",
];

/// The hash of the examination with that key as its rows are now, in hex.
fn of(connection: &Connection, key: i64) -> Result<String> {
    let mut hash = Sha256::new();
    for part in PARTS {
        add(connection, key, part, &mut hash).map_err(|error| failed("hashing the rows of an examination", error))?;
    }
    Ok(hex::encode(hash.finalize()))
}

fn add(connection: &Connection, key: i64, part: &str, hash: &mut Sha256) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(part)?;
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    // Nothing can run into its neighbour: every text goes in with its length, every row and part with a mark.
    let mut text = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    text(b"part");
    let mut rows = statement.query([key])?;
    while let Some(row) = rows.next()? {
        text(b"row");
        for (column, name) in names.iter().enumerate() {
            let name = name.as_bytes();
            let pieces: [&[u8]; 3] = match row.get_ref(column)? {
                ValueRef::Null => continue,
                ValueRef::Integer(number) => [name, b"integer", &number.to_le_bytes()],
                ValueRef::Real(number) => [name, b"real", &number.to_bits().to_le_bytes()],
                ValueRef::Text(bytes) => [name, b"text", bytes],
                ValueRef::Blob(bytes) => [name, b"blob", bytes],
            };
            pieces.into_iter().for_each(&mut text);
        }
    }
    Ok(())
}

/// Writes the hash of an examination's rows as they are now.
pub(super) fn write(connection: &Connection, key: i64) -> Result<()> {
    let sql = "INSERT INTO checksum (examination, sha256) VALUES (?1, ?2)
               ON CONFLICT (examination) DO UPDATE SET sha256 = excluded.sha256";
    execute(connection, sql, (key, of(connection, key)?)).map(|_| ())
}

/// Whether an examination's rows are those that were written; `true` where no hash of them was.
pub(super) fn holds(connection: &Connection, key: i64) -> Result<bool> {
    let written: Option<String> = connection
        .prepare_cached("SELECT sha256 FROM checksum WHERE examination = ?1")
        .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
        .map_err(|error| failed("reading the checksum of an examination", error))?;
    match written {
        Some(written) => Ok(written == of(connection, key)?),
        None => Ok(true),
    }
}

/// The error of an examination whose rows are not those that were written.
pub(super) fn broken(connection: &Connection, key: i64) -> Error {
    // Its id may be what changed; it is told as it stands.
    let id: Option<String> =
        connection.query_row("SELECT id FROM examination WHERE key = ?1", [key], |row| row.get(0)).ok();
    let id = id.unwrap_or_else(|| format!("number {key}"));
    Error::new(ErrorKind::Index, format!("reading examination {id}: its rows are not what was written (checksum)"))
}

impl Index {
    /// The examinations whose rows cannot be read or are not what was written, each with its error. Reads all of the
    /// index.
    pub fn broken_examinations(&self) -> Result<Vec<Error>> {
        let doing = "checking the index's rows";
        let keys: Vec<i64> = self
            .connection()
            .prepare("SELECT key FROM examination ORDER BY key")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(|error| failed(doing, error))?;
        let broken = keys.into_iter().filter_map(|key| match holds(self.connection(), key) {
            Ok(true) => None,
            Ok(false) => Some(broken(self.connection(), key)),
            Err(error) => Some(error),
        });
        Ok(broken.collect())
    }

    /// Examinations that have no checksum, as an earlier version wrote them.
    pub fn without_checksum(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM examination WHERE key NOT IN (SELECT examination FROM checksum)";
        let count: i64 = self
            .connection()
            .query_row(sql, [], |row| row.get(0))
            .map_err(|error| failed("counting checksums", error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}
