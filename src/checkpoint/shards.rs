//! Which files of a repository are the model, and what its shard index says.
//!
//! A repository often holds more weights than one model: an original next to a converted copy, an optimizer, an
//! adapter, a text encoder in a folder of its own. The choice follows what `transformers` would load: the plain names
//! first (`model.safetensors`, its index, then `pytorch_model.bin`), the top folder before any other.

use std::collections::{BTreeMap, BTreeSet};

use super::collect::{Anomalies, Strings, json_bytes, kept_name, shown};
use super::files::{Written, is_adapter_file, is_leftover, is_small};
use super::{FileSet, anomaly, turn};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MANY_INDEX_BYTES, MAX_FILES, MAX_TENSORS};
use crate::source::ByteSource;

/// How one format names its files.
pub(crate) struct Naming {
    /// Whose endings its files bear.
    pub written: Written,
    /// Stems that are the model before all others, best first.
    pub stems: &'static [&'static str],
}

/// Folders of a repository of several parts that hold the part that is wanted, best first.
const MAIN_FOLDERS: &[&str] = &["model", "transformer", "unet", "language_model", "text_model", "text_encoder"];

/// The files chosen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The folder all are in, empty or ending in a slash.
    pub folder: String,
    /// Weight files that are there, sorted.
    pub files: Vec<String>,
    /// What the shard index says, when there is one that counts.
    pub index: Option<ShardIndex>,
    /// Shards that the numbers of the others promise and that are not there.
    pub missing: Vec<String>,
}

/// What a shard index says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardIndex {
    /// Its own name.
    pub name: String,
    /// Tensor to file.
    pub map: BTreeMap<String, String>,
    /// Files that it names and that are not there or may not be opened, with the reason.
    pub absent: BTreeMap<String, String>,
}

/// The folder of a name (with its slash) and the rest.
pub(crate) fn split_folder(name: &str) -> (&str, &str) {
    name.rfind('/').map_or(("", name), |slash| name.split_at(slash + 1))
}

/// Whether a name from a file stays inside its folder.
pub(crate) fn stays_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0', ':'])
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// `stem` and `(number, count)` of a name like `stem-00001-of-00002`, without its extension.
pub(crate) fn split_number(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (!text.is_empty() && text.len() <= 6).then(|| text.parse().ok()).flatten();
    Some((stem, digits(number)?, digits(count)?))
}

/// The stem of a name like `consolidated.00`, a slice of a model that was split over devices, without its extension.
pub(crate) fn split_parallel(stem: &str) -> Option<&str> {
    let (rest, number) = stem.rsplit_once('.')?;
    (rest == "consolidated" && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(rest)
}

/// The files that a shard index names, as it spells them.
pub(super) fn names_in_index(source: &dyn ByteSource) -> Result<BTreeSet<String>> {
    if source.len() > MANY_INDEX_BYTES {
        turn::take();
    }
    let whole = serde_json::from_slice::<Whole>(&json_bytes(source)?);
    let doing = || format!("reading {}", source.name());
    let pairs = whole.map_err(|error| Error::because(ErrorKind::Malformed, doing(), error))?.weight_map.0;
    if pairs.not_a_map || pairs.left_out > 0 || !pairs.odd.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, format!("{}: not all of its files can be told", doing())));
    }
    let names: BTreeSet<String> = pairs.pairs.into_iter().map(|(_, file)| file).collect();
    if names.len() > MAX_FILES {
        return Err(Error::new(ErrorKind::TooLarge, format!("{}: more than {MAX_FILES} files", doing())));
    }
    Ok(names)
}

/// A shard index.
#[derive(serde::Deserialize)]
struct Whole {
    weight_map: Strings<MAX_TENSORS>,
}

