//! Queries: filtered, ordered and paged lists of examinations and findings, histories, names, and everything for
//! export.
//!
//! Pages are by key, not by number: a [`Cursor`] says where the last page ended, so that the thousandth page costs what
//! the first does and nothing is skipped or shown twice when examinations are added meanwhile.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;

use super::decision::OPEN;
use super::judgement::rank;
use super::sql::{Count, Hex, JsonText, Moment, Word, as_text};
use super::{Index, StoredExamination, failed, hex_range_end, load};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Depth, Finding, Relation, Severity, Status, Verdict};
use crate::ids::{Digest, Revision};

/// Which examinations; a field left empty lets all through.
#[derive(Debug, Clone, Default)]
pub struct ExaminationFilter {
    /// One of these verdicts.
    pub verdicts: Vec<Verdict>,
    /// One of these relations.
    pub relations: Vec<Relation>,
    /// One of these states.
    pub statuses: Vec<Status>,
    /// One of these depths.
    pub depths: Vec<Depth>,
    /// A finding at least as severe.
    pub severity: Option<Severity>,
    /// A finding of this signature.
    pub signature: Option<String>,
    /// The base, as examinations spell its source.
    pub base: Option<String>,
    /// The candidate, as examinations spell its source.
    pub candidate: Option<String>,
    /// The candidate's owner on its hub.
    pub owner: Option<String>,
    /// The candidate's format.
    pub format: Option<String>,
    /// Part of the candidate's source.
    pub search: Option<String>,
    /// Last made at this time or later.
    pub since: Option<Timestamp>,
    /// Last made before this time.
    pub until: Option<Timestamp>,
    /// First made at this time or later, of a repository that a sweep has examined since then.
    pub swept_since: Option<Timestamp>,
}

/// Which findings.
#[derive(Debug, Clone, Default)]
pub struct FindingFilter {
    /// Of which examinations. Its `signature` and `severity` are those of the findings themselves.
    pub examinations: ExaminationFilter,
}

/// The order of a list of examinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListOrder {
    /// Last made first.
    #[default]
    Newest,
    /// Most severe first, of the same severity last made first.
    Severity,
    /// In the order of recording.
    Recorded,
}

/// How many, and after which.
#[derive(Debug, Clone, Copy)]
pub struct PageBounds {
    /// At most this many rows.
    pub limit: u32,
    /// After the row where an earlier page ended.
    pub after: Option<Cursor>,
}

impl Default for PageBounds {
    fn default() -> Self {
        Self { limit: 50, after: None }
    }
}

/// Where a page ended. Its text form goes into links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    severity: i64,
    last_seen: i64,
    key: i64,
    ordinal: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.severity, self.last_seen, self.key, self.ordinal)
    }
}

impl FromStr for Cursor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let numbers: Vec<i64> = text.split('.').filter_map(|number| number.parse().ok()).collect();
        match (numbers.as_slice(), text.split('.').count()) {
            (&[severity, last_seen, key, ordinal], 4) => Ok(Self { severity, last_seen, key, ordinal }),
            _ => Err(Error::new(ErrorKind::Usage, format!("reading {text:?} as the place where a page ended"))),
        }
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq)]
pub struct Paged<T> {
    /// Its rows.
    pub rows: Vec<T>,
    /// Where the next page starts, if there may be one.
    pub next: Option<Cursor>,
}

/// One line of a list of examinations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExaminationRow {
    /// The examination's id.
    pub id: Digest,
    /// The candidate's source.
    pub candidate: String,
    /// The candidate's revision.
    pub revision: Option<String>,
    /// The candidate's format.
    pub format: Option<String>,
    /// The base's source.
    pub base: String,
    /// Whether all was done.
    pub status: Status,
    /// Why not, where not.
    pub reason: Option<String>,
    /// How deep.
    pub depth: Depth,
    /// What the candidate is to the base.
    pub relation: Relation,
    /// What is said about orthogonalization.
    pub verdict: Verdict,
    /// Why, and how sure.
    pub because: String,
    /// The highest severity of its findings.
    pub severity: Option<Severity>,
    /// When these measurements were first made.
    #[serde(serialize_with = "as_text")]
    pub first_seen: Timestamp,
    /// When they were last made.
    #[serde(serialize_with = "as_text")]
    pub last_seen: Timestamp,
    /// How often.
    pub runs: u64,
    /// The word of the last decision, or `open`.
    pub decision: String,
}

/// One line of a list of findings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingRow {
    /// The finding.
    pub finding: Finding,
    /// The examination it is in.
    pub examination: ExaminationRow,
}

