//! The columns of a writer, or rows of a reader, that stand elsewhere in the candidate, put back as they are decoded.

use crate::error::Result;

/// Where the base's columns are in the candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Reordering {
    /// Whether these are columns as stored; rows otherwise.
    pub(super) columns: bool,
    /// For each of the base's: which of the candidate's, and with which sign.
    pub(super) from: Vec<(usize, f32)>,
}

impl Reordering {
    /// How many are elsewhere, or have the other sign.
    pub fn moved(&self) -> usize {
        self.from.iter().enumerate().filter(|(to, (from, sign))| to != from || *sign < 0.0).count()
    }

    /// Rows of the candidate from `first` on, `width` wide, in the base's order; `stored` decodes them in their own.
    pub(super) fn decode(
        &self,
        width: usize,
        first: usize,
        out: &mut [f32],
        stored: &dyn Fn(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        if !self.columns {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let (from, sign) = self.from.get(first + row).copied().unwrap_or((first + row, 1.0));
                stored(from, out)?;
                out.iter_mut().for_each(|value| *value *= sign);
            }
            return Ok(());
        }
        stored(first, out)?;
        let mut line = vec![0f32; width];
        for out in out.chunks_exact_mut(width) {
            line.copy_from_slice(out);
            for (value, (from, sign)) in out.iter_mut().zip(&self.from) {
                *value = line.get(*from).copied().unwrap_or_default() * sign;
            }
        }
        Ok(())
    }
}
