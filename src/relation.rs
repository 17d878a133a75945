//! What the candidate is to the base: identical, repackaged, recast, quantized, edited, trained further, or no kin at all.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::diff::change::{LOW_RANK, is_uniform, low_ranks};
use crate::diff::stats::{GRID_KURTOSIS, Profile, Sameness, TensorMeasurement};
use crate::examination::Relation;
use crate::numbers::median;
use crate::pair::Pairing;

/// Median cosine of matrices below this: no kinship. Independent matrices of n elements have |cosine| about 1/√n, trained
/// ones of one architecture share a little more; derivatives by training stay above 0.9.
const UNRELATED: f64 = 0.2;
/// Relative size of what quantisers leave: from 8 bits with a scale per block to under 2 bits.
const QUANTISER_NOISE: std::ops::Range<f64> = 0.001..0.7;
/// Changed matrices up to this many, and up to this share of all, are "a few tensors".
const FEW: usize = 5;
const FEW_SHARE: f64 = 0.15;

/// The relation, and the rank where it is a low-rank edit.
pub fn relation(
    base: &Checkpoint,
    candidate: &Checkpoint,
    pairing: &Pairing,
    profile: &Profile,
    adapter: bool,
) -> (Relation, Option<u32>) {
    if adapter {
        return (Relation::Adapter, low_rank(&matrices(profile)));
    }
    if profile.tensors.is_empty() {
        return (Relation::Incomparable, None);
    }
    let changed: Vec<&TensorMeasurement> =
        profile.tensors.iter().filter(|tensor| tensor.sameness == Sameness::Changed).collect();
    if changed.is_empty() {
        if profile.tensors.iter().any(|tensor| tensor.sameness == Sameness::Requantized) {
            return (Relation::Quantized, None);
        }
        let recast = profile.tensors.iter().any(|tensor| tensor.sameness == Sameness::Recast);
        return (if recast { Relation::Recast } else { same(base, candidate, pairing) }, None);
    }
    let number = |name: &str| profile.model.get(name).copied();
    let all = matrices(profile);
    // Asked first: the error of a grid with uneven steps (NF4, FP4) is as white as noise.
    let quantized = is_quantized(candidate, pairing, &all);
    if !quantized && all_noise(&all) {
        return (Relation::Edited, None);
    }
    if number("delta.cosine").is_some_and(|cosine| cosine < UNRELATED) {
        return (Relation::Unrelated, None);
    }
    if quantized {
        return (Relation::Quantized, None);
    }
    if from_weights_themselves(&all) || is_few(profile, &all) {
        return (Relation::Edited, low_rank(&all));
    }
    // Norms brought back after an edit of low rank give it a long tail, but it is that edit all the same.
    let explained = all
        .iter()
        .filter(|tensor| tensor.projection.as_ref().is_some_and(|p| p.fits && p.explained >= LOW_RANK))
        .map(|tensor| f64::from(tensor.projection.as_ref().map_or(1, |p| p.directions)))
        .collect::<Vec<_>>();
    if explained.len() * 5 >= all.len() * 4 && low_rank(&all).is_none() {
        return (Relation::LowRankEdit, Some(median(explained).round() as u32));
    }
    if let Some(rank) = low_rank(&all) {
        let layers: std::collections::BTreeSet<_> = all.iter().filter_map(|tensor| tensor.role.layer).collect();
        return (if layers.len() >= 2 { Relation::LowRankEdit } else { Relation::Edited }, Some(rank));
    }
    if number("merge.drop_rate").is_some() {
        return (Relation::Merged, None);
    }
    (Relation::FineTuned, None)
}

fn is_few(profile: &Profile, changed: &[&TensorMeasurement]) -> bool {
    let matrices = profile.tensors.iter().filter(|tensor| tensor.shape[0] > 1).count();
    // A low-rank change in every layer is a recipe over the model, however few matrices it takes.
    let number = |name: &str| profile.model.get(name).copied().unwrap_or(0.0);
    let every_layer = number("layers.total") > 1.0 && number("layers.changed") >= number("layers.total");
    changed.len() <= FEW && changed.len() as f64 <= (FEW_SHARE * matrices as f64).max(1.0) && !every_layer
}

/// The changed matrices.
fn matrices(profile: &Profile) -> Vec<&TensorMeasurement> {
    profile.tensors.iter().filter(|tensor| tensor.sameness == Sameness::Changed && tensor.shape[0] > 1).collect()
}

