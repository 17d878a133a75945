//! Every cap in one place, each with its reason. Checked against the bytes that are really there before anything is
//! allocated.

/// A safetensors header. Hugging Face itself refuses above 25 MB and the reference crate above 100 MB; the largest
/// honest headers (mixtures with tens of thousands of experts) are under 10 MB.
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;

/// `config.json`, shard indexes, adapter configs, model cards. A shard index of a 60,000-tensor mixture is about 6 MB.
pub const MAX_JSON_BYTES: u64 = 64 << 20;

/// Tensors in one checkpoint; DeepSeek-V3 quantised per expert has about 140,000.
pub const MAX_TENSORS: usize = 2_000_000;

/// Dimensions of one tensor. PyTorch and ggml allow more or fewer; no published weight has more than five.
pub const MAX_DIMENSIONS: usize = 8;

/// Length of one tensor name in bytes. Longer names are kept out of every report.
pub const MAX_TENSOR_NAME_BYTES: usize = 4096;

/// Shards or split files of one checkpoint. The largest seen has 1,002.
pub const MAX_FILES: usize = 10_000;

/// Anomalies kept per checkpoint; after that one says how many more there were. A hostile header can hold millions.
pub const MAX_ANOMALIES: usize = 1_000;

/// Elements decoded at a time by one thread. One tile of base and one of candidate in `f32` (2 × 256 KiB) stay in a
/// core's second-level cache beside the sketch columns.
pub const TILE_ELEMENTS: usize = 64 * 1024;

/// Depth of nested JSON arrays and objects, GGUF arrays and pickled containers.
pub const MAX_DEPTH: usize = 64;

/// One signature file of a user's folder. The longest built-in one is a few kilobytes.
pub const MAX_SIGNATURE_BYTES: u64 = 1 << 20;

/// Signature files in a user's folder.
pub const MAX_SIGNATURES: usize = 10_000;
