//! What comes beside the weights, in words that every report shares.

use crate::examination::Examination;
use crate::report::sanitise;
use crate::surroundings::{State, Surrounding};

/// The heading.
pub const HEADING: &str = "Beside the weights";

/// One thing in a sentence, with what differs, or why it was not compared.
pub struct Line {
    /// How it stands.
    pub state: State,
    /// The sentence.
    pub told: String,
    /// What differs, one by one.
    pub details: Vec<String>,
}

/// The things that differ first, then one line of those that are the same, then what was not compared. Empty where nothing
/// was looked at.
pub fn lines(examination: &Examination) -> Vec<Line> {
    let all = &examination.surroundings;
    let of = |state: State| all.iter().filter(move |one| one.state == state);
    let mut lines: Vec<Line> = of(State::Differs)
        .map(|one| {
            let details: Vec<String> = one.details.iter().map(|told| sanitise::sentence(told)).collect();
            Line { state: one.state, told: format!("{}: not the base's", one.concern.name()), details }
        })
        .collect();
    let names = |one: &Surrounding| one.concern.name();
    let same: Vec<&str> = of(State::Same).map(names).collect();
    if !same.is_empty() {
        lines.push(Line {
            state: State::Same,
            told: format!("the same as the base's: {}", same.join(", ")),
            details: Vec::new(),
        });
    }
    let left: Vec<String> = of(State::NotCompared)
        .map(|one| {
            let why = one.details.first().map(|why| format!(" ({})", sanitise::sentence(why))).unwrap_or_default();
            format!("{}{why}", one.concern.name())
        })
        .collect();
    if !left.is_empty() {
        lines.push(Line {
            state: State::NotCompared,
            told: format!("not compared: {}", left.join("; ")),
            details: Vec::new(),
        });
    }
    lines
}

/// What the verdict must not be taken for, where something beside the weights differs.
pub fn caution(examination: &Examination) -> Option<String> {
    let differs = |one: &&Surrounding| one.state == State::Differs;
    let names: Vec<&str> = examination.surroundings.iter().filter(differs).map(|one| one.concern.name()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "The verdict is of the weights. Beside them this upload changes: {}. That alone can make a model answer otherwise.",
            names.join(", ")
        )
    })
}
