//! The recipe that an edit was made by, as far as its weights tell: strengths over depth, norms kept, side, scope.

use std::collections::{BTreeMap, BTreeSet};

use crate::arch::Kind;
use crate::examination::Strength;
use crate::profile::{Coordinates, Profile, Sameness, names};
use crate::tensor::numbers::median;

/// Norms count as kept when they drift less than this, an order above what storing in bf16 moves a norm of a few
/// hundred elements.
const NORM_KEPT: f64 = 5e-4;
/// A shape over depth is named when it leaves less than this share of the variance.
const SHAPE_LEFT: f64 = 0.02;

/// λ at both ends of a run of layers, as a share of its largest, from which the run has edges and does not fade out.
const HARD_EDGE: f64 = 0.5;

/// One fact a line. `global` says whether all layers lost one and the same direction.
pub fn describe(profile: &Profile, strengths: &[Strength], global: bool) -> Vec<String> {
    let number = |measurement| profile.number(measurement);
    let mut facts = Vec::new();
    if let Some(agreement) = number(names::PROJECTION_AGREEMENT) {
        facts.push(if global {
            format!("one direction for all layers (|cos| {agreement:.3} with the other layers)")
        } else {
            format!("directions differ from layer to layer (|cos| {agreement:.3} with the nearest layers)")
        });
    }
    if let Some(directions) = number(names::PROJECTION_DIRECTIONS).filter(|directions| *directions >= 1.5) {
        facts.push(format!("{directions:.0} directions removed together"));
    }
    let coordinates = Coordinates::of_number(number(names::PROJECTION_ROW_NORMALISED).unwrap_or(0.0));
    let rows = match coordinates {
        Coordinates::Raw => "rows as they are",
        Coordinates::RowNormalised => "rows divided by their norms before the edit",
    };
    facts.push(format!("{rows} ({} coordinates)", coordinates.as_str()));
    let (rows, columns) = (number(names::PROJECTION_ROW_NORM_DRIFT), number(names::PROJECTION_COLUMN_NORM_DRIFT));
    match (rows, columns) {
        (Some(rows), _) if rows < NORM_KEPT => facts.push(format!("row norms kept (median drift {rows:.1e})")),
        (_, Some(columns)) if columns < NORM_KEPT => {
            facts.push(format!("column norms kept (median drift {columns:.1e})"))
        }
        _ => {}
    }
    facts.extend(components(strengths));
    facts.extend(untouched(profile));
    facts
}

/// λ over layers of each component: attention, linear attention and MLP by their modules, routed experts apart from
/// what stands beside them, since editors give each a strength of its own.
fn components(strengths: &[Strength]) -> Vec<String> {
    let mut components: BTreeMap<(&str, bool), BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for strength in strengths {
        let layers = components.entry((&strength.module, strength.expert.is_some())).or_default();
        layers.entry(strength.layer).or_default().push(strength.lambda);
    }
    let of_component = |((module, routed), layers): ((&str, bool), BTreeMap<u32, Vec<f64>>)| {
        let (mut touched, mut all) = (0, 0);
        let mut series = Vec::with_capacity(layers.len());
        for (layer, values) in layers {
            let changed: Vec<f64> = values.iter().copied().filter(|lambda| is_touched(*lambda)).collect();
            touched += changed.len();
            all += values.len();
            let mean = changed.iter().sum::<f64>() / changed.len().max(1) as f64;
            series.push((f64::from(layer), mean));
        }
        let shape = shape(&series);
        match routed {
            true if touched == all => format!("{module} of routed experts: {shape}"),
            true => format!("{module} of routed experts: {shape}, in {touched} of {all} experts"),
            false => format!("{module}: {shape}"),
        }
    };
    components.into_iter().map(of_component).collect()
}

/// Whether a strength is none.
fn is_touched(lambda: f64) -> bool {
    lambda.abs() > 1e-3
}

