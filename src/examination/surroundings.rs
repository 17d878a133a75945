//! What a loader takes beside the weights, and what of it differs from the base's: chat template, generation settings,
//! tokenizer, configuration, programs. A model can be made to answer otherwise by any of them, with every weight
//! untouched.
//!
//! Where files lie is transformers' convention: `chat_template.jinja` before `chat_template.json` before the entry of
//! `tokenizer_config.json`, `generation_config.json`, `config.json`; of GGUF the key `tokenizer.chat_template`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{Checkpoint, FileSet};
use crate::limits::{MAX_CONFIG_BYTES, MAX_CONFIG_VALUES_BYTES, MAX_METADATA_TEXT_BYTES};
use crate::source::parse;
use crate::source::{ByteSource, is_same};

/// Differences told of one thing; further ones are counted.
const TOLD: usize = 16;
/// Characters of a value or of a line that are told.
const VALUE_CHARACTERS: usize = 80;
/// How deep in nested settings fields are told one by one.
const NESTED: usize = 3;

/// A thing beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concern {
    /// How a conversation becomes the text that the model reads.
    ChatTemplate,
    /// Sampling: temperature, stop tokens, length.
    Generation,
    /// How text becomes tokens.
    Tokenizer,
    /// Fields of the configuration.
    Configuration,
    /// Programs that come with the weights.
    Code,
}

impl Concern {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 5] = [Self::ChatTemplate, Self::Generation, Self::Tokenizer, Self::Configuration, Self::Code];

    /// The name in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChatTemplate => "chat template",
            Self::Generation => "generation settings",
            Self::Tokenizer => "tokenizer",
            Self::Configuration => "configuration",
            Self::Code => "programs",
        }
    }
}

/// How one thing stands to the base's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SurroundingState {
    /// The same.
    Same,
    /// Not the same.
    Differs,
    /// Not known: one side has none, or it was not read.
    NotCompared,
}

/// One of the five things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surrounding {
    /// Which.
    pub concern: Concern,
    /// How it stands to the base's.
    pub state: SurroundingState,
    /// What differs, or why it was not compared; empty where it is the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// One side: small files, what the format says in their place, and the names of contents where a hub tells them.
pub struct Around<'a> {
    /// Small files that can be read.
    pub files: &'a FileSet,
    /// `config.json`, or what a GGUF header says in its place.
    pub config: &'a Value,
    /// Keys and values of a GGUF header.
    pub metadata: &'a BTreeMap<String, String>,
    /// Whether the configuration is a file's, and whole: that of a GGUF header has fewer fields, as has a hub's
    /// extract.
    pub has_whole_config: bool,
    /// Files of a repository and what their content is called (a SHA-256 or a git name), without reading them.
    pub listed: &'a BTreeMap<String, String>,
}

impl<'a> Around<'a> {
    /// A checkpoint among the files of its folder.
    pub fn of(files: &'a FileSet, opened: &'a Checkpoint, listed: &'a BTreeMap<String, String>) -> Self {
        Self {
            files,
            config: &opened.config,
            metadata: &opened.metadata,
            has_whole_config: opened.format != "gguf" && files.files.contains_key(CONFIG),
            listed,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.files.files.contains_key(name) || self.listed.contains_key(name)
    }

    fn names(&self) -> BTreeSet<&'a str> {
        self.files.files.keys().chain(self.listed.keys()).map(String::as_str).collect()
    }

    fn text(&self, name: &str) -> Option<Result<String, String>> {
        let source = self.files.files.get(name)?;
        Some(text_of(source.as_ref()))
    }

    /// A small JSON file; an error in words where it is there and cannot be read.
    fn json(&self, name: &str) -> Option<Result<Value, String>> {
        let text = self.text(name)?;
        Some(text.and_then(|text| {
            parse::json(text.as_bytes(), MAX_CONFIG_VALUES_BYTES)
                .map_err(|reason| format!("{name} cannot be read as JSON: {reason}"))
        }))
    }
}

fn text_of(source: &dyn ByteSource) -> Result<String, String> {
    if source.len() > MAX_CONFIG_BYTES {
        return Err(format!("{} has {} bytes, more than {MAX_CONFIG_BYTES}", source.name(), source.len()));
    }
    let bytes = source.read(0..source.len()).map_err(|error| error.one_line())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a file of a repository is small and says something of what is compared here: worth a request of its own.
pub fn is_read(name: &str) -> bool {
    const READ: &[&str] = &[TEMPLATE, TEMPLATE_JSON, TOKENIZER_CONFIG, GENERATION, CONFIG];
    READ.contains(&name) || is_named_template(name)
}

const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";
/// GGUF's key.
const HEADER_TEMPLATE: &str = "tokenizer.chat_template";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// Files that make a tokenizer, in transformers.
const TOKENIZERS: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
];

