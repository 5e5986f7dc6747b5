//! Hostile tokenizers: errors that name the field, under bounds on time and memory, each with a valid twin.
//!
//! A file that is refused stays within 64 KiB + 4 × its size.  One that is accepted costs what the tables of the
//! `tokenizers` crate cost, which is bounded per byte of the file, and the automata of its patterns, which are bounded
//! by a number.

mod common;

use common::{committed, json};
use rlx_bounds::{Counting, bounded, quick, within};
use rlx_text::{GgufVocab, TextStream, Tokenizer};
use serde_json::{Value, json};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that a vocabulary takes in memory.
fn size(v: &GgufVocab) -> usize {
    let texts = |list: &[String]| list.iter().map(|t| t.len() + size_of::<String>()).sum::<usize>();
    texts(&v.tokens) + texts(&v.merges) + v.scores.as_ref().map_or(0, |s| 4 * s.len()) + v.token_types.as_ref().map_or(0, |t| 4 * t.len())
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|t| (*t).to_owned()).collect()
}

/// Sound vocabularies of all kinds, small.
fn sound(model: &str) -> GgufVocab {
    let plain = GgufVocab { model: model.into(), ..GgufVocab::default() };
    match model {
        "llama" => GgufVocab {
            tokens: texts(&["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "▁a"]),
            scores: Some(vec![0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -1.0]),
            token_types: Some(vec![2, 3, 3, 6, 1, 1, 1]),
            ..plain
        },
        "t5" => GgufVocab {
            tokens: texts(&["<pad>", "</s>", "<unk>", "▁", "a", "▁a"]),
            scores: Some(vec![0.0, 0.0, 0.0, -2.0, -3.0, -1.0]),
            token_types: Some(vec![3, 3, 2, 1, 1, 1]),
            add_space_prefix: Some(true),
            ..plain
        },
        "bert" => GgufVocab {
            tokens: texts(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "b"]),
            token_types: Some(vec![3, 3, 3, 3, 1, 1]),
            bos_id: Some(2),
            sep_id: Some(3),
            unk_id: Some(1),
            pad_id: Some(0),
            ..plain
        },
        _ => GgufVocab {
            pre: Some("qwen2".into()),
            tokens: texts(&["a", "b", "ab", "<s>"]),
            token_types: Some(vec![1, 1, 1, 3]),
            merges: texts(&["a b"]),
            ..plain
        },
    }
}

#[test]
fn gguf_15_twins_are_sound() {
    let encodings: [(&str, &str, &[u32]); 4] = [
        ("gpt2", "abb<s>", &[2, 1, 3]),
        ("llama", "a A</s>", &[1, 6, 4, 3, 2]),
        ("t5", "a  aé", &[5, 3, 5, 2, 1]),
        ("bert", "ab AB x", &[2, 4, 5, 4, 5, 1, 3]),
    ];
    for (model, text, ids) in encodings {
        let vocab = sound(model);
        // The first use makes tables that are shared by all tokenizers.
        Tokenizer::from_gguf(&vocab).expect("sound");
        assert_eq!(Tokenizer::from_gguf(&vocab).expect("sound").encode(text, true).expect("encodes"), ids, "{model}");
    }
}

fn refused(model: &str, f: impl FnOnce(&mut GgufVocab), parts: &[&str]) {
    let mut vocab = sound(model);
    Tokenizer::from_gguf(&vocab).expect("the twin is sound");
    f(&mut vocab);
    let error = bounded(size(&vocab), || Tokenizer::from_gguf(&vocab)).expect_err("refused");
    let message = error.to_string();
    assert!(message.len() < 4096, "{} bytes of message", message.len());
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    // The place in the file follows from the key and the element that are blamed: the last that the message speaks of.
    let (key, element) = error.vocabulary_key().expect("a key of the vocabulary");
    assert!(message.contains(key) || ["model", "pre"].contains(&key), "{key} {message}");
    let number = |part: &str| ["token ", "byte token ", "merge "].iter().find_map(|name| part.strip_prefix(name)?.parse::<usize>().ok());
    let blamed = parts.iter().rev().find_map(|part| number(part));
    assert!(blamed.is_none() || element == blamed, "{element:?} {message}");
}

#[test]
fn gguf_15_vocabulary_that_contradicts_itself() {
    for model in ["gpt2", "llama", "t5", "bert"] {
        refused(model, |v| v.tokens.clear(), &["tokens", "empty"]);
        refused(model, |v| v.scores = Some(vec![0.0]), &["scores", "1 entries"]);
        refused(model, |v| v.token_types = Some(vec![1]), &["token_type", "1 entries"]);
        refused(model, |v| v.token_types.as_mut().expect("there")[1] = 200, &["token 1", "type 200"]);
        refused(model, |v| v.tokens[1] = "x".repeat(1 << 20), &["token 1", "1048576"]);
        refused(model, |v| v.tokens[1] = v.tokens[0].clone(), &["token 0", "token 1"]);
        refused(model, |v| v.bos_id = Some(1 << 31), &["bos_token_id", "2147483648"]);
        refused(model, |v| v.eos_id = Some(u32::MAX), &["eos_token_id"]);
        refused(model, |v| v.sep_id = Some(99), &["seperator_token_id", "99"]);
        refused(model, |v| v.fim_ids[2] = Some(99), &["fim_mid_token_id", "99"]);
    }
    refused("gpt2", |v| v.merges.push("a c".into()), &["merge 1", "`c`"]);
    refused("gpt2", |v| v.merges.push("b a".into()), &["merge 1", "`ba`"]);
    refused("gpt2", |v| v.merges.push("a".repeat(1 << 20)), &["merge 1", "two tokens"]);
    refused("gpt2", |v| v.pre = Some("mystery".into()), &["`mystery`", "qwen2"]);
    refused("gpt2", |v| v.model = "mystery".into(), &["`mystery`", "gpt2", "llama", "t5", "bert"]);
    for spelled in ["<0x-1>", "<0xZZ>", "<0x1>", "0x41"] {
        refused("llama", |v| v.tokens[3] = spelled.into(), &["byte token 3", spelled]);
    }
    refused("llama", |v| v.scores = None, &["scores", "missing"]);
    refused("t5", |v| v.scores = None, &["scores", "missing"]);
    refused("llama", |v| v.scores.as_mut().expect("there")[4] = f32::NAN, &["scores", "token 4"]);
    refused("t5", |v| v.precompiled_charsmap = Some(vec![0xFF; 100]), &["precompiled_charsmap"]);
    refused("t5", |v| v.tokens[3] = "x".repeat(10_000), &["token 3", "10000"]);
    refused("t5", |v| v.scores.as_mut().expect("there")[4] = f32::NEG_INFINITY, &["scores", "token 4"]);
    refused("bert", |v| v.sep_id = None, &["add_sep_token"]);
    refused("gpt2", |v| v.add_eos = Some(true), &["add_eos_token"]);
}

/// 100 000 tokens that differ late: no check is quadratic.
#[test]
fn gguf_15_many_tokens_take_no_quadratic_time() {
    let tokens: Vec<String> = (0..100_000).map(|i| format!("{}{i:06}", "x".repeat(20))).collect();
    let mut vocab = GgufVocab { model: "gpt2".into(), tokens, ..GgufVocab::default() };
    Tokenizer::from_gguf(&vocab).expect("sound");
    vocab.tokens.push(vocab.tokens[5].clone());
    let message = bounded(size(&vocab), || Tokenizer::from_gguf(&vocab)).expect_err("refused").to_string();
    assert!(message.contains("token 5 and token 100000"), "{message}");
}

fn qwen2() -> Value {
    json(committed("tokenizers/qwen2").join("tokenizer.json"))
}

/// A file that is refused, within the bounds.
#[track_caller]
fn refused_json(bytes: &[u8], parts: &[&str]) {
    let message = bounded(bytes.len(), || Tokenizer::from_bytes(bytes)).expect_err("refused").to_string();
    assert!(message.len() < 4096, "{} bytes of message", message.len());
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// As [`refused_json`], because of the value that begins where `wrong` first stands.
#[track_caller]
fn refused_at(bytes: &[u8], wrong: &str, parts: &[&str]) {
    let begin = bytes.windows(wrong.len()).position(|w| w == wrong.as_bytes()).expect("it is there");
    refused_json(bytes, &[&[&*format!(" at byte {begin}: ")], parts].concat());
}

/// The fixture with its split pattern replaced.
fn with_pattern(pattern: &str) -> Vec<u8> {
    let mut v = qwen2();
    v["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern.into();
    v.to_string().into_bytes()
}

fn loads(bytes: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(bytes).unwrap_or_else(|e| panic!("the twin is sound: {e}"))
}

#[test]
fn tokenizer_26_nested_quantifiers() {
    // Without look-around the expression runs in linear time, however it nests.
    let text = "a".repeat(5_000) + "!";
    for fine in ["(a+)+", "(a+)+b", "((a*)*)*c", r"(?:\p{L}+)+(?i:x)", r"\s+(?!\S)|(a+)+"] {
        let tokenizer = loads(&with_pattern(fine));
        let ids = quick(|| tokenizer.encode(&text, false)).expect("encodes");
        assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), text);
    }
    for bad in [r"\p{L}{100}", r"\w{1000}", r"(?=\p{L}{60})a|(?=\p{L}{60})b"] {
        refused_pattern(bad, &["pattern", "at byte ", "automaton of more than 1048576 bytes"]);
    }
    for bad in ["(a+)+(?!b)", "(?=(a*)*b)", r"(a+a+)+\1", "(?>x)(a*)*b", "(?:(?:a{100}){100}){100}"] {
        let spelled = json!(bad).to_string();
        refused_at(&with_pattern(bad), &spelled, &["tokenizer.json, pre_tokenizer.pretokenizers[0].pattern.Regex at byte"]);
    }
}

/// A pattern may need what the automata of all patterns may need before it is refused for that.
fn refused_pattern(pattern: &str, parts: &[&str]) {
    let bytes = with_pattern(pattern);
    let message = within(AUTOMATA + 4 * bytes.len(), SECOND, || Tokenizer::from_bytes(&bytes)).expect_err("refused").to_string();
    assert!(parts.iter().all(|p| message.contains(p)), "{message:?} does not say {parts:?}");
}

/// Bytes while the patterns of a file are built: six times the mebibyte that their automata may have.
const AUTOMATA: usize = 6 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// Patterns that are accepted, at the limits of what is.
#[test]
fn tokenizer_26_accepted_patterns_need_little() {
    let looks = "(?=^)".repeat(12) + "a";
    let alternatives = [r"\p{L}"; 8].join("|");
    for pattern in ["(a+)+", r"(?<=a)b", r"\p{L}{10}", r"\w{8}", &"^".repeat(1024), &"a".repeat(1024), "a{4096}", &looks, &alternatives] {
        let bytes = with_pattern(pattern);
        // The vocabulary of the fixture has its part.
        let tokenizer = within(AUTOMATA + 24 * bytes.len(), SECOND, || loads(&bytes));
        let text = "^".repeat(1 << 20);
        assert!(quick(|| tokenizer.encode(&text, false)).is_ok(), "{pattern}");
    }
    refused_pattern(&"(?=^)".repeat(13), &["pattern", "beyond the 12"]);
    // As many patterns as one likes are no way around it.
    let splits = |n: usize, pattern: &str| {
        let split = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let mut v = qwen2();
        v["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": vec![split; n] });
        v.to_string().into_bytes()
    };
    loads(&splits(4, r"\p{L}+"));
    let many = splits(1000, r"\p{L}+");
    let message = within(AUTOMATA + 4 * many.len(), SECOND, || Tokenizer::from_bytes(&many)).expect_err("refused").to_string();
    assert!(message.contains("for all patterns together"), "{message}");
}

