//! The Hugging Face Hub's routes.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Map, Value, json};

use super::answer::{StandinAsked, json as json_answer, put, refused};
use super::repository::FileContent;
use super::{Gate, Repository, StandinState, Surprise, delivery};

const ON_LIST: &[&str] = &[
    "author",
    "cardData",
    "config",
    "createdAt",
    "disabled",
    "downloads",
    "downloadsAllTime",
    "evalResults",
    "gated",
    "gguf",
    "inference",
    "inferenceProviderMapping",
    "lastModified",
    "library_name",
    "likes",
    "mask_token",
    "model-index",
    "pipeline_tag",
    "private",
    "resourceGroup",
    "safetensors",
    "sha",
    "siblings",
    "spaces",
    "tags",
    "transformersInfo",
    "trendingScore",
    "widgetData",
];
const ON_ONE: &[&str] = &["baseModels", "childrenModelCount", "usedStorage", "securityRepoStatus", "xetEnabled"];

/// Answers one request of this hub.
pub(super) fn answer(state: &Arc<StandinState>, asked: &StandinAsked) -> Response {
    let parts: Vec<&str> = asked.path.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api", "models"] => list(state, asked),
        ["api", "resolve-cache", "models", owner, name, commit, path @ ..] => {
            small(state, asked, &format!("{owner}/{name}"), commit, &path.join("/"))
        }
        ["api", "models", owner, name, rest @ ..] => one(state, asked, &format!("{owner}/{name}"), rest),
        [owner, name, "resolve", revision, path @ ..] if !path.is_empty() => {
            resolve(state, asked, &format!("{owner}/{name}"), revision, &path.join("/"))
        }
        _ => refused(404, None, "Not found"),
    }
}

fn expansions(asked: &StandinAsked, one: bool) -> Result<Vec<&str>, Response> {
    let wanted = asked.values("expand");
    match wanted.iter().find(|field| !(ON_LIST.contains(field) || one && ON_ONE.contains(field))) {
        None => Ok(wanted),
        Some(field) => Err(refused(400, None, &format!("Invalid expand value: {field}"))),
    }
}

fn list(state: &Arc<StandinState>, asked: &StandinAsked) -> Response {
    // A wrong token is refused even where none is needed.
    let known = state.settings.token.as_deref();
    if known.is_some() && asked.token().is_some() && asked.token() != known {
        return refused(401, None, "Invalid credentials in Authorization header");
    }
    let expand = match expansions(asked, false) {
        Ok(expand) => expand,
        Err(response) => return response,
    };
    let filters = asked.values("filter");
    let lower = |text: &str| text.to_ascii_lowercase();
    let mut found: Vec<Arc<Repository>> = state
        .repositories()
        .into_iter()
        .filter(|repository| {
            let tags = repository.all_tags();
            let owner = repository.name.split('/').next().unwrap_or_default();
            !repository.private
                && filters.iter().all(|filter| tags.iter().any(|tag| tag == filter))
                && asked.value("author").is_none_or(|author| author == owner)
                && asked.value("search").is_none_or(|search| lower(&repository.name).contains(&lower(search)))
                && asked.value("gated").is_none_or(|gated| (gated == "true") == (repository.gate != Gate::Open))
        })
        .collect();
    match asked.value("sort") {
        Some("downloads") => found.sort_by_key(|repo| (std::cmp::Reverse(repo.downloads), repo.name.clone())),
        Some("likes") => found.sort_by_key(|repo| (std::cmp::Reverse(repo.likes), repo.name.clone())),
        _ => found.sort_by_key(|repo| (std::cmp::Reverse(repo.created.clone()), repo.name.clone())),
    }
    // The cursor names the last repository shown, not a position: rows may come and go between pages.
    let after = asked.value("cursor").and_then(|cursor| {
        let text = String::from_utf8(BASE64.decode(cursor).ok()?).ok()?;
        found.iter().position(|repository| repository.name == text)
    });
    let limit = asked
        .value("limit")
        .and_then(|limit| limit.parse::<usize>().ok())
        .unwrap_or(state.settings.list_page)
        .clamp(1, state.settings.list_page);
    let from = after.map_or(0, |at| at + 1);
    let page: Vec<&Arc<Repository>> = found.iter().skip(from).take(limit).collect();
    let full = !filters.is_empty() || asked.value("full").is_some_and(|full| full.eq_ignore_ascii_case("true"));
    let rows: Vec<Value> = page.iter().map(|repository| facts(repository, state, &expand, full, asked)).collect();
    let mut response = json_answer(StatusCode::OK, &Value::Array(rows));
    if from + page.len() < found.len()
        && let Some(last) = page.last()
    {
        let mut url = url::form_urlencoded::Serializer::new(String::new());
        url.extend_pairs(asked.query.iter().filter(|(key, _)| key != "cursor"));
        url.append_pair("cursor", &BASE64.encode(&last.name));
        put(&mut response, "link", &format!("<{}/api/models?{}>; rel=\"next\"", state.hub, url.finish()));
    }
    response
}

