//! A change as an operator on the residual stream that need not be symmetric: Δ = Σ a bᵀW. A removal is one kind of it,
//! with a = -λ b; oblique projections (LEACE, affine maps), removals kept out of some subspace and rotations in a plane
//! are others, and the regression of [`super::projection`] sees those only in part.
//!
//! v being a right vector of Δ, b = (WWᵀ + εI)⁻¹Wv is what that piece of the change reads of the residual stream, its
//! *covector*. Writers that one operator was applied to have one b, whatever their own weights are: |cos| of 0.9 and
//! more in real weights, through coarse quantisers as well. Training gives every writer its own: 0.4 at most in models
//! 64 wide, 0.15 in real ones (`docs/detector.md`). Vectors are d numbers, d the width of the residual stream.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::factor::Factor;
use super::fits::CONSISTENCY_SURE;
use super::measured::{AsOperator, PairMeasurement};
use super::operator::{Operator, Want};
use super::oriented::Oriented;
use super::projection::Leading;
use super::spectrum;
use crate::arch::Axis;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::limits::MAX_FACTORED_WIDTH;
use crate::tensor::numbers::{cosine, median};

/// Layers that are asked: spread over those that changed, since what an operator did to a few it did to all.
const LAYERS: usize = 8;
/// Writers of a layer that are asked: one of attention and one of the MLP.
const EACH: usize = 2;
/// Fewer writers than this agree by chance.
const FEWEST: usize = 3;
/// Columns of a writer over its rows from which a change that W's rows span is no matter of course.
const ROOM: f64 = 1.5;
/// Factors in memory at once, whatever the number of threads.
const AT_ONCE: usize = 4;

/// A writer that is asked.
struct Asked<'m, 'a> {
    measured: &'m PairMeasurement<'a>,
    layer: u32,
    leading: &'m Leading,
}

/// What a writer's change reads: covectors of length 1 (d × k), and what is lost of each.
struct Read {
    covectors: Vec<Vec<f64>>,
    lost: Vec<f64>,
    /// Of the first right vector, the share inside W's row space; `None` where that has hardly room to be less than
    /// one.
    inside: Option<f64>,
}

/// Looks at the changed writers as an operator; `None` where too few are of low rank, or where most measure as removals
/// proper, of which there is nothing more to learn.
pub fn ask(base: &Checkpoint, candidate: &Checkpoint, pairs: &[PairMeasurement<'_>]) -> Result<Option<AsOperator>> {
    let asked = choose(pairs);
    let removals = asked.iter().filter(|asked| is_removal(asked.measured)).count();
    if asked.len() < FEWEST || 2 * removals > asked.len() {
        return Ok(None);
    }
    let mut reads: Vec<Option<Read>> = Vec::with_capacity(asked.len());
    for group in asked.chunks(AT_ONCE) {
        let read: Result<Vec<Option<Read>>> = group.par_iter().map(|asked| asked.read(base, candidate)).collect();
        reads.extend(read?);
    }
    let lefts = (0..asked.len()).map(|at| {
        let others = asked.iter().enumerate().filter(|(other, one)| *other != at && one.layer != asked[at].layer);
        let own = asked[at].first_left();
        second_by_layer(others.map(|(_, one)| (one.layer, cosine(&own, &one.first_left()).abs())))
    });
    let mut found = AsOperator {
        lefts: median(lefts),
        isometry: median(asked.iter().map(|asked| asked.leading.isometry)),
        least_leaning: asked.iter().map(|asked| asked.leading.leaning).fold(1.0, f64::min),
        ..AsOperator::default()
    };
    let inside: Vec<f64> = reads.iter().flatten().filter_map(|read| read.inside).collect();
    found.inclusion = (inside.len() >= FEWEST).then(|| median(inside));
    let shared: Vec<(f64, f64, f64)> = (0..asked.len()).filter_map(|at| shared(at, &asked, &reads)).collect();
    found.writers = shared.len();
    found.covectors = median(shared.iter().map(|(agreement, ..)| *agreement));
    found.strength = median(shared.iter().map(|(_, lost, _)| *lost));
    found.channel = median(shared.iter().map(|(.., channel)| *channel));
    Ok(Some(found))
}

/// Up to [`EACH`] writers of up to [`LAYERS`] layers, of those whose change is of low rank.
fn choose<'m, 'a>(pairs: &'m [PairMeasurement<'a>]) -> Vec<Asked<'m, 'a>> {
    let mut layers: BTreeMap<u32, Vec<Asked<'m, 'a>>> = BTreeMap::new();
    for measured in pairs {
        let leading = measured.projected.as_ref().and_then(|projected| projected.leading.as_ref());
        let (Some(leading), Some(layer)) = (leading, measured.pair.role.layer) else { continue };
        let of_layer = layers.entry(layer).or_default();
        let module = &measured.pair.role.module;
        if of_layer.len() < EACH && of_layer.iter().all(|other| other.measured.pair.role.module != *module) {
            of_layer.push(Asked { measured, layer, leading });
        }
    }
    let count = layers.len();
    let is_chosen = |at: usize| count <= LAYERS || (at * LAYERS / count) != ((at + 1) * LAYERS / count);
    layers.into_values().enumerate().filter(|(at, _)| is_chosen(*at)).flat_map(|(_, of_layer)| of_layer).collect()
}

