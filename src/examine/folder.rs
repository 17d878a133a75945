//! A folder of this machine as a set of forms: every checkpoint in it against the base, one verdict over all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::aside::{self, Aside};
use super::sides::{self, Named};
use super::variants::{self as loops, CandidateVariant, Holder};
use super::{ExaminationContext, measure};
use crate::checkpoint::files::{is_small, is_weights};
use crate::checkpoint::variants::{self, LoadingHints, Variant};
use crate::checkpoint::{self, Anomaly, Checkpoint, FileSet, anomaly};
use crate::claim;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::surroundings::{self, Around, Surrounding};
use crate::examination::{Depth, Examination, FileDigest, Side};
use crate::ids::Digest;
use crate::judge;
use crate::judge::account::Account;
use crate::source::is_same;

/// The base's checkpoint, and those of its other forms that a candidate's asked for.
pub struct FolderBase {
    named: Named,
    /// How records name it, where that is more than its files on this machine tell.
    side: Option<Side>,
    files: FileSet,
    checkpoint: Arc<Checkpoint>,
    variants: Vec<Variant>,
    opened: BTreeMap<String, Arc<Checkpoint>>,
}

impl FolderBase {
    /// Opens the base: the checkpoint that loaders would take.
    pub fn open(named: Named, files: FileSet) -> Result<Self> {
        let variants = variants::of_files(&files);
        let checkpoint = Arc::new(checkpoint::open(&files)?);
        Ok(Self { named, side: None, files, checkpoint, variants, opened: BTreeMap::new() })
    }

    /// A base of a run, opened already in one form, with the small files around it.
    pub fn opened(base: &super::base::OpenedBase) -> Self {
        let named = Named { source: base.side.source.clone(), revision: base.side.revision.clone() };
        Self {
            named,
            side: Some(base.side.clone()),
            files: base.around.clone(),
            checkpoint: Arc::new(base.checkpoint.clone()),
            variants: variants::of_files(&base.around),
            opened: BTreeMap::new(),
        }
    }

    /// Whether the base has this file of a candidate, under the same name and with the same bytes.
    fn has_file(&self, files: &FileSet, name: &str) -> bool {
        let both = files.files.get(name).zip(self.files.files.get(name));
        both.is_some_and(|(theirs, own)| is_same(theirs.as_ref(), own.as_ref()))
    }

    /// This one as a side, as compared with in one of its forms.
    fn side(&self, like: &Checkpoint, digests: bool) -> Result<Side> {
        match &self.side {
            Some(side) => Ok(side.clone()),
            None => sides::of_checkpoint(like, &self.named, digests),
        }
    }

    /// What comes beside the weights of one checkpoint, held against what comes beside this one.
    fn surroundings(&self, like: &Checkpoint, files: &FileSet, opened: &Checkpoint) -> Vec<Surrounding> {
        let none = BTreeMap::new();
        surroundings::compare(&Around::of(&self.files, like, &none), &Around::of(files, opened, &none))
    }

    /// What a candidate's variant is compared with: the base's checkpoint of the same name and format (the same
    /// quantisation, the same part of a pipeline) where both have it, as an untouched tensor is then the same bit for
    /// bit; otherwise the base's own checkpoint.
    fn like(&mut self, variant: &Variant) -> Arc<Checkpoint> {
        let is_like = |own: &&Variant| own.name == variant.name && own.format() == variant.format();
        let first = self.variants.first().map(|first| first.name.clone());
        let same = self
            .variants
            .iter()
            .find(is_like)
            .filter(|own| own.format() != "adapter" && Some(&own.name) != first.as_ref());
        let Some(same) = same else { return self.checkpoint.clone() };
        if let Some(opened) = self.opened.get(&same.name) {
            return opened.clone();
        }
        match same.open(&self.files) {
            Ok(opened) => {
                let opened = Arc::new(opened);
                self.opened.insert(same.name.clone(), opened.clone());
                opened
            }
            // A copy that cannot be read is no worse than one that is not there.
            Err(_) => self.checkpoint.clone(),
        }
    }
}

/// Examines every checkpoint that the candidate's folder holds, and accounts for each of its weight files. A variant
/// that cannot be opened is a failed examination of its own.
pub fn examine(
    base: &mut FolderBase,
    files: &FileSet,
    named: &Named,
    settings: &ExaminationContext<'_>,
) -> Result<Examination> {
    let directions = LoadingHints::read(files);
    let contents = variants::contents_of(files, &directions);
    let mut folder = Folder { base, files, named, settings, around: Vec::new(), sides: None };
    if contents.variants.is_empty() && contents.others.is_empty() {
        // No name tells what it is; the first bytes may.
        return folder.nameless();
    }
    let mut account = Account::default();
    let mut anomalies = checkpoint::surroundings(files);
    for (name, reason) in &files.refused {
        anomalies.push(Anomaly::new(anomaly::NOT_OPENED, name, None, reason));
        if !is_small(name) {
            account.gap(name, reason);
        }
    }
    for (name, reason) in directions.unread() {
        account.gap(name, format!("{reason}; it may name other weights"));
    }
    let mut chosen = contents.variants;
    for other in &contents.others {
        if folder.base.has_file(files, &other.name) {
            account.told(&other.name, "the base's own file, byte for byte");
            continue;
        }
        let (aside, odd) = aside::look(&folder.base.checkpoint, files, other);
        anomalies.extend(odd);
        match aside {
            Aside::Stranger(why) => account.told(&other.name, why),
            Aside::Unknown(why) => account.gap(&other.name, why),
            Aside::Model(variant) => chosen.push(*variant),
        }
    }
    let parts: Vec<CandidateVariant> =
        chosen.into_iter().map(|variant| CandidateVariant { variant, further: false }).collect();
    loops::examine(&mut folder, &parts, account, anomalies, settings.catalogue)?.ok_or_else(|| {
        let unread: Vec<&str> = contents.others.iter().map(|other| other.name.as_str()).collect();
        let what = contents.others.first().map_or("", |other| other.what);
        let doing = format!("opening {}: no weights that are read; {} is {what}", named.source, unread.join(", "));
        Error::new(ErrorKind::Unsupported, doing)
    })
}

