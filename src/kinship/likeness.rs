//! How alike two fingerprints are, and how alike two that have nothing to do with one another would be.
//!
//! Every sketch is cut in two: values at even places choose which block of the one is which of the other, values at odd
//! places are what is told. So the choice among many blocks does not make strangers alike.
//!
//! The statistic T sums the correlations of all matched sketches of matrices. Its null exchanges the places of one
//! side, with the same permutation for all blocks of a slot: blocks of one model resemble one another (loud channels,
//! directions that many share), and with a permutation of its own for each block chance would look smaller than it is.
//! Of such a permutation T has mean 0 and variance Σ ‖XᵀY‖²/(n-1) exactly (Hoeffding 1951), where X and Y are a slot's
//! sketches as rows, and is close to normal: values are cut at two standard deviations, so that no single channel
//! decides.

use std::collections::BTreeMap;

use statrs::function::erf::erfc;

use super::fingerprint::{ENOUGH, Fingerprint, SketchedSlot};
use crate::limits::MAX_SKETCHED_BLOCKS;

/// Where values are cut, in codes: two standard deviations.
const CUT: i16 = 16_000;

/// Chance below which strangers are called kin, over all fingerprints that a candidate is held against.
const KIN_CHANCE: f64 = 1e-6;

/// Mean correlation below which nothing is called kin, however certain it is that it is no chance: a few tensors that
/// one model took over from another make no kin. Every derivative that was tried stays above 0.9.
const KIN_CORRELATION: f64 = 0.2;

/// Distance of two sketches that counts as none: rounding of casts and of codes stays below.
const NO_DISTANCE: f64 = 1e-6;

/// The smallest p-value that is told; it stands for anything smaller.
const LEAST_P: f64 = 1e-300;

/// What two fingerprints have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Likeness {
    /// One less the geometric mean of the distances of matched sketches, each one less their correlation: 1 for the
    /// same weights, about 0 for strangers. An edit is loud in some tensors and leaves others as they were; these say
    /// of two near ones which is nearer.
    pub similarity: f64,
    /// Mean correlation of matched sketches of matrices, at places that did not choose the match.
    pub correlation: f64,
    /// Chance that strangers are as alike; one-sided.
    pub p_value: f64,
    /// Sketches of matrices that were held against one another.
    pub sketches: usize,
    /// For blocks of the first, which of the second they resemble most; each of the second once.
    pub layers: BTreeMap<u32, u32>,
}

impl Likeness {
    /// Whether the one was made from the other, or both from a third, where as many fingerprints were held against the
    /// candidate.
    pub fn is_kin(&self, among: u64) -> bool {
        self.p_value * (among.max(1) as f64) < KIN_CHANCE && self.correlation >= KIN_CORRELATION
    }
}

/// Half of a sketch, with mean 0 and length 1; empty where it is constant.
type Half = Vec<f32>;

/// A sketch as it is compared: what chooses and what is told.
struct Halves {
    chooses: Half,
    tells: Half,
}

/// The sketches of one slot, by block.
type OfSlot = BTreeMap<Option<u32>, Halves>;

/// A fingerprint made ready for being compared with many.
pub struct PreparedFingerprint {
    slots: BTreeMap<SketchedSlot, OfSlot>,
}

impl PreparedFingerprint {
    /// Takes mean and scale off each half.
    pub fn of(fingerprint: &Fingerprint) -> Self {
        let mut slots = BTreeMap::<SketchedSlot, OfSlot>::new();
        for sketch in &fingerprint.sketches {
            let Some(slot) = fingerprint.slots.get(usize::from(sketch.slot)) else { continue };
            let half = |first: usize| unit(sketch.codes.iter().skip(first).step_by(2));
            let halves = Halves { chooses: half(0), tells: half(1) };
            slots.entry(slot.clone()).or_default().entry(sketch.layer).or_insert(halves);
        }
        Self { slots }
    }
}

fn unit<'a>(codes: impl Iterator<Item = &'a i16>) -> Half {
    let mut values: Vec<f64> = codes.map(|code| f64::from((*code).clamp(-CUT, CUT))).collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    values.iter_mut().for_each(|value| *value -= mean);
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    // Less than one code a value is rounding.
    if length < (values.len() as f64).sqrt() {
        return Half::new();
    }
    values.iter().map(|value| (value / length) as f32).collect()
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Slots that both have, sketch by sketch.
type Shared<'a> = [(&'a SketchedSlot, &'a OfSlot, &'a OfSlot)];

