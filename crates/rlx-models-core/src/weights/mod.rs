//! Checkpoints on disk.
//!
//! [`open`] takes a `.safetensors` file, a directory with `model.safetensors` or `model.safetensors.index.json`, a
//! `.gguf` file, a part of a split one, or a directory with several.  Nothing but headers is read until a tensor is
//! used; [`Checkpoint::get`] hands out validated views whose [`TensorData`] keeps the file mapped, so that a backend
//! may hold on to it without copying.
//!
//! Files must not be made shorter while they are open: see [`Mapping`].  Names are those of the file; models ask
//! through [`NamedWeights`](crate::NamedWeights).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod error;
mod index;
mod map;
mod resolve;
mod safetensors;

pub use error::WeightsError;
pub use index::{MAX_INDEX_BYTES, MAX_SHARDS};
pub use map::{Mapping, TensorData};
pub use safetensors::{MAX_DIMS, MAX_HEADER_BYTES, MAX_NAME_BYTES};

pub(crate) use map::read_small;
pub(crate) use safetensors::position;

use crate::message;
use resolve::Found;
use rlx_gguf::{Gguf, TensorType};
use rlx_ir::DType;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The container a checkpoint is in.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum WeightFormat {
    /// One or several safetensors files.
    Safetensors,
    /// One or several GGUF files.
    Gguf,
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightFormat::Safetensors => "safetensors",
            WeightFormat::Gguf => "GGUF",
        })
    }
}

/// How to choose among the files of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LoadOpts {
    /// The quantisation to take of a directory with several GGUF files; `None` makes more than one an error.
    pub prefer_quant: Option<String>,
    /// The GGUF file to take of a directory, counted from 0 in the order of names.  Wins over everything else.
    pub gguf_index: Option<usize>,
}

impl Default for LoadOpts {
    fn default() -> Self {
        LoadOpts { prefer_quant: Some("Q4_K_M".into()), gguf_index: None }
    }
}

impl LoadOpts {
    /// With this preferred quantisation.
    pub fn prefer_quant(mut self, name: impl Into<String>) -> Self {
        self.prefer_quant = Some(name.into());
        self
    }

    /// With this GGUF file of a directory.
    pub fn gguf_index(mut self, index: usize) -> Self {
        self.gguf_index = Some(index);
        self
    }
}

/// The element type of a tensor in a file.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoredType {
    /// A type that can be computed with.
    Known(DType),
    /// A type of the safetensors format that has no meaning here; refused at use.
    Safetensors(::safetensors::Dtype),
    /// A ggml type number that has no meaning here; refused at use.
    Ggml(u32),
}

impl StoredType {
    /// The type, if it can be computed with.
    pub fn dtype(self) -> Option<DType> {
        match self {
            StoredType::Known(d) => Some(d),
            _ => None,
        }
    }

    /// Bits per element of the types of safetensors files.
    fn bits(self) -> Option<usize> {
        match self {
            StoredType::Known(d) => d.size().map(|bytes| bytes * 8),
            StoredType::Safetensors(d) => Some(d.bitsize()),
            StoredType::Ggml(_) => None,
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredType::Known(d) => d.fmt(f),
            StoredType::Safetensors(d) => write!(f, "{d:?}"),
            StoredType::Ggml(n) => write!(f, "ggml type {n}"),
        }
    }
}

/// Where a tensor is and what it looks like.  The data lies inside its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorMeta {
    /// The name in the file.
    pub name: String,
    /// The element type.
    pub stored: StoredType,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// Which of [`Checkpoint::files`] holds the data.
    pub file: u32,
    /// First byte of the data, from the start of that file.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

impl TensorMeta {
    /// The element type, if it can be computed with.
    pub fn dtype(&self) -> Option<DType> {
        self.stored.dtype()
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n, d| n.saturating_mul(*d as u64))
    }
}

/// A tensor: type, shape and bytes.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// The element type.
    pub dtype: DType,
    /// Row-major, outermost dimension first.
    pub shape: &'a [usize],
    /// The bytes, little endian, rows outermost first.
    pub data: TensorData,
}

impl TensorView<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }
}

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: WeightFormat,
    maps: Vec<Arc<Mapping>>,
    /// Sorted by name.
    tensors: Vec<TensorMeta>,
    gguf: Option<Arc<Gguf>>,
}

/// Opens the checkpoint at `path`.
///
/// # Errors
/// Every [`WeightsError`] about paths, headers and indices.
pub fn open(path: impl AsRef<Path>, opts: &LoadOpts) -> Result<Checkpoint, WeightsError> {
    let path = path.as_ref();
    match resolve::resolve(path, opts)? {
        Found::Safetensors(file) => open_safetensors(&file),
        Found::Index(index) => open_sharded(&index),
        Found::Gguf(file) => open_gguf(&file),
    }
}

fn open_safetensors(path: &Path) -> Result<Checkpoint, WeightsError> {
    let map = Mapping::open(path)?;
    let tensors = safetensors::parse(map.bytes(), path, 0)?;
    Ok(Checkpoint { path: path.into(), format: WeightFormat::Safetensors, maps: vec![map], tensors, gguf: None })
}

