//! Writing GGUF files, version 3.
//!
//! Metadata and tensors are collected and then written in the order in which they were added.  Tensor data may be
//! borrowed, or be [declared](GgufWriter::declare) and [streamed](GgufWriter::stream), so that files larger than memory
//! can be made.  What is written opens again: names, shapes, sizes and duplicates are checked when they are added.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::error::{GgufError, quote};
use crate::header::{ALIGNMENTS, DEFAULT_ALIGNMENT, MAX_DIMS, MAX_TENSOR_NAME_BYTES};
use crate::metadata::{MAX_ARRAY_DEPTH, MAX_KEY_BYTES, kind};
use crate::tensor::{TensorType, size};
use crate::value::{Array, FromValue, Value};
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Write};

/// A GGUF file to be written.
#[derive(Debug)]
pub struct GgufWriter<'a> {
    alignment: u64,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor<'a>>,
    keys: HashSet<String>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    /// ggml's number of the type.
    ty: u32,
    shape: Vec<u64>,
    bytes: u64,
    /// `None` when it is streamed.
    data: Option<Cow<'a, [u8]>>,
}

impl Default for GgufWriter<'_> {
    fn default() -> Self {
        Self::new()
    }
}

fn unwritable(field: impl ToString, found: impl ToString, expected: impl ToString) -> GgufError {
    let (field, found, expected) = (field.to_string(), found.to_string(), expected.to_string());
    GgufError::Unwritable { field, found, expected }
}

fn check_name(name: &str, longest: usize, field: &str) -> Result<(), GgufError> {
    if name.is_empty() || name.len() > longest || name.contains('\0') {
        return Err(unwritable(field, quote(name), format_args!("1 to {longest} bytes without NUL")));
    }
    Ok(())
}

