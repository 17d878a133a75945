//! What hides a removal and what only looks like one: changes louder than the edit, columns that moved, loud channels, swapped sides,
//! and that no removal above the printed limit ends as clear.

use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::{Model, TinySize, direction};
use orthoscope::examination::{Examination, Relation, Verdict};
use orthoscope::tensor::{BF16, F32};
use proptest::prelude::*;

use crate::compare::compare;

const WIDTH: usize = 96;

fn base() -> Model {
    TinySize { width: WIDTH, layers: 4, inner: 224, heads: 4, vocabulary: 64 }.llama(31)
}

fn removed() -> Vec<f32> {
    direction(31, "removed", WIDTH)
}

fn edit(model: &mut Model, r: &[f32], lambda: f64, form: RemovalKind, is_meant: impl Fn(&str) -> bool) {
    for name in model.writers().into_iter().filter(|name| is_meant(name)) {
        edits::orthogonalize(model.tensors.get_mut(&name).unwrap(), r, lambda, form);
    }
}

fn edited(lambda: f64) -> Model {
    let mut model = base();
    edit(&mut model, &removed(), lambda, RemovalKind::Plain, |_| true);
    model
}

fn has(examination: &Examination, signature: &str) -> bool {
    examination.findings.iter().any(|finding| finding.signature == signature)
}

fn strengths(examination: &Examination) -> Vec<f64> {
    examination.orthogonalization.as_ref().unwrap().strength.iter().map(|one| one.lambda).collect()
}

/// What each writer measured as, for messages.
fn fits(examination: &Examination) -> String {
    let tensors = examination.profile.iter().flat_map(|profile| &profile.tensors);
    tensors
        .filter_map(|tensor| {
            let p = tensor.projection.as_ref()?;
            let (c, agreement, own) = (p.consistency, p.agreement, p.own_component);
            Some(format!(
                "\n{} c {c:.3} λ {:.3} ± {:.3} agreement {agreement:.3} own {own:.4}",
                tensor.name, p.strength, p.stderr
            ))
        })
        .collect()
}

fn swap_rows(weight: &mut orthoscope::demo::tiny::Weight, a: usize, b: usize) {
    let columns = weight.shape[1];
    for at in 0..columns {
        weight.values.swap(a * columns + at, b * columns + at);
    }
}

fn swap_columns(weight: &mut orthoscope::demo::tiny::Weight, a: usize, b: usize) {
    for row in weight.values.chunks_exact_mut(weight.shape[1]) {
        row.swap(a, b);
    }
}

/// Neurons 3i and 3i + 1 of every layer change places, and neuron 100 turns its sign: the outputs stay.
fn shuffle(model: &mut Model, pairs: usize) {
    for layer in 0..4 {
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}.weight");
        for pair in 0..pairs {
            let (a, b) = (3 * pair, 3 * pair + 1);
            swap_rows(model.tensors.get_mut(&name("gate_proj")).unwrap(), a, b);
            swap_rows(model.tensors.get_mut(&name("up_proj")).unwrap(), a, b);
            swap_columns(model.tensors.get_mut(&name("down_proj")).unwrap(), a, b);
        }
        let up = model.tensors.get_mut(&name("up_proj")).unwrap();
        let columns = up.shape[1];
        up.values[100 * columns..101 * columns].iter_mut().for_each(|value| *value = -*value);
        let down = model.tensors.get_mut(&name("down_proj")).unwrap();
        down.values.chunks_exact_mut(down.shape[1]).for_each(|row| row[100] = -row[100]);
    }
}

#[test]
fn neurons_that_changed_places_hide_nothing() {
    for pairs in [1, 8, 30] {
        for lambda in [0.3, 1.0] {
            let mut candidate = edited(lambda);
            shuffle(&mut candidate, pairs);
            let examination = compare(&base(), &candidate, &BF16, 1);
            assert_eq!(examination.verdict, Verdict::Orthogonalized, "{}", examination.because);
            assert!(has(&examination, "moved-columns"), "{:?}", examination.findings);
            assert!(
                strengths(&examination).iter().all(|found| (found - lambda).abs() < 0.02),
                "{:?}",
                strengths(&examination)
            );
        }
        let mut honest = base();
        shuffle(&mut honest, pairs);
        let examination = compare(&base(), &honest, &BF16, 1);
        assert_eq!(examination.verdict, Verdict::Clear, "{} {:?}", examination.because, examination.findings);
        assert!(has(&examination, "moved-columns"), "{:?}", examination.findings);
    }
}

