//! SARIF 2.1.0 (OASIS Standard, 2020): findings as results, each in a file of the candidate's, with the tensors it
//! rests on as related locations; decisions as suppressions; what could not be examined and oddities of the files as
//! notifications of the run.
//!
//! Code-scanning dashboards take a subset and refuse a file whole that is not of it. GitHub's rules (published as
//! “SARIF support for code scanning” and “SARIF results exceed limit”) are what the constants below and the test at the
//! end are made of.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::{Value, json};

use crate::error::Result;
use crate::examination::{Examination, FileDigest, Finding, Severity, Side, Status};
use crate::hub::on_hub;
use crate::ids::Digest;
use crate::index::decision::{Choice, Decision};
use crate::report::json::{trimmed, write_value};
use crate::report::{Renderer, Report, Style, evidence, sanitise, variants, words, writing};

/// Results of a run; a file with more is refused.
const RESULTS: usize = 25_000;

/// Tensors named in a result: as many as are shown. The record has them all.
const RELATED: usize = 100;

/// Characters of a rule's description; a longer one is refused.
const DESCRIPTION: usize = 1000;

/// Notifications about the oddities of one examination's files.
const NOTIFICATIONS: usize = 100;

/// Longest part of a path that is repeated whole: no file system has a longer one.
const PATH_PART: usize = 255;

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

/// `error` blocks by convention, so only high severity is one. What is only worth knowing has failed nothing.
const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low => "note",
        Severity::Info => "none",
    }
}

/// The same on the scale of 0 to 10 that dashboards sort by.
const fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::High => "8.0",
        Severity::Medium => "5.0",
        Severity::Low => "2.0",
        Severity::Info => "0.0",
    }
}

fn log(report: &Report) -> Value {
    let mut rules: BTreeMap<&str, Severity> = BTreeMap::new();
    for finding in report.examinations.iter().flat_map(|e| &e.findings) {
        let severity = rules.entry(&finding.signature).or_insert(finding.severity);
        *severity = finding.severity.max(*severity);
    }
    let mut run = Run {
        report,
        rules: rules.keys().enumerate().map(|(place, id)| (*id, place)).collect(),
        results: Vec::new(),
        notifications: Vec::new(),
        artifacts: Vec::new(),
        listed: BTreeSet::new(),
        fingerprints: BTreeMap::new(),
    };
    for (place, examination) in report.examinations.iter().enumerate() {
        run.add(examination, report.decided(place));
    }
    let left_out = run.cut();
    let Run { results, mut notifications, artifacts, .. } = run;
    if left_out > 0 {
        notifications.push(json!({
            "descriptor": { "id": "left-out" },
            "level": "error",
            "message": { "text": format!(
                "{left_out} results of the lowest severities are left out: code scanning takes {RESULTS} at most"
            )},
        }));
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
            "results": results.into_iter().map(|(_, result)| result).collect::<Vec<_>>(),
        }]
    })
}

fn rule(report: &Report, id: &str, severity: Severity) -> Value {
    let name = sanitise::name(id);
    let text = report.catalogue.get(id);
    let said = |text: Option<String>, limit: usize| json!({ "text": paragraph(text.as_deref().unwrap_or_default(), &name, limit) });
    let family = report.signatures.get(id).map(|signature| signature.front.family.as_str());
    let tags: Vec<&str> = ["security", "provenance"].into_iter().chain(family).collect();
    json!({
        "id": name,
        "shortDescription": said(text.map(|text| text.title.clone()), DESCRIPTION),
        "fullDescription": said(text.map(|text| text.seen.clone()), DESCRIPTION),
        "help": said(text.map(|text| format!("{} {}", text.look_alikes, text.advice)), 4000),
        "defaultConfiguration": { "level": level(severity) },
        "properties": { "security-severity": score(severity), "tags": tags },
    })
}

/// Prose on one line; SARIF demands that a message is not empty.
fn paragraph(text: &str, otherwise: &str, limit: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // A mark of how much was left out comes on top of what is kept.
    sanitise::clean(if line.is_empty() { otherwise } else { &line }, limit - 50)
}

/// What a run is made of, growing with each examination.
struct Run<'a> {
    report: &'a Report,
    /// The place of each rule.
    rules: BTreeMap<&'a str, usize>,
    results: Vec<(Severity, Value)>,
    notifications: Vec<Value>,
    artifacts: Vec<Value>,
    /// Files that are listed already, as revisions and bases of one repository share them.
    listed: BTreeSet<String>,
    /// How often each fingerprint was given out.
    fingerprints: BTreeMap<String, u64>,
}

