//! Generated text → plain text and tool calls.
//!
//! A [`ToolConvention`] says how a model writes calls; each is one entry in [`CONVENTIONS`].  A [`ToolStream`]
//! re-reads what it has gathered whenever text arrives and hands out what can no longer change, so that any
//! way of cutting the text gives the same parts as reading it whole.  White space next to a call belongs to
//! the convention and is dropped.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

use serde_json::Value;

/// A call that the model asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Name of the tool.
    pub name: String,
    /// Its arguments, normally a JSON object.
    pub arguments: Value,
}

/// A part of generated text.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolPart {
    /// Plain text.
    Text(String),
    /// A tool call.
    Call(ToolCall),
    /// What was marked as a call and is none.
    Malformed {
        /// The text, marks included.
        raw: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// How far the text behind an opening mark could be read.
enum Read {
    /// A whole call of this many bytes.
    Call(usize, ToolCall),
    /// No call, whatever follows; this many bytes belong to the attempt.
    Malformed(usize, String),
    /// More text decides.
    Unfinished,
}

/// A way of writing tool calls.
#[derive(Debug)]
pub struct ToolConvention {
    /// Its name.
    pub name: &'static str,
    /// The mark that begins a call.
    pub open: &'static str,
    /// Reads what follows the mark; the flag says that no more text comes.
    read: fn(&str, bool) -> Read,
}

/// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen2.5, Qwen3.
pub const HERMES: ToolConvention = ToolConvention { name: "hermes", open: "<tool_call>", read: read_hermes };

/// Every convention.
pub const CONVENTIONS: &[&ToolConvention] = &[&HERMES];

impl ToolConvention {
    /// The convention of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        CONVENTIONS.iter().copied().find(|c| c.name == name)
    }

    /// Reads a whole text.
    pub fn parse(&'static self, text: &str) -> Vec<ToolPart> {
        let mut stream = ToolStream::new(self);
        let mut parts = stream.push(text);
        for part in stream.finish() {
            join(&mut parts, part);
        }
        parts
    }
}

/// Reads a growing text.  Text may come in several [`ToolPart::Text`] pieces; everything else comes whole.
#[derive(Debug)]
pub struct ToolStream {
    convention: &'static ToolConvention,
    /// What is not handed out yet.
    held: String,
    /// The last part was not text, so white space that follows is dropped.
    after_call: bool,
}

impl ToolStream {
    /// A stream at its beginning.
    pub fn new(convention: &'static ToolConvention) -> Self {
        Self { convention, held: String::new(), after_call: false }
    }

    /// Takes more text; the parts that became certain.
    pub fn push(&mut self, text: &str) -> Vec<ToolPart> {
        self.held.push_str(text);
        self.advance(false)
    }

    /// The parts that were held back; the stream is at its beginning again afterwards.
    pub fn finish(&mut self) -> Vec<ToolPart> {
        let parts = self.advance(true);
        self.held.clear();
        self.after_call = false;
        parts
    }

    fn advance(&mut self, last: bool) -> Vec<ToolPart> {
        let mut parts = Vec::new();
        let open = self.convention.open;
        loop {
            if self.after_call {
                let blank = self.held.len() - self.held.trim_start().len();
                self.held.drain(..blank);
            }
            let Some((before, behind)) = self.held.split_once(open) else { break };
            let (at, text) = (before.len(), before.trim_end().to_owned());
            let (len, part) = match (self.convention.read)(behind, last) {
                Read::Call(len, call) => (len, Some(ToolPart::Call(call))),
                Read::Malformed(len, reason) => {
                    let raw = format!("{open}{}", behind.get(..len).unwrap_or_default());
                    (len, Some(ToolPart::Malformed { raw, reason }))
                }
                Read::Unfinished => (0, None),
            };
            if !text.is_empty() {
                parts.push(ToolPart::Text(text));
            }
            let Some(part) = part else {
                self.held.drain(..at);
                // Text before an unfinished call is out; white space behind it must not follow later.
                self.after_call = true;
                return parts;
            };
            parts.push(part);
            self.held.drain(..at + open.len() + len);
            self.after_call = true;
        }
        let certain = if last { self.held.len() } else { self.certain() };
        let text: String = self.held.drain(..certain).collect();
        if !text.is_empty() {
            self.after_call = false;
            parts.push(ToolPart::Text(text));
        }
        parts
    }

