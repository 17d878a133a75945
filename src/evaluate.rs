//! Detection and false-positive rates on labelled pairs, with exact intervals.
//!
//! A label file is a JSON list of `{case, path, base, label}` with paths relative to the file; `label` is
//! `orthogonalized` (then optionally `lambda`: module to true λ per layer) or an honest relation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF as _};

use crate::checkpoint::folder;
use crate::diff::{Observer, Unobserved};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, Relation, Status, Verdict};
use crate::limits::MAX_JSON_BYTES;
use crate::pipeline::{self, Named, Settings};
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
    /// `orthogonalized`, or an honest relation.
    pub label: String,
    /// True λ by module and layer, where known.
    #[serde(default)]
    pub lambda: BTreeMap<String, Vec<f64>>,
}

/// The label of an orthogonalized candidate.
const POSITIVE: &str = "orthogonalized";
/// An estimate of λ within this of the truth counts as right, and beyond twice this as wrong.
const LAMBDA_TOLERANCE: f64 = 0.05;

/// A proportion with its exact (Clopper-Pearson) 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// Their ratio.
    pub rate: f64,
    /// The interval.
    pub interval: [f64; 2],
}

impl Rate {
    /// `count` of `of`.
    pub fn new(count: u64, of: u64) -> Self {
        let (k, n) = (count as f64, of as f64);
        let quantile = |p: f64, a: f64, b: f64| Beta::new(a, b).map_or(f64::NAN, |beta| beta.inverse_cdf(p));
        let low = if count == 0 { 0.0 } else { quantile(0.025, k, n - k + 1.0) };
        let high = if count == of { 1.0 } else { quantile(0.975, k + 1.0, n - k) };
        Self { count, of, rate: if of > 0 { k / n } else { 0.0 }, interval: [low, high] }
    }
}

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// Its name.
    pub case: String,
    /// Its label.
    pub label: String,
    /// The candidate's format.
    pub form: String,
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
    pub within: Rate,
    /// The largest error.
    pub largest: f64,
    /// Root of the mean square.
    pub root_mean_square: f64,
}

/// The whole evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Orthogonalized cases that were found.
    pub detection: Rate,
    /// Honest cases that were called orthogonalized.
    pub false_positives: Rate,
    /// Honest cases that were called suspect.
    pub suspects: Rate,
    /// Smallest false-positive bound that so many honest cases allow: 1/(N + 1).
    pub smallest_bound: f64,
    /// Detection (or false-positive) rate by label.
    pub by_label: BTreeMap<String, Rate>,
    /// Detection rate by form, false-positive rate by form.
    pub by_form: BTreeMap<String, [Rate; 2]>,
    /// Area under the ROC curve of the deciding statistic.
    pub auroc: f64,
    /// λ̂ where the change holds nothing but the edit, and everywhere.
    pub lambda_pure: Option<LambdaErrors>,
    /// λ̂ everywhere.
    pub lambda_all: Option<LambdaErrors>,
    /// Honest labels against relations found: label, relation, how many.
    pub relations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Honest cases whose relation is their label.
    pub relations_right: Rate,
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

/// Compares every labelled pair. `forms` keeps the cases of those formats only; empty keeps all. `watch` is told the
/// number done after each case.
pub fn evaluate(
    folder: &Path,
    labels: &[Labelled],
    forms: &[String],
    catalogue: &Catalogue,
    observer: &dyn Observer,
) -> Evaluation {
    let mut cases = Vec::new();
    for (done, labelled) in labels.iter().enumerate() {
        observer.progress(done as u64, labels.len() as u64);
        let form = form_of(&folder.join(&labelled.path));
        if forms.is_empty() || forms.contains(&form) {
            cases.push(case(folder, labelled, form, catalogue));
        }
    }
    summarize(cases)
}

/// The form a candidate is published in, by what opens it.
fn form_of(path: &Path) -> String {
    folder::open_path(path).map_or_else(|_| "unreadable".to_owned(), |checkpoint| checkpoint.format.to_owned())
}

