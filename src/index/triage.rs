//! Lists of examinations for people: filtered, sorted, paged by key, fast at any size; and what hubs say of
//! repositories.

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Params, Row, params_from_iter};
use serde::Serialize;

use super::decision::OPEN;
use super::query::swept_since;
use super::{Index, failed};
use crate::error::{Error, ErrorKind, Result, reason_class};
use crate::examination::{Examination, Relation, Status};
use crate::hub::RepoInfo;

/// Rows of one page at most.
pub const PAGE_ROWS: u32 = 500;

/// Rows that could not be examined and are looked at to tell why.
const NOT_EXAMINED: u32 = 10_000;

/// Words that are told to somebody who asked for another one.
const WORDS_TOLD: u32 = 20;

/// Names found by a text search up to which the search leads; beyond that the sorted list is walked and each name
/// looked at, since a search that finds nearly everything helps nothing.
const FEW_NAMES: i64 = 2_000;

/// What a hub's listing says of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Downloads of the last 30 days.
    pub downloads: Option<u64>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The architecture (`model_type`), its own or its base's.
    pub family: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
}

impl From<&RepoInfo> for Listing {
    /// What is kept of a hub's word on a repository.
    fn from(facts: &RepoInfo) -> Self {
        Self {
            downloads: facts.downloads,
            created: facts.created.as_deref().and_then(|text| text.parse().ok()),
            family: facts.config.get("model_type").and_then(|word| word.as_str()).map(str::to_owned),
            tags: facts.tags.clone(),
        }
    }
}

impl Listing {
    /// The same of an upload that was compared with that base: hubs read no configuration out of most GGUF files and
    /// adapters, and these are of the family of what they were made from.
    pub fn with_family_of(mut self, base: Option<&Self>, examination: &Examination) -> Self {
        let akin = !matches!(examination.relation, Relation::Unrelated | Relation::Incomparable);
        if self.family.is_none() && akin && examination.status != Status::Failed {
            self.family = base.and_then(|base| base.family.clone());
        }
        self
    }
}

/// What the index remembers of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Downloads of the last 30 days.
    pub downloads: Option<u64>,
    /// When the repository was made.
    pub created: Option<Timestamp>,
    /// Whether its name or tags say that refusals were taken out.
    pub declared: bool,
}

/// Words by which publishers say that refusals were taken out. What a search for names finds, and no more: names are
/// false both ways.
pub const DECLARING_WORDS: &[&str] = &[
    "abliterat",
    "ablated",
    "obliterat",
    "heretic",
    "uncensor",
    "decensor",
    "derestrict",
    "refusal-removed",
    "no-refusal",
    "norefus",
    "orthogonaliz",
    "lorablat",
    "unaligned",
    "unfilter",
];

/// Whether a name or tag says that refusals were taken out.
pub fn declares(name: &str, tags: &[String]) -> bool {
    let says = |text: &str| {
        let text = text.to_lowercase();
        DECLARING_WORDS.iter().any(|word| text.contains(word))
    };
    says(name) || tags.iter().any(|tag| says(tag))
}

/// Which examinations. Everything that is given must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TriageFilter {
    /// A verdict's word, or `not-examined`.
    pub outcome: Option<String>,
    /// Smallest severity: 0 none to 4 high; a claim of a base that is not borne out is of 2, low, at least.
    pub severity: Option<i64>,
    /// The base, as its source is spelled.
    pub base: Option<String>,
    /// The architecture.
    pub family: Option<String>,
    /// The candidate's format.
    pub format: Option<String>,
    /// A decision's word, or `open`.
    pub decision: Option<String>,
    /// Fewest downloads.
    pub downloads: Option<u64>,
    /// Examined at this time or later.
    pub since: Option<Timestamp>,
    /// Examined before this time.
    pub until: Option<Timestamp>,
    /// A piece of the candidate's name.
    pub text: Option<String>,
    /// The owner of the candidate on its hub.
    pub uploader: Option<String>,
    /// The id of a signature that holds.
    pub signature: Option<String>,
    /// What the candidate is to the base.
    pub relation: Option<String>,
    /// Whether its claim of a base holds: one of [`CLAIMS`].
    pub claim: Option<String>,
    /// Whether its name or tags say that refusals were taken out.
    pub declared: Option<bool>,
}

