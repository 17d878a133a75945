//! One tensor name in several files of a checkpoint: copies, slices of one matrix, or a contradiction.
//!
//! Meta publishes Llama as `consolidated.00.pth`, `consolidated.01.pth`, …: every file has every name, and most tensors
//! are slices, cut as `fairscale`'s parallel layers cut them. `ColumnParallelLinear` (wq, wk, wv, w1, w3, output) cuts
//! rows, `RowParallelLinear` (wo, w2) cuts columns, embeddings are cut along columns in Llama 1 and 2 and along rows in
//! Llama 3, and norms are in every file whole. Those are joined. Anything else that stands in two files with different
//! content cannot be read: loaders do not agree on which of the two counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::collect::Anomalies;
use super::shards::split_folder;
use super::{CheckpointFile, Decode, Packing, Storage, TensorEntry, anomaly, decode_plain};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_COMPARED_BYTES;
use crate::source::ByteSource;

/// The number of a file of a model cut for several devices (`consolidated.03`), from its stem.
pub(crate) fn slice_number(stem: &str) -> Option<u32> {
    let digits = stem.strip_prefix("consolidated.")?;
    (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Settles every name that several files hold: `repeated` are the tensors whose names a later file holds too.
pub(super) fn settle(
    files: &[CheckpointFile],
    tensors: &mut Tensors,
    anomalies: &mut Anomalies,
    repeated: BTreeMap<String, Vec<TensorEntry>>,
) {
    let numbers: Option<Vec<u32>> = files
        .iter()
        .map(|file| slice_number(split_folder(&file.name).1.rsplit_once('.').map_or("", |(stem, _)| stem)))
        .collect();
    match numbers.filter(|numbers| numbers.len() > 1) {
        Some(numbers) => parallel(files, tensors, anomalies, repeated, &numbers),
        None => copies(files, tensors, anomalies, repeated),
    }
}

type Tensors = BTreeMap<String, TensorEntry>;

/// A model cut for several devices.
fn parallel(
    files: &[CheckpointFile],
    tensors: &mut Tensors,
    anomalies: &mut Anomalies,
    mut repeated: BTreeMap<String, Vec<TensorEntry>>,
    numbers: &[u32],
) {
    let first = files.first().map_or("", |file| file.name.as_str());
    let count = files.len();
    let complete = numbers.iter().enumerate().all(|(at, number)| at as u32 == *number);
    if complete {
        anomalies.file(anomaly::MODEL_PARALLEL, first, format!("the model is cut into the slices of {count} files"));
    } else {
        let detail = format!(
            "the model is cut into slices, and of files 0 to {} some are missing",
            numbers.iter().max().unwrap_or(&0)
        );
        anomalies.file(anomaly::MISSING_SHARD, first, detail);
    }
    // Norms are in every file whole, so their length is the model's width.
    let width = tensors.get("norm.weight").filter(|norm| norm.shape.len() == 1).map(TensorEntry::elements);
    let mut spent = 0;
    for (name, entry) in tensors.iter_mut() {
        let mut slices = repeated.remove(name).unwrap_or_default();
        slices.push(entry.clone());
        slices.sort_by_key(|slice| slice.file);
        let joined = if !complete {
            Err("a slice of it is missing".to_owned())
        } else if slices.len() != count || slices.windows(2).any(|two| two[0].file == two[1].file) {
            Err(format!("it is in {} of the {count} files that the model is cut into", slices.len()))
        } else {
            join(files, name, &slices, width, &mut spent)
        };
        match joined {
            Ok(joined) => *entry = joined,
            Err(reason) => {
                anomalies.tensor(anomaly::UNREAD_SLICES, first, name, reason.clone());
                entry.storage = Storage::Unreadable(reason);
            }
        }
    }
}

/// The whole of which these are the slices, in the order of their files.
fn join(
    files: &[CheckpointFile],
    name: &str,
    slices: &[TensorEntry],
    width: Option<u64>,
    spent: &mut u64,
) -> Result<TensorEntry, String> {
    let Some(first) = slices.first() else { return Err("it has no slice".to_owned()) };
    if let Some(reason) = slices.iter().find_map(|slice| match &slice.storage {
        Storage::Unreadable(reason) => Some(reason),
        _ => None,
    }) {
        return Err(reason.clone());
    }
    let shapes = || slices.iter().map(|slice| format!("{:?}", slice.shape)).collect::<Vec<_>>().join(", ");
    let unclear = || format!("it is cut into slices of shapes {}, and how is not certain", shapes());
    if slices.iter().any(TensorEntry::is_quantized) {
        return Err("its slices are quantised".to_owned());
    }
    if slices.iter().any(|slice| slice.dtype != first.dtype) {
        return Err("its slices are of different dtypes".to_owned());
    }
    let of_layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')).map(|(_, part)| part);
    let whole = matches!(name, "norm.weight" | "rope.freqs")
        || matches!(
            of_layer,
            Some("attention_norm.weight" | "ffn_norm.weight" | "attention.inner_attention.rope.freqs")
        );
    if whole {
        return if slices.iter().all(|slice| equal(files, first, slice, spent)) {
            Ok(first.clone())
        } else {
            Err("the files that the model is cut into do not agree on it".to_owned())
        };
    }
    let count = slices.len() as u64;
    let (&[rows, columns], Some(width)) = (first.shape.as_slice(), width) else { return Err(unclear()) };
    let axis = match (name, of_layer) {
        ("output.weight", _) if columns == width => 0,
        (
            _,
            Some(
                "attention.wq.weight"
                | "attention.wk.weight"
                | "attention.wv.weight"
                | "feed_forward.w1.weight"
                | "feed_forward.w3.weight",
            ),
        ) if columns == width => 0,
        (_, Some("attention.wo.weight" | "feed_forward.w2.weight")) if rows == width => 1,
        ("tok_embeddings.weight", _) if columns == width => 0,
        ("tok_embeddings.weight", _) if columns.checked_mul(count) == Some(width) => 1,
        _ => return Err(unclear()),
    };
    let kept = 1 - axis;
    if slices.iter().any(|slice| slice.shape.len() != 2 || slice.shape[kept] != first.shape[kept]) {
        return Err(unclear());
    }
    let sum = slices.iter().try_fold(0u64, |sum, slice| sum.checked_add(slice.shape[axis])).ok_or_else(unclear)?;
    let mut shape = first.shape.clone();
    shape[axis] = sum;
    shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size)).ok_or_else(unclear)?;
    let parts: Option<Vec<Slice>> = slices
        .iter()
        .map(|slice| Some(Slice { source: Arc::clone(&files.get(slice.file)?.source), entry: slice.clone() }))
        .collect();
    let decoder = Joined { parts: parts.ok_or_else(unclear)?, axis, columns: shape[1] };
    Ok(TensorEntry { shape, storage: Storage::Packed(Arc::new(decoder)), ..first.clone() })
}

