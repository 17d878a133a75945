//! compressed-tensors' `pack-quantized`: whole numbers of 1 to 8 bits packed along the inputs.
//!
//! `weight_packed` (outputs × inputs · bits / 32 words, codes with half their range added), `weight_scale`
//! (outputs × groups), `weight_shape`, for asymmetric schemes `weight_zero_point` (packed along the outputs), and
//! `weight_g_idx` where inputs were reordered.

use std::sync::Arc;

use super::stored::{PlainTensor, affine_level, by_rows, code, word};
use super::{Group, Scheme, companions, settings};
use crate::checkpoint::{Checkpoint, Decode};
use crate::error::Result;
use crate::tensor::levels::{CodedLevel, LevelChoice};

/// Packed whole numbers.
pub(super) struct CompressedTensors;

impl Scheme for CompressedTensors {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let stem = stored.strip_suffix(".weight_packed")?;
        (checkpoint.tensors.get(stored)?.dtype.bytes == 4).then(|| format!("{stem}.weight"))
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let stem = stored.strip_suffix(".weight_packed").unwrap_or(stored);
        let part = |part: &str| format!("{stem}.{part}");
        let (codes, scales) =
            (PlainTensor::of(checkpoint, stored)?, PlainTensor::of(checkpoint, &part("weight_scale"))?);
        let zeros = PlainTensor::optional(checkpoint, &part("weight_zero_point"))?;
        let order = PlainTensor::optional(checkpoint, &part("weight_g_idx"))?;
        let (outputs, words) = codes.matrix("codes")?;
        let shape = PlainTensor::of(checkpoint, &part("weight_shape"))?;
        let shape = shape.values(0, shape.elements().min(3)).map_err(|e| e.one_line())?;
        let &[shape_outputs, inputs] = shape.as_slice() else {
            return Err("its weight_shape is not that of a matrix".to_owned());
        };
        // Exact: sizes of a weight are far below the 2^24 up to which binary32 counts.
        let inputs = inputs as u64;
        if shape_outputs as u64 != outputs || inputs == 0 || inputs >= 1 << 24 {
            return Err(format!("its weight_shape is {shape_outputs} × {inputs} over {outputs} rows of codes"));
        }
        let bits = bits(checkpoint, inputs, words)
            .ok_or_else(|| format!("{words} words a row do not hold {inputs} codes of 1 to 8 bits"))?;
        let groups = match scales.shape[..] {
            [] | [1] if scales.elements() == 1 => 1,
            [rows] if rows == outputs => 1,
            [rows, groups] if rows == outputs || (rows == 1 && groups == 1) => groups,
            _ => return Err(format!("its scales have shape {:?}", scales.shape)),
        };
        if groups == 0 || groups > inputs || !scales.is_float() {
            return Err(format!("its scales of shape {:?} do not fit {inputs} inputs", scales.shape));
        }
        let zero_words = outputs.saturating_mul(u64::from(bits)).div_ceil(32);
        if zeros.as_ref().is_some_and(|zeros| zeros.dtype.bytes != 4 || zeros.shape != [zero_words, groups]) {
            return Err("its zero points do not fit its scales".to_owned());
        }
        if order.as_ref().is_some_and(|order| order.dtype.bytes != 4 || order.elements() != inputs) {
            return Err("its order of groups does not fit its inputs".to_owned());
        }
        let group_size = inputs.div_ceil(groups);
        let suffix = if groups == 1 { "channel".to_owned() } else { format!("g{group_size}") };
        Ok(Group {
            shape: vec![outputs, inputs],
            dtype: scales.weight_dtype(),
            decoder: Arc::new(Decoder {
                scheme: format!("packed-int{bits}-{suffix}"),
                bits,
                one_scale: scales.elements() == 1,
                codes,
                scales,
                zeros,
                order,
                inputs,
                words,
                groups: groups as usize,
                group_size: group_size as usize,
            }),
            companions: companions(
                stem,
                &[
                    "weight_scale",
                    "weight_shape",
                    "weight_zero_point",
                    "weight_g_idx",
                    "input_scale",
                    "input_global_scale",
                ],
            ),
        })
    }
}

/// Bits of a code: what the config says where that fits, else the smallest that fits the sizes.
fn bits(checkpoint: &Checkpoint, inputs: u64, words: u64) -> Option<u32> {
    let fits =
        |bits: &u64| (1..=8).contains(bits) && inputs.checked_mul(*bits).map(|all| all.div_ceil(32)) == Some(words);
    let groups = settings(&checkpoint.config)["config_groups"].as_object();
    let stated =
        groups.into_iter().flat_map(|groups| groups.values()).filter_map(|g| g["weights"]["num_bits"].as_u64());
    stated.chain([4, 8, 2, 3, 5, 6, 7, 1]).find(fits).map(|bits| bits as u32)
}

struct Decoder {
    scheme: String,
    bits: u32,
    one_scale: bool,
    codes: PlainTensor,
    scales: PlainTensor,
    zeros: Option<PlainTensor>,
    order: Option<PlainTensor>,
    inputs: u64,
    words: u64,
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
        self.scales.free(self.zeros.as_ref())
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        self.each(first, out, |stored, scale, zero| affine_level(stored, self.bits, scale, zero))?;
        // llm-compressor writes what GPTQ and AWQ make in this form too.
        Ok(Some(LevelChoice::Free))
    }
}

impl Decoder {
    /// What is made of every element's code, scale and zero point.
    fn each<T>(&self, first: u64, out: &mut [T], of: impl Fn(u32, f32, f32) -> T) -> Result<()> {
        let order = self.order.as_ref().map(PlainTensor::bytes).transpose()?;
        let zeros = self.zeros.as_ref().map(PlainTensor::bytes).transpose()?;
        // Codes and zero points are stored with this added to both.
        let half = (1u32 << (self.bits - 1)) as f32;
        by_rows(self.inputs, first, out, |row, from, piece| {
            let codes = self.codes.bytes_at(row as u64 * self.words * 4, self.words * 4)?;
            let scale_row = if self.one_scale { 0 } else { row as u64 * self.groups as u64 };
            let scales = self.scales.values(scale_row, self.groups as u64)?;
            let zero = |group: usize| match &zeros {
                Some(zeros) => code(|at| word(zeros, at * self.groups + group), row, self.bits) as f32,
                None => half,
            };
            let zeros: Vec<f32> = (0..self.groups).map(zero).collect();
            for (input, value) in (from..).zip(piece) {
                let group = match &order {
                    Some(order) => word(order, input) as usize,
                    None => input / self.group_size,
                };
                let stored = code(|at| word(&codes, at), input, self.bits);
                let (scale, zero) =
                    scales.get(group).copied().zip(zeros.get(group).copied()).unwrap_or((f32::NAN, 0.0));
                *value = of(stored, scale, zero);
            }
            Ok(())
        })
    }
}
