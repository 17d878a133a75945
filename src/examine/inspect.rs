//! What a checkpoint is, from its headers alone: architecture, which tensors write to the residual stream, lineage,
//! oddities. No base is needed and no weight is read.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::arch::{self, Kind, NamingScheme};
use crate::checkpoint::variants::{self, Variant};
use crate::checkpoint::{
    self, Anomaly, Checkpoint, FileSet, Storage,
    adapter::{Adapter, LowRank},
};
use crate::claim;
use crate::error::Result;
use crate::examination::Claim;

/// The schema's name and version; a change that breaks a reader raises the number.
pub const SCHEMA: &str = "orthoscope/inspection/1";

/// A checkpoint as its headers describe it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The folder, file or repository.
    pub source: String,
    /// Which of its variants this is.
    pub variant: Option<String>,
    /// Format name.
    pub format: String,
    /// Architecture family, `fallback` where neither the configuration nor the names tell one.
    pub architecture: String,
    /// Naming scheme of the tensors: `modules`, `consolidated`, `gguf`.
    pub names: &'static str,
    /// Width of the residual stream.
    pub width: Option<u64>,
    /// Blocks that have a writer.
    pub layers: u64,
    /// Files and their lengths.
    pub files: BTreeMap<String, u64>,
    /// The tensors of each part that they play, in the order of kinds.
    pub modules: Vec<Module>,
    /// Every tensor.
    pub tensors: Vec<InspectedTensor>,
    /// An adapter's weights that it changes, with the rank of each.
    pub adapted: BTreeMap<String, u64>,
    /// What the files say of their lineage.
    pub claim: Claim,
    /// Oddities.
    pub anomalies: Vec<Anomaly>,
    /// The other checkpoints that the repository holds.
    pub others: Vec<String>,
}

/// The tensors that play one part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Module {
    /// What they do.
    pub kind: Kind,
    /// The canonical module name.
    pub module: String,
    /// How many; slices of stacked experts count apart.
    pub count: u64,
    /// Their shapes, largest first, at most four.
    pub shapes: Vec<Vec<u64>>,
    /// Dtypes or schemes, with the number of tensors in each.
    pub dtypes: BTreeMap<String, u64>,
    /// Stored bytes.
    pub bytes: u64,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedTensor {
    /// Its name in the file.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// The canonical module name.
    pub module: String,
    /// The block it belongs to.
    pub layer: Option<u32>,
    /// Logical shape.
    pub shape: Vec<u64>,
    /// Dtype or scheme.
    pub dtype: String,
    /// The file it is in.
    pub file: String,
    /// Where its bytes begin and end there.
    pub range: [u64; 2],
    /// Why it cannot be read, if it cannot.
    pub unreadable: Option<String>,
}

/// Inspects the checkpoints among the files: the one that is looked at first, or `all`.
pub fn inspect(files: &FileSet, all: bool) -> Result<Vec<Inspection>> {
    let found = variants::of_files(files);
    if found.is_empty() {
        return Ok(vec![of(files, None, &checkpoint::open(files)?, &[])?]);
    }
    let wanted = if all { found.len() } else { 1 };
    found.iter().take(wanted).map(|variant| of(files, Some(variant), &variant.open(files)?, &found)).collect()
}

fn of(files: &FileSet, variant: Option<&Variant>, opened: &Checkpoint, found: &[Variant]) -> Result<Inspection> {
    let adapter = Adapter::of(opened)?;
    // An adapter's own tensors are factors; what they are factors of tells what it changes.
    let targets: Vec<(String, Vec<u64>)> = adapter.iter().flat_map(targets).collect();
    let resolved = match adapter {
        Some(_) => arch::resolve(&opened.config, targets.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))),
        None => arch::resolve_checkpoint(opened),
    };
    let shapes: BTreeMap<&str, &[u64]> =
        targets.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let factors: BTreeMap<&str, String> = (adapter.iter().flat_map(|adapter| &adapter.modules))
        .flat_map(|(_, change)| [&change.a, &change.b].map(|factor| (factor.as_str(), change.target.clone())))
        .collect();
    let mut tensors = Vec::new();
    let mut modules: BTreeMap<(Kind, String), Module> = BTreeMap::new();
    let mut layers = std::collections::BTreeSet::new();
    for (name, entry) in &opened.tensors {
        let weight = factors.get(name.as_str()).map_or(name, |weight| weight);
        let part = resolved.part(weight, shapes.get(weight.as_str()).copied().unwrap_or(&entry.shape));
        let (kind, module, layer) = (part.role.kind, part.role.module, part.role.layer);
        let (dtype, unreadable) = match &entry.storage {
            Storage::Plain => (entry.dtype.name.to_owned(), None),
            Storage::Packed(packed) => (packed.scheme().to_owned(), None),
            Storage::Unreadable(reason) => (entry.dtype.name.to_owned(), Some(reason.clone())),
        };
        if kind == Kind::Writer {
            layers.extend(layer);
        }
        let bytes = entry.range.end.saturating_sub(entry.range.start);
        let sum = modules.entry((kind, module.clone())).or_insert_with(|| Module {
            kind,
            module: module.clone(),
            count: 0,
            shapes: Vec::new(),
            dtypes: BTreeMap::new(),
            bytes: 0,
        });
        sum.count = sum.count.saturating_add(part.stack.map_or(1, u64::from));
        sum.bytes = sum.bytes.saturating_add(bytes);
        *sum.dtypes.entry(dtype.clone()).or_default() += 1;
        if !sum.shapes.contains(&entry.shape) && sum.shapes.len() < 4 {
            sum.shapes.push(entry.shape.clone());
        }
        tensors.push(InspectedTensor {
            name: name.clone(),
            kind,
            module,
            layer,
            shape: entry.shape.clone(),
            dtype,
            file: opened.files.get(entry.file).map(|file| file.name.clone()).unwrap_or_default(),
            range: [entry.range.start, entry.range.end],
            unreadable,
        });
    }
    let adapted = adapter.iter().flat_map(|adapter| &adapter.modules).map(|(name, change)| (name.clone(), change.rank));
    let declared = claim::files::declarations(files, Some(opened))?;
    Ok(Inspection {
        schema: SCHEMA,
        source: files.label.clone(),
        variant: variant.map(|variant| variant.name.clone()),
        format: opened.format.to_owned(),
        architecture: resolved.family.clone(),
        names: match resolved.scheme {
            NamingScheme::Modules => "modules",
            NamingScheme::Consolidated => "consolidated",
            NamingScheme::Gguf => "gguf",
        },
        width: resolved.width,
        layers: layers.len() as u64,
        files: opened.files.iter().map(|file| (file.name.clone(), file.source.len())).collect(),
        modules: modules.into_values().collect(),
        tensors,
        adapted: adapted.collect(),
        claim: claim::resolve(&declared, &files.label, None).claim,
        anomalies: opened.anomalies.iter().cloned().chain(checkpoint::surroundings(files)).collect(),
        others: found.iter().filter(|other| Some(*other) != variant).map(|other| other.name.clone()).collect(),
    })
}

/// The weights that an adapter changes, with their shapes as its factors give them.
fn targets(adapter: &Adapter) -> Vec<(String, Vec<u64>)> {
    let target = |change: &LowRank| (change.target.clone(), vec![change.outputs, change.inputs]);
    adapter.modules.values().map(target).collect()
}
