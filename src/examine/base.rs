//! Bases: fetched whole once per revision, opened once per run, with the factors that screens reuse.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::files::is_worth_reading;
use crate::checkpoint::{self, Checkpoint, FileSet, folder, turn};
use crate::diff::factor::Factor;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Side;
use crate::hub::fetch::{self, Repo};
use crate::hub::{self, Client, Environment, Meter, RepoFile, stale};
use crate::ids::{Digest, Location, RepoId, Revision};
use crate::index::fingerprints::EnrolledFingerprint;
use crate::kinship;
use crate::limits;
use crate::pair::View;
use crate::source::{Bytes, mmap::Mmap};

use super::sides::{self, Named};

/// Bytes of factors kept in memory; beyond them they are read back from the cache.
const FACTORS_IN_MEMORY: usize = 256 << 20;

/// An opened base.
pub struct OpenedBase {
    /// How it is named in records.
    pub side: Side,
    /// Its weights, on this machine.
    pub checkpoint: Checkpoint,
    /// What the hub says of it, where it was asked.
    pub facts: Option<hub::RepoInfo>,
    /// SHA-256 and length of each weight file, where known.
    pub weights: Vec<(String, u64, Option<Digest>)>,
    /// Its small files.
    pub around: FileSet,
    /// What its files' contents are called on the hub.
    pub listed: BTreeMap<String, String>,
    cache: PathBuf,
    factors: Mutex<(BTreeMap<String, Arc<Factor>>, usize)>,
    enrolled: AtomicBool,
}

impl OpenedBase {
    /// What the index may know the base by, the first time that it is asked for in a run. One of which no fingerprint
    /// can be taken is examined all the same.
    fn unenrolled(&self) -> Option<EnrolledFingerprint> {
        if self.enrolled.swap(true, Ordering::Relaxed) {
            return None;
        }
        let taken = super::fenced(&self.side.source, || kinship::fingerprint(&self.checkpoint)).ok()?;
        let (source, revision) = (self.side.source.clone(), self.side.revision.clone());
        Some(EnrolledFingerprint { source, revision, fingerprint: taken.fingerprint })
    }

    /// The factor of one of its writers: from memory, from the cache, or built and kept.
    pub fn factor(&self, view: &View) -> Result<Arc<Factor>> {
        let name = format!("{}[{}]", view.tensor, view.offset);
        let lock = || self.factors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(factor) = lock().0.get(&name) {
            return Ok(factor.clone());
        }
        let rows = view.rows as usize;
        let path = self.factor_path(&name);
        let stored = path.as_ref().and_then(|path| Factor::from_bytes(&std::fs::read(path).ok()?, rows));
        let factor = match stored {
            Some(factor) => factor,
            None => {
                let factor = Factor::build(rows, view.columns as usize, &mut |first, out: &mut [f32]| {
                    view.decode_rows(&self.checkpoint, first as u64, out)
                })?;
                if let Some(path) = path {
                    // A cache that cannot be written costs time, not the examination.
                    let _ = keep(&path, &factor.to_bytes());
                }
                factor
            }
        };
        let factor = Arc::new(factor);
        let mut held = lock();
        let size = rows * (rows + 3) * 2;
        if held.1 + size <= FACTORS_IN_MEMORY {
            held.1 += size;
            held.0.insert(name, factor.clone());
        }
        Ok(factor)
    }

    /// Keyed by the content of the base, so that another revision never meets it; none where that is not known.
    fn factor_path(&self, name: &str) -> Option<PathBuf> {
        let digest = self.side.digest.as_ref()?;
        let key = Digest::of(format!("{digest}\n{name}").as_bytes()).hex();
        Some(self.cache.join("factors").join(key))
    }
}

/// Writes a cache file whole or not at all.
fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = stale::temporary(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}

/// One base of a run: fetched by the first that asks, while the others wait.
type Slot = Arc<Mutex<Option<Result<Arc<OpenedBase>, (ErrorKind, String)>>>>;

