//! `orthoscope stats`: how common findings are among the derivatives in the index.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use maud::{DOCTYPE, PreEscaped, html};

use super::report::whole_file;
use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::index::prevalence::{DIMENSIONS, Dimension};
use crate::report::charts::{Chart, charts};
use crate::report::html::STYLESHEET;
use crate::report::json::write_value;
use crate::report::prevalence::{markup, text, values};
use crate::report::rates::{Counted, Detector};
use crate::report::{csv, picture};

/// Count derivatives by base, family, size, form, month and uploader: listed, examined, not examinable, orthogonalized
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope stats
  orthoscope stats --by base --by month
  orthoscope stats --sensitivity 0.95 --false-positives 0.01 --format json
  orthoscope stats --rates rates.json
  orthoscope stats --format html --out prevalence.html
  orthoscope stats --charts charts/

Shares come with 95 % intervals, by count and by downloads. Correction needs the detector's rates on labelled pairs, which \
`orthoscope evaluate --format json` measures; with --rates their own uncertainty is in the intervals. --charts writes \
NAME.svg, NAME.png and NAME.csv (the numbers) for each picture.")]
pub struct StatsArguments {
    /// Group by this (all when left out; may be given several times)
    #[arg(long, value_enum, value_name = "WHAT")]
    by: Vec<By>,
    /// Correct for a detector that finds this share of true cases (0 to 1)
    #[arg(long, value_name = "SHARE", requires = "false_positives", value_parser = share)]
    sensitivity: Option<f64>,
    /// … and raises this share of the others (0 to 1)
    #[arg(long, value_name = "SHARE", requires = "sensitivity", value_parser = share)]
    false_positives: Option<f64>,
    /// Correct with the rates in this file, which `orthoscope evaluate --format json` wrote
    #[arg(long, value_name = "FILE", conflicts_with = "sensitivity")]
    rates: Option<PathBuf>,
    /// Write every picture to this folder as well: SVG, PNG, and the numbers as CSV
    #[arg(long, value_name = "FOLDER")]
    charts: Option<PathBuf>,
    /// Write to this file (standard output when left out)
    #[arg(long, short, visible_alias = "output", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What to group by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// The base
    Base,
    /// The architecture
    Family,
    /// Bytes of the base's weights
    Size,
    /// The format
    #[value(name = "form")]
    Format,
    /// Month of upload
    Month,
    /// Who uploaded it
    Uploader,
}

impl By {
    const fn dimension(self) -> Dimension {
        match self {
            Self::Base => Dimension::Base,
            Self::Family => Dimension::Family,
            Self::Size => Dimension::Size,
            Self::Format => Dimension::Format,
            Self::Month => Dimension::Month,
            Self::Uploader => Dimension::Uploader,
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share from 0 to 1, e.g. 0.95".to_owned()),
    }
}

/// The rates that `evaluate` measured.
fn measured(path: &Path) -> Result<Detector> {
    let doing = || format!("reading the rates in {}", path.display());
    let what = "write it with `orthoscope evaluate LABELS.json --format json`, with cases of both kinds";
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(format!("{}; {what}", doing()), error))?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| Error::because(ErrorKind::Usage, format!("{}; {what}", doing()), error))?;
    let counted = |name: &str| {
        let number = |key: &str| value.get(name)?.get(key)?.as_u64();
        let counted = number("count").zip(number("of")).map(|(hits, of)| Counted { hits, of });
        counted
            .filter(|rate| rate.of > 0 && rate.hits <= rate.of)
            .ok_or_else(|| Error::new(ErrorKind::Usage, format!("{}: no {name} is in it; {what}", doing())))
    };
    Ok(Detector::Measured { found: counted("detection")?, raised: counted("false_positives")? })
}

/// Writes each picture's files.
fn write_charts(folder: &Path, charts: &[Chart]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(format!("making {}", folder.display()), error))?;
    for chart in charts {
        let svg = picture::svg(&chart.picture);
        let png = picture::png(&svg)?;
        let written = |error| Error::io(format!("writing {} in {}", chart.name, folder.display()), error);
        let at = |ending: &str| folder.join(format!("{}.{ending}", chart.name));
        whole_file(&at("svg"), |file| file.write_all(svg.as_bytes()).map_err(written))?;
        whole_file(&at("png"), |file| file.write_all(&png).map_err(written))?;
        whole_file(&at("csv"), |file| csv::table(&chart.table, file))?;
    }
    Ok(())
}

impl StatsArguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let detector = match (self.sensitivity, self.false_positives) {
            (Some(sensitivity), Some(false_positives)) => Some(Detector::Exact { sensitivity, false_positives }),
            _ => self.rates.as_deref().map(measured).transpose()?,
        };
        let mut counts = global.open_index()?.prevalence()?;
        let wanted: Vec<Dimension> =
            if self.by.is_empty() { DIMENSIONS.to_vec() } else { self.by.iter().map(|by| by.dimension()).collect() };
        counts.groups.retain(|dimension, _| wanted.contains(dimension));
        if let Some(folder) = &self.charts {
            write_charts(folder, &charts(&counts, detector))?;
        }
        let mut body = Vec::new();
        match global.format() {
            "json" => {
                write_value(&values(&counts, detector), &global.style(), &mut body)?;
                body.push(b'\n');
            }
            "html" => {
                let page = html! {
                    (DOCTYPE)
                    html lang="en" {
                        head {
                            meta charset="utf-8";
                            meta name="viewport" content="width=device-width, initial-scale=1";
                            title { "Prevalence – orthoscope" }
                            style { (PreEscaped(STYLESHEET)) }
                        }
                        body { main { h1 { "Prevalence" } (markup(&counts, detector)) } }
                    }
                };
                body.extend(page.into_string().into_bytes());
            }
            _ => body.extend(text(&counts, &wanted, detector, global.style().width).into_bytes()),
        }
        let written = |error| Error::io("writing the answer", error);
        match &self.out {
            Some(path) => whole_file(path, |file| file.write_all(&body).map_err(written))?,
            None => out.write_all(&body).map_err(written)?,
        }
        Ok(ExitStatus::Success)
    }
}