fn is_code(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".py")
}

fn is_named_template(name: &str) -> bool {
    name.strip_prefix("additional_chat_templates/").is_some_and(|rest| rest.ends_with(".jinja") && !rest.contains('/'))
}

/// Holds the candidate's surroundings against the base's.
pub fn compare(base: &Around<'_>, candidate: &Around<'_>) -> Vec<Surrounding> {
    Concern::ALL
        .into_iter()
        .map(|concern| {
            let outcome = match concern {
                Concern::ChatTemplate => templates(base, candidate),
                Concern::Generation => generation(base, candidate),
                Concern::Tokenizer => tokenizers(base, candidate),
                Concern::Configuration => configuration(base, candidate),
                Concern::Code => code(base, candidate),
            };
            let (state, details) = match outcome {
                Outcome::NotCompared(reason) => (SurroundingState::NotCompared, vec![reason]),
                Outcome::Compared(details) if details.is_empty() => (SurroundingState::Same, details),
                Outcome::Compared(details) => (SurroundingState::Differs, details),
            };
            Surrounding { concern, state, details: bounded(details) }
        })
        .collect()
}

/// One list out of those of a repository's variants, by name: what differs in any differs.
pub fn merge<'a>(variants: impl Iterator<Item = (&'a str, &'a [Surrounding])>) -> Vec<Surrounding> {
    let variants: Vec<_> = variants.filter(|(_, list)| !list.is_empty()).collect();
    let of = |concern: Concern| {
        let all: Vec<(&str, &Surrounding)> = (variants.iter())
            .filter_map(|(name, list)| Some((*name, list.iter().find(|one| one.concern == concern)?)))
            .collect();
        let state = [SurroundingState::Differs, SurroundingState::NotCompared, SurroundingState::Same]
            .into_iter()
            .find(|state| all.iter().any(|(_, one)| one.state == *state))?;
        let decisive: Vec<&(&str, &Surrounding)> = all.iter().filter(|(_, one)| one.state == state).collect();
        let (_, first) = decisive.first()?;
        if all.iter().all(|(_, one)| one == first) {
            return Some((*first).clone());
        }
        let told =
            decisive.iter().flat_map(|(name, one)| one.details.iter().map(move |told| format!("{name}: {told}")));
        Some(Surrounding { concern, state, details: bounded(told.collect()) })
    };
    Concern::ALL.into_iter().filter_map(of).collect()
}

/// The first details, and how many more there are.
fn bounded(mut details: Vec<String>) -> Vec<String> {
    if details.len() > TOLD {
        let more = details.len() - TOLD;
        details.truncate(TOLD);
        details.push(format!("and {more} more"));
    }
    details
}

enum Outcome {
    NotCompared(String),
    Compared(Vec<String>),
}

fn not_compared(reason: impl Into<String>) -> Outcome {
    Outcome::NotCompared(reason.into())
}

/// A side's templates by name (`default` for the one that is used unless another is asked for).
fn templates_of(side: &Around<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    if let Some(text) = side.metadata.get(HEADER_TEMPLATE) {
        if text.len() >= MAX_METADATA_TEXT_BYTES || text.starts_with("… (") {
            return Err("too long to be kept".to_owned());
        }
        found.insert("default".to_owned(), text.clone());
        return Ok(found);
    }
    match side.json(TOKENIZER_CONFIG).transpose()?.as_ref().and_then(|config| config.get("chat_template")) {
        Some(Value::String(text)) => {
            found.insert("default".to_owned(), text.clone());
        }
        Some(Value::Array(several)) => found.extend(several.iter().filter_map(|one| {
            Some((one.get("name")?.as_str()?.to_owned(), one.get("template")?.as_str()?.to_owned()))
        })),
        _ => {}
    }
    let own = side.json(TEMPLATE_JSON).transpose()?;
    if let Some(text) = own.as_ref().and_then(|own| own.get("chat_template")).and_then(Value::as_str) {
        found.insert("default".to_owned(), text.to_owned());
    }
    if let Some(text) = side.text(TEMPLATE) {
        found.insert("default".to_owned(), text?);
    }
    for name in side.files.files.keys().filter(|name| is_named_template(name)) {
        let called = name.rsplit('/').next().and_then(|file| file.strip_suffix(".jinja")).unwrap_or(name);
        if let Some(text) = side.text(name) {
            found.insert(called.to_owned(), text?);
        }
    }
    Ok(found)
}

