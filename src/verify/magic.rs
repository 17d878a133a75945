//! What a file is by its first bytes, and what its name promises.

use super::{Check, CheckOutcome, Look};
use crate::checkpoint::files::Written;
use crate::checkpoint::unread_kinds::unread_kind;

/// Bytes of a file's beginning that are looked at.
pub const FIRST: u64 = 512;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentKind {
    /// Nothing in it.
    Empty,
    /// A safetensors file: a length, then a JSON object.
    Safetensors,
    /// A GGUF file.
    Gguf,
    /// A file of ggml from before GGUF.
    Ggml,
    /// A zip archive, in which PyTorch puts a pickle and storages.
    Zip,
    /// A bare pickle, which is PyTorch's old layout.
    Pickle,
    /// JSON.
    Json,
    /// A pointer of git-lfs in place of the file: the SHA-256 and length of what it stands for.
    LfsPointer(Option<String>, Option<u64>),
    /// A page of HTML.
    Html,
    /// XML, in which storage services word their errors.
    Xml,
    /// A program: ELF, PE, Mach-O or a script.
    Program(&'static str),
    /// An archive or compressed file.
    Packed(&'static str),
    /// Another format for numbers: HDF5, NumPy.
    Other(&'static str),
    /// Readable text.
    Text,
    /// Zero bytes only, as far as was looked.
    Zeros,
    /// None of these.
    Unknown,
}

impl ContentKind {
    /// A short word for tables and records.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Ggml => "ggml",
            Self::Zip => "zip",
            Self::Pickle => "pickle",
            Self::Json => "json",
            Self::LfsPointer(..) => "lfs-pointer",
            Self::Html => "html",
            Self::Xml => "xml",
            Self::Program(what) | Self::Packed(what) | Self::Other(what) => what,
            Self::Text => "text",
            Self::Zeros => "zeros",
            Self::Unknown => "unknown",
        }
    }
}

/// Programs, archives and foreign formats by their first bytes.
const BEGINNINGS: &[(&[u8], ContentKind)] = &[
    (b"GGUF", ContentKind::Gguf),
    (b"lmgg", ContentKind::Ggml),
    (b"tjgg", ContentKind::Ggml),
    (b"fmgg", ContentKind::Ggml),
    (b"PK\x03\x04", ContentKind::Zip),
    (b"PK\x05\x06", ContentKind::Zip),
    (b"\x7fELF", ContentKind::Program("elf")),
    (b"MZ", ContentKind::Program("pe")),
    (b"\xfe\xed\xfa\xce", ContentKind::Program("mach-o")),
    (b"\xfe\xed\xfa\xcf", ContentKind::Program("mach-o")),
    (b"\xce\xfa\xed\xfe", ContentKind::Program("mach-o")),
    (b"\xcf\xfa\xed\xfe", ContentKind::Program("mach-o")),
    (b"\xca\xfe\xba\xbe", ContentKind::Program("mach-o")),
    (b"#!", ContentKind::Program("script")),
    (b"\x1f\x8b", ContentKind::Packed("gzip")),
    (b"\x28\xb5\x2f\xfd", ContentKind::Packed("zstd")),
    (b"\xfd7zXZ\x00", ContentKind::Packed("xz")),
    (b"BZh", ContentKind::Packed("bzip2")),
    (b"7z\xbc\xaf\x27\x1c", ContentKind::Packed("7z")),
    (b"Rar!", ContentKind::Packed("rar")),
    (b"\x89HDF\r\n\x1a\n", ContentKind::Other("hdf5")),
    (b"\x93NUMPY", ContentKind::Other("numpy")),
];

/// What a file of `length` bytes is that begins so.
pub fn kind(first: &[u8], length: u64) -> ContentKind {
    if length == 0 {
        return ContentKind::Empty;
    }
    // Before all else: a safetensors file begins with a length, which may look like anything.
    if let Some((size, rest)) = first.split_first_chunk::<8>() {
        let size = u64::from_le_bytes(*size);
        if rest.first() == Some(&b'{') && size >= 2 && size.checked_add(8).is_some_and(|end| end <= length) {
            return ContentKind::Safetensors;
        }
    }
    if let Some((_, kind)) = BEGINNINGS.iter().find(|(beginning, _)| first.starts_with(beginning)) {
        return kind.clone();
    }
    // Protocols from 2 on say so; the older ones are told by what such a pickle begins with.
    if first.first() == Some(&0x80) && first.get(1).is_some_and(|protocol| (2..=5).contains(protocol)) {
        return ContentKind::Pickle;
    }
    if first.iter().all(|byte| *byte == 0) {
        return ContentKind::Zeros;
    }
    text_kind(first)
}

fn text_kind(first: &[u8]) -> ContentKind {
    let bare = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    if bare.starts_with(b"version https://git-lfs.github.com/spec/") {
        let text = String::from_utf8_lossy(bare);
        let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let oid = field("oid sha256:").filter(|oid| oid.len() == 64 && oid.bytes().all(|b| b.is_ascii_hexdigit()));
        return ContentKind::LfsPointer(
            oid.map(str::to_ascii_lowercase),
            field("size ").and_then(|size| size.parse().ok()),
        );
    }
    let lower = bare.get(..bare.len().min(64)).unwrap_or_default().to_ascii_lowercase();
    if lower.starts_with(b"<!doctype html") || lower.starts_with(b"<html") || lower.starts_with(b"<head") {
        return ContentKind::Html;
    }
    if lower.starts_with(b"<?xml") || lower.starts_with(b"<error") {
        return ContentKind::Xml;
    }
    if is_text_pickle(first) {
        return ContentKind::Pickle;
    }
    let readable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    match bare.first() {
        Some(b'{' | b'[') if first.iter().all(readable) => ContentKind::Json,
        _ if first.iter().all(readable) && is_utf8_start(first) => ContentKind::Text,
        _ => ContentKind::Unknown,
    }
}

/// Whether the bytes are text up to a character that their end may have cut.
fn is_utf8_start(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Protocols 0 and 1 have no mark: an import (`cmodule\nname\n`), or a list, tuple or dictionary that begins.
fn is_text_pickle(first: &[u8]) -> bool {
    let mut lines = first.split(|byte| *byte == b'\n');
    let identifier = |line: &[u8]| {
        !line.is_empty() && line.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    };
    match first {
        [b'c', ..] => lines.next().is_some_and(|line| identifier(&line[1..])) && lines.next().is_some_and(identifier),
        [b'(', b'l' | b'd' | b'i' | b'c' | b't' | b'(', ..] | [b'}' | b']', b'q' | b'(', ..] => true,
        _ => false,
    }
}

/// What the endings of names promise.
const PROMISES: &[(&[&str], &[&str])] = &[
    (Written::Safetensors.endings(), &["safetensors"]),
    (Written::Gguf.endings(), &["gguf"]),
    (Written::PyTorch.endings(), &["zip", "pickle"]),
    (&["pkl", "pickle"], &["pickle"]),
    (&["json"], &["json"]),
    (&["h5", "hdf5"], &["hdf5"]),
    (&["npy"], &["numpy"]),
    (&["npz", "keras"], &["zip"]),
];

/// What a file of this name should be; empty where the name promises nothing.
pub fn promised(name: &str) -> &'static [&'static str] {
    let Some((_, ending)) = name.rsplit_once('.') else { return &[] };
    let of = |(endings, _): &&(&[&str], &[&str])| endings.iter().any(|known| ending.eq_ignore_ascii_case(known));
    PROMISES.iter().find(of).map_or(&[], |(_, kinds)| kinds)
}

/// Says what a file is instead of what its name promises, and what to do about it.
pub fn explain(kind: &ContentKind, promised: &[&str]) -> String {
    let promised = promised.join(" or ");
    match kind {
        ContentKind::LfsPointer(_, size) => {
            let size = size.map_or_else(|| "its".to_owned(), |size| format!("{size}"));
            format!(
                "a Git LFS pointer, not {promised}: {size} bytes of content were never downloaded (run `git lfs pull`, \
                 or download the file from its hub)"
            )
        }
        ContentKind::Html => format!(
            "a web page, not {promised}: what a server answers in place of a file it does not give (download it again, \
             with a token if the repository is gated)"
        ),
        ContentKind::Xml => {
            format!("an XML document, not {promised}: often a storage service's error (download the file again)")
        }
        ContentKind::Json | ContentKind::Text => {
            format!("{}, not {promised}: often a server's error message (look into it)", kind.word())
        }
        ContentKind::Program(what) => format!("a program ({what}), not {promised}"),
        ContentKind::Zip | ContentKind::Pickle => {
            format!("{}, not {promised}: loaders that go by content would unpickle it", kind.word())
        }
        ContentKind::Empty => format!("empty, not {promised}"),
        ContentKind::Zeros => format!("zeros from its first byte on, not {promised}: a download that was never filled"),
        other => format!("{}, not {promised}", other.word()),
    }
}

/// Holds a file's first bytes to its name.
pub struct MagicCheck;

impl Check for MagicCheck {
    fn name(&self) -> &'static str {
        "magic"
    }

    fn run(&self, look: &mut Look<'_>) {
        let promised = promised(&look.item.name);
        // Weights in a form that is not read promise no first bytes; by their names they are weights all the same.
        if promised.is_empty()
            && let Some(what) = unread_kind(&look.item.name)
        {
            look.report.kind = Some(what.to_owned());
        }
        // Small files of a hub are only fetched whole, and some count as downloads.
        if promised.is_empty() || look.item.is_costly() {
            return look.put(self.name(), CheckOutcome::NotApplicable, None, None);
        }
        match look.first() {
            Ok(first) => {
                let kind = kind(&first, look.length());
                look.report.kind = Some(kind.word().to_owned());
                if promised.contains(&kind.word()) {
                    look.put(self.name(), CheckOutcome::Ok, None, None);
                } else {
                    look.put(self.name(), CheckOutcome::Differs, None, Some(explain(&kind, promised)));
                }
                look.kind = Some(kind);
            }
            Err(reason) => look.put(self.name(), look.unread(), None, Some(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> ContentKind {
        kind(&bytes[..bytes.len().min(FIRST as usize)], bytes.len() as u64)
    }

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        let safetensors = [&10u64.to_le_bytes()[..], b"{\"a\":1}   "].concat();
        for (bytes, word) in [
            (&safetensors[..], "safetensors"),
            (b"GGUF\x03\0\0\0", "gguf"),
            (b"PK\x03\x04rest", "zip"),
            (b"\x80\x02}q\0.", "pickle"),
            (b"cos\nsystem\n(S'x'\ntR.", "pickle"),
            (b"(lp0\nI1\na.", "pickle"),
            (b"\x7fELF\x02", "elf"),
            (b"MZ\x90\0", "pe"),
            (b"#!/bin/sh\n", "script"),
            (b"<!DOCTYPE html><html>", "html"),
            (b"  <HTML>", "html"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "xml"),
            (b"{\"error\":\"Repository not found\"}", "json"),
            (b"Entry not found", "text"),
            (b"certainly no pickle\n", "text"),
            (b"\0\0\0\0\0\0\0\0\0\0", "zeros"),
            (b"", "empty"),
            (b"\x01\x02\x03\x04", "unknown"),
        ] {
            assert_eq!(of(bytes).word(), word, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_length_beyond_the_file_is_no_safetensors() {
        assert_ne!(of(&[&1000u64.to_le_bytes()[..], b"{\"a\":1}"].concat()), ContentKind::Safetensors);
        assert_ne!(of(&[&u64::MAX.to_le_bytes()[..], b"{\"a\":1}"].concat()), ContentKind::Safetensors);
    }

    #[test]
    fn a_pointer_tells_what_it_stands_for() {
        let oid = "ab".repeat(32);
        let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 4976698672\n");
        let found = of(text.as_bytes());
        assert_eq!(found, ContentKind::LfsPointer(Some(oid), Some(4_976_698_672)));
        let said = explain(&found, promised("model.safetensors"));
        assert!(said.contains("4976698672") && said.contains("git lfs pull"), "{said}");
    }

    #[test]
    fn names_promise_what_is_listed_and_nothing_else() {
        assert_eq!(promised("a/b.SafeTensors"), ["safetensors"]);
        assert_eq!(promised("pytorch_model.bin"), ["zip", "pickle"]);
        assert!(promised("README.md").is_empty() && promised("none").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_beginning_is_something(bytes: Vec<u8>, length: u64) {
            let kind = kind(&bytes, length);
            proptest::prop_assert!(!explain(&kind, &["safetensors"]).is_empty());
        }
    }
}
