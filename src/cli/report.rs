//! `orthoscope report`: the dossier of one examination, made from the index alone.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, Stored};
use crate::report::{self, Report, sanitise};

/// Write the dossier of an examination: what was found, how sure, what it does not say, and how to check it
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope report --finding 0a1b2c3d4e5f --format html --out dossier.html
  orthoscope report --finding 0a1b2c3d4e5f --format markdown | xclip
  orthoscope report --examination 9f86d0 --format sarif --out findings.sarif

Reads the index only: a dossier can be made again at any time without the weights.")]
pub struct Arguments {
    /// A finding's id, or enough of its first digits
    #[arg(long, value_name = "ID", required_unless_present = "examination")]
    finding: Option<String>,
    /// An examination's id, or enough of its first digits
    #[arg(long, value_name = "ID", conflicts_with = "finding")]
    examination: Option<String>,
    /// Write to this file (standard output when left out)
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let index = global.open_index()?;
        let stored = match (&self.finding, &self.examination) {
            (Some(finding), _) => by_finding(&index, finding)?,
            (None, Some(examination)) => by_examination(&index, examination)?,
            (None, None) => return Err(Error::new(ErrorKind::Usage, "which one: give --finding or --examination")),
        };
        let report = of_stored(&index, stored, global)?;
        render(&report, global, self.out.as_deref(), out)?;
        Ok(ExitStatus::Success)
    }
}

/// The examination that a finding is in.
pub(super) fn by_finding(index: &Index, prefix: &str) -> Result<Stored> {
    let rows = index.finding(prefix)?;
    match rows.as_slice() {
        [] => Err(missing("finding", prefix)),
        [one] => by_examination(index, &one.examination.id.hex()),
        several => {
            let first = &several[0].finding.id;
            if several.iter().all(|row| &row.finding.id == first) {
                return by_examination(index, &several[0].examination.id.hex());
            }
            Err(Error::new(
                ErrorKind::Usage,
                format!("looking for finding {prefix:?}: {} begin like this; give more of the id", several.len()),
            ))
        }
    }
}

/// The examination of an id.
pub(super) fn by_examination(index: &Index, prefix: &str) -> Result<Stored> {
    index.get(prefix)?.ok_or_else(|| missing("examination", prefix))
}

fn missing(what: &str, id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "looking for {what} {:?}: there is none; `orthoscope findings list` shows those there are",
            sanitise::name(id)
        ),
    )
}

/// The report of an examination in the index, with what was decided on it.
pub(super) fn of_stored(index: &Index, stored: Stored, global: &Global) -> Result<Report> {
    let decisions = index.decisions(&stored.id.hex())?;
    let mut report = Report::with_catalogue(vec![stored.examination], &global.catalogue()?);
    report.decisions.insert(0, decisions);
    Ok(report)
}

/// Writes a report in the format asked for (`md` is short for `markdown`), to a file or to standard output.
pub(super) fn render(report: &Report, global: &Global, file: Option<&Path>, out: &mut dyn Write) -> Result<()> {
    let name = if global.format == "md" { "markdown" } else { global.format.as_str() };
    let renderer = report::renderer(name).ok_or_else(|| {
        let known: Vec<&str> = report::RENDERERS.iter().map(|renderer| renderer.name()).collect();
        Error::new(ErrorKind::Usage, format!("no format is called {name:?}; there are {}", known.join(", ")))
    })?;
    match file {
        None => renderer.render(report, &global.style(), out),
        Some(path) => whole_file(path, |file| {
            // A file is no terminal.
            let style = report::Style { color: report::Color::Never, ..global.style() };
            renderer.render(report, &style, file)
        }),
    }
}

/// Writes a file whole or not at all: beside its place first, then moved there.
pub(super) fn whole_file(path: &Path, write: impl FnOnce(&mut std::fs::File) -> Result<()>) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| Error::io(doing(), error))?;
    write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(|error| Error::io(doing(), error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // A temporary file is its owner's alone; a report is as readable as any other file.
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(file.path(), readable).map_err(|error| Error::io(doing(), error))?;
    }
    file.persist(path).map_err(|error| Error::io(doing(), error.error))?;
    Ok(())
}
