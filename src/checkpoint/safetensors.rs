//! The safetensors format.

mod write;

pub use write::{NewTensor, encode_floats, to_bytes, write, write_sharded};