/// Names that two files hold and that are no slices: equal copies are one tensor, others cannot be read.
fn copies(
    files: &[CheckpointFile],
    tensors: &mut Tensors,
    anomalies: &mut Anomalies,
    repeated: BTreeMap<String, Vec<TensorEntry>>,
) {
    let mut spent = 0;
    for (name, others) in repeated {
        let Some(entry) = tensors.get_mut(&name) else { continue };
        let file = |entry: &TensorEntry| files.get(entry.file).map_or("", |file| file.name.as_str());
        let elsewhere = others.iter().map(file).collect::<Vec<_>>().join(", ");
        let same = others.iter().all(|other| equal(files, other, entry, &mut spent));
        let detail = if same {
            format!("also in {elsewhere}, with the same content")
        } else {
            format!(
                "also in {elsewhere}, with other content or too large to tell; loaders do not agree on which counts"
            )
        };
        anomalies.tensor(anomaly::DUPLICATE_TENSOR, file(entry), &name, detail);
        if !same {
            let reason = format!("it is in {elsewhere} and {}, and these are not shown to be the same", file(entry));
            entry.storage = Storage::Unreadable(reason);
        }
    }
}

/// Whether two plain tensors have the same bytes, as far as the budget of one checkpoint goes.
fn equal(files: &[CheckpointFile], one: &TensorEntry, other: &TensorEntry, spent: &mut u64) -> bool {
    let same_place = one.file == other.file && one.range == other.range;
    let alike = one.shape == other.shape && one.dtype == other.dtype;
    if !alike || !matches!((&one.storage, &other.storage), (Storage::Plain, Storage::Plain)) {
        return false;
    }
    *spent = spent.saturating_add(one.range.end.saturating_sub(one.range.start));
    let bytes = |entry: &TensorEntry| files.get(entry.file)?.source.read(entry.range.clone()).ok();
    same_place || *spent <= MAX_COMPARED_BYTES && bytes(one).is_some_and(|bytes_of| bytes(other) == Some(bytes_of))
}

/// One slice.
struct Slice {
    source: Arc<dyn ByteSource>,
    entry: TensorEntry,
}

impl Slice {
    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        match &self.entry.storage {
            Storage::Plain => decode_plain(self.source.as_ref(), &self.entry, first, out),
            Storage::Packed(packed) => packed.decode(first, out),
            Storage::Unreadable(reason) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("reading a slice of {} of {}: {reason}", self.entry.name, self.source.name()),
            )),
        }
    }
}

