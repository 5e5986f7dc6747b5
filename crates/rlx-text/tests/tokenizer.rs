//! Encodings, decodings and streaming against the reference implementations' recorded answers.

mod common;

use std::path::{Path, PathBuf};

use common::{committed, gguf_vocab, ids, json, shared};
use proptest::prelude::*;
use rlx_text::{GgufVocab, TextStream, Tokenizer};

/// How a vocabulary spells its tokens.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// As `tokenizer.json` does.
    Same,
    /// First pieces of words with `▁`, others bare, where `tokenizer.json` has bare ones and `##`.
    WordMarks,
}

/// Compares every recorded case of `dir/expected.json`; returns how many there were.
fn check(tokenizer: &Tokenizer, dir: &Path) -> usize {
    check_spelled(tokenizer, dir, Spelling::Same)
}

fn check_spelled(tokenizer: &Tokenizer, dir: &Path, spelling: Spelling) -> usize {
    let expected = json(dir.join("expected.json"));
    assert_eq!(tokenizer.vocab_size() as u64, expected["vocab_size"].as_u64().expect("a size"));
    let cases = expected["cases"].as_array().expect("a list");
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let (full, bare) = (ids(&case["ids"]), ids(&case["ids_without_special"]));
        assert_eq!(tokenizer.encode(text, true).expect("encodes"), full, "{dir:?} {text:?} with special");
        assert_eq!(tokenizer.encode(text, false).expect("encodes"), bare, "{dir:?} {text:?}");
        assert_eq!(tokenizer.decode(&bare, false).expect("decodes"), case["decoded"], "{dir:?} {text:?}");
        assert_eq!(tokenizer.decode(&full, true).expect("decodes"), case["decoded_skip_special"], "{dir:?} {text:?}");
        for (&id, expected) in bare.iter().zip(case["tokens"].as_array().expect("a list")) {
            let expected = expected.as_str().expect("text");
            let expected = match expected.strip_prefix("##") {
                _ if spelling == Spelling::Same || tokenizer.is_control(id) => expected.to_owned(),
                Some(rest) => rest.to_owned(),
                None => format!("▁{expected}"),
            };
            // For what it does not know the reference lists the text itself.
            assert!(tokenizer.token(id).expect("a token") == expected || Some(id) == tokenizer.unk(), "{id} {expected}");
        }
        assert_eq!(streamed(tokenizer, &bare, false), case["decoded"], "{dir:?} {text:?}");
        assert_eq!(streamed(tokenizer, &full, true), case["decoded_skip_special"], "{dir:?} {text:?}");
    }
    for pair in expected["pairs"].as_array().expect("a list") {
        let text = |key: &str| pair[key].as_str().expect("text");
        let found = tokenizer.encode_pair(text("a"), text("b")).expect("encodes");
        assert_eq!((found.ids, found.type_ids), (ids(&pair["ids"]), ids(&pair["type_ids"])), "{pair}");
    }
    for case in expected["streaming_decode"].as_array().expect("a list") {
        stepwise(tokenizer, &ids(&case["ids"]), case["stepwise"].as_array().expect("a list"));
    }
    cases.len()
}

/// What has been emitted is always a beginning of the recorded text so far, and never a replacement character.
fn stepwise(tokenizer: &Tokenizer, ids: &[u32], steps: &[serde_json::Value]) {
    let mut stream = TextStream::new(tokenizer, false);
    let mut emitted = String::new();
    for (n, (&id, step)) in ids.iter().zip(steps).enumerate() {
        let step = step.as_str().expect("text");
        assert_eq!(tokenizer.decode(&ids[..=n], false).expect("decodes"), step);
        emitted += &stream.push(id).expect("decodes").unwrap_or_default();
        assert!(step.starts_with(&emitted), "{emitted:?} is not the beginning of {step:?}");
        assert!(!emitted.contains('\u{FFFD}'));
        if !step.ends_with('\u{FFFD}') && tokenizer.token(id).is_some_and(|t| !t.starts_with("<0x")) {
            assert_eq!(emitted, step, "whole characters are emitted at once");
        }
    }
    emitted += &stream.finish().expect("decodes");
    assert_eq!(emitted, *steps.last().expect("steps"));
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = TextStream::new(tokenizer, skip_special);
    let mut out = String::new();
    for &id in ids {
        stream.push_into(id, &mut out).expect("decodes");
    }
    out + &stream.finish().expect("decodes")
}

