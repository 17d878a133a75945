//! Codes that no scheme reads: their group becomes one weight that cannot be read, under the name the model has for it,
//! so that codes are never compared as if they were weights and scales never look like matrices of their own.

use std::collections::BTreeMap;

use crate::checkpoint::collect::Anomalies;
use crate::checkpoint::{Checkpoint, Storage, TensorEntry, anomaly};
use crate::tensor::{DType, DTypeFamily};

/// A way of storing weights that is known by its names and not read.
struct Unread {
    /// What it is called.
    name: &'static str,
    /// Last parts of the names that hold codes.
    codes: &'static [&'static str],
    /// Parts of which one must be there as well; none where the codes' name says enough.
    beside: &'static [&'static str],
    /// Further parts that belong to it.
    parts: &'static [&'static str],
}

/// Every such way. Of several that fit the first names it.
static UNREAD: &[Unread] = &[
    Unread { name: "EXL3", codes: &["trellis"], beside: &["suh", "svh", "su", "sv"], parts: &["mcg", "mul1"] },
    Unread {
        name: "QTIP",
        codes: &["trellis"],
        beside: &["SU", "SV", "tlut"],
        parts: &["rcp", "tp_rank", "had_left", "had_right"],
    },
    Unread {
        name: "EXL2",
        codes: &["q_weight"],
        beside: &[],
        parts: &["q_scale", "q_scale_max", "q_groups", "q_group_map", "q_perm", "q_invperm"],
    },
    Unread {
        name: "HQQ or SINQ",
        codes: &["W_q"],
        beside: &[],
        parts: &[
            "scale",
            "scale2",
            "zero",
            "scales",
            "zeros",
            "shape",
            "nbits",
            "group_size",
            "axis",
            "channel_wise",
            "optimize",
            "round_zero",
            "packing",
            "compute_dtype",
            "unpack_view_dtype",
            "view_as_float",
            "quant_scale",
            "quant_zero",
            "stores_quant_config",
            "encoded_state_dict",
            "offload_meta",
            "meta",
            "meta.scale",
            "meta.scale2",
            "meta.zero",
            "meta.shape",
            "meta.nbits",
            "meta.group_size",
            "meta.axis",
        ],
    },
    Unread { name: "AQLM", codes: &["codes"], beside: &["codebooks"], parts: &["scales"] },
    Unread {
        name: "QuIP#",
        codes: &["Qidxs", "Qidxs_0", "Qidxs_1", "Qidxs_2", "Qidxs_3"],
        beside: &[],
        parts: &["SU", "SV", "Wscale", "scaleWH", "codebook_id", "fuse_scales", "grid_packed_abs", "A", "B", "rcp"],
    },
    Unread {
        name: "SpQR",
        codes: &["dense_weights"],
        beside: &[],
        parts: &["in_perm", "row_offsets", "row_ids", "col_vals", "col_ptr"],
    },
    Unread {
        name: "VPTQ",
        codes: &["indices", "res_indices", "outlier_indices"],
        beside: &["centroids.weight", "res_centroids.weight", "outlier_centroids.weight", "centroids"],
        parts: &["weight_scale", "weight_bias", "perm", "invert_perm", "norm_dim"],
    },
    Unread {
        name: "Quanto",
        codes: &["_data", "_data._data"],
        beside: &["_scale"],
        parts: &["_shift", "_zeropoint", "_scale_shift"],
    },
    Unread {
        name: "torchao",
        codes: &["_weight_qdata", "weight_qdata", "_weight_int_data", "weight:_data", "weight:qdata"],
        beside: &[],
        parts: &[
            "_weight_scale",
            "_weight_zero_point",
            "_weight_act_pre_scale",
            "weight_scale",
            "weight:scale",
            "weight:zero_point",
            "weight:_scale",
        ],
    },
    Unread {
        name: "SVDQuant",
        codes: &["qweight"],
        beside: &["wscales", "wtscale", "smooth_factor", "smooth"],
        parts: &[
            "wcscales",
            "wzeros",
            "lora_up",
            "lora_down",
            "proj_up",
            "proj_down",
            "smooth_factor_orig",
            "smooth_orig",
        ],
    },
    Unread {
        name: "SqueezeLLM",
        codes: &["qweight"],
        beside: &["lookup_table"],
        parts: &["rows", "cols", "vals", "startrows", "full_rows", "full_row_indices"],
    },
    Unread {
        name: "Any-Precision",
        codes: &["qweight"],
        beside: &["lut2", "lut3", "lut4", "lut5", "lut6", "lut7", "lut8"],
        parts: &[],
    },
    Unread { name: "Marlin", codes: &["B"], beside: &["s"], parts: &["workspace", "meta", "B_24", "B_meta"] },
    Unread {
        name: "TensorRT-LLM",
        codes: &["weight"],
        beside: &["weights_scaling_factor", "weights_block_scaling_factor"],
        parts: &["activation_scaling_factor", "prequant_scaling_factor", "alpha", "zero", "weights_scaling_factor_2"],
    },
    Unread { name: "HIGGS", codes: &["weight"], beside: &["tables", "tables2"], parts: &["scales"] },
    Unread { name: "EETQ", codes: &["weight"], beside: &["weight_scales"], parts: &[] },
    Unread {
        name: "BitNet or ModelOpt's 4 bits",
        codes: &["weight"],
        beside: &["weight_scale"],
        parts: &["pre_quant_scale"],
    },
    Unread {
        name: "bitsandbytes without the state that describes it",
        codes: &["weight"],
        beside: &["weight.absmax", "weight.quant_map"],
        parts: &["weight.nested_absmax", "weight.nested_quant_map"],
    },
    Unread {
        name: "a sparse form of compressed-tensors",
        codes: &["compressed"],
        beside: &["bitmask"],
        parts: &["shape", "row_offsets", "weight_shape"],
    },
    Unread {
        name: "a packed form of compressed-tensors",
        codes: &["weight_packed"],
        beside: &[],
        parts: &["weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale"],
    },
    Unread {
        name: "packed codes without the scales that go with them",
        codes: &["qweight", "qzeros"],
        beside: &[],
        parts: &["scales", "g_idx"],
    },
];

