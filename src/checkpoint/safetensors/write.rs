//! Writes safetensors files: for tiny models in tests, fixtures and the demonstration.
//!
//! The layout is that of the reference writer: header padded with spaces to a multiple of eight, tensors by falling
//! element size and then by name, no gaps.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::tensor::DType;

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct NewTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// The dtype of `bytes`.
    pub dtype: &'static DType,
    /// Its shape.
    pub shape: &'a [u64],
    /// Its elements in row-major order, `shape` × `dtype` bytes.
    pub bytes: &'a [u8],
}

/// Floats in the bytes of `F32`, `F16` or `BF16` (round to nearest even); `None` for any other dtype.
pub fn encode_floats(dtype: &DType, values: &[f32]) -> Option<Vec<u8>> {
    match dtype.name {
        "F32" => Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        "F16" => Some(values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()),
        "BF16" => Some(values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()),
        _ => None,
    }
}

/// The bytes of a safetensors file. Errors when a tensor's bytes do not fit its shape and dtype or a name comes twice.
pub fn to_bytes(tensors: &[NewTensor<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut order: Vec<&NewTensor<'_>> = tensors.iter().collect();
    order.sort_by(|a, b| b.dtype.bytes.cmp(&a.dtype.bytes).then_with(|| a.name.cmp(b.name)));
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut at = 0u64;
    for tensor in &order {
        let elements = tensor.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let length = tensor.bytes.len() as u64;
        if elements.and_then(|elements| tensor.dtype.bytes_of(elements)) != Some(length) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("writing tensor {}: {length} bytes for {:?} {:?}", tensor.name, tensor.shape, tensor.dtype),
            ));
        }
        let described = json!({ "dtype": tensor.dtype.name, "shape": tensor.shape, "data_offsets": [at, at + length] });
        if header.insert(tensor.name.to_owned(), described).is_some() {
            return Err(Error::new(ErrorKind::Usage, format!("writing tensor {} twice", tensor.name)));
        }
        at += length;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + text.len() + at as usize);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    for tensor in &order {
        bytes.extend(tensor.bytes);
    }
    Ok(bytes)
}

/// Writes one safetensors file.
pub fn write(path: &Path, tensors: &[NewTensor<'_>], metadata: &BTreeMap<String, String>) -> Result<()> {
    save(path, &to_bytes(tensors, metadata)?)
}

/// Writes `model-00001-of-0000N.safetensors` … and `model.safetensors.index.json` into `folder`, tensors in the order
/// given, `shards` files of about the same number of tensors.
pub fn write_sharded(
    folder: &Path,
    tensors: &[NewTensor<'_>],
    metadata: &BTreeMap<String, String>,
    shards: usize,
) -> Result<()> {
    let each = tensors.len().div_ceil(shards.max(1)).max(1);
    let count = tensors.chunks(each).len();
    let mut weight_map = BTreeMap::new();
    for (number, part) in tensors.chunks(each).enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        write(&folder.join(&name), part, metadata)?;
        weight_map.extend(part.iter().map(|tensor| (tensor.name, name.clone())));
    }
    let total: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    save(&folder.join("model.safetensors.index.json"), index.to_string().as_bytes())
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::io(format!("writing {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{BF16, F32};

    #[test]
    fn the_reference_crate_reads_what_is_written() {
        let narrow = encode_floats(&BF16, &[1.0, -2.5, 0.0, 3.0]).unwrap();
        let wide = encode_floats(&F32, &[0.5, 7.0]).unwrap();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let tensors = [
            NewTensor { name: "a", dtype: &BF16, shape: &[2, 2], bytes: &narrow },
            NewTensor { name: "b", dtype: &F32, shape: &[2], bytes: &wide },
        ];
        let bytes = to_bytes(&tensors, &metadata).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("a").unwrap().data(), narrow);
        assert_eq!(read.tensor("a").unwrap().shape(), [2, 2]);
        assert_eq!(read.tensor("b").unwrap().data(), wide);
    }

    #[test]
    fn bytes_that_do_not_fit_and_double_names_are_refused() {
        let one = NewTensor { name: "a", dtype: &F32, shape: &[2], bytes: &[0; 4] };
        assert!(to_bytes(&[one], &BTreeMap::new()).unwrap_err().doing.contains("4 bytes"));
        let two = NewTensor { name: "a", dtype: &F32, shape: &[1], bytes: &[0; 4] };
        assert!(to_bytes(&[two.clone(), two], &BTreeMap::new()).unwrap_err().doing.contains("twice"));
    }
}
