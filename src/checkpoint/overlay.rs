//! Lays an adapter over its base: a checkpoint whose changed weights are computed row by row as they are read.

mod names;

use std::sync::{Arc, OnceLock};

use super::adapter::{Adapter, LowRank, stacked_module};
use super::collect::Anomalies;
use super::{Checkpoint, Decode, Storage, TensorEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor;
use names::Rows;

/// The base with the adapter laid over it. Everything that the adapter does not change is the base's own entry.
///
/// Errors when the adapter is none or not of a handled kind. A target that the base lacks, and a factor that does not
/// fit, becomes an anomaly and an unreadable entry.
pub fn overlay(base: &Checkpoint, adapter: &Checkpoint) -> Result<Checkpoint> {
    let change = Adapter::of(adapter)?.ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("laying {} over {}: it is no adapter", adapter.label, base.label))
    })?;
    let first_file = base.files.len();
    let mut files = base.files.clone();
    files.extend(adapter.files.iter().cloned());
    let file = adapter.files.first().map_or("", |file| file.name.as_str());
    let mut anomalies = Anomalies::default();
    let mut tensors = base.tensors.clone();
    let shared = Arc::new((base.clone(), adapter.clone()));
    for (module, low_rank) in &change.modules {
        let wanted = match low_rank.experts {
            Some(_) => module.clone(),
            None => format!("{module}.weight"),
        };
        let target = match low_rank.experts {
            Some(experts) => find_stacked(base, adapter, stacked_module(module), low_rank, experts),
            None => find(base, &wanted),
        };
        let laid = target.ok_or_else(|| "the base has no such weight".to_owned()).and_then(|entry| {
            // Rows differ only between the two worlds, which spell no block's names alike.
            let rows =
                if names::others(&wanted).contains(&entry.name) { names::rows(base, &entry.name) } else { Rows::Same };
            let laid = Laid::new(Arc::clone(&shared), entry, low_rank, rows)?;
            Ok(TensorEntry { dtype: &tensor::F32, storage: Storage::Packed(Arc::new(laid)), ..entry.clone() })
        });
        match laid {
            Ok(entry) => {
                tensors.insert(entry.name.clone(), entry);
            }
            Err(reason) => {
                anomalies.tensor("adapter-target", file, &wanted, reason.clone());
                let name = target.map_or(wanted, |entry| entry.name.clone());
                tensors.insert(name.clone(), unreadable(name, reason));
            }
        }
    }
    for (target, name) in &change.replaced {
        let Some(entry) = adapter.tensors.get(name) else { continue };
        let name = find(base, target).map_or_else(|| target.clone(), |entry| entry.name.clone());
        let entry = TensorEntry { name: name.clone(), file: first_file + entry.file, ..entry.clone() };
        tensors.insert(name, entry);
    }
    for (name, reason) in &change.unread {
        anomalies.tensor("adapter-part", file, name, reason.clone());
        tensors.insert(name.clone(), unreadable(name.clone(), reason.clone()));
    }
    let mut all = adapter.anomalies.clone();
    all.extend(anomalies.finish());
    all.sort();
    Ok(Checkpoint {
        label: adapter.label.clone(),
        format: adapter.format,
        files,
        tensors,
        config: base.config.clone(),
        metadata: base.metadata.clone(),
        anomalies: all,
    })
}

fn unreadable(name: String, reason: String) -> TensorEntry {
    let dtype = super::unknown_dtype();
    TensorEntry { name, dtype, shape: vec![0], file: 0, range: 0..0, storage: Storage::Unreadable(reason) }
}

/// The base's tensor of that name, in either world's spelling.
fn find<'a>(base: &'a Checkpoint, name: &str) -> Option<&'a TensorEntry> {
    let other = || names::others(name).iter().find_map(|other| find_as_named(base, other));
    find_as_named(base, name).or_else(other)
}

/// The base's tensor of that name, or the only one whose name ends with it or is its end: prefixes such as `model.` and
/// `language_model.` come and go between the libraries' versions.
fn find_as_named<'a>(base: &'a Checkpoint, name: &str) -> Option<&'a TensorEntry> {
    if let Some(entry) = base.tensors.get(name) {
        return Some(entry);
    }
    let ends = |whole: &str, end: &str| whole.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
    let mut found = base.tensors.values().filter(|entry| {
        let tail = entry.name.matches('.').count() >= 2 && ends(name, &entry.name);
        tail || ends(&entry.name, name)
    });
    found.next().filter(|_| found.next().is_none())
}

