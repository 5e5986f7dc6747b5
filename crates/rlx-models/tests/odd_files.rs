//! Weights that are unusual, broken or of another kind, as a user of the programs meets them.

use rlx_gguf::{Gguf, GgufWriter, TensorType};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const NORWAY: &str = "What is the capital of Norway?";

fn model() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/rlx-tiny-chat-gguf");
    let found = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "gguf"));
    found.expect("the shipped GGUF model")
}

/// What `rlx-run auto WEIGHTS` with these flags prints: the answer, or the complaint.
fn ask(weights: &Path, flags: &[&str]) -> Result<String, String> {
    let out = Command::new(env!("CARGO_BIN_EXE_rlx-run"))
        .arg("auto")
        .arg(weights)
        .args(["--quiet", "--prompt", NORWAY])
        .args(flags)
        .output()
        .unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let err = text(&out.stderr);
    assert!(!err.contains("panicked"), "{err}");
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(err) }
}

#[track_caller]
fn refused(weights: &Path, flags: &[&str], words: &[&str]) -> String {
    let why = ask(weights, flags).expect_err("must be refused");
    assert!(why.starts_with("error: ") && why.len() < 4000, "{why}");
    for w in words {
        assert!(why.contains(w), "no {w:?} in {why}");
    }
    why
}

/// The name and type that a tensor gets instead; `None` leaves it out.
type Change<'f> = &'f dyn Fn(&str, TensorType) -> Option<(String, TensorType)>;

/// The shipped model with other names and types of tensors.
fn rewritten(path: &Path, f: Change) {
    let gguf = Gguf::open(model()).unwrap();
    let mut w = GgufWriter::new();
    for (key, value) in gguf.metadata().iter() {
        w.put(key, value.clone()).unwrap();
    }
    for t in gguf.tensors() {
        if let Some((name, ty)) = f(&t.name, t.ty) {
            w.tensor(&name, ty, &t.shape, gguf.tensor_bytes(t).unwrap()).unwrap();
        }
    }
    fs::write(path, w.to_bytes()).unwrap();
}

/// A GGUF file with this metadata and one tensor.
fn gguf(path: &Path, metadata: &[(&str, &str)], tensor: &str) {
    let mut w = GgufWriter::new();
    for (key, value) in metadata {
        w.put(key, *value).unwrap();
    }
    w.tensor(tensor, TensorType::F32, &[1], 1f32.to_le_bytes().to_vec()).unwrap();
    fs::write(path, w.to_bytes()).unwrap();
}

/// A safetensors file with one tensor of one f32.
fn safetensors(path: &Path, tensor: &str) {
    let header = format!("{{\"{tensor}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}");
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &1f32.to_le_bytes()].concat()).unwrap();
}

#[test]
fn a_directory_of_several_files_is_chosen_from_by_quantisation_or_number() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["m-Q4_K_M.gguf", "m-Q8_0.gguf"] {
        fs::copy(model(), dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("m-BF16.gguf"), b"GGUF").unwrap();
    let norway = Ok("The capital of Norway is Oslo.\n".to_owned());
    assert_eq!(ask(dir.path(), &[]), norway, "Q4_K_M is preferred");
    assert_eq!(ask(dir.path(), &["--prefer-quant", "Q8_0"]), norway);
    assert_eq!(ask(dir.path(), &["--gguf-index", "2"]), norway);
    // The one that is broken is opened exactly when it is asked for.
    refused(dir.path(), &["--prefer-quant", "bf16"], &["m-BF16.gguf", "ends inside the version"]);
    refused(dir.path(), &["--gguf-index", "0"], &["m-BF16.gguf", "ends inside the version"]);
    refused(dir.path(), &["--gguf-index", "3"], &["m-Q4_K_M.gguf", "--gguf-index"]);
    refused(dir.path(), &["--prefer-quant", "Q2_K"], &["m-Q4_K_M.gguf", "Q2_K"]);
}

#[test]
fn a_big_endian_file_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut bytes = fs::read(model()).unwrap();
    bytes[4..8].reverse();
    fs::write(&path, &bytes).unwrap();
    refused(&path, &[], &["m.gguf", "big-endian", "gguf-convert-endian"]);
    bytes[4..8].reverse();
    fs::write(&path, &bytes).unwrap();
    assert!(ask(&path, &[]).is_ok());
}

#[test]
fn a_tensor_of_unknown_type_is_named_with_its_type_and_alternatives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let gguf = Gguf::open(model()).unwrap();
    let rewrite = |odd: Option<u32>| {
        rewritten(&path, &|name, ty| Some((name.into(), odd.filter(|_| name == "blk.0.ffn_up.weight").map_or(ty, TensorType::Unknown))));
    };
    rewrite(Some(1000));
    let why = refused(&path, &[], &["ffn_up", "1000", "q4_k"]);
    assert_eq!(why.lines().count(), 2, "one mistake, told once: {why}");
    // It opens all the same, for whoever does not need that tensor.
    assert_eq!(Gguf::open(&path).unwrap().tensors().len(), gguf.tensors().len());
    rewrite(None);
    assert_eq!(ask(&path, &[]).unwrap(), "The capital of Norway is Oslo.\n");
}

