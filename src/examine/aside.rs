//! Weight files beside a model that are part of no checkpoint: what a trainer leaves, companions of a GGUF model, forms
//! that are not read. Each is opened as far as it can be, since a name proves nothing.

use std::collections::BTreeSet;

use crate::arch::{self, ParameterKey};
use crate::checkpoint::anomaly::CODE_ON_LOAD;
use crate::checkpoint::variants::{Other, Variant};
use crate::checkpoint::{Anomaly, Checkpoint, FileSet, pickle};
use crate::source::ByteSource;

/// What such a file turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aside {
    /// Nothing of the model, and why.
    Stranger(String),
    /// A checkpoint with tensors of the model, to be examined like any other.
    Model(Box<Variant>),
    /// Not known, and why: it may hold anything.
    Unknown(String),
}

/// What GGUF files that go with a model call themselves in `general.architecture` or `general.type`.
const COMPANIONS: &[&str] = &["clip", "mmproj", "imatrix", "controlvector", "control_vector"];

/// Looks into one of the other files of a set. Oddities of it (code that loading it would run among them) come beside
/// the answer.
pub fn look(base: &Checkpoint, files: &FileSet, other: &Other) -> (Aside, Vec<Anomaly>) {
    let what = other.what;
    let variant = Variant::alone(files, &other.name).filter(|_| other.is_readable);
    let Some(variant) = variant else {
        return (Aside::Unknown(format!("{what}, which is not read")), imports(files, &[&other.name]));
    };
    let opened = match variant.open(files) {
        Ok(opened) => opened,
        Err(error) => {
            let why = format!("{what} by its name, and cannot be read: {}", error.one_line());
            return (Aside::Unknown(why), imports(files, &[&other.name]));
        }
    };
    let says = |key: &str| opened.metadata.get(key).is_some_and(|value| COMPANIONS.contains(&value.as_str()));
    let aside = if says("general.architecture") || says("general.type") {
        Aside::Stranger(what.to_owned())
    } else if shares_tensors(base, &opened) {
        Aside::Model(Box::new(variant))
    } else if opened.tensors.values().any(|entry| entry.is_unreadable()) {
        Aside::Unknown(format!("{what} by its name; some of its tensors cannot be read"))
    } else if opened.tensors.keys().any(|name| name.to_ascii_lowercase().contains("lora")) {
        Aside::Unknown("factors of an adapter under a name that is not one".to_owned())
    } else {
        Aside::Stranger(format!("{what}: none of its {} tensors is one of the model's", opened.tensors.len()))
    };
    let mut anomalies = opened.anomalies;
    if matches!(aside, Aside::Stranger(_)) {
        // What a trainer leaves names its own classes; loading the model does not touch it.
        anomalies.retain(|anomaly| anomaly.is(CODE_ON_LOAD) && pickle::only_does_harm(anomaly));
    }
    (aside, anomalies)
}

/// What loading files that could not be opened as checkpoints would import, where they begin as pickles or archives do.
pub fn imports(files: &FileSet, names: &[&str]) -> Vec<Anomaly> {
    let begins = |source: &dyn ByteSource| {
        let first = source.read(0..source.len().min(4)).unwrap_or_default();
        first.starts_with(b"PK\x03\x04") || first.starts_with(b"\x80")
    };
    let found =
        names.iter().filter_map(|name| files.files.get_key_value(*name)).filter(|(_, source)| begins(source.as_ref()));
    found
        .flat_map(|(name, source)| pickle::imports_of(source.as_ref(), name))
        .filter(|anomaly| anomaly.is(CODE_ON_LOAD))
        .collect()
}

/// Whether any tensor of the other checkpoint has a name and a size of one of the base's.
fn shares_tensors(base: &Checkpoint, other: &Checkpoint) -> bool {
    let resolved = arch::resolve_checkpoint(base);
    let keys: BTreeSet<(ParameterKey, u64)> =
        base.tensors.values().map(|entry| (resolved.part(&entry.name, &entry.shape).key, entry.elements())).collect();
    let resolved = arch::resolve_as(other, &resolved);
    other.tensors.values().any(|entry| keys.contains(&(resolved.part(&entry.name, &entry.shape).key, entry.elements())))
}
