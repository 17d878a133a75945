//! Measures every pair: equality first, then moments, then the low-rank structure of the change.

pub mod screen;
pub mod stats;
