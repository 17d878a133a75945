//! FP4 (E2M1) codes, two a byte with the first in the lower half, and a scale per block of inputs.
//!
//! MXFP4: blocks of 32 with a power of two (OCP Microscaling formats 1.0). gpt-oss stacks experts in `NAME_blocks`
//! (experts × outputs × blocks × 16) and `NAME_scales`, while the unquantised model has experts × inputs × outputs.
//! NVFP4: blocks of 16 with an E4M3 scale and one factor for the tensor, which ModelOpt multiplies (`weight_scale_2`)
//! and compressed-tensors divides by (`weight_global_scale`).

use std::sync::Arc;

use super::stored::{COARSE, PlainTensor, ascending, by_rows, outside};
use super::{Group, Scheme, companions, settings};
use crate::checkpoint::{Checkpoint, Decode};
use crate::error::Result;
use crate::tensor::levels::{CodedLevel, LevelChoice};
use crate::tensor::{self, F4_VALUES, power_of_two};

/// The experts of gpt-oss.
pub(super) struct GptOss;

/// Codes of one MXFP4 block.
const MX_BLOCK: u64 = 32;

impl Scheme for GptOss {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let name = stored.strip_suffix("_blocks")?;
        checkpoint.tensors.contains_key(&format!("{name}_scales")).then(|| name.to_owned())
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let name = stored.strip_suffix("_blocks").unwrap_or(stored);
        let scale_name = format!("{name}_scales");
        let (codes, scales) = (PlainTensor::of(checkpoint, stored)?, PlainTensor::of(checkpoint, &scale_name)?);
        let &[experts, outputs, blocks, bytes] = codes.shape.as_slice() else {
            return Err(format!("its blocks have shape {:?}, not experts × outputs × blocks × 16", codes.shape));
        };
        let of_bytes = codes.dtype.name == "U8" && matches!(scales.dtype.name, "U8" | "F8_E8M0");
        if bytes * 2 != MX_BLOCK || scales.shape != [experts, outputs, blocks] || !of_bytes || blocks == 0 {
            return Err(format!("its blocks {:?} and scales {:?} do not fit", codes.shape, scales.shape));
        }
        let inputs = blocks.checked_mul(MX_BLOCK).ok_or("its shape is too large")?;
        Ok(Group {
            shape: vec![experts, inputs, outputs],
            dtype: &tensor::BF16,
            decoder: Arc::new(Transposed { codes, scales, inputs, outputs, blocks }),
            companions: vec![scale_name],
        })
    }
}

struct Transposed {
    codes: PlainTensor,
    scales: PlainTensor,
    inputs: u64,
    outputs: u64,
    blocks: u64,
}

impl Decode for Transposed {
    fn scheme(&self) -> &str {
        "mxfp4-transposed"
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.each(first, out, |number, scale| number * scale)
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        let table = ascending(&F4_VALUES);
        self.each(first, out, |number, scale| level(&table, number, scale))?;
        Ok(Some(LevelChoice::Nearest))
    }
}

/// The level of a number under a scale; the tools divide by scales in BF16.
fn level(table: &[f32], number: f32, scale: f32) -> CodedLevel {
    CodedLevel::in_table(table, number, scale, COARSE * (number * scale).abs())
}

impl Transposed {
    /// What is made of every element's number and scale.
    fn each<T>(&self, first: u64, out: &mut [T], of: impl Fn(f32, f32) -> T) -> Result<()> {
        if out.is_empty() || self.outputs == 0 {
            return Ok(());
        }
        // Of the experts that are asked for, and no others.
        let per_expert = self.inputs * self.outputs;
        let (first_expert, last_expert) = (first / per_expert, (first + out.len() as u64 - 1) / per_expert);
        let blocks = self.outputs * self.blocks;
        let (from, count) = (first_expert * blocks, (last_expert + 1 - first_expert) * blocks);
        let (codes, scales) = (self.codes.bytes_at(from * 16, count * 16)?, self.scales.bytes_at(from, count)?);
        let (inputs, outputs, blocks) = (self.inputs as usize, self.outputs as usize, self.blocks as usize);
        by_rows(self.outputs, first, out, |row, first_output, piece| {
            let (expert, input) = (row / inputs - first_expert as usize, row % inputs);
            let (place, upper) = (input % 32 / 2, input % 2 == 1);
            for (output, value) in (first_output..).zip(piece) {
                let block = (expert * outputs + output) * blocks + input / 32;
                let pair = codes.get(block * 16 + place).zip(scales.get(block));
                let (byte, exponent) = pair.ok_or_else(|| outside("blocks"))?;
                let code = if upper { byte >> 4 } else { byte & 0xf };
                *value = of(F4_VALUES[usize::from(code)], power_of_two(*exponent));
            }
            Ok(())
        })
    }
}

/// Whether the config calls the whole FP8: then bytes that are signed numbers by their dtype are pairs of FP4 codes
/// (the experts of newer DeepSeek models).
pub(super) fn among_fp8(checkpoint: &Checkpoint) -> bool {
    settings(&checkpoint.config)["quant_method"] == "fp8"
}

