//! bitsandbytes: LLM.int8() with one scale a row, NF4 and FP4 with a scale a block, itself quantised or not.

use std::sync::Arc;

use serde_json::Value;

use super::stored::{FINE, PlainTensor, ascending, by_rows, outside};
use super::{Group, Scheme, companions};
use crate::checkpoint::{Checkpoint, Decode};
use crate::error::Result;
use crate::limits::MAX_QUANT_STATE_BYTES;
use crate::tensor;
use crate::tensor::levels::{CodedLevel, LevelChoice};

/// `weight` of bytes with `SCB`: `W = code · SCB / 127`.
pub(super) struct EightBit;

impl Scheme for EightBit {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let stem = stored.strip_suffix(".weight")?;
        checkpoint.tensors.contains_key(&format!("{stem}.SCB")).then(|| stored.to_owned())
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let stem = stored.strip_suffix(".weight").unwrap_or(stored);
        let codes = PlainTensor::of(checkpoint, stored)?;
        let scales = PlainTensor::of(checkpoint, &format!("{stem}.SCB"))?;
        let (rows, columns) = codes.matrix("codes")?;
        if codes.dtype.name != "I8" || !scales.is_float() || scales.elements() != rows {
            return Err(format!("{rows} × {columns} {} do not go with {:?} scales", codes.dtype.name, scales.shape));
        }
        // Versions that stored the codes in a GPU's own tile order said so here; 0 is row by row.
        if let Some(format) = PlainTensor::optional(checkpoint, &format!("{stem}.weight_format"))? {
            let number = format.values(0, format.elements().min(1)).map_err(|e| e.one_line())?;
            if number.first().is_some_and(|number| *number != 0.0) {
                return Err("its codes are in the tile order of a GPU".to_owned());
            }
        }
        Ok(Group {
            shape: codes.shape.clone(),
            dtype: &tensor::F16,
            decoder: Arc::new(Rows { codes, scales, columns }),
            companions: companions(stem, &["SCB", "weight_format"]),
        })
    }
}

struct Rows {
    codes: PlainTensor,
    scales: PlainTensor,
    columns: u64,
}

impl Decode for Rows {
    fn scheme(&self) -> &str {
        "bnb-int8"
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.codes.values_into(first, out)?;
        by_rows(self.columns, first, out, |row, _, piece| {
            let scale = self.scales.values(row as u64, 1)?.first().copied().unwrap_or(0.0) / 127.0;
            piece.iter_mut().for_each(|value| *value *= scale);
            Ok(())
        })
    }

    fn free_scales(&self) -> Result<Option<Vec<f32>>> {
        self.scales.free(None)
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        let codes = self.codes.values(first, out.len() as u64)?;
        by_rows(self.columns, first, out, |row, from, piece| {
            let scale = self.scales.values(row as u64, 1)?.first().copied().unwrap_or(0.0) / 127.0;
            let at = row as u64 * self.columns + from as u64 - first;
            for (level, code) in piece.iter_mut().zip(codes.iter().skip(at as usize)) {
                let number = |code: f32| (code.abs() <= 127.0).then_some(code * scale);
                let value = code * scale;
                // Codes are counted in binary16, which leaves them 11 bits.
                *level = CodedLevel::between(value, number(code - 1.0), number(code + 1.0), FINE * value.abs());
            }
            Ok(())
        })?;
        Ok(Some(LevelChoice::Nearest))
    }
}

/// `weight` of two codes a byte, `weight.absmax`, `weight.quant_map` and a state in JSON.
pub(super) struct FourBit;

const STATES: [&str; 2] = ["quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4"];

