//! A GGUF vocabulary as plain data, and the checks that make it safe to use.

use std::collections::HashMap;

use super::bytes;
use crate::{Result, TextError};

/// The `tokenizer.ggml.*` metadata of a GGUF file.  Whoever reads the file fills it in; nothing is checked
/// before [`Tokenizer::from_gguf`](super::Tokenizer::from_gguf).
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `model`: `gpt2`, `llama`, `t5`, `bert`, …
    pub model: String,
    /// `pre`: the split rule.
    pub pre: Option<String>,
    /// `tokens`, `[V]`.
    pub tokens: Vec<String>,
    /// `scores`, `[V]`.
    pub scores: Option<Vec<f32>>,
    /// `token_type`, `[V]`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `merges`, best first, each two tokens with a space between.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos_id: Option<u32>,
    /// `eos_token_id`.
    pub eos_id: Option<u32>,
    /// `unknown_token_id`.
    pub unk_id: Option<u32>,
    /// `padding_token_id`.
    pub pad_id: Option<u32>,
    /// `eot_token_id`.
    pub eot_id: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenType {
    fn from_number(id: usize, n: i32) -> Result<Self> {
        Ok(match n {
            // 0 is "undefined"; writers use it for ordinary tokens.
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => {
                return Err(TextError::vocab("token_type", format!("token {id} has type {n}, expected 0 to 6")));
            }
        })
    }

    /// Written as it reads, not in byte stand-ins.
    pub(super) fn is_literal(self) -> bool {
        matches!(self, Self::Control | Self::UserDefined | Self::Unused | Self::Unknown)
    }
}

/// Longest token text that is believed.
const MAX_TOKEN_BYTES: usize = 1 << 16;

/// A vocabulary whose parts agree.
#[derive(Debug)]
pub(super) struct CheckedVocab {
    pub tokens: Vec<String>,
    pub types: Vec<TokenType>,
    pub ids: HashMap<String, u32>,
    /// (left, right, merged), best first.
    pub merges: Vec<(u32, u32, u32)>,
}

/// Checks that lengths agree, ids are in range, tokens are unique and merges name tokens.
pub(super) fn check(vocab: &GgufVocab) -> Result<CheckedVocab> {
    let n = vocab.tokens.len();
    if n == 0 {
        return Err(TextError::vocab("tokens", "the list is empty; the file carries no usable tokenizer"));
    }
    if u32::try_from(n).is_err() {
        return Err(TextError::vocab("tokens", format!("{n} tokens, expected fewer than 2^32")));
    }
    same_length("scores", vocab.scores.as_ref().map(Vec::len), n)?;
    same_length("token_type", vocab.token_types.as_ref().map(Vec::len), n)?;
    let fields = [
        ("bos_token_id", vocab.bos_id),
        ("eos_token_id", vocab.eos_id),
        ("unknown_token_id", vocab.unk_id),
        ("padding_token_id", vocab.pad_id),
        ("eot_token_id", vocab.eot_id),
    ];
    for (field, id) in fields {
        if let Some(id) = id.filter(|&id| id as usize >= n) {
            return Err(TextError::vocab(field, format!("id {id}, expected less than the {n} tokens of the list")));
        }
    }
    let types = match &vocab.token_types {
        Some(list) => list.iter().enumerate().map(|(id, &t)| TokenType::from_number(id, t)).collect::<Result<_>>()?,
        None => vec![TokenType::Normal; n],
    };
    let ids = index(&vocab.tokens, &types)?;
    let merges = vocab.merges.iter().enumerate().map(|(rank, m)| merge(&ids, rank, m)).collect::<Result<_>>()?;
    Ok(CheckedVocab { tokens: vocab.tokens.clone(), types, ids, merges })
}

fn same_length(field: &'static str, found: Option<usize>, expected: usize) -> Result<()> {
    match found {
        Some(found) if found != expected => {
            Err(TextError::vocab(field, format!("{found} entries, expected {expected}, one for each token")))
        }
        _ => Ok(()),
    }
}

fn index(tokens: &[String], types: &[TokenType]) -> Result<HashMap<String, u32>> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for ((id, token), kind) in (0u32..).zip(tokens).zip(types) {
        if token.len() > MAX_TOKEN_BYTES {
            let found = token.len();
            return Err(TextError::vocab("tokens", format!("token {id} has {found} bytes, expected at most {MAX_TOKEN_BYTES}")));
        }
        if *kind == TokenType::Byte && bytes::byte_token(token).is_none() {
            return Err(TextError::vocab("tokens", format!("byte token {id} is `{token}`, expected <0x00> to <0xFF>")));
        }
        // Empty tokens fill gaps in some files; text can never name them.
        if token.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(token.clone(), id) {
            return Err(TextError::vocab("tokens", format!("`{token}` is both token {first} and token {id}, expected once")));
        }
    }
    Ok(ids)
}

fn merge(ids: &HashMap<String, u32>, rank: usize, text: &str) -> Result<(u32, u32, u32)> {
    // A token may begin with a space in some vocabularies, so the separator is looked for behind the first character.
    let after_first = text.chars().next().map_or(0, char::len_utf8);
    let cut = text.get(after_first..).and_then(|rest| rest.find(' ')).map(|at| at + after_first);
    let halves = cut.and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?)));
    let Some((left, right)) = halves.filter(|(_, right)| !right.is_empty()) else {
        return Err(TextError::vocab("merges", format!("merge {rank} is `{text}`, expected two tokens with a space between")));
    };
    let id = |token: &str| {
        let missing = || TextError::vocab("merges", format!("merge {rank} `{text}` needs `{token}`, which is not in the token list"));
        ids.get(token).copied().ok_or_else(missing)
    };
    Ok((id(left)?, id(right)?, id(&format!("{left}{right}"))?))
}
