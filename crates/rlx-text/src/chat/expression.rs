//! An expression of a template → the same expression with charges behind its operands.
//!
//! One pass over the tokens, without a parser: what is charged is where an operand ends, and that the tokens
//! tell.  See [`super::rewrite`] for what the charges are.

use super::budget::{CHARGE, CONCATENATED, FACTOR, FACTOR_CHAIN, GATHER, ITERATE, JOINED, MADE, PRODUCT, SLICE, WRITTEN};
use super::rewrite::FREE_TEXT;

/// Brackets inside each other.
const MAX_NESTING: usize = 150;
/// Operators, attributes and filters behind each other, brackets included: each is one level for the engine.
const MAX_DEPTH: usize = 400;
/// Signs and negations before one operand.
const MAX_UNARY: usize = 16;
/// Slices of one operand, behind each other.
const MAX_SLICES: usize = 32;
/// Names, signs and blanks before the `=` or `in` of a tag.
const MAX_TARGETS: usize = 256;
/// Names, signs and literals of one expression.
const MAX_TOKENS: usize = 4096;

/// `a, b = value` → targets with the sign, value.  A block `set` has no value: all of it is the second part.
///
/// # Errors
/// There are too many targets.
pub(super) fn split_binding<'t>(body: &'t str, kind: &str) -> Result<(&'t str, &'t str), String> {
    let mut depth = 0usize;
    for (n, t) in Tokens::new(body).enumerate() {
        if n > MAX_TARGETS {
            return Err(format!("more than {MAX_TARGETS} names and signs before the value of `{kind}`"));
        }
        match t.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "=" if kind == "set" && depth == 0 => return Ok(body.split_at(t.at + 1)),
            "in" if kind == "for" && depth == 0 && n > 0 => return Ok(body.split_at(t.at + 2)),
            _ => {}
        }
    }
    Ok(("", body))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Name,
    Number,
    Text,
    Sign,
    Blank,
}

#[derive(Clone, Copy, Debug)]
struct Token<'t> {
    kind: Kind,
    text: &'t str,
    at: usize,
}

/// Cuts an expression; what is no token of the language is a sign of one character.
#[derive(Clone)]
struct Tokens<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Tokens<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// The next token that is not blank, which stays to come.
    fn solid(&self) -> Option<Token<'t>> {
        self.clone().find(|t| t.kind != Kind::Blank)
    }

    /// Whether a colon stands directly inside the bracket that is open here.
    fn colon(&self) -> bool {
        let mut depth = 0;
        for t in self.clone() {
            match t.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" if depth == 0 => return false,
                ")" | "]" | "}" => depth -= 1,
                ":" if depth == 0 => return true,
                // Deeper is refused when it is written.
                _ if depth > MAX_NESTING => return false,
                _ => {}
            }
        }
        false
    }
}

impl<'t> Iterator for Tokens<'t> {
    type Item = Token<'t>;

    fn next(&mut self) -> Option<Token<'t>> {
        let at = self.at;
        let rest = self.text.get(at..).filter(|r| !r.is_empty())?;
        let first = rest.chars().next().unwrap_or(' ');
        let run = |ok: &dyn Fn(char) -> bool| rest.find(|c: char| !ok(c)).unwrap_or(rest.len());
        let (kind, len) = match first {
            c if c.is_whitespace() => (Kind::Blank, run(&char::is_whitespace)),
            '\'' | '"' => (Kind::Text, quoted(rest, first)),
            c if c.is_ascii_digit() => (Kind::Number, number(rest)),
            c if c.is_ascii_alphabetic() || c == '_' => (Kind::Name, run(&|c| c.is_ascii_alphanumeric() || c == '_')),
            c => {
                let pair = ["**", "//", "==", "!=", "<=", ">="].iter().any(|p| rest.starts_with(p));
                (Kind::Sign, if pair { 2 } else { c.len_utf8() })
            }
        };
        self.at += len.max(1);
        Some(Token { kind, text: rest.get(..len).unwrap_or(rest), at })
    }
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Digits, and a fraction or an exponent; `1.x` is an attribute of a number.
fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
            let exponent = matches!(bytes.get(at), Some(b'e' | b'E')) && matches!(bytes.get(at + 1), Some(b'+' | b'-'));
            at += if exponent && !text.starts_with("0x") { 2 } else { 1 };
        }
        at
    };
    let end = digits(0);
    match (bytes.get(end), bytes.get(end + 1)) {
        (Some(b'.'), Some(b)) if b.is_ascii_digit() => digits(end + 1),
        _ => end,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Operand,
    Operator,
}

