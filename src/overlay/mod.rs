//! Lays an adapter over its base: a checkpoint whose changed weights are computed row by row as they are read.
//!
//! Which tensor of the base a part of the adapter changes is told as pairing tells it, by [`arch::ParameterKey`]: by
//! exact name, else by block, slot and expert, whatever prefixes (`language_model.`, `base_model.model.`) and naming
//! schemes lie between. Whatever cannot be applied makes the weight that it would have changed unreadable, so that an
//! adapter never comes out as its base.

mod laid;
#[cfg(test)]
mod oracle;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::arch;
use crate::checkpoint::adapter::{self, Adapter, Dialect, Experts, LowRank, Tokens};
use crate::checkpoint::{Anomalies, AnomalyKind, Checkpoint, Storage, TensorEntry, anomaly, unknown_dtype};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor;
use laid::{FactorOrder, Laid, LaidBias, LaidRows};
use targets::{Orders, Target, Targets};

/// What is to be compared with a base in the place of a candidate that is no whole model by itself: an adapter laid
/// over the base, or a model with the unmerged parts of an adapter beside its weights, applied to them. `None` for any
/// other.
///
/// Parts that the base has too, in the same shape, are tensors of the architecture like any other.
///
/// Errors when it is an adapter of a kind that is not handled, or one of which no part could be used.
pub fn settle(base: &Checkpoint, candidate: &Checkpoint) -> Result<Option<Checkpoint>> {
    if Adapter::of(candidate)?.is_some() {
        return overlay(base, candidate).map(Some);
    }
    let own = unmerged(base, candidate);
    if own.is_empty() {
        return Ok(None);
    }
    let mut rest = candidate.clone();
    let mut parts = Checkpoint { anomalies: Vec::new(), ..candidate.clone() };
    rest.tensors.retain(|name, _| !own.contains(name));
    parts.tensors.retain(|name, _| own.contains(name));
    let adapter = Adapter::among(&parts);
    let mut laying = Laying::new(&rest, &parts, &adapter, true);
    laying.lay(&adapter);
    Ok(Some(laying.finish(candidate)))
}

/// Whether [`settle`] has something to do.
pub fn needs_settling(base: &Checkpoint, candidate: &Checkpoint) -> Result<bool> {
    Ok(Adapter::of(candidate)?.is_some() || !unmerged(base, candidate).is_empty())
}

/// The parts of an adapter among a whole model's tensors.
fn unmerged(base: &Checkpoint, candidate: &Checkpoint) -> BTreeSet<String> {
    let in_base = |entry: &TensorEntry| base.tensors.get(&entry.name).is_some_and(|own| own.shape == entry.shape);
    let parts = candidate.tensors.values().filter(|entry| adapter::is_part(&entry.name) && !in_base(entry));
    parts.map(|entry| entry.name.clone()).collect()
}

/// The base with the adapter laid over it. Everything that the adapter does not change is the base's own entry.
///
/// A target that the base lacks, and a part that is not understood or does not fit, becomes an anomaly and an
/// unreadable entry: of the base's tensor where that is known, else under its own name. Errors when the checkpoint is
/// no adapter, one of a kind that is not handled, or one of which no part could be used.
pub fn overlay(base: &Checkpoint, adapter: &Checkpoint) -> Result<Checkpoint> {
    let change = Adapter::of(adapter)?.ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("laying {} over {}: it is no adapter", adapter.label, base.label))
    })?;
    let mut laying = Laying::new(base, adapter, &change, false);
    laying.lay(&change);
    if laying.changed.is_empty() {
        let kind = change.dialect.as_str();
        let reason = laying.first_reason.unwrap_or_else(|| "it has none".to_owned());
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "laying {} over {}: it is an adapter in the layout of {kind}, and none of its parts could be used: {reason}",
                adapter.label, base.label
            ),
        ));
    }
    Ok(laying.finish(base))
}

/// What was done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Another stands in its place.
    Replaced,
    /// Some of its rows were replaced.
    Rows,
    /// A product or a bias was added.
    Added,
}

/// An overlay in the making.
struct Laying<'a> {
    base: &'a Checkpoint,
    adapter: &'a Checkpoint,
    /// Where the adapter's files begin in the new list.
    first_file: usize,
    targets: Targets<'a>,
    orders: Orders,
    tensors: BTreeMap<String, TensorEntry>,
    anomalies: Anomalies,
    /// Tensors that some part changes already.
    changed: BTreeMap<String, Step>,
    /// Tensors that a part would have changed that is not understood: nothing makes them readable again.
    lost: BTreeSet<String>,
    first_reason: Option<String>,
    /// Whether the adapter's parts stand among the weights themselves.
    among: bool,
    /// Both sides' files, for reading.
    files: Arc<Checkpoint>,
}

