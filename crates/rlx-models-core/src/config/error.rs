//! What can be wrong with a configuration, and where.

use crate::message::{list, plain, quote};
use crate::weights::WeightsError;
use rlx_gguf::GgufError;
use std::path::PathBuf;

/// Why a configuration was refused.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] WeightsError),
    /// The file is not the JSON that it should be.
    #[error("{}: at byte {offset}: found {found}, expected {expected}", file.display())]
    Syntax { file: PathBuf, offset: u64, found: String, expected: String },
    /// One key twice in one object.
    #[error("{}: duplicate key {} (at byte {offset})", file.display(), plain(field))]
    Duplicate { file: PathBuf, field: String, offset: u64 },
    /// A field that is needed is absent or null; the offset is that of the null, or of what should hold the field.
    #[error("{}: {} is missing, expected {expected} (in what begins at byte {offset})", file.display(), plain(field))]
    Missing { file: PathBuf, field: String, offset: u64, expected: String },
    /// A field has a type or value that it cannot have.
    #[error("{}: {} is {found}, expected {expected} (at byte {offset})", file.display(), plain(field))]
    Invalid { file: PathBuf, field: String, offset: u64, found: String, expected: String },
    /// A field names something that is not known here.
    #[error(
        "{}: {} is {}, which is not known; expected one of {} (at byte {offset})",
        file.display(), plain(field), quote(found), list(known)
    )]
    Unknown { file: PathBuf, field: String, offset: u64, found: String, known: Vec<String> },
    /// GGUF metadata of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}