/// A repository's facts, as far as asked for.
fn facts(repository: &Repository, state: &StandinState, expand: &[&str], full: bool, asked: &StandinAsked) -> Value {
    let mut row = Map::new();
    row.insert("_id".into(), json!(repository.key()));
    row.insert("id".into(), json!(repository.name));
    let author = repository.name.split('/').next();
    let sizes = asked.value("blobs").is_some_and(|blobs| blobs.eq_ignore_ascii_case("true"));
    let siblings = || {
        let file = |(path, content): (&String, &FileContent)| {
            let mut sibling = Map::new();
            sibling.insert("rfilename".into(), json!(path));
            if sizes {
                let large = repository.is_large(path, content, state.settings.large_from);
                sibling.insert("size".into(), json!(content.len()));
                sibling.insert("blobId".into(), json!(content.git_name(large)));
                if large {
                    sibling.insert(
                        "lfs".into(),
                        json!({"sha256": content.sha256.hex(), "size": content.len(),
                               "pointerSize": content.pointer().len()}),
                    );
                }
            }
            Value::Object(sibling)
        };
        Value::Array(repository.files.iter().map(file).collect())
    };
    let value = |field: &str| match field {
        "author" => json!(author),
        "sha" => json!(repository.commit()),
        "createdAt" | "lastModified" => json!(repository.created),
        "private" => json!(repository.private),
        "disabled" => json!(repository.disabled),
        "gated" => repository.gated(),
        "downloads" | "downloadsAllTime" => json!(repository.downloads),
        "likes" => json!(repository.likes),
        "tags" => json!(repository.all_tags()),
        "cardData" => repository.card(),
        "config" => repository.config(),
        "library_name" => json!("transformers"),
        "siblings" => siblings(),
        "baseModels" => {
            let models: Vec<Value> = repository
                .bases()
                .iter()
                .map(|base| json!({"_id": crate::ids::Digest::of(base.as_bytes()).hex()[..24], "id": base}))
                .collect();
            if models.is_empty() { Value::Null } else { json!({"relation": repository.relation(), "models": models}) }
        }
        "usedStorage" => json!(repository.files.values().map(FileContent::len).sum::<u64>()),
        "childrenModelCount" => {
            let children = state.repositories().iter().filter(|other| other.bases().contains(&repository.name)).count();
            json!({"total": children})
        }
        _ => Value::Null,
    };
    let standard = ["private", "downloads", "likes", "tags", "createdAt", "library_name"];
    let more = ["author", "sha", "lastModified", "gated", "disabled", "siblings"];
    let fields: Vec<&str> = if expand.is_empty() {
        let mut fields = standard.to_vec();
        if full {
            fields.extend(more);
        }
        for (key, field) in [("cardData", "cardData"), ("config", "config")] {
            if asked.value(key).is_some_and(|on| on.eq_ignore_ascii_case("true")) {
                fields.push(field);
            }
        }
        fields
    } else {
        expand.to_vec()
    };
    for field in fields {
        let value = value(field);
        if !value.is_null() {
            row.insert(field.to_owned(), value);
        }
    }
    Value::Object(row)
}

