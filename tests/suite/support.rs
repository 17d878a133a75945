//! Tiny models, the edits made to them, and plain stand-ins for the stages and the store of a sweep.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use orthoscope::arch::{Axis, Kind, Role};
use orthoscope::checkpoint::{Checkpoint, CheckpointFile, FileSet, Storage, TensorEntry};
use orthoscope::error::{Error, ErrorKind, Result};
use orthoscope::examination::{Depth, Examination, Relation, Side, Tool, Verdict};
use orthoscope::hub::RepoInfo;
use orthoscope::pair::{Pair, Pairing, Unpaired, View};
use orthoscope::sweep::{Stages, Store, record};
use orthoscope::tensor::DType;

/// A model as named matrices.
#[derive(Clone)]
pub struct Model(pub BTreeMap<String, (Vec<u64>, Vec<f32>)>);

/// Sizes of a generated model.
#[derive(Clone, Copy)]
pub struct Shape {
    pub width: usize,
    pub inner: usize,
    pub layers: usize,
    pub words: usize,
}

pub const TINY: Shape = Shape { width: 48, inner: 160, layers: 4, words: 96 };

pub fn normal(random: &mut fastrand::Rng) -> f32 {
    (0..6).map(|_| random.f32()).sum::<f32>() * std::f32::consts::SQRT_2 - 3.0 * std::f32::consts::SQRT_2
}

pub fn direction(random: &mut fastrand::Rng, width: usize) -> Vec<f32> {
    let raw: Vec<f32> = (0..width).map(|_| normal(random)).collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.into_iter().map(|x| x / length).collect()
}

impl Model {
    /// A base with a falling spectrum and loud rows, as training leaves them.
    pub fn base(seed: u64, shape: Shape) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tensors = BTreeMap::new();
        let mut matrix = |rows: usize, columns: usize| {
            let mut w: Vec<f32> = (0..rows * columns).map(|_| normal(&mut random) * 0.02).collect();
            for k in 0..8 {
                let left: Vec<f32> = (0..rows).map(|_| normal(&mut random)).collect();
                let right: Vec<f32> = (0..columns).map(|_| normal(&mut random)).collect();
                let size = 0.006 / (1.0 + k as f32 * 0.4);
                for (row, left) in w.chunks_exact_mut(columns).zip(&left) {
                    row.iter_mut().zip(&right).for_each(|(w, right)| *w += size * left * right);
                }
            }
            (vec![rows as u64, columns as u64], w)
        };
        for layer in 0..shape.layers {
            let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
            tensors.insert(name("self_attn.q_proj"), matrix(shape.width, shape.width));
            tensors.insert(name("self_attn.o_proj"), matrix(shape.width, shape.width));
            tensors.insert(name("mlp.up_proj"), matrix(shape.inner, shape.width));
            tensors.insert(name("mlp.down_proj"), matrix(shape.width, shape.inner));
        }
        tensors.insert("model.embed_tokens.weight".into(), matrix(shape.words, shape.width));
        tensors.insert("model.norm.weight".into(), (vec![shape.width as u64], vec![1.0; shape.width]));
        Self(tensors).rounded()
    }

    fn rounded(mut self) -> Self {
        for (_, values) in self.0.values_mut() {
            values.iter_mut().for_each(|value| *value = half::bf16::from_f32(*value).to_f32());
        }
        self
    }

    fn edit(&self, is_meant: impl Fn(&str) -> bool, mut edit: impl FnMut(&str, usize, &mut Vec<f32>)) -> Self {
        let mut out = self.clone();
        for (name, (shape, values)) in &mut out.0 {
            if is_meant(name) && shape.len() == 2 {
                edit(name, shape[1] as usize, values);
            }
        }
        out.rounded()
    }

    /// A direction removed from every writer, in rows divided by their norms or not.
    pub fn ablated(&self, seed: u64, strength: f32, normalised: bool) -> Self {
        let width = self.0["model.norm.weight"].1.len();
        let r = direction(&mut fastrand::Rng::with_seed(seed), width);
        self.edit(is_writer, |_, columns, w| {
            let norms: Vec<f32> = w
                .chunks_exact(columns)
                .map(|row| if normalised { row.iter().map(|x| x * x).sum::<f32>().sqrt() } else { 1.0 })
                .collect();
            let mut along = vec![0.0f32; columns];
            for ((row, r), norm) in w.chunks_exact(columns).zip(&r).zip(&norms) {
                along.iter_mut().zip(row).for_each(|(sum, w)| *sum += r * w / norm);
            }
            for ((row, r), norm) in w.chunks_exact_mut(columns).zip(&r).zip(&norms) {
                row.iter_mut().zip(&along).for_each(|(w, along)| *w -= strength * norm * r * along);
            }
        })
    }

    /// Every matrix moved a little, at random.
    pub fn tuned(&self, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        self.edit(|_| true, |_, _, w| w.iter_mut().for_each(|w| *w += 0.0008 * normal(&mut random)))
    }

    /// A low-rank adapter merged into writers and readers.
    pub fn low_rank(&self, seed: u64, rank: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        self.edit(
            |name| name.contains("proj"),
            |_, columns, w| {
                for _ in 0..rank {
                    let left = direction(&mut random, w.len() / columns);
                    let right = direction(&mut random, columns);
                    for (row, left) in w.chunks_exact_mut(columns).zip(&left) {
                        row.iter_mut().zip(&right).for_each(|(w, right)| *w += 0.15 * left * right);
                    }
                }
            },
        )
    }

    /// The model as a safetensors file.
    pub fn bytes(&self, dtype: &str) -> Vec<u8> {
        let encoded: BTreeMap<&String, Vec<u8>> = self
            .0
            .iter()
            .map(|(name, (_, values))| {
                let bytes = match dtype {
                    "F16" => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                    _ => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
                };
                (name, bytes)
            })
            .collect();
        let mut header = serde_json::Map::new();
        let mut at = 0;
        for (name, bytes) in &encoded {
            let shape = &self.0[*name].0;
            let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes.len()]});
            header.insert((*name).clone(), entry);
            at += bytes.len();
        }
        let header = serde_json::Value::Object(header).to_string().into_bytes();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header);
        encoded.values().for_each(|bytes| out.extend(bytes));
        out
    }
}

