//! Making a tokenizer of a GGUF vocabulary: which kind, with which defaults.

use super::bpe::Bpe;
use super::gguf::{self, CheckedVocab, GgufVocab, TokenType};
use super::pretokenizers::{self, Alphabet, PreTokenizer};
use super::rwkv::{self, Rwkv};
use super::special::SpecialSplitter;
use super::spm::Spm;
use super::unigram::Unigram;
use super::vocabulary::{Decoding, Joining};
use super::wordpiece::WordPiece;
use super::{Encoder, MARK, SpecialToken, Tokenizer, Vocabulary, bytes};
use crate::{Result, TextError};

/// Values of `tokenizer.ggml.model` that are read.
pub(crate) const MODELS: [&str; 7] = ["gpt2", "gemma4", "whitespace", "llama", "t5", "bert", "rwkv"];

/// Tokens that end a turn, in the order in which they are looked for when the file does not name one.
const TURN_ENDS: [&str; 12] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// The encoder of a GGUF vocabulary.
#[derive(Debug)]
pub(super) struct GgufEncoder {
    model: Model,
    /// Control, unknown and user-defined tokens.
    all_specials: SpecialSplitter,
    /// User-defined tokens, which are text even from a stranger.
    user_defined: SpecialSplitter,
}

#[derive(Debug)]
enum Model {
    Bpe(Bpe),
    Spm(Spm),
    Unigram(Unigram),
    WordPiece(WordPiece),
    Rwkv(Rwkv),
}

/// What the file's kind of vocabulary says where the file itself does not.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    sep: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_sep: bool,
}

const NONE: Defaults = Defaults { bos: None, eos: None, unk: None, sep: None, pad: None, add_bos: false, add_eos: false, add_sep: false };

fn defaults(model: &str, pre: Option<&PreTokenizer>) -> Defaults {
    match model {
        "llama" => Defaults { bos: Some(1), eos: Some(2), unk: Some(0), add_bos: true, ..NONE },
        "t5" => Defaults { eos: Some(1), unk: Some(2), pad: Some(0), add_eos: true, ..NONE },
        "bert" => Defaults { bos: Some(101), unk: Some(100), sep: Some(102), pad: Some(0), add_bos: true, add_sep: true, ..NONE },
        _ => Defaults { add_bos: pre.is_some_and(|p| p.add_bos), add_sep: pre.is_some_and(|p| p.add_sep), ..NONE },
    }
}

impl Tokenizer {
    /// From the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// The kind of vocabulary or its split rule is unknown, or its parts contradict each other.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        let model = vocab.model.as_str();
        if !MODELS.contains(&model) {
            return Err(TextError::UnsupportedVocab { model: vocab.model.clone(), known: MODELS.join(", ") });
        }
        let pre = pre_tokenizer(vocab)?;
        let mut checked = gguf::check(vocab)?;
        mark_control(&mut checked, model);
        let has_text = |id: u32| checked.tokens.get(id).is_some_and(|t| !t.is_empty());
        let mut d = defaults(model, pre);
        for id in [&mut d.bos, &mut d.eos, &mut d.unk, &mut d.sep, &mut d.pad] {
            *id = id.filter(|&id| has_text(id));
        }
        let sep = vocab.sep_id.or(d.sep);
        let bos = vocab.bos_id.or(if model == "bert" { vocab.cls_id } else { None }).or(d.bos);
        let (eos, unk) = (vocab.eos_id.or(d.eos), vocab.unk_id.or(d.unk));
        let written = [("bos_token_id", bos), ("eos_token_id", eos), ("unknown_token_id", unk), ("seperator_token_id", sep)];
        if let Some((field, Some(id))) = written.into_iter().find(|(_, id)| id.is_some_and(|id| !has_text(id))) {
            return Err(TextError::vocab(field, format!("token {id} is an empty text, expected a token that can be written")));
        }
        // Gemma 4 was published with a wrong value.
        let forced = pre.is_some_and(|p| p.alphabet == Alphabet::Characters && p.add_bos);
        let add_bos = forced || vocab.add_bos.unwrap_or(d.add_bos);
        let (add_eos, add_sep) = (vocab.add_eos.unwrap_or(d.add_eos), vocab.add_sep.unwrap_or(d.add_sep));
        let needed = [
            ("add_bos_token", add_bos && (vocab.add_bos.is_some() || model != "gpt2"), bos),
            ("add_eos_token", add_eos, eos),
            ("add_sep_token", add_sep && model == "bert", sep),
        ];
        if let Some((field, ..)) = needed.into_iter().find(|(_, wanted, id)| *wanted && id.is_none()) {
            return Err(TextError::vocab(field, "true, but the file does not say which token that is"));
        }
        let turn_end = TURN_ENDS.iter().find_map(|name| checked.id(name)).filter(|&id| checked.kind(id) == TokenType::Control);
        let encoder = encoder(vocab, &checked, pre, unk)?;
        let vocabulary = vocabulary(vocab, checked, pre);
        let encoder = encoder.finish(&vocabulary, unk)?;
        Ok(Self {
            encoder: Encoder::Gguf(Box::new(encoder)),
            vocabulary,
            bos,
            eos,
            eot: vocab.eot_id.or(turn_end.filter(|&id| Some(id) != eos)),
            eom: vocab.eom_id,
            pad: vocab.pad_id.or(d.pad),
            unk,
            sep,
            fim: vocab.fim_ids,
            add_bos,
            add_eos,
            add_sep,
        })
    }
}

