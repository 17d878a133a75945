//! How common findings are among the derivatives in the index: counted per repository, by what it derives from, what it
//! is, when it appeared and who uploaded it. Shares and intervals are the report's; here are the counts.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row};
use serde::Serialize;

use super::{Index, failed};
use crate::error::{Result, reason_class};

/// What repositories are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// The base.
    Base,
    /// The architecture.
    Family,
    /// Bytes of the base's weights.
    Size,
    /// The format.
    #[serde(rename = "form")]
    Format,
    /// The month in which the repository was made.
    Month,
    /// The owner of the repository.
    Uploader,
}

/// Every dimension, in the order of a report.
pub static DIMENSIONS: [Dimension; 6] =
    [Dimension::Base, Dimension::Family, Dimension::Size, Dimension::Format, Dimension::Month, Dimension::Uploader];

impl Dimension {
    /// Its word on the command line and in addresses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Family => "family",
            Self::Size => "size",
            Self::Format => "form",
            Self::Month => "month",
            Self::Uploader => "uploader",
        }
    }
}

/// Counts of one group of repositories.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Group {
    /// What they have in common.
    pub label: String,
    /// Repositories with an examination, failed ones included.
    pub listed: u64,
    /// Of them, with one that did not fail.
    pub examined: u64,
    /// Of the examined, orthogonalized.
    pub orthogonalized: u64,
    /// Of the examined, suspect.
    pub suspect: u64,
    /// Of the examined, inconclusive.
    pub inconclusive: u64,
    /// Why the others could not be examined, with counts.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Downloads of the examined repositories where known: of the orthogonalized, of all, and squares of all.
    pub downloads: [f64; 3],
}

impl Group {
    /// Repositories that could not be examined.
    pub fn not_examinable(&self) -> u64 {
        self.listed - self.examined
    }

    fn add(&mut self, unit: &Unit, reason: &'static str) {
        self.listed += 1;
        if unit.outcome == Outcome::NotExamined {
            *self.reasons.entry(reason).or_default() += 1;
            return;
        }
        self.examined += 1;
        let found = unit.outcome == Outcome::Orthogonalized;
        self.orthogonalized += u64::from(found);
        self.suspect += u64::from(unit.outcome == Outcome::Suspect);
        self.inconclusive += u64::from(unit.outcome == Outcome::Inconclusive);
        if unit.downloads > 0 {
            let downloads = unit.downloads as f64;
            self.downloads[0] += if found { downloads } else { 0.0 };
            self.downloads[1] += downloads;
            self.downloads[2] += downloads * downloads;
        }
    }
}

/// What names and tags say against what the weights say, over examined repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Declared {
    /// Declared and found.
    pub declared_found: u64,
    /// Declared and not found.
    pub declared_not_found: u64,
    /// Found though not declared: what a search for names misses.
    pub undeclared_found: u64,
    /// Neither.
    pub neither: u64,
}

/// From a base's release to its first orthogonalized derivative.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delay {
    /// The base.
    pub base: String,
    /// When it was made, seconds since 1970.
    pub released: i64,
    /// When its first orthogonalized derivative was made.
    pub first: i64,
    /// Days between.
    pub days: i64,
}

/// All counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Prevalence {
    /// Over everything.
    pub overall: Group,
    /// By dimension; most repositories first, months in order.
    pub groups: BTreeMap<Dimension, Vec<Group>>,
    /// Why repositories could not be examined, commonest first.
    pub reasons: Vec<(String, u64)>,
    /// Names and tags against weights.
    pub declared: Declared,
    /// Release to first derivative, by base.
    pub delays: Vec<Delay>,
    /// Repositories that a hub listed and nobody has looked at yet.
    pub waiting: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    NotExamined,
    Inconclusive,
    Clear,
    Suspect,
    Orthogonalized,
}

/// One repository with the examination that stands for it: the newest that did not fail, else the newest.
#[derive(Debug, Clone)]
struct Unit {
    examination: i64,
    base: i64,
    outcome: Outcome,
    seen: i64,
    format: u32,
    size: Size,
    family: u32,
    downloads: i64,
    created: Option<i64>,
    declared: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Size {
    Unknown,
    Tiny,
    Small,
    Medium,
    Large,
    Huge,
}

impl Size {
    const fn of(bytes: i64) -> Self {
        const GIB: i64 = 1 << 30;
        match bytes {
            ..=0 => Self::Unknown,
            b if b < 2 * GIB => Self::Tiny,
            b if b < 8 * GIB => Self::Small,
            b if b < 32 * GIB => Self::Medium,
            b if b < 128 * GIB => Self::Large,
            _ => Self::Huge,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "not known",
            Self::Tiny => "under 2 GiB",
            Self::Small => "2 to 8 GiB",
            Self::Medium => "8 to 32 GiB",
            Self::Large => "32 to 128 GiB",
            Self::Huge => "128 GiB and more",
        }
    }
}

/// Words seen, each once.
#[derive(Default)]
struct Words {
    numbers: BTreeMap<String, u32>,
}

impl Words {
    fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        self.numbers.insert(word.to_owned(), number);
        number
    }

