//! Whether a key made a bundle's signature, and what its certificate says of the signer.
//!
//! A signature that fits says that the holder of that key signed these digests; whose key it is, the user knows or
//! nobody does. Certificates that come with a bundle are shown and used to see whether the signature fits them, but no
//! chain, validity or transparency log is checked, so nothing that only they vouch for is called verified.

use aws_lc_rs::signature::{self as ecdsa, EcdsaVerificationAlgorithm, UnparsedPublicKey};
use base64::Engine as _;
use serde::Serialize;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, SubjectPublicKeyInfo, X509Certificate};

use super::bundle::{Bundle, PAYLOAD_TYPE};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::limits::MAX_MANIFEST_BYTES;

/// Object identifiers: elliptic-curve keys, and the issuer in certificates of Sigstore (the older one holds bare text,
/// the newer one a DER string).
const EC_KEY: &str = "1.2.840.10045.2.1";
const SIGSTORE_ISSUER: &str = "1.3.6.1.4.1.57264.1.8";
const SIGSTORE_ISSUER_BEFORE: &str = "1.3.6.1.4.1.57264.1.1";

/// A public key on one of the curves that model signatures use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    curve: Curve,
    /// The whole `SubjectPublicKeyInfo` in DER.
    info: Vec<u8>,
    /// The point.
    point: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn of(oid: &str) -> Option<Self> {
        match oid {
            "1.2.840.10045.3.1.7" => Some(Self::P256),
            "1.3.132.0.34" => Some(Self::P384),
            "1.3.132.0.35" => Some(Self::P521),
            _ => None,
        }
    }

    /// The hash goes by the curve; version 0.2 of the library took SHA-256 for every certificate.
    const fn algorithm(self, before: bool) -> &'static EcdsaVerificationAlgorithm {
        match (self, before) {
            (Self::P256, _) => &ecdsa::ECDSA_P256_SHA256_ASN1,
            (Self::P384, false) => &ecdsa::ECDSA_P384_SHA384_ASN1,
            (Self::P384, true) => &ecdsa::ECDSA_P384_SHA256_ASN1,
            (Self::P521, false) => &ecdsa::ECDSA_P521_SHA512_ASN1,
            (Self::P521, true) => &ecdsa::ECDSA_P521_SHA256_ASN1,
        }
    }
}

impl PublicKey {
    /// Reads a public key or a certificate in PEM. Errors as bad usage: the file is the user's own.
    pub fn from_pem(name: &str, bytes: &[u8]) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorKind::Usage, format!("reading the key {name}: {what}"));
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(wrong("it is far too large"));
        }
        let (_, pem) = x509_parser::pem::parse_x509_pem(bytes).map_err(|_| wrong("it is not PEM"))?;
        let key = match pem.label.as_str() {
            "PUBLIC KEY" => Self::from_info(&pem.contents),
            "CERTIFICATE" => Self::from_certificate(&pem.contents),
            label if label.contains("PRIVATE") => {
                return Err(wrong("it is a private key; the public one belongs here"));
            }
            _ => None,
        };
        key.ok_or_else(|| wrong("it is no public key or certificate on the curve P-256, P-384 or P-521"))
    }

    /// The key of a certificate in DER.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Self::from_info(certificate.public_key().raw)
    }

    fn from_info(der: &[u8]) -> Option<Self> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        if !rest.is_empty() || info.algorithm.algorithm.to_id_string() != EC_KEY {
            return None;
        }
        let curve = Curve::of(&info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string())?;
        Some(Self { curve, info: der.to_vec(), point: info.subject_public_key.data.to_vec() })
    }

    /// SHA-256 of the key's PEM text, which is what bundles call it by.
    pub fn hint(&self) -> String {
        let digits = base64::engine::general_purpose::STANDARD.encode(&self.info);
        let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
        for line in digits.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        Digest::of(pem.as_bytes()).hex()
    }

    /// Whether this key made one of the bundle's signatures, in the present or in the first form.
    pub fn fits(&self, bundle: &Bundle) -> bool {
        let now = encoded(&bundle.payload);
        let made = |message: &[u8], before: bool| {
            let key = UnparsedPublicKey::new(self.curve.algorithm(before), &self.point);
            bundle.signatures.iter().any(|signature| key.verify(message, signature).is_ok())
        };
        if made(&now, false) {
            return true;
        }
        let before = encoded_before(&bundle.payload);
        made(&before, false) || made(&before, true)
    }
}

