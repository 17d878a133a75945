//! Kinship by weights: strangers are strangers, whatever they share, and derivatives find their base without a claim.

use std::path::Path;
use std::time::Instant;

use orthoscope::checkpoint::folder::open_path;
use orthoscope::demo::standin::Standin;
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::gguf::{self, Quantization};
use orthoscope::demo::tiny::{Model, TinySize};
use orthoscope::examine::identify::{ClaimStanding, KinRanking, rank};
use orthoscope::index::Index;
use orthoscope::index::fingerprints::{EnrolledAs, EnrolledFingerprint};
use orthoscope::kinship::{self, Fingerprint, Likeness, PreparedFingerprint};
use orthoscope::tensor::DType;
use serde_json::Value;

use crate::program::program;
use crate::support::{TINY, ablated, bytes, low_rank, open_settings, quantized, repository, tuned};

const SIZE: TinySize = TinySize { width: 64, layers: 6, inner: 160, heads: 4, vocabulary: 96 };

fn taken(path: &Path) -> Fingerprint {
    kinship::fingerprint(&open_path(path).unwrap()).unwrap().fingerprint
}

/// The fingerprint of a model as one file of that dtype.
fn stored(model: &Model, dtype: &str) -> Fingerprint {
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path(), DType::named(dtype).unwrap(), 1).unwrap();
    taken(folder.path())
}

fn alike(one: &Fingerprint, other: &Fingerprint) -> Option<Likeness> {
    kinship::likeness(&PreparedFingerprint::of(one), &PreparedFingerprint::of(other))
}

/// A model with these blocks of another, in that order.
fn blocks(base: &Model, order: &[usize]) -> Model {
    let mut model = base.clone();
    model.tensors.retain(|name, _| !name.starts_with("model.layers."));
    for (at, from) in order.iter().enumerate() {
        let prefix = format!("model.layers.{from}.");
        for (name, weight) in base.tensors.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            model.tensors.insert(format!("model.layers.{at}.{}", &name[prefix.len()..]), weight.clone());
        }
    }
    model.config["num_hidden_layers"] = order.len().into();
    model
}

/// A vocabulary with so many rows.
fn resized(base: &Model, rows: usize) -> Model {
    let mut model = base.clone();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let weight = model.tensors.get_mut(name).unwrap();
        let width = weight.shape[1];
        weight.shape[0] = rows;
        weight.values.resize(rows * width, 0.01);
    }
    model.config["vocab_size"] = rows.into();
    model
}

/// All gains one, as at the start of training.
fn with_equal_gains(mut model: Model) -> Model {
    let norms = model.tensors.iter_mut().filter(|(name, _)| name.contains("norm"));
    norms.for_each(|(_, weight)| weight.values.fill(1.0));
    model
}

fn index_of(known: &[(&str, &Fingerprint)]) -> Index {
    let mut index = Index::in_memory().unwrap();
    for (source, fingerprint) in known {
        let (source, fingerprint) = ((*source).to_owned(), (*fingerprint).clone());
        let one = EnrolledFingerprint { source, revision: None, fingerprint };
        index.enroll(&one, EnrolledAs::Base, jiff::Timestamp::UNIX_EPOCH).unwrap();
    }
    index
}

fn ranked(index: &Index, fingerprint: &Fingerprint, claims: &[&str]) -> KinRanking {
    let claims: Vec<String> = claims.iter().map(|claim| (*claim).to_owned()).collect();
    rank(index, "hf:me/candidate", fingerprint, &claims, 5).unwrap()
}

#[test]
fn strangers_of_one_configuration_are_no_kin_and_their_p_values_are_uniform() {
    let all: Vec<Fingerprint> = (0..25)
        .map(|seed| {
            let model = SIZE.llama(700 + seed);
            // Some trained, some as they were made, all of one configuration.
            let model = if seed % 3 == 0 { tuned(&model, seed) } else { model };
            stored(&if seed % 2 == 0 { with_equal_gains(model) } else { model }, "BF16")
        })
        .collect();
    let mut p = Vec::new();
    for (at, one) in all.iter().enumerate() {
        for other in &all[at + 1..] {
            let likeness = alike(one, other).unwrap();
            assert!(!likeness.is_kin(1), "{likeness:?}");
            p.push(likeness.p_value);
        }
    }
    p.sort_by(f64::total_cmp);
    let count = p.len() as f64;
    let apart = p.iter().enumerate().map(|(at, p)| (p - at as f64 / count).abs().max((at as f64 + 1.0) / count - p));
    let apart = apart.fold(0.0, f64::max) * count.sqrt();
    println!("{} pairs of strangers: least p {:.1e}, Kolmogorov's distance times root n {apart:.2}", p.len(), p[0]);
    assert!(p[0] > 1e-5, "{:e}", p[0]);
    // Kolmogorov's limit at one in a thousand; the 300 pairs are of 25 models, so somewhat less than independent.
    assert!(apart < 1.95, "{apart}");
}

