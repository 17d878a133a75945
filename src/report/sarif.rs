//! SARIF 2.1.0 (OASIS Standard, 2020): findings as results, tensors as logical locations, what could not be examined
//! and oddities of the files as notifications of the run.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use crate::error::Result;
use crate::examination::{Examination, Finding, Severity, Status};
use crate::report::json::write_value;
use crate::report::{Renderer, Report, Style, evidence, sanitise, variants, words, writing};

/// Tensors named in a result; the record has them all.
const LOCATIONS: usize = 200;

/// Notifications about the oddities of one examination's files.
const NOTIFICATIONS: usize = 100;

/// The renderer.
pub struct Sarif;

impl Renderer for Sarif {
    fn name(&self) -> &'static str {
        "sarif"
    }

    fn purpose(&self) -> &'static str {
        "SARIF 2.1.0, for code-scanning dashboards"
    }

    fn extension(&self) -> &'static str {
        "sarif"
    }

    fn media_type(&self) -> &'static str {
        "application/sarif+json"
    }

    fn render(&self, report: &Report, style: &Style, out: &mut dyn Write) -> Result<()> {
        write_value(&log(report), style, out)?;
        out.write_all(b"\n").map_err(writing)
    }
}

/// `error` blocks by convention, so only high severity is one.
const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "note",
    }
}

fn log(report: &Report) -> Value {
    let mut rules: BTreeMap<&str, Severity> = BTreeMap::new();
    for finding in report.examinations.iter().flat_map(|e| &e.findings) {
        rules.entry(&finding.signature).or_insert(finding.severity);
    }
    let index: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut results = Vec::new();
    let mut notifications = Vec::new();
    let mut artifacts = Vec::new();
    for examination in &report.examinations {
        artifacts.extend(examination.candidate.files.iter().map(|file| artifact(examination, file)));
        results.extend(examination.findings.iter().map(|finding| result(examination, finding, &index)));
        notifications.extend(notes(examination));
    }
    let version = report.examinations.first().map_or(env!("CARGO_PKG_VERSION"), |e| e.tool.version.as_str());
    let all_done = report.examinations.iter().all(|e| e.status == Status::Complete);
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "orthoscope",
                "semanticVersion": sanitise::name(version),
                "rules": rules.iter().map(|(id, severity)| rule(report, id, *severity)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{ "executionSuccessful": all_done, "toolExecutionNotifications": notifications }],
            "artifacts": artifacts,
            "results": results,
        }]
    })
}

fn rule(report: &Report, id: &str, severity: Severity) -> Value {
    let mut rule = json!({
        "id": sanitise::name(id),
        "defaultConfiguration": { "level": level(severity) },
    });
    if let Some(text) = report.catalogue.get(id) {
        rule["shortDescription"] = json!({ "text": sanitise::sentence(&text.title) });
        rule["fullDescription"] = json!({ "text": paragraph(&text.seen, &text.title) });
        rule["help"] = json!({ "text": paragraph(&format!("{} {}", text.look_alikes, text.advice), &text.title) });
    }
    rule
}

/// Prose on one line; SARIF demands that a message is not empty.
fn paragraph(text: &str, otherwise: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    sanitise::clean(if line.is_empty() { otherwise } else { &line }, 4000)
}

fn result(examination: &Examination, finding: &Finding, index: &BTreeMap<&str, usize>) -> Value {
    let told = words::tell(examination);
    let mut clauses: Vec<String> = evidence::clauses(finding).iter().map(evidence::Clause::told).collect();
    clauses.extend(evidence::listed(finding));
    let evidence = if clauses.is_empty() { String::new() } else { format!(" Evidence: {}.", clauses.join("; ")) };
    let mut locations: Vec<Value> = fitted(examination)
        .take(LOCATIONS)
        .map(|name| json!({ "logicalLocations": [logical(examination, &name)] }))
        .collect();
    if locations.is_empty() {
        let name = sanitise::name(&examination.candidate.source);
        locations.push(json!({ "logicalLocations": [{ "fullyQualifiedName": name, "kind": "module" }] }));
    }
    json!({
        "ruleId": sanitise::name(&finding.signature),
        "ruleIndex": index.get(finding.signature.as_str()).copied().unwrap_or(0),
        "level": level(finding.severity),
        "kind": "fail",
        "message": { "text": format!(
            "{}: {} {}{evidence}",
            sanitise::name(&examination.candidate.source), told.headline, told.sure.join(" ")
        )},
        "locations": locations,
        "partialFingerprints": { "orthoscopeFinding/v1": sanitise::name(&finding.id) },
        "properties": {
            "candidate": words::side(&examination.candidate),
            "base": words::side(&examination.base),
            "relation": words::relation_name(examination.relation),
            "catalogue": sanitise::name(&examination.tool.catalogue),
            "limits": told.limits,
            "variants": variants::lines(examination).iter().map(variants::Line::told).collect::<Vec<_>>(),
        }
    })
}

