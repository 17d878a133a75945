//! A tiny Llama as a GGUF file: the names, the order of rows and the block formats that llama.cpp's converter and
//! quantiser write (`gguf-py/gguf/constants.py`, `ggml-quants.c`).

use half::f16;

use super::{Model, Weight};

/// Elements of a block of [`Quantization::Q8_0`] and [`Quantization::Q4_0`].
const BLOCK: usize = 32;

/// How matrices are stored; vectors are always `F32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 16-bit floats.
    F16,
    /// 8 bits and a scale for 32 elements.
    Q8_0,
    /// 4 bits and a scale for 32 elements.
    Q4_0,
}

impl Quantization {
    /// The name in a file's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
        }
    }

    /// ggml's number.
    const fn kind(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 8,
            Self::Q4_0 => 2,
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Self::Q8_0 => values.chunks(BLOCK).flat_map(q8_0).collect(),
            Self::Q4_0 => values.chunks(BLOCK).flat_map(q4_0).collect(),
        }
    }
}

fn q8_0(block: &[f32]) -> Vec<u8> {
    let largest = block.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut bytes = f16::from_f32(scale).to_le_bytes().to_vec();
    bytes.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    bytes
}

fn q4_0(block: &[f32]) -> Vec<u8> {
    let largest = block.iter().fold(0.0f32, |most, value| if value.abs() > most.abs() { *value } else { most });
    let scale = largest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let code = |value: f32| ((value * inverse + 8.5) as i32).clamp(0, 15) as u8;
    let mut bytes = f16::from_f32(scale).to_le_bytes().to_vec();
    let (low, high) = block.split_at(block.len() / 2);
    bytes.extend(low.iter().zip(high).map(|(low, high)| code(*low) | (code(*high) << 4)));
    bytes
}

/// The model as one file. Rows of every matrix must fill blocks of 32.
pub fn bytes(model: &Model, name: &str, quantization: Quantization) -> Vec<u8> {
    let number = |key: &str| model.config.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
    let heads = number("num_attention_heads");
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    let listed: Vec<(String, &Weight)> =
        model.tensors.iter().filter_map(|(name, weight)| Some((renamed(name)?, weight))).collect();
    let keys: Vec<(&str, Result<&str, u32>)> = vec![
        ("general.architecture", Ok("llama")),
        ("general.name", Ok(name)),
        ("llama.block_count", Err(number("num_hidden_layers") as u32)),
        ("llama.embedding_length", Err(number("hidden_size") as u32)),
        ("llama.feed_forward_length", Err(number("intermediate_size") as u32)),
        ("llama.attention.head_count", Err(heads as u32)),
        ("llama.attention.head_count_kv", Err(heads as u32)),
    ];
    header.extend((listed.len() as u64).to_le_bytes());
    header.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut header, key);
        match value {
            Ok(word) => {
                header.extend(8u32.to_le_bytes());
                text(&mut header, word);
            }
            Err(number) => {
                header.extend(4u32.to_le_bytes());
                header.extend(number.to_le_bytes());
            }
        }
    }
    let mut data = Vec::new();
    for (name, weight) in listed {
        let stored = if weight.shape.len() == 1 { None } else { Some(quantization) };
        let values = match name.rsplit('.').nth(1) {
            Some("attn_q" | "attn_k") => interleaved(weight, heads),
            _ => weight.values.clone(),
        };
        text(&mut header, &name);
        header.extend((weight.shape.len() as u32).to_le_bytes());
        weight.shape.iter().rev().for_each(|side| header.extend((*side as u64).to_le_bytes()));
        header.extend(stored.map_or(0, Quantization::kind).to_le_bytes());
        header.extend((data.len() as u64).to_le_bytes());
        data.extend(match stored {
            Some(quantization) => quantization.encode(&values),
            None => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
        data.resize(data.len().next_multiple_of(32), 0);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    header.extend(data);
    header
}

fn text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}

/// The name that llama.cpp gives a tensor.
fn renamed(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".weight")?;
    let layer = stem.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let of_layer = |part: &str| {
        Some(match part {
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            "input_layernorm" => "attn_norm",
            "post_attention_layernorm" => "ffn_norm",
            _ => return None,
        })
    };
    Some(match (layer, stem) {
        (Some((layer, part)), _) => format!("blk.{layer}.{}.weight", of_layer(part)?),
        (None, "model.embed_tokens") => "token_embd.weight".to_owned(),
        (None, "lm_head") => "output.weight".to_owned(),
        (None, "model.norm") => "output_norm.weight".to_owned(),
        (None, _) => return None,
    })
}

/// Rows in the order that Meta's and llama.cpp's rotary embedding wants: the two halves of a head take turns.
pub fn interleaved(weight: &Weight, heads: usize) -> Vec<f32> {
    let (rows, columns) = (weight.shape.first().copied().unwrap_or(0), weight.shape.get(1).copied().unwrap_or(1));
    let size = rows / heads.max(1);
    let row = |at: usize| weight.values.get(at * columns..(at + 1) * columns).unwrap_or_default();
    (0..rows)
        .flat_map(|at| {
            let (head, inside) = (at / size, at % size);
            row(head * size + (inside % 2) * (size / 2) + inside / 2)
        })
        .copied()
        .collect()
}
