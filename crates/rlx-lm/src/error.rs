//! Errors of the engine.

use std::path::PathBuf;

/// What can go wrong between a file and an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LmError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Weights(#[from] rlx_core::weights::WeightsError),
    /// The checkpoint cannot be had from the Hugging Face Hub.
    #[error(transparent)]
    Hub(#[from] rlx_core::hub::HubError),
    /// The checkpoint has not the weights of the model.
    #[error(transparent)]
    Names(#[from] rlx_core::names::NamesError),
    /// The checkpoint is of another family.
    #[error(transparent)]
    Family(#[from] rlx_core::registry::FamilyError),
    /// The settings cannot be read.
    #[error(transparent)]
    Config(#[from] rlx_core::config::ConfigError),
    /// The vocabulary in GGUF metadata cannot be read.
    #[error(transparent)]
    Vocab(#[from] rlx_core::vocab::VocabError),
    /// The vocabulary in GGUF metadata cannot be used.
    #[error("{file}: {source} ({key} at byte {offset})", file = file.display())]
    Vocabulary {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: String,
        /// Where the element that it is about begins, or the entry of the key, or all metadata where the key is missing.
        offset: u64,
        /// What is wrong.
        source: rlx_text::TextError,
    },
    /// Tokenizer, template or sampler.
    #[error(transparent)]
    Text(#[from] rlx_text::TextError),
    /// The profile.
    #[error(transparent)]
    Profile(#[from] rlx_compile::profile::ProfileError),
    /// Device and memory.
    #[error(transparent)]
    Runtime(#[from] rlx_runtime::RuntimeError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] rlx_runtime::CacheError),
    /// The graph does not fit the weights.
    #[error("{path}: the model does not fit its weights:\n{diags}", path = path.display())]
    Build {
        /// The checkpoint.
        path: PathBuf,
        /// All mistakes.
        diags: rlx_ir::Diags,
    },
    /// No weights were named.
    #[error("no weights given: name a .safetensors or .gguf file, or a directory of them")]
    NoWeights,
    /// The checkpoint has no tokenizer.
    #[error("{path}: no tokenizer: expected tokenizer.json beside the weights, or a vocabulary in the GGUF file", path = path.display())]
    NoTokenizer {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Ordinary text can become tokens that the model has no embedding of.
    #[error(
        "{path}: token {id} `{token}` of the tokenizer is beyond the {rows} embeddings of the model, expected ids below {rows}; \
         take the tokenizer that belongs to these weights", path = path.display()
    )]
    NoEmbedding {
        /// The checkpoint.
        path: PathBuf,
        /// The first such token.
        id: u32,
        /// How it is spelled.
        token: String,
        /// Rows of the embedding table.
        rows: usize,
    },
    /// The checkpoint has no chat template.
    #[error("{path}: no chat template; use --no-chat-template to complete raw text", path = path.display())]
    NoTemplate {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The chat template fails; the model can still complete raw text.
    #[error(
        "{source}. The prompt can still be completed as raw text (--no-chat-template), or written by another template (--chat-template FILE)"
    )]
    Template {
        /// What is wrong with the template.
        source: rlx_text::TextError,
    },
    /// The checkpoint has no template of this name.
    #[error("no chat template is named `{name}`; the checkpoint has: {names}")]
    NoSuchTemplate {
        /// The name that was asked for.
        name: String,
        /// The names that are there.
        names: String,
    },
    /// More tokens than the model was built for.
    #[error("{tokens} tokens do not fit the {max_seq} of this run; raise --max-seq")]
    TooLong {
        /// Tokens wanted.
        tokens: usize,
        /// The limit.
        max_seq: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Nothing to work on.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// A file of a parity directory.
    #[error("{file}: {why}", file = file.display())]
    Parity {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A conversion.
    #[error(transparent)]
    Convert(#[from] rlx_core::convert::ConvertError),
    /// The written settings do not mean the model that was read.
    #[error("{path}: converted, it would be another model: its settings cannot all be expressed in {format}; first difference:\n  found    {found}\n  expected {expected}", path = path.display())]
    OtherModel {
        /// The source.
        path: PathBuf,
        /// The format written.
        format: &'static str,
        /// A line of the graph as it would be read again.
        found: String,
        /// The same of the source.
        expected: String,
    },
    /// Two models that do not have the same tokens.
    #[error("A has a vocabulary of {a}, B of {b}; only models with the same tokens can be compared")]
    Vocabularies {
        /// Of the first.
        a: usize,
        /// Of the second.
        b: usize,
    },
    /// A text cannot be cut as asked.
    #[error("perplexity: found {why}")]
    Windows {
        /// What was found, and expected.
        why: String,
    },
    /// Cancelled from outside.
    #[error("cancelled; nothing was written")]
    Cancelled,
    /// Any other file.
    #[error("{file}: {source}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

/// Results of this crate.
pub type Result<T, E = LmError> = std::result::Result<T, E>;
