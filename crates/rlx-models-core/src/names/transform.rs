//! Differences of arrangement between checkpoint formats.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use rlx_gguf::Gguf;

/// Head counts of a model, which some rearrangements depend on.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct HeadCounts {
    /// Query heads.
    pub query: usize,
    /// Key and value heads.
    pub key_value: usize,
}

impl HeadCounts {
    /// What the metadata of a GGUF file says: 0 where it does not, or not one number for all layers.
    pub fn of_gguf(gguf: &Gguf) -> HeadCounts {
        let count = |key: &str| {
            let arch = gguf.architecture().ok()?;
            gguf.find::<u32>(&format!("{arch}.attention.{key}")).ok()?.map(|n| n as usize)
        };
        let query = count("head_count").unwrap_or_default();
        HeadCounts { query, key_value: count("head_count_kv").unwrap_or(query) }
    }
}

/// Which heads the rows of a projection belong to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Heads {
    /// Query heads.
    Query,
    /// Key and value heads.
    KeyValue,
}

/// How the checkpoint's arrangement of a weight follows from the GGUF file's.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Transform {
    /// They are alike.
    #[default]
    None,
    /// Llama-architecture GGUF files keep the rows of Q and K such that neighbouring rows rotate together; the
    /// checkpoint has the first halves of all pairs of a head, then the second halves.  Whole rows move, so block
    /// formats stay as they are.
    LlamaRopeRows(Heads),
}

/// A weight that a transform cannot be applied to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rows} rows cannot be rearranged for {heads} heads: expected a multiple of {}", heads.saturating_mul(2))]
pub struct TransformError {
    /// Rows of the weight.
    pub rows: usize,
    /// Heads they belong to.
    pub heads: usize,
}

impl Transform {
    /// The bytes of a weight of `rows` rows in the checkpoint's arrangement; `None` when they are already.
    ///
    /// # Errors
    /// Rows that do not divide into pairs of heads.
    pub fn apply(self, bytes: &[u8], rows: usize, heads: HeadCounts) -> Result<Option<Vec<u8>>, TransformError> {
        self.rearrange(bytes, rows, heads, true)
    }

    /// The bytes of a weight in the GGUF file's arrangement, from the checkpoint's: what [`apply`](Self::apply) takes
    /// back.
    ///
    /// # Errors
    /// As `apply`.
    pub fn undo(self, bytes: &[u8], rows: usize, heads: HeadCounts) -> Result<Option<Vec<u8>>, TransformError> {
        self.rearrange(bytes, rows, heads, false)
    }

    fn rearrange(self, bytes: &[u8], rows: usize, heads: HeadCounts, to_checkpoint: bool) -> Result<Option<Vec<u8>>, TransformError> {
        let Transform::LlamaRopeRows(which) = self else {
            return Ok(None);
        };
        let heads = match which {
            Heads::Query => heads.query,
            Heads::KeyValue => heads.key_value,
        };
        let error = TransformError { rows, heads };
        let pairs = if heads > 0 && rows > 0 && rows.is_multiple_of(heads) { rows / heads } else { return Err(error) };
        if !pairs.is_multiple_of(2) || !bytes.len().is_multiple_of(rows) {
            return Err(error);
        }
        let (half, row) = (pairs / 2, bytes.len() / rows);
        let mut out = Vec::with_capacity(bytes.len());
        let mut take = |from: usize| out.extend_from_slice(bytes.get(from * row..(from + 1) * row).unwrap_or_default());
        for head in 0..heads {
            for i in 0..pairs {
                take(head * pairs + if to_checkpoint { 2 * (i % half) + i / half } else { i / 2 + half * (i % 2) });
            }
        }
        Ok(Some(out))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn llama_rows_are_put_back() {
        // Two heads of four rows of two bytes; llama.cpp stores rows 0 2 1 3 of each head.
        let heads = HeadCounts { query: 2, key_value: 1 };
        let stored: Vec<u8> = [0, 2, 1, 3, 4, 6, 5, 7].into_iter().flat_map(|r| [r, 100 + r]).collect();
        let want: Vec<u8> = (0..8).flat_map(|r| [r, 100 + r]).collect();
        let t = Transform::LlamaRopeRows(Heads::Query);
        assert_eq!(t.apply(&stored, 8, heads).unwrap(), Some(want.clone()));
        assert_eq!(t.undo(&want, 8, heads).unwrap(), Some(stored.clone()));
        // With six rows a head, putting back is another permutation than taking away.
        let (rows, heads) = ((0..12).collect::<Vec<u8>>(), HeadCounts { query: 2, key_value: 1 });
        let moved = t.undo(&rows, 12, heads).unwrap().unwrap();
        assert_eq!(moved.get(..6), Some(&[0, 3, 1, 4, 2, 5][..]));
        assert_eq!(t.apply(&moved, 12, heads).unwrap(), Some(rows));
        assert_eq!(Transform::None.apply(&stored, 8, heads).unwrap(), None);
    }

    #[test]
    fn rows_that_do_not_divide_are_refused() {
        let t = Transform::LlamaRopeRows(Heads::KeyValue);
        for (rows, key_value) in [(6, 4), (6, 2), (6, 0), (0, 1)] {
            let heads = HeadCounts { query: 1, key_value };
            assert_eq!(t.apply(&[0; 12], rows, heads), Err(TransformError { rows, heads: key_value }));
        }
        assert!(t.apply(&[0; 12], 6, HeadCounts { query: 1, key_value: 3 }).is_ok());
    }
}
