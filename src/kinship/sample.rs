//! Takes the fingerprint of a checkpoint: a run of values of a few matrices of each block.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::fingerprint::{ENOUGH, Fingerprint, NAME_BYTES, SAMPLES, Sketch, SketchedSlot, cut};
use crate::arch::{self, Kind, Parameter, Parsed, ResolvedArchitecture};
use crate::checkpoint::adapter::Adapter;
use crate::checkpoint::{Checkpoint, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::limits::{MAX_SKETCHED_BLOCKS, MAX_SKETCHED_SLOTS};
use crate::pair::{Piece, View, pieces};

/// Matrices of a block that are sampled, the first ones present. q and k come late: their rows follow the frequencies
/// of the rotary embedding in every model, and converters reorder them.
const MATRICES: &[&str] = &[
    "o_proj",
    "down_proj",
    "out_proj",
    "up_proj",
    "v_proj",
    "gate_proj",
    "gate_up_proj",
    "qkv_proj",
    "q_proj",
    "k_proj",
];

/// Gains of a block of which one is sampled beside them, the first present.
const NORMS: &[&str] = &["pre_mlp_norm", "pre_attention_norm", "post_mlp_norm", "post_attention_norm"];

/// Rows of the embedding that are sampled: tokens are nearly all there is outside of the blocks.
const TOKENS: usize = 4;

/// Rows that an embedding's places are chosen among, where it has as many: a vocabulary is resized at its end.
const TOKEN_WINDOW: u64 = 1024;

/// The shortest run that is taken.
const SHORTEST: u64 = 16;

/// Codes for one standard deviation, and the standard deviations at which they are cut.
const CODES: f64 = 8000.0;
const CUT: f64 = 4.0;

/// Spread of a run, beside its largest value, below which it counts as constant.
const CONSTANT: f64 = 1e-6;

/// A fingerprint, and what it took.
#[derive(Debug, Clone)]
pub struct Fingerprinted {
    /// The fingerprint.
    pub fingerprint: Fingerprint,
    /// Bytes of the runs that were decoded, headers not counted.
    pub bytes_read: u64,
}

/// One run that is to be decoded.
struct Spot {
    slot: SketchedSlot,
    layer: Option<u32>,
    view: View,
    row: u64,
    column: u64,
}

/// Takes the fingerprint of a checkpoint. `Unsupported` for an adapter, which has no weights of a model, and where too
/// few matrices can be sampled.
pub fn fingerprint(checkpoint: &Checkpoint) -> Result<Fingerprinted> {
    let cannot = |why: &str| {
        Error::new(ErrorKind::Unsupported, format!("taking the fingerprint of {}: {why}", checkpoint.label))
    };
    if Adapter::of(checkpoint)?.is_some() {
        return Err(cannot("an adapter holds none of the weights that a model is known by"));
    }
    let resolved = arch::resolve_checkpoint(checkpoint);
    let (all, _) = pieces(checkpoint, &resolved);
    let blocks = Blocks::of(&all, &resolved);
    let mut slots: Vec<SketchedSlot> = Vec::new();
    let mut spots = blocks.spots();
    for spot in &spots {
        if slots.len() < MAX_SKETCHED_SLOTS && !slots.contains(&spot.slot) {
            slots.push(spot.slot.clone());
        }
    }
    spots.retain(|spot| slots.contains(&spot.slot));
    let bytes_read = prefetch(checkpoint, &spots);
    let codes: Vec<Option<Vec<i16>>> = spots.par_iter().map(|spot| decode(checkpoint, spot)).collect::<Result<_>>()?;
    let sketches: Vec<Sketch> = spots
        .iter()
        .zip(codes)
        .filter_map(|(spot, codes)| {
            let slot = slots.iter().position(|slot| *slot == spot.slot)?;
            Some(Sketch { slot: u16::try_from(slot).ok()?, layer: spot.layer, codes: codes? })
        })
        .collect();
    if sketches.len() < ENOUGH {
        return Err(cannot("too few of its matrices can be sampled"));
    }
    let fingerprint = Fingerprint {
        declared: cut(&resolved.facts.model_type).to_owned(),
        family: cut(&resolved.family).to_owned(),
        width: resolved.width.unwrap_or(0),
        layers: u32::try_from(blocks.blocks.len()).unwrap_or(u32::MAX),
        vocabulary: blocks.embedding.map_or(0, |piece| piece.rows),
        slots,
        sketches,
    };
    Ok(Fingerprinted { fingerprint, bytes_read })
}

/// The pieces that may be sampled, by block and slot.
#[derive(Default)]
struct Blocks<'a> {
    blocks: BTreeMap<u32, BTreeMap<String, &'a Piece>>,
    embedding: Option<&'a Piece>,
    last_norm: Option<&'a Piece>,
}

