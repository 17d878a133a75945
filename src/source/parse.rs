//! JSON and YAML that an uploader wrote, held to what they would cost before a parser sees them.

use serde_json::Value;

use crate::limits::{MAX_DEPTH, MAX_YAML_BYTES};

/// Bytes that one value takes in memory, and what a list and an object take at least once there is something in them.
const VALUE_BYTES: usize = size_of::<Value>();
const LIST_BYTES: usize = 4 * VALUE_BYTES;
const OBJECT_BYTES: usize = 640;

/// JSON as a value. Refused, with the reason in words, where it is none or where its values might take more than `most`
/// bytes in memory: two bytes of text can become some hundred.
pub(crate) fn json(text: &[u8], most: usize) -> Result<Value, String> {
    // Commas and brackets within strings are counted too, so that this can only be too much.
    let cost = text.iter().fold(VALUE_BYTES, |sum, byte| match byte {
        b',' => sum.saturating_add(VALUE_BYTES),
        b'[' => sum.saturating_add(LIST_BYTES),
        b'{' => sum.saturating_add(OBJECT_BYTES),
        _ => sum,
    });
    if cost > most {
        return Err(format!("it holds too many values: about {cost} bytes of them, more than {most}"));
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// YAML as a value; `None` for what is none, is longer than [`MAX_YAML_BYTES`], or opens more than [`MAX_DEPTH`]
/// brackets: the parser's time grows with their square.
pub(crate) fn yaml(text: &str) -> Option<Value> {
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    let bounded = text.len() <= MAX_YAML_BYTES && brackets <= MAX_DEPTH;
    bounded.then(|| serde_yaml_ng::from_str::<Value>(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_CONFIG_VALUES_BYTES;

    #[test]
    fn json_of_many_values_is_refused_before_it_is_read() {
        for piece in ["0,", "[],", "{},", "{\"\":0},", "\"\","] {
            let text = format!("[{}0]", piece.repeat((8 << 20) / piece.len()));
            assert!(json(text.as_bytes(), MAX_CONFIG_VALUES_BYTES).unwrap_err().contains("too many values"), "{piece}");
        }
        let modules: Vec<String> = (0..20_000).map(|at| format!("model.layers.{at}.mlp.experts.7.up_proj")).collect();
        let text = serde_json::to_vec(&serde_json::json!({"modules_to_not_convert": modules})).unwrap();
        assert!(json(&text, MAX_CONFIG_VALUES_BYTES).is_ok());
        assert!(json(b"{", MAX_CONFIG_VALUES_BYTES).unwrap_err().contains("EOF"));
    }

    #[test]
    fn yaml_of_many_brackets_or_bytes_is_refused_before_it_is_read() {
        assert!(yaml(&"[".repeat(MAX_DEPTH + 1)).is_none());
        assert!(yaml(&"[ # ]\n ".repeat(MAX_DEPTH + 1)).is_none());
        assert!(yaml(&format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))).is_some());
        assert!(yaml(&format!("a: {}", "x".repeat(MAX_YAML_BYTES))).is_none());
    }
}
