//! What the passes of pairing work on: the pieces of both sides that are left, and the pairs that were made of others.

use std::collections::{BTreeMap, BTreeSet};

use super::piece::{self, Piece};
use super::{Pair, Unpaired};
use crate::arch::{Kind, Parameter, ParameterKey, ResolvedArchitecture};
use crate::checkpoint::{Checkpoint, Storage, TensorEntry};

/// One side while it is being matched: pieces leave it as they are paired.
pub struct PairedSide<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// How its names are read.
    pub resolved: ResolvedArchitecture,
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

impl<'a> PairedSide<'a> {
    pub fn new(checkpoint: &'a Checkpoint, resolved: ResolvedArchitecture) -> Self {
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
    pub fn by_key(&self) -> BTreeMap<ParameterKey, Vec<usize>> {
        let mut keys = BTreeMap::<ParameterKey, Vec<usize>>::new();
        for at in self.free() {
            keys.entry(self.pieces[at].key.clone()).or_default().push(at);
        }
        keys
    }

    /// Whether a loader would load a piece that is left, or miss it. In doubt it would.
    fn is_loaded(&self, at: usize, other: &str, paired: &BTreeSet<&ParameterKey>) -> bool {
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
    pub fn unpaired(&self, other: &str) -> Vec<Unpaired> {
        let mut touched = BTreeSet::new();
        for (at, piece) in self.pieces.iter().enumerate() {
            if self.used[at] {
                touched.insert(piece.source);
            }
        }
        let keys: BTreeSet<&ParameterKey> =
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
pub struct PairingState<'a> {
    /// The base.
    pub base: PairedSide<'a>,
    /// The candidate.
    pub candidate: PairedSide<'a>,
    /// Pairs so far, with the indices of their pieces.
    pub pairs: Vec<(usize, usize, Pair)>,
    /// Notes so far.
    pub notes: Vec<String>,
}

impl PairingState<'_> {
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
        let why = |side: &PairedSide<'_>, piece: &Piece| match &side.checkpoint.tensors.get(&piece.tensor)? {
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
