//! MLX: codes of a few bits in a stream along the inputs, and a scale per group of them, with or without a bias.
//!
//! `weight` (… × outputs × inputs · bits / 32 words of 32 bits, lowest bits first), `scales` and `biases` (… × outputs
//! × groups): `W = code · scale + bias` with 1 to 6 or 8 bits. The modes `mxfp4`, `mxfp8` and `nvfp4` have codes that
//! are small floats, scales of one byte (a power of two, or E4M3) and no biases. Sizes alone do not tell bits from
//! group size, so `config.json` must: `quantization` with `bits`, `group_size` and `mode`, and an entry of its own for
//! every module that differs.

use std::sync::Arc;

use serde_json::Value;

use super::stored::{COARSE, PlainTensor, ascending, by_rows, code, of_bytes, outside, word};
use super::{Group, Scheme, companions};
use crate::checkpoint::{Checkpoint, Decode, Storage};
use crate::error::Result;
use crate::tensor::levels::{CodedLevel, LevelChoice};
use crate::tensor::{self, F4_VALUES, power_of_two};

/// MLX.
pub(super) struct Mlx;

/// What a code and its scale stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

impl Mode {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "affine" => Self::Affine,
            "mxfp4" => Self::Mxfp4,
            "mxfp8" => Self::Mxfp8,
            "nvfp4" => Self::Nvfp4,
            _ => return None,
        })
    }

    /// Bits and group size where the config leaves them out, which are the only ones of the small floats.
    const fn defaults(self) -> (u64, u64) {
        match self {
            Self::Affine => (4, 64),
            Self::Mxfp4 => (4, 32),
            Self::Mxfp8 => (8, 32),
            Self::Nvfp4 => (4, 16),
        }
    }
}

/// Whether a module's tensors are named and stored as MLX does it.
pub(super) fn is_mlx(checkpoint: &Checkpoint, stored: &str) -> bool {
    let Some(stem) = stored.strip_suffix(".weight") else { return false };
    let words = |name: &str| {
        checkpoint
            .tensors
            .get(name)
            .is_some_and(|entry| entry.dtype.name == "U32" && matches!(entry.storage, Storage::Plain))
    };
    words(stored) && checkpoint.tensors.contains_key(&format!("{stem}.scales"))
}

impl Scheme for Mlx {
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String> {
        is_mlx(checkpoint, stored).then(|| stored.to_owned())
    }

    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String> {
        let stem = stored.strip_suffix(".weight").unwrap_or(stored);
        let codes = PlainTensor::of(checkpoint, stored)?;
        let scales = PlainTensor::of(checkpoint, &format!("{stem}.scales"))?;
        let biases = PlainTensor::optional(checkpoint, &format!("{stem}.biases"))?;
        if checkpoint.tensors.contains_key(&format!("{stem}.global_scale")) {
            return Err("it is stored as MLX's nvfp4 with a scale for the tensor, which is not read".to_owned());
        }
        let (mode, bits, group_size) = module_settings(&checkpoint.config, stem)?;
        let (&[ref lead @ .., words], &[ref scale_lead @ .., groups]) = (&codes.shape[..], &scales.shape[..]) else {
            return Err("its codes or scales have no axis".to_owned());
        };
        let inputs = words.checked_mul(32).filter(|all| all.is_multiple_of(bits)).map(|all| all / bits);
        let inputs = inputs.filter(|inputs| groups.checked_mul(group_size) == Some(*inputs) && *inputs > 0);
        let fit = lead == scale_lead && !lead.is_empty();
        let Some(inputs) = inputs.filter(|_| fit) else {
            return Err(format!(
                "codes of shape {:?} and scales of shape {:?} are not those of {bits} bits in groups of {group_size}, \
                 which config.json states",
                codes.shape, scales.shape
            ));
        };
        let affine = mode == Mode::Affine;
        let of_kind = if affine { scales.is_float() } else { scales.dtype.name == "U8" };
        if !of_kind {
            return Err(format!("its scales are {}", scales.dtype.name));
        }
        let fitting = |biases: &PlainTensor| biases.shape == scales.shape && biases.is_float();
        if affine != biases.is_some() || !biases.as_ref().is_none_or(fitting) {
            return Err("its biases do not fit its scales".to_owned());
        }
        let mut shape = lead.to_vec();
        shape.push(inputs);
        let scheme = match mode {
            Mode::Affine => format!("mlx-{bits}bit-g{group_size}"),
            Mode::Mxfp4 => "mlx-mxfp4".to_owned(),
            Mode::Mxfp8 => "mlx-mxfp8".to_owned(),
            Mode::Nvfp4 => "mlx-nvfp4".to_owned(),
        };
        Ok(Group {
            shape,
            dtype: if affine { scales.weight_dtype() } else { &tensor::BF16 },
            decoder: Arc::new(Decoder {
                scheme,
                mode,
                bits: bits as u32,
                codes,
                scales,
                biases,
                inputs,
                words,
                groups,
                group_size: group_size as usize,
            }),
            companions: companions(stem, &["scales", "biases"]),
        })
    }
}

