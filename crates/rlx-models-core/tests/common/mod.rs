//! What the tests share: small files, the oracle's directory.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::Write;
use std::path::{Path, PathBuf};

/// A safetensors file from its header and data.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    safetensors_bytes(header.as_bytes(), data)
}

pub fn safetensors_bytes(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(data);
    file
}

/// A temporary directory with these files.
pub fn dir_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The committed copy of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The directory of the full set of reference fixtures, where the checkout has it beside it.
pub fn oracle() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle/lm/fixtures");
    if dir.is_dir() {
        return Some(dir);
    }
    // To stderr itself: what macros print is shown for failing tests alone.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {} is absent; only the committed fixtures are covered", dir.display());
    None
}
