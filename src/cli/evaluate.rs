//! `orthoscope evaluate LABELS.json`: detection and false-positive rates on labelled pairs.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{Table, presets};

use super::compare::Bar;
use super::{ExitStatus, Global};
use crate::checkpoint::FORMATS;
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::{self, Case, Evaluation, ExactRate, Label, LambdaErrors};
use crate::examination::Verdict;
use crate::report::words::count;
use crate::report::{csv, json, sanitise};

/// Measure detection and false-positive rates on labelled pairs, with exact confidence intervals
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope evaluate corpus/labels.json
  orthoscope evaluate corpus/labels.json --form safetensors --format json > rates.json
  orthoscope evaluate corpus/labels.json --format csv > cases.csv

LABELS.json is a list of {case, path, base, label}, paths relative to it. A label is \"orthogonalized\" (then optionally \
lambda: {module: [true λ per layer]}) or an honest relation: identical, repackaged, recast, quantized, low-rank-edit, edited, \
fine-tuned, merged, adapter, unrelated or incomparable. Cases that cannot be examined are counted apart and enter no rate. \
With --format csv a case is a row, and no rate is told.

Exit status 1 when an orthogonalized case was missed or an honest one called orthogonalized, 2 when a case could not be \
examined.")]
pub struct EvaluateArguments {
    /// The label file
    labels: PathBuf,
    /// Only candidates in this form (safetensors, gguf, adapter, pytorch); may be given several times
    #[arg(long = "form", value_name = "FORM")]
    formats: Vec<String>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
}

impl EvaluateArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let known: Vec<&str> = FORMATS.iter().map(|format| format.name()).chain(["unreadable"]).collect();
        if let Some(unknown) = self.formats.iter().find(|format| !known.contains(&format.as_str())) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("no form is called {unknown:?}; there are {}", known.join(", ")),
            ));
        }
        let catalogue = global.catalogue()?;
        let mut labels = evaluate::read_labels(&self.labels)?;
        if let Some(text) = &self.case {
            labels.retain(|labelled| labelled.case.contains(text));
        }
        let bar = Bar::new(global.shows_progress(), "examining labelled pairs");
        let folder = self.labels.parent().unwrap_or(Path::new(""));
        let evaluation = evaluate::evaluate(folder, &labels, &self.formats, &catalogue, &bar);
        bar.finish();
        let mut text = Vec::new();
        match global.format() {
            "json" => {
                json::write_value(&evaluation, &global.style(), &mut text)?;
                text.push(b'\n');
            }
            "csv" => csv::table(&rows(&evaluation), &mut text)?,
            _ => text.extend(told(&evaluation, global.verbose > 0).into_bytes()),
        }
        out.write_all(&text).map_err(|e| Error::io("writing the evaluation", e))?;
        if evaluation.cases.is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("evaluating {}: no case is left to examine", self.labels.display()),
            ));
        }
        let missed = evaluation.detection.count < evaluation.detection.of || evaluation.false_positives.count > 0;
        Ok(match (missed, evaluation.failed) {
            (true, _) => ExitStatus::Findings,
            (false, 0) => ExitStatus::Success,
            (false, _) => ExitStatus::Incomplete,
        })
    }
}

