//! The signature catalogue: what each pattern of measurements means, as data that can be read, checked and extended.
//!
//! A signature is a file of `signatures/`: range clauses over the named measurements of
//! [`MEASUREMENTS`](crate::profile::names::MEASUREMENTS), examples and counter examples with numbers, and prose for a
//! moderator. The built-in ones are compiled in from [`BUILTIN`]; a user's folder can add more.

pub mod condition;
pub mod file;
pub mod lint;

mod builtin;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

pub use builtin::BUILTIN;
pub use condition::{ClauseOutcome, Condition, Range};
pub use file::{Implies, Signature, SignatureFamily, SignatureStatus};

use crate::error::{Error, ErrorKind, Result};
use crate::examination::Finding;
use crate::ids::Digest;
use crate::limits::{MAX_SIGNATURE_BYTES, MAX_SIGNATURES};
use crate::profile::{GRID_KURTOSIS, Profile};

/// A file of signatures, read but not parsed: its id (the file's name without `.md`) and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The file's name without `.md`.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// The built-in files.
pub fn builtin_files() -> Vec<SourceFile> {
    BUILTIN.iter().map(|(id, text)| SourceFile { id: (*id).to_owned(), text: (*text).to_owned() }).collect()
}

/// The signature files of a folder, by name: every `*.md` but `README.md`.
pub fn folder_files(folder: &Path) -> Result<Vec<SourceFile>> {
    let doing = || format!("reading signatures of {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| Error::io(doing(), error))? {
        let entry = entry.map_err(|error| Error::io(doing(), error))?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".md")) else { continue };
        if id == "README" || !entry.path().is_file() {
            continue;
        }
        let doing = || format!("reading signature {}", entry.path().display());
        let bytes = fs::metadata(entry.path()).map_err(|error| Error::io(doing(), error))?.len();
        if bytes > MAX_SIGNATURE_BYTES || files.len() >= MAX_SIGNATURES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{}: at most {MAX_SIGNATURES} files of {MAX_SIGNATURE_BYTES} bytes are read", doing()),
            ));
        }
        let text = fs::read_to_string(entry.path()).map_err(|error| Error::io(doing(), error))?;
        files.push(SourceFile { id: id.to_owned(), text });
    }
    files.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(files)
}

/// Signatures in the order of their ids.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Catalogue {
    signatures: Vec<Signature>,
}

/// A signature that held, with the numbers that made it hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Held<'a> {
    /// The signature.
    pub signature: &'a Signature,
    /// Every clause, all of them holding.
    pub clauses: Vec<ClauseOutcome>,
}

/// A signature with how each of its clauses fared, whether it holds or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment<'a> {
    /// The signature.
    pub signature: &'a Signature,
    /// Whether all its clauses hold.
    pub holds: bool,
    /// Every clause.
    pub clauses: Vec<ClauseOutcome>,
}

impl Held<'_> {
    /// The clauses as a finding stores them: measurement name to `{"value": …, "min": …, "max": …}`.
    pub fn evidence(&self) -> Value {
        let mut evidence = Map::new();
        for clause in &self.clauses {
            let mut entry = Map::new();
            entry.insert("value".to_owned(), clause.value.map_or(Value::Null, Value::from));
            for (side, bound) in clause.range.bounds() {
                entry.insert(side.as_str().to_owned(), Value::from(bound));
            }
            evidence.insert(clause.measurement.clone(), Value::Object(entry));
        }
        Value::Object(evidence)
    }

    /// The finding of this signature in the examination with that id.
    pub fn finding(&self, examination: &Digest) -> Finding {
        let front = &self.signature.front;
        Finding {
            id: finding_id(examination, &front.id),
            signature: front.id.clone(),
            signature_hash: self.signature.hash().to_string(),
            severity: front.severity,
            status: front.status.as_str().to_owned(),
            evidence: self.evidence(),
        }
    }
}

/// A finding's id: the first 12 hex digits of SHA-256 over the examination's id, a space and the signature's id. It
/// stays the same when the catalogue is judged again.
pub fn finding_id(examination: &Digest, signature: &str) -> String {
    let mut hex = Digest::of(format!("{examination} {signature}").as_bytes()).hex();
    hex.truncate(12);
    hex
}

