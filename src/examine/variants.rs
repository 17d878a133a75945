//! The one loop over the checkpoints that a candidate holds, whether it is a folder of this machine or a repository on
//! a hub.

use std::collections::BTreeSet;

use super::fenced;
use crate::checkpoint::Anomaly;
use crate::checkpoint::variants::Variant;
use crate::error::{Error, Result};
use crate::examination::{Examination, Side};
use crate::ids::Digest;
use crate::judge::account::Account;
use crate::judge::combine::combine;
use crate::judge::judge;
use crate::signature::Catalogue;

/// One checkpoint of a candidate.
pub(super) struct CandidateVariant {
    /// Its files and its name.
    pub variant: Variant,
    /// Whether it is a further copy or quantisation of one that is looked at as deep as need be.
    pub further: bool,
}

/// What holds the checkpoints, beside the base that they are held against.
pub(super) trait Holder {
    /// SHA-256 of a checkpoint's files, where all are known without reading them.
    fn digests(&self, variant: &Variant) -> Option<BTreeSet<Digest>>;

    /// Opens one and measures it.
    fn measure(&mut self, part: &CandidateVariant) -> Result<Examination>;

    /// The examination of one that could not be opened or measured; the error where it is of more than this one.
    fn failed(&mut self, part: &CandidateVariant, error: Error, several: bool) -> Result<Examination>;

    /// Names both sides, and puts in what the publisher claims.
    fn identify(&mut self, part: &CandidateVariant, several: bool, examination: &mut Examination) -> Result<()>;

    /// The candidate as a whole, as one side.
    fn whole(&self, examinations: &[Examination]) -> Side;
}

/// Examines one checkpoint after another, and judges them, and all together, once. `account` and `anomalies` are of
/// what else the candidate holds. `None` where there is no checkpoint.
pub(super) fn examine(
    holder: &mut impl Holder,
    parts: &[CandidateVariant],
    mut account: Account,
    anomalies: Vec<Anomaly>,
    catalogue: &Catalogue,
) -> Result<Option<Examination>> {
    let several = parts.len() > 1;
    let mut examinations: Vec<Examination> = Vec::new();
    let mut seen: Vec<(BTreeSet<Digest>, &str)> = Vec::new();
    for part in parts {
        let name = part.variant.name.as_str();
        if let Some(digests) = holder.digests(&part.variant).filter(|digests| !digests.is_empty()) {
            if let Some((_, first)) = seen.iter().find(|(known, _)| *known == digests) {
                account.told(name, format!("the same bytes as {first}, by SHA-256"));
                continue;
            }
            seen.push((digests, name));
        }
        let measured = fenced(name, || {
            let mut examination = holder.measure(part)?;
            holder.identify(part, several, &mut examination)?;
            Ok(examination)
        });
        let examination = match measured {
            Ok(examination) => examination,
            // One that cannot be read is no reason to say nothing of the others.
            Err(error) => {
                let mut examination = holder.failed(part, error, several)?;
                holder.identify(part, several, &mut examination)?;
                examination
            }
        };
        examinations.push(examination);
    }
    if let Some(first) = examinations.first_mut() {
        // What is odd about the whole is told with the checkpoint that is looked at first.
        first.anomalies.extend(anomalies);
        first.anomalies.sort();
        first.anomalies.dedup();
    }
    let whole = holder.whole(&examinations);
    Ok(combine(whole, examinations, account, |examination| judge(examination, catalogue)))
}
