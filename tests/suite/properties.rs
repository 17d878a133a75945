//! What must not change a measurement: threads, shards, the order of tensors, running again.

use orthoscope::checkpoint::folder::open_path;
use orthoscope::checkpoint::safetensors::{NewTensor, encode_floats, write};
use orthoscope::diff::{self, Unobserved};
use orthoscope::pair;
use orthoscope::tensor::BF16;
use orthoscope::tiny::edits::{self, Form};
use orthoscope::tiny::{Model, Size, direction};
use proptest::prelude::*;

fn profile(folder: &std::path::Path) -> diff::stats::Profile {
    let (base, candidate) = (open_path(&folder.join("base")).unwrap(), open_path(&folder.join("candidate")).unwrap());
    let pairing = pair::pair(&base, &candidate);
    let measured = diff::measure(&base, &candidate, &pairing, &Unobserved).unwrap();
    diff::summary::summarize(&pairing, &measured).profile
}

/// A base and a candidate with an edit, training and a rescaled matrix, so that every path of the engine runs.
fn models(seed: u64) -> (Model, Model) {
    let base = Size { width: 48, layers: 3, inner: 96, heads: 3, vocabulary: 64 }.llama(seed);
    let mut candidate = base.clone();
    edits::fine_tune(&mut candidate, 0.02, seed);
    let r = direction(seed, "removed", 48);
    for name in candidate.writers() {
        edits::orthogonalize(candidate.tensors.get_mut(&name).unwrap(), &r, 0.7, Form::Plain);
    }
    edits::rescale(candidate.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap(), 1.05);
    (base, candidate)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn threads_and_shards_change_no_bit(seed in 0u64..1000, threads in 1usize..5, shards in 1usize..6) {
        let (base, candidate) = models(seed);
        let folder = tempfile::tempdir().unwrap();
        base.write(&folder.path().join("base"), &BF16, 1).unwrap();
        candidate.write(&folder.path().join("candidate"), &BF16, 1).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let many = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let expected = one.install(|| profile(folder.path()));
        prop_assert_eq!(&expected, &many.install(|| profile(folder.path())));
        std::fs::remove_dir_all(folder.path().join("candidate")).unwrap();
        candidate.write(&folder.path().join("candidate"), &BF16, shards).unwrap();
        prop_assert_eq!(&expected, &profile(folder.path()));
    }

    #[test]
    fn the_order_of_tensors_in_a_file_changes_no_bit(seed in 0u64..1000) {
        let (base, candidate) = models(seed);
        let folder = tempfile::tempdir().unwrap();
        base.write(&folder.path().join("base"), &BF16, 1).unwrap();
        candidate.write(&folder.path().join("candidate"), &BF16, 1).unwrap();
        let expected = profile(folder.path());
        // The writer sorts by dtype and name; names with a common prefix in another order need another file each.
        let stored: Vec<_> = candidate.tensors.iter().rev().map(|(name, weight)| {
            let shape: Vec<u64> = weight.shape.iter().map(|side| *side as u64).collect();
            (name, shape, encode_floats(&BF16, &weight.values).unwrap())
        }).collect();
        let path = folder.path().join("candidate/model.safetensors");
        std::fs::remove_file(&path).unwrap();
        for (index, chunk) in stored.chunks(7).enumerate() {
            let tensors: Vec<NewTensor<'_>> = chunk.iter()
                .map(|(name, shape, bytes)| NewTensor { name, dtype: &BF16, shape, bytes }).collect();
            let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, stored.len().div_ceil(7));
            write(&folder.path().join("candidate").join(name), &tensors, &Default::default()).unwrap();
        }
        prop_assert_eq!(&expected, &profile(folder.path()));
    }
}

#[test]
fn modules_import_only_what_comes_before_them() {
    const ORDER: &[&str] = &[
        "error",
        "ids",
        "limits",
        "numbers",
        "severity",
        "private",
        "source",
        "tensor",
        "checkpoint",
        "arch",
        "aside",
        "surroundings",
        "pair",
        "overlay",
        "diff",
        "examination",
        "account",
        "signature",
        "relation",
        "recipe",
        "verdict",
        "combine",
        "claim",
        "hub",
        "index",
        "report",
        "sweep",
        "pipeline",
        "evaluate",
        "verify",
    ];
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for entry in walkdir::WalkDir::new(&source).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path();
        let inside = path.strip_prefix(&source).unwrap();
        let Some(module) = inside.iter().next().and_then(|part| part.to_str()).map(|part| part.trim_end_matches(".rs"))
        else {
            continue;
        };
        let Some(place) = ORDER.iter().position(|name| *name == module) else { continue };
        let is_test = path.to_str().unwrap().contains("test") || path.ends_with("samples.rs");
        if path.extension().is_none_or(|extension| extension != "rs") || is_test {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (at, _) in line.match_indices("crate::") {
                let name: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if ORDER.iter().position(|other| *other == name).is_some_and(|other| other > place) {
                    wrong.push(format!("{}: {}", inside.display(), line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the flow of data:\n{}", wrong.join("\n"));
}
