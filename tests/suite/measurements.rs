//! Every measurement that is declared is made of some tiny model: a signature over one that nobody makes could never hold.

use std::collections::BTreeSet;
use std::path::Path;

use orthoscope::checkpoint::folder::open_path;
use orthoscope::demo::standin::Standin;
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::quantized as stored;
use orthoscope::demo::tiny::{Model, Weight, direction};
use orthoscope::diff::{self, Unobserved};
use orthoscope::examination::Depth;
use orthoscope::examine::settings::{Escalate, ExamineSettings};
use orthoscope::pair;
use orthoscope::profile::names::MEASUREMENTS;
use orthoscope::profile::{Numbers, Profile};
use orthoscope::tensor::DType;

use crate::support::{TINY, ablated, bench, bytes, catalogue, open_settings, repository, tuned, with_draft};

fn profile(base: &Model, candidate: &Model) -> Profile {
    let folder = tempfile::tempdir().unwrap();
    let written = |model: &Model, name: &str| {
        model.write(&folder.path().join(name), DType::named("F32").unwrap(), 1).unwrap();
        open_path(&folder.path().join(name)).unwrap()
    };
    let (base, candidate) = (written(base, "base"), written(candidate, "candidate"));
    let pairing = pair::pair(&base, &candidate);
    let measured = diff::measure(&base, &candidate, &pairing, &Unobserved).unwrap();
    diff::summary::summarize(&pairing, &measured).profile
}

/// A model in MLX's codes against a base in the same.
fn quantized(base: &Model, candidate: &Model) -> Profile {
    let folder = tempfile::tempdir().unwrap();
    let written = |model: &Model, name: &str| {
        let path = folder.path().join(name);
        let mut config = model.config.clone();
        config["quantization"] = serde_json::json!({ "group_size": 32, "bits": 4 });
        let stored = stored::stored(model, |name, weight| Some(stored::mlx(name, weight, 4, 32)));
        stored::write(&path, "model.safetensors", &stored, &config).unwrap();
        open_path(&path).unwrap()
    };
    let (base, candidate) = (written(base, "base"), written(candidate, "candidate"));
    let pairing = pair::pair(&base, &candidate);
    let measured = diff::measure(&base, &candidate, &pairing, &Unobserved).unwrap();
    diff::summary::summarize(&pairing, &measured).profile
}

/// The model with every tensor changed that the choice is for.
fn changed(base: &Model, chosen: &[String], mut change: impl FnMut(&str, &mut Weight)) -> Model {
    let mut model = base.clone();
    for name in chosen {
        change(name, model.tensors.get_mut(name).unwrap());
    }
    model
}

/// A bias of o_proj in each layer, some way along a direction of its own and some along a shared one.
fn with_biases(base: &Model, shared: f32) -> Model {
    let mut model = base.clone();
    let r = direction(5, "bias", TINY.width);
    for layer in 0..TINY.layers {
        let own = direction(5, &format!("bias {layer}"), TINY.width);
        let values = r.iter().zip(&own).map(|(r, own)| 0.1 * (shared * r + (1.0 - shared) * own)).collect();
        let name = format!("model.layers.{layer}.self_attn.o_proj.bias");
        model.tensors.insert(name, Weight { shape: vec![TINY.width], values });
    }
    model
}

/// With a router in each layer, and biases on its queries.
fn with_router(base: &Model) -> Model {
    let mut model = base.clone();
    model.config["model_type"] = "qwen2_moe".into();
    for layer in 0..TINY.layers {
        let values = direction(6, &format!("router {layer}"), 8 * TINY.width);
        let name = format!("model.layers.{layer}.mlp.gate.weight");
        model.tensors.insert(name, Weight { shape: vec![8, TINY.width], values });
        let values = direction(6, &format!("queries {layer}"), 64);
        let name = format!("model.layers.{layer}.self_attn.q_proj.bias");
        model.tensors.insert(name, Weight { shape: vec![64], values });
    }
    model
}