pub fn is_writer(name: &str) -> bool {
    name.contains("o_proj") || name.contains("down_proj")
}

/// The plainest stages that can be: one safetensors file after another, equal names, a power iteration.
pub struct Plain;

impl Plain {
    fn role(name: &str) -> Role {
        let layer = name.split('.').nth(2).and_then(|part| part.parse().ok());
        let module = name.split('.').rev().nth(1).unwrap_or(name).to_owned();
        let (kind, residual) = match module.as_str() {
            "o_proj" | "down_proj" => (Kind::Writer, Some(Axis::Rows)),
            "q_proj" | "up_proj" => (Kind::Reader, Some(Axis::Columns)),
            "embed_tokens" => (Kind::Embedding, Some(Axis::Columns)),
            _ => (Kind::Norm, None),
        };
        Role { kind, module, layer, expert: None, residual }
    }
}

impl Stages for Plain {
    fn tool(&self) -> Tool {
        Tool { version: "test".into(), catalogue: "sha256:0".into() }
    }

    fn open(&self, files: &FileSet) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint {
            label: files.label.clone(),
            format: "safetensors",
            files: Vec::new(),
            tensors: BTreeMap::new(),
            config: serde_json::Value::Null,
            metadata: BTreeMap::new(),
            anomalies: Vec::new(),
        };
        for (name, source) in files.files.iter().filter(|(name, _)| name.ends_with(".safetensors")) {
            let bad =
                |what: &str| Error::new(ErrorKind::Malformed, format!("reading {name} of {}: {what}", files.label));
            let prefix = source.read(0..8)?;
            let length = u64::from_le_bytes((*prefix).try_into().map_err(|_| bad("no length"))?);
            if length > source.len() {
                return Err(bad("a header longer than the file"));
            }
            let header: BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(&source.read(8..8 + length)?).map_err(|_| bad("a header that is not JSON"))?;
            for (tensor, entry) in header.into_iter().filter(|(tensor, _)| tensor != "__metadata__") {
                let numbers = |key: &str| -> Option<Vec<u64>> {
                    entry.get(key)?.as_array()?.iter().map(serde_json::Value::as_u64).collect()
                };
                let offsets = numbers("data_offsets").filter(|o| o.len() == 2).ok_or_else(|| bad("no offsets"))?;
                let range = 8 + length + offsets[0]..8 + length + offsets[1];
                if range.end > source.len() {
                    return Err(bad("a tensor past the end"));
                }
                let dtype = entry["dtype"].as_str().and_then(DType::named).ok_or_else(|| bad("an unknown dtype"))?;
                let shape = numbers("shape").ok_or_else(|| bad("no shape"))?;
                let file = checkpoint.files.len();
                let entry = TensorEntry { name: tensor.clone(), dtype, shape, file, range, storage: Storage::Plain };
                checkpoint.tensors.insert(tensor, entry);
            }
            checkpoint.files.push(CheckpointFile {
                name: name.clone(),
                source: source.clone(),
                sha256: files.digests.get(name).copied(),
                metadata: BTreeMap::new(),
            });
        }
        if checkpoint.files.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, format!("opening {}: no weights", files.label)));
        }
        Ok(checkpoint)
    }

    fn pair(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<Pairing> {
        let mut pairing = Pairing { architecture: "test".into(), ..Pairing::default() };
        for (name, entry) in &base.tensors {
            let (rows, columns) = match entry.shape.as_slice() {
                [rows, columns] => (*rows, *columns),
                _ => (1, entry.elements()),
            };
            match candidate.tensors.get(name).filter(|other| other.shape == entry.shape) {
                Some(_) => pairing.pairs.push(Pair {
                    name: name.clone(),
                    role: Self::role(name),
                    base: View::whole(name.clone(), rows, columns),
                    candidate: View::whole(name.clone(), rows, columns),
                }),
                None => pairing.only_base.push(Unpaired { tensor: name.clone(), reason: "not there".into() }),
            }
        }
        Ok(pairing)
    }

    fn compare(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<Examination> {
        let pairing = self.pair(base, candidate)?;
        let mut examination = record::blank(self.tool(), Side::default(), Side::default());
        examination.depth = Depth::Full;
        let (mut changed, mut fitting, mut others) = (0, 0, 0);
        for pair in &pairing.pairs {
            let mut old = vec![0.0; pair.base.elements() as usize];
            let mut new = old.clone();
            pair.base.decode_rows(base, 0, &mut old)?;
            pair.candidate.decode_rows(candidate, 0, &mut new)?;
            if old == new {
                continue;
            }
            changed += 1;
            if pair.role.kind == Kind::Writer {
                fitting += usize::from(consistency(&old, &new, pair.base.columns as usize) > 0.9);
            } else {
                others += 1;
            }
        }
        (examination.relation, examination.verdict) = match (changed, fitting) {
            _ if pairing.pairs.is_empty() => (Relation::Incomparable, Verdict::Inconclusive),
            (0, _) => (Relation::Repackaged, Verdict::Clear),
            (_, 3..) => (Relation::LowRankEdit, Verdict::Orthogonalized),
            _ if others > 0 => (Relation::FineTuned, Verdict::Clear),
            _ => (Relation::Edited, Verdict::Clear),
        };
        examination.coverage.compared = pairing.pairs.len() as u64;
        Ok(examination)
    }
}

/// c for the top left vector of the change, raw or row-normalised, whichever is larger.
fn consistency(old: &[f32], new: &[f32], columns: usize) -> f64 {
    let norms: Vec<f64> =
        old.chunks_exact(columns).map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()).collect();
    let one = |scale: &[f64]| {
        let rows = scale.len();
        let at = |m: &[f32], i: usize, j: usize| f64::from(m[i * columns + j]) / scale[i];
        let delta = |i: usize, j: usize| at(new, i, j) - at(old, i, j);
        let mut r: Vec<f64> = (0..rows).map(|i| 1.0 + (i % 7) as f64).collect();
        let mut q = vec![0.0; columns];
        for _ in 0..30 {
            q = (0..columns).map(|j| (0..rows).map(|i| r[i] * delta(i, j)).sum()).collect();
            r = (0..rows).map(|i| (0..columns).map(|j| q[j] * delta(i, j)).sum()).collect();
            let length = r.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-300);
            r.iter_mut().for_each(|x| *x /= length);
        }
        let p: Vec<f64> = (0..columns).map(|j| (0..rows).map(|i| r[i] * at(old, i, j)).sum()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        -dot(&p, &q) / (dot(&p, &p) * dot(&q, &q)).sqrt().max(1e-300)
    };
    one(&vec![1.0; norms.len()]).max(one(&norms))
}

