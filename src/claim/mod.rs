//! What a publisher says a repository derives from: all evidence kept, the strongest decides which base is tried first.
//!
//! A claim is only that. Tools copy cards, so a derivative's card often names its grandparent, or nothing; the heading
//! that a tool writes over the copied card is then nearer the truth than the card's own fields. Contradictions are kept
//! and told, not resolved in silence, and no claim at all is an outcome of its own.

mod declared;
pub mod files;
pub mod structural;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::examination::{Claim, ClaimEvidence};

/// Everything a repository says about itself, as far as it is known. All of it is untrusted text.
#[derive(Debug, Clone, Default)]
pub struct Declarations {
    /// The card's front matter.
    pub card: Value,
    /// The hub's own idea of the bases, in any of the shapes it comes in.
    pub base_models: Value,
    /// The hub's tags.
    pub tags: Vec<String>,
    /// `config.json`, or the hub's reading of it.
    pub config: Value,
    /// `adapter_config.json`.
    pub adapter: Value,
    /// Metadata of the weight files (safetensors `__metadata__`, GGUF keys).
    pub metadata: BTreeMap<String, String>,
    /// The card's text.
    pub readme: Option<String>,
}

/// A claim, and the bases to try in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResolvedClaim {
    /// The claim with all evidence; `base` is the strongest.
    pub claim: Claim,
    /// Every base named, strongest first, as hub names (`org/name`).
    pub bases: Vec<String>,
    /// In words, where two pieces of evidence name different bases.
    pub contradictions: Vec<String>,
}

/// One piece of evidence before it is ranked.
pub(crate) struct Found {
    from: &'static str,
    base: String,
    relation: Option<String>,
    /// Lower is stronger.
    rank: u8,
}

/// Reads every declaration and ranks what it says. `given` is the user's own `--base`, which comes before all claims
/// but does not remove them from the evidence.
pub fn resolve(declared: &Declarations, own: &str, given: Option<&str>) -> ResolvedClaim {
    let mut found: Vec<Found> = declared::read(declared);
    // A repository is not its own base: tools leave their own output's name in configs.
    found.retain(|found| !found.base.eq_ignore_ascii_case(own));
    found.sort_by_key(|found| found.rank);
    let mut bases: Vec<String> = given.map(str::to_owned).into_iter().collect();
    for found in &found {
        if !bases.iter().any(|base| base.eq_ignore_ascii_case(&found.base)) {
            bases.push(found.base.clone());
        }
    }
    let mut evidence = Vec::new();
    for found in &found {
        let says = match &found.relation {
            Some(relation) => format!("{} ({relation})", found.base),
            None => found.base.clone(),
        };
        let piece = ClaimEvidence { from: found.from.to_owned(), says };
        if !evidence.contains(&piece) {
            evidence.push(piece);
        }
    }
    let relation = found.iter().find_map(|found| found.relation.clone());
    let contradictions = contradictions(&found, relation.as_deref());
    let claim = Claim { base: found.first().map(|found| found.base.clone()), relation, evidence, holds: None };
    ResolvedClaim { claim, bases, contradictions }
}

