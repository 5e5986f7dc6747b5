//! GBNF, llama.cpp's grammar format → Lark.
//!
//! Rules, alternatives, sequences, groups, literals, classes of characters, `.`, and the repetitions
//! `* + ? {m} {m,} {m,n}`.
//!
//! GBNF has no lexer: a character may belong to several classes and literals at once.  The Lark dialect has one,
//! which takes a single terminal at a place.  So all characters are cut into ranges that no class divides; each
//! range is a terminal, a class is a rule over its ranges, a literal a sequence of such rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Groups inside each other.
const MAX_DEPTH: usize = 64;
/// Highest number of a repetition.
const MAX_REPEAT: u32 = 10_000;
/// Different classes of characters, and ranges that they are made of.
const MAX_CLASSES: usize = 1000;
/// The last character.
const LAST: u32 = 0x10FFFF;

/// Whether a grammar is GBNF rather than Lark.
pub(super) fn looks_like(text: &str) -> bool {
    text.lines().map(|l| l.split('#').next().unwrap_or_default()).any(|l| l.contains("::="))
}

/// The same grammar in Lark.
///
/// # Errors
/// Says in which line what was expected.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let mut reader = Reader { text, at: 0, names: BTreeMap::new(), classes: BTreeMap::new() };
    let mut rules: Vec<(String, String)> = Vec::new();
    reader.space(true);
    while !reader.rest().is_empty() {
        let name = reader.name()?;
        reader.space(true);
        reader.expect("::=")?;
        reader.space(true);
        let body = reader.alternatives(0)?;
        rules.push((reader.rule(name), body));
        reader.space(true);
    }
    let root = reader.rule("root");
    if !rules.iter().any(|(name, _)| *name == root) {
        return Err("no rule `root`, where GBNF begins".into());
    }
    let mut out = format!("start: {root}\n");
    for (name, body) in rules {
        let _ = writeln!(out, "{name}: {body}");
    }
    terminals(&reader.classes, &mut out)?;
    Ok(out)
}

/// Sorted ranges of characters, first and last, that do not touch.
type Class = Vec<(u32, u32)>;