/// One place, with how often it was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryRow {
    /// As examinations spell it.
    pub source: String,
    /// Examinations of it as a candidate.
    pub examinations: u64,
}

/// Conditions with their parameters.
#[derive(Default)]
struct Where {
    clauses: Vec<String>,
    parameters: Vec<Value>,
}

impl Where {
    fn add(&mut self, clause: &str, parameters: impl IntoIterator<Item = Value>) {
        self.clauses.push(clause.to_owned());
        self.parameters.extend(parameters);
    }

    /// The column is one of these words; no words, no condition. One word can be looked up in an index that has the
    /// order of the list too; with several, an index by the word would force a sort, so a plus keeps SQLite from using
    /// it and the list is read in order and filtered.
    fn one_of<T: Serialize>(&mut self, column: &str, words: &[T]) -> Result<()> {
        if words.is_empty() {
            return Ok(());
        }
        let words = words
            .iter()
            .map(|word| match serde_json::to_value(word) {
                Ok(serde_json::Value::String(word)) => Ok(Value::from(word)),
                _ => Err(Error::new(ErrorKind::Internal, "filtering by a value that is not a word")),
            })
            .collect::<Result<Vec<_>>>()?;
        if words.len() == 1 {
            self.add(&format!("{column} = ?"), words);
        } else {
            let marks = vec!["?"; words.len()].join(", ");
            self.add(&format!("+{column} IN ({marks})"), words);
        }
        Ok(())
    }

    fn text(&self) -> String {
        if self.clauses.is_empty() { String::new() } else { format!(" WHERE {}", self.clauses.join(" AND ")) }
    }
}

fn conditions(filter: &ExaminationFilter, of_findings: bool) -> Result<Where> {
    let mut conditions = Where::default();
    conditions.one_of("e.verdict", &filter.verdicts)?;
    conditions.one_of("e.relation", &filter.relations)?;
    conditions.one_of("e.status", &filter.statuses)?;
    conditions.one_of("e.depth", &filter.depths)?;
    if let Some(severity) = filter.severity {
        conditions.add("e.severity >= ?", [Value::from(rank(severity))]);
        if of_findings {
            conditions.add("f.severity_rank >= ?", [Value::from(rank(severity))]);
        }
    }
    if let Some(signature) = &filter.signature {
        let clause = if of_findings {
            "f.signature = ?"
        } else {
            "EXISTS (SELECT 1 FROM finding f WHERE f.examination = e.key AND f.signature = ?)"
        };
        conditions.add(clause, [Value::from(signature.clone())]);
    }
    let by_source = "(SELECT key FROM repository WHERE source = ?)";
    if let Some(base) = &filter.base {
        conditions.add(&format!("e.base_repository = {by_source}"), [Value::from(base.clone())]);
    }
    if let Some(candidate) = &filter.candidate {
        conditions.add(&format!("e.candidate_repository = {by_source}"), [Value::from(candidate.clone())]);
    }
    if let Some(owner) = &filter.owner {
        conditions.add("c.owner = ?", [Value::from(owner.clone())]);
    }
    if let Some(format) = &filter.format {
        conditions.add("s.format = ?", [Value::from(format.clone())]);
    }
    if let Some(search) = &filter.search {
        let (clause, parameter) = search_clause(search);
        conditions.add(&format!("e.candidate_repository IN ({clause})"), [Value::from(parameter)]);
    }
    if let Some(since) = filter.since {
        conditions.add("e.last_seen >= ?", [Value::from(since.as_second())]);
    }
    if let Some(until) = filter.until {
        conditions.add("e.last_seen < ?", [Value::from(until.as_second())]);
    }
    if let Some(since) = filter.swept_since {
        let since = Value::from(since.as_second());
        conditions.add(&format!("e.first_seen >= ? AND {}", swept_since("?")), [since.clone(), since]);
    }
    Ok(conditions)
}

/// Whether a sweep has ended its row of the queue for the candidate `c` at this time or later. Times are kept in
/// seconds, and others record beside a sweep: by its rows what a sweep examined is told from what somebody compared
/// meanwhile.
pub(super) fn swept_since(time: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM sweep_queue q WHERE q.hub = c.hub AND q.repository = substr(c.source, length(c.hub) + 2)
             AND q.state = 'done' AND q.changed >= {time})"
    )
}