fn qwen2() -> PathBuf {
    committed("tokenizers/qwen2")
}

fn from_gguf(dir: &Path) -> Tokenizer {
    Tokenizer::from_gguf(&gguf_vocab(dir.join("tokenizer.gguf"))).expect("a sound vocabulary")
}

#[test]
fn committed_qwen2_from_json_and_from_gguf() {
    let dir = qwen2();
    assert_eq!(check(&Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads"), &dir), 78);
    assert_eq!(check(&from_gguf(&dir), &dir), 78);
}

const KINDS: [&str; 6] = ["qwen2", "llama3", "gemma", "llama2", "t5", "bert"];

/// The recorded kinds; `RLX_TOKENIZER_FIXTURES` names another folder of the same layout, made with another seed.
fn kinds() -> Option<PathBuf> {
    std::env::var_os("RLX_TOKENIZER_FIXTURES").map(PathBuf::from).or_else(|| shared("oracle/lm/fixtures/tokenizers"))
}

#[test]
fn every_shared_kind_from_json() {
    let Some(root) = kinds() else { return };
    for kind in KINDS {
        let dir = root.join(kind);
        let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads");
        assert!(check(&tokenizer, &dir) >= 75, "{kind}");
        for case in json(dir.join("expected.json"))["cases"].as_array().expect("a list") {
            let text = case["text"].as_str().expect("text");
            let found = tokenizer.encode_with_offsets(text).expect("encodes");
            let offsets: Vec<_> = found.iter().map(|(_, at)| vec![at.start as u32, at.end as u32]).collect();
            let expected: Vec<_> = case["offsets"].as_array().expect("a list").iter().map(ids).collect();
            assert_eq!(offsets, expected, "{kind} {text:?}");
            assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids(&case["ids_without_special"]));
        }
    }
}

#[test]
fn every_shared_kind_from_gguf() {
    let Some(root) = kinds() else { return };
    for kind in KINDS {
        let dir = root.join(kind);
        let spelling = if kind == "bert" { Spelling::WordMarks } else { Spelling::Same };
        assert!(check_spelled(&from_gguf(&dir), &dir, spelling) >= 75, "{kind}");
    }
}

#[test]
fn shared_chat_model_encodes_its_recorded_prompts() {
    let Some(root) = shared("models") else { return };
    let json_born = Tokenizer::from_file(root.join("rlx-tiny-chat/tokenizer.json")).expect("loads");
    let mut all = vec![json_born];
    for entry in std::fs::read_dir(root.join("rlx-tiny-chat-gguf")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "gguf") {
            all.push(Tokenizer::from_gguf(&gguf_vocab(path)).expect("a sound vocabulary"));
        }
    }
    assert_eq!(all.len(), 3);
    let cases = json(root.join("rlx-tiny-chat/greedy.json"));
    for case in cases.as_array().expect("a list") {
        for tokenizer in &all {
            let prompt = case["prompt"].as_str().expect("text");
            assert_eq!(tokenizer.encode(prompt, false).expect("encodes"), ids(&case["prompt_ids"]));
        }
    }
}

#[test]
fn control_tokens_in_ordinary_text_are_not_parsed() {
    let dir = qwen2();
    for t in [Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads"), from_gguf(&dir)] {
        let (start, think) = (t.id("<|im_start|>").expect("there"), t.id("<think>").expect("there"));
        let text = "<|im_start|>a<think>";
        assert_eq!(t.encode(text, false).expect("encodes").iter().filter(|&&id| id == start).count(), 1);
        let ordinary = t.encode_ordinary(text).expect("encodes");
        assert!(!ordinary.contains(&start));
        assert!(ordinary.contains(&think), "added words are text");
        assert_eq!(t.decode(&ordinary, true).expect("decodes"), text);
    }
}