/// What is known inside one pair of brackets.
struct Frame {
    /// The close sign that is written in place of the bracket's own.
    close: &'static str,
    /// Commas between bounds instead of colons.
    slice: bool,
    /// The last thing written in a slice is a bound.
    bound: bool,
    expect: Expect,
    /// Where the latest operand begins in the output.
    start: usize,
    /// Slices of it so far.
    slices: usize,
    /// Levels of the expression so far.
    depth: usize,
    /// Signs and negations before the operand that comes.
    unary: usize,
    /// An operand began and has no charge yet.
    open: bool,
    /// It is a short literal.
    free: bool,
    /// It is a name and nothing else.
    bare: bool,
    /// A call, a filter or a slice made it.
    made: bool,
    /// It is the right side of `~` or `+`.
    joined: Option<&'static str>,
    /// It is the right side of `*`.
    factor: bool,
    charge: bool,
}

impl Frame {
    fn new(close: &'static str, charge: bool) -> Self {
        Frame {
            close,
            slice: false,
            bound: false,
            expect: Expect::Operand,
            start: 0,
            slices: 0,
            depth: 0,
            unary: 0,
            open: false,
            free: false,
            bare: false,
            made: false,
            joined: None,
            factor: false,
            charge,
        }
    }

    /// Counts what `t` adds to the levels.
    fn deepen(&mut self, t: Token<'_>, operand: bool) -> Result<(), String> {
        let unary = operand && matches!(t.text, "not" | "-" | "+");
        self.unary = if unary { self.unary + 1 } else { 0 };
        let closes = matches!(t.text, ")" | "]" | "}" | "," | ":");
        if !operand && !closes && t.kind != Kind::Number && t.kind != Kind::Text {
            self.depth += 1;
        }
        if self.unary > MAX_UNARY {
            return Err(format!("more than {MAX_UNARY} signs before one value"));
        }
        if self.depth > MAX_DEPTH {
            return Err(format!("an expression of more than {MAX_DEPTH} levels; nothing readable is nested deeper"));
        }
        Ok(())
    }

    fn begin(&mut self, start: usize, free: bool, bare: bool) {
        (self.expect, self.open, self.free, self.bare) = (Expect::Operator, true, free, bare);
        (self.start, self.slices, self.bound, self.unary, self.made) = (start, 0, true, 0, false);
    }
}

/// An expression on its way through.
pub(super) struct Expression<'t> {
    tokens: Tokens<'t>,
    frames: Vec<Frame>,
    /// What the outermost operand is, where that matters.
    role: Role,
}

/// What the outermost operands of an expression are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Values.
    Value,
    /// A call or a name that must stay as it is; only what is inside brackets is charged.
    Fixed,
    /// The same, and names directly inside the outermost brackets are parameters.
    Definition,
    /// The first is what a loop runs over: none is refused, as Python does.
    Loop,
}

/// A list or mapping written out is looked at as a whole.
const LIST_END: &str = "]|_l)";
const MAPPING_END: &str = "}|_l)";

/// The sign, if it makes one value of two.
fn join_of(sign: &str) -> Option<&'static str> {
    ["~", "+"].into_iter().find(|s| *s == sign)
}

const OPERATORS: &[&str] = &["and", "or", "in", "if", "else", "is", "not"];

impl<'t> Expression<'t> {
    pub(super) fn new(text: &'t str, role: Role) -> Self {
        let charge = matches!(role, Role::Value | Role::Loop);
        Self { tokens: Tokens::new(text), frames: vec![Frame::new("", charge)], role }
    }

