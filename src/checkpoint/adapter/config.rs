//! What an adapter's configuration says of its scale, and which of its settings are not handled.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::super::FileSet;
use super::super::collect::{Anomalies, small_json};
use super::patterns::Patterns;
use crate::limits::{MAX_CONFIG_BYTES, MAX_PATTERN_STEPS};

/// The objects whose order decides.
const ORDERED: [&str; 2] = ["rank_pattern", "alpha_pattern"];

/// PEFT's own numbers where a configuration says nothing (`peft/tuners/lora/config.py`).
const PEFT_RANK: u64 = 8;
const PEFT_ALPHA: f64 = 8.0;

/// Ways to begin training that leave the base's weights as they are.
const PLAIN_STARTS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// Ways that take the first factors out of the base's weights, so that the adapter counts from what is left of them.
const RESIDUAL_STARTS: &[&str] = &["pissa", "corda", "olora", "loftq", "lora_ga"];

/// Settings in objects and switches that do not change what the factors mean.
const HARMLESS: &[&str] = &[
    "use_rslora",
    "use_dora",
    "use_cache",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
];

/// `adapter_config.json` of a folder; `Null` when there is none or it cannot be read. The objects whose order decides
/// come as arrays of pairs, as parsed JSON keeps no order.
pub(super) fn read(files: &FileSet, folder: &str, anomalies: &mut Anomalies) -> Value {
    let name = format!("{folder}adapter_config.json");
    let mut config = small_json(files, &name, anomalies);
    let (Some(object), Some(source)) = (config.as_object_mut(), files.files.get(&name)) else { return Value::Null };
    if !ORDERED.iter().any(|key| object.contains_key(*key)) || source.len() > MAX_CONFIG_BYTES {
        return config;
    }
    let Ok(bytes) = source.read(0..source.len()) else { return Value::Null };
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    let Ok(ordered) = json.deserialize_map(Top) else { return Value::Null };
    for (key, value) in ORDERED.iter().zip(ordered) {
        object.insert((*key).to_owned(), value);
    }
    config
}

/// Visits the configuration for the two objects alone.
struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = [Value; 2];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<[Value; 2], A::Error> {
        let mut found = [Value::Null, Value::Null];
        while let Some(key) = map.next_key::<String>()? {
            match ORDERED.iter().position(|known| **known == key).and_then(|at| found.get_mut(at)) {
                Some(place) => *place = map.next_value_seed(Pairs)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// An object as an array of pairs, `null` as itself, and anything else as `true`.
struct Pairs;

impl<'de> DeserializeSeed<'de> for Pairs {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pairs {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        // As a Python dict: a key given twice keeps its first place and takes its last value.
        let mut pairs: Vec<(String, Value)> = Vec::new();
        let mut places = std::collections::BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            let place = *places.entry(key.clone()).or_insert(pairs.len());
            match pairs.get_mut(place) {
                Some(pair) => pair.1 = value,
                None => pairs.push((key, value)),
            }
        }
        Ok(Value::Array(pairs.into_iter().map(|(key, value)| Value::Array(vec![Value::String(key), value])).collect()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Bool(true))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Bool(true))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Bool(true))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Bool(true))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Bool(true))
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Bool(true))
    }
}

/// Whether Python takes the value for true.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
    }
}

/// Why a configuration of PEFT's is not handled, if it is not.
pub(super) fn refusal(config: &Value) -> Option<String> {
    let kind = &config["peft_type"];
    if !kind.is_null() && kind.as_str() != Some("LORA") {
        return Some(format!("its kind {kind} is not handled"));
    }
    let start = &config["init_lora_weights"];
    match start {
        Value::Null | Value::Bool(_) => {}
        Value::String(text) if text.is_empty() || PLAIN_STARTS.contains(&text.to_lowercase().as_str()) => {}
        Value::String(text) if RESIDUAL_STARTS.iter().any(|known| text.to_lowercase().starts_with(known)) => {
            return Some(format!(
                "it counts from what {text:?} (init_lora_weights) left of the base's weights, not from the base"
            ));
        }
        _ => return Some(format!("its init_lora_weights {start} is not known")),
    }
    let settings = config.as_object().into_iter().flatten();
    let odd = settings.filter(|(key, _)| {
        key.starts_with("use_") || key.ends_with("_config") || matches!(key.as_str(), "layer_replication")
    });
    let mut odd = odd.filter(|(key, value)| is_true(value) && !HARMLESS.contains(&key.as_str()));
    odd.next().map(|(key, _)| format!("its setting {key} is not handled"))
}

