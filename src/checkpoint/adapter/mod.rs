//! Adapters: low-rank factors that are added to a base's weights, as PEFT, llama.cpp and mlx-lm publish them.
//!
//! | written by | files | the change of a weight (outputs × inputs) |
//! |---|---|---|
//! | PEFT | `adapter_config.json`, `adapter_model.safetensors` or `.bin`: `base_model.model.MODULE.lora_A.weight` (rank × inputs), `….lora_B.weight` (outputs × rank) | `alpha / rank · B · A` |
//! | llama.cpp | a GGUF file with `general.type` = `adapter`: `TENSOR.lora_a`, `TENSOR.lora_b` of the same shapes | `alpha / rank · B · A`, without alpha `B · A` |
//! | mlx-lm | `adapter_config.json`, `adapters.safetensors`: `MODULE.lora_a` (inputs × rank), `MODULE.lora_b` (rank × outputs) | `scale · Bᵀ · Aᵀ` |
//!
//! [`Adapter::of`] reads what an adapter does, as its loader would; [`overlay`](mod@crate::overlay) lays it over a
//! base. What is not understood is kept with its reason: nothing of an adapter is ever left out in silence, since what
//! is left of a base without its adapter is the base.

mod config;
mod parts;
mod patterns;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::assembly::Assembly;
use super::collect::{Anomalies, shown};
use super::files::{ADAPTERS, is_adapter_file, is_numbered};
use super::gguf_names::is_gguf;
use super::shards::{Selection, split_folder};
use super::{Checkpoint, FileSet, Format, Storage, TensorEntry, anomaly, pickle, safetensors};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_FACTOR_ELEMENTS;
pub(crate) use config::Scaling;
pub use parts::Dialect;
use parts::{AdapterPart, Which};

/// Adapters in files of their own.
pub struct Peft;

/// The key of a checkpoint's metadata that keeps the configuration of an adapter whose parts stand among whole weights.
const KEPT_CONFIG: &str = "adapter_config.json";

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
            .filter(|other| !is_adapter_file(split_folder(other).1))
            .any(|other| safetensors::is_model(files, other) || pickle::is_model(files, other) || is_gguf(other))
    }

    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let name = main_file(files).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("opening {}: no {}", files.label, ADAPTERS.join(" or ")))
        })?;
        let folder = split_folder(name).0.to_owned();
        let mut anomalies = Anomalies::default();
        let config = config::read(files, &folder, &mut anomalies);
        if !config.is_object() {
            anomalies.file(anomaly::MISSING_CONFIG, name, "no adapter_config.json that can be read tells its scale");
        }
        let read_one = if name.ends_with(".bin") { pickle::read_file } else { safetensors::read_file };
        let selection = Selection { folder, files: vec![name.clone()], ..Selection::default() };
        let mut checkpoint = Assembly::new(anomalies).read(files, &selection, self.name(), read_one)?;
        checkpoint.config = config;
        Ok(checkpoint)
    }
}

/// The adapter's file: in the top folder before any other, safetensors before a pickle, the last state before others.
fn main_file(files: &FileSet) -> Option<&String> {
    let found = |name: &&String| is_adapter_file(split_folder(name).1);
    let rank = |name: &&String| (name.matches('/').count(), name.ends_with(".bin"), is_numbered(split_folder(name).1));
    files.files.keys().filter(found).min_by_key(rank)
}

/// Keeps the adapter's configuration that lies beside whole weights with parts of an adapter among them.
pub(super) fn keep_config(files: &FileSet, checkpoint: &mut Checkpoint) {
    if checkpoint.format == Peft.name() || !checkpoint.tensors.keys().any(|name| is_part(name)) {
        return;
    }
    let folder = checkpoint.files.first().map(|file| split_folder(&file.name).0.to_owned()).unwrap_or_default();
    let mut anomalies = Anomalies::default();
    let config = config::read(files, &folder, &mut anomalies);
    if config.is_object() {
        checkpoint.metadata.insert(KEPT_CONFIG.to_owned(), config.to_string());
    }
    checkpoint.anomalies.extend(anomalies.finish());
    checkpoint.anomalies.sort();
}

