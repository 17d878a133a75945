//! One stored tensor of a quantised group, and the small arithmetic that all schemes share.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::source::ByteSource;
use crate::tensor::levels::CodedLevel;
use crate::tensor::{self, DType, DTypeFamily};

/// A plainly stored tensor.
#[derive(Clone)]
pub(super) struct PlainTensor {
    source: Arc<dyn ByteSource>,
    range: Range<u64>,
    /// Its dtype.
    pub dtype: &'static DType,
    /// Its shape.
    pub shape: Vec<u64>,
}

impl PlainTensor {
    /// The tensor of that name; why not, where not.
    pub fn of(checkpoint: &Checkpoint, name: &str) -> Result<Self, String> {
        let entry = checkpoint.tensors.get(name).ok_or_else(|| format!("its part {name} is missing"))?;
        match &entry.storage {
            Storage::Plain => {}
            Storage::Unreadable(reason) => return Err(format!("its part {name} cannot be read: {reason}")),
            Storage::Packed(_) => return Err(format!("its part {name} is not stored in a row")),
        }
        let file = checkpoint.files.get(entry.file).ok_or_else(|| format!("its part {name} is in no file"))?;
        if entry.dtype.bytes_of(entry.elements()) != Some(entry.range.end - entry.range.start) {
            return Err(format!("its part {name} has a wrong size"));
        }
        let (source, range) = (Arc::clone(&file.source), entry.range.clone());
        Ok(Self { source, range, dtype: entry.dtype, shape: entry.shape.clone() })
    }

    /// The tensor of that name if it is there at all.
    pub fn optional(checkpoint: &Checkpoint, name: &str) -> Result<Option<Self>, String> {
        if checkpoint.tensors.contains_key(name) { Self::of(checkpoint, name).map(Some) } else { Ok(None) }
    }

    /// Both sizes of a matrix.
    pub fn matrix(&self, what: &str) -> Result<(u64, u64), String> {
        match self.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(format!("its {what} have shape {:?}, not that of a matrix", self.shape)),
        }
    }

    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// All bytes.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.source.read(self.range.clone())
    }

    /// Bytes `first .. first + count` of the tensor.
    pub fn bytes_at(&self, first: u64, count: u64) -> Result<Cow<'_, [u8]>> {
        let start = self.range.start.saturating_add(first);
        let end = start.saturating_add(count);
        if end > self.range.end {
            return Err(outside(self.source.name()));
        }
        self.source.read(start..end)
    }

    /// Elements `first .. first + count` as numbers (of dtypes with one element a block).
    pub fn values(&self, first: u64, count: u64) -> Result<Vec<f32>> {
        let mut out = vec![0.0; count as usize];
        self.values_into(first, &mut out)?;
        Ok(out)
    }

    /// Elements `first ..` as numbers into `out`.
    pub fn values_into(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let width = self.dtype.bytes as u64;
        let bytes = self.bytes_at(first.saturating_mul(width), (out.len() as u64).saturating_mul(width))?;
        (self.dtype.decode)(&bytes, out);
        Ok(())
    }

    /// All of it as numbers.
    pub fn all(&self) -> Result<Vec<f32>> {
        self.values(0, self.elements())
    }

    /// All its numbers, and those of what stands beside it; for scales that are floats of 16 bits and more.
    pub fn free(&self, beside: Option<&Self>) -> Result<Option<Vec<f32>>> {
        if !self.is_float() || self.dtype.bytes < 2 {
            return Ok(None);
        }
        let mut numbers = self.all()?;
        if let Some(beside) = beside {
            numbers.extend(beside.all()?);
        }
        Ok(Some(numbers))
    }

    /// One number out of the tensor's bytes.
    pub fn value(&self, bytes: &[u8], index: usize) -> f32 {
        let width = self.dtype.bytes;
        let mut value = [0.0];
        (self.dtype.decode)(bytes.get(index * width..(index + 1) * width).unwrap_or_default(), &mut value);
        value[0]
    }

    /// Whether its numbers are floats with at least the range of binary16.
    pub fn is_float(&self) -> bool {
        self.dtype.family == DTypeFamily::Float && self.dtype.block == 1
    }

    /// The dtype that weights with such scales are computed in: theirs, unless it is a mere format of scales.
    pub fn weight_dtype(&self) -> &'static DType {
        match self.dtype.name {
            "F16" | "BF16" => self.dtype,
            _ => &tensor::BF16,
        }
    }
}

/// The error for an index that the checks of the group should have kept away.
pub(super) fn outside(name: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("reading a quantised tensor of {name} outside its shape"))
}

/// The `index`-th code of `bits` bits in a stream of little-endian 32-bit words, of which `word` yields the n-th.
#[inline(always)]
pub(super) fn code(word: impl Fn(usize) -> u32, index: usize, bits: u32) -> u32 {
    let at = index * bits as usize;
    let (first, shift) = (at / 32, (at % 32) as u32);
    let low = word(first) >> shift;
    let have = 32 - shift;
    let value = if have < bits { low | word(first + 1) << have } else { low };
    value & ((1 << bits) - 1)
}

/// The `index`-th little-endian 32-bit word, 0 beyond the end.
#[inline(always)]
pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Calls `each` with row, first column and numbers for every piece of a row in a run of elements.
pub(super) fn by_rows<T>(
    columns: u64,
    first: u64,
    out: &mut [T],
    mut each: impl FnMut(usize, usize, &mut [T]) -> Result<()>,
) -> Result<()> {
    if columns == 0 {
        return Ok(());
    }
    let columns = columns as usize;
    let mut at = first as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let (row, from) = (at / columns, at % columns);
        let (piece, tail) = rest.split_at_mut(rest.len().min(columns - from));
        at += piece.len();
        rest = tail;
        each(row, from, piece)?;
    }
    Ok(())
}

/// By how much of itself a number moves whose scale is stored in BF16, or that was divided by one in that dtype.
pub(super) const COARSE: f32 = 1.0 / 256.0;

/// The level of an affine code, (code - zero) · scale, among those that so many bits have.
pub(super) fn affine_level(stored: u32, bits: u32, scale: f32, zero: f32) -> CodedLevel {
    let number = |code: u32| (code as f32 - zero) * scale;
    CodedLevel::of_code(stored, (1 << bits) - 1, COARSE * number(stored).abs(), number)
}
/// The same of scales that are kept in binary16 or finer.
pub(super) const FINE: f32 = 1.0 / 1024.0;

/// The numbers that codes stand for, ascending, each once.
pub(super) fn ascending(numbers: &[f32]) -> Vec<f32> {
    let mut numbers: Vec<f32> = numbers.iter().copied().filter(|number| number.is_finite()).collect();
    numbers.sort_by(f32::total_cmp);
    numbers.dedup();
    numbers
}

/// The numbers of a dtype with one byte an element, by their codes.
pub(super) fn of_bytes(dtype: &DType) -> Vec<f32> {
    let mut numbers = vec![0.0; 256];
    (dtype.decode)(&(0..=255).collect::<Vec<u8>>(), &mut numbers);
    numbers
}
