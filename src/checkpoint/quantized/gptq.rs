//! GPTQ: codes of 2, 3, 4 or 8 bits packed along the inputs, a scale and zero point per group of inputs and output.
//!
//! `qweight` (inputs · bits / 32 × outputs) and `qzeros` (groups × outputs · bits / 32) are streams of bits in 32-bit
//! words, along the inputs and along the outputs. `g_idx` gives the group of each input where inputs were reordered
//! (`desc_act`). Version 1 stores zero points less one.

use std::sync::Arc;

use super::stored::{PlainTensor, affine_level, by_rows, code, word};
use super::{Group, Scheme, companions, settings};
use crate::checkpoint::{Checkpoint, Decode};
use crate::error::Result;
use crate::tensor::levels::{CodedLevel, LevelChoice};

/// GPTQ.
pub(super) struct Gptq;

impl Scheme for Gptq {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let stem = stored.strip_suffix(".qweight")?;
        checkpoint.tensors.contains_key(&format!("{stem}.scales")).then(|| format!("{stem}.weight"))
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let stem = stored.strip_suffix(".qweight").unwrap_or(stored);
        let part = |part: &str| PlainTensor::of(checkpoint, &format!("{stem}.{part}"));
        let (codes, scales, zeros) = (PlainTensor::of(checkpoint, stored)?, part("scales")?, part("qzeros")?);
        let order = PlainTensor::optional(checkpoint, &format!("{stem}.g_idx"))?;
        let (words, outputs) = codes.matrix("codes")?;
        let (groups, scale_outputs) = scales.matrix("scales")?;
        let (zero_groups, zero_words) = zeros.matrix("zero points")?;
        let settings = settings(&checkpoint.config);
        let layout = || {
            let shapes = (&codes.shape, &scales.shape, &zeros.shape);
            format!("codes, scales and zero points of shapes {shapes:?} are not laid out as GPTQ lays them")
        };
        let words_fit = codes.dtype.bytes == 4 && zeros.dtype.bytes == 4 && scales.is_float();
        if !words_fit || outputs != scale_outputs || groups != zero_groups || groups == 0 || outputs == 0 {
            return Err(layout());
        }
        let bits = zero_words.saturating_mul(32) / outputs;
        if !matches!(bits, 2 | 3 | 4 | 8) || zero_words != outputs.saturating_mul(bits).div_ceil(32) {
            return Err(layout());
        }
        let inputs = match &order {
            Some(order) => order.elements(),
            None => words.saturating_mul(32) / bits,
        };
        if inputs == 0 || inputs.saturating_mul(bits).div_ceil(32) != words || groups > inputs {
            return Err(layout());
        }
        let group_size = settings["group_size"].as_u64().filter(|size| *size > 0);
        let group_size = group_size.filter(|size| inputs.div_ceil(*size) == groups).unwrap_or(inputs.div_ceil(groups));
        let second = settings["checkpoint_format"].as_str().is_some_and(|format| format == "gptq_v2");
        Ok(Group {
            shape: vec![outputs, inputs],
            dtype: scales.weight_dtype(),
            decoder: Arc::new(Decoder {
                scheme: format!("gptq-{bits}bit-g{group_size}"),
                zero_shift: if second { 0 } else { 1 },
                bits: bits as u32,
                codes,
                scales,
                zeros,
                order,
                outputs: outputs as usize,
                inputs,
                groups: groups as usize,
                zero_words: zero_words as usize,
                group_size: group_size as usize,
            }),
            companions: companions(stem, &["scales", "qzeros", "g_idx"]),
        })
    }
}

struct Decoder {
    scheme: String,
    bits: u32,
    zero_shift: u32,
    codes: PlainTensor,
    scales: PlainTensor,
    zeros: PlainTensor,
    order: Option<PlainTensor>,
    outputs: usize,
    inputs: u64,
    groups: usize,
    zero_words: usize,
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
        self.each(first, out, |stored, scale, zero| affine_level(stored, self.bits, scale, zero))?;
        // Each column makes up for the errors of those before it: by design one in ten codes is not the nearest.
        Ok(Some(LevelChoice::Free))
    }
}

impl Decoder {
    /// What is made of every element's code, scale and zero point.
    fn each<T>(&self, first: u64, out: &mut [T], of: impl Fn(u32, f32, f32) -> T) -> Result<()> {
        let (codes, scales, zeros) = (self.codes.bytes()?, self.scales.bytes()?, self.zeros.bytes()?);
        let order = self.order.as_ref().map(PlainTensor::bytes).transpose()?;
        let mut levels = vec![(0.0f32, 0.0f32); self.groups];
        by_rows(self.inputs, first, out, |row, from, piece| {
            for (group, level) in levels.iter_mut().enumerate() {
                let zero = code(|at| word(&zeros, group * self.zero_words + at), row, self.bits);
                let scale = self.scales.value(&scales, group * self.outputs + row);
                // The sum wraps as in the tools, whose words wrap.
                *level = (scale, ((zero + self.zero_shift) & ((1 << self.bits) - 1)) as f32);
            }
            for (input, value) in (from..).zip(piece) {
                let group = match &order {
                    Some(order) => word(order, input) as usize,
                    None => input / self.group_size,
                };
                let stored = code(|at| word(&codes, at * self.outputs + row), input, self.bits);
                // A group that is not there can only be a lie; its weights are no numbers.
                let (scale, zero) = levels.get(group).copied().unwrap_or((f32::NAN, 0.0));
                *value = of(stored, scale, zero);
            }
            Ok(())
        })
    }
}
