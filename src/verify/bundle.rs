//! OpenSSF model signatures: a Sigstore bundle with a DSSE envelope around an in-toto statement about files.
//!
//! Formats: Sigstore's `sigstore_bundle.proto` as protobuf writes it in JSON (versions 0.1 to 0.3), DSSE 1.0, in-toto
//! Statement v1, and two predicates of the model-signing library: `https://model_signing/signature/v1.0` (resources in
//! the predicate, their digests hashed together into the one subject) and its forerunner
//! `https://model_signing/Digests/v0.1` (a subject per file, and nothing said of how files were chosen).

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use sha2::Digest as _;

use super::hash::{Algorithm, Hash};
use super::manifest::stays_inside;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::limits::{MAX_BUNDLE_SIGNATURES, MAX_BUNDLE_VALUES_BYTES, MAX_MANIFEST_BYTES, MAX_TREE_FILES};

/// The only payload that model signatures carry.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
const PREDICATE_BEFORE: &str = "https://model_signing/Digests/v0.1";

/// Who signed what, before any of it is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The envelope's payload type.
    pub payload_type: String,
    /// The payload, byte for byte as it was signed.
    pub payload: Vec<u8>,
    /// Signatures of the envelope.
    pub signatures: Vec<Vec<u8>>,
    /// What the bundle says of the key: SHA-256 of its PEM text.
    pub hint: Option<String>,
    /// Certificates in DER, the signer's first.
    pub certificates: Vec<Vec<u8>>,
    /// Entries of a transparency log that it carries.
    pub log_entries: usize,
}

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The model's name, which is only informative.
    pub model: String,
    /// Whether the signer named all files of the folder, so that further ones are unsigned additions.
    pub complete: bool,
    /// Whether files were hashed in parts.
    pub sharded: bool,
    /// Paths that the signer left out.
    pub ignored: Vec<String>,
    /// The files, or parts of files, in order.
    pub resources: BTreeMap<String, Vec<Resource>>,
    /// Whether the digests hash to the subject's; `None` for the older predicate, which has no such digest.
    pub root: Option<Root>,
    /// Resources that cannot be used, and why.
    pub refused: Vec<String>,
}

/// The digest that stands for all resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// As the subject has it.
    pub stated: String,
    /// As the resources give it.
    pub computed: Digest,
}

impl Root {
    /// Whether both are the same.
    pub fn agrees(&self) -> bool {
        self.stated.eq_ignore_ascii_case(&self.computed.hex())
    }
}

/// The hash of a file or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The part; the whole file where there is none.
    pub range: Option<Range<u64>>,
    /// Its hash.
    pub hash: Hash,
}

fn malformed(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Malformed, format!("reading the signature {name}: {what}"))
}

/// Protobuf's JSON takes both alphabets, padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

/// Whether a file of this name is meant to be a model signature whatever is in it: it cannot be taken away by being
/// broken.
pub fn is_named_so(name: &str) -> bool {
    name == "model.sig" || name.contains(".sigstore")
}

/// Whether a file may be a bundle by its first bytes and an ending that detached signatures of other tools have as
/// well.
pub fn looks_like_one(name: &str, bytes: &[u8]) -> bool {
    name.ends_with(".sig") && bytes.trim_ascii_start().starts_with(b"{")
}