/// What stayed the base's, bit for bit.
fn untouched(profile: &Profile) -> Option<String> {
    let mut kinds: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for tensor in &profile.tensors {
        let word = match tensor.role.kind {
            Kind::Reader => "readers",
            Kind::Embedding => "embeddings",
            Kind::Head => "output head",
            Kind::Norm => "norms",
            Kind::Router => "routers",
            Kind::Bias => "biases",
            Kind::Writer | Kind::Other => continue,
        };
        let entry = kinds.entry(word).or_default();
        entry.0 += u32::from(tensor.sameness != Sameness::Changed);
        entry.1 += 1;
    }
    let whole: Vec<&str> = kinds.iter().filter(|(_, (same, all))| same == all).map(|(word, _)| *word).collect();
    (!whole.is_empty()).then(|| format!("left as in the base: {}", whole.join(", ")))
}

/// λ over layers in words: constant, a tent, a bell, or just its range.
pub fn shape(series: &[(f64, f64)]) -> String {
    let touched: Vec<(f64, f64)> = series.iter().copied().filter(|(_, lambda)| is_touched(*lambda)).collect();
    let (Some(first), Some(last)) = (touched.first(), touched.last()) else { return "untouched".to_owned() };
    let layers = |from: f64, to: f64| {
        if from == to { format!("layer {from:.0}") } else { format!("layers {from:.0} to {to:.0}") }
    };
    let mut span = layers(first.0, last.0);
    // Layers before and behind that were left alone are part of a recipe, and told of a tent that fell to nothing by
    // its edge.
    let stock = |is_outside: &dyn Fn(f64) -> bool| {
        let outside: Vec<f64> = series.iter().map(|(layer, _)| *layer).filter(|layer| is_outside(*layer)).collect();
        Some(layers(*outside.first()?, *outside.last()?))
    };
    let anchors: Vec<String> =
        stock(&|layer| layer < first.0).into_iter().chain(stock(&|layer| layer > last.0)).collect();
    let highest = touched.iter().map(|(_, lambda)| lambda.abs()).fold(0.0, f64::max);
    let is_hard = touched.len() > 1 && first.1.abs().min(last.1.abs()) >= HARD_EDGE * highest;
    let inside = series.iter().filter(|(layer, _)| (first.0..=last.0).contains(layer)).count();
    if inside > touched.len() {
        span += &format!(" ({} of {inside})", touched.len());
    }
    if !anchors.is_empty() {
        let edges = if is_hard { "a band with hard edges, " } else { "" };
        span += &format!(" ({edges}{} as in the base)", anchors.join(" and "));
    }
    let values: Vec<f64> = touched.iter().map(|(_, lambda)| *lambda).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let spread = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    if spread <= 0.03 * mean.abs() {
        return format!("λ = {mean:.2} in {span}");
    }
    if let Some(named) = named_shape(&touched, spread * spread * values.len() as f64) {
        return format!("{named} in {span}");
    }
    let low = values.iter().copied().fold(f64::MAX, f64::min);
    let high = values.iter().copied().fold(f64::MIN, f64::max);
    format!("λ from {low:.2} to {high:.2} (median {:.2}) in {span}", median(values))
}

/// λ over the distance from the peak, 1 at 0.
type Kernel = fn(f64) -> f64;

