//! Text of strangers for a terminal: nothing in it moves the cursor, changes colours or turns the reading direction.

use std::borrow::Cow;

/// The text with control characters and those that change the reading direction written as `\u{…}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_stays_and_the_rest_is_spelled_out() {
        assert!(matches!(plain("hf:org/λ-model 日本"), Cow::Borrowed(_)));
        assert_eq!(plain("a\u{1b}[31mb\u{202e}c\n"), "a\\u{1b}[31mb\\u{202e}c\\u{a}");
    }
}
