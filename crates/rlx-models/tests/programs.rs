//! The programs, run as users run them.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NORWAY: &str = "What is the capital of Norway?";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs a program at the workspace root with `stdin`; it must never panic.
fn run_program(program: &str, args: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(root(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its stdin may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let out = child.wait_with_output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    let ran = Ran { code: out.status.code().unwrap_or(-1), out: text(out.stdout), err: text(out.stderr) };
    assert!(!ran.err.contains("panicked"), "{args:?}: {}", ran.err);
    ran
}

fn rlx(args: &[&str]) -> Ran {
    run_program(env!("CARGO_BIN_EXE_rlx-run"), args, "")
}

/// Runs, expecting this exit code and these words on stderr.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let ran = rlx(args);
    assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
    assert_eq!(ran.out, "", "{args:?}");
    assert!(ran.err.starts_with("error: "), "{args:?}: {}", ran.err);
    for w in words {
        assert!(ran.err.contains(w), "{args:?}: no {w:?} in {}", ran.err);
    }
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.out))
}

#[test]
fn answers_on_stdout_and_figures_on_stderr() {
    let ran = rlx(&["auto", "weights/rlx-tiny-chat", "--prompt", NORWAY]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "The capital of Norway is Oslo.\n"), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.starts_with("prompt 15 tok (0 cached) ") && ran.err.contains(" · load "), "{}", ran.err);
}

#[test]
fn the_prompt_may_come_from_stdin_and_the_answer_as_json() {
    let program = env!("CARGO_BIN_EXE_rlx-run");
    let ran = run_program(
        program,
        &["qwen3", "--weights", "weights/rlx-tiny-chat-gguf", "--json", "--quiet"],
        "What is the capital of Norway?\n",
    );
    assert_eq!(ran.err, "");
    let v = json(&ran);
    assert_eq!(v["text"], "The capital of Norway is Oslo.");
    assert_eq!(v["finish"], "eos");
    assert_eq!((v["prompt_tokens"].as_u64(), v["new_tokens"].as_u64()), (Some(15), Some(8)));
    assert_eq!(v["tokens"].as_array().map(Vec::len), Some(8));
    for key in ["load_s", "prefill_s", "prefill_tokens_per_s", "decode_s", "decode_tokens_per_s"] {
        assert!(v["timings"][key].as_f64().is_some_and(|t| t > 0.0), "{key}: {v}");
    }
    let empty = run_program(program, &["auto", "weights/rlx-tiny-chat", "--prompt", "-"], "\n");
    assert_eq!(empty.code, 2, "{}", empty.err);
}

#[test]
fn flags_change_the_answer() {
    let ask = |flags: &[&str]| rlx(&[&["auto", "weights/rlx-tiny-chat", "--quiet", "--prompt", NORWAY], flags].concat()).out;
    assert_eq!(ask(&["--stop", " of Norway"]), "The capital\n");
    assert_eq!(ask(&["--max-tokens", "2", "--no-stream"]), "The capital\n");
    assert_eq!(ask(&["--packed=false", "--profile", "exact", "--threads", "1"]), "The capital of Norway is Oslo.\n");
    let sampled = ["--temperature", "2", "--seed", "7", "--top-k", "50"];
    assert_eq!(ask(&sampled), ask(&sampled), "one seed gives one answer");
    let raw = rlx(&["auto", "weights/rlx-tiny-chat", "--no-chat-template", "--prompt", "Once upon a time", "--max-tokens", "3", "--quiet"]);
    assert_eq!(raw.out, " there was a\n");
    let ids = rlx(&["auto", "weights/rlx-tiny-chat", "--prompt-ids", "657,656,274,655", "--max-tokens", "3", "--quiet"]);
    assert_eq!(ids.out, " there was a\n");
}

#[test]
fn explain_tells_what_is_in_force() {
    let ran = rlx(&["auto", "weights/rlx-tiny-chat", "--prompt", NORWAY, "--explain", "--set", "kv=f32"]);
    for w in ["device: ", "profile lm", "(--set)", "passes:", "native", "memory: "] {
        assert!(ran.err.contains(w), "no {w:?} in {}", ran.err);
    }
    assert_eq!(ran.out, "The capital of Norway is Oslo.\n");
}

