//! Quantised weights: groups of stored tensors (codes, scales, zero points) turned into the weights they stand for.
//!
//! Every scheme is one file and one line in [`SCHEMES`]. A group is recognised by the names and dtypes of its tensors;
//! `config.json` is asked only for what they do not tell. The logical tensor takes the place of its parts under the
//! name that the unquantised model uses, so that every later stage sees the same model.

mod awq;
mod bitsandbytes;
mod fp4;
mod gptq;
mod mlx;
mod packed;
mod scaled;
mod stored;
mod unread;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::collect::Anomalies;
use super::{Checkpoint, Decode, Storage, TensorEntry, anomaly};
use crate::tensor::DType;

/// One way of storing quantised weights.
trait Scheme: Sync {
    /// The name of the weight that a stored tensor holds the codes of, if it holds codes of this scheme.
    fn claims(&self, checkpoint: &Checkpoint, stored: &str) -> Option<String>;

    /// Reads the group whose codes are in `stored`; the reason when it does not fit together.
    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<Group, String>;
}

/// A group that fits together.
struct Group {
    /// Shape of the weight.
    shape: Vec<u64>,
    /// The dtype that the tool computes the weight in, or the codes' own where they are floats.
    dtype: &'static DType,
    /// Its numbers.
    decoder: Arc<dyn Decode>,
    /// Names of the tensors that belong to it beside the codes; those that are not there do not matter.
    companions: Vec<String>,
}

/// Every scheme. Of several that claim a tensor the first reads it.
static SCHEMES: &[&dyn Scheme] = &[
    &bitsandbytes::FourBit,
    &bitsandbytes::EightBit,
    &fp4::GptOss,
    &fp4::Packed,
    &packed::CompressedTensors,
    &awq::Awq,
    &gptq::Gptq,
    &mlx::Mlx,
    &scaled::Scaled,
];

/// Replaces every group of stored tensors by the weight it stands for. A group that does not fit together, or that no
/// scheme reads, becomes an unreadable weight and an anomaly (`quantized-group`, `unread-quantization`).
pub(crate) fn resolve(checkpoint: &mut Checkpoint) {
    let mut found = Vec::new();
    for name in checkpoint.tensors.keys() {
        let claim = SCHEMES.iter().find_map(|scheme| Some((scheme, scheme.claims(checkpoint, name)?)));
        if let Some((scheme, logical)) = claim {
            found.push((name.clone(), logical, scheme.read(checkpoint, name)));
        }
    }
    let mut anomalies = Anomalies::default();
    let none = found.is_empty();
    for (stored, logical, group) in found {
        let Some(codes) = checkpoint.tensors.remove(&stored) else { continue };
        let mut entry = TensorEntry { name: logical.clone(), ..codes };
        let file = checkpoint.files.get(entry.file).map_or("", |file| file.name.as_str());
        match group {
            Ok(group) => {
                for companion in &group.companions {
                    checkpoint.tensors.remove(companion);
                }
                entry.shape = group.shape;
                entry.dtype = group.dtype;
                entry.storage = Storage::Packed(group.decoder);
            }
            Err(reason) => {
                anomalies.tensor(anomaly::QUANTIZED_GROUP, file, &logical, reason.clone());
                entry.storage = Storage::Unreadable(reason);
            }
        }
        if checkpoint.tensors.contains_key(&logical) {
            anomalies.tensor(anomaly::DUPLICATE_TENSOR, file, &logical, format!("also as {stored}, in quantised form"));
            entry.name = stored;
            entry.storage = Storage::Unreadable(format!("{logical} is there in plain form too"));
        }
        checkpoint.tensors.insert(entry.name.clone(), entry);
    }
    let unread = unread::resolve(checkpoint, &mut anomalies);
    if let (Some(method), true, true) = (stated(&checkpoint.config), none, unread.is_empty()) {
        let detail = format!("config.json says the weights are quantised by {method}, and no such tensors are there");
        anomalies.file(anomaly::QUANTIZATION_NOT_FOUND, "config.json", detail);
    }
    partly(checkpoint, &mut anomalies);
    checkpoint.anomalies.extend(anomalies.finish());
    checkpoint.anomalies.sort();
}

/// How a config says that the weights are quantised, if it says so.
fn stated(config: &Value) -> Option<String> {
    let settings = settings(config);
    if let Some(method) = settings["quant_method"].as_str() {
        return Some(format!("{method:?}"));
    }
    settings["bits"].as_u64().filter(|bits| *bits < 16).map(|bits| format!("{bits} bits"))
}

/// Tells where a matrix is plain in some layers and quantised in others: loaders take both, and makers rarely mean it.
fn partly(checkpoint: &Checkpoint, anomalies: &mut Anomalies) {
    let mut modules: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for entry in checkpoint.tensors.values().filter(|entry| entry.shape.len() == 2) {
        let in_codes = match &entry.storage {
            Storage::Packed(_) | Storage::Plain => entry.is_quantized(),
            Storage::Unreadable(_) => continue,
        };
        let place: Vec<&str> =
            entry.name.split('.').map(|part| if part.parse::<u32>().is_ok() { "*" } else { part }).collect();
        if place.contains(&"*") {
            modules.entry(place.join(".")).or_default()[usize::from(in_codes)] += 1;
        }
    }
    for (module, [plain, in_codes]) in modules.into_iter().filter(|(_, counts)| counts.iter().all(|count| *count > 0)) {
        let detail = format!("{module}: {plain} in plain form, {in_codes} quantised");
        anomalies.file(anomaly::PARTLY_QUANTIZED, "", detail);
    }
}

/// The quantisation settings of a config, `Null` where there are none.
fn settings(config: &Value) -> &Value {
    let places = [config, &config["text_config"], &config["llm_config"]];
    let names = ["quantization_config", "compression_config", "quantization"];
    let mut found = places.iter().flat_map(|place| names.iter().map(|name| &place[*name]));
    found.find(|value| value.is_object()).unwrap_or(&Value::Null)
}

/// Companions of a module `stem` by the last parts of their names.
fn companions(stem: &str, parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| format!("{stem}.{part}")).collect()
}

#[cfg(test)]
mod tests;
