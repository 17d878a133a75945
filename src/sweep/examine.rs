//! One repository, from its listing to its outcome: claim, base, then three depths, cheapest first.
//!
//! Every way this can end is an [`Examination`], also "gated", "gone" and "no claim". Only what says nothing about the
//! repository (a stop, a spent night's budget, a network that is down) comes back as an error, and leaves the row queued.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;

use crate::account::Account;
use crate::arch::Kind;
use crate::aside::{self, Aside};
use crate::checkpoint::variants::{self, Directions, Other, Variant};
use crate::checkpoint::{self, Anomaly, Checkpoint, FileSet, anomaly, turn};
use crate::claim::{self, Declarations, structural};
use crate::combine::combine;
use crate::diff::screen::Decision;
use crate::error::{Error, ErrorKind, Result, panic_text};
use crate::examination::{Depth, Examination, NotExamined, Relation, Side, Verdict};
use crate::hub::fetch::{self, Repo};
use crate::hub::{self, Access, Client, Environment, Hub, Meter, RepoInfo};
use crate::ids::{Digest, RepoId};
use crate::overlay::needs_settling;
use crate::pair::Pairing;
use crate::relation::{self, Contents};
use crate::source::{ByteSource, Bytes, mmap::Mmap};
use crate::surroundings::{self, Around, Surrounding};
use crate::{limits, parse, verdict};

use super::base::{Base, Bases};
use super::screening::{self, Screening};
use super::{Escalate, ExamineSettings, Stages, record};

/// What is needed to examine repositories.
pub struct Bench {
    /// Sends requests.
    pub client: Arc<Client>,
    /// Tokens, endpoints, caches.
    pub environment: Environment,
    /// Reads, pairs and compares weights.
    pub stages: Arc<dyn Stages>,
    /// How deep.
    pub settings: ExamineSettings,
    /// The night's count and budget.
    pub night: Arc<Meter>,
    /// Bases opened so far.
    pub bases: Bases,
}

/// An examination with what a queue needs to know of it.
pub struct Outcome {
    /// The record.
    pub examination: Examination,
    /// The kind of failure, if it is one.
    pub failure: Option<ErrorKind>,
    /// Bytes and requests spent on it, base not counted.
    pub spent: hub::Totals,
}

impl Outcome {
    /// Whether another night may end otherwise though nothing changed.
    pub fn is_passing(&self) -> bool {
        matches!(self.failure, Some(ErrorKind::Network | ErrorKind::Io | ErrorKind::Internal | ErrorKind::Budget))
    }

    /// Verdict, or kind of failure.
    pub fn word(&self) -> String {
        match self.failure {
            Some(kind) => kind.as_str().to_owned(),
            None => word(&self.examination.verdict),
        }
    }
}

/// A verdict or a relation as its JSON word.
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A repository as it is examined.
struct Candidate {
    repo: Repo,
    facts: RepoInfo,
    claim: claim::Resolved,
    /// Its small files, as far as they were asked for.
    small: FileSet,
    /// Whether its files may not be read.
    closed: bool,
    /// What the small files say of the weights.
    directions: Directions,
    /// The checkpoints in it that are looked at as deep as need be: the first of each form.
    chosen: Vec<Variant>,
    /// Further copies and quantisations of these, which are screened.
    further: Vec<Variant>,
    /// Weight files that are part of no checkpoint.
    others: Vec<Other>,
}

/// One checkpoint of a repository.
struct Part<'a> {
    candidate: &'a Candidate,
    variant: &'a Variant,
    files: Vec<hub::RepoFile>,
    /// Whether it is a further copy or quantisation of one that is looked at.
    further: bool,
}

impl<'a> Part<'a> {
    fn of(candidate: &'a Candidate, variant: &'a Variant, further: bool) -> Self {
        let files = variant.files.iter().filter_map(|name| candidate.repo.file(name)).cloned().collect();
        Self { candidate, variant, files, further }
    }

    fn repo(&self) -> &'a Repo {
        &self.candidate.repo
    }
}

impl Bench {
    /// Examines one repository of a hub. `base` is the base asked for, if the user or the listing named one. Errors are
    /// only those that say nothing about the repository.
    pub fn examine(&self, id: &RepoId, facts: &RepoInfo, base: Option<&str>) -> Result<Outcome> {
        self.examine_at(id, facts, base, None)
    }

