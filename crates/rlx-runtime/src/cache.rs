//! The paged cache: fixed-size blocks of rows, shared by all layers, handed out to sequences.
//!
//! A block number is the same in every layer's cache.  A sequence owns a list of blocks and a slot
//! (its place in recurrent states).  All memory is taken when the cache is made; extending,
//! truncating and freeing sequences allocate nothing.

use rlx_compile::{Pool, Ragged};
use rlx_ir::Segments;

/// A sequence of a [`Cache`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct SeqId(u32);

/// The cache cannot do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// No free block.
    #[error("the cache is full: {needed} more blocks of {block_tokens} tokens are needed, {free} are free")]
    Full {
        /// Blocks missing for the request.
        needed: usize,
        /// Blocks free.
        free: usize,
        /// Rows per block.
        block_tokens: usize,
    },
    /// No free slot.
    #[error("all {0} sequences of the cache are in use")]
    NoSlot(usize),
    /// The sequence was freed.
    #[error("sequence {0} is not in the cache")]
    Unknown(u32),
}

#[derive(Debug)]
struct Sequence {
    used: bool,
    len: usize,
    blocks: Vec<u32>,
}

/// Blocks and sequences.
#[derive(Debug)]
pub struct Cache {
    pool: Pool,
    free: Vec<u32>,
    sequences: Vec<Sequence>,
}

impl Cache {
    /// A cache over all blocks and slots of `pool`.
    pub fn new(pool: Pool) -> Cache {
        let sequence = || Sequence { used: false, len: 0, blocks: Vec::with_capacity(pool.blocks) };
        Cache { pool, free: (0..pool.blocks as u32).rev().collect(), sequences: (0..pool.slots).map(|_| sequence()).collect() }
    }

    /// Its size.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// Blocks nobody owns.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// A new, empty sequence.
    pub fn open(&mut self) -> Result<SeqId, CacheError> {
        let slot = self.sequences.iter().position(|s| !s.used).ok_or(CacheError::NoSlot(self.pool.slots))?;
        self.sequences[slot].used = true;
        Ok(SeqId(slot as u32))
    }

    fn get(&self, id: SeqId) -> Result<&Sequence, CacheError> {
        self.sequences.get(id.0 as usize).filter(|s| s.used).ok_or(CacheError::Unknown(id.0))
    }

    /// Rows the sequence has cached.
    pub fn len(&self, id: SeqId) -> Result<usize, CacheError> {
        self.get(id).map(|s| s.len)
    }

    /// True when no sequence is open.
    pub fn is_empty(&self) -> bool {
        self.sequences.iter().all(|s| !s.used)
    }

    /// Makes room for `new` more rows; all or nothing.
    pub fn reserve(&mut self, id: SeqId, new: usize) -> Result<(), CacheError> {
        let s = self.get(id)?;
        let want = (s.len + new).div_ceil(self.pool.block_tokens);
        let needed = want.saturating_sub(s.blocks.len());
        if needed > self.free.len() {
            return Err(CacheError::Full { needed, free: self.free.len(), block_tokens: self.pool.block_tokens });
        }
        let from = self.free.len() - needed;
        self.sequences[id.0 as usize].blocks.extend(self.free.drain(from..).rev());
        Ok(())
    }

    /// Says that `new` rows, for which room was reserved, are now cached.
    pub fn advance(&mut self, id: SeqId, new: usize) -> Result<(), CacheError> {
        self.get(id)?;
        self.sequences[id.0 as usize].len += new;
        Ok(())
    }

    /// Forgets all but the first `len` rows.
    pub fn truncate(&mut self, id: SeqId, len: usize) -> Result<(), CacheError> {
        self.get(id)?;
        let keep = len.div_ceil(self.pool.block_tokens);
        let s = &mut self.sequences[id.0 as usize];
        s.len = s.len.min(len);
        while s.blocks.len() > keep {
            self.free.extend(s.blocks.pop());
        }
        Ok(())
    }

    /// Frees the sequence.
    pub fn close(&mut self, id: SeqId) -> Result<(), CacheError> {
        self.truncate(id, 0)?;
        self.sequences[id.0 as usize].used = false;
        Ok(())
    }
}

/// The segments of one call with their blocks; reused from call to call.
#[derive(Debug, Default)]
pub struct Batch {
    segments: Segments,
    blocks: Vec<u32>,
    starts: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        let mut b = Batch::default();
        b.clear();
        b
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.blocks.clear();
        self.starts.clear();
        self.starts.push(0);
    }

    /// Adds `new` tokens of a sequence, for which room must have been reserved.
    pub fn push(&mut self, cache: &Cache, id: SeqId, new: usize) -> Result<(), CacheError> {
        let s = cache.get(id)?;
        self.segments.push(new as u32, s.len as u32, id.0);
        self.blocks.extend_from_slice(&s.blocks);
        self.starts.push(self.blocks.len() as u32);
        Ok(())
    }

    /// Adds a segment of an encoder, which has no cache.
    pub fn push_uncached(&mut self, new: usize) {
        let slot = self.segments.count() as u32;
        self.segments.push(new as u32, 0, slot);
        self.starts.push(self.blocks.len() as u32);
    }

    /// Number of segments.
    pub fn count(&self) -> usize {
        self.segments.count()
    }

    /// Number of new tokens.
    pub fn tokens(&self) -> usize {
        self.segments.tokens()
    }

    /// The argument for a program.
    pub fn ragged(&self) -> Ragged<'_> {
        Ragged { segments: &self.segments, blocks: &self.blocks, block_starts: &self.starts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_never_lost_or_shared() {
        let pool = Pool { block_tokens: 4, blocks: 10, slots: 3 };
        let mut c = Cache::new(pool);
        let (a, b) = (c.open().unwrap(), c.open().unwrap());
        c.reserve(a, 9).unwrap();
        c.advance(a, 9).unwrap();
        c.reserve(b, 20).unwrap();
        c.advance(b, 20).unwrap();
        assert_eq!(c.free_blocks(), 2);
        assert_eq!(c.reserve(a, 20), Err(CacheError::Full { needed: 5, free: 2, block_tokens: 4 }));
        assert_eq!(c.free_blocks(), 2, "a refused reservation takes nothing");
        let mut batch = Batch::new();
        c.reserve(a, 1).unwrap();
        batch.push(&c, a, 1).unwrap();
        batch.push(&c, b, 0).unwrap();
        let r = batch.ragged();
        let mut all: Vec<u32> = r.blocks.to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), r.blocks.len());
        assert_eq!(r.segments.past, [9, 20]);
        c.truncate(b, 5).unwrap();
        assert_eq!((c.len(b).unwrap(), c.free_blocks()), (5, 5));
        c.close(a).unwrap();
        c.close(b).unwrap();
        assert_eq!(c.free_blocks(), 10);
        assert!(c.is_empty());
        assert_eq!(c.len(a), Err(CacheError::Unknown(0)));
    }
}
