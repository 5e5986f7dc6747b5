//! Cutting text at special tokens: leftmost first, longest among those that start there.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::{Result, TextError};

#[derive(Debug)]
pub(super) struct SpecialSplitter {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl SpecialSplitter {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = (&'a [u8], u32)>) -> Result<Self> {
        let (texts, ids): (Vec<&[u8]>, Vec<u32>) = tokens.filter(|(text, _)| !text.is_empty()).unzip();
        if texts.is_empty() {
            return Ok(Self { automaton: None, ids });
        }
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest).kind(Some(AhoCorasickKind::ContiguousNFA));
        let built = builder.build(texts).map_err(|e| TextError::vocab("tokens", format!("special tokens: {e}")))?;
        Ok(Self { automaton: Some(built), ids })
    }

    /// Pieces of plain text, each with the special token that follows it.
    pub(super) fn split<'t>(&self, text: &'t str) -> impl Iterator<Item = (&'t str, Option<u32>)> {
        let mut found = self.automaton.as_ref().map(|a| a.find_iter(text));
        let (mut from, mut done) = (0, false);
        std::iter::from_fn(move || {
            if done {
                return None;
            }
            match found.as_mut().and_then(Iterator::next) {
                Some(m) => {
                    let plain = text.get(from..m.start()).unwrap_or_default();
                    from = m.end();
                    Some((plain, self.ids.get(m.pattern().as_usize()).copied()))
                }
                None => {
                    done = true;
                    Some((text.get(from..).unwrap_or_default(), None))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftmost_then_longest() {
        let tokens = [("<a>", 1), ("<a><b>", 2), ("é", 3), ("", 9)];
        let s = SpecialSplitter::new(tokens.iter().map(|(t, id)| (t.as_bytes(), *id))).expect("builds");
        let cut: Vec<_> = s.split("x<a><b>é<a>y").collect();
        assert_eq!(cut, [("x", Some(2)), ("", Some(3)), ("", Some(1)), ("y", None)]);
        assert_eq!(s.split("").collect::<Vec<_>>(), [("", None)]);
        assert_eq!(s.split("<a").collect::<Vec<_>>(), [("<a", None)]);
        let none = SpecialSplitter::new(std::iter::empty()).expect("builds");
        assert_eq!(none.split("<a>").collect::<Vec<_>>(), [("<a>", None)]);
    }
}
