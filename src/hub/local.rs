//! A directory tree as a hub: each folder with weights in it is a repository.
//!
//! It proves that [`Hub`] asks for nothing that only a web server has. Its addresses are `file:` ones; the client
//! answers a folder's address with a JSON list of what is in it and a file's address with the file.

use std::path::Path;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::Value;
use url::Url;

use super::{
    Answer, Ask, Bucket, Environment, Hub, HubEntry, HubPage, Place, Query, Refusal, RepoFile, RepoInfo, is_plain_path,
    join, shown, text,
};
use crate::checkpoint::files::is_weights;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Revision;

/// A directory tree.
pub struct Local {
    root: Url,
}

/// A directory tree as the program knows it.
pub static ENTRY: HubEntry = HubEntry {
    prefix: "local",
    title: "a directory tree",
    open,
    is_name: is_plain_path,
    // A folder's name may hold an `@`.
    has_revisions: false,
    pages: None,
    token_from: |_| None,
};

/// Opens the tree at `ORTHOSCOPE_LOCAL_HUB`, else the current folder.
pub fn open(environment: &Environment) -> Result<Arc<dyn Hub>> {
    let path = environment.get("ORTHOSCOPE_LOCAL_HUB").unwrap_or(".");
    at(Path::new(path))
}

/// Opens the tree at a folder.
pub fn at(path: &Path) -> Result<Arc<dyn Hub>> {
    let doing = || format!("opening the directory tree {}", path.display());
    let full = std::path::absolute(path).map_err(|error| Error::io(doing(), error))?;
    let root = Url::from_directory_path(&full).map_err(|()| Error::new(ErrorKind::Usage, doing()))?;
    Ok(Arc::new(Local { root }))
}

impl Local {
    fn folder(&self, name: &str) -> Result<Url> {
        let mut segments: Vec<&str> = name.split('/').collect();
        segments.push("");
        join(&self.root, &segments)
    }
}

fn entries<'a>(value: &'a Value, answer: &Answer) -> Result<&'a Vec<Value>> {
    value.as_array().ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("reading the folder {}: not a list", shown(&answer.url)))
    })
}

impl Hub for Local {
    fn prefix(&self) -> &'static str {
        ENTRY.prefix
    }

    fn endpoint(&self) -> &Url {
        &self.root
    }

    fn credentials(&self) -> Vec<(HeaderName, HeaderValue)> {
        Vec::new()
    }

    fn default_revision(&self) -> Revision {
        Revision("now".to_owned())
    }

    fn list(&self, query: &Query) -> Result<Ask> {
        if !query.tags.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "listing a directory tree by tag: folders have no tags"));
        }
        let mut url = self.root.clone();
        if let Some(search) = &query.search {
            url.query_pairs_mut().append_pair("search", search);
        }
        if let Some(author) = &query.author {
            url.query_pairs_mut().append_pair("author", author);
        }
        Ok(Ask::get(url, Bucket::Api))
    }

    fn read_list(&self, ask: &Ask, answer: &Answer) -> Result<HubPage<RepoInfo>> {
        let wanted = |key: &str| {
            ask.url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.to_ascii_lowercase())
        };
        let (search, author) = (wanted("search"), wanted("author"));
        let value = answer.json()?;
        let mut items: Vec<RepoInfo> = Vec::new();
        for entry in entries(&value, answer)? {
            let Some(path) = text(entry, "path").filter(|path| is_plain_path(path)) else { continue };
            let Some((folder, file)) = path.rsplit_once('/') else { continue };
            let lower = folder.to_ascii_lowercase();
            if !is_weights(file)
                || folder.split('/').count() > 2
                || search.as_ref().is_some_and(|search| !lower.contains(search.as_str()))
                || author.as_ref().is_some_and(|author| lower.split('/').next() != Some(author.as_str()))
            {
                continue;
            }
            let modified = text(entry, "modified");
            match items.iter_mut().find(|item| item.name == folder) {
                Some(item) => {
                    if modified > item.modified {
                        item.modified.clone_from(&modified);
                        item.commit = modified;
                    }
                }
                None => items.push(RepoInfo {
                    name: folder.to_owned(),
                    key: folder.to_owned(),
                    commit: modified.clone(),
                    created: modified.clone(),
                    modified,
                    ..RepoInfo::default()
                }),
            }
        }
        Ok(HubPage { items, more: Vec::new(), incomplete: None })
    }

    fn info(&self, name: &str, _revision: Option<&Revision>) -> Result<Ask> {
        Ok(Ask::get(self.folder(name)?, Bucket::Api))
    }

    fn read_info(&self, answer: &Answer) -> Result<RepoInfo> {
        let value = answer.json()?;
        let newest = entries(&value, answer)?.iter().filter_map(|entry| text(entry, "modified")).max();
        let name = answer.url.path().strip_prefix(self.root.path()).unwrap_or_default().trim_end_matches('/');
        let name: String =
            url::form_urlencoded::parse(name.replace('+', "%2B").as_bytes()).map(|(key, _)| key.into_owned()).collect();
        Ok(RepoInfo {
            key: name.clone(),
            name,
            commit: newest.clone(),
            created: newest.clone(),
            modified: newest,
            ..RepoInfo::default()
        })
    }

    fn tree(&self, name: &str, _revision: &Revision) -> Result<Ask> {
        Ok(Ask::get(self.folder(name)?, Bucket::Api))
    }

    fn read_tree(&self, _ask: &Ask, answer: &Answer) -> Result<HubPage<RepoFile>> {
        let value = answer.json()?;
        let items = entries(&value, answer)?
            .iter()
            .filter_map(|entry| {
                Some(RepoFile {
                    path: text(entry, "path").filter(|path| is_plain_path(path))?,
                    bytes: entry.get("size").and_then(Value::as_u64)?,
                    sha256: None,
                    git: None,
                    large: false,
                })
            })
            .collect();
        Ok(HubPage { items, more: Vec::new(), incomplete: None })
    }

    fn file(&self, name: &str, _revision: &Revision, path: &str) -> Result<Ask> {
        let segments: Vec<&str> = name.split('/').chain(path.split('/')).collect();
        Ok(Ask::get(join(&self.root, &segments)?, Bucket::Delivery))
    }

    fn read_place(&self, answer: &Answer) -> Result<Place> {
        Ok(Place { url: answer.url.clone(), commit: None, sha256: None, bytes: None })
    }

    fn refusal(&self, answer: &Answer) -> Option<Refusal> {
        (answer.status >= 400).then(|| Refusal {
            kind: if answer.status == 404 { ErrorKind::NotFound } else { ErrorKind::Denied },
            passing: false,
            message: format!("{} cannot be read", shown(&answer.url)),
        })
    }
}
