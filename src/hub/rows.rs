//! Hubs' answers read row by row: of each row only the values that are looked at, of each value no more than a bound.
//!
//! A parsed JSON value takes some twenty times its text, and what a repository's row holds is its uploader's choice. So
//! rows are taken out of the text one at a time, and what is not kept is read over.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Answer, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Where rows lie in an answer, and what of them is kept.
pub(super) struct Shape {
    /// Objects around the list; the list itself may be the answer or lie under any of these keys, one in another.
    pub(super) around: &'static [&'static str],
    /// Numbers beside the list that are kept.
    pub(super) beside: &'static [&'static str],
    /// Keys of a row that are kept.
    pub(super) kept: &'static [&'static str],
}

/// The rows of one answer.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The rows that are objects, with what is kept of them.
    pub(super) rows: Vec<Value>,
    /// All rows, with those that are none.
    pub(super) all: usize,
    /// Numbers beside the list.
    pub(super) beside: Map<String, Value>,
    listed: bool,
    bytes: usize,
}

impl Shape {
    /// Reads a list of rows. `what` names it in errors (`the listing`). Fails as `Malformed` where there is none, and
    /// as `TooLarge` where its rows take more than [`limits::MAX_PAGE_BYTES`].
    pub(super) fn list(&self, answer: &Answer, what: &str) -> Result<Rows> {
        let doing = || format!("reading {what} {}", shown(&answer.url));
        let mut rows = Rows::default();
        let mut text = serde_json::Deserializer::from_slice(&answer.body);
        let read = List { shape: self, rows: &mut rows }.deserialize(&mut text).and_then(|()| text.end());
        if rows.bytes > limits::MAX_PAGE_BYTES || rows.rows.len() > limits::MAX_TREE_FILES {
            return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than one page may hold", doing())));
        }
        read.map_err(|error| Error::because(ErrorKind::Malformed, doing(), error))?;
        if !rows.listed {
            return Err(Error::new(ErrorKind::Malformed, format!("{}: not a list", doing())));
        }
        Ok(rows)
    }

    /// Reads one row, which may lie in the objects around it.
    pub(super) fn one(&self, answer: &Answer) -> Result<Value> {
        let mut text = serde_json::Deserializer::from_slice(&answer.body);
        let row = Row { shape: self }.deserialize(&mut text).and_then(|row| text.end().map(|()| row));
        row.map_err(|error| {
            Error::because(ErrorKind::Malformed, format!("reading the answer of {}", shown(&answer.url)), error)
        })
    }
}

/// What every visitor takes that looks for one thing and leaves the others.
macro_rules! scalars {
    ($made:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($made)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($made)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($made)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($made)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($made)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($made)
        }
    };
}

/// The list, through the objects around it.
struct List<'a> {
    shape: &'a Shape,
    rows: &'a mut Rows,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.rows.listed = true;
        while let Some((row, bytes)) = items.next_element_seed(Counted(Row { shape: self.shape }))? {
            self.rows.all += 1;
            if row.is_object() {
                self.rows.bytes += bytes;
                self.rows.rows.push(row);
            }
            if self.rows.bytes > limits::MAX_PAGE_BYTES || self.rows.rows.len() > limits::MAX_TREE_FILES {
                return Err(A::Error::custom("too many rows"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            if !self.rows.listed && self.shape.around.contains(&key.as_str()) {
                entries.next_value_seed(List { shape: self.shape, rows: &mut *self.rows })?;
            } else if self.shape.beside.contains(&key.as_str()) {
                let value = entries.next_value_seed(Bounded { left: &mut 1024, depth: 0 })?;
                self.rows.beside.insert(key, value);
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    scalars!(());
}

/// A row with the bytes it takes.
struct Counted<'a>(Row<'a>);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = (Value, usize);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let row = self.0.deserialize(deserializer)?;
        let bytes = taken(&row);
        Ok((row, bytes))
    }
}

/// Bytes that a value takes in memory, roughly.
fn taken(value: &Value) -> usize {
    NODE + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(taken).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| NODE + key.len() + taken(value)).sum(),
        _ => 0,
    }
}

/// One row: an object with the values that are kept; `Null` for anything else.
struct Row<'a> {
    shape: &'a Shape,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut row = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if self.shape.around.contains(&key.as_str()) {
                // A single row in its wrapping: what is inside is the row.
                let inner = entries.next_value_seed(Row { shape: self.shape })?;
                row.insert(key, inner);
            } else if key.eq_ignore_ascii_case("tags") {
                row.insert(key, entries.next_value_seed(Tags)?);
            } else if self.shape.kept.contains(&key.as_str()) {
                let mut left = limits::MAX_FACT_BYTES;
                let value = entries.next_value_seed(Bounded { left: &mut left, depth: 0 })?;
                row.insert(key, if left == 0 { Value::Null } else { value });
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(row))
    }

    scalars!(Value::Null);
}

/// Tags: the first ones, and none that is longer than a tag.
struct Tags;

impl<'de> DeserializeSeed<'de> for Tags {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tags {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tags")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut tags = Vec::new();
        while tags.len() < limits::MAX_TAGS {
            // Room for a tag that is too long, which is then known to be so.
            match items.next_element_seed(Bounded { left: &mut (NODE + limits::MAX_TAG_BYTES + 1), depth: 0 })? {
                Some(Value::String(tag)) if tag.len() <= limits::MAX_TAG_BYTES => tags.push(Value::String(tag)),
                Some(_) => {}
                None => return Ok(Value::Array(tags)),
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(tags))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    scalars!(Value::Null);
}

/// What a value takes beside its text: itself, and its place in a map.
const NODE: usize = 64;

/// A value of which no more than `left` bytes are made; 0 of them are left when it was larger.
struct Bounded<'a> {
    left: &'a mut usize,
    depth: usize,
}

impl Bounded<'_> {
    fn spend(&mut self, bytes: usize) -> bool {
        *self.left = self.left.saturating_sub(bytes);
        *self.left > 0
    }

