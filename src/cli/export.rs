//! `orthoscope export`: examinations out of the index, whole, in any format.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;

use super::findings::Filter;
use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, Stored};
use crate::report::{self, Report, Style};

/// Write examinations of the index out: JSON lines, CSV, Parquet, SARIF, HTML, …
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope export --format jsonl --index nightly.db > nightly.jsonl
  orthoscope export --format parquet --output nightly.parquet
  orthoscope export --format sarif --severity medium > findings.sarif
  orthoscope export --sqlite snapshot.db
  orthoscope export --format jsonl --profile --verdict orthogonalized --verdict suspect

One line of jsonl is one examination, in the order of candidate, revision and base; what could not be examined is there too,
with status \"failed\" and its reason. docs/examination.md tells what the fields mean.")]
pub struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// With all measurements of every tensor (JSON formats)
    #[arg(long)]
    profile: bool,
    /// Write to this file instead of standard output
    #[arg(long, short, visible_alias = "out", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write a consistent copy of the index itself to a new file, also while a sweep writes
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    sqlite: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let format = if global.format == "text" { "jsonl" } else { global.format.as_str() };
        let renderer = report::renderer(format).ok_or_else(|| {
            let known: Vec<&str> = report::RENDERERS.iter().map(|renderer| renderer.name()).collect();
            Error::new(
                ErrorKind::Usage,
                format!("no output format is called {format:?}; there are {}", known.join(", ")),
            )
        })?;
        let catalogue = global.catalogue()?;
        let index = Index::open_existing(&global.index)?;
        if let Some(copy) = &self.sqlite {
            index.snapshot(copy)?;
            return Ok(ExitStatus::Success);
        }
        let mut file = match &self.output {
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
        let order = order(&index, &self.filter)?;
        if format == "jsonl" {
            // One at a time: an index may be larger than memory.
            for (_, id) in order {
                let stored = load(&index, &id)?;
                renderer.render(&Report::of(stored.examination), &style, out)?;
            }
        } else {
            let examinations =
                order.iter().map(|(_, id)| load(&index, id).map(|stored| stored.examination)).collect::<Result<_>>()?;
            renderer.render(&Report::with_catalogue(examinations, &catalogue), &style, out)?;
        }
        out.flush().map_err(|error| Error::io("writing the export", error))?;
        Ok(ExitStatus::Success)
    }
}

/// Candidate, revision, base and id of every examination wanted, sorted: the same index gives the same bytes, whatever the
/// order of recording was.
fn order(index: &Index, filter: &Filter) -> Result<Vec<([String; 3], String)>> {
    let mut order = Vec::new();
    let mut after = None;
    loop {
        let page = crate::index::Page { limit: 1000, after };
        let paged = index.examinations(&filter.examinations()?, crate::index::Order::Recorded, page)?;
        order.extend(
            paged
                .rows
                .into_iter()
                .map(|row| ([row.candidate, row.revision.unwrap_or_default(), row.base], row.id.hex())),
        );
        after = paged.next;
        if after.is_none() {
            break;
        }
    }
    order.sort();
    Ok(order)
}

fn load(index: &Index, id: &str) -> Result<Stored> {
    index.get(id)?.ok_or_else(|| Error::new(ErrorKind::Index, format!("reading examination {id}: it is gone")))
}