/// Parts that mark their neighbours as codes, whatever wrote them.
const SCALES: &[&str] = &[
    "scale",
    "scales",
    "scale_inv",
    "weight_scale",
    "weight_scales",
    "weight_scale_inv",
    "weight_scale_2",
    "scale_weight",
    "w_scale",
    "absmax",
    "zeros",
    "qzeros",
    "zero_point",
    "weight_zero_point",
    "biases",
    "codebook",
    "codebooks",
    "lut",
];

/// Last parts of names of whole numbers that belong to models and are no weights: positions, masks, tables of indices.
const BUFFERS: &[&str] = &[
    "position_ids",
    "token_type_ids",
    "relative_position_index",
    "relative_position_bucket",
    "num_batches_tracked",
    "masked_bias",
    "mask",
    "attn_mask",
    "causal_mask",
    "attention_mask",
    "tid2eid",
    "input_ids",
    "index",
    "indices",
    "g_idx",
    "perm",
    "expert_map",
    "weight_shape",
    "code",
    "version",
];

/// Replaces what is left of quantised groups after every scheme had its turn. Gives the names of the ways found.
pub(super) fn resolve(checkpoint: &mut Checkpoint, anomalies: &mut Anomalies) -> Vec<&'static str> {
    let mut found: BTreeMap<&'static str, Vec<(String, String)>> = BTreeMap::new();
    for (name, entry) in &checkpoint.tensors {
        if let Some((stem, way)) = known(checkpoint, name, entry) {
            found.entry(way.name).or_default().push((name.clone(), stem.to_owned()));
        }
    }
    for (way, groups) in &found {
        let parts: Vec<&str> = (UNREAD.iter())
            .filter(|unread| unread.name == *way)
            .flat_map(|unread| [unread.codes, unread.beside, unread.parts].into_iter().flatten().copied())
            .collect();
        let mut weights = 0;
        let mut first_file = String::new();
        for (stored, stem) in groups {
            // Several tensors of codes make one weight; the first stands for it.
            let Some(codes) = checkpoint.tensors.remove(stored) else { continue };
            if weights == 0 {
                first_file = checkpoint.files.get(codes.file).map_or(String::new(), |file| file.name.clone());
            }
            weights += 1;
            for part in &parts {
                let name = format!("{stem}.{part}");
                // A weight in plain form beside its codes is not part of them.
                if *part != "weight" || name == *stored {
                    checkpoint.tensors.remove(&name);
                }
            }
            put(
                checkpoint,
                stored,
                &logical(stem),
                codes,
                format!("it is stored as {way}, which is not read"),
                anomalies,
            );
        }
        let detail = format!("{weights} weights are stored as {way}, which is not read");
        anomalies.file(anomaly::UNREAD_QUANTIZATION, &first_file, detail);
    }
    whole_numbers(checkpoint, anomalies);
    found.into_keys().collect()
}

