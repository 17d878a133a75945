//! Fused projections on one side, split ones on the other: the fused one is taken apart by row ranges.

use super::piece::Piece;
use super::state::{PairedSide, PairingState};
use crate::arch::ParameterKey;

/// Fused slots and their parts, in common row order.
const FUSED: &[(&str, &[&str])] = &[
    ("qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("gate_up_proj", &["gate_proj", "up_proj"]),
    ("linear.in_proj_qkvz", &["linear.in_proj_qkv", "linear.in_proj_z"]),
];

/// Takes apart what is fused on one side only, then pairs the parts.
pub fn split(state: &mut PairingState<'_>) {
    let base = apart(&mut state.base, &state.candidate);
    let candidate = apart(&mut state.candidate, &state.base);
    if base + candidate > 0 {
        state.by_key();
    }
}

/// The parts of a slot, with its own prefix (`shared.gate_up_proj` gives `shared.gate_proj`).
fn parts_of(slot: &str) -> Option<Vec<String>> {
    FUSED.iter().find_map(|(fused, parts)| {
        let prefix = slot.strip_suffix(fused)?;
        (prefix.is_empty() || prefix.ends_with('.'))
            .then(|| parts.iter().map(|part| format!("{prefix}{part}")).collect())
    })
}

fn apart(side: &mut PairedSide<'_>, other: &PairedSide<'_>) -> usize {
    let available = other.by_key();
    let mut count = 0;
    let free: Vec<usize> = side.free().collect();
    for at in free {
        let Some(piece) = side.pieces.get(at) else { continue };
        let Some(slots) = parts_of(&piece.key.slot) else { continue };
        let counterparts: Vec<Option<&Piece>> = slots
            .iter()
            .map(|slot| {
                let key = ParameterKey { slot: slot.clone(), ..piece.key.clone() };
                available.get(&key).and_then(|found| found.first()).and_then(|at| other.pieces.get(*at))
            })
            .collect();
        if counterparts.iter().all(Option::is_none) {
            continue;
        }
        match cut(piece, &slots, &counterparts) {
            Some(parts) => {
                count += 1;
                side.used[at] = true;
                side.used.extend(parts.iter().map(|_| false));
                side.pieces.extend(parts);
            }
            None => {
                let reason =
                    format!("fused {} × {}, which its counterparts do not add up to", piece.rows, piece.columns);
                side.reasons.insert(at, reason);
            }
        }
    }
    count
}

/// Cuts by the heights of the counterparts; what one of them lacks is the rest.
fn cut(piece: &Piece, slots: &[String], counterparts: &[Option<&Piece>]) -> Option<Vec<Piece>> {
    let known: u64 = counterparts.iter().flatten().try_fold(0u64, |sum, part| sum.checked_add(part.rows))?;
    let missing = counterparts.iter().filter(|part| part.is_none()).count() as u64;
    let rest = piece.rows.checked_sub(known)?;
    let each = match missing {
        0 if rest == 0 => 0,
        0 => return None,
        _ if rest.is_multiple_of(missing) => rest / missing,
        _ => return None,
    };
    let mut start = 0;
    let mut parts = Vec::new();
    for (slot, counterpart) in slots.iter().zip(counterparts) {
        let rows = counterpart.map_or(each, |part| part.rows);
        parts.push(piece.part(start, rows, slot)?);
        start += rows;
    }
    Some(parts)
}
