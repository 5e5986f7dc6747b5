//! The files of a repository, and which of them a model needs.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{HubError, Spec};
use crate::message::quote;
use crate::weights::{ResolveWeightsOptions, WeightsError, among, has_extension, is_projector, names_quant, part_number};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path};

/// Most files of a repository.
const MAX_FILES: usize = 100_000;
/// Small files that a model in safetensors may need.  Others are not downloaded.
const BESIDE: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
];
/// Without these there is no telling whether a cache that another program filled has what belongs to the weights.
const ESSENTIAL: &[&str] = &["config.json", "tokenizer.json", "tokenizer_config.json"];

/// A commit and its files, as `/api/models/REPO/revision/REV` tells them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub sha: String,
    /// Sorted by name.
    pub siblings: Vec<Sibling>,
}

/// One file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Sibling {
    pub rfilename: String,
    #[serde(default)]
    pub size: Option<u64>,
}

impl Listing {
    /// Reads an answer.
    pub fn parse(bytes: &[u8], url: &str) -> Result<Listing, HubError> {
        let bad = |field, found, expected: &str| HubError::Answer { url: url.into(), field, found, expected: expected.into() };
        let listing: Listing =
            serde_json::from_slice(bytes).map_err(|e| bad("the list of files", e.to_string(), "an object with sha and siblings"))?;
        listing.check(&bad)
    }

    /// The listing of names that are known from elsewhere.
    pub fn of_names(commit: &str, names: Vec<String>) -> Result<Listing, HubError> {
        let siblings = names.into_iter().map(|rfilename| Sibling { rfilename, size: None }).collect();
        let bad = |field, found, expected: &str| HubError::Answer { url: "the cache".into(), field, found, expected: expected.into() };
        Listing { sha: commit.into(), siblings }.check(&bad)
    }

