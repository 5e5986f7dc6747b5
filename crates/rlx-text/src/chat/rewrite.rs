//! Template source → the same template with its costs made visible.
//!
//! The engine counts interpreter steps, but one step may double a string or copy a megabyte of literal text.
//! So that [`super::budget`] sees every byte, each operand of an expression is passed through a filter that
//! charges its size, both sides of `*` through filters that charge the product, and literal text carries a
//! charge in its middle, where white-space control does not reach.  Slices become calls of
//! [`super::python::slice`], whose bounds are Python's.
//!
//! `{% generation %}` … `{% endgeneration %}` (transformers' marks of what the assistant wrote) become a plain
//! scope.  Nothing else changes: line numbers and white space stay.

use super::budget::{DEEP, TEXT};
use super::expression::{Expression, Role, split_binding};

/// Literal text up to this many bytes is not charged.
pub(super) const FREE_TEXT: usize = 48;
/// White space that cannot be charged may be this long.
const MAX_BLANK: usize = 1024;

/// Blocks inside each other, each `elif` one more: the engine takes them as such.
const MAX_BLOCKS: usize = 100;

/// Counts blocks inside each other.
#[derive(Default)]
struct Blocks {
    /// How many levels each open block is.
    open: Vec<usize>,
    depth: usize,
}

impl Blocks {
    fn see(&mut self, tag: &str) -> Result<(), String> {
        match name_of(tag) {
            "if" | "for" | "macro" | "call" | "filter" | "with" | "block" | "autoescape" | "generation" => {
                self.open.push(1);
                self.depth += 1;
            }
            "set" if !tag.contains('=') => {
                self.open.push(1);
                self.depth += 1;
            }
            "elif" => {
                if let Some(levels) = self.open.last_mut() {
                    *levels += 1;
                    self.depth += 1;
                }
            }
            name if name.starts_with("end") => self.depth -= self.open.pop().unwrap_or(0),
            _ => {}
        }
        if self.depth > MAX_BLOCKS {
            return Err(format!("blocks inside each other deeper than {MAX_BLOCKS}"));
        }
        Ok(())
    }
}

/// `source` with its charges.
///
/// # Errors
/// Says what the source holds too much of.
pub(super) fn charged(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    // White space behind a tag that ends in `-` is never output.
    let mut stripped = false;
    let mut blocks = Blocks::default();
    loop {
        let at = next_tag(rest);
        let (text, tail) = rest.split_at(at.unwrap_or(rest.len()));
        let next_strips = tail.as_bytes().get(2) == Some(&b'-');
        literal(text, stripped || next_strips, &mut out)?;
        if at.is_none() {
            return Ok(out);
        }
        let (kind, close) = match tail.as_bytes().get(1) {
            Some(b'{') => (b'{', end_of(tail, "}}")),
            Some(b'%') => (b'%', end_of(tail, "%}")),
            _ => (b'#', tail.find("#}").map(|e| e + 2)),
        };
        // An unclosed tag is the engine's error to report.
        let Some((tag, behind)) = close.and_then(|c| tail.split_at_checked(c)) else {
            out.push_str(tail);
            return Ok(out);
        };
        stripped = tag.len() > 4 && tag.as_bytes().get(tag.len() - 3) == Some(&b'-');
        rest = behind;
        match kind {
            b'{' => variable(tag, &mut out)?,
            b'%' if name_of(tag) == "raw" => (rest, stripped) = raw(tag, behind, &mut out)?,
            b'%' => {
                blocks.see(tag)?;
                block(tag, &mut out)?;
            }
            _ => out.push_str(tag),
        }
    }
}

/// Whether the engine can count lines and columns: both are 16 bits.
///
/// # Errors
/// Says what there is too much of.
pub(super) fn countable(source: &str) -> Result<(), String> {
    const MOST: usize = 60_000;
    let lines = source.split('\n').count();
    let longest = source.split('\n').map(str::len).max().unwrap_or(0);
    if lines > MOST {
        return Err(format!("{lines} lines, expected at most {MOST}"));
    }
    if longest > MOST {
        return Err(format!("a line of {longest} bytes (with its charges), expected at most {MOST}"));
    }
    Ok(())
}