#[test]
fn roles_and_bytes_agree_between_json_and_gguf() {
    let dir = qwen2();
    let (a, b) = (Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads"), from_gguf(&dir));
    assert_eq!(a.eos(), a.id("<|im_end|>"));
    assert_eq!((a.bos(), a.eos(), a.pad()), (None, b.eos(), b.pad()));
    assert_eq!(a.special_tokens(), b.special_tokens());
    assert_eq!(a.special_tokens().len(), 5);
    for id in 0..1100 {
        assert_eq!(a.token_bytes(id), b.token_bytes(id), "token {id}");
    }
    assert_eq!(a.token_bytes(a.id("Ġ").expect("there")), Some(&b" "[..]));
    assert_eq!((a.token_bytes(1100), b.token_bytes(1100), b.token(u32::MAX)), (None, None, None));
}

#[test]
fn bytes_of_sentencepiece_and_wordpiece_tokens() {
    let Some(root) = shared("oracle/lm/fixtures/tokenizers") else {
        return;
    };
    let load = |kind: &str| Tokenizer::from_file(root.join(kind).join("tokenizer.json")).expect("loads");
    let llama = load("llama2");
    assert_eq!(llama.token_bytes(llama.id("<0x0A>").expect("there")), Some(&b"\n"[..]));
    assert_eq!(llama.token_bytes(llama.id("▁the").expect("there")), Some(&b" the"[..]));
    assert_eq!(llama.bos(), llama.id("<s>"));
    let bert = load("bert");
    assert_eq!(bert.token_bytes(bert.id("##s").expect("there")), Some(&b"s"[..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Bytes and byte fallback lose nothing; qwen2 brings text to NFC, llama2 adds and takes one space.
    #[test]
    fn decoding_what_was_encoded_gives_the_text(text in "(\\PC|[a-z '\\n\\r\\t0-9]|e\u{301}|\u{0}){0,40}") {
        for (kind, tokenizer) in gguf_kinds() {
            let ids = tokenizer.encode_ordinary(&text).expect("encodes");
            let decoded = tokenizer.decode(&ids, false).expect("decodes");
            match *kind {
                "t5" | "bert" => prop_assert!(ids.iter().all(|&id| tokenizer.token(id).is_some())),
                "qwen2" if !text.is_ascii() => {
                    let again = tokenizer.encode_ordinary(&decoded).expect("encodes");
                    prop_assert_eq!(tokenizer.decode(&again, false).expect("decodes"), decoded);
                }
                _ => prop_assert_eq!(decoded.replace('▁', " "), text.replace('▁', " "), "{}", kind),
            }
        }
    }

    /// The GGUF-born kinds encode as the `tokenizer.json` of the same model.
    #[test]
    fn every_kind_encodes_any_text_as_its_tokenizer_json(text in "(\\PC|[a-z '\\n\\r\\t0-9.,!?]|naïve|ÉCOLE|東京|  ){0,30}") {
        for ((kind, ours), theirs) in gguf_kinds().iter().zip(json_kinds()) {
            // SentencePiece's own mark for spaces in text is one for `tokenizer.json`, too; a unigram file does
            // not say how to treat grapheme clusters, which the crate replaces as a whole.
            if !text.contains('▁') && *kind != "t5" {
                prop_assert_eq!(ours.encode_ordinary(&text).expect("encodes"), theirs.encode_ordinary(&text).expect("encodes"), "{}", kind);
            }
        }
    }

    #[test]
    fn json_and_gguf_encode_any_text_alike(text in "(\\PC|[a-z '\\n\\r\\t0-9]|<\\|im_end\\|>|e\u{301}|<think>){0,40}") {
        let (a, b) = both();
        let ids = a.encode(&text, true).expect("encodes");
        prop_assert_eq!(&b.encode(&text, true).expect("encodes"), &ids);
        prop_assert_eq!(b.encode_ordinary(&text).expect("encodes"), a.encode_ordinary(&text).expect("encodes"));
        if text.is_ascii() {
            prop_assert_eq!(b.decode(&ids, false).expect("decodes"), text);
        }
    }

    #[test]
    fn any_ids_stream_to_what_decode_gives(ids in prop::collection::vec(0u32..1110, 0..30), skip: bool) {
        for tokenizer in streaming_kinds() {
            prop_assert_eq!(streamed(tokenizer, &ids, skip), tokenizer.decode(&ids, skip).expect("decodes"));
        }
    }
}

/// Every kind from GGUF, where the shared fixtures are checked out; else the committed one.
fn gguf_kinds() -> &'static [(&'static str, Tokenizer)] {
    static ALL: std::sync::OnceLock<Vec<(&'static str, Tokenizer)>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| match kinds() {
        Some(root) => KINDS.map(|k| (k, from_gguf(&root.join(k)))).into(),
        None => vec![("qwen2", from_gguf(&qwen2()))],
    })
}

/// The same kinds from `tokenizer.json`.
fn json_kinds() -> &'static [Tokenizer] {
    static ALL: std::sync::OnceLock<Vec<Tokenizer>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let load = |dir: PathBuf| Tokenizer::from_file(dir.join("tokenizer.json")).expect("loads");
        kinds().map_or_else(|| vec![load(qwen2())], |root| KINDS.map(|k| load(root.join(k))).into())
    })
}

