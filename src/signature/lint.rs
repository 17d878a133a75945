//! What `signatures check` demands of a signature: complete, explained, and every bound needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::SourceFile;
use super::file::{FrontMatter, Implies, NEEDS, Signature, SignatureFamily, severity_word};
use crate::examination::Severity;
use crate::profile::names::MEASUREMENTS;

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The signature cannot be used as it is.
    Error,
    /// It can, but should be better.
    Warning,
}

/// One fault of one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LintFault {
    /// The file's name without `.md`.
    pub file: String,
    /// How bad.
    pub level: Level,
    /// Which of [`RULES`].
    pub rule: &'static str,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for LintFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        write!(f, "{}.md: {level}: {} ({})", self.file, self.message, self.rule)
    }
}

/// Every rule with what it demands.
pub static RULES: &[(&str, &str)] = &[
    ("parse", "front matter is complete TOML with known words, and prose stands under the fixed headings"),
    ("file-name", "the id is the file's name without .md"),
    ("id-format", "the id is kebab-case"),
    ("id-unique", "no two signatures share an id"),
    ("title", "the title is one line of at most 100 characters without a full stop"),
    ("since", "since is a version of three numbers"),
    ("references", "there is a reference"),
    ("producers", "a family of tools is named once, and only where something was produced by a tool"),
    ("needs", "needs lists known words, at least one, each once"),
    ("severity", "look-alikes and packaging imply nothing; look-alikes are info; what implies orthogonalized is high"),
    ("when-empty", "there is a clause"),
    ("measurement-known", "clauses and examples speak of named measurements"),
    ("range", "a range has a finite bound, and its bounds leave something inside"),
    ("unit", "bounds lie inside what the unit allows"),
    ("example-missing", "there is an example and a counter example"),
    ("example-note", "every example and counter example has a note"),
    ("example-fails", "the signature holds for every example"),
    ("counter-example-form", "a counter example has either measurements or instead"),
    ("counter-example-holds", "the signature does not hold for any counter example"),
    ("bound-unneeded", "for every bound there is a counter example that fails by that bound alone"),
];

/// All faults of these files, sorted.
pub fn check(files: &[SourceFile]) -> Vec<LintFault> {
    let mut faults = Vec::new();
    let mut ids: BTreeSet<String> = BTreeSet::new();
    for file in files {
        let mut report = Report { file: &file.id, faults: &mut faults };
        match Signature::parse(&file.id, &file.text) {
            Err(error) => report.error("parse", error.one_line()),
            Ok(signature) => {
                if !ids.insert(signature.id().to_owned()) {
                    report.error("id-unique", format!("the id {:?} is taken", signature.id()));
                }
                one(&signature, &mut report);
            }
        }
    }
    faults.sort();
    faults
}

/// Faults of one file, as they are found.
struct Report<'a> {
    file: &'a str,
    faults: &'a mut Vec<LintFault>,
}

impl Report<'_> {
    fn error(&mut self, rule: &'static str, message: impl Into<String>) {
        self.add(Level::Error, rule, message.into());
    }

    fn warning(&mut self, rule: &'static str, message: impl Into<String>) {
        self.add(Level::Warning, rule, message.into());
    }

    fn add(&mut self, level: Level, rule: &'static str, message: String) {
        self.faults.push(LintFault { file: self.file.to_owned(), level, rule, message });
    }
}

fn one(signature: &Signature, report: &mut Report<'_>) {
    let front = &signature.front;
    if front.id != report.file {
        report.error("file-name", format!("the id is {:?}", front.id));
    }
    if !is_kebab(&front.id) {
        report.error("id-format", format!("the id {:?} is not kebab-case", front.id));
    }
    words(front, report);
    severity(front, report);
    ranges(front, report);
    examples(signature, report);
}

