//! Many short texts by number, and the number of a text, without an allocation for each.

use std::hash::{BuildHasher, RandomState};

/// Texts one behind the other; the position in the list is the id.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Texts {
    /// Room for `n` texts of `bytes` bytes together.
    pub(crate) fn with_capacity(n: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(n) }
    }

    /// Appends a text that `write` appends to the bytes; false when there are 2^32 bytes or more.
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        write(&mut self.bytes);
        let Ok(end) = u32::try_from(self.bytes.len()) else { return false };
        self.ends.push(end);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&[u8]> {
        let at = id as usize;
        let end = *self.ends.get(at)?;
        let start = match at.checked_sub(1) {
            None => 0,
            Some(before) => *self.ends.get(before)?,
        };
        self.bytes.get(start as usize..end as usize)
    }

    pub(crate) fn str(&self, id: u32) -> Option<&str> {
        self.get(id).and_then(|b| std::str::from_utf8(b).ok())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.ends.len() as u32).filter_map(|id| Some((id, self.get(id)?)))
    }
}

/// Hash of short byte strings, keyed so that no file can be made to collide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Hash {
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

    pub(super) fn new() -> Self {
        Self(RandomState::new().hash_one(0u64) | 1)
    }

    #[inline]
    pub(super) fn number(self, n: u64) -> u64 {
        fold(n ^ self.0, Self::MIX)
    }

    #[inline]
    pub(super) fn bytes(self, bytes: &[u8]) -> u64 {
        let mut state = self.0 ^ bytes.len() as u64;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let word = <[u8; 8]>::try_from(chunk).map_or(0, u64::from_le_bytes);
            state = fold(state ^ word, Self::MIX ^ self.0);
        }
        let tail = chunks.remainder().iter().fold(0u64, |word, &b| word << 8 | u64::from(b));
        fold(state ^ tail, Self::MIX)
    }
}

/// Ids by text: an open table of ids over a [`Texts`].
#[derive(Debug)]
pub(crate) struct Index {
    slots: Vec<u32>,
    hash: Hash,
}

const FREE: u32 = u32::MAX;

impl Index {
    /// Of the texts whose id `wanted` accepts; the first of equal ones counts.
    pub(crate) fn new(texts: &Texts, wanted: impl Fn(u32) -> bool) -> Self {
        let mut index = Self::with_capacity(texts.len());
        for (id, text) in texts.iter().filter(|(id, _)| wanted(*id)) {
            let _ = index.insert(texts, text, id);
        }
        index
    }

    pub(crate) fn with_capacity(n: usize) -> Self {
        let slots = (n + n / 2 + 1).next_power_of_two();
        Self { slots: vec![FREE; slots], hash: Hash::new() }
    }

    /// Adds a text that is, or will be, number `id`.
    ///
    /// # Errors
    /// The id that an equal text has already.
    pub(crate) fn insert(&mut self, texts: &Texts, text: &[u8], id: u32) -> Result<(), u32> {
        let mask = self.slots.len() - 1;
        let mut at = self.hash.bytes(text) as usize & mask;
        loop {
            match self.slots.get_mut(at) {
                Some(slot) if *slot == FREE => {
                    *slot = id;
                    return Ok(());
                }
                Some(slot) if texts.get(*slot) == Some(text) => return Err(*slot),
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[inline]
    pub(crate) fn find(&self, texts: &Texts, text: &[u8]) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = self.hash.bytes(text) as usize & mask;
        loop {
            match self.slots.get(at) {
                Some(&id) if id != FREE => {
                    if texts.get(id) == Some(text) {
                        return Some(id);
                    }
                    at = (at + 1) & mask;
                }
                _ => return None,
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
        fn texts_are_found_by_id_and_by_text(list in prop::collection::btree_set("[ab]{0,6}|\\PC{0,12}", 0..60)) {
            let mut texts = Texts::default();
            for text in &list {
                prop_assert!(texts.push_with(|b| b.extend_from_slice(text.as_bytes())));
            }
            let index = Index::new(&texts, |_| true);
            for (id, text) in (0u32..).zip(&list) {
                prop_assert_eq!(texts.str(id), Some(text.as_str()));
                prop_assert_eq!(index.find(&texts, text.as_bytes()), Some(id));
            }
            prop_assert_eq!(index.find(&texts, b"not among them, at all"), None);
            prop_assert_eq!(texts.get(list.len() as u32), None);
        }
    }

    #[test]
    fn the_second_of_two_equal_texts_is_reported() {
        let mut texts = Texts::default();
        assert!(texts.push_with(|b| b.push(b'x')));
        let mut index = Index::with_capacity(2);
        assert_eq!(index.insert(&texts, b"x", 0), Ok(()));
        assert_eq!(index.insert(&texts, b"x", 1), Err(0));
    }
}
