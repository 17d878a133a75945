//! The strength of a removal that went through a coarse quantiser.
//!
//! A quantiser moves every element to the nearest of a few levels. Where the base's own weights stand on such levels
//! already (a base that was quantised itself, or trained for it), a faint edit moves few elements, and regression finds
//! less, or more, than was taken out. But each element of the candidate says between which bounds its number was before
//! it was rounded: the midpoints to the next levels. λ is then the strength at which W - λ a bᵀ lies between the bounds
//! (interval-censored regression: the sum of squared distances from the bounds is convex in λ). Levels are those seen
//! among sixteen neighbours, or among as many as stand on the same ones: a level that none of them has makes bounds
//! wider than they were, never wrong.
//!
//! Where both sides stand on a grid, what is left of a faint edit is whole steps of a few codes. [`planted_limit`] says
//! from which strength on they would tell it.
//!
//! `docs/detector.md` has what was measured.

use std::collections::BTreeSet;

use faer::Mat;
use rayon::prelude::*;

use super::consistency::{self, Grams};
use super::fits;
use super::measured::{Measurements, PairMeasurement, StrengthByBounds};
use super::operator::{Gauge, Operator, Want};
use super::oriented::Oriented;
use crate::arch::{Axis, Kind};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::pair::View;
use crate::profile::Coordinates;
use crate::tensor::numbers::median;
use crate::tensor::{DType, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, Q8_1};

/// Elements that share their levels: no format in use has smaller groups.
const GROUP: usize = 16;
/// Elements looked at in one matrix: the rows that the edit moves most.
const ELEMENTS: usize = 1 << 19;
/// Share of elements that equal one of their group from which there are levels to speak of; ordinary floats and 8 bits
/// stay under it, and need no such help unless the base stands on levels too.
const REPEATED: f64 = 0.28;
/// Share of elements that repeat among sixteen neighbours from which a matrix stands on levels: between that of floats
/// with 8 significant bits (0.01) and that of floats with 4 (0.15).
pub const LEVELS: f64 = 0.08;
/// Longest run of a row whose elements may share their levels: the blocks of FP8.
const LONGEST: usize = 128;
/// Share of distinct values that two halves of a run must have in common to stand on the same levels. Of unlike scales
/// they share next to none.
const IN_COMMON: f64 = 0.25;
/// Share of distinct values in a run up to which it shows most of its levels: about 0.5 for 4 bits in runs of 32 and
/// FP8 in runs of 128, 0.9 for 8 bits in runs of 32.
const DENSE: f64 = 0.75;
/// Most steps of an even grid, from the lowest level to the highest: 8 bits.
const EVEN: usize = 255;
/// Distance from an even grid's levels, root mean square in steps, up to which values stand on it: chance gives 0.29,
/// the rounding of 8 bits to BF16 0.1.
const OFF_LEVEL: f64 = 0.12;
/// From this run on a grid whose values come with either sign (FP8, int8) is taken to be symmetric.
const MIRRORED: usize = 64;
/// Other coordinates in which a removal is planted,
const PLANTED: usize = 1024;
/// at these strengths, a factor of 1.4 apart.
const WEAKEST: f64 = 0.005;
const STEP: f64 = 1.4;
const STEPS: usize = 20;
/// Strengths that are looked for.
const RANGE: [f64; 2] = [-3.0, 4.0];
/// The untouched base must be so much further from the bounds than the edit that explains them,
const FACTOR: f64 = 25.0;
/// with at most this share of elements out of bounds,
const OUTSIDE: f64 = 0.025;
/// and at least so many that the untouched base does not explain, and so much more than the edit.
const MOVED: usize = 6;
const MOVED_FACTOR: f64 = 5.0;

