//! Direction packs: unit vectors under the names of writers, and no weights. What takes a direction out of a model when
//! it is loaded, or at each request, is published so.

use super::collect::{Anomalies, shown};
use super::{Checkpoint, Storage, TensorEntry, anomaly};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MAX_PACK_NUMBERS, MAX_PACK_TENSORS};
use crate::tensor::DTypeFamily;

/// Numbers from which a vector may be a direction; shorter ones are coefficients, counts, maps of layers.
const SHORTEST: u64 = 16;
/// Vectors in one tensor: one a layer, or those of a subspace.
const IN_ONE: u64 = 256;
/// How far the length of a vector that was stored in 16 bits is from one.
const OFF_UNIT: f64 = 0.01;

/// Tells of a checkpoint that it is nothing but directions.
pub(super) fn note(checkpoint: &mut Checkpoint) {
    let Some(told) = told(checkpoint) else { return };
    let file = checkpoint.files.first().map_or(String::new(), |file| file.name.clone());
    let mut anomalies = Anomalies::default();
    anomalies.file(anomaly::DIRECTIONS_ONLY, &file, told);
    checkpoint.anomalies.extend(anomalies.finish());
    checkpoint.anomalies.sort();
}

/// An error for a checkpoint that is nothing but directions: there is nothing to compare.
pub fn refuse(checkpoint: &Checkpoint) -> Result<()> {
    match checkpoint.anomalies.iter().find(|anomaly| anomaly.is(anomaly::DIRECTIONS_ONLY)) {
        None => Ok(()),
        Some(only) => {
            let doing = format!("{}: directions, no weights: nothing to compare; {}", only.file, only.detail);
            Err(Error::new(ErrorKind::Unsupported, doing))
        }
    }
}

/// What directions there are, in a clause; `None` where anything else is there too.
fn told(checkpoint: &Checkpoint) -> Option<String> {
    if checkpoint.tensors.len() > MAX_PACK_TENSORS {
        return None;
    }
    let numbers = checkpoint.tensors.values().map(TensorEntry::elements).fold(0, u64::saturating_add);
    let packs = checkpoint.tensors.values().filter(|entry| entry.elements() >= SHORTEST);
    let packs: Vec<(&TensorEntry, u64)> = packs.map(|entry| Some((entry, width(entry)?))).collect::<Option<_>>()?;
    if packs.is_empty() || numbers > MAX_PACK_NUMBERS {
        return None;
    }
    let mut vectors = 0;
    for (entry, width) in &packs {
        let mut values = vec![0.0; usize::try_from(entry.elements()).ok()?];
        checkpoint.decode(entry, 0, &mut values).ok()?;
        for vector in values.chunks(usize::try_from(*width).ok()?) {
            let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            // What is no number is no length either.
            let is_unit = (length - 1.0).abs() <= OFF_UNIT;
            if !is_unit {
                return None;
            }
            vectors += 1;
        }
    }
    let widths: std::collections::BTreeSet<u64> = packs.iter().map(|(_, width)| *width).collect();
    let widths: Vec<String> = widths.into_iter().map(|width| width.to_string()).collect();
    let named: Vec<String> = packs.iter().take(3).map(|(entry, _)| shown(&entry.name)).collect();
    let more = match packs.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let unit = if vectors == 1 { "unit vector" } else { "unit vectors" };
    Some(format!("{vectors} {unit} of {} numbers under {}{more}", widths.join(" and "), named.join(", ")))
}

/// Numbers of one vector of a tensor that may hold directions: floats, a vector or a few.
fn width(entry: &TensorEntry) -> Option<u64> {
    let readable = !matches!(entry.storage, Storage::Unreadable(_)) && entry.dtype.family == DTypeFamily::Float;
    let lead = entry.shape.iter().rev().skip(1).try_fold(1u64, |product, size| product.checked_mul(*size))?;
    let width = entry.shape.last().copied()?;
    (readable && !entry.is_quantized() && width >= SHORTEST && lead <= IN_ONE).then_some(width)
}
