//! Opening GGUF files: memory maps, split sets, lookup and tensor bytes.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::error::{GgufError, Origin, quote};
use crate::header::{Header, offset_of_element, offset_of_key, offset_of_tensor};
use crate::index::NameIndex;
use crate::metadata::Metadata;
use crate::split;
use crate::tensor::{TensorInfo, TensorType};
use crate::value::{FromValue, StringArray, Value};
use memmap2::Mmap;
use std::fs::{self, File, FileType};
use std::path::Path;

/// An open GGUF file, or all parts of a split one.
///
/// Files are mapped, not read: nothing but the header is touched until a tensor is.  A mapped file must not be made
/// shorter while it is open.  [`tensor_bytes`](Self::tensor_bytes) looks at the length again and gives an error, but
/// a file that shrinks while its bytes are being used ends the process (SIGBUS), as with every memory map.
#[derive(Debug)]
pub struct Gguf {
    pub(crate) header: Header,
    pub(crate) parts: Vec<Part>,
    index: NameIndex,
}

/// One file and what its bytes are.
#[derive(Debug)]
pub(crate) struct Part {
    pub origin: Origin,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Mapped { map: Mmap, file: File },
    Owned(Vec<u8>),
}

impl Gguf {
    /// Opens and validates the file at `path`.  A part of a split file opens the whole set, which must lie beside it.
    ///
    /// # Errors
    /// Paths that are not regular files are refused before anything is read from them; then every [`GgufError`] about
    /// the content; for split files [`GgufError::MissingParts`] and [`GgufError::Split`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let part = Part::open(path.as_ref())?;
        let header = Header::parse(part.bytes(), part.bytes().len() as u64, &part.origin)?;
        let (header, parts) = split::complete(path.as_ref(), part, header)?;
        Self::new(header, parts)
    }

    /// Validates a file that is in memory.  A part of a split file is taken alone.
    ///
    /// # Errors
    /// Every [`GgufError`] about the content.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, GgufError> {
        let part = Part { origin: Origin::default(), storage: Storage::Owned(bytes.into()) };
        let header = Header::parse(part.bytes(), part.bytes().len() as u64, &part.origin)?;
        Self::new(header, vec![part])
    }

    /// Validates a file of `file_bytes` bytes of which only the first are in memory, as when it is looked at from afar;
    /// `path` is for messages.  Metadata and descriptions of tensors are complete; the data of tensors is not there, and
    /// asking for it is [`GgufError::OutOfFile`].  A part of a split file is taken alone.
    ///
    /// # Errors
    /// [`GgufError::Prefix`] when the header is longer than `bytes`; every other [`GgufError`] about the content.
    pub fn from_prefix(bytes: impl Into<Vec<u8>>, file_bytes: u64, path: &Path) -> Result<Self, GgufError> {
        let part = Part { origin: Origin::file(path), storage: Storage::Owned(bytes.into()) };
        let header = Header::parse(part.bytes(), file_bytes, &part.origin)?;
        Self::new(header, vec![part])
    }

    fn new(header: Header, parts: Vec<Part>) -> Result<Self, GgufError> {
        let origin = parts.first().map(|p: &Part| p.origin.clone()).unwrap_or_default();
        let n = u32::try_from(header.tensors.len()).map_err(|_| GgufError::Invalid {
            file: origin.clone(),
            field: "tensor count".into(),
            offset: 8,
            found: header.tensors.len().to_string(),
            expected: "fewer than 2^32".into(),
        })?;
        let index = NameIndex::build(n, |i| name_of(&header.tensors, i)).map_err(|i| {
            let tensor = header.tensors.get(i as usize);
            let no = tensor.map_or(0, |t| t.part);
            let in_part = header.tensors.iter().take(i as usize).filter(|t| t.part == no).count();
            let (file, offset) = match parts.get(no as usize) {
                Some(part) => (part.origin.clone(), offset_of_tensor(part.bytes(), in_part as u64)),
                None => (origin, 0),
            };
            GgufError::DuplicateTensor { file, tensor: quote(name_of(&header.tensors, i)), offset }
        })?;
        Ok(Self { header, parts, index })
    }

    /// The file that was opened (the first part of a split one); `None` for bytes in memory.
    pub fn path(&self) -> Option<&Path> {
        self.parts.first().and_then(|p| p.origin.path())
    }

    /// Every file of the set, in order; empty for bytes in memory.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|p| p.origin.path())
    }

    /// GGUF version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.header.alignment
    }

    /// All metadata; of a split file, that of the first part.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// The value of `key` as `T`, or `None` when the key is absent.
    ///
    /// # Errors
    /// [`GgufError::KeyType`] when the value is of another type or out of range.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(v) => Ok(Some(v)),
            None => Err(GgufError::KeyType {
                file: self.origin(),
                key: quote(key),
                offset: self.offset_of(key),
                found: match value.as_integer() {
                    Some(v) => format!("{} {v}", value.type_name()),
                    None => value.type_name(),
                },
                expected: T::EXPECTED,
            }),
        }
    }

    /// The value of `key` as `T`.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], or [`GgufError::KeyType`] when the value is of another type or out of range.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.find(key)?.ok_or_else(|| GgufError::MissingKey {
            file: self.origin(),
            key: quote(key),
            offset: self.offset_of(key),
            expected: T::EXPECTED,
        })
    }

    /// [`require`](Self::require) for an integer.
    pub fn get_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.require(key)
    }

    /// [`require`](Self::require) for a float.
    pub fn get_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.require(key)
    }

    /// [`require`](Self::require) for a bool.
    pub fn get_bool(&self, key: &str) -> Result<bool, GgufError> {
        self.require(key)
    }

    /// [`require`](Self::require) for a string.
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        self.require(key)
    }

    /// [`require`](Self::require) for an array of integers.
    pub fn get_u32_array(&self, key: &str) -> Result<Vec<u32>, GgufError> {
        self.require(key)
    }

    /// [`require`](Self::require) for an array of strings.
    pub fn get_str_array(&self, key: &str) -> Result<&StringArray, GgufError> {
        self.require(key)
    }

    /// `general.architecture`, for example `qwen3`; not empty.
    ///
    /// # Errors
    /// As [`require`](Self::require), and [`GgufError::KeyType`] when it is empty.
    pub fn architecture(&self) -> Result<&str, GgufError> {
        const KEY: &str = "general.architecture";
        match self.require::<&str>(KEY)? {
            "" => Err(GgufError::KeyType {
                file: self.origin(),
                key: quote(KEY),
                offset: self.offset_of(KEY),
                found: "empty".into(),
                expected: "the name of an architecture",
            }),
            name => Ok(name),
        }
    }

    /// All tensors in the order of the file; of a split file, part after part.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor named `name`.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.find_tensor(name).ok_or_else(|| GgufError::MissingTensor { file: self.origin(), tensor: quote(name) })
    }

    /// The tensor named `name`, if there is one.
    pub fn find_tensor(&self, name: &str) -> Option<&TensorInfo> {
        let i = self.index.find(name, |i| name_of(&self.header.tensors, i))?;
        self.header.tensors.get(i as usize)
    }

    /// The bytes of a tensor of this file, rows outermost first, little endian.
    ///
    /// # Errors
    /// [`GgufError::UnsupportedType`] for tensors of unknown type, [`GgufError::Shrunk`] when the file became shorter
    /// since it was opened, [`GgufError::OutOfFile`] for a description of another file.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> Result<&[u8], GgufError> {
        let Some(part) = self.parts.get(tensor.part as usize) else {
            return Err(GgufError::MissingTensor { file: self.origin(), tensor: quote(&tensor.name) });
        };
        if let TensorType::Unknown(number) = tensor.ty {
            return Err(GgufError::UnsupportedType {
                file: part.origin.clone(),
                tensor: quote(&tensor.name),
                offset: tensor.offset,
                number,
                note: TensorType::note(number),
                expected: TensorType::readable(),
            });
        }
        part.check_length()?;
        let range = usize::try_from(tensor.offset)
            .ok()
            .zip(usize::try_from(tensor.bytes).ok())
            .and_then(|(start, n)| Some(start..start.checked_add(n)?));
        range.and_then(|r| part.bytes().get(r)).ok_or_else(|| GgufError::OutOfFile {
            file: part.origin.clone(),
            tensor: quote(&tensor.name),
            offset: tensor.offset,
            bytes: tensor.bytes,
            limit: part.bytes().len() as u64,
        })
    }

    /// All elements of a tensor as f32, row-major; 32- and 64-bit integers and F64 are rounded.
    ///
    /// # Errors
    /// As [`tensor_bytes`](Self::tensor_bytes).
    pub fn tensor_f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, GgufError> {
        let bytes = self.tensor_bytes(tensor)?;
        // At least one byte of file stands behind every 8 elements, so a foreign description cannot ask for more.
        let elements = tensor.elements().min(bytes.len() as u64 * 8);
        let mut values = vec![0.0; elements as usize];
        tensor.ty.decode(bytes, &mut values).map_err(|e| GgufError::Invalid {
            file: self.origin(),
            field: format!("the data of tensor {}", quote(&tensor.name)),
            offset: tensor.offset,
            found: e.to_string(),
            expected: "whole blocks".into(),
        })?;
        Ok(values)
    }

    /// The byte at which the metadata entry of `key` begins in the first file, for messages; that of all metadata when
    /// there is none.
    pub fn offset_of(&self, key: &str) -> u64 {
        self.parts.first().map_or(0, |p| offset_of_key(p.bytes(), &self.header.metadata, key))
    }

    /// The byte at which element `n` of the array `key` begins in the first file, for messages; the entry of the key when
    /// it is no array of so many.
    pub fn offset_of_element(&self, key: &str, n: usize) -> u64 {
        self.parts.first().map_or(0, |p| offset_of_element(p.bytes(), &self.header.metadata, key, n))
    }

    pub(crate) fn origin(&self) -> Origin {
        self.parts.first().map(|p| p.origin.clone()).unwrap_or_default()
    }
}

