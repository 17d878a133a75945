//! Whole comparisons of tiny models: every edit that orthoscope tells apart, every look-alike, and what is said of them.

use std::collections::BTreeMap;
use std::path::Path;

use orthoscope::checkpoint::folder::open_path;
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::{Model, TinySize, direction};
use orthoscope::diff::Unobserved;
use orthoscope::examination::{Examination, Relation, Status, Verdict};
use orthoscope::examine::sides::Named;
use orthoscope::examine::{self, ExaminationContext};
use orthoscope::signature::Catalogue;
use orthoscope::tensor::{BF16, DType, F16, F32};

/// Compares two folders without recording anything.
pub fn compare_folders(base: &Path, candidate: &Path) -> Examination {
    let catalogue = Catalogue::builtin().unwrap();
    let settings = ExaminationContext { catalogue: &catalogue, digests: false, claim: None, observer: &Unobserved };
    let (base, candidate) = (open_path(base).unwrap(), open_path(candidate).unwrap());
    examine::compare((&base, &Named::local("base")), (&candidate, &Named::local("candidate")), &settings)
}

/// Compares two models written to a folder of their own.
pub fn compare(base: &Model, candidate: &Model, dtype: &'static DType, shards: usize) -> Examination {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("base"), folder.path().join("candidate"));
    base.write(&one, &BF16, 1).unwrap();
    candidate.write(&other, dtype, shards).unwrap();
    compare_folders(&one, &other)
}

fn base() -> Model {
    TinySize::default().llama(11)
}

fn width(model: &Model) -> usize {
    model.config["hidden_size"].as_u64().unwrap() as usize
}

/// The layer in a tensor's name.
fn layer(name: &str) -> u32 {
    name.split('.').find_map(|part| part.parse().ok()).unwrap()
}

/// λ by tensor of `model`'s writers, applied along a direction per layer (or one for all).
fn ablate(model: &mut Model, form: RemovalKind, per_layer: bool, lambda: impl Fn(u32) -> f64) -> BTreeMap<String, f64> {
    let d = width(model);
    let mut truth = BTreeMap::new();
    for name in model.writers() {
        let at = layer(&name);
        let r = if per_layer { drifting(at, d) } else { direction(5, "removed", d) };
        let strength = lambda(at);
        if strength != 0.0 {
            edits::orthogonalize(model.tensors.get_mut(&name).unwrap(), &r, strength, form);
        }
        truth.insert(name, strength);
    }
    truth
}

/// A direction that turns slowly with depth, as the residual stream's do.
fn drifting(layer: u32, d: usize) -> Vec<f32> {
    let (a, b) = (direction(5, "removed", d), direction(5, "other", d));
    let angle = 0.6 * layer as f32;
    let mut r: Vec<f32> = a.iter().zip(&b).map(|(a, b)| angle.cos() * a + angle.sin() * b).collect();
    let norm = r.iter().map(|value| value * value).sum::<f32>().sqrt();
    r.iter_mut().for_each(|value| *value /= norm);
    r
}

fn assert_orthogonalized(examination: &Examination, truth: &BTreeMap<String, f64>, tolerance: f64) {
    assert_eq!(examination.verdict, Verdict::Orthogonalized, "{}", examination.because);
    let evidence = examination.orthogonalization.as_ref().unwrap();
    for (name, lambda) in truth {
        let module = if name.contains("o_proj") { "o_proj" } else { "down_proj" };
        let found = evidence
            .strength
            .iter()
            .find(|strength| strength.layer == layer(name) && strength.module == module)
            .unwrap_or_else(|| panic!("no strength for {name}"));
        assert!((found.lambda - lambda).abs() <= tolerance, "{name}: λ {lambda} came back as {}", found.lambda);
    }
}

fn has(examination: &Examination, signature: &str) -> bool {
    examination.findings.iter().any(|finding| finding.signature == signature)
}