/// A store in a SQLite file: one row per repository, commit and base, written in one statement.
pub struct Rows(Mutex<rusqlite::Connection>);

impl Rows {
    pub fn open(path: &Path) -> Self {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE IF NOT EXISTS recorded (key TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;",
            )
            .unwrap();
        Self(Mutex::new(connection))
    }

    /// Every examination by its key, without what depends on retries.
    pub fn all(&self) -> BTreeMap<String, Examination> {
        let connection = self.0.lock().unwrap();
        let mut statement = connection.prepare("SELECT key, json FROM recorded").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
        rows.map(|row| {
            let (key, json) = row.unwrap();
            let mut examination: Examination = serde_json::from_str(&json).unwrap();
            examination.coverage.bytes_read = 0;
            (key, examination)
        })
        .collect()
    }
}

impl Store for Rows {
    fn record(&self, examination: &Examination, _facts: &RepoInfo) -> Result<()> {
        let key = format!(
            "{}@{} against {}",
            examination.candidate.source,
            examination.candidate.revision.as_deref().unwrap_or_default(),
            examination.base.source
        );
        let json = serde_json::to_string(examination).unwrap();
        self.0
            .lock()
            .unwrap()
            .execute("INSERT INTO recorded VALUES (?1, ?2) ON CONFLICT DO UPDATE SET json = ?2", [key, json])
            .map(|_| ())
            .map_err(|error| Error::because(ErrorKind::Index, "recording", error))
    }
}

/// Shared by threads.
pub fn plain() -> Arc<dyn Stages> {
    Arc::new(Plain)
}
