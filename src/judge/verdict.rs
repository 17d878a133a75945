//! From measurements to what is said: signatures that hold, the verdict, the evidence, the recovered recipe.
//!
//! The decision is the catalogue's: a verdict of `orthogonalized` needs a signature that implies it, `suspect` one that
//! implies that. This file adds when nothing can be told, how sure it is, and the words. A stored profile can be judged
//! again with another catalogue and gives the same answer as a fresh examination would.

use std::collections::BTreeSet;

use crate::arch::Kind;
use crate::diff;
use crate::examination::{Finding, Orthogonalization, Relation, Strength, Verdict};
use crate::ids::Digest;
use crate::judge::recipe;
use crate::judge::relation::is_kin;
use crate::profile::{Coordinates, Profile, Sameness, TensorMeasurement, names};
use crate::screen::{ScreenDecision, Screened};
use crate::signature::{Catalogue, Held, Implies, SignatureFamily};
use crate::tensor::numbers::median;

/// Honest derivatives that the detector was held against, and how many of them were called orthogonalized. The smallest
/// p that they allow is (called + 1)/(N + 1); the upper limit of the rate behind them is the report's to compute.
pub const CONTROLS: u32 = 731;
/// Of them, called orthogonalized.
pub const CONTROLS_CALLED: u32 = 1;
/// What the controls were and were not: it stands beside every number that rests on them.
pub const CONTROLS_WERE: &str = "full fine-tunes, LoRAs of rank 1 to 64, merges, knowledge edits, pruning, folded norms, rank \
     reductions, quantisers and noise, on seven models 64 to 576 wide (Llama, Qwen3, GPT-2, Qwen3-MoE, Gemma 3). No larger model \
     was among them, the thresholds were set with them in view, and they were judged by an earlier version of the rules: the \
     limit is optimistic. By the present rules 346 of them, of the smaller models, were judged again: none was called";

/// From here on, below zero, c says that the change is a removal seen from the wrong side.
pub const REVERSED: f64 = -0.85;

/// Above this detection limit "clear" would say nothing.
const TESTABLE: f64 = 0.6;

/// Below this c a matrix's own direction is blurred by noise.
const NOISY: f64 = 0.98;

/// From here on the writers of all layers lost one and the same direction.
const GLOBAL_AGREEMENT: f64 = 0.97;

/// λ above this is more than any editor takes out.
const BEYOND_REFLECTION: f64 = 2.2;

/// What is concluded from a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion {
    /// The verdict.
    pub verdict: Verdict,
    /// Why and how sure, one or two sentences.
    pub because: String,
    /// The evidence; `None` where there was nothing to measure.
    pub orthogonalization: Option<Orthogonalization>,
    /// Signatures that held.
    pub findings: Vec<Finding>,
}

/// Judges a profile. `key` identifies the examination, so that finding ids are stable.
pub fn conclude(catalogue: &Catalogue, profile: &Profile, relation: Relation, key: &Digest) -> Conclusion {
    let comparable = is_kin(relation);
    // Without kinship numbers about weights mean nothing; what loading the files would do needs no base.
    let mut held: Vec<Held<'_>> = catalogue.judge(profile);
    held.retain(|held| comparable || held.signature.front.family == SignatureFamily::Code);
    let findings: Vec<Finding> = held.iter().map(|held| held.finding(key)).collect();
    let strongest = held.iter().map(|held| held.signature.front.implies).max().unwrap_or(Implies::None);
    let evidence = comparable.then(|| evidence(profile)).flatten();
    let titles = |implies: Implies| {
        held.iter()
            .filter(|held| held.signature.front.implies == implies)
            .map(|held| held.signature.front.title.clone())
            .collect::<Vec<_>>()
            .join("; ")
    };
    let (verdict, because) = match (relation, strongest) {
        (Relation::Incomparable, _) => {
            (Verdict::Inconclusive, "nothing of the candidate could be compared with the base".to_owned())
        }
        (Relation::Unrelated, _) => (
            Verdict::Inconclusive,
            "the weights have nothing in common with this base, so an edit against it cannot be seen; the claimed base may be wrong"
                .to_owned(),
        ),
        (_, Implies::Orthogonalized) => (Verdict::Orthogonalized, orthogonalized(profile, &titles(Implies::Orthogonalized))),
        (_, Implies::Suspect) => (Verdict::Suspect, format!("some of the signs, not enough for a finding: {}", titles(Implies::Suspect))),
        _ => without_signature(profile, relation),
    };
    Conclusion { verdict, because, orthogonalization: evidence, findings }
}

