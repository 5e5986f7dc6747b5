//! Checkpoints from the Hugging Face Hub.
//!
//! A [`Spec`] such as `org/repo:Q4_K_M` names a repository and which of its weights.  [`from_pretrained`] and
//! [`Hub::fetch`] give the path of its weights in the cache on disk, after downloading what is not there; everything
//! else opens that path as any other.  [`Hub::headers`] reads no more than the headers, for
//! [`check`](crate::check).  All of it needs the cargo feature `hub`; without it, [`HubError::NotBuilt`] says so.
//!
//! The cache has the layout of the Python library huggingface_hub, so that each finds what the other downloaded and
//! goes on with what the other began.  What the cache has is not asked for again.  What comes is checked against the
//! length and the hash that the hub gives (SHA-256 of large files, git's SHA-1 of small ones) before it gets its name.
//!
//! Servers are not trusted: names lead nowhere outside the cache; answers, redirects, headers and waiting are bounded;
//! the access token goes to the endpoint alone.  The crate hf-hub has the cache's layout; requests are made here,
//! because its own check no hashes, append to a partial file whatever is answered, and bound neither redirects nor
//! waiting.
//!
//! References: huggingface_hub's `file_download.py` and `constants.py`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod client;
mod error;
#[cfg(feature = "hub")]
mod headers;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod listing;
#[cfg(not(feature = "hub"))]
mod missing;
mod options;
#[cfg(feature = "hub")]
mod part;
mod spec;

#[cfg(feature = "hub")]
pub use client::Hub;
pub use error::HubError;
#[cfg(not(feature = "hub"))]
pub use missing::Hub;
pub use options::HubOptions;
pub use spec::Spec;

use crate::weights::ResolveWeightsOptions;
use std::path::PathBuf;

/// Told while files are downloaded: the name of a file, bytes of it that are here, and its length.
pub type Progress<'p> = dyn FnMut(&str, u64, u64) + 'p;

/// What is known of a repository from headers alone, laid out in a directory: see [`Hub::headers`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Headers {
    /// The directory, or the weights file in it that was named.
    pub path: PathBuf,
    /// Bytes that were read from the hub.
    pub read: u64,
    /// Requests that it took.
    pub requests: u64,
}

/// The weights that `name` means (`org/repo`, `org/repo:Q4_K_M`, `org/repo@revision`): the path of a file that
/// [`weights::open_with`](crate::weights::open_with) opens, downloaded when the cache does not have it.  The
/// environment is heeded: [`HubOptions::from_env`].
///
/// # Errors
/// Every [`HubError`].
pub fn from_pretrained(name: &str) -> Result<PathBuf, HubError> {
    let hub = Hub::new(HubOptions::from_env());
    hub.fetch(&name.parse()?, &ResolveWeightsOptions::default(), &mut |_, _, _| {})
}
