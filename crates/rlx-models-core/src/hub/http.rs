//! Requests: redirects counted, answers and waiting bounded, the token for the endpoint alone.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{HubError, HubOptions};
use crate::message::quote;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::{Agent, Body};

/// Most redirects of a request.
const MAX_REDIRECTS: usize = 8;
/// An answer that brings less than this while patience lasts is no answer.
const LEAST_BYTES: u64 = 4096;
/// Most bytes passed over when a server that knows no ranges sends a file from its beginning.
const MAX_SKIPPED: u64 = 128 << 20;

/// What to do about answers that lead elsewhere.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Redirects {
    /// Go there.
    Follow,
    /// Only within the same host: the first answer from the hub itself has the headers that describe a file.
    SameHost,
}

/// Talks to one endpoint.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    patience: Duration,
    read: AtomicU64,
    requests: AtomicU64,
}

/// The body of an answer, with an eye on the clock.
pub(super) struct Content {
    body: Box<dyn Read + Send>,
    url: String,
    patience: Duration,
    since: Instant,
    came: u64,
}

impl Content {
    /// Some of the body; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, HubError> {
        let fail = |why: String| HubError::Transport { url: self.url.clone(), why };
        let n = self.body.read(buffer).map_err(|e| fail(e.to_string()))?;
        self.came += n as u64;
        if self.since.elapsed() > self.patience {
            if n > 0 && self.came < LEAST_BYTES {
                return Err(fail(format!("only {} bytes came in {} seconds", self.came, self.since.elapsed().as_secs())));
            }
            (self.since, self.came) = (Instant::now(), 0);
        }
        Ok(n)
    }

    /// Up to `most` bytes.
    fn take(&mut self, most: u64) -> Result<Vec<u8>, HubError> {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 32 << 10]);
        while (bytes.len() as u64) < most {
            let room = usize::try_from(most - bytes.len() as u64).unwrap_or(usize::MAX).min(buffer.len());
            match self.read(buffer.get_mut(..room).unwrap_or_default())? {
                0 => break,
                n => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            }
        }
        Ok(bytes)
    }

    /// Passes over `n` bytes.
    fn skip(&mut self, mut n: u64) -> Result<(), HubError> {
        while n > 0 {
            match self.take(n.min(32 << 10))?.len() as u64 {
                0 => return Ok(()),
                came => n -= came,
            }
        }
        Ok(())
    }
}

/// An answer with a part of a file.
pub(super) struct Answer {
    /// Where it begins in the file.
    pub start: u64,
    /// The length of the file.
    pub total: u64,
    pub content: Content,
}

impl Client {
    pub fn new(options: &HubOptions) -> Client {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(options.patience))
            .timeout_connect(Some(options.patience))
            .timeout_recv_response(Some(options.patience))
            .timeout_per_read(Some(options.patience))
            .timeout_per_write(Some(options.patience))
            .max_response_header_size(64 << 10)
            // Lengths are those of files.
            .accept_encoding("identity")
            .user_agent(concat!("rlx/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let (endpoint, token) = (options.endpoint.clone(), options.token.clone());
        Client { agent, endpoint, token, patience: options.patience, read: AtomicU64::new(0), requests: AtomicU64::new(0) }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Bytes of small answers and parts that were read, and requests that were made.
    pub fn traffic(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    /// One request, through redirects, whatever the status.
    fn send(&self, head: bool, url: &str, range: Option<&str>, redirects: Redirects) -> Result<Response<Body>, HubError> {
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = if head { self.agent.head(&at) } else { self.agent.get(&at) };
            if let Some(token) = self.token.as_ref().filter(|_| same_host(&at, &self.endpoint)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.header(header::RANGE, range);
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            let answer = request.call().map_err(|e| HubError::Transport { url: at.clone(), why: e.to_string() })?;
            let target = text(answer.headers(), "location").filter(|_| answer.status().is_redirection());
            let Some(target) = target else { return Ok(answer) };
            let next = resolve(&at, &target)?;
            if redirects == Redirects::SameHost && !same_host(&next, &at) {
                return Ok(answer);
            }
            at = next;
        }
        let (found, expected) = (format!("more than {MAX_REDIRECTS} redirects, the last to {}", quote(&at)), "an answer".into());
        Err(HubError::Answer { url: url.into(), field: "location", found, expected })
    }

    /// Headers of the hub's own answer about a file.
    pub fn head(&self, url: &str) -> Result<HeaderMap, HubError> {
        let answer = self.send(true, url, None, Redirects::SameHost)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status.is_success() || status.is_redirection() {
            return Ok(headers);
        }
        Err(refused(url, status.as_u16(), &headers, self.token.is_some()))
    }

    /// An answer that is a success, and its body.
    fn get(&self, url: &str, range: Option<&str>) -> Result<(Response<()>, Content), HubError> {
        let answer = self.send(false, url, range, Redirects::Follow)?;
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            return Err(refused(url, parts.status.as_u16(), &parts.headers, self.token.is_some()));
        }
        let body = Box::new(body.into_reader());
        let content = Content { body, url: url.into(), patience: self.patience, since: Instant::now(), came: 0 };
        Ok((Response::from_parts(parts, ()), content))
    }

    /// A whole answer of at most `limit` bytes.
    pub fn small(&self, url: &str, limit: u64) -> Result<Vec<u8>, HubError> {
        let bytes = self.get(url, None)?.1.take(limit + 1)?;
        self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if bytes.len() as u64 > limit {
            let (found, expected) = (format!("more than {limit} bytes"), format!("at most {limit}"));
            return Err(HubError::Answer { url: url.into(), field: "length", found, expected });
        }
        Ok(bytes)
    }

    /// A file from byte `from` on, or from its beginning when the server knows no ranges.
    pub fn from(&self, url: &str, from: u64) -> Result<Answer, HubError> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        self.ranged(url, range.as_deref(), from)
    }

    fn ranged(&self, url: &str, range: Option<&str>, from: u64) -> Result<Answer, HubError> {
        let (answer, content) = self.get(url, range)?;
        let (start, total) = place(&answer, url)?;
        let partial = answer.status().as_u16() == 206;
        if start != if partial { from } else { 0 } {
            let (found, expected) = (format!("a part from byte {start}"), format!("one from byte {from}"));
            return Err(HubError::Answer { url: url.into(), field: "content-range", found, expected });
        }
        Ok(Answer { start, total, content })
    }

    /// The bytes of a file from `from` to `to`, fewer where it ends, and its whole length.
    pub fn part(&self, url: &str, from: u64, to: u64) -> Result<(Vec<u8>, u64), HubError> {
        let range = format!("bytes={from}-{}", to.saturating_sub(1));
        let Answer { start, total, mut content } = self.ranged(url, Some(&range), from)?;
        let fail = |why: String| HubError::Transport { url: url.into(), why };
        if start != from && from > MAX_SKIPPED {
            return Err(fail(format!("the server sends whole files only, and byte {from} was asked for")));
        }
        content.skip(from - start)?;
        let bytes = content.take(to - from)?;
        self.read.fetch_add(from - start + bytes.len() as u64, Ordering::Relaxed);
        let expected = to.min(total).saturating_sub(from);
        if (bytes.len() as u64) < expected {
            return Err(fail(format!("the answer ended after {} of {expected} bytes", bytes.len())));
        }
        Ok((bytes, total))
    }
}

/// Where the bytes of an answer begin in the file, and the length of the file.
fn place(answer: &Response<()>, url: &str) -> Result<(u64, u64), HubError> {
    let bad =
        |field, found: &str| HubError::Answer { url: url.into(), field, found: quote(found), expected: "the length of the file".into() };
    if answer.status().as_u16() != 206 {
        let length = text(answer.headers(), "content-length").unwrap_or_default();
        return Ok((0, length.parse().map_err(|_| bad("content-length", &length))?));
    }
    let range = text(answer.headers(), "content-range").unwrap_or_default();
    let parts = range.strip_prefix("bytes ").and_then(|r| r.split_once('/'));
    let parsed = parts.and_then(|(span, total)| Some((span.split_once('-')?.0.parse().ok()?, total.parse().ok()?)));
    parsed.ok_or_else(|| bad("content-range", &range))
}

/// A header as text.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

fn same_host(a: &str, b: &str) -> bool {
    let parts = |u: &str| {
        let uri: Uri = u.parse().ok()?;
        Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_ascii_lowercase()))
    };
    parts(a).is_some_and(|p| Some(p) == parts(b))
}

