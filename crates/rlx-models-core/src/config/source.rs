//! One way to read a model's configuration, from `config.json` or from GGUF metadata.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{ConfigDoc, ConfigError, MAX_SIZE};
use crate::weights::Checkpoint;
use rlx_gguf::{FromValue, Gguf, Value};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The names of one setting in both worlds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// Field of `config.json`; older names follow after `|`.
    pub hf: &'static str,
    /// GGUF key after the architecture's prefix (`attention.head_count`), or a whole key of the `general.` or
    /// `tokenizer.` families.  Empty when GGUF has no such key.
    pub gguf: &'static str,
}

impl Key {
    /// A pair of names.
    pub const fn new(hf: &'static str, gguf: &'static str) -> Key {
        Key { hf, gguf }
    }
}

/// Where a model's configuration comes from.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// `config.json`, and `generation_config.json` where there is one.
    Hf {
        /// The whole document.
        root: ConfigDoc,
        /// The language model's part of it: `text_config`, or the document itself.
        text: ConfigDoc,
        /// `generation_config.json`.
        generation: Option<ConfigDoc>,
    },
    /// GGUF metadata.
    Gguf {
        /// The open file.
        gguf: Arc<Gguf>,
        /// `general.architecture`, which prefixes the model's keys.
        arch: String,
    },
}

impl ConfigSource {
    /// The configuration of an open checkpoint: the metadata of a GGUF file, or the `config.json` beside safetensors.
    ///
    /// # Errors
    /// Every [`ConfigError`] about files and syntax.
    pub fn open(checkpoint: &Checkpoint) -> Result<ConfigSource, ConfigError> {
        match checkpoint.gguf() {
            Some(gguf) => Self::from_gguf(gguf.clone()),
            None => Self::from_dir(checkpoint.dir()),
        }
    }

