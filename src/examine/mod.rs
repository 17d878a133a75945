//! The map: the way of one candidate, from a folder of this machine ([`folder`]) or a repository on a hub
//! ([`repository`]) alike.
//!
//! ```text
//! open every checkpoint in it ─▶ pair ─▶ measure ─▶ name both sides ─▶ judge, once
//!          checkpoint            pair     diff        Holder::identify    judge
//! ```
//!
//! [`variants`] is the one loop over the checkpoints that a candidate holds, [`measure`] what happens to each: nothing
//! in it knows how the two are called or what the publisher claims. A repository is looked at in [`depths`] first, as
//! bytes are dear there.

mod aside;
pub mod base;
mod depths;
pub mod folder;
pub mod identify;
pub mod inspect;
pub mod located;
pub mod repository;
mod screening;
pub mod settings;
pub mod sides;
mod variants;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use self::base::Bases;
use self::settings::ExamineSettings;
use self::sides::Named;
use crate::arch::{self, Kind};
use crate::checkpoint::adapter::Adapter;
use crate::checkpoint::folder::file_set;
use crate::checkpoint::{Anomaly, Checkpoint, pack};
use crate::claim;
use crate::diff::{self, DiffObserver};
use crate::error::{Error, ErrorKind, Result, panic_text};
use crate::examination::{Claim, Coverage, Depth, Examination, Side, Status};
use crate::hub::{Client, DEFAULT, Environment, Meter};
use crate::judge;
use crate::judge::account::Account;
use crate::judge::relation::relation;
use crate::overlay;
use crate::pair;
use crate::profile::{Numbers, Sameness, names};
use crate::signature::Catalogue;

/// What is needed to examine candidates, one after another or many at a time.
pub struct Examiner {
    /// Sends requests.
    pub client: Arc<Client>,
    /// Tokens, endpoints, caches.
    pub environment: Environment,
    /// The signatures.
    pub catalogue: Arc<Catalogue>,
    /// Watches progress.
    pub observer: Arc<dyn DiffObserver + Send>,
    /// How deep.
    pub settings: ExamineSettings,
    /// The night's count and budget.
    pub night: Arc<Meter>,
    /// Bases opened so far.
    pub bases: Bases,
}

impl Examiner {
    /// Judges an examination whose sides and claim are complete.
    fn judge(&self, examination: &mut Examination) {
        judge::judge(examination, &self.catalogue);
    }

    /// Examines a folder or file of this machine, in all its forms, against the base given or the one that its own
    /// files claim, with the SHA-256 of its files where asked for. What cannot be examined is an examination too.
    pub fn examine_path(
        &self,
        path: &Path,
        base: Option<&str>,
        digests: bool,
        observer: &dyn DiffObserver,
    ) -> Examination {
        let named = Named::local(path.display().to_string());
        let mut settings = ExaminationContext { catalogue: &self.catalogue, digests, claim: None, observer };
        let mut tried = base.map(str::to_owned);
        let examined = fenced(&named.source, || {
            let files = file_set(path)?;
            let claim = claim::resolve(&folder::declarations(&files)?, &named.source, None);
            let asked = match base {
                Some(base) => Ok(base.to_owned()),
                None => claim.bases.first().map(|base| format!("{}:{base}", DEFAULT.prefix)).ok_or_else(|| {
                    let doing = format!("{}: it claims no base, and none was given with --base", named.source);
                    Error::new(ErrorKind::NotFound, doing)
                }),
            };
            settings.claim = Some(claim.claim);
            let asked = asked?;
            tried = Some(asked.clone());
            let most = self.settings.max_base_bytes.filter(|_| base.is_none());
            let base = self.bases.get(&asked, most, &self.client, &self.environment, &self.night)?;
            folder::examine(&mut folder::FolderBase::opened(&base), &files, &named, &settings)
        });
        examined
            .unwrap_or_else(|error| folder::failed(&Named::local(tried.unwrap_or_default()), &named, &error, &settings))
    }
}

/// What an examination needs beside the two checkpoints.
pub struct ExaminationContext<'a> {
    /// The signatures.
    pub catalogue: &'a Catalogue,
    /// Whether to hash files whose SHA-256 is not known.
    pub digests: bool,
    /// What the publisher says, where that was looked up.
    pub claim: Option<Claim>,
    /// Watches progress.
    pub observer: &'a dyn DiffObserver,
}

/// Compares what lies at two places of this machine, the candidate in all its forms. What cannot be compared is an
/// examination too.
pub fn compare_paths(base: &Path, candidate: &Path, settings: &ExaminationContext<'_>) -> Examination {
    let named = |path: &Path| Named::local(path.display().to_string());
    let (base_name, candidate_name) = (named(base), named(candidate));
    let compared = fenced(&candidate_name.source, || {
        let mut base = folder::FolderBase::open(base_name.clone(), file_set(base)?)?;
        folder::examine(&mut base, &file_set(candidate)?, &candidate_name, settings)
    });
    compared.unwrap_or_else(|error| folder::failed(&base_name, &candidate_name, &error, settings))
}

