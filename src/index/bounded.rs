//! Bounds on what one examination may take in the index: a hostile header can name millions of tensors, and what is
//! stored is read again by every report and every page.

use std::borrow::Cow;

use crate::checkpoint::{Anomaly, anomaly};
use crate::examination::{ClaimEvidence, Examination, NotExamined};
use crate::limits::{MAX_ANOMALIES, MAX_CLAIM_EVIDENCE, MAX_NOT_EXAMINED};

/// The line that stands for further tensors that were not examined.
pub(super) fn more_not_examined(more: u64) -> NotExamined {
    NotExamined { tensor: "*".to_owned(), reason: format!("{more} more are not listed") }
}

/// Keeps the first entries; a last one says how many more there were. A list with such a line already is one too long
/// and stays as it is.
fn shorten<T>(list: &mut Vec<T>, most: usize, more: impl FnOnce(usize) -> T) {
    if list.len() > most + 1 {
        let left = list.len() - most;
        list.truncate(most);
        list.push(more(left));
    }
}

fn is_within(examination: &Examination) -> bool {
    examination.coverage.not_examined.len() <= MAX_NOT_EXAMINED + 1
        && examination.anomalies.len() <= MAX_ANOMALIES + 1
        && examination.claim.as_ref().is_none_or(|claim| claim.evidence.len() <= MAX_CLAIM_EVIDENCE + 1)
        && examination.variants.iter().all(is_within)
}

/// The examination with its lists, and those of its variants, no longer than the index keeps them.
pub(super) fn bounded(examination: &Examination) -> Cow<'_, Examination> {
    if is_within(examination) {
        return Cow::Borrowed(examination);
    }
    let mut examination = examination.clone();
    bound(&mut examination);
    Cow::Owned(examination)
}

fn bound(examination: &mut Examination) {
    shorten(&mut examination.coverage.not_examined, MAX_NOT_EXAMINED, |more| more_not_examined(more as u64));
    shorten(&mut examination.anomalies, MAX_ANOMALIES, |more| {
        Anomaly::new(anomaly::MORE_ANOMALIES, "", None, format!("{more} more are not listed"))
    });
    if let Some(claim) = &mut examination.claim {
        shorten(&mut claim.evidence, MAX_CLAIM_EVIDENCE, |more| ClaimEvidence {
            from: "*".to_owned(),
            says: format!("{more} more are not listed"),
        });
    }
    examination.variants.iter_mut().for_each(bound);
}
