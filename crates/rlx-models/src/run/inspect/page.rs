//! Text for a terminal: sections, aligned lines, nothing that a file could smuggle into the terminal.

use crate::run::check::one_line;
use serde_json::Value;

/// Columns of a terminal that lines are made for.
const COLUMNS: usize = 96;
/// Columns before the value of a line.
const INDENT: usize = 14;
/// Longest value shown on one line.
const WIDEST: usize = 58;

/// A text in the making.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// The text.
    pub fn finish(self) -> String {
        self.0
    }

    /// Begins a section.
    pub fn section(&mut self, name: &str) {
        self.0 += &format!("\n{name}\n");
    }

    /// A line as it is; what comes from files must be escaped already.
    pub fn raw(&mut self, text: &str) {
        self.0 += text.trim_end();
        self.0.push('\n');
    }

    /// `  name        value`, wrapped under itself.
    pub fn line(&mut self, name: &str, value: &str) {
        let mut head = format!("  {name:<width$}", width = INDENT - 2);
        for row in wrap(&one_line(value), COLUMNS - INDENT) {
            self.raw(&format!("{head}{row}"));
            head = " ".repeat(INDENT);
        }
    }
}

/// Rows of at most `width` characters, broken at spaces; a longer word stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in text.split(' ') {
        let row = rows.last_mut().expect("there is always a row");
        if row.is_empty() {
            row.push_str(word);
        } else if row.chars().count() + 1 + word.chars().count() <= width {
            row.push(' ');
            row.push_str(word);
        } else {
            rows.push(word.to_owned());
        }
    }
    rows
}

/// `1 tensor`, `2 tensors`.
pub(super) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The first of many, then how many more there are.
pub(super) fn first_of<S: AsRef<str>>(items: &[S], most: usize) -> String {
    let mut text = items.iter().take(most).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if items.len() > most {
        text += &format!(" and {} more", items.len() - most);
    }
    text
}

/// A value on one line of bounded length, whatever the file contains.
pub(super) fn short(v: &Value) -> String {
    let text = v.to_string();
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => one_line(&format!("{}…", &text[..end])),
        None => one_line(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_under_their_value_and_control_characters_escaped() {
        let mut p = Page::default();
        p.line("because", &"word ".repeat(30));
        p.line("is", "\x1b[31mred");
        let text = p.finish();
        assert!(text.lines().all(|l| l.len() <= COLUMNS), "{text}");
        assert!(text.lines().nth(1).is_some_and(|l| l.starts_with("              word")), "{text}");
        assert!(text.ends_with("  is          \\u{1b}[31mred\n"), "{text}");
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(short(&"x".repeat(100).into()).chars().count(), WIDEST + 1);
        assert_eq!(first_of(&["a", "b", "c"], 2), "a, b and 1 more");
    }
}