/// Whether a direction was removed from it by what the regression found.
fn is_removal(measured: &PairMeasurement<'_>) -> bool {
    let sides = measured.projected.iter().flat_map(|projected| projected.sides.both().into_iter().flatten());
    sides.map(|side| side.fit.consistency.abs()).fold(0.0, f64::max) >= CONSISTENCY_SURE
}

impl Asked<'_, '_> {
    /// Its first left vector, in the residual stream.
    fn first_left(&self) -> Vec<f64> {
        self.leading
            .left
            .col_iter()
            .next()
            .map(|left| left.iter().map(|value| f64::from(*value)).collect())
            .unwrap_or_default()
    }

    /// Its covectors; `None` where right vectors do not determine them, or the residual stream is too wide.
    fn read(&self, base: &Checkpoint, candidate: &Checkpoint) -> Result<Option<Read>> {
        let pair = self.measured.pair;
        let operator = Operator::new(pair, base, candidate)?;
        let residual = pair.role.residual.unwrap_or(Axis::Rows);
        let oriented = Oriented { operator, residual };
        let (width, other) = (oriented.width(), oriented.other());
        let whole = oriented.operator.columns as u64 == pair.base.columns;
        if width > other || width > MAX_FACTORED_WIDTH || !whole || self.leading.right.nrows() != other {
            return Ok(None);
        }
        let mut decode = |first: usize, out: &mut [f32]| pair.base.decode_rows(base, first as u64, out);
        let factor = match residual {
            Axis::Rows => Factor::build(width, other, &mut decode),
            Axis::Columns => Factor::build_transposed(width, other, &mut decode),
        };
        // Rows that are zero or not finite have no factor, and nothing to tell.
        let Ok(factor) = factor else { return Ok(None) };
        let right = spectrum::widen(&self.leading.right);
        let through = oriented.to_residual(right.as_ref(), Want::Both)?.base;
        let solved = factor.solve(&spectrum::widen(&through));
        let has_room = other as f64 >= ROOM * width as f64;
        let inside = || through.col_iter().zip(solved.col_iter()).next().map(|(wv, b)| inner(wv.iter(), b.iter()));
        let mut read = Read { covectors: Vec::new(), lost: Vec::new(), inside: has_room.then(inside).flatten() };
        for (at, square) in self.leading.squares.iter().enumerate() {
            let b: Vec<f64> = solved.col(at).iter().copied().collect();
            let left = self.leading.left.col(at).iter().map(|value| f64::from(*value));
            read.lost.push(-square.sqrt() * left.zip(&b).map(|(u, b)| u * b).sum::<f64>());
            let length = b.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            read.covectors.push(b.iter().map(|value| value / length).collect());
        }
        Ok(Some(read))
    }
}

/// vᵀWᵀ(WWᵀ + εI)⁻¹Wv of a vector v of length 1: its share inside W's row space.
fn inner<'v>(wv: impl Iterator<Item = &'v f32>, b: impl Iterator<Item = &'v f64>) -> f64 {
    wv.zip(b).map(|(wv, b)| f64::from(*wv) * b).sum()
}

/// How far one writer's covectors agree with those of others, what is lost along the one that agrees most, and how much
/// of it is one channel.
fn shared(at: usize, asked: &[Asked<'_, '_>], reads: &[Option<Read>]) -> Option<(f64, f64, f64)> {
    let own = reads[at].as_ref()?;
    let nearest = |b: &[f64], other: &Read| other.covectors.iter().map(|c| cosine(b, c).abs()).fold(0.0, f64::max);
    let others =
        || (0..asked.len()).filter(|other| *other != at).filter_map(|other| Some((other, reads[other].as_ref()?)));
    let agreement = |b: &[f64]| {
        let elsewhere = others().filter(|(other, _)| asked[*other].layer != asked[at].layer);
        let beside = others().filter(|(other, _)| asked[*other].layer == asked[at].layer);
        let sibling = beside.map(|(_, read)| nearest(b, read)).fold(0.0, f64::max);
        second_by_layer(elsewhere.map(|(other, read)| (asked[other].layer, nearest(b, read)))).max(sibling)
    };
    let agreements = own.covectors.iter().map(|b| agreement(b));
    let (best, agreement) = agreements.enumerate().max_by(|one, other| one.1.total_cmp(&other.1))?;
    let channel = own.covectors[best].iter().map(|value| value * value).fold(0.0, f64::max);
    Some((agreement, own.lost[best], channel))
}

/// The second largest of what the layers show at most each: the largest may be chance.
fn second_by_layer(found: impl Iterator<Item = (u32, f64)>) -> f64 {
    let mut layers: BTreeMap<u32, f64> = BTreeMap::new();
    for (layer, value) in found {
        let most = layers.entry(layer).or_default();
        *most = most.max(value);
    }
    let mut values: Vec<f64> = layers.into_values().collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values.get(1).copied().unwrap_or(0.0)
}
