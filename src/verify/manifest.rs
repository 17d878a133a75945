//! Lists of checksums, as `sha256sum` writes them.
//!
//! Format (coreutils manual, "cksum output modes" and "sha2 utilities"): `DIGEST  NAME` or `DIGEST *NAME`; a leading
//! backslash says that backslashes, line feeds and carriage returns of the name are written `\\`, `\n` and `\r`; with
//! `--tag` a line is `SHA256 (NAME) = DIGEST`. A file `NAME.sha256` with a digest alone speaks of `NAME`.

use std::collections::BTreeMap;

use super::hash::{Algorithm, Hash};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MAX_MANIFEST_BYTES, MAX_TREE_FILES};

/// Lines that are named in full when they cannot be used.
const LINES_NAMED: usize = 8;

/// A list of checksums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Digests by name, in the order of the list where one name comes twice.
    pub entries: BTreeMap<String, Vec<Hash>>,
    /// Lines that are no checksum, name a path outside of the folder, or use an unknown algorithm.
    pub refused: Vec<String>,
    /// How many more such lines there are.
    pub more_refused: usize,
}

impl Manifest {
    fn refuse(&mut self, line: usize, what: &str) {
        if self.refused.len() < LINES_NAMED {
            self.refused.push(format!("line {line}: {what}"));
        } else {
            self.more_refused += 1;
        }
    }
}

/// Whether a name stays inside the folder it is relative to. Any character but a zero byte may be in it.
pub fn stays_inside(name: &str) -> bool {
    let drive = name.get(1..2) == Some(":") && name.starts_with(|first: char| first.is_ascii_alphabetic());
    !name.is_empty()
        && name.len() <= 4096
        && !name.contains('\0')
        && !drive
        && name.split(['/', '\\']).all(|part| part != "..")
        && name.split('/').all(|part| !part.is_empty() && part != ".")
        && !name.starts_with('\\')
}

/// Reads a list. `own_name` is the list's file name, for lists of one digest without a name. Errors when it is too
/// large; lines that cannot be used are told in it.
pub fn parse(own_name: &str, bytes: &[u8]) -> Result<Manifest> {
    let doing = || format!("reading the list of checksums {own_name}");
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {MAX_MANIFEST_BYTES} bytes", doing())));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Error::because(ErrorKind::Malformed, format!("{}: it is not text", doing()), error))?;
    let mut manifest = Manifest::default();
    let mut entries = 0usize;
    for (at, line) in text.trim_start_matches('\u{feff}').split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let read = match read_line(own_name, line) {
            Ok(read) => read,
            Err(what) => {
                manifest.refuse(at + 1, what);
                continue;
            }
        };
        let (name, hash) = read;
        if !stays_inside(&name) {
            manifest.refuse(at + 1, "its path leads out of the folder");
            continue;
        }
        entries += 1;
        if entries > MAX_TREE_FILES {
            return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {MAX_TREE_FILES} lines", doing())));
        }
        let known = manifest.entries.entry(name).or_default();
        if !known.contains(&hash) {
            known.push(hash);
        }
    }
    Ok(manifest)
}

/// Name and digest of one line, or what is wrong with it.
fn read_line(own_name: &str, line: &str) -> Result<(String, Hash), &'static str> {
    const NONE: &str = "no checksum";
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |rest| (true, rest));
    let (name, hash) = match line.split_once('(') {
        Some((tag, rest)) if tag.trim_end().chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '/')) => {
            let (name, digits) = rest.rsplit_once(')').ok_or(NONE)?;
            let digits = digits.trim_start().strip_prefix('=').ok_or(NONE)?.trim();
            let algorithm = match tag.trim_end() {
                "SHA256" | "SHA2-256" => Algorithm::Sha256,
                "BLAKE2b" => Algorithm::Blake2b,
                _ => return Err("an algorithm that is not handled (SHA256 and BLAKE2b are)"),
            };
            (name, Hash::parse(algorithm, digits).ok_or("a digest of the wrong length")?)
        }
        _ => {
            let end = line.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(line.len());
            let (digits, rest) = line.split_at(end);
            let hash = match digits.len() {
                64 => Hash::parse(Algorithm::Sha256, digits).ok_or(NONE)?,
                32 | 40 | 56 | 96 | 128 => return Err("a digest that is not SHA-256"),
                _ => return Err(NONE),
            };
            let name = match rest.trim() {
                // A digest alone speaks of the file whose name the list carries on.
                "" | "-" => own_name.rsplit_once('.').map(|(name, _)| name).ok_or(NONE)?,
                _ => rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *")).ok_or(NONE)?,
            };
            (name, hash)
        }
    };
    let name = if escaped { unescape(name).ok_or("a name with an unknown escape")? } else { name.to_owned() };
    // `find . -exec sha256sum` writes names so.
    let mut name = name.as_str();
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    Ok((name.to_owned(), hash))
}

