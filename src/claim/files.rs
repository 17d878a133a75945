//! What a folder's own files say of its lineage.

use serde_json::Value;

use super::Declarations;
use crate::checkpoint::{Checkpoint, FileSet};
use crate::error::Result;
use crate::limits;

/// The declarations in the small files (card, adapter configuration) and in an opened checkpoint's own metadata.
pub fn declarations(files: &FileSet, opened: Option<&Checkpoint>) -> Result<Declarations> {
    let text = |name: &str| -> Result<Option<String>> {
        let Some(file) = files.files.get(name).filter(|file| file.len() <= limits::MAX_CONFIG_BYTES) else {
            return Ok(None);
        };
        Ok(Some(String::from_utf8_lossy(&file.read(0..file.len())?).into_owned()))
    };
    let readme = text("README.md")?;
    let adapter = text("adapter_config.json")?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let mut metadata = opened.map(|opened| opened.metadata.clone()).unwrap_or_default();
    metadata.extend(opened.iter().flat_map(|opened| &opened.files).flat_map(|file| file.metadata.clone()));
    Ok(Declarations {
        card: readme.as_deref().map(front_matter).unwrap_or_default(),
        config: opened.map(|opened| opened.config.clone()).unwrap_or_default(),
        adapter,
        metadata,
        readme,
        ..Declarations::default()
    })
}

/// The front matter of a card as JSON; `Null` where there is none.
pub fn front_matter(text: &str) -> Value {
    let front = text.strip_prefix("---").and_then(|rest| rest.split_once("\n---")).map(|(front, _)| front);
    front
        .filter(|front| front.len() <= 1 << 20)
        .and_then(|front| serde_yaml_ng::from_str::<Value>(front).ok())
        .filter(Value::is_object)
        .unwrap_or_default()
}