/// Whether a tensor's name is that of a part of an adapter, of any kind or library.
pub(crate) fn is_part(name: &str) -> bool {
    parts::owner(name).is_some()
}

/// The low-rank change of one weight: `scale · B · A`, added to it.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// The tensor that is changed, as the adapter calls it.
    pub target: String,
    /// Entry of A.
    pub a: String,
    /// Entry of B.
    pub b: String,
    /// Whether A is stored inputs × rank, not rank × inputs.
    pub a_by_inputs: bool,
    /// Whether B is stored rank × outputs, not outputs × rank.
    pub b_by_rank: bool,
    /// Outputs of the changed layer.
    pub outputs: u64,
    /// Inputs of the changed layer.
    pub inputs: u64,
    /// Rank of the product.
    pub rank: u64,
    /// What the product is multiplied with.
    pub scale: f32,
    /// Entry of the row norms that DoRA gives the changed weight (one number per output), if it is one.
    pub magnitude: Option<String>,
    /// Entry of what is added to the outputs, times the scale, if anything is.
    pub bias: Option<String>,
    /// Whether the weight is an embedding's, which is stored inputs × outputs.
    pub embedding: bool,
    /// Experts that share the pair of factors, where it changes one stacked parameter.
    pub experts: Option<Experts>,
}

/// How the factors of stacked experts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Experts {
    /// PEFT's `target_parameters`: A is (experts · rank) × inputs, expert by expert, and B outputs × (rank · experts),
    /// the expert changing fastest. Which parameter of the module it changes, and how that is stored, only the base's
    /// shapes tell.
    Interleaved(u64),
    /// llama.cpp and mlx-lm: A is experts × rank × inputs, B experts × outputs × rank.
    Stacked(u64),
}

impl Experts {
    /// How many.
    pub const fn count(self) -> u64 {
        match self {
            Self::Interleaved(count) | Self::Stacked(count) => count,
        }
    }
}

/// Rows of an embedding that an adapter puts in the place of the base's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The entry: one row for each.
    pub entry: String,
    /// Which rows of the embedding they are.
    pub rows: Vec<u64>,
}

/// A part that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The base's tensor that it would change, as the adapter calls it, where that is known.
    pub target: Option<String>,
    /// Why.
    pub reason: String,
}

/// What an adapter does to a base.
#[derive(Debug)]
pub struct Adapter {
    /// Who wrote it.
    pub dialect: Dialect,
    /// Changed weights by the name of their module, e.g. `model.layers.0.self_attn.o_proj`.
    pub modules: BTreeMap<String, LowRank>,
    /// Tensors that it replaces as a whole: the base's name to the entry's.
    pub replaced: BTreeMap<String, String>,
    /// Embeddings of which it replaces rows, by their name.
    pub tokens: BTreeMap<String, Tokens>,
    /// Entries that are not understood.
    pub unread: BTreeMap<String, Unread>,
    /// Whether it says that weights are stored inputs × outputs, for where nothing else tells.
    pub by_inputs: bool,
    /// The base it says it was made for.
    pub base: Option<String>,
    pub(crate) scaling: Scaling,
}