    fn labels(&self) -> BTreeMap<u32, &str> {
        self.numbers.iter().map(|(word, number)| (*number, word.as_str())).collect()
    }
}

/// Repositories by their keys, and the words that theirs are the numbers of.
#[derive(Default)]
struct Units {
    units: BTreeMap<i64, Unit>,
    formats: Words,
    families: Words,
}

impl Units {
    /// Takes in one examination, if it stands for its repository before the one that is there.
    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let word =
            |column: usize| -> rusqlite::Result<_> { Ok(row.get_ref(column)?.as_str().unwrap_or_default().to_owned()) };
        let unit = Unit {
            examination: row.get(0)?,
            base: row.get(2)?,
            outcome: match row.get_ref(3)?.as_str().unwrap_or_default() {
                "orthogonalized" => Outcome::Orthogonalized,
                "suspect" => Outcome::Suspect,
                "clear" => Outcome::Clear,
                "inconclusive" => Outcome::Inconclusive,
                _ => Outcome::NotExamined,
            },
            seen: row.get(4)?,
            format: self.formats.number(&word(5)?),
            size: Size::of(row.get(6)?),
            family: self.families.number(&word(7)?),
            downloads: row.get(8)?,
            created: row.get(9)?,
            declared: row.get(10)?,
        };
        let stands = |unit: &Unit| (unit.outcome != Outcome::NotExamined, unit.seen, unit.examination);
        let candidate: i64 = row.get(1)?;
        match self.units.get(&candidate) {
            Some(other) if stands(other) >= stands(&unit) => {}
            _ => drop(self.units.insert(candidate, unit)),
        }
        Ok(())
    }
}

/// The groups of a dimension with their labels: most repositories first, months and sizes in their own order.
fn sorted(dimension: Dimension, by_key: BTreeMap<Key<'_>, Group>) -> Vec<Group> {
    let mut list: Vec<Group> = by_key.into_iter().map(|(key, group)| Group { label: key.label(), ..group }).collect();
    if !matches!(dimension, Dimension::Month | Dimension::Size) {
        list.sort_by(|a, b| b.listed.cmp(&a.listed).then_with(|| a.label.cmp(&b.label)));
    }
    list
}

impl Index {
    /// Counts everything.
    pub fn prevalence(&self) -> Result<Prevalence> {
        let Units { units, formats, families } = self.units()?;
        let sources = self.sources()?;
        let mut counts =
            Prevalence { overall: Group { label: "all".to_owned(), ..Group::default() }, ..Prevalence::default() };
        let (formats, families) = (formats.labels(), families.labels());
        let mut groups: BTreeMap<Dimension, BTreeMap<Key<'_>, Group>> = BTreeMap::new();
        let mut first: BTreeMap<i64, i64> = BTreeMap::new();
        let reasons = self.reasons(&units)?;
        for (candidate, unit) in &units {
            let reason = reasons.get(candidate).copied().unwrap_or_default();
            counts.overall.add(unit, reason);
            let source = |key: &i64| sources.get(key).map(|(source, _)| source.as_str()).filter(|s| !s.is_empty());
            let keys = [
                (Dimension::Base, Key::Word(source(&unit.base))),
                (Dimension::Family, Key::Word(named(&families, unit.family))),
                (Dimension::Size, Key::Size(unit.size)),
                (Dimension::Format, Key::Word(named(&formats, unit.format))),
                (Dimension::Month, Key::Month(unit.created.map(month))),
                (Dimension::Uploader, Key::Word(sources.get(candidate).and_then(|(_, owner)| owner.as_deref()))),
            ];
            for (dimension, key) in keys {
                groups.entry(dimension).or_default().entry(key).or_default().add(unit, reason);
            }
            counts.declared.add(unit);
            if let (Outcome::Orthogonalized, Some(created)) = (unit.outcome, unit.created) {
                first.entry(unit.base).and_modify(|earliest| *earliest = created.min(*earliest)).or_insert(created);
            }
        }
        counts.groups = groups.into_iter().map(|(dimension, by_key)| (dimension, sorted(dimension, by_key))).collect();
        counts.reasons = counts.overall.reasons.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        counts.reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.delays = self.delays(&first, &sources)?;
        counts.waiting = self.listed_and_not_examined()?;
        Ok(counts)
    }

