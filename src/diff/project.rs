//! Third stage, one pair at a time: the direction of largest consistency in the span of shared and own directions.

use faer::Mat;

use super::consistency::Along;
use super::fits::{CONSISTENCY, EXPERTS_ASKED, OWN_COMPONENT};
use super::measured::{Change, Fitted, PairMeasurement, Projected};
use super::operator::Want;
use super::oriented::Oriented;
use super::pool::Shared;
use super::projection::{self, Fit, Leading, Regression};
use super::survey::{Changed, Surveyed, Tops, side_of};
use super::{grid, order, spectrum};
use crate::arch::Kind;
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::Result;
use crate::pair::{Pair, View};
use crate::profile::{ByCoordinates, Coordinates, Sameness};
use crate::tensor::numbers::median;

/// Directions that enter a regression are at most one for so many of the other coordinates, so that each half of them
/// still tests what the other chose.
const COORDINATES_EACH: usize = 4;

/// A matrix that does not write is asked for a removed direction only when its loudest one stands out of noise this far
/// (energy over the mean energy of a direction).
const LOUD: f64 = 12.0;

/// Share of a direction that the base lacks, of what the candidate has, from which λ of the base means nothing.
const LACKING: f64 = 0.9;

/// c of W p beside r from which the direction is a mixture of W's own components, all of them dropped.
const OWN_LOST: f64 = 0.9;

/// It must also be as lost, or nearly: the strength there over the strength along r.
const OWN_ALIKE: f64 = 0.5;

/// Rows of which an edit that was encoded again moves a code: at least one in so many. Fewer were set by themselves (a
/// pruned channel).
const MOVED_ROWS: usize = 20;

/// Pieces of a change that are looked at as an operator: an edit, and a few decoys beside it.
const PIECES: usize = 4;

/// Share of ‖Δ‖² that they must have. Through four bits an oblique removal of λ = 1 leaves 0.4.
const LOW_RANK: f64 = 0.3;

/// Share of ‖Δ‖² that a scale of the matrix, its rows or its columns explains from which the change is one: the loud
/// rows of all writers are alike, and scaling them is an operator as well.
const SCALED: f64 = 0.5;

/// Third stage for one pair.
pub(super) fn finish<'a>(
    pair: &'a Pair,
    found: Surveyed<'a>,
    shared: &Shared,
    base: &Checkpoint,
    candidate: &Checkpoint,
) -> Result<PairMeasurement<'a>, String> {
    let dtype = |checkpoint: &Checkpoint, view: &View| {
        checkpoint.tensors.get(&view.tensor).map_or_else(String::new, |entry| entry.stored_as().to_owned())
    };
    let dtypes = [dtype(base, &pair.base), dtype(candidate, &pair.candidate)];
    let precision = candidate.tensors.get(&pair.candidate.tensor).map_or(0, |entry| entry.dtype.precision);
    let changed = match found {
        Surveyed::NotExamined(reason) => return Err(reason),
        Surveyed::Requantized(scheme) => {
            let dtypes = [dtypes[0].clone(), format!("{} as {}", scheme.name(), dtypes[1])];
            return Ok(PairMeasurement {
                pair,
                dtypes,
                sameness: Sameness::Requantized,
                moments: None,
                projected: None,
                through_grid: None,
                rounded: None,
                scales_kept: None,
            });
        }
        Surveyed::Same(sameness) => {
            return Ok(PairMeasurement {
                pair,
                dtypes,
                sameness,
                moments: None,
                projected: None,
                through_grid: None,
                rounded: None,
                scales_kept: None,
            });
        }
        Surveyed::Changed(changed) => changed,
    };
    let projected = match side_of(&pair.role) {
        Some(writes) if pair.role.residual.is_some() => {
            examine_projection(&changed, pair, writes, shared).map_err(|error| error.one_line())?
        }
        _ => None,
    };
    let mut sized = change_of(&changed, pair, precision).map_err(|error| error.one_line())?;
    if pair.base.rows > 1 {
        // Where the base stands on a grid itself nothing was rounded to one.
        let codes = candidate.tensors.get(&pair.candidate.tensor).is_some_and(TensorEntry::is_quantized);
        let on = |view, checkpoint| -> Result<bool, String> {
            Ok(grid::levels(view, checkpoint).map_err(|error| error.one_line())? >= grid::LEVELS)
        };
        sized.quantized =
            if codes { dtypes[0] != dtypes[1] } else { on(&pair.candidate, candidate)? && !on(&pair.base, base)? };
    }
    Ok(PairMeasurement {
        pair,
        dtypes,
        sameness: Sameness::Changed,
        moments: Some(sized),
        projected,
        through_grid: None,
        rounded: None,
        scales_kept: None,
    })
}