/// `alpha / rank`, or `alpha / √rank` with rsLoRA, both perhaps by module.
#[derive(Debug)]
pub(crate) struct ByModule {
    rank: Result<u64, String>,
    alpha: Result<f64, String>,
    ranks: Patterns,
    alphas: Patterns,
    stabilised: bool,
}

/// What the product of two factors is multiplied with.
#[derive(Debug)]
pub(crate) enum Scaling {
    /// As PEFT computes it, perhaps by module.
    Peft(Box<ByModule>),
    /// The same number for all.
    Fixed(Result<f64, String>),
    /// llama.cpp: `alpha / rank`, and 1 where alpha is 0 or missing (`get_scale` in `src/llama-adapter.h`).
    PerRank(Result<f64, String>),
}

impl Scaling {
    /// Of a configuration of PEFT's, for so many modules.
    pub fn peft(config: &Value, modules: usize) -> Self {
        let pattern = |key: &str| {
            let pairs = config[key].as_array().map_or(0, Vec::len);
            match pairs.checked_mul(modules) {
                Some(steps) if steps <= MAX_PATTERN_STEPS => Patterns::read(&config[key]),
                _ => Patterns::unusable(format!("has {pairs} keys for {modules} modules, which is too much to match")),
            }
        };
        Self::Peft(Box::new(ByModule {
            rank: if config.get("r").is_none() { Ok(PEFT_RANK) } else { rank(&config["r"]) },
            alpha: if config.get("lora_alpha").is_none() { Ok(PEFT_ALPHA) } else { number(&config["lora_alpha"]) },
            ranks: pattern("rank_pattern"),
            alphas: pattern("alpha_pattern"),
            stabilised: is_true(&config["use_rslora"]),
        }))
    }

    /// The rank that a module's factors must have; `None` where their shapes tell.
    pub fn rank(&self, module: &str) -> Result<Option<u64>, String> {
        let Self::Peft(own) = self else { return Ok(None) };
        match own.ranks.of(module).map_err(|reason| format!("rank_pattern {reason}"))? {
            Some(value) => rank(value).map(Some),
            None => own.rank.clone().map(Some),
        }
    }

    /// The scale of a module's product of this rank.
    pub fn of(&self, module: &str, rank: u64) -> Result<f32, String> {
        let (alpha, divisor) = match self {
            Self::Peft(own) => {
                let by_pattern = own.alphas.of(module).map_err(|reason| format!("alpha_pattern {reason}"))?;
                let alpha = by_pattern.map_or_else(|| own.alpha.clone(), number)?;
                (alpha, if own.stabilised { (rank as f64).sqrt() } else { rank as f64 })
            }
            Self::Fixed(scale) => (scale.clone()?, 1.0),
            Self::PerRank(alpha) => match alpha.clone()? {
                0.0 => (1.0, 1.0),
                alpha => (alpha, rank as f64),
            },
        };
        let scale = (alpha / divisor) as f32;
        if scale.is_finite() { Ok(scale) } else { Err(format!("its scale {alpha} / {divisor} is no number")) }
    }

    /// Whether it may differ from module to module by their names.
    pub fn by_name(&self) -> bool {
        matches!(self, Self::Peft(own) if !own.ranks.is_empty() || !own.alphas.is_empty())
    }
}

fn rank(value: &Value) -> Result<u64, String> {
    value.as_u64().filter(|rank| *rank > 0).ok_or_else(|| format!("its rank {value} is none"))
}

