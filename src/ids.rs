//! The names of things: repositories, revisions, digests, locations.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// A repository on a hub: `hf:org/name`, `ms:owner/name`, `ollama:ns/model`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RepoId {
    /// The hub's short name (`hf`, `ms`, `ollama`).
    pub hub: String,
    /// The hub's own id of the repository, as the hub spells it.
    pub name: String,
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.hub, self.name)
    }
}

/// A commit, branch or tag, as a hub spells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub String);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 digest, printed as `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a byte string.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 64 hex digits alone.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(digits, &mut bytes)
            .map_err(|e| Error::because(ErrorKind::Usage, format!("reading {text:?} as a SHA-256 digest"), e))?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|e: Error| serde::de::Error::custom(e.one_line()))
    }
}

/// The name git gives a file's content: SHA-1 over `blob LENGTH`, a zero byte and the content. Hubs list it for small files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GitName(pub [u8; 20]);

impl GitName {
    /// Reads 40 hex digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0u8; 20];
        hex::decode_to_slice(text, &mut bytes).ok().map(|()| Self(bytes))
    }

    /// The name of this content.
    pub fn of(content: &[u8]) -> Self {
        use sha1::Digest as _;
        let mut hasher = sha1::Sha1::new();
        hasher.update(format!("blob {}\0", content.len()));
        hasher.update(content);
        Self(hasher.finalize().into())
    }
}

/// Where a checkpoint is: on a hub (at a revision, if one was named) or in a folder or file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// A repository on a hub.
    Hub(RepoId, Option<Revision>),
    /// A folder or a file of this machine.
    Path(PathBuf),
}

/// The hubs' short names that may stand before a colon.
pub const HUB_PREFIXES: [&str; 3] = ["hf", "ms", "ollama"];

/// The hosts of hubs' pages, from which people copy addresses; the first of a hub is the one that is linked to.
const PAGES: [(&str, &str); 7] = [
    ("hf", "huggingface.co"),
    ("hf", "www.huggingface.co"),
    ("hf", "hf.co"),
    ("ms", "www.modelscope.cn"),
    ("ms", "modelscope.cn"),
    ("ms", "www.modelscope.ai"),
    ("ms", "modelscope.ai"),
];

impl RepoId {
    /// The address of its page on its hub, at a revision where one is named. None for a hub without pages, and for names that no
    /// hub gives, so that nothing else can be smuggled into a link.
    pub fn page(&self, revision: Option<&str>) -> Option<String> {
        // Hubs give names of about a hundred characters at most.
        let plain = |text: &str| {
            (1..=128).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !text.starts_with('.')
        };
        let (_, host) = PAGES.iter().find(|(hub, _)| *hub == self.hub)?;
        let parts: Vec<&str> = self.name.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| plain(part)) {
            return None;
        }
        let above = if self.hub == "ms" { "models/" } else { "" };
        let address = format!("https://{host}/{above}{}", self.name);
        Some(match revision.filter(|revision| plain(revision) && self.hub == "hf") {
            Some(revision) => format!("{address}/tree/{revision}"),
            None => address,
        })
    }
}

impl Location {
    /// The repository that an address of a hub's page shows (`https://huggingface.co/ORG/NAME/tree/REV`); `None` for text that is
    /// no such address. An address of another host is an error: it is no file of this machine either.
    pub fn of_page(text: &str) -> Option<Result<Self, Error>> {
        let on = |host: &str| text.strip_prefix(host).is_some_and(|rest| rest.starts_with('/'));
        let address = match text.starts_with("https://") || text.starts_with("http://") {
            true => text.to_owned(),
            false if PAGES.iter().any(|(_, host)| on(host)) => format!("https://{text}"),
            false => return None,
        };
        Some(Self::shown_by(&address))
    }

