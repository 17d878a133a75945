//! The header of one safetensors file: eight bytes of length, then a JSON object.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. Read leniently, so that every oddity is seen: the
//! reference reader lets the last of two equal names win and refuses a whole file for one unknown dtype.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::checkpoint::collect::{MaybeString, StringPairs, Strings};
use crate::checkpoint::turn;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    MANY_TENSORS, MAX_BAD_DESCRIPTIONS, MAX_DIMENSIONS, MAX_METADATA_ENTRIES, MAX_SAFETENSORS_HEADER_BYTES, MAX_TENSORS,
};
use crate::source::ByteSource;

/// A header as it stands, before any check of numbers.
#[derive(Debug, Default)]
pub(crate) struct SafetensorsHeader {
    /// Where the data begins.
    pub data_start: u64,
    /// Name and description, in the order of the file, duplicates included.
    pub tensors: Vec<(String, Described)>,
    /// `__metadata__`, as many as there are.
    pub metadata: Vec<StringPairs>,
    /// Whether something precedes the opening brace.
    pub padded_front: bool,
}

/// One tensor's description. A header holds many thousands of these, hence no more room than the numbers take.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Described {
    /// `dtype`, when it is a string.
    pub dtype: Option<Box<str>>,
    /// `shape`, when it is a list of at most [`MAX_DIMENSIONS`] whole numbers that are not negative.
    pub shape: Result<Box<[u64]>, &'static str>,
    /// `data_offsets`, when it is a list of two such numbers.
    pub offsets: Result<Box<[u64]>, &'static str>,
    /// Fields that the format does not have.
    pub extra_fields: u32,
    /// Fields that come twice.
    pub double_fields: u32,
    /// Whether the description is an object at all.
    pub is_object: bool,
}

impl Default for Described {
    fn default() -> Self {
        Self {
            dtype: None,
            shape: Err("there is no shape"),
            offsets: Err("there are no data_offsets"),
            extra_fields: 0,
            double_fields: 0,
            is_object: false,
        }
    }
}

/// Reads the header and nothing else of the file.
pub(crate) fn read(source: &dyn ByteSource) -> Result<SafetensorsHeader> {
    let name = source.name();
    let fail = |kind, what: String| Error::new(kind, format!("reading header of {name}: {what}"));
    let size = source.len();
    if size < 8 {
        return Err(fail(ErrorKind::Malformed, format!("{size} bytes are too few for a safetensors file")));
    }
    let length = source.read(0..8)?;
    let length = length.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    if length > size - 8 {
        return Err(fail(ErrorKind::Malformed, format!("it claims {length} bytes, the file has {size}")));
    }
    if length > MAX_SAFETENSORS_HEADER_BYTES {
        return Err(fail(
            ErrorKind::TooLarge,
            format!("it has {length} bytes, more than {MAX_SAFETENSORS_HEADER_BYTES}"),
        ));
    }
    let text = source.read(8..8 + length)?;
    let text = std::str::from_utf8(&text)
        .map_err(|e| Error::because(ErrorKind::Malformed, format!("reading header of {name}: it is not UTF-8"), e))?;
    let mut header: SafetensorsHeader = serde_json::from_str(text).map_err(|e| {
        let kind =
            if e.is_data() && e.to_string().contains(TOO_MANY) { ErrorKind::TooLarge } else { ErrorKind::Malformed };
        Error::because(kind, format!("reading header of {name}: it is not the JSON object it should be"), e)
    })?;
    header.data_start = 8 + length;
    header.padded_front = !text.starts_with('{');
    Ok(header)
}

const TOO_MANY: &str = "too many tensors";

