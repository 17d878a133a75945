//! Shares with honest intervals: Wilson and exact, weighted, and corrected for a detector's own rates.

use serde::Serialize;
use statrs::distribution::{Beta, ContinuousCDF};

use crate::judge::verdict::{CONTROLS, CONTROLS_CALLED};

/// The 97.5 % point of the normal distribution: two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// A share and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ShareInterval {
    /// The share, 0 to 1; 0 of 0 is 0 with the interval 0 to 1.
    pub share: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl ShareInterval {
    /// Nothing known.
    const UNKNOWN: Self = Self { share: 0.0, low: 0.0, high: 1.0 };

    /// `12.0 % (8.1 to 17.2)`.
    pub fn told(&self) -> String {
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        format!("{} % ({} to {})", percent(self.share), percent(self.low), percent(self.high))
    }
}

/// Wilson's score interval: near its nominal coverage for any count, and never outside 0 to 1.
pub fn wilson(hits: u64, of: u64) -> ShareInterval {
    wilson_weighted(hits.min(of) as f64, of as f64)
}

/// Wilson's interval for counts that need not be whole (effective sample sizes).
fn wilson_weighted(hits: f64, of: f64) -> ShareInterval {
    if of.is_nan() || of <= 0.0 {
        return ShareInterval::UNKNOWN;
    }
    let share = (hits / of).clamp(0.0, 1.0);
    let z2 = Z * Z;
    let middle = (share + z2 / (2.0 * of)) / (1.0 + z2 / of);
    let half = Z / (1.0 + z2 / of) * (share * (1.0 - share) / of + z2 / (4.0 * of * of)).sqrt();
    // At the ends the formula gives 0 and 1 up to rounding, on the wrong side of the share itself at times.
    ShareInterval { share, low: (middle - half).clamp(0.0, share), high: (middle + half).clamp(share, 1.0) }
}

/// Clopper and Pearson's exact interval: never covers less than 95 %.
pub fn exact(hits: u64, of: u64) -> ShareInterval {
    if of == 0 {
        return ShareInterval::UNKNOWN;
    }
    let hits = hits.min(of);
    let quantile = |a: u64, b: u64, p: f64| Beta::new(a as f64, b as f64).map(|beta| beta.inverse_cdf(p));
    let low = if hits == 0 { Ok(0.0) } else { quantile(hits, of - hits + 1, 0.025) };
    let high = if hits == of { Ok(1.0) } else { quantile(hits + 1, of - hits, 0.975) };
    let share = hits as f64 / of as f64;
    ShareInterval { share, low: low.unwrap_or(0.0).clamp(0.0, share), high: high.unwrap_or(1.0).clamp(share, 1.0) }
}

/// The share of weight (of downloads, say) that hits have, with Wilson's interval at Kish's effective sample size
/// (Σw)²/Σw²: one repository with most of the downloads is one observation, not thousands.
pub fn weighted(items: impl IntoIterator<Item = (f64, bool)>) -> ShareInterval {
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
pub fn weighted_sums(hits: f64, all: f64, squares: f64) -> ShareInterval {
    if all.is_nan() || squares.is_nan() || all <= 0.0 || squares <= 0.0 {
        return ShareInterval::UNKNOWN;
    }
    let effective = all * all / squares;
    wilson_weighted(hits / all * effective, effective)
}

/// A rate of the detector as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub hits: u64,
    /// Of how many labelled pairs.
    pub of: u64,
}

/// What a detector's own rates do to a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Detector {
    /// Rates that are taken as exact, for want of the counts behind them.
    Exact {
        /// Share of true cases that it finds.
        sensitivity: f64,
        /// Share of others that it raises.
        false_positives: f64,
    },
    /// Rates counted on labelled pairs, which are uncertain themselves.
    Measured {
        /// True cases that it found.
        found: Counted,
        /// Others that it raised.
        raised: Counted,
    },
}

