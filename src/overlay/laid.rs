//! Weights that are computed as they are read: a base's with a product added, with rows replaced, or a bias added to.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::checkpoint::adapter::{Experts, LowRank};
use crate::checkpoint::{Checkpoint, Decode, Packing, Storage, TensorEntry};
use crate::error::Result;
use crate::limits::MAX_FACTOR_ELEMENTS;

/// Where the adapter keeps what belongs to a row or column of the base, where that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FactorOrder {
    /// The adapter's output for each of the base's.
    pub rows: Option<Arc<[u32]>>,
    /// The adapter's input for each of the base's.
    pub columns: Option<Arc<[u32]>>,
}

impl FactorOrder {
    /// Whether both have everything in the same place.
    pub const fn is_same(&self) -> bool {
        self.rows.is_none() && self.columns.is_none()
    }
}

/// A weight with a low-rank product added. Rows are those of the stored weight.
pub(super) struct Laid {
    /// Both sides' files.
    files: Arc<Checkpoint>,
    weight: TensorEntry,
    change: LowRank,
    a: TensorEntry,
    b: TensorEntry,
    magnitude: Option<TensorEntry>,
    order: FactorOrder,
    flipped: bool,
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
    /// The weight (of stored rows × columns, or experts × rows × columns) with the product of the factors A and B
    /// added; `flipped`: it is stored inputs × outputs. The shapes of weight and factors were compared before. Errors
    /// where the parts do not go together.
    pub fn new(
        files: Arc<Checkpoint>,
        weight: &TensorEntry,
        change: &LowRank,
        [a, b]: [TensorEntry; 2],
        magnitude: Option<TensorEntry>,
        order: FactorOrder,
        flipped: bool,
    ) -> Result<Self, String> {
        if let Storage::Unreadable(reason) = &weight.storage {
            return Err(reason.clone());
        }
        let (rows, columns) = if flipped { (change.inputs, change.outputs) } else { (change.outputs, change.inputs) };
        if magnitude.is_some() && flipped {
            return Err("DoRA over a transposed weight is not handled".to_owned());
        }
        if !order.is_same() && change.embedding {
            return Err("the rows of an embedding in another order are not handled".to_owned());
        }
        let permutes = |order: &Option<Arc<[u32]>>, count: u64| {
            order
                .as_ref()
                .is_none_or(|order| order.len() as u64 == count && order.iter().all(|at| u64::from(*at) < count))
        };
        if !permutes(&order.rows, change.outputs) || !permutes(&order.columns, change.inputs) {
            return Err(format!("its {rows} rows are not those of whole heads"));
        }
        let experts = change.experts.map_or(1, Experts::count);
        let whole_rank = experts.checked_mul(change.rank).ok_or("its rank is too large")?;
        let count = |size: u64| whole_rank.checked_mul(size).filter(|count| *count <= MAX_FACTOR_ELEMENTS);
        if count(change.inputs).is_none() || count(change.outputs).is_none() {
            return Err(format!("factors of rank {whole_rank} are too large"));
        }
        let holds =
            |entry: &TensorEntry, size: u64| count(size) == entry.shape.iter().copied().reduce(u64::saturating_mul);
        if !holds(&a, change.inputs) || !holds(&b, change.outputs) {
            return Err(format!("factors {:?} and {:?} are not those of rank {}", b.shape, a.shape, change.rank));
        }
        let (rows, columns) = (rows as usize, columns as usize);
        let (weight, change) = (weight.clone(), change.clone());
        Ok(Self { files, weight, change, a, b, magnitude, order, flipped, rows, columns, factors: OnceLock::new() })
    }

