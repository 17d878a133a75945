//! `orthoscope verify PATH|REPO`: whether files are what their hub, a list of checksums or a signature says they are.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{ExitStatus, Global, hubs, log};
use crate::checkpoint::Anomaly;
use crate::checkpoint::anomaly::CODE_ON_LOAD;
use crate::diff::Unobserved;
use crate::error::{Error, ErrorKind, Result};
use crate::examine::base;
use crate::examine::settings::ExamineSettings;
use crate::hub::{Meter, fetch::Repo};
use crate::ids::Location;
use crate::limits::MAX_MANIFEST_BYTES;
use crate::report::json::write_value;
use crate::report::table::{Elastic, laid};
use crate::report::{oddities, sanitise, words};
use crate::verify::signature::PublicKey;
use crate::verify::{
    self, CheckOutcome, Checked, FileReport, GradedOddity, Reference, Subject, Verification, VerifiedEnding, Watch,
    files, reference,
};

/// Files listed without `--verbose`; beyond them those that agree are only counted.
const FILES_SHOWN: usize = 60;

/// Oddities shown of one file without `--verbose`.
const ODDITIES_SHOWN: usize = 8;

/// Check sizes, hashes, signatures, headers and first bytes of a folder, a file or a repository
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope verify ./model                                  # headers, first bytes, and lists or signatures beside them
  orthoscope verify ./model --against hf:org/name@main       # a download against its hub
  orthoscope verify ./model --manifest SHA256SUMS
  orthoscope verify ./model --manifest model.sig --key publisher.pem
  orthoscope verify hf:org/name                              # what a hub lists, headers by range, nothing downloaded
  orthoscope verify hf:org/name --download --format json

Lists of checksums (sha256sum) and OpenSSF model signatures in the top folder are found by themselves. A signature is checked \
with the key that is given; certificates that come with it and transparency logs are not. Contents are hashed where they are \
on this machine, in a cache, or with --download.

Exit status: 0 what was asked for was checked and agrees, 1 something differs, is grave or would run code on loading, 2 \
something could not be checked or is not there, 64 bad usage.")]
pub struct VerifyArguments {
    /// A folder, a file, or a repository (hf:org/name, ms:owner/name, with @revision or without)
    #[arg(value_name = "PATH|REPO", value_parser = hubs::spelled)]
    what: String,
    /// Hold a folder or file to what a hub lists of this repository
    #[arg(long, value_name = "REPO", value_parser = hubs::spelled)]
    against: Option<String>,
    /// A list of checksums as sha256sum writes it, or a model signature; may be given more than once
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    /// The signer's public key or certificate in PEM (curves P-256, P-384, P-521)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Fetch a repository's files whole into the cache, and hash them
    #[arg(long)]
    download: bool,
}

