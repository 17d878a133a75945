//! Shares with honest intervals: Wilson and exact, weighted, and corrected for a detector's own rates.

use statrs::distribution::{Beta, ContinuousCDF};

/// The 97.5 % point of the normal distribution: two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// A share and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Rate {
    /// The share, 0 to 1; 0 of 0 is 0 with the interval 0 to 1.
    pub share: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Rate {
    /// Nothing known.
    const UNKNOWN: Self = Self { share: 0.0, low: 0.0, high: 1.0 };

    /// `12.0 % (8.1 to 17.2)`.
    pub fn told(&self) -> String {
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        format!("{} % ({} to {})", percent(self.share), percent(self.low), percent(self.high))
    }
}

/// Wilson's score interval: near its nominal coverage for any count, and never outside 0 to 1.
pub fn wilson(hits: u64, of: u64) -> Rate {
    wilson_weighted(hits.min(of) as f64, of as f64)
}

/// Wilson's interval for counts that need not be whole (effective sample sizes).
fn wilson_weighted(hits: f64, of: f64) -> Rate {
    if of.is_nan() || of <= 0.0 {
        return Rate::UNKNOWN;
    }
    let share = (hits / of).clamp(0.0, 1.0);
    let z2 = Z * Z;
    let middle = (share + z2 / (2.0 * of)) / (1.0 + z2 / of);
    let half = Z / (1.0 + z2 / of) * (share * (1.0 - share) / of + z2 / (4.0 * of * of)).sqrt();
    // At the ends the formula gives 0 and 1 up to rounding, on the wrong side of the share itself at times.
    Rate { share, low: (middle - half).clamp(0.0, share), high: (middle + half).clamp(share, 1.0) }
}

/// Clopper and Pearson's exact interval: never covers less than 95 %.
pub fn exact(hits: u64, of: u64) -> Rate {
    if of == 0 {
        return Rate::UNKNOWN;
    }
    let hits = hits.min(of);
    let quantile = |a: u64, b: u64, p: f64| Beta::new(a as f64, b as f64).map(|beta| beta.inverse_cdf(p));
    let low = if hits == 0 { Ok(0.0) } else { quantile(hits, of - hits + 1, 0.025) };
    let high = if hits == of { Ok(1.0) } else { quantile(hits + 1, of - hits, 0.975) };
    let share = hits as f64 / of as f64;
    Rate { share, low: low.unwrap_or(0.0).clamp(0.0, share), high: high.unwrap_or(1.0).clamp(share, 1.0) }
}

/// The share of weight (of downloads, say) that hits have, with Wilson's interval at Kish's effective sample size
/// (Σw)²/Σw²: one repository with most of the downloads is one observation, not thousands.
pub fn weighted(items: impl IntoIterator<Item = (f64, bool)>) -> Rate {
    let (mut all, mut squares, mut hits) = (0.0, 0.0, 0.0);
    for (weight, hit) in items {
        if weight.is_finite() && weight > 0.0 {
            all += weight;
            squares += weight * weight;
            hits += if hit { weight } else { 0.0 };
        }
    }
    weighted_sums(hits, all, squares)
}

/// [`weighted`] from its sums: Σw over hits, Σw, Σw².
pub fn weighted_sums(hits: f64, all: f64, squares: f64) -> Rate {
    if all.is_nan() || squares.is_nan() || all <= 0.0 || squares <= 0.0 {
        return Rate::UNKNOWN;
    }
    let effective = all * all / squares;
    wilson_weighted(hits / all * effective, effective)
}

/// What a detector's own rates do to a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detector {
    /// Share of true cases that it finds.
    pub sensitivity: f64,
    /// Share of others that it raises.
    pub false_positives: f64,
}

/// The share among all, from the share raised (Rogan and Gladen 1978): (raised - fp) / (sensitivity - fp), the same for
/// both ends of the interval. `None` when the detector's rates do not separate.
pub fn corrected(raised: Rate, detector: Detector) -> Option<Rate> {
    let separation = detector.sensitivity - detector.false_positives;
    if !separation.is_finite() || separation <= 0.0 {
        return None;
    }
    let correct = |share: f64| ((share - detector.false_positives) / separation).clamp(0.0, 1.0);
    Some(Rate { share: correct(raised.share), low: correct(raised.low), high: correct(raised.high) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 5e-4
    }

    #[test]
    fn wilson_by_the_textbook() {
        // Newcombe 1998, table I: 81 of 263 and 15 of 148, 0 of 20, 1 of 29.
        for (hits, of, low, high) in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)] {
            let rate = wilson(hits, of);
            assert!(near(rate.low, low) && near(rate.high, high), "{hits} of {of}: {rate:?}");
        }
    }

    #[test]
    fn exact_by_the_textbook() {
        for (hits, of, low, high) in [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684)] {
            let rate = exact(hits, of);
            assert!(near(rate.low, low) && near(rate.high, high), "{hits} of {of}: {rate:?}");
        }
        assert_eq!(exact(7, 7).high, 1.0);
        assert_eq!(exact(0, 0), Rate::UNKNOWN);
    }

    #[test]
    fn one_heavy_item_is_one_observation() {
        let rate = weighted([(1e9, true), (1.0, false), (1.0, false), (f64::NAN, true)]);
        assert!(rate.share > 0.999);
        assert!(rate.low < 0.3, "{rate:?}");
        let equal = weighted((0..20).map(|i| (5.0, i < 3)));
        assert!(near(equal.low, wilson(3, 20).low));
    }

    #[test]
    fn correction_moves_the_right_way() {
        let raised = wilson(30, 200);
        let detector = Detector { sensitivity: 0.9, false_positives: 0.01 };
        let rate = corrected(raised, detector).expect("separates");
        assert!(near(rate.share, (0.15 - 0.01) / 0.89));
        assert!(corrected(raised, Detector { sensitivity: 0.1, false_positives: 0.1 }).is_none());
    }

    proptest::proptest! {
        #[test]
        fn intervals_hold_their_share(hits in 0u64..5000, more in 0u64..5000) {
            for rate in [wilson(hits, hits + more), exact(hits, hits + more)] {
                proptest::prop_assert!(0.0 <= rate.low && rate.low <= rate.share);
                proptest::prop_assert!(rate.share <= rate.high && rate.high <= 1.0);
            }
        }
    }
}