/// Looks at every changed writer whose candidate stands on levels, along the direction that the other layers lost.
pub fn refine(base: &Checkpoint, candidate: &Checkpoint, measured: &mut Measurements<'_>) -> Result<()> {
    // Where nothing measures as a removal there is no strength to know better.
    let hinted = |pair: &PairMeasurement<'_>| {
        let sides = pair.projected.iter().flat_map(|projected| projected.sides.both().into_iter().flatten());
        pair.pair.role.kind == Kind::Writer
            && sides.map(|side| side.fit.consistency).fold(0.0, f64::max) >= fits::CONSISTENCY_HINT
    };
    if !measured.pairs.iter().any(hinted) {
        return Ok(());
    }
    let directions = fits::directions(measured);
    let found: Vec<Option<StrengthByBounds>> = measured
        .pairs
        .par_iter()
        .zip(&directions.along)
        .map(|(pair, direction)| match direction {
            Some(direction) => strength(pair, base, candidate, direction, directions.coordinates),
            None => Ok(None),
        })
        .collect::<Result<_>>()?;
    for (pair, strength) in measured.pairs.iter_mut().zip(found) {
        pair.through_grid = strength;
    }
    Ok(())
}

fn strength(
    measured: &PairMeasurement<'_>,
    base: &Checkpoint,
    candidate: &Checkpoint,
    direction: &[f64],
    coordinates: Coordinates,
) -> Result<Option<StrengthByBounds>> {
    let pair = measured.pair;
    let Some(residual) = pair.role.residual.filter(|_| pair.role.kind == Kind::Writer) else { return Ok(None) };
    let operator = Operator::new(pair, base, candidate)?;
    let (rows, columns) = (operator.rows, operator.columns);
    if columns as u64 != pair.base.columns || columns < GROUP {
        return Ok(None);
    }
    let decode = |row: usize, out: &mut [f32]| pair.candidate.decode_rows(candidate, row as u64, out);
    let repeated = levels(&pair.candidate, candidate)?;
    if repeated < LEVELS || (repeated < REPEATED && levels(&pair.base, base)? < LEVELS) {
        return Ok(None);
    }
    // Blocks of a quantiser's own are short; neighbouring ones that have some values in common stand on unlike levels.
    let in_blocks = candidate.tensors.get(&pair.candidate.tensor).is_some_and(|entry| entry.dtype.block > 1);
    let grid = match in_blocks {
        true => Grid { run: GROUP, mirrored: false },
        false => Grid::of(&pair.candidate, candidate)?,
    };
    let mut line = vec![0f32; columns];

    let oriented = Oriented { operator, residual };
    if direction.len() != oriented.width() {
        return Ok(None);
    }
    let norms = match coordinates {
        Coordinates::RowNormalised => Some(oriented.row_norms(&oriented.operator.moments(None)?.0)),
        Coordinates::Raw => None,
    };
    let scale = |at: usize| norms.as_ref().and_then(|norms| norms.get(at)).copied().unwrap_or(1.0);
    let left: Vec<f64> = direction.iter().enumerate().map(|(at, value)| value * scale(at)).collect();
    let probe = Mat::from_fn(direction.len(), 1, |at, _| direction[at] / scale(at));
    let through = oriented.to_other(probe.as_ref(), Want::Both)?.base;
    let right: Vec<f64> = through.col(0).iter().map(|value| f64::from(*value)).collect();
    let (by_row, by_column) = if residual == Axis::Rows { (&left, &right) } else { (&right, &left) };

    // The rows that the edit moves most say most.
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|a, b| by_row[*b].abs().total_cmp(&by_row[*a].abs()).then(a.cmp(b)));
    order.truncate((ELEMENTS / columns).max(GROUP));
    order.sort_unstable();
    let mut cells = Vec::with_capacity(order.len() * columns);
    let mut before = vec![0f32; columns];
    for row in order {
        decode(row, &mut line)?;
        pair.base.decode_rows(base, row as u64, &mut before)?;
        let moves = by_column.iter().map(|column| by_row[row] * column);
        let bounds = line.chunks(grid.run).flat_map(|run| grid.bounds(run));
        let pieces = before.iter().zip(moves).zip(bounds);
        cells.extend(pieces.map(|((w, g), bounds)| Cell { w: f64::from(*w), g, bounds }));
    }
    Ok(solve(&cells))
}