    /// Whether a list or an object may be looked into.
    fn opens(&mut self) -> bool {
        if self.depth >= limits::MAX_DEPTH {
            *self.left = 0;
        }
        self.spend(NODE)
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<Value, E> {
        self.spend(NODE);
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<Value, E> {
        self.spend(NODE);
        Ok(Value::from(value))
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<Value, E> {
        self.spend(NODE);
        Ok(Value::from(value))
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<Value, E> {
        self.spend(NODE);
        Ok(Value::from(value))
    }

    fn visit_unit<E>(mut self) -> Result<Value, E> {
        self.spend(NODE);
        Ok(Value::Null)
    }

    fn visit_str<E>(mut self, text: &str) -> Result<Value, E> {
        Ok(if self.spend(NODE + text.len()) { Value::String(text.to_owned()) } else { Value::Null })
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut made = Vec::new();
        if self.opens() {
            while let Some(item) = items.next_element_seed(Bounded { left: &mut *self.left, depth: self.depth + 1 })? {
                made.push(item);
                if *self.left == 0 {
                    break;
                }
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(made))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut made = Map::new();
        if self.opens() {
            while let Some(key) = entries.next_key::<String>()? {
                if !self.spend(NODE + key.len()) {
                    entries.next_value::<IgnoredAny>()?;
                    break;
                }
                let value = entries.next_value_seed(Bounded { left: &mut *self.left, depth: self.depth + 1 })?;
                made.insert(key, value);
                if *self.left == 0 {
                    break;
                }
            }
        }
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    const SHAPE: Shape = Shape { around: &["Data"], beside: &["total"], kept: &["id", "card"] };

    fn answer(body: String) -> Answer {
        Answer {
            url: Url::parse("http://127.0.0.1:8/x").unwrap(),
            status: 200,
            headers: http::HeaderMap::new(),
            body: body.into(),
        }
    }

    #[test]
    fn rows_keep_what_is_looked_at_wherever_the_list_lies() {
        for body in [
            r#"[{"id":"a","x":[1,{"y":2}],"card":{"k":[1.5,null,true,-3,"t"]},"tags":["t",7,["u"]]},3,[4],null]"#,
            r#"{"Code":200,"Data":{"total":9,"Data":[{"id":"a","card":{"k":[1.5,null,true,-3,"t"]},"tags":["t"]},0,0,0]}}"#,
        ] {
            let rows = SHAPE.list(&answer(body.to_owned()), "a list").unwrap();
            assert_eq!((rows.rows.len(), rows.all), (1, 4), "{body}");
            let wanted = serde_json::json!({"id": "a", "card": {"k": [1.5, null, true, -3, "t"]}, "tags": ["t"]});
            assert_eq!(rows.rows[0], wanted, "{body}");
        }
        let inside = SHAPE.list(&answer(r#"{"Data":{"total":9,"Data":[]}}"#.to_owned()), "a list").unwrap();
        assert_eq!(inside.beside["total"], 9);
        for broken in ["", "{", "[{]", "7", "{}", "{\"other\":[]}", "[] []"] {
            let error = SHAPE.list(&answer(broken.to_owned()), "a list").unwrap_err();
            assert_eq!(error.kind, ErrorKind::Malformed, "{broken}");
        }
    }

    #[test]
    fn hostile_rows_take_bounded_memory() {
        let tags: Vec<String> = (0..200_000).map(|tag| format!("\"tag-{tag}\"")).collect();
        let long = "x".repeat(1 << 20);
        let bodies = [
            format!("[{}0]", "0,".repeat(2_000_000)),
            format!("[{{\"id\":\"a\",\"tags\":[\"{long}\",{}]}}]", tags.join(",")),
            format!("[{{\"id\":\"a\",\"card\":[{}0]}}]", "0,".repeat(1_000_000)),
            format!("[{{\"id\":\"a\",\"card\":{{\"k\":\"{}\"}}}}]", "y".repeat(4 << 20)),
            format!("[{{\"id\":\"a\",\"card\":{}{}}}]", "[".repeat(100), "]".repeat(100)),
        ];
        for body in bodies {
            let rows = SHAPE.list(&answer(body), "a list").unwrap();
            let bytes: usize = rows.rows.iter().map(taken).sum();
            assert!(bytes <= limits::MAX_TAGS * (NODE + limits::MAX_TAG_BYTES), "{bytes} bytes");
            for row in &rows.rows {
                assert_eq!(row["id"], "a");
                let tags = row["tags"].as_array().map_or(0, Vec::len);
                assert!(tags == 0 || tags == limits::MAX_TAGS, "{tags}");
            }
        }
        // A value that is too large is unknown, not cut.
        let body = format!("[{{\"id\":\"a\",\"card\":[{}0]}}]", "0,".repeat(1_000_000));
        assert!(SHAPE.list(&answer(body), "a list").unwrap().rows[0]["card"].is_null());
        let row = SHAPE.one(&answer(r#"{"Data":{"id":"b","other":1}}"#.to_owned())).unwrap();
        assert_eq!(row["Data"], serde_json::json!({"id": "b"}));
    }
}
