//! How each `tokenizer.ggml.pre` splits text before merging: one line per name.
//!
//! The names are llama.cpp's; the patterns are those of the models' `tokenizer.json`.  Where llama.cpp
//! approximates a pattern because its regular expressions know no letter case, combining marks or possessive
//! repetition, the model's own pattern counts, so that a GGUF file gives the ids of the `tokenizer.json` it was
//! made from.

use super::words::{Contractions, Digits, Lead, Spaces, Words};

/// How matches of a pattern are found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// By an automaton in linear time.  A final `|\s+(?!\S)|\s+` is run as `|\s+` and the look-ahead by hand.
    Automaton,
    /// The same for an equivalent pattern, where the published one is written for a backtracking engine.
    AutomatonOf(&'static str),
    /// By hand.
    Words(Words),
    /// By hand: runs of digits in groups of three, counted from the right.
    Threes(Threes),
}

/// Which digits are grouped from the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threes {
    /// Runs of `\p{N}`.
    Numbers,
    /// Runs of `\d`; what is before a run stays with its first, shorter group.
    Digits,
    /// Runs of `\d` that end at a word boundary.
    DigitsBeforeBoundary,
}

/// One splitting pass; matches and the gaps between them become pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    /// As `tokenizer.json` writes it.
    pub pattern: &'static str,
    pub how: How,
}

/// What the merges work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// Bytes, in GPT-2's stand-in characters.
    Bytes,
    /// Characters, spaces written as `▁`, with `<0xNN>` for what has no token.
    Characters,
    /// Characters of words; white space is dropped.
    Words,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PreTokenizer {
    pub names: &'static [&'static str],
    /// Applied one after the other, each to the pieces of the one before.
    pub splits: &'static [Split],
    /// Text is brought to Unicode NFC first, as the models' `tokenizer.json` does (llama.cpp does not).
    pub nfc: bool,
    /// A piece that is a token is taken whole, without merging; of [`Alphabet::Characters`] only runs of line
    /// breaks, for which Gemma has tokens but no merges.
    pub ignore_merges: bool,
    /// Whether a beginning-of-sequence token is added when the file does not say.
    pub add_bos: bool,
    /// Whether a pair of texts has a separator between.
    pub add_sep: bool,
    pub alphabet: Alphabet,
}

const fn by_automaton(pattern: &'static str) -> Split {
    Split { pattern, how: How::Automaton }
}

const WORDS: Words = Words {
    contractions: Contractions::AnyCase,
    lead: Lead::AnyButLineBreak,
    marks: false,
    digits: Digits::UpTo(1),
    line_breaks: true,
    spaces: Spaces::YieldLast,
};