#[test]
fn louder_changes_hide_nothing() {
    // A whole removal is 1/√d of a writer's norm; these are 3 and 15 times as loud.
    for rank in [1, 4] {
        for size in [0.3, 1.5] {
            let mut candidate = edited(0.5);
            let mut honest = base();
            for model in [&mut candidate, &mut honest] {
                for name in model.writers() {
                    edits::add_low_rank(model.tensors.get_mut(&name).unwrap(), rank, size, 7, &name);
                }
            }
            let examination = compare(&base(), &candidate, &BF16, 1);
            assert_eq!(
                examination.verdict,
                Verdict::Orthogonalized,
                "rank {rank}, {size}: {} {}",
                examination.because,
                fits(&examination)
            );
            let examination = compare(&base(), &honest, &BF16, 1);
            assert!(examination.verdict != Verdict::Orthogonalized, "rank {rank}, {size}: {}", examination.because);
        }
    }
}

#[test]
fn noise_in_a_few_columns_and_single_outliers_hide_nothing() {
    let mut candidate = edited(0.5);
    for name in candidate.writers() {
        let weight = candidate.tensors.get_mut(&name).unwrap();
        let columns = weight.shape[1];
        for (at, row) in weight.values.chunks_exact_mut(columns).enumerate() {
            row[2] += (at as f32).sin();
            row[5] -= (2.0 * at as f32).cos();
        }
        weight.values[7 * columns + 11] += 4.0;
    }
    let examination = compare(&base(), &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Orthogonalized, "{}", examination.because);
}

/// The removed direction with this share (squared) on channel 17.
fn leaning(share: f32) -> Vec<f32> {
    let mut r = removed();
    r[17] = 0.0;
    let rest = r.iter().map(|value| value * value).sum::<f32>().sqrt();
    r.iter_mut().for_each(|value| *value *= (1.0 - share).sqrt() / rest);
    r[17] = share.sqrt();
    r
}

#[test]
fn a_direction_that_leans_on_one_channel_is_removed_like_any_other() {
    for share in [0.5, 0.7, 0.9, 0.99] {
        for form in [RemovalKind::Plain, RemovalKind::RowNormalised, RemovalKind::RowNormKept] {
            let mut candidate = base();
            edit(&mut candidate, &leaning(share), 1.0, form, |_| true);
            let examination = compare(&base(), &candidate, &BF16, 1);
            assert_eq!(examination.verdict, Verdict::Orthogonalized, "{share} {form:?}: {}", examination.because);
        }
    }
}

#[test]
fn a_channel_alone_is_excused_only_as_pruning_leaves_it() {
    let mut writers_alone = base();
    edit(&mut writers_alone, &leaning(1.0), 1.0, RemovalKind::Plain, |_| true);
    let examination = compare(&base(), &writers_alone, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Suspect, "{}", examination.because);
    assert!(has(&examination, "channel-removed"), "{:?}", examination.findings);

    let mut pruned = writers_alone.clone();
    let embedding = pruned.tensors.get_mut("model.embed_tokens.weight").unwrap();
    embedding.values.chunks_exact_mut(WIDTH).for_each(|row| row[17] = 0.0);
    let examination = compare(&base(), &pruned, &BF16, 1);
    assert!(has(&examination, "channel-zeroed"), "{} {}", examination.because, fits(&examination));
    assert!(examination.verdict != Verdict::Orthogonalized, "{} {:?}", examination.because, examination.findings);
}

#[test]
fn sides_that_were_swapped_are_told_as_that() {
    for lambda in [0.5, 1.0] {
        let examination = compare(&edited(lambda), &base(), &BF16, 1);
        assert_eq!(examination.verdict, Verdict::Suspect, "{}", examination.because);
        assert!(has(&examination, "direction-amplified"), "{:?}", examination.findings);
        assert!(
            strengths(&examination).iter().all(|found| (-2.0..=0.0).contains(found)),
            "{:?}",
            strengths(&examination)
        );
    }
}

