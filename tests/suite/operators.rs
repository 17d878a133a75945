//! Edits that are an operator on the residual stream and no plain removal: oblique, kept out of a subspace, rotated, affine, fitted on
//! some inputs. None ends as clear, through float or four bits, and what they look like does.

use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::{Model, TinySize, Weight, direction};
use orthoscope::examination::{Examination, Verdict};
use orthoscope::tensor::{BF16, F32};

use crate::compare::compare;
use crate::support::with_draft;

const WIDTH: usize = 96;
const LAYERS: usize = 6;

fn base() -> Model {
    TinySize { width: WIDTH, layers: LAYERS, inner: 288, heads: 4, vocabulary: 64 }.llama(61)
}

fn changed(mut change: impl FnMut(&str, &mut Weight)) -> Model {
    let mut model = base();
    for name in model.writers() {
        change(&name, model.tensors.get_mut(&name).unwrap());
    }
    model
}

/// A direction at this angle (degrees) to `r`.
fn at_angle(r: &[f32], degrees: f64, purpose: &str) -> Vec<f32> {
    let other = direction(61, purpose, WIDTH);
    let along: f32 = r.iter().zip(&other).map(|(r, other)| r * other).sum();
    let rest: Vec<f32> = r.iter().zip(&other).map(|(r, other)| other - along * r).collect();
    let length = rest.iter().map(|value| value * value).sum::<f32>().sqrt();
    let (sine, cosine) = degrees.to_radians().sin_cos();
    r.iter().zip(rest).map(|(r, rest)| cosine as f32 * r + sine as f32 * rest / length).collect()
}

fn removed() -> Vec<f32> {
    direction(61, "removed", WIDTH)
}

/// Rounded to four bits in groups of 32, as a coarse quantiser would.
fn in_four_bits(weight: &mut Weight) {
    for group in weight.values.chunks_mut(32) {
        let step = group.iter().fold(0f32, |most, value| most.max(value.abs())) / 7.0;
        group.iter_mut().for_each(|value| *value = (*value / step.max(f32::MIN_POSITIVE)).round() * step);
    }
}

fn has(examination: &Examination, signature: &str) -> bool {
    examination.findings.iter().any(|finding| finding.signature == signature)
}

fn numbers(examination: &Examination) -> String {
    let model = &examination.profile.as_ref().unwrap().model;
    let shown = model.iter().filter(|(name, _)| name.starts_with("operator.") || name.starts_with("projection."));
    let findings: Vec<&str> = examination.findings.iter().map(|finding| finding.signature.as_str()).collect();
    format!("{:?} {findings:?}\n{:?}", examination.verdict, shown.collect::<Vec<_>>())
}

#[test]
fn oblique_removals_are_found_at_any_angle() {
    for degrees in [30.0, 45.0, 60.0, 75.0] {
        for lambda in [1.0, 0.4] {
            let (a, b) = (removed(), at_angle(&removed(), degrees, "read"));
            let candidate = changed(|_, weight| edits::orthogonalize_obliquely(weight, &a, &b, lambda));
            let examination = compare(&base(), &candidate, &BF16, 1);
            let lost = lambda * degrees.to_radians().cos();
            assert_ne!(examination.verdict, Verdict::Clear, "{degrees} {lambda} {}", numbers(&examination));
            if lost > 0.2 {
                assert_eq!(
                    examination.verdict,
                    Verdict::Orthogonalized,
                    "{degrees} {lambda} {}",
                    numbers(&examination)
                );
            }
        }
    }
}

#[test]
fn what_an_oblique_removal_takes_is_told() {
    let (a, b) = (removed(), at_angle(&removed(), 60.0, "read"));
    let candidate = changed(|_, weight| edits::orthogonalize_obliquely(weight, &a, &b, 1.0));
    let examination = compare(&base(), &candidate, &F32, 1);
    let strength = examination.profile.as_ref().unwrap().model["operator.strength"];
    assert!((strength - 0.5).abs() < 0.03, "{strength}");
}

#[test]
fn directions_of_each_layer_removed_obliquely_are_suspect_where_one_writer_of_a_layer_tells() {
    let candidate = changed(|name, weight| {
        let layer = name.split('.').nth(2).unwrap().to_owned();
        let a = direction(62, &layer, WIDTH);
        let b = at_angle(&a, 60.0, &format!("read {layer}"));
        edits::orthogonalize_obliquely(weight, &a, &b, 1.0);
    });
    let examination = compare(&base(), &candidate, &BF16, 1);
    // These attention outputs are narrower than the stream, so that no sibling shows the layer's operator.
    assert_eq!(examination.verdict, Verdict::Suspect, "{}", numbers(&examination));
    assert!(has(&examination, "own-operators"), "{}", numbers(&examination));
}

#[test]
fn a_direction_replaced_by_another_is_suspect() {
    let (a, b) = (removed(), at_angle(&removed(), 90.0, "read"));
    let candidate = changed(|_, weight| edits::orthogonalize_obliquely(weight, &a, &b, 0.8));
    let examination = compare(&base(), &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Suspect, "{}", numbers(&examination));
    assert!(has(&examination, "shared-operator"), "{}", numbers(&examination));
}

