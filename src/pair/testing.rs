//! Small checkpoints in memory, for tests of pairing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, CheckpointFile, Storage, TensorEntry};
use crate::source::Bytes;
use crate::tensor::F32;

/// A tensor by name, shape and numbers.
pub struct TestTensor(pub String, pub Vec<u64>, pub Vec<f32>);

/// Numbers that depend on the seed alone, roughly uniform in -0.5 .. 0.5.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() - 0.5).collect()
}

/// A tensor of random numbers whose seed is its name.
pub fn tensor(name: &str, shape: &[u64]) -> TestTensor {
    let seed = name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let count = shape.iter().product::<u64>() as usize;
    TestTensor(name.to_owned(), shape.to_vec(), numbers(seed, count))
}

/// A checkpoint of one file of `F32` tensors.
pub fn checkpoint(config: Value, tensors: Vec<TestTensor>) -> Checkpoint {
    let mut bytes = Vec::new();
    let mut entries = BTreeMap::new();
    for TestTensor(name, shape, values) in tensors {
        let start = bytes.len() as u64;
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let range = start..bytes.len() as u64;
        entries.insert(name.clone(), TensorEntry { name, dtype: &F32, shape, file: 0, range, storage: Storage::Plain });
    }
    Checkpoint {
        label: "test".into(),
        format: "test",
        files: vec![CheckpointFile {
            name: "model.bin".into(),
            source: Arc::new(Bytes::new("model.bin", bytes)),
            sha256: None,
            metadata: BTreeMap::new(),
        }],
        tensors: entries,
        config,
        metadata: BTreeMap::new(),
        anomalies: Vec::new(),
    }
}
