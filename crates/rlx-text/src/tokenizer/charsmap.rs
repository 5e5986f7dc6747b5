//! SentencePiece's compiled normaliser: a double-array trie from byte sequences to their replacements.
//!
//! Layout: u32 size of the trie in bytes, that many bytes of u32 units, then replacements that end in NUL, all
//! little-endian.  Unit: bits 0-7 label, 8 has a value, 9 offset is in 256s, 10-30 offset; a value unit has bit
//! 31 set and the position of the replacement below it (Darts-clone).

use crate::{Result, TextError};

#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

impl Charsmap {
    pub(super) fn new(bytes: &[u8]) -> Result<Self> {
        let wrong = |reason: String| TextError::vocab("precompiled_charsmap", reason);
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| wrong(format!("{} bytes, expected at least 4", bytes.len())))?;
        let size = u32::from_le_bytes(*size) as usize;
        let cut = rest.split_at_checked(size).filter(|_| size >= 4 && size.is_multiple_of(4));
        let (trie, replacements) =
            cut.ok_or_else(|| wrong(format!("a trie of {size} bytes in {} bytes, expected a multiple of 4 that fits", rest.len())))?;
        let replacements = std::str::from_utf8(replacements).map_err(|e| wrong(format!("replacements are not UTF-8: {e}")))?;
        if !replacements.is_empty() && !replacements.ends_with('\0') {
            return Err(wrong("the last replacement does not end".into()));
        }
        let units = trie.chunks_exact(4).map(|c| <[u8; 4]>::try_from(c).map_or(0, u32::from_le_bytes)).collect();
        Ok(Self { units, replacements: replacements.to_owned() })
    }

    /// Length and replacement of the longest entry that `text` begins with.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let unit = |at: u32| self.units.get(at as usize).copied();
        let mut at = offset(unit(0)?);
        let mut found = None;
        for (n, &byte) in (1..).zip(text.iter().take_while(|&&b| b != 0)) {
            at ^= u32::from(byte);
            let Some(node) = unit(at).filter(|u| u & 0x8000_00FF == u32::from(byte)) else { break };
            at ^= offset(node);
            if node >> 8 & 1 == 1 {
                found = unit(at).map(|value| (n, value & 0x7FFF_FFFF));
            }
        }
        let (n, value) = found?;
        let text = self.replacements.get(value as usize..)?;
        Some((n, text.split('\0').next().unwrap_or_default()))
    }

    /// Calls `put` with the characters that `text` becomes.
    pub(super) fn normalise(&self, text: &str, mut put: impl FnMut(char)) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let entry = self.longest(rest.as_bytes()).and_then(|(n, to)| Some((rest.get(n..)?, to)));
            match entry {
                Some((behind, to)) => {
                    to.chars().for_each(&mut put);
                    rest = behind;
                }
                None => {
                    put(c);
                    rest = rest.get(c.len_utf8()..).unwrap_or_default();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_maps_are_refused() {
        let bad: [&[u8]; 6] = [
            &[],
            &[4, 0, 0],
            &[8, 0, 0, 0, 1, 1, 1, 1],
            &[3, 0, 0, 0, 1, 1, 1],
            &[4, 0, 0, 0, 0, 0, 0, 0, b'a'],
            &[4, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0],
        ];
        for bytes in bad {
            let message = Charsmap::new(bytes).expect_err("refused").to_string();
            assert!(message.contains("precompiled_charsmap"), "{message}");
        }
        let map = Charsmap::new(&[4, 0, 0, 0, 0, 0, 0, 0, b'a', 0]).expect("sound, empty");
        let mut out = String::new();
        map.normalise("xy\0é", |c| out.push(c));
        assert_eq!(out, "xy\0é");
    }

    /// Whatever the units say, walking them ends and stays inside.
    #[test]
    fn hostile_units_do_no_harm() {
        for seed in 0u32..200 {
            let mut x = seed;
            let mut bytes = 64u32.to_le_bytes().to_vec();
            for _ in 0..16 {
                x = x.wrapping_mul(0x9E37_79B9).wrapping_add(0x7F4A_7C15);
                bytes.extend((x & 0x8000_37FF | x & 0xFF).to_le_bytes());
            }
            bytes.extend(b"abc\0");
            let map = Charsmap::new(&bytes).expect("sound");
            let mut n = 0;
            map.normalise("hello \u{1F600} wörld", |_| n += 1);
            assert!(n < 200);
        }
    }
}
