//! Cutting text at special tokens: leftmost first, longest among those that start there.

use std::collections::HashMap;

#[derive(Debug, Default)]
pub(super) struct SpecialSplitter {
    ids: HashMap<Box<[u8]>, u32>,
    /// Lengths of the tokens that start with each byte, longest first.
    lengths: HashMap<u8, Vec<usize>>,
}

impl SpecialSplitter {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut out = Self::default();
        for (text, id) in tokens {
            let Some(&first) = text.as_bytes().first() else {
                continue;
            };
            out.ids.insert(text.as_bytes().into(), id);
            let lengths = out.lengths.entry(first).or_default();
            if let Err(at) = lengths.binary_search_by(|n| text.len().cmp(n)) {
                lengths.insert(at, text.len());
            }
        }
        out
    }

    /// Pieces of plain text, each with the special token that follows it.
    pub(super) fn split<'t>(&self, text: &'t str) -> impl Iterator<Item = (&'t str, Option<u32>)> {
        let mut rest = Some(text);
        std::iter::from_fn(move || {
            let text = rest?;
            let found = self.find(text).and_then(|(at, len, id)| Some((text.get(..at)?, text.get(at + len..)?, id)));
            match found {
                Some((plain, behind, id)) => {
                    rest = Some(behind);
                    Some((plain, Some(id)))
                }
                None => {
                    rest = None;
                    Some((text, None))
                }
            }
        })
    }

    fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        bytes.iter().enumerate().find_map(|(at, first)| {
            let lengths = self.lengths.get(first)?;
            lengths.iter().find_map(|&len| {
                let id = self.ids.get(bytes.get(at..at + len)?)?;
                Some((at, len, *id))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftmost_then_longest() {
        let s = SpecialSplitter::new([("<a>", 1), ("<a><b>", 2), ("é", 3), ("", 9)].into_iter());
        let cut: Vec<_> = s.split("x<a><b>é<a>y").collect();
        assert_eq!(cut, [("x", Some(2)), ("", Some(3)), ("", Some(1)), ("y", None)]);
        assert_eq!(s.split("").collect::<Vec<_>>(), [("", None)]);
        assert_eq!(s.split("<a").collect::<Vec<_>>(), [("<a", None)]);
    }
}