impl Part {
    /// Maps a regular file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let origin = Origin::file(path);
        let io = |source| GgufError::Io { file: origin.clone(), source };
        // Opening a FIFO would wait for its writer, so the kind is looked at first, and again on what was opened.
        refuse_special(fs::metadata(path).map_err(io)?.file_type(), &origin)?;
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        refuse_special(metadata.file_type(), &origin)?;
        if metadata.len() == 0 {
            return Ok(Self { origin, storage: Storage::Owned(Vec::new()) });
        }
        // SAFETY: the map is read-only and lives as long as the file handle beside it.  That others change or shorten
        // the file meanwhile cannot be excluded; the documentation of `Gguf` says what then happens.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { origin, storage: Storage::Mapped { map, file } })
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped { map, .. } => map,
            Storage::Owned(bytes) => bytes,
        }
    }

    fn check_length(&self) -> Result<(), GgufError> {
        let Storage::Mapped { map, file } = &self.storage else {
            return Ok(());
        };
        let metadata = file.metadata().map_err(|source| GgufError::Io { file: self.origin.clone(), source })?;
        let (found, expected) = (metadata.len(), map.len() as u64);
        if found < expected {
            return Err(GgufError::Shrunk { file: self.origin.clone(), found, expected });
        }
        Ok(())
    }
}

fn name_of(tensors: &[TensorInfo], i: u32) -> &str {
    tensors.get(i as usize).map_or("", |t| &t.name)
}

fn refuse_special(kind: FileType, file: &Origin) -> Result<(), GgufError> {
    if kind.is_file() {
        return Ok(());
    }
    let found = if kind.is_dir() { "a directory" } else { special(kind) };
    Err(GgufError::NotAFile { file: file.clone(), found })
}

#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        k if k.is_fifo() => "a FIFO",
        k if k.is_socket() => "a socket",
        k if k.is_char_device() || k.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "something else"
}