/// The verdict by hashes alone on files that are the base's, as [`crate::judge::relation::of_same_files`] found.
pub fn of_same_files(relation: Relation) -> (Verdict, String) {
    let because = match relation {
        Relation::Identical => "every weight file is the base's, by SHA-256",
        _ => "every weight file is one of the base's under another name, by SHA-256",
    };
    (Verdict::Clear, because.to_owned())
}

/// The verdict by a screen, which decides from rows by itself; the catalogue adds its findings.
pub fn of_screen(screened: &Screened) -> (Verdict, String) {
    let verdict = match screened.decision {
        ScreenDecision::Orthogonalized => Verdict::Orthogonalized,
        ScreenDecision::Clear => Verdict::Clear,
        ScreenDecision::Undecided => Verdict::Inconclusive,
    };
    (verdict, screened.because.clone())
}

/// What is said where no signature speaks against the candidate. The one place that says `clear`, and it cannot while
/// writers measure as a removal that nothing measured excuses.
fn without_signature(profile: &Profile, relation: Relation) -> (Verdict, String) {
    let number = |measurement| profile.number(measurement).unwrap_or(0.0);
    if matches!(relation, Relation::Identical | Relation::Repackaged) {
        return (Verdict::Clear, "every weight is the base's, bit for bit".to_owned());
    }
    if let Some(left) = removal_left(profile) {
        return (Verdict::Suspect, left);
    }
    if number(names::WRITERS_ERASED) > 0.0 {
        let because = format!(
            "in {:.0} of {:.0} writers rows that the base has are all zero: what they wrote is gone, and nothing can be told of it. \
             A damaged file (a download that stopped) looks like this, and so does pruning",
            number(names::WRITERS_ERASED),
            number(names::WRITERS_TOTAL),
        );
        return (Verdict::Inconclusive, because);
    }
    if number(names::WRITERS_TOTAL) == 0.0 {
        return (Verdict::Inconclusive, "no matrix that writes to the residual stream could be compared".to_owned());
    }
    let (changed, limit) = (number(names::WRITERS_CHANGED), number(names::PROJECTION_DETECTION_LIMIT));
    if changed == 0.0 {
        let because = "the matrices that write to the residual stream are the base's: bit for bit, through a proven cast, or to the last places of binary32";
        return (Verdict::Clear, because.to_owned());
    }
    if limit > TESTABLE {
        let because =
            format!("not testable below λ = {limit:.2}: the change is so large that a weaker edit would not be seen");
        return (Verdict::Inconclusive, because);
    }
    let because = format!(
        "no direction removed from what writers add to the residual stream, down to λ = {limit:.3} in half of the {changed:.0} that changed (1 would \
         remove all of one)"
    );
    (Verdict::Clear, because)
}

/// Writers that measure as a removal although no signature said so, in words: every look-alike that excuses one is a
/// measurement here, and what it does not cover is left.
fn removal_left(profile: &Profile) -> Option<String> {
    let number = |measurement| profile.number(measurement).unwrap_or(0.0);
    if number(names::PROJECTION_CHANNEL_PRUNED) >= 1.0 {
        return None;
    }
    let sure = number(names::PROJECTION_TENSORS) + number(names::PROJECTION_ALONE);
    let hinted = number(names::PROJECTION_HINTED);
    let several = hinted >= 3.0 && number(names::PROJECTION_HINTED_LAYERS) >= 2.0;
    (sure >= 1.0 || several).then(|| {
        format!(
            "in {:.0} of {:.0} changed writers the change is tied to the base as a removed direction is, and nothing that was measured explains it otherwise",
            hinted.max(sure),
            number(names::WRITERS_CHANGED),
        )
    })
}

fn orthogonalized(profile: &Profile, titles: &str) -> String {
    let number = |measurement| profile.number(measurement).unwrap_or(0.0);
    let writers = number(names::PROJECTION_TENSORS);
    if writers >= 1.0 {
        // λ/(λ-1) of an edit beyond removal, seen from the edited side.
        let swapped = if number(names::PROJECTION_STRENGTH) > BEYOND_REFLECTION {
            ": turned round and made louder (over-inversion), or base and candidate were swapped"
        } else {
            ""
        };
        return format!(
            "consistent with weight orthogonalization ({titles}): in {writers:.0} of {:.0} changed writers over {:.0} layers the change is \
             what removing a direction from the base's own output gives (consistency {:.3}, λ {:.2} at the median{swapped})",
            number(names::WRITERS_CHANGED),
            number(names::PROJECTION_LAYERS),
            number(names::PROJECTION_CONSISTENCY),
            number(names::PROJECTION_STRENGTH),
        );
    }
    format!("consistent with weight orthogonalization ({titles})")
}

