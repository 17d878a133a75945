//! A repository as a set of forms: which of its files make up which checkpoint, every file once.
//!
//! One repository often holds one model several times: safetensors, the same as pickles, a dozen GGUF quantisations, an
//! adapter. Each of these is a [`Variant`]; those that differ in nothing but their quantisation, or in which copy they
//! are, are of one form. What belongs together is what a loader would load together: an index names its shards whatever
//! they are called and wherever they lie, `config.json` may name the file to take (`transformers_weights`), and only
//! after these do names count. Weight files that are part of no checkpoint stand in [`RepositoryContents::others`] with
//! what they seem to be, so that none is passed over in silence.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::collect::{Anomalies, shown, small_json};
use super::files::{self, Written, is_adapter_file, is_numbered, is_small};
use super::gguf_names::{is_companion, quantization, split_part};
use super::shards::{names_in_index, split_folder, split_number, split_parallel, stays_inside};
use super::unread_kinds::unread_kind;
use super::{Checkpoint, FORMATS, FileSet, open_as};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_INDEXES;

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
    /// The index that names its files, where one does.
    index: Option<String>,
    kind: Kind,
}

impl Variant {
    /// The format that its files' names promise.
    pub const fn format(&self) -> &'static str {
        match self.kind {
            Kind::Whole(written) => written.format(),
            Kind::Adapter => "adapter",
        }
    }

    /// One weight file as a checkpoint by itself, whatever its name says of what it is.
    pub fn alone(files: &FileSet, name: &str) -> Option<Self> {
        let bytes = files.files.get(name)?.len();
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let variant = describe(kind_of(name)?, stem, &[name], None, bytes);
        Some(Self { name: name.to_owned(), ..variant })
    }

    /// The files of this variant alone, with the small files (configurations, cards) that all share and its own index.
    pub fn narrow(&self, files: &FileSet) -> FileSet {
        let mine = |name: &str| self.files.iter().any(|file| file == name);
        let own_index = |name: &str| self.index.as_deref() == Some(name);
        let kept = |name: &str| mine(name) || own_index(name) || (is_small(name) && index_of(name).is_none());
        FileSet {
            label: files.label.clone(),
            files: files.files.iter().filter(|(name, _)| kept(name)).map(|(n, s)| (n.clone(), s.clone())).collect(),
            digests: files.digests.iter().filter(|(name, _)| kept(name)).map(|(n, d)| (n.clone(), *d)).collect(),
            refused: files.refused.iter().filter(|(name, _)| kept(name)).map(|(n, r)| (n.clone(), r.clone())).collect(),
        }
    }

    /// Opens it in the format that its names promise: another format's reader might take some of its files for a model
    /// of their own.
    pub fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let narrow = self.narrow(files);
        let named = FORMATS.iter().find(|format| format.name() == self.format());
        let format = named.ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("opening {}: no format {}", files.label, self.format()))
        })?;
        open_as(*format, &narrow)
    }
}

/// What a variant is, in the order in which they are looked at: whole weights first, the exact ones first of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Whole(Written),
    Adapter,
}

impl Kind {
    /// The ending of its files where none is there to tell.
    const fn ending(self) -> &'static str {
        match self {
            Self::Whole(written) => written.ending(),
            Self::Adapter => Written::Safetensors.ending(),
        }
    }
}

/// Stems that loaders take before all others.
const PLAIN: &[&str] = &["model", "diffusion_pytorch_model", "pytorch_model"];

/// GGUF quantisations in the order in which one of them is chosen: fine enough to see a faint edit, and no larger than
/// needed.
const QUANTISATIONS: &[&str] =
    &["Q8", "Q6", "BF16", "F16", "Q5", "Q4", "IQ4", "MXFP4", "F32", "Q3", "IQ3", "Q2", "IQ2"];

/// The endings of weights that are read, for messages.
pub fn endings() -> String {
    files::endings().map(|ending| format!(".{ending}")).collect::<Vec<_>>().join(", ")
}

fn kind_of(name: &str) -> Option<Kind> {
    Written::promised(name).map(Kind::Whole)
}

/// The stem (with its folder) and kind of the weights that a shard index of this name speaks of:
/// `model.safetensors.index.json`, or `model.safetensors.index.fp16.json` of a variant that transformers calls `fp16`.
fn index_of(name: &str) -> Option<(&str, Kind)> {
    let (before, after) = name.rsplit_once(".index.")?;
    let plain = after.eq_ignore_ascii_case("json");
    if !plain && after.strip_suffix(".json").is_none_or(|variant| variant.contains(['/', '.'])) {
        return None;
    }
    let (stem, _) = before.rsplit_once('.')?;
    Some((stem, kind_of(before)?))
}

