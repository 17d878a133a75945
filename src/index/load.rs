//! Reading: one examination out of its tables, equal to what was recorded.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::bounded::more_not_examined;
use super::sql::{Hex, JsonText, Moment, count, real, word};
use super::{StoredExamination, checksum, failed, tensors, variants};
use crate::checkpoint::Anomaly;
use crate::error::Result;
use crate::examination::surroundings::Surrounding;
use crate::examination::{
    Claim, ClaimEvidence, Coverage, Examination, FileDigest, Finding, NotExamined, Orthogonalization, Side, Strength,
    Tool,
};
use crate::ids::Digest;
use crate::limits::MAX_NOT_EXAMINED;
use crate::profile::Profile;

const DOING: &str = "reading an examination from the index";

/// The rows of a child table, in order.
fn rows<T>(
    connection: &Connection,
    sql: &str,
    key: i64,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map([key], read)?.collect())
        .map_err(|error| failed(DOING, error))
}

/// The key of the examination with that id.
pub(super) fn key_of(connection: &Connection, id: &Digest) -> Result<i64> {
    connection
        .prepare_cached("SELECT key FROM examination WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id.hex()], |row| row.get(0)))
        .map_err(|error| failed(DOING, error))
}

/// The examination with that key, whole; an error when its rows are not those that were written.
pub(super) fn stored(connection: &Connection, key: i64) -> Result<StoredExamination> {
    if !checksum::holds(connection, key)? {
        return Err(checksum::broken(connection, key));
    }
    let mut stored = stored_without_profile(connection, key)?;
    let has_profile: bool = connection
        .prepare_cached("SELECT has_profile FROM examination WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([key], |row| row.get(0)))
        .map_err(|error| failed(DOING, error))?;
    if has_profile {
        stored.examination.profile = Some(profile(connection, key)?);
    }
    stored.examination.variants = variants::read(connection, key)?;
    Ok(stored)
}

/// The same without measurements.
pub(super) fn short(connection: &Connection, key: i64) -> Result<StoredExamination> {
    if !checksum::holds(connection, key)? {
        return Err(checksum::broken(connection, key));
    }
    let mut stored = stored_without_profile(connection, key)?;
    stored.examination.variants = variants::read(connection, key)?;
    stored.examination.variants.iter_mut().for_each(|variant| variant.profile = None);
    Ok(stored)
}

/// The main row: an examination whose sides and lists are still empty, the keys of its sides, its id and times.
struct Main {
    id: Digest,
    sides: [i64; 2],
    times: [Moment; 3],
    runs: u64,
    examination: Examination,
}

fn main_row(row: &Row<'_>) -> rusqlite::Result<Main> {
    let has_claim: bool = row.get("has_claim")?;
    let claim = Claim {
        base: row.get("claim_base")?,
        relation: row.get("claim_relation")?,
        evidence: Vec::new(),
        holds: row.get("claim_holds")?,
    };
    Ok(Main {
        id: row.get::<_, Hex>("id")?.0,
        sides: [row.get("base")?, row.get("candidate")?],
        times: [row.get("first_seen")?, row.get("last_seen")?, row.get("judged_at")?],
        runs: count(row, "runs")?,
        examination: Examination {
            schema: row.get("schema")?,
            tool: Tool { version: row.get("tool_version")?, catalogue: row.get("hash")? },
            base: Side::default(),
            candidate: Side::default(),
            status: word(row, "status")?,
            reason: row.get("reason")?,
            depth: word(row, "depth")?,
            coverage: Coverage {
                tensors: count(row, "tensors")?,
                compared: count(row, "compared")?,
                identical: count(row, "identical")?,
                bytes_read: count(row, "bytes_read")?,
                not_examined: Vec::new(),
            },
            relation: word(row, "relation")?,
            rank: row.get("rank")?,
            verdict: word(row, "verdict")?,
            because: row.get("because")?,
            orthogonalization: None,
            findings: Vec::new(),
            anomalies: Vec::new(),
            claim: has_claim.then_some(claim),
            surroundings: surroundings(row)?,
            profile: None,
            variants: Vec::new(),
        },
    })
}

fn surroundings(row: &Row<'_>) -> rusqlite::Result<Vec<Surrounding>> {
    let text: Option<String> = row.get("surroundings")?;
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

/// The examination with that key without its measurements and without its variants.
pub(super) fn stored_without_profile(connection: &Connection, key: i64) -> Result<StoredExamination> {
    let main = connection
        .prepare_cached(
            "SELECT e.*, c.hash FROM examination e JOIN catalogue c ON c.key = e.catalogue WHERE e.key = ?1",
        )
        .and_then(|mut statement| statement.query_row([key], main_row))
        .map_err(|error| failed(DOING, error))?;
    let mut examination = main.examination;
    let [base, candidate] = main.sides;
    examination.base = side(connection, base)?;
    examination.candidate = side(connection, candidate)?;
    examination.coverage.not_examined = not_examined(connection, key)?;
    examination.anomalies = rows(
        connection,
        "SELECT kind, file, tensor, detail FROM anomaly WHERE examination = ?1 ORDER BY ordinal",
        key,
        |row| Ok(Anomaly { kind: row.get(0)?, file: row.get(1)?, tensor: row.get(2)?, detail: row.get(3)? }),
    )?;
    if let Some(claim) = &mut examination.claim {
        claim.evidence = rows(
            connection,
            "SELECT place, says FROM claim_evidence WHERE examination = ?1 ORDER BY ordinal",
            key,
            |row| Ok(ClaimEvidence { from: row.get(0)?, says: row.get(1)? }),
        )?;
    }
    examination.orthogonalization = orthogonalization(connection, key)?;
    examination.findings =
        rows(connection, "SELECT * FROM finding WHERE examination = ?1 ORDER BY ordinal", key, finding_row)?;
    let [Moment(first_seen), Moment(last_seen), Moment(judged_at)] = main.times;
    Ok(StoredExamination { id: main.id, examination, first_seen, last_seen, runs: main.runs, judged_at })
}

/// A finding out of a row that has all columns of its table.
pub(super) fn finding_row(row: &Row<'_>) -> rusqlite::Result<Finding> {
    let JsonText(evidence) = row.get("evidence")?;
    Ok(Finding {
        id: row.get("id")?,
        signature: row.get("signature")?,
        signature_hash: row.get("signature_hash")?,
        severity: word(row, "severity")?,
        status: row.get("status")?,
        evidence,
    })
}

/// The tensors that were not examined. Versions that kept any number of them left indexes with millions of one
/// examination.
fn not_examined(connection: &Connection, key: i64) -> Result<Vec<NotExamined>> {
    let most = MAX_NOT_EXAMINED as i64;
    let in_all: i64 = connection
        .prepare_cached("SELECT count(*) FROM not_examined WHERE examination = ?1")
        .and_then(|mut statement| statement.query_row([key], |row| row.get(0)))
        .map_err(|error| failed(DOING, error))?;
    let sql =
        format!("SELECT tensor, reason FROM not_examined WHERE examination = ?1 ORDER BY ordinal LIMIT {}", most + 1);
    let mut list = rows(connection, &sql, key, |row| Ok(NotExamined { tensor: row.get(0)?, reason: row.get(1)? }))?;
    if in_all > most + 1 {
        list.truncate(MAX_NOT_EXAMINED);
        list.push(more_not_examined((in_all - most).unsigned_abs()));
    }
    Ok(list)
}

fn side(connection: &Connection, key: i64) -> Result<Side> {
    let mut side = connection
        .prepare_cached(
            "SELECT r.source, s.revision, s.digest, s.format, s.variant FROM side s JOIN repository r ON r.key = s.repository
             WHERE s.key = ?1",
        )
        .and_then(|mut statement| {
            statement.query_row([key], |row| {
                Ok(Side {
                    source: row.get(0)?,
                    revision: row.get(1)?,
                    digest: row.get(2)?,
                    files: Vec::new(),
                    format: row.get(3)?,
                    variant: row.get(4)?,
                })
            })
        })
        .map_err(|error| failed(DOING, error))?;
    side.files =
        rows(connection, "SELECT name, bytes, sha256 FROM side_file WHERE side = ?1 ORDER BY ordinal", key, |row| {
            Ok(FileDigest { name: row.get(0)?, bytes: count(row, "bytes")?, sha256: row.get(2)? })
        })?;
    Ok(side)
}

fn orthogonalization(connection: &Connection, key: i64) -> Result<Option<Orthogonalization>> {
    let main = connection
        .prepare_cached("SELECT * FROM orthogonalization WHERE examination = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([key], |row| {
                    Ok(Orthogonalization {
                        p_value: real(row, "p_value")?,
                        consistency: real(row, "consistency")?,
                        explained: real(row, "explained")?,
                        coordinates: row.get("coordinates")?,
                        directions: row.get("directions")?,
                        scope: row.get("scope")?,
                        tensors: count(row, "tensors")?,
                        layers: Vec::new(),
                        strength: Vec::new(),
                        detection_limit: real(row, "detection_limit")?,
                        recipe: Vec::new(),
                    })
                })
                .optional()
        })
        .map_err(|error| failed(DOING, error))?;
    let Some(mut evidence) = main else { return Ok(None) };
    evidence.layers = rows(
        connection,
        "SELECT layer FROM orthogonalization_layer WHERE examination = ?1 ORDER BY ordinal",
        key,
        |row| row.get(0),
    )?;
    evidence.recipe =
        rows(connection, "SELECT line FROM recipe WHERE examination = ?1 ORDER BY ordinal", key, |row| row.get(0))?;
    evidence.strength =
        rows(connection, "SELECT * FROM strength WHERE examination = ?1 ORDER BY ordinal", key, |row| {
            Ok(Strength {
                layer: row.get("layer")?,
                module: row.get("module")?,
                expert: row.get("expert")?,
                lambda: real(row, "lambda")?,
                stderr: real(row, "stderr")?,
            })
        })?;
    Ok(Some(evidence))
}

/// All measurements of an examination.
fn profile(connection: &Connection, key: i64) -> Result<Profile> {
    let model: Vec<(String, f64)> = rows(
        connection,
        "SELECT n.name, m.value FROM model_measurement m JOIN measurement_name n ON n.key = m.name WHERE m.examination = ?1",
        key,
        |row| Ok((row.get(0)?, real(row, "value")?)),
    )?;
    let tensors = rows(connection, "SELECT * FROM tensor WHERE examination = ?1 ORDER BY ordinal", key, tensors::read)?;
    Ok(Profile { model: model.into_iter().collect(), tensors })
}
