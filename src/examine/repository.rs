//! One repository, from its listing to its outcome: claim, base, then every checkpoint in it against that base.
//!
//! Every way this can end is an [`Examination`], also "gated", "gone" and "no claim". Only what says nothing about the
//! repository (a stop, a spent night's budget, a network that is down) comes back as an error, and leaves the row
//! queued.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::aside::{self, Aside};
use super::base::OpenedBase;
use super::variants::{self as loops, CandidateVariant, Holder};
use super::{Examiner, fenced, sides};
use crate::checkpoint::files::is_worth_reading;
use crate::checkpoint::variants::{self, LoadingHints, Other, Variant};
use crate::checkpoint::{self, Anomaly, FileSet};
use crate::claim::{self, Declarations};
use crate::error::{BASE_IS_GONE, Error, ErrorKind, Result};
use crate::examination::{Depth, Examination, Side};
use crate::hub::fetch::{self, Repo};
use crate::hub::{self, Access, Hub, Meter, RepoFile, RepoInfo};
use crate::ids::{Digest, RepoId, Revision};
use crate::judge::account::Account;
use crate::judge::relation::is_kin;
use crate::limits;
use crate::source::parse;
use crate::source::{ByteSource, Bytes};

/// An examination with what a queue needs to know of it.
pub struct RepositoryOutcome {
    /// The record.
    pub examination: Examination,
    /// The kind of failure, if it is one.
    pub failure: Option<ErrorKind>,
    /// Bytes and requests spent on it, base not counted.
    pub spent: hub::Totals,
}

impl RepositoryOutcome {
    /// Whether another night may end otherwise though nothing changed.
    pub fn is_passing(&self) -> bool {
        matches!(self.failure, Some(ErrorKind::Network | ErrorKind::Io | ErrorKind::Internal | ErrorKind::Budget))
    }

    /// Verdict, or kind of failure.
    pub fn word(&self) -> &'static str {
        self.failure.map_or(self.examination.verdict.as_str(), ErrorKind::as_str)
    }
}

/// A repository as it is examined.
pub(super) struct Candidate {
    pub(super) repo: Repo,
    pub(super) facts: RepoInfo,
    pub(super) claim: claim::ResolvedClaim,
    /// Its small files, as far as they were asked for.
    pub(super) small: FileSet,
    /// Whether its files may not be read.
    pub(super) closed: bool,
    /// What the small files say of the weights.
    directions: LoadingHints,
    /// The checkpoints in it that are looked at as deep as need be: the first of each form.
    chosen: Vec<Variant>,
    /// Further copies and quantisations of these, which are screened.
    further: Vec<Variant>,
    /// Weight files that are part of no checkpoint.
    others: Vec<Other>,
}

impl Candidate {
    /// The files of one of its checkpoints, as the hub lists them.
    pub(super) fn files_of(&self, variant: &Variant) -> Vec<RepoFile> {
        variant.files.iter().filter_map(|name| self.repo.file(name)).cloned().collect()
    }
}

impl Examiner {
    /// Examines one repository of a hub. `base` is the base asked for, if the user or the listing named one. Errors are
    /// only those that say nothing about the repository.
    pub fn examine(&self, id: &RepoId, facts: &RepoInfo, base: Option<&str>) -> Result<RepositoryOutcome> {
        self.examine_at(id, facts, base, None)
    }

    /// The same at a revision that the user named, for hubs where the listed commit is none to ask by.
    pub fn examine_at(
        &self,
        id: &RepoId,
        facts: &RepoInfo,
        base: Option<&str>,
        revision: Option<&Revision>,
    ) -> Result<RepositoryOutcome> {
        let meter = self.client.meter("this repository's", self.settings.max_bytes, Some(self.night.clone()));
        let result = fenced(&id.to_string(), || self.attempt(id, facts, base, revision, &meter));
        let spent = meter.totals();
        match result {
            Ok(examination) => Ok(RepositoryOutcome { examination, failure: None, spent }),
            Err(error) if error.kind == ErrorKind::Interrupted || self.night.was_refused() => Err(error),
            Err(error) if matches!(error.kind, ErrorKind::Network | ErrorKind::Index) => Err(error),
            Err(error) => {
                let examination = self.failed(id, facts, base, &error);
                Ok(RepositoryOutcome { examination, failure: Some(error.kind), spent })
            }
        }
    }

