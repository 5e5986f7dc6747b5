//! File formats that an application adds.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{MAX_DIMS, MAX_NAME_BYTES, StoredType, TensorMeta, WeightsError};
use rlx_ir::DType;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Bytes from the start of a file that [`WeightsReader::probe`] sees at most.
pub const PROBE_BYTES: usize = 4096;

/// Reads weights files of a format that is not known here.
///
/// Settings still come from the `config.json` beside the file.
pub trait WeightsReader: Send + Sync {
    /// The name of the format, for [`WeightFormat::Custom`](super::WeightFormat::Custom) and messages.
    fn name(&self) -> &'static str;

    /// Whether a file is in this format: by its name without directories, and its first [`PROBE_BYTES`] bytes.  Asked
    /// for files that are neither GGUF nor named `.safetensors` or `.index.json`.
    fn probe(&self, name: &str, head: &[u8]) -> bool;

    /// The tensors of a file, whose bytes these are.  Ranges, sizes and names are checked by the caller.
    ///
    /// # Errors
    /// What was found, where, and what was expected.
    fn tensors(&self, bytes: &[u8]) -> Result<Vec<FileTensor>, String>;
}

/// A tensor of a registered format: elements little endian, rows outermost first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileTensor {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// Where the data is, from the start of the file.
    pub range: Range<u64>,
}

static READERS: RwLock<Vec<Arc<dyn WeightsReader>>> = RwLock::new(Vec::new());

/// Makes files of a format open like any other.
///
/// # Errors
/// [`WeightsError::FormatTaken`] when a format of this name was registered before.
pub fn register_format(reader: impl WeightsReader + 'static) -> Result<(), WeightsError> {
    let mut readers = READERS.write().unwrap_or_else(PoisonError::into_inner);
    let name = reader.name();
    if readers.iter().any(|r| r.name() == name) {
        return Err(WeightsError::FormatTaken { name: name.into() });
    }
    readers.push(Arc::new(reader));
    Ok(())
}

/// The registered reader for a file, if one takes it.
pub(super) fn reader_for(name: &str, head: &[u8]) -> Option<Arc<dyn WeightsReader>> {
    let readers = READERS.read().unwrap_or_else(PoisonError::into_inner).clone();
    readers.into_iter().find(|r| r.probe(name, head))
}

/// Whether any format was registered.
pub(super) fn any() -> bool {
    !READERS.read().unwrap_or_else(PoisonError::into_inner).is_empty()
}

/// The reader of this name.
pub(super) fn reader_named(name: &str) -> Option<Arc<dyn WeightsReader>> {
    READERS.read().unwrap_or_else(PoisonError::into_inner).iter().find(|r| r.name() == name).cloned()
}

/// Checks what a reader found; sorted by name.
pub(super) fn check(found: Vec<FileTensor>, path: &Path, len: u64) -> Result<Vec<TensorMeta>, WeightsError> {
    let mut tensors = Vec::with_capacity(found.len());
    for t in found {
        let bad = |field, found: String, expected: String| WeightsError::Entry {
            file: path.into(),
            tensor: t.name.clone(),
            field,
            offset: t.range.start,
            found,
            expected: expected.into(),
        };
        if t.name.is_empty() || t.name.len() > MAX_NAME_BYTES || t.name.contains('\0') {
            return Err(bad("name", format!("{} bytes", t.name.len()), format!("1 to {MAX_NAME_BYTES} bytes without NUL")));
        }
        if t.shape.len() > MAX_DIMS {
            return Err(bad("shape", format!("{} dimensions", t.shape.len()), format!("at most {MAX_DIMS}")));
        }
        let Some(needed) = bytes_of(t.dtype, &t.shape) else {
            return Err(bad("shape", format!("{:?} of {}", t.shape, t.dtype), "whole rows of fewer than 2^63 bytes".into()));
        };
        let (begin, end) = (t.range.start, t.range.end);
        if begin > end || end > len || end - begin != needed {
            return Err(bad("range", format!("{begin} to {end}"), format!("{needed} bytes within the {len} of the file")));
        }
        let stored = StoredType::Known(t.dtype);
        tensors.push(TensorMeta { name: t.name, stored, shape: t.shape, file: 0, offset: begin, bytes: needed });
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            return Err(WeightsError::Duplicate { file: path.into(), tensor: a.name.clone(), offset: b.offset, other: path.into() });
        }
    }
    Ok(tensors)
}

/// Bytes of a tensor; `None` when they are not whole or do not fit.
pub(super) fn bytes_of(dtype: DType, shape: &[usize]) -> Option<u64> {
    let (row, rows) = match shape.split_last() {
        Some((row, outer)) => (*row, outer.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64))?),
        None => (1, 1),
    };
    let bytes = rows.checked_mul(dtype.row_bytes(row)? as u64)?;
    i64::try_from(bytes).is_ok().then_some(bytes)
}