/// FP4 weights of single modules, as ModelOpt (`weight`) and compressed-tensors (`weight_packed`) write them.
pub(super) struct Packed;

impl Scheme for Packed {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let dtype = checkpoint.tensors.get(stored)?.dtype.name;
        let (stem, needed) = match stored.strip_suffix(".weight_packed") {
            Some(stem) if dtype == "U8" => (stem, "weight_scale"),
            None if dtype == "U8" => (stored.strip_suffix(".weight")?, "weight_scale_2"),
            None if dtype == "I8" && among_fp8(checkpoint) => (stored.strip_suffix(".weight")?, "weight_scale_inv"),
            _ => return None,
        };
        let there = |part: &str| checkpoint.tensors.contains_key(&format!("{stem}.{part}"));
        (there(needed) || dtype == "I8" && there("scale")).then(|| format!("{stem}.weight"))
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let stem = stored.rsplit_once('.').map_or(stored, |(stem, _)| stem);
        let codes = PlainTensor::of(checkpoint, stored)?;
        let names = ["weight_scale_inv", "scale", "weight_scale"].map(|part| format!("{stem}.{part}"));
        let scales = names.iter().find(|name| checkpoint.tensors.contains_key(*name));
        let scales = PlainTensor::of(checkpoint, scales.unwrap_or(&names[2]))?;
        if codes.dtype.bytes != 1 || !(scales.is_float() || scales.dtype.name == "U8") {
            return Err(format!("its codes are {} and its scales {}", codes.dtype.name, scales.dtype.name));
        }
        let (outputs, bytes) = codes.matrix("codes")?;
        let (scale_rows, blocks) = scales.matrix("scales")?;
        let inputs = bytes.checked_mul(2).ok_or("its shape is too large")?;
        if scale_rows != outputs || blocks == 0 || !inputs.is_multiple_of(blocks) {
            return Err(format!("its scales of shape {:?} do not fit {outputs} × {inputs} codes", scales.shape));
        }
        let factor = |name: &str| -> Result<Option<f32>, String> {
            let Some(stored) = PlainTensor::optional(checkpoint, &format!("{stem}.{name}"))? else { return Ok(None) };
            if stored.elements() != 1 || !stored.is_float() {
                return Err(format!("its {name} is not one number"));
            }
            Ok(stored.values(0, 1).map_err(|e| e.one_line())?.first().copied())
        };
        let exponents = matches!(scales.dtype.name, "U8" | "F8_E8M0");
        let (multiply, divide) = (factor("weight_scale_2")?, factor("weight_global_scale")?);
        let block = inputs / blocks;
        let parts = [
            "weight_scale",
            "weight_scale_inv",
            "scale",
            "weight_scale_2",
            "weight_global_scale",
            "input_scale",
            "input_global_scale",
        ];
        Ok(Group {
            shape: vec![outputs, inputs],
            dtype: &tensor::BF16,
            decoder: Arc::new(Rows {
                scheme: format!("{}-block{block}", if exponents { "mxfp4" } else { "nvfp4" }),
                codes,
                scales,
                exponents,
                multiply: multiply.unwrap_or(1.0),
                divide: divide.unwrap_or(1.0),
                inputs,
                blocks,
            }),
            companions: companions(stem, &parts),
        })
    }
}

struct Rows {
    scheme: String,
    codes: PlainTensor,
    scales: PlainTensor,
    exponents: bool,
    multiply: f32,
    divide: f32,
    inputs: u64,
    blocks: u64,
}

impl Decode for Rows {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.each(first, out, |number, scale| number * scale)
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        let table = ascending(&F4_VALUES);
        self.each(first, out, |number, scale| level(&table, number, scale))?;
        Ok(Some(LevelChoice::Nearest))
    }
}

impl Rows {
    /// What is made of every element's number and scale.
    fn each<T>(&self, first: u64, out: &mut [T], of: impl Fn(f32, f32) -> T) -> Result<()> {
        let block = (self.inputs / self.blocks) as usize;
        by_rows(self.inputs, first, out, |row, from, piece| {
            let row = row as u64;
            let codes = self.codes.bytes_at(row * self.inputs / 2, self.inputs / 2)?;
            let scales: Vec<f32> = if self.exponents {
                self.scales.bytes_at(row * self.blocks, self.blocks)?.iter().map(|code| power_of_two(*code)).collect()
            } else {
                let scales = self.scales.values(row * self.blocks, self.blocks)?;
                scales.iter().map(|scale| scale * self.multiply / self.divide).collect()
            };
            for (input, value) in (from..).zip(piece) {
                let byte = codes.get(input / 2).copied().ok_or_else(|| outside("codes"))?;
                let code = if input % 2 == 0 { byte & 0xf } else { byte >> 4 };
                *value = of(F4_VALUES[usize::from(code)], scales.get(input / block).copied().unwrap_or(f32::NAN));
            }
            Ok(())
        })
    }
}
