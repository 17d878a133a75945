//! Keys of `rank_pattern` and `alpha_pattern`, matched as PEFT matches them.
//!
//! PEFT (`get_pattern_key` in `peft/utils/other.py`) takes the first key, in the order of the object, for which
//! `re.match(rf"(.*\.)?({key})$", name)` holds. Two engines read the same text here, so only syntax that means the same
//! to both is taken; with anything else no module's scale is known.

use std::collections::BTreeMap;

use regex::bytes::{RegexSet, RegexSetBuilder};
use regex_syntax::ast::{self, Ast};
use serde_json::Value;

use super::super::collect::shown;
use crate::limits::{MAX_PATTERN_BYTES, MAX_PATTERN_EXPRESSIONS, MAX_PATTERN_PROGRAM_BYTES, MAX_PATTERNS};

/// The keys of one object with their values.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    /// Values in the order of the object.
    values: Vec<Value>,
    /// Keys without an expression in them, by their length: nearly all that are published.
    literals: BTreeMap<usize, Vec<Literal>>,
    /// The other keys.
    expressions: Option<RegexSet>,
    /// Place of each of them in the object.
    places: Vec<usize>,
    /// Why no module can be looked up.
    unusable: Option<String>,
}

/// A key that is a name: plain characters, and dots that stand for any character.
#[derive(Debug)]
struct Literal {
    place: usize,
    /// Only the whole name will do (`^` before it).
    whole: bool,
    /// `None` is any character.
    text: Vec<Option<u8>>,
}

impl Patterns {
    /// Reads an array of pairs, as the configuration keeps the object (see [`super::config`]).
    pub fn read(value: &Value) -> Self {
        let pairs = match value {
            Value::Null => return Self::default(),
            Value::Array(pairs) => pairs,
            _ => return Self::unusable("is no object".to_owned()),
        };
        if pairs.len() > MAX_PATTERNS {
            return Self::unusable(format!("has {} keys, more than {MAX_PATTERNS}", pairs.len()));
        }
        let mut read = Self::default();
        let mut expressions = Vec::new();
        for (place, pair) in pairs.iter().enumerate() {
            let (Some(key), Some(value)) = (pair.get(0).and_then(Value::as_str), pair.get(1)) else {
                return Self::unusable("is no object".to_owned());
            };
            read.values.push(value.clone());
            match Literal::read(key, place) {
                Some(literal) => read.literals.entry(literal.text.len()).or_default().push(literal),
                None => match expression(key) {
                    Ok(expression) => {
                        expressions.push(expression);
                        read.places.push(place);
                    }
                    Err(reason) => return Self::unusable(format!("has a key that {reason}")),
                },
            }
        }
        if expressions.len() > MAX_PATTERN_EXPRESSIONS {
            let count = expressions.len();
            return Self::unusable(format!("has {count} expressions as keys, more than {MAX_PATTERN_EXPRESSIONS}"));
        }
        if !expressions.is_empty() {
            // Names are plain ASCII where they are looked up, so bytes are characters.
            let set = RegexSetBuilder::new(&expressions)
                .unicode(false)
                .size_limit(MAX_PATTERN_PROGRAM_BYTES)
                .dfa_size_limit(MAX_PATTERN_PROGRAM_BYTES)
                .build();
            match set {
                Ok(set) => read.expressions = Some(set),
                Err(_) => return Self::unusable("has keys that make too large an expression".to_owned()),
            }
        }
        read
    }

    /// None that can be looked up, and why.
    pub fn unusable(reason: String) -> Self {
        Self { unusable: Some(reason), ..Self::default() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.unusable.is_none()
    }

    /// The value of the first key that fits the module's name; why it cannot be told.
    pub fn of(&self, module: &str) -> Result<Option<&Value>, String> {
        if let Some(reason) = &self.unusable {
            return Err(reason.clone());
        }
        if self.values.is_empty() {
            return Ok(None);
        }
        if !module.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has keys, and the module's name is not plain ASCII".to_owned());
        }
        let ends = std::iter::once(0).chain(module.match_indices('.').map(|(at, _)| at + 1));
        let literal = ends.filter_map(|start| {
            let end = module.as_bytes().get(start..)?;
            let fitting = self.literals.get(&end.len())?.iter().find(|literal| literal.fits(end, start == 0));
            fitting.map(|literal| literal.place)
        });
        let matches = self.expressions.as_ref().map(|set| set.matches(module.as_bytes()));
        let expression = matches.iter().flatten().filter_map(|number| self.places.get(number)).copied();
        Ok(literal.chain(expression).min().and_then(|place| self.values.get(place)))
    }
}

