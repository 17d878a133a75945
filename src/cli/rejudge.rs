//! `orthoscope rejudge`: judge stored measurements again with the present catalogue, without any weights.

use std::io::Write;

use clap::Args;

use super::{ExitStatus, Global};
use crate::error::{Error, Result};
use crate::index::{Index, Rejudged};
use crate::report::{json, sanitise};

/// Judge every stored examination again with the present signatures, without reading any weights
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope rejudge --index nightly.db
  orthoscope rejudge --index nightly.db --signatures my-signatures

Earlier judgements are kept as history. Examinations that the same catalogue judged already are left alone.")]
pub struct RejudgeArguments {
    /// Also those that this catalogue judged already
    #[arg(long)]
    all: bool,
}

impl RejudgeArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let catalogue = global.catalogue()?;
        let mut index = Index::open_existing(&global.index)?;
        let judged = index.judge_again(&catalogue, self.all)?;
        if global.format() == "json" {
            json::write_value(&judged, &global.style(), out)?;
        } else {
            write!(out, "{}", told(&judged)).map_err(written)?;
        }
        writeln!(out).map_err(written)?;
        Ok(if judged.failed.is_empty() { ExitStatus::Success } else { ExitStatus::Incomplete })
    }
}

fn written(error: std::io::Error) -> Error {
    Error::io("writing the answer", error)
}

fn told(judged: &Rejudged) -> String {
    let mut text = format!(
        "judged {} examinations again, {} differently; {} hold no measurements",
        judged.judged,
        judged.changed.len(),
        judged.without_measurements
    );
    for id in &judged.changed {
        text.push_str(&format!("\n  changed: {id}"));
    }
    for (id, reason) in &judged.failed {
        text.push_str(&format!("\n  not judged: {id}: {}", sanitise::sentence(reason)));
    }
    text
}
