//! Detection and false-positive rates on labelled pairs, with exact intervals.
//!
//! A label file is a JSON list of `{case, path, base, label}` with paths relative to the file; `label` is
//! `orthogonalized` (then optionally `lambda`: module to true λ per layer) or an honest relation, and no other word: a
//! misspelt one would count a detection as a false positive. Cases that cannot be examined are counted apart and enter
//! no rate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::folder;
use crate::diff::{DiffObserver, Unobserved};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, RELATIONS, Relation, Status, Verdict};
use crate::examine::sides::Named;
use crate::examine::{self, ExaminationContext};
use crate::limits::MAX_JSON_BYTES;
use crate::profile::names::{self, Measurement};
use crate::report::rates::exact;
use crate::signature::Catalogue;

/// One labelled pair. Keys that are not listed here are left alone: label files carry notes of their own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Labelled {
    /// Its name in the report.
    pub case: String,
    /// The candidate, relative to the label file.
    pub path: PathBuf,
    /// The base, relative to the label file.
    pub base: PathBuf,
    /// What it is.
    pub label: Label,
    /// True λ by module and layer, where known.
    #[serde(default)]
    pub lambda: BTreeMap<String, Vec<f64>>,
}

/// What a labelled candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// A direction was removed from it.
    Orthogonalized,
    /// It is honest, and this to its base.
    Honest(Relation),
}

impl Label {
    /// Its word in label files and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orthogonalized => "orthogonalized",
            Self::Honest(relation) => relation.as_str(),
        }
    }

    /// Every label there is.
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Orthogonalized).chain(RELATIONS.map(Self::Honest))
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Self::all().find(|label| label.as_str() == word).ok_or_else(|| {
            let words: Vec<&str> = Self::all().map(Self::as_str).collect();
            serde::de::Error::custom(format!("no label is called {word:?}; there are {}", words.join(", ")))
        })
    }
}

impl Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An estimate of λ within this of the truth counts as right, and beyond twice this as wrong.
const LAMBDA_TOLERANCE: f64 = 0.05;

/// A proportion with its exact (Clopper-Pearson) 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ExactRate {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// Their ratio; of nothing there is none.
    pub rate: Option<f64>,
    /// The interval.
    pub interval: Option<[f64; 2]>,
}

impl ExactRate {
    /// `count` of `of`.
    pub fn new(count: u64, of: u64) -> Self {
        let rate = (of > 0).then(|| exact(count, of));
        Self { count, of, rate: rate.map(|rate| rate.share), interval: rate.map(|rate| [rate.low, rate.high]) }
    }
}

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// Its name.
    pub case: String,
    /// Its label.
    pub label: Label,
    /// The candidate's format.
    #[serde(rename = "form")]
    pub format: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The relation found.
    pub relation: Relation,
    /// The statistic that decides; see [`statistic`].
    pub statistic: f64,
    /// Whether all was examined.
    pub status: Status,
    /// Why not, where not.
    pub reason: Option<String>,
    /// (true, estimated) λ, where the truth is known.
    pub lambda: Vec<[f64; 2]>,
    /// Whether the change holds nothing but the edit: no later training, no quantisation (as measured).
    pub pure: bool,
}

/// Errors of λ̂.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LambdaErrors {
    /// (layer, module) entries.
    pub entries: u64,
    /// Within 0.05 of the truth.
    pub within: ExactRate,
    /// The largest error.
    pub largest: f64,
    /// Root of the mean square.
    pub root_mean_square: f64,
}

impl Case {
    /// Whether it was examined: what could not be read is neither found nor missed, neither called nor let pass.
    pub fn is_examined(&self) -> bool {
        self.status != Status::Failed
    }

    /// Whether a direction was removed from it.
    pub fn is_positive(&self) -> bool {
        self.label == Label::Orthogonalized
    }
}

