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

/// What the values of such a file may take in memory, as `parse::json` counts it; those 2 MB take about 5 MB.
pub const MAX_CONFIG_VALUES_BYTES: usize = 64 << 20;

/// The same for a signature bundle. That of 200,000 files takes about 160 MB.
pub const MAX_BUNDLE_VALUES_BYTES: usize = 256 << 20;

/// Signatures and certificates that are kept of one bundle; honest ones have one and at most four.
pub const MAX_BUNDLE_SIGNATURES: usize = 16;

/// YAML given to a parser: the value of one key of a card's front matter, or the whole front matter of a card of the
/// hub that this program itself plays. A merge of thirty bases takes 2 kB.
pub const MAX_YAML_BYTES: usize = 64 << 10;

/// Entries of a file's string metadata. Trainers write a few hundred at most.
pub const MAX_METADATA_ENTRIES: usize = 10_000;

/// One pickle without the storages beside it. That of a mixture with 100,000 tensors has about 25 MB.
pub const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// Values that one pickle describes; a tensor takes about twenty, so that 140,000 of them take under 3,000,000.
pub const MAX_PICKLE_NODES: usize = 4_000_000;

/// Values beyond which a pickle counts as that of [`MANY_TENSORS`].
pub const MANY_PICKLE_NODES: usize = 20 * MANY_TENSORS;

/// Different names that one pickle imports. A state dict takes about ten, a training checkpoint with its arguments
/// about a hundred.
pub const MAX_PICKLE_IMPORTS: usize = 1_000;

/// Pickles of one archive that are read. PyTorch writes one, TorchScript two or three.
pub const MAX_PICKLES: usize = 16;

/// Bytes of a storage's key in a pickle. PyTorch writes numbers, other writers short names; a longer one would be
/// compared and copied for every tensor that refers to it.
pub const MAX_STORAGE_KEY_BYTES: usize = 256;

/// How often a view may repeat its storage: tied or expanded biases do a few times.
pub const MAX_STORAGE_REPEATS: u64 = 1024;

/// Entries of a zip archive: one per storage, and a few.
pub const MAX_ZIP_ENTRIES: u64 = 400_000;

/// Bytes of a zip archive's directory; an entry takes about 110.
pub const MAX_ZIP_DIRECTORY_BYTES: u64 = 64 << 20;

/// Tensors in one checkpoint; DeepSeek-V3 quantised per expert has about 140,000. Each takes some 500 bytes while it is
/// open.
pub const MAX_TENSORS: usize = 300_000;

/// Tensors beyond which a checkpoint is read and examined while no other such one is (`checkpoint::turn`). Most
/// published models have under 1,000, mixtures of experts with a matrix per expert 10,000 to 30,000.
pub const MANY_TENSORS: usize = 30_000;

/// Bytes of a shard index beyond which it counts as that of [`MANY_TENSORS`].
pub const MANY_INDEX_BYTES: u64 = 100 * MANY_TENSORS as u64;

/// Tensors of a file of directions: one or a few for each writer of a model.
pub const MAX_PACK_TENSORS: usize = 4096;

/// Numbers of a file of directions that are looked at when it is opened: 4096 vectors of 4096.
pub const MAX_PACK_NUMBERS: u64 = 1 << 24;

/// Numbers of all biases together that a candidate adds to its writers and that are held to find what they have in
/// common. A residual stream has 20,000 channels at most, a model some hundred writers outside of its experts.
pub const MAX_ADDED_BIAS_NUMBERS: u64 = 1 << 24;

/// Blocks of a model beyond which they are not aligned by content; the deepest published models have fewer than 200.
pub const MAX_ALIGNED_LAYERS: usize = 1024;

/// Blocks of a model that a fingerprint samples, the first ones; the deepest published models have fewer than 200.
pub const MAX_SKETCHED_BLOCKS: usize = 400;

/// Kinds of sketches (a slot in one shape) of one fingerprint. Published hybrids have about a dozen.
pub const MAX_SKETCHED_SLOTS: usize = 64;

/// Sketches of one fingerprint: four of each of a hundred blocks, two of two hundred or one of four hundred, and five
/// outside of all blocks.
pub const MAX_SKETCHES: usize = MAX_SKETCHED_BLOCKS + 8;

/// Bytes of one fingerprint; that many sketches take 60 kB with the names and shapes of their slots.
pub const MAX_FINGERPRINT_BYTES: usize = 64 << 10;