fn both() -> &'static (Tokenizer, Tokenizer) {
    static BOTH: std::sync::OnceLock<(Tokenizer, Tokenizer)> = std::sync::OnceLock::new();
    BOTH.get_or_init(|| (Tokenizer::from_file(qwen2().join("tokenizer.json")).expect("loads"), from_gguf(&qwen2())))
}

/// The committed tokenizer both ways and, where they are checked out, the shared kinds.
fn streaming_kinds() -> &'static [Tokenizer] {
    static ALL: std::sync::OnceLock<Vec<Tokenizer>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = vec![Tokenizer::from_file(qwen2().join("tokenizer.json")).expect("loads"), from_gguf(&qwen2())];
        if let Some(root) = shared("oracle/lm/fixtures/tokenizers") {
            let kinds = ["llama3", "gemma", "llama2", "t5", "bert"];
            all.extend(kinds.map(|k| Tokenizer::from_file(root.join(k).join("tokenizer.json")).expect("loads")));
            all.extend(kinds.map(|k| from_gguf(&root.join(k))));
        }
        all
    })
}

/// A sound vocabulary of three tokens and one merge, changed by `f`.
fn broken(f: impl FnOnce(&mut GgufVocab)) -> String {
    let tokens = ["a", "b", "ab"].map(String::from).to_vec();
    let mut vocab =
        GgufVocab { model: "gpt2".into(), pre: Some("qwen2".into()), tokens, merges: vec!["a b".into()], ..GgufVocab::default() };
    assert_eq!(Tokenizer::from_gguf(&vocab).expect("sound").encode("abb", true).expect("encodes"), [2, 1]);
    f(&mut vocab);
    Tokenizer::from_gguf(&vocab).expect_err("refused").to_string()
}

