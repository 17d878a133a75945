//! The program as the tests call it.

use std::path::Path;

use assert_cmd::Command;

use crate::support::variables;

/// The program as a user of the stand-in calls it in a folder.
pub fn program(folder: &Path, hub: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orthoscope"));
    command
        .current_dir(folder)
        .envs(variables(hub, folder))
        .env_remove("ORTHOSCOPE_INDEX")
        .env_remove("HF_HUB_OFFLINE");
    command
}