/// A query for the keys of repositories with this text in their name, and its parameter. The search index knows runs of
/// three letters and no NUL; other texts are looked for name by name.
fn search_clause(text: &str) -> (&'static str, String) {
    if text.chars().count() >= 3 && !text.contains('\0') {
        let phrase = format!("\"{}\"", text.replace('"', "\"\""));
        ("SELECT rowid FROM repository_search WHERE repository_search MATCH ?", phrase)
    } else {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        ("SELECT key FROM repository WHERE source LIKE ? ESCAPE '\\'", format!("%{escaped}%"))
    }
}

const ROW: &str = "e.key, e.id, e.status, e.reason, e.depth, e.relation, e.verdict, e.because, e.severity AS highest, \
                   e.first_seen, e.last_seen, e.runs, c.source AS candidate, b.source AS base, s.revision, s.format AS form, \
                   (SELECT t.decision FROM triage t WHERE t.examination = e.key) AS decided";
const FROM: &str = " FROM examination e JOIN repository c ON c.key = e.candidate_repository \
                    JOIN repository b ON b.key = e.base_repository JOIN side s ON s.key = e.candidate";

/// A row, with the place where a page ends that ends with it.
fn examination_row(row: &Row<'_>) -> rusqlite::Result<(Cursor, ExaminationRow)> {
    let cursor =
        Cursor { severity: row.get("highest")?, last_seen: row.get("last_seen")?, key: row.get("key")?, ordinal: 0 };
    let Count(runs) = row.get("runs")?;
    let examination = ExaminationRow {
        id: row.get::<_, Hex>("id")?.0,
        candidate: row.get("candidate")?,
        revision: row.get("revision")?,
        format: row.get("form")?,
        base: row.get("base")?,
        status: row.get::<_, Word<_>>("status")?.0,
        reason: row.get("reason")?,
        depth: row.get::<_, Word<_>>("depth")?.0,
        relation: row.get::<_, Word<_>>("relation")?.0,
        verdict: row.get::<_, Word<_>>("verdict")?.0,
        because: row.get("because")?,
        severity: [Severity::Info, Severity::Low, Severity::Medium, Severity::High]
            .into_iter()
            .find(|severity| rank(*severity) == cursor.severity),
        first_seen: row.get::<_, Moment>("first_seen")?.0,
        last_seen: row.get::<_, Moment>("last_seen")?.0,
        runs,
        // Its row of triage goes with an examination; a foreign hand may have taken it out.
        decision: row.get::<_, Option<String>>("decided")?.unwrap_or_else(|| OPEN.to_owned()),
    };
    Ok((cursor, examination))
}

/// A page out of its rows and one more, which was asked for to know whether there is a next page.
fn paged<T>(mut rows: Vec<(Cursor, T)>, limit: u32) -> Paged<T> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().map(|(cursor, _)| *cursor).filter(|_| more);
    Paged { rows: rows.into_iter().map(|(_, row)| row).collect(), next }
}

