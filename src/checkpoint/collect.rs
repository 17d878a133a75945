//! Gathers what a reader finds: a bounded list of anomalies, and small JSON files.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::{Anomaly, AnomalyKind, FileSet, anomaly};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    MAX_ANOMALIES, MAX_ANOMALIES_OF_A_KIND, MAX_CONFIG_BYTES, MAX_CONFIG_VALUES_BYTES, MAX_JSON_BYTES,
};
use crate::source::parse;

/// The longest piece of a hostile name that a message repeats.
const SHOWN_BYTES: usize = 120;

/// Anomalies: at most [`MAX_ANOMALIES`] of them, and beyond those a few of every kind ([`MAX_ANOMALIES_OF_A_KIND`]), so
/// that a thousand harmless oddities cannot keep out the one that counts.
#[derive(Debug, Default)]
pub(crate) struct Anomalies {
    kept: Vec<Anomaly>,
    of_kind: BTreeMap<&'static str, usize>,
    dropped: u64,
}

impl Anomalies {
    /// Notes an oddity of a file.
    pub fn file(&mut self, kind: AnomalyKind, file: &str, detail: impl Into<String>) {
        self.push(kind, file, None, detail.into());
    }

    /// Notes an oddity of a tensor.
    pub fn tensor(&mut self, kind: AnomalyKind, file: &str, tensor: &str, detail: impl Into<String>) {
        self.push(kind, file, Some(shown(tensor)), detail.into());
    }

    fn push(&mut self, kind: AnomalyKind, file: &str, tensor: Option<String>, detail: String) {
        // The same oddity of the same thing is one oddity.
        let new = Anomaly::new(kind, shown(file), tensor, detail);
        if self.kept.last() == Some(&new) {
            return;
        }
        let of_kind = self.of_kind.entry(kind.word()).or_default();
        if self.kept.len() < MAX_ANOMALIES || *of_kind < MAX_ANOMALIES_OF_A_KIND {
            *of_kind += 1;
            self.kept.push(new);
        } else {
            self.dropped += 1;
        }
    }

    /// Whether an oddity of this kind was noted.
    pub fn has(&self, kind: AnomalyKind) -> bool {
        self.of_kind.contains_key(kind.word())
    }

    /// The sorted list; a last line tells how many more there were.
    pub fn finish(mut self) -> Vec<Anomaly> {
        self.kept.sort();
        self.kept.dedup();
        if self.dropped > 0 {
            let detail = format!("{} more are not listed", self.dropped);
            self.kept.push(Anomaly::new(anomaly::MORE_ANOMALIES, "", None, detail));
        }
        self.kept
    }
}

/// A name from a file, cut to a length fit for a message.
pub(crate) fn shown(name: &str) -> String {
    if name.len() <= SHOWN_BYTES {
        return name.to_owned();
    }
    let mut end = SHOWN_BYTES;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes)", &name[..end], name.len())
}

/// A name by which a tensor is kept: its own unless that is too long to be listed.
pub(crate) fn kept_name(name: &str) -> String {
    if name.len() <= crate::limits::MAX_TENSOR_NAME_BYTES {
        return name.to_owned();
    }
    format!("{} sha256:{}", shown(name), crate::ids::Digest::of(name.as_bytes()).hex())
}

/// The JSON of a small file of the set, `Null` when there is none; what cannot be read becomes an anomaly.
pub(crate) fn small_json(files: &FileSet, name: &str, anomalies: &mut Anomalies) -> Value {
    let Some(source) = files.files.get(name) else { return Value::Null };
    if source.len() > MAX_CONFIG_BYTES {
        anomalies.file(anomaly::BAD_CONFIG, name, format!("{} bytes, more than {MAX_CONFIG_BYTES}", source.len()));
        return Value::Null;
    }
    let read = source.read(0..source.len()).map_err(|e| e.one_line());
    match read.and_then(|bytes| parse::json(&bytes, MAX_CONFIG_VALUES_BYTES)) {
        Ok(value) => value,
        Err(reason) => {
            anomalies.file(anomaly::BAD_CONFIG, name, format!("cannot be read as JSON: {reason}"));
            Value::Null
        }
    }
}

/// The `config.json` that belongs to the weights of a folder (empty or ending in a slash), else the top folder's.
pub(crate) fn config_json(files: &FileSet, folder: &str, anomalies: &mut Anomalies) -> Value {
    let own = format!("{folder}config.json");
    let name = if files.files.contains_key(&own) { &own } else { "config.json" };
    small_json(files, name, anomalies)
}

