//! A list as an address asks for it: which examinations, in which order. The queue and the API read it alike.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use jiff::Timestamp;
use serde::Deserialize;

use super::layout;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{RELATIONS, Relation};
use crate::index::decision::{Choice, OPEN};
use crate::index::triage::{CLAIMS, SORTS, Sort, TriageFilter, WAITS_FROM};

/// The words of outcomes, most serious first.
pub(super) const OUTCOMES: [&str; 5] = ["orthogonalized", "suspect", "inconclusive", "clear", "not-examined"];

/// The words of severities by number.
pub(super) const SEVERITIES: [&str; 5] = ["none", "info", "low", "medium", "high"];

/// The words of relations.
pub(super) fn relations() -> [&'static str; 11] {
    RELATIONS.map(Relation::as_str)
}

/// Whether refusals are said to be taken out.
pub(super) const DECLARED: [&str; 2] = ["yes", "no"];

/// The words of decisions, and the one for none.
pub(super) const DECISIONS: [&str; 5] = [
    OPEN,
    Choice::Confirmed.as_str(),
    Choice::Dismissed.as_str(),
    Choice::SecondLook.as_str(),
    Choice::Appealed.as_str(),
];

/// The words of orders.
pub(super) fn sorts() -> [&'static str; 3] {
    SORTS.map(Sort::as_str)
}

/// The word of a severity.
pub(super) fn severity_word(severity: i64) -> &'static str {
    usize::try_from(severity).ok().and_then(|index| SEVERITIES.get(index)).copied().unwrap_or("none")
}

/// What is asked for. All fields are text, so that a form's empty fields are no errors; a field that is not known is
/// one.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListAsked {
    pub outcome: String,
    pub severity: String,
    pub base: String,
    pub family: String,
    /// The format, by the word that addresses have for it.
    #[serde(rename = "form")]
    pub format: String,
    pub decision: String,
    pub downloads: String,
    pub since: String,
    pub until: String,
    pub text: String,
    pub uploader: String,
    pub signature: String,
    pub relation: String,
    pub claim: String,
    pub declared: String,
    pub sort: String,
    pub after: String,
    /// Rows of a page of the API.
    pub rows: String,
}

/// What an address asks for.
///
/// # Errors
/// [`ErrorKind::Usage`] for a field that is none: one that is misspelled would let everything through.
pub(super) fn of(query: Result<Query<ListAsked>, QueryRejection>) -> Result<ListAsked> {
    query
        .map(|Query(asked)| asked)
        .map_err(|refused| Error::new(ErrorKind::Usage, format!("reading an address: {}", refused.body_text())))
}

fn given(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn wrong(field: &str, text: &str, wanted: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("reading {field} {text:?}: it has to be {wanted}"))
}

/// One of the words of a field, where one is given.
fn word<'a>(field: &str, text: &str, words: &[&'a str]) -> Result<Option<&'a str>> {
    let Some(text) = given(text) else { return Ok(None) };
    match words.iter().find(|word| **word == text) {
        Some(word) => Ok(Some(word)),
        None => Err(wrong(field, &text, &format!("one of {}", words.join(", ")))),
    }
}

fn number<T: std::str::FromStr>(field: &str, text: &str) -> Result<Option<T>> {
    given(text).map(|text| text.parse().map_err(|_| wrong(field, &text, "a whole number"))).transpose()
}

/// Midnight UTC of a day, and so many seconds.
fn day(field: &str, text: &str, later: i64) -> Result<Option<Timestamp>> {
    let Some(text) = given(text) else { return Ok(None) };
    let date: Option<jiff::civil::Date> = text.parse().ok();
    date.and_then(|date| date.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok())
        .and_then(|start| Timestamp::from_second(start.timestamp().as_second() + later).ok())
        .map(Some)
        .ok_or_else(|| wrong(field, &text, "a date like 2026-01-31"))
}

impl ListAsked {
    /// What the queue shows whoever asks for nothing in particular: what waits for a decision.
    pub(super) fn waiting() -> Self {
        let severity = severity_word(WAITS_FROM).to_owned();
        Self { decision: OPEN.to_owned(), severity, ..Self::default() }
    }

