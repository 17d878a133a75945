//! The command line: one file per subcommand, its arguments beside it.

pub mod compare;
pub mod completions;
pub mod decide;
pub mod demo;
pub mod doctor;
pub mod enroll;
pub mod evaluate;
pub mod explain;
pub mod export;
pub mod findings;
pub mod hubs;
pub mod identify;
pub mod inspect;
mod log;
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
use std::sync::LazyLock;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Severity, Status, Verdict};
use crate::index::Index;
use crate::report::{self as reports, Color, NO_TERMINAL, RENDERERS, Renderer, Style, sanitise};
use crate::signature::Catalogue;

/// The index where none is named.
const DEFAULT_INDEX: &str = "orthoscope.db";

/// The version, with the commit where it is known.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = crate::COMMIT.map(|commit| format!(" (commit {commit})")).unwrap_or_default();
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
});

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
    version = VERSION.as_str(),
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
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The SQLite index that examinations are recorded in and read from
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_INDEX, env = "ORTHOSCOPE_INDEX")]
    pub index: PathBuf,
    /// Output format
    // Each subcommand has its own list and default, which `with_formats` gives it; this one lets it stand before the
    // subcommand.
    #[arg(long, global = true, hide = true, value_name = "FORMAT")]
    format: Option<String>,
    /// Say nothing on standard error but errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more, also of what is tried again; twice for every tensor
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

/// Says on standard error why the exit status is 2, a line an examination: those who read only that, and pipes that
/// read standard output, must not take it for a clean end.
pub(super) fn tell_undone<'e>(status: ExitStatus, examinations: impl IntoIterator<Item = &'e Examination>) {
    if status != ExitStatus::Incomplete {
        return;
    }
    let mut stderr = std::io::stderr().lock();
    for examination in examinations {
        if let Some(why) = undone(examination) {
            let source = sanitise::name(&examination.candidate.source);
            let why = sanitise::sentence(why);
            let _ = writeln!(stderr, "orthoscope: {source}: {}: {why}", examination.verdict.as_str());
        }
    }
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArguments),
    Compare(compare::CompareArguments),
    Scan(scan::ScanArguments),
    Inspect(inspect::InspectArguments),
    Enroll(enroll::EnrollArguments),
    Identify(identify::IdentifyArguments),
    Sweep(sweep::SweepArguments),
    Findings(findings::FindingsArguments),
    Decide(decide::DecideArguments),
    Export(export::ExportArguments),
    Rejudge(rejudge::RejudgeArguments),
    Evaluate(evaluate::EvaluateArguments),
    Signatures(signatures::SignaturesArguments),
    Completions(completions::CompletionsArguments),
    Doctor(doctor::DoctorArguments),
    Explain(explain::ExplainArguments),
    Manual(completions::ManualArguments),
    Report(report::ReportArguments),
    Serve(serve::ServeArguments),
    Stats(stats::StatsArguments),
    Verify(verify::VerifyArguments),
}

/// The formats that a subcommand writes its answer in, the default first; none where it has no answer to lay out.
fn formats(path: &str) -> Vec<&'static str> {
    let all = |first: &'static str| {
        let others = RENDERERS.iter().map(|renderer| renderer.name()).filter(move |name| *name != first);
        std::iter::once(first).chain(others).collect()
    };
    match path {
        "compare" | "scan" | "report" | "findings show" => all("text"),
        "export" => all("jsonl"),
        "findings list" => vec!["text", "table", "json"],
        "stats" => vec!["text", "json", "html"],
        "signatures show" => vec!["text", "json", "source"],
        "evaluate" => vec!["text", "json", "csv"],
        "decide" | "demo" | "doctor" | "enroll" | "identify" | "inspect" | "rejudge" | "sweep" | "verify"
        | "signatures list" => vec!["text", "json"],
        "explain" | "signatures check" => vec!["text"],
        _ => Vec::new(),
    }
}

/// The command line with each subcommand's formats, and the demo's own index, in its help and completions.
fn command_line() -> clap::Command {
    with_formats(Cli::command(), "").mut_subcommand("demo", demo::with_index)
}

