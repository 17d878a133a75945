//! The screen on generated writers: every kind of removal is seen, nothing honest is.

use super::*;

/// A writer with a falling spectrum and a few loud channels, as trained ones have.
fn writer(random: &mut fastrand::Rng, d: usize, n: usize) -> Vec<f32> {
    let mut normal = || (0..6).map(|_| random.f32()).sum::<f32>() - 3.0;
    let mut w: Vec<f32> = (0..d * n).map(|_| normal() * 0.02).collect();
    for k in 0..24 {
        let left: Vec<f32> = (0..d).map(|_| normal()).collect();
        let right: Vec<f32> = (0..n).map(|_| normal()).collect();
        let size = 0.004 / (1.0 + k as f32 * 0.3);
        for (row, left) in w.chunks_exact_mut(n).zip(&left) {
            row.iter_mut().zip(&right).for_each(|(w, right)| *w += size * left * right);
        }
    }
    for row in w.chunks_exact_mut(n).step_by(37) {
        row.iter_mut().for_each(|w| *w *= 3.0);
    }
    w
}

fn direction(random: &mut fastrand::Rng, d: usize) -> Vec<f32> {
    let raw: Vec<f32> = (0..d).map(|_| random.f32() - 0.5).collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.iter().map(|x| x / length).collect()
}

fn round_bf16(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = half::bf16::from_f32(*value).to_f32());
}

fn norms(w: &[f32], n: usize) -> Vec<f32> {
    w.chunks_exact(n).map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).collect()
}

/// W - λ r rᵀW, in rows scaled by `scale`.
fn remove(w: &[f32], n: usize, r: &[f32], strength: f32, scale: &[f32]) -> Vec<f32> {
    let mut along = vec![0.0f32; n];
    for ((row, r), scale) in w.chunks_exact(n).zip(r).zip(scale) {
        along.iter_mut().zip(row).for_each(|(sum, w)| *sum += r * w / scale);
    }
    let mut out = w.to_vec();
    for ((row, r), scale) in out.chunks_exact_mut(n).zip(r).zip(scale) {
        row.iter_mut().zip(&along).for_each(|(w, along)| *w -= strength * scale * r * along);
    }
    out
}

