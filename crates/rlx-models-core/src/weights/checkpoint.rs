//! An open checkpoint.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::tensor::known_types;
use super::{
    Access, LoadOpts, Mapping, Quantization, ResolvedWeights, StoredType, TensorData, TensorMeta, TensorView, WeightFormat, WeightsError,
    custom, index, mtp, packed, resolve, safetensors,
};
use crate::message;
use rlx_gguf::Gguf;
use rlx_ir::DType;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open checkpoint: its files, and their tensors by the names they have there.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    pub(super) format: WeightFormat,
    access: Access,
    pub(super) maps: Vec<Arc<Mapping>>,
    /// Sorted by name.
    pub(super) tensors: Vec<TensorMeta>,
    /// Positions in `tensors`.
    mtp: Vec<u32>,
    packed: packed::Packed,
    gguf: Option<Arc<Gguf>>,
}

/// Opens the checkpoint at `path` under the names of its files.
///
/// # Errors
/// Every [`WeightsError`] about paths, headers and indices.
pub fn open_with(opts: LoadOpts, path: impl AsRef<Path>) -> Result<Checkpoint, WeightsError> {
    let ResolvedWeights { format, file } = resolve::resolve_weights(path, &opts.resolve)?;
    let mut checkpoint = match format {
        WeightFormat::Safetensors if resolve::is_index(&file) => sharded(file)?,
        WeightFormat::Safetensors => {
            let map = Mapping::open(&file)?;
            let tensors = safetensors::parse(map.bytes(), map.bytes().len() as u64, &file, 0)?;
            Checkpoint::new(file, format, vec![map], tensors)
        }
        WeightFormat::Gguf => gguf(file)?,
        WeightFormat::Custom(name) => {
            let map = Mapping::open(&file)?;
            let reader =
                custom::reader_named(name).ok_or_else(|| WeightsError::Format { file: file.clone(), format: name, why: GONE.into() })?;
            let found = reader.tensors(map.bytes()).map_err(|why| WeightsError::Format { file: file.clone(), format: name, why })?;
            let tensors = custom::check(found, &file, map.bytes().len() as u64)?;
            Checkpoint::new(file, format, vec![map], tensors)
        }
    };
    checkpoint.access = opts.access;
    if format == WeightFormat::Safetensors {
        checkpoint.present_packed()?;
    }
    Ok(checkpoint)
}

const GONE: &str = "no reader of this format is registered";

fn sharded(path: PathBuf) -> Result<Checkpoint, WeightsError> {
    let index = index::Index::open(&path)?;
    let (mut maps, mut tensors) = (Vec::with_capacity(index.shards.len()), Vec::new());
    for (i, shard) in index.shards.iter().enumerate() {
        let file = path.with_file_name(shard);
        let map = Mapping::open(&file)?;
        tensors.append(&mut safetensors::parse(map.bytes(), map.bytes().len() as u64, &file, i as u32)?);
        maps.push(map);
    }
    tensors.sort_unstable_by(|a: &TensorMeta, b| (&a.name, a.file).cmp(&(&b.name, b.file)));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            let file = |t: &TensorMeta| maps.get(t.file as usize).map(|m: &Arc<Mapping>| m.path().to_owned()).unwrap_or_default();
            return Err(WeightsError::Duplicate { file: file(b), tensor: a.name.clone(), offset: b.offset, other: file(a) });
        }
    }
    let checkpoint = Checkpoint::new(path, WeightFormat::Safetensors, maps, tensors);
    index.check(|name| checkpoint.find(name).map(|t| t.file))?;
    Ok(checkpoint)
}