/// A direction chosen in one system of coordinates, and the regression it was chosen from.
type Choice = (Coordinates, Regression, projection::Chosen);

/// One changed matrix that faces the residual stream, while a direction is looked for in it.
struct Asked<'c> {
    changed: &'c Changed<'c>,
    tops: &'c Tops,
    shared: &'c Shared,
    /// Whether its rows (as the residual stream sees it) are outputs: a writer, or an embedding.
    writes: bool,
    /// Whether it is a writer.
    writer: bool,
    /// Columns that are not set aside.
    kept: Option<&'c [bool]>,
    /// A direction that nobody chose, to plant a removal along; d × 1.
    planted: Mat<f64>,
    /// The uniform scale that is taken off before anything is asked.
    alpha: f64,
}

fn examine_projection(changed: &Changed<'_>, pair: &Pair, writes: bool, shared: &Shared) -> Result<Option<Projected>> {
    let Some(tops) = &changed.tops else { return Ok(None) };
    let oriented = &changed.oriented;
    let width = oriented.width();
    let quiet = changed
        .values
        .first()
        .is_none_or(|value| value * value * (width.min(oriented.other()) as f64) < LOUD * changed.energy);
    if pair.role.kind != Kind::Writer && quiet {
        return Ok(None);
    }
    let kept = changed.aside.kept.as_deref();
    let uniform = order::uniform_scale(oriented, &changed.moments, kept);
    let asked = Asked {
        changed,
        tops,
        shared,
        writes,
        writer: pair.role.kind == Kind::Writer,
        kept,
        planted: spectrum::widen(&spectrum::signs(width, 1, 5)) * faer::Scale(1.0 / (width as f64).sqrt()),
        alpha: uniform.alpha,
    };
    let (choices, mut backs) = asked.choose()?;
    if choices.is_empty() {
        return Ok(None);
    }
    // One pass back for W p, Δ p and the other side.
    backs.push(tops.right.clone());
    let n = oriented.other();
    backs.iter_mut().for_each(|back| back.resize(n, 0.0));
    let back = Mat::from_fn(n, backs.len(), |i, j| backs[j][i]);
    let returned = oriented.to_residual(back.as_ref(), Want::Both)?;
    let through: Vec<Vec<f64>> = (0..choices.len()).map(|at| column(&returned.base, at)).collect();
    let changes: Vec<Vec<f64>> = (0..choices.len()).map(|at| column(&returned.change, at)).collect();
    let (limit, shared_grid) = asked.limit(&choices)?;
    let leading = asked.leading(&choices, pair);
    let sides = asked.sides(choices, &through, &changes, shared_grid)?;

    let (own, through) = (column(&returned.change, through.len()), column(&returned.base, through.len()));
    let mean: f64 = tops.right.iter().sum::<f64>() / (n as f64).sqrt();
    let length = |vector: &[f64]| vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    let scale = length(&own) * length(&through);
    let inner: f64 = own.iter().zip(&through).map(|(a, b)| a * b).sum();
    Ok(Some(Projected {
        sides,
        transposed: if scale > 0.0 { inner.abs() / scale } else { 0.0 },
        uniform_right: mean.abs(),
        right: tops.right.clone(),
        limit,
        uniform: uniform.middle,
        leading,
    }))
}

/// A column of a product, in `f64`.
fn column(matrix: &Mat<f32>, at: usize) -> Vec<f64> {
    matrix.col(at).iter().map(|value| f64::from(*value)).collect()
}

