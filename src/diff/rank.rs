//! How many directions a change has, where the short range finder of the survey ran out of them: a wide one on a few
//! matrices. A merged LoRA has the same rank in every matrix it touches, so a few tell.

use super::measured::PairMeasurement;
use super::operator::{Operator, Want};
use super::oriented::Oriented;
use super::projection::{SKETCH, top_vectors};
use super::spectrum;
use crate::arch::Axis;
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// Directions looked for: LoRA ranks in use go up to 128.
const WIDE: usize = 160;
/// A shorter side of this much is room enough for the ranks looked for; with less, more is better.
const ROOM: usize = 384;
/// Matrices looked at.
const SAMPLE: usize = 6;

/// Replaces the singular values of up to [`SAMPLE`] matrices, the smallest that ran out, by longer lists.
pub fn widen(base: &Checkpoint, candidate: &Checkpoint, pairs: &mut [PairMeasurement<'_>]) -> Result<()> {
    let mut short: Vec<(std::cmp::Reverse<usize>, usize, usize)> = pairs
        .iter()
        .enumerate()
        .filter_map(|(index, pair)| {
            let sized = pair.moments.as_ref()?;
            let ran_out =
                sized.values.len() >= SKETCH && super::change::above_noise(sized) as usize >= sized.values.len();
            // A narrow matrix has no room for a low rank to show in.
            let room = sized.shape[0].min(sized.shape[1]).min(ROOM);
            ran_out.then_some((std::cmp::Reverse(room), sized.shape[0] * sized.shape[1], index))
        })
        .collect();
    short.sort_unstable();
    // The smallest size class is spread over the depth of the model.
    let Some((room, smallest, _)) = short.first().copied() else { return Ok(()) };
    let mut chosen: Vec<usize> = short
        .iter()
        .filter(|(other, size, _)| *other == room && *size <= smallest.saturating_mul(2))
        .map(|(.., index)| *index)
        .collect();
    chosen.sort_unstable();
    let step = chosen.len().div_ceil(SAMPLE).max(1);
    for index in chosen.into_iter().step_by(step) {
        let Some(sized) = pairs[index].moments.as_mut() else { continue };
        let operator = Operator::new(pairs[index].pair, base, candidate)?;
        let width = WIDE.min(operator.rows.min(operator.columns));
        let start = operator.times(&spectrum::signs(operator.columns, width, 2), Want::Change)?.change;
        let oriented = Oriented { operator, residual: Axis::Rows };
        sized.values = top_vectors(&oriented, &start, sized.energy, None, None, 1)?.raw.values;
    }
    Ok(())
}
