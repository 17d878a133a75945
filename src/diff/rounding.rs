//! Whether a quantised candidate is the base rounded and nothing else: every number of it the level next to the base's
//! own, every tensor that is not in codes the base's or a cast of it.
//!
//! Most quantisers code the nearest level of the scale that they chose, whatever led them to it. Two kinds do not:
//! searches weighted by importance over ggml's oldest types leave one number in a hundred on the level of another scale
//! that was tried, and GPTQ and AWQ code what makes up for other errors. The first are known by staying within a step;
//! of the second the levels say nothing. What a scheme's own tensors show decides which of these a file is: beside
//! others that are on their nearest levels, one that is not was changed. `docs/detector.md` has what was measured.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::measured::{Measurements, PairMeasurement, Rounded};
use crate::checkpoint::anomaly::BEYOND_ROUNDING;
use crate::checkpoint::bounds::{self, Bounds};
use crate::checkpoint::{Anomaly, Checkpoint, TensorEntry};
use crate::error::Result;
use crate::pair::Pairing;
use crate::profile::names;
use crate::profile::{Numbers, Profile, Sameness, TensorMeasurement};
use crate::tensor::levels::LevelChoice;
use crate::tensor::numbers::median;

/// Elements looked at in one go.
const AT_ONCE: usize = 1 << 16;
/// Goes that are made in parallel before it is asked whether to go on.
const GOES: usize = 16;
/// Share of elements beyond their bounds from which the rest of a tensor need not be looked at: what searches by
/// importance leave is 0.02, and what GPTQ leaves, 0.1, is counted as far as it was looked at.
const HOPELESS: f64 = 0.25;
/// Share of elements beyond their bounds that a search by importance leaves: 0.016 at most with ggml's own,
const WEIGHTED: f64 = 0.03;
/// and of those that are more than a step away: 1.2e-4.
const WEIGHTED_FAR: f64 = 1e-3;
/// Over all tensors of a type such a search leaves at least this share beyond their bounds (0.7 % measured),
const WEIGHTED_LEAST: f64 = 0.003;
/// and of those this share more than a step away (0.6 to 1.5 % measured). Numbers that were trained a little cross the
/// middle between two levels too, but never by a step.
const WEIGHTED_FAR_LEAST: f64 = 0.002;
/// Share of the distance between an element's bounds that it lies beyond them where it is more than a step away.
const FAR: f32 = 0.4;
/// A change so many times the middle one of its scheme is more than what the scheme leaves.
const STANDS_OUT: f64 = 3.0;
/// Tensors that are named.
const NAMED: usize = 64;

/// What is said of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Every number on the level next to the base's.
    Within,
    /// Nearly every one, the others within a step.
    Loose,
    /// Its scheme says nothing by levels.
    Untold,
    /// Not the base rounded.
    Off,
}

/// Looks at every pair whose candidate is in codes.
pub fn look(base: &Checkpoint, candidate: &Checkpoint, measured: &mut Measurements<'_>) -> Result<()> {
    let entry = |pair: &PairMeasurement<'_>| {
        candidate.tensors.get(&pair.pair.candidate.tensor).filter(|entry| entry.is_quantized())
    };
    if !measured.pairs.iter().any(|pair| entry(pair).is_some()) {
        return Ok(());
    }
    let bounds = Bounds::of(candidate);
    let found: Vec<Option<Rounded>> = measured
        .pairs
        .par_iter()
        .map(|pair| entry(pair).map(|entry| rounded(pair, entry, [base, candidate], &bounds)).transpose())
        .collect::<Result<_>>()?;
    for (pair, rounded) in measured.pairs.iter_mut().zip(found) {
        pair.rounded = rounded;
    }
    Ok(())
}

