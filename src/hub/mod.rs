//! Model hubs: what each is asked and how its answers are read.
//!
//! A [`Hub`] does no input or output. It builds an [`Ask`] and reads an [`Answer`]; the one [`client`] sends, waits,
//! retries, counts and keeps tokens at home. So a hub's tests are recorded answers, and a new hub is one file and one
//! line in [`HUBS`] (see `docs/adding-a-hub.md`).

pub mod cache;
pub mod client;
mod disk;
pub mod download;
pub mod environment;
pub mod fetch;
pub mod huggingface;
pub mod local;
pub mod location;
mod meter;
pub mod modelscope;
mod pace;
pub mod probe;
pub mod reach;
mod room;
mod rows;
pub mod stale;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

pub use client::{Client, ClientSettings, Meter, Totals};
pub use environment::Environment;
pub use location::{Pages, on_hub, spellings};
pub use room::free;

use cache::CachedRepo;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, GitName, RepoId, Revision};

/// The verb of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read.
    Get,
    /// Read with a question in the body.
    Post,
}

/// Which of a hub's quotas a request counts against; they are paced apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// Listings, repository facts, trees.
    Api,
    /// Looking up where a file's bytes are, and small files.
    Resolver,
    /// The bytes themselves, from the delivery network.
    Delivery,
}

/// One request, as a hub wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The verb.
    pub verb: Verb,
    /// The whole address.
    pub url: Url,
    /// Content type and bytes of the body, if there is one.
    pub body: Option<(&'static str, Vec<u8>)>,
    /// The quota it counts against.
    pub bucket: Bucket,
}

impl Ask {
    /// A plain read.
    pub fn get(url: Url, bucket: Bucket) -> Self {
        Self { verb: Verb::Get, url, body: None, bucket }
    }
}

/// What came back: any status, with its body read whole (bounded by the client).
#[derive(Debug, Clone)]
pub struct Answer {
    /// The address asked.
    pub url: Url,
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A header as text, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON. Fails as `Malformed`, naming the address.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Error::because(ErrorKind::Malformed, format!("reading the answer of {} as JSON", shown(&self.url)), error)
        })
    }
}

/// An address without its query: signed addresses are bearer secrets and never appear in messages.
pub fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    plain.set_query(None);
    plain.set_fragment(None);
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.to_string()
}

/// What a listing should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Derivatives of this repository (the hub's own name of it).
    pub base: Option<String>,
    /// Only this relation to it (`finetune`, `quantized`, `adapter`, `merge`).
    pub relation: Option<String>,
    /// Repositories of this user or organisation.
    pub author: Option<String>,
    /// Repositories with all of these tags.
    pub tags: Vec<String>,
    /// Repositories whose name contains this.
    pub search: Option<String>,
}

/// Whether the bytes of a repository can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// By anyone.
    #[default]
    Open,
    /// After a grant.
    Gated,
    /// By its owner.
    Private,
    /// Taken down by the hub.
    Disabled,
}

/// What a hub says of one repository, in a listing or on its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepoInfo {
    /// The repository's name, as the hub spells it.
    pub name: String,
    /// A key that no other repository has, for listings that shift while they are paged.
    pub key: String,
    /// The commit of the default branch; where a hub has none, a stand-in that changes when the files do.
    pub commit: Option<String>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// When it last changed, RFC 3339.
    pub modified: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its card's front matter, `Null` where unknown.
    pub card: Value,
    /// What the hub itself read from `config.json`, `Null` where unknown.
    pub config: Value,
    /// The hub's own idea of its bases, in whichever shape it gave it.
    pub base_models: Value,
    /// Downloads of the last 30 days.
    pub downloads: Option<u64>,
    /// Likes.
    pub likes: Option<u64>,
    /// Whether the bytes can be had.
    pub access: Access,
    /// The library it is for.
    pub library: Option<String>,
}

/// One file of a repository's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoFile {
    /// Path relative to the top, already checked to stay inside it.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, where the hub tells it.
    pub sha256: Option<Digest>,
    /// The git name of the content, where the hub tells it and the content itself lies in git (small files).
    pub git: Option<GitName>,
    /// Whether the bytes come from the delivery network by redirect (large files), so that ranges work.
    pub large: bool,
}

/// One page of an answer, and what else to ask to have it all.
#[derive(Debug, Clone, PartialEq)]
pub struct HubPage<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// Further requests: the next page, or folders that a hub wants to be asked about one by one.
    pub more: Vec<Ask>,
    /// What is known to be missing, in words.
    pub incomplete: Option<String>,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address to read; the one asked when the hub serves the bytes itself.
    pub url: Url,
    /// The commit that the hub served, if it says.
    pub commit: Option<String>,
    /// SHA-256 of the content, if it says.
    pub sha256: Option<Digest>,
    /// Length, if it says.
    pub bytes: Option<u64>,
}

/// A refusal, as the hub means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of outcome it is.
    pub kind: ErrorKind,
    /// Whether to ask again: overload and rate limits pass, a missing repository does not.
    pub passing: bool,
    /// The hub's own words, or ours.
    pub message: String,
}

/// A model hub's protocol: requests to build, answers to read.
pub trait Hub: Send + Sync {
    /// The short name before the colon (`hf`).
    fn prefix(&self) -> &'static str;

    /// Its address; credentials go to this scheme, host and port, nowhere else.
    fn endpoint(&self) -> &Url;

    /// Headers that identify the user, if a token is set.
    fn credentials(&self) -> Vec<(HeaderName, HeaderValue)>;

    /// The branch meant when no revision is named.
    fn default_revision(&self) -> Revision;

