//! Template source → the same template with its costs made visible.
//!
//! The engine counts interpreter steps, but one step may double a string or copy a megabyte of literal text.
//! So that [`super::budget`] sees every byte, each operand of an expression is passed through a filter that
//! charges its size, both sides of `*` through filters that charge the product, and literal text is charged by the
//! block tag before it: right behind that stands a block of its own, which no white-space control touches.  Text
//! before the first block tag is written once.  Slices become calls of [`super::python::slice`], whose bounds are
//! Python's.
//!
//! `{% generation %}` … `{% endgeneration %}` (transformers' marks of what the assistant wrote) become a plain
//! scope.  Nothing else changes: line numbers and white space stay.

use super::budget::{DEEP, TEXT};
use super::expression::{Expression, Role, split_binding};

/// Texts in expressions up to this many bytes are not charged.
pub(super) const FREE_TEXT: usize = 48;
/// What the engine keeps of a macro until the rendering ends.
const MACRO: usize = 512;
/// Blocks inside each other, each `elif` one more: the engine takes them as such.
const MAX_BLOCKS: usize = 100;
/// Tags of one template; the engine holds some hundred bytes for each.
const MAX_TAGS: usize = 8192;

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

/// What is written, and where the next charge for literal text goes.
struct Charged<'s> {
    out: String,
    /// Behind the latest block tag: where, and the sign that its white-space control is.
    mark: Option<(usize, &'s str)>,
    /// Literal text since then.
    text: usize,
    /// How far lines are counted, how many there are, and where the last one begins.
    seen: usize,
    lines: usize,
    line: usize,
}

impl<'s> Charged<'s> {
    fn new(source: &str) -> Self {
        let out = String::with_capacity(source.len() + source.len() / 2);
        Self { out, mark: None, text: 0, seen: 0, lines: 1, line: 0 }
    }

    /// Writes the charge of the literal text since the latest block tag.
    fn settle(&mut self) {
        if let Some((at, sign)) = self.mark.take()
            && self.text > 0
        {
            let charge = format!("{{% if 0|{TEXT}({}) %}}{{% endif {sign}%}}", self.text);
            self.out.insert_str(at.min(self.out.len()), &charge);
            self.seen += charge.len();
            self.line += if self.line > at { charge.len() } else { 0 };
        }
        self.text = 0;
    }

    /// Whether the engine can count lines and columns: both are 16 bits.
    fn countable(&mut self) -> Result<(), String> {
        const MOST: usize = 60_000;
        for part in self.out.get(self.seen..).unwrap_or_default().split_inclusive('\n') {
            self.seen += part.len();
            let length = self.seen - self.line;
            if length > MOST {
                return Err(format!("a line of {length} bytes (with its charges), expected at most {MOST}"));
            }
            if part.ends_with('\n') {
                (self.lines, self.line) = (self.lines + 1, self.seen);
            }
        }
        if self.lines > MOST {
            return Err(format!("{} lines, expected at most {MOST}", self.lines));
        }
        Ok(())
    }
}

