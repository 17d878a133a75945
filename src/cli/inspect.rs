//! `orthoscope inspect PATH|REPO`: what a checkpoint is, from its headers alone.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Args;

use super::hubs;
use super::{ExitStatus, Global};
use crate::arch::Kind;
use crate::checkpoint::{FileSet, folder};
use crate::diff::Unobserved;
use crate::error::{Error, Result};
use crate::examine::inspect::{Inspection, Module, inspect};
use crate::examine::located::Located;
use crate::examine::settings::ExamineSettings;
use crate::hub::Meter;
use crate::ids::Location;
use crate::report::json::write_value;
use crate::report::table::{Elastic, laid};
use crate::report::{oddities, sanitise, words};

/// Oddities shown without `--verbose`.
const ANOMALIES_SHOWN: usize = 12;

/// Say what a checkpoint is from its headers: architecture, writers to the residual stream, dtypes, lineage, oddities
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope inspect ./model
  orthoscope inspect model-Q4_K_M.gguf --tensors
  orthoscope inspect hf:someone/model-GGUF --all-variants --format json

No base is needed and no weight is read: of a checkpoint on a hub only the headers are fetched, by range.")]
pub struct InspectArguments {
    /// A folder, a file, or a repository (hf:org/name, with @revision or without)
    #[arg(value_name = "PATH|REPO", value_parser = hubs::spelled)]
    what: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Every checkpoint that it holds, not the first alone
    #[arg(long)]
    all_variants: bool,
}

impl InspectArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        hubs::check_location(&self.what)?;
        let found = inspect(&self.files(global)?, self.all_variants)?;
        if global.format() == "json" {
            let shown: Vec<Inspection> = found.into_iter().map(|one| self.trimmed(one)).collect();
            match shown.as_slice() {
                [one] => write_value(one, &global.style(), out)?,
                several => write_value(several, &global.style(), out)?,
            }
            writeln!(out).map_err(written)?;
            return Ok(ExitStatus::Success);
        }
        for (at, inspection) in found.iter().enumerate() {
            if at > 0 {
                writeln!(out).map_err(written)?;
            }
            text(inspection, &self, global.verbose > 0, global.style().width, out).map_err(written)?;
        }
        Ok(ExitStatus::Success)
    }

    fn trimmed(&self, mut inspection: Inspection) -> Inspection {
        if !self.tensors {
            inspection.tensors.clear();
        }
        inspection
    }

    fn files(&self, global: &Global) -> Result<FileSet> {
        let (id, revision) = match self.what.parse::<Location>()? {
            Location::Path(path) => return folder::file_set(Path::new(&path)),
            Location::Hub(id, revision) => (id, revision),
        };
        let catalogue = Arc::new(global.catalogue()?);
        let examiner = hubs::examiner(global, &catalogue, ExamineSettings::default(), None, Arc::new(Unobserved))?;
        hubs::stop_on_signal(&examiner.client)?;
        let meter = Meter::new("this repository's", None, None);
        let found = Located::of_hub(&id, revision.as_ref(), &examiner.client, &examiner.environment, &meter)?;
        Ok(FileSet { label: self.what.clone(), ..found.files })
    }
}

fn written(error: std::io::Error) -> Error {
    Error::io("writing the answer", error)
}

fn shape(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ")
}

