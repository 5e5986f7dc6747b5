//! Model configuration: `config.json` in the old and the new Hugging Face layout, and GGUF metadata.
//!
//! [`ConfigSource`] reads either through [`Key`]s, so a family writes its `Config::from_source` once.  Every value is
//! checked for type and range where it is read; errors name file, field, what was found and what was expected.
//! [`DecoderConfig`] has what llama-like decoders share, [`rope`] the rotary embedding in every released spelling,
//! [`ImageConfig`] how images are prepared.

mod decoder;
mod doc;
mod error;
mod image;
mod rope;
mod rope_gguf;
mod source;

pub use decoder::{DecoderConfig, Experts, MAX_LAYERS, experts, head_dim, keys, kv_heads, layers};
pub(crate) use doc::members_called;
pub use doc::{ConfigDoc, MAX_CONFIG_BYTES, MAX_DEPTH, MAX_LIST, MAX_SIZE};
pub use error::ConfigError;
pub use image::{ImageConfig, ImageSize, MAX_IMAGE_SIDE};
pub use rope::{RopeArgs, rope};
pub use source::{ConfigSource, Key};
