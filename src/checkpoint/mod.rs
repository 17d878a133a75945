//! Opened weights: what tensors there are, where their bytes lie, and what is odd about the files.
//!
//! A header reader lists oddities as [`Anomaly`] values and reads on; only "cannot go on" is an error. Nothing in a
//! checkpoint is ever executed or unpickled, and no name in it leads out of its folder.

pub mod adapter;
pub mod anomaly;
mod assembly;
pub mod bounds;
mod collect;
mod disguise;
pub mod files;
pub mod folder;
pub mod gguf;
mod gguf_names;
mod misnamed;
pub mod pack;
pub mod pickle;
mod quantized;
pub mod safetensors;
pub mod severity;
mod shards;
mod slices;
pub mod turn;
pub mod unread_kinds;
pub mod variants;

pub use anomaly::AnomalyKind;
pub(crate) use collect::Anomalies;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::assembly::{Assembly, FilePart};
use self::files::Written;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::source::ByteSource;
use crate::tensor::levels::{CodedLevel, LevelChoice};
use crate::tensor::{self, DType, DTypeFamily};

/// An oddity of a file: reported, never judged by itself, and never a reason to stop reading.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Anomaly {
    /// The word of one of [`anomaly::ANOMALIES`]; in records of other versions it may be another.
    pub kind: String,
    /// The file it is in.
    pub file: String,
    /// The tensor it is about, if one.
    pub tensor: Option<String>,
    /// One sentence with the numbers.
    pub detail: String,
}

impl Anomaly {
    /// An oddity of a file, or of a tensor in it.
    pub fn new(kind: AnomalyKind, file: impl Into<String>, tensor: Option<String>, detail: impl Into<String>) -> Self {
        Self { kind: kind.word().to_owned(), file: file.into(), tensor, detail: detail.into() }
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: AnomalyKind) -> bool {
        self.kind == kind.word()
    }
}

/// The files of one repository or folder that may hold a checkpoint: names relative to its top, and their bytes.
#[derive(Clone, Default)]
pub struct FileSet {
    /// How the user or the hub names the whole, for messages and the record.
    pub label: String,
    /// Name to bytes. Only files that a format reader may want (weights, indexes, configs, cards), and those that hold
    /// weights in a form that none reads.
    pub files: BTreeMap<String, Arc<dyn ByteSource>>,
    /// SHA-256 of files where it is known without reading them (hub metadata, cache layout).
    pub digests: BTreeMap<String, Digest>,
    /// Files that are there and were not opened, with the reason: links that lead out of the folder, pipes, what may
    /// not be read.
    pub refused: BTreeMap<String, String>,
}

/// How a tensor's elements are stored.
#[derive(Clone)]
pub enum Storage {
    /// Row-major, contiguous, in `TensorEntry::range`, in the entry's own dtype.
    Plain,
    /// By a scheme of its own: codes with scales in sibling tensors, strides, a product of two factors.
    Packed(Arc<dyn Decode>),
    /// Listed but not readable, and why (dtype unknown, bytes missing).
    Unreadable(String),
}

/// What stands in the way of numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Codes of a quantiser.
    Codes,
    /// Only their places: bits of the entry's own dtype, by strides or in slices.
    Layout,
    /// Nothing stores them: they are computed from several tensors.
    Computed,
}

/// A tensor that is not simply numbers in a row: anything that can yield its elements as `f32`.
pub trait Decode: Send + Sync {
    /// A short name of the scheme, e.g. `gptq-4bit-g128`, `bnb-nf4`, `fp8-block128`, `strided`.
    fn scheme(&self) -> &str;

    /// Elements `first .. first + out.len()` in row-major order of the logical shape.
    fn decode(&self, first: u64, out: &mut [f32]) -> Result<()>;

    /// What kind of storage it is.
    fn packing(&self) -> Packing {
        Packing::Codes
    }

    /// The levels of elements `first .. first + out.len()`, and what the scheme codes a number as; `None` where numbers
    /// are not coded one by one.
    fn levels(&self, _first: u64, _out: &mut [CodedLevel]) -> Result<Option<LevelChoice>> {
        Ok(None)
    }

    /// All its scales, with the zero points or biases that stand beside them; `None` where there are none, or none that
    /// can be any number (powers of two, floats of 8 bits).
    fn free_scales(&self) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

/// One tensor of a checkpoint.
#[derive(Clone)]
pub struct TensorEntry {
    /// The name in the checkpoint.
    pub name: String,
    /// The dtype its numbers are stored in.
    pub dtype: &'static DType,
    /// The logical shape (of the weight, not of its packed codes).
    pub shape: Vec<u64>,
    /// Which of [`Checkpoint::files`] holds its bytes.
    pub file: usize,
    /// Its bytes in that file.
    pub range: Range<u64>,
    /// How they are stored.
    pub storage: Storage,
}

impl TensorEntry {
    /// One of which nothing is known but that a loader would want it, and why it cannot be had.
    pub fn unreadable(name: String, reason: String) -> Self {
        let storage = Storage::Unreadable(reason);
        Self { name, dtype: unknown_dtype(), shape: vec![0], file: 0, range: 0..0, storage }
    }

