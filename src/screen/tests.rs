//! The screen on generated writers: every kind of removal is seen, nothing honest is.

use super::judge::*;
use super::*;
use crate::diff::factor::{Factor, RIDGE};

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

fn read_of(w: &[f32], n: usize) -> impl Fn(usize, &mut [f32]) -> Result<()> + Sync {
    move |first, out: &mut [f32]| {
        out.copy_from_slice(&w[first * n..first * n + out.len()]);
        Ok(())
    }
}

fn screened(bases: &[(Vec<f32>, Factor)], n: usize, rows: usize, edit: impl Fn(usize, &[f32]) -> Vec<f32>) -> Screened {
    let first = 40;
    let span = first * n..(first + rows) * n;
    let sights: Vec<Sight> = bases
        .iter()
        .enumerate()
        .map(|(layer, (w, factor))| {
            let mut candidate = edit(layer, w);
            round_bf16(&mut candidate);
            look(&Block {
                name: &format!("layers.{layer}.down_proj"),
                layer: Some(layer as u32),
                first_row: first,
                columns: n,
                base: &w[span.clone()],
                candidate: &candidate[span.clone()],
                factor,
                read: &read_of(w, n),
            })
            .unwrap()
            .unwrap()
        })
        .collect();
    let pool = pool(&sights);
    let examined = sights
        .into_iter()
        .zip(bases)
        .map(|(sight, (w, factor))| examine(sight, &pool, factor, &read_of(w, n)).unwrap());
    judge(examined.collect(), &pool, 0)
}

fn bases(random: &mut fastrand::Rng, d: usize, n: usize, count: usize) -> Vec<(Vec<f32>, Factor)> {
    (0..count)
        .map(|_| {
            let mut w = writer(random, d, n);
            round_bf16(&mut w);
            let read = read_of(&w, n);
            let factor = Factor::build(d, n, &mut |first, out: &mut [f32]| read(first, out)).unwrap();
            drop(read);
            (w, factor)
        })
        .collect()
}

fn told(found: &Screened) -> String {
    format!(
        "{:?} because {}; c {:.3}, agreement {:.3}, λ {:.3}, limits {:.3} and {:.3}",
        found.decision,
        found.because,
        found.consistency,
        found.agreement,
        found.strength,
        found.detection_limit,
        found.limit_alone
    )
}

/// Adds a random change of that rank, so many times the size of a whole removal.
fn low_rank(w: &[f32], n: usize, rank: usize, size: f32, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let d = w.len() / n;
    let typical = (w.iter().map(|w| w * w).sum::<f32>() / d as f32).sqrt();
    let mut out = w.to_vec();
    for _ in 0..rank {
        let (left, right) = (direction(&mut random, d), direction(&mut random, n));
        for (row, left) in out.chunks_exact_mut(n).zip(&left) {
            let scale = size * typical / (rank as f32).sqrt() * left;
            row.iter_mut().zip(&right).for_each(|(w, right)| *w += scale * right);
        }
    }
    out
}

/// Pairs of columns change places.
fn swap_columns(w: &[f32], n: usize, pairs: usize) -> Vec<f32> {
    let mut out = w.to_vec();
    out.chunks_exact_mut(n).for_each(|row| (0..pairs).for_each(|pair| row.swap(7 * pair, 7 * pair + 3)));
    out
}

fn noisy_columns(w: &[f32], n: usize, count: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut out = w.to_vec();
    out.chunks_exact_mut(n).for_each(|row| (0..count).for_each(|at| row[11 * at] += 0.2 * (random.f32() - 0.5)));
    out
}

/// What an uploader may add at no cost, by name.
fn decoyed(decoy: &str, w: &[f32], n: usize, seed: u64) -> Vec<f32> {
    match decoy {
        "swapped columns" => swap_columns(w, n, 12),
        "noisy columns" => noisy_columns(w, n, 8, seed),
        "rank 1, louder" => low_rank(w, n, 1, 30.0, seed),
        "rank 8, louder" => low_rank(w, n, 8, 10.0, seed),
        _ => unreachable!("{decoy}"),
    }
}

const DECOYS: [&str; 4] = ["swapped columns", "noisy columns", "rank 1, louder", "rank 8, louder"];

