//! orthoscope tells what a published checkpoint is to its claimed base, and whether it is consistent with weight
//! orthogonalization ("abliteration"): a direction removed from the matrices that write to the residual stream.

pub mod arch;
pub mod checkpoint;
pub mod cli;
pub mod diff;
pub mod error;
pub mod examination;
pub mod ids;
pub mod index;
pub mod limits;
pub mod pair;
pub mod report;
pub mod serve;
pub mod signature;
pub mod source;
pub mod tensor;