impl Asked<'_> {
    /// The span that directions are looked for in, for one system of coordinates: own directions and those of the whole
    /// model.
    fn basis(&self, coordinates: Coordinates) -> Mat<f64> {
        let oriented = &self.changed.oriented;
        let width = oriented.width();
        let other = self.kept.map_or(oriented.other(), |kept| kept.iter().filter(|kept| **kept).count());
        let room = (other / COORDINATES_EACH).min(width / 2).max(2);
        let own = self.tops.of(coordinates);
        let pooled = if self.writes { &self.shared.writers[coordinates] } else { &self.shared.readers };
        // The output head and the router are asked for the writers' directions too.
        let crossed = (!self.writes).then_some(&self.shared.writers.raw);
        let probe = (self.writer && coordinates == Coordinates::Raw).then_some(&self.planted);
        let fits = |part: &&Mat<f64>| part.nrows() == width && part.ncols() > 0;
        let parts: Vec<&Mat<f64>> = [probe, own, Some(pooled), crossed].into_iter().flatten().filter(fits).collect();
        let wanted: usize = parts.iter().map(|part| part.ncols()).sum();
        let parts: Vec<_> = parts
            .into_iter()
            .map(|part| {
                part.subcols(0, if wanted > room { (part.ncols() * room).div_ceil(wanted) } else { part.ncols() })
            })
            .collect();
        if parts.is_empty() { Mat::zeros(width, 0) } else { spectrum::orthonormal(spectrum::beside(&parts).as_ref()) }
    }

    /// A direction in each system of coordinates, with one pass for both; and Wᵀr of each.
    fn choose(&self) -> Result<(Vec<Choice>, Vec<Vec<f64>>)> {
        let inverse: Option<Vec<f64>> =
            self.changed.norms.as_ref().map(|norms| norms.iter().map(|norm| 1.0 / norm).collect());
        let known = |coordinates: &Coordinates| *coordinates == Coordinates::Raw || inverse.is_some();
        let bases: Vec<(Coordinates, Mat<f64>)> = Coordinates::ALL
            .into_iter()
            .filter(known)
            .map(|coordinates| (coordinates, self.basis(coordinates)))
            .collect();
        let probes: Vec<Mat<f64>> = bases
            .iter()
            .map(|(coordinates, basis)| {
                let mut probe = basis.clone();
                if let (Coordinates::RowNormalised, Some(inverse)) = (coordinates, &inverse) {
                    spectrum::scale_rows(&mut probe, inverse);
                }
                probe
            })
            .collect();
        let views: Vec<_> = probes.iter().map(|probe| probe.as_ref()).collect();
        let product = self.changed.oriented.to_other(spectrum::beside(&views).as_ref(), Want::Both)?;
        let (all_p, all_r) = (spectrum::widen(&product.base), spectrum::widen(&product.change));
        let (mut choices, mut backs, mut at) = (Vec::new(), Vec::new(), 0);
        for (coordinates, basis) in bases {
            let count = basis.ncols();
            let (p, r) = (all_p.subcols(at, count).to_owned(), all_r.subcols(at, count).to_owned());
            at += count;
            let whole = p.clone();
            let regression = Regression::new(basis, p, r, self.kept, self.alpha);
            let Some(chosen) = regression.choose() else { continue };
            // Whole: whether the direction is a component of W's own, only all of W tells.
            backs.push(projection::combine(whole.as_ref(), &chosen.e));
            choices.push((coordinates, regression, chosen));
        }
        Ok((choices, backs))
    }

    /// The smallest λ that would have been found in this very change, and whether both sides stand on one grid. Writers
    /// only.
    fn limit(&self, choices: &[Choice]) -> Result<(Option<f64>, bool)> {
        let Some(regression) = raw(choices).filter(|_| self.writer) else { return Ok((None, false)) };
        let direction: Vec<f64> = self.planted.col(0).iter().copied().collect();
        let e: Vec<f64> = (regression.basis.transpose() * &self.planted).col(0).iter().copied().collect();
        let through = regression.along(&e).pp.sqrt();
        let among = if through > 0.0 { self.tops.next / through } else { f64::INFINITY };
        let linear = regression.planted_limit(&e, CONSISTENCY).max(among);
        // Where both sides stand on a grid a faint removal moves few codes or none, which adding it to Δ does not show.
        let on_grid = match is_encoded_again(self.changed) {
            true => grid::planted_limit(&self.changed.oriented, &direction, &regression.basis, CONSISTENCY)?,
            false => None,
        };
        Ok((Some(on_grid.map_or(linear, |on_grid| linear.max(on_grid))), on_grid.is_some()))
    }

    /// The loudest pieces of the change where they are much of it, and where it is no scale of rows or columns.
    fn leading(&self, choices: &[Choice], pair: &Pair) -> Option<Leading> {
        let few = pair.role.expert.is_none_or(|expert| expert < EXPERTS_ASKED);
        let scaled = self.changed.scale_explained.iter().any(|share| *share > SCALED);
        let regression = raw(choices).filter(|_| self.writer && few && !scaled)?;
        let leading = regression.leading(PIECES);
        let energy = match self.kept {
            Some(kept) => order::kept_energy(&self.changed.oriented, &self.changed.moments, kept, self.alpha),
            None => self.changed.energy,
        };
        (leading.squares.iter().sum::<f64>() >= LOW_RANK * energy).then_some(leading)
    }

    /// What was found in each system of coordinates. `through` and `changes` are W p and Δ p of each choice.
    fn sides(
        &self,
        choices: Vec<Choice>,
        through: &[Vec<f64>],
        changes: &[Vec<f64>],
        shared_grid: bool,
    ) -> Result<ByCoordinates<Option<Fitted>>> {
        let lost = if choices.iter().any(|(.., chosen)| chosen.consistency.abs() >= CONSISTENCY) {
            lost_beside(self.changed, &choices, through, self.alpha)?
        } else {
            Vec::new()
        };
        // ‖Δ‖² of what is not set aside, and how much of it the raw span leaves out: sums per row hold all columns, so
        // that in row-normalised coordinates only the span tells.
        let energies = self.kept.map_or((0.0, 1.0), |kept| {
            let all = order::kept_energy(&self.changed.oriented, &self.changed.moments, kept, self.alpha);
            let inside = raw(&choices).map_or(all, Regression::energy);
            (all, if inside > 0.0 { (all / inside).max(1.0) } else { 1.0 })
        });
        let mut sides = ByCoordinates::default();
        for (at, (coordinates, regression, chosen)) in choices.into_iter().enumerate() {
            let left = match coordinates {
                Coordinates::Raw => energies.0,
                Coordinates::RowNormalised => regression.energy() * energies.1,
            };
            let mut fit = self.fit(coordinates, &regression, &chosen, left, (&through[at], &changes[at]))?;
            if shared_grid {
                // λ̂ comes out many times too small there, and is no measure beside the rows' factors.
                fit.row_spread = 0.0;
            }
            let is_lost = |lost: &Along| {
                lost.consistency().abs() >= OWN_LOST && lost.strength().abs() >= OWN_ALIKE * fit.strength.abs()
            };
            if lost.get(at).is_some_and(is_lost) {
                // A mixture is known less exactly than one component is.
                fit.own_component = fit.own_component.max(OWN_COMPONENT);
            }
            sides[coordinates] = Some(self.side(coordinates, regression, &chosen, fit));
        }
        Ok(sides)
    }

    /// The fit along a chosen direction, or along what is left of it without the rows' own factors.
    fn fit(
        &self,
        coordinates: Coordinates,
        regression: &Regression,
        chosen: &projection::Chosen,
        left: f64,
        back: (&[f64], &[f64]),
    ) -> Result<Fit> {
        let oriented = &self.changed.oriented;
        let norms = norms_of(self.changed, coordinates);
        let known = self.kept.map(|_| projection::Kept { left, alpha: self.alpha });
        let along = |r: &[f64], pq: (&[f64], &[f64]), back: (&[f64], &[f64])| {
            projection::fit(oriented, &self.changed.moments, r, pq, back, norms, known)
        };
        let (p, q) = regression.right(&chosen.e);
        let (mut fit, unscaled) = along(&regression.direction(&chosen.e), (&p, &q), back);
        if let Some(r) = unscaled.filter(|_| chosen.consistency >= CONSISTENCY) {
            let [p, q, wp, dp] = &along_direction(oriented, &r, norms)?;
            fit = Fit { own_component: fit.own_component, ..along(&r, (p, q), (wp, dp)).0 };
        }
        fit.consistency = chosen.consistency;
        Ok(fit)
    }

    /// What is kept of one system of coordinates.
    fn side(
        &self,
        coordinates: Coordinates,
        mut regression: Regression,
        chosen: &projection::Chosen,
        mut fit: Fit,
    ) -> Fitted {
        let removal = chosen.consistency >= 0.0;
        if !removal && (fit.strength >= 0.0 || chosen.reverse > LACKING) {
            // What the base lacks it cannot be measured by: the candidate's own is the measure then.
            fit.strength = -chosen.reverse.max(0.0);
            let left = (1.0 - chosen.consistency * chosen.consistency).max(0.0);
            fit.stderr = chosen.reverse.abs() * (left / self.changed.oriented.other().max(1) as f64).sqrt();
        }
        let candidates = regression.candidates(removal);
        let others = candidates.iter().map(|(_, e)| regression.along(e));
        let others = others.map(|along| (along.strength(), along.consistency())).collect();
        let low = regression.eigenvalues.first().copied().unwrap_or(0.0);
        let high = regression.eigenvalues.last().copied().unwrap_or(0.0);
        let balance = if removal { (high / -low).max(0.0) } else { (-low / high).max(0.0) };
        let direction = regression.direction(&chosen.e);
        regression.shrink();
        let pooled = if self.writes { &self.shared.writers[coordinates] } else { &self.shared.readers };
        let shared = if pooled.nrows() == self.changed.oriented.width() {
            regression.basis.transpose() * pooled
        } else {
            Mat::zeros(regression.basis.ncols(), 0)
        };
        // Only the map to the shared directions is needed from here on; a mixture has thousands of these.
        regression.basis = Mat::zeros(0, 0);
        let balance = if balance.is_finite() { balance } else { 1.0 };
        Fitted { regression, shared, direction, fit, cross_fit: chosen.lower, others, balance }
    }
}

