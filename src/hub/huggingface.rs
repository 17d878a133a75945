//! The Hugging Face Hub's protocol.
//!
//! Sources: the Hub's OpenAPI document and the public Python client `huggingface_hub` 2.4. Two points of etiquette are
//! built in: a file called `config.json` is never asked for (each request counts as a public download; the Hub's own
//! reading of it comes with `expand=config`), and everything is read by commit, so that a repository pushed to while it
//! is read cannot mix two revisions.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};
use serde_json::Value;
use url::Url;

use super::cache::CachedRepo;
use super::location::{Pages, is_owner_and_name, revision_below};
use super::rows::Shape;
use super::{
    Access, Answer, Ask, Bucket, Environment, Hub, HubEntry, HubPage, Place, Query, Refusal, RepoFile, RepoInfo,
    is_plain_path, join, shown, text,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, GitName, Revision};
use crate::limits;

/// Where the Hub is unless `HF_ENDPOINT` says otherwise.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// What is asked of each repository of a listing. `baseModels` is refused on the list and so is not here.
const EXPAND: &[&str] = &[
    "sha",
    "lastModified",
    "createdAt",
    "tags",
    "cardData",
    "config",
    "downloads",
    "likes",
    "gated",
    "disabled",
    "private",
    "library_name",
];

/// What is looked at of a repository's row. Its tags are kept as well.
const REPOSITORY: Shape = Shape {
    around: &[],
    beside: &[],
    kept: &[
        "_id",
        "id",
        "modelId",
        "sha",
        "createdAt",
        "lastModified",
        "cardData",
        "config",
        "baseModels",
        "downloads",
        "likes",
        "gated",
        "disabled",
        "private",
        "library_name",
    ],
};

/// What is looked at of a file's row.
const FILE: Shape = Shape { around: &[], beside: &[], kept: &["type", "path", "oid", "size", "lfs"] };

/// The Hub at one endpoint.
pub struct HuggingFace {
    endpoint: Url,
    token: Option<HeaderValue>,
}

/// The Hub as the program knows it.
pub static ENTRY: HubEntry = HubEntry {
    prefix: "hf",
    title: "Hugging Face",
    open,
    is_name: is_owner_and_name,
    has_revisions: true,
    pages: Some(Pages {
        hosts: &["huggingface.co", "www.huggingface.co", "hf.co"],
        above: "",
        others: &["datasets", "spaces"],
        before_revision: Some("tree"),
        revision: |below, _| revision_below(below),
    }),
    token_from,
};

fn token_from(environment: &Environment) -> Option<String> {
    if environment.get("HF_TOKEN").is_some() {
        return Some("HF_TOKEN".to_owned());
    }
    environment.hf_token().map(|_| environment.hf_token_path().display().to_string())
}

/// Opens the Hub as the environment says.
pub fn open(environment: &Environment) -> Result<Arc<dyn Hub>> {
    let endpoint = environment.endpoint("HF_ENDPOINT", DEFAULT_ENDPOINT)?;
    let token = environment.hf_token().map(|token| bearer(&token)).transpose()?;
    Ok(Arc::new(HuggingFace { endpoint, token }))
}

/// `Bearer TOKEN` as a header value that debug output hides.
pub(super) fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Error::new(ErrorKind::Usage, "using the hub token: it holds characters a header cannot carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl HuggingFace {
    fn models(&self, name: &str, rest: &[&str]) -> Result<Url> {
        let mut segments = vec!["api", "models"];
        segments.extend(name.split('/'));
        segments.extend(rest);
        join(&self.endpoint, &segments)
    }

    /// A `Link: <…>; rel="next"` address, on this hub whatever host it names (a mirror may forget to rewrite it).
    fn next(&self, answer: &Answer) -> Result<Vec<Ask>> {
        let Some(link) = answer.headers.get_all(header::LINK).iter().find_map(|value| next_link(value.to_str().ok()?))
        else {
            return Ok(Vec::new());
        };
        let doing = || format!("following the next page of {}", shown(&answer.url));
        let mut url = answer.url.join(&link).map_err(|error| Error::because(ErrorKind::Malformed, doing(), error))?;
        let moved = url.set_scheme(self.endpoint.scheme()).is_ok()
            && url.set_host(self.endpoint.host_str()).is_ok()
            && url.set_port(self.endpoint.port()).is_ok();
        if !moved || url == answer.url {
            return Err(Error::new(ErrorKind::Malformed, format!("{}: it points nowhere or at itself", doing())));
        }
        Ok(vec![Ask::get(url, Bucket::Api)])
    }
}

