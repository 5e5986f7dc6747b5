//! Whether the merges of a BPE model in a `tokenizer.json` name tokens of its vocabulary, before anything is built of them.
//!
//! A second walk through the file, because merges may stand before the vocabulary.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::hf_strings::{append, one_of, shorten};
use super::texts::Hash;

/// What a vocabulary has.
pub(super) struct Known {
    pub hash: Hash,
    /// Halves of the hashes of the tokens, sorted.  One unknown token in 2^32 / V passes.
    pub tokens: Vec<u32>,
    /// Bytes at the start of the second token that are left out of what it is merged to.
    pub prefix: usize,
}

impl Known {
    fn has(&self, token: &[u8]) -> bool {
        self.tokens.binary_search(&(self.hash.bytes(token) as u32)).is_ok()
    }

    /// What is wrong with a merge of the two tokens that `text` consists of.
    fn refuse(&self, text: &mut Vec<u8>, cut: usize) -> Option<String> {
        let (left, right) = text.split_at_checked(cut)?;
        let begins = right.get(self.prefix..).and_then(|rest| rest.first()).is_none_or(|b| b & 0xC0 != 0x80);
        if right.len() < self.prefix || !begins {
            return Some(format!("`{}` does not begin with the prefix of {} bytes", shown(right), self.prefix));
        }
        let unknown = |token: &[u8]| format!("`{}` is not in the vocabulary", shown(token));
        if let Some(token) = [left, right].into_iter().find(|token| !self.has(token)) {
            return Some(unknown(token));
        }
        text.drain(cut..cut + self.prefix);
        (!self.has(text)).then(|| unknown(text))
    }
}

fn shown(token: &[u8]) -> String {
    shorten(&String::from_utf8_lossy(token)).to_owned()
}

/// Walks to the merges and through them.
pub(super) struct Merges<'k> {
    pub known: &'k Known,
    pub at: At,
}

#[derive(Clone, Copy)]
pub(super) enum At {
    Top,
    Model,
    List,
    Merge,
}

impl<'de> DeserializeSeed<'de> for Merges<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merges<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.at {
            At::Top | At::Model => "a model",
            At::List => "a list of merges",
            At::Merge => "two tokens",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (word, at) = match self.at {
            At::Top => (&["model"], At::Model),
            At::Model => (&["merges"], At::List),
            At::List | At::Merge => return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self)),
        };
        while let Some(key) = map.next_key_seed(one_of(word))? {
            match key {
                Some(_) => map.next_value_seed(Merges { known: self.known, at })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        match self.at {
            At::List => while seq.next_element_seed(Merges { known: self.known, at: At::Merge })?.is_some() {},
            At::Merge => {
                let mut text = Vec::new();
                let left = seq.next_element_seed(append(&mut text))?;
                let cut = text.len();
                let right = seq.next_element_seed(append(&mut text))?;
                if left.is_none() || right.is_none() || seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(A::Error::custom("expected two tokens"));
                }
                if let Some(why) = self.known.refuse(&mut text, cut) {
                    return Err(A::Error::custom(why));
                }
            }
            At::Top | At::Model => return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if !matches!(self.at, At::Merge) {
            return Err(E::invalid_type(serde::de::Unexpected::Str(shorten(text)), &self));
        }
        // The first line of a file of merges.
        if text.starts_with("#version") {
            return Ok(());
        }
        let halves = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let Some((left, right)) = halves else {
            return Err(E::custom(format!("`{}`, expected two tokens with a space between", shorten(text))));
        };
        let mut joined = [left.as_bytes(), right.as_bytes()].concat();
        self.known.refuse(&mut joined, left.len()).map_or(Ok(()), |why| Err(E::custom(why)))
    }
}