/// Room that the `tokenizers` crate makes for ten thousand words of a unigram model before it has seen one.
const CACHE: usize = 896 << 10;

/// The tables of the `tokenizers` crate, in bytes per byte of the file.  Tokens are kept as keys of two hash maps, of
/// strings of 24 bytes each; a unigram model has a trie with a hash map at every node, of which a byte of a token can
/// make one; added tokens are found by an Aho-Corasick automaton, with a state for every byte.
#[test]
fn tokenizer_27_accepted_vocabularies_are_bounded_per_byte() {
    let words = |n: usize| (0..n).map(|i| format!("{i:x}")).chain(["<unk>".to_owned()]);
    let numbered = |words: &mut dyn Iterator<Item = String>| -> Value {
        words.zip(0u32..).map(|(w, id)| (w, json!(id))).collect::<serde_json::Map<_, _>>().into()
    };
    let scored = |words: &mut dyn Iterator<Item = String>| words.map(|w| json!([w, -1])).collect::<Vec<_>>();
    let added = |words: &mut dyn Iterator<Item = String>| -> Vec<Value> {
        words.zip(2u32..).map(|(w, id)| json!({ "id": id, "content": w, "special": true, "normalized": false, "lstrip": false, "rstrip": false, "single_word": false })).collect()
    };
    let han = |i: usize| char::from_u32(0x4e00 + i as u32).expect("a character").to_string();
    for n in [100usize, 1000, 10_000] {
        let two = || json!({ "type": "WordLevel", "vocab": { "a": 0, "<unk>": 1 }, "unk_token": "<unk>" });
        let side = n.isqrt();
        let mut pairs = (0..side).flat_map(|i| (0..side).map(move |k| (i, k)));
        let merges: Vec<Value> = pairs.by_ref().map(|(i, k)| json!([han(i), han(k)])).collect();
        let texts = merges.iter().map(|m| format!("{}{}", m[0].as_str().unwrap_or_default(), m[1].as_str().unwrap_or_default()));
        let mut all = (0..side).map(han).chain(texts);
        let files = [
            ("WordLevel", 40, json!({ "model": { "type": "WordLevel", "vocab": numbered(&mut words(n)), "unk_token": "<unk>" } })),
            ("BPE", 40, json!({ "model": { "type": "BPE", "vocab": numbered(&mut all), "merges": merges } })),
            ("Unigram", 56, json!({ "model": { "type": "Unigram", "vocab": scored(&mut words(n)), "unk_id": 0 } })),
            (
                "Unigram of long tokens",
                280,
                json!({ "model": { "type": "Unigram", "unk_id": 0, "vocab": scored(&mut words(n / 10).map(|w| w + &"é".repeat(20))) } }),
            ),
            ("added tokens", 8, json!({ "added_tokens": added(&mut words(n).map(|w| format!("<{w}>"))), "model": two() })),
            (
                "long added tokens",
                120,
                json!({ "added_tokens": added(&mut words(n / 10).map(|w| w + &"xyzw".repeat(100))), "model": two() }),
            ),
        ];
        for (kind, per_byte, file) in files {
            let bytes = file.to_string().into_bytes();
            let (_, cost) = rlx_bounds::measured(|| loads(&bytes));
            let fixed = if kind.starts_with("Unigram") { 64 * 1024 + CACHE } else { 64 * 1024 };
            assert!(cost.peak <= fixed + per_byte * bytes.len(), "{kind}, {n}: {} bytes of {}", cost.peak, bytes.len());
            assert!(cost.took <= SECOND, "{kind}: {:?}", cost.took);
        }
    }
}

