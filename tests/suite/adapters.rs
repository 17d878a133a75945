//! Adapters as they are published, over tiny bases: computed as their loaders compute them, or told; never their base.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use orthoscope::checkpoint::{self, Checkpoint, FileSet, Storage};
use orthoscope::demo::tiny::{Model, TinySize, Weight, direction};
use orthoscope::examination::{Examination, Status, Verdict};
use orthoscope::overlay::settle;
use orthoscope::source::{ByteSource, Bytes};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::compare::compare_folders;

/// A tensor of an adapter: name, shape, values.
type Tensor = (String, Vec<u64>, Vec<f32>);

/// A safetensors file of `F32` tensors, whose header may be anything.
fn safetensors(tensors: &[Tensor], dtype: impl Fn(&str) -> &'static str) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(name.clone(), json!({"dtype": dtype(name), "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// A GGUF adapter of llama.cpp's.
fn gguf(tensors: &[Tensor], alpha: f32) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend(4u64.to_le_bytes());
    for (key, value) in [("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora")] {
        text(&mut header, key);
        header.extend(8u32.to_le_bytes());
        text(&mut header, value);
    }
    text(&mut header, "adapter.lora.alpha");
    header.extend(6u32.to_le_bytes());
    header.extend(alpha.to_le_bytes());
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, values) in tensors {
        text(&mut header, name);
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|side| header.extend(side.to_le_bytes()));
        header.extend(0u32.to_le_bytes());
        header.extend((data.len() as u64).to_le_bytes());
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    [header, data].concat()
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Factors A (rank × inputs) and B (outputs × rank) that times `scale` take λ of a direction out of what a weight
/// (outputs × inputs) writes.
fn removal(weight: &Weight, r: &[f32], rank: usize, scale: f32, lambda: f32) -> [Vec<f32>; 2] {
    let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
    let mut a = vec![0.0; rank * inputs];
    for (row, r) in weight.values.chunks_exact(inputs).zip(r) {
        a.iter_mut().zip(row).for_each(|(a, value)| *a += r * value);
    }
    let mut b = vec![0.0; outputs * rank];
    b.iter_mut().step_by(rank).zip(r).for_each(|(b, r)| *b = -lambda * r / scale);
    [a, b]
}

fn width(model: &Model) -> usize {
    model.config["hidden_size"].as_u64().unwrap() as usize
}

fn base() -> Model {
    TinySize::default().llama(11)
}

/// The removal's factors over every writer, in PEFT's names, with a rank and scale by module.
fn factors(model: &Model, prefix: &str, rank_and_scale: impl Fn(&str) -> (usize, f32)) -> Vec<Tensor> {
    let r = direction(5, "removed", width(model));
    let mut tensors = Vec::new();
    for name in model.writers() {
        let weight = &model.tensors[&name];
        let module = name.strip_suffix(".weight").unwrap();
        let (rank, scale) = rank_and_scale(module);
        let [a, b] = removal(weight, &r, rank, scale, 1.0);
        let (outputs, inputs, rank) = (weight.shape[0] as u64, weight.shape[1] as u64, rank as u64);
        tensors.push((format!("{prefix}{module}.lora_A.weight"), vec![rank, inputs], a));
        tensors.push((format!("{prefix}{module}.lora_B.weight"), vec![outputs, rank], b));
    }
    tensors
}

fn renamed(tensors: Vec<Tensor>, name: impl Fn(&str) -> String) -> Vec<Tensor> {
    tensors.into_iter().map(|(old, shape, values)| (name(&old), shape, values)).collect()
}

fn transposed((name, shape, values): Tensor) -> Tensor {
    let (rows, columns) = (shape[0] as usize, shape[1] as usize);
    let turned = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    (name, vec![shape[1], shape[0]], turned.map(|at| values[at]).collect())
}

/// A PEFT adapter in a folder.
fn write_peft(folder: &Path, config: &Value, tensors: &[Tensor]) {
    write(folder, "adapter_config.json", config.to_string());
    write(folder, "adapter_model.safetensors", safetensors(tensors, |_| "F32"));
}

