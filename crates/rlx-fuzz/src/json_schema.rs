//! JSON schemas and grammars as constraints.
//!
//! Input: a schema, or a grammar behind a `#`; behind a NUL byte, one byte for each token that is drawn.

use crate::check_message;
use rlx_bounds::within;
use rlx_text::constrain::{Constraint, Grammar, TokenTrie};
use rlx_text::{GgufVocab, Tokenizer};
use std::time::Duration;

const END: u32 = 256;

thread_local! {
    static TRIE: TokenTrie = trie();
}

/// Tokens of several bytes, behind the 256 bytes and the token that ends an answer.
const LONGER: &[&str] = &["{\"", "\":", "\",\"", "true", "null", "12", "\"}", "ab", "[]"];

/// What a token writes.
fn bytes(id: u32) -> Vec<u8> {
    match u8::try_from(id) {
        Ok(byte) => vec![byte],
        Err(_) => LONGER.get((id - END - 1) as usize).map(|s| s.as_bytes().to_vec()).unwrap_or_default(),
    }
}

fn trie() -> TokenTrie {
    let mut tokens = crate::tokenizers::byte_alphabet();
    tokens.push("<|end|>".into());
    tokens.extend(LONGER.iter().map(|s| (*s).to_owned()));
    let types = (0..tokens.len() as u32).map(|i| if i == END { 3 } else { 1 }).collect();
    let vocab = GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        token_types: Some(types),
        tokens,
        eos_id: Some(END),
        ..GgufVocab::default()
    };
    let tokenizer = Tokenizer::from_gguf(&vocab).expect("a vocabulary of bytes");
    TokenTrie::new(&tokenizer, &[END]).expect("a tree of bytes")
}

/// Draws tokens that the mask allows: each is accepted, there always is one until the answer is complete, the end is
/// offered exactly where the answer may end, and a complete answer to a schema is JSON.
pub fn json_schema(data: &[u8]) {
    let at = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let (source, draws) = data.split_at(at);
    let Ok(source) = std::str::from_utf8(source) else { return };
    let schema = source.strip_prefix('#').is_none();
    within(256 << 20, Duration::from_secs(20), || {
        let grammar = if schema { Grammar::json_schema(source) } else { Grammar::text(source.trim_start_matches('#')) };
        let constraint = grammar.and_then(|g| TRIE.with(|trie| Constraint::new(trie, &g)));
        match constraint {
            Err(e) => check_message(&e.to_string()),
            Ok(constraint) => follow(constraint, draws, schema),
        }
    });
}

fn follow(mut constraint: Constraint, draws: &[u8], schema: bool) {
    let mut answer = Vec::new();
    for draw in draws.iter().take(200) {
        if constraint.is_done() {
            break;
        }
        let mut logits = [0f32; END as usize + 1 + LONGER.len()];
        if let Err(e) = constraint.mask(&mut logits) {
            return check_message(&e.to_string());
        }
        let allowed: Vec<u32> = (0..logits.len() as u32).filter(|i| logits[*i as usize] == 0.0).collect();
        assert!(!allowed.is_empty(), "no token may follow {:?}", String::from_utf8_lossy(&answer));
        let may_end = constraint.may_end().unwrap_or(false);
        assert_eq!(allowed.contains(&END), may_end, "the end after {:?}", String::from_utf8_lossy(&answer));
        let id = allowed[usize::from(*draw) % allowed.len()];
        constraint.accept(id).unwrap_or_else(|e| panic!("token {id} was allowed: {e}"));
        if id == END {
            break;
        }
        answer.extend(bytes(id));
        if schema && constraint.may_end().unwrap_or(false) {
            let text = String::from_utf8_lossy(&answer);
            // JSON bounds no number; types of Rust do.
            serde_json::from_str::<serde::de::IgnoredAny>(&text).unwrap_or_else(|e| panic!("{text:?} may end and is no JSON: {e}"));
        }
    }
}