/// The split rule, for kinds of vocabulary that have one.
fn pre_tokenizer(vocab: &GgufVocab) -> Result<Option<&'static PreTokenizer>> {
    let name = match vocab.model.as_str() {
        "gpt2" | "whitespace" => vocab.pre.as_deref().filter(|name| !name.is_empty()).unwrap_or("default"),
        "gemma4" => "gemma4",
        _ => return Ok(None),
    };
    let unknown = || TextError::UnknownPre { pre: name.to_owned(), known: pretokenizers::known() };
    pretokenizers::find(name).map(Some).ok_or_else(unknown)
}

/// Tokens that end turns, and T5's sentinels, are control tokens also where the file takes them for others.
fn mark_control(vocab: &mut CheckedVocab, model: &str) {
    for name in TURN_ENDS.iter().filter(|name| name.len() > 5) {
        let Some(id) = vocab.id(name) else { continue };
        if let Some(kind) = vocab.types.get_mut(id as usize).filter(|k| **k == TokenType::Normal) {
            *kind = TokenType::Control;
        }
    }
    for ((_, token), kind) in vocab.tokens.iter().zip(&mut vocab.types).filter(|_| model == "t5") {
        if *kind == TokenType::UserDefined && token.starts_with(b"<extra_id_") {
            *kind = TokenType::Control;
        }
    }
}

/// An encoder, but for what needs the finished vocabulary.
struct Unfinished {
    model: Option<Model>,
    all_specials: SpecialSplitter,
    user_defined: SpecialSplitter,
}

impl Unfinished {
    fn finish(self, vocabulary: &Vocabulary, unk: Option<u32>) -> Result<GgufEncoder> {
        let Self { model, all_specials, user_defined } = self;
        let model = match model {
            Some(model) => model,
            None => Model::Rwkv(Rwkv::new(vocabulary, unk)?),
        };
        Ok(GgufEncoder { model, all_specials, user_defined })
    }
}

fn encoder(vocab: &GgufVocab, checked: &CheckedVocab, pre: Option<&PreTokenizer>, unk: Option<u32>) -> Result<Unfinished> {
    let special = |wanted: &[TokenType]| {
        let tokens = checked.tokens.iter().filter(|(id, _)| wanted.contains(&checked.kind(*id)));
        SpecialSplitter::new(tokens.map(|(id, text)| (text, id)))
    };
    let scores = || {
        let missing = || TextError::vocab("scores", format!("missing, and a `{}` vocabulary cannot be used without", vocab.model));
        vocab.scores.as_deref().ok_or_else(missing)
    };
    let lowercase = vocab.lowercase.unwrap_or(true);
    let single_spaces = vocab.remove_extra_whitespaces.unwrap_or(false);
    let model = match (vocab.model.as_str(), pre) {
        ("llama", _) => Model::Spm(Spm::new(checked, scores()?, unk, vocab.add_space_prefix.unwrap_or(true), single_spaces)),
        ("t5", _) => {
            let map = vocab.precompiled_charsmap.as_deref();
            Model::Unigram(Unigram::new(checked, scores()?, unk, map, vocab.add_space_prefix.unwrap_or(false), single_spaces)?)
        }
        ("bert", _) => Model::WordPiece(WordPiece::new(checked, unk, lowercase, vocab.strip_accents.unwrap_or(lowercase))),
        (model, Some(pre)) => {
            let words = model == "whitespace";
            Model::Bpe(Bpe::new(checked, pre, unk, words, words && vocab.lowercase.unwrap_or(false))?)
        }
        (_, None) => {
            let (all_specials, user_defined) = (special(&[TokenType::Control])?, special(&[])?);
            return Ok(Unfinished { model: None, all_specials, user_defined });
        }
    };
    Ok(Unfinished {
        model: Some(model),
        all_specials: special(&[TokenType::Control, TokenType::UserDefined, TokenType::Unknown])?,
        user_defined: special(&[TokenType::UserDefined])?,
    })
}

