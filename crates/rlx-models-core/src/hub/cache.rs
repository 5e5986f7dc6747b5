//! The cache: `models--org--repo/{refs, blobs, snapshots}`, laid out by hf-hub as huggingface_hub lays it out.
//!
//! Beside those, `listings/COMMIT.json` remembers which files a commit has, so that it is known without asking whether
//! all that belongs to a model is here.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::listing::{Listing, is_commit};
use super::{HubError, Spec};
use hf_hub::{Cache, Repo, RepoType};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest list of files.
pub(super) const MAX_LISTING_BYTES: u64 = 32 << 20;
/// Most folders of a snapshot that are looked into.
const MAX_FOLDERS: usize = 256;

/// The part of the cache that belongs to one repository at one revision.
pub(super) struct RepoCache {
    cache: Cache,
    repo: Repo,
}

pub(super) fn io(file: &Path) -> impl FnOnce(io::Error) -> HubError {
    let file = file.to_owned();
    |source| HubError::Io { file, source }
}

/// Makes the directory of `file`.
pub(super) fn make_parent(file: &Path) -> Result<(), HubError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io(folder))
}

impl RepoCache {
    pub fn new(dir: &Path, spec: &Spec) -> RepoCache {
        let repo = Repo::with_revision(spec.repo.clone(), RepoType::Model, spec.revision.clone());
        RepoCache { cache: Cache::new(dir.to_owned()), repo }
    }

    fn dir(&self) -> PathBuf {
        self.cache.path().join(self.repo.folder_name())
    }

    /// The commit that the revision was when it was last asked for; a commit is itself.
    pub fn commit(&self) -> Option<String> {
        let revision = self.repo.revision();
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let bytes = crate::weights::read_small(&self.dir().join("refs").join(revision), 256).ok()?;
        Some(String::from_utf8(bytes).ok()?.trim().to_owned()).filter(|c| is_commit(c))
    }

    /// Where a file of a commit is, whether or not it is there.
    fn place(&self, commit: &str, name: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).pointer_path(commit).join(name)
    }

    /// A file of a commit, if it is there.
    pub fn find(&self, commit: &str, name: &str) -> Option<PathBuf> {
        Some(self.place(commit, name)).filter(|p| p.is_file())
    }

    /// Where the content with this tag is.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(etag)
    }

    fn listing_file(&self, commit: &str) -> PathBuf {
        self.dir().join("listings").join(format!("{commit}.json"))
    }

    /// The files of a commit as the hub told them before.
    pub fn listing(&self, commit: &str) -> Option<Listing> {
        let file = self.listing_file(commit);
        let bytes = crate::weights::read_small(&file, MAX_LISTING_BYTES).ok()?;
        Listing::parse(&bytes, &file.display().to_string()).ok().filter(|l| l.sha == commit)
    }

    /// The files of a commit that are here, for a cache that another program filled.
    pub fn present(&self, commit: &str) -> Result<Listing, HubError> {
        let mut names = Vec::new();
        let mut folders = vec![(self.place(commit, ""), String::new())];
        let mut looked = 0;
        while let Some((folder, prefix)) = folders.pop().filter(|_| looked < MAX_FOLDERS) {
            looked += 1;
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten().take(4096) {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = entry.path();
                if path.is_file() {
                    names.push(format!("{prefix}{name}"));
                } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    folders.push((path, format!("{prefix}{name}/")));
                }
            }
        }
        Listing::of_names(commit, names)
    }

    /// Remembers the files of a commit, and that the revision is this commit.
    pub fn remember(&self, listing: &Listing) -> Result<(), HubError> {
        let file = self.listing_file(&listing.sha);
        make_parent(&file)?;
        let text = serde_json::to_vec(listing).map_err(|e| HubError::Io { file: file.clone(), source: e.into() })?;
        // Another program may be reading it, or writing it too.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let new = file.with_extension(format!("{}-{}.new", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &file)).map_err(io(&file))?;
        if !is_commit(self.repo.revision()) {
            let refs = self.dir().join("refs").join(self.repo.revision());
            self.cache.repo(self.repo.clone()).create_ref(&listing.sha).map_err(io(&refs))?;
        }
        Ok(())
    }

    /// Held while content is downloaded, so that two programs do not write one file.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.cache.path().join(".locks").join(self.repo.folder_name()).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(io(&path))?;
        file.lock().map_err(io(&path))?;
        Ok(file)
    }

    /// Makes the file `name` of a commit lead to its content.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<PathBuf, HubError> {
        let (place, blob) = (self.place(commit, name), self.blob(etag));
        make_parent(&place)?;
        if place.is_symlink() || place.exists() {
            fs::remove_file(&place).map_err(io(&place))?;
        }
        let up = name.split('/').count() + 1;
        let target: PathBuf = std::iter::repeat_n("..", up).collect::<PathBuf>().join("blobs").join(etag);
        if symlink(&target, &place).is_err() {
            // File systems without links hold the content at the place itself.
            fs::rename(&blob, &place).map_err(io(&place))?;
        }
        Ok(place)
    }
}

#[cfg(unix)]
fn symlink(target: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(windows)]
fn symlink(target: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, at)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
