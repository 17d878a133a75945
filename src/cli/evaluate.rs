//! `orthoscope evaluate LABELS.json`: detection and false-positive rates on labelled pairs.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{Table, presets};

use super::compare::Bar;
use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::{self, Case, Evaluation, LambdaErrors, Rate};
use crate::examination::Verdict;
use crate::report::sanitise;

/// Measure detection and false-positive rates on labelled pairs, with exact confidence intervals
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope evaluate corpus/labels.json
  orthoscope evaluate corpus/labels.json --form safetensors --format json > rates.json

LABELS.json is a list of {case, path, base, label}, paths relative to it; label is \"orthogonalized\" (then optionally
lambda: {module: [true λ per layer]}) or an honest relation. Exit status 1 when an orthogonalized case was missed or an
honest one called orthogonalized.")]
pub struct Arguments {
    /// The label file
    labels: PathBuf,
    /// Only candidates in this form (safetensors, gguf, adapter, pytorch); may be given several times
    #[arg(long = "form", value_name = "FORM")]
    forms: Vec<String>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let catalogue = global.catalogue()?;
        let mut labels = evaluate::read_labels(&self.labels)?;
        if let Some(text) = &self.case {
            labels.retain(|labelled| labelled.case.contains(text));
        }
        let bar = Bar::new(global.shows_progress());
        let folder = self.labels.parent().unwrap_or(Path::new(""));
        let evaluation = evaluate::evaluate(folder, &labels, &self.forms, &catalogue, &bar);
        bar.finish();
        let text = match global.format.as_str() {
            "text" => text(&evaluation, global.verbose > 0),
            "json" => {
                let json = serde_json::to_string_pretty(&evaluation)
                    .map_err(|e| Error::because(ErrorKind::Internal, "writing the evaluation as JSON", e))?;
                json + "\n"
            }
            other => {
                return Err(Error::new(ErrorKind::Usage, format!("evaluate prints text or json, not {other:?}")));
            }
        };
        out.write_all(text.as_bytes()).map_err(|e| Error::io("writing the evaluation", e))?;
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

fn rate(rate: &Rate) -> String {
    if rate.of == 0 {
        return "none".to_owned();
    }
    format!(
        "{} of {} = {:.3}  (95 % {:.3} to {:.3})",
        rate.count, rate.of, rate.rate, rate.interval[0], rate.interval[1]
    )
}

fn text(evaluation: &Evaluation, verbose: bool) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    line(format!("detection rate        {}", rate(&evaluation.detection)));
    line(format!("false-positive rate   {}", rate(&evaluation.false_positives)));
    line(format!("honest but suspect    {}", rate(&evaluation.suspects)));
    line(format!(
        "smallest honest bound {:.4}  (1 over the number of honest cases and one)",
        evaluation.smallest_bound
    ));
    line(format!("AUROC                 {:.4}", evaluation.auroc));
    line(format!("relations right       {}", rate(&evaluation.relations_right)));
    for (what, errors) in
        [("λ, the edit alone     ", &evaluation.lambda_pure), ("λ, all               ", &evaluation.lambda_all)]
    {
        if let Some(LambdaErrors { within, largest, root_mean_square, .. }) = errors {
            line(format!(
                "{what}within 0.05: {}; largest error {largest:.3}, root mean square {root_mean_square:.4}",
                rate(within)
            ));
        }
    }
    line(String::new());
    let mut forms = table(&["form", "detected", "false positives"]);
    for (form, [detected, false_positives]) in &evaluation.by_form {
        forms.add_row([sanitise::name(form), rate(detected), rate(false_positives)]);
    }
    line(forms.to_string());
    line(String::new());
    let mut labels = table(&["label", "called orthogonalized", "relations found"]);
    for (label, called) in &evaluation.by_label {
        let relations = evaluation.relations.get(label).map_or_else(String::new, |found| {
            found.iter().map(|(relation, count)| format!("{relation} {count}")).collect::<Vec<_>>().join(", ")
        });
        labels.add_row([sanitise::name(label), rate(called), relations]);
    }
    line(labels.to_string());
    let wrong: Vec<&Case> = evaluation.cases.iter().filter(|case| verbose || is_wrong(case)).collect();
    if !wrong.is_empty() {
        line(String::new());
        line(if verbose {
            "cases".to_owned()
        } else {
            "cases that were missed, falsely called, or related otherwise than labelled".to_owned()
        });
        for case in wrong {
            line(format!(
                "  {:44} {:15} {:15} {:13} statistic {:.3}{}",
                sanitise::name(&case.case),
                sanitise::name(&case.label),
                lower(case.verdict),
                lower(case.relation),
                case.statistic,
                case.reason.as_ref().map_or_else(String::new, |reason| format!("  ({})", sanitise::sentence(reason)))
            ));
        }
    }
    text
}

fn lower(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn is_wrong(case: &Case) -> bool {
    if case.label == "orthogonalized" {
        case.verdict != Verdict::Orthogonalized
    } else {
        case.verdict == Verdict::Orthogonalized || lower(case.relation) != case.label
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