/// Python counts with truth values; text is an error to it.
pub(super) fn number(value: &Value) -> Result<f64, String> {
    let number = value.as_f64().or_else(|| value.as_bool().map(|truth| f64::from(u8::from(truth))));
    number.ok_or_else(|| format!("its alpha or scale {value} is no number"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::source::{ByteSource, Bytes};

    fn of(text: &str) -> Value {
        let source: Arc<dyn ByteSource> = Arc::new(Bytes::new("adapter_config.json", text.as_bytes()));
        let files = BTreeMap::from([("adapter_config.json".to_owned(), source)]);
        let set = FileSet { label: "set".to_owned(), files, ..FileSet::default() };
        read(&set, "", &mut Anomalies::default())
    }

    #[test]
    fn the_order_of_keys_is_kept_as_python_keeps_it() {
        let config =
            of(r#"{"r": 4, "alpha_pattern": {"z": 1, "a": 2, "z": 3}, "alpha_pattern": {"z": 1, "a": 2, "z": 3}}"#);
        assert_eq!(config["alpha_pattern"], json!([["z", 3], ["a", 2]]));
        assert_eq!((&config["rank_pattern"], &config["r"]), (&Value::Null, &json!(4)));
        let config = of(r#"{"alpha_pattern": {".*_proj": 4, "o_proj": 8}, "rank_pattern": [1], "r": 4}"#);
        let scaling = Scaling::peft(&config, 1);
        assert_eq!(scaling.of("x.o_proj", 4), Ok(1.0), "the first in the file, not in the alphabet");
        assert!(scaling.rank("x.o_proj").is_err());
        // What Python's JSON takes and no other: not a scale of one.
        assert_eq!(of(r#"{"lora_alpha": NaN}"#), Value::Null);
        assert_eq!(of("[]"), Value::Null);
    }

    #[test]
    fn scales_are_those_of_peft_and_llama_cpp() {
        let scale = |config: Value| Scaling::peft(&config, 1).of("o", 4);
        assert_eq!(scale(json!({"lora_alpha": 16})), Ok(4.0));
        assert_eq!(scale(json!({"lora_alpha": 16, "use_rslora": true})), Ok(8.0));
        assert_eq!(scale(json!({"lora_alpha": 16, "use_rslora": "false"})), Ok(8.0), "a text is true to Python");
        assert_eq!(scale(json!({})), Ok(2.0), "8 is PEFT's own");
        assert_eq!(scale(json!({"lora_alpha": 0})), Ok(0.0));
        assert_eq!(scale(json!({"lora_alpha": -4})), Ok(-1.0));
        for alpha in [json!("16"), json!(null), json!(1e308), json!([16])] {
            assert!(scale(json!({"lora_alpha": alpha})).is_err(), "{alpha}");
        }
        for rank in [json!(0), json!(-1), json!("4"), json!(null), json!(4.5)] {
            assert!(Scaling::peft(&json!({"r": rank}), 1).rank("o").is_err(), "{rank}");
        }
        for (alpha, expected) in [(0.0, 1.0), (-0.0, 1.0), (8.0, 2.0), (-8.0, -2.0)] {
            assert_eq!(Scaling::PerRank(Ok(alpha)).of("o", 4), Ok(expected), "{alpha}");
        }
        assert!(Scaling::PerRank(Ok(f64::NAN)).of("o", 4).is_err());
    }

    #[test]
    fn settings_that_change_the_meaning_of_factors_are_refused() {
        let refused = [
            json!({"peft_type": "IA3"}),
            json!({"peft_type": 5}),
            json!({"init_lora_weights": "pissa_niter_16"}),
            json!({"init_lora_weights": "PiSSA"}),
            json!({"init_lora_weights": "olora"}),
            json!({"init_lora_weights": "of tomorrow"}),
            json!({"init_lora_weights": 1}),
            json!({"layer_replication": [[0, 4], [2, 5]]}),
            json!({"use_qalora": true}),
            json!({"kasa_config": {"beta": 1}}),
        ];
        for config in refused {
            assert!(refusal(&config).is_some(), "{config}");
        }
        let plain = json!({"peft_type": "LORA", "init_lora_weights": "eva", "use_dora": true, "eva_config": {"rho": 2.0},
            "use_qalora": false, "layer_replication": null, "megatron_config": null, "loftq_config": {}});
        assert_eq!(refusal(&plain), None);
    }
}