#[test]
fn directions_of_their_own_in_every_writer_are_a_removal() {
    let mut candidate = base();
    for name in candidate.writers() {
        let r = direction(31, &name, WIDTH);
        edits::orthogonalize(candidate.tensors.get_mut(&name).unwrap(), &r, 1.0, RemovalKind::Plain);
    }
    let examination = compare(&base(), &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Orthogonalized, "{} {:?}", examination.because, examination.findings);
}

#[test]
fn a_removal_planted_above_the_printed_limit_is_seen() {
    for size in [0.005, 0.02] {
        let mut honest = base();
        edits::fine_tune(&mut honest, size, 8);
        let examination = compare(&base(), &honest, &BF16, 1);
        assert!(examination.verdict != Verdict::Orthogonalized, "{}", examination.because);
        let limit = examination.orthogonalization.unwrap().detection_limit;
        assert!(limit > 0.0);
        let mut planted = honest;
        edit(&mut planted, &removed(), (1.5 * limit).min(1.5), RemovalKind::Plain, |_| true);
        let examination = compare(&base(), &planted, &BF16, 1);
        assert_eq!(examination.verdict, Verdict::Orthogonalized, "limit {limit}: {}", examination.because);
    }
}

/// Rows of the residual stream that are zero now, from `first` on.
/// As in real models: one channel is loud in every writer, and others follow it.
fn with_a_loud_channel(mut model: Model) -> Model {
    for name in model.writers() {
        let weight = model.tensors.get_mut(&name).unwrap();
        let columns = weight.shape[1];
        let loud: Vec<f32> = weight.values[5 * columns..6 * columns].iter().map(|value| 12.0 * value).collect();
        weight.values[5 * columns..6 * columns].copy_from_slice(&loud);
        for (row, share) in [(40, 0.35), (77, -0.25), (20, 0.2), (60, -0.15)] {
            let row = &mut weight.values[row * columns..(row + 1) * columns];
            row.iter_mut().zip(&loud).for_each(|(value, loud)| *value += share * loud);
        }
    }
    model
}

/// DoRA: a change of low rank, and a factor of its own for every row (Liu et al. 2024, arXiv 2402.09353).
fn with_magnitudes(model: &mut Model, spread: f32, seed: u64) {
    for name in model.writers() {
        let weight = model.tensors.get_mut(&name).unwrap();
        edits::add_low_rank(weight, 4, 0.02, seed, &name);
        let (rows, columns) = (weight.shape[0], weight.shape[1]);
        // A unit vector of so many numbers has a standard deviation of 1/√rows.
        let factors = direction(seed, &name, rows);
        for (row, factor) in weight.values.chunks_exact_mut(columns).zip(factors) {
            row.iter_mut().for_each(|value| *value *= 1.0 + spread * factor * (rows as f32).sqrt());
        }
    }
}

#[test]
fn rows_that_were_each_scaled_by_a_factor_of_their_own_are_no_removal_and_hide_none() {
    let base = with_a_loud_channel(base());
    for seed in 1..=4 {
        for spread in [0.003, 0.01, 0.02] {
            let mut honest = base.clone();
            with_magnitudes(&mut honest, spread, seed);
            let examination = compare(&base, &honest, &BF16, 1);
            let told = format!("{spread}, {seed}: {}{}", examination.because, fits(&examination));
            assert_eq!(examination.verdict, Verdict::Clear, "{told}");
            let mut candidate = base.clone();
            edit(&mut candidate, &removed(), 0.4, RemovalKind::Plain, |_| true);
            with_magnitudes(&mut candidate, spread, seed);
            let examination = compare(&base, &candidate, &BF16, 1);
            let told = format!("{spread}, {seed}: {}{}", examination.because, fits(&examination));
            assert_eq!(examination.verdict, Verdict::Orthogonalized, "{told}");
        }
    }
}

