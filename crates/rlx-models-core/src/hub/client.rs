//! Bringing files into the cache.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::cache::{MAX_LISTING_BYTES, RepoCache, make_parent};
use super::http::{Client, text};
use super::listing::{Listing, is_commit};
use super::part::{Described, Part};
use super::{HubError, HubOptions, Progress, Spec};
use crate::message::quote;
use crate::weights::{MAX_INDEX_BYTES, ResolveWeightsOptions, is_index, read_small, shards_in};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest file: 4 TiB.
const MAX_FILE_BYTES: u64 = 4 << 40;
/// A connection that brings less than this counts as failed.
const LEAST_BYTES: u64 = 4096;
/// Most failed connections in a row.
const MAX_FAILURES: u32 = 4;

/// A client of the hub with a cache.
pub struct Hub {
    pub(super) client: Client,
    options: HubOptions,
}

impl Hub {
    /// A client with these options.
    pub fn new(options: HubOptions) -> Hub {
        Hub { client: Client::new(&options), options }
    }

    fn cache(&self, spec: &Spec) -> Result<RepoCache, HubError> {
        let dir = self.options.cache.as_deref().ok_or(HubError::NoCache)?;
        Ok(RepoCache::new(dir, spec))
    }

    /// An error when nothing may be asked; `missing` is what would be asked for.
    pub(super) fn may_ask(&self, spec: &Spec, missing: Vec<String>) -> Result<(), HubError> {
        if !self.options.offline {
            return Ok(());
        }
        Err(HubError::Offline { repo: spec.to_string(), cache: self.options.cache.clone().unwrap_or_default(), missing })
    }

