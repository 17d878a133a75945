//! What comes beside the weights, in words that every report shares.

use crate::examination::Examination;
use crate::examination::surroundings::{Surrounding, SurroundingState};
use crate::report::sanitise;

/// The heading.
pub const HEADING: &str = "Beside the weights";

/// What differs, one line each, then one line of what is the same, then what was not compared. Empty where nothing was
/// looked at.
pub fn lines(examination: &Examination) -> Vec<String> {
    let of = |state: SurroundingState| examination.surroundings.iter().filter(move |one| one.state == state);
    let differs = of(SurroundingState::Differs)
        .flat_map(|one| one.details.iter().map(|told| format!("{}: {}", one.concern.name(), sanitise::sentence(told))));
    let same: Vec<&str> = of(SurroundingState::Same).map(|one| one.concern.name()).collect();
    let left: Vec<String> = of(SurroundingState::NotCompared)
        .map(|one| {
            let why = one.details.first().map(|why| format!(" ({})", sanitise::sentence(why))).unwrap_or_default();
            format!("{}{why}", one.concern.name())
        })
        .collect();
    let same = (!same.is_empty()).then(|| format!("the same as the base's: {}", same.join(", ")));
    let left = (!left.is_empty()).then(|| format!("not compared: {}", left.join("; ")));
    differs.chain(same).chain(left).collect()
}

/// What the verdict must not be taken for, where something beside the weights differs.
pub fn caution(examination: &Examination) -> Option<String> {
    let differs = |one: &&Surrounding| one.state == SurroundingState::Differs;
    let names: Vec<&str> = examination.surroundings.iter().filter(differs).map(|one| one.concern.name()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "The verdict is of the weights. Beside them this upload changes: {}. That alone can make a model answer otherwise.",
            names.join(", ")
        )
    })
}