/// Rows that are looked at to tell levels.
const ROWS: usize = 8;

/// A few rows of a matrix.
fn sample(view: &View, checkpoint: &Checkpoint) -> Result<Vec<Vec<f32>>> {
    let rows = (0..view.rows).step_by((view.rows as usize).div_ceil(ROWS).max(1));
    rows.map(|row| {
        let mut line = vec![0f32; view.columns as usize];
        view.decode_rows(checkpoint, row, &mut line)?;
        Ok(line)
    })
    .collect()
}

/// Share of a matrix's elements, zeros apart, that equal one of their fifteen neighbours, in a sample of rows: 0.01 and
/// less for numbers of 8 significant bits and more, 0.15 for FP8, 0.4 and more for 4 bits.
pub fn levels(view: &View, checkpoint: &Checkpoint) -> Result<f64> {
    let (mut seen, mut repeated) = (0usize, 0usize);
    for line in sample(view, checkpoint)? {
        for group in line.chunks_exact(GROUP) {
            let group: Vec<f32> = group.iter().copied().filter(|value| *value != 0.0).collect();
            seen += group.len();
            repeated += repeats(&group);
        }
    }
    Ok(repeated as f64 / seen.max(1) as f64)
}

/// How the elements of a matrix share their levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    /// Elements of a row that stand on the same levels.
    run: usize,
    /// Whether the opposite of a level is one.
    mirrored: bool,
}

impl Grid {
    fn of(view: &View, checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self::of_rows(&sample(view, checkpoint)?))
    }

    /// The longest runs whose halves have their values in common.
    fn of_rows(rows: &[Vec<f32>]) -> Self {
        let distinct = |values: &[f32]| -> BTreeSet<u32> {
            values.iter().filter(|value| **value != 0.0).map(|value| value.abs().to_bits()).collect()
        };
        let mut run = GROUP;
        while 2 * run <= LONGEST {
            let shares = rows.iter().flat_map(|row| row.chunks_exact(2 * run)).map(|both| {
                let (first, second) = both.split_at(run);
                let (first, second) = (distinct(first), distinct(second));
                let fewest = first.len().min(second.len());
                if fewest == 0 { f64::NAN } else { first.intersection(&second).count() as f64 / fewest as f64 }
            });
            if median(shares) < IN_COMMON {
                break;
            }
            run *= 2;
        }
        let has_opposite = |run: &[f32]| {
            let values: BTreeSet<u32> =
                run.iter().filter(|value| **value != 0.0).map(|value| value.to_bits()).collect();
            let both = values.iter().filter(|bits| values.contains(&(**bits ^ (1 << 31)))).count();
            if values.is_empty() { f64::NAN } else { both as f64 / values.len() as f64 }
        };
        let mirrored =
            run >= MIRRORED && median(rows.iter().flat_map(|row| row.chunks_exact(run)).map(has_opposite)) >= IN_COMMON;
        Self { run, mirrored }
    }

    /// Middle share of distinct values in a run: small where it shows most of its levels.
    fn distinct(&self, rows: &[Vec<f32>]) -> f64 {
        let share = |run: &[f32]| {
            let values: BTreeSet<u32> = run.iter().map(|value| value.to_bits()).collect();
            values.len() as f64 / run.len().max(1) as f64
        };
        median(rows.iter().flat_map(|row| row.chunks_exact(self.run)).map(share))
    }

    /// The levels of a run: an even grid where few of them are seen and those stand on one.
    fn all_levels(&self, run: &[f32], is_dense: bool) -> Levels {
        let seen = self.levels(run);
        if is_dense {
            return Levels::Seen(seen);
        }
        even(&seen).unwrap_or(Levels::Seen(seen))
    }

    /// The levels seen in a run, ascending.
    fn levels(&self, run: &[f32]) -> Vec<f64> {
        let mut levels: Vec<f64> = run.iter().map(|value| f64::from(*value)).collect();
        if self.mirrored {
            levels.extend(run.iter().map(|value| -f64::from(*value)));
        }
        levels.sort_by(f64::total_cmp);
        levels.dedup();
        levels
    }

    /// The bounds of every element of a run: midpoints to the next lower and the next higher level seen in it, none
    /// beyond the outermost.
    fn bounds(&self, run: &[f32]) -> Vec<[f64; 2]> {
        let levels = self.levels(run);
        let middle = |a: Option<&f64>, b: Option<&f64>| a.zip(b).map(|(a, b)| 0.5 * (a + b));
        run.iter()
            .map(|value| {
                let at = levels.partition_point(|level| *level < f64::from(*value));
                let below = at.checked_sub(1).and_then(|at| levels.get(at));
                let low = middle(below, levels.get(at)).unwrap_or(f64::NEG_INFINITY);
                let high = middle(levels.get(at), levels.get(at + 1)).unwrap_or(f64::INFINITY);
                [low, high]
            })
            .collect()
    }
}

