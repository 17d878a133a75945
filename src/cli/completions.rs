//! `orthoscope completions SHELL` and `orthoscope manual`: what shells and `man` read.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::{ExitStatus, Global, command_line};
use crate::error::{Error, Result};

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope completions bash > ~/.local/share/bash-completion/completions/orthoscope
  orthoscope completions zsh > \"${fpath[1]}/_orthoscope\"")]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArguments {
    pub(super) fn run(self, _: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command_line(), "orthoscope", &mut text);
        out.write_all(&text).map_err(|error| Error::io("writing completions", error))?;
        Ok(ExitStatus::Success)
    }
}

/// Write manual pages, one for each command
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope manual ~/.local/share/man/man1")]
pub struct ManualArguments {
    /// The folder to write to; it is made when it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl ManualArguments {
    pub(super) fn run(self, _: &Global, _: &mut dyn Write) -> Result<ExitStatus> {
        let failed = |error| Error::io(format!("writing manual pages to {}", self.folder.display()), error);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut command = command_line();
        command.build();
        pages(&command, "orthoscope", &self.folder).map_err(failed)?;
        Ok(ExitStatus::Success)
    }
}

/// The page of a command and of every one below it.
fn pages(command: &clap::Command, name: &str, folder: &Path) -> std::io::Result<()> {
    page(command, name, folder)?;
    let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    for inner in below {
        pages(inner, &format!("{name}-{}", inner.get_name()), folder)?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str, folder: &Path) -> std::io::Result<()> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut text)?;
    std::fs::write(folder.join(format!("{name}.1")), text)
}
