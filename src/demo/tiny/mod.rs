//! Tiny models for the demo, the tests and the benches: made in memory from a seed, written as safetensors folders.
//!
//! Weights are random but not featureless: spectra fall off as in trained matrices, a few residual channels are loud,
//! and readers and writers share a few directions, so that honest changes look as correlated as they do in real life.

pub mod adapter;
pub mod derivatives;
pub mod edits;
pub mod gguf;
pub mod quantized;
pub mod torch;

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

use crate::checkpoint::safetensors::{self, NewTensor};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// A matrix or vector of a tiny model, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// Rows and columns; a vector has one dimension.
    pub shape: Vec<usize>,
    /// Values, as exact `f32`.
    pub values: Vec<f32>,
}

/// A model in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Tensors by their Hugging Face names.
    pub tensors: BTreeMap<String, Weight>,
    /// `config.json`.
    pub config: serde_json::Value,
}

/// The size of a tiny Llama.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TinySize {
    /// Residual width d.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// MLP width.
    pub inner: usize,
    /// Attention heads of 16 channels each.
    pub heads: usize,
    /// Vocabulary.
    pub vocabulary: usize,
}

impl Default for TinySize {
    fn default() -> Self {
        Self { width: 96, layers: 5, inner: 256, heads: 6, vocabulary: 160 }
    }
}

/// A source of numbers for one purpose: the same purpose and seed give the same numbers, whatever else is drawn.
pub fn random(seed: u64, purpose: &str) -> ChaCha8Rng {
    let mut bytes = [0u8; 32];
    bytes.copy_from_slice(&crate::ids::Digest::of(format!("{seed}/{purpose}").as_bytes()).0);
    ChaCha8Rng::from_seed(bytes)
}

/// A standard normal vector.
pub fn normal(random: &mut ChaCha8Rng, length: usize) -> Vec<f32> {
    (0..length).map(|_| StandardNormal.sample(random)).collect()
}

/// A random unit direction of the residual stream.
pub fn direction(seed: u64, purpose: &str, width: usize) -> Vec<f32> {
    let mut values = normal(&mut random(seed, purpose), width);
    let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter_mut().for_each(|value| *value /= norm);
    values
}

impl TinySize {
    /// A Llama of this size, different for every seed.
    pub fn llama(self, seed: u64) -> Model {
        let TinySize { width: d, layers, inner, heads, vocabulary } = self;
        let attention = heads * 16;
        let mut tensors = BTreeMap::new();
        // Residual channels of real models differ much in size, a few of them by far.
        let mut loudness: Vec<f32> =
            normal(&mut random(seed, "loudness"), d).iter().map(|value| (0.3 * value).exp()).collect();
        loudness.iter_mut().step_by(d / 3 + 1).for_each(|value| *value *= 5.0);
        // Directions that many matrices use.
        let common: Vec<Vec<f32>> = (0..6).map(|index| direction(seed, &format!("common {index}"), d)).collect();
        let mut matrix = |name: String, rows: usize, columns: usize, residual_rows: Option<bool>| {
            let mut source = random(seed, &name);
            let mut values = normal(&mut source, rows * columns);
            // A falling spectrum: a few random outer products of decreasing size on top of the noise.
            for rank in 0..24 {
                let size = 2.5 / (1.0 + rank as f32).powf(0.7);
                let mut left = normal(&mut source, rows);
                let mut right = normal(&mut source, columns);
                let shared = &common[rank % common.len()];
                match residual_rows {
                    Some(true) => left.iter_mut().zip(shared).for_each(|(a, b)| *a += 6.0 * b),
                    Some(false) => right.iter_mut().zip(shared).for_each(|(a, b)| *a += 6.0 * b),
                    None => {}
                }
                for (row, left) in values.chunks_exact_mut(columns).zip(&left) {
                    row.iter_mut().zip(&right).for_each(|(value, right)| *value += size * left * right / 8.0);
                }
            }
            if let Some(true) = residual_rows {
                for (row, factor) in values.chunks_exact_mut(columns).zip(&loudness) {
                    row.iter_mut().for_each(|value| *value *= factor);
                }
            }
            let scale = 0.4 / (columns as f32).sqrt();
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value * scale).to_f32());
            tensors.insert(name, Weight { shape: vec![rows, columns], values });
        };
        matrix("model.embed_tokens.weight".to_owned(), vocabulary, d, Some(false));
        matrix("lm_head.weight".to_owned(), vocabulary, d, Some(false));
        for layer in 0..layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
            for part in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] {
                matrix(at(part), attention, d, Some(false));
            }
            matrix(at("self_attn.o_proj"), d, attention, Some(true));
            matrix(at("mlp.gate_proj"), inner, d, Some(false));
            matrix(at("mlp.up_proj"), inner, d, Some(false));
            matrix(at("mlp.down_proj"), d, inner, Some(true));
        }
        for layer in 0..layers {
            for part in ["input_layernorm", "post_attention_layernorm"] {
                let name = format!("model.layers.{layer}.{part}.weight");
                let gains = normal(&mut random(seed, &name), d);
                let values = gains.iter().map(|value| bf16::from_f32(1.0 + 0.1 * value).to_f32()).collect();
                tensors.insert(name, Weight { shape: vec![d], values });
            }
        }
        tensors.insert("model.norm.weight".to_owned(), Weight { shape: vec![d], values: vec![1.0; d] });
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d, "num_hidden_layers": layers,
            "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": 16,
            "vocab_size": vocabulary, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        });
        Model { tensors, config }
    }
}

impl Model {
    /// The names of all tensors whose name ends in `.{module}.weight`, in layer order.
    pub fn named(&self, module: &str) -> Vec<String> {
        let ending = format!(".{module}.weight");
        let mut names: Vec<String> = self.tensors.keys().filter(|name| name.ends_with(&ending)).cloned().collect();
        names.sort_by_key(|name| layer_of(name));
        names
    }

    /// The writers: every `o_proj` and `down_proj`.
    pub fn writers(&self) -> Vec<String> {
        let mut names = self.named("self_attn.o_proj");
        names.extend(self.named("mlp.down_proj"));
        names
    }

    /// Every matrix of every layer.
    pub fn linear(&self) -> Vec<String> {
        self.tensors.keys().filter(|name| name.contains("_proj")).cloned().collect()
    }

    /// Writes the model as a folder in `F32`, `F16` or `BF16`: `shards` files with an index, or one file.
    pub fn write(&self, folder: &Path, dtype: &'static DType, shards: usize) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(format!("creating {}", folder.display()), e))?;
        let config = serde_json::to_vec_pretty(&self.config).unwrap_or_default();
        let path = folder.join("config.json");
        std::fs::write(&path, config).map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
        let stored: Vec<(&String, Vec<u64>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, weight)| {
                let shape = weight.shape.iter().map(|side| *side as u64).collect();
                (name, shape, safetensors::encode_floats(dtype, &weight.values).unwrap_or_default())
            })
            .collect();
        let tensors: Vec<NewTensor<'_>> =
            stored.iter().map(|(name, shape, bytes)| NewTensor { name, dtype, shape, bytes }).collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        if shards <= 1 {
            safetensors::write(&folder.join("model.safetensors"), &tensors, &metadata)
        } else {
            safetensors::write_sharded(folder, &tensors, &metadata, shards)
        }
    }
}

fn layer_of(name: &str) -> usize {
    name.split('.').find_map(|part| part.parse().ok()).unwrap_or(0)
}
