//! Which tensors write to the residual stream and which read from it, and how each is stored.
//!
//! Orientation comes from the table of architectures, never from a shape: `o_proj` is often square.

pub mod config;
pub mod fallback;
pub mod names;
pub mod rules;
pub mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::limits::MAX_TENSORS;
pub use config::ConfigFacts;
pub use names::{Parameter, Parsed};
pub use table::{ARCHITECTURES, Architecture, FusedGate, FusedQkv};

/// Prefixes of models that are an encoder and nothing else.
const ENCODERS: &[&str] = &["encoder.", "bert.", "roberta.", "electra.", "albert.", "vit.", "deit."];

/// Whether a name without wrapper prefixes is of a block of such a model.
fn is_encoder(stripped: &str) -> bool {
    let bare = ENCODERS.iter().skip(1).find_map(|prefix| stripped.strip_prefix(prefix)).unwrap_or(stripped);
    ["encoder.layers.", "encoder.layer.", "encoder.block.", "encoder.albert_layer_groups."]
        .iter()
        .any(|blocks| bare.starts_with(blocks))
}

/// What a tensor does in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its output is added to the residual stream (attention output, MLP output, an expert's output).
    Writer,
    /// Its input is the residual stream (q, k, v, gate, up and their fusions).
    Reader,
    /// Token embeddings: rows are added to the residual stream first of all.
    Embedding,
    /// The output head: reads the residual stream last of all.
    Head,
    /// A norm gain or bias.
    Norm,
    /// A router of a mixture of experts.
    Router,
    /// A bias of a writer or reader.
    Bias,
    /// Anything else: convolutions, rotary tables, vision towers, scales. Of these only what writes in a draft block
    /// has a residual axis, that of the block's own stream.
    Other,
}

impl Kind {
    /// The word that JSON and the index have for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Norm => "norm",
            Self::Router => "router",
            Self::Bias => "bias",
            Self::Other => "other",
        }
    }
}

/// An axis of a stored matrix (of one expert's matrix where experts are stacked).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// The first axis (slow in memory): a PyTorch `Linear` that writes has its output here.
    Rows,
    /// The second axis (fast in memory): a GPT-2 `Conv1D` that writes has its output here, and so has an embedding.
    Columns,
}

/// The part one tensor, or one expert's slice of one, plays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Role {
    /// What it does.
    pub kind: Kind,
    /// The canonical module name: `o_proj` (attention output), `down_proj` (MLP output), `out_proj` (linear attention,
    /// state space or convolution output), `q_proj`, `k_proj`, `v_proj`, `qkv_proj`, `gate_proj`, `up_proj`,
    /// `gate_up_proj`, `embed_tokens`, `lm_head`, `router`, …, whatever the architecture itself calls it.
    pub module: String,
    /// The block it belongs to, counted from 0 as in the name.
    pub layer: Option<u32>,
    /// The expert it belongs to; for stacked experts the index on the stacking axis.
    pub expert: Option<u32>,
    /// Which axis of the stored matrix is the residual stream.
    pub residual: Option<Axis>,
}

/// What a tensor is, the same in every naming scheme: two tensors with one key correspond.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterKey {
    /// The block.
    pub layer: Option<u32>,
    /// The slot of the rule that holds, or the path as it is.
    pub slot: String,
    /// Weight or bias.
    pub parameter: Parameter,
    /// The expert.
    pub expert: Option<u32>,
}

/// What the table knows of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTensor {
    /// Its role; for stacked experts that of every slice, with the residual axis as each slice is stored.
    pub role: Role,
    /// Its identity across naming schemes.
    pub key: ParameterKey,
    /// Experts on the first axis, if they are stacked: slice `e` is elements `e·a·b .. (e+1)·a·b` of (E, a, b).
    pub stack: Option<u32>,
    /// Whether the matrix is stored input first (`Conv1D`): its rows are input channels.
    pub input_first: bool,
    /// Whether a rule of the table named it (else it was the fallback, or it lies outside the text decoder).
    pub known: bool,
}

/// How a checkpoint's tensors are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamingScheme {
    /// Names of a module tree (transformers and relatives).
    Modules,
    /// Meta's and Mistral's consolidated files: q and k rows in rotary pairs.
    Consolidated,
    /// GGUF.
    Gguf,
}

