//! The numbers behind a finding, and the benign explanations that were weighed against them.

use crate::examination::{Examination, Finding};
use crate::report::sanitise;
use crate::report::words::{BENIGN_CONSISTENCY, BENIGN_REAL, number, percent};
use crate::signature::{Catalogue, ClauseOutcome, SignatureFamily};

/// One clause of a signature that held.
#[derive(Debug, Clone, PartialEq)]
pub struct Clause {
    /// The measurement's name.
    pub measurement: String,
    /// Its value, where the evidence holds one.
    pub value: Option<f64>,
    /// The smallest value that the clause allows.
    pub minimum: Option<f64>,
    /// The largest.
    pub maximum: Option<f64>,
    /// The first that is too large.
    pub below: Option<f64>,
}

impl Clause {
    /// The clause in words: `projection.consistency = 0.998 (at least 0.900)`.
    pub fn told(&self) -> String {
        let value = self.value.map_or_else(|| "not measured".to_owned(), number);
        match self.bounds() {
            Some(bounds) => format!("{} = {value} ({bounds})", self.measurement),
            None => format!("{} = {value}", self.measurement),
        }
    }

    /// The bounds in words.
    pub fn bounds(&self) -> Option<String> {
        let bounds = [("at least", self.minimum), ("at most", self.maximum), ("below", self.below)];
        let told: Vec<String> =
            bounds.into_iter().filter_map(|(word, bound)| Some(format!("{word} {}", number(bound?)))).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// The clauses stored with a finding: an object of measurement name to a number or to `{value, min, max, below}`.
/// Anything else in it is passed over; the JSON output has it whole.
pub fn clauses(finding: &Finding) -> Vec<Clause> {
    let Some(object) = finding.evidence.as_object() else { return Vec::new() };
    object
        .iter()
        .filter_map(|(name, entry)| {
            let field = |key: &str| entry.get(key).and_then(serde_json::Value::as_f64);
            let value = entry.as_f64().or_else(|| field("value"));
            (value.is_some() || entry.is_object()).then(|| Clause {
                measurement: sanitise::name(name),
                value,
                minimum: field("min"),
                maximum: field("max"),
                below: field("below"),
            })
        })
        .collect()
}

/// A benign change that can look similar, and how the measurements bear on it.
#[derive(Debug, Clone, PartialEq)]
pub struct LookAlike {
    /// What it is.
    pub name: &'static str,
    /// Whether its mark is there; `None` when the measurement is missing.
    pub fits: Option<bool>,
    /// The number and what it would be.
    pub told: String,
}

struct Rule {
    name: &'static str,
    measurement: &'static str,
    /// Whether this value is that change's mark.
    fits: fn(f64) -> bool,
    tell: fn(f64) -> String,
}

/// Largest such consistency of a rank-1 adapter (`tests/real/controls.py`, three models 64 to 192 wide).
const RANK_ONE: f64 = 0.32;

/// The look-alikes of `docs/detector.md`, each with the one number that sets it apart. The numbers here are for
/// explaining; what decides is the signature catalogue.
const RULES: &[Rule] = &[
    Rule {
        name: "fine-tune or merged LoRA",
        measurement: "projection.consistency",
        fits: |c| c <= BENIGN_CONSISTENCY,
        tell: |c| {
            format!(
                "consistency {c:.3}; honest training reached {BENIGN_REAL} in real models and {BENIGN_CONSISTENCY} in tiny ones"
            )
        },
    },
    Rule {
        name: "rank-1 adapter or steering vector with one output direction",
        measurement: "projection.cross_fit",
        fits: |c| c <= RANK_ONE,
        tell: |c| {
            format!(
                "consistency {c:.3} on data that did not choose the direction; rank-1 adapters reached {RANK_ONE} at most"
            )
        },
    },
    Rule {
        name: "rounding or quantisation",
        measurement: "rank.top1",
        fits: |share| share < 0.05,
        tell: |share| {
            format!("the largest component holds {} of the change; rounding spreads it over all", percent(share))
        },
    },
    Rule {
        name: "uniform rescale or weight decay",
        measurement: "delta.scale_explained",
        fits: |share| share > 0.9,
        tell: |share| format!("one factor per matrix explains {} of the change; a rescale, nearly all", percent(share)),
    },
    Rule {
        name: "norm gains folded into rows",
        measurement: "delta.row_scale_explained",
        fits: |share| share > 0.9,
        tell: |share| format!("one factor per row explains {}; folding, nearly all", percent(share)),
    },
    Rule {
        name: "norm gains folded into columns",
        measurement: "delta.column_scale_explained",
        fits: |share| share > 0.9,
        tell: |share| format!("one factor per column explains {}; folding, nearly all", percent(share)),
    },
    Rule {
        name: "dropped singular component (rank reduction)",
        measurement: "projection.own_component",
        fits: |cosine| cosine > 0.95,
        tell: |cosine| {
            format!("|cos| of the direction with the matrix's own component {cosine:.3}; dropping one gives 1")
        },
    },
    Rule {
        name: "knowledge edit of a few layers",
        measurement: "projection.layers",
        fits: |layers| layers <= 3.0,
        tell: |layers| format!("{layers:.0} layers; such edits touch one to three, with consistency at chance"),
    },
    Rule {
        name: "one residual channel silenced",
        measurement: "projection.channel",
        fits: |channel| channel > 0.5,
        tell: |channel| {
            let beside = if channel > 0.5 { "has nothing" } else { "has more" };
            format!("the direction {beside} beside its loudest channel that writers agree on")
        },
    },
    Rule {
        name: "pruning",
        measurement: "delta.zeroed",
        fits: |share| share > 0.05,
        tell: |share| format!("{} of the elements became zero", percent(share)),
    },
];

/// The benign look-alikes considered. Empty when no change of a writer was measured.
pub fn look_alikes(examination: &Examination) -> Vec<LookAlike> {
    let Some(orthogonalization) = &examination.orthogonalization else { return Vec::new() };
    let measured = |name: &str| {
        let stored = examination.profile.as_ref().and_then(|profile| profile.model.get(name).copied());
        let own = (name == "projection.consistency").then_some(orthogonalization.consistency);
        stored.or(own).filter(|value| value.is_finite())
    };
    let on_levels = measured("noise.grid").is_some_and(|share| share >= 0.5);
    RULES
        .iter()
        .map(|rule| match measured(rule.measurement) {
            Some(value) => {
                let fits = (rule.fits)(value);
                let beside = if on_levels { beside_a_quantiser(rule.name, fits) } else { "" };
                LookAlike { name: rule.name, fits: Some(fits), told: format!("{}{beside}", (rule.tell)(value)) }
            }
            None => LookAlike { name: rule.name, fits: None, told: format!("{} is not recorded", rule.measurement) },
        })
        .collect()
}

/// What else is to be said of a look-alike where the candidate went through a quantiser: the relation above calls it
/// quantized, which a plain "does not fit" would seem to deny.
fn beside_a_quantiser(name: &str, fits: bool) -> &'static str {
    match (name, fits) {
        ("rounding or quantisation", false) => {
            "; it was quantised as well, and that alone does not explain this component"
        }
        ("pruning", true) => ", which its quantiser may have done alone",
        _ => "",
    }
}

/// How the catalogue's signatures of look-alikes fared on the stored measurements.
pub struct Considered<'a> {
    /// The signature's id.
    pub signature: &'a str,
    /// Its title.
    pub title: &'a str,
    /// Whether it holds.
    pub holds: bool,
    /// The clauses that do not hold.
    pub failing: Vec<Clause>,
}

