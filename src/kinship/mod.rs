//! What a checkpoint is known by, so that its base is found without a claim: a fingerprint of a few kilobytes, and how
//! alike two of them are.
//!
//! A fingerprint ([`fingerprint`]) holds short runs of decoded values ([`sample`]), one of each of a few matrices of
//! every block, at places that follow from the slot and its shape alone. Two checkpoints of one shape are sampled at
//! the same places, and so are the blocks of one checkpoint: which block is which is found by content ([`likeness`]),
//! and blocks that were left out, repeated or moved find their own. Casting, quantising, fine-tuning, adapters and
//! removed directions leave the values nearly what they were; a resized vocabulary and other shards do not touch them.
//!
//! What any two models share is no evidence: mean and scale are taken off each run, what is constant (gains that are
//! one everywhere) is left out, and the null is a permutation of the sampled places, one for all blocks of a slot. It
//! holds whatever the blocks of one model have in common.

mod fingerprint;
mod likeness;
mod sample;
#[cfg(test)]
mod tests;

pub use fingerprint::{FINGERPRINT_VERSION, Fingerprint, Sketch, SketchedSlot};
pub use likeness::{Likeness, PreparedFingerprint, likeness};
pub use sample::{Fingerprinted, fingerprint};