    fn factors(&self) -> Result<&Factors> {
        if let Some(factors) = self.factors.get() {
            return Ok(factors);
        }
        let (rank, inputs) = (self.change.rank as usize, self.change.inputs as usize);
        let outputs = self.change.outputs as usize;
        let (mut a, mut b) = (self.read(&self.a)?, self.read(&self.b)?);
        // Both in the layout of one expert after the other: A rank × inputs, B outputs × rank.
        if let Some(Experts::Interleaved(experts)) = self.change.experts {
            // B has the expert as its fastest index.
            let experts = experts as usize;
            b = (0..experts).flat_map(|expert| b.iter().skip(expert).step_by(experts).copied()).collect();
        }
        if self.change.a_by_inputs {
            a = transpose(&a, inputs, rank);
        }
        if self.change.b_by_rank {
            b = transpose(&b, rank, outputs);
        }
        if let Some(rows) = &self.order.rows {
            b = rows.iter().flat_map(|row| b.iter().skip(*row as usize * rank).take(rank).copied()).collect();
        }
        if let Some(columns) = &self.order.columns {
            let gather = |row: &[f32]| -> Vec<f32> {
                columns.iter().map(|column| row.get(*column as usize).copied().unwrap_or_default()).collect()
            };
            a = a.chunks_exact(inputs.max(1)).flat_map(gather).collect();
        }
        let (left, right) = if self.flipped {
            let each = |matrix: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                matrix.chunks_exact((rows * columns).max(1)).flat_map(|one| transpose(one, rows, columns)).collect()
            };
            (each(&a, rank, inputs), each(&b, outputs, rank))
        } else {
            (b, a)
        };
        let mut magnitude = self.magnitude.as_ref().map(|entry| self.read(entry)).transpose()?;
        if let (Some(norms), Some(rows)) = (&mut magnitude, &self.order.rows) {
            *norms = rows.iter().map(|row| norms.get(*row as usize).copied().unwrap_or_default()).collect();
        }
        // Two threads may both have read them; the numbers are the same.
        Ok(self.factors.get_or_init(|| Factors { left, right, magnitude }))
    }

    fn read(&self, entry: &TensorEntry) -> Result<Vec<f32>> {
        let mut out = vec![0.0; entry.elements() as usize];
        self.files.decode(entry, 0, &mut out)?;
        Ok(out)
    }

    /// Adds the change to columns `from ..` of a row of the weight.
    fn add(&self, factors: &Factors, row: usize, from: usize, out: &mut [f32]) {
        let rank = self.change.rank as usize;
        let left = factors.left.get(row * rank..(row + 1) * rank).unwrap_or_default();
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
        if self.magnitude.is_some() { "dora" } else { "lora" }
    }

    fn packing(&self) -> Packing {
        Packing::Computed
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        if self.columns == 0 || self.rows == 0 {
            return Ok(());
        }
        let factors = self.factors()?;
        if factors.magnitude.is_none() {
            self.files.decode(&self.weight, first, out)?;
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
                    self.files.decode(&self.weight, (row * self.columns) as u64, &mut whole)?;
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

/// An embedding with some of its rows replaced.
pub(super) struct LaidRows {
    files: Arc<Checkpoint>,
    weight: TensorEntry,
    own: TensorEntry,
    columns: u64,
    /// The adapter's row for each row that it replaces.
    rows: BTreeMap<u64, u64>,
}

impl LaidRows {
    /// The weight with `rows` taken from `own`, one after the other. Errors where they are not rows of it.
    pub fn new(files: Arc<Checkpoint>, weight: &TensorEntry, own: &TensorEntry, rows: &[u64]) -> Result<Self, String> {
        for storage in [&weight.storage, &own.storage] {
            if let Storage::Unreadable(reason) = storage {
                return Err(reason.clone());
            }
        }
        match (weight.shape.as_slice(), own.shape.as_slice()) {
            (&[count, columns], &[taken, width]) if columns == width && columns > 0 && taken == rows.len() as u64 => {
                if let Some(row) = rows.iter().find(|row| **row >= count) {
                    return Err(format!("it replaces row {row} of {count}"));
                }
                let rows = rows.iter().zip(0..).map(|(row, own)| (*row, own)).collect();
                Ok(Self { files, weight: weight.clone(), own: own.clone(), columns, rows })
            }
            (weight, own) => Err(format!("rows of shape {own:?} do not fit an embedding of shape {weight:?}")),
        }
    }
}

impl Decode for LaidRows {
    fn scheme(&self) -> &str {
        "trained-rows"
    }

    fn packing(&self) -> Packing {
        Packing::Computed
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.files.decode(&self.weight, first, out)?;
        let end = first + out.len() as u64;
        let touched = self.rows.range(first / self.columns..end.div_ceil(self.columns));
        for (row, own) in touched {
            let (start, stop) = ((row * self.columns).max(first), ((row + 1) * self.columns).min(end));
            if let Some(piece) = out.get_mut((start - first) as usize..(stop - first) as usize) {
                self.files.decode(&self.own, own * self.columns + (start - row * self.columns), piece)?;
            }
        }
        Ok(())
    }
}

/// A bias with another added.
pub(super) struct LaidBias {
    files: Arc<Checkpoint>,
    bias: TensorEntry,
    added: TensorEntry,
    scale: f32,
}

impl LaidBias {
    /// `bias + scale · added`; `None` where they have different lengths or cannot be read.
    pub fn new(files: Arc<Checkpoint>, bias: &TensorEntry, added: &TensorEntry, scale: f32) -> Option<Self> {
        let readable = |entry: &TensorEntry| !matches!(entry.storage, Storage::Unreadable(_));
        let fits = bias.shape == added.shape && bias.shape.len() == 1 && readable(bias) && readable(added);
        fits.then(|| Self { files, bias: bias.clone(), added: added.clone(), scale })
    }
}

impl Decode for LaidBias {
    fn scheme(&self) -> &str {
        "lora-bias"
    }

    fn packing(&self) -> Packing {
        Packing::Computed
    }

    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.files.decode(&self.bias, first, out)?;
        let mut added = vec![0.0; out.len()];
        self.files.decode(&self.added, first, &mut added)?;
        out.iter_mut().zip(&added).for_each(|(out, added)| *out += self.scale * added);
        Ok(())
    }
}
