//! λ over layers as rows of characters, and the same numbers gathered for the pictures of other renderers.

use std::collections::{BTreeMap, BTreeSet};

use crate::examination::Orthogonalization;
use crate::report::sanitise;
use crate::report::words::strength;

/// λ̂ of one module over the layers, experts averaged.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The module's name, harmless to show.
    pub module: String,
    /// Layer to (λ̂, standard error). With several experts: their mean, and the standard error of that mean.
    pub points: BTreeMap<u32, (f64, f64)>,
}

/// The strengths by module. Values that are not finite are left out.
pub fn series(orthogonalization: &Orthogonalization) -> Vec<Series> {
    let mut modules: BTreeMap<String, BTreeMap<u32, Vec<(f64, f64)>>> = BTreeMap::new();
    for entry in &orthogonalization.strength {
        if entry.lambda.is_finite() {
            let stderr = if entry.stderr.is_finite() { entry.stderr.abs() } else { 0.0 };
            let module = modules.entry(sanitise::name(&entry.module)).or_default();
            module.entry(entry.layer).or_default().push((entry.lambda, stderr));
        }
    }
    modules
        .into_iter()
        .map(|(module, layers)| {
            let mean = |values: Vec<(f64, f64)>| {
                let n = values.len() as f64;
                let lambda = values.iter().map(|v| v.0).sum::<f64>() / n;
                let stderr = values.iter().map(|v| v.1 * v.1).sum::<f64>().sqrt() / n;
                (lambda, stderr)
            };
            Series { module, points: layers.into_iter().map(|(layer, values)| (layer, mean(values))).collect() }
        })
        .collect()
}

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// What a λ of 0 says: the matrix is the base's, or changed (which leaves λ a standard error) and nothing was found
/// removed.
pub fn nothing(stderr: f64) -> &'static str {
    if stderr == 0.0 { "unchanged" } else { "changed, none found" }
}

/// What a character means: eight heights, nothing removed, below zero.
const fn marks(unicode: bool) -> ([char; 8], char, char) {
    if unicode { (BLOCKS, '·', '▾') } else { (ASCII, '0', 'v') }
}

fn peak(all: &[Series]) -> f64 {
    all.iter().flat_map(|s| s.points.values()).map(|p| p.0).fold(0.0, f64::max)
}

/// What the characters of [`lines`] stand for.
pub fn legend(orthogonalization: &Orthogonalization, unicode: bool) -> String {
    let (heights, none, negative) = marks(unicode);
    let all = series(orthogonalization);
    let peak = peak(&all);
    let mut legend = if peak > 0.0 { format!("{} λ = {}, ", heights[7], strength(peak)) } else { String::new() };
    let changed = all.iter().flat_map(|s| s.points.values()).any(|p| p.0 == 0.0 && p.1 > 0.0);
    legend.push_str(&format!("{none} {}", if changed { "unchanged, or none found" } else { "unchanged" }));
    if all.iter().flat_map(|s| s.points.values()).any(|p| p.0 < 0.0) {
        legend.push_str(&format!(", {negative} below 0 (a direction amplified)"));
    }
    legend
}

