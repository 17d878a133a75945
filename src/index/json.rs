//! JSON out of the index with its numbers exact.
//!
//! `serde_json` reads a fraction to within one unit in its last place unless it is built otherwise; what was stored has
//! to come back equal, so the fractions are read once more, exactly, from the text.

use serde_json::{Number, Value};

use crate::error::{Error, ErrorKind, Result};

/// The value of a JSON text that was written by `serde_json`.
pub(super) fn exact(text: &str) -> Result<Value> {
    let mut value: Value = serde_json::from_str(text)
        .map_err(|error| Error::because(ErrorKind::Index, "reading JSON from the index", error))?;
    let mut tokens = Tokens { rest: text };
    correct(&mut value, &mut tokens);
    Ok(value)
}

/// Replaces each number by what its token says. Value and text have their numbers in the same order, since objects keep
/// their keys sorted when written and when read.
fn correct(value: &mut Value, tokens: &mut Tokens<'_>) {
    match value {
        Value::Number(number) => {
            if let Some(token) = tokens.next()
                && number.is_f64()
                && let Ok(exact) = token.parse::<f64>()
                && let Some(exact) = Number::from_f64(exact)
            {
                *number = exact;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| correct(item, tokens)),
        Value::Object(entries) => entries.iter_mut().for_each(|(_, item)| correct(item, tokens)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The number tokens of a JSON text, strings passed over.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let start = self.rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            let rest = self.rest.get(start..)?;
            if let Some(string) = rest.strip_prefix('"') {
                let mut escaped = false;
                let end = string.find(|c: char| {
                    let closes = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    closes
                })?;
                self.rest = string.get(end + 1..)?;
                continue;
            }
            let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
            let (token, rest) = rest.split_at(end);
            self.rest = rest;
            return Some(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn every_finite_number_comes_back(numbers in proptest::collection::vec(any::<f64>(), 0..20), key in ".*", n in any::<i64>()) {
            let finite: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
            let value = json!({ key: finite, "n": n, "nested": [{ "1.5": "say \"2.5\" \\" , "x": 0.1 }] });
            prop_assert_eq!(exact(&value.to_string()).unwrap(), value);
        }
    }
}