    /// Every derivative with the examination that stands for it.
    fn units(&self) -> Result<Units> {
        let sql = |error| failed("counting derivatives", error);
        let mut found = Units::default();
        let mut statement = self
            .connection()
            .prepare_cached(
                "SELECT examination, candidate, base, outcome, seen, form, weights, family, downloads, created, declared
                 FROM triage WHERE candidate <> base",
            )
            .map_err(sql)?;
        let mut rows = statement.query([]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            found.add(row).map_err(sql)?;
        }
        Ok(found)
    }

    /// How many repositories a hub listed that nobody has looked at yet.
    fn listed_and_not_examined(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM listing WHERE source NOT IN (SELECT source FROM repository)";
        let count: i64 = self
            .connection()
            .query_row(sql, [], |row| row.get(0))
            .map_err(|error| failed("counting derivatives", error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Source and owner of every repository.
    fn sources(&self) -> Result<BTreeMap<i64, (String, Option<String>)>> {
        let sql = |error| failed("listing repositories", error);
        let mut statement =
            self.connection().prepare_cached("SELECT key, source, owner FROM repository").map_err(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).map_err(sql)?;
        rows.collect::<rusqlite::Result<_>>().map_err(sql)
    }

    /// The class of the reason of each repository that could not be examined.
    fn reasons(&self, units: &BTreeMap<i64, Unit>) -> Result<BTreeMap<i64, &'static str>> {
        let sql = |error| failed("reading reasons", error);
        let mut statement =
            self.connection().prepare_cached("SELECT reason FROM examination WHERE key = ?1").map_err(sql)?;
        let mut classes = BTreeMap::new();
        for (candidate, unit) in units.iter().filter(|(_, unit)| unit.outcome == Outcome::NotExamined) {
            let reason: Option<Option<String>> =
                statement.query_row([unit.examination], |row| row.get(0)).optional().map_err(sql)?;
            classes.insert(*candidate, reason_class(reason.flatten().as_deref().unwrap_or_default()));
        }
        Ok(classes)
    }

    fn delays(
        &self,
        first: &BTreeMap<i64, i64>,
        sources: &BTreeMap<i64, (String, Option<String>)>,
    ) -> Result<Vec<Delay>> {
        let sql = |error| failed("reading release dates", error);
        let mut statement =
            self.connection().prepare_cached("SELECT created FROM listing WHERE source = ?1").map_err(sql)?;
        let mut delays = Vec::new();
        for (base, first) in first {
            let Some((source, _)) = sources.get(base) else { continue };
            let released: Option<Option<i64>> =
                statement.query_row([source], |row| row.get(0)).optional().map_err(sql)?;
            if let Some(released) = released.flatten() {
                let days = first.saturating_sub(released).div_euclid(86_400);
                delays.push(Delay { base: source.clone(), released, first: *first, days });
            }
        }
        delays.sort_by(|a, b| a.days.cmp(&b.days).then_with(|| a.base.cmp(&b.base)));
        Ok(delays)
    }
}

impl Declared {
    fn add(&mut self, unit: &Unit) {
        match (unit.outcome, unit.declared) {
            (Outcome::NotExamined, _) => {}
            (Outcome::Orthogonalized, true) => self.declared_found += 1,
            (Outcome::Orthogonalized, false) => self.undeclared_found += 1,
            (_, true) => self.declared_not_found += 1,
            (_, false) => self.neither += 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Word(Option<&'a str>),
    Size(Size),
    Month(Option<(i16, i8)>),
}

impl Key<'_> {
    fn label(self) -> String {
        match self {
            Self::Word(Some(word)) => word.to_owned(),
            Self::Word(None) | Self::Month(None) => "not known".to_owned(),
            Self::Size(size) => size.as_str().to_owned(),
            Self::Month(Some((year, month))) => format!("{year:04}-{month:02}"),
        }
    }
}

/// The word of a number, unless it is empty.
fn named<'a>(labels: &BTreeMap<u32, &'a str>, number: u32) -> Option<&'a str> {
    labels.get(&number).copied().filter(|word| !word.is_empty())
}

/// Year and month (UTC) of a time in seconds.
fn month(seconds: i64) -> (i16, i8) {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let date = time.to_zoned_datetime(jiff::tz::TimeZone::UTC).date();
    (date.year(), date.month())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_utc() {
        assert_eq!(month(0), (1970, 1));
        assert_eq!(month(1_767_225_599), (2025, 12));
        assert_eq!(month(i64::MAX), (1970, 1));
    }
}