/// The longest row of a matrix that is read for a sample of it.
pub const MAX_SAMPLED_ROW: u64 = 1 << 18;

/// Experts in one stack that are taken apart. The largest published mixtures have 512.
pub const MAX_STACKED_EXPERTS: u32 = 4096;

/// Pieces that taking stacks apart may add: ten times the largest published mixture.
pub const MAX_STACK_PIECES: usize = 500_000;

/// Pieces of one shape that are compared all with all.
pub const MAX_COMPARED_PIECES: usize = 1024;

/// Rows of the longest row order that is built; no published matrix of attention heads or fused projections has more.
pub const MAX_ORDERED_ROWS: u64 = 1 << 22;

/// Bytes of all tensor names of one checkpoint together; 140,000 honest ones have 12 MB. A pickle can give one long
/// name to any number of tensors.
pub const MAX_NAMES_BYTES: usize = 64 << 20;

/// Descriptions in one header that are no JSON objects; no writer makes one.
pub const MAX_BAD_DESCRIPTIONS: usize = 1_000;

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

/// Anomalies of one kind that are kept even then. There are about seventy kinds.
pub const MAX_ANOMALIES_OF_A_KIND: usize = 20;

/// Elements decoded at a time by one thread. One tile of base and one of candidate in `f32` (2 × 256 KiB) stay in a
/// core's second-level cache beside the sketch columns.
pub const TILE_ELEMENTS: usize = 64 * 1024;

/// Depth of nested JSON arrays and objects, GGUF arrays and pickled containers; brackets that YAML may open.
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

/// Bytes kept of all metadata texts of a file together.
pub const MAX_METADATA_TEXTS_BYTES: usize = 8 << 20;

/// Elements kept of one metadata array. Per-layer arrays (head counts, feed-forward widths) have at most a few hundred.
pub const MAX_METADATA_ARRAY: usize = 1024;

/// Elements kept of all metadata arrays of a file together: a byte in a file becomes some 40 in memory.
pub const MAX_METADATA_ELEMENTS: usize = 256 * 1024;

/// Experts of one stack whose scales are read; published mixtures have at most a few hundred.
pub const MAX_SCALED_EXPERTS: u64 = 1 << 16;

/// The state that bitsandbytes keeps beside a weight: a small JSON object.
pub const MAX_QUANT_STATE_BYTES: u64 = 1 << 16;

/// Files of one repository as its hub lists them. Data dumps reach a million; no checkpoint needs more than these.
pub const MAX_TREE_FILES: usize = 200_000;

/// A list of checksums, a signature bundle or a key given to `verify`. A line takes about 120 bytes; a signed model of
/// 100,000 files has 20 MB.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Folders inside one another that are looked through for files to verify.
pub const MAX_FOLDERS_DEEP: usize = 32;

/// Folders below a repository of a hub that is a folder, or below a tree of such repositories.
pub const MAX_HUB_FOLDERS_DEEP: usize = 8;

/// Pages of one listing. The whole of the largest hub is about 3,000 pages of 1,000.
pub const MAX_PAGES: usize = 20_000;

/// Shard indexes of one repository that are read. A repository of many checkpoints has one each.
pub const MAX_INDEXES: usize = 1_000;

/// Tensors and files that an examination lists as not compared; after that one entry says how many more there were. A
/// hostile header can hold hundreds of thousands, and every report and answer repeats the list.
pub const MAX_NOT_EXAMINED: usize = 1_000;

/// Weight files of one repository on a hub that are part of no checkpoint and are looked into: optimizer states and the
/// like, two requests each. A training run uploaded with all its checkpoints has a few dozen.
pub const MAX_FILES_ASIDE: usize = 200;

/// Keys of an adapter's `rank_pattern` or `alpha_pattern`. One that names every expert of a mixture has about 20,000.
pub const MAX_PATTERNS: usize = 32_768;

/// Of these, keys that are expressions and no plain names; published ones have under ten.
pub const MAX_PATTERN_EXPRESSIONS: usize = 256;

/// Bytes of one key that is an expression.
pub const MAX_PATTERN_BYTES: usize = 4096;

/// Bytes of all the expressions of one object compiled together. A published one takes about 4 KB; what is longer makes
/// looking up a name slow.
pub const MAX_PATTERN_PROGRAM_BYTES: usize = 256 << 10;

