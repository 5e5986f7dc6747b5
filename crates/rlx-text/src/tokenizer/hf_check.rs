//! Checks of a `tokenizer.json` before the `tokenizers` crate reads it: that crate recurses, numbers tokens anew
//! and runs any regular expression it is given.
//!
//! The file is walked once, without building it in memory; nesting is bounded by the JSON reader.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use serde_json::Value;

use super::hf_merges::{self, Known, Merges};
use super::hf_strings::{growth, hashed, kind, one_of, pattern, shorten};
use super::hf_template;
use super::json_place::place;
use super::regex_check;
use super::texts::Hash;
use crate::error::json_read;
use crate::{Result, TextError};

const NORMALIZERS: &[&str] = &[
    "BertNormalizer",
    "Strip",
    "StripAccents",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Sequence",
    "Lowercase",
    "Nmt",
    "Precompiled",
    "Replace",
    "Prepend",
    "ByteLevel",
];
const PRE_TOKENIZERS: &[&str] = &[
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Metaspace",
    "Whitespace",
    "Sequence",
    "Split",
    "Punctuation",
    "WhitespaceSplit",
    "Digits",
    "UnicodeScripts",
    "FixedLength",
];
const POST_PROCESSORS: &[&str] = &["RobertaProcessing", "BertProcessing", "ByteLevel", "TemplateProcessing", "Sequence"];
const DECODERS: &[&str] =
    &["BPEDecoder", "ByteLevel", "WordPiece", "Metaspace", "CTC", "Sequence", "Replace", "Fuse", "Strip", "ByteFallback"];
const MODELS: &[&str] = &["BPE", "WordPiece", "WordLevel", "Unigram"];

/// What is wrong with a file that was read to its end, so that a second walk can stop there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// The vocabulary as a whole.
    Vocab,
    /// The unknown token.
    Unknown,
    /// The entry of the vocabulary with this id.
    Id(u64),
    /// The added token with this id.
    Added(u64),
    /// What is put around texts.
    Around(u64),
    /// What puts things around texts, as a whole.
    PostProcessor,
}

/// What the walk has seen.
struct Seen {
    /// What to stop at, and the how manieth of it.
    blamed: Option<(Blame, usize)>,
    hash: Hash,
    /// Id and hash of the text of added tokens.
    added: Vec<(u64, u64)>,
    /// The same of the model's tokens, with half the hash.
    vocab: Vec<(u32, u32)>,
    /// Largest id of the model's tokens.
    largest: u64,
    n_vocab: usize,
    is_list: Option<bool>,
    is_unigram: Option<bool>,
    is_bpe: bool,
    /// Length of the prefix of parts of words.
    prefix: usize,
    /// Ids of tokens without text.
    empty: Vec<u64>,
    /// Whether the unknown token is named by an empty text, and its id.
    unknown_is_empty: bool,
    unknown_id: Option<u64>,
    /// Ids that are put around texts.
    around: Vec<u64>,
    /// How many times longer replacements, one after the other, can make a text.
    growth: u64,
    patterns: regex_check::Budget,
}

/// Where in the file.
#[derive(Clone, Copy)]
enum At {
    Top,
    AddedTokens,
    AddedToken,
    Model,
    Vocab,
    /// The id of a token with this hash.
    Id(Option<u64>),
    /// The text or id of the unknown token.
    Unknown,
    /// A list entry of a unigram vocabulary.
    Scored,
    /// What a post-processor puts around texts: a list of ids, or a token with its id.
    Around,
    /// A part with a type, or something inside one.
    Part {
        name: &'static str,
        types: &'static [&'static str],
    },
}

/// Checks a file.
///
/// # Errors
/// It is not JSON, nests too deep, or says something that cannot be or that would take forever.
pub(super) fn check(json: &[u8]) -> Result<()> {
    let mut seen = Seen::new(None);
    walk(json, &mut seen)?;
    let patterns = std::mem::replace(&mut seen.patterns, regex_check::Budget::new());
    let known = seen.finish().map_err(|(blame, nth, reason)| blamed(json, blame, nth, reason))?;
    if let Some(known) = known {
        let mut reader = serde_json::Deserializer::from_slice(json);
        Merges { known: &known, at: hf_merges::At::Top }.deserialize(&mut reader).map_err(|e| located(json, &e))?;
    }
    hf_template::check(json)?;
    patterns.build().map_err(|(pattern, why)| {
        let spelled = Value::from(pattern.as_str()).to_string();
        let at = json.windows(spelled.len()).position(|w| w == spelled.as_bytes());
        let (name, begin) = at.map_or_else(|| ("pattern".into(), 0), |at| place(json, at));
        TextError::json(format!("tokenizer.json, {name} at byte {begin}"), format!("pattern `{}`: {why}", shorten(&pattern)))
    })
}

