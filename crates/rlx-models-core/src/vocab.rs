//! The tokenizer metadata of a GGUF file as plain data.
//!
//! Lengths and ids are checked against the number of tokens.  What the tokens mean is the tokenizer's matter.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::message::quote;
use rlx_gguf::{Gguf, GgufError, StringArray, Value};
use std::path::PathBuf;

/// Longest text of a token.
pub const MAX_TOKEN_BYTES: usize = 65_536;

/// `tokenizer.ggml.*` of a GGUF file; V tokens.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
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
    /// `eot_token_id`.
    pub eot_id: Option<u32>,
    /// `eom_token_id`.
    pub eom_id: Option<u32>,
    /// `unknown_token_id`.
    pub unk_id: Option<u32>,
    /// `seperator_token_id` (the specification's spelling).
    pub sep_id: Option<u32>,
    /// `padding_token_id`.
    pub pad_id: Option<u32>,
    /// `cls_token_id`.
    pub cls_id: Option<u32>,
    /// `mask_token_id`.
    pub mask_id: Option<u32>,
    /// `fim_pre_token_id`, `fim_suf_token_id`, `fim_mid_token_id`.
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
    /// `precompiled_charsmap`: the normaliser of a unigram model.
    pub precompiled_charsmap: Option<Vec<u8>>,
    /// `normalizer.lowercase`.
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents`.
    pub strip_accents: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`, by name.
    pub named_templates: Vec<(String, String)>,
}

/// Why a vocabulary was refused.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum VocabError {
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A value does not fit the number of tokens.
    #[error("{}: {field} at byte {offset}: found {found}, expected {expected}", file.display())]
    Invalid { file: PathBuf, field: String, offset: u64, found: String, expected: String },
}

/// Kinds of vocabulary that need merges.
const JOINED: [&str; 2] = ["gpt2", "gemma4"];

impl GgufVocab {
    /// The vocabulary of a GGUF file; `None` when it has no tokenizer.
    ///
    /// # Errors
    /// Keys of the wrong type, lists shorter or longer than the tokens, ids that are no tokens.
    pub fn read(gguf: &Gguf) -> Result<Option<GgufVocab>, VocabError> {
        let Some(model) = gguf.find::<&str>("tokenizer.ggml.model")? else {
            return Ok(None);
        };
        let r = Reader { gguf };
        let tokens = gguf.get_str_array(&full("tokens"))?;
        let n = tokens.len();
        if n == 0 || u32::try_from(n).is_err() {
            return Err(r.invalid("tokens", format!("{n} tokens"), "from 1 to 2^32 - 1".into()));
        }
        for (i, t) in tokens.iter().enumerate() {
            if t.len() > MAX_TOKEN_BYTES {
                let (file, field, offset) = place(gguf, "tokens", Some(i));
                let (found, expected) = (format!("token {i} of {} bytes", t.len()), format!("at most {MAX_TOKEN_BYTES}"));
                return Err(VocabError::Invalid { file, field, offset, found, expected });
            }
        }
        let merges = if JOINED.contains(&model) {
            // Without the list every byte is a token, which no model was trained with.
            Some(gguf.get_str_array(&full("merges"))?)
        } else {
            gguf.find::<&StringArray>(&full("merges"))?
        };
        Ok(Some(GgufVocab {
            model: model.into(),
            pre: r.text("tokenizer.ggml.pre")?,
            scores: r.list("scores", n)?,
            token_types: r.list("token_type", n)?,
            merges: merges.map(strings).unwrap_or_default(),
            bos_id: r.id("bos_token_id", n)?,
            eos_id: r.id("eos_token_id", n)?,
            eot_id: r.id("eot_token_id", n)?,
            eom_id: r.id("eom_token_id", n)?,
            unk_id: r.id("unknown_token_id", n)?,
            sep_id: r.id("seperator_token_id", n)?,
            pad_id: r.id("padding_token_id", n)?,
            cls_id: r.id("cls_token_id", n)?,
            mask_id: r.id("mask_token_id", n)?,
            fim_ids: [r.id("fim_pre_token_id", n)?, r.id("fim_suf_token_id", n)?, r.id("fim_mid_token_id", n)?],
            add_bos: gguf.find(&full("add_bos_token"))?,
            add_eos: gguf.find(&full("add_eos_token"))?,
            add_sep: gguf.find(&full("add_sep_token"))?,
            add_space_prefix: gguf.find(&full("add_space_prefix"))?,
            remove_extra_whitespaces: gguf.find(&full("remove_extra_whitespaces"))?,
            precompiled_charsmap: r.bytes("precompiled_charsmap")?,
            lowercase: gguf.find(&full("normalizer.lowercase"))?,
            strip_accents: gguf.find(&full("normalizer.strip_accents"))?,
            chat_template: r.text("tokenizer.chat_template")?,
            named_templates: r.named_templates()?,
            tokens: strings(tokens),
        }))
    }
}

