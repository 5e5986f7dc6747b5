//! Encoding one megabyte of mixed text: GGUF-born tokenizers against the `tokenizers` crate on the same
//! `tokenizer.json`, one thread.  First a table of ratios from alternating runs, then divan's own figures.
#![allow(missing_docs, reason = "a program, not a library")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use rlx_text::{GgufVocab, Tokenizer};

#[path = "../tests/common/mod.rs"]
mod common;

const BYTES: usize = 1 << 20;
const RUNS: usize = 7;

struct Pair {
    name: &'static str,
    ours: Tokenizer,
    theirs: Tokenizer,
}

fn main() {
    println!("{:8} {:>10} {:>10}  ratio (tokenizers crate / ours; more is better), {BYTES} bytes", "", "ours", "crate");
    for pair in pairs() {
        let (ours, theirs) = (median(pair, 0), median(pair, 1));
        println!("{:8} {:>7.1} ms {:>7.1} ms  {:.2}", pair.name, ours * 1e3, theirs * 1e3, theirs / ours);
    }
    repetitive();
    divan::main();
}

/// Median seconds of one side; both sides run in turns.
fn median(pair: &Pair, side: usize) -> f64 {
    static TIMES: OnceLock<std::sync::Mutex<std::collections::HashMap<&'static str, [f64; 2]>>> = OnceLock::new();
    let mut known = TIMES.get_or_init(Default::default).lock().expect("not poisoned");
    known.entry(pair.name).or_insert_with(|| {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..RUNS {
            for (times, tokenizer) in times.iter_mut().zip([&pair.ours, &pair.theirs]) {
                let started = Instant::now();
                divan::black_box(tokenizer.encode(text(), false).expect("encodes"));
                times.push(started.elapsed().as_secs_f64());
            }
        }
        times.map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[RUNS / 2]
        })
    })[side]
}

/// Texts without words to cut at.
fn repetitive() {
    for (what, text) in [
        ("one letter", "a".repeat(BYTES)),
        ("one caret", "^".repeat(BYTES)),
        ("no spaces", text().split_whitespace().collect()),
        ("spaces", " ".repeat(BYTES)),
        ("CJK", "漢字仮名交じり文".repeat(BYTES / 24)),
    ] {
        for pair in pairs() {
            let started = Instant::now();
            divan::black_box(pair.ours.encode(&text, false).expect("encodes"));
            println!("{:10} {:8} {:>7.1} ms", what, pair.name, started.elapsed().as_secs_f64() * 1e3);
        }
    }
}

fn pairs() -> &'static [Pair] {
    static PAIRS: OnceLock<Vec<Pair>> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let shared = common::shared("oracle/lm/fixtures/tokenizers");
        let mut pairs = Vec::new();
        for name in ["qwen2", "llama3", "gemma", "llama2", "t5", "bert"] {
            let Some(dir) =
                shared.as_ref().map(|root| root.join(name)).or((name == "qwen2").then(|| common::committed("tokenizers/qwen2")))
            else {
                continue;
            };
            let vocab: GgufVocab = common::gguf_vocab(dir.join("tokenizer.gguf"));
            let ours = Tokenizer::from_gguf(&vocab).expect("sound");
            let theirs = Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads");
            let (a, b) = (ours.encode(text(), false).expect("encodes"), theirs.encode(text(), false).expect("encodes"));
            let differ = a.iter().zip(&b).position(|(a, b)| a != b);
            assert!(a == b, "{name}: {} ids against {}, the first other one is number {differ:?}", a.len(), b.len());
            pairs.push(Pair { name, ours, theirs });
        }
        pairs
    })
}

/// Prose, code and other scripts, in turns.
fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = vec![root.join("ARCHITECTURE.md"), root.join("AGENTS.md"), root.join("README.md")];
        sources(&root.join("crates"), &mut files);
        let cases = common::json(common::committed("tokenizers/qwen2").join("expected.json"));
        let cases: Vec<&str> =
            cases["cases"].as_array().expect("a list").iter().filter_map(|c| c["text"].as_str()).filter(|t| !t.contains('<')).collect();
        let mut out = String::new();
        let mut turn = 0;
        for file in files.iter().cycle() {
            let content = fs::read_to_string(file).expect("a file");
            for paragraph in content.split("\n\n") {
                out.push_str(paragraph);
                out.push_str("\n\n");
                out.push_str(cases[turn % cases.len()]);
                out.push('\n');
                turn += 1;
            }
            if out.len() >= BYTES {
                break;
            }
        }
        let end = (0..=BYTES).rev().find(|&at| out.is_char_boundary(at)).expect("a boundary");
        out.truncate(end);
        // Marks and normalisation on which a GGUF file says less than a tokenizer.json are the tests' business.
        out.replace("<|", "<").replace("|>", ">")
    })
}

fn sources(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

#[divan::bench(args = 0..6)]
fn ours(bencher: divan::Bencher<'_, '_>, which: usize) {
    bench(bencher, which, |pair| &pair.ours);
}

#[divan::bench(args = 0..6)]
fn tokenizers_crate(bencher: divan::Bencher<'_, '_>, which: usize) {
    bench(bencher, which, |pair| &pair.theirs);
}

fn bench(bencher: divan::Bencher<'_, '_>, which: usize, side: fn(&Pair) -> &Tokenizer) {
    let Some(pair) = pairs().get(which) else { return };
    bencher.counter(divan::counter::BytesCount::new(text().len())).bench(|| side(pair).encode(text(), false).expect("encodes"));
}