/// Reads a bundle, or a DSSE envelope without one. Errors when it is neither, or too large.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Bundle> {
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        let what = format!("reading the signature {name}: more than {MAX_MANIFEST_BYTES} bytes");
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    let value = crate::source::parse::json(bytes, MAX_BUNDLE_VALUES_BYTES)
        .map_err(|why| malformed(name, format!("it cannot be read as JSON: {why}")))?;
    let mut bundle = Bundle::default();
    let envelope = match value.get("dsseEnvelope") {
        Some(envelope) => {
            match text(&value, "mediaType") {
                Some(kind) if kind.starts_with("application/vnd.dev.sigstore.bundle") => {}
                other => return Err(malformed(name, format!("its media type is {other:?}, not a Sigstore bundle's"))),
            }
            let material = value.get("verificationMaterial").unwrap_or(&Value::Null);
            let chain = material.pointer("/x509CertificateChain/certificates").and_then(Value::as_array);
            let certificates = material.get("certificate").into_iter().chain(chain.into_iter().flatten());
            bundle.certificates = certificates
                .filter_map(|certificate| base64(text(certificate, "rawBytes")?))
                .take(MAX_BUNDLE_SIGNATURES)
                .collect();
            bundle.hint = material.pointer("/publicKey/hint").and_then(Value::as_str).map(str::to_owned);
            bundle.log_entries = material.get("tlogEntries").and_then(Value::as_array).map_or(0, Vec::len);
            envelope
        }
        None if value.get("messageSignature").is_some() => {
            return Err(malformed(name, "it signs one blob of bytes, not a model's files"));
        }
        None => &value,
    };
    let payload = text(envelope, "payload").and_then(base64);
    bundle.payload = payload.ok_or_else(|| malformed(name, "it has no DSSE envelope with a payload"))?;
    bundle.payload_type = text(envelope, "payloadType").unwrap_or_default().to_owned();
    let signatures = envelope.get("signatures").and_then(Value::as_array);
    bundle.signatures = signatures
        .into_iter()
        .flatten()
        .take(MAX_BUNDLE_SIGNATURES)
        .filter_map(|signature| base64(text(signature, "sig")?))
        .collect();
    Ok(bundle)
}

/// Reads what was signed. Errors when it is no statement about a model's files.
pub fn statement(name: &str, bundle: &Bundle) -> Result<Statement> {
    if bundle.payload_type != PAYLOAD_TYPE {
        return Err(malformed(name, format!("its payload is {:?}, not {PAYLOAD_TYPE}", bundle.payload_type)));
    }
    let value = crate::source::parse::json(&bundle.payload, MAX_BUNDLE_VALUES_BYTES)
        .map_err(|why| malformed(name, format!("its payload cannot be read as JSON: {why}")))?;
    if text(&value, "_type") != Some(STATEMENT_TYPE) {
        return Err(malformed(name, format!("its payload is not an in-toto statement ({STATEMENT_TYPE})")));
    }
    let subjects = value.get("subject").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if subjects.len() > MAX_TREE_FILES {
        return Err(Error::new(ErrorKind::TooLarge, format!("reading the signature {name}: too many subjects")));
    }
    match text(&value, "predicateType") {
        Some(PREDICATE) => current(name, &value, subjects),
        Some(PREDICATE_BEFORE) => Ok(before(subjects)),
        other => Err(malformed(name, format!("its predicate is {other:?}, not {PREDICATE}"))),
    }
}

fn current(name: &str, value: &Value, subjects: &[Value]) -> Result<Statement> {
    let [subject] = subjects else {
        return Err(malformed(name, format!("it has {} subjects where one belongs", subjects.len())));
    };
    let serialization = value.pointer("/predicate/serialization").unwrap_or(&Value::Null);
    let sharded = match text(serialization, "method") {
        Some("files") => false,
        Some("shards") => true,
        other => return Err(malformed(name, format!("its files are put together by {other:?}"))),
    };
    let listed = value.pointer("/predicate/resources").and_then(Value::as_array);
    let listed = listed.ok_or_else(|| malformed(name, "it lists no resources"))?;
    if listed.len() > MAX_TREE_FILES {
        return Err(Error::new(ErrorKind::TooLarge, format!("reading the signature {name}: too many resources")));
    }
    let ignored = serialization.get("ignore_paths").and_then(Value::as_array);
    let mut statement = Statement {
        model: text(subject, "name").unwrap_or_default().to_owned(),
        complete: true,
        sharded,
        ignored: ignored.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        resources: BTreeMap::new(),
        root: None,
        refused: Vec::new(),
    };
    let mut root = sha2::Sha256::new();
    for (at, resource) in listed.iter().enumerate() {
        let digits = text(resource, "digest").unwrap_or_default();
        // As the library does it: the bytes of every digest in the order listed, whatever their algorithm.
        let bytes = hex::decode(digits).map_err(|_| malformed(name, format!("resource {at} has no digest in hex")))?;
        root.update(&bytes);
        if let Err(what) = statement.add(resource, bytes) {
            statement.refused.push(format!("resource {at}: {what}"));
        }
    }
    let stated = subject.pointer("/digest/sha256").and_then(Value::as_str).unwrap_or_default().to_owned();
    statement.root = Some(Root { stated, computed: Digest(root.finalize().into()) });
    Ok(statement)
}

