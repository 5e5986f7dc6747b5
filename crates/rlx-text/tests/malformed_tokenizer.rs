//! Hostile tokenizers: errors that name the field, under bounds on time and memory, each with a valid twin.
//!
//! Memory is bounded where a file is refused.  A file that is accepted costs what its tokenizer costs.

mod common;

use common::{committed, json};
use rlx_bounds::{Counting, bounded, quick};
use rlx_text::{GgufVocab, TextStream, Tokenizer};
use serde_json::{Value, json};

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
    let message = bounded(size(&vocab), || Tokenizer::from_gguf(&vocab)).expect_err("refused").to_string();
    assert!(message.len() < 4096, "{} bytes of message", message.len());
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
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
fn refused_json(bytes: &[u8], parts: &[&str]) {
    let message = bounded(bytes.len(), || Tokenizer::from_bytes(bytes)).expect_err("refused").to_string();
    assert!(message.len() < 4096, "{} bytes of message", message.len());
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
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
    for bad in ["(a+)+(?!b)", "(?=(a*)*b)", r"(a+a+)+\1", "(?>x)(a*)*b", "(?:(?:a{100}){100}){100}"] {
        refused_json(&with_pattern(bad), &["pattern", "line"]);
    }
}

#[test]
fn tokenizer_26_look_behind() {
    let tokenizer = loads(&with_pattern(r"(?<=a)b|[^ab]+"));
    assert_eq!(tokenizer.decode(&tokenizer.encode("abc", false).expect("encodes"), false).expect("decodes"), "abc");
    assert!(Tokenizer::from_bytes(&with_pattern(r"(?<=a")).is_err());
    refused_json(&with_pattern(r"(?<=a+b*)c"), &["pattern"]);
}

#[test]
fn tokenizer_26_a_megabyte_of_carets() {
    refused_json(&with_pattern(&"^".repeat(1 << 20)), &["1048576 bytes", "expected at most"]);
    refused_json(&with_pattern(&"(".repeat(10_000)), &["pattern"]);
    loads(&with_pattern(&"^".repeat(100)));
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
fn tokenizer_26_a_megabyte_of_spaces() {
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
    refused_json(&with(""), &["unknown token", "empty text"]);
    assert_eq!(loads(&with("?")).encode("b", false).expect("encodes"), [2]);
    let unigram =
        |id: u32| format!(r#"{{"model":{{"type":"Unigram","vocab":[["?",-1.0],["",-1.0],["a",-1.0]],"unk_id":{id}}}}}"#).into_bytes();
    refused_json(&unigram(1), &["unknown token", "empty text"]);
    assert_eq!(loads(&unigram(0)).encode("b", false).expect("encodes"), [0]);
    let spelled = |token: &str| {
        format!(r#"{{"decoder":{{"type":"ByteFallback"}},"model":{{"type":"BPE","vocab":{{"a":0,"{token}":1}},"merges":[]}}}}"#)
            .into_bytes()
    };
    refused_json(&spelled("<0x+A>"), &["<0x+A>", "two hexadecimal digits"]);
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
    refused_json(&changed(&|v| v["added_tokens"][0]["content"] = "".into()), &["added_tokens", "no text"]);
    refused_json(&changed(&|v| v["added_tokens"][0]["id"] = (1u64 << 31).into()), &["added_tokens", "2147483648"]);
    refused_json(&changed(&|v| v["model"]["vocab"]["a"] = (1u64 << 31).into()), &["vocab", "2147483648"]);
    refused_json(&changed(&|v| v["model"]["vocab"]["a"] = u64::MAX.into()), &["vocab", "18446744073709551615"]);
    refused_json(&changed(&|v| v["model"]["vocab"]["a"] = (-1).into()), &["line"]);
    refused_json(&changed(&|v| v["added_tokens"][1]["id"] = v["added_tokens"][0]["id"].clone()), &["added_tokens", "both have id"]);
    refused_json(&changed(&|v| v["model"]["vocab"]["a"] = v["model"]["vocab"]["b"].clone()), &["vocab", "both have id"]);
    refused_json(&changed(&|v| v["added_tokens"][0]["id"] = v["model"]["vocab"]["b"].clone()), &["one token in vocab and another"]);
    refused_json(&changed(&|v| v["added_tokens"] = json!("none")), &["list of added tokens"]);
    refused_json(&changed(&|v| v["post_processor"] = around(9_999)), &["post_processor", "id 9999"]);
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
    refused_json(&nested(10_000), &["tokenizer.json", "recursion limit"]);
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
    refused_json(&normalized(100, "aa"), &["normalizer", "times longer"]);
    refused_json(&normalized(1, &"a".repeat(1 << 20)), &["normalizer", "times longer"]);
}

#[test]
fn tokenizer_27_unknown_parts() {
    let changed = |f: &dyn Fn(&mut Value)| {
        let mut v = qwen2();
        f(&mut v);
        v.to_string().into_bytes()
    };
    refused_json(&changed(&|v| v["decoder"]["type"] = "Mystery".into()), &["decoder", "unknown type", "ByteLevel"]);
    refused_json(&changed(&|v| v["normalizer"]["type"] = "Mystery".into()), &["normalizer", "unknown type", "NFC"]);
    refused_json(&changed(&|v| v["model"]["type"] = "Mystery".into()), &["model", "unknown type", "BPE"]);
    refused_json(&changed(&|v| v["pre_tokenizer"]["pretokenizers"][0]["type"] = "Mystery".into()), &["pre_tokenizer", "unknown type"]);
    refused_json(&changed(&|v| v["model"]["vocab"] = json!(["a", "b"])), &["vocab", "list", "map"]);
    refused_json(br#"{"model":{"type":"Unigram","unk_id":0,"vocab":{"a":0}}}"#, &["vocab", "map", "list"]);
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