/// What DSSE signs: type and payload with their lengths (its "pre-authentication encoding").
fn encoded(payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// What version 0.2 of the library signed by mistake: the payload as Python prints a byte string.
fn encoded_before(payload: &[u8]) -> Vec<u8> {
    let quote = if payload.contains(&b'\'') && !payload.contains(&b'"') { b'"' } else { b'\'' };
    let mut out = format!("DSSEV1 {} {PAYLOAD_TYPE} {} b", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    out.push(quote);
    for byte in payload {
        match *byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte if byte == quote => out.extend_from_slice(&[b'\\', byte]),
            byte @ 0x20..=0x7e => out.push(byte),
            byte => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    out.push(quote);
    out
}

/// What is known of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSignatureState {
    /// The key given made it.
    Verified,
    /// No key was given, so nothing is known of who made it.
    NotChecked,
    /// The key given did not make it, or the bundle contradicts itself.
    Differs,
}

/// A signature as far as it was looked into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSignature {
    /// What is known.
    pub state: FileSignatureState,
    /// One sentence.
    pub because: String,
    /// The subject of the certificate that came with it: unverified.
    pub subject: Option<String>,
    /// The signer's mail address or identity in that certificate: unverified.
    pub identity: Option<String>,
    /// Who vouches for the identity according to that certificate: unverified.
    pub issuer: Option<String>,
    /// Whether it carries entries of a transparency log; they are not looked up.
    pub log_entries: usize,
}

/// Looks into a bundle's signature with the user's key, if there is one.
pub fn check(bundle: &Bundle, key: Option<&PublicKey>) -> FileSignature {
    let signer = bundle.certificates.first().map(|der| Signer::of(der)).unwrap_or_default();
    let (state, because) = decide(bundle, key);
    FileSignature {
        state,
        because,
        subject: signer.subject,
        identity: signer.identity,
        issuer: signer.issuer,
        log_entries: bundle.log_entries,
    }
}

fn decide(bundle: &Bundle, key: Option<&PublicKey>) -> (FileSignatureState, String) {
    if bundle.signatures.is_empty() {
        return (FileSignatureState::Differs, "it carries no signature".to_owned());
    }
    let Some(key) = key else {
        return match bundle.certificates.first() {
            Some(der) => match PublicKey::from_certificate(der) {
                Some(own) if own.fits(bundle) => (
                    FileSignatureState::NotChecked,
                    "not checked: it fits the certificate that came with it, which anyone can make; give --key with the \
                     signer's certificate or key"
                        .to_owned(),
                ),
                Some(_) => (FileSignatureState::Differs, "it does not fit the certificate that came with it".to_owned()),
                None => (FileSignatureState::NotChecked, "not checked: its certificate cannot be read; give --key".to_owned()),
            },
            None => (FileSignatureState::NotChecked, "not checked: give --key with the signer's public key".to_owned()),
        };
    };
    match &bundle.hint {
        Some(hint) if !hint.is_empty() && !hint.eq_ignore_ascii_case(&key.hint()) => {
            (FileSignatureState::Differs, "it was made by another key than the one given".to_owned())
        }
        _ if key.fits(bundle) => (FileSignatureState::Verified, "the key given made it".to_owned()),
        _ => (
            FileSignatureState::Differs,
            "the key given did not make it, or what was signed was changed since".to_owned(),
        ),
    }
}

#[derive(Default)]
struct Signer {
    subject: Option<String>,
    identity: Option<String>,
    issuer: Option<String>,
}

impl Signer {
    fn of(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Self::default() };
        let mut signer = Self::default();
        let subject = certificate.subject().to_string();
        signer.subject = (!subject.is_empty()).then_some(subject);
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                signer.identity = names.general_names.iter().find_map(|name| match name {
                    GeneralName::RFC822Name(text) | GeneralName::URI(text) => Some((*text).to_owned()),
                    _ => None,
                });
            }
            let value = String::from_utf8_lossy;
            match extension.oid.to_id_string().as_str() {
                // A DER string of less than 128 bytes has two bytes before its text.
                SIGSTORE_ISSUER => {
                    signer.issuer = extension.value.get(2..).map(|text| value(text).into_owned());
                }
                SIGSTORE_ISSUER_BEFORE if signer.issuer.is_none() => {
                    signer.issuer = Some(value(extension.value).into_owned());
                }
                _ => {}
            }
        }
        let issuer = certificate.issuer().to_string();
        signer.issuer = signer.issuer.or_else(|| (!issuer.is_empty()).then_some(issuer));
        signer
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    /// A new key pair and its public key.
    pub fn pair() -> (EcdsaKeyPair, PublicKey) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        // SubjectPublicKeyInfo of a P-256 key: a fixed beginning, then the point.
        let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        let info = [head, point].concat();
        let key = PublicKey::from_info(&info).unwrap();
        (pair, key)
    }

    pub fn sign(bundle: &mut Bundle, pair: &EcdsaKeyPair) {
        bundle.payload_type = PAYLOAD_TYPE.to_owned();
        bundle.signatures = vec![pair.sign(&SystemRandom::new(), &encoded(&bundle.payload)).unwrap().as_ref().to_vec()];
    }

    #[test]
    fn a_signature_fits_its_key_and_no_other() {
        let (pair, key) = pair();
        let (_, other) = self::pair();
        let mut bundle = Bundle { payload: b"{\"it's\": 1}".to_vec(), ..Bundle::default() };
        assert_eq!(check(&bundle, Some(&key)).state, FileSignatureState::Differs);
        sign(&mut bundle, &pair);
        assert_eq!(check(&bundle, Some(&key)).state, FileSignatureState::Verified);
        assert_eq!(check(&bundle, Some(&other)).state, FileSignatureState::Differs);
        assert_eq!(check(&bundle, None).state, FileSignatureState::NotChecked);
        bundle.hint = Some(other.hint());
        assert_eq!(check(&bundle, Some(&key)).state, FileSignatureState::Differs);
        bundle.hint = Some(key.hint());
        bundle.payload.push(b' ');
        assert_eq!(check(&bundle, Some(&key)).state, FileSignatureState::Differs);
    }

    #[test]
    fn the_form_of_the_first_release_is_taken_too() {
        let (pair, key) = pair();
        let payload = b"{\"a\": 'x\\\n\xff'}".to_vec();
        let message = encoded_before(&payload);
        let expected = b"DSSEV1 28 application/vnd.in-toto+json 13 b'{\"a\": \\'x\\\\\\n\\xff\\'}'";
        assert_eq!(String::from_utf8_lossy(&message), String::from_utf8_lossy(expected));
        let made = pair.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec();
        let bundle = Bundle { payload, signatures: vec![made], ..Bundle::default() };
        assert!(key.fits(&bundle));
        assert!(encoded_before(b"it's").ends_with(b"b\"it's\""));
    }

    #[test]
    fn keys_that_are_none_are_bad_usage() {
        let refused = |text: &str| PublicKey::from_pem("key.pem", text.as_bytes()).unwrap_err();
        assert_eq!(refused("nonsense").kind, ErrorKind::Usage);
        let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(refused(private).doing.contains("private"));
        assert!(refused("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").doing.contains("P-256"));
    }

    proptest::proptest! {
        #[test]
        fn any_certificate_is_read_or_not(bytes: Vec<u8>) {
            let bundle = Bundle { certificates: vec![bytes.clone()], signatures: vec![bytes], ..Bundle::default() };
            let signature = check(&bundle, None);
            proptest::prop_assert_ne!(signature.state, FileSignatureState::Verified);
        }
    }
}