    /// # Errors
    /// Says what the expression has too much of.
    pub(super) fn write(mut self, out: &mut String) -> Result<(), String> {
        let (mut skip_name, mut n, start) = (false, 0, out.len());
        while let Some(t) = self.tokens.next() {
            if t.kind == Kind::Blank {
                out.push_str(t.text);
                continue;
            }
            n += 1;
            if n > MAX_TOKENS {
                return Err(format!("an expression of more than {MAX_TOKENS} names, signs and values"));
            }
            if self.role == Role::Loop && self.frames.len() == 1 && !skip_name && matches!(t.text, "if" | "recursive") {
                self.end_iterable(start, n > 1, t.text, out);
            }
            let next = self.tokens.solid();
            let Some(frame) = self.frames.last_mut() else { return Ok(()) };
            let operand = frame.expect == Expect::Operand;
            frame.deepen(t, operand)?;
            match (t.kind, t.text) {
                _ if skip_name && t.kind != Kind::Sign => {
                    // Name of an attribute, a filter or a test.
                    skip_name = t.text == "not";
                    out.push_str(t.text);
                }
                (Kind::Sign, "(" | "[" | "{") => {
                    skip_name = false;
                    self.open_bracket(t, operand, out)?;
                    continue;
                }
                (Kind::Sign, ")" | "]" | "}") => {
                    if frame.slice && !frame.bound {
                        out.push_str("none");
                    }
                    out.push_str(if frame.close.is_empty() { t.text } else { frame.close });
                    let depth = frame.depth + 1;
                    if self.frames.len() > 1 {
                        self.frames.pop();
                    }
                    if let Some(outer) = self.frames.last_mut() {
                        outer.depth = outer.depth.max(depth);
                    }
                }
                (Kind::Sign, "." | "|") if !operand => {
                    (frame.free, frame.bare, skip_name) = (false, false, true);
                    frame.made |= t.text == "|";
                    out.push_str(t.text);
                    continue;
                }
                (Kind::Sign, ":") if frame.slice => {
                    out.push_str(if frame.bound { ", " } else { "none, " });
                    (frame.bound, frame.expect, frame.joined, frame.factor) = (false, Expect::Operand, None, false);
                    continue;
                }
                (Kind::Name, "is") if !operand => {
                    (skip_name, frame.joined, frame.factor) = (true, None, false);
                    out.push_str(t.text);
                    continue;
                }
                (Kind::Name, word) if OPERATORS.contains(&word) => {
                    (frame.expect, frame.joined, frame.factor) = (Expect::Operand, None, false);
                    out.push_str(t.text);
                    continue;
                }
                (Kind::Sign, sign) => {
                    // A sign before an operand keeps what the operand is a factor of.
                    let unary = operand && matches!(sign, "-" | "+");
                    if !unary {
                        (frame.joined, frame.factor) = (join_of(sign), sign == "*");
                    }
                    frame.expect = Expect::Operand;
                    out.push_str(t.text);
                    continue;
                }
                (kind, text) => {
                    if operand {
                        frame.begin(out.len(), kind != Kind::Name && text.len() < FREE_TEXT, kind == Kind::Name);
                    }
                    out.push_str(text);
                }
            }
            self.end_operand(next, out);
        }
        self.end_iterable(start, n > 0, "", out);
        Ok(())
    }

    /// Writes the check of what a loop runs over, which is all since `start`.
    fn end_iterable(&mut self, start: usize, some: bool, next: &str, out: &mut String) {
        if self.role == Role::Loop && some {
            out.insert(start.min(out.len()), '(');
            out.push_str(&format!(")|{} ", if next == "if" { GATHER } else { ITERATE }));
            self.role = Role::Value;
        }
    }

    fn open_bracket(&mut self, t: Token<'t>, operand: bool, out: &mut String) -> Result<(), String> {
        if self.frames.len() > MAX_NESTING {
            return Err(format!("brackets inside each other deeper than {MAX_NESTING}"));
        }
        let slice = !operand && t.text == "[" && self.tokens.colon();
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        if operand {
            frame.begin(out.len(), false, false);
        }
        (frame.free, frame.bare) = (false, false);
        frame.made |= slice || (!operand && t.text == "(");
        let close = match t.text {
            _ if slice => {
                frame.slices += 1;
                if frame.slices > MAX_SLICES {
                    return Err(format!("more than {MAX_SLICES} slices of one value"));
                }
                // A filter takes no attribute or index behind it: the slice stands in brackets of its own.
                out.insert(frame.start.min(out.len()), '(');
                out.push_str(&format!("|{SLICE}("));
                "))"
            }
            "[" | "{" if operand => {
                out.push('(');
                out.push_str(t.text);
                if t.text == "[" { LIST_END } else { MAPPING_END }
            }
            text => {
                out.push_str(text);
                ""
            }
        };
        self.frames.push(Frame { slice, ..Frame::new(close, true) });
        Ok(())
    }

    /// Writes the charge of the operand that ends before `next`, if one does.
    fn end_operand(&mut self, next: Option<Token<'t>>, out: &mut String) {
        let parameter = self.role == Role::Definition && self.frames.len() == 2;
        let Some(frame) = self.frames.last_mut() else { return };
        let goes_on = next.is_some_and(|t| matches!(t.text, "." | "|" | "(" | "[") || (t.kind == Kind::Text && frame.free));
        if !frame.open || goes_on {
            return;
        }
        frame.open = false;
        let keyword = frame.bare && (parameter || next.is_some_and(|t| t.text == "="));
        if !frame.charge || keyword {
            return;
        }
        if !frame.free {
            let (before, behind) = (frame.joined, next.and_then(|t| join_of(t.text)));
            // A list on the left of `in` is written out when the right side turns out to be text.
            if next.is_some_and(|t| matches!(t.text, "in" | "not")) {
                out.push_str(&format!("|{WRITTEN}"));
            }
            let filter = match (before, behind) {
                (Some("~"), _) | (_, Some("~")) => CONCATENATED,
                (Some(_), _) | (_, Some(_)) => JOINED,
                _ if frame.made => MADE,
                _ => CHARGE,
            };
            out.push_str(&format!("|{filter}"));
        }
        if frame.factor {
            out.push_str(&format!("|{PRODUCT}"));
        }
        if next.is_some_and(|t| t.text == "*") {
            out.push_str(&format!("|{}", if frame.factor { FACTOR_CHAIN } else { FACTOR }));
        }
        (frame.joined, frame.factor) = (None, false);
    }
}
