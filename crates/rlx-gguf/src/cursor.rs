//! Checked reading of the primitive fields of a GGUF header.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::error::{GgufError, Origin, quote};
use std::fmt::Display;

/// A position in a file whose first bytes are at hand.  Every read names its field, so that every error can.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Length of the file, at least that of `bytes`.
    file_bytes: u64,
    file: &'a Origin,
}

impl<'a> Cursor<'a> {
    /// At the start of a file of which all bytes are there.
    pub fn new(bytes: &'a [u8], file: &'a Origin) -> Self {
        Self::of_prefix(bytes, bytes.len() as u64, file)
    }

    /// At the start of a file of `file_bytes`, of which the first are there.
    pub fn of_prefix(bytes: &'a [u8], file_bytes: u64, file: &'a Origin) -> Self {
        Self { bytes, at: 0, file_bytes: file_bytes.max(bytes.len() as u64), file }
    }

    /// The position, in bytes from the start of the file.
    pub fn at(&self) -> u64 {
        self.at as u64
    }

    /// Bytes from the position to the end of the file.
    pub fn remaining(&self) -> u64 {
        self.file_bytes.saturating_sub(self.at as u64)
    }

    pub fn file(&self) -> &'a Origin {
        self.file
    }

    /// An error about a field that starts at `offset`.
    pub fn invalid(&self, field: &dyn Display, offset: u64, found: impl Display, expected: impl Display) -> GgufError {
        GgufError::Invalid {
            file: self.file.clone(),
            field: field.to_string(),
            offset,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    pub fn take(&mut self, n: u64, field: &dyn Display) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        match end.and_then(|end| Some((self.bytes.get(self.at..end)?, end))) {
            Some((bytes, end)) => {
                self.at = end;
                Ok(bytes)
            }
            None if n <= self.remaining() => {
                Err(GgufError::Prefix { file: self.file.clone(), found: self.bytes.len() as u64, expected: self.at() + n })
            }
            None => Err(GgufError::Truncated {
                file: self.file.clone(),
                field: field.to_string(),
                offset: self.at(),
                expected: n,
                found: self.remaining(),
            }),
        }
    }

    pub fn array<const N: usize>(&mut self, field: &dyn Display) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, field)?);
        Ok(out)
    }

    pub fn u32(&mut self, field: &dyn Display) -> Result<u32, GgufError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, field: &dyn Display) -> Result<u64, GgufError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A count of items that take at least `item_bytes` each: refused when they cannot fit in the rest of the file.
    pub fn count(&mut self, item_bytes: u64, field: &dyn Display) -> Result<u64, GgufError> {
        let offset = self.at();
        let count = self.u64(field)?;
        let most = self.remaining() / item_bytes;
        if count > most {
            let expected = format_args!("at most {most}, as {} bytes are left", self.remaining()).to_string();
            return Err(self.invalid(field, offset, count, expected));
        }
        Ok(count)
    }

    /// Length-prefixed bytes.
    pub fn text_bytes(&mut self, field: &dyn Display) -> Result<&'a [u8], GgufError> {
        let n = self.u64(&format_args!("the length of {field}"))?;
        self.take(n, field)
    }

    /// Length-prefixed UTF-8.
    pub fn text(&mut self, field: &dyn Display) -> Result<&'a str, GgufError> {
        let bytes = self.text_bytes(field)?;
        let start = self.at() - bytes.len() as u64;
        std::str::from_utf8(bytes).map_err(|e| {
            let offset = start + e.valid_up_to() as u64;
            let found = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
            self.invalid(field, offset, format_args!("byte 0x{found:02X}"), "UTF-8")
        })
    }

    /// A key or tensor name: 1 to `longest` bytes of UTF-8 without NUL.
    pub fn name(&mut self, longest: usize, field: &dyn Display) -> Result<&'a str, GgufError> {
        let offset = self.at();
        let name = self.text(field)?;
        if name.is_empty() || name.len() > longest {
            let expected = format_args!("1 to {longest} bytes").to_string();
            return Err(self.invalid(field, offset, format_args!("a name of {} bytes", name.len()), expected));
        }
        if name.contains('\0') {
            return Err(self.invalid(field, offset, quote(name), "a name without NUL"));
        }
        Ok(name)
    }
}
