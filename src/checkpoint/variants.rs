//! A repository as a set of forms: which of its files make up which checkpoint.
//!
//! One repository often holds one model several times: safetensors, the same as pickles, a dozen GGUF quantisations, an
//! adapter. Each of these is a [`Variant`]; those that differ in nothing but their quantisation, or in which copy they
//! are, are of one form, and one of them is enough for a first look ([`choose`]).

use std::collections::{BTreeMap, BTreeSet};

use super::FileSet;
use super::adapter::{is_adapter_file, is_numbered};
use super::gguf_names::{is_companion, quantization, split_part};
use super::shards::{NOT_A_MODEL, split_folder, split_number};

/// One of the checkpoints that a repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// What tells it from its siblings: the quantisation of a GGUF file, otherwise its path without part numbers.
    pub name: String,
    /// What it has in common with variants that hold the same in another copy or quantisation.
    pub form: String,
    /// Its weight files, sorted; none where only an index tells that there should be some.
    pub files: Vec<String>,
    /// Their length together.
    pub bytes: u64,
    folder: String,
    kind: Kind,
}

impl Variant {
    /// The format that its files' names promise.
    pub const fn format(&self) -> &'static str {
        match self.kind {
            Kind::Safetensors => "safetensors",
            Kind::Gguf => "gguf",
            Kind::PyTorch => "pytorch",
            Kind::Adapter => "adapter",
        }
    }

    /// The files of this variant alone, with the small files (configurations, indexes, cards) that all share.
    pub fn narrow(&self, files: &FileSet) -> FileSet {
        let mine = |name: &str| self.files.iter().any(|file| file == name);
        let of_mine = |index: (&str, Kind)| self.folder == index.0 && self.kind == index.1;
        let kept = |name: &str| mine(name) || (!is_weights(name) && index_of(name).is_none_or(of_mine));
        FileSet {
            label: files.label.clone(),
            files: files.files.iter().filter(|(name, _)| kept(name)).map(|(n, s)| (n.clone(), s.clone())).collect(),
            digests: files.digests.iter().filter(|(name, _)| kept(name)).map(|(n, d)| (n.clone(), *d)).collect(),
        }
    }
}

/// Forms in the order in which they are looked at: the exact ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Safetensors,
    Gguf,
    PyTorch,
    Adapter,
}

const EXTENSIONS: &[(&str, Kind)] = &[
    ("safetensors", Kind::Safetensors),
    ("sft", Kind::Safetensors),
    ("gguf", Kind::Gguf),
    ("bin", Kind::PyTorch),
    ("pt", Kind::PyTorch),
    ("pth", Kind::PyTorch),
    ("ckpt", Kind::PyTorch),
];

/// Stems that loaders take before all others.
const PLAIN: &[&str] = &["model", "diffusion_pytorch_model", "pytorch_model"];

/// GGUF quantisations in the order in which one of them is chosen: fine enough to see a faint edit, and no larger than
/// needed.
const QUANTISATIONS: &[&str] =
    &["Q8", "Q6", "BF16", "F16", "Q5", "Q4", "IQ4", "MXFP4", "F32", "Q3", "IQ3", "Q2", "IQ2"];

/// Whether a file may hold weights, by its name's ending.
pub fn is_weights(name: &str) -> bool {
    kind_of(name).is_some()
}

fn kind_of(name: &str) -> Option<Kind> {
    let (_, extension) = name.rsplit_once('.')?;
    EXTENSIONS.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known)).map(|(_, kind)| *kind)
}

/// The folder and kind of the weights that a shard index of this name speaks of.
fn index_of(name: &str) -> Option<(&str, Kind)> {
    Some((split_folder(name).0, kind_of(name.strip_suffix(".index.json")?)?))
}

/// The variants among the files of a repository (names and lengths), best to look at first. Files that go with a model
/// and are none (optimizer states, vision projectors, importance matrices) are left out.
pub fn variants<'a>(files: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<Variant> {
    let files: BTreeMap<&str, u64> = files.into_iter().collect();
    let indexed: BTreeSet<(&str, Kind)> = files.keys().filter_map(|name| index_of(name)).collect();
    let mut groups: BTreeMap<(Kind, String), Vec<&str>> = BTreeMap::new();
    for name in files.keys() {
        let Some(kind) = kind_of(name) else { continue };
        if let Some((kind, group)) = group_of(name, kind, &indexed) {
            groups.entry((kind, group)).or_default().push(name);
        }
    }
    for (folder, kind) in &indexed {
        if !groups.iter().any(|((of, _), names)| of == kind && names.iter().any(|name| split_folder(name).0 == *folder))
        {
            // A model of which nothing can be examined is a model all the same.
            groups.insert((*kind, format!("{folder}model")), Vec::new());
        }
    }
    let mut found: Vec<(Rank, Variant)> = groups
        .into_iter()
        .map(|((kind, group), names)| {
            let bytes = names.iter().filter_map(|name| files.get(name)).fold(0u64, |sum, one| sum.saturating_add(*one));
            let variant = describe(kind, &group, &names, bytes);
            let indexed = indexed.contains(&(variant.folder.as_str(), kind));
            (Rank::of(kind, &group, indexed, &variant), variant)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.files.cmp(&b.1.files)));
    let mut variants: Vec<Variant> = found.into_iter().map(|(_, variant)| variant).collect();
    // Two files of one quantisation need more to be told apart.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    variants.iter().for_each(|variant| *seen.entry(variant.name.clone()).or_default() += 1);
    for variant in &mut variants {
        if seen.get(&variant.name).is_some_and(|count| *count > 1)
            && let Some(first) = variant.files.first()
        {
            variant.name.clone_from(first);
        }
    }
    variants
}