    /// Whether it is listed and cannot be read.
    pub const fn is_unreadable(&self) -> bool {
        matches!(self.storage, Storage::Unreadable(_))
    }

    /// The number of elements. Headers are checked for overflow when they are read.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// How its numbers are stored, for people: a scheme's name, or the dtype's where only their places are unusual.
    pub fn stored_as(&self) -> &str {
        match &self.storage {
            Storage::Packed(decoder) if decoder.packing() != Packing::Layout => decoder.scheme(),
            _ => self.dtype.name,
        }
    }

    /// Whether its numbers are codes of a quantiser, in blocks of their own or with scales beside them.
    pub fn is_quantized(&self) -> bool {
        match &self.storage {
            Storage::Packed(decoder) => decoder.packing() == Packing::Codes,
            Storage::Plain => self.dtype.family == DTypeFamily::Block,
            Storage::Unreadable(_) => false,
        }
    }
}

/// One file of an opened checkpoint.
#[derive(Clone)]
pub struct CheckpointFile {
    /// Name relative to the checkpoint's top.
    pub name: String,
    /// Its bytes.
    pub source: Arc<dyn ByteSource>,
    /// Its SHA-256 where known.
    pub sha256: Option<Digest>,
    /// The file's own string metadata (safetensors `__metadata__`); GGUF keys are in [`Checkpoint::metadata`].
    pub metadata: BTreeMap<String, String>,
}

/// Opened weights.
#[derive(Clone)]
pub struct Checkpoint {
    /// How the user or the hub names it.
    pub label: String,
    /// The format's name in [`FORMATS`].
    pub format: &'static str,
    /// Files with tensors, sorted by name.
    pub files: Vec<CheckpointFile>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// `config.json` (or what a GGUF header says in its place), `Null` when there is none.
    pub config: serde_json::Value,
    /// Key-value metadata of the format as text (GGUF keys; long arrays are cut).
    pub metadata: BTreeMap<String, String>,
    /// Oddities, sorted.
    pub anomalies: Vec<Anomaly>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, tensors) = (self.files.len(), self.tensors.len());
        write!(f, "{} ({}, {files} files, {tensors} tensors)", self.label, self.format)
    }
}

impl Checkpoint {
    /// The stored bytes of a plainly stored tensor; `None` for packed and unreadable ones.
    pub fn raw(&self, entry: &TensorEntry) -> Result<Option<Cow<'_, [u8]>>> {
        match entry.storage {
            Storage::Plain => self.file(entry)?.source.read(entry.range.clone()).map(Some),
            Storage::Packed(_) | Storage::Unreadable(_) => Ok(None),
        }
    }

    /// Elements `first .. first + out.len()` of a tensor in row-major order as `f32`, whatever its storage.
    pub fn decode(&self, entry: &TensorEntry, first: u64, out: &mut [f32]) -> Result<()> {
        match &entry.storage {
            Storage::Packed(packed) => packed.decode(first, out),
            Storage::Unreadable(reason) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("reading tensor {} of {}: {reason}", entry.name, self.label),
            )),
            Storage::Plain => decode_plain(self.file(entry)?.source.as_ref(), entry, first, out),
        }
    }

    /// Total bytes of the tensors.
    pub fn bytes(&self) -> u64 {
        let sizes = self.tensors.values().map(|entry| entry.range.end.saturating_sub(entry.range.start));
        sizes.fold(0, u64::saturating_add)
    }

    fn file(&self, entry: &TensorEntry) -> Result<&CheckpointFile> {
        self.files.get(entry.file).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("tensor {} names a file that is not listed", entry.name))
        })
    }
}

/// Elements `first .. first + out.len()` of a plainly stored tensor of the file behind `source`.
pub(crate) fn decode_plain(source: &dyn ByteSource, entry: &TensorEntry, first: u64, out: &mut [f32]) -> Result<()> {
    let (block, bytes) = (entry.dtype.block as u64, entry.dtype.bytes as u64);
    let end = first.saturating_add(out.len() as u64);
    if end > entry.elements() {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("reading elements {first}..{end} of tensor {}, which has {}", entry.name, entry.elements()),
        ));
    }
    // Whole blocks around the wanted elements; for plain numbers this is the range itself.
    let (from, to) = (first / block, end.div_ceil(block));
    let start = entry.range.start.saturating_add(from.saturating_mul(bytes));
    let stop = entry.range.start.saturating_add(to.saturating_mul(bytes));
    if stop > entry.range.end {
        return Err(Error::new(
            ErrorKind::Malformed,
            format!("tensor {} of {} is shorter than its shape says", entry.name, source.name()),
        ));
    }
    let input = source.read(start..stop)?;
    if from * block == first && to * block == end {
        (entry.dtype.decode)(&input, out);
    } else {
        let mut whole = vec![0.0; ((to - from) * block) as usize];
        (entry.dtype.decode)(&input, &mut whole);
        let skip = (first - from * block) as usize;
        out.copy_from_slice(&whole[skip..skip + out.len()]);
    }
    Ok(())
}