impl Naming {
    fn stem<'a>(&self, base: &'a str) -> Option<&'a str> {
        let (stem, _) = base.rsplit_once('.')?;
        (Written::promised(base) == Some(self.written)).then_some(stem)
    }

    /// Whether the set holds a model in files of these names.
    pub fn matches(&self, files: &FileSet) -> bool {
        self.best_folder(files).is_some()
    }

    /// Whether a file is one of a model, by its name (a set with one file of weights holds what it is said to hold).
    pub fn is_model(&self, files: &FileSet, name: &str) -> bool {
        let base = split_folder(name).1;
        let alone = || files.files.keys().all(|other| other == name || is_small(other));
        let strange = is_leftover(base);
        self.stem(base).is_some()
            && (files.files.len() == 1 || !(is_adapter_file(base) || strange) || (!is_adapter_file(base) && alone()))
    }

    /// The folder to read: the top one if it holds weights, else a main one, else the one with most bytes.
    fn best_folder(&self, files: &FileSet) -> Option<String> {
        let mut folders: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, source) in &files.files {
            let folder = split_folder(name).0;
            if self.is_model(files, name) {
                *folders.entry(folder).or_default() += source.len();
            } else if self.index_stem(split_folder(name).1).is_some() {
                // An index without a single shard is a model all the same: one of which nothing can be examined.
                folders.entry(folder).or_default();
            }
        }
        if folders.contains_key("") {
            return Some(String::new());
        }
        let main = MAIN_FOLDERS.iter().map(|name| format!("{name}/")).find(|name| folders.contains_key(name.as_str()));
        main.or_else(|| {
            let largest = folders.iter().max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)));
            largest.map(|(folder, _)| (*folder).to_owned())
        })
    }

    /// The stem of the files that an index of this name speaks of.
    fn index_stem<'a>(&self, base: &'a str) -> Option<&'a str> {
        let (before, after) = base.rsplit_once(".index.")?;
        // `model.safetensors.index.fp16.json` is the index of a variant that transformers calls `fp16`.
        let variant = || after.strip_suffix(".json").is_some_and(|variant| !variant.contains('.'));
        if after == "json" || variant() { self.stem(before) } else { None }
    }

    /// Chooses the files; `None` when there are none of these names.
    pub fn select(&self, files: &FileSet, anomalies: &mut Anomalies) -> Result<Option<Selection>> {
        let Some(folder) = self.best_folder(files) else { return Ok(None) };
        let here = |name: &&String| split_folder(name).0 == folder;
        let mut groups: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for name in files.files.keys().filter(here).filter(|name| self.is_model(files, name)) {
            let stem = self.stem(split_folder(name).1).unwrap_or_default();
            let group = split_number(stem).map(|(stem, _, _)| stem).or_else(|| split_parallel(stem));
            groups.entry(group.unwrap_or(stem)).or_default().push(name);
        }
        let indexes: BTreeMap<&str, &String> = (files.files.keys().filter(here))
            .filter_map(|name| Some((self.index_stem(split_folder(name).1)?, name)))
            .collect();
        let bytes = |stem: &str| -> u64 {
            let names = groups.get(stem).into_iter().flatten();
            names.filter_map(|name| files.files.get(*name)).map(|source| source.len()).sum()
        };
        let is_whole =
            |name: &&String| self.stem(split_folder(name).1).is_some_and(|base| split_number(base).is_none());
        let plain = || {
            let whole = |stem: &&str| groups.get(stem).is_some_and(|group| group.iter().any(is_whole));
            self.stems.iter().copied().find(|stem| whole(stem) || indexes.contains_key(stem))
        };
        let preferred = plain()
            .or_else(|| indexes.keys().copied().max_by_key(|stem| bytes(stem)))
            .or_else(|| self.stems.iter().copied().find(|stem| groups.contains_key(stem)));
        let stem = preferred.or_else(|| {
            // Copies in the maker's own layout come after any other name.
            groups.keys().copied().max_by_key(|stem| (!stem.starts_with("consolidated"), bytes(stem)))
        });
        let Some(stem) = stem else { return Ok(None) };
        let group = groups.get(stem).cloned().unwrap_or_default();
        let whole: Vec<&String> = group.iter().copied().filter(is_whole).collect();
        let slices = group.iter().filter(|name| self.stem(split_folder(name).1).and_then(split_parallel).is_some());
        let parallel = slices.count() == group.len();

        let mut selection = Selection { folder: folder.clone(), ..Selection::default() };
        if let Some(first) = whole.first().filter(|_| !parallel) {
            selection.files.push((*first).clone());
            if let Some(index) = indexes.get(stem) {
                anomalies.file(anomaly::TWO_MODELS, index, format!("{first} is there too and is what loaders take"));
            }
        } else if let Some(index) = indexes.get(stem) {
            match read_index(files, index, &folder, anomalies)? {
                Some((read, present)) => {
                    selection.files = present;
                    selection.index = Some(read);
                }
                None => selection.files = group.iter().map(|name| (*name).clone()).collect(),
            }
        } else {
            selection.files = group.iter().map(|name| (*name).clone()).collect();
            selection.missing = self.count_shards(&selection.files, anomalies);
        }
        selection.files.sort();
        selection.files.dedup();
        if selection.files.len() > MAX_FILES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("opening {}: {} weight files, more than {MAX_FILES}", files.label, selection.files.len()),
            ));
        }
        for name in groups.values().flatten().filter(|name| !selection.files.contains(name)) {
            let (kind, why) = match &selection.index {
                Some(index) if group.contains(name) => {
                    (anomaly::SHARD_NOT_IN_INDEX, format!("{} does not name it; loaders leave it out", index.name))
                }
                _ => (anomaly::SET_ASIDE, format!("not examined: the model is taken from {stem}")),
            };
            anomalies.file(kind, name, why);
        }
        for name in files.files.keys().filter(here) {
            let base = split_folder(name).1;
            if (base.starts_with("adapter_") || is_adapter_file(base)) && self.stem(base).is_some() {
                anomalies.file(anomaly::ADAPTER_BESIDE_MODEL, name, "not examined: the model beside it is");
            }
        }
        Ok(Some(selection))
    }

    /// Shards without an index: their own numbers say how many there should be. The names of those that are missing.
    fn count_shards(&self, names: &[String], anomalies: &mut Anomalies) -> Vec<String> {
        let numbered = names.iter().filter_map(|name| split_number(self.stem(split_folder(name).1)?));
        let mut numbers = BTreeSet::new();
        let mut most = 0;
        for (_, number, count) in numbered {
            numbers.insert(number);
            most = most.max(count);
        }
        let Some(first) = names.first().filter(|_| most > 1) else { return Vec::new() };
        anomalies.file(anomaly::MISSING_INDEX, first, format!("one of {most} shards, and no index names them"));
        // Counted from 1 by those who write an index, from 0 by some who do not.
        let start = u32::from(!numbers.contains(&0));
        let missing = (start..most + start).filter(|number| !numbers.contains(number));
        let missing: Vec<String> = missing
            .take(MAX_FILES)
            .map(|number| match first.rsplit_once("-of-") {
                Some((before, after)) => {
                    let stem = before.rsplit_once('-').map_or(before, |(stem, _)| stem);
                    let digits = before.len() - stem.len() - 1;
                    format!("{stem}-{number:0digits$}-of-{after}")
                }
                None => format!("{first} (shard {number})"),
            })
            .collect();
        if !missing.is_empty() {
            let detail = format!("{} of {most} shards are not there", missing.len());
            anomalies.file(anomaly::MISSING_SHARD, first, detail);
        }
        missing
    }
}

