//! Serves a folder of `owner/name` repositories as the stand-in hub, for clients in other languages.
//!
//! `cargo run --release --example standin -- FOLDER [TOKEN]` prints one line of JSON with the two addresses and serves
//! until its standard input closes. Control routes are under `/-/` (see `src/demo/standin/control.rs`).

use std::io::{Read, Write};
use std::path::Path;

use orthoscope::demo::standin::{Repository, Standin, StandinSettings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: standin FOLDER [TOKEN]")?;
    let settings =
        StandinSettings { token: arguments.next(), tree_page: 50, list_page: 200, ..StandinSettings::default() };
    let standin = Standin::start(Repository::from_folder(Path::new(&folder))?, settings)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::json!({"hub": standin.hub(), "delivery": standin.delivery()}))?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    standin.stop()?;
    Ok(())
}
