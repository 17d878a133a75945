//! Second stage: which directions the changes of a whole model share.

use std::collections::BTreeMap;

use faer::Mat;

use super::consistency;
use super::survey::Surveyed;
use crate::arch::Kind;
use crate::pair::Pair;
use crate::profile::{ByCoordinates, Coordinates};

/// Shared directions of the whole model that enter every regression.
const SHARED: usize = 12;

/// Directions shared by the writers and by the readers of a model.
pub(super) struct Shared {
    pub(super) writers: ByCoordinates<Mat<f64>>,
    pub(super) readers: Mat<f64>,
}

/// Second stage: the directions that the changes of the writers, and of the readers, have in common, each matrix's
/// counted once. Where residual streams of several widths meet (towers), the one with the most writers is meant.
pub(super) fn pool(pairs: &[Pair], surveyed: &[Surveyed<'_>]) -> Shared {
    let of = |kind: Kind, coordinates: Coordinates| {
        let spans: Vec<&Mat<f64>> = pairs
            .iter()
            .zip(surveyed)
            .filter(|(pair, _)| pair.role.kind == kind)
            .filter_map(|(_, found)| found.tops()?.of(coordinates))
            .collect();
        let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
        for span in &spans {
            *widths.entry(span.nrows()).or_default() += 1;
        }
        let width = widths.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(width, _)| width);
        consistency::shared(&spans, width, SHARED)
    };
    Shared {
        writers: ByCoordinates::new(|coordinates| of(Kind::Writer, coordinates)),
        readers: of(Kind::Reader, Coordinates::Raw),
    }
}
