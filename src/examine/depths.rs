//! One checkpoint of a repository against a base, at three depths, cheapest first: hashes, a screen of a few rows, the
//! weights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::base::OpenedBase;
use super::repository::Candidate;
use super::screening::{self, Screening};
use super::settings::Escalate;
use super::variants::CandidateVariant;
use super::{Examiner, measure, sides};
use crate::arch::Kind;
use crate::checkpoint::variants::{self, LoadingHints};
use crate::checkpoint::{self, Anomaly, Checkpoint, FileSet, anomaly, pack, turn};
use crate::claim::structural;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::surroundings::{self, Around, Surrounding};
use crate::examination::{Depth, Examination, NotExamined, Relation, Side, Verdict};
use crate::hub::{self, Meter, RepoFile};
use crate::ids::Digest;
use crate::judge::account::Account;
use crate::judge::relation::{self, WeightFiles};
use crate::judge::{self, verdict};
use crate::overlay::needs_settling;
use crate::pair::{self, Pairing};
use crate::profile::names;
use crate::screen::ScreenDecision;
use crate::source::{ByteSource, Bytes, mmap::Mmap};

/// One checkpoint with its repository and the files that are its own.
struct Look<'a> {
    candidate: &'a Candidate,
    part: &'a CandidateVariant,
    files: Vec<RepoFile>,
    base: &'a Arc<OpenedBase>,
    meter: &'a Arc<Meter>,
}

