//! The templates of a `tokenizer.json`'s post-processor: what they name must be there.  The `tokenizers` crate looks it up
//! while it encodes, and panics.

use super::hf_check::{Blame, blamed, located};
use super::hf_strings::shorten;
use crate::Result;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    post_processor: Option<Processor>,
}

/// Any kind of post-processor; only templates and sequences have these fields.
#[derive(Deserialize)]
struct Processor {
    #[serde(default)]
    single: Vec<Piece>,
    #[serde(default)]
    pair: Vec<Piece>,
    #[serde(default)]
    special_tokens: HashMap<String, Special>,
    #[serde(default)]
    processors: Vec<Processor>,
}

/// Ids and tokens are looked at elsewhere; that they are there keeps the map small for its text.
#[derive(Deserialize)]
struct Special {
    #[serde(rename = "ids")]
    _ids: IgnoredAny,
    #[serde(rename = "tokens")]
    _tokens: IgnoredAny,
}

#[derive(Deserialize)]
enum Piece {
    Sequence { id: Sequence },
    SpecialToken { id: String },
}

#[derive(Deserialize, PartialEq)]
enum Sequence {
    A,
    B,
}

/// Checks the templates of a file.
///
/// # Errors
/// A template is none, names a special token that the file does not define, or the second text where there is one.
pub(super) fn check(json: &[u8]) -> Result<()> {
    let wrong = |reason: String| blamed(json, Blame::PostProcessor, 1, reason);
    let file: File = serde_json::from_slice(json).map_err(|e| located(json, &e))?;
    let mut open: Vec<Processor> = file.post_processor.into_iter().collect();
    while let Some(processor) = open.pop() {
        let missing = |piece: &&Piece| matches!(piece, Piece::SpecialToken { id } if !processor.special_tokens.contains_key(id));
        if let Some(Piece::SpecialToken { id }) = processor.single.iter().chain(&processor.pair).find(missing) {
            return Err(wrong(format!("a template names `{}`, expected one of its special_tokens", shorten(id))));
        }
        if processor.single.iter().any(|piece| matches!(piece, Piece::Sequence { id: Sequence::B })) {
            return Err(wrong("the template of a single text names text B, expected A".into()));
        }
        open.extend(processor.processors);
    }
    Ok(())
}
