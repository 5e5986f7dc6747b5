//! `tokenizer.json` ↔ GGUF vocabulary.

mod common;

use common::{committed, gguf_vocab, ids, json, shared};
use rlx_text::tokenizer::convert;
use rlx_text::{GgufVocab, Tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The texts of a fixture, with the ids that they have.
fn cases(dir: &Path) -> Vec<(String, Vec<u32>)> {
    let expected = json(dir.join("expected.json"));
    let cases = expected["cases"].as_array().expect("a list of cases");
    let cases = cases.iter().filter_map(|c| Some((c["text"].as_str()?.to_owned(), ids(c.get("ids")?))));
    let cases: Vec<_> = cases.collect();
    assert!(cases.len() > 50, "{}: {} cases", dir.display(), cases.len());
    cases
}

fn to_gguf(dir: &Path, vocab_size: usize) -> GgufVocab {
    let config = json(dir.join("tokenizer_config.json"));
    convert::to_gguf(&json(dir.join("tokenizer.json")), Some(&config), vocab_size).expect("a byte-level tokenizer")
}

fn to_json(vocab: &GgufVocab) -> Tokenizer {
    let (json, config) = convert::from_gguf(vocab).expect("a byte-level vocabulary");
    let mut tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).expect("a tokenizer.json");
    tokenizer.apply_config(&config.into()).expect("names its tokens");
    tokenizer
}

/// Byte-level fixtures: the committed one, and those of the shared collection.
fn byte_level() -> Vec<PathBuf> {
    let shared = shared("oracle/lm/fixtures/tokenizers").map(|root| ["qwen2", "llama3"].map(|kind| root.join(kind)));
    shared.into_iter().flatten().chain([committed("tokenizers/qwen2")]).collect()
}

#[test]
fn both_ways_encode_alike() {
    for dir in byte_level() {
        let direct = Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads");
        let vocab = to_gguf(&dir, direct.vocab_size() + 5);
        let there = Tokenizer::from_gguf(&vocab).expect("a sound vocabulary");
        let back = to_json(&vocab);
        let from_file = to_json(&gguf_vocab(dir.join("tokenizer.gguf")));
        for (text, want) in cases(&dir) {
            for (name, t) in [("gguf", &there), ("json again", &back), ("json of tokenizer.gguf", &from_file)] {
                for special in [true, false] {
                    let expected = direct.encode(&text, special).expect("encodes");
                    assert_eq!(t.encode(&text, special).expect("encodes"), expected, "{}: {name}: {text:?}", dir.display());
                }
                assert_eq!(t.encode_ordinary(&text).ok(), direct.encode_ordinary(&text).ok(), "{name}: {text:?}");
                assert_eq!(t.decode(&want, true).expect("decodes"), direct.decode(&want, true).expect("decodes"), "{name}");
            }
        }
        for t in [&there, &back] {
            assert_eq!((t.bos(), t.eos(), t.pad()), (direct.bos().or(t.bos()), direct.eos(), direct.pad()));
            assert_eq!(t.special_tokens(), direct.special_tokens());
        }
        assert_eq!(back.vocab_size(), direct.vocab_size(), "ids that only fill up are no tokens");
    }
}

#[test]
fn the_vocabulary_is_the_one_that_was_written_for_llama_cpp() {
    for dir in byte_level() {
        let want = gguf_vocab(dir.join("tokenizer.gguf"));
        let got = to_gguf(&dir, want.tokens.len());
        assert_eq!((&got.model, &got.tokens, &got.merges), (&want.model, &want.tokens, &want.merges));
        assert_eq!(got.pre.as_deref().map(rule), want.pre.as_deref().map(rule));
        assert_eq!((got.eos_id, got.pad_id, got.add_bos), (want.eos_id, want.pad_id, want.add_bos));
    }
}

/// Names of one split rule.
fn rule(name: &str) -> &str {
    if matches!(name, "llama-bpe" | "llama3" | "llama-v3") { "llama3" } else { name }
}

#[test]
fn vocabularies_are_filled_up_to_the_embedding() {
    let dir = committed("tokenizers/qwen2");
    let exact = Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads").vocab_size();
    let padded = to_gguf(&dir, exact + 2);
    assert_eq!(padded.tokens[exact..], [format!("[PAD{exact}]"), format!("[PAD{}]", exact + 1)]);
    assert_eq!(padded.token_types.expect("types")[exact..], [5, 5]);
    let config = json(dir.join("tokenizer_config.json"));
    let error = convert::to_gguf(&json(dir.join("tokenizer.json")), Some(&config), exact - 1).expect_err("one embedding too few");
    assert!(error.to_string().contains(&format!("the model has {} embeddings", exact - 1)), "{error}");
}

#[test]
fn unknown_split_rules_are_named_and_other_kinds_refused() {
    let dir = committed("tokenizers/qwen2");
    let mut tokenizer = json(dir.join("tokenizer.json"));
    *tokenizer.pointer_mut("/pre_tokenizer/pretokenizers/0/pattern/Regex").expect("a pattern") = Value::from("[a-z]+|fish");
    let error = convert::to_gguf(&tokenizer, None, 1 << 20).expect_err("no such rule").to_string();
    assert!(error.contains("[a-z]+|fish") && error.contains("qwen2"), "{error}");

    let mut vocab = gguf_vocab(dir.join("tokenizer.gguf"));
    vocab.pre = Some("fish".into());
    assert!(convert::from_gguf(&vocab).expect_err("no such rule").to_string().contains("`fish`"));
    vocab.model = "llama".into();
    assert!(convert::from_gguf(&vocab).expect_err("no such kind").to_string().contains("`llama`"));

    let Some(root) = shared("oracle/lm/fixtures/tokenizers") else { return };
    for (kind, named) in [("gemma", "BPE"), ("llama2", "BPE"), ("t5", "Unigram"), ("bert", "WordPiece")] {
        let error = convert::to_gguf(&json(root.join(kind).join("tokenizer.json")), None, 1 << 20).expect_err("another kind").to_string();
        assert!(error.contains(named) && error.contains("only byte-level BPE"), "{kind}: {error}");
    }
}
