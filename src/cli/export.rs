//! `orthoscope export`: examinations out of the index, whole, in any format.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;

use super::findings::FilterArguments;
use super::{ExitStatus, Global};
use crate::error::{Error, Result};
use crate::index::StoredExamination;
use crate::report::{Renderer, Report, Style, sanitise};
use crate::signature::Catalogue;

/// Examinations that cannot be read of which an export tells the reason one by one.
const BROKEN_SHOWN: usize = 20;

/// Write examinations of the index out: JSON lines, CSV, Parquet, SARIF, HTML, …
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope export --format jsonl --index nightly.db > nightly.jsonl
  orthoscope export --format parquet --out nightly.parquet
  orthoscope export --format sarif --severity medium > findings.sarif
  orthoscope export --sqlite snapshot.db
  orthoscope export --format jsonl --profile --verdict orthogonalized --verdict suspect

One line of jsonl is one examination, in the order of candidate, revision and base; what could not be examined is there too, \
with status \"failed\" and its reason. docs/examination.md tells what the fields mean.")]
pub struct ExportArguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// With all measurements of every tensor (JSON formats)
    #[arg(long)]
    profile: bool,
    /// Write to this file instead of standard output
    #[arg(long, short, visible_alias = "output", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Examinations to write at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write a consistent copy of the index itself to a new file, also while a sweep writes
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    sqlite: Option<PathBuf>,
}

impl ExportArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let renderer = global.renderer(global.format(), self.out.is_some() || self.sqlite.is_some())?;
        let catalogue = global.catalogue()?;
        let index = global.open_index()?;
        if let Some(copy) = &self.sqlite {
            index.snapshot(copy)?;
            return Ok(ExitStatus::Success);
        }
        let mut file = match &self.out {
            Some(path) => Some(BufWriter::new(
                File::create(path).map_err(|error| Error::io(format!("creating {}", path.display()), error))?,
            )),
            None => None,
        };
        let out: &mut dyn Write = match &mut file {
            Some(file) => file,
            None => out,
        };
        let style = Style { profile: self.profile || global.style().profile, ..global.style() };
        let filter = self.filter.examinations(&index, &catalogue)?;
        let mut left = Left::default();
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut wanted = index.export_sorted(&filter).filter_map(|stored| left.keep(renderer, stored)).take(limit);
        if global.format() == "jsonl" {
            // One at a time: an index may be larger than memory.
            wanted.try_for_each(|one| {
                renderer.render(&Report::of_index(&index, vec![one], &Catalogue::default())?, &style, out)
            })?;
        } else {
            let report = Report::of_index(&index, wanted.collect(), &catalogue)?;
            renderer.render(&report, &style, out)?;
        }
        out.flush().map_err(|error| Error::io("writing the export", error))?;
        Ok(left.tell(&mut std::io::stderr()))
    }
}

/// What an export leaves out, so that one broken row does not keep all others.
#[derive(Default)]
struct Left {
    kept: u64,
    /// Examinations that cannot be read, with the reason.
    broken: Vec<String>,
    /// Examinations that the format cannot express, by reason.
    refused: BTreeMap<&'static str, u64>,
}

impl Left {
    fn keep(&mut self, renderer: &dyn Renderer, stored: Result<StoredExamination>) -> Option<StoredExamination> {
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                self.broken.push(error.one_line());
                return None;
            }
        };
        if let Some(reason) = renderer.refuses(&stored.examination) {
            *self.refused.entry(reason).or_default() += 1;
            return None;
        }
        self.kept += 1;
        Some(stored)
    }

    /// Says what was left out, and how the command ends.
    fn tell(&self, out: &mut dyn Write) -> ExitStatus {
        let refused: u64 = self.refused.values().sum();
        if self.broken.is_empty() && refused == 0 {
            return ExitStatus::Success;
        }
        let all = self.kept + refused + self.broken.len() as u64;
        let mut text = String::new();
        for reason in self.broken.iter().take(BROKEN_SHOWN) {
            text.push_str(&format!("orthoscope: left out: {}\n", sanitise::sentence(reason)));
        }
        if !self.broken.is_empty() {
            let broken = self.broken.len();
            text.push_str(&format!(
                "orthoscope: left out {broken} of {all} that cannot be read; restore a copy of the index\n"
            ));
        }
        for (reason, count) in &self.refused {
            text.push_str(&format!("orthoscope: left out {count} of {all}: {reason}\n"));
        }
        // A closed standard error is no reason to end otherwise.
        let _ = out.write_all(text.as_bytes());
        ExitStatus::Incomplete
    }
}
