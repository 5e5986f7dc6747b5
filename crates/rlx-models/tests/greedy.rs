//! The shipped chat model answers as recorded, from every file and in both precisions.

use rlx_models::lm::{Chat, GenerateOptions, LmRunner, Precision};
use rlx_models::qwen3::Qwen3Runner;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One model at a time: each wants every core.
static TURN: Mutex<()> = Mutex::new(());

/// Decisions closer than this are a free choice of rounding.
const DECISIVE: f64 = 0.5;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn cases() -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/greedy.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

/// Every recorded case; returns how many had to be exact.
fn check(runner: &mut LmRunner, what: &str) -> usize {
    let mut exact = 0;
    for case in cases() {
        let name = format!("{what}: {}", case["name"]);
        let mut chat = Chat::new(None);
        let prompt = if case["messages"].is_array() {
            chat.messages = serde_json::from_value(case["messages"].clone()).unwrap();
            chat.tools = case.get("tools").cloned();
            assert_eq!(chat.prompt(runner).unwrap(), case["prompt"], "{name}");
            chat.prompt_ids(runner).unwrap()
        } else {
            runner.tokenizer().unwrap().encode(case["prompt"].as_str().unwrap(), true).unwrap()
        };
        assert_eq!(prompt, ids(&case["prompt_ids"]), "{name}");
        if case["smallest_top2_gap"].as_f64().unwrap_or(0.0) <= DECISIVE {
            continue;
        }
        let want = ids(&case["output_ids"]);
        // Tool calls are written in special tokens.
        let options = GenerateOptions { max_tokens: want.len() + 8, skip_special: false, ..GenerateOptions::default() };
        let mut heard = String::new();
        let done = runner.generate_text(&prompt, &options, &mut |_, _| {}, &mut |piece| {
            heard.push_str(piece);
            true
        });
        let done = done.unwrap();
        assert_eq!(done.text, case["text"].as_str().unwrap(), "{name}");
        assert_eq!(done.tokens, want, "{name}");
        assert_eq!(heard, done.text, "{name}: what was streamed");
        exact += 1;
    }
    exact
}

/// Turn by turn, as a user would: the conversation stays in the cache, and answers are those of an empty one.
fn remembers(runner: &mut LmRunner, what: &str) {
    let options = GenerateOptions::default();
    let mut chat = Chat::new(None);
    let mut turns = vec![];
    for text in ["My name is Iris.", "What is the opposite of cold?", "What is my name?"] {
        turns.push(chat.say(runner, text, &options, &mut |_, _| {}, &mut |_| true).unwrap());
    }
    assert_eq!(turns[0].text, "Nice to meet you, Iris!", "{what}");
    assert_eq!(turns[2].text, "Your name is Iris.", "{what}");
    let last = &turns[2];
    assert!(last.cached_tokens > 40, "{what}: only {} of {} tokens were cached", last.cached_tokens, last.prompt_tokens);
    for (i, turn) in turns.iter().enumerate() {
        runner.forget().unwrap();
        let again = runner.chat(&chat.messages[..2 * i + 1], &options, &mut |_| true).unwrap();
        assert_eq!((&again.tokens, again.cached_tokens), (&turn.tokens, 0), "{what}: turn {i}");
    }
}

fn answers(weights: &Path) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for precision in [Precision::Fast, Precision::Exact] {
        let what = format!("{} {precision:?}", weights.display());
        let mut runner = Qwen3Runner::builder().weights(weights).precision(precision).max_seq(512).build().unwrap();
        assert_eq!(check(&mut runner, &what), 14, "{what}");
        remembers(&mut runner, &what);
    }
}

#[test]
fn safetensors() {
    answers(&root("weights/rlx-tiny-chat"));
}

#[test]
fn q4_k_m() {
    answers(&root("weights/rlx-tiny-chat-gguf"));
}

#[test]
fn q8_0() {
    let file = root("../shared/models/rlx-tiny-chat-gguf/rlx-tiny-chat-Q8_0.gguf");
    if !file.is_file() {
        // To stderr itself: what macros print is shown for failing tests alone.
        let _ = writeln!(std::io::stderr(), "NOT TESTED: {} is absent", file.display());
        return;
    }
    answers(&file);
}

/// Converted and quantised by our own programs.
#[test]
fn quantised_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let args = |list: &[&std::ffi::OsStr]| list.iter().map(Into::into).collect::<Vec<std::ffi::OsString>>();
    let source = path("source.gguf");
    let weights = root("weights/rlx-tiny-chat");
    assert_eq!(rlx_models::run::convert_main(args(&[weights.as_os_str(), source.as_os_str()])).unwrap(), 0);
    for ty in ["Q8_0", "Q4_K_M"] {
        let out = path(&format!("{ty}.gguf"));
        let list = args(&["--quiet".as_ref(), source.as_os_str(), out.as_os_str(), ty.as_ref()]);
        assert_eq!(rlx_models::run::quantize_main(list).unwrap(), 0);
        answers(&out);
    }
}

/// Dequantised at load, a quantised file answers the same.
#[test]
fn unpacked() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let weights = root("weights/rlx-tiny-chat-gguf");
    let mut runner = Qwen3Runner::builder().weights(&weights).packed_weights(false).max_seq(512).build().unwrap();
    assert_eq!(check(&mut runner, "unpacked"), 14);
}

/// The shipped model in MLX's format: groups of 64 with so many bits.
fn mlx(bits: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let args = [root("weights/rlx-tiny-chat").into_os_string(), dir.path().join("mlx").into(), "--bits".into(), bits.into()];
    assert_eq!(rlx_models::run::convert_main(args).unwrap(), 0);
    dir
}

#[test]
fn mlx_8_bit() {
    let dir = mlx("8");
    answers(&dir.path().join("mlx"));
}

/// KL divergence of the next token's distribution from the unquantised model's, averaged over all prompts.
#[test]
fn mlx_4_bit_stays_near_the_unquantised_model() {
    let dir = mlx("4");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let packed = dir.path().join("mlx");
    let load = |w: &Path, keep: bool| {
        Qwen3Runner::builder().weights(w).precision(Precision::Exact).packed_weights(keep).max_seq(512).build().unwrap()
    };
    let (mut plain, mut small, mut wide) = (load(&root("weights/rlx-tiny-chat"), true), load(&packed, true), load(&packed, false));
    let (mut sum, mut same, cases) = (0.0, 0, cases());
    for case in &cases {
        let ids = ids(&case["prompt_ids"]);
        let logits = [&mut plain, &mut small, &mut wide].map(|r| r.predict_logits(&ids).unwrap());
        let [p, q] = [&logits[0], &logits[1]].map(|l| log_probabilities(l));
        sum += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        let best = |v: &[f64]| v.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        same += usize::from(best(&p) == best(&q));
        // Packed and dequantised, the same weights.
        let most = logits[2].iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(logits[1].iter().zip(&logits[2]).all(|(a, b)| (a - b).abs() <= 1e-4 * most), "{}", case["name"]);
    }
    let mean = sum / cases.len() as f64;
    eprintln!("mean KL {mean:.5}, {same} of {} first tokens the same", cases.len());
    assert!(mean > 0.0 && mean < 0.05, "{mean}");
    assert!(same + 1 >= cases.len(), "{same} of {} first tokens are the same", cases.len());
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let sum: f64 = logits.iter().map(|v| f64::from(v - most).exp()).sum();
    logits.iter().map(|v| f64::from(v - most) - sum.ln()).collect()
}
