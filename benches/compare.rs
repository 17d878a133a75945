//! A whole compare of a generated pair of more than a gigabyte a side, beside SHA-256 of the same bytes by one thread:
//! every tensor changed, warm cache. Read both rates of one run; the ratio is what counts on a noisy machine.
//!
//! `cargo bench --bench compare` writes the pair under the target folder once (2.6 GB) and leaves it there.

use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use orthoscope::checkpoint::folder::open_path;
use orthoscope::checkpoint::safetensors::{NewTensor, write};
use orthoscope::diff::Unobserved;
use orthoscope::examine::sides::Named;
use orthoscope::examine::{self, ExaminationContext};
use orthoscope::signature::Catalogue;
use orthoscope::tensor::BF16;
use sha2::Digest as _;

/// Residual width, MLP width and key width of an 8B Llama.
const WIDTH: usize = 4096;
const INNER: usize = 14336;
const KEYS: usize = 1024;
const LAYERS: usize = 3;

/// Standard normal numbers by the thousand, cheap enough for a gigabyte of weights.
struct Numbers {
    table: Vec<f32>,
    random: fastrand::Rng,
}

impl Numbers {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let table = (0..1 << 16).map(|_| (0..12).map(|_| random.f32()).sum::<f32>() - 6.0).collect();
        Self { table, random }
    }

    fn next(&mut self) -> f32 {
        self.table[self.random.usize(..self.table.len())]
    }
}

/// Name, shape and bytes of a tensor.
type Stored = (String, [u64; 2], Vec<u8>);

fn pair() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pair-8b-shaped");
    if folder.join("done").exists() {
        return folder;
    }
    let _ = std::fs::remove_dir_all(&folder);
    for side in ["base", "candidate"] {
        std::fs::create_dir_all(folder.join(side)).expect("a folder for the pair");
        let config = serde_json::json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": INNER, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 128, "tie_word_embeddings": true});
        std::fs::write(folder.join(side).join("config.json"), config.to_string()).expect("config.json");
    }
    for layer in 0..LAYERS {
        let mut sides: [Vec<Stored>; 2] = [Vec::new(), Vec::new()];
        let mut numbers = Numbers::new(layer as u64);
        for (part, rows, columns) in [
            ("self_attn.q_proj", WIDTH, WIDTH),
            ("self_attn.k_proj", KEYS, WIDTH),
            ("self_attn.v_proj", KEYS, WIDTH),
            ("self_attn.o_proj", WIDTH, WIDTH),
            ("mlp.gate_proj", INNER, WIDTH),
            ("mlp.up_proj", INNER, WIDTH),
            ("mlp.down_proj", WIDTH, INNER),
        ] {
            let mut bytes: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
            for _ in 0..rows * columns {
                let w = bf16::from_f32(0.02 * numbers.next());
                let x = bf16::from_f32(w.to_f32() + 0.0002 * numbers.next());
                bytes[0].extend(w.to_le_bytes());
                bytes[1].extend(x.to_le_bytes());
            }
            for (side, bytes) in sides.iter_mut().zip(bytes) {
                side.push((format!("model.layers.{layer}.{part}.weight"), [rows as u64, columns as u64], bytes));
            }
        }
        for (side, tensors) in ["base", "candidate"].iter().zip(&sides) {
            let tensors: Vec<NewTensor<'_>> =
                tensors.iter().map(|(name, shape, bytes)| NewTensor { name, dtype: &BF16, shape, bytes }).collect();
            let name = format!("model-{:05}-of-{LAYERS:05}.safetensors", layer + 1);
            write(&folder.join(side).join(name), &tensors, &Default::default()).expect("a shard");
        }
    }
    std::fs::write(folder.join("done"), "").expect("a mark");
    folder
}

fn compare(c: &mut Criterion) {
    let folder = pair();
    let (base, candidate) =
        (open_path(&folder.join("base")).expect("base"), open_path(&folder.join("candidate")).expect("candidate"));
    let catalogue = Catalogue::builtin().expect("the built-in catalogue");
    let settings = ExaminationContext { catalogue: &catalogue, digests: false, claim: None, observer: &Unobserved };
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let mut group = c.benchmark_group("pair of 2.6 GB, every tensor changed");
    group.sample_size(10).throughput(Throughput::Bytes(base.bytes() + candidate.bytes()));
    group.bench_function(format!("compare, {threads} threads"), |b| {
        b.iter(|| {
            pool.install(|| {
                examine::compare((&base, &Named::local("base")), (&candidate, &Named::local("candidate")), &settings)
            })
        });
    });
    group.bench_function("SHA-256, one thread", |b| {
        b.iter(|| {
            let mut digest = sha2::Sha256::new();
            for file in base.files.iter().chain(&candidate.files) {
                digest.update(file.source.read(0..file.source.len()).expect("a mapped file"));
            }
            digest.finalize()
        });
    });
    group.finish();
}

criterion_group!(benches, compare);
criterion_main!(benches);