/// The severity from which on an examination waits for a decision: low.
pub const WAITS_FROM: i64 = 2;

impl TriageFilter {
    /// What waits for a decision.
    pub fn waiting() -> Self {
        Self { decision: Some(OPEN.to_owned()), severity: Some(WAITS_FROM), ..Self::default() }
    }
}

/// What is known of a claim of a base: the weights bear it out, they do not, that could not be told, none was made.
pub const CLAIMS: [&str; 4] = ["holds", "false", "not-told", "none"];

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// Highest severity first, then newest.
    #[default]
    Severity,
    /// Newest first.
    Newest,
    /// Most downloads first.
    Downloads,
}

/// Every order, in the order of a form.
pub static SORTS: [Sort; 3] = [Sort::Severity, Sort::Newest, Sort::Downloads];

impl Sort {
    /// Its word in addresses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Severity => "severity",
            Self::Newest => "newest",
            Self::Downloads => "downloads",
        }
    }

    /// The columns that order rows; the last one is unique.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Severity => &["t.severity", "t.seen", "t.examination"],
            Self::Newest => &["t.seen", "t.examination"],
            Self::Downloads => &["t.downloads", "t.examination"],
        }
    }
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriageRow {
    /// The examination's id, 64 hex digits.
    pub id: String,
    /// The candidate.
    pub candidate: String,
    /// Its commit.
    pub revision: Option<String>,
    /// The base.
    pub base: String,
    /// The verdict's word, or `not-examined`.
    pub outcome: String,
    /// What the candidate is to the base.
    pub relation: String,
    /// Highest severity of a finding: 0 none to 4 high; 2 at least where the claim of a base is false.
    pub severity: i64,
    /// The first finding's id, where there is one.
    pub finding: Option<String>,
    /// The signature of the gravest finding of low severity and above.
    pub signature: Option<String>,
    /// The candidate's format.
    #[serde(rename = "form")]
    pub format: String,
    /// The architecture.
    pub family: String,
    /// Downloads of the last 30 days.
    pub downloads: Option<u64>,
    /// When it was last made.
    #[serde(serialize_with = "super::time_as_text")]
    pub seen: Timestamp,
    /// One sentence: why, or why it could not be examined.
    pub because: String,
    /// The last decision, or `open`.
    pub decision: String,
    /// The owner of the candidate on its hub; empty where there is none.
    pub uploader: String,
    /// Whether the claim of a base holds: one of [`CLAIMS`].
    pub claim: String,
    /// Whether its name or tags say that refusals were taken out.
    pub declared: bool,
    /// When these measurements were first made.
    #[serde(serialize_with = "super::time_as_text")]
    pub first_seen: Timestamp,
    /// Smallest strength λ of a changed writer, where a removal fits.
    pub lambda_min: Option<f64>,
    /// Largest.
    pub lambda_max: Option<f64>,
}

/// An examination that says something that none before it said of the same repository.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct News {
    /// The examination.
    #[serde(flatten)]
    pub row: TriageRow,
    /// The outcome of the repository's examination before; `None` where there was none.
    pub before: Option<String>,
}

/// Why repositories could not be examined: one class of reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct NotExaminedClass {
    /// The class.
    pub class: &'static str,
    /// How many.
    pub count: u64,
    /// One of them.
    pub example: TriageRow,
}

/// A page of a list, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriagePage {
    /// The lines.
    pub items: Vec<TriageRow>,
    /// What to pass for the next page; `None` on the last.
    pub next: Option<String>,
}

const SELECT: &str = "SELECT e.id, c.source, s.revision, b.source, t.outcome, e.relation, t.severity,
       (SELECT f.id FROM finding f WHERE f.examination = t.examination ORDER BY f.severity_rank DESC, f.ordinal LIMIT 1),
       t.form, t.family, t.downloads, t.seen, CASE e.status WHEN 'failed' THEN coalesce(e.reason, '') ELSE e.because END,
       t.decision, t.examination, t.uploader, t.claim, t.declared, e.first_seen,
       (SELECT min(g.lambda) FROM strength g WHERE g.examination = o.examination AND g.lambda <> 0),
       (SELECT max(g.lambda) FROM strength g WHERE g.examination = o.examination AND g.lambda <> 0),
       (SELECT f.signature FROM finding f WHERE f.examination = t.examination AND f.severity_rank >= 2
        ORDER BY f.severity_rank DESC, f.ordinal LIMIT 1)