impl<'a> Run<'a> {
    fn add(&mut self, examination: &'a Examination, decisions: &[Decision]) {
        let told = public_only(examination);
        for file in &told.candidate.files {
            let artifact = artifact(&told.candidate, file);
            if self.listed.insert(artifact.to_string()) {
                self.artifacts.push(artifact);
            }
        }
        for finding in &examination.findings {
            let result = self.result(examination, &told, finding, decisions);
            self.results.push((finding.severity, result));
        }
        self.notifications.extend(notes(&told));
    }

    /// Keeps as many results as are taken, the most severe of them in their order; how many are left out.
    fn cut(&mut self) -> usize {
        let over = self.results.len().saturating_sub(RESULTS);
        if over > 0 {
            let mut severities: Vec<Severity> = self.results.iter().map(|(severity, _)| *severity).collect();
            severities.sort_unstable();
            let last = severities[over];
            // Of the severity where the cut falls, the last ones go.
            let mut room = severities[over..].iter().filter(|severity| **severity == last).count();
            self.results.retain(|(severity, _)| {
                let kept = *severity > last || *severity == last && room > 0;
                room -= usize::from(kept && *severity == last);
                kept
            });
        }
        over
    }

    /// `told` is the examination without what is this machine's alone, and without measurements.
    fn result(
        &mut self,
        examination: &Examination,
        told: &Examination,
        finding: &Finding,
        decisions: &[Decision],
    ) -> Value {
        let sentences = words::tell(told);
        let title = self.report.catalogue.get(&finding.signature).map_or(&finding.signature, |text| &text.title);
        let mut clauses: Vec<String> = evidence::clauses(finding).iter().map(evidence::Clause::told).collect();
        clauses.extend(words::listed(finding));
        let evidence = if clauses.is_empty() { String::new() } else { format!(" Evidence: {}.", clauses.join("; ")) };
        let candidate = sanitise::name(&told.candidate.source);
        let place = place(told, finding);
        let related: Vec<Value> = (1..)
            .zip(fitted(examination))
            .take(RELATED)
            .map(|(id, name): (u64, String)| {
                let mut location = place.clone();
                location["id"] = json!(id);
                location["logicalLocations"] = json!([logical(&candidate, &name)]);
                location["message"] = json!({ "text": sanitise::name(&name) });
                location
            })
            .collect();
        let mut location = place;
        location["logicalLocations"] = json!([{ "fullyQualifiedName": candidate, "kind": "module" }]);
        json!({
            "ruleId": sanitise::name(&finding.signature),
            "ruleIndex": self.rules.get(finding.signature.as_str()).copied().unwrap_or(0),
            "level": level(finding.severity),
            "kind": if finding.severity == Severity::Info { "informational" } else { "fail" },
            "message": { "text": format!(
                "{candidate}: {}. {} {}{evidence}",
                sanitise::sentence(title), sentences.headline, sentences.sure.join(" ")
            )},
            "locations": [location],
            "relatedLocations": related,
            "partialFingerprints": {
                "primaryLocationLineHash": self.fingerprint(told, finding),
                "orthoscopeFinding/v1": sanitise::name(&finding.id),
            },
            "suppressions": suppressions(decisions),
            "properties": {
                "candidate": words::side(&told.candidate),
                "base": words::side(&told.base),
                "relation": told.relation.as_str(),
                "verdict": told.verdict.as_str(),
                "catalogue": sanitise::name(&told.tool.catalogue),
                "limits": sentences.limits,
                "decisions": decisions.iter().map(words::decided).collect::<Vec<_>>(),
                "variants": variants::lines(told).iter().map(variants::Line::told).collect::<Vec<_>>(),
            }
        })
    }

    /// What a dashboard knows a result by from one upload to the next: the repository and the signature, whatever the
    /// revision, and a number where there are several.
    fn fingerprint(&mut self, told: &Examination, finding: &Finding) -> String {
        let of = json!([told.candidate.source, told.base.source, finding.signature]).to_string();
        let hash = Digest::of(of.as_bytes()).hex()[..16].to_owned();
        let number = self.fingerprints.entry(hash.clone()).or_default();
        *number += 1;
        format!("{hash}:{number}")
    }
}

