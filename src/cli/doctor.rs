//! `orthoscope doctor`: whether this machine has what orthoscope needs, and what to do where not.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{ExitStatus, Global};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::report::json::write_value;
use crate::report::{RENDERERS, sanitise};

/// Check the index, the catalogue, the cache, disk, processor and settings, and say what to do about what is wrong
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope doctor
  orthoscope doctor --format json

Exit status 2 when something has to be done. Tokens are never shown.")]
pub struct Arguments {
    /// Leave out the check of every page of the index, which reads all of it
    #[arg(long)]
    quick: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Good,
    Note,
    Bad,
}

/// One check.
#[derive(Debug, serde::Serialize)]
struct Check {
    what: &'static str,
    state: State,
    told: String,
    /// What to do.
    advice: Option<String>,
}

impl Check {
    fn good(what: &'static str, told: impl Into<String>) -> Self {
        Self { what, state: State::Good, told: told.into(), advice: None }
    }

    fn note(what: &'static str, told: impl Into<String>, advice: &str) -> Self {
        Self { what, state: State::Note, told: told.into(), advice: Some(advice.to_owned()) }
    }

    fn bad(what: &'static str, told: impl Into<String>, advice: &str) -> Self {
        Self { what, state: State::Bad, told: told.into(), advice: Some(advice.to_owned()) }
    }
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let mut checks = vec![program(), processor(), catalogue(global)];
        checks.extend(index(&global.index, self.quick));
        checks.push(token());
        checks.push(endpoint(global));
        checks.extend(places(global));
        let written = |error| Error::io("writing the answer", error);
        if global.format == "json" {
            write_value(&checks, &global.style(), out)?;
            writeln!(out).map_err(written)?;
        } else {
            for check in &checks {
                let mark = match check.state {
                    State::Good => "ok  ",
                    State::Note => "note",
                    State::Bad => "BAD ",
                };
                writeln!(out, "{mark}  {:<10} {}", check.what, sanitise::sentence(&check.told)).map_err(written)?;
                if let Some(advice) = &check.advice {
                    writeln!(out, "                 {}", sanitise::sentence(advice)).map_err(written)?;
                }
            }
        }
        let bad = checks.iter().any(|check| check.state == State::Bad);
        Ok(if bad { ExitStatus::Incomplete } else { ExitStatus::Success })
    }
}

fn program() -> Check {
    let formats: Vec<&str> = RENDERERS.iter().map(|renderer| renderer.name()).collect();
    Check::good("program", format!("orthoscope {}, output formats {}", env!("CARGO_PKG_VERSION"), formats.join(", ")))
}

fn processor() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let features = features();
    let told = format!(
        "{threads} threads, {}",
        if features.is_empty() { "no wide vectors".into() } else { features.join(" ") }
    );
    if cfg!(target_arch = "x86_64") && !features.contains(&"avx2") {
        return Check::note("processor", told, "without AVX2 comparisons take several times as long");
    }
    Check::good("processor", told)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    known.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

fn catalogue(global: &Global) -> Check {
    match global.catalogue() {
        Ok(catalogue) => {
            Check::good("catalogue", format!("{} signatures, {}", catalogue.signatures().len(), catalogue.hash()))
        }
        Err(error) => {
            Check::bad("catalogue", error.one_line(), "correct the file named; `orthoscope signatures check` says more")
        }
    }
}

