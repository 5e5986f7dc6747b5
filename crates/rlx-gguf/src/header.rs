//! The header of a GGUF file: everything before the tensor data.
//!
//! Input: the bytes of a file, or enough of its first ones.  Output: version, alignment, metadata and validated tensor descriptions.  Nothing
//! is allocated from a count before the counted things have been seen, so memory is bounded by the size of the header.
//!
//! Accepted although unusual: tensors out of order, holes between tensors, bytes after the last tensor, scalars
//! (no dimensions), files without tensors.  Reference: the GGUF specification of ggml, versions 2 and 3.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::cursor::Cursor;
use crate::error::{GgufError, Origin, quote};
use crate::metadata::{MIN_ENTRY_BYTES, Metadata, skip_entry, skip_to_element};
use crate::tensor::{SizeError, TensorInfo, TensorType, size};
use crate::value::FromValue;

/// Longest tensor name that is read, in bytes.
pub const MAX_TENSOR_NAME_BYTES: usize = 1024;
/// Most dimensions of a tensor.
pub const MAX_DIMS: u32 = 4;
/// Alignments that are accepted: powers of two in this range.
pub const ALIGNMENTS: std::ops::RangeInclusive<u64> = 8..=1 << 20;
/// Alignment of files that do not say.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// Where magic, version and the two counts end.
const COUNTS_END: u64 = 24;
/// A length (8), one byte of name, the number of dimensions (4), a type (4) and an offset (8).
const MIN_TENSOR_BYTES: u64 = 25;

/// A parsed header.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Alignment of tensor data, in bytes.
    pub alignment: u64,
    /// All metadata.
    pub metadata: Metadata,
    /// All tensors in the order of the file.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Parses and validates the header of a file of `file_bytes` bytes, inside which tensors have to lie, and of
    /// which `bytes` is the whole or the beginning.
    /// Whether names are repeated is for the caller to see, who may have several parts.
    ///
    /// # Errors
    /// Any [`GgufError`] about the content, naming `file`.
    pub fn parse(bytes: &[u8], file_bytes: u64, file: &Origin) -> Result<Self, GgufError> {
        let mut c = Cursor::of_prefix(bytes, file_bytes, file);
        let version = read_version(&mut c)?;
        let n_tensors = c.count(MIN_TENSOR_BYTES, &"tensor count")?;
        let n_entries = c.count(MIN_ENTRY_BYTES, &"metadata count")?;
        let metadata = Metadata::read(&mut c, n_entries)?;
        let alignment = read_alignment(&metadata, bytes, file)?;
        let mut tensors = read_tensors(&mut c, n_tensors)?;
        let data_start = c.at().next_multiple_of(alignment);
        if !tensors.is_empty() {
            place(&mut tensors, data_start, alignment, file_bytes, file)?;
        }
        Ok(Self { version, alignment, metadata, tensors })
    }
}

fn read_version(c: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let file = c.file().clone();
    match &c.array::<4>(&"the magic")? {
        b"GGUF" => {}
        b"FUGG" => return Err(GgufError::BigEndian { file }),
        other => {
            return Err(GgufError::Magic { file, found: format!("\"{}\"", other.escape_ascii()) });
        }
    }
    match c.u32(&"the version")? {
        found @ 2..=3 => Ok(found),
        found if (1..=0xFF).contains(&found.swap_bytes()) => Err(GgufError::BigEndian { file }),
        found => Err(GgufError::Version { file, found }),
    }
}

fn read_alignment(metadata: &Metadata, bytes: &[u8], file: &Origin) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let alignment = u64::from_value(value);
    alignment.filter(|a| a.is_power_of_two() && ALIGNMENTS.contains(a)).ok_or_else(|| GgufError::KeyType {
        file: file.clone(),
        key: KEY.into(),
        offset: offset_of_key(bytes, metadata, KEY),
        found: value.as_integer().map_or_else(|| value.type_name(), |v| v.to_string()),
        expected: "a power of two from 8 to 1048576",
    })
}

/// Where the entry of `key` begins in a file whose metadata was read, or all metadata when there is none; for messages,
/// so it is searched for only then.
pub(crate) fn offset_of_key(bytes: &[u8], metadata: &Metadata, key: &str) -> u64 {
    let file = Origin::default();
    metadata.position(key).and_then(|n| at_entry(bytes, &file, n).ok()).map_or(COUNTS_END, |c| c.at())
}

/// Where element `n` of the array `key` begins; its entry when it is no array of so many.
pub(crate) fn offset_of_element(bytes: &[u8], metadata: &Metadata, key: &str, n: usize) -> u64 {
    let file = Origin::default();
    let element = || skip_to_element(&mut at_entry(bytes, &file, metadata.position(key)?).ok()?, n);
    element().unwrap_or_else(|| offset_of_key(bytes, metadata, key))
}

/// A cursor before entry `n`.
fn at_entry<'a>(bytes: &'a [u8], file: &'a Origin, n: u32) -> Result<Cursor<'a>, GgufError> {
    let mut c = Cursor::new(bytes, file);
    c.take(COUNTS_END, &"the counts")?;
    (0..n).try_for_each(|i| skip_entry(&mut c, i).map(drop))?;
    Ok(c)
}