#[test]
fn derivatives_find_their_base_among_its_siblings() {
    let base = SIZE.llama(1);
    let known: Vec<(String, Fingerprint)> =
        (0..8).map(|seed| (format!("hf:org/base-{seed}"), stored(&SIZE.llama(1 + seed), "BF16"))).collect();
    let known: Vec<(&str, &Fingerprint)> = known.iter().map(|(name, one)| (name.as_str(), one)).collect();
    let index = index_of(&known);
    let mut pruned = base.clone();
    pruned.linear().iter().for_each(|name| edits::prune(pruned.tensors.get_mut(name).unwrap(), 0.5));
    let mut coarse = base.clone();
    coarse.linear().iter().for_each(|name| edits::quantize(coarse.tensors.get_mut(name).unwrap(), 4));
    let mut much = base.clone();
    edits::fine_tune(&mut much, 0.3, 9);
    let made = [
        ("the same", base.clone()),
        ("removed", ablated(&base, 3, 1.0, RemovalKind::Plain)),
        ("removed, row-normalised", ablated(&base, 4, 1.0, RemovalKind::RowNormalised)),
        ("tuned", tuned(&base, 5)),
        ("tuned much", much),
        ("low rank", low_rank(&base, 6, 8)),
        ("8 bits", quantized(&base)),
        ("4 bits", coarse),
        ("pruned by half", pruned),
        ("more tokens", resized(&base, 120)),
        ("two blocks left out", blocks(&base, &[0, 1, 3, 5])),
        ("two blocks repeated", blocks(&base, &[0, 1, 2, 1, 2, 3, 4, 5])),
        ("blocks turned round", blocks(&base, &[5, 4, 3, 2, 1, 0])),
    ];
    for (kind, model) in &made {
        for dtype in ["BF16", "F16", "F32"] {
            let found = ranked(&index, &stored(model, dtype), &[]);
            let first = found.nearest.first().unwrap_or_else(|| panic!("{kind}: no kin"));
            println!("{kind} in {dtype}: similarity {:.4}, p {:.0e}", first.similarity, first.p_value);
            assert_eq!((first.source.as_str(), found.nearest.len()), ("hf:org/base-0", 1), "{kind}");
            assert_eq!((found.standing, found.enrolled, found.comparable), (ClaimStanding::None, 8, 8));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for quantization in [Quantization::Q8_0, Quantization::Q4_0] {
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, gguf::bytes(&base, "tiny", quantization)).unwrap();
        let found = ranked(&index, &taken(&path), &[]);
        assert_eq!(found.nearest.first().map(|one| one.source.as_str()), Some("hf:org/base-0"));
    }
}

#[test]
fn a_claim_stands_or_falls_by_the_weights() {
    let (base, other) = (SIZE.llama(1), SIZE.llama(2));
    let child = tuned(&base, 5);
    let grandchild = ablated(&child, 3, 1.0, RemovalKind::Plain);
    let [base, other, child, grandchild] = [&base, &other, &child, &grandchild].map(|model| stored(model, "BF16"));
    let index = index_of(&[("hf:org/base", &base), ("/models/org/other", &other), ("hf:org/child", &child)]);
    let of = |claims: &[&str]| {
        let found = ranked(&index, &grandchild, claims);
        assert_eq!(found.nearest.first().unwrap().source, "hf:org/child");
        assert_eq!(found.nearest.len(), 2);
        found.standing
    };
    assert_eq!(of(&["hf:org/child"]), ClaimStanding::Holds);
    assert_eq!(of(&["hf:Org/Base"]), ClaimStanding::HoldsNearerKnown);
    assert_eq!(of(&["hf:org/other"]), ClaimStanding::False);
    assert_eq!(of(&["hf:org/unheard-of"]), ClaimStanding::NotEnrolled);
    assert_eq!(of(&[]), ClaimStanding::None);
    // The gains of another model alone make no kin.
    let mut borrowed = SIZE.llama(78);
    let gains = SIZE.llama(1).tensors.into_iter().filter(|(name, _)| name.contains("norm"));
    borrowed.tensors.extend(gains);
    assert_eq!(ranked(&index, &stored(&borrowed, "BF16"), &[]).nearest.len(), 0);
    // A stranger of the same configuration is unrelated to all; of another shape nothing is known.
    let stranger = ranked(&index, &stored(&SIZE.llama(77), "BF16"), &["hf:org/base"]);
    assert_eq!((stranger.nearest.len(), stranger.standing, stranger.comparable), (0, ClaimStanding::False, 3));
    let stranger = ranked(&index, &stored(&SIZE.llama(77), "BF16"), &[]);
    assert_eq!((stranger.nearest.len(), stranger.standing), (0, ClaimStanding::None));
    let wider = TinySize { width: 96, inner: 224, heads: 6, ..SIZE };
    let wider = ranked(&index, &stored(&wider.llama(1), "BF16"), &[]);
    assert_eq!((wider.nearest.len(), wider.standing, wider.comparable), (0, ClaimStanding::NotEnrolled, 0));
    // What is known under the candidate's own name comes last.
    let own = rank(&index, "hf:org/child@main", &child, &[], 5).unwrap();
    assert_eq!(own.nearest.iter().map(|one| one.source.as_str()).collect::<Vec<_>>(), ["hf:org/base", "hf:org/child"]);
}

#[test]
fn threads_and_shards_change_no_bit_of_a_fingerprint() {
    let model = SIZE.llama(3);
    let folder = tempfile::tempdir().unwrap();
    let expected = stored(&model, "BF16").to_bytes();
    for (threads, shards) in [(1, 1), (2, 3), (5, 5)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let path = folder.path().join(format!("{threads}"));
        model.write(&path, DType::named("BF16").unwrap(), shards).unwrap();
        assert_eq!(pool.install(|| taken(&path).to_bytes()), expected, "{threads} threads");
    }
}

/// A thousand blocks, and a hundred with another name in each of them.
#[test]
fn what_is_deep_and_odd_keeps_within_its_bounds() {
    let tiny = TinySize { width: 32, layers: 1, inner: 48, heads: 2, vocabulary: 32 }.llama(1);
    let deep = blocks(&tiny, &[0; 1000]);
    let mut odd = tiny.clone();
    odd.tensors.retain(|name, _| !name.starts_with("model.layers."));
    for layer in 0..100 {
        let weight = tiny.tensors["model.layers.0.mlp.up_proj.weight"].clone();
        odd.tensors.insert(format!("model.layers.{layer}.odd_{layer}.weight"), weight);
    }
    for (model, layers, slots) in [(deep, 1000, 1 + 4 + 1), (odd, 100, 64)] {
        let fingerprint = stored(&model, "BF16");
        assert_eq!((fingerprint.layers, fingerprint.slots.len()), (layers, slots));
        assert!(fingerprint.to_bytes().len() <= 64 << 10, "{}", fingerprint.to_bytes().len());
        assert_eq!(Fingerprint::from_bytes(&fingerprint.to_bytes()).unwrap(), fingerprint);
    }
}

#[test]
fn a_thousand_fingerprints_are_searched() {
    let known: Vec<Fingerprint> = (0..10).map(|seed| stored(&SIZE.llama(seed), "BF16")).collect();
    let mut index = Index::in_memory().unwrap();
    for number in 0..1000usize {
        let mut fingerprint = known[number % 10].clone();
        // The others are moved about in their places: strangers of the same shape.
        if number >= 10 {
            for sketch in &mut fingerprint.sketches {
                sketch.codes.rotate_left(1 + number / 20);
            }
        }
        let one = EnrolledFingerprint { source: format!("hf:org/{number}"), revision: None, fingerprint };
        index.enroll(&one, EnrolledAs::Base, jiff::Timestamp::UNIX_EPOCH).unwrap();
    }
    let candidate = stored(&tuned(&SIZE.llama(7), 1), "BF16");
    let start = Instant::now();
    let found = ranked(&index, &candidate, &[]);
    println!("1,000 fingerprints of {} bytes: {:?}", candidate.to_bytes().len(), start.elapsed());
    assert_eq!((found.enrolled, found.nearest[0].source.as_str()), (1000, "hf:org/7"));
}

fn json(folder: &Path, hub: &str, arguments: &[&str], status: i32) -> Value {
    let output = program(folder, hub).args(arguments).args(["--format", "json"]).assert().code(status);
    serde_json::from_slice(&output.get_output().stdout).unwrap_or(Value::Null)
}

#[test]
fn folders_and_repositories_are_enrolled_and_identified() {
    let base = TINY.llama(1);
    let removed = ablated(&base, 3, 1.0, RemovalKind::Plain);
    let standin = Standin::start(
        vec![
            repository("org/base", &base, bytes(&base, "BF16")).with("README.md", "# Base\n"),
            repository("someone/edited", &removed, bytes(&removed, "BF16")),
            repository("someone/liar", &TINY.llama(9), bytes(&TINY.llama(9), "BF16")),
        ],
        open_settings(),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], status| json(folder.path(), standin.hub(), arguments, status);
    base.write(&folder.path().join("base"), DType::named("BF16").unwrap(), 1).unwrap();
    removed.write(&folder.path().join("edited"), DType::named("F16").unwrap(), 1).unwrap();

    let enrolled = run(&["enroll", "base"], 0);
    assert_eq!(
        (&enrolled["schema"], &enrolled["enrolled"][0]["source"]),
        (&"orthoscope/enrollment/1".into(), &"base".into())
    );
    let found = run(&["identify", "edited"], 0);
    assert_eq!(found["schema"], "orthoscope/identification/1");
    assert_eq!((&found["standing"], &found["enrolled"]), (&"none".into(), &1.into()));
    let nearest = &found["nearest"][0];
    assert_eq!((&nearest["source"], &nearest["kin"]), (&"base".into(), &true.into()));
    assert_eq!(nearest["verdict"], "orthogonalized", "{found:#}");
    assert!(nearest["p_value"].as_f64().unwrap() < 1e-20 && nearest["relation"].is_string());
    // A repository against the same, and the base by its name on the hub: read by ranges, and not examined.
    let found = run(&["identify", "hf:someone/edited"], 0);
    assert_eq!(
        (&found["standing"], &found["nearest"][0]["verdict"]),
        (&"not-enrolled".into(), &"orthogonalized".into())
    );
    let enrolled = run(&["enroll", "hf:org/base", "hf:org/gone"], 2);
    assert_eq!(enrolled["enrolled"][0]["source"], "hf:org/base");
    assert!(enrolled["failed"][0]["reason"].as_str().unwrap().contains("org/gone"));
    let found = run(&["identify", "hf:someone/edited"], 0);
    assert_eq!((&found["standing"], &found["enrolled"]), (&"holds".into(), &2.into()), "{found:#}");
    let liar = run(&["identify", "hf:someone/liar"], 0);
    assert_eq!((&liar["standing"], liar["nearest"].as_array().unwrap().len()), (&"false".into(), 0));

    // Whatever is examined against is known from then on.
    run(&["compare", "base", "edited", "--index", "compared.db"], 1);
    run(&["scan", "hf:someone/edited", "--index", "scanned.db"], 1);
    let sweep = ["sweep", "--base", "hf:org/base", "--index", "swept.db"];
    program(folder.path(), standin.hub()).args(sweep).assert().code(1);
    for (index, source) in [("compared.db", "base"), ("scanned.db", "hf:org/base"), ("swept.db", "hf:org/base")] {
        let found = run(&["identify", "edited", "--index", index], 0);
        assert_eq!((&found["enrolled"], &found["nearest"][0]["source"]), (&1.into(), &source.into()), "{found:#}");
    }

    let text = |what: &str, status| {
        let output = program(folder.path(), standin.hub()).args(["identify", what]).assert().code(status);
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    assert!(text("hf:someone/liar", 0).contains("unrelated to all that is known"));
    assert!(text("edited", 0).contains("similarity"));
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(text("empty", 2).is_empty());
}
