//! A safetensors file of any bytes: whole, and as a header of the right length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope_fuzz::{exercise, files};

fuzz_target!(|bytes: &[u8]| {
    exercise(&files(&[("model.safetensors", bytes)]));
    let framed = [&(bytes.len() as u64).to_le_bytes()[..], bytes, &[0; 64]].concat();
    exercise(&files(&[("model.safetensors", &framed)]));
});
