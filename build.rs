//! Tells the program which commit it is built from, so that a report can say what made it.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ORTHOSCOPE_COMMIT");
    // A build for development changes faster than its commit; naming one would be false, and would compile all again at each.
    let released = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if !released || std::env::var_os("ORTHOSCOPE_COMMIT").is_some() {
        return;
    }
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|top| Path::new(&top).canonicalize().ok());
    let here = std::env::var("CARGO_MANIFEST_DIR").ok().and_then(|here| Path::new(&here).canonicalize().ok());
    // Sources that lie in somebody else's repository have no commit of their own there.
    if top.is_none() || top != here {
        return;
    }
    for part in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", part]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=signatures");
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return };
    let changed = git(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])
        .is_none_or(|changes| !changes.is_empty());
    let changed = if changed { ", with changes" } else { "" };
    println!("cargo:rustc-env=ORTHOSCOPE_COMMIT={commit}{changed}");
}

/// What git answers, without blanks around it; nothing where there is no git or no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
