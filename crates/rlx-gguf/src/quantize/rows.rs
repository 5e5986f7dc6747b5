//! Converting the rows of one tensor over several threads.

use super::{PlannedTensor, QuantizeError, dims};
use crate::error::quote;
use crate::tensor::TensorType;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// About as many elements as a thread takes at a time.
const CHUNK_ELEMENTS: usize = 1 << 16;
/// Chunks that a thread gets, on average, before what is done is written.
const CHUNKS_PER_THREAD: usize = 16;
/// Bytes of a tensor that is copied are written this many at a time.
const COPY_BYTES: usize = 8 << 20;

/// One tensor on its way from one type to another.
pub(super) struct Conversion<'a> {
    pub tensor: &'a PlannedTensor,
    /// The source's data.
    pub bytes: &'a [u8],
    /// Columns × experts values.
    pub importance: Option<&'a [f32]>,
    pub threads: usize,
}

/// A few rows.
struct Chunk<'a> {
    first_row: u64,
    src: &'a [u8],
    dst: &'a mut [u8],
}

impl Conversion<'_> {
    /// Writes the tensor; `progress` gets the bytes of source done so far and says whether to go on.
    pub fn write(&self, out: &mut impl Write, mut progress: impl FnMut(u64) -> bool) -> Result<(), QuantizeError> {
        let t = self.tensor;
        if !t.converts() {
            let mut done = 0;
            for bytes in self.bytes.chunks(COPY_BYTES) {
                out.write_all(bytes)?;
                done += bytes.len() as u64;
                if !progress(done) {
                    return Err(QuantizeError::Cancelled);
                }
            }
            return Ok(());
        }
        let [columns, ..] = dims(&t.source);
        let columns = columns as usize;
        let (Some(src_row), Some(dst_row)) = (t.source.ty.row_bytes(columns), t.ty.row_bytes(columns)) else {
            return Err(QuantizeError::Target { tensor: quote(&t.source.name), wanted: t.ty });
        };
        let chunk_rows = (CHUNK_ELEMENTS / columns).max(1);
        let slab_rows = chunk_rows * CHUNKS_PER_THREAD * self.threads;
        let mut dst = vec![0; dst_row * slab_rows.min(self.bytes.len() / src_row)];
        let (mut row, mut done) = (0, 0);
        for src in self.bytes.chunks(src_row * slab_rows) {
            let rows = src.len() / src_row;
            let dst = &mut dst[..rows * dst_row];
            let chunks = src.chunks(src_row * chunk_rows).zip(dst.chunks_mut(dst_row * chunk_rows)).enumerate();
            let chunks = chunks.map(|(i, (src, dst))| Chunk { first_row: row + (i * chunk_rows) as u64, src, dst });
            self.in_parallel(chunks, columns)?;
            out.write_all(dst)?;
            row += rows as u64;
            done += src.len() as u64;
            if !progress(done) {
                return Err(QuantizeError::Cancelled);
            }
        }
        Ok(())
    }

    /// Converts all chunks; the first error ends it.
    fn in_parallel<'c>(&self, chunks: impl Iterator<Item = Chunk<'c>> + Send, columns: usize) -> Result<(), QuantizeError> {
        let queue = Mutex::new(chunks);
        let failed = Mutex::new(None);
        let work = || {
            let mut values = vec![0.0; columns];
            loop {
                let chunk = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(chunk) = chunk.filter(|_| failed.lock().unwrap_or_else(PoisonError::into_inner).is_none()) else {
                    return;
                };
                if let Err(e) = self.convert(chunk, &mut values) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
        };
        std::thread::scope(|scope| {
            (1..self.threads).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    fn convert(&self, chunk: Chunk<'_>, values: &mut [f32]) -> Result<(), QuantizeError> {
        let t = self.tensor;
        let [_, rows_per_expert, _] = dims(&t.source);
        let rows = chunk.src.len() / t.source.ty.row_bytes(values.len()).unwrap_or(1).max(1);
        let (src_row, dst_row) = (chunk.src.len() / rows.max(1), chunk.dst.len() / rows.max(1));
        for (i, (src, dst)) in chunk.src.chunks_exact(src_row).zip(chunk.dst.chunks_exact_mut(dst_row)).enumerate() {
            let row = chunk.first_row + i as u64;
            let block = |source| QuantizeError::Block { tensor: quote(&t.source.name), source };
            t.source.ty.decode(src, values).map_err(block)?;
            if let Some((column, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                return Err(QuantizeError::NotFinite { tensor: quote(&t.source.name), row, column, value: *value });
            }
            let range = || QuantizeError::Range { tensor: quote(&t.source.name), row, ty: t.ty };
            match t.ty {
                TensorType::Block(format) => {
                    let expert = (row / rows_per_expert) as usize;
                    let importance = self.importance.and_then(|i| i.chunks_exact(values.len()).nth(expert));
                    format.quantize_rows(values, dst, values.len(), importance).map_err(block)?;
                    if !format.scales_are_finite(dst) {
                        return Err(range());
                    }
                }
                TensorType::F16 => {
                    each(values, dst, |v| Some(half::f16::from_f32(v)).filter(|h| h.is_finite()).map(half::f16::to_le_bytes))
                        .ok_or_else(range)?
                }
                TensorType::BF16 => {
                    each(values, dst, |v| Some(half::bf16::from_f32(v)).filter(|h| h.is_finite()).map(half::bf16::to_le_bytes))
                        .ok_or_else(range)?
                }
                TensorType::F32 => each(values, dst, |v| Some(v.to_le_bytes())).ok_or_else(range)?,
                wanted => return Err(QuantizeError::Target { tensor: quote(&t.source.name), wanted }),
            }
        }
        Ok(())
    }
}

/// Stores every value as `N` bytes; nothing when one cannot be stored.
fn each<const N: usize>(values: &[f32], dst: &mut [u8], store: impl Fn(f32) -> Option<[u8; N]>) -> Option<()> {
    for (v, out) in values.iter().zip(dst.as_chunks_mut::<N>().0) {
        *out = store(*v)?;
    }
    Some(())
}
