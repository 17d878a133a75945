//! What every command shares that talks to hubs: depth, budgets, the client, and stopping on a signal.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Global;
use crate::diff::DiffObserver;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Depth;
use crate::examine::Examiner;
use crate::examine::base::Bases;
use crate::examine::settings::{Escalate, ExamineSettings};
use crate::hub::{Client, ClientSettings, DEFAULT, Environment, Meter, on_hub, spellings, stale};
use crate::ids::Location;
use crate::limits::MAX_CLAIMED_BASE_BYTES;
use crate::report::Renderer;
use crate::signature::Catalogue;

/// How deep at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DepthChoice {
    /// Compare file hashes; read no weights
    Hashes,
    /// Read headers and a few rows of some tensors
    Screen,
    /// Read what the verdict needs, all weights if it must
    Full,
}

/// When to read more than a few rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EscalateChoice {
    /// Where a few rows do not decide, or say orthogonalized
    Auto,
    /// Always, all weights
    Always,
    /// Never: the word of the screen stands
    Never,
}

/// Options of reading repositories.
#[derive(Args, Debug, Clone)]
pub struct Reading {
    /// The deepest look allowed
    #[arg(long, value_enum, default_value_t = DepthChoice::Full)]
    depth: DepthChoice,
    /// When to read more than a few rows
    #[arg(long, value_enum, default_value_t = EscalateChoice::Auto)]
    escalate: EscalateChoice,
    /// Bytes to read of one repository at most (500MB, 2GiB); the base is not counted
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_bytes: Option<u64>,
    /// Bytes to fetch of a base that an upload claims at most; one given with --base is not held to it
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value_t = MAX_CLAIMED_BASE_BYTES)]
    max_base_bytes: u64,
    /// Examine every checkpoint that a repository holds, not one of each form (safetensors, GGUF, pickles, adapters)
    #[arg(long)]
    all_variants: bool,
}

impl Reading {
    /// The settings of examinations.
    pub fn settings(&self) -> ExamineSettings {
        ExamineSettings {
            depth: match self.depth {
                DepthChoice::Hashes => Depth::Hashes,
                DepthChoice::Screen => Depth::Screen,
                DepthChoice::Full => Depth::Full,
            },
            escalate: match self.escalate {
                EscalateChoice::Auto => Escalate::Auto,
                EscalateChoice::Always => Escalate::Always,
                EscalateChoice::Never => Escalate::Never,
            },
            max_bytes: self.max_bytes,
            max_base_bytes: Some(self.max_base_bytes),
            all_variants: self.all_variants,
            ..ExamineSettings::default()
        }
    }
}

/// Everything needed to examine repositories, with the client of the process's environment. What killed processes left
/// in its cache is thrown away first.
pub fn examiner(
    global: &Global,
    catalogue: &Arc<Catalogue>,
    settings: ExamineSettings,
    night_bytes: Option<u64>,
    observer: Arc<dyn DiffObserver + Send>,
) -> Result<Examiner> {
    let environment = Environment::of_process();
    let client = Client::new(ClientSettings {
        offline: global.offline || environment.offline(),
        cache: environment.own_cache(),
        ..ClientSettings::default()
    })?;
    stale::clean(client.cache());
    Ok(Examiner {
        client,
        environment,
        catalogue: catalogue.clone(),
        observer,
        settings,
        night: Meter::new("the run's", night_bytes, None),
        bases: Bases::default(),
    })
}

/// Stops the client on SIGINT or SIGTERM: what is under way ends in order, and is taken up again the next time. A
/// second signal ends the process at once, which loses nothing that was recorded.
pub fn stop_on_signal(client: &Arc<Client>) -> Result<()> {
    let stop = client.stop().clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("listening for signals", error))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                if signalled().await.is_err() {
                    return;
                }
                stop.cancel();
                if signalled().await.is_ok() {
                    #[allow(
                        clippy::exit,
                        clippy::disallowed_methods,
                        reason = "the user asked twice, and a worker may be deep in a computation"
                    )]
                    std::process::exit(130);
                }
            });
        })
        .map(|_| ())
        .map_err(|error| Error::io("listening for signals", error))
}

