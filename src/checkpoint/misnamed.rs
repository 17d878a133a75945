//! Weight files whose ending promises another format than their first bytes are: opened as what they are, and told.

use std::collections::BTreeMap;

use super::collect::shown;
use super::disguise::by_content;
use super::files::{Written, is_weights};
use super::{Anomaly, Checkpoint, FORMATS, FileSet, TensorEntry, anomaly};
use crate::error::{Error, Result};

/// Opens a set that could not be opened by its files' names once more by their content; the first error where that does
/// not help. Asked only then, so that files with honest names cost no request.
pub(super) fn reopen(named: &str, files: &FileSet, error: Error) -> Result<Checkpoint> {
    let mut misnamed: BTreeMap<&'static str, Vec<&String>> = BTreeMap::new();
    let weights = files.files.iter().filter(|(name, _)| is_weights(name));
    for (name, source) in weights.take(crate::limits::MAX_FILES) {
        if let Some(content) = by_content(source.as_ref())
            && named != content.format()
        {
            misnamed.entry(content.format()).or_default().push(name);
        }
    }
    let model = Written::ALL.iter().any(|one| one.format() == named);
    // Where misnamed files are of several formats, the first is taken.
    let first = Written::ALL.into_iter().filter(|_| model).find(|one| misnamed.contains_key(one.format()));
    let Some(first) = first else { return Err(error) };
    let (format, ending) = (first.format(), first.ending());
    let mine = misnamed.remove(format).unwrap_or_default();
    let renamed = |name: &String| if mine.contains(&name) { format!("{name}.{ending}") } else { name.clone() };
    let kept = |name: &String| mine.contains(&name) || !is_weights(name);
    let set = FileSet {
        label: files.label.clone(),
        files: files.files.iter().filter(|(name, _)| kept(name)).map(|(n, s)| (renamed(n), s.clone())).collect(),
        digests: files.digests.iter().filter(|(name, _)| kept(name)).map(|(n, d)| (renamed(n), *d)).collect(),
        refused: files.refused.clone(),
    };
    let Some(reader) = FORMATS.iter().find(|reader| reader.name() == format) else { return Err(error) };
    // What it is by content is the better reason, should it not open as that either.
    let mut checkpoint = reader.open(&set)?;
    let original = |name: &str| mine.iter().find(|mine| name == format!("{mine}.{ending}")).map(|mine| (*mine).clone());
    for file in &mut checkpoint.files {
        file.name = original(&file.name).unwrap_or_else(|| file.name.clone());
    }
    for anomaly in &mut checkpoint.anomalies {
        anomaly.file = original(&anomaly.file).unwrap_or_else(|| anomaly.file.clone());
    }
    let told = mine.iter().map(|name| {
        let detail = format!("by its content it is {format}, whatever its name ends in");
        Anomaly::new(anomaly::MISNAMED_FILE, shown(name), None, detail)
    });
    checkpoint.anomalies.extend(told);
    checkpoint.anomalies.sort();
    for name in files.files.keys().filter(|name| !kept(name)) {
        let reason = format!("it is not {named}, as its name says, and not {format}, as files beside it are");
        let entry = TensorEntry::unreadable(name.clone(), reason);
        checkpoint.tensors.entry(name.clone()).or_insert(entry);
    }
    Ok(checkpoint)
}
