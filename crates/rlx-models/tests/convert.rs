//! Conversions between formats, there and back.

use rlx_core::config::ConfigSource;
use rlx_core::weights::{Checkpoint, LoadOpts, open_with};
use rlx_gguf::Gguf;
use rlx_lm::convert::{Conversion, Converted, FloatType, GgufTypes, Target};
use rlx_lm::{GenerateOptions, LmError, LmRunner, Precision};
use rlx_models::families;
use rlx_text::Tokenizer;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SHARD: u64 = 5_000_000_000;
const HF: Target = Target::Safetensors { dtype: FloatType::Auto, shard_bytes: SHARD };
const GGUF: Target = Target::Gguf { types: GgufTypes::Auto, part_bytes: None };

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The committed fixture and, where the shared collection is, a model of another kind and size.
fn sources() -> Vec<PathBuf> {
    vec![root("crates/rlx-qwen3/tests/fixtures/qwen3"), root("weights/rlx-tiny-chat")]
}

fn open(path: &Path) -> Arc<Checkpoint> {
    Arc::new(open_with(LoadOpts::default(), path).unwrap_or_else(|e| panic!("{e}")))
}

fn convert(from: &Path, to: &Path, target: Target) -> Converted {
    try_convert(from, to, target, false).unwrap_or_else(|e| panic!("{}: {e}", from.display()))
}

fn try_convert(from: &Path, to: &Path, target: Target, force: bool) -> Result<Converted, LmError> {
    let checkpoint = open(from);
    let family = families::of(&checkpoint).unwrap().family;
    Conversion::new(family, checkpoint)?.run(target, to, force, &mut |_, _| true)
}

/// Every tensor of the second is in the first, alike in type, shape and bits; returns how many.
fn assert_same_tensors(a: &Path, b: &Path) -> usize {
    let (a, b) = (open(a), open(b));
    for t in b.tensors() {
        let (x, y) = (a.get(&t.name).unwrap(), b.view(t).unwrap());
        assert_eq!((x.dtype, x.shape), (y.dtype, y.shape), "{}", t.name);
        assert!(x.bytes() == y.bytes(), "{}: other bits", t.name);
    }
    b.tensors().len()
}

/// What the family reads.
fn settings(path: &Path) -> String {
    let checkpoint = open(path);
    let family = families::of(&checkpoint).unwrap().family;
    let config = ConfigSource::open(&checkpoint).unwrap();
    let has = |name: &str| checkpoint.find(name).is_some() || family.names().to_gguf(name).is_some_and(|n| checkpoint.find(&n.0).is_some());
    let model = family.load(&config, &has, 2048).unwrap();
    let sizes = rlx_core::config::DecoderConfig::from_source(&config).unwrap();
    let heads = model.heads();
    let tied = sizes.tie_word_embeddings.unwrap_or_else(|| !has("lm_head.weight"));
    let sizes = rlx_core::config::DecoderConfig { tie_word_embeddings: Some(tied), ..sizes };
    let rope = rlx_core::config::rope(&config, &rlx_core::config::RopeArgs::new(sizes.head_dim)).unwrap();
    format!("{sizes:?} {heads:?} {:?} {rope:?}", model.context_length())
}

/// The ids that end a text.
fn ends(path: &Path) -> Vec<u32> {
    ConfigSource::open(&open(path)).unwrap().eos_token_ids().unwrap()
}

