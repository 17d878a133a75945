//! Proof that a tensor is the base through a known quantiser and back: the base is quantised again and compared.
//!
//! Only schemes without a search have one answer (a grid and a largest value per group); k-quants, GPTQ, AWQ and
//! importance-weighted quantisers do not, and are left to the statistics of [`super::summary`].

use super::kernel::round_to;

/// A grid that values are rounded to, after division by a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Grid {
    /// A small float: precision, smallest normal exponent; the scale maps the group's largest value to the last number.
    Float(u32, i32, f32),
    /// Symmetric integers -n ..= n; the scale maps the largest magnitude to n.
    Integer(f32),
    /// ggml Q4_0: the value of largest magnitude, sign kept, maps to -8; codes 0 to 15 around 8.
    SignedNibble,
    /// The 16 normal quantiles of bitsandbytes' NF4 (Dettmers et al. 2023), times the group's largest magnitude.
    Nf4,
}

/// A quantiser: grid, group, and the precision its scale is stored in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantizer {
    grid: Grid,
    group: Group,
    scale_in_f16: bool,
}

/// Which elements share a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Group {
    Tensor,
    /// So many neighbours in a row; a whole row where it is that long.
    Run(usize),
}

const E4M3: Grid = Grid::Float(4, -6, 448.0);
const E5M2: Grid = Grid::Float(3, -14, 57_344.0);
const INT8: Grid = Grid::Integer(127.0);
const INT4: Grid = Grid::Integer(7.0);

/// Groups shorter than this have so few elements per scale that anything would fit.
const SHORTEST_GROUP: usize = 16;

/// Every scheme to try on rows of `columns` elements: each grid with a scale per tensor and per every run length that
/// divides the row, and the two ggml types that have one answer.
pub fn schemes(columns: usize) -> Vec<Quantizer> {
    let runs: Vec<usize> =
        (SHORTEST_GROUP..=columns).rev().filter(|length| columns.is_multiple_of(*length)).take(64).collect();
    let mut all = Vec::new();
    for grid in [E4M3, E5M2, INT8, INT4, Grid::Nf4] {
        all.extend(runs.iter().map(|length| Quantizer { grid, group: Group::Run(*length), scale_in_f16: false }));
        all.push(Quantizer { grid, group: Group::Tensor, scale_in_f16: false });
    }
    for grid in [INT8, Grid::SignedNibble] {
        all.push(Quantizer { grid, group: Group::Run(32), scale_in_f16: true });
    }
    all
}

/// Share of elements that must come out exactly; the rest may be one last place away (tools divide, or multiply by a
/// reciprocal).
const EXACT: f64 = 0.9;

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

impl Quantizer {
    /// Its name in reports.
    pub fn name(&self) -> String {
        let grid = match (self.grid, self.scale_in_f16) {
            (Grid::SignedNibble, _) => return "Q4_0".to_owned(),
            (Grid::Integer(_), true) => return "Q8_0".to_owned(),
            (Grid::Float(4, ..), _) => "F8_E4M3",
            (Grid::Float(..), _) => "F8_E5M2",
            (Grid::Integer(top), _) => {
                if top > 7.0 {
                    "int8"
                } else {
                    "int4"
                }
            }
            (Grid::Nf4, _) => "NF4",
        };
        match self.group {
            Group::Tensor => format!("{grid}, one scale"),
            Group::Run(length) => format!("{grid}, a scale per {length}"),
        }
    }

    /// Whether it rounds to a float format: a cast with a scale, and not integers.
    pub fn is_cast(&self) -> bool {
        matches!(self.grid, Grid::Float(..))
    }

    /// Whether its scale is that of the whole tensor.
    pub fn needs_largest(&self) -> bool {
        self.group == Group::Tensor
    }

    /// Length of the first group in a row of `columns`; a scale per tensor is tried on a short run.
    pub fn first_group(&self, columns: usize) -> usize {
        match self.group {
            Group::Tensor => columns.min(64),
            Group::Run(length) => length,
        }
    }

    /// Quantises whole rows of the base and back, in place; `largest` is the largest magnitude of the whole tensor.
    fn apply(&self, rows: &mut [f32], columns: usize, largest: f32) {
        for row in rows.chunks_mut(columns) {
            match self.group {
                Group::Tensor => self.group_of(row, largest),
                Group::Run(length) => row.chunks_mut(length).for_each(|run| self.group_of(run, magnitude(run))),
            }
        }
    }

    fn group_of(&self, values: &mut [f32], largest: f32) {
        if largest == 0.0 {
            return;
        }
        let stored = |scale: f32| if self.scale_in_f16 { half::f16::from_f32(scale).to_f32() } else { scale };
        match self.grid {
            Grid::Float(precision, exponent, top) => {
                let scale = largest / top;
                values.iter_mut().for_each(|value| *value = round_to(*value / scale, precision, exponent) * scale);
            }
            Grid::Integer(top) => {
                // ggml rounds with the exact scale, halves away from zero, and stores the scale in binary16; the others
                // round halves to even. In bf16 halves are common.
                let scale = largest / top;
                let round = if self.scale_in_f16 { f32::round } else { f32::round_ties_even };
                values.iter_mut().for_each(|value| *value = round(*value / scale) * stored(scale));
            }
            Grid::SignedNibble => {
                let peak = values.iter().fold(0f32, |best, value| if value.abs() > best.abs() { *value } else { best });
                let scale = peak / -8.0;
                let inverse = 1.0 / scale;
                for value in values {
                    let code = (*value * inverse + 8.5).floor().clamp(0.0, 15.0);
                    *value = (code - 8.0) * stored(scale);
                }
            }
            Grid::Nf4 => values.iter_mut().for_each(|value| {
                let wanted = *value / largest;
                let nearest = NF4.iter().copied().fold(NF4[0], |best, level| {
                    if (level - wanted).abs() < (best - wanted).abs() { level } else { best }
                });
                *value = nearest * largest;
            }),
        }
    }
}

fn magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |best, value| best.max(value.abs()))
}

/// Counts of a comparison with one scheme.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Match {
    exact: u64,
    close: u64,
    total: u64,
}

impl Match {
    /// Compares some rows of base and candidate under a scheme. `(precision, exponent)` is the candidate's own dtype.
    pub fn add(
        &mut self,
        scheme: &Quantizer,
        base: &[f32],
        candidate: &[f32],
        columns: usize,
        largest: f32,
        (precision, exponent): (u32, i32),
    ) {
        let mut again = base.to_vec();
        scheme.apply(&mut again, columns, largest);
        let step = 2f32.powi(1 - precision as i32) * 1.01;
        for (again, found) in again.iter().zip(candidate) {
            let again = round_to(*again, precision, exponent);
            self.exact += u64::from(again == *found);
            self.close += u64::from((again - found).abs() <= step * found.abs());
        }
        self.total += candidate.len() as u64;
    }

    /// Adds another part of the same tensor.
    pub fn merge(&mut self, other: Self) {
        self.exact += other.exact;
        self.close += other.close;
        self.total += other.total;
    }

    /// Whether what was compared is the base through that scheme.
    pub fn holds(&self) -> bool {
        self.total > 0 && self.close == self.total && self.exact as f64 >= EXACT * self.total as f64
    }
}
