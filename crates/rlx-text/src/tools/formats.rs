//! How each convention's calls are read behind their marks.

use serde_json::{Map, Value};

use super::ToolCall;
use super::python::{self, Stop};

/// How far the text behind an opening mark could be read.  What is decided stays so whatever follows.
pub(super) enum Read {
    /// Whole calls of this many bytes.
    Calls(usize, Vec<ToolCall>),
    /// No call, whatever follows; this many bytes belong to the attempt.
    Malformed(usize, String),
    /// The mark is plain text.
    Text,
    /// More text decides.
    Unfinished,
}

/// Reads a call; the flag says that no more text comes.
pub(super) type Reader = fn(&str, bool) -> Read;

/// A mark that begins a call.
#[derive(Debug)]
pub(super) struct Mark {
    pub text: &'static str,
    /// Reads what follows the mark.
    pub read: Reader,
}

pub(super) const QWEN: &[Mark] = &[Mark { text: "<tool_call>", read: tool_call }, Mark { text: "<function=", read: function }];
pub(super) const LLAMA3: &[Mark] = &[Mark { text: "<|python_tag|>", read: python_tag }, Mark { text: "<function=", read: function }];
pub(super) const MISTRAL: &[Mark] = &[Mark { text: "[TOOL_CALLS]", read: mistral }];
pub(super) const LFM2: &[Mark] = &[Mark { text: "<|tool_call_start|>", read: lfm2 }];

const CUT: &str = "the text ends inside the call";
/// Longest name of a tool.
const MAX_NAME: usize = 256;

/// What is wrong up to `close`, or to the end of the text.
pub(super) fn malformed(text: &str, close: &str, last: bool, reason: impl Into<String>) -> Read {
    match text.find(close) {
        Some(at) => Read::Malformed(at + close.len(), reason.into()),
        None if last => Read::Malformed(text.len(), reason.into()),
        None => Read::Unfinished,
    }
}

/// Where `close` ends, when nothing but white space is before it; models may end their turn without it.
pub(super) fn closed(text: &str, from: usize, close: &str, last: bool) -> Result<usize, Option<String>> {
    let rest = text.get(from..).unwrap_or_default();
    let trimmed = rest.trim_start();
    if trimmed.starts_with(close) {
        Ok(from + rest.len() - trimmed.len() + close.len())
    } else if close.starts_with(trimmed) {
        if last { Ok(text.len()) } else { Err(None) }
    } else {
        Err(Some(format!("expected `{close}` behind the call")))
    }
}

/// What was read of a JSON value.
enum Json {
    Value(usize, Value),
    Unfinished,
    Wrong(String),
}

/// A JSON object or list at the beginning of a text.
fn json(text: &str) -> Json {
    let body = text.trim_start();
    match body.chars().next() {
        None => return Json::Unfinished,
        Some('{' | '[') => {}
        Some(c) => return Json::Wrong(format!("found `{c}`, expected a JSON object")),
    }
    let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Json::Value(text.len() - body.len() + values.byte_offset(), value),
        Some(Err(e)) if !e.is_eof() => Json::Wrong(e.to_string()),
        _ => Json::Unfinished,
    }
}

/// A call as a JSON object: the arguments are under `arguments` or `parameters`.
fn call_of(value: Value) -> Result<ToolCall, String> {
    let Value::Object(mut fields) = value else { return Err("expected a JSON object".into()) };
    if let Some(Value::Object(inner)) = fields.get("function") {
        fields = inner.clone();
    }
    let name = match fields.get("name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => return Err("expected a text under `name`".into()),
    };
    let arguments = match fields.remove("arguments").or_else(|| fields.remove("parameters")) {
        None | Some(Value::Null) => Value::Object(Map::new()),
        // Some models write the object as a string of JSON.
        Some(Value::String(text)) => serde_json::from_str(&text).ok().filter(Value::is_object).unwrap_or(Value::String(text)),
        Some(other) => other,
    };
    Ok(ToolCall { name, arguments })
}

fn calls_of(value: Value) -> Result<Vec<ToolCall>, String> {
    match value {
        Value::Array(list) if list.is_empty() => Err("an empty list of calls".into()),
        Value::Array(list) => list.into_iter().map(call_of).collect(),
        one => call_of(one).map(|call| vec![call]),
    }
}

/// JSON with calls, then `close`.
fn json_calls(text: &str, close: &str, last: bool) -> Read {
    let (end, value) = match json(text) {
        Json::Value(end, value) => (end, value),
        Json::Wrong(reason) => return malformed(text, close, last, reason),
        Json::Unfinished if last => return malformed(text, close, last, CUT),
        Json::Unfinished => return Read::Unfinished,
    };
    let len = match closed(text, end, close, last) {
        Ok(len) => len,
        Err(None) => return Read::Unfinished,
        Err(Some(reason)) => return malformed(text, close, last, reason),
    };
    match calls_of(value) {
        Ok(calls) => Read::Calls(len, calls),
        Err(reason) => Read::Malformed(len, reason),
    }
}

