//! `orthoscope stats`: how common findings are among the derivatives in the index.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use maud::{DOCTYPE, PreEscaped, html};

use super::report::whole_file;
use super::{ExitStatus, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::index::prevalence::{DIMENSIONS, Dimension};
use crate::report::html::STYLESHEET;
use crate::report::json::write_value;
use crate::report::prevalence::{markup, text, values};
use crate::report::rates::Detector;

/// Count derivatives by base, family, size, form, month and uploader: listed, examined, not examinable, orthogonalized
#[derive(Args)]
#[command(after_help = "Examples:
  orthoscope stats
  orthoscope stats --by base --by month
  orthoscope stats --sensitivity 0.95 --false-positives 0.01 --format json
  orthoscope stats --format html --out prevalence.html

Shares come with 95 % intervals, by count and by downloads. Correction needs the detector's rates on labelled pairs, which
`orthoscope evaluate` measures. Formats: text, json, html.")]
pub struct Arguments {
    /// Group by this (all when left out; may be given several times)
    #[arg(long, value_enum, value_name = "WHAT")]
    by: Vec<By>,
    /// Correct for a detector that finds this share of true cases (0 to 1)
    #[arg(long, value_name = "SHARE", requires = "false_positives", value_parser = share)]
    sensitivity: Option<f64>,
    /// … and raises this share of the others (0 to 1)
    #[arg(long, value_name = "SHARE", requires = "sensitivity", value_parser = share)]
    false_positives: Option<f64>,
    /// Write to this file (standard output when left out)
    #[arg(long, short, value_name = "FILE")]
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
    Form,
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
            Self::Form => Dimension::Form,
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

impl Arguments {
    pub(super) fn run(self, global: &Global, out: &mut dyn Write) -> Result<ExitStatus> {
        let detector = match (self.sensitivity, self.false_positives) {
            (Some(sensitivity), Some(false_positives)) => Some(Detector { sensitivity, false_positives }),
            _ => None,
        };
        let mut counts = Index::open_read_only(&global.index)?.prevalence()?;
        let wanted: Vec<Dimension> =
            if self.by.is_empty() { DIMENSIONS.to_vec() } else { self.by.iter().map(|by| by.dimension()).collect() };
        counts.groups.retain(|dimension, _| wanted.contains(dimension));
        let mut body = Vec::new();
        match global.format.as_str() {
            "text" => body.extend(text(&counts, &wanted, detector).into_bytes()),
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
            other => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("no format of stats is called {other:?}; there are text, json, html"),
                ));
            }
        }
        let written = |error| Error::io("writing the answer", error);
        match &self.out {
            Some(path) => whole_file(path, |file| file.write_all(&body).map_err(written))?,
            None => out.write_all(&body).map_err(written)?,
        }
        Ok(ExitStatus::Success)
    }
}