impl Adapter {
    /// What the checkpoint does as an adapter; `None` when it is none.
    ///
    /// Errors when it is of a kind that is not handled, or nothing says how it is scaled.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let Some(dialect) = dialect(checkpoint) else { return Ok(None) };
        Self::read(checkpoint, dialect, &config_of(checkpoint)).map(Some).map_err(|reason| {
            let doing = format!("reading the adapter {} in the layout of {}", checkpoint.label, dialect.as_str());
            Error::new(ErrorKind::Unsupported, format!("{doing}: {reason}"))
        })
    }

    /// The same of parts that stand among whole weights: what cannot be read is unread part by part.
    pub(crate) fn among(parts: &Checkpoint) -> Self {
        Self::read(parts, Dialect::Peft, &config_of(parts)).unwrap_or_else(|reason| {
            let mut adapter = Self::empty(Dialect::Peft, Scaling::Fixed(Ok(0.0)));
            for name in parts.tensors.keys() {
                let target = match parts::part(name, Dialect::Peft) {
                    Some(part) => Some(format!("{}.weight", part.module)),
                    None => parts::owner(name).map(|(_, module)| format!("{module}.weight")),
                };
                adapter.unread.insert(name.clone(), Unread { target, reason: reason.clone() });
            }
            adapter
        })
    }

    fn empty(dialect: Dialect, scaling: Scaling) -> Self {
        Self {
            dialect,
            modules: BTreeMap::new(),
            replaced: BTreeMap::new(),
            tokens: BTreeMap::new(),
            unread: BTreeMap::new(),
            by_inputs: false,
            base: None,
            scaling,
        }
    }

    fn read(checkpoint: &Checkpoint, dialect: Dialect, config: &Value) -> Result<Self, String> {
        let kind = Kind::read(checkpoint, dialect, config)?;
        let mut read = Self::empty(dialect, kind.scaling);
        read.by_inputs = config::is_true(&config["fan_in_fan_out"]);
        read.base =
            ["base_model_name_or_path", "model"].iter().find_map(|key| config[*key].as_str()).map(str::to_owned);
        let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        let mut others = Vec::new();
        for name in checkpoint.tensors.keys() {
            match parts::part(name, dialect) {
                Some(part) => {
                    names.insert(part.adapter);
                    groups.entry(part.module).or_default().put(part, name);
                }
                None => others.push(name),
            }
        }
        let several = (names.len() > 1).then(|| {
            let names: Vec<String> = names.iter().map(|name| format!("{:?}", shown(name))).collect();
            format!(
                "the parts of several adapters are in one file ({}), and nothing tells which counts",
                names.join(", ")
            )
        });
        for (module, group) in groups {
            if group.is_no_part() {
                others.extend(group.names);
                continue;
            }
            let target = group.target(module, dialect);
            let change = match (&several, group.odd) {
                (Some(reason), _) => Err(reason.clone()),
                (None, Some(which)) => Err(format!("two tensors are its {which:?}")),
                (None, None) => read.change(checkpoint, module, &target, &group, kind.dora, config),
            };
            if let Err(reason) = change {
                for name in group.names {
                    let unread = Unread { target: Some(target.clone()), reason: reason.clone() };
                    read.unread.insert(name.clone(), unread);
                }
            }
        }
        read.replace(&others);
        Ok(read)
    }

    /// Takes in the change of one module.
    fn change(
        &mut self,
        checkpoint: &Checkpoint,
        module: &str,
        target: &str,
        group: &Group<'_>,
        dora: bool,
        config: &Value,
    ) -> Result<(), String> {
        if let Some(entry) = group.of(Which::Tokens) {
            if group.parts.len() > 1 {
                return Err("rows and factors of one embedding together are not handled".to_owned());
            }
            let rows = token_rows(config, module)?;
            let shape = &checkpoint.tensors.get(entry).ok_or("it is missing")?.shape;
            if shape.len() != 2 || shape.first() != Some(&(rows.len() as u64)) {
                return Err(format!("its shape is {shape:?}, and trainable_token_indices names {} rows", rows.len()));
            }
            self.tokens.insert(target.to_owned(), Tokens { entry: entry.clone(), rows });
            return Ok(());
        }
        let change = low_rank(checkpoint, self.dialect, module, target, group, &self.scaling, config)?;
        let plain = change.experts.is_none() && !change.embedding;
        match (dora, &change.magnitude) {
            (true, None) if plain => return Err("it is of DoRA and its magnitudes are missing".to_owned()),
            (false, Some(_)) => return Err("it has magnitudes, and is not said to be of DoRA".to_owned()),
            (true, Some(_)) if !plain => return Err("DoRA of an embedding or of experts is not handled".to_owned()),
            _ => {}
        }
        let biased = config::is_true(&config["lora_bias"]) && self.dialect == Dialect::Peft && plain;
        match (biased, &change.bias) {
            (true, None) => return Err("its lora_bias is missing".to_owned()),
            (false, Some(_)) => return Err("it has a bias, and lora_bias does not say so".to_owned()),
            (true, Some(_)) if dora => return Err("a bias with DoRA is not handled".to_owned()),
            _ => {}
        }
        self.modules.insert(module.to_owned(), change);
        Ok(())
    }

    /// Takes in the tensors that are no factors: they stand for the base's own, as far as the loader takes them.
    fn replace(&mut self, others: &[&String]) {
        let mut twice = BTreeMap::new();
        // The module as it was before training may lie beside what was trained.
        let is_original = |name: &str| name.contains(".original_module.");
        let trained: BTreeSet<String> =
            others.iter().filter(|name| !is_original(name)).map(|name| parts::replaced(name)).collect();
        for name in others {
            let owner = parts::owner(name).filter(|(owner, _)| *owner != "PEFT" && self.dialect != Dialect::LlamaCpp);
            if let Some((owner, module)) = owner {
                let target = (!module.is_empty()).then(|| format!("{module}.weight"));
                let reason = format!("a part of an adapter of {owner} that is not handled");
                self.unread.insert((*name).clone(), Unread { target, reason });
                continue;
            }
            let target = match self.dialect {
                Dialect::Peft => parts::replaced(name),
                Dialect::Mlx => (*name).clone(),
                Dialect::LlamaCpp if name.ends_with("_norm.weight") => (*name).clone(),
                Dialect::LlamaCpp => {
                    let reason = "llama.cpp loads no adapter with such a tensor".to_owned();
                    self.unread.insert((*name).clone(), Unread { target: None, reason });
                    continue;
                }
            };
            if self.dialect == Dialect::Peft && is_original(name) && trained.contains(&target) {
                continue;
            }
            if let Some(first) = self.replaced.insert(target.clone(), (*name).clone()) {
                twice.insert(target, [first, (*name).clone()]);
            }
        }
        for (target, names) in twice {
            self.replaced.remove(&target);
            for name in names {
                let reason = "two tensors stand for the same of the base's".to_owned();
                self.unread.insert(name, Unread { target: Some(target.clone()), reason });
            }
        }
    }
}

