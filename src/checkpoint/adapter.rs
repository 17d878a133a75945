//! Adapters: low-rank factors that are added to a base's weights, as PEFT and llama.cpp publish them.
//!
//! Layout of PEFT: `adapter_config.json` beside `adapter_model.safetensors` (or `.bin`) with tensors
//! `base_model.model.MODULE.lora_A.weight` (rank × inputs) and `….lora_B.weight` (outputs × rank); the weight changes
//! by `scale · B · A`. [`Adapter::of`] reads that, [`overlay`](crate::checkpoint::overlay) lays it over a base.

use std::collections::BTreeMap;

use serde_json::Value;

use super::assembly::Assembly;
use super::collect::{Anomalies, small_json};
use super::shards::{Selection, split_folder};
use super::{Checkpoint, FileSet, Format, Storage, pickle, safetensors};
use crate::error::{Error, ErrorKind, Result};

/// Adapters as PEFT publishes them.
pub struct Peft;

const NAMES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

impl Format for Peft {
    fn name(&self) -> &'static str {
        "adapter"
    }

    /// An adapter in the top folder without whole weights beside it, or in a folder below when there is nothing else.
    fn recognizes(&self, files: &FileSet) -> bool {
        let Some(name) = main_file(files) else { return false };
        let folder = split_folder(name).0;
        let others = files.files.keys().filter(|other| folder.is_empty() == split_folder(other).0.is_empty());
        !others
            .filter(|other| *other != name)
            .any(|other| safetensors::is_model(files, other) || pickle::is_model(files, other) || gguf(other))
    }

    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let name = main_file(files).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("opening {}: no {}", files.label, NAMES.join(" or ")))
        })?;
        let folder = split_folder(name).0.to_owned();
        let mut anomalies = Anomalies::default();
        let config = small_json(files, &format!("{folder}adapter_config.json"), &mut anomalies);
        if !config.is_object() {
            anomalies.file("missing-config", name, "no adapter_config.json tells its scale: taken as 1");
        }
        let read_one = if name.ends_with(".bin") { pickle::read_file } else { safetensors::read_file };
        let selection = Selection { folder, files: vec![name.clone()], ..Selection::default() };
        let mut checkpoint = Assembly::new(anomalies).read(files, &selection, self.name(), read_one)?;
        checkpoint.config = config;
        Ok(checkpoint)
    }
}

fn gguf(name: &str) -> bool {
    name.ends_with(".gguf")
}

/// The adapter's file: in the top folder before any other, safetensors before a pickle.
fn main_file(files: &FileSet) -> Option<&String> {
    let found = |name: &&String| NAMES.contains(&split_folder(name).1);
    let rank = |name: &&String| (name.matches('/').count(), name.ends_with(".bin"));
    files.files.keys().filter(found).min_by_key(rank)
}

/// The low-rank change of one weight: `scale · B · A`, added to it.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// Entry of A: rank × inputs.
    pub a: String,
    /// Entry of B: outputs × rank.
    pub b: String,
    /// What the product is multiplied with: `alpha / rank`, or `alpha / √rank` with rsLoRA.
    pub scale: f32,
    /// Rank of the product.
    pub rank: u64,
    /// Entry of the row norms that DoRA gives the changed weight (one number per output), if it is one.
    pub magnitude: Option<String>,
    /// Whether the weight is stored inputs × outputs, so that the transposed product is added.
    pub transposed: bool,
    /// Experts that share the pair of factors, where it changes one stacked parameter (PEFT's `target_parameters`):
    /// A is (experts · rank) × inputs, expert by expert, and B outputs × (rank · experts), the expert changing fastest.
    /// Which parameter of the module it changes, and how that is stored, only the base's shapes tell.
    pub experts: Option<u64>,
}

/// What an adapter does to a base.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adapter {
    /// Changed weights by the name of their module, e.g. `model.layers.0.self_attn.o_proj`; the weight itself is
    /// `MODULE.weight`.
    pub modules: BTreeMap<String, LowRank>,
    /// Tensors that it replaces as a whole: the base's name to the entry's.
    pub replaced: BTreeMap<String, String>,
    /// Entries that are not understood, with the reason.
    pub unread: BTreeMap<String, String>,
    /// The kind as its config calls it (`LORA`).
    pub kind: String,
    /// The base it says it was made for.
    pub base: Option<String>,
}

/// Suffixes of the two factors as PEFT and llama.cpp write them, and whether they belong to an embedding.
const FACTORS: [(&str, &str, bool); 3] = [
    (".lora_A.weight", ".lora_B.weight", false),
    (".lora_embedding_A", ".lora_embedding_B", true),
    (".weight.lora_a", ".weight.lora_b", false),
];