/// The record of a folder that could not be examined.
pub fn failed(base: &Named, candidate: &Named, error: &Error, settings: &ExaminationContext<'_>) -> Examination {
    let mut failed = Examination::failed(base.side(), candidate.side(), error);
    failed.depth = Depth::Full;
    failed.claim.clone_from(&settings.claim);
    judge::judge(&mut failed, settings.catalogue);
    failed
}

/// What a folder's files say of its lineage, with the metadata of the weights that are looked at first: what cannot be
/// opened says nothing here, and is told later.
pub(super) fn declarations(files: &FileSet) -> Result<claim::Declarations> {
    let first = variants::of_files(files).into_iter().next();
    let opened = first.map_or_else(|| checkpoint::open(files), |first| first.open(files)).ok();
    claim::files::declarations(files, opened.as_ref())
}

/// A candidate's folder beside its base.
struct Folder<'a> {
    base: &'a mut FolderBase,
    files: &'a FileSet,
    named: &'a Named,
    settings: &'a ExaminationContext<'a>,
    /// Of the checkpoint in hand: what comes beside its weights.
    around: Vec<Surrounding>,
    /// and both sides; `None` where it could not be opened.
    sides: Option<(Side, Side)>,
}

impl Folder<'_> {
    /// Measures an opened checkpoint, and remembers how both sides are called.
    fn compare(&mut self, like: &Checkpoint, opened: &Checkpoint) -> Result<Examination> {
        let digests = self.settings.digests;
        self.around = self.base.surroundings(like, self.files, opened);
        let examination = measure(like, opened, self.settings.observer)?;
        self.sides = Some((self.base.side(like, digests)?, sides::of_checkpoint(opened, self.named, digests)?));
        Ok(examination)
    }

    /// The whole folder as one checkpoint that no name tells.
    fn nameless(&mut self) -> Result<Examination> {
        let opened = checkpoint::open(self.files)?;
        let mut examination = self.compare(&self.base.checkpoint.clone(), &opened)?;
        self.sign(&mut examination);
        judge::judge(&mut examination, self.settings.catalogue);
        Ok(examination)
    }

    fn sign(&mut self, examination: &mut Examination) {
        (examination.base, examination.candidate) =
            self.sides.take().unwrap_or_else(|| (self.base.named.side(), self.named.side()));
        examination.surroundings = std::mem::take(&mut self.around);
        examination.claim.clone_from(&self.settings.claim);
    }
}

impl Holder for Folder<'_> {
    /// On this machine reading is cheap: every copy is looked at.
    fn digests(&self, _variant: &Variant) -> Option<BTreeSet<Digest>> {
        None
    }

    fn measure(&mut self, part: &CandidateVariant) -> Result<Examination> {
        let like = self.base.like(&part.variant);
        let opened = part.variant.open(self.files)?;
        self.compare(&like, &opened)
    }

    fn failed(&mut self, part: &CandidateVariant, error: Error, _several: bool) -> Result<Examination> {
        self.sides = None;
        let mut failed = Examination::failed(Side::default(), Side::default(), &error);
        failed.depth = Depth::Full;
        let names: Vec<&str> = part.variant.files.iter().map(String::as_str).collect();
        failed.anomalies = aside::imports(self.files, &names);
        Ok(failed)
    }

    fn identify(&mut self, part: &CandidateVariant, several: bool, examination: &mut Examination) -> Result<()> {
        self.sign(examination);
        examination.candidate.format.get_or_insert_with(|| part.variant.format().to_owned());
        if several {
            examination.candidate.variant = Some(part.variant.name.clone());
        }
        Ok(())
    }

    fn whole(&self, examinations: &[Examination]) -> Side {
        whole(self.named, self.files, examinations)
    }
}

/// The folder as one side: every weight file in it, with the digests that are known.
fn whole(named: &Named, files: &FileSet, examinations: &[Examination]) -> Side {
    let known: BTreeMap<&str, &Option<String>> = examinations
        .iter()
        .flat_map(|examination| &examination.candidate.files)
        .map(|file| (file.name.as_str(), &file.sha256))
        .collect();
    // An index may name a file whatever it is called.
    let examined: BTreeSet<&str> = known.keys().copied().collect();
    let listed: Vec<FileDigest> = files
        .files
        .iter()
        .filter(|(name, _)| is_weights(name) || examined.contains(name.as_str()))
        .map(|(name, source)| {
            let listed = || files.digests.get(name).map(Digest::to_string);
            let sha256 = known.get(name.as_str()).and_then(|sha256| (*sha256).clone()).or_else(listed);
            FileDigest { name: name.clone(), bytes: source.len(), sha256 }
        })
        .collect();
    Side {
        source: named.source.clone(),
        revision: named.revision.clone(),
        digest: Side::digest_of(&listed),
        files: listed,
        format: examinations.first().and_then(|examination| examination.candidate.format.clone()),
        variant: None,
    }
}
