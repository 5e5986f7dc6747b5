//! Memory-mapped files and the bytes of tensors in them.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{Access, WeightsError};
use memmap2::Mmap;
use std::fs::{self, File, FileType};
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file mapped read-only.
///
/// The file must not be made shorter while it is mapped: using the lost bytes would end the process (SIGBUS), as with
/// every memory map.  [`Checkpoint::get`](super::Checkpoint::get) looks at the length again and gives an error.
#[derive(Debug)]
pub struct Mapping {
    path: PathBuf,
    file: File,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps the regular file at `path`.
    ///
    /// # Errors
    /// [`WeightsError::NotAFile`] for anything else, before anything is read; [`WeightsError::Io`].
    pub fn open(path: &Path) -> Result<Arc<Mapping>, WeightsError> {
        let (file, bytes) = open_regular(path)?;
        let map = if bytes == 0 {
            None
        } else {
            // SAFETY: the map is read-only and lives no longer than the file handle beside it.  That others change or
            // shorten the file meanwhile cannot be excluded; the documentation of `Mapping` says what then happens.
            Some(unsafe { Mmap::map(&file) }.map_err(|source| WeightsError::Io { file: path.into(), source })?)
        };
        Ok(Arc::new(Mapping { path: path.into(), file, map }))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Says that these bytes are not needed in memory for now; they are read from the file again when used.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // SAFETY: the map is shared and read-only, so dropped pages come back unchanged from the file.
            let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
            // Advice that is not taken changes nothing.
            drop(advised);
        }
    }

    /// What the system says of the file now.
    pub(super) fn metadata(&self) -> Result<fs::Metadata, WeightsError> {
        self.file.metadata().map_err(|source| WeightsError::Io { file: self.path.clone(), source })
    }

    /// An error when the file is now shorter than what was mapped.
    pub(super) fn check_length(&self) -> Result<(), WeightsError> {
        let (found, expected) = (self.metadata()?.len(), self.bytes().len() as u64);
        if found < expected {
            return Err(WeightsError::Shrunk { file: self.path.clone(), found, expected });
        }
        Ok(())
    }
}

/// The bytes of one tensor: cheap to clone, keeps the file mapped (or the memory alive), dereferences to `&[u8]`.
///
/// No alignment is promised: safetensors files place tensors at any byte.
#[derive(Clone, Debug)]
pub struct TensorData(Repr);

#[derive(Clone, Debug)]
enum Repr {
    Mapped(Arc<Region>),
    Owned(Arc<Vec<u8>>),
}

/// A part of a mapped file.
#[derive(Debug)]
struct Region {
    map: Arc<Mapping>,
    range: Range<usize>,
    access: Access,
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.access == Access::Loader {
            self.map.release(self.range.clone());
        }
    }
}

impl TensorData {
    /// Bytes of a mapped file, to be read in this way; `None` when the range is not inside it.
    pub fn mapped(map: Arc<Mapping>, range: Range<usize>, access: Access) -> Option<TensorData> {
        map.bytes().get(range.clone())?;
        Some(TensorData(Repr::Mapped(Arc::new(Region { map, range, access }))))
    }

    /// True when the bytes are a view of a file rather than memory of their own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Repr::Mapped(_))
    }

    /// Says that this part of the bytes has been read; of a view that a loader handed out, its pages are given back.
    /// The rest follows when the view is dropped.
    pub fn release(&self, part: Range<usize>) {
        if let Repr::Mapped(region) = &self.0
            && region.access == Access::Loader
        {
            let end = region.range.start.saturating_add(part.end).min(region.range.end);
            region.map.release(region.range.start.saturating_add(part.start).min(end)..end);
        }
    }
}

impl Deref for TensorData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            // The range was checked when the value was made, and a mapping never changes its length.
            Repr::Mapped(region) => region.map.bytes().get(region.range.clone()).unwrap_or_default(),
            Repr::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for TensorData {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for TensorData {
    fn from(bytes: Vec<u8>) -> TensorData {
        TensorData(Repr::Owned(Arc::new(bytes)))
    }
}

/// Opens a regular file, following links; anything else is refused.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64), WeightsError> {
    let io = |source| WeightsError::Io { file: path.into(), source };
    // Opening a FIFO would wait for its writer, so the kind is looked at first, and again on what was opened.
    refuse_special(fs::metadata(path).map_err(io)?.file_type(), path)?;
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    refuse_special(metadata.file_type(), path)?;
    Ok((file, metadata.len()))
}

/// The first bytes of a regular file, at most `limit` of them.
pub(super) fn read_head(path: &Path, limit: usize) -> Result<Vec<u8>, WeightsError> {
    let (file, _) = open_regular(path)?;
    let mut head = Vec::new();
    file.take(limit as u64).read_to_end(&mut head).map_err(|source| WeightsError::Io { file: path.into(), source })?;
    Ok(head)
}

/// The bytes of a regular file of at most `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, WeightsError> {
    let (file, found) = open_regular(path)?;
    if found > limit {
        return Err(WeightsError::TooLarge { file: path.into(), found, limit });
    }
    let mut bytes = Vec::with_capacity(found as usize + 1);
    // The file may grow while it is read; the limit holds all the same.
    let n = file.take(limit + 1).read_to_end(&mut bytes).map_err(|source| WeightsError::Io { file: path.into(), source })? as u64;
    if n > limit {
        return Err(WeightsError::TooLarge { file: path.into(), found: n, limit });
    }
    Ok(bytes)
}

fn refuse_special(kind: FileType, path: &Path) -> Result<(), WeightsError> {
    if kind.is_file() {
        return Ok(());
    }
    let found = if kind.is_dir() { "a directory" } else { special(kind) };
    Err(WeightsError::NotAFile { file: path.into(), found, expected: "a regular file" })
}

#[cfg(unix)]
pub(super) fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        k if k.is_fifo() => "a FIFO",
        k if k.is_socket() => "a socket",
        k if k.is_char_device() || k.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(not(unix))]
pub(super) fn special(_: FileType) -> &'static str {
    "something else"
}