fn gguf(path: PathBuf) -> Result<Checkpoint, WeightsError> {
    let gguf = Gguf::open(&path)?;
    // A map of our own per file: views of tensors then share it whatever becomes of the reader.
    let maps = gguf.paths().map(Mapping::open).collect::<Result<Vec<_>, _>>()?;
    let mut tensors = Vec::with_capacity(gguf.tensors().len());
    for t in gguf.tensors() {
        let bad = |found: String, expected: &str| {
            let file = maps.get(t.part as usize).map_or(&*path, |m| m.path()).into();
            WeightsError::Entry { file, tensor: t.name.clone(), field: "data", offset: t.offset, found, expected: expected.into() }
        };
        let inside = maps.get(t.part as usize).zip(t.offset.checked_add(t.bytes)).is_some_and(|(m, end)| end <= m.bytes().len() as u64);
        if !inside {
            return Err(bad(format!("{} bytes", t.bytes), "a range inside the file; was the file replaced meanwhile?"));
        }
        let shape: Option<Vec<usize>> = t.shape.iter().map(|d| usize::try_from(*d).ok()).collect();
        let shape = shape.ok_or_else(|| bad(format!("shape {:?}", t.shape), "dimensions that fit this machine's addresses"))?;
        let stored = StoredType::ggml(t.ty);
        tensors.push(TensorMeta { name: t.name.clone(), stored, shape, file: t.part, offset: t.offset, bytes: t.bytes });
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(Checkpoint { gguf: Some(Arc::new(gguf)), ..Checkpoint::new(path, WeightFormat::Gguf, maps, tensors) })
}

impl Checkpoint {
    fn new(path: PathBuf, format: WeightFormat, maps: Vec<Arc<Mapping>>, tensors: Vec<TensorMeta>) -> Checkpoint {
        let mtp = mtp::indices(tensors.iter().map(|t| t.name.as_str()));
        Checkpoint { path, format, access: Access::Map, maps, tensors, mtp, packed: packed::Packed::default(), gguf: None }
    }

    /// Puts one tensor in the place of those that a quantised weight consists of.
    fn present_packed(&mut self) -> Result<(), WeightsError> {
        let mut tensors = std::mem::take(&mut self.tensors);
        self.packed = packed::present(&mut tensors, &self.path, &self.files().collect::<Vec<_>>(), &|t| Ok(self.data(t)?.to_vec()))?;
        self.mtp = mtp::indices(tensors.iter().map(|t| t.name.as_str()));
        self.tensors = tensors;
        Ok(())
    }

    /// How the weights of a safetensors checkpoint are quantised, where they are.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.packed.quantization.as_ref()
    }

    /// An error when the weights are quantised by a method that cannot be used.
    ///
    /// # Errors
    /// [`WeightsError::Quantization`].
    pub fn check_quantization(&self) -> Result<(), WeightsError> {
        match self.quantization() {
            Some(Quantization { method, refused: Some(why), .. }) => {
                Err(WeightsError::Quantization { path: self.path.clone(), method: method.clone(), why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Why the quantised weight of this name cannot be put together from its parts.
    pub(crate) fn refusal(&self, name: &str) -> Option<WeightsError> {
        let Some(packed::Made::Refused(why)) = self.packed.get(name) else { return None };
        Some(WeightsError::Weight { file: self.path.clone(), tensor: name.into(), why: why.clone() })
    }

    /// The type of a tensor, or an error when it cannot be used; no data is read.
    ///
    /// # Errors
    /// [`WeightsError::UnsupportedType`], [`WeightsError::Weight`].
    pub fn check_tensor(&self, t: &TensorMeta) -> Result<DType, WeightsError> {
        if let Some(refusal) = self.refusal(&t.name) {
            return Err(refusal);
        }
        t.dtype().ok_or_else(|| {
            let (file, tensor, found) = (self.file_of(t).into(), t.name.clone(), t.stored.to_string());
            WeightsError::UnsupportedType { file, tensor, offset: t.offset, found, expected: known_types() }
        })
    }

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

    /// The tensors of multi-token-prediction heads: drafting layers, which plain decoding does not use.
    pub fn mtp_tensors(&self) -> impl Iterator<Item = &TensorMeta> {
        self.mtp.iter().filter_map(|i| self.tensors.get(*i as usize))
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

    /// The tensor named `name`: a view of its file, or put together in memory where the file has it in parts.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] with the nearest names, [`WeightsError::UnsupportedType`], [`WeightsError::Weight`],
    /// [`WeightsError::Shrunk`] when the file became shorter since it was opened.
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        match self.find(name) {
            Some(t) => self.view(t),
            None => Err(self.refusal(name).unwrap_or_else(|| WeightsError::MissingTensor {
                path: self.path.clone(),
                tensor: name.into(),
                nearest: message::nearest(name, self.tensors.iter().map(|t| t.name.as_str())),
            })),
        }
    }

    /// A view of a tensor of this checkpoint.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn view<'a>(&'a self, t: &'a TensorMeta) -> Result<TensorView<'a>, WeightsError> {
        let dtype = self.check_tensor(t)?;
        let data = match self.packed.get(&t.name) {
            Some(packed::Made::Whole(recipe)) => self.assembled(t, recipe)?,
            _ => self.data(t)?,
        };
        Ok(TensorView { name: &t.name, dtype, shape: &t.shape, data })
    }

    /// The bytes of a weight, put together from its parts.
    fn assembled(&self, t: &TensorMeta, recipe: &packed::Recipe) -> Result<TensorData, WeightsError> {
        let parts = recipe.parts.iter().map(|p| self.bytes_at(&t.name, p.file, p.offset, p.bytes)).collect::<Result<Vec<_>, _>>()?;
        let slices: Vec<&[u8]> = parts.iter().map(|p| &**p).collect();
        let bytes = usize::try_from(t.bytes).map_err(|_| format!("{} bytes are more than this machine addresses", t.bytes));
        let made = bytes.and_then(|n| recipe.assemble(&slices, n));
        made.map(TensorData::from).map_err(|why| {
            let (file, tensor) = (self.file_of(t).into(), t.name.clone());
            WeightsError::Weight { file, tensor, why: format!("data at byte {}: {why}", t.offset) }
        })
    }

    /// The bytes of a tensor where they lie in its file.
    fn data(&self, t: &TensorMeta) -> Result<TensorData, WeightsError> {
        self.bytes_at(&t.name, t.file, t.offset, t.bytes)
    }

    fn bytes_at(&self, name: &str, file: u32, offset: u64, bytes: u64) -> Result<TensorData, WeightsError> {
        let missing = || WeightsError::MissingTensor { path: self.path.clone(), tensor: name.into(), nearest: vec![] };
        let map = self.maps.get(file as usize).ok_or_else(missing)?;
        map.check_length()?;
        let range = usize::try_from(offset).ok().zip(usize::try_from(bytes).ok()).and_then(|(at, n)| Some(at..at.checked_add(n)?));
        range.and_then(|r| TensorData::mapped(map.clone(), r, self.access)).ok_or_else(missing)
    }
}