impl Catalogue {
    /// The built-in signatures.
    pub fn builtin() -> Result<Self> {
        Self::from_files(builtin_files())
    }

    /// The built-in signatures and those of a user's folder.
    pub fn with_folder(folder: &Path) -> Result<Self> {
        let mut files = builtin_files();
        files.extend(folder_files(folder)?);
        Self::from_files(files)
    }

    /// Parses files; a duplicate id, or an id that is not the file's name, is an error.
    pub fn from_files(files: impl IntoIterator<Item = SourceFile>) -> Result<Self> {
        let mut signatures = Vec::new();
        for file in files {
            let signature = Signature::parse(&file.id, &file.text)?;
            if signature.id() != file.id {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("reading signature {}: its id is {:?}, not the file's name", file.id, signature.id()),
                ));
            }
            signatures.push(signature);
        }
        signatures.sort_by(|a, b| a.id().cmp(b.id()));
        if let Some(pair) = signatures.windows(2).find(|pair| pair[0].id() == pair[1].id()) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("loading signatures: the id {:?} is there twice; give yours another name", pair[0].id()),
            ));
        }
        Ok(Self { signatures })
    }

    /// All of them, withdrawn ones too, in the order of ids.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The signature with that id.
    pub fn get(&self, id: &str) -> Option<&Signature> {
        self.signatures.binary_search_by(|signature| signature.id().cmp(id)).ok().and_then(|at| self.signatures.get(at))
    }

    /// SHA-256 over one line `hash  id` for each signature in the order of ids (what `sha256sum` would print, without
    /// `.md`): any change of any text changes it.
    pub fn hash(&self) -> Digest {
        let lines: String = self
            .signatures
            .iter()
            .map(|signature| format!("{}  {}\n", signature.hash().hex(), signature.id()))
            .collect();
        Digest::of(lines.as_bytes())
    }

    /// The signatures that hold, in the order of ids. Withdrawn ones are not judged.
    pub fn judge(&self, profile: &Profile) -> Vec<Held<'_>> {
        self.assess(profile)
            .into_iter()
            .filter(|assessment| assessment.holds)
            .map(|assessment| Held { signature: assessment.signature, clauses: assessment.clauses })
            .collect()
    }

    /// How every signature that is not withdrawn fared, clause by clause: what a report shows as considered.
    pub fn assess(&self, profile: &Profile) -> Vec<Assessment<'_>> {
        let measurements = &with_later(&profile.model);
        self.signatures
            .iter()
            .filter(|signature| signature.front.status != SignatureStatus::Withdrawn)
            .map(|signature| {
                let clauses = signature.front.when.assess(measurements);
                let holds = !clauses.is_empty() && clauses.iter().all(|clause| clause.holds);
                Assessment { signature, holds, clauses }
            })
            .collect()
    }
}

