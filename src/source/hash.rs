//! Whole files in pieces, for whoever hashes them.

use std::ops::Range;

use sha2::Digest as _;

use super::ByteSource;
use crate::error::Result;
use crate::ids::Digest;

/// Bytes read at a time: enough that a request or a page fault costs little beside the hashing.
pub const PIECE: u64 = 4 << 20;

/// Hands the bytes of `range` on, in order, in pieces of [`PIECE`]. Errors when the range cannot be read.
pub fn pieces(source: &dyn ByteSource, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let end = at.saturating_add(PIECE).min(range.end);
        each(&source.read(at..end)?);
        at = end;
    }
    Ok(())
}

/// The SHA-256 of a whole file.
pub fn sha256(source: &dyn ByteSource) -> Result<Digest> {
    let mut hash = sha2::Sha256::new();
    pieces(source, 0..source.len(), &mut |piece| hash.update(piece))?;
    Ok(Digest(hash.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Bytes;

    #[test]
    fn pieces_join_to_the_whole() {
        let bytes: Vec<u8> = (0..(2 * PIECE + 5)).map(|i| (i % 251) as u8).collect();
        let source = Bytes::new("f", bytes.clone());
        assert_eq!(sha256(&source).unwrap(), Digest::of(&bytes));
        let mut part = Vec::new();
        pieces(&source, 3..(PIECE + 7), &mut |piece| part.extend_from_slice(piece)).unwrap();
        assert_eq!(part, bytes[3..(PIECE + 7) as usize]);
        assert!(pieces(&source, 0..(3 * PIECE), &mut |_| {}).is_err());
        assert_eq!(sha256(&Bytes::new("empty", "")).unwrap(), Digest::of(b""));
    }
}