#[test]
fn tokenizer_26_look_behind() {
    let tokenizer = loads(&with_pattern(r"(?<=a)b|[^ab]+"));
    assert_eq!(tokenizer.decode(&tokenizer.encode("abc", false).expect("encodes"), false).expect("decodes"), "abc");
    refused_at(&with_pattern(r"(?<=a"), r#""(?<=a"#, &["pretokenizers[0].pattern.Regex"]);
    refused_at(&with_pattern(r"(?<=a+b*)c"), r#""(?<=a+b*)c"#, &["pretokenizers[0].pattern.Regex"]);
}

#[test]
fn tokenizer_26_a_megabyte_of_carets() {
    refused_at(&with_pattern(&"^".repeat(1 << 20)), "\"^^", &["1048576 bytes", "expected at most"]);
    refused_at(&with_pattern(&"(".repeat(10_000)), "\"((", &["pattern"]);
    loads(&with_pattern(&"^".repeat(100)));
    encodes_a_megabyte(&loads(qwen2().to_string().as_bytes()), "^");
    let vocab = common::gguf_vocab(committed("tokenizers/qwen2").join("tokenizer.gguf"));
    encodes_a_megabyte(&Tokenizer::from_gguf(&vocab).expect("sound"), "^");
}

/// A text of one character a million times over.
fn encodes_a_megabyte(tokenizer: &Tokenizer, of: &str) {
    let text = of.repeat((1 << 20) / of.len());
    let ids = quick(|| tokenizer.encode(&text, false)).expect("encodes");
    assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), text);
    // The twin is what it begins with.
    let few = of.repeat(50);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&few, false).expect("encodes"), false).expect("decodes"), few);
}

