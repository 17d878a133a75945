//! Files that hold weights, or may, in a form that is not read: told by their names, so that none passes in silence.
//!
//! What is read is listed in [`files`]; a name that ends so is none of these. Pieces of a file cut by bytes
//! (`model.gguf.part1of2`) and wrapped ones (`model.safetensors.gz`) are told by the ending inside their name.

use super::files::{self, is_weights};

/// Endings of weights that are not read, in small letters, and what such a file is.
const UNREAD: &[(&str, &[&str])] = &[
    ("HDF5 weights, as Keras and TensorFlow write", &["h5", "hdf5", "keras"]),
    ("Flax weights (MessagePack)", &["msgpack"]),
    ("an ONNX model", &["onnx", "onnx_data", "ort"]),
    ("a NumPy array", &["npy", "npz"]),
    ("a bare pickle", &["pkl", "pickle", "joblib", "dill", "cloudpickle"]),
    ("a NeMo archive", &["nemo", "qnemo"]),
    ("rust-bert weights", &["ot"]),
    ("Burn weights", &["mpk", "burnpack"]),
    ("Equinox weights", &["eqx"]),
    ("TensorFlow's graph or weights", &["pb", "tflite", "lite", "tfrecord", "index", "meta"]),
    ("a LiteRT bundle", &["task", "litertlm"]),
    ("a Core ML model", &["mlmodel", "mlpackage", "mlmodelc", "espresso"]),
    ("a part of a distributed PyTorch checkpoint", &["distcp"]),
    ("an exported PyTorch program", &["pt2", "ptl", "pte", "ptd", "torchscript", "mar"]),
    ("PyTorch weights under an older ending", &["th", "t7", "pyt"]),
    ("Paddle weights", &["pdparams", "pdiparams", "pdmodel", "pdopt"]),
    ("MindSpore weights", &["mindir"]),
    ("MXNet weights", &["params"]),
    ("Caffe weights", &["caffemodel"]),
    ("a compiled engine", &["engine", "plan", "trt", "om", "rkllm", "rknn", "bmodel", "axmodel", "hef", "dlc", "qnn"]),
    ("MNN or ncnn weights", &["mnn", "weight", "ncnn"]),
    ("ggml weights from before GGUF", &["ggml", "ggjt", "ggmf"]),
    ("a llamafile: a program with weights inside", &["llamafile"]),
    ("UQFF weights of mistral.rs", &["uqff"]),
    ("a DDUF archive", &["dduf"]),
    ("a Zarr or OCDBT store, as Orbax writes", &["zarr", "zarray", "ocdbt"]),
    ("a delta or encrypted form", &["xdelta", "vcdiff", "bsdiff", "gpg", "age", "enc"]),
    (
        "an archive, which may hold weights",
        &[
            "zip", "tar", "tgz", "tbz2", "txz", "gz", "bz2", "xz", "zst", "lz4", "br", "7z", "rar", "iso", "squashfs",
            "wim",
        ],
    ),
];

/// Endings of what lies beside weights under their name and is none: indexes, checksums, signatures, notes, pictures.
const BESIDE: &[&str] = &[
    "json",
    "jsonl",
    "md",
    "txt",
    "rst",
    "yaml",
    "yml",
    "toml",
    "ini",
    "csv",
    "tsv",
    "log",
    "html",
    "xml",
    "py",
    "sh",
    "ipynb",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "svg",
    "webp",
    "pdf",
    "md5",
    "sha1",
    "sha256",
    "sha512",
    "sha256sum",
    "blake3",
    "b3",
    "crc",
    "sfv",
    "sig",
    "asc",
    "sigstore",
    "minisig",
    "pem",
    "torrent",
    "aria2",
    "lock",
    "metadata",
    "dvc",
    "url",
    "license",
    "gitattributes",
    "gitignore",
    "j2",
    "jinja",
];

