//! Contents by their hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::bundle::Statement;
use super::hash::{Algorithm, Hash, hash};
use super::reference::Expected;
use super::{Check, CheckOutcome, Look, Reference, SubjectContent};

/// Hashes a file, once in each way that somebody stated, and holds it to every statement.
pub struct ContentsCheck;

impl Check for ContentsCheck {
    fn name(&self) -> &'static str {
        "digest"
    }

    fn run(&self, look: &mut Look<'_>) {
        let stated: Vec<(&Reference, Vec<Expected>)> = look
            .expected
            .iter()
            .map(|(reference, all)| (*reference, all.iter().filter(|one| one.hash.is_some()).cloned().collect()))
            .filter(|(_, all): &(_, Vec<Expected>)| !all.is_empty())
            .collect();
        if stated.is_empty() {
            return look.put(self.name(), CheckOutcome::NotApplicable, None, None);
        }
        if !look.item.is_here() {
            return self.unhashed(look, &stated);
        }
        let source = match look.source() {
            Ok(source) => source.clone(),
            Err(reason) => {
                let outcome = match look.item.content {
                    SubjectContent::Wrong(_) => CheckOutcome::Differs,
                    _ => CheckOutcome::Failed,
                };
                return look.put(self.name(), outcome, None, Some(reason));
            }
        };
        let watch = look.watch;
        let mut ranges: BTreeMap<(u64, u64), BTreeSet<Algorithm>> = BTreeMap::new();
        for one in stated.iter().flat_map(|(_, all)| all) {
            let Some(hash) = &one.hash else { continue };
            let range = one.range.clone().unwrap_or(0..source.len());
            // Parts beyond the end are told below, and cannot be read.
            if range.end <= source.len() {
                ranges.entry((range.start, range.end)).or_default().insert(hash.algorithm);
            }
        }
        let mut found: BTreeMap<(u64, u64, Algorithm), Hash> = BTreeMap::new();
        for ((start, end), algorithms) in ranges {
            match hash(source.as_ref(), start..end, &algorithms, &|bytes| watch.hashed(bytes)) {
                Ok(hashes) => found.extend(hashes.into_iter().map(|(algorithm, hash)| ((start, end, algorithm), hash))),
                Err(error) => return look.put(self.name(), CheckOutcome::Failed, None, Some(error.one_line())),
            }
        }
        look.report.sha256 = found.get(&(0, source.len(), Algorithm::Sha256)).and_then(Hash::sha256);
        for (reference, all) in stated {
            let differs = disagreement(&all, source.len(), &found);
            let outcome = if differs.is_some() { CheckOutcome::Differs } else { CheckOutcome::Ok };
            let of = look.item.cached.then(|| "of the copy in the cache, not of what the hub serves now".to_owned());
            look.put(self.name(), outcome, Some(reference.name.clone()), differs.or(of));
        }
    }
}

/// What is not as stated, if anything.
fn disagreement(all: &[Expected], length: u64, found: &BTreeMap<(u64, u64, Algorithm), Hash>) -> Option<String> {
    let parts: Vec<&Expected> = all.iter().filter(|one| one.range.is_some()).collect();
    if !parts.is_empty() {
        let resources: Vec<_> = parts.iter().filter_map(|part| part.resource()).collect();
        match Statement::covered(&resources) {
            Some(end) if end == length => {}
            Some(end) => return Some(format!("it has {length} bytes where the parts stated end at {end}")),
            None => return Some("the parts stated of it do not cover it".to_owned()),
        }
    }
    all.iter().find_map(|one| {
        let expected = one.hash.as_ref()?;
        let Range { start, end } = one.range.clone().unwrap_or(0..length);
        let actual = found.get(&(start, end, expected.algorithm))?;
        let what = if one.range.is_some() { format!("bytes {start} to {end} are") } else { "it is".to_owned() };
        (actual != expected).then(|| format!("{what} {actual} where {expected} is stated"))
    })
}

impl ContentsCheck {
    /// A file whose bytes are elsewhere: its statements are held against each other, and it is called unchecked at
    /// best.
    fn unhashed(&self, look: &mut Look<'_>, stated: &[(&Reference, Vec<Expected>)]) {
        let whole = |all: &[Expected]| -> BTreeMap<Algorithm, Hash> {
            let hashes = all.iter().filter(|one| one.range.is_none()).filter_map(|one| one.hash.clone());
            hashes.map(|hash| (hash.algorithm, hash)).collect()
        };
        for (at, (reference, all)) in stated.iter().enumerate() {
            let mine = whole(all);
            let contradicts = stated.iter().take(at).find_map(|(other, theirs)| {
                let theirs = whole(theirs);
                let (algorithm, hash) = mine.iter().find(|(a, hash)| theirs.get(a).is_some_and(|one| one != *hash))?;
                let listed = theirs.get(algorithm)?;
                Some(format!("{} states {listed} and {} {hash}", other.name, reference.name))
            });
            let (outcome, detail) = match contradicts {
                Some(detail) => (CheckOutcome::Differs, detail),
                None => (CheckOutcome::NotChecked, "contents not hashed (--download hashes them)".to_owned()),
            };
            look.put(self.name(), outcome, Some(reference.name.clone()), Some(detail));
        }
    }
}