/// Whether a side has any file that would hold a chat template if there were one.
fn may_have_template(side: &Around<'_>) -> bool {
    side.metadata.keys().any(|key| key.starts_with("tokenizer.")) || side.has(TOKENIZER_CONFIG) || side.has(TEMPLATE)
}

fn holds_template(name: &str) -> bool {
    [TOKENIZER_CONFIG, TEMPLATE, TEMPLATE_JSON].contains(&name) || is_named_template(name)
}

/// Whether the files that hold templates are the same by what a hub calls their contents, without asking for them.
fn are_listed_templates_the_same(base: &Around<'_>, candidate: &Around<'_>) -> bool {
    let of = |side: &Around<'_>| -> Option<BTreeMap<String, String>> {
        let names = side.names().into_iter().filter(|name| holds_template(name));
        names.map(|name| Some((name.to_owned(), side.listed.get(name)?.clone()))).collect()
    };
    let in_header = |side: &Around<'_>| side.metadata.contains_key(HEADER_TEMPLATE);
    !in_header(base)
        && !in_header(candidate)
        && of(base).is_some_and(|own| !own.is_empty() && of(candidate) == Some(own))
}

fn templates(base: &Around<'_>, candidate: &Around<'_>) -> Outcome {
    if are_listed_templates_the_same(base, candidate) {
        return Outcome::Compared(Vec::new());
    }
    for side in [base, candidate] {
        let unread =
            side.names().into_iter().find(|name| holds_template(name) && !side.files.files.contains_key(*name));
        if let Some(name) = unread {
            return not_compared(format!("{} was not read", cut(name)));
        }
    }
    let (own, theirs) = match (templates_of(base), templates_of(candidate)) {
        (Ok(own), Ok(theirs)) => (own, theirs),
        (Err(reason), _) => return not_compared(format!("the base's: {reason}")),
        (_, Err(reason)) => return not_compared(format!("the candidate's: {reason}")),
    };
    if own.is_empty() && theirs.is_empty() {
        return match may_have_template(base) && may_have_template(candidate) {
            true => Outcome::Compared(Vec::new()),
            false => not_compared("neither side has one"),
        };
    }
    if own.is_empty() && !may_have_template(base) {
        return not_compared("the candidate has one, and the base given has no tokenizer files");
    }
    if theirs.is_empty() && !may_have_template(candidate) {
        return not_compared("the candidate has no tokenizer files");
    }
    let names: BTreeSet<&String> = own.keys().chain(theirs.keys()).collect();
    let told = |name: &str| if name == "default" { String::new() } else { format!("{name}: ") };
    let differs = names.into_iter().filter_map(|name| match (own.get(name), theirs.get(name)) {
        (Some(before), Some(after)) if before.trim_end() == after.trim_end() => None,
        (Some(before), Some(after)) => Some(format!("{}{}", told(name), first_difference(before, after))),
        (None, Some(after)) => Some(format!("{}added ({} characters)", told(name), after.chars().count())),
        (Some(_), None) => Some(format!("{}the candidate has none", told(name))),
        (None, None) => None,
    });
    Outcome::Compared(differs.collect())
}

/// The first line in which two texts differ.
fn first_difference(before: &str, after: &str) -> String {
    let (mut own, mut theirs) = (before.lines(), after.lines());
    let mut at = 1;
    loop {
        match (own.next(), theirs.next()) {
            (Some(one), Some(other)) if one == other => at += 1,
            (one, other) => {
                let lengths = format!("{} characters, {} in the base", after.chars().count(), before.chars().count());
                // A template is often one line: what both begin with tells nothing.
                let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
                let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
                let from = same.saturating_sub(VALUE_CHARACTERS / 4);
                let shown = |line: &str| {
                    let before = if from > 0 { "…" } else { "" };
                    format!("\"{before}{}\"", cut(&line.chars().skip(from).collect::<String>()))
                };
                return format!("changed ({lengths}): line {at} is {}, in the base {}", shown(other), shown(one));
            }
        }
    }
}

fn cut(text: &str) -> String {
    match text.chars().nth(VALUE_CHARACTERS) {
        Some(_) => format!("{}…", text.chars().take(VALUE_CHARACTERS).collect::<String>()),
        None => text.to_owned(),
    }
}

fn shown(value: &Value) -> String {
    cut(&value.to_string())
}