impl Detector {
    /// Share of true cases that it finds, and share of others that it raises.
    pub fn rates(self) -> (f64, f64) {
        match self {
            Self::Exact { sensitivity, false_positives } => (sensitivity, false_positives),
            Self::Measured { found, raised } => {
                (found.hits as f64 / found.of as f64, raised.hits as f64 / raised.of as f64)
            }
        }
    }
}

/// The share among all, from the share raised (Rogan and Gladen 1978): (raised - fp) / (sensitivity - fp). With exact
/// rates both ends of Wilson's interval are carried over alike; with measured ones the interval is that of Lang and
/// Reiczigel (2014), which also holds what chance did to the rates. `None` when the detector's rates do not separate,
/// or nothing was looked at.
pub fn corrected(hits: u64, of: u64, detector: Detector) -> Option<ShareInterval> {
    let (sensitivity, false_positives) = detector.rates();
    let separation = sensitivity - false_positives;
    if of == 0 || !separation.is_finite() || separation <= 0.0 {
        return None;
    }
    let correct = |share: f64| ((share - false_positives) / separation).clamp(0.0, 1.0);
    let raised = wilson(hits, of);
    let share = correct(raised.share);
    let (low, high) = match detector {
        Detector::Exact { .. } => (correct(raised.low), correct(raised.high)),
        Detector::Measured { found, raised } => lang_reiczigel(Counted { hits, of }, found, raised)?,
    };
    Some(ShareInterval { share, low: low.clamp(0.0, share), high: high.clamp(share, 1.0) })
}

/// The 95 % limits of a prevalence with estimated sensitivity and specificity: Lang and Reiczigel, Preventive
/// Veterinary Medicine 113 (2014), 13 to 22, equations 16 and 17. `None` where the estimates do not separate once they
/// are drawn to the middle.
fn lang_reiczigel(positive: Counted, found: Counted, raised: Counted) -> Option<(f64, f64)> {
    let z2 = Z * Z;
    let drawn = |counted: Counted, by: f64| {
        let of = counted.of as f64 + 2.0 * by;
        (((counted.hits as f64) + by) / of, of)
    };
    let (apparent, n) = drawn(positive, z2 / 2.0);
    let (sensitivity, n_sensitivity) = drawn(found, 1.0);
    let (specificity, n_specificity) = drawn(Counted { hits: raised.of.checked_sub(raised.hits)?, of: raised.of }, 1.0);
    let separation = sensitivity + specificity - 1.0;
    if separation <= 0.0 {
        return None;
    }
    let share = (apparent + specificity - 1.0) / separation;
    let of_sensitivity = sensitivity * (1.0 - sensitivity) / n_sensitivity;
    let of_specificity = specificity * (1.0 - specificity) / n_specificity;
    let shift = 2.0 * z2 * (share * of_sensitivity - (1.0 - share) * of_specificity);
    let variance =
        apparent * (1.0 - apparent) / n + share * share * of_sensitivity + (1.0 - share).powi(2) * of_specificity;
    let half = Z * variance.sqrt() / separation;
    Some((share + shift - half, share + shift + half))
}

/// Of how many honest derivatives chance alone would call some.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ExpectedFalsePositives {
    /// Derivatives that were examined.
    pub of: u64,
    /// At the rate of the controls, were all of them honest.
    pub about: f64,
    /// At the upper 95 % limit of that rate.
    pub limit: f64,
}

/// The exact upper 95 % limit of the rate at which honest derivatives are called orthogonalized, by the controls.
pub fn false_positive_limit() -> f64 {
    exact(u64::from(CONTROLS_CALLED), u64::from(CONTROLS)).high
}

/// What the controls let expect of this many derivatives. `None` of nothing.
pub fn expected_false_positives(of: u64) -> Option<ExpectedFalsePositives> {
    let rate = f64::from(CONTROLS_CALLED) / f64::from(CONTROLS);
    (of > 0).then(|| ExpectedFalsePositives { of, about: of as f64 * rate, limit: of as f64 * false_positive_limit() })
}