impl Literal {
    fn read(key: &str, place: usize) -> Option<Self> {
        let (whole, rest) = key.strip_prefix('^').map_or((false, key), |rest| (true, rest));
        let mut text = Vec::with_capacity(rest.len());
        let mut bytes = rest.bytes();
        while let Some(byte) = bytes.next() {
            text.push(match byte {
                b'.' => None,
                b'\\' => Some(bytes.next().filter(|byte| *byte == b'.')?),
                // A last `$` says again what the end says.
                b'$' if bytes.len() == 0 => break,
                byte if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' => Some(byte),
                _ => return None,
            });
        }
        Some(Self { place, whole, text })
    }

    fn fits(&self, end: &[u8], is_whole: bool) -> bool {
        (is_whole || !self.whole)
            && self.text.iter().zip(end).all(|(wanted, byte)| wanted.is_none_or(|wanted| wanted == *byte))
    }
}

/// The key as an expression over the whole name; why it cannot be one.
fn expression(key: &str) -> Result<String, String> {
    if key.len() > MAX_PATTERN_BYTES {
        return Err(format!("has {} bytes, more than {MAX_PATTERN_BYTES}", key.len()));
    }
    // Put together as text, as PEFT does: a key may close its bracket and open another.
    let whole = format!(r"(.*\.)?({key})$");
    let parsed = ast::parse::ParserBuilder::new().nest_limit(32).build().parse(&whole);
    let parsed = parsed.map_err(|_| format!("is no expression that is handled: {:?}", shown(key)))?;
    if !means_the_same(&parsed) {
        return Err(format!("Python's expressions may read otherwise: {:?}", shown(key)));
    }
    Ok(format!(r"\A(?:{whole})"))
}

/// Whether Python's `re` and the `regex` crate agree on this syntax for plain ASCII texts.
fn means_the_same(ast: &Ast) -> bool {
    match ast {
        Ast::Empty(_) | Ast::Dot(_) | Ast::ClassPerl(_) => true,
        Ast::Flags(_) | Ast::ClassUnicode(_) => false,
        Ast::Literal(literal) => plain(literal),
        Ast::Assertion(assertion) => matches!(
            assertion.kind,
            ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::WordBoundary
                | ast::AssertionKind::NotWordBoundary
        ),
        Ast::ClassBracketed(class) => match &class.kind {
            ast::ClassSet::Item(item) => plain_item(item),
            ast::ClassSet::BinaryOp(_) => false,
        },
        // A sign after a sign is possessive to one and repeats a repetition to the other.
        Ast::Repetition(repetition) => {
            !matches!(*repetition.ast, Ast::Repetition(_) | Ast::Assertion(_)) && means_the_same(&repetition.ast)
        }
        Ast::Group(group) => {
            let same = match &group.kind {
                ast::GroupKind::CaptureIndex(_) => true,
                ast::GroupKind::CaptureName { starts_with_p, .. } => *starts_with_p,
                ast::GroupKind::NonCapturing(flags) => flags.items.is_empty(),
            };
            same && means_the_same(&group.ast)
        }
        Ast::Alternation(alternation) => alternation.asts.iter().all(means_the_same),
        Ast::Concat(concat) => concat.asts.iter().all(means_the_same),
    }
}

fn plain(literal: &ast::Literal) -> bool {
    use ast::{HexLiteralKind, LiteralKind};
    match &literal.kind {
        // Python reads a brace that counts nothing as itself, and some of its counts are no counts here.
        LiteralKind::Verbatim => !matches!(literal.c, '{' | '}'),
        LiteralKind::Meta | LiteralKind::Superfluous | LiteralKind::HexFixed(HexLiteralKind::X) => true,
        _ => false,
    }
}