/// Matrices put together along rows (axis 0) or columns (axis 1).
struct Joined {
    parts: Vec<Slice>,
    axis: usize,
    columns: u64,
}

impl Decode for Joined {
    fn scheme(&self) -> &str {
        "slices"
    }

    fn packing(&self) -> Packing {
        Packing::Layout
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let end = first.saturating_add(out.len() as u64);
        // Rows follow one another as they are; columns are dealt out row by row.
        let runs = if self.axis == 0 { 0..1 } else { first / self.columns.max(1)..end.div_ceil(self.columns.max(1)) };
        for row in runs {
            let mut start = if self.axis == 0 { 0 } else { row * self.columns };
            for part in &self.parts {
                let length = if self.axis == 0 { part.entry.elements() } else { part.entry.shape[1] };
                let (from, to) = (first.max(start), end.min(start + length));
                if from < to {
                    let inside = if self.axis == 0 { 0 } else { row * length } + (from - start);
                    let piece = out.get_mut((from - first) as usize..(to - first) as usize).unwrap_or_default();
                    part.decode(inside, piece)?;
                }
                start += length;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Bytes;
    use crate::tensor::F32;

    fn slice(file: usize, shape: &[u64], values: &[f32]) -> (CheckpointFile, TensorEntry) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let entry = TensorEntry {
            name: "w".to_owned(),
            dtype: &F32,
            shape: shape.to_vec(),
            file,
            range: 0..bytes.len() as u64,
            storage: Storage::Plain,
        };
        let name = format!("consolidated.{file:02}.pth");
        let source: Arc<dyn ByteSource> = Arc::new(Bytes::new(name.clone(), bytes));
        (CheckpointFile { name, source, sha256: None, metadata: BTreeMap::new() }, entry)
    }

    fn whole(name: &str, width: u64, slices: &[(&[u64], &[f32])]) -> Result<(Vec<u64>, Vec<f32>), String> {
        let made: Vec<_> =
            slices.iter().enumerate().map(|(file, (shape, values))| slice(file, shape, values)).collect();
        let (files, entries): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let joined = join(&files, name, &entries, Some(width), &mut 0)?;
        let Storage::Packed(decoder) = &joined.storage else { return Ok((joined.shape.clone(), Vec::new())) };
        let mut out = vec![0.0; joined.elements() as usize];
        decoder.decode(0, &mut out).unwrap();
        for first in 0..out.len() {
            for last in first..out.len() {
                let mut piece = vec![0.0; last - first];
                decoder.decode(first as u64, &mut piece).unwrap();
                assert_eq!(piece, out[first..last], "{first}..{last}");
            }
        }
        Ok((joined.shape, out))
    }

    #[test]
    fn slices_are_joined_along_the_axis_they_were_cut_on() {
        let (a, b): (&[f32], &[f32]) = (&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        let two = [(&[2u64, 2][..], a), (&[2, 2], b)];
        assert_eq!(whole("layers.0.attention.wq.weight", 2, &two), Ok((vec![4, 2], [a, b].concat())));
        let beside = vec![1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0];
        assert_eq!(whole("layers.10.feed_forward.w2.weight", 2, &two), Ok((vec![2, 4], beside.clone())));
        assert_eq!(whole("tok_embeddings.weight", 4, &two), Ok((vec![2, 4], beside)), "Llama 1 and 2");
        assert_eq!(whole("tok_embeddings.weight", 2, &two), Ok((vec![4, 2], [a, b].concat())), "Llama 3");
    }

    #[test]
    fn what_is_cut_in_no_certain_way_is_not_joined() {
        let a: &[f32] = &[1.0, 2.0, 3.0, 4.0];
        let two = [(&[2u64, 2][..], a), (&[2, 2], a)];
        for (name, width) in [
            ("layers.0.attention.wq.weight", 3),
            ("layers.0.attention.wo.weight", 4),
            ("layers.0.experts.w1", 2),
            ("x", 2),
        ] {
            assert!(whole(name, width, &two).unwrap_err().contains("not certain"), "{name}");
        }
        let uneven = [(&[2u64, 2][..], a), (&[4, 1], a)];
        assert!(whole("layers.0.attention.wq.weight", 2, &uneven).is_err());
        assert!(whole("norm.weight", 4, &[(&[4], a), (&[4], &[1.0, 2.0, 3.0, 5.0])]).unwrap_err().contains("agree"));
        assert!(whole("norm.weight", 4, &[(&[4], a), (&[4], a)]).is_ok());
    }

    #[test]
    fn files_of_a_cut_model_are_told_by_their_names() {
        assert_eq!(slice_number("consolidated.03"), Some(3));
        for stem in ["consolidated", "consolidated.3", "consolidated.x1", "model.00", "consolidated.001"] {
            assert_eq!(slice_number(stem), None, "{stem}");
        }
    }
}
