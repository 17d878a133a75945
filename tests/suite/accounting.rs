//! Everything that a loader would load is compared or told: by whatever name, index, folder or ending it comes, and
//! whatever is removed from it, renamed or broken.

use std::collections::BTreeMap;
use std::path::Path;

use orthoscope::cli::{ExitStatus, FailOn};
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::gguf::{self, Quantization};
use orthoscope::demo::tiny::{Model, TinySize, direction};
use orthoscope::diff::Unobserved;
use orthoscope::examination::{Examination, NotExamined, Relation, Status, Verdict};
use orthoscope::examine::{self, ExaminationContext};
use orthoscope::judge::account::Account;
use orthoscope::signature::Catalogue;
use orthoscope::tensor::DType;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{TINY, ablated, bytes};

/// Small, so that thousands are compared; three layers, as two are too few for a finding.
const SMALL: TinySize = TinySize { width: 32, layers: 3, inner: 64, heads: 2, vocabulary: 40 };

fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A folder for each side, the base in it as one file.
struct Pair {
    folder: tempfile::TempDir,
    base: Model,
}

impl Pair {
    fn new(base: Model) -> Self {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "base/config.json", base.config.to_string());
        put(folder.path(), "base/model.safetensors", bytes(&base, "F32"));
        put(folder.path(), "candidate/config.json", base.config.to_string());
        Self { folder, base }
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        put(&self.folder.path().join("candidate"), name, bytes);
    }

    fn compare(&self) -> Examination {
        compare(self.folder.path())
    }

    /// The base's tensors but these, and these of the edited model.
    fn split(&self, edited: &Model, moved: &[String]) -> (Vec<u8>, Vec<u8>) {
        let (mut rest, mut other) = (self.base.clone(), edited.clone());
        rest.tensors.retain(|name, _| !moved.contains(name));
        other.tensors.retain(|name, _| moved.contains(name));
        (bytes(&rest, "F32"), bytes(&other, "F32"))
    }

    fn index(&self, moved: &[String], rest: &str, other: &str) -> String {
        let map: BTreeMap<&str, &str> = self
            .base
            .tensors
            .keys()
            .map(|name| (name.as_str(), if moved.contains(name) { other } else { rest }))
            .collect();
        json!({"metadata": {}, "weight_map": map}).to_string()
    }
}

fn compare(folder: &Path) -> Examination {
    let catalogue = Catalogue::builtin().unwrap();
    let settings = ExaminationContext { catalogue: &catalogue, digests: false, claim: None, observer: &Unobserved };
    examine::compare_paths(&folder.join("base"), &folder.join("candidate"), &settings)
}

/// Clear, or exit status 0 without anything found. (`suspect` is found; which status it gives is `--fail-on`'s to say.)
fn is_clean(examination: &Examination) -> bool {
    let found = matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect);
    !found && (examination.verdict == Verdict::Clear || FailOn::High.status([examination]) == ExitStatus::Success)
}

fn edited(base: &Model) -> Model {
    ablated(base, 10, 1.0, RemovalKind::Plain)
}

#[test]
fn a_shard_is_read_whatever_its_index_calls_it() {
    for name in [
        "tokenizer_x.safetensors",
        "optimizer-00002-of-00002.safetensors",
        "sub/model-00002-of-00002.safetensors",
        "model-00002-of-00002.weights",
        "consolidated.safetensors",
        ".hidden/x.safetensors",
        "a/b/c/d/x.safetensors",
        "model.fp16-00002-of-00002.safetensors",
        "README.md",
        "adapter_model.safetensors",
        "x.h5",
    ] {
        let pair = Pair::new(TINY.llama(1));
        let edited = edited(&pair.base);
        let moved = edited.writers();
        let (rest, other) = pair.split(&edited, &moved);
        pair.put("model-00001-of-00002.safetensors", rest);
        pair.put(name, other);
        pair.put("model.safetensors.index.json", pair.index(&moved, "model-00001-of-00002.safetensors", name));
        let found = pair.compare();
        assert_eq!(found.verdict, Verdict::Orthogonalized, "{name}: {:?} {:?}", found.because, found.reason);
    }
}

