//! `orthoscope demo`: the whole job on one machine, without the internet: tiny derivatives, a stand-in hub, a sweep, an
//! index.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use owo_colors::{OwoColorize, Style as Ink};

use super::sweep::{Progress, shown};
use super::{ExitStatus, Global};
use crate::checkpoint::files::is_weights;
use crate::demo::standin::{Port, Repository, Standin, StandinSettings};
use crate::demo::tiny::TinySize;
use crate::demo::tiny::derivatives::{DERIVATIVES, Derivative, UploadCondition, write_base};
use crate::diff::Unobserved;
use crate::error::{Error, Result};
use crate::examination::{Examination, Status};
use crate::examine::Examiner;
use crate::examine::base::Bases;
use crate::examine::settings::ExamineSettings;
use crate::hub::{Client, ClientSettings, Environment, Meter};
use crate::index::{ExaminationFilter, Index};
use crate::report::table::{Elastic, laid};
use crate::report::{Color, Style, words};
use crate::sweep;
use crate::sweep::plan::Plan;
use crate::sweep::work::SweepSettings;

/// The size of the demo's models: about 2 MB each.
const SIZE: TinySize = TinySize { width: 128, layers: 6, inner: 320, heads: 8, vocabulary: 256 };

/// Decides on all random weights and directions.
const SEED: u64 = 7;

/// Columns of the mark before each line of the table.
const MARK: usize = 7;

const BASE: &str = "demo/tiny-base";

/// The index written where none is named.
pub(super) const INDEX: &str = "orthoscope-demo.db";

/// Show what orthoscope does, without the internet: tiny models, a stand-in hub, a real sweep
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope demo
  orthoscope demo --index demo.db --format json

Random tiny models are made and edited in every way that orthoscope tells apart, and served on this machine by a stand-in \
for a model hub. The sweep that then runs is the real one, with the real client, into a real index of its own. Exit status 0 when everything was found to be what it was made, 2 otherwise.")]
pub struct DemoArguments {}

/// One line of the answer.
#[derive(serde::Serialize)]
struct Line {
    repository: String,
    made: &'static str,
    expected: &'static str,
    found: String,
    relation: Option<String>,
    depth: Option<String>,
    says: String,
    right: bool,
    #[serde(skip)]
    finding: Option<String>,
}

impl DemoArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let text = global.format() == "text";
        let written = |error| Error::io("writing the demo's answer", error);
        let index_path = global.index.clone();
        if index_path == Path::new(INDEX) {
            make_way(&index_path)?;
        }
        let started = Instant::now();
        let folder = tempfile::tempdir().map_err(|error| Error::io("making a folder for the demo", error))?;
        if text {
            writeln!(
                out,
                "Making a tiny base and {} derivatives of it with random weights, and serving them on this machine …",
                DERIVATIVES.len()
            )
            .map_err(written)?;
        }
        let hub = folder.path().join("hub");
        world(&hub)?;
        let standin = Standin::start(Repository::from_folder(&hub)?, StandinSettings::default())?;
        let examiner = examiner(global, folder.path(), &standin)?;
        super::hubs::stop_on_signal(&examiner.client)?;
        // What is found stands in the table below.
        let progress = Progress { quiet: true, ..Progress::new(global) };
        let swept = sweep::sweep(&examiner, &index_path, &plan(), &SweepSettings::default(), &progress);
        progress.bar.finish_and_clear();
        let (summary, _) = swept?;
        let lines = lines(&index_path)?;
        if text {
            let requests = standin.log().iter().filter(|entry| entry.port == Port::Hub).count();
            writeln!(
                out,
                "Swept in {:.1} s with {} requests, {requests} of them to the hub itself and the others for bytes; {} of the {} of \
                 weights on it were read, the base's own included.\n",
                summary.seconds,
                summary.requests,
                words::bytes(summary.weight_bytes),
                words::bytes(folder_bytes(&hub)),
            )
            .map_err(written)?;
            found(&lines, started, &global.style(), out).map_err(written)?;
            next(&index_path, &lines, out).map_err(written)?;
        } else {
            crate::report::json::write_value(&lines, &global.style(), out)?;
            writeln!(out).map_err(written)?;
        }
        standin.stop()?;
        Ok(if lines.iter().all(|line| line.right) { ExitStatus::Success } else { ExitStatus::Incomplete })
    }
}