impl Adapter {
    /// What the checkpoint does as an adapter; `None` when it is none. Kinds other than LoRA are an error.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let by_key = checkpoint.metadata.get("general.type").is_some_and(|kind| kind == "adapter");
        if checkpoint.format != Peft.name() && !by_key {
            return Ok(None);
        }
        let config = &checkpoint.config;
        let kind = config["peft_type"].as_str().unwrap_or("LORA").to_owned();
        if kind != "LORA" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("reading the adapter {}: its kind {kind:?} is not handled", checkpoint.label),
            ));
        }
        let base = config["base_model_name_or_path"].as_str().map(str::to_owned);
        let mut adapter = Self { kind, base, ..Self::default() };
        for name in checkpoint.tensors.keys() {
            adapter.add(checkpoint, name);
        }
        Ok(Some(adapter))
    }

    fn add(&mut self, checkpoint: &Checkpoint, name: &str) {
        let plain = without_prefix(name);
        for (first, second, embedding) in FACTORS {
            if let Some(module) = plain.strip_suffix(first) {
                let b = format!("{}{second}", &name[..name.len() - first.len()]);
                match low_rank(checkpoint, module, name, &b, embedding) {
                    Ok(change) => {
                        self.modules.insert(module.to_owned(), change);
                    }
                    Err(reason) => {
                        self.unread.insert(name.to_owned(), reason);
                    }
                }
                return;
            }
            if let Some(stem) = name.strip_suffix(second) {
                if !checkpoint.tensors.contains_key(&format!("{stem}{first}")) {
                    self.unread.insert(name.to_owned(), "its other factor is missing".to_owned());
                }
                return;
            }
        }
        if plain.contains(".lora_magnitude_vector") || plain.ends_with(".base_layer.weight") {
            return;
        }
        if plain.contains(".lora_") || plain.contains("token_adapter") || plain.contains("trainable_tokens") {
            self.unread.insert(name.to_owned(), "a part of an adapter that is not handled".to_owned());
            return;
        }
        self.replaced.insert(plain.replace(".modules_to_save", "").replace(".base_layer", ""), name.to_owned());
    }
}

/// The name without the prefixes that PEFT puts before the model's own.
fn without_prefix(name: &str) -> &str {
    ["base_model.model.", "base_model."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

fn low_rank(checkpoint: &Checkpoint, module: &str, a: &str, b: &str, embedding: bool) -> Result<LowRank, String> {
    let matrix = |name: &str| match checkpoint.tensors.get(name) {
        None => Err("its other factor is missing".to_owned()),
        Some(entry) => match (&entry.storage, entry.shape.as_slice()) {
            (Storage::Unreadable(reason), _) => Err(reason.clone()),
            (_, &[rows, columns]) => Ok((rows, columns)),
            (_, shape) => Err(format!("a factor of shape {shape:?} is not handled")),
        },
    };
    let ((rank, _), (_, width)) = (matrix(a)?, matrix(b)?);
    if rank != width || rank == 0 {
        return Err(format!("its factors have ranks {rank} and {width}"));
    }
    let config = &checkpoint.config;
    let (rank, experts) = match config["r"].as_u64().filter(|_| changes_parameter(config, module)) {
        Some(own) if own > 0 && rank.is_multiple_of(own) => (own, Some(rank / own)),
        Some(own) => return Err(format!("its factors have rank {rank}, which is not one of {own} an expert")),
        None => (rank, None),
    };
    let alpha = match checkpoint.metadata.get("adapter.lora.alpha").and_then(|text| text.parse().ok()) {
        Some(alpha) => Some(alpha),
        None => pattern(&config["alpha_pattern"], module).or_else(|| config["lora_alpha"].as_f64()),
    };
    let alpha = alpha.unwrap_or(rank as f64);
    let rank_stabilised = config["use_rslora"].as_bool().unwrap_or(false);
    let divisor = if rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
    let stem = a.strip_suffix(".lora_A.weight").unwrap_or(a);
    let magnitude = ["lora_magnitude_vector.weight", "lora_magnitude_vector", "lora_magnitude_vector.default.weight"];
    let magnitude =
        magnitude.iter().map(|end| format!("{stem}.{end}")).find(|name| checkpoint.tensors.contains_key(name));
    if magnitude.is_none() && config["use_dora"].as_bool() == Some(true) && !embedding {
        return Err("it is of DoRA and its magnitudes are missing".to_owned());
    }
    let transposed = embedding || config["fan_in_fan_out"].as_bool().unwrap_or(false);
    if magnitude.is_some() && transposed {
        return Err("DoRA over a transposed weight is not handled".to_owned());
    }
    let scale = (alpha / divisor) as f32;
    if !scale.is_finite() {
        return Err(format!("its scale {alpha} / {divisor} is no number"));
    }
    Ok(LowRank { a: a.to_owned(), b: b.to_owned(), scale, rank, magnitude, transposed, experts })
}

/// Whether the module is one whose parameters, not weights of modules in it, were given as targets.
fn changes_parameter(config: &Value, module: &str) -> bool {
    let last = stacked_module(module).rsplit('.').next();
    let parents = config["target_parameters"].as_array().into_iter().flatten().filter_map(Value::as_str);
    parents.filter_map(|target| target.rsplit('.').nth(1)).any(|parent| Some(parent) == last)
}

/// The module's name without the parts that PEFT adds where it wraps a module once for each of its parameters.
pub(crate) fn stacked_module(module: &str) -> &str {
    let mut module = module;
    while let Some(inner) = module.strip_suffix(".base_layer") {
        module = inner;
    }
    module
}

/// The value of the first pattern that the module's name ends with. PEFT takes them as regular expressions for the end
/// of the name; published ones are names, whole or of the last parts.
fn pattern(patterns: &Value, module: &str) -> Option<f64> {
    let patterns = patterns.as_object()?;
    patterns.iter().find_map(|(key, value)| {
        let key = key.replace("\\.", ".");
        let key = key.trim_end_matches('$');
        let fits = match key.strip_prefix('^') {
            Some(whole) => whole == module,
            None => module.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        };
        fits.then(|| value.as_f64()).flatten()
    })
}
