//! Makes text that came from a repository harmless to show: one line, no control or invisible characters, not too long.
//!
//! Escaping for a language (HTML, CSV, Markdown) is each renderer's own second step; this is the first step for all.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Longest name shown in full. The longest honest tensor name (an expert of a multimodal mixture) has about 90.
pub const NAME_CHARACTERS: usize = 120;

/// Longest sentence shown in full: reasons and details hold a name or two.
pub const SENTENCE_CHARACTERS: usize = 600;

/// A name made harmless, cut in its middle beyond [`NAME_CHARACTERS`].
pub fn name(text: &str) -> String {
    clean(text, NAME_CHARACTERS)
}

/// A sentence made harmless, cut in its middle beyond [`SENTENCE_CHARACTERS`].
pub fn sentence(text: &str) -> String {
    clean(text, SENTENCE_CHARACTERS)
}

/// `text` with every character that could move a cursor, hide or reorder others written as `\u{…}`, and its middle
/// left out (saying how long it was) when it has more than `limit` characters.
pub fn clean(text: &str, limit: usize) -> String {
    // Only the kept ends are looked at, so a name of a megabyte costs no more than a short one beyond the count.
    let length = text.chars().count();
    if length <= limit {
        return escape(text.chars());
    }
    let tail = limit / 3;
    let head = limit - tail;
    let start = escape(text.chars().take(head));
    let mut last: Vec<char> = text.chars().rev().take(tail).collect();
    last.reverse();
    format!("{start}…{} ({length} characters)", escape(last.into_iter()))
}

/// Columns that `text` takes in a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` cut in its middle to at most `columns` terminal columns, an ellipsis standing for what is left out: names
/// that are listed together begin alike (a hub, an owner) and often end alike too (a commit, a format).
pub fn fit(text: &str, columns: usize, ellipsis: &str) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(width(ellipsis));
    let taken = |characters: &mut dyn Iterator<Item = char>, room: usize| {
        let mut used = 0;
        let within = |character: &char| {
            used += character.width().unwrap_or(0);
            used <= room
        };
        characters.take_while(within).collect::<Vec<char>>()
    };
    let mut end = taken(&mut text.chars().rev(), room / 2);
    end.reverse();
    let mut out: String = taken(&mut text.chars(), room - room / 2).into_iter().collect();
    out.push_str(ellipsis);
    out.extend(end);
    out
}

/// Breaks `text` at spaces into lines of at most `columns`; a longer word is broken where the line ends.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let gap = usize::from(!line.is_empty());
        if width(&line) + gap + width(word) <= columns {
            if gap == 1 {
                line.push(' ');
            }
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for character in word.chars() {
            if width(&line) + character.width().unwrap_or(0) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(character);
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Whether a character must not reach a reader as itself: controls, line and paragraph separators, everything that
/// changes the direction of text, and everything that takes no place (zero-width, fillers, tags, selectors).
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn escape(characters: impl Iterator<Item = char>) -> String {
    // Two combining marks on one letter are honest writing; a stack of them covers the neighbouring lines.
    const MARKS: usize = 2;
    let mut out = String::new();
    let mut marks = 0;
    for character in characters {
        marks = if character.width() == Some(0) { marks + 1 } else { 0 };
        if is_unsafe(character) || marks > MARKS {
            out.extend(character.escape_unicode());
            marks = 0;
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_direction_overrides_become_visible() {
        assert_eq!(name("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(name("gpj\u{202e}exe"), "gpj\\u{202e}exe");
        assert_eq!(name("line\nbreak\ttab\u{7f}\u{9b}"), "line\\u{a}break\\u{9}tab\\u{7f}\\u{9b}");
        assert_eq!(name("in\u{200b}visible\u{e0041}"), "in\\u{200b}visible\\u{e0041}");
    }

    #[test]
    fn honest_writing_passes() {
        for text in ["model.layers.0.mlp.down_proj.weight", "模型", "café", "e\u{301}", "λ = 0.5", "سلام"] {
            assert_eq!(name(text), text);
        }
    }

    #[test]
    fn stacked_marks_are_escaped() {
        let stack = format!("a{}", "\u{301}".repeat(9));
        assert!(name(&stack).contains("\\u{301}"));
    }

    #[test]
    fn a_megabyte_is_cut_and_its_length_told() {
        let cut = name(&"x".repeat(1 << 20));
        assert!(cut.len() < 200, "{}", cut.len());
        assert!(cut.ends_with("(1048576 characters)"), "{cut}");
    }

    #[test]
    fn wrapping_and_fitting_respect_columns() {
        for line in wrap(&format!("some words and {}", "y".repeat(50)), 20) {
            assert!(width(&line) <= 20, "{line}");
        }
        assert_eq!(fit("abcdef", 4, "…"), "ab…f");
        assert_eq!(width(&fit("模型模型", 5, "…")), 5);
    }

    proptest::proptest! {
        #[test]
        fn nothing_unsafe_survives(text in "\\PC*|.*") {
            proptest::prop_assert!(!clean(&text, 50).chars().any(is_unsafe));
        }
    }
}
