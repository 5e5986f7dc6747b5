//! What files and directories are, and whether they can run.

mod common;

use common::{dir_with, fixture, oracle, safetensors};
use rlx_bounds::{Counting, bounded};
use rlx_core::check::{Container, Judgement, Kind, Outline, Verdict, judge};
use rlx_core::config::{DecoderConfig, Key};
use rlx_core::registry::Family;
use rlx_core::weights::LoadOpts;
use rlx_gguf::{GgufWriter, StringArray, TensorType, Value};
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A family that answers to the names of the fixtures.
struct Toy;

impl Family for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn model_types(&self) -> &'static [&'static str] {
        &["qwen3"]
    }
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }
    fn gguf_architectures(&self) -> &'static [&'static str] {
        &["qwen3"]
    }
    fn program(&self) -> &'static str {
        "rlx-toy"
    }
    fn required_settings(&self) -> &'static [Key] {
        DecoderConfig::REQUIRED
    }
}

/// The judgement of a file or directory, under the bounds of its files.
fn check(path: &Path) -> Judgement {
    let files = if path.is_dir() { std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect() } else { vec![path.to_owned()] };
    let bytes: u64 = files.iter().map(|f| f.metadata().unwrap().len()).sum();
    bounded(bytes as usize, || {
        let outline = Outline::open(path, &LoadOpts::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        judge(&outline, &[&Toy])
    })
}

fn unimplemented(j: &Judgement) -> &str {
    match &j.verdict {
        Verdict::KnownUnimplemented(what) => what,
        other => panic!("{other}: {:?}", j.reasons),
    }
}

const ONE_TENSOR: &str = r#"{"model.embed_tokens.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
const CONFIG: &str = r#"{"model_type":"qwen3","architectures":["Qwen3ForCausalLM"],"hidden_size":64,"intermediate_size":96,
    "num_hidden_layers":2,"num_attention_heads":4,"rms_norm_eps":1e-6,"vocab_size":320}"#;

/// A safetensors directory with this `config.json` and these other files.
fn directory(config: &str, header: &str, others: &[(&str, &[u8])]) -> tempfile::TempDir {
    let weights = safetensors(header, &[0; 4]);
    let mut files: Vec<(&str, &[u8])> = vec![("config.json", config.as_bytes()), ("model.safetensors", &weights)];
    files.extend(others);
    dir_with(&files)
}

fn gguf(entries: &[(&str, Value)], tensors: &[&str]) -> Vec<u8> {
    let mut w = GgufWriter::new();
    for (key, value) in entries {
        w.put(key, value.clone()).unwrap();
    }
    for name in tensors {
        w.tensor(name, TensorType::F32, &[1], vec![0; 4]).unwrap();
    }
    w.to_bytes()
}

fn check_gguf(entries: &[(&str, Value)], tensors: &[&str]) -> Judgement {
    let dir = dir_with(&[("m.gguf", &gguf(entries, tensors))]);
    check(&dir.path().join("m.gguf"))
}

fn words(list: &[&str]) -> Value {
    Value::from(list.iter().collect::<StringArray>())
}

const SUPPORTED: Verdict = Verdict::Supported { family: "toy", program: "rlx-toy" };

#[test]
fn what_a_family_runs_is_supported_in_both_formats() {
    let dir = directory(CONFIG, ONE_TENSOR, &[("tokenizer.json", b"{}")]);
    for path in [dir.path().to_owned(), dir.path().join("model.safetensors"), fixture("qwen3-gguf/Q4_0.gguf")] {
        let j = check(&path);
        assert_eq!((&j.verdict, j.kind), (&SUPPORTED, Kind::LanguageModel), "{}: {:?}", path.display(), j.reasons);
    }
}

#[test]
fn missing_settings_are_all_named_as_their_format_spells_them() {
    let config = r#"{"model_type":"qwen3","hidden_size":64,"num_attention_heads":null,"rms_norm_eps":1e-6,"vocab_size":320}"#;
    let dir = directory(config, ONE_TENSOR, &[]);
    let j = check(dir.path());
    let Verdict::MissingMetadata(keys) = &j.verdict else { panic!("{}", j.verdict) };
    let expected = ["intermediate_size", "num_hidden_layers", "num_attention_heads"].map(|k| format!("config.json: {k}"));
    assert_eq!(keys[..3], expected);
    assert_eq!(keys[3..], ["tokenizer.json"]);
    assert!(j.verdict.to_string().starts_with("MissingMetadata(config.json: intermediate_size, "), "{}", j.verdict);

    let j = check_gguf(&[("general.architecture", "qwen3".into()), ("qwen3.block_count", 2u32.into())], &["token_embd.weight"]);
    let Verdict::MissingMetadata(keys) = &j.verdict else { panic!("{}", j.verdict) };
    assert!(keys.contains(&"qwen3.embedding_length".into()) && keys.contains(&"tokenizer.ggml.tokens".into()), "{keys:?}");
    assert!(!keys.contains(&"qwen3.block_count".into()) && !keys.contains(&"qwen3.vocab_size".into()), "{keys:?}");

    let j = check_gguf(&[("general.name", "x".into())], &["a"]);
    assert_eq!(j.verdict, Verdict::MissingMetadata(vec!["general.architecture".into()]));
    let alone = dir_with(&[("m.safetensors", &safetensors(ONE_TENSOR, &[0; 4]))]);
    assert_eq!(check(alone.path()).verdict, Verdict::MissingMetadata(vec!["config.json".into()]));
    assert_eq!(check(alone.path()).kind, Kind::LanguageModel, "the tensors tell");
}

