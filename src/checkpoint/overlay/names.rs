//! The same weight in the names of the two worlds: an adapter of llama.cpp over a base of safetensors, and the reverse.

use serde_json::Value;

use crate::checkpoint::Checkpoint;

/// Names of a block's matrices, without `.weight`: below `model.layers.N.` and below `blk.N.`.
const BLOCK: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("linear_attn.out_proj", "ssm_out"),
];

/// Names of matrices outside of blocks.
const OUTSIDE: &[(&str, &str)] = &[("model.embed_tokens", "token_embd"), ("lm_head", "output")];

/// Beginnings of the model types whose q and k llama.cpp's converter stores with the two halves of each head in turns.
const IN_TURNS: &[&str] = &["llama", "mistral", "ministral", "mixtral", "olmo", "granite", "baichuan", "internlm2"];

/// How the rows of a weight lie in the base, seen from the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// As in the adapter.
    Same,
    /// In heads of this size: the adapter's in turns (GGUF), the base's half after half.
    Apart(usize),
    /// The reverse.
    InTurns(usize),
}

/// The weight's other names (with `.weight`), most likely first.
pub(super) fn others(name: &str) -> Vec<String> {
    let Some(stem) = name.strip_suffix(".weight") else { return Vec::new() };
    let outside = OUTSIDE.iter().filter_map(|(ours, theirs)| match stem {
        _ if stem == *ours => Some(format!("{theirs}.weight")),
        _ if stem == *theirs => Some(format!("{ours}.weight")),
        _ => None,
    });
    let block = |prefix: &str| {
        let at = stem.find(prefix)? + prefix.len();
        stem.get(at..)?.split_once('.')
    };
    let mut names: Vec<String> = outside.collect();
    if let Some((number, rest)) = block("layers.") {
        names.extend(BLOCK.iter().filter(|row| row.0 == rest).map(|row| format!("blk.{number}.{}.weight", row.1)));
    } else if let Some((number, rest)) = block("blk.") {
        let found = BLOCK.iter().filter(|row| row.1 == rest);
        names.extend(found.map(|row| format!("model.layers.{number}.{}.weight", row.0)));
    }
    names
}

/// How the rows of a base's weight lie that was found under another name.
pub(super) fn rows(base: &Checkpoint, name: &str) -> Rows {
    let config = &base.config;
    let kind = config["model_type"].as_str().or_else(|| config["gguf_architecture"].as_str()).unwrap_or_default();
    let number = |name: &str| config[name].as_u64().or_else(|| config["text_config"][name].as_u64());
    let head = number("head_dim").or_else(|| number("hidden_size")?.checked_div(number("num_attention_heads")?));
    let in_turns = IN_TURNS.iter().any(|start| kind.starts_with(start)) && config["text_config"] == Value::Null;
    let Some(head) = head.filter(|head| in_turns && *head >= 2 && head.is_multiple_of(2) && *head < 1 << 16) else {
        return Rows::Same;
    };
    let ends = |ends: [&str; 2]| ends.iter().any(|end| name.ends_with(end));
    if ends(["self_attn.q_proj.weight", "self_attn.k_proj.weight"]) {
        Rows::Apart(head as usize)
    } else if ends(["attn_q.weight", "attn_k.weight"]) {
        Rows::InTurns(head as usize)
    } else {
        Rows::Same
    }
}

impl Rows {
    /// The adapter's row for a row of the base.
    pub fn of_adapter(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Apart(head) => {
                let (half, within) = (head / 2, row % head);
                row - within + within % half * 2 + within / half
            }
            Self::InTurns(head) => {
                let (half, within) = (head / 2, row % head);
                row - within + within % 2 * half + within / 2
            }
        }
    }

    /// Whether the rows are whole heads.
    pub fn fits(self, rows: u64) -> bool {
        match self {
            Self::Same => true,
            Self::Apart(head) | Self::InTurns(head) => rows.is_multiple_of(head as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        assert_eq!(others("blk.3.attn_output.weight"), ["model.layers.3.self_attn.o_proj.weight"]);
        assert_eq!(others("model.layers.12.mlp.down_proj.weight"), ["blk.12.ffn_down.weight"]);
        assert_eq!(others("token_embd.weight"), ["model.embed_tokens.weight"]);
        assert_eq!(others("lm_head.weight"), ["output.weight"]);
        assert_eq!(others("blk.0.ffn_up.weight").len(), 2);
        assert!(others("blk.0.weight").is_empty() && others("x").is_empty());
    }

    #[test]
    fn rows_in_turns_undo_rows_apart() {
        let order: Vec<usize> = (0..16).map(|row| Rows::Apart(8).of_adapter(row)).collect();
        assert_eq!(order, [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
        for (row, apart) in order.into_iter().enumerate() {
            assert_eq!(Rows::InTurns(8).of_adapter(apart), row);
        }
    }
}