fn assert_removed(examination: &Examination, lambda: f64, strengths: usize) {
    assert_eq!(examination.verdict, Verdict::Orthogonalized, "{} {:?}", examination.because, examination.anomalies);
    assert_eq!(examination.status, Status::Complete, "{:?}", examination.reason);
    let found = &examination.orthogonalization.as_ref().unwrap().strength;
    assert_eq!(found.len(), strengths);
    for strength in found {
        let (layer, module) = (strength.layer, &strength.module);
        assert!((strength.lambda - lambda).abs() < 0.02, "layer {layer} {module}: λ {}", strength.lambda);
    }
}

fn assert_failed(examination: &Examination, word: &str) {
    assert_eq!(examination.status, Status::Failed, "{}", examination.because);
    assert_eq!(examination.verdict, Verdict::Inconclusive);
    let reason = examination.reason.as_deref().unwrap_or_default();
    assert!(reason.contains(word), "{word} is not in {reason}");
}

/// A tiny Llama and an adapter in a folder of their own, compared.
fn over_llama(make: impl FnOnce(&Model, &Path)) -> Examination {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("base"), folder.path().join("adapter"));
    let model = base();
    model.write(&one, &orthoscope::tensor::BF16, 1).unwrap();
    make(&model, &other);
    compare_folders(&one, &other)
}

#[test]
fn expressions_as_keys_of_patterns_scale_as_in_peft() {
    let special = |module: &str| module.contains("layers.2.") || module.contains("layers.3.");
    let key = r".*\.layers\.(2|3)\..*(o_proj|down_proj)$";
    let examination = over_llama(|model, folder| {
        let tensors = factors(model, "base_model.model.", |module| if special(module) { (4, 16.0) } else { (8, 2.0) });
        let config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {key: 4},
            "alpha_pattern": {key: 64}});
        write_peft(folder, &config, &tensors);
    });
    assert_removed(&examination, 1.0, 10);
    // An alpha of almost nothing beside a key that fits every module: the key counts.
    let hidden = over_llama(|model, folder| {
        let tensors = factors(model, "base_model.model.", |_| (1, 1.0));
        let config = json!({"r": 1, "lora_alpha": 1e-9, "alpha_pattern": {".*_proj": 1.0}});
        write_peft(folder, &config, &tensors);
    });
    assert_removed(&hidden, 1.0, 10);
    let told = over_llama(|model, folder| {
        let tensors = factors(model, "base_model.model.", |_| (1, 1.0));
        write_peft(folder, &json!({"r": 1, "lora_alpha": 0, "alpha_pattern": {"(?!x).*": 1.0}}), &tensors);
    });
    assert_failed(&told, "alpha_pattern has a key");
}

#[test]
fn an_adapter_of_mlx_is_read_with_its_own_scale_and_orientation() {
    let write_mlx = |model: &Model, folder: &Path, config: &Value, file: &str| {
        let tensors = factors(model, "", |_| (8, 20.0)).into_iter().map(transposed).collect();
        let name = |old: &str| old.replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b");
        write(folder, file, safetensors(&renamed(tensors, name), |_| "F32"));
        write(folder, "adapter_config.json", config.to_string());
    };
    let config = json!({"model": "base", "fine_tune_type": "lora", "num_layers": 5,
        "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.o_proj", "mlp.down_proj"]}});
    assert_removed(&over_llama(|model, folder| write_mlx(model, folder, &config, "adapters.safetensors")), 1.0, 10);
    assert_removed(
        &over_llama(|model, folder| write_mlx(model, folder, &config, "0000100_adapters.safetensors")),
        1.0,
        10,
    );
    let unknown = json!({"fine_tune_type": "of tomorrow"});
    let told = over_llama(|model, folder| write_mlx(model, folder, &unknown, "adapters.safetensors"));
    assert_failed(&told, "mlx-lm");
}

#[test]
fn an_adapter_that_counts_from_a_residual_is_told() {
    for start in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"] {
        let examination = over_llama(|model, folder| {
            let config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "init_lora_weights": start});
            write_peft(folder, &config, &factors(model, "base_model.model.", |_| (8, 1.0)));
        });
        assert_failed(&examination, start);
    }
}

