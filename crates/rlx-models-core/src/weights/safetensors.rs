//! The header of a safetensors file: 8 bytes of length, a JSON object, then the data.
//!
//! Stricter than the format's reference in two points that make names unambiguous: no duplicate keys, and names are
//! not empty, have no NUL and at most [`MAX_NAME_BYTES`] bytes.  As there, tensors must cover the data without gap or
//! overlap and end with the file, so that nothing can hide behind them.
//!
//! The header is walked twice where it lies in the map, once to count and once to fill, so that memory stays
//! proportional to it.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{StoredType, TensorMeta, WeightsError};
use crate::config::members_called;
use rlx_ir::DType;
use safetensors::Dtype;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Largest header, as in the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Longest tensor name.
pub const MAX_NAME_BYTES: usize = 4096;
/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 16;

/// Parses and validates the header of a file of `file_bytes` bytes, which begins with `bytes`: all of it, or at least
/// the header.  The result is sorted by name.
pub(crate) fn parse(bytes: &[u8], file_bytes: u64, path: &Path, file: u32) -> Result<Vec<TensorMeta>, WeightsError> {
    let bad = |field, offset, found: String, expected: String| WeightsError::Header { file: path.into(), field, offset, found, expected };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad("header length", 0, format!("a file of {} bytes", bytes.len()), "at least 8 bytes".into()));
    };
    let n = u64::from_le_bytes(*length);
    if n > MAX_HEADER_BYTES || n > rest.len() as u64 {
        let limit = MAX_HEADER_BYTES.min(rest.len() as u64);
        return Err(bad("header length", 0, n.to_string(), format!("at most {limit}; is this a safetensors file?")));
    }
    let header = rest.get(..n as usize).unwrap_or(rest);
    if header.first() != Some(&b'{') {
        let found = header.first().map_or("nothing".into(), |b| format!("byte {b:#04x}"));
        return Err(bad("header", 8, found, "`{`".into()));
    }
    let text = std::str::from_utf8(header)
        .map_err(|e| bad("header", 8 + e.valid_up_to() as u64, "bytes that are not UTF-8".into(), "UTF-8".into()))?;
    let json = |e: serde_json::Error| bad("header", 8 + position(text, &e), e.to_string(), "a JSON object of tensors".into());
    let mut count = 0;
    walk(text, Count(&mut count)).map_err(json)?;
    let mut tensors = Vec::with_capacity(count);
    walk(text, Fill { tensors: &mut tensors, file }).map_err(json)?;
    let data_at = 8 + n;
    let data_bytes = file_bytes.max(bytes.len() as u64) - data_at;
    tensors.sort_unstable_by_key(|t| (t.offset, t.bytes));
    let mut end = 0u64;
    for t in &mut tensors {
        let here = &*t;
        let entry = |field, found: String, expected: String| WeightsError::Entry {
            file: path.into(),
            tensor: here.name.clone(),
            field,
            offset: 8 + place(text, here, field),
            found,
            expected: expected.into(),
        };
        // `bytes` holds the end of the range until here.
        let (begin, stop) = (t.offset, t.bytes);
        if begin > stop || stop > data_bytes {
            return Err(entry(
                "data_offsets",
                format!("[{begin}, {stop}]"),
                format!("an ascending range within the {data_bytes} bytes of data"),
            ));
        }
        if begin != end {
            let what = if begin < end { "overlaps the tensor before it" } else { "leaves a gap" };
            return Err(entry("data_offsets", format!("[{begin}, {stop}], which {what}"), format!("to start at {end}")));
        }
        match needed_bytes(&t.stored, &t.shape) {
            Some(needed) if needed == stop - begin => {}
            Some(needed) => {
                let found = format!("[{begin}, {stop}] ({} bytes)", stop - begin);
                return Err(entry("data_offsets", found, format!("{needed} bytes for {} of shape {:?}", t.stored, t.shape)));
            }
            None => return Err(entry("shape", format!("{:?} of {}", t.shape, t.stored), "a whole number of bytes below 2^63".into())),
        }
        end = stop;
        (t.offset, t.bytes) = (data_at + begin, stop - begin);
    }
    if end != data_bytes {
        let expected = format!("the file to end at byte {}, with its last tensor", data_at + end);
        return Err(bad("data", data_at + end, format!("{} more bytes", data_bytes - end), expected));
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            return Err(WeightsError::Duplicate { file: path.into(), tensor: a.name.clone(), offset: b.offset, other: path.into() });
        }
    }
    Ok(tensors)
}