/// The one stacked parameter of a module that a pair of factors fits.
fn find_stacked<'a>(
    base: &'a Checkpoint,
    adapter: &Checkpoint,
    module: &str,
    change: &LowRank,
    experts: u64,
) -> Option<&'a TensorEntry> {
    let inside = format!(".{}.", module.rsplit_once('.').map_or(module, |(_, last)| last));
    let fits = |entry: &&TensorEntry| {
        let parent = entry.name.rsplit_once('.').map_or("", |(parent, _)| parent);
        let same =
            parent == module || module.ends_with(&format!(".{parent}")) || parent.ends_with(&format!(".{module}"));
        same && entry.name.contains(&inside) && orientation(base, adapter, entry, change, experts).is_some()
    };
    let mut found = base.tensors.values().filter(fits);
    found.next().filter(|_| found.next().is_none())
}

/// Whether the experts' matrices are stored inputs × outputs; `None` when the factors do not fit them either way.
fn orientation(
    base: &Checkpoint,
    adapter: &Checkpoint,
    entry: &TensorEntry,
    change: &LowRank,
    experts: u64,
) -> Option<bool> {
    let (a, b) = (adapter.tensors.get(&change.a)?, adapter.tensors.get(&change.b)?);
    let (&[_, inputs], &[outputs, _]) = (a.shape.as_slice(), b.shape.as_slice()) else { return None };
    let &[count, rows, columns] = entry.shape.as_slice() else { return None };
    let (upright, transposed) = ((rows, columns) == (outputs, inputs), (rows, columns) == (inputs, outputs));
    // Where the matrices are square, the family tells: these multiply from the left.
    let kind = base.config["model_type"].as_str().unwrap_or_default();
    let left = kind.starts_with("gpt_oss") || kind.starts_with("llama4");
    match (upright, transposed) {
        _ if count != experts => None,
        (true, true) => Some(left),
        (true, false) => Some(false),
        (false, true) => Some(true),
        (false, false) => None,
    }
}

/// A base's weight with a low-rank product added. Rows are those of the stored weight.
struct Laid {
    shared: Arc<(Checkpoint, Checkpoint)>,
    base: TensorEntry,
    change: LowRank,
    experts: usize,
    order: Rows,
    rows: usize,
    columns: usize,
    /// The factors, decoded when first needed.
    factors: OnceLock<Factors>,
}

/// The product's factors so that row `i` of the change is `Σ left[i][k] · right[k]`.
struct Factors {
    /// experts × `rows` × rank.
    left: Vec<f32>,
    /// experts × rank × `columns`.
    right: Vec<f32>,
    /// Norms that DoRA gives the rows.
    magnitude: Option<Vec<f32>>,
}

impl Laid {
    fn new(
        shared: Arc<(Checkpoint, Checkpoint)>,
        base: &TensorEntry,
        change: &LowRank,
        order: Rows,
    ) -> Result<Self, String> {
        let (experts, rows, columns) = match (&base.shape[..], change.experts) {
            (&[rows, columns], None) => (1, rows, columns),
            (&[experts, rows, columns], Some(count)) if experts == count => (experts, rows, columns),
            (shape, _) => return Err(format!("a factor pair on a weight of shape {shape:?} is not handled")),
        };
        if let Storage::Unreadable(reason) = &base.storage {
            return Err(reason.clone());
        }
        let adapter = &shared.1;
        let mut change = change.clone();
        if experts > 1 || change.experts.is_some() {
            let stored = orientation(&shared.0, adapter, base, &change, experts);
            change.transposed = stored.ok_or_else(|| "its factors do not fit the experts".to_owned())?;
        }
        let whole_rank = experts.checked_mul(change.rank).ok_or("its rank is too large")?;
        let shape = |name: &str| adapter.tensors.get(name).map(|entry| entry.shape.clone()).unwrap_or_default();
        let (a, b) = (shape(&change.a), shape(&change.b));
        let (inputs, outputs) = if change.transposed { (rows, columns) } else { (columns, rows) };
        if a != [whole_rank, inputs] || b != [outputs, whole_rank] {
            return Err(format!("factors {b:?} and {a:?} do not fit a weight of {rows} × {columns}"));
        }
        if let Some(name) = &change.magnitude {
            let entry = adapter.tensors.get(name);
            if entry.is_none_or(|entry| entry.elements() != rows) {
                return Err(format!("its magnitudes do not fit {rows} rows"));
            }
        }
        if !order.fits(rows) || (order != Rows::Same && (change.transposed || change.magnitude.is_some())) {
            return Err(format!("its {rows} rows are not those of whole heads"));
        }
        let (rows, columns) = (rows as usize, columns as usize);
        let experts = experts as usize;
        Ok(Self { shared, base: base.clone(), change, experts, order, rows, columns, factors: OnceLock::new() })
    }

