//! The fingerprint as a value and as bytes.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::limits::{MAX_FINGERPRINT_BYTES, MAX_SKETCHED_SLOTS, MAX_SKETCHES};

/// The version of fingerprints that this build makes: where places or codes change, it does.
pub const FINGERPRINT_VERSION: u16 = 1;

/// The first bytes of every fingerprint.
const MAGIC: &[u8; 4] = b"OFPR";

/// Stands for a sketch outside of all blocks.
const NO_LAYER: u32 = u32::MAX;

/// Bytes of a slot's name or of a family's; the table's are far shorter.
pub(super) const NAME_BYTES: usize = 64;

/// Sketches that a fingerprint has at least, and that two of them have in common to be comparable.
pub(super) const ENOUGH: usize = 3;

/// Numbers of one sketch at most.
pub(super) const SAMPLES: usize = 64;

/// What sketches of one kind have in common: where two fingerprints have the same one, they were sampled at the same
/// places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SketchedSlot {
    /// The slot, the same in every naming scheme.
    pub slot: String,
    /// Rows that the place was chosen among: of an embedding not all, so that a resized vocabulary has the same places.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// Numbers in each sketch.
    pub samples: u8,
}

impl SketchedSlot {
    /// Whether it is a norm's gains. They are few, change little in training and are easily taken over from another
    /// model, so they are no evidence of kinship; of two kin they help to say which is nearer.
    pub fn is_gain(&self) -> bool {
        self.slot.ends_with("norm")
    }
}

/// A run of one matrix' values with mean and scale taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    /// Index of its slot in [`Fingerprint::slots`].
    pub slot: u16,
    /// The block; `None` outside of all blocks.
    pub layer: Option<u32>,
    /// The values in eight-thousandths of their standard deviation, cut at four of them.
    pub codes: Vec<i16>,
}

/// What a checkpoint is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The architecture that the configuration states; empty where it states none.
    pub declared: String,
    /// The family that names and shapes tell.
    pub family: String,
    /// Width of the residual stream, 0 where it is not known.
    pub width: u64,
    /// Blocks.
    pub layers: u32,
    /// Rows of the embedding, 0 where there is none.
    pub vocabulary: u64,
    /// The kinds of sketches.
    pub slots: Vec<SketchedSlot>,
    /// The sketches, in the order of blocks.
    pub sketches: Vec<Sketch>,
}

impl Fingerprint {
    /// As bytes: a magic word, the version, the shape, the slots, the sketches; all numbers little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(FINGERPRINT_VERSION.to_le_bytes());
        put_text(&mut out, &self.declared);
        put_text(&mut out, &self.family);
        out.extend(self.width.to_le_bytes());
        out.extend(self.layers.to_le_bytes());
        out.extend(self.vocabulary.to_le_bytes());
        out.extend((self.slots.len() as u16).to_le_bytes());
        for slot in &self.slots {
            put_text(&mut out, &slot.slot);
            out.extend(slot.rows.to_le_bytes());
            out.extend(slot.columns.to_le_bytes());
            out.push(slot.samples);
        }
        out.extend((self.sketches.len() as u16).to_le_bytes());
        for sketch in &self.sketches {
            out.extend(sketch.slot.to_le_bytes());
            out.extend(sketch.layer.unwrap_or(NO_LAYER).to_le_bytes());
            sketch.codes.iter().for_each(|code| out.extend(code.to_le_bytes()));
        }
        out
    }

    /// Reads what [`Self::to_bytes`] wrote; `Malformed` where it is anything else, `Unsupported` for another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::Malformed, "reading a fingerprint: its bytes are not one");
        if bytes.len() > MAX_FINGERPRINT_BYTES {
            return Err(wrong());
        }
        let mut reader = Reader { rest: bytes };
        if reader.take(MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(wrong());
        }
        let version = reader.number::<2>().map(u16::from_le_bytes).ok_or_else(wrong)?;
        if version != FINGERPRINT_VERSION {
            let what = format!("reading a fingerprint: its version is {version}, this build's {FINGERPRINT_VERSION}");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        reader.fingerprint().filter(|_| reader.rest.is_empty()).ok_or_else(wrong)
    }

    /// SHA-256 over [`Self::to_bytes`].
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }
}

/// A name, cut where it is longer than names are.
pub(super) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(NAME_BYTES)).unwrap_or_default()
}

/// A text with its length before it.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text);
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
}

/// What is left to be read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(*self.take(1)?.first()?);
        String::from_utf8(self.take(length)?.to_vec()).ok().filter(|text| text.len() <= NAME_BYTES)
    }

    fn fingerprint(&mut self) -> Option<Fingerprint> {
        let (declared, family) = (self.text()?, self.text()?);
        let width = u64::from_le_bytes(self.number()?);
        let layers = u32::from_le_bytes(self.number()?);
        let vocabulary = u64::from_le_bytes(self.number()?);
        let count = usize::from(u16::from_le_bytes(self.number()?));
        let slots: Vec<SketchedSlot> =
            (0..count.min(MAX_SKETCHED_SLOTS)).map(|_| self.slot()).collect::<Option<_>>()?;
        let sketches = usize::from(u16::from_le_bytes(self.number()?));
        if slots.len() != count || sketches > MAX_SKETCHES {
            return None;
        }
        let sketches = (0..sketches).map(|_| self.sketch(&slots)).collect::<Option<_>>()?;
        Some(Fingerprint { declared, family, width, layers, vocabulary, slots, sketches })
    }

    fn slot(&mut self) -> Option<SketchedSlot> {
        let slot = self.text()?;
        let (rows, columns) = (u64::from_le_bytes(self.number()?), u64::from_le_bytes(self.number()?));
        let samples = *self.take(1)?.first()?;
        (usize::from(samples) <= SAMPLES).then_some(SketchedSlot { slot, rows, columns, samples })
    }

    fn sketch(&mut self, slots: &[SketchedSlot]) -> Option<Sketch> {
        let slot = u16::from_le_bytes(self.number()?);
        let layer = Some(u32::from_le_bytes(self.number()?)).filter(|layer| *layer != NO_LAYER);
        let samples = usize::from(slots.get(usize::from(slot))?.samples);
        let bytes = self.take(2 * samples)?;
        let codes = bytes.chunks_exact(2).filter_map(|pair| Some(i16::from_le_bytes(pair.try_into().ok()?)));
        Some(Sketch { slot, layer, codes: codes.collect() })
    }
}