impl Scheme for FourBit {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let has = |part: &str| checkpoint.tensors.contains_key(&format!("{stored}.{part}"));
        (has("absmax") && STATES.iter().any(|state| has(state))).then(|| stored.to_owned())
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let part = |part: &str| PlainTensor::of(checkpoint, &format!("{stored}.{part}"));
        let codes = PlainTensor::of(checkpoint, stored)?;
        let state_name = STATES.into_iter().find(|state| checkpoint.tensors.contains_key(&format!("{stored}.{state}")));
        let state = part(state_name.unwrap_or(STATES[0]))?;
        if state.dtype.bytes != 1 || state.elements() > MAX_QUANT_STATE_BYTES {
            return Err("its state is not a small text".to_owned());
        }
        let text = state.bytes().map_err(|e| e.one_line())?;
        let state: Value = serde_json::from_slice(&text).map_err(|e| format!("its state is not JSON: {e}"))?;
        let number = |name: &str| state[name].as_u64().filter(|number| *number > 0);
        let sizes = state["shape"].as_array().ok_or("its state has no shape")?;
        let shape: Option<Vec<u64>> = sizes.iter().map(Value::as_u64).collect();
        let shape = shape.filter(|shape| shape.len() <= crate::limits::MAX_DIMENSIONS).ok_or("its shape is odd")?;
        let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let elements = elements.ok_or("its shape is too large")?;
        let code_bytes = codes.elements().saturating_mul(codes.dtype.bytes as u64);
        if elements.div_ceil(2) != code_bytes {
            return Err(format!("{code_bytes} bytes of codes for shape {shape:?}"));
        }
        let block = number("blocksize").ok_or("its state has no block size")?;
        let scales = part("absmax")?;
        if scales.elements() != elements.div_ceil(block) {
            return Err(format!("{} scales for {elements} codes in blocks of {block}", scales.elements()));
        }
        let table = |name: &str, size: u64| -> Result<Vec<f32>, String> {
            let table = part(name)?;
            if table.elements() != size {
                return Err(format!("its {name} has {} values, not {size}", table.elements()));
            }
            table.values(0, size).map_err(|e| e.one_line())
        };
        let nested = if scales.dtype.name == "U8" {
            let inner = number("nested_blocksize").ok_or("its state has no nested block size")?;
            let outer = part("nested_absmax")?;
            if outer.elements() != scales.elements().div_ceil(inner) {
                return Err(format!(
                    "{} outer scales for {} in blocks of {inner}",
                    outer.elements(),
                    scales.elements()
                ));
            }
            let offset = state["nested_offset"].as_f64().unwrap_or(0.0) as f32;
            Some(Nested { map: table("nested_quant_map", 256)?, outer, block: inner, offset })
        } else {
            None
        };
        let kind = state["quant_type"].as_str().unwrap_or("nf4");
        let scheme = format!(
            "bnb-{}{}",
            if kind == "fp4" { "fp4" } else { "nf4" },
            if nested.is_some() { "-double" } else { "" }
        );
        let dtype = if state["dtype"] == "float16" { &tensor::F16 } else { &tensor::BF16 };
        let map = table("quant_map", 16)?;
        let parts = ["absmax", "quant_map", "nested_absmax", "nested_quant_map", STATES[0], STATES[1]];
        Ok(Group {
            shape,
            dtype,
            decoder: Arc::new(Blocks { scheme, codes, scales, nested, map, block }),
            companions: companions(stored, &parts),
        })
    }
}

/// Scales that are themselves codes: `map[code] · outer + offset`.
struct Nested {
    map: Vec<f32>,
    outer: PlainTensor,
    block: u64,
    offset: f32,
}

struct Blocks {
    scheme: String,
    codes: PlainTensor,
    scales: PlainTensor,
    nested: Option<Nested>,
    map: Vec<f32>,
    block: u64,
}

impl Decode for Blocks {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.each(first, out, |number, scale| number * scale)
    }

    fn free_scales(&self) -> Result<Option<Vec<f32>>> {
        self.scales.free(None)
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        let table = ascending(&self.map);
        // Scales that are codes themselves were rounded after the weights were.
        let coarseness = if self.nested.is_some() { NESTED } else { FINE };
        self.each(first, out, |number, scale| {
            CodedLevel::in_table(&table, number, scale, coarseness * (number * scale).abs())
        })?;
        Ok(Some(LevelChoice::Nearest))
    }
}

/// By how much of itself a number moves whose scale is one of 256 levels: half of the widest gap, 1/64 of the largest
/// scale among 256, twice over for scales under it.
const NESTED: f32 = 1.0 / 64.0;

impl Blocks {
    /// What is made of every element's number in the table, and its scale.
    fn each<T>(&self, first: u64, out: &mut [T], of: impl Fn(f32, f32) -> T) -> Result<()> {
        let end = first + out.len() as u64;
        let first_block = first / self.block;
        let mut scales = self.scales.values(first_block, end.div_ceil(self.block) - first_block)?;
        if let Some(nested) = &self.nested {
            let first_outer = first_block / nested.block;
            let last = (first_block + scales.len() as u64).div_ceil(nested.block);
            let outer = nested.outer.values(first_outer, last - first_outer)?;
            for (at, scale) in (first_block..).zip(scales.iter_mut()) {
                let factor = outer.get((at / nested.block - first_outer) as usize).copied().unwrap_or(0.0);
                *scale = nested.map.get(*scale as usize).copied().unwrap_or(0.0) * factor + nested.offset;
            }
        }
        let bytes = self.codes.bytes_at(first / 2, end.div_ceil(2) - first / 2)?;
        let skip = first / 2 * 2;
        for (at, value) in (first..end).zip(out.iter_mut()) {
            let byte = bytes.get(((at - skip) / 2) as usize).copied().ok_or_else(|| outside("codes"))?;
            // The first of two is in the upper half.
            let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 0xf };
            let number = self.map.get(usize::from(code)).copied().unwrap_or(0.0);
            *value = of(number, scales.get((at / self.block - first_block) as usize).copied().unwrap_or(0.0));
        }
        Ok(())
    }
}
