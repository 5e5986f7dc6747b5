//! A family's settings as data, written in either world.
//!
//! Settings are read through [`ConfigSource`], which both `config.json` and GGUF metadata are, and written by the names
//! of their [`Key`]s; keys and types in GGUF are those that llama.cpp's `convert_hf_to_gguf.py` writes.

use super::{ConvertError, rope};
use crate::config::{ConfigSource, DecoderConfig, Key, RopeArgs, keys};
use rlx_gguf::Value as Gguf;
use serde_json::{Map, Value};

/// The type of a setting.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A count or size: u32 in GGUF.
    Size,
    /// A number: f32 in GGUF.
    Real,
    /// Yes or no.
    Flag,
}

/// A setting that both worlds have.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its names; the first of each is written.
    pub key: Key,
    /// Its type.
    pub kind: Kind,
}

impl Field {
    /// A setting.
    pub const fn new(key: Key, kind: Kind) -> Field {
        Field { key, kind }
    }
}

/// How a family's settings are spelled.  Whether the result means the same model, who converts finds out by reading
/// it again; a table that leaves something out is then an error, not another model.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct SettingsTable {
    /// Settings that both worlds have, in the order in which they are written.
    pub fields: &'static [&'static [Field]],
    /// The model rotates queries and keys; see [`crate::config::rope`].
    pub rope: bool,
    /// Members of `config.json` that GGUF files of the architecture imply, with their JSON.
    pub implied: &'static [(&'static str, &'static str)],
    /// Members of `config.json` that the presence of a tensor tells: member, checkpoint name, value when it is there.
    pub told: &'static [(&'static str, &'static str, bool)],
}

/// What llama-like decoders have in common: the settings of [`DecoderConfig`].
pub const DECODER: &[Field] = &[
    Field::new(keys::LAYERS, Kind::Size),
    Field::new(keys::CONTEXT, Kind::Size),
    Field::new(keys::HIDDEN, Kind::Size),
    Field::new(keys::INTERMEDIATE, Kind::Size),
    Field::new(keys::HEADS, Kind::Size),
    Field::new(keys::KV_HEADS, Kind::Size),
    Field::new(keys::RMS_EPS, Kind::Real),
    Field::new(keys::HEAD_DIM, Kind::Size),
    Field::new(Key::new("head_dim", "attention.value_length"), Kind::Size),
];

fn read(src: &ConfigSource, field: &Field) -> Result<Option<Value>, ConvertError> {
    Ok(match field.kind {
        Kind::Size => src.opt_usize(field.key)?.map(Value::from),
        Kind::Real => src.opt_f64(field.key)?.map(Value::from),
        Kind::Flag => src.opt_bool(field.key)?.map(Value::from),
    })
}

fn gguf(value: &Value, kind: Kind) -> Option<Gguf> {
    Some(match kind {
        Kind::Size => Gguf::U32(u32::try_from(value.as_u64()?).ok()?),
        Kind::Real => Gguf::F32(value.as_f64()? as f32),
        Kind::Flag => Gguf::Bool(value.as_bool()?),
    })
}

/// Heads' width and rotation.
fn rotation(src: &ConfigSource) -> Result<(rlx_ir::ops::rope::Rope, usize), ConvertError> {
    let head_dim = DecoderConfig::from_source(src)?.head_dim;
    Ok((crate::config::rope(src, &RopeArgs::new(head_dim))?, head_dim))
}

/// The settings as GGUF metadata of the architecture `arch`: full keys and values.
///
/// # Errors
/// Settings that cannot be read, and those that GGUF has no key for.
pub fn to_gguf(table: &SettingsTable, src: &ConfigSource, arch: &str) -> Result<Vec<(String, Gguf)>, ConvertError> {
    let mut out = Vec::new();
    for field in table.fields.iter().copied().flatten() {
        let Some(value) = read(src, field)? else { continue };
        let found = value.to_string();
        let cannot = || ConvertError::Setting { file: src.file().into(), field: src.field(field.key), found, format: "GGUF metadata" };
        out.push((format!("{arch}.{}", field.key.gguf), gguf(&value, field.kind).ok_or_else(cannot)?));
    }
    if table.rope {
        let (rope, head_dim) = rotation(src)?;
        out.extend(rope::to_gguf(src, &rope, head_dim)?.into_iter().map(|(k, v)| (format!("{arch}.{k}"), v)));
    }
    Ok(out)
}

/// The settings as members of `config.json`.  `has` tells whether the checkpoint has a tensor of a checkpoint name.
///
/// # Errors
/// As [`to_gguf`].
pub fn to_json(table: &SettingsTable, src: &ConfigSource, has: &dyn Fn(&str) -> bool) -> Result<Map<String, Value>, ConvertError> {
    let mut out = Map::new();
    for field in table.fields.iter().copied().flatten() {
        let name = field.key.hf.split('|').next().unwrap_or_default();
        if let Some(value) = read(src, field)?.filter(|_| !out.contains_key(name)) {
            out.insert(name.into(), value);
        }
    }
    if table.rope {
        let (rope, head_dim) = rotation(src)?;
        out.extend(rope::to_json(src, &rope, head_dim)?);
    }
    out.insert("vocab_size".into(), src.vocab_size()?.into());
    for (name, json) in table.implied {
        let value: Value = serde_json::from_str(json).unwrap_or_else(|_| Value::from(*json));
        out.insert((*name).into(), value);
    }
    for (name, tensor, value) in table.told {
        out.insert((*name).into(), (has(tensor) == *value).into());
    }
    Ok(out)
}