fn text(path: &Path) -> rlx_lm::Text {
    rlx_lm::Text::open(&open(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

const TEXTS: [&str; 6] = [
    "What is the capital of Norway?",
    "<|im_start|>user\nIt's 12 o'clock, naïve e\u{301}   \n\n end<|im_end|>",
    "12345 + 678 = x; <think>日本語</think> 🦀\t\r\n",
    "",
    "  leading and trailing  ",
    "'S 'll don't WE'LL",
];

fn assert_same_text(a: &Path, b: &Path) {
    let (a, b) = (text(a), text(b));
    for t in TEXTS {
        for special in [true, false] {
            assert_eq!(a.tokenizer.encode(t, special).unwrap(), b.tokenizer.encode(t, special).unwrap(), "{t:?}");
        }
        let ids = a.tokenizer.encode(t, false).unwrap();
        assert_eq!(a.tokenizer.decode(&ids, true).unwrap(), b.tokenizer.decode(&ids, true).unwrap(), "{t:?}");
    }
    assert_eq!(a.tokenizer.special_tokens(), b.tokenizer.special_tokens());
    assert_eq!(matches!(a.template, Ok(Some(_))), matches!(b.template, Ok(Some(_))));
}

#[test]
fn hugging_face_to_gguf_and_back_loses_nothing() {
    for source in sources() {
        let dir = tempfile::tempdir().unwrap();
        let (there, back) = (dir.path().join("there.gguf"), dir.path().join("back"));
        let done = convert(&source, &there, GGUF);
        assert_eq!(done.files, std::slice::from_ref(&there));
        convert(&there, &back, HF);
        assert_eq!(assert_same_tensors(&source, &back), done.tensors);
        for file in [&there, &back] {
            assert_eq!(settings(file), settings(&source), "{}", file.display());
            assert_same_text(&source, file);
            // What ends a text does so still; the tokenizer's own eos may come to it.
            let eos = text(&source).tokenizer.eos();
            assert!(ends(&source).iter().all(|id| ends(file).contains(id)), "{:?} {:?}", ends(&source), ends(file));
            assert!(ends(file).iter().all(|id| ends(&source).contains(id) || Some(*id) == eos), "{:?}", ends(file));
        }
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "nothing but what was asked for is left");
    }
}

#[test]
fn gguf_to_hugging_face_and_back_loses_nothing() {
    let source = root("crates/rlx-qwen3/tests/fixtures/Q8_0.gguf");
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back.gguf"));
    convert(&source, &there, HF);
    convert(&there, &back, Target::Gguf { types: GgufTypes::Q8_0, part_bytes: None });
    // Q8_0 of what Q8_0 stands for is the same again.
    assert_same_tensors(&source, &back);
    assert_eq!(settings(&there), settings(&source));
    assert_same_text(&source, &there);
}

/// Key by key what llama.cpp's converter writes for the same checkpoint.
#[test]
fn metadata_are_those_that_llama_cpp_writes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    convert(&root("weights/rlx-tiny-chat"), &file, Target::Gguf { types: GgufTypes::F16, part_bytes: None });
    let gguf = Gguf::open(&file).unwrap();
    let keys: Vec<&str> = gguf.metadata().iter().map(|(k, _)| k).collect();
    let want = [
        "general.architecture",
        "general.type",
        "general.name",
        "general.size_label",
        "general.file_type",
        "general.quantization_version",
        "qwen3.block_count",
        "qwen3.context_length",
        "qwen3.embedding_length",
        "qwen3.feed_forward_length",
        "qwen3.attention.head_count",
        "qwen3.attention.head_count_kv",
        "qwen3.attention.layer_norm_rms_epsilon",
        "qwen3.attention.key_length",
        "qwen3.attention.value_length",
        "qwen3.rope.freq_base",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.chat_template",
    ];
    assert_eq!(keys, want);
    let same = ["general.architecture", "general.size_label", "general.file_type", "qwen3.rope.freq_base", "tokenizer.ggml.eos_token_id"];
    let found: Vec<_> = same.iter().map(|k| gguf.get(k).cloned().unwrap()).collect();
    assert_eq!(found, ["qwen3".into(), "7.0M".into(), 1u32.into(), 10000f32.into(), 2u32.into()]);
    for t in gguf.tensors() {
        let want = if t.shape.len() == 1 { "F32" } else { "F16" };
        assert_eq!(t.ty.to_string(), want, "{}", t.name);
    }
}

/// The answers recorded from the reference, from the model in every format.
#[test]
fn converted_models_answer_as_recorded() {
    let recorded: Value = serde_json::from_slice(&std::fs::read(root("crates/rlx-models/tests/fixtures/greedy.json")).unwrap()).unwrap();
    let cases = recorded.as_array().unwrap();
    let source = root("weights/rlx-tiny-chat");
    let dir = tempfile::tempdir().unwrap();
    let outs = [
        ("f32.gguf", Target::Gguf { types: GgufTypes::F32, part_bytes: None }),
        ("split.gguf", Target::Gguf { types: GgufTypes::Auto, part_bytes: Some(3_000_000) }),
        ("f32", Target::Safetensors { dtype: FloatType::F32, shard_bytes: 4_000_000 }),
    ];
    for (name, target) in outs {
        let done = convert(&source, &dir.path().join(name), target);
        let weights = done.files.iter().find(|f| f.extension().is_some_and(|e| e == "gguf")).cloned().unwrap_or(dir.path().join(name));
        if name.contains("split") || name == "f32" {
            assert!(done.files.len() > 4, "{:?}", done.files);
        }
        let family = families::of(&open(&weights)).unwrap().family;
        let mut runner = LmRunner::builder(family).weights(&weights).precision(Precision::Exact).max_seq(256).build().unwrap();
        for case in cases {
            let ids = |key: &str| case[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect::<Vec<_>>();
            let (prompt, mut want) = (ids("prompt_ids"), ids("output_ids"));
            want.truncate(16);
            assert_eq!(runner.tokenizer().unwrap().encode(case["prompt"].as_str().unwrap(), false).unwrap(), prompt, "{name}");
            let options = GenerateOptions { max_tokens: want.len(), ..GenerateOptions::default() };
            let got = runner.generate_tokens(&prompt, &options, &mut |_, _| {}, &mut |_| true).unwrap();
            assert_eq!(got.tokens, want, "{name}: {}", case["name"]);
        }
    }
}

#[test]
fn what_the_other_format_cannot_say_is_an_error() {
    let source = root("crates/rlx-qwen3/tests/fixtures/qwen3");
    let dir = tempfile::tempdir().unwrap();
    let edited = dir.path().join("edited");
    std::fs::create_dir(&edited).unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, edited.join(path.file_name().unwrap())).unwrap();
    }
    let original: Value = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    let attempt = |changes: Value, target: Target, out: &str| {
        let mut config = original.clone();
        changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
        std::fs::write(edited.join("config.json"), config.to_string()).unwrap();
        try_convert(&edited, &dir.path().join(out), target, false)
    };
    let window = json!({ "use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1 });
    let error = attempt(window.clone(), GGUF, "a.gguf").unwrap_err().to_string();
    assert!(error.contains("another model") && error.contains("window") && error.contains("GGUF"), "{error}");
    assert!(!dir.path().join("a.gguf").exists());
    attempt(window, HF, "a").expect("config.json can say it");
    let dynamic = json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } });
    let error = attempt(dynamic, GGUF, "b.gguf").unwrap_err().to_string();
    assert!(error.contains("Dynamic") && error.contains("GGUF"), "{error}");
    for (i, scaling) in [
        json!({ "rope_type": "linear", "factor": 2.5 }),
        json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096 }),
        json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "attention_factor": 1.3, "beta_fast": 16.0 }),
    ]
    .into_iter()
    .enumerate()
    {
        let there = dir.path().join(format!("c{i}.gguf"));
        attempt(json!({ "rope_scaling": scaling }), GGUF, &format!("c{i}.gguf")).unwrap_or_else(|e| panic!("{scaling}: {e}"));
        convert(&there, &dir.path().join(format!("c{i}")), HF);
    }
    let unrounded = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "truncate": false });
    assert!(attempt(json!({ "rope_scaling": unrounded }), GGUF, "d.gguf").is_err());
}