/// A tent, a cosine or a bell around a peak, whichever fits best, if one leaves little.
fn named_shape(touched: &[(f64, f64)], variance: f64) -> Option<String> {
    if touched.len() < 5 {
        return None;
    }
    let (first, last) = (touched[0].0, touched[touched.len() - 1].0);
    let kernels: [(&str, Kernel); 3] = [
        ("a tent", |t| 1.0 - t),
        ("a cosine", |t| 0.5 * (1.0 + (std::f64::consts::PI * t).cos())),
        ("a bell", |t| (-4.0 * t * t).exp()),
    ];
    let mut best: Option<(f64, &str, f64, f64, f64)> = None;
    let steps = ((last - first) * 10.0) as u32;
    for (name, kernel) in kernels {
        for step in 0..=steps {
            let peak = first + f64::from(step) / 10.0;
            let reach = (peak - first).max(last - peak).max(1.0);
            for stretch in [1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0] {
                // λ = edge + (top - edge) · kernel(distance / width): linear in edge and top.
                let width = reach * stretch;
                let inputs: Vec<f64> = touched.iter().map(|(layer, _)| kernel((layer - peak).abs() / width)).collect();
                let Some((edge, slope, left)) = line(&inputs, touched) else { continue };
                if slope > 0.0 && best.is_none_or(|(least, ..)| left < least) {
                    best = Some((left, name, peak, edge + slope, edge + slope * kernel(reach / width)));
                }
            }
        }
    }
    let (left, name, peak, top, edge) = best?;
    (left <= SHAPE_LEFT * variance).then(|| format!("{name}, λ = {top:.2} at layer {peak:.1} falling to {edge:.2}"))
}

/// Least squares of λ on one input: intercept, slope, and the sum of squares left.
fn line(inputs: &[f64], touched: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    let n = inputs.len() as f64;
    let mean_x = inputs.iter().sum::<f64>() / n;
    let mean_y = touched.iter().map(|(_, y)| y).sum::<f64>() / n;
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, (_, y)) in inputs.iter().zip(touched) {
        xx += (x - mean_x).powi(2);
        xy += (x - mean_x) * (y - mean_y);
        yy += (y - mean_y).powi(2);
    }
    (xx > 1e-12).then(|| (mean_y - xy / xx * mean_x, xy / xx, (yy - xy * xy / xx).max(0.0)))
}

/// Layers with a strength that is not zero.
pub fn layers_touched(strengths: &[Strength]) -> BTreeSet<u32> {
    strengths.iter().filter(|strength| is_touched(strength.lambda)).map(|strength| strength.layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_over_depth_are_named() {
        let constant: Vec<(f64, f64)> = (3..9).map(|layer| (f64::from(layer), 0.7)).collect();
        assert_eq!(shape(&constant), "λ = 0.70 in layers 3 to 8");
        let tent: Vec<(f64, f64)> =
            (0..20).map(|layer| (f64::from(layer), 1.2 - 0.06 * (f64::from(layer) - 12.0).abs())).collect();
        assert!(shape(&tent).starts_with("a tent, λ = 1.20 at layer 12.0"), "{}", shape(&tent));
        let band: Vec<(f64, f64)> =
            (0..12).map(|layer| (f64::from(layer), if (4..9).contains(&layer) { 3.0 } else { 0.0 })).collect();
        assert_eq!(
            shape(&band),
            "λ = 3.00 in layers 4 to 8 (a band with hard edges, layers 0 to 3 and layers 9 to 11 as in the base)"
        );
        assert_eq!(shape(&[(0.0, 0.0), (1.0, 0.0)]), "untouched");
        let ragged = [(0.0, 0.2), (1.0, 0.9), (2.0, 0.1), (3.0, 0.8), (4.0, 0.3), (5.0, 0.5)];
        assert!(shape(&ragged).starts_with("λ from 0.10 to 0.90"));
    }

    #[test]
    fn experts_are_a_component_of_their_own() {
        let strength =
            |layer, expert, lambda| Strength { layer, module: "down_proj".to_owned(), expert, lambda, stderr: 0.0 };
        let mut strengths: Vec<Strength> = (0..4).map(|layer| strength(layer, None, 1.0)).collect();
        strengths.extend(
            (0..4)
                .flat_map(|layer| (0..8).map(move |e| (layer, e)))
                .map(|(layer, expert)| strength(layer, Some(expert), if expert == 3 { 0.5 } else { 0.0 })),
        );
        assert_eq!(
            components(&strengths),
            [
                "down_proj: λ = 1.00 in layers 0 to 3",
                "down_proj of routed experts: λ = 0.50 in layers 0 to 3, in 4 of 32 experts"
            ]
        );
    }
}
