//! The attributes of an op as the text form writes them, `eps=1e-6, op="exp"`, as input of serde: keys are words,
//! values are JSON.  They go straight into the op, so that a long list of constants is held once.

use serde::de::value::{BorrowedStrDeserializer, Error};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

pub(super) struct Attributes<'de> {
    rest: &'de str,
    /// The attribute whose key was read last.
    key: &'de str,
    value: &'de str,
    /// The names that the op knows, where it says so.
    known: Option<&'static [&'static str]>,
}

impl<'de> Attributes<'de> {
    pub(super) fn new(text: &'de str) -> Self {
        Attributes { rest: text.trim(), key: "", value: "", known: None }
    }
}

/// Bytes of the JSON value that `text` begins with, up to a comma outside of it.
fn value_len(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let end = text.bytes().position(|c| {
        match c {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => return depth == 0,
            _ => {}
        }
        false
    });
    end.unwrap_or(text.len())
}

impl<'de> Deserializer<'de> for Attributes<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &str, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Attributes { known: Some(fields), ..self })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Attributes<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (key, rest) = self.rest.split_once('=').ok_or_else(|| Error::custom("expected `key=value` in the attributes"))?;
        let (value, behind) = rest.split_at(value_len(rest));
        (self.key, self.value) = (key.trim(), value.trim());
        self.rest = behind.strip_prefix(',').unwrap_or("").trim_start();
        if self.known.is_some_and(|known| !known.contains(&self.key)) {
            return Err(Error::unknown_field(self.key, self.known.unwrap_or_default()));
        }
        seed.deserialize(BorrowedStrDeserializer::new(self.key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let wrong = |e: serde_json::Error| Error::custom(format_args!("attribute {}: {e}", self.key));
        let mut json = serde_json::Deserializer::from_str(self.value);
        let value = seed.deserialize(&mut json).map_err(wrong)?;
        json.end().map_err(wrong)?;
        Ok(value)
    }
}
