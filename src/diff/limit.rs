//! What could have stayed hidden: the smallest strength that would have been seen.

use super::fits::CONSISTENCY;
use super::spectrum;
use crate::profile::{Sameness, TensorMeasurement};

/// A limit above this is no limit.
pub(super) const UNTESTABLE: f64 = 9.0;

/// and one below this is not claimed of anything that changed.
pub(super) const LEAST: f64 = 0.001;

/// The smallest λ at which this writer would have fitted by itself: 0 where it is bit-identical.
///
/// The noise is what is left of the change without its large values; where those are not an edit they can still hide
/// one, so the limit is never below the λ whose energy would reach the last value the range finder saw.
pub fn detection_limit(tensor: &TensorMeasurement) -> f64 {
    if tensor.sameness != Sameness::Changed || tensor.relative_norm == 0.0 {
        return 0.0;
    }
    let (d, n) = match tensor.role.residual {
        Some(crate::arch::Axis::Columns) => (tensor.shape[1] as f64, tensor.shape[0] as f64),
        _ => (tensor.shape[0] as f64, tensor.shape[1] as f64),
    };
    let blind = spectrum::detection_limit(tensor.noise.max(1e-9), d / n.max(1.0), CONSISTENCY);
    let hidden = if tensor.projection.as_ref().is_some_and(|p| p.fits) {
        0.0
    } else {
        tensor.relative_norm * (tensor.last_share * d).sqrt()
    };
    blind.max(hidden)
}
