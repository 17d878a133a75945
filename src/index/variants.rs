//! The variants of a repository: summary columns to ask by, and each one's whole examination beside them.

use rusqlite::{Connection, params};

use super::failed;
use super::sql::{Word, execute};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Orthogonalization};

/// Writes the variants of the examination with that key in the place of what is there.
pub(super) fn write(connection: &Connection, key: i64, variants: &[Examination]) -> Result<()> {
    execute(connection, "DELETE FROM variant WHERE examination = ?1", [key])?;
    for (ordinal, variant) in (0i64..).zip(variants) {
        let mut record = Vec::new();
        ciborium::into_writer(variant, &mut record)
            .map_err(|error| Error::because(ErrorKind::Internal, "storing a variant", error))?;
        let evidence = variant.orthogonalization.as_ref();
        execute(
            connection,
            "INSERT INTO variant (examination, ordinal, name, format, status, depth, relation, verdict, because, strength,
             detection_limit, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                key,
                ordinal,
                variant.candidate.variant.as_deref().unwrap_or_default(),
                variant.candidate.format,
                Word(variant.status),
                Word(variant.depth),
                Word(variant.relation),
                Word(variant.verdict),
                variant.because,
                evidence.and_then(Orthogonalization::median_strength),
                evidence.map(|evidence| evidence.detection_limit),
                record,
            ],
        )?;
    }
    Ok(())
}

/// The variants of the examination with that key; empty where it is of a single checkpoint.
pub(super) fn read(connection: &Connection, key: i64) -> Result<Vec<Examination>> {
    let doing = "reading the variants of an examination";
    let records: Vec<Vec<u8>> = connection
        .prepare_cached("SELECT record FROM variant WHERE examination = ?1 ORDER BY ordinal")
        .and_then(|mut statement| statement.query_map([key], |row| row.get(0))?.collect())
        .map_err(|error| failed(doing, error))?;
    let decode = |record: Vec<u8>| {
        // Keys longer than the reader's own buffer would be refused.
        let mut buffer = vec![0; record.len()];
        ciborium::de::from_reader_with_buffer(record.as_slice(), &mut buffer)
            .map_err(|error| Error::because(ErrorKind::Index, doing, error))
    };
    records.into_iter().map(decode).collect()
}
