//! Calls written as Python: `name(key='text', other=[1, True, {'a': None}])`.

use serde_json::{Map, Number, Value};

use super::ToolCall;

/// Values inside each other.
const MAX_DEPTH: usize = 64;

/// Why nothing was read.
#[derive(Debug, PartialEq)]
pub(super) enum Stop {
    /// The text ends here; more of it decides.
    End,
    /// It is no such thing, whatever follows.
    Wrong(String),
}

/// Reads one call or a list of calls in brackets; how many bytes they take.
pub(super) fn calls(text: &str) -> Result<(usize, Vec<ToolCall>), Stop> {
    let mut r = Reader { text, at: 0 };
    r.blank();
    let listed = r.peek()? == '[';
    let mut calls = Vec::new();
    if listed {
        r.at += 1;
        r.blank();
        if r.peek()? == ']' {
            return Err(Stop::Wrong("an empty list of calls".into()));
        }
    }
    loop {
        calls.push(r.call()?);
        if !listed {
            return Ok((r.at, calls));
        }
        r.blank();
        match r.next()? {
            ',' => r.blank(),
            ']' => return Ok((r.at, calls)),
            c => return Err(wrong(c, "`,` or `]` behind a call")),
        }
    }
}

fn wrong(found: char, expected: &str) -> Stop {
    Stop::Wrong(format!("found `{found}`, expected {expected}"))
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Result<char, Stop> {
        self.rest().chars().next().ok_or(Stop::End)
    }

    fn next(&mut self) -> Result<char, Stop> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Ok(c)
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// A name; it has ended only when something follows it.
    fn name(&mut self) -> Result<&'t str, Stop> {
        let rest = self.rest();
        let first = self.peek()?;
        if !(first.is_alphabetic() || first == '_') {
            return Err(wrong(first, "a name"));
        }
        let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))).ok_or(Stop::End)?;
        self.at += end;
        Ok(rest.get(..end).unwrap_or_default())
    }

    fn call(&mut self) -> Result<ToolCall, Stop> {
        let name = self.name()?;
        self.blank();
        match self.next()? {
            '(' => {}
            c => return Err(wrong(c, "`(` behind the name of a call")),
        }
        let mut arguments = Map::new();
        loop {
            self.blank();
            if self.peek()? == ')' {
                self.at += 1;
                // Built-in tools are called as `brave_search.call(…)`.
                let name = name.strip_suffix(".call").unwrap_or(name).to_owned();
                return Ok(ToolCall { name, arguments: Value::Object(arguments) });
            }
            let key = self.name()?.to_owned();
            self.blank();
            match self.next()? {
                '=' => {}
                c => return Err(wrong(c, "`=` behind the name of an argument")),
            }
            let value = self.value(0)?;
            arguments.insert(key, value);
            self.blank();
            match self.peek()? {
                ',' => self.at += 1,
                ')' => {}
                c => return Err(wrong(c, "`,` or `)` behind an argument")),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Wrong(format!("values inside each other deeper than {MAX_DEPTH}")));
        }
        self.blank();
        match self.peek()? {
            '\'' | '"' => self.text().map(Value::String),
            '[' => self.items(']', depth),
            '(' => self.items(')', depth),
            '{' => self.mapping(depth),
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            c if c.is_alphabetic() => match self.name()? {
                "True" | "true" => Ok(Value::Bool(true)),
                "False" | "false" => Ok(Value::Bool(false)),
                "None" | "null" => Ok(Value::Null),
                other => Err(Stop::Wrong(format!("found `{other}`, expected a value"))),
            },
            c => Err(wrong(c, "a value")),
        }
    }

    fn items(&mut self, close: char, depth: usize) -> Result<Value, Stop> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.blank();
            if self.peek()? == close {
                self.at += 1;
                return Ok(Value::Array(items));
            }
            items.push(self.value(depth + 1)?);
            self.blank();
            match self.peek()? {
                ',' => self.at += 1,
                c if c == close => {}
                c => return Err(wrong(c, "`,` or the end of the list")),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Stop> {
        self.at += 1;
        let mut map = Map::new();
        loop {
            self.blank();
            if self.peek()? == '}' {
                self.at += 1;
                return Ok(Value::Object(map));
            }
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            self.blank();
            match self.next()? {
                ':' => {}
                c => return Err(wrong(c, "`:` behind a key")),
            }
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            self.blank();
            match self.peek()? {
                ',' => self.at += 1,
                '}' => {}
                c => return Err(wrong(c, "`,` or `}`")),
            }
        }
    }

    /// A number; it has ended only when something follows it.
    fn number(&mut self) -> Result<Value, Stop> {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_'))).ok_or(Stop::End)?;
        let text = rest.get(..end).unwrap_or_default();
        let plain = text.trim_start_matches('+').replace('_', "");
        let number = match plain.parse::<i64>() {
            Ok(n) => Some(Number::from(n)),
            Err(_) => plain.parse::<f64>().ok().and_then(Number::from_f64),
        };
        self.at += end;
        number.map(Value::Number).ok_or_else(|| Stop::Wrong(format!("found `{text}`, expected a number")))
    }

    fn text(&mut self) -> Result<String, Stop> {
        let quote = self.next()?;
        let mut out = String::new();
        loop {
            match self.next()? {
                c if c == quote => return Ok(out),
                '\\' => self.escape(&mut out)?,
                c => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), Stop> {
        let c = self.next()?;
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                match c {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    '\n' => {}
                    '\\' | '\'' | '"' => out.push(c),
                    // Python keeps escapes that it does not know.
                    c => out.extend(['\\', c]),
                }
                return Ok(());
            }
        };
        let mut code = 0;
        for _ in 0..digits {
            let c = self.next()?;
            code = code * 16 + c.to_digit(16).ok_or_else(|| wrong(c, "a hexadecimal digit"))?;
        }
        out.push(char::from_u32(code).unwrap_or('\u{FFFD}'));
        Ok(())
    }
}
