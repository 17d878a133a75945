//! `orthoscope identify CANDIDATE`: where a checkpoint comes from, by its weights.

use std::io::Write;
use std::sync::Arc;

use clap::Args;

use super::hubs;
use super::{ExitStatus, Global};
use crate::diff::Unobserved;
use crate::error::{Error, Result};
use crate::examine::identify::{ClaimStanding, Identification, NearestKin, identify};
use crate::examine::settings::ExamineSettings;
use crate::report::json::write_value;
use crate::report::{sanitise, words};

/// Name the enrolled checkpoints that one was made from, by its weights, and say whether its own claim holds
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope identify ./upload --index known.db
  orthoscope identify upload.Q4_K_M.gguf --index known.db --limit 3
  orthoscope identify hf:someone/model --index known.db --format json | jq '.standing, .nearest[0].source'

Checkpoints become known by `orthoscope enroll`. The nearest one is examined as by compare where it lies on this \
machine. Exit status: 0 when answered, whatever the answer, 2 where the candidate cannot be read.")]
pub struct IdentifyArguments {
    /// A folder, a file, or a repository (hf:org/name, with @revision or without)
    #[arg(value_name = "CANDIDATE", value_parser = hubs::spelled)]
    what: String,
    /// How many of its kin to list at most, nearest first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
}

impl IdentifyArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        hubs::check_location(&self.what)?;
        let index = global.open_index()?;
        let catalogue = Arc::new(global.catalogue()?);
        let examiner = hubs::examiner(global, &catalogue, ExamineSettings::default(), None, Arc::new(Unobserved))?;
        hubs::stop_on_signal(&examiner.client)?;
        let found = identify(&examiner, &index, &self.what, usize::from(self.limit))?;
        if global.format() == "json" {
            write_value(&found, &global.style(), out)?;
            writeln!(out).map_err(written)?;
        } else {
            text(&found, out).map_err(written)?;
        }
        Ok(ExitStatus::Success)
    }
}

fn written(error: std::io::Error) -> Error {
    Error::io("writing the answer", error)
}

fn text(found: &Identification, out: &mut dyn Write) -> std::io::Result<()> {
    let candidate = &found.candidate;
    writeln!(
        out,
        "{} ({}; {}, width {}, {})\n",
        sanitise::name(&candidate.source),
        candidate.format,
        sanitise::name(&candidate.architecture),
        candidate.width,
        words::count(u64::from(candidate.layers), "block", "blocks")
    )?;
    let claims: Vec<String> = candidate.claims.iter().map(|claim| sanitise::name(claim)).collect();
    let claims = if claims.is_empty() { "no base".to_owned() } else { claims.join(", ") };
    writeln!(out, "  claims    {claims}")?;
    writeln!(out, "  standing  {}: {}", found.standing.as_str(), told(found))?;
    writeln!(out, "  read      {}", words::bytes(candidate.bytes_read))?;
    if found.nearest.is_empty() {
        return writeln!(out, "\n{}", nothing(found));
    }
    let known = words::count(found.enrolled, "checkpoint that is known", "checkpoints that are known");
    writeln!(out, "\nNearest of {known}:")?;
    (1..).zip(&found.nearest).try_for_each(|(place, one)| kin(place, one, out))
}

/// What the standing means, in words.
const fn told(found: &Identification) -> &'static str {
    match found.standing {
        ClaimStanding::Holds => "its weights were made from the base that it claims",
        ClaimStanding::HoldsNearerKnown => "it is kin of the base that it claims, and nearer to another one",
        ClaimStanding::False => "its weights were not made from the base that it claims",
        ClaimStanding::None => "it claims no base",
        ClaimStanding::NotEnrolled if found.comparable == 0 => "nothing of its shape is known",
        ClaimStanding::NotEnrolled => "the base that it claims is not known",
    }
}

/// Why there is no kin: nothing that it could be held against, or nothing that is like it.
fn nothing(found: &Identification) -> String {
    match found.comparable {
        0 => format!(
            "None of the {} has its shape: enroll the bases that it may come from.",
            words::count(found.enrolled, "checkpoint that is known", "checkpoints that are known")
        ),
        several => format!(
            "It is unrelated to all that is known of its shape ({}).",
            words::count(several, "checkpoint", "checkpoints")
        ),
    }
}

fn kin(place: usize, one: &NearestKin, out: &mut dyn Write) -> std::io::Result<()> {
    let revision = one.revision.as_deref().map(|revision| format!("@{}", sanitise::name(revision)));
    let examined = one.relation.zip(one.verdict);
    let examined = examined.map(|(relation, verdict)| format!("; {}, verdict {}", relation.as_str(), verdict.as_str()));
    writeln!(
        out,
        "  {place}. {}{}  similarity {:.4}, p {:.0e}{}",
        sanitise::name(&one.source),
        revision.unwrap_or_default(),
        one.similarity,
        one.p_value,
        examined.unwrap_or_default()
    )
}