/// Where the elements of a run can stand.
#[derive(Debug, Clone, PartialEq)]
enum Levels {
    /// On these, ascending.
    Seen(Vec<f64>),
    /// `step` apart, `low` among them.
    Even { low: f64, step: f64 },
}

impl Levels {
    /// The level next to a number.
    fn nearest(&self, value: f64) -> f64 {
        match self {
            // A run of nothing but one number has no step.
            Self::Even { low, step } if *step > 0.0 => low + step * ((value - low) / step).round(),
            Self::Even { low, .. } => *low,
            Self::Seen(levels) => {
                let at = levels.partition_point(|level| *level < value);
                let below = at.checked_sub(1).and_then(|at| levels.get(at)).copied();
                match (below, levels.get(at).copied()) {
                    (Some(below), Some(above)) if value - below <= above - value => below,
                    (_, Some(above)) => above,
                    (Some(below), None) => below,
                    (None, None) => value,
                }
            }
        }
    }
}

/// Types whose blocks stand on even levels, finer than those that a few elements show: elements that share a step, and
/// how many steps there are from zero to the largest (`Symmetric`), or from the lowest to the highest. ggml's
/// `ggml-quants.c`.
const EVEN_TYPES: &[(&DType, usize, Spread)] = &[
    (&Q8_0, 32, Spread::Symmetric(127.0)),
    (&Q8_1, 32, Spread::Symmetric(127.0)),
    (&Q6_K, 16, Spread::Symmetric(32.0)),
    (&Q5_0, 32, Spread::Symmetric(16.0)),
    (&Q5_1, 32, Spread::Range(31.0)),
    (&Q5_K, 32, Spread::Range(31.0)),
];

#[derive(Debug, Clone, Copy)]
enum Spread {
    Symmetric(f64),
    Range(f64),
}

impl Spread {
    fn levels(self, run: &[f32]) -> Levels {
        let low = run.iter().copied().fold(f32::INFINITY, f32::min);
        let high = run.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (low, high) = (f64::from(low), f64::from(high));
        match self {
            Self::Symmetric(steps) => Levels::Even { low: 0.0, step: low.abs().max(high.abs()) / steps },
            Self::Range(steps) => Levels::Even { low, step: (high - low) / steps },
        }
    }
}

/// The coarsest even grid through the smallest and the largest of some levels (ascending) that has all of them.
fn even(levels: &[f64]) -> Option<Levels> {
    let [low, .., high] = levels else { return None };
    let allowed = OFF_LEVEL.powi(2) * levels.len() as f64;
    let has_all = |step: f64| {
        let mut off = 0.0;
        levels.iter().all(|level| {
            let steps = (level - low) / step;
            off += (steps - steps.round()).powi(2);
            off <= allowed
        })
    };
    let steps = (levels.len() - 1..=EVEN).map(|count| (high - low) / count as f64);
    steps.filter(|step| *step > 0.0).find(|step| has_all(*step)).map(|step| Levels::Even { low: *low, step })
}

