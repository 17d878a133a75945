//! Range clauses over named measurements: the whole language of a signature's `[when]` table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The values for which a clause holds. A bound that is left out does not bind; not-a-number is never inside.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Smallest value inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest value inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// First value that is too large, so that two signatures can share a bound without overlapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
}

/// Which bound of a range is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// [`Range::min`].
    Min,
    /// [`Range::max`].
    Max,
    /// [`Range::below`].
    Below,
}

impl Bound {
    /// The word in the front matter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Below => "below",
        }
    }
}

impl Range {
    /// The bounds that were given.
    pub fn bounds(&self) -> impl Iterator<Item = (Bound, f64)> {
        [(Bound::Min, self.min), (Bound::Max, self.max), (Bound::Below, self.below)]
            .into_iter()
            .filter_map(|(side, bound)| bound.map(|bound| (side, bound)))
    }

    /// Whether the value is inside.
    pub fn contains(&self, value: f64) -> bool {
        self.bounds().all(|(side, bound)| within(side, bound, value)) && !value.is_nan()
    }
}

/// Whether one bound lets a value through.
fn within(side: Bound, bound: f64, value: f64) -> bool {
    match side {
        Bound::Min => value >= bound,
        Bound::Max => value <= bound,
        Bound::Below => value < bound,
    }
}

/// A conjunction of range clauses, one for each measurement it speaks of.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Condition {
    /// Measurement name to the range it must be in.
    pub clauses: BTreeMap<String, Range>,
}

/// How one clause fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClauseOutcome {
    /// The measurement.
    pub measurement: String,
    /// Its value, where it was measured.
    pub value: Option<f64>,
    /// The range asked for.
    #[serde(flatten)]
    pub range: Range,
    /// Whether the value was measured and is inside.
    pub holds: bool,
}

impl Condition {
    /// Every clause with its value, in the order of measurement names. A clause over an absent measurement does not
    /// hold.
    pub fn assess(&self, measurements: &BTreeMap<String, f64>) -> Vec<ClauseOutcome> {
        self.clauses
            .iter()
            .map(|(measurement, range)| {
                let value = measurements.get(measurement).copied();
                ClauseOutcome {
                    measurement: measurement.clone(),
                    value,
                    range: *range,
                    holds: value.is_some_and(|value| range.contains(value)),
                }
            })
            .collect()
    }

    /// Whether every clause holds. A condition without clauses holds for nothing.
    pub fn holds(&self, measurements: &BTreeMap<String, f64>) -> bool {
        !self.clauses.is_empty()
            && self.clauses.iter().all(|(name, range)| measurements.get(name).is_some_and(|v| range.contains(*v)))
    }

    /// The bounds that do not let these measurements through; an absent measurement fails every bound of its clause.
    pub fn failing_bounds(&self, measurements: &BTreeMap<String, f64>) -> Vec<(&str, Bound)> {
        let mut failing = Vec::new();
        for (name, range) in &self.clauses {
            let value = measurements.get(name).copied();
            for (side, bound) in range.bounds() {
                if !value.is_some_and(|value| within(side, bound, value)) {
                    failing.push((name.as_str(), side));
                }
            }
        }
        failing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> Condition {
        toml::from_str(text).unwrap()
    }

    fn values(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn bounds_are_inclusive_but_for_below() {
        let range = Range { min: Some(1.0), max: Some(2.0), below: None };
        assert!(range.contains(1.0) && range.contains(2.0));
        assert!(!range.contains(0.999) && !range.contains(2.001) && !range.contains(f64::NAN));
        let half_open = Range { min: Some(1.0), max: None, below: Some(2.0) };
        assert!(half_open.contains(1.0) && half_open.contains(1.999) && !half_open.contains(2.0));
        assert!(!Range::default().contains(f64::NAN));
    }

    #[test]
    fn an_absent_measurement_holds_no_clause() {
        let condition = condition("\"a.b\" = { min = 3 }\n\"c.d\" = { max = 0.5, min = 0 }");
        assert!(condition.holds(&values(&[("a.b", 3.0), ("c.d", 0.0)])));
        assert!(!condition.holds(&values(&[("a.b", 3.0)])));
        assert_eq!(condition.failing_bounds(&values(&[("a.b", 3.0)])), [("c.d", Bound::Min), ("c.d", Bound::Max)]);
        assert_eq!(condition.failing_bounds(&values(&[("a.b", 2.0), ("c.d", 0.4)])), [("a.b", Bound::Min)]);
        assert!(!Condition::default().holds(&values(&[("a.b", 3.0)])));
    }

    #[test]
    fn assessment_gives_each_value_with_its_bounds() {
        let outcome = condition("\"a.b\" = { min = 3 }").assess(&values(&[("a.b", 4.0)]));
        assert_eq!(
            serde_json::to_value(outcome).unwrap(),
            serde_json::json!([{ "measurement": "a.b", "value": 4.0, "min": 3.0, "holds": true }])
        );
    }
}
