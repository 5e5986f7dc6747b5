//! Tokenizer and chat template of a checkpoint.

use crate::{LmError, Result};
use rlx_core::vocab::{GgufVocab, place};
use rlx_core::weights::Checkpoint;
use rlx_gguf::Gguf;
use rlx_text::{ChatTemplate, TextError, Tokenizer};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// What turns text into tokens and messages into text.
pub struct Text {
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, where the checkpoint has one; or what is wrong with it, which hinders no raw text.
    pub template: std::result::Result<Option<ChatTemplate>, rlx_text::TextError>,
    /// Variables every rendering gets: the texts of special tokens.
    pub variables: Map<String, Value>,
}

/// Reads a small JSON file, when it exists.
pub(crate) fn json(path: &Path) -> Result<Option<Value>> {
    let io = |source| LmError::Io { file: path.into(), source };
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(path).map_err(io)?;
    let invalid = |e| io(std::io::Error::new(std::io::ErrorKind::InvalidData, rlx_text::json_reason(&text, &e)));
    serde_json::from_slice(&text).map(Some).map_err(invalid)
}

impl Text {
    /// What a checkpoint carries: GGUF metadata where they hold a vocabulary, else `tokenizer.json` beside the
    /// weights.
    pub fn open(checkpoint: &Checkpoint) -> Result<Text> {
        let dir = checkpoint.dir();
        let vocab = checkpoint.gguf().map(|g| Ok::<_, LmError>(GgufVocab::read(g)?.map(|v| (g, v)))).transpose()?.flatten();
        let file = dir.join("tokenizer.json");
        let (tokenizer, template) = match (&vocab, file.is_file()) {
            (Some((gguf, v)), _) => {
                let tokenizer = Tokenizer::from_gguf(&convert(v)).map_err(|e| placed(gguf, e))?;
                (tokenizer, ChatTemplate::compile(v.templates()))
            }
            (None, true) => {
                let config = json(&dir.join("tokenizer_config.json"))?;
                (Tokenizer::from_file(&file)?, ChatTemplate::from_dir(dir, config.as_ref()))
            }
            (None, false) => return Err(LmError::NoTokenizer { path: checkpoint.path().into() }),
        };
        let token = |id: Option<u32>| id.and_then(|i| tokenizer.token(i)).unwrap_or_default().into();
        let variables =
            [("bos_token", token(tokenizer.bos())), ("eos_token", token(tokenizer.eos())), ("pad_token", token(tokenizer.pad()))];
        let variables = variables.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Ok(Text { tokenizer: Arc::new(tokenizer), template, variables })
    }

    /// Checks that a model of `rows` embeddings has one for every token of ordinary text.  More embeddings than tokens
    /// are padding; control tokens beyond, which some checkpoints have for a use they were not trained for, are
    /// refused where they are used.
    pub(crate) fn within(self, rows: usize, path: &Path) -> Result<Text> {
        let beyond = (rows..self.tokenizer.vocab_size()).filter_map(|id| u32::try_from(id).ok());
        let mut ordinary = beyond.filter(|&id| !self.tokenizer.is_control(id)).filter_map(|id| Some((id, self.tokenizer.token(id)?)));
        match ordinary.next() {
            Some((id, token)) => Err(LmError::NoEmbedding { path: path.into(), id, token: token.chars().take(40).collect(), rows }),
            None => Ok(self),
        }
    }
}

/// An error about a vocabulary, with its place in the file that the vocabulary is from.
pub(crate) fn placed(gguf: &Gguf, source: TextError) -> LmError {
    match source.vocabulary_key() {
        Some((field, element)) => {
            let (file, key, offset) = place(gguf, field, element);
            LmError::Vocabulary { file, key, offset, source }
        }
        None => source.into(),
    }
}

pub(crate) fn convert(v: &GgufVocab) -> rlx_text::GgufVocab {
    rlx_text::GgufVocab {
        model: v.model.clone(),
        pre: v.pre.clone(),
        tokens: v.tokens.clone(),
        scores: v.scores.clone(),
        token_types: v.token_types.clone(),
        merges: v.merges.clone(),
        bos_id: v.bos_id,
        eos_id: v.eos_id,
        unk_id: v.unk_id,
        pad_id: v.pad_id,
        eot_id: v.eot_id,
        eom_id: v.eom_id,
        sep_id: v.sep_id,
        cls_id: v.cls_id,
        mask_id: v.mask_id,
        fim_ids: v.fim_ids,
        add_bos: v.add_bos,
        add_eos: v.add_eos,
        add_sep: v.add_sep,
        add_space_prefix: v.add_space_prefix,
        remove_extra_whitespaces: v.remove_extra_whitespaces,
        precompiled_charsmap: v.precompiled_charsmap.clone(),
        lowercase: v.lowercase,
        strip_accents: v.strip_accents,
    }
}
