//! `orthoscope serve`: the index in a browser.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ExitStatus, Global};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::limits::MAX_JSON_BYTES;
use crate::serve::{self, ServeSettings};

/// Read the index in a browser: triage queue, dossiers, decisions, family trees, prevalence, and a JSON API
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope serve
  orthoscope serve --index nightly.db --bind 127.0.0.1:9000
  ORTHOSCOPE_TOKEN=… orthoscope serve --bind 0.0.0.0:8470 --behind-tls

On loopback a token is made at every start and printed with the address to open; with --no-token any user of this machine \
can read the index and decide under any name. Any other address needs a token of yours: put a proxy with TLS before it, and \
say so with --behind-tls. The index may be written by a sweep meanwhile; on read-only media it is served without decisions.")]
pub struct ServeArguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8470")]
    bind: SocketAddr,
    /// What a visitor has to know (at least 16 characters); better given by the variable or --token-file
    #[arg(long, env = "ORTHOSCOPE_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file whose first line is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ask for no token: for loopback, on a machine that nobody else uses
    #[arg(long, conflicts_with_all = ["token", "token_file"])]
    no_token: bool,
    /// Visitors come over TLS: keep the cookie to it
    #[arg(long)]
    behind_tls: bool,
}

impl ServeArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        // A mistyped name would be served as an index without findings.
        drop(Index::open_to_read(&global.index)?);
        let given = match &self.token_file {
            Some(path) => Some(first_line(path)?),
            None => self.token,
        };
        // One that was given is the user's secret; one made here has to be told.
        let made = (given.is_none() && !self.no_token && self.bind.ip().is_loopback()).then(serve::fresh_token);
        let settings = ServeSettings {
            index: global.index.clone(),
            catalogue: global.catalogue()?,
            bind: self.bind,
            token: given.or_else(|| made.clone()),
            secure: self.behind_tls,
            clock: jiff::Timestamp::now,
        };
        serve::run(settings, |address, writable| {
            // A closed standard output is no reason not to serve.
            let _ = writeln!(out, "listening on http://{address}");
            if let Some(token) = &made {
                let _ = writeln!(out, "open http://{address}/login?token={token}");
            }
            if !writable {
                let _ = writeln!(
                    out,
                    "nothing can be written beside the index: it is read as it stands, without decisions"
                );
            }
            let _ = out.flush();
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
