//! Checkpoints, their configuration and the registry of architectures.
//!
//! - [`weights`]: one call opens a `.safetensors` file, a Hugging Face directory (single or sharded), a `.gguf` file
//!   (single or split), a directory of them or a registered format, memory-mapped, and hands tensors out as validated
//!   views.
//! - [`names`]: tables *checkpoint name ↔ GGUF name* as data, so that a model asks for one name whatever the format.
//! - [`config`]: typed, range-checked reading of `config.json` (old and new layout) and of GGUF metadata, one code
//!   path for both; rotary embeddings in every released spelling.
//! - [`registry`]: what a checkpoint is, and which family answers to it.
//! - [`convert`]: the pieces of conversion between formats.
//! - [`check`]: what a file or directory is and whether it can run, judged without tensor data.
//! - [`hub`]: checkpoints of the Hugging Face Hub, through its cache on disk.
//! - [`vocab`]: the tokenizer metadata of a GGUF file as plain data.
//!
//! This crate knows no family and no device.  Nothing in it panics on input: every size is checked against the bytes
//! that exist before memory is allocated, and peak memory while parsing stays below four times the input.

pub mod check;
pub mod config;
pub mod convert;
pub mod hub;
mod message;
pub mod names;
pub mod registry;
pub mod vocab;
pub mod weights;

pub use config::{ConfigDoc, ConfigError, ConfigSource, Key};
pub use names::{NameTable, Rule, Transform};
pub use registry::{Family, Identity};
pub use vocab::GgufVocab;
pub use weights::{Checkpoint, LoadOpts, TensorData, TensorMeta, TensorView, WeightFormat, WeightMap, WeightsError};
