//! How each `tokenizer.ggml.pre` splits text before merging: one line per name.
//!
//! The patterns are those of the models' `tokenizer.json`, with one change: the alternative `\s+(?!\S)`
//! (whitespace gives its last character to the word that follows) is not in the pattern but in [`Spaces`],
//! because without look-ahead the pattern runs on a linear-time automaton.

/// What happens to a whitespace match of two or more characters that text follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spaces {
    /// Nothing.
    Keep,
    /// Its last character is left for the next match.
    YieldLast,
    /// As `YieldLast`, unless it ends in a line break.
    YieldLastUnlessNewline,
}

/// One splitting pass; matches and the gaps between them become pieces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub pattern: &'static str,
    pub spaces: Spaces,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizer {
    pub names: &'static [&'static str],
    /// Applied one after the other, each to the pieces of the one before.
    pub splits: &'static [Split],
    /// Text is brought to Unicode NFC first, as the models' `tokenizer.json` does (llama.cpp does not).
    pub nfc: bool,
    /// A piece that is a token is taken whole, without merging.
    pub ignore_merges: bool,
    /// Whether a beginning-of-sequence token is added when the file does not say.
    pub add_bos: bool,
}

const DIGIT: Split = Split { pattern: r"\p{N}", spaces: Spaces::Keep };
const GPT2: Split = Split { pattern: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", spaces: Spaces::YieldLast };
const QWEN2: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    spaces: Spaces::YieldLastUnlessNewline,
};
const QWEN35: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    spaces: Spaces::YieldLastUnlessNewline,
};
const LLAMA3: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    spaces: Spaces::YieldLastUnlessNewline,
};

const PLAIN: PreTokenizer = PreTokenizer { names: &[], splits: &[], nfc: false, ignore_merges: false, add_bos: false };

/// Every name that is understood.
#[rustfmt::skip]
pub(super) const TABLE: &[PreTokenizer] = &[
    PreTokenizer { names: &["default", "gpt-2"], splits: &[GPT2], ..PLAIN },
    PreTokenizer { names: &["qwen2"], splits: &[QWEN2], nfc: true, ..PLAIN },
    PreTokenizer { names: &["qwen35"], splits: &[QWEN35], nfc: true, ..PLAIN },
    PreTokenizer { names: &["llama-bpe", "llama3", "llama-v3"], splits: &[LLAMA3], ignore_merges: true, add_bos: true, ..PLAIN },
    PreTokenizer { names: &["smollm"], splits: &[DIGIT, GPT2], ..PLAIN },
];

/// The row of `name`.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// All names, for messages.
pub(super) fn known() -> String {
    TABLE.iter().flat_map(|row| row.names.iter().copied()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_patterns_need_no_backtracking() {
        let mut names: Vec<_> = TABLE.iter().flat_map(|r| r.names).collect();
        let total = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), total);
        for split in TABLE.iter().flat_map(|r| r.splits) {
            assert!(!split.pattern.contains("(?!") && !split.pattern.contains("(?="), "{}", split.pattern);
        }
    }
}