impl<'a> Laying<'a> {
    fn new(base: &'a Checkpoint, adapter: &'a Checkpoint, change: &Adapter, among: bool) -> Self {
        let mut files = base.files.clone();
        if !among {
            files.extend(adapter.files.iter().cloned());
        }
        let both = Checkpoint { files, tensors: BTreeMap::new(), ..base.clone() };
        let targets = Targets::new(base, change, adapter);
        let orders = Orders::new(&targets, base);
        Self {
            base,
            adapter,
            first_file: if among { 0 } else { base.files.len() },
            targets,
            orders,
            tensors: base.tensors.clone(),
            anomalies: Anomalies::default(),
            changed: BTreeMap::new(),
            lost: BTreeSet::new(),
            first_reason: None,
            among,
            files: Arc::new(both),
        }
    }

    /// Applies all parts. What stands for a whole tensor comes first: factors over it are added to what it put there.
    fn lay(&mut self, change: &Adapter) {
        for (target, name) in &change.replaced {
            self.replace(target, name);
        }
        for (target, tokens) in &change.tokens {
            self.put_rows(target, tokens);
        }
        for (module, low_rank) in &change.modules {
            self.add(module, low_rank, change);
        }
        for (name, unread) in &change.unread {
            let target = unread.target.as_deref().map(|target| self.targets.find(target, self.base));
            let shape = self.adapter.tensors.get(name).map(|entry| entry.shape.clone()).unwrap_or_default();
            match target {
                Some(target) if !target.entries.is_empty() => self.lose(&target, name, &unread.reason),
                _ => self.note(anomaly::ADAPTER_PART, name, name, &shape, &unread.reason),
            }
        }
    }

    fn file(&self) -> String {
        self.adapter.files.first().map(|file| file.name.clone()).unwrap_or_default()
    }

    /// An entry of the adapter's in the new list of files.
    fn own(&self, name: &str) -> Option<TensorEntry> {
        let entry = self.adapter.tensors.get(name)?;
        Some(TensorEntry { file: self.first_file + entry.file, ..entry.clone() })
    }

    /// The one tensor of the base that a part changes, if it is one; everything it may mean becomes unreadable else.
    fn one(&mut self, wanted: &str, part: &str) -> Option<(TensorEntry, String)> {
        let target = self.targets.find(wanted, self.base);
        if let ([entry], None) = (target.entries.as_slice(), &target.reason) {
            // The entry as it is by now: what replaced it counts.
            let name = target.name.clone().unwrap_or_else(|| entry.name.clone());
            let now = self.tensors.get(&entry.name).cloned().unwrap_or_else(|| (*entry).clone());
            return Some((now, name));
        }
        let reason = target.reason.clone().unwrap_or_else(|| "the base has no such weight".to_owned());
        self.lose(&target, part, &reason);
        None
    }

    /// Makes every tensor of the base that a part may change unreadable, or the part itself where there is none.
    fn lose(&mut self, target: &Target<'_>, part: &str, reason: &str) {
        if target.entries.is_empty() {
            let shape = self.adapter.tensors.get(part).map(|entry| entry.shape.clone()).unwrap_or_default();
            self.note(anomaly::ADAPTER_TARGET, &target.wanted, &target.wanted, &shape, reason);
            return;
        }
        for entry in &target.entries {
            self.note(anomaly::ADAPTER_TARGET, &target.wanted, &entry.name, &entry.shape, reason);
        }
    }

    /// Puts an unreadable entry in the place of a tensor, and says why.
    fn note(&mut self, kind: AnomalyKind, told: &str, name: &str, shape: &[u64], reason: &str) {
        self.anomalies.tensor(kind, &self.file(), told, reason);
        self.first_reason.get_or_insert_with(|| reason.to_owned());
        self.changed.remove(name);
        self.lost.insert(name.to_owned());
        let storage = Storage::Unreadable(reason.to_owned());
        let blank = || TensorEntry {
            name: name.to_owned(),
            dtype: unknown_dtype(),
            shape: shape.to_vec(),
            file: 0,
            range: 0..0,
            storage: Storage::Plain,
        };
        let before = self.tensors.get(name).cloned().unwrap_or_else(blank);
        self.tensors.insert(name.to_owned(), TensorEntry { storage, ..before });
    }

