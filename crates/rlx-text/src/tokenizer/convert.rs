//! `tokenizer.json` ↔ GGUF vocabulary, for byte-level BPE.
//!
//! The split rule is a name in GGUF and a list of patterns in `tokenizer.json`; the two meet in the table of split
//! rules, and a rule that it lacks is an error with the patterns.  Special tokens become token types and back.  What
//! follows llama.cpp's `convert_hf_to_gguf.py`: names of keys, `[PAD…]` for ids that the model has and the tokenizer
//! lacks.  Tokenizers of other kinds (SentencePiece, unigram, WordPiece) are refused.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::GgufVocab;
use super::pretokenizers::{Alphabet, PreTokenizer, Split, TABLE, find, known};
use crate::{Result, TextError};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// What `ByteLevel` splits by when it has no pattern of its own (GPT-2).
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

fn refuse(what: &str, reason: impl Into<String>) -> TextError {
    TextError::json(format!("tokenizer.json, {what}"), reason)
}

/// The vocabulary of a model with `vocab_size` embeddings, from a parsed `tokenizer.json` and, where there is one, the
/// `tokenizer_config.json` beside it (names of bos, eos, pad and unk).
///
/// # Errors
/// Another kind than byte-level BPE, a split rule that GGUF has no name for, more tokens than embeddings.
pub fn to_gguf(tokenizer: &Value, config: Option<&Value>, vocab_size: usize) -> Result<GgufVocab> {
    let model = tokenizer.get("model").unwrap_or(&Value::Null);
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("unknown");
    let byte_level = patterns(tokenizer.get("pre_tokenizer").unwrap_or(&Value::Null))?;
    let Some(patterns) = byte_level.filter(|_| kind == "BPE") else {
        return Err(refuse("model", format!("a {kind} model without byte-level splitting; only byte-level BPE can be converted")));
    };
    let pre = pre_tokenizer(tokenizer, model, &patterns)?;
    let (tokens, types) = tokens(tokenizer, model, vocab_size)?;
    let mut vocab = GgufVocab {
        model: "gpt2".into(),
        pre: pre.names.first().map(|n| (*n).to_owned()),
        merges: merges(model)?,
        token_types: Some(types),
        tokens,
        ..GgufVocab::default()
    };
    let ids: HashMap<&str, u32> = (0u32..).zip(&vocab.tokens).map(|(id, t)| (t.as_str(), id)).collect();
    let named = |key: &str| -> Result<Option<u32>> {
        let entry = config.and_then(|c| c.get(key));
        let Some(text) = entry.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str())) else { return Ok(None) };
        let missing = || TextError::json(format!("tokenizer_config.json, {key}"), format!("`{text}` is not a token of tokenizer.json"));
        ids.get(text).copied().map(Some).ok_or_else(missing)
    };
    let (bos, eos) = (named("bos_token")?, named("eos_token")?);
    let (pad, unk) = (named("pad_token")?, named("unk_token")?);
    let (before, after) = template(tokenizer.get("post_processor").unwrap_or(&Value::Null))?;
    let around = |list: &[String], what: &str, id: Option<u32>| match list {
        [] => Ok((id, false)),
        [one] => match ids.get(one.as_str()) {
            Some(found) if id.is_none_or(|id| id == *found) => Ok((Some(*found), true)),
            _ => Err(refuse("post_processor", format!("adds `{one}`, which is not the {what} token"))),
        },
        more => Err(refuse("post_processor", format!("adds {} tokens, GGUF can say one {what} token", more.len()))),
    };
    let ((bos, add_bos), (eos, add_eos)) = (around(&before, "bos", bos)?, around(&after, "eos", eos)?);
    (vocab.bos_id, vocab.eos_id, vocab.pad_id, vocab.unk_id) = (bos, eos, pad, unk);
    (vocab.add_bos, vocab.add_eos) = (Some(add_bos), add_eos.then_some(true));
    Ok(vocab)
}

/// The name that GGUF has for the split rule of a parsed `tokenizer.json`; `None` when it is of another kind or splits
/// in a way that has no name.
pub fn split_rule(tokenizer: &Value) -> Option<&'static str> {
    let patterns = patterns(tokenizer.get("pre_tokenizer")?).ok()??;
    pre_tokenizer(tokenizer, tokenizer.get("model")?, &patterns).ok()?.names.first().copied()
}

