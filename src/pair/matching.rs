//! The passes of pairing, from the surest to the weakest.

use std::collections::{BTreeMap, BTreeSet};

use super::piece::{self, Piece};
use super::{Pair, Pairing, Unpaired, fused, layers, leftover, verify};
use crate::arch::{self, Key, Kind, Parameter, Resolved};
use crate::checkpoint::{Checkpoint, Storage, TensorEntry};

/// One side while it is being matched: pieces leave it as they are paired.
pub struct Side<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// How its names are read.
    pub resolved: Resolved,
    /// All pieces; those that a fused one was split into are added at the end.
    pub pieces: Vec<Piece>,
    /// Whether the piece is paired, or replaced by its parts.
    pub used: Vec<bool>,
    /// Why a piece was not paired, where a pass knows.
    pub reasons: BTreeMap<usize, String>,
    /// Pieces that no loader needs from a file: computed from the configuration, or tied to another tensor.
    pub dispensable: BTreeSet<usize>,
    /// Tensors that are no matrices.
    pub refused: Vec<Unpaired>,
}

impl<'a> Side<'a> {
    fn new(checkpoint: &'a Checkpoint, resolved: Resolved) -> Self {
        let (pieces, refused) = piece::pieces(checkpoint, &resolved);
        let used = vec![false; pieces.len()];
        let (reasons, dispensable) = (BTreeMap::new(), BTreeSet::new());
        Self { checkpoint, resolved, pieces, used, reasons, dispensable, refused }
    }

    /// Indices of pieces that are still free.
    pub fn free(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.pieces.len()).filter(|at| !self.used[*at] && self.pieces[*at].barred.is_none())
    }

    /// Free pieces by key, in the order of names.
    pub fn by_key(&self) -> BTreeMap<Key, Vec<usize>> {
        let mut keys = BTreeMap::<Key, Vec<usize>>::new();
        for at in self.free() {
            keys.entry(self.pieces[at].key.clone()).or_default().push(at);
        }
        keys
    }

    /// Whether a loader would load a piece that is left, or miss it. In doubt it would.
    fn is_loaded(&self, at: usize, other: &str, paired: &BTreeSet<&Key>) -> bool {
        let piece = &self.pieces[at];
        let unreadable = self.checkpoint.tensors.get(&piece.tensor).is_some_and(|entry| entry.is_unreadable());
        if unreadable || piece.barred.is_some() || paired.contains(&piece.key) {
            return true;
        }
        if self.dispensable.contains(&at) || piece.key.layer.is_some_and(|layer| self.resolved.is_draft(layer)) {
            return false;
        }
        let part_of_model = piece.role.layer.is_some()
            || matches!(piece.role.kind, Kind::Writer | Kind::Reader | Kind::Embedding | Kind::Norm);
        // What the base has outside of its text decoder, or the candidate adds to it, stands beside the model compared:
        // a vision tower, a head for classes. A piece that does not fit its counterpart is another matter.
        let beside = !piece.known && !part_of_model && !self.reasons.contains_key(&at);
        if other == "base" { !beside && (part_of_model || self.reasons.contains_key(&at)) } else { !beside }
    }

    /// What is left, as unpaired: whole tensors where nothing of them was used, else the pieces by name.
    fn unpaired(&self, other: &str) -> Vec<Unpaired> {
        let mut touched = BTreeSet::new();
        for (at, piece) in self.pieces.iter().enumerate() {
            if self.used[at] {
                touched.insert(piece.source);
            }
        }
        let keys: BTreeSet<&Key> =
            self.pieces.iter().enumerate().filter(|(at, _)| self.used[*at]).map(|(_, piece)| &piece.key).collect();
        let mut list = self.refused.clone();
        let mut seen = BTreeSet::new();
        for (at, piece) in self.pieces.iter().enumerate() {
            if self.used[at] {
                continue;
            }
            let reason = piece.barred.clone().or_else(|| self.reasons.get(&at).cloned());
            let reason = reason.unwrap_or_else(|| format!("not in the {other}"));
            let loaded = self.is_loaded(at, other, &keys);
            let tensor = if touched.contains(&piece.source) {
                piece.name.clone()
            } else if seen.insert(piece.source) {
                piece.tensor.clone()
            } else {
                continue;
            };
            list.push(Unpaired { tensor, reason, loaded });
        }
        list.sort();
        list
    }
}

/// The state of one pairing.
pub struct State<'a> {
    /// The base.
    pub base: Side<'a>,
    /// The candidate.
    pub candidate: Side<'a>,
    /// Pairs so far, with the indices of their pieces.
    pub pairs: Vec<(usize, usize, Pair)>,
    /// Notes so far.
    pub notes: Vec<String>,
}