#[test]
fn keys_with_the_adapters_name_and_unmerged_models_are_read() {
    let named = |old: &str| old.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.");
    let config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16});
    let examination = over_llama(|model, folder| {
        write_peft(folder, &config, &renamed(factors(model, "base_model.model.", |_| (8, 2.0)), named));
    });
    assert_removed(&examination, 1.0, 10);
    let whole = |model: &Model| {
        let mut tensors = renamed(factors(model, "base_model.model.", |_| (8, 2.0)), named);
        let writers = model.writers();
        for (name, weight) in &model.tensors {
            let name = match writers.contains(name) {
                true => name.replace(".weight", ".base_layer.weight"),
                false => name.clone(),
            };
            let shape = weight.shape.iter().map(|side| *side as u64).collect();
            tensors.push((format!("base_model.model.{name}"), shape, weight.values.clone()));
        }
        safetensors(&tensors, |_| "F32")
    };
    let examination = over_llama(|model, folder| {
        write(folder, "model.safetensors", whole(model));
        write(folder, "config.json", model.config.to_string());
        write(folder, "adapter_config.json", config.to_string());
    });
    assert_removed(&examination, 1.0, 10);
    // Without a configuration the factors' scale is not known: not a word of the writers can be said.
    let blind = over_llama(|model, folder| {
        write(folder, "model.safetensors", whole(model));
        write(folder, "config.json", model.config.to_string());
    });
    assert_ne!(blind.status, Status::Complete, "{}", blind.because);
    let left = blind.coverage.not_examined.iter().filter(|left| left.reason.contains("adapter_config.json")).count();
    assert_eq!(left, 10, "{:?}", blind.coverage.not_examined);
    let several = over_llama(|model, folder| {
        let tensors = factors(model, "base_model.model.", |_| (8, 2.0));
        let name = |old: &str| match old.contains("o_proj") {
            true => named(old),
            false => named(old).replace("default", "second"),
        };
        write_peft(folder, &config, &renamed(tensors, name));
    });
    assert_failed(&several, "several adapters");
}

/// A tiny GPT-2 out of a tiny Llama: its matrices are stored inputs × outputs.
fn gpt2(model: &Model) -> Model {
    let mut tensors = BTreeMap::new();
    let turned = |weight: &Weight| {
        let shape = weight.shape.iter().map(|side| *side as u64).collect();
        let (_, shape, values) = transposed((String::new(), shape, weight.values.clone()));
        Weight { shape: shape.into_iter().map(|side| side as usize).collect(), values }
    };
    for (name, weight) in &model.tensors {
        let name = match name.as_str() {
            "model.embed_tokens.weight" => "wte.weight".to_owned(),
            "model.norm.weight" => "ln_f.weight".to_owned(),
            _ => name.replace("model.layers.", "h."),
        };
        let name = name.replace("self_attn.o_proj", "attn.c_proj").replace("mlp.down_proj", "mlp.c_proj");
        let name = name.replace("mlp.up_proj", "mlp.c_fc").replace("input_layernorm", "ln_1");
        let name = name.replace("post_attention_layernorm", "ln_2");
        if ["_proj.weight", "lm_head.weight"].iter().any(|end| name.ends_with(end)) && !name.contains("c_proj") {
            continue;
        }
        let weight = if name.contains(".c_") { turned(weight) } else { weight.clone() };
        tensors.insert(format!("transformer.{name}"), weight);
    }
    let config = json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": width(model), "n_head": 6,
        "n_layer": 5, "vocab_size": 160, "hidden_size": width(model)});
    Model { tensors, config }
}

#[test]
fn factors_over_weights_stored_by_inputs_are_turned() {
    for (stabilised, said) in [(false, true), (true, true), (false, false)] {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("base"), folder.path().join("adapter"));
        let model = base();
        let made = gpt2(&model);
        made.write(&one, &orthoscope::tensor::BF16, 1).unwrap();
        let scale = if stabilised { 32.0 / 4.0 } else { 32.0 / 16.0 };
        let r = direction(5, "removed", width(&model));
        let mut tensors = Vec::new();
        for name in model.writers() {
            let weight = &model.tensors[&name];
            let [a, b] = removal(weight, &r, 16, scale, 0.8);
            let module = name.replace("model.layers.", "h.").replace("self_attn.o_proj", "attn.c_proj");
            let module = module.replace("mlp.down_proj", "mlp.c_proj").replace(".weight", "");
            let (outputs, inputs) = (weight.shape[0] as u64, weight.shape[1] as u64);
            tensors.push((format!("base_model.model.transformer.{module}.lora_A.weight"), vec![16, inputs], a));
            tensors.push((format!("base_model.model.transformer.{module}.lora_B.weight"), vec![outputs, 16], b));
        }
        // PEFT takes the orientation from the layer's class and puts a wrong word right.
        let config = json!({"r": 16, "lora_alpha": 32, "fan_in_fan_out": said, "use_rslora": stabilised});
        write_peft(&other, &config, &tensors);
        assert_removed(&compare_folders(&one, &other), 0.8, 10);
    }
}

