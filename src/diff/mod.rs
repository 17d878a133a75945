//! Measures every pair: equality first, then moments, then the low-rank structure of the change.
//!
//! Three stages, each parallel over pairs and merged in the order of pairs:
//!
//! 1. [`survey`]: equal bits? a cast? columns that only moved ([`order`])? else moments and the top directions of the
//!    change;
//! 2. [`pool`]: which directions the writers (and the readers) of the whole model share, each writer's counted once;
//! 3. [`project`]: the direction of largest [`consistency`] in the span of shared and own directions.
//!
//! Two of the numbers are taken again where the first look cannot tell them: [`rank`] and, through a quantiser, the
//! strength ([`grid`]); and writers that are no removals proper are looked at as an operator ([`covectors`]). Of a
//! candidate in codes [`rounding`] asks whether it is the base rounded, and [`in_place`] whether a base in the same
//! codes was edited in them. [`summary`] then says which pairs fit a removed direction, given what the other layers
//! show, and names the numbers that signatures speak of.

pub mod change;
mod channel;
pub mod consensus;
pub mod consistency;
mod covectors;
pub mod factor;
mod fits;
pub mod grid;
pub mod in_place;
pub mod kernel;
mod limit;
pub mod measured;
pub mod operator;
pub mod order;
pub mod oriented;
mod pool;
mod project;
pub mod projection;
pub mod rank;
pub mod reordering;
pub mod requantize;
pub mod rounding;
pub mod spectrum;
pub mod summary;
mod survey;

use std::sync::Once;

use rayon::prelude::*;

pub use self::fits::{AGREEMENT, CONSISTENCY, CONSISTENCY_ALONE, CONSISTENCY_HINT, OWN_COMPONENT, SIGMAS};
pub use self::limit::detection_limit;
use self::measured::{Measurements, PairMeasurement};
use self::survey::Surveyed;
use crate::checkpoint::{Checkpoint, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_ADDED_BIAS_NUMBERS;
use crate::pair::{Pair, Pairing, Unpaired, View};

/// Told how far a comparison is; called from many threads.
pub trait DiffObserver: Sync {
    /// `done` of `total` units of work (pairs, weighted by size) are done.
    fn progress(&self, _done: u64, _total: u64) {}
}

/// Watches nothing.
pub struct Unobserved;

impl DiffObserver for Unobserved {}

static SEQUENTIAL: Once = Once::new();

/// Measures every pair of a pairing.
pub fn measure<'a>(
    base: &'a Checkpoint,
    candidate: &'a Checkpoint,
    pairing: &'a Pairing,
    observer: &dyn DiffObserver,
) -> Result<Measurements<'a>> {
    // Work is parallel over tensors and segments; a parallel product inside a tile only costs.
    SEQUENTIAL.call_once(|| faer::set_global_parallelism(faer::Par::Seq));
    let total: u64 = pairing.pairs.iter().map(|pair| pair.base.elements()).sum::<u64>().max(1);
    let done = std::sync::atomic::AtomicU64::new(0);
    let advance = |elements: u64| {
        let before = done.fetch_add(elements, std::sync::atomic::Ordering::Relaxed);
        observer.progress((before + elements) / 2, total);
    };

    let surveyed: Vec<Surveyed<'a>> = pairing
        .pairs
        .par_iter()
        .map(|pair| {
            let found = look_at(pair, base, candidate).unwrap_or_else(|error| Surveyed::NotExamined(error.one_line()));
            let changed = matches!(found, Surveyed::Changed(_));
            advance(pair.base.elements() * if changed { 1 } else { 2 });
            found
        })
        .collect();

    let shared = pool::pool(&pairing.pairs, &surveyed);
    let pairs: Vec<Result<PairMeasurement<'a>, Unpaired>> = pairing
        .pairs
        .par_iter()
        .zip(surveyed)
        .map(|(pair, found)| {
            let measured = project::finish(pair, found, &shared, base, candidate);
            advance(pair.base.elements());
            measured.map_err(|reason| Unpaired { tensor: pair.name.clone(), reason, loaded: true })
        })
        .collect();

    let mut measurements = Measurements {
        pairs: Vec::new(),
        not_examined: Vec::new(),
        shared: shared.writers,
        added_biases: added_biases(candidate, pairing),
        as_operator: None,
        bytes_read: 0,
    };
    for (pair, result) in pairing.pairs.iter().zip(pairs) {
        match result {
            Ok(measured) => {
                measurements.bytes_read += stored_bytes(base, &pair.base) + stored_bytes(candidate, &pair.candidate);
                measurements.pairs.push(measured);
            }
            Err(not_examined) => measurements.not_examined.push(not_examined),
        }
    }
    rank::widen(base, candidate, &mut measurements.pairs)?;
    grid::refine(base, candidate, &mut measurements)?;
    measurements.as_operator = covectors::ask(base, candidate, &measurements.pairs)?;
    rounding::look(base, candidate, &mut measurements)?;
    in_place::look(base, candidate, &mut measurements)?;
    Ok(measurements)
}

/// First stage for one pair: opened as an operator, through which all its numbers are read, and surveyed.
fn look_at<'a>(pair: &'a Pair, base: &'a Checkpoint, candidate: &'a Checkpoint) -> Result<Surveyed<'a>> {
    for (view, checkpoint) in [(&pair.base, base), (&pair.candidate, candidate)] {
        let entry = checkpoint.tensors.get(&view.tensor).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{} has no tensor {}", checkpoint.label, view.tensor))
        })?;
        if let Storage::Unreadable(reason) = &entry.storage {
            return Ok(Surveyed::NotExamined(reason.clone()));
        }
    }
    survey::survey(operator::Operator::new(pair, base, candidate)?)
}

/// The numbers of the biases that the candidate adds to its writers, up to a cap on all together; what cannot be read
/// is left out here and told where the checkpoint is accounted for.
fn added_biases(candidate: &Checkpoint, pairing: &Pairing) -> Vec<Vec<f64>> {
    let mut room = MAX_ADDED_BIAS_NUMBERS;
    let read = |view: &View| {
        let entry = candidate.tensors.get(&view.tensor)?;
        room = room.checked_sub(view.elements())?;
        let mut numbers = vec![0.0; usize::try_from(view.elements()).ok()?];
        candidate.decode(entry, view.offset, &mut numbers).ok()?;
        Some(numbers.into_iter().map(f64::from).collect())
    };
    pairing.added_biases.iter().filter_map(read).collect()
}

/// Bytes that a view covers in its checkpoint.
fn stored_bytes(checkpoint: &Checkpoint, view: &View) -> u64 {
    checkpoint.tensors.get(&view.tensor).map_or(0, |entry| {
        let whole = entry.range.end.saturating_sub(entry.range.start);
        match entry.elements() {
            0 => 0,
            elements => (u128::from(whole) * u128::from(view.elements()) / u128::from(elements)) as u64,
        }
    })
}
