//! What concerns several files of one checkpoint: parts that an index or their numbers promise, and tensors where they
//! should be.

use std::collections::{BTreeMap, BTreeSet};

use super::header::{is_unreadable, oddity};
use super::{CheckOutcome, Checked, FileReport, GradedOddity, Subject};
use crate::checkpoint::files::is_weights;
use crate::checkpoint::{Anomaly, Checkpoint, FileSet, anomaly, variants};
use crate::examination::Severity;
use crate::limits::MAX_JSON_BYTES;
use crate::report::words;

const CHECK: &str = "index";

/// Opens every checkpoint of the files as a whole, and tells what its parts alone did not.
pub fn check(subject: &Subject, reports: &BTreeMap<String, FileReport>) -> (Vec<Checked>, Vec<GradedOddity>) {
    let mut checks = Vec::new();
    let mut oddities = BTreeSet::new();
    if subject.single {
        return (checks, Vec::new());
    }
    let files = weights(subject);
    for variant in variants::of_files(&files) {
        let narrow = variant.narrow(&files);
        let indexed = narrow.files.keys().any(|name| is_index(name));
        // One part of several, with the others missing, is told by its number.
        let numbered = variant.files.iter().any(|name| name.contains("-of-"));
        if variant.files.len() < 2 && !indexed && !numbered {
            continue;
        }
        let mut put = |outcome, detail: String| {
            let against = Some(variant.name.clone());
            checks.push(Checked { check: CHECK, outcome, against, detail: Some(detail) });
        };
        let opened = match variant.open(&files) {
            Ok(opened) => opened,
            Err(error) => {
                put(CheckOutcome::Failed, error.one_line());
                continue;
            }
        };
        let mut found: Vec<GradedOddity> =
            opened.anomalies.iter().filter(|anomaly| !is_told(reports, anomaly)).cloned().map(oddity).collect();
        found.extend(total_size(&narrow, &opened).map(oddity));
        let grave = found.iter().filter(|oddity| oddity.severity >= Severity::High).count();
        let summary = format!(
            "{} in {}",
            words::count(opened.tensors.len() as u64, "tensor", "tensors"),
            words::count(variant.files.len() as u64, "file", "files")
        );
        match grave {
            0 if opened.anomalies.iter().any(is_unreadable) => {
                put(CheckOutcome::Failed, format!("{summary}, of which some cannot be read"));
            }
            0 => put(CheckOutcome::Ok, summary),
            _ => put(CheckOutcome::Differs, format!("{summary}; {grave} of its oddities grave")),
        }
        oddities.extend(found);
    }
    (checks, oddities.into_iter().collect())
}

fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

/// Weights and shard indexes that can be read.
fn weights(subject: &Subject) -> FileSet {
    let wanted = subject.items.iter().filter(|(name, _)| is_weights(name) || is_index(name));
    let files = wanted.filter_map(|(name, item)| Some((name.clone(), item.source().ok()?))).collect();
    FileSet { label: subject.label.clone(), files, ..FileSet::default() }
}

/// Whether the look at the file alone told the same already: the oddity itself, or that its header cannot be read.
fn is_told(reports: &BTreeMap<String, FileReport>, anomaly: &Anomaly) -> bool {
    let Some(report) = reports.get(&anomaly.file) else { return false };
    (is_unreadable(anomaly) && report.gravest() >= CheckOutcome::Failed)
        || report.oddities.iter().any(|told| told.anomaly == *anomaly)
}

/// The length that the index states of all tensors together, where it is another.
fn total_size(files: &FileSet, opened: &Checkpoint) -> Option<Anomaly> {
    let (name, source) = files.files.iter().find(|(name, _)| is_index(name))?;
    if source.len() > MAX_JSON_BYTES {
        return None;
    }
    // Of an index of many megabytes one number is kept.
    #[derive(serde::Deserialize)]
    struct Whole {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        total_size: serde_json::Number,
    }
    let whole: Whole = serde_json::from_slice(&source.read(0..source.len()).ok()?).ok()?;
    // Some writers give a whole number as a float.
    let total = whole.metadata.total_size;
    let stated = total.as_u64().or_else(|| total.as_f64().map(|number| number as u64))?;
    let actual = opened.bytes();
    (stated != actual).then(|| {
        let detail = format!("it states {stated} bytes of tensors where there are {actual}");
        Anomaly::new(anomaly::TOTAL_SIZE, name, None, detail)
    })
}