/// The evidence on orthogonalization, whatever the verdict; `None` when no writer was compared.
fn evidence(profile: &Profile) -> Option<Orthogonalization> {
    let writers: Vec<&TensorMeasurement> =
        profile.tensors.iter().filter(|tensor| tensor.role.kind == Kind::Writer).collect();
    if writers.is_empty() {
        return None;
    }
    let number = |measurement| profile.number(measurement).unwrap_or(0.0);
    // A direction that was amplified fits as well, and is no removal.
    let removed = |tensor: &&TensorMeasurement| tensor.projection.as_ref().is_some_and(|p| p.fits && p.strength > 0.0);
    let fitting: Vec<&TensorMeasurement> = writers.iter().copied().filter(removed).collect();
    let layers: BTreeSet<u32> = fitting.iter().filter_map(|tensor| tensor.role.layer).collect();
    // Noise that lowers c lowers the agreement of directions at least as much.
    let expected = (number(names::PROJECTION_CONSISTENCY) - 0.02).min(GLOBAL_AGREEMENT);
    let global = number(names::PROJECTION_AGREEMENT) >= expected;
    // Readers are listed too where a direction was taken out of what they read.
    let readers = profile
        .tensors
        .iter()
        .filter(|tensor| tensor.role.kind == Kind::Reader && tensor.projection.as_ref().is_some_and(|p| p.fits));
    let strength: Vec<Strength> = writers
        .iter()
        .copied()
        .chain(readers)
        .filter_map(|tensor| {
            let layer = tensor.role.layer?;
            let (lambda, stderr) = strength_of(tensor, global);
            Some(Strength { layer, module: tensor.role.module.clone(), expert: tensor.role.expert, lambda, stderr })
        })
        .collect();
    Some(Orthogonalization {
        p_value: p_value(&fitting),
        consistency: number(names::PROJECTION_CONSISTENCY),
        explained: number(names::PROJECTION_EXPLAINED),
        coordinates: Coordinates::of_number(number(names::PROJECTION_ROW_NORMALISED)).as_str().to_owned(),
        directions: if fitting.is_empty() { 0 } else { number(names::PROJECTION_DIRECTIONS).round().max(1.0) as u32 },
        scope: if global || fitting.is_empty() { "global" } else { "per-layer" }.to_owned(),
        tensors: fitting.len() as u64,
        layers: layers.into_iter().collect(),
        recipe: if fitting.is_empty() { Vec::new() } else { recipe::describe(profile, &strength, global) },
        strength,
        detection_limit: number(names::PROJECTION_DETECTION_LIMIT),
    })
}

/// λ̂ of one writer: 0 where it is the base's own, its own fit where it has one, otherwise what the shared direction
/// lost in it.
fn strength_of(tensor: &TensorMeasurement, global: bool) -> (f64, f64) {
    match (&tensor.projection, tensor.sameness) {
        (_, Sameness::Identical | Sameness::Recast | Sameness::Requantized) | (None, _) => (0.0, 0.0),
        // A direction that all layers share is known better than one matrix shows it through noise.
        (Some(projection), _) if projection.fits && global && projection.consistency.abs() < NOISY => {
            (projection.shared_strength.unwrap_or(projection.strength), projection.stderr)
        }
        // One that agrees with no other is still known best by itself.
        (Some(projection), _) if projection.fits || projection.alone => (projection.strength, projection.stderr),
        (Some(projection), _) => {
            let shared = projection.shared_strength.filter(|_| global);
            (shared.unwrap_or(0.0), projection.stderr.max(diff::detection_limit(tensor) / 3.0))
        }
    }
}

/// The largest p that is honest: against rounding alone the chance of the consistencies seen is astronomically small,
/// but against honest training only controls speak, and N of them allow no less than (called + 1)/(N + 1).
fn p_value(fitting: &[&TensorMeasurement]) -> f64 {
    if fitting.is_empty() {
        return 1.0;
    }
    let consistency =
        median(fitting.iter().filter_map(|tensor| tensor.projection.as_ref().map(|p| p.consistency.abs())));
    let n = median(fitting.iter().map(|tensor| tensor.shape[1].min(tensor.shape[0]) as f64));
    // c² of a uniformly random right vector is Beta(1/2, (n-1)/2).
    use statrs::distribution::{Beta, ContinuousCDF as _};
    let chance =
        Beta::new(0.5, ((n - 1.0) / 2.0).max(0.5)).map_or(1.0, |beta| beta.sf((consistency * consistency).min(1.0)));
    let floor = f64::from(CONTROLS_CALLED + 1) / f64::from(CONTROLS + 1);
    chance.max(floor)
}
