//! WordPiece (`bert` in GGUF): normalised words, each cut into the longest tokens from the left.
//! Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>.
//!
//! GGUF files write the first piece of a word with `▁` before it and the others bare; `vocab.txt` writes the
//! first bare and the others with `##`.

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use super::cache::WordCache;
use super::gguf::{CheckedVocab, TokenType};
use super::texts::Index;
use super::{MARK, Vocabulary};
use crate::{Result, TextError};

/// Longer words are unknown.
const MAX_WORD_CHARS: usize = 100;

/// The encoder.
#[derive(Debug)]
pub(super) struct WordPiece {
    index: Index,
    longest: usize,
    unk: Option<u32>,
    lowercase: bool,
    strip_accents: bool,
}

/// Buffers of one call.
pub(super) struct Scratch {
    word: String,
    n_chars: usize,
    cache: WordCache,
}

impl WordPiece {
    pub(super) fn new(vocab: &CheckedVocab, unk: Option<u32>, lowercase: bool, strip_accents: bool) -> Self {
        let wanted = |id| vocab.kind(id) == TokenType::Normal && vocab.tokens.get(id).is_some_and(|t| !t.is_empty());
        let longest = vocab.tokens.iter().map(|(_, t)| t.len()).max().unwrap_or_default();
        Self { index: Index::new(&vocab.tokens, wanted), longest, unk, lowercase, strip_accents }
    }

    pub(super) fn scratch() -> Scratch {
        Scratch { word: MARK.into(), n_chars: 0, cache: WordCache::new() }
    }

    /// Appends the ids of `text`, in which no special tokens are looked for.
    pub(super) fn encode(&self, vocab: &Vocabulary, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        let clean = text.chars().filter(|&c| !is_dropped(c)).map(|c| if c.is_whitespace() { ' ' } else { c });
        let spaced =
            clean.flat_map(|c| if is_cjk(c) { [Some(' '), Some(c), Some(' ')] } else { [Some(c), None, None] }.into_iter().flatten());
        let lower = |c: char| c.to_lowercase().filter(|_| self.lowercase).chain((!self.lowercase).then_some(c));
        if self.strip_accents && !text.is_ascii() {
            let bare = spaced.nfd().map(|(c, _)| c).filter(|c| !c.is_mark_nonspacing());
            return self.words(vocab, bare.flat_map(lower), scratch, out);
        }
        self.words(vocab, spaced.flat_map(lower), scratch, out)
    }

    fn words(&self, vocab: &Vocabulary, chars: impl Iterator<Item = char>, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        for c in chars {
            if c.is_whitespace() {
                self.word(vocab, scratch, out)?;
            } else if c.is_ascii_punctuation() || c.is_punctuation() {
                self.word(vocab, scratch, out)?;
                scratch.word.push(c);
                scratch.n_chars = 1;
                self.word(vocab, scratch, out)?;
            } else {
                // Not even the beginning of a word that is too long is looked at.
                if scratch.n_chars <= MAX_WORD_CHARS {
                    scratch.word.push(c);
                }
                scratch.n_chars += 1;
            }
        }
        self.word(vocab, scratch, out)
    }

    /// Appends the ids of the word in `scratch`, and empties it.
    fn word(&self, vocab: &Vocabulary, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        let Scratch { word, n_chars, cache } = scratch;
        if *n_chars > 0 {
            let too_long = *n_chars > MAX_WORD_CHARS;
            cache.ids(word.as_bytes(), out, |out| {
                let before = out.len();
                if too_long || !self.pieces(vocab, word, out) {
                    out.truncate(before);
                    let byte = word.as_bytes().get(MARK.len()).copied().unwrap_or_default();
                    out.push(self.unk.ok_or(TextError::NoToken { byte })?);
                }
                Ok::<_, TextError>(())
            })?;
        }
        word.truncate(MARK.len());
        *n_chars = 0;
        Ok(())
    }

    /// False when some part of the word is no token.
    fn pieces(&self, vocab: &Vocabulary, word: &str, out: &mut Vec<u32>) -> bool {
        let bytes = word.as_bytes();
        let mut from = 0;
        while from < bytes.len() {
            // The mark alone is no piece, and only the first piece begins with it.
            let shortest = if from == 0 { MARK.len() } else { from };
            let mut to = bytes.len().min(from + self.longest);
            let id = loop {
                let Some(piece) = bytes.get(from..to).filter(|_| to > shortest) else { break None };
                let found = self.index.find(&vocab.tokens, piece);
                if let Some(id) = found.filter(|_| from == 0 || !piece.starts_with(MARK.as_bytes())) {
                    break Some(id);
                }
                to -= 1;
            };
            let Some(id) = id else { return false };
            out.push(id);
            from = to;
        }
        true
    }
}

/// Control, format, private and unassigned characters, as BERT's normaliser drops them.
fn is_dropped(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && (c == '\u{FFFD}' || c.is_other())
}

/// Ideographs, which are words of their own.
fn is_cjk(c: char) -> bool {
    matches!(u32::from(c), 0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}