/// What a screen of the candidate measures, on a hub.
fn screened(base: &Model, candidate: &Model) -> Numbers {
    let repositories = vec![
        repository("org/base", base, bytes(base, "BF16")).with("README.md", "# Base\n"),
        repository("someone/model", candidate, bytes(candidate, "BF16")),
    ];
    let standin = Standin::start(repositories, open_settings()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = ExamineSettings { escalate: Escalate::Never, screen_share: 1.0, ..ExamineSettings::default() };
    let bench = bench(standin.hub(), folder.path(), settings);
    let id = orthoscope::ids::RepoId { hub: "hf".into(), name: "someone/model".into() };
    let hub = orthoscope::hub::of(&id, &bench.environment).unwrap();
    let info = orthoscope::hub::fetch::info(&bench.client, hub.as_ref(), &id.name, None, &bench.night).unwrap();
    let found = bench.examine(&id, &info, Some("hf:org/base")).unwrap().examination;
    assert_eq!(found.depth, Depth::Screen, "{}", found.because);
    found.profile.unwrap().model
}

#[test]
fn every_measurement_is_made_of_some_tiny_model_and_no_other_is() {
    let base = TINY.llama(1);
    let r = direction(2, "removed", TINY.width);
    let (writers, down) = (base.writers(), base.named("mlp.down_proj"));
    let readers = [base.named("self_attn.q_proj"), base.named("mlp.up_proj")].concat();
    let ends = ["model.embed_tokens.weight".to_owned(), "lm_head.weight".to_owned()];
    let inside = direction(3, "inside", TINY.inner);
    let read = direction(3, "read", TINY.width);
    let drop = |_: &str, weight: &mut Weight| {
        let kept = weight.values.clone();
        edits::add_noise(weight, 0.05, 4, "drop");
        weight.values.iter_mut().zip(kept).skip(1).step_by(2).for_each(|(value, kept)| *value = kept);
    };
    let some_rows = |name: &str, weight: &mut Weight| {
        let kept = weight.values.clone();
        edits::add_noise(weight, 0.1, 4, name);
        let width = weight.shape[1];
        let rows = weight.values.chunks_exact_mut(width).zip(kept.chunks_exact(width));
        rows.skip(6).for_each(|(row, kept)| row.copy_from_slice(kept));
    };
    let routed = with_router(&base);
    let drafting = with_draft(&base, TINY.layers);
    let made = [
        profile(&base, &tuned(&base, 3)),
        profile(&base, &ablated(&base, 3, 0.7, RemovalKind::Plain)),
        profile(&base, &ablated(&base, 3, -0.5, RemovalKind::Plain)),
        profile(&base, &changed(&base, &readers, |_, weight| edits::orthogonalize_reader(weight, &r, 0.9))),
        profile(&base, &changed(&base, &down, |_, weight| edits::orthogonalize_reader(weight, &inside, 0.9))),
        profile(&base, &changed(&base, &ends, |_, weight| edits::orthogonalize_reader(weight, &r, 0.9))),
        profile(&base, &with_biases(&base, 1.0)),
        profile(&base, &changed(&base, &writers, |_, weight| edits::orthogonalize_obliquely(weight, &r, &read, 0.9))),
        profile(&base, &changed(&base, &base.linear(), drop)),
        profile(&base, &changed(&base, &writers, some_rows)),
        profile(&routed, &with_router(&tuned(&base, 3))),
        profile(&drafting, &with_draft(&tuned(&base, 3), TINY.layers)),
        quantized(&base, &tuned(&base, 3)),
    ];
    let screens = [
        screened(&base, &ablated(&base, 3, 0.7, RemovalKind::Plain)),
        screened(&routed, &with_router(&tuned(&base, 3))),
    ];
    let found: BTreeSet<&str> = (made.iter().map(|profile| &profile.model).chain(&screens))
        .flat_map(|model| model.keys().map(String::as_str))
        .collect();
    // What is odd about files is counted where whole folders are compared.
    let of_files = ["layout.identical_files", "layout.metadata_dropped", "code.on_load"];
    let declared: BTreeSet<&str> =
        MEASUREMENTS.iter().map(|one| one.name).filter(|name| !of_files.contains(name)).collect();
    let (missing, foreign): (Vec<_>, Vec<_>) =
        (declared.difference(&found).collect(), found.difference(&declared).collect());
    assert!(missing.is_empty() && foreign.is_empty(), "made of no model: {missing:?}; not declared: {foreign:?}");
}

#[test]
fn biases_that_steer_are_found_and_those_of_training_are_not() {
    let base = TINY.llama(1);
    let signatures = |candidate: &Model| -> Vec<String> {
        let found = compared(&base, candidate);
        found.into_iter().map(|finding| finding.signature).collect()
    };
    assert!(signatures(&with_biases(&base, 1.0)).contains(&"bias-steering".to_owned()));
    assert!(!signatures(&with_biases(&base, 0.1)).contains(&"bias-steering".to_owned()));
    let unused = with_biases(&base, 0.0);
    let zeros: Vec<String> = unused.tensors.keys().filter(|name| name.ends_with(".bias")).cloned().collect();
    let unused = changed(&unused, &zeros, |_, weight| weight.values.fill(0.0));
    assert_eq!(profile(&base, &unused).model["bias.added"], 0.0);
}

fn compared(base: &Model, candidate: &Model) -> Vec<orthoscope::examination::Finding> {
    let folder = tempfile::tempdir().unwrap();
    let written = |model: &Model, name: &str| {
        let path: &Path = &folder.path().join(name);
        model.write(path, DType::named("F32").unwrap(), 1).unwrap();
        open_path(path).unwrap()
    };
    let (base, candidate) = (written(base, "base"), written(candidate, "candidate"));
    let catalogue = catalogue();
    let settings = orthoscope::examine::ExaminationContext {
        catalogue: &catalogue,
        digests: false,
        claim: None,
        observer: &Unobserved,
    };
    let named = orthoscope::examine::sides::Named::local;
    orthoscope::examine::compare((&base, &named("base")), (&candidate, &named("candidate")), &settings).findings
}