/// The regression in raw coordinates, where a direction was chosen in them.
fn raw(choices: &[Choice]) -> Option<&Regression> {
    choices.first().filter(|(coordinates, ..)| *coordinates == Coordinates::Raw).map(|(_, regression, _)| regression)
}

/// The norms that rows are divided by in these coordinates, if they are.
fn norms_of<'c>(changed: &'c Changed<'_>, coordinates: Coordinates) -> Option<&'c [f64]> {
    changed.norms.as_deref().filter(|_| coordinates == Coordinates::RowNormalised)
}

/// Whether elements moved all over the matrix, as when codes are decoded, edited and encoded again.
fn is_encoded_again(changed: &Changed<'_>) -> bool {
    let moments = changed.stored();
    let rows = moments.rows.iter().filter(|sums| sums.changed > 0).count();
    rows * MOVED_ROWS >= moments.rows.len()
}

/// [Wᵀr, Δᵀr, W Wᵀr, Δ Wᵀr] of one direction, the first two in the coordinates of the row norms given, the others raw.
fn along_direction(oriented: &Oriented<'_>, r: &[f64], norms: Option<&[f64]>) -> Result<[Vec<f64>; 4]> {
    let column = |matrix: &Mat<f32>| -> Vec<f64> { matrix.col(0).iter().map(|value| f64::from(*value)).collect() };
    let probe = Mat::from_fn(r.len(), 1, |at, _| r[at] / norms.map_or(1.0, |norms| norms[at]));
    let product = oriented.to_other(probe.as_ref(), Want::Both)?;
    let (p, q) = (column(&product.base), column(&product.change));
    let right = Mat::from_fn(p.len(), 1, |at, _| p[at]);
    let back = oriented.to_residual(right.as_ref(), Want::Both)?;
    Ok([p, q, column(&back.base), column(&back.change)])
}

