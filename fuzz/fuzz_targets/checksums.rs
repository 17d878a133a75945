//! Any bytes as a list of checksums, under a name that lends a lone digest its file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope::verify::magic;
use orthoscope::verify::manifest::{parse, stays_inside};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = parse("model.safetensors.sha256", bytes) {
        for (name, hashes) in &list.entries {
            assert!(stays_inside(name), "{name:?} leads out of the folder");
            assert!(hashes.iter().all(|hash| hash.bytes.len() == hash.algorithm.bytes()));
        }
    }
    let _ = magic::kind(bytes, bytes.len() as u64);
});
