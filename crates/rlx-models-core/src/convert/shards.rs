//! Safetensors files, streamed: one file, or shards with an index.
//!
//! Reference: the `safetensors` format (header length, JSON header, data end to end) and the sharding of Hugging Face
//! checkpoints (`model-00001-of-0000N.safetensors`, `model.safetensors.index.json`).

use super::{ConvertError, Output, TensorSink};
use crate::weights::MAX_HEADER_BYTES;
use rlx_ir::DType;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};

/// A tensor to be written.
#[derive(Clone, Debug)]
struct Planned {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

/// Which tensors go into which file.
#[derive(Clone, Debug, Default)]
pub struct ShardPlan {
    tensors: Vec<Planned>,
}

/// Files being written, tensor after tensor in the order of the plan.
struct ShardFiles<'o> {
    output: &'o mut Output,
    /// Per file: name, header, bytes of data.
    files: std::vec::IntoIter<(String, Vec<u8>, u64)>,
    open: Option<(String, BufWriter<File>, u64)>,
}

/// How the format spells a type; `None` for types that it does not have.
fn spelled(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I16 => "I16",
        DType::I8 => "I8",
        DType::U64 => "U64",
        DType::U32 => "U32",
        DType::U16 => "U16",
        DType::U8 => "U8",
        _ => return None,
    })
}

impl ShardPlan {
    /// Adds a tensor, outermost dimension first.
    ///
    /// # Errors
    /// [`ConvertError::Cast`] for types that safetensors files do not have.
    pub fn add(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), ConvertError> {
        let why = || "safetensors files have no such type".into();
        let spelled = spelled(dtype).ok_or_else(|| ConvertError::Cast { from: dtype, to: dtype, why: why() })?;
        let elements = shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
        let bytes = elements.saturating_mul(dtype.size().unwrap_or(1) as u64);
        self.tensors.push(Planned { name: name.into(), dtype: spelled, shape: shape.to_vec(), bytes });
        Ok(())
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |n, t| n.saturating_add(t.bytes))
    }

    /// Begins the files: shards of at most `shard_bytes` (a larger tensor gets one of its own).  The index, if there
    /// is more than one shard, is written at once.
    ///
    /// # Errors
    /// Those of `output`, and a header too large to be read again.
    pub fn begin(self, output: &mut Output, shard_bytes: u64) -> Result<Box<dyn TensorSink + '_>, ConvertError> {
        let total = self.bytes();
        let mut shards: Vec<Vec<Planned>> = vec![vec![]];
        let mut filled = 0u64;
        for t in self.tensors {
            let full = filled > 0 && filled.saturating_add(t.bytes) > shard_bytes;
            if full {
                shards.push(vec![]);
                filled = 0;
            }
            filled = filled.saturating_add(t.bytes);
            shards.last_mut().into_iter().for_each(|s| s.push(t.clone()));
        }
        let (n, mut map, mut files) = (shards.len(), Map::new(), vec![]);
        for (i, shard) in shards.into_iter().enumerate() {
            let name = if n == 1 { "model.safetensors".into() } else { format!("model-{:05}-of-{n:05}.safetensors", i + 1) };
            map.extend(shard.iter().map(|t| (t.name.clone(), Value::from(name.clone()))));
            let header = header(&shard);
            if header.len() as u64 > MAX_HEADER_BYTES {
                let source = std::io::Error::other(format!("the header would have {} bytes; choose smaller shards", header.len()));
                return Err(ConvertError::Io { path: output.staged(&name), source });
            }
            files.push((name, header, shard.iter().map(|t| t.bytes).sum()));
        }
        if n > 1 {
            map.sort_keys();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            output.write("model.safetensors.index.json", format!("{index:#}\n").as_bytes())?;
        }
        Ok(Box::new(ShardFiles { output, files: files.into_iter(), open: None }))
    }
}

/// Length and JSON of a header, padded so that data is aligned.
fn header(tensors: &[Planned]) -> Vec<u8> {
    let mut object = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut at = 0;
    for t in tensors {
        object.insert(t.name.clone(), json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + t.bytes] }));
        at += t.bytes;
    }
    let mut text = Value::Object(object).to_string();
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.into_bytes());
    out
}

impl ShardFiles<'_> {
    /// Ends the file and begins the next.
    fn next(&mut self) -> Result<(), ConvertError> {
        self.close()?;
        let extra = || ConvertError::Io { path: "model.safetensors".into(), source: std::io::Error::other("more data than was planned") };
        let (name, header, bytes) = self.files.next().ok_or_else(extra)?;
        let mut file = self.output.create(&name)?;
        file.write_all(&header).map_err(|source| ConvertError::Io { path: name.clone().into(), source })?;
        self.open = Some((name, file, bytes));
        Ok(())
    }

    fn close(&mut self) -> Result<(), ConvertError> {
        let Some((name, mut file, left)) = self.open.take() else { return Ok(()) };
        let short = if left > 0 { Err(std::io::Error::other(format!("{left} bytes of data are missing"))) } else { Ok(()) };
        short.and_then(|()| file.flush()).map_err(|source| ConvertError::Io { path: name.into(), source })
    }
}

impl TensorSink for ShardFiles<'_> {
    fn write(&mut self, mut data: &[u8]) -> Result<(), ConvertError> {
        while !data.is_empty() {
            if self.open.as_ref().is_none_or(|f| f.2 == 0) {
                self.next()?;
                continue;
            }
            let Some((name, file, left)) = &mut self.open else { return Ok(()) };
            let n = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            let (now, later) = data.split_at(n);
            file.write_all(now).map_err(|source| ConvertError::Io { path: name.as_str().into(), source })?;
            *left -= n as u64;
            data = later;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), ConvertError> {
        // Files whose tensors have no bytes at all still exist.
        while self.files.len() > 0 {
            self.next()?;
        }
        self.close()
    }
}