/// What a file of this name is, where it holds weights, or may, in a form that is not read; `None` for what is read and
/// for all else. Only the name is asked: endings of letters of either case, in any folder.
pub fn unread_kind(name: &str) -> Option<&'static str> {
    let base = name.rsplit(['/', '\\']).next().unwrap_or(name).to_ascii_lowercase();
    let (stem, ending) = base.rsplit_once('.')?;
    if BESIDE.contains(&ending) || is_weights(&base) {
        return None;
    }
    // A shard of a TensorFlow checkpoint, and the data of an ONNX model in several files.
    let numbered = |text: &str, before: &str| {
        text.strip_prefix(before)
            .is_some_and(|rest| rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'_' | b'o' | b'f')))
    };
    if numbered(ending, "data-") {
        return Some("a part of a TensorFlow checkpoint");
    }
    if numbered(ending, "onnx_data_") || (ending == "data" && stem.contains(".onnx")) {
        return Some("the data of an ONNX model");
    }
    // Compressed text is no archive of weights.
    if ["gz", "bz2", "xz", "zst", "lz4", "br"].contains(&ending)
        && stem.rsplit('.').next().is_some_and(|inner| BESIDE.contains(&inner))
    {
        return None;
    }
    // TensorFlow's index and graph lie beside `.ckpt`; by themselves the words are anyone's.
    if matches!(ending, "index" | "meta") && !stem.contains("ckpt") {
        return None;
    }
    // A name may carry a piece (`.part2`, `-split-a`, `.001`) or a wrapping after an ending of weights.
    let inner = |part: &str| {
        let word: String = part.chars().take_while(char::is_ascii_alphanumeric).collect();
        files::endings().any(|ending| ending == word)
    };
    // The first piece is the stem itself: `bin.tar` is an archive of that name.
    let wrapped = stem.split('.').skip(1).any(inner);
    let cut = wrapped || (inner(ending) && ending.contains(['-', '_']));
    let known = UNREAD.iter().find(|(_, endings)| endings.contains(&ending)).map(|(what, _)| *what);
    match known {
        Some(what) => Some(what),
        None if cut => Some("a piece or a wrapped copy of a file of weights"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_are_not_read_are_told_by_their_names() {
        for name in [
            "tf_model.h5",
            "flax_model.msgpack",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/model.onnx_data_1",
            "onnx/model.onnx.data",
            "weights.NPZ",
            "model.pkl",
            "model.joblib",
            "m.nemo",
            "rust_model.ot",
            "model.ckpt-1000.data-00000-of-00001",
            "model.ckpt-1000.index",
            "model.ckpt-1000.meta",
            "saved_model.pb",
            "model.tflite",
            "a.mlmodel",
            "__0_0.distcp",
            "weights.tar.gz",
            "model.zip",
            "m.gguf.part1of2",
            "m.gguf-split-a",
            "m.Q4_K_M.gguf.001",
            "model.safetensors.partaa",
            "pytorch_model.bin.gz",
            "m.llamafile",
            "模型.gguf.part2",
        ] {
            assert!(unread_kind(name).is_some(), "{name}");
            assert!(!is_weights(name), "{name}");
        }
    }

    #[test]
    fn what_is_read_and_what_is_no_weights_is_not_called_unread() {
        for name in [
            "model.safetensors",
            "model.SFT",
            "m.Q4_K_M.gguf",
            "pytorch_model.bin",
            "consolidated.00.pth",
            "last.ckpt",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "model.safetensors.sha256",
            "m.gguf.md5",
            "README.md",
            "tokenizer.model",
            "merges.txt",
            "docs.index",
            "train.jsonl.gz",
            "page.meta",
            "LICENSE",
            ".gitattributes",
            "é",
            "",
        ] {
            assert_eq!(unread_kind(name), None, "{name}");
        }
    }

    #[test]
    fn no_ending_is_both_read_and_unread_or_listed_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for ending in
            UNREAD.iter().flat_map(|(_, endings)| endings.iter()).chain(BESIDE).copied().chain(files::endings())
        {
            assert!(seen.insert(ending), "{ending}");
            assert_eq!(ending, ending.to_ascii_lowercase());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_answered(name: String) {
            let _ = unread_kind(&name);
            let _ = unread_kind(&format!("{name}.gguf-{name}"));
        }
    }
}
