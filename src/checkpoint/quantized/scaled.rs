//! Codes that are numbers themselves (FP8, INT8), times a scale per tensor, channel, group or block.
//!
//! `W = (code - zero point) · scale`. Written by DeepSeek and `transformers` as `weight` + `weight_scale_inv` (blocks
//! of 128 × 128; the factor is multiplied in spite of its name), by compressed-tensors, FBGEMM and ModelOpt as
//! `weight_scale`, by ComfyUI as `scale_weight`, by DeepSeek's own code as `scale`, and for stacked experts as
//! `NAME_scale_inv` or `NAME_scale` beside `NAME`.

use std::sync::Arc;

use super::fp4::among_fp8;
use super::stored::{COARSE, PlainTensor, ascending, by_rows, of_bytes, outside};
use super::{Group, Scheme, settings};
use crate::checkpoint::{Checkpoint, Decode, Storage};
use crate::error::Result;
use crate::tensor::levels::{CodedLevel, LevelChoice};
use crate::tensor::power_of_two;

/// Scaled codes.
pub(super) struct Scaled;

impl Scheme for Scaled {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        let entry = checkpoint.tensors.get(stored)?;
        let codes = matches!(entry.dtype.name, "F8_E4M3" | "F8_E5M2" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" | "I8");
        let plain = matches!(entry.storage, Storage::Plain) && entry.shape.len() >= 2;
        let pairs = entry.dtype.name == "I8" && among_fp8(checkpoint);
        (codes && plain && !pairs && scale_name(checkpoint, stored).is_some()).then(|| stored.to_owned())
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let codes = PlainTensor::of(checkpoint, stored)?;
        let scale_name = scale_name(checkpoint, stored).ok_or("it has no scales")?;
        let scales = PlainTensor::of(checkpoint, &scale_name)?;
        let exponents = scales.dtype.name == "U8";
        if !scales.is_float() && !exponents {
            return Err(format!("its scales are {}", scales.dtype.name));
        }
        let zero_name = format!("{stored}_zero_point");
        let zeros = PlainTensor::optional(checkpoint, &zero_name)?;
        if zeros.as_ref().is_some_and(|zeros| zeros.elements() != scales.elements()) {
            return Err("its zero points are not as many as its scales".to_owned());
        }
        if let Some(offsets) = PlainTensor::optional(checkpoint, &format!("{stored}_offset"))? {
            let count = offsets.elements().min(scales.elements()).min(1 << 24);
            let values = offsets.values(0, count).map_err(|e| e.one_line())?;
            if offsets.elements() > count || values.iter().any(|value| *value != 0.0) {
                return Err("it has offsets, which are not read".to_owned());
            }
        }
        let block_size = block_size(checkpoint);
        let (columns, rows, scale_rows, scale_columns) = fit(&codes.shape, &scales.shape)?;
        let block = |size: u64, parts: u64, wanted: Option<u64>| {
            let wanted = wanted.filter(|wanted| *wanted > 0 && size.div_ceil(*wanted) == parts);
            // Without a setting that fits, a power of two that fits is what was meant.
            let power = (0..=16).map(|bit| 1 << bit).rev().find(|block| size.div_ceil(*block) == parts);
            let even = (size.is_multiple_of(parts)).then(|| size / parts);
            wanted.or_else(|| if parts == 1 { Some(size.max(1)) } else { even.or(power) })
        };
        let block_rows = block(rows, scale_rows, block_size.map(|block| block.0));
        let block_columns = block(columns, scale_columns, block_size.map(|block| block.1));
        let (block_rows, block_columns) = block_rows
            .zip(block_columns)
            .ok_or_else(|| format!("its scales of shape {:?} do not fit {:?}", scales.shape, codes.shape))?;
        let kind = if codes.dtype.name == "I8" { "int8" } else { "fp8" };
        let scheme = match (scale_rows * scale_columns, block_rows, block_columns) {
            (1, ..) => format!("{kind}-tensor"),
            (_, 1, _) if scale_columns == 1 => format!("{kind}-channel"),
            (_, 1, group) => format!("{kind}-group{group}"),
            (_, block_rows, block_columns) => format!("{kind}-block{block_rows}x{block_columns}"),
        };
        let stem = stored.strip_suffix(".weight").unwrap_or(stored);
        let companions = [
            scale_name,
            zero_name,
            format!("{stored}_offset"),
            format!("{stem}.input_scale"),
            format!("{stem}.scale_input"),
        ];
        let batched = scales.elements() > scale_rows * scale_columns;
        Ok(Group {
            shape: codes.shape.clone(),
            dtype: if kind == "fp8" { codes.dtype } else { scales.weight_dtype() },
            decoder: Arc::new(Decoder {
                scheme,
                codes,
                scales,
                zeros,
                exponents,
                columns,
                rows,
                scale_rows,
                scale_columns,
                block_rows,
                block_columns,
                batched,
            }),
            companions: companions.to_vec(),
        })
    }
}

