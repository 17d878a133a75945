//! `orthoscope enroll PATH|REPO…`: makes checkpoints known by their weights.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::hubs;
use super::{ExitStatus, Global};
use crate::diff::Unobserved;
use crate::error::{Error, ErrorKind, Result};
use crate::examine::identify::enrollment;
use crate::examine::settings::ExamineSettings;
use crate::index::Index;
use crate::index::fingerprints::EnrolledAs;
use crate::report::json::write_value;
use crate::report::{sanitise, words};

/// The schema of the answer as JSON.
const SCHEMA: &str = "orthoscope/enrollment/1";

/// Take the fingerprints of checkpoints into the index, so that identify finds what was made of them
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope enroll ./base-model --index known.db
  orthoscope enroll hf:meta-llama/Llama-3.2-1B hf:Qwen/Qwen3-0.6B@main --index known.db
  orthoscope enroll models/* --format json

A fingerprint has 64 kB at most. Of a repository on a hub its headers are fetched and a few hundred bytes of some \
tensors, by range. A checkpoint that is enrolled already is enrolled anew.")]
pub struct EnrollArguments {
    /// Folders, files, or repositories (hf:org/name, with @revision or without)
    #[arg(required = true, value_name = "PATH|REPO", value_parser = hubs::spelled)]
    what: Vec<String>,
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    schema: &'static str,
    enrolled: Vec<Taken>,
    failed: Vec<Untaken>,
}

/// One that was enrolled.
#[derive(Serialize)]
struct Taken {
    source: String,
    revision: Option<String>,
    architecture: String,
    width: u64,
    layers: u32,
    fingerprint: String,
    bytes: u64,
    bytes_read: u64,
}

/// One that could not be.
#[derive(Serialize)]
struct Untaken {
    source: String,
    reason: String,
}

impl EnrollArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        self.what.iter().try_for_each(|name| hubs::check_location(name))?;
        let catalogue = Arc::new(global.catalogue()?);
        let examiner = hubs::examiner(global, &catalogue, ExamineSettings::default(), None, Arc::new(Unobserved))?;
        hubs::stop_on_signal(&examiner.client)?;
        let mut index = Index::open(&global.index)?;
        let mut answer = Answer { schema: SCHEMA, enrolled: Vec::new(), failed: Vec::new() };
        for what in &self.what {
            let (one, bytes_read) = match enrollment(&examiner, what) {
                Ok(taken) => taken,
                Err(error) if error.kind == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    let reason = error.one_line();
                    let _ = writeln!(std::io::stderr(), "orthoscope: {}", sanitise::sentence(&reason));
                    answer.failed.push(Untaken { source: what.clone(), reason });
                    continue;
                }
            };
            index.enroll(&one, EnrolledAs::Base, jiff::Timestamp::now())?;
            let fingerprint = &one.fingerprint;
            answer.enrolled.push(Taken {
                architecture: fingerprint.family.clone(),
                width: fingerprint.width,
                layers: fingerprint.layers,
                fingerprint: fingerprint.digest().to_string(),
                bytes: fingerprint.to_bytes().len() as u64,
                bytes_read,
                source: one.source,
                revision: one.revision,
            });
        }
        if global.format() == "json" {
            write_value(&answer, &global.style(), out)?;
            writeln!(out).map_err(written)?;
        } else {
            answer.enrolled.iter().try_for_each(|one| text(one, out)).map_err(written)?;
        }
        Ok(if answer.failed.is_empty() { ExitStatus::Success } else { ExitStatus::Incomplete })
    }
}

fn text(one: &Taken, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "enrolled {}: {}, width {}, {}; {} read, a fingerprint of {}",
        sanitise::name(&one.source),
        sanitise::name(&one.architecture),
        one.width,
        words::count(u64::from(one.layers), "block", "blocks"),
        words::bytes(one.bytes_read),
        words::bytes(one.bytes)
    )
}

fn written(error: std::io::Error) -> Error {
    Error::io("writing the answer", error)
}