/// Sources that name different bases. Several bases in one source are a merge, not a contradiction.
fn contradictions(found: &[Found], relation: Option<&str>) -> Vec<String> {
    let mut by_source: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for found in found {
        by_source.entry(found.from).or_default().push(&found.base);
    }
    let Some(first) = found.first() else { return Vec::new() };
    by_source
        .iter()
        .filter(|(from, bases)| {
            **from != first.from
                && relation != Some("merge")
                && !bases.iter().any(|base| base.eq_ignore_ascii_case(&first.base))
        })
        .map(|(from, bases)| format!("{} names {}, {from} names {}", first.from, first.base, bases.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolved(declared: &Declarations) -> ResolvedClaim {
        resolve(declared, "me/mine", None)
    }

    #[test]
    fn a_base_comes_as_text_as_list_and_with_a_relation() {
        let one = resolved(&Declarations { card: json!({"base_model": "org/base"}), ..Declarations::default() });
        assert_eq!((one.claim.base.as_deref(), one.bases.len()), (Some("org/base"), 1));
        let two = resolved(&Declarations {
            card: json!({"base_model": ["org/a", "org/b"], "base_model_relation": "merge"}),
            tags: vec!["base_model:merge:org/a".into(), "base_model:merge:org/b".into(), "base_model:org/a".into()],
            ..Declarations::default()
        });
        assert_eq!(two.bases, ["org/a", "org/b"]);
        assert_eq!(two.claim.relation.as_deref(), Some("merge"));
        assert!(two.contradictions.is_empty(), "{:?}", two.contradictions);
        let tagged =
            resolved(&Declarations { tags: vec!["base_model:quantized:org/base".into()], ..Declarations::default() });
        assert_eq!(tagged.claim.relation.as_deref(), Some("quantized"));
    }

    #[test]
    fn the_hubs_own_idea_comes_in_three_shapes() {
        for value in [
            json!(["org/base"]),
            json!({"relation": "finetune", "models": [{"_id": "1", "id": "org/base"}]}),
            json!([{"relation": "finetune", "models": [{"id": "org/base"}]}]),
        ] {
            let found = resolved(&Declarations { base_models: value.clone(), ..Declarations::default() });
            assert_eq!(found.bases, ["org/base"], "{value}");
        }
    }

    #[test]
    fn the_heading_a_tool_wrote_comes_before_the_card_it_copied() {
        let declared = Declarations {
            card: json!({"base_model": "org/Model-Base"}),
            readme: Some(
                "---\nbase_model: org/Model-Base\n---\n# This is a decensored version of \
                 [org/Model](https://huggingface.co/org/Model), made using [a tool](https://example.org)\n"
                    .into(),
            ),
            ..Declarations::default()
        };
        let found = resolved(&declared);
        assert_eq!(found.bases, ["org/Model", "org/Model-Base"]);
        assert_eq!(found.contradictions.len(), 1);
        assert_eq!(found.claim.evidence.len(), 2);
    }

    #[test]
    fn names_in_files_count_but_paths_do_not() {
        let named = |name: &str| {
            resolved(&Declarations { config: json!({"_name_or_path": name}), ..Declarations::default() }).bases
        };
        assert_eq!(named("org/base"), ["org/base"]);
        for path in ["/home/user/model", "./model", "../x", "C:\\models\\x", "model", "org/base/extra", "a b/c", ""] {
            assert!(named(path).is_empty(), "{path}");
        }
        assert!(named("me/mine").is_empty(), "a repository is not its own base");
        let gguf = BTreeMap::from([
            ("general.base_model.0.repo_url".to_owned(), "https://huggingface.co/org/base".to_owned()),
            ("general.base_model.count".to_owned(), "1".to_owned()),
        ]);
        assert_eq!(resolved(&Declarations { metadata: gguf, ..Declarations::default() }).bases, ["org/base"]);
        let adapter = json!({"base_model_name_or_path": "org/base", "peft_type": "LORA"});
        let found = resolved(&Declarations { adapter, ..Declarations::default() });
        assert_eq!(found.claim.relation.as_deref(), Some("adapter"));
    }

    #[test]
    fn the_users_base_comes_first_and_the_claim_stays() {
        let declared = Declarations { card: json!({"base_model": "org/said"}), ..Declarations::default() };
        let found = resolve(&declared, "me/mine", Some("org/given"));
        assert_eq!(found.bases, ["org/given", "org/said"]);
        assert_eq!(found.claim.base.as_deref(), Some("org/said"));
        let none = resolve(&Declarations::default(), "me/mine", None);
        assert!(none.bases.is_empty() && none.claim.base.is_none() && none.claim.evidence.is_empty());
    }

    #[test]
    fn hostile_declarations_neither_panic_nor_flood() {
        let many: Vec<Value> = (0..100_000).map(|i| json!(format!("o/{i}"))).collect();
        let declared = Declarations {
            card: json!({"base_model": many, "base_model_relation": {"x": [1]}}),
            base_models: json!([[[1]], {"models": 7}]),
            readme: Some("# [".repeat(50_000)),
            config: json!([1, 2]),
            adapter: json!("x"),
            ..Declarations::default()
        };
        assert!(resolved(&declared).bases.len() <= 64);
    }
}