/// The model's name for the weight of a module.
fn logical(stem: &str) -> String {
    if stem.ends_with(".weight") { stem.to_owned() } else { format!("{stem}.weight") }
}

/// The module and the way in which a tensor holds its codes, if it is one of the known.
fn known<'n>(checkpoint: &Checkpoint, name: &'n str, entry: &TensorEntry) -> Option<(&'n str, &'static Unread)> {
    if matches!(entry.storage, Storage::Packed(_)) {
        return None;
    }
    UNREAD.iter().find_map(|way| {
        let stem = way.codes.iter().find_map(|part| name.strip_suffix(part)?.strip_suffix('.'))?;
        let there = |part: &&str| checkpoint.tensors.contains_key(&format!("{stem}.{part}"));
        let sparse = way.codes.contains(&"compressed");
        let fits = (sparse || is_code(entry.dtype)) && (way.beside.is_empty() || way.beside.iter().any(there));
        fits.then_some((stem, way))
    })
}

/// Whether numbers of this dtype may be codes: whole ones, bytes of any meaning, and what has no name here.
fn is_code(dtype: &DType) -> bool {
    matches!(dtype.family, DTypeFamily::Integer | DTypeFamily::Opaque)
        || dtype.family == DTypeFamily::Float && dtype.bytes == 1
}

/// Puts an unreadable weight in the place of its codes.
fn put(
    checkpoint: &mut Checkpoint,
    stored: &str,
    logical: &str,
    codes: TensorEntry,
    reason: String,
    anomalies: &mut Anomalies,
) {
    let (mut name, mut reason) = (logical.to_owned(), reason);
    if checkpoint.tensors.contains_key(logical) {
        let file = checkpoint.files.get(codes.file).map_or("", |file| file.name.as_str());
        anomalies.tensor(anomaly::DUPLICATE_TENSOR, file, logical, format!("also as {stored}, in quantised form"));
        stored.clone_into(&mut name);
        reason = format!("{reason}; {logical} is there in plain form too");
    }
    // What shape the weight has, the codes do not tell.
    let shape = if name == stored { codes.shape.clone() } else { vec![0] };
    let entry = TensorEntry { name: name.clone(), shape, storage: Storage::Unreadable(reason), ..codes };
    checkpoint.tensors.insert(name, entry);
}

/// Whole numbers where weights belong are codes of something, even if nothing says of what: they are never compared.
fn whole_numbers(checkpoint: &mut Checkpoint, anomalies: &mut Anomalies) {
    let mut found = Vec::new();
    for (name, entry) in &checkpoint.tensors {
        if !matches!(entry.storage, Storage::Plain) {
            continue;
        }
        let (stem, last) = name.rsplit_once('.').unwrap_or(("", name));
        let there = |part: &&&str| checkpoint.tensors.contains_key(&format!("{stem}.{part}"));
        let scales: Vec<&str> = SCALES.iter().filter(there).copied().filter(|part| *part != last).collect();
        let whole = entry.dtype.family == DTypeFamily::Integer;
        let byte = entry.dtype.family == DTypeFamily::Float && entry.dtype.bytes == 1;
        let sides = entry.shape.iter().filter(|size| **size > 1).count();
        let weight = last == "weight" && sides >= 1;
        let buffer =
            BUFFERS.contains(&last) || last == "bias" && stem.ends_with("attn") || name.ends_with("attention.bias");
        let matrix = sides >= 2 && !buffer && entry.dtype.name != "BOOL" && !SCALES.contains(&last);
        let numbers = entry.dtype.name;
        if (whole || byte) && (weight || matrix) && !scales.is_empty() {
            let reason =
                format!("it is stored as {numbers} with {} beside it, in no way that is read", scales.join(", "));
            found.push((
                name.clone(),
                logical(stem),
                reason,
                scales.iter().map(|part| format!("{stem}.{part}")).collect(),
            ));
        } else if whole && (weight || matrix) {
            let reason = format!("it holds whole numbers ({numbers}), and nothing says what weights they stand for");
            found.push((name.clone(), name.clone(), reason, Vec::new()));
        }
    }
    for (stored, logical, reason, companions) in found {
        let Some(codes) = checkpoint.tensors.remove(&stored) else { continue };
        let companions: Vec<String> = companions;
        companions.iter().for_each(|name| drop(checkpoint.tensors.remove(name)));
        let file = checkpoint.files.get(codes.file).map_or("", |file| file.name.as_str());
        anomalies.tensor(anomaly::UNREAD_NUMBERS, file, &stored, reason.clone());
        put(checkpoint, &stored, &logical, codes, reason, anomalies);
    }
}
