//! The metadata section: reading values, and the table of keys.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::cursor::Cursor;
use crate::error::{GgufError, quote};
use crate::index::NameIndex;
use crate::value::{Array, StringArray, Value};
use std::fmt::Display;

/// Arrays may be nested this deep.
pub const MAX_ARRAY_DEPTH: u32 = 8;
/// Longest metadata key, in bytes, as in the specification.
pub const MAX_KEY_BYTES: usize = 65_535;
/// A length (8), one byte of key, a type (4) and one byte of value.
pub(crate) const MIN_ENTRY_BYTES: u64 = 14;

/// Metadata in file order, with lookup by key.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// All keys end to end: a million keys are one allocation.
    keys: String,
    entries: Vec<Entry>,
    index: NameIndex,
}

#[derive(Clone, Debug)]
struct Entry {
    key_start: usize,
    value: Value,
}

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let i = self.position(key)?;
        self.entries.get(i as usize).map(|e| &e.value)
    }

    /// The number of the entry of `key`, in file order.
    pub(crate) fn position(&self, key: &str) -> Option<u32> {
        self.index.find(key, |i| self.key(i as usize))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().enumerate().map(|(i, e)| (self.key(i), &e.value))
    }

    fn key(&self, i: usize) -> &str {
        let start = self.entries.get(i).map_or(0, |e| e.key_start);
        let end = self.entries.get(i + 1).map_or(self.keys.len(), |e| e.key_start);
        self.keys.get(start..end).unwrap_or_default()
    }

    /// Reads `count` entries.  A first walk makes sure that they are all there; only then is room made for them, at once.
    pub(crate) fn read(c: &mut Cursor<'_>, count: u64) -> Result<Self, GgufError> {
        let too_many = |_| c.invalid(&"metadata count", 16, count, "fewer than 2^32");
        let n = u32::try_from(count).map_err(too_many)?;
        let start = *c;
        let (mut ahead, mut key_bytes) = (start, 0);
        for i in 0..n {
            key_bytes += skip_entry(&mut ahead, i)?;
        }
        let mut metadata =
            Metadata { keys: String::with_capacity(key_bytes), entries: Vec::with_capacity(n as usize), index: NameIndex::default() };
        for i in 0..n {
            let key = c.name(MAX_KEY_BYTES, &format_args!("metadata key {i}"))?;
            let value = read_value(c, key)?;
            metadata.entries.push(Entry { key_start: metadata.keys.len(), value });
            metadata.keys.push_str(key);
        }
        metadata.index = NameIndex::build(n, |i| metadata.key(i as usize)).map_err(|i| {
            let mut before = start;
            let offset = (0..i).try_for_each(|i| skip_entry(&mut before, i).map(drop)).map_or(0, |()| before.at());
            GgufError::DuplicateKey { file: c.file().clone(), key: quote(metadata.key(i as usize)), offset }
        })?;
        Ok(metadata)
    }
}

/// Type numbers of values.
pub(crate) mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// The least number of bytes that a value of a type takes: exact for numbers.
fn min_bytes(kind: u32) -> Option<u64> {
    Some(match kind {
        kind::U8 | kind::I8 | kind::BOOL => 1,
        kind::U16 | kind::I16 => 2,
        kind::U32 | kind::I32 | kind::F32 => 4,
        kind::U64 | kind::I64 | kind::F64 | kind::STRING => 8,
        kind::ARRAY => 12,
        _ => return None,
    })
}

/// A value type and its least size.
fn read_kind(c: &mut Cursor<'_>, field: &dyn Display) -> Result<(u32, u64), GgufError> {
    let offset = c.at();
    let kind = c.u32(field)?;
    match min_bytes(kind) {
        Some(bytes) => Ok((kind, bytes)),
        None => Err(c.invalid(field, offset, kind, "a value type from 0 to 12")),
    }
}

/// Walks over an entry without keeping anything; the bytes of its key.
pub(crate) fn skip_entry(c: &mut Cursor<'_>, i: u32) -> Result<usize, GgufError> {
    let key = c.name(MAX_KEY_BYTES, &format_args!("metadata key {i}"))?;
    skip_value(c, i)?;
    Ok(key.len())
}

/// Walks from the beginning of an entry that was read before to element `n` of its array.
pub(crate) fn skip_to_element(c: &mut Cursor<'_>, n: usize) -> Option<u64> {
    let field = "an array that was read";
    c.name(MAX_KEY_BYTES, &field).ok()?;
    if read_kind(c, &field).ok()?.0 != kind::ARRAY {
        return None;
    }
    let (kind, bytes) = read_kind(c, &field).ok()?;
    let before = u64::try_from(n).ok().filter(|n| *n < c.count(bytes, &field).unwrap_or(0))?;
    match kind {
        kind::STRING => (0..before).try_for_each(|_| c.text_bytes(&field).map(drop)).ok()?,
        kind::ARRAY => (0..before).try_for_each(|_| skip_array(c, &field, 2)).ok()?,
        _ => c.take(before * bytes, &field).map(drop).ok()?,
    }
    Some(c.at())
}

/// Walks over a value without keeping anything; checks what its size depends on.
fn skip_value(c: &mut Cursor<'_>, i: u32) -> Result<(), GgufError> {
    let field = format_args!("the value of metadata key {i}");
    let (kind, bytes) = read_kind(c, &format_args!("the type of metadata key {i}"))?;
    match kind {
        kind::STRING => c.text_bytes(&field).map(drop),
        kind::ARRAY => skip_array(c, &field, 1),
        _ => c.take(bytes, &field).map(drop),
    }
}