fn screened(bases: &[(Vec<f32>, Factor)], n: usize, rows: usize, edit: impl Fn(usize, &[f32]) -> Vec<f32>) -> Screened {
    let blocks = bases
        .iter()
        .enumerate()
        .map(|(layer, (w, factor))| {
            let mut candidate = edit(layer, w);
            round_bf16(&mut candidate);
            let first = 40;
            let span = first * n..(first + rows) * n;
            let times = |v: &[f32]| {
                Ok(w.chunks_exact(n)
                    .map(|row| row.iter().zip(v).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
                    .collect())
            };
            measure(&Block {
                name: &format!("layers.{layer}.down_proj"),
                layer: Some(layer as u32),
                first_row: first,
                columns: n,
                base: &w[span.clone()],
                candidate: &candidate[span],
                factor,
                times: &times,
            })
            .unwrap()
            .unwrap()
        })
        .collect();
    judge(blocks)
}

fn bases(random: &mut fastrand::Rng, d: usize, n: usize, count: usize) -> Vec<(Vec<f32>, Factor)> {
    (0..count)
        .map(|_| {
            let mut w = writer(random, d, n);
            round_bf16(&mut w);
            let factor = Factor::build(d, n, &mut |first, out: &mut [f32]| {
                out.copy_from_slice(&w[first * n..first * n + out.len()]);
                Ok(())
            })
            .unwrap();
            (w, factor)
        })
        .collect()
}

fn told(found: &Screened) -> String {
    let limit = found.detection_limit;
    format!(
        "{:?} because {}; c {:.3}, λ {:.3}, limit {limit:.3}",
        found.decision, found.because, found.consistency, found.strength
    )
}

#[test]
fn removals_are_seen_and_honest_changes_are_not() {
    let (d, n) = (192, 640);
    let mut random = fastrand::Rng::with_seed(11);
    let bases = bases(&mut random, d, n, 8);
    let r = direction(&mut random, d);
    let ones = vec![1.0; d];
    for rows in [8, 32] {
        for strength in [0.2, 0.5, 1.0] {
            let found = screened(&bases, n, rows, |_, w| remove(w, n, &r, strength, &ones));
            assert_eq!(found.decision, Decision::Orthogonalized, "{rows} rows, λ {strength}: {}", told(&found));
            assert!(
                (found.strength - f64::from(strength)).abs() < 0.1 * f64::from(strength) + 0.02,
                "{}",
                found.strength
            );
            assert!(found.agreement > 0.9);
        }
        let found = screened(&bases, n, rows, |_, w| remove(w, n, &r, 0.8, &norms(w, n)));
        assert_eq!(
            (found.decision, found.coordinates),
            (Decision::Orthogonalized, 1),
            "row-normalised: {}",
            told(&found)
        );
        // Half of the layers only, directions of their own.
        let found = screened(&bases, n, rows, |layer, w| {
            let own = direction(&mut fastrand::Rng::with_seed(layer as u64), d);
            if layer % 2 == 0 { w.to_vec() } else { remove(w, n, &own, 0.6, &ones) }
        });
        assert_eq!((found.decision, found.changed), (Decision::Orthogonalized, 4), "per layer: {}", told(&found));

        let low_rank = |rank: usize, size: f32, seed: u64| {
            move |layer: usize, w: &[f32]| {
                let mut random = fastrand::Rng::with_seed(seed + layer as u64);
                let mut out = w.to_vec();
                for _ in 0..rank {
                    let (left, right) = (direction(&mut random, d), direction(&mut random, n));
                    for (row, left) in out.chunks_exact_mut(n).zip(&left) {
                        row.iter_mut().zip(&right).for_each(|(w, right)| *w += size * left * right);
                    }
                }
                out
            }
        };
        for (rank, size) in [(1, 0.6), (16, 0.1)] {
            let found = screened(&bases, n, rows, low_rank(rank, size, 100));
            assert_eq!(found.decision, Decision::Clear, "low rank {rank}: {}", told(&found));
        }
        let found = screened(&bases, n, rows, |layer, w| {
            let mut random = fastrand::Rng::with_seed(500 + layer as u64);
            w.iter().map(|w| w + 0.002 * (random.f32() - 0.5)).collect()
        });
        assert_eq!(found.decision, Decision::Clear, "noise: {}", told(&found));
        let found = screened(&bases, n, rows, |_, w| w.iter().map(|w| w * 0.97).collect());
        assert_ne!(found.decision, Decision::Orthogonalized, "rescaled: {}", told(&found));
    }
}

#[test]
fn what_the_rows_cannot_tell_is_undecided() {
    let (d, n) = (96, 256);
    let mut random = fastrand::Rng::with_seed(5);
    let bases = bases(&mut random, d, n, 6);
    let r = direction(&mut random, d);
    let ones = vec![1.0; d];
    assert_eq!(screened(&bases, n, 16, |_, w| w.to_vec()).decision, Decision::Undecided);
    let one = screened(&bases, n, 16, |layer, w| if layer == 2 { remove(w, n, &r, 1.0, &ones) } else { w.to_vec() });
    assert_eq!(one.decision, Decision::Undecided, "one writer alone is no finding");
    let coarse = screened(&bases, n, 16, |_, w| w.iter().map(|w| (w * 12.0).round() / 12.0).collect());
    assert_eq!(coarse.decision, Decision::Undecided, "{}", told(&coarse));
}

#[test]
fn a_factor_survives_its_cache_and_a_damaged_one_is_refused() {
    let mut random = fastrand::Rng::with_seed(3);
    let (_, factor) = bases(&mut random, 40, 90, 1).remove(0);
    let bytes = factor.to_bytes();
    assert_eq!(Factor::from_bytes(&bytes, 40).unwrap(), factor);
    assert!(Factor::from_bytes(&bytes[..bytes.len() - 1], 40).is_none());
    assert!(Factor::from_bytes(&bytes, 41).is_none());
    assert!(Factor::from_bytes(&bytes, usize::MAX).is_none());
    assert!(Factor::build(10, 5, &mut |_, _| Ok(())).is_err());
    assert!(Factor::build(5, 10, &mut |_, _| Ok(())).is_err(), "all zero");
}

#[test]
fn numbers_that_are_not_finite_are_not_measured() {
    let mut random = fastrand::Rng::with_seed(3);
    let (w, factor) = bases(&mut random, 40, 90, 1).remove(0);
    let mut bad = w[..360].to_vec();
    bad[7] = f32::NAN;
    let times = |_: &[f32]| Ok(vec![0.0; 40]);
    let block = Block {
        name: "w",
        layer: None,
        first_row: 0,
        columns: 90,
        base: &w[..360],
        candidate: &bad,
        factor: &factor,
        times: &times,
    };
    assert_eq!(measure(&block).unwrap(), None);
}