/// The smallest λ at which a removal of the direction `r` (unit, d numbers), made on the base's numbers and rounded to
/// the levels that the candidate stands on, would be chosen among the directions of `basis` (d × m) with a held-out c
/// of at least `enough`, and stand out of what the rounding leaves: tried in a sample of the other coordinates. `None`
/// where the two sides do not both stand on a grid.
pub fn planted_limit(oriented: &Oriented<'_>, r: &[f64], basis: &Mat<f64>, enough: f64) -> Result<Option<f64>> {
    if r.len() != oriented.width() || basis.nrows() != r.len() {
        return Ok(None);
    }
    let Some(sample) = Sample::of(oriented)? else { return Ok(None) };
    let base = sample.matrix(&sample.before);
    let direction = Mat::from_fn(r.len(), 1, |i, _| r[i]);
    let through = &base * &direction;
    let p = &base * basis;
    let (n, d) = (base.nrows(), base.ncols());
    let half = n / 2;
    for step in 0..STEPS {
        let lambda = WEAKEST * STEP.powi(step as i32);
        let change = sample.matrix(&sample.planted(r, &through, lambda)) - &base;
        let seen = &change * basis;
        let mut halves = [Grams::zeros(basis.ncols()), Grams::zeros(basis.ncols())];
        halves[0].add(p.subrows(0, half), seen.subrows(0, half));
        halves[1].add(p.subrows(half, n - half), seen.subrows(half, n - half));
        let [a, b] = consistency::held_out(&halves);
        // Its singular value over the noise edge of everything that moved.
        let along = &change * &direction;
        let size = (through.transpose() * &along)[(0, 0)].abs() / through.norm_l2().max(f64::MIN_POSITIVE);
        let edge = change.norm_l2() * ((n as f64).sqrt() + (d as f64).sqrt()) / ((n * d) as f64).sqrt();
        if 0.5 * (a + b) >= enough && size >= edge {
            return Ok(Some(lambda));
        }
    }
    Ok(Some(f64::INFINITY))
}

/// Lines of a matrix, of which runs share their levels, with the base's numbers and the levels that the candidate
/// stands on.
struct Sample {
    /// Whether the lines are rows of the residual stream, cut to the columns that were chosen; else whole other rows.
    by_columns: bool,
    run: usize,
    before: Vec<Vec<f32>>,
    levels: Vec<Vec<Levels>>,
}

impl Sample {
    /// `None` where the two sides do not both stand on a grid, or the matrix is not read as it is stored.
    fn of(oriented: &Oriented<'_>) -> Result<Option<Self>> {
        let operator = &oriented.operator;
        let (pair, base, candidate) = operator.sides();
        let plain =
            operator.columns as u64 == pair.base.columns && operator.gauge == Gauge::None && operator.order.is_none();
        if !plain || operator.columns < GROUP {
            return Ok(None);
        }
        if levels(&pair.base, base)? < LEVELS || levels(&pair.candidate, candidate)? < LEVELS {
            return Ok(None);
        }
        // What a type stores is known. Elsewhere levels are those seen; of a fine grid (8 bits in short runs) few are,
        // and rounding to those would be coarser than the grid is.
        let dtype = candidate.tensors.get(&pair.candidate.tensor).map(|entry| entry.dtype.name);
        let stored = EVEN_TYPES.iter().find(|(known, run, _)| {
            Some(known.name) == dtype && !pair.candidate.transposed && operator.columns.is_multiple_of(*run)
        });
        let grid = match stored {
            Some((_, run, _)) => Grid { run: *run, mirrored: false },
            None => Grid::of(&pair.candidate, candidate)?,
        };
        let is_dense = grid.distinct(&sample(&pair.candidate, candidate)?) <= DENSE;
        let levels_of = |run: &[f32]| match stored {
            Some((.., spread)) => spread.levels(run),
            None => grid.all_levels(run, is_dense),
        };
        let by_columns = oriented.residual == Axis::Rows;
        let (before, after) = lines(oriented, by_columns, grid.run)?;
        let levels = after.par_iter().map(|line| line.chunks(grid.run).map(levels_of).collect()).collect();
        Ok(Some(Self { by_columns, run: grid.run, before, levels }))
    }

