//! How repositories are written: a hub's prefix and a name (`hf:org/name@revision`), or the address of its page.
//!
//! Everything that differs from hub to hub is asked of its entry in [`HUBS`].

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use super::{HUBS, HubEntry};
use crate::error::{Error, ErrorKind};
use crate::ids::{Location, RepoId, Revision};

/// The pages that a hub shows its repositories on.
pub struct Pages {
    /// Their hosts, from which people copy addresses; the first is the one that is linked to.
    pub hosts: &'static [&'static str],
    /// What stands between the host and a repository's name, with a slash at its end; empty where nothing does.
    pub above: &'static str,
    /// First parts of addresses that show something else than a model.
    pub others: &'static [&'static str],
    /// What stands between a repository's name and a revision, `None` where a revision has no page to link to.
    pub before_revision: Option<&'static str>,
    /// The revision that an address shows: from the parts of its path below the repository's name, and the whole of it.
    pub revision: fn(&[&str], &Url) -> Option<String>,
}

/// The revision in the parts below a repository's name, as hubs modelled on git forges write it.
pub fn revision_below(below: &[&str]) -> Option<String> {
    match below {
        ["tree" | "blob" | "resolve" | "raw" | "commit" | "commits", revision, ..] => Some((*revision).to_owned()),
        _ => None,
    }
}

/// Whether a name is one that hubs give: its owner and itself, or itself alone.
pub fn is_owner_and_name(name: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0', '?', '#', '%']);
    name.split('/').count() <= 2 && name.split('/').all(plain)
}

/// The hub that a source (`hf:org/name`) is on, and what stands behind its prefix; `None` for a path.
pub fn on_hub(source: &str) -> Option<(&'static HubEntry, &str)> {
    let (prefix, rest) = source.split_once(':')?;
    HUBS.iter().find(|entry| entry.prefix == prefix).map(|entry| (*entry, rest))
}

/// The hubs that have pages, with them.
pub fn with_pages() -> impl Iterator<Item = (&'static HubEntry, &'static Pages)> {
    HUBS.iter().filter_map(|entry| Some((*entry, entry.pages.as_ref()?)))
}

/// How repositories are written, as examples for messages.
pub fn spellings() -> String {
    let mut text = String::new();
    for (at, (entry, _)) in with_pages().enumerate() {
        let or = if at == 0 { "" } else { " or " };
        // Writing to a string does not fail.
        let _ = write!(text, "{or}{}:owner/name", entry.prefix);
    }
    text
}

impl RepoId {
    /// The address of its page on its hub, at a revision where one is named. None for a hub without pages, and for
    /// names that no hub gives, so that nothing else can be smuggled into a link.
    pub fn page(&self, revision: Option<&str>) -> Option<String> {
        // Hubs give names of about a hundred characters at most.
        let plain = |text: &str| {
            (1..=128).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !text.starts_with('.')
        };
        let (_, pages) = with_pages().find(|(entry, _)| entry.prefix == self.hub)?;
        let host = pages.hosts.first()?;
        if self.name.split('/').count() > 2 || !self.name.split('/').all(plain) {
            return None;
        }
        let address = format!("https://{host}/{}{}", pages.above, self.name);
        Some(match (revision.filter(|revision| plain(revision)), pages.before_revision) {
            (Some(revision), Some(before)) => format!("{address}/{before}/{revision}"),
            _ => address,
        })
    }
}

impl Location {
    /// The repository that an address of a hub's page shows (`https://huggingface.co/ORG/NAME/tree/REV`); `None` for
    /// text that is no such address. An address of another host is an error: it is no file of this machine either.
    pub fn of_page(text: &str) -> Option<Result<Self, Error>> {
        let on = |host: &&str| text.strip_prefix(*host).is_some_and(|rest| rest.starts_with('/'));
        let address = match text.starts_with("https://") || text.starts_with("http://") {
            true => text.to_owned(),
            false if with_pages().any(|(_, pages)| pages.hosts.iter().any(on)) => format!("https://{text}"),
            false => return None,
        };
        Some(Self::shown_by(&address))
    }