#[test]
fn contradictory_vocabularies_are_refused_by_name() {
    let cases: [(String, &[&str]); 14] = [
        (broken(|v| v.tokens.clear()), &["tokens", "empty"]),
        (broken(|v| v.merges.push("a c".into())), &["merge 1", "`c`"]),
        (broken(|v| v.merges.push("b a".into())), &["merge 1", "`ba`"]),
        (broken(|v| v.merges.push("ab".into())), &["merge 1", "`ab`", "two tokens"]),
        (broken(|v| v.merges.push(String::new())), &["merge 1", "two tokens"]),
        (broken(|v| v.bos_id = Some(3)), &["bos_token_id", "id 3", "3 tokens"]),
        (broken(|v| v.eos_id = Some(u32::MAX)), &["eos_token_id", "4294967295"]),
        (broken(|v| v.tokens.push("a".into())), &["`a`", "token 0", "token 3"]),
        (broken(|v| v.scores = Some(vec![0.0])), &["scores", "1 entries", "expected 3"]),
        (broken(|v| v.token_types = Some(vec![1; 4])), &["token_type", "4 entries", "expected 3"]),
        (broken(|v| v.token_types = Some(vec![1, 1, 9])), &["token 2", "type 9"]),
        (broken(|v| v.token_types = Some(vec![6, 1, 1])), &["byte token 0", "`a`", "<0x00>"]),
        (broken(|v| v.pre = Some("nobody-knows".into())), &["nobody-knows", "qwen2", "llama-bpe", "smollm"]),
        (broken(|v| v.model = "hybriddna".into()), &["`hybriddna`", "gpt2", "llama", "t5", "bert", "tokenizer.json"]),
    ];
    for (message, parts) in cases {
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
    let message = broken(|v| v.tokens.push("x".repeat(1 << 20)));
    assert!(message.contains("1048576") && message.len() < 200, "{message}");
    let message = broken(|v| v.add_eos = Some(true));
    assert!(message.contains("add_eos_token"), "{message}");
}

#[test]
fn a_byte_without_token_is_named_or_unknown() {
    let tokens = ["a", "<unk>"].map(String::from).to_vec();
    let mut vocab = GgufVocab { model: "gpt2".into(), tokens, token_types: Some(vec![1, 2]), ..GgufVocab::default() };
    let message = Tokenizer::from_gguf(&vocab).expect("sound").encode("az", true).expect_err("refused").to_string();
    assert!(message.contains("0x7A"), "{message}");
    vocab.unk_id = Some(1);
    assert_eq!(Tokenizer::from_gguf(&vocab).expect("sound").encode("az", true).expect("encodes"), [0, 1]);
}

#[test]
fn broken_tokenizer_json_is_refused_by_name() {
    let sound = json(qwen2().join("tokenizer.json"));
    let broken = |f: &dyn Fn(&mut serde_json::Value)| {
        let mut v = sound.clone();
        f(&mut v);
        Tokenizer::from_bytes(v.to_string().as_bytes()).expect_err("refused").to_string()
    };
    assert!(Tokenizer::from_bytes(sound.to_string().as_bytes()).is_ok());
    assert!(broken(&|v| v["added_tokens"][0]["content"] = "".into()).contains("no text"));
    assert!(broken(&|v| v["added_tokens"][0]["id"] = (1u64 << 31).into()).contains("2147483648"));
    assert!(broken(&|v| v["added_tokens"][1]["id"] = v["added_tokens"][0]["id"].clone()).contains("both have id"));
    assert!(broken(&|v| v["decoder"]["type"] = "Mystery".into()).contains("tokenizer.json"));
    assert!(broken(&|v| v["model"]["vocab"] = serde_json::json!(["a"])).contains("tokenizer.json"));
    assert!(Tokenizer::from_bytes(b"{").is_err());
    let deep = format!("{{\"normalizer\":{}", "{\"normalizers\":[".repeat(10_000));
    assert!(Tokenizer::from_bytes(deep.as_bytes()).is_err());
    assert!(Tokenizer::from_file("nowhere/tokenizer.json").expect_err("refused").to_string().contains("nowhere"));
}

#[test]
fn config_naming_an_unknown_token_is_refused() {
    let mut t = Tokenizer::from_bytes(&std::fs::read(qwen2().join("tokenizer.json")).expect("there")).expect("loads");
    t.apply_config(&serde_json::json!({"eos_token": {"content": "<|im_end|>"}, "bos_token": null})).expect("sound");
    assert_eq!((t.eos(), t.bos()), (t.id("<|im_end|>"), None));
    let message = t.apply_config(&serde_json::json!({"eos_token": "<|gone|>"})).expect_err("refused").to_string();
    assert!(message.contains("<|gone|>") && message.contains("eos_token"), "{message}");
}

/// A byte-pair vocabulary with byte fallback and a decoder.
fn with_decoder(decoder: &str) -> Tokenizer {
    let json = format!(
        r#"{{"decoder":{decoder},"model":{{"type":"BPE","unk_token":"<unk>","byte_fallback":true,
        "vocab":{{"<unk>":0,"<0xC3>":1,"<0xA9>":2,"▁":3,"a":4,"▁a":5,"▁▁":6,"<0x20>":7}},"merges":[]}}}}"#
    );
    Tokenizer::from_bytes(json.as_bytes()).unwrap_or_else(|e| panic!("{decoder}: {e}"))
}

