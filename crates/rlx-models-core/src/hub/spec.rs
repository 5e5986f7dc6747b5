//! `org/repo[@revision][:substring]`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::HubError;
use crate::message::quote;
use std::fmt;
use std::str::FromStr;

/// A repository of the hub, and which of its weights.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Spec {
    /// `org/repo`.
    pub repo: String,
    /// Branch, tag or commit; `main` unless given.
    pub revision: String,
    /// A part of the name of the weights file, such as a quantisation.
    pub pick: Option<String>,
}

impl FromStr for Spec {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Spec, HubError> {
        let refuse = || HubError::Spec { found: quote(text) };
        let (rest, pick) = match text.split_once(':') {
            Some((rest, pick)) if !pick.is_empty() && pick.len() <= 255 => (rest, Some(pick.to_owned())),
            Some(_) => return Err(refuse()),
            None => (text, None),
        };
        let (repo, revision) = match rest.split_once('@') {
            Some((repo, revision)) => (repo, revision),
            None => (rest, "main"),
        };
        let (org, name) = repo.split_once('/').ok_or_else(refuse)?;
        let word = |s: &str| {
            let plain = s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            (1..=96).contains(&s.len()) && plain && !s.starts_with(['.', '-']) && !s.contains("..") && !s.contains("--")
        };
        if !word(org) || !word(name) || revision.len() > 200 || !revision.split('/').all(word) {
            return Err(refuse());
        }
        Ok(Spec { repo: repo.into(), revision: revision.into(), pick })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        self.pick.iter().try_for_each(|p| write!(f, ":{}", p.escape_debug()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_two_plain_words() {
        let spec: Spec = "org/some-Model.1@refs/pr/3:Q4_K_M".parse().unwrap();
        assert_eq!((&*spec.repo, &*spec.revision, spec.pick.as_deref()), ("org/some-Model.1", "refs/pr/3", Some("Q4_K_M")));
        assert_eq!(spec.to_string(), "org/some-Model.1@refs/pr/3:Q4_K_M");
        for bad in ["repo", "a/b/c", "../etc/x", "a/..", "/a/b", "a/b:", "a/b@../x", "a /b", "a/b\n", "a/b?x", "", "a--b/c", "C:\\a/b"] {
            let e = bad.parse::<Spec>().unwrap_err();
            assert!(e.to_string().contains("org/repo"), "{bad}: {e}");
        }
    }
}
