//! The repositories a stand-in serves: from memory or from a folder, with everything the hub derives from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sha1::Digest as _;

use crate::claim::files::split_card;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::is_plain_path;
use crate::ids::Digest;
use crate::limits;
use crate::source::parse;
use crate::source::{ByteSource, Bytes, mmap::Mmap};

/// Who may read the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// Anyone.
    #[default]
    Open,
    /// Who asks (`auto`), with a token.
    Auto,
    /// Whom the publisher grants (`manual`); no token here is granted.
    Manual,
}

/// What happens to a repository after its tree was listed and before its bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surprise {
    /// It is deleted.
    Deleted,
    /// It becomes gated.
    Gated,
    /// It is pushed to, and the listed commit is squashed away.
    Moved,
    /// The hub disables it.
    Disabled,
}

/// One file's bytes.
#[derive(Clone)]
pub struct FileContent {
    pub(crate) source: Arc<dyn ByteSource>,
    pub(crate) sha256: Digest,
}

impl FileContent {
    /// Bytes in memory.
    pub fn memory(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { sha256: Digest::of(&bytes), source: Arc::new(Bytes::new("memory", bytes)) }
    }

    /// Bytes in memory that a hub lists under another's SHA-256.
    pub fn mislabelled(bytes: impl Into<Vec<u8>>, sha256: Digest) -> Self {
        Self { sha256, source: Arc::new(Bytes::new("memory", bytes)) }
    }

