//! A folder of this machine as a set of forms: every checkpoint in it against the base, one verdict over all.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::variants::{self, Variant};
use crate::checkpoint::{self, Checkpoint, FileSet};
use crate::combine::{combine, note_left};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::{Examination, FileDigest, Side};
use crate::ids::Digest;
use crate::pipeline::{self, Named, Settings};

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
        let checkpoint = Arc::new(checkpoint::open(&files)?);
        let variants = variants::of_files(&files);
        Ok(Self { named, side: None, files, checkpoint, variants, opened: BTreeMap::new() })
    }

    /// A base that is opened already, in one form.
    pub fn opened(side: Side, checkpoint: Arc<Checkpoint>) -> Self {
        let named = Named { source: side.source.clone(), revision: side.revision.clone() };
        let files = FileSet { label: checkpoint.label.clone(), files: BTreeMap::new(), digests: BTreeMap::new() };
        Self { named, side: Some(side), files, checkpoint, variants: Vec::new(), opened: BTreeMap::new() }
    }

    /// Compares one checkpoint of the candidate with this one.
    fn compare(&self, like: &Checkpoint, opened: &Checkpoint, named: &Named, settings: &Settings<'_>) -> Examination {
        let mut examination = pipeline::compare((like, &self.named), (opened, named), settings);
        if let Some(side) = &self.side {
            examination.base = side.clone();
        }
        examination
    }

    /// What a candidate's variant is compared with: the base in the same quantisation where both have it, as an untouched
    /// tensor is then the same bit for bit; otherwise the base's own checkpoint.
    fn like(&mut self, variant: &Variant) -> Arc<Checkpoint> {
        let gguf = |variant: &&Variant| variant.form.starts_with("gguf");
        let same = self.variants.iter().filter(gguf).find(|own| own.name == variant.name && gguf(&variant));
        let Some(same) = same else { return self.checkpoint.clone() };
        if let Some(opened) = self.opened.get(&same.name) {
            return opened.clone();
        }
        match checkpoint::open(&same.narrow(&self.files)) {
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

/// Examines the candidate's variants, one of each form or `all` of them. A variant that cannot be opened is a failed
/// examination of its own.
pub fn examine(
    base: &mut Base,
    files: &FileSet,
    named: &Named,
    settings: &Settings<'_>,
    all: bool,
) -> Result<Examination> {
    let (chosen, left) = variants::choose(variants::of_files(files), all);
    let several = chosen.len() + left.len() > 1;
    if chosen.is_empty() {
        // No name tells what it is; the first bytes may.
        let opened = checkpoint::open(files)?;
        let mut examination = base.compare(&base.checkpoint, &opened, named, settings);
        pipeline::judge(&mut examination, settings.catalogue);
        return Ok(examination);
    }
    let mut examinations = Vec::new();
    for variant in &chosen {
        let like = base.like(variant);
        let mut examination = match checkpoint::open(&variant.narrow(files)) {
            Ok(opened) => base.compare(&like, &opened, named, settings),
            // One file that cannot be read is no reason to say nothing of the others.
            Err(error) if chosen.len() > 1 => pipeline::failed(&base.named, named, &error, settings),
            Err(error) => return Err(error),
        };
        if chosen.len() == 1 {
            note_left(&mut examination, &left);
        }
        examination.candidate.format.get_or_insert_with(|| variant.format().to_owned());
        if several {
            examination.candidate.variant = Some(variant.name.clone());
        }
        examinations.push(examination);
    }
    // Sides are part of what findings are known by, so this comes after them.
    examinations.iter_mut().for_each(|examination| pipeline::judge(examination, settings.catalogue));
    let side = whole(named, files, &examinations);
    combine(side, examinations, &left)
        .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{}: no variant was examined", named.source)))
}

/// The folder as one side: every weight file in it, with the digests that are known.
fn whole(named: &Named, files: &FileSet, examinations: &[Examination]) -> Side {
    let known: BTreeMap<&str, &Option<String>> = examinations
        .iter()
        .flat_map(|examination| &examination.candidate.files)
        .map(|file| (file.name.as_str(), &file.sha256))
        .collect();
    let listed: Vec<FileDigest> = files
        .files
        .iter()
        .filter(|(name, _)| variants::is_weights(name))
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
