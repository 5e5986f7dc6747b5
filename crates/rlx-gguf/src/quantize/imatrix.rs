//! Importance matrices: per tensor and column, the mean square of the activations that the column multiplies.
//!
//! Input: a file that llama-imatrix wrote, as GGUF or in the older binary layout.  Output: one vector per tensor.
//! Counts are checked against the bytes that are left before anything is allocated; values are finite and not negative.
//! Reference: llama.cpp's `common_imatrix_load`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::cursor::Cursor;
use crate::error::{GgufError, Origin, quote};
use crate::file::{Gguf, Part};
use crate::index::NameIndex;
use crate::tensor::{TensorInfo, TensorType};
use crate::value::StringArray;
use std::collections::HashSet;
use std::path::Path;

/// The importance of the columns of tensors.
#[derive(Clone, Debug, Default)]
pub struct ImportanceMatrix {
    /// What the file was called when it was opened; recorded in files that are quantised with it.
    pub name: String,
    /// The texts that the activations come from.
    pub datasets: Vec<String>,
    /// How many chunks of text were run; 0 when the file does not say.
    pub chunks: u32,
    /// Names and values of all tensors end to end, and where each ends.
    names: String,
    values: Vec<f32>,
    ends: Vec<(usize, usize)>,
    index: NameIndex,
    /// Tensors that are not to be used.
    excluded: HashSet<u32>,
}

impl ImportanceMatrix {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Every [`GgufError`] about a file's content, with field and byte offset.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let part = Part::open(path.as_ref())?;
        let read = if part.bytes().starts_with(b"GGUF") { gguf(&Gguf::open(path.as_ref())?) } else { legacy(part.bytes(), &part.origin) };
        read.map(|matrix| Self { name: path.as_ref().display().to_string(), ..matrix })
    }

    /// Reads a file that is in memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GgufError> {
        if bytes.starts_with(b"GGUF") { gguf(&Gguf::from_bytes(bytes)?) } else { legacy(bytes, &Origin::default()) }
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.ends.len() - self.excluded.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The importance of a tensor's columns: one value per column, expert after expert.
    pub fn get(&self, tensor: &str) -> Option<&[f32]> {
        let i = self.index.find(tensor, |i| self.name_of(i))?;
        let (_, end) = self.ends.get(i as usize)?;
        let start = self.start(i).1;
        self.values.get(start..*end).filter(|_| !self.excluded.contains(&i))
    }

    /// The names of the tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len() as u32).filter(|i| !self.excluded.contains(i)).map(|i| self.name_of(i))
    }

    /// Keeps the tensors whose names `keep` is true for.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let out: Vec<u32> = (0..self.ends.len() as u32).filter(|i| !keep(self.name_of(*i))).collect();
        self.excluded.extend(out);
    }

    fn start(&self, i: u32) -> (usize, usize) {
        (i as usize).checked_sub(1).and_then(|i| self.ends.get(i)).copied().unwrap_or_default()
    }

    fn name_of(&self, i: u32) -> &str {
        let end = self.ends.get(i as usize).map_or(0, |e| e.0);
        self.names.get(self.start(i).0..end).unwrap_or_default()
    }

    /// Adds a tensor whose values begin at byte `offset`.
    fn push(&mut self, file: &Origin, offset: u64, name: &str, values: impl Iterator<Item = f32>) -> Result<(), GgufError> {
        for (i, v) in values.enumerate() {
            if !v.is_finite() || v < 0.0 {
                return Err(GgufError::Invalid {
                    file: file.clone(),
                    field: format!("the importance of tensor {}", quote(name)),
                    offset: offset + 4 * i as u64,
                    found: format!("{v} for column {i}"),
                    expected: "finite values that are not negative".into(),
                });
            }
            self.values.push(v);
        }
        self.names.push_str(name);
        self.ends.push((self.names.len(), self.values.len()));
        Ok(())
    }

    /// Makes the tensors findable; `offset` says where the values of a tensor begin.
    fn indexed(mut self, file: &Origin, offset: impl Fn(u32) -> u64) -> Result<Self, GgufError> {
        let n = self.ends.len() as u32;
        let twice = |i| GgufError::DuplicateTensor { file: file.clone(), tensor: quote(self.name_of(i)), offset: offset(i) };
        self.index = NameIndex::build(n, |i| self.name_of(i)).map_err(twice)?;
        Ok(self)
    }
}

/// A tensor of the older layout.
struct Entry<'a> {
    name: &'a str,
    calls: i32,
    offset: u64,
    data: &'a [u8],
}

/// The older layout: a count, then per tensor a name, a number of calls, a count and sums; then perhaps the number of
/// chunks and the name of the data set.  All integers are 32-bit, signed, little endian.
///
/// A first walk makes sure that everything is there; only then is room made, at once.
fn legacy(bytes: &[u8], file: &Origin) -> Result<ImportanceMatrix, GgufError> {
    let (mut tensors, mut name_bytes, mut value_bytes) = (0, 0, 0);
    walk(bytes, file, |entry| {
        tensors += 1;
        name_bytes += entry.name.len();
        value_bytes += entry.data.len();
        Ok(())
    })?;
    let mut matrix = ImportanceMatrix {
        names: String::with_capacity(name_bytes),
        values: Vec::with_capacity(value_bytes / 4),
        ends: Vec::with_capacity(tensors),
        ..ImportanceMatrix::default()
    };
    let (chunks, dataset) = walk(bytes, file, |entry| {
        let divisor = if entry.calls > 0 { entry.calls as f32 } else { 1.0 };
        let values = entry.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b) / divisor);
        matrix.push(file, entry.offset, entry.name, values)
    })?;
    matrix.chunks = chunks;
    matrix.datasets.extend(dataset.filter(|d| !d.is_empty()).map(str::to_owned));
    matrix.indexed(file, |wanted| {
        let (mut i, mut at) = (0, 0);
        // The walk went well twice.
        let _ = walk(bytes, file, |entry| {
            at = if i == wanted { entry.offset } else { at };
            i += 1;
            Ok(())
        });
        at
    })
}

