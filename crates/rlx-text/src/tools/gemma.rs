//! Gemma's calls: `call:NAME{key:value,…}` with quotes of its own, and Python in a code block.

use serde_json::{Map, Number, Value};

use super::ToolCall;
use super::formats::{Mark, Read, closed, malformed, name, python_block};
use super::python::Stop;

pub(super) const MARKS: &[Mark] = &[
    Mark { text: "<|tool_call>", read: |text, last| call(text, "<tool_call|>", last) },
    Mark { text: "<start_function_call>", read: |text, last| call(text, "<end_function_call>", last) },
    Mark { text: "```tool_code", read: |text, last| python_block(text, "```", last) },
    Mark { text: "```tool_call", read: |text, last| python_block(text, "```", last) },
];

/// Values inside each other.
const MAX_DEPTH: usize = 64;
/// What texts stand between, in the two formats.
const QUOTES: [&str; 2] = ["<|\"|>", "<escape>"];

/// `call:NAME{…}`, then `close`.
fn call(text: &str, close: &str, last: bool) -> Read {
    const OPEN: &str = "call:";
    let cut = || malformed(text, close, last, "the text ends inside the call");
    let body = text.trim_start();
    let Some(behind) = body.strip_prefix(OPEN) else {
        let undecided = !last && OPEN.starts_with(body);
        return if undecided { Read::Unfinished } else { malformed(text, close, last, format!("expected `{OPEN}NAME`")) };
    };
    let (tool, len) = match name(behind, &["{"], last) {
        Ok((tool, len)) => (tool.to_owned(), len),
        Err(Some(read)) => return read,
        Err(None) => return malformed(text, close, last, "expected `NAME{` behind `call:`"),
    };
    let mut reader = Reader { text, at: text.len() - behind.len() + len - 1 };
    let arguments = match reader.value(0) {
        Ok(value) => value,
        Err(Stop::End) if last => return cut(),
        Err(Stop::End) => return Read::Unfinished,
        Err(Stop::Wrong(reason)) => return malformed(text, close, last, reason),
    };
    match closed(text, reader.at, close, last) {
        Ok(len) => Read::Calls(len, vec![ToolCall { name: tool, arguments }]),
        Err(None) => Read::Unfinished,
        Err(Some(reason)) => malformed(text, close, last, reason),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&mut self) -> Result<char, Stop> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.rest().chars().next().ok_or(Stop::End)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Wrong(format!("values inside each other deeper than {MAX_DEPTH}")));
        }
        let first = self.peek()?;
        for quote in QUOTES {
            let rest = self.rest();
            if let Some(behind) = rest.strip_prefix(quote) {
                let (inside, after) = behind.split_once(quote).ok_or(Stop::End)?;
                self.at = self.text.len() - after.len();
                return Ok(Value::String(inside.to_owned()));
            }
            if quote.starts_with(rest) {
                return Err(Stop::End);
            }
        }
        match first {
            '{' => self.mapping(depth),
            '[' => self.items(depth),
            _ => self.word(),
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Stop> {
        self.at += 1;
        let mut map = Map::new();
        loop {
            match self.peek()? {
                '}' => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                ',' => self.at += 1,
                _ => {
                    let key = self.key()?;
                    let value = self.value(depth + 1)?;
                    map.insert(key, value);
                    if !matches!(self.peek()?, ',' | '}') {
                        return Err(Stop::Wrong("expected `,` or `}` behind a value".into()));
                    }
                }
            }
        }
    }

    /// A key and its colon; keys may be quoted.
    fn key(&mut self) -> Result<String, Stop> {
        let rest = self.rest();
        if QUOTES.iter().any(|q| rest.starts_with(q) || q.starts_with(rest)) {
            let Value::String(key) = self.value(MAX_DEPTH)? else { return Err(Stop::Wrong("expected a key".into())) };
            return match self.peek()? {
                ':' => {
                    self.at += 1;
                    Ok(key)
                }
                c => Err(Stop::Wrong(format!("found `{c}`, expected `:` behind a key"))),
            };
        }
        let end = rest.find([':', ',', '{', '}', '[', ']']).ok_or(Stop::End)?;
        let (key, behind) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if !behind.starts_with(':') || key.trim().is_empty() {
            return Err(Stop::Wrong("expected `key:value`".into()));
        }
        self.at += end + 1;
        Ok(key.trim().to_owned())
    }

    fn items(&mut self, depth: usize) -> Result<Value, Stop> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            match self.peek()? {
                ']' => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                ',' => self.at += 1,
                _ => {
                    items.push(self.value(depth + 1)?);
                    if !matches!(self.peek()?, ',' | ']') {
                        return Err(Stop::Wrong("expected `,` or `]` behind a value".into()));
                    }
                }
            }
        }
    }

    /// A number, a truth value, none, or text without quotes.
    fn word(&mut self) -> Result<Value, Stop> {
        let rest = self.rest();
        let end = rest.find([',', '}', ']']).ok_or(Stop::End)?;
        self.at += end;
        let word = rest.get(..end).unwrap_or_default().trim();
        Ok(match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" | "None" => Value::Null,
            "" => return Err(Stop::Wrong("expected a value".into())),
            word => match (word.parse::<i64>(), word.parse::<f64>().ok().and_then(Number::from_f64)) {
                (Ok(n), _) => n.into(),
                (_, Some(n)) => Value::Number(n),
                _ => Value::String(word.to_owned()),
            },
        })
    }
}
