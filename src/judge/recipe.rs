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
    let mut modules: BTreeMap<&str, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for strength in strengths {
        modules.entry(&strength.module).or_default().entry(strength.layer).or_default().push(strength.lambda);
    }
    for (module, layers) in &modules {
        let series: Vec<(f64, f64)> = layers
            .iter()
            .map(|(layer, values)| (f64::from(*layer), values.iter().sum::<f64>() / values.len() as f64))
            .collect();
        facts.push(format!("{module}: {}", shape(&series)));
    }
    facts.extend(untouched(profile));
    facts
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
    let touched: Vec<(f64, f64)> = series.iter().copied().filter(|(_, lambda)| lambda.abs() > 1e-3).collect();
    let (Some(first), Some(last)) = (touched.first(), touched.last()) else { return "untouched".to_owned() };
    let span = if first.0 == last.0 {
        format!("layer {:.0}", first.0)
    } else {
        format!("layers {:.0} to {:.0}", first.0, last.0)
    };
    let inside = series.iter().filter(|(layer, _)| (first.0..=last.0).contains(layer)).count();
    let gaps = if inside > touched.len() { format!(" ({} of {inside})", touched.len()) } else { String::new() };
    let values: Vec<f64> = touched.iter().map(|(_, lambda)| *lambda).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let spread = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    if spread <= 0.03 * mean.abs() {
        return format!("λ = {mean:.2} in {span}{gaps}");
    }
    if let Some(named) = named_shape(&touched, spread * spread * values.len() as f64) {
        return format!("{named} in {span}{gaps}");
    }
    let low = values.iter().copied().fold(f64::MAX, f64::min);
    let high = values.iter().copied().fold(f64::MIN, f64::max);
    format!("λ from {low:.2} to {high:.2} (median {:.2}) in {span}{gaps}", median(values))
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
    strengths.iter().filter(|strength| strength.lambda.abs() > 1e-3).map(|strength| strength.layer).collect()
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
        assert_eq!(shape(&[(0.0, 0.0), (1.0, 0.0)]), "untouched");
        let ragged = [(0.0, 0.2), (1.0, 0.9), (2.0, 0.1), (3.0, 0.8), (4.0, 0.3), (5.0, 0.5)];
        assert!(shape(&ragged).starts_with("λ from 0.10 to 0.90"));
    }
}