/// The catalogue's look-alikes, each with the clauses that rule it out. Empty without stored measurements.
pub fn considered<'a>(examination: &Examination, catalogue: &'a Catalogue) -> Vec<Considered<'a>> {
    let Some(profile) = &examination.profile else { return Vec::new() };
    catalogue
        .assess(profile)
        .into_iter()
        .filter(|assessment| assessment.signature.front.family == SignatureFamily::LookAlike)
        .map(|assessment| Considered {
            signature: assessment.signature.id(),
            title: &assessment.signature.front.title,
            holds: assessment.holds,
            failing: assessment.clauses.iter().filter(|clause| !clause.holds).map(Clause::from).collect(),
        })
        .collect()
}

impl From<&ClauseOutcome> for Clause {
    fn from(outcome: &ClauseOutcome) -> Self {
        Self {
            measurement: outcome.measurement.clone(),
            value: outcome.value,
            minimum: outcome.range.min,
            maximum: outcome.range.max,
            below: outcome.range.below,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::names::{self, MEASUREMENTS};

    #[test]
    fn rules_speak_of_known_measurements() {
        for rule in RULES {
            assert!(MEASUREMENTS.iter().any(|m| m.name == rule.measurement), "{}", rule.measurement);
        }
    }

    #[test]
    fn a_quantised_candidate_is_not_said_to_be_unquantised() {
        let told = |grid: f64| {
            let mut examination = crate::report::sample::orthogonalized();
            let model = &mut examination.profile.as_mut().expect("measured").model;
            for (measurement, value) in
                [(names::NOISE_GRID, grid), (names::RANK_TOP1, 0.06), (names::DELTA_ZEROED, 0.11)]
            {
                model.put(measurement, value);
            }
            let all = look_alikes(&examination).into_iter();
            all.map(|look| format!("{}: {}", look.name, look.told)).collect::<Vec<_>>().join("\n")
        };
        for said in
            ["it was quantised as well", "11 % of the elements became zero, which its quantiser may have done alone"]
        {
            assert!(told(1.0).contains(said) && !told(0.0).contains(said), "{}", told(1.0));
        }
    }

    #[test]
    fn evidence_of_any_shape_is_read_or_passed_over() {
        let mut finding = crate::report::sample::finding();
        finding.evidence = serde_json::json!({
            "a": 0.5, "b": {"value": 2, "min": 1}, "c": {"value": 3.0, "min": 1, "max": 4}, "d": "text", "e": null
        });
        let told: Vec<String> = clauses(&finding).iter().map(Clause::told).collect();
        assert_eq!(told, ["a = 0.500", "b = 2 (at least 1)", "c = 3 (at least 1, at most 4)"]);
        finding.evidence = serde_json::json!(["x"]);
        assert!(clauses(&finding).is_empty());
    }
}
