//! The strings of a `tokenizer.json`, read without keeping them: types, tokens, replacements, patterns.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

use super::regex_check;
use super::texts::Hash;

/// Largest growth by replacements that is believed; published tokenizers have 9 at most.
const MAX_GROWTH: u64 = 1 << 12;

/// The beginning of a text, for messages.
pub(super) fn shorten(text: &str) -> &str {
    text.char_indices().nth(40).and_then(|(at, _)| text.get(..at)).unwrap_or(text)
}

/// Reads a string and hands it to `read`, which keeps of it what is needed, or says what is wrong with it.
pub(super) struct Str<F> {
    expecting: &'static str,
    read: F,
}

impl<'de, T, F: FnOnce(&str) -> Result<T, String>> DeserializeSeed<'de> for Str<F> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<T, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Str<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).map_err(E::custom)
    }
}

fn find(words: &[&'static str], text: &str) -> Option<&'static str> {
    words.iter().copied().find(|w| *w == text)
}

/// Which of some words a string is.
pub(super) fn one_of(words: &[&'static str]) -> Str<impl FnOnce(&str) -> Result<Option<&'static str>, String>> {
    Str { expecting: "a string", read: |text: &str| Ok(find(words, text)) }
}

/// A type, which has to be one of these.
pub(super) fn kind(types: &[&'static str]) -> Str<impl FnOnce(&str) -> Result<&'static str, String>> {
    let unknown = |text: &str| format!("unknown type `{}`, expected one of {}", shorten(text), types.join(", "));
    Str { expecting: "a string", read: move |text: &str| find(types, text).ok_or_else(|| unknown(text)) }
}

/// The hash of a token; `None` for the empty one.
pub(super) fn hashed(hash: Hash) -> Str<impl FnOnce(&str) -> Result<Option<u64>, String>> {
    Str { expecting: "a token", read: move |text: &str| Ok((!text.is_empty()).then(|| hash.bytes(text.as_bytes()))) }
}

/// A token, put behind others.
pub(super) fn append(out: &mut Vec<u8>) -> Str<impl FnOnce(&str) -> Result<(), String>> {
    let read = |text: &str| {
        out.extend_from_slice(text.as_bytes());
        Ok(())
    };
    Str { expecting: "a token", read }
}

/// A replacement, by which texts grow.
pub(super) fn growth(total: &mut u64) -> Str<impl FnOnce(&str) -> Result<(), String>> {
    let read = |text: &str| {
        *total = total.saturating_mul(text.len().max(1) as u64);
        match *total {
            found if found > MAX_GROWTH => Err(format!("replacements make a text {found} times longer, expected at most {MAX_GROWTH}")),
            _ => Ok(()),
        }
    };
    Str { expecting: "a replacement", read }
}

/// A pattern that text is split at or replaced by.
pub(super) fn pattern(is_regex: bool, budget: &mut regex_check::Budget) -> Str<impl FnOnce(&str) -> Result<(), String>> {
    let read = move |text: &str| budget.take(text, is_regex).map_err(|why| format!("pattern `{}`: {why}", shorten(text)));
    Str { expecting: "a pattern", read }
}
