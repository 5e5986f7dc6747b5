//! Text in, token ids out, and back: tokenizers, chat templates, sampling, streaming, tool calls.
//!
//! | module | from | to |
//! |---|---|---|
//! | [`tokenizer`] | `tokenizer.json` or a GGUF vocabulary | ids `[T]` u32 ↔ text |
//! | [`stream`] | one id at a time | whole UTF-8 text, cut at stop strings |
//! | [`chat`] | messages and a Jinja template | one prompt string |
//! | [`constrain`] | a JSON schema or grammar | which tokens may come next |
//! | [`sample`] | logits `[V]` f32 | one id |
//! | [`tools`] | generated text | plain text and tool calls |
//!
//! The crate knows nothing of tensors, devices, model families or weight files: logits are a slice, and a
//! GGUF vocabulary arrives as a plain [`GgufVocab`] that whoever reads the file fills in.

pub mod chat;
pub mod constrain;
mod error;
pub mod sample;
pub mod stream;
pub mod tokenizer;
pub mod tools;

pub use chat::{ChatTemplate, Message};
pub use constrain::{Constraint, Grammar, TokenTrie};
pub use error::{Result, TextError, json_reason};
pub use sample::{Sampler, SamplerParams};

pub use stream::{StopMatcher, TextStream};
pub use tokenizer::{GgufVocab, PairEncoding, SpecialToken, Tokenizer};
pub use tools::{ToolCall, ToolConvention, ToolPart, ToolStream};