/// The `tokenizer.json` of a GGUF vocabulary, for its first `tokenizers` to read, and what `tokenizer_config.json` says
/// beside it: names of special tokens.
///
/// # Errors
/// Another kind than `gpt2`, or a split rule that is not in the table.
pub fn from_gguf(vocab: &GgufVocab) -> Result<(Value, Map<String, Value>)> {
    if vocab.model != "gpt2" {
        let reason = format!("`{}` cannot be converted to tokenizer.json; only `gpt2` (byte-level BPE) can", vocab.model);
        return Err(TextError::vocab("model", reason));
    }
    let name = vocab.pre.as_deref().unwrap_or("default");
    let pre = find(name).ok_or_else(|| TextError::UnknownPre { pre: name.to_owned(), known: known() })?;
    if pre.alphabet != Alphabet::Bytes {
        let reason = format!("`{name}` does not work on bytes; only byte-level BPE can be converted to tokenizer.json");
        return Err(TextError::vocab("pre", reason));
    }
    let checked = super::gguf::check(vocab)?;
    drop(checked);
    let kind = |id: usize| vocab.token_types.as_ref().and_then(|t| t.get(id)).copied().unwrap_or(NORMAL);
    // Ids that only fill the embedding up have no token in tokenizer.json.
    let padding = |id: usize, token: &str| kind(id) == UNUSED && token == padding_token(id);
    let used = vocab.tokens.iter().enumerate().rposition(|(id, t)| !padding(id, t)).map_or(0, |last| last + 1);
    let tokens = || vocab.tokens.iter().enumerate().take(used).filter(|(_, t)| !t.is_empty());
    let special = |k: i32| matches!(k, UNKNOWN | CONTROL);
    let added = tokens().filter(|(id, _)| special(kind(*id)) || kind(*id) == USER_DEFINED).map(|(id, token)| {
        let special = special(kind(id));
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special })
    });
    let spelled: Map<String, Value> = tokens().map(|(id, t)| (t.clone(), id.into())).collect();
    let token = |id: Option<u32>| id.and_then(|i| vocab.tokens.get(i as usize)).filter(|t| !t.is_empty());
    let add_bos = vocab.add_bos.unwrap_or(pre.add_bos);
    let around = [token(vocab.bos_id.filter(|_| add_bos)), token(vocab.eos_id.filter(|_| vocab.add_eos == Some(true)))];
    let ids = [vocab.bos_id, vocab.eos_id];
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": if pre.nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": splitting(pre),
        "post_processor": surrounding(around, ids),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": token(vocab.unk_id),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
            "vocab": spelled,
            "merges": vocab.merges,
        },
    });
    let mut config = Map::new();
    for (key, id) in [("bos_token", vocab.bos_id), ("eos_token", vocab.eos_id), ("pad_token", vocab.pad_id), ("unk_token", vocab.unk_id)] {
        config.insert(key.into(), token(id).map_or(Value::Null, |t| t.as_str().into()));
    }
    config.insert("add_bos_token".into(), add_bos.into());
    config.insert("add_prefix_space".into(), false.into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    Ok((json, config))
}

fn padding_token(id: usize) -> String {
    format!("[PAD{id}]")
}

/// The patterns of a byte-level pre-tokeniser, one per pass; `None` when it is of another kind.
fn patterns(pre: &Value) -> Result<Option<Vec<String>>> {
    let listed = pre.get("pretokenizers").and_then(Value::as_array);
    let steps: Vec<&Value> = listed.map_or_else(|| vec![pre], |l| l.iter().collect());
    let (mut found, mut byte_level) = (vec![], false);
    for step in steps {
        let flag = |key: &str, default: bool| step.get(key).and_then(Value::as_bool).unwrap_or(default);
        match step.get("type").and_then(Value::as_str).unwrap_or_default() {
            "ByteLevel" => {
                if flag("add_prefix_space", true) {
                    return Err(refuse("pre_tokenizer", "ByteLevel with add_prefix_space, which GGUF's split rules do not have"));
                }
                found.extend(flag("use_regex", true).then(|| BYTE_LEVEL.to_owned()));
                byte_level = true;
            }
            "Digits" if flag("individual_digits", false) => found.push(r"\p{N}".into()),
            "Split" if step.get("behavior").and_then(Value::as_str) == Some("Isolated") && !flag("invert", false) => {
                let pattern = step.pointer("/pattern/Regex").and_then(Value::as_str);
                found.push(pattern.ok_or_else(|| refuse("pre_tokenizer", "Split without a Regex"))?.to_owned());
            }
            // What no byte-level tokenizer has: the caller says what it is.
            _ => return Ok(None),
        }
    }
    Ok(byte_level.then_some(found))
}

/// The row of the table that splits and normalises as this tokenizer does.
fn pre_tokenizer(tokenizer: &Value, model: &Value, patterns: &[String]) -> Result<&'static PreTokenizer> {
    let normalizer = tokenizer.pointer("/normalizer/type").and_then(Value::as_str);
    if !matches!(normalizer, None | Some("NFC")) {
        let reason = format!("{}, expected NFC or none", normalizer.unwrap_or_default());
        return Err(refuse("normalizer", reason));
    }
    let ignore_merges = model.get("ignore_merges").and_then(Value::as_bool).unwrap_or(false);
    let same = |row: &&PreTokenizer| {
        row.splits.iter().map(|s| s.pattern).eq(patterns.iter().map(String::as_str))
            && row.alphabet == Alphabet::Bytes
            && row.nfc == normalizer.is_some()
            && row.ignore_merges == ignore_merges
    };
    TABLE.iter().find(same).ok_or_else(|| {
        let nfc = if normalizer.is_some() { ", after NFC" } else { "" };
        let merges = if ignore_merges { ", with ignore_merges" } else { "" };
        let reason = format!("no split rule of GGUF is {patterns:?}{nfc}{merges}; known rules: {}", known());
        refuse("pre_tokenizer", reason)
    })
}