/// The target of the `rel="next"` part of a `Link` header.
fn next_link(header: &str) -> Option<String> {
    header.split(',').find_map(|part| {
        let (target, attributes) = part.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = attributes.split(';').any(|attribute| {
            let attribute = attribute.trim();
            attribute.eq_ignore_ascii_case("rel=\"next\"") || attribute.eq_ignore_ascii_case("rel=next")
        });
        is_next.then(|| target.to_owned())
    })
}

impl Hub for HuggingFace {
    fn prefix(&self) -> &'static str {
        ENTRY.prefix
    }

    fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    fn credentials(&self) -> Vec<(HeaderName, HeaderValue)> {
        self.token.iter().map(|token| (header::AUTHORIZATION, token.clone())).collect()
    }

    fn default_revision(&self) -> Revision {
        Revision("main".to_owned())
    }

    fn keeps_commits(&self) -> bool {
        true
    }

    fn lists_newest_first(&self) -> bool {
        true
    }

    fn cached(&self, environment: &Environment, name: &str) -> Option<CachedRepo> {
        CachedRepo::find(environment, name)
    }

    fn probe(&self) -> Result<Ask> {
        // Any request is refused when its token is wrong, also one for what is public.
        let mut url = join(&self.endpoint, &["api", "models"])?;
        url.query_pairs_mut().append_pair("limit", "1");
        Ok(Ask::get(url, Bucket::Api))
    }

    fn list(&self, query: &Query) -> Result<Ask> {
        let mut url = join(&self.endpoint, &["api", "models"])?;
        {
            let mut pairs = url.query_pairs_mut();
            if let Some(base) = &query.base {
                match &query.relation {
                    Some(relation) => pairs.append_pair("filter", &format!("base_model:{relation}:{base}")),
                    None => pairs.append_pair("filter", &format!("base_model:{base}")),
                };
            }
            for tag in &query.tags {
                pairs.append_pair("filter", tag);
            }
            if let Some(author) = &query.author {
                pairs.append_pair("author", author);
            }
            if let Some(search) = &query.search {
                pairs.append_pair("search", search);
            }
            // By creation, since sorting by what changes moves rows between pages while they are read.
            pairs.append_pair("sort", "createdAt").append_pair("limit", "1000");
            for field in EXPAND {
                pairs.append_pair("expand", field);
            }
        }
        Ok(Ask::get(url, Bucket::Api))
    }

    fn read_list(&self, _ask: &Ask, answer: &Answer) -> Result<HubPage<RepoInfo>> {
        let rows = REPOSITORY.list(answer, "the listing")?.rows;
        // A row that is no repository is left out; an empty page is not the end, only an absent link is.
        let items = rows.iter().filter_map(repository).collect();
        Ok(HubPage { items, more: self.next(answer)?, incomplete: None })
    }

    fn info(&self, name: &str, revision: Option<&Revision>) -> Result<Ask> {
        let mut url = match revision {
            Some(revision) => self.models(name, &["revision", revision.as_str()])?,
            None => self.models(name, &[])?,
        };
        {
            let mut pairs = url.query_pairs_mut();
            for field in EXPAND {
                pairs.append_pair("expand", field);
            }
            pairs.append_pair("expand", "baseModels");
        }
        Ok(Ask::get(url, Bucket::Api))
    }

    fn read_info(&self, answer: &Answer) -> Result<RepoInfo> {
        repository(&REPOSITORY.one(answer)?).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("reading {}: no repository in the answer", shown(&answer.url)))
        })
    }

    fn tree(&self, name: &str, revision: &Revision) -> Result<Ask> {
        let mut url = self.models(name, &["tree", revision.as_str()])?;
        url.query_pairs_mut().append_pair("recursive", "true");
        Ok(Ask::get(url, Bucket::Api))
    }

    fn read_tree(&self, _ask: &Ask, answer: &Answer) -> Result<HubPage<RepoFile>> {
        let rows = FILE.list(answer, "the tree")?.rows;
        let mut refused = 0usize;
        let items = rows
            .iter()
            .filter(|row| text(row, "type").is_none_or(|kind| kind == "file"))
            .filter_map(|row| {
                let path = text(row, "path").filter(|path| is_plain_path(path));
                if path.is_none() {
                    refused += 1;
                }
                let lfs = row.get("lfs").filter(|lfs| lfs.is_object());
                let sha256 =
                    lfs.and_then(|lfs| text(lfs, "oid").or_else(|| text(lfs, "sha256"))).and_then(|o| o.parse().ok());
                let bytes = lfs.and_then(|lfs| lfs.get("size")).or_else(|| row.get("size")).and_then(Value::as_u64)?;
                // Beside a large file stands the git name of its pointer, which says nothing of the content.
                let git = text(row, "oid").filter(|_| lfs.is_none()).and_then(|oid| GitName::parse(&oid));
                Some(RepoFile { path: path?, bytes, sha256, git, large: lfs.is_some() })
            })
            .collect();
        let incomplete = (refused > 0).then(|| format!("{refused} entries with paths that leave the repository"));
        Ok(HubPage { items, more: self.next(answer)?, incomplete })
    }

    fn file(&self, name: &str, revision: &Revision, path: &str) -> Result<Ask> {
        let mut segments: Vec<&str> = name.split('/').collect();
        segments.extend(["resolve", revision.as_str()]);
        segments.extend(path.split('/'));
        Ok(Ask::get(join(&self.endpoint, &segments)?, Bucket::Resolver))
    }

    fn read_place(&self, answer: &Answer) -> Result<Place> {
        place(answer, "x-linked-etag", "x-linked-size")
    }

    fn counts_as_download(&self, path: &str) -> bool {
        path == "config.json" || path == "adapter_config.json" || path.ends_with(".gguf")
    }

    fn refusal(&self, answer: &Answer) -> Option<Refusal> {
        if answer.status < 400 {
            return None;
        }
        let code = answer.header("x-error-code").unwrap_or_default();
        let said = answer.header("x-error-message").map(str::to_owned).or_else(|| {
            let value: Value =
                serde_json::from_slice(answer.body.get(..limits::MAX_REFUSAL_BYTES).unwrap_or(&answer.body)).ok()?;
            text(&value, "error")
        });
        let said_lower = said.as_deref().unwrap_or_default().to_ascii_lowercase();
        // The code first, then the message, then the status: a disabled repository has a message alone, and a missing
        // one asked for without a token has only the status of a denied one.
        let (kind, ours) = match code {
            "RepoNotFound" => (ErrorKind::NotFound, "the repository does not exist, or is private"),
            "EntryNotFound" => (ErrorKind::NotFound, "the file does not exist at this revision"),
            "RevisionNotFound" => (ErrorKind::Moved, "the revision is gone"),
            "GatedRepo" => (ErrorKind::Denied, "the repository is gated: its publisher must grant access"),
            _ if said_lower.contains("access to this resource is disabled") => {
                (ErrorKind::Disabled, "the hub has disabled the repository")
            }
            _ => match answer.status {
                401 if said_lower.contains("invalid credentials") => (ErrorKind::Denied, "the hub rejects the token"),
                401 => (ErrorKind::NotFound, "the repository does not exist, or is private"),
                403 => (ErrorKind::Denied, "access denied"),
                404 => (ErrorKind::NotFound, "not found"),
                410 | 451 => (ErrorKind::Disabled, "taken down"),
                416 => (ErrorKind::Moved, "the file is shorter than listed"),
                408 | 429 | 500 | 502 | 503 | 504 => (ErrorKind::Network, "the hub is overloaded or broken"),
                _ => (ErrorKind::Network, "the hub refuses"),
            },
        };
        // A file that is there in part is no file that moved: the same is asked for again before it counts as one.
        let passing = matches!(answer.status, 408 | 416 | 429 | 500 | 502 | 503 | 504);
        let message = match said {
            Some(said) => format!("{ours} (status {}: {})", answer.status, clipped(&said)),
            None => format!("{ours} (status {})", answer.status),
        };
        Some(Refusal { kind, passing, message })
    }
}