/// Where a redirect leads.
fn resolve(from: &str, target: &str) -> Result<String, HubError> {
    let bad = || HubError::Answer {
        url: from.into(),
        field: "location",
        found: quote(target),
        expected: "an address, secure where the last one was".into(),
    };
    let uri: Uri = target.parse().map_err(|_| bad())?;
    let base: Uri = from.parse().map_err(|_| bad())?;
    match (uri.scheme_str(), uri.authority()) {
        // Not from a secure connection to one that others can read.
        (Some("https"), Some(_)) => Ok(target.to_owned()),
        (Some("http"), Some(_)) if base.scheme_str() == Some("http") => Ok(target.to_owned()),
        (None, None) if target.starts_with('/') => {
            let (scheme, host) = base.scheme_str().zip(base.authority()).ok_or_else(bad)?;
            Ok(format!("{scheme}://{host}{target}"))
        }
        _ => Err(bad()),
    }
}

/// What a refusal means and what to do.
fn refused(url: &str, status: u16, headers: &HeaderMap, token: bool) -> HubError {
    let said = text(headers, "x-error-message").map(|m| format!(" ({})", quote(&m))).unwrap_or_default();
    let code = text(headers, "x-error-code").unwrap_or_default();
    let log_in = if token { "the token in HF_TOKEN does not open it" } else { "set HF_TOKEN to a token that may read it" };
    let hint = match (status, code.as_str()) {
        (_, "GatedRepo") => format!(": the repository is gated; accept its conditions on its page, and {log_in}"),
        (_, "EntryNotFound") => ": the repository has no such file".into(),
        (_, "RevisionNotFound") => ": the repository has no such revision".into(),
        (401, _) => format!(": there is no such repository, or it is private; {log_in}"),
        (403, _) => format!(": access is not allowed; {log_in}"),
        (404, _) => ": there is no such repository or file; check the name".into(),
        (429, _) => ": too many requests; wait, or set HF_TOKEN".into(),
        (500.., _) => ": the Hub has a problem; try later".into(),
        _ => String::new(),
    };
    HubError::Status { url: url.into(), status, hint: hint + &said }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_addresses_and_never_from_secure_to_open() {
        for (from, to, want) in [
            ("https://a/x", "https://b/y", Some("https://b/y")),
            ("https://a/x", "/y?z", Some("https://a/y?z")),
            ("http://a/x", "http://b/y", Some("http://b/y")),
            ("https://a/x", "http://b/y", None),
            ("https://a/x", "file:///etc/passwd", None),
            ("https://a/x", "y", None),
            ("https://a/x", "", None),
        ] {
            assert_eq!(resolve(from, to).ok().as_deref(), want, "{from} -> {to}");
        }
        assert!(same_host("https://A/x", "https://a/y"));
        for other in ["http://a/x", "https://a:444/x", "https://a.b/x", "nonsense"] {
            assert!(!same_host("https://a/x", other), "{other}");
        }
    }
}
