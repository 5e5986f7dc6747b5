//! Tokens one by one → text that can be shown at once.
//!
//! [`TextStream`] emits whole characters only and, put together, exactly what decoding all ids at once gives.
//! [`StopMatcher`] cuts text at stop strings that may begin in one chunk and end in another.

use std::borrow::Borrow;

use crate::tokenizer::Decoding;
use crate::{Result, Tokenizer};

/// Decodes a growing sequence of ids.  `T` is `&Tokenizer`, `Arc<Tokenizer>` or the like.
///
/// Byte-level tokenizers decode in constant time per token and, with [`push_into`](Self::push_into), without
/// allocating.  Other kinds decode a short window of recent tokens; a run of byte-fallback tokens is held back
/// until it ends, because its text is only known then.  Where a decoder of a `tokenizer.json` may change text that
/// it gave before (it joins equal neighbours, or cuts the end), all is held back until [`finish`](Self::finish).
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    skip_special: bool,
    /// Bytes of an unfinished character.
    pending: Vec<u8>,
    /// Ids that still influence what comes.
    window: Vec<u32>,
    /// How many ids of the window are fully emitted.
    emitted: usize,
    /// Their text, as decoded from the start of the window.
    prefix: String,
}

impl<T: Borrow<Tokenizer>> TextStream<T> {
    /// A stream at its beginning; `skip_special` leaves control tokens out of the text.
    pub fn new(tokenizer: T, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, pending: Vec::new(), window: Vec::new(), emitted: 0, prefix: String::new() }
    }

    /// Takes one id; the text that became certain with it, if any.
    ///
    /// # Errors
    /// The decoder of a `tokenizer.json` failed.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let mut out = String::new();
        self.push_into(id, &mut out)?;
        Ok(Some(out).filter(|s| !s.is_empty()))
    }

    /// As [`push`](Self::push), appending to `out`.
    ///
    /// # Errors
    /// The decoder of a `tokenizer.json` failed.
    pub fn push_into(&mut self, id: u32, out: &mut String) -> Result<()> {
        let tokenizer = self.tokenizer.borrow();
        if tokenizer.token(id).is_none() || (self.skip_special && tokenizer.is_control(id)) {
            return Ok(());
        }
        match tokenizer.decoding() {
            Decoding::Bytes => {
                self.pending.extend_from_slice(tokenizer.token_bytes(id).unwrap_or_default());
                drain_utf8(&mut self.pending, out);
                Ok(())
            }
            Decoding::Window | Decoding::WindowHoldingBytes => {
                self.window.push(id);
                if tokenizer.is_byte_token(id) {
                    return Ok(());
                }
                let text = tokenizer.decode(&self.window, self.skip_special)?;
                if text.ends_with('\u{FFFD}') {
                    return Ok(());
                }
                self.emit(&text, out)
            }
            Decoding::Whole => {
                self.window.push(id);
                Ok(())
            }
        }
    }

    /// The text still held back; the stream is at its beginning again afterwards.
    ///
    /// # Errors
    /// The decoder of a `tokenizer.json` failed.
    pub fn finish(&mut self) -> Result<String> {
        let mut out = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        if self.window.len() > self.emitted {
            let text = self.tokenizer.borrow().decode(&self.window, self.skip_special)?;
            out.push_str(behind(&text, &self.prefix));
        }
        self.window.clear();
        self.prefix.clear();
        self.emitted = 0;
        Ok(out)
    }

    /// Emits what `text`, the decoded window, has beyond the prefix, and moves the window on.
    fn emit(&mut self, text: &str, out: &mut String) -> Result<()> {
        let new = behind(text, &self.prefix);
        if new.is_empty() {
            return Ok(());
        }
        out.push_str(new);
        // What cuts the beginning of a text has cut all it will when something is left of the emitted tokens.
        let (mut from, mut back) = (self.emitted, 1);
        self.emitted = self.window.len();
        loop {
            self.prefix = self.tokenizer.borrow().decode(self.window.get(from..).unwrap_or_default(), self.skip_special)?;
            if from == 0 || !self.prefix.is_empty() {
                break;
            }
            from = from.saturating_sub(back);
            back *= 2;
        }
        self.window.drain(..from);
        self.emitted -= from;
        Ok(())
    }
}

/// `text` without as many bytes as `prefix` has.
fn behind<'t>(text: &'t str, prefix: &str) -> &'t str {
    text.get(prefix.len()..).unwrap_or_default()
}

