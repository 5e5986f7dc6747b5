//! Every input of the corpora in `fuzz/corpus`, through its target, without a fuzzer.

use rlx_fuzz::{Counting, TARGETS};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().map(|e| e.expect("a readable folder").path()).collect();
    files.sort();
    files
}

#[test]
fn every_corpus_passes_its_target() {
    for (name, target) in TARGETS {
        let inputs = files(&fuzz().join("corpus").join(name));
        assert!(inputs.len() >= 8, "{name} has {} inputs", inputs.len());
        let mut total = 0;
        for path in inputs {
            let data = fs::read(&path).expect("a readable input");
            total += data.len();
            if std::panic::catch_unwind(|| target(&data)).is_err() {
                panic!("{name} fails for {}", path.display());
            }
        }
        assert!(total < 60_000, "the corpus of {name} has {total} bytes");
    }
}

#[test]
fn every_target_has_its_program() {
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.0.to_owned()).collect();
    let stem = |p: &PathBuf| p.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    assert_eq!(files(&fuzz().join("fuzz_targets")).iter().map(stem).collect::<BTreeSet<_>>(), names);
    assert_eq!(files(&fuzz().join("corpus")).iter().map(stem).collect::<BTreeSet<_>>(), names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not in fuzz/Cargo.toml");
    }
}