#[test]
fn scaling_the_rows_of_a_few_edited_writers_does_not_hide_them_behind_the_others() {
    let mut candidate = base();
    edits::fine_tune(&mut candidate, 0.002, 5);
    let few = |name: &str| name.contains("o_proj") && !name.contains("layers.3.");
    edit(&mut candidate, &removed(), 1.0, RemovalKind::Plain, few);
    for name in candidate.writers().into_iter().filter(|name| few(name)) {
        let weight = candidate.tensors.get_mut(&name).unwrap();
        let factors = direction(8, &name, weight.shape[0]);
        for (row, factor) in weight.values.chunks_exact_mut(weight.shape[1]).zip(factors) {
            row.iter_mut().for_each(|value| *value *= 1.0 + 0.3 * factor * (WIDTH as f32).sqrt());
        }
    }
    let examination = compare(&base(), &candidate, &BF16, 1);
    assert_ne!(examination.verdict, Verdict::Clear, "{}{}", examination.because, fits(&examination));
}

fn zero_rows(model: &mut Model, name: &str, first: usize) {
    let weight = model.tensors.get_mut(name).unwrap();
    let columns = weight.shape[1];
    weight.values[first * columns..].fill(0.0);
}

#[test]
fn rows_that_became_zero_are_told_and_are_no_removal() {
    let tail = |model: &mut Model| {
        zero_rows(model, "model.layers.3.self_attn.o_proj.weight", 40);
        zero_rows(model, "model.layers.3.mlp.down_proj.weight", 0);
        zero_rows(model, "model.layers.3.mlp.up_proj.weight", 0);
    };
    let mut damaged = base();
    tail(&mut damaged);
    let examination = compare(&base(), &damaged, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Inconclusive, "{} {:?}", examination.because, examination.findings);
    assert!(examination.because.contains("zero"), "{}", examination.because);
    assert!(has(&examination, "zeroed-rows"), "{:?}", examination.findings);
    assert!(strengths(&examination).iter().all(|lambda| *lambda == 0.0), "{}", fits(&examination));

    let mut edited = edited(0.7);
    tail(&mut edited);
    let examination = compare(&base(), &edited, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Orthogonalized, "{}", examination.because);
    assert!(has(&examination, "zeroed-rows"), "{:?}", examination.findings);
}

#[test]
fn another_order_of_arithmetic_is_no_change() {
    let mut recomputed = base();
    for weight in recomputed.tensors.values_mut() {
        for (at, value) in weight.values.iter_mut().enumerate() {
            *value = rounded(*value) * (1.0 + 1e-7 * (at % 3) as f32);
        }
    }
    let examination = compare(&base(), &recomputed, &F32, 1);
    assert_eq!(examination.verdict, Verdict::Clear, "{} {}", examination.because, fits(&examination));
    assert_eq!(examination.relation, Relation::Recast);
}

fn rounded(value: f32) -> f32 {
    half::bf16::from_f32(value).to_f32()
}

#[test]
fn readers_whose_rows_changed_places_hide_nothing() {
    let mut candidate = base();
    let writers = candidate.writers();
    for name in candidate.linear().into_iter().filter(|name| name.contains("layers") && !writers.contains(name)) {
        edits::orthogonalize_reader(candidate.tensors.get_mut(&name).unwrap(), &removed(), 1.0);
    }
    let plain = compare(&base(), &candidate, &BF16, 1);
    assert!(has(&plain, "reader-side"), "{} {:?}", plain.because, plain.findings);
    shuffle(&mut candidate, 6);
    let examination = compare(&base(), &candidate, &BF16, 1);
    assert!(has(&examination, "reader-side"), "{} {:?}", examination.because, examination.findings);
    assert!(examination.verdict != Verdict::Clear, "{}", examination.because);
}

/// The base on a quantiser's levels, three `o_proj` of it edited there and encoded again.
fn on_one_grid(bits: u32, change: impl Fn(&mut orthoscope::demo::tiny::Weight)) -> (Model, Model) {
    let mut base = base();
    for name in base.linear() {
        edits::quantize(base.tensors.get_mut(&name).unwrap(), bits);
    }
    let mut candidate = base.clone();
    for layer in 0..3 {
        let weight = candidate.tensors.get_mut(&format!("model.layers.{layer}.self_attn.o_proj.weight")).unwrap();
        change(weight);
        edits::quantize(weight, bits);
    }
    (base, candidate)
}