impl<'a> Blocks<'a> {
    fn of(all: &'a [Piece], resolved: &ResolvedArchitecture) -> Self {
        let mut blocks = Self::default();
        let usable = |piece: &&Piece| {
            // Of experts the first stands for all; biases are zero as often as not.
            matches!(piece.key.expert, None | Some(0))
                && piece.key.parameter == Parameter::Weight
                && piece.column_order.is_none()
        };
        for piece in all.iter().filter(usable) {
            match (piece.key.layer, piece.role.kind) {
                (Some(layer), Kind::Writer | Kind::Reader | Kind::Norm)
                    if !resolved.is_draft(layer) && piece.key.slot.len() <= NAME_BYTES =>
                {
                    blocks.blocks.entry(layer).or_default().entry(piece.key.slot.clone()).or_insert(piece);
                }
                (None, Kind::Embedding) => blocks.embedding = blocks.embedding.or(Some(piece)),
                (None, Kind::Norm) if piece.key.slot == "final_norm" => blocks.last_norm = Some(piece),
                _ => {}
            }
        }
        if blocks.blocks.is_empty() {
            blocks.encoder(all.iter().filter(usable));
        }
        blocks
    }

    /// The blocks of a model that the table takes for no text decoder: an encoder, a tower.
    fn encoder(&mut self, all: impl Iterator<Item = &'a Piece>) {
        for piece in all.filter(|piece| !piece.vector) {
            let parsed = Parsed::new(&piece.tensor, &[]);
            if let Some(layer) = parsed.layer.filter(|_| parsed.path.len() <= NAME_BYTES) {
                self.blocks.entry(layer).or_default().entry(parsed.path).or_insert(piece);
            }
        }
    }

    /// Every run to take. The deeper a model is, the fewer of each block, always the first ones of the same lists.
    fn spots(&self) -> Vec<Spot> {
        let (matrices, gains) = match self.blocks.len() {
            0..=100 => (3, 1),
            101..=200 => (2, 0),
            _ => (1, 0),
        };
        let mut spots = Vec::new();
        for (layer, slots) in self.blocks.iter().take(MAX_SKETCHED_BLOCKS) {
            let known = MATRICES.iter().filter_map(|name| slots.get_key_value(*name));
            let others = slots.iter().filter(|(name, _)| !MATRICES.contains(&name.as_str()));
            let all = known.chain(others).filter(|(_, piece)| !piece.vector && piece.role.kind != Kind::Norm);
            let spots_of_block = all.filter_map(|(name, piece)| spot(name, Some(*layer), piece, piece.rows));
            spots.extend(spots_of_block.take(matrices));
            let norms = NORMS.iter().filter_map(|name| slots.get_key_value(*name));
            spots.extend(norms.filter_map(|(name, piece)| spot(name, Some(*layer), piece, 1)).take(gains));
        }
        if let Some(piece) = self.embedding.filter(|piece| piece.rows > 0) {
            // The largest power of two: as good as never another one where rows were added or cut.
            let window = TOKEN_WINDOW.min(1 << piece.rows.ilog2());
            let draws = (0..TOKENS).filter_map(|draw| spot(&format!("embed_tokens.{draw}"), None, piece, window));
            spots.extend(draws);
        }
        spots.extend(self.last_norm.and_then(|piece| spot("final_norm", None, piece, 1)));
        spots
    }
}