/// `{…}</tool_call>`, or functions in XML with the same end.
fn tool_call(text: &str, last: bool) -> Read {
    const CLOSE: &str = "</tool_call>";
    const FUNCTION: &str = "<function=";
    let body = text.trim_start();
    if !body.starts_with('<') {
        return json_calls(text, CLOSE, last);
    }
    let (mut at, mut calls) = (text.len() - body.len(), Vec::new());
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        let skipped = at + rest.len() - trimmed.len();
        if let Some(behind) = trimmed.strip_prefix(FUNCTION) {
            match function(behind, last) {
                Read::Calls(len, more) => {
                    calls.extend(more);
                    at = skipped + FUNCTION.len() + len;
                }
                Read::Unfinished => return Read::Unfinished,
                Read::Malformed(_, reason) => return malformed(text, CLOSE, last, reason),
                Read::Text => return malformed(text, CLOSE, last, "expected `<function=NAME>`"),
            }
            continue;
        }
        if !last && (FUNCTION.starts_with(trimmed) || CLOSE.starts_with(trimmed)) {
            return Read::Unfinished;
        }
        return match closed(text, at, CLOSE, last) {
            _ if calls.is_empty() => malformed(text, CLOSE, last, "expected a call"),
            Ok(len) => Read::Calls(len, calls),
            Err(None) => Read::Unfinished,
            Err(Some(reason)) => malformed(text, CLOSE, last, reason),
        };
    }
}

/// A name that ends with `close`; `None` says that it cannot become one.
pub(super) fn name<'t>(text: &'t str, close: &[&str], last: bool) -> Result<(&'t str, usize), Option<Read>> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/'))).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    if let Some(close) = close.iter().find(|c| rest.starts_with(**c)) {
        let sound = !name.is_empty() && name.len() <= MAX_NAME;
        return if sound { Ok((name, end + close.len())) } else { Err(None) };
    }
    let open = close.iter().any(|c| c.starts_with(rest)) && name.len() <= MAX_NAME;
    Err(if open && !last { Some(Read::Unfinished) } else { None })
}

/// `NAME>`, then JSON or parameters in XML, then `</function>`.
fn function(text: &str, last: bool) -> Read {
    const CLOSE: &str = "</function>";
    let (name, body) = match name(text, &[">"], last) {
        Ok((name, at)) => (name.to_owned(), at),
        Err(read) => return read.unwrap_or(Read::Text),
    };
    let rest = text.get(body..).unwrap_or_default();
    let (end, arguments) = if rest.trim_start().starts_with('{') {
        match json(rest) {
            Json::Value(end, value) => (body + end, value),
            Json::Wrong(reason) => return malformed(text, CLOSE, last, reason),
            Json::Unfinished if last => return malformed(text, CLOSE, last, CUT),
            Json::Unfinished => return Read::Unfinished,
        }
    } else {
        match parameters(rest, last) {
            Ok((end, map)) => (body + end, Value::Object(map)),
            Err(None) => return Read::Unfinished,
            Err(Some(reason)) => return malformed(text, CLOSE, last, reason),
        }
    };
    match closed(text, end, CLOSE, last) {
        Ok(len) => Read::Calls(len, vec![ToolCall { name, arguments }]),
        Err(None) => Read::Unfinished,
        Err(Some(reason)) => malformed(text, CLOSE, last, reason),
    }
}

/// `<parameter=KEY>VALUE</parameter>` as often as there are.
fn parameters(text: &str, last: bool) -> Result<(usize, Map<String, Value>), Option<String>> {
    const OPEN: &str = "<parameter=";
    const CLOSE: &str = "</parameter>";
    let (mut at, mut map) = (0, Map::new());
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        let Some(body) = trimmed.strip_prefix(OPEN) else {
            let undecided = !last && OPEN.starts_with(trimmed);
            return if undecided { Err(None) } else { Ok((at, map)) };
        };
        let unfinished = || if last { Some(CUT.to_owned()) } else { None };
        let Some((key, value)) = body.split_once('>') else { return Err(unfinished()) };
        let Some((value, behind)) = value.split_once(CLOSE) else { return Err(unfinished()) };
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        map.insert(key.trim().to_owned(), untyped(value));
        at = text.len() - behind.len();
    }
}

/// A value without quotes: JSON other than a text, or else a text.
fn untyped(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::String(_)) | Err(_) => match text {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            text => Value::String(text.to_owned()),
        },
        Ok(value) => value,
    }
}