#[test]
fn removals_are_found_and_honest_changes_are_not() {
    let (d, n) = (192, 640);
    let mut random = fastrand::Rng::with_seed(11);
    let bases = bases(&mut random, d, n, 8);
    let r = direction(&mut random, d);
    let ones = vec![1.0; d];
    for rows in [16, 32] {
        for strength in [0.2, 0.5, 1.0] {
            let found = screened(&bases, n, rows, |_, w| remove(w, n, &r, strength, &ones));
            assert_eq!(found.decision, ScreenDecision::Orthogonalized, "{rows} rows, λ {strength}: {}", told(&found));
            // Too low rather than too high: other directions of the pool help to explain the rows.
            let share = found.strength / f64::from(strength);
            assert!((0.4..1.15).contains(&share), "{rows} rows, λ {strength}: {}", told(&found));
            assert!(found.agreement > 0.9 && found.common > 0.8, "{}", told(&found));
        }
        let found = screened(&bases, n, rows, |_, w| remove(w, n, &r, 0.8, &norms(w, n)));
        assert_eq!(found.decision, ScreenDecision::Orthogonalized, "row-normalised: {}", told(&found));
        assert_eq!(found.coordinates, Coordinates::RowNormalised, "{}", told(&found));
        // Half of the layers only.
        let found = screened(
            &bases,
            n,
            rows,
            |layer, w| if layer % 2 == 0 { w.to_vec() } else { remove(w, n, &r, 0.6, &ones) },
        );
        assert_eq!((found.decision, found.changed), (ScreenDecision::Orthogonalized, 4), "{}", told(&found));

        for (rank, size) in [(1, 1.0), (1, 8.0), (16, 2.0)] {
            let found = screened(&bases, n, rows, |layer, w| low_rank(w, n, rank, size, 100 + layer as u64));
            assert_ne!(found.decision, ScreenDecision::Orthogonalized, "rank {rank}: {}", told(&found));
            assert!(rank > 1 || found.decision == ScreenDecision::Clear, "rank {rank}: {}", told(&found));
        }
        let noise = |layer: usize, w: &[f32]| -> Vec<f32> {
            let mut random = fastrand::Rng::with_seed(500 + layer as u64);
            w.iter().map(|w| w + 0.002 * (random.f32() - 0.5)).collect()
        };
        let found = screened(&bases, n, rows, noise);
        assert_eq!(found.decision, ScreenDecision::Clear, "noise: {}", told(&found));
        let found = screened(&bases, n, rows, |_, w| w.iter().map(|w| w * 0.97).collect());
        assert_ne!(found.decision, ScreenDecision::Orthogonalized, "rescaled: {}", told(&found));
    }
}

#[test]
fn louder_changes_and_moved_columns_hide_no_removal_from_the_screen() {
    let (d, n) = (192, 640);
    let mut random = fastrand::Rng::with_seed(12);
    let bases = bases(&mut random, d, n, 12);
    let r = direction(&mut random, d);
    for rows in [8, 16, 32] {
        for decoy in DECOYS {
            for normalised in [false, true] {
                let found = screened(&bases, n, rows, |layer, w| {
                    let scale = if normalised { norms(w, n) } else { vec![1.0; d] };
                    decoyed(decoy, &remove(w, n, &r, 0.5, &scale), n, layer as u64)
                });
                assert_ne!(found.decision, ScreenDecision::Clear, "{rows} rows, {decoy}: {}", told(&found));
                let found_all = rows < 32 || found.decision == ScreenDecision::Orthogonalized;
                assert!(found_all || decoy == "rank 8, louder", "{rows} rows, {decoy}: {}", told(&found));
            }
            let found = screened(&bases, n, rows, |layer, w| decoyed(decoy, w, n, layer as u64));
            assert_ne!(found.decision, ScreenDecision::Orthogonalized, "{rows} rows, {decoy} alone: {}", told(&found));
        }
    }
}

#[test]
fn directions_that_no_two_writers_share_are_never_clear() {
    let (d, n) = (192, 640);
    let mut random = fastrand::Rng::with_seed(13);
    let bases = bases(&mut random, d, n, 10);
    let ones = vec![1.0; d];
    for rows in [8, 16, 32] {
        for strength in [0.3, 1.0] {
            let found = screened(&bases, n, rows, |layer, w| {
                let own = direction(&mut fastrand::Rng::with_seed(layer as u64), d);
                remove(w, n, &own, strength, &ones)
            });
            assert_ne!(found.decision, ScreenDecision::Clear, "{rows} rows, λ {strength}: {}", told(&found));
        }
    }
}

#[test]
fn a_reduced_rank_is_no_removal() {
    let (d, n) = (96, 320);
    let mut random = fastrand::Rng::with_seed(15);
    let bases = bases(&mut random, d, n, 6);
    let reduced = |w: &[f32]| -> Vec<f32> {
        let w = Mat::from_fn(d, n, |i, j| f64::from(w[i * n + j]));
        let (_, vectors) = spectrum::symmetric_eigen((&w * w.transpose()).as_ref());
        let lost = vectors.subcols(0, d / 5);
        let left = &w - lost * (lost.transpose() * &w);
        (0..d * n).map(|at| left[(at / n, at % n)] as f32).collect()
    };
    let found = screened(&bases, n, 32, |_, w| reduced(w));
    assert_eq!(found.decision, ScreenDecision::Undecided, "{}", told(&found));
    assert!(found.blocks.iter().all(|block| block.removals.raw >= REDUCED), "{:?}", found.blocks);
}

