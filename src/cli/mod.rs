//! The command line: one file per subcommand, its arguments beside it.

pub mod compare;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod evaluate;
pub mod explain;
pub mod export;
pub mod findings;
pub mod hubs;
pub mod inspect;
pub mod rejudge;
pub mod report;
pub mod scan;
pub mod serve;
pub mod signatures;
pub mod stats;
pub mod sweep;
pub mod verify;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Severity, Status, Verdict};
use crate::index::Index;
use crate::report::words;
use crate::report::{Color, Style};
use crate::signature::Catalogue;

/// The index where none is named.
const DEFAULT_INDEX: &str = "orthoscope.db";

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitStatus {
    /// Nothing at or above `--fail-on`.
    Success = 0,
    /// Findings at or above `--fail-on`.
    Findings = 1,
    /// Not everything asked for was done.
    Incomplete = 2,
    /// Bad usage.
    Usage = 64,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// Tells whether a published checkpoint is its claimed base with a direction orthogonalized out of its weights.
#[derive(Parser)]
#[command(
    name = "orthoscope",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 nothing at or above --fail-on, 1 findings, 2 not everything asked was done, 64 bad usage."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// The SQLite index that examinations are recorded in and read from
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_INDEX, env = "ORTHOSCOPE_INDEX")]
    pub index: PathBuf,
    /// Output format
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub format: String,
    /// Say nothing on standard error but errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more; twice for every tensor
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to colour text
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// Make no request to any hub; read local files and caches only
    #[arg(long, global = true, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new(), num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub offline: bool,
    /// Worker threads; 0 for one per processor
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// A folder with more signatures
    #[arg(long, global = true, value_name = "FOLDER")]
    pub signatures: Option<PathBuf>,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// From which severity on findings give exit status 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Any finding
    Info,
    /// Low and above
    Low,
    /// Medium and above
    Medium,
    /// High only
    High,
    /// Never
    Never,
}

impl FailOn {
    /// Whether a finding of this severity counts.
    pub fn counts(self, severity: Severity) -> bool {
        match self {
            Self::Info => true,
            Self::Low => severity >= Severity::Low,
            Self::Medium => severity >= Severity::Medium,
            Self::High => severity >= Severity::High,
            Self::Never => false,
        }
    }

    /// The exit status of some examinations: findings come first, then what could not be done or told.
    pub fn status<'e>(self, examinations: impl IntoIterator<Item = &'e Examination>) -> ExitStatus {
        let mut status = ExitStatus::Success;
        for examination in examinations {
            if examination.findings.iter().any(|finding| self.counts(finding.severity)) {
                return ExitStatus::Findings;
            }
            if undone(examination).is_some() {
                status = ExitStatus::Incomplete;
            }
        }
        status
    }
}

/// What of an examination was asked for and not learnt, in one line.
fn undone(examination: &Examination) -> Option<&str> {
    let reason = examination.reason.as_deref();
    match (examination.status, examination.verdict) {
        (Status::Complete, Verdict::Inconclusive) => Some(&examination.because),
        (Status::Complete, _) => None,
        (Status::Partial | Status::Failed, _) => Some(reason.unwrap_or(&examination.because)),
    }
}

/// Says on standard error why the exit status is 2, a line an examination: those who read only that, and pipes that read
/// standard output, must not take it for a clean end.
pub(super) fn tell_undone<'e>(status: ExitStatus, examinations: impl IntoIterator<Item = &'e Examination>) {
    if status != ExitStatus::Incomplete {
        return;
    }
    let mut stderr = std::io::stderr().lock();
    for examination in examinations {
        if let Some(why) = undone(examination) {
            let source = crate::report::sanitise::name(&examination.candidate.source);
            let why = crate::report::sanitise::sentence(why);
            let _ = writeln!(stderr, "orthoscope: {source}: {}: {why}", words::verdict_name(examination.verdict));
        }
    }
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Compare(compare::Arguments),
    Scan(scan::Arguments),
    Inspect(inspect::Arguments),
    Sweep(sweep::Arguments),
    Findings(findings::Arguments),
    Export(export::Arguments),
    Rejudge(rejudge::Arguments),
    Evaluate(evaluate::Arguments),
    Signatures(signatures::Arguments),
    Completions(completions::Arguments),
    Doctor(doctor::Arguments),
    Explain(explain::Arguments),
    Manual(completions::ManualArguments),
    Report(report::Arguments),
    Serve(serve::Arguments),
    Stats(stats::Arguments),
    Verify(verify::Arguments),
}