/// Keys times modules of an adapter: what looking up every module costs at most, about two seconds.
pub const MAX_PATTERN_STEPS: usize = 1 << 29;

/// Numbers in one factor of an adapter, which is kept in memory while its weight is read. Those of 512 stacked experts
/// at rank 32 have 67 million.
pub const MAX_FACTOR_ELEMENTS: u64 = 1 << 28;

/// Width of the residual stream up to which a writer's factor is built where a change is looked at as an operator: its
/// Gram matrix is 268 MB then, and takes d² n multiplications.
pub const MAX_FACTORED_WIDTH: usize = 8192;

/// Connections of `serve` at once. A browser opens six; half of the file handles that a process may have where few are
/// allowed (256).
pub const MAX_CONNECTIONS: usize = 128;

/// Bytes of the body of a request to `serve`: a decision's note and its form.
pub const MAX_FORM_BYTES: usize = 128 * 1024;

/// Sessions that `serve` keeps; the oldest makes room. One person has one.
pub const MAX_SESSIONS: usize = 1_000;

/// Bases kept of each place that may name one: the largest honest merges name a few dozen.
pub const MAX_NAMED_BASES: usize = 32;

/// Pieces of evidence on a claim that the index keeps of one examination. Cards of merges name a few dozen bases.
pub const MAX_CLAIM_EVIDENCE: usize = 1_000;

/// Tags of a repository that are kept, the first ones. Language lists of translation models reach a few hundred.
pub const MAX_TAGS: usize = 1_000;

/// Bytes of one such tag; longer ones are dropped. `base_model:quantized:` and two names of 96 letters fit.
pub const MAX_TAG_BYTES: usize = 256;

/// Bytes of what a listing says of one repository, as the sweep's queue keeps it. Without its card and configuration,
/// which are fetched where they are needed, the longest has some 20 KiB.
pub const MAX_LISTING_BYTES: usize = 256 * 1024;

/// Seconds until a request's headers are there, with its connection; and those that its body may take beside what its
/// length allows. The hub's own client waits 10 s between bytes and has no bound on the whole.
pub const REQUEST_SECONDS: u64 = 60;

/// Bytes a second that a body keeps on average, once its first [`REQUEST_SECONDS`] are over. A line of 10 Mbit/s shared
/// by 24 ranges at a time (four repositories of six) still gives each as much.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 50_000;

/// Seconds of requests and waits spent on one repository, beside what its bytes allow at [`SLOWEST_BYTES_PER_SECOND`].
/// A screen sends some thirty requests; the longest waits seen are windows of five minutes.
pub const REPOSITORY_SECONDS: u64 = 2 * 3600;

/// Refusals with a stated wait that one request takes, whatever they state: a wait of nothing can be stated for ever.
pub const MAX_STATED_WAITS: u32 = 32;

/// Pages in a row on which nothing is new before a listing counts as endless. Hubs filter after they cut pages, so a
/// few empty ones are honest.
pub const MAX_EMPTY_PAGES: usize = 50;

/// One page of a listing. A thousand repositories with their cards and configurations take 2 to 15 MB.
pub const MAX_LISTING_PAGE_BYTES: u64 = 32 << 20;

/// What a hub says of one repository, or of where one file is. The largest cards with evaluation results have 2 MB.
pub const MAX_INFO_BYTES: u64 = 8 << 20;

/// Bytes of a refusal that are looked at for the hub's own words.
pub const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Bytes that one value of a hub's row (card, configuration, bases) takes in memory, some twenty times its text; a
/// larger one counts as unknown. The largest configurations seen take 300 kB so.
pub const MAX_FACT_BYTES: usize = 2 << 20;

/// Bytes that the rows of one page take in memory together.
pub const MAX_PAGE_BYTES: usize = 256 << 20;

/// Bytes fetched for a base that an upload claims, unless told otherwise: who uploads chooses it. A model of 20 billion
/// parameters in 16 bits fits.
pub const MAX_CLAIMED_BASE_BYTES: u64 = 50_000_000_000;

/// Bytes left free on the cache's file system by any download: the index often lies on the same one.
pub const DISK_RESERVE_BYTES: u64 = 2 << 30;

/// Seconds after which a download that nobody went on with is thrown away: a week.
pub const ABANDONED_SECONDS: u64 = 7 * 24 * 3600;