    /// The same at a revision that the user named, for hubs where the listed commit is none to ask by.
    pub fn examine_at(
        &self,
        id: &RepoId,
        facts: &RepoInfo,
        base: Option<&str>,
        revision: Option<&str>,
    ) -> Result<Outcome> {
        let meter = self.client.meter("this repository's", self.settings.max_bytes, Some(self.night.clone()));
        let result = catch_unwind(AssertUnwindSafe(|| self.attempt(id, facts, base, revision, &meter)));
        let result = result.unwrap_or_else(|panic| {
            let said = panic_text(&*panic);
            Err(Error::new(ErrorKind::Internal, format!("examining {id}: a defect of this program: {said}")))
        });
        let spent = meter.totals();
        match result {
            Ok(examination) => Ok(Outcome { examination, failure: None, spent }),
            Err(error) if error.kind == ErrorKind::Interrupted || self.night.was_refused() => Err(error),
            Err(error) if matches!(error.kind, ErrorKind::Network | ErrorKind::Index) => Err(error),
            Err(error) => {
                let examination = self.failed(id, facts, base, &error);
                Ok(Outcome { examination, failure: Some(error.kind), spent })
            }
        }
    }

    /// The record of a repository that could not be examined.
    pub fn failed(&self, id: &RepoId, facts: &RepoInfo, base: Option<&str>, error: &Error) -> Examination {
        let claim = claim::resolve(&declared(facts), &id.name, None).claim;
        let named = base.map(str::to_owned).or_else(|| claim.base.as_ref().map(|base| format!("{}:{base}", id.hub)));
        let candidate = Side { source: id.to_string(), revision: facts.commit.clone(), ..Side::default() };
        let side = Side { source: named.unwrap_or_default(), ..Side::default() };
        let mut examination = record::failed(self.stages.tool(), side, candidate, error);
        examination.claim = Some(claim);
        examination
    }

