//! `tojson` as transformers defines it for templates: Python's `json.dumps` without HTML escaping.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

use super::budget::{charge, refuse};

/// Deeper values are refused.
pub(super) const MAX_DEPTH: usize = 200;
/// Wider indentation is refused.
const MAX_INDENT: usize = 64;

/// The filter: `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(value: &Value, ensure_ascii: Option<Value>, indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let named = |name: &str, positional: Option<Value>| -> Result<Option<Value>, Error> {
        let found = positional.map_or_else(|| kwargs.get::<Option<Value>>(name), |v| Ok(Some(v)))?;
        Ok(found.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ascii = named("ensure_ascii", ensure_ascii)?.is_some_and(|v| v.is_true());
    let indent = named("indent", indent)?.map(|v| indentation(&v)).transpose()?;
    let sort_keys = named("sort_keys", None)?.is_some_and(|v| v.is_true());
    let (item, key) = match named("separators", None)? {
        Some(pair) => separators(&pair)?,
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    kwargs.assert_all_used()?;
    let mut writer = Writer { out: String::new(), ascii, indent, sort_keys, item, key };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn invalid(reason: impl Into<String>) -> Error {
    refuse(format!("tojson: {}", reason.into()))
}

fn indentation(v: &Value) -> Result<String, Error> {
    if let Some(text) = v.as_str() {
        return Ok(text.to_owned());
    }
    let n = v.as_i64().ok_or_else(|| invalid(format!("indent is {v}, expected a number or a string")))?;
    // Python writes line breaks without indentation for 0 and less.
    let n = usize::try_from(n).unwrap_or(0);
    if n > MAX_INDENT {
        return Err(invalid(format!("indent is {n}, expected at most {MAX_INDENT}")));
    }
    Ok(" ".repeat(n))
}

fn separators(pair: &Value) -> Result<(String, String), Error> {
    let texts: Vec<Value> = pair.try_iter()?.take(3).collect();
    match texts.as_slice() {
        [item, key] => match (item.as_str(), key.as_str()) {
            (Some(item), Some(key)) => Ok((item.to_owned(), key.to_owned())),
            _ => Err(invalid("separators must be two strings")),
        },
        _ => Err(invalid("separators must be two strings")),
    }
}

struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    sort_keys: bool,
    item: String,
    key: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("the value is nested deeper than {MAX_DEPTH}")));
        }
        // Values may share parts, so that what is written can be far larger than what is held.
        charge(value.as_str().map_or(8, |t| t.len() as u64 + 2))?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|v| (None, v)).collect();
                self.container('[', ']', items, depth)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for k in value.try_iter()? {
                    let v = value.get_item(&k)?;
                    items.push((Some(key(&k)?), v));
                }
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container('{', '}', items, depth)?;
            }
            other => return Err(invalid(format!("cannot write a value of type {other}"))),
        }
        Ok(())
    }

    fn container(&mut self, open: char, close: char, items: Vec<(Option<String>, Value)>, depth: usize) -> Result<(), Error> {
        self.out.push(open);
        let empty = items.is_empty();
        for (n, (key, value)) in items.into_iter().enumerate() {
            if n > 0 {
                charge(self.item.len() as u64)?;
                self.out.push_str(&self.item);
            }
            self.line(depth + 1)?;
            if let Some(key) = key {
                self.string(&key);
                charge((self.key.len() + key.len()) as u64)?;
                self.out.push_str(&self.key);
            }
            self.value(&value, depth + 1)?;
        }
        if !empty {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            charge((indent.len() * depth) as u64 + 1)?;
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                _ if c < ' ' || (self.ascii && !(' '..='~').contains(&c) && c != '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Bytes of a JSON value, roughly as text; `None` when it is nested too deep.
pub(super) fn size(value: &serde_json::Value, depth: usize) -> Option<usize> {
    use serde_json::Value as Json;
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
        Json::String(s) => s.len() + 2,
        Json::Array(list) => list.iter().try_fold(2, |n, v| Some(n + size(v, depth + 1)? + 1))?,
        Json::Object(map) => map.iter().try_fold(2, |n, (k, v)| Some(n + k.len() + 4 + size(v, depth + 1)?))?,
    })
}

/// Lists and objects inside each other, of a value that has a [`size`].
pub(super) fn depth(value: &serde_json::Value) -> usize {
    use serde_json::Value as Json;
    match value {
        Json::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Json::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn key(k: &Value) -> Result<String, Error> {
    Ok(match k.kind() {
        ValueKind::String => k.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if k.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => number(k)?,
        other => return Err(invalid(format!("a key of type {other}, expected a string"))),
    })
}

fn number(v: &Value) -> Result<String, Error> {
    if v.is_integer() {
        return Ok(v.to_string());
    }
    Ok(python_float(f64::try_from(v.clone())?))
}

/// A float as Python writes it: shortest digits that read back, exponent form outside 1e-4 … 1e16.
pub(super) fn python_float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = x.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_as_python_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (2.5, "2.5"),
            (1e-7, "1e-07"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (x, text) in cases {
            assert_eq!(python_float(x), text);
        }
    }
}