#[test]
fn missing_parts_of_a_split_file_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(model()).unwrap();
    let part = |no: u16| dir.path().join(format!("m-{:05}-of-00003.gguf", no + 1));
    for no in 0..3u16 {
        let mut w = GgufWriter::new();
        w.put("split.no", no).unwrap().put("split.count", 3u16).unwrap();
        if no == 0 {
            for (key, value) in gguf.metadata().iter() {
                w.put(key, value.clone()).unwrap();
            }
        }
        for t in gguf.tensors().iter().enumerate().filter(|(i, _)| i % 3 == usize::from(no)).map(|(_, t)| t) {
            w.tensor(&t.name, t.ty, &t.shape, gguf.tensor_bytes(t).unwrap()).unwrap();
        }
        fs::write(part(no), w.to_bytes()).unwrap();
    }
    assert_eq!(ask(&part(1), &[]).unwrap(), "The capital of Norway is Oslo.\n", "from any part");
    fs::remove_file(part(1)).unwrap();
    fs::remove_file(part(2)).unwrap();
    refused(&part(0), &[], &["2 of 3 parts", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]);
}

#[test]
fn missing_and_extra_tensors_are_listed_with_the_nearest_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    // Two of another name: both are told, and what comes close.
    rewritten(&path, &|name, ty| {
        let name = if ["blk.1.attn_q.weight", "blk.6.ffn_up.weight"].contains(&name) { name.replace("blk", "block") } else { name.into() };
        Some((name, ty))
    });
    let why =
        refused(&path, &[], &["blk.1.attn_q.weight", "block.1.attn_q.weight", "blk.6.ffn_up.weight", "block.6.ffn_up.weight", "nearest"]);
    assert_eq!(why.lines().count(), 3, "two mistakes, each told once: {why}");
    // Most are missing: the message stays short.
    let left = |name: &str| !name.starts_with("blk.") || name.ends_with("attn_norm.weight");
    rewritten(&path, &|name, ty| left(name).then(|| (name.into(), ty)));
    let why = refused(&path, &[], &["no tensor", " more"]);
    assert!(why.lines().count() == 18, "{why}");
    // No layer is there at all.
    rewritten(&path, &|name, ty| (!name.starts_with("blk.")).then(|| (name.into(), ty)));
    refused(&path, &[], &["qwen3.block_count is 8", "the 2 tensors of the checkpoint"]);
    // One more than the model has.
    rewritten(&path, &|name, ty| Some((name.into(), ty)));
    assert!(ask(&path, &[]).is_ok());
    let mut w = GgufWriter::new();
    let whole = Gguf::open(&path).unwrap();
    for (key, value) in whole.metadata().iter() {
        w.put(key, value.clone()).unwrap();
    }
    for t in whole.tensors() {
        w.tensor(&t.name, t.ty, &t.shape, whole.tensor_bytes(t).unwrap()).unwrap();
    }
    w.tensor("blk.0.attn_sinks", TensorType::F32, &[1], 1f32.to_le_bytes().to_vec()).unwrap();
    let other = dir.path().join("extra.gguf");
    fs::write(&other, w.to_bytes()).unwrap();
    refused(&other, &[], &["blk.0.attn_sinks"]);
}

#[test]
fn what_is_no_language_model_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mmproj = at("mmproj-model.gguf");
    gguf(&mmproj, &[("general.architecture", "clip"), ("general.type", "mmproj")], "v.blk.0.attn_q.weight");
    refused(&mmproj, &[], &["mmproj-model.gguf", "a multimodal projector (mmproj)", "a part of another model", "rlx-inspect"]);
    let lora = at("lora.gguf");
    gguf(&lora, &[("general.architecture", "qwen3"), ("general.type", "adapter")], "blk.0.attn_q.weight.lora_a");
    refused(&lora, &[], &["lora.gguf"]);
    let adapter = at("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{\"base_model_name_or_path\": \"Qwen/Qwen3-4B\"}").unwrap();
    safetensors(&adapter.join("adapter_model.safetensors"), "base_model.model.layers.0.self_attn.q_proj.lora_A.weight");
    refused(&adapter, &[], &["an adapter (LoRA) to another model", "Qwen/Qwen3-4B"]);
    let pipeline = at("pipeline");
    fs::create_dir(&pipeline).unwrap();
    fs::write(pipeline.join("model_index.json"), "{\"_class_name\": \"StableDiffusionPipeline\"}").unwrap();
    refused(&pipeline, &[], &["a diffusion model", "StableDiffusionPipeline"]);
    let pickle = at("pytorch_model.bin");
    fs::write(&pickle, b"PK\x03\x04and so on").unwrap();
    refused(&pickle, &[], &["PyTorch pickle files", "convert them to safetensors or GGUF"]);
    // Of a family that is known and not in this build.
    let mamba = at("mamba.gguf");
    gguf(&mamba, &[("general.architecture", "mamba2")], "blk.0.ssm_a");
    refused(&mamba, &[], &["mamba2", "families of this build: qwen3"]);
    // And one that nobody knows.
    gguf(&mamba, &[("general.architecture", "qwen33")], "blk.0.attn_q.weight");
    refused(&mamba, &[], &["qwen33", "nearest: \"qwen3\""]);
}

#[test]
fn the_program_of_another_family_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.gguf");
    gguf(&other, &[("general.architecture", "llama")], "blk.0.attn_q.weight");
    let out = Command::new(env!("CARGO_BIN_EXE_rlx-run")).arg("qwen3").arg(&other).args(["--prompt", "x"]).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{err}");
    for w in ["other.gguf", "\"llama\"", "which qwen3 does not run", "rlx-run auto"] {
        assert!(err.contains(w), "no {w:?} in {err}");
    }
}
