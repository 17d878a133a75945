//! Fingerprints of known checkpoints: enrolled one by one, read one after another.

use jiff::Timestamp;
use rusqlite::Connection;

use super::sql::execute;
use super::{Index, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::kinship::{FINGERPRINT_VERSION, Fingerprint};

/// What a checkpoint was when its fingerprint was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolledAs {
    /// A base, given or claimed.
    Base,
    /// A candidate.
    Candidate,
}

/// A fingerprint that the index has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledFingerprint {
    /// The place, as examinations spell it.
    pub source: String,
    /// Its commit, where there is one.
    pub revision: Option<String>,
    /// The fingerprint.
    pub fingerprint: Fingerprint,
}

/// Enrols a fingerprint of a place at a revision; one of the same state that is there already is replaced.
pub fn enroll(connection: &Connection, one: &EnrolledFingerprint, role: EnrolledAs, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO fingerprint (source, revision, role, version, sha256, data, enrolled)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
               ON CONFLICT (source, revision) DO UPDATE SET
               role = iif(role = 'base', role, excluded.role), version = excluded.version, sha256 = excluded.sha256,
               data = excluded.data, enrolled = excluded.enrolled";
    let role = match role {
        EnrolledAs::Base => "base",
        EnrolledAs::Candidate => "candidate",
    };
    let data = one.fingerprint.to_bytes();
    let digest = Digest::of(&data).hex();
    let revision = one.revision.as_deref().unwrap_or_default();
    execute(connection, sql, (&one.source, revision, role, FINGERPRINT_VERSION, digest, data, now.as_second()))
        .map(|_| ())
}

impl Index {
    /// Enrols a fingerprint; see [`enroll`].
    pub fn enroll(&mut self, one: &EnrolledFingerprint, role: EnrolledAs, now: Timestamp) -> Result<()> {
        enroll(self.connection(), one, role, now)
    }

    /// Hands over every fingerprint of this build's version, in the order of enrolling, one in memory at a time. One
    /// whose bytes are not what was written is an error.
    pub fn fingerprints(&self, each: &mut dyn FnMut(EnrolledFingerprint) -> Result<()>) -> Result<()> {
        let doing = "reading fingerprints";
        let step = |error: rusqlite::Error| failed(doing, error);
        let sql = "SELECT source, revision, sha256, data FROM fingerprint WHERE version = ?1 ORDER BY key";
        let mut statement = self.connection().prepare_cached(sql).map_err(step)?;
        let mut rows = statement.query([FINGERPRINT_VERSION]).map_err(step)?;
        while let Some(row) = rows.next().map_err(step)? {
            let source: String = row.get(0).map_err(step)?;
            let revision = Some(row.get::<_, String>(1).map_err(step)?).filter(|revision| !revision.is_empty());
            let written: String = row.get(2).map_err(step)?;
            let data = row.get_ref(3).and_then(|data| data.as_blob().map_err(Into::into)).map_err(step)?;
            if Digest::of(data).hex() != written {
                let what = format!("{doing}: that of {source} is not what was written (enroll it again)");
                return Err(Error::new(ErrorKind::Index, what));
            }
            each(EnrolledFingerprint { source, revision, fingerprint: Fingerprint::from_bytes(data)? })?;
        }
        Ok(())
    }
}
