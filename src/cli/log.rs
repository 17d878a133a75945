//! What the library has to say while it works: `tracing` events as lines on standard error, never on standard output.
//!
//! A line reads like every other that the program writes there (`orthoscope: warning: …`). Events hold names that
//! uploaders chose, so each is made harmless before it is shown. Only the library's own events are shown: what its
//! dependencies trace is about themselves.

use std::fmt;
use std::io::{IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, WeakProgressBar};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::{ColorChoice, Global};
use crate::report::sanitise;

/// The bar on the screen, which makes room for a line.
static SHOWN: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// Lines are written above this bar from here on, as long as it is there.
pub(super) fn beside(bar: &ProgressBar) {
    *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
}

/// Shows events from here on: errors where silence was asked for, else warnings, and more for each `--verbose`.
pub(super) fn install(global: &Global) {
    let color = match global.color {
        ColorChoice::Auto => std::env::var_os("NO_COLOR").is_none(),
        ColorChoice::Always => true,
        ColorChoice::Never => false,
    };
    let shown =
        subscriber(level(global.quiet, global.verbose), color && std::io::stderr().is_terminal(), || StandardError);
    // Fails only when another one is there already, as where several commands run in one process.
    let _ = tracing::subscriber::set_global_default(shown);
}

/// The least severe level that is shown.
const fn level(quiet: bool, verbose: u8) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    }
}

fn subscriber<W>(level: LevelFilter, color: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Line)
        .with_ansi(color)
        // A closed standard error is no reason to stop, and nothing could be told of it.
        .log_internal_errors(false)
        .with_writer(writer);
    Registry::default().with(Targets::new().with_target(env!("CARGO_CRATE_NAME"), level)).with(lines)
}

/// Standard error, beside a bar.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let bar = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(WeakProgressBar::upgrade);
        let write = || std::io::stderr().write_all(bytes).map(|()| bytes.len());
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// An event as one line.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let (word, ink) = match *event.metadata().level() {
            Level::ERROR => ("error", "\u{1b}[31m"),
            Level::WARN => ("warning", "\u{1b}[33m"),
            Level::INFO => ("note", "\u{1b}[36m"),
            Level::DEBUG | Level::TRACE => ("debug", "\u{1b}[2m"),
        };
        let (ink, plain) = if writer.has_ansi_escapes() { (ink, "\u{1b}[0m") } else { ("", "") };
        writeln!(writer, "orthoscope: {ink}{word}{plain}: {}", sanitise::sentence(&(said.message + &said.fields)))
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message.push_str(&format!("{value:?}")),
            name => self.fields.push_str(&format!(" {name}={value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn said(level: LevelFilter, color: bool, speak: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        tracing::subscriber::with_default(subscriber(level, color, move || writer.clone()), speak);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_warning_is_one_harmless_line() {
        let name = "hf:a/\u{1b}[2J\nb\u{202e}";
        let line = said(LevelFilter::WARN, false, || tracing::warn!(tries = 3, "reading {name}"));
        assert_eq!(line, "orthoscope: warning: reading hf:a/\\u{1b}[2J\\u{a}b\\u{202e} tries=3\n");
        let long = said(LevelFilter::WARN, false, || tracing::error!("{}", "x".repeat(1 << 20)));
        assert!(long.starts_with("orthoscope: error: xx") && long.len() < 1000, "{}", long.len());
        let colored = said(LevelFilter::WARN, true, || tracing::warn!("{name}"));
        assert!(colored.starts_with("orthoscope: \u{1b}[33mwarning\u{1b}[0m: hf:a/\\u{1b}"), "{colored:?}");
    }

    #[test]
    fn silence_and_talk_are_as_asked_for_and_dependencies_are_not_heard() {
        let all = || {
            tracing::error!("one");
            tracing::warn!("two");
            tracing::info!("three");
            tracing::debug!("four");
            tracing::trace!("five");
            tracing::error!(target: "hyper::client", "of a dependency");
        };
        for (quiet, verbose, lines) in [(true, 0, 1), (true, 2, 1), (false, 0, 2), (false, 1, 3), (false, 2, 4)] {
            let said = said(level(quiet, verbose), false, all);
            assert_eq!(said.lines().count(), lines, "quiet {quiet}, verbose {verbose}: {said}");
            assert!(!said.contains("dependency"), "{said}");
        }
    }
}
