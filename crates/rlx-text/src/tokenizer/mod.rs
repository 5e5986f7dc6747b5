//! Text ↔ token ids.
//!
//! A [`Tokenizer`] comes from `tokenizer.json` (every kind, through the `tokenizers` crate) or from a GGUF
//! vocabulary ([`GgufVocab`]; byte-level BPE).  Both give the same ids for the same model, including Unicode
//! NFC where the model's `tokenizer.json` asks for it; llama.cpp does not apply it, so for text outside NFC
//! the ids follow `tokenizer.json`, not llama.cpp.
//!
//! It does not pad, truncate or batch, and reads no weight files.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod bpe;
mod bytes;
pub mod convert;
mod gguf;
mod hf;
mod pretokenizers;
mod special;

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

pub use gguf::GgufVocab;

use crate::{Result, TextError};

/// A token that is not ordinary text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// How it is written.
    pub text: String,
    /// True for control tokens (skipped by `decode(.., true)`, not read from [`Tokenizer::encode_ordinary`]'s
    /// text); false for whole words that were added to the vocabulary, such as `<think>`.
    pub control: bool,
}

/// How decoded text follows from tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// Text is the concatenation of the tokens' bytes, read as UTF-8.
    Bytes,
    /// Text depends on neighbouring tokens.
    Window,
    /// As `Window`; a run of byte tokens becomes text as a whole.
    WindowHoldingBytes,
}

/// Tokens, their bytes and their roles, by id.
#[derive(Debug)]
struct Vocabulary {
    tokens: Vec<String>,
    raw: Vec<u8>,
    ends: Vec<usize>,
    ids: HashMap<String, u32>,
    special: Vec<SpecialToken>,
    control: Vec<bool>,
    byte: Vec<bool>,
    decoding: Decoding,
}

impl Vocabulary {
    fn new(tokens: Vec<String>, raw: Vec<Vec<u8>>, special: Vec<SpecialToken>, ids: HashMap<String, u32>, decoding: Decoding) -> Self {
        let mut control = vec![false; tokens.len()];
        for token in special.iter().filter(|t| t.control) {
            if let Some(flag) = control.get_mut(token.id as usize) {
                *flag = true;
            }
        }
        let byte = tokens.iter().map(|t| decoding == Decoding::WindowHoldingBytes && bytes::byte_token(t).is_some()).collect();
        let ends = raw.iter().scan(0, |end, r| {
            *end += r.len();
            Some(*end)
        });
        Self { ends: ends.collect(), raw: raw.concat(), tokens, ids, special, control, byte, decoding }
    }

    fn bytes(&self, id: u32) -> Option<&[u8]> {
        let at = id as usize;
        let end = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.raw.get(start..end).filter(|_| self.tokens.get(at).is_some_and(|t| !t.is_empty()))
    }
}

#[derive(Debug)]
enum Encoder {
    Hf(Box<hf::HfTokenizer>),
    Bpe(Box<bpe::ByteBpe>),
}

