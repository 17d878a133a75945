//! The passes of pairing, from the surest to the weakest.

use super::piece::{self, Piece};
use super::state::{PairedSide, PairingState};
use super::{Pair, Pairing, fused, layers, leftover, verify};
use crate::arch::{self, Parameter, ParameterKey};
use crate::checkpoint::Checkpoint;

/// See [`super::pair`].
pub fn pair(base: &Checkpoint, candidate: &Checkpoint) -> Pairing {
    let mut base_resolved = arch::resolve_checkpoint(base);
    if base_resolved.facts.model_type.is_empty() {
        // A base without a configuration takes the candidate's word for the row of the table.
        let own = arch::resolve_checkpoint(candidate);
        if !own.facts.model_type.is_empty() && own.family != "fallback" {
            base_resolved = arch::resolve_as(base, &own);
        }
    }
    let candidate_resolved = arch::resolve_as(candidate, &base_resolved);
    let both = base_resolved.facts.or(&candidate_resolved.facts);
    base_resolved.facts = both;
    let width = base_resolved.width;
    let architecture = base_resolved.family.clone();
    let mut state = PairingState {
        base: PairedSide::new(base, base_resolved),
        candidate: PairedSide::new(candidate, candidate_resolved),
        pairs: Vec::new(),
        notes: Vec::new(),
    };
    layers::align(&mut state);
    state.by_key();
    fused::split(&mut state);
    let mut tied = tie_heads(&mut state);
    tied.extend(tie_embeddings(&mut state));
    leftover::by_content(&mut state);
    leftover::by_shape(&mut state);
    verify::layouts(&mut state);
    explain(&mut state);

    let PairingState { base: base_side, candidate: candidate_side, mut pairs, mut notes } = state;
    pairs.sort_by(|(a, _, first), (b, _, second)| {
        let place = |at: &usize| base_side.pieces.get(*at).map_or(usize::MAX, |piece| piece.source);
        place(a).cmp(&place(b)).then(a.cmp(b)).then_with(|| first.name.cmp(&second.name))
    });
    let mut pairs: Vec<Pair> = pairs.into_iter().map(|(_, _, pair)| pair).collect();
    pairs.extend(tied);
    notes.dedup();
    let renamed = pairs.iter().filter(|pair| pair.base.tensor != pair.candidate.tensor).count();
    Pairing {
        pairs,
        only_base: base_side.unpaired("candidate"),
        only_candidate: candidate_side.unpaired("base"),
        added_biases: candidate_side.free().filter_map(|at| candidate_side.pieces[at].writer_bias()).collect(),
        renamed,
        residual_width: width,
        architecture,
        notes,
    }
}

/// Deals with output heads that one side has and the other ties to its embedding.
fn tie_heads(state: &mut PairingState<'_>) -> Vec<Pair> {
    let find = |side: &PairedSide<'_>, slot: &str, free: bool| {
        (0..side.pieces.len()).find(|at| {
            let key = &side.pieces[*at].key;
            // An encoder and a decoder share one embedding, under a name of its own.
            let named = key.slot == slot || slot == "embed_tokens" && is_shared_embedding(key);
            named && key.layer.is_none() && key.parameter == Parameter::Weight && !(free && side.used[*at])
        })
    };
    let base_head = find(&state.base, "lm_head", false);
    let candidate_head = find(&state.candidate, "lm_head", false);
    let mut pairs = Vec::new();
    match (base_head, candidate_head) {
        (Some(head), None) => {
            if let Some(embedding) = find(&state.candidate, "embed_tokens", false) {
                let said =
                    arch::ConfigFacts::read(&state.candidate.checkpoint.config, &state.candidate.checkpoint.metadata)
                        .tied;
                let name = &state.candidate.pieces[embedding].tensor;
                let reason = match said {
                    Some(false) => format!("not in the candidate, whose configuration does not tie it to {name}"),
                    _ => format!("tied to {name} in the candidate"),
                };
                if said != Some(false) {
                    state.base.dispensable.insert(head);
                }
                state.base.reasons.insert(head, reason);
            }
        }
        (None, Some(head)) => {
            if let Some(embedding) = find(&state.base, "embed_tokens", false) {
                let (base, other) = (&state.base.pieces[embedding], &state.candidate.pieces[head]);
                let rows = base.rows.min(other.rows);
                let joined =
                    (base.columns == other.columns && rows > 0).then(|| piece::join(base, other, rows)).flatten();
                if let Some(mut pair) = joined {
                    pair.name = other.tensor.clone();
                    pair.role = other.role.clone();
                    state.candidate.used[head] = true;
                    state.notes.push(format!(
                        "{}: the base ties its head to {}, against which it is compared",
                        other.tensor, base.tensor
                    ));
                    pairs.push(pair);
                }
            }
        }
        _ => {}
    }
    pairs
}

