//! What a byte of a JSON text belongs to, found when an error is to be reported: nothing is kept for it while reading.
//!
//! Readers that stream, as the one of `tokenizer.json` does, know where they stopped but not what they were in.  The text
//! is walked once, without recursion; it need not be whole.

/// Longest name of a place, and longest key shown in it.
const LONGEST: usize = 160;
const LONGEST_KEY: usize = 40;
/// Values deeper than this are told by the one at this depth; readers go no deeper than 128.
const DEEPEST: usize = 200;

/// An object or list that is open.
struct Open {
    begin: usize,
    is_object: bool,
    /// Whether the next string is a key.
    at_key: bool,
    /// Where the latest key is, without its quotes.
    key: std::ops::Range<usize>,
    /// Number of the latest element.
    n: usize,
}

/// Name (`pre_tokenizer.pretokenizers[0].pattern`) and first byte of the innermost value that a reader was in or had just
/// read when it stopped with `last` as the last byte taken.
pub(super) fn place(json: &[u8], last: usize) -> (String, usize) {
    let is_space = |at: &usize| json.get(*at).is_some_and(u8::is_ascii_whitespace);
    let mut target = (0..=last.min(json.len().saturating_sub(1))).rev().find(|at| !is_space(at)).unwrap_or(0);
    // Before a value, the reader stopped because of it.
    if matches!(json.get(target), Some(b':' | b',')) {
        target = (target + 1..json.len()).find(|at| !is_space(at)).unwrap_or(target);
    }
    let mut scan = Scan { json, at: 0, open: Vec::new(), deeper: 0 };
    match scan.value_at(target) {
        // A number, string or word: in all that is open.
        Some(begin) => (scan.name(scan.open.len()), begin),
        None => (scan.name(scan.open.len().saturating_sub(1)), scan.open.last().map_or(0, |o| o.begin)),
    }
}

struct Scan<'j> {
    json: &'j [u8],
    at: usize,
    open: Vec<Open>,
    /// How many more are open than are kept.
    deeper: usize,
}

impl Scan<'_> {
    /// Goes to `target`; the beginning of the plain value that it is in, unless it belongs to the innermost open one.
    fn value_at(&mut self, target: usize) -> Option<usize> {
        while let Some(&b) = self.json.get(self.at).filter(|_| self.at <= target) {
            let begin = self.at;
            self.at += 1;
            match b {
                b'{' | b'[' if self.open.len() == DEEPEST => self.deeper += 1,
                b'{' | b'[' => self.open.push(Open { begin, is_object: b == b'{', at_key: b == b'{', key: 0..0, n: 0 }),
                b'}' | b']' if begin == target => return None,
                b'}' | b']' if self.deeper > 0 => self.deeper -= 1,
                b'}' | b']' => drop(self.open.pop()),
                b',' if self.deeper == 0 => {
                    if let Some(open) = self.open.last_mut() {
                        (open.n, open.at_key) = (open.n + 1, open.is_object);
                    }
                }
                b',' | b':' => {}
                b if b.is_ascii_whitespace() => {}
                b => {
                    if b == b'"' {
                        self.string()
                    } else {
                        self.word()
                    }
                    let end = self.at;
                    let key = self.open.last_mut().filter(|open| open.at_key && self.deeper == 0);
                    match key {
                        Some(open) => (open.key, open.at_key) = (begin + 1..end.saturating_sub(1), false),
                        None if end > target && self.deeper == 0 => return Some(begin),
                        None => {}
                    }
                }
            }
        }
        None
    }

    /// Behind the quote that opens a string, to behind the one that closes it.
    fn string(&mut self) {
        while let Some(&b) = self.json.get(self.at) {
            self.at += if b == b'\\' { 2 } else { 1 };
            if b == b'"' {
                return;
            }
        }
    }

    /// To the end of a number or word.
    fn word(&mut self) {
        while self.json.get(self.at).is_some_and(|b| !b.is_ascii_whitespace() && !b",:]}[{\"".contains(b)) {
            self.at += 1;
        }
    }

    /// What leads through the first `n` that are open.
    fn name(&self, n: usize) -> String {
        let mut name = String::new();
        for open in self.open.iter().take(n) {
            if name.len() > LONGEST {
                name.push('…');
                break;
            }
            match open.is_object {
                true => name += &shown(self.json.get(open.key.clone()).unwrap_or_default()),
                false => name += &format!("[{}]", open.n),
            }
        }
        name.strip_prefix('.').map(str::to_owned).unwrap_or(name)
    }
}

/// A key as it is written, quoted unless it is ordinary, shortened.
fn shown(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key.get(..key.len().min(4 * LONGEST_KEY)).unwrap_or_default());
    let ordinary = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    match text.char_indices().nth(LONGEST_KEY) {
        Some((end, _)) => format!(".{:?}…", text.get(..end).unwrap_or_default()),
        None if ordinary => format!(".{text}"),
        None => format!(".{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_text_belongs_to_a_value() {
        let text = r#" {"a": [10, {"b\"c":"x]"}, [] ] , "d":null,"e f" : -1.5e3}"#;
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}"));
        for (last, name, begin) in [
            (at("{"), "", at("{")),
            (at("[10"), "a", at("[10")),
            (at("10") + 1, "a[0]", at("10")),
            (at("{\"b"), "a[1]", at("{\"b")),
            (at("x]") + 1, r#"a[1]."b\\\"c""#, at("\"x]")),
            (at("[]") + 1, "a[2]", at("[]")),
            // What stands before a value is about that value, and space is about what was before it.
            (at(":null"), "d", at("null")),
            (at(", {"), "a[1]", at("{\"b")),
            (at(" ] ,"), "a[2]", at("[]")),
            (at("-1.5e3") + 5, "\"e f\"", at("-1.5")),
            (text.len() - 1, "", at("{")),
            (text.len() + 5, "", at("{")),
        ] {
            assert_eq!(place(text.as_bytes(), last), (name.to_owned(), begin), "{last}");
        }
    }

    #[test]
    fn broken_texts_have_places_too() {
        let text = br#"{"a":[1,{"b":"c\u00"#;
        for end in 0..=text.len() {
            for last in 0..=end {
                assert!(place(&text[..end], last).1 <= end);
            }
        }
        let deep = "[".repeat(100_000);
        let (name, begin) = place(deep.as_bytes(), 99_999);
        assert!(name.len() < 200 && begin == DEEPEST - 1, "{begin} {name}");
    }
}