#[test]
fn a_direction_removed_everywhere_is_found_with_its_strength() {
    let base = base();
    for lambda in [1.0, 0.5, 0.05] {
        let mut candidate = base.clone();
        let truth = ablate(&mut candidate, RemovalKind::Plain, false, |_| lambda);
        let examination = compare(&base, &candidate, &BF16, 1);
        assert_orthogonalized(&examination, &truth, 0.01);
        assert!(has(&examination, "out-rank1-global"), "{:?}", examination.findings);
        assert_eq!(examination.orthogonalization.as_ref().unwrap().scope, "global");
        assert_eq!((examination.relation, examination.rank), (Relation::LowRankEdit, Some(1)));
    }
}

#[test]
fn a_tent_over_depth_and_directions_of_their_own_come_back() {
    let base = base();
    let mut candidate = base.clone();
    let truth = ablate(&mut candidate, RemovalKind::Plain, true, |layer| [0.0, 0.4, 0.8, 0.6, 0.2][layer as usize]);
    let examination = compare(&base, &candidate, &BF16, 1);
    assert_orthogonalized(&examination, &truth, 0.02);
    assert!(has(&examination, "out-rank1-per-layer"), "{:?}", examination.findings);
    assert_eq!(examination.orthogonalization.as_ref().unwrap().layers, [1, 2, 3, 4]);
}

#[test]
fn row_normalised_edits_are_seen_in_their_own_coordinates() {
    let base = base();
    let mut candidate = base.clone();
    let truth = ablate(&mut candidate, RemovalKind::RowNormalised, false, |_| 0.7);
    let examination = compare(&base, &candidate, &BF16, 1);
    assert_orthogonalized(&examination, &truth, 0.02);
    assert_eq!(examination.orthogonalization.as_ref().unwrap().coordinates, "row-normalised");
    assert!(has(&examination, "row-scaled"), "{:?}", examination.findings);
}

#[test]
fn edits_that_bring_norms_back_are_found_and_named() {
    let base = base();
    for (form, signature) in
        [(RemovalKind::RowNormKept, "row-norm-preserving"), (RemovalKind::ColumnNormKept, "column-norm-preserving")]
    {
        let mut candidate = base.clone();
        let truth = ablate(&mut candidate, form, false, |_| 1.0);
        let examination = compare(&base, &candidate, &BF16, 1);
        assert_orthogonalized(&examination, &truth, 0.06);
        assert!(has(&examination, signature), "{signature}: {:?}", examination.findings);
    }
}

#[test]
fn reflections_and_several_directions_are_named() {
    let base = base();
    let mut reflected = base.clone();
    let truth = ablate(&mut reflected, RemovalKind::Plain, false, |_| 2.0);
    let examination = compare(&base, &reflected, &BF16, 1);
    assert_orthogonalized(&examination, &truth, 0.02);
    assert!(has(&examination, "reflection"), "{:?}", examination.findings);

    let mut two = base.clone();
    let d = width(&two);
    for name in two.writers() {
        for purpose in ["first", "second"] {
            edits::orthogonalize(
                two.tensors.get_mut(&name).unwrap(),
                &direction(6, purpose, d),
                1.0,
                RemovalKind::Plain,
            );
        }
    }
    let examination = compare(&base, &two, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Orthogonalized, "{}", examination.because);
    assert_eq!(examination.orthogonalization.as_ref().unwrap().directions, 2);
    assert!(has(&examination, "subspace"), "{:?}", examination.findings);
}

#[test]
fn readers_that_lost_a_direction_are_found() {
    let base = base();
    let mut candidate = base.clone();
    let r = direction(7, "read", width(&candidate));
    for name in candidate.linear() {
        if !name.contains("o_proj") && !name.contains("down_proj") {
            edits::orthogonalize_reader(candidate.tensors.get_mut(&name).unwrap(), &r, 1.0);
        }
    }
    let examination = compare(&base, &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Orthogonalized, "{}", examination.because);
    assert!(has(&examination, "reader-side"), "{:?}", examination.findings);
    let strengths = &examination.orthogonalization.as_ref().unwrap().strength;
    let q: Vec<f64> = strengths.iter().filter(|s| s.module == "q_proj").map(|s| s.lambda).collect();
    assert!(q.len() == 5 && q.iter().all(|lambda| (lambda - 1.0).abs() < 0.02), "{q:?}");
}