/// Whether it is the embedding that the stacks of an architecture share, under the name of one of them or of all.
fn is_shared_embedding(key: &ParameterKey) -> bool {
    key.slot.ends_with(".embed_tokens") && key.layer.is_none() && key.parameter == Parameter::Weight
}

/// Deals with copies of an embedding that an encoder and a decoder share: files keep one, two or all three. What only
/// the candidate has is compared with a copy of the base's.
fn tie_embeddings(state: &mut PairingState<'_>) -> Vec<Pair> {
    let all = |side: &PairedSide<'_>| -> Vec<usize> {
        (0..side.pieces.len()).filter(|at| is_shared_embedding(&side.pieces[*at].key)).collect()
    };
    let (of_base, of_candidate) = (all(&state.base), all(&state.candidate));
    let (Some(first), Some(other)) = (of_base.first().copied(), of_candidate.first().copied()) else {
        return Vec::new();
    };
    let name = state.candidate.pieces[other].tensor.clone();
    for at in of_base.iter().copied().filter(|at| !state.base.used[*at]) {
        state.base.dispensable.insert(at);
        state.base.reasons.insert(at, format!("tied to {name} in the candidate"));
    }
    let mut pairs = Vec::new();
    for at in of_candidate {
        let (base, copy) = (&state.base.pieces[first], &state.candidate.pieces[at]);
        let fits = !state.candidate.used[at] && base.columns == copy.columns && base.rows == copy.rows;
        if let Some(mut pair) = fits.then(|| piece::join(base, copy, base.rows)).flatten() {
            pair.name.clone_from(&copy.tensor);
            state.candidate.used[at] = true;
            pairs.push(pair);
        }
    }
    pairs
}

/// Finds reasons for tensors that are still unpaired.
fn explain(state: &mut PairingState<'_>) {
    let reason_for = |piece: &Piece| -> Option<&'static str> {
        let slot = piece.key.slot.as_str();
        if slot.ends_with("negative_exponential_of_A_log") {
            Some("GGUF keeps -exp(A_log), which is no copy of A_log")
        } else if slot.starts_with("rope_") || slot.ends_with("rotary_frequencies") || slot.ends_with("inv_freq") {
            Some("computed from the configuration, not trained")
        } else if slot.ends_with("causal_mask") || slot.ends_with("causal_mask_value") {
            Some("a constant mask, not trained")
        } else if matches!(slot, "k_b_proj" | "v_b_proj") {
            Some("GGUF keeps the key and value halves of kv_b_proj apart, the keys transposed head by head")
        } else {
            None
        }
    };
    for side in [&mut state.base, &mut state.candidate] {
        for at in 0..side.pieces.len() {
            if !side.used[at]
                && let Some(reason) = reason_for(&side.pieces[at])
            {
                side.reasons.entry(at).or_insert_with(|| reason.to_owned());
                side.dispensable.insert(at);
            }
        }
    }
}
