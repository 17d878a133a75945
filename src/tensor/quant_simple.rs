//! ggml's plain block types: one scale, perhaps an offset, and equally spaced codes.

use super::block::{block_type, half, nibbles};

block_type!(Q1_0, 128 in 2 + 16, q1_0, "One bit: plus or minus the scale.");
block_type!(Q2_0, 64 in 2 + 16, q2_0, "Two bits, codes -1 to 2.");
block_type!(Q4_0, 32 in 2 + 16, q4_0, "Four bits, codes -8 to 7.");
block_type!(Q4_1, 32 in 2 + 2 + 16, q4_1, "Four bits, codes 0 to 15 above an offset.");
block_type!(Q5_0, 32 in 2 + 4 + 16, q5_0, "Five bits, codes -16 to 15.");
block_type!(Q5_1, 32 in 2 + 2 + 4 + 16, q5_1, "Five bits, codes 0 to 31 above an offset.");
block_type!(Q8_0, 32 in 2 + 32, q8_0, "Eight bits, signed.");
block_type!(Q8_1, 32 in 2 + 2 + 32, q8_1, "Eight bits, signed, beside their sum (which decoding does not need).");

#[inline(always)]
fn q1_0(block: &[u8; 18], out: &mut [f32; 128]) {
    let scale = half(block, 0);
    for (byte, out) in block[2..].iter().zip(out.as_chunks_mut::<8>().0) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = if (byte >> i) & 1 == 1 { scale } else { -scale };
        }
    }
}

#[inline(always)]
fn q2_0(block: &[u8; 18], out: &mut [f32; 64]) {
    let scale = half(block, 0);
    for (byte, out) in block[2..].iter().zip(out.as_chunks_mut::<4>().0) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = (i32::from((byte >> (2 * i)) & 3) - 1) as f32 * scale;
        }
    }
}

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    let (first, second) = out.split_at_mut(16);
    for ((&byte, first), second) in block[2..].iter().zip(first).zip(second) {
        let (low, high) = nibbles(byte);
        *first = (low - 8) as f32 * scale;
        *second = (high - 8) as f32 * scale;
    }
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, offset) = (half(block, 0), half(block, 2));
    let (first, second) = out.split_at_mut(16);
    for ((&byte, first), second) in block[4..].iter().zip(first).zip(second) {
        let (low, high) = nibbles(byte);
        *first = low as f32 * scale + offset;
        *second = high as f32 * scale + offset;
    }
}

/// The 32 five-bit codes of a block: low four bits in `low` as in four-bit types, top bits one after another in `top`.
#[inline(always)]
fn five_bits(top: [u8; 4], low: &[u8], out: &mut [f32; 32], value: impl Fn(i32) -> f32) {
    let top = u32::from_le_bytes(top);
    let (first, second) = out.split_at_mut(16);
    // A 32-bit counter, so that the shifts are done in the lanes the codes are in.
    for (i, ((&byte, first), second)) in (0u32..).zip(low.iter().zip(first).zip(second)) {
        let (low, high) = nibbles(byte);
        *first = value(low | ((top >> i) << 4 & 16) as i32);
        *second = value(high | (top >> (i + 12) & 16) as i32);
    }
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    five_bits([block[2], block[3], block[4], block[5]], &block[6..], out, |code| (code - 16) as f32 * scale);
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, offset) = (half(block, 0), half(block, 2));
    five_bits([block[4], block[5], block[6], block[7]], &block[8..], out, |code| code as f32 * scale + offset);
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    for (&code, out) in block[2..].iter().zip(out) {
        *out = f32::from(code as i8) * scale;
    }
}

#[inline(always)]
fn q8_1(block: &[u8; 36], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    for (&code, out) in block[4..].iter().zip(out) {
        *out = f32::from(code as i8) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of a scale of 2, an offset of 10 where the type has one, and the given rest.
    fn decoded(dtype: &crate::tensor::DType, head: &[u8], rest: impl Fn(usize) -> u8) -> Vec<f32> {
        let mut block = head.to_vec();
        block.extend((0..dtype.bytes - head.len()).map(rest));
        let mut out = vec![0.0; dtype.block];
        (dtype.decode)(&block, &mut out);
        out
    }

    const TWO: [u8; 2] = [0x00, 0x40];
    const TWO_AND_TEN: [u8; 4] = [0x00, 0x40, 0x00, 0x49];

    #[test]
    fn four_bit_codes_lie_low_half_first() {
        let out = decoded(&Q4_0, &TWO, |i| if i == 0 { 0xf1 } else { 0x88 });
        assert_eq!((out[0], out[1], out[16], out[17]), (-14.0, 0.0, 14.0, 0.0));
        let out = decoded(&Q4_1, &TWO_AND_TEN, |i| if i == 0 { 0xf1 } else { 0 });
        assert_eq!((out[0], out[1], out[16]), (12.0, 10.0, 40.0));
    }

    #[test]
    fn five_bit_codes_take_their_top_bit_from_the_mask() {
        // Top bits of elements 0 and 16 set.
        let head = [0x00, 0x40, 0x01, 0x00, 0x01, 0x00];
        let out = decoded(&Q5_0, &head, |i| if i == 0 { 0x21 } else { 0 });
        assert_eq!((out[0], out[1], out[16], out[17]), (2.0, -32.0, 4.0, -32.0));
        let head = [0x00, 0x40, 0x00, 0x49, 0x01, 0x00, 0x01, 0x00];
        let out = decoded(&Q5_1, &head, |i| if i == 0 { 0x21 } else { 0 });
        assert_eq!((out[0], out[1], out[16], out[17]), (44.0, 10.0, 46.0, 10.0));
    }

    #[test]
    fn eight_bit_codes_are_signed() {
        let out = decoded(&Q8_0, &TWO, |i| i as u8 + 127);
        assert_eq!((out[0], out[1], out[2]), (254.0, -256.0, -254.0));
        assert_eq!(decoded(&Q8_1, &TWO_AND_TEN, |i| i as u8 + 127), out);
    }

    #[test]
    fn one_and_two_bit_codes_lie_one_after_another() {
        let out = decoded(&Q1_0, &TWO, |i| if i == 0 { 0b101 } else { 0 });
        assert_eq!(out[..4], [2.0, -2.0, 2.0, -2.0]);
        let out = decoded(&Q2_0, &TWO, |i| if i == 0 { 0b11_10_01_00 } else { 0 });
        assert_eq!(out[..5], [-2.0, 0.0, 2.0, 4.0, -2.0]);
    }
}
