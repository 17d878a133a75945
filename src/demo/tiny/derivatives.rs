//! A catalogue of derivatives of a tiny base, honest and orthogonalized, readable and not, each with what a sweep
//! should say of it: the world of `orthoscope demo` and of the sweep's tests.

use std::path::Path;

use super::edits::{self, RemovalKind};
use super::gguf::{self, Quantization};
use super::{Model, TinySize, adapter, direction};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Relation;
use crate::tensor::DType;

/// What stands in the way of reading it, or in its card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadCondition {
    /// Nothing.
    Plain,
    /// The publisher has to grant access.
    Gated,
    /// The last weight file ends halfway.
    Truncated,
    /// Of the last weight file there are a hundred bytes.
    Beginning,
    /// The card names no base.
    WithoutClaim,
}

/// As which files a derivative is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Package {
    /// Safetensors, as a Hugging Face repository has them.
    Safetensors,
    /// GGUF files, one a quantisation, and nothing else.
    Gguf(&'static [Quantization]),
    /// The base's own safetensors, and the derivative as a GGUF file beside them.
    BesideTheBase(Quantization),
    /// A PEFT adapter of the given rank: the largest components of what was changed.
    Adapter(usize),
    /// A pickle that would run a command on loading, and nothing else.
    Command,
}

/// One derivative.
pub struct Derivative {
    /// A short name in kebab case.
    pub name: &'static str,
    /// What was done, in words.
    pub about: &'static str,
    /// What a sweep should end in: a verdict, or the kind of failure.
    pub ending: &'static str,
    /// The relation to the base that should be found, where one is.
    pub relation: Option<Relation>,
    /// Stored as.
    pub dtype: &'static str,
    /// In so many files.
    pub shards: usize,
    /// As which files.
    pub package: Package,
    /// What stands in the way.
    pub condition: UploadCondition,
    /// Makes it of the base; the seed decides on directions and noise.
    pub make: fn(&Model, u64) -> Model,
}

const PLAIN: Derivative = Derivative {
    name: "",
    about: "",
    ending: "clear",
    relation: None,
    dtype: "BF16",
    shards: 2,
    package: Package::Safetensors,
    condition: UploadCondition::Plain,
    make: |base, _| base.clone(),
};