/// The bases of a run.
#[derive(Default)]
pub struct Bases {
    slots: Mutex<BTreeMap<String, Slot>>,
}

impl Bases {
    /// The opened base that records name by this source. One that is being fetched is not the one asked for.
    fn opened(&self, source: &str) -> Option<Arc<OpenedBase>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().find_map(|slot| {
            let held = slot.try_lock().ok()?;
            held.as_ref()?.as_ref().ok().filter(|base| base.side.source == source).cloned()
        })
    }

    /// What the hub says of an opened base, by the source that records name it with.
    pub fn facts(&self, source: &str) -> Option<hub::RepoInfo> {
        self.opened(source)?.facts.clone()
    }

    /// The fingerprint of an opened base, once in a run: behind the first examination against it that is recorded.
    pub fn unenrolled(&self, source: &str) -> Option<EnrolledFingerprint> {
        self.opened(source)?.unenrolled()
    }

    /// The base of that name (`hf:org/name[@revision]`, or a path), opened at its first use. A base that cannot be
    /// opened is not tried again in this run unless the network was to blame, or the disk. Of a base that an upload
    /// claims, no more than `most` bytes are fetched (`TooLarge`): who uploads chooses it.
    pub fn get(
        &self,
        name: &str,
        most: Option<u64>,
        client: &Arc<Client>,
        environment: &Environment,
        meter: &Arc<Meter>,
    ) -> Result<Arc<OpenedBase>> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(name.to_owned()).or_default().clone()
        };
        // Held while the base is fetched: the others that want it wait for it instead of fetching it too.
        let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some(Ok(base)) => return Ok(base.clone()),
            // Too large for an upload to claim is not too large for the user to ask for.
            Some(Err((ErrorKind::TooLarge, _))) if most.is_none() => {}
            Some(Err((kind, doing))) => return Err(Error::new(*kind, doing.clone())),
            None => {}
        }
        match open(name, most, client, environment, meter) {
            Ok(base) => {
                let base = Arc::new(base);
                *held = Some(Ok(base.clone()));
                Ok(base)
            }
            Err(error) => {
                let passing = [ErrorKind::Network, ErrorKind::Interrupted, ErrorKind::Budget, ErrorKind::Io]
                    .contains(&error.kind);
                if !passing {
                    *held = Some(Err((error.kind, error.one_line())));
                }
                Err(error)
            }
        }
    }
}

