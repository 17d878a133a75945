//! What the decoders of block types share: the row of the dtype table, the loop over blocks, scales and nibbles.

/// A row of the dtype table for a block type, from its layout and the decoder of one block.
///
/// The sizes are checked against the decoder's own array types when the crate is compiled.
macro_rules! block_type {
    ($name:ident, $elements:literal in $bytes:expr, $decode:path, $what:literal) => {
        #[doc = $what]
        pub static $name: $crate::tensor::DType = $crate::tensor::DType {
            name: stringify!($name),
            family: $crate::tensor::DTypeFamily::Block,
            block: $elements,
            bytes: $bytes,
            precision: 0,
            decode: |input, output| {
                $crate::tensor::block::blocks::<{ $bytes }, $elements>(
                    input,
                    output,
                    #[inline(always)]
                    |block, out| $decode(block, out),
                );
            },
        };
    };
}
pub(super) use block_type;

/// Decodes block after block, with the widest vector instructions the processor has.
#[inline(always)]
pub(super) fn blocks<const BYTES: usize, const ELEMENTS: usize>(
    input: &[u8],
    output: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    struct Job<'a, const BYTES: usize, const ELEMENTS: usize, F> {
        input: &'a [u8],
        output: &'a mut [f32],
        decode: F,
    }
    impl<const BYTES: usize, const ELEMENTS: usize, F> pulp::NullaryFnOnce for Job<'_, BYTES, ELEMENTS, F>
    where
        F: Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
    {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let blocks = self.input.as_chunks::<BYTES>().0;
            let outputs = self.output.as_chunks_mut::<ELEMENTS>().0;
            for (block, out) in blocks.iter().zip(outputs) {
                (self.decode)(block, out);
            }
        }
    }
    pulp::Arch::new().dispatch(Job { input, output, decode });
}

/// A binary16 scale at a byte offset of a block, without a branch, so that it does not break up a vectorised loop.
#[inline(always)]
pub(super) fn half<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    half_from_bits(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The value of a binary16. Subnormal ones, which scales often are, go through an integer: a product with a subnormal
/// `f32` would be exact too, but costs many processors a hundred cycles.
#[inline(always)]
pub(super) fn half_from_bits(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let normal = (magnitude << 13) + ((127 - 15) << 23);
    let subnormal = (magnitude as i32 as f32 * (1.0 / 16_777_216.0)).to_bits();
    let special = magnitude << 13 | 0x7f80_0000;
    let value = if magnitude < 0x0400 { subnormal } else { normal };
    f32::from_bits(sign | if magnitude >= 0x7c00 { special } else { value })
}

/// The low four bits and the high four bits of a code byte, as signed numbers to calculate with.
#[inline(always)]
pub(super) fn nibbles(byte: u8) -> (i32, i32) {
    (i32::from(byte & 15), i32::from(byte >> 4))
}