    /// The record of a repository that could not be examined.
    pub fn failed(&self, id: &RepoId, facts: &RepoInfo, base: Option<&str>, error: &Error) -> Examination {
        let claim = claim::resolve(&declared(facts), &id.name, None).claim;
        let named = base.map(str::to_owned).or_else(|| claim.base.as_ref().map(|base| format!("{}:{base}", id.hub)));
        let candidate = Side { source: id.to_string(), revision: facts.commit.clone(), ..Side::default() };
        let side = Side { source: named.unwrap_or_default(), ..Side::default() };
        let mut examination = Examination::failed(side, candidate, error);
        examination.claim = Some(claim);
        self.judge(&mut examination);
        examination
    }

    fn attempt(
        &self,
        id: &RepoId,
        facts: &RepoInfo,
        base: Option<&str>,
        revision: Option<&Revision>,
        meter: &Arc<Meter>,
    ) -> Result<Examination> {
        match facts.access {
            Access::Disabled => {
                return Err(Error::new(ErrorKind::Disabled, format!("{id}: the hub has disabled the repository")));
            }
            Access::Private => return Err(Error::new(ErrorKind::Denied, format!("{id}: the repository is private"))),
            Access::Open | Access::Gated => {}
        }
        let candidate = self.open(id, facts, base, revision, meter)?;
        let given = base.or(self.settings.base.as_deref());
        let asked: Vec<String> = match given {
            Some(base) => vec![base.to_owned()],
            None => candidate.claim.bases.iter().take(3).map(|base| format!("{}:{base}", id.hub)).collect(),
        };
        // A base that the user named is the user's choice, whatever its size.
        let most = self.settings.max_base_bytes.filter(|_| given.is_none());
        if asked.is_empty() {
            return Err(Error::new(ErrorKind::NoBase, format!("{id}: it claims no base, and none was given")));
        }
        // The next claimed base is tried only where the one before does not exist or does not fit.
        let mut trouble = None;
        for (at, name) in asked.iter().enumerate() {
            let base = match self.bases.get(name, most, &self.client, &self.environment, &self.night) {
                Ok(base) => base,
                // A base that is missing is not a candidate that is missing.
                Err(error) if error.kind == ErrorKind::NotFound => {
                    let doing = format!("{id}: the base {name} {BASE_IS_GONE}: {}", error.doing);
                    trouble.get_or_insert(Error { kind: ErrorKind::NoBase, doing, ..error });
                    continue;
                }
                Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::Disabled) && at + 1 < asked.len() => {
                    trouble.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let examination = self.against(&candidate, &base, meter)?;
            if is_kin(examination.relation) || at + 1 == asked.len() {
                return Ok(examination);
            }
        }
        Err(trouble.unwrap_or_else(|| Error::new(ErrorKind::NoBase, format!("{id}: no claimed base can be read"))))
    }

    fn open(
        &self,
        id: &RepoId,
        facts: &RepoInfo,
        base: Option<&str>,
        revision: Option<&Revision>,
        meter: &Arc<Meter>,
    ) -> Result<Candidate> {
        let hub = hub::of(id, &self.environment)?;
        let commit = facts.commit.clone().filter(|_| hub.keeps_commits()).map(Revision);
        let commit = commit.or_else(|| revision.cloned()).unwrap_or_else(|| hub.default_revision());
        let listed = Repo::open(&self.client, &hub, &self.environment, &id.name, &commit, meter);
        let (repo, facts) = match listed {
            // Pushed to since it was listed: what is there now is examined instead.
            Err(error) if error.kind == ErrorKind::Moved => {
                let now = fetch::info(&self.client, hub.as_ref(), &id.name, None, meter)?;
                let commit = now.commit.clone().filter(|_| hub.keeps_commits());
                let commit = commit.map_or_else(|| hub.default_revision(), Revision);
                (Repo::open(&self.client, &hub, &self.environment, &id.name, &commit, meter)?, now)
            }
            other => (other?, facts.clone()),
        };
        let claim = self.claims(hub.as_ref(), &repo, &facts, base, meter)?;
        let small = small_files(&repo, hub.as_ref(), &facts, meter)?;
        let listed = repo.files().iter().map(|file| (file.path.as_str(), file.bytes));
        let closed = facts.access == Access::Gated && hub.credentials().is_empty();
        let directions = if closed { LoadingHints::default() } else { LoadingHints::read(&small) };
        let contents = variants::contents(listed, &directions);
        if contents.variants.is_empty() {
            let what = contents.others.first().map(|other| format!("; {} is {}", other.name, other.what));
            let what = what.unwrap_or_default();
            return Err(Error::new(ErrorKind::Unsupported, format!("{id}: no file with weights that are read{what}")));
        }
        let (chosen, further) = match self.settings.all_variants {
            true => (contents.variants, Vec::new()),
            false => variants::first_of_each(contents.variants),
        };
        Ok(Candidate { repo, facts, claim, small, closed, directions, chosen, further, others: contents.others })
    }

    /// Reads the card where the listing does not already say enough: no base named, or tags that editing tools leave
    /// on a card they copied.
    fn claims(
        &self,
        hub: &dyn Hub,
        repo: &Repo,
        facts: &RepoInfo,
        base: Option<&str>,
        meter: &Arc<Meter>,
    ) -> Result<claim::ResolvedClaim> {
        let mut declared = declared(facts);
        let given = base.or(self.settings.base.as_deref()).and_then(|base| Some(base.split_once(':')?.1));
        let first = claim::resolve(&declared, &repo.id().name, given);
        const COPIED: &[&str] = &["heretic", "abliterated", "decensored", "uncensored"];
        let edited = declared.tags.iter().any(|tag| COPIED.contains(&tag.as_str()));
        if !first.bases.is_empty() && !edited && !facts.card.is_null() {
            return Ok(first);
        }
        let readable = facts.access == Access::Open;
        for path in ["README.md", "adapter_config.json", "config.json"] {
            let Some(file) = repo.file(path).filter(|file| file.bytes <= 4 << 20 && readable) else { continue };
            if hub.counts_as_download(&file.path) {
                continue;
            }
            let text = match repo.small(path, meter) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Denied) => continue,
                Err(error) => return Err(error),
            };
            let json = || parse::json(text.as_bytes(), limits::MAX_CONFIG_VALUES_BYTES).unwrap_or_default();
            match path {
                "README.md" => {
                    if declared.card.is_null() {
                        declared.card = claim::files::front_matter(&text);
                    }
                    declared.readme = Some(text);
                }
                "adapter_config.json" => declared.adapter = json(),
                _ if declared.config.is_null() => declared.config = json(),
                _ => {}
            }
        }
        Ok(claim::resolve(&declared, &repo.id().name, given))
    }

    /// Every checkpoint against a base, an account of the other weight files, and one verdict over all.
    fn against(&self, candidate: &Candidate, base: &Arc<OpenedBase>, meter: &Arc<Meter>) -> Result<Examination> {
        let mut account = Account::default();
        let mut anomalies = if candidate.closed { Vec::new() } else { checkpoint::surroundings(&candidate.small) };
        for (name, reason) in candidate.directions.unread() {
            account.gap(name, format!("{reason}; it may name other weights"));
        }
        let models = self.others(candidate, base, meter, &mut account, &mut anomalies)?;
        let parts: Vec<CandidateVariant> = (candidate
            .chosen
            .iter()
            .map(|variant| CandidateVariant { variant: variant.clone(), further: false }))
        .chain(
            candidate.further.iter().cloned().chain(models).map(|variant| CandidateVariant { variant, further: true }),
        )
        .collect();
        let before = meter.totals().weight_bytes;
        let mut repository = Repository { examiner: self, candidate, base, meter, before };
        let examined = loops::examine(&mut repository, &parts, account, anomalies, &self.catalogue)?;
        examined
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{}: nothing was examined", candidate.repo.id())))
    }

    /// Accounts for the weight files that are part of no checkpoint; those that turn out to be one come back.
    fn others(
        &self,
        candidate: &Candidate,
        base: &Arc<OpenedBase>,
        meter: &Arc<Meter>,
        account: &mut Account,
        anomalies: &mut Vec<Anomaly>,
    ) -> Result<Vec<Variant>> {
        let mut models = Vec::new();
        let hashes_only = self.settings.depth == Depth::Hashes;
        for (at, other) in candidate.others.iter().enumerate() {
            let Some(file) = candidate.repo.file(&other.name) else { continue };
            let of_base = (base.weights.iter())
                .any(|(_, bytes, sha256)| sha256.is_some() && (*bytes, *sha256) == (file.bytes, file.sha256));
            if of_base {
                account.told(&other.name, "one of the base's own files, by SHA-256");
                continue;
            }
            if !other.is_readable {
                account.gap(&other.name, format!("{}, which is not read", other.what));
                continue;
            }
            if hashes_only || candidate.closed || at >= limits::MAX_FILES_ASIDE {
                account.gap(&other.name, format!("{} by its name; not looked into", other.what));
                continue;
            }
            let mut set = candidate.small.clone();
            set.files.insert(other.name.clone(), candidate.repo.source(file, meter)?);
            let (aside, odd) = aside::look(&base.checkpoint, &set, other);
            anomalies.extend(odd);
            match aside {
                Aside::Stranger(why) => account.told(&other.name, why),
                Aside::Unknown(why) => account.gap(&other.name, why),
                Aside::Model(variant) => models.push(*variant),
            }
        }
        Ok(models)
    }
}

