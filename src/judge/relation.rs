//! What the candidate is to the base: identical, repackaged, recast, quantized, edited, trained further, or no kin at
//! all; and what that makes of the publisher's claim.
//!
//! However deep a candidate was looked at, its relation is decided here: from hashes, from a screen of rows, from its
//! writers alone, from everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::diff::change::{LOW_RANK, is_uniform, low_ranks};
use crate::examination::{Examination, Relation, Status};
use crate::ids::Digest;
use crate::pair::Pairing;
use crate::profile::{GRID_KURTOSIS, Profile, Sameness, TensorMeasurement, names};
use crate::screen::{BlockMeasurement, Sampled, ScreenDecision, Screened};
use crate::tensor::numbers::median;

/// Median cosine of matrices below this: no kinship. Independent matrices of n elements have |cosine| about 1/√n,
/// trained ones of one architecture share a little more; derivatives by training stay above 0.9.
const UNRELATED: f64 = 0.2;
/// Relative size of what quantisers leave: from 8 bits with a scale per block to under 2 bits.
const QUANTISER_NOISE: std::ops::Range<f64> = 0.001..0.7;
/// Changed matrices up to this many, and up to this share of all, are "a few tensors".
const FEW: usize = 5;
const FEW_SHARE: f64 = 0.15;
/// Share of a block's change in its first component from which a screen calls it of low rank.
const LEANS: f64 = 0.8;
/// Share of a block's changed numbers that became zero from which a screen calls it pruned.
const PRUNED: f64 = 0.99;

/// The files of one checkpoint: SHA-256, length, name.
pub type WeightFiles<'a> = BTreeSet<(Digest, u64, &'a str)>;

/// Whether the two have to do with one another.
pub fn is_kin(relation: Relation) -> bool {
    !matches!(relation, Relation::Unrelated | Relation::Incomparable)
}

/// The relation by hashes alone: the same files under the same names or others; `None` where they are not the same.
pub fn of_same_files(base: &WeightFiles<'_>, candidate: &WeightFiles<'_>) -> Option<Relation> {
    let contents = |files: &WeightFiles<'_>| -> BTreeSet<(Digest, u64)> {
        files.iter().map(|(sha256, bytes, _)| (*sha256, *bytes)).collect()
    };
    if base == candidate {
        return Some(Relation::Identical);
    }
    (contents(base) == contents(candidate)).then_some(Relation::Repackaged)
}

/// The relation by a screen: rows of some writers, and samples of what reads. `recast` is whether tensors are stored in
/// other dtypes than the base's.
pub fn of_screen(screened: &Screened, readers: Sampled, recast: bool) -> Relation {
    let changed: Vec<&BlockMeasurement> = screened.blocks.iter().filter(|block| block.changed).collect();
    let most = |of: &dyn Fn(&BlockMeasurement) -> bool| {
        !changed.is_empty() && changed.iter().filter(|block| of(block)).count() * 2 > changed.len()
    };
    let low_rank = most(&|block| block.top > LEANS);
    if recast && screened.decision == ScreenDecision::Clear && !low_rank {
        return Relation::Quantized;
    }
    match changed.is_empty() {
        true if readers.has_moved() => Relation::FineTuned,
        true => Relation::Edited,
        // Nothing but zeros: pruned, and not trained.
        false if most(&|block| block.zeroed >= PRUNED) => Relation::Edited,
        false if low_rank => Relation::LowRankEdit,
        false if !readers.has_moved() && readers.taken > 0 => Relation::Edited,
        false => Relation::FineTuned,
    }
}

/// The relation by the writers alone, all of which were compared, and samples of what reads: where few writers changed,
/// but so did what was not compared, it is training and no edit of those few.
pub fn of_writers(by_writers: Relation, profile: Option<&Profile>, readers: Sampled) -> Relation {
    let number = |measurement| profile.and_then(|profile| profile.number(measurement)).unwrap_or(0.0);
    let are_few = number(names::WRITERS_CHANGED) * 2.0 < number(names::WRITERS_TOTAL);
    if readers.has_moved() && by_writers == Relation::Edited && are_few { Relation::FineTuned } else { by_writers }
}

/// Whether the weights bear out that the candidate was made from the base that it claims; `None` where nothing is
/// claimed, or where it was not compared with that base, or nothing of it could be: of no comparison nothing follows.
pub fn bears_out(examination: &Examination) -> Option<bool> {
    let claimed = examination.claim.as_ref()?.base.as_deref()?;
    if examination.status == Status::Failed || !is_named(&examination.base.source, claimed) {
        return None;
    }
    match examination.relation {
        Relation::Incomparable => None,
        relation => Some(is_kin(relation)),
    }
}

/// The same of a repository with several checkpoints that were judged: one that bears the claim out is enough.
pub fn any_bears_out(variants: &[Examination]) -> Option<bool> {
    variants.iter().filter_map(|variant| variant.claim.as_ref()?.holds).reduce(|one, other| one || other)
}

