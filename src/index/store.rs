//! Writing: one examination into its tables, once, however often it is made.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::judgement::Judgement;
use super::sql::{Count, DOING, Word, execute, interned};
use super::{Index, bounded, checksum, failed, load, tensors, variants};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Finding, Orthogonalization, Side};
use crate::hub::on_hub;
use crate::ids::Digest;
use crate::profile::Profile;
use crate::signature::Catalogue;

/// What recording did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The examination's id.
    pub id: Digest,
    /// Its key in the index.
    pub key: i64,
    /// Whether these measurements were not there before.
    pub new: bool,
    /// Whether they were there and are judged differently now.
    pub judged_anew: bool,
}

/// Records an examination through a connection that has a transaction open (a [`rusqlite::Transaction`] derefs to one),
/// so that a caller may write its own rows in the same transaction.
///
/// An examination with the same id gets its count and time of last sight raised; if it is judged differently now, the
/// old judgement becomes history. Of lists that a hostile file can make as long as it likes, the first entries are kept
/// and the number of the rest.
pub fn record(connection: &Connection, examination: &Examination, now: Timestamp) -> Result<Recorded> {
    let id = examination.id();
    let known: Option<i64> = connection
        .prepare_cached("SELECT key FROM examination WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id.hex()], |row| row.get(0)).optional())
        .map_err(|error| failed(DOING, error))?;
    let examination = &*bounded::bounded(examination);
    if let Some(key) = known {
        // Rows that changed by themselves must not become what was written.
        let sound = checksum::holds(connection, key)?;
        execute(
            connection,
            "UPDATE examination SET last_seen = max(last_seen, ?2), runs = runs + 1, bytes_read = ?3 WHERE key = ?1",
            params![key, now.as_second(), Count(examination.coverage.bytes_read)],
        )?;
        let judged_anew = judge_anew(connection, key, examination, now)?;
        if sound {
            checksum::write(connection, key)?;
        }
        return Ok(Recorded { id, key, new: false, judged_anew });
    }
    let key = insert(connection, examination, &id, now)?;
    checksum::write(connection, key)?;
    Ok(Recorded { id, key, new: true, judged_anew: false })
}

/// Puts another judgement in the place of the current one, which becomes history; whether it said something else.
pub(super) fn judge_anew(connection: &Connection, key: i64, examination: &Examination, now: Timestamp) -> Result<bool> {
    let old = Judgement::of(&load::stored_without_profile(connection, key)?.examination);
    let new = Judgement::of(examination);
    let catalogue = catalogue(connection, &new.catalogue, now)?;
    if !examination.variants.is_empty() {
        // Another variant may decide now, so what is measured of the whole may be another one's.
        measured_again(connection, key, examination)?;
    }
    if old.says_the_same(&new) {
        if old.catalogue != new.catalogue {
            execute(connection, "UPDATE examination SET catalogue = ?2 WHERE key = ?1", params![key, catalogue])?;
        }
        return Ok(false);
    }
    execute(
        connection,
        "INSERT INTO past_judgement (examination, ordinal, catalogue, verdict, relation, judged_at, superseded_at, document)
         SELECT key, (SELECT count(*) FROM past_judgement WHERE examination = ?1), catalogue, verdict, relation, judged_at, ?2, ?3
         FROM examination WHERE key = ?1",
        params![key, now.as_second(), old.document()?],
    )?;
    execute(connection, "DELETE FROM finding WHERE examination = ?1", [key])?;
    // Layers, recipe and strengths go with their row.
    execute(connection, "DELETE FROM orthogonalization WHERE examination = ?1", [key])?;
    execute(
        connection,
        "UPDATE examination SET catalogue = ?2, judged_at = ?3, claim_holds = ?4, relation = ?5, rank = ?6, verdict = ?7,
         because = ?8, severity = ?9 WHERE key = ?1",
        params![
            key,
            catalogue,
            now.as_second(),
            new.rest.claim_holds,
            Word(new.relation),
            new.rest.rank,
            Word(new.verdict),
            new.rest.because,
            new.severity()
        ],
    )?;
    judged_rows(connection, key, &new)?;
    Ok(true)
}

fn insert(connection: &Connection, examination: &Examination, id: &Digest, now: Timestamp) -> Result<i64> {
    let judgement = Judgement::of(examination);
    let (base, base_repository) = side(connection, &examination.base)?;
    let (candidate, candidate_repository) = side(connection, &examination.candidate)?;
    let catalogue = catalogue(connection, &examination.tool.catalogue, now)?;
    let claim = examination.claim.as_ref();
    let coverage = &examination.coverage;
    execute(
        connection,
        "INSERT INTO examination (id, schema, tool_version, base, candidate, base_repository, candidate_repository, first_seen,
         last_seen, runs, status, reason, depth, tensors, compared, identical, bytes_read, has_profile, has_claim, claim_base,
         claim_relation, catalogue, judged_at, claim_holds, relation, rank, verdict, because, severity, surroundings)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, 1, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?8, ?21,
         ?22, ?23, ?24, ?25, ?26, ?27)",
        params![
            id.hex(),
            examination.schema,
            examination.tool.version,
            base,
            candidate,
            base_repository,
            candidate_repository,
            now.as_second(),
            Word(examination.status),
            examination.reason,
            Word(examination.depth),
            Count(coverage.tensors),
            Count(coverage.compared),
            Count(coverage.identical),
            Count(coverage.bytes_read),
            examination.profile.is_some(),
            claim.is_some(),
            claim.and_then(|claim| claim.base.as_ref()),
            claim.and_then(|claim| claim.relation.as_ref()),
            catalogue,
            judgement.rest.claim_holds,
            Word(judgement.relation),
            judgement.rest.rank,
            Word(judgement.verdict),
            judgement.rest.because,
            judgement.severity(),
            surroundings(examination)?,
        ],
    )?;
    let key = connection.last_insert_rowid();
    measured_rows(connection, key, examination)?;
    for (ordinal, evidence) in (0i64..).zip(claim.iter().flat_map(|claim| &claim.evidence)) {
        execute(
            connection,
            "INSERT INTO claim_evidence (examination, ordinal, place, says) VALUES (?1, ?2, ?3, ?4)",
            params![key, ordinal, evidence.from, evidence.says],
        )?;
    }
    judged_rows(connection, key, &judgement)?;
    Ok(key)
}

