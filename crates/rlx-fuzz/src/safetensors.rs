//! safetensors files and indices, as a directory on disk.
//!
//! Input: a first byte; when it is 0, the rest is `model.safetensors`.  Otherwise the rest is three parts, each but the
//! last with a 16-bit length before it: the index, `a.safetensors` and `b.safetensors`.

use crate::check_message;
use rlx_bounds::bounded;
use rlx_core::{Checkpoint, LoadOpts, weights};
use std::fs;
use std::path::Path;

thread_local! {
    static DIR: tempfile::TempDir = tempfile::tempdir().expect("a temporary directory");
}

/// Opens a checkpoint and checks that its tensors are inside their files, cover them and have the size that type and
/// shape need; and that the format's reference implementation takes every single file that is taken here.
pub fn safetensors(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    DIR.with(|dir| {
        let dir = dir.path();
        if *mode == 0 {
            let path = dir.join("model.safetensors");
            fs::write(&path, rest).expect("a small file");
            if let Some(checkpoint) = open(&path, rest.len()) {
                let reference = ::safetensors::SafeTensors::deserialize(rest).expect("what opens is valid for the reference, too");
                assert_eq!(checkpoint.tensors().len(), reference.len());
                for (name, view) in reference.tensors() {
                    assert_eq!(checkpoint.find(&name).map(|t| t.shape.as_slice()), Some(view.shape()));
                    assert!(checkpoint.get(&name).is_err() || checkpoint.get(&name).is_ok_and(|t| t.bytes() == view.data()));
                }
            }
        } else {
            let (index, rest) = part(rest);
            let (a, b) = part(rest);
            for (name, bytes) in [("model.safetensors.index.json", index), ("a.safetensors", a), ("b.safetensors", b)] {
                fs::write(dir.join(name), bytes).expect("a small file");
            }
            open(&dir.join("model.safetensors.index.json"), data.len());
        }
    });
}

/// A length of two bytes, what it counts, and what is behind.
fn part(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((n, rest)) = data.split_first_chunk::<2>() else { return (data, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*n)).min(rest.len()))
}

fn open(path: &Path, input: usize) -> Option<Checkpoint> {
    let checkpoint = match bounded(input, || weights::open_with(LoadOpts::map(), path)) {
        Ok(checkpoint) => checkpoint,
        Err(e) => {
            check_message(&e.to_string());
            return None;
        }
    };
    let mut names: Vec<&str> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
    names.dedup();
    assert_eq!(names.len(), checkpoint.tensors().len(), "two tensors of one name");
    for t in checkpoint.tensors() {
        let file = fs::metadata(checkpoint.file_of(t)).expect("the file exists").len();
        assert!(t.offset.checked_add(t.bytes).is_some_and(|end| end <= file), "{t:?} in a file of {file} bytes");
        match checkpoint.get(&t.name) {
            Ok(view) => {
                assert_eq!((view.bytes().len() as u64, view.shape), (t.bytes, t.shape.as_slice()));
                let size = view.dtype.size().expect("safetensors types are of whole bytes");
                assert_eq!(t.elements() * size as u64, t.bytes, "{t:?}");
            }
            Err(e) => check_message(&e.to_string()),
        }
    }
    Some(checkpoint)
}
