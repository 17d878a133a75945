//! ggml's IQ types: rows of a codebook with signs and small scales.

use super::block::{block_type, half, half_from_bits, nibbles};
use super::quant_grids as grids;

block_type!(IQ1_S, 256 in 2 + 32 + 16, iq1_s, "1.56 bits: ternary codebook rows, eight three-bit scales.");
block_type!(IQ1_M, 256 in 32 + 16 + 8, iq1_m, "1.75 bits: ternary codebook rows, sixteen three-bit scales.");
block_type!(IQ2_XXS, 256 in 2 + 64, iq2_xxs, "2.06 bits: codebook of 256 rows of eight.");
block_type!(IQ2_XS, 256 in 2 + 64 + 8, iq2_xs, "2.31 bits: codebook of 512 rows of eight.");
block_type!(IQ2_S, 256 in 2 + 64 + 8 + 8, iq2_s, "2.56 bits: codebook of 1024 rows of eight.");
block_type!(IQ3_XXS, 256 in 2 + 64 + 32, iq3_xxs, "3.06 bits: codebook of 256 rows of four.");
block_type!(IQ3_S, 256 in 2 + 64 + 8 + 32 + 4, iq3_s, "3.44 bits: codebook of 512 rows of four.");
block_type!(IQ4_NL, 32 in 2 + 16, iq4_nl, "Four bits, sixteen unequally spaced levels.");
block_type!(IQ4_XS, 256 in 2 + 2 + 4 + 128, iq4_xs, "As IQ4_NL, in blocks of 256 with eight six-bit scales.");

/// The levels of IQ4_NL and IQ4_XS.
pub(super) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Spreads packed codebook rows of eight two-bit indices into levels.
const fn rows_of_eight<const ROWS: usize>(packed: &[u16; ROWS], levels: [i8; 4]) -> [[i8; 8]; ROWS] {
    let mut rows = [[0; 8]; ROWS];
    let mut row = 0;
    while row < ROWS {
        let mut i = 0;
        while i < 8 {
            rows[row][i] = levels[((packed[row] >> (2 * i)) & 3) as usize];
            i += 1;
        }
        row += 1;
    }
    rows
}

/// Spreads packed codebook rows of four indices in nibbles into levels.
const fn rows_of_four<const ROWS: usize>(packed: &[u16; ROWS], levels: [i8; 8]) -> [[i8; 4]; ROWS] {
    let mut rows = [[0; 4]; ROWS];
    let mut row = 0;
    while row < ROWS {
        let mut i = 0;
        while i < 4 {
            rows[row][i] = levels[((packed[row] >> (4 * i)) & 7) as usize];
            i += 1;
        }
        row += 1;
    }
    rows
}

static IQ1_ROWS: [[i8; 8]; 2048] = rows_of_eight(&grids::IQ1, [-1, 0, 1, 0]);
static IQ2_XXS_ROWS: [[i8; 8]; 256] = rows_of_eight(&grids::IQ2_XXS, [8, 25, 43, 0]);
static IQ2_XS_ROWS: [[i8; 8]; 512] = rows_of_eight(&grids::IQ2_XS, [8, 25, 43, 0]);
static IQ2_S_ROWS: [[i8; 8]; 1024] = rows_of_eight(&grids::IQ2_S, [8, 25, 43, 0]);
static IQ3_XXS_ROWS: [[i8; 4]; 256] = rows_of_four(&grids::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
static IQ3_S_ROWS: [[i8; 4]; 512] = rows_of_four(&grids::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);

/// Eight signs from seven stored bits: the eighth makes the number of minus signs even.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let bits = (seven & 127) as u8;
    bits | ((bits.count_ones() as u8 & 1) << 7)
}

/// A codebook row under a scale, with a minus sign where a bit of `signs` is set (from its lowest bit on).
#[inline(always)]
fn signed<const N: usize>(row: &[i8; N], signs: u8, scale: f32, out: &mut [f32; N]) {
    for (i, (&level, out)) in (0u32..).zip(row.iter().zip(out)) {
        let sign = u32::from(signs) << (31 - i) & 0x8000_0000;
        *out = f32::from_bits((scale * f32::from(level)).to_bits() ^ sign);
    }
}

/// Scale, then for every 32 elements: four row numbers and a word of four sevens of signs and a four-bit scale.
#[inline(always)]
fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let scale = half(block, 0);
    for (codes, out) in block[2..].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let word = u32::from_le_bytes([codes[4], codes[5], codes[6], codes[7]]);
        let scale = scale * (0.5 + (word >> 28) as f32) * 0.25;
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            signed(&IQ2_XXS_ROWS[usize::from(codes[i])], even_signs(word >> (7 * i)), scale, out);
        }
    }
}

/// Scale, 32 words of nine bits of row number and seven of signs, sixteen four-bit scales.
#[inline(always)]
fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let scale = half(block, 0);
    let words = block[2..66].as_chunks::<8>().0;
    for ((words, &scales), out) in words.iter().zip(&block[66..]).zip(out.as_chunks_mut::<32>().0) {
        let (low, high) = nibbles(scales);
        let scales = [low, high].map(|sub| scale * (0.5 + sub as f32) * 0.25);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = u16::from_le_bytes([words[2 * i], words[2 * i + 1]]);
            signed(&IQ2_XS_ROWS[usize::from(word & 511)], even_signs(u32::from(word >> 9)), scales[i / 2], out);
        }
    }
}

