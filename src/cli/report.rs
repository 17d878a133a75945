//! `orthoscope report`: the dossier of one examination, made from the index alone.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{ExitStatus, Global, hubs};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Location;
use crate::index::{Index, StoredExamination};
use crate::report::{Color, NO_TERMINAL, Renderer, Report, Style, sanitise};

/// Write the dossier of an examination: what was found, how sure, what it does not say, and how to check it
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope report 0a1b2c3d4e5f --format html --out dossier.html
  orthoscope report hf:someone/model --format markdown | xclip
  orthoscope report --examination 9f86d0 --format sarif --out findings.sarif

Reads the index only: a dossier can be made again at any time without the weights. A candidate in which nothing was found is \
reported by its name or by its examination's id.")]
pub struct ReportArguments {
    /// A finding's id or an examination's (or enough of its first digits), or a candidate as it is spelled in the index
    #[arg(value_name = "WHAT", required_unless_present_any = ["finding", "examination"])]
    what: Option<String>,
    /// A finding's id, or enough of its first digits
    #[arg(long, value_name = "ID", conflicts_with = "what")]
    finding: Option<String>,
    /// An examination's id, or enough of its first digits
    #[arg(long, value_name = "ID", conflicts_with_all = ["finding", "what"])]
    examination: Option<String>,
    /// Write to this file (standard output when left out)
    #[arg(long, short, visible_alias = "output", value_name = "FILE")]
    out: Option<PathBuf>,
}

impl ReportArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let renderer = global.renderer(global.format(), self.out.is_some())?;
        let index = global.open_index()?;
        let stored = match (&self.what, &self.finding, &self.examination) {
            (Some(what), ..) => find(&index, what)?,
            (None, Some(finding), _) => by_finding(&index, finding)?.ok_or_else(|| missing(finding))?,
            (None, None, Some(examination)) => index.get(examination)?.ok_or_else(|| missing(examination))?,
            (None, None, None) => return Err(Error::new(ErrorKind::Usage, "reporting: say what")),
        };
        let report = Report::of_index(&index, vec![stored], &global.catalogue()?)?;
        render(renderer, &report, global, self.out.as_deref(), out)?;
        Ok(ExitStatus::Success)
    }
}

/// The examination that was asked for: by the id of a finding in it, by its own, or the newest of a candidate.
pub(super) fn find(index: &Index, what: &str) -> Result<StoredExamination> {
    if let Some(stored) = by_finding(index, what)? {
        return Ok(stored);
    }
    if let Some(stored) = index.get(what)? {
        return Ok(stored);
    }
    let spelled = hubs::spelled(what).map_err(|said| Error::new(ErrorKind::Usage, said))?;
    let (source, revision) = match spelled.parse::<Location>()? {
        Location::Hub(id, revision) => (vec![id.to_string()], revision),
        Location::Path(_) => (as_recorded(&spelled), None),
    };
    for source in source {
        if let Some(row) = index.newest(&source, revision.as_ref())? {
            return index.get(&row.id.hex())?.ok_or_else(|| missing(what));
        }
    }
    Err(missing(what))
}

/// How a path may have been spelled when it was examined.
fn as_recorded(path: &str) -> Vec<String> {
    let bare = path.trim_end_matches('/');
    let bare = bare.strip_prefix("./").unwrap_or(bare);
    let spellings = [path.to_owned(), bare.to_owned(), format!("./{bare}"), format!("{bare}/"), format!("./{bare}/")];
    spellings.into_iter().filter(|spelling| !spelling.is_empty()).collect()
}

/// The examination that a finding is in.
fn by_finding(index: &Index, prefix: &str) -> Result<Option<StoredExamination>> {
    let rows = index.finding(prefix)?;
    let Some(first) = rows.first() else { return Ok(None) };
    if rows.iter().any(|row| row.finding.id != first.finding.id) {
        let what = format!("looking for finding {prefix:?}: {} begin like this; give more of the id", rows.len());
        return Err(Error::new(ErrorKind::Usage, what));
    }
    index.get(&first.examination.id.hex())
}

/// The error of something that is not in the index.
pub(super) fn missing(what: &str) -> Error {
    let what = sanitise::name(what);
    Error::new(
        ErrorKind::NotFound,
        format!(
            "looking for {what:?}: no finding and no examination begins like this, and no candidate is called so; `orthoscope \
             findings list` and `orthoscope export --format table` show those there are"
        ),
    )
}

/// Writes a report to a file or to standard output.
fn render(
    renderer: &dyn Renderer,
    report: &Report,
    global: &Global,
    file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<()> {
    match file {
        None => renderer.render(report, &global.style(), out),
        Some(path) => whole_file(path, |file| {
            // A file is no terminal.
            let style = Style { color: Color::Never, width: NO_TERMINAL, ..global.style() };
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
