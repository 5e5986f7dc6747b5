//! Byte-level BPE (GPT-2 and its descendants) over a checked GGUF vocabulary.
//!
//! Text → special tokens cut out → NFC where the model wants it → pieces by the split rule → merges by rank.

use std::borrow::Cow;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use fancy_regex::Regex;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::bytes;
use super::gguf::{CheckedVocab, TokenType};
use super::pretokenizers::{PreTokenizer, Spaces, Split};
use super::special::SpecialSplitter;
use crate::{Result, TextError};

/// Pieces up to this many symbols are merged by scanning, longer ones with a queue.
const SCAN_LIMIT: usize = 40;
/// Distinct pieces remembered within one call.
const CACHE_LIMIT: usize = 1 << 16;
/// Longer pieces are not worth remembering.
const CACHE_PIECE_BYTES: usize = 64;

/// Hash of a token pair: one multiplication.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, x: u64) {
        let mixed = (self.0 ^ x).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

/// Rank and result of a merge.
#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

#[derive(Debug)]
struct Pass {
    regex: Regex,
    spaces: Spaces,
}

/// The encoder.
#[derive(Debug)]
pub(super) struct ByteBpe {
    passes: Vec<Pass>,
    nfc: bool,
    ignore_merges: bool,
    byte_ids: [Option<u32>; 256],
    unk: Option<u32>,
    merges: HashMap<u64, Merge, BuildHasherDefault<PairHasher>>,
    /// Whole tokens by their bytes, only where pieces that are tokens are taken whole.
    whole: HashMap<Box<[u8]>, u32>,
    /// Control and user-defined tokens.
    all_specials: SpecialSplitter,
    /// User-defined tokens, which are text even from a stranger.
    user_defined: SpecialSplitter,
}

/// Buffers of one call.
#[derive(Default)]
struct Scratch {
    symbols: Vec<u32>,
    cache: HashMap<Box<[u8]>, Box<[u32]>>,
}

impl ByteBpe {
    pub(super) fn new(vocab: &CheckedVocab, pre: &PreTokenizer, unk: Option<u32>) -> Result<Self> {
        let passes = pre.splits.iter().map(pass).collect::<Result<_>>()?;
        let byte_ids = std::array::from_fn(|i| {
            let byte = u8::try_from(i).unwrap_or_default();
            let spelled = vocab.ids.get(bytes::char_of(byte).encode_utf8(&mut [0; 4]) as &str);
            spelled.or_else(|| vocab.ids.get(&format!("<0x{byte:02X}>"))).copied()
        });
        let mut merges = HashMap::with_capacity_and_hasher(vocab.merges.len(), BuildHasherDefault::default());
        for (rank, &(left, right, id)) in (0u32..).zip(&vocab.merges) {
            merges.entry(pair(left, right)).or_insert(Merge { rank, id });
        }
        let special = |wanted: &[TokenType]| {
            let typed = (0u32..).zip(vocab.tokens.iter().zip(&vocab.types));
            SpecialSplitter::new(typed.filter(|(_, (_, t))| wanted.contains(t)).map(|(id, (text, _))| (text.as_str(), id)))
        };
        let mut whole = HashMap::new();
        if pre.ignore_merges {
            for ((id, token), kind) in (0u32..).zip(&vocab.tokens).zip(&vocab.types) {
                let mut raw = Vec::new();
                bytes::push_token(&mut raw, token);
                if *kind == TokenType::Normal && !raw.is_empty() {
                    whole.insert(raw.into_boxed_slice(), id);
                }
            }
        }
        Ok(Self {
            passes,
            nfc: pre.nfc,
            ignore_merges: pre.ignore_merges,
            byte_ids,
            unk,
            merges,
            whole,
            all_specials: special(&[TokenType::Control, TokenType::UserDefined, TokenType::Unknown]),
            user_defined: special(&[TokenType::UserDefined]),
        })
    }

    /// Appends the ids of `text`; `parse_special` says whether control tokens in it are recognised.
    pub(super) fn encode(&self, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<()> {
        let splitter = if parse_special { &self.all_specials } else { &self.user_defined };
        let mut scratch = Scratch::default();
        for (plain, special) in splitter.split(text) {
            let plain = self.normalise(plain);
            self.pieces(&plain, 0, &mut |piece| self.piece(piece, &mut scratch, out))?;
            out.extend(special);
        }
        Ok(())
    }

    fn normalise<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let is_nfc = || is_nfc_quick(text.chars()) == IsNormalized::Yes;
        if !self.nfc || text.is_ascii() || is_nfc() {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.nfc().map(|(c, _)| c).collect())
    }