fn with_formats(command: clap::Command, path: &str) -> clap::Command {
    let below: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let command = below.iter().fold(command, |command, name| {
        let path = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command.mut_subcommand(name, |inner| with_formats(inner, &path))
    });
    let formats = formats(path);
    let Some(default) = formats.first() else { return command };
    let values = formats.iter().map(|name| {
        let value = PossibleValue::new(*name);
        let value = if *name == "markdown" { value.alias("md") } else { value };
        match reports::renderer(name).filter(|_| formats.len() > 3) {
            Some(renderer) => value.help(renderer.purpose()),
            None => value,
        }
    });
    let format = Arg::new("format")
        .long("format")
        .value_name("FORMAT")
        .help("How the answer is laid out")
        .default_value(*default)
        .value_parser(PossibleValuesParser::new(values));
    command.arg(format)
}

/// Refuses a format that the subcommand does not write: given before the subcommand, no list has seen it yet.
fn check_format(matches: &ArgMatches, global: &Global) -> Result<()> {
    let mut path = Vec::new();
    let mut inner = matches;
    while let Some((name, below)) = inner.subcommand() {
        path.push(name);
        inner = below;
    }
    let (path, asked) = (path.join(" "), global.format());
    let known = formats(&path);
    if asked.is_empty() || known.contains(&asked) || (asked == "md" && known.contains(&"markdown")) {
        return Ok(());
    }
    let there_are = if known.is_empty() { "it has none".to_owned() } else { format!("there are {}", known.join(", ")) };
    Err(Error::new(ErrorKind::Usage, format!("no format of `orthoscope {path}` is called {asked:?}; {there_are}")))
}

impl Global {
    /// The output format; empty for a subcommand that has none.
    pub fn format(&self) -> &str {
        self.format.as_deref().unwrap_or_default()
    }

