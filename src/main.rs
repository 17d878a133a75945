//! The `orthoscope` command: parses, runs, and ends with a documented exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    orthoscope::cli::run(std::env::args_os())
}