fn skip_array(c: &mut Cursor<'_>, field: &dyn Display, depth: u32) -> Result<(), GgufError> {
    if depth > MAX_ARRAY_DEPTH {
        let expected = format_args!("at most {MAX_ARRAY_DEPTH} levels").to_string();
        return Err(c.invalid(field, c.at(), "arrays nested deeper", expected));
    }
    let (kind, bytes) = read_kind(c, field)?;
    let count = c.count(bytes, field)?;
    match kind {
        kind::STRING => (0..count).try_for_each(|_| c.text_bytes(field).map(drop)),
        kind::ARRAY => (0..count).try_for_each(|_| skip_array(c, field, depth + 1)),
        _ => c.take(count * bytes, field).map(drop),
    }
}

fn read_value(c: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let field = Named(key);
    let (kind, _) = read_kind(c, &field)?;
    Ok(match kind {
        kind::U8 => Value::U8(u8::from_le_bytes(c.array(&field)?)),
        kind::I8 => Value::I8(i8::from_le_bytes(c.array(&field)?)),
        kind::U16 => Value::U16(u16::from_le_bytes(c.array(&field)?)),
        kind::I16 => Value::I16(i16::from_le_bytes(c.array(&field)?)),
        kind::U32 => Value::U32(u32::from_le_bytes(c.array(&field)?)),
        kind::I32 => Value::I32(i32::from_le_bytes(c.array(&field)?)),
        kind::U64 => Value::U64(u64::from_le_bytes(c.array(&field)?)),
        kind::I64 => Value::I64(i64::from_le_bytes(c.array(&field)?)),
        kind::F32 => Value::F32(f32::from_le_bytes(c.array(&field)?)),
        kind::F64 => Value::F64(f64::from_le_bytes(c.array(&field)?)),
        kind::BOOL => {
            let offset = c.at();
            let [byte] = c.array(&field)?;
            Value::Bool(to_bool(c, &field, offset, byte)?)
        }
        kind::STRING => Value::String(c.text(&field)?.into()),
        _ => Value::Array(Box::new(read_array(c, &field, 1)?)),
    })
}

fn to_bool(c: &Cursor<'_>, field: &dyn Display, offset: u64, byte: u8) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(c.invalid(field, offset, byte, "a bool: 0 or 1")),
    }
}

fn read_array(c: &mut Cursor<'_>, field: &dyn Display, depth: u32) -> Result<Array, GgufError> {
    fn numbers<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Box<[T]> {
        bytes.as_chunks::<N>().0.iter().map(|b| convert(*b)).collect()
    }
    if depth > MAX_ARRAY_DEPTH {
        let expected = format_args!("at most {MAX_ARRAY_DEPTH} levels").to_string();
        return Err(c.invalid(field, c.at(), "arrays nested deeper", expected));
    }
    let (kind, bytes) = read_kind(c, field)?;
    let count = c.count(bytes, field)?;
    if kind == kind::STRING {
        return Ok(Array::String(read_strings(c, count, field)?));
    }
    if kind == kind::ARRAY {
        let mut arrays = Vec::with_capacity(count as usize);
        for _ in 0..count {
            arrays.push(read_array(c, field, depth + 1)?);
        }
        return Ok(Array::Array(arrays.into()));
    }
    let offset = c.at();
    let data = c.take(count * bytes, field)?;
    Ok(match kind {
        kind::U8 => Array::U8(data.into()),
        kind::I8 => Array::I8(numbers(data, i8::from_le_bytes)),
        kind::U16 => Array::U16(numbers(data, u16::from_le_bytes)),
        kind::I16 => Array::I16(numbers(data, i16::from_le_bytes)),
        kind::U32 => Array::U32(numbers(data, u32::from_le_bytes)),
        kind::I32 => Array::I32(numbers(data, i32::from_le_bytes)),
        kind::U64 => Array::U64(numbers(data, u64::from_le_bytes)),
        kind::I64 => Array::I64(numbers(data, i64::from_le_bytes)),
        kind::F32 => Array::F32(numbers(data, f32::from_le_bytes)),
        kind::F64 => Array::F64(numbers(data, f64::from_le_bytes)),
        _ => {
            for (i, byte) in data.iter().enumerate() {
                to_bool(c, field, offset + i as u64, *byte)?;
            }
            Array::Bool(data.iter().map(|b| *b == 1).collect())
        }
    })
}

/// Reads strings twice: once to know their total length, once to copy them.
fn read_strings(c: &mut Cursor<'_>, count: u64, field: &dyn Display) -> Result<StringArray, GgufError> {
    let mut ahead = *c;
    let mut total = 0;
    for _ in 0..count {
        total += ahead.text_bytes(field)?.len();
    }
    let (mut text, mut ends) = (String::with_capacity(total), Vec::with_capacity(count as usize));
    for i in 0..count {
        text.push_str(c.text(&format_args!("string {i} of {field}"))?);
        ends.push(text.len());
    }
    Ok(StringArray::from_parts(text, ends))
}

/// A metadata key in messages.
struct Named<'a>(&'a str);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "metadata key {}", quote(self.0))
    }
}