#[test]
fn known_architectures_are_told_by_kind() {
    for (arch, kind) in [
        ("llama", Kind::LanguageModel),
        ("clip", Kind::Projector),
        ("flux", Kind::Diffusion),
        ("bert", Kind::Embedding),
        ("eagle3", Kind::Draft),
        ("t5", Kind::EncoderDecoder),
    ] {
        let j = check_gguf(&[("general.architecture", arch.into())], &["a"]);
        assert_eq!(j.kind, kind, "{arch}");
        assert!(unimplemented(&j).contains(arch), "{}", j.verdict);
    }
    for (model_type, kind) in [("whisper", Kind::SpeechRecognition), ("sam2", Kind::Vision), ("mamba2", Kind::LanguageModel)] {
        let dir = directory(&format!(r#"{{"model_type":"{model_type}"}}"#), ONE_TENSOR, &[]);
        assert_eq!(check(dir.path()).kind, kind, "{model_type}");
    }
}

#[test]
fn names_that_nobody_knows_are_unknown_with_the_nearest() {
    let j = check_gguf(&[("general.architecture", "qwen33".into())], &["a"]);
    let Verdict::Unknown { nearest } = &j.verdict else { panic!("{}", j.verdict) };
    assert_eq!(nearest[0], "qwen3");
    let dir = directory(r#"{"model_type":"lamma","architectures":["LammaForCausalLM"]}"#, ONE_TENSOR, &[]);
    let j = check(dir.path());
    assert!(matches!(&j.verdict, Verdict::Unknown { nearest } if nearest.contains(&"llama".into())), "{:?}", j.verdict);
    assert_eq!(j.kind, Kind::LanguageModel, "the class tells");
    let text = dir_with(&[("notes.txt", b"hello world, this is text")]);
    assert_eq!(check(&text.path().join("notes.txt")).verdict, Verdict::Unknown { nearest: vec![] });
}

#[test]
fn parts_of_models_are_no_models() {
    let arch = || ("general.architecture", Value::from("qwen3"));
    let adapter = check_gguf(&[arch(), ("general.type", "adapter".into())], &["blk.0.attn_q.weight.lora_a"]);
    assert_eq!((adapter.kind, unimplemented(&adapter)), (Kind::Adapter, "an adapter (LoRA) to another model"));
    let imatrix = check_gguf(&[("general.type", "imatrix".into())], &["blk.0.attn_q.weight.in_sum2"]);
    assert_eq!(imatrix.kind, Kind::ImportanceMatrix);
    let vocabulary = check_gguf(&[arch(), ("tokenizer.ggml.tokens", words(&["a", "b"]))], &[]);
    assert_eq!(vocabulary.kind, Kind::VocabularyOnly);

    let peft = dir_with(&[
        ("adapter_config.json", br#"{"peft_type":"LORA","base_model_name_or_path":"org/base"}"#),
        ("adapter_model.safetensors", &safetensors(ONE_TENSOR, &[0; 4])),
    ]);
    let j = check(peft.path());
    assert_eq!(j.kind, Kind::Adapter);
    assert!(j.reasons[0].contains("\"org/base\""), "{:?}", j.reasons);

    let pipeline = dir_with(&[("model_index.json", br#"{"_class_name":"FluxPipeline"}"#)]);
    assert_eq!(check(pipeline.path()).kind, Kind::Diffusion);
    let part = directory(r#"{"_class_name":"AutoencoderKL"}"#, ONE_TENSOR, &[]);
    assert_eq!(check(part.path()).kind, Kind::Diffusion);
    let tokenizer = dir_with(&[("tokenizer.json", b"{}")]);
    assert_eq!(check(tokenizer.path()).kind, Kind::TokenizerOnly);

    let scores = directory(&CONFIG.replace("ForCausalLM", "ForSequenceClassification"), ONE_TENSOR, &[]);
    assert_eq!(check(scores.path()).kind, Kind::Classifier);
    let eagle = directory(&CONFIG.replace("Qwen3ForCausalLM", "LlamaForCausalLMEagle3").replace("qwen3", "llama"), ONE_TENSOR, &[]);
    assert_eq!(check(eagle.path()).kind, Kind::Draft);
}

#[test]
fn adapters_and_diffusion_models_are_known_by_their_tensors() {
    for (name, kind) in [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", Kind::Adapter),
        ("model.diffusion_model.input_blocks.0.0.weight", Kind::Diffusion),
        ("mtp.layers.0.weight", Kind::Draft),
    ] {
        let header = ONE_TENSOR.replace("model.embed_tokens.weight", name);
        let dir = dir_with(&[("x.safetensors", &safetensors(&header, &[0; 4]))]);
        assert_eq!(check(dir.path()).kind, kind, "{name}");
    }
}

#[test]
fn other_containers_are_named() {
    for (name, bytes, container) in [
        ("pytorch_model.bin", &b"PK\x03\x04 a pickle in a zip"[..], Container::PyTorch),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", Container::Onnx),
        ("model.bin", b"lmgg and the rest", Container::OldGgml),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n", Container::TensorFlow),
    ] {
        let dir = dir_with(&[("config.json", CONFIG.as_bytes()), (name, bytes)]);
        let outline = Outline::open(&dir.path().join(name), &LoadOpts::default()).unwrap();
        assert_eq!(outline.container, container, "{name}");
        assert!(unimplemented(&judge(&outline, &[&Toy])).contains("convert"), "{name}");
        if container != Container::OldGgml {
            assert!(unimplemented(&check(dir.path())).contains("convert"), "{name} in a directory");
        }
    }
}

#[test]
fn unknown_tensor_types_and_quantisations_are_what_is_unimplemented() {
    let mut bytes = gguf(&[("general.architecture", "qwen3".into())], &["blk.0.ffn_up.weight"]);
    // The type number stands after the name, the number of dimensions and the one dimension.
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 8;
    bytes[at..at + 4].copy_from_slice(&999u32.to_le_bytes());
    let dir = dir_with(&[("m.gguf", &bytes)]);
    let what = check(dir.path());
    assert!(unimplemented(&what).contains("ggml type 999 (1 tensors, first \"blk.0.ffn_up.weight\")"), "{}", what.verdict);

    let config = CONFIG.replace(r#""vocab_size""#, r#""quantization_config":{"quant_method":"quip"},"vocab_size""#);
    let dir = directory(&config, ONE_TENSOR, &[("tokenizer.json", b"{}")]);
    let j = check(dir.path());
    assert!(unimplemented(&j).contains("\"quip\""), "{}", j.verdict);
}

/// What the weights can be read with is no obstacle: a weight of MLX in 4 bits, with its scales and biases.
#[test]
fn quantised_weights_that_can_be_read_are_supported() {
    let header = r#"{"model.embed_tokens.weight":{"dtype":"U32","shape":[1,4],"data_offsets":[0,16]},
        "model.embed_tokens.scales":{"dtype":"F16","shape":[1,1],"data_offsets":[16,18]},
        "model.embed_tokens.biases":{"dtype":"F16","shape":[1,1],"data_offsets":[18,20]}}"#;
    let config = CONFIG.replace(r#""vocab_size""#, r#""quantization":{"bits":4,"group_size":32},"vocab_size""#);
    let weights = safetensors(header, &[0; 20]);
    let dir = dir_with(&[("config.json", config.as_bytes()), ("model.safetensors", &weights), ("tokenizer.json", b"{}")]);
    let j = check(dir.path());
    assert_eq!(j.verdict, SUPPORTED, "{:?}", j.reasons);
    // The twin: the same weights when the settings do not say how they are quantised.
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    assert!(unimplemented(&check(dir.path())).contains("quantization"), "{:?}", check(dir.path()));
}

#[test]
fn hostile_names_stay_on_one_short_line() {
    let arch = format!("\u{1b}[31m\n{}", "x".repeat(1 << 20));
    let j = check_gguf(&[("general.architecture", arch.as_str().into())], &["a"]);
    assert!(matches!(j.verdict, Verdict::Unknown { .. }));
    let text = format!("{} {}", j.verdict, j.reasons.join(" "));
    assert!(text.len() < 1000 && !text.contains('\u{1b}') && !text.contains('\n'), "{text:?}");
}

#[test]
fn damaged_files_are_errors() {
    let dir = dir_with(&[("m.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{"), ("config.json", b"{"), ("m.gguf", b"GGUF\x03\0\0\0")]);
    for name in ["m.safetensors", "m.gguf", "absent"] {
        let e = Outline::open(&dir.path().join(name), &LoadOpts::default()).unwrap_err().to_string();
        assert!(e.contains(name), "{e}");
    }
}

#[test]
fn every_reference_checkpoint_is_recognised() {
    let Some(oracle) = oracle() else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(oracle).unwrap() {
        let path = entry.unwrap().path();
        if path.join("config.json").is_file() {
            let j = check(&path);
            assert!(!matches!(j.kind, Kind::Unknown | Kind::Other), "{}: {:?}", path.display(), j.reasons);
            assert!(!matches!(j.verdict, Verdict::Unknown { .. }), "{}: {:?}", path.display(), j.verdict);
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
