//! Depth 2: which rows and samples to fetch, and what they make of a candidate.
//!
//! A dozen writers of the base (`down_proj` before others) give a block of rows each to
//! [`screen`]; all other tensors give a short run of bytes each, compared bit for bit, so that the
//! relation can be placed and an edit elsewhere than in the dozen is noticed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::arch::{Axis, Kind};
use crate::checkpoint::{Checkpoint, Storage, TensorEntry};
use crate::diff::factor::Factor;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Depth, Examination, NotExamined, Orthogonalization, Strength};
use crate::judge::{relation, verdict};
use crate::pair::{Pair, Pairing, View};
use crate::profile::names::{self, Measurement};
use crate::profile::{Numbers, Profile};
use crate::screen::{self, Block, Sampled, Screened, Sight};
use crate::tensor::numbers::median;

use super::base::OpenedBase;

/// Writers whose rows are fetched.
const WRITERS: usize = 12;

/// Rows per writer at least and at most: fewer than 16 show neither which columns are loud nor what is hidden under
/// them.
const ROWS: Range<u64> = 16..32;

/// Further writers sampled at most: an edit of some layers only should be noticed.
const OTHER_WRITERS: usize = 200;

/// Other tensors sampled at most: they place the relation, and each costs a request.
const OTHERS: usize = 64;

/// Bytes of a sample.
const SAMPLE_BYTES: u64 = 1024;

/// What the screen saw.
pub struct Screening {
    /// The verdict from rows.
    pub screened: Screened,
    /// Equality samples by kind of tensor.
    pub samples: BTreeMap<Measurement, Sampled>,
    /// Whether tensors are stored in other dtypes than the base's.
    pub recast: bool,
}

impl Screening {
    /// Samples of one kind.
    pub fn of(&self, share: Measurement) -> Sampled {
        self.samples.get(&share).copied().unwrap_or_default()
    }
}

/// Whether a view is a plain run of stored rows, so that a block of rows is one range.
fn is_plain(checkpoint: &Checkpoint, view: &View) -> bool {
    view.is_contiguous()
        && checkpoint.tensors.get(&view.tensor).is_some_and(|entry| {
            matches!(entry.storage, Storage::Plain) && entry.dtype.bytes_of(view.columns).is_some()
        })
}

/// Writers that can be solved: rows on the residual side, at least as many columns, `down_proj`s before others, at most
/// a dozen, evenly over depth.
fn chosen<'a>(base: &Checkpoint, candidate: &Checkpoint, pairing: &'a Pairing) -> Vec<&'a Pair> {
    let able: Vec<&Pair> = pairing
        .pairs
        .iter()
        .filter(|pair| {
            pair.role.kind == Kind::Writer
                && pair.role.residual == Some(Axis::Rows)
                && pair.base.rows <= pair.base.columns
                && pair.base.rows >= ROWS.start
                && is_plain(base, &pair.base)
                && is_plain(candidate, &pair.candidate)
        })
        .collect();
    let down: Vec<&Pair> = able.iter().copied().filter(|pair| pair.role.module == "down_proj").collect();
    let mut pool = if down.len() >= 3 { down } else { able };
    // One expert of a layer stands for all: the first that is there.
    let mut seen = std::collections::BTreeSet::new();
    pool.retain(|pair| pair.role.expert.is_none() || seen.insert((pair.role.layer, pair.role.module.clone())));
    pool.sort_by_key(|pair| pair.role.layer);
    let count = pool.len().min(WRITERS);
    (0..count).filter_map(|i| pool.get((2 * i + 1) * pool.len() / (2 * count)).copied()).collect()
}

/// The bytes of rows `first .. first + rows` of a plain view.
fn span(entry: &TensorEntry, view: &View, first: u64, rows: u64) -> Option<Range<u64>> {
    let skip = entry.dtype.bytes_of(view.offset.checked_add(first.checked_mul(view.columns)?)?)?;
    let length = entry.dtype.bytes_of(rows.checked_mul(view.columns)?)?;
    let start = entry.range.start.checked_add(skip)?;
    let end = start.checked_add(length)?;
    (end <= entry.range.end).then_some(start..end)
}