/// Puts the measured part of the whole in the place of what is there.
fn measured_again(connection: &Connection, key: i64, examination: &Examination) -> Result<()> {
    for table in ["not_examined", "anomaly", "model_measurement", "tensor_measurement"] {
        execute(connection, &format!("DELETE FROM {table} WHERE examination = ?1"), [key])?;
    }
    let coverage = &examination.coverage;
    execute(
        connection,
        "UPDATE examination SET status = ?2, reason = ?3, depth = ?4, tensors = ?5, compared = ?6, identical = ?7,
         has_profile = ?8, surroundings = ?9 WHERE key = ?1",
        params![
            key,
            Word(examination.status),
            examination.reason,
            Word(examination.depth),
            Count(coverage.tensors),
            Count(coverage.compared),
            Count(coverage.identical),
            examination.profile.is_some(),
            surroundings(examination)?,
        ],
    )?;
    measured_rows(connection, key, examination)
}

fn measured_rows(connection: &Connection, key: i64, examination: &Examination) -> Result<()> {
    let coverage = &examination.coverage;
    for (ordinal, (tensor, reason)) in
        (0i64..).zip(coverage.not_examined.iter().map(|missing| (&missing.tensor, &missing.reason)))
    {
        execute(
            connection,
            "INSERT INTO not_examined (examination, ordinal, tensor, reason) VALUES (?1, ?2, ?3, ?4)",
            params![key, ordinal, tensor, reason],
        )?;
    }
    for (ordinal, anomaly) in (0i64..).zip(&examination.anomalies) {
        execute(
            connection,
            "INSERT INTO anomaly (examination, ordinal, kind, file, tensor, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![key, ordinal, anomaly.kind, anomaly.file, anomaly.tensor, anomaly.detail],
        )?;
    }
    if let Some(measured) = &examination.profile {
        profile(connection, key, measured)?;
    }
    variants::write(connection, key, &examination.variants)
}

/// What is beside the weights as JSON, where it was compared.
fn surroundings(examination: &Examination) -> Result<Option<String>> {
    if examination.surroundings.is_empty() {
        return Ok(None);
    }
    let json = serde_json::to_string(&examination.surroundings);
    json.map(Some).map_err(|error| Error::because(ErrorKind::Internal, "storing what is beside the weights", error))
}

fn judged_rows(connection: &Connection, key: i64, judgement: &Judgement) -> Result<()> {
    if let Some(evidence) = &judgement.rest.orthogonalization {
        orthogonalization(connection, key, evidence)?;
    }
    for (ordinal, found) in (0i64..).zip(&judgement.rest.findings) {
        finding(connection, key, ordinal, found)?;
    }
    Ok(())
}

fn orthogonalization(connection: &Connection, key: i64, evidence: &Orthogonalization) -> Result<()> {
    execute(
        connection,
        "INSERT INTO orthogonalization (examination, p_value, consistency, explained, coordinates, directions, scope, tensors,
         detection_limit) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            key,
            evidence.p_value,
            evidence.consistency,
            evidence.explained,
            evidence.coordinates,
            evidence.directions,
            evidence.scope,
            Count(evidence.tensors),
            evidence.detection_limit
        ],
    )?;
    for (ordinal, layer) in (0i64..).zip(&evidence.layers) {
        execute(
            connection,
            "INSERT INTO orthogonalization_layer (examination, ordinal, layer) VALUES (?1, ?2, ?3)",
            params![key, ordinal, layer],
        )?;
    }
    for (ordinal, line) in (0i64..).zip(&evidence.recipe) {
        execute(
            connection,
            "INSERT INTO recipe (examination, ordinal, line) VALUES (?1, ?2, ?3)",
            params![key, ordinal, line],
        )?;
    }
    for (ordinal, one) in (0i64..).zip(&evidence.strength) {
        execute(
            connection,
            "INSERT INTO strength (examination, ordinal, layer, module, expert, lambda, stderr)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![key, ordinal, one.layer, one.module, one.expert, one.lambda, one.stderr],
        )?;
    }
    Ok(())
}

