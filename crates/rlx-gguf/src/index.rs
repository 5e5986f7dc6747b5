//! Lookup of names and detection of repeated ones.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hash::{BuildHasher, RandomState};

/// Numbers of named things, sorted by a keyed hash of their names: 16 bytes each, quick for a million of them, and no
/// choice of names makes it slow.  The names stay with their owner, who passes a way to look at them.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameIndex {
    hasher: RandomState,
    sorted: Vec<(u64, u32)>,
}

impl NameIndex {
    /// Indexes the names of `0..n`.
    ///
    /// # Errors
    /// The number of a thing whose name another one has too.
    pub fn build<'a>(n: u32, name: impl Fn(u32) -> &'a str) -> Result<Self, u32> {
        let hasher = RandomState::new();
        let mut sorted: Vec<_> = (0..n).map(|i| (hasher.hash_one(name(i)), i)).collect();
        sorted.sort_unstable();
        for same_hash in sorted.chunk_by(|a, b| a.0 == b.0).filter(|c| c.len() > 1) {
            // Almost always repetitions of one name; distinct names of equal hash are sorted out here.
            let mut names: Vec<_> = same_hash.iter().map(|(_, i)| (name(*i), *i)).collect();
            names.sort_unstable();
            if let Some((_, i)) = names.chunk_by(|a, b| a.0 == b.0).find_map(|c| c.get(1)) {
                return Err(*i);
            }
        }
        Ok(Self { hasher, sorted })
    }

    /// The number of the thing named `wanted`.
    pub fn find<'a>(&self, wanted: &str, name: impl Fn(u32) -> &'a str) -> Option<u32> {
        let hash = self.hasher.hash_one(wanted);
        let start = self.sorted.partition_point(|(h, _)| *h < hash);
        let candidates = self.sorted.iter().skip(start).take_while(|(h, _)| *h == hash);
        candidates.map(|(_, i)| *i).find(|i| name(*i) == wanted)
    }
}
