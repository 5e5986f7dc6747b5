//! Tokens, their bytes and their roles, by id; and how text follows from them.

use super::texts::{Index, Texts};
use super::{MARK, SpecialToken, bytes};

/// How decoded text follows from tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// Text is the concatenation of the tokens' bytes, read as UTF-8.
    Bytes,
    /// Text depends on neighbouring tokens.
    Window,
    /// As `Window`; a run of byte tokens becomes text as a whole.
    WindowHoldingBytes,
    /// Any token may change the text of any other.
    Whole,
}

/// How the tokens of a GGUF vocabulary become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joining {
    /// Their bytes, one after the other.
    Bytes,
    /// Runs of byte tokens are read as UTF-8 where they are; the first space may have been added by the encoder.
    Spm { strip_first: bool },
    /// The first token loses its word marks.
    Unigram,
    /// Words have spaces between them, but not before punctuation.
    WordPiece,
}

/// Tokens, their bytes and their roles, by id.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub tokens: Texts,
    /// What each token stands for.
    raw: Texts,
    index: Index,
    pub special: Vec<SpecialToken>,
    control: Vec<bool>,
    byte: Vec<bool>,
    pub decoding: Decoding,
    pub joining: Joining,
}

impl Vocabulary {
    /// `raw` writes what a token stands for.
    pub(super) fn new(
        tokens: Texts,
        index: Index,
        special: Vec<SpecialToken>,
        (decoding, joining): (Decoding, Joining),
        raw: impl Fn(u32, &str, &mut Vec<u8>),
    ) -> Self {
        let mut control = vec![false; tokens.len()];
        for token in special.iter().filter(|t| t.control) {
            if let Some(flag) = control.get_mut(token.id as usize) {
                *flag = true;
            }
        }
        let mut texts = Texts::with_capacity(tokens.len(), tokens.iter().map(|(_, t)| t.len()).sum());
        let mut byte = Vec::with_capacity(tokens.len());
        for (id, token) in tokens.iter() {
            let token = std::str::from_utf8(token).unwrap_or_default();
            byte.push(decoding == Decoding::WindowHoldingBytes && bytes::byte_token(token).is_some());
            // What tokens stand for is no longer than they are, so this always fits.
            let _ = texts.push_with(|out| raw(id, token, out));
        }
        Self { tokens, raw: texts, index, special, control, byte, decoding, joining }
    }

    pub(super) fn find(&self, token: &[u8]) -> Option<u32> {
        self.index.find(&self.tokens, token)
    }

    pub(super) fn token(&self, id: u32) -> Option<&str> {
        self.tokens.str(id).filter(|t| !t.is_empty())
    }

    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.raw.get(id).filter(|_| self.token(id).is_some())
    }

    pub(super) fn is_control(&self, id: u32) -> bool {
        self.control.get(id as usize).copied().unwrap_or(false)
    }

    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.byte.get(id as usize).copied().unwrap_or(false)
    }

    /// The text of tokens, ids without a token left out.
    pub(super) fn join(&self, ids: impl Iterator<Item = u32>) -> String {
        let ids = ids.filter(|&id| self.token(id).is_some());
        match self.joining {
            Joining::Bytes => {
                let raw: Vec<u8> = ids.flat_map(|id| self.bytes(id).unwrap_or_default()).copied().collect();
                String::from_utf8_lossy(&raw).into_owned()
            }
            Joining::Spm { strip_first } => self.join_spm(ids, strip_first),
            Joining::Unigram => self.join_unigram(ids),
            Joining::WordPiece => self.join_words(ids),
        }
    }

    fn join_spm(&self, ids: impl Iterator<Item = u32>, strip_first: bool) -> String {
        let (mut out, mut run) = (String::new(), Vec::new());
        let flush = |run: &mut Vec<u8>, out: &mut String| {
            match std::str::from_utf8(run) {
                Ok(text) => out.push_str(text),
                Err(_) => out.extend(run.iter().map(|_| '\u{FFFD}')),
            }
            run.clear();
        };
        for id in ids {
            let bytes = self.bytes(id).unwrap_or_default();
            if self.is_byte(id) {
                run.extend_from_slice(bytes);
            } else {
                flush(&mut run, &mut out);
                out.push_str(std::str::from_utf8(bytes).unwrap_or_default());
            }
        }
        flush(&mut run, &mut out);
        if strip_first && out.starts_with(' ') {
            out.remove(0);
        }
        out
    }

    fn join_unigram(&self, ids: impl Iterator<Item = u32>) -> String {
        let mut out = String::new();
        for (n, id) in ids.enumerate() {
            if n == 0 {
                out.push_str(&self.token(id).unwrap_or_default().replace(MARK, ""));
            } else {
                out.push_str(std::str::from_utf8(self.bytes(id).unwrap_or_default()).unwrap_or_default());
            }
        }
        out
    }

    fn join_words(&self, ids: impl Iterator<Item = u32>) -> String {
        let mut out = String::new();
        for (n, id) in ids.enumerate() {
            let token = self.token(id).unwrap_or_default();
            let begins = token.strip_prefix(MARK).or_else(|| self.special.binary_search_by_key(&id, |s| s.id).is_ok().then_some(token));
            let spelled = match (n, begins) {
                (0, Some(word)) => word.to_owned(),
                (0, None) => format!("##{token}"),
                (_, Some(word)) => format!(" {word}"),
                (_, None) => token.to_owned(),
            };
            out.push_str(&without_artefacts(spelled));
        }
        out
    }
}

/// The clean-up of BERT's decoder, on each token by itself.
fn without_artefacts(token: String) -> String {
    const REPLACED: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(token, |token, (from, to)| if token.contains(from) { token.replace(from, to) } else { token })
}
