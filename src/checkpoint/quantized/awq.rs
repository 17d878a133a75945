//! AWQ in its `gemm` layout: eight codes of four bits a word along the outputs, in an order of their own.
//!
//! `qweight` (inputs × outputs / 8), `qzeros` (groups × outputs / 8), `scales` (groups × outputs); no shift of the zero
//! points. The layouts `gemv` and `marlin` have other shapes and are not read.

use std::sync::Arc;

use super::stored::{PlainTensor, affine_level, by_rows, word};
use super::{Group, Scheme, companions};
use crate::checkpoint::{Checkpoint, Decode};
use crate::error::Result;
use crate::tensor::levels::{CodedLevel, LevelChoice};

/// AWQ.
pub(super) struct Awq;

/// In which four bits of a word each of eight neighbouring outputs is.
const PLACE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Scheme for Awq {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let stem = stored.strip_suffix(".qweight")?;
        let codes = checkpoint.tensors.get(stored)?;
        let scales = checkpoint.tensors.get(&format!("{stem}.scales"))?;
        let (&[_, words], &[_, outputs]) = (codes.shape.as_slice(), scales.shape.as_slice()) else { return None };
        (words.checked_mul(8) == Some(outputs)).then(|| format!("{stem}.weight"))
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let stem = stored.strip_suffix(".qweight").unwrap_or(stored);
        let part = |part: &str| PlainTensor::of(checkpoint, &format!("{stem}.{part}"));
        let (codes, scales, zeros) = (PlainTensor::of(checkpoint, stored)?, part("scales")?, part("qzeros")?);
        let (inputs, words) = codes.matrix("codes")?;
        let (groups, outputs) = scales.matrix("scales")?;
        let fit = codes.dtype.bytes == 4 && zeros.dtype.bytes == 4 && scales.is_float();
        if !fit || zeros.shape != [groups, words] || groups == 0 || !inputs.is_multiple_of(groups) || inputs == 0 {
            let shapes = (&codes.shape, &scales.shape, &zeros.shape);
            return Err(format!(
                "codes, scales and zero points of shapes {shapes:?} are not laid out as AWQ lays them"
            ));
        }
        let group_size = inputs / groups;
        Ok(Group {
            shape: vec![outputs, inputs],
            dtype: scales.weight_dtype(),
            decoder: Arc::new(Decoder {
                scheme: format!("awq-4bit-g{group_size}"),
                codes,
                scales,
                zeros,
                inputs,
                outputs: outputs as usize,
                words: words as usize,
                groups: groups as usize,
                group_size: group_size as usize,
            }),
            companions: companions(stem, &["scales", "qzeros"]),
        })
    }
}

struct Decoder {
    scheme: String,
    codes: PlainTensor,
    scales: PlainTensor,
    zeros: PlainTensor,
    inputs: u64,
    outputs: usize,
    words: usize,
    groups: usize,
    group_size: usize,
}

impl Decode for Decoder {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.each(first, out, |stored, scale, zero| (stored as f32 - zero) * scale)
    }

    fn free_scales(&self) -> Result<Option<Vec<f32>>> {
        self.scales.free(Some(&self.zeros))
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        self.each(first, out, |stored, scale, zero| affine_level(stored, 4, scale, zero))?;
        // Columns were scaled before, and rows of the weights before them scaled back.
        Ok(Some(LevelChoice::Free))
    }
}

impl Decoder {
    /// What is made of every element's code, scale and zero point.
    fn each<T>(&self, first: u64, out: &mut [T], of: impl Fn(u32, f32, f32) -> T) -> Result<()> {
        let (codes, scales, zeros) = (self.codes.bytes()?, self.scales.bytes()?, self.zeros.bytes()?);
        let mut levels = vec![(0.0f32, 0.0f32); self.groups];
        by_rows(self.inputs, first, out, |row, from, piece| {
            let (column, shift) = (row / 8, 4 * PLACE[row % 8]);
            for (group, level) in levels.iter_mut().enumerate() {
                let zero = word(&zeros, group * self.words + column) >> shift & 0xf;
                *level = (self.scales.value(&scales, group * self.outputs + row), zero as f32);
            }
            for (input, value) in (from..).zip(piece) {
                let stored = word(&codes, input * self.words + column) >> shift & 0xf;
                let (scale, zero) = levels.get(input / self.group_size).copied().unwrap_or((f32::NAN, 0.0));
                *value = of(stored, scale, zero);
            }
            Ok(())
        })
    }
}