#[test]
fn a_shard_that_is_missing_or_broken_is_a_gap() {
    for (way, indexed, second) in [
        ("missing, with an index", true, None),
        ("missing, without", false, None),
        ("garbage", true, Some(b"garbage".to_vec())),
        ("garbage, without an index", false, Some(b"garbage".to_vec())),
        ("a pointer", true, Some(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n".to_vec())),
        ("empty", false, Some(Vec::new())),
    ] {
        let pair = Pair::new(TINY.llama(1));
        let moved = vec![pair.base.writers().remove(0)];
        let (rest, _) = pair.split(&pair.base, &moved);
        pair.put("model-00001-of-00002.safetensors", rest);
        if let Some(bytes) = second {
            pair.put("model-00002-of-00002.safetensors", bytes);
        }
        if indexed {
            let shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
            pair.put("model.safetensors.index.json", pair.index(&moved, shards.0, shards.1));
        }
        let found = pair.compare();
        assert_eq!((found.status, found.verdict), (Status::Partial, Verdict::Inconclusive), "{way}");
        assert_eq!(FailOn::High.status([&found]), ExitStatus::Incomplete, "{way}");
        let reason = found.reason.unwrap();
        assert!(reason.contains("model-00002") || reason.contains(&moved[0]), "{way}: {reason}");
    }
}

#[test]
fn a_shard_missing_on_both_sides_is_a_gap_too() {
    let pair = Pair::new(TINY.llama(1));
    let moved = vec![pair.base.writers().remove(0)];
    let (rest, _) = pair.split(&pair.base, &moved);
    std::fs::remove_file(pair.folder.path().join("base/model.safetensors")).unwrap();
    for side in ["base", "candidate"] {
        put(pair.folder.path(), &format!("{side}/model-00001-of-00002.safetensors"), &rest);
    }
    assert_eq!(pair.compare().status, Status::Partial);
}

#[test]
fn files_that_loaders_may_take_instead_are_examined() {
    for name in [
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "uncensored/model.safetensors",
        "a/b/c/d/model.safetensors",
        ".hidden/model.safetensors",
        "zzz.safetensors",
        "weights.safetensors",
        "optimizer.safetensors",
        "tokenizer.safetensors",
        "pytorch_model-q.gguf",
        "mmproj-f16.gguf",
    ] {
        let pair = Pair::new(TINY.llama(1));
        let edited = edited(&pair.base);
        pair.put("model.safetensors", bytes(&pair.base, "F32"));
        let gguf = name.ends_with(".gguf");
        pair.put(name, if gguf { gguf::bytes(&edited, "tiny", Quantization::F16) } else { bytes(&edited, "F32") });
        let found = pair.compare();
        assert_eq!(found.verdict, Verdict::Orthogonalized, "{name}: {}", found.because);
        // An equal copy, or an honest quantisation, beside it is examined as well and is clear.
        pair.put(
            name,
            if gguf { gguf::bytes(&pair.base, "tiny", Quantization::F16) } else { bytes(&pair.base, "F32") },
        );
        let found = pair.compare();
        assert_eq!((found.verdict, found.status), (Verdict::Clear, Status::Complete), "{name}: {:?}", found.reason);
    }
}

#[test]
fn the_file_that_a_configuration_names_is_looked_at_first() {
    let pair = Pair::new(TINY.llama(1));
    let mut config = pair.base.config.clone();
    config["transformers_weights"] = json!("weights.safetensors");
    pair.put("config.json", config.to_string());
    pair.put("model.safetensors", bytes(&pair.base, "F32"));
    pair.put("weights.safetensors", bytes(&edited(&pair.base), "F32"));
    let found = pair.compare();
    assert_eq!(found.verdict, Verdict::Orthogonalized);
    assert_eq!(found.variants[0].candidate.variant.as_deref(), Some("weights.safetensors"));
}

#[test]
fn what_directs_loaders_and_cannot_be_read_is_a_gap() {
    for (name, text) in [
        ("config.json", r#"{"x": NaN, "transformers_weights": "weights.safetensors"}"#),
        ("model.safetensors.index.json", r#"{"weight_map": NaN}"#),
        ("model.safetensors.index.json", r#"{"weight_map": {}, "weight_map": {"a": "x.safetensors"}}"#),
        ("config.json", r#"{"transformers_weights": "../weights.safetensors"}"#),
    ] {
        let pair = Pair::new(TINY.llama(1));
        pair.put("model.safetensors", bytes(&pair.base, "F32"));
        pair.put(name, text);
        let found = pair.compare();
        assert!(!is_clean(&found), "{name} {text}");
        assert!(found.reason.as_deref().unwrap_or_default().contains(name), "{:?}", found.reason);
    }
}

#[test]
fn a_second_spelling_of_a_tensor_is_a_gap() {
    for spelling in ["layers", "model.model.layers", "language_model.layers", "transformer.layers", "modelXlayers"] {
        let pair = Pair::new(TINY.llama(1));
        let mut both = pair.base.clone();
        for (name, weight) in edited(&pair.base).tensors {
            if let Some(rest) = name.strip_prefix("model.layers") {
                both.tensors.insert(format!("{spelling}{rest}"), weight);
            }
        }
        pair.put("model.safetensors", bytes(&both, "F32"));
        assert!(!is_clean(&pair.compare()), "{spelling}");
    }
}

#[test]
fn weights_in_forms_that_are_not_read_are_told() {
    for name in [
        "tf_model.h5",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "m.gguf.part1of2",
        "m.gguf-split-a",
        "model.safetensors.gz",
    ] {
        let pair = Pair::new(TINY.llama(1));
        pair.put("model.safetensors", bytes(&pair.base, "F32"));
        pair.put(name, "anything");
        let found = pair.compare();
        assert_eq!((found.verdict, found.status), (Verdict::Inconclusive, Status::Partial), "{name}");
        assert!(found.coverage.not_examined.iter().any(|one| one.tensor == name), "{name}");
        // The base has the same file: it is a copy.
        put(&pair.folder.path().join("base"), name, "anything");
        assert_eq!(pair.compare().status, Status::Complete, "{name}");
    }
}

#[test]
fn pieces_alone_are_named() {
    let pair = Pair::new(TINY.llama(1));
    pair.put("m.gguf.part1of2", "anything");
    pair.put("m.gguf.part2of2", "anything");
    let found = pair.compare();
    assert_eq!(found.status, Status::Failed);
    assert!(found.reason.as_deref().unwrap_or_default().contains("part1of2"), "{:?}", found.reason);
}

#[test]
fn what_a_trainer_leaves_is_no_gap_and_commands_in_it_are_a_finding() {
    // A pickle of a number, and one that imports a command.
    let harmless = b"\x80\x02K\x01.";
    let command = b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.";
    for name in ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "tokenizer.pt"] {
        let pair = Pair::new(TINY.llama(1));
        pair.put("model.safetensors", bytes(&pair.base, "F32"));
        pair.put(name, harmless);
        let found = pair.compare();
        assert!(found.findings.is_empty(), "{name}");
        pair.put(name, command);
        let found = pair.compare();
        assert!(
            found.findings.iter().any(|finding| finding.signature == "code-on-load"),
            "{name}: {:?}",
            found.anomalies
        );
    }
    for name in ["evil.bin", "evil.pt", "sub/pytorch_model.bin", "pytorch_model.fp16.bin", "evil.pkl"] {
        let pair = Pair::new(TINY.llama(1));
        pair.put("model.safetensors", bytes(&pair.base, "F32"));
        pair.put(name, command);
        let found = pair.compare();
        assert!(
            found.findings.iter().any(|finding| finding.signature == "code-on-load"),
            "{name}: {:?}",
            found.anomalies
        );
    }
}

#[test]
fn code_that_comes_with_the_weights_is_told() {
    let pair = Pair::new(TINY.llama(1));
    let mut config = pair.base.config.clone();
    config["auto_map"] = json!({"AutoModelForCausalLM": "modeling_own.Own"});
    pair.put("config.json", config.to_string());
    pair.put("modeling_own.py", "");
    pair.put("model.safetensors", bytes(&pair.base, "F32"));
    let found = pair.compare();
    for kind in ["remote-code", "code-file"] {
        assert!(found.anomalies.iter().any(|anomaly| anomaly.kind == kind), "{kind}: {:?}", found.anomalies);
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf_8_stay_apart_and_links_stay_inside() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let pair = Pair::new(TINY.llama(1));
    let candidate = pair.folder.path().join("candidate");
    std::fs::write(candidate.join(OsStr::from_bytes(b"m\xff.safetensors")), bytes(&pair.base, "F32")).unwrap();
    std::fs::write(candidate.join(OsStr::from_bytes(b"m\xfe.safetensors")), bytes(&edited(&pair.base), "F32")).unwrap();
    let found = pair.compare();
    assert_eq!(found.verdict, Verdict::Orthogonalized);
    assert_eq!(found.variants.len(), 2);

    let pair = Pair::new(TINY.llama(1));
    pair.put("model.safetensors", bytes(&pair.base, "F32"));
    put(pair.folder.path(), "elsewhere/other.safetensors", bytes(&pair.base, "F32"));
    let link = pair.folder.path().join("candidate/other.safetensors");
    std::os::unix::fs::symlink("../elsewhere/other.safetensors", link).unwrap();
    let found = pair.compare();
    assert_eq!((found.status, found.verdict), (Status::Partial, Verdict::Inconclusive));
    assert!(found.reason.unwrap().contains("leads out of the folder"));
}

#[test]
fn an_honest_folder_in_every_form_is_complete_and_clear() {
    let pair = Pair::new(TINY.llama(1));
    pair.put("model.safetensors", bytes(&pair.base, "F32"));
    for quantization in [Quantization::Q8_0, Quantization::F16] {
        let name = format!("m-{}.gguf", quantization.as_str());
        pair.put(&name, gguf::bytes(&pair.base, "tiny", quantization));
    }
    let (rest, other) = pair.split(&pair.base, &pair.base.writers());
    pair.put("sharded/model-00001-of-00002.safetensors", rest);
    pair.put("sharded/model-00002-of-00002.safetensors", other);
    let shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    pair.put("sharded/model.safetensors.index.json", pair.index(&pair.base.writers(), shards.0, shards.1));
    let found = pair.compare();
    assert_eq!(
        (found.status, found.verdict),
        (Status::Complete, Verdict::Clear),
        "{:?} {:?}",
        found.reason,
        found.because
    );
    assert_eq!(FailOn::High.status([&found]), ExitStatus::Success);
}

#[test]
fn an_account_lists_each_thing_once() {
    let mut account = Account::default();
    account.gap("a", "gone");
    account.gap("a", "gone");
    let pair = Pair::new(TINY.llama(1));
    pair.put("model.safetensors", bytes(&pair.base, "F32"));
    let mut examination = pair.compare();
    account.enter(&mut examination);
    assert_eq!(examination.coverage.not_examined, [NotExamined { tensor: "a".to_owned(), reason: "gone".to_owned() }]);
}

/// What is done to a safetensors file's header, or to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Remove,
    Rename,
    Retype,
    Reshape,
    PointElsewhere,
    Truncate,
    Flip,
}

fn damages() -> impl Strategy<Value = Damage> {
    use Damage::{Flip, PointElsewhere, Remove, Rename, Reshape, Retype, Truncate};
    prop::sample::select(vec![Remove, Rename, Retype, Reshape, PointElsewhere, Truncate, Flip])
}

/// A safetensors file with one tensor of its header damaged; the file as it was where that changes nothing.
fn damaged(file: &[u8], damage: Damage, at: usize, seed: usize) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let object = header.as_object_mut().unwrap();
    let names: Vec<String> = object.keys().filter(|name| *name != "__metadata__").cloned().collect();
    let name = &names[at % names.len()];
    match damage {
        Damage::Truncate => return file[..file.len() * (seed % 97) / 97].to_vec(),
        Damage::Flip => {
            let mut file = file.to_vec();
            file[seed % (8 + length)] ^= 1 << (at % 8);
            return file;
        }
        Damage::Remove => {
            object.remove(name);
        }
        Damage::Rename => {
            let entry = object.remove(name).unwrap();
            let new = match seed % 4 {
                0 => format!("{name}_"),
                1 => format!("other.{name}"),
                2 => name.replace("layers.0", "layers.7").replace("embed", "embedded").replace("norm", "normal"),
                _ => name.replace("proj", "projection").replace("embed_tokens", "wte2").replace("norm", "n"),
            };
            object.insert(new, entry);
        }
        Damage::Retype => {
            let types = ["BF16", "F16", "I32", "F64", "F8_E4M3", "X7", ""];
            object[name]["dtype"] = json!(types[seed % types.len()]);
        }
        Damage::Reshape => {
            let shape = object[name]["shape"].as_array().unwrap().clone();
            object[name]["shape"] = match seed % 3 {
                0 => json!(shape.iter().chain([&json!(2)]).collect::<Vec<_>>()),
                1 => json!([shape.iter().filter_map(Value::as_u64).product::<u64>()]),
                _ => json!([0]),
            };
        }
        Damage::PointElsewhere => {
            let other = names[(at + 1 + seed) % names.len()].clone();
            object[name]["data_offsets"] = object[&other]["data_offsets"].clone();
        }
    }
    let text = header.to_string();
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out.extend(&file[8 + length..]);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// An edited model that is damaged anywhere is found or not clean.
    #[test]
    fn a_damaged_edit_in_safetensors_is_never_clean(damage in damages(), at in 0usize..64, seed in any::<usize>(), sharded in any::<bool>()) {
        let pair = Pair::new(SMALL.llama(1));
        let edited = edited(&pair.base);
        if sharded {
            let moved = edited.writers();
            let (_, other) = pair.split(&edited, &moved);
            let (rest, _) = pair.split(&pair.base, &moved);
            let shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
            pair.put(shards.0, rest);
            pair.put(shards.1, damaged(&other, damage, at, seed));
            pair.put("model.safetensors.index.json", pair.index(&moved, shards.0, shards.1));
        } else {
            pair.put("model.safetensors", damaged(&bytes(&edited, "F32"), damage, at, seed));
        }
        let found = pair.compare();
        prop_assert!(!is_clean(&found), "{damage:?} {:?} {:?}", found.because, found.reason);
    }

    /// An honest copy of which a tensor was taken away, renamed, retyped or pointed elsewhere is not that copy any more.
    #[test]
    fn damage_to_an_honest_copy_is_noticed(damage in damages(), at in 0usize..64, seed in any::<usize>()) {
        let pair = Pair::new(SMALL.llama(1));
        let whole = bytes(&pair.base, "F32");
        let broken = damaged(&whole, damage, at, seed);
        pair.put("model.safetensors", &broken);
        let found = pair.compare();
        let same = matches!(found.relation, Relation::Identical | Relation::Repackaged) && found.status == Status::Complete;
        // A flipped bit may turn a blank of the header, and equal vectors may be pointed at one another.
        let harmless = broken == whole || matches!(damage, Damage::Flip | Damage::PointElsewhere | Damage::Rename | Damage::Reshape);
        prop_assert!(!same || harmless, "{damage:?} {:?}", found.because);
        prop_assert!(found.status == Status::Complete || !is_clean(&found), "{damage:?}");
    }

    /// The same of a GGUF file, byte by byte: its header decides what its tensors are.
    #[test]
    fn a_damaged_edit_in_gguf_is_never_clean(at in any::<usize>(), bit in 0u8..8, cut in 0usize..400, whole in any::<bool>()) {
        let pair = Pair::new(SMALL.llama(1));
        let mut file = gguf::bytes(&edited(&pair.base), "tiny", Quantization::Q8_0);
        if whole {
            let header = file.len().min(6000);
            file[at % header] ^= 1 << bit;
        } else {
            file.truncate(file.len() * cut / 400);
        }
        pair.put("m-Q8_0.gguf", file);
        let found = pair.compare();
        prop_assert!(!is_clean(&found), "{:?} {:?}", found.because, found.reason);
    }

    /// One edited writer alone, hidden by any damage to it, is never clean.
    #[test]
    fn the_one_edited_matrix_cannot_be_hidden(damage in damages(), which in any::<usize>(), seed in any::<usize>()) {
        let pair = Pair::new(SMALL.llama(1));
        let writers = pair.base.writers();
        let name = &writers[which % writers.len()];
        let mut model = pair.base.clone();
        let r = direction(5, "removed", 32);
        edits::orthogonalize(model.tensors.get_mut(name).unwrap(), &r, 1.0, RemovalKind::Plain);
        let at = model.tensors.keys().position(|other| other == name).unwrap();
        let file = bytes(&model, "F32");
        let broken = damaged(&file, damage, at, seed);
        // Pointed at another tensor's bytes the edited matrix is gone, and a flip may hit another tensor.
        prop_assume!(!matches!(damage, Damage::PointElsewhere | Damage::Flip));
        pair.put("model.safetensors", file);
        // What one matrix alone shows is the detector's matter; that damage hides nothing that it shows is this one's.
        let whole = pair.compare();
        pair.put("model.safetensors", broken);
        let found = pair.compare();
        let same = (whole.verdict, whole.status) == (found.verdict, found.status);
        prop_assert!(!is_clean(&found) || same, "{damage:?} {name} {:?} {:?}", found.because, found.reason);
    }
}

#[test]
fn every_format_of_the_tiny_models_opens_whole() {
    // What the properties above rest on: without damage nothing is a gap.
    let pair = Pair::new(SMALL.llama(1));
    pair.put("model.safetensors", bytes(&pair.base, "F32"));
    assert_eq!(pair.compare().relation, Relation::Identical);
    let pair = Pair::new(SMALL.llama(1));
    pair.put("m-Q8_0.gguf", gguf::bytes(&pair.base, "tiny", Quantization::Q8_0));
    let found = pair.compare();
    assert_eq!((found.status, found.verdict), (Status::Complete, Verdict::Clear), "{:?}", found.reason);
    let edited = edited(&pair.base);
    let folder = pair.folder.path().join("candidate");
    std::fs::remove_file(folder.join("m-Q8_0.gguf")).unwrap();
    edited.write(&folder, DType::named("BF16").unwrap(), 2).unwrap();
    assert_eq!(pair.compare().verdict, Verdict::Orthogonalized);
}