fn depth(array: &Array) -> u32 {
    match array {
        Array::Array(a) => 1 + a.iter().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

impl<'a> GgufWriter<'a> {
    /// An empty file with the default alignment of 32 bytes.
    pub fn new() -> Self {
        Self { alignment: DEFAULT_ALIGNMENT, metadata: Vec::new(), tensors: Vec::new(), keys: HashSet::new(), names: HashSet::new() }
    }

    /// Adds a metadata entry.  `general.alignment` also sets the alignment of the tensors.
    ///
    /// # Errors
    /// [`GgufError::Unwritable`] for empty, long or repeated keys, a bad alignment and arrays nested too deep.
    pub fn put(&mut self, key: &str, value: impl Into<Value>) -> Result<&mut Self, GgufError> {
        let value = value.into();
        check_name(key, MAX_KEY_BYTES, "a metadata key")?;
        if key == "general.alignment" {
            let alignment = u32::from_value(&value).map(u64::from);
            self.alignment = alignment
                .filter(|a| a.is_power_of_two() && ALIGNMENTS.contains(a))
                .ok_or_else(|| unwritable(key, value.type_name(), "a power of two from 8 to 1048576"))?;
        }
        if let Value::Array(array) = &value
            && depth(array) > MAX_ARRAY_DEPTH
        {
            let expected = format_args!("at most {MAX_ARRAY_DEPTH} levels of arrays").to_string();
            return Err(unwritable(quote(key), depth(array), expected));
        }
        if !self.keys.insert(key.into()) {
            return Err(unwritable("a metadata key", quote(key), "a key that was not yet added"));
        }
        self.metadata.push((key.into(), value));
        Ok(self)
    }

    /// Adds a tensor: `shape` outermost dimension first, `data` in the layout of `ty`.
    ///
    /// # Errors
    /// [`GgufError::Unwritable`] when the name is empty, long or repeated, when a dimension is 0, when rows are not
    /// whole blocks, when ggml does not have the type, or when `data` is not as long as type and shape require.
    pub fn tensor(&mut self, name: &str, ty: TensorType, shape: &[u64], data: impl Into<Cow<'a, [u8]>>) -> Result<&mut Self, GgufError> {
        let data = data.into();
        let bytes = data.len() as u64;
        self.add(name, ty, shape, Some(bytes), Some(data))
    }

    /// Adds a tensor whose data is [streamed](Self::stream); the others are as for [`tensor`](Self::tensor).
    ///
    /// # Errors
    /// As `tensor`, and for types of unknown size.
    pub fn declare(&mut self, name: &str, ty: TensorType, shape: &[u64]) -> Result<&mut Self, GgufError> {
        self.add(name, ty, shape, None, None)
    }

    /// `found` are the bytes there are, when they are there.
    fn add(
        &mut self,
        name: &str,
        ty: TensorType,
        shape: &[u64],
        found: Option<u64>,
        data: Option<Cow<'a, [u8]>>,
    ) -> Result<&mut Self, GgufError> {
        check_name(name, MAX_TENSOR_NAME_BYTES, "a tensor name")?;
        let field = format_args!("tensor {}", quote(name)).to_string();
        let Some(number) = ty.ggml_type() else {
            return Err(unwritable(field, format_args!("{ty}, which GGUF files cannot hold"), TensorType::readable()));
        };
        if shape.len() > MAX_DIMS as usize || shape.contains(&0) {
            let expected = format_args!("at most {MAX_DIMS} dimensions, none of them 0").to_string();
            return Err(unwritable(field, format_args!("shape {shape:?}"), expected));
        }
        let Ok((_, bytes)) = size(ty, shape) else {
            let found = format_args!("{ty} of shape {shape:?}").to_string();
            return Err(unwritable(field, found, "whole blocks and fewer than 2^63 bytes"));
        };
        let Some(expected) = bytes.or(found.map(|n| n.max(1))) else {
            return Err(unwritable(field, ty, "a type whose size is known"));
        };
        if let Some(found) = found.filter(|n| *n != expected) {
            let expected = format_args!("{expected} for {ty} of shape {shape:?}").to_string();
            return Err(unwritable(field, format_args!("{found} bytes"), expected));
        }
        if !self.names.insert(name.into()) {
            return Err(unwritable("a tensor name", quote(name), "a name that was not yet added"));
        }
        self.tensors.push(Tensor { name: name.into(), ty: number, shape: shape.to_vec(), bytes: expected, data });
        Ok(self)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of `out`, and tensors that were declared without data.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut stream = self.stream(out)?;
        for t in &self.tensors {
            let missing = || io::Error::other(format!("tensor {} has no data: it was declared, to be streamed", quote(&t.name)));
            stream.write_all(t.data.as_ref().ok_or_else(missing)?)?;
        }
        stream.finish()
    }

    /// Writes the header.  The data of all tensors, end to end in the order in which they were added, goes into what
    /// is returned; it adds the padding between them.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn stream<W: Write>(&self, mut out: W) -> io::Result<GgufStream<W>> {
        let header = self.header();
        out.write_all(&header)?;
        pad(&mut out, self.alignment, header.len() as u64)?;
        let mut stream = GgufStream {
            out,
            alignment: self.alignment,
            bytes: self.tensors.iter().map(|t| t.bytes).collect::<Vec<_>>().into_iter(),
            current: None,
            left: 0,
        };
        stream.next()?;
        Ok(stream)
    }

    /// The file as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = self.write_to(&mut out);
        out
    }

    fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            put_text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.ty.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += t.bytes.next_multiple_of(self.alignment);
        }
        out
    }
}

/// The data part of a file whose header is written.
#[derive(Debug)]
pub struct GgufStream<W> {
    out: W,
    alignment: u64,
    /// Bytes of the tensors not yet begun.
    bytes: std::vec::IntoIter<u64>,
    /// Bytes of the tensor being written.
    current: Option<u64>,
    /// Bytes of it that are still to come.
    left: u64,
}