/// What a repository's small files say of its weights: which files an index names, and which one a configuration does.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoadingHints {
    /// Index to the files that it names, as paths of the repository; only names that stay inside it.
    indexes: BTreeMap<String, BTreeSet<String>>,
    /// Weight files (or indexes) that a configuration says are to be loaded.
    explicit: BTreeSet<String>,
    /// Indexes and configurations that cannot be read, and why. Loaders read JSON less strictly (`NaN`, lone
    /// surrogates), and what such a file names is not known.
    unread: BTreeMap<String, String>,
}

impl LoadingHints {
    /// Reads them. What cannot be read directs nothing here, and is told when the checkpoint is opened.
    pub fn read(files: &FileSet) -> Self {
        let mut directions = Self::default();
        let small = files.files.iter().filter(|(name, _)| name.ends_with(".json"));
        for (name, source) in small {
            let (folder, base) = split_folder(name);
            if index_of(name).is_some() {
                if directions.indexes.len() >= MAX_INDEXES {
                    directions.unread.insert(name.clone(), format!("more than {MAX_INDEXES} indexes"));
                    continue;
                }
                match names_in_index(source.as_ref()) {
                    Ok(named) => {
                        let inside = named.into_iter().filter(|file| stays_inside(file));
                        directions.indexes.insert(name.clone(), inside.map(|file| format!("{folder}{file}")).collect());
                    }
                    Err(error) => {
                        directions.unread.insert(name.clone(), error.one_line());
                    }
                }
            } else if ["config.json", "adapter_config.json"].contains(&base) {
                let mut anomalies = Anomalies::default();
                let config = small_json(files, name, &mut anomalies);
                if let Some(odd) = anomalies.finish().into_iter().next() {
                    directions.unread.insert(name.clone(), odd.detail);
                }
                // An index that is named so names its shards from the top, any other from where it lies.
                if let Some(Value::String(file)) = config.get("transformers_weights") {
                    if stays_inside(file) {
                        directions.explicit.insert(format!("{folder}{file}"));
                    } else {
                        let why = format!("transformers_weights names {:?}, which is not opened", shown(file));
                        directions.unread.insert(name.clone(), why);
                    }
                }
            }
        }
        directions
    }

    /// Indexes and configurations that could not be read, so that other weights may be loaded than are known of.
    pub const fn unread(&self) -> &BTreeMap<String, String> {
        &self.unread
    }

    /// The files that are loaded as weights whatever they are called.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let explicit = self.explicit.iter().filter(|name| index_of(name).is_none());
        self.indexes.values().flatten().chain(explicit).map(String::as_str)
    }
}

/// A weight file that is part of no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// What it seems to be by its name.
    pub what: &'static str,
    /// Whether it can be opened to see that it holds nothing of the model; else it is a form that is not read.
    pub is_readable: bool,
}

/// Everything in a repository that a loader could load.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepositoryContents {
    /// The checkpoints, best to look at first.
    pub variants: Vec<Variant>,
    /// Weight files of none of them.
    pub others: Vec<Other>,
}

/// Sorts the files of a repository (names and lengths).
pub fn contents<'a>(files: impl IntoIterator<Item = (&'a str, u64)>, directions: &LoadingHints) -> RepositoryContents {
    let files: BTreeMap<&str, u64> = files.into_iter().collect();
    let mut groups: BTreeMap<Group<'_>, Vec<&str>> = BTreeMap::new();
    let mut others = Vec::new();
    let mut claimed = BTreeSet::new();
    for name in files.keys() {
        let Some((stem, kind)) = index_of(name) else { continue };
        let named = directions.indexes.get(*name);
        let present: Vec<&str> = named
            .into_iter()
            .flatten()
            .filter_map(|file| files.get_key_value(file.as_str()).map(|(name, _)| *name))
            .collect();
        claimed.extend(present.iter().copied());
        groups.insert(Group { kind, stem: stem.to_owned(), index: Some(name) }, present);
    }
    for name in files.keys().filter(|name| !claimed.contains(*name)) {
        let explicit = directions.explicit.contains(*name);
        let Some(kind) = kind_of(name) else {
            if let Some(what) = unread_kind(name) {
                others.push(Other { name: (*name).to_owned(), what, is_readable: false });
            }
            continue;
        };
        match group_of(name, kind, explicit) {
            Ok((kind, stem)) => groups.entry(Group { kind, stem, index: None }).or_default().push(name),
            Err(what) => others.push(Other { name: (*name).to_owned(), what, is_readable: true }),
        }
    }
    // An index that cannot be read speaks of the shards that bear its name.
    let unsaid = |group: &&Group<'_>| {
        group.index.is_some_and(|index| directions.indexes.get(index).is_none_or(BTreeSet::is_empty))
    };
    for of_index in groups.keys().filter(unsaid).cloned().collect::<Vec<_>>() {
        if let Some(files) = groups.remove(&Group { index: None, ..of_index.clone() }) {
            groups.insert(of_index, files);
        }
    }
    let mut found: Vec<(Rank, Variant)> = groups
        .into_iter()
        .map(|(Group { kind, stem, index }, names)| {
            let bytes = names.iter().filter_map(|name| files.get(name)).fold(0u64, |sum, one| sum.saturating_add(*one));
            let variant = describe(kind, &stem, &names, index, bytes);
            let explicit = names.iter().chain(&index).any(|name| directions.explicit.contains(*name));
            (Rank::of(kind, &stem, explicit, &variant), variant)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.files.cmp(&b.1.files)));
    let mut variants: Vec<Variant> = found.into_iter().map(|(_, variant)| variant).collect();
    // Two of one name need more to be told apart.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    variants.iter().for_each(|variant| *seen.entry(variant.name.clone()).or_default() += 1);
    for variant in &mut variants {
        if seen.get(&variant.name).is_some_and(|count| *count > 1)
            && let Some(first) = variant.index.as_ref().or(variant.files.first())
        {
            variant.name.clone_from(first);
        }
    }
    RepositoryContents { variants, others }
}

