//! The levels beside a coded number: between which bounds it was before it was rounded.
//!
//! A block of ggml's types holds scales and codes. With every code the lowest and every code the highest, the same
//! decoder tells where a block's levels begin and end, and the type how many lie between.

use super::quant_iq;
use super::{DType, IQ4_NL, IQ4_XS, MXFP4, NVFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};

/// Share of a step by which honest quantisers miss the nearest level, as they divide by a scale that they store
/// rounded: 0.051 with ggml's `Q8_0`, under 0.02 with its other types.
const MISSED: f32 = 0.0625;
/// Steps that a number may lie beyond the last level: 1 to 2.5 as quantisers choose their scales, 8.9 where `Q2_K` was
/// searched with importances spread over four orders of magnitude.
const BEYOND: f32 = 10.0;

/// What a scheme codes a number as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LevelChoice {
    /// Always the nearest of its levels.
    Nearest,
    /// The nearest, but for some numbers where a search was weighted by importance: those of another scale that was
    /// tried.
    Weighted,
    /// What makes up for the errors of other numbers (GPTQ), or of weights that were scaled before (AWQ).
    Free,
}

/// A coded number and the levels beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CodedLevel {
    /// The number.
    pub value: f32,
    /// The next lower level; `None` for the lowest.
    pub below: Option<f32>,
    /// The next higher level; `None` for the highest.
    pub above: Option<f32>,
    /// By how much scales that are stored rounded move it.
    pub slack: f32,
    /// How far a number may lie beyond the last level, besides some steps.
    pub reach: f32,
}

impl CodedLevel {
    /// A level among its neighbours, whichever of them is higher.
    pub fn between(value: f32, one: Option<f32>, other: Option<f32>, slack: f32) -> Self {
        let turned = one.is_some_and(|one| one > value) || other.is_some_and(|other| other < value);
        let (below, above) = if turned { (other, one) } else { (one, other) };
        Self { value, below, above, slack, reach: 0.0 }
    }

    /// The level of one among evenly coded numbers, `last` the highest code.
    pub fn of_code(code: u32, last: u32, slack: f32, number: impl Fn(u32) -> f32) -> Self {
        let (one, other) = (code.checked_sub(1).map(&number), (code < last).then(|| number(code + 1)));
        Self::between(number(code), one, other, slack)
    }

    /// The level of a number out of an ascending table, times a scale.
    pub fn in_table(table: &[f32], entry: f32, scale: f32, slack: f32) -> Self {
        let at = table.partition_point(|level| *level < entry);
        let scaled = |at: Option<usize>| at.and_then(|at| table.get(at)).map(|level| level * scale);
        Self::between(entry * scale, scaled(at.checked_sub(1)), scaled(at.checked_add(1)), slack)
    }

    /// The distance to a neighbour, 0 where there is none.
    fn step(&self) -> f32 {
        (self.above.or(self.below).unwrap_or(self.value) - self.value).abs()
    }

    /// What a scale moves the number by that is stored in binary16: twice half a last place, which is large for scales
    /// under 6e-5.
    fn of_half_scale(&self) -> f32 {
        const LAST_PLACE: f32 = 1.0 / 1024.0;
        const SMALLEST: f32 = 1.0 / (1 << 24) as f32;
        let step = self.step();
        self.value.abs() * LAST_PLACE + if step > 0.0 { self.value.abs() / step * SMALLEST } else { 0.0 }
    }

    /// Between what the number was when the nearest level was coded. No number lies between bounds that are none.
    pub fn bounds(&self) -> [f32; 2] {
        let step = |level: Option<f32>| level.map(|level| (level - self.value).abs());
        let (down, up) = (step(self.below), step(self.above));
        let width = |own: Option<f32>, inner: Option<f32>| match own {
            Some(step) => (0.5 + MISSED) * step + self.slack,
            None => BEYOND * inner.unwrap_or(0.0) + self.reach + self.slack,
        };
        [self.value - width(down, up), self.value + width(up, down)]
    }
}