/// Tokens of every order, so that each kind begins and ends a stretch of text.
#[test]
fn any_decoder_streams_what_it_decodes_at_once() {
    const SPACES: &str = r#"{"type":"Replace","pattern":{"String":"▁"},"content":" "}"#;
    const BYTES: &str = r#"{"type":"ByteFallback"}"#;
    let strip = |start: u64, stop: u64| format!(r#"{{"type":"Strip","content":" ","start":{start},"stop":{stop}}}"#);
    let fuse = r#"{"type":"Fuse"}"#;
    let metaspace = r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#;
    let chain = |steps: &[&str]| format!(r#"{{"type":"Sequence","decoders":[{}]}}"#, steps.join(","));
    let decoders = [
        "null".to_owned(),
        metaspace.into(),
        r#"{"type":"WordPiece","prefix":"a","cleanup":true}"#.into(),
        r#"{"type":"BPEDecoder","suffix":"▁"}"#.into(),
        r#"{"type":"CTC","pad_token":"<unk>","word_delimiter_token":"▁","cleanup":true}"#.into(),
        chain(&[SPACES, BYTES, fuse]),
        chain(&[SPACES, BYTES, fuse, &strip(1, 0)]),
        chain(&[SPACES, BYTES, fuse, &strip(2, 0)]),
        chain(&[SPACES, BYTES, &chain(&[fuse, &strip(3, 0)])]),
        chain(&[SPACES, BYTES, fuse, &strip(1, 1)]),
        chain(&[BYTES, metaspace]),
        chain(&[metaspace, BYTES]),
        chain(&[SPACES, BYTES, fuse, r#"{"type":"Replace","pattern":{"String":"a "},"content":""}"#]),
        chain(&[r#"{"type":"Replace","pattern":{"String":"a"},"content":"<0xC3>"}"#, BYTES]),
        chain(&[&strip(1, 0), SPACES, fuse]),
    ];
    for decoder in decoders {
        let tokenizer = with_decoder(&decoder);
        for number in 0..6usize.pow(5) {
            let ids: Vec<u32> = (0..5).map(|digit| [1, 2, 3, 4, 6, 7][number / 6usize.pow(digit) % 6]).collect();
            // Some decoders fail for texts shorter than what they cut.
            let Ok(whole) = tokenizer.decode(&ids, false) else { continue };
            assert_eq!(streamed(&tokenizer, &ids, false), whole, "{decoder}: {ids:?}");
        }
    }
}

/// The usual decoders show text as it comes.
#[test]
fn text_is_shown_before_the_end() {
    let steps = r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},
        {"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#;
    let tokenizer = with_decoder(steps);
    let mut stream = TextStream::new(&tokenizer, false);
    let shown: Vec<_> = [3, 5, 4, 1, 2, 3, 3, 3, 4].map(|id| stream.push(id).expect("decodes").unwrap_or_default()).into();
    assert_eq!(shown, ["", " a", "a", "", "", "é ", " ", " ", "a"]);
}
