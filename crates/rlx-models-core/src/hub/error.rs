//! What can be wrong between here and the hub.

use crate::message::list;
use crate::weights::WeightsError;
use std::io;
use std::path::PathBuf;

/// Why something could not be had from the hub.  Texts from servers are quoted, escaped and shortened.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name of a repository.
    #[error("{found} is not a repository of the Hub; expected org/repo, org/repo:part-of-a-file-name or org/repo@revision")]
    Spec { found: String },
    /// The feature is not in this build.
    #[error("{repo}: this build has no access to the Hub; build with the cargo feature `hub`, or name a file on disk")]
    NotBuilt { repo: String },
    /// No home directory and none of the variables that say where the cache is.
    #[error("there is no place for the cache of the Hub; set HF_HOME to a directory")]
    NoCache,
    /// Offline, and the cache has not what is needed.
    #[error("{repo}: offline, and the cache {} lacks {}; run once without --offline and HF_HUB_OFFLINE", cache.display(), list(missing))]
    Offline { repo: String, cache: PathBuf, missing: Vec<String> },
    /// The hub refused.
    #[error("{url}: the Hub answers {status}{hint}")]
    Status { url: String, status: u16, hint: String },
    /// The hub could not be reached, or the connection broke too often.
    #[error("{url}: {why}")]
    Transport { url: String, why: String },
    /// The answer is not what the hub's answers are.
    #[error("{url}: {field}: found {found}, expected {expected}")]
    Answer { url: String, field: &'static str, found: String, expected: String },
    /// What came is not what was promised.
    #[error("{file}: {field} of the download is {found}, expected {expected}; it was deleted, try again")]
    Corrupt { file: String, field: &'static str, found: String, expected: String },
    /// Files of a split checkpoint.
    #[error("{repo}: the repository lacks {}", list(missing))]
    Incomplete { repo: String, missing: Vec<String> },
    /// No weights by this name, or several.
    #[error("{repo}: {why}{}", candidates(files))]
    Choice { repo: String, why: String, files: Vec<String> },
    /// Which weights, and their headers.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The cache.
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
}

fn candidates(files: &[String]) -> String {
    if files.is_empty() { String::new() } else { format!("; it has {}", list(files)) }
}