/// One format a checkpoint may come in.
pub trait Format: Sync {
    /// Its name in records and messages.
    fn name(&self) -> &'static str;

    /// Whether these files are in this format (by name and magic bytes).
    fn recognizes(&self, files: &FileSet) -> bool;

    /// Reads the headers.
    fn open(&self, files: &FileSet) -> Result<Checkpoint>;
}

/// Every format, tried in this order.
pub static FORMATS: &[&dyn Format] = &[&adapter::Peft, &safetensors::Safetensors, &gguf::Gguf, &pickle::PyTorch];

/// Reads one file of a set as what its bytes are, whatever format the others are in.
fn read_as(written: Written, assembly: &mut Assembly, part: &FilePart<'_>) -> Result<()> {
    match written {
        Written::Safetensors => safetensors::read_file(assembly, part),
        Written::PyTorch => pickle::read_file(assembly, part),
        other => {
            let doing = format!("reading {}: a {} file is no shard of another format", part.name, other.format());
            Err(Error::new(ErrorKind::Unsupported, doing))
        }
    }
}

/// Opens the checkpoint of a set of files that loaders would take first; of GGUF files alone the most exact one. A set
/// in which no name tells is opened in the first format that recognises its bytes.
pub fn open(files: &FileSet) -> Result<Checkpoint> {
    let by_name = variants::of_files(files).into_iter().next().filter(|first| first.format() != gguf::Gguf.name());
    if let Some(first) = by_name.filter(|_| !adapter::Peft.recognizes(files)) {
        return first.open(files);
    }
    let format = FORMATS.iter().find(|format| format.recognizes(files)).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("opening {}: no weights in a known format (looked for {})", files.label, known_formats()),
        )
    })?;
    open_as(*format, files)
}

/// Opens files in a format, or in the one that their bytes are of, with quantised groups resolved.
fn open_as(format: &dyn Format, files: &FileSet) -> Result<Checkpoint> {
    let mut checkpoint = match format.open(files) {
        Err(error) if error.kind == ErrorKind::Malformed => misnamed::reopen(format.name(), files, error)?,
        opened => opened?,
    };
    quantized::resolve(&mut checkpoint);
    pack::note(&mut checkpoint);
    adapter::keep_config(files, &mut checkpoint);
    Ok(checkpoint)
}

/// Configurations of a set whose code is looked for.
const CONFIGURATIONS: &[&str] =
    &["config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json", "model_index.json"];

/// What is odd about a set of files whatever checkpoint of it is looked at: code of its own that loaders run when they
/// are told to trust it. The model is then what that code makes of the weights.
pub fn surroundings(files: &FileSet) -> Vec<Anomaly> {
    let mut anomalies = Anomalies::default();
    for name in CONFIGURATIONS {
        let config = collect::small_json(files, name, &mut Anomalies::default());
        let Some(map) = config.get("auto_map").and_then(serde_json::Value::as_object).filter(|map| !map.is_empty())
        else {
            continue;
        };
        let texts = map.values().flat_map(|value| match value {
            serde_json::Value::Array(values) => values.iter().collect(),
            other => vec![other],
        });
        let named: Vec<String> = texts
            .filter_map(|value| value.as_str())
            .take(8)
            .map(|text| format!("{:?}", collect::shown(text)))
            .collect();
        let detail = format!("auto_map has loaders run {} where custom code is trusted", named.join(", "));
        anomalies.file(anomaly::REMOTE_CODE, name, detail);
    }
    let code: Vec<&String> = files.files.keys().filter(|name| name.to_ascii_lowercase().ends_with(".py")).collect();
    if let Some(first) = code.first() {
        let more = match code.len() - 1 {
            0 => String::new(),
            others => format!("; {others} more beside it"),
        };
        anomalies.file(
            anomaly::CODE_FILE,
            first,
            format!("a program in the repository, which is not looked into{more}"),
        );
    }
    anomalies.finish()
}

fn known_formats() -> String {
    FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

/// A dtype for entries whose own one is not known.
pub fn unknown_dtype() -> &'static DType {
    &tensor::UNKNOWN
}
