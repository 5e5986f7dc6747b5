//! Packed weights in a file beside a checkpoint, so that the next start uses them where they lie.
//!
//! The file begins with lines of text: what it is, of which layout, made of which files, and each weight with its type,
//! its groups and its place.  Every line follows from the model and the checkpoint.  So nothing of a file that is found
//! is parsed: it is used when it begins with the lines that this program would write, byte for byte, and has the length
//! that follows from them.  What else is found is told, and the file is written anew.
//!
//! What is not judged is the packed bytes themselves: whatever they are, they are numbers to the kernels, as those of
//! the weights file are.  A file is complete before it has its name, and a new one takes the name without touching the
//! old one, which programs that have it mapped keep.  Nobody may write into such a file or make it shorter while it is
//! in use, as with every memory map.

use crate::matmul::{LAYOUT_VERSION, Matmul};
use crate::simd::Level;
use memmap2::{Mmap, MmapOptions};
use rlx_compile::backend::PackedCache;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Weights begin at multiples of this: a page, so that threads that write do not share any.
const ALIGN: u64 = 4096;

/// What a broken write left behind is removed at this age.  Nobody writes for so long without a pause.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// Files that this program has begun.
static PARTIALS: AtomicUsize = AtomicUsize::new(0);

/// Bytes of a line that messages show.
const SHOWN: usize = 80;

/// A weight to keep.
pub(crate) struct Entry {
    /// Its number among the parameters.
    pub param: usize,
    /// Name and type.
    pub what: String,
    /// So many matrices of this shape.
    pub count: usize,
    pub each: Matmul,
}

/// What a file consists of.
pub(crate) struct Table {
    pub path: PathBuf,
    pub entries: Vec<Entry>,
    header: String,
    /// Where each entry begins.
    places: Vec<u64>,
    /// Length of the file.
    bytes: u64,
}

impl Table {
    pub fn new(cache: &PackedCache, level: Level, entries: Vec<Entry>) -> Table {
        let mut header = format!("rlx packed weights\nrlx-cpu {}, layout {LAYOUT_VERSION}, {level}\n", env!("CARGO_PKG_VERSION"));
        for line in &cache.source {
            header += &format!("of {line}\n");
        }
        let mut offsets = Vec::with_capacity(entries.len());
        let mut end = 0u64;
        for Entry { what, count, each, .. } in &entries {
            let (groups, size) = (count * each.n_groups(), each.group_bytes());
            header += &format!("weight {what}: {groups} groups of {size} bytes, {end} bytes behind this text\n");
            offsets.push(end);
            end = (end + (groups * size) as u64).next_multiple_of(ALIGN);
        }
        header += "end\n";
        let start = (header.len() as u64).next_multiple_of(ALIGN);
        let places = offsets.into_iter().map(|at| start + at).collect();
        let mut name = cache.beside.clone().into_os_string();
        name.push(format!(".rlx-packed-{level}"));
        Table { path: name.into(), entries, header, places, bytes: start + end }
    }

    /// Where in the file parameter number `param` is.
    pub fn place(&self, param: usize) -> Option<usize> {
        let i = self.entries.iter().position(|e| e.param == param)?;
        usize::try_from(self.places[i]).ok()
    }

    /// The file, mapped; `None` where there is none.
    ///
    /// # Errors
    /// Why the file that is there is of no use.
    pub fn open(&self) -> Result<Option<Mmap>, String> {
        // Opening a FIFO would wait for its writer, so the kind is looked at first, and again on what was opened.
        match fs::metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("cannot be read: {e}")),
            Ok(m) if !m.is_file() => return Err("is no regular file".into()),
            Ok(_) => {}
        }
        let file = File::open(&self.path).map_err(|e| format!("cannot be read: {e}"))?;
        self.map(&file).map(Some)
    }

    fn map(&self, file: &File) -> Result<Mmap, String> {
        let metadata = file.metadata().map_err(|e| format!("cannot be read: {e}"))?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err("is empty, or no regular file".into());
        }
        // A file that is longer than it should be may be longer than what can be mapped.
        let len = usize::try_from(metadata.len().min(self.bytes)).map_err(|e| format!("cannot be mapped: {e}"))?;
        // SAFETY: the map is read-only. That others change or shorten the file meanwhile cannot be excluded; the
        // documentation of this module says what is expected of them.
        let map = unsafe { MmapOptions::new().len(len).map(file) }.map_err(|e| format!("cannot be mapped: {e}"))?;
        self.check(&map, metadata.len())?;
        Ok(map)
    }

    /// Whether this is the file that would be written: what it begins with, and its length.
    fn check(&self, found: &[u8], len: u64) -> Result<(), String> {
        let expected = self.header.as_bytes();
        let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
        if same < expected.len() && same < found.len() {
            let start = self.header[..same].rfind('\n').map_or(0, |at| at + 1);
            let what = match self.header[..start].lines().count() {
                0 => "is no file of packed weights",
                1 => "is of another version or instruction set",
                _ if self.header[start..].starts_with("of ") => "is of other weights",
                _ => "has other weights in it",
            };
            let (found, expected) = (line(&found[start..]), line(&expected[start..]));
            return Err(format!("{what}: found {found} at byte {start}, expected {expected}"));
        }
        if len != self.bytes {
            return Err(format!("has {len} bytes, expected {}", self.bytes));
        }
        Ok(())
    }

    /// Begins to write the file anew, under another name.
    pub fn create(&self) -> io::Result<Partial<'_>> {
        self.remove_abandoned();
        let n = PARTIALS.fetch_add(1, Ordering::Relaxed);
        let path = self.beside(&format!(".partial-{}-{n}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let partial = Partial { table: self, file: Mutex::new(file), path };
        partial.write(0, self.header.as_bytes())?;
        Ok(partial)
    }

    /// The name of the file with more behind it.
    fn beside(&self, more: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(more);
        name.into()
    }

    /// Removes what programs left behind that were ended while they wrote.  Nothing depends on it.
    fn remove_abandoned(&self) {
        let (Some(dir), Some(name)) = (self.path.parent(), self.beside(".partial-").file_name().map(ToOwned::to_owned)) else { return };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_ours = entry.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes());
            let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
            if is_ours && age().is_some_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The line that `bytes` begin with, for messages.
fn line(bytes: &[u8]) -> String {
    let end = bytes.iter().take(SHOWN).position(|b| *b == b'\n').unwrap_or(bytes.len().min(SHOWN));
    format!("{:?}", String::from_utf8_lossy(&bytes[..end]))
}

/// A file that is being written.  It is gone when this is dropped unfinished.
pub(crate) struct Partial<'t> {
    table: &'t Table,
    file: Mutex<File>,
    path: PathBuf,
}

impl Partial<'_> {
    /// Writes a part.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    /// Where entry number `i` begins.
    pub fn place(&self, i: usize) -> u64 {
        self.table.places[i]
    }

    /// Gives the file its name once it is safe on its disk, and maps it.
    pub fn finish(self) -> io::Result<Mmap> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The last weight may end before its last page does.
        file.set_len(self.table.bytes)?;
        file.sync_all()?;
        let map = self.table.map(&file).map_err(io::Error::other)?;
        fs::rename(&self.path, &self.table.path)?;
        Ok(map)
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}
