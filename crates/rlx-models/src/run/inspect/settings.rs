//! Settings and metadata, long lists abbreviated.

use super::page::{Page, short};
use rlx_core::config::{ConfigDoc, ConfigError};
use rlx_core::weights::{Checkpoint, MAX_HEADER_BYTES, WeightFormat};
use rlx_gguf::{Array, Gguf, Value as GgufValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest list shown in full.
const LIST: usize = 16;
/// How many of a longer list are shown.
const SHOWN: usize = 4;
/// Most characters of a list on a line.
const LINE: usize = 40;
/// Longest text that stays whole.
const TEXT: usize = 4096;

/// The settings of a checkpoint.
pub(super) struct Settings {
    /// GGUF metadata or `config.json`.
    pub place: &'static str,
    values: Map<String, Value>,
}

impl Settings {
    /// GGUF metadata.
    pub fn of_gguf(gguf: &Gguf) -> Settings {
        let values = gguf.metadata().iter().map(|(k, v)| (k.to_owned(), gguf_value(v))).collect();
        Settings { place: "GGUF metadata", values }
    }

    /// The `config.json` of a directory; `None` when there is none.
    pub fn of_dir(dir: &Path) -> Result<Option<Settings>, ConfigError> {
        let file = dir.join("config.json");
        if !file.exists() {
            return Ok(None);
        }
        let root = ConfigDoc::open(file)?;
        let value = |key: &str| {
            let raw = root.raw(key).unwrap_or("null");
            // Numbers beyond a float's range (`Infinity`) stay text.
            abbreviated(serde_json::from_str(raw).unwrap_or_else(|_| Value::from(raw)))
        };
        let values = root.keys().map(|key| (key.clone().into_owned(), value(&key))).collect();
        Ok(Some(Settings { place: "config.json", values }))
    }

    pub fn json(&self) -> Value {
        self.values.clone().into()
    }

    pub fn text(&self, page: &mut Page) {
        page.section(&format!("settings, {}", self.place));
        table(&self.values, page);
    }
}

/// Lines `key value`.
pub(super) fn table(values: &Map<String, Value>, page: &mut Page) {
    let width = values.keys().map(|k| k.chars().count()).max().unwrap_or(0).min(40);
    for (key, value) in values {
        page.raw(&format!("  {:<width$} {}", crate::run::check::one_line(key), told(value)));
    }
}

/// A value for the terminal: abbreviated lists as `[1, 2, 3, 4, … 151936 strings]`.
fn told(value: &Value) -> String {
    let Some(list) = value.get("first").and_then(Value::as_array).filter(|_| value.get("of").is_some()) else { return short(value) };
    let (mut first, mut width) = (String::new(), 0);
    for item in list.iter().map(short) {
        width += item.chars().count() + 2;
        if width > LINE {
            break;
        }
        first += &format!("{item}, ");
    }
    let of = value["of"].as_str().unwrap_or_default();
    format!("[{first}… {} {}]", value["count"], if of == "string" { "strings" } else { of })
}

/// Long lists as `{"of": "string", "count": 151936, "first": […]}`, long texts cut.
fn abbreviated(value: Value) -> Value {
    match value {
        Value::Array(list) if list.len() > LIST => {
            let (count, first) = (list.len(), list.into_iter().take(SHOWN).map(abbreviated).collect::<Vec<_>>());
            json!({ "of": "values", "count": count, "first": first })
        }
        Value::Array(list) => list.into_iter().map(abbreviated).collect(),
        Value::Object(map) => map.into_iter().map(|(k, v)| (k, abbreviated(v))).collect::<Map<_, _>>().into(),
        Value::String(s) => cut(&s).into(),
        other => other,
    }
}

/// A text of bounded length.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

fn gguf_value(v: &GgufValue) -> Value {
    match v {
        GgufValue::F32(v) => float(*v),
        GgufValue::F64(v) => json!(v),
        GgufValue::Bool(v) => json!(v),
        GgufValue::String(v) => cut(v).into(),
        GgufValue::Array(a) => gguf_array(a),
        other => other.as_integer().and_then(|i| i64::try_from(i).ok()).map_or_else(|| json!(other.type_name()), |i| json!(i)),
    }
}

/// The shortest decimal, not the digits of the wider type.
fn float(v: f32) -> Value {
    v.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))
}

fn gguf_array(a: &Array) -> Value {
    let n = if a.len() > LIST { SHOWN } else { LIST };
    let first: Value = match a {
        Array::U8(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::I8(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::U16(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::I16(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::U32(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::I32(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::U64(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::I64(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::F32(a) => a.iter().take(n).map(|v| float(*v)).collect(),
        Array::F64(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::Bool(a) => a.iter().take(n).map(|v| json!(v)).collect(),
        Array::String(a) => a.iter().take(n).map(|v| json!(cut(v))).collect(),
        Array::Array(a) => a.iter().take(n).map(gguf_array).collect(),
    };
    if a.len() > LIST { json!({ "of": a.element_type(), "count": a.len(), "first": first }) } else { first }
}

/// `__metadata__` of the first safetensors file, where it says anything.
pub(super) fn file_metadata(c: &Checkpoint) -> Option<Map<String, Value>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__", default)]
        metadata: Map<String, Value>,
    }
    if c.format() != WeightFormat::Safetensors {
        return None;
    }
    let mut file = File::open(c.files().next()?).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    // The header was checked when the checkpoint was opened.
    let length = u64::from_le_bytes(length).min(MAX_HEADER_BYTES);
    let mut bytes = vec![];
    file.take(length).read_to_end(&mut bytes).ok()?;
    let header: Header = serde_json::from_slice(&bytes).ok()?;
    let metadata: Map<_, _> = header.metadata.into_iter().map(|(k, v)| (k, abbreviated(v))).collect();
    (!metadata.is_empty()).then_some(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_abbreviated_and_say_how_long_they_are() {
        let long = abbreviated(json!({ "a": (0..100).collect::<Vec<_>>(), "b": [1, 2] }));
        assert_eq!(long["a"], json!({ "of": "values", "count": 100, "first": [0, 1, 2, 3] }));
        assert_eq!(long["b"], json!([1, 2]));
        assert_eq!(told(&long["a"]), "[0, 1, 2, 3, … 100 values]");
    }
}
