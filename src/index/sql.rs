//! How values are kept in columns: words of enumerations, counts, numbers that may not be numbers; and how rows are
//! written.

use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, Row};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{failed, json};
use crate::error::{Error, Result};
use crate::ids::Digest;

/// A unit variant of an enumeration, stored as the word that JSON has for it.
pub(super) struct Word<T>(pub(super) T);

impl<T: Serialize> ToSql for Word<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match serde_json::to_value(&self.0) {
            Ok(Value::String(word)) => Ok(ToSqlOutput::from(word)),
            _ => Err(rusqlite::Error::ToSqlConversionFailure("a value that is not a word".into())),
        }
    }
}

impl<T: DeserializeOwned> FromSql for Word<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = Value::String(value.as_str()?.to_owned());
        serde_json::from_value(word).map(Self).map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

/// A count; above what SQLite holds it is stored as the largest number that it holds.
pub(super) struct Count(pub(super) u64);

impl ToSql for Count {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(i64::try_from(self.0).unwrap_or(i64::MAX)))
    }
}

impl FromSql for Count {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(|count| Self(u64::try_from(count).unwrap_or(0)))
    }
}

/// A number; SQLite stores one that is not a number as NULL.
struct Real(f64);

impl FromSql for Real {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Null => Ok(Self(f64::NAN)),
            value => value.as_f64().map(Self),
        }
    }
}

/// A JSON text, its numbers read exactly.
pub(super) struct JsonText(pub(super) Value);

impl FromSql for JsonText {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        json::exact(value.as_str()?).map(Self).map_err(|error: Error| FromSqlError::Other(Box::new(error)))
    }
}

/// A time, stored in whole seconds since 1970.
pub(super) struct Moment(pub(super) Timestamp);

impl FromSql for Moment {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Timestamp::from_second(value.as_i64()?).map(Self).map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

/// A digest, stored as hex digits.
pub(super) struct Hex(pub(super) Digest);

impl FromSql for Hex {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(|error: Error| FromSqlError::Other(Box::new(error)))
    }
}

/// A column that holds a number, or NULL for not-a-number.
pub(super) fn real(row: &Row<'_>, column: &str) -> rusqlite::Result<f64> {
    row.get::<_, Real>(column).map(|Real(number)| number)
}

/// A column that holds a count.
pub(super) fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, Count>(column).map(|Count(count)| count)
}

/// A column that holds a word of an enumeration.
pub(super) fn word<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get::<_, Word<T>>(column).map(|Word(value)| value)
}

/// Writes a time in RFC 3339 form.
pub(super) fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// What failed where a row of an examination could not be written.
pub(super) const DOING: &str = "recording an examination";

/// Runs one statement, prepared once for each connection.
pub(super) fn execute(connection: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params))
        .map_err(|error| failed(DOING, error))
}

/// The key of a text that many rows share, added if it is new.
pub(super) fn interned(connection: &Connection, text: &str, find: &str, add: &str) -> Result<i64> {
    let known: Option<i64> = connection
        .prepare_cached(find)
        .and_then(|mut statement| statement.query_row([text], |row| row.get(0)).optional())
        .map_err(|error| failed(DOING, error))?;
    if let Some(key) = known {
        return Ok(key);
    }
    execute(connection, add, [text])?;
    Ok(connection.last_insert_rowid())
}