/// Scale, low row numbers (32), signs (32), top two bits of row numbers (8), sixteen four-bit scales.
#[inline(always)]
fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let scale = half(block, 0);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (codes, signs) = (&block[2 + 4 * sub..6 + 4 * sub], &block[34 + 4 * sub..38 + 4 * sub]);
        let top = usize::from(block[66 + sub]);
        let (low, high) = nibbles(block[74 + sub]);
        let scales = [low, high].map(|sub| scale * (0.5 + sub as f32) * 0.25);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let row = usize::from(codes[i]) | ((top >> (2 * i)) & 3) << 8;
            signed(&IQ2_S_ROWS[row], signs[i], scales[i / 2], out);
        }
    }
}

/// Scale, row numbers (64), then for every 32 elements a word of four sevens of signs and a four-bit scale.
#[inline(always)]
fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let scale = half(block, 0);
    let (codes, words) = (block[2..66].as_chunks::<8>().0, block[66..].as_chunks::<4>().0);
    for ((codes, word), out) in codes.iter().zip(words).zip(out.as_chunks_mut::<32>().0) {
        let word = u32::from_le_bytes(*word);
        let scale = scale * (0.5 + (word >> 28) as f32) * 0.5;
        for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let signs = even_signs(word >> (7 * (i / 2))) >> (4 * (i % 2));
            signed(&IQ3_XXS_ROWS[usize::from(codes[i])], signs, scale, out);
        }
    }
}

/// Scale, low row numbers (64), their top bits (8), signs (32), eight four-bit scales.
#[inline(always)]
fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half(block, 0);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (codes, signs) = (&block[2 + 8 * sub..10 + 8 * sub], &block[74 + 4 * sub..78 + 4 * sub]);
        let top = usize::from(block[66 + sub]);
        let factor = (block[106 + sub / 2] >> (4 * (sub % 2))) & 15;
        let scale = scale * f32::from(1 + 2 * factor);
        for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let row = usize::from(codes[i]) | ((top >> i) & 1) << 8;
            signed(&IQ3_S_ROWS[row], signs[i / 2] >> (4 * (i % 2)), scale, out);
        }
    }
}

/// A ternary codebook row, shifted by an eighth up or down, under a scale.
#[inline(always)]
fn shifted(row: usize, down: bool, scale: f32, out: &mut [f32; 8]) {
    let shift = if down { -0.125 } else { 0.125 };
    for (&level, out) in IQ1_ROWS[row & 2047].iter().zip(out) {
        *out = scale * (f32::from(level) + shift);
    }
}

/// Scale, low row numbers (32), then a word for every 32 elements: four top threes of row numbers, three bits of scale,
/// direction of the shift.
#[inline(always)]
fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let scale = half(block, 0);
    let (codes, words) = (block[2..34].as_chunks::<4>().0, block[34..].as_chunks::<2>().0);
    for ((codes, word), out) in codes.iter().zip(words).zip(out.as_chunks_mut::<32>().0) {
        let word = u16::from_le_bytes(*word);
        let scale = scale * f32::from(2 * ((word >> 12) & 7) + 1);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let row = usize::from(codes[i]) | usize::from((word >> (3 * i)) & 7) << 8;
            shifted(row, word & 0x8000 != 0, scale, out);
        }
    }
}

/// Low row numbers (32), a nibble for every eight elements with the top three bits of the row number and the direction
/// of the shift (16), four words of four three-bit scales each, whose top nibbles together are the block's scale.
#[inline(always)]
fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let mut words = [0u16; 4];
    for (word, bytes) in words.iter_mut().zip(block[48..].as_chunks::<2>().0) {
        *word = u16::from_le_bytes(*bytes);
    }
    let scale = half_from_bits(words[0] >> 12 | words[1] >> 12 << 4 | words[2] >> 12 << 8 | words[3] >> 12 << 12);
    for (eight, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let sixteen = eight / 2;
        let factor = (words[sixteen / 4] >> (3 * (sixteen % 4))) & 7;
        let nibble = block[32 + sixteen] >> (4 * (eight % 2));
        let row = usize::from(block[eight]) | usize::from(nibble & 7) << 8;
        shifted(row, nibble & 8 != 0, scale * f32::from(2 * factor + 1), out);
    }
}

#[inline(always)]
fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    let (first, second) = out.split_at_mut(16);
    for ((&byte, first), second) in block[2..].iter().zip(first).zip(second) {
        *first = scale * f32::from(LEVELS[usize::from(byte & 15)]);
        *second = scale * f32::from(LEVELS[usize::from(byte >> 4)]);
    }
}

/// Scale, top two bits of the scales (2), their low nibbles (4), codes (128).
#[inline(always)]
fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = half(block, 0);
    let tops = u16::from_le_bytes([block[2], block[3]]);
    let codes = block[8..].as_chunks::<16>().0;
    for (sub, (codes, out)) in codes.iter().zip(out.as_chunks_mut::<32>().0).enumerate() {
        let low = (block[4 + sub / 2] >> (4 * (sub % 2))) & 15;
        let top = ((tops >> (2 * sub)) & 3) as u8;
        let scale = scale * (i32::from(low | top << 4) - 32) as f32;
        let (first, second) = out.split_at_mut(16);
        for ((&byte, first), second) in codes.iter().zip(first).zip(second) {
            *first = scale * f32::from(LEVELS[usize::from(byte & 15)]);
            *second = scale * f32::from(LEVELS[usize::from(byte >> 4)]);
        }
    }
}
