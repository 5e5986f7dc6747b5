//! Structured output, tools and templates of the programs, as users ask for them.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const WEIGHTS: &str = "weights/rlx-tiny-chat";
const GGUF: &str = "weights/rlx-tiny-chat-gguf/rlx-tiny-chat-Q4_K_M.gguf";

/// Runs `rlx-run auto` quietly; exit code, stdout, stderr.
fn auto(weights: &str, args: &[&str]) -> (i32, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlx-run"));
    let out = command.current_dir(root).args(["auto", weights, "--quiet"]).args(args).stdin(std::process::Stdio::null()).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    let (code, out, err) = (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr));
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    (code, out, err)
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rlx-structured-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

fn answer(weights: &str, args: &[&str]) -> String {
    let (code, out, err) = auto(weights, args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out.trim_end_matches('\n').to_owned()
}

#[test]
fn answers_satisfy_the_schema() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"type": "integer", "minimum": 1, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2}}, "required": ["city", "size", "tags"], "additionalProperties": false})
    .to_string();
    let path = file("schema.json", &schema);
    for weights in [WEIGHTS, GGUF] {
        for extra in [&["--temperature", "0"][..], &["--temperature", "1.5", "--seed", "3"], &["--top-k", "5", "--seed", "4"]] {
            for given in [schema.as_str(), path.to_str().unwrap()] {
                let args = [&["--prompt", "What is the capital of Norway?", "--json-schema", given, "-n", "120"], extra].concat();
                let text = answer(weights, &args);
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                assert!(value["city"].as_str().unwrap().chars().count() <= 12, "{text}");
                assert!((1..=99).contains(&value["size"].as_i64().unwrap()), "{text}");
                let tags = value["tags"].as_array().unwrap();
                assert!(tags.len() <= 2 && tags.iter().all(|t| t == "red" || t == "blue"), "{text}");
                assert_eq!(value.as_object().unwrap().len(), 3, "{text}");
            }
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_grammar_says_what_may_be_answered() {
    let path = file("yes.gbnf", "root ::= (\"yes\" | \"no\") \".\"\n");
    let (grammar, args) = (path.to_str().unwrap(), ["--prompt", "What is the capital of Norway?"]);
    let text = answer(WEIGHTS, &[&args[..], &["--grammar", grammar]].concat());
    assert!(text == "yes." || text == "no.", "{text}");
    let whole = answer(WEIGHTS, &[&args[..], &["--grammar", grammar, "--json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&whole).unwrap()["finish"], "complete");
    // Without the grammar the model answers in its own words.
    assert!(answer(WEIGHTS, &args).contains("Oslo"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_a_schema_cannot_say_is_refused_before_loading() {
    for (schema, words) in [
        ("{\"type\": \"array\", \"uniqueItems\": true}", "uniqueItems"),
        ("{\"type\": ", "JSON schema"),
        ("no-such-file.json", "no-such-file.json"),
    ] {
        let (code, out, err) = auto(WEIGHTS, &["--prompt", "Hi", "--json-schema", schema]);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains(words) && err.contains("--json-schema"), "{err}");
    }
}

#[test]
fn tools_are_offered_and_calls_are_read() {
    let tools = json!([{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]);
    let path = file("tools.json", &tools.to_string());
    for weights in [WEIGHTS, GGUF] {
        let args = ["--prompt", "What is the weather in Oslo?", "--tools", path.to_str().unwrap(), "--json"];
        let out: Value = serde_json::from_str(&answer(weights, &args)).unwrap();
        assert_eq!(out["tool_calls"][0]["name"], "get_weather", "{out}");
        assert!(out["tool_calls"][0]["arguments"].is_object(), "{out}");
    }
    std::fs::write(&path, "{}").unwrap();
    let (code, _, err) = auto(WEIGHTS, &["--prompt", "Hi", "--tools", path.to_str().unwrap()]);
    assert!(code == 2 && err.contains("a list of objects"), "{err}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn other_templates_write_the_prompt() {
    let ask =
        |template: &str, extra: &[&str]| auto(WEIGHTS, &[&["--prompt", "Hi", "-n", "4", "--chat-template", template], extra].concat());
    let broken = file("broken.jinja", "{{ raise_exception('only on ' ~ day) }}");
    let (code, _, err) = ask(broken.to_str().unwrap(), &["--chat-template-kwargs", "{\"day\": \"Sundays\"}"]);
    assert!(code == 1 && err.contains("only on Sundays") && err.contains("--no-chat-template"), "{err}");
    let plain = file("plain.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
    let same = answer(WEIGHTS, &["--prompt", "Hi", "-n", "4", "--no-chat-template"]);
    assert_eq!(ask(plain.to_str().unwrap(), &[]).1.trim_end_matches('\n'), same);
    let (code, _, err) = ask("rag", &[]);
    assert!(code == 1 && err.contains("`rag`") && err.contains("default"), "{err}");
    assert_eq!(ask("default", &[]).0, 0);
    let (code, _, err) = ask("default", &["--chat-template-kwargs", "[1]"]);
    assert!(code == 2 && err.contains("--chat-template-kwargs"), "{err}");
    for path in [broken, plain] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_broken_template_leaves_raw_completion() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(WEIGHTS);
    let dir = std::env::temp_dir().join(format!("rlx-broken-template-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(root.join(name), dir.join(name)).unwrap();
    }
    std::fs::write(dir.join("chat_template.jinja"), "{% if %}").unwrap();
    let weights = dir.to_str().unwrap();
    let (code, _, err) = auto(weights, &["--prompt", "Hi"]);
    assert!(code == 1 && err.contains("chat template, line 1") && err.contains("--no-chat-template"), "{err}");
    let raw = answer(weights, &["--prompt", "Once upon", "-n", "4", "--no-chat-template"]);
    assert_eq!(raw, answer(WEIGHTS, &["--prompt", "Once upon", "-n", "4", "--no-chat-template"]));
    std::fs::remove_dir_all(&dir).unwrap();
}
