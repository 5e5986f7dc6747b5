//! Byte-pair encoding with ranked merges (GPT-2 and its descendants) over a checked GGUF vocabulary.
//!
//! Text → NFC where the model wants it → pieces by the split rule → merges by rank.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::cache::WordCache;
use super::gguf::{CheckedVocab, TokenType};
use super::merge::Merger;
use super::pretokenizers::{Alphabet, PreTokenizer};
use super::split::Splitter;
use super::texts::{Hash, Index, Texts};
use super::word_starts::WordStarts;
use super::{MARK, bytes};
use crate::{Result, TextError};

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

/// Rank and result of a merge.
#[derive(Debug, Clone, Copy)]
struct Merge {
    pair: u64,
    rank: u32,
    id: u32,
}

/// Merges by pair.  Two pairs with one hash are kept apart by looking at the pair.
#[derive(Debug)]
struct Merges {
    hash: Hash,
    by_hash: HashMap<u64, Merge, BuildHasherDefault<Passed>>,
    /// What did not fit, because of equal hashes.
    others: HashMap<u64, Merge>,
}

impl Merges {
    fn new(list: &[(u32, u32, u32)]) -> Self {
        let by_hash = HashMap::with_capacity_and_hasher(list.len(), BuildHasherDefault::default());
        let mut out = Self { hash: Hash::new(), by_hash, others: HashMap::new() };
        for (rank, &(left, right, id)) in (0u32..).zip(list) {
            let merge = Merge { pair: pair(left, right), rank, id };
            let slot = out.by_hash.entry(out.hash.number(merge.pair)).or_insert(merge);
            if slot.pair != merge.pair {
                out.others.entry(merge.pair).or_insert(merge);
            }
        }
        out
    }

    #[inline]
    fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let pair = pair(left, right);
        let found = self.by_hash.get(&self.hash.number(pair))?;
        let found = if found.pair == pair { found } else { self.others.get(&pair)? };
        Some((found.rank, found.id))
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// The encoder.
#[derive(Debug)]
pub(super) struct Bpe {
    splitter: Splitter,
    nfc: bool,
    alphabet: Alphabet,
    ignore_merges: bool,
    /// White space separates words and is dropped.
    drop_spaces: bool,
    lowercase: bool,
    byte_ids: [Option<u32>; 256],
    unk: Option<u32>,
    merges: Merges,
    /// Where longer pieces may be cut further without changing the outcome.
    starts: Option<WordStarts>,
    /// Tokens that are taken whole, by what they stand for; only where the model asks for it.
    whole: Option<(Texts, Vec<u32>, Index)>,
}

/// Buffers of one call.
pub(super) struct Scratch {
    merger: Merger<u32>,
    cache: WordCache,
}

impl Bpe {
    pub(super) fn new(vocab: &CheckedVocab, pre: &PreTokenizer, unk: Option<u32>, drop_spaces: bool, lowercase: bool) -> Result<Self> {
        let byte_ids = std::array::from_fn(|i| {
            let byte = u8::try_from(i).unwrap_or_default();
            let spelled = bytes::char_of(byte);
            let stand_in = vocab.id(spelled.encode_utf8(&mut [0; 4])).filter(|_| pre.alphabet == Alphabet::Bytes);
            stand_in.or_else(|| vocab.id(&format!("<0x{byte:02X}>")))
        });
        Ok(Self {
            splitter: Splitter::new(pre.splits)?,
            nfc: pre.nfc,
            alphabet: pre.alphabet,
            ignore_merges: pre.ignore_merges,
            drop_spaces,
            lowercase: lowercase && drop_spaces,
            byte_ids,
            unk,
            merges: Merges::new(&vocab.merges),
            starts: (pre.alphabet == Alphabet::Characters).then(|| WordStarts::new(vocab, |_| true)),
            whole: (pre.ignore_merges && pre.alphabet == Alphabet::Bytes).then(|| whole(vocab)),
        })
    }

    pub(super) fn scratch() -> Scratch {
        Scratch { merger: Merger::default(), cache: WordCache::new() }
    }

    /// Appends the ids of `text`, in which no special tokens are looked for.
    pub(super) fn encode(&self, vocab: &super::Vocabulary, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        let text = self.normalise(text);
        let mut each = |piece: &str| match &self.starts {
            None => self.word(vocab, piece, scratch, out),
            Some(starts) => starts.words(piece, |word| self.word(vocab, word, scratch, out)),
        };
        if !self.drop_spaces {
            return self.splitter.pieces(&text, &mut each);
        }
        text.split_whitespace().try_for_each(|word| self.splitter.pieces(word, &mut each))
    }

    fn normalise<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.alphabet {
            Alphabet::Characters if text.contains(' ') => return Cow::Owned(text.replace(' ', MARK)),
            Alphabet::Words if self.lowercase => return Cow::Owned(text.chars().flat_map(char::to_lowercase).collect()),
            _ => {}
        }
        let is_nfc = || is_nfc_quick(text.chars()) == IsNormalized::Yes;
        if !self.nfc || text.is_ascii() || is_nfc() {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.nfc().map(|(c, _)| c).collect())
    }

    fn word(&self, vocab: &super::Vocabulary, word: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        let Scratch { merger, cache } = scratch;
        cache.ids(word.as_bytes(), out, |out| {
            if let Some(id) = self.whole_word(vocab, word) {
                out.push(id);
                return Ok(());
            }
            merger.symbols.clear();
            match self.alphabet {
                Alphabet::Bytes => self.push_bytes(word.as_bytes(), &mut merger.symbols)?,
                Alphabet::Characters | Alphabet::Words => {
                    for (at, c) in word.char_indices() {
                        let c = word.get(at..at + c.len_utf8()).unwrap_or_default();
                        match vocab.find(c.as_bytes()) {
                            Some(id) => merger.symbols.push(id),
                            None => self.push_bytes(c.as_bytes(), &mut merger.symbols)?,
                        }
                    }
                }
            }
            merger.run(|l, r| self.merges.find(l, r));
            out.extend_from_slice(&merger.symbols);
            Ok(())
        })
    }

    /// The token that a piece is without merging.
    fn whole_word(&self, vocab: &super::Vocabulary, word: &str) -> Option<u32> {
        if self.alphabet == Alphabet::Characters {
            return vocab.find(word.as_bytes()).filter(|_| self.ignore_merges && word.bytes().all(|b| b == b'\n'));
        }
        let (texts, ids, index) = self.whole.as_ref()?;
        index.find(texts, word.as_bytes()).and_then(|at| ids.get(at as usize)).copied()
    }

    fn push_bytes(&self, raw: &[u8], symbols: &mut Vec<u32>) -> Result<()> {
        for &byte in raw {
            let id = self.byte_ids.get(usize::from(byte)).copied().flatten().or(self.unk);
            symbols.push(id.ok_or(TextError::NoToken { byte })?);
        }
        Ok(())
    }
}

/// Ordinary tokens by the bytes they stand for.
fn whole(vocab: &CheckedVocab) -> (Texts, Vec<u32>, Index) {
    let (mut texts, mut ids) = (Texts::default(), Vec::new());
    for (id, token) in vocab.tokens.iter() {
        let token = std::str::from_utf8(token).unwrap_or_default();
        if vocab.kind(id) == TokenType::Normal && !token.is_empty() && texts.push_with(|out| bytes::push_token(out, token)) {
            ids.push(id);
        }
    }
    let index = Index::new(&texts, |_| true);
    (texts, ids, index)
}