fn walk<'a, V: Visitor<'a, Value = ()>>(text: &'a str, visitor: V) -> Result<(), serde_json::Error> {
    let mut d = serde_json::Deserializer::from_str(text);
    d.deserialize_map(visitor)?;
    d.end()
}

/// Where a field of the entry of a tensor begins, whose range is not yet one of the file; looked for when it is reported.
fn place(text: &str, t: &TensorMeta, field: &str) -> u64 {
    let mut found = None;
    members_called(text, &t.name, &mut |entry| {
        // One of two entries with one name is told by its range.
        let its = serde_json::from_str(entry).is_ok_and(|e: Entry| e.data_offsets == (t.offset, t.bytes));
        if found.is_none() && its {
            members_called(entry, field, &mut |value| found = Some(value));
        }
    });
    found.map_or(0, |value| begin(text, value))
}

/// The byte at which `part`, a piece of `text`, begins in it.
pub(super) fn begin(text: &str, part: &str) -> u64 {
    (part.as_ptr() as u64).wrapping_sub(text.as_ptr() as u64)
}

/// Byte position of a JSON error.
pub(crate) fn position(text: &str, e: &serde_json::Error) -> u64 {
    let line: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
    (line + e.column().saturating_sub(1)) as u64
}

fn needed_bytes(ty: &StoredType, shape: &[usize]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64))?;
    let bits = elements.checked_mul(ty.bits()? as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8).filter(|b| i64::try_from(*b).is_ok())
}

/// The type as the rest of the program knows it, if it does.
fn stored_type(ty: Dtype) -> StoredType {
    StoredType::Known(match ty {
        Dtype::BOOL => DType::Bool,
        Dtype::U8 => DType::U8,
        Dtype::I8 => DType::I8,
        Dtype::F8_E5M2 => DType::F8E5M2,
        Dtype::F8_E4M3 => DType::F8E4M3,
        Dtype::I16 => DType::I16,
        Dtype::U16 => DType::U16,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64,
        Dtype::U64 => DType::U64,
        other => return StoredType::Safetensors(other),
    })
}

/// Counts the entries; values are skipped without recursion.
struct Count<'c>(&'c mut usize);

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            *self.0 += 1;
        }
        Ok(())
    }
}

struct Fill<'c> {
    tensors: &'c mut Vec<TensorMeta>,
    file: u32,
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut metadata = false;
        while let Some(name) = map.next_key_seed(Text)? {
            if name == "__metadata__" {
                if std::mem::replace(&mut metadata, true) {
                    return Err(A::Error::custom("__metadata__ occurs twice"));
                }
                map.next_value_seed(Strings)?;
                continue;
            }
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
                let found = crate::message::quote(&name);
                return Err(A::Error::custom(format_args!("tensor name {found}; expected 1 to {MAX_NAME_BYTES} bytes without NUL")));
            }
            let Entry { dtype, shape: Dims(shape), data_offsets: (begin, end) } =
                map.next_value().map_err(|e: A::Error| A::Error::custom(format_args!("tensor {}: {e}", crate::message::quote(&name))))?;
            self.tensors.push(TensorMeta {
                name: name.into_owned(),
                stored: stored_type(dtype),
                shape,
                file: self.file,
                offset: begin,
                bytes: end,
            });
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Dims,
    data_offsets: (u64, u64),
}

/// A shape of at most [`MAX_DIMS`] dimensions, allocated exactly.
struct Dims(Vec<usize>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Dims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_DIMS} dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
                let (mut dims, mut n) = ([0usize; MAX_DIMS], 0);
                while let Some(d) = seq.next_element::<usize>()? {
                    *dims.get_mut(n).ok_or_else(|| A::Error::custom(format_args!("more than {MAX_DIMS} dimensions")))? = d;
                    n += 1;
                }
                Ok(Dims(dims.get(..n).unwrap_or_default().to_vec()))
            }
        }
        d.deserialize_seq(V)
    }
}

/// A string, borrowed where it has no escapes.
pub(super) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E: de::Error>(self, s: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(s))
    }
    fn visit_str<E: de::Error>(self, s: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(s.to_owned()))
    }
}

/// `__metadata__`: an object of strings, checked and passed over; MLX writes null when there are none.
struct Strings;

impl<'de> DeserializeSeed<'de> for Strings {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strings {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("__metadata__ to be an object of strings")
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Text)?.is_some() {
            map.next_value_seed(Text)?;
        }
        Ok(())
    }
}
