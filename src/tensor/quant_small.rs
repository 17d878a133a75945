//! ggml's ternary types and its four-bit floats.

use super::block::{block_type, half};

block_type!(TQ1_0, 256 in 48 + 4 + 2, tq1_0, "Ternary, five digits in a byte.");
block_type!(TQ2_0, 256 in 64 + 2, tq2_0, "Ternary, four digits in a byte.");
block_type!(MXFP4, 32 in 1 + 16, mxfp4, "OCP MX FP4: E2M1 under a power of two.");
block_type!(NVFP4, 64 in 4 + 32, nvfp4, "NVIDIA FP4: E2M1 in sub-blocks of sixteen under an unsigned E4M3 scale.");

/// The sixteen E2M1 values, doubled so that they are integers (the scale is halved in turn, as ggml does).
const DOUBLED_E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Bytes of digits (48, then 4), scale. A byte is a fraction of 256: times 3ⁿ (dropping what overflows), then its
/// leading ternary digit, is digit `n`. The first 32 bytes give 5 × 32 elements, the next 16 give 5 × 16, the last 4
/// give 4 × 4.
#[inline(always)]
fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let scale = half(block, 52);
    let digits = |bytes: &[u8], out: &mut [f32]| {
        let mut power = 1u8;
        for out in out.chunks_exact_mut(bytes.len()) {
            for (&byte, out) in bytes.iter().zip(out) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *out = (i32::from(digit) - 1) as f32 * scale;
            }
            power = power.wrapping_mul(3);
        }
    };
    digits(&block[..32], &mut out[..160]);
    digits(&block[32..48], &mut out[160..240]);
    digits(&block[48..52], &mut out[240..]);
}

/// Codes (64), scale.
#[inline(always)]
fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let scale = half(block, 64);
    for (codes, out) in block[..64].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<128>().0) {
        for (pair, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (&byte, out) in codes.iter().zip(out) {
                *out = (i32::from((byte >> (2 * pair)) & 3) - 1) as f32 * scale;
            }
        }
    }
}

/// Half of the power of two an E8M0 code stands for. Code 255, which is NaN in E8M0, is a number here as it is in ggml.
#[inline(always)]
fn half_e8m0(code: u8) -> f32 {
    f32::from_bits(if code < 2 { 0x0020_0000 << code } else { (u32::from(code) - 1) << 23 })
}

#[inline(always)]
fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let scale = half_e8m0(block[0]);
    let (first, second) = out.split_at_mut(16);
    for ((&byte, first), second) in block[1..].iter().zip(first).zip(second) {
        *first = f32::from(DOUBLED_E2M1[usize::from(byte & 15)]) * scale;
        *second = f32::from(DOUBLED_E2M1[usize::from(byte >> 4)]) * scale;
    }
}

/// Half of the value of an unsigned E4M3 code; the code of NaN is zero here as it is in ggml.
#[inline(always)]
fn half_ue4m3(code: u8) -> f32 {
    let (exponent, fraction) = ((code >> 3) & 15, code & 7);
    let value = if exponent == 0 {
        f32::from(fraction) * (1.0 / 1024.0)
    } else {
        // (1 + fraction / 8) · 2^(exponent - 7) / 2
        f32::from_bits((u32::from(exponent) + 127 - 7 - 1) << 23 | u32::from(fraction) << 20)
    };
    if code == 0x7f { 0.0 } else { value }
}

/// Scales (4), codes (4 × 8).
#[inline(always)]
fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    let codes = block[4..].as_chunks::<8>().0;
    for ((&scale, codes), out) in block[..4].iter().zip(codes).zip(out.as_chunks_mut::<16>().0) {
        let scale = half_ue4m3(scale);
        let (first, second) = out.split_at_mut(8);
        for ((&byte, first), second) in codes.iter().zip(first).zip(second) {
            *first = f32::from(DOUBLED_E2M1[usize::from(byte & 15)]) * scale;
            *second = f32::from(DOUBLED_E2M1[usize::from(byte >> 4)]) * scale;
        }
    }
}