/// An error about the `nth` of something that is in the file, with the place where that is.
pub(super) fn blamed(json: &[u8], blame: Blame, nth: usize, reason: String) -> TextError {
    match walk(json, &mut Seen::new(Some((blame, nth)))) {
        Err(TextError::TokenizerJson { what, .. }) => TextError::json(what, reason),
        _ => TextError::json("tokenizer.json", reason),
    }
}

fn walk(json: &[u8], seen: &mut Seen) -> Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let walked = Walk { seen, at: At::Top }.deserialize(&mut reader).and_then(|()| reader.end());
    walked.map_err(|e| located(json, &e))
}

/// An error of reading a file, with name and beginning of the value that it is about.
pub(super) fn located(json: &[u8], e: &serde_json::Error) -> TextError {
    if !e.is_data() || e.line() == 0 {
        return TextError::syntax("tokenizer.json", json, e);
    }
    let text = e.to_string();
    let reason = text.strip_suffix(&format!(" at line {} column {}", e.line(), e.column())).unwrap_or(&text);
    let (name, begin) = place(json, json_read(json, e).saturating_sub(1));
    let comma = if name.is_empty() { "" } else { ", " };
    TextError::json(format!("tokenizer.json{comma}{name} at byte {begin}"), reason)
}

impl Seen {
    fn new(blamed: Option<(Blame, usize)>) -> Self {
        Self {
            blamed,
            hash: Hash::new(),
            added: Vec::new(),
            vocab: Vec::new(),
            largest: 0,
            n_vocab: 0,
            is_list: None,
            is_unigram: None,
            is_bpe: false,
            prefix: 0,
            empty: Vec::new(),
            unknown_is_empty: false,
            unknown_id: None,
            around: Vec::new(),
            growth: 1,
            patterns: regex_check::Budget::new(),
        }
    }