    fn check(mut self, bad: &dyn Fn(&'static str, String, &str) -> HubError) -> Result<Listing, HubError> {
        if !is_commit(&self.sha) {
            return Err(bad("sha", quote(&self.sha), "a commit of 40 hexadecimal digits"));
        }
        if self.siblings.len() > MAX_FILES {
            return Err(bad("siblings", self.siblings.len().to_string(), "at most 100000 files"));
        }
        if let Some(s) = self.siblings.iter().find(|s| !is_inside(&s.rfilename)) {
            return Err(bad("rfilename", quote(&s.rfilename), "a path inside the repository"));
        }
        self.siblings.sort_unstable();
        Ok(self)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|s| s.rfilename.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.siblings.binary_search_by(|s| s.rfilename.as_str().cmp(name)).is_ok()
    }

    /// Small files that belong to the weights file `file`.  GGUF files have everything in them.
    pub fn beside(&self, file: &str) -> Vec<String> {
        let gguf = has_extension(file, "gguf");
        let wanted = |n: &str| n.ends_with(".rlx.toml") && !n.contains('/') || !gguf && BESIDE.contains(&n);
        self.names().filter(|n| wanted(n)).map(str::to_owned).collect()
    }

    /// Whether these files, found in a cache, can only be the ones that the whole repository would have given.
    pub fn is_certain(&self, file: &str, spec: &Spec, opts: &ResolveWeightsOptions) -> bool {
        if has_extension(file, "gguf") {
            let wanted = opts.prefer_quant.as_deref().is_some_and(|q| names_quant(file, q));
            return opts.gguf_index.is_none() && (spec.pick.is_some() || wanted);
        }
        ESSENTIAL.iter().all(|n| self.has(n))
    }

    /// The weights file that `spec` means: as in a directory on disk, or by a part of the name.
    pub fn choose(&self, spec: &Spec, opts: &ResolveWeightsOptions) -> Result<String, HubError> {
        if let Some(pick) = &spec.pick {
            return self.picked(spec, pick);
        }
        let place = Path::new(&spec.repo);
        let names: Vec<String> = self.names().map(str::to_owned).collect();
        let found = among(place, &names, opts)?.file;
        let inside = found.strip_prefix(place).ok().and_then(Path::to_str).map(str::to_owned);
        inside.ok_or_else(|| HubError::Weights(WeightsError::NotFound { path: place.into(), expected: "weights", found: vec![] }))
    }

    /// By the whole name, a quantisation, or any part of the name.
    fn picked(&self, spec: &Spec, pick: &str) -> Result<String, HubError> {
        let lower = pick.to_ascii_lowercase();
        let is_weights = |n: &&str| has_extension(n, "safetensors") || has_extension(n, "gguf") && part_number(n).is_none_or(|p| p == 1);
        let all: Vec<&str> = self.names().filter(is_weights).collect();
        let model = |n: &&str| has_extension(n, "gguf") && !is_projector(n);
        let some = |wanted: &dyn Fn(&str) -> bool| all.iter().copied().filter(|n| wanted(n)).collect::<Vec<_>>();
        let ways = [
            some(&|n| n == pick),
            some(&|n| model(&n) && names_quant(n, pick)),
            some(&|n| model(&n) && n.to_ascii_lowercase().contains(&lower)),
            some(&|n| n.to_ascii_lowercase().contains(&lower)),
        ];
        let refuse = |why: &str, files: &[&str]| {
            let files = files.iter().map(|n| quote(n)).collect();
            Err(HubError::Choice { repo: spec.to_string(), why: why.into(), files })
        };
        match ways.iter().find(|found| !found.is_empty()).map(Vec::as_slice) {
            Some([one]) => Ok((*one).to_owned()),
            Some(several) => refuse("several weights files have that in their names; name one in full", several),
            None => refuse("no weights file has that in its name", &all),
        }
    }

    /// All parts of the GGUF file whose first is `first`.
    ///
    /// # Errors
    /// [`HubError::Incomplete`].
    pub fn parts(&self, spec: &Spec, first: &str) -> Result<Vec<String>, HubError> {
        let Some((prefix, count)) = split_name(first) else { return Ok(vec![first.to_owned()]) };
        let n: usize = count.parse().unwrap_or(usize::MAX);
        // One more than there are files is enough to find one missing.
        let parts: Vec<String> = (1..=n.min(self.siblings.len() + 1)).map(|i| format!("{prefix}{i:05}-of-{count}.gguf")).collect();
        let missing: Vec<String> = parts.iter().filter(|p| !self.has(p)).map(|p| quote(p)).collect();
        if missing.is_empty() { Ok(parts) } else { Err(HubError::Incomplete { repo: spec.to_string(), missing }) }
    }
}

/// What comes before and after the number of a part.
fn split_name(name: &str) -> Option<(&str, &str)> {
    part_number(name)?;
    let (stem, count) = name.get(..name.len().checked_sub(5)?)?.rsplit_once("-of-")?;
    Some((stem.get(..stem.len().checked_sub(5)?)?, count))
}

/// A commit, as a name in the cache.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A path that leads nowhere outside the directory that it is joined to.
fn is_inside(name: &str) -> bool {
    let plain = !name.is_empty() && name.len() <= 1024 && !name.contains(['\\', ':']) && !name.chars().any(char::is_control);
    let normal = || Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    plain && name.split('/').all(|part| !matches!(part, "" | "." | "..")) && normal()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    const SHA: &str = "0123456789012345678901234567890123456789";

    fn listing(names: &[&str]) -> Listing {
        Listing::of_names(SHA, names.iter().map(|n| (*n).to_owned()).collect()).unwrap()
    }

    fn choose(names: &[&str], spec: &str) -> Result<String, HubError> {
        listing(names).choose(&spec.parse().unwrap(), &ResolveWeightsOptions::default())
    }

    #[test]
    fn weights_are_chosen_as_in_a_directory_or_by_a_part_of_the_name() {
        let names = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ4_XS.gguf", "mmproj-Q8_0.gguf"];
        for (spec, want) in
            [("o/r", "m-Q4_K_M.gguf"), ("o/r:q8_0", "m-Q8_0.gguf"), ("o/r:XS", "m-IQ4_XS.gguf"), ("o/r:mmproj", "mmproj-Q8_0.gguf")]
        {
            assert_eq!(choose(&names, spec).unwrap(), want, "{spec}");
        }
        assert_eq!(choose(&["model.safetensors", "a-Q4_K_M.gguf"], "o/r").unwrap(), "model.safetensors");
        assert_eq!(choose(&["model.safetensors", "a-Q4_K_M.gguf"], "o/r:q4").unwrap(), "a-Q4_K_M.gguf");
        // Large models lie in folders, a folder per quantisation.
        let folders = ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf"];
        assert_eq!(choose(&folders, "o/r").unwrap(), folders[2]);
        assert_eq!(choose(&folders, "o/r:bf16").unwrap(), folders[0]);
        let e = choose(&names, "o/r:Q2_K").unwrap_err().to_string();
        assert!(e.contains("no weights file has that") && e.contains("m-Q8_0.gguf"), "{e}");
        let e = choose(&["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "o/r:Q4_K_M").unwrap_err().to_string();
        assert!(e.contains("several") && e.contains("b-Q4_K_M.gguf"), "{e}");
        let e = choose(&["a-Q8_0.gguf", "b-Q6_K.gguf"], "o/r").unwrap_err().to_string();
        assert!(e.contains("none of them Q4_K_M") && e.contains("1: b-Q6_K.gguf"), "{e}");
        let e = choose(&["pytorch_model.bin"], "o/r").unwrap_err().to_string();
        assert!(e.contains("no weights found"), "{e}");
    }

    #[test]
    fn all_parts_must_be_there() {
        let spec = "o/r".parse().unwrap();
        let parts = listing(&["d/m-00001-of-00002.gguf", "d/m-00002-of-00002.gguf"]).parts(&spec, "d/m-00001-of-00002.gguf").unwrap();
        assert_eq!(parts, ["d/m-00001-of-00002.gguf", "d/m-00002-of-00002.gguf"]);
        let e = listing(&["m-00001-of-99999.gguf"]).parts(&spec, "m-00001-of-99999.gguf").unwrap_err().to_string();
        assert!(e.contains("lacks \"m-00002-of-99999.gguf\""), "{e}");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["../x", "a/../../x", "/etc/x", "", "a//b", "a/", "C:x", "a\\b", "a\n", ".", "a/."] {
            let e = Listing::of_names(SHA, vec![bad.to_owned()]).unwrap_err().to_string();
            assert!(e.contains("inside the repository"), "{bad}: {e}");
        }
        assert!(listing(&["a/b..c/.d"]).has("a/b..c/.d"));
        assert!(Listing::of_names("../x", vec![]).is_err());
    }
}
