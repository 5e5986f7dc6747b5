//! `rlx-inspect` as users run it: whole checkpoints, and broken ones.

use rlx_gguf::{Gguf, GgufWriter};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const CHAT: &str = "weights/rlx-tiny-chat";
const GGUF: &str = "weights/rlx-tiny-chat-gguf/rlx-tiny-chat-Q4_K_M.gguf";
const NORM: &str = "model.layers.0.input_layernorm.weight";
const DOWN: &str = "model.layers.3.mlp.down_proj.weight";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Exit code, stdout, stderr.
fn run(program: &str, args: &[&str]) -> (i32, String, String) {
    let out = Command::new(program).args(args).current_dir(root("")).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    let (code, out, err) = (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr));
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    (code, out, err)
}

fn inspect(args: &[&str]) -> (i32, String, String) {
    run(env!("CARGO_BIN_EXE_rlx-inspect"), args)
}

/// The JSON object, with the exit code that is expected.
fn object(code: i32, args: &[&str]) -> Value {
    let (found, out, err) = inspect(&[args, &["--json", "--quiet"]].concat());
    assert_eq!(found, code, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// A copy of the shipped model to be damaged.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root(CHAT)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

/// Changes the bytes of a tensor of `model.safetensors`.
fn change(dir: &Path, tensor: &str, f: impl FnOnce(&mut [u8])) {
    let file = dir.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let n = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..n]).unwrap();
    let at = |i: usize| n + header[tensor]["data_offsets"][i].as_u64().unwrap() as usize;
    f(&mut bytes[at(0)..at(1)]);
    fs::write(&file, &bytes).unwrap();
}

