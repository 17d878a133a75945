//! The hashes that publishers state of files, and computing several of one file in one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use blake2::Blake2b512;
use sha2::Digest as _;

use crate::error::Result;
use crate::ids::{Digest, GitName};
use crate::source::{ByteSource, hash::pieces};

/// A way to hash a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256 of the bytes.
    Sha256,
    /// git's name of the bytes: SHA-1 over `blob LENGTH`, a zero byte and the bytes.
    GitSha1,
    /// BLAKE2b of 64 bytes.
    Blake2b,
    /// BLAKE3 of 32 bytes.
    Blake3,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::Sha256, Self::GitSha1, Self::Blake2b, Self::Blake3];

    /// Its name in records and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::GitSha1 => "git-sha1",
            Self::Blake2b => "blake2b",
            Self::Blake3 => "blake3",
        }
    }

    /// Bytes of a hash.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha256 | Self::Blake3 => 32,
            Self::GitSha1 => 20,
            Self::Blake2b => 64,
        }
    }

    /// The algorithm that a signed statement calls so. Hashes of parts carry the part's length in their name
    /// (`sha256-sharded-1000000000`).
    pub fn named(name: &str) -> Option<Self> {
        let plain = name.split_once("-sharded-").map_or(name, |(plain, _)| plain);
        match plain {
            "sha256" => Some(Self::Sha256),
            "blake2b" => Some(Self::Blake2b),
            "blake3" => Some(Self::Blake3),
            _ => None,
        }
    }
}

/// A hash with its algorithm.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash {
    /// How it is made.
    pub algorithm: Algorithm,
    /// As many bytes as the algorithm has.
    pub bytes: Vec<u8>,
}

impl Hash {
    /// Reads hex digits of the right number; `None` for anything else.
    pub fn parse(algorithm: Algorithm, digits: &str) -> Option<Self> {
        let bytes = hex::decode(digits).ok().filter(|bytes| bytes.len() == algorithm.bytes())?;
        Some(Self { algorithm, bytes })
    }

    /// As a SHA-256 digest, if it is one.
    pub fn sha256(&self) -> Option<Digest> {
        let bytes = self.bytes.as_slice().try_into().ok()?;
        (self.algorithm == Algorithm::Sha256).then_some(Digest(bytes))
    }
}

impl From<Digest> for Hash {
    fn from(digest: Digest) -> Self {
        Self { algorithm: Algorithm::Sha256, bytes: digest.0.to_vec() }
    }
}

impl From<GitName> for Hash {
    fn from(name: GitName) -> Self {
        Self { algorithm: Algorithm::GitSha1, bytes: name.0.to_vec() }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), hex::encode(&self.bytes))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

enum Running {
    Sha256(sha2::Sha256),
    GitSha1(sha1::Sha1),
    Blake2b(Box<Blake2b512>),
    Blake3(Box<blake3::Hasher>),
}

impl Running {
    fn new(algorithm: Algorithm, length: u64) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::GitSha1 => {
                let mut hasher = sha1::Sha1::new();
                hasher.update(format!("blob {length}\0"));
                Self::GitSha1(hasher)
            }
            Algorithm::Blake2b => Self::Blake2b(Box::default()),
            Algorithm::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(piece),
            Self::GitSha1(hasher) => hasher.update(piece),
            Self::Blake2b(hasher) => hasher.update(piece),
            Self::Blake3(hasher) => {
                hasher.update(piece);
            }
        }
    }

    fn finish(self) -> Hash {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Self::GitSha1(hasher) => (Algorithm::GitSha1, hasher.finalize().to_vec()),
            Self::Blake2b(hasher) => (Algorithm::Blake2b, hasher.finalize().to_vec()),
            Self::Blake3(hasher) => (Algorithm::Blake3, hasher.finalize().as_bytes().to_vec()),
        };
        Hash { algorithm, bytes }
    }
}

/// Hashes a range of a file in each of these ways, reading it once. `read` is told of the bytes as they go by.
pub fn hash(
    source: &dyn ByteSource,
    range: Range<u64>,
    algorithms: &BTreeSet<Algorithm>,
    read: &dyn Fn(u64),
) -> Result<BTreeMap<Algorithm, Hash>> {
    let length = range.end.saturating_sub(range.start);
    let mut running: Vec<Running> = algorithms.iter().map(|algorithm| Running::new(*algorithm, length)).collect();
    pieces(source, range, &mut |piece| {
        running.iter_mut().for_each(|hasher| hasher.update(piece));
        read(piece.len() as u64);
    })?;
    Ok(running.into_iter().map(Running::finish).map(|hash| (hash.algorithm, hash)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Bytes;

    #[test]
    fn published_values_come_out() {
        // The first three from FIPS 180-4, `git hash-object` and RFC 7693, the last from BLAKE3's own test vectors.
        let abc = Bytes::new("abc", "abc");
        let all = Algorithm::ALL.into_iter().collect();
        let found = hash(&abc, 0..3, &all, &|_| {}).unwrap();
        let hex = |algorithm| hex::encode(&found[&algorithm].bytes);
        assert_eq!(hex(Algorithm::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hex(Algorithm::GitSha1), "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f");
        assert!(
            hex(Algorithm::Blake2b).starts_with("ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1")
        );
        let empty = hash(&Bytes::new("empty", ""), 0..0, &all, &|_| {}).unwrap();
        assert_eq!(
            hex::encode(&empty[&Algorithm::Blake3].bytes),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(hex::encode(&empty[&Algorithm::GitSha1].bytes), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert!(found.iter().all(|(algorithm, hash)| hash.bytes.len() == algorithm.bytes()));
    }

    #[test]
    fn hashes_are_read_with_the_right_length_only() {
        assert!(Hash::parse(Algorithm::Sha256, &"ab".repeat(32)).is_some());
        assert!(Hash::parse(Algorithm::Sha256, &"ab".repeat(20)).is_none());
        assert!(Hash::parse(Algorithm::Sha256, &"xy".repeat(32)).is_none());
        assert_eq!(Algorithm::named("sha256-sharded-1000000000"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::named("md5"), None);
    }
}
