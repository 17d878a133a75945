//! What a folder's own files say of its lineage.

use serde_json::Value;

use super::Declarations;
use crate::checkpoint::{Checkpoint, FileSet};
use crate::error::Result;
use crate::limits;
use crate::source::parse;

/// The declarations in the small files (card, adapter configuration) and in an opened checkpoint's own metadata.
pub fn declarations(files: &FileSet, opened: Option<&Checkpoint>) -> Result<Declarations> {
    let text = |name: &str| -> Result<Option<String>> {
        let Some(file) = files.files.get(name).filter(|file| file.len() <= limits::MAX_CONFIG_BYTES) else {
            return Ok(None);
        };
        Ok(Some(String::from_utf8_lossy(&file.read(0..file.len())?).into_owned()))
    };
    let readme = text("README.md")?;
    let adapter = text("adapter_config.json")?;
    let adapter = adapter.and_then(|text| parse::json(text.as_bytes(), limits::MAX_CONFIG_VALUES_BYTES).ok());
    let mut metadata = opened.map(|opened| opened.metadata.clone()).unwrap_or_default();
    metadata.extend(opened.iter().flat_map(|opened| &opened.files).flat_map(|file| file.metadata.clone()));
    Ok(Declarations {
        card: readme.as_deref().map(front_matter).unwrap_or_default(),
        config: opened.map(|opened| opened.config.clone()).unwrap_or_default(),
        adapter: adapter.unwrap_or_default(),
        metadata,
        readme,
        ..Declarations::default()
    })
}

/// Keys of a card that are read. The rest of it, evaluation results above all, is passed over without being parsed.
const WANTED: &[&str] = &["base_model", "base_model_relation"];

/// The front matter of a card and what follows it; `None` where there is none.
///
/// By the pattern that `huggingface_hub` shares with its server (`REGEX_YAML_BLOCK` in `repocard.py`): white space may
/// stand before the first line of dashes, and for the server, whose pattern is JavaScript's, a byte order mark is white
/// space.
pub(crate) fn split_card(text: &str) -> Option<(&str, &str)> {
    let newline = ['\r', '\n'];
    let space = |c: char| c.is_whitespace() || c == '\u{feff}';
    let rest = text.trim_start_matches(space).strip_prefix("---").filter(|rest| rest.starts_with(newline))?;
    let mut from = 0;
    while let Some(at) = rest.get(from..).and_then(|left| left.find("---")).map(|at| from + at) {
        from = at + 3;
        let (front, body) = (&rest[..at], &rest[from..]);
        if front.ends_with(newline) && (body.is_empty() || body.starts_with(newline)) {
            return Some((front, body));
        }
    }
    None
}

/// What the front matter of a card says under the keys that are read; `Null` where there is no front matter.
pub fn front_matter(text: &str) -> Value {
    let Some((front, _)) = split_card(text) else { return Value::Null };
    // Each wanted key with the lines of its value: those that are indented, items of a list, or a bracket's end.
    let mut pieces: Vec<(&str, String)> = Vec::new();
    let mut wanted = false;
    for line in front.split(['\r', '\n']) {
        if !line.is_empty() && !line.starts_with([' ', '\t', '#', '-', ']', '}']) {
            let key = line.split_once(':').map_or("", |(key, _)| key.trim().trim_matches(['"', '\'']));
            wanted = WANTED.contains(&key);
            if wanted {
                // Of a key that comes twice the last is what YAML's readers take.
                pieces.retain(|(other, _)| *other != key);
                pieces.push((key, String::new()));
            }
        }
        if let Some((_, piece)) = pieces.last_mut().filter(|(_, piece)| wanted && piece.len() <= limits::MAX_YAML_BYTES)
        {
            piece.push_str(line);
            piece.push('\n');
        }
    }
    let values = pieces.into_iter().filter_map(|(key, piece)| {
        let value = parse::yaml(&piece)?.get(key)?.clone();
        Some((key.to_owned(), value))
    });
    Value::Object(values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_card_is_found_behind_white_space_and_a_byte_order_mark() {
        for before in ["", "\n", "\r\n\r\n", "  \n\t", "\u{feff}", "\u{feff}\n"] {
            for end in ["\n", "\r\n", "\r"] {
                let card = ["---", "license: mit", "base_model: org/base", "---", "# Title"].join(end);
                let card = format!("{before}{card}");
                assert_eq!(front_matter(&card), json!({"base_model": "org/base"}), "{card:?}");
                assert_eq!(split_card(&card).unwrap().1.trim(), "# Title");
            }
        }
        assert_eq!(front_matter("---\nbase_model: org/base\n---"), json!({"base_model": "org/base"}));
        for none in ["", "---", "# x\n---\nbase_model: a/b\n---\n", "--- base_model: a/b\n---\n", "---\na: b\n--- c\n"]
        {
            assert_eq!(front_matter(none), Value::Null, "{none:?}");
        }
    }

    #[test]
    fn only_the_wanted_keys_are_read() {
        let of = |front: &str| front_matter(&format!("---\n{front}\n---\n"));
        assert_eq!(of("base_model:\n- a/b\n- c/d\ntags:\n- x"), json!({"base_model": ["a/b", "c/d"]}));
        assert_eq!(of("base_model:\n  - a/b\n\n  # and\n  - c/d"), json!({"base_model": ["a/b", "c/d"]}));
        assert_eq!(of("base_model: [a/b, c/d]\nx: y"), json!({"base_model": ["a/b", "c/d"]}));
        assert_eq!(of("base_model: [\n  a/b\n]"), json!({"base_model": ["a/b"]}));
        assert_eq!(of("'base_model': a/b # said"), json!({"base_model": "a/b"}));
        assert_eq!(of("base_model: a/b\nbase_model: c/d"), json!({"base_model": "c/d"}));
        assert_eq!(
            of("base_model: ~\nbase_model_relation: quantized"),
            json!({"base_model": null, "base_model_relation": "quantized"})
        );
        assert_eq!(of("text: |\n  base_model: a/b"), json!({}));
        // What is broken or long elsewhere does not hide it.
        assert_eq!(of("widget: [\nbase_model: a/b\nx: \"open"), json!({"base_model": "a/b"}));
        let long = format!("model-index:\n{}base_model: a/b", "- results: [1, 2, {x: y}]\n".repeat(50_000));
        assert_eq!(of(&long), json!({"base_model": "a/b"}));
    }

    #[test]
    fn brackets_and_depth_are_refused_before_the_parser_sees_them() {
        let deep = |open: &str, count: usize| front_matter(&format!("---\nbase_model: {}\n---\n", open.repeat(count)));
        for (open, count) in
            [("[", 65), ("[", 1 << 20), ("{a: ", 1 << 20), ("[ # ]\n ", 100_000), ("\n - - -", 1 << 18)]
        {
            assert_eq!(deep(open, count), json!({}), "{open:?}");
        }
        let laughs = "base_model: [&a x, &b [*a, *a, *a], &c [*b, *b, *b], &d [*c, *c, *c], *d]";
        assert!(front_matter(&format!("---\n{laughs}\n---\n")).is_object());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_split_and_read(text in "(\\PC|[-\r\n \\[{:#]|---|base_model:){0,60}") {
            if let Some((front, body)) = split_card(&text) {
                proptest::prop_assert!(front.len() + body.len() + 6 <= text.len());
            }
            front_matter(&text);
        }
    }
}
