//! Blocks that were left out, repeated or renumbered: which block of the candidate is which of the base.

use std::collections::{BTreeMap, BTreeSet};

use super::content;
use super::state::{PairedSide, PairingState};
use crate::arch::Parameter;
use crate::limits::MAX_ALIGNED_LAYERS;
use crate::tensor::numbers::cosine;

/// Matrices that tell a block, the first one present deciding.
const PROBES: &[&str] = &["down_proj", "o_proj", "out_proj", "up_proj", "gate_up_proj", "qkv_proj", "q_proj"];

/// Below this cosine two blocks are strangers. Edited and 4-bit quantised blocks stay above 0.95, fine-tuned ones too.
const KIN: f64 = 0.5;

/// Renumbers the candidate's blocks as the base's where their counts differ.
pub fn align(state: &mut PairingState<'_>) {
    let (base, candidate) = (layers(&state.base), layers(&state.candidate));
    if base == candidate || base.is_empty() || candidate.is_empty() {
        return;
    }
    let counts = format!("the candidate has {} blocks, the base {}", candidate.len(), base.len());
    if base.len().max(candidate.len()) > MAX_ALIGNED_LAYERS {
        state.notes.push(format!("{counts}: paired by number, too many to compare by content"));
        return;
    }
    let (first, second) = (probes(&state.base), probes(&state.candidate));
    let mut map = BTreeMap::new();
    let mut taken = BTreeMap::new();
    let mut repeats = BTreeMap::new();
    for (layer, samples) in &second {
        let likeness = |other: &BTreeMap<&str, Vec<f32>>| {
            PROBES.iter().find_map(|slot| Some(cosine(samples.get(slot)?, other.get(slot)?))).unwrap_or(0.0)
        };
        let best = first.iter().map(|(other, probes)| (likeness(probes), *other)).max_by(|a, b| {
            // The same number first among equals.
            a.0.total_cmp(&b.0).then((a.1 == *layer).cmp(&(b.1 == *layer)))
        });
        let Some((_, found)) = best.filter(|(score, _)| *score >= KIN) else { continue };
        match taken.get(&found) {
            Some(earlier) => {
                repeats.insert(*layer, (found, *earlier));
            }
            None => {
                taken.insert(found, *layer);
                map.insert(*layer, found);
            }
        }
    }
    if (map.len() + repeats.len()) * 2 < candidate.len().min(base.len()) {
        state.notes.push(format!("{counts}: paired by number, contents do not tell"));
        return;
    }
    let mut strangers = Vec::new();
    for piece in &mut state.candidate.pieces {
        let Some(layer) = piece.key.layer else { continue };
        if let Some(found) = map.get(&layer) {
            piece.key.layer = Some(*found);
        } else if let Some((found, earlier)) = repeats.get(&layer) {
            piece.barred = Some(format!("repeats block {found} of the base, already paired with block {earlier}"));
        } else {
            piece.barred = Some("no block of the base resembles its block".to_owned());
            strangers.push(layer);
        }
    }
    strangers.dedup();
    let missing: Vec<u32> = base.iter().copied().filter(|layer| !taken.contains_key(layer)).collect();
    let mut told = vec![counts];
    if !missing.is_empty() {
        told.push(format!("left out: {}", ranges(&missing)));
    }
    if !repeats.is_empty() {
        told.push(format!("repeats of others: {}", ranges(&repeats.keys().copied().collect::<Vec<u32>>())));
    }
    if !strangers.is_empty() {
        strangers.sort_unstable();
        strangers.dedup();
        told.push(format!("like none of the base: {}", ranges(&strangers)));
    }
    state.notes.push(told.join("; "));
}

/// The blocks that hold known matrices.
fn layers(side: &PairedSide<'_>) -> BTreeSet<u32> {
    side.pieces
        .iter()
        .filter(|piece| piece.known && PROBES.contains(&piece.key.slot.as_str()))
        .filter_map(|piece| piece.key.layer)
        .collect()
}

fn probes(side: &PairedSide<'_>) -> BTreeMap<u32, BTreeMap<&'static str, Vec<f32>>> {
    let mut probes = BTreeMap::<u32, BTreeMap<&'static str, Vec<f32>>>::new();
    for piece in side.pieces.iter().filter(|piece| piece.known && piece.key.parameter == Parameter::Weight) {
        let Some(layer) = piece.key.layer else { continue };
        let Some(slot) = PROBES.iter().copied().find(|slot| *slot == piece.key.slot) else { continue };
        let of_layer = probes.entry(layer).or_default();
        // Two probes are enough for hybrids, whose blocks do not all have the same modules.
        if of_layer.len() < 2
            && !of_layer.contains_key(slot)
            && let Some(sample) = content::sample(side.checkpoint, &piece.view())
        {
            of_layer.insert(slot, sample);
        }
    }
    probes
}

/// `0-3, 7` for 0, 1, 2, 3, 7.
fn ranges(numbers: &[u32]) -> String {
    let mut text = Vec::new();
    let mut at = 0;
    while let Some(first) = numbers.get(at) {
        let mut last = *first;
        while numbers.get(at + 1).is_some_and(|next| last.checked_add(1) == Some(*next)) {
            at += 1;
            last = numbers[at];
        }
        text.push(if last == *first { first.to_string() } else { format!("{first}-{last}") });
        at += 1;
    }
    text.join(", ")
}
