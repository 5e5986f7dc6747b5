//! Python's strings, lists and mappings as templates use them, where the engine lacks or bounds them otherwise.
//!
//! Everything that can make more text than it was given charges what it will make before it makes it.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, State, Value};

use super::budget::{charge, elements, refuse};
use super::filters::{charge_format, charge_pieces};

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, bounds: &[Value]) -> Result<Value, Error> {
    let bound = |n: usize| -> Result<Option<i64>, Error> {
        match bounds.get(n) {
            None => Ok(None),
            Some(v) if v.is_none() => Ok(None),
            Some(v) => v.as_i64().map(Some).ok_or_else(|| refuse(format!("a slice bound is {}, expected an integer", v.kind()))),
        }
    };
    let (start, stop, step) = (bound(0)?, bound(1)?, bound(2)?.unwrap_or(1));
    if step == 0 {
        return Err(refuse("slice step cannot be zero"));
    }
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let length = text.chars().count();
            let mut picked = indices(length, start, stop, step);
            if step == 1 {
                // Bytes are characters nearly always.
                let byte = |at: usize| {
                    let found = if length == text.len() { Some(at) } else { text.char_indices().nth(at).map(|c| c.0) };
                    found.unwrap_or(text.len())
                };
                return Ok(Value::from(text.get(byte(picked.first)..byte(picked.first + picked.count)).unwrap_or_default()));
            }
            charge(4 * length as u64)?;
            let mut chars = Vec::with_capacity(length);
            chars.extend(text.chars());
            let mut out = String::with_capacity(picked.count);
            out.extend(picked.by_ref().filter_map(|at| chars.get(at)));
            Ok(Value::from(out))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            elements(value)?;
            let items: Vec<Value> = value.try_iter()?.collect();
            let picked: Vec<Value> = indices(items.len(), start, stop, step).filter_map(|at| items.get(at).cloned()).collect();
            Ok(if value.is_tuple() { Value::from(minijinja::value::Tuple::from(picked)) } else { Value::from(picked) })
        }
        other => Err(refuse(format!("a value of type {other} cannot be sliced"))),
    }
}

/// Positions that a slice picks.
struct Indices {
    first: usize,
    step: i64,
    count: usize,
}

impl Iterator for Indices {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.count = self.count.checked_sub(1)?;
        let at = self.first;
        self.first = usize::try_from((at as i64).saturating_add(self.step)).unwrap_or(0);
        Some(at)
    }
}

/// As Python's `slice.indices`.
fn indices(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Indices {
    let n = i64::try_from(len).unwrap_or(i64::MAX);
    let (lower, upper) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let clamp = |v: i64| (if v < 0 { v.saturating_add(n) } else { v }).clamp(lower, upper);
    let (from, to) = if step > 0 {
        (start.map_or(lower, clamp), stop.map_or(upper, clamp))
    } else {
        (start.map_or(upper, clamp), stop.map_or(lower, clamp))
    };
    let span = if step > 0 { to - from } else { from - to };
    let count = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
    Indices { first: usize::try_from(from).unwrap_or(0), step, count: usize::try_from(count).unwrap_or(0) }
}

/// `text.replace(old, new, count)`.
pub(super) fn replace(text: &str, old: &str, new: &str, count: Option<i64>) -> Result<Value, Error> {
    let most = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let found = text.matches(old).take(most).count() as u64;
    charge(text.len() as u64 + found.saturating_mul(new.len() as u64))?;
    Ok(Value::from(text.replacen(old, new, most)))
}

/// The texts of `values` with `separator` between them.
pub(super) fn join(values: &Value, separator: &str, text_only: bool) -> Result<Value, Error> {
    let mut out = String::new();
    for (n, value) in values.try_iter()?.enumerate() {
        if n > 0 {
            charge(separator.len() as u64)?;
            out.push_str(separator);
        }
        match value.as_str() {
            Some(text) => {
                charge(text.len() as u64)?;
                out.push_str(text);
            }
            None if text_only => return Err(refuse(format!("join: item {n} is {}, expected a string", value.kind()))),
            None => out.push_str(&text_of(&value)?),
        }
    }
    Ok(Value::from(out))
}

/// The value as Python's `str` writes it, charged as it grows.
fn text_of(value: &Value) -> Result<String, Error> {
    use std::fmt::Write as _;
    struct Counted(String, Option<Error>);
    impl std::fmt::Write for Counted {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            if let Err(e) = charge(text.len() as u64) {
                self.1 = Some(e);
                return Err(std::fmt::Error);
            }
            self.0.push_str(text);
            Ok(())
        }
    }
    let mut out = Counted(String::new(), None);
    let done = write!(out, "{value}");
    match (out.1, done) {
        (Some(e), _) => Err(e),
        (None, Err(e)) => Err(Error::from(e)),
        (None, Ok(())) => Ok(out.0),
    }
}