FROM triage t
JOIN examination e ON e.key = t.examination
JOIN repository c ON c.key = t.candidate
JOIN repository b ON b.key = t.base
JOIN side s ON s.key = e.candidate
LEFT JOIN orthogonalization o ON o.examination = t.examination AND o.tensors > 0";

/// Records what a listing said of a repository, through a connection that may be in a transaction already.
pub fn record_listing(connection: &Connection, source: &str, listing: &Listing, now: Timestamp) -> Result<()> {
    let downloads = listing.downloads.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    connection
        .prepare_cached(
            "INSERT INTO listing (source, downloads, created, family, declared, seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (source) DO UPDATE SET downloads = excluded.downloads, created = excluded.created,
                 family = excluded.family, declared = excluded.declared, seen = excluded.seen",
        )
        .and_then(|mut statement| {
            statement.execute((
                source,
                downloads,
                listing.created.map(Timestamp::as_second),
                &listing.family,
                declares(source, &listing.tags),
                now.as_second(),
            ))
        })
        .map_err(|error| failed(format!("recording the listing of {source}"), error))?;
    Ok(())
}

impl Index {
    /// Records what a listing said of a repository; later word takes the place of earlier.
    pub fn record_listing(&mut self, source: &str, listing: &Listing, now: Timestamp) -> Result<()> {
        record_listing(self.connection(), source, listing, now)
    }