fn index(path: &Path, quick: bool) -> Vec<Check> {
    if !path.exists() {
        let told = format!("{} is not there yet", path.display());
        return vec![Check::note(
            "index",
            told,
            "`orthoscope compare` and `orthoscope scan` make it, or name another with --index",
        )];
    }
    let index = match Index::open_read_only(path) {
        Ok(index) => index,
        Err(error) => {
            return vec![Check::bad(
                "index",
                error.one_line(),
                "name another with --index, or any writing command brings an older one up to date",
            )];
        }
    };
    let outcomes = index.outcomes().unwrap_or_default();
    let all: u64 = outcomes.iter().map(|(_, count)| count).sum();
    let mut checks = vec![Check::good("index", format!("{}: {all} examinations", path.display()))];
    if !quick {
        checks.push(match index.integrity() {
            Ok(faults) if faults.is_empty() => Check::good("integrity", "every page of the index is sound"),
            Ok(faults) => Check::bad(
                "integrity",
                faults.join("; "),
                "restore a snapshot (`orthoscope export --sqlite`), and check the disk",
            ),
            Err(error) => Check::bad("integrity", error.one_line(), "restore a snapshot, and check the disk"),
        });
    }
    checks.push(match index.broken_decisions() {
        Ok(broken) if broken.is_empty() => Check::good("decisions", "the audit trail is whole"),
        Ok(broken) => Check::bad(
            "decisions",
            format!("{} were changed by other means", broken.len()),
            "compare with a snapshot; who can write the file?",
        ),
        Err(error) => Check::bad("decisions", error.one_line(), "restore a snapshot"),
    });
    checks
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn home(folder: &str) -> Option<PathBuf> {
    variable("HOME").map(|home| Path::new(&home).join(folder))
}

/// The folder of the hub's own tools.
fn hub_home() -> Option<PathBuf> {
    variable("HF_HOME").map(PathBuf::from).or_else(|| home(".cache/huggingface"))
}

fn token() -> Check {
    if variable("HF_TOKEN").is_some() {
        return Check::good("token", "from HF_TOKEN");
    }
    let file = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| hub_home().map(|home| home.join("token")));
    match file {
        Some(path) if path.is_file() => match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > 0 => Check::good("token", format!("from {}", path.display())),
            _ => Check::note("token", format!("{} is empty", path.display()), "gated repositories need a token"),
        },
        _ => Check::note(
            "token",
            "none",
            "without one, gated repositories are not examined and rate limits are lower; set HF_TOKEN",
        ),
    }
}

fn endpoint(global: &Global) -> Check {
    if global.offline {
        return Check::note("network", "offline by request", "no hub is asked; only local files and caches are read");
    }
    match variable("HF_ENDPOINT") {
        Some(endpoint) if url::Url::parse(&endpoint).is_err() => {
            Check::bad("network", format!("HF_ENDPOINT is {endpoint:?}"), "it has to be an address like https://host")
        }
        Some(endpoint) => Check::good("network", format!("Hugging Face at {}", without_password(&endpoint))),
        None => Check::good("network", "Hugging Face at its own address"),
    }
}

/// An address without user and password.
fn without_password(address: &str) -> String {
    let Ok(mut url) = url::Url::parse(address) else { return String::new() };
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Whether the folders that are written to can be.
fn places(global: &Global) -> Vec<Check> {
    let cache = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| hub_home().map(|home| home.join("hub")));
    let index = global.index.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut checks = vec![writable("disk", index, "the index cannot be written there")];
    if let Some(cache) = cache {
        checks.push(if cache.is_dir() {
            let snapshots = fs::read_dir(&cache).map_or(0, |entries| entries.count());
            Check::good("cache", format!("{} with {snapshots} entries", cache.display()))
        } else {
            Check::note("cache", format!("{} is not there", cache.display()), "it is made by the first download")
        });
    }
    checks
}

fn writable(what: &'static str, folder: &Path, consequence: &str) -> Check {
    match tempfile::NamedTempFile::new_in(folder) {
        Ok(_) => Check::good(what, format!("{} can be written", folder.display())),
        Err(error) => Check::bad(what, format!("{}: {error}", folder.display()), consequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("https://user:secret@hub.example/x"), "https://hub.example/x");
    }

    #[test]
    fn a_missing_index_is_a_note_and_a_broken_one_is_bad() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("index.db");
        assert_eq!(index(&path, false)[0].state, State::Note);
        fs::write(&path, [7; 4096]).expect("writes");
        assert_eq!(index(&path, false)[0].state, State::Bad);
        fs::remove_file(&path).expect("removes");
        drop(Index::open(&path).expect("opens"));
        assert!(index(&path, false).iter().all(|check| check.state == State::Good));
    }
}