fn words(front: &FrontMatter, report: &mut Report<'_>) {
    let title = front.title.trim();
    if title.is_empty() || title.contains('\n') {
        report.error("title", "the title is empty or not one line");
    } else if title.chars().count() > 100 || title.ends_with('.') {
        report.warning("title", "the title is longer than 100 characters or ends in a full stop");
    }
    let parts: Vec<&str> = front.since.split('.').collect();
    if parts.len() != 3 || !parts.iter().all(|part| part.parse::<u32>().is_ok()) {
        report.error("since", format!("{:?} is not a version of three numbers", front.since));
    }
    if front.references.iter().all(|reference| reference.trim().is_empty()) {
        report.warning("references", "no reference is given");
    }
    let producers: BTreeSet<&str> = front.producers.iter().map(|producer| producer.trim()).collect();
    if producers.len() != front.producers.len() || producers.contains("") {
        report.warning("producers", "a producer is empty or named twice");
    }
    let needs: BTreeSet<&str> = front.needs.iter().map(String::as_str).collect();
    if needs.is_empty() || needs.len() != front.needs.len() {
        report.error("needs", "needs is empty or repeats a word");
    }
    for word in needs.iter().filter(|word| !NEEDS.contains(word)) {
        report.error("needs", format!("{word:?} is not one of {}", NEEDS.join(", ")));
    }
}

fn severity(front: &FrontMatter, report: &mut Report<'_>) {
    let wrong = match front.family {
        SignatureFamily::LookAlike => front.severity != Severity::Info || front.implies != Implies::None,
        SignatureFamily::Packaging => front.implies != Implies::None,
        SignatureFamily::Orthogonalization | SignatureFamily::Code => {
            front.implies == Implies::Orthogonalized
                && (front.severity != Severity::High || front.family != SignatureFamily::Orthogonalization)
        }
    };
    if wrong {
        report.error(
            "severity",
            format!(
                "family {}, severity {} and implies {} do not go together",
                front.family.as_str(),
                severity_word(front.severity),
                front.implies.as_str()
            ),
        );
    }
}

fn ranges(front: &FrontMatter, report: &mut Report<'_>) {
    if front.when.clauses.is_empty() {
        report.error("when-empty", "there is no clause");
    }
    for (name, range) in &front.when.clauses {
        let Some(measurement) = MEASUREMENTS.iter().find(|measurement| measurement.name == name) else {
            report.error("measurement-known", format!("no measurement is called {name:?}"));
            continue;
        };
        let bounds: Vec<f64> = range.bounds().map(|(_, bound)| bound).collect();
        let nothing_inside = range
            .min
            .is_some_and(|min| range.max.is_some_and(|max| min > max) || range.below.is_some_and(|below| min >= below));
        if bounds.is_empty() || bounds.iter().any(|bound| !bound.is_finite()) || nothing_inside {
            report.error("range", format!("the range of {name} has no finite bound or nothing inside"));
        }
        let (low, high) = unit_range(measurement.unit);
        if bounds.iter().any(|bound| *bound < low || *bound > high) {
            report.error("unit", format!("{name} is a {}: bounds lie in {low} to {high}", measurement.unit));
        }
    }
}