/// The repository if it may be seen, at this revision if one is asked for.
fn seen(
    state: &StandinState,
    name: &str,
    revision: Option<&str>,
    asked: &StandinAsked,
) -> Result<Arc<Repository>, Response> {
    let trusted = state.settings.token.as_deref().is_some_and(|token| asked.token() == Some(token));
    if asked.token().is_some() && !trusted {
        return Err(refused(401, None, "Invalid credentials in Authorization header"));
    }
    let missing = || {
        let status = if trusted { 404 } else { 401 };
        refused(
            status,
            Some("RepoNotFound"),
            if trusted { "Repository not found" } else { "Invalid username or password." },
        )
    };
    let repository = state.repository(name).filter(|repository| !repository.private || trusted).ok_or_else(missing)?;
    if repository.disabled {
        return Err(refused(403, None, "Access to this resource is disabled."));
    }
    if let Some(revision) = revision
        && !matches!(revision, "main" | "refs/heads/main")
        && revision != repository.commit()
    {
        return Err(refused(404, Some("RevisionNotFound"), &format!("Invalid rev id: {revision}")));
    }
    Ok(repository)
}

fn one(state: &Arc<StandinState>, asked: &StandinAsked, name: &str, rest: &[&str]) -> Response {
    let done = || -> Result<Response, Response> {
        match rest {
            [] | ["revision", _] => {
                let repository = seen(state, name, rest.get(1).copied(), asked)?;
                let expand = expansions(asked, true)?;
                let mut row = facts(&repository, state, &expand, true, asked);
                if expand.is_empty()
                    && let Some(row) = row.as_object_mut()
                {
                    row.insert("cardData".into(), repository.card());
                    row.insert("config".into(), repository.config());
                }
                Ok(json_answer(StatusCode::OK, &row))
            }
            ["tree", revision, path @ ..] => {
                let repository = seen(state, name, Some(revision), asked)?;
                Ok(tree(state, asked, &repository, revision, &path.join("/")))
            }
            ["paths-info", revision] if asked.method == Method::POST => {
                let repository = seen(state, name, Some(revision), asked)?;
                Ok(paths_info(state, asked, &repository))
            }
            ["refs"] => {
                let repository = seen(state, name, None, asked)?;
                let branch = json!({"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit()});
                Ok(json_answer(
                    StatusCode::OK,
                    &json!({"branches": [branch], "converts": [], "tags": [], "pullRequests": []}),
                ))
            }
            ["commits", revision] => {
                let repository = seen(state, name, Some(revision), asked)?;
                let commit = json!({"id": repository.commit(), "title": "upload", "message": "",
                    "authors": [], "date": repository.created});
                Ok(json_answer(StatusCode::OK, &json!([commit])))
            }
            ["xet-read-token", revision] => {
                seen(state, name, Some(revision), asked)?;
                Err(refused(404, None, "This repository has no chunk store"))
            }
            _ => Err(refused(404, None, "Not found")),
        }
    };
    done().unwrap_or_else(|response| response)
}

fn entry(state: &StandinState, repository: &Repository, path: &str, content: &FileContent, expand: bool) -> Value {
    let large = repository.is_large(path, content, state.settings.large_from);
    let mut entry = Map::new();
    entry.insert("type".into(), json!("file"));
    entry.insert("oid".into(), json!(content.git_name(large)));
    entry.insert("size".into(), json!(content.len()));
    entry.insert("path".into(), json!(path));
    if large {
        entry.insert(
            "lfs".into(),
            json!({"oid": content.sha256.hex(), "size": content.len(), "pointerSize": content.pointer().len()}),
        );
        entry.insert("xetHash".into(), json!(content.delivery_name()));
    }
    if expand {
        entry.insert(
            "lastCommit".into(),
            json!({"id": repository.commit(), "title": "upload", "date": repository.created}),
        );
        entry.insert(
            "securityFileStatus".into(),
            json!({"status": "unscanned", "avScan": {"status": "unscanned"},
                   "pickleImportScan": {"status": "unscanned", "pickleImports": []}}),
        );
    }
    Value::Object(entry)
}

fn tree(state: &StandinState, asked: &StandinAsked, repository: &Repository, revision: &str, under: &str) -> Response {
    let on = |key: &str| asked.value(key).is_some_and(|on| on.eq_ignore_ascii_case("true") || on == "1");
    let prefix = if under.is_empty() { String::new() } else { format!("{under}/") };
    let mut rows: Vec<(String, Value)> = Vec::new();
    for (path, content) in repository.files.range(prefix.clone()..) {
        let Some(rest) = path.strip_prefix(&prefix) else { break };
        let folders: Vec<&str> = rest.split('/').collect();
        let depth = if on("recursive") { folders.len() - 1 } else { (folders.len() - 1).min(1) };
        for deep in 1..=depth {
            let folder = format!("{prefix}{}", folders[..deep].join("/"));
            if rows.iter().rev().take(64).all(|(known, _)| *known != folder) {
                let oid = &crate::ids::Digest::of(folder.as_bytes()).hex()[..40];
                rows.push((folder.clone(), json!({"type": "directory", "oid": oid, "size": 0, "path": folder})));
            }
        }
        if on("recursive") || folders.len() == 1 {
            rows.push((path.clone(), entry(state, repository, path, content, on("expand"))));
        }
    }
    if rows.is_empty() && !under.is_empty() {
        let mut response = refused(404, Some("EntryNotFound"), "Entry not found");
        put(&mut response, "x-repo-commit", &repository.commit());
        return response;
    }
    let most = if on("expand") { state.settings.tree_page.min(100) } else { state.settings.tree_page };
    let limit = asked.value("limit").and_then(|limit| limit.parse::<usize>().ok()).unwrap_or(most).clamp(1, most);
    let from = asked
        .value("cursor")
        .and_then(|cursor| String::from_utf8(BASE64.decode(cursor).ok()?).ok())
        .and_then(|last| rows.iter().position(|(path, _)| *path == last))
        .map_or(0, |at| at + 1);
    let page: Vec<&(String, Value)> = rows.iter().skip(from).take(limit).collect();
    let body = Value::Array(page.iter().map(|(_, row)| row.clone()).collect());
    let mut response = json_answer(StatusCode::OK, &body);
    put(&mut response, "x-repo-commit", &repository.commit());
    if from + page.len() < rows.len()
        && let Some((last, _)) = page.last()
    {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(asked.query.iter().filter(|(key, _)| key != "cursor"));
        query.append_pair("cursor", &BASE64.encode(last));
        let base = format!("{}/api/models/{}/tree/{revision}", state.hub, repository.name);
        let under = if under.is_empty() { String::new() } else { format!("/{}", under.replace('/', "%2F")) };
        put(&mut response, "link", &format!("<{base}{under}?{}>; rel=\"next\"", query.finish()));
    }
    response
}

fn paths_info(state: &StandinState, asked: &StandinAsked, repository: &Repository) -> Response {
    let (paths, expand): (Vec<String>, bool) = match serde_json::from_slice::<Value>(&asked.body) {
        Ok(wish) => (
            wish.get("paths")
                .and_then(Value::as_array)
                .map(|paths| paths.iter().filter_map(|path| path.as_str().map(str::to_owned)).collect())
                .unwrap_or_default(),
            wish.get("expand").and_then(Value::as_bool).unwrap_or(false),
        ),
        Err(_) => {
            let pairs: Vec<(String, String)> = url::form_urlencoded::parse(&asked.body).into_owned().collect();
            let paths = pairs.iter().filter(|(key, _)| key == "paths").map(|(_, path)| path.clone()).collect();
            (paths, pairs.iter().any(|(key, on)| key == "expand" && on.eq_ignore_ascii_case("true")))
        }
    };
    if paths.len() > 2000 {
        return refused(400, None, "Too many paths");
    }
    // What is missing is left out, without a word.
    let rows = paths
        .iter()
        .filter_map(|path| Some(entry(state, repository, path, repository.files.get(path)?, expand)))
        .collect();
    json_answer(StatusCode::OK, &Value::Array(rows))
}

fn resolve(state: &Arc<StandinState>, asked: &StandinAsked, name: &str, revision: &str, path: &str) -> Response {
    let repository = match seen(state, name, Some(revision), asked) {
        Ok(repository) => repository,
        Err(response) => return response,
    };
    let trusted = asked.token().is_some();
    match repository.surprise {
        Some(Surprise::Deleted) => return refused(401, Some("RepoNotFound"), "Invalid username or password."),
        Some(Surprise::Disabled) => return refused(403, None, "Access to this resource is disabled."),
        Some(Surprise::Moved) => return refused(404, Some("RevisionNotFound"), &format!("Invalid rev id: {revision}")),
        _ => {}
    }
    let gate = if repository.surprise == Some(Surprise::Gated) { Gate::Manual } else { repository.gate };
    match gate {
        Gate::Open => {}
        Gate::Auto if trusted => {}
        Gate::Auto | Gate::Manual => {
            let status = if trusted { 403 } else { 401 };
            return refused(status, Some("GatedRepo"), &format!("Access to model {name} is restricted."));
        }
    }
    let Some(content) = repository.files.get(path) else {
        let mut response = refused(404, Some("EntryNotFound"), "Entry not found");
        put(&mut response, "x-repo-commit", &repository.commit());
        return response;
    };
    let large = repository.is_large(path, content, state.settings.large_from);
    let (status, target, etag) = if large {
        (StatusCode::FOUND, delivery::address(state, name, path, content), content.sha256.hex())
    } else {
        let encoded = super::repository_path(path);
        let target = format!("/api/resolve-cache/models/{name}/{}/{encoded}", repository.commit());
        (StatusCode::TEMPORARY_REDIRECT, target, content.git_name(false))
    };
    let body = if asked.method == Method::HEAD { String::new() } else { format!("Redirecting to {target}") };
    let mut response = super::answer::text(status, &body);
    put(&mut response, "location", &target);
    put(&mut response, "x-repo-commit", &repository.commit());
    put(&mut response, "x-linked-etag", &format!("\"{etag}\""));
    put(&mut response, "x-linked-size", &content.len().to_string());
    put(&mut response, "accept-ranges", "bytes");
    response
}

/// A small file, whole, from the hub itself.
fn small(state: &Arc<StandinState>, asked: &StandinAsked, name: &str, commit: &str, path: &str) -> Response {
    let repository = match seen(state, name, Some(commit), asked) {
        Ok(repository) => repository,
        Err(response) => return response,
    };
    let bytes = repository
        .files
        .get(path)
        .and_then(|content| Some((content, content.source.read(0..content.len()).ok()?.into_owned())));
    let Some((content, bytes)) = bytes else {
        let mut response = refused(404, Some("EntryNotFound"), "Entry not found");
        put(&mut response, "x-repo-commit", &repository.commit());
        return response;
    };
    let length = bytes.len();
    let body = if asked.method == Method::HEAD { Vec::new() } else { bytes };
    let mut response = Response::new(axum::body::Body::from(body));
    put(&mut response, "content-type", "text/plain; charset=utf-8");
    put(&mut response, "content-length", &length.to_string());
    put(&mut response, "etag", &format!("\"{}\"", content.git_name(false)));
    put(&mut response, "x-repo-commit", &repository.commit());
    response
}