fn plain_item(item: &ast::ClassSetItem) -> bool {
    use ast::ClassSetItem;
    match item {
        ClassSetItem::Empty(_) | ClassSetItem::Perl(_) => true,
        ClassSetItem::Literal(literal) => plain(literal) || matches!(literal.c, '{' | '}'),
        ClassSetItem::Range(range) => plain(&range.start) && plain(&range.end),
        ClassSetItem::Union(union) => union.items.iter().all(plain_item),
        ClassSetItem::Ascii(_) | ClassSetItem::Unicode(_) | ClassSetItem::Bracketed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAME: &str = "model.layers.12.self_attn.o_proj";

    fn first(keys: &[&str]) -> Result<Option<u64>, String> {
        let pairs: Vec<Value> = keys.iter().enumerate().map(|(at, key)| json!([key, at])).collect();
        Ok(Patterns::read(&Value::Array(pairs)).of(NAME)?.and_then(Value::as_u64))
    }

    /// Each answer is that of Python 3.11's `re.match(rf"(.*\.)?({key})$", NAME)`.
    #[test]
    fn keys_fit_as_they_do_in_python() {
        let fitting = [
            "o_proj",
            "self_attn.o_proj",
            "self_attn_o_proj|o_proj",
            "selfXattn|.*o_proj",
            NAME,
            "^model.layers.12.self_attn.o_proj",
            "^model.*",
            r"model\.layers\.12\.self_attn\.o_proj",
            r".*\.layers\.(12|3)\..*(o_proj|down_proj)$",
            r"layers\.\d+\.self_attn\.[ov]_proj",
            "layers.1[0-9].*",
            "self.attn.o.proj",
            "layers.(?:1|12).self_attn.o_proj",
            "x)|(.*o_proj",
            "o_proj$",
            r"\w+",
            "",
        ];
        let not_fitting = [
            "proj",
            "model.layers.12",
            "^o_proj",
            "^self_attn.o_proj",
            "layers.1.self_attn.o_proj",
            "O_PROJ",
            "o_pro",
            r"self_attn\\.o_proj",
            r"layers\.\d\.self_attn\.o_proj",
            "[^o]_proj",
        ];
        for key in fitting {
            // The empty key would need the name to end in a dot.
            let expected = if key.is_empty() { None } else { Some(0) };
            assert_eq!(first(&[key]), Ok(expected), "{key}");
        }
        for key in not_fitting {
            assert_eq!(first(&[key]), Ok(None), "{key}");
        }
        assert_eq!(first(&["q_proj", "o_proj", ".*"]), Ok(Some(1)), "the first that fits wins");
        assert_eq!(first(&["q_proj", ".*_proj", "o_proj"]), Ok(Some(1)));
    }

    #[test]
    fn what_two_engines_may_read_apart_is_refused() {
        let odd = [
            "(?=x)o_proj",
            r"(o)\1",
            "(?i)O_PROJ",
            "a*+",
            "a**",
            "[a&&b]",
            "[[:alpha:]]",
            r"\p{L}",
            r"o_proj\z",
            "(",
            "o{",
            "[a--b]",
            r"\<o_proj",
            "(?<n>o_proj)",
        ];
        for key in odd {
            assert!(first(&[key]).is_err(), "{key}");
            assert!(first(&["o_proj", key]).is_err(), "{key}");
        }
    }

    #[test]
    fn costs_are_bounded() {
        assert!(first(&[&"(a|b)".repeat(MAX_PATTERN_BYTES)]).is_err());
        assert!(first(&[r"((\w{50}){50}){50}"]).is_err());
        let many: Vec<Value> = (0..=MAX_PATTERNS).map(|at| json!([at.to_string(), 1])).collect();
        assert!(Patterns::read(&Value::Array(many)).of(NAME).is_err());
        let expressions: Vec<Value> = (0..=MAX_PATTERN_EXPRESSIONS).map(|at| json!([format!("a*{at}"), 1])).collect();
        assert!(Patterns::read(&Value::Array(expressions)).of(NAME).is_err());
        // Polynomial for an engine that goes back; linear here.
        let long = format!("{}.x", "a".repeat(4000));
        let read = Patterns::read(&json!([["(a*)*(a*)*(a*)*b", 1]]));
        assert_eq!(read.of(&long), Ok(None));
        assert!(Patterns::read(&json!(true)).of(NAME).is_err());
        assert!(read.of("ä").is_err());
    }
}
