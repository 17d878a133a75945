//! Every cap in one place, each with its reason. Checked against the bytes that are really there before anything is
//! allocated.

/// A safetensors header. Hugging Face itself refuses above 25 MB and the reference crate above 100 MB; the largest
/// honest headers (mixtures with tens of thousands of experts) are under 10 MB.
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;

/// `config.json`, shard indexes, adapter configs, model cards. A shard index of a 60,000-tensor mixture is about 6 MB.
pub const MAX_JSON_BYTES: u64 = 64 << 20;

/// `config.json` and its like, which are kept as parsed values (some twenty times their text). The largest seen lists
/// every skipped module of a quantised mixture and has 2 MB.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Entries of a file's string metadata. Trainers write a few hundred at most.
pub const MAX_METADATA_ENTRIES: usize = 10_000;

/// One pickle without the storages beside it. That of a mixture with 100,000 tensors has about 25 MB.
pub const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// Values that one pickle describes; a tensor takes about twenty.
pub const MAX_PICKLE_NODES: usize = 8_000_000;

/// Entries of a zip archive: one per storage.
pub const MAX_ZIP_ENTRIES: u64 = 1_000_000;

/// Bytes of a zip archive's directory.
pub const MAX_ZIP_DIRECTORY_BYTES: u64 = 128 << 20;

/// Tensors in one checkpoint; DeepSeek-V3 quantised per expert has about 140,000.
pub const MAX_TENSORS: usize = 2_000_000;

/// Dimensions of one tensor. PyTorch and ggml allow more or fewer; no published weight has more than five.
pub const MAX_DIMENSIONS: usize = 8;

/// Length of one tensor name in bytes. Longer names are kept out of every report.
pub const MAX_TENSOR_NAME_BYTES: usize = 4096;

/// Shards or split files of one checkpoint. The largest seen has 1,002.
pub const MAX_FILES: usize = 10_000;

/// Bytes read to show that tensors of one name in two files of a checkpoint are the same. Honest ones are norms, rotary
/// tables and tied embeddings; what is larger counts as not shown.
pub const MAX_COMPARED_BYTES: u64 = 64 << 20;

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
/// The part of a GGUF file before its tensors. A vocabulary of 262,144 tokens with merges takes about 15 MB, a
/// `tokenizer.json` embedded beside it about 30 MB more.
pub const MAX_GGUF_HEADER_BYTES: u64 = 256 << 20;

/// Metadata keys kept of one GGUF file; honest ones have under 100. More are read over.
pub const MAX_METADATA_KEYS: usize = 16 * 1024;

/// Bytes kept of one metadata text; chat templates reach about 20 KB.
pub const MAX_METADATA_TEXT_BYTES: usize = 64 * 1024;

/// Elements kept of one metadata array. Per-layer arrays (head counts, feed-forward widths) have at most a few hundred.
pub const MAX_METADATA_ARRAY: usize = 1024;

/// Elements kept of all metadata arrays of a file together: a byte in a file becomes some 40 in memory.
pub const MAX_METADATA_ELEMENTS: usize = 256 * 1024;
/// Files of one repository as its hub lists them. Data dumps reach a million; no checkpoint needs more than these.
pub const MAX_TREE_FILES: usize = 200_000;

/// A list of checksums, a signature bundle or a key given to `verify`. A line takes about 120 bytes; a signed model of
/// 100,000 files has 20 MB.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Folders inside one another that are looked through for files to verify.
pub const MAX_FOLDERS_DEEP: usize = 32;

/// Pages of one listing. The whole of the largest hub is about 3,000 pages of 1,000.
pub const MAX_PAGES: usize = 20_000;