#[test]
fn existing_files_and_the_source_itself_are_safe() {
    let source = root("crates/rlx-qwen3/tests/fixtures/qwen3");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.gguf");
    std::fs::write(&out, b"mine").unwrap();
    let error = try_convert(&source, &out, GGUF, false).unwrap_err().to_string();
    assert!(error.contains("x.gguf") && error.contains("--force"), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    try_convert(&source, &out, GGUF, true).expect("replaced when asked");
    for force in [false, true] {
        assert!(try_convert(&out, &out, GGUF, force).unwrap_err().to_string().contains("where the source is"));
    }
    let checkpoint = open(&source);
    let conversion = Conversion::new(families::of(&checkpoint).unwrap().family, checkpoint).unwrap();
    let cancelled = conversion.run(HF, &dir.path().join("y"), false, &mut |done, _| done == 0);
    assert!(matches!(cancelled, Err(LmError::Cancelled)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a cancelled conversion leaves nothing");
}

/// A vocabulary made for other programs: the tokenizer of the converted directory is the `tokenizers` crate's.
#[test]
fn the_written_tokenizer_json_stands_alone() {
    let dir = tempfile::tempdir().unwrap();
    convert(&root("weights/rlx-tiny-chat-gguf"), &dir.path().join("hf"), HF);
    let t = Tokenizer::from_file(dir.path().join("hf/tokenizer.json")).unwrap();
    assert_eq!(t.eos(), t.id("<|im_end|>"));
    assert_same_text(&root("weights/rlx-tiny-chat"), &dir.path().join("hf"));
}

/// Names and shapes of a safetensors file, as its header has them.
fn header(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    serde_json::from_slice(&bytes[8..8 + n]).unwrap()
}

/// The values of a tensor.
fn values(c: &Checkpoint, name: &str) -> Vec<f32> {
    let v = c.get(name).unwrap();
    let (mut out, columns) = (vec![], v.shape.last().copied().unwrap());
    let cast = rlx_core::convert::Caster::new(v.dtype, rlx_ir::DType::F32).unwrap();
    cast.run(v.bytes(), columns, &mut |b| {
        out.extend(b.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)));
        Ok(())
    })
    .unwrap();
    out
}

/// The same values in every tensor.
fn assert_same_values(a: &Path, b: &Path) {
    let (a, b) = (open(a), open(b));
    assert_eq!(a.tensors().len(), b.tensors().len());
    for t in a.tensors() {
        assert!(values(&a, &t.name) == values(&b, &t.name), "{}", t.name);
    }
}

/// Quantised matrices of `b` are those of `a` as near as affine groups can be, everything else is the same.  A group of
/// range `r` has steps of `r / (2^bits - 1)`; MLX moves the grid such that its far end is off by up to half a step
/// more; scale and bias are bf16.  Returns how many matrices are quantised.
fn assert_within_a_step(a: &Path, b: &Path, bits: usize, group: usize) -> usize {
    let (a, b) = (open(a), open(b));
    let mut quantised = 0;
    for t in a.tensors() {
        let (x, y) = (values(&a, &t.name), values(&b, &t.name));
        assert_eq!(x.len(), y.len(), "{}", t.name);
        if x == y {
            continue;
        }
        quantised += 1;
        assert!(t.shape.len() == 2 && t.shape[1].is_multiple_of(group), "{} is no matrix of whole groups", t.name);
        for (x, y) in x.chunks(group).zip(y.chunks(group)) {
            let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            let (range, most) = (high - low, high.abs().max(low.abs()));
            let bound = range / ((1 << bits) - 1) as f32 * 1.01 + (2.0 * range + most) / 256.0;
            assert!(x.iter().zip(y).all(|(p, q)| (p - q).abs() <= bound), "{}: {x:?} {y:?}", t.name);
        }
    }
    quantised
}

#[test]
fn mlx_checkpoints_are_what_mlx_writes_and_convert_onwards() {
    let source = root("weights/rlx-tiny-chat");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (bits, group) in [(8, 32), (4, 64), (3, 128)] {
        let (mlx, hf, gguf) = (at(&format!("mlx{bits}")), at(&format!("hf{bits}")), at(&format!("m{bits}.gguf")));
        convert(&source, &mlx, Target::Mlx { bits, group, shard_bytes: SHARD });
        let config: Value = serde_json::from_slice(&std::fs::read(mlx.join("config.json")).unwrap()).unwrap();
        assert_eq!((&config["quantization"]["bits"], &config["quantization"]["group_size"]), (&json!(bits), &json!(group)));
        let head = header(&mlx.join("model.safetensors"));
        let part = |name: &str| (head[name]["dtype"].clone(), head[name]["shape"].clone());
        let q = "model.layers.0.self_attn.q_proj";
        assert_eq!(part(&format!("{q}.weight")), (json!("U32"), json!([256, 256 * bits / 32])));
        for name in ["scales", "biases"] {
            assert_eq!(part(&format!("{q}.{name}")), (json!("BF16"), json!([256, 256 / group])));
        }
        assert_eq!(part("model.norm.weight"), (json!("BF16"), json!([256])));

        // What MLX's files stand for, written out: the same in every format, bit for bit.
        convert(&mlx, &hf, HF);
        let plain: Value = serde_json::from_slice(&std::fs::read(hf.join("config.json")).unwrap()).unwrap();
        assert!(plain.get("quantization").is_none() && plain.get("quantization_config").is_none());
        assert_same_values(&mlx, &hf);
        assert_eq!(assert_within_a_step(&source, &hf, bits, group), 1 + 8 * 7, "the embedding, and seven matrices a layer");
        convert(&mlx, &gguf, GGUF);
        convert(&gguf, &at(&format!("again{bits}")), HF);
        assert_same_values(&hf, &at(&format!("again{bits}")));
        assert_eq!(settings(&gguf), settings(&source));
        assert_same_text(&source, &gguf);
    }
    // From GGUF: the same codes as from the checkpoint it was made of.
    convert(&source, &at("f.gguf"), GGUF);
    let target = Target::Mlx { bits: 4, group: 64, shard_bytes: SHARD };
    convert(&at("f.gguf"), &at("mlx-of-gguf"), target);
    assert_same_values(&at("mlx4"), &at("mlx-of-gguf"));
    let refused = try_convert(&source, &at("x"), Target::Mlx { bits: 7, group: 64, shard_bytes: SHARD }, false);
    assert!(refused.unwrap_err().to_string().contains('7'));
}

/// Rows that are no whole groups stay as they are, as mlx-lm leaves them.
#[test]
fn rows_that_are_no_whole_groups_are_not_quantised() {
    let source = root("crates/rlx-qwen3/tests/fixtures/qwen3");
    let dir = tempfile::tempdir().unwrap();
    let mlx = dir.path().join("mlx");
    convert(&source, &mlx, Target::Mlx { bits: 4, group: 64, shard_bytes: SHARD });
    let head = header(&mlx.join("model.safetensors"));
    let has = |name: &str| head.get(name).is_some();
    assert!(has("model.layers.0.self_attn.q_proj.scales") && !has("model.layers.0.mlp.down_proj.scales"), "rows of 64 and of 96");
    assert_eq!(head["model.layers.0.mlp.down_proj.weight"]["shape"], json!([64, 96]));
    assert!(assert_within_a_step(&source, &mlx, 4, 64) > 0);
}
