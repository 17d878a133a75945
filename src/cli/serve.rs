//! `orthoscope serve`: the index in a browser.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ExitStatus, Global};
use crate::error::{Error, Result};
use crate::limits::MAX_JSON_BYTES;
use crate::serve::{self, Settings};

/// Read the index in a browser: triage queue, dossiers, decisions, family trees, prevalence, and a JSON API
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope serve
  orthoscope serve --index nightly.db --bind 127.0.0.1:9000
  ORTHOSCOPE_TOKEN=… orthoscope serve --bind 0.0.0.0:8470 --behind-tls

Loopback needs no token; any other address does. Put a proxy with TLS before it, and say so with --behind-tls. The index may
be written by a sweep meanwhile.")]
pub struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8470")]
    bind: SocketAddr,
    /// What a visitor has to know (at least 16 characters); better given by the variable or --token-file
    #[arg(long, env = "ORTHOSCOPE_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file whose first line is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Visitors come over TLS: keep the cookie to it
    #[arg(long)]
    behind_tls: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let token = match &self.token_file {
            Some(path) => Some(first_line(path)?),
            None => self.token,
        };
        let settings = Settings {
            index: global.index.clone(),
            catalogue: global.catalogue()?,
            bind: self.bind,
            token,
            secure: self.behind_tls,
            clock: jiff::Timestamp::now,
        };
        serve::run(settings, |address| {
            // A closed standard output is no reason not to serve.
            let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
        })?;
        Ok(ExitStatus::Success)
    }
}

fn first_line(path: &std::path::Path) -> Result<String> {
    use std::io::Read as _;
    let doing = || format!("reading the token of {}", path.display());
    let file = std::fs::File::open(path).map_err(|error| Error::io(doing(), error))?;
    let mut text = String::new();
    file.take(MAX_JSON_BYTES).read_to_string(&mut text).map_err(|error| Error::io(doing(), error))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