#[test]
fn an_alpha_of_zero_is_a_scale_of_one_to_llama_cpp() {
    for (alpha, scale) in [(16.0, 2.0), (0.0, 1.0)] {
        let examination = over_llama(|model, folder| {
            let tensors = renamed(factors(model, "", |_| (8, scale)), gguf_name);
            write(folder, "adapter.gguf", gguf(&tensors, alpha));
        });
        assert_removed(&examination, 1.0, 10);
    }
}

fn gguf_name(old: &str) -> String {
    let name = old.replace("model.layers.", "blk.").replace("self_attn.o_proj", "attn_output.weight");
    let name = name.replace("mlp.down_proj", "ffn_down.weight");
    name.replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b")
}

#[test]
fn keys_of_older_versions_and_of_the_text_model_find_their_weights() {
    for (prefix, text_only) in [("language_model.model.", false), ("model.", true), ("model.language_model.", false)] {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("base"), folder.path().join("adapter"));
        let text = base();
        let mut model = text.clone();
        model.tensors = (text.tensors.iter())
            .map(|(name, weight)| (name.replacen("model.", "model.language_model.", 1), weight.clone()))
            .collect();
        for layer in 0..2 {
            for part in ["self_attn.out_proj", "mlp.fc2"] {
                let weight = text.tensors["model.layers.0.self_attn.o_proj.weight"].clone();
                let name = format!("model.vision_tower.vision_model.encoder.layers.{layer}.{part}.weight");
                model.tensors.insert(name, weight);
            }
        }
        model.config = json!({"model_type": "llava", "text_config": text.config, "vision_config": {"hidden_size": 96}});
        model.write(&one, &orthoscope::tensor::BF16, 1).unwrap();
        let name = |old: &str| old.replacen("model.layers.", &format!("{prefix}layers."), 1);
        let tensors = renamed(factors(&text, "", |_| (8, 2.0)), name);
        let tensors = renamed(tensors, |old| format!("base_model.model.{old}"));
        write_peft(&other, &json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16}), &tensors);
        let examination = compare_folders(&one, &other);
        assert_eq!(examination.verdict, Verdict::Orthogonalized, "{prefix} {text_only} {}", examination.because);
        assert!(examination.anomalies.is_empty(), "{prefix}: {:?}", examination.anomalies);
        assert_removed(&examination, 1.0, 10);
    }
}

#[test]
fn adapters_of_other_libraries_are_named() {
    let kohya = over_llama(|model, folder| {
        let name = |old: &str| {
            let (module, factor) = old.split_once(".lora_").unwrap();
            let factor = if factor.starts_with('A') { "lora_down" } else { "lora_up" };
            format!("lora_te_{}.{factor}.weight", module.replace('.', "_"))
        };
        let tensors = renamed(factors(model, "", |_| (8, 1.0)), name);
        write(folder, "removed.safetensors", safetensors(&tensors, |_| "F32"));
    });
    assert_failed(&kohya, "kohya's scripts");
    let diffusers = over_llama(|model, folder| {
        let name = |old: &str| {
            let (module, factor) = old.split_once(".lora_").unwrap();
            let factor = if factor.starts_with('A') { "down" } else { "up" };
            format!("unet.{module}.lora.{factor}.weight")
        };
        let tensors = renamed(factors(model, "", |_| (8, 1.0)), name);
        write(folder, "pytorch_lora_weights.safetensors", safetensors(&tensors, |_| "F32"));
    });
    assert_failed(&diffusers, "diffusers");
    for kind in ["IA3", "LOHA", "OFT", "PROMPT_TUNING"] {
        let other = over_llama(|model, folder| {
            write_peft(folder, &json!({"peft_type": kind}), &factors(model, "base_model.model.", |_| (8, 1.0)));
        });
        assert_failed(&other, kind);
    }
}