/// The name of the scales that belong to a tensor, if there are any.
fn scale_name(checkpoint: &Checkpoint, stored: &str) -> Option<String> {
    let suffixes = ["_scale_inv", "_scale"].map(|suffix| format!("{stored}{suffix}"));
    let stem = stored.strip_suffix(".weight");
    let beside = ["scale_weight", "scale"].into_iter().filter_map(|part| Some(format!("{}.{part}", stem?)));
    suffixes.into_iter().chain(beside).find(|name| checkpoint.tensors.contains_key(name))
}

/// Block sizes that the config states.
fn block_size(checkpoint: &Checkpoint) -> Option<(u64, u64)> {
    let settings = settings(&checkpoint.config);
    let groups = settings["config_groups"].as_object();
    let structure = groups.and_then(|groups| groups.values().find_map(|g| g["weights"]["block_structure"].as_array()));
    let block = settings["weight_block_size"].as_array().or(structure)?;
    Some((block.first()?.as_u64()?, block.get(1)?.as_u64()?))
}

/// Columns and rows of the last two axes, and in how many parts the scales divide each.
fn fit(codes: &[u64], scales: &[u64]) -> Result<(u64, u64, u64, u64), String> {
    let wrong = || format!("its scales of shape {scales:?} do not fit {codes:?}");
    let [batch @ .., rows, columns] = codes else { return Err(wrong()) };
    let count: u64 = scales.iter().product();
    let (scale_rows, scale_columns) = match scales {
        _ if count == 1 => (1, 1),
        [length] if *length == *rows => (*rows, 1),
        [scale_batch @ .., scale_rows, scale_columns]
            if scale_batch == batch || scale_batch.iter().product::<u64>() == 1 =>
        {
            (*scale_rows, *scale_columns)
        }
        _ => return Err(wrong()),
    };
    if scale_rows == 0 || scale_columns == 0 || scale_rows > *rows || scale_columns > *columns {
        return Err(wrong());
    }
    Ok((*columns, *rows, scale_rows, scale_columns))
}

struct Decoder {
    scheme: String,
    codes: PlainTensor,
    scales: PlainTensor,
    zeros: Option<PlainTensor>,
    /// Whether the scales are bare exponents (E8M0).
    exponents: bool,
    columns: u64,
    rows: u64,
    scale_rows: u64,
    scale_columns: u64,
    block_rows: u64,
    block_columns: u64,
    /// Whether every matrix of a stack has scales of its own.
    batched: bool,
}

impl Decode for Decoder {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.codes.values_into(first, out)?;
        self.each(first, out, |value, scale, zero| *value = (*value - zero) * scale)
    }

    fn free_scales(&self) -> Result<Option<Vec<f32>>> {
        self.scales.free(self.zeros.as_ref())
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        let mut codes = self.codes.values(first, out.len() as u64)?;
        let table = ascending(&of_bytes(self.codes.dtype));
        let mut levels = out.iter_mut();
        self.each(first, &mut codes, |code, scale, zero| {
            let Some(level) = levels.next() else { return };
            let shifted = -zero * scale;
            let slack = COARSE * ((*code - zero) * scale).abs();
            let CodedLevel { value, below, above, .. } = CodedLevel::in_table(&table, *code, scale, slack);
            let moved = |level: Option<f32>| level.map(|level| level + shifted);
            *level = CodedLevel { value: value + shifted, below: moved(below), above: moved(above), slack, reach: 0.0 };
        })?;
        // INT8 is what GPTQ after a smoothing of scales is written as too.
        Ok(Some(if self.codes.dtype.name == "I8" { LevelChoice::Free } else { LevelChoice::Nearest }))
    }
}

impl Decoder {
    /// Hands out every element's code with its scale and zero point, in order.
    fn each(&self, first: u64, codes: &mut [f32], mut to: impl FnMut(&mut f32, f32, f32)) -> Result<()> {
        let mut read_row = None;
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        by_rows(self.columns, first, codes, |row, from, piece| {
            let (matrix, row) = (row as u64 / self.rows, row as u64 % self.rows);
            let scale_row = if self.batched { matrix * self.scale_rows } else { 0 } + row / self.block_rows;
            if read_row != Some(scale_row) {
                let at = scale_row * self.scale_columns;
                scales = self.scales.values(at, self.scale_columns)?;
                if self.exponents {
                    scales.iter_mut().for_each(|scale| *scale = power_of_two(*scale as u8));
                }
                zeros = match &self.zeros {
                    Some(zeros) => zeros.values(at, self.scale_columns)?,
                    None => Vec::new(),
                };
                read_row = Some(scale_row);
            }
            let block = self.block_columns as usize;
            let mut column = from;
            let mut rest = piece;
            while !rest.is_empty() {
                let part = column / block;
                let (here, tail) = rest.split_at_mut(rest.len().min((part + 1) * block - column));
                let scale = *scales.get(part).ok_or_else(|| outside("scales"))?;
                let zero = zeros.get(part).copied().unwrap_or(0.0);
                here.iter_mut().for_each(|code| to(code, scale, zero));
                column += here.len();
                rest = tail;
            }
            Ok(())
        })
    }
}
