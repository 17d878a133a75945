//! Whether a removed direction is one channel of the residual stream, or a mixture that leans on it.

use faer::Mat;

use super::fits::CONSISTENCY_HINT;
use super::measured::{Fitted, Measurements};
use crate::arch::Kind;
use crate::profile::TensorMeasurement;
use crate::tensor::numbers::{cosine, median};

/// A direction is one channel when its other coordinates hold less than this of it (squared), or no other writer agrees
/// with them.
const OFF_CHANNEL: f64 = 1e-4;

/// Squared coordinate from which a channel is one of the direction's loud ones.
const LOUD_CHANNEL: f64 = 0.1;

/// λ of a channel that was pruned is 1 within this.
pub(super) const PRUNED: f64 = 0.05;

/// Whether the direction that the fitting writers lost is one residual channel and nothing else: off its loudest
/// channels there is next to nothing of it, or nothing that two writers agree on. A removal along a mixture that leans
/// on a channel is none of that.
pub(super) fn is_channel(tensors: &[TensorMeasurement], directions: &[Option<&Fitted>]) -> bool {
    let fitting: Vec<&Vec<f64>> = tensors
        .iter()
        .zip(directions)
        .filter(|(tensor, _)| tensor.role.kind == Kind::Writer && tensor.projection.as_ref().is_some_and(|p| p.fits))
        .filter_map(|(_, side)| side.as_ref().map(|side| &side.direction))
        .take(64)
        .collect();
    let off: Vec<(f64, Vec<f64>)> = fitting
        .iter()
        .map(|direction| {
            let rest: Vec<f64> =
                direction.iter().map(|value| if value * value >= LOUD_CHANNEL { 0.0 } else { *value }).collect();
            (rest.iter().map(|value| value * value).sum(), rest)
        })
        .collect();
    let weight = median(off.iter().map(|(weight, _)| *weight));
    let loud = |direction: &&&Vec<f64>| direction.iter().any(|value| value * value >= LOUD_CHANNEL);
    // Two loud channels and more that are lost at one rate along one direction are a mixture: pruning would have left
    // them zero.
    let mixed = |direction: &&&Vec<f64>| direction.iter().filter(|value| *value * *value >= LOUD_CHANNEL).count() > 1;
    if weight > 0.5
        || 2 * fitting.iter().filter(loud).count() < fitting.len()
        || 2 * fitting.iter().filter(mixed).count() > fitting.len()
    {
        return false;
    }
    let nearest: Vec<f64> = off
        .iter()
        .enumerate()
        .map(|(at, (_, rest))| {
            let mut others: Vec<f64> = off
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != at)
                .map(|(_, (_, other))| cosine(rest, other).abs())
                .collect();
            others.sort_by(|a, b| b.total_cmp(a));
            others.get(1).or(others.first()).copied().unwrap_or(0.0)
        })
        .collect();
    weight < OFF_CHANNEL || median(nearest) < CONSISTENCY_HINT
}

/// Leading common direction of the fitting writers, signed arbitrarily; empty when none fits.
pub(super) fn shared_direction(
    measured: &Measurements<'_>,
    tensors: &[TensorMeasurement],
    directions: &[Option<&Fitted>],
) -> Vec<f64> {
    let chosen: Vec<&Vec<f64>> = tensors
        .iter()
        .zip(directions)
        .zip(&measured.pairs)
        .filter(|((tensor, _), _)| {
            tensor.role.kind == Kind::Writer && tensor.projection.as_ref().is_some_and(|p| p.fits)
        })
        .filter_map(|((_, side), _)| side.as_ref().map(|side| &side.direction))
        .take(256)
        .collect();
    let Some(first) = chosen.first() else { return Vec::new() };
    let stack = Mat::from_fn(first.len(), chosen.len(), |i, j| chosen[j].get(i).copied().unwrap_or(0.0));
    let Ok(svd) = stack.thin_svd() else { return Vec::new() };
    svd.U().col(0).iter().copied().collect()
}