/// Nothing for an open or a confirmed finding, which stands.
fn suppressions(decisions: &[Decision]) -> Value {
    let status = match decisions.last().map(|decision| decision.decision) {
        None | Some(Choice::Confirmed) => return json!([]),
        Some(Choice::Dismissed) => "accepted",
        Some(Choice::SecondLook | Choice::Appealed) => "underReview",
    };
    let justification = decisions.last().map(words::decided);
    json!([{ "kind": "external", "status": status, "justification": justification }])
}

/// A source without the folders of the machine it was examined on, which are no business of whoever reads the file.
fn public(source: &str) -> Cow<'_, str> {
    let separators = ['/', '\\'];
    let mut letters = source.chars();
    let drive = letters.next().is_some_and(|c| c.is_ascii_alphabetic()) && letters.next() == Some(':');
    let absolute = source.starts_with(separators) || drive && letters.next().is_some_and(|c| separators.contains(&c));
    if !absolute && !source.split(separators).any(|part| matches!(part, "." | "..")) {
        return Cow::Borrowed(source);
    }
    let last = source.split(separators).rfind(|part| !matches!(*part, "" | "." | ".."));
    Cow::Owned(last.unwrap_or("unnamed").to_owned())
}

/// The examination without measurements, and with nothing in it that only the machine it was made on has.
fn public_only(examination: &Examination) -> Examination {
    let mut told = trimmed(examination, &Style::default());
    let paths: Vec<(String, String)> = [&examination.candidate, &examination.base]
        .into_iter()
        .filter_map(|side| match public(&side.source) {
            Cow::Borrowed(_) => None,
            Cow::Owned(name) => Some((side.source.trim_end_matches(['/', '\\']).to_owned(), name)),
        })
        .filter(|(path, _)| path.len() > 2)
        .collect();
    without(&mut told, &paths);
    told
}

/// Puts names in the place of paths wherever a sentence may have them.
fn without(told: &mut Examination, paths: &[(String, String)]) {
    for side in [&mut told.candidate, &mut told.base] {
        side.source = public(&side.source).into_owned();
    }
    let sentences = told.coverage.not_examined.iter_mut().map(|one| &mut one.reason);
    let oddities = told.anomalies.iter_mut().flat_map(|one| [&mut one.file, &mut one.detail]);
    for text in sentences.chain(oddities).chain(&mut told.reason).chain([&mut told.because]) {
        for (path, name) in paths {
            if text.contains(path.as_str()) {
                *text = text.replace(path.as_str(), name);
            }
        }
    }
    told.variants.iter_mut().for_each(|variant| without(variant, paths));
}

/// Where a finding is: the first file of the checkpoint that has it, or of the repository.
fn place(told: &Examination, finding: &Finding) -> Value {
    let has = |variant: &&Examination| variant.findings.iter().any(|one| one.signature == finding.signature);
    let variant = told.variants.iter().find(has).and_then(|variant| variant.candidate.files.first());
    let file = variant.or(told.candidate.files.first()).map(|file| file.name.as_str());
    // Weights have no lines; dashboards want one.
    json!({ "physicalLocation": {
        "artifactLocation": { "uri": uri(&told.candidate.source, file.unwrap_or_default()) },
        "region": { "startLine": 1 },
    }})
}

/// The tensors that a finding rests on: fitted writers where the profile is at hand, else layer and module.
fn fitted(examination: &Examination) -> Box<dyn Iterator<Item = String> + '_> {
    let named = examination.profile.iter().flat_map(|p| &p.tensors);
    let mut named = named.filter(|t| t.projection.as_ref().is_some_and(|p| p.fits)).map(|t| t.name.clone()).peekable();
    if named.peek().is_some() {
        return Box::new(named);
    }
    let strengths = words::removal(examination).into_iter().flat_map(|o| &o.strength);
    Box::new(strengths.filter(|s| s.lambda != 0.0).map(|s| format!("layers.{}.{}", s.layer, s.module)))
}

fn logical(candidate: &str, tensor: &str) -> Value {
    let name = sanitise::name(tensor);
    json!({ "name": name, "fullyQualifiedName": format!("{candidate}/{name}"), "kind": "member" })
}

