//! What the layers agree on, in one system of coordinates.

use std::collections::BTreeMap;

use faer::Mat;

use super::measured::{Fitted, PairMeasurement};
use super::spectrum;
use crate::arch::Kind;
use crate::profile::{ByCoordinates, Coordinates};
use crate::tensor::numbers::cosine;

/// What the layers agree on: the edit as an operator on the shared directions, averaged over layers.
pub(super) struct Consensus {
    /// Sum over writers of A in the shared basis, per layer, and the number of writers.
    pub(super) layers: BTreeMap<u32, (Mat<f64>, f64)>,
    pub(super) shared: Mat<f64>,
}

impl Consensus {
    pub(super) fn new(pairs: &[PairMeasurement<'_>], coordinates: Coordinates, shared: &Mat<f64>) -> Self {
        let mut layers: BTreeMap<u32, (Mat<f64>, f64)> = BTreeMap::new();
        let width = shared.ncols();
        for pair in pairs {
            let (Kind::Writer, Some(layer), Some(side)) =
                (pair.pair.role.kind, pair.pair.role.layer, fitted(pair, coordinates))
            else {
                continue;
            };
            if side.shared.ncols() != width || width == 0 {
                continue;
            }
            let inside = side.shared.transpose() * &side.regression.operator * &side.shared;
            let entry = layers.entry(layer).or_insert_with(|| (Mat::zeros(width, width), 0.0));
            entry.0 += inside;
            entry.1 += 1.0;
        }
        Self { layers, shared: shared.clone() }
    }

    /// Eigenvalues and vectors of the average over all layers but one.
    pub(super) fn without(&self, layer: Option<u32>) -> (Vec<f64>, Mat<f64>) {
        let width = self.shared.ncols();
        let (mut total, mut count) = (Mat::<f64>::zeros(width, width), 0.0);
        for (other, (operator, weight)) in &self.layers {
            if Some(*other) != layer {
                total += operator;
                count += weight;
            }
        }
        if count > 0.0 {
            total *= faer::Scale(1.0 / count);
        }
        spectrum::symmetric_eigen(total.as_ref())
    }

    /// The direction (in the shared basis) that the other layers lost most of; `None` when no other layer changed.
    pub(super) fn direction_without(&self, layer: Option<u32>) -> Option<Vec<f64>> {
        let has_others = self.layers.keys().any(|other| Some(*other) != layer);
        let (values, vectors) = self.without(layer);
        (has_others && values.first().is_some_and(|value| *value < 0.0))
            .then(|| vectors.col(0).iter().copied().collect())
    }

    /// How much of a direction lies in what the other layers lost: the length of its projection on the directions whose
    /// eigenvalue is at least half the lowest one. `None` when no other layer changed.
    pub(super) fn agreement_without(&self, layer: Option<u32>, direction: &[f64]) -> Option<f64> {
        if !self.layers.keys().any(|other| Some(*other) != layer) || self.shared.nrows() != direction.len() {
            return None;
        }
        let (values, vectors) = self.without(layer);
        let lowest = values.first().copied().filter(|lowest| *lowest < 0.0)?;
        let mut inside = 0.0;
        for (index, _) in values.iter().enumerate().take_while(|(_, value)| **value <= 0.5 * lowest) {
            let e: Vec<f64> = vectors.col(index).iter().copied().collect();
            inside += cosine(direction, &self.lift(&e)).powi(2);
        }
        Some(inside.sqrt().min(1.0))
    }

    /// A direction of the shared basis in the residual stream.
    pub(super) fn lift(&self, e: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.shared.nrows()];
        for (column, weight) in self.shared.col_iter().zip(e) {
            out.iter_mut().zip(column.iter()).for_each(|(out, value)| *out += weight * value);
        }
        out
    }
}

/// The fit that counts for a pair: writers in the coordinates that won, everything else as it is.
pub(super) fn fitted<'m>(pair: &'m PairMeasurement<'_>, coordinates: Coordinates) -> Option<&'m Fitted> {
    let projected = pair.projected.as_ref()?;
    let coordinates = if pair.pair.role.kind == Kind::Writer { coordinates } else { Coordinates::Raw };
    projected.sides[coordinates].as_ref()
}

/// Whichever explain more of the writers' changes. Raw ones win ties, since rows of equal norm fit both.
pub(super) fn choose_coordinates(pairs: &[PairMeasurement<'_>]) -> Coordinates {
    let score = ByCoordinates::new(|coordinates| -> f64 {
        pairs
            .iter()
            .filter(|pair| pair.pair.role.kind == Kind::Writer)
            .filter_map(|pair| pair.projected.as_ref()?.sides[coordinates].as_ref())
            .map(|side| side.fit.consistency.abs().powi(8) * side.fit.explained)
            .sum()
    });
    if score.row_normalised > 1.02 * score.raw { Coordinates::RowNormalised } else { Coordinates::Raw }
}