    /// Lines as a matrix, n × d, whichever way they are stored.
    fn matrix(&self, lines: &[Vec<f32>]) -> Mat<f64> {
        let (height, width) = (lines.len(), lines.first().map_or(0, Vec::len));
        if self.by_columns {
            Mat::from_fn(width, height, |i, j| f64::from(lines[j][i]))
        } else {
            Mat::from_fn(height, width, |i, j| f64::from(lines[i][j]))
        }
    }

    /// The base's lines with λ of r taken out, rounded to the levels. `through` is W p, n × 1.
    fn planted(&self, r: &[f64], through: &Mat<f64>, lambda: f64) -> Vec<Vec<f32>> {
        let one = |row: usize, line: &[f32], levels: &[Levels]| -> Vec<f32> {
            let numbers = line.iter().enumerate().map(|(column, value)| {
                let g = if self.by_columns { r[row] * through[(column, 0)] } else { r[column] * through[(row, 0)] };
                let moved = f64::from(*value) - lambda * g;
                levels.get(column / self.run).map_or(moved, |levels| levels.nearest(moved)) as f32
            });
            numbers.collect()
        };
        self.before.iter().zip(&self.levels).enumerate().map(|(row, (line, levels))| one(row, line, levels)).collect()
    }
}

/// Lines of base and candidate, a sample of them evenly over the matrix.
type Lines = Vec<Vec<f32>>;

/// W and the candidate in the sample: all rows cut to some runs of columns, or some rows whole.
fn lines(oriented: &Oriented<'_>, by_columns: bool, run: usize) -> Result<(Lines, Lines)> {
    let operator = &oriented.operator;
    let chosen: Vec<usize> = if by_columns {
        let runs = operator.columns / run;
        let wanted = (PLANTED / run).clamp(1, runs.max(1));
        let starts = (0..wanted).map(|at| at * runs / wanted * run);
        starts.flat_map(|start| start..(start + run).min(operator.columns)).collect()
    } else {
        let wanted = PLANTED.min(operator.rows);
        (0..wanted).map(|at| at * operator.rows / wanted).collect()
    };
    let rows: Vec<usize> = if by_columns { (0..operator.rows).collect() } else { chosen.clone() };
    let pick = |line: &[f32]| -> Vec<f32> {
        if by_columns { chosen.iter().filter_map(|at| line.get(*at)).copied().collect() } else { line.to_vec() }
    };
    let (mut w, mut x) = (vec![0f32; operator.columns], vec![0f32; operator.columns]);
    let (mut before, mut after) = (Lines::new(), Lines::new());
    for row in rows {
        operator.decode(row, &mut w, &mut x)?;
        before.push(pick(&w));
        after.push(pick(&x));
    }
    Ok((before, after))
}

/// One element: its number in the base, what a removal of strength 1 takes from it, and the bounds that it was between.
struct Cell {
    w: f64,
    g: f64,
    bounds: [f64; 2],
}