fn rounded(
    measured: &PairMeasurement<'_>,
    entry: &TensorEntry,
    [base, candidate]: [&Checkpoint; 2],
    bounds: &Bounds,
) -> Result<Rounded> {
    let choice = bounds::choice(candidate, entry);
    let mut all = Rounded { choice, looked: 0, outside: 0, far: 0 };
    if measured.sameness != Sameness::Changed || choice.is_none() {
        return Ok(all);
    }
    let pair = measured.pair;
    let columns = pair.base.columns.max(1);
    let rows = (AT_ONCE as u64 / columns).max(1);
    let starts: Vec<u64> = (0..pair.base.rows).step_by(rows as usize).collect();
    for goes in starts.chunks(GOES) {
        let parts: Vec<Rounded> = goes
            .par_iter()
            .map(|start| {
                let count = (rows.min(pair.base.rows - start) * columns) as usize;
                let [mut number, mut low, mut high] = [(); 3].map(|()| vec![0f32; count]);
                pair.base.decode_rows(base, *start, &mut number)?;
                pair.candidate.decode_rows(&bounds.low, *start, &mut low)?;
                pair.candidate.decode_rows(&bounds.high, *start, &mut high)?;
                let mut part = Rounded { choice, looked: count as u64, outside: 0, far: 0 };
                for ((number, low), high) in number.into_iter().zip(low).zip(high) {
                    if number >= low && number <= high {
                        continue;
                    }
                    part.outside += 1;
                    // No number is near bounds that are none.
                    let near = (low - number).max(number - high) <= FAR * (high - low);
                    part.far += u64::from(!near);
                }
                Ok(part)
            })
            .collect::<Result<_>>()?;
        for part in parts {
            all.looked += part.looked;
            all.outside += part.outside;
            all.far += part.far;
        }
        if all.outside as f64 > HOPELESS * all.looked as f64 {
            break;
        }
    }
    Ok(all)
}

/// Puts the numbers of the whole into the profile. Nothing where no tensor is in codes.
pub fn summarize(pairing: &Pairing, measured: &Measurements<'_>, profile: &mut Profile) {
    let standings = standings(measured, &profile.tensors);
    let count = |standing: Standing| standings.iter().filter(|one| **one == Some(standing)).count();
    let codes = standings.iter().flatten().count();
    if codes == 0 {
        return;
    }
    let kept = profile.tensors.iter().zip(&standings).filter(|(_, standing)| standing.is_none());
    let changed = kept.filter(|(tensor, _)| tensor.sameness == Sameness::Changed).count();
    // What one side lacks and a loader would load, and what could not be compared, may be anything.
    let lists = [&pairing.only_base, &pairing.only_candidate, &measured.not_examined];
    let left: usize = lists.iter().map(|list| list.iter().filter(|one| one.loaded).count()).sum();
    // A little training of all weights may leave what a search by importance leaves: that is told and not vouched for.
    let accounted = count(Standing::Within);
    put(&mut profile.model, codes, count(Standing::Within), count(Standing::Loose), count(Standing::Untold));
    profile.model.put(names::ROUNDING_UNACCOUNTED, (codes - accounted + changed + left) as f64);
}

fn put(model: &mut Numbers, codes: usize, within: usize, loose: usize, untold: usize) {
    model.put(names::ROUNDING_TENSORS, codes as f64);
    model.put(names::ROUNDING_WITHIN, within as f64);
    model.put(names::ROUNDING_LOOSE, loose as f64);
    model.put(names::ROUNDING_UNTOLD, untold as f64);
}