    /// What a listing last said of a repository; `None` where none was heard of.
    pub fn heard(&self, source: &str) -> Result<Option<Heard>> {
        let doing = "reading what a listing said";
        let row = |row: &Row<'_>| -> rusqlite::Result<Heard> {
            let downloads: Option<i64> = row.get(0)?;
            let created: Option<i64> = row.get(1)?;
            Ok(Heard {
                downloads: downloads.and_then(|count| u64::try_from(count).ok()),
                created: created.and_then(|seconds| Timestamp::from_second(seconds).ok()),
                declared: row.get(2)?,
            })
        };
        self.connection()
            .prepare_cached("SELECT downloads, created, declared FROM listing WHERE source = ?1")
            .and_then(|mut statement| statement.query_row([source], row).optional())
            .map_err(|error| failed(doing, error))
    }

    /// A page of examinations.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when `after` is not what an earlier page of the same order gave.
    pub fn triage(&self, filter: &TriageFilter, sort: Sort, after: Option<&str>, rows: u32) -> Result<TriagePage> {
        let doing = "listing examinations";
        let rows = rows.clamp(1, PAGE_ROWS);
        let columns = sort.columns();
        let Some(mut conditions) = self.conditions(filter)? else {
            return Ok(TriagePage { items: Vec::new(), next: None });
        };
        if let Some(after) = after {
            let keys = cursor(after, columns.len()).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("{doing}: {after:?} is not a place in this list"))
            })?;
            let marks = vec!["?"; columns.len()].join(", ");
            conditions.wheres.push(format!("({}) < ({marks})", columns.join(", ")));
            conditions.values.extend(keys.into_iter().map(Value::Integer));
        }
        let filter = conditions.sql();
        let order = columns.iter().map(|column| format!("{column} DESC")).collect::<Vec<_>>().join(", ");
        let sql = format!("{SELECT}{filter} ORDER BY {order} LIMIT {}", rows + 1);
        let mut statement = self.connection().prepare_cached(&sql).map_err(|error| failed(doing, error))?;
        let found = statement
            .query_map(params_from_iter(conditions.values), |row| Ok((row_of(row)?, keys_of(row, sort)?)))
            .map_err(|error| failed(doing, error))?;
        let mut found: Vec<(TriageRow, Vec<i64>)> =
            found.collect::<rusqlite::Result<_>>().map_err(|error| failed(doing, error))?;
        let more = found.len() > rows as usize;
        found.truncate(rows as usize);
        let last = found.last().filter(|_| more).map(|(_, keys)| keys);
        let next = last.map(|keys| keys.iter().map(i64::to_string).collect::<Vec<_>>().join("."));
        Ok(TriagePage { items: found.into_iter().map(|(row, _)| row).collect(), next })
    }

    /// How many examinations a filter lets through; counting ends at `most`.
    pub fn matching(&self, filter: &TriageFilter, most: u32) -> Result<u64> {
        let doing = "counting examinations";
        let Some(conditions) = self.conditions(filter)? else { return Ok(0) };
        let filter = conditions.sql();
        // Joined from the left, it is left out where the filter does not ask for a name.
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM triage t LEFT JOIN repository c ON c.key = t.candidate{filter} LIMIT {most})"
        );
        let count: i64 = self
            .connection()
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row(params_from_iter(conditions.values), |row| row.get(0)))
            .map_err(|error| failed(doing, error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// What is to be decided after the examination with that id, in the order of [`Sort::Severity`]; after the last one
    /// the first. `None` where nothing else waits.
    pub fn next_waiting(&self, id: &str) -> Result<Option<TriageRow>> {
        let doing = "looking for what waits next";
        let place: Option<String> = self
            .connection()
            .prepare_cached(
                "SELECT severity || '.' || seen || '.' || examination FROM triage
                 WHERE examination = (SELECT key FROM examination WHERE id = ?1)",
            )
            .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
            .map_err(|error| failed(doing, error))?;
        let waiting = TriageFilter::waiting();
        let after = self.triage(&waiting, Sort::Severity, place.as_deref(), 1)?.items.pop();
        let next = match after {
            Some(row) => Some(row),
            None => self.triage(&waiting, Sort::Severity, None, 1)?.items.pop(),
        };
        Ok(next.filter(|row| row.id != id))
    }

    /// What waits longest for a decision.
    pub fn waiting_longest(&self, rows: u32) -> Result<Vec<TriageRow>> {
        // Keys grow with time.
        self.select_rows("t.decision = 'open' AND t.severity >= ?1 ORDER BY t.examination LIMIT ?2", (WAITS_FROM, rows))
    }

    /// Examinations that a sweep was the first to make in a span of time (the end included) and that need a look, each
    /// with another outcome than the one of the same repository before that; most severe first.
    pub fn news(&self, from: Timestamp, to: Timestamp, rows: u32) -> Result<Vec<News>> {
        let doing = "listing what is new";
        let earlier = "SELECT p.outcome FROM triage p JOIN examination q ON q.key = p.examination
             WHERE p.candidate = (SELECT candidate FROM triage WHERE examination = {}) AND q.first_seen < ?1
             ORDER BY q.first_seen DESC, q.key DESC LIMIT 1";
        let rest = format!(
            "t.seen >= ?1 AND e.first_seen BETWEEN ?1 AND ?2 AND {}
             AND (t.severity >= ?3 OR t.outcome IN ('orthogonalized', 'suspect')) AND t.outcome IS NOT ({})
             ORDER BY t.severity DESC, t.seen DESC, t.examination DESC LIMIT ?4",
            swept_since("?1"),
            earlier.replace("{}", "t.examination")
        );
        let found = self.select_rows(&rest, (from.as_second(), to.as_second(), WAITS_FROM, rows))?;
        let mut statement = self
            .connection()
            .prepare_cached(&earlier.replace("{}", "(SELECT key FROM examination WHERE id = ?2)"))
            .map_err(|error| failed(doing, error))?;
        let mut of = |row: TriageRow| {
            let before = statement.query_row((from.as_second(), &row.id), |row| row.get(0)).optional();
            Ok(News { row, before: before.map_err(|error| failed(doing, error))? })
        };
        found.into_iter().map(&mut of).collect()
    }

    /// What could not be examined, ever or by sweeps since a time, by class of reason, commonest first.
    pub fn not_examined(&self, since: Option<Timestamp>) -> Result<Vec<NotExaminedClass>> {
        let newest = "ORDER BY t.seen DESC, t.examination DESC LIMIT ?1";
        let rows = match since {
            None => self.select_rows(&format!("t.outcome = 'not-examined' {newest}"), [i64::from(NOT_EXAMINED)])?,
            Some(since) => {
                let by_sweeps =
                    format!("t.outcome = 'not-examined' AND t.seen >= ?2 AND {} {newest}", swept_since("?2"));
                self.select_rows(&by_sweeps, (NOT_EXAMINED, since.as_second()))?
            }
        };
        let mut classes: Vec<NotExaminedClass> = Vec::new();
        for row in rows {
            let class = reason_class(&row.because);
            match classes.iter_mut().find(|known| known.class == class) {
                Some(known) => known.count += 1,
                None => classes.push(NotExaminedClass { class, count: 1, example: row }),
            }
        }
        classes.sort_by_key(|class| std::cmp::Reverse(class.count));
        Ok(classes)
    }

    /// A word that nothing in the index has would pass for "nothing found": an error with the words there are.
    fn must_be_known(&self, field: &str, word: &str) -> Result<()> {
        let doing = "reading the words of examinations";
        let (is, all) = match field {
            "base" => (
                "SELECT 1 FROM triage t JOIN repository r ON r.key = t.base WHERE r.source = ?1",
                "SELECT r.source FROM triage t JOIN repository r ON r.key = t.base WHERE r.source <> ''",
            ),
            "uploader" => (
                "SELECT 1 FROM triage WHERE uploader = ?1",
                "SELECT uploader AS source FROM triage WHERE uploader <> ''",
            ),
            "family" => {
                ("SELECT 1 FROM triage WHERE family = ?1", "SELECT family AS source FROM triage WHERE family <> ''")
            }
            "form" => ("SELECT 1 FROM triage WHERE form = ?1", "SELECT form AS source FROM triage WHERE form <> ''"),
            _ => ("SELECT 1 FROM finding WHERE signature = ?1", "SELECT signature AS source FROM finding"),
        };
        let known = self
            .connection()
            .prepare_cached(&format!("{is} LIMIT 1"))
            .and_then(|mut statement| statement.exists([word]))
            .map_err(|error| failed(doing, error))?;
        if known {
            return Ok(());
        }
        let sql =
            format!("SELECT source FROM ({all}) GROUP BY source ORDER BY count(*) DESC, source LIMIT {WORDS_TOLD}");
        let words: Vec<String> = self
            .connection()
            .prepare(&sql)
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(|error| failed(doing, error))?;
        let told = match (words.len() as u32, words.join(", ")) {
            (0, _) => "the index has none".to_owned(),
            (WORDS_TOLD, words) => format!("the commonest in the index are {words}"),
            (_, words) => format!("the index has {words}"),
        };
        Err(Error::new(ErrorKind::Usage, format!("reading {field} {word:?}: no examination has it; {told}")))
    }

    /// The filter's conditions; none when nothing can match.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a word that no examination has, with those there are.
    fn conditions(&self, filter: &TriageFilter) -> Result<Option<Conditions>> {
        for (field, word) in [
            ("base", &filter.base),
            ("uploader", &filter.uploader),
            ("family", &filter.family),
            ("form", &filter.format),
            ("signature", &filter.signature),
        ] {
            if let Some(word) = word {
                self.must_be_known(field, word)?;
            }
        }
        let mut conditions = Conditions::default();
        conditions.words(filter);
        if let Some(base) = &filter.base {
            let Some(key) = self.repository_key(base)? else { return Ok(None) };
            conditions.add("t.base = ?", Value::Integer(key));
        }
        if let Some(signature) = &filter.signature {
            conditions.add(
                "t.examination IN (SELECT examination FROM finding WHERE signature = ?)",
                Value::Text(signature.clone()),
            );
        }
        conditions.bounds(filter);
        let text = filter.text.as_deref().unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(Some(conditions));
        }
        let Some((condition, value)) = self.named_like(text)? else { return Ok(None) };
        conditions.add(condition, Value::Text(value));
        Ok(Some(conditions))
    }

    /// The condition for names with a piece of text in them, by the way that is fast for as many as there are; none
    /// where no name has it.
    fn named_like(&self, text: &str) -> Result<Option<(&'static str, String)>> {
        // The search ends a phrase at a zero character; no name that was stored whole has one.
        if text.contains('\0') {
            return Ok(None);
        }
        let phrase = format!("\"{}\"", text.replace('"', "\"\""));
        // The search works on three letters and more; a shorter piece is looked for name by name.
        let found: i64 = if text.chars().count() < 3 {
            i64::MAX
        } else {
            self.connection()
                .prepare_cached(
                    "SELECT count(*) FROM (SELECT 1 FROM repository_search WHERE repository_search MATCH ?1 LIMIT ?2)",
                )
                .and_then(|mut statement| statement.query_row((&phrase, FEW_NAMES + 1), |row| row.get(0)))
                .map_err(|error| failed("listing examinations", error))?
        };
        if found == 0 {
            return Ok(None);
        }
        if found <= FEW_NAMES {
            let search = "t.candidate IN (SELECT rowid FROM repository_search WHERE repository_search MATCH ?)";
            return Ok(Some((search, phrase)));
        }
        let pattern = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        Ok(Some(("c.source LIKE ? ESCAPE '\\'", format!("%{pattern}%"))))
    }

    /// The key of a repository.
    fn repository_key(&self, source: &str) -> Result<Option<i64>> {
        self.connection()
            .prepare_cached("SELECT key FROM repository WHERE source = ?1")
            .and_then(|mut statement| statement.query_row([source], |row| row.get(0)).optional())
            .map_err(|error| failed(format!("looking for repository {source:?}"), error))
    }

    /// The examinations of one candidate, newest first.
    pub fn repository_rows(&self, candidate: &str, rows: u32) -> Result<Vec<TriageRow>> {
        let Some(key) = self.repository_key(candidate)? else { return Ok(Vec::new()) };
        self.select_rows("t.candidate = ?1 ORDER BY t.seen DESC, t.examination DESC LIMIT ?2", (key, rows))
    }

    /// The examinations against one base, most serious first.
    pub fn derivatives(&self, base: &str, rows: u32) -> Result<Vec<TriageRow>> {
        let Some(key) = self.repository_key(base)? else { return Ok(Vec::new()) };
        self.select_rows("t.base = ?1 ORDER BY t.severity DESC, t.seen DESC, t.examination DESC LIMIT ?2", (key, rows))
    }

    fn select_rows(&self, rest: &str, parameters: impl Params) -> Result<Vec<TriageRow>> {
        let doing = "listing examinations";
        let sql = format!("{SELECT} WHERE {rest}");
        let mut statement = self.connection().prepare_cached(&sql).map_err(|error| failed(doing, error))?;
        let found = statement.query_map(parameters, row_of).map_err(|error| failed(doing, error))?;
        found.collect::<rusqlite::Result<_>>().map_err(|error| failed(doing, error))
    }

    /// How many examinations have each outcome.
    pub fn outcomes(&self) -> Result<Vec<(String, u64)>> {
        self.counted("SELECT outcome, count(*) FROM triage GROUP BY outcome ORDER BY outcome")
    }

    /// How many examinations have each decision, `open` among them.
    pub fn decided(&self) -> Result<Vec<(String, u64)>> {
        self.counted("SELECT decision, count(*) FROM triage GROUP BY decision ORDER BY decision")
    }

    /// The bases with most examinations, and how many each has.
    pub fn bases(&self, rows: u32) -> Result<Vec<(String, u64)>> {
        self.counted(&format!(
            "SELECT r.source, n FROM (SELECT base, count(*) AS n FROM triage GROUP BY base ORDER BY n DESC, base LIMIT {rows})
             JOIN repository r ON r.key = base WHERE r.source <> '' ORDER BY n DESC, r.source"
        ))
    }

    /// The words of a kind that there are, in their order; empty ones left out.
    pub fn kinds(&self, kind: WordColumn) -> Result<Vec<String>> {
        let (column, table) = match kind {
            WordColumn::Format => ("form", "triage"),
            WordColumn::Family => ("family", "triage"),
            WordColumn::Signature => ("signature", "finding"),
        };
        // From each word to the next one along an index: rows are many, words are few.
        let sql = format!(
            "WITH RECURSIVE words (word) AS (
                 SELECT min({column}) FROM {table}
                 UNION ALL SELECT (SELECT min({column}) FROM {table} WHERE {column} > word) FROM words WHERE word IS NOT NULL
             ) SELECT word FROM words WHERE word <> '' LIMIT 500"
        );
        self.connection()
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(|error| failed("listing the words of examinations", error))
    }

    fn counted(&self, sql: &str) -> Result<Vec<(String, u64)>> {
        let doing = "counting examinations";
        let mut statement = self.connection().prepare_cached(sql).map_err(|error| failed(doing, error))?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
            .map_err(|error| failed(doing, error))?;
        rows.map(|row| row.map(|(word, count)| (word, u64::try_from(count).unwrap_or(0))))
            .collect::<rusqlite::Result<_>>()
            .map_err(|error| failed(doing, error))
    }
}