impl Index {
    /// A page of examinations.
    pub fn examinations(
        &self,
        filter: &ExaminationFilter,
        order: ListOrder,
        page: PageBounds,
    ) -> Result<Paged<ExaminationRow>> {
        let doing = "listing examinations";
        let mut conditions = conditions(filter, false)?;
        let by = match order {
            ListOrder::Newest => "e.last_seen DESC, e.key DESC",
            ListOrder::Severity => "e.severity DESC, e.last_seen DESC, e.key DESC",
            ListOrder::Recorded => "e.key",
        };
        if let Some(Cursor { severity, last_seen, key, .. }) = page.after {
            match order {
                ListOrder::Newest => conditions.add("(e.last_seen, e.key) < (?, ?)", [last_seen.into(), key.into()]),
                ListOrder::Severity => conditions.add(
                    "(e.severity, e.last_seen, e.key) < (?, ?, ?)",
                    [severity.into(), last_seen.into(), key.into()],
                ),
                ListOrder::Recorded => conditions.add("e.key > ?", [key.into()]),
            }
        }
        let sql = format!("SELECT {ROW}{FROM}{} ORDER BY {by} LIMIT ?", conditions.text());
        conditions.parameters.push(Value::from(i64::from(page.limit) + 1));
        let rows = self
            .connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement.query_map(params_from_iter(&conditions.parameters), examination_row)?.collect()
            })
            .map_err(|error| failed(doing, error))?;
        Ok(paged(rows, page.limit))
    }

    /// A page of findings: those of the most severe examinations first, then of the last made; within an examination in
    /// its own order.
    pub fn findings(&self, filter: &FindingFilter, page: PageBounds) -> Result<Paged<FindingRow>> {
        let doing = "listing findings";
        let mut conditions = conditions(&filter.examinations, true)?;
        if let Some(Cursor { severity, last_seen, key, ordinal }) = page.after {
            conditions.add(
                "(e.severity, e.last_seen, e.key, -f.ordinal) < (?, ?, ?, ?)",
                [severity.into(), last_seen.into(), key.into(), (-ordinal).into()],
            );
        }
        // CROSS JOIN keeps SQLite from starting at the findings, where the order would have to be made by sorting; with
        // a signature given, starting there is right, since few findings have it.
        let join = if filter.examinations.signature.is_some() { "JOIN" } else { "CROSS JOIN" };
        let sql = format!(
            "SELECT {ROW}, f.ordinal, f.id AS finding_id, f.signature, f.signature_hash, f.severity, f.status AS life, \
             f.evidence{FROM} {join} finding f ON f.examination = e.key{} \
             ORDER BY e.severity DESC, e.last_seen DESC, e.key DESC, f.ordinal LIMIT ?",
            conditions.text()
        );
        conditions.parameters.push(Value::from(i64::from(page.limit) + 1));
        let rows = self
            .connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement.query_map(params_from_iter(&conditions.parameters), finding_row)?.collect()
            })
            .map_err(|error| failed(doing, error))?;
        Ok(paged(rows, page.limit))
    }

    /// The findings whose id starts with these hex digits, newest first, at most 100 of them. Ids are short: more than
    /// one examination may have a finding with the same id, though that is rare.
    pub fn finding(&self, prefix: &str) -> Result<Vec<FindingRow>> {
        let doing = format!("looking for finding {prefix:?}");
        let Some(end) = hex_range_end(prefix) else { return Ok(Vec::new()) };
        let sql = format!(
            "SELECT {ROW}, f.ordinal, f.id AS finding_id, f.signature, f.signature_hash, f.severity, f.status AS life, \
             f.evidence{FROM} JOIN finding f ON f.examination = e.key WHERE f.id >= ? AND f.id < ? \
             ORDER BY e.last_seen DESC, e.key DESC, f.ordinal LIMIT 100"
        );
        let rows: Vec<(Cursor, FindingRow)> = self
            .connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_map([prefix, end.as_str()], finding_row)?.collect())
            .map_err(|error| failed(doing, error))?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// How many examinations the filter lets through, and how many of them could not be made.
    pub fn count(&self, filter: &ExaminationFilter) -> Result<(u64, u64)> {
        let conditions = conditions(filter, false)?;
        let sql = format!("SELECT count(*), count(*) FILTER (WHERE e.status = 'failed'){FROM}{}", conditions.text());
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement.query_row(params_from_iter(&conditions.parameters), |row| {
                    let (Count(all), Count(failed)) = (row.get(0)?, row.get(1)?);
                    Ok((all, failed))
                })
            })
            .map_err(|error| failed("counting examinations", error))
    }

    /// The newest examination of a candidate, at the revision that begins like this where one is given.
    pub fn newest(&self, candidate: &str, revision: Option<&Revision>) -> Result<Option<ExaminationRow>> {
        let fits = |row: &ExaminationRow| {
            revision.is_none_or(|asked| row.revision.as_deref().is_some_and(|known| known.starts_with(asked.as_str())))
        };
        Ok(self.history(candidate)?.into_iter().find(fits))
    }

    /// The ids of the signatures that findings of this index have.
    pub fn signatures_found(&self) -> Result<Vec<String>> {
        self.words("SELECT DISTINCT signature FROM finding ORDER BY signature")
    }

    /// The bases that examinations of this index have, those with most first.
    pub fn bases_compared(&self) -> Result<Vec<String>> {
        self.words(
            "SELECT r.source FROM examination e JOIN repository r ON r.key = e.base_repository WHERE r.source <> ''
             GROUP BY r.source ORDER BY count(*) DESC, r.source",
        )
    }

    fn words(&self, sql: &str) -> Result<Vec<String>> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(|error| failed("listing what there is", error))
    }

    /// All examinations of a candidate over its revisions, newest first.
    pub fn history(&self, candidate: &str) -> Result<Vec<ExaminationRow>> {
        let filter = ExaminationFilter { candidate: Some(candidate.to_owned()), ..ExaminationFilter::default() };
        Ok(self.examinations(&filter, ListOrder::Newest, PageBounds { limit: u32::MAX, after: None })?.rows)
    }

    /// The newest examination of this revision of a candidate against this base, by this version of orthoscope: what a
    /// sweep asks before it fetches.
    pub fn latest(&self, candidate: &str, revision: &str, base: &str, version: &str) -> Result<Option<ExaminationRow>> {
        let sql = format!(
            "SELECT {ROW}{FROM} WHERE e.candidate_repository = (SELECT key FROM repository WHERE source = ?1) \
             AND s.revision = ?2 AND b.source = ?3 AND e.tool_version = ?4 ORDER BY e.last_seen DESC, e.key DESC LIMIT 1"
        );
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement.query_row(params![candidate, revision, base, version], examination_row).optional()
            })
            .map(|found| found.map(|(_, row)| row))
            .map_err(|error| failed(format!("looking for an examination of {candidate}"), error))
    }

    /// Repositories with this text in their name, by name.
    pub fn search(&self, text: &str, limit: u32) -> Result<Vec<RepositoryRow>> {
        let (clause, parameter) = search_clause(text);
        let sql = format!(
            "SELECT r.source, (SELECT count(*) FROM examination e WHERE e.candidate_repository = r.key) FROM repository r \
             WHERE r.key IN ({clause}) ORDER BY r.source LIMIT ?"
        );
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement
                    .query_map(params![parameter, limit], |row| {
                        let Count(examinations) = row.get(1)?;
                        Ok(RepositoryRow { source: row.get(0)?, examinations })
                    })?
                    .collect()
            })
            .map_err(|error| failed(format!("searching repositories for {text:?}"), error))
    }

    /// Every examination that the filter lets through, whole, in the order of recording, one at a time.
    pub fn export(&self, filter: &ExaminationFilter) -> Exported<'_> {
        Exported::of(
            self,
            self.keys(filter).map(|mut keys| {
                keys.sort_unstable_by_key(|(_, key)| *key);
                keys
            }),
        )
    }

    /// The same sorted by candidate, revision, base and id: an index of the same examinations gives them in the same
    /// order, whatever the order of recording was.
    pub fn export_sorted(&self, filter: &ExaminationFilter) -> Exported<'_> {
        Exported::of(
            self,
            self.keys(filter).map(|mut keys| {
                keys.sort();
                keys
            }),
        )
    }

    /// The keys of all examinations that the filter lets through, each with what it is sorted by.
    fn keys(&self, filter: &ExaminationFilter) -> Result<Vec<([Vec<u8>; 4], i64)>> {
        let conditions = conditions(filter, false)?;
        // Joined from the left, and read as bytes: a row that is broken must not take itself or others out of the list.
        let sql = format!(
            "SELECT e.key, c.source, s.revision, b.source, e.id FROM examination e \
             LEFT JOIN repository c ON c.key = e.candidate_repository LEFT JOIN repository b ON b.key = e.base_repository \
             LEFT JOIN side s ON s.key = e.candidate{}",
            conditions.text()
        );
        let bytes = |row: &Row<'_>, column: usize| -> rusqlite::Result<Vec<u8>> {
            Ok(row.get_ref(column)?.as_bytes().unwrap_or_default().to_vec())
        };
        self.connection
            .prepare(&sql)
            .and_then(|mut statement| {
                statement
                    .query_map(params_from_iter(&conditions.parameters), |row| {
                        Ok(([bytes(row, 1)?, bytes(row, 2)?, bytes(row, 3)?, bytes(row, 4)?], row.get(0)?))
                    })?
                    .collect()
            })
            .map_err(|error| failed("listing examinations", error))
    }
}