/// The bytes of a JSON file of any size up to [`MAX_JSON_BYTES`].
pub(crate) fn json_bytes(source: &dyn crate::source::ByteSource) -> Result<std::borrow::Cow<'_, [u8]>> {
    if source.len() > MAX_JSON_BYTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("reading {}: {} bytes, more than {MAX_JSON_BYTES}", source.name(), source.len()),
        ));
    }
    source.read(0..source.len())
}

/// A JSON object whose values are strings, in the order of the file and with every duplicate.
#[derive(Debug, Default)]
pub(crate) struct StringPairs {
    /// Key and value.
    pub pairs: Vec<(String, String)>,
    /// Keys whose value was something else.
    pub odd: Vec<String>,
    /// Set when the value is not an object at all.
    pub not_a_map: bool,
    /// Entries left out because there were more than `LIMIT`.
    pub left_out: u64,
}

/// [`StringPairs`] with at most `LIMIT` pairs.
pub(crate) struct Strings<const LIMIT: usize>(pub StringPairs);

impl<'de, const LIMIT: usize> Deserialize<'de> for Strings<LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<const LIMIT: usize>;
        impl<'de, const LIMIT: usize> Visitor<'de> for Pairs<LIMIT> {
            type Value = StringPairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringPairs, A::Error> {
                let mut read = StringPairs::default();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value::<MaybeString>()?.0;
                    if read.pairs.len() + read.odd.len() >= LIMIT {
                        read.left_out += 1;
                        continue;
                    }
                    match value {
                        Some(value) => read.pairs.push((key, value)),
                        None => read.odd.push(key),
                    }
                }
                Ok(read)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<StringPairs, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(not_a_map())
            }
            fn visit_str<E>(self, _: &str) -> Result<StringPairs, E> {
                Ok(not_a_map())
            }
            fn visit_bool<E>(self, _: bool) -> Result<StringPairs, E> {
                Ok(not_a_map())
            }
            fn visit_i64<E>(self, _: i64) -> Result<StringPairs, E> {
                Ok(not_a_map())
            }
            fn visit_u64<E>(self, _: u64) -> Result<StringPairs, E> {
                Ok(not_a_map())
            }
            fn visit_f64<E>(self, _: f64) -> Result<StringPairs, E> {
                Ok(not_a_map())
            }
            fn visit_unit<E>(self) -> Result<StringPairs, E> {
                Ok(not_a_map())
            }
        }
        deserializer.deserialize_any(Pairs::<LIMIT>).map(Strings)
    }
}

fn not_a_map() -> StringPairs {
    StringPairs { not_a_map: true, ..StringPairs::default() }
}

/// A string, or `None` for any other JSON value (which is skipped without being kept).
pub(crate) struct MaybeString(pub Option<String>);

impl<'de> Deserialize<'de> for MaybeString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Option<String>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Some(text.to_owned()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(None)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(None)
            }
        }
        deserializer.deserialize_any(One).map(MaybeString)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_capped_and_says_so() {
        let mut anomalies = Anomalies::default();
        for number in 0..MAX_ANOMALIES + 5 {
            anomalies.file(anomaly::GAP, "f", number.to_string());
        }
        let list = anomalies.finish();
        assert_eq!(list.len(), MAX_ANOMALIES + 1);
        assert_eq!(list.last().unwrap().detail, "5 more are not listed");
    }

    #[test]
    fn many_oddities_of_one_kind_do_not_keep_out_another() {
        let mut anomalies = Anomalies::default();
        for number in 0..MAX_ANOMALIES + 5 {
            anomalies.file(anomaly::GAP, "f", number.to_string());
        }
        for number in 0..2 * MAX_ANOMALIES_OF_A_KIND {
            anomalies.file(anomaly::CODE_ON_LOAD, "f", number.to_string());
        }
        let list = anomalies.finish();
        assert_eq!(list.iter().filter(|anomaly| anomaly.is(anomaly::CODE_ON_LOAD)).count(), MAX_ANOMALIES_OF_A_KIND);
        assert_eq!(list.last().unwrap().detail, format!("{} more are not listed", MAX_ANOMALIES_OF_A_KIND + 5));
    }

    #[test]
    fn long_names_are_cut_on_a_character() {
        let name = "ä".repeat(4000);
        assert!(shown(&name).starts_with(&"ä".repeat(60)) && shown(&name).ends_with("(8000 bytes)"));
        assert!(kept_name(&name).len() < 300);
        assert_eq!(kept_name("a"), "a");
    }
}
