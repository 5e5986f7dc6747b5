//! Tokenizer and chat template in both worlds.

use crate::text::{convert, json, placed};
use crate::{LmError, Result};
use rlx_core::config::ConfigSource;
use rlx_core::convert::Output;
use rlx_core::vocab::GgufVocab;
use rlx_core::weights::Checkpoint;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Files of a Hugging Face directory that go with the weights as they are.
const COMPANIONS: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

fn no_tokenizer(checkpoint: &Checkpoint) -> LmError {
    LmError::NoTokenizer { path: checkpoint.path().into() }
}

/// The vocabulary for GGUF metadata.
pub(super) fn for_gguf(checkpoint: &Checkpoint, config: &ConfigSource) -> Result<GgufVocab> {
    if let Some(gguf) = checkpoint.gguf() {
        return GgufVocab::read(gguf)?.ok_or_else(|| no_tokenizer(checkpoint));
    }
    let dir = checkpoint.dir();
    let tokenizer = json(&dir.join("tokenizer.json"))?.ok_or_else(|| no_tokenizer(checkpoint))?;
    let names = json(&dir.join("tokenizer_config.json"))?;
    let v = rlx_text::tokenizer::convert::to_gguf(&tokenizer, names.as_ref(), config.vocab_size()?)?;
    let mut out = GgufVocab::default();
    (out.model, out.pre, out.merges, out.token_types) = (v.model, v.pre, v.merges, v.token_types);
    (out.add_bos, out.add_eos, out.add_space_prefix) = (v.add_bos, v.add_eos, v.add_space_prefix);
    // What the tokenizer does not name, the model's settings may.
    let n = v.tokens.len();
    let named = |name: &str| match config.hf() {
        Some(doc) => Ok(doc.opt_ids(name)?.and_then(|ids| ids.first().copied()).filter(|id| (*id as usize) < n)),
        None => Ok::<_, LmError>(None),
    };
    out.tokens = v.tokens;
    let ends: Vec<u32> = v.eos_id.into_iter().chain(config.eos_token_ids()?).filter(|id| (*id as usize) < n).collect();
    let mut ends = ends.into_iter().fold(vec![], |mut list: Vec<u32>, id| {
        if !list.contains(&id) {
            list.push(id);
        }
        list
    });
    let more = ends.split_off(ends.len().min(3));
    if !more.is_empty() {
        let reason = format!("{} tokens end a text, GGUF metadata have keys for three", ends.len() + more.len());
        return Err(rlx_text::TextError::TokenizerJson { what: "generation_config.json, eos_token_id".into(), reason }.into());
    }
    let mut ends = ends.into_iter();
    (out.eos_id, out.eot_id, out.eom_id) = (ends.next(), ends.next(), ends.next());
    out.bos_id = v.bos_id.or(named("bos_token_id")?);
    out.pad_id = v.pad_id.or(named("pad_token_id")?);
    out.unk_id = v.unk_id;
    out.chat_template = template(dir, names.as_ref())?;
    Ok(out)
}

/// The chat template of a directory; of several, the default.
fn template(dir: &Path, config: Option<&Value>) -> Result<Option<String>> {
    let file = dir.join("chat_template.jinja");
    if file.is_file() {
        return std::fs::read_to_string(&file).map(Some).map_err(|source| LmError::Io { file, source });
    }
    let beside = json(&dir.join("chat_template.json"))?;
    let found = config.and_then(|c| c.get("chat_template")).or(beside.as_ref().and_then(|c| c.get("chat_template")));
    let text = match found {
        Some(Value::Array(list)) => {
            list.iter().find(|e| e.get("name").and_then(Value::as_str) == Some("default")).and_then(|e| e.get("template"))
        }
        other => other,
    };
    Ok(text.and_then(Value::as_str).map(str::to_owned))
}

/// Writes what a Hugging Face directory says about text.
pub(super) fn for_directory(checkpoint: &Checkpoint, config: &ConfigSource, output: &mut Output) -> Result<()> {
    let Some(gguf) = checkpoint.gguf() else {
        for name in COMPANIONS {
            let path = checkpoint.dir().join(name);
            if path.is_file() {
                let bytes = std::fs::read(&path).map_err(|source| LmError::Io { file: path, source })?;
                output.write(name, &bytes)?;
            }
        }
        return Ok(());
    };
    let vocab = GgufVocab::read(gguf)?.ok_or_else(|| no_tokenizer(checkpoint))?;
    let (tokenizer, mut names) = rlx_text::tokenizer::convert::from_gguf(&convert(&vocab)).map_err(|e| placed(gguf, e))?;
    rlx_text::Tokenizer::from_bytes(tokenizer.to_string().as_bytes())?;
    names.extend(vocab.chat_template.as_ref().map(|t| ("chat_template".to_owned(), Value::from(t.as_str()))));
    let mut generation = Map::new();
    for (key, id) in [("bos_token_id", vocab.bos_id), ("pad_token_id", vocab.pad_id)] {
        generation.extend(id.map(|id| (key.to_owned(), Value::from(id))));
    }
    generation.insert("eos_token_id".into(), json!(config.eos_token_ids()?));
    let files = [("tokenizer.json", tokenizer), ("tokenizer_config.json", names.into()), ("generation_config.json", generation.into())];
    for (name, value) in files {
        output.write(name, format!("{value:#}\n").as_bytes())?;
    }
    Ok(())
}
