//! One row an examination as CSV (RFC 4180 with line feeds), safe to open in a spreadsheet.

use std::io::Write;

use crate::error::{Error, Result};
use crate::report::columns::{self, COLUMNS, Cell};
use crate::report::{Renderer, Report, Style, sanitise};

/// Longest text of a cell; a longer one is cut in its middle.
const CELL_CHARACTERS: usize = 1000;

/// The renderer.
pub struct Csv;

impl Renderer for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn purpose(&self) -> &'static str {
        "one row an examination, for a spreadsheet"
    }

    fn extension(&self) -> &'static str {
        "csv"
    }

    fn media_type(&self) -> &'static str {
        "text/csv; charset=utf-8"
    }

    fn render(&self, report: &Report, _: &Style, out: &mut dyn Write) -> Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(COLUMNS.iter().map(|column| column.name)).map_err(failed)?;
        for row in columns::rows(report) {
            writer.write_record(COLUMNS.iter().map(|column| cell((column.value)(&row)))).map_err(failed)?;
        }
        writer.flush().map_err(super::writing)
    }
}

/// A table of text, harmless as the rest.
pub fn table(lines: &[Vec<String>], out: &mut dyn Write) -> Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    for line in lines {
        // A number may be negative; text that only looks like one may not begin a formula either.
        let cells = line.iter().map(|cell| if cell.parse::<f64>().is_ok() { cell.clone() } else { harmless(cell) });
        writer.write_record(cells).map_err(failed)?;
    }
    writer.flush().map_err(super::writing)
}

fn failed(error: csv::Error) -> Error {
    Error::io("writing the report", std::io::Error::other(error))
}

fn cell(cell: Cell) -> String {
    match cell {
        Cell::Text(text) => text.map(|text| harmless(&text)).unwrap_or_default(),
        Cell::Count(count) => count.map(|count| count.to_string()).unwrap_or_default(),
        Cell::Number(number) => number.map(|number| number.to_string()).unwrap_or_default(),
        Cell::Flag(flag) => flag.map(|flag| flag.to_string()).unwrap_or_default(),
    }
}

/// Text that a spreadsheet takes for text: what would begin a formula (also after blanks) gets an apostrophe before
/// it, which spreadsheets hide and readers of the documented format drop.
fn harmless(text: &str) -> String {
    let text = sanitise::clean(text, CELL_CHARACTERS);
    let first = text.trim_start().chars().next();
    // The full-width forms count too: some spreadsheets fold them.
    if first.is_some_and(|c| "=+-@＝＋－＠|%".contains(c)) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn no_cell_begins_a_formula() {
        let mut out = Vec::new();
        Csv.render(&sample::everything(), &Style::default(), &mut out).expect("renders");
        let mut rows = 0;
        for record in csv::Reader::from_reader(out.as_slice()).records() {
            let record = record.expect("reads back");
            assert_eq!(record.len(), COLUMNS.len());
            for (column, field) in COLUMNS.iter().zip(record.iter()) {
                // A negative number is a number; only text can hold a formula.
                if field.parse::<f64>().is_err() {
                    assert!(!field.trim_start().starts_with(['=', '+', '-', '@']), "{}: {field}", column.name);
                }
            }
            rows += 1;
        }
        assert_eq!(rows, sample::everything().examinations.len());
    }

    #[test]
    fn formulas_are_disarmed_and_names_are_not() {
        assert_eq!(harmless("=1+1"), "'=1+1");
        assert_eq!(harmless("  @SUM(A1)"), "'  @SUM(A1)");
        assert_eq!(harmless("\t=1"), "\\u{9}=1");
        assert_eq!(harmless("hf:org/name"), "hf:org/name");
    }
}
