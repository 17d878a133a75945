//! The header of one GGUF file: keys, values and tensor entries, read through a window that grows as it goes.
//!
//! Format: `docs/gguf.md` of ggml, and for versions 1 and 2 `gguf.c` of their time. Versions 2 and 3 differ only in
//! that 3 allows big-endian files; version 1 has 32-bit counts and lengths.
//!
//! Every count and length is checked against the bytes that follow before anything is allocated for it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::Oddities;
use crate::checkpoint::{anomaly, turn};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    MANY_TENSORS, MAX_DEPTH, MAX_DIMENSIONS, MAX_GGUF_HEADER_BYTES, MAX_METADATA_ARRAY, MAX_METADATA_ELEMENTS,
    MAX_METADATA_KEYS, MAX_METADATA_TEXT_BYTES, MAX_METADATA_TEXTS_BYTES, MAX_NAMES_BYTES, MAX_TENSOR_NAME_BYTES,
    MAX_TENSORS,
};
use crate::source::ByteSource;

/// Bytes fetched first, and the most fetched ahead of need later: each fetch doubles, so that a remote header of 15 MB
/// takes seven requests.
const FIRST_WINDOW: u64 = 256 << 10;
const LARGEST_WINDOW: u64 = 8 << 20;

/// Alignment of tensor data where `general.alignment` does not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Elements of an array shown in metadata text.
const SHOWN_ELEMENTS: usize = 16;

/// A metadata value; of an array only its head.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A 32- or 64-bit float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string, cut at [`MAX_METADATA_TEXT_BYTES`].
    Text(String),
    /// An array: its length, and its first elements.
    Array(u64, Vec<Value>),
}

impl Value {
    /// The value as a count, where it is one.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The value as metadata text.
    pub fn text(&self) -> String {
        match self {
            Self::Unsigned(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(truth) => truth.to_string(),
            Self::Text(text) => text.clone(),
            Self::Array(length, head) => {
                let shown: Vec<String> = head.iter().take(SHOWN_ELEMENTS).map(Self::short_text).collect();
                let more = if *length > shown.len() as u64 {
                    format!("{}… ({length} in all)", if shown.is_empty() { "" } else { ", " })
                } else {
                    String::new()
                };
                format!("[{}{more}]", shown.join(", "))
            }
        }
    }

    /// An element's text within an array: long ones are cut, so that an array of templates stays one line.
    fn short_text(&self) -> String {
        let text = self.text();
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// A tensor entry as the header states it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Its extents, fastest first as in the file; `None` when there are too many to be a tensor.
    pub extents: Option<Box<[u64]>>,
    /// Its ggml type number.
    pub kind: u32,
    /// Where its data begin, counted from the start of the data section.
    pub offset: u64,
}

/// The header of one file.
#[derive(Debug)]
pub(super) struct GgufHeader {
    /// Whether numbers are stored highest byte first.
    pub big_endian: bool,
    /// Keys and values; the first of duplicates.
    pub values: BTreeMap<String, Value>,
    /// Tensor entries in file order, duplicates included.
    pub tensors: Vec<GgufTensor>,
    /// Where the data section begins in the file.
    pub data_start: u64,
    /// What tensor offsets must be multiples of.
    pub alignment: u64,
}

/// A value's type: its name is for messages.
#[derive(Clone, Copy)]
enum Kind {
    Unsigned(usize),
    Signed(usize),
    Float(usize),
    Bool,
    Text,
    Array,
}

impl Kind {
    /// The type of a type number (`enum gguf_type`).
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float(4),
            7 => Self::Bool,
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Float(8),
            _ => return None,
        })
    }
}

/// Reads the header of a file; oddities go to `oddities`. An error means that reading could not go on.
pub(super) fn read(source: &dyn ByteSource, oddities: &mut Oddities) -> Result<GgufHeader> {
    let mut reader = Reader {
        source,
        length: source.len(),
        position: 0,
        window: Vec::new(),
        window_start: 0,
        next_window: FIRST_WINDOW,
        big_endian: false,
        short_lengths: false,
        elements_left: MAX_METADATA_ELEMENTS,
        text_left: MAX_METADATA_TEXTS_BYTES,
    };
    reader.header(oddities)
}

