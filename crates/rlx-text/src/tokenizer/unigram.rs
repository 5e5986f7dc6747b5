//! Unigram language model (`t5` in GGUF): of all ways to cut a text into tokens the one with the best sum of
//! scores.  Kudo 2018, <https://arxiv.org/abs/1804.10959>.

use super::MARK;
use super::cache::WordCache;
use super::charsmap::Charsmap;
use super::gguf::{CheckedVocab, TokenType};
use super::trie::Trie;
use super::word_starts::WordStarts;
use crate::{Result, TextError};

/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The encoder.
#[derive(Debug)]
pub(super) struct Unigram {
    trie: Trie,
    /// Log probability by id.
    scores: Vec<f32>,
    unknown_score: f64,
    unk: Option<u32>,
    charsmap: Option<Charsmap>,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
    starts: WordStarts,
}

/// Best way to reach a position.
#[derive(Debug, Clone, Copy)]
struct Best {
    score: f64,
    from: usize,
    /// `None`: unknown.
    id: Option<u32>,
}

/// Buffers of one call.
pub(super) struct Scratch {
    best: Vec<Best>,
    path: Vec<Option<u32>>,
    cache: WordCache,
}

impl Unigram {
    pub(super) fn new(
        vocab: &CheckedVocab,
        scores: &[f32],
        unk: Option<u32>,
        charsmap: Option<&[u8]>,
        add_space_prefix: bool,
        remove_extra_whitespaces: bool,
    ) -> Result<Self> {
        // User-defined tokens are cut out of the text before.
        let is_text = |id| matches!(vocab.kind(id), TokenType::Normal | TokenType::Unused);
        if let Some(at) = scores.iter().position(|s| !s.is_finite()) {
            return Err(TextError::vocab_element("scores", at, format!("the score of token {at} is not finite")));
        }
        let normal = (0u32..).zip(scores).filter(|(id, _)| vocab.kind(*id) == TokenType::Normal);
        let worst = normal.map(|(_, &s)| f64::from(s)).fold(f64::INFINITY, f64::min);
        Ok(Self {
            trie: Trie::new(vocab.tokens.iter().filter(|(id, _)| is_text(*id)))?,
            scores: scores.to_vec(),
            unknown_score: if worst.is_finite() { worst } else { 0.0 } - UNKNOWN_PENALTY,
            unk,
            charsmap: charsmap.map(Charsmap::new).transpose()?,
            add_space_prefix,
            remove_extra_whitespaces,
            starts: WordStarts::new(vocab, is_text),
        })
    }

    pub(super) fn scratch() -> Scratch {
        Scratch { best: Vec::new(), path: Vec::new(), cache: WordCache::new() }
    }

    /// Appends the ids of `text`, in which no special tokens are looked for.
    pub(super) fn encode(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        let text = self.normalise(text);
        let Scratch { best, path, cache } = scratch;
        self.starts.words(&text, |word| {
            let before = out.len();
            cache.ids(word.as_bytes(), out, |out| self.word(word, best, path, out))?;
            // Unknown characters in a row are one unknown token, also across words.
            if self.unk.is_some() && before > 0 && out.get(before) == self.unk.as_ref() && out.get(before - 1) == self.unk.as_ref() {
                out.remove(before);
            }
            Ok(())
        })
    }

    /// The characters of the model, its spaces, and the mark for them.
    fn normalise(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 4 + MARK.len());
        let (mut in_word, mut any) = (false, false);
        let mut put = |c: char| {
            if c == ' ' {
                in_word = false;
                if !self.remove_extra_whitespaces {
                    out.push_str(MARK);
                }
                return;
            }
            if !in_word {
                in_word = true;
                if if any { self.remove_extra_whitespaces } else { self.add_space_prefix } {
                    out.push_str(MARK);
                }
                any = true;
            }
            out.push(c);
        };
        match &self.charsmap {
            Some(map) => map.normalise(text, put),
            None => text.chars().for_each(&mut put),
        }
        out
    }

    fn word(&self, word: &str, best: &mut Vec<Best>, path: &mut Vec<Option<u32>>, out: &mut Vec<u32>) -> Result<()> {
        let unreached = Best { score: f64::NEG_INFINITY, from: 0, id: None };
        best.clear();
        best.resize(word.len() + 1, unreached);
        if let Some(start) = best.first_mut() {
            start.score = 0.0;
        }
        for (at, c) in word.char_indices() {
            let here = best.get(at).map_or(f64::NEG_INFINITY, |b| b.score);
            let mut has_single = false;
            let mut offer = |n: usize, id: Option<u32>, score: f64| {
                if let Some(there) = best.get_mut(at + n).filter(|b| here + score > b.score) {
                    *there = Best { score: here + score, from: at, id };
                }
            };
            let rest = word.as_bytes().get(at..).unwrap_or_default();
            self.trie.prefixes(rest, |n, id| {
                has_single |= n == c.len_utf8();
                offer(n, Some(id), self.scores.get(id as usize).copied().map_or(0.0, f64::from));
            });
            if !has_single {
                offer(c.len_utf8(), None, self.unknown_score);
            }
        }
        path.clear();
        let mut at = word.len();
        while at > 0 {
            let Some(step) = best.get(at).filter(|b| b.from < at) else { break };
            // Unknown characters in a row are one unknown token.
            if step.id.is_some() || path.last() != Some(&None) {
                path.push(step.id);
            }
            at = step.from;
        }
        for &id in path.iter().rev() {
            let byte = word.bytes().next().unwrap_or_default();
            out.push(id.or(self.unk).ok_or(TextError::NoToken { byte })?);
        }
        Ok(())
    }
}
