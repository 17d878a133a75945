//! A PyTorch file of any bytes, under the names it may come by. Nothing in it may run, and nothing may panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope::checkpoint::pickle::imports_of;
use orthoscope::source::Bytes;
use orthoscope_fuzz::{exercise, files};

fuzz_target!(|bytes: &[u8]| {
    for name in ["pytorch_model.bin", "model.pth", "model.safetensors"] {
        exercise(&files(&[(name, bytes)]));
    }
    imports_of(&Bytes::new("x.bin", bytes), "x.bin");
});
