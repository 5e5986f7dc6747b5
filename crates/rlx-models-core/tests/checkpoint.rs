//! Whole checkpoints: opening every kind of path, weights by name, identification, vocabularies.

mod common;

use common::{dir_with, fixture, oracle, safetensors};
use rlx_bounds::{Counting, bounded};
use rlx_core::names::{HeadCounts, Heads, NamesError};
use rlx_core::registry::{find, identify};
use rlx_core::weights::{StoredType, open_with};
use rlx_core::{
    Checkpoint, ConfigSource, Family, GgufVocab, Identity, LoadOpts, NameTable, Rule, Transform, WeightFormat, WeightMap, WeightsError,
};
use rlx_gguf::{BlockFormat, Gguf, GgufWriter, TensorType, Value};
use rlx_ir::{Builder, DType, Dim, builder::Options};
use std::path::Path;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const QWEN3: NameTable = NameTable {
    rules: &[
        Rule::new("model.embed_tokens.weight", "token_embd.weight"),
        Rule::new("model.norm.weight", "output_norm.weight"),
        Rule::new("lm_head.weight", "output.weight"),
        Rule::new("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight"),
        Rule::new("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight"),
        Rule::new("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight"),
        Rule::new("model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight"),
        Rule::new("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight"),
        Rule::new("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight"),
        Rule::new("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight"),
        Rule::new("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight"),
        Rule::new("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight"),
        Rule::new("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight"),
        Rule::new("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight"),
    ],
    tolerated: &["*.rotary_emb.inv_freq"],
};

fn used(layers: usize) -> Vec<String> {
    let layer = |i: usize| QWEN3.rules.iter().filter(|r| r.hf.contains("{}")).map(move |r| r.hf.replace("{}", &i.to_string()));
    ["model.embed_tokens.weight", "model.norm.weight"].map(str::to_owned).into_iter().chain((0..layers).flat_map(layer)).collect()
}

fn opened(path: &Path) -> Arc<Checkpoint> {
    Arc::new(open_with(LoadOpts::map(), path).unwrap_or_else(|e| panic!("{e}")))
}

fn weights(c: &Arc<Checkpoint>) -> WeightMap {
    WeightMap::new(Arc::clone(c), &QWEN3, HeadCounts { query: 4, key_value: 2 })
}

#[test]
fn both_formats_answer_to_checkpoint_names() {
    let (hf, gguf) = (opened(&fixture("qwen3")), opened(&fixture("qwen3-gguf/Q4_0.gguf")));
    assert_eq!((hf.format(), gguf.format()), (WeightFormat::Safetensors, WeightFormat::Gguf));
    assert_eq!(hf.dir(), fixture("qwen3"));
    let total: u64 = hf.tensors().map(|t| t.bytes).sum();
    assert_eq!(hf.total_bytes(), total);
    for (c, layers, dtype) in [(&hf, 3, DType::BF16), (&gguf, 2, DType::Block(BlockFormat::Q4_0))] {
        let w = weights(c);
        let names = used(layers);
        w.check(names.iter().map(String::as_str), &[]).unwrap_or_else(|e| panic!("{e}"));
        assert!(w.is_tied("lm_head.weight"));
        let q = w.get("model.layers.1.self_attn.q_proj.weight").unwrap();
        assert_eq!((q.dtype, q.shape), (dtype, &[128, 64][..]));
        assert_eq!(q.bytes().len(), 128 * dtype.row_bytes(64).unwrap());
        assert!(q.data.is_mapped());
    }
    let direct = Gguf::open(fixture("qwen3-gguf/Q4_0.gguf")).unwrap();
    let info = direct.tensor("blk.1.attn_q.weight").unwrap();
    assert_eq!(weights(&gguf).get("model.layers.1.self_attn.q_proj.weight").unwrap().bytes(), direct.tensor_bytes(info).unwrap());
}