    fn shown_by(address: &str) -> Result<Self, Error> {
        let unknown = |what: &str| {
            Error::new(
                ErrorKind::Usage,
                format!("reading {address:?}: {what}; repositories are written hf:org/name or ms:owner/name"),
            )
        };
        let url = url::Url::parse(address).map_err(|_| unknown("not an address"))?;
        let host = url.host_str().unwrap_or_default();
        let (hub, _) =
            PAGES.iter().find(|(_, page)| *page == host).ok_or_else(|| unknown("the page of no hub that is known"))?;
        let mut parts: Vec<String> = url
            .path_segments()
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            // The name of a branch may hold a slash.
            .map(|part| part.replace("%2F", "/").replace("%2f", "/"))
            .collect();
        let first = parts.first().map(String::as_str);
        match (*hub, first) {
            (_, Some("datasets" | "spaces" | "studios")) => return Err(unknown("not the page of a model")),
            ("ms", Some("models")) => drop(parts.remove(0)),
            ("ms", _) => return Err(unknown("not the page of a model")),
            _ => {}
        }
        let asked = url
            .query_pairs()
            .find(|(key, _)| *hub == "ms" && key == "version")
            .map(|(_, revision)| revision.into_owned());
        let below: Vec<&str> = parts.iter().skip(2).map(String::as_str).collect();
        let revision = match below.as_slice() {
            ["tree" | "blob" | "resolve" | "raw" | "commit" | "commits", revision, ..] => Some((*revision).to_owned()),
            ["file", "view", revision, ..] if *hub == "ms" => Some((*revision).to_owned()),
            _ => asked,
        };
        let name = parts.iter().take(2).map(String::as_str).collect::<Vec<_>>().join("/");
        if name.is_empty() {
            return Err(unknown("it names no repository"));
        }
        let revision = revision.map(|revision| format!("@{revision}")).unwrap_or_default();
        format!("{hub}:{name}{revision}").parse()
    }
}

impl FromStr for Location {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(shown) = Self::of_page(text) {
            return shown;
        }
        for hub in HUB_PREFIXES {
            let Some(rest) = text.strip_prefix(hub).and_then(|r| r.strip_prefix(':')) else { continue };
            let (name, revision) = match rest.split_once('@') {
                Some((name, revision)) => (name, Some(Revision(revision.to_owned()))),
                None => (rest, None),
            };
            let plain = |part: &str| {
                !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0', '?', '#', '%'])
            };
            let parts: Vec<&str> = name.split('/').collect();
            if parts.len() > 2
                || !parts.iter().all(|part| plain(part))
                || revision.as_ref().is_some_and(|r| r.0.is_empty())
            {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("reading {text:?}: a repository is written {hub}:owner/name or {hub}:owner/name@revision"),
                ));
            }
            return Ok(Self::Hub(RepoId { hub: hub.to_owned(), name: name.to_owned() }, revision));
        }
        Ok(Self::Path(PathBuf::from(text)))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(repo, None) => write!(f, "{repo}"),
            Self::Hub(repo, Some(revision)) => write!(f, "{repo}@{revision}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_pages_are_repositories() {
        for (address, repository) in [
            ("https://huggingface.co/org/name", "hf:org/name"),
            ("http://www.huggingface.co/org/name/", "hf:org/name"),
            ("hf.co/org/name?library=x#files", "hf:org/name"),
            ("huggingface.co/gpt2", "hf:gpt2"),
            ("https://huggingface.co/org/name/tree/main", "hf:org/name@main"),
            ("https://huggingface.co/org/name/blob/0123abc/model.safetensors", "hf:org/name@0123abc"),
            ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "hf:org/name@refs/pr/1"),
            ("https://huggingface.co/org/name/discussions/3", "hf:org/name"),
            ("https://www.modelscope.cn/models/owner/name/summary", "ms:owner/name"),
            ("https://modelscope.cn/models/owner/name/files?version=v2", "ms:owner/name@v2"),
            ("https://modelscope.ai/models/owner/name/file/view/master/README.md", "ms:owner/name@master"),
        ] {
            let location: Location = address.parse().unwrap_or_else(|error: Error| panic!("{address}: {error}"));
            assert_eq!(location.to_string(), repository, "{address}");
        }
        for address in [
            "https://example.com/org/name",
            "https://huggingface.co/",
            "https://huggingface.co/datasets/org/name",
            "https://huggingface.co/spaces/org/name",
            "https://modelscope.cn/owner/name",
            "https://",
            "https://huggingface.co/%2F/%2F",
        ] {
            assert!(address.parse::<Location>().is_err(), "{address}");
        }
        assert!(matches!("huggingface.co.folder/x".parse(), Ok(Location::Path(_))));
    }

    #[test]
    fn only_plain_names_are_linked_to() {
        let page =
            |hub: &str, name: &str, revision| RepoId { hub: hub.to_owned(), name: name.to_owned() }.page(revision);
        assert_eq!(page("hf", "org/name", Some("abc")).as_deref(), Some("https://huggingface.co/org/name/tree/abc"));
        assert_eq!(page("ms", "org/name", Some("abc")).as_deref(), Some("https://www.modelscope.cn/models/org/name"));
        for (hub, name) in [("hf", "a/b/c"), ("hf", "../x"), ("hf", "a/\"><script>"), ("hf", ""), ("local", "a/b")] {
            assert_eq!(page(hub, name, None), None, "{hub}:{name}");
        }
        assert_eq!(page("hf", &format!("org/{}", "a".repeat(1 << 20)), None), None);
        assert_eq!(page("hf", "org/name", Some("a b")).as_deref(), Some("https://huggingface.co/org/name"));
    }
}