/// Conditions that must all hold, and their values in the same order.
#[derive(Default)]
struct Conditions {
    wheres: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn add(&mut self, condition: &str, value: Value) {
        self.wheres.push(condition.to_owned());
        self.values.push(value);
    }

    /// The conditions that a column has a word.
    fn words(&mut self, filter: &TriageFilter) {
        for (column, word) in [
            ("t.outcome", &filter.outcome),
            ("t.family", &filter.family),
            ("t.form", &filter.format),
            ("t.decision", &filter.decision),
            ("t.uploader", &filter.uploader),
            ("t.relation", &filter.relation),
            ("t.claim", &filter.claim),
        ] {
            if let Some(word) = word {
                self.add(&format!("{column} = ?"), Value::Text(word.clone()));
            }
        }
    }

    /// The conditions on columns of numbers.
    fn bounds(&mut self, filter: &TriageFilter) {
        for (condition, number) in [
            ("t.declared = ?", filter.declared.map(i64::from)),
            ("t.severity >= ?", filter.severity),
            ("t.downloads >= ?", filter.downloads.map(|downloads| i64::try_from(downloads).unwrap_or(i64::MAX))),
            ("t.seen >= ?", filter.since.map(Timestamp::as_second)),
            ("t.seen < ?", filter.until.map(Timestamp::as_second)),
        ] {
            if let Some(number) = number {
                self.add(condition, Value::Integer(number));
            }
        }
    }

