//! ModelScope's protocol.
//!
//! Source: the public Python client `modelscope_hub` 0.5. What is odd about it, and how it is met: a listing reaches no
//! deeper than 3,000 repositories; a file tree is cut at 3,000 entries without a sign, so a tree of that length is
//! asked for again folder by folder; a refusal may come inside status 200; there is no commit per repository, so the
//! time of the last change stands in for one and every file is held to its SHA-256; there is no lineage filter, so a
//! base is searched for by name and the claim is read from the card.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};
use serde_json::Value;
use url::Url;

use super::huggingface::{bearer, clipped, place};
use super::location::{Pages, is_owner_and_name, revision_below};
use super::rows::Shape;
use super::{
    Access, Answer, Ask, Bucket, Environment, Hub, HubEntry, HubPage, Place, Query, Refusal, RepoFile, RepoInfo,
    is_plain_path, join, shown, text,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Revision;

/// Where ModelScope is unless `MODELSCOPE_ENDPOINT` says otherwise.
pub const DEFAULT_ENDPOINT: &str = "https://modelscope.cn";

/// Entries of a file tree after which the server cuts it off.
pub const TREE_CUT: usize = 3000;

/// `page_number × page_size` the listing allows.
const LIST_CAP: u64 = 3000;

/// Repositories per page of a listing.
const PAGE_SIZE: u64 = 100;

/// Keys that wrap the payload of an answer.
const AROUND: &[&str] = &["Data", "data"];

/// What is looked at of a repository's row. Its tags are kept as well.
const KEPT: &[&str] = &[
    "Path",
    "owner",
    "Name",
    "name",
    "id",
    "Private",
    "private",
    "Gated",
    "gated",
    "LoginRequired",
    "login_required",
    "LastUpdatedTime",
    "last_modified",
    "CreatedTime",
    "created_at",
    "Downloads",
    "downloads",
    "Stars",
    "likes",
];

const REPOSITORY: Shape = Shape { around: AROUND, beside: &[], kept: KEPT };

const REPOSITORIES: Shape = Shape {
    around: &["Data", "data", "models", "Models", "items"],
    beside: &["total_count", "TotalCount", "total"],
    kept: KEPT,
};

const FILES: Shape = Shape {
    around: &["Data", "data", "Files", "files"],
    beside: &[],
    kept: &["Path", "path", "Type", "type", "Size", "size", "Sha256", "sha256", "IsLFS", "is_lfs"],
};

const REFUSAL: Shape =
    Shape { around: &[], beside: &[], kept: &["Code", "code", "Success", "success", "Message", "message"] };

/// ModelScope at one endpoint.
pub struct ModelScope {
    endpoint: Url,
    token: Option<(HeaderValue, HeaderValue)>,
}

/// ModelScope as the program knows it.
pub static ENTRY: HubEntry = HubEntry {
    prefix: "ms",
    title: "ModelScope",
    open,
    is_name: is_owner_and_name,
    has_revisions: true,
    pages: Some(Pages {
        hosts: &["www.modelscope.cn", "modelscope.cn", "www.modelscope.ai", "modelscope.ai"],
        above: "models/",
        others: &[],
        // A page of a revision is a file's there.
        before_revision: None,
        revision: revision_shown,
    }),
    token_from: |environment| environment.get(TOKEN).map(|_| TOKEN.to_owned()),
};

/// The variable with the user's token.
const TOKEN: &str = "MODELSCOPE_API_TOKEN";

fn revision_shown(below: &[&str], address: &Url) -> Option<String> {
    match below {
        ["file", "view", revision, ..] => Some((*revision).to_owned()),
        _ => revision_below(below).or_else(|| query_value(address, "version")),
    }
}

/// Opens ModelScope as the environment says.
pub fn open(environment: &Environment) -> Result<Arc<dyn Hub>> {
    let endpoint = environment.endpoint("MODELSCOPE_ENDPOINT", DEFAULT_ENDPOINT)?;
    let token = environment
        .get(TOKEN)
        .map(|token| {
            let mut cookie = HeaderValue::from_str(&format!("m_session_id={token}"))
                .map_err(|_| Error::new(ErrorKind::Usage, "using MODELSCOPE_API_TOKEN: not a header value"))?;
            cookie.set_sensitive(true);
            Ok::<_, Error>((bearer(token)?, cookie))
        })
        .transpose()?;
    Ok(Arc::new(ModelScope { endpoint, token }))
}

impl ModelScope {
    fn at(&self, prefix: &[&str], name: &str, rest: &[&str]) -> Result<Url> {
        let mut segments = prefix.to_vec();
        segments.extend(name.split('/'));
        segments.extend(rest);
        join(&self.endpoint, &segments)
    }

    fn tree_of(&self, name: &str, revision: &Revision, root: &str, recursive: bool) -> Result<Ask> {
        let mut url = self.at(&["api", "v1", "models"], name, &["repo", "files"])?;
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("Revision", revision.as_str());
            pairs.append_pair("Recursive", if recursive { "True" } else { "False" });
            if !root.is_empty() {
                pairs.append_pair("Root", root);
            }
        }
        Ok(Ask::get(url, Bucket::Api))
    }
}