fn finding(connection: &Connection, key: i64, ordinal: i64, finding: &Finding) -> Result<()> {
    execute(
        connection,
        "INSERT INTO finding (examination, ordinal, id, signature, signature_hash, severity, status, evidence)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            key,
            ordinal,
            finding.id,
            finding.signature,
            finding.signature_hash,
            Word(finding.severity),
            finding.status,
            finding.evidence.to_string()
        ],
    )?;
    Ok(())
}

fn profile(connection: &Connection, key: i64, profile: &Profile) -> Result<()> {
    for (name, value) in profile.model.iter() {
        let name = interned(
            connection,
            name,
            "SELECT key FROM measurement_name WHERE name = ?1",
            "INSERT INTO measurement_name (name) VALUES (?1)",
        )?;
        execute(
            connection,
            "INSERT INTO model_measurement (examination, name, value) VALUES (?1, ?2, ?3)",
            params![key, name, value],
        )?;
    }
    for (ordinal, measurement) in (0i64..).zip(&profile.tensors) {
        tensors::write(connection, key, ordinal, measurement)?;
    }
    Ok(())
}

/// The key of a state of a place and of the place, both added if they are new.
fn side(connection: &Connection, side: &Side) -> Result<(i64, i64)> {
    let json = serde_json::to_string(side)
        .map_err(|error| Error::because(ErrorKind::Internal, "storing one side of an examination", error))?;
    let identity = Digest::of(json.as_bytes()).hex();
    let known: Option<(i64, i64)> = connection
        .prepare_cached("SELECT key, repository FROM side WHERE identity = ?1")
        .and_then(|mut statement| statement.query_row([&identity], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(|error| failed(DOING, error))?;
    if let Some(keys) = known {
        return Ok(keys);
    }
    let repository = repository(connection, &side.source)?;
    execute(
        connection,
        "INSERT INTO side (identity, repository, revision, digest, format, variant) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![identity, repository, side.revision, side.digest, side.format, side.variant],
    )?;
    let key = connection.last_insert_rowid();
    for (ordinal, file) in (0i64..).zip(&side.files) {
        execute(
            connection,
            "INSERT INTO side_file (side, ordinal, name, bytes, sha256) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![key, ordinal, file.name, Count(file.bytes), file.sha256],
        )?;
    }
    Ok((key, repository))
}

/// The key of a place, added if it is new.
pub(crate) fn repository(connection: &Connection, source: &str) -> Result<i64> {
    let known: Option<i64> = connection
        .prepare_cached("SELECT key FROM repository WHERE source = ?1")
        .and_then(|mut statement| statement.query_row([source], |row| row.get(0)).optional())
        .map_err(|error| failed(DOING, error))?;
    if let Some(key) = known {
        return Ok(key);
    }
    let hub = on_hub(source);
    let owner = hub.and_then(|(_, name)| name.split_once('/')).map(|(owner, _)| owner);
    execute(
        connection,
        "INSERT INTO repository (source, hub, owner) VALUES (?1, ?2, ?3)",
        params![source, hub.map(|(hub, _)| hub.prefix), owner],
    )?;
    Ok(connection.last_insert_rowid())
}

fn catalogue(connection: &Connection, hash: &str, now: Timestamp) -> Result<i64> {
    let known: Option<i64> = connection
        .prepare_cached("SELECT key FROM catalogue WHERE hash = ?1")
        .and_then(|mut statement| statement.query_row([hash], |row| row.get(0)).optional())
        .map_err(|error| failed(DOING, error))?;
    if let Some(key) = known {
        return Ok(key);
    }
    execute(connection, "INSERT INTO catalogue (hash, first_used) VALUES (?1, ?2)", params![hash, now.as_second()])?;
    Ok(connection.last_insert_rowid())
}

impl Index {
    /// Keeps the texts of a catalogue, so that findings of it can be explained later. Does nothing if they are there.
    pub fn record_catalogue(&mut self, catalogue_texts: &Catalogue, now: Timestamp) -> Result<()> {
        let doing = "recording a signature catalogue";
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(|error| failed(doing, error))?;
        let key = catalogue(&transaction, &catalogue_texts.hash().to_string(), now)?;
        for signature in catalogue_texts.signatures() {
            let hash = signature.hash().to_string();
            execute(
                &transaction,
                "INSERT INTO signature (hash, id, text) VALUES (?1, ?2, ?3) ON CONFLICT (hash) DO NOTHING",
                params![hash, signature.id(), signature.text],
            )?;
            execute(
                &transaction,
                "INSERT INTO catalogue_signature (catalogue, signature) SELECT ?1, key FROM signature WHERE hash = ?2
                 ON CONFLICT DO NOTHING",
                params![key, hash],
            )?;
        }
        transaction.commit().map_err(|error| failed(doing, error))
    }
}