    /// The files of the repository, from the hub.
    pub(super) fn listing(&self, spec: &Spec) -> Result<Listing, HubError> {
        let revision = spec.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.client.endpoint(), spec.repo);
        Listing::parse(&self.client.small(&url, MAX_LISTING_BYTES)?, &url)
    }

    pub(super) fn url(&self, spec: &Spec, commit: &str, name: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.client.endpoint(), spec.repo, encode(name))
    }

    /// The weights of `spec`, if the cache has them with all that belongs to them.  Nothing is asked of the hub.
    ///
    /// # Errors
    /// [`HubError::NoCache`]; an index of shards that is no index.
    pub fn cached(&self, spec: &Spec, opts: &ResolveWeightsOptions) -> Result<Option<PathBuf>, HubError> {
        Ok(self.look(spec, opts, &self.cache(spec)?)?.ok())
    }

    /// The weights of `spec` in the cache: the path of the file to open.  What is not there is downloaded.
    ///
    /// # Errors
    /// Every [`HubError`].
    pub fn fetch(&self, spec: &Spec, opts: &ResolveWeightsOptions, progress: &mut Progress<'_>) -> Result<PathBuf, HubError> {
        let cache = self.cache(spec)?;
        match self.look(spec, opts, &cache)? {
            Ok(path) => return Ok(path),
            Err(missing) => self.may_ask(spec, missing)?,
        }
        let listing = self.listing(spec)?;
        let file = listing.choose(spec, opts)?;
        let parts = listing.parts(spec, &file)?;
        cache.remember(&listing)?;
        for name in listing.beside(&file) {
            self.bring(spec, &cache, &listing.sha, &name, progress)?;
        }
        let mut first = None;
        for name in parts {
            let path = self.bring(spec, &cache, &listing.sha, &name, progress)?;
            first.get_or_insert(path);
        }
        let first = first.unwrap_or_default();
        for name in shards(&first)? {
            if !listing.has(&name) {
                return Err(HubError::Incomplete { repo: spec.to_string(), missing: vec![quote(&name)] });
            }
            self.bring(spec, &cache, &listing.sha, &name, progress)?;
        }
        Ok(first)
    }

    /// The weights in the cache, or what is missing.
    fn look(&self, spec: &Spec, opts: &ResolveWeightsOptions, cache: &RepoCache) -> Result<Result<PathBuf, Vec<String>>, HubError> {
        let Some(commit) = cache.commit() else {
            return Ok(Err(vec![format!("revision {} of the repository", spec.revision)]));
        };
        let known = cache.listing(&commit);
        let complete = known.is_some();
        let listing = match known {
            Some(listing) => listing,
            None => cache.present(&commit)?,
        };
        // Another commit may have what this one has not; offline, this one's files are all there are.
        let chosen = listing.choose(spec, opts).and_then(|file| Ok((listing.parts(spec, &file)?, file)));
        let (parts, file) = match chosen {
            Ok(chosen) => chosen,
            Err(e) if complete && self.options.offline => return Err(e),
            Err(e) => return Ok(Err(vec![format!("weights ({e})")])),
        };
        if !complete && !self.options.offline && !listing.is_certain(&file, spec, opts) {
            return Ok(Err(vec!["the list of its files".into()]));
        }
        let mut missing: Vec<String> = Vec::new();
        let mut need = |name: &str| {
            let found = cache.find(&commit, name);
            missing.extend(found.is_none().then(|| quote(name)));
            found
        };
        let found: Vec<_> = parts.iter().map(|name| need(name)).collect();
        let first = found.into_iter().next().flatten();
        listing.beside(&file).iter().for_each(|name| drop(need(name)));
        if let Some(first) = &first {
            shards(first)?.iter().for_each(|name| drop(need(name)));
        }
        Ok(first.filter(|_| missing.is_empty()).ok_or(missing))
    }

    /// One file of a commit in the cache.
    fn bring(&self, spec: &Spec, cache: &RepoCache, commit: &str, name: &str, progress: &mut Progress<'_>) -> Result<PathBuf, HubError> {
        if let Some(path) = cache.find(commit, name) {
            return Ok(path);
        }
        let url = self.url(spec, commit, name);
        let file = self.describe(&url)?;
        if file.commit != commit {
            let (found, expected) = (file.commit, commit.to_owned());
            return Err(HubError::Answer { url, field: "x-repo-commit", found, expected });
        }
        let blob = cache.blob(&file.etag);
        let _lock = cache.lock(&file.etag)?;
        // Another program may have brought it meanwhile, and use it already.
        if let Some(path) = cache.find(commit, name) {
            return Ok(path);
        }
        if !blob.metadata().is_ok_and(|m| m.is_file() && m.len() == file.bytes) {
            make_parent(&blob)?;
            // The name that huggingface_hub gives it.
            let mut part = Part::open(blob.with_extension("incomplete"), &file)?;
            self.transfer(&url, name, &file, &mut part, progress)?;
            part.finish(name, &blob)?;
        }
        cache.link(commit, name, &file.etag)
    }

    fn describe(&self, url: &str) -> Result<Described, HubError> {
        let headers = self.client.head(url)?;
        let bad = |field, found: Option<String>, expected: &str| HubError::Answer {
            url: url.into(),
            field,
            found: found.map_or("nothing".into(), |f| quote(&f)),
            expected: expected.into(),
        };
        let get = |name| text(&headers, name);
        let etag = get("x-linked-etag").or_else(|| get("etag"));
        let clean = etag.as_ref().map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned()).filter(|e| is_tag(e));
        let etag = clean.ok_or_else(|| bad("etag", etag, "letters and digits, at most 128"))?;
        let size = get("x-linked-size").or_else(|| get("content-length"));
        let bytes = size.as_ref().and_then(|s| s.parse().ok()).filter(|s| *s <= MAX_FILE_BYTES);
        let bytes = bytes.ok_or_else(|| bad("x-linked-size", size, "a length of at most 4 TiB"))?;
        let commit = get("x-repo-commit").filter(|c| is_commit(c));
        let commit = commit.ok_or_else(|| bad("x-repo-commit", get("x-repo-commit"), "a commit of 40 hexadecimal digits"))?;
        Ok(Described { etag, bytes, commit })
    }

    /// Fills `part`, over as many connections as it takes while each brings something.
    fn transfer(&self, url: &str, name: &str, file: &Described, part: &mut Part<'_>, progress: &mut Progress<'_>) -> Result<(), HubError> {
        let mut failures = 0;
        while part.bytes < file.bytes {
            progress(name, part.bytes, file.bytes);
            let before = part.bytes;
            let broken = match self.receive(url, name, file, part, progress) {
                Ok(()) => break,
                Err(e @ (HubError::Transport { .. } | HubError::Status { status: 429 | 500.., .. })) => e,
                Err(e) => return Err(e),
            };
            failures = if part.bytes.saturating_sub(before) < LEAST_BYTES { failures + 1 } else { 0 };
            if failures >= MAX_FAILURES {
                let why = match broken {
                    HubError::Transport { why, .. } => why,
                    other => other.to_string(),
                };
                let why = format!("{why}; what has come is kept, and the same command goes on from there");
                return Err(HubError::Transport { url: url.into(), why });
            }
            std::thread::sleep(Duration::from_millis(250) * failures * failures);
        }
        progress(name, file.bytes, file.bytes);
        Ok(())
    }

    /// One connection.
    fn receive(&self, url: &str, name: &str, file: &Described, part: &mut Part<'_>, progress: &mut Progress<'_>) -> Result<(), HubError> {
        let mut answer = self.client.from(url, part.bytes)?;
        if answer.total != file.bytes {
            let (found, expected) = (answer.total.to_string(), file.bytes.to_string());
            return Err(HubError::Answer { url: url.into(), field: "length", found, expected });
        }
        if answer.start != part.bytes {
            // A server that knows no ranges begins at the beginning.
            part.restart()?;
        }
        let mut buffer = vec![0; 256 << 10];
        while part.bytes < file.bytes {
            let room = usize::try_from(file.bytes - part.bytes).unwrap_or(usize::MAX).min(buffer.len());
            let n = answer.content.read(buffer.get_mut(..room).unwrap_or_default())?;
            if n == 0 {
                let why = format!("the connection closed after {} of {} bytes", part.bytes, file.bytes);
                return Err(HubError::Transport { url: url.into(), why });
            }
            part.write(buffer.get(..n).unwrap_or_default())?;
            progress(name, part.bytes, file.bytes);
        }
        Ok(())
    }
}

/// The shards that the file at `path` names, if it is an index.
fn shards(path: &Path) -> Result<Vec<String>, HubError> {
    if !is_index(path) {
        return Ok(vec![]);
    }
    Ok(shards_in(read_small(path, MAX_INDEX_BYTES)?, path)?)
}

/// A tag as a name in the cache: it can lead nowhere.
fn is_tag(etag: &str) -> bool {
    let plain = etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    plain && (1..=128).contains(&etag.len())
}

/// A path in a URL.
fn encode(name: &str) -> String {
    let mut out = String::new();
    for b in name.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(b)),
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}