impl State<'_> {
    /// Pairs two free pieces if their shapes allow; else notes why on both.
    pub fn try_pair(&mut self, base: usize, candidate: usize) -> bool {
        let (Some(first), Some(second)) = (self.base.pieces.get(base), self.candidate.pieces.get(candidate)) else {
            return false;
        };
        let mut second = second.clone();
        if let Some(reason) = self.unreadable(first, &second) {
            // One account for both: its shape is not known, so that nothing else could be paired with it either.
            self.base.pieces[base].barred = Some(reason);
            self.candidate.used[candidate] = true;
            return false;
        }
        let same = first.rows == second.rows && first.columns == second.columns;
        let vocabulary = matches!(first.role.kind, Kind::Embedding | Kind::Head)
            && first.key.parameter == Parameter::Weight
            && first.columns == second.columns
            && !first.vector;
        let count = |piece: &Piece| piece.rows.checked_mul(piece.columns);
        let thin = |piece: &Piece| piece.vector || piece.rows == 1 || piece.columns == 1;
        let flat = |piece: &Piece| piece.order.is_none() && piece.column_order.is_none() && piece.stride.is_none();
        let mut rows = first.rows;
        if same {
            second.vector = first.vector;
        } else if vocabulary && first.rows.min(second.rows) > 0 {
            rows = first.rows.min(second.rows);
            let more = if second.rows > first.rows { "grown" } else { "cut" };
            self.notes.push(format!(
                "{}: vocabulary {more} from {} to {} rows; the first {rows} are compared",
                first.name, first.rows, second.rows
            ));
        } else if first.rows == second.columns
            && first.columns == second.rows
            && first.order.is_none()
            && second.order.is_none()
            && second.stride.is_none()
            && second.column_order.is_none()
            && !thin(first)
        {
            second.transposed = !second.transposed;
            (second.rows, second.columns) = (first.rows, first.columns);
            self.notes.push(format!("{}: the candidate stores the transpose", first.name));
        } else if thin(first) && thin(&second) && count(first) == count(&second) && flat(first) && flat(&second) {
            second = Piece { vector: first.vector, rows: first.rows, columns: first.columns, ..second };
            second.transposed = first.transposed;
        } else {
            let reason =
                format!("shape {} × {} against {} × {}", first.rows, first.columns, second.rows, second.columns);
            self.base.reasons.insert(base, reason.clone());
            self.candidate.reasons.insert(candidate, reason);
            return false;
        }
        match piece::join(first, &second, rows) {
            Some(pair) => {
                self.base.used[base] = true;
                self.candidate.used[candidate] = true;
                self.pairs.push((base, candidate, pair));
                true
            }
            None => {
                let reason = "the two layouts cannot be brought together".to_owned();
                self.base.reasons.insert(base, reason.clone());
                self.candidate.reasons.insert(candidate, reason);
                false
            }
        }
    }

    /// Why two pieces cannot be compared where one of them is known by name alone.
    fn unreadable(&self, base: &Piece, candidate: &Piece) -> Option<String> {
        let why = |side: &Side<'_>, piece: &Piece| match &side.checkpoint.tensors.get(&piece.tensor)? {
            TensorEntry { storage: Storage::Unreadable(reason), shape, .. } if *shape == [0] => Some(reason.clone()),
            _ => None,
        };
        let candidates = why(&self.candidate, candidate).map(|reason| format!("in the candidate: {reason}"));
        candidates.or_else(|| Some(format!("in the base: {}", why(&self.base, base)?)))
    }

    /// Pairs free pieces with one key on both sides; among several of one key, equal tensor names first.
    pub fn by_key(&mut self) {
        let candidates = self.candidate.by_key();
        for (key, bases) in self.base.by_key() {
            let Some(others) = candidates.get(&key) else { continue };
            let mut others: Vec<usize> = others.clone();
            let mut rest = Vec::new();
            for base in bases {
                let name = &self.base.pieces[base].tensor;
                match others.iter().position(|other| self.candidate.pieces[*other].tensor == *name) {
                    Some(at) => {
                        let other = others.remove(at);
                        self.try_pair(base, other);
                    }
                    None => rest.push(base),
                }
            }
            for (base, other) in rest.into_iter().zip(others) {
                self.try_pair(base, other);
            }
        }
    }
}

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
    let mut state = State {
        base: Side::new(base, base_resolved),
        candidate: Side::new(candidate, candidate_resolved),
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

    let State { base: base_side, candidate: candidate_side, mut pairs, mut notes } = state;
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
fn tie_heads(state: &mut State<'_>) -> Vec<Pair> {
    let find = |side: &Side<'_>, slot: &str, free: bool| {
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
                    arch::Facts::read(&state.candidate.checkpoint.config, &state.candidate.checkpoint.metadata).tied;
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
fn is_shared_embedding(key: &Key) -> bool {
    key.slot.ends_with(".embed_tokens") && key.layer.is_none() && key.parameter == Parameter::Weight
}

/// Deals with copies of an embedding that an encoder and a decoder share: files keep one, two or all three. What only
/// the candidate has is compared with a copy of the base's.
fn tie_embeddings(state: &mut State<'_>) -> Vec<Pair> {
    let all = |side: &Side<'_>| -> Vec<usize> {
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
fn explain(state: &mut State<'_>) {
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
