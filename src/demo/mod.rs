//! Tiny models, what people make of them, and a loopback hub that serves them: for the demonstration and the tests.

#[allow(clippy::result_large_err, reason = "an answer of axum's is the error, once a request")]
pub mod standin;
pub mod tiny;
