//! Quantising GGUF files, as llama-quantize does it.
//!
//! Input: an open [`Gguf`] (also a split one), a [`FileType`] and [`Options`].  [`Plan::new`] decides the type of every
//! tensor without touching its data; [`Plan::write`] writes the file, tensor after tensor, over several threads.  Memory
//! is a few megabytes per thread, whatever the size of the file and its tensors.  Types, metadata and order of tensors
//! are those of llama-quantize, and so are the bytes.
//!
//! What this does not do: choose importance ([`ImportanceMatrix`] reads what llama-imatrix found), or remove layers.

mod file_type;
mod imatrix;
mod roles;
mod rows;
mod select;

pub use file_type::FileType;
pub use imatrix::ImportanceMatrix;

use crate::blocks::{BlockError, BlockFormat};
use crate::error::{GgufError, quote};
use crate::tensor::{TensorInfo, TensorType};
use crate::value::Value;
use crate::{Gguf, GgufWriter};
use select::Selector;
use std::fmt;
use std::io::{self, Write};

/// The value of `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

/// A type for the tensors whose names a predicate is true for.
pub struct TypeRule {
    pub(crate) matches: Box<dyn Fn(&str) -> bool + Send + Sync>,
    pub(crate) ty: TensorType,
}

impl TypeRule {
    /// Gives `ty` to the tensors that `matches` is true for.
    pub fn new(ty: TensorType, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { matches: Box::new(matches), ty }
    }
}

impl fmt::Debug for TypeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeRule").field("ty", &self.ty).finish_non_exhaustive()
    }
}

/// How to quantise; the default is what llama-quantize does without flags.
#[derive(Debug, Default)]
pub struct Options {
    /// The importance of columns.
    pub importance: Option<ImportanceMatrix>,
    /// Copy all tensors as they are (the file type does not matter then).
    pub copy: bool,
    /// One type for all tensors that are quantised: no mixes.
    pub pure: bool,
    /// Leave `output.weight` as it is.
    pub leave_output: bool,
    /// The type of `output.weight`, or of the embedding where that is the output too.
    pub output: Option<TensorType>,
    /// The type of the token embedding.
    pub token_embedding: Option<TensorType>,
    /// Types for tensors by name; the first rule that matches counts.  Files of plain types (F16) have none.
    pub rules: Vec<TypeRule>,
    /// Allow tensors that are quantised already to be quantised again.
    pub allow_requantize: bool,
    /// Threads; 0 for one per processor.
    pub threads: usize,
}

/// Why a file cannot be quantised like this.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// Something is wrong with the source, the importance matrix, or what would be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The output cannot be written.
    #[error("cannot write the quantised file: {0}")]
    Io(#[from] io::Error),
    #[error(
        "tensor {tensor} would become {ty}, which is garbage without an importance matrix{}; give one with values for this \
         tensor (--imatrix FILE, made by llama-imatrix), or choose a type from Q2_K, IQ3_S or IQ4_XS upwards",
        if *given { ", and the one that was given has nothing for it" } else { "" }
    )]
    NeedsImportance { tensor: String, ty: TensorType, given: bool },
    #[error("the importance matrix has {found} values for tensor {tensor}, expected {expected}: is it of another model?")]
    ImportanceSize { tensor: String, found: usize, expected: u64 },
    #[error(
        "tensor {tensor} is {found} already; quantise from an F16, BF16 or F32 file, or allow losing more \
         (--allow-requantize)"
    )]
    Requantize { tensor: String, found: TensorType },
    #[error("tensor {tensor} of type {found} cannot be converted to {wanted}; expected F32, F16, BF16 or a block format")]
    Source { tensor: String, found: TensorType, wanted: TensorType },
    #[error("{wanted} is not a type to quantise to (tensor {tensor}); expected F32, F16, BF16 or a block format of weights")]
    Target { tensor: String, wanted: TensorType },
    #[error("tensor {tensor} has {value} in row {row}, column {column}: the source is damaged or did not train well")]
    NotFinite { tensor: String, row: u64, column: usize, value: f32 },
    #[error("row {row} of tensor {tensor} has values too large for {ty}; choose a type with more range (BF16, F32)")]
    Range { tensor: String, row: u64, ty: TensorType },
    #[error("tensor {tensor}: its name says no layer below {layers}")]
    Layer { tensor: String, layers: usize },
    #[error("tensor {tensor}: {source}")]
    Block { tensor: String, source: BlockError },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A tensor of the file to be written.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Where it is in the source, and what.
    pub source: TensorInfo,
    /// The type that it will have.
    pub ty: TensorType,
    /// The type that the rules wanted, but whose blocks do not fit the rows.
    pub instead_of: Option<BlockFormat>,
    /// Bytes that it will have.
    pub bytes: u64,
}