fn dtypes(module: &Module) -> String {
    let several = module.dtypes.len() > 1;
    let told = module.dtypes.iter().map(|(dtype, count)| {
        let dtype = sanitise::name(dtype);
        if several { format!("{count} {dtype}") } else { dtype }
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Everything of one checkpoint for a person: its head, its modules, and what is odd about it.
fn text(
    one: &Inspection,
    asked: &InspectArguments,
    all: bool,
    width: usize,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let variant = one.variant.as_deref().map(|variant| format!(", {}", sanitise::name(variant))).unwrap_or_default();
    writeln!(out, "{} ({}{variant})\n", sanitise::name(&one.source), one.format)?;
    sizes(one, out)?;
    claim(one, out)?;
    beside(one, asked, out)?;
    modules(one, width, out)?;
    unread(one, out)?;
    if asked.tensors {
        tensors(one, out)?;
    }
    anomalies(one, all, out)
}

/// Architecture, residual stream, and how much there is.
fn sizes(one: &Inspection, out: &mut dyn Write) -> std::io::Result<()> {
    let residual = one.width.map_or("unknown".to_owned(), |width| width.to_string());
    let bytes: u64 = one.files.values().fold(0, |sum, bytes| sum.saturating_add(*bytes));
    writeln!(out, "  architecture  {} (tensor names: {})", sanitise::name(&one.architecture), one.names)?;
    writeln!(
        out,
        "  residual      width {residual}, {}",
        words::count(one.layers, "layer that writes to it", "layers that write to it")
    )?;
    writeln!(
        out,
        "  tensors       {}, {} in {}",
        one.tensors.len(),
        words::bytes(bytes),
        words::count(one.files.len() as u64, "file", "files")
    )
}

/// The base that it claims, and where it says so.
fn claim(one: &Inspection, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(base) = &one.claim.base else { return writeln!(out, "  claims        no base") };
    let relation = one.claim.relation.as_deref().map(|said| format!(" ({})", sanitise::name(said)));
    writeln!(out, "  claims        {}{}", sanitise::name(base), relation.unwrap_or_default())?;
    for evidence in &one.claim.evidence {
        writeln!(out, "                {}: {}", sanitise::name(&evidence.from), sanitise::name(&evidence.says))?;
    }
    Ok(())
}

/// The other checkpoints that lie beside it, and what it adapts if it is an adapter.
fn beside(one: &Inspection, asked: &InspectArguments, out: &mut dyn Write) -> std::io::Result<()> {
    if !one.others.is_empty() {
        let others: Vec<String> = one.others.iter().map(|other| sanitise::name(other)).collect();
        let hint = if asked.all_variants { "" } else { " (--all-variants shows each)" };
        writeln!(out, "  beside it     {}{hint}", others.join(", "))?;
    }
    if !one.adapted.is_empty() {
        let ranks: std::collections::BTreeSet<String> = one.adapted.values().map(u64::to_string).collect();
        let ranks: Vec<String> = ranks.into_iter().collect();
        writeln!(
            out,
            "  adapts        {} of rank {}",
            words::count(one.adapted.len() as u64, "matrix", "matrices"),
            ranks.join(", ")
        )?;
    }
    Ok(())
}

/// The table of modules, one a row.
fn modules(one: &Inspection, width: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let row = |module: &Module| -> Vec<String> {
        let shapes: Vec<String> = module.shapes.iter().map(|one| shape(one)).collect();
        vec![
            module.kind.as_str().to_owned(),
            sanitise::name(&module.module),
            module.count.to_string(),
            shapes.join("; "),
            dtypes(module),
            words::bytes(module.bytes),
        ]
    };
    let rows: Vec<Vec<String>> = one.modules.iter().map(row).collect();
    let header = ["kind", "module", "count", "shape", "stored as", "bytes"];
    writeln!(out)?;
    let elastic = Elastic { columns: &[1, 3, 4], right: &[2, 5] };
    laid(&header, &rows, width.saturating_sub(2), &elastic).iter().try_for_each(|line| writeln!(out, "  {line}"))
}

/// What keeps it from being examined: tensors that cannot be read, or no writer.
fn unread(one: &Inspection, out: &mut dyn Write) -> std::io::Result<()> {
    let unreadable = one.tensors.iter().filter(|tensor| tensor.unreadable.is_some()).count() as u64;
    if unreadable > 0 {
        writeln!(out, "\n{} cannot be read.", words::count(unreadable, "tensor", "tensors"))?;
    }
    if !one.modules.iter().any(|module| module.kind == Kind::Writer) && one.adapted.is_empty() {
        writeln!(out, "\nNo tensor here is known to write to the residual stream.")?;
    }
    Ok(())
}

/// Every tensor, one a line.
fn tensors(one: &Inspection, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out)?;
    for tensor in &one.tensors {
        let why =
            tensor.unreadable.as_deref().map(|why| format!("  ({})", sanitise::sentence(why))).unwrap_or_default();
        let kind = tensor.kind.as_str().to_owned();
        writeln!(
            out,
            "  {}  {kind}  {}  [{}]{why}",
            sanitise::name(&tensor.name),
            sanitise::name(&tensor.dtype),
            shape(&tensor.shape)
        )?;
    }
    Ok(())
}

/// Oddities of the files: each by itself, or the first kinds of them.
fn anomalies(one: &Inspection, all: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if one.anomalies.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nOddities of the files ({})", one.anomalies.len())?;
    let told = if all { oddities::single(&one.anomalies) } else { oddities::grouped(&one.anomalies) };
    let shown = if all { told.len() } else { ANOMALIES_SHOWN };
    for oddity in told.iter().take(shown) {
        writeln!(out, "  - {}: {}{}: {}", oddity.kind(), oddity.file(), oddity.tensor(), oddity.detail())?;
    }
    if told.len() > shown {
        writeln!(out, "  - and {} more (--verbose shows all)", told.len() - shown)?;
    }
    Ok(())
}
