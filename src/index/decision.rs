//! Decisions of people about examinations: an audit trail that only grows.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, TransactionBehavior};
use serde::{Deserialize, Serialize};

use super::{Index, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// Longest name of a person in characters.
pub const WHO_CHARACTERS: usize = 100;

/// Longest note in characters.
pub const NOTE_CHARACTERS: usize = 10_000;

/// The word in the place of a decision where there is none.
pub const OPEN: &str = "open";

/// The chain before the first decision.
const NO_CHAIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What somebody decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The finding stands.
    Confirmed,
    /// The finding is not acted on.
    Dismissed,
    /// Somebody else should look.
    SecondLook,
    /// The publisher disputes it.
    Appealed,
}

/// Every choice, in the order of a form.
pub static CHOICES: [Choice; 4] = [Choice::Confirmed, Choice::Dismissed, Choice::SecondLook, Choice::Appealed];

impl Choice {
    /// The word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Dismissed => "dismissed",
            Self::SecondLook => "second-look",
            Self::Appealed => "appealed",
        }
    }

    /// The words that are shown.
    pub const fn told(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Dismissed => "dismissed",
            Self::SecondLook => "needs a second look",
            Self::Appealed => "appealed",
        }
    }

    /// The choice of a stored word.
    pub fn from_word(word: &str) -> Option<Self> {
        CHOICES.into_iter().find(|choice| choice.as_str() == word)
    }
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Its number; larger is later.
    pub key: i64,
    /// The examination's id, 64 hex digits.
    pub examination: String,
    /// When.
    #[serde(serialize_with = "super::time_as_text")]
    pub made_at: Timestamp,
    /// By whom, as given.
    pub who: String,
    /// What.
    pub decision: Choice,
    /// Why.
    pub note: String,
    /// Hash over the previous decision's chain and this one.
    pub chain: String,
}

impl Index {
    /// Adds a decision about the examination with that id (all 64 digits).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an empty or overlong name or note, [`ErrorKind::NotFound`] for an unknown examination.
    pub fn decide(
        &mut self,
        examination: &str,
        who: &str,
        choice: Choice,
        note: &str,
        now: Timestamp,
    ) -> Result<Decision> {
        let doing = "recording a decision";
        let (who, note) = (who.trim(), note.trim());
        if who.is_empty() || who.chars().count() > WHO_CHARACTERS {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{doing}: say who decides, in at most {WHO_CHARACTERS} characters"),
            ));
        }
        if note.chars().count() > NOTE_CHARACTERS {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{doing}: the note has more than {NOTE_CHARACTERS} characters"),
            ));
        }
        let sql = |error| failed(doing, error);
        // Immediate, so that no other decision comes between reading the last chain and writing the next.
        let transaction =
            self.connection_mut().transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let found: Option<i64> = transaction
            .query_row("SELECT key FROM examination WHERE id = ?1", [examination], |row| row.get(0))
            .optional()
            .map_err(sql)?;
        let Some(key) = found else {
            return Err(Error::new(ErrorKind::NotFound, format!("{doing}: there is no examination {examination:?}")));
        };
        let previous: Option<String> = transaction
            .query_row("SELECT chain FROM decision ORDER BY key DESC LIMIT 1", [], |row| row.get(0))
            .optional()
            .map_err(sql)?;
        let mut decision = Decision {
            key: 0,
            examination: examination.to_owned(),
            made_at: Timestamp::from_second(now.as_second()).unwrap_or(now),
            who: who.to_owned(),
            decision: choice,
            note: note.to_owned(),
            chain: String::new(),
        };
        decision.chain = chain(previous.as_deref().unwrap_or(NO_CHAIN), &decision);
        transaction
            .execute(
                "INSERT INTO decision (examination, made_at, who, decision, note, chain) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (key, now.as_second(), who, choice.as_str(), note, &decision.chain),
            )
            .map_err(sql)?;
        decision.key = transaction.last_insert_rowid();
        transaction.commit().map_err(sql)?;
        Ok(decision)
    }

    /// The decisions about an examination, oldest first.
    pub fn decisions(&self, examination: &str) -> Result<Vec<Decision>> {
        self.select_decisions(&format!("{SELECT} WHERE e.id = ?1 ORDER BY d.key"), [examination])
    }

    /// The last decisions about anything, newest first.
    pub fn last_decisions(&self, limit: u32) -> Result<Vec<Decision>> {
        self.select_decisions(&format!("{SELECT} ORDER BY d.key DESC LIMIT ?1"), [limit])
    }

    /// The keys of decisions whose chain is broken: changed, removed or put in by other means.
    pub fn broken_decisions(&self) -> Result<Vec<i64>> {
        let all = self.select_decisions(&format!("{SELECT} ORDER BY d.key"), [])?;
        let mut previous = NO_CHAIN.to_owned();
        let mut broken = Vec::new();
        for decision in all {
            if chain(&previous, &decision) != decision.chain {
                broken.push(decision.key);
            }
            previous = decision.chain;
        }
        Ok(broken)
    }

    fn select_decisions(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<Decision>> {
        let doing = "reading decisions";
        let mut statement = self.connection().prepare_cached(sql).map_err(|error| failed(doing, error))?;
        let rows = statement.query_map(parameters, decision_of).map_err(|error| failed(doing, error))?;
        rows.collect::<rusqlite::Result<Vec<_>>>().map_err(|error| failed(doing, error))
    }
}

const SELECT: &str = "SELECT d.key, e.id, d.made_at, d.who, d.decision, d.note, d.chain
FROM decision d JOIN examination e ON e.key = d.examination";

fn decision_of(row: &Row<'_>) -> rusqlite::Result<Decision> {
    let word: String = row.get(4)?;
    let odd = |column, error: String| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    };
    Ok(Decision {
        key: row.get(0)?,
        examination: row.get(1)?,
        made_at: Timestamp::from_second(row.get(2)?).map_err(|error| odd(2, error.to_string()))?,
        who: row.get(3)?,
        decision: Choice::from_word(&word).ok_or_else(|| odd(4, format!("{word:?} is no decision")))?,
        note: row.get(5)?,
        chain: row.get(6)?,
    })
}

/// SHA-256 (hex) over the previous chain and the decision's fields as a JSON array, so that no field can run into the
/// next.
fn chain(previous: &str, decision: &Decision) -> String {
    let fields = serde_json::json!([
        previous,
        decision.examination,
        decision.made_at.as_second(),
        decision.who,
        decision.decision.as_str(),
        decision.note
    ]);
    Digest::of(fields.to_string().as_bytes()).hex()
}
