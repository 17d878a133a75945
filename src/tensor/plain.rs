//! Numbers one by one: IEEE floats, the 8-, 6- and 4-bit floats of the OCP formats, integers.

use pulp::{Arch, Simd, WithSimd};

use super::{DType, DTypeFamily};

fn each<const N: usize>(input: &[u8], output: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in input.as_chunks::<N>().0.iter().zip(output) {
        *out = decode(*bytes);
    }
}

macro_rules! plain {
    ($name:ident, $text:literal, $family:ident, $bytes:literal, $precision:literal, $what:literal, $decode:expr) => {
        #[doc = $what]
        pub static $name: DType = DType {
            name: $text,
            family: DTypeFamily::$family,
            block: 1,
            bytes: $bytes,
            precision: $precision,
            decode: |input, output| each::<$bytes>(input, output, $decode),
        };
    };
}

plain!(F64, "F64", Float, 8, 53, "IEEE 754 binary64, rounded to `f32` when decoded.", |b| f64::from_le_bytes(b) as f32);
plain!(F32, "F32", Float, 4, 24, "IEEE 754 binary32.", f32::from_le_bytes);
/// bfloat16: the upper half of binary32.
pub static BF16: DType = DType {
    name: "BF16",
    family: DTypeFamily::Float,
    block: 1,
    bytes: 2,
    precision: 8,
    decode: |input, output| {
        Arch::new().dispatch(WidenBf16 { input, output });
    },
};

/// The loop that reads most published weights, compiled for the vector unit found at run time.
struct WidenBf16<'a> {
    input: &'a [u8],
    output: &'a mut [f32],
}

impl WithSimd for WidenBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (bytes, out) in self.input.as_chunks::<2>().0.iter().zip(self.output) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }
    }
}

plain!(I64, "I64", Integer, 8, 0, "Signed 64-bit integer.", |b| i64::from_le_bytes(b) as f32);
plain!(I32, "I32", Integer, 4, 0, "Signed 32-bit integer.", |b| i32::from_le_bytes(b) as f32);
plain!(I16, "I16", Integer, 2, 0, "Signed 16-bit integer.", |b| f32::from(i16::from_le_bytes(b)));
plain!(I8, "I8", Integer, 1, 0, "Signed 8-bit integer.", |b| f32::from(i8::from_le_bytes(b)));
plain!(U64, "U64", Integer, 8, 0, "Unsigned 64-bit integer.", |b| u64::from_le_bytes(b) as f32);
plain!(U32, "U32", Integer, 4, 0, "Unsigned 32-bit integer.", |b| u32::from_le_bytes(b) as f32);
plain!(U16, "U16", Integer, 2, 0, "Unsigned 16-bit integer.", |b| f32::from(u16::from_le_bytes(b)));
plain!(U8, "U8", Integer, 1, 0, "Unsigned 8-bit integer.", |b: [u8; 1]| f32::from(b[0]));
plain!(BOOL, "BOOL", Integer, 1, 0, "A byte that is 0 or 1.", |b: [u8; 1]| f32::from(b[0]));
plain!(F8_E4M3, "F8_E4M3", Float, 1, 4, "OCP 8-bit float E4M3 (`e4m3fn`): no infinities.", |b: [u8; 1]| {
    static TABLE: [f32; 256] = table(4, 3, 7, Special::NanAtTop);
    TABLE[usize::from(b[0])]
});
plain!(F8_E5M2, "F8_E5M2", Float, 1, 3, "OCP 8-bit float E5M2: IEEE-like.", |b: [u8; 1]| {
    static TABLE: [f32; 256] = table(5, 2, 15, Special::Ieee);
    TABLE[usize::from(b[0])]
});
plain!(
    F8_E4M3FNUZ,
    "F8_E4M3FNUZ",
    Float,
    1,
    4,
    "8-bit float E4M3 FNUZ: bias 8, one NaN, no negative zero.",
    |b: [u8; 1]| {
        static TABLE: [f32; 256] = table(4, 3, 8, Special::NanAtMinusZero);
        TABLE[usize::from(b[0])]
    }
);
plain!(
    F8_E5M2FNUZ,
    "F8_E5M2FNUZ",
    Float,
    1,
    3,
    "8-bit float E5M2 FNUZ: bias 16, one NaN, no negative zero.",
    |b: [u8; 1]| {
        static TABLE: [f32; 256] = table(5, 2, 16, Special::NanAtMinusZero);
        TABLE[usize::from(b[0])]
    }
);
plain!(F8_E8M0, "F8_E8M0", Float, 1, 1, "OCP E8M0: a power of two, used as a block scale.", |b: [u8; 1]| power_of_two(
    b[0]
));

