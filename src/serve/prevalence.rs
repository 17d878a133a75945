//! How common findings are, as a page: pictures with the tables beside them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Html;
use maud::html;
use serde::Deserialize;

use super::access::Session;
use super::{App, PageFailure, layout};
use crate::error::{Error, ErrorKind, Result};
use crate::report::prevalence::markup;
use crate::report::rates::Detector;

/// The detector's rates to correct for, in percent as people write them.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct DetectorAsked {
    pub sensitivity: String,
    pub false_positives: String,
}

impl DetectorAsked {
    /// The rates, where both are given.
    pub(super) fn read(&self) -> Result<Option<Detector>> {
        let rate = |name: &str, text: &str| -> Result<Option<f64>> {
            let text = text.trim().trim_end_matches('%').trim();
            if text.is_empty() {
                return Ok(None);
            }
            let percent: f64 = text.parse().map_err(|_| {
                Error::new(ErrorKind::Usage, format!("reading {name} {text:?}: it has to be a number of percent"))
            })?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(Error::new(ErrorKind::Usage, format!("reading {name} {text:?}: it has to be 0 to 100")));
            }
            Ok(Some(percent / 100.0))
        };
        let (sensitivity, false_positives) =
            (rate("sensitivity", &self.sensitivity)?, rate("false_positives", &self.false_positives)?);
        Ok(match (sensitivity, false_positives) {
            (Some(sensitivity), Some(false_positives)) => Some(Detector::Exact { sensitivity, false_positives }),
            _ => None,
        })
    }
}

pub(super) async fn page(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Query(asked): Query<DetectorAsked>,
) -> Result<Html<String>, PageFailure> {
    let detector = asked.read()?;
    let counts = app.read(|index, _| index.prevalence()).await?;
    let body = html! {
        h1 { "Prevalence" }
        form class="filters" method="get" action="/prevalence" {
            div {
                label for="sensitivity" { "Detection rate, percent" }
                input id="sensitivity" name="sensitivity" type="text" inputmode="decimal" value=(asked.sensitivity);
            }
            div {
                label for="false_positives" { "False-positive rate, percent" }
                input id="false_positives" name="false_positives" type="text" inputmode="decimal" value=(asked.false_positives);
            }
            button type="submit" { "Correct for the detector" }
        }
        p class="quiet" { code { "orthoscope evaluate" } " measures both rates on labelled pairs." }
        (markup(&counts, detector))
    };
    Ok(layout::page(&app, &session, "Prevalence", "/prevalence", body))
}
