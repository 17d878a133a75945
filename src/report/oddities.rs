//! Oddities of files as people are told them: those of one kind in one file once, with a count. Records keep each.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::sanitise;
use crate::checkpoint::Anomaly;

/// Tensors that are named of those after the first.
const NAMED: usize = 3;

/// The oddities of one kind in one file.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupedOddity<'a> {
    /// The first of them, which stands for all.
    pub first: &'a Anomaly,
    /// The others.
    pub others: Vec<&'a Anomaly>,
}

/// Oddities by kind and file, in the order of the first of each.
pub fn grouped<'a>(all: impl IntoIterator<Item = &'a Anomaly>) -> Vec<GroupedOddity<'a>> {
    let mut groups: Vec<GroupedOddity<'a>> = Vec::new();
    let mut places = BTreeMap::new();
    for anomaly in all {
        match places.entry((anomaly.kind.as_str(), anomaly.file.as_str())) {
            Entry::Vacant(place) => {
                place.insert(groups.len());
                groups.push(GroupedOddity { first: anomaly, others: Vec::new() });
            }
            Entry::Occupied(place) => groups[*place.get()].others.push(anomaly),
        }
    }
    groups
}

/// Each oddity by itself, for those who ask for all.
pub fn single<'a>(all: impl IntoIterator<Item = &'a Anomaly>) -> Vec<GroupedOddity<'a>> {
    all.into_iter().map(|first| GroupedOddity { first, others: Vec::new() }).collect()
}

impl GroupedOddity<'_> {
    /// The kind, fit to print.
    pub fn kind(&self) -> String {
        sanitise::name(&self.first.kind)
    }

    /// The file, fit to print.
    pub fn file(&self) -> String {
        sanitise::name(&self.first.file)
    }

    /// `, tensor NAME` of the first, or nothing.
    pub fn tensor(&self) -> String {
        self.first.tensor.as_deref().map(|name| format!(", tensor {}", sanitise::name(name))).unwrap_or_default()
    }

    /// What the first says, how many more there are, and the tensors of a few of those.
    pub fn detail(&self) -> String {
        let mut told = sanitise::sentence(&self.first.detail);
        if !self.others.is_empty() {
            let tensors = self.others.iter().filter_map(|other| other.tensor.as_deref());
            let names: Vec<String> = tensors.take(NAMED).map(sanitise::name).collect();
            let more = if self.others.len() > names.len() { ", …" } else { "" };
            let of = if names.is_empty() { String::new() } else { format!(" ({}{more})", names.join(", ")) };
            told.push_str(&format!("; {} more of this kind{of}", self.others.len()));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anomaly(kind: &str, file: &str, tensor: Option<&str>, detail: &str) -> Anomaly {
        Anomaly {
            kind: kind.to_owned(),
            file: file.to_owned(),
            tensor: tensor.map(str::to_owned),
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn oddities_of_one_kind_in_one_file_are_told_once_with_a_count() {
        let cut: Vec<Anomaly> =
            (0..183).map(|at| anomaly("outside-file", "a", Some(&format!("t{at}")), "ends")).collect();
        let mut all = cut.clone();
        all.insert(1, anomaly("outside-file", "b", None, "other"));
        all.push(anomaly("gap", "a", Some("t0"), "8 bytes"));
        let groups = grouped(&all);
        let lines: Vec<String> = groups
            .iter()
            .map(|one| format!("{}: {}{}: {}", one.kind(), one.file(), one.tensor(), one.detail()))
            .collect();
        assert_eq!(
            lines,
            [
                "outside-file: a, tensor t0: ends; 182 more of this kind (t1, t2, t3, …)",
                "outside-file: b: other",
                "gap: a, tensor t0: 8 bytes"
            ]
        );
        assert_eq!(grouped(&cut[..3])[0].detail(), "ends; 2 more of this kind (t1, t2)");
        assert_eq!(single(&all).len(), 185);
        let imports = [anomaly("code-on-load", "a", None, "x"), anomaly("code-on-load", "a", None, "y")];
        assert_eq!(grouped(&imports)[0].detail(), "x; 1 more of this kind");
    }
}