/// A hub's own words, short and on one line.
pub(super) fn clipped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Where the bytes are, from a redirect or from a plain answer. The two headers carry content hash and length.
pub(super) fn place(answer: &Answer, hash: &str, length: &str) -> Result<Place> {
    let url = match answer.status {
        301 | 302 | 303 | 307 | 308 => {
            let target = answer.header("location").ok_or_else(|| {
                Error::new(ErrorKind::Malformed, format!("following {}: a redirect without target", shown(&answer.url)))
            })?;
            let url = answer.url.join(target).map_err(|error| {
                Error::because(ErrorKind::Malformed, format!("following the redirect of {}", shown(&answer.url)), error)
            })?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(Error::new(
                    ErrorKind::Malformed,
                    format!("following the redirect of {}: to scheme {}", shown(&answer.url), url.scheme()),
                ));
            }
            url
        }
        _ => answer.url.clone(),
    };
    // 40 hex digits are a git object name, not a content hash; only 64 are one.
    let sha256 = answer
        .header(hash)
        .map(|value| value.trim_start_matches("W/").trim_matches('"'))
        .filter(|value| value.len() == 64)
        .and_then(|value| value.parse::<Digest>().ok());
    Ok(Place {
        url,
        commit: answer.header("x-repo-commit").map(str::to_owned),
        sha256,
        bytes: answer.header(length).and_then(|value| value.parse().ok()),
    })
}

