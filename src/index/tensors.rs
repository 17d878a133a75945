//! One row of measurements: every column beside the field of the record that it keeps, for writing and for reading.
//!
//! A number with a column of its own name is one word in [`NUMBERS`], which writes it, reads it, and has the tests make
//! one up.

use std::sync::OnceLock;

use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, Row, params_from_iter};

use super::sql::{Count, JsonText, Word, count, execute, interned, real, word};
use crate::arch::Role;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{Projection, TensorMeasurement};

/// A number with a column of its own name: the column, and how the record's field is read and written.
pub(super) type Number<T> = (&'static str, fn(&T) -> f64, fn(&mut T, f64));

macro_rules! numbers {
    ($row:ty: $($field:ident),* $(,)?) => {
        &[$((stringify!($field), |row: &$row| row.$field, |row: &mut $row, number| row.$field = number)),*]
    };
}

/// Those of a pair.
pub(super) const NUMBERS: &[Number<TensorMeasurement>] = numbers!(
    TensorMeasurement: changed_fraction, zeroed_fraction, relative_norm, max_abs, cosine, scale, changed_rows, rounding,
    kurtosis, effective_rank, low_rank_share, cliff, last_share, noise,
);

/// Those of a removed direction.
pub(super) const FIT_NUMBERS: &[Number<Projection>] = numbers!(
    Projection: strength, stderr, consistency, cross_fit, explained, quietness, balance, own_component, agreement,
);

/// A column and the value that it gets.
type Column<'a> = (&'static str, &'a dyn ToSql);

/// Writes one row. The statement is made of the columns beside their values, so the two cannot get out of step.
pub(super) fn write(connection: &Connection, key: i64, ordinal: i64, tensor: &TensorMeasurement) -> Result<()> {
    static INSERT: OnceLock<String> = OnceLock::new();
    let shared = |text: &str| {
        interned(connection, text, "SELECT key FROM word WHERE text = ?1", "INSERT INTO word (text) VALUES (?1)")
    };
    let role = &tensor.role;
    let spectrum = serde_json::to_string(&tensor.spectrum)
        .map_err(|error| Error::because(ErrorKind::Internal, "storing a spectrum", error))?;
    let [rows, columns] = tensor.shape;
    let [base_not_finite, candidate_not_finite] = tensor.not_finite;
    let [scale_explained, row_scale_explained, column_scale_explained] = tensor.scale_explained;
    let [row_norm_drift, column_norm_drift] = tensor.norm_drift;
    let named: [Column<'_>; 23] = [
        ("examination", &key),
        ("ordinal", &ordinal),
        ("name", &shared(&tensor.name)?),
        ("kind", &Word(role.kind)),
        ("module", &shared(&role.module)?),
        ("layer", &role.layer),
        ("expert", &role.expert),
        ("residual", &role.residual.map(Word)),
        ("rows", &Count(rows)),
        ("columns", &Count(columns)),
        ("base_dtype", &shared(&tensor.base_dtype)?),
        ("candidate_dtype", &shared(&tensor.candidate_dtype)?),
        ("sameness", &Word(tensor.sameness)),
        ("base_not_finite", &Count(base_not_finite)),
        ("candidate_not_finite", &Count(candidate_not_finite)),
        ("scale_explained", &scale_explained),
        ("row_scale_explained", &row_scale_explained),
        ("column_scale_explained", &column_scale_explained),
        ("row_norm_drift", &row_norm_drift),
        ("column_norm_drift", &column_norm_drift),
        ("spectrum", &spectrum),
        ("above_noise", &tensor.above_noise),
        ("values_known", &tensor.values_known),
    ];
    let fit = tensor.projection.as_ref();
    let numbers = NUMBERS.iter().map(|(column, get, _)| (*column, Value::from(get(tensor))));
    let fitted = FIT_NUMBERS.iter().map(|(column, get, _)| (*column, fit.map(get).into()));
    let values: Vec<(&'static str, Value)> = numbers.chain(fitted).chain(fit_columns(fit)).collect();
    let values = values.iter().map(|(column, value)| -> Column<'_> { (column, value) });
    let row: Vec<Column<'_>> = named.into_iter().chain(values).collect();
    let insert = INSERT.get_or_init(|| insert_into("tensor_measurement", &row));
    execute(connection, insert, params_from_iter(row.iter().map(|(_, value)| value)))?;
    Ok(())
}

/// The columns of a removed direction that are no plain numbers, NULL where none was tried.
fn fit_columns(fit: Option<&Projection>) -> [(&'static str, Value); 6] {
    [
        ("fits", fit.map(|fit| fit.fits).into()),
        ("sibling_agreement", fit.and_then(|fit| fit.sibling_agreement).into()),
        ("directions", fit.map(|fit| fit.directions).into()),
        ("shared_strength", fit.and_then(|fit| fit.shared_strength).into()),
        ("shared_consistency", fit.and_then(|fit| fit.shared_consistency).into()),
        ("alone", fit.map(|fit| fit.alone).into()),
    ]
}

/// The statement that inserts these columns' values in their order.
fn insert_into(table: &str, row: &[Column<'_>]) -> String {
    let columns: Vec<&str> = row.iter().map(|(column, _)| *column).collect();
    let marks = vec!["?"; row.len()].join(", ");
    format!("INSERT INTO {table} ({}) VALUES ({marks})", columns.join(", "))
}

/// Reads one row of the view `tensor`.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<TensorMeasurement> {
    let role = Role {
        kind: word(row, "kind")?,
        module: row.get("module")?,
        layer: row.get("layer")?,
        expert: row.get("expert")?,
        residual: row.get::<_, Option<Word<_>>>("residual")?.map(|Word(axis)| axis),
    };
    let JsonText(spectrum) = row.get("spectrum")?;
    let shares = spectrum.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut tensor = TensorMeasurement {
        shape: [count(row, "rows")?, count(row, "columns")?],
        base_dtype: row.get("base_dtype")?,
        candidate_dtype: row.get("candidate_dtype")?,
        not_finite: [count(row, "base_not_finite")?, count(row, "candidate_not_finite")?],
        scale_explained: [
            real(row, "scale_explained")?,
            real(row, "row_scale_explained")?,
            real(row, "column_scale_explained")?,
        ],
        norm_drift: [real(row, "row_norm_drift")?, real(row, "column_norm_drift")?],
        spectrum: shares.iter().map(|share| share.as_f64().unwrap_or(f64::NAN)).collect(),
        above_noise: row.get("above_noise")?,
        values_known: row.get("values_known")?,
        projection: read_fit(row)?,
        ..TensorMeasurement::same(row.get("name")?, role, word(row, "sameness")?)
    };
    for (column, _, set) in NUMBERS {
        set(&mut tensor, real(row, column)?);
    }
    Ok(tensor)
}

/// The removed direction of a row, where one was tried.
fn read_fit(row: &Row<'_>) -> rusqlite::Result<Option<Projection>> {
    let Some(fits) = row.get::<_, Option<bool>>("fits")? else { return Ok(None) };
    let mut fit = Projection {
        fits,
        sibling_agreement: row.get("sibling_agreement")?,
        directions: row.get("directions")?,
        shared_strength: row.get("shared_strength")?,
        shared_consistency: row.get("shared_consistency")?,
        alone: row.get("alone")?,
        ..Projection::default()
    };
    for (column, _, set) in FIT_NUMBERS {
        set(&mut fit, real(row, column)?);
    }
    Ok(Some(fit))
}