/// Fields of two objects that differ, `null` standing for a field that is not there.
fn fields(before: &Value, after: &Value, ignored: &[&str], prefix: &str, depth: usize, out: &mut Vec<String>) {
    let empty = serde_json::Map::new();
    let (own, theirs) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let names: BTreeSet<&String> = own.keys().chain(theirs.keys()).collect();
    for name in names.into_iter().filter(|name| !ignored.contains(&name.as_str())) {
        let of = |side: &serde_json::Map<String, Value>| side.get(name).cloned().unwrap_or(Value::Null);
        let (one, other) = (of(own), of(theirs));
        if is_equal(&one, &other) {
            continue;
        }
        let path = format!("{prefix}{}", cut(name));
        if one.is_object() && other.is_object() && depth > 1 {
            fields(&one, &other, ignored, &format!("{path}."), depth - 1, out);
            continue;
        }
        out.push(match (&one, &other) {
            (Value::Null, _) => format!("{path} is {}, not set in the base", shown(&other)),
            (_, Value::Null) => format!("{path} is not set, {} in the base", shown(&one)),
            _ => format!("{path} is {}, {} in the base", shown(&other), shown(&one)),
        });
    }
}

/// Equal values; 1 and 1.0 are.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_equal(one, other))
        }
        _ => one == other,
    }
}

/// Fields that say who saved a file and in what, and nothing of how the model answers.
const OF_SAVING: &[&str] = &["_name_or_path", "transformers_version", "torch_dtype", "dtype", "_from_model_config"];

/// A JSON file of both sides, field by field.
fn json_file(base: &Around<'_>, candidate: &Around<'_>, name: &str, ignored: &[&str]) -> Option<Outcome> {
    if !base.has(name) || !candidate.has(name) {
        return None;
    }
    if let (Some(one), Some(other)) = (base.listed.get(name), candidate.listed.get(name))
        && one == other
    {
        return Some(Outcome::Compared(Vec::new()));
    }
    Some(match (base.json(name), candidate.json(name)) {
        (Some(Ok(before)), Some(Ok(after))) => {
            let mut out = Vec::new();
            fields(&before, &after, ignored, "", NESTED, &mut out);
            Outcome::Compared(out)
        }
        (Some(Err(reason)), _) => not_compared(format!("the base's: {reason}")),
        (_, Some(Err(reason))) => not_compared(format!("the candidate's: {reason}")),
        _ => not_compared(format!("{name} was not read")),
    })
}

fn generation(base: &Around<'_>, candidate: &Around<'_>) -> Outcome {
    if let Some(outcome) = json_file(base, candidate, GENERATION, OF_SAVING) {
        return outcome;
    }
    let whole = base.has(CONFIG) && candidate.has(CONFIG);
    match (base.has(GENERATION), candidate.has(GENERATION)) {
        (false, false) => not_compared(format!("neither side has {GENERATION}")),
        (true, false) if whole => Outcome::Compared(vec![format!("the candidate has no {GENERATION}")]),
        (false, true) if whole => Outcome::Compared(vec![format!("{GENERATION} was added")]),
        (true, _) => not_compared(format!("the candidate has no {GENERATION}")),
        (false, true) => not_compared(format!("the base given has no {GENERATION}")),
    }
}

fn tokenizers(base: &Around<'_>, candidate: &Around<'_>) -> Outcome {
    let of_gguf = |side: &Around<'_>| side.metadata.keys().any(|key| key.starts_with("tokenizer."));
    if of_gguf(base) && of_gguf(candidate) {
        let keys: BTreeSet<&String> = base.metadata.keys().chain(candidate.metadata.keys()).collect();
        let differs = keys
            .into_iter()
            .filter(|key| key.starts_with("tokenizer.") && *key != HEADER_TEMPLATE)
            .filter_map(|key| match (base.metadata.get(key), candidate.metadata.get(key)) {
                (one, other) if one == other => None,
                (Some(one), Some(other)) => Some(format!("{key} is {}, {} in the base", cut(other), cut(one))),
                (None, _) => Some(format!("{key} was added")),
                (_, None) => Some(format!("the candidate has no {key}")),
            });
        return Outcome::Compared(differs.collect());
    }
    if of_gguf(base) || of_gguf(candidate) {
        return not_compared("of GGUF and other files it is not held against one another");
    }
    let mut details = Vec::new();
    let mut compared = false;
    let mut unread = None;
    if let Some(outcome) = json_file(base, candidate, TOKENIZER_CONFIG, &[OF_SAVING, &["chat_template"]].concat()) {
        match outcome {
            Outcome::Compared(found) => {
                compared = true;
                details.extend(found.into_iter().map(|told| format!("{TOKENIZER_CONFIG}: {told}")));
            }
            Outcome::NotCompared(reason) => unread = Some(reason),
        }
    }
    for name in TOKENIZERS {
        match is_same_file(base, candidate, name) {
            None if base.has(name) && candidate.has(name) => unread = Some(format!("{name} was not read")),
            None => {}
            Some(same) => {
                compared = true;
                if !same {
                    details.push(format!("{name} differs"));
                }
            }
        }
    }
    match unread {
        Some(reason) if details.is_empty() => not_compared(reason),
        _ if compared => {
            let of_one = |one: &Around<'_>, other: &Around<'_>| -> Vec<&str> {
                TOKENIZERS.iter().copied().filter(|name| one.has(name) && !other.has(name)).collect()
            };
            details.extend(of_one(candidate, base).iter().map(|name| format!("{name} was added")));
            details.extend(of_one(base, candidate).iter().map(|name| format!("the candidate has no {name}")));
            Outcome::Compared(details)
        }
        _ => not_compared("no tokenizer file that both sides have"),
    }
}