fn repository(row: &Value) -> Option<RepoInfo> {
    let name = text(row, "id").or_else(|| text(row, "modelId"))?;
    // The name becomes part of addresses and records: at most owner and name, nothing that leaves the path.
    if !is_plain_path(&name) || name.split('/').count() > 2 || name.len() > 256 || name.contains(['?', '#', '%', '@']) {
        return None;
    }
    let flag = |key: &str| row.get(key).and_then(Value::as_bool).unwrap_or(false);
    let gated = match row.get("gated") {
        Some(Value::Bool(gated)) => *gated,
        Some(Value::String(_)) => true,
        _ => false,
    };
    let access = match (flag("disabled"), flag("private"), gated) {
        (true, _, _) => Access::Disabled,
        (_, true, _) => Access::Private,
        (_, _, true) => Access::Gated,
        _ => Access::Open,
    };
    let tags = row.get("tags").and_then(Value::as_array);
    Some(RepoInfo {
        key: text(row, "_id").unwrap_or_else(|| name.clone()),
        commit: text(row, "sha"),
        created: text(row, "createdAt"),
        modified: text(row, "lastModified"),
        tags: tags
            .map(|tags| tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect())
            .unwrap_or_default(),
        card: row.get("cardData").cloned().unwrap_or_default(),
        config: row.get("config").cloned().unwrap_or_default(),
        base_models: row.get("baseModels").cloned().unwrap_or_default(),
        downloads: row.get("downloads").and_then(Value::as_u64),
        likes: row.get("likes").and_then(Value::as_u64),
        access,
        library: text(row, "library_name"),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> HuggingFace {
        HuggingFace { endpoint: Url::parse("http://127.0.0.1:8").unwrap(), token: None }
    }

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        Answer {
            url: Url::parse("http://127.0.0.1:8/api/models?limit=2").unwrap(),
            status,
            headers,
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn a_listing_asks_with_repeated_filters_and_never_for_base_models() {
        let query = Query {
            base: Some("org/base".into()),
            relation: Some("finetune".into()),
            tags: vec!["heretic".into()],
            ..Query::default()
        };
        let ask = hub().list(&query).unwrap();
        let pairs: Vec<(String, String)> = ask.url.query_pairs().into_owned().collect();
        assert!(pairs.contains(&("filter".into(), "base_model:finetune:org/base".into())));
        assert!(pairs.contains(&("filter".into(), "heretic".into())));
        assert!(pairs.contains(&("sort".into(), "createdAt".into())));
        assert!(pairs.contains(&("expand".into(), "config".into())));
        assert!(!pairs.iter().any(|(_, value)| value == "baseModels"));
    }

    #[test]
    fn a_revision_with_a_slash_is_one_segment_and_a_path_is_many() {
        let ask = hub().tree("org/name", &Revision("refs/pr/1".to_owned())).unwrap();
        assert_eq!(ask.url.path(), "/api/models/org/name/tree/refs%2Fpr%2F1");
        let ask = hub().file("org/name", &Revision("abc".to_owned()), "a b/c#d.safetensors").unwrap();
        assert_eq!(ask.url.path(), "/org/name/resolve/abc/a%20b/c%23d.safetensors");
    }

    #[test]
    fn an_empty_page_with_a_link_is_not_the_end_and_the_link_stays_on_this_hub() {
        let page = hub()
            .read_list(
                &hub().list(&Query::default()).unwrap(),
                &answer(200, &[("link", "<https://elsewhere.example/api/models?cursor=xyz>; rel=\"next\"")], "[]"),
            )
            .unwrap();
        assert!(page.items.is_empty());
        assert_eq!(page.more[0].url.as_str(), "http://127.0.0.1:8/api/models?cursor=xyz");
    }

    #[test]
    fn odd_rows_are_left_out_and_gated_comes_in_three_shapes() {
        let body = r#"[{"id":"a/b","gated":"auto","sha":"1","_id":"k","tags":["x",3],"cardData":{"base_model":["p/q"]}},
            {"id":"../x"},{"id":"a/b/c"},7,{"id":"c/d","gated":false,"disabled":true},{"id":"gpt2","gated":true}]"#;
        let page = hub().read_list(&hub().list(&Query::default()).unwrap(), &answer(200, &[], body)).unwrap();
        let names: Vec<(&str, Access)> = page.items.iter().map(|item| (item.name.as_str(), item.access)).collect();
        assert_eq!(names, [("a/b", Access::Gated), ("c/d", Access::Disabled), ("gpt2", Access::Gated)]);
        assert_eq!(page.items[0].tags, ["x"]);
    }

    #[test]
    fn a_tree_gives_sha256_of_large_files_only_and_refuses_paths_that_leave() {
        let body = r#"[{"type":"file","oid":"aa","size":5,"path":"README.md"},{"type":"directory","path":"d"},
            {"type":"file","oid":"bb","size":9,"path":"d/m.safetensors","lfs":{"oid":
            "0000000000000000000000000000000000000000000000000000000000000001","size":9,"pointerSize":130}},
            {"type":"file","oid":"cc","size":1,"path":"../../etc/passwd"}]"#;
        let page = hub()
            .read_tree(&hub().tree("a/b", &Revision("main".to_owned())).unwrap(), &answer(200, &[], body))
            .unwrap();
        assert_eq!(page.items.len(), 2);
        assert_eq!(page.items[0].sha256, None);
        assert!(page.items[1].large && page.items[1].sha256.is_some());
        assert!(page.incomplete.is_some());
    }

    #[test]
    fn refusals_are_told_apart_by_code_then_message_then_status() {
        let kind = |status, headers: &[(&'static str, &str)]| hub().refusal(&answer(status, headers, "")).unwrap().kind;
        assert_eq!(kind(401, &[("x-error-message", "Invalid username or password.")]), ErrorKind::NotFound);
        assert_eq!(kind(401, &[("x-error-code", "GatedRepo")]), ErrorKind::Denied);
        assert_eq!(kind(403, &[("x-error-message", "Access to this resource is disabled.")]), ErrorKind::Disabled);
        assert_eq!(kind(404, &[("x-error-code", "RevisionNotFound")]), ErrorKind::Moved);
        assert_eq!(kind(401, &[("x-error-message", "Invalid credentials in Authorization header")]), ErrorKind::Denied);
        assert!(hub().refusal(&answer(503, &[], "")).unwrap().passing);
        assert!(hub().refusal(&answer(206, &[], "")).is_none());
    }

    #[test]
    fn a_redirect_tells_place_hash_and_length() {
        let sha = "a".repeat(64);
        let found = hub()
            .read_place(&answer(
                302,
                &[
                    ("location", "http://127.0.0.1:9/x?Signature=1"),
                    ("x-linked-etag", &format!("\"{sha}\"")),
                    ("x-linked-size", "12"),
                    ("x-repo-commit", "c0"),
                ],
                "",
            ))
            .unwrap();
        assert_eq!((found.url.port(), found.bytes, found.commit.as_deref()), (Some(9), Some(12), Some("c0")));
        assert_eq!(found.sha256.unwrap().hex(), sha);
        let relative = hub().read_place(&answer(307, &[("location", "/api/resolve-cache/x")], "")).unwrap();
        assert_eq!(relative.url.as_str(), "http://127.0.0.1:8/api/resolve-cache/x");
        assert!(hub().read_place(&answer(302, &[("location", "file:///etc/passwd")], "")).is_err());
    }
}
