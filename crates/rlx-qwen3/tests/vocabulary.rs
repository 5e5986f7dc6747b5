//! Tokenizers and settings that do not fit the weights, each beside a valid twin.
//!
//! Loading is measured up to where it refuses, against the size of all files.

use rlx_bounds::{Counting, bounded};
use rlx_core::LoadOpts;
use rlx_core::weights::open_with;
use rlx_lm::{LmError, LmRunner, Text};
use rlx_qwen3::Qwen3Runner;
use serde_json::Value;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A directory with the committed checkpoint of 320 embeddings, settings and tokenizer changed, and its bytes.
fn checkpoint(change: impl FnOnce(&mut Value, &mut Value)) -> (tempfile::TempDir, usize) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen3");
    let dir = tempfile::tempdir().unwrap();
    let json = |name: &str| serde_json::from_slice::<Value>(&std::fs::read(from.join(name)).unwrap()).unwrap();
    let (mut config, mut tokenizer) = (json("config.json"), json("tokenizer.json"));
    change(&mut config, &mut tokenizer);
    let (config, tokenizer) = (config.to_string(), tokenizer.to_string());
    std::fs::write(dir.path().join("config.json"), &config).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), &tokenizer).unwrap();
    let weights = std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    (dir, config.len() + tokenizer.len() + weights as usize)
}

fn build(dir: &Path) -> Result<LmRunner, LmError> {
    Qwen3Runner::builder().weights(dir).max_seq(64).build()
}

fn load(change: impl FnOnce(&mut Value, &mut Value)) -> LmRunner {
    build(checkpoint(change).0.path()).unwrap()
}

/// What loading the checkpoint is refused with, under the bounds of its files.
#[track_caller]
fn refused(change: impl FnOnce(&mut Value, &mut Value), parts: &[&str]) {
    let (dir, bytes) = checkpoint(change);
    let message = bounded(bytes, || build(dir.path()).err().expect("must be refused").to_string());
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(message.len() < 4096, "{} bytes of message", message.len());
}

#[test]
fn gguf_15_vocab_size_against_the_embedding_tensor() {
    assert_eq!(load(|_, _| {}).vocab_size(), 320);
    for rows in [319, 321, 1 << 30] {
        refused(|config, _| config["vocab_size"] = rows.into(), &["model.embed_tokens.weight", &rows.to_string(), "320"]);
    }
}

/// As many layers as a file may say, of a checkpoint that has three.
#[test]
fn config_25_more_layers_than_the_checkpoint_has() {
    load(|config, _| config["num_hidden_layers"] = 3.into());
    refused(|config, _| config["num_hidden_layers"] = 4.into(), &["model.layers.3."]);
    refused(|config, _| config["num_hidden_layers"] = 4096.into(), &["num_hidden_layers is 4096", "tensors of the checkpoint"]);
}

/// One kind of attention per layer, in a list that is read once.
#[test]
fn config_25_layer_types() {
    let types = |layers: usize, n: usize| {
        move |config: &mut Value, _: &mut Value| {
            config["num_hidden_layers"] = layers.into();
            (config["use_sliding_window"], config["sliding_window"]) = (true.into(), 16.into());
            config["layer_types"] = vec!["sliding_attention"; n].into();
        }
    };
    load(types(3, 3));
    refused(types(3, 2), &["layer_types is", "3 entries, one per layer"]);
    refused(types(3, 4096), &["layer_types is", "3 entries, one per layer"]);
    refused(types(3, 500_000), &["layer_types is", "at most 4096"]);
}

/// What a tokenizer of a GGUF file with changed bytes is refused with, and the file.
fn refused_gguf(change: impl FnOnce(&mut Vec<u8>)) -> (String, Vec<u8>) {
    let mut bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/Q8_0.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    let open = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Text::open(&open_with(LoadOpts::map(), &file).unwrap())
    };
    open(&bytes).unwrap();
    change(&mut bytes);
    (open(&bytes).err().expect("must be refused").to_string(), bytes)
}

/// Where a string with its length begins.
fn string(bytes: &[u8], text: &str) -> usize {
    let named = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    bytes.windows(named.len()).position(|w| w == named).unwrap()
}

/// Puts `to` in the place of a string of the same length; where it begins.
fn respell(bytes: &mut [u8], from: &str, to: &str) -> usize {
    assert_eq!(from.len(), to.len());
    let at = string(bytes, from);
    bytes[at + 8..at + 8 + to.len()].copy_from_slice(to.as_bytes());
    at
}

#[test]
fn gguf_15_vocabularies_are_refused_with_the_byte() {
    let check = |key: &str, what: &str, change: &dyn Fn(&mut Vec<u8>) -> usize| {
        let mut at = 0;
        let (message, _) = refused_gguf(|bytes| at = change(bytes));
        let place = format!("(tokenizer.ggml.{key} at byte {at})");
        assert!(message.contains("m.gguf: ") && message.contains(what) && message.ends_with(&place), "{place} {message}");
    };
    check("tokens", "is both token", &|bytes| respell(bytes, "b", "a"));
    check("merges", "which is not in the token list", &|bytes| respell(bytes, "i n", "i \u{1}"));
    check("pre", "tokenizer.ggml.pre is `qwen!`", &|bytes| {
        respell(bytes, "qwen2", "qwen!");
        string(bytes, "tokenizer.ggml.pre")
    });
    // Numbers of four bytes behind key, type, type of elements and count.
    check("token_type", "token 7 has type 99", &|bytes| {
        let at = string(bytes, "tokenizer.ggml.token_type") + 8 + "tokenizer.ggml.token_type".len() + 4 + 4 + 8 + 7 * 4;
        bytes[at..at + 4].copy_from_slice(&99i32.to_le_bytes());
        at
    });
    // A key that is absent is missed from all metadata.
    let (message, _) = refused_gguf(|bytes| {
        respell(bytes, "tokenizer.ggml.merges", "tokenizer.ggml.mergez");
    });
    assert!(message.contains(r#""tokenizer.ggml.merges" is missing"#) && message.contains("at byte 24"), "{message}");
}

#[test]
fn tokenizer_27_tokens_beyond_the_embeddings() {
    let added = |id: u32, special: bool| {
        move |_: &mut Value, tokenizer: &mut Value| {
            let list = tokenizer["added_tokens"].as_array_mut().unwrap();
            let next = list.iter().map(|t| t["id"].as_u64().unwrap()).max().unwrap() as u32 + 1;
            // Ids follow one another, so what is before `id` is filled up.
            for id in next..=id {
                let mut token = list[0].clone();
                (token["id"], token["content"], token["special"]) = (id.into(), format!("<new{id}>").into(), special.into());
                list.push(token);
            }
        }
    };
    load(|_, _| {}).tokenizer().unwrap();
    let (dir, bytes) = checkpoint(added(320, false));
    // The model is sound and runs on token ids, so only its text is refused.
    let refused = build(dir.path()).unwrap();
    let message = bounded(0, || refused.tokenizer().err().unwrap().to_string());
    assert!(message.contains("token 320 `<new320>`") && message.contains("the 320 embeddings"), "{message}");
    let weights = rlx_core::weights::open_with(rlx_core::LoadOpts::map(), dir.path()).unwrap();
    bounded(bytes, || rlx_lm::Text::open(&weights)).unwrap();
    // Control tokens that nothing asks for.
    load(added(320, true)).tokenizer().unwrap();
}