/// An architecture applied to one checkpoint's names.
#[derive(Debug, Clone)]
pub struct ResolvedArchitecture {
    /// The row of the table.
    pub architecture: &'static Architecture,
    /// Its family, or `fallback` when neither the configuration nor the names tell a row.
    pub family: String,
    /// The naming scheme.
    pub scheme: NamingScheme,
    /// What the configuration says.
    pub facts: ConfigFacts,
    /// Width of the residual stream.
    pub width: Option<u64>,
    rules: BTreeMap<&'static str, rules::Rule>,
    /// Blocks before each of the architecture's stacks.
    before: Vec<u32>,
    /// Blocks of draft heads (multi-token prediction), which have a stream of their own.
    draft_layers: BTreeSet<u32>,
}

/// Resolves a checkpoint by its configuration, metadata and tensor names.
pub fn resolve_checkpoint(checkpoint: &Checkpoint) -> ResolvedArchitecture {
    let facts = ConfigFacts::read(&checkpoint.config, &checkpoint.metadata);
    let names = checkpoint.tensors.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()));
    resolve_facts(facts, names, None)
}

/// Finds the architecture of a configuration (or `Null`) and a list of names and shapes.
pub fn resolve<'a>(
    config: &serde_json::Value,
    names: impl Iterator<Item = (&'a str, &'a [u64])>,
) -> ResolvedArchitecture {
    resolve_facts(ConfigFacts::read(config, &BTreeMap::new()), names, None)
}

/// Resolves a checkpoint as one of a row that is already known, with what another configuration says where its own
/// says nothing. A candidate is read like its base: its own configuration is the publisher's word.
pub fn resolve_as(checkpoint: &Checkpoint, like: &ResolvedArchitecture) -> ResolvedArchitecture {
    let names = checkpoint.tensors.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()));
    let facts = like.facts.or(&ConfigFacts::read(&checkpoint.config, &checkpoint.metadata));
    let row = (like.family != "fallback").then_some(like.architecture);
    resolve_facts(facts, names, row)
}

fn resolve_facts<'a>(
    facts: ConfigFacts,
    names: impl Iterator<Item = (&'a str, &'a [u64])>,
    row: Option<&'static Architecture>,
) -> ResolvedArchitecture {
    let names: Vec<(&str, &[u64])> = names.take(MAX_TENSORS).collect();
    let has = |name: &str| names.iter().any(|(other, _)| *other == name);
    let scheme = if names.iter().any(|(name, _)| name.starts_with("blk.")) || has("token_embd.weight") {
        NamingScheme::Gguf
    } else if names.iter().any(|(name, _)| name.starts_with("layers.") && name.contains(".attention.w")) {
        NamingScheme::Consolidated
    } else {
        NamingScheme::Modules
    };
    let paths: BTreeSet<String> = names
        .iter()
        .map(|(name, _)| Parsed::new(name, &[]))
        .filter(|parsed| !parsed.outside || is_encoder(&parsed.stripped))
        .map(|parsed| if parsed.outside { Parsed::new(&parsed.stripped, ENCODERS).path } else { parsed.path })
        .collect();
    let typed = table::of_type(&facts.model_type).or_else(|| table::of_type(&facts.outer_type));
    let row = row.or(typed).or_else(|| table::of_marks(|mark| paths.contains(mark)));
    let llama_names = ["self_attn.o_proj", "attention.wo", "attn_output"].iter().any(|path| paths.contains(*path));
    let (architecture, family) = match row {
        Some(row) => (row, row.family.to_owned()),
        None if llama_names => (table::llama(), table::llama().family.to_owned()),
        None => (table::llama(), "fallback".to_owned()),
    };
    let gguf: &[&[rules::Rule]] =
        if scheme == NamingScheme::Gguf { &[architecture.gguf.rules, rules::GGUF] } else { &[] };
    let mut by_path = BTreeMap::new();
    for rule in gguf.iter().chain(architecture.rules).copied().flatten() {
        by_path.entry(rule.path).or_insert(*rule);
    }
    let before = blocks_before(architecture, &names);
    let mut draft_layers = BTreeSet::new();
    let mut embedding = None;
    let mut shapes = Vec::new();
    for (name, shape) in &names {
        let parsed = Parsed::in_stacks(name, architecture.prefixes, architecture.stacks, &before);
        if parsed.outside {
            continue;
        }
        match parsed.layer {
            Some(layer) => {
                if matches!(parsed.path.as_str(), "eh_proj" | "nextn.eh_proj" | "enorm" | "hnorm") {
                    draft_layers.insert(layer);
                }
                shapes.push(*shape);
            }
            None => {
                let top = format!("^{}", parsed.path);
                let embeds = by_path.get(top.as_str()).is_some_and(|rule| rule.slot == "embed_tokens");
                if let ([_, columns], true) = (shape, embeds) {
                    embedding = Some(*columns);
                }
            }
        }
    }
    let width = fallback::width(facts.hidden, embedding, shapes.into_iter());
    ResolvedArchitecture { architecture, family, scheme, facts, width, rules: by_path, before, draft_layers }
}