fn before(subjects: &[Value]) -> Statement {
    let mut statement = Statement {
        model: String::new(),
        complete: true,
        sharded: false,
        ignored: Vec::new(),
        resources: BTreeMap::new(),
        root: None,
        refused: Vec::new(),
    };
    for (at, subject) in subjects.iter().enumerate() {
        let digits = subject.pointer("/digest/sha256").and_then(Value::as_str).unwrap_or_default();
        let path = text(subject, "name").unwrap_or_default();
        match Hash::parse(Algorithm::Sha256, digits) {
            Some(hash) if stays_inside(path) => {
                statement.resources.entry(path.to_owned()).or_default().push(Resource { range: None, hash });
            }
            Some(_) => statement.refused.push(format!("subject {at}: its path leads out of the folder")),
            None => statement.refused.push(format!("subject {at}: it has no SHA-256 digest")),
        }
    }
    statement
}

impl Statement {
    fn add(&mut self, resource: &Value, bytes: Vec<u8>) -> Result<(), &'static str> {
        let named = text(resource, "name").ok_or("it has no name")?;
        let algorithm = text(resource, "algorithm").and_then(Algorithm::named).ok_or("its algorithm is not handled")?;
        if bytes.len() != algorithm.bytes() {
            return Err("its digest is not as long as its algorithm makes it");
        }
        let (path, range) = if self.sharded {
            let mut parts = named.split(':');
            let (Some(path), Some(start), Some(end), None) = (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err("its name is not PATH:START:END");
            };
            match (start.parse::<u64>(), end.parse::<u64>()) {
                (Ok(start), Ok(end)) if start < end => (path, Some(start..end)),
                _ => return Err("its name is not PATH:START:END"),
            }
        } else {
            (named, None)
        };
        if !stays_inside(path) {
            return Err("its path leads out of the folder");
        }
        let hash = Hash { algorithm, bytes };
        self.resources.entry(path.to_owned()).or_default().push(Resource { range, hash });
        Ok(())
    }

    /// The length that a file's parts cover from its beginning without a gap; `None` where they do not, or for whole
    /// files.
    pub fn covered(parts: &[Resource]) -> Option<u64> {
        let mut ranges: Vec<&Range<u64>> = parts.iter().filter_map(|part| part.range.as_ref()).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        ranges.dedup();
        let mut end = 0;
        for range in ranges {
            if range.start != end {
                return None;
            }
            end = range.end;
        }
        (end > 0).then_some(end)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_bundle_of_many_values_is_refused_before_it_is_read() {
        let many = format!("{{\"a\":[{}0]}}", "{\"\":0},".repeat(1 << 19));
        let error = parse("model.sig", many.as_bytes()).unwrap_err();
        assert!(error.one_line().contains("too many values"), "{}", error.one_line());
    }

    use serde_json::json;

    /// A bundle with this statement, unsigned.
    pub fn wrapped(statement: &Value) -> Value {
        let payload = base64::engine::general_purpose::STANDARD.encode(statement.to_string());
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "00"}, "tlogEntries": []},
            "dsseEnvelope": {"payload": payload, "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": "AA=="}]},
        })
    }

    /// A statement about files or parts and their SHA-256.
    pub fn stated(method: &str, resources: &[(&str, &Digest)]) -> Value {
        let all: Vec<u8> = resources.iter().flat_map(|(_, digest)| digest.0).collect();
        let listed: Vec<Value> = (resources.iter())
            .map(|(name, digest)| json!({"name": name, "algorithm": "sha256", "digest": digest.hex()}))
            .collect();
        json!({
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "model", "digest": {"sha256": Digest::of(&all).hex()}}],
            "predicateType": PREDICATE,
            "predicate": {
                "serialization": {"method": method, "hash_type": "sha256", "allow_symlinks": false,
                    "ignore_paths": ["model.sig", ".git"]},
                "resources": listed,
            },
        })
    }

    fn read(value: &Value) -> Result<Statement> {
        statement("model.sig", &parse("model.sig", value.to_string().as_bytes())?)
    }

    #[test]
    fn files_and_parts_are_read_and_their_root_computed() {
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let files = read(&wrapped(&stated("files", &[("a/b", &one), ("cc:d", &two)]))).unwrap();
        assert!(files.root.as_ref().unwrap().agrees() && files.refused.is_empty());
        assert_eq!(files.ignored, ["model.sig", ".git"]);
        assert_eq!(files.resources.keys().collect::<Vec<_>>(), ["a/b", "cc:d"]);
        let parts = read(&wrapped(&stated("shards", &[("a:0:10", &one), ("a:10:15", &two)]))).unwrap();
        assert_eq!(Statement::covered(&parts.resources["a"]), Some(15));
        let gap = read(&wrapped(&stated("shards", &[("a:0:10", &one), ("a:11:15", &two)]))).unwrap();
        assert_eq!(Statement::covered(&gap.resources["a"]), None);
        let mut wrong = stated("files", &[("a", &one)]);
        wrong["predicate"]["resources"][0]["digest"] = json!(two.hex());
        assert!(!read(&wrapped(&wrong)).unwrap().root.unwrap().agrees());
    }

    #[test]
    fn the_older_predicate_has_a_subject_per_file() {
        let one = Digest::of(b"one");
        let value = json!({"_type": STATEMENT_TYPE, "predicateType": PREDICATE_BEFORE, "predicate": {},
            "subject": [{"name": "a", "digest": {"sha256": one.hex()}}, {"name": "../b", "digest": {"sha256": one.hex()}},
                {"name": "c", "digest": {}}]});
        let statement = read(&wrapped(&value)).unwrap();
        assert_eq!(statement.resources["a"][0].hash, Hash::from(one));
        assert_eq!((statement.resources.len(), statement.refused.len(), statement.root), (1, 2, None));
    }

    #[test]
    fn hostile_bundles_are_errors_or_refusals_and_never_panics() {
        let one = Digest::of(b"one");
        for name in ["../x", "/etc/passwd", "", "a/../../x", "nul\0"] {
            let statement = read(&wrapped(&stated("files", &[(name, &one)]))).unwrap();
            assert!(statement.resources.is_empty(), "{name:?}");
            assert_eq!(statement.refused.len(), 1);
        }
        for name in ["a", "a:1", "a:5:5", "a:-1:5", "a:0:99999999999999999999", "a:b:0:1", "../a:0:1"] {
            let statement = read(&wrapped(&stated("shards", &[(name, &one)]))).unwrap();
            assert!(statement.resources.is_empty(), "{name:?}");
        }
        let good = wrapped(&stated("files", &[("a", &one)]));
        for (at, wrong) in [
            ("/mediaType", json!("text/plain")),
            ("/mediaType", json!(7)),
            ("/dsseEnvelope", json!([])),
            ("/dsseEnvelope/payload", json!("%%%")),
            ("/dsseEnvelope/payload", json!({"a": 1})),
            ("/dsseEnvelope/payloadType", json!("application/json")),
        ] {
            let mut value = good.clone();
            *value.pointer_mut(at).unwrap() = wrong;
            assert!(read(&value).is_err(), "{at}");
        }
        for (at, wrong) in [
            ("/_type", json!("https://in-toto.io/Statement/v0.1")),
            ("/predicateType", json!("https://slsa.dev/provenance/v1")),
            ("/subject", json!([])),
            ("/subject", json!({})),
            ("/predicate", json!("text")),
            ("/predicate/serialization/method", json!("tar")),
            ("/predicate/resources", json!({"a": 1})),
            ("/predicate/resources/0/digest", json!("xyz")),
        ] {
            let mut value = stated("files", &[("a", &one)]);
            *value.pointer_mut(at).unwrap() = wrong;
            assert!(read(&wrapped(&value)).is_err(), "{at}");
        }
        let deep = [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat();
        assert!(parse("model.sig", &deep).is_err());
        assert_eq!(
            parse("model.sig", &vec![b' '; MAX_MANIFEST_BYTES as usize + 1]).unwrap_err().kind,
            ErrorKind::TooLarge
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse("model.sig", &bytes);
            let bundle = Bundle { payload_type: PAYLOAD_TYPE.to_owned(), payload: bytes, ..Bundle::default() };
            let _ = statement("model.sig", &bundle);
        }
    }
}