#[test]
fn missing_and_extra_weights_are_listed_with_the_nearest() {
    let c = opened(&fixture("qwen3-gguf/Q4_0.gguf"));
    let w = weights(&c);
    let mut names = used(2);
    names.retain(|n| n != "model.layers.0.mlp.up_proj.weight");
    names.push("model.layers.2.mlp.up_proj.weight".into());
    let report = w.report(names.iter().map(String::as_str), &[]);
    assert_eq!(report.extra, ["blk.0.ffn_up.weight"]);
    let [missing] = report.missing.as_slice() else { panic!("{report}") };
    assert_eq!((missing.name.as_str(), missing.stored.as_deref()), ("model.layers.2.mlp.up_proj.weight", Some("blk.2.ffn_up.weight")));
    assert!(missing.nearest.contains(&"blk.0.ffn_up.weight".to_owned()), "{missing}");
    let e = w.check(names.iter().map(String::as_str), &[]).unwrap_err();
    assert!(matches!(e, NamesError::Mismatch { .. }));
    assert!(e.to_string().contains("Q4_0.gguf") && e.to_string().contains("not used: \"blk.0.ffn_up.weight\""), "{e}");
    // Patterns are of checkpoint names, whatever the format.
    let rest = used(2).into_iter().filter(|n| !n.contains("_norm")).collect::<Vec<_>>();
    let report = w.report(rest.iter().map(String::as_str), &["*.self_attn.*_norm.weight"]);
    assert!(report.extra.is_empty() && report.missing.is_empty(), "{report}");
    let message = w.get("model.layers.0.mlp.gate.weight").unwrap_err().to_string();
    assert!(message.contains("no tensor named \"model.layers.0.mlp.gate.weight\""), "{message}");
    let c = opened(&fixture("qwen3"));
    let message = c.get("model.layers.0.mlp.gate.weight").unwrap_err().to_string();
    assert!(message.contains("nearest: \"model.layers.0.mlp.gate_proj.weight\""), "{message}");
}

#[test]
fn a_graph_takes_types_from_the_checkpoint_and_reports_both_shapes() {
    for (path, dtype) in [("qwen3", DType::BF16), ("qwen3-gguf/Q4_0.gguf", DType::Block(BlockFormat::Q4_0))] {
        let c = opened(&fixture(path));
        let w = weights(&c);
        let b = Builder::with("toy", Options::default(), w.param_types());
        let root = b.root();
        let embed = root.param("model.embed_tokens.weight", [320, 64]);
        assert_eq!(embed.dtype(), dtype);
        root.param("model.norm.weight", [65]);
        root.param("model.nrm.weight", [64]);
        let diags = b.finish(&[]).unwrap_err().to_string();
        assert!(diags.contains("norm.weight\" has shape [64], but the model needs [65]"), "{diags}");
        assert!(diags.contains("no tensor \"model.nrm.weight\""), "{diags}");
    }
    let c = opened(&fixture("qwen3"));
    let e = weights(&c).param_type("model.norm.weight", &[Dim::sym("T")]).unwrap_err();
    assert!(e.contains("[64]") && e.contains("[T]"), "{e}");
}

#[test]
fn llama_rows_are_put_back_without_decoding_blocks() {
    const TABLE: NameTable =
        NameTable { rules: &[Rule::with("q.weight", "attn_q.weight", Transform::LlamaRopeRows(Heads::Query))], tolerated: &[] };
    let row = |r: u8| [r; 18];
    let stored: Vec<u8> = [0, 2, 1, 3].into_iter().flat_map(row).collect();
    let mut writer = GgufWriter::new();
    writer.put("general.architecture", "llama").unwrap();
    writer.tensor("attn_q.weight", TensorType::Block(BlockFormat::Q4_0), &[4, 32], stored).unwrap();
    let dir = dir_with(&[("m.gguf", &writer.to_bytes())]);
    let c = opened(dir.path());
    let get = |query| {
        WeightMap::new(Arc::clone(&c), &TABLE, HeadCounts { query, key_value: 1 })
            .get("q.weight")
            .map(|v| (v.data.to_vec(), v.data.is_mapped()))
    };
    assert_eq!(get(1).unwrap(), ((0..4).flat_map(row).collect(), false));
    let message = get(3).unwrap_err().to_string();
    assert!(message.contains("attn_q.weight") && message.contains("4 rows") && message.contains("3 heads"), "{message}");
}

fn toy(name: &str) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.put("general.architecture", "toy").unwrap();
    writer.tensor(name, TensorType::F32, &[2], vec![0u8; 8]).unwrap();
    writer.to_bytes()
}