/// The whole evaluation. Every rate is over the cases that could be examined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Orthogonalized cases that were found.
    pub detection: ExactRate,
    /// Honest cases that were called orthogonalized.
    pub false_positives: ExactRate,
    /// Honest cases that were called suspect.
    pub suspects: ExactRate,
    /// Smallest false-positive bound that so many honest cases allow: 1/(N + 1).
    pub smallest_bound: f64,
    /// Detection (or false-positive) rate by label.
    pub by_label: BTreeMap<Label, ExactRate>,
    /// Detection rate and false-positive rate by the candidate's format.
    #[serde(rename = "by_form")]
    pub by_format: BTreeMap<String, [ExactRate; 2]>,
    /// Area under the ROC curve of the deciding statistic; none without cases of both kinds.
    pub auroc: Option<f64>,
    /// λ̂ where the change holds nothing but the edit, and everywhere.
    pub lambda_pure: Option<LambdaErrors>,
    /// λ̂ everywhere.
    pub lambda_all: Option<LambdaErrors>,
    /// Honest labels against relations found: label, relation, how many.
    pub relations: BTreeMap<Label, BTreeMap<&'static str, u64>>,
    /// Honest cases whose relation is their label.
    pub relations_right: ExactRate,
    /// Cases that could not be examined.
    pub failed: u64,
    /// Every case.
    pub cases: Vec<Case>,
}

