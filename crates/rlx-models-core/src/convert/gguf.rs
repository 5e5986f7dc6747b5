//! GGUF files, streamed: one file, or parts.
//!
//! Reference: what llama.cpp's `convert_hf_to_gguf.py` and `gguf-split` write.

use super::{ConvertError, Output, TensorSink};
use rlx_gguf::{Gguf, GgufStream, GgufWriter, TensorType, Value};
use rlx_ir::DType;
use std::fs::File;
use std::io::{BufWriter, Write};

/// What goes into a GGUF file.
#[derive(Debug, Default)]
pub struct GgufPlan {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, TensorType, Vec<u64>, u64)>,
}

/// Files being written, tensor after tensor in the order of the plan.
struct GgufFiles<'o> {
    output: &'o mut Output,
    /// Per file: name, header, bytes of data.
    files: std::vec::IntoIter<(String, GgufWriter<'static>, u64)>,
    open: Option<(String, GgufStream<BufWriter<File>>, u64)>,
}

fn tensor_type(dtype: DType) -> Option<TensorType> {
    Some(match dtype {
        DType::F32 => TensorType::F32,
        DType::F16 => TensorType::F16,
        DType::BF16 => TensorType::BF16,
        DType::F64 => TensorType::F64,
        DType::I8 => TensorType::I8,
        DType::I16 => TensorType::I16,
        DType::I32 => TensorType::I32,
        DType::I64 => TensorType::I64,
        DType::Block(b) => TensorType::Block(b),
        _ => return None,
    })
}

impl GgufPlan {
    /// Adds metadata.
    pub fn put(&mut self, entries: impl IntoIterator<Item = (String, Value)>) {
        self.metadata.extend(entries);
    }

    /// Adds a tensor, outermost dimension first.
    ///
    /// # Errors
    /// [`ConvertError::Cast`] for types and shapes that GGUF files do not have.
    pub fn add(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), ConvertError> {
        let cannot = |why: &str| ConvertError::Cast { from: dtype, to: dtype, why: why.into() };
        let ty = tensor_type(dtype).ok_or_else(|| cannot("GGUF files have no such type"))?;
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().take(shape.len().saturating_sub(1)).fold(1u64, |n, d| n.saturating_mul(*d as u64));
        let row = dtype.row_bytes(columns).ok_or_else(|| cannot(&format!("rows of {columns} elements are no whole blocks")))?;
        let bytes = rows.saturating_mul(row as u64);
        self.tensors.push((name.into(), ty, shape.iter().map(|d| *d as u64).collect(), bytes));
        Ok(())
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |n, t| n.saturating_add(t.3))
    }

    /// The metadata as a reader of the file will see it.
    ///
    /// # Errors
    /// [`ConvertError::Gguf`].
    pub fn read_back(&self) -> Result<Gguf, ConvertError> {
        let mut w = GgufWriter::new();
        for (key, value) in &self.metadata {
            w.put(key, value.clone())?;
        }
        Ok(Gguf::from_bytes(w.to_bytes())?)
    }

    /// Begins `name`, or its parts of at most `part_bytes` of tensors (a larger tensor gets one of its own).
    ///
    /// # Errors
    /// Those of `output`, and [`ConvertError::Gguf`].
    pub fn begin<'o>(self, output: &'o mut Output, name: &str, part_bytes: Option<u64>) -> Result<Box<dyn TensorSink + 'o>, ConvertError> {
        let mut parts: Vec<Vec<_>> = vec![vec![]];
        let (mut filled, count) = (0u64, self.tensors.len());
        for t in self.tensors {
            if filled > 0 && part_bytes.is_some_and(|most| filled.saturating_add(t.3) > most) {
                parts.push(vec![]);
                filled = 0;
            }
            filled = filled.saturating_add(t.3);
            parts.last_mut().into_iter().for_each(|p| p.push(t.clone()));
        }
        let n = parts.len();
        let stem = name.strip_suffix(".gguf").unwrap_or(name);
        let (mut metadata, mut files) = (Some(self.metadata), vec![]);
        for (i, tensors) in parts.into_iter().enumerate() {
            let mut w = GgufWriter::new();
            for (key, value) in metadata.take().into_iter().flatten() {
                w.put(&key, value)?;
            }
            let name = if n == 1 { name.to_owned() } else { format!("{stem}-{:05}-of-{n:05}.gguf", i + 1) };
            if n > 1 {
                let number = |v: usize| u16::try_from(v).unwrap_or(u16::MAX);
                w.put("split.no", number(i))?.put("split.count", number(n))?.put("split.tensors.count", count as i32)?;
            }
            for (name, ty, shape, _) in &tensors {
                w.declare(name, *ty, shape)?;
            }
            files.push((name, w, tensors.iter().map(|t| t.3).sum()));
        }
        Ok(Box::new(GgufFiles { output, files: files.into_iter(), open: None }))
    }
}

impl GgufFiles<'_> {
    /// Ends the file and begins the next.
    fn next(&mut self) -> Result<(), ConvertError> {
        self.close()?;
        let io = |name: &str, source| ConvertError::Io { path: name.into(), source };
        let (name, writer, bytes) =
            self.files.next().ok_or_else(|| io("the GGUF file", std::io::Error::other("more data than was planned")))?;
        let file = self.output.create(&name)?;
        let stream = writer.stream(file).map_err(|e| io(&name, e))?;
        self.open = Some((name, stream, bytes));
        Ok(())
    }

    fn close(&mut self) -> Result<(), ConvertError> {
        let Some((name, stream, _)) = self.open.take() else { return Ok(()) };
        stream.finish().map_err(|source| ConvertError::Io { path: name.into(), source })
    }
}

impl TensorSink for GgufFiles<'_> {
    fn write(&mut self, mut data: &[u8]) -> Result<(), ConvertError> {
        while !data.is_empty() {
            if self.open.as_ref().is_none_or(|f| f.2 == 0) {
                self.next()?;
                continue;
            }
            let Some((name, stream, left)) = &mut self.open else { return Ok(()) };
            let n = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            let (now, later) = data.split_at(n);
            stream.write_all(now).map_err(|source| ConvertError::Io { path: name.as_str().into(), source })?;
            *left -= n as u64;
            data = later;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), ConvertError> {
        while self.files.len() > 0 {
            self.next()?;
        }
        self.close()
    }
}
