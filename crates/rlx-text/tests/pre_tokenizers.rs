//! Every name of a split rule against ids recorded from llama.cpp, on texts that tell the rules apart.
//!
//! `vocab.json`: texts, and merges learnt from them across word boundaries, so that nearly every place where a rule
//! splits shows in the ids; one set over bytes, one over characters.  `expected.json`: for each name a hash of the ids
//! of each text from llama.cpp, and the texts on which the model's own pattern says otherwise (see there why).

mod common;

use common::{committed, json};
use rlx_text::{GgufVocab, Tokenizer};
use serde_json::Value;

/// The sixteen low bits of FNV-1a over the ids.
fn hash(ids: &[u32]) -> String {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let full = bytes.fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    format!("{:04x}", full & 0xFFFF)
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().expect("a list").iter().map(|s| s.as_str().expect("text").to_owned()).collect()
}

/// Tokens over bytes: the stand-in characters in byte order, then what the merges make.
fn byte_tokens(merges: &[String]) -> Vec<String> {
    let mut next = 0x100;
    let mut stand_in = |b: u32| match b {
        33..=126 | 161..=172 | 174..=255 => char::from_u32(b).expect("a character"),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("a character")
        }
    };
    let mut tokens: Vec<String> = (0..256).map(|b| stand_in(b).to_string()).collect();
    for merge in merges {
        let token = merge.replace(' ', "");
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

fn tokenizer(name: &str, fixture: &Value) -> Tokenizer {
    let mut vocab =
        GgufVocab { model: "gpt2".into(), pre: Some(name.into()), bos_id: Some(0), add_bos: Some(false), ..GgufVocab::default() };
    if ["gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"].contains(&name) {
        let is_byte = |t: &String| t.starts_with("<0x") && t.len() == 6;
        vocab.tokens = strings(&fixture["characters"]["tokens"]);
        vocab.token_types = Some(vocab.tokens.iter().map(|t| if is_byte(t) { 6 } else { 1 }).collect());
        vocab.merges = strings(&fixture["characters"]["merges"]);
    } else {
        vocab.merges = strings(&fixture["merges"]);
        vocab.tokens = byte_tokens(&vocab.merges);
    }
    if name == "whitespace" {
        vocab.model = "whitespace".into();
    }
    Tokenizer::from_gguf(&vocab).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn every_name_splits_as_recorded() {
    let dir = committed("tokenizers/pre");
    let (fixture, expected) = (json(dir.join("vocab.json")), json(dir.join("expected.json")));
    let corpus = strings(&fixture["corpus"]);
    let names = expected["names"].as_object().expect("a map");
    assert_eq!(names.len(), 91);
    for (name, recorded) in names {
        let tokenizer = tokenizer(name, &fixture);
        let hashes: Vec<String> = corpus.iter().map(|text| hash(&tokenizer.encode(text, false).expect("encodes"))).collect();
        let mut recorded: Vec<String> = recorded.as_str().expect("text").split(' ').map(str::to_owned).collect();
        for (at, own) in expected["departures"][name].as_object().into_iter().flatten() {
            let at: usize = at.parse().expect("a number");
            let own = own.as_str().expect("text").to_owned();
            assert_ne!(recorded[at], own, "{name} departs from llama.cpp on {:?}", corpus[at]);
            recorded[at] = own;
        }
        for (at, text) in corpus.iter().enumerate() {
            assert_eq!(hashes[at], recorded[at], "{name} on {text:?}");
        }
    }
}

#[test]
fn a_name_that_nobody_knows_is_an_error_that_names_it_and_the_others() {
    let vocab = GgufVocab { model: "gpt2".into(), pre: Some("nobody-knows".into()), tokens: vec!["a".into()], ..GgufVocab::default() };
    let message = Tokenizer::from_gguf(&vocab).expect_err("refused").to_string();
    for name in json(committed("tokenizers/pre").join("expected.json"))["names"].as_object().expect("a map").keys() {
        assert!(message.contains(name.as_str()), "{message:?} does not list {name}");
    }
    assert!(message.contains("`nobody-knows`"));
}
