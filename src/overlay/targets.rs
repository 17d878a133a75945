//! Which tensors of a base the parts of an adapter mean, and in what order their rows lie there.

use std::collections::BTreeMap;

use serde_json::Value;

use super::laid::FactorOrder;
use crate::arch::{self, NamingScheme, Parameter, ParameterKey, ResolvedArchitecture};
use crate::checkpoint::adapter::Adapter;
use crate::checkpoint::{Checkpoint, Storage, TensorEntry, unknown_dtype};
use crate::pair::{Piece, Relative, pieces, relative};

/// Heads that transformers puts on a model for a task, and that no base has.
const NEW_HEADS: &[&str] = &["score", "classifier", "qa_outputs"];

/// Tasks that have one.
const HEADED_TASKS: &[&str] = &["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"];

/// What a part of an adapter means in the base.
pub(super) struct Target<'a> {
    /// The name that was looked for.
    pub wanted: String,
    /// The base's tensors that it may be.
    pub entries: Vec<&'a TensorEntry>,
    /// The name under which the changed tensor stands, where that is not the entry's.
    pub name: Option<String>,
    /// Why it cannot be applied to one of them.
    pub reason: Option<String>,
}

/// The tensors of a base by what they are.
pub(super) struct Targets<'a> {
    /// How the base's names are read.
    pub resolved: ResolvedArchitecture,
    /// How the adapter's are.
    adapter: ResolvedArchitecture,
    by_key: BTreeMap<ParameterKey, Vec<&'a TensorEntry>>,
    /// Stacked parameters by the module they are in.
    stacks: BTreeMap<(Option<u32>, String), Vec<&'a TensorEntry>>,
    /// The tensors that the adapter speaks of, as it names and shapes them.
    named: Checkpoint,
}

impl<'a> Targets<'a> {
    pub fn new(base: &'a Checkpoint, change: &Adapter, adapter: &Checkpoint) -> Self {
        let resolved = arch::resolve_checkpoint(base);
        let named = named(base, change, adapter);
        let adapter = arch::resolve_as(&named, &resolved);
        let mut by_key: BTreeMap<ParameterKey, Vec<&TensorEntry>> = BTreeMap::new();
        let mut stacks: BTreeMap<_, Vec<&TensorEntry>> = BTreeMap::new();
        for (name, entry) in &base.tensors {
            by_key.entry(resolved.part(name, &entry.shape).key).or_default().push(entry);
            if let (3, Some((module, _))) = (entry.shape.len(), name.rsplit_once('.')) {
                stacks.entry(place(module, &resolved)).or_default().push(entry);
            }
        }
        Self { resolved, adapter, by_key, stacks, named }
    }

    /// The tensor of the base that the adapter calls by this name.
    pub fn find(&self, wanted: &str, base: &'a Checkpoint) -> Target<'a> {
        let target = |entries: Vec<&'a TensorEntry>, reason: Option<&str>| Target {
            wanted: wanted.to_owned(),
            entries,
            name: None,
            reason: reason.map(str::to_owned),
        };
        if let Some(entry) = base.tensors.get(wanted) {
            return target(vec![entry], None);
        }
        let key = self.adapter.part(wanted, &[]).key;
        let found = self.by_key.get(&key).cloned().unwrap_or_default();
        if found.len() > 1 {
            // Prefixes that are not known as such may still tell one from the others.
            let ends = |whole: &str, end: &str| whole.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
            let mut nearer = found.iter().filter(|entry| ends(&entry.name, wanted) || ends(wanted, &entry.name));
            return match (nearer.next(), nearer.next()) {
                (Some(entry), None) => target(vec![entry], None),
                _ => target(found, Some("several tensors of the base may be meant")),
            };
        }
        if !found.is_empty() {
            return target(found, None);
        }
        if key.expert.is_some() {
            let stack = self.by_key.get(&ParameterKey { expert: None, ..key.clone() }).cloned().unwrap_or_default();
            let reason = "the base keeps its experts in one stack, and it changes one of them apart";
            return target(stack, Some(reason));
        }
        // A head that the base ties to its embedding: the adapter's change is the head's alone.
        if key.slot == "lm_head" && key.parameter == Parameter::Weight && key.layer.is_none() {
            let embedding = ParameterKey { slot: "embed_tokens".to_owned(), ..key };
            let entries = self.by_key.get(&embedding).cloned().unwrap_or_default();
            let name = if self.resolved.scheme == NamingScheme::Gguf { "output.weight" } else { "lm_head.weight" };
            return Target { name: Some(name.to_owned()), ..target(entries, None) };
        }
        target(Vec::new(), None)
    }

    /// The stacked parameters of a module.
    pub fn stacks(&self, module: &str) -> Vec<&'a TensorEntry> {
        self.stacks.get(&place(module, &self.resolved)).cloned().unwrap_or_default()
    }
}

