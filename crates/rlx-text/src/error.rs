//! What can go wrong with text, said with what was found, what was expected and what to do.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A `tokenizer.json` or `tokenizer_config.json` that is not what it should be.
    #[error("{what}: {reason}")]
    TokenizerJson {
        /// Which file or part.
        what: String,
        /// What was found and expected.
        reason: String,
    },
    /// A vocabulary that contradicts itself.
    #[error("GGUF vocabulary, {field}: {reason}")]
    Vocab {
        /// The metadata key, without `tokenizer.ggml.`.
        field: &'static str,
        /// Which element of its list, where it is about one.
        element: Option<usize>,
        /// What was found and expected.
        reason: String,
    },
    /// A kind of GGUF vocabulary that this build cannot encode with.
    #[error(
        "tokenizer.ggml.model is `{model}`; known are: {known}. Put the checkpoint's tokenizer.json beside the file, any kind is read from there"
    )]
    UnsupportedVocab {
        /// Value of `tokenizer.ggml.model`.
        model: String,
        /// The values that are read.
        known: String,
    },
    /// A split rule that is not in the table.
    #[error(
        "tokenizer.ggml.pre is `{pre}`, known are: {known}. Put the checkpoint's tokenizer.json beside the file, its split rule is read from there"
    )]
    UnknownPre {
        /// Value of `tokenizer.ggml.pre`.
        pre: String,
        /// The names in the table.
        known: String,
    },
    /// Text that the vocabulary cannot express.
    #[error("no token for byte 0x{byte:02X} and no unknown token in the vocabulary; the text cannot be encoded")]
    NoToken {
        /// The byte without a token.
        byte: u8,
    },
    /// The tokenizer refused a text or ids.
    #[error("{action} failed: {reason}")]
    Tokenizer {
        /// `encode` or `decode`.
        action: &'static str,
        /// The tokenizer's words.
        reason: String,
    },
    /// A chat template that does not parse, or that is not there.
    #[error("chat template{}: {reason}", at(.line))]
    Template {
        /// Line in the template, from 1.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// A chat template that raised an exception about the conversation.
    #[error("the chat template refuses this conversation: {reason}")]
    Refused {
        /// The template's own words.
        reason: String,
    },
    /// A chat template that ran past a bound.
    #[error(
        "chat template stopped: {what} exceeds the bound of {bound}. A template that needs more is broken or hostile; pass the prompt as plain text instead"
    )]
    TemplateBound {
        /// Steps, recursion or output bytes.
        what: &'static str,
        /// The bound.
        bound: u64,
    },
    /// A schema or grammar that cannot constrain an answer, or one that no token fits.
    #[error("{what}: {reason}")]
    Grammar {
        /// JSON schema, grammar or vocabulary.
        what: &'static str,
        /// What was found and expected.
        reason: String,
    },
    /// A sampling parameter out of range.
    #[error("{name} is {found}, expected {expected}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// Logits that no token can be drawn from.
    #[error("logits cannot be sampled: {reason}")]
    Logits {
        /// What was found.
        reason: String,
    },
}

/// What is wrong with a JSON text, with line, column and byte; `json` is the text that was read.
pub fn json_reason(json: &[u8], e: &serde_json::Error) -> String {
    if e.line() == 0 {
        return e.to_string();
    }
    format!("{e} (byte {})", json_read(json, e).saturating_sub(1))
}

/// How many bytes of a JSON text were read when an error was met.
pub(crate) fn json_read(json: &[u8], e: &serde_json::Error) -> usize {
    let before: usize = json.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
    before + e.column()
}

fn at(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |l| format!(", line {l}"))
}

impl TextError {
    pub(crate) fn vocab(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Vocab { field, element: None, reason: reason.into() }
    }
    /// About one element of a list.
    pub(crate) fn vocab_element(field: &'static str, element: usize, reason: impl Into<String>) -> Self {
        Self::Vocab { field, element: Some(element), reason: reason.into() }
    }
    /// What an error about a GGUF vocabulary is about: a key without `tokenizer.ggml.`, and an element of its list.  Whoever
    /// has the file finds the byte with it.
    pub fn vocabulary_key(&self) -> Option<(&'static str, Option<usize>)> {
        match self {
            Self::Vocab { field, element, .. } => Some((field, *element)),
            Self::UnsupportedVocab { .. } => Some(("model", None)),
            Self::UnknownPre { .. } => Some(("pre", None)),
            _ => None,
        }
    }
    /// The same words once more: what a template's error says can be told each time it is asked for.
    #[must_use]
    pub fn again(&self) -> Self {
        match self {
            Self::Template { line, reason } => Self::Template { line: *line, reason: reason.clone() },
            Self::TokenizerJson { what, reason } => Self::TokenizerJson { what: what.clone(), reason: reason.clone() },
            Self::Io { path, source } => Self::Io { path: path.clone(), source: std::io::Error::new(source.kind(), source.to_string()) },
            other => Self::Template { line: None, reason: other.to_string() },
        }
    }
    /// A JSON text that does not read, with the byte at which it does not.
    pub(crate) fn syntax(what: impl Into<String>, json: &[u8], e: &serde_json::Error) -> Self {
        Self::json(what, json_reason(json, e))
    }
    pub(crate) fn json(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::TokenizerJson { what: what.into(), reason: reason.into() }
    }
}
