//! RWKV's vocabulary: the longest token from the left, over bytes.

use super::Vocabulary;
use super::trie::Trie;
use crate::{Result, TextError};

/// The encoder.
#[derive(Debug)]
pub(super) struct Rwkv {
    trie: Trie,
    unk: Option<u32>,
}

impl Rwkv {
    /// Of a vocabulary whose tokens' bytes are unescaped.
    pub(super) fn new(vocab: &Vocabulary, unk: Option<u32>) -> Result<Self> {
        let ids = (0..vocab.tokens.len() as u32).filter(|&id| !vocab.is_control(id));
        Ok(Self { trie: Trie::new(ids.filter_map(|id| Some((id, vocab.bytes(id)?))))?, unk })
    }

    /// Appends the ids of `text`, in which no special tokens are looked for.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut rest = text.as_bytes();
        while let Some(&byte) = rest.first() {
            let mut longest = None;
            self.trie.prefixes(rest, |n, id| longest = Some((n, id)));
            let (n, id) = longest.or(self.unk.map(|id| (1, id))).ok_or(TextError::NoToken { byte })?;
            out.push(id);
            rest = rest.get(n..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Appends the bytes of a token written with `\t`, `\n`, `\r`, `\xNN` and backslashes before other characters.
pub(super) fn unescape(token: &str, out: &mut Vec<u8>) {
    let mut rest = token.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&kind, behind)) = rest.split_first() else { return };
        rest = behind;
        match kind {
            b't' => out.push(b'\t'),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b'x' => {
                let hex = rest.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
                out.extend(hex);
                rest = rest.get(2..).unwrap_or_default();
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_bytes() {
        let mut out = Vec::new();
        unescape(r"a\t\n\x00\xff\\\'é", &mut out);
        assert_eq!(out, b"a\t\n\x00\xff\\'\xc3\xa9");
    }
}
