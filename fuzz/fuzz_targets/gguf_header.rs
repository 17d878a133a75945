//! A GGUF file of any bytes: whole, as one part of two, and behind the magic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope_fuzz::{exercise, files};

fuzz_target!(|bytes: &[u8]| {
    exercise(&files(&[("m.gguf", bytes)]));
    exercise(&files(&[("m-00001-of-00002.gguf", bytes), ("m-00002-of-00002.gguf", bytes)]));
    let magic = [b"GGUF\x03\0\0\0", bytes].concat();
    exercise(&files(&[("m.gguf", &magic)]));
});