impl GgufEncoder {
    /// Appends the ids of `text`; `parse_special` says whether control tokens in it are recognised.
    pub(super) fn encode(&self, vocab: &Vocabulary, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<()> {
        let splitter = if parse_special { &self.all_specials } else { &self.user_defined };
        let mut each = |encode: &mut dyn FnMut(&str, &mut Vec<u32>) -> Result<()>| {
            for (plain, special) in splitter.split(text) {
                encode(plain, out)?;
                out.extend(special);
            }
            Ok(())
        };
        match &self.model {
            Model::Bpe(bpe) => {
                let mut scratch = Bpe::scratch();
                each(&mut |text, out| bpe.encode(vocab, text, &mut scratch, out))
            }
            Model::Spm(spm) => {
                let mut scratch = Spm::scratch();
                each(&mut |text, out| spm.encode(vocab, text, &mut scratch, out))
            }
            Model::Unigram(unigram) => {
                let mut scratch = Unigram::scratch();
                each(&mut |text, out| unigram.encode(text, &mut scratch, out))
            }
            Model::WordPiece(words) => {
                let mut scratch = WordPiece::scratch();
                each(&mut |text, out| words.encode(vocab, text, &mut scratch, out))
            }
            Model::Rwkv(rwkv) => each(&mut |text, out| rwkv.encode(text, out)),
        }
    }

    /// Whether the second text of a pair begins like a text of its own, and has a type of its own.
    pub(super) fn is_word_piece(&self) -> bool {
        matches!(self.model, Model::WordPiece(_))
    }
}

fn vocabulary(vocab: &GgufVocab, checked: CheckedVocab, pre: Option<&PreTokenizer>) -> Vocabulary {
    let CheckedVocab { tokens, index, types, .. } = checked;
    let kind = |id: u32| types.get(id as usize).copied().unwrap_or(TokenType::Normal);
    let is_special = |id: &u32| matches!(kind(*id), TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
    let special = (0..tokens.len() as u32).filter(is_special);
    let special =
        special.map(|id| SpecialToken { id, text: tokens.str(id).unwrap_or_default().into(), control: kind(id) != TokenType::UserDefined });
    let special = special.filter(|t| !t.text.is_empty()).collect();
    let with_marks = |id: u32, token: &str, out: &mut Vec<u8>| match bytes::byte_token(token) {
        Some(byte) if kind(id) == TokenType::Byte => out.push(byte),
        _ => out.extend_from_slice(token.replace(MARK, " ").as_bytes()),
    };
    let spelled_out = (Decoding::WindowHoldingBytes, Joining::Spm { strip_first: false });
    match (vocab.model.as_str(), pre.map(|p| p.alphabet)) {
        ("llama", _) => {
            let strip_first = vocab.add_space_prefix.unwrap_or(true);
            Vocabulary::new(tokens, index, special, (Decoding::WindowHoldingBytes, Joining::Spm { strip_first }), with_marks)
        }
        (_, Some(Alphabet::Characters)) => Vocabulary::new(tokens, index, special, spelled_out, with_marks),
        ("t5", _) => Vocabulary::new(tokens, index, special, (Decoding::Window, Joining::Unigram), with_marks),
        ("bert", _) => {
            let raw = |_, token: &str, out: &mut Vec<u8>| match token.strip_prefix(MARK) {
                Some(word) => {
                    out.push(b' ');
                    out.extend_from_slice(word.as_bytes());
                }
                None => out.extend_from_slice(token.as_bytes()),
            };
            Vocabulary::new(tokens, index, special, (Decoding::Window, Joining::WordPiece), raw)
        }
        ("rwkv", _) => {
            let raw = |id, token: &str, out: &mut Vec<u8>| {
                if kind(id).is_literal() { out.extend_from_slice(token.as_bytes()) } else { rwkv::unescape(token, out) }
            };
            Vocabulary::new(tokens, index, special, (Decoding::Bytes, Joining::Bytes), raw)
        }
        (_, alphabet) => {
            let raw = |id, token: &str, out: &mut Vec<u8>| match bytes::byte_token(token) {
                Some(byte) if kind(id) == TokenType::Byte => out.push(byte),
                _ if kind(id).is_literal() || alphabet == Some(Alphabet::Words) => out.extend_from_slice(token.as_bytes()),
                _ => bytes::push_token(out, token),
            };
            Vocabulary::new(tokens, index, special, (Decoding::Bytes, Joining::Bytes), raw)
        }
    }
}
