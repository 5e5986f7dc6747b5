//! The split rules of GPT-2 and its descendants, by hand: one pass over the characters, no regular expression.

use super::classes::{Classes, DIGIT, LETTER, MARK, NUMBER, SPACE, WORD};
use super::pretokenizers::Threes;

/// Whether `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d` are pieces of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contractions {
    None,
    Lower,
    AnyCase,
}

/// What one character may stand before the letters of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    /// A space, also before numbers.
    Space,
    /// Anything but letters, numbers and line breaks.
    AnyButLineBreak,
}

/// How many digits make a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digits {
    UpTo(usize),
    /// All, with a space before them.
    RunAfterSpace,
}

/// What happens to white space before other text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spaces {
    /// Its last character is left for what follows.
    YieldLast,
    /// So, and the rest is cut into runs of 512, 256, … 2, 1.
    PowersOfTwo,
}

/// One rule of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Words {
    pub contractions: Contractions,
    pub lead: Lead,
    /// Combining marks count as letters.
    pub marks: bool,
    pub digits: Digits,
    /// White space up to a line break is a piece, and line breaks stay with the symbols before them.
    pub line_breaks: bool,
    pub spaces: Spaces,
}

/// Longest piece of [`Spaces::PowersOfTwo`], in characters.
const LONGEST_CUT: usize = 512;

/// A position in text, with what is there.
struct Cursor<'t> {
    text: &'t str,
    classes: Classes,
}