/// Every derivative.
pub static DERIVATIVES: &[Derivative] = &[
    Derivative { name: "reupload", about: "the base's own files", relation: Some(Relation::Identical), ..PLAIN },
    Derivative {
        name: "resharded",
        about: "the base in one file instead of two",
        relation: Some(Relation::Repackaged),
        shards: 1,
        ..PLAIN
    },
    Derivative {
        name: "half-precision",
        about: "the base cast from bfloat16 to float16",
        relation: Some(Relation::Recast),
        dtype: "F16",
        ..PLAIN
    },
    Derivative {
        name: "finetuned",
        about: "every matrix trained further",
        relation: Some(Relation::FineTuned),
        make: tuned,
        ..PLAIN
    },
    Derivative {
        name: "lora-merged",
        about: "a LoRA of rank 8 merged into all linear layers",
        make: |base, seed| {
            changed(base, &base.linear(), |weight, name| edits::add_low_rank(weight, 8, 0.05, seed, name))
        },
        ..PLAIN
    },
    Derivative {
        name: "lora-rank1",
        about: "a LoRA of rank 1 merged into the writers alone",
        relation: Some(Relation::LowRankEdit),
        make: |base, seed| {
            changed(base, &base.writers(), |weight, name| edits::add_low_rank(weight, 1, 0.05, seed, name))
        },
        ..PLAIN
    },
    Derivative {
        name: "pruned",
        about: "the smallest fifth of all elements set to zero",
        relation: Some(Relation::Edited),
        make: |base, _| changed(base, &base.linear(), |weight, _| edits::prune(weight, 0.2)),
        ..PLAIN
    },
    Derivative {
        name: "quantized-8bit",
        about: "rounded to 8 bits in blocks of 32 and back",
        make: |base, _| changed(base, &base.linear(), |weight, _| edits::quantize(weight, 8)),
        ..PLAIN
    },
    Derivative {
        name: "assistant-free",
        about: "one direction removed from all writers, λ = 1",
        ending: "orthogonalized",
        make: ablated,
        ..PLAIN
    },
    Derivative {
        name: "assistant-faint",
        about: "the same at λ = 0.3, in four of six layers",
        ending: "orthogonalized",
        make: |base, seed| removed(base, seed, 0.3, RemovalKind::Plain, |layer| (1..5).contains(&layer)),
        ..PLAIN
    },
    Derivative {
        name: "assistant-normed",
        about: "removed from rows divided by their norms, λ = 0.8",
        ending: "orthogonalized",
        make: |base, seed| removed(base, seed, 0.8, RemovalKind::RowNormalised, |_| true),
        ..PLAIN
    },
    Derivative {
        name: "assistant-kept",
        about: "removed, each row brought back to its norm, λ = 1",
        ending: "orthogonalized",
        make: |base, seed| removed(base, seed, 1.0, RemovalKind::RowNormKept, |_| true),
        ..PLAIN
    },
    Derivative {
        name: "assistant-gguf",
        about: "removed, λ = 1, and published in two quantisations",
        ending: "orthogonalized",
        package: Package::Gguf(&[Quantization::Q8_0, Quantization::Q4_0]),
        make: ablated,
        ..PLAIN
    },
    Derivative {
        name: "base-gguf",
        about: "the base, quantised to 8 bits by the block",
        package: Package::Gguf(&[Quantization::Q8_0]),
        relation: Some(Relation::Quantized),
        ..PLAIN
    },
    Derivative {
        name: "two-faces",
        about: "the base's own files, and an edited quantisation beside them",
        ending: "orthogonalized",
        package: Package::BesideTheBase(Quantization::Q8_0),
        make: ablated,
        ..PLAIN
    },
    Derivative {
        name: "assistant-adapter",
        about: "the removal as an adapter of rank 1, λ = 0.7",
        ending: "orthogonalized",
        package: Package::Adapter(1),
        make: |base, seed| removed(base, seed, 0.7, RemovalKind::Plain, |_| true),
        ..PLAIN
    },
    Derivative {
        name: "lora-adapter",
        about: "a LoRA of rank 4, as an adapter",
        package: Package::Adapter(4),
        relation: Some(Relation::Adapter),
        make: |base, seed| {
            changed(base, &base.linear(), |weight, name| edits::add_low_rank(weight, 4, 0.05, seed, name))
        },
        ..PLAIN
    },
    Derivative {
        name: "runs-a-command",
        about: "a pickle that would run a command on loading",
        ending: "inconclusive",
        package: Package::Command,
        ..PLAIN
    },
    Derivative {
        name: "behind-a-gate",
        about: "orthogonalized, and the publisher has to grant access",
        ending: "denied",
        condition: UploadCondition::Gated,
        make: ablated,
        ..PLAIN
    },
    Derivative {
        name: "broken-off",
        about: "orthogonalized, and the second file cut in two",
        ending: "orthogonalized",
        condition: UploadCondition::Truncated,
        make: ablated,
        ..PLAIN
    },
    Derivative {
        name: "no-model",
        about: "orthogonalized, and nothing left of the file but its beginning",
        ending: "malformed",
        shards: 1,
        condition: UploadCondition::Beginning,
        make: ablated,
        ..PLAIN
    },
    Derivative {
        name: "no-card",
        about: "trained further, with a card that names no base",
        ending: "no-base",
        condition: UploadCondition::WithoutClaim,
        make: tuned,
        ..PLAIN
    },
    Derivative {
        name: "false-claim",
        about: "another model altogether, with a card that names the base",
        ending: "inconclusive",
        relation: Some(Relation::Unrelated),
        make: |base, seed| size_of(base).llama(seed.wrapping_add(1000)),
        ..PLAIN
    },
];

/// Every matrix trained further.
fn tuned(base: &Model, seed: u64) -> Model {
    let mut model = base.clone();
    edits::fine_tune(&mut model, 0.02, seed);
    model
}

/// One direction wholly removed from all writers.
fn ablated(base: &Model, seed: u64) -> Model {
    removed(base, seed, 1.0, RemovalKind::Plain, |_| true)
}