/// Who wrote a checkpoint that is an adapter.
fn dialect(checkpoint: &Checkpoint) -> Option<Dialect> {
    if checkpoint.metadata.get("general.type").is_some_and(|kind| kind == "adapter") {
        return Some(Dialect::LlamaCpp);
    }
    let parts = || checkpoint.tensors.keys().filter(|name| is_part(name));
    if checkpoint.format != Peft.name() {
        // Factors without weights of their modules, in a file by any name.
        let has = |module: &str, end: &str| checkpoint.tensors.contains_key(&format!("{module}.{end}"));
        let whole = |name: &String| {
            let module = name.find(".lora_").and_then(|at| name.get(..at)).unwrap_or_default();
            has(module, "weight") || has(module, "base_layer.weight")
        };
        let count = parts().count();
        if count * 2 <= checkpoint.tensors.len() || parts().any(whole) {
            return None;
        }
    }
    let config = config_of(checkpoint);
    let by_config = config["peft_type"].is_null()
        && (config.get("fine_tune_type").is_some() || config.get("lora_parameters").is_some());
    let by_file = checkpoint.files.iter().any(|file| {
        let base = split_folder(&file.name).1;
        base == "adapters.safetensors" || is_numbered(base)
    });
    let by_name = parts().any(|name| name.ends_with(".lora_a") || name.ends_with(".lora_b"));
    let mlx = by_config || by_file && config["peft_type"].is_null() || by_name;
    Some(if mlx { Dialect::Mlx } else { Dialect::Peft })
}