#[test]
fn what_is_above_the_limit_of_the_screen_is_not_clear() {
    let (d, n) = (160, 560);
    let mut random = fastrand::Rng::with_seed(14);
    let bases = bases(&mut random, d, n, 8);
    let ones = vec![1.0; d];
    let mut clear = 0;
    for size in [0.0005, 0.002, 0.006] {
        for seed in 0..3 {
            let noisy = |layer: usize, w: &[f32]| -> Vec<f32> {
                let mut random = fastrand::Rng::with_seed(900 + 10 * seed + layer as u64);
                w.iter().map(|w| w + size * (random.f32() - 0.5)).collect()
            };
            let honest = screened(&bases, n, 24, noisy);
            assert_ne!(honest.decision, ScreenDecision::Orthogonalized, "{}", told(&honest));
            if honest.decision != ScreenDecision::Clear {
                continue;
            }
            clear += 1;
            let r = direction(&mut fastrand::Rng::with_seed(seed), d);
            let lambda = 1.3 * honest.detection_limit as f32;
            let found = screened(&bases, n, 24, |layer, w| noisy(layer, &remove(w, n, &r, lambda, &ones)));
            assert_ne!(found.decision, ScreenDecision::Clear, "λ {lambda}: {}", told(&found));
        }
    }
    assert!(clear > 0, "nothing was clear");
}

#[test]
fn what_the_rows_cannot_tell_is_undecided() {
    let (d, n) = (96, 256);
    let mut random = fastrand::Rng::with_seed(5);
    let bases = bases(&mut random, d, n, 6);
    let r = direction(&mut random, d);
    let ones = vec![1.0; d];
    assert_eq!(screened(&bases, n, 16, |_, w| w.to_vec()).decision, ScreenDecision::Undecided);
    for changed in 1..=2 {
        let few =
            screened(&bases, n, 16, |layer, w| if layer < changed { remove(w, n, &r, 1.0, &ones) } else { w.to_vec() });
        assert_eq!(few.decision, ScreenDecision::Undecided, "{changed} writers are no finding: {}", told(&few));
    }
    let coarse = screened(&bases, n, 16, |_, w| w.iter().map(|w| (w * 12.0).round() / 12.0).collect());
    assert_ne!(coarse.decision, ScreenDecision::Orthogonalized, "{}", told(&coarse));
    // Writers that cannot be measured are not clear.
    let noise = |w: &[f32]| -> Vec<f32> { w.iter().enumerate().map(|(at, w)| w + 1e-3 * (at as f32).sin()).collect() };
    let sights: Vec<Sight> = (bases.iter())
        .map(|(w, factor)| {
            let candidate = noise(&w[..16 * n]);
            let read = read_of(w, n);
            let (base, candidate) = (&w[..16 * n], candidate.as_slice());
            look(&Block { name: "w", layer: Some(1), first_row: 0, columns: n, base, candidate, factor, read: &read })
                .unwrap()
                .unwrap()
        })
        .collect();
    let pool = pool(&sights);
    let examined = sights.into_iter().zip(&bases).map(|(sight, (w, factor))| {
        let read = read_of(w, n);
        examine(sight, &pool, factor, &read).unwrap()
    });
    let found = judge(examined.collect(), &pool, 1);
    assert_eq!(found.decision, ScreenDecision::Undecided, "{}", told(&found));
}

#[test]
fn a_factor_solves_and_multiplies() {
    let mut random = fastrand::Rng::with_seed(4);
    let (w, factor) = bases(&mut random, 40, 90, 1).remove(0);
    let w = Mat::from_fn(40, 90, |i, j| f64::from(w[i * 90 + j]));
    let gram = &w * w.transpose();
    let b = Mat::from_fn(40, 3, |i, j| ((i * 3 + j) as f64).sin());
    let times = factor.gram_times(&column(&b, 1));
    let expected = &gram * b.col(1);
    assert!((0..40).all(|i| (times[i] - expected[i]).abs() < 1e-4 * expected.norm_l2()));
    let ridge = RIDGE * (0..40).map(|i| gram[(i, i)]).sum::<f64>() / 40.0;
    let back = &gram * factor.solve(&b) + faer::Scale(ridge) * factor.solve(&b);
    assert!((&back - &b).norm_l2() < 1e-3 * b.norm_l2(), "{}", (&back - &b).norm_l2());
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
    let block = Block {
        name: "w",
        layer: None,
        first_row: 0,
        columns: 90,
        base: &w[..360],
        candidate: &bad,
        factor: &factor,
        read: &read_of(&w, 90),
    };
    assert!(look(&block).unwrap().is_none());
    let mut huge = bad.clone();
    huge[7] = f32::MAX;
    assert!(look(&Block { candidate: &huge, ..block }).is_ok());
}

#[test]
fn a_dropped_component_is_no_removal() {
    let (d, n) = (96, 320);
    let mut random = fastrand::Rng::with_seed(16);
    let bases = bases(&mut random, d, n, 6);
    let dropped = |w: &[f32]| -> Vec<f32> {
        let w = Mat::from_fn(d, n, |i, j| f64::from(w[i * n + j]));
        let (_, vectors) = spectrum::symmetric_eigen((&w * w.transpose()).as_ref());
        let top = vectors.subcols(d - 1, 1);
        let left = &w - top * (top.transpose() * &w);
        (0..d * n).map(|at| left[(at / n, at % n)] as f32).collect()
    };
    for rows in [16, 32] {
        let found = screened(&bases, n, rows, |_, w| dropped(w));
        assert_eq!(found.decision, ScreenDecision::Undecided, "{rows} rows: {}", told(&found));
    }
}