/// For each direction r with p = Wᵀr: base and change along what of W p is not along r. W maps the span of its own
/// components to itself, so where those were dropped W p is as lost as r; a removed direction takes r away and leaves
/// the rest.
fn lost_beside(changed: &Changed<'_>, regressions: &[Choice], through: &[Vec<f64>], alpha: f64) -> Result<Vec<Along>> {
    let scale = |norms: Option<&[f64]>, at: usize| norms.and_then(|norms| norms.get(at)).copied().unwrap_or(1.0);
    let probes: Vec<Vec<f64>> = regressions
        .iter()
        .zip(through)
        .map(|((coordinates, regression, chosen), through)| {
            let norms = norms_of(changed, *coordinates);
            let r = regression.direction(&chosen.e);
            let through: Vec<f64> = through.iter().enumerate().map(|(at, value)| value / scale(norms, at)).collect();
            let along: f64 = r.iter().zip(&through).map(|(r, value)| r * value).sum();
            let rest: Vec<f64> = r.iter().zip(&through).map(|(r, value)| value - along * r).collect();
            let length = rest.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            rest.iter().enumerate().map(|(at, value)| value / length / scale(norms, at)).collect()
        })
        .collect();
    let width = changed.oriented.width();
    let probe = Mat::from_fn(width, probes.len(), |i, j| probes[j].get(i).copied().unwrap_or(0.0));
    let product = changed.oriented.to_other(probe.as_ref(), Want::Both)?;
    let kept = changed.aside.kept.as_deref();
    Ok((0..probes.len())
        .map(|at| {
            let mut along = Along::default();
            let pairs = product.base.col(at).iter().zip(product.change.col(at).iter());
            for (place, (p, q)) in pairs.enumerate() {
                if kept.is_none_or(|kept| kept.get(place).copied().unwrap_or(true)) {
                    let p = f64::from(*p);
                    let q = f64::from(*q) - alpha * p;
                    along.pp += p * p;
                    along.qq += q * q;
                    along.pq += p * q;
                }
            }
            along
        })
        .collect())
}