    /// Calls `each` with every piece of `text` after pass `at` and the ones behind it.
    fn pieces(&self, text: &str, at: usize, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let Some(pass) = self.passes.get(at) else {
            return if text.is_empty() { Ok(()) } else { each(text) };
        };
        let mut from = 0;
        while from < text.len() {
            let found = pass.regex.find_from_pos(text, from);
            let found = found.map_err(|e| TextError::Tokenizer { action: "encode", reason: e.to_string() })?;
            let (start, end) = match found {
                Some(m) if !m.as_str().is_empty() => (m.start(), pass.end_of(text, m.start(), m.end())),
                _ => (text.len(), text.len()),
            };
            for range in [from..start, start..end] {
                if let Some(piece) = text.get(range).filter(|p| !p.is_empty()) {
                    self.pieces(piece, at + 1, each)?;
                }
            }
            from = end;
        }
        Ok(())
    }

    fn piece(&self, piece: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        let raw = piece.as_bytes();
        if self.ignore_merges
            && let Some(&id) = self.whole.get(raw)
        {
            out.push(id);
            return Ok(());
        }
        if let Some(ids) = scratch.cache.get(raw) {
            out.extend_from_slice(ids);
            return Ok(());
        }
        scratch.symbols.clear();
        for &byte in raw {
            let id = self.byte_ids.get(usize::from(byte)).copied().flatten().or(self.unk);
            scratch.symbols.push(id.ok_or(TextError::NoToken { byte })?);
        }
        if scratch.symbols.len() <= SCAN_LIMIT {
            self.merge_by_scan(&mut scratch.symbols);
        } else {
            self.merge_by_queue(&mut scratch.symbols);
        }
        out.extend_from_slice(&scratch.symbols);
        if raw.len() <= CACHE_PIECE_BYTES && scratch.cache.len() < CACHE_LIMIT {
            scratch.cache.insert(raw.into(), scratch.symbols.as_slice().into());
        }
        Ok(())
    }

    fn merge_of(&self, left: u32, right: u32) -> Option<Merge> {
        self.merges.get(&pair(left, right)).copied()
    }

    /// Best pair first, leftmost among equals, by looking at all pairs each time: quickest for short pieces.
    fn merge_by_scan(&self, symbols: &mut Vec<u32>) {
        loop {
            let candidates = symbols.windows(2).enumerate().filter_map(|(at, w)| match *w {
                [left, right] => self.merge_of(left, right).map(|m| (m.rank, at, m.id)),
                _ => None,
            });
            let Some((_, at, id)) = candidates.min() else {
                return;
            };
            if let Some(left) = symbols.get_mut(at) {
                *left = id;
            }
            symbols.remove(at + 1);
        }
    }