/// Names the tensors that are not the base rounded, where most of the others are; of a candidate that is no rounding
/// of the base at all nothing is said here.
pub fn anomalies(candidate: &Checkpoint, measured: &Measurements<'_>, tensors: &[TensorMeasurement]) -> Vec<Anomaly> {
    let standings = standings(measured, tensors);
    let held = standings.iter().filter(|one| matches!(one, Some(Standing::Within | Standing::Loose))).count();
    let untold = standings.iter().filter(|one| **one == Some(Standing::Untold)).count();
    let off: Vec<(&PairMeasurement<'_>, &TensorMeasurement)> = (measured.pairs.iter().zip(tensors))
        .zip(&standings)
        .filter(|((_, tensor), standing)| match standing {
            Some(standing) => *standing == Standing::Off,
            None => tensor.sameness == Sameness::Changed,
        })
        .map(|(both, _)| both)
        .collect();
    if held + untold < off.len().max(1) {
        return Vec::new();
    }
    let named = off.iter().take(NAMED).map(|(pair, tensor)| {
        let file = (candidate.tensors.get(&pair.pair.candidate.tensor))
            .and_then(|entry| candidate.files.get(entry.file))
            .map_or("", |file| file.name.as_str());
        Anomaly::new(BEYOND_ROUNDING, file, Some(pair.pair.candidate.tensor.clone()), told(pair, tensor))
    });
    let mut anomalies: Vec<Anomaly> = named.collect();
    if let Some(more) = off.len().checked_sub(NAMED).filter(|more| *more > 0) {
        anomalies.push(Anomaly::new(
            BEYOND_ROUNDING,
            "",
            None,
            format!("{more} more tensors are not the base rounded"),
        ));
    }
    anomalies
}

/// Why one is not.
fn told(pair: &PairMeasurement<'_>, tensor: &TensorMeasurement) -> String {
    let size = format!("‖Δ‖/‖W‖ = {:.2e}", tensor.relative_norm);
    match pair.rounded {
        None => format!("neither the base's own nor a cast of it, and not stored in codes; {size}"),
        Some(rounded) => {
            let percent = 100.0 * rounded.outside as f64 / rounded.looked.max(1) as f64;
            let scheme = &tensor.candidate_dtype;
            format!(
                "{percent:.2} % of its numbers ({scheme}) are not on the level next to the base's, as others are; {size}"
            )
        }
    }
}

/// The tensors of one scheme: how many, how many of them are on their nearest levels, and of the others the changes and
/// how their numbers lie.
#[derive(Default)]
struct Group {
    all: usize,
    within: usize,
    changes: Vec<f64>,
    looked: u64,
    outside: u64,
    far: u64,
}

impl Group {
    /// Whether what is off looks like a search by importance, and not like weights that were changed.
    fn is_weighted(&self) -> bool {
        self.outside as f64 >= WEIGHTED_LEAST * self.looked as f64
            && self.far as f64 >= WEIGHTED_FAR_LEAST * self.outside as f64
    }
}

/// What is said of every tensor; `None` for those that are not in codes.
fn standings(measured: &Measurements<'_>, tensors: &[TensorMeasurement]) -> Vec<Option<Standing>> {
    let is_within = |rounded: &Rounded, tensor: &TensorMeasurement| {
        tensor.sameness != Sameness::Changed || rounded.choice.is_some() && rounded.outside == 0
    };
    let coded = || measured.pairs.iter().zip(tensors).filter_map(|(pair, tensor)| Some((pair.rounded?, tensor)));
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for (rounded, tensor) in coded() {
        let group = groups.entry(tensor.candidate_dtype.as_str()).or_default();
        group.all += 1;
        if is_within(&rounded, tensor) {
            group.within += 1;
        } else {
            group.changes.push(tensor.relative_norm);
            group.looked += rounded.looked;
            group.outside += rounded.outside;
            group.far += rounded.far;
        }
    }
    let standing = |rounded: Rounded, tensor: &TensorMeasurement| {
        if is_within(&rounded, tensor) {
            return Standing::Within;
        }
        let group = groups.get(tensor.candidate_dtype.as_str()).filter(|group| 2 * group.within < group.all);
        let Some(group) = group else { return Standing::Off };
        let share = |count: u64| count as f64 / rounded.looked.max(1) as f64;
        match rounded.choice {
            _ if tensor.relative_norm > STANDS_OUT * median(group.changes.iter().copied()) => Standing::Off,
            Some(LevelChoice::Nearest) => Standing::Off,
            Some(LevelChoice::Weighted) => {
                let few = share(rounded.outside) <= WEIGHTED && share(rounded.far) <= WEIGHTED_FAR;
                if few && group.is_weighted() { Standing::Loose } else { Standing::Off }
            }
            Some(LevelChoice::Free) | None => Standing::Untold,
        }
    };
    (measured.pairs.iter().zip(tensors)).map(|(pair, tensor)| Some(standing(pair.rounded?, tensor))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_by_importance_is_told_from_a_little_training() {
        let group = |outside: u64, far: u64| Group { looked: 1_000_000, outside, far, ..Group::default() };
        // Q4_0, Q5_0, Q4_1 and Q5_1 with importances, as measured.
        for (outside, far) in [(5480, 65), (6030, 55), (8030, 123), (6080, 45)] {
            assert!(group(outside, far).is_weighted());
        }
        // Changes of a fiftieth and of a tenth of a step.
        for (outside, far) in [(1000, 0), (25_000, 0), (25_000, 12), (0, 0), (40, 40)] {
            assert!(!group(outside, far).is_weighted(), "{outside} {far}");
        }
    }
}