#[test]
fn an_edit_survives_training_noise_quantisation_and_casts() {
    let base = base();
    let mut edited = base.clone();
    let truth = ablate(&mut edited, RemovalKind::Plain, false, |_| 0.8);

    let mut trained = edited.clone();
    edits::fine_tune(&mut trained, 0.02, 3);
    assert_orthogonalized(&compare(&base, &trained, &BF16, 1), &truth, 0.2);

    let mut noisy = edited.clone();
    for name in noisy.linear() {
        edits::add_noise(noisy.tensors.get_mut(&name).unwrap(), 0.01, 4, &name);
    }
    assert_orthogonalized(&compare(&base, &noisy, &BF16, 1), &truth, 0.05);

    for (bits, tolerance) in [(8, 0.02), (4, 0.15)] {
        let mut quantized = edited.clone();
        for name in quantized.linear() {
            edits::quantize(quantized.tensors.get_mut(&name).unwrap(), bits);
        }
        assert_orthogonalized(&compare(&base, &quantized, &BF16, 1), &truth, tolerance);
    }
    assert_orthogonalized(&compare(&base, &edited, &F16, 3), &truth, 0.01);
}

#[test]
fn honest_derivatives_are_clear_and_related_as_they_are() {
    let base = base();
    let check = |what: &str, candidate: &Model, dtype: &'static DType, shards, relation: Relation| {
        let examination = compare(&base, candidate, dtype, shards);
        assert_eq!(examination.verdict, Verdict::Clear, "{what}: {} {:?}", examination.because, examination.findings);
        assert_eq!(examination.relation, relation, "{what}");
        assert_eq!(examination.status, Status::Complete, "{what}");
    };
    check("copy", &base, &BF16, 1, Relation::Identical);
    check("shards", &base, &BF16, 3, Relation::Repackaged);
    check("wider dtype", &base, &F32, 1, Relation::Recast);

    let every = |edit: &dyn Fn(&mut orthoscope::demo::tiny::Weight, &str)| {
        let mut candidate = base.clone();
        for name in candidate.linear() {
            edit(candidate.tensors.get_mut(&name).unwrap(), &name);
        }
        candidate
    };
    let mut tuned = base.clone();
    edits::fine_tune(&mut tuned, 0.03, 8);
    check("training", &tuned, &BF16, 1, Relation::FineTuned);
    check("LoRA", &every(&|w, name| edits::add_low_rank(w, 8, 0.05, 1, name)), &BF16, 1, Relation::LowRankEdit);
    check("8 bits", &every(&|w, _| edits::quantize(w, 8)), &BF16, 1, Relation::Quantized);
    check("4 bits", &every(&|w, _| edits::quantize(w, 4)), &BF16, 1, Relation::Quantized);
    check("pruning", &every(&|w, _| edits::prune(w, 0.2)), &BF16, 1, Relation::Edited);
    check("weight decay", &every(&|w, _| edits::rescale(w, 0.98)), &BF16, 1, Relation::Edited);
}

#[test]
fn rank_one_look_alikes_are_not_removals() {
    let base = base();
    let d = width(&base);
    let mut lora = base.clone();
    for name in lora.writers() {
        edits::add_low_rank(lora.tensors.get_mut(&name).unwrap(), 1, 0.1, 2, &name);
    }
    let examination = compare(&base, &lora, &BF16, 1);
    assert!(examination.verdict != Verdict::Orthogonalized, "{}", examination.because);
    assert_eq!((examination.relation, examination.rank), (Relation::LowRankEdit, Some(1)));

    // The same left direction in every writer, arbitrary right ones: a vector steered in.
    let mut shared = base.clone();
    let left = direction(9, "shared", d);
    for name in shared.writers() {
        let weight = shared.tensors.get_mut(&name).unwrap();
        let columns = weight.shape[1];
        let right = direction(9, &name, columns);
        let size = weight.values.iter().map(|value| value * value).sum::<f32>().sqrt() * 0.1;
        for (row, left) in weight.values.chunks_exact_mut(columns).zip(&left) {
            row.iter_mut().zip(&right).for_each(|(value, right)| *value += size * left * right);
        }
    }
    let examination = compare(&base, &shared, &BF16, 1);
    assert!(examination.verdict != Verdict::Orthogonalized, "{}", examination.because);

    // A singular component of each matrix's own dropped: a projection along W's own vector.
    let mut dropped = base.clone();
    for name in dropped.writers() {
        edits::drop_top_component(dropped.tensors.get_mut(&name).unwrap());
    }
    let examination = compare(&base, &dropped, &BF16, 1);
    assert!(examination.verdict != Verdict::Orthogonalized, "{} {:?}", examination.because, examination.findings);
    assert_eq!(examination.relation, Relation::Edited);

    // One residual channel zeroed in every writer: pruning, though its algebra is a removal.
    let mut zeroed = base.clone();
    for name in zeroed.writers() {
        let weight = zeroed.tensors.get_mut(&name).unwrap();
        let columns = weight.shape[1];
        weight.values[3 * columns..4 * columns].fill(0.0);
    }
    let examination = compare(&base, &zeroed, &BF16, 1);
    assert!(examination.verdict != Verdict::Orthogonalized, "{}", examination.because);
}