/// The values that a unit allows.
fn unit_range(unit: &str) -> (f64, f64) {
    match unit {
        "share" => (0.0, 1.0),
        "cosine" => (-1.0, 1.0),
        "count" | "ratio" => (0.0, f64::INFINITY),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}

fn examples(signature: &Signature, report: &mut Report<'_>) {
    let front = &signature.front;
    if front.example.is_empty() || front.counter_example.is_empty() {
        report.error("example-missing", "an example and a counter example are needed");
    }
    for (number, example) in front.example.iter().enumerate() {
        let number = number + 1;
        note(&example.note, &format!("example {number}"), report);
        known(&example.measurements, &format!("example {number}"), report);
        if !front.when.holds(&example.measurements) {
            let failing = describe(&front.when.failing_bounds(&example.measurements));
            report.error("example-fails", format!("example {number} fails by {failing}"));
        }
    }
    let mut needed = BTreeSet::new();
    for (number, counter) in front.counter_example.iter().enumerate() {
        let number = number + 1;
        note(&counter.note, &format!("counter example {number}"), report);
        if counter.measurements.is_some() == counter.instead.is_some() {
            report.error(
                "counter-example-form",
                format!("counter example {number} needs either measurements or instead"),
            );
            continue;
        }
        let values = signature.counter_measurements(counter);
        known(&values, &format!("counter example {number}"), report);
        let failing = front.when.failing_bounds(&values);
        if failing.is_empty() && front.when.holds(&values) {
            report.error("counter-example-holds", format!("the signature holds for counter example {number}"));
        }
        if let [(name, side)] = failing.as_slice() {
            needed.insert(((*name).to_owned(), *side));
        }
    }
    for (name, range) in &front.when.clauses {
        for (side, _) in range.bounds() {
            if !needed.contains(&(name.clone(), side)) {
                report.error(
                    "bound-unneeded",
                    format!("no counter example fails by {name} {} alone: add one, or drop the bound", side.as_str()),
                );
            }
        }
    }
}

fn note(note: &str, which: &str, report: &mut Report<'_>) {
    if note.trim().is_empty() {
        report.warning("example-note", format!("{which} has no note"));
    }
}

fn known(values: &BTreeMap<String, f64>, which: &str, report: &mut Report<'_>) {
    for name in values.keys().filter(|name| !MEASUREMENTS.iter().any(|measurement| measurement.name == **name)) {
        report.error("measurement-known", format!("{which} speaks of {name:?}, which is no measurement"));
    }
}

fn describe(failing: &[(&str, super::condition::Bound)]) -> String {
    let all: Vec<String> = failing.iter().map(|(name, side)| format!("{name} {}", side.as_str())).collect();
    if all.is_empty() { "a value that is not a number".to_owned() } else { all.join(", ") }
}

fn is_kebab(id: &str) -> bool {
    !id.is_empty()
        && id
            .split('-')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::builtin_files;

    const GOOD: &str = r#"+++
id = "good-one"
title = "A title"
since = "0.1.0"
status = "preview"
severity = "high"
family = "orthogonalization"
implies = "orthogonalized"
producers = ["a tool"]
needs = ["writers"]
references = ["a paper"]

[when]
"projection.tensors" = { min = 3 }
"projection.consistency" = { min = 0.85 }

[[example]]
note = "holds"
[example.measurements]
"projection.tensors" = 4
"projection.consistency" = 0.9

[[counter_example]]
note = "too few"
instead = { "projection.tensors" = 2 }

[[counter_example]]
note = "too loose"
instead = { "projection.consistency" = 0.5 }
+++

## What was seen

This.

## What else looks like this

That.

## What to do

Look.
"#;

    fn faults(id: &str, text: &str) -> Vec<&'static str> {
        let rules: BTreeSet<&'static str> =
            check(&[SourceFile { id: id.to_owned(), text: text.to_owned() }]).iter().map(|fault| fault.rule).collect();
        rules.into_iter().collect()
    }

    #[test]
    fn built_in_signatures_are_without_fault() {
        let faults = check(&builtin_files());
        let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(all.is_empty(), "{}", all.join("\n"));
    }

    /// Each rule with an edit of the good file that breaks it and nothing else.
    #[test]
    fn each_rule_has_a_case_that_breaks_it() {
        assert_eq!(faults("good-one", GOOD), Vec::<&str>::new());
        let cases: &[(&str, &str, &str)] = &[
            ("parse", "severity = \"high\"", "severity = \"huge\""),
            ("parse", "since = \"0.1.0\"\n", ""),
            ("parse", "## What to do\n\nLook.\n", ""),
            ("parse", "## What was seen\n\nThis.\n\n## What else", "## What else"),
            ("parse", "Look.\n", "\n"),
            ("parse", "## What was seen", "Before.\n\n## What was seen"),
            ("parse", "status = \"preview\"", "status = \"preview\"\nowner = \"nobody\""),
            ("parse", "{ min = 3 }", "{ least = 3 }"),
            ("file-name", "id = \"good-one\"", "id = \"other-one\""),
            ("title", "title = \"A title\"", "title = \"A title.\""),
            ("title", "title = \"A title\"", "title = \" \""),
            ("since", "since = \"0.1.0\"", "since = \"soon\""),
            ("references", "[\"a paper\"]", "[]"),
            ("producers", "[\"a tool\"]", "[\"a tool\", \"a tool\"]"),
            ("needs", "[\"writers\"]", "[]"),
            ("needs", "[\"writers\"]", "[\"luck\"]"),
            ("severity", "severity = \"high\"", "severity = \"low\""),
            ("severity", "\"orthogonalization\"", "\"look-alike\""),
            (
                "measurement-known",
                "\"projection.tensors\" = 4\n",
                "\"projection.tensors\" = 4\n\"projection.luck\" = 1\n",
            ),
            ("range", "{ min = 0.85 }", "{ min = 0.85, max = 0.8 }"),
            ("unit", "{ min = 0.85 }", "{ min = 0.85, max = 1.5 }"),
            (
                "example-missing",
                "[[example]]\nnote = \"holds\"\n[example.measurements]\n\"projection.tensors\" = 4\n\"projection.consistency\" = 0.9\n",
                "",
            ),
            ("example-note", "note = \"too few\"", "note = \"\""),
            ("example-fails", "\"projection.tensors\" = 4", "\"projection.tensors\" = 1"),
            ("counter-example-form", "instead = { \"projection.tensors\" = 2 }", ""),
            ("counter-example-holds", "{ \"projection.tensors\" = 2 }", "{ \"projection.tensors\" = 9 }"),
            (
                "bound-unneeded",
                "{ \"projection.consistency\" = 0.5 }",
                "{ \"projection.consistency\" = 0.5, \"projection.tensors\" = 1 }",
            ),
        ];
        let mut seen = BTreeSet::from(["id-format", "id-unique", "when-empty"]);
        for (rule, from, to) in cases {
            assert!(GOOD.contains(from), "{rule}: {from}");
            let found = faults("good-one", &GOOD.replacen(from, to, 1));
            assert!(found.contains(rule), "{rule} is not among {found:?} for {to:?}");
            seen.insert(rule);
        }
        let all: BTreeSet<&str> = RULES.iter().map(|(rule, _)| *rule).collect();
        assert_eq!(seen, all, "every rule needs a case");
    }

    #[test]
    fn the_documented_example_is_without_fault() {
        let guide = include_str!("../../docs/adding-a-signature.md");
        let text = guide.split("```markdown\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        assert_eq!(faults("heavily-reflected", text), Vec::<&str>::new());
    }

    #[test]
    fn ids_are_kebab_case_and_unique() {
        assert_eq!(faults("Good_One", &GOOD.replace("good-one", "Good_One")), ["id-format"]);
        let file = SourceFile { id: "good-one".to_owned(), text: GOOD.to_owned() };
        assert_eq!(check(&[file.clone(), file]).iter().map(|fault| fault.rule).collect::<Vec<_>>(), ["id-unique"]);
    }

    #[test]
    fn a_signature_without_clauses_is_refused() {
        let text =
            GOOD.replace("\"projection.tensors\" = { min = 3 }\n\"projection.consistency\" = { min = 0.85 }\n", "");
        assert!(faults("good-one", &text).contains(&"when-empty"));
    }

    #[test]
    fn a_fault_says_where_and_which_rule() {
        let file = SourceFile { id: "x".to_owned(), text: "no front matter".to_owned() };
        let text: Vec<String> = check(&[file]).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            ["x.md: error: reading signature x: it has to open with TOML between two lines of +++ (parse)"]
        );
    }
}
