//! Where text whose spaces are written `▁` may be cut without changing what merging or scoring makes of it.

use super::MARK;
use super::gguf::CheckedVocab;

/// A cut before a `▁` is safe when no token has the character before it and the `▁` side by side: nothing that
/// becomes a token can then reach over the cut.
#[derive(Debug)]
pub(super) struct WordStarts {
    /// Characters that some token has before a `▁`, sorted.
    joined: Vec<char>,
}

impl WordStarts {
    /// From the tokens that `wanted` accepts.
    pub(super) fn new(vocab: &CheckedVocab, wanted: impl Fn(u32) -> bool) -> Self {
        let mut joined = Vec::new();
        for (_, token) in vocab.tokens.iter().filter(|(id, _)| wanted(*id)) {
            let token = std::str::from_utf8(token).unwrap_or_default();
            joined.extend(token.match_indices(MARK).filter_map(|(at, _)| token.get(..at)?.chars().next_back()));
        }
        joined.sort_unstable();
        joined.dedup();
        Self { joined }
    }

    /// Calls `each` with the parts of `text`.
    pub(super) fn words<E>(&self, text: &str, mut each: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let mut from = 0;
        for (at, _) in text.match_indices(MARK) {
            let before = text.get(from..at).and_then(|t| t.chars().next_back());
            if before.is_some_and(|c| self.joined.binary_search(&c).is_err()) {
                each(text.get(from..at).unwrap_or_default())?;
                from = at;
            }
        }
        if from < text.len() { each(text.get(from..).unwrap_or_default()) } else { Ok(()) }
    }
}
