//! Judging stored measurements again, without the weights.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use rusqlite::{TransactionBehavior, params};
use serde::Serialize;

use super::sql::Hex;
use super::{Index, checksum, failed, load, store};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;
use crate::ids::Digest;
use crate::judge;
use crate::signature::Catalogue;

/// Examinations judged in one transaction.
const BATCH: i64 = 256;

/// What judging again did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Rejudged {
    /// Examinations that another catalogue had judged and that have measurements.
    pub judged: u64,
    /// Of them, those that are judged differently now.
    pub changed: Vec<Digest>,
    /// Examinations without measurements (failed, or of hashes alone), left as they are.
    pub without_measurements: u64,
    /// Examinations that could not be judged, and why; left as they are.
    pub failed: Vec<(Digest, String)>,
}

impl Index {
    /// Judges what the index holds again with a catalogue, without any weights; see [`Index::rejudge`].
    pub fn judge_again(&mut self, catalogue: &Catalogue, all: bool) -> Result<Rejudged> {
        let judge = |mut examination: Examination| {
            judge::judge(&mut examination, catalogue);
            Ok(examination)
        };
        self.rejudge(catalogue, all, Timestamp::now(), judge, |_| true)
    }

    /// Judges every examination again whose current judgement is by another catalogue, or every one that has
    /// measurements if `all`. The old judgement is kept as history where the new one says something else.
    ///
    /// `judge` is given the examination with its measurements and gives it back judged; only what is judged is stored,
    /// so it cannot change what was measured. A panic in it is that examination's failure. `seen` is told after each
    /// batch how many were judged so far; when it gives `false`, the work stops, and goes on there the next time.
    pub fn rejudge(
        &mut self,
        catalogue: &Catalogue,
        all: bool,
        now: Timestamp,
        mut judge: impl FnMut(Examination) -> Result<Examination>,
        mut seen: impl FnMut(u64) -> bool,
    ) -> Result<Rejudged> {
        let doing = "judging the index again";
        self.record_catalogue(catalogue, now)?;
        let hash = catalogue.hash().to_string();
        let mut outcome = Rejudged::default();
        let mut after = 0i64;
        loop {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|error| failed(doing, error))?;
            let keys: Vec<(i64, bool, Option<Digest>)> = transaction
                .prepare_cached(
                    "SELECT e.key, e.has_profile, e.id FROM examination e JOIN catalogue c ON c.key = e.catalogue
                     WHERE e.key > ?1 AND (?2 OR c.hash <> ?3) ORDER BY e.key LIMIT ?4",
                )
                .and_then(|mut statement| {
                    statement
                        .query_map(params![after, all, hash, BATCH], |row| {
                            // A broken row is that examination's failure, not the end of the work.
                            let id = row.get::<_, Hex>(2).ok().map(|Hex(id)| id);
                            Ok((row.get(0)?, row.get::<_, bool>(1).unwrap_or(true), id))
                        })?
                        .collect()
                })
                .map_err(|error| failed(doing, error))?;
            let Some(&(last, ..)) = keys.last() else { break };
            after = last;
            for (key, has_profile, id) in keys {
                if !has_profile {
                    outcome.without_measurements += 1;
                    continue;
                }
                let stored = match load::stored(&transaction, key) {
                    Ok(stored) => stored,
                    Err(error) => {
                        outcome.failed.push((id.unwrap_or(Digest([0; 32])), error.one_line()));
                        continue;
                    }
                };
                let judged = catch_unwind(AssertUnwindSafe(|| judge(stored.examination)))
                    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "judging: a panic")));
                match judged {
                    Err(error) => outcome.failed.push((stored.id, error.one_line())),
                    Ok(mut judged) => {
                        judged.tool.catalogue.clone_from(&hash);
                        outcome.judged += 1;
                        if store::judge_anew(&transaction, key, &judged, now)? {
                            outcome.changed.push(stored.id);
                        }
                        checksum::write(&transaction, key)?;
                    }
                }
            }
            transaction.commit().map_err(|error| failed(doing, error))?;
            if !seen(outcome.judged) {
                break;
            }
        }
        Ok(outcome)
    }
}