/// A tokenizer of any kind.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    vocabulary: Vocabulary,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl Tokenizer {
    /// From a `tokenizer.json`.  A `tokenizer_config.json` beside it, where there is one, tells which tokens
    /// begin and end a sequence.
    ///
    /// # Errors
    /// The file cannot be read, is not a tokenizer, or the two files contradict each other.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let read = |path: &Path| std::fs::read(path).map_err(|source| TextError::Io { path: path.to_owned(), source });
        let in_file = |e: TextError| match e {
            TextError::TokenizerJson { what, reason } => TextError::TokenizerJson { what: format!("{} ({what})", path.display()), reason },
            other => other,
        };
        let mut tokenizer = Self::from_bytes(&read(path)?).map_err(in_file)?;
        let config = path.with_file_name("tokenizer_config.json");
        if config.is_file() {
            let config: Value =
                serde_json::from_slice(&read(&config)?).map_err(|e| TextError::json(config.display().to_string(), e.to_string()))?;
            tokenizer.apply_config(&config).map_err(in_file)?;
        }
        Ok(tokenizer)
    }

    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// Not a tokenizer, or one that contradicts itself.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        let (inner, vocabulary) = hf::HfTokenizer::from_bytes(json)?;
        let encoder = Encoder::Hf(Box::new(inner));
        Ok(Self { encoder, vocabulary, bos: None, eos: None, eot: None, pad: None, unk: None, add_bos: false, add_eos: false })
    }

    /// From the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// The kind of vocabulary is not `gpt2`, its split rule is unknown, or its parts contradict each other.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        if vocab.model != "gpt2" {
            return Err(TextError::UnsupportedVocab { model: vocab.model.clone() });
        }
        let name = vocab.pre.as_deref().unwrap_or("default");
        let unknown = || TextError::UnknownPre { pre: name.to_owned(), known: pretokenizers::known() };
        let pre = pretokenizers::find(name).ok_or_else(unknown)?;
        let checked = gguf::check(vocab)?;
        let add_bos = vocab.add_bos.unwrap_or(pre.add_bos);
        let add_eos = vocab.add_eos.unwrap_or(false);
        for (field, wanted, id) in
            [("add_bos_token", add_bos && vocab.add_bos.is_some(), vocab.bos_id), ("add_eos_token", add_eos, vocab.eos_id)]
        {
            if wanted && id.is_none() {
                return Err(TextError::vocab(field, "true, but the file does not say which token that is"));
            }
        }
        let encoder = Encoder::Bpe(Box::new(bpe::ByteBpe::new(&checked, pre, vocab.unk_id)?));
        Ok(Self {
            encoder,
            vocabulary: gguf_vocabulary(checked),
            bos: vocab.bos_id,
            eos: vocab.eos_id,
            eot: vocab.eot_id,
            pad: vocab.pad_id,
            unk: vocab.unk_id,
            add_bos,
            add_eos,
        })
    }

    /// Takes bos, eos, pad and unk from a parsed `tokenizer_config.json`.
    ///
    /// # Errors
    /// It names a token that the vocabulary lacks.
    pub fn apply_config(&mut self, config: &Value) -> Result<()> {
        let named = |key: &str| -> Result<Option<u32>> {
            let entry = config.get(key);
            let Some(text) = entry.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str())) else {
                return Ok(None);
            };
            let missing = || TextError::json(format!("tokenizer_config.json, {key}"), format!("`{text}` is not a token of tokenizer.json"));
            self.id(text).map(Some).ok_or_else(missing)
        };
        let (bos, eos, pad, unk) = (named("bos_token")?, named("eos_token")?, named("pad_token")?, named("unk_token")?);
        (self.bos, self.eos, self.pad, self.unk) = (bos.or(self.bos), eos.or(self.eos), pad.or(self.pad), unk.or(self.unk));
        Ok(())
    }

    /// Ids of `text`; special tokens written in it are recognised.  `add_special` adds what the model expects
    /// around a text (bos, eos, `[CLS]` …); leave it out for text that a chat template rendered.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        self.encode_as(text, add_special, true)
    }

    /// As [`encode`](Self::encode), but control tokens written in `text` stay plain text: for text from
    /// strangers.  Whole words that were added to the vocabulary ([`SpecialToken::control`] false) are still
    /// one token.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, false, false)
    }

    fn encode_as(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        match &self.encoder {
            Encoder::Hf(inner) => inner.encode(text, add_special, parse_special),
            Encoder::Bpe(bpe) => {
                let mut ids = Vec::with_capacity(text.len() / 3 + 2);
                ids.extend(self.bos.filter(|_| add_special && self.add_bos));
                bpe.encode(text, parse_special, &mut ids)?;
                ids.extend(self.eos.filter(|_| add_special && self.add_eos));
                Ok(ids)
            }
        }
    }

    /// Text of `ids`.  Bytes that are not UTF-8 become U+FFFD; ids without a token become nothing.
    ///
    /// # Errors
    /// The decoder of a `tokenizer.json` failed.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if let (Encoder::Hf(inner), Decoding::Window | Decoding::WindowHoldingBytes) = (&self.encoder, self.decoding()) {
            return inner.decode(ids, skip_special);
        }
        let kept = ids.iter().filter(|&&id| !(skip_special && self.is_control(id)));
        let raw: Vec<u8> = kept.flat_map(|&id| self.token_bytes(id).unwrap_or_default()).copied().collect();
        Ok(String::from_utf8_lossy(&raw).into_owned())
    }

    /// The bytes that a token stands for (a word-start mark as a space); `None` when no token has this id.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// A token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.tokens.get(id as usize).map(String::as_str).filter(|t| !t.is_empty())
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.ids.get(token).copied()
    }

    /// Largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// Control tokens and added words, by id.
    pub fn special_tokens(&self) -> &[SpecialToken] {
        &self.vocabulary.special
    }

    /// Whether `id` is a control token.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocabulary.control.get(id as usize).copied().unwrap_or(false)
    }

    /// Begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Ends a turn, where that is another token than [`eos`](Self::eos).
    pub fn eot(&self) -> Option<u32> {
        self.eot
    }

    /// Fills up batches.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Stands for what the vocabulary cannot express.
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    pub(crate) fn decoding(&self) -> Decoding {
        self.vocabulary.decoding
    }

    /// Whether `id` is one byte of a character that may take several tokens.
    pub(crate) fn is_byte_token(&self, id: u32) -> bool {
        self.vocabulary.byte.get(id as usize).copied().unwrap_or(false)
    }
}

fn gguf_vocabulary(checked: gguf::CheckedVocab) -> Vocabulary {
    use gguf::TokenType;
    let typed = || checked.tokens.iter().zip(&checked.types);
    let raw = typed().map(|(token, kind)| match bytes::byte_token(token) {
        Some(byte) if *kind == TokenType::Byte => vec![byte],
        _ if kind.is_literal() => token.as_bytes().to_vec(),
        _ => {
            let mut raw = Vec::new();
            bytes::push_token(&mut raw, token);
            raw
        }
    });
    let raw = raw.collect();
    let special = (0u32..).zip(typed()).filter(|(_, (_, t))| matches!(t, TokenType::Control | TokenType::UserDefined | TokenType::Unknown));
    let special = special.map(|(id, (text, t))| SpecialToken { id, text: text.clone(), control: *t != TokenType::UserDefined }).collect();
    Vocabulary::new(checked.tokens, raw, special, checked.ids, Decoding::Bytes)
}