/// A safetensors file with these f32 tensors.
fn safetensors(file: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), vec![]);
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        header.insert((*name).into(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let header = Value::from(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(file, bytes).unwrap();
}

/// The shipped GGUF file as three parts in `dir`.
fn split(dir: &Path) -> [PathBuf; 3] {
    let gguf = Gguf::open(root(GGUF)).unwrap();
    [0u16, 1, 2].map(|no| {
        let mut w = GgufWriter::new();
        w.put("split.no", no).unwrap().put("split.count", 3u16).unwrap();
        for (key, value) in gguf.metadata().iter().filter(|_| no == 0) {
            w.put(key, value.clone()).unwrap();
        }
        for (_, t) in gguf.tensors().iter().enumerate().filter(|(i, _)| i % 3 == usize::from(no)) {
            w.tensor(&t.name, t.ty, &t.shape, gguf.tensor_bytes(t).unwrap()).unwrap();
        }
        let path = dir.join(format!("m-{:05}-of-00003.gguf", no + 1));
        fs::write(&path, w.to_bytes()).unwrap();
        path
    })
}

const MEMBERS: &str = "schema path errors format version model kind verdict reasons program command memory files parts tensors parameters bytes \
    bits_per_weight types mtp quantization tokenizer chat_template settings file_metadata plan render scan";

#[test]
fn a_checkpoint_is_told_in_full() {
    let v = object(0, &[CHAT]);
    assert_eq!((&v["format"], &v["program"], &v["kind"]), (&"safetensors".into(), &"rlx-qwen3".into(), &"llm".into()));
    assert_eq!((&v["verdict"], &v["command"]), (&"SUPPORTED".into(), &format!("rlx-qwen3 {CHAT}").into()));
    assert_eq!((&v["errors"], &v["parts"]), (&json!({}), &json!({ "count": 1, "missing": [] })));
    assert_eq!(v["types"], json!({ "bf16": { "tensors": 90, "parameters": 6984960, "bytes": 13969920, "bits_per_weight": 16.0 } }));
    assert_eq!((&v["tokenizer"]["tokens"], &v["tokenizer"]["kind"]), (&2675.into(), &"byte-level BPE".into()));
    assert_eq!((&v["tokenizer"]["eos"], &v["tokenizer"]["adds_before"]), (&json!({ "id": 2, "text": "<|im_end|>" }), &json!([])));
    assert_eq!(v["tokenizer"]["special"][0], json!({ "id": 0, "text": "<|endoftext|>", "control": true }));
    assert_eq!(v["chat_template"]["place"], "tokenizer_config.json");
    assert_eq!((&v["chat_template"]["tools"], &v["chat_template"]["convention"]), (&true.into(), &"hermes".into()));
    assert_eq!((&v["settings"]["hidden_size"], &v["file_metadata"]["format"]), (&256.into(), &"pt".into()));
    let opened: Vec<&str> =
        v["files"].as_array().unwrap().iter().filter(|f| f["opened"] == true).map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(opened, ["model.safetensors"]);
    for key in ["plan", "render", "scan", "version", "quantization"] {
        assert!(v.get(key).is_some_and(Value::is_null), "{key}: {v}");
    }

    let v = object(0, &[GGUF]);
    assert_eq!((&v["format"], &v["version"], &v["settings"]["general.architecture"]), (&"gguf".into(), &3.into(), &"qwen3".into()));
    assert_eq!(v["types"]["q6_k"]["tensors"], 9);
    assert_eq!((&v["tokenizer"]["place"], &v["tokenizer"]["pre"]), (&"GGUF metadata".into(), &"qwen2".into()));
    assert_eq!(v["settings"]["tokenizer.ggml.tokens"]["count"], 2688);

    let (code, text, err) = inspect(&[GGUF]);
    assert_eq!((code, err.as_str()), (0, ""));
    for w in ["GGUF v3", "rlx-qwen3 weights/", "q4_k", "bits/weight", "splits as   qwen2", "hermes", "qwen3.block_count", "… 2688 strings]"]
    {
        assert!(text.contains(w), "no {w:?} in {text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
}

/// Programs read the members that help lists, whatever the checkpoint is.
#[test]
fn the_members_of_the_object_are_always_there() {
    let (_, help, _) = inspect(&["--help"]);
    let broken = tempfile::tempdir().unwrap();
    fs::write(broken.path().join("model.safetensors"), b"broken").unwrap();
    for (code, path) in [(0, CHAT), (1, broken.path().to_str().unwrap()), (1, "README.md")] {
        let v = object(code, &[path]);
        let members: Vec<&str> = MEMBERS.split_whitespace().collect();
        for key in &members {
            assert!(v.get(key).is_some(), "{path}: no {key}");
            assert!(help.contains(key), "help does not tell of {key}");
        }
        assert_eq!(v.as_object().unwrap().len(), members.len(), "{path}");
    }
}

#[test]
fn planned_bytes_are_those_of_rlx_run_plan() {
    let v = object(0, &[GGUF, "--plan", "512,1024", "--set", "kv=f32"]);
    let rows = v["plan"]["by_context"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let tokens = row["tokens"].to_string();
        let (_, out, _) = run(env!("CARGO_BIN_EXE_rlx-run"), &["plan", GGUF, "--max-seq", &tokens, "--set", "kv=f32", "--json"]);
        let plan: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(row["memory"], plan["memory"], "{tokens}");
    }
    let total = rows[1]["memory"]["total"].to_string();
    let (_, text, _) = inspect(&[GGUF, "--plan", "512,1024", "--set", "kv=f32"]);
    assert!(text.lines().any(|l| l.trim_start().starts_with("1024 ") && l.ends_with(&total)), "{text}");
    assert_eq!(inspect(&[GGUF, "--plan", "0"]).0, 2);
    assert_eq!(inspect(&[GGUF, "--plan", "5", "--max-seq", "6"]).0, 2);
}

#[test]
fn a_broken_part_leaves_the_rest() {
    let whole = object(0, &[CHAT]);
    for (file, content, section, words) in [
        ("tokenizer.json", "{\"model\": {\"type\": \"BPE\"", "tokenizer", "tokenizer.json"),
        ("tokenizer_config.json", "{", "tokenizer", "tokenizer_config.json"),
        ("config.json", "{\"model_type\": \"qwen3\",,}", "settings", "config.json"),
        ("config.json", "[1, 2]", "settings", "config.json"),
        ("chat_template.json", "{\"chat_template\": 7}", "chat_template", "chat_template.json"),
    ] {
        let dir = copy();
        fs::write(dir.path().join(file), content).unwrap();
        let path = dir.path().to_str().unwrap();
        let v = object(0, &[path]);
        let why = v["errors"][section].as_str().unwrap_or_else(|| panic!("{file}: {}", v["errors"]));
        assert!(why.contains(words), "{file}: {why}");
        assert!(v[section].is_null(), "{file}");
        assert_eq!((&v["types"], &v["tensors"]), (&whole["types"], &whole["tensors"]), "{file}");
        for other in ["settings", "tokenizer", "chat_template"].into_iter().filter(|o| *o != section) {
            // The end of an answer and the place of the template are told by other files than their own.
            let related = (section, other) == ("settings", "tokenizer") || file == "tokenizer_config.json";
            assert!(related || v[other] == whole[other], "{file}: {other}");
        }
        let (code, text, _) = inspect(&[path]);
        assert!(code == 0 && text.contains("broken") && text.contains("bf16"), "{file}: {text}");
    }
}

#[test]
fn a_broken_template_is_told_and_its_length_and_calls_all_the_same() {
    let dir = copy();
    let source = "{% if %}<tool_call>";
    fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    let path = dir.path().to_str().unwrap();
    let v = object(1, &[path, "--render", "--scan"]);
    assert_eq!((&v["chat_template"]["place"], &v["chat_template"]["convention"]), (&"chat_template.jinja".into(), &"hermes".into()));
    assert_eq!(v["chat_template"]["templates"], json!([{ "name": "default", "bytes": source.len() }]));
    assert!(v["chat_template"]["error"].as_str().is_some_and(|e| e.contains("line 1")), "{v}");
    assert!(v["errors"]["render"].as_str().is_some_and(|e| e.contains("line 1")), "{v}");
    assert!(v["tokenizer"]["tokens"] == 2675 && v["scan"]["tensors"] == 90, "the rest goes on");
    assert_eq!(object(0, &[path])["chat_template"]["error"], v["chat_template"]["error"], "told, and no failure unless asked for");
}

#[test]
fn the_template_is_rendered_with_and_without_a_tool() {
    for weights in [CHAT, GGUF] {
        let v = object(0, &[weights, "--render"]);
        let of = |i: usize, key: &str| v["render"][i][key].clone();
        let text = of(0, "text");
        assert!(text.as_str().unwrap().ends_with("And of Sweden?<|im_end|>\n<|im_start|>assistant\n"), "{text}");
        assert_eq!((of(0, "tokens"), of(0, "ids").as_array().unwrap().len()), (48.into(), 48));
        let tool = of(1, "text");
        let words =
            ["<tools>", "get_weather", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}", "4 °C, rain"];
        for w in words {
            assert!(tool.as_str().unwrap().contains(w), "no {w:?} in {tool}");
        }
        assert!(of(2, "text").is_null());
    }
    let (code, text, _) = inspect(&[CHAT, "--render"]);
    assert!(code == 0 && text.contains("  | And of Sweden?<|im_end|>") && text.contains("ids         1, 428, "), "{text}");
}

#[test]
fn a_template_that_refuses_instructions_is_rendered_without_them() {
    let dir = copy();
    let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    let path = dir.path().to_str().unwrap();
    let v = object(0, &[path, "--render"]);
    assert!(v["render"][0]["error"].as_str().is_some_and(|e| e.contains("no system here")) && v["render"][0]["text"].is_null(), "{v}");
    assert!(v["render"][1]["text"].as_str().is_some_and(|t| t.starts_with("<user>What is the capital")), "{v}");
    assert_eq!((v["render"].as_array().unwrap().len(), &v["chat_template"]["tools"]), (2, &false.into()));
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    assert_eq!(object(0, &[path, "--render"])["render"][0]["error"], Value::Null);
}

#[test]
fn weights_18_nan_inf_and_zeros_are_found() {
    let dir = copy();
    let path = dir.path().to_str().unwrap();
    let clean = object(0, &[path, "--scan"]);
    assert_eq!(clean["scan"], json!({ "tensors": 90, "bytes": 13969920, "not_finite": [], "all_zero": [], "unread": [] }));
    // Row 2, column 5 of [256, 768] is NaN, the last element -Inf; a norm of zeros of either sign.
    change(dir.path(), DOWN, |b| {
        b[2 * (2 * 768 + 5)..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
        let end = b.len() - 2;
        b[end..].copy_from_slice(&0xff80u16.to_le_bytes());
    });
    change(dir.path(), NORM, |b| b.as_chunks_mut::<4>().0.iter_mut().for_each(|b| *b = [0, 0, 0, 0x80]));
    let v = object(3, &[path, "--scan"]);
    let odd = json!([{ "name": DOWN, "type": "bf16", "shape": [256, 768], "nan": 1, "inf": 1, "elements": 256 * 768, "first": 1541, "at": [2, 5] }]);
    assert_eq!(v["scan"]["not_finite"], odd);
    assert_eq!(v["scan"]["all_zero"], json!([{ "name": NORM, "type": "bf16", "shape": [256], "elements": 256 }]));
    let (code, text, err) = inspect(&[path, "--scan", "--threads", "1"]);
    assert_eq!((code, err.as_str()), (3, ""));
    assert!(text.contains("1 NaN, 1 Inf of 196608 values, first at [2, 5]") && text.contains("all zero    1 tensor"), "{text}");
    assert_eq!(inspect(&[path]).0, 0, "values are looked at when asked");
    // Weights of zeros are legal: they load, and alone they are no failure.
    change(dir.path(), DOWN, |b| b.fill(0x3c));
    assert_eq!(object(0, &[path, "--scan"])["scan"]["all_zero"].as_array().unwrap().len(), 1);
    let (code, _, err) = run(env!("CARGO_BIN_EXE_rlx-run"), &["auto", path, "--prompt", "Hi", "-n", "2", "--quiet"]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn weights_18_a_scale_that_is_inf_is_found_in_a_block_format() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    let mut bytes = fs::read(root(GGUF)).unwrap();
    let gguf = Gguf::open(root(GGUF)).unwrap();
    let t = gguf.tensors().iter().find(|t| t.ty.to_string() == "Q4_K").unwrap();
    fs::write(&file, &bytes).unwrap();
    assert_eq!(object(0, &[file.to_str().unwrap(), "--scan"])["scan"]["not_finite"], json!([]));
    // The scale `d` of the second block of 256 values.
    bytes[t.offset as usize + 144..][..2].copy_from_slice(&0x7c00u16.to_le_bytes());
    fs::write(&file, &bytes).unwrap();
    let v = object(3, &[file.to_str().unwrap(), "--scan"]);
    let found = &v["scan"]["not_finite"][0];
    let count = |key: &str| found[key].as_u64().unwrap();
    assert_eq!((found["name"].as_str(), count("first")), (Some(t.name.as_str()), 256));
    assert_eq!(count("nan") + count("inf"), 256, "{found}");
}

#[test]
fn missing_parts_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let parts = split(dir.path());
    let path = dir.path().to_str().unwrap();
    let v = object(0, &[path]);
    assert_eq!((&v["parts"]["count"], &v["tensors"], &v["program"]), (&3.into(), &90.into(), &"rlx-qwen3".into()));
    fs::remove_file(&parts[1]).unwrap();
    for place in [path, parts[0].to_str().unwrap(), parts[2].to_str().unwrap()] {
        let v = object(1, &[place]);
        assert_eq!(v["parts"], json!({ "count": 3, "missing": ["m-00002-of-00003.gguf"] }), "{place}");
        let (code, text, err) = inspect(&[place]);
        assert_eq!(code, 1);
        assert!(text.contains("2 of 3 parts; missing: m-00002-of-00003.gguf") && err.contains("m-00002-of-00003.gguf"), "{text}{err}");
    }

    // Shards of safetensors: the settings and the tokenizer beside them are told all the same.
    let dir = copy();
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("model-00001-of-00002.safetensors")).unwrap();
    let index = json!({ "weight_map": { NORM: "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors" } });
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let path = dir.path().to_str().unwrap();
    let v = object(1, &[path]);
    assert_eq!(v["parts"], json!({ "count": 2, "missing": ["model-00002-of-00002.safetensors"] }));
    assert_eq!((&v["settings"]["hidden_size"], &v["tokenizer"]["tokens"]), (&256.into(), &2675.into()));
    safetensors(&dir.path().join("model-00002-of-00002.safetensors"), &[("x", &[1], vec![1.0])]);
    assert_eq!(object(0, &[path])["tensors"], 91);
}

#[test]
fn drafting_heads_are_told() {
    let dir = copy();
    let none = object(0, &[dir.path().to_str().unwrap()]);
    assert_eq!((&none["mtp"]["tensors"], &none["mtp"]["names"]), (&0.into(), &json!([])));
    let file = dir.path().join("one.safetensors");
    safetensors(&file, &[("model.norm.weight", &[2], vec![1.0; 2]), ("mtp.fc.weight", &[2, 2], vec![1.0; 4])]);
    let v = object(0, &[file.to_str().unwrap()]);
    assert_eq!((&v["mtp"]["names"], &v["mtp"]["bytes"]), (&json!(["mtp.fc.weight"]), &16.into()));
    assert!(inspect(&[file.to_str().unwrap()]).1.contains("MTP heads   1 tensor"));
}

#[test]
fn of_several_gguf_files_the_preferred_one_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["m-Q4_K_M.gguf", "m-Q8_0.gguf"] {
        fs::copy(root(GGUF), dir.path().join(name)).unwrap();
    }
    let path = dir.path().to_str().unwrap();
    let opened = |flags: &[&str]| {
        let v = object(0, &[&[path], flags].concat());
        let files = v["files"].as_array().unwrap().clone();
        let one = files.into_iter().find(|f| f["opened"] == true).unwrap();
        assert!(v["command"].as_str().unwrap().ends_with(one["name"].as_str().unwrap()), "the command runs what was opened");
        (one["name"].as_str().unwrap().to_owned(), one["gguf_index"].as_u64().unwrap())
    };
    let (first, second) = (("m-Q4_K_M.gguf".to_owned(), 0), ("m-Q8_0.gguf".to_owned(), 1));
    assert_eq!(opened(&[]), first);
    for flags in [["--prefer", "Q8_0"], ["--prefer-quant", "q8_0"], ["--gguf-index", "1"]] {
        assert_eq!(opened(&flags), second);
    }
    let (code, text, err) = inspect(&[path, "--prefer", "Q2_K"]);
    assert_eq!(code, 1);
    assert!(err.contains("none of them Q2_K") && err.contains("--gguf-index"), "{err}");
    assert!(text.contains("m-Q8_0.gguf") && text.contains("GGUF, qwen3, Q4_K_M, --gguf-index 1"), "the choice is listed: {text}");
}

#[test]
fn what_is_no_checkpoint_is_an_error_that_says_what_was_found() {
    for (path, words) in
        [("no/such", &["no/such"][..]), ("README.md", &["README.md", "found"]), ("weights", &["no weights found", "rlx-tiny-chat"])]
    {
        let (code, _, err) = inspect(&[path]);
        assert_eq!(code, 1, "{err}");
        assert!(err.starts_with("error: ") && words.iter().all(|w| err.contains(w)), "{err}");
    }
    let dir = tempfile::tempdir().unwrap();
    let pickle = dir.path().join("pytorch_model.bin");
    fs::write(&pickle, b"PK\x03\x04not really a pickle").unwrap();
    let (code, text, err) = inspect(&[pickle.to_str().unwrap()]);
    assert!(code == 1 && err.contains("PyTorch pickle files") && err.contains("convert"), "{err}");
    assert!(text.contains("PyTorch weights, not read"), "{text}");
    let fifo = dir.path().join("fifo.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()));
    let (code, _, err) = inspect(&[fifo.to_str().unwrap()]);
    assert!(code == 1 && err.contains("FIFO"), "{err}");
}