/// The E8M0 number of a code: `2^(code - 127)`, and 255 for "not a number".
pub(crate) fn power_of_two(code: u8) -> f32 {
    match code {
        255 => f32::NAN,
        // 2^-127 is below the normal range of binary32.
        0 => f32::from_bits(1 << 22),
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// IEEE 754 binary16.
pub static F16: DType =
    DType { name: "F16", family: DTypeFamily::Float, block: 1, bytes: 2, precision: 11, decode: half_to_single };

/// In runs, so that the processor's own conversion is looked for once a run and not once a number.
fn half_to_single(input: &[u8], output: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    let mut run = [half::f16::ZERO; 512];
    for (input, output) in input.as_chunks::<2>().0.chunks(run.len()).zip(output.chunks_mut(512)) {
        let count = input.len().min(output.len());
        for (half, bytes) in run.iter_mut().zip(input) {
            *half = half::f16::from_le_bytes(*bytes);
        }
        run[..count].convert_to_f32_slice(&mut output[..count]);
    }
}

/// What the top codes of a small float mean.
#[derive(Clone, Copy)]
enum Special {
    /// No special values at all.
    None,
    /// All-ones exponent is infinity or NaN.
    Ieee,
    /// Only all ones in exponent and significand is NaN.
    NanAtTop,
    /// Only the code of minus zero is NaN.
    NanAtMinusZero,
}

/// A sign, `exponent_bits`, `fraction_bits` float in the low bits of `code` (OCP 8-bit and MX specifications).
const fn tiny_float(code: u8, exponent_bits: u32, fraction_bits: u32, bias: u32, special: Special) -> f32 {
    let sign_bit = 1u8 << (exponent_bits + fraction_bits);
    let fraction_mask = (1u8 << fraction_bits) - 1;
    let exponent_mask = (1u8 << exponent_bits) - 1;
    let exponent = (code >> fraction_bits) & exponent_mask;
    let fraction = code & fraction_mask;
    let sign = if code & sign_bit == 0 { 1.0 } else { -1.0 };
    match special {
        Special::Ieee if exponent == exponent_mask => {
            return if fraction == 0 { sign * f32::INFINITY } else { f32::NAN };
        }
        Special::NanAtTop if exponent == exponent_mask && fraction == fraction_mask => return f32::NAN,
        Special::NanAtMinusZero if code == sign_bit => return f32::NAN,
        _ => {}
    }
    if exponent == 0 {
        let smallest = f32::from_bits((127 + 1 - bias - fraction_bits) << 23);
        sign * fraction as f32 * smallest
    } else {
        sign * f32::from_bits(((exponent as u32 + 127 - bias) << 23) | ((fraction as u32) << (23 - fraction_bits)))
    }
}

/// Every code's value.
const fn table<const CODES: usize>(
    exponent_bits: u32,
    fraction_bits: u32,
    bias: u32,
    special: Special,
) -> [f32; CODES] {
    let mut values = [0.0; CODES];
    let mut code = 0;
    while code < CODES {
        values[code] = tiny_float(code as u8, exponent_bits, fraction_bits, bias, special);
        code += 1;
    }
    values
}

/// The sixteen values of FP4 E2M1.
pub(crate) static F4_VALUES: [f32; 16] = table(2, 1, 1, Special::None);

/// OCP FP6 E2M3, four in three bytes, lowest bits first.
pub static F6_E2M3: DType = DType {
    name: "F6_E2M3",
    family: DTypeFamily::Float,
    block: 4,
    bytes: 3,
    precision: 4,
    decode: |input, output| {
        static TABLE: [f32; 64] = table(2, 3, 1, Special::None);
        six_bit(input, output, &TABLE);
    },
};

/// OCP FP6 E3M2, four in three bytes, lowest bits first.
pub static F6_E3M2: DType = DType {
    name: "F6_E3M2",
    family: DTypeFamily::Float,
    block: 4,
    bytes: 3,
    precision: 3,
    decode: |input, output| {
        static TABLE: [f32; 64] = table(3, 2, 3, Special::None);
        six_bit(input, output, &TABLE);
    },
};

fn six_bit(input: &[u8], output: &mut [f32], values: &[f32; 64]) {
    for (bytes, out) in input.as_chunks::<3>().0.iter().zip(output.chunks_exact_mut(4)) {
        let packed = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = values[(packed >> (6 * i)) as usize & 0x3f];
        }
    }
}

/// OCP FP4 E2M1, two in a byte, low half first.
pub static F4: DType = DType {
    name: "F4",
    family: DTypeFamily::Float,
    block: 2,
    bytes: 1,
    precision: 2,
    decode: |input, output| {
        for (byte, out) in input.iter().zip(output.chunks_exact_mut(2)) {
            out[0] = F4_VALUES[usize::from(byte & 0xf)];
            out[1] = F4_VALUES[usize::from(byte >> 4)];
        }
    },
};

/// A dtype whose name is not in the table.
pub static UNKNOWN: DType =
    DType { name: "UNKNOWN", family: DTypeFamily::Opaque, block: 1, bytes: 1, precision: 0, decode: |_, _| {} };

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dtype: &DType) -> Vec<f32> {
        let codes: Vec<u8> = (0..=255).collect();
        let mut values = vec![0.0; 256];
        (dtype.decode)(&codes, &mut values);
        values
    }

    /// Values in whole steps of the smallest one, as the specifications' tables have them; `None` for what is no
    /// number.
    fn steps(code: u8, exponent_bits: u32, fraction_bits: u32) -> i64 {
        let magnitude = i64::from(code) & ((1 << (exponent_bits + fraction_bits)) - 1);
        let (exponent, fraction) = (magnitude >> fraction_bits, magnitude & ((1 << fraction_bits) - 1));
        let magnitude = if exponent == 0 { fraction } else { (fraction + (1 << fraction_bits)) << (exponent - 1) };
        if u32::from(code) >> (exponent_bits + fraction_bits) & 1 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_code_of_the_eight_bit_floats_is_right() {
        // dtype, exponent and fraction bits, smallest value, largest value, codes that are no finite number
        type Row = (&'static DType, u32, u32, i32, f32, &'static [u8]);
        let rows: [Row; 4] = [
            (&F8_E4M3, 4, 3, -9, 448.0, &[0x7f, 0xff]),
            (&F8_E5M2, 5, 2, -16, 57344.0, &[0x7c, 0x7d, 0x7e, 0x7f, 0xfc, 0xfd, 0xfe, 0xff]),
            (&F8_E4M3FNUZ, 4, 3, -10, 240.0, &[0x80]),
            (&F8_E5M2FNUZ, 5, 2, -17, 57344.0, &[0x80]),
        ];
        for (dtype, exponent_bits, fraction_bits, smallest, largest, special) in rows {
            let values = all(dtype);
            for (code, value) in (0..=255u8).zip(&values) {
                if special.contains(&code) {
                    assert!(!value.is_finite(), "{dtype:?} {code:#x}");
                } else {
                    let expected = steps(code, exponent_bits, fraction_bits) as f32 * 2f32.powi(smallest);
                    assert_eq!(*value, expected, "{dtype:?} {code:#x}");
                }
            }
            let finite = values.iter().filter(|value| value.is_finite());
            assert_eq!(finite.fold(0.0, |most: f32, value| most.max(*value)), largest, "{dtype:?}");
        }
        // E5M2 is the upper byte of binary16.
        for (code, value) in (0..=255u16).zip(all(&F8_E5M2)) {
            let half = half::f16::from_bits(code << 8).to_f32();
            assert!(half.to_bits() == value.to_bits() || half.is_nan() && value.is_nan(), "{code:#x}");
        }
    }

    #[test]
    fn powers_of_two_are_right() {
        for (code, value) in (0..=255u8).zip(all(&F8_E8M0)) {
            if code == 255 {
                assert!(value.is_nan());
            } else {
                assert_eq!(f64::from(value), 2f64.powi(i32::from(code) - 127));
            }
        }
    }

    #[test]
    fn the_six_and_four_bit_floats_are_right() {
        for (dtype, exponent_bits, fraction_bits, smallest, largest) in
            [(&F6_E2M3, 2, 3, 0.125, 7.5), (&F6_E3M2, 3, 2, 0.0625, 28.0)]
        {
            for code in 0..64u8 {
                let packed = (u32::from(code) | u32::from(63 - code) << 18).to_le_bytes();
                let mut out = [1.0; 4];
                (dtype.decode)(&packed[..3], &mut out);
                assert_eq!(out[0], steps(code, exponent_bits, fraction_bits) as f32 * smallest);
                assert_eq!(out[3], steps(63 - code, exponent_bits, fraction_bits) as f32 * smallest);
                assert!(out[0].abs() <= largest && out[1..3] == [0.0, 0.0]);
            }
        }
        let mut out = [0.0; 16];
        (F4.decode)(&[0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe], &mut out);
        assert_eq!(out[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(out[8..], [-0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]);
    }

    #[test]
    fn every_half_is_right() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut whole = vec![0.0; 1 << 16];
        (F16.decode)(&bytes, &mut whole);
        for code in 0..=u16::MAX {
            let (ours, theirs) = (whole[usize::from(code)], half::f16::from_bits(code).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{code:#x}");
        }
    }
}
