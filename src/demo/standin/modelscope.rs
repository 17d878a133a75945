//! ModelScope's routes.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{StandinAsked, json as json_answer, put};
use super::{Gate, Repository, StandinState, delivery};
use crate::hub::modelscope::TREE_CUT;

/// Answers one request, if it is one of this hub.
pub(super) fn answer(state: &Arc<StandinState>, asked: &StandinAsked) -> Option<Response> {
    let parts: Vec<&str> = asked.path.iter().map(String::as_str).collect();
    let response = match parts.as_slice() {
        ["openapi", "v1", "models"] => list(state, asked),
        ["openapi", "v1", "models", owner, name] => match state.repository(&format!("{owner}/{name}")) {
            Some(repository) => good(json!({"success": true, "data": facts(&repository)})),
            None => json_answer(
                StatusCode::NOT_FOUND,
                &json!({"success": false, "code": "ResourceNotFound", "message": "not found"}),
            ),
        },
        ["api", "v1", "models", owner, name, rest @ ..] => {
            let Some(repository) = state.repository(&format!("{owner}/{name}")) else {
                // A refusal inside status 200, as the real one does.
                return Some(good(json!({"Code": 10_010_205_001_u64, "Success": false, "Message": "not found"})));
            };
            match rest {
                [] => good(json!({"Code": 200, "Success": true, "Data": {
                    "Path": owner, "Name": name, "Id": 1, "Visibility": 5, "Downloads": repository.downloads,
                    "Stars": repository.likes, "LastUpdatedTime": seconds(&repository), "Revision": "master"}})),
                ["revisions"] => good(json!({"Code": 200, "Success": true, "Data": {"RevisionMap": {
                    "Branches": [{"Revision": "master", "CreatedAt": seconds(&repository)}], "Tags": []}}})),
                ["repo", "files"] => files(state, asked, &repository),
                ["repo"] => file(state, asked, &repository),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(response)
}

fn good(value: Value) -> Response {
    json_answer(StatusCode::OK, &value)
}

fn seconds(repository: &Repository) -> i64 {
    repository.created.parse::<jiff::Timestamp>().map_or(0, |time| time.as_second())
}

fn facts(repository: &Repository) -> Value {
    let (owner, name) = repository.name.split_once('/').unwrap_or(("", &repository.name));
    json!({"id": repository.name, "owner": owner, "name": name, "display_name": name, "private": repository.private,
        "gated": repository.gate != Gate::Open, "downloads": repository.downloads, "likes": repository.likes,
        "created_at": repository.created, "last_modified": repository.created, "tags": repository.tags})
}

fn list(state: &Arc<StandinState>, asked: &StandinAsked) -> Response {
    let number = |key: &str, otherwise: usize| asked.value(key).and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    let (page, size) = (number("page_number", 1).max(1), number("page_size", 10).clamp(1, 500));
    if page.saturating_mul(size) > 3000 {
        return json_answer(
            StatusCode::BAD_REQUEST,
            &json!({"success": false, "code": "InvalidParameter", "message": "page_number * page_size"}),
        );
    }
    let found: Vec<Value> = state
        .repositories()
        .iter()
        .filter(|repository| {
            let lower = repository.name.to_ascii_lowercase();
            !repository.private
                && asked.value("search").is_none_or(|search| lower.contains(&search.to_ascii_lowercase()))
                && asked.value("owner").is_none_or(|owner| repository.name.split('/').next() == Some(owner))
        })
        .map(|repository| facts(repository))
        .collect();
    let rows: Vec<&Value> = found.iter().skip((page - 1) * size).take(size).collect();
    good(json!({"success": true, "request_id": "1", "data": {"models": rows, "total_count": found.len(),
        "page_number": page, "page_size": size}}))
}

fn files(state: &StandinState, asked: &StandinAsked, repository: &Repository) -> Response {
    let recursive = asked.value("Recursive").is_some_and(|on| on.eq_ignore_ascii_case("true"));
    let root = asked.value("Root").unwrap_or_default().trim_matches('/');
    let prefix = if root.is_empty() { String::new() } else { format!("{root}/") };
    let mut rows: Vec<Value> = Vec::new();
    let mut folders = std::collections::BTreeSet::new();
    for (path, content) in repository.files.range(prefix.clone()..) {
        let Some(rest) = path.strip_prefix(&prefix) else { break };
        let steps: Vec<&str> = rest.split('/').collect();
        let depth = if recursive { steps.len() - 1 } else { (steps.len() - 1).min(1) };
        for deep in 1..=depth {
            let folder = format!("{prefix}{}", steps[..deep].join("/"));
            if folders.insert(folder.clone()) {
                rows.push(json!({"Path": folder, "Name": steps[deep - 1], "Type": "tree", "Size": 0}));
            }
        }
        if recursive || steps.len() == 1 {
            let large = repository.is_large(path, content, state.settings.large_from);
            rows.push(json!({"Path": path, "Name": steps.last(), "Type": "blob", "Size": content.len(),
                "Sha256": content.sha256.hex(), "IsLFS": large, "Revision": repository.commit(),
                "CommittedDate": seconds(repository), "Mode": "100644"}));
        }
    }
    // Cut off without a sign.
    rows.truncate(TREE_CUT);
    good(json!({"Code": 200, "Success": true, "Message": "success", "Data": {"Files": rows}}))
}

fn file(state: &StandinState, asked: &StandinAsked, repository: &Repository) -> Response {
    let path = asked.value("FilePath").unwrap_or_default();
    let Some(content) = repository.files.get(path) else {
        return json_answer(StatusCode::NOT_FOUND, &json!({"Code": 404, "Success": false, "Message": "no such file"}));
    };
    if repository.gate != Gate::Open && asked.token().is_none() {
        return json_answer(StatusCode::FORBIDDEN, &json!({"Code": 403, "Success": false, "Message": "restricted"}));
    }
    let mut response = if repository.is_large(path, content, state.settings.large_from) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::FOUND;
        put(&mut response, "location", &delivery::address(state, &repository.name, path, content));
        response
    } else {
        // Small files come straight from the hub, which ignores ranges.
        let bytes = content.source.read(0..content.len()).map(|bytes| bytes.into_owned()).unwrap_or_default();
        let length = bytes.len();
        let head = asked.method == http::Method::HEAD;
        let mut response = Response::new(Body::from(if head { Vec::new() } else { bytes }));
        put(&mut response, "content-length", &length.to_string());
        put(&mut response, "content-type", "application/octet-stream");
        response
    };
    put(&mut response, "x-linked-etag", &format!("\"{}\"", content.sha256.hex()));
    put(&mut response, "x-linked-size", &content.len().to_string());
    response
}