impl VerifyArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        hubs::check_location(&self.what)?;
        let key = self.key.as_deref().map(read_key).transpose()?;
        let bar = Bar::new(global.shows_progress());
        let (subject, mut references) = self.subject(global, &bar)?;
        for path in &self.manifest {
            let name = path.display().to_string();
            references.push(Reference::read(&name, &read_small(path)?, key.as_ref())?);
        }
        // What was named is not found a second time.
        let named: BTreeSet<PathBuf> = self.manifest.iter().filter_map(|path| path.canonicalize().ok()).collect();
        let top = PathBuf::from(&self.what);
        let own = |name: &str| top.join(name).canonicalize().is_ok_and(|path| named.contains(&path));
        references.extend(reference::found(&subject, key.as_ref()).into_iter().filter(|found| !own(&found.name)));
        for reference in &mut references {
            // A signature that was named by its path cannot sign itself either.
            let inside = Path::new(&reference.name).strip_prefix(&top).ok().map(|path| path.display().to_string());
            reference.ignored.extend(inside);
            if subject.single {
                subject.items.keys().for_each(|name| reference.narrow(name));
            }
        }
        if key.is_some() && !references.iter().any(|reference| reference.kind == "signature") {
            references.push(Reference::missing_signature());
        }
        let found = verify::verify(&subject, &references, &bar);
        bar.finish();
        if global.format() == "json" {
            write_value(&found, &global.style(), out)?;
            writeln!(out).map_err(written)?;
        } else {
            text(&found, global.verbose > 0, global.style().width, out).map_err(written)?;
        }
        Ok(match found.result {
            VerifiedEnding::Agrees | VerifiedEnding::NotHashed => ExitStatus::Success,
            VerifiedEnding::Differs => ExitStatus::Findings,
            VerifiedEnding::Incomplete => ExitStatus::Incomplete,
        })
    }

    fn subject(&self, global: &Global, bar: &Bar) -> Result<(Subject, Vec<Reference>)> {
        match self.what.parse::<Location>()? {
            Location::Path(path) => {
                if self.download {
                    return Err(Error::new(
                        ErrorKind::Usage,
                        "--download is for repositories; a folder is here already",
                    ));
                }
                let (subject, mut references) = files::local(Path::new(&path))?;
                if let Some(against) = &self.against {
                    let (repo, _, offline) = self.repository(against, global)?;
                    references.push(Reference::hub(&repo, offline));
                }
                Ok((subject, references))
            }
            Location::Hub(..) => {
                if self.against.is_some() {
                    return Err(Error::new(ErrorKind::Usage, "--against is for folders; a repository has its own hub"));
                }
                let (repo, meter, offline) = self.repository(&self.what, global)?;
                let fetching = |name: &str| bar.fetching(name);
                let subject = files::repository(&self.what, &repo, &meter, self.download, &fetching)?;
                Ok((subject, vec![Reference::hub(&repo, offline)]))
            }
        }
    }

    /// A repository with its files listed, and whether that came from a cache alone.
    fn repository(&self, name: &str, global: &Global) -> Result<(Repo, Arc<Meter>, bool)> {
        let Location::Hub(id, revision) = name.parse::<Location>()? else {
            let what = format!("reading {name:?}: want a repository, as in hf:org/name@revision");
            return Err(Error::new(ErrorKind::Usage, what));
        };
        let catalogue = Arc::new(global.catalogue()?);
        let examiner = hubs::examiner(global, &catalogue, ExamineSettings::default(), None, Arc::new(Unobserved))?;
        hubs::stop_on_signal(&examiner.client)?;
        let meter = Meter::new("this repository's", None, None);
        let (repo, _) = base::open_repo(&id, revision.as_ref(), &examiner.client, &examiner.environment, &meter)?;
        let offline = examiner.client.settings().offline && !repo.is_here();
        Ok((repo, meter, offline))
    }
}