/// Blocks before each of an architecture's stacks: an encoder's layer 0 and a decoder's are two layers.
fn blocks_before(architecture: &Architecture, names: &[(&str, &[u64])]) -> Vec<u32> {
    let mut before = Vec::new();
    let mut first = 0u32;
    for stack in architecture.stacks {
        before.push(first);
        let layers = names.iter().filter_map(|(name, _)| {
            let parsed = Parsed::in_stacks(name, architecture.prefixes, &[*stack], &[]);
            parsed.layer.filter(|_| !parsed.stack.is_empty())
        });
        first = first.saturating_add(layers.max().map_or(0, |last| last.saturating_add(1)));
    }
    before
}

impl ResolvedArchitecture {
    /// The role of a tensor; see [`ResolvedArchitecture::part`] for stacks.
    pub fn role(&self, name: &str, shape: &[u64]) -> Role {
        self.part(name, shape).role
    }

    /// Everything the table knows of a tensor.
    pub fn part(&self, name: &str, shape: &[u64]) -> KnownTensor {
        let parsed = self.parse(name);
        if parsed.outside {
            return self.outside(&parsed, shape);
        }
        let looked_up = match parsed.layer {
            Some(_) => self.rules.get(parsed.path.as_str()),
            None => self.rules.get(format!("^{}", parsed.path).as_str()),
        };
        let mut part = match looked_up {
            Some(rule) => self.by_rule(rule, &parsed, shape),
            None => self.by_fallback(&parsed, shape),
        };
        if parsed.layer.is_some_and(|layer| self.draft_layers.contains(&layer)) {
            part.role = of_draft(part.role);
        }
        part
    }

    /// What lies outside the text decoder: towers, projectors, and draft heads that stand beside the blocks.
    fn outside(&self, parsed: &Parsed, shape: &[u64]) -> KnownTensor {
        let module = parsed.path.rsplit('.').next().unwrap_or_default().to_owned();
        let inside = parsed.stripped.strip_prefix("mtp.").map(|name| self.parse(name));
        let drafts = inside.and_then(|inside| {
            let rule = self.rules.get(inside.path.as_str()).filter(|_| inside.layer.is_some())?;
            Some(of_draft(self.by_rule(rule, &inside, shape).role))
        });
        let other = Role { kind: Kind::Other, module, layer: None, expert: None, residual: None };
        KnownTensor {
            role: drafts.unwrap_or(other),
            key: ParameterKey { layer: None, slot: parsed.stripped.clone(), parameter: parsed.parameter, expert: None },
            stack: None,
            input_first: false,
            known: false,
        }
    }

    /// A name taken apart as this architecture has it.
    pub fn parse(&self, name: &str) -> Parsed {
        let Architecture { prefixes, stacks, .. } = self.architecture;
        Parsed::in_stacks(name, prefixes, stacks, &self.before)
    }

    /// Whether a block is a draft head's (multi-token prediction), which loaders of the model alone leave out.
    pub fn is_draft(&self, layer: u32) -> bool {
        self.draft_layers.contains(&layer)
    }