/// Who examines in the demo: the real client, which knows no other hub than the stand-in.
fn examiner(global: &Global, folder: &Path, standin: &Standin) -> Result<Examiner> {
    Ok(Examiner {
        catalogue: Arc::new(global.catalogue()?),
        client: Client::new(ClientSettings { cache: folder.join("cache"), ..ClientSettings::default() })?,
        environment: Environment::empty()
            .with("HF_ENDPOINT", standin.hub())
            .with("HF_HOME", folder.join("home").display().to_string()),
        observer: Arc::new(Unobserved),
        settings: ExamineSettings::default(),
        night: Meter::new("the run's", None, None),
        bases: Bases::default(),
    })
}

/// What the demo's sweep looks for: derivatives of the base, and whatever is uploaded by owners who name no base.
fn plan() -> Plan {
    Plan {
        bases: vec![format!("hf:{BASE}")],
        authors: DERIVATIVES
            .iter()
            .filter(|derivative| derivative.condition == UploadCondition::WithoutClaim)
            .map(|derivative| format!("hf:{}", owner(derivative)))
            .collect(),
        ..Plan::default()
    }
}

/// What was found of each derivative, and how many were found to be what they were made.
fn found(lines: &[Line], started: Instant, style: &Style, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", table(lines, style))?;
    if lines.iter().any(|line| line.depth.as_deref() == Some("screen")) {
        writeln!(
            out,
            "(From a few rows, a merged LoRA of higher rank and a quantiser's round trip cannot be told from training.)"
        )?;
    }
    writeln!(
        out,
        "\n{} of {} found to be what they were made, in {:.1} s.",
        lines.iter().filter(|line| line.right).count(),
        lines.len(),
        started.elapsed().as_secs_f64()
    )
}

/// The demo's subcommand with an index of its own: what it records is no examination of anybody's model.
pub(super) fn with_index(command: clap::Command) -> clap::Command {
    let index = clap::Arg::new("index")
        .long("index")
        .value_name("PATH")
        .help("The SQLite index that is made; the demo's own one of an earlier run goes away")
        .default_value(INDEX)
        .value_parser(clap::value_parser!(PathBuf));
    command.arg(index)
}

/// The demo's own file of an earlier run goes away.
fn make_way(path: &Path) -> Result<()> {
    for end in ["", "-wal", "-shm"] {
        let path = PathBuf::from(format!("{}{end}", path.display()));
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("removing {} of an earlier run", path.display()), error)),
        }
    }
    Ok(())
}

/// Uploads come from many owners; one without a claim can only be found by its owner.
fn owner(derivative: &Derivative) -> &'static str {
    const OWNERS: &[&str] = &["ash", "birch", "cedar"];
    match derivative.condition {
        UploadCondition::WithoutClaim => "willow",
        _ => OWNERS[derivative.name.len() % OWNERS.len()],
    }
}

fn repository(derivative: &Derivative) -> String {
    format!("{}/{}", owner(derivative), derivative.name)
}

