//! What the fuzz targets check.
//!
//! Input: arbitrary bytes.  Output: nothing, or a panic where an invariant does not hold.  Beside not panicking, each
//! target asserts what its parser promises, and bounds on memory and processor time.  The crate knows no fuzzer: `fuzz/`
//! runs these functions under libFuzzer, and the tests here run them over the committed corpora.
#![allow(clippy::panic, reason = "a broken invariant is reported by a panic")]

mod chat_template;
mod config_json;
mod gguf;
mod ir_text;
mod json_schema;
mod safetensors;
mod tokenizers;
mod tool_calls;

pub use chat_template::chat_template;
pub use config_json::config_json;
pub use gguf::gguf;
pub use ir_text::ir_text;
pub use json_schema::json_schema;
pub use rlx_bounds::Counting;
pub use safetensors::safetensors;
pub use tokenizers::{gguf_tokenizer, tokenizer_json};
pub use tool_calls::tool_calls;

/// An error message is one line, not empty, and short whatever the input contains.
fn check_message(message: &str) {
    assert!(!message.is_empty() && message.len() < 2000 && !message.contains('\n'), "{message}");
}

/// A target: its name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("chat_template", chat_template),
    ("config_json", config_json),
    ("gguf", gguf),
    ("gguf_tokenizer", gguf_tokenizer),
    ("ir_text", ir_text),
    ("json_schema", json_schema),
    ("safetensors", safetensors),
    ("tokenizer_json", tokenizer_json),
    ("tool_calls", tool_calls),
];