/// The share of changed samples that a kind of tensor counts for.
fn share_of(kind: Kind) -> Measurement {
    match kind {
        Kind::Writer => names::SCREEN_WRITERS_CHANGED_SHARE,
        Kind::Reader => names::SCREEN_READERS_CHANGED_SHARE,
        Kind::Embedding | Kind::Head => names::SCREEN_EMBEDDINGS_CHANGED_SHARE,
        Kind::Norm => names::SCREEN_NORMS_CHANGED_SHARE,
        Kind::Router => names::SCREEN_ROUTERS_CHANGED_SHARE,
        Kind::Bias | Kind::Other => names::SCREEN_OTHER_CHANGED_SHARE,
    }
}

/// Fetches and judges. `budget` is how many of the candidate's bytes may be read. `Unsupported` where there are no
/// writers that can be solved.
pub fn run(base: &Arc<OpenedBase>, candidate: &Checkpoint, pairing: &Pairing, budget: u64) -> Result<Screening> {
    let writers = chosen(&base.checkpoint, candidate, pairing);
    if writers.len() < 3 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("screening {}: fewer than three writers can be solved from rows", candidate.label),
        ));
    }
    let entry = |checkpoint: &'_ Checkpoint, view: &View| checkpoint.tensors.get(&view.tensor).cloned();
    let row_bytes: u64 = writers
        .iter()
        .filter_map(|pair| entry(candidate, &pair.candidate)?.dtype.bytes_of(pair.candidate.columns))
        .sum();
    let rows = (budget.saturating_mul(3) / 4 / row_bytes.max(1)).clamp(ROWS.start, ROWS.end);

    let mut wishes: BTreeMap<usize, Vec<Range<u64>>> = BTreeMap::new();
    let mut blocks = Vec::new();
    for pair in &writers {
        let rows = rows.min(pair.base.rows);
        // A third of the way down, away from first and last channels, which are often special.
        let first = (pair.base.rows - rows) / 3;
        let Some(entry) = entry(candidate, &pair.candidate) else { continue };
        let Some(range) = span(&entry, &pair.candidate, first, rows) else { continue };
        wishes.entry(entry.file).or_default().push(range);
        blocks.push((*pair, first, rows));
    }
    let samples = samples(base, candidate, pairing, &writers);
    for sample in &samples {
        wishes.entry(sample.file).or_default().push(sample.candidate.clone());
    }
    for (file, ranges) in &wishes {
        if let Some(file) = candidate.files.get(*file) {
            file.source.prefetch(ranges);
        }
    }

    let mut counted: BTreeMap<Measurement, Sampled> = BTreeMap::new();
    for sample in &samples {
        let tally = counted.entry(share_of(sample.kind)).or_default();
        tally.taken += 1;
        tally.changed += usize::from(!sample.is_equal(&base.checkpoint, candidate)?);
    }
    let recast = pairing.pairs.iter().any(|pair| {
        let dtype = |checkpoint: &Checkpoint, view: &View| checkpoint.tensors.get(&view.tensor).map(|e| e.dtype.name);
        dtype(&base.checkpoint, &pair.base) != dtype(candidate, &pair.candidate)
    });
    let looked: Vec<Option<Sight>> =
        blocks.par_iter().map(|block| look(base, candidate, block)).collect::<Result<_>>()?;
    let unmeasured = looked.iter().filter(|sight| sight.is_none()).count();
    let (pairs, sights): (Vec<&Pair>, Vec<Sight>) =
        blocks.iter().zip(looked).filter_map(|((pair, ..), sight)| Some((*pair, sight?))).unzip();
    let pool = screen::pool(&sights);
    let examined = (pairs.into_par_iter().zip(sights))
        .map(|(pair, sight)| {
            let factor = factor(base, pair, sight.has_change())?;
            screen::examine(sight, &pool, &factor, &|first, out| {
                pair.base.decode_rows(&base.checkpoint, first as u64, out)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Screening { screened: screen::judge(examined, &pool, unmeasured), samples: counted, recast })
}

/// The factor of the base's writer; where nothing will be solved, no more than its size, since building one is dear.
fn factor(base: &OpenedBase, pair: &Pair, is_needed: bool) -> Result<Arc<Factor>> {
    if is_needed { base.factor(&pair.base) } else { Ok(Arc::new(Factor::unused(pair.base.rows as usize))) }
}

fn look(base: &OpenedBase, candidate: &Checkpoint, (pair, first, rows): &(&Pair, u64, u64)) -> Result<Option<Sight>> {
    let elements = (rows * pair.base.columns) as usize;
    let mut old = vec![0.0f32; elements];
    let mut new = vec![0.0f32; elements];
    pair.base.decode_rows(&base.checkpoint, *first, &mut old)?;
    pair.candidate.decode_rows(candidate, *first, &mut new)?;
    let factor = factor(base, pair, old != new)?;
    screen::look(&Block {
        name: &pair.name,
        layer: pair.role.layer,
        first_row: *first as usize,
        columns: pair.base.columns as usize,
        base: &old,
        candidate: &new,
        factor: &factor,
        read: &|first, out| pair.base.decode_rows(&base.checkpoint, first as u64, out),
    })
}

struct Sample {
    kind: Kind,
    file: usize,
    candidate: Range<u64>,
    base_file: usize,
    base: Range<u64>,
}

impl Sample {
    fn is_equal(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<bool> {
        let read = |checkpoint: &Checkpoint, file: usize, range: &Range<u64>| {
            let file = checkpoint
                .files
                .get(file)
                .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{} has no file {file}", checkpoint.label)))?;
            Ok::<_, Error>(file.source.read(range.clone())?.into_owned())
        };
        Ok(read(base, self.base_file, &self.base)? == read(candidate, self.file, &self.candidate)?)
    }
}

/// A short run out of the middle of each tensor with the same dtype on both sides: every writer first, then the rest
/// evenly.
fn samples(base: &Arc<OpenedBase>, candidate: &Checkpoint, pairing: &Pairing, fetched: &[&Pair]) -> Vec<Sample> {
    let mut writers = Vec::new();
    let mut others = Vec::new();
    for pair in &pairing.pairs {
        if fetched.iter().any(|other| other.name == pair.name) {
            continue;
        }
        let (Some(old), Some(new)) =
            (base.checkpoint.tensors.get(&pair.base.tensor), candidate.tensors.get(&pair.candidate.tensor))
        else {
            continue;
        };
        let comparable = old.dtype == new.dtype
            && matches!(old.storage, Storage::Plain)
            && matches!(new.storage, Storage::Plain)
            && pair.base.is_contiguous()
            && pair.candidate.is_contiguous();
        let Some(length) = old.dtype.bytes_of(pair.base.elements()).filter(|_| comparable) else { continue };
        let (Some(old_skip), Some(new_skip)) =
            (old.dtype.bytes_of(pair.base.offset), new.dtype.bytes_of(pair.candidate.offset))
        else {
            continue;
        };
        let step = old.dtype.bytes as u64;
        let take = SAMPLE_BYTES.min(length) / step * step;
        let middle = (length - take) / 2 / step * step;
        let at = |entry: &TensorEntry, skip: u64| {
            let start = entry.range.start.checked_add(skip)?.checked_add(middle)?;
            let end = start.checked_add(take)?;
            (end <= entry.range.end && take > 0).then_some(start..end)
        };
        let (Some(from), Some(to)) = (at(old, old_skip), at(new, new_skip)) else { continue };
        let sample = Sample { kind: pair.role.kind, file: new.file, candidate: to, base_file: old.file, base: from };
        if pair.role.kind == Kind::Writer { writers.push(sample) } else { others.push(sample) }
    }
    let mut all = thin(writers, OTHER_WRITERS);
    all.extend(thin(others, OTHERS));
    all
}

/// So many at most, one out of each of as many stretches. Which one differs from stretch to stretch, since tensors
/// repeat from layer to layer: a fixed step could meet the same module every time.
fn thin(samples: Vec<Sample>, most: usize) -> Vec<Sample> {
    let count = samples.len().min(most);
    let total = samples.len();
    let mut picked: Vec<usize> = (0..count)
        .map(|i| {
            let (start, end) = (i * total / count, (i + 1) * total / count);
            start + (i * 7919 / 13) % (end - start).max(1)
        })
        .collect();
    picked.dedup();
    let mut at = 0;
    samples
        .into_iter()
        .enumerate()
        .filter(|(index, _)| {
            let hit = picked.get(at) == Some(index);
            at += usize::from(hit);
            hit
        })
        .map(|(_, sample)| sample)
        .collect()
}

/// Writes what the screen saw into an examination: verdict, place in the family, measurements.
pub fn describe(screening: &Screening, opened: &Checkpoint, pairing: &Pairing, examination: &mut Examination) {
    let screened = &screening.screened;
    let changed: Vec<&screen::BlockMeasurement> = screened.blocks.iter().filter(|block| block.changed).collect();
    examination.depth = Depth::Screen;
    examination.candidate.format = Some(opened.format.to_owned());
    examination.anomalies.clone_from(&opened.anomalies);
    (examination.verdict, examination.because) = verdict::of_screen(screened);
    examination.relation =
        relation::of_screen(screened, screening.of(names::SCREEN_READERS_CHANGED_SHARE), screening.recast);
    let taken: usize = screening.samples.values().map(|sampled| sampled.taken).sum();
    let same: usize = screening.samples.values().map(|sampled| sampled.taken - sampled.changed).sum();
    examination.coverage.tensors = (pairing.pairs.len() + pairing.only_base.len()) as u64;
    examination.coverage.compared = screened.blocks.len() as u64;
    examination.coverage.not_examined.push(NotExamined {
        tensor: "*".to_owned(),
        reason: format!(
            "a screen: a few rows of {} writers, and samples of {taken} other tensors ({same} of them the base's)",
            screened.blocks.len()
        ),
    });
    let modules: BTreeMap<&str, &str> =
        pairing.pairs.iter().map(|pair| (pair.name.as_str(), pair.role.module.as_str())).collect();
    examination.orthogonalization = (!changed.is_empty()).then(|| Orthogonalization {
        p_value: 1.0,
        consistency: screened.consistency,
        explained: median(changed.iter().map(|block| block.top)),
        coordinates: screened.coordinates.as_str().to_owned(),
        directions: 1,
        scope: if screened.common > 0.8 { "global" } else { "per-layer" }.to_owned(),
        tensors: screened.fitting as u64,
        layers: screened.layers.clone(),
        strength: screened
            .blocks
            .iter()
            .filter_map(|block| {
                let lambda = if block.changed { block.strength[screened.coordinates] } else { 0.0 };
                let rows = block.rows.max(1) as f64;
                let stderr = if block.changed { lambda.abs() / rows.sqrt() } else { 0.0 };
                let module = modules.get(block.name.as_str()).copied().unwrap_or_default().to_owned();
                Some(Strength { layer: block.layer?, module, expert: None, lambda, stderr })
            })
            .collect(),
        detection_limit: screened.detection_limit,
        recipe: vec![
            "from a screen of a few rows: strengths are rough and rather too low, and no p-value is computed"
                .to_owned(),
        ],
    });
    let mut model = Numbers::default();
    for (measurement, value) in [
        (names::SCREEN_TENSORS, screened.blocks.len() as f64),
        (names::SCREEN_CHANGED, screened.changed as f64),
        (names::SCREEN_FITTING, screened.fitting as f64),
        (names::SCREEN_LAYERS, screened.layers.len() as f64),
        (names::SCREEN_CONSISTENCY, screened.consistency),
        (names::SCREEN_STRENGTH, screened.strength),
        (names::SCREEN_AGREEMENT, screened.agreement),
        (names::SCREEN_OWN_COMPONENT, screened.own_component),
        (names::SCREEN_DETECTION_LIMIT, screened.detection_limit),
        (names::SCREEN_LIMIT_ALONE, screened.limit_alone),
        (names::SCREEN_COLUMNS_ASIDE, median(changed.iter().map(|block| block.aside))),
        (names::SCREEN_ROW_NORMALISED, screened.coordinates.as_number()),
    ] {
        model.put(measurement, value);
    }
    for (share, sampled) in &screening.samples {
        model.put(*share, sampled.changed as f64 / sampled.taken.max(1) as f64);
    }
    examination.profile = Some(Profile { model, tensors: Vec::new() });
}
