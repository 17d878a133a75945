//! ggml's K types: blocks of 256 elements in sub-blocks of 16 or 32 that have small scales of their own.

use super::block::{block_type, half, nibbles};

block_type!(Q2_K, 256 in 16 + 64 + 2 + 2, q2_k, "Two bits; sixteen sub-blocks with a four-bit scale and offset each.");
block_type!(Q3_K, 256 in 32 + 64 + 12 + 2, q3_k, "Three bits; sixteen sub-blocks with a six-bit scale each.");
block_type!(Q4_K, 256 in 2 + 2 + 12 + 128, q4_k, "Four bits; eight sub-blocks with a six-bit scale and offset each.");
block_type!(Q5_K, 256 in 2 + 2 + 12 + 32 + 128, q5_k, "Five bits; eight sub-blocks with a six-bit scale and offset each.");
block_type!(Q6_K, 256 in 128 + 64 + 16 + 2, q6_k, "Six bits; sixteen sub-blocks with an eight-bit scale each.");
block_type!(Q8_K, 256 in 4 + 256 + 32, q8_k, "Eight bits under an `f32` scale, beside partial sums that decoding does not need.");

/// Scales (16 bytes), codes (64), scale of scales, scale of offsets.
#[inline(always)]
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, offset) = (half(block, 80), half(block, 82));
    let mut subs = [(0.0, 0.0); 16];
    for (sub, &byte) in subs.iter_mut().zip(&block[..16]) {
        let (low, high) = nibbles(byte);
        *sub = (scale * low as f32, offset * high as f32);
    }
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let codes = &block[16 + 32 * half..48 + 32 * half];
        for (pair, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (side, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let (scale, offset) = subs[8 * half + 2 * pair + side];
                for (&byte, out) in codes[16 * side..16 * side + 16].iter().zip(out) {
                    *out = scale * f32::from((byte >> (2 * pair)) & 3) - offset;
                }
            }
        }
    }
}

/// Top bits (32 bytes; a set bit means the code is *not* lowered by four), low two bits (64), scales (12), scale.
#[inline(always)]
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half(block, 108);
    // Sixteen six-bit scales: low halves as nibbles of the first eight bytes, top two bits spread over the last four.
    let mut scales = [0.0; 16];
    for (i, sub) in scales.iter_mut().enumerate() {
        let low = (block[96 + i % 8] >> (4 * (i / 8))) & 15;
        let top = (block[104 + i % 4] >> (2 * (i / 4))) & 3;
        *sub = scale * (i32::from(low | top << 4) - 32) as f32;
    }
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let codes = &block[32 + 32 * half..64 + 32 * half];
        for (pair, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bit = (4 * half + pair) as u32;
            for (side, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = scales[8 * half + 2 * pair + side];
                let (codes, tops) = (&codes[16 * side..16 * side + 16], &block[16 * side..16 * side + 16]);
                for ((&byte, &top), out) in codes.iter().zip(tops).zip(out) {
                    let code = u32::from(byte) >> (2 * pair) & 3 | (u32::from(top) >> bit & 1) << 2;
                    *out = scale * (code as i32 - 4) as f32;
                }
            }
        }
    }
}

/// Eight six-bit scales and offsets in twelve bytes, times the block's own: of Q4_K and Q5_K.
#[inline(always)]
fn scales_and_offsets<const BYTES: usize>(block: &[u8; BYTES]) -> [(f32, f32); 8] {
    let (scale, offset) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    let mut subs = [(0.0, 0.0); 8];
    for (i, sub) in subs.iter_mut().enumerate() {
        let (factor, minimum) = if i < 4 {
            (packed[i] & 63, packed[i + 4] & 63)
        } else {
            (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
        };
        *sub = (scale * f32::from(factor), offset * f32::from(minimum));
    }
    subs
}

/// Scale of scales, scale of offsets, scales and offsets (12 bytes), codes (128).
#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let subs = scales_and_offsets(block);
    for (quarter, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let ((scale_1, offset_1), (scale_2, offset_2)) = (subs[2 * quarter], subs[2 * quarter + 1]);
        let codes = &block[16 + 32 * quarter..48 + 32 * quarter];
        let (first, second) = out.split_at_mut(32);
        for ((&byte, first), second) in codes.iter().zip(first).zip(second) {
            let (low, high) = nibbles(byte);
            *first = scale_1 * low as f32 - offset_1;
            *second = scale_2 * high as f32 - offset_2;
        }
    }
}

/// As Q4_K, with the top bits (32 bytes) before the codes: bit `2q` and `2q + 1` for the two halves of quarter `q`.
#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let subs = scales_and_offsets(block);
    let tops = &block[16..48];
    for (quarter, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let ((scale_1, offset_1), (scale_2, offset_2)) = (subs[2 * quarter], subs[2 * quarter + 1]);
        let codes = &block[48 + 32 * quarter..80 + 32 * quarter];
        let (first, second) = out.split_at_mut(32);
        for (((&byte, &top), first), second) in codes.iter().zip(tops).zip(first).zip(second) {
            let (low, high) = nibbles(byte);
            let top = top >> (2 * quarter);
            *first = scale_1 * (low | i32::from(top & 1) << 4) as f32 - offset_1;
            *second = scale_2 * (high | i32::from(top & 2) << 3) as f32 - offset_2;
        }
    }
}

/// Low four bits (128 bytes), top two bits (64), scales (16, signed), scale.
#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half(block, 208);
    let mut scales = [0.0; 16];
    for (sub, &byte) in scales.iter_mut().zip(&block[192..208]) {
        *sub = scale * f32::from(byte as i8);
    }
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (lows, tops) = (&block[64 * half..64 * half + 64], &block[128 + 32 * half..160 + 32 * half]);
        let [first, second, third, fourth] = out.as_chunks_mut::<32>().0 else { continue };
        for side in 0..2 {
            let scale = |quarter: usize| scales[8 * half + 2 * quarter + side];
            let scales = [scale(0), scale(1), scale(2), scale(3)];
            // The shifts are written out: as numbers known to the compiler they cost nothing.
            for i in 16 * side..16 * side + 16 {
                let (low, next, top) = (i32::from(lows[i]), i32::from(lows[i + 32]), i32::from(tops[i]));
                first[i] = scales[0] * ((low & 15 | (top & 3) << 4) - 32) as f32;
                second[i] = scales[1] * ((next & 15 | (top & 12) << 2) - 32) as f32;
                third[i] = scales[2] * ((low >> 4 | (top & 48)) - 32) as f32;
                fourth[i] = scales[3] * ((next >> 4 | (top & 192) >> 2) - 32) as f32;
            }
        }
    }
}

/// Scale (`f32`), codes (256, signed), sums of sixteen codes each (16 × 16 bits).
#[inline(always)]
fn q8_k(block: &[u8; 292], out: &mut [f32; 256]) {
    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (&code, out) in block[4..260].iter().zip(out) {
        *out = scale * f32::from(code as i8);
    }
}