    /// Bytes of held text that no call can claim: not the beginning of a mark, nor white space before one.
    fn certain(&self) -> usize {
        let open = self.convention.open;
        let starts = (1..open.len()).rev().filter_map(|n| open.get(..n));
        let partial = starts.into_iter().find(|start| self.held.ends_with(start)).map_or(0, str::len);
        let sure = self.held.len() - partial;
        self.held.get(..sure).map_or(0, |text| text.trim_end().len())
    }
}

/// Adds `part`, joining neighbouring text.
fn join(parts: &mut Vec<ToolPart>, part: ToolPart) {
    match (parts.last_mut(), part) {
        (Some(ToolPart::Text(text)), ToolPart::Text(more)) => text.push_str(&more),
        (_, part) => parts.push(part),
    }
}

fn read_hermes(text: &str, last: bool) -> Read {
    const CLOSE: &str = "</tool_call>";
    let malformed = |reason: String| match text.find(CLOSE) {
        Some(at) => Read::Malformed(at + CLOSE.len(), reason),
        None if last => Read::Malformed(text.len(), reason),
        None => Read::Unfinished,
    };
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        Some(Err(e)) if !e.is_eof() => return malformed(e.to_string()),
        _ if last => return malformed("the text ends inside the call".into()),
        _ => return Read::Unfinished,
    };
    let end = values.byte_offset();
    let rest = text.get(end..).unwrap_or_default();
    let trimmed = rest.trim_start();
    let len = if trimmed.starts_with(CLOSE) {
        end + (rest.len() - trimmed.len()) + CLOSE.len()
    } else if CLOSE.starts_with(trimmed) {
        // Models may end their turn without the closing mark.
        if !last {
            return Read::Unfinished;
        }
        text.len()
    } else {
        return malformed(format!("expected `{CLOSE}` behind the JSON value"));
    };
    match call_of(value) {
        Ok(call) => Read::Call(len, call),
        Err(reason) => Read::Malformed(len, reason),
    }
}