impl GgufVocab {
    /// The metadata that [`read`](Self::read) reads this from, in the order in which llama.cpp's converter writes it.
    pub fn metadata(&self) -> Vec<(String, Value)> {
        let mut out = vec![(full("model"), Value::from(self.model.as_str()))];
        let mut put = |name: &str, value: Option<Value>| out.extend(value.map(|v| (full(name), v)));
        put("pre", self.pre.as_deref().map(Value::from));
        put("tokens", Some(self.tokens.iter().collect::<StringArray>().into()));
        put("scores", self.scores.clone().map(Value::from));
        put("token_type", self.token_types.clone().map(Value::from));
        put(
            "merges",
            (JOINED.contains(&self.model.as_str()) || !self.merges.is_empty()).then(|| self.merges.iter().collect::<StringArray>().into()),
        );
        for (name, id) in [
            ("bos_token_id", self.bos_id),
            ("eos_token_id", self.eos_id),
            ("eot_token_id", self.eot_id),
            ("eom_token_id", self.eom_id),
            ("unknown_token_id", self.unk_id),
            ("seperator_token_id", self.sep_id),
            ("padding_token_id", self.pad_id),
            ("cls_token_id", self.cls_id),
            ("mask_token_id", self.mask_id),
        ] {
            put(name, id.map(Value::from));
        }
        for (name, flag) in [
            ("add_bos_token", self.add_bos),
            ("add_eos_token", self.add_eos),
            ("add_space_prefix", self.add_space_prefix),
            ("remove_extra_whitespaces", self.remove_extra_whitespaces),
        ] {
            put(name, flag.map(Value::from));
        }
        put("precompiled_charsmap", self.precompiled_charsmap.clone().map(Value::from));
        out.extend(self.chat_template.as_deref().map(|t| ("tokenizer.chat_template".to_owned(), Value::from(t))));
        if !self.named_templates.is_empty() {
            let names: StringArray = self.named_templates.iter().map(|(name, _)| name).collect();
            out.push(("tokenizer.chat_templates".to_owned(), names.into()));
        }
        let named = self.named_templates.iter().map(|(name, t)| (format!("tokenizer.chat_template.{name}"), Value::from(t.as_str())));
        out.extend(named);
        out
    }

    /// Every chat template by name, the unnamed one as `default`.
    pub fn templates(&self) -> Vec<(String, String)> {
        let default = self.chat_template.iter().map(|t| ("default".to_owned(), t.clone()));
        default.chain(self.named_templates.iter().cloned()).collect()
    }
}

struct Reader<'g> {
    gguf: &'g Gguf,
}

impl Reader<'_> {
    fn invalid(&self, name: &str, found: String, expected: String) -> VocabError {
        let (file, field, offset) = place(self.gguf, name, None);
        VocabError::Invalid { file, field, offset, found, expected }
    }

    fn text(&self, key: &str) -> Result<Option<String>, VocabError> {
        Ok(self.gguf.find::<&str>(key)?.map(str::to_owned))
    }

    /// The templates beside the default one, in the order of the file.
    fn named_templates(&self) -> Result<Vec<(String, String)>, VocabError> {
        const PREFIX: &str = "tokenizer.chat_template.";
        let keys = self.gguf.metadata().iter().filter_map(|(key, _)| Some((key, key.strip_prefix(PREFIX)?)));
        keys.map(|(key, name)| Ok((name.to_owned(), self.text(key)?.unwrap_or_default()))).collect()
    }

    /// A list of one value per token.
    fn list<T>(&self, name: &str, n: usize) -> Result<Option<Vec<T>>, VocabError>
    where
        Vec<T>: for<'v> rlx_gguf::FromValue<'v>,
    {
        let list: Option<Vec<T>> = self.gguf.find(&full(name))?;
        match list {
            Some(l) if l.len() != n => Err(self.invalid(name, format!("{} values", l.len()), format!("{n}, one per token"))),
            l => Ok(l),
        }
    }

    /// A token id.  llama.cpp's converters write 2^32 - 1 for "none".
    fn id(&self, name: &str, n: usize) -> Result<Option<u32>, VocabError> {
        match self.gguf.find::<u32>(&full(name))? {
            Some(u32::MAX) => Ok(None),
            Some(id) if id as usize >= n => Err(self.invalid(name, id.to_string(), format!("an id below the {n} tokens"))),
            id => Ok(id),
        }
    }

    /// Bytes, which writers store as u8 or i8.
    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, VocabError> {
        match self.gguf.get(&full(name)) {
            None => Ok(None),
            Some(Value::Array(a)) => match &**a {
                rlx_gguf::Array::U8(b) => Ok(Some(b.to_vec())),
                rlx_gguf::Array::I8(b) => Ok(Some(b.iter().map(|v| *v as u8).collect())),
                other => Err(self.invalid(name, format!("an array of {}", quote(other.element_type())), "an array of bytes".into())),
            },
            Some(other) => Err(self.invalid(name, other.type_name(), "an array of bytes".into())),
        }
    }
}

/// Where a vocabulary says something: the file, the key in full, and the byte at which the element of its list begins, or
/// the entry of the key; of a key that is absent, the metadata.  `name` is the key without `tokenizer.ggml.`.
pub fn place(gguf: &Gguf, name: &str, element: Option<usize>) -> (PathBuf, String, u64) {
    let (file, key) = (gguf.path().map_or_else(|| "GGUF bytes in memory".into(), PathBuf::from), full(name));
    let offset = element.map_or_else(|| gguf.offset_of(&key), |n| gguf.offset_of_element(&key, n));
    (file, key, offset)
}

fn full(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

fn strings(array: &StringArray) -> Vec<String> {
    array.iter().map(str::to_owned).collect()
}