/// The run of a piece: its place follows from slot and shape alone, the same for every block and every checkpoint.
fn spot(slot: &str, layer: Option<u32>, piece: &Piece, rows: u64) -> Option<Spot> {
    let view = piece.view();
    let samples = view.columns.min(SAMPLES as u64);
    if rows == 0 || rows > view.rows || samples < SHORTEST {
        return None;
    }
    let digest = Digest::of(format!("kinship/1 {slot} {rows} {}", view.columns).as_bytes());
    let draw = |at: usize, below: u64| {
        let bytes: [u8; 8] = digest.0.get(at..at + 8)?.try_into().ok()?;
        u64::from_le_bytes(bytes).checked_rem(below)
    };
    let (row, column) = (draw(0, rows)?, draw(8, view.columns - samples + 1)?);
    let samples = u8::try_from(samples).ok()?;
    let slot = SketchedSlot { slot: slot.to_owned(), rows, columns: view.columns, samples };
    Some(Spot { slot, layer, view, row, column })
}

/// Says which bytes will be read, so that a remote file fetches them together; returns how many they are.
fn prefetch(checkpoint: &Checkpoint, spots: &[Spot]) -> u64 {
    let mut wanted = BTreeMap::<usize, Vec<Range<u64>>>::new();
    let mut bytes = 0u64;
    for spot in spots {
        let Some(entry) = checkpoint.tensors.get(&spot.view.tensor) else { continue };
        let samples = u64::from(spot.slot.samples);
        let stored = entry.range.end.saturating_sub(entry.range.start);
        let length = (u128::from(stored) * u128::from(samples)).checked_div(u128::from(entry.elements()));
        bytes = bytes.saturating_add(u64::try_from(length.unwrap_or(0)).unwrap_or(u64::MAX));
        let flat = spot.view.row_order.is_none() && !spot.view.transposed && matches!(entry.storage, Storage::Plain);
        let run = || {
            let stride = spot.view.stride.unwrap_or(spot.view.columns);
            let first = spot.row.checked_mul(stride)?.checked_add(spot.view.offset)?.checked_add(spot.column)?;
            let block = entry.dtype.block as u64;
            let start = entry.range.start.checked_add(entry.dtype.bytes_of(first / block * block)?)?;
            let length = entry.dtype.bytes_of((first % block + samples).div_ceil(block) * block)?;
            Some(start..start.checked_add(length)?)
        };
        if let Some(run) = flat.then(run).flatten() {
            wanted.entry(entry.file).or_default().push(run);
        }
    }
    for (file, ranges) in &wanted {
        if let Some(file) = checkpoint.files.get(*file) {
            file.source.prefetch(ranges);
        }
    }
    bytes
}

/// The codes of a run; `None` where it tells nothing (constant, not finite) or cannot be read. What is no fault of the
/// one tensor is an error.
fn decode(checkpoint: &Checkpoint, spot: &Spot) -> Result<Option<Vec<i16>>> {
    let mut values = vec![0.0f32; usize::from(spot.slot.samples)];
    match spot.view.decode_run(checkpoint, spot.row, spot.column, &mut values) {
        Ok(()) => Ok(codes(&values)),
        Err(error) if is_of_all(error.kind) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether an error would meet every other tensor too.
const fn is_of_all(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Interrupted | ErrorKind::Network | ErrorKind::Io | ErrorKind::Budget | ErrorKind::Denied)
}

/// Values without their mean, in units of their spread.
pub(super) fn codes(values: &[f32]) -> Option<Vec<i16>> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let spread = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    let spread = spread.sqrt();
    let largest = values.iter().fold(0.0f64, |largest, value| largest.max(f64::from(value.abs())));
    if spread <= CONSTANT * largest || spread == 0.0 {
        return None;
    }
    let code = |value: &f32| (((f64::from(*value) - mean) / spread).clamp(-CUT, CUT) * CODES).round() as i16;
    Some(values.iter().map(code).collect())
}
