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

/// Which of some words a string is.
pub(super) struct OneOf(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for OneOf {
    type Value = Option<&'static str>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for OneOf {
    type Value = Option<&'static str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|w| *w == text))
    }
}

/// The hash of a string; `None` for the empty one.
pub(super) struct Hashed(pub Hash);

impl<'de> DeserializeSeed<'de> for Hashed {
    type Value = Option<u64>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Hashed {
    type Value = Option<u64>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }
    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok((!text.is_empty()).then(|| self.0.bytes(text.as_bytes())))
    }
}

/// A type, which has to be one of these.
pub(super) struct Kind(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Kind {
    type Value = &'static str;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Kind {
    type Value = &'static str;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
        let known = self.0.iter().copied().find(|w| *w == text);
        known.ok_or_else(|| E::custom(format!("unknown type `{}`, expected one of {}", shorten(text), self.0.join(", "))))
    }
}

/// A replacement, by which texts grow.
pub(super) struct Growth<'g>(pub &'g mut u64);

impl<'de> DeserializeSeed<'de> for Growth<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<(), D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Growth<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a replacement")
    }
    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<(), E> {
        *self.0 = self.0.saturating_mul(text.len().max(1) as u64);
        match *self.0 {
            found if found > MAX_GROWTH => {
                Err(E::custom(format!("replacements make a text {found} times longer, expected at most {MAX_GROWTH}")))
            }
            _ => Ok(()),
        }
    }
}

/// A pattern that text is split at or replaced by.
pub(super) struct Pattern<'b> {
    pub is_regex: bool,
    pub budget: &'b mut regex_check::Budget,
}

impl<'de> DeserializeSeed<'de> for Pattern<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<(), D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Pattern<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern")
    }
    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<(), E> {
        self.budget.take(text, self.is_regex).map_err(|why| E::custom(format!("pattern `{}`: {why}", shorten(text))))
    }
}