#[test]
fn on_a_shared_grid_no_removal_above_the_printed_limit_is_clear() {
    for bits in [4, 5, 6] {
        for lambda in [0.05, 0.1, 0.2, 0.4, 0.7, 1.0] {
            let (base, candidate) =
                on_one_grid(bits, |weight| edits::orthogonalize(weight, &removed(), lambda, RemovalKind::Plain));
            let examination = compare(&base, &candidate, &BF16, 1);
            let limit = examination.orthogonalization.as_ref().unwrap().detection_limit;
            if examination.relation != Relation::Identical {
                assert!(limit > 0.0, "{bits} bits, λ = {lambda}: a limit of {limit}");
            }
            assert!(
                examination.verdict != Verdict::Clear || lambda <= limit || examination.relation == Relation::Identical,
                "{bits} bits, λ = {lambda}: clear down to {limit}{}",
                fits(&examination)
            );
        }
        let (base, honest) = on_one_grid(bits, |weight| edits::add_noise(weight, 0.05, 3, "encoding"));
        let examination = compare(&base, &honest, &BF16, 1);
        assert!(
            matches!(examination.verdict, Verdict::Clear | Verdict::Inconclusive),
            "{bits} bits: {} {}",
            examination.because,
            fits(&examination)
        );
    }
}

/// λ that the edit left: restoring a loud row's norm gives much of a direction back that leans on it. Median over the edited writers.
fn taken(base: &Model, candidate: &Model, r: &[f32]) -> f64 {
    let along = |name: &String| -> Option<f64> {
        let (before, after) = (&base.tensors[name], &candidate.tensors[name]);
        let through = |weight: &orthoscope::demo::tiny::Weight| -> Vec<f64> {
            let mut sums = vec![0.0; weight.shape[1]];
            for (row, r) in weight.values.chunks_exact(weight.shape[1]).zip(r) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(r * value));
            }
            sums
        };
        let (p, left) = (through(before), through(after));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        (before.values != after.values).then(|| 1.0 - dot(&p, &left) / dot(&p, &p))
    };
    let mut all: Vec<f64> = base.writers().iter().filter_map(along).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_removal_above_the_printed_limit_is_clear(
        lambda in 0.02f64..2.0,
        layers in 1usize..=4,
        modules in 0usize..3,
        share in 0f32..0.99,
        form in 0usize..3,
        bits in prop::sample::select(vec![0u32, 4, 8]),
        training in prop::sample::select(vec![0.0, 0.002, 0.01]),
        moved in 0usize..4,
        adapter in prop::sample::select(vec![0usize, 0, 2, 6]),
    ) {
        let mut candidate = base();
        let form = [RemovalKind::Plain, RemovalKind::RowNormalised, RemovalKind::RowNormKept][form];
        let meant = |name: &str| {
            let of_layer = (0..layers).any(|layer| name.contains(&format!("layers.{layer}.")));
            of_layer && (modules == 0 || name.contains(["", "o_proj", "down_proj"][modules]))
        };
        edit(&mut candidate, &leaning(share), lambda, form, meant);
        let taken = taken(&base(), &candidate, &leaning(share));
        if training > 0.0 {
            edits::fine_tune(&mut candidate, training, 9);
        }
        if adapter > 0 {
            for name in candidate.linear() {
                edits::add_low_rank(candidate.tensors.get_mut(&name).unwrap(), adapter, 0.1, 10, &name);
            }
        }
        if moved > 0 {
            shuffle(&mut candidate, moved);
        }
        if bits > 0 {
            for name in candidate.linear() {
                edits::quantize(candidate.tensors.get_mut(&name).unwrap(), bits);
            }
        }
        let examination = compare(&base(), &candidate, &BF16, 1);
        let limit = examination.orthogonalization.as_ref().map_or(0.0, |evidence| evidence.detection_limit);
        // The limit is that of half of the writers that changed; one or two edited ones under noise may be below theirs.
        let enough = layers * if modules == 0 { 2 } else { 1 } >= 3;
        prop_assert!(
            examination.verdict != Verdict::Clear || taken <= 1.25 * limit || !enough,
            "{taken:.3} was taken, clear down to {limit}: {}{}", examination.because, fits(&examination)
        );
    }
}