fn call_of(value: Value) -> Result<ToolCall, String> {
    let Value::Object(mut fields) = value else { return Err("expected a JSON object".into()) };
    let name = match fields.get("name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => return Err("expected a text under `name`".into()),
    };
    let arguments = match fields.remove("arguments") {
        None | Some(Value::Null) => Value::Object(serde_json::Map::new()),
        // Some models write the object as a string of JSON.
        Some(Value::String(text)) => serde_json::from_str(&text).ok().filter(Value::is_object).unwrap_or(Value::String(text)),
        Some(other) => other,
    };
    Ok(ToolCall { name, arguments })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(s: &str) -> ToolPart {
        ToolPart::Text(s.into())
    }

    fn call(name: &str, arguments: Value) -> ToolPart {
        ToolPart::Call(ToolCall { name: name.into(), arguments })
    }

    fn samples() -> Vec<(&'static str, Vec<ToolPart>)> {
        let bad = |raw: &str, reason: &str| ToolPart::Malformed { raw: raw.into(), reason: reason.into() };
        vec![
            ("", vec![]),
            ("no call, <tool> only \n", vec![text("no call, <tool> only \n")]),
            (
                "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2.5]}}\n</tool_call>",
                vec![call("add", json!({"a": 1, "b": [2.5]}))],
            ),
            (
                " Größe? \n\n<tool_call>{\"name\":\"a\"}</tool_call>\n<tool_call>{\"name\":\"b\",\"arguments\":\"{\\\"x\\\":\\\"東京\\\"}\"}</tool_call>\n done \n",
                vec![text(" Größe?"), call("a", json!({})), call("b", json!({"x": "東京"})), text("done \n")],
            ),
            (
                "<tool_call>{\"name\":\"say\",\"arguments\":{\"t\":\"</tool_call> <tool_call>\"}}</tool_call>",
                vec![call("say", json!({"t": "</tool_call> <tool_call>"}))],
            ),
            ("<tool_call>{\"name\":\"a\"} \n", vec![call("a", json!({}))]),
            ("<tool_call>{\"name\":\"a\"}</tool_c", vec![call("a", json!({}))]),
            ("x <tool_call>{\"name\":", vec![text("x"), bad("<tool_call>{\"name\":", "the text ends inside the call")]),
            (
                "<tool_call>{\"arguments\":{}}</tool_call>y",
                vec![bad("<tool_call>{\"arguments\":{}}</tool_call>", "expected a text under `name`"), text("y")],
            ),
            ("<tool_call>[]</tool_call>", vec![bad("<tool_call>[]</tool_call>", "expected a JSON object")]),
            (
                "<tool_call>{\"name\":\"a\"} extra</tool_call>",
                vec![bad("<tool_call>{\"name\":\"a\"} extra</tool_call>", "expected `</tool_call>` behind the JSON value")],
            ),
            ("a<tool_call", vec![text("a<tool_call")]),
            ("a <<tool_call>{\"name\":\"n\"}</tool_call>", vec![text("a <"), call("n", json!({}))]),
        ]
    }

    /// Feeds `pieces` one by one.
    fn streamed<'t>(pieces: impl IntoIterator<Item = &'t str>) -> Vec<ToolPart> {
        let mut stream = ToolStream::new(&HERMES);
        let mut parts = Vec::new();
        for piece in pieces {
            for part in stream.push(piece) {
                join(&mut parts, part);
            }
        }
        for part in stream.finish() {
            join(&mut parts, part);
        }
        parts
    }

    #[test]
    fn texts_read_whole() {
        for (source, expected) in samples() {
            assert_eq!(HERMES.parse(source), expected, "{source:?}");
        }
        assert_eq!(ToolConvention::find("hermes").map(|c| c.open), Some("<tool_call>"));
        assert!(ToolConvention::find("nobody").is_none());
    }

    #[test]
    fn a_cut_at_any_place_changes_nothing() {
        for (source, expected) in samples() {
            for at in (0..=source.len()).filter(|&at| source.is_char_boundary(at)) {
                assert_eq!(streamed([&source[..at], &source[at..]]), expected, "{source:?} cut at {at}");
            }
            assert_eq!(streamed(source.split("").filter(|s| !s.is_empty())), expected, "{source:?} char by char");
        }
    }

    #[test]
    fn text_before_a_call_is_handed_out_at_once() {
        let mut stream = ToolStream::new(&HERMES);
        assert_eq!(stream.push("hello <"), [text("hello")]);
        assert_eq!(stream.push("b"), [text(" <b")]);
        assert_eq!(stream.push("\n<tool_call>{"), []);
        assert_eq!(stream.push("\"name\":\"f\"}</tool_call>"), [call("f", json!({}))]);
        assert_eq!(stream.finish(), []);
    }

    proptest! {
        #[test]
        fn any_text_in_any_pieces_reads_alike(
            tokens in prop::collection::vec(prop::sample::select(vec!["<tool_call>", "</tool_call>", "{\"name\":\"a\"}", "{", "}", " ", "\n", "<", "x", "\"", "é", "[", "1"]), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let source = tokens.concat();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(source.len() + 1)).filter(|&c| source.is_char_boundary(c)).collect();
            at.extend([0, source.len()]);
            at.sort_unstable();
            prop_assert_eq!(streamed(at.windows(2).map(|w| &source[w[0]..w[1]])), HERMES.parse(&source));
        }
    }
}
