//! Prefix search over byte strings: all tokens that a text begins with.

use crate::{Result, TextError};

/// Nodes in breadth-first order, so that the children of a node lie side by side.
#[derive(Debug)]
pub(super) struct Trie {
    /// Where the children of each node begin; node of child `i` is `i + 1`.
    first: Vec<u32>,
    labels: Vec<u8>,
    values: Vec<u32>,
}

const NONE: u32 = u32::MAX;
/// Longest text: a search at each position of a text looks at as many bytes.
const LONGEST: usize = 512;

impl Trie {
    /// Of all texts that are not empty; the first of equal ones counts.
    ///
    /// # Errors
    /// A text is so long that searching could take forever.
    pub(super) fn new<'a>(texts: impl Iterator<Item = (u32, &'a [u8])>) -> Result<Self> {
        let mut sorted: Vec<(u32, &[u8])> = texts.filter(|(_, t)| !t.is_empty()).collect();
        if let Some((id, text)) = sorted.iter().find(|(_, t)| t.len() > LONGEST) {
            return Err(TextError::vocab_element(
                "tokens",
                *id as usize,
                format!("token {id} has {} bytes, expected at most {LONGEST} here", text.len()),
            ));
        }
        sorted.sort_by_key(|&(_, text)| text);
        sorted.dedup_by_key(|(_, text)| *text);
        let mut trie = Self { first: Vec::new(), labels: Vec::new(), values: Vec::new() };
        let mut level = vec![(0, sorted.len())];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (from, to) in level {
                let group = sorted.get(from..to).unwrap_or_default();
                let ends_here = group.first().filter(|(_, text)| text.len() == depth);
                trie.values.push(ends_here.map_or(NONE, |(id, _)| *id));
                trie.first.push(trie.labels.len() as u32);
                let mut at = from + usize::from(ends_here.is_some());
                while let Some(&label) = sorted.get(at).filter(|_| at < to).and_then(|(_, t)| t.get(depth)) {
                    let same = sorted.get(at..to).unwrap_or_default().partition_point(|(_, t)| t.get(depth) <= Some(&label));
                    trie.labels.push(label);
                    next.push((at, at + same));
                    at += same;
                }
            }
            level = next;
            depth += 1;
        }
        trie.first.push(trie.labels.len() as u32);
        Ok(trie)
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        let (from, to) = (*self.first.get(node as usize)?, *self.first.get(node as usize + 1)?);
        let labels = self.labels.get(from as usize..to as usize)?;
        let at = if labels.len() < 16 { labels.iter().position(|&l| l == byte) } else { labels.binary_search(&byte).ok() }?;
        Some(from + at as u32 + 1)
    }

    /// Calls `each` with length and id of every token that `text` begins with, shortest first.
    #[inline]
    pub(super) fn prefixes(&self, text: &[u8], mut each: impl FnMut(usize, u32)) {
        let mut node = 0;
        for (n, &byte) in (1..).zip(text) {
            let Some(child) = self.child(node, byte) else { return };
            node = child;
            if let Some(&id) = self.values.get(node as usize).filter(|&&id| id != NONE) {
                each(n, id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prefixes_are_those_that_comparing_finds(list in prop::collection::btree_set("[ab]{1,5}|\\PC{1,3}", 0..80), text in "[ab]{0,8}|\\PC{0,4}") {
            let trie = Trie::new((0u32..).zip(list.iter().map(String::as_bytes))).expect("short");
            let mut found = Vec::new();
            trie.prefixes(text.as_bytes(), |n, id| found.push((n, id)));
            let mut expected: Vec<_> = (0u32..).zip(&list).filter(|(_, t)| text.starts_with(t.as_str())).map(|(id, t)| (t.len(), id)).collect();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