struct Reader<'a> {
    source: &'a dyn ByteSource,
    length: u64,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
    next_window: u64,
    big_endian: bool,
    /// Version 1: lengths and counts are 32-bit.
    short_lengths: bool,
    /// How many more array elements may be kept.
    elements_left: usize,
    /// How many more bytes of metadata texts may be kept.
    text_left: usize,
}

impl Reader<'_> {
    fn error(&self, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("reading header of {}: {what}", self.source.name()))
    }

    fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// Moves on by `count` bytes without looking at them.
    fn skip(&mut self, count: u64, what: &str) -> Result<()> {
        if count > self.remaining() {
            return Err(self.error(
                ErrorKind::Malformed,
                format!("{what} at byte {} needs {count} bytes, but only {} follow", self.position, self.remaining()),
            ));
        }
        self.position += count;
        if self.position > MAX_GGUF_HEADER_BYTES {
            return Err(self.error(
                ErrorKind::TooLarge,
                format!("the header passes byte {}; the cap is {MAX_GGUF_HEADER_BYTES}", self.position),
            ));
        }
        Ok(())
    }

    /// The next `count` bytes.
    fn take(&mut self, count: u64, what: &str) -> Result<&[u8]> {
        let start = self.position;
        self.skip(count, what)?;
        let inside = start >= self.window_start && self.position - self.window_start <= self.window.len() as u64;
        if !inside {
            let end = start.saturating_add(self.next_window.max(count)).min(self.length);
            self.window = self.source.read(start..end)?.into_owned();
            self.window_start = start;
            self.next_window = (self.next_window * 2).min(LARGEST_WINDOW);
        }
        let from = (start - self.window_start) as usize;
        self.window.get(from..from + count as usize).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{} gave fewer bytes than asked for", self.source.name()))
        })
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<u64> {
        let big_endian = self.big_endian;
        let bytes = self.take(N as u64, what)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Ok(if big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }

    fn word(&mut self, what: &str) -> Result<u32> {
        Ok(self.number::<4>(what)? as u32)
    }

    /// A length or a count: 64 bits, in version 1 only 32.
    fn length_of(&mut self, what: &str) -> Result<u64> {
        if self.short_lengths { self.number::<4>(what) } else { self.number::<8>(what) }
    }

    fn length_bytes(&self) -> u64 {
        if self.short_lengths { 4 } else { 8 }
    }

    fn header(&mut self, oddities: &mut Oddities) -> Result<GgufHeader> {
        let (keys, tensors) = self.preamble(oddities)?;
        // The least a key takes: an empty name, a type, a byte.
        self.fits(keys, self.length_bytes() + 5, "keys")?;
        let mut values = BTreeMap::new();
        let mut left_out = 0u64;
        for _ in 0..keys {
            let key = self.text("the name of a key", MAX_TENSOR_NAME_BYTES, oddities)?;
            let doing = format!("the value of {key:?}");
            let kind = self.word(&doing)?;
            // Vocabularies are long, and nothing here needs more of them than their length.
            let keep = if key.starts_with("tokenizer.") { 0 } else { MAX_METADATA_ARRAY };
            let value = self.value(kind, &doing, keep, 0)?;
            let full = values.len() >= MAX_METADATA_KEYS;
            match values.entry(key) {
                Entry::Occupied(entry) => {
                    let detail = format!("the key {:?} is there twice; the first one counts", entry.key());
                    oddities.add(anomaly::DUPLICATE_KEY, None, detail);
                }
                Entry::Vacant(_) if full => left_out += 1,
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
            }
        }
        if left_out > 0 {
            oddities.add(anomaly::TOO_MANY_KEYS, None, format!("{keys} keys; {left_out} of them were read over"));
        }
        if tensors > MAX_TENSORS as u64 {
            return Err(self.error(ErrorKind::TooLarge, format!("{tensors} tensors; the cap is {MAX_TENSORS}")));
        }
        // The least a tensor takes: an empty name, no extents, a type, an offset.
        self.fits(tensors, self.length_bytes() + 16, "tensors")?;
        if tensors > MANY_TENSORS as u64 {
            turn::take();
        }
        let mut listed = Vec::with_capacity(tensors as usize);
        let mut name_bytes = 0;
        for _ in 0..tensors {
            let tensor = self.tensor(oddities)?;
            name_bytes += tensor.name.len();
            if name_bytes > MAX_NAMES_BYTES {
                let what = format!("the names of its tensors have more than {MAX_NAMES_BYTES} bytes");
                return Err(self.error(ErrorKind::TooLarge, what));
            }
            listed.push(tensor);
        }
        let alignment = alignment(&values, oddities);
        let data_start = self.position.next_multiple_of(alignment);
        Ok(GgufHeader { big_endian: self.big_endian, values, tensors: listed, data_start, alignment })
    }

    /// Magic, version, counts of keys and of tensors.
    fn preamble(&mut self, oddities: &mut Oddities) -> Result<(u64, u64)> {
        if self.length < 24 {
            return Err(self.error(ErrorKind::Malformed, format!("{} bytes are too few for a GGUF file", self.length)));
        }
        let magic = self.take(4, "the magic")?.to_vec();
        if magic != b"GGUF" {
            let seen = magic.escape_ascii();
            let hint = match &magic[..] {
                b"ggjt" | b"ggml" | b"ggmf" | b"tjgg" | b"lmgg" | b"fmgg" => " (a ggml file older than GGUF)",
                b"vers" => " (a Git LFS pointer instead of the file?)",
                b"PK\x03\x04" => " (a zip archive: PyTorch?)",
                b"<!DO" | b"<htm" => " (an HTML page)",
                [0x80, 2..=5, ..] => " (a Python pickle)",
                _ => "",
            };
            return Err(self.error(ErrorKind::Malformed, format!("it begins with \"{seen}\", not with GGUF{hint}")));
        }
        let mut version = self.word("the version")?;
        if version & 0xffff == 0 {
            self.big_endian = true;
            version = version.swap_bytes();
        }
        match version {
            1 => {
                self.short_lengths = true;
                oddities.add(anomaly::OLD_VERSION, None, "GGUF version 1, which today's tools refuse".to_owned());
            }
            2 | 3 => {}
            other => {
                return Err(self.error(ErrorKind::Unsupported, format!("GGUF version {other}; 1 to 3 are known")));
            }
        }
        let tensors = self.length_of("the number of tensors")?;
        let keys = self.length_of("the number of keys")?;
        Ok((keys, tensors))
    }

    /// Whether `count` things of at least `least` bytes can follow.
    fn fits(&self, count: u64, least: u64, what: &str) -> Result<()> {
        if count.checked_mul(least).is_none_or(|bytes| bytes > self.remaining()) {
            return Err(self.error(
                ErrorKind::Malformed,
                format!("{count} {what} are announced, but only {} bytes follow", self.remaining()),
            ));
        }
        Ok(())
    }

    /// A string, cut to `keep` bytes; the rest is passed over.
    fn text(&mut self, what: &str, keep: usize, oddities: &mut Oddities) -> Result<String> {
        let length = self.length_of(what)?;
        if length > self.remaining() {
            return Err(self.error(
                ErrorKind::Malformed,
                format!("{what} has a string length of {length}, but only {} bytes follow", self.remaining()),
            ));
        }
        let kept = length.min(keep as u64);
        let bytes = self.take(kept, what)?;
        let text = match str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(error) => {
                // A cut may fall into a character; anything else is odd.
                if kept == length || error.error_len().is_some() {
                    let detail = format!("{what} is not valid UTF-8");
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    oddities.add(anomaly::INVALID_UTF8, None, detail);
                    text
                } else {
                    String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default()).into_owned()
                }
            }
        };
        self.skip(length - kept, what)?;
        Ok(if kept < length { format!("{text}… ({length} bytes in all)") } else { text })
    }

    /// A value; of arrays the first `keep` elements.
    fn value(&mut self, kind: u32, what: &str, keep: usize, depth: usize) -> Result<Value> {
        let Some(kind) = Kind::of(kind) else {
            return Err(self.error(ErrorKind::Malformed, format!("{what} has the unknown type {kind}")));
        };
        Ok(match kind {
            Kind::Unsigned(bytes) => Value::Unsigned(self.integer(bytes, what)?),
            Kind::Signed(bytes) => {
                let shift = 64 - 8 * bytes as u32;
                Value::Signed((self.integer(bytes, what)? << shift) as i64 >> shift)
            }
            Kind::Float(4) => Value::Float(shortest(f32::from_bits(self.word(what)?))),
            Kind::Float(_) => Value::Float(f64::from_bits(self.integer(8, what)?)),
            Kind::Bool => Value::Bool(self.integer(1, what)? != 0),
            // Oddities of strings inside values are no news: tokens are often not UTF-8.
            Kind::Text => {
                let mut ignored = Oddities::new(self.source.name());
                let text = self.text(what, MAX_METADATA_TEXT_BYTES.min(self.text_left), &mut ignored)?;
                self.text_left = self.text_left.saturating_sub(text.len());
                Value::Text(text)
            }
            Kind::Array => self.array(what, keep, depth)?,
        })
    }

    fn integer(&mut self, bytes: usize, what: &str) -> Result<u64> {
        match bytes {
            1 => self.number::<1>(what),
            2 => self.number::<2>(what),
            4 => self.number::<4>(what),
            _ => self.number::<8>(what),
        }
    }

    fn array(&mut self, what: &str, keep: usize, depth: usize) -> Result<Value> {
        if depth >= MAX_DEPTH {
            return Err(self.error(ErrorKind::TooLarge, format!("{what} is nested deeper than {MAX_DEPTH} arrays")));
        }
        let number = self.word(what)?;
        let length = self.length_of(what)?;
        let Some(kind) = Kind::of(number) else {
            return Err(self.error(ErrorKind::Malformed, format!("{what} is an array of the unknown type {number}")));
        };
        let (least, fixed) = match kind {
            Kind::Unsigned(bytes) | Kind::Signed(bytes) | Kind::Float(bytes) => (bytes as u64, true),
            Kind::Bool => (1, true),
            Kind::Text => (self.length_bytes(), false),
            Kind::Array => (4 + self.length_bytes(), false),
        };
        if length.checked_mul(least).is_none_or(|bytes| bytes > self.remaining()) {
            return Err(self.error(
                ErrorKind::Malformed,
                format!("{what} is an array of {length} elements, but only {} bytes follow", self.remaining()),
            ));
        }
        let kept = length.min(keep.min(self.elements_left) as u64);
        self.elements_left -= kept as usize;
        let mut head = Vec::new();
        for _ in 0..kept {
            // Of arrays in arrays only the lengths are kept.
            head.push(self.value(number, what, 0, depth + 1)?);
        }
        let left = length - kept;
        match kind {
            _ if fixed => self.skip(left * least, what)?,
            Kind::Text => {
                for _ in 0..left {
                    let bytes = self.length_of(what)?;
                    self.skip(bytes, what)?;
                }
            }
            _ => {
                for _ in 0..left {
                    self.value(number, what, 0, depth + 1)?;
                }
            }
        }
        Ok(Value::Array(length, head))
    }

    fn tensor(&mut self, oddities: &mut Oddities) -> Result<GgufTensor> {
        let name = self.text("the name of a tensor", MAX_TENSOR_NAME_BYTES, oddities)?;
        let dimensions = self.word(&name)?;
        let each = self.length_bytes();
        self.fits(u64::from(dimensions), each, &format!("extents of tensor {name:?}"))?;
        let extents = if dimensions as usize > MAX_DIMENSIONS {
            self.skip(u64::from(dimensions) * each, &name)?;
            oddities.add(
                anomaly::TOO_MANY_DIMENSIONS,
                Some(&name),
                format!("{dimensions} dimensions; {MAX_DIMENSIONS} are the most that are read"),
            );
            None
        } else {
            let mut extents = Vec::with_capacity(dimensions as usize);
            for _ in 0..dimensions {
                extents.push(self.length_of(&name)?);
            }
            Some(extents.into_boxed_slice())
        };
        let kind = self.word(&name)?;
        let offset = self.number::<8>(&name)?;
        Ok(GgufTensor { name, extents, kind, offset })
    }
}

/// The decimal that was meant: an `f32` of 0.00001 is 0.00001, not 0.000009999999747378752.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

/// What tensor offsets must be multiples of.
fn alignment(values: &BTreeMap<String, Value>, oddities: &mut Oddities) -> u64 {
    let Some(value) = values.get("general.alignment") else { return DEFAULT_ALIGNMENT };
    match value.count() {
        // More than a gigabyte would be a way to push the data out of the file.
        Some(stated) if stated.is_power_of_two() && stated <= 1 << 30 => stated,
        _ => {
            let text = value.text();
            oddities.add(
                anomaly::BAD_ALIGNMENT,
                None,
                format!("general.alignment is {text}, not a power of two; {DEFAULT_ALIGNMENT} was used"),
            );
            DEFAULT_ALIGNMENT
        }
    }
}
