//! orthoscope tells what a published checkpoint is to its claimed base, and whether it is consistent with weight
//! orthogonalization ("abliteration"): a direction removed from the matrices that write to the residual stream.

pub mod account;
pub mod arch;
pub mod aside;
pub mod checkpoint;
pub mod claim;
pub mod cli;
pub mod combine;
pub mod diff;
pub mod error;
pub mod evaluate;
pub mod examination;
pub mod forms;
pub mod hub;
pub mod ids;
pub mod index;
pub mod inspect;
pub mod limits;
pub mod numbers;
pub mod overlay;
pub mod pair;
mod parse;
pub mod pipeline;
pub mod private;
pub mod recipe;
pub mod relation;
pub mod report;
pub mod serve;
pub mod severity;
pub mod signature;
pub mod source;
pub mod stages;
#[allow(clippy::result_large_err, reason = "an answer of axum's is the error, once a request")]
pub mod standin;
pub mod surroundings;
pub mod sweep;
pub mod tensor;
pub mod tiny;
pub mod verdict;
pub mod verify;

/// The commit that this program was built from; `None` for a build that does not know, such as one for development.
pub const COMMIT: Option<&str> = option_env!("ORTHOSCOPE_COMMIT");
