//! The environment variables that other tools of the hubs read too, with the same meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;

use crate::error::{Error, ErrorKind, Result};

/// A snapshot of the environment: taken once, so that tests need not change the process's own.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

/// The names read, in the order of documentation.
pub const NAMES: &[&str] = &[
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "MODELSCOPE_ENDPOINT",
    "MODELSCOPE_API_TOKEN",
    "MODELSCOPE_CACHE",
    "ORTHOSCOPE_CACHE",
    "ORTHOSCOPE_LOCAL_HUB",
    "XDG_CACHE_HOME",
    "HOME",
];

impl Environment {
    /// The process's environment, as far as [`NAMES`] goes.
    pub fn of_process() -> Self {
        let variables = NAMES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok().filter(|value| !value.is_empty())?)))
            .collect();
        Self { variables }
    }

    /// No variable set.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The same with one variable set.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// A variable's value, if set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a switch is on (`1`, `ON`, `YES`, `TRUE`, any case).
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word)))
    }

    /// An address variable, without a slash at its end.
    pub fn endpoint(&self, name: &str, default: &str) -> Result<Url> {
        let text = self.get(name).unwrap_or(default).trim_end_matches('/');
        let url = Url::parse(text).map_err(|error| {
            Error::because(ErrorKind::Usage, format!("reading {name} {:?} as an address", masked(text)), error)
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            let shown = masked(text);
            return Err(Error::new(ErrorKind::Usage, format!("reading {name} {shown:?}: want http:// or https://")));
        }
        Ok(url)
    }

    fn cache_home(&self) -> PathBuf {
        match (self.get("XDG_CACHE_HOME"), self.get("HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(home)) => PathBuf::from(home).join(".cache"),
            (None, None) => std::env::temp_dir(),
        }
    }

    /// `HF_HOME`, or its default.
    pub fn hf_home(&self) -> PathBuf {
        self.get("HF_HOME").map_or_else(|| self.cache_home().join("huggingface"), PathBuf::from)
    }

    /// The Hugging Face client's file cache.
    pub fn hf_cache(&self) -> PathBuf {
        self.get("HF_HUB_CACHE")
            .or_else(|| self.get("HUGGINGFACE_HUB_CACHE"))
            .map_or_else(|| self.hf_home().join("hub"), PathBuf::from)
    }

    /// The Hugging Face token: `HF_TOKEN`, else the file at `HF_TOKEN_PATH` or `$HF_HOME/token`.
    pub fn hf_token(&self) -> Option<String> {
        if let Some(token) = self.get("HF_TOKEN") {
            return Some(token.trim().to_owned());
        }
        if self.is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return None;
        }
        let token = std::fs::read_to_string(self.hf_token_path()).ok()?.trim().to_owned();
        (!token.is_empty() && token.len() < 4096).then_some(token)
    }

    /// The file with the Hugging Face token, `HF_TOKEN_PATH` or `$HF_HOME/token`, whether it is there or not.
    pub fn hf_token_path(&self) -> PathBuf {
        self.get("HF_TOKEN_PATH").map_or_else(|| self.hf_home().join("token"), PathBuf::from)
    }

    /// Whether requests are forbidden by the environment.
    pub fn offline(&self) -> bool {
        self.is_on("HF_HUB_OFFLINE") || self.is_on("TRANSFORMERS_OFFLINE")
    }

    /// orthoscope's own cache: whole files by SHA-256, and factors of bases.
    pub fn own_cache(&self) -> PathBuf {
        self.get("ORTHOSCOPE_CACHE").map_or_else(|| self.cache_home().join("orthoscope"), PathBuf::from)
    }
}

/// What was written as an address, without what may be a user, a password or a token. It need not be an address:
/// whatever stands before the last `@` goes, and whatever follows a `?` or `#`.
pub fn masked(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            (format!("{scheme}://"), rest)
        }
        _ => (String::new(), text),
    };
    let (mask, rest) = match rest.rsplit_once('@') {
        Some((_, host)) => ("…@", host),
        None => ("", rest),
    };
    format!("{scheme}{mask}{}", rest.split(['?', '#']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_about_an_address_repeats_its_password() {
        let broken = [
            "ftp://user:SECRET@x",
            "user:SECRET@x",
            "https://user:SE/CRET@x",
            "http://user:SECRET@x y",
            "http://user:SECRET@x@/",
            "https://",
            "ftp://x/?token=SECRET",
            "://user:SECRET@",
            "https://user:SECRET@x:port/",
        ];
        for text in broken {
            let environment = Environment::empty().with("HF_ENDPOINT", text);
            let Err(error) = environment.endpoint("HF_ENDPOINT", "x") else { continue };
            let said = format!("{} {}", error.one_line(), masked(text));
            assert!(!said.contains("SECRET") && !said.contains("CRET"), "{text}: {said}");
        }
        assert_eq!(masked("ftp://user:SECRET@host/x?token=1"), "ftp://…@host/x");
        assert_eq!(masked("nonsense"), "nonsense");
    }

    #[test]
    fn the_variables_mean_what_they_mean_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), " hf_file \n").unwrap();
        let home = folder.path().to_str().unwrap();
        let environment = Environment::empty().with("HF_HOME", home);
        assert_eq!(environment.hf_token().as_deref(), Some("hf_file"));
        assert_eq!(environment.hf_cache(), folder.path().join("hub"));
        assert_eq!(environment.clone().with("HF_TOKEN", "hf_set").hf_token().as_deref(), Some("hf_set"));
        assert_eq!(environment.clone().with("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1").hf_token(), None);
        assert_eq!(environment.with("HF_HUB_CACHE", "/c").hf_cache(), PathBuf::from("/c"));
        let environment = Environment::empty().with("HF_ENDPOINT", "http://127.0.0.1:9/");
        assert_eq!(environment.endpoint("HF_ENDPOINT", "x").unwrap().as_str(), "http://127.0.0.1:9/");
        assert!(Environment::empty().endpoint("HF_ENDPOINT", "ftp://x").is_err());
        assert!(Environment::empty().with("HF_HUB_OFFLINE", "yes").offline());
        assert!(!Environment::empty().with("HF_HUB_OFFLINE", "0").offline());
    }
}
