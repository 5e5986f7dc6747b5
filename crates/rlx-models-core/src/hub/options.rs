//! Where the hub is, where its cache is, and who asks.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where the hub is, where its cache is, and who asks.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubOptions {
    /// Scheme and host, without a slash at the end.
    pub endpoint: String,
    /// The directory of `models--org--repo`; `None` where no home directory is known.
    pub cache: Option<PathBuf>,
    /// Sent to the endpoint, and to nobody else.
    pub token: Option<String>,
    /// Take what the cache has; never ask.
    pub offline: bool,
    /// A server that says nothing for this long is gone; 30 seconds unless said otherwise.
    pub patience: Duration,
}

impl HubOptions {
    /// What the environment says, as huggingface_hub reads it: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`,
    /// `XDG_CACHE_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> HubOptions {
        Self::from_vars(|name| env::var(name).ok().filter(|v| !v.is_empty()))
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> HubOptions {
        let path = |name: &str| var(name).map(PathBuf::from);
        let user = path("HOME").or_else(|| path("USERPROFILE")).map(|h| h.join(".cache"));
        let home = path("HF_HOME").or_else(|| path("XDG_CACHE_HOME").or(user).map(|c| c.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).or_else(|| home.as_ref().map(|h| h.join("hub")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| home.map(|h| h.join("token")));
        let token = var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")).or_else(|| std::fs::read_to_string(token_file?).ok());
        // A header takes visible ASCII alone.
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()));
        let yes = |v: String| ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        HubOptions {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache,
            token,
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
            patience: Duration::from_secs(30),
        }
    }

    /// Also offline when `on`.
    pub fn offline(mut self, on: bool) -> HubOptions {
        self.offline |= on;
        self
    }
}

impl fmt::Debug for HubOptions {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        let mut d = f.debug_struct("HubOptions");
        d.field("endpoint", &self.endpoint).field("cache", &self.cache).field("token", &token);
        d.field("offline", &self.offline).field("patience", &self.patience).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_the_python_library_does() {
        let with = |vars: &'static [(&'static str, &'static str)]| {
            HubOptions::from_vars(move |name| vars.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
        };
        let o = with(&[("HOME", "/home/u")]);
        assert_eq!((&*o.endpoint, o.cache), ("https://huggingface.co", Some("/home/u/.cache/huggingface/hub".into())));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).cache, Some("/x/huggingface/hub".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")]).cache, Some("/f/hub".into()));
        assert_eq!(with(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).cache, Some("/c".into()));
        let o = with(&[("HF_TOKEN", " hf_x\n"), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://e/")]);
        assert_eq!((o.token.as_deref(), o.offline, &*o.endpoint, o.cache.clone()), (Some("hf_x"), true, "http://e", None));
        assert!(!format!("{o:?}").contains("hf_x"));
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert_eq!(with(&[("HF_TOKEN", "a\r\nX: y")]).token, None);
    }
}