#[test]
fn rotations_are_never_clear() {
    for degrees in [15.0f64, 57.0, 90.0, 120.0] {
        let (u, v) = (removed(), at_angle(&removed(), 90.0, "plane"));
        let candidate = changed(|_, weight| edits::rotate(weight, &u, &v, degrees.to_radians()));
        let examination = compare(&base(), &candidate, &BF16, 1);
        assert_ne!(examination.verdict, Verdict::Clear, "{degrees} {}", numbers(&examination));
        let model = &examination.profile.as_ref().unwrap().model;
        assert!(model["operator.isometry"] < 0.1, "{degrees} {}", numbers(&examination));
        let fits = model["projection.share"] >= 0.5;
        assert!(fits || has(&examination, "rotation"), "{degrees} {}", numbers(&examination));
    }
}

#[test]
fn a_removal_fitted_on_some_inputs_is_suspect() {
    let candidate = changed(|name, weight| {
        let inputs = weight.shape[1] / 4;
        edits::orthogonalize_on_inputs(weight, &removed(), inputs, 63, name);
    });
    let examination = compare(&base(), &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Suspect, "{}", numbers(&examination));
}

#[test]
fn four_bits_do_not_hide_an_operator() {
    let (a, b) = (removed(), at_angle(&removed(), 60.0, "read"));
    let oblique = changed(|_, weight| {
        edits::orthogonalize_obliquely(weight, &a, &b, 1.0);
        in_four_bits(weight);
    });
    let examination = compare(&base(), &oblique, &BF16, 1);
    assert_ne!(examination.verdict, Verdict::Clear, "{}", numbers(&examination));
    let honest = compare(&base(), &changed(|_, weight| in_four_bits(weight)), &BF16, 1);
    assert!(honest.verdict != Verdict::Suspect && honest.verdict != Verdict::Orthogonalized, "{}", numbers(&honest));
}

#[test]
fn what_shares_an_output_side_or_a_scale_alone_is_no_operator() {
    let shared = removed();
    let left = changed(|name, weight| {
        let right = orthoscope::demo::tiny::normal(&mut orthoscope::demo::tiny::random(64, name), weight.shape[1]);
        let columns = weight.shape[1];
        for (row, left) in weight.values.chunks_exact_mut(columns).zip(&shared) {
            row.iter_mut().zip(&right).for_each(|(value, right)| *value += 0.02 * left * right);
        }
    });
    let scaled = changed(|_, weight| edits::rescale(weight, 0.98));
    let trained = changed(|name, weight| edits::add_low_rank(weight, 2, 0.1, 65, name));
    for (what, model) in [("one output side", left), ("a scale", scaled), ("low rank", trained)] {
        let examination = compare(&base(), &model, &BF16, 1);
        assert_eq!(examination.verdict, Verdict::Clear, "{what} {}", numbers(&examination));
    }
}

#[test]
fn a_plain_removal_is_told_as_before() {
    let candidate = changed(|_, weight| edits::orthogonalize(weight, &removed(), 1.0, RemovalKind::Plain));
    let examination = compare(&base(), &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Orthogonalized);
    assert!(
        !has(&examination, "oblique-removal") && !has(&examination, "shared-operator"),
        "{}",
        numbers(&examination)
    );
}

#[test]
fn a_draft_block_is_tested_as_a_stream_of_its_own() {
    let base = with_draft(&base(), LAYERS);
    let draft = |name: &str| name.starts_with(&format!("model.layers.{LAYERS}."));
    let mut candidate = base.clone();
    for name in
        base.tensors.keys().filter(|name| draft(name) && (name.contains("o_proj") || name.contains("down_proj")))
    {
        edits::orthogonalize(candidate.tensors.get_mut(name).unwrap(), &removed(), 1.0, RemovalKind::Plain);
    }
    let examination = compare(&base, &candidate, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Suspect, "{}", numbers(&examination));
    assert!(has(&examination, "draft-projection"), "{}", numbers(&examination));
    let mut trained = base.clone();
    for name in base.tensors.keys().filter(|name| draft(name) && name.contains("proj")) {
        edits::add_noise(trained.tensors.get_mut(name).unwrap(), 0.02, 67, name);
    }
    let examination = compare(&base, &trained, &BF16, 1);
    assert_eq!(examination.verdict, Verdict::Clear, "{}", numbers(&examination));
}

#[test]
fn strengths_up_to_eight_are_found_as_what_they_are() {
    for lambda in [1.5, 3.0, 3.5, 6.7, 8.0] {
        let candidate = changed(|_, weight| edits::orthogonalize(weight, &removed(), lambda, RemovalKind::Plain));
        let examination = compare(&base(), &candidate, &BF16, 1);
        assert_eq!(examination.verdict, Verdict::Orthogonalized, "{lambda} {}", numbers(&examination));
        assert_eq!(has(&examination, "over-inversion"), lambda > 2.5, "{lambda} {}", numbers(&examination));
        let found = &examination.orthogonalization.as_ref().unwrap().strength;
        assert!(found.iter().all(|one| (one.lambda - lambda).abs() < 0.02 * lambda), "{lambda} {found:?}");
    }
}