impl ExpectedFalsePositives {
    /// In one sentence.
    pub fn told(&self) -> String {
        format!(
            "Were all {} honest, about {:.1} of them would be called orthogonalized by the rate of the controls ({CONTROLS_CALLED} of \
             {CONTROLS}), and {:.1} by its upper 95 % limit.",
            self.of, self.about, self.limit
        )
    }
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
        assert_eq!(exact(0, 0), ShareInterval::UNKNOWN);
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
        let detector = Detector::Exact { sensitivity: 0.9, false_positives: 0.01 };
        let rate = corrected(30, 200, detector).expect("separates");
        assert!(near(rate.share, (0.15 - 0.01) / 0.89));
        assert!(corrected(30, 200, Detector::Exact { sensitivity: 0.1, false_positives: 0.1 }).is_none());
        assert!(corrected(0, 0, detector).is_none());
    }

    #[test]
    fn the_limit_of_false_positives_is_the_exact_one() {
        // 1 of 731: the 97.5 % point of Beta(2, 730).
        assert!((false_positive_limit() - 0.0076).abs() < 5e-5, "{}", false_positive_limit());
        let expected = expected_false_positives(10_000).expect("some");
        assert!((expected.limit - 76.0).abs() < 0.5 && (expected.about - 13.7).abs() < 0.05, "{expected:?}");
        assert_eq!(expected_false_positives(0), None);
    }

    #[test]
    fn a_few_labelled_pairs_leave_the_corrected_share_uncertain() {
        let raised = (10, 15);
        let exact = corrected(raised.0, raised.1, Detector::Exact { sensitivity: 1.0, false_positives: 0.0 });
        let few = Detector::Measured { found: Counted { hits: 26, of: 26 }, raised: Counted { hits: 0, of: 21 } };
        let (exact, few) = (exact.expect("separates"), corrected(raised.0, raised.1, few).expect("separates"));
        assert!(near(exact.share, few.share));
        assert!(few.high - few.low > exact.high - exact.low, "{few:?} {exact:?}");
        // With many pairs the two come together.
        let many = Detector::Measured {
            found: Counted { hits: 1_000_000, of: 1_000_000 },
            raised: Counted { hits: 0, of: 1_000_000 },
        };
        let many = corrected(raised.0, raised.1, many).expect("separates");
        assert!((many.low - exact.low).abs() < 5e-3 && (many.high - exact.high).abs() < 5e-3, "{many:?} {exact:?}");
    }

    /// The authors show coverage near 95 % in simulations; so do these limits, where carrying Wilson's ends alone does
    /// not.
    #[test]
    fn corrected_limits_cover_what_they_promise() {
        use rand::{Rng as _, SeedableRng as _};
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let mut binomial = |of: u64, p: f64| (0..of).filter(|_| random.random::<f64>() < p).count() as u64;
        const ROUNDS: u32 = 1000;
        for (prevalence, sensitivity, specificity, n, pairs) in [
            (0.05, 0.95, 0.98, 300, 100),
            (0.2, 0.9, 0.95, 200, 60),
            (0.5, 0.8, 0.99, 150, 50),
            (0.1, 0.99, 0.9, 500, 80),
        ] {
            let (mut covered, mut by_wilson) = (0, 0);
            for _ in 0..ROUNDS {
                let found = Counted { hits: binomial(pairs, sensitivity), of: pairs };
                let raised = Counted { hits: binomial(pairs, 1.0 - specificity), of: pairs };
                let hits = binomial(n, prevalence * sensitivity + (1.0 - prevalence) * (1.0 - specificity));
                let holds = |detector| {
                    corrected(hits, n, detector).is_some_and(|rate| rate.low <= prevalence && prevalence <= rate.high)
                };
                let measured = Detector::Measured { found, raised };
                let (sensitivity, false_positives) = measured.rates();
                covered += u32::from(holds(measured));
                by_wilson += u32::from(holds(Detector::Exact { sensitivity, false_positives }));
            }
            let (covered, by_wilson) =
                (f64::from(covered) / f64::from(ROUNDS), f64::from(by_wilson) / f64::from(ROUNDS));
            assert!(covered > 0.93, "{prevalence}: {covered}");
            assert!(by_wilson < covered, "{prevalence}: {by_wilson} by Wilson's ends, {covered}");
        }
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