    /// Asks for repositories. `Unsupported` where the hub cannot be asked that.
    fn list(&self, query: &Query) -> Result<Ask>;

    /// The cheapest request that tells whether the hub answers and takes the token.
    fn probe(&self) -> Result<Ask> {
        self.list(&Query { search: Some("orthoscope".to_owned()), ..Query::default() })
    }

    /// Reads one page of repositories.
    fn read_list(&self, ask: &Ask, answer: &Answer) -> Result<HubPage<RepoInfo>>;

    /// Asks for one repository's facts.
    fn info(&self, name: &str, revision: Option<&Revision>) -> Result<Ask>;

    /// Reads one repository's facts.
    fn read_info(&self, answer: &Answer) -> Result<RepoInfo>;

    /// Asks for all files of a revision.
    fn tree(&self, name: &str, revision: &Revision) -> Result<Ask>;

    /// Reads one page of files.
    fn read_tree(&self, ask: &Ask, answer: &Answer) -> Result<HubPage<RepoFile>>;

    /// Asks where a file's bytes are.
    fn file(&self, name: &str, revision: &Revision, path: &str) -> Result<Ask>;

    /// Reads where a file's bytes are from a successful or redirecting answer.
    fn read_place(&self, answer: &Answer) -> Result<Place>;

    /// Whether reading this file raises a public download counter. Such files are left alone where another way exists.
    fn counts_as_download(&self, _path: &str) -> bool {
        false
    }

    /// Whether the commit that the hub states of a repository is one that its tree and files can be asked by.
    fn keeps_commits(&self) -> bool {
        false
    }

    /// Whether listings begin with what was made last, so that their first page without news ends a look for news.
    fn lists_newest_first(&self) -> bool {
        false
    }

    /// Whether its files lie on this machine, so that nothing of it needs a network or a cache.
    fn is_here(&self) -> bool {
        self.endpoint().scheme() == "file"
    }

    /// What another program has cached of a repository of this hub.
    fn cached(&self, _environment: &Environment, _name: &str) -> Option<CachedRepo> {
        None
    }

    /// Reads a refusal; `None` when the answer is none. Some hubs refuse inside status 200.
    fn refusal(&self, answer: &Answer) -> Option<Refusal>;
}

/// A hub as the program knows it: how it is written, and how it is made from the environment.
pub struct HubEntry {
    /// The short name before the colon.
    pub prefix: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Makes it.
    pub open: fn(&Environment) -> Result<Arc<dyn Hub>>,
    /// Whether a name is one that the hub may give.
    pub is_name: fn(&str) -> bool,
    /// Whether `@revision` may stand behind a name.
    pub has_revisions: bool,
    /// Its repositories' pages, where it has any.
    pub pages: Option<Pages>,
    /// Where the user's token for it comes from: a variable's name or a file's path, never the token.
    pub token_from: fn(&Environment) -> Option<String>,
}

/// Every hub. A new one is a file of this folder and a line here.
pub static HUBS: &[&HubEntry] = &[&huggingface::ENTRY, &modelscope::ENTRY, &local::ENTRY];

/// The hub that is meant where none is named.
pub static DEFAULT: &HubEntry = &huggingface::ENTRY;

/// The hub a repository is on.
pub fn of(repo: &RepoId, environment: &Environment) -> Result<Arc<dyn Hub>> {
    named(&repo.hub, environment)
}

/// The hub of that short name.
pub fn named(prefix: &str, environment: &Environment) -> Result<Arc<dyn Hub>> {
    let entry = HUBS.iter().find(|entry| entry.prefix == prefix).ok_or_else(|| {
        let known: Vec<&str> = HUBS.iter().map(|entry| entry.prefix).collect();
        Error::new(ErrorKind::Usage, format!("finding hub {prefix:?}: known are {}", known.join(", ")))
    })?;
    (entry.open)(environment)
}

/// Whether a path of a repository stays inside it on every system: relative, no `..`, no backslash, no control
/// character.
pub fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with('/')
        && !path.contains(['\\', '\0'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && path.get(1..2).is_none_or(|second| second != ":")
}

/// `base` with these path segments appended, each percent-encoded as a whole (a slash in a revision becomes `%2F`).
pub(crate) fn join(base: &Url, segments: &[&str]) -> Result<Url> {
    let mut url = base.clone();
    url.set_query(None);
    url.path_segments_mut()
        .map_err(|()| Error::new(ErrorKind::Usage, format!("using {} as the address of a hub", shown(base))))?
        .pop_if_empty()
        .extend(segments);
    Ok(url)
}

/// A text value of a JSON object.
pub(crate) fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hub_opens_and_carries_its_own_prefix() {
        let environment = Environment::empty();
        for entry in HUBS {
            assert_eq!((entry.open)(&environment).unwrap().prefix(), entry.prefix);
            let without = environment.clone().with("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
            assert_eq!((entry.token_from)(&without), None, "{}", entry.prefix);
        }
        assert_eq!(named("nowhere", &environment).err().unwrap().kind, ErrorKind::Usage);
    }

    #[test]
    fn paths_that_leave_the_repository_are_not_plain() {
        for good in ["model.safetensors", "a/b/c.bin", "with space", "ünïcode/…"] {
            assert!(is_plain_path(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "c:x", "a/.", "nul\0", "line\nfeed"] {
            assert!(!is_plain_path(bad), "{bad}");
        }
    }

    #[test]
    fn a_shown_address_has_no_query_and_no_password() {
        let url = Url::parse("https://user:secret@host:1/a?Signature=abc").unwrap();
        assert_eq!(shown(&url), "https://host:1/a");
    }
}
