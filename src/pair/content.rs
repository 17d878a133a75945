//! A few sampled rows of a matrix, to tell which matrix it is.

use super::View;
use crate::checkpoint::Checkpoint;
use crate::limits::MAX_SAMPLED_ROW;

/// Rows of a sample. Four rows of a few hundred columns tell two unrelated matrices apart beyond doubt: the cosine of
/// independent samples of n numbers is about 1/√n.
const ROWS: u64 = 4;

/// Numbers of a sample that are kept.
const NUMBERS: usize = 2048;

/// Evenly spaced rows of a view, or `None` when they cannot be read or are all zero.
pub fn sample(checkpoint: &Checkpoint, view: &View) -> Option<Vec<f32>> {
    if view.columns == 0 || view.columns > MAX_SAMPLED_ROW || view.rows == 0 {
        return None;
    }
    let count = if view.columns == 1 { 64 } else { ROWS }.min(view.rows);
    let mut numbers = Vec::new();
    let mut row = vec![0.0f32; usize::try_from(view.columns).ok()?];
    // A view that is stored across its rows is read column by column: keep those samples short.
    let keep = NUMBERS / usize::try_from(count).ok()?;
    for at in 0..count {
        // Not the first row of each stretch: stretches start where heads do, and a head's first row stays in place
        // whatever the order of its rotary pairs.
        let start = view.rows / count * at + (1 + 7 * at) % (view.rows / count);
        view.decode_rows(checkpoint, start, &mut row).ok()?;
        let step = (row.len() / keep.max(1)).max(1);
        numbers.extend(
            row.iter().step_by(step).take(keep.max(1)).map(|value| if value.is_finite() { *value } else { 0.0 }),
        );
    }
    numbers.iter().any(|value| *value != 0.0).then_some(numbers)
}

/// Mean |a - b| over mean |a|.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let size: f64 = a.iter().map(|x| f64::from(x.abs())).sum();
    let apart: f64 = a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).sum();
    if size > 0.0 { apart / size } else { f64::INFINITY }
}