/// Reads a shard index and tells which of the files it names are there; `None` when it cannot be used.
fn read_index(
    files: &FileSet,
    name: &str,
    folder: &str,
    anomalies: &mut Anomalies,
) -> Result<Option<(ShardIndex, Vec<String>)>> {
    let Some(source) = files.files.get(name) else { return Ok(None) };
    if source.len() > MANY_INDEX_BYTES {
        turn::take();
    }
    let bytes = json_bytes(source.as_ref())?;
    let pairs = match serde_json::from_slice::<Whole>(&bytes) {
        Ok(whole) => whole.weight_map.0,
        Err(e) => {
            anomalies.file(anomaly::BAD_INDEX, name, format!("not a shard index: {e}"));
            return Ok(None);
        }
    };
    if pairs.left_out > 0 {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("reading {name}: more than {MAX_TENSORS} tensors are listed"),
        ));
    }
    if pairs.not_a_map {
        anomalies.file(anomaly::BAD_INDEX, name, "its weight_map is not an object");
        return Ok(None);
    }
    for tensor in &pairs.odd {
        anomalies.tensor(anomaly::BAD_INDEX, name, tensor, "its file is not given as a string");
    }
    let mut index = ShardIndex { name: name.to_owned(), ..ShardIndex::default() };
    let mut present = BTreeSet::new();
    for (tensor, file) in pairs.pairs {
        let full = format!("{folder}{file}");
        if !stays_inside(&file) {
            if index.absent.insert(full.clone(), "its file's name leads out of the folder".to_owned()).is_none() {
                anomalies.file(
                    anomaly::PATH_ESCAPE,
                    name,
                    format!("names the file {:?}; it is not opened", shown(&file)),
                );
            }
        } else if files.files.contains_key(&full) {
            present.insert(full.clone());
        } else {
            let why = match files.refused.get(&full) {
                Some(reason) => format!("is not opened: {reason}"),
                None => "is not there".to_owned(),
            };
            if index.absent.insert(full.clone(), format!("its file {} {why}", shown(&full))).is_none() {
                anomalies.file(anomaly::MISSING_SHARD, name, format!("names {}, which {why}", shown(&full)));
            }
        }
        if index.absent.len() > MAX_FILES {
            return Err(Error::new(ErrorKind::TooLarge, format!("reading {name}: more than {MAX_FILES} files")));
        }
        if let Some(before) = index.map.insert(kept_name(&tensor), full) {
            anomalies.tensor(
                anomaly::DUPLICATE_TENSOR,
                name,
                &tensor,
                format!("listed twice, before in {}", shown(&before)),
            );
        }
    }
    Ok(Some((index, present.into_iter().collect())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::{ByteSource, Bytes};

    const NAMING: Naming = Naming { written: Written::Safetensors, stems: &["model", "diffusion_pytorch_model"] };

    fn set(files: &[(&str, &str)]) -> FileSet {
        let files = files.iter().map(|(name, text)| {
            let source: Arc<dyn ByteSource> = Arc::new(Bytes::new(*name, text.as_bytes()));
            ((*name).to_owned(), source)
        });
        FileSet { label: "set".to_owned(), files: files.collect(), ..FileSet::default() }
    }

    fn chosen(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut anomalies = Anomalies::default();
        let selection = NAMING.select(&set(files), &mut anomalies).unwrap().unwrap_or_default();
        (selection.files, anomalies.finish().into_iter().map(|anomaly| anomaly.kind).collect())
    }

    #[test]
    fn the_model_is_preferred_to_everything_else() {
        let (files, kinds) = chosen(&[
            ("consolidated.safetensors", "long enough to be the largest of all"),
            ("adapter_model.safetensors", ""),
            ("model.safetensors", ""),
            ("optimizer.safetensors", "large"),
            ("text_encoder/model.safetensors", ""),
        ]);
        assert_eq!(files, ["model.safetensors"]);
        assert_eq!(kinds, ["adapter-beside-model", "set-aside"]);
    }

    #[test]
    fn makers_layout_and_folders_are_read_when_nothing_else_is_there() {
        assert_eq!(chosen(&[("consolidated.safetensors", ""), ("config.json", "")]).0, ["consolidated.safetensors"]);
        assert_eq!(chosen(&[("consolidated.safetensors", "large"), ("mine.safetensors", "")]).0, ["mine.safetensors"]);
        let folders = [
            ("vae/diffusion_pytorch_model.safetensors", "large"),
            ("transformer/diffusion_pytorch_model.safetensors", ""),
        ];
        assert_eq!(chosen(&folders).0, ["transformer/diffusion_pytorch_model.safetensors"]);
        assert!(
            NAMING
                .select(&set(&[("adapter_model.safetensors", ""), ("x.json", "")]), &mut Anomalies::default())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn an_index_of_more_tensors_than_any_model_has_is_refused() {
        let entries: Vec<String> = (0..=MAX_TENSORS).map(|at| format!("\"{at}\":\"m.safetensors\"")).collect();
        let index = format!("{{\"weight_map\":{{{}}}}}", entries.join(","));
        let files = set(&[("model.safetensors.index.json", &index), ("m.safetensors", "")]);
        let error = NAMING.select(&files, &mut Anomalies::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooLarge);
        assert!(error.one_line().contains("tensors are listed"), "{}", error.one_line());
    }

    #[test]
    fn an_index_decides_and_its_errors_are_told() {
        let index = r#"{"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "model-00002-of-00003.safetensors",
            "c": "../../secret", "d": "/etc/passwd", "e": "c:\\x", "f": "", "g": 5, "a": "model-00001-of-00003.safetensors"}}"#;
        let files = set(&[
            ("model.safetensors.index.json", index),
            ("model-00001-of-00003.safetensors", ""),
            ("model-00003-of-00003.safetensors", ""),
        ]);
        let mut anomalies = Anomalies::default();
        let selection = NAMING.select(&files, &mut anomalies).unwrap().unwrap();
        assert_eq!(selection.files, ["model-00001-of-00003.safetensors"]);
        let index = selection.index.unwrap();
        assert_eq!(index.absent.len(), 5);
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for anomaly in anomalies.finish() {
            *count.entry(anomaly.kind).or_default() += 1;
        }
        let expected = [
            ("bad-index", 1),
            ("duplicate-tensor", 1),
            ("missing-shard", 1),
            ("path-escape", 4),
            ("shard-not-in-index", 1),
        ];
        assert_eq!(count, expected.map(|(kind, times)| (kind.to_owned(), times)).into());
    }

    #[test]
    fn shards_without_an_index_are_counted() {
        let (files, kinds) =
            chosen(&[("model-00001-of-00003.safetensors", ""), ("model-00003-of-00003.safetensors", "")]);
        assert_eq!(files.len(), 2);
        assert_eq!(kinds, ["missing-index", "missing-shard"]);
        let (files, kinds) = chosen(&[("model-00001-of-00001.safetensors", ""), ("model.safetensors.index.json", "{")]);
        assert_eq!(files.len(), 1);
        assert_eq!(kinds, ["bad-index"]);
    }

    #[test]
    fn a_single_file_wins_over_an_index_and_both_are_told() {
        let (files, kinds) = chosen(&[
            ("model.safetensors", ""),
            ("model.safetensors.index.json", r#"{"weight_map": {}}"#),
            ("model-00001-of-00001.safetensors", ""),
        ]);
        assert_eq!(files, ["model.safetensors"]);
        assert_eq!(kinds, ["set-aside", "two-models"]);
    }
}