/// The filter `join(separator, attribute)`.
pub(super) fn join_filter(values: Value, separator: Option<String>, attribute: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let separator = match separator {
        Some(s) => s,
        None => kwargs.get::<Option<String>>("d")?.unwrap_or_default(),
    };
    let attribute = match attribute {
        Some(a) => Some(a),
        None => kwargs.get::<Option<Value>>("attribute")?,
    };
    kwargs.assert_all_used()?;
    if values.is_undefined() {
        return Ok(Value::from(""));
    }
    let values = match attribute {
        Some(name) => {
            let picked: Result<Vec<Value>, Error> = values.try_iter()?.map(|v| v.get_item(&name)).collect();
            Value::from(picked?)
        }
        None => values,
    };
    join(&values, &separator, false)
}

/// The filter `replace(old, new, count)`.
pub(super) fn replace_filter(value: Value, old: String, new: String, count: Option<i64>) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => replace(text, &old, &new, count),
        None => replace(&text_of(&value)?, &old, &new, count),
    }
}

/// The filter `string`.
pub(super) fn string_filter(value: Value) -> Result<Value, Error> {
    if value.as_str().is_some() { Ok(value) } else { text_of(&value).map(Value::from) }
}

/// The filter `indent(width=4, first=false, blank=false)`; the width may be a text.
pub(super) fn indent_filter(
    text: String,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let width = match width {
        Some(w) => Some(w),
        None => kwargs.get::<Option<Value>>("width")?,
    };
    let first = first.map_or_else(|| kwargs.get::<Option<bool>>("first"), |v| Ok(Some(v)))?.unwrap_or(false);
    let blank = blank.map_or_else(|| kwargs.get::<Option<bool>>("blank"), |v| Ok(Some(v)))?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let indent = match &width {
        None => "    ".to_owned(),
        Some(w) => match (w.as_str(), w.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(n)) => spaces(n)?,
            _ => return Err(refuse(format!("indent: the width is {}, expected a number", w.kind()))),
        },
    };
    charge(text.len() as u64 + (text.matches('\n').count() as u64 + 1).saturating_mul(indent.len() as u64))?;
    let mut out = String::new();
    for (n, line) in text.split('\n').enumerate() {
        if n > 0 {
            out.push('\n');
        }
        if (n > 0 || first) && (blank || !line.is_empty()) {
            out.push_str(&indent);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

/// Whether Python's `iter` takes the value: none is not, an undefined value is.
pub(super) fn is_iterable(value: Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// Whether the value has a length and items.
pub(super) fn is_sequence(value: Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map) || value.len().is_some()
}

fn spaces(n: i64) -> Result<String, Error> {
    let n = usize::try_from(n).unwrap_or(0);
    charge(n as u64)?;
    Ok(" ".repeat(n))
}

/// Methods of Python values; `None` leaves the call to the engine's.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(found) = string_method(text, name, args)
    {
        return found;
    }
    if value.kind() == ValueKind::Map && name == "copy" && args.is_empty() {
        return Ok(value.clone());
    }
    if matches!(value.kind(), ValueKind::Seq) && name == "index" {
        let [wanted] = args else { return Err(refuse("index: expected one argument")) };
        let at = value.try_iter()?.position(|v| v == *wanted);
        return at.map(Value::from).ok_or_else(|| refuse("index: the value is not in the list"));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let text_arg = |n: usize| args.get(n).and_then(Value::as_str);
    let wrong = || Some(Err(refuse(format!("{name}: wrong arguments for a string's method"))));
    let pad = |left: bool, right: bool| -> Result<Value, Error> {
        let width = args.first().and_then(Value::as_i64).ok_or_else(|| refuse(format!("{name}: the width is not a number")))?;
        let fill = args.get(1).and_then(Value::as_str).unwrap_or(" ");
        let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
        charge((missing as u64).saturating_mul(fill.len() as u64) + text.len() as u64)?;
        let before = match (left, right) {
            (true, true) => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
            (true, false) => missing,
            _ => 0,
        };
        Ok(Value::from(format!("{}{text}{}", fill.repeat(before), fill.repeat(missing - before))))
    };
    let charged = match name {
        // `%`-less formatting can widen a field to any size.
        "format" => charge_format(text, args),
        "split" | "rsplit" => charge_pieces(text, text_arg(0)),
        "splitlines" => charge_pieces(text, Some("\n")).and_then(|()| charge_pieces(text, Some("\r"))),
        _ => Ok(()),
    };
    if let Err(e) = charged {
        return Some(Err(e));
    }
    Some(match (name, args) {
        ("replace", [_, _] | [_, _, _]) => match (text_arg(0), text_arg(1)) {
            (Some(old), Some(new)) => replace(text, old, new, args.get(2).and_then(Value::as_i64)),
            _ => return wrong(),
        },
        ("join", [values]) => join(values, text, true),
        ("strip", [] | [_]) => return strip(text, args, true, true),
        ("lstrip", [] | [_]) => return strip(text, args, true, false),
        ("rstrip", [] | [_]) => return strip(text, args, false, true),
        ("rsplit", _) => rsplit(text, args),
        ("partition" | "rpartition", [_]) => match text_arg(0) {
            Some(sep) if !sep.is_empty() => {
                let cut = if name == "partition" { text.split_once(sep) } else { text.rsplit_once(sep) };
                let parts = match cut {
                    Some((a, b)) => [a, sep, b],
                    None if name == "partition" => [text, "", ""],
                    None => ["", "", text],
                };
                Ok(Value::from(minijinja::value::Tuple::from(parts.map(Value::from))))
            }
            _ => return wrong(),
        },
        ("removeprefix", [_]) => {
            text_arg(0).map(|p| Value::from(text.strip_prefix(p).unwrap_or(text))).ok_or_else(|| refuse("removeprefix: expected a string"))
        }
        ("removesuffix", [_]) => {
            text_arg(0).map(|p| Value::from(text.strip_suffix(p).unwrap_or(text))).ok_or_else(|| refuse("removesuffix: expected a string"))
        }
        ("ljust", [_] | [_, _]) => pad(false, true),
        ("rjust", [_] | [_, _]) => pad(true, false),
        ("center", [_] | [_, _]) => pad(true, true),
        ("zfill", [width]) => zfill(text, width),
        ("index", [_]) => match text_arg(0).and_then(|w| text.find(w)) {
            Some(at) => Ok(Value::from(text.get(..at).map_or(0, |t| t.chars().count()))),
            None => Err(refuse("index: substring not found")),
        },
        ("swapcase", []) => {
            let swap = |c: char| if c.is_lowercase() { c.to_uppercase().to_string() } else { c.to_lowercase().to_string() };
            Ok(Value::from(text.chars().map(swap).collect::<String>()))
        }
        ("casefold", []) => Ok(Value::from(text.to_lowercase())),
        _ => return None,
    })
}

/// Python strips what `str.isspace` calls space: Unicode white space and four separators.
fn strip(text: &str, args: &[Value], left: bool, right: bool) -> Option<Result<Value, Error>> {
    let chars: Option<Vec<char>> = match args.first() {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => Some(v.as_str()?.chars().collect()),
    };
    let strips = |c: char| match &chars {
        Some(set) => set.contains(&c),
        None => c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c),
    };
    let text = if left { text.trim_start_matches(strips) } else { text };
    let text = if right { text.trim_end_matches(strips) } else { text };
    Some(Ok(Value::from(text)))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let most = args.get(1).and_then(Value::as_i64).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<Value> = match args.first().and_then(Value::as_str) {
        Some("") => return Err(refuse("rsplit: empty separator")),
        Some(sep) => text.rsplitn(most.saturating_add(1), sep).map(Value::from).collect(),
        None if most >= text.len() => text.split_whitespace().rev().map(Value::from).collect(),
        None => return Err(refuse("rsplit: a limit needs a separator")),
    };
    parts.reverse();
    Ok(Value::from(parts))
}

fn zfill(text: &str, width: &Value) -> Result<Value, Error> {
    let width = width.as_i64().ok_or_else(|| refuse("zfill: the width is not a number"))?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    charge(missing as u64)?;
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.get(..1).unwrap_or_default(), digits),
        None => ("", text),
    };
    Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(missing))))
}