fn artifact(candidate: &Side, file: &FileDigest) -> Value {
    let mut artifact = json!({
        "location": {
            "uri": uri(&candidate.source, &file.name),
            "description": { "text": format!("file of {}", words::side(candidate)) },
        },
        // SARIF counts bytes in a signed number.
        "length": i64::try_from(file.bytes).unwrap_or(i64::MAX),
    });
    if let Some(digest) = file.sha256.as_deref().and_then(|d| d.strip_prefix("sha256:")) {
        artifact["hashes"] = json!({ "sha-256": sanitise::name(digest) });
    }
    artifact
}

/// A relative reference (RFC 3986) to a file of a candidate, `hf/owner/name/model.safetensors`: everything beyond
/// unreserved characters as percent escapes, and no way up.
fn uri(source: &str, file: &str) -> String {
    let on_hub = on_hub(source);
    let (hub, rest) = on_hub.map_or((None, source), |(hub, rest)| (Some(hub.prefix), rest));
    let down = |part: &&str| !matches!(*part, "" | "." | "..");
    let mut parts: Vec<&str> = hub.into_iter().chain(rest.split(['/', '\\'])).filter(down).collect();
    let below: Vec<&str> = file.split('/').filter(down).collect();
    // What was given was the file itself.
    if on_hub.is_some() || !parts.ends_with(&below) {
        parts.extend(below);
    }
    if parts.is_empty() {
        parts.push("unnamed");
    }
    parts.into_iter().map(escaped).collect::<Vec<_>>().join("/")
}