/// White noise of one relative size in every matrix: neither training nor a quantiser leaves that.
fn all_noise(changed: &[&TensorMeasurement]) -> bool {
    let sizes: Vec<f64> = changed.iter().map(|tensor| tensor.relative_norm).collect();
    let middle = median(sizes.clone());
    changed.len() >= 4
        && changed.iter().all(|tensor| {
            tensor.above_noise == 0
                && tensor.kurtosis > GRID_KURTOSIS
                && tensor.kurtosis < 4.0
                && tensor.noise > 1.5 * tensor.rounding
        })
        && sizes.iter().all(|size| (size / middle - 1.0).abs() < 0.1)
}

/// Nothing changed: the same files, or the same tensors in others.
fn same(base: &Checkpoint, candidate: &Checkpoint, pairing: &Pairing) -> Relation {
    let layout = |checkpoint: &Checkpoint| -> BTreeMap<String, (String, u64, u64)> {
        checkpoint
            .tensors
            .values()
            .map(|entry| {
                let file = checkpoint.files.get(entry.file).map(|file| file.name.clone()).unwrap_or_default();
                (entry.name.clone(), (file, entry.range.start, entry.range.end))
            })
            .collect()
    };
    let lengths = |checkpoint: &Checkpoint| -> Vec<(String, u64)> {
        checkpoint.files.iter().map(|file| (file.name.clone(), file.source.len())).collect()
    };
    // A tensor that the base has no place for, and that is not its own under another name, is an addition.
    if !pairing.only_candidate.is_empty() {
        return Relation::Edited;
    }
    let whole = pairing.only_base.is_empty() && pairing.renamed == 0;
    if whole && lengths(base) == lengths(candidate) && layout(base) == layout(candidate) {
        Relation::Identical
    } else {
        Relation::Repackaged
    }
}

/// Most of the changed matrices are stored as a quantiser's codes that the base's are not, or carry the error of a grid.
fn is_quantized(candidate: &Checkpoint, pairing: &Pairing, changed: &[&TensorMeasurement]) -> bool {
    let most = |count: usize, share: f64| !changed.is_empty() && count as f64 >= share * changed.len() as f64;
    // Codes of the same kind on both sides are no step from one to the other.
    let became_codes = |tensor: &&TensorMeasurement| tensor.base_dtype != tensor.candidate_dtype;
    let codes: std::collections::BTreeSet<&str> = (pairing.pairs.iter())
        .filter(|pair| candidate.tensors.get(&pair.candidate.tensor).is_some_and(TensorEntry::is_quantized))
        .map(|pair| pair.name.as_str())
        .collect();
    let in_codes =
        (changed.iter().copied()).filter(|tensor| codes.contains(tensor.name.as_str())).filter(became_codes).count();
    if most(in_codes, 0.5) {
        return true;
    }
    let grid = |tensor: &&&TensorMeasurement| is_uniform(tensor) && QUANTISER_NOISE.contains(&tensor.relative_norm);
    most(changed.iter().filter(grid).count(), 0.8)
}

/// A change that the weights alone explain: a scale, zeros, a component of the matrix itself.
fn from_weights_themselves(changed: &[&TensorMeasurement]) -> bool {
    let most = |of: &dyn Fn(&TensorMeasurement) -> bool| {
        !changed.is_empty() && changed.iter().filter(|tensor| of(tensor)).count() * 10 >= changed.len() * 8
    };
    most(&|tensor| tensor.scale_explained.iter().any(|share| *share > 0.9))
        || most(&|tensor| tensor.zeroed_fraction > 0.0 && tensor.zeroed_fraction >= 0.99 * tensor.changed_fraction)
        || most(&|tensor| {
            tensor.projection.as_ref().is_some_and(|projection| {
                projection.own_component >= crate::diff::summary::OWN_COMPONENT
                    && projection.consistency > 0.9
                    && !projection.fits
            })
        })
}

/// The rank, where at least four fifths of the changed matrices whose spectrum is known far enough are of low rank.
fn low_rank(changed: &[&TensorMeasurement]) -> Option<u32> {
    let (ranks, share) = low_ranks(changed)?;
    (share >= 0.8).then(|| median(ranks).round() as u32)
}