    /// Puts a changed entry in its place. A second change of the same tensor makes it unreadable: which of them a
    /// loader takes, or whether both, is not known. A product over what stands for the whole tensor is not a second
    /// one.
    fn put(&mut self, name: String, entry: TensorEntry, step: Step) {
        if self.lost.contains(&name) {
            return;
        }
        let before = self.changed.insert(name.clone(), step);
        if before.is_some() && (before, step) != (Some(Step::Replaced), Step::Added) {
            self.note(anomaly::ADAPTER_TARGET, &name, &name, &entry.shape, "two parts of the adapter change it");
            return;
        }
        self.tensors.insert(name.clone(), TensorEntry { name, ..entry });
    }

    fn replace(&mut self, wanted: &str, part: &str) {
        let Some(entry) = self.own(part) else { return };
        let target = self.targets.find(wanted, self.base);
        if target.entries.is_empty() && (self.among || targets::is_new_head(wanted, &self.adapter.config)) {
            self.put(wanted.to_owned(), entry, Step::Replaced);
            return;
        }
        let Some((now, name)) = self.one(wanted, part) else { return };
        match self.orders.between(&now.name, wanted) {
            Some(order) if order.is_same() => self.put(name, entry, Step::Replaced),
            _ => {
                let reason = "its rows or numbers lie in another order than the base's".to_owned();
                self.note(anomaly::ADAPTER_TARGET, wanted, &name, &now.shape, &reason);
            }
        }
    }

    fn put_rows(&mut self, wanted: &str, tokens: &Tokens) {
        let Some((now, name)) = self.one(wanted, &tokens.entry) else { return };
        let Some(rows) = self.own(&tokens.entry) else { return };
        match LaidRows::new(Arc::clone(&self.files), &now, &rows, &tokens.rows) {
            Ok(laid) => self.put(name, packed(&now, Arc::new(laid)), Step::Rows),
            Err(reason) => self.note(anomaly::ADAPTER_TARGET, wanted, &name, &now.shape, &reason),
        }
    }

    fn add(&mut self, module: &str, change: &LowRank, whole: &Adapter) {
        if let Some(Experts::Interleaved(_)) = change.experts {
            self.add_to_stack(module, change, whole);
            return;
        }
        let Some((now, name)) = self.one(&change.target, &change.a) else { return };
        match self.laid(module, change, whole, &now) {
            Ok(entry) => self.put(name, entry, Step::Added),
            Err(reason) => self.note(anomaly::ADAPTER_TARGET, &change.target, &name, &now.shape, &reason),
        }
        if let Some(bias) = &change.bias {
            self.add_bias(module, bias, change, &now.name);
        }
    }

    /// The entry with the product added; why it cannot be.
    fn laid(&self, module: &str, change: &LowRank, whole: &Adapter, now: &TensorEntry) -> Result<TensorEntry, String> {
        let own_name = now.name.strip_suffix(".weight").unwrap_or(&now.name);
        if whole.scaling.by_name() && own_name != module && !self.among {
            // The base's own name for the module is what PEFT would look up.
            let rank = whole.scaling.rank(own_name)?;
            if rank != Some(change.rank) || whole.scaling.of(own_name, change.rank)?.to_bits() != change.scale.to_bits()
            {
                return Err(format!("its scale differs by whether it is looked up as {module} or {own_name}"));
            }
        }
        let order = match change.experts {
            Some(_) => FactorOrder::default(),
            None => self
                .orders
                .between(&now.name, &change.target)
                .ok_or_else(|| "the order of its rows differs from the base's in a way that is not known".to_owned())?,
        };
        let flipped = self.flipped(change, whole, now)?;
        let part = |name: &String| self.own(name).ok_or_else(|| "it is missing".to_owned());
        let factors = [part(&change.a)?, part(&change.b)?];
        let magnitude = change.magnitude.as_ref().map(part).transpose()?;
        let laid = Laid::new(Arc::clone(&self.files), now, change, factors, magnitude, order, flipped)?;
        Ok(packed(now, Arc::new(laid)))
    }