#[test]
fn a_directory_of_gguf_files_resolves_by_quantisation_or_number() {
    let files: Vec<(&str, Vec<u8>)> =
        ["m-F16.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m.gguf"].into_iter().map(|n| (n, toy(n))).collect();
    let refs: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, &b[..])).collect();
    let dir = dir_with(&refs);
    let chosen = |opts: LoadOpts| open_with(opts, dir.path()).map(|c| c.path().file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(chosen(LoadOpts::default()).unwrap(), "m-Q4_K_M.gguf");
    assert_eq!(chosen(LoadOpts::default().prefer_quant("q8_0")).unwrap(), "m-Q8_0.gguf");
    assert_eq!(chosen(LoadOpts::default().gguf_index(3)).unwrap(), "mmproj-m.gguf");
    for opts in [LoadOpts::default().prefer_quant("Q2_K"), LoadOpts::default().gguf_index(4)] {
        let message = chosen(opts).unwrap_err().to_string();
        assert!(message.contains("1: m-Q4_K_M.gguf") && message.contains("--gguf-index"), "{message}");
    }
    let two = dir_with(&refs[2..]);
    assert!(open_with(LoadOpts::map(), two.path()).unwrap().path().ends_with("m-Q8_0.gguf"));
    // Safetensors go first unless a GGUF file is asked for by number.
    std::fs::copy(fixture("qwen3/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert_eq!(chosen(LoadOpts::default()).unwrap(), "model.safetensors");
    assert_eq!(chosen(LoadOpts::default().gguf_index(0)).unwrap(), "m-F16.gguf");
}

fn part(no: u16, tensor: &str) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.put("general.architecture", "toy").unwrap();
    writer.put("split.no", no).unwrap().put("split.count", 2u16).unwrap();
    writer.tensor(tensor, TensorType::F32, &[2], vec![no as u8; 8]).unwrap();
    writer.to_bytes()
}

#[test]
fn split_gguf_opens_as_one_from_directory_or_part() {
    let (a, b) = (part(0, "a"), part(1, "b"));
    let dir = dir_with(&[("m-00001-of-00002.gguf", &a), ("m-00002-of-00002.gguf", &b)]);
    for path in [dir.path().to_owned(), dir.path().join("m-00002-of-00002.gguf")] {
        let c = opened(&path);
        assert_eq!((c.tensors().len(), c.files().len()), (2, 2));
        assert_eq!(c.get("b").unwrap().bytes(), [1; 8]);
    }
    std::fs::remove_file(dir.path().join("m-00001-of-00002.gguf")).unwrap();
    let message = open_with(LoadOpts::map(), dir.path()).unwrap_err().to_string();
    assert!(message.contains("m-00001-of-00002.gguf"), "{message}");
}

#[test]
fn a_sharded_checkpoint_equals_the_whole() {
    let whole = opened(&fixture("qwen3"));
    let mut shards = [String::from("{"), String::from("{")];
    let (mut data, mut map) = ([vec![], vec![]], String::new());
    for (i, t) in whole.tensors().enumerate() {
        let (s, bytes) = (i % 2, whole.view(t).unwrap());
        let at = data[s].len();
        data[s].extend_from_slice(bytes.bytes());
        let comma = |text: &str| if text.len() > 1 { "," } else { "" };
        let entry = format!(
            r#"{}"{}":{{"dtype":"BF16","shape":{:?},"data_offsets":[{at},{}]}}"#,
            comma(&shards[s]),
            t.name,
            t.shape,
            data[s].len()
        );
        shards[s] += &entry;
        map += &format!(r#"{}"{}":"m-{s}.safetensors""#, if i > 0 { "," } else { "" }, t.name);
    }
    let files = [0, 1].map(|s| safetensors(&format!("{}}}", shards[s]), &data[s]));
    let index = format!(r#"{{"weight_map":{{{map}}}}}"#);
    let dir =
        dir_with(&[("m-0.safetensors", &files[0]), ("m-1.safetensors", &files[1]), ("model.safetensors.index.json", index.as_bytes())]);
    let sharded = opened(dir.path());
    assert_eq!((sharded.files().len(), sharded.total_bytes()), (2, whole.total_bytes()));
    for t in whole.tensors() {
        let (a, b) = (whole.view(t).unwrap(), sharded.get(&t.name).unwrap());
        assert_eq!((a.dtype, a.shape, a.bytes()), (b.dtype, b.shape, b.bytes()), "{}", t.name);
    }
}

#[test]
fn files_without_extension_go_by_content() {
    let hf = std::fs::read(fixture("qwen3/model.safetensors")).unwrap();
    let dir = dir_with(&[("blob1", &toy("a")), ("blob2", &hf)]);
    assert_eq!(opened(&dir.path().join("blob1")).format(), WeightFormat::Gguf);
    assert_eq!(opened(&dir.path().join("blob2")).format(), WeightFormat::Safetensors);
}

#[test]
fn gguf_11_unknown_types_are_refused_at_use() {
    let get = |bytes: &[u8]| {
        let dir = dir_with(&[("m.gguf", bytes)]);
        bounded(bytes.len(), || {
            let c = open_with(LoadOpts::map(), dir.path())?;
            let found = (c.find("a").unwrap().stored, c.get("a").map(|v| v.data)?);
            Ok::<_, WeightsError>(found)
        })
    };
    let mut bytes = toy("a");
    let at = bytes.len() - 8;
    let header = bytes[..at].windows(9).position(|w| w == b"\x01\0\0\0\0\0\0\0a").unwrap();
    let ty = header + 9 + 4 + 8;
    assert_eq!(bytes[ty..ty + 4], 0u32.to_le_bytes());
    let (stored, data) = get(&bytes).unwrap();
    assert_eq!((stored, &*data), (StoredType::Known(DType::F32), &[0; 8][..]));
    for number in [4, 5, 31, 32, 33, 1000, u32::MAX] {
        bytes[ty..ty + 4].copy_from_slice(&number.to_le_bytes());
        let dir = dir_with(&[("m.gguf", &bytes)]);
        assert_eq!(opened(dir.path()).find("a").unwrap().stored, StoredType::Ggml(number));
        let e = get(&bytes).unwrap_err();
        assert!(matches!(&e, WeightsError::UnsupportedType { .. }), "{e}");
        for part in ["m.gguf", "\"a\"", &format!("ggml type {number}"), "q4_k"] {
            assert!(e.to_string().contains(part), "{part} is not in: {e}");
        }
    }
}

/// A type that is known and that a model cannot take: whoever asks for the parameter is told so.
#[test]
fn gguf_11_known_types_without_a_use() {
    let mut writer = GgufWriter::new();
    writer.put("general.architecture", "toy").unwrap();
    writer.tensor("output_norm.weight", TensorType::I8, &[64], vec![0u8; 64]).unwrap();
    writer.tensor("blk.0.attn_norm.weight", TensorType::F32, &[64], vec![0u8; 256]).unwrap();
    let bytes = writer.to_bytes();
    let dir = dir_with(&[("m.gguf", &bytes)]);
    let build = |name: &str| {
        bounded(bytes.len(), || {
            let map = WeightMap::new(Arc::new(open_with(LoadOpts::map(), dir.path()).unwrap()), &QWEN3, HeadCounts::default());
            let b = Builder::with("toy", Options::default(), map.param_types());
            let x = b.input("x", rlx_ir::Type::tensor(DType::F32, [1, 64]));
            let y = b.root().rms_norm(name, x, 1e-6).id();
            b.finish(&[("y", y)]).map(drop).map_err(|e| e.to_string())
        })
    };
    build("model.layers.0.input_layernorm").unwrap();
    let message = build("model.norm").unwrap_err();
    assert!(message.contains("i8"), "{message}");
}

struct Toy(&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

impl Family for Toy {
    fn name(&self) -> &'static str {
        self.0
    }
    fn model_types(&self) -> &'static [&'static str] {
        self.1
    }
    fn architectures(&self) -> &'static [&'static str] {
        self.2
    }
    fn gguf_architectures(&self) -> &'static [&'static str] {
        self.3
    }
    fn program(&self) -> &'static str {
        "rlx-toy"
    }
}