    fn shown_by(address: &str) -> Result<Self, Error> {
        let unknown = |what: &str| {
            let what = format!("reading {address:?}: {what}; repositories are written {}", spellings());
            Error::new(ErrorKind::Usage, what)
        };
        let url = Url::parse(address).map_err(|_| unknown("not an address"))?;
        let host = url.host_str().unwrap_or_default();
        let (entry, pages) = with_pages()
            .find(|(_, pages)| pages.hosts.contains(&host))
            .ok_or_else(|| unknown("the page of no hub that is known"))?;
        let parts: Vec<String> = url
            .path_segments()
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            // The name of a branch may hold a slash.
            .map(|part| part.replace("%2F", "/").replace("%2f", "/"))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let above: Vec<&str> = pages.above.split_terminator('/').collect();
        let other = parts.first().is_some_and(|first| pages.others.contains(first));
        let parts = parts.strip_prefix(above.as_slice()).filter(|_| !other);
        let parts = parts.ok_or_else(|| unknown("not the page of a model"))?;
        let (name, below) = parts.split_at(parts.len().min(2));
        if name.is_empty() {
            return Err(unknown("it names no repository"));
        }
        let revision = (pages.revision)(below, &url).map(|revision| format!("@{revision}")).unwrap_or_default();
        format!("{}:{}{revision}", entry.prefix, name.join("/")).parse()
    }
}

impl FromStr for Location {
    type Err = Error;

    /// A repository where a hub's prefix stands before it or its page's address is given, else a path of this machine.
    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(shown) = Self::of_page(text) {
            return shown;
        }
        let Some((entry, rest)) = on_hub(text) else { return Ok(Self::Path(PathBuf::from(text))) };
        let (name, revision) = match rest.split_once('@').filter(|_| entry.has_revisions) {
            Some((name, revision)) => (name, Some(Revision(revision.to_owned()))),
            None => (rest, None),
        };
        if !(entry.is_name)(name) || revision.as_ref().is_some_and(|revision| revision.0.is_empty()) {
            let hub = entry.prefix;
            let or = if entry.has_revisions { format!(" or {hub}:owner/name@revision") } else { String::new() };
            let what = format!("reading {text:?}: a repository is written {hub}:owner/name{or}");
            return Err(Error::new(ErrorKind::Usage, what));
        }
        Ok(Self::Hub(RepoId { hub: entry.prefix.to_owned(), name: name.to_owned() }, revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hub_is_read_as_it_is_written() {
        for entry in HUBS {
            let mut written = vec!["owner/name", "name"];
            if entry.has_revisions {
                written.extend(["owner/name@v2", "owner/name@refs/pr/1"]);
            }
            for rest in written {
                let text = format!("{}:{rest}", entry.prefix);
                let location: Location = text.parse().unwrap();
                assert!(matches!(&location, Location::Hub(repo, _) if repo.hub == entry.prefix), "{text}");
                assert_eq!(location.to_string(), text);
                assert_eq!(on_hub(&text).map(|(hub, rest)| (hub.prefix, rest)), Some((entry.prefix, rest)));
            }
            for rest in ["", "..", "a/../b", "/a", "a//b", "a\\b", "a/b\0"] {
                let text = format!("{}:{rest}", entry.prefix);
                assert_eq!(text.parse::<Location>().unwrap_err().kind, ErrorKind::Usage, "{text:?}");
            }
            let Some(pages) = &entry.pages else { continue };
            for host in pages.hosts {
                let address = format!("https://{host}/{}owner/name", pages.above);
                let location: Location = address.parse().unwrap();
                assert_eq!(location.to_string(), format!("{}:owner/name", entry.prefix));
            }
            let repo = RepoId { hub: entry.prefix.to_owned(), name: "owner/name".to_owned() };
            let back: Location = repo.page(None).unwrap().parse().unwrap();
            assert_eq!(back, Location::Hub(repo, None));
        }
        // A folder's name may hold what elsewhere begins a revision.
        let local: Location = "local:a/b@c".parse().unwrap();
        assert_eq!(local.to_string(), "local:a/b@c");
        assert!(matches!(local, Location::Hub(RepoId { name, .. }, None) if name == "a/b@c"));
        for path in ["ollama:a/b", "a/b", "./local:a"] {
            assert!(matches!(path.parse(), Ok(Location::Path(_))), "{path}");
        }
    }

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
