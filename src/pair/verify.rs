//! Asks the numbers whether a layout that the table asserts is the one met: converters of other years and hands differ.

use std::collections::BTreeMap;

use super::state::PairingState;
use super::{Pair, content, order};
use crate::arch::{Kind, NamingScheme, Parameter};
use crate::tensor::numbers::cosine;

/// Pairs of one slot that are asked.
const ASKED: usize = 3;

/// By how much one layout has to be better than the table's to be taken instead.
const CLEARLY: f64 = 0.1;

/// Checks rotary row orders and norm shifts between files of different naming schemes.
pub fn layouts(state: &mut PairingState<'_>) {
    if state.base.resolved.scheme == state.candidate.resolved.scheme {
        return;
    }
    let head = state.base.resolved.facts.head_dim.unwrap_or(0);
    let mut by_slot = BTreeMap::<String, Vec<usize>>::new();
    for (at, (base, _, _)) in state.pairs.iter().enumerate() {
        let piece = &state.base.pieces[*base];
        let asked = matches!(piece.key.slot.as_str(), "q_proj" | "k_proj") && piece.key.parameter == Parameter::Weight;
        if piece.known && (asked || (piece.role.kind == Kind::Norm && piece.key.parameter == Parameter::Weight)) {
            by_slot.entry(piece.key.slot.clone()).or_default().push(at);
        }
    }
    for (slot, places) in by_slot {
        if matches!(slot.as_str(), "q_proj" | "k_proj") {
            rotary(state, &slot, &places, head);
        } else if state.base.resolved.scheme == NamingScheme::Gguf
            || state.candidate.resolved.scheme == NamingScheme::Gguf
        {
            gains(state, &slot, &places);
        }
    }
}

/// Mean likeness of the first pairs, each changed by `change`.
fn likeness(
    state: &PairingState<'_>,
    places: &[usize],
    change: impl Fn(&mut Pair),
    measure: impl Fn(&[f32], &[f32]) -> f64,
) -> Option<f64> {
    let mut scores = Vec::new();
    for at in places.iter().take(ASKED) {
        let mut pair = state.pairs.get(*at)?.2.clone();
        change(&mut pair);
        let base = content::sample(state.base.checkpoint, &pair.base)?;
        let candidate = content::sample(state.candidate.checkpoint, &pair.candidate)?;
        scores.push(measure(&base, &candidate));
    }
    (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
}

fn rotary(state: &mut PairingState<'_>, slot: &str, places: &[usize], head: u64) {
    // Only a whole projection can be asked: a part of a fused one has an order of its own.
    let plain = |pair: &Pair| pair.base.row_order.is_none() && pair.base.stride.is_none() && !pair.base.transposed;
    let Some((_, _, first)) = places.first().and_then(|at| state.pairs.get(*at)) else { return };
    if !plain(first) {
        return;
    }
    let rows = first.base.rows;
    let (pairs, halves) = match order::rotary_pairs(rows, head) {
        Some(order) => (Some(order.clone()), order::inverse(&order).map(Into::into)),
        None => (None, None),
    };
    let table = likeness(state, places, |_| {}, cosine);
    let choices = [("as stored", None), ("in rotary pairs", pairs), ("in rotary halves", halves)];
    let Some(table) = table else { return };
    let mut best = (table, None);
    for (name, order) in &choices {
        let score = likeness(state, places, |pair| pair.candidate.row_order = order.clone(), cosine);
        if let Some(score) = score
            && score > best.0 + CLEARLY
        {
            best = (score, Some((*name, order.clone())));
        }
    }
    if let (score, Some((name, order))) = best {
        for at in places {
            if let Some((_, _, pair)) = state.pairs.get_mut(*at)
                && plain(pair)
                && pair.base.rows == rows
            {
                pair.candidate.row_order = order.clone();
            }
        }
        state
            .notes
            .push(format!("{slot}: rows read {name}, which fits (cosine {score:.3}, the table's order {table:.3})"));
    }
}

fn gains(state: &mut PairingState<'_>, slot: &str, places: &[usize]) {
    let near = |a: &[f32], b: &[f32]| -content::distance(a, b);
    let Some(table) = likeness(state, places, |_| {}, near) else { return };
    let mut best = (table, None);
    for shift in [0.0f32, -1.0, 1.0] {
        if let Some(score) = likeness(state, places, |pair| pair.candidate.shift = shift, near)
            && score > best.0 + CLEARLY
        {
            best = (score, Some(shift));
        }
    }
    if let (_, Some(shift)) = best {
        for at in places {
            if let Some((_, _, pair)) = state.pairs.get_mut(*at) {
                pair.candidate.shift = shift;
            }
        }
        state.notes.push(format!("{slot}: gains read with {shift:+} added, which fits better than the table's"));
    }
}