/// Block and path of a module.
fn place(module: &str, resolved: &ResolvedArchitecture) -> (Option<u32>, String) {
    let parsed = resolved.parse(module);
    let path = if parsed.layer.is_none() { format!("{}{}", parsed.stack, parsed.path) } else { parsed.path };
    (parsed.layer, if parsed.outside { parsed.stripped } else { path })
}

/// The tensors that an adapter changes, under its own names and in the shapes that it tells, as a checkpoint.
fn named(base: &Checkpoint, change: &Adapter, adapter: &Checkpoint) -> Checkpoint {
    let shape = |name: &String| adapter.tensors.get(name).map(|entry| entry.shape.clone()).unwrap_or_default();
    let modules = change.modules.values().map(|low_rank| {
        let shape =
            if low_rank.embedding { [low_rank.inputs, low_rank.outputs] } else { [low_rank.outputs, low_rank.inputs] };
        (low_rank.target.clone(), shape.to_vec())
    });
    let replaced = change.replaced.iter().map(|(target, name)| (target.clone(), shape(name)));
    let tokens = change.tokens.iter().map(|(target, tokens)| (target.clone(), shape(&tokens.entry)));
    let unread = change.unread.values().filter_map(|unread| Some((unread.target.clone()?, vec![0, 0])));
    let entry = |(name, shape): (String, Vec<u64>)| {
        let storage = Storage::Unreadable("only its name is known".to_owned());
        (name.clone(), TensorEntry { name, dtype: unknown_dtype(), shape, file: 0, range: 0..0, storage })
    };
    let tensors = unread.chain(tokens).chain(replaced).chain(modules).map(entry).collect();
    Checkpoint { tensors, files: Vec::new(), config: Value::Null, metadata: BTreeMap::new(), ..base.clone() }
}

/// Whether a tensor is one of a head that transformers adds for the adapter's task.
pub(super) fn is_new_head(name: &str, config: &Value) -> bool {
    let task = config["task_type"].as_str().unwrap_or_default();
    let module = name.rsplit('.').nth(1).unwrap_or_default();
    HEADED_TASKS.contains(&task) && NEW_HEADS.contains(&module)
}

/// How the rows and columns of the adapter's weights lie in the base's: differently only where the two are named by
/// different schemes.
pub(super) struct Orders {
    /// Pieces of both sides by tensor; none where the schemes are the same.
    sides: Option<[BTreeMap<String, Piece>; 2]>,
    /// Whether the architecture's q and k change their order between schemes.
    permuted: bool,
}

impl Orders {
    pub fn new(targets: &Targets<'_>, base: &Checkpoint) -> Self {
        let permuted = targets.resolved.architecture.gguf.permuted_rotary;
        if targets.resolved.scheme == targets.adapter.scheme {
            return Self { sides: None, permuted };
        }
        let mut sub = Checkpoint { tensors: BTreeMap::new(), files: Vec::new(), ..base.clone() };
        for name in targets.named.tensors.keys() {
            let found = targets.find(name, base).entries;
            sub.tensors.extend(found.into_iter().map(|entry| (entry.name.clone(), entry.clone())));
        }
        // Experts are laid over in no other order than their own.
        sub.tensors.retain(|_, entry| entry.shape.len() < 3);
        let by_tensor = |checkpoint: &Checkpoint, resolved: &ResolvedArchitecture| {
            let (pieces, _) = pieces(checkpoint, resolved);
            pieces.into_iter().map(|piece| (piece.tensor.clone(), piece)).collect()
        };
        let mut named = targets.named.clone();
        named.tensors.retain(|_, entry| entry.shape.len() < 3);
        let sides = [by_tensor(&sub, &targets.resolved), by_tensor(&named, &targets.adapter)];
        Self { sides: Some(sides), permuted }
    }

    /// The order between a tensor of the base and the adapter's of another name; `None` when it is not known.
    pub fn between(&self, base: &str, adapter: &str) -> Option<FactorOrder> {
        let Some([bases, adapters]) = &self.sides else { return Some(FactorOrder::default()) };
        let (own, other) = (bases.get(base)?, adapters.get(adapter)?);
        let slot = own.key.slot.rsplit('.').next().unwrap_or_default();
        let rotary = self.permuted && matches!(slot, "q_proj" | "k_proj");
        // One of the two schemes has them in pairs; without the width of a head its order could not be told.
        if !own.known || own.shift != other.shift || (rotary && own.order.is_none() && other.order.is_none()) {
            return None;
        }
        let order = |first: &Option<std::sync::Arc<[u32]>>, second: &Option<std::sync::Arc<[u32]>>| {
            Some(match relative(first.as_deref(), second.as_deref())? {
                Relative::Same => None,
                Relative::Order(order) => Some(order),
            })
        };
        let rows = order(&own.order, &other.order)?;
        let columns = order(&own.column_order, &other.column_order)?;
        Some(FactorOrder { rows, columns })
    }
}