/// Tokens for runs of every length up to 31, as Gemma has them for spaces and line ends.
#[test]
fn tokenizer_26_a_megabyte_of_spaces_in_a_gguf_vocabulary() {
    let mut vocab = GgufVocab { add_bos: Some(false), add_space_prefix: Some(false), ..sound("llama") };
    for n in 2..=31 {
        for of in ["▁", "a"] {
            vocab.tokens.push(of.repeat(n));
            vocab.scores.as_mut().expect("there").push(-4.0 - n as f32);
            vocab.token_types.as_mut().expect("there").push(1);
        }
    }
    let tokenizer = Tokenizer::from_gguf(&vocab).expect("sound");
    encodes_a_megabyte(&tokenizer, " ");
    encodes_a_megabyte(&tokenizer, "a");
    // Longer runs first: every merge makes a better one possible.
    vocab.scores.as_mut().expect("there").iter_mut().skip(7).for_each(|s| *s = -*s);
    encodes_a_megabyte(&Tokenizer::from_gguf(&vocab).expect("sound"), " ");
}

/// The `tokenizers` crate merges them as one word, at 0.9 s for a megabyte; half of one leaves room on a busy machine.
#[test]
fn tokenizer_26_half_a_megabyte_of_spaces_in_a_tokenizer_json() {
    let tokenizer = loads(qwen2().to_string().as_bytes());
    let text = " ".repeat(1 << 19);
    let ids = quick(|| tokenizer.encode(&text, false)).expect("encodes");
    assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), text);
}