impl Global {
    /// The signature catalogue: built in, and the user's folder where one is named.
    pub fn catalogue(&self) -> Result<Catalogue> {
        match &self.signatures {
            Some(folder) => Catalogue::with_folder(folder),
            None => Catalogue::builtin(),
        }
    }

    /// The index, for a command that only reads it.
    pub fn open_index(&self) -> Result<Index> {
        let index = Index::open_to_read(&self.index)?;
        if index.is_frozen() {
            let path = crate::report::sanitise::name(index.path());
            // A closed standard error is no reason not to answer.
            let _ = writeln!(
                std::io::stderr(),
                "orthoscope: nothing can be written beside {path}; it is read as it stands"
            );
        }
        Ok(index)
    }

    /// How text is laid out on standard output.
    pub fn style(&self) -> Style {
        let terminal = std::io::stdout().is_terminal();
        let colored = match self.color {
            ColorChoice::Auto => terminal && std::env::var_os("NO_COLOR").is_none(),
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
        Style {
            color: if colored { Color::Always } else { Color::Never },
            unicode: locale.is_empty() || locale.to_ascii_lowercase().contains("utf"),
            verbose: self.verbose > 0,
            profile: self.verbose > 1,
            ..Style::default()
        }
    }

    /// Progress is for a terminal, and not where silence was asked for.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// Runs the program; the only place that knows every subcommand.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; anything else is bad usage.
            let _ = error.print();
            return if error.use_stderr() { ExitStatus::Usage.into() } else { ExitStatus::Success.into() };
        }
    };
    if cli.global.threads > 0 {
        // Fails only when a pool exists already, which then serves as well.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(cli.global.threads).build_global();
    }
    let stdout = std::io::stdout();
    let mut out = stdout.lock();
    let ended = cli.command.run(&cli.global, &mut out).and_then(|status| {
        out.flush().map_err(|error| Error::io("writing to standard output", error))?;
        Ok(status)
    });
    match ended {
        Ok(status) => status.into(),
        Err(error) if is_broken_pipe(&error) => ExitStatus::Success.into(),
        Err(error) => {
            complain(&error);
            match error.kind {
                ErrorKind::Usage => ExitStatus::Usage.into(),
                _ => ExitStatus::Incomplete.into(),
            }
        }
    }
}

impl Command {
    fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        match self {
            Self::Demo(arguments) => arguments.run(global, out),
            Self::Compare(arguments) => arguments.run(global, out),
            Self::Scan(arguments) => arguments.run(global, out),
            Self::Inspect(arguments) => arguments.run(global, out),
            Self::Sweep(arguments) => arguments.run(global, out),
            Self::Findings(arguments) => arguments.run(global, out),
            Self::Export(arguments) => arguments.run(global, out),
            Self::Rejudge(arguments) => arguments.run(global, out),
            Self::Evaluate(arguments) => arguments.run(global, out),
            Self::Signatures(arguments) => arguments.run(global, out),
            Self::Completions(arguments) => arguments.run(global, out),
            Self::Doctor(arguments) => arguments.run(global, out),
            Self::Explain(arguments) => arguments.run(global, out),
            Self::Manual(arguments) => arguments.run(global, out),
            Self::Report(arguments) => arguments.run(global, out),
            Self::Serve(arguments) => arguments.run(global, out),
            Self::Stats(arguments) => arguments.run(global, out),
            Self::Verify(arguments) => arguments.run(global, out),
        }
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    let cause = error.source.as_deref().and_then(|source| source.downcast_ref::<std::io::Error>());
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// One error on standard error, causes below it.
fn complain(error: &Error) {
    let mut text = format!("orthoscope: {}", crate::report::sanitise::sentence(&error.doing));
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str("\n  because: ");
        text.push_str(&crate::report::sanitise::sentence(&error.to_string()));
        cause = error.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn assert_examples(command: &clap::Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example"), "{path} --help has no example");
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            assert_examples(inner, &format!("{path} {}", inner.get_name()));
        }
    }

    #[test]
    fn every_command_has_an_example_in_its_help() {
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
            assert_examples(command, &format!("orthoscope {}", command.get_name()));
        }
    }
}