fn escaped(part: &str) -> String {
    let part = if part.len() > PATH_PART { Cow::Owned(sanitise::name(part)) } else { Cow::Borrowed(part) };
    let mut out = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
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
            "physicalLocation": { "artifactLocation": { "uri": uri(&examination.candidate.source, &anomaly.file) } }
        });
        if let Some(tensor) = &anomaly.tensor {
            location["logicalLocations"] = json!([logical(&candidate, tensor)]);
        }
        notes.push(json!({
            "descriptor": { "id": sanitise::name(&anomaly.kind) },
            "level": "note",
            "message": { "text": format!("{candidate}: {}", paragraph(&anomaly.detail, &anomaly.kind, 4000)) },
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

    /// What GitHub says that it takes, as faults of a log.
    fn refused(log: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |what: String, is: bool| {
            if is {
                faults.push(what);
            }
        };
        let text = |value: &Value| value["text"].as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        fault("no schema or version".into(), log["$schema"].as_str().is_none() || log["version"] != "2.1.0");
        fault("runs".into(), !(1..=20).contains(&list(&log["runs"]).len()));
        for run in list(&log["runs"]) {
            let (rules, results) = (list(&run["tool"]["driver"]["rules"]), list(&run["results"]));
            fault("driver has no name".into(), run["tool"]["driver"]["name"].as_str().is_none());
            fault("results are missing".into(), !run["results"].is_array());
            fault(format!("{} results", results.len()), results.len() > 25_000);
            fault(format!("{} rules", rules.len()), rules.len() > 25_000);
            for rule in &rules {
                let id = rule["id"].as_str().unwrap_or_default();
                fault("a rule without id".into(), id.is_empty());
                for (name, most) in [("shortDescription", 1024), ("fullDescription", 1024), ("help", usize::MAX)] {
                    let length = text(&rule[name]).chars().count();
                    fault(format!("{id}: {name} of {length}"), length == 0 || length > most);
                }
                let level = rule["defaultConfiguration"]["level"].as_str().unwrap_or_default();
                fault(format!("{id}: level"), !["none", "note", "warning", "error"].contains(&level));
                let score = rule["properties"]["security-severity"].as_str().and_then(|score| score.parse().ok());
                fault(format!("{id}: score"), score.is_none_or(|score: f64| !(0.0..=10.0).contains(&score)));
                let tags = list(&rule["properties"]["tags"]);
                fault(format!("{id}: tags"), tags.len() > 20 || !tags.contains(&json!("security")));
            }
            let mut known = BTreeSet::new();
            for result in &results {
                let rule = result["ruleIndex"].as_u64().and_then(|index| rules.get(index as usize));
                fault("its rule".into(), rule.is_none_or(|rule| rule["id"] != result["ruleId"]));
                fault("no message".into(), text(&result["message"]).is_empty());
                let fingerprint = &result["partialFingerprints"]["primaryLocationLineHash"];
                fault("fingerprint".into(), !fingerprint.as_str().is_some_and(|hash| known.insert(hash.to_owned())));
                fault("a failure without a level".into(), (result["kind"] == "fail") == (result["level"] == "none"));
                fault("no suppressions".into(), !result["suppressions"].is_array());
                let (own, related) = (list(&result["locations"]), list(&result["relatedLocations"]));
                fault(format!("{} locations", own.len()), own.len() != 1);
                fault(format!("{} related locations", related.len()), related.len() > 1000);
                for location in own.iter().chain(&related) {
                    let place = &location["physicalLocation"];
                    let uri = place["artifactLocation"]["uri"].as_str().unwrap_or_default();
                    let relative = url::Url::parse(uri) == Err(url::ParseError::RelativeUrlWithoutBase)
                        && !uri.starts_with('/')
                        && !uri.split('/').any(|part| part == "..");
                    fault(format!("address {uri:?}"), uri.is_empty() || !relative);
                    fault("no line".into(), place["region"]["startLine"].as_u64().is_none_or(|line| line == 0));
                }
            }
        }
        faults
    }

    #[test]
    fn code_scanning_takes_it() {
        let log = rendered(&sample::everything());
        assert_eq!(refused(&log), Vec::<String>::new());
        let mut wrong = log.clone();
        wrong["runs"][0]["results"][0]["locations"][0]["physicalLocation"] = json!(null);
        assert_eq!(refused(&wrong), ["address \"\"", "no line"]);
        // Every signature of the catalogue as a rule.
        let mut examination = sample::orthogonalized_short();
        let signatures = sample::everything().signatures;
        examination.findings = signatures
            .signatures()
            .iter()
            .map(|one| Finding { signature: one.id().to_owned(), severity: one.front.severity, ..sample::finding() })
            .collect();
        assert_eq!(refused(&rendered(&Report::with_catalogue(vec![examination], &signatures))), Vec::<String>::new());
        // Nothing to say is a log too.
        assert_eq!(refused(&rendered(&Report::default())), Vec::<String>::new());
    }

    #[test]
    fn of_too_many_results_the_most_severe_are_kept() {
        let mut examination = sample::identical();
        let of = |severity| Finding { severity, evidence: json!({}), ..sample::finding() };
        examination.findings = vec![of(Severity::Low); RESULTS];
        examination.findings.extend(vec![of(Severity::High), of(Severity::Info)]);
        let mut report = Report::of(examination);
        report.catalogue = sample::catalogue();
        let log = log(&report);
        assert_eq!(refused(&log), Vec::<String>::new());
        let results = log["runs"][0]["results"].as_array().expect("a list");
        let of = |level: &str| results.iter().filter(|result| result["level"] == level).count();
        assert_eq!((of("error"), of("note"), of("none")), (1, RESULTS - 1, 0));
        let notes = &log["runs"][0]["invocations"][0]["toolExecutionNotifications"];
        assert!(notes[0]["message"]["text"].as_str().is_some_and(|text| text.starts_with("2 results")), "{notes}");
    }

    #[test]
    fn a_result_is_in_a_file_and_its_tensors_are_related() {
        let mut report = Report::of(sample::orthogonalized());
        report.catalogue = sample::catalogue();
        let run = &rendered(&report)["runs"][0];
        let result = &run["results"][0];
        assert_eq!((&result["level"], &result["kind"]), (&json!("error"), &json!("fail")));
        let uri = |location: &Value| location["physicalLocation"]["artifactLocation"]["uri"].clone();
        assert_eq!(uri(&result["locations"][0]), "hf/example/tiny-edited/model.safetensors");
        let related = result["relatedLocations"].as_array().expect("a list");
        assert_eq!(related.len(), 32);
        assert_eq!(related[0]["logicalLocations"][0]["name"], "model.layers.4.o_proj.weight");
        assert_eq!(uri(&related[31]), uri(&result["locations"][0]));
        assert!(result["message"]["text"].as_str().is_some_and(|t| t.contains("False positives:")));
        // Of several checkpoints, the one that has the finding.
        let run = &rendered(&Report::of(sample::several()))["runs"][0];
        assert!(run["results"].as_array().expect("a list").len() > 1);
    }

    #[test]
    fn what_is_only_worth_knowing_fails_nothing() {
        let mut examination = sample::clear();
        examination.findings = vec![Finding { severity: Severity::Info, ..sample::finding() }];
        let run = &rendered(&Report::of(examination))["runs"][0];
        assert_eq!(
            (&run["results"][0]["kind"], &run["results"][0]["level"]),
            (&json!("informational"), &json!("none"))
        );
        assert_eq!(run["tool"]["driver"]["rules"][0]["properties"]["security-severity"], "0.0");
    }

    #[test]
    fn a_revision_has_the_fingerprint_of_the_one_before() {
        let of = |examination: Examination| {
            let run = rendered(&Report::of(examination))["runs"][0].clone();
            run["results"][0]["partialFingerprints"].clone()
        };
        let mut next = sample::orthogonalized();
        next.candidate.revision = Some("f".repeat(40));
        next.findings[0].id = "ffffffffffff".into();
        let (before, after) = (of(sample::orthogonalized()), of(next));
        assert_eq!(before["primaryLocationLineHash"], after["primaryLocationLineHash"]);
        assert_ne!(before["orthoscopeFinding/v1"], after["orthoscopeFinding/v1"]);
    }

    #[test]
    fn decisions_are_suppressions() {
        let of = |choices: &[Choice]| {
            let mut report = Report::of(sample::orthogonalized());
            report.decisions.insert(0, choices.iter().copied().map(sample::decision).collect());
            rendered(&report)["runs"][0]["results"][0].clone()
        };
        assert_eq!(of(&[])["suppressions"], json!([]));
        assert_eq!(of(&[Choice::Confirmed])["suppressions"], json!([]));
        let dismissed = &of(&[Choice::SecondLook, Choice::Dismissed]);
        assert_eq!(
            (&dismissed["suppressions"][0]["kind"], &dismissed["suppressions"][0]["status"]),
            (&json!("external"), &json!("accepted"))
        );
        assert!(dismissed["suppressions"][0]["justification"].as_str().is_some_and(|why| why.contains("moderator")));
        assert_eq!(dismissed["properties"]["decisions"].as_array().map(Vec::len), Some(2));
        for choice in [Choice::SecondLook, Choice::Appealed] {
            assert_eq!(of(&[Choice::Dismissed, choice])["suppressions"][0]["status"], "underReview");
        }
    }

    #[test]
    fn folders_of_the_machine_stay_on_it() {
        for (folder, name, uri) in [
            ("/home/someone/secret/models/cand", "cand", "cand/model.safetensors"),
            ("/home/someone/secret/models/cand/", "cand", "cand/model.safetensors"),
            ("/home/someone/secret/model.safetensors", "model.safetensors", "model.safetensors"),
            (r"C:\Users\secret\cand", "cand", "cand/model.safetensors"),
            (r"\\server\secret\cand", "cand", "cand/model.safetensors"),
            ("../../secret/cand", "cand", "cand/model.safetensors"),
            ("models/cand", "models/cand", "models/cand/model.safetensors"),
            ("/", "unnamed", "unnamed/model.safetensors"),
        ] {
            let mut examination = sample::orthogonalized();
            examination.candidate.source = folder.into();
            examination.base.source = "/home/someone/secret/models/base".into();
            examination.status = Status::Partial;
            examination.reason = Some(format!("reading {folder}: cut; base /home/someone/secret/models/base"));
            examination.because = format!("in {folder}");
            examination.anomalies = vec![crate::checkpoint::Anomaly {
                kind: "gap".into(),
                file: "model.safetensors".into(),
                tensor: None,
                detail: format!("{folder}/model.safetensors has one"),
            }];
            let log = rendered(&Report::of(examination));
            assert!(folder == "/" || !log.to_string().contains("secret"), "{folder}: {log:#}");
            let result = &log["runs"][0]["results"][0];
            assert_eq!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], uri, "{folder}");
            assert_eq!(result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"], name, "{folder}");
        }
    }

    #[test]
    fn what_was_not_examined_is_told() {
        let run = &rendered(&Report::of(sample::failed()))["runs"][0];
        assert_eq!(run["invocations"][0]["executionSuccessful"], false);
        assert_eq!(run["invocations"][0]["toolExecutionNotifications"][0]["descriptor"]["id"], "not-examined");
    }

    #[test]
    fn a_hostile_file_name_is_a_harmless_reference() {
        assert_eq!(uri("hf:a/b", "=HYPERLINK(\"x\")"), "hf/a/b/%3DHYPERLINK%28%22x%22%29");
        assert_eq!(uri("hf:a/b", "../../x/./y"), "hf/a/b/x/y");
        assert_eq!(uri("javascript:alert(1)", ""), "javascript%3Aalert%281%29");
        assert!(uri("hf:a/b", &"x".repeat(1 << 20)).len() < 1000);
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