    /// The part of a statement that has them, with a space before it.
    fn sql(&self) -> String {
        if self.wheres.is_empty() { String::new() } else { format!(" WHERE {}", self.wheres.join(" AND ")) }
    }
}

/// A column of words that lists can be filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordColumn {
    /// The candidate's format.
    Format,
    /// Its architecture.
    Family,
    /// A signature that holds.
    Signature,
}

/// The numbers of a place in a list.
fn cursor(text: &str, numbers: usize) -> Option<Vec<i64>> {
    let keys: Option<Vec<i64>> = text.split('.').map(|part| part.parse().ok()).collect();
    keys.filter(|keys| keys.len() == numbers)
}

fn keys_of(row: &Row<'_>, sort: Sort) -> rusqlite::Result<Vec<i64>> {
    let (severity, downloads, seen, examination) = (row.get(6)?, row.get(10)?, row.get(11)?, row.get(14)?);
    Ok(match sort {
        Sort::Severity => vec![severity, seen, examination],
        Sort::Newest => vec![seen, examination],
        Sort::Downloads => vec![downloads, examination],
    })
}

fn row_of(row: &Row<'_>) -> rusqlite::Result<TriageRow> {
    Ok(TriageRow {
        id: row.get(0)?,
        candidate: row.get(1)?,
        revision: row.get(2)?,
        base: row.get(3)?,
        outcome: row.get(4)?,
        relation: row.get(5)?,
        severity: row.get(6)?,
        finding: row.get(7)?,
        signature: row.get(21)?,
        format: row.get(8)?,
        family: row.get(9)?,
        downloads: u64::try_from(row.get::<_, i64>(10)?).ok(),
        // Seconds out of range can only come from a foreign hand; they are shown as the epoch, not as an error page.
        seen: Timestamp::from_second(row.get(11)?).unwrap_or(Timestamp::UNIX_EPOCH),
        because: row.get(12)?,
        decision: row.get(13)?,
        uploader: row.get(15)?,
        claim: row.get(16)?,
        declared: row.get(17)?,
        first_seen: Timestamp::from_second(row.get(18)?).unwrap_or(Timestamp::UNIX_EPOCH),
        lambda_min: row.get(19)?,
        lambda_max: row.get(20)?,
    })
}