/// Whether a file that both have holds the same; `None` where one lacks it or it cannot be told without reading it.
fn is_same_file(base: &Around<'_>, candidate: &Around<'_>, name: &str) -> Option<bool> {
    if let (Some(one), Some(other)) = (base.listed.get(name), candidate.listed.get(name)) {
        let kind = |id: &str| id.split_once(':').map(|(kind, _)| kind.to_owned());
        if one == other || kind(one) == kind(other) {
            return Some(one == other);
        }
    }
    let (one, other) = base.files.files.get(name).zip(candidate.files.files.get(name))?;
    Some(is_same(one.as_ref(), other.as_ref()))
}

/// Whether a hub calls the content of both sides' `config.json` the same.
fn is_listed_config_the_same(base: &Around<'_>, candidate: &Around<'_>) -> bool {
    let of = |side: &Around<'_>| side.listed.get(CONFIG).cloned();
    of(base).is_some() && of(base) == of(candidate)
}

fn configuration(base: &Around<'_>, candidate: &Around<'_>) -> Outcome {
    if is_listed_config_the_same(base, candidate) {
        return Outcome::Compared(Vec::new());
    }
    if !base.config.is_object() || !candidate.config.is_object() {
        return not_compared("one of the two has no configuration");
    }
    let ignored = [OF_SAVING, &["auto_map", "quantization_config", "use_cache"]].concat();
    let mut details = Vec::new();
    if base.has_whole_config && candidate.has_whole_config {
        fields(base.config, candidate.config, &ignored, "", NESTED, &mut details);
        return Outcome::Compared(details);
    }
    // Of a header or an extract only what both have can differ, and the rest is not known to be the same.
    let both = |one: &Value, other: &Value| -> Value {
        let (one, other) = (one.as_object(), other.as_object());
        let kept = one.into_iter().flatten().filter(|(name, _)| other.is_some_and(|other| other.contains_key(*name)));
        Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    let (own, theirs) = (both(base.config, candidate.config), both(candidate.config, base.config));
    fields(&own, &theirs, &[ignored.as_slice(), &["architectures", "model_type"]].concat(), "", NESTED, &mut details);
    match details.is_empty() {
        true => not_compared("not read whole on both sides; the fields that both tell are the same"),
        false => Outcome::Compared(details),
    }
}

fn code(base: &Around<'_>, candidate: &Around<'_>) -> Outcome {
    let mut details = Vec::new();
    let map = |side: &Around<'_>| side.config.get("auto_map").cloned().unwrap_or(Value::Null);
    let (own, theirs) = (map(base), map(candidate));
    if own != theirs {
        details.push(match (&own, &theirs) {
            (Value::Null, _) => format!("auto_map has loaders run {}, nothing in the base", shown(&theirs)),
            (_, Value::Null) => format!("auto_map is gone, {} in the base", shown(&own)),
            _ => format!("auto_map has loaders run {}, {} in the base", shown(&theirs), shown(&own)),
        });
    }
    let (before, after) = (base.names(), candidate.names());
    for name in after.iter().filter(|name| is_code(name)) {
        if !before.contains(name) {
            details.push(format!("{} was added", cut(name)));
        } else {
            match is_same_file(base, candidate, name) {
                Some(true) => {}
                Some(false) => details.push(format!("{} differs", cut(name))),
                None => details.push(format!("{} was not read", cut(name))),
            }
        }
    }
    let is_known = base.has_whole_config && candidate.has_whole_config || is_listed_config_the_same(base, candidate);
    if details.is_empty() && !is_known {
        return not_compared(format!("no program was added or changed; whether {CONFIG} names others was not read"));
    }
    // What an upload leaves out of its base's programs is none of its own.
    Outcome::Compared(details)
}