/// `source` with its charges.
///
/// # Errors
/// Says what the source holds too much of.
pub(super) fn charged(source: &str) -> Result<String, String> {
    let mut to = Charged::new(source);
    let mut rest = source;
    // White space behind a tag that ends in `-` is never output.
    let mut stripped = false;
    let mut blocks = Blocks::default();
    let mut tags = 0;
    loop {
        let at = next_tag(rest);
        let (text, tail) = rest.split_at(at.unwrap_or(rest.len()));
        let next_strips = tail.as_bytes().get(2) == Some(&b'-');
        if !((stripped || next_strips) && text.trim().is_empty()) {
            to.text += text.len();
        }
        to.out.push_str(text);
        let (kind, close) = match tail.as_bytes().get(1) {
            Some(b'{') => (b'{', end_of(tail, "}}")),
            Some(b'%') => (b'%', end_of(tail, "%}")),
            _ => (b'#', tail.find("#}").map(|e| e + 2)),
        };
        // An unclosed tag is the engine's error to report.
        let Some((tag, behind)) = close.and_then(|c| tail.split_at_checked(c)) else {
            to.settle();
            to.out.push_str(tail);
            // Charges make lines longer that are counted already.
            (to.seen, to.lines, to.line) = (0, 1, 0);
            to.countable()?;
            return Ok(to.out);
        };
        tags += 1;
        if tags > MAX_TAGS {
            return Err(format!("more than {MAX_TAGS} tags"));
        }
        stripped = tag.len() > 4 && tag.as_bytes().get(tag.len() - 3) == Some(&b'-');
        rest = behind;
        match kind {
            b'{' => variable(tag, &mut to.out)?,
            b'%' if name_of(tag) == "raw" => (rest, stripped) = raw(tag, behind, &mut to),
            b'%' => {
                to.settle();
                blocks.see(tag)?;
                block(tag, &mut to.out)?;
                to.mark = Some((to.out.len(), sign_of(tag)));
                to.text = if matches!(name_of(tag), "endmacro" | "endcall") && blocks.depth > 0 { MACRO } else { 0 };
            }
            _ => to.out.push_str(tag),
        }
        to.countable()?;
    }
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

/// The white-space control of the tag's end.
fn sign_of(tag: &str) -> &str {
    parts(tag).2.strip_suffix("%}").unwrap_or_default()
}

fn name_of(tag: &str) -> &str {
    let inside = parts(tag).1.trim_start();
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    inside.get(..end).unwrap_or_default()
}

/// A raw block; returns what follows it, and whether the white space there is dropped.
fn raw<'s>(tag: &str, behind: &'s str, to: &mut Charged) -> (&'s str, bool) {
    to.out.push_str(tag);
    let (mut from, mut end) = (0, 0);
    while let Some(at) = behind.get(from..).and_then(|t| t.find("{%")).map(|at| at + from) {
        if end < at + 4 {
            let Some(next) = behind.get(at + 2..).and_then(|t| t.find("%}")) else { break };
            end = at + 2 + next + 2;
        }
        let close = behind.get(at..end).unwrap_or_default();
        if name_of(close) == "endraw" {
            let (inside, rest) = behind.split_at_checked(end).unwrap_or((behind, ""));
            to.text += at;
            to.out.push_str(inside);
            return (rest, close.ends_with("-%}"));
        }
        from = at + 2;
    }
    to.out.push_str(behind);
    ("", false)
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
    let (targets, value) = split_binding(body, name)?;
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
    use super::super::budget::{
        CHARGE, CONCATENATED, FACTOR, FACTOR_CHAIN, GATHER, ITERATE, JOINED, LITERAL, MADE, PRODUCT, SLICE, WRITTEN,
    };
    use super::*;

    /// Without charges of operands and of one byte of text.
    fn plain(source: &str) -> String {
        let text = format!("{{% if 0|{TEXT}(1) %}}{{% endif ");
        let out = charged(source).expect("sound").replace(&format!("|{CHARGE}"), "");
        out.replace(&format!("{text}%}}"), "").replace(&format!("{text}-%}}"), "")
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
            ("{{ a.b[0].c(d, e=f)|g }}", "{{ a.b[0].c(d|C, e=f|C)|g|M }}"),
            ("{{ 'x' ~ a if (b) else -c }}", "{{ 'x' ~ a|O if (b|C)|C else -c|C }}"),
            ("{{ a.b + c() - d + -e > f() }}", "{{ a.b|J + c()|J - d|J + -e|J > f()|M }}"),
            ("{{ a is not divisibleby(3) and b is in [c] }}", "{{ a|C is not divisibleby(3) and b|C is in [c|C] }}"),
            ("{{ a in b or a.c() not in b }}", "{{ a|W|C in b|C or a.c()|W|M not in b|C }}"),
            ("{{ 'x' * 3 * n }}", "{{ 'x'|F * 3|P|G * n|C|P }}"),
            ("{% set ns.a, b = {'k': v} %}", "{% set ns.a, b =( ({'k': v|C}|L)|C )|D%}"),
            ("{% for a in b * 2 + c -%}", "{% for a in( b|C|F * 2|P + c|J )|I -%}"),
            ("{% for a in %}", "{% for a in %}"),
            ("{% for a in b if c %}", "{% for a in( b|C )|N if c|C %}"),
            ("{% for a, b in x.items() recursive %}", "{% for a, b in( x.items()|M )|I recursive %}"),
            ("{{ a[1:] ~ b[::-1] ~ c[:n] }}", "{{ (a|S(1, none))|O ~ (b|S(none, none, -1))|O ~ (c|S(none, n|C))|O }}"),
            ("{% macro m(a, b='x' * 3) %}", "{% macro m(a, b='x'|F * 3|P) %}"),
        ];
        for (source, expected) in cases {
            let mut found = charged(source).expect("sound");
            for (name, short) in [
                (CHARGE, "C"),
                (MADE, "M"),
                (JOINED, "J"),
                (CONCATENATED, "O"),
                (WRITTEN, "W"),
                (LITERAL, "L"),
                (DEEP, "D"),
                (FACTOR_CHAIN, "G"),
                (FACTOR, "F"),
                (PRODUCT, "P"),
                (SLICE, "S"),
                (ITERATE, "I"),
                (GATHER, "N"),
            ] {
                found = found.replace(&format!("|{name}"), &format!("|{short}"));
            }
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn literal_text_is_charged_by_the_block_tag_before_it() {
        let cases = [
            ("a{{ 1 }}b", "a{{ 1 }}b"),
            ("{% if 1 -%} ab{{ 1 }}c{# d #}e{%+ endif +%}", "{% if 1 -%}@5-@ ab{{ 1 }}c{# d #}e{%+ endif +%}"),
            ("{% if 1 +%}\n{% raw %}{{{% endraw %}{%- endif %} ", "{% if 1 +%}@3+@\n{% raw %}{{{% endraw %}{%- endif %}@1@ "),
            ("{% if 1 %}  {%- endif -%}  {{ 1 }}", "{% if 1 %}  {%- endif -%}  {{ 1 }}"),
        ];
        for (source, expected) in cases {
            let charge = |text: &str, sign: &str| format!("{{% if 0|{TEXT}({text}) %}}{{% endif {sign}%}}");
            let expected = expected.split('@').enumerate().map(|(n, part)| match part.split_at_checked(1) {
                Some((text, sign)) if n % 2 == 1 => charge(text, sign),
                _ => part.to_owned(),
            });
            assert_eq!(charged(source).expect("sound"), expected.collect::<String>());
        }
    }
}