/// Writes the ranges that no class divides, and each class as a choice of them.
fn terminals(classes: &BTreeMap<Class, usize>, out: &mut String) -> Result<(), String> {
    let mut cuts: Vec<u32> = classes.keys().flatten().flat_map(|&(from, to)| [from, to + 1]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    if cuts.len() > MAX_CLASSES || classes.len() > MAX_CLASSES {
        return Err(format!("more than {MAX_CLASSES} different classes of characters"));
    }
    // The last cut is behind the last class.
    let atoms: Vec<(u32, u32)> = cuts.windows(2).filter_map(|w| Some((*w.first()?, w.last()?.checked_sub(1)?))).collect();
    for (n, &(from, to)) in atoms.iter().enumerate() {
        let _ = writeln!(out, "A{n}: /[\\x{{{:x}}}-\\x{{{:x}}}]/", above_surrogates(from), below_surrogates(to));
    }
    for (class, n) in classes {
        let inside = |&(from, to): &(u32, u32)| class.iter().any(|&(a, b)| a <= from && to <= b);
        let names: Vec<String> = atoms.iter().enumerate().filter(|(_, a)| inside(a)).map(|(n, _)| format!("A{n}")).collect();
        let _ = writeln!(out, "c{n}: {}", names.join(" | "));
    }
    Ok(())
}

/// Surrogates are no characters: ranges end before them and begin behind them.
fn below_surrogates(c: u32) -> u32 {
    if (0xD800..0xE000).contains(&c) { 0xD7FF } else { c }
}

fn above_surrogates(c: u32) -> u32 {
    if (0xD800..0xE000).contains(&c) { 0xE000 } else { c }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// GBNF name → number, which makes the Lark name: GBNF tells `a-b`, `a_b` and `A` apart.
    names: BTreeMap<&'t str, usize>,
    /// Classes of characters by number.
    classes: BTreeMap<Class, usize>,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, expected: &str) -> String {
        let line = self.text.get(..self.at).unwrap_or_default().matches('\n').count() + 1;
        let found: String = self.rest().chars().take(20).collect();
        format!("line {line}: found `{}`, expected {expected}", found.escape_debug())
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if !self.rest().starts_with(text) {
            return Err(self.wrong(&format!("`{text}`")));
        }
        self.at += text.len();
        Ok(())
    }

    /// Skips blanks and comments; `lines` also line ends.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => {}
                '\r' | '\n' if lines => {}
                '#' => {
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                    continue;
                }
                _ => return,
            }
            self.at += 1;
        }
    }

    fn name(&mut self) -> Result<&'t str, String> {
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.wrong("the name of a rule"));
        }
        self.at += len;
        Ok(rest.get(..len).unwrap_or_default())
    }

    fn rule(&mut self, name: &'t str) -> String {
        let next = self.names.len();
        format!("r{}", self.names.entry(name).or_insert(next))
    }

    fn alternatives(&mut self, depth: usize) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(&format!("groups inside each other of at most {MAX_DEPTH} levels")));
        }
        let mut out = self.sequence(depth)?;
        while self.peek() == Some('|') {
            self.at += 1;
            self.space(true);
            let _ = write!(out, " | {}", self.sequence(depth)?);
        }
        Ok(out)
    }

    fn sequence(&mut self, depth: usize) -> Result<String, String> {
        let mut items: Vec<String> = Vec::new();
        loop {
            let item = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    self.named(vec![(0, LAST)])
                }
                Some('(') => {
                    self.at += 1;
                    self.space(true);
                    let inner = self.alternatives(depth + 1)?;
                    self.expect(")")?;
                    format!("({inner})")
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '_' => {
                    let before = self.at;
                    let name = self.name()?;
                    let behind = self.at;
                    self.space(true);
                    if self.rest().starts_with("::=") {
                        // The next rule.
                        self.at = before;
                        break;
                    }
                    self.at = behind;
                    self.rule(name)
                }
                _ => break,
            };
            let repeat = self.repeat()?;
            items.push(item + &repeat);
            // A group may go on over lines, and so may a rule.
            self.space(true);
        }
        Ok(if items.is_empty() { "\"\"".into() } else { items.join(" ") })
    }

    fn repeat(&mut self) -> Result<String, String> {
        match self.peek() {
            Some(c @ ('*' | '+' | '?')) => {
                self.at += 1;
                Ok(c.into())
            }
            Some('{') => {
                self.at += 1;
                let from = self.number()?;
                let to = if self.peek() == Some(',') {
                    self.at += 1;
                    if self.peek() == Some('}') { None } else { Some(self.number()?) }
                } else {
                    Some(from)
                };
                self.expect("}")?;
                Ok(to.map_or_else(|| format!("{{{from},}}"), |to| format!("{{{from},{to}}}")))
            }
            _ => Ok(String::new()),
        }
    }

    fn number(&mut self) -> Result<u32, String> {
        let rest = self.rest();
        let digits = rest.get(..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())).unwrap_or_default();
        let n = digits.parse().ok().filter(|&n| n <= MAX_REPEAT).ok_or_else(|| self.wrong(&format!("a number up to {MAX_REPEAT}")))?;
        self.at += digits.len();
        Ok(n)
    }

    /// A character, with GBNF's escapes.
    fn character(&mut self) -> Result<char, String> {
        let c = self.take().ok_or_else(|| self.wrong("a character"))?;
        if c != '\\' {
            return Ok(c);
        }
        let escape = self.take().ok_or_else(|| self.wrong("an escape"))?;
        let digits = match escape {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c if !c.is_ascii_alphanumeric() => return Ok(c),
            _ => return Err(self.wrong("an escape of GBNF before this")),
        };
        let code = self.rest().get(..digits).and_then(|d| u32::from_str_radix(d, 16).ok()).and_then(char::from_u32);
        let code = code.ok_or_else(|| self.wrong(&format!("{digits} hexadecimal digits of a character")))?;
        self.at += digits;
        Ok(code)
    }

    fn literal(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut names = Vec::new();
        while self.peek() != Some('"') {
            let c = u32::from(self.character()?);
            names.push(self.named(vec![(c, c)]));
        }
        self.at += 1;
        // In brackets, so that a repetition takes all of it.
        Ok(if names.is_empty() { "\"\"".into() } else { format!("({})", names.join(" ")) })
    }

    fn class(&mut self) -> Result<String, String> {
        self.at += 1;
        let negated = self.peek() == Some('^');
        self.at += usize::from(negated);
        let mut ranges = Class::new();
        while self.peek() != Some(']') {
            let from = self.character()?;
            let mut to = from;
            if self.peek() == Some('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                to = self.character()?;
                if to < from {
                    return Err(self.wrong("a range that ends after it begins"));
                }
            }
            ranges.push((from.into(), to.into()));
        }
        self.at += 1;
        let ranges = merged(ranges);
        let ranges = if negated { others(&ranges) } else { ranges };
        if ranges.is_empty() {
            return Err(self.wrong("a class with characters before this"));
        }
        Ok(self.named(ranges))
    }

    /// The rule of a class.
    fn named(&mut self, class: Class) -> String {
        let next = self.classes.len();
        format!("c{}", self.classes.entry(class).or_insert(next))
    }
}

/// Sorted, with those joined that overlap or touch.
fn merged(mut ranges: Class) -> Class {
    ranges.sort_unstable();
    let mut out = Class::new();
    for (from, to) in ranges {
        match out.last_mut() {
            Some((_, end)) if from <= end.saturating_add(1) => *end = to.max(*end),
            _ => out.push((from, to)),
        }
    }
    out
}

/// All characters outside the ranges.
fn others(ranges: &Class) -> Class {
    let mut out = Class::new();
    let mut from = 0;
    for &(a, b) in ranges {
        if a > from {
            out.push((from, a - 1));
        }
        from = b + 1;
    }
    if from <= LAST {
        out.push((from, LAST));
    }
    out
}