const GPT2: Split = Split {
    pattern: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    how: How::Words(Words {
        contractions: Contractions::Lower,
        lead: Lead::Space,
        digits: Digits::RunAfterSpace,
        line_breaks: false,
        ..WORDS
    }),
};
const QWEN2: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    how: How::Words(WORDS),
};
const QWEN35: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    how: How::Words(Words { marks: true, ..WORDS }),
};
const LLAMA3: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    how: How::Words(Words { digits: Digits::UpTo(3), ..WORDS }),
};
const MINICPM5: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    how: How::Words(Words { digits: Digits::UpTo(usize::MAX), ..WORDS }),
};
const UFAKZEKA: Split = Split {
    pattern: r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    how: How::Words(Words { contractions: Contractions::None, ..WORDS }),
};
const JAIS2: Split = Split {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
    how: How::Words(Words { digits: Digits::UpTo(3), spaces: Spaces::PowersOfTwo, ..WORDS }),
};
const SEED_CODER: Split =
    by_automaton(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+");
const GPT_4O: Split = by_automaton(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const YOUTU: Split = by_automaton(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: Split = by_automaton(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const KIMI_K2: Split = by_automaton(
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const EXAONE_MOE: Split = by_automaton(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
);
const BAILING: Split = Split {
    pattern: r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    how: How::AutomatonOf(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"),
};
const DEEPSEEK3: Split = by_automaton(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
);
const SPARK: Split = by_automaton(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
);
const NUMBER: Split = by_automaton(r"\p{N}");
const NUMBERS: Split = by_automaton(r"\p{N}+");
const NUMBERS_OF_THREE: Split = by_automaton(r"\p{N}{1,3}");
const THREE_DIGITS: Split = by_automaton(r"[0-9][0-9][0-9]");
const LINE_BREAK: Split = by_automaton(r"[\r\n]");
const LINES: Split = by_automaton(r"[^\n]+|[\n]+");
const CJK_AND_KANA: Split = by_automaton(r"[一-龥぀-ゟ゠-ヿ]+");
const CJK_AND_HANGUL: Split = by_automaton(r"[一-龥ࠀ-一가-퟿]+");
const ALL_BUT_PUNCTUATION: Split = by_automaton(r" ?[^(\s|.,!?…。，、।۔،)]+");
/// Letters with case, by range.
const CASED: Split = by_automaton(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], splits: &[], nfc: false, ignore_merges: false, add_bos: false, add_sep: false, alphabet: Alphabet::Bytes };

/// Every name that is understood.
#[rustfmt::skip]
pub(crate) const TABLE: &[PreTokenizer] = &[
    PreTokenizer { names: &["default"], splits: &[by_automaton(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, NUMBERS, THREE_DIGITS], ..PLAIN },
    PreTokenizer { names: &["gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"], splits: &[GPT2], ..PLAIN },
    PreTokenizer { names: &["jina-v1-en", "jina-v2-code", "roberta-bpe"], splits: &[GPT2], add_sep: true, ..PLAIN },
    PreTokenizer { names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"], splits: &[NUMBER, GPT2], ..PLAIN },
    PreTokenizer { names: &["falcon"], splits: &[by_automaton(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, THREE_DIGITS], ..PLAIN },
    PreTokenizer { names: &["qwen2"], splits: &[QWEN2], nfc: true, ..PLAIN },
    PreTokenizer { names: &["deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"], splits: &[QWEN2], ..PLAIN },
    PreTokenizer { names: &["qwen35"], splits: &[QWEN35], nfc: true, ..PLAIN },
    PreTokenizer { names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"], splits: &[LLAMA3], ignore_merges: true, add_bos: true, ..PLAIN },
    PreTokenizer { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], splits: &[LLAMA3], ..PLAIN },
    PreTokenizer { names: &["glm4", "glm5"], splits: &[LLAMA3], ignore_merges: true, ..PLAIN },
    PreTokenizer { names: &["jais-2"], splits: &[JAIS2], ..PLAIN },
    PreTokenizer { names: &["minicpm5"], splits: &[NUMBERS_OF_THREE, MINICPM5], ignore_merges: true, ..PLAIN },
    PreTokenizer { names: &["ufakzeka"], splits: &[UFAKZEKA], ..PLAIN },
    PreTokenizer { names: &["seed-coder"], splits: &[SEED_CODER], ..PLAIN },
    PreTokenizer { names: &["laguna"], splits: &[LINES, QWEN2], ..PLAIN },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], splits: &[GPT_4O], ..PLAIN },
    PreTokenizer { names: &["granite-embed-multi-97m"], splits: &[GPT_4O], ignore_merges: true, ..PLAIN },
    PreTokenizer { names: &["tiny_aya", "cohere2moe"], splits: &[Split { pattern: r"\d{1,3}(?=(?:\d{3})*\b)", how: How::Threes(Threes::DigitsBeforeBoundary) }, GPT_4O], ..PLAIN },
    PreTokenizer { names: &["youtu"], splits: &[by_automaton(r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"), YOUTU], ignore_merges: true, ..PLAIN },
    PreTokenizer { names: &["tekken"], splits: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    PreTokenizer { names: &["kimi-k2"], splits: &[KIMI_K2], ..PLAIN },
    PreTokenizer { names: &["exaone-moe"], splits: &[EXAONE_MOE], ..PLAIN },
    PreTokenizer { names: &["bailingmoe", "bailingmoe2", "llada-moe"], splits: &[BAILING], ..PLAIN },
    PreTokenizer { names: &["superbpe"], splits: &[NUMBERS, Split { pattern: r"(?=(\d{3})+(?!\d))", how: How::Threes(Threes::Digits) }], ..PLAIN },
    PreTokenizer { names: &["afmoe"], splits: &[
        Split { pattern: r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", how: How::Threes(Threes::Numbers) },
        by_automaton(r"[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"),
        DEEPSEEK3], ..PLAIN },
    PreTokenizer { names: &["deepseek-llm"], splits: &[
        LINE_BREAK, CASED,
        by_automaton(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), by_automaton(r"\s+$"), CJK_AND_HANGUL, NUMBERS], ..PLAIN },
    PreTokenizer { names: &["deepseek-coder"], splits: &[LINE_BREAK, by_automaton(r"\s?\p{L}+"), by_automaton(r"\s?\p{P}+"), CJK_AND_HANGUL, NUMBER], ..PLAIN },
    PreTokenizer { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], splits: &[NUMBERS_OF_THREE, CJK_AND_KANA, DEEPSEEK3], ..PLAIN },
    PreTokenizer { names: &["spark2_5"], splits: &[NUMBERS_OF_THREE, CJK_AND_KANA, SPARK, NUMBER], ..PLAIN },
    PreTokenizer { names: &["poro-chat", "bloom", "gpt3-finnish"], splits: &[ALL_BUT_PUNCTUATION], ..PLAIN },
    PreTokenizer { names: &["viking"], splits: &[ALL_BUT_PUNCTUATION, NUMBER], ..PLAIN },
    PreTokenizer { names: &["chameleon"], splits: &[
        by_automaton(r"<sentinel:[0-9]+>"), by_automaton(r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"), by_automaton(r"([\t\n]|    |  )"),
        NUMBER, by_automaton(r"[\p{P}!-/:-@\[-`{-~]"), GPT2], add_bos: true, ..PLAIN },
    PreTokenizer { names: &["gemma4", "granite-embed-multi-311m"], splits: &[LINES], ignore_merges: true, add_bos: true, alphabet: Alphabet::Characters, ..PLAIN },
    PreTokenizer { names: &["sarvam-moe"], splits: &[LINES], alphabet: Alphabet::Characters, ..PLAIN },
    PreTokenizer { names: &["whitespace"], splits: &[by_automaton(r"\S+")], alphabet: Alphabet::Words, ..PLAIN },
];

/// The row of `name`.
pub(crate) fn find(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// All names, for messages.
pub(crate) fn known() -> String {
    TABLE.iter().flat_map(|row| row.names.iter().copied()).collect::<Vec<_>>().join(", ")
}