    fn factors(&self) -> Result<&Factors> {
        if let Some(factors) = self.factors.get() {
            return Ok(factors);
        }
        let read = |name: &str| -> Result<Vec<f32>> {
            let adapter = &self.shared.1;
            let entry = adapter
                .tensors
                .get(name)
                .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{} has no tensor {name}", adapter.label)))?;
            let mut out = vec![0.0; entry.elements() as usize];
            adapter.decode(entry, 0, &mut out)?;
            Ok(out)
        };
        let (a, b) = (read(&self.change.a)?, read(&self.change.b)?);
        let rank = self.change.rank as usize;
        // B has the expert as its fastest index; with one expert this is B itself.
        let outputs = b.len() / (rank * self.experts).max(1);
        let mut by_expert = Vec::with_capacity(b.len());
        for expert in 0..self.experts {
            by_expert.extend(b.iter().skip(expert).step_by(self.experts));
        }
        let (left, right) = if self.change.transposed {
            let each = |matrix: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                matrix.chunks_exact((rows * columns).max(1)).flat_map(|one| transpose(one, rows, columns)).collect()
            };
            (each(&a, rank, self.rows), each(&by_expert, outputs, rank))
        } else {
            (by_expert, a)
        };
        let magnitude = self.change.magnitude.as_deref().map(read).transpose()?;
        // Two threads may both have read them; the numbers are the same.
        Ok(self.factors.get_or_init(|| Factors { left, right, magnitude }))
    }

    /// Adds the change to columns `from ..` of a row of the base.
    fn add(&self, factors: &Factors, row: usize, from: usize, out: &mut [f32]) {
        let rank = self.change.rank as usize;
        let left_row = self.order.of_adapter(row);
        let left = factors.left.get(left_row * rank..(left_row + 1) * rank).unwrap_or_default();
        let first = row / self.rows * rank * self.columns;
        let right = factors.right.get(first..).unwrap_or_default();
        for (weight, right) in left.iter().zip(right.chunks_exact(self.columns)) {
            let weight = weight * self.change.scale;
            let right = right.get(from..).unwrap_or_default();
            out.iter_mut().zip(right).for_each(|(out, right)| *out += weight * right);
        }
    }
}

fn transpose(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; matrix.len()];
    for (row, values) in matrix.chunks_exact(columns.max(1)).enumerate().take(rows) {
        for (column, value) in values.iter().enumerate() {
            out[column * rows + row] = *value;
        }
    }
    out
}

impl Decode for Laid {
    fn scheme(&self) -> &str {
        if self.change.magnitude.is_some() { "dora" } else { "lora" }
    }

    fn is_quantized(&self) -> bool {
        self.base.is_quantized()
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        if self.columns == 0 || self.rows == 0 {
            return Ok(());
        }
        let factors = self.factors()?;
        let base = &self.shared.0;
        if factors.magnitude.is_none() {
            base.decode(&self.base, first, out)?;
        }
        let mut whole = vec![0.0; self.columns];
        let mut at = first as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let (row, from) = (at / self.columns, at % self.columns);
            let count = rest.len().min(self.columns - from);
            let (piece, tail) = rest.split_at_mut(count);
            match &factors.magnitude {
                None => self.add(factors, row, from, piece),
                Some(magnitude) => {
                    base.decode(&self.base, (row * self.columns) as u64, &mut whole)?;
                    self.add(factors, row, 0, &mut whole);
                    let norm = whole.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
                    let factor = (f64::from(magnitude.get(row).copied().unwrap_or(0.0)) / norm) as f32;
                    piece.iter_mut().zip(&whole[from..]).for_each(|(out, value)| *out = value * factor);
                }
            }
            at += count;
            rest = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
