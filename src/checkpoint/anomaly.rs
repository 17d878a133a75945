//! Every kind of oddity that a reader reports: its word, how grave it is, what it means, who reports it.
//!
//! A kind can be made here only, so that no reader has a word of its own for what another one calls otherwise, and one
//! oddity has one severity in every format. `docs/verification.md` has the same table, held to this one by a test.

use crate::checkpoint::severity::Severity;

/// A kind of oddity of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnomalyKind {
    word: &'static str,
    severity: Severity,
    meaning: &'static str,
    readers: &'static [&'static str],
}

impl AnomalyKind {
    /// The kebab-case word in records.
    pub const fn word(self) -> &'static str {
        self.word
    }

    /// How grave it is for a file that claims to be a model. `high`: two readers may see different weights, or code may
    /// run. `medium`: room for bytes that no reader looks at, or tensors that cannot be read. `low`: untidy.
    pub const fn severity(self) -> Severity {
        self.severity
    }

    /// What it means, in a clause.
    pub const fn meaning(self) -> &'static str {
        self.meaning
    }

    /// What reports it: a format, `shards` (several files of one checkpoint), `quantized` (weights in codes),
    /// `adapter`, `folder` (a set of files), `compare` (both sides), `hub`, `verify`, `index`.
    pub const fn readers(self) -> &'static [&'static str] {
        self.readers
    }

    /// The kind of a word, also of one that only earlier versions wrote; `None` where a later version wrote it.
    pub fn of(word: &str) -> Option<Self> {
        let former = FORMER.iter().find(|(old, _)| *old == word).map(|(_, kind)| *kind);
        former.or_else(|| ANOMALIES.iter().copied().find(|kind| kind.word == word))
    }
}

/// Words of earlier versions, which indexes still hold, and the kinds that they are now.
const FORMER: &[(&str, AnomalyKind)] = &[("out-of-file", OUTSIDE_FILE), ("unreadable-shard", UNREADABLE_FILE)];

/// One row per kind: a constant for readers to report it by, and a place in [`ANOMALIES`].
macro_rules! anomalies {
    ($($name:ident: $severity:ident, $word:literal, $readers:expr, $meaning:literal;)*) => {
        $(
            #[doc = concat!("`", $word, "`: ", $meaning, ".")]
            pub const $name: AnomalyKind =
                AnomalyKind { word: $word, severity: Severity::$severity, meaning: $meaning, readers: &$readers };
        )*

        /// Every kind, by word.
        pub static ANOMALIES: &[AnomalyKind] = &[$($name),*];
    };
}