    /// Whether the base stores the weight inputs × outputs: by its shape where that tells, else by what the table knows
    /// of the architecture (as the class of the layer tells PEFT), else by what the adapter says.
    fn flipped(&self, change: &LowRank, whole: &Adapter, now: &TensorEntry) -> Result<bool, String> {
        let (rows, columns) = match (now.shape.as_slice(), change.experts) {
            (&[rows, columns], None) => (rows, columns),
            (&[experts, rows, columns], Some(own)) if experts == own.count() => (rows, columns),
            (shape, _) => return Err(format!("a factor pair on a weight of shape {shape:?} is not handled")),
        };
        let (outputs, inputs) = (change.outputs, change.inputs);
        let misfit =
            || format!("factors for {outputs} outputs of {inputs} inputs do not fit a weight of {rows} × {columns}");
        match ((rows, columns) == (outputs, inputs), (rows, columns) == (inputs, outputs)) {
            (false, false) => Err(misfit()),
            (true, false) if change.embedding => Err(misfit()),
            (true, false) => Ok(false),
            (false, true) => Ok(true),
            (true, true) => {
                let part = self.targets.resolved.part(&now.name, &now.shape);
                Ok(match part.role.kind {
                    _ if change.embedding => true,
                    arch::Kind::Embedding => whole.dialect != Dialect::Peft,
                    _ if change.experts.is_some() => part.input_first,
                    _ => part.input_first || (!part.known && whole.by_inputs),
                })
            }
        }
    }

    /// Adds to the one stacked parameter of a module that the factors fit.
    fn add_to_stack(&mut self, module: &str, change: &LowRank, whole: &Adapter) {
        let module = adapter::stacked_module(module);
        let stacks: Vec<TensorEntry> = self.targets.stacks(module).into_iter().cloned().collect();
        let fitting: Vec<&TensorEntry> =
            stacks.iter().filter(|entry| self.flipped(change, whole, entry).is_ok()).collect();
        if let [entry] = fitting.as_slice() {
            match self.laid(module, change, whole, entry) {
                Ok(laid) => self.put(entry.name.clone(), laid, Step::Added),
                Err(reason) => self.note(anomaly::ADAPTER_TARGET, module, &entry.name, &entry.shape, &reason),
            }
            return;
        }
        let reason =
            if fitting.is_empty() { "no stacked parameter of the module fits" } else { "several parameters fit" };
        let entries: Vec<&TensorEntry> = if fitting.is_empty() { stacks.iter().collect() } else { fitting };
        let target = Target { wanted: module.to_owned(), entries, name: None, reason: None };
        self.lose(&target, &change.a, reason);
    }

    /// Adds to the bias beside a weight.
    fn add_bias(&mut self, module: &str, part: &str, change: &LowRank, weight: &str) {
        let wanted = format!("{module}.bias");
        let beside = weight.strip_suffix(".weight").map(|stem| format!("{stem}.bias"));
        let now = beside.and_then(|name| self.tensors.get(&name).cloned());
        let (Some(now), Some(added)) = (now, self.own(part)) else {
            let reason = "it adds a bias to a layer that has none in the base";
            self.note(anomaly::ADAPTER_TARGET, &wanted, &wanted, &[change.outputs], reason);
            return;
        };
        let same = self.orders.between(weight, &change.target).is_some_and(|order| order.is_same());
        match LaidBias::new(Arc::clone(&self.files), &now, &added, change.scale).filter(|_| same) {
            Some(laid) => self.put(now.name.clone(), packed(&now, Arc::new(laid)), Step::Added),
            None => {
                let reason = format!("a bias of {} numbers does not fit it", change.outputs);
                self.note(anomaly::ADAPTER_TARGET, &wanted, &now.name, &now.shape, &reason);
            }
        }
    }

    /// The whole, described as `like` describes itself.
    fn finish(self, like: &Checkpoint) -> Checkpoint {
        let mut anomalies = self.adapter.anomalies.clone();
        anomalies.extend(if self.among { self.base.anomalies.clone() } else { Vec::new() });
        anomalies.extend(self.anomalies.finish());
        anomalies.sort();
        let whole = if self.among { like } else { self.adapter };
        Checkpoint {
            label: whole.label.clone(),
            format: whole.format,
            files: self.files.files.clone(),
            tensors: self.tensors,
            config: like.config.clone(),
            metadata: like.metadata.clone(),
            anomalies,
        }
    }
}

/// An entry whose numbers are computed.
fn packed(entry: &TensorEntry, decode: Arc<dyn crate::checkpoint::Decode>) -> TensorEntry {
    TensorEntry { dtype: &tensor::F32, storage: Storage::Packed(decode), ..entry.clone() }
}
