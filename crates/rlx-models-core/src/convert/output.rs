//! Destinations that appear under their name only when they are complete.

use super::ConvertError;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// A directory beside the destination that files are written into, then moved to their place.  Dropped before
/// [`commit`](Self::commit), it takes what was written with it.
#[derive(Debug)]
pub struct Output {
    /// Where the files go.
    directory: PathBuf,
    staging: PathBuf,
    files: Vec<String>,
    /// Files in the destination that what is written replaces, besides those of the same name.
    stale: fn(&str) -> bool,
    force: bool,
}

impl Output {
    /// Files for `directory`, which is made if need be.  With `force`, files there of the same names are replaced, and
    /// those that `stale` says yes to are removed.
    ///
    /// # Errors
    /// [`ConvertError::Io`] when the directory's parent cannot be written to.
    pub fn new(directory: &Path, force: bool, stale: fn(&str) -> bool) -> Result<Output, ConvertError> {
        let absolute = std::path::absolute(directory).map_err(|source| ConvertError::Io { path: directory.into(), source })?;
        let parent = if absolute.is_dir() { absolute.as_path() } else { absolute.parent().unwrap_or(&absolute) };
        fs::create_dir_all(parent).map_err(|source| ConvertError::Io { path: parent.into(), source })?;
        let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let staging = parent.join(format!(".{name}.{}.partial", std::process::id()));
        fs::create_dir(&staging).map_err(|source| ConvertError::Io { path: staging.clone(), source })?;
        Ok(Output { directory: absolute, staging, files: vec![], stale, force })
    }

    /// Begins the file of this name.
    ///
    /// # Errors
    /// [`ConvertError::Exists`] when the destination has one and may not be replaced; [`ConvertError::Io`].
    pub fn create(&mut self, name: &str) -> Result<BufWriter<File>, ConvertError> {
        let (path, staged) = (self.directory.join(name), self.staging.join(name));
        if !self.force && path.symlink_metadata().is_ok() {
            return Err(ConvertError::Exists { path });
        }
        let file = File::create_new(&staged).map_err(|source| ConvertError::Io { path: staged, source })?;
        self.files.push(name.into());
        Ok(BufWriter::with_capacity(1 << 20, file))
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConvertError> {
        let mut file = self.create(name)?;
        let io = |source| ConvertError::Io { path: self.directory.join(name), source };
        std::io::Write::write_all(&mut file, bytes).and_then(|()| std::io::Write::flush(&mut file)).map_err(io)
    }

    /// Where a file lies until it is committed.
    pub fn staged(&self, name: &str) -> PathBuf {
        self.staging.join(name)
    }

    /// The directory in which everything lies until it is committed.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Moves everything to its place; returns the paths.
    ///
    /// # Errors
    /// [`ConvertError::Io`].
    pub fn commit(mut self) -> Result<Vec<PathBuf>, ConvertError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| ConvertError::Io { path, source }
        };
        fs::create_dir_all(&self.directory).map_err(io(&self.directory))?;
        for entry in fs::read_dir(&self.directory).map_err(io(&self.directory))? {
            let entry = entry.map_err(io(&self.directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.force && (self.stale)(&name) && !self.files.contains(&name) {
                fs::remove_file(entry.path()).map_err(io(&entry.path()))?;
            }
        }
        let mut paths = vec![];
        for name in std::mem::take(&mut self.files) {
            let path = self.directory.join(&name);
            fs::rename(self.staging.join(&name), &path).map_err(io(&path))?;
            paths.push(path);
        }
        Ok(paths)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Nothing can be done about what cannot be removed.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn nothing_appears_before_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let mut o = Output::new(&to, false, |_| false).unwrap();
        o.write("a", b"1").unwrap();
        drop(o);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let mut o = Output::new(&to, false, |_| false).unwrap();
        o.write("a", b"1").unwrap();
        o.commit().unwrap();
        assert_eq!(fs::read(to.join("a")).unwrap(), b"1");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }

    #[test]
    fn replacing_needs_force_and_takes_what_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "old", "mine"] {
            fs::write(dir.path().join(name), b"0").unwrap();
        }
        let mut o = Output::new(dir.path(), false, |_| false).unwrap();
        assert!(matches!(o.write("a", b"1"), Err(ConvertError::Exists { .. })));
        drop(o);
        let mut o = Output::new(dir.path(), true, |n| n == "old" || n == "a").unwrap();
        o.write("a", b"1").unwrap();
        o.commit().unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["a", "mine"]);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"1");
    }
}