/// Values that stand between the lowest and the highest code.
enum Spread {
    /// So many, evenly.
    Even(u16),
    /// Those of a table times a scale, of which the second is the entry that the codes of the first make.
    Table(&'static [f32], f32),
}

/// How the blocks of a ggml type stand on levels.
struct Blocks {
    dtype: &'static DType,
    /// From which byte of a block to before which there are scales; the others are codes.
    scales: &'static [(usize, usize)],
    /// Bytes that make every code the lowest and the highest.
    ends: [u8; 2],
    spread: Spread,
    /// Steps of the scales of sub-blocks, which are rounded to a share of the largest.
    sub_scales: Option<f32>,
    choice: LevelChoice,
}

/// E2M1, ascending and doubled.
const E2M1: [f32; 15] = [-12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// The levels of IQ4_NL and IQ4_XS.
const IQ4: [f32; 16] = {
    let mut table = [0.0; 16];
    let mut at = 0;
    while at < 16 {
        table[at] = quant_iq::LEVELS[at] as f32;
        at += 1;
    }
    table
};

/// ggml's types whose numbers are coded one by one. Layouts are those of `ggml-common.h`, choices those of
/// `ggml-quants.c` as measured with its own quantiser (docs/detector.md).
static BLOCKS: &[Blocks] = &[
    Blocks::even(&Q4_0, &[(0, 2)], 16, None, LevelChoice::Weighted),
    Blocks::even(&Q4_1, &[(0, 4)], 16, None, LevelChoice::Weighted),
    Blocks::even(&Q5_0, &[(0, 2)], 32, None, LevelChoice::Weighted),
    Blocks::even(&Q5_1, &[(0, 4)], 32, None, LevelChoice::Weighted),
    Blocks { ends: [0x80, 0x7f], ..Blocks::even(&Q8_0, &[(0, 2)], 256, None, LevelChoice::Nearest) },
    Blocks::even(&Q2_K, &[(0, 16), (80, 84)], 4, Some(15.0), LevelChoice::Nearest),
    Blocks::even(&Q3_K, &[(96, 110)], 8, Some(31.0), LevelChoice::Nearest),
    Blocks::even(&Q4_K, &[(0, 16)], 16, Some(63.0), LevelChoice::Nearest),
    Blocks::even(&Q5_K, &[(0, 16)], 32, Some(63.0), LevelChoice::Nearest),
    Blocks::even(&Q6_K, &[(192, 210)], 64, Some(127.0), LevelChoice::Nearest),
    Blocks::table(&IQ4_NL, &[(0, 2)], 0x00, &IQ4, -127.0, None),
    Blocks::table(&IQ4_XS, &[(0, 8)], 0x00, &IQ4, -127.0, Some(31.0)),
    Blocks::table(&MXFP4, &[(0, 1)], 0x77, &E2M1, 12.0, None),
    Blocks::table(&NVFP4, &[(0, 4)], 0x77, &E2M1, 12.0, None),
];

impl Blocks {
    const fn even(
        dtype: &'static DType,
        scales: &'static [(usize, usize)],
        levels: u16,
        sub_scales: Option<f32>,
        choice: LevelChoice,
    ) -> Self {
        Self { dtype, scales, ends: [0x00, 0xff], spread: Spread::Even(levels), sub_scales, choice }
    }

    const fn table(
        dtype: &'static DType,
        scales: &'static [(usize, usize)],
        codes: u8,
        table: &'static [f32],
        entry: f32,
        sub_scales: Option<f32>,
    ) -> Self {
        let spread = Spread::Table(table, entry);
        Self { dtype, scales, ends: [codes, codes], spread, sub_scales, choice: LevelChoice::Nearest }
    }

    /// The numbers of blocks whose codes are all made of one byte.
    fn with_codes(&self, blocks: &[u8], byte: u8) -> Vec<f32> {
        let mut bytes = vec![byte; blocks.len()];
        for (block, made) in blocks.chunks_exact(self.dtype.bytes).zip(bytes.chunks_exact_mut(self.dtype.bytes)) {
            for scales in self.scales {
                made[scales.0..scales.1].copy_from_slice(&block[scales.0..scales.1]);
            }
        }
        let mut numbers = vec![0.0; blocks.len() / self.dtype.bytes * self.dtype.block];
        (self.dtype.decode)(&bytes, &mut numbers);
        numbers
    }

    fn levels(&self, blocks: &[u8], out: &mut [CodedLevel]) {
        let mut numbers = vec![0.0; blocks.len() / self.dtype.bytes * self.dtype.block];
        (self.dtype.decode)(blocks, &mut numbers);
        let ends = self.ends.map(|byte| self.with_codes(blocks, byte));
        for (at, level) in out.iter_mut().enumerate() {
            let end = |side: usize| ends[side].get(at).copied().unwrap_or(f32::NAN);
            let value = numbers.get(at).copied().unwrap_or(f32::NAN);
            *level = match self.spread {
                Spread::Even(count) => {
                    let (low, high) = (end(0).min(end(1)), end(0).max(end(1)));
                    let step = (high - low) / f32::from(count - 1);
                    // A level within a quarter of a step of the last one is that one.
                    let below = (value - low > 0.25 * step).then_some(value - step);
                    let above = (high - value > 0.25 * step).then_some(value + step);
                    CodedLevel { value, below, above, slack: 0.0, reach: 0.0 }
                }
                Spread::Table(table, entry) => {
                    let scale = end(0) / entry;
                    // Under a scale of zero there is one level.
                    let table: &[f32] = if scale == 0.0 { &[] } else { table };
                    CodedLevel { value, ..CodedLevel::in_table(table, (value / scale).round(), scale, 0.0) }
                }
            };
            level.slack = level.of_half_scale();
        }
        let Some(sub_scales) = self.sub_scales else { return };
        for block in out.chunks_mut(self.dtype.block) {
            // Half of what its own scale is rounded to, over all levels: sub-blocks much fainter than another of their
            // block are on a scale that is far too fine or none at all.
            let most = block.iter().map(CodedLevel::step).fold(0.0, f32::max);
            let levels = match self.spread {
                Spread::Even(count) => f32::from(count),
                Spread::Table(table, _) => table.len() as f32,
            };
            block.iter_mut().for_each(|level| level.reach = 0.5 * levels * most / sub_scales);
        }
    }
}

/// The levels of whole blocks of a type, one for each of their elements; `None` for types whose numbers are not coded
/// one by one.
pub fn of_blocks(dtype: &DType, blocks: &[u8], out: &mut [CodedLevel]) -> Option<LevelChoice> {
    let known = BLOCKS.iter().find(|known| known.dtype == dtype)?;
    known.levels(blocks, out);
    Some(known.choice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A block whose binary16 scales are ordinary numbers.
    fn block(known: &Blocks, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = vec![0; known.dtype.bytes];
        random.fill(&mut bytes);
        let halves: &[usize] = match known.dtype.name {
            "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL" | "IQ4_XS" => &[0],
            "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => &[0, 2],
            "Q2_K" => &[80, 82],
            "Q3_K" => &[108],
            "Q6_K" => &[208],
            "MXFP4" => {
                bytes[0] = 120;
                &[]
            }
            _ => {
                bytes[..4].copy_from_slice(&[0x38, 0x30, 0x41, 0x28]);
                &[]
            }
        };
        for at in halves {
            bytes[*at..at + 2].copy_from_slice(&half::f16::from_f32(0.01 + random.f32()).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn levels_are_those_that_other_codes_stand_for() {
        let mut random = fastrand::Rng::with_seed(7);
        for known in BLOCKS {
            let first = block(known, &mut random);
            let mut levels = vec![CodedLevel::default(); known.dtype.block];
            assert!(of_blocks(known.dtype, &first, &mut levels).is_some());
            // The same scales under many other codes show every level of each element.
            let mut seen: Vec<Vec<f32>> = vec![Vec::new(); known.dtype.block];
            for _ in 0..4000 {
                let mut other = first.clone();
                random.fill(&mut other);
                known.scales.iter().for_each(|at| other[at.0..at.1].copy_from_slice(&first[at.0..at.1]));
                let mut numbers = vec![0.0; known.dtype.block];
                (known.dtype.decode)(&other, &mut numbers);
                seen.iter_mut().zip(numbers).for_each(|(seen, number)| seen.push(number));
            }
            for (mut seen, level) in seen.into_iter().zip(levels) {
                seen.sort_by(f32::total_cmp);
                seen.dedup();
                let size = seen.iter().fold(0f32, |most, value| most.max(value.abs()));
                let close = |a: Option<f32>, b: Option<f32>| match (a, b) {
                    (Some(a), Some(b)) => (a - b).abs() <= 1e-4 * size,
                    (a, b) => a == b,
                };
                let other = |value: &&f32| (**value - level.value).abs() > 1e-5 * size;
                let below = seen.iter().filter(other).copied().filter(|value| *value < level.value).reduce(f32::max);
                let above = seen.iter().filter(other).copied().filter(|value| *value > level.value).reduce(f32::min);
                let name = known.dtype.name;
                assert!(close(level.below, below), "{name}: {level:?}, below {below:?}");
                assert!(close(level.above, above), "{name}: {level:?}, above {above:?}");
            }
        }
    }

    #[test]
    fn bounds_are_midpoints_with_some_room_and_wide_at_the_ends() {
        let level = CodedLevel::of_code(3, 15, 0.0, |code| 2.0 * code as f32);
        assert_eq!(level.bounds(), [6.0 - 1.125, 6.0 + 1.125]);
        let turned = CodedLevel::of_code(0, 15, 0.5, |code| -2.0 * code as f32);
        assert_eq!(turned, CodedLevel::between(0.0, None, Some(-2.0), 0.5));
        assert_eq!(turned.bounds(), [-1.625, 20.5]);
        let zero = CodedLevel::of_code(4, 15, 0.0, |_| 0.0);
        assert_eq!(zero.bounds(), [0.0, 0.0]);
        let table = CodedLevel::in_table(&[-1.0, 0.0, 0.5], 0.0, -2.0, 0.0);
        assert_eq!((table.below, table.above), (Some(-1.0), Some(2.0)));
        let none = CodedLevel::in_table(&[-1.0, 1.0], f32::NAN, 1.0, 0.0).bounds();
        assert!(!(none[0] <= 0.0 && 0.0 <= none[1]));
    }

    proptest! {
        #[test]
        fn any_bytes_have_levels_and_no_panic(which in 0..BLOCKS.len(), seed: u64, elements in 0usize..600) {
            let known = &BLOCKS[which];
            let mut bytes = vec![0; 2 * known.dtype.bytes];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            let mut out = vec![CodedLevel::default(); elements];
            prop_assert!(of_blocks(known.dtype, &bytes, &mut out).is_some());
        }
    }
}