    /// The same in O(n log n): a linked list of symbols and a queue of the pairs in it.
    fn merge_by_queue(&self, symbols: &mut Vec<u32>) {
        const NONE: usize = usize::MAX;
        #[derive(Clone, Copy)]
        struct Node {
            id: u32,
            prev: usize,
            next: usize,
        }
        let n = symbols.len();
        let link = |(at, &id): (usize, &u32)| Node { id, prev: at.wrapping_sub(1), next: if at + 1 < n { at + 1 } else { NONE } };
        let mut nodes: Vec<Node> = symbols.iter().enumerate().map(link).collect();
        // Smallest rank, then leftmost.  An entry is stale when its symbols are no longer what they were.
        let mut queue = BinaryHeap::new();
        let entry = |nodes: &[Node], at: usize| {
            let left = nodes.get(at)?;
            let right = nodes.get(left.next)?;
            let merge = self.merge_of(left.id, right.id)?;
            Some(std::cmp::Reverse((merge.rank, at, left.id, right.id, merge.id)))
        };
        queue.extend((0..n).filter_map(|at| entry(&nodes, at)));
        let mut alive = vec![true; n];
        while let Some(std::cmp::Reverse((_, at, left_id, right_id, id))) = queue.pop() {
            let (Some(true), Some(&left)) = (alive.get(at), nodes.get(at)) else {
                continue;
            };
            let Some(&right) = nodes.get(left.next) else {
                continue;
            };
            if left.id != left_id || right.id != right_id {
                continue;
            }
            if let Some(dead) = alive.get_mut(left.next) {
                *dead = false;
            }
            if let Some(node) = nodes.get_mut(right.next) {
                node.prev = at;
            }
            if let Some(node) = nodes.get_mut(at) {
                *node = Node { id, prev: left.prev, next: right.next };
            }
            queue.extend(entry(&nodes, left.prev));
            queue.extend(entry(&nodes, at));
        }
        symbols.clear();
        symbols.extend(nodes.iter().zip(&alive).filter(|(_, alive)| **alive).map(|(node, _)| node.id));
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

fn pass(split: &Split) -> Result<Pass> {
    let regex = Regex::new(split.pattern);
    let regex = regex.map_err(|e| TextError::vocab("pre", format!("pattern `{}`: {e}", split.pattern)))?;
    Ok(Pass { regex, spaces: split.spaces })
}

impl Pass {
    /// Where the match `start..end` really ends: `\s+(?!\S)` without look-ahead.
    fn end_of(&self, text: &str, start: usize, end: usize) -> usize {
        let Some(last) = text.get(start..end).and_then(|m| m.chars().next_back()) else {
            return end;
        };
        let yields = match self.spaces {
            Spaces::Keep => false,
            Spaces::YieldLast => last.is_whitespace(),
            Spaces::YieldLastUnlessNewline => last.is_whitespace() && !matches!(last, '\r' | '\n'),
        };
        let shorter = end - last.len_utf8();
        if yields && end < text.len() && shorter > start { shorter } else { end }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::gguf::{GgufVocab, check};
    use super::super::pretokenizers;
    use super::*;

    /// Letters a, b, c and a few merges whose order matters.
    fn toy() -> ByteBpe {
        let mut tokens: Vec<String> = (0u8..=255).map(|b| bytes::char_of(b).to_string()).collect();
        let merges = ["a b", "b c", "ab ab", "c a", "bc a", "abab c", "b b", "bb a", "a a", "aa aa", "aaaa aaaa"];
        tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
        let vocab = GgufVocab { model: "gpt2".into(), tokens, merges: merges.map(String::from).to_vec(), ..GgufVocab::default() };
        let checked = check(&vocab).expect("a sound vocabulary");
        ByteBpe::new(&checked, pretokenizers::find("gpt-2").expect("in the table"), None).expect("patterns compile")
    }

    proptest! {
        #[test]
        fn queue_and_scan_merge_alike(text in "[abc]{0,80}") {
            let bpe = toy();
            let start: Vec<u32> = text.bytes().map(u32::from).collect();
            let (mut scan, mut queue) = (start.clone(), start);
            bpe.merge_by_scan(&mut scan);
            bpe.merge_by_queue(&mut queue);
            prop_assert_eq!(scan, queue);
        }

        /// The table's pattern with [`Spaces`] splits as the published pattern with its look-ahead.
        #[test]
        fn yielding_spaces_is_the_published_look_ahead(text in "[a1.\\n\\r \\t\u{3000}']{0,24}") {
            for row in pretokenizers::TABLE {
                for split in row.splits.iter().filter(|s| s.spaces != Spaces::Keep) {
                    let bpe = ByteBpe { passes: vec![pass(split).expect("compiles")], ..toy() };
                    let published = split.pattern.strip_suffix(r"|\s+").expect("ends in spaces");
                    let published = Regex::new(&format!(r"{published}|\s+(?!\S)|\s+")).expect("compiles");
                    let expected: Vec<&str> = published.find_iter(&text).map(|m| m.expect("no limit").as_str()).collect();
                    let mut found = Vec::new();
                    bpe.pieces(&text, 0, &mut |p| { found.push(p.to_owned()); Ok(()) }).expect("splits");
                    prop_assert_eq!(&found, &expected, "{}", split.pattern);
                }
            }
        }
    }

    #[test]
    fn a_megabyte_of_one_letter_takes_no_quadratic_time() {
        let started = std::time::Instant::now();
        let mut ids = Vec::new();
        toy().encode(&"a".repeat(1 << 20), true, &mut ids).expect("encodes");
        assert_eq!(ids.len(), 1 << 17, "runs of eight merge into one token");
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
