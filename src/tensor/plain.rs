//! Numbers one by one: IEEE floats, the 8-, 6- and 4-bit floats of the OCP formats, integers.

use super::{DType, Family};

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
            family: Family::$family,
            block: 1,
            bytes: $bytes,
            precision: $precision,
            decode: |input, output| each::<$bytes>(input, output, $decode),
        };
    };
}

plain!(F64, "F64", Float, 8, 53, "IEEE 754 binary64, rounded to `f32` when decoded.", |b| f64::from_le_bytes(b) as f32);
plain!(F32, "F32", Float, 4, 24, "IEEE 754 binary32.", f32::from_le_bytes);
plain!(F16, "F16", Float, 2, 11, "IEEE 754 binary16.", |b| half::f16::from_le_bytes(b).to_f32());
plain!(BF16, "BF16", Float, 2, 8, "bfloat16: the upper half of binary32.", |b: [u8; 2]| f32::from_bits(
    u32::from(u16::from_le_bytes(b)) << 16
));
plain!(I64, "I64", Integer, 8, 0, "Signed 64-bit integer.", |b| i64::from_le_bytes(b) as f32);
plain!(I32, "I32", Integer, 4, 0, "Signed 32-bit integer.", |b| i32::from_le_bytes(b) as f32);
plain!(I16, "I16", Integer, 2, 0, "Signed 16-bit integer.", |b| f32::from(i16::from_le_bytes(b)));
plain!(I8, "I8", Integer, 1, 0, "Signed 8-bit integer.", |b| f32::from(i8::from_le_bytes(b)));
plain!(U64, "U64", Integer, 8, 0, "Unsigned 64-bit integer.", |b| u64::from_le_bytes(b) as f32);
plain!(U32, "U32", Integer, 4, 0, "Unsigned 32-bit integer.", |b| u32::from_le_bytes(b) as f32);
plain!(U16, "U16", Integer, 2, 0, "Unsigned 16-bit integer.", |b| f32::from(u16::from_le_bytes(b)));
plain!(U8, "U8", Integer, 1, 0, "Unsigned 8-bit integer.", |b: [u8; 1]| f32::from(b[0]));
plain!(BOOL, "BOOL", Integer, 1, 0, "A byte that is 0 or 1.", |b: [u8; 1]| f32::from(b[0]));
plain!(F8_E4M3, "F8_E4M3", Float, 1, 4, "OCP 8-bit float E4M3 (`e4m3fn`): no infinities.", |b: [u8; 1]| tiny_float(
    b[0],
    4,
    3,
    7,
    Special::NanAtTop
));
plain!(F8_E5M2, "F8_E5M2", Float, 1, 3, "OCP 8-bit float E5M2: IEEE-like.", |b: [u8; 1]| tiny_float(
    b[0],
    5,
    2,
    15,
    Special::Ieee
));
plain!(
    F8_E4M3FNUZ,
    "F8_E4M3FNUZ",
    Float,
    1,
    4,
    "8-bit float E4M3 FNUZ: bias 8, one NaN, no negative zero.",
    |b: [u8; 1]| { tiny_float(b[0], 4, 3, 8, Special::NanAtMinusZero) }
);
plain!(
    F8_E5M2FNUZ,
    "F8_E5M2FNUZ",
    Float,
    1,
    3,
    "8-bit float E5M2 FNUZ: bias 16, one NaN, no negative zero.",
    |b: [u8; 1]| { tiny_float(b[0], 5, 2, 16, Special::NanAtMinusZero) }
);
plain!(F8_E8M0, "F8_E8M0", Float, 1, 1, "OCP E8M0: a power of two, used as a block scale.", |b: [u8; 1]| match b[0] {
    255 => f32::NAN,
    exponent => 2f32.powi(i32::from(exponent) - 127),
});

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
fn tiny_float(code: u8, exponent_bits: u32, fraction_bits: u32, bias: i32, special: Special) -> f32 {
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
    let scale = 1.0 / f32::from(1u16 << fraction_bits);
    let magnitude = if exponent == 0 {
        f32::from(fraction) * scale * 2f32.powi(1 - bias)
    } else {
        (1.0 + f32::from(fraction) * scale) * 2f32.powi(i32::from(exponent) - bias)
    };
    sign * magnitude
}

/// OCP FP6 E2M3, four in three bytes, lowest bits first.
pub static F6_E2M3: DType = DType {
    name: "F6_E2M3",
    family: Family::Float,
    block: 4,
    bytes: 3,
    precision: 4,
    decode: |input, output| six_bit(input, output, |code| tiny_float(code, 2, 3, 1, Special::None)),
};

/// OCP FP6 E3M2, four in three bytes, lowest bits first.
pub static F6_E3M2: DType = DType {
    name: "F6_E3M2",
    family: Family::Float,
    block: 4,
    bytes: 3,
    precision: 3,
    decode: |input, output| six_bit(input, output, |code| tiny_float(code, 3, 2, 3, Special::None)),
};

fn six_bit(input: &[u8], output: &mut [f32], decode: impl Fn(u8) -> f32) {
    for (bytes, out) in input.as_chunks::<3>().0.iter().zip(output.chunks_exact_mut(4)) {
        let packed = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = decode(((packed >> (6 * i)) & 0x3f) as u8);
        }
    }
}

/// OCP FP4 E2M1, two in a byte, low half first.
pub static F4: DType = DType {
    name: "F4",
    family: Family::Float,
    block: 2,
    bytes: 1,
    precision: 2,
    decode: |input, output| {
        for (byte, out) in input.iter().zip(output.chunks_exact_mut(2)) {
            out[0] = tiny_float(byte & 0xf, 2, 1, 1, Special::None);
            out[1] = tiny_float(byte >> 4, 2, 1, 1, Special::None);
        }
    },
};

/// A dtype whose name is not in the table.
pub static UNKNOWN: DType =
    DType { name: "UNKNOWN", family: Family::Opaque, block: 1, bytes: 1, precision: 0, decode: |_, _| {} };
