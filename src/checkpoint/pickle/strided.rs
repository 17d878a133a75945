//! Tensors whose elements do not lie in a row: transposed, expanded or sliced views of a storage.

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::{Decode, Packing};
use crate::error::{Error, ErrorKind, Result};
use crate::source::ByteSource;
use crate::tensor::DType;

/// A view of a storage by strides.
pub(crate) struct Strided {
    /// The file.
    pub source: Arc<dyn ByteSource>,
    /// The storage's bytes from the view's first element to its last.
    pub range: Range<u64>,
    /// The storage's dtype, of one element a block.
    pub dtype: &'static DType,
    /// The view's shape, without a zero.
    pub shape: Vec<u64>,
    /// Elements from one index of an axis to the next.
    pub strides: Vec<u64>,
}

impl Decode for Strided {
    fn scheme(&self) -> &str {
        "strided"
    }

    fn packing(&self) -> Packing {
        Packing::Layout
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let outside = || {
            Error::new(
                ErrorKind::Internal,
                format!("reading a strided tensor of {} outside its shape", self.source.name()),
            )
        };
        let bytes = self.source.read(self.range.clone())?;
        let width = self.dtype.bytes;
        // The index of the first element, then counted up like an odometer.
        let mut index = vec![0u64; self.shape.len()];
        let mut rest = first;
        for (axis, size) in self.shape.iter().enumerate().rev() {
            index[axis] = rest % size;
            rest /= size;
        }
        if rest > 0 {
            return Err(outside());
        }
        for value in out {
            let at: u64 = index.iter().zip(&self.strides).map(|(index, stride)| index * stride).sum();
            let at = at as usize * width;
            let element = bytes.get(at..at + width).ok_or_else(outside)?;
            (self.dtype.decode)(element, std::slice::from_mut(value));
            for (axis, size) in self.shape.iter().enumerate().rev() {
                index[axis] += 1;
                if index[axis] < *size {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(())
    }
}