/// What files that are loaded together have in common. A single file that bears an index's stem is what loaders take
/// before the index, and a checkpoint of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group<'a> {
    kind: Kind,
    stem: String,
    index: Option<&'a str>,
}

/// The first variant of each form, and the others.
pub fn first_of_each(variants: Vec<Variant>) -> (Vec<Variant>, Vec<Variant>) {
    let mut seen = BTreeSet::new();
    variants.into_iter().partition(|variant| seen.insert(variant.form.clone()))
}

/// The variant that a weight file belongs to (its kind, and a name that all its files share), or what else it is.
fn group_of(name: &str, kind: Kind, explicit: bool) -> std::result::Result<(Kind, String), &'static str> {
    let (folder, base) = split_folder(name);
    let stem = base.rsplit_once('.').map_or(base, |(stem, _)| stem);
    if kind == Kind::Whole(Written::Gguf) {
        if is_companion(name) {
            return Err("a companion of a GGUF model: a projector, an importance matrix or a control vector");
        }
        return Ok((kind, split_part(name).map_or(name, |(stem, _, _)| stem).to_owned()));
    }
    if explicit {
        return Ok((kind, format!("{folder}{stem}")));
    }
    if is_adapter_file(base) {
        return Ok((Kind::Adapter, format!("{folder}{base}")));
    }
    // Optimum's names; the graph is in the `.xml` beside it.
    if kind == Kind::Whole(Written::PyTorch) && base.starts_with("openvino_") {
        return Err("the weights of an OpenVINO model");
    }
    if files::is_leftover(base) {
        return Err("what a trainer or tokenizer leaves beside a model");
    }
    let group = split_number(stem).map(|(stem, _, _)| stem).or_else(|| split_parallel(stem)).unwrap_or(stem);
    Ok((kind, format!("{folder}{group}")))
}

fn describe(kind: Kind, group: &str, names: &[&str], index: Option<&str>, bytes: u64) -> Variant {
    let first = names.first().copied().unwrap_or_default();
    let of_index = index.and_then(|index| index.rsplit_once(".index.")?.0.rsplit_once('.'));
    let extension = match (of_index, first.rsplit_once('.')) {
        (Some((_, extension)), _) | (None, Some((_, extension))) => extension,
        (None, None) => kind.ending(),
    };
    let (name, form) = match kind {
        Kind::Whole(Written::Gguf) => {
            let quantization = quantization(first);
            let form = format!("gguf {}", model_of(group, quantization.as_deref()));
            (quantization.unwrap_or_else(|| first.to_owned()), form)
        }
        Kind::Adapter => (first.to_owned(), format!("adapter {first}")),
        Kind::Whole(written) => (format!("{group}.{extension}"), written.format().to_owned()),
    };
    let index = index.map(str::to_owned);
    Variant { name, form, files: names.iter().map(|name| (*name).to_owned()).collect(), bytes, index, kind }
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
    /// What the configuration says is to be loaded comes before all else of its kind.
    unsaid: bool,
    depth: usize,
    /// Copies in the maker's own layout, and states on the way, come after any other name.
    copy: bool,
    plain: usize,
    unindexed: bool,
    quantization: usize,
    bytes: std::cmp::Reverse<u64>,
}

