//! Words seen before, with their ids, for the time of one call.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use super::texts::Hash;

/// Distinct words remembered.
const MAX_WORDS: usize = 1 << 16;
/// Longer words are not worth remembering.
const MAX_BYTES: usize = 64;

/// Keys are hashes already.
#[derive(Default)]
struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, x: u64) {
        self.0 = x;
    }
}

struct Entry {
    word: Range<u32>,
    ids: Range<u32>,
}

pub(super) struct WordCache {
    hash: Hash,
    entries: HashMap<u64, Entry, BuildHasherDefault<Passed>>,
    words: Vec<u8>,
    ids: Vec<u32>,
}

fn span(r: &Range<u32>) -> Range<usize> {
    r.start as usize..r.end as usize
}

impl WordCache {
    pub(super) fn new() -> Self {
        Self { hash: Hash::new(), entries: HashMap::default(), words: Vec::new(), ids: Vec::new() }
    }

    /// Appends the ids of `word`, from memory or as `find` appends them.
    #[inline]
    pub(super) fn ids<E>(&mut self, word: &[u8], out: &mut Vec<u32>, find: impl FnOnce(&mut Vec<u32>) -> Result<(), E>) -> Result<(), E> {
        if word.len() > MAX_BYTES {
            return find(out);
        }
        let key = self.hash.bytes(word);
        let known = self.entries.get(&key);
        if let Some(entry) = known.filter(|e| self.words.get(span(&e.word)) == Some(word)) {
            out.extend_from_slice(self.ids.get(span(&entry.ids)).unwrap_or_default());
            return Ok(());
        }
        let is_new = known.is_none();
        let before = out.len();
        find(out)?;
        if is_new && self.entries.len() < MAX_WORDS {
            let (word_at, ids_at) = (self.words.len() as u32, self.ids.len() as u32);
            self.words.extend_from_slice(word);
            self.ids.extend_from_slice(out.get(before..).unwrap_or_default());
            let entry = Entry { word: word_at..self.words.len() as u32, ids: ids_at..self.ids.len() as u32 };
            self.entries.insert(key, entry);
        }
        Ok(())
    }
}