/// Where the description of tensor number `n` begins in a file whose header was read.
pub(crate) fn offset_of_tensor(bytes: &[u8], n: u64) -> u64 {
    let walk = || -> Result<u64, GgufError> {
        let file = Origin::default();
        let mut c = Cursor::new(bytes, &file);
        c.take(COUNTS_END - 8, &"the counts")?;
        let n_entries = c.u64(&"metadata count")?;
        (0..n_entries as u32).try_for_each(|i| skip_entry(&mut c, i).map(drop))?;
        (0..n).try_for_each(|i| skip_tensor(&mut c, i))?;
        Ok(c.at())
    };
    walk().unwrap_or_default()
}

fn skip_tensor(c: &mut Cursor<'_>, i: u64) -> Result<(), GgufError> {
    c.text_bytes(&format_args!("the name of tensor {i}"))?;
    let n_dims = read_n_dims(c, &format_args!("the number of dimensions of tensor {i}"))?;
    c.take(u64::from(n_dims) * 8 + 12, &format_args!("the description of tensor {i}")).map(drop)
}

/// Reads `count` tensor descriptions, with offsets as stored.  Walks over all of them before making room.
fn read_tensors(c: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut ahead = *c;
    (0..count).try_for_each(|i| skip_tensor(&mut ahead, i))?;
    let mut tensors = Vec::with_capacity(count as usize);
    for i in 0..count {
        tensors.push(read_tensor(c, i)?);
    }
    Ok(tensors)
}

fn read_n_dims(c: &mut Cursor<'_>, field: &dyn std::fmt::Display) -> Result<u32, GgufError> {
    let offset = c.at();
    let n_dims = c.u32(field)?;
    if n_dims > MAX_DIMS {
        return Err(c.invalid(field, offset, n_dims, format_args!("at most {MAX_DIMS}")));
    }
    Ok(n_dims)
}

fn read_tensor(c: &mut Cursor<'_>, i: u64) -> Result<TensorInfo, GgufError> {
    let start = c.at();
    let name = c.name(MAX_TENSOR_NAME_BYTES, &format_args!("the name of tensor {i}"))?;
    let field = format_args!("the description of tensor {}", quote(name)).to_string();
    let n_dims = read_n_dims(c, &field)?;
    let mut shape = Vec::with_capacity(n_dims as usize);
    for _ in 0..n_dims {
        let offset = c.at();
        let dim = c.u64(&field)?;
        if dim == 0 || i64::try_from(dim).is_err() {
            return Err(c.invalid(&field, offset, format_args!("dimension {dim}"), "1 to 2^63 - 1"));
        }
        shape.push(dim);
    }
    shape.reverse();
    let ty = TensorType::from_ggml_type(c.u32(&field)?);
    let offset = c.u64(&field)?;
    let bytes = match size(ty, &shape) {
        Ok((_, bytes)) => bytes.unwrap_or(0),
        Err(SizeError::Overflow) => {
            let found = format_args!("shape {shape:?}").to_string();
            return Err(c.invalid(&field, start, found, "fewer than 2^63 elements and bytes"));
        }
        Err(SizeError::Row { columns, format }) => {
            let (file, tensor) = (c.file().clone(), quote(name));
            return Err(GgufError::RowNotMultipleOfBlock { file, tensor, offset: start, found: columns, format });
        }
    };
    Ok(TensorInfo { name: name.into(), ty, shape, offset, bytes, part: 0 })
}

/// Makes offsets absolute and checks that data is aligned, inside the file and not shared.  Gives tensors of unknown
/// type the bytes up to their successor.
fn place(tensors: &mut [TensorInfo], data_start: u64, alignment: u64, file_bytes: u64, file: &Origin) -> Result<(), GgufError> {
    for t in tensors.iter_mut() {
        if !t.offset.is_multiple_of(alignment) {
            return Err(GgufError::Invalid {
                file: file.clone(),
                field: format!("the offset of tensor {} in the data section", quote(&t.name)),
                offset: data_start,
                found: t.offset.to_string(),
                expected: format!("a multiple of the alignment {alignment}"),
            });
        }
        // An unknown type has at least one byte.
        let at = data_start.checked_add(t.offset);
        let end = at.and_then(|at| at.checked_add(t.bytes.max(1)));
        match (at, end) {
            (Some(at), Some(end)) if end <= file_bytes => t.offset = at,
            _ => {
                return Err(GgufError::OutOfFile {
                    file: file.clone(),
                    tensor: quote(&t.name),
                    offset: data_start.saturating_add(t.offset),
                    bytes: t.bytes,
                    limit: file_bytes,
                });
            }
        }
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_unstable_by_key(|i| tensors.get(*i).map(|t| t.offset));
    let mut limit = file_bytes;
    let mut successor: Option<usize> = None;
    for i in order.into_iter().rev() {
        let Some(t) = tensors.get_mut(i) else {
            continue;
        };
        if let TensorType::Unknown(_) = t.ty {
            t.bytes = limit - t.offset;
        }
        let (start, end) = (t.offset, t.offset + t.bytes.max(1));
        if end > limit {
            let other = quote(&t.name);
            let tensor = successor.and_then(|s| tensors.get(s)).map(|t| quote(&t.name)).unwrap_or_default();
            return Err(GgufError::Overlap { file: file.clone(), tensor, offset: limit, other, end });
        }
        limit = start;
        successor = Some(i);
    }
    Ok(())
}