/// Moves whole characters from `pending` to `out`; bytes that can no longer become one turn into U+FFFD.
fn drain_utf8(pending: &mut Vec<u8>, out: &mut String) {
    let mut used = 0;
    while let Some(rest) = pending.get(used..).filter(|r| !r.is_empty()) {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                used += rest.len();
            }
            Err(e) => {
                let valid = rest.get(..e.valid_up_to()).unwrap_or_default();
                out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                used += valid.len();
                let Some(bad) = e.error_len() else { break };
                out.push('\u{FFFD}');
                used += bad;
            }
        }
    }
    pending.drain(..used);
}

/// Watches a growing text for stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: Option<usize>,
}

impl StopMatcher {
    /// Watches for `stops`; empty strings among them are ignored.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|s: &String| !s.is_empty()).collect();
        Self { stops, held: String::new(), stopped: None }
    }

    /// Takes more text; returns what is certainly before any stop string.  Nothing after one.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        self.held.push_str(text);
        // A longer stop string that began earlier and is still unfinished comes first in the text.
        let hold_from = (0..self.held.len()).find(|&at| self.may_begin_stop(at)).unwrap_or(self.held.len());
        let keep = match self.first_hit() {
            Some((at, which)) if at <= hold_from => {
                self.stopped = Some(which);
                at
            }
            _ => hold_from,
        };
        let rest = self.held.split_off(keep);
        let out = std::mem::replace(&mut self.held, rest);
        if self.stopped.is_some() {
            self.held.clear();
        }
        out
    }

    /// Text held back as a possible beginning of a stop string that never came.
    pub fn finish(&mut self) -> String {
        if let Some((at, which)) = self.first_hit() {
            self.held.truncate(at);
            self.stopped = Some(which);
        }
        std::mem::take(&mut self.held)
    }

    /// Where the leftmost stop string in the held text begins, and which it is.
    fn first_hit(&self) -> Option<(usize, usize)> {
        let found = |(which, stop): (usize, &String)| self.held.find(stop.as_str()).map(|at| (at, which));
        self.stops.iter().enumerate().filter_map(found).min()
    }

    /// The stop string that was found.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.and_then(|which| self.stops.get(which)).map(String::as_str)
    }

    /// Whether all text from byte `at` on is a proper beginning of a stop string.
    fn may_begin_stop(&self, at: usize) -> bool {
        let tail = self.held.get(at..);
        tail.is_some_and(|tail| self.stops.iter().any(|stop| stop.len() > tail.len() && stop.starts_with(tail)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn incremental_utf8_is_lossy_utf8(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xF0), Just(0x9F), Just(0x98), Just(0x80), Just(b'a')], 0..24)) {
            let (mut pending, mut out) = (Vec::new(), String::new());
            for &b in &bytes {
                pending.push(b);
                drain_utf8(&mut pending, &mut out);
                prop_assert!(pending.len() < 4);
            }
            out.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn chunks_do_not_change_where_text_stops(text in "[abc]{0,16}", cut in prop::collection::vec(any::<bool>(), 16)) {
            let stops = ["abc", "bb", "caca"];
            let expected = match stops.iter().filter_map(|s| text.find(s)).min() {
                Some(at) => &text[..at],
                None => &text,
            };
            let mut matcher = StopMatcher::new(stops);
            let (mut out, mut chunk) = (String::new(), String::new());
            for (c, cut) in text.chars().zip(cut) {
                chunk.push(c);
                if cut {
                    out += &matcher.push(&std::mem::take(&mut chunk));
                }
            }
            out += &matcher.push(&chunk);
            out += &matcher.finish();
            prop_assert_eq!(out, expected);
            prop_assert_eq!(matcher.stopped().is_some(), expected.len() < text.len());
        }
    }

    #[test]
    fn a_partial_stop_is_held_and_released() {
        let mut m = StopMatcher::new(["<|im_end|>", ""]);
        assert_eq!(m.push("hi <|im"), "hi ");
        assert_eq!(m.push("possible"), "<|impossible");
        assert_eq!(m.push(" <|im_end"), " ");
        assert_eq!(m.push("|> tail"), "");
        assert_eq!(m.stopped(), Some("<|im_end|>"));
        assert_eq!(m.push("more") + &m.finish(), "");
    }

    #[test]
    fn a_stop_inside_an_unfinished_longer_one_counts_at_the_end() {
        let mut m = StopMatcher::new(["abc", "b"]);
        assert_eq!(m.push("xab"), "x");
        assert_eq!(m.finish(), "a");
        assert_eq!(m.stopped(), Some("b"));
    }
}