/// The measurements, with `noise.grid` and `rank.ends` where a record of before them has only what decided then (the
/// kurtosis, the share that large values explain): without them, what was found in such a record would be lost when it
/// is judged again.
fn with_later(model: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let mut model = model.clone();
    if let Some(kurtosis) = model.get("noise.kurtosis").copied() {
        model.entry("noise.grid".to_owned()).or_insert(if kurtosis < GRID_KURTOSIS { 1.0 } else { 0.0 });
    }
    if let Some(explained) = model.get("rank.explained").copied() {
        model.entry("rank.ends".to_owned()).or_insert(if explained >= 0.9 { 1.0 } else { 0.0 });
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_before_is_judged_by_what_decided_then() {
        let grid = |kurtosis: f64| with_later(&BTreeMap::from([("noise.kurtosis".to_owned(), kurtosis)]))["noise.grid"];
        assert_eq!([grid(1.85), grid(3.2)], [1.0, 0.0]);
        let measured = BTreeMap::from([("noise.kurtosis".to_owned(), 3.2), ("noise.grid".to_owned(), 1.0)]);
        assert_eq!(with_later(&measured)["noise.grid"], 1.0);
        let ends =
            |explained: f64| with_later(&BTreeMap::from([("rank.explained".to_owned(), explained)]))["rank.ends"];
        assert_eq!([ends(0.95), ends(0.4)], [1.0, 0.0]);
        assert!(with_later(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn builtin_signatures_load_in_the_order_of_their_ids() {
        let catalogue = Catalogue::builtin().unwrap();
        assert_eq!(catalogue.signatures().len(), BUILTIN.len());
        assert!(BUILTIN.windows(2).all(|pair| pair[0].0 < pair[1].0), "BUILTIN is sorted");
        for (id, _) in BUILTIN {
            assert_eq!(catalogue.get(id).map(Signature::id), Some(*id));
        }
        assert!(catalogue.get("no-such").is_none());
    }

    /// Every file of the folder is compiled in, and nothing else.
    #[test]
    fn the_folder_holds_what_is_listed() {
        let files = folder_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("signatures")).unwrap();
        assert_eq!(files, builtin_files());
    }

    #[test]
    fn a_folder_adds_and_a_duplicate_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let text = BUILTIN[0].1.replacen(BUILTIN[0].0, "my-own", 1);
        fs::write(folder.path().join("my-own.md"), &text).unwrap();
        fs::write(folder.path().join("README.md"), "not a signature").unwrap();
        fs::write(folder.path().join("notes.txt"), "not a signature").unwrap();
        let builtin = Catalogue::builtin().unwrap();
        let more = Catalogue::with_folder(folder.path()).unwrap();
        assert_eq!(more.signatures().len(), builtin.signatures().len() + 1);
        assert_ne!(more.hash(), builtin.hash());
        fs::write(folder.path().join(format!("{}.md", BUILTIN[0].0)), BUILTIN[0].1).unwrap();
        let error = Catalogue::with_folder(folder.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.doing.contains(BUILTIN[0].0), "{error}");
    }

    #[test]
    fn hashes_depend_on_text_alone() {
        let files = builtin_files();
        let forward = Catalogue::from_files(files.clone()).unwrap();
        let backward = Catalogue::from_files(files.clone().into_iter().rev()).unwrap();
        assert_eq!(forward.hash(), backward.hash());
        let mut changed = files;
        changed[3].text.push('\n');
        assert_ne!(Catalogue::from_files(changed).unwrap().hash(), forward.hash());
    }

    #[test]
    fn judging_gives_evidence_and_stable_finding_ids() {
        let catalogue = Catalogue::builtin().unwrap();
        let signature = catalogue.get("out-rank1-global").unwrap();
        let profile = Profile {
            model: signature.front.example[0].measurements.clone().into_iter().collect(),
            tensors: Vec::new(),
        };
        let held = catalogue.judge(&profile);
        assert_eq!(held.iter().map(|held| held.signature.id()).collect::<Vec<_>>(), ["out-rank1-global"]);
        let examination = Digest::of(b"an examination");
        let finding = held[0].finding(&examination);
        assert_eq!(finding.id.len(), 12);
        assert_eq!(finding.id, finding_id(&examination, "out-rank1-global"));
        assert_eq!(finding.signature_hash, signature.hash().to_string());
        assert_eq!(finding.evidence["projection.consistency"], serde_json::json!({ "value": 0.998, "min": 0.85 }));
        assert_eq!(catalogue.assess(&profile).len(), catalogue.signatures().len());
        assert!(catalogue.judge(&Profile::default()).is_empty());
    }

    #[test]
    fn withdrawn_signatures_are_kept_but_not_judged() {
        let (id, text) = BUILTIN[0];
        let text = text.replacen("status = \"preview\"", "status = \"withdrawn\"", 1);
        let catalogue = Catalogue::from_files([SourceFile { id: id.to_owned(), text }]).unwrap();
        let profile = Profile {
            model: catalogue.signatures()[0].front.example[0].measurements.clone().into_iter().collect(),
            tensors: Vec::new(),
        };
        assert!(catalogue.judge(&profile).is_empty() && catalogue.get(id).is_some());
    }
}
