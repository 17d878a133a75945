//! Codes that changed under scales that did not: a quantised base that was edited without being quantised again.
//!
//! Whoever quantises a changed matrix again chooses its scales anew, and with scales that can be any number some of
//! hundreds always move. An editor that works on the codes keeps them all. Scales that are powers of two, or of so few
//! bits that they move in steps of an eighth, stay where they are under a faint edit whoever made it: of those nothing
//! follows. Whether a tensor changed is asked of its numbers, never of its codes: one number may have several codes.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::measured::{Measurements, PairMeasurement};
use crate::arch::Kind;
use crate::checkpoint::{Checkpoint, Packing, Storage};
use crate::error::Result;
use crate::profile::{Numbers, Sameness, TensorMeasurement, names};

/// Fewer scales than this may stay by chance.
const FEWEST: usize = 16;

/// Looks at every pair that changed and is stored in one scheme on both sides.
pub fn look(base: &Checkpoint, candidate: &Checkpoint, measured: &mut Measurements<'_>) -> Result<()> {
    let changed = |pair: &&PairMeasurement<'_>| pair.sameness == Sameness::Changed;
    let tensors = |pair: &PairMeasurement<'_>| (pair.pair.base.tensor.clone(), pair.pair.candidate.tensor.clone());
    // Experts in one stack share its scales.
    let all: BTreeMap<(String, String), ()> =
        measured.pairs.iter().filter(changed).map(|pair| (tensors(pair), ())).collect();
    let found: BTreeMap<(String, String), bool> = all
        .into_par_iter()
        .map(|(names, ())| Ok(kept(base, candidate, &names.0, &names.1)?.map(|kept| (names, kept))))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    for pair in measured.pairs.iter_mut().filter(|pair| pair.sameness == Sameness::Changed) {
        pair.scales_kept = found.get(&tensors(pair)).copied();
    }
    Ok(())
}

/// Whether all scales of a tensor are those of the base's; `None` where that would say nothing.
fn kept(base: &Checkpoint, candidate: &Checkpoint, before: &str, after: &str) -> Result<Option<bool>> {
    let scales = |checkpoint: &Checkpoint, name: &str| -> Result<Option<(String, Vec<f32>)>> {
        match checkpoint.tensors.get(name).map(|entry| &entry.storage) {
            Some(Storage::Packed(decoder)) if decoder.packing() == Packing::Codes => {
                Ok(decoder.free_scales()?.map(|scales| (decoder.scheme().to_owned(), scales)))
            }
            _ => Ok(None),
        }
    };
    let Some((scheme, before)) = scales(base, before)? else { return Ok(None) };
    let Some((other, after)) = scales(candidate, after)? else { return Ok(None) };
    Ok((scheme == other && before.len() >= FEWEST && before.len() == after.len()).then(|| before == after))
}

/// Puts the numbers of the whole into the profile; nothing where no scales could be held against the base's.
pub fn summarize(model: &mut Numbers, measured: &Measurements<'_>, tensors: &[TensorMeasurement]) {
    let asked = || measured.pairs.iter().zip(tensors).filter_map(|(pair, tensor)| Some((pair.scales_kept?, tensor)));
    let all = asked().count();
    if all == 0 {
        return;
    }
    let writers = || asked().filter(|(kept, tensor)| *kept && tensor.role.kind == Kind::Writer);
    model.put(names::IN_PLACE_WRITERS, writers().count() as f64);
    model.put(names::IN_PLACE_LAYERS, super::fits::layers_of(writers().map(|(_, tensor)| tensor)));
    model.put(names::IN_PLACE_SHARE, writers().count() as f64 / all as f64);
}