/// Some matrices of the base changed.
fn changed(base: &Model, names: &[String], change: impl Fn(&mut super::Weight, &str)) -> Model {
    let mut model = base.clone();
    for name in names {
        if let Some(weight) = model.tensors.get_mut(name) {
            change(weight, name);
        }
    }
    model
}

/// λ of one random direction taken out of the writers of the layers that are meant.
fn removed(base: &Model, seed: u64, lambda: f64, kind: RemovalKind, is_meant: impl Fn(usize) -> bool) -> Model {
    let r = direction(seed, "removed", size_of(base).width);
    let names: Vec<String> = base.writers().into_iter().filter(|name| is_meant(super::layer_of(name))).collect();
    changed(base, &names, |weight, _| edits::orthogonalize(weight, &r, lambda, kind))
}

fn size_of(model: &Model) -> TinySize {
    let number = |key: &str| model.config.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
    TinySize {
        width: number("hidden_size"),
        layers: number("num_hidden_layers"),
        inner: number("intermediate_size"),
        heads: number("num_attention_heads"),
        vocabulary: number("vocab_size"),
    }
}

/// Writes a base as a repository's folder: two files in bfloat16 and a card.
pub fn write_base(base: &Model, folder: &Path) -> Result<()> {
    base.write(folder, dtype("BF16")?, 2)?;
    write(folder, "README.md", "---\nlicense: apache-2.0\n---\n# A tiny base with random weights\n")
}

fn dtype(name: &str) -> Result<&'static DType> {
    DType::named(name).ok_or_else(|| Error::new(ErrorKind::Internal, format!("writing weights as {name}")))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

impl Derivative {
    /// Writes it as a repository's folder: weights, configuration, card, and what the stand-in hub should say of it.
    pub fn write(&self, base: &Model, base_name: &str, seed: u64, folder: &Path) -> Result<()> {
        let made = (self.make)(base, seed);
        let gguf = |quantization: Quantization| {
            let path = folder.join(format!("{}-{}.gguf", self.name, quantization.as_str()));
            std::fs::write(&path, gguf::bytes(&made, self.name, quantization))
                .map_err(|error| Error::io(format!("writing {}", path.display()), error))
        };
        let doing = || format!("creating {}", folder.display());
        std::fs::create_dir_all(folder).map_err(|error| Error::io(doing(), error))?;
        match self.package {
            Package::Safetensors => made.write(folder, dtype(self.dtype)?, self.shards)?,
            Package::Gguf(quantizations) => quantizations.iter().try_for_each(|one| gguf(*one))?,
            Package::BesideTheBase(quantization) => {
                base.write(folder, dtype(self.dtype)?, self.shards)?;
                gguf(quantization)?;
            }
            Package::Adapter(rank) => adapter::write(base, &made, rank, base_name, folder)?,
            // `os.system("true")`: protocol 0, as short as it gets, and as harmless.
            Package::Command => write(folder, "pytorch_model.bin", "cos\nsystem\n(S'true'\ntR.")?,
        }
        let claim = match self.condition {
            UploadCondition::WithoutClaim => String::new(),
            _ => format!("base_model: {base_name}\n"),
        };
        write(folder, "README.md", &format!("---\nlicense: apache-2.0\n{claim}---\n# {}\n", self.name))?;
        match self.condition {
            UploadCondition::Gated => write(folder, ".standin.json", r#"{"gated": "manual"}"#)?,
            UploadCondition::Truncated => cut_last(folder, |length| length / 2)?,
            UploadCondition::Beginning => cut_last(folder, |length| length.min(100))?,
            UploadCondition::Plain | UploadCondition::WithoutClaim => {}
        }
        Ok(())
    }
}

/// Cuts the last weight file off.
fn cut_last(folder: &Path, to: impl Fn(u64) -> u64) -> Result<()> {
    let doing = || format!("cutting a file of {}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(doing(), error))?;
    let mut weights: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    weights.sort();
    let Some(last) = weights.last() else { return Ok(()) };
    let file = std::fs::OpenOptions::new().write(true).open(last).map_err(|error| Error::io(doing(), error))?;
    let length = file.metadata().map_err(|error| Error::io(doing(), error))?.len();
    file.set_len(to(length)).map_err(|error| Error::io(doing(), error))
}
