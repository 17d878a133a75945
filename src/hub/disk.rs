//! Answers for `file:` addresses: a folder as a JSON list of the files in it, a file as its bytes.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::json;
use url::Url;

use super::{Answer, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Answers for one address; status 404 for what is not there.
pub(super) fn answer(url: &Url) -> Result<Answer> {
    let reply = |status: u16, body: Vec<u8>| {
        Ok(Answer { url: url.clone(), status, headers: HeaderMap::new(), body: Bytes::from(body) })
    };
    let path = url
        .to_file_path()
        .map_err(|()| Error::new(ErrorKind::Usage, format!("reading {}: not a path of this machine", shown(url))))?;
    let Ok(metadata) = std::fs::metadata(&path) else { return reply(404, Vec::new()) };
    if metadata.is_file() {
        if metadata.len() > limits::MAX_JSON_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("reading {} whole: {} bytes", path.display(), metadata.len()),
            ));
        }
        let bytes = std::fs::read(&path).map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
        return reply(200, bytes);
    }
    let mut rows = Vec::new();
    // Links to files are followed (hub caches are made of them), links to folders are not, so a loop ends.
    for entry in
        walkdir::WalkDir::new(&path).max_depth(limits::MAX_HUB_FOLDERS_DEEP).sort_by_file_name().into_iter().flatten()
    {
        if rows.len() >= limits::MAX_FILES {
            break;
        }
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        let relative = entry.path().strip_prefix(&path).ok().and_then(|relative| relative.to_str());
        let Some(relative) = relative.filter(|relative| !relative.is_empty()) else { continue };
        if !metadata.is_file() {
            continue;
        }
        let modified = metadata.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
        rows.push(json!({
            "path": relative.replace(std::path::MAIN_SEPARATOR, "/"),
            "size": metadata.len(),
            "modified": modified.map(|time| time.to_string()),
        }));
    }
    reply(200, serde_json::Value::Array(rows).to_string().into_bytes())
}
