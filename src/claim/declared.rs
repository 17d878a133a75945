//! Reads bases out of each place that may name one.

use serde_json::Value;

use super::files::split_card;
use super::{Declarations, Found};
use crate::hub::HubEntry;
use crate::hub::location::{Pages, with_pages};
use crate::limits::MAX_NAMED_BASES;

/// Relations the hubs know.
const RELATIONS: &[&str] = &["finetune", "quantized", "adapter", "merge"];

/// A hub's model name, `owner/name` with the characters hubs allow; `None` for paths and other text.
fn model_name(text: &str) -> Option<String> {
    let text = text.trim();
    let text = with_pages().find_map(|(entry, pages)| behind(text, entry, pages)).unwrap_or(text).trim_end_matches('/');
    let (owner, name) = text.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(['.', '-'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    (plain(owner) && plain(name)).then(|| text.to_owned())
}

/// What stands behind a hub's prefix, or behind the beginning that the addresses of its pages share.
fn behind<'t>(text: &'t str, entry: &HubEntry, pages: &Pages) -> Option<&'t str> {
    if let Some(name) = text.strip_prefix(entry.prefix).and_then(|rest| rest.strip_prefix(':')) {
        return Some(name);
    }
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let on = |host: &&str| address.strip_prefix(*host)?.strip_prefix('/')?.strip_prefix(pages.above);
    pages.hosts.iter().find_map(on)
}

/// Text values of a string or a list of strings (or of objects with an `id`).
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items
            .iter()
            .take(MAX_NAMED_BASES)
            .filter_map(|item| item.as_str().or_else(|| item.get("id").and_then(Value::as_str)))
            .collect(),
        _ => Vec::new(),
    }
}

fn relation_of(text: Option<&str>) -> Option<String> {
    text.filter(|text| RELATIONS.contains(text)).map(str::to_owned)
}

/// Everything found, unranked.
pub(super) fn read(declared: &Declarations) -> Vec<Found> {
    let mut found = Vec::new();
    let mut add = |from: &'static str, rank: u8, text: &str, relation: Option<String>| {
        if let Some(base) = model_name(text) {
            found.push(Found { from, base, relation, rank });
        }
    };

    // 1. The first heading, where tools write what they edited over a card they copied.
    if let Some(base) = declared.readme.as_deref().and_then(heading) {
        add("readme.heading", 10, &base, None);
    }
    // 2. An adapter cannot be loaded without its base, so this name was right when it was trained.
    let adapter = &declared.adapter;
    for text in adapter.get("base_model_name_or_path").map(texts).unwrap_or_default() {
        add("adapter_config", 20, text, Some("adapter".to_owned()));
    }
    // 3. The card.
    let said = declared.card.get("base_model_relation").and_then(Value::as_str);
    let bases = declared.card.get("base_model").map(texts).unwrap_or_default();
    let relation = relation_of(said).or_else(|| (bases.len() > 1).then(|| "merge".to_owned()));
    for text in bases {
        add("card.base_model", 30, text, relation.clone());
    }
    // 4. The hub's reading of the card: the tag with a relation is its inference.
    let tagged = declared.tags.iter().filter_map(|tag| tag.strip_prefix("base_model:"));
    for text in tagged.take(2 * MAX_NAMED_BASES) {
        match text.split_once(':') {
            Some((relation, base)) => add("tags", 40, base, relation_of(Some(relation))),
            None => add("tags", 41, text, None),
        }
    }
    for (relation, text) in hub_bases(&declared.base_models) {
        add("hub.baseModels", 42, text, relation_of(relation));
    }
    // 5. What the weights' own files carry.
    for (key, value) in &declared.metadata {
        let lineage = (key.starts_with("general.base_model.") && (key.ends_with(".repo_url") || key.ends_with(".id")))
            || matches!(
                key.as_str(),
                "base_model" | "ss_base_model_version" | "modelspec.base_model" | "general.source.repo_url"
            );
        if lineage {
            add("weights.metadata", 50, value, None);
        }
    }
    // 6. Where the configuration was loaded from before it was saved: stale as often as not.
    for key in ["_name_or_path", "name_or_path", "base_model"] {
        for text in declared.config.get(key).map(texts).unwrap_or_default() {
            add("config._name_or_path", 60, text, None);
        }
    }
    found
}

/// `["a/b"]`, `{"relation":…,"models":[{"id":…}]}`, or a list of such objects.
fn hub_bases(value: &Value) -> Vec<(Option<&str>, &str)> {
    fn group(value: &Value) -> Vec<(Option<&str>, &str)> {
        let relation = value.get("relation").and_then(Value::as_str);
        value.get("models").map(texts).unwrap_or_default().into_iter().map(|text| (relation, text)).collect()
    }
    match value {
        Value::Object(_) => group(value),
        Value::Array(items) => items
            .iter()
            .take(MAX_NAMED_BASES)
            .flat_map(|item| item.as_str().map_or_else(|| group(item), |t| vec![(None, t)]))
            .collect(),
        _ => Vec::new(),
    }
}

/// The model that the first heading (or the first lines) links to as what this is a version of.
fn heading(readme: &str) -> Option<String> {
    let body = split_card(readme).map_or(readme, |(_, body)| body);
    let line =
        body.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).find(|line| line.starts_with('#'))?;
    let line: &str = line.get(..line.len().min(2000)).unwrap_or_default();
    let lower = line.to_ascii_lowercase();
    const PHRASES: &[&str] = &[
        "version of",
        "abliterated",
        "decensored",
        "uncensored",
        "fine-tune of",
        "finetune of",
        "quantized",
        "derived from",
    ];
    if !PHRASES.iter().any(|phrase| lower.contains(phrase)) {
        return None;
    }
    // `[label](address)`: the address if it is a model's, else the label.
    let mut rest = line;
    while let Some((_, link)) = rest.split_once('[') {
        let Some((label, after)) = link.split_once("](") else { break };
        let Some((address, tail)) = after.split_once(')') else { break };
        let on_a_hub =
            with_pages().any(|(_, pages)| pages.hosts.iter().any(|host| address.contains(&format!("{host}/"))));
        if on_a_hub && let Some(name) = model_name(address).or_else(|| model_name(label)) {
            return Some(name);
        }
        rest = tail;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_hubs_pages_are_names() {
        for (entry, pages) in with_pages() {
            let hosts = pages.hosts.iter().map(|host| format!("https://{host}/{}org/base/", pages.above));
            for text in hosts.chain([format!("{}:org/base", entry.prefix)]) {
                assert_eq!(model_name(&text).as_deref(), Some("org/base"), "{text}");
            }
        }
        for text in ["https://example.com/org/base", "../org/base", "https://huggingface.co/datasets/org/base", "base"]
        {
            assert_eq!(model_name(text), None, "{text}");
        }
    }
}
