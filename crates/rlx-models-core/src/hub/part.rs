//! What has come of a file so far, and whether it is what was promised.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::HubError;
use super::cache::io;
use crate::message::quote;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What the hub says of a file.
pub(super) struct Described {
    /// The tag of its content, which names it in the cache: the hash of hubs that have one.
    pub etag: String,
    /// Its length.
    pub bytes: u64,
    /// The commit it is of.
    pub commit: String,
}

/// The hash that a tag is.
enum Sum {
    /// Of the content.
    Sha256(Sha256),
    /// Of the content as a git object.
    Git(Sha1),
    /// The tag is something else.
    Unknown,
}

impl Sum {
    fn of(file: &Described) -> Sum {
        let hex = file.etag.bytes().all(|b| b.is_ascii_hexdigit());
        match file.etag.len() {
            64 if hex => Sum::Sha256(Sha256::new()),
            40 if hex => Sum::Git(Sha1::new_with_prefix(format!("blob {}\0", file.bytes))),
            _ => Sum::Unknown,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha256(s) => s.update(bytes),
            Sum::Git(s) => s.update(bytes),
            Sum::Unknown => {}
        }
    }

    /// Its name and its digits.
    fn finish(self) -> Option<(&'static str, String)> {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        match self {
            Sum::Sha256(s) => Some(("SHA-256", hex(&s.finalize()))),
            Sum::Git(s) => Some(("git SHA-1", hex(&s.finalize()))),
            Sum::Unknown => None,
        }
    }
}

/// A file that is being downloaded.
pub(super) struct Part<'d> {
    pub path: PathBuf,
    /// How much of it is here.
    pub bytes: u64,
    file: File,
    described: &'d Described,
    sum: Sum,
}

impl<'d> Part<'d> {
    /// Goes on with the file at `path`, or begins it.
    pub fn open(path: PathBuf, described: &'d Described) -> Result<Part<'d>, HubError> {
        let file = File::options().create(true).append(true).read(true).open(&path).map_err(io(&path))?;
        let here = file.metadata().map_err(io(&path))?.len();
        let mut part = Part { path, bytes: 0, file, described, sum: Sum::of(described) };
        if here > described.bytes {
            part.restart()?;
            return Ok(part);
        }
        let mut buffer = vec![0; 256 << 10];
        loop {
            match part.file.read(&mut buffer).map_err(io(&part.path))? {
                0 => return Ok(part),
                n => {
                    part.sum.update(buffer.get(..n).unwrap_or_default());
                    part.bytes += n as u64;
                }
            }
        }
    }

    /// Begins again.
    pub fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(io(&self.path))?;
        (self.bytes, self.sum) = (0, Sum::of(self.described));
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(io(&self.path))?;
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Checks what came and gives it its place.
    pub fn finish(self, name: &str, blob: &Path) -> Result<(), HubError> {
        if let Some((field, found)) = self.sum.finish()
            && !found.eq_ignore_ascii_case(&self.described.etag)
        {
            fs::remove_file(&self.path).map_err(io(&self.path))?;
            return Err(HubError::Corrupt { file: quote(name), field, found, expected: self.described.etag.clone() });
        }
        self.file.sync_all().map_err(io(&self.path))?;
        fs::rename(&self.path, blob).map_err(io(&self.path))
    }
}