/// JSON calls with `;` between, or a Python call; to the end of the text.
fn python_tag(text: &str, last: bool) -> Read {
    let body = text.trim_start();
    if body.is_empty() {
        return if last { Read::Malformed(text.len(), CUT.into()) } else { Read::Unfinished };
    }
    if body.starts_with(['{', '[']) {
        return match (json(text), last) {
            (Json::Value(end, value), _) => match calls_of(value) {
                Ok(calls) => Read::Calls(end, calls),
                Err(reason) => Read::Malformed(end, reason),
            },
            (Json::Wrong(reason), true) => Read::Malformed(text.len(), reason),
            (Json::Unfinished, true) => Read::Malformed(text.len(), CUT.into()),
            (_, false) => Read::Unfinished,
        };
    }
    match (python::calls(text), last) {
        (Ok((len, calls)), _) => Read::Calls(len, calls),
        (Err(Stop::Wrong(reason)), true) => Read::Malformed(text.len(), reason),
        (Err(Stop::End), true) => Read::Malformed(text.len(), CUT.into()),
        (Err(_), false) => Read::Unfinished,
    }
}

/// A JSON object, or list of them, that is a call as it stands; any other JSON is text.
pub(super) fn bare_object(text: &str, last: bool) -> Read {
    match json(text) {
        Json::Value(end, value) => match calls_of(value) {
            Ok(calls) => Read::Calls(end, calls),
            Err(_) => Read::Text,
        },
        Json::Unfinished if !last => Read::Unfinished,
        Json::Unfinished | Json::Wrong(_) => Read::Text,
    }
}

/// `[{…}, …]`, or `NAME[ARGS]{…}` with `[CALL_ID]ID` before the arguments where the model writes one.
fn mistral(text: &str, last: bool) -> Read {
    const ID: &str = "[CALL_ID]";
    const ARGS: &str = "[ARGS]";
    let fail = |reason: String| if last { Read::Malformed(text.len(), reason) } else { Read::Unfinished };
    let body = text.trim_start();
    let lead = text.len() - body.len();
    if body.is_empty() {
        return fail(CUT.into());
    }
    if body.starts_with(['[', '{']) {
        return match json(text) {
            Json::Value(end, value) => match calls_of(value) {
                Ok(calls) => Read::Calls(end, calls),
                Err(reason) => Read::Malformed(end, reason),
            },
            Json::Wrong(reason) => fail(reason),
            Json::Unfinished => fail(CUT.into()),
        };
    }
    let (tool, mut at) = match name(body, &[ID, ARGS, "{"], last) {
        Ok(found) => found,
        Err(Some(read)) => return read,
        Err(None) => return fail("expected a list of calls or `NAME[ARGS]{…}`".into()),
    };
    let tool = tool.to_owned();
    let behind = |at: usize| body.get(at..).unwrap_or_default();
    if body.get(..at).is_some_and(|head| head.ends_with(ID)) {
        match name(behind(at), &[ARGS, "{"], last) {
            Ok((_, len)) => at += len,
            Err(Some(read)) => return read,
            Err(None) => return fail("expected `[ARGS]` behind the id of a call".into()),
        }
    }
    if body.get(..at).is_some_and(|head| head.ends_with('{')) {
        at -= 1;
    }
    match json(behind(at)) {
        Json::Value(end, arguments) => Read::Calls(lead + at + end, vec![ToolCall { name: tool, arguments }]),
        Json::Wrong(reason) => fail(reason),
        Json::Unfinished => fail(CUT.into()),
    }
}

/// `[name(key=value), …]`, or the same as JSON, then the closing mark.
fn lfm2(text: &str, last: bool) -> Read {
    python_block(text, "<|tool_call_end|>", last)
}

/// Python calls, or JSON ones, then `close`.
pub(super) fn python_block(text: &str, close: &str, last: bool) -> Read {
    let body = text.trim_start();
    let inside = body.strip_prefix('[').unwrap_or(body).trim_start();
    if inside.is_empty() && !last {
        return Read::Unfinished;
    }
    if inside.starts_with('{') {
        return json_calls(text, close, last);
    }
    let (end, calls) = match python::calls(text) {
        Ok(found) => found,
        Err(Stop::Wrong(reason)) => return malformed(text, close, last, reason),
        Err(Stop::End) if last => return malformed(text, close, last, CUT),
        Err(Stop::End) => return Read::Unfinished,
    };
    match closed(text, end, close, last) {
        Ok(len) => Read::Calls(len, calls),
        Err(None) => Read::Unfinished,
        Err(Some(reason)) => malformed(text, close, last, reason),
    }
}