fn unescape(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            }),
            other => out.push(other),
        }
    }
    Some(out)
}

/// Whether a file at the top of a folder is a list of checksums, by its name.
pub fn is_named_so(name: &str) -> bool {
    const WHOLE: &[&str] = &["sha256sums", "sha256sums.txt", "sha256sum.txt", "sha256.txt", "checksums.txt"];
    let lower = name.to_ascii_lowercase();
    !name.contains('/')
        && (WHOLE.contains(&lower.as_str()) || lower.ends_with(".sha256") || lower.ends_with(".sha256sum"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(letter: &str) -> String {
        letter.repeat(64)
    }

    fn names(manifest: &Manifest) -> Vec<&str> {
        manifest.entries.keys().map(String::as_str).collect()
    }

    #[test]
    fn every_way_of_writing_a_line_is_read() {
        let text = format!(
            "\u{feff}# comment\n{0}  text mode\n{0} *binary\r\n\\{0}  line\\nfeed \\\\ back\\r\nSHA256 (tagged (1).bin) = \
             {0}\nSHA256(openssl)= {0}\n{0}  ./found\n\n{0}   leading space\nBLAKE2b (b) = {1}\n",
            digest("a"),
            "b".repeat(128)
        );
        let manifest = parse("SHA256SUMS", text.as_bytes()).unwrap();
        assert_eq!(
            names(&manifest),
            [
                " leading space",
                "b",
                "binary",
                "found",
                "line\nfeed \\ back\r",
                "openssl",
                "tagged (1).bin",
                "text mode"
            ]
        );
        assert!(manifest.refused.is_empty(), "{:?}", manifest.refused);
        let alone = parse("model.gguf.sha256", digest("C").as_bytes()).unwrap();
        assert_eq!(names(&alone), ["model.gguf"]);
        assert_eq!(alone.entries["model.gguf"][0].to_string(), format!("sha256:{}", digest("c")));
    }

    #[test]
    fn what_is_hostile_or_unknown_is_refused_and_told() {
        for name in ["../x", "/etc/passwd", "a/../../b", "c:\\x", "..\\x", "a//b", "\\\\server\\share", "nul\0name", ""]
        {
            assert!(!stays_inside(name), "{name:?}");
        }
        let text = format!(
            "{0}  ../x\n{0}  /etc/passwd\n{0}  nul\0name\nnonsense\n{1}  md5\nSHA512 (x) = 00\n",
            digest("a"),
            "a".repeat(32)
        );
        let manifest = parse("SHA256SUMS", text.as_bytes()).unwrap();
        assert!(manifest.entries.is_empty());
        assert_eq!(manifest.refused.len(), 6, "{:?}", manifest.refused);
        assert!(manifest.refused[0].contains("line 1: its path leads out of the folder"));
        let many = parse("SHA256SUMS", "x\n".repeat(1000).as_bytes()).unwrap();
        assert_eq!(many.refused.len() + many.more_refused, 1000);
        assert!(parse("SHA256SUMS", &[0xff, 0xfe]).is_err());
        assert_eq!(
            parse("SHA256SUMS", &vec![b'\n'; MAX_MANIFEST_BYTES as usize + 1]).unwrap_err().kind,
            ErrorKind::TooLarge
        );
    }

    #[test]
    fn a_name_given_two_digests_keeps_both() {
        let manifest = parse("S", format!("{}  x\n{}  x\n{0}  x\n", digest("a"), digest("b")).as_bytes()).unwrap();
        assert_eq!(manifest.entries["x"].len(), 2);
    }

    #[test]
    fn lists_are_found_by_their_names() {
        for name in ["SHA256SUMS", "sha256sums.txt", "model.safetensors.sha256", "x.SHA256SUM"] {
            assert!(is_named_so(name), "{name}");
        }
        for name in ["README.md", "sub/SHA256SUMS", "sha256sums.asc"] {
            assert!(!is_named_so(name), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_list_leads_out_of_the_folder(text in "(\\PC|\n|\\\\|/|\\.){0,200}") {
            let line = format!("{}  {text}\n", digest("a"));
            if let Ok(manifest) = parse("S", line.as_bytes()) {
                for name in manifest.entries.keys() {
                    proptest::prop_assert!(stays_inside(name));
                }
            }
        }
    }
}