impl Examiner {
    /// Hashes first, then deeper.
    pub(super) fn look(
        &self,
        candidate: &Candidate,
        part: &CandidateVariant,
        base: &Arc<OpenedBase>,
        meter: &Arc<Meter>,
    ) -> Result<Examination> {
        let _turn = turn::Scope::begin();
        let look = Look { candidate, part, files: candidate.files_of(&part.variant), base, meter };
        let blank = || Examination::blank(Side::default(), Side::default());
        if let Some(relation) = same_files(&look.files, base) {
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
        let mut examination = self.deeper(&look)?;
        for contradiction in &candidate.claim.contradictions {
            let differ = Anomaly::new(anomaly::CLAIMS_DIFFER, "README.md", None, contradiction);
            examination.anomalies.push(differ);
        }
        Ok(examination)
    }

    /// Depths two and three.
    fn deeper(&self, look: &Look<'_>) -> Result<Examination> {
        let on_disk = look.files.iter().all(|file| look.candidate.repo.on_disk(file).is_some());
        let to_full = self.goes_to_full();
        if to_full && (on_disk || self.settings.escalate == Escalate::Always) {
            return self.full(look);
        }
        let opened = look.part.variant.open(&self.files(look, false)?)?;
        pack::refuse(&opened)?;
        let around = self.surroundings(look.candidate, look.base, Some(&opened));
        let examination = self.opened(look, opened)?;
        Ok(Examination { surroundings: around, ..examination })
    }

    /// What comes beside the weights, held against what comes beside the base's. Small files whose contents the hub
    /// tells to be the base's are not asked for.
    pub(super) fn surroundings(
        &self,
        candidate: &Candidate,
        base: &OpenedBase,
        opened: Option<&Checkpoint>,
    ) -> Vec<Surrounding> {
        if candidate.closed {
            return Vec::new();
        }
        let listed = sides::contents_of(&candidate.repo);
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
    fn opened(&self, look: &Look<'_>, opened: Checkpoint) -> Result<Examination> {
        let to_full = self.goes_to_full();
        if needs_settling(&look.base.checkpoint, &opened)? {
            // An adapter's tensors have no counterparts: it is judged as the weights that it makes of the base.
            if to_full {
                return self.full(look);
            }
            let doing = format!("screening {}: it is an adapter or has one beside its weights", opened.label);
            return Err(Error::new(ErrorKind::Unsupported, format!("{doing}, which only a full examination applies")));
        }
        let pairing = pair::pair(&look.base.checkpoint, &opened);
        if structural::fit(&pairing) == structural::ShapeFit::Not {
            let mut examination = Examination::blank(look.base.side.clone(), Side::default());
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
        let size: u64 = look.files.iter().map(|file| file.bytes).sum();
        let budget = (size as f64 * self.settings.screen_share) as u64;
        let screening = match screening::run(look.base, &opened, &pairing, budget) {
            Ok(screening) => screening,
            // Reading each of a dozen quantisations whole is for who asks for it.
            Err(error) if error.kind == ErrorKind::Unsupported && to_full && !look.part.further => {
                return self.full(look);
            }
            Err(error) if error.kind == ErrorKind::Unsupported && look.part.further => {
                let why = format!("{}; --all-variants reads it whole", error.one_line());
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            Err(error) => return Err(error),
        };
        let mut examination = Examination::blank(Side::default(), Side::default());
        screening::describe(&screening, &opened, &pairing, &mut examination);
        Account::of_pairing(&pairing).enter(&mut examination);
        if !to_full || screening.screened.decision == ScreenDecision::Clear {
            return Ok(examination);
        }
        let deeper = match self.writers(look, &opened, &pairing, &screening) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => self.full(look),
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
        look: &Look<'_>,
        opened: &Checkpoint,
        pairing: &Pairing,
        screening: &Screening,
    ) -> Result<Option<Examination>> {
        let changed = screening.screened.changed > 0 || screening.of(names::SCREEN_WRITERS_CHANGED_SHARE).changed > 0;
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
            let Some(listed) = look.candidate.repo.file(&file.name) else { return Ok(None) };
            let ranges: Vec<_> =
                subset.tensors.values().filter(|entry| entry.file == at).map(|entry| entry.range.clone()).collect();
            if ranges.is_empty() || look.candidate.repo.on_disk(listed).is_some() {
                continue;
            }
            let sparse = look.candidate.repo.partial(listed, &ranges, look.meter)?;
            file.source = Arc::new(Mmap::open(sparse.path(), file.name.clone())?);
            kept.push(sparse);
        }
        let mut old = look.base.checkpoint.clone();
        old.tensors.retain(|name, _| of_base.contains(name.as_str()));
        let mut examination = measure(&old, &subset, self.observer.as_ref())?;
        if judge::foresee(&examination, &self.catalogue) == Verdict::Inconclusive {
            return Ok(None);
        }
        Account::of_pairing(pairing).enter(&mut examination);
        let left = pairing.pairs.len() - pairs.len();
        if left > 0 {
            examination.coverage.tensors += left as u64;
            // That every writer is the base rounded says nothing of what was not read.
            if let Some(profile) = &mut examination.profile
                && let Some(unaccounted) = profile.number(names::ROUNDING_UNACCOUNTED)
            {
                profile.model.put(names::ROUNDING_UNACCOUNTED, unaccounted + left as f64);
            }
            examination.coverage.not_examined.push(NotExamined {
                tensor: "*".to_owned(),
                reason: format!("{left} tensors that do not write to the residual stream were sampled, not read"),
            });
        }
        examination.relation = relation::of_writers(
            examination.relation,
            examination.profile.as_ref(),
            screening.of(names::SCREEN_READERS_CHANGED_SHARE),
        );
        Ok(Some(examination))
    }

    /// Depth three: everything.
    fn full(&self, look: &Look<'_>) -> Result<Examination> {
        let opened = look.part.variant.open(&self.files(look, true)?)?;
        let mut examination = measure(&look.base.checkpoint, &opened, self.observer.as_ref())?;
        examination.candidate.format = Some(opened.format.to_owned());
        examination.surroundings = self.surroundings(look.candidate, look.base, Some(&opened));
        Ok(examination)
    }

    /// The candidate's files: whole on this machine, or by range.
    fn files(&self, look: &Look<'_>, whole: bool) -> Result<FileSet> {
        let repo = &look.candidate.repo;
        let hub = hub::of(repo.id(), &self.environment)?;
        let mut set = FileSet { label: repo.id().to_string(), ..FileSet::default() };
        if whole {
            let (missing, doing) = (repo.missing(&look.files), format!("downloading {}", repo.id()));
            look.meter.allow(missing, &doing)?;
            self.client.make_sure_of_room(missing, &doing)?;
        }
        for file in &look.files {
            let source: Arc<dyn ByteSource> = if whole {
                Arc::new(Mmap::open(&repo.download(file, look.meter)?, file.path.clone())?)
            } else {
                repo.source(file, look.meter)?
            };
            set.files.insert(file.path.clone(), source);
            if let Some(sha256) = file.sha256 {
                set.digests.insert(file.path.clone(), sha256);
            }
        }
        for (name, source) in &look.candidate.small.files {
            let given = name == "config.json" && hub.counts_as_download(name);
            let source: Arc<dyn ByteSource> = if given {
                let config = configuration(&look.candidate.facts.config, &look.base.checkpoint.config);
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

/// Depth one: the same weight files as one of the base's checkpoints, by SHA-256, under the same names or others.
fn same_files(files: &[RepoFile], base: &OpenedBase) -> Option<Relation> {
    let ours = files
        .iter()
        .map(|file| Some((file.sha256?, file.bytes, file.path.as_str())))
        .collect::<Option<WeightFiles<'_>>>()?;
    if ours.is_empty() {
        return None;
    }
    let listed: BTreeMap<&str, (u64, Option<Digest>)> =
        base.weights.iter().map(|(name, bytes, sha256)| (name.as_str(), (*bytes, *sha256))).collect();
    // The base's indexes are not asked: what has the same digests as some of its files together is those files.
    let variants =
        variants::contents(listed.iter().map(|(name, (bytes, _))| (*name, *bytes)), &LoadingHints::default());
    variants.variants.iter().find_map(|variant| {
        let theirs = (variant.files.iter())
            .map(|name| listed.get(name.as_str()).and_then(|(bytes, sha256)| Some(((*sha256)?, *bytes, name.as_str()))))
            .collect::<Option<WeightFiles<'_>>>()?;
        relation::of_same_files(&theirs, &ours)
    })
}