/// The tensors that a finding rests on: fitted writers where the profile is at hand, else layer and module.
fn fitted(examination: &Examination) -> Box<dyn Iterator<Item = String> + '_> {
    let named = examination.profile.iter().flat_map(|p| &p.tensors);
    let mut named = named.filter(|t| t.projection.as_ref().is_some_and(|p| p.fits)).map(|t| t.name.clone()).peekable();
    if named.peek().is_some() {
        return Box::new(named);
    }
    let strengths = examination.orthogonalization.iter().flat_map(|o| &o.strength).filter(|s| s.lambda != 0.0);
    Box::new(strengths.map(|s| format!("layers.{}.{}", s.layer, s.module)))
}

fn logical(examination: &Examination, tensor: &str) -> Value {
    let name = sanitise::name(tensor);
    json!({
        "name": name,
        "fullyQualifiedName": format!("{}/{name}", sanitise::name(&examination.candidate.source)),
        "kind": "member",
    })
}

fn artifact(examination: &Examination, file: &crate::examination::FileDigest) -> Value {
    let mut artifact = json!({
        "location": {
            "uri": uri(&sanitise::name(&file.name)),
            "description": { "text": format!("file of {}", words::side(&examination.candidate)) },
        },
        // SARIF counts bytes in a signed number.
        "length": i64::try_from(file.bytes).unwrap_or(i64::MAX),
    });
    if let Some(digest) = file.sha256.as_deref().and_then(|d| d.strip_prefix("sha256:")) {
        artifact["hashes"] = json!({ "sha-256": sanitise::name(digest) });
    }
    artifact
}

/// A relative reference (RFC 3986): everything beyond unreserved characters and `/` as percent escapes.
fn uri(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn notes(examination: &Examination) -> Vec<Value> {
    let candidate = sanitise::name(&examination.candidate.source);
    let mut notes = Vec::new();
    if examination.status != Status::Complete {
        let reason = examination.reason.as_deref().unwrap_or("some tensors were not examined");
        notes.push(json!({
            "descriptor": { "id": if examination.status == Status::Failed { "not-examined" } else { "partly-examined" } },
            "level": "error",
            "message": { "text": format!("{candidate}: {}", sanitise::sentence(reason)) },
        }));
    }
    for anomaly in examination.anomalies.iter().take(NOTIFICATIONS) {
        let mut location = json!({
            "physicalLocation": { "artifactLocation": { "uri": uri(&sanitise::name(&anomaly.file)) } }
        });
        if let Some(tensor) = &anomaly.tensor {
            location["logicalLocations"] = json!([logical(examination, tensor)]);
        }
        notes.push(json!({
            "descriptor": { "id": sanitise::name(&anomaly.kind) },
            "level": "note",
            "message": { "text": format!("{candidate}: {}", paragraph(&anomaly.detail, &anomaly.kind)) },
            "locations": [location],
        }));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn rendered(report: &Report) -> Value {
        let mut out = Vec::new();
        Sarif.render(report, &Style::default(), &mut out).expect("renders");
        serde_json::from_slice(&out).expect("JSON")
    }

    #[test]
    fn results_name_their_tensors_and_rules() {
        let mut report = Report::of(sample::orthogonalized());
        report.catalogue = sample::catalogue();
        let run = &rendered(&report)["runs"][0];
        let result = &run["results"][0];
        assert_eq!(result["level"], "error");
        assert_eq!(run["tool"]["driver"]["rules"][0]["id"], result["ruleId"]);
        assert_eq!(result["locations"].as_array().map(Vec::len), Some(32));
        assert_eq!(result["locations"][0]["logicalLocations"][0]["name"], "model.layers.4.o_proj.weight");
        assert!(result["message"]["text"].as_str().is_some_and(|t| t.contains("False positives:")));
    }

    #[test]
    fn what_was_not_examined_is_told() {
        let run = &rendered(&Report::of(sample::failed()))["runs"][0];
        assert_eq!(run["invocations"][0]["executionSuccessful"], false);
        assert_eq!(run["invocations"][0]["toolExecutionNotifications"][0]["descriptor"]["id"], "not-examined");
    }

    #[test]
    fn a_hostile_file_name_is_a_harmless_reference() {
        let run = &rendered(&Report::of(sample::hostile()))["runs"][0];
        assert_eq!(run["artifacts"][0]["location"]["uri"], "%3DHYPERLINK%28%22x%22%29");
    }

    #[test]
    fn shape() {
        let mut report = Report::of(sample::orthogonalized_short());
        report.catalogue = sample::catalogue();
        report.examinations[0].profile = None;
        let text = serde_json::to_string_pretty(&log(&report)).expect("JSON");
        insta::assert_snapshot!(text);
    }
}