/// The payload of `{"Code":200,"Data":…}` or of the newer `{"success":true,"data":…}`; the value itself otherwise.
fn payload(value: Value) -> Value {
    match value {
        Value::Object(mut map) => match map.remove("Data").or_else(|| map.remove("data")) {
            Some(data) => data,
            None => Value::Object(map),
        },
        other => other,
    }
}

fn either(value: &Value, upper: &str, lower: &str) -> Option<Value> {
    value.get(upper).or_else(|| value.get(lower)).filter(|value| !value.is_null()).cloned()
}

fn query_value(url: &Url, key: &str) -> Option<String> {
    url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

/// A time as text, whether given as text or as seconds since 1970.
fn time(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        Value::Number(number) => {
            let seconds = number.as_i64()?;
            jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
        }
        _ => None,
    }
}

fn repository(row: &Value) -> Option<RepoInfo> {
    let name = match (either(row, "Path", "owner"), either(row, "Name", "name")) {
        (Some(Value::String(owner)), Some(Value::String(name))) if !name.contains('/') => format!("{owner}/{name}"),
        _ => text(row, "id")?,
    };
    if !is_plain_path(&name) || name.split('/').count() != 2 || name.len() > 256 || name.contains(['?', '#', '%', '@'])
    {
        return None;
    }
    let flag = |upper: &str, lower: &str| either(row, upper, lower).and_then(|value| value.as_bool()).unwrap_or(false);
    let access = if flag("Private", "private") {
        Access::Private
    } else if flag("Gated", "gated") || flag("LoginRequired", "login_required") {
        Access::Gated
    } else {
        Access::Open
    };
    let modified = time(either(row, "LastUpdatedTime", "last_modified"));
    let tags = either(row, "Tags", "tags");
    Some(RepoInfo {
        key: name.clone(),
        commit: modified.clone(),
        created: time(either(row, "CreatedTime", "created_at")),
        modified,
        tags: tags
            .and_then(|tags| Some(tags.as_array()?.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()))
            .unwrap_or_default(),
        downloads: either(row, "Downloads", "downloads").and_then(|value| value.as_u64()),
        likes: either(row, "Stars", "likes").and_then(|value| value.as_u64()),
        access,
        name,
        ..RepoInfo::default()
    })
}