impl Cursor<'_> {
    /// The character at byte `at`, its flags and where the next one begins.
    #[inline]
    fn at(&self, at: usize) -> Option<(char, u8, usize)> {
        let byte = *self.text.as_bytes().get(at)?;
        let c = if byte < 0x80 { char::from(byte) } else { self.text.get(at..)?.chars().next()? };
        Some((c, self.classes.of(c), at + c.len_utf8()))
    }

    /// Where the run of characters that `wanted` accepts ends, at most `limit` of them.
    #[inline]
    fn run(&self, mut at: usize, limit: usize, wanted: impl Fn(char, u8) -> bool) -> usize {
        let mut left = limit;
        while let Some((c, flags, next)) = self.at(at) {
            if left == 0 || !wanted(c, flags) {
                break;
            }
            left -= 1;
            at = next;
        }
        at
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

impl Words {
    /// The end of the piece that begins at byte `from` of `text`; every character belongs to some piece.
    /// `plain` remembers from call to call up to where white space without line breaks is known to reach.
    pub(super) fn piece_end(&self, text: &str, from: usize, classes: Classes, plain: &mut usize) -> usize {
        let cursor = Cursor { text, classes };
        let Some((c, flags, next)) = cursor.at(from) else { return text.len() };
        if c == '\''
            && let Some(end) = self.contraction(&cursor, next)
        {
            return end;
        }
        let letters = if self.marks { LETTER | MARK } else { LETTER };
        let letter = |_, f| f & letters != 0;
        let behind = cursor.at(next);
        let is_lead = match self.lead {
            Lead::Space => c == ' ',
            Lead::AnyButLineBreak => flags & (LETTER | NUMBER) == 0 && !is_break(c),
        };
        if flags & letters != 0 || (is_lead && behind.is_some_and(|(_, f, _)| f & letters != 0)) {
            return cursor.run(next, usize::MAX, letter);
        }
        if let Some(end) = self.number(&cursor, (c, flags, next), behind) {
            return end;
        }
        let symbol = |_, f| f & (SPACE | NUMBER | letters) == 0;
        if symbol(c, flags) || (c == ' ' && behind.is_some_and(|(c, f, _)| symbol(c, f))) {
            let end = cursor.run(next, usize::MAX, symbol);
            return if self.line_breaks { cursor.run(end, usize::MAX, |c, _| is_break(c)) } else { end };
        }
        self.white_space(&cursor, from, plain)
    }

    /// The end of a contraction whose apostrophe ends at `at`.
    fn contraction(&self, cursor: &Cursor<'_>, at: usize) -> Option<usize> {
        let fold = |c: char| match self.contractions {
            // The long s is an s in another case.
            Contractions::AnyCase => {
                if c == 'ſ' {
                    's'
                } else {
                    c.to_ascii_lowercase()
                }
            }
            _ => c,
        };
        if self.contractions == Contractions::None {
            return None;
        }
        let (first, _, next) = cursor.at(at)?;
        match fold(first) {
            's' | 't' | 'm' | 'd' => Some(next),
            first => {
                let (second, _, end) = cursor.at(next)?;
                matches!((first, fold(second)), ('r' | 'v', 'e') | ('l', 'l')).then_some(end)
            }
        }
    }

    fn number(&self, cursor: &Cursor<'_>, (c, flags, next): (char, u8, usize), behind: Option<(char, u8, usize)>) -> Option<usize> {
        let number = |_, f| f & NUMBER != 0;
        match self.digits {
            Digits::UpTo(n) if flags & NUMBER != 0 => Some(cursor.run(next, n - 1, number)),
            Digits::RunAfterSpace if flags & NUMBER != 0 || (c == ' ' && behind.is_some_and(|(_, f, _)| f & NUMBER != 0)) => {
                Some(cursor.run(next, usize::MAX, number))
            }
            _ => None,
        }
    }

    fn white_space(&self, cursor: &Cursor<'_>, from: usize, plain: &mut usize) -> usize {
        let (mut at, mut n, mut last, mut after_break) = (from, 0usize, from, None);
        // A long run that is cut into many pieces is searched for line breaks only once.
        let horizon = if from < *plain { LONGEST_CUT + 1 } else { usize::MAX };
        while let Some((c, flags, next)) = cursor.at(at).filter(|_| n < horizon) {
            if flags & SPACE == 0 {
                break;
            }
            (last, at, n) = (at, next, n + 1);
            if is_break(c) {
                after_break = Some(next);
            }
        }
        if let Some(end) = after_break.filter(|_| self.line_breaks) {
            return end;
        }
        *plain = at.max(*plain);
        let available = if at == cursor.text.len() { n } else { n.saturating_sub(1) };
        match self.spaces {
            Spaces::YieldLast if available > 0 && available < n => last,
            Spaces::YieldLast => at,
            Spaces::PowersOfTwo => {
                let cut = [LONGEST_CUT, 256, 128, 64, 32, 16, 8, 4, 2, 1].into_iter().find(|&k| k <= available).unwrap_or(1);
                cursor.run(from, cut, |_, _| true)
            }
        }
    }
}

impl Threes {
    /// Calls `each` with the pieces of `text`: groups of three digits, counted from the right of each run.
    pub(super) fn split<E>(self, text: &str, classes: Classes, each: &mut dyn FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let cursor = Cursor { text, classes };
        let class = if self == Self::Numbers { NUMBER } else { DIGIT };
        let (mut start, mut at) = (0, 0);
        let mut emit = |from: usize, to: usize| match text.get(from..to) {
            Some(piece) if !piece.is_empty() => each(piece),
            _ => Ok(()),
        };
        while let Some((_, flags, next)) = cursor.at(at) {
            if flags & class == 0 {
                at = next;
                continue;
            }
            let end = cursor.run(at, usize::MAX, |_, f| f & class != 0);
            let bounded = cursor.at(end).is_none_or(|(_, f, _)| f & WORD == 0);
            if self == Self::DigitsBeforeBoundary && !bounded {
                at = end;
                continue;
            }
            if self != Self::Digits {
                emit(start, at)?;
                start = at;
            }
            let mut left = text.get(at..end).map_or(0, |run| run.chars().count());
            while left > 0 {
                if left.is_multiple_of(3) {
                    emit(start, at)?;
                    start = at;
                }
                at = cursor.run(at, 1, |_, _| true);
                left -= 1;
            }
            if self != Self::Digits {
                emit(start, end)?;
                start = end;
            }
        }
        emit(start, text.len())
    }
}
