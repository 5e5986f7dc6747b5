//! What kind of character: the classes that split rules ask for, in one table.

use std::sync::LazyLock;

/// `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 2;
/// `\p{M}`.
pub(super) const MARK: u8 = 4;
/// `\s`.
pub(super) const SPACE: u8 = 8;
/// `\d`.
pub(super) const DIGIT: u8 = 16;
/// `\w`.
pub(super) const WORD: u8 = 32;

const PATTERNS: [(&str, u8); 6] = [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\p{M}", MARK), (r"\s", SPACE), (r"\d", DIGIT), (r"\w", WORD)];

const BLOCK: usize = 128;
const N_CHARS: usize = 0x11_0000;

/// Two levels: the block of a character, then its flags in the block.  Equal blocks are stored once.
struct Table {
    blocks: Vec<u16>,
    flags: Vec<[u8; BLOCK]>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let ranges: Vec<(u32, u32, u8)> = PATTERNS.iter().flat_map(|&(pattern, flag)| ranges(pattern, flag)).collect();
    let mut table = Table { blocks: Vec::with_capacity(N_CHARS / BLOCK), flags: Vec::new() };
    let mut seen = std::collections::HashMap::new();
    for start in (0..N_CHARS as u32).step_by(BLOCK) {
        let mut flags = [0; BLOCK];
        for &(from, to, flag) in &ranges {
            for c in from.max(start)..(to + 1).min(start + BLOCK as u32) {
                if let Some(slot) = flags.get_mut((c - start) as usize) {
                    *slot |= flag;
                }
            }
        }
        let next = u16::try_from(table.flags.len()).unwrap_or_default();
        let block = *seen.entry(flags).or_insert(next);
        if block == next && usize::from(next) == table.flags.len() {
            table.flags.push(flags);
        }
        table.blocks.push(block);
    }
    table
});

/// The ranges of a character class; none for a pattern that is something else.
fn ranges(pattern: &str, flag: u8) -> Vec<(u32, u32, u8)> {
    let parsed = regex_syntax::parse(pattern);
    match parsed.as_ref().map(regex_syntax::hir::Hir::kind) {
        Ok(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class))) => {
            class.iter().map(|r| (u32::from(r.start()), u32::from(r.end()), flag)).collect()
        }
        _ => Vec::new(),
    }
}

/// The classes of characters, looked up without going through the lock each time.
#[derive(Clone, Copy)]
pub(super) struct Classes(&'static Table);

impl Classes {
    pub(super) fn get() -> Self {
        Self(&TABLE)
    }

    /// The flags of `c`.
    #[inline]
    pub(super) fn of(self, c: char) -> u8 {
        let at = c as usize;
        let block = self.0.blocks.get(at / BLOCK).copied().unwrap_or_default();
        self.0.flags.get(usize::from(block)).and_then(|f| f.get(at % BLOCK)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_the_standard_library_where_it_has_them() {
        let classes = Classes::get();
        for c in '\0'..=char::MAX {
            assert_eq!(classes.of(c) & SPACE != 0, c.is_whitespace(), "{c:?}");
            assert!(classes.of(c) & LETTER == 0 || c.is_alphabetic(), "{c:?}");
        }
        assert_eq!(classes.of('é'), LETTER | WORD);
        assert_eq!(classes.of('7'), NUMBER | DIGIT | WORD);
        assert_eq!(classes.of('²'), NUMBER);
        assert_eq!(classes.of('\u{301}'), MARK | WORD);
        assert_eq!(classes.of('\u{3000}'), SPACE);
        assert_eq!(classes.of('+'), 0);
    }

    #[test]
    fn the_table_is_small() {
        assert!(TABLE.flags.len() < 400, "{} blocks", TABLE.flags.len());
    }
}