impl Hub for ModelScope {
    fn prefix(&self) -> &'static str {
        ENTRY.prefix
    }

    fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    fn credentials(&self) -> Vec<(HeaderName, HeaderValue)> {
        self.token
            .iter()
            .flat_map(|(token, cookie)| [(header::AUTHORIZATION, token.clone()), (header::COOKIE, cookie.clone())])
            .collect()
    }

    fn default_revision(&self) -> Revision {
        Revision("master".to_owned())
    }

    fn list(&self, query: &Query) -> Result<Ask> {
        let mut url = join(&self.endpoint, &["openapi", "v1", "models"])?;
        {
            let mut pairs = url.query_pairs_mut();
            // No lineage filter: derivatives usually carry the base's name in theirs.
            let search = query
                .search
                .clone()
                .or_else(|| query.base.as_ref().map(|base| base.rsplit('/').next().unwrap_or(base).to_owned()));
            if let Some(search) = search {
                pairs.append_pair("search", &search);
            }
            if let Some(author) = &query.author {
                pairs.append_pair("owner", author);
            }
            for tag in &query.tags {
                pairs.append_pair("custom_tag", tag);
            }
            pairs.append_pair("page_number", "1").append_pair("page_size", &PAGE_SIZE.to_string());
        }
        Ok(Ask::get(url, Bucket::Api))
    }

    fn read_list(&self, ask: &Ask, answer: &Answer) -> Result<HubPage<RepoInfo>> {
        let page = REPOSITORIES.list(answer, "the listing")?;
        let total = REPOSITORIES.beside.iter().find_map(|key| page.beside.get(*key)?.as_u64());
        let (rows, listed) = (page.rows, page.all);
        let page: u64 = query_value(&ask.url, "page_number").and_then(|page| page.parse().ok()).unwrap_or(1);
        let asked = page.saturating_mul(PAGE_SIZE);
        let further = listed > 0 && total.map_or(listed as u64 >= PAGE_SIZE, |total| asked < total);
        let mut more = Vec::new();
        let mut incomplete = None;
        if further {
            if asked.saturating_add(PAGE_SIZE) <= LIST_CAP {
                let pairs: Vec<(String, String)> = ask
                    .url
                    .query_pairs()
                    .into_owned()
                    .map(|(key, value)| if key == "page_number" { (key, (page + 1).to_string()) } else { (key, value) })
                    .collect();
                let mut url = ask.url.clone();
                url.query_pairs_mut().clear().extend_pairs(pairs);
                more.push(Ask::get(url, Bucket::Api));
            } else {
                incomplete = Some(format!("the hub lists only the first {LIST_CAP} of {}", total.unwrap_or(asked + 1)));
            }
        }
        Ok(HubPage { items: rows.iter().filter_map(repository).collect(), more, incomplete })
    }

    fn info(&self, name: &str, _revision: Option<&Revision>) -> Result<Ask> {
        Ok(Ask::get(self.at(&["openapi", "v1", "models"], name, &[])?, Bucket::Api))
    }

    fn read_info(&self, answer: &Answer) -> Result<RepoInfo> {
        repository(&payload(REPOSITORY.one(answer)?)).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("reading {}: no repository in the answer", shown(&answer.url)))
        })
    }

    fn tree(&self, name: &str, revision: &Revision) -> Result<Ask> {
        self.tree_of(name, revision, "", true)
    }

    fn read_tree(&self, ask: &Ask, answer: &Answer) -> Result<HubPage<RepoFile>> {
        let page = FILES.list(answer, "the tree")?;
        let (rows, listed) = (page.rows, page.all);
        let root = query_value(&ask.url, "Root").unwrap_or_default();
        let revision = query_value(&ask.url, "Revision").map_or_else(|| self.default_revision(), Revision);
        let recursive = query_value(&ask.url, "Recursive").is_some_and(|value| value == "True");
        let name = repository_of(&self.endpoint, &ask.url).unwrap_or_default();
        if recursive && listed >= TREE_CUT {
            // Cut off: the folder's own entries first, each of its folders after that.
            let more = vec![self.tree_of(&name, &revision, &root, false)?];
            return Ok(HubPage { items: Vec::new(), more, incomplete: None });
        }
        let mut page = HubPage { items: Vec::new(), more: Vec::new(), incomplete: None };
        if !recursive && listed >= TREE_CUT {
            page.incomplete = Some(format!("folder {root:?} has more entries than the hub lists ({TREE_CUT})"));
        }
        for row in &rows {
            let Some(path) = text(row, "Path").or_else(|| text(row, "path")).filter(|path| is_plain_path(path)) else {
                page.incomplete = Some("an entry with a path that leaves the repository".to_owned());
                continue;
            };
            if text(row, "Type").or_else(|| text(row, "type")).is_some_and(|kind| kind == "tree") {
                if !recursive {
                    page.more.push(self.tree_of(&name, &revision, &path, true)?);
                }
                continue;
            }
            let Some(bytes) = either(row, "Size", "size").and_then(|size| size.as_u64()) else { continue };
            let sha256 = either(row, "Sha256", "sha256").and_then(|sha| sha.as_str()?.parse().ok());
            let large = either(row, "IsLFS", "is_lfs").and_then(|flag| flag.as_bool()).unwrap_or(bytes > 5 << 20);
            page.items.push(RepoFile { path, bytes, sha256, git: None, large });
        }
        Ok(page)
    }

    fn file(&self, name: &str, revision: &Revision, path: &str) -> Result<Ask> {
        let mut url = self.at(&["api", "v1", "models"], name, &["repo"])?;
        url.query_pairs_mut().append_pair("Revision", revision.as_str()).append_pair("FilePath", path);
        Ok(Ask::get(url, Bucket::Resolver))
    }

    fn read_place(&self, answer: &Answer) -> Result<Place> {
        place(answer, "x-linked-etag", "x-linked-size")
    }

    fn refusal(&self, answer: &Answer) -> Option<Refusal> {
        let json = answer.header("content-type").is_some_and(|kind| kind.contains("json"));
        let body = if json { REFUSAL.one(answer).unwrap_or_default() } else { Value::default() };
        let code = either(&body, "Code", "code");
        let number = code.as_ref().and_then(Value::as_u64);
        let word = code.as_ref().and_then(Value::as_str).unwrap_or_default();
        let failed = either(&body, "Success", "success").and_then(|flag| flag.as_bool()) == Some(false);
        // A business refusal inside status 200 says so in the body.
        let status = match (answer.status, failed) {
            (200..400, false) => return None,
            (200..400, true) => number.filter(|code| (400..600).contains(code)).unwrap_or(404) as u16,
            (status, _) => status,
        };
        let said = either(&body, "Message", "message").and_then(|text| text.as_str().map(clipped)).unwrap_or_default();
        let (kind, ours) = match (word, status) {
            ("ResourceNotFound", _) => (ErrorKind::NotFound, "not found"),
            ("OperationNotAllowed", _) => (ErrorKind::Denied, "access denied"),
            ("QuotaLimitExceed" | "RateLimitExceed", _) => (ErrorKind::Network, "over the hub's quota"),
            (_, 404) => (ErrorKind::NotFound, "not found"),
            (_, 401 | 403) => (ErrorKind::Denied, "access denied"),
            (_, 410 | 451) => (ErrorKind::Disabled, "taken down"),
            (_, 416) => (ErrorKind::Moved, "the file is shorter than listed"),
            _ => (ErrorKind::Network, "the hub refuses"),
        };
        let passing = matches!(status, 408 | 416 | 429 | 500 | 502 | 503 | 504)
            || matches!(word, "QuotaLimitExceed" | "RateLimitExceed")
            // Later pages of a long tree are sometimes refused for no reason and answered the next time.
            || (status == 403 && answer.url.path().ends_with("/repo/files"));
        Some(Refusal { kind, passing, message: format!("{ours} (status {status}: {said})") })
    }
}

