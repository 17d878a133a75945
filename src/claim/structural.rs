//! Whether a claim can be true by shape alone: before any weight is read.

use crate::pair::Pairing;

/// What the shapes say of a claimed base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShapeFit {
    /// Most of the base's matrices are there in the candidate with the same shape.
    Fits,
    /// Some are: a pruned, extended or partial derivative.
    Partly,
    /// Too few: another architecture or size, whatever the card says.
    Not,
}

/// Judges by the share of the base's tensors that found a counterpart.
pub fn fit(pairing: &Pairing) -> ShapeFit {
    let paired = pairing.pairs.len();
    let all = paired + pairing.only_base.len();
    match (paired, all) {
        (0, _) => ShapeFit::Not,
        (paired, all) if paired * 10 >= all * 9 => ShapeFit::Fits,
        (paired, all) if paired * 4 >= all => ShapeFit::Partly,
        _ => ShapeFit::Not,
    }
}