fn change_of(changed: &Changed<'_>, pair: &Pair, precision: u32) -> Result<Change> {
    let moments = changed.stored();
    let ratio =
        |ww: f64, dd: f64, dw: f64| (ww > 0.0).then(|| (((ww + 2.0 * dw + dd).max(0.0) / ww).sqrt() - 1.0).abs());
    let rows: Vec<f64> = moments.rows.iter().filter_map(|sums| ratio(sums.ww, sums.dd, sums.dw)).collect();
    let columns: Vec<f64> = moments
        .columns
        .ww
        .iter()
        .zip(moments.columns.dd.iter().zip(&moments.columns.dw))
        .filter_map(|(ww, (dd, dw))| ratio(*ww, *dd, *dw))
        .collect();
    let rescaled_rows = moments
        .rows
        .iter()
        .filter(|sums| sums.ww > 0.0 && sums.dd > 1e-6 * sums.ww && sums.dw * sums.dw > 0.99 * sums.ww * sums.dd)
        .count() as u64;
    let operator = &changed.oriented.operator;
    let vector = if pair.base.rows == 1 && operator.rows * operator.columns <= 1 << 20 {
        Some(operator.vector_change()?)
    } else {
        None
    };
    let peak = |sums: &mut dyn Iterator<Item = f64>| sums.fold(0.0f64, f64::max);
    Ok(Change {
        shape: [pair.base.rows as usize, pair.base.columns as usize],
        total: moments.total,
        norm_drift: [median(rows), median(columns)],
        changed_rows: moments.rows.iter().map(|sums| sums.changed > 0).collect(),
        scale_explained: changed.scale_explained,
        energy: changed.energy,
        values: changed.values.clone(),
        peaks: [
            peak(&mut moments.rows.iter().map(|sums| sums.ww)) / moments.total.ww.max(f64::MIN_POSITIVE),
            peak(&mut moments.columns.ww.iter().copied()) / moments.total.ww.max(f64::MIN_POSITIVE),
        ],
        precision,
        quantized: false,
        rescaled_rows,
        vector,
        moved: changed.aside.moved,
        set_aside: changed.aside.share(),
        erased: changed
            .oriented
            .operator
            .erased
            .as_ref()
            .map_or(0.0, |erased| erased.count() as f64 / erased.which.len().max(1) as f64),
        zeroed_rows: moments
            .rows
            .iter()
            .filter(|sums| sums.changed > 0 && sums.zeroed == sums.changed && -sums.dw >= 0.999 * sums.ww)
            .count() as u64,
    })
}