    /// A file of this machine, mapped.
    pub fn disk(path: &Path) -> Result<Self> {
        let map = Mmap::open(path, path.display().to_string())?;
        let sha256 = Digest::of(&map.read(0..map.len())?);
        Ok(Self { source: Arc::new(map), sha256 })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.source.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// The text of a git LFS pointer to this content.
    pub(crate) fn pointer(&self) -> String {
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n", self.sha256.hex(), self.len())
    }

    /// The git object name of this content, or of its pointer.
    pub(crate) fn git_name(&self, large: bool) -> String {
        let body = if large {
            self.pointer().into_bytes()
        } else {
            self.source.read(0..self.len()).map(|bytes| bytes.into_owned()).unwrap_or_default()
        };
        let mut hasher = sha1::Sha1::new();
        hasher.update(format!("blob {}\0", body.len()));
        hasher.update(&body);
        hex::encode(hasher.finalize())
    }

    /// What the delivery network calls the content: 64 hex digits that are *not* its SHA-256, as on the real one.
    pub(crate) fn delivery_name(&self) -> String {
        Digest::of(format!("delivered {}", self.sha256.hex()).as_bytes()).hex()
    }
}

/// One repository.
#[derive(Clone)]
pub struct Repository {
    /// `owner/name`.
    pub name: String,
    /// Files by path.
    pub files: BTreeMap<String, FileContent>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Tags beside those derived from the card.
    pub tags: Vec<String>,
    /// Who may read the bytes.
    pub gate: Gate,
    /// Whether the hub has disabled it.
    pub disabled: bool,
    /// Whether only its owner may see it.
    pub private: bool,
    /// Downloads of the last 30 days.
    pub downloads: u64,
    /// Likes.
    pub likes: u64,
    /// What happens once its tree was listed.
    pub surprise: Option<Surprise>,
}

impl Repository {
    /// An open repository without files.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            files: BTreeMap::new(),
            created: "2026-01-01T00:00:00.000Z".to_owned(),
            tags: Vec::new(),
            gate: Gate::Open,
            disabled: false,
            private: false,
            downloads: 0,
            likes: 0,
            surprise: None,
        }
    }

    /// The same with one more file.
    #[must_use]
    pub fn with(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), FileContent::memory(bytes));
        self
    }

    /// Every repository below a folder: each `owner/name` folder is one. A file `.standin.json` in it may set
    /// `created`, `tags`, `gated` (`auto`, `manual`), `disabled`, `private`, `downloads`, `likes`.
    pub fn from_folder(root: &Path) -> Result<Vec<Self>> {
        let mut repositories: BTreeMap<String, Self> = BTreeMap::new();
        for entry in walkdir::WalkDir::new(root).max_depth(8).sort_by_file_name() {
            let entry = entry.map_err(|error| {
                Error::because(ErrorKind::Io, format!("reading the folder {}", root.display()), error)
            })?;
            let Some(path) = entry.path().strip_prefix(root).ok().and_then(Path::to_str) else { continue };
            let path = path.replace(std::path::MAIN_SEPARATOR, "/");
            let mut parts = path.splitn(3, '/');
            let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else { continue };
            if !entry.path().is_file() || !is_plain_path(file) {
                continue;
            }
            let id = format!("{owner}/{name}");
            let repository = repositories.entry(id.clone()).or_insert_with(|| Self::new(id));
            if file == ".standin.json" {
                repository
                    .set(&std::fs::read(entry.path()).map_err(|error| Error::io("reading .standin.json", error))?)?;
            } else {
                repository.files.insert(file.to_owned(), FileContent::disk(entry.path())?);
            }
        }
        Ok(repositories.into_values().collect())
    }

    fn set(&mut self, bytes: &[u8]) -> Result<()> {
        let facts: Value = serde_json::from_slice(bytes).map_err(|error| {
            Error::because(ErrorKind::Usage, format!("reading .standin.json of {}", self.name), error)
        })?;
        let flag = |key: &str| facts.get(key).and_then(Value::as_bool).unwrap_or(false);
        let number = |key: &str| facts.get(key).and_then(Value::as_u64).unwrap_or(0);
        if let Some(created) = facts.get("created").and_then(Value::as_str) {
            created.clone_into(&mut self.created);
        }
        if let Some(tags) = facts.get("tags").and_then(Value::as_array) {
            self.tags = tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect();
        }
        self.gate = match facts.get("gated").and_then(Value::as_str) {
            Some("manual") => Gate::Manual,
            Some(_) => Gate::Auto,
            None => Gate::Open,
        };
        (self.disabled, self.private) = (flag("disabled"), flag("private"));
        (self.downloads, self.likes) = (number("downloads"), number("likes"));
        Ok(())
    }

    /// The commit: 40 hex digits that change whenever a file does.
    pub fn commit(&self) -> String {
        let mut text = format!("commit of {}\n", self.name);
        for (path, content) in &self.files {
            text.push_str(&format!("{}  {path}\n", content.sha256.hex()));
        }
        Digest::of(text.as_bytes()).hex()[..40].to_owned()
    }

    /// The key no other repository has.
    pub(crate) fn key(&self) -> String {
        Digest::of(self.name.as_bytes()).hex()[..24].to_owned()
    }

    /// A small file as JSON.
    pub(crate) fn json(&self, path: &str) -> Option<Value> {
        let content = self.files.get(path).filter(|content| content.len() <= limits::MAX_JSON_BYTES)?;
        serde_json::from_slice(&content.source.read(0..content.len()).ok()?).ok()
    }

    /// The front matter of the card, as JSON.
    pub(crate) fn card(&self) -> Value {
        let read = || {
            let content = self.files.get("README.md")?;
            let text = String::from_utf8(content.source.read(0..content.len()).ok()?.into_owned()).ok()?;
            parse::yaml(split_card(&text)?.0)
        };
        read().unwrap_or(Value::Null)
    }

    /// Claimed bases, as the hub reads them from the card: a string or a list.
    pub(crate) fn bases(&self) -> Vec<String> {
        match self.card().get("base_model") {
            Some(Value::String(base)) => vec![base.clone()],
            Some(Value::Array(bases)) => bases.iter().filter_map(|base| base.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        }
    }

    /// The relation, as the hub infers it unless the card says.
    pub(crate) fn relation(&self) -> String {
        if let Some(Value::String(said)) = self.card().get("base_model_relation") {
            return said.clone();
        }
        let has = |end: &str| self.files.keys().any(|path| path.ends_with(end));
        let inferred = if self.bases().len() > 1 {
            "merge"
        } else if has("adapter_config.json") {
            "adapter"
        } else if has(".gguf") {
            "quantized"
        } else {
            "finetune"
        };
        inferred.to_owned()
    }

    /// All tags, with both forms for each base.
    pub(crate) fn all_tags(&self) -> Vec<String> {
        let mut tags = self.tags.clone();
        if let Some(said) = self.card().get("tags").and_then(Value::as_array) {
            tags.extend(said.iter().filter_map(|tag| tag.as_str().map(str::to_owned)));
        }
        let relation = self.relation();
        for base in self.bases() {
            tags.push(format!("base_model:{base}"));
            tags.push(format!("base_model:{relation}:{base}"));
        }
        tags
    }

    /// What the hub itself takes from `config.json`.
    pub(crate) fn config(&self) -> Value {
        let Some(config) = self.json("config.json") else { return Value::Null };
        let mut kept = serde_json::Map::new();
        for key in ["architectures", "model_type", "quantization_config"] {
            if let Some(value) = config.get(key) {
                kept.insert(key.to_owned(), value.clone());
            }
        }
        Value::Object(kept)
    }

    pub(crate) fn is_large(&self, path: &str, content: &FileContent, from: u64) -> bool {
        let weights = [".safetensors", ".gguf", ".bin", ".pt", ".pth"];
        content.len() >= from || weights.iter().any(|end| path.ends_with(end))
    }

    pub(crate) fn gated(&self) -> Value {
        match self.gate {
            Gate::Open => json!(false),
            Gate::Auto => json!("auto"),
            Gate::Manual => json!("manual"),
        }
    }
}