    fn attempt(
        &self,
        id: &RepoId,
        facts: &RepoInfo,
        base: Option<&str>,
        revision: Option<&str>,
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
            let stages = self.stages.as_ref();
            let base = match self.bases.get(name, most, &self.client, &self.environment, stages, &self.night) {
                Ok(base) => base,
                // A base that is missing is not a candidate that is missing.
                Err(error) if error.kind == ErrorKind::NotFound => {
                    let doing = format!("{id}: the base {name} cannot be found: {}", error.doing);
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
            if relation::is_kin(examination.relation) || at + 1 == asked.len() {
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
        revision: Option<&str>,
        meter: &Arc<Meter>,
    ) -> Result<Candidate> {
        let hub = hub::of(id, &self.environment)?;
        let by_commit = hub.prefix() == "hf";
        let commit = facts.commit.as_deref().filter(|_| by_commit);
        let commit = commit.or(revision).unwrap_or(hub.default_revision());
        let listed = Repo::open(&self.client, &hub, &self.environment, &id.name, commit, meter);
        let (repo, facts) = match listed {
            // Pushed to since it was listed: what is there now is examined instead.
            Err(error) if error.kind == ErrorKind::Moved => {
                let now = fetch::info(&self.client, hub.as_ref(), &id.name, None, meter)?;
                let commit = now.commit.clone().unwrap_or_else(|| hub.default_revision().to_owned());
                (Repo::open(&self.client, &hub, &self.environment, &id.name, &commit, meter)?, now)
            }
            other => (other?, facts.clone()),
        };
        let claim = self.claims(hub.as_ref(), &repo, &facts, base, meter)?;
        let small = small_files(&repo, hub.as_ref(), &facts, meter)?;
        let listed = repo.files().iter().map(|file| (file.path.as_str(), file.bytes));
        let closed = facts.access == Access::Gated && hub.credentials().is_empty();
        let directions = if closed { Directions::default() } else { Directions::read(&small) };
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
    ) -> Result<claim::Resolved> {
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
    fn against(&self, candidate: &Candidate, base: &Arc<Base>, meter: &Arc<Meter>) -> Result<Examination> {
        let mut account = Account::default();
        let mut anomalies = if candidate.closed { Vec::new() } else { checkpoint::surroundings(&candidate.small) };
        for (name, reason) in candidate.directions.unread() {
            account.gap(name, format!("{reason}; it may name other weights"));
        }
        let models = self.others(candidate, base, meter, &mut account, &mut anomalies)?;
        let parts: Vec<Part<'_>> = (candidate.chosen.iter().map(|variant| Part::of(candidate, variant, false)))
            .chain(candidate.further.iter().chain(&models).map(|variant| Part::of(candidate, variant, true)))
            .collect();
        let several = parts.len() > 1;
        let mut examinations: Vec<Examination> = Vec::new();
        let mut seen: Vec<(BTreeSet<Digest>, &str)> = Vec::new();
        let mut before = meter.totals().weight_bytes;
        for part in &parts {
            let variant = part.variant;
            let digests: Option<BTreeSet<Digest>> = part.files.iter().map(|file| file.sha256).collect();
            if let Some(digests) = digests.filter(|digests| !digests.is_empty()) {
                if let Some((_, first)) = seen.iter().find(|(known, _)| *known == digests) {
                    account.told(&variant.name, format!("the same bytes as {first}, by SHA-256"));
                    continue;
                }
                seen.push((digests, &variant.name));
            }
            let examined = self.part(part, base, meter);
            let mut examination = match examined {
                Ok(examination) => examination,
                // What is no fault of this one checkpoint ends all.
                Err(error) if !several || is_of_all(error.kind) || self.night.was_refused() => return Err(error),
                Err(error) => {
                    let mut failed = record::failed(self.stages.tool(), Side::default(), Side::default(), &error);
                    failed.anomalies = self.imports(part, meter);
                    failed
                }
            };
            let format = examination.candidate.format.as_deref().unwrap_or(variant.format());
            let mut side = record::side_of_repo(&candidate.repo, Some(format));
            if several {
                side.variant = Some(variant.name.clone());
                side.files.retain(|file| variant.files.contains(&file.name));
                side.digest = Side::digest_of(&side.files);
            }
            if examination.surroundings.is_empty() {
                examination.surroundings = self.surroundings(candidate, base, None);
            }
            (examination.base, examination.candidate) = (base.side.clone(), side);
            examination.tool = self.stages.tool();
            // Whether it holds is for the judge to say.
            examination.claim = Some(candidate.claim.claim.clone());
            let read = meter.totals().weight_bytes;
            examination.coverage.bytes_read = read - before;
            before = read;
            examinations.push(examination);
        }
        if let Some(first) = examinations.first_mut() {
            // What is odd about the repository is told with the checkpoint that is looked at first.
            first.anomalies.extend(anomalies);
            first.anomalies.sort();
            first.anomalies.dedup();
        }
        let format = examinations.first().and_then(|examination| examination.candidate.format.clone());
        let whole = record::side_of_repo(&candidate.repo, format.as_deref());
        combine(whole, examinations, account, |examination| self.stages.judge(examination))
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{}: nothing was examined", candidate.repo.id())))
    }

    /// What loading a checkpoint's files would import, where it cannot be opened.
    fn imports(&self, part: &Part<'_>, meter: &Arc<Meter>) -> Vec<Anomaly> {
        let mut set = FileSet::default();
        for file in &part.files {
            if let Ok(source) = part.repo().source(file, meter) {
                set.files.insert(file.path.clone(), source);
            }
        }
        let names: Vec<&str> = set.files.keys().map(String::as_str).collect();
        aside::imports(&set, &names)
    }

    /// Accounts for the weight files that are part of no checkpoint; those that turn out to be one come back.
    fn others(
        &self,
        candidate: &Candidate,
        base: &Arc<Base>,
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

    /// One checkpoint of a repository against a base: hashes first, then deeper.
    fn part(&self, part: &Part<'_>, base: &Arc<Base>, meter: &Arc<Meter>) -> Result<Examination> {
        let candidate = part.candidate;
        let _turn = turn::Scope::begin();
        let blank = || record::blank(self.stages.tool(), Side::default(), Side::default());
        if let Some(relation) = same_files(&part.files, base) {
            let mut examination = blank();
            examination.relation = relation;
            (examination.verdict, examination.because) = verdict::of_same_files(relation);
            return Ok(examination);
        }
        if self.settings.depth == Depth::Hashes {
            let mut examination = blank();
            examination.because = "the weight files are not the base's; only hashes were compared".to_owned();
            return Ok(examination);
        }
        if candidate.closed {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("{}: gated, its files differ from the base's, and no token is set", candidate.repo.id()),
            ));
        }
        let mut examination = self.deeper(part, base, meter)?;
        for contradiction in &candidate.claim.contradictions {
            let differ = Anomaly::new(anomaly::CLAIMS_DIFFER, "README.md", None, contradiction);
            examination.anomalies.push(differ);
        }
        Ok(examination)
    }

    /// Depths two and three.
    fn deeper(&self, part: &Part<'_>, base: &Arc<Base>, meter: &Arc<Meter>) -> Result<Examination> {
        let on_disk = part.files.iter().all(|file| part.repo().on_disk(file).is_some());
        let to_full = self.goes_to_full();
        if to_full && (on_disk || self.settings.escalate == Escalate::Always) {
            return self.full(part, base, meter);
        }
        let opened = part.variant.open(&self.files(part, base, meter, false)?)?;
        let around = self.surroundings(part.candidate, base, Some(&opened));
        let examination = self.opened(part, base, opened, meter)?;
        Ok(Examination { surroundings: around, ..examination })
    }

    /// What comes beside the weights, held against what comes beside the base's. Small files whose contents the hub tells to be the base's are
    /// not asked for.
    fn surroundings(&self, candidate: &Candidate, base: &Base, opened: Option<&Checkpoint>) -> Vec<Surrounding> {
        if candidate.closed {
            return Vec::new();
        }
        let listed = record::contents_of(&candidate.repo);
        let none = BTreeMap::new();
        let counted =
            hub::of(candidate.repo.id(), &self.environment).is_ok_and(|hub| hub.counts_as_download("config.json"));
        let mut own = Around::of(&base.around, &base.checkpoint, &base.listed);
        let mut theirs = Around {
            files: &candidate.small,
            config: opened.map_or(&candidate.facts.config, |opened| &opened.config),
            metadata: opened.map_or(&none, |opened| &opened.metadata),
            has_whole_config: opened.is_some_and(|opened| opened.format != "gguf"),
            listed: &listed,
        };
        if counted {
            // The hub tells an extract of it.
            own.has_whole_config = false;
            theirs.has_whole_config = false;
        }
        surroundings::compare(&own, &theirs)
    }

    /// Whether what a first look leaves open is read whole.
    fn goes_to_full(&self) -> bool {
        self.settings.depth == Depth::Full && self.settings.escalate != Escalate::Never
    }

    /// The same of a checkpoint whose headers were read.
    fn opened(&self, part: &Part<'_>, base: &Arc<Base>, opened: Checkpoint, meter: &Arc<Meter>) -> Result<Examination> {
        let to_full = self.goes_to_full();
        if needs_settling(&base.checkpoint, &opened)? {
            // An adapter's tensors have no counterparts: it is judged as the weights that it makes of the base.
            if to_full {
                return self.full(part, base, meter);
            }
            let doing = format!("screening {}: it is an adapter or has one beside its weights", opened.label);
            return Err(Error::new(ErrorKind::Unsupported, format!("{doing}, which only a full examination applies")));
        }
        let pairing = self.stages.pair(&base.checkpoint, &opened)?;
        if structural::fit(&pairing) == structural::Fit::Not {
            let mut examination = record::blank(self.stages.tool(), base.side.clone(), Side::default());
            examination.depth = Depth::Screen;
            examination.candidate.format = Some(opened.format.to_owned());
            examination.because = format!(
                "{} of the base's {} tensors have a counterpart of the same shape: the claimed base does not fit",
                pairing.pairs.len(),
                pairing.pairs.len() + pairing.only_base.len()
            );
            examination.anomalies = opened.anomalies;
            return Ok(examination);
        }
        let size: u64 = part.files.iter().map(|file| file.bytes).sum();
        let budget = (size as f64 * self.settings.screen_share) as u64;
        let screening = match screening::run(base, &opened, &pairing, budget) {
            Ok(screening) => screening,
            // Reading each of a dozen quantisations whole is for who asks for it.
            Err(error) if error.kind == ErrorKind::Unsupported && to_full && !part.further => {
                return self.full(part, base, meter);
            }
            Err(error) if error.kind == ErrorKind::Unsupported && part.further => {
                let why = format!("{}; --all-variants reads it whole", error.one_line());
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            Err(error) => return Err(error),
        };
        let mut examination = record::blank(self.stages.tool(), Side::default(), Side::default());
        screening::describe(&screening, &opened, &pairing, &mut examination);
        Account::of_pairing(&pairing).enter(&mut examination);
        if !to_full || screening.screened.decision == Decision::Clear {
            return Ok(examination);
        }
        let deeper = match self.writers(part, base, &opened, &pairing, &screening, meter) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => self.full(part, base, meter),
            Err(error) => Err(error),
        };
        match deeper {
            Ok(found) => Ok(found),
            // The screen stands where there is no budget for more, and says so.
            Err(error) if error.kind == ErrorKind::Budget && !self.night.was_refused() => {
                let mut account = Account::default();
                account.gap("*", format!("not looked at deeper: {}", error.one_line()));
                account.enter(&mut examination);
                Ok(examination)
            }
            Err(error) => Err(error),
        }
    }

    /// Depth three, first half: the writers alone, a third of the bytes. `None` where that would save nothing or does
    /// not decide.
    fn writers(
        &self,
        part: &Part<'_>,
        base: &Arc<Base>,
        opened: &Checkpoint,
        pairing: &Pairing,
        screening: &Screening,
        meter: &Arc<Meter>,
    ) -> Result<Option<Examination>> {
        let changed = screening.screened.changed > 0 || screening.of("writers").changed > 0;
        let pairs: Vec<_> = pairing.pairs.iter().filter(|pair| pair.role.kind == Kind::Writer).collect();
        let wanted: BTreeSet<&str> = pairs.iter().map(|pair| pair.candidate.tensor.as_str()).collect();
        let of_base: BTreeSet<&str> = pairs.iter().map(|pair| pair.base.tensor.as_str()).collect();
        let mut subset = opened.clone();
        subset.tensors.retain(|name, _| wanted.contains(name.as_str()));
        let plain = subset.tensors.values().all(|entry| matches!(entry.storage, checkpoint::Storage::Plain));
        if !changed || !plain || subset.bytes() * 10 > opened.bytes() * 7 {
            return Ok(None);
        }
        let mut kept = Vec::new();
        for (at, file) in subset.files.iter_mut().enumerate() {
            let Some(listed) = part.repo().file(&file.name) else { return Ok(None) };
            let ranges: Vec<_> =
                subset.tensors.values().filter(|entry| entry.file == at).map(|entry| entry.range.clone()).collect();
            if ranges.is_empty() || part.repo().on_disk(listed).is_some() {
                continue;
            }
            let sparse = part.repo().partial(listed, &ranges, meter)?;
            file.source = Arc::new(Mmap::open(sparse.path(), file.name.clone())?);
            kept.push(sparse);
        }
        let mut old = base.checkpoint.clone();
        old.tensors.retain(|name, _| of_base.contains(name.as_str()));
        let mut examination = self.stages.compare(&old, &subset)?;
        if examination.verdict == Verdict::Inconclusive {
            return Ok(None);
        }
        Account::of_pairing(pairing).enter(&mut examination);
        let left = pairing.pairs.len() - pairs.len();
        if left > 0 {
            examination.coverage.tensors += left as u64;
            examination.coverage.not_examined.push(NotExamined {
                tensor: "*".to_owned(),
                reason: format!("{left} tensors that do not write to the residual stream were sampled, not read"),
            });
        }
        examination.relation =
            relation::of_writers(examination.relation, examination.profile.as_ref(), screening.of("readers"));
        Ok(Some(examination))
    }

    /// Depth three: everything.
    fn full(&self, part: &Part<'_>, base: &Arc<Base>, meter: &Arc<Meter>) -> Result<Examination> {
        let opened = part.variant.open(&self.files(part, base, meter, true)?)?;
        let mut examination = self.stages.compare(&base.checkpoint, &opened)?;
        examination.candidate.format = Some(opened.format.to_owned());
        examination.surroundings = self.surroundings(part.candidate, base, Some(&opened));
        Ok(examination)
    }

    /// The candidate's files: whole on this machine, or by range.
    fn files(&self, part: &Part<'_>, base: &Arc<Base>, meter: &Arc<Meter>, whole: bool) -> Result<FileSet> {
        let repo = part.repo();
        let hub = hub::of(repo.id(), &self.environment)?;
        let mut set = FileSet { label: repo.id().to_string(), ..FileSet::default() };
        if whole {
            let (missing, doing) = (repo.missing(&part.files), format!("downloading {}", repo.id()));
            meter.allow(missing, &doing)?;
            self.client.make_sure_of_room(missing, &doing)?;
        }
        for file in &part.files {
            let source: Arc<dyn ByteSource> = if whole {
                Arc::new(Mmap::open(&repo.download(file, meter)?, file.path.clone())?)
            } else {
                repo.source(file, meter)?
            };
            set.files.insert(file.path.clone(), source);
            if let Some(sha256) = file.sha256 {
                set.digests.insert(file.path.clone(), sha256);
            }
        }
        for (name, source) in &part.candidate.small.files {
            let given = name == "config.json" && hub.counts_as_download(name);
            let source: Arc<dyn ByteSource> = if given {
                let config = configuration(&part.candidate.facts.config, &base.checkpoint.config);
                Arc::new(Bytes::new("config.json", config.to_string()))
            } else {
                source.clone()
            };
            // What an index names as weights is weights whatever its ending.
            set.files.entry(name.clone()).or_insert(source);
        }
        Ok(set)
    }
}

/// The small files of a repository that say what its weights are, each fetched when it is first read. A `config.json` that
/// would count as a download is the one that the hub's listing tells.
fn small_files(repo: &Repo, hub: &dyn Hub, facts: &RepoInfo, meter: &Arc<Meter>) -> Result<FileSet> {
    let mut set = FileSet { label: repo.id().to_string(), ..FileSet::default() };
    for file in repo.files() {
        let wanted = record::is_wanted(&file.path) && !record::is_weights(&file.path) || file.path.ends_with(".py");
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

/// The hub's reading of a `config.json` that is not asked for, filled up from the base's where both are of one type.
fn configuration(hub: &Value, base: &Value) -> Value {
    let kind = |value: &Value| value.get("model_type").and_then(Value::as_str).map(str::to_owned);
    match (hub, base) {
        (Value::Object(said), Value::Object(own)) if kind(hub).is_none() || kind(hub) == kind(base) => {
            let mut merged = own.clone();
            // How weights are stored is the candidate's own matter.
            merged.remove("quantization_config");
            merged.extend(said.clone());
            Value::Object(merged)
        }
        (Value::Object(_), _) => hub.clone(),
        _ => base.clone(),
    }
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

/// Depth one: the same weight files as one of the base's checkpoints, by SHA-256, under the same names or others.
fn same_files(files: &[hub::RepoFile], base: &Base) -> Option<Relation> {
    let ours = files
        .iter()
        .map(|file| Some((file.sha256?, file.bytes, file.path.as_str())))
        .collect::<Option<Contents<'_>>>()?;
    if ours.is_empty() {
        return None;
    }
    let listed: BTreeMap<&str, (u64, Option<Digest>)> =
        base.weights.iter().map(|(name, bytes, sha256)| (name.as_str(), (*bytes, *sha256))).collect();
    // The base's indexes are not asked: what has the same digests as some of its files together is those files.
    let variants = variants::contents(listed.iter().map(|(name, (bytes, _))| (*name, *bytes)), &Directions::default());
    variants.variants.iter().find_map(|variant| {
        let theirs = (variant.files.iter())
            .map(|name| listed.get(name.as_str()).and_then(|(bytes, sha256)| Some(((*sha256)?, *bytes, name.as_str()))))
            .collect::<Option<Contents<'_>>>()?;
        relation::of_same_files(&theirs, &ours)
    })
}