fn open_sharded(path: &Path) -> Result<Checkpoint, WeightsError> {
    let index = index::Index::open(path)?;
    let (mut maps, mut tensors) = (Vec::with_capacity(index.shards.len()), Vec::new());
    for (i, shard) in index.shards.iter().enumerate() {
        let file = path.with_file_name(shard);
        let map = Mapping::open(&file)?;
        tensors.append(&mut safetensors::parse(map.bytes(), &file, i as u32)?);
        maps.push(map);
    }
    tensors.sort_unstable_by(|a: &TensorMeta, b| (&a.name, a.file).cmp(&(&b.name, b.file)));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            let file = |t: &TensorMeta| maps.get(t.file as usize).map(|m| m.path().to_owned()).unwrap_or_default();
            return Err(WeightsError::Duplicate { file: file(b), tensor: a.name.clone(), other: file(a) });
        }
    }
    let checkpoint = Checkpoint { path: path.into(), format: WeightFormat::Safetensors, maps, tensors, gguf: None };
    index.check(|name| checkpoint.find(name).map(|t| t.file))?;
    Ok(checkpoint)
}

fn open_gguf(path: &Path) -> Result<Checkpoint, WeightsError> {
    let gguf = Gguf::open(path)?;
    // A map of our own per file: views of tensors then share it whatever becomes of the reader.
    let maps = gguf.paths().map(Mapping::open).collect::<Result<Vec<_>, _>>()?;
    let mut tensors = Vec::with_capacity(gguf.tensors().len());
    for t in gguf.tensors() {
        let bad = |found: String, expected: &str| {
            let file = maps.get(t.part as usize).map_or(path, |m| m.path()).into();
            WeightsError::Entry { file, tensor: t.name.clone(), field: "data", found, expected: expected.into() }
        };
        let inside = maps.get(t.part as usize).zip(t.offset.checked_add(t.bytes)).is_some_and(|(m, end)| end <= m.bytes().len() as u64);
        if !inside {
            return Err(bad(format!("{} bytes at {}", t.bytes, t.offset), "a range inside the file; was the file replaced meanwhile?"));
        }
        let shape: Option<Vec<usize>> = t.shape.iter().map(|d| usize::try_from(*d).ok()).collect();
        let shape = shape.ok_or_else(|| bad(format!("shape {:?}", t.shape), "dimensions that fit this machine's addresses"))?;
        let stored = ggml_type(t.ty);
        tensors.push(TensorMeta { name: t.name.clone(), stored, shape, file: t.part, offset: t.offset, bytes: t.bytes });
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(Checkpoint { path: path.into(), format: WeightFormat::Gguf, maps, tensors, gguf: Some(Arc::new(gguf)) })
}

fn ggml_type(ty: TensorType) -> StoredType {
    StoredType::Known(match ty {
        TensorType::F32 => DType::F32,
        TensorType::F16 => DType::F16,
        TensorType::BF16 => DType::BF16,
        TensorType::F64 => DType::F64,
        TensorType::I8 => DType::I8,
        TensorType::I16 => DType::I16,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
        TensorType::Block(b) => DType::Block(b),
        TensorType::Unknown(n) => return StoredType::Ggml(n),
    })
}

impl Checkpoint {
    /// The container.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// The file that was opened: a weights file, or the index of a sharded checkpoint.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the files, where `config.json` and `tokenizer.json` lie.
    pub fn dir(&self) -> &Path {
        match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        }
    }

    /// Every weights file, in the order [`TensorMeta::file`] counts them.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.maps.iter().map(|m| m.path())
    }

    /// The file a tensor is in.
    pub fn file_of(&self, tensor: &TensorMeta) -> &Path {
        self.maps.get(tensor.file as usize).map_or(&self.path, |m| m.path())
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorMeta> {
        self.tensors.iter()
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |n, t| n.saturating_add(t.bytes))
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&TensorMeta> {
        let at = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// The GGUF file, for its metadata.
    pub fn gguf(&self) -> Option<&Arc<Gguf>> {
        self.gguf.as_ref()
    }

    /// A view of the tensor named `name`.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] with the nearest names, [`WeightsError::UnsupportedType`],
    /// [`WeightsError::Shrunk`] when the file became shorter since it was opened.
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        match self.find(name) {
            Some(t) => self.view(t),
            None => Err(WeightsError::MissingTensor {
                path: self.path.clone(),
                tensor: name.into(),
                nearest: message::nearest(name, self.tensors.iter().map(|t| t.name.as_str())),
            }),
        }
    }

    /// A view of a tensor of this checkpoint.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn view<'a>(&'a self, t: &'a TensorMeta) -> Result<TensorView<'a>, WeightsError> {
        let missing = || WeightsError::MissingTensor { path: self.path.clone(), tensor: t.name.clone(), nearest: vec![] };
        let map = self.maps.get(t.file as usize).ok_or_else(missing)?;
        let StoredType::Known(dtype) = t.stored else {
            let (file, tensor, found) = (map.path().into(), t.name.clone(), t.stored.to_string());
            return Err(WeightsError::UnsupportedType { file, tensor, found, expected: known_types() });
        };
        map.check_length()?;
        let range = usize::try_from(t.offset).ok().zip(usize::try_from(t.bytes).ok()).and_then(|(at, n)| Some(at..at.checked_add(n)?));
        let data = range.and_then(|r| TensorData::mapped(map.clone(), r)).ok_or_else(missing)?;
        Ok(TensorView { name: &t.name, dtype, shape: &t.shape, data })
    }
}

fn known_types() -> String {
    let plain = "f64, f32, f16, bf16, f8e4m3, f8e5m2, i64, i32, i16, i8, u64, u32, u16, u8, bool";
    let blocks = rlx_gguf::BlockFormat::GGML.iter().map(|b| b.name().to_ascii_lowercase());
    blocks.fold(plain.to_owned(), |list, b| list + ", " + &b)
}