const FAMILIES: [&dyn Family; 2] =
    [&Toy("llama", &["llama"], &["LlamaForCausalLM"], &["llama"]), &Toy("qwen3", &["qwen3"], &["Qwen3ForCausalLM"], &["qwen3"])];

/// The family of a checkpoint of one small tensor with this configuration.
fn family(config: &str) -> Result<&'static str, String> {
    let weights = safetensors(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]);
    let dir = dir_with(&[("config.json", config.as_bytes()), ("model.safetensors", &weights)]);
    bounded(config.len() + weights.len(), || {
        let id = identify(dir.path(), LoadOpts::map()).map_err(|e| e.to_string())?;
        find(&FAMILIES, &id).map(|f| f.name()).map_err(|e| e.to_string())
    })
}

#[test]
fn config_25_unknown_model_types_and_empty_architectures_find_no_family() {
    assert_eq!(family(r#"{"model_type":"qwen3"}"#).unwrap(), "qwen3");
    assert_eq!(family(r#"{"model_type":"qwen3","architectures":[]}"#).unwrap(), "qwen3");
    assert_eq!(family(r#"{"model_type":null,"architectures":["Qwen3ForCausalLM"]}"#).unwrap(), "qwen3");
    let classes = |n: usize| format!(r#"{{"architectures":["LlamaForCausalLM"{}]}}"#, ",\"\"".repeat(n));
    assert_eq!(family(&classes(1000)).unwrap(), "llama");
    for (config, parts) in [
        (r#"{"model_type":"qwen4"}"#.to_owned(), &["model_type \"qwen4\"", "nearest: \"qwen3\"", "known: llama, qwen3"][..]),
        (r#"{"model_type":"Qwen3"}"#.into(), &["model_type \"Qwen3\"", "nearest: \"qwen3\""]),
        (r#"{"architectures":["Qwen4ForCausalLM"]}"#.into(), &["architecture \"Qwen4ForCausalLM\"", "nearest: \"Qwen3ForCausalLM\""]),
        (r#"{"architectures":[]}"#.into(), &["does not say what it is"]),
        ("{}".into(), &["does not say what it is"]),
        (r#"{"model_type":7}"#.into(), &["config.json: model_type is 7", "a string"]),
        (r#"{"architectures":"Qwen3ForCausalLM"}"#.into(), &["config.json: architectures is", "a list of strings"]),
        (format!(r#"{{"model_type":"{}"}}"#, "x".repeat(1 << 20)), &["model_type \"xxx", "(1048576 bytes)"]),
        (classes(1_000_000), &["config.json: architectures is", "at most 4096"]),
    ] {
        let message = family(&config).unwrap_err();
        assert!(parts.iter().all(|p| message.contains(p)) && message.len() < 1000, "{parts:?} not all in: {message}");
    }
    for path in ["qwen3", "qwen3-gguf/Q4_0.gguf"] {
        let id = identify(fixture(path), LoadOpts::map()).unwrap();
        assert_eq!(find(&FAMILIES, &id).unwrap().name(), "qwen3", "{id}");
        assert_eq!(id.files.len(), 1);
    }
    let mut id = Identity::default();
    id.architectures = vec!["Qwen3ForCausalLM".into()];
    assert_eq!(find(&FAMILIES, &id).unwrap().name(), "qwen3");
    id.model_type = Some("qwen4".into());
    id.architectures = vec!["Qwen4ForCausalLM".into()];
    let e = find(&FAMILIES, &id).err().unwrap();
    assert_eq!(e.nearest, ["qwen3"]);
    assert!(e.to_string().contains("model_type \"qwen4\"") && e.to_string().contains("known: llama, qwen3"), "{e}");
    assert!(find(&FAMILIES, &Identity::default()).err().unwrap().to_string().contains("does not say what it is"));
}

#[test]
fn the_vocabulary_of_the_committed_file_reads() {
    let gguf = Gguf::open(fixture("qwen3-gguf/Q4_0.gguf")).unwrap();
    let v = GgufVocab::read(&gguf).unwrap().unwrap();
    assert_eq!((v.model.as_str(), v.pre.as_deref(), v.tokens.len(), v.merges.len()), ("gpt2", Some("qwen2"), 320, 59));
    assert_eq!((v.bos_id, v.eos_id, v.pad_id, v.add_bos), (Some(315), Some(317), Some(315), Some(false)));
    assert_eq!((v.tokens[0].as_str(), v.token_types.unwrap().len(), v.scores), ("!", 320, None));
    assert_eq!(GgufVocab::read(&Gguf::from_bytes(toy("a")).unwrap()).unwrap(), None);
}

#[test]
fn gguf_15_vocabulary() {
    // Where the entry of the last key and the first element of its list begin.
    let at = std::cell::Cell::new((0, 0));
    let read = |key: &str, value: Value| {
        let list = |v: &[&str]| Value::from(v.iter().collect::<rlx_gguf::StringArray>());
        let mut all: Vec<(String, Value)> = [
            ("model", "llama".into()),
            ("tokens", list(&["a", "b", "c"])),
            ("scores", vec![0f32, 1.0, 2.0].into()),
            ("token_type", vec![1i32, 1, 3].into()),
            ("bos_token_id", 2u32.into()),
        ]
        .map(|(k, v)| (format!("tokenizer.ggml.{k}"), v))
        .into();
        let key = format!("tokenizer.ggml.{key}");
        all.retain(|kv| kv.0 != key);
        let mut writer = GgufWriter::new();
        for (k, v) in all.into_iter().chain([(key.clone(), value)]) {
            writer.put(&k, v).unwrap();
        }
        let bytes = writer.to_bytes();
        let n = bytes.len();
        let entry = bytes.windows(key.len()).rposition(|w| w == key.as_bytes()).unwrap() - 8;
        at.set((entry, entry + 8 + key.len() + 4 + 4 + 8));
        let gguf = Gguf::from_bytes(bytes).unwrap();
        bounded(n, || GgufVocab::read(&gguf)).map_err(|e| e.to_string())
    };
    let v = read("pre", "default".into()).unwrap().unwrap();
    assert_eq!((v.tokens.len(), v.scores.unwrap(), v.token_types.unwrap(), v.bos_id), (3, vec![0.0, 1.0, 2.0], vec![1, 1, 3], Some(2)));
    // Types are small numbers, whatever integer holds them.
    assert_eq!(read("token_type", vec![1u8, 1, 3].into()).unwrap().unwrap().token_types, Some(vec![1, 1, 3]));
    assert_eq!(read("eos_token_id", u32::MAX.into()).unwrap().unwrap().eos_id, None);
    let none: Vec<&str> = vec![];
    for (key, value, why) in [
        ("scores", vec![0f32].into(), "found 1 values, expected 3"),
        ("scores", vec![1u8, 2, 3].into(), "an array of floats"),
        ("token_type", vec![1i32; 4].into(), "found 4 values, expected 3"),
        ("token_type", vec![1f32; 3].into(), "an array of integers"),
        ("bos_token_id", 3u32.into(), "an id below the 3 tokens"),
        ("eos_token_id", (-1i32).into(), "tokenizer.ggml.eos_token_id"),
        ("tokens", Value::from(none.iter().collect::<rlx_gguf::StringArray>()), "found 0 tokens"),
        ("tokens", vec![1u32].into(), "an array of strings"),
        ("tokens", Value::from(["x".repeat(1 << 20)].iter().collect::<rlx_gguf::StringArray>()), "token 0 of 1048576 bytes"),
        ("precompiled_charsmap", vec![1f32].into(), "an array of bytes"),
        ("add_bos_token", 1u32.into(), "a bool"),
    ] {
        let message = read(key, value).expect_err(key);
        assert!(message.contains(why) && message.contains("tokenizer.ggml."), "{key}: {message}");
        let entry = at.get();
        assert!(
            message.contains(&format!(" at byte {}", if why.starts_with("token 0") { entry.1 } else { entry.0 })),
            "{entry:?} {message}"
        );
    }
}

/// Every family of the reference set opens, says what it is, and has a configuration that reads.
#[test]
fn every_reference_checkpoint_opens() {
    let Some(oracle) = oracle() else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(&oracle).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.join("model.safetensors").exists() {
            continue;
        }
        let c = opened(&dir);
        let id = Identity::of(&c).unwrap_or_else(|e| panic!("{e}"));
        assert!(id.model_type.is_some(), "{}", dir.display());
        let src = ConfigSource::open(&c).unwrap_or_else(|e| panic!("{e}"));
        assert!(src.vocab_size().unwrap_or_else(|e| panic!("{e}")) > 0);
        for t in c.tensors() {
            let view = c.view(t).unwrap_or_else(|e| panic!("{e}"));
            let row = view.shape.last().copied().unwrap_or(1);
            let rows: usize = view.shape.iter().rev().skip(1).product();
            assert_eq!(Some(view.bytes().len()), view.dtype.row_bytes(row).map(|b| b * rows), "{}", t.name);
        }
        count += 1;
    }
    assert!(count >= 30, "{count} checkpoints");
}

#[test]
fn every_reference_gguf_opens() {
    let Some(oracle) = oracle() else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(oracle.join("gguf/models")).unwrap() {
        for file in std::fs::read_dir(entry.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let c = opened(&path);
            assert!(Identity::of(&c).unwrap().gguf_arch.is_some());
            let src = ConfigSource::open(&c).unwrap();
            let vocab = GgufVocab::read(c.gguf().unwrap()).unwrap_or_else(|e| panic!("{e}")).unwrap();
            assert_eq!(vocab.tokens.len(), src.vocab_size().unwrap(), "{}", path.display());
            for t in c.tensors() {
                assert_eq!(c.view(t).unwrap_or_else(|e| panic!("{e}")).bytes().len() as u64, t.bytes);
            }
            count += 1;
        }
    }
    assert!(count >= 30, "{count} files");
}

/// Every Qwen3 file holds exactly the weights of its configuration, and GGUF metadata says the same as config.json.
#[test]
fn every_reference_qwen3_is_complete() {
    use rlx_core::config::{DecoderConfig, RopeArgs, rope};
    let Some(oracle) = oracle() else { return };
    let mut paths = vec![oracle.join("qwen3")];
    let gguf = oracle.join("gguf/models/qwen3");
    paths.extend(["BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"].map(|q| gguf.join(format!("{q}.gguf"))));
    for path in paths {
        let c = opened(&path);
        let src = ConfigSource::open(&c).unwrap();
        let config = DecoderConfig::from_source(&src).unwrap_or_else(|e| panic!("{e}"));
        let names = used(config.num_hidden_layers);
        weights(&c).check(names.iter().map(String::as_str), &[]).unwrap_or_else(|e| panic!("{e}"));
        if c.format() == WeightFormat::Gguf {
            let beside = ConfigSource::from_dir(c.dir()).unwrap();
            let json = DecoderConfig::from_source(&beside).unwrap();
            assert_eq!(DecoderConfig { tie_word_embeddings: json.tie_word_embeddings, ..config.clone() }, json);
            let args = RopeArgs::new(config.head_dim);
            assert_eq!(rope(&src, &args).unwrap(), rope(&beside, &args).unwrap());
        }
    }
}

/// Rotary embeddings of the reference configurations, in JSON and in GGUF, mean the same frequencies.
#[test]
fn reference_ropes_agree_between_formats() {
    use rlx_core::config::{DecoderConfig, RopeArgs, rope};
    let Some(oracle) = oracle() else { return };
    for (family, file) in [("llama", "F16.gguf"), ("gpt_oss", "F16.gguf"), ("qwen2", "F16.gguf"), ("qwen3_moe", "F16.gguf")] {
        let c = opened(&oracle.join("gguf/models").join(family).join(file));
        let (src, beside) = (ConfigSource::open(&c).unwrap(), ConfigSource::from_dir(c.dir()).unwrap());
        let head_dim = DecoderConfig::from_source(&beside).unwrap().head_dim;
        let args = RopeArgs::new(head_dim);
        let (a, b) = (rope(&src, &args).unwrap().frequencies(), rope(&beside, &args).unwrap().frequencies());
        assert!((a.1 - b.1).abs() < 1e-6, "{family}: {} {}", a.1, b.1);
        assert_eq!(a.0.len(), b.0.len());
        for (x, y) in a.0.iter().zip(&b.0) {
            assert!((x / y - 1.0).abs() < 1e-6, "{family}: {x} {y}");
        }
    }
}