impl PlannedTensor {
    /// Whether the data changes.
    pub fn converts(&self) -> bool {
        self.ty != self.source.ty
    }
}

/// What the quantised file will be.
#[derive(Debug)]
pub struct Plan<'a> {
    gguf: &'a Gguf,
    options: &'a Options,
    file_type: FileType,
    tensors: Vec<PlannedTensor>,
}

impl<'a> Plan<'a> {
    /// Decides the type of every tensor and checks that it can be made, without looking at data.
    ///
    /// # Errors
    /// Every [`QuantizeError`] that does not depend on data.
    pub fn new(gguf: &'a Gguf, file_type: FileType, options: &'a Options) -> Result<Self, QuantizeError> {
        let mut selector = Selector::new(gguf, file_type, options)?;
        let mut sources: Vec<&TensorInfo> = gguf.tensors().iter().collect();
        sources.sort_by(|a, b| roles::order(&a.name, &b.name));
        let mut tensors = Vec::with_capacity(sources.len());
        for source in sources {
            let choice = selector.choose(source)?;
            let planned = PlannedTensor { source: source.clone(), ty: choice.ty, instead_of: choice.instead_of, bytes: 0 };
            let bytes = if planned.converts() { planned_bytes(&planned)? } else { source.bytes };
            tensors.push(PlannedTensor { bytes, ..planned });
        }
        let plan = Self { gguf, options, file_type, tensors };
        plan.tensors.iter().filter(|t| t.converts()).try_for_each(|t| plan.check(t))?;
        Ok(plan)
    }

    /// The tensors in the order in which they will be written.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// Bytes of all tensors in the source and in the new file.
    pub fn sizes(&self) -> (u64, u64) {
        self.tensors.iter().fold((0, 0), |(a, b), t| (a + t.source.bytes, b + t.bytes))
    }

    /// The parts of the source: 1 unless it is split.
    pub fn parts(&self) -> u32 {
        self.gguf.parts.len() as u32
    }

    fn check(&self, t: &PlannedTensor) -> Result<(), QuantizeError> {
        let tensor = || quote(&t.source.name);
        match t.source.ty {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => {}
            TensorType::Block(_) if self.options.allow_requantize => {}
            found @ TensorType::Block(_) => return Err(QuantizeError::Requantize { tensor: tensor(), found }),
            found => return Err(QuantizeError::Source { tensor: tensor(), found, wanted: t.ty }),
        }
        match t.ty {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => return Ok(()),
            TensorType::Block(f) if f.ggml_type().is_some() && !matches!(f, BlockFormat::Q8_1 | BlockFormat::Q8K) => {}
            wanted => return Err(QuantizeError::Target { tensor: tensor(), wanted }),
        }
        let found = self.importance(t)?.is_some();
        let block_needs = matches!(t.ty, TensorType::Block(f) if !f.has_quantizer());
        if !found && (block_needs || select::needs_importance(&t.source.name, t.ty, self.file_type)) {
            return Err(QuantizeError::NeedsImportance { tensor: tensor(), ty: t.ty, given: self.options.importance.is_some() });
        }
        Ok(())
    }