fn world(hub: &Path) -> Result<()> {
    use rayon::prelude::*;
    let base = SIZE.llama(SEED);
    write_base(&base, &hub.join(BASE))?;
    DERIVATIVES.par_iter().enumerate().try_for_each(|(at, derivative)| {
        derivative.write(&base, BASE, SEED + at as u64, &hub.join(repository(derivative)))
    })
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    let weights = files.filter(|entry| is_weights(&entry.file_name().to_string_lossy()));
    weights.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// What the index says of each derivative.
fn lines(path: &Path) -> Result<Vec<Line>> {
    let index = Index::open_existing(path)?;
    let mut newest: BTreeMap<String, Examination> = BTreeMap::new();
    for stored in index.export(&ExaminationFilter::default()) {
        let examination = stored?.examination;
        newest.insert(examination.candidate.source.clone(), examination);
    }
    let line = |derivative: &Derivative| {
        let name = format!("hf:{}", repository(derivative));
        let Some(examination) = newest.get(&name) else {
            return Line {
                repository: name,
                made: derivative.about,
                expected: derivative.ending,
                found: "nothing".to_owned(),
                relation: None,
                depth: None,
                says: String::new(),
                right: false,
                finding: None,
            };
        };
        let reason = examination.reason.as_deref().unwrap_or_default();
        let failed = examination.status == Status::Failed;
        let found = match failed {
            true => reason.split(':').next().unwrap_or_default().to_owned(),
            false => examination.verdict.as_str().to_owned(),
        };
        let says = match &examination.orthogonalization {
            _ if failed => format!(
                "not examined: {}",
                crate::report::sanitise::sentence(reason.rsplit(": ").next().unwrap_or(reason))
            ),
            Some(o) if o.tensors > 0 => {
                let strengths = words::range(o).map_or_else(String::new, |(low, high)| match words::strength(low) {
                    low if low == words::strength(high) => format!("λ {low}, "),
                    low => format!("λ {low} to {}, ", words::strength(high)),
                });
                let layers = words::count(o.layers.len() as u64, "layer", "layers");
                let part = if examination.status == Status::Partial { ", the rest cannot be read" } else { "" };
                format!("{strengths}{layers}{part}")
            }
            _ => match examination.claim.as_ref().and_then(|claim| claim.holds) {
                Some(false) => "the claim does not hold".to_owned(),
                _ => String::new(),
            },
        };
        let relation = derivative.relation.is_none_or(|relation| relation == examination.relation);
        Line {
            repository: name,
            made: derivative.about,
            expected: derivative.ending,
            right: found == derivative.ending && relation,
            found,
            relation: (!failed).then(|| examination.relation.as_str().to_owned()),
            depth: (!failed).then(|| examination.depth.as_str().to_owned()),
            says,
            finding: examination.findings.iter().max_by_key(|finding| finding.severity).map(|f| f.id.clone()),
        }
    };
    Ok(DERIVATIVES.iter().map(line).collect())
}

fn table(lines: &[Line], style: &Style) -> String {
    let row = |line: &Line| {
        let looked = match line.depth.as_deref() {
            Some("hashes") => "file hashes",
            Some("screen") => "a few rows",
            Some(_) => "weights",
            None => "",
        };
        vec![
            line.made.to_owned(),
            line.found.clone(),
            line.relation.clone().unwrap_or_default(),
            looked.to_owned(),
            line.says.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    let header = ["what it was made", "found", "relation", "looked at", ""];
    let laid = laid(&header, &rows, style.width.saturating_sub(MARK), &Elastic { columns: &[0, 4], right: &[] });
    let paint = |text: &str, ink: Ink| match style.color {
        Color::Always => text.style(ink).to_string(),
        Color::Never => text.to_owned(),
    };
    let painted = laid.iter().enumerate().map(|(at, text)| {
        let Some(line) = at.checked_sub(1).and_then(|at| lines.get(at)) else {
            return format!("{:MARK$}{}", "", paint(text, Ink::new().bold()));
        };
        // The mark says whether the program was right, the colour of the rest what it found.
        let (mark, ink) = if line.right { ("ok", Ink::new().green()) } else { ("WRONG", Ink::new().red().bold()) };
        let found = match line.found.as_str() {
            "orthogonalized" => Ink::new().red(),
            "clear" => Ink::new(),
            _ => Ink::new().magenta(),
        };
        format!("{}{:pad$}{}", paint(mark, ink), "", paint(text, found), pad = MARK - mark.len())
    });
    painted.collect::<Vec<_>>().join("\n")
}

/// How this program was probably called: through cargo out of a clone, or by its name.
fn program() -> &'static str {
    let built = std::env::current_exe()
        .is_ok_and(|path| path.parent().is_some_and(|folder| folder.ends_with("target/release")));
    if built && std::env::var_os("CARGO").is_some() { "cargo run --release --" } else { "orthoscope" }
}

/// Where to look, and what to try next.
fn next(index: &Path, lines: &[Line], out: &mut dyn Write) -> std::io::Result<()> {
    let (program, index) = (program(), shown(index));
    writeln!(out, "Everything is in the index {index}. To look further:\n")?;
    writeln!(out, "  {program} findings list --index {index}")?;
    if let Some(id) = lines.iter().find(|line| line.found == "orthogonalized").and_then(|line| line.finding.as_ref()) {
        writeln!(out, "  {program} findings show {id} --index {index}")?;
        writeln!(out, "  {program} report --finding {id} --format html --out dossier.html --index {index}")?;
    }
    writeln!(out, "  {program} serve --index {index}")?;
    writeln!(out, "  {program} export --format jsonl --index {index}")?;
    writeln!(out, "\nThe same on a real hub (it reads the base once, and a few rows of most derivatives):\n")?;
    writeln!(out, "  {program} sweep --base hf:HuggingFaceTB/SmolLM2-135M-Instruct --limit 20")
}
