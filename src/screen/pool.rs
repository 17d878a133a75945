//! What the blocks share, and the direction of largest consistency in it, block by block.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::look::{BlockChange, Sight, Solved, strips};
use super::{ReadRows, probe, through};
use crate::diff::consistency::{self, Grams};
use crate::diff::factor::Factor;
use crate::diff::{projection, spectrum};
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{ByCoordinates, Coordinates};
use crate::tensor::numbers::dot;

/// Directions of all writers together in which each is examined.
pub(super) const POOLED: usize = 16;

/// Share of a planted direction, squared, that must be in the pooled span.
pub(super) const POOLED_SHARE: f64 = 0.7;

/// What the writers share: an orthonormal basis, in raw coordinates with the probe.
pub struct Pool {
    pub(super) bases: ByCoordinates<Mat<f64>>,
}

/// Pools what was seen.
pub fn pool(sights: &[Sight]) -> Pool {
    let mut bases = ByCoordinates::new(|coordinates| shared(sights, 0.0, coordinates));
    if bases.raw.nrows() > 0 {
        let removed = probe(bases.raw.nrows());
        let removed = Mat::from_fn(removed.len(), 1, |i, _| removed[i]);
        bases.raw = spectrum::orthonormal(spectrum::beside(&[bases.raw.as_ref(), removed.as_ref()]).as_ref());
    }
    Pool { bases }
}

/// The directions that most of the blocks share, with λ of the probe planted in each.
pub(super) fn shared(sights: &[Sight], lambda: f64, coordinates: Coordinates) -> Mat<f64> {
    let changes: Vec<&BlockChange> = sights.iter().filter_map(|sight| sight.change.as_ref()).collect();
    // Writers of one model write to one residual stream.
    let width = changes.first().map_or(0, |change| change.norms.len());
    let spans: Vec<Mat<f64>> = (changes.iter())
        .map(|change| {
            let mut directions = change.solved(lambda).directions;
            if coordinates == Coordinates::RowNormalised {
                spectrum::scale_rows(&mut directions, &change.norms);
            }
            spectrum::orthonormal(directions.as_ref())
        })
        .collect();
    consistency::shared(&spans.iter().collect::<Vec<_>>(), width, POOLED)
}

/// One block examined in what all share.
pub struct Examined {
    pub(super) sight: Sight,
    pub(super) sides: ByCoordinates<Option<BlockSide>>,
}

/// A block in one system of coordinates.
pub(super) struct BlockSide {
    pub(super) halves: [Grams; 2],
    /// Q_Iᵀ Q_I: what of each direction is in the rows seen.
    pub(super) seen: Mat<f64>,
    /// The direction of largest c in the pool's basis, of length 1.
    pub(super) chosen: Vec<f64>,
}

/// Held-out c of the direction of largest c, and that direction.
pub(super) fn chosen(halves: &[Grams; 2]) -> Option<(f64, Vec<f64>)> {
    let [first, second] = consistency::held_out(halves);
    let e = halves[0].plus(&halves[1]).most_consistent()?;
    Some((0.5 * (first + second), e))
}

/// Examines one block in the pool: one pass over the base's writer.
pub fn examine(mut sight: Sight, pool: &Pool, factor: &Factor, read: &ReadRows<'_>) -> Result<Examined> {
    let Some(change) = &sight.change else { return Ok(Examined { sight, sides: ByCoordinates::default() }) };
    let (d, m, n) = (change.norms.len(), change.rows(), change.columns);
    let ByCoordinates { raw, row_normalised } = &pool.bases;
    if raw.nrows() != d || row_normalised.nrows() != d || factor.rows() != d {
        let doing = format!("screening {}: writers of different widths", sight.measurement.name);
        return Err(Error::new(ErrorKind::Unsupported, doing));
    }
    // D⁻¹Q instead of Q gives QᵀD⁻¹W.
    let inverse: Vec<f64> = change.norms.iter().map(|norm| 1.0 / norm).collect();
    let mut scaled = row_normalised.clone();
    spectrum::scale_rows(&mut scaled, &inverse);
    let probes = spectrum::narrow(spectrum::beside(&[raw.as_ref(), scaled.as_ref()]).as_ref());
    let mut p = Mat::<f32>::zeros(n, probes.ncols());
    strips(d, n, read, &mut |first, strip| {
        let rows = probes.subrows(first, strip.nrows());
        matmul(p.as_mut(), Accum::Add, strip.transpose(), rows, 1.0, Par::Seq);
    })?;
    let mut r = Mat::<f32>::zeros(n, probes.ncols());
    let delta = MatRef::from_row_major_slice(&change.delta, m, n);
    matmul(r.as_mut(), Accum::Replace, delta.transpose(), probes.subrows(change.first_row, m), 1.0, Par::Seq);
    let (mut p, r) = (spectrum::widen(&p), spectrum::widen(&r));
    if let Some(kept) = &change.kept {
        projection::mask_rows(&mut p, kept);
    }
    let Solved { own, removals, .. } = change.solved(0.0);
    sight.measurement.removals = removals;
    let mut sides = ByCoordinates::default();
    for coordinates in Coordinates::ALL {
        sight.measurement.evidence[coordinates].own = own[coordinates];
        let basis = &pool.bases[coordinates];
        let start = if coordinates == Coordinates::Raw { 0 } else { raw.ncols() };
        let count = basis.ncols();
        let halves = consistency::halves(p.subcols(start, count), r.subcols(start, count));
        let Some((c, e)) = chosen(&halves) else { continue };
        let rows = basis.subrows(change.first_row, m);
        let seen = rows.transpose() * rows;
        let share = dot(&e, &through(&seen, &e));
        let direction = through(basis, &e);
        let covector: Vec<f64> = match coordinates {
            Coordinates::RowNormalised => {
                direction.iter().zip(&inverse).map(|(direction, inverse)| direction * inverse).collect()
            }
            Coordinates::Raw => direction,
        };
        let along = halves[0].plus(&halves[1]).along(&e);
        let measurement = &mut sight.measurement;
        measurement.evidence[coordinates].consistency = c;
        measurement.own_component[coordinates] = change.own_component(factor, covector, along.consistency());
        let strength = along.strength();
        // The rows seen have only so much of the direction.
        measurement.strength[coordinates] = if share > 0.0 { strength / share } else { 0.0 };
        sides[coordinates] = Some(BlockSide { halves, seen, chosen: e });
    }
    Ok(Examined { sight, sides })
}
