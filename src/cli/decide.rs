//! `orthoscope decide`: what somebody decided on an examination, recorded beside it for good.

use std::io::Write;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp;

use super::report::find;
use super::{ExitStatus, Global};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::index::decision::{CHOICES, Choice};
use crate::report::words::{short_id, when};
use crate::report::{json, sanitise};

/// Record a decision about an examination: confirmed, dismissed, to be looked at again, or appealed
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope decide 0a1b2c3d4e5f confirmed --by 'A. Moderator' --because 'the card says so itself'
  orthoscope decide hf:someone/model dismissed --by 'A. Moderator' --because 'declared, and allowed here' --index nightly.db

Decisions are only ever added, each with a hash over the one before it; `orthoscope doctor` checks the chain. Every report and \
export of the examination shows them, SARIF as suppressions.")]
pub struct DecideArguments {
    /// A finding's id or an examination's (or enough of its first digits), or a candidate as it is spelled in the index
    #[arg(value_name = "WHAT")]
    what: String,
    /// What was decided
    #[arg(value_name = "DECISION", value_parser = choices())]
    decision: Choice,
    /// Who decides
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    because: String,
}

fn choices() -> impl TypedValueParser<Value = Choice> {
    PossibleValuesParser::new(CHOICES.iter().map(|choice| choice.as_str()))
        .try_map(|word| Choice::from_word(&word).ok_or("not one of these"))
}

impl DecideArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let mut index = Index::open_existing(&global.index)?;
        let id = find(&index, &self.what)?.id;
        let decision = index.decide(&id.hex(), &self.by, self.decision, &self.because, Timestamp::now())?;
        let failed = |error| Error::io("writing the decision", error);
        if global.format() == "json" {
            json::write_value(&decision, &global.style(), out)?;
            return writeln!(out).map_err(failed).map(|()| ExitStatus::Success);
        }
        let (who, made) = (sanitise::name(&decision.who), when(decision.made_at));
        let told = decision.decision.told();
        writeln!(out, "examination {}: {told}, by {who} on {made}", short_id(&id)).map_err(failed)?;
        Ok(ExitStatus::Success)
    }
}