/// The cases as a table, its header first. What was not measured is an empty cell: a verdict or a statistic of what
/// could not be examined would be counted by whoever reads no further column.
fn rows(evaluation: &Evaluation) -> Vec<Vec<String>> {
    let header = [
        "case",
        "label",
        "form",
        "status",
        "verdict",
        "relation",
        "statistic",
        "lambda_entries",
        "lambda_largest_error",
        "edit_alone",
        "reason",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for case in &evaluation.cases {
        let measured = |text: String| if case.is_examined() { text } else { String::new() };
        let errors = case.lambda.iter().map(|[truth, found]| (truth - found).abs());
        let largest = errors.reduce(f64::max).map(|error| error.to_string()).unwrap_or_default();
        rows.push(vec![
            case.case.clone(),
            case.label.as_str().to_owned(),
            case.format.clone(),
            case.status.as_str().to_owned(),
            measured(case.verdict.as_str().to_owned()),
            measured(case.relation.as_str().to_owned()),
            measured(case.statistic.to_string()),
            measured(case.lambda.len().to_string()),
            measured(largest),
            measured(case.pure.to_string()),
            case.reason.clone().unwrap_or_default(),
        ]);
    }
    rows
}

fn rate(rate: &ExactRate) -> String {
    match (rate.rate, rate.interval) {
        (Some(share), Some([low, high])) => {
            format!("{} of {} = {share:.3}  (95 % {low:.3} to {high:.3})", rate.count, rate.of)
        }
        _ => "none".to_owned(),
    }
}

fn told(evaluation: &Evaluation, verbose: bool) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    if evaluation.failed > 0 {
        let all = evaluation.cases.len();
        let failed = count(evaluation.failed, "case", "cases");
        line(format!("{failed} of {all} could not be examined and enter no rate below\n"));
    }
    line(format!("detection rate        {}", rate(&evaluation.detection)));
    line(format!("false-positive rate   {}", rate(&evaluation.false_positives)));
    line(format!("honest but suspect    {}", rate(&evaluation.suspects)));
    line(format!(
        "smallest honest bound {:.4}  (1 over the number of honest cases and one)",
        evaluation.smallest_bound
    ));
    let auroc = evaluation.auroc.map_or_else(|| "none".to_owned(), |area| format!("{area:.4}"));
    line(format!("AUROC                 {auroc}"));
    line(format!("relations right       {}", rate(&evaluation.relations_right)));
    for (what, errors) in
        [("λ, the edit alone     ", &evaluation.lambda_pure), ("λ, all                ", &evaluation.lambda_all)]
    {
        if let Some(LambdaErrors { within, largest, root_mean_square, .. }) = errors {
            line(format!(
                "{what}within 0.05: {}; largest error {largest:.3}, root mean square {root_mean_square:.4}",
                rate(within)
            ));
        }
    }
    line(String::new());
    let mut formats = table(&["form", "detected", "false positives"]);
    for (format, [detected, false_positives]) in &evaluation.by_format {
        formats.add_row([sanitise::name(format), rate(detected), rate(false_positives)]);
    }
    line(formats.to_string());
    line(String::new());
    let mut labels = table(&["label", "called orthogonalized", "relations found"]);
    for (label, called) in &evaluation.by_label {
        let relations = evaluation.relations.get(label).map_or_else(String::new, |found| {
            found.iter().map(|(relation, count)| format!("{relation} {count}")).collect::<Vec<_>>().join(", ")
        });
        labels.add_row([label.as_str().to_owned(), rate(called), relations]);
    }
    line(labels.to_string());
    let wrong: Vec<&Case> = evaluation.cases.iter().filter(|case| verbose || is_wrong(case)).collect();
    if !wrong.is_empty() {
        line(String::new());
        line(if verbose {
            "cases".to_owned()
        } else {
            "cases that were missed, falsely called, related otherwise than labelled, or not examined".to_owned()
        });
        for case in wrong {
            line(format!(
                "  {:44} {:15} {:15} {:13} statistic {:.3}{}",
                sanitise::name(&case.case),
                case.label.as_str(),
                if case.is_examined() { case.verdict.as_str() } else { "not examined" },
                case.relation.as_str(),
                case.statistic,
                case.reason.as_ref().map_or_else(String::new, |reason| format!("  ({})", sanitise::sentence(reason)))
            ));
        }
    }
    text
}

fn is_wrong(case: &Case) -> bool {
    match case.label {
        _ if !case.is_examined() => true,
        Label::Orthogonalized => case.verdict != Verdict::Orthogonalized,
        Label::Honest(relation) => case.verdict == Verdict::Orthogonalized || case.relation != relation,
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
