//! A change of a tiny model as an adapter: `adapter_config.json` and the factors as PEFT names them.

use std::collections::BTreeMap;
use std::path::Path;

use faer::Mat;

use super::{Model, Weight};
use crate::checkpoint::safetensors::{self, NewTensor};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::F32;

/// A tensor of the file: name, shape, values.
type Factor = (String, [u64; 2], Vec<f32>);

/// Writes the `rank` largest components of what `made` changed of each matrix of `base`.
pub fn write(base: &Model, made: &Model, rank: usize, base_name: &str, folder: &Path) -> Result<()> {
    let mut factors: Vec<Factor> = Vec::new();
    for (name, weight) in &made.tensors {
        let Some(before) = base.tensors.get(name).filter(|before| *before != weight && weight.shape.len() == 2) else {
            continue;
        };
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let [b, a] = components(before, weight, rank)?;
        let (rows, columns, rank) = (weight.shape[0] as u64, weight.shape[1] as u64, rank as u64);
        factors.push((format!("base_model.model.{module}.lora_A.weight"), [rank, columns], a));
        factors.push((format!("base_model.model.{module}.lora_B.weight"), [rows, rank], b));
    }
    let bytes: Vec<Vec<u8>> =
        factors.iter().map(|factor| safetensors::encode_floats(&F32, &factor.2).unwrap_or_default()).collect();
    let tensors: Vec<NewTensor<'_>> = factors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| NewTensor { name, dtype: &F32, shape, bytes })
        .collect();
    safetensors::write(&folder.join("adapter_model.safetensors"), &tensors, &BTreeMap::new())?;
    let modules: Vec<&str> = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        .into_iter()
        .filter(|module| factors.iter().any(|factor| factor.0.contains(module)))
        .collect();
    let config = serde_json::json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name, "r": rank,
        "lora_alpha": rank, "target_modules": modules,
    });
    let path = folder.join("adapter_config.json");
    std::fs::write(&path, config.to_string()).map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

/// B (rows × rank) and A (rank × columns), row-major, of the change's largest components.
fn components(before: &Weight, after: &Weight, rank: usize) -> Result<[Vec<f32>; 2]> {
    let (rows, columns) = (after.shape[0], after.shape[1]);
    let change = Mat::from_fn(rows, columns, |row, column| {
        f64::from(after.values[row * columns + column]) - f64::from(before.values[row * columns + column])
    });
    let svd = change
        .thin_svd()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("taking a change apart: {error:?}")))?;
    let (left, sizes, right) = (svd.U(), svd.S().column_vector(), svd.V());
    let b = (0..rows).flat_map(|row| (0..rank).map(move |at| (left[(row, at)] * sizes[at]) as f32)).collect();
    let a = (0..rank).flat_map(|at| (0..columns).map(move |column| right[(column, at)] as f32)).collect();
    Ok([b, a])
}
