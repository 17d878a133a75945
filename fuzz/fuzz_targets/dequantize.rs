//! Every dtype's decoder on any bytes: the first byte chooses the dtype, the second how much room there is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope::tensor::DTYPES;

fuzz_target!(|bytes: &[u8]| {
    let [which, room, bytes @ ..] = bytes else { return };
    let dtype = DTYPES[usize::from(*which) % DTYPES.len()];
    let blocks = bytes.len() / dtype.bytes;
    let mut numbers = vec![7.0; blocks * dtype.block];
    (dtype.decode)(bytes, &mut numbers);
    // Too little and too much room: neither may matter to what is decoded.
    let mut others = vec![7.0; (blocks * dtype.block).saturating_sub(64) + usize::from(*room)];
    (dtype.decode)(bytes, &mut others);
    let whole = numbers.len().min(others.len()) / dtype.block * dtype.block;
    for (a, b) in numbers[..whole].iter().zip(&others) {
        assert!(a.to_bits() == b.to_bits(), "{}: depends on the room", dtype.name);
    }
});