#[cfg(test)]
mod tests {
    use super::super::budget::{Bounds, Budget};
    use super::*;

    #[test]
    fn slices_pick_what_python_picks() {
        let _budget = Budget::start(Bounds::of(0, 0, 0, 0));
        let text = |start, stop, step| {
            let bounds: Vec<Value> = [start, stop, step].map(|b: Option<i64>| b.map_or(Value::from(()), Value::from)).to_vec();
            slice(&Value::from("abcdef"), &bounds).map(|v| v.to_string()).unwrap_or_else(|e| e.to_string())
        };
        let n = None;
        let cases = [
            ((n, n, n), "abcdef"),
            ((Some(1), Some(4), n), "bcd"),
            ((n, n, Some(-1)), "fedcba"),
            ((Some(-2), n, n), "ef"),
            ((n, Some(-2), n), "abcd"),
            ((Some(4), Some(1), Some(-2)), "ec"),
            ((Some(10), Some(-10), Some(-1)), "fedcba"),
            ((Some(5), Some(1), n), ""),
            ((n, n, Some(i64::MIN)), "f"),
            ((n, n, Some(i64::MAX)), "a"),
            ((Some(i64::MIN), Some(i64::MAX), Some(3)), "ad"),
        ];
        for ((start, stop, step), expected) in cases {
            assert_eq!(text(start, stop, step), expected, "[{start:?}:{stop:?}:{step:?}]");
        }
        for empty in [Value::from(""), Value::from(Vec::<Value>::new())] {
            assert_eq!(slice(&empty, &[Value::from(()), Value::from(()), Value::from(-1)]).expect("sliced").len(), Some(0));
        }
    }
}
