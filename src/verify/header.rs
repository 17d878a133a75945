//! Headers of weight files, each opened on its own in the format that its first bytes say.

use std::collections::BTreeMap;

use super::magic::Kind;
use super::{Check, Look, Oddity, Outcome};
use crate::checkpoint::files::{Written, is_weights, is_worth_reading};
use crate::checkpoint::{self, Anomaly, FileSet, pickle, turn};
use crate::examination::Severity;
use crate::report::words;

/// The anomaly of a pickle that imports more than rebuilding tensors takes.
const CODE_ON_LOAD: &str = "code-on-load";

/// Kinds of anomalies that say something of a file's neighbours, which are not there when it is opened alone.
const OF_NEIGHBOURS: &[&str] =
    &["missing-shard", "missing-index", "missing-config", "unreadable-shard", "split-mismatch"];

/// How grave each kind of anomaly is for a file that claims to be a model. `high`: two readers may see different weights, or
/// code may run. `medium`: room for bytes that no reader looks at, or tensors that cannot be read. `low`: untidy.
const SEVERITIES: &[(Severity, &[&str])] = &[
    (
        Severity::High,
        &[
            CODE_ON_LOAD,
            "bad-description",
            "bad-index",
            "bad-offsets",
            "bad-shape",
            "duplicate-entry",
            "duplicate-field",
            "duplicate-tensor",
            "encrypted-entry",
            "gguf-in-pytorch",
            "missing-shard",
            "not-in-shard",
            "odd-zip",
            "outside-file",
            "overlap",
            "path-escape",
            "pickle-in-safetensors",
            "shape-overflow",
            "split-mismatch",
            "too-many-pickles",
            "two-pickles",
            "wrong-shard",
            "wrong-size",
            "zip-in-safetensors",
        ],
    ),
    (
        Severity::Low,
        &[
            "adapter-beside-model",
            "compressed-entry",
            "extra-field",
            "missing-config",
            "missing-index",
            "odd-metadata",
            "old-version",
            "set-aside",
            "shard-not-in-index",
            "too-many-keys",
            "total-size",
            "two-models",
        ],
    ),
];

/// How grave an anomaly of this kind is; what is not in the table is `medium`.
pub fn severity(kind: &str) -> Severity {
    let of = SEVERITIES.iter().find(|(_, kinds)| kinds.contains(&kind));
    of.map_or(Severity::Medium, |(severity, _)| *severity)
}

/// Whether an oddity is code that loading would run, in a file that is loaded as a model.
pub fn runs_code(oddity: &Oddity) -> bool {
    oddity.anomaly.kind == CODE_ON_LOAD && oddity.severity >= Severity::High
}

/// Whether part of a file could not be read.
pub fn is_unreadable(anomaly: &Anomaly) -> bool {
    ["unreadable-file", "unreadable-pickle", "unreadable-shard"].contains(&anomaly.kind.as_str())
}

/// An anomaly as an oddity of its file.
pub fn oddity(anomaly: Anomaly) -> Oddity {
    // What trainers leave beside a model (optimizer state, arguments) names their own classes, and loading a model does not
    // touch it. Resuming its training does.
    let aside = anomaly.kind == CODE_ON_LOAD && !is_worth_reading(&anomaly.file);
    let severity = if aside && !pickle::only_does_harm(&anomaly) { Severity::Medium } else { severity(&anomaly.kind) };
    Oddity { severity, anomaly }
}

/// Reads the header of a weight file.
pub struct Header;

impl Check for Header {
    fn name(&self) -> &'static str {
        "header"
    }

    fn run(&self, look: &mut Look<'_>) {
        let name = look.item.name.clone();
        let (Some(kind), true) = (look.kind.clone(), is_weights(&name)) else {
            return look.put(self.name(), Outcome::NotApplicable, None, None);
        };
        let ending = match kind {
            Kind::Safetensors => Written::Safetensors.ending(),
            Kind::Gguf => Written::Gguf.ending(),
            Kind::Zip | Kind::Pickle => Written::PyTorch.ending(),
            // What is no format of weights has no header, and was told already.
            _ => return look.put(self.name(), Outcome::NotApplicable, None, None),
        };
        let Ok(source) = look.source().cloned() else { return };
        // Files are looked at side by side.
        let _turn = turn::Scope::begin();
        // Formats go by names: a file with another one's ending, or a part of several, is opened under a plain one.
        let plain = format!("model.{ending}");
        let files =
            FileSet { label: name.clone(), files: BTreeMap::from([(plain.clone(), source)]), ..FileSet::default() };
        match checkpoint::open(&files) {
            Ok(opened) => {
                let own =
                    opened.anomalies.into_iter().filter(|anomaly| !OF_NEIGHBOURS.contains(&anomaly.kind.as_str()));
                let named = own.map(|anomaly| Anomaly {
                    detail: anomaly.detail.replacen(&plain, &name, 1),
                    file: name.clone(),
                    ..anomaly
                });
                look.report.oddities.extend(named.map(oddity));
                let oddities = &look.report.oddities;
                // A file that cannot be read to its end may still have told enough to be called grave.
                let outcome = match oddities.iter().map(|oddity| oddity.severity).max() {
                    Some(Severity::High) => Outcome::Differs,
                    _ if oddities.iter().any(|oddity| is_unreadable(&oddity.anomaly)) => Outcome::Failed,
                    _ => Outcome::Ok,
                };
                let told = match oddities.len() {
                    0 => None,
                    count => Some(words::count(count as u64, "oddity", "oddities")),
                };
                look.put(self.name(), outcome, None, told);
            }
            Err(error) => {
                let reason = error.one_line().replacen(&plain, &name, 1);
                look.put(self.name(), Outcome::Failed, None, Some(reason));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_severity() {
        let mut seen = std::collections::BTreeSet::new();
        for (_, kinds) in SEVERITIES {
            assert!(kinds.iter().all(|kind| seen.insert(*kind)));
        }
        assert_eq!(severity("code-on-load"), Severity::High);
        assert_eq!(severity("gap"), Severity::Medium);
        assert_eq!(severity("set-aside"), Severity::Low);
    }

    #[test]
    fn code_in_a_trainers_leftovers_weighs_less() {
        let of = |file: &str| {
            oddity(Anomaly {
                kind: CODE_ON_LOAD.to_owned(),
                file: file.to_owned(),
                tensor: None,
                detail: String::new(),
            })
        };
        assert!(runs_code(&of("pytorch_model.bin")) && !runs_code(&of("training_args.bin")));
    }
}
