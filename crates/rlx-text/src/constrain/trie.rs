//! A tokenizer's vocabulary as the tree of bytes that masks are computed on.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::{Result, TextError, Tokenizer};

/// Longer tokens are never drawn under a grammar (the tree's depth is bounded).
const MAX_TOKEN_BYTES: usize = 1000;
/// Nodes of the tree.
const MAX_NODES: usize = (1 << 22) - 1;

/// The bytes of every token, shared by all constraints of a model.
#[derive(Clone)]
pub struct TokenTrie {
    env: TokEnv,
}

impl std::fmt::Debug for TokenTrie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenTrie").field("tokens", &self.env.tok_trie().vocab_size()).finish()
    }
}

impl TokenTrie {
    /// For a tokenizer and the tokens that end an answer.
    ///
    /// # Errors
    /// No token ends an answer, one of them is outside the vocabulary, or the vocabulary is too large.
    pub fn new(tokenizer: &Tokenizer, eos: &[u32]) -> Result<Self> {
        let n = tokenizer.vocab_size();
        let wrong = |reason: String| TextError::Grammar { what: "vocabulary", reason };
        let size = u32::try_from(n).ok().filter(|&n| n < 1 << 24).ok_or_else(|| wrong(format!("{n} tokens, expected fewer than 2^24")))?;
        let eos: Vec<u32> = eos.iter().copied().filter(|&id| id < size).collect();
        let Some(&first) = eos.first() else {
            return Err(wrong("no token ends an answer; structured output needs one".into()));
        };
        let words: Vec<Vec<u8>> = (0..size).map(|id| word(tokenizer, id, &eos)).collect();
        let nodes = nodes(&words);
        if nodes > MAX_NODES {
            return Err(wrong(format!("a tree of {nodes} bytes, expected at most {MAX_NODES}")));
        }
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&eos);
        Ok(Self { env: Arc::new(ApproximateTokEnv::new(trie)) })
    }

    /// A compiler of grammars over these tokens.
    pub(super) fn factory(&self) -> Result<ParserFactory, String> {
        ParserFactory::new_simple(&self.env).map_err(|e| e.to_string())
    }
}

/// What a token writes; control tokens are marked, so that no text can stand for them.
fn word(tokenizer: &Tokenizer, id: u32, eos: &[u32]) -> Vec<u8> {
    if tokenizer.is_control(id) || eos.contains(&id) {
        let text = tokenizer.token(id).unwrap_or_default().as_bytes();
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], text].concat();
    }
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    // A byte that marks control tokens is no text either.
    let fits = bytes.len() <= MAX_TOKEN_BYTES && bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER);
    if fits { bytes.to_vec() } else { Vec::new() }
}

/// Nodes of the tree of `words`.
fn nodes(words: &[Vec<u8>]) -> usize {
    let mut sorted: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let mut before: &[u8] = &[];
    let mut total = 1;
    for word in sorted {
        total += word.len() - before.iter().zip(word).take_while(|(a, b)| a == b).count();
        before = word;
    }
    total
}
