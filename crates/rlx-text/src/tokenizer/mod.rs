//! Text ↔ token ids.
//!
//! A [`Tokenizer`] comes from `tokenizer.json` (every kind, through the `tokenizers` crate) or from a GGUF
//! vocabulary ([`GgufVocab`]), with encoders of this crate:
//!
//! | `tokenizer.ggml.model` | kind |
//! |---|---|
//! | `gpt2`, `gemma4`, `whitespace` | BPE with ranked merges, split as `tokenizer.ggml.pre` says |
//! | `llama` | SentencePiece BPE: scores, byte fallback |
//! | `t5` | unigram |
//! | `bert` | WordPiece |
//! | `rwkv` | longest token first |
//!
//! Both ways give the same ids for the same model.  Where llama.cpp departs from the model's `tokenizer.json`
//! (it knows no Unicode NFC, approximates some split patterns, and strips other marks than BERT does), the ids
//! follow `tokenizer.json`.  Decoding never removes spaces before punctuation, but for WordPiece, whose
//! decoder does.
//!
//! It does not pad, truncate or batch, and reads no weight files.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod bpe;
mod bytes;
mod cache;
mod charsmap;
mod classes;
pub mod convert;
mod from_gguf;
mod gguf;
mod hf;
mod hf_check;
mod hf_merges;
mod hf_strings;
mod hf_template;
mod json_place;
mod merge;
pub(crate) mod pretokenizers;
mod regex_check;
mod rwkv;
mod special;
mod split;
mod spm;
mod texts;
mod trie;
mod unigram;
mod vocabulary;
mod word_starts;
mod wordpiece;
pub(crate) mod words;

use std::path::Path;

use serde_json::Value;

pub use gguf::GgufVocab;
pub(crate) use vocabulary::Decoding;
use vocabulary::Vocabulary;

use crate::{Result, TextError};

/// How SentencePiece writes a space.
const MARK: &str = "▁";

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

#[derive(Debug)]
enum Encoder {
    Hf(Box<hf::HfTokenizer>),
    Gguf(Box<from_gguf::GgufEncoder>),
}

/// A tokenizer of any kind.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    vocabulary: Vocabulary,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    sep: Option<u32>,
    fim: [Option<u32>; 3],
    add_bos: bool,
    add_eos: bool,
    add_sep: bool,
}

/// Ids of two texts together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairEncoding {
    /// `[T]`.
    pub ids: Vec<u32>,
    /// `[T]`: 0 for tokens of the first text, 1 for those of the second, where the model tells them apart.
    pub type_ids: Vec<u32>,
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
            let bytes = read(&config)?;
            let config: Value = serde_json::from_slice(&bytes).map_err(|e| TextError::syntax(config.display().to_string(), &bytes, &e))?;
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
        Ok(Self {
            encoder: Encoder::Hf(Box::new(inner)),
            vocabulary,
            bos: None,
            eos: None,
            eot: None,
            eom: None,
            pad: None,
            unk: None,
            sep: None,
            fim: [None; 3],
            add_bos: false,
            add_eos: false,
            add_sep: false,
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
            Encoder::Gguf(inner) => {
                let mut ids = Vec::with_capacity(text.len() / 3 + 2);
                ids.extend(self.bos.filter(|_| add_special && self.add_bos));
                inner.encode(&self.vocabulary, text, parse_special, &mut ids)?;
                ids.extend(self.end(inner).filter(|_| add_special));
                Ok(ids)
            }
        }
    }

    /// What ends a text.
    fn end(&self, encoder: &from_gguf::GgufEncoder) -> Option<u32> {
        if encoder.is_word_piece() { self.sep.filter(|_| self.add_sep) } else { self.eos.filter(|_| self.add_eos) }
    }

    /// Ids of two texts that belong together, such as a question and an answer, with what the model expects
    /// around and between them.
    ///
    /// # Errors
    /// The vocabulary cannot express the texts.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<PairEncoding> {
        let inner = match &self.encoder {
            Encoder::Hf(inner) => return inner.encode_pair(first, second),
            Encoder::Gguf(inner) => inner,
        };
        let mut ids = self.encode(first, true)?;
        let n_first = ids.len();
        let begin = if inner.is_word_piece() { None } else { self.bos.filter(|_| self.add_bos) };
        ids.extend(if inner.is_word_piece() || !self.add_sep { begin } else { self.sep.or(self.eos) });
        inner.encode(&self.vocabulary, second, true, &mut ids)?;
        ids.extend(self.end(inner));
        let second = u32::from(inner.is_word_piece());
        let type_ids = (0..ids.len()).map(|at| if at < n_first { 0 } else { second }).collect();
        Ok(PairEncoding { ids, type_ids })
    }

    /// Ids of `text` without special tokens around it, each with the characters of `text` it covers.
    ///
    /// # Errors
    /// The vocabulary cannot express the text; the tokenizer comes from GGUF, which does not say how offsets
    /// are trimmed.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        match &self.encoder {
            Encoder::Hf(inner) => inner.encode_with_offsets(text),
            Encoder::Gguf(_) => {
                let reason = "a GGUF vocabulary does not say how offsets are trimmed; load the checkpoint's tokenizer.json".into();
                Err(TextError::Tokenizer { action: "offsets", reason })
            }
        }
    }

    /// Text of `ids`.  Bytes that are not UTF-8 become U+FFFD; ids without a token become nothing.
    ///
    /// # Errors
    /// The decoder of a `tokenizer.json` failed.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        match (&self.encoder, self.decoding()) {
            (_, Decoding::Bytes) | (Encoder::Gguf(_), _) => {}
            (Encoder::Hf(inner), _) => return inner.decode(ids, skip_special),
        }
        Ok(self.vocabulary.join(ids.iter().copied().filter(|&id| !(skip_special && self.is_control(id)))))
    }

    /// The bytes that a token stands for (a word-start mark as a space); `None` when no token has this id.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// A token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.find(token.as_bytes())
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
        self.vocabulary.is_control(id)
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

    /// Ends a message that expects an answer from a tool.
    pub fn eom(&self) -> Option<u32> {
        self.eom
    }

    /// Separates the texts of a pair.
    pub fn sep(&self) -> Option<u32> {
        self.sep
    }

    /// Before the text in front of a gap, before the text behind it, and before the text that fills it.
    pub fn fill_in_the_middle(&self) -> Option<[u32; 3]> {
        let [Some(prefix), Some(suffix), Some(middle)] = self.fim else { return None };
        Some([prefix, suffix, middle])
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
        self.vocabulary.is_byte(id)
    }
}