/// The adapter's configuration: a checkpoint's own, or the one that lies beside whole weights.
fn config_of(checkpoint: &Checkpoint) -> Value {
    if checkpoint.format == Peft.name() {
        return checkpoint.config.clone();
    }
    let kept = checkpoint.metadata.get(KEPT_CONFIG);
    kept.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What holds for the whole of an adapter.
struct Kind {
    scaling: Scaling,
    dora: bool,
}

impl Kind {
    /// Why it is not handled, if it is not.
    fn read(checkpoint: &Checkpoint, dialect: Dialect, config: &Value) -> Result<Self, String> {
        let metadata = |key: &str| checkpoint.metadata.get(key);
        if dialect == Dialect::LlamaCpp {
            if let Some(kind) = metadata("adapter.type").filter(|kind| *kind != "lora") {
                return Err(format!("its kind {:?} is not handled", shown(kind)));
            }
            let alpha = metadata("adapter.lora.alpha")
                .map_or(Ok(0.0), |text| text.parse().map_err(|_| format!("its alpha {:?} is no number", shown(text))));
            return Ok(Self { scaling: Scaling::PerRank(alpha), dora: false });
        }
        if !config.is_object() {
            let foreign = checkpoint.tensors.keys().find_map(|name| match parts::part(name, dialect) {
                Some(_) => None,
                None => parts::owner(name).map(|(owner, _)| owner),
            });
            let named =
                foreign.map(|owner| format!("its parts are named as {owner} name them, and ")).unwrap_or_default();
            return Err(format!("{named}no adapter_config.json that can be read says how they are scaled"));
        }
        if dialect == Dialect::Peft {
            if let Some(reason) = config::refusal(config) {
                return Err(reason);
            }
            let dora = config::is_true(&config["use_dora"]);
            return Ok(Self { scaling: Scaling::peft(config, checkpoint.tensors.len() / 2), dora });
        }
        let kind = config.get("fine_tune_type").map_or(Some("lora"), Value::as_str);
        if !matches!(kind, Some("lora" | "dora" | "full")) {
            return Err(format!("its fine_tune_type {} is not handled", config["fine_tune_type"]));
        }
        let scale = config::number(&config["lora_parameters"]["scale"]);
        Ok(Self { scaling: Scaling::Fixed(scale), dora: kind == Some("dora") })
    }
}

/// The tensors of one module.
#[derive(Default)]
struct Group<'a> {
    parts: BTreeMap<Which, &'a String>,
    names: Vec<&'a String>,
    odd: Option<Which>,
}

impl<'a> Group<'a> {
    fn put(&mut self, part: AdapterPart<'_>, name: &'a String) {
        self.names.push(name);
        if self.parts.insert(part.which, name).is_some() {
            self.odd = Some(part.which);
        }
    }

    fn of(&self, which: Which) -> Option<&'a String> {
        self.parts.get(&which).copied()
    }

    /// A tensor `m` by itself is any tensor.
    fn is_no_part(&self) -> bool {
        self.parts.len() == 1 && self.of(Which::Magnitude).is_some_and(|name| name.ends_with(".m"))
    }

    /// The tensor that the module's parts change.
    fn target(&self, module: &str, dialect: Dialect) -> String {
        match dialect {
            Dialect::LlamaCpp => module.to_owned(),
            Dialect::Peft | Dialect::Mlx => format!("{module}.weight"),
        }
    }
}

/// Rows and columns of a factor, with the experts before them where they are stacked.
fn factor(checkpoint: &Checkpoint, name: Option<&String>) -> Result<(Option<u64>, u64, u64), String> {
    let entry: &TensorEntry =
        name.and_then(|name| checkpoint.tensors.get(name)).ok_or("its other factor is missing")?;
    if let Storage::Unreadable(reason) = &entry.storage {
        return Err(reason.clone());
    }
    if entry
        .shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))
        .is_none_or(|n| n > MAX_FACTOR_ELEMENTS)
    {
        return Err(format!("a factor of shape {:?} is too large", entry.shape));
    }
    match entry.shape.as_slice() {
        &[rows, columns] if rows > 0 && columns > 0 => Ok((None, rows, columns)),
        &[experts, rows, columns] if experts > 0 && rows > 0 && columns > 0 => Ok((Some(experts), rows, columns)),
        shape => Err(format!("a factor of shape {shape:?} is not handled")),
    }
}

