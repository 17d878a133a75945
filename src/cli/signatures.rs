//! `orthoscope signatures`: lists, shows and checks the catalogue.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::signature::file::{HEADINGS, severity_word};
use crate::signature::{Catalogue, Signature, builtin_files, folder_files, lint};

/// List, show and check the signatures that findings are made from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  orthoscope signatures list\n  orthoscope signatures show out-rank1-global\n  \
                        orthoscope signatures check --folder my-signatures")]
pub struct SignaturesArguments {
    /// What to do.
    #[command(subcommand)]
    action: Action,
    /// A folder with signatures of your own, used beside the built-in ones.
    #[arg(long, global = true, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// What `orthoscope signatures` can do.
#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each signature.
    #[command(after_help = "Examples:\n  orthoscope signatures list --format json")]
    List,
    /// One signature: what it means and its numbers (`--format source` for the file itself, to start one of your own
    /// from).
    #[command(after_help = "Examples:\n  orthoscope signatures show out-rank1-global --format source > mine.md")]
    Show {
        /// The signature's id.
        id: String,
    },
    /// Check every signature against the rules, its examples and its counter examples.
    #[command(after_help = "Examples:\n  orthoscope signatures check --folder my-signatures --deny-warnings")]
    Check {
        /// Fail on warnings too.
        #[arg(long)]
        deny_warnings: bool,
    },
}

impl SignaturesArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let folder = self.folder.or_else(|| global.signatures.clone());
        let catalogue = || folder.as_deref().map_or_else(Catalogue::builtin, Catalogue::with_folder);
        match self.action {
            Action::List => list(&catalogue()?, global.format(), out)?,
            Action::Show { id } => {
                let catalogue = catalogue()?;
                let signature = catalogue.get(&id).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Usage,
                        format!("showing signature {id:?}: there is none; see `orthoscope signatures list`"),
                    )
                })?;
                show(signature, global.format(), out)?;
            }
            Action::Check { deny_warnings } => return check(folder.as_deref(), deny_warnings, out),
        }
        Ok(ExitStatus::Success)
    }
}

fn list(catalogue: &Catalogue, format: &str, out: &mut dyn Write) -> Result<()> {
    match format {
        "json" => {
            let all: Vec<_> = catalogue.signatures().iter().map(as_json).collect();
            print_json(&json!({ "catalogue": catalogue.hash(), "signatures": all }), out)
        }
        _ => {
            let width = catalogue.signatures().iter().map(|signature| signature.id().len()).max().unwrap_or(0);
            let mut text = String::new();
            for signature in catalogue.signatures() {
                let front = &signature.front;
                text.push_str(&format!(
                    "{:width$}  {:6}  {:9}  {}\n",
                    front.id,
                    severity_word(front.severity),
                    front.status.as_str(),
                    front.title
                ));
            }
            text.push_str(&format!("\n{} signatures, catalogue {}\n", catalogue.signatures().len(), catalogue.hash()));
            print(&text, out)
        }
    }
}

fn show(signature: &Signature, format: &str, out: &mut dyn Write) -> Result<()> {
    match format {
        "source" => print(&signature.text, out),
        "json" => print_json(&as_json(signature), out),
        _ => {
            let front = &signature.front;
            let mut text = format!(
                "{}: {}\n\nSeverity {}, {}, family {}, implies {}, since {}\n{}\n",
                front.id,
                front.title,
                severity_word(front.severity),
                front.status.as_str(),
                front.family.as_str(),
                front.implies.as_str(),
                front.since,
                signature.hash()
            );
            if !front.producers.is_empty() {
                text.push_str(&format!("Consistent with the output of: {}\n", front.producers.join(", ")));
            }
            text.push_str("\nHolds when all of\n");
            for (name, range) in &front.when.clauses {
                let bounds: Vec<String> =
                    range.bounds().map(|(side, bound)| format!("{} {bound}", side.as_str())).collect();
                text.push_str(&format!("  {name}: {}\n", bounds.join(", ")));
            }
            for (heading, prose) in HEADINGS.iter().zip(&signature.prose) {
                text.push_str(&format!("\n{heading}\n\n{prose}\n"));
            }
            text.push_str(&format!("\nReferences: {}\n", front.references.join(", ")));
            print(&text, out)
        }
    }
}

fn as_json(signature: &Signature) -> serde_json::Value {
    let [seen, looks_alike, to_do] = &signature.prose;
    json!({
        "hash": signature.hash(),
        "front_matter": signature.front,
        "what_was_seen": seen,
        "what_else_looks_like_this": looks_alike,
        "what_to_do": to_do,
    })
}

fn check(folder: Option<&Path>, deny_warnings: bool, out: &mut dyn Write) -> Result<ExitStatus> {
    let mut files = builtin_files();
    if let Some(folder) = folder {
        files.extend(folder_files(folder)?);
    }
    let faults = lint::check(&files);
    let mut text: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
    let errors = faults.iter().filter(|fault| fault.level == lint::Level::Error).count();
    let warnings = faults.len() - errors;
    text.push_str(&format!("{} signatures checked: {errors} errors, {warnings} warnings\n", files.len()));
    print(&text, out)?;
    Ok(if errors > 0 || (deny_warnings && warnings > 0) { ExitStatus::Findings } else { ExitStatus::Success })
}

fn print(text: &str, out: &mut dyn Write) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(|error| Error::io("writing the answer", error))
}

fn print_json(value: &serde_json::Value, out: &mut dyn Write) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::because(ErrorKind::Internal, "writing signatures as JSON", error))?;
    print(&format!("{text}\n"), out)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        global: Global,
        #[command(flatten)]
        arguments: SignaturesArguments,
    }

    fn answer(words: &[&str]) -> (Result<ExitStatus>, String) {
        let cli = Cli::try_parse_from(std::iter::once("signatures").chain(words.iter().copied())).unwrap();
        let mut out = Vec::new();
        let status = cli.arguments.run(&cli.global, &mut out);
        (status, String::from_utf8(out).unwrap())
    }

    #[test]
    fn list_names_every_signature() {
        let (status, text) = answer(&["list"]);
        assert_eq!(status.unwrap(), ExitStatus::Success);
        let (_, json) = answer(&["list", "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let catalogue = Catalogue::builtin().unwrap();
        assert_eq!(json["signatures"].as_array().unwrap().len(), catalogue.signatures().len());
        assert!(text.contains(&catalogue.hash().to_string()));
        assert!(catalogue.signatures().iter().all(|signature| text.contains(signature.id())));
    }

    #[test]
    fn show_gives_clauses_prose_and_source() {
        let (_, text) = answer(&["show", "reflection"]);
        assert!(text.contains("projection.strength: min 1.5") && text.contains("What else looks like this"), "{text}");
        let (_, source) = answer(&["show", "reflection", "--format", "source"]);
        assert!(source.starts_with("+++\nid = \"reflection\"\n"));
        let (status, _) = answer(&["show", "nonsense"]);
        assert_eq!(status.unwrap_err().kind, ErrorKind::Usage);
    }

    #[test]
    fn check_passes_on_the_built_in_ones_and_fails_on_a_bad_one() {
        let (status, text) = answer(&["check", "--deny-warnings"]);
        assert_eq!(status.unwrap(), ExitStatus::Success, "{text}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bad.md"), "+++\nid = \"bad\"\n+++\n").unwrap();
        let (status, text) = answer(&["check", "--folder", folder.path().to_str().unwrap()]);
        assert_eq!(status.unwrap(), ExitStatus::Findings);
        assert!(text.starts_with("bad.md: error: "), "{text}");
    }
}