/// How alike two fingerprints are; `None` where they have too little in common to be held against one another: other
/// shapes, other parts.
pub fn likeness(one: &PreparedFingerprint, other: &PreparedFingerprint) -> Option<Likeness> {
    let shared: Vec<(&SketchedSlot, &OfSlot, &OfSlot)> =
        one.slots.iter().filter_map(|(slot, sketches)| Some((slot, sketches, other.slots.get(slot)?))).collect();
    let matrices = shared.iter().filter(|(slot, ..)| !slot.is_gain());
    if matrices.map(|(_, mine, theirs)| mine.len().min(theirs.len())).sum::<usize>() < ENOUGH {
        return None;
    }
    let layers = matched(&shared);
    let (mut total, mut variance, mut sketches) = (0.0f64, 0.0f64, 0usize);
    let (mut logarithms, mut distances) = (0.0f64, 0usize);
    for (slot, mine, theirs) in &shared {
        let pairs: Vec<(&[f32], &[f32])> = mine
            .iter()
            .filter_map(|(layer, mine)| {
                let layer = layer.map(|layer| layers.get(&layer).copied().ok_or(())).transpose().ok()?;
                let pair = (mine.tells.as_slice(), theirs.get(&layer)?.tells.as_slice());
                (!pair.0.is_empty() && pair.0.len() == pair.1.len()).then_some(pair)
            })
            .collect();
        let Some(samples) = pairs.first().map(|(mine, _)| mine.len()).filter(|samples| *samples > 1) else { continue };
        let correlations = pairs.iter().map(|(mine, theirs)| f64::from(product(mine, theirs)).clamp(-1.0, 1.0));
        logarithms += correlations.clone().map(|correlation| (1.0 - correlation).max(NO_DISTANCE).ln()).sum::<f64>();
        distances += pairs.len();
        if slot.is_gain() {
            continue;
        }
        total += correlations.sum::<f64>();
        variance += crossed(&pairs, samples) / (samples - 1) as f64;
        sketches += pairs.len();
    }
    if sketches == 0 {
        return None;
    }
    let deviations = if variance > 0.0 { total / variance.sqrt() } else { 0.0 };
    let p_value = (0.5 * erfc(deviations / std::f64::consts::SQRT_2)).clamp(LEAST_P, 1.0);
    let (correlation, distance) = (total / sketches as f64, (logarithms / distances as f64).exp());
    Some(Likeness { similarity: 1.0 - distance, correlation, p_value, sketches, layers })
}

/// ‖XᵀY‖² of the sketches of one slot as rows of X and Y.
fn crossed(pairs: &[(&[f32], &[f32])], samples: usize) -> f64 {
    let mut products = vec![0.0f32; samples * samples];
    for (mine, theirs) in pairs {
        for (row, mine) in products.chunks_exact_mut(samples).zip(*mine) {
            row.iter_mut().zip(*theirs).for_each(|(product, theirs)| *product += mine * theirs);
        }
    }
    products.iter().map(|product| f64::from(*product).powi(2)).sum()
}

/// For each block of the first the one of the second that it resembles most, by the values that choose. Of several
/// blocks that resemble one, the most alike keeps it: a repeated block would count twice.
fn matched(shared: &Shared<'_>) -> BTreeMap<u32, u32> {
    let mine = blocks(shared.iter().map(|(_, one, _)| *one));
    let theirs = blocks(shared.iter().map(|(.., other)| *other));
    let mut best = BTreeMap::<u32, (f32, u32)>::new();
    for layer in &mine {
        let mut scores = vec![(0.0f32, 0u32); theirs.len()];
        for (_, one, other) in shared {
            let Some(own) = one.get(&Some(*layer)).filter(|own| !own.chooses.is_empty()) else { continue };
            for (score, number) in scores.iter_mut().zip(&theirs) {
                let Some(sketch) = other.get(&Some(*number)) else { continue };
                if sketch.chooses.len() == own.chooses.len() {
                    *score = (score.0 + product(&own.chooses, &sketch.chooses), score.1 + 1);
                }
            }
        }
        // Of equals the one of the same number, else the first: a model of equal blocks is one block after another.
        let found = scores.iter().zip(&theirs).filter(|(score, _)| score.1 > 0).max_by(|(a, number), (b, other)| {
            let same = (*number == layer).cmp(&(*other == layer));
            evidence(**a).total_cmp(&evidence(**b)).then(same).then(other.cmp(number))
        });
        let Some((score, number)) = found else { continue };
        let score = evidence(*score);
        let kept = best.entry(*number).or_insert((score, *layer));
        if score > kept.0 {
            *kept = (score, *layer);
        }
    }
    best.into_iter().map(|(theirs, (_, mine))| (mine, theirs)).collect()
}

/// The blocks of which there are sketches, each once.
fn blocks<'a>(slots: impl Iterator<Item = &'a OfSlot>) -> Vec<u32> {
    let mut all: Vec<u32> = slots.flat_map(|sketches| sketches.keys().flatten().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(MAX_SKETCHED_BLOCKS);
    all
}

/// A sum of correlations in units of what chance makes of so many.
fn evidence((sum, count): (f32, u32)) -> f32 {
    sum / (count as f32).sqrt()
}