fn open(
    name: &str,
    most: Option<u64>,
    client: &Arc<Client>,
    environment: &Environment,
    meter: &Arc<Meter>,
) -> Result<OpenedBase> {
    // Bases are opened beside the examinations of others.
    let _turn = turn::Scope::begin();
    let opening = |error: Error| Error { doing: format!("opening the base {name}: {}", error.doing), ..error };
    let (repo, revision) = match name.parse::<Location>()? {
        Location::Hub(repo, revision) => (repo, revision),
        Location::Path(path) => {
            let files = folder::file_set(&path)?;
            let checkpoint = checkpoint::open(&files).map_err(opening)?;
            let weights = checkpoint.files.iter().map(|file| (file.name.clone(), file.source.len(), file.sha256));
            let side = sides::of_checkpoint(&checkpoint, &Named::local(name), false)?;
            return Ok(OpenedBase {
                side,
                facts: None,
                weights: weights.collect(),
                around: files,
                listed: BTreeMap::new(),
                checkpoint,
                cache: client.cache().to_owned(),
                factors: Mutex::default(),
                enrolled: AtomicBool::new(false),
            });
        }
    };
    let meter = &client.meter("this base's", None, Some(meter.clone()));
    let (repo, facts) = open_repo(&repo, revision.as_ref(), client, environment, meter).map_err(opening)?;
    let hub = hub::of(repo.id(), environment)?;
    let mut files = FileSet { label: name.to_owned(), ..FileSet::default() };
    let mut wanted: Vec<&RepoFile> = Vec::new();
    for file in repo.files().iter().filter(|file| sides::is_wanted(&file.path)) {
        if !is_worth_reading(&file.path) && file.bytes > limits::MAX_JSON_BYTES {
            continue;
        }
        // The hub has read the configuration already; asking for the file would count as somebody's download.
        let counted = file.path == "config.json" && hub.counts_as_download(&file.path);
        if counted
            && repo.on_disk(file).is_none()
            && let Some(config) = facts.as_ref().map(|facts| &facts.config).filter(|config| config.is_object())
        {
            files.files.insert(file.path.clone(), Arc::new(Bytes::new(file.path.clone(), config.to_string())));
            continue;
        }
        wanted.push(file);
    }
    // Before the first byte of any of them: a download that cannot end is not begun.
    let missing = repo.missing(wanted.iter().copied());
    if let Some(most) = most.filter(|most| missing > *most) {
        let what = format!("{missing} bytes to fetch, more than the {most} allowed for a base that an upload claims");
        return Err(opening(Error::new(ErrorKind::TooLarge, format!("{what} (--max-base-bytes)"))));
    }
    client.make_sure_of_room(missing, &format!("downloading {}", repo.id())).map_err(opening)?;
    for file in wanted {
        let path = repo.download(file, meter).map_err(opening)?;
        files.files.insert(file.path.clone(), Arc::new(Mmap::open(&path, file.path.clone())?));
        if let Some(sha256) = file.sha256 {
            files.digests.insert(file.path.clone(), sha256);
        }
    }
    let checkpoint = checkpoint::open(&files).map_err(opening)?;
    let weights = repo
        .files()
        .iter()
        .filter(|file| is_worth_reading(&file.path))
        .map(|file| (file.path.clone(), file.bytes, file.sha256))
        .collect();
    let side = sides::of_repository(&repo, Some(checkpoint.format));
    let listed = sides::contents_of(&repo);
    let cache = client.cache().to_owned();
    let (factors, enrolled) = (Mutex::default(), AtomicBool::new(false));
    Ok(OpenedBase { side, facts, checkpoint, weights, around: files, listed, cache, factors, enrolled })
}

/// What a hub says of one repository at a revision, or at its newest when none is named; offline, no more than its
/// name.
pub fn facts(
    id: &RepoId,
    revision: Option<&Revision>,
    client: &Arc<Client>,
    environment: &Environment,
    meter: &Meter,
) -> Result<hub::RepoInfo> {
    let hub = hub::of(id, environment)?;
    if client.settings().offline && !hub.is_here() {
        return Ok(hub::RepoInfo {
            name: id.name.clone(),
            commit: revision.map(ToString::to_string),
            ..hub::RepoInfo::default()
        });
    }
    fetch::info(client, hub.as_ref(), &id.name, revision, meter)
}

/// A repository at its revision, or at the hub's newest when none is named; with the hub's facts where they were asked
/// for.
pub fn open_repo(
    id: &RepoId,
    revision: Option<&Revision>,
    client: &Arc<Client>,
    environment: &Environment,
    meter: &Meter,
) -> Result<(Repo, Option<hub::RepoInfo>)> {
    let hub = hub::of(id, environment)?;
    if client.settings().offline && !hub.is_here() {
        let revision = revision.cloned().unwrap_or_else(|| hub.default_revision());
        return Ok((Repo::open(client, &hub, environment, &id.name, &revision, meter)?, None));
    }
    let info = fetch::info(client, hub.as_ref(), &id.name, revision, meter)?;
    let commit = info.commit.clone().filter(|_| hub.keeps_commits()).map(Revision);
    let asked = commit.or_else(|| revision.cloned()).unwrap_or_else(|| hub.default_revision());
    Ok((Repo::open(client, &hub, environment, &info.name, &asked, meter)?, Some(info)))
}