    fn by_rule(&self, rule: &rules::Rule, parsed: &Parsed, shape: &[u64]) -> KnownTensor {
        let mut parameter = parsed.parameter;
        let mut slot = rule.slot.to_owned();
        // Mamba 2 and gated delta nets keep the step bias as a bare parameter, others as the bias of a projection.
        if let Some(stem) = slot.strip_suffix("dt_bias") {
            slot = format!("{stem}dt_proj");
            parameter = Parameter::Bias;
        } else if slot == "router_correction" {
            parameter = Parameter::Weight;
        }
        if parsed.layer.is_none() {
            // Each stack has ends of its own.
            slot.insert_str(0, parsed.stack);
        }
        let module = slot.rsplit('.').next().unwrap_or(&slot).to_owned();
        let expert_path =
            parsed.path.contains("experts") || parsed.path.ends_with("_exps") || is_granite_stack(&parsed.path);
        let stacked = expert_path && parsed.expert.is_none() && parameter == Parameter::Weight && shape.len() == 3;
        let stacked_bias = expert_path && parsed.expert.is_none() && parameter == Parameter::Bias && shape.len() == 2;
        let stack =
            if stacked || stacked_bias { shape.first().and_then(|count| u32::try_from(*count).ok()) } else { None };
        let output_residual = rule.kind == Kind::Writer;
        let projects = matches!(rule.kind, Kind::Writer | Kind::Reader | Kind::Router);
        let matrix = match shape {
            [rows, columns] if !stacked_bias => Some((*rows, *columns)),
            [_, rows, columns] if stacked => Some((*rows, *columns)),
            _ => None,
        };
        let by_table = match rule.kind {
            Kind::Router => false,
            _ if self.scheme == NamingScheme::Gguf => false,
            _ if stacked => self.architecture.experts_input_first,
            _ => self.architecture.input_first && parsed.layer.is_some() && projects,
        };
        // A shape speaks against the table only where one axis alone has the residual width.
        let input_first = match (matrix, self.width, projects) {
            (Some((rows, columns)), Some(width), true) if (rows == width) != (columns == width) => {
                (rows == width) != output_residual
            }
            _ => by_table,
        };
        let kind = match parameter {
            Parameter::Bias if rule.kind == Kind::Norm => Kind::Norm,
            Parameter::Bias => Kind::Bias,
            Parameter::Weight => rule.kind,
        };
        let residual = match (parameter, rule.kind) {
            (Parameter::Bias, Kind::Writer) => Some(Axis::Columns),
            (Parameter::Bias, _) => None,
            (Parameter::Weight, Kind::Writer) => Some(if input_first { Axis::Columns } else { Axis::Rows }),
            (Parameter::Weight, Kind::Reader | Kind::Router) => {
                Some(if input_first { Axis::Rows } else { Axis::Columns })
            }
            (Parameter::Weight, Kind::Embedding | Kind::Head) => Some(Axis::Columns),
            (Parameter::Weight, Kind::Norm | Kind::Bias | Kind::Other) => None,
        };
        let residual = residual.filter(|_| matrix.is_some() || parameter == Parameter::Bias);
        // A writer or reader without the residual width on either axis works in a space of its own.
        let foreign = projects
            && parameter == Parameter::Weight
            && matches!((matrix, self.width), (Some((rows, columns)), Some(width)) if rows != width && columns != width);
        let (kind, residual) = if foreign { (Kind::Other, None) } else { (kind, residual) };
        KnownTensor {
            role: Role { kind, module, layer: parsed.layer, expert: parsed.expert, residual },
            key: ParameterKey { layer: parsed.layer, slot, parameter, expert: parsed.expert },
            stack,
            input_first: input_first && matrix.is_some(),
            known: true,
        }
    }

    fn by_fallback(&self, parsed: &Parsed, shape: &[u64]) -> KnownTensor {
        let (mut kind, module, mut residual) = fallback::part(&parsed.path, parsed.layer.is_some(), shape, self.width);
        if parsed.parameter == Parameter::Bias && kind != Kind::Norm {
            let writes = parsed.layer.is_some() && matches!(module.as_str(), "o_proj" | "down_proj" | "out_proj");
            kind = Kind::Bias;
            residual = writes.then_some(Axis::Columns);
        }
        let stack = match shape {
            [count, _, _] if parsed.path.contains("expert") && parsed.expert.is_none() => u32::try_from(*count).ok(),
            _ => None,
        };
        let input_first =
            matches!((kind, residual), (Kind::Writer, Some(Axis::Columns)) | (Kind::Reader, Some(Axis::Rows)));
        KnownTensor {
            role: Role { kind, module, layer: parsed.layer, expert: parsed.expert, residual },
            key: ParameterKey {
                layer: parsed.layer,
                slot: match parsed.layer {
                    Some(_) => parsed.path.clone(),
                    None => format!("^{}{}", parsed.stack, parsed.path),
                },
                parameter: parsed.parameter,
                expert: parsed.expert,
            },
            stack,
            input_first,
            known: false,
        }
    }
}

/// Granite keeps its stacks without the word "experts" in the name.
fn is_granite_stack(path: &str) -> bool {
    matches!(path, "block_sparse_moe.input_linear" | "block_sparse_moe.output_linear")
}

/// A role in a draft block (multi-token prediction): it has a residual stream of its own, so that its tensors count
/// neither as writers nor as readers of the model's; what writes to that stream keeps its axis, by which it is asked.
fn of_draft(role: Role) -> Role {
    // What joins the model's stream and the next token's embedding makes the block's stream, and adds nothing to it.
    let residual = role.residual.filter(|_| role.kind == Kind::Writer && role.module != "eh_proj");
    Role { kind: Kind::Other, residual, ..role }
}