fn low_rank(
    checkpoint: &Checkpoint,
    dialect: Dialect,
    module: &str,
    target: &str,
    group: &Group<'_>,
    scaling: &Scaling,
    config: &Value,
) -> Result<LowRank, String> {
    let embedding = group.of(Which::EmbeddingA).is_some() || group.of(Which::EmbeddingB).is_some();
    let (a, b) = match embedding {
        true => (group.of(Which::EmbeddingA), group.of(Which::EmbeddingB)),
        false => (group.of(Which::A), group.of(Which::B)),
    };
    if embedding && (group.of(Which::A).is_some() || group.of(Which::B).is_some()) {
        return Err("it has the factors of an embedding and of a linear layer".to_owned());
    }
    let (first, second) = (factor(checkpoint, a)?, factor(checkpoint, b)?);
    let (Some(a), Some(b)) = (a, b) else { return Err("its other factor is missing".to_owned()) };
    // llama.cpp keeps the factors of the token embedding as its look-up wants them (`build_inp_embd`).
    let looked_up = dialect == Dialect::LlamaCpp && target == "token_embd.weight";
    let (stack, inputs_first) = match (first.0, second.0) {
        (None, None) => (None, dialect == Dialect::Mlx),
        (Some(one), Some(other)) if one == other && dialect != Dialect::Peft && !looked_up => (Some(one), false),
        _ => return Err("its factors are not both those of as many experts".to_owned()),
    };
    let (a_by_inputs, b_by_rank) = (inputs_first || looked_up, inputs_first);
    let (rank, inputs) = if a_by_inputs { (first.2, first.1) } else { (first.1, first.2) };
    let (width, outputs) = if b_by_rank { (second.1, second.2) } else { (second.2, second.1) };
    if rank != width {
        return Err(format!("its factors have ranks {rank} and {width}"));
    }
    let own = scaling.rank(module)?;
    let parameter = dialect == Dialect::Peft && !embedding && changes_parameter(config, module);
    let (rank, experts) = match own {
        Some(_) if parameter && scaling.by_name() => {
            return Err("rank_pattern and alpha_pattern over target_parameters are not handled".to_owned());
        }
        Some(own) if parameter && rank.is_multiple_of(own) => (own, Some(Experts::Interleaved(rank / own))),
        Some(own) if own == rank => (rank, stack.map(Experts::Stacked)),
        Some(own) => return Err(format!("its factors have rank {rank}, and its configuration says {own}")),
        None => (rank, stack.map(Experts::Stacked)),
    };
    let scale = scaling.of(module, rank)?;
    let bias = group.of(Which::Bias).cloned();
    let magnitude = group.of(Which::Magnitude).cloned();
    for (what, name) in [("bias", &bias), ("magnitudes", &magnitude)] {
        let entry = name.as_ref().and_then(|name| checkpoint.tensors.get(name));
        match entry.map(|entry| (&entry.storage, entry.shape.iter().copied().reduce(u64::saturating_mul))) {
            Some((Storage::Unreadable(reason), _)) => return Err(reason.clone()),
            Some((_, count)) if count != Some(outputs) => {
                return Err(format!("its {what} are not one for each of {outputs} outputs"));
            }
            _ => {}
        }
    }
    let (a, b) = (a.clone(), b.clone());
    Ok(LowRank {
        target: target.to_owned(),
        a,
        b,
        a_by_inputs,
        b_by_rank,
        outputs,
        inputs,
        rank,
        scale,
        magnitude,
        bias,
        embedding: embedding || looked_up,
        experts,
    })
}

/// The rows that `trainable_token_indices` names for a module: of one embedding a list, of several an object.
fn token_rows(config: &Value, module: &str) -> Result<Vec<u64>, String> {
    let indices = &config["trainable_token_indices"];
    let list = match indices {
        Value::Array(list) => Some(list),
        Value::Object(by_module) => {
            let ends = |key: &str| module == key || module.strip_suffix(key).is_some_and(|rest| rest.ends_with('.'));
            let mut found = by_module.iter().filter(|(key, _)| ends(key));
            found.next().filter(|_| found.next().is_none()).and_then(|(_, list)| list.as_array())
        }
        _ => None,
    };
    let list = list.ok_or("trainable_token_indices does not name its rows")?;
    let rows: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
    let rows = rows.ok_or("trainable_token_indices has more than row numbers")?;
    if rows.iter().collect::<BTreeSet<_>>().len() != rows.len() {
        return Err("trainable_token_indices names a row twice".to_owned());
    }
    Ok(rows)
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
