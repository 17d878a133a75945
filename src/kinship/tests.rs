//! Fingerprints of made-up numbers.

use proptest::prelude::*;

use super::fingerprint::SAMPLES;
use super::sample::codes;
use super::*;
use crate::error::ErrorKind;
use crate::limits::{MAX_FINGERPRINT_BYTES, MAX_SKETCHED_BLOCKS, MAX_SKETCHED_SLOTS};

/// A fingerprint of random sketches: so many slots in so many blocks.
fn random(seed: u64, layers: u32, slots: u16) -> Fingerprint {
    let mut random = fastrand::Rng::with_seed(seed);
    let slot =
        |number: u16| SketchedSlot { slot: format!("slot {number}"), rows: 64, columns: 64, samples: SAMPLES as u8 };
    let mut sketches = Vec::new();
    for layer in 0..layers {
        for slot in 0..slots {
            let values: Vec<f32> = (0..SAMPLES).map(|_| (0..6).map(|_| random.f32()).sum()).collect();
            sketches.push(Sketch { slot, layer: Some(layer), codes: codes(&values).unwrap() });
        }
    }
    Fingerprint {
        declared: "llama".to_owned(),
        family: "llama".to_owned(),
        width: 64,
        layers,
        vocabulary: 100,
        slots: (0..slots).map(slot).collect(),
        sketches,
    }
}

fn alike(one: &Fingerprint, other: &Fingerprint) -> Likeness {
    likeness(&PreparedFingerprint::of(one), &PreparedFingerprint::of(other)).unwrap()
}

/// The largest distance of sorted p-values from the uniform distribution, times the root of their number.
fn ks(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let apart = |(at, value): (usize, &f64)| (value - at as f64 / count).abs().max((at as f64 + 1.0) / count - value);
    values.iter().enumerate().map(apart).fold(0.0, f64::max) * count.sqrt()
}

#[test]
fn bytes_come_back_and_the_deepest_fit() {
    let one = random(1, 7, 3);
    assert_eq!(Fingerprint::from_bytes(&one.to_bytes()).unwrap(), one);
    let mut deepest = random(2, MAX_SKETCHED_BLOCKS as u32, 1);
    let slot = deepest.slots[0].clone();
    let long = |number: usize| SketchedSlot { slot: format!("{number:064}"), ..slot.clone() };
    deepest.slots.extend((1..MAX_SKETCHED_SLOTS).map(long));
    let bytes = deepest.to_bytes();
    assert!(bytes.len() <= MAX_FINGERPRINT_BYTES, "{}", bytes.len());
    assert_eq!(Fingerprint::from_bytes(&bytes).unwrap(), deepest);
    let mut later = one.to_bytes();
    later[4] = 99;
    assert_eq!(Fingerprint::from_bytes(&later).unwrap_err().kind, ErrorKind::Unsupported);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..2000, at in 0usize..2000) {
        let _ = Fingerprint::from_bytes(&bytes);
        let mut whole = random(3, 2, 2).to_bytes();
        whole.truncate(cut);
        prop_assert!(cut >= random(3, 2, 2).to_bytes().len() || Fingerprint::from_bytes(&whole).is_err());
        if let Some(byte) = whole.get_mut(at) {
            *byte ^= 0x55;
        }
        let _ = Fingerprint::from_bytes(&whole);
    }
}

#[test]
fn what_is_constant_or_no_number_tells_nothing() {
    assert!(codes(&[1.0; 64]).is_none() && codes(&[0.0; 64]).is_none());
    assert!(codes(&[f32::NAN, 1.0, 2.0]).is_none() && codes(&[f32::INFINITY, 1.0]).is_none());
    // Scale and mean do not show.
    let values: Vec<f32> = (0..64u16).map(|at| f32::from(at * 37 % 64)).collect();
    let other: Vec<f32> = values.iter().map(|value| 3.0 * value + 100.0).collect();
    assert_eq!(codes(&values), codes(&other));
}

#[test]
fn p_values_of_strangers_are_uniform_and_blocks_find_their_own() {
    let p = |seed: u64| alike(&random(seed, 6, 3), &random(seed + 1000, 8, 3)).p_value;
    let apart = ks((0..300).map(p).collect());
    // Kolmogorov's limit at one in a thousand.
    assert!(apart < 1.95, "{apart}");
    let base = random(5, 8, 3);
    let mut fewer = base.clone();
    fewer.sketches.retain(|sketch| !matches!(sketch.layer, Some(2 | 5)));
    for sketch in &mut fewer.sketches {
        let gone = sketch.layer.into_iter().flat_map(|layer| [2, 5].map(|other| u32::from(layer > other))).sum::<u32>();
        sketch.layer = sketch.layer.map(|layer| layer - gone);
    }
    let found = alike(&fewer, &base);
    assert_eq!(found.layers.values().copied().collect::<Vec<_>>(), [0, 1, 3, 4, 6, 7]);
    assert!(found.similarity > 0.999 && found.is_kin(1_000_000), "{found:?}");
}

/// What the blocks of one model have in common does not make chance look small: every block of either model is much
/// the same.
#[test]
fn blocks_that_resemble_one_another_are_no_evidence() {
    let common = |seed: u64| {
        let mut one = random(seed, 12, 2);
        for at in 2..one.sketches.len() {
            let first = one.sketches[at % 2].codes.clone();
            let mixed = |(own, first): (&i16, &i16)| (own / 2).saturating_add(*first);
            one.sketches[at].codes = one.sketches[at].codes.iter().zip(&first).map(mixed).collect();
        }
        one
    };
    let p: Vec<f64> = (0..300).map(|seed| alike(&common(seed), &common(seed + 5000)).p_value).collect();
    assert!(p.iter().all(|p| *p > 1e-5), "{:e}", p.iter().copied().fold(1.0, f64::min));
    assert!(ks(p) < 1.95);
}

#[test]
fn other_shapes_are_not_held_against_one_another() {
    let (one, mut other) = (random(1, 4, 3), random(1, 4, 3));
    other.slots.iter_mut().for_each(|slot| slot.columns = 65);
    assert_eq!(likeness(&PreparedFingerprint::of(&one), &PreparedFingerprint::of(&other)), None);
}