/// Where the next `{{`, `{%` or `{#` begins.
fn next_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&at| bytes.get(at) == Some(&b'{') && matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#')))
}

/// Where `close` ends the tag, skipping quoted strings.
fn end_of(tag: &str, close: &str) -> Option<usize> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0usize);
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            // The brace that closes a mapping is not the end: `{{ {'a': {}}}}`.
            None if close == "}}" && c == '}' && depth > 0 => depth -= 1,
            None if tag.get(at..).is_some_and(|t| t.starts_with(close)) => return Some(at + close.len()),
            None if c == '{' => depth += 1,
            None => {}
        }
    }
    None
}

/// The tag without its delimiters: opening, inside, closing.
fn parts(tag: &str) -> (&str, &str, &str) {
    let open = if matches!(tag.as_bytes().get(2), Some(b'-' | b'+')) { 3 } else { 2 };
    let inside = tag.get(open..tag.len().saturating_sub(2)).unwrap_or_default();
    let end = if inside.ends_with(['-', '+']) { 3 } else { 2 };
    let cut = tag.len().saturating_sub(end).max(open);
    (tag.get(..open).unwrap_or_default(), tag.get(open..cut).unwrap_or_default(), tag.get(cut..).unwrap_or_default())
}

fn name_of(tag: &str) -> &str {
    let inside = parts(tag).1.trim_start();
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    inside.get(..end).unwrap_or_default()
}

/// Literal text, with its charge.
fn literal(text: &str, stripped: bool, out: &mut String) -> Result<(), String> {
    let blank = text.trim().is_empty();
    if text.len() <= FREE_TEXT || (stripped && blank) {
        out.push_str(text);
        return Ok(());
    }
    let at = match text.find(|c: char| !c.is_whitespace()) {
        Some(at) => at,
        // Between the first and the last line end, out of reach of trimming.
        None => match (text.find('\n'), text.rfind('\n')) {
            (Some(first), Some(last)) if last > first + 1 => last,
            _ if text.len() <= MAX_BLANK => {
                out.push_str(text);
                return Ok(());
            }
            _ => return Err(format!("{} bytes of white space in one line, expected at most {MAX_BLANK}", text.len())),
        },
    };
    let (before, behind) = text.split_at_checked(at).unwrap_or((text, ""));
    out.push_str(before);
    out.push_str(&format!("{{{{ ''|{TEXT}({}) }}}}", text.len()));
    out.push_str(behind);
    Ok(())
}

/// A raw block; returns what follows it, and whether the white space there is dropped.
fn raw<'s>(tag: &str, behind: &'s str, out: &mut String) -> Result<(&'s str, bool), String> {
    out.push_str(tag);
    let mut from = 0;
    while let Some(at) = behind.get(from..).and_then(|t| t.find("{%")).map(|at| at + from) {
        let Some(end) = behind.get(at..).and_then(|t| t.find("%}")).map(|end| at + end + 2) else { break };
        let close = behind.get(at..end).unwrap_or_default();
        if close.len() > 4 && name_of(close) == "endraw" {
            if at > MAX_BLANK {
                return Err(format!("a raw block of {at} bytes, expected at most {MAX_BLANK}"));
            }
            let (inside, rest) = behind.split_at_checked(end).unwrap_or((behind, ""));
            out.push_str(inside);
            return Ok((rest, close.ends_with("-%}")));
        }
        from = at + 2;
    }
    out.push_str(behind);
    Ok(("", false))
}

fn variable(tag: &str, out: &mut String) -> Result<(), String> {
    let (open, inside, close) = parts(tag);
    out.push_str(open);
    Expression::new(inside, Role::Value).write(out)?;
    out.push_str(close);
    Ok(())
}