/// Elements of a group that equal an earlier one of it.
fn repeats(group: &[f32]) -> usize {
    let mut sorted = group.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

/// How far a strength is from the bounds.
#[derive(Debug, Clone, Copy, Default)]
struct Misfit {
    squares: f64,
    slope: f64,
    outside: usize,
}

fn misfit(cells: &[Cell], lambda: f64) -> Misfit {
    let mut total = Misfit::default();
    for Cell { w, g, bounds: [low, high] } in cells {
        let x = w - lambda * g;
        let off = if x > *high {
            x - high
        } else if x < *low {
            x - low
        } else {
            continue;
        };
        total.squares += off * off;
        total.slope -= g * off;
        total.outside += 1;
    }
    total
}

/// The strength with the least misfit, if it explains what the untouched base does not; `None` where bounds tell
/// nothing.
fn solve(cells: &[Cell]) -> Option<StrengthByBounds> {
    let [mut low, mut high] = RANGE;
    for _ in 0..22 {
        let middle = 0.5 * (low + high);
        if misfit(cells, middle).slope > 0.0 {
            high = middle;
        } else {
            low = middle;
        }
    }
    let lambda = 0.5 * (low + high);
    let (best, none) = (misfit(cells, lambda), misfit(cells, 0.0));
    let share = |count: usize| count as f64 / cells.len().max(1) as f64;
    let explains = none.squares >= FACTOR * best.squares
        && share(best.outside) <= OUTSIDE
        && none.outside >= MOVED
        && none.outside as f64 >= MOVED_FACTOR * best.outside as f64
        && RANGE[0] + 0.01 < lambda
        && lambda < RANGE[1] - 0.01;
    if !explains && share(best.outside.max(none.outside)) > OUTSIDE {
        return None;
    }
    // With nothing out of bounds any of a range does; a millionth of the base's own misfit stands for none.
    let enough = (2.0 * best.squares).max(1e-6 * none.squares);
    let reach = |sign: f64| {
        let (mut inside, mut beyond) = (0.0, 1.0);
        for _ in 0..14 {
            let middle = 0.5 * (inside + beyond);
            if misfit(cells, lambda + sign * middle).squares > enough {
                beyond = middle;
            } else {
                inside = middle;
            }
        }
        beyond
    };
    Some(StrengthByBounds { lambda: explains.then_some(lambda), stderr: 0.25 * (reach(1.0) + reach(-1.0)) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::demo::tiny::{normal, random};

    /// Sixteen codes to a group, as a quantiser with a scale and a smallest value rounds them.
    fn rounded(values: &[f32]) -> Vec<f32> {
        values
            .chunks(32)
            .flat_map(|block| {
                let low = block.iter().copied().fold(f32::INFINITY, f32::min);
                let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let step = (high - low) / 15.0;
                block.iter().map(move |value| low + step * ((value - low) / step).round()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Cells of a base, on levels itself or not, that lost λ g before it was rounded.
    fn cells(seed: u64, lambda: f64, on_levels: bool) -> (Vec<Cell>, f64) {
        let mut source = random(seed, "grid");
        let w = normal(&mut source, 1 << 15);
        let w = if on_levels { rounded(&w) } else { w };
        let g: Vec<f32> = normal(&mut source, 1 << 15).iter().map(|value| 0.1 * value).collect();
        let edited: Vec<f32> = w.iter().zip(&g).map(|(w, g)| w - lambda as f32 * g).collect();
        let x = rounded(&edited);
        let (mut gd, mut gg) = (0.0, 0.0);
        for ((x, w), g) in x.iter().zip(&w).zip(&g) {
            gd += f64::from((w - x) * g);
            gg += f64::from(g * g);
        }
        let grid = Grid { run: GROUP, mirrored: false };
        let bounds = x.chunks(GROUP).flat_map(|run| grid.bounds(run));
        let cells = w.iter().zip(&g).zip(bounds);
        (cells.map(|((w, g), bounds)| Cell { w: f64::from(*w), g: f64::from(*g), bounds }).collect(), gd / gg)
    }

    #[test]
    fn strength_is_recovered_where_regression_is_led_astray() {
        for lambda in [0.4, 0.6] {
            let (cells, regression) = cells(1, lambda, true);
            assert!((regression - lambda).abs() > 0.1, "a base on levels takes part of the edit: {regression}");
            let found = solve(&cells).unwrap();
            assert!((found.lambda.unwrap() - lambda).abs() < 0.03, "{lambda}: {found:?}");
            assert!(found.stderr < 0.06, "{found:?}");
        }
    }

    #[test]
    fn an_untouched_base_has_no_strength() {
        for on_levels in [false, true] {
            assert_eq!(solve(&cells(2, 0.0, on_levels).0).and_then(|found| found.lambda), None);
        }
        assert_eq!(solve(&[]).and_then(|found| found.lambda), None);
    }

    #[test]
    fn where_the_bounds_do_not_tell_the_error_is_as_wide_as_they_are() {
        // An edit so faint that no element of a base on levels reaches another one.
        let (cells, regression) = cells(3, 0.1, true);
        let found = solve(&cells).unwrap();
        assert_eq!(found.lambda, None);
        assert!((regression - 0.1).abs() < 2.0 * found.stderr, "{regression} ± {}", found.stderr);
    }

    #[test]
    fn runs_share_levels_as_far_as_their_scale_goes() {
        let values = normal(&mut random(5, "runs"), 4096);
        let scaled = |length: usize| -> Vec<f32> {
            values
                .chunks(length)
                .flat_map(|run| {
                    let step = run.iter().fold(0f32, |most, value| most.max(value.abs())) / 31.0;
                    run.iter().map(move |value| step * (value / step).round()).collect::<Vec<_>>()
                })
                .collect()
        };
        assert_eq!(Grid::of_rows(&[scaled(32)]), Grid { run: 32, mirrored: false });
        assert_eq!(Grid::of_rows(&[scaled(512)]), Grid { run: 128, mirrored: true });
        assert_eq!(Grid::of_rows(&[values]).run, GROUP);
        let seen = Levels::Seen(vec![-1.0, 0.5, 2.0]);
        assert_eq!([1.4, -7.0, 9.0].map(|value| seen.nearest(value)), [2.0, -1.0, 2.0]);
    }

    #[test]
    fn an_even_grid_is_known_by_the_few_levels_that_are_seen() {
        // 8 bits in runs of 32, and what is left of 6 bits in BF16.
        for seed in 0..50 {
            let values = normal(&mut random(seed, "even"), 32);
            let rounded = |steps: f32| -> Vec<f32> {
                let step = values.iter().fold(0f32, |most, value| most.max(value.abs())) / steps;
                values.iter().map(|value| step * (value / step).round()).collect()
            };
            let stored: Vec<f32> = rounded(31.0).iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect();
            for (run, steps) in [(rounded(127.0), 127.0), (stored, 31.0)] {
                let grid = Grid { run: 32, mirrored: false };
                let Levels::Even { step: found, .. } = grid.all_levels(&run, false) else { panic!("{seed}: {run:?}") };
                let Levels::Even { step, .. } = Spread::Symmetric(steps).levels(&run) else { unreachable!() };
                assert!((found / step - 1.0).abs() < 0.05, "{seed}: {}", found / step);
            }
        }
        let floats: Vec<f64> = normal(&mut random(7, "floats"), 16).iter().map(|value| f64::from(*value)).collect();
        let mut floats = floats;
        floats.sort_by(f64::total_cmp);
        assert_eq!(even(&floats), None);
        assert_eq!(even(&[]), None);
        assert_eq!(Levels::Even { low: -1.0, step: 0.5 }.nearest(0.8), 1.0);
    }

    #[test]
    fn bounds_are_midpoints_of_levels_seen() {
        let found = Grid { run: GROUP, mirrored: false }.bounds(&[1.0, 0.0, 3.0, 1.0]);
        assert_eq!(found, [[0.5, 2.0], [f64::NEG_INFINITY, 0.5], [2.0, f64::INFINITY], [0.5, 2.0]]);
        assert_eq!(repeats(&[1.0, 0.0, 3.0, 1.0]), 1);
    }

    proptest! {
        #[test]
        fn any_strength_through_four_bits(seed in 0u64..1000, lambda in 0.4f64..2.0, on_levels in any::<bool>()) {
            let found = solve(&cells(seed, lambda, on_levels).0).unwrap();
            prop_assert!((found.lambda.unwrap() - lambda).abs() < 0.05, "{found:?}");
        }
    }
}
