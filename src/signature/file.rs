//! One signature file: TOML front matter between `+++` lines, then prose under fixed headings.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Severity;
use crate::ids::Digest;

/// Where a signature stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureStatus {
    /// Judged and shown, but its numbers may still move.
    Preview,
    /// Judged and shown; its meaning does not change any more.
    Stable,
    /// Kept so that old findings can be explained; judged no more.
    Withdrawn,
}

impl SignatureStatus {
    /// The word in the front matter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preview => "preview",
            Self::Stable => "stable",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What kind of thing a signature describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureFamily {
    /// A direction, or several, taken out of weights; and its close kin.
    Orthogonalization,
    /// Something honest that shares some of the numbers: named so that it can be shown as an alternative.
    LookAlike,
    /// How files and tensors were laid out.
    Packaging,
    /// Something that would run when the model is loaded.
    Code,
}

impl SignatureFamily {
    /// The word in the front matter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orthogonalization => "orthogonalization",
            Self::LookAlike => "look-alike",
            Self::Packaging => "packaging",
            Self::Code => "code",
        }
    }
}

/// What a signature that holds says about the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Implies {
    /// Nothing by itself.
    None,
    /// At least `suspect`.
    Suspect,
    /// `orthogonalized`.
    Orthogonalized,
}

impl Implies {
    /// The word in the front matter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Suspect => "suspect",
            Self::Orthogonalized => "orthogonalized",
        }
    }
}

/// The word of a severity, as JSON and the front matter spell it.
pub const fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
    }
}

/// Numbers for which the signature must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What the numbers are from.
    pub note: String,
    /// Measurement name to value.
    pub measurements: BTreeMap<String, f64>,
}

/// Numbers for which the signature must not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CounterExample {
    /// What it is, and why it is something else.
    pub note: String,
    /// Measurement name to value: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurements: Option<BTreeMap<String, f64>>,
    /// The first example's numbers with these in place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<BTreeMap<String, f64>>,
}

/// Everything between the `+++` lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontMatter {
    /// The file's name without `.md`; kebab-case.
    pub id: String,
    /// One line for a list.
    pub title: String,
    /// The version of orthoscope that first had it.
    pub since: String,
    /// Where it stands in its life.
    pub status: SignatureStatus,
    /// How serious a finding it makes.
    pub severity: Severity,
    /// What kind of thing it describes.
    pub family: SignatureFamily,
    /// What it says about the verdict.
    pub implies: Implies,
    /// Families of tools whose output is consistent with it. Tools, never people.
    pub producers: Vec<String>,
    /// What must have been compared for it to be able to hold: words of [`NEEDS`].
    pub needs: Vec<String>,
    /// Papers, tool versions, sections of the documentation.
    pub references: Vec<String>,
    /// The clauses that must all hold.
    pub when: Condition,
    /// Numbers for which it holds; at least one.
    #[serde(default)]
    pub example: Vec<Example>,
    /// Numbers for which it does not; at least one for each bound.
    #[serde(default)]
    pub counter_example: Vec<CounterExample>,
}

/// The words of `needs`.
pub static NEEDS: &[&str] = &["writers", "readers", "embeddings", "norms", "biases", "routers", "files"];

/// The headings under which every signature explains itself, in this order.
pub static HEADINGS: [&str; 3] = ["What was seen", "What else looks like this", "What to do"];

/// A signature: its front matter, prose and exact text.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    /// The front matter.
    pub front: FrontMatter,
    /// Text under each of [`HEADINGS`], trimmed, in that order.
    pub prose: [String; 3],
    /// The whole file.
    pub text: String,
}

impl Signature {
    /// Reads one file. `name` is for messages.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let (front, body) = split(text).ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                format!("reading signature {name}: it has to open with TOML between two lines of +++"),
            )
        })?;
        let front: FrontMatter = toml::from_str(front).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("reading front matter of signature {name}: {}", flat(&error)))
        })?;
        let prose = sections(body)
            .map_err(|what| Error::new(ErrorKind::Usage, format!("reading prose of signature {name}: {what}")))?;
        Ok(Self { front, prose, text: text.to_owned() })
    }

    /// The signature's id.
    pub fn id(&self) -> &str {
        &self.front.id
    }

    /// SHA-256 of the file's text.
    pub fn hash(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// The measurements of a counter example, with what it takes from the first example.
    pub fn counter_measurements(&self, counter: &CounterExample) -> BTreeMap<String, f64> {
        let mut values = match (&counter.measurements, self.front.example.first()) {
            (Some(values), _) => values.clone(),
            (None, Some(example)) => example.measurements.clone(),
            (None, None) => BTreeMap::new(),
        };
        values.extend(counter.instead.iter().flatten().map(|(name, value)| (name.clone(), *value)));
        values
    }
}

/// A TOML error on one line.
fn flat(error: &impl fmt::Display) -> String {
    error.to_string().split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" · ")
}

/// Front matter and body.
fn split(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("+++\n")?;
    let end = rest.find("\n+++\n")?;
    Some((rest.get(..end + 1)?, rest.get(end + 5..)?))
}

/// The text under each heading; a heading that is missing, unknown, repeated, out of order or empty is an error.
fn sections(body: &str) -> std::result::Result<[String; 3], String> {
    let mut prose = [String::new(), String::new(), String::new()];
    let mut current: Option<usize> = None;
    for line in body.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let next = current.map_or(0, |at| at + 1);
            if HEADINGS.get(next) != Some(&title.trim()) {
                return Err(match HEADINGS.get(next) {
                    Some(expected) => {
                        format!("heading {:?} stands where {expected:?} is expected", title.trim())
                    }
                    None => format!("heading {:?} is one too many", title.trim()),
                });
            }
            current = Some(next);
        } else if let Some(section) = current.and_then(|at| prose.get_mut(at)) {
            section.push_str(line);
            section.push('\n');
        } else if !line.trim().is_empty() {
            return Err(format!("text before the heading {:?}", HEADINGS[0]));
        }
    }
    for (heading, text) in HEADINGS.iter().zip(&mut prose) {
        *text = text.trim().to_owned();
        if text.is_empty() {
            return Err(format!("nothing under the heading {heading:?}"));
        }
    }
    Ok(prose)
}
