//! `orthoscope export`: every examination of the index, for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;

use super::report::{render, whole_file};
use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;
use crate::index::{ExaminationFilter, Index};
use crate::report::{Renderer, Report, csv, json, parquet};

/// Examinations held in memory at a time.
const BATCH: usize = 500;

/// Write every examination of the index: JSON lines, CSV, Parquet, SARIF, in-toto statements, or a copy of the index
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope export --format jsonl | jq -r 'select(.verdict == \"orthogonalized\") | .candidate.source'
  orthoscope export --format parquet --out examinations.parquet
  orthoscope export --format sarif --out findings.sarif
  orthoscope export --sqlite snapshot.db

Formats: jsonl (default), csv, parquet, sarif, in-toto, and every other one that `report` writes. Columns and schemas are
in docs/reports.md. CSV, JSON lines and Parquet are written piece by piece, whatever the index's size.")]
pub struct Arguments {
    /// Write to this file (standard output when left out)
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a consistent copy of the index itself to a new file, also while a sweep writes
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    sqlite: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let index = Index::open_read_only(&global.index)?;
        if let Some(copy) = &self.sqlite {
            index.snapshot(copy)?;
            return Ok(ExitStatus::Success);
        }
        match (global.format.as_str(), &self.out) {
            ("parquet", Some(path)) => whole_file(path, |file| parquet_file(&index, file))?,
            ("parquet", None) => {
                // A Parquet file ends with what it holds; it is made whole before any of it is shown.
                let mut file = tempfile::tempfile().map_err(|e| Error::io("making a temporary file", e))?;
                parquet_file(&index, &mut file)?;
                std::io::Seek::rewind(&mut file).map_err(|e| Error::io("reading the Parquet file back", e))?;
                std::io::copy(&mut file, out).map_err(|e| Error::io("writing the Parquet file", e))?;
            }
            ("jsonl" | "text" | "csv", Some(path)) => whole_file(path, |file| lines(&index, global, file))?,
            ("jsonl" | "text" | "csv", None) => lines(&index, global, out)?,
            _ => {
                let all = all(&index)?;
                let report = Report::with_catalogue(all, &global.catalogue()?);
                render(&report, global, self.out.as_deref(), out)?;
            }
        }
        Ok(ExitStatus::Success)
    }
}

fn all(index: &Index) -> Result<Vec<Examination>> {
    index.export(ExaminationFilter::default()).map(|stored| stored.map(|stored| stored.examination)).collect()
}

/// Calls `each` with one batch after the other.
fn batches(index: &Index, mut each: impl FnMut(Vec<Examination>) -> Result<()>) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    for stored in index.export(ExaminationFilter::default()) {
        batch.push(stored?.examination);
        if batch.len() == BATCH {
            each(std::mem::take(&mut batch))?;
        }
    }
    if batch.is_empty() { Ok(()) } else { each(batch) }
}

/// JSON lines or CSV.
fn lines(index: &Index, global: &Global, out: &mut dyn Write) -> Result<()> {
    let mut out = BufWriter::new(out);
    let style = global.style();
    if global.format == "csv" {
        csv::header(&mut out)?;
    }
    batches(index, |examinations| match global.format.as_str() {
        "csv" => csv::rows(&examinations, &mut out),
        _ => json::JsonLines.render(&Report { examinations, ..Report::default() }, &style, &mut out),
    })?;
    out.flush().map_err(|error| Error::io("writing the export", error))
}

fn parquet_file(index: &Index, file: &mut File) -> Result<()> {
    let handle = file.try_clone().map_err(|error| Error::io("writing the Parquet file", error))?;
    let mut parquet = parquet::File::new(handle)?;
    batches(index, |examinations| parquet.push(&examinations))?;
    parquet.finish().map(drop).map_err(|error| Error::because(ErrorKind::Io, "writing the Parquet file", error))
}