    /// The importance for a tensor: columns × experts values.
    fn importance(&self, t: &PlannedTensor) -> Result<Option<&'a [f32]>, QuantizeError> {
        let Some(values) = self.options.importance.as_ref().and_then(|m| m.get(&t.source.name)) else {
            return Ok(None);
        };
        let [columns, _, experts] = dims(&t.source);
        let expected = columns.saturating_mul(experts);
        if values.len() as u64 == expected {
            return Ok(Some(values));
        }
        if select::tolerates_wrong_size(&t.source.name) {
            return Ok(None);
        }
        Err(QuantizeError::ImportanceSize { tensor: quote(&t.source.name), found: values.len(), expected })
    }

    /// Metadata and tensor descriptions of the file, or of part `part` of it when the parts of the source are kept.
    fn header(&self, part: Option<u32>) -> Result<GgufWriter<'static>, QuantizeError> {
        let mut writer = GgufWriter::new();
        if part.unwrap_or(0) == 0 {
            let new = self.metadata();
            let replaced = |key: &str| key.starts_with("split.") || new.iter().any(|(k, _)| k == key);
            for (key, value) in self.gguf.metadata().iter().filter(|(key, _)| !replaced(key)) {
                writer.put(key, value.clone())?;
            }
            for (key, value) in new {
                writer.put(&key, value)?;
            }
        }
        if let Some(part) = part.filter(|_| self.parts() > 1) {
            writer.put("split.no", Value::U16(part as u16))?;
            writer.put("split.count", Value::U16(self.parts() as u16))?;
            writer.put("split.tensors.count", Value::I32(self.tensors.len() as i32))?;
        }
        for t in self.of_part(part) {
            writer.declare(&t.source.name, t.ty, &t.source.shape)?;
        }
        Ok(writer)
    }

    /// What the new file says of itself.
    fn metadata(&self) -> Vec<(String, Value)> {
        const LONGEST: usize = 127;
        let mut new = vec![("general.quantization_version".to_owned(), Value::U32(QUANTIZATION_VERSION))];
        let kept = self.gguf.get("general.file_type").filter(|_| self.options.copy).cloned();
        let file_type = kept.or_else(|| (!self.options.copy).then(|| Value::U32(self.file_type.number())));
        new.extend(file_type.map(|v| ("general.file_type".to_owned(), v)));
        let Some(matrix) = &self.options.importance else {
            return new;
        };
        let short = |text: &str| {
            let end = (0..=LONGEST.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            Value::String(text[..end].to_owned())
        };
        let mut put = |key: &str, value| new.push((format!("quantize.imatrix.{key}"), value));
        put("file", short(&matrix.name));
        if let Some(dataset) = matrix.datasets.first() {
            put("dataset", short(dataset));
        }
        put("entries_count", Value::U32(matrix.len() as u32));
        if matrix.chunks > 0 {
            put("chunks_count", Value::U32(matrix.chunks));
        }
        new
    }

    /// The tensors of a part, in the order of the source's file; all of them without one.
    fn of_part(&self, part: Option<u32>) -> Vec<&PlannedTensor> {
        let mut tensors: Vec<_> = self.tensors.iter().filter(|t| part.is_none_or(|p| t.source.part == p)).collect();
        if part.is_some() {
            tensors.sort_by_key(|t| t.source.offset);
        }
        tensors
    }

    /// Writes the whole file.  `progress` gets the bytes of source tensors done so far and says whether to go on.
    ///
    /// # Errors
    /// Every [`QuantizeError`]; what was written by then is no valid file.
    pub fn write(&self, out: impl Write, progress: impl FnMut(u64) -> bool) -> Result<(), QuantizeError> {
        self.write_tensors(None, out, progress)
    }

    /// Writes part `part` (from 0) of as many [`parts`](Self::parts) as the source has, with the tensors that it has.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_part(&self, part: u32, out: impl Write, progress: impl FnMut(u64) -> bool) -> Result<(), QuantizeError> {
        self.write_tensors(Some(part), out, progress)
    }

    fn write_tensors(&self, part: Option<u32>, out: impl Write, mut progress: impl FnMut(u64) -> bool) -> Result<(), QuantizeError> {
        let threads = match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let mut stream = self.header(part)?.stream(out)?;
        let mut done = 0;
        for t in self.of_part(part) {
            let bytes = self.gguf.tensor_bytes(&t.source)?;
            let conversion = rows::Conversion { tensor: t, bytes, importance: self.importance(t)?, threads };
            let start = done;
            conversion.write(&mut stream, |n| {
                done = start + n;
                progress(done)
            })?;
        }
        Ok(stream.finish()?)
    }
}

/// Columns, rows per expert and experts: the last three dimensions (the third with all before it).
fn dims(t: &TensorInfo) -> [u64; 3] {
    let mut dims = t.shape.iter().rev().copied();
    let (columns, rows) = (dims.next().unwrap_or(1), dims.next().unwrap_or(1));
    [columns, rows, dims.fold(1, u64::saturating_mul)]
}

fn planned_bytes(t: &PlannedTensor) -> Result<u64, QuantizeError> {
    let [columns, rows, experts] = dims(&t.source);
    let row = usize::try_from(columns).ok().and_then(|n| t.ty.row_bytes(n)).map(|n| n as u64);
    let bytes = row.and_then(|n| n.checked_mul(rows)?.checked_mul(experts));
    bytes.ok_or_else(|| {
        let tensor = quote(&t.source.name);
        match t.ty {
            TensorType::Block(format) => {
                QuantizeError::Block { tensor, source: BlockError::Length { format, bytes: 0, elements: columns as usize } }
            }
            wanted => QuantizeError::Target { tensor, wanted },
        }
    })
}