/// `owner/name` out of an address of this hub.
fn repository_of(endpoint: &Url, url: &Url) -> Option<String> {
    let skip = endpoint.path_segments().map_or(0, |segments| segments.filter(|part| !part.is_empty()).count());
    let parts: Vec<&str> = url.path_segments()?.skip(skip + 3).take(2).collect();
    (parts.len() == 2).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> ModelScope {
        ModelScope { endpoint: Url::parse("http://127.0.0.1:8").unwrap(), token: None }
    }

    fn answer(status: u16, body: String) -> Answer {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        Answer { url: Url::parse("http://127.0.0.1:8/x").unwrap(), status, headers, body: body.into() }
    }

    #[test]
    fn a_tree_of_exactly_the_cut_length_is_asked_for_again_by_folder() {
        let hub = hub();
        let rows: Vec<String> =
            (0..TREE_CUT).map(|i| format!(r#"{{"Path":"d/{i}","Type":"blob","Size":1}}"#)).collect();
        let body = format!(r#"{{"Code":200,"Data":{{"Files":[{}]}}}}"#, rows.join(","));
        let ask = hub.tree("o/n", &hub.default_revision()).unwrap();
        let page = hub.read_tree(&ask, &answer(200, body)).unwrap();
        assert!(page.items.is_empty());
        assert!(page.more[0].url.query().unwrap().contains("Recursive=False"));
        let body =
            r#"{"Data":{"Files":[{"Path":"d","Type":"tree"},{"Path":"a","Type":"blob","Size":3,"Sha256":"x"}]}}"#;
        let page = hub.read_tree(&page.more[0], &answer(200, body.into())).unwrap();
        assert_eq!(page.items.len(), 1);
        assert_eq!(query_value(&page.more[0].url, "Root").as_deref(), Some("d"));
        assert!(page.more[0].url.path().contains("/o/n/repo/files"));
    }

    #[test]
    fn a_refusal_inside_status_200_is_a_refusal() {
        let refusal = hub().refusal(&answer(200, r#"{"Code":404,"Success":false,"Message":"no"}"#.into())).unwrap();
        assert_eq!(refusal.kind, ErrorKind::NotFound);
        assert!(!refusal.passing);
        assert!(hub().refusal(&answer(200, r#"{"Code":200,"Success":true}"#.into())).is_none());
        assert!(hub().refusal(&answer(429, "{}".into())).unwrap().passing);
        let limited = r#"{"code":"RateLimitExceed","success":false}"#;
        assert!(hub().refusal(&answer(200, limited.into())).unwrap().passing);
    }

    #[test]
    fn a_listing_stops_at_the_cap_and_says_so() {
        let hub = hub();
        let mut ask = hub.list(&Query { base: Some("org/Base-1B".into()), ..Query::default() }).unwrap();
        assert_eq!(query_value(&ask.url, "search").as_deref(), Some("Base-1B"));
        let body =
            r#"{"success":true,"data":{"total_count":9999,"models":[{"id":"o/n","last_modified":"2026-01-01"}]}}"#;
        for _ in 0..29 {
            let page = hub.read_list(&ask, &answer(200, body.into())).unwrap();
            assert_eq!(page.items[0].commit.as_deref(), Some("2026-01-01"));
            ask = page.more[0].clone();
        }
        let page = hub.read_list(&ask, &answer(200, body.into())).unwrap();
        assert!(page.more.is_empty() && page.incomplete.is_some());
    }
}