/// Splits variants into those to look at (the first of each form, or all) and the others.
pub fn choose(variants: Vec<Variant>, all: bool) -> (Vec<Variant>, Vec<Variant>) {
    let mut seen = BTreeSet::new();
    variants.into_iter().partition(|variant| seen.insert(variant.form.clone()) || all)
}

/// The variant that a weight file belongs to: its kind, and a name that all its files share.
fn group_of(name: &str, kind: Kind, indexed: &BTreeSet<(&str, Kind)>) -> Option<(Kind, String)> {
    let (folder, base) = split_folder(name);
    let stem = base.rsplit_once('.').map_or(base, |(stem, _)| stem);
    if kind == Kind::Gguf {
        let stem = split_part(name).map_or(name, |(stem, _, _)| stem);
        return (!is_companion(name)).then(|| (kind, stem.to_owned()));
    }
    if is_adapter_file(base) {
        return Some((Kind::Adapter, format!("{folder}{base}")));
    }
    if NOT_A_MODEL.iter().any(|prefix| base.starts_with(prefix)) {
        return None;
    }
    let part = split_number(stem).map(|(stem, _, _)| stem);
    let whole = part.is_none() && PLAIN.contains(&stem);
    let group = match part {
        Some(stem) => stem,
        // An index names its shards however they are called; what stands for a whole model is none of them.
        None if !whole && !stem.starts_with("consolidated") && indexed.contains(&(folder, kind)) => "model",
        None if stem.starts_with("consolidated.") => "consolidated",
        None => stem,
    };
    Some((kind, format!("{folder}{group}")))
}

fn describe(kind: Kind, group: &str, names: &[&str], bytes: u64) -> Variant {
    let first = names.first().copied().unwrap_or_default();
    let extension = match first.rsplit_once('.') {
        Some((_, extension)) => extension,
        None if kind == Kind::PyTorch => "bin",
        None => "safetensors",
    };
    let (name, form) = match kind {
        Kind::Gguf => {
            let quantization = quantization(first);
            let form = format!("gguf {}", model_of(group, quantization.as_deref()));
            (quantization.unwrap_or_else(|| first.to_owned()), form)
        }
        Kind::Adapter => (first.to_owned(), format!("adapter {}", split_folder(first).0)),
        Kind::Safetensors => (format!("{group}.{extension}"), "safetensors".to_owned()),
        Kind::PyTorch => (format!("{group}.{extension}"), "pytorch".to_owned()),
    };
    let folder = split_folder(if kind == Kind::Gguf { first } else { group }).0.to_owned();
    Variant { name, form, files: names.iter().map(|name| (*name).to_owned()).collect(), bytes, folder, kind }
}

/// The model's name in that of a GGUF file: what comes before its quantisation, without its folder (quantisations are
/// often a folder each).
fn model_of(group: &str, quantization: Option<&str>) -> String {
    let base = split_folder(group).1.to_ascii_lowercase();
    let Some(quantization) = quantization else { return base };
    let word = quantization.to_ascii_lowercase();
    let cut = base.rfind(&word).or_else(|| base.rfind(&word.replace("f16", "fp16").replace("f32", "fp32")));
    let mut model = cut.and_then(|cut| base.get(..cut)).unwrap_or(&base).trim_end_matches(['-', '.', '_', ' ']);
    // Quantisations with an importance matrix, and by another maker's mixture, of the same model.
    for mark in ["i1", "ud", "imat"] {
        model = model.strip_suffix(mark).map_or(model, |rest| rest.trim_end_matches(['-', '.', '_', ' ']));
    }
    model.strip_suffix(".gguf").unwrap_or(model).to_owned()
}

/// What is looked at first: the smaller.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    kind: Kind,
    depth: usize,
    /// Copies in the maker's own layout, and states on the way, come after any other name.
    copy: bool,
    plain: usize,
    unindexed: bool,
    quantization: usize,
    bytes: std::cmp::Reverse<u64>,
}

