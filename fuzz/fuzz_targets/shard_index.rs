//! A shard index of any bytes beside two honest shards, and a configuration of any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope_fuzz::{exercise, files};

fn shard(name: &str) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let (one, two) = (shard("a"), shard("b"));
    let shards: [(&str, &[u8]); 2] =
        [("model-00001-of-00002.safetensors", &one), ("model-00002-of-00002.safetensors", &two)];
    exercise(&files(&[shards[0], shards[1], ("model.safetensors.index.json", bytes)]));
    exercise(&files(&[shards[0], shards[1], ("config.json", bytes)]));
    exercise(&files(&[("pytorch_model.bin.index.json", bytes)]));
});