/// Mode, bits and group size of a module: its own entry, else what holds for all.
fn module_settings(config: &Value, stem: &str) -> Result<(Mode, u64, u64), String> {
    // MLX asks `quantization` first; `quantization_config` is a copy of it for other readers.
    let all = ["quantization", "quantization_config"].into_iter().map(|key| &config[key]).find(|all| all.is_object());
    let all = all.ok_or("it is stored as MLX quantises, and config.json does not say with how many bits")?;
    // An entry may be a plain `true`, which means as all others.
    let own = Some(&all[stem]).filter(|own| own.is_object()).unwrap_or(all);
    let mode = own["mode"].as_str().or_else(|| all["mode"].as_str()).unwrap_or("affine");
    let mode = Mode::named(mode).ok_or_else(|| format!("it is stored in MLX's mode {mode:?}, which is not read"))?;
    let (usual_bits, usual_size) = mode.defaults();
    let number = |key: &str, usual: u64| match &own[key] {
        Value::Null => all[key].as_u64().unwrap_or(usual),
        value => value.as_u64().unwrap_or(0),
    };
    let (bits, group_size) = (number("bits", usual_bits), number("group_size", usual_size));
    let whole = (1..=8).contains(&bits) && bits != 7 && (1..=1 << 16).contains(&group_size);
    if !whole || mode != Mode::Affine && (bits, group_size) != mode.defaults() {
        return Err(format!("MLX has no {bits} bits in groups of {group_size}"));
    }
    Ok((mode, bits, group_size))
}

struct Decoder {
    scheme: String,
    mode: Mode,
    bits: u32,
    codes: PlainTensor,
    scales: PlainTensor,
    biases: Option<PlainTensor>,
    inputs: u64,
    words: u64,
    groups: u64,
    group_size: usize,
}

impl Decoder {
    /// The small floats of the mode by their codes.
    fn small_floats(&self) -> Vec<f32> {
        match self.mode {
            Mode::Affine => Vec::new(),
            Mode::Mxfp8 => of_bytes(&tensor::F8_E4M3),
            Mode::Mxfp4 | Mode::Nvfp4 => F4_VALUES.to_vec(),
        }
    }

    /// What is made of every element's code, scale and bias.
    fn each<T>(&self, first: u64, out: &mut [T], of: impl Fn(u32, f32, f32) -> T) -> Result<()> {
        by_rows(self.inputs, first, out, |row, from, piece| {
            let row = row as u64;
            let codes = self.codes.bytes_at(row * self.words * 4, self.words * 4)?;
            let scales = self.scales(row)?;
            for (input, value) in (from..).zip(piece) {
                let stored = code(|at| word(&codes, at), input, self.bits);
                let (scale, bias) = scales.get(input / self.group_size).copied().ok_or_else(|| outside("scales"))?;
                *value = of(stored, scale, bias);
            }
            Ok(())
        })
    }

    /// Scale and bias of every group of a row.
    fn scales(&self, row: u64) -> Result<Vec<(f32, f32)>> {
        let at = row * self.groups;
        let scales = match self.mode {
            Mode::Affine => self.scales.values(at, self.groups)?,
            Mode::Mxfp4 | Mode::Mxfp8 => {
                self.scales.bytes_at(at, self.groups)?.iter().map(|code| power_of_two(*code)).collect()
            }
            Mode::Nvfp4 => {
                let bytes = self.scales.bytes_at(at, self.groups)?;
                let mut scales = vec![0.0; bytes.len()];
                (tensor::F8_E4M3.decode)(&bytes, &mut scales);
                scales
            }
        };
        let biases = match &self.biases {
            Some(biases) => biases.values(at, self.groups)?,
            None => vec![0.0; scales.len()],
        };
        Ok(scales.into_iter().zip(biases).collect())
    }
}

impl Decode for Decoder {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let small = self.small_floats();
        self.each(first, out, |stored, scale, bias| match self.mode {
            // Product and sum are rounded one after the other, as the tool does it.
            Mode::Affine => stored as f32 * scale + bias,
            _ => small.get(stored as usize).copied().unwrap_or(f32::NAN) * scale,
        })
    }

    fn free_scales(&self) -> Result<Option<Vec<f32>>> {
        self.scales.free(self.biases.as_ref())
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        let small = self.small_floats();
        let last = (1 << self.bits) - 1;
        let table = ascending(&small);
        self.each(first, out, |stored, scale, bias| match self.mode {
            Mode::Affine => {
                let number = |code: u32| code as f32 * scale + bias;
                // Scale and bias are both rounded.
                CodedLevel::of_code(stored, last, COARSE * number(stored).abs().max(bias.abs()), number)
            }
            _ => {
                let entry = small.get(stored as usize).copied().unwrap_or(f32::NAN);
                CodedLevel::in_table(&table, entry, scale, COARSE * (entry * scale).abs())
            }
        })?;
        Ok(Some(LevelChoice::Nearest))
    }
}