/// Compares two opened checkpoints in full. What cannot be compared is an examination too.
pub fn compare(
    (base, base_name): (&Checkpoint, &Named),
    (candidate, candidate_name): (&Checkpoint, &Named),
    settings: &ExaminationContext<'_>,
) -> Examination {
    let compared = fenced(&candidate_name.source, || {
        let mut examination = measure(base, candidate, settings.observer)?;
        examination.base = sides::of_checkpoint(base, base_name, settings.digests)?;
        examination.candidate = sides::of_checkpoint(candidate, candidate_name, settings.digests)?;
        examination.claim.clone_from(&settings.claim);
        judge::judge(&mut examination, settings.catalogue);
        Ok(examination)
    });
    compared.unwrap_or_else(|error| folder::failed(base_name, candidate_name, &error, settings))
}

/// A step whose panic becomes the outcome of what is examined, and of nothing else.
fn fenced<T>(what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
        let said = panic_text(&*panic);
        Err(Error::new(ErrorKind::Internal, format!("examining {what}: a defect of orthoscope: {said}")))
    })
}

/// Why nothing is said of removals where the matrices that one would be in could not be compared,
const NO_WRITER: &str = "no matrix that writes to the residual stream was compared";
/// and where there are none.
const NO_STREAM: &str =
    "the removal test does not apply to this architecture: no matrix that writes to a residual stream is known in it";

/// Measures a candidate against a base, all that both have: an examination without sides, claim and verdict.
pub fn measure(base: &Checkpoint, candidate: &Checkpoint, observer: &dyn DiffObserver) -> Result<Examination> {
    pack::refuse(base)?;
    pack::refuse(candidate)?;
    // An adapter is judged as the weights it makes of the base, computed row by row as they are read.
    let settled = overlay::settle(base, candidate)?;
    let is_adapter = Adapter::of(candidate)?.is_some();
    let candidate = settled.as_ref().unwrap_or(candidate);
    let pairing = pair::pair(base, candidate);
    let measured = diff::measure(base, candidate, &pairing, observer)?;
    let mut profile = diff::summary::summarize(&pairing, &measured).profile;
    let beyond_rounding = diff::rounding::anomalies(candidate, &measured, &profile.tensors);
    layout(&mut profile.model, base, candidate);
    let (relation, rank) = relation(base, candidate, &pairing, &profile, is_adapter);
    let mut account = Account::of_pairing(&pairing);
    measured.not_examined.iter().for_each(|left| account.unpaired(left, left.reason.clone()));
    let coverage = Coverage {
        tensors: (pairing.pairs.len() + pairing.only_base.len()) as u64,
        compared: profile.tensors.len() as u64,
        identical: profile.tensors.iter().filter(|tensor| tensor.sameness == Sameness::Identical).count() as u64,
        bytes_read: measured.bytes_read,
        not_examined: Vec::new(),
    };
    let (status, reason) = match coverage.compared {
        0 => (Status::Failed, Some(nothing_compared(base, candidate))),
        _ => (Status::Complete, None),
    };
    let writers = profile.tensors.iter().filter(|tensor| tensor.role.kind == Kind::Writer).count();
    if writers == 0 && coverage.compared > coverage.identical {
        let known = pairing.pairs.iter().any(|pair| pair.role.kind == Kind::Writer);
        account.gap("*", if known { NO_WRITER } else { NO_STREAM });
    }
    let mut anomalies: Vec<Anomaly> = base.anomalies.iter().chain(&candidate.anomalies).cloned().collect();
    anomalies.extend(beyond_rounding);
    anomalies.sort();
    let mut examination = Examination {
        status,
        reason,
        depth: Depth::Full,
        coverage,
        relation,
        rank,
        anomalies,
        profile: Some(profile),
        ..Examination::blank(Side::default(), Side::default())
    };
    account.enter(&mut examination);
    Ok(examination)
}

/// Why no tensor of one side is one of the other's, where the architectures tell.
fn nothing_compared(base: &Checkpoint, candidate: &Checkpoint) -> String {
    let said = "no tensor could be compared";
    let [base, candidate] = [base, candidate].map(|side| arch::resolve_checkpoint(side).family);
    if base == candidate || [&base, &candidate].contains(&&"fallback".to_owned()) {
        return said.to_owned();
    }
    format!("{said}: the base's architecture is {base}, the candidate's {candidate}")
}

/// Traces of how the files were written, for signatures of packaging.
fn layout(model: &mut Numbers, base: &Checkpoint, candidate: &Checkpoint) {
    let file = |name: &str| base.files.iter().find(|file| file.name == name);
    let identical = candidate
        .files
        .iter()
        .filter(|mine| file(&mine.name).is_some_and(|theirs| mine.sha256.is_some() && mine.sha256 == theirs.sha256))
        .count();
    let dropped = candidate
        .files
        .iter()
        .filter(|mine| {
            file(&mine.name)
                .is_some_and(|theirs| theirs.metadata.contains_key("format") && !mine.metadata.contains_key("format"))
        })
        .count();
    model.put(names::LAYOUT_IDENTICAL_FILES, identical as f64);
    model.put(names::LAYOUT_METADATA_DROPPED, dropped as f64);
    // What is odd about the files is known to the judge; here none of it is.
    model.put(names::CODE_ON_LOAD, 0.0);
}