    /// How the report that was asked for is written, to a file or to standard output: refused before any work where a
    /// terminal could not show it.
    pub fn renderer(&self, format: &str, into_file: bool) -> Result<&'static dyn Renderer> {
        let known = || RENDERERS.iter().map(|renderer| renderer.name()).collect::<Vec<_>>().join(", ");
        let renderer = reports::renderer(format).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("no format is called {format:?}; there are {}", known()))
        })?;
        refuse_binary(renderer, !into_file && std::io::stdout().is_terminal())?;
        Ok(renderer)
    }

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
            let path = sanitise::name(index.path());
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
        let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
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
            width: width.filter(|width| *width > 0).unwrap_or(NO_TERMINAL),
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
    let parsed = command_line()
        .try_get_matches_from(arguments)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (mut cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are answers; anything else is bad usage.
            let _ = error.print();
            return if error.use_stderr() { ExitStatus::Usage.into() } else { ExitStatus::Success.into() };
        }
    };
    log::install(&cli.global);
    // The environment names the index of the user's examinations, which the demonstration's are not.
    if let Some(("demo", demo)) = matches.subcommand()
        && demo.value_source("index") != Some(ValueSource::CommandLine)
    {
        cli.global.index = PathBuf::from(demo::INDEX);
    }
    if cli.global.threads > 0 {
        // Fails only when a pool exists already, which then serves as well.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(cli.global.threads).build_global();
    }
    let stdout = std::io::stdout();
    let mut out = stdout.lock();
    let ended =
        check_format(&matches, &cli.global).and_then(|()| cli.command.run(&cli.global, &mut out)).and_then(|status| {
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
            Self::Enroll(arguments) => arguments.run(global, out),
            Self::Identify(arguments) => arguments.run(global, out),
            Self::Sweep(arguments) => arguments.run(global, out),
            Self::Findings(arguments) => arguments.run(global, out),
            Self::Decide(arguments) => arguments.run(global, out),
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

/// Binary output in a terminal is noise, and may move its cursor.
fn refuse_binary(renderer: &dyn Renderer, to_a_terminal: bool) -> Result<()> {
    if renderer.is_binary() && to_a_terminal {
        let name = renderer.name();
        let what =
            format!("writing {name} to a terminal: it is binary; send it to a file, as in `… --format {name} > FILE`");
        return Err(Error::new(ErrorKind::Usage, what));
    }
    Ok(())
}

fn is_broken_pipe(error: &Error) -> bool {
    let cause = error.source.as_deref().and_then(|source| source.downcast_ref::<std::io::Error>());
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// One error on standard error, causes below it.
fn complain(error: &Error) {
    // Long enough for the list of what there is, which a refusal ends with.
    let shown = |text: &str| sanitise::clean(text, 4000);
    let mut text = format!("orthoscope: {}", shown(&error.doing));
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str("\n  because: ");
        text.push_str(&shown(&error.to_string()));
        cause = error.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
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
        for command in command_line().get_subcommands().filter(|command| command.get_name() != "help") {
            assert_examples(command, &format!("orthoscope {}", command.get_name()));
        }
    }

    /// Every subcommand that does something, as words.
    fn leaves(command: &clap::Command, path: &[String]) -> Vec<Vec<String>> {
        let inner: Vec<&clap::Command> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
        if inner.is_empty() {
            return vec![path.to_vec()];
        }
        inner.iter().flat_map(|one| leaves(one, &[path, &[one.get_name().to_owned()]].concat())).collect()
    }

    #[test]
    fn every_command_lists_its_formats_and_takes_no_other() {
        let mut with_formats = 0;
        for path in leaves(&command_line(), &[]) {
            let known = formats(&path.join(" "));
            let line: Vec<&str> = std::iter::once("orthoscope").chain(path.iter().map(String::as_str)).collect();
            let help =
                command_line().try_get_matches_from([&line[..], &["--help"]].concat()).expect_err("help").to_string();
            for format in &known {
                assert!(help.contains(format), "{path:?}: {help}");
            }
            with_formats += usize::from(!known.is_empty());
            if known.is_empty() {
                continue;
            }
            let refused = command_line().try_get_matches_from([&line[..], &["--format", "bogus"]].concat());
            let said = refused.expect_err("no such format").to_string();
            assert!(known.iter().all(|format| said.contains(format)), "{path:?}: {said}");
        }
        assert!(with_formats > 14, "{with_formats}");
    }

    #[test]
    fn whatever_lays_out_a_report_takes_every_format_of_reports() {
        let all: std::collections::BTreeSet<&str> = RENDERERS.iter().map(|renderer| renderer.name()).collect();
        for path in ["compare", "scan", "report", "findings show", "export"] {
            assert_eq!(formats(path).into_iter().collect::<std::collections::BTreeSet<_>>(), all, "{path}");
            let line: Vec<&str> = std::iter::once("orthoscope").chain(path.split(' ')).collect();
            let wrong = command_line().try_get_matches_from([&line[..], &["--format", "no-such"]].concat());
            assert!(
                all.iter().all(|format| wrong.as_ref().is_err_and(|error| error.to_string().contains(format))),
                "{path}"
            );
        }
    }

    #[test]
    fn a_format_before_the_command_is_held_to_its_list() {
        let check = |arguments: &[&str]| {
            let matches = command_line().try_get_matches_from(arguments).expect("parses");
            let cli = Cli::from_arg_matches(&matches).expect("parses");
            check_format(&matches, &cli.global).map(|()| cli.global.format().to_owned())
        };
        assert_eq!(check(&["orthoscope", "--format", "json", "doctor"]).expect("known"), "json");
        assert_eq!(check(&["orthoscope", "doctor"]).expect("known"), "text");
        assert_eq!(check(&["orthoscope", "export"]).expect("known"), "jsonl");
        assert_eq!(check(&["orthoscope", "export", "--format", "md"]).expect("known"), "md");
        assert_eq!(check(&["orthoscope", "serve"]).expect("none"), "");
        for wrong in [&["orthoscope", "--format", "sarif", "doctor"][..], &["orthoscope", "serve", "--format", "json"]]
        {
            assert_eq!(check(wrong).expect_err("not one of its own").kind, ErrorKind::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn what_a_terminal_cannot_show_is_not_written_to_one() {
        for renderer in RENDERERS {
            assert_eq!(refuse_binary(*renderer, true).is_err(), renderer.name() == "parquet", "{}", renderer.name());
            assert!(refuse_binary(*renderer, false).is_ok());
        }
    }

    /// Help is wrapped by the terminal's width, once: a line that was broken by hand would be broken again.
    #[test]
    fn help_is_written_in_whole_paragraphs() {
        fn check(command: &clap::Command) {
            let texts = [command.get_about(), command.get_long_about(), command.get_after_help()];
            for text in texts.into_iter().flatten().map(ToString::to_string) {
                for pair in text.lines().collect::<Vec<_>>().windows(2) {
                    let [first, second] = pair else { continue };
                    let prose = |line: &str| !line.is_empty() && !line.starts_with("  ") && !line.ends_with(':');
                    assert!(!(prose(first) && prose(second)), "{}: {first}\n{second}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&command_line());
    }
}