#[test]
fn a_direction_added_is_not_called_a_removal() {
    let base = base();
    let mut candidate = base.clone();
    ablate(&mut candidate, RemovalKind::Plain, false, |_| -0.8);
    let examination = compare(&base, &candidate, &BF16, 1);
    assert!(has(&examination, "direction-amplified"), "{:?}", examination.findings);
    assert!(examination.verdict != Verdict::Orthogonalized, "{}", examination.because);
    let strengths = &examination.orthogonalization.as_ref().unwrap().strength;
    assert!(strengths.iter().all(|strength| (strength.lambda + 0.8).abs() < 0.02), "{strengths:?}");
}

#[test]
fn one_layer_alone_is_suspect_and_no_more() {
    let base = base();
    let mut candidate = base.clone();
    ablate(&mut candidate, RemovalKind::Plain, false, |layer| if layer == 2 { 1.0 } else { 0.0 });
    let examination = compare(&base, &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Suspect, "{} {:?}", examination.because, examination.findings);
}

#[test]
fn another_model_of_the_same_shape_is_no_kin() {
    let examination = compare(&base(), &TinySize::default().llama(12), &BF16, 1);
    assert_eq!((examination.relation, examination.verdict), (Relation::Unrelated, Verdict::Inconclusive));
    assert!(examination.findings.is_empty());
}

#[test]
fn gpt2_layout_is_read_with_the_residual_stream_on_the_columns() {
    // A Conv1D stores (in, out): the table, not the shape, says which side is removed. Square on purpose.
    let folder = tempfile::tempdir().unwrap();
    let size = TinySize { width: 64, inner: 64, heads: 4, layers: 4, vocabulary: 96 };
    let llama = size.llama(21);
    let transposed = |weight: &orthoscope::demo::tiny::Weight| {
        let (rows, columns) = (weight.shape[0], weight.shape[1]);
        let values = (0..rows * columns).map(|i| weight.values[(i % rows) * columns + i / rows]).collect();
        orthoscope::demo::tiny::Weight { shape: vec![columns, rows], values }
    };
    let as_gpt2 = |model: &Model| {
        let mut gpt2 = Model {
            tensors: BTreeMap::new(),
            config: serde_json::json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 96}),
        };
        for at in 0..4 {
            let mut put = |name: &str, from: &str| {
                let weight = &model.tensors[&format!("model.layers.{at}.{from}.weight")];
                gpt2.tensors.insert(format!("transformer.h.{at}.{name}.weight"), transposed(weight));
            };
            put("attn.c_proj", "self_attn.o_proj");
            put("mlp.c_proj", "mlp.down_proj");
            put("mlp.c_fc", "mlp.up_proj");
        }
        gpt2.tensors.insert("transformer.wte.weight".to_owned(), model.tensors["model.embed_tokens.weight"].clone());
        gpt2
    };
    let mut edited = llama.clone();
    let truth = ablate(&mut edited, RemovalKind::Plain, false, |_| 0.9);
    as_gpt2(&llama).write(&folder.path().join("base"), &BF16, 1).unwrap();
    as_gpt2(&edited).write(&folder.path().join("candidate"), &BF16, 1).unwrap();
    let examination = compare_folders(&folder.path().join("base"), &folder.path().join("candidate"));
    assert_orthogonalized(&examination, &truth, 0.01);
}