#[test]
fn wrong_usage_is_2_and_says_what_would_be_right() {
    let auto = |flags: &[&'static str]| [&["auto", "weights/rlx-tiny-chat", "--prompt", "x"], flags].concat();
    fails(&auto(&["--no-such-flag"]), 2, &["--no-such-flag"]);
    fails(&auto(&["--device", "tpu"]), 2, &["unknown device `tpu`", "cpu"]);
    fails(&auto(&["--profile", "fastest"]), 2, &["fastest", "exact"]);
    fails(&auto(&["--set", "kv"]), 2, &["key=value"]);
    fails(&auto(&["--set", "epilog=false"]), 2, &["fusion.epilogue"]);
    fails(&auto(&["--temperature", "-1"]), 2, &["temperature"]);
    fails(&["auto"], 2, &["rlx-run auto WEIGHTS"]);
    fails(&["qwen3", "--prompt", "x"], 2, &["no weights"]);
    fails(&["autp"], 2, &["auto"]);
    fails(&["weights/rlx-tiny-chat"], 2, &["rlx-run auto weights/rlx-tiny-chat"]);
}

#[test]
fn failures_are_1_and_name_the_file() {
    fails(&["auto", "no/such/place", "--prompt", "x"], 1, &["no/such/place"]);
    fails(&["auto", "weights/rlx-tiny-chat", "--prompt", "x", "--device", "cuda"], 1, &["CUDA"]);
    fails(&["auto", "weights/rlx-tiny-chat", "--prompt", "x", "--max-memory-gb", "0.001"], 1, &["more than"]);
    fails(&["auto", "weights/rlx-tiny-chat", "--prompt", "x", "--max-seq", "4"], 1, &["--max-seq"]);
    fails(&["auto", "weights/rlx-tiny-chat", "--prompt-ids", "99999"], 1, &["99999", "2688"]);
}

#[test]
fn malformed_weights_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str, bytes: usize| {
        let data = std::fs::read(root("weights").join(from)).unwrap();
        let file = dir.path().join(to);
        std::fs::write(&file, &data[..data.len().min(bytes)]).unwrap();
        file.to_str().unwrap().to_owned()
    };
    copy("rlx-tiny-chat/config.json", "config.json", usize::MAX);
    let torn = copy("rlx-tiny-chat/model.safetensors", "torn.safetensors", 1 << 20);
    fails(&["auto", &torn, "--prompt", "x"], 1, &["torn.safetensors"]);
    let torn = copy("rlx-tiny-chat-gguf/rlx-tiny-chat-Q4_K_M.gguf", "torn.gguf", 1 << 20);
    fails(&["auto", &torn, "--prompt", "x"], 1, &["torn.gguf"]);
    let empty = copy("rlx-tiny-chat/model.safetensors", "empty.safetensors", 0);
    fails(&["plan", &empty], 1, &["empty.safetensors"]);

    let whole = copy("rlx-tiny-chat/model.safetensors", "model.safetensors", usize::MAX);
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "qwen33", "architectures": ["Qwen33"]}"#).unwrap();
    fails(&["auto", &whole, "--prompt", "x"], 1, &["model.safetensors", "qwen33", "nearest: \"qwen3\""]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for args in [&["auto", "weights/rlx-tiny-chat", "--prompt", "Tell me a story about a fox."][..], &["inspect", "weights/rlx-tiny-chat"]]
    {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rlx-run"))
            .args(args)
            .current_dir(root(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn plan_adds_up_and_loads_nothing() {
    let v = json(&rlx(&["plan", "weights/rlx-tiny-chat-gguf", "--max-seq", "1024", "--json"]));
    let m = |key: &str| v["memory"][key].as_u64().unwrap();
    assert_eq!(m("total"), m("weights") + m("mapped") + m("cache") + m("activations"));
    // Keys and values of 8 layers, 2 heads of 64, 2 bytes.
    assert_eq!(m("cache"), 1024 * 8 * 2 * 2 * 64 * 2);
    assert_eq!(v["trained_context"], 2048);
    let tokens: Vec<u64> = v["by_context"].as_array().unwrap().iter().map(|r| r["tokens"].as_u64().unwrap()).collect();
    assert_eq!(tokens, [512, 1024, 2048]);
    let text = rlx(&["plan", "weights/rlx-tiny-chat"]);
    assert!(text.out.contains("memory for 2048 tokens") && text.out.contains("native"), "{}", text.out);
}

#[test]
fn check_says_whether_a_checkpoint_can_run() {
    let ran = rlx(&["check", "weights/rlx-tiny-chat", "--json"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let report = json(&ran);
    assert_eq!((&report["verdict"], &report["kind"], &report["family"]), (&"SUPPORTED".into(), &"llm".into(), &"qwen3".into()));
    assert!(report["memory"].as_u64().is_some_and(|bytes| bytes > report["bytes"].as_u64().unwrap()), "{}", ran.out);

    // The same files under the name of an architecture that does not exist, and of one that is only known.
    let dir = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(root("weights/rlx-tiny-chat").join(file), dir.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(root("weights/rlx-tiny-chat/config.json")).unwrap();
    for (model_type, class, verdict, code) in
        [("mamba2", "Mamba2ForCausalLM", "KnownUnimplemented", 3), ("qwen33", "Qwen33ForCausalLM", "Unknown", 5)]
    {
        let config = config.replace("\"qwen3\"", &format!("\"{model_type}\"")).replace("Qwen3ForCausalLM", class);
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let ran = rlx(&["check", dir.path().to_str().unwrap(), "--json"]);
        let report: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((ran.code, &report["verdict"]), (code, &verdict.into()), "{}", ran.out);
    }
    fails(&["check", "no/such/file"], 2, &["no/such/file", "no file or directory"]);
}

#[test]
fn bench_measures_what_it_is_asked_to() {
    let v = json(&rlx(&["bench", "weights/rlx-tiny-chat-gguf", "--prefill", "16,32", "--decode", "4", "--rounds", "2", "--json"]));
    for test in ["pp16", "pp32", "tg4"] {
        assert!(v["tests"][test]["tokens_per_s"].as_f64().is_some_and(|r| r > 0.0), "{test}: {v}");
        assert_eq!(v["tests"][test]["rounds"].as_array().map(Vec::len), Some(2));
    }
    assert!(v["load_s"].as_f64().is_some());
    let deep = ["bench", "weights/rlx-tiny-chat-gguf", "--prefill", "0", "--decode", "4", "--depth", "0,70", "--streams", "1,3"];
    let v = json(&rlx(&[&deep[..], &["--rounds", "2", "--json"]].concat()));
    let names: Vec<&String> = v["tests"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["tg4", "tg4@70", "tg4x3", "tg4x3@70"]);
    assert!(v["tests"].as_object().unwrap().values().all(|t| t["rounds"].as_array().map(Vec::len) == Some(2)));
    fails(&["bench", "weights/rlx-tiny-chat-gguf", "--prefill", "0", "--decode", "0"], 2, &["nothing to measure"]);
}

#[test]
fn parity_fails_where_a_checkpoint_departs() {
    let fixture = root("crates/rlx-qwen3/tests/fixtures/qwen3");
    let good = rlx(&["parity", fixture.to_str().unwrap()]);
    assert_eq!(good.code, 0, "{}{}", good.out, good.err);
    assert!(good.out.ends_with("1 of 1 within tolerance\n"), "{}", good.out);

    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&fixture).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = dir.path().join("config.json");
    let mut v: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    v["rms_norm_eps"] = 0.25.into();
    std::fs::write(&config, v.to_string()).unwrap();
    let bad = rlx(&["parity", dir.path().to_str().unwrap()]);
    assert_eq!(bad.code, 1, "{}", bad.out);
    assert!(bad.out.contains("first departure: ") && bad.out.ends_with("0 of 1 within tolerance\n"), "{}", bad.out);
    fails(&["parity", "weights"], 1, &["expected.safetensors"]);
}

#[test]
fn help_teaches() {
    let top = rlx(&["--help"]);
    for w in ["auto", "qwen3", "plan", "parity", "bench", "inspect", "Exit codes", "Examples"] {
        assert!(top.out.contains(w), "no {w:?} in {}", top.out);
    }
    for command in ["auto", "qwen3", "plan", "parity", "bench", "inspect", "convert", "compare", "perplexity", "completions", "man"] {
        let ran = rlx(&[command, "--help"]);
        assert_eq!(ran.code, 0, "{command}");
        assert!(ran.out.contains("Examples:") && ran.out.contains(&format!("rlx-run {command} ")), "{command}: {}", ran.out);
    }
}

#[test]
fn other_programs_add_commands() {
    use rlx_models::run;
    run::register_cli("hello", "Say hello", |args| Ok(args.len() as u8 + 40)).unwrap();
    assert_eq!(run::main(["hello", "a", "b"].map(Into::into)).unwrap(), 42);
    assert!(run::register_cli("hello", "", |_| Ok(0)).unwrap_err().to_string().contains("already"));
    assert!(run::register_cli("auto", "", |_| Ok(0)).is_err());
    assert!(run::register_cli("--x", "", |_| Ok(0)).is_err());
    let help = run::main(["--help".into()]).unwrap_err().to_string();
    assert!(help.contains("hello") && help.contains("Say hello"), "{help}");
}

/// Bits that rounding to 4 and back moves, and that running twice does not.
#[test]
fn compare_tells_how_far_and_from_where() {
    let v = json(&rlx(&["compare", "weights/rlx-tiny-chat", "weights/rlx-tiny-chat-gguf", "--limit", "48", "--json"]));
    assert_eq!(v["tokens"], 48);
    let of = |d: &Value, key: &str| d[key].as_f64().unwrap();
    assert!(of(&v, "kl_mean") > 1e-4 && of(&v, "kl_mean") < 0.5 && of(&v, "kl_max") >= of(&v, "kl_mean"), "{v}");
    assert!(of(&v, "agreement") > 0.7, "{v}");
    let layers = v["layers"].as_array().unwrap();
    assert_eq!((layers.len(), layers[0]["name"].as_str()), (8 * 3 + 2, Some("hidden.0")));
    assert!(layers.iter().all(|l| of(l, "rms") > 0.0 && of(l, "max") >= of(l, "rms")), "{v}");
    assert_eq!(v["unmatched"], serde_json::json!([]));

    let same = json(&rlx(&["compare", "weights/rlx-tiny-chat", "weights/rlx-tiny-chat", "--limit", "40", "--json"]));
    assert_eq!((of(&same["logits"], "max"), of(&same, "kl_max"), of(&same, "agreement")), (0.0, 0.0, 1.0), "{same}");

    let text = rlx(&["compare", "weights/rlx-tiny-chat-gguf", "--profile-b", "exact", "--ids", "657,656,274,655"]);
    assert!(text.out.contains("profile exact") && text.out.contains("hidden.8") && text.out.contains("4 tokens"), "{}", text.out);
    fails(&["compare", "weights/rlx-tiny-chat"], 2, &["--profile-b"]);
    let other = root("crates/rlx-qwen3/tests/fixtures/qwen3");
    fails(&["compare", "weights/rlx-tiny-chat", other.to_str().unwrap(), "--ids", "1,2"], 1, &["2688", "320"]);
}

#[test]
fn perplexity_is_small_for_the_text_a_model_makes_and_large_for_noise() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let story = "Once upon a time there was a fox. The fox lived in a small house near the forest. ".repeat(8);
    let of = |flags: &[&str]| json(&rlx(&[&["perplexity", "weights/rlx-tiny-chat", "--json", "--quiet", "--ctx", "32"], flags].concat()));
    let value = |v: &Value| v["perplexity"].as_f64().unwrap();
    let good = of(&["--text", &file("story", &story)]);
    let noise: String = (0..400u32).map(|i| char::from(b'!' + ((i * i * 37 + i * 11) % 90) as u8)).collect();
    let bad = of(&["--text", &file("noise", &noise)]);
    assert!(value(&good) > 1.0 && value(&good) * 5.0 < value(&bad), "{good} {bad}");
    assert_eq!(good["scored"].as_u64(), good["chunks"].as_u64().map(|n| n * 15), "the second half of each chunk");
    assert!(good["error"].as_f64().is_some_and(|e| e > 0.0));
    let some = of(&["--text", &file("story", &story), "--limit-chunks", "2"]);
    assert_eq!((some["chunks"].as_u64(), some["running"].as_array().map(Vec::len)), (Some(2), Some(2)));
    assert_eq!(some["running"][1], good["running"][1], "the running estimate is that of the chunks so far");
    let strided = of(&["--text", &file("story", &story), "--stride", "16", "--limit-chunks", "3"]);
    assert_eq!(strided["scored"].as_u64(), Some(3 * 16));
    let short = file("short", "too short");
    fails(&["perplexity", "weights/rlx-tiny-chat", "--text", &short], 1, &["at least one chunk of 512"]);
}

/// The file beside the weights says what the defaults are, and every key there is.
#[test]
fn the_shipped_profile_says_the_defaults() {
    use rlx_compile::Profile;
    let text = std::fs::read_to_string(root("weights/rlx-tiny-chat/qwen3.rlx.toml")).unwrap();
    let uncommented: String = text.lines().filter(|l| !l.starts_with("# ")).map(|l| l.trim_start_matches('#').to_owned() + "\n").collect();
    let base = Profile::preset("exact").unwrap();
    let read = Profile::from_toml_over(base, &uncommented, Path::new("qwen3.rlx.toml")).unwrap();
    assert_eq!(read, Profile::default());
    for key in Profile::keys().iter().filter(|k| *k != "name") {
        let name = key.rsplit('.').next().unwrap();
        assert!(uncommented.lines().any(|l| l.starts_with(&format!("{name} ="))), "no {key} in the file");
    }
}
