//! What names do not tell: pairs by sampled content, then by shape and order.

use std::collections::BTreeMap;

use super::content;
use super::state::{PairedSide, PairingState};
use crate::limits::MAX_COMPARED_PIECES;
use crate::tensor::numbers::cosine;

/// A pair by content needs this cosine; unrelated matrices of a model stay below 0.2.
const KIN: f64 = 0.8;

/// Vectors of one model (norm gains) all resemble each other: only near-equality tells them.
const NEAR: f64 = 0.05;

/// Fewer numbers than this have no content to go by.
const LEAST: u64 = 32;

/// Numbers that are read in search of content: a hostile header may list a million tensors over the same bytes.
const BUDGET: u64 = 1 << 30;

type Groups = BTreeMap<(u64, u64), Vec<usize>>;

fn groups(side: &PairedSide<'_>) -> Groups {
    let mut groups = Groups::new();
    for at in side.free() {
        let piece = &side.pieces[at];
        groups.entry((piece.rows, piece.columns)).or_default().push(at);
    }
    groups
}

/// Pairs free pieces of one shape whose sampled rows agree, each being the other's best.
pub fn by_content(state: &mut PairingState<'_>) {
    let (bases, mut candidates) = (groups(&state.base), groups(&state.candidate));
    let mut found = Vec::new();
    let mut budget = BUDGET;
    for (shape, base) in bases {
        let Some(candidate) = candidates.remove(&shape) else { continue };
        let cost = shape.0.max(shape.1).saturating_mul(4).saturating_mul((base.len() + candidate.len()) as u64);
        if cost > budget
            || shape.0.saturating_mul(shape.1) < LEAST
            || base.len() > MAX_COMPARED_PIECES
            || candidate.len() > MAX_COMPARED_PIECES
        {
            continue;
        }
        budget -= cost;
        let samples = |side: &PairedSide<'_>, list: &[usize]| -> Vec<(usize, Vec<f32>)> {
            let of = |at: &usize| Some((*at, content::sample(side.checkpoint, &side.pieces[*at].view())?));
            list.iter().filter_map(of).collect()
        };
        let (first, second) = (samples(&state.base, &base), samples(&state.candidate, &candidate));
        let vector = shape.0 == 1 || shape.1 == 1;
        let likeness = |a: &[f32], b: &[f32]| if vector { 1.0 - content::distance(a, b) } else { cosine(a, b) };
        let least = if vector { 1.0 - NEAR } else { KIN };
        let best = |of: &[f32], among: &[(usize, Vec<f32>)]| {
            among
                .iter()
                .map(|(at, sample)| (likeness(of, sample), *at))
                .filter(|(score, _)| *score >= least)
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
                .map(|(_, at)| at)
        };
        for (at, sample) in &first {
            let Some(other) = best(sample, &second) else { continue };
            let Some((_, theirs)) = second.iter().find(|(there, _)| *there == other) else { continue };
            if best(theirs, &first) == Some(*at) {
                found.push((*at, other));
            }
        }
    }
    let count = found.into_iter().filter(|(base, candidate)| state.try_pair(*base, *candidate)).count();
    if count > 0 {
        state.notes.push(format!("{count} tensors paired by content: their names do not correspond"));
    }
}

/// Pairs free pieces of one shape in the order of blocks and names, where both sides have equally many and the table
/// does not know at least one of the two: names of another origin, contents unlike or unreadable.
pub fn by_shape(state: &mut PairingState<'_>) {
    let (bases, mut candidates) = (groups(&state.base), groups(&state.candidate));
    let mut found = Vec::new();
    for (shape, mut base) in bases {
        let Some(mut candidate) = candidates.remove(&shape) else { continue };
        if base.len() != candidate.len() || shape.0.saturating_mul(shape.1) < LEAST {
            continue;
        }
        let place = |side: &PairedSide<'_>, at: &usize| {
            let piece = &side.pieces[*at];
            (piece.role.layer, piece.role.kind, piece.tensor.clone(), piece.role.expert)
        };
        base.sort_by_key(|at| place(&state.base, at));
        candidate.sort_by_key(|at| place(&state.candidate, at));
        found.extend(base.into_iter().zip(candidate));
    }
    let mut count = 0;
    for (base, candidate) in found {
        let strange = !state.base.pieces[base].known || !state.candidate.pieces[candidate].known;
        let in_blocks =
            state.base.pieces[base].role.layer.is_some() == state.candidate.pieces[candidate].role.layer.is_some();
        if strange && in_blocks && state.try_pair(base, candidate) {
            count += 1;
        }
    }
    if count > 0 {
        state.notes.push(format!("{count} tensors paired by shape and order alone"));
    }
}
