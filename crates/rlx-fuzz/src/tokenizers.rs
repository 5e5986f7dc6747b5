//! Tokenizers, from `tokenizer.json` and from the vocabulary of a GGUF file.

use arbitrary::{Result, Unstructured};
use rlx_bounds::within;
use rlx_text::{GgufVocab, TextStream, Tokenizer};
use std::time::Duration;

/// Input: a `tokenizer.json`; behind a NUL byte, a text.
pub fn tokenizer_json(data: &[u8]) {
    let at = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let (json, text) = data.split_at(at);
    let text = String::from_utf8_lossy(text);
    within(64 << 20, Duration::from_secs(5), || {
        let Ok(tokenizer) = Tokenizer::from_bytes(json) else { return };
        exercise(&tokenizer, &text);
        exercise(&tokenizer, "Hello  wörld 你好 \u{1F600} 123\r\n\t<s>");
    });
}

/// Encodings have ids of the vocabulary, and decoding one by one gives the text of decoding all at once.
fn exercise(tokenizer: &Tokenizer, text: &str) {
    for id in (0..tokenizer.vocab_size() as u32).take(300) {
        if let Some(token) = tokenizer.token(id) {
            assert!(tokenizer.id(token).is_some(), "token {id} {token:?} has no id");
        }
    }
    for add_special in [false, true] {
        let Ok(ids) = tokenizer.encode(text, add_special) else { continue };
        for id in &ids {
            assert!(tokenizer.token(*id).is_some(), "id {id} of {text:?} is no token");
        }
        for skip in [false, true] {
            let Ok(whole) = tokenizer.decode(&ids, skip) else { continue };
            assert_eq!(streamed(tokenizer, &ids, skip).ok().as_ref(), Some(&whole), "one by one: {ids:?} of {text:?}");
        }
    }
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> rlx_text::Result<String> {
    let mut stream = TextStream::new(tokenizer, skip);
    let mut out = String::new();
    for id in ids {
        stream.push_into(*id, &mut out)?;
    }
    Ok(out + &stream.finish()?)
}

const MODELS: &[&str] = &["gpt2", "llama", "t5", "bert", "gemma", "none", ""];
const PRES: &[&str] = &["default", "gpt-2", "llama-bpe", "qwen2", "qwen35", "deepseek-llm", "tekken", "gpt-4o", "smollm", "starcoder", "?"];
const TOKENS: &[&str] = &[
    "<s>", "</s>", "<unk>", "<0x0A>", "<0xC3>", "<0xZZ>", "▁", "▁a", "a", "b", "ab", "Ġ", "Ġa", "Ċ", "Ã", "é", "你", "[UNK]", "[CLS]",
    "[SEP]", "##a", "▁▁", "he", "l", "lo", "o", "", "<|x|>", " ", "\n",
];

/// Input: choices of a vocabulary, then a text.
pub fn gguf_tokenizer(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((vocab, bytes)) = vocab(&mut u) else { return };
    let text = String::from_utf8_lossy(u.take_rest()).into_owned();
    within((64 << 20) + 64 * data.len(), Duration::from_secs(5), || {
        let Ok(tokenizer) = Tokenizer::from_gguf(&vocab) else { return };
        assert!(tokenizer.vocab_size() >= 1);
        exercise(&tokenizer, &text);
        if bytes && let Ok(ids) = tokenizer.encode(&text, false) {
            // Every byte is a token, so nothing can be lost.
            assert_eq!(tokenizer.decode(&ids, false).ok().as_deref(), Some(text.as_str()));
        }
    });
}

/// The stand-in characters of the byte-level alphabet.
pub(crate) fn byte_alphabet() -> Vec<String> {
    let printable = |b: u32| (0x21..=0x7E).contains(&b) || (0xA1..=0xAC).contains(&b) || (0xAE..=0xFF).contains(&b);
    let shifted: Vec<u32> = (0..256).filter(|b| !printable(*b)).collect();
    let stand_in = |b: u32| {
        let code = shifted.iter().position(|s| *s == b).map_or(b, |i| 0x100 + i as u32);
        char::from_u32(code).unwrap_or_default().to_string()
    };
    (0..256).map(stand_in).collect()
}

/// A vocabulary, and whether it is byte-level BPE with every byte.
fn vocab(u: &mut Unstructured<'_>) -> Result<(GgufVocab, bool)> {
    let mut v = GgufVocab { model: (*u.choose(MODELS)?).into(), ..GgufVocab::default() };
    v.pre = if u.ratio(3, 4)? { Some((*u.choose(PRES)?).into()) } else { None };
    let bytes = u.arbitrary()?;
    if bytes {
        match v.model.as_str() {
            "gpt2" => v.tokens = byte_alphabet(),
            _ => v.tokens = (0..256).map(|b| format!("<0x{b:02X}>")).collect(),
        }
    }
    let base = v.tokens.len();
    for _ in 0..u.int_in_range(0..=12u8)? {
        let token = if u.ratio(1, 4)? { u.arbitrary::<&str>()?.chars().take(12).collect() } else { (*u.choose(TOKENS)?).to_owned() };
        v.tokens.push(token);
    }
    let n = v.tokens.len();
    if u.ratio(3, 4)? {
        let extra = usize::from(u.ratio(1, 16)?);
        v.scores = Some((0..n + extra).map(|_| Ok(f32::from(u.arbitrary::<i8>().unwrap_or(0)) / 4.0)).collect::<Result<_>>()?);
    }
    if u.ratio(3, 4)? {
        let kind = |i: usize, u: &mut Unstructured<'_>| {
            if i < base { if bytes && base == 256 { 6 } else { 1 } } else { u.int_in_range(0..=7).unwrap_or(1) }
        };
        v.token_types = Some((0..n).map(|i| kind(i, u)).collect());
        if v.model == "gpt2"
            && let Some(types) = &mut v.token_types
        {
            types.iter_mut().take(base).for_each(|t| *t = 1);
        }
    }
    for _ in 0..u.int_in_range(0..=8u8)? {
        let (a, b) = (u.choose_index(n.max(1))?, u.choose_index(n.max(1))?);
        if let (Some(a), Some(b)) = (v.tokens.get(a), v.tokens.get(b)) {
            let (a, b) = (a.clone(), b.clone());
            if u.ratio(15, 16)? {
                v.tokens.push(format!("{a}{b}"));
                v.scores.iter_mut().for_each(|s| s.push(-1.0));
                v.token_types.iter_mut().for_each(|t| t.push(1));
            }
            v.merges.push(format!("{a} {b}"));
        }
    }
    for id in [&mut v.bos_id, &mut v.eos_id, &mut v.unk_id, &mut v.pad_id] {
        if u.arbitrary()? {
            let beyond = u32::from(u.ratio(1, 16)?);
            *id = Some(u.int_in_range(0..=n as u32 + beyond)?);
        }
    }
    (v.add_bos, v.add_eos, v.add_space_prefix) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
    let all_bytes = bytes && v.model == "gpt2";
    Ok((v, all_bytes))
}
