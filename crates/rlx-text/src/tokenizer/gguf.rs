//! A GGUF vocabulary as plain data, and the checks that make it safe to use.

use std::borrow::Cow;

use super::bytes;
use super::texts::{Index, Texts};
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
    /// `eot_token_id`: ends a turn.
    pub eot_id: Option<u32>,
    /// `eom_token_id`: ends a message that expects an answer from a tool.
    pub eom_id: Option<u32>,
    /// `seperator_token_id` (the specification's spelling).
    pub sep_id: Option<u32>,
    /// `cls_token_id`.
    pub cls_id: Option<u32>,
    /// `mask_token_id`.
    pub mask_id: Option<u32>,
    /// `fim_pre_token_id`, `fim_suf_token_id`, `fim_mid_token_id`: text to be filled in.
    pub fim_ids: [Option<u32>; 3],
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_sep_token`.
    pub add_sep: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`: SentencePiece's normaliser.
    pub precompiled_charsmap: Option<Vec<u8>>,
    /// `normalizer.lowercase`.
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents`.
    pub strip_accents: Option<bool>,
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
                return Err(TextError::vocab_element("token_type", id, format!("token {id} has type {n}, expected 0 to 6")));
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
    pub tokens: Texts,
    pub index: Index,
    pub types: Vec<TokenType>,
    /// (left, right, merged), best first.
    pub merges: Vec<(u32, u32, u32)>,
}

impl CheckedVocab {
    pub(super) fn kind(&self, id: u32) -> TokenType {
        self.types.get(id as usize).copied().unwrap_or(TokenType::Normal)
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.index.find(&self.tokens, token.as_bytes())
    }

    /// The tokens `<0x00>` to `<0xFF>`.
    pub(super) fn byte_ids(&self) -> [Option<u32>; 256] {
        std::array::from_fn(|byte| self.id(&format!("<0x{byte:02X}>")))
    }
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
    if let Some(at) = vocab.scores.iter().flatten().position(|s| s.is_nan()) {
        return Err(TextError::vocab_element("scores", at, format!("the score of token {at} is not a number")));
    }
    let [fim_pre, fim_suf, fim_mid] = vocab.fim_ids;
    let fields = [
        ("bos_token_id", vocab.bos_id),
        ("eos_token_id", vocab.eos_id),
        ("unknown_token_id", vocab.unk_id),
        ("padding_token_id", vocab.pad_id),
        ("eot_token_id", vocab.eot_id),
        ("eom_token_id", vocab.eom_id),
        ("seperator_token_id", vocab.sep_id),
        ("cls_token_id", vocab.cls_id),
        ("mask_token_id", vocab.mask_id),
        ("fim_pre_token_id", fim_pre),
        ("fim_suf_token_id", fim_suf),
        ("fim_mid_token_id", fim_mid),
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
    let (tokens, index) = index(&vocab.tokens, &types)?;
    let mut joined = Vec::new();
    let merges = vocab.merges.iter().enumerate();
    let merges = merges.map(|(rank, m)| merge(&tokens, &index, rank, m, &mut joined)).collect::<Result<_>>()?;
    Ok(CheckedVocab { tokens, index, types, merges })
}

fn same_length(field: &'static str, found: Option<usize>, expected: usize) -> Result<()> {
    match found {
        Some(found) if found != expected => {
            Err(TextError::vocab(field, format!("{found} entries, expected {expected}, one for each token")))
        }
        _ => Ok(()),
    }
}

fn index(tokens: &[String], types: &[TokenType]) -> Result<(Texts, Index)> {
    for ((id, token), kind) in tokens.iter().enumerate().zip(types) {
        if token.len() > MAX_TOKEN_BYTES {
            let found = token.len();
            return Err(TextError::vocab_element(
                "tokens",
                id,
                format!("token {id} has {found} bytes, expected at most {MAX_TOKEN_BYTES}"),
            ));
        }
        if *kind == TokenType::Byte && bytes::byte_token(token).is_none() {
            return Err(TextError::vocab_element(
                "tokens",
                id,
                format!("byte token {id} is `{}`, expected <0x00> to <0xFF>", shorten(token)),
            ));
        }
    }
    let mut texts = Texts::with_capacity(tokens.len(), tokens.iter().map(String::len).sum());
    for token in tokens {
        if !texts.push_with(|out| out.extend_from_slice(token.as_bytes())) {
            return Err(TextError::vocab("tokens", "4 GiB of text or more, expected less"));
        }
    }
    let mut index = Index::with_capacity(tokens.len());
    // Empty tokens fill gaps in some files; text can never name them.
    for (id, token) in (0u32..).zip(tokens).filter(|(_, t)| !t.is_empty()) {
        if let Err(first) = index.insert(&texts, token.as_bytes(), id) {
            return Err(TextError::vocab_element(
                "tokens",
                id as usize,
                format!("`{}` is both token {first} and token {id}, expected once", shorten(token)),
            ));
        }
    }
    Ok((texts, index))
}

fn merge(texts: &Texts, index: &Index, rank: usize, text: &str, joined: &mut Vec<u8>) -> Result<(u32, u32, u32)> {
    // A token may begin with a space in some vocabularies, so the separator is looked for behind the first character.
    let after_first = text.chars().next().map_or(0, char::len_utf8);
    let cut = text.get(after_first..).and_then(|rest| rest.find(' ')).map(|at| at + after_first);
    let halves = cut.and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?)));
    let Some((left, right)) = halves.filter(|(_, right)| !right.is_empty()) else {
        return Err(TextError::vocab_element(
            "merges",
            rank,
            format!("merge {rank} is `{}`, expected two tokens with a space between", shorten(text)),
        ));
    };
    joined.clear();
    joined.extend_from_slice(left.as_bytes());
    joined.extend_from_slice(right.as_bytes());
    let id = |token: &[u8]| {
        let missing = || {
            let token = String::from_utf8_lossy(token);
            let reason = format!("merge {rank} `{}` needs `{}`, which is not in the token list", shorten(text), shorten(&token));
            TextError::vocab_element("merges", rank, reason)
        };
        index.find(texts, token).ok_or_else(missing)
    };
    Ok((id(left.as_bytes())?, id(right.as_bytes())?, id(joined)?))
}

/// The beginning of a text, for messages.
fn shorten(text: &str) -> Cow<'_, str> {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}…", text.get(..at).unwrap_or_default())),
    }
}