/// The picture as lines: a heading, then one line per module with its range in numbers. None where no writer fits a
/// removal: any change has some strength along some direction, and drawn it would look like one.
pub fn lines(orthogonalization: &Orthogonalization, width: usize, unicode: bool) -> Vec<String> {
    if orthogonalization.tensors == 0 {
        return Vec::new();
    }
    const MODULES: usize = 12;
    let all = series(orthogonalization);
    let layers: BTreeSet<u32> = all.iter().flat_map(|s| s.points.keys().copied()).collect();
    let (Some(first), Some(last)) = (layers.first().copied(), layers.last().copied()) else { return Vec::new() };
    let peak = peak(&all);
    let label = all.iter().map(|s| sanitise::width(&s.module)).max().unwrap_or(0).min(24);
    let (marks, unchanged, negative) = marks(unicode);
    let ellipsis = if unicode { "…" } else { "~" };

    // One character a layer while there is room for it and the numbers after it; else several layers a character,
    // showing the largest.
    let room = width.saturating_sub(label + 32).max(8) as u64;
    let span = u64::from(last - first) + 1;
    let per_column = span.div_ceil(room);
    let columns = span.div_ceil(per_column);
    let together = if per_column > 1 { format!(", the largest of {per_column} each") } else { String::new() };
    let mut out = vec![format!("λ over layers {first} to {last}{together}")];
    for series in all.iter().take(MODULES) {
        let mut row = String::new();
        for column in 0..columns {
            let start = u64::from(first) + column * per_column;
            let end = start + per_column - 1;
            let range = start.min(u64::from(u32::MAX)) as u32..=end.min(u64::from(u32::MAX)) as u32;
            let strongest = series.points.range(range).map(|(_, p)| p.0).max_by(|a, b| a.abs().total_cmp(&b.abs()));
            row.push(match strongest {
                None => ' ',
                Some(0.0) => unchanged,
                Some(lambda) if lambda < 0.0 => negative,
                Some(lambda) => marks[((lambda / peak * 8.0).ceil() as usize).clamp(1, 8) - 1],
            });
        }
        let module = sanitise::fit(&series.module, label, ellipsis);
        let pad = " ".repeat(label.saturating_sub(sanitise::width(&module)));
        out.push(format!("{module}{pad} {row}  {}", numbers(series)));
    }
    if all.len() > MODULES {
        out.push(format!("and {} more modules", all.len() - MODULES));
    }
    out
}

/// `0.11 to 1.21, ± 0.01 at most`.
fn numbers(series: &Series) -> String {
    let changed: Vec<_> = series.points.values().filter(|p| p.0 != 0.0).collect();
    if changed.is_empty() {
        return nothing(series.points.values().map(|p| p.1).fold(0.0, f64::max)).to_owned();
    }
    let low = changed.iter().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let high = changed.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
    let stderr = changed.iter().map(|p| p.1).fold(0.0, f64::max);
    let range = if strength(low) == strength(high) {
        strength(low)
    } else {
        format!("{} to {}", strength(low), strength(high))
    };
    format!("{range}, ± {} at most", strength(stderr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examination::Strength;

    fn with(strength: Vec<Strength>) -> Orthogonalization {
        Orthogonalization { strength, tensors: 1, ..Orthogonalization::default() }
    }

    fn at(layer: u32, lambda: f64) -> Strength {
        Strength { layer, module: "o_proj".into(), expert: None, lambda, stderr: 0.01 }
    }

    #[test]
    fn a_layer_is_a_character() {
        let o = with(vec![at(0, 0.0), at(1, 0.25), at(2, 1.0), at(4, -0.5)]);
        assert_eq!(lines(&o, 80, true)[1], "o_proj ·▂█ ▾  -0.50 to 1.00, ± 0.010 at most");
        assert_eq!(lines(&o, 80, false)[1], "o_proj 0.# v  -0.50 to 1.00, ± 0.010 at most");
    }

    #[test]
    fn layers_share_characters_when_there_are_too_many_or_they_are_absurd() {
        let o = with((0..500).map(|layer| at(layer, 1.0)).collect());
        assert!(lines(&o, 80, true).iter().all(|line| sanitise::width(line) <= 100));
        let absurd = with(vec![at(0, 1.0), at(u32::MAX, 1.0), at(3, f64::NAN)]);
        assert!(lines(&absurd, 80, true)[1].starts_with("o_proj █"));
        assert!(lines(&with(Vec::new()), 80, true).is_empty());
        let none_fits = Orthogonalization { tensors: 0, ..with(vec![at(0, 0.4)]) };
        assert!(lines(&none_fits, 80, true).is_empty());
    }

    #[test]
    fn experts_are_averaged() {
        let mut o = with(vec![at(1, 0.4), at(1, 0.6)]);
        o.strength[0].expert = Some(0);
        o.strength[1].expert = Some(1);
        let points = &series(&o)[0].points;
        assert!((points[&1].0 - 0.5).abs() < 1e-12);
        assert!((points[&1].1 - 0.01 / 2f64.sqrt()).abs() < 1e-12);
    }
}