    /// The filter and order that are meant.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] naming the field that cannot be read, with the words there are.
    pub(super) fn read(&self) -> Result<(TriageFilter, Sort)> {
        let owned = |word: Option<&str>| word.map(str::to_owned);
        let severity = word("severity", &self.severity, &SEVERITIES)?;
        let sort = word("sort", &self.sort, &sorts())?;
        let filter = TriageFilter {
            outcome: owned(word("outcome", &self.outcome, &OUTCOMES)?),
            severity: (0..).zip(SEVERITIES).find(|(_, known)| Some(*known) == severity).map(|(rank, _)| rank),
            base: given(&self.base),
            family: given(&self.family),
            format: given(&self.format),
            decision: owned(word("decision", &self.decision, &DECISIONS)?),
            downloads: number("downloads", &self.downloads)?,
            since: day("since", &self.since, 0)?,
            // The day named is inside.
            until: day("until", &self.until, 86_400)?,
            text: given(&self.text),
            uploader: given(&self.uploader),
            signature: given(&self.signature),
            relation: owned(word("relation", &self.relation, &relations())?),
            claim: owned(word("claim", &self.claim, &CLAIMS)?),
            declared: word("declared", &self.declared, &DECLARED)?.map(|word| word == "yes"),
        };
        Ok((filter, SORTS.into_iter().find(|known| Some(known.as_str()) == sort).unwrap_or_default()))
    }

    /// The rows of a page, where a number is given.
    pub(super) fn rows(&self) -> Result<Option<u32>> {
        number("rows", &self.rows)
    }

    /// The page after one, as it was asked for.
    pub(super) fn after(&self) -> Option<&str> {
        Some(self.after.as_str()).filter(|after| !after.is_empty())
    }

    /// The fields that say which examinations and in which order, by name.
    pub(super) fn fields(&self) -> [(&'static str, &str); 16] {
        [
            ("outcome", &self.outcome),
            ("severity", &self.severity),
            ("base", &self.base),
            ("family", &self.family),
            ("form", &self.format),
            ("decision", &self.decision),
            ("downloads", &self.downloads),
            ("since", &self.since),
            ("until", &self.until),
            ("text", &self.text),
            ("uploader", &self.uploader),
            ("signature", &self.signature),
            ("relation", &self.relation),
            ("claim", &self.claim),
            ("declared", &self.declared),
            ("sort", &self.sort),
        ]
    }

    /// The address of the part of the same list after a place.
    pub(super) fn address(&self, after: &str) -> String {
        let fields = self.fields().into_iter().chain([("after", after)]);
        format!("/queue?{}", layout::query(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_relation_and_decision_has_its_word() {
        let known = |word: &str| serde_json::from_value::<Relation>(word.into()).is_ok();
        assert!(relations().into_iter().all(known));
        // The last has the number before the count of all.
        assert_eq!(Relation::Incomparable as usize + 1, RELATIONS.len());
        assert!(crate::index::decision::CHOICES.iter().all(|choice| DECISIONS.contains(&choice.as_str())));
    }

    #[test]
    fn a_word_that_is_none_is_refused_with_the_list() {
        type Field = fn(&mut ListAsked) -> &mut String;
        let fields: [(&str, Field, &str); 7] = [
            ("outcome", |asked| &mut asked.outcome, "not-examined"),
            ("severity", |asked| &mut asked.severity, "medium"),
            ("decision", |asked| &mut asked.decision, "second-look"),
            ("relation", |asked| &mut asked.relation, "low-rank-edit"),
            ("claim", |asked| &mut asked.claim, "false"),
            ("declared", |asked| &mut asked.declared, "yes"),
            ("sort", |asked| &mut asked.sort, "downloads"),
        ];
        for (name, field, right) in fields {
            let mut asked = ListAsked::default();
            *field(&mut asked) = "bogus".into();
            let error = asked.read().expect_err("is none");
            assert_eq!(error.kind, ErrorKind::Usage);
            assert!(error.doing.contains(name) && error.doing.contains(right), "{error}");
            *field(&mut asked) = right.into();
            asked.read().expect("is one");
        }
        let wrong = [
            ListAsked { downloads: "many".into(), ..ListAsked::default() },
            ListAsked { since: "yesterday".into(), ..ListAsked::default() },
            ListAsked { until: "9999-12-31".into(), ..ListAsked::default() },
        ];
        assert!(wrong.iter().all(|asked| asked.read().is_err()));
    }
}