/// Calls `visit` for every tensor; returns the number of chunks and the name of the data set.
fn walk<'a>(
    bytes: &'a [u8],
    file: &'a Origin,
    mut visit: impl FnMut(Entry<'a>) -> Result<(), GgufError>,
) -> Result<(u32, Option<&'a str>), GgufError> {
    /// A name's length, one byte of name, calls, a count and one value.
    const MIN_ENTRY_BYTES: u64 = 17;
    let c = &mut Cursor::new(bytes, file);
    for i in 0..count(c, "the number of tensors", 1, MIN_ENTRY_BYTES)? {
        let length = count(c, format_args!("the length of tensor name {i}"), 1, 1)?;
        let name = text(c, length, &format_args!("tensor name {i}"))?;
        let calls = i32::from_le_bytes(c.array(&format_args!("the number of calls of tensor {i}"))?);
        let n = count(c, format_args!("the number of columns of tensor {i}"), 1, 4)?;
        let offset = c.at();
        let data = c.take(n * 4, &format_args!("the importance of tensor {i}"))?;
        visit(Entry { name, calls, offset, data })?;
    }
    if c.remaining() == 0 {
        return Ok((0, None));
    }
    let chunks = u32::try_from(i32::from_le_bytes(c.array(&"the number of chunks")?)).unwrap_or(0);
    if c.remaining() == 0 {
        return Ok((chunks, None));
    }
    let length = count(c, "the length of the data set's name", 0, 1)?;
    Ok((chunks, Some(text(c, length, &"the data set's name")?)))
}

/// A 32-bit count of items that take at least `item_bytes` each.
fn count(c: &mut Cursor<'_>, field: impl std::fmt::Display, least: i32, item_bytes: u64) -> Result<u64, GgufError> {
    let offset = c.at();
    let n = i32::from_le_bytes(c.array(&field)?);
    let most = c.remaining() / item_bytes;
    match u64::try_from(n) {
        Ok(v) if n >= least && v <= most => Ok(v),
        _ => {
            let expected = format!("{least} to {most}, as {} bytes are left; is this an importance matrix?", c.remaining());
            Err(c.invalid(&field, offset, n, expected))
        }
    }
}

/// Text without the NUL that some writers end it with.
fn text<'a>(c: &mut Cursor<'a>, length: u64, field: &dyn std::fmt::Display) -> Result<&'a str, GgufError> {
    let offset = c.at();
    let bytes = c.take(length, field)?.split(|b| *b == 0).next().unwrap_or_default();
    let no_text = |e: std::str::Utf8Error| c.invalid(field, offset + e.valid_up_to() as u64, "bytes that are no text", "UTF-8");
    std::str::from_utf8(bytes).map_err(no_text)
}

/// The GGUF layout: tensors `NAME.in_sum2` with sums of squares and `NAME.counts` with what to divide them by.
fn gguf(file: &Gguf) -> Result<ImportanceMatrix, GgufError> {
    let mut matrix = ImportanceMatrix {
        datasets: file.require::<&StringArray>("imatrix.datasets")?.iter().map(str::to_owned).collect(),
        chunks: file.get_u32("imatrix.chunk_count")?,
        ..ImportanceMatrix::default()
    };
    let _: u32 = file.get_u32("imatrix.chunk_size")?;
    let origin = file.origin();
    for sums in file.tensors() {
        let Some(name) = sums.name.strip_suffix(".in_sum2") else {
            match sums.name.strip_suffix(".counts") {
                Some(name) => file.tensor(&format!("{name}.in_sum2")).map(drop)?,
                None => return Err(unexpected(&origin, sums, "a name that ends in .in_sum2 or .counts: an importance matrix")),
            }
            continue;
        };
        let counts = file.tensor(&format!("{name}.counts"))?;
        for t in [sums, counts] {
            if t.ty != TensorType::F32 {
                return Err(unexpected(&origin, t, "F32"));
            }
        }
        let (mut values, divisors) = (file.tensor_f32(sums)?, file.tensor_f32(counts)?);
        if divisors.is_empty() || !values.len().is_multiple_of(divisors.len()) {
            let expected = format!("a number of counts that divides {}", values.len());
            return Err(unexpected(&origin, counts, &expected));
        }
        let columns = values.len() / divisors.len();
        for (values, divisor) in values.chunks_mut(columns.max(1)).zip(divisors) {
            let divisor = divisor.round();
            for v in values {
                // Experts that no token was sent to count evenly.
                *v = if divisor > 0.0 { *v / divisor } else { 1.0 };
            }
        }
        matrix.push(&origin, sums.offset, name, values.into_iter())?;
    }
    if matrix.is_empty() {
        return Err(GgufError::MissingTensor { file: origin, tensor: "\"*.in_sum2\"".into() });
    }
    let sums = || file.tensors().iter().filter(|t| t.name.ends_with(".in_sum2"));
    matrix.indexed(&origin, |i| sums().nth(i as usize).map_or(0, |t| t.offset))
}

fn unexpected(file: &Origin, t: &TensorInfo, expected: &str) -> GgufError {
    GgufError::Invalid {
        file: file.clone(),
        field: format!("tensor {}", quote(&t.name)),
        offset: t.offset,
        found: format!("{} of shape {:?}", t.ty, t.shape),
        expected: expected.into(),
    }
}
