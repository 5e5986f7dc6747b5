//! Pieces of conversion between checkpoint formats.
//!
//! - [`SettingsTable`]: a family's settings as data; [`to_gguf`] and [`to_json`] write them in either world.
//! - [`Caster`]: elements of any type, a run at a time, as another type.
//! - [`ShardPlan`], [`GgufPlan`]: safetensors and GGUF files, one or several, streamed into a [`TensorSink`].
//! - [`Output`]: a file or directory that appears under its name only when it is complete.
//!
//! Nothing here holds a whole tensor, and nothing knows a family or text: who joins these pieces says which tensors
//! there are and what the tokenizer is.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cast;
mod gguf;
mod output;
mod rope;
mod settings;
mod shards;

pub use cast::Caster;
pub use gguf::GgufPlan;
pub use output::Output;
pub use settings::{DECODER, Field, Kind, SettingsTable, to_gguf, to_json};
pub use shards::ShardPlan;

use crate::config::ConfigError;
use rlx_ir::DType;
use std::path::PathBuf;

/// Why a conversion was refused.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The source's settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting that the other format has no way to say.
    #[error("{}: {field} is {found}, which {format} cannot express", file.display())]
    Setting { file: PathBuf, field: String, found: String, format: &'static str },
    /// The destination exists.
    #[error("{} exists; choose another name, or replace it with --force", path.display())]
    Exists { path: PathBuf },
    /// The destination is the source, or holds it.
    #[error("{} is where the source is; choose another name", path.display())]
    Source { path: PathBuf },
    /// What GGUF files cannot have.
    #[error(transparent)]
    Gguf(#[from] rlx_gguf::GgufError),
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Elements that cannot become elements of that type.
    #[error("elements of type {from} cannot be written as {to}: {why}")]
    Cast { from: DType, to: DType, why: String },
}

/// Takes the data of tensors, end to end in the order in which they were planned.
pub trait TensorSink {
    /// More data; pieces may be of any length.
    ///
    /// # Errors
    /// Those of the file system, and more data than was planned.
    fn write(&mut self, data: &[u8]) -> Result<(), ConvertError>;

    /// Ends the files.
    ///
    /// # Errors
    /// Those of the file system, and data that is missing.
    fn finish(self: Box<Self>) -> Result<(), ConvertError>;
}