/// A repository beside the base that it is held against.
struct Repository<'a> {
    examiner: &'a Examiner,
    candidate: &'a Candidate,
    base: &'a Arc<OpenedBase>,
    meter: &'a Arc<Meter>,
    /// Bytes of weights that were received before the checkpoint in hand.
    before: u64,
}

impl Repository<'_> {
    /// What loading a checkpoint's files would import, where it cannot be opened.
    fn imports(&self, variant: &Variant) -> Vec<Anomaly> {
        let mut set = FileSet::default();
        for file in &self.candidate.files_of(variant) {
            if let Ok(source) = self.candidate.repo.source(file, self.meter) {
                set.files.insert(file.path.clone(), source);
            }
        }
        let names: Vec<&str> = set.files.keys().map(String::as_str).collect();
        aside::imports(&set, &names)
    }
}

impl Holder for Repository<'_> {
    fn digests(&self, variant: &Variant) -> Option<BTreeSet<Digest>> {
        self.candidate.files_of(variant).iter().map(|file| file.sha256).collect()
    }

    fn measure(&mut self, part: &CandidateVariant) -> Result<Examination> {
        self.examiner.look(self.candidate, part, self.base, self.meter)
    }

    fn failed(&mut self, part: &CandidateVariant, error: Error, several: bool) -> Result<Examination> {
        // What is no fault of this one checkpoint ends all.
        if !several || is_of_all(error.kind) || self.examiner.night.was_refused() {
            return Err(error);
        }
        let mut failed = Examination::failed(Side::default(), Side::default(), &error);
        failed.anomalies = self.imports(&part.variant);
        Ok(failed)
    }

    fn identify(&mut self, part: &CandidateVariant, several: bool, examination: &mut Examination) -> Result<()> {
        let variant = &part.variant;
        let format = examination.candidate.format.as_deref().unwrap_or(variant.format());
        let mut side = sides::of_repository(&self.candidate.repo, Some(format));
        if several {
            side.variant = Some(variant.name.clone());
            side.files.retain(|file| variant.files.contains(&file.name));
            side.digest = Side::digest_of(&side.files);
        }
        if examination.surroundings.is_empty() {
            examination.surroundings = self.examiner.surroundings(self.candidate, self.base, None);
        }
        (examination.base, examination.candidate) = (self.base.side.clone(), side);
        examination.claim = Some(self.candidate.claim.claim.clone());
        let read = self.meter.totals().weight_bytes;
        examination.coverage.bytes_read = read - self.before;
        self.before = read;
        Ok(())
    }

    fn whole(&self, examinations: &[Examination]) -> Side {
        let format = examinations.first().and_then(|examination| examination.candidate.format.clone());
        sides::of_repository(&self.candidate.repo, format.as_deref())
    }
}