#[test]
fn tokenizer_26_surrogates_and_broken_utf8() {
    let sound = br#"{"model":{"type":"WordLevel","vocab":{"a\ud83d\ude00":0,"<unk>":1},"unk_token":"<unk>"}}"#;
    assert_eq!(loads(sound).id("a😀"), Some(0));
    refused_json(br#"{"model":{"type":"WordLevel","vocab":{"a\ud83d":0,"<unk>":1},"unk_token":"<unk>"}}"#, &["tokenizer.json", "line 1"]);
    refused_json(b"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\xff\":0},\"unk_token\":\"a\"}}", &["tokenizer.json"]);
    // Ids that are no text become U+FFFD, one by one and at once.
    for tokenizer in [loads(qwen2().to_string().as_bytes())] {
        let ids: Vec<u32> = ["ð", "Ł", "a", "ĺ", "ð", "Ł", "ĺ", "Ģ"].iter().filter_map(|t| tokenizer.id(t)).collect();
        assert_eq!(ids.len(), 8);
        let mut stream = TextStream::new(&tokenizer, false);
        let mut out = String::new();
        for &id in &ids {
            stream.push_into(id, &mut out).expect("decodes");
        }
        out += &stream.finish().expect("decodes");
        assert_eq!(out, tokenizer.decode(&ids, false).expect("decodes"));
        assert!(out.contains('\u{FFFD}') && out.contains('a'), "{out}");
    }
}

/// A post-processor that puts token `id` at both ends.
fn around(id: u32) -> Value {
    json!({ "type": "BertProcessing", "sep": ["x", id], "cls": ["x", id] })
}

#[test]
fn tokenizer_27_an_unknown_token_without_text() {
    let with =
        |unknown: &str| format!(r#"{{"model":{{"type":"WordLevel","vocab":{{"a":0,"":1,"?":2}},"unk_token":"{unknown}"}}}}"#).into_bytes();
    refused_at(&with(""), "\"\"}}", &["model.unk_token", "unknown token", "empty text"]);
    assert_eq!(loads(&with("?")).encode("b", false).expect("encodes"), [2]);
    let unigram =
        |id: u32| format!(r#"{{"model":{{"type":"Unigram","vocab":[["?",-1.0],["",-1.0],["a",-1.0]],"unk_id":{id}}}}}"#).into_bytes();
    refused_at(&unigram(1), "1}}", &["model.unk_id", "unknown token", "empty text"]);
    assert_eq!(loads(&unigram(0)).encode("b", false).expect("encodes"), [0]);
    let spelled = |token: &str| {
        format!(r#"{{"decoder":{{"type":"ByteFallback"}},"model":{{"type":"BPE","vocab":{{"a":0,"{token}":1}},"merges":[]}}}}"#)
            .into_bytes()
    };
    refused_at(&spelled("<0x+A>"), "1},\"merges", &["model.vocab.\"<0x+A>\"", "two hexadecimal digits"]);
    loads(&spelled("<0x0A>"));
}

#[test]
fn tokenizer_27_added_tokens() {
    let changed = |f: &dyn Fn(&mut Value)| {
        let mut v = qwen2();
        f(&mut v);
        v.to_string().into_bytes()
    };
    loads(&changed(&|_| {}));
    // Added tokens are told by where their objects begin, their contents being told apart.
    let object = |v: &Value, i: usize| v["added_tokens"][i].to_string();
    let added = |f: &dyn Fn(&mut Value), i: usize, parts: &[&str]| {
        let bytes = changed(f);
        let v: Value = serde_json::from_slice(&bytes).expect("JSON");
        refused_at(&bytes, &object(&v, i), &[&[&*format!("added_tokens[{i}] at byte")], parts].concat());
    };
    added(&|v| v["added_tokens"][0]["content"] = "".into(), 0, &["no text"]);
    added(&|v| v["added_tokens"][0]["id"] = (1u64 << 31).into(), 0, &["2147483648"]);
    refused_at(&changed(&|v| v["model"]["vocab"]["a"] = (1u64 << 31).into()), "2147483648", &["model.vocab.a", "id 2147483648"]);
    refused_at(&changed(&|v| v["model"]["vocab"]["a"] = u64::MAX.into()), "18446744073709551615", &["model.vocab.a"]);
    refused_at(&changed(&|v| v["model"]["vocab"]["a"] = (-1).into()), "-1", &["model.vocab.a", "expected the id of a token"]);
    added(&|v| v["added_tokens"][1]["id"] = v["added_tokens"][0]["id"].clone(), 1, &["both have id"]);
    let twice = changed(&|v| v["model"]["vocab"]["b"] = v["model"]["vocab"]["a"].clone());
    let entry = format!("{},\"c\":", qwen2()["model"]["vocab"]["a"]);
    refused_at(&twice, &entry, &["model.vocab.b", "both have id"]);
    added(&|v| v["added_tokens"][0]["id"] = v["model"]["vocab"]["b"].clone(), 0, &["one token in vocab and another"]);
    refused_at(&changed(&|v| v["added_tokens"] = json!("none")), "\"none\"", &["added_tokens", "list of added tokens"]);
    refused_at(&changed(&|v| v["post_processor"] = around(9_999)), "9999", &["post_processor.sep[1]", "id 9999"]);
    // A template of what is not there, which the `tokenizers` crate finds out while it encodes.
    let template = |single: &str, sequence: &str| {
        changed(&|v| {
            v["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": single, "type_id": 0}}, {"Sequence": {"id": sequence, "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
            });
        })
    };
    let processor = "{\"type\":\"TemplateProcessing\"";
    refused_at(&template("<x>", "A"), processor, &["post_processor", "`<x>`, expected one of its special_tokens"]);
    refused_at(&template("<s>", "B"), processor, &["post_processor", "text B"]);
    assert_eq!(loads(&template("<s>", "A")).encode("", true).expect("encodes"), [1]);
    // A token that is spelled like the key and comes before it.
    let named = String::from_utf8(template("<x>", "A")).expect("text").replacen("\"a\":", "\"post_processor\":60000,\"a\":", 1);
    assert!(named.find("\"post_processor\":") < named.find(processor), "{named}");
    refused_at(named.as_bytes(), processor, &["post_processor at byte", "`<x>`"]);
    // However the file is laid out.
    let mut v = qwen2();
    v["model"]["vocab"]["a"] = (1u64 << 31).into();
    refused_at(format!("{v:#}").as_bytes(), "2147483648", &["model.vocab.a"]);
    assert_eq!(loads(&changed(&|v| v["post_processor"] = around(1))).encode("", true).expect("encodes"), [1, 1]);
    // A special token longer than the text is no reason to refuse either.
    let long = loads(&changed(&|v| v["added_tokens"][0]["content"] = "<|x|>".repeat(100).into()));
    assert_eq!(long.decode(&long.encode("<|x|>", false).expect("encodes"), false).expect("decodes"), "<|x|>");
    assert_eq!(long.encode(&"<|x|>".repeat(100), false).expect("encodes").len(), 1);
}

#[test]
fn tokenizer_27_depth() {
    let nested = |depth: usize| {
        let normalizer = format!("{}{}{}", r#"{"type":"Sequence","normalizers":["#.repeat(depth), r#"{"type":"NFC"}"#, "]}".repeat(depth));
        let mut sound = qwen2();
        sound["normalizer"] = Value::Null;
        sound.to_string().replacen("\"normalizer\":null", &format!("\"normalizer\":{normalizer}"), 1).into_bytes()
    };
    loads(&nested(10));
    refused_json(&nested(10_000), &["tokenizer.json", "recursion limit", "(byte "]);
    refused_json("[".repeat(1 << 20).as_bytes(), &["tokenizer.json"]);
    refused_json("{\"a\":".repeat(100_000).as_bytes(), &["tokenizer.json"]);
    refused_json("{\"decoder\":".repeat(100_000).as_bytes(), &["recursion limit"]);
}

/// Replacements that double the text, a hundred times.
#[test]
fn tokenizer_27_replacements_that_explode() {
    let normalized = |n: usize, content: &str| {
        let replace = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": content });
        let mut v = qwen2();
        v["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![replace; n] });
        v.to_string().into_bytes()
    };
    let doubled = loads(&normalized(3, "aa"));
    assert_eq!(doubled.decode(&doubled.encode("a", false).expect("encodes"), false).expect("decodes"), "a".repeat(8));
    refused_json(&normalized(100, "aa"), &["normalizer.normalizers[12].content at byte", "times longer"]);
    refused_at(&normalized(1, &"a".repeat(1 << 20)), "\"aaa", &["normalizer", "times longer"]);
}

#[test]
fn tokenizer_27_unknown_parts() {
    let changed = |f: &dyn Fn(&mut Value)| {
        let mut v = qwen2();
        f(&mut v);
        v.to_string().into_bytes()
    };
    let mystery = "\"Mystery\"";
    refused_at(&changed(&|v| v["decoder"]["type"] = "Mystery".into()), mystery, &["decoder.type", "unknown type", "ByteLevel"]);
    refused_at(&changed(&|v| v["normalizer"]["type"] = "Mystery".into()), mystery, &["normalizer.type", "unknown type", "NFC"]);
    refused_at(&changed(&|v| v["model"]["type"] = "Mystery".into()), mystery, &["model.type", "unknown type", "BPE"]);
    let inner = changed(&|v| v["pre_tokenizer"]["pretokenizers"][0]["type"] = "Mystery".into());
    refused_at(&inner, mystery, &["pre_tokenizer.pretokenizers[0].type", "unknown type"]);
    refused_at(&changed(&|v| v["model"]["vocab"] = json!(["a", "b"])), r#"["a","b"]"#, &["model.vocab", "list", "map"]);
    refused_at(br#"{"model":{"type":"Unigram","unk_id":0,"vocab":{"a":0}}}"#, r#"{"a":0}"#, &["model.vocab", "map", "list"]);
    // What the tokenizers crate itself refuses.
    let with = |decoder: &str| format!(r#"{{"decoder":{decoder},"model":{{"type":"BPE","vocab":{{"a":0}},"merges":[]}}}}"#).into_bytes();
    loads(&with(r#"{"type":"Strip","content":" ","start":1,"stop":0}"#));
    refused_at(&with(r#"{"type":"Strip"}"#), r#"{"type":"Strip"}"#, &["decoder at byte"]);
    let merges = |m: Value| changed(&|v| v["model"]["merges"] = m.clone());
    loads(&merges(json!([["i", "n"]])));
    refused_at(&merges(json!([["i", "n"], ["i", "\u{1}"]])), r#"["i","\u0001"]"#, &["model.merges[1]", "not in the vocabulary"]);
    refused_at(&merges(json!(["i n", "zz n"])), "\"zz n\"", &["model.merges[1]", "not in the vocabulary"]);
    assert_eq!(loads(br#"{"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.5]]}}"#).id("a"), Some(1));
    refused_json(br#"{"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",1e400]]}}"#, &["line 1"]);
    refused_json(&[], &["tokenizer.json"]);
    refused_json(&[b' '; 100_000], &["tokenizer.json"]);
    refused_json(b"null", &["tokenizer.json"]);
    let sound = qwen2().to_string();
    for cut in (0..sound.len()).step_by(sound.len() / 50) {
        assert!(Tokenizer::from_bytes(&sound.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
}
