//! SentencePiece BPE (`llama` in GGUF): neighbours merge into the token with the best score; what has no token
//! becomes bytes.  After Kudo & Richardson 2018, <https://arxiv.org/abs/1808.06226>.

use std::borrow::Cow;

use super::cache::WordCache;
use super::gguf::{CheckedVocab, TokenType};
use super::merge::Merger;
use super::texts::Index;
use super::word_starts::WordStarts;
use super::{MARK, Vocabulary};
use crate::{Result, TextError};

/// The encoder.
#[derive(Debug)]
pub(super) struct Spm {
    /// Tokens that text can become.
    index: Index,
    /// Merge order by id: smaller is better.
    ranks: Vec<u32>,
    byte_ids: [Option<u32>; 256],
    unk: Option<u32>,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
    starts: WordStarts,
}

/// A part of a word, by byte position, with its id where it is a token.
type Symbol = (u32, u32, u32);

const NO_TOKEN: u32 = u32::MAX;

/// Buffers of one call.
pub(super) struct Scratch {
    merger: Merger<Symbol>,
    cache: WordCache,
    text: String,
}

/// Order-preserving: the larger the score the smaller the rank.
fn rank(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 1 { bits } else { !bits & 0x7FFF_FFFF }
}

impl Spm {
    pub(super) fn new(
        vocab: &CheckedVocab,
        scores: &[f32],
        unk: Option<u32>,
        add_space_prefix: bool,
        remove_extra_whitespaces: bool,
    ) -> Self {
        let is_text = |id| matches!(vocab.kind(id), TokenType::Normal | TokenType::Unused | TokenType::UserDefined);
        let wanted = |id| is_text(id) && vocab.tokens.get(id).is_some_and(|t| !t.is_empty());
        Self {
            index: Index::new(&vocab.tokens, wanted),
            ranks: scores.iter().map(|&s| rank(s)).collect(),
            byte_ids: vocab.byte_ids(),
            unk,
            add_space_prefix,
            remove_extra_whitespaces,
            starts: WordStarts::new(vocab, is_text),
        }
    }

    pub(super) fn scratch() -> Scratch {
        Scratch { merger: Merger::default(), cache: WordCache::new(), text: String::new() }
    }

    /// Appends the ids of `text`, which begins the input or follows a special token, and has none in it.
    pub(super) fn encode(&self, vocab: &Vocabulary, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        let Scratch { merger, cache, text: escaped } = scratch;
        if text.is_empty() {
            return Ok(());
        }
        let text = if self.remove_extra_whitespaces { Cow::Owned(single_spaces(text)) } else { Cow::Borrowed(text) };
        escaped.clear();
        if self.add_space_prefix {
            escaped.push_str(MARK);
        }
        for (n, part) in text.split(' ').enumerate() {
            if n > 0 {
                escaped.push_str(MARK);
            }
            escaped.push_str(part);
        }
        self.starts.words(escaped, |word| cache.ids(word.as_bytes(), out, |out| self.word(vocab, word, merger, out)))
    }

    fn word(&self, vocab: &Vocabulary, word: &str, merger: &mut Merger<Symbol>, out: &mut Vec<u32>) -> Result<()> {
        let find = |from: u32, to: u32| self.index.find(&vocab.tokens, word.as_bytes().get(from as usize..to as usize)?);
        let Ok(_) = u32::try_from(word.len()) else {
            return Err(TextError::Tokenizer { action: "encode", reason: "a text of 4 GiB or more".into() });
        };
        merger.symbols.clear();
        merger.symbols.extend(word.char_indices().map(|(at, c)| {
            let (from, to) = (at as u32, (at + c.len_utf8()) as u32);
            (from, to, find(from, to).unwrap_or(NO_TOKEN))
        }));
        merger.run(|(from, _, _), (_, to, _)| {
            let id = find(from, to)?;
            Some((self.ranks.get(id as usize).copied().unwrap_or(u32::MAX), (from, to, id)))
        });
        for &(from, to, id) in &merger.symbols {
            if id != NO_TOKEN {
                out.push(id);
                continue;
            }
            for &byte in word.as_bytes().get(from as usize..to as usize).unwrap_or_default() {
                match self.byte_ids.get(usize::from(byte)).copied().flatten() {
                    Some(id) => out.push(id),
                    None => {
                        // One unknown token for all that is unknown in a row.
                        let unk = self.unk.ok_or(TextError::NoToken { byte })?;
                        if out.last() != Some(&unk) {
                            out.push(unk);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Without spaces at either end, and with single ones between.
fn single_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_come_first() {
        let sorted = [f32::INFINITY, 3.5, 1e-30, 0.0, -1e-30, -2.0, -1e30, f32::NEG_INFINITY];
        assert!(sorted.is_sorted_by_key(|&s| rank(s)));
        assert_eq!(single_spaces("  a   b "), "a b");
    }
}