#[cfg(unix)]
async fn signalled() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn signalled() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// Reads `1500`, `500MB`, `2 GiB`: decimal and binary units.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        other => return Err(format!("{other:?} is no unit of bytes; want one of B kB MB GB TB KiB MiB GiB TiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no number of bytes, as in 500MB"))?;
    Ok((number * factor as f64) as u64)
}

/// Reads `90`, `90s`, `5m`, `2h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        other => return Err(format!("{other:?} is no unit of time; want s, m or h")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no time, as in 5m"))?;
    Ok(Duration::from_secs(number.saturating_mul(factor).max(1)))
}

/// A repository as it was given: the address of a hub's page, which is what people have at hand, becomes the name of
/// the repository that it shows.
pub fn spelled(text: &str) -> Result<String, String> {
    match Location::of_page(text) {
        Some(shown) => shown.map(|location| location.to_string()).map_err(|error| error.one_line()),
        None => Ok(text.to_owned()),
    }
}

/// An owner as given: `hf:owner`, or the address of the owner's page.
pub fn owner(text: &str) -> Result<String, String> {
    let owner = spelled(text)?;
    match owner.contains(['/', '@']) {
        true => Err(format!("{owner:?} is a repository; an owner is written hf:owner")),
        false => Ok(owner),
    }
}

/// A base or repository given by the user that is neither a hub's nor a path of this machine is usually a hub's name
/// without its prefix; says so.
pub fn check_location(text: &str) -> Result<()> {
    if on_hub(text).is_some() || Path::new(text).exists() {
        return Ok(());
    }
    let hint = match text.split('/').collect::<Vec<_>>().as_slice() {
        [owner, name] if !owner.is_empty() && !owner.starts_with('.') && !name.is_empty() => {
            format!("; for the repository on {}, write {}:{text}", DEFAULT.title, DEFAULT.prefix)
        }
        _ => format!("; repositories are written {}", spellings()),
    };
    Err(Error::new(ErrorKind::Usage, format!("looking for {text}: no such file or folder{hint}")))
}

/// A path that has to be on this machine. A mistyped one is no upload that could not be examined, and is not recorded
/// as one.
pub fn check_here(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let text = path.display().to_string();
    let hint = match on_hub(&text).is_some() || Location::of_page(&text).is_some() {
        true => "; repositories on a hub are compared by `orthoscope scan REPO --base REPO`",
        false => "",
    };
    Err(Error::new(ErrorKind::Usage, format!("looking for {text}: no such file or folder{hint}")))
}

/// Whether digests are computed: where asked for, and where the report names files by them, which is said before hours
/// of work rather than after.
pub fn digests(asked: bool, renderer: &dyn Renderer) -> bool {
    let needed = renderer.needs_digests() && !asked;
    if needed {
        let name = renderer.name();
        let _ = writeln!(
            std::io::stderr(),
            "orthoscope: {name} names files by their SHA-256: those that are not known are computed, as with --digests"
        );
    }
    asked || needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        assert_eq!(parse_bytes("1500"), Ok(1500));
        assert_eq!(parse_bytes("500MB"), Ok(500_000_000));
        assert_eq!(parse_bytes("1.5 GiB"), Ok(3 << 29));
        assert!(parse_bytes("many").is_err() && parse_bytes("5 parsecs").is_err());
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("soon").is_err());
        assert_eq!(spelled("https://huggingface.co/a/b/tree/main"), Ok("hf:a/b@main".to_owned()));
        assert_eq!(spelled("./a"), Ok("./a".to_owned()));
        assert!(spelled("https://example.com/a/b").is_err());
        assert_eq!(owner("https://huggingface.co/a"), Ok("hf:a".to_owned()));
        assert!(owner("hf:a/b").is_err());
        assert!(check_here(Path::new("surely-not-there")).is_err_and(|error| error.kind == ErrorKind::Usage));
        assert!(check_here(Path::new("hf:a/b")).unwrap_err().doing.contains("orthoscope scan"));
        assert!(check_location("hf:a/b").is_ok());
        assert!(check_location("surely-not/there").unwrap_err().doing.contains("hf:surely-not/there"));
    }
}