    /// The configuration of a Hugging Face directory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_dir(dir: &Path) -> Result<ConfigSource, ConfigError> {
        let generation = dir.join("generation_config.json");
        let generation = if generation.exists() { Some(ConfigDoc::open(generation)?) } else { None };
        Self::from_doc(ConfigDoc::open(dir.join("config.json"))?, generation)
    }

    /// The configuration in these documents.
    ///
    /// # Errors
    /// A nested text configuration that is not one.
    pub fn from_doc(root: ConfigDoc, generation: Option<ConfigDoc>) -> Result<ConfigSource, ConfigError> {
        let text = root.text_config()?;
        Ok(ConfigSource::Hf { root, text, generation })
    }

    /// The configuration in a GGUF file's metadata.
    ///
    /// # Errors
    /// `general.architecture` missing or empty.
    pub fn from_gguf(gguf: Arc<Gguf>) -> Result<ConfigSource, ConfigError> {
        let arch = gguf.architecture()?.to_owned();
        Ok(ConfigSource::Gguf { gguf, arch })
    }

    /// The file, for messages.
    pub fn file(&self) -> &Path {
        match self {
            ConfigSource::Hf { root, .. } => root.file(),
            ConfigSource::Gguf { gguf, .. } => gguf.path().unwrap_or(Path::new("GGUF bytes in memory")),
        }
    }

    /// The document of the language model, for fields that only Hugging Face has.
    pub fn hf(&self) -> Option<&ConfigDoc> {
        match self {
            ConfigSource::Hf { text, .. } => Some(text),
            ConfigSource::Gguf { .. } => None,
        }
    }

    /// The GGUF file and its architecture, for keys that only GGUF has.
    pub fn gguf(&self) -> Option<(&Arc<Gguf>, &str)> {
        match self {
            ConfigSource::Gguf { gguf, arch } => Some((gguf, arch)),
            ConfigSource::Hf { .. } => None,
        }
    }

    /// The name of a setting as this source spells it: the first spelling present, else the first.
    pub fn field(&self, key: Key) -> String {
        match self {
            ConfigSource::Hf { .. } => match self.place(key) {
                Some((doc, name)) => doc.field(name),
                None => key.hf.split('|').next().unwrap_or_default().to_owned(),
            },
            ConfigSource::Gguf { arch, .. } => gguf_key(arch, key.gguf),
        }
    }

    /// Whether a setting is there, under any of its names.  One that this kind of source does not have is not missed.
    pub fn has(&self, key: Key) -> bool {
        match self {
            ConfigSource::Hf { .. } => key.hf.is_empty() || self.place(key).is_some(),
            ConfigSource::Gguf { gguf, arch } => key.gguf.is_empty() || gguf.get(&gguf_key(arch, key.gguf)).is_some(),
        }
    }

    /// The document that has a field, under whichever of its names; the text part first.
    fn place(&self, key: Key) -> Option<(&ConfigDoc, &'static str)> {
        let ConfigSource::Hf { root, text, .. } = self else {
            return None;
        };
        let names = || key.hf.split('|').filter(|n| !n.is_empty());
        [text, root].into_iter().find_map(|doc| names().find(|n| doc.has(n)).map(|n| (doc, n)))
    }

    fn read<'a, T: FromValue<'a>>(
        &'a self,
        key: Key,
        hf: impl Fn(&ConfigDoc, &str) -> Result<Option<T>, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        match self {
            ConfigSource::Hf { .. } => self.place(key).map_or(Ok(None), |(doc, name)| hf(doc, name)),
            ConfigSource::Gguf { .. } if key.gguf.is_empty() => Ok(None),
            ConfigSource::Gguf { gguf, arch } => Ok(gguf.find(&gguf_key(arch, key.gguf))?),
        }
    }

    /// The byte at which a setting stands in the file: its value in `config.json`, its entry in GGUF metadata.  Of one
    /// that is absent, its null, or the object or metadata that lack it.
    fn offset(&self, key: Key) -> u64 {
        match self {
            ConfigSource::Hf { root, text, .. } => {
                let mentioned = || [text, root].into_iter().find_map(|doc| key.hf.split('|').find(|n| doc.mentions(n)).map(|n| (doc, n)));
                self.place(key).or_else(mentioned).map_or_else(|| text.start(), |(doc, name)| doc.offset(name))
            }
            ConfigSource::Gguf { gguf, arch } => gguf.offset_of(&gguf_key(arch, key.gguf)),
        }
    }

    /// An error about a setting that is absent.
    pub fn missing(&self, key: Key, expected: impl fmt::Display) -> ConfigError {
        let (file, field, offset) = (self.file().into(), self.field(key), self.offset(key));
        ConfigError::Missing { file, field, offset, expected: expected.to_string() }
    }

    /// An error about the value of a setting.
    pub fn invalid(&self, key: Key, found: impl fmt::Display, expected: impl fmt::Display) -> ConfigError {
        let (found, expected) = (found.to_string(), expected.to_string());
        ConfigError::Invalid { file: self.file().into(), field: self.field(key), offset: self.offset(key), found, expected }
    }

    /// A count or size from 0 to 2^31.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] or [`ConfigError::Gguf`] for anything else.  So for the other `opt_*`.
    pub fn opt_usize(&self, key: Key) -> Result<Option<usize>, ConfigError> {
        let value = self.read(key, |d, n| d.opt_usize(n))?;
        match value {
            Some(v) if v > MAX_SIZE => Err(self.invalid(key, v, "at most 2^31")),
            v => Ok(v),
        }
    }

    /// A count or size from 0 to 2^31, present.
    ///
    /// # Errors
    /// As `opt_usize`, and [`ConfigError::Missing`].
    pub fn usize(&self, key: Key) -> Result<usize, ConfigError> {
        self.opt_usize(key)?.ok_or_else(|| self.missing(key, "a whole number"))
    }

    /// A size from 1 to `most`, present.
    ///
    /// # Errors
    /// As [`usize`](Self::usize).
    pub fn size(&self, key: Key, most: usize) -> Result<usize, ConfigError> {
        let value = self.usize(key)?;
        if value == 0 || value > most {
            return Err(self.invalid(key, value, format_args!("from 1 to {most}")));
        }
        Ok(value)
    }

    /// A finite number.  GGUF stores single precision; the shortest decimal that rounds to it is taken, so that
    /// 9.99999997e-7 is 1e-6 again.
    pub fn opt_f64(&self, key: Key) -> Result<Option<f64>, ConfigError> {
        let value = match self {
            ConfigSource::Hf { .. } => self.place(key).map_or(Ok(None), |(doc, name)| doc.opt_f64(name))?,
            ConfigSource::Gguf { .. } => self.read::<f32>(key, |_, _| Ok(None))?.map(widen),
        };
        match value {
            Some(v) if !v.is_finite() => Err(self.invalid(key, v, "a finite number")),
            v => Ok(v),
        }
    }

    /// A finite number, present.
    ///
    /// # Errors
    /// As `opt_f64`, and [`ConfigError::Missing`].
    pub fn f64(&self, key: Key) -> Result<f64, ConfigError> {
        self.opt_f64(key)?.ok_or_else(|| self.missing(key, "a finite number"))
    }

    /// A finite number above 0, present: the epsilon of a norm, a base.
    ///
    /// # Errors
    /// As [`f64`](Self::f64).
    pub fn positive(&self, key: Key) -> Result<f64, ConfigError> {
        match self.f64(key)? {
            v if v > 0.0 => Ok(v),
            v => Err(self.invalid(key, v, "a finite number above 0")),
        }
    }

    /// `true` or `false`.
    pub fn opt_bool(&self, key: Key) -> Result<Option<bool>, ConfigError> {
        self.read(key, |d, n| d.opt_bool(n))
    }

    /// A string.
    pub fn opt_string(&self, key: Key) -> Result<Option<String>, ConfigError> {
        match self {
            ConfigSource::Hf { .. } => self.place(key).map_or(Ok(None), |(doc, name)| doc.opt_string(name)),
            ConfigSource::Gguf { .. } => Ok(self.read::<&str>(key, |_, _| Ok(None))?.map(str::to_owned)),
        }
    }

    /// A count per layer: a list of `layers`, or one number for all of them.
    ///
    /// # Errors
    /// Also when the list has another length.
    pub fn per_layer(&self, key: Key, layers: usize) -> Result<Option<Vec<usize>>, ConfigError> {
        let is_list = match self {
            ConfigSource::Hf { .. } => self.place(key).and_then(|(d, n)| d.raw(n)).is_some_and(|raw| raw.starts_with('[')),
            ConfigSource::Gguf { .. } => self.gguf_list(key).is_some(),
        };
        if !is_list {
            return Ok(self.opt_usize(key)?.map(|v| vec![v; layers]));
        }
        let wrong = |n: usize| self.invalid(key, format_args!("a list of {n}"), format_args!("{layers}, one per layer"));
        if let Some(n) = self.gguf_list(key).filter(|&n| n != layers) {
            return Err(wrong(n));
        }
        let list = self.read::<Vec<usize>>(key, |d, n| d.opt_usizes(n))?.unwrap_or_default();
        if list.len() != layers {
            return Err(wrong(list.len()));
        }
        match list.iter().find(|v| **v > MAX_SIZE) {
            Some(v) => Err(self.invalid(key, v, "at most 2^31")),
            None => Ok(Some(list)),
        }
    }

    /// The length of a list in GGUF metadata: its entries of a byte become values of eight, so it is looked at first.
    pub(super) fn gguf_list(&self, key: Key) -> Option<usize> {
        let (gguf, arch) = self.gguf()?;
        if let Some(Value::Array(list)) = gguf.get(&gguf_key(arch, key.gguf)) { Some(list.len()) } else { None }
    }

    /// The ids that end a text: those of `generation_config.json` where it names any, else those of the model.
    ///
    /// # Errors
    /// Values that are no token ids.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>, ConfigError> {
        const NAME: &str = "eos_token_id";
        match self {
            ConfigSource::Hf { root, text, generation } => {
                for doc in generation.iter().chain([text, root]) {
                    if let Some(ids) = doc.opt_ids(NAME)? {
                        return Ok(ids);
                    }
                }
                Ok(vec![])
            }
            ConfigSource::Gguf { gguf, .. } => {
                let mut ids = Vec::new();
                for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
                    if let Some(id) = gguf.find::<u32>(&format!("tokenizer.ggml.{name}"))?
                        && !ids.contains(&id)
                    {
                        ids.push(id);
                    }
                }
                Ok(ids)
            }
        }
    }

    /// The number of token embeddings: `vocab_size`, or in GGUF files without it the number of tokens.
    ///
    /// # Errors
    /// As [`size`](Self::size); a GGUF file whose embedding table has another number of rows, or fewer than there are
    /// tokens.
    pub fn vocab_size(&self) -> Result<usize, ConfigError> {
        const KEY: Key = Key::new("vocab_size|padded_vocab_size", "vocab_size");
        const TOKENS: Key = Key::new("", "tokenizer.ggml.tokens");
        let ConfigSource::Gguf { gguf, .. } = self else { return self.size(KEY, MAX_SIZE) };
        let tokens = gguf
            .get("tokenizer.ggml.tokens")
            .map(|_| gguf.get_str_array("tokenizer.ggml.tokens"))
            .transpose()?
            .map(rlx_gguf::StringArray::len);
        let (key, n) = match (self.opt_usize(KEY)?, tokens) {
            (Some(_), _) => (KEY, self.size(KEY, MAX_SIZE)?),
            (None, Some(n)) if n > 0 => (TOKENS, n),
            (None, Some(n)) => return Err(self.invalid(TOKENS, n, "at least one token")),
            (None, None) => return self.size(KEY, MAX_SIZE),
        };
        if let Some(rows) = gguf.find_tensor("token_embd.weight").filter(|t| t.shape.len() == 2).and_then(|t| t.shape.first().copied())
            && rows != n as u64
        {
            return Err(self.invalid(key, n, format_args!("the {rows} rows of token_embd.weight")));
        }
        if let Some(tokens) = tokens.filter(|&tokens| tokens > n) {
            return Err(self.invalid(TOKENS, tokens, format_args!("at most the {n} embeddings of token_embd.weight")));
        }
        Ok(n)
    }
}

pub(super) fn gguf_key(arch: &str, key: &str) -> String {
    if key.starts_with("general.") || key.starts_with("tokenizer.") { key.to_owned() } else { format!("{arch}.{key}") }
}

/// The number that the shortest decimal of `v` stands for.
pub(super) fn widen(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}