fn case(folder: &Path, labelled: &Labelled, form: String, catalogue: &Catalogue) -> Case {
    let settings = Settings { catalogue, digests: false, claim: None, observer: &Unobserved };
    let named = |path: &Path| Named::local(path.display().to_string());
    let (base_path, path) = (folder.join(&labelled.base), folder.join(&labelled.path));
    let (base_name, name) = (named(&labelled.base), named(&labelled.path));
    let opened = folder::open_path(&base_path).and_then(|base| Ok((base, folder::open_path(&path)?)));
    let examination = match opened {
        Ok((base, candidate)) => pipeline::compare((&base, &base_name), (&candidate, &name), &settings),
        Err(error) => pipeline::failed(&base_name, &name, &error, &settings),
    };
    Case {
        case: labelled.case.clone(),
        label: labelled.label.clone(),
        form,
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
    let number = |name: &str| profile.model.get(name).copied().unwrap_or(0.0);
    let side = |layers: &str, consistency: &str| {
        let agreeing = if number(layers) >= 2.0 { 1.0 } else { 0.0 };
        if number(layers) > 0.0 { agreeing + number(consistency) } else { 0.0 }
    };
    side("projection.layers", "projection.consistency")
        .max(side("reader_projection.layers", "reader_projection.consistency"))
        .max(number("projection.consistency_all"))
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
    let is_positive = |case: &&Case| case.label == POSITIVE;
    let found = |case: &&Case| case.verdict == Verdict::Orthogonalized;
    let count = |keep: &dyn Fn(&&Case) -> bool| cases.iter().filter(|case| keep(case)).count() as u64;
    let rate = |of: &dyn Fn(&&Case) -> bool| Rate::new(count(&|case| of(case) && found(case)), count(of));
    let mut by_label: BTreeMap<String, Rate> = BTreeMap::new();
    let mut by_form: BTreeMap<String, [Rate; 2]> = BTreeMap::new();
    let mut relations: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for case in &cases {
        by_label.entry(case.label.clone()).or_insert_with(|| rate(&|other| other.label == case.label));
        by_form.entry(case.form.clone()).or_insert_with(|| {
            [
                rate(&|other| other.form == case.form && is_positive(other)),
                rate(&|other| other.form == case.form && !is_positive(other)),
            ]
        });
        if case.label != POSITIVE {
            *relations.entry(case.label.clone()).or_default().entry(word(case.relation)).or_default() += 1;
        }
    }
    let honest = count(&|case| !is_positive(case));
    Evaluation {
        detection: rate(&is_positive),
        false_positives: rate(&|case| !is_positive(case)),
        suspects: Rate::new(count(&|case| !is_positive(case) && case.verdict == Verdict::Suspect), honest),
        smallest_bound: 1.0 / (honest as f64 + 1.0),
        by_label,
        by_form,
        auroc: auroc(&cases),
        lambda_pure: lambda_errors(cases.iter().filter(|case| case.pure)),
        lambda_all: lambda_errors(cases.iter()),
        relations_right: Rate::new(count(&|case| !is_positive(case) && word(case.relation) == case.label), honest),
        relations,
        failed: count(&|case| case.status == Status::Failed),
        cases,
    }
}

/// A relation as JSON spells it.
fn word(relation: Relation) -> String {
    serde_json::to_value(relation).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Probability that an orthogonalized case has the larger statistic than an honest one; ties count half.
fn auroc(cases: &[Case]) -> f64 {
    let (mut total, mut pairs) = (0.0, 0.0);
    for positive in cases.iter().filter(|case| case.label == POSITIVE) {
        for honest in cases.iter().filter(|case| case.label != POSITIVE) {
            pairs += 1.0;
            total += match positive.statistic.total_cmp(&honest.statistic) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    if pairs > 0.0 { total / pairs } else { 0.0 }
}

fn lambda_errors<'c>(cases: impl Iterator<Item = &'c Case>) -> Option<LambdaErrors> {
    let errors: Vec<f64> =
        cases.flat_map(|case| case.lambda.iter().map(|[truth, found]| (truth - found).abs())).collect();
    (!errors.is_empty()).then(|| LambdaErrors {
        entries: errors.len() as u64,
        within: Rate::new(
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

    #[test]
    fn exact_intervals_agree_with_published_ones() {
        // Clopper and Pearson's own example, and the rule of three.
        let rate = Rate::new(4, 10);
        assert!((rate.interval[0] - 0.1216).abs() < 1e-4 && (rate.interval[1] - 0.7376).abs() < 1e-4, "{rate:?}");
        let none = Rate::new(0, 60);
        assert_eq!(none.interval[0], 0.0);
        assert!((none.interval[1] - (1.0 - 0.025f64.powf(1.0 / 60.0))).abs() < 1e-9);
        assert_eq!(Rate::new(5, 5).interval[1], 1.0);
    }

    #[test]
    fn the_area_under_the_curve_counts_ties_half() {
        let case = |label: &str, statistic: f64| Case {
            case: String::new(),
            label: label.to_owned(),
            form: String::new(),
            verdict: Verdict::Clear,
            relation: Relation::FineTuned,
            statistic,
            status: Status::Complete,
            reason: None,
            lambda: Vec::new(),
            pure: true,
        };
        let cases = [case(POSITIVE, 2.0), case(POSITIVE, 1.0), case("fine-tuned", 1.0), case("fine-tuned", 0.0)];
        assert_eq!(auroc(&cases), (1.0 + 1.0 + 0.5 + 1.0) / 4.0);
    }
}