/// A file of the user's, whole, with its length checked before it is read.
fn read_small(path: &Path) -> Result<Vec<u8>> {
    let doing = || format!("reading {}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(doing(), error))?;
    if !metadata.is_file() || metadata.len() > MAX_MANIFEST_BYTES {
        let what = format!("{}: not a file of at most {MAX_MANIFEST_BYTES} bytes", doing());
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    std::fs::read(path).map_err(|error| Error::io(doing(), error))
}

fn read_key(path: &Path) -> Result<PublicKey> {
    PublicKey::from_pem(&path.display().to_string(), &read_small(path)?)
}

fn written(error: std::io::Error) -> Error {
    Error::io("writing the answer", error)
}

/// Bytes hashed, on a terminal.
struct Bar {
    bar: Option<ProgressBar>,
    total: AtomicU64,
}

impl Bar {
    fn new(shown: bool) -> Self {
        let style = "{spinner} hashing {binary_bytes} of {binary_total_bytes} ({binary_bytes_per_sec}, {eta} left)";
        let bar = shown.then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            log::beside(&bar);
            bar
        });
        Self { bar, total: AtomicU64::new(0) }
    }

    fn fetching(&self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.println(format!("fetching {}", sanitise::name(name)));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Bar {
    fn hashed(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn expect(&self, bytes: u64) {
        let total = self.total.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }
}

fn text(found: &Verification, all: bool, width: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let at = found.revision.as_deref().map(|revision| format!(" at {}", sanitise::name(revision))).unwrap_or_default();
    writeln!(out, "{}{at}\n", sanitise::name(&found.source))?;
    table(found, all, width, out)?;
    if !found.references.is_empty() {
        writeln!(out, "\nHeld against")?;
    }
    for reference in &found.references {
        let files = words::count(reference.files, "file", "files");
        writeln!(out, "  - {} {}: {files}", reference.kind, sanitise::name(&reference.name))?;
        if let Some(signature) = &reference.signature {
            let told =
                [("subject", &signature.subject), ("identity", &signature.identity), ("issuer", &signature.issuer)];
            for (what, said) in told {
                if let Some(said) = said {
                    writeln!(out, "    {what} by its own certificate, not verified: {}", sanitise::name(said))?;
                }
            }
            if signature.log_entries > 0 {
                let entries = words::count(signature.log_entries as u64, "entry", "entries");
                writeln!(out, "    {entries} of a transparency log, not looked up")?;
            }
        }
    }
    if !found.checks.is_empty() {
        writeln!(out, "\nOf the whole")?;
    }
    for checked in &found.checks {
        writeln!(out, "  - {}", line(checked))?;
    }
    let mut told = false;
    for file in &found.files {
        // Oddities that make a header differ speak for themselves.
        let spoken = |checked: &&Checked| checked.check == "header" && checked.outcome == CheckOutcome::Differs;
        let wrong = file.checks.iter().filter(|one| one.outcome > CheckOutcome::NotChecked && !spoken(one));
        let lines: Vec<String> = wrong.map(line).chain(oddities(&file.oddities, all)).collect();
        if !lines.is_empty() && !told {
            writeln!(out, "\nOf single files")?;
            told = true;
        }
        for line in lines {
            writeln!(out, "  - {}: {line}", sanitise::name(&file.name))?;
        }
    }
    let across = oddities(&found.oddities, all);
    if !across.is_empty() {
        writeln!(out, "\nOddities across files")?;
    }
    for line in across {
        writeln!(out, "  - {line}")?;
    }
    writeln!(out, "\n{}", sanitise::sentence(&found.because))
}

/// One check in words.
fn line(checked: &Checked) -> String {
    let against = checked.against.as_deref().map(|one| format!(" ({})", sanitise::name(one))).unwrap_or_default();
    let detail = checked.detail.as_deref().map(|said| format!(": {}", sanitise::sentence(said))).unwrap_or_default();
    format!("{}{against} {}{detail}", checked.check, checked.outcome.words())
}

/// Oddities in words, the gravest first.
fn oddities(list: &[GradedOddity], all: bool) -> Vec<String> {
    let mut sorted: Vec<&GradedOddity> = list.iter().collect();
    sorted.sort_by_key(|oddity| std::cmp::Reverse(oddity.severity));
    let anomalies = sorted.iter().map(|oddity| &oddity.anomaly);
    let told = if all { oddities::single(anomalies) } else { oddities::grouped(anomalies) };
    let shown = if all { told.len() } else { ODDITIES_SHOWN };
    let severity = |anomaly: &Anomaly| sorted.iter().find(|oddity| oddity.anomaly == *anomaly).map(|one| &one.severity);
    let mut lines: Vec<String> = told
        .iter()
        .take(shown)
        .map(|one| {
            let grave = severity(one.first).map_or("", |severity| severity.as_str());
            format!("{} ({grave}{}): {}", one.kind(), one.tensor(), one.detail())
        })
        .collect();
    if told.len() > shown {
        lines.push(format!("and {} more (--verbose shows all)", told.len() - shown));
    }
    lines
}

fn table(found: &Verification, all: bool, width: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let mut rows = Vec::new();
    let mut left_out = 0u64;
    for file in &found.files {
        if !all && found.files.len() > FILES_SHOWN && file.gravest() <= CheckOutcome::NotChecked {
            left_out += 1;
            continue;
        }
        let cell = |check: &str| match (check, file.outcome(check)) {
            ("digest", CheckOutcome::NotChecked) => "not hashed",
            (_, outcome) => outcome.words(),
        };
        rows.push(vec![
            sanitise::name(&file.name),
            file.bytes.map_or_else(|| "-".to_owned(), words::bytes),
            cell("listed").to_owned(),
            cell("size").to_owned(),
            cell("digest").to_owned(),
            file.kind.clone().unwrap_or_else(|| "-".to_owned()),
            cell("magic").to_owned(),
            header_cell(file).to_owned(),
        ]);
    }
    let header = ["file", "bytes", "listed", "size", "digest", "kind", "magic", "header"];
    let elastic = Elastic { columns: &[0], right: &[] };
    laid(&header, &rows, width.saturating_sub(1), &elastic).iter().try_for_each(|line| writeln!(out, " {line}"))?;
    match left_out {
        0 => Ok(()),
        _ => writeln!(
            out,
            "\n {} without anything to say (--verbose shows all)",
            words::count(left_out, "file", "files")
        ),
    }
}

/// Code on load is the one thing of a header that a table must show.
fn header_cell(file: &FileReport) -> &'static str {
    if file.oddities.iter().any(|oddity| oddity.anomaly.is(CODE_ON_LOAD)) {
        return "runs code";
    }
    file.outcome("header").words()
}
