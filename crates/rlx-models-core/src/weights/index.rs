//! `model.safetensors.index.json`: which shard holds which tensor.
//!
//! The index is only a directory: shards are plain file names beside it, every shard must exist, and every tensor
//! it names must be where it says.  Tensors of a shard that the index leaves out are kept, as elsewhere.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::safetensors::{Text, begin, position};
use super::{WeightsError, map};
use crate::config::members_called;
use crate::message::quote;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Largest index.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Most shards of a checkpoint.
pub const MAX_SHARDS: usize = 4096;

/// A parsed index.
pub(super) struct Index {
    path: PathBuf,
    text: String,
    /// File names of the shards, sorted.
    pub shards: Vec<String>,
}

impl Index {
    /// Reads the index and makes sure that all its shards exist.
    pub fn open(path: &Path) -> Result<Index, WeightsError> {
        let index = Index::parse(map::read_small(path, MAX_INDEX_BYTES)?, path)?;
        let missing: Vec<String> = index.shards.iter().filter(|s| !path.with_file_name(s).exists()).cloned().collect();
        if !missing.is_empty() {
            return Err(WeightsError::MissingShards { file: path.into(), count: index.shards.len(), missing });
        }
        Ok(index)
    }

    fn parse(bytes: Vec<u8>, path: &Path) -> Result<Index, WeightsError> {
        let text = String::from_utf8(bytes).map_err(|e| WeightsError::Header {
            file: path.into(),
            field: "index",
            offset: e.utf8_error().valid_up_to() as u64,
            found: "bytes that are not UTF-8".into(),
            expected: "UTF-8".into(),
        })?;
        let mut shards = BTreeSet::new();
        let mut refused = None;
        each(&text, path, &mut |_, shard, offset| {
            if shards.contains(shard) {
                return true;
            }
            refused = refuse(shard, shards.len()).map(|expected| ("shard", offset, quote(shard), expected));
            shards.insert(shard.to_owned());
            refused.is_none()
        })?;
        if refused.is_none() && shards.is_empty() {
            let mut offset = 0;
            members_called(&text, "weight_map", &mut |map| offset = begin(&text, map));
            refused = Some(("weight_map", offset, "no tensors".into(), "a weight_map that names shards".into()));
        }
        if let Some((field, offset, found, expected)) = refused {
            return Err(WeightsError::Header { file: path.into(), field, offset, found, expected });
        }
        Ok(Index { path: path.into(), text, shards: shards.into_iter().collect() })
    }

    /// Makes sure that every tensor is in the shard that the index names; `file_of` says where it is.
    pub fn check(&self, file_of: impl Fn(&str) -> Option<u32>) -> Result<(), WeightsError> {
        let mut wrong = None;
        each(&self.text, &self.path, &mut |tensor, shard, offset| {
            let at = file_of(tensor);
            if at.and_then(|i| self.shards.get(i as usize)).is_none_or(|s| s != shard) {
                let elsewhere = at.and_then(|i| self.shards.get(i as usize)).map_or("no shard".into(), |s| quote(s));
                wrong = Some((offset, format!("{} in {elsewhere}", quote(tensor)), format!("it in {}", quote(shard))));
            }
            wrong.is_none()
        })?;
        match wrong {
            Some((offset, found, expected)) => {
                Err(WeightsError::Header { file: self.path.clone(), field: "weight_map", offset, found, expected })
            }
            None => Ok(()),
        }
    }
}

/// The shards that an index names, wherever they are; `path` is for messages.
#[cfg(feature = "hub")]
pub(crate) fn shards_in(bytes: Vec<u8>, path: &Path) -> Result<Vec<String>, WeightsError> {
    Index::parse(bytes, path).map(|index| index.shards)
}

/// Why a shard name is refused: names are made of ordinary characters and lead nowhere else.
fn refuse(shard: &str, before: usize) -> Option<String> {
    let plain = !shard.is_empty()
        && shard.len() <= 255
        && !shard.starts_with('.')
        && !shard.contains(['/', '\\', ':'])
        && !shard.chars().any(char::is_control)
        && shard.ends_with(".safetensors");
    if !plain {
        return Some("the name of a .safetensors file beside the index, without directories".into());
    }
    (before >= MAX_SHARDS).then(|| format!("at most {MAX_SHARDS} shards"))
}

/// Told of a tensor, its shard, and the byte at which the name of the shard begins; whether to go on.
type Each<'f> = dyn FnMut(&str, &str, u64) -> bool + 'f;

/// Calls `f` for every entry of the weight map until it says false.
fn each(text: &str, path: &Path, f: &mut Each<'_>) -> Result<(), WeightsError> {
    let mut d = serde_json::Deserializer::from_str(text);
    let mut stopped = false;
    let walked = d.deserialize_map(Top { text, f, stopped: &mut stopped }).and_then(|()| d.end());
    match walked {
        Err(e) if !stopped => Err(WeightsError::Header {
            file: path.into(),
            field: "index",
            offset: position(text, &e),
            found: e.to_string(),
            expected: "a JSON object with a weight_map".into(),
        }),
        _ => Ok(()),
    }
}

struct Top<'f> {
    text: &'f str,
    f: &'f mut Each<'f>,
    stopped: &'f mut bool,
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key_seed(Text)? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if std::mem::replace(&mut seen, true) {
                return Err(A::Error::custom("weight_map occurs twice"));
            }
            map.next_value_seed(Entries { text: self.text, f: self.f, stopped: self.stopped })?;
        }
        if seen { Ok(()) } else { Err(A::Error::custom("weight_map is missing")) }
    }
}

struct Entries<'f> {
    text: &'f str,
    f: &'f mut Each<'f>,
    stopped: &'f mut bool,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("weight_map to be an object of file names")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(tensor) = map.next_key_seed(Text)? {
            let raw = map.next_value::<&RawValue>()?.get();
            let shard: Cow<'_, str> = Text
                .deserialize(&mut serde_json::Deserializer::from_str(raw))
                .map_err(|_| A::Error::custom("expected the name of a file"))?;
            if !(self.f)(&tensor, &shard, begin(self.text, raw)) {
                *self.stopped = true;
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