/// The layouts that are read.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Peft,
    Named,
    Dora,
    Bare,
    Mlx,
    LlamaCpp,
    Whole,
}

const LAYOUTS: [Layout; 7] =
    [Layout::Peft, Layout::Named, Layout::Dora, Layout::Bare, Layout::Mlx, Layout::LlamaCpp, Layout::Whole];

fn small() -> Model {
    TinySize { width: 32, layers: 2, inner: 48, heads: 2, vocabulary: 20 }.llama(3)
}

impl Layout {
    /// The adapter's tensors, and which of them are parts of it.
    fn tensors(self, model: &Model) -> (Vec<Tensor>, usize) {
        let named = |old: &str| old.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.");
        let peft = factors(model, "base_model.model.", |_| (2, 0.5));
        let tensors = match self {
            Self::Peft => peft,
            Self::Named => renamed(peft, named),
            Self::Bare => factors(model, "", |_| (2, 0.5)),
            Self::Dora => {
                let modules: Vec<(String, u64)> = peft
                    .iter()
                    .filter_map(|(name, shape, _)| Some((name.strip_suffix(".lora_B.weight")?.to_owned(), shape[0])))
                    .collect();
                let norms = modules.into_iter().map(|(module, outputs)| {
                    (format!("{module}.lora_magnitude_vector"), vec![outputs], vec![0.7; outputs as usize])
                });
                peft.iter().cloned().chain(norms).collect()
            }
            Self::Mlx => {
                let name = |old: &str| old.replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b");
                renamed(factors(model, "", |_| (2, 0.5)).into_iter().map(transposed).collect(), name)
            }
            Self::LlamaCpp => renamed(factors(model, "", |_| (2, 0.5)), gguf_name),
            Self::Whole => {
                let parts = renamed(peft, named);
                let count = parts.len();
                let weights = model.tensors.iter().map(|(name, weight)| {
                    let name = match model.writers().contains(name) {
                        true => name.replace(".weight", ".base_layer.weight"),
                        false => name.clone(),
                    };
                    let shape = weight.shape.iter().map(|side| *side as u64).collect();
                    (format!("base_model.model.{name}"), shape, weight.values.clone())
                });
                return (parts.into_iter().chain(weights).collect(), count);
            }
        };
        let count = tensors.len();
        (tensors, count)
    }

