//! `tokenizer.json` through the `tokenizers` crate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::Tokenizer as Inner;

use super::hf_check::{self, Blame};
use super::texts::{Index, Texts};
use super::vocabulary::{Decoding, Joining, Vocabulary};
use super::{MARK, PairEncoding, SpecialToken, bytes};
use crate::{Result, TextError};

/// A tokenizer described by `tokenizer.json`.
#[derive(Debug)]
pub(super) struct HfTokenizer {
    inner: Inner,
    /// The same with control tokens taken as text; made when first asked for.
    ordinary: OnceLock<Inner>,
}

impl HfTokenizer {
    pub(super) fn from_bytes(json: &[u8]) -> Result<(Self, Vocabulary)> {
        hf_check::check(json)?;
        let mut placed = None;
        let read = guarded(|| Inner::from_bytes(json).inspect_err(|e| placed = e.downcast_ref().map(|e| hf_check::located(json, e))));
        let mut inner = read.map_err(|e| placed.unwrap_or_else(|| TextError::json("tokenizer.json", e)))?;
        // Length is the caller's business: a prompt is never cut or padded silently.
        guarded(|| inner.with_truncation(None).map(|_| ())).map_err(|e| TextError::json("tokenizer.json", e))?;
        inner.with_padding(None);
        let vocabulary = vocabulary(&inner, json)?;
        check_added_ids(&inner, &vocabulary, json)?;
        Ok((Self { inner, ordinary: OnceLock::new() }, vocabulary))
    }

    pub(super) fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let inner = if parse_special {
            &self.inner
        } else {
            self.ordinary.get_or_init(|| {
                let mut copy = self.inner.clone();
                copy.set_encode_special_tokens(true);
                copy
            })
        };
        let encoded = guarded(|| inner.encode_fast(text, add_special));
        encoded.map(|e| e.get_ids().to_vec()).map_err(|reason| TextError::Tokenizer { action: "encode", reason })
    }

    pub(super) fn encode_pair(&self, first: &str, second: &str) -> Result<PairEncoding> {
        let encoded = guarded(|| self.inner.encode_fast((first, second), true));
        let encoded = encoded.map_err(|reason| TextError::Tokenizer { action: "encode", reason })?;
        Ok(PairEncoding { ids: encoded.get_ids().to_vec(), type_ids: encoded.get_type_ids().to_vec() })
    }

    pub(super) fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        let encoded = guarded(|| self.inner.encode_char_offsets(text, false));
        let encoded = encoded.map_err(|reason| TextError::Tokenizer { action: "encode", reason })?;
        Ok(encoded.get_ids().iter().zip(encoded.get_offsets()).map(|(&id, &(from, to))| (id, from..to)).collect())
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special)).map_err(|reason| TextError::Tokenizer { action: "decode", reason })
    }
}

/// Checks that what is put around texts are tokens: the post-processor has numbers of its own for them.
fn check_added_ids(inner: &Inner, vocabulary: &Vocabulary, json: &[u8]) -> Result<()> {
    let one = guarded(|| inner.encode_fast("", true));
    let two = guarded(|| inner.encode_fast(("", ""), true));
    // A vocabulary that cannot express the empty text says so when it is used.
    for encoded in [one, two].into_iter().flatten() {
        if let Some(id) = encoded.get_ids().iter().find(|&&id| vocabulary.token(id).is_none()) {
            let n = vocabulary.tokens.len();
            let reason = format!("puts id {id} around texts, which none of the {n} tokens has");
            return Err(hf_check::blamed(json, Blame::Around(u64::from(*id)), 1, reason));
        }
    }
    Ok(())
}

/// Runs third-party code whose input came from a file; a panic in it becomes an error.
fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers crate panicked on this file".into()),
    }
}

fn vocabulary(inner: &Inner, json: &[u8]) -> Result<Vocabulary> {
    let ids = inner.get_vocab(true);
    let n = ids.values().max().map_or(0, |&max| max as usize + 1);
    if n > 2 * ids.len() + (1 << 16) {
        let reason = format!("largest id {}, expected about the {} tokens there are", n - 1, ids.len());
        return Err(hf_check::blamed(json, Blame::Id(n as u64 - 1), 1, reason));
    }
    let mut by_id = vec![""; n];
    for (token, &id) in &ids {
        if let Some(slot) = by_id.get_mut(id as usize) {
            *slot = token;
        }
    }
    let mut tokens = Texts::with_capacity(n, by_id.iter().map(|t| t.len()).sum());
    if !by_id.iter().all(|token| tokens.push_with(|out| out.extend_from_slice(token.as_bytes()))) {
        return Err(hf_check::blamed(json, Blame::Vocab, 1, "4 GiB of text or more, expected less".into()));
    }
    let index = Index::new(&tokens, |id| tokens.get(id).is_some_and(|t| !t.is_empty()));
    let steps = decoder_steps(inner);
    let style = Style::of(&steps);
    let decoding = decoding(&steps);
    // The reference reads `<0x+A>` as a byte; a file that means it is not one to guess about.
    if let Some((odd, &id)) =
        ids.iter().find(|(t, _)| decoding != Decoding::Bytes && t.len() == 6 && t.starts_with("<0x+") && t.ends_with('>'))
    {
        let reason = format!("token `{odd}`, expected two hexadecimal digits of a byte token");
        return Err(hf_check::blamed(json, Blame::Id(u64::from(id)), 1, reason));
    }
    let added = inner.get_added_tokens_decoder();
    let mut special: Vec<_> =
        added.iter().map(|(&id, token)| SpecialToken { id, text: token.content.clone(), control: token.special }).collect();
    special.sort_by_key(|s| s.id);
    // Other than bytes in a row is the crate's own decoder's business.
    Ok(Vocabulary::new(tokens, index, special, (decoding, Joining::Bytes), |_, token, out| style.write(token, out)))
}