fn block(tag: &str, out: &mut String) -> Result<(), String> {
    let (open, inside, close) = parts(tag);
    let name = name_of(tag);
    let lead = inside.len() - inside.trim_start().len();
    let (head, body) = inside.split_at(lead + name.len());
    out.push_str(open);
    let role = match name {
        "if" | "elif" | "with" => Some(Role::Value),
        "macro" | "call" => Some(Role::Definition),
        "do" | "filter" | "include" | "import" | "from" | "extends" => Some(Role::Fixed),
        _ => None,
    };
    match (name, role) {
        (_, Some(role)) => {
            out.push_str(head);
            Expression::new(body, role).write(out)?;
        }
        ("generation" | "endgeneration", _) => out.push_str(&inside.replacen("generation", "with", 1)),
        ("set" | "for", _) => {
            out.push_str(head);
            binding(name, body, out)?;
        }
        _ => out.push_str(inside),
    }
    out.push_str(close);
    Ok(())
}

/// `targets = value` or `targets in value`.
fn binding(name: &str, body: &str, out: &mut String) -> Result<(), String> {
    let (targets, value) = split_binding(body, name);
    out.push_str(targets);
    // What goes into a namespace outlives the loop: it is looked at as a whole.
    let attribute = name == "set" && targets.contains('.');
    let role = match name {
        "for" => Role::Loop,
        // A block `set` has no value, only a name and filters.
        _ if targets.is_empty() => Role::Fixed,
        _ => Role::Value,
    };
    out.push_str(if attribute { "(" } else { "" });
    Expression::new(value, role).write(out)?;
    if attribute {
        out.push_str(&format!(")|{DEEP}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::budget::{CHARGE, FACTOR, FACTOR_CHAIN, ITERATE, PRODUCT, SLICE};
    use super::*;

    fn plain(source: &str) -> String {
        charged(source).expect("sound").replace(&format!("|{CHARGE}"), "")
    }

    #[test]
    fn only_generation_tags_change() {
        let cases = [
            ("a{%- generation -%}b{% endgeneration %}c", "a{%- with -%}b{% endwith %}c"),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            ("{# {% generation %} #}x", "{# {% generation %} #}x"),
            ("{% raw %}{% generation %}{{ {% endraw %}{%+ generation %}", "{% raw %}{% generation %}{{ {% endraw %}{%+ with %}"),
            ("{% set a = '%}' %}{%generation%}", "{% set a = '%}' %}{%with%}"),
            ("{ é {% unclosed", "{ é {% unclosed"),
            ("{% generation_mode %}", "{% generation_mode %}"),
            ("{{ \"\\\"}}\" }}{", "{{ \"\\\"}}\" }}{"),
        ];
        for (source, expected) in cases {
            assert_eq!(plain(source), expected);
        }
    }

    #[test]
    fn operands_are_charged_where_they_end() {
        let cases = [
            ("{{ a.b[0].c(d, e=f)|g }}", "{{ a.b[0].c(d|C, e=f|C)|g|C }}"),
            ("{{ 'x' ~ a if (b) else -c }}", "{{ 'x' ~ a|C if (b|C)|C else -c|C }}"),
            ("{{ a is not divisibleby(3) and b is in [c] }}", "{{ a|C is not divisibleby(3) and b|C is in [c|C] }}"),
            ("{{ 'x' * 3 * n }}", "{{ 'x'|F * 3|P|G * n|C|P }}"),
            ("{% set ns.a, b = {'k': v} %}", "{% set ns.a, b =( ({'k': v|C}|D)|C )|D%}"),
            ("{% for a, b in x.items() recursive %}", "{% for a, b in x.items()|C|I recursive %}"),
            ("{{ a[1:] ~ b[::-1] ~ c[:n] }}", "{{ (a|S(1, none))|C ~ (b|S(none, none, -1))|C ~ (c|S(none, n|C))|C }}"),
            ("{% macro m(a, b='x' * 3) %}", "{% macro m(a, b='x'|F * 3|P) %}"),
        ];
        for (source, expected) in cases {
            let mut found = charged(source).expect("sound");
            for (name, short) in
                [(CHARGE, "C"), (DEEP, "D"), (FACTOR_CHAIN, "G"), (FACTOR, "F"), (PRODUCT, "P"), (SLICE, "S"), (ITERATE, "I")]
            {
                found = found.replace(&format!("|{name}"), &format!("|{short}"));
            }
            assert_eq!(found, expected);
        }
    }
}
