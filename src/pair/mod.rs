//! Which tensor of the candidate corresponds to which of the base, and through which view.

mod content;
mod fused;
mod layers;
mod leftover;
mod matching;
mod order;
mod piece;
#[cfg(test)]
mod properties;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use crate::arch::Role;
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::{Error, ErrorKind, Result};
pub(crate) use order::{Relative, relative};
pub(crate) use piece::{Piece, pieces};

/// A matrix inside a stored tensor: a slice, perhaps transposed or with rows in another order. A vector is one row.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The stored tensor's name.
    pub tensor: String,
    /// The first element of the slice in the stored tensor (row-major).
    pub offset: u64,
    /// Rows of the matrix, on both sides of a pair: as the base stores it, unless only the other way round it can be
    /// described (the role's residual axis is always that of the view).
    pub rows: u64,
    /// Columns of the matrix.
    pub columns: u64,
    /// Stored row for each row, where the order differs (llama.cpp permutes the rows of q and k).
    pub row_order: Option<Arc<[u32]>>,
    /// Whether the stored slice is the transpose: `columns` × `rows` in memory.
    pub transposed: bool,
    /// Elements from one stored row to the next, where the slice is a range of wider rows; `None`: they follow on.
    pub stride: Option<u64>,
    /// Added to every element after decoding (GGUF stores Gemma's norm gains with one added: -1 here).
    pub shift: f32,
}

impl View {
    /// The whole of a stored tensor as `rows` × `columns`.
    pub fn whole(tensor: impl Into<String>, rows: u64, columns: u64) -> Self {
        Self {
            tensor: tensor.into(),
            offset: 0,
            rows,
            columns,
            row_order: None,
            transposed: false,
            stride: None,
            shift: 0.0,
        }
    }

    /// Whether the view is a contiguous run of the stored tensor in its own order, so that bytes may be compared.
    pub fn is_contiguous(&self) -> bool {
        self.row_order.is_none() && !self.transposed && self.stride.is_none() && self.shift == 0.0
    }

    /// Elements in the view.
    pub fn elements(&self) -> u64 {
        self.rows * self.columns
    }

    fn entry<'c>(&self, checkpoint: &'c Checkpoint) -> Result<&'c TensorEntry> {
        checkpoint.tensors.get(&self.tensor).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{} has no tensor {}", checkpoint.label, self.tensor))
        })
    }

    /// Where a row of the view lies in the stored slice.
    fn stored_row(&self, row: u64) -> Result<u64> {
        let Some(order) = &self.row_order else { return Ok(row) };
        let stored = usize::try_from(row).ok().and_then(|row| order.get(row)).map(|row| u64::from(*row));
        stored.ok_or_else(|| Error::new(ErrorKind::Internal, format!("row order of {} is too short", self.tensor)))
    }

    /// Decodes part of one row: columns `first .. first + out.len()`.
    pub fn decode_run(&self, checkpoint: &Checkpoint, row: u64, first: u64, out: &mut [f32]) -> Result<()> {
        let entry = self.entry(checkpoint)?;
        let row = self.stored_row(row)?;
        if self.transposed {
            let stride = self.stride.unwrap_or(self.rows);
            for (column, out) in (first..).zip(out.iter_mut()) {
                checkpoint.decode(entry, self.offset + column * stride + row, std::slice::from_mut(out))?;
            }
        } else {
            let stride = self.stride.unwrap_or(self.columns);
            checkpoint.decode(entry, self.offset + row * stride + first, out)?;
        }
        if self.shift != 0.0 {
            out.iter_mut().for_each(|value| *value += self.shift);
        }
        Ok(())
    }

    /// Decodes rows `first .. first + out.len() / columns` into `out`, row-major.
    pub fn decode_rows(&self, checkpoint: &Checkpoint, first: u64, out: &mut [f32]) -> Result<()> {
        let entry = self.entry(checkpoint)?;
        let columns = self.columns as usize;
        if columns == 0 {
            return Ok(());
        }
        let row_of = |row: usize| self.stored_row(first + row as u64);
        if self.transposed {
            // Stored (columns, rows): one strided run per stored row. Slow path, met only where Conv1D meets Linear.
            let stride = self.stride.unwrap_or(self.rows);
            let rows = (0..out.len() / columns).map(row_of).collect::<Result<Vec<u64>>>()?;
            let (Some(low), Some(high)) = (rows.iter().min().copied(), rows.iter().max().copied()) else {
                return Ok(());
            };
            let mut run = vec![0.0f32; (high - low + 1) as usize];
            for column in 0..columns {
                checkpoint.decode(entry, self.offset + column as u64 * stride + low, &mut run)?;
                for (row, stored) in rows.iter().enumerate() {
                    out[row * columns + column] = run[(stored - low) as usize];
                }
            }
        } else if self.row_order.is_some() || self.stride.is_some() {
            let stride = self.stride.unwrap_or(self.columns);
            for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                checkpoint.decode(entry, self.offset + row_of(row)? * stride, out)?;
            }
        } else {
            checkpoint.decode(entry, self.offset + first * self.columns, out)?;
        }
        if self.shift != 0.0 {
            out.iter_mut().for_each(|value| *value += self.shift);
        }
        Ok(())
    }
}

/// Two matrices held to correspond.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The base's tensor name; for a stacked expert with its index, e.g. `….experts.down_proj[3]`.
    pub name: String,
    /// The part it plays.
    pub role: Role,
    /// The base's side.
    pub base: View,
    /// The candidate's side, same `rows` × `columns`.
    pub candidate: View,
}

/// A tensor without a counterpart, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unpaired {
    /// The tensor's name in its own checkpoint.
    pub tensor: String,
    /// One clause: `not in the candidate`, `tied to embed_tokens`, `shape 3 × 4 against 5 × 4`, …
    pub reason: String,
    /// Whether a loader would load it as part of the model, so that the comparison is not whole without it. It would
    /// not where the tensor is computed (rotary tables, masks), tied to another one, or lies outside of the text
    /// decoder.
    pub loaded: bool,
}

/// The whole correspondence.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pairing {
    /// Pairs, in the order of the base's names and experts.
    pub pairs: Vec<Pair>,
    /// Base tensors that the candidate lacks.
    pub only_base: Vec<Unpaired>,
    /// Candidate tensors that the base lacks.
    pub only_candidate: Vec<Unpaired>,
    /// Of these, the biases on writers to the residual stream: a vector each.
    pub added_biases: Vec<View>,
    /// How many pairs have other names on the two sides.
    pub renamed: usize,
    /// Width of the residual stream, where known.
    pub residual_width: Option<u64>,
    /// Family name of the architecture table's row that was used, `fallback` for the rule by shape and position.
    pub architecture: String,
    /// What had to be assumed or was found on the way, one sentence each: resized vocabulary, layers left out, …
    pub notes: Vec<String>,
}

/// Pairs the tensors of a candidate with those of its base.
///
/// By key first (see [`crate::arch::ParameterKey`]): names without wrapper prefixes, and the parts that other naming
/// schemes give other names; stacked experts one by one; fused projections in pieces where the other side is split.
/// Then what is left by sampled content, then by shape and order. Every tensor ends in a pair or in one of the two
/// lists of unpaired ones. The base's row of the architecture table is used for both sides.
pub fn pair(base: &Checkpoint, candidate: &Checkpoint) -> Pairing {
    matching::pair(base, candidate)
}