anomalies! {
    ADAPTER_BESIDE_MODEL: Low, "adapter-beside-model", ["shards"], "an adapter's weights lie beside a whole model's and are not examined";
    ADAPTER_PART: Medium, "adapter-part", ["adapter"], "a part of an adapter is not understood";
    ADAPTER_TARGET: Medium, "adapter-target", ["adapter"], "an adapter changes what the base does not have, or in a way that does not fit it";
    BAD_ALIGNMENT: Medium, "bad-alignment", ["gguf"], "the alignment that a file states is none";
    BAD_CONFIG: Medium, "bad-config", ["folder"], "a small JSON file is too long or cannot be read";
    BAD_DESCRIPTION: High, "bad-description", ["safetensors", "pytorch"], "a tensor's description is not one";
    BAD_INDEX: High, "bad-index", ["shards"], "a shard index cannot be used, or an entry of it";
    BAD_OFFSETS: High, "bad-offsets", ["safetensors"], "a tensor's place in the file is not two numbers in order";
    BAD_SHAPE: High, "bad-shape", ["safetensors"], "a tensor's shape is not a list of sizes";
    BEYOND_ROUNDING: Medium, "beyond-rounding", ["compare"], "a tensor of a quantised model is not the base rounded, as its others are";
    BIG_ENDIAN: Medium, "big-endian", ["gguf"], "numbers are stored highest byte first and are not decoded";
    CLAIMS_DIFFER: Medium, "claims-differ", ["hub"], "what the publisher says of the base in one place is not what another says";
    CODE_FILE: Medium, "code-file", ["folder"], "a program lies beside the weights";
    CODE_ON_LOAD: High, "code-on-load", ["pytorch"], "loading would import more than rebuilding tensors takes";
    COMPRESSED_ENTRY: Low, "compressed-entry", ["pytorch"], "an entry of an archive is compressed, which PyTorch never writes";
    DEEP_NESTING: Medium, "deep-nesting", ["pytorch"], "containers are nested too deep or in a circle";
    DIRECTIONS_ONLY: Medium, "directions-only", ["folder"], "a file holds unit vectors under the names of modules, and no weights";
    DUPLICATE_ENTRY: High, "duplicate-entry", ["pytorch"], "an archive has two entries of one name";
    DUPLICATE_FIELD: High, "duplicate-field", ["safetensors"], "a description has a field twice";
    DUPLICATE_KEY: Medium, "duplicate-key", ["gguf"], "a key of the metadata comes twice";
    DUPLICATE_TENSOR: High, "duplicate-tensor", ["shards", "gguf", "quantized"], "a tensor's name comes twice, or once plain and once quantised";
    ENCRYPTED_ENTRY: High, "encrypted-entry", ["pytorch"], "an entry of an archive is encrypted";
    EXTRA_FIELD: Low, "extra-field", ["safetensors"], "a description has fields that mean nothing";
    GAP: Medium, "gap", ["safetensors", "gguf"], "bytes before a tensor belong to none";
    GGUF_IN_PYTORCH: High, "gguf-in-pytorch", ["pytorch"], "a file that PyTorch would load is a ggml file";
    GGUF_IN_SAFETENSORS: High, "gguf-in-safetensors", ["safetensors"], "a file that is called safetensors is a GGUF file";
    HTML_IN_SAFETENSORS: Medium, "html-in-safetensors", ["safetensors"], "a file that is called safetensors is a web page";
    INVALID_UTF8: Medium, "invalid-utf8", ["gguf"], "a name is not UTF-8";
    LFS_POINTER: Medium, "lfs-pointer", ["safetensors"], "a Git LFS pointer stands in the file's place";
    MISALIGNED: Medium, "misaligned", ["gguf"], "a tensor's place is no multiple of the alignment";
    MISNAMED_FILE: Medium, "misnamed-file", ["folder"], "a file is of another format than its ending says, and is read as that";
    MISSING_CONFIG: Low, "missing-config", ["adapter"], "nothing tells an adapter's scale";
    MISSING_INDEX: Low, "missing-index", ["shards"], "there are shards and no index names them";
    MISSING_SHARD: High, "missing-shard", ["shards", "gguf"], "a file that belongs to the checkpoint is not there";
    MISSING_STORAGE: Medium, "missing-storage", ["pytorch"], "a tensor's bytes are not in the file at all";
    MISSING_TENSORS: Medium, "missing-tensors", ["gguf"], "the parts list another number of tensors than the first states";
    MODEL_PARALLEL: Medium, "model-parallel", ["shards"], "the model is cut into slices for several devices";
    MORE_ANOMALIES: Medium, "more-anomalies", ["folder", "index"], "further oddities are not listed";
    NOT_A_PICKLE: Medium, "not-a-pickle", ["pytorch"], "a file is neither a pickle nor an archive of any";
    NOT_IN_INDEX: Medium, "not-in-index", ["shards"], "a tensor is in a shard and the index does not list it";
    NOT_IN_SHARD: High, "not-in-shard", ["shards"], "a tensor is not in the shard that the index names";
    NOT_OPENED: Medium, "not-opened", ["folder"], "a file is there and was not opened";
    ODD_HEADER: Medium, "odd-header", ["safetensors"], "something stands before the header's opening brace";
    ODD_METADATA: Low, "odd-metadata", ["safetensors"], "metadata are no map of texts";
    ODD_NAME: Medium, "odd-name", ["safetensors", "shards"], "a tensor's name is empty, too long, or has control characters";
    ODD_ZIP: High, "odd-zip", ["pytorch"], "an archive can be read in two ways";
    OLD_VERSION: Low, "old-version", ["gguf"], "the format's version is one that today's tools refuse";
    OUTSIDE_FILE: High, "outside-file", ["safetensors", "pytorch", "gguf"], "a tensor's bytes lie outside the file, as where it was cut short";
    OUTSIDE_STORAGE: High, "outside-storage", ["pytorch"], "a tensor's bytes lie outside its storage";
    OVERLAP: High, "overlap", ["safetensors", "pytorch", "gguf"], "two tensors, or two entries of an archive, share bytes";
    PARTLY_QUANTIZED: Medium, "partly-quantized", ["quantized"], "a matrix is plain in some layers and quantised in others";
    PATH_ESCAPE: High, "path-escape", ["shards", "pytorch"], "a name leads out of the folder";
    PICKLE_IN_SAFETENSORS: High, "pickle-in-safetensors", ["safetensors"], "a file that is called safetensors is a pickle or an archive of them";
    QUANTIZATION_NOT_FOUND: Medium, "quantization-not-found", ["quantized"], "the configuration says that weights are quantised, and none are";
    QUANTIZED_GROUP: Medium, "quantized-group", ["quantized"], "a quantised weight's tensors do not fit together";
    REMOTE_CODE: Medium, "remote-code", ["folder"], "the configuration has loaders run code that comes with the model";
    REPEATED_STORAGE: Medium, "repeated-storage", ["pytorch"], "a tensor repeats its stored numbers far too often";
    SAFETENSORS_IN_PYTORCH: Medium, "safetensors-in-pytorch", ["pytorch"], "a file that PyTorch would unpickle is a safetensors file";
    SET_ASIDE: Low, "set-aside", ["shards"], "a weight file is not part of the model that loaders take";
    SHAPE_OVERFLOW: High, "shape-overflow", ["safetensors", "pytorch"], "a tensor's shape has more elements than can be counted";
    SHARD_NOT_IN_INDEX: Low, "shard-not-in-index", ["shards"], "a shard that the index does not name is left out by loaders";
    SPLIT_MISMATCH: High, "split-mismatch", ["gguf"], "a part says that it is another one than its name does";
    TOO_MANY_DIMENSIONS: Medium, "too-many-dimensions", ["gguf"], "a tensor has more dimensions than are read";
    TOO_MANY_KEYS: Low, "too-many-keys", ["gguf"], "there are more keys of metadata than are kept";
    TOO_MANY_PICKLES: High, "too-many-pickles", ["pytorch"], "an archive holds more pickles than are read";
    TORCHSCRIPT: Medium, "torchscript", ["pytorch"], "an archive holds a program beside the weights";
    TOTAL_SIZE: Low, "total-size", ["verify"], "an index states another length of all tensors than they have";
    TRAILING_BYTES: Medium, "trailing-bytes", ["safetensors", "pytorch", "gguf"], "bytes follow the last tensor";
    TWO_MODELS: Low, "two-models", ["shards"], "an index is there and a whole model too";
    TWO_PICKLES: High, "two-pickles", ["pytorch"], "an archive holds two pickles that could be the model's";
    UNKNOWN_DTYPE: Medium, "unknown-dtype", ["safetensors", "pytorch", "gguf"], "a tensor's type is not known";
    UNKNOWN_LAYOUT: Medium, "unknown-layout", ["pytorch"], "a tensor is rebuilt in a way that is not read";
    UNKNOWN_STORAGE: Medium, "unknown-storage", ["pytorch"], "a storage has no known element size";
    UNREAD_NUMBERS: Medium, "unread-numbers", ["quantized"], "whole numbers stand where weights belong, and nothing says for what";
    UNREAD_QUANTIZATION: Medium, "unread-quantization", ["quantized"], "weights are quantised in a way that is not read";
    UNREAD_SLICES: Medium, "unread-slices", ["shards"], "a weight's slices cannot be put together";
    UNREADABLE_FILE: Medium, "unreadable-file", ["shards", "gguf"], "a file of the checkpoint cannot be read";
    UNREADABLE_PICKLE: Medium, "unreadable-pickle", ["pytorch"], "a pickle cannot be walked to its end";
    UNREADABLE_STORAGE: Medium, "unreadable-storage", ["pytorch"], "a tensor's storage is in a form that is not read";
    WRONG_SHARD: High, "wrong-shard", ["shards"], "a tensor is in another shard than the index says";
    WRONG_SIZE: High, "wrong-size", ["safetensors", "pytorch", "gguf"], "a tensor's bytes are not as many as its shape and type take";
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The files of what reports, in `src`.
    const READERS: &[(&str, &[&str])] = &[
        ("adapter", &["checkpoint/adapter", "overlay"]),
        ("compare", &["diff/rounding.rs"]),
        (
            "folder",
            &[
                "checkpoint/mod.rs",
                "checkpoint/collect.rs",
                "checkpoint/misnamed.rs",
                "checkpoint/pack.rs",
                "examine/folder.rs",
            ],
        ),
        ("gguf", &["checkpoint/gguf"]),
        ("hub", &["examine/depths.rs"]),
        ("index", &["index/bounded.rs"]),
        ("pytorch", &["checkpoint/pickle"]),
        ("quantized", &["checkpoint/quantized"]),
        ("safetensors", &["checkpoint/safetensors", "checkpoint/disguise.rs"]),
        ("shards", &["checkpoint/shards.rs", "checkpoint/slices.rs", "checkpoint/assembly.rs"]),
        ("verify", &["verify/shards.rs"]),
    ];

    /// Every file of the program with its place in `src`, without tests.
    fn sources() -> Vec<(String, String)> {
        let source: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut all = Vec::new();
        for entry in walkdir::WalkDir::new(&source).sort_by_file_name() {
            let path = entry.unwrap().into_path();
            let inside = path.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
            if !inside.ends_with(".rs") || inside.contains("tests") || inside.contains("sample") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            all.push((inside, text.split("\nmod tests {").next().unwrap_or_default().to_owned()));
        }
        all
    }

    #[test]
    fn words_are_distinct_in_order_and_those_of_their_constants() {
        assert!(ANOMALIES.windows(2).all(|two| two[0].word < two[1].word));
        let of_word = |kind: &AnomalyKind| AnomalyKind::of(kind.word) == Some(*kind);
        assert!(ANOMALIES.iter().all(of_word));
        for (old, now) in FORMER {
            assert_eq!(AnomalyKind::of(old), Some(*now));
            assert!(!ANOMALIES.iter().any(|kind| kind.word == *old), "{old} is still there");
        }
        assert_eq!(AnomalyKind::of("of-a-later-version"), None);
    }

    #[test]
    fn every_kind_is_reported_by_those_it_names_and_by_nobody_else() {
        let sources = sources();
        for kind in ANOMALIES {
            let constant = kind.word.to_uppercase().replace('-', "_");
            let is_in = |text: &str| {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let code =
                    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
                code.split(|c| !word(c)).any(|part| part == constant)
            };
            assert!(!kind.readers.is_empty(), "{}: nobody reports it", kind.word);
            for (reader, places) in READERS {
                let found = (sources.iter())
                    .filter(|(name, _)| places.iter().any(|place| name.starts_with(place)))
                    .any(|(_, text)| is_in(text));
                // Readers may also ask for what others report.
                let is_named = kind.readers.contains(reader);
                assert!(found || !is_named, "{} is not reported by {reader}", kind.word);
                let asks = [("code-on-load", "shards"), ("pickle-in-safetensors", "shards")];
                assert!(
                    !found || is_named || asks.contains(&(kind.word, reader)),
                    "{} is reported by {reader} too",
                    kind.word
                );
            }
        }
    }

    /// A word in a string is a word that nobody registered, or will not be when it is renamed.
    #[test]
    fn no_file_spells_a_kind_for_itself() {
        // Signatures, endings and the kinds of first bytes have words of their own, some of them the same.
        const OTHERS: &[&str] =
            &["checkpoint/anomaly.rs", "checkpoint/unread_kinds.rs", "signature/builtin.rs", "verify/magic.rs"];
        let mut spelled = Vec::new();
        for (name, text) in sources() {
            let made = text.lines().filter(|line| {
                line.contains("Anomaly {") && !line.contains("for Anomaly") && !line.contains("impl Anomaly")
            });
            let makes = ["checkpoint/mod.rs", "index/load.rs"].contains(&name.as_str());
            spelled.extend(
                made.filter(|line| !makes && !line.contains("->")).map(|line| format!("{name}: {}", line.trim())),
            );
            if OTHERS.contains(&name.as_str()) {
                continue;
            }
            let words = ANOMALIES.iter().map(|kind| kind.word).chain(FORMER.iter().map(|(old, _)| *old));
            spelled.extend(
                words.filter(|word| text.contains(&format!("\"{word}\""))).map(|word| format!("{name}: {word}")),
            );
        }
        assert!(spelled.is_empty(), "{}", spelled.join("\n"));
    }

    #[test]
    fn the_documentation_has_every_kind() {
        let documented = include_str!("../../docs/verification.md");
        let (_, table) = documented.split_once("| kind | severity | told of | means |\n|---|---|---|---|\n").unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let row = |kind: &AnomalyKind| {
            let severity = format!("{:?}", kind.severity).to_lowercase();
            format!("| `{}` | {severity} | {} | {} |", kind.word, kind.readers.join(", "), kind.meaning)
        };
        let expected: Vec<String> = ANOMALIES.iter().map(row).collect();
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }
}