    /// Whether this is what to stop at; what is then said is said elsewhere.
    fn stops<E: Error>(&mut self, here: Blame) -> std::result::Result<(), E> {
        match &mut self.blamed {
            Some((blame, nth)) if *blame == here => {
                *nth = nth.saturating_sub(1);
                if *nth == 0 { Err(E::custom("")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// The tokens that merges may name, where there are merges; or what contradicts itself, by what is to blame for it.
    fn finish(mut self) -> std::result::Result<Option<Known>, (Blame, usize, String)> {
        let expected_list = self.is_unigram.unwrap_or(self.is_list == Some(true));
        match self.is_list {
            Some(true) if !expected_list => return Err((Blame::Vocab, 1, "found a list, expected a map from tokens to ids".into())),
            Some(false) if expected_list => return Err((Blame::Vocab, 1, "found a map, expected a list of tokens with scores".into())),
            _ => {}
        }
        if self.unknown_is_empty && !self.empty.is_empty() || self.unknown_id.is_some_and(|id| self.empty.contains(&id)) {
            return Err((Blame::Unknown, 1, "the unknown token is an empty text, expected one that can be written".into()));
        }
        let n = self.n_vocab;
        let limit = 2 * (n + self.added.len()) as u64 + (1 << 16);
        let added_max = self.added.iter().map(|&(id, _)| id).max().unwrap_or_default();
        for (blame, id) in [(Blame::Id(self.largest), self.largest), (Blame::Added(added_max), added_max)] {
            if id > limit {
                return Err((blame, 1, format!("id {id}, expected at most {limit} for {n} tokens")));
            }
        }
        self.added.sort_unstable();
        self.added.dedup();
        let twice = |pair: &[(u64, u64)]| matches!(pair, [a, b] if a.0 == b.0);
        if let Some((id, _)) = self.added.windows(2).find(|w| twice(w)).and_then(|w| w.first()) {
            return Err((Blame::Added(*id), 2, format!("two tokens both have id {id}")));
        }
        self.vocab.sort_unstable();
        self.vocab.dedup();
        let twice = |pair: &[(u32, u32)]| matches!(pair, [a, b] if a.0 == b.0);
        if let Some((id, _)) = self.vocab.windows(2).find(|w| twice(w)).and_then(|w| w.first()) {
            return Err((Blame::Id(u64::from(*id)), 2, format!("two tokens both have id {id}")));
        }
        let is_token = |id: u64| {
            let in_vocab = self.vocab.binary_search_by_key(&id, |&(id, _)| u64::from(id)).is_ok();
            in_vocab || self.added.binary_search_by_key(&id, |&(id, _)| id).is_ok()
        };
        if let Some(id) = self.around.iter().find(|&&id| !is_token(id) || self.empty.contains(&id)) {
            let reason = format!("puts id {id} around texts, expected one of the {n} tokens or of added_tokens");
            return Err((Blame::Around(*id), 1, reason));
        }
        for &(id, hash) in &self.added {
            let other = self.vocab.binary_search_by_key(&id, |&(id, _)| u64::from(id)).ok().and_then(|at| self.vocab.get(at));
            if other.is_some_and(|&(_, other)| other != hash as u32) {
                return Err((Blame::Added(id), 1, format!("id {id} is one token in vocab and another in added_tokens")));
            }
        }
        Ok(self.is_bpe.then(|| {
            let mut tokens: Vec<u32> = self.vocab.into_iter().map(|(_, hash)| hash).collect();
            tokens.sort_unstable();
            Known { hash: self.hash, tokens, prefix: self.prefix }
        }))
    }

    /// Takes a token with the hash of its text, `None` for an empty one.
    fn add_vocab(&mut self, id: u64, hash: Option<u64>) {
        self.n_vocab += 1;
        self.largest = self.largest.max(id);
        if hash.is_none() {
            self.empty.push(id);
        }
        if let Ok(id) = u32::try_from(id) {
            self.vocab.push((id, hash.unwrap_or_default() as u32));
        }
    }
}

struct Walk<'s> {
    seen: &'s mut Seen,
    at: At,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl Walk<'_> {
    fn inner(&mut self, at: At) -> Walk<'_> {
        Walk { seen: self.seen, at }
    }

    fn top<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> std::result::Result<(), A::Error> {
        const KEYS: &[&str] = &["added_tokens", "model", "normalizer", "pre_tokenizer", "post_processor", "decoder"];
        while let Some(key) = map.next_key_seed(one_of(KEYS))? {
            let at = match key {
                Some("added_tokens") => At::AddedTokens,
                Some("model") => At::Model,
                Some("normalizer") => At::Part { name: "normalizer", types: NORMALIZERS },
                Some("pre_tokenizer") => At::Part { name: "pre_tokenizer", types: PRE_TOKENIZERS },
                Some("post_processor") => At::Part { name: "post_processor", types: POST_PROCESSORS },
                Some("decoder") => At::Part { name: "decoder", types: DECODERS },
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            map.next_value_seed(self.inner(at))?;
        }
        Ok(())
    }

    fn added_token<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> std::result::Result<(), A::Error> {
        let (mut id, mut text) = (None, None);
        while let Some(key) = map.next_key_seed(one_of(&["id", "content"]))? {
            match key {
                Some("id") => id = Some(map.next_value::<u64>()?),
                Some("content") => text = Some(map.next_value_seed(hashed(self.seen.hash))?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match (id, text) {
            (Some(id), Some(Some(hash))) => {
                self.seen.added.push((id, hash));
                self.seen.stops(Blame::Added(id))?;
            }
            (Some(id), Some(None)) => return Err(A::Error::custom(format!("the token with id {id} has no text"))),
            _ => return Err(A::Error::custom("a token without id or content")),
        }
        Ok(())
    }

    fn model<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(one_of(&["type", "vocab", "unk_token", "unk_id", "continuing_subword_prefix"]))? {
            match key {
                Some("type") => {
                    let model = map.next_value_seed(kind(MODELS))?;
                    (self.seen.is_unigram, self.seen.is_bpe) = (Some(model == "Unigram"), model == "BPE");
                }
                Some("continuing_subword_prefix") => self.seen.prefix = map.next_value::<Option<Cow<'_, str>>>()?.map_or(0, |t| t.len()),
                Some("vocab") => map.next_value_seed(self.inner(At::Vocab))?,
                Some("unk_token" | "unk_id") => map.next_value_seed(self.inner(At::Unknown))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn part<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        name: &'static str,
        types: &'static [&'static str],
    ) -> std::result::Result<(), A::Error> {
        const KEYS: &[&str] = &["type", "content", "Regex", "String", "ids", "sep", "cls"];
        if name == "post_processor" {
            self.seen.stops(Blame::PostProcessor)?;
        }
        while let Some(key) = map.next_key_seed(one_of(KEYS))? {
            match key {
                Some("ids" | "sep" | "cls") if name == "post_processor" => map.next_value_seed(self.inner(At::Around))?,
                Some("ids" | "sep" | "cls") => map.next_value_seed(self.inner(At::Part { name, types }))?,
                Some("type") => drop(map.next_value_seed(kind(types))?),
                Some("content") => map.next_value_seed(growth(&mut self.seen.growth))?,
                Some(key) => map.next_value_seed(pattern(key == "Regex", &mut self.seen.patterns))?,
                None => map.next_value_seed(self.inner(At::Part { name, types }))?,
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.at {
            At::Top => "an object with a tokenizer's parts",
            At::AddedTokens => "a list of added tokens",
            At::AddedToken => "an added token",
            At::Model => "a model",
            At::Vocab => "a vocabulary: a map from tokens to ids, or a list of tokens with scores",
            At::Scored => "a token with its score",
            At::Id(_) => "the id of a token",
            At::Unknown => "a token",
            At::Around => "token ids",
            At::Part { .. } => "a part of a tokenizer",
        })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<(), A::Error> {
        match self.at {
            At::Top => self.top(&mut map),
            At::AddedToken => self.added_token(&mut map),
            At::Model => self.model(&mut map),
            At::Vocab => {
                self.seen.is_list = Some(false);
                self.seen.stops(Blame::Vocab)?;
                while let Some(hash) = map.next_key_seed(hashed(self.seen.hash))? {
                    map.next_value_seed(self.inner(At::Id(hash)))?;
                }
                Ok(())
            }
            At::Part { name, types } => self.part(&mut map, name, types),
            At::AddedTokens | At::Scored | At::Around | At::Id(_) | At::Unknown => {
                Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self))
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> std::result::Result<(), A::Error> {
        match self.at {
            At::AddedTokens => while seq.next_element_seed(self.inner(At::AddedToken))?.is_some() {},
            At::Vocab => {
                self.seen.is_list = Some(true);
                self.seen.stops(Blame::Vocab)?;
                while seq.next_element_seed(self.inner(At::Scored))?.is_some() {}
            }
            At::Scored => {
                let hash = seq.next_element_seed(hashed(self.seen.hash))?;
                let score = seq.next_element::<f64>()?;
                if hash.is_none() || score.is_none() || seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(A::Error::custom("expected a token with one score"));
                }
                let id = self.seen.n_vocab as u64;
                self.seen.add_vocab(id, hash.flatten());
                self.seen.stops(Blame::Id(id))?;
            }
            at @ (At::Part { .. } | At::Around) => while seq.next_element_seed(self.inner(at))?.is_some() {},
            At::Top | At::AddedToken | At::Model | At::Id(_) | At::Unknown => {
                return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
            }
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<(), E> {
        match self.at {
            At::Part { .. } | At::Around => Ok(()),
            At::Unknown => {
                self.seen.unknown_is_empty = text.is_empty();
                self.seen.stops(Blame::Unknown)
            }
            // A vocabulary that is a list of bare tokens fits no kind of model.
            At::Scored => {
                let hash = (!text.is_empty()).then(|| self.seen.hash.bytes(text.as_bytes()));
                self.seen.add_vocab(self.seen.n_vocab as u64, hash);
                Ok(())
            }
            _ => Err(E::invalid_type(serde::de::Unexpected::Str(shorten(text)), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> std::result::Result<(), E> {
        match self.at {
            At::Part { .. } | At::AddedTokens | At::Unknown => Ok(()),
            _ => Err(E::invalid_type(serde::de::Unexpected::Unit, &self)),
        }
    }

    fn visit_bool<E: Error>(self, found: bool) -> std::result::Result<(), E> {
        self.scalar(serde::de::Unexpected::Bool(found))
    }

    fn visit_u64<E: Error>(self, found: u64) -> std::result::Result<(), E> {
        match self.at {
            At::Around => {
                self.seen.around.push(found);
                return self.seen.stops(Blame::Around(found));
            }
            At::Id(hash) => {
                self.seen.add_vocab(found, hash);
                return self.seen.stops(Blame::Id(found));
            }
            At::Unknown => {
                self.seen.unknown_id = Some(found);
                return self.seen.stops(Blame::Unknown);
            }
            _ => {}
        }
        self.scalar(serde::de::Unexpected::Unsigned(found))
    }

    fn visit_i64<E: Error>(self, found: i64) -> std::result::Result<(), E> {
        self.scalar(serde::de::Unexpected::Signed(found))
    }

    fn visit_f64<E: Error>(self, found: f64) -> std::result::Result<(), E> {
        self.scalar(serde::de::Unexpected::Float(found))
    }
}

impl Walk<'_> {
    fn scalar<E: Error>(self, found: serde::de::Unexpected<'_>) -> std::result::Result<(), E> {
        if matches!(self.at, At::Part { .. }) { Ok(()) } else { Err(E::invalid_type(found, &self)) }
    }
}
