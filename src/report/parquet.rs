//! One row an examination as Parquet: the columns of [`columns`], zstd, one row group a batch.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Error, ErrorKind, Result};
use crate::examination::SCHEMA;
use crate::report::columns::{self, COLUMNS, Cell, Column, Row, Type};
use crate::report::{Renderer, Report, Style, writing};

/// The renderer.
pub struct Parquet;

impl Renderer for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn purpose(&self) -> &'static str {
        "one row an examination, for DuckDB, pandas, Spark"
    }

    fn extension(&self) -> &'static str {
        "parquet"
    }

    fn media_type(&self) -> &'static str {
        "application/vnd.apache.parquet"
    }

    fn is_binary(&self) -> bool {
        true
    }

    fn render(&self, report: &Report, _: &Style, out: &mut dyn Write) -> Result<()> {
        let mut file = File::new(Vec::new())?;
        file.push(&columns::rows(report))?;
        out.write_all(&file.finish()?).map_err(writing)
    }
}

/// A Parquet file being written, batch by batch, so that an index of any size can be exported.
pub struct File<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: SchemaRef,
}

impl<W: Write + Send> File<W> {
    /// Begins a file.
    pub fn new(out: W) -> Result<Self> {
        let schema = schema();
        let level = ZstdLevel::try_new(3).map_err(failed)?;
        // The library's own version string would change the bytes with every update of it.
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(format!("orthoscope {SCHEMA}"))
            .build();
        let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties)).map_err(failed)?;
        Ok(Self { writer, schema })
    }

    /// Writes some rows as one row group.
    pub fn push(&mut self, rows: &[Row<'_>]) -> Result<()> {
        let columns: Vec<ArrayRef> = COLUMNS.iter().map(|column| array(column, rows)).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(failed)?;
        self.writer.write(&batch).map_err(failed)?;
        self.writer.flush().map_err(failed)
    }

    /// Ends the file and gives back what it was written to.
    pub fn finish(self) -> Result<W> {
        self.writer.into_inner().map_err(failed)
    }
}

/// The schema: every column may be absent.
pub fn schema() -> SchemaRef {
    let fields: Vec<Field> = COLUMNS
        .iter()
        .map(|column| {
            let kind = match column.kind {
                Type::Text => DataType::Utf8,
                Type::Count => DataType::UInt64,
                Type::Number => DataType::Float64,
                Type::Flag => DataType::Boolean,
            };
            Field::new(column.name, kind, true)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn array(column: &Column, rows: &[Row<'_>]) -> ArrayRef {
    let cells = rows.iter().map(column.value);
    match column.kind {
        Type::Text => Arc::new(StringArray::from_iter(cells.map(|cell| match cell {
            Cell::Text(text) => text,
            Cell::Count(_) | Cell::Number(_) | Cell::Flag(_) => None,
        }))),
        Type::Count => Arc::new(UInt64Array::from_iter(cells.map(|cell| match cell {
            Cell::Count(count) => count,
            Cell::Text(_) | Cell::Number(_) | Cell::Flag(_) => None,
        }))),
        Type::Number => Arc::new(Float64Array::from_iter(cells.map(|cell| match cell {
            Cell::Number(number) => number,
            Cell::Text(_) | Cell::Count(_) | Cell::Flag(_) => None,
        }))),
        Type::Flag => Arc::new(BooleanArray::from_iter(cells.map(|cell| match cell {
            Cell::Flag(flag) => flag,
            Cell::Text(_) | Cell::Count(_) | Cell::Number(_) => None,
        }))),
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::because(ErrorKind::Io, "writing the Parquet file", error)
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::report::sample;

    #[test]
    fn reads_back() {
        let mut out = Vec::new();
        Parquet.render(&sample::everything(), &Style::default(), &mut out).expect("renders");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(out)).expect("opens");
        assert_eq!(reader.schema().fields().len(), COLUMNS.len());
        let batches: Vec<RecordBatch> = reader.build().expect("builds").map(|b| b.expect("reads")).collect();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, sample::everything().examinations.len());
        let candidates = batches[0].column(0).as_any().downcast_ref::<StringArray>().expect("text");
        assert_eq!(candidates.value(0), "hf:example/tiny-edited");
    }

    #[test]
    fn an_empty_report_is_a_readable_file() {
        let mut out = Vec::new();
        Parquet.render(&Report::default(), &Style::default(), &mut out).expect("renders");
        assert!(ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(out)).is_ok());
    }
}
