//! A folder of this machine as a set of forms: every checkpoint in it against the base, one verdict over all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::account::Account;
use crate::aside::{self, Aside};
use crate::checkpoint::variants::{self, Directions, Variant};
use crate::checkpoint::{self, Anomaly, Checkpoint, FileSet, anomaly};
use crate::combine::combine;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, FileDigest, Side};
use crate::ids::Digest;
use crate::pipeline::{self, Named, Settings};
use crate::source::is_same;
use crate::surroundings::{self, Around, Surrounding};

/// The base's checkpoint, and those of its other forms that a candidate's asked for.
pub struct Base {
    named: Named,
    /// How records name it, where that is more than its files on this machine tell.
    side: Option<Side>,
    files: FileSet,
    checkpoint: Arc<Checkpoint>,
    variants: Vec<Variant>,
    opened: BTreeMap<String, Arc<Checkpoint>>,
}

impl Base {
    /// Opens the base: the checkpoint that loaders would take.
    pub fn open(named: Named, files: FileSet) -> Result<Self> {
        let variants = variants::of_files(&files);
        let checkpoint = Arc::new(checkpoint::open(&files)?);
        Ok(Self { named, side: None, files, checkpoint, variants, opened: BTreeMap::new() })
    }

    /// A base that is opened already, in one form, with the small files around it.
    pub fn opened(side: Side, checkpoint: Arc<Checkpoint>, around: FileSet) -> Self {
        let named = Named { source: side.source.clone(), revision: side.revision.clone() };
        Self { named, side: Some(side), files: around, checkpoint, variants: Vec::new(), opened: BTreeMap::new() }
    }

    /// Whether the base has this file of a candidate, under the same name and with the same bytes.
    fn has_file(&self, files: &FileSet, name: &str) -> bool {
        let both = files.files.get(name).zip(self.files.files.get(name));
        both.is_some_and(|(theirs, own)| is_same(theirs.as_ref(), own.as_ref()))
    }

    /// Compares one checkpoint of the candidate with this one.
    fn compare(&self, like: &Checkpoint, opened: &Checkpoint, named: &Named, settings: &Settings<'_>) -> Examination {
        let mut examination = pipeline::compare((like, &self.named), (opened, named), settings);
        if let Some(side) = &self.side {
            examination.base = side.clone();
        }
        examination
    }

    /// What comes beside the weights of one checkpoint, held against what comes beside this one.
    fn surroundings(&self, like: &Checkpoint, files: &FileSet, opened: &Checkpoint) -> Vec<Surrounding> {
        let none = BTreeMap::new();
        surroundings::compare(&Around::of(&self.files, like, &none), &Around::of(files, opened, &none))
    }

    /// What a candidate's variant is compared with: the base's checkpoint of the same name and format (the same
    /// quantisation, the same part of a pipeline) where both have it, as an untouched tensor is then the same bit for bit;
    /// otherwise the base's own checkpoint.
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

/// Examines every checkpoint that the candidate's folder holds, and accounts for each of its weight files. A variant that
/// cannot be opened is a failed examination of its own.
pub fn examine(base: &mut Base, files: &FileSet, named: &Named, settings: &Settings<'_>) -> Result<Examination> {
    let directions = Directions::read(files);
    let contents = variants::contents_of(files, &directions);
    let judge = |examination: &mut Examination| pipeline::judge(examination, settings.catalogue);
    if contents.variants.is_empty() && contents.others.is_empty() {
        // No name tells what it is; the first bytes may.
        let opened = checkpoint::open(files)?;
        let mut examination = base.compare(&base.checkpoint, &opened, named, settings);
        examination.surroundings = base.surroundings(&base.checkpoint, files, &opened);
        judge(&mut examination);
        return Ok(examination);
    }
    let mut account = Account::default();
    let mut anomalies = checkpoint::surroundings(files);
    for (name, reason) in &files.refused {
        anomalies.push(Anomaly::new(anomaly::NOT_OPENED, name, None, reason));
        if !variants::is_small(name) {
            account.gap(name, reason);
        }
    }
    for (name, reason) in directions.unread() {
        account.gap(name, format!("{reason}; it may name other weights"));
    }
    let mut chosen = contents.variants;
    for other in &contents.others {
        if base.has_file(files, &other.name) {
            account.told(&other.name, "the base's own file, byte for byte");
            continue;
        }
        let (aside, odd) = aside::look(&base.checkpoint, files, other);
        anomalies.extend(odd);
        match aside {
            Aside::Stranger(why) => account.told(&other.name, why),
            Aside::Unknown(why) => account.gap(&other.name, why),
            Aside::Model(variant) => chosen.push(*variant),
        }
    }
    let mut examinations = Vec::new();
    for variant in &chosen {
        let like = base.like(variant);
        let mut around = Vec::new();
        let mut examination = match variant.open(files) {
            Ok(opened) => {
                around = base.surroundings(&like, files, &opened);
                base.compare(&like, &opened, named, settings)
            }
            // One file that cannot be read is no reason to say nothing of the others.
            Err(error) => {
                let mut failed = pipeline::failed(&base.named, named, &error, settings);
                let names: Vec<&str> = variant.files.iter().map(String::as_str).collect();
                failed.anomalies = aside::imports(files, &names);
                failed
            }
        };
        examination.surroundings = around;
        examination.candidate.format.get_or_insert_with(|| variant.format().to_owned());
        if chosen.len() > 1 {
            examination.candidate.variant = Some(variant.name.clone());
        }
        examinations.push(examination);
    }
    let Some(first) = examinations.first_mut() else {
        let unread: Vec<&str> = contents.others.iter().map(|other| other.name.as_str()).collect();
        let what = contents.others.first().map_or("", |other| other.what);
        let doing = format!("opening {}: no weights that are read; {} is {what}", named.source, unread.join(", "));
        return Err(Error::new(ErrorKind::Unsupported, doing));
    };
    // What is odd about the folder is told with the checkpoint that is looked at first.
    first.anomalies.extend(anomalies);
    first.anomalies.sort();
    first.anomalies.dedup();
    let side = whole(named, files, &examinations);
    combine(side, examinations, account, judge)
        .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{}: no variant was examined", named.source)))
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
        .filter(|(name, _)| variants::is_weights(name) || examined.contains(name.as_str()))
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