/// The steps of the decoder, those inside sequences too.
fn decoder_steps(inner: &Inner) -> Vec<Value> {
    fn flatten(step: Value, out: &mut Vec<Value>) {
        match step {
            Value::Object(mut map) if map.get("decoders").is_some_and(Value::is_array) => {
                let listed = map.remove("decoders").and_then(|list| if let Value::Array(list) = list { Some(list) } else { None });
                listed.into_iter().flatten().for_each(|step| flatten(step, out));
            }
            Value::Null => {}
            other => out.push(other),
        }
    }
    let mut steps = Vec::new();
    flatten(inner.get_decoder().and_then(|d| serde_json::to_value(d).ok()).unwrap_or(Value::Null), &mut steps);
    steps
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// How much of the text is certain before the last token.
///
/// Steps that look at one token, and at most at whether it is the first, leave the text of earlier tokens as it is;
/// so does cutting the beginning once all is one string.  Anything else may change what was.
fn decoding(steps: &[Value]) -> Decoding {
    if matches!(steps, [only] if kind(only) == "ByteLevel") {
        return Decoding::Bytes;
    }
    let (mut fused, mut bytes) = (false, false);
    let mut spelled_alike = true;
    for step in steps {
        match (kind(step), fused) {
            ("Fuse", _) => fused = true,
            ("Strip", true) if step.get("stop").and_then(Value::as_u64) == Some(0) => {}
            ("ByteFallback", false) if spelled_alike && !bytes => bytes = true,
            ("Replace" | "Metaspace" | "WordPiece" | "Strip", false) => spelled_alike &= keeps_byte_tokens(step),
            _ => return Decoding::Whole,
        }
    }
    if bytes { Decoding::WindowHoldingBytes } else { Decoding::Window }
}

/// Whether a step makes no token a byte token, and no byte token another, because it only knows the mark of a space.
fn keeps_byte_tokens(step: &Value) -> bool {
    let is = |at: &str, text: &str| step.pointer(at).and_then(Value::as_str) == Some(text);
    kind(step) == "Replace" && is("/pattern/String", MARK) && is("/content", " ")
}

/// How tokens are spelled.
enum Style {
    /// Byte stand-ins throughout.
    ByteLevel,
    /// Plain text with a mark for the space before a word, or for the lack of one.
    Marks { byte_fallback: bool, space_mark: bool, continuation: Option<String> },
}

impl Style {
    fn of(steps: &[Value]) -> Self {
        if matches!(steps, [only] if kind(only) == "ByteLevel") {
            return Self::ByteLevel;
        }
        let has = |name: &str| steps.iter().any(|s| kind(s) == name);
        let prefix = steps.iter().find(|s| kind(s) == "WordPiece").and_then(|s| s.get("prefix")).and_then(Value::as_str);
        let replaces = steps.iter().any(|s| kind(s) == "Replace" && s.pointer("/pattern/String").and_then(Value::as_str) == Some("▁"));
        Self::Marks {
            byte_fallback: has("ByteFallback"),
            space_mark: has("Metaspace") || replaces,
            continuation: prefix.map(str::to_owned),
        }
    }

    /// Appends what a token stands for.
    fn write(&self, token: &str, out: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => bytes::push_token(out, token),
            Self::Marks { byte_fallback, space_mark, continuation } => {
                if let Some(byte) = bytes::byte_token(token).filter(|_| *byte_fallback) {
                    return out.push(byte);
                }
                let bare = continuation.as_deref().and_then(|prefix| token.strip_prefix(prefix)).unwrap_or(token);
                if *space_mark {
                    out.extend_from_slice(bare.replace(MARK, " ").as_bytes());
                } else {
                    out.extend_from_slice(bare.as_bytes());
                }
            }
        }
    }
}
