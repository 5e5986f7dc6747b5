//! Cutting text into the pieces that are merged each on its own.

use fancy_regex::Regex;

use super::classes::Classes;
use super::pretokenizers::{How, Split, Threes};
use super::words::Words;
use crate::{Result, TextError};

/// The end of a pattern that takes white space, and leaves its last character to the word that follows.
const YIELDING: &str = r"|\s+(?!\S)|\s+";

/// What happens to a white space match of two or more characters that text follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Yield {
    Nothing,
    Last,
    LastUnlessBreak,
}

#[derive(Debug)]
enum Pass {
    Automaton { regex: Regex, spaces: Yield },
    Words(Words),
    Threes(Threes),
}

/// Splitting passes, each applied to the pieces of the one before.
pub(super) struct Splitter {
    passes: Vec<Pass>,
    classes: Classes,
}

impl std::fmt::Debug for Splitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Splitter").field("passes", &self.passes).finish_non_exhaustive()
    }
}

impl Splitter {
    pub(super) fn new(splits: &[Split]) -> Result<Self> {
        let passes = splits.iter().map(Pass::new).collect::<Result<_>>()?;
        Ok(Self { passes, classes: Classes::get() })
    }

    /// Calls `each` with every piece of `text`.
    pub(super) fn pieces(&self, text: &str, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        self.pass_on(0, text, each)
    }

    fn pass_on(&self, at: usize, text: &str, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        match self.passes.get(at) {
            None => each(text),
            Some(Pass::Automaton { regex, spaces }) => self.by_automaton(regex, *spaces, at, text, each),
            Some(Pass::Words(words)) => {
                let (mut from, mut plain) = (0, 0);
                while from < text.len() {
                    // No rule gives an empty piece; if one did, this would still end.
                    let end = words.piece_end(text, from, self.classes, &mut plain).max(from + 1);
                    self.pass_on(at + 1, text.get(from..end).unwrap_or_default(), each)?;
                    from = end;
                }
                Ok(())
            }
            Some(Pass::Threes(threes)) => threes.split(text, self.classes, &mut |piece| self.pass_on(at + 1, piece, each)),
        }
    }

    fn by_automaton(&self, regex: &Regex, spaces: Yield, at: usize, text: &str, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut from = 0;
        while from < text.len() {
            let found = regex.find_from_pos(text, from);
            let found = found.map_err(|e| TextError::Tokenizer { action: "encode", reason: e.to_string() })?;
            let (start, end) = match found {
                Some(m) if !m.as_str().is_empty() => (m.start(), spaces.end_of(text, m.start(), m.end())),
                _ => (text.len(), text.len()),
            };
            for range in [from..start, start..end] {
                self.pass_on(at + 1, text.get(range).unwrap_or_default(), each)?;
            }
            from = end;
        }
        Ok(())
    }
}

impl Pass {
    fn new(split: &Split) -> Result<Self> {
        let pattern = match split.how {
            How::Words(words) => return Ok(Self::Words(words)),
            How::Threes(threes) => return Ok(Self::Threes(threes)),
            How::Automaton => split.pattern,
            How::AutomatonOf(pattern) => pattern,
        };
        let (pattern, spaces) = match pattern.strip_suffix(YIELDING) {
            None => (pattern.to_owned(), Yield::Nothing),
            // Where line breaks have an alternative of their own, only that one ends in them.
            Some(rest) if rest.contains(r"|\s*[\r\n]") => (format!(r"{rest}|\s+"), Yield::LastUnlessBreak),
            Some(rest) => (format!(r"{rest}|\s+"), Yield::Last),
        };
        let regex = Regex::new(&pattern).map_err(|e| TextError::vocab("pre", format!("pattern `{pattern}`: {e}")))?;
        Ok(Self::Automaton { regex, spaces })
    }
}

impl Yield {
    /// Where the match `start..end` really ends.
    fn end_of(self, text: &str, start: usize, end: usize) -> usize {
        let Some(last) = text.get(start..end).and_then(|m| m.chars().next_back()) else {
            return end;
        };
        let yields = match self {
            Self::Nothing => false,
            Self::Last => last.is_whitespace(),
            Self::LastUnlessBreak => last.is_whitespace() && !matches!(last, '\r' | '\n'),
        };
        let shorter = end - last.len_utf8();
        if yields && end < text.len() && shorter > start { shorter } else { end }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pretokenizers::TABLE;
    use super::*;

    fn every_split() -> impl Iterator<Item = &'static Split> {
        TABLE.iter().flat_map(|row| row.splits)
    }

    fn found(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut each = |piece: &str| {
            found.push(piece.to_owned());
            Ok(())
        };
        splitter.pieces(text, &mut each).expect("splits");
        found
    }

    /// What a backtracking engine makes of a pattern.
    fn published(pattern: &Regex, text: &str) -> Vec<String> {
        let (mut pieces, mut from) = (Vec::new(), 0);
        for m in pattern.find_iter(text) {
            let m = m.expect("no limit");
            pieces.extend([&text[from..m.start()], m.as_str()]);
            from = m.end();
        }
        pieces.push(&text[from..]);
        pieces.into_iter().filter(|p| !p.is_empty()).map(str::to_owned).collect()
    }

    /// Every distinct rule, ours and as published.
    fn rules() -> &'static [(Splitter, Regex)] {
        static RULES: std::sync::OnceLock<Vec<(Splitter, Regex)>> = std::sync::OnceLock::new();
        RULES.get_or_init(|| {
            let mut seen = std::collections::BTreeSet::new();
            let splits = every_split().filter(|s| seen.insert(s.pattern));
            let both = |s| (Splitter::new(std::slice::from_ref(s)).expect("compiles"), Regex::new(s.pattern).expect("compiles"));
            splits.map(both).collect()
        })
    }

    proptest! {
        #[test]
        fn splitting_is_what_the_published_pattern_says(text in "[a1.\\n\\r \\t'sSleE\u{3000}é\u{301}ǅ漢ク²٣!/ſ😀\u{85}]{0,24}|\\PC{0,16}| {0,40}[a1\\n]") {
            for (splitter, pattern) in rules() {
                prop_assert_eq!(found(splitter, &text), published(pattern, &text), "{}", pattern.as_str());
            }
        }
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        let afmoe = every_split().find(|s| matches!(s.how, How::Threes(Threes::Numbers))).expect("in the table");
        let afmoe = Splitter::new(std::slice::from_ref(afmoe)).expect("compiles");
        assert_eq!(found(&afmoe, "a1234567 12b²345"), ["a", "1", "234", "567", " ", "12", "b", "²", "345"]);
    }

    #[test]
    fn no_pattern_needs_backtracking() {
        for split in every_split() {
            if let Pass::Automaton { regex, .. } = Pass::new(split).expect("compiles") {
                regex_syntax::parse(regex.as_str()).unwrap_or_else(|e| panic!("{e}"));
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().flat_map(|r| r.names).collect();
        let total = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), total);
    }
}
