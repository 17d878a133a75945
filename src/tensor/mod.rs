//! Number formats: one table row per dtype, each with a decoder to `f32`.
//!
//! A dtype is a block layout: `bytes` bytes hold `block` elements. Plain numbers have blocks of one element. A decoder
//! takes any bytes: it never fails and never panics, so a hostile file can make numbers wrong but not the program.

mod block;
pub mod levels;
pub mod numbers;
mod plain;
mod quant;
mod quant_grids;
mod quant_iq;
mod quant_k;
mod quant_simple;
mod quant_small;

use std::fmt;

use serde::{Serialize, Serializer};

/// What a dtype's numbers are, for deciding what may be compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DTypeFamily {
    /// IEEE-like floating point.
    Float,
    /// Integers and booleans: compared for equality, decoded only for statistics.
    Integer,
    /// Blocks of codes with scales (ggml and friends): decoded to real numbers.
    Block,
    /// Known by name only: nothing can be decoded.
    Opaque,
}

/// One row of the dtype table.
pub struct DType {
    /// The name as the format spells it (`BF16`, `Q4_K`).
    pub name: &'static str,
    /// What its numbers are.
    pub family: DTypeFamily,
    /// Elements in one block.
    pub block: usize,
    /// Bytes of one block.
    pub bytes: usize,
    /// Significand bits including the hidden one, for floats: the relative rounding step is `2^(1 - precision)`.
    pub precision: u32,
    /// Decodes whole blocks: `input.len() / bytes` blocks into `output.len() / block` blocks, whichever is fewer.
    pub decode: fn(input: &[u8], output: &mut [f32]),
}

impl DType {
    /// The bytes that `elements` elements take, or `None` when they do not fill whole blocks or the count overflows.
    pub fn bytes_of(&self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block as u64) {
            return None;
        }
        (elements / self.block as u64).checked_mul(self.bytes as u64)
    }

    /// The dtype of that name in safetensors spelling, if it is one of [`DTYPES`]. ggml's block types are in that list
    /// but not in safetensors, so a header naming one is naming an unknown dtype.
    pub fn named(name: &str) -> Option<&'static DType> {
        DTYPES.iter().copied().find(|dtype| dtype.name == name && dtype.family != DTypeFamily::Block)
    }
}

impl PartialEq for DType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for DType {}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Serialize for DType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

pub use plain::{
    BF16, BOOL, F4, F6_E2M3, F6_E3M2, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, I8, I16, I32,
    I64, U8, U16, U32, U64, UNKNOWN,
};
pub(crate) use plain::{F4_VALUES, power_of_two};

pub use quant::{GGML_TYPES, ggml_type};
pub use quant_iq::{IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS};
pub use quant_k::{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K};
pub use quant_simple::{Q1_0, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1};
pub use quant_small::{MXFP4, NVFP4, TQ1_0, TQ2_0};

/// Every dtype, in the order of documentation. A new one is a `DType` constant in a file of this folder and a line
/// here.
pub static DTYPES: &[&DType] = &[
    &F64,
    &F32,
    &F16,
    &BF16,
    &F8_E4M3,
    &F8_E5M2,
    &F8_E4M3FNUZ,
    &F8_E5M2FNUZ,
    &F8_E8M0,
    &F6_E2M3,
    &F6_E3M2,
    &F4,
    &I64,
    &I32,
    &I16,
    &I8,
    &U64,
    &U32,
    &U16,
    &U8,
    &BOOL,
    &Q1_0,
    &Q2_0,
    &Q4_0,
    &Q4_1,
    &Q5_0,
    &Q5_1,
    &Q8_0,
    &Q8_1,
    &Q2_K,
    &Q3_K,
    &Q4_K,
    &Q5_K,
    &Q6_K,
    &Q8_K,
    &IQ1_S,
    &IQ1_M,
    &IQ2_XXS,
    &IQ2_XS,
    &IQ2_S,
    &IQ3_XXS,
    &IQ3_S,
    &IQ4_NL,
    &IQ4_XS,
    &TQ1_0,
    &TQ2_0,
    &MXFP4,
    &NVFP4,
    &UNKNOWN,
];