/// Reads a label file.
pub fn read_labels(path: &Path) -> Result<Vec<Labelled>> {
    let doing = || format!("reading labels of {}", path.display());
    let length = std::fs::metadata(path).map_err(|e| Error::io(doing(), e))?.len();
    if length > MAX_JSON_BYTES {
        return Err(Error::new(ErrorKind::TooLarge, doing()));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(doing(), e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::because(ErrorKind::Usage, doing(), e))
}

/// Compares every labelled pair. `formats` keeps the cases of those only; empty keeps all. `watch` is told the
/// number done after each case.
pub fn evaluate(
    folder: &Path,
    labels: &[Labelled],
    formats: &[String],
    catalogue: &Catalogue,
    observer: &dyn DiffObserver,
) -> Evaluation {
    let mut cases = Vec::new();
    for (done, labelled) in labels.iter().enumerate() {
        observer.progress(done as u64, labels.len() as u64);
        let format = format_of(&folder.join(&labelled.path));
        if formats.is_empty() || formats.contains(&format) {
            cases.push(case(folder, labelled, format, catalogue));
        }
    }
    summarize(cases)
}

/// The format a candidate is published in, by what opens it.
fn format_of(path: &Path) -> String {
    folder::open_path(path).map_or_else(|_| "unreadable".to_owned(), |checkpoint| checkpoint.format.to_owned())
}

fn case(folder: &Path, labelled: &Labelled, format: String, catalogue: &Catalogue) -> Case {
    let settings = ExaminationContext { catalogue, digests: false, claim: None, observer: &Unobserved };
    let named = |path: &Path| Named::local(path.display().to_string());
    let (base_path, path) = (folder.join(&labelled.base), folder.join(&labelled.path));
    let (base_name, name) = (named(&labelled.base), named(&labelled.path));
    let opened = folder::open_path(&base_path).and_then(|base| Ok((base, folder::open_path(&path)?)));
    let examination = match opened {
        Ok((base, candidate)) => examine::compare((&base, &base_name), (&candidate, &name), &settings),
        Err(error) => examine::folder::failed(&base_name, &name, &error, &settings),
    };
    Case {
        case: labelled.case.clone(),
        label: labelled.label,
        format,
        verdict: examination.verdict,
        relation: examination.relation,
        statistic: statistic(&examination),
        status: examination.status,
        reason: examination.reason.clone(),
        lambda: lambdas(labelled, &examination),
        pure: is_pure(&examination),
    }
}

/// The number that AUROC is taken of: the median projection consistency of the writers (or readers) that fit, plus one
/// where they fit in two layers or more; where none fits, that of all changed writers as it is.
pub fn statistic(examination: &Examination) -> f64 {
    let Some(profile) = &examination.profile else { return 0.0 };
    let number = |measurement| profile.number(measurement).unwrap_or(0.0);
    let side = |layers: Measurement, consistency: Measurement| {
        let agreeing = if number(layers) >= 2.0 { 1.0 } else { 0.0 };
        if number(layers) > 0.0 { agreeing + number(consistency) } else { 0.0 }
    };
    side(names::PROJECTION_LAYERS, names::PROJECTION_CONSISTENCY)
        .max(side(names::READER_PROJECTION_LAYERS, names::READER_PROJECTION_CONSISTENCY))
        .max(number(names::PROJECTION_CONSISTENCY_ALL))
}

/// Whether what is left of the change without the edit is no more than storing in the candidate's dtype leaves.
fn is_pure(examination: &Examination) -> bool {
    let Some(profile) = &examination.profile else { return false };
    profile.tensors.iter().filter(|tensor| tensor.shape[0] > 1 && tensor.projection.is_some()).all(|tensor| {
        let left = tensor.projection.as_ref().map_or(0.0, |p| 1.0 - p.explained) * tensor.relative_norm.powi(2);
        let several = tensor.projection.as_ref().is_some_and(|p| p.directions > 1);
        several || left.sqrt() <= (3.0 * tensor.rounding).max(0.12 * tensor.relative_norm)
    })
}

/// (true, estimated) λ for every layer and module whose truth is known. A label names a module as the model's own
/// tensors do (`attn.c_proj`) or by its canonical name (`o_proj`).
fn lambdas(labelled: &Labelled, examination: &Examination) -> Vec<[f64; 2]> {
    let strengths =
        examination.orthogonalization.as_ref().map(|evidence| evidence.strength.as_slice()).unwrap_or_default();
    let tensors = examination.profile.as_ref().map(|profile| profile.tensors.as_slice()).unwrap_or_default();
    let mut pairs = Vec::new();
    for (module, layers) in &labelled.lambda {
        let inside = format!(".{module}.");
        let canonical = tensors
            .iter()
            .find(|tensor| tensor.role.layer.is_some() && tensor.name.contains(&inside) && tensor.shape[0] > 1)
            .map_or(module, |tensor| &tensor.role.module);
        for (layer, truth) in layers.iter().enumerate() {
            let here = |role: &crate::arch::Role| role.module == *canonical && role.layer == Some(layer as u32);
            // What was not compared has no λ; what was compared and shows none has 0.
            if !tensors.iter().any(|tensor| here(&tensor.role)) {
                continue;
            }
            let found: Vec<f64> = strengths
                .iter()
                .filter(|strength| strength.module == *canonical && strength.layer as usize == layer)
                .map(|strength| strength.lambda)
                .collect();
            let mean = if found.is_empty() { 0.0 } else { found.iter().sum::<f64>() / found.len() as f64 };
            pairs.push([*truth, mean]);
        }
    }
    pairs
}

fn summarize(cases: Vec<Case>) -> Evaluation {
    let examined: Vec<&Case> = cases.iter().filter(|case| case.is_examined()).collect();
    let count = |keep: &dyn Fn(&Case) -> bool| examined.iter().filter(|case| keep(case)).count() as u64;
    let found = |case: &Case| case.verdict == Verdict::Orthogonalized;
    let rate = |of: &dyn Fn(&Case) -> bool| ExactRate::new(count(&|case| of(case) && found(case)), count(of));
    let mut by_label: BTreeMap<Label, ExactRate> = BTreeMap::new();
    let mut by_format: BTreeMap<String, [ExactRate; 2]> = BTreeMap::new();
    let mut relations: BTreeMap<Label, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for case in &examined {
        by_label.entry(case.label).or_insert_with(|| rate(&|other| other.label == case.label));
        by_format.entry(case.format.clone()).or_insert_with(|| {
            [
                rate(&|other| other.format == case.format && other.is_positive()),
                rate(&|other| other.format == case.format && !other.is_positive()),
            ]
        });
        if !case.is_positive() {
            *relations.entry(case.label).or_default().entry(case.relation.as_str()).or_default() += 1;
        }
    }
    let honest = count(&|case| !case.is_positive());
    Evaluation {
        detection: rate(&Case::is_positive),
        false_positives: rate(&|case| !case.is_positive()),
        suspects: ExactRate::new(count(&|case| !case.is_positive() && case.verdict == Verdict::Suspect), honest),
        smallest_bound: 1.0 / (honest as f64 + 1.0),
        by_label,
        by_format,
        auroc: auroc(&examined),
        lambda_pure: lambda_errors(examined.iter().filter(|case| case.pure)),
        lambda_all: lambda_errors(examined.iter()),
        relations_right: ExactRate::new(count(&|case| case.label == Label::Honest(case.relation)), honest),
        relations,
        failed: (cases.len() - examined.len()) as u64,
        cases,
    }
}

/// Probability that an orthogonalized case has the larger statistic than an honest one; ties count half.
fn auroc(cases: &[&Case]) -> Option<f64> {
    let (mut total, mut pairs) = (0.0, 0.0);
    for positive in cases.iter().filter(|case| case.is_positive()) {
        for honest in cases.iter().filter(|case| !case.is_positive()) {
            pairs += 1.0;
            total += match positive.statistic.total_cmp(&honest.statistic) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    (pairs > 0.0).then(|| total / pairs)
}

fn lambda_errors<'c>(cases: impl Iterator<Item = &'c &'c Case>) -> Option<LambdaErrors> {
    let errors: Vec<f64> =
        cases.flat_map(|case| case.lambda.iter().map(|[truth, found]| (truth - found).abs())).collect();
    (!errors.is_empty()).then(|| LambdaErrors {
        entries: errors.len() as u64,
        within: ExactRate::new(
            errors.iter().filter(|error| **error <= LAMBDA_TOLERANCE).count() as u64,
            errors.len() as u64,
        ),
        largest: errors.iter().copied().fold(0.0, f64::max),
        root_mean_square: (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(label: Label, statistic: f64) -> Case {
        Case {
            case: String::new(),
            label,
            format: "safetensors".to_owned(),
            verdict: Verdict::Clear,
            relation: Relation::FineTuned,
            statistic,
            status: Status::Complete,
            reason: None,
            lambda: Vec::new(),
            pure: true,
        }
    }

    const TUNED: Label = Label::Honest(Relation::FineTuned);

    #[test]
    fn exact_intervals_agree_with_published_ones() {
        // Clopper and Pearson's own example, and the rule of three.
        let interval = |count, of| ExactRate::new(count, of).interval.expect("of some");
        let [low, high] = interval(4, 10);
        assert!((low - 0.1216).abs() < 1e-4 && (high - 0.7376).abs() < 1e-4, "{low} {high}");
        let [low, high] = interval(0, 60);
        assert_eq!(low, 0.0);
        assert!((high - (1.0 - 0.025f64.powf(1.0 / 60.0))).abs() < 1e-9);
        assert_eq!(interval(5, 5)[1], 1.0);
        assert_eq!((ExactRate::new(0, 0).rate, ExactRate::new(0, 0).interval), (None, None));
    }

    #[test]
    fn the_area_under_the_curve_counts_ties_half() {
        let cases =
            [case(Label::Orthogonalized, 2.0), case(Label::Orthogonalized, 1.0), case(TUNED, 1.0), case(TUNED, 0.0)];
        let all: Vec<&Case> = cases.iter().collect();
        assert_eq!(auroc(&all), Some((1.0 + 1.0 + 0.5 + 1.0) / 4.0));
        assert_eq!(auroc(&all[2..]), None);
        assert_eq!(auroc(&all[..2]), None);
    }

    #[test]
    fn what_could_not_be_examined_enters_no_rate() {
        let unreadable = |label: Label| Case {
            status: Status::Failed,
            verdict: Verdict::Inconclusive,
            relation: Relation::Incomparable,
            lambda: vec![[1.2, 0.0]],
            format: "unreadable".to_owned(),
            ..case(label, 0.0)
        };
        let found = Case { verdict: Verdict::Orthogonalized, ..case(Label::Orthogonalized, 2.0) };
        let all = summarize(vec![found, case(TUNED, 0.0), unreadable(Label::Orthogonalized), unreadable(TUNED)]);
        assert_eq!((all.failed, all.detection.of, all.false_positives.of, all.relations_right.of), (2, 1, 1, 1));
        assert_eq!((all.auroc, all.lambda_all), (Some(1.0), None));
        assert_eq!(all.by_format.keys().collect::<Vec<_>>(), ["safetensors"]);
        let none = summarize(vec![unreadable(TUNED)]);
        let json = serde_json::to_value(&none).expect("plain data");
        assert!(json["detection"]["rate"].is_null() && json["false_positives"]["interval"].is_null(), "{json}");
        assert!(json["auroc"].is_null());
    }

    #[test]
    fn labels_are_a_closed_set() {
        let read = |label: &str| {
            serde_json::from_value::<Labelled>(
                serde_json::json!({"case": "c", "path": "p", "base": "b", "label": label}),
            )
        };
        for label in Label::all() {
            assert_eq!(read(label.as_str()).expect("a label").label, label);
        }
        for wrong in ["orthogonalised", "ablated", "Orthogonalized", "", "clear"] {
            let said = read(wrong).expect_err("no label").to_string();
            assert!(said.contains("orthogonalized, identical, repackaged"), "{said}");
        }
    }
}