impl<W: Write> GgufStream<W> {
    /// Pads what is complete and begins the next tensor that has data.
    fn next(&mut self) -> io::Result<()> {
        while self.left == 0 {
            if let Some(written) = self.current {
                pad(&mut self.out, self.alignment, written)?;
            }
            self.current = self.bytes.next();
            match self.current {
                Some(bytes) => self.left = bytes,
                None => break,
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Those of the output, and data that is missing.
    pub fn finish(mut self) -> io::Result<()> {
        if self.current.is_some() {
            return Err(io::Error::other(format!("the data of {} tensors is missing", self.bytes.len() + 1)));
        }
        self.out.flush()
    }
}

impl<W: Write> Write for GgufStream<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if n == 0 && !data.is_empty() {
            return Err(io::Error::other("more data than the tensors have"));
        }
        self.out.write_all(data.get(..n).unwrap_or_default())?;
        self.left -= n as u64;
        self.next()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Fills up to the alignment after `written` bytes.
fn pad(out: &mut impl Write, alignment: u64, written: u64) -> io::Result<()> {
    let missing = written.next_multiple_of(alignment) - written;
    io::copy(&mut io::Read::take(io::repeat(0), missing), out).map(|_| ())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => put(kind::U8, &v.to_le_bytes()),
        Value::I8(v) => put(kind::I8, &v.to_le_bytes()),
        Value::U16(v) => put(kind::U16, &v.to_le_bytes()),
        Value::I16(v) => put(kind::I16, &v.to_le_bytes()),
        Value::U32(v) => put(kind::U32, &v.to_le_bytes()),
        Value::I32(v) => put(kind::I32, &v.to_le_bytes()),
        Value::U64(v) => put(kind::U64, &v.to_le_bytes()),
        Value::I64(v) => put(kind::I64, &v.to_le_bytes()),
        Value::F32(v) => put(kind::F32, &v.to_le_bytes()),
        Value::F64(v) => put(kind::F64, &v.to_le_bytes()),
        Value::Bool(v) => put(kind::BOOL, &[u8::from(*v)]),
        Value::String(v) => {
            put(kind::STRING, &[]);
            put_text(out, v);
        }
        Value::Array(a) => {
            put(kind::ARRAY, &[]);
            put_array(out, a);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn head(out: &mut Vec<u8>, kind: u32, n: usize) {
        out.extend(kind.to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    }
    fn numbers<T: Copy, const N: usize>(out: &mut Vec<u8>, kind: u32, a: &[T], f: impl Fn(T) -> [u8; N]) {
        head(out, kind, a.len());
        a.iter().for_each(|v| out.extend(f(*v)));
    }
    match array {
        Array::U8(a) => numbers(out, kind::U8, a, u8::to_le_bytes),
        Array::I8(a) => numbers(out, kind::I8, a, i8::to_le_bytes),
        Array::U16(a) => numbers(out, kind::U16, a, u16::to_le_bytes),
        Array::I16(a) => numbers(out, kind::I16, a, i16::to_le_bytes),
        Array::U32(a) => numbers(out, kind::U32, a, u32::to_le_bytes),
        Array::I32(a) => numbers(out, kind::I32, a, i32::to_le_bytes),
        Array::U64(a) => numbers(out, kind::U64, a, u64::to_le_bytes),
        Array::I64(a) => numbers(out, kind::I64, a, i64::to_le_bytes),
        Array::F32(a) => numbers(out, kind::F32, a, f32::to_le_bytes),
        Array::F64(a) => numbers(out, kind::F64, a, f64::to_le_bytes),
        Array::Bool(a) => numbers(out, kind::BOOL, a, |v| [u8::from(v)]),
        Array::String(a) => {
            head(out, kind::STRING, a.len());
            a.iter().for_each(|s| put_text(out, s));
        }
        Array::Array(a) => {
            head(out, kind::ARRAY, a.len());
            a.iter().for_each(|a| put_array(out, a));
        }
    }
}
