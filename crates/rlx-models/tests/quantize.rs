//! `rlx-quantize` as users run it.

use rlx_gguf::{Gguf, GgufWriter, TensorType, Value};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A model of two layers in `dir`.
fn source(dir: &Path) -> PathBuf {
    let mut w = GgufWriter::new();
    w.put("general.architecture", Value::String("llama".into())).unwrap();
    w.put("llama.block_count", Value::U32(2)).unwrap();
    for layer in 0..2 {
        for part in ["attn_v", "ffn_down"] {
            let data: Vec<u8> =
                (0..1024u32).flat_map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8).to_le_bytes()).collect();
            w.tensor(&format!("blk.{layer}.{part}.weight"), TensorType::F32, &[4, 256], data).unwrap();
        }
    }
    let path = dir.join("source.gguf");
    std::fs::write(&path, w.to_bytes()).unwrap();
    path
}

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_rlx-quantize")).args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn types(path: &Path) -> Vec<String> {
    Gguf::open(path).unwrap().tensors().iter().map(|t| t.ty.to_string()).collect()
}

#[test]
fn a_file_is_quantised_and_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (source(dir.path()), dir.path().join("out.gguf"));
    let (code, stdout, stderr) = run(&[source.to_str().unwrap(), out.to_str().unwrap(), "q4_k_m"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(types(&out), ["Q4_K", "Q4_K", "Q6_K", "Q6_K"].map(String::from));
    assert!(stdout.contains("Q6_K") && stdout.contains("32.00 →") && stdout.contains("bits per weight"), "{stdout}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file is left: {left:?}");
}

#[test]
fn a_dry_run_says_what_would_become_of_each_tensor_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let (code, stdout, _) = run(&["--dry-run", source.to_str().unwrap(), "Q8_0", "--tensor-type", r"blk\.1.*down=f16"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("blk.0.ffn_down.weight") && stdout.contains("F32 → Q8_0") && stdout.contains("F32 → F16"), "{stdout}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_source_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let before = std::fs::read(&source).unwrap();
    let detour = dir.path().join(".").join("source.gguf");
    for out in [&source, &detour] {
        let (code, _, stderr) = run(&[source.to_str().unwrap(), out.to_str().unwrap(), "Q8_0"]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("is the source"), "{stderr}");
    }
    assert_eq!(std::fs::read(&source).unwrap(), before);
}

#[test]
fn mistakes_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let (source, out) = (source.to_str().unwrap(), dir.path().join("out.gguf"));
    let out = out.to_str().unwrap();
    let other = dir.path().join("no.gguf");
    std::fs::write(&other, b"not a model").unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&[source, out, "Q4_X"], 2, "expected one of"),
        (&[source, "Q4_0"], 2, "where to?"),
        (&[source, out, "IQ2_XS"], 1, "--imatrix"),
        (&[source, out, "Q4_0", "--tensor-type", "ffn=q99"], 2, "not a tensor type"),
        (&[source, out, "Q4_0", "--include-weights", "x"], 2, "--imatrix"),
        (&[source, out, "Q4_0", "--imatrix", other.to_str().unwrap()], 1, "is this an importance matrix?"),
        (&[other.to_str().unwrap(), out, "Q4_0"], 1, "rlx-convert"),
    ];
    for (args, code, text) in cases {
        let (found, _, stderr) = run(args);
        assert_eq!(found, code, "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
    assert!(!Path::new(out).exists());
}

#[test]
fn help_lists_the_types() {
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for text in ["Q4_K_M", "IQ2_XXS   *", "MXFP4_MOE", "--token-embedding-type", "bits per weight"] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
}