/// Whether a side's source (`hf:org/name`) is the repository of that name.
fn is_named(source: &str, repository: &str) -> bool {
    let name = source.split_once(':').map_or(source, |(_, name)| name);
    name.split('@').next().unwrap_or(name).eq_ignore_ascii_case(repository)
}

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
    let number = |measurement| profile.number(measurement);
    let all = matrices(profile);
    // Asked first: the error of a grid with uneven steps (NF4, FP4) is as white as noise.
    let quantized = is_quantized(candidate, pairing, &all);
    if !quantized && all_noise(&all) {
        return (Relation::Edited, None);
    }
    if number(names::DELTA_COSINE).is_some_and(|cosine| cosine < UNRELATED) {
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
        let layers: BTreeSet<_> = all.iter().filter_map(|tensor| tensor.role.layer).collect();
        return (if layers.len() >= 2 { Relation::LowRankEdit } else { Relation::Edited }, Some(rank));
    }
    if number(names::MERGE_DROP_RATE).is_some() {
        return (Relation::Merged, None);
    }
    (Relation::FineTuned, None)
}

fn is_few(profile: &Profile, changed: &[&TensorMeasurement]) -> bool {
    let matrices = profile.tensors.iter().filter(|tensor| tensor.shape[0] > 1).count();
    // A low-rank change in every layer is a recipe over the model, however few matrices it takes.
    let number = |measurement| profile.number(measurement).unwrap_or(0.0);
    let every_layer = number(names::LAYERS_TOTAL) > 1.0 && number(names::LAYERS_CHANGED) >= number(names::LAYERS_TOTAL);
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

/// Most of the changed matrices are stored as a quantiser's codes that the base's are not, or carry the error of a
/// grid.
fn is_quantized(candidate: &Checkpoint, pairing: &Pairing, changed: &[&TensorMeasurement]) -> bool {
    let most = |count: usize, share: f64| !changed.is_empty() && count as f64 >= share * changed.len() as f64;
    // Codes of the same kind on both sides are no step from one to the other.
    let became_codes = |tensor: &&TensorMeasurement| tensor.base_dtype != tensor.candidate_dtype;
    let codes: BTreeSet<&str> = (pairing.pairs.iter())
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
                projection.own_component >= crate::diff::OWN_COMPONENT
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examination::{Claim, Side};

    fn claiming(relation: Relation, status: Status, base: &str) -> Examination {
        let side = |source: &str| Side { source: source.to_owned(), ..Side::default() };
        let mut examination = Examination::blank(side(base), side("hf:a/candidate"));
        (examination.relation, examination.status) = (relation, status);
        examination.claim = Some(Claim { base: Some("org/base".to_owned()), ..Claim::default() });
        examination
    }

    #[test]
    fn a_claim_stands_by_the_relation_to_the_base_that_it_names() {
        let of = |relation, status, base| bears_out(&claiming(relation, status, base));
        for relation in crate::examination::RELATIONS {
            let expected = match relation {
                Relation::Incomparable => None,
                Relation::Unrelated => Some(false),
                _ => Some(true),
            };
            assert_eq!(of(relation, Status::Complete, "hf:org/base"), expected, "{relation:?}");
            assert_eq!(of(relation, Status::Partial, "ms:Org/Base@main"), expected, "{relation:?}");
            assert_eq!(of(relation, Status::Failed, "hf:org/base"), None);
            assert_eq!(of(relation, Status::Complete, "hf:org/other"), None);
        }
        let mut silent = claiming(Relation::FineTuned, Status::Complete, "hf:org/base");
        silent.claim = None;
        assert_eq!(bears_out(&silent), None);
    }

    #[test]
    fn one_of_several_that_bears_a_claim_out_is_enough() {
        let with = |holds| {
            let mut examination = claiming(Relation::Edited, Status::Complete, "hf:org/base");
            examination.claim.as_mut().unwrap().holds = holds;
            examination
        };
        assert_eq!(any_bears_out(&[with(None), with(None)]), None);
        assert_eq!(any_bears_out(&[with(None), with(Some(false))]), Some(false));
        assert_eq!(any_bears_out(&[with(Some(false)), with(Some(true))]), Some(true));
    }

    #[test]
    fn the_same_files_under_other_names_are_the_base_repackaged() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let base = WeightFiles::from([(digest("a"), 1, "a.bin"), (digest("b"), 1, "b.bin")]);
        let renamed = WeightFiles::from([(digest("a"), 1, "x.bin"), (digest("b"), 1, "y.bin")]);
        let other = WeightFiles::from([(digest("a"), 1, "a.bin"), (digest("c"), 1, "b.bin")]);
        assert_eq!(of_same_files(&base, &base.clone()), Some(Relation::Identical));
        assert_eq!(of_same_files(&base, &renamed), Some(Relation::Repackaged));
        assert_eq!(of_same_files(&base, &other), None);
    }
}