    /// The files of such an adapter, the last of them cut to so many thousandths.
    fn files(self, tensors: &[Tensor], dtype: impl Fn(&str) -> &'static str, kept: usize) -> FileSet {
        let (name, mut bytes) = match self {
            Self::LlamaCpp => ("adapter.gguf", gguf(tensors, 1.0)),
            Self::Mlx => ("adapters.safetensors", safetensors(tensors, dtype)),
            Self::Whole => ("model.safetensors", safetensors(tensors, dtype)),
            _ => ("adapter_model.safetensors", safetensors(tensors, dtype)),
        };
        bytes.truncate(bytes.len() * kept / 1000);
        let config = match self {
            Self::Mlx => json!({"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 0.5}}),
            Self::Dora => json!({"r": 2, "lora_alpha": 1, "use_dora": true}),
            _ => json!({"r": 2, "lora_alpha": 1}),
        };
        let of = |name: &str, bytes: Vec<u8>| -> (String, Arc<dyn ByteSource>) {
            (name.to_owned(), Arc::new(Bytes::new(name, bytes)))
        };
        let files = [of(name, bytes), of("adapter_config.json", config.to_string().into_bytes())];
        FileSet { label: "adapter".to_owned(), files: files.into(), ..FileSet::default() }
    }
}

fn opened_base(model: &Model) -> Checkpoint {
    let tensors: Vec<Tensor> = (model.tensors.iter())
        .map(|(name, weight)| {
            (name.clone(), weight.shape.iter().map(|side| *side as u64).collect(), weight.values.clone())
        })
        .collect();
    let source: Arc<dyn ByteSource> = Arc::new(Bytes::new("model.safetensors", safetensors(&tensors, |_| "F32")));
    let config: Arc<dyn ByteSource> = Arc::new(Bytes::new("config.json", model.config.to_string().into_bytes()));
    let files = [("model.safetensors".to_owned(), source), ("config.json".to_owned(), config)];
    checkpoint::open(&FileSet { label: "base".to_owned(), files: files.into(), ..FileSet::default() }).unwrap()
}

/// Every weight that is read and equal to the base's, by the base's names; `None` where anything is unreadable.
fn unchanged(base: &Checkpoint, laid: &Checkpoint) -> Option<usize> {
    if laid.tensors.values().any(|entry| matches!(entry.storage, Storage::Unreadable(_))) {
        return None;
    }
    let numbers = |checkpoint: &Checkpoint, name: &str| {
        let entry = checkpoint.tensors.get(name)?;
        let mut out = vec![0.0f32; entry.elements() as usize];
        checkpoint.decode(entry, 0, &mut out).ok()?;
        Some(out)
    };
    let plain: BTreeMap<String, &String> = laid
        .tensors
        .keys()
        .map(|name| (name.trim_start_matches("base_model.model.").replace(".base_layer", ""), name))
        .collect();
    let same = base
        .tensors
        .keys()
        .filter(|name| plain.get(*name).is_some_and(|own| numbers(base, name) == numbers(laid, own)));
    Some(same.count())
}

/// What may be done to one part: a new name for its old one, or `None` for dropping it.
fn rename(name: &str, way: usize) -> Option<String> {
    Some(match way {
        0 => return None,
        1 => format!("{name}x"),
        2 => name.to_uppercase(),
        3 => name.replace("layers.1", "layers.99").replace("blk.1", "blk.99"),
        4 => name.replace("lora_", "lora_C"),
        5 => name.replace("lora_", "aux_"),
        6 => name.replace(".weight", ".other.weight"),
        7 => name.replace("base_model.model.", ""),
        8 => name.replace("down_proj", "down_projection").replace("ffn_down", "ffn_sideways"),
        9 => name.replace("lora_A", "lora_B").replace("lora_a", "lora_b"),
        10 => format!("base_model.model.wrapper.{name}"),
        _ => name.replace('.', "_"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is done to a part of an adapter, what comes out is changed as the whole adapter changes it, or has an
    /// entry that cannot be read, or is an error.
    #[test]
    fn an_adapter_never_comes_out_as_its_base(
        layout in 0..LAYOUTS.len(), at in 0usize..64, way in 0usize..20, kept in 1usize..1000,
    ) {
        let layout = LAYOUTS[layout];
        let model = small();
        let base = opened_base(&model);
        let (mut tensors, parts) = layout.tensors(&model);
        let intact = checkpoint::open(&layout.files(&tensors, |_| "F32", 1000)).unwrap();
        let intact = settle(&base, &intact).unwrap().unwrap();
        let intended = unchanged(&base, &intact);
        prop_assert_eq!(intended, Some(base.tensors.len() - model.writers().len()), "{:?}", layout);
        let at = at % parts;
        let (name, shape, values) = tensors[at].clone();
        let mut dtype = "F32";
        let mut length = 1000;
        match way {
            0..=11 => match rename(&name, way) {
                Some(new) => tensors[at].0 = new,
                None => {
                    tensors.remove(at);
                }
            },
            12 => dtype = "I32",
            13 => dtype = "Q7",
            14 => tensors[at].1.reverse(),
            15 => tensors[at].1.push(1),
            16 => tensors[at].1 = vec![shape.iter().product()],
            17 => tensors[at].2.truncate(values.len() / 2),
            18 => tensors[at] = (name.clone(), shape.iter().map(|side| side * 2).collect(), values.repeat(4)),
            _ => length = kept,
        }
        let changed = tensors.get(at).map(|tensor| tensor.0.clone()).unwrap_or_default();
        let of_type = |name: &str| if name == changed { dtype } else { "F32" };
        let Ok(opened) = checkpoint::open(&layout.files(&tensors, of_type, length)) else { return Ok(()) };
        let Ok(settled) = settle(&base, &opened) else { return Ok(()) };
        let laid = settled.unwrap_or(opened);
        // As many weights as before are the base's, or something is unread.
        let same = unchanged(&base, &laid);
        prop_assert!(same.is_none() || same <= intended, "{layout:?} {name} way {way}: {same:?} > {intended:?}");
    }
}
