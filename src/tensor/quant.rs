//! ggml's number formats: the table of type numbers, and what the block decoders share.
//!
//! A ggml block type stores 32 to 256 elements as small codes beside one or more scales. Each decoder here follows the
//! order of `f32` operations of ggml's own `dequantize_row_*`, so its results are equal to ggml's bit for bit (for
//! finite scales); `tests/oracles/gguf.py` holds them against the `gguf` Python package and against ggml itself.
//!
//! Layouts are those of `ggml-common.h`; type numbers those of `enum ggml_type` in `ggml.h`.

use super::quant_iq::{IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS};
use super::quant_k::{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K};
use super::quant_simple::{Q1_0, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1};
use super::quant_small::{MXFP4, NVFP4, TQ1_0, TQ2_0};
use super::{BF16, DType, F16, F32, F64, I8, I16, I32, I64};

/// Every ggml type in use, by its number in a GGUF tensor entry.
///
/// Missing numbers were removed from the format (4 and 5: `Q4_2`, `Q4_3`; 31 to 33 and 36 to 38: repacked variants).
pub static GGML_TYPES: &[(u32, &DType)] = &[
    (0, &F32),
    (1, &F16),
    (2, &Q4_0),
    (3, &Q4_1),
    (6, &Q5_0),
    (7, &Q5_1),
    (8, &Q8_0),
    (9, &Q8_1),
    (10, &Q2_K),
    (11, &Q3_K),
    (12, &Q4_K),
    (13, &Q5_K),
    (14, &Q6_K),
    (15, &Q8_K),
    (16, &IQ2_XXS),
    (17, &IQ2_XS),
    (18, &IQ3_XXS),
    (19, &IQ1_S),
    (20, &IQ4_NL),
    (21, &IQ3_S),
    (22, &IQ2_S),
    (23, &IQ4_XS),
    (24, &I8),
    (25, &I16),
    (26, &I32),
    (27, &I64),
    (28, &F64),
    (29, &IQ1_M),
    (30, &BF16),
    (34, &TQ1_0),
    (35, &TQ2_0),
    (39, &MXFP4),
    (40, &NVFP4),
    (41, &Q1_0),
    (42, &Q2_0),
];

/// The dtype of a ggml type number, if it is one of [`GGML_TYPES`].
pub fn ggml_type(id: u32) -> Option<&'static DType> {
    GGML_TYPES.binary_search_by_key(&id, |(number, _)| *number).ok().map(|at| GGML_TYPES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::block::half_from_bits;
    use proptest::prelude::*;

    #[test]
    fn type_numbers_are_sorted_and_names_are_unique() {
        assert!(GGML_TYPES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let names: std::collections::BTreeSet<&str> = GGML_TYPES.iter().map(|(_, dtype)| dtype.name).collect();
        assert_eq!(names.len(), GGML_TYPES.len());
        assert_eq!(ggml_type(12).map(|dtype| dtype.name), Some("Q4_K"));
        assert!(ggml_type(4).is_none() && ggml_type(36).is_none() && ggml_type(u32::MAX).is_none());
    }

    #[test]
    fn half_agrees_with_the_half_crate_on_every_code() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_from_bits(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn partial_blocks_are_left_alone() {
        for (_, dtype) in GGML_TYPES {
            let mut output = vec![7.0; dtype.block * 2 - 1];
            (dtype.decode)(&vec![0; dtype.bytes * 2], &mut output);
            assert!(output[dtype.block..].iter().all(|&x| x == 7.0), "{}: wrote past a whole block", dtype.name);
            let mut output = vec![7.0; dtype.block];
            (dtype.decode)(&vec![0; dtype.bytes - 1], &mut output);
            assert!(output.iter().all(|&x| x == 7.0), "{}: decoded a short block", dtype.name);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(
            which in 0..GGML_TYPES.len(),
            input in proptest::collection::vec(any::<u8>(), 0..1200),
            elements in 0usize..1200,
        ) {
            let dtype = GGML_TYPES[which].1;
            let mut output = vec![0.0; elements];
            (dtype.decode)(&input, &mut output);
        }

        #[test]
        fn blocks_are_decoded_one_by_one(which in 0..GGML_TYPES.len(), seed in any::<u64>()) {
            let dtype = GGML_TYPES[which].1;
            let mut random = fastrand::Rng::with_seed(seed);
            let mut input = vec![0; 3 * dtype.bytes];
            random.fill(&mut input);
            let mut whole = vec![0.0; 3 * dtype.block];
            (dtype.decode)(&input, &mut whole);
            for i in 0..3 {
                let mut one = vec![0.0; dtype.block];
                (dtype.decode)(&input[i * dtype.bytes..(i + 1) * dtype.bytes], &mut one);
                for (a, b) in whole[i * dtype.block..].iter().zip(&one) {
                    prop_assert_eq!(a.to_bits(), b.to_bits());
                }
            }
        }
    }
}
