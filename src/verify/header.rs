//! Headers of weight files, each opened on its own in the format that its first bytes say.

use std::collections::BTreeMap;

use super::magic::ContentKind;
use super::{Check, CheckOutcome, GradedOddity, Look};
use crate::checkpoint::anomaly::{self, AnomalyKind, CODE_ON_LOAD};
use crate::checkpoint::files::{Written, is_weights, is_worth_reading};
use crate::checkpoint::{self, Anomaly, FileSet, pickle, turn};
use crate::examination::Severity;
use crate::report::words;

/// Kinds of anomalies that say something of a file's neighbours, which are not there when it is opened alone.
const OF_NEIGHBOURS: &[AnomalyKind] =
    &[anomaly::MISSING_SHARD, anomaly::MISSING_INDEX, anomaly::MISSING_CONFIG, anomaly::SPLIT_MISMATCH];

/// How grave an anomaly with this word is; what only another version has a word for is `medium`.
pub fn severity(word: &str) -> Severity {
    AnomalyKind::of(word).map_or(Severity::Medium, AnomalyKind::severity)
}

/// Whether an oddity is code that loading would run, in a file that is loaded as a model.
pub fn runs_code(oddity: &GradedOddity) -> bool {
    oddity.anomaly.is(CODE_ON_LOAD) && oddity.severity >= Severity::High
}

/// Whether part of a file could not be read.
pub fn is_unreadable(anomaly: &Anomaly) -> bool {
    [anomaly::UNREADABLE_FILE, anomaly::UNREADABLE_PICKLE].into_iter().any(|kind| anomaly.is(kind))
}

/// An anomaly as an oddity of its file.
pub fn oddity(anomaly: Anomaly) -> GradedOddity {
    // What trainers leave beside a model (optimizer state, arguments) names their own classes, and loading a model does
    // not touch it. Resuming its training does.
    let aside = anomaly.is(CODE_ON_LOAD) && !is_worth_reading(&anomaly.file);
    let severity = if aside && !pickle::only_does_harm(&anomaly) { Severity::Medium } else { severity(&anomaly.kind) };
    GradedOddity { severity, anomaly }
}

/// Reads the header of a weight file.
pub struct HeaderCheck;

impl Check for HeaderCheck {
    fn name(&self) -> &'static str {
        "header"
    }

    fn run(&self, look: &mut Look<'_>) {
        let name = look.item.name.clone();
        let (Some(kind), true) = (look.kind.clone(), is_weights(&name)) else {
            return look.put(self.name(), CheckOutcome::NotApplicable, None, None);
        };
        let ending = match kind {
            ContentKind::Safetensors => Written::Safetensors.ending(),
            ContentKind::Gguf => Written::Gguf.ending(),
            ContentKind::Zip | ContentKind::Pickle => Written::PyTorch.ending(),
            // What is no format of weights has no header, and was told already.
            _ => return look.put(self.name(), CheckOutcome::NotApplicable, None, None),
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
                let is_own = |anomaly: &Anomaly| !OF_NEIGHBOURS.iter().any(|kind| anomaly.is(*kind));
                let named = opened.anomalies.into_iter().filter(is_own).map(|mut anomaly| {
                    anomaly.detail = anomaly.detail.replacen(&plain, &name, 1);
                    anomaly.file.clone_from(&name);
                    anomaly
                });
                look.report.oddities.extend(named.map(oddity));
                let oddities = &look.report.oddities;
                // A file that cannot be read to its end may still have told enough to be called grave.
                let outcome = match oddities.iter().map(|oddity| oddity.severity).max() {
                    Some(Severity::High) => CheckOutcome::Differs,
                    _ if oddities.iter().any(|oddity| is_unreadable(&oddity.anomaly)) => CheckOutcome::Failed,
                    _ => CheckOutcome::Ok,
                };
                let told = match oddities.len() {
                    0 => None,
                    count => Some(words::count(count as u64, "oddity", "oddities")),
                };
                look.put(self.name(), outcome, None, told);
            }
            Err(error) => {
                let reason = error.one_line().replacen(&plain, &name, 1);
                look.put(self.name(), CheckOutcome::Failed, None, Some(reason));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravity_of_a_word_is_its_kinds_also_of_a_former_one() {
        let of =
            ["code-on-load", "gap", "set-aside", "outside-file", "out-of-file", "of-a-later-version"].map(severity);
        assert_eq!(
            of,
            [Severity::High, Severity::Medium, Severity::Low, Severity::High, Severity::High, Severity::Medium]
        );
    }

    #[test]
    fn code_in_a_trainers_leftovers_weighs_less() {
        let of = |file: &str| oddity(Anomaly::new(CODE_ON_LOAD, file, None, ""));
        assert!(runs_code(&of("pytorch_model.bin")) && !runs_code(&of("training_args.bin")));
    }
}
