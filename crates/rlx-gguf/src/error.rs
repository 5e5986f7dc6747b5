//! What can be wrong with a GGUF file, and where.

use crate::BlockFormat;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The file an error speaks of, or "bytes in memory".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin(Option<Arc<Path>>);

impl Origin {
    /// The origin of bytes that come from `path`.
    pub fn file(path: &Path) -> Self {
        Origin(Some(Arc::from(path)))
    }

    /// The path, unless the bytes came from memory.
    pub fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "{}", path.display()),
            None => f.write_str("GGUF bytes in memory"),
        }
    }
}

/// Why a GGUF file, or a part of it, was refused.
///
/// Byte offsets count from the start of the file.  Names from the file are escaped and shortened, so that a message is
/// one short line whatever the file contains.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system refused to open or map the file.
    #[error("{file}: {source}")]
    Io { file: Origin, source: io::Error },
    /// Directories, FIFOs and devices are refused before anything is read from them.
    #[error("{file}: expected a regular file, found {found}")]
    NotAFile { file: Origin, found: &'static str },
    /// The file became shorter after it was opened.
    #[error("{file}: the file shrank to {found} bytes while open, expected {expected}")]
    Shrunk { file: Origin, found: u64, expected: u64 },
    /// The first four bytes are not `GGUF`.
    #[error("{file}: not a GGUF file: it starts with {found}, expected \"GGUF\"")]
    Magic { file: Origin, found: String },
    /// Byte-swapped magic or version.
    #[error("{file}: big-endian GGUF; convert with `gguf-convert-endian FILE little` of the Python package gguf")]
    BigEndian { file: Origin },
    /// Only versions 2 and 3 are read.
    #[error("{file}: GGUF version {found} at byte 4, expected 2 or 3; convert the model again with current tools")]
    Version { file: Origin, found: u32 },
    /// The file ends inside a field.
    #[error("{file}: the file ends inside {field} at byte {offset}: needs {expected} bytes, found {found}")]
    Truncated { file: Origin, field: String, offset: u64, expected: u64, found: u64 },
    /// Only the beginning of the file is at hand, and the header goes on.
    #[error("{file}: the first {found} bytes do not hold the header, expected at least {expected}")]
    Prefix { file: Origin, found: u64, expected: u64 },
    /// A field has a value that it cannot have.
    #[error("{file}: {field} at byte {offset}: found {found}, expected {expected}")]
    Invalid { file: Origin, field: String, offset: u64, found: String, expected: String },
    /// Two metadata entries with one key.
    #[error("{file}: duplicate metadata key {key} at byte {offset}")]
    DuplicateKey { file: Origin, key: String, offset: u64 },
    /// Two tensors with one name, possibly in two parts of a split file.
    #[error("{file}: duplicate tensor name {tensor} at byte {offset}")]
    DuplicateTensor { file: Origin, tensor: String, offset: u64 },
    /// Rows of block formats consist of whole blocks.
    #[error(
        "{file}: tensor {tensor}, described at byte {offset}, has rows of {found} elements, expected a multiple of {} for {format}",
        format.block_len()
    )]
    RowNotMultipleOfBlock { file: Origin, tensor: String, offset: u64, found: u64, format: BlockFormat },
    /// The data of a tensor does not lie inside the file.
    #[error("{file}: data of tensor {tensor} is at bytes {offset}+{bytes}, expected to end by byte {limit}")]
    OutOfFile { file: Origin, tensor: String, offset: u64, bytes: u64, limit: u64 },
    /// Two tensors share bytes.
    #[error("{file}: data of tensor {tensor} at byte {offset} overlaps tensor {other}, which ends at byte {end}")]
    Overlap { file: Origin, tensor: String, offset: u64, other: String, end: u64 },
    /// A metadata key that the caller needs is absent; the offset is that of the metadata.
    #[error("{file}: metadata key {key} is missing, expected {expected} (in the metadata at byte {offset})")]
    MissingKey { file: Origin, key: String, offset: u64, expected: &'static str },
    /// A metadata value is of another type, or out of the range of the type that the caller needs.
    #[error("{file}: metadata key {key} at byte {offset} is {found}, expected {expected}")]
    KeyType { file: Origin, key: String, offset: u64, found: String, expected: &'static str },
    /// No tensor of this name.
    #[error("{file}: no tensor named {tensor}")]
    MissingTensor { file: Origin, tensor: String },
    /// The tensor is of a type whose layout is not known here.
    #[error(
        "{file}: tensor {tensor}, data at byte {offset}, is of ggml type {number}{note}, which cannot be read; expected one of {expected}"
    )]
    UnsupportedType { file: Origin, tensor: String, offset: u64, number: u32, note: &'static str, expected: String },
    /// Parts of a split file are not beside the part that was opened.
    #[error("{file}: {} of {count} parts of the split file are missing: {}", missing.len(), list(missing))]
    MissingParts { file: Origin, count: u64, missing: Vec<String> },
    /// The parts of a split file contradict each other or their names.
    #[error("{file}: split file: {field} is {found}, expected {expected} (at byte {offset})")]
    Split { file: Origin, field: &'static str, offset: u64, found: String, expected: String },
    /// What the caller wants to write is not a valid GGUF file.
    #[error("cannot write GGUF: {field}: found {found}, expected {expected}")]
    Unwritable { field: String, found: String, expected: String },
}

/// A name from a file, quoted, escaped and shortened for messages.
pub(crate) fn quote(name: &str) -> String {
    const LONGEST: usize = 96;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => {
            format!("{:?}… ({} bytes)", name.get(..end).unwrap_or_default(), name.len())
        }
        None => format!("{name:?}"),
    }
}

fn list(names: &[String]) -> String {
    const MOST: usize = 8;
    let mut text = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text += &format!(" and {} more", names.len() - MOST);
    }
    text
}
