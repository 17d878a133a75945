//! A tiny model as quantisers store it: codes with scales beside them, under the names that loaders ask for.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Model, Weight};
use crate::checkpoint::safetensors::{self, NewTensor};
use crate::error::{Error, Result};
use crate::tensor::{BF16, DType, F8_E4M3, F32, U8, U32};

/// A tensor of a file.
pub struct TinyTensor {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: &'static DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl TinyTensor {
    /// A weight as plain numbers.
    pub fn plain(name: &str, dtype: &'static DType, weight: &Weight) -> Self {
        Self {
            name: name.to_owned(),
            dtype,
            shape: weight.shape.iter().map(|side| *side as u64).collect(),
            bytes: safetensors::encode_floats(dtype, &weight.values).unwrap_or_default(),
        }
    }
}

/// Writes tensors and a configuration as a folder with one file of this name.
pub fn write(folder: &Path, file: &str, tensors: &[TinyTensor], config: &Value) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(format!("creating {}", folder.display()), e))?;
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
    let tensors: Vec<NewTensor<'_>> = tensors
        .iter()
        .map(|stored| NewTensor { name: &stored.name, dtype: stored.dtype, shape: &stored.shape, bytes: &stored.bytes })
        .collect();
    safetensors::write(&folder.join(file), &tensors, &BTreeMap::new())
}

/// The model as `replace` stores each of its matrices, vectors plain in `BF16`. `replace` gives `None` for what stays
/// plain.
pub fn stored(model: &Model, mut replace: impl FnMut(&str, &Weight) -> Option<Vec<TinyTensor>>) -> Vec<TinyTensor> {
    let mut all = Vec::new();
    for (name, weight) in &model.tensors {
        let codes = if weight.shape.len() == 2 { replace(name, weight) } else { None };
        all.extend(codes.unwrap_or_else(|| vec![TinyTensor::plain(name, &BF16, weight)]));
    }
    all
}

/// A matrix as MLX's affine quantisation stores it: `bits` a code in a stream of words, a scale and a bias per group.
pub fn mlx(name: &str, weight: &Weight, bits: usize, group: usize) -> Vec<TinyTensor> {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    let steps = ((1u32 << bits) - 1) as f32;
    let (mut words, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    for row in weight.values.chunks_exact(columns) {
        let mut stream = vec![0u32; columns * bits / 32];
        for (at, group) in row.chunks(group).enumerate() {
            let low = group.iter().copied().fold(f32::MAX, f32::min);
            let high = group.iter().copied().fold(f32::MIN, f32::max);
            let scale = ((high - low) / steps).max(1e-7);
            scales.push(scale);
            biases.push(low);
            for (place, value) in group.iter().enumerate() {
                let code = ((value - low) / scale).round().clamp(0.0, steps) as u32;
                let bit = (at * group.len() + place) * bits;
                stream[bit / 32] |= code << (bit % 32);
                if bit % 32 + bits > 32 {
                    stream[bit / 32 + 1] |= code >> (32 - bit % 32);
                }
            }
        }
        words.extend(stream.iter().flat_map(|word| word.to_le_bytes()));
    }
    let groups = (columns / group) as u64;
    let floats = |part: &str, values: &[f32]| TinyTensor {
        name: format!("{stem}.{part}"),
        dtype: &F32,
        shape: vec![rows as u64, groups],
        bytes: safetensors::encode_floats(&F32, values).unwrap_or_default(),
    };
    vec![
        TinyTensor {
            name: name.to_owned(),
            dtype: &U32,
            shape: vec![rows as u64, (columns * bits / 32) as u64],
            bytes: words,
        },
        floats("scales", &scales),
        floats("biases", &biases),
    ]
}

/// A matrix as FP8 (E4M3) with a scale a row.
pub fn fp8(name: &str, weight: &Weight) -> Vec<TinyTensor> {
    let mut levels = vec![0.0; 256];
    (F8_E4M3.decode)(&(0..=255).collect::<Vec<u8>>(), &mut levels);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in weight.values.chunks_exact(weight.shape[1]) {
        let largest = row.iter().fold(0.0f32, |most, value| most.max(value.abs())).max(f32::MIN_POSITIVE);
        let scale = largest / 448.0;
        scales.push(scale);
        codes.extend(row.iter().map(|value| nearest(&levels, value / scale)));
    }
    let (rows, columns) = (weight.shape[0] as u64, weight.shape[1] as u64);
    vec![
        TinyTensor { name: name.to_owned(), dtype: &F8_E4M3, shape: vec![rows, columns], bytes: codes },
        TinyTensor {
            name: format!("{name}_scale"),
            dtype: &F32,
            shape: vec![rows, 1],
            bytes: safetensors::encode_floats(&F32, &scales).unwrap_or_default(),
        },
    ]
}

/// The code of the level that is nearest; levels that are not numbers are none.
fn nearest(levels: &[f32], value: f32) -> u8 {
    let distance = |level: &f32| (value - level).abs();
    let numbers = levels.iter().enumerate().filter(|(_, level)| !level.is_nan());
    numbers.min_by(|a, b| distance(a.1).total_cmp(&distance(b.1))).map_or(0, |(code, _)| code as u8)
}

/// The levels of NF4 (bitsandbytes).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A matrix as bitsandbytes stores NF4, in blocks of 64; the bytes of codes are given the dtype `storage`, as
/// `bnb_4bit_quant_storage` does it.
pub fn nf4(name: &str, weight: &Weight, storage: &'static DType) -> Vec<TinyTensor> {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in weight.values.chunks(64) {
        let largest = block.iter().fold(0.0f32, |most, value| most.max(value.abs())).max(f32::MIN_POSITIVE);
        scales.push(largest);
        codes.extend(block.iter().map(|value| nearest(&NF4, value / largest)));
    }
    let bytes: Vec<u8> = codes.chunks(2).map(|two| two[0] << 4 | two.get(1).copied().unwrap_or(0)).collect();
    let state = serde_json::json!({
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": weight.shape,
    })
    .to_string()
    .into_bytes();
    let floats = |part: &str, values: &[f32]| TinyTensor {
        name: format!("{name}.{part}"),
        dtype: &F32,
        shape: vec![values.len() as u64],
        bytes: safetensors::encode_floats(&F32, values).unwrap_or_default(),
    };
    vec![
        TinyTensor {
            name: name.to_owned(),
            dtype: storage,
            shape: vec![(bytes.len() / storage.bytes) as u64, 1],
            bytes,
        },
        floats("absmax", &scales),
        floats("quant_map", &NF4),
        TinyTensor {
            name: format!("{name}.quant_state.bitsandbytes__nf4"),
            dtype: &U8,
            shape: vec![state.len() as u64],
            bytes: state,
        },
    ]
}