/// The small files of a repository that say what its weights are, each fetched when it is first read. A `config.json`
/// that would count as a download is the one that the hub's listing tells.
fn small_files(repo: &Repo, hub: &dyn Hub, facts: &RepoInfo, meter: &Arc<Meter>) -> Result<FileSet> {
    let mut set = FileSet { label: repo.id().to_string(), ..FileSet::default() };
    for file in repo.files() {
        let wanted = sides::is_wanted(&file.path) && !is_worth_reading(&file.path) || file.path.ends_with(".py");
        if !wanted || file.bytes > limits::MAX_JSON_BYTES {
            continue;
        }
        let source: Arc<dyn ByteSource> = if file.path == "config.json" && hub.counts_as_download(&file.path) {
            Arc::new(Bytes::new("config.json", facts.config.to_string()))
        } else {
            repo.source(file, meter)?
        };
        set.files.insert(file.path.clone(), source);
    }
    Ok(set)
}

/// What a listing declares.
fn declared(facts: &RepoInfo) -> Declarations {
    Declarations {
        card: facts.card.clone(),
        tags: facts.tags.clone(),
        base_models: facts.base_models.clone(),
        config: facts.config.clone(),
        ..Declarations::default()
    }
}

/// Whether an error would meet every other checkpoint of the repository too.
fn is_of_all(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Interrupted | ErrorKind::Network | ErrorKind::Index | ErrorKind::Denied | ErrorKind::Disabled
    )
}
