//! Quantised weights and adapters of any layout: a configuration, a safetensors header and tensor bytes, one after the
//! other, a line each. The bytes are repeated to whatever length the header asks for, so that a changed shape still has
//! data behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope::checkpoint::{self, FileSet};
use orthoscope::overlay::overlay;
use orthoscope_fuzz::{everything, exercise, files, safetensors};

fn base() -> FileSet {
    let header = br#"{"o.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}}"#;
    files(&[("model.safetensors", &safetensors(header, &[1; 24]))])
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let (Some(config), Some(header), Some(data)) = (parts.next(), parts.next(), parts.next()) else { return };
    let file = safetensors(header, data);
    exercise(&files(&[("config.json", config), ("model.safetensors", &file)]));
    let adapter = files(&[("adapter_config.json", config), ("adapter_model.safetensors", &file)]);
    if let (Ok(base), Ok(adapter)) = (checkpoint::open(&base()), checkpoint::open(&adapter))
        && let Ok(laid) = overlay(&base, &adapter)
    {
        everything(&laid);
    }
});