impl Rank {
    fn of(kind: Kind, group: &str, explicit: bool, variant: &Variant) -> Self {
        let stem = split_folder(group).1;
        let place = |list: &[&str], matches: &dyn Fn(&str) -> bool| {
            list.iter().position(|word| matches(word)).unwrap_or(list.len())
        };
        let gguf = kind == Kind::Whole(Written::Gguf);
        Self {
            kind,
            unsaid: !explicit,
            // Quantisations in folders of their own are no further away than the others.
            depth: if gguf { 0 } else { group.matches('/').count() },
            copy: stem.starts_with("consolidated")
                || variant.files.iter().any(|name| is_numbered(split_folder(name).1)),
            plain: if gguf { 0 } else { place(PLAIN, &|word| word == stem) },
            // A single file is what transformers takes before an index beside it; any other name comes after the index.
            unindexed: variant.index.is_none() != PLAIN.contains(&stem),
            quantization: if gguf { place(QUANTISATIONS, &|word| variant.name.starts_with(word)) } else { 0 },
            bytes: std::cmp::Reverse(variant.bytes),
        }
    }
}

/// The contents of a set of files.
pub fn contents_of(files: &FileSet, directions: &LoadingHints) -> RepositoryContents {
    contents(files.files.iter().map(|(name, source)| (name.as_str(), source.len())), directions)
}

/// The variants of a set of files.
pub fn of_files(files: &FileSet) -> Vec<Variant> {
    contents_of(files, &LoadingHints::read(files)).variants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> Vec<(String, usize)> {
        let found = contents(files.iter().map(|name| (*name, 10)), &LoadingHints::default()).variants;
        found.into_iter().map(|variant| (variant.name, variant.files.len())).collect()
    }

    fn forms(files: &[&str]) -> Vec<String> {
        let found = contents(files.iter().map(|name| (*name, 10)), &LoadingHints::default()).variants;
        first_of_each(found).0.into_iter().map(|variant| variant.name).collect()
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

    fn set(files: &[(&str, &str)]) -> FileSet {
        let source = |(name, text): &(&str, &str)| -> (String, std::sync::Arc<dyn crate::source::ByteSource>) {
            ((*name).to_owned(), std::sync::Arc::new(crate::source::Bytes::new(*name, text.as_bytes().to_vec())))
        };
        FileSet { label: "test".to_owned(), files: files.iter().map(source).collect(), ..FileSet::default() }
    }

    #[test]
    fn shards_by_any_name_and_in_any_folder_go_with_their_index() {
        let index = r#"{"weight_map": {"a": "layer_0.safetensors", "b": "x/consolidated.bin", "c": "README.md"}}"#;
        let files = set(&[
            ("layer_0.safetensors", ""),
            ("x/consolidated.bin", ""),
            ("README.md", ""),
            ("y.safetensors", ""),
            ("model.safetensors.index.json", index),
        ]);
        let found = of_files(&files);
        assert_eq!(found[0].files, ["README.md", "layer_0.safetensors", "x/consolidated.bin"]);
        assert_eq!((found[1].files.as_slice(), found.len()), (["y.safetensors".to_owned()].as_slice(), 2));
        assert_eq!(names(&["consolidated.00.pth", "consolidated.01.pth"]), [("consolidated.pth".to_owned(), 2)]);
        assert!(names(&["README.md", "é", "tokenizer.bin"]).is_empty());
    }

    #[test]
    fn a_configuration_decides_which_is_first() {
        let files = set(&[
            ("config.json", r#"{"transformers_weights": "weights.safetensors"}"#),
            ("model.safetensors", ""),
            ("weights.safetensors", ""),
        ]);
        assert_eq!(of_files(&files)[0].name, "weights.safetensors");
        let odd =
            set(&[("config.json", r#"{"transformers_weights": "../x.safetensors", "y": 1}"#), ("i.index.json", "")]);
        assert_eq!(LoadingHints::read(&odd).unread().len(), 1);
        assert_eq!(
            LoadingHints::read(&set(&[("model.safetensors.index.json", "{\"weight_map\": NaN}")])).unread().len(),
            1
        );
    }

    #[test]
    fn what_is_part_of_no_checkpoint_is_listed_once() {
        let files = [
            "model.safetensors",
            "openvino/openvino_model.bin",
            "optimizer.pt",
            "mmproj-F16.gguf",
            "tf_model.h5",
            "m.gguf.part1of2",
            "x.txt",
        ];
        let found = contents(files.map(|name| (name, 10)), &LoadingHints::default());
        let others: Vec<(&str, bool)> =
            found.others.iter().map(|other| (other.name.as_str(), other.is_readable)).collect();
        assert_eq!(
            others,
            [
                ("m.gguf.part1of2", false),
                ("mmproj-F16.gguf", true),
                ("openvino/openvino_model.bin", true),
                ("optimizer.pt", true),
                ("tf_model.h5", false)
            ]
        );
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
            ..FileSet::default()
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
