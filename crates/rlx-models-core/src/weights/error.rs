//! What can be wrong with a checkpoint, and where.

use crate::message::{hint, list, quote};
use rlx_gguf::GgufError;
use std::io;
use std::path::PathBuf;

/// Why a checkpoint, or a tensor of it, was refused.
///
/// Byte offsets count from the start of the file.  Names that come from files are escaped and shortened.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused to open, list or map.
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    /// FIFOs and devices, and directories where a file must be, are refused before anything is read.
    #[error("{}: expected {expected}, found {found}", file.display())]
    NotAFile { file: PathBuf, found: &'static str, expected: &'static str },
    /// The path holds no checkpoint.
    #[error("{}: no weights found; expected {expected}{}", path.display(), found_there(found))]
    NotFound { path: PathBuf, expected: &'static str, found: Vec<String> },
    /// Several files would do.
    #[error("{}: {why}; candidates: {}; choose with --prefer-quant NAME or --gguf-index N (from 0)", dir.display(), numbered(candidates))]
    Ambiguous { dir: PathBuf, why: String, candidates: Vec<String> },
    /// The file is larger than a file of its kind may be.
    #[error("{}: {found} bytes, expected at most {limit}", file.display())]
    TooLarge { file: PathBuf, found: u64, limit: u64 },
    /// The header of a safetensors file, or the index of a sharded checkpoint.
    #[error("{}: {field} at byte {offset}: found {found}, expected {expected}", file.display())]
    Header { file: PathBuf, field: &'static str, offset: u64, found: String, expected: String },
    /// One entry of a header.
    #[error("{}: tensor {}: {field} at byte {offset} is {found}, expected {expected}", file.display(), quote(tensor))]
    Entry { file: PathBuf, tensor: String, field: &'static str, offset: u64, found: String, expected: Box<str> },
    /// Two tensors with one name; the offset is that of the data of the one in `file`.
    #[error("{}: tensor {}, data at byte {offset}, is also in {}; one of the two must go", file.display(), quote(tensor), other.display())]
    Duplicate { file: PathBuf, tensor: String, offset: u64, other: PathBuf },
    /// Files named by the index are not beside it.
    #[error("{}: {} of {count} shards are missing: {}", file.display(), missing.len(), list(missing))]
    MissingShards { file: PathBuf, count: usize, missing: Vec<String> },
    /// No tensor of this name.
    #[error("{}: no tensor named {}{}", path.display(), quote(tensor), hint(nearest))]
    MissingTensor { path: PathBuf, tensor: String, nearest: Vec<String> },
    /// The element type has no meaning here.
    #[error(
        "{}: tensor {}, data at byte {offset}, has elements of type {found}, which cannot be computed with; expected one of {expected}",
        file.display(), quote(tensor)
    )]
    UnsupportedType { file: PathBuf, tensor: String, offset: u64, found: String, expected: String },
    /// The file became shorter after it was opened.
    #[error("{}: the file shrank to {found} bytes while open, expected {expected}", file.display())]
    Shrunk { file: PathBuf, found: u64, expected: u64 },
    /// Tensors that should make up one quantised weight.
    #[error("{}: quantised weight: found {found}; expected {expected}", file.display())]
    Parts { file: PathBuf, found: String, expected: String },
    /// A quantised weight that no block format can represent.
    #[error("{}: tensor {} cannot be used: {why}", file.display(), quote(tensor))]
    Weight { file: PathBuf, tensor: String, why: String },
    /// The weights are quantised by a method that is not read here.
    #[error("{}: weights are quantised with {}: {why}", path.display(), quote(method))]
    Quantization { path: PathBuf, method: String, why: String },
    /// The checkpoint is of another architecture.
    #[error("{}: found {found}, expected one of {}{}; rlx-run auto finds the program for it", path.display(), list(expected), hint(nearest))]
    Architecture { path: PathBuf, found: String, expected: Vec<String>, nearest: Vec<String> },
    /// What the checkpoint is cannot be read.
    #[error(transparent)]
    Config(#[from] Box<crate::config::ConfigError>),
    /// A format that the application registered.
    #[error("{}: not a {format} file: {why}", file.display())]
    Format { file: PathBuf, format: &'static str, why: String },
    /// Two formats with one name.
    #[error("a weights format named {name:?} is registered already; choose another name")]
    FormatTaken { name: String },
    /// A GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

fn found_there(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!("; the directory has {}", list(found)) }
}

fn numbered(candidates: &[String]) -> String {
    let lines: Vec<String> = candidates.iter().enumerate().take(32).map(|(i, c)| format!("{i}: {c}")).collect();
    lines.join(", ")
}