impl Rank {
    fn of(kind: Kind, group: &str, indexed: bool, variant: &Variant) -> Self {
        let stem = split_folder(group).1;
        let place = |list: &[&str], matches: &dyn Fn(&str) -> bool| {
            list.iter().position(|word| matches(word)).unwrap_or(list.len())
        };
        let gguf = kind == Kind::Gguf;
        Self {
            kind,
            // Quantisations in folders of their own are no further away than the others.
            depth: if gguf { 0 } else { group.matches('/').count() },
            copy: stem.starts_with("consolidated") || variant.files.iter().any(|name| is_numbered(split_folder(name).1)),
            plain: if gguf { 0 } else { place(PLAIN, &|word| word == stem) },
            unindexed: !indexed,
            quantization: if gguf { place(QUANTISATIONS, &|word| variant.name.starts_with(word)) } else { 0 },
            bytes: std::cmp::Reverse(variant.bytes),
        }
    }
}

/// The variants of a set of files.
pub fn of_files(files: &FileSet) -> Vec<Variant> {
    variants(files.files.iter().map(|(name, source)| (name.as_str(), source.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> Vec<(String, usize)> {
        let found = variants(files.iter().map(|name| (*name, 10)));
        found.into_iter().map(|variant| (variant.name, variant.files.len())).collect()
    }

    fn forms(files: &[&str]) -> Vec<String> {
        let found = variants(files.iter().map(|name| (*name, 10)));
        choose(found, false).0.into_iter().map(|variant| variant.name).collect()
    }

    #[test]
    fn one_model_in_several_forms_is_looked_at_once_in_each() {
        let files = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
            "training_args.bin",
            "optimizer.pt",
            "m-Q4_K_M.gguf",
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
            "m.i1-IQ2_M.gguf",
            "mmproj-F16.gguf",
            "adapter/adapter_model.safetensors",
            "checkpoint-5/model.safetensors",
        ];
        let expected: Vec<(String, usize)> = [
            ("model.safetensors", 2),
            ("consolidated.safetensors", 1),
            ("checkpoint-5/model.safetensors", 1),
            ("Q8_0", 2),
            ("Q4_K_M", 1),
            ("IQ2_M", 1),
            ("pytorch_model.bin", 2),
            ("adapter/adapter_model.safetensors", 1),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into();
        assert_eq!(names(&files), expected);
        assert_eq!(
            forms(&files),
            ["model.safetensors", "Q8_0", "pytorch_model.bin", "adapter/adapter_model.safetensors"]
        );
    }

    #[test]
    fn different_models_in_one_repository_are_different_forms() {
        assert_eq!(forms(&["a-Q4_K_M.gguf", "a-Q8_0.gguf", "b-Q8_0.gguf"]), ["a-Q8_0.gguf", "b-Q8_0.gguf"]);
        assert_eq!(forms(&["a.gguf", "b.gguf"]), ["a.gguf", "b.gguf"]);
        assert_eq!(forms(&["a-fp16.gguf", "a.Q2_K.gguf"]), ["F16"]);
    }

    #[test]
    fn shards_by_any_name_go_with_their_index() {
        let files = ["layer_0.safetensors", "layer_1.safetensors", "model.safetensors.index.json"];
        assert_eq!(names(&files), [("model.safetensors".to_owned(), 2)]);
        assert_eq!(names(&["consolidated.00.pth", "consolidated.01.pth"]), [("consolidated.pth".to_owned(), 2)]);
        assert!(names(&["README.md", "é", "tokenizer.bin"]).is_empty());
    }

    #[test]
    fn an_index_without_shards_is_a_model_of_its_own() {
        let files = ["model.safetensors.index.json", "m-Q8_0.gguf"];
        assert_eq!(names(&files), [("model.safetensors".to_owned(), 0), ("Q8_0".to_owned(), 1)]);
    }

    #[test]
    fn narrowing_keeps_the_small_files() {
        let source = |name: &str| -> std::sync::Arc<dyn crate::source::ByteSource> {
            std::sync::Arc::new(crate::source::Bytes::new(name, vec![0; 4]))
        };
        let all = ["a-Q8_0.gguf", "a-Q4_0.gguf", "config.json", "model.safetensors.index.json"];
        let files = FileSet {
            label: "test".to_owned(),
            files: all.iter().map(|name| ((*name).to_owned(), source(name))).collect(),
            digests: BTreeMap::new(),
        };
        let found = of_files(&files);
        assert_eq!(
            found[2].narrow(&files).files.keys().collect::<Vec<_>>(),
            ["a-Q4_0.gguf", "config.json"],
            "another form's index would stand in the way"
        );
        assert_eq!(
            found[0].narrow(&files).files.keys().collect::<Vec<_>>(),
            ["config.json", "model.safetensors.index.json"]
        );
    }
}