fn finding_row(row: &Row<'_>) -> rusqlite::Result<(Cursor, FindingRow)> {
    let (cursor, examination) = examination_row(row)?;
    let JsonText(evidence) = row.get("evidence")?;
    let finding = Finding {
        id: row.get("finding_id")?,
        signature: row.get("signature")?,
        signature_hash: row.get("signature_hash")?,
        severity: row.get::<_, Word<_>>("severity")?.0,
        status: row.get("life")?,
        evidence,
    };
    Ok((Cursor { ordinal: row.get("ordinal")?, ..cursor }, FindingRow { finding, examination }))
}

/// Examinations out of the index, read as they are asked for. One that cannot be read is an error, and the next one
/// follows.
pub struct Exported<'a> {
    index: &'a Index,
    keys: std::vec::IntoIter<i64>,
    /// Why there are no keys.
    error: Option<Error>,
}

impl<'a> Exported<'a> {
    fn of(index: &'a Index, keys: Result<Vec<([Vec<u8>; 4], i64)>>) -> Self {
        let (keys, error) = match keys {
            Ok(keys) => (keys.into_iter().map(|(_, key)| key).collect(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Self { index, keys: keys.into_iter(), error }
    }
}

impl Iterator for Exported<'_> {
    type Item = Result<StoredExamination>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        self.keys.next().map(|key| load::stored(&self.index.connection, key))
    }
}
