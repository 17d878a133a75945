//! A pair seen from the residual stream.

use faer::MatRef;

use super::operator::{Gauge, Moments, Operator, Product, Want};
use super::spectrum;
use crate::arch::Axis;
use crate::error::Result;

/// A pair seen from the residual stream: d × n with the residual stream first, whatever the stored orientation.
pub struct Oriented<'a> {
    /// The pair as stored.
    pub operator: Operator<'a>,
    /// Which stored axis is the residual stream.
    pub residual: Axis,
}

impl Oriented<'_> {
    /// Width of the residual stream.
    pub fn width(&self) -> usize {
        match self.residual {
            Axis::Rows => self.operator.rows,
            Axis::Columns => self.operator.columns,
        }
    }

    /// The other width.
    pub fn other(&self) -> usize {
        match self.residual {
            Axis::Rows => self.operator.columns,
            Axis::Columns => self.operator.rows,
        }
    }

    /// Mᵀ Q for directions Q (d × k): n × k.
    pub fn to_other(&self, directions: MatRef<'_, f64>, want: Want) -> Result<Product> {
        let directions = spectrum::narrow(directions);
        match self.residual {
            Axis::Rows => self.operator.transposed_times(&directions, want),
            Axis::Columns => self.operator.times(&directions, want),
        }
    }

    /// M V for V (n × k): d × k.
    pub fn to_residual(&self, vectors: MatRef<'_, f64>, want: Want) -> Result<Product> {
        let vectors = spectrum::narrow(vectors);
        match self.residual {
            Axis::Rows => self.operator.times(&vectors, want),
            Axis::Columns => self.operator.transposed_times(&vectors, want),
        }
    }

    /// Whether a scale was divided out along the residual stream (true) or the other side (false), and its factors.
    pub(super) fn gauge_factors(&self) -> (Option<bool>, &[f32]) {
        match &self.operator.gauge {
            Gauge::None => (None, &[]),
            Gauge::Rows(factors) => (Some(self.residual == Axis::Rows), factors),
            Gauge::Columns(factors) => (Some(self.residual == Axis::Columns), factors),
        }
    }

    /// Per residual coordinate (first) or per other coordinate (second): Σw², Σ Δw, ΣΔ².
    pub(super) fn side<'m>(&self, moments: &'m Moments, residual: bool) -> AxisSums<'m> {
        if (self.residual == Axis::Rows) == residual { AxisSums::Rows(moments) } else { AxisSums::Columns(moments) }
    }

    /// Norms of W's rows, residual stream first; a zero row counts as norm 1, so that dividing by it changes nothing.
    pub fn row_norms(&self, moments: &Moments) -> Vec<f64> {
        self.side(moments, true).ww().map(|ww| if ww > 0.0 { ww.sqrt() } else { 1.0 }).collect()
    }
}

/// Sums along one axis of a pair.
pub(super) enum AxisSums<'m> {
    Rows(&'m Moments),
    Columns(&'m Moments),
}

impl AxisSums<'_> {
    pub(super) fn ww(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match self {
            Self::Rows(moments) => Box::new(moments.rows.iter().map(|sums| sums.ww)),
            Self::Columns(moments) => Box::new(moments.columns.ww.iter().copied()),
        }
    }

    pub(super) fn dd(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match self {
            Self::Rows(moments) => Box::new(moments.rows.iter().map(|sums| sums.dd)),
            Self::Columns(moments) => Box::new(moments.columns.dd.iter().copied()),
        }
    }

    pub(super) fn dw(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match self {
            Self::Rows(moments) => Box::new(moments.rows.iter().map(|sums| sums.dw)),
            Self::Columns(moments) => Box::new(moments.columns.dw.iter().copied()),
        }
    }
}
