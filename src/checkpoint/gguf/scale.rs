//! GGUF matrices whose scale is partly in a tensor beside them.
//!
//! NVFP4 and the ternary types have too little range for a whole matrix, so converters write `X.weight` with `X.scale`
//! (some: `X.weight.scale`): one `f32` for the matrix, or one for each expert of a stack. llama.cpp multiplies the
//! matrix's product by it. Other types may have tensors of such names too, but as parameters of the model (a router's
//! scale for each expert), which a base checkpoint has as well; those are left alone.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::checkpoint::{CheckpointFile, Decode, Storage, TensorEntry, decode_plain};
use crate::error::Result;
use crate::limits::MAX_SCALED_EXPERTS;
use crate::source::ByteSource;
use crate::tensor::{F32, NVFP4, TQ1_0, TQ2_0};

/// A matrix, or a stack of them, with the scales beside it.
struct Scaled {
    source: Arc<dyn ByteSource>,
    codes: TensorEntry,
    scale_source: Arc<dyn ByteSource>,
    scale: TensorEntry,
    /// Elements that share one scale.
    run: u64,
    /// The scales, once they were needed: reading them while opening would be a request each.
    scales: OnceLock<Vec<f32>>,
}

impl Decode for Scaled {
    fn scheme(&self) -> &str {
        match self.codes.dtype.name {
            "NVFP4" => "nvfp4-scaled",
            _ => "ternary-scaled",
        }
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let scales = match self.scales.get() {
            Some(scales) => scales,
            None => {
                let mut scales = vec![0.0; self.scale.elements() as usize];
                decode_plain(self.scale_source.as_ref(), &self.scale, 0, &mut scales)?;
                self.scales.get_or_init(|| scales)
            }
        };
        decode_plain(self.source.as_ref(), &self.codes, first, out)?;
        let mut at = first;
        let mut rest = out;
        while !rest.is_empty() {
            let left = self.run - at % self.run;
            let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
            let (now, later) = rest.split_at_mut(count);
            if let Some(scale) = scales.get((at / self.run) as usize) {
                now.iter_mut().for_each(|number| *number *= scale);
            }
            at += count as u64;
            rest = later;
        }
        Ok(())
    }
}

/// Gives every matrix that has a scale beside it a decoder that applies it.
pub(super) fn attach(files: &[CheckpointFile], tensors: &mut BTreeMap<String, TensorEntry>) {
    let mut scaled = Vec::new();
    for (name, entry) in tensors.iter() {
        let wants = [&NVFP4, &TQ1_0, &TQ2_0].contains(&entry.dtype);
        if !wants || !matches!(entry.storage, Storage::Plain) || entry.elements() == 0 {
            continue;
        }
        let Some(stem) = name.strip_suffix(".weight") else { continue };
        let beside = [format!("{stem}.scale"), format!("{name}.scale")];
        let Some(scale) = beside.iter().find_map(|name| tensors.get(name)) else { continue };
        let experts = if entry.shape.len() == 3 { entry.shape[0] } else { 1 };
        let fits = [1, experts].contains(&scale.elements()) && scale.elements() <= MAX_SCALED_EXPERTS;
        if !fits || scale.dtype != &F32 || !matches!(scale.storage, Storage::Plain) {
            continue;
        }
        let (Some(file), Some(scale_file)) = (files.get(entry.file), files.get(scale.file)) else { continue };
        let packed: Arc<dyn Decode> = Arc::new(Scaled {
            source: file.source.clone(),
            codes: entry.clone(),
            scale_source: scale_file.source.clone(),
            scale: scale.clone(),
            run: entry.elements() / scale.elements(),
            scales: OnceLock::new(),
        });
        scaled.push((name.clone(), packed));
    }
    for (name, packed) in scaled {
        if let Some(entry) = tensors.get_mut(&name) {
            entry.storage = Storage::Packed(packed);
        }
    }
}