/// Tokens and types by id.
fn tokens(tokenizer: &Value, model: &Value, vocab_size: usize) -> Result<(Vec<String>, Vec<i32>)> {
    let mut out: Vec<(String, i32)> = (0..vocab_size).map(|id| (padding_token(id), UNUSED)).collect();
    let mut put = |id: Option<u64>, token: &str, kind: i32| -> Result<()> {
        let slot = id.and_then(|id| out.get_mut(usize::try_from(id).ok()?));
        let Some(slot) = slot else {
            let id = id.map_or("none".into(), |id| id.to_string());
            return Err(refuse("vocab", format!("`{token}` has id {id}, but the model has {vocab_size} embeddings")));
        };
        *slot = (token.to_owned(), kind);
        Ok(())
    };
    let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(|| refuse("vocab", "expected an object of tokens and ids"))?;
    for (token, id) in vocab {
        put(id.as_u64(), token, NORMAL)?;
    }
    for added in tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let special = added.get("special").and_then(Value::as_bool).unwrap_or(false);
        let content = added.get("content").and_then(Value::as_str).unwrap_or_default();
        put(added.get("id").and_then(Value::as_u64), content, if special { CONTROL } else { USER_DEFINED })?;
    }
    Ok(out.into_iter().unzip())
}

fn merges(model: &Value) -> Result<Vec<String>> {
    let list = model.get("merges").and_then(Value::as_array).ok_or_else(|| refuse("merges", "expected a list"))?;
    let one = |(rank, m): (usize, &Value)| {
        let pair = m.as_array().map(|p| p.iter().map(|t| t.as_str().unwrap_or_default()).collect::<Vec<_>>());
        let text = m.as_str().map(str::to_owned).or_else(|| pair.filter(|p| p.len() == 2).map(|p| p.join(" ")));
        let text = text.filter(|t| t.split(' ').count() == 2 && !t.starts_with(' ') && !t.ends_with(' '));
        text.ok_or_else(|| refuse("merges", format!("merge {rank} is not two tokens without spaces")))
    };
    list.iter().enumerate().map(one).collect()
}

/// The texts of the tokens that a post-processor puts before and after a text.
fn template(processor: &Value) -> Result<(Vec<String>, Vec<String>)> {
    let (mut before, mut after) = (vec![], vec![]);
    let listed = processor.get("processors").and_then(Value::as_array);
    let steps: Vec<&Value> = listed.map_or_else(|| vec![processor], |l| l.iter().collect());
    for step in steps.into_iter().filter(|s| !s.is_null()) {
        match step.get("type").and_then(Value::as_str).unwrap_or_default() {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let mut seen = false;
                for piece in step.get("single").and_then(Value::as_array).into_iter().flatten() {
                    let Some(special) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) else {
                        seen = true;
                        continue;
                    };
                    if seen { &mut after } else { &mut before }.push(special.to_owned());
                }
            }
            other => return Err(refuse("post_processor", format!("{other}, expected ByteLevel or TemplateProcessing"))),
        }
    }
    Ok((before, after))
}

/// The pre-tokeniser of a split rule.
fn splitting(pre: &PreTokenizer) -> Value {
    let split = |s: &Split| json!({ "type": "Split", "pattern": { "Regex": s.pattern }, "behavior": "Isolated", "invert": false });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let steps: Vec<Value> = pre.splits.iter().map(split).chain([bytes]).collect();
    json!({ "type": "Sequence", "pretokenizers": steps })
}

/// The post-processor that adds these tokens before and after a text.
fn surrounding(tokens: [Option<&String>; 2], ids: [Option<u32>; 2]) -> Value {
    if tokens.iter().all(Option::is_none) {
        return Value::Null;
    }
    let piece = |t: &String| json!({ "SpecialToken": { "id": t, "type_id": 0 } });
    let text = |name: &str, type_id: u8| json!({ "Sequence": { "id": name, "type_id": type_id } });
    let [before, after] = tokens;
    let around = |texts: Vec<Value>| before.map(piece).into_iter().chain(texts).chain(after.map(piece)).collect::<Vec<_>>();
    let mut known = Map::new();
    for (token, id) in tokens.into_iter().zip(ids) {
        if let (Some(t), Some(id)) = (token, id) {
            known.insert(t.clone(), json!({ "id": t, "ids": [id], "tokens": [t] }));
        }
    }
    json!({
        "type": "TemplateProcessing",
        "single": around(vec![text("A", 0)]),
        "pair": around(vec![text("A", 0), text("B", 1)]),
        "special_tokens": known,
    })
}