impl<'de> Deserialize<'de> for SafetensorsHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = SafetensorsHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SafetensorsHeader, A::Error> {
                let mut header = SafetensorsHeader::default();
                let mut bad = 0;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let pairs = map.next_value::<Strings<MAX_METADATA_ENTRIES>>()?.0;
                        // The first two are enough to tell that there are too many.
                        if header.metadata.len() < 2 {
                            header.metadata.push(pairs);
                        }
                        continue;
                    }
                    if header.tensors.len() >= MAX_TENSORS {
                        return Err(A::Error::custom(format_args!("{TOO_MANY}: more than {MAX_TENSORS}")));
                    }
                    let described = map.next_value::<Described>()?;
                    bad += usize::from(!described.is_object);
                    if bad > MAX_BAD_DESCRIPTIONS {
                        let what = "descriptions of tensors are no objects";
                        return Err(A::Error::custom(format_args!("more than {MAX_BAD_DESCRIPTIONS} {what}")));
                    }
                    if header.tensors.len() == MANY_TENSORS {
                        turn::take();
                    }
                    header.tensors.push((name, described));
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Top)
    }
}

impl<'de> Deserialize<'de> for Described {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Described;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tensor's description")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Described, A::Error> {
                let mut read = Described { is_object: true, ..Described::default() };
                let mut seen = [false; 3];
                while let Some(field) = map.next_key::<String>()? {
                    let place = match field.as_str() {
                        "dtype" => {
                            read.dtype = map.next_value::<MaybeString>()?.0.map(String::into_boxed_str);
                            0
                        }
                        "shape" => {
                            read.shape = map.next_value::<Numbers<MAX_DIMENSIONS>>()?.0;
                            1
                        }
                        "data_offsets" => {
                            read.offsets = map.next_value::<Numbers<2>>()?.0;
                            2
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            read.extra_fields = read.extra_fields.saturating_add(1);
                            continue;
                        }
                    };
                    read.double_fields +=
                        u32::from(std::mem::replace(&mut seen[place], true) && read.double_fields < 99);
                }
                Ok(read)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Described, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Described::default())
            }
            fn visit_str<E>(self, _: &str) -> Result<Described, E> {
                Ok(Described::default())
            }
            fn visit_bool<E>(self, _: bool) -> Result<Described, E> {
                Ok(Described::default())
            }
            fn visit_u64<E>(self, _: u64) -> Result<Described, E> {
                Ok(Described::default())
            }
            fn visit_i64<E>(self, _: i64) -> Result<Described, E> {
                Ok(Described::default())
            }
            fn visit_f64<E>(self, _: f64) -> Result<Described, E> {
                Ok(Described::default())
            }
            fn visit_unit<E>(self) -> Result<Described, E> {
                Ok(Described::default())
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

/// A list of at most `MOST` whole numbers, or what is wrong with it.
struct Numbers<const MOST: usize>(Result<Box<[u64]>, &'static str>);

impl<'de, const MOST: usize> Deserialize<'de> for Numbers<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<const MOST: usize>;
        impl<'de, const MOST: usize> Visitor<'de> for List<MOST> {
            type Value = Result<Box<[u64]>, &'static str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut numbers = Vec::new();
                let mut wrong = None;
                while let Some(Number(number)) = seq.next_element()? {
                    match number {
                        Err(what) => wrong = Some(what),
                        Ok(_) if numbers.len() >= MOST => wrong = Some("the list is too long"),
                        Ok(number) => numbers.push(number),
                    }
                }
                Ok(wrong.map_or(Ok(numbers.into_boxed_slice()), Err))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Err(NOT_A_LIST))
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Err(NOT_A_LIST))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Err(NOT_A_LIST))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Err(NOT_A_LIST))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Err(NOT_A_LIST))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Err(NOT_A_LIST))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Err(NOT_A_LIST))
            }
        }
        deserializer.deserialize_any(List::<MOST>).map(Numbers)
    }
}

const NOT_A_LIST: &str = "it is not a list of numbers";

struct Number(Result<u64, &'static str>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Result<u64, &'static str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Ok(number))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Err("a number is negative"))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Err("a number is not a whole number below 2^64"))
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Err("a string stands for a number"))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Err("a boolean stands for a number"))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Err("null stands for a number"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Err("a list stands for a number"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Err("an object stands for a number"))
            }
        }
        deserializer.deserialize_any(One).map(Number)
    }
}
