//! A quantised checkpoint's numbers as the bounds that they were between before they were rounded.

use std::sync::Arc;

use super::{Checkpoint, Decode, Packing, Storage, TensorEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::source::ByteSource;
use crate::tensor::levels::{self, CodedLevel, LevelChoice};
use crate::tensor::{DType, DTypeFamily};

/// Elements of which levels are held at a time.
const AT_ONCE: usize = 1 << 14;

/// A checkpoint with the lower, and one with the upper bound in the place of every number that a quantiser coded by
/// itself. Tensors of any other kind are not in them.
pub struct Bounds {
    /// The lower bounds.
    pub low: Checkpoint,
    /// The upper ones.
    pub high: Checkpoint,
}

impl Bounds {
    /// The bounds of a checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let side = |high: bool| {
            let mut side = checkpoint.clone();
            side.tensors.retain(|_, entry| {
                let Some(coded) = Coded::of(checkpoint, entry) else { return false };
                entry.storage = Storage::Packed(Arc::new(Edge { coded, high }));
                true
            });
            side
        };
        Self { low: side(false), high: side(true) }
    }
}

/// What a tensor's scheme codes a number as; `None` where numbers are not coded one by one.
pub fn choice(checkpoint: &Checkpoint, entry: &TensorEntry) -> Option<LevelChoice> {
    Coded::of(checkpoint, entry)?.levels(0, &mut []).ok()?
}

/// Where a tensor's codes are.
enum Coded {
    Packed(Arc<dyn Decode>),
    Blocks { source: Arc<dyn ByteSource>, start: u64, dtype: &'static DType, elements: u64 },
}

impl Coded {
    fn of(checkpoint: &Checkpoint, entry: &TensorEntry) -> Option<Self> {
        let coded = match &entry.storage {
            Storage::Packed(decoder) if decoder.packing() == Packing::Codes => Self::Packed(Arc::clone(decoder)),
            Storage::Plain if entry.dtype.family == DTypeFamily::Block => {
                let source = Arc::clone(&checkpoint.files.get(entry.file)?.source);
                Self::Blocks { source, start: entry.range.start, dtype: entry.dtype, elements: entry.elements() }
            }
            Storage::Packed(_) | Storage::Plain | Storage::Unreadable(_) => return None,
        };
        coded.levels(0, &mut []).ok()?.is_some().then_some(coded)
    }

    fn levels(&self, first: u64, out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        match self {
            Self::Packed(decoder) => decoder.levels(first, out),
            Self::Blocks { source, start, dtype, elements } => {
                if out.is_empty() {
                    return Ok(levels::of_blocks(dtype, &[], out));
                }
                let (block, bytes) = (dtype.block as u64, dtype.bytes as u64);
                let end = first.saturating_add(out.len() as u64);
                if end > *elements {
                    let doing = format!("levels {first}..{end} of a tensor of {elements} in {}", source.name());
                    return Err(Error::new(ErrorKind::Internal, doing));
                }
                let (from, to) = (first / block, end.div_ceil(block));
                let place = |at: u64| start.saturating_add(at.saturating_mul(bytes));
                let input = source.read(place(from)..place(to))?;
                let mut whole = vec![CodedLevel::default(); ((to - from) * block) as usize];
                let choice = levels::of_blocks(dtype, &input, &mut whole);
                let skip = (first - from * block) as usize;
                out.iter_mut().zip(whole.iter().skip(skip)).for_each(|(out, level)| *out = *level);
                Ok(choice)
            }
        }
    }
}

/// One bound of every element.
struct Edge {
    coded: Coded,
    high: bool,
}

impl Decode for Edge {
    fn scheme(&self) -> &str {
        "bounds"
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let mut levels = vec![CodedLevel::default(); out.len().min(AT_ONCE)];
        for (part, out) in out.chunks_mut(AT_ONCE).enumerate() {
            let levels = &mut levels[..out.len()];
            self.coded.levels(first + (part * AT_ONCE) as u64, levels)?;
            out.iter_mut().zip(levels).for_each(|(out, level)| *out = level.bounds()[usize::from(self.high)]);
        }
        Ok(())
    }

    fn packing(&self) -> Packing {
        Packing::Computed
    }
}
