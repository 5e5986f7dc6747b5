//! Tokenizers and settings that do not fit the embedding table, each beside a valid twin.

use rlx_lm::{LmError, LmRunner};
use rlx_qwen3::Qwen3Runner;
use serde_json::Value;
use std::path::Path;

/// The committed checkpoint of 320 embeddings with changed settings and tokenizer.
fn load(change: impl FnOnce(&mut Value, &mut Value)) -> Result<LmRunner, LmError> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen3");
    let dir = tempfile::tempdir().unwrap();
    let json = |name: &str| serde_json::from_slice::<Value>(&std::fs::read(from.join(name)).unwrap()).unwrap();
    let (mut config, mut tokenizer) = (json("config.json"), json("tokenizer.json"));
    change(&mut config, &mut tokenizer);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    Qwen3Runner::builder().weights(dir.path()).max_seq(64).build()
}

#[test]
fn gguf_15_vocab_size_against_the_embedding_tensor() {
    assert_eq!(load(|_, _| {}).unwrap().vocab_size(), 320);
    for rows in [319, 321] {
        let message = load(|config, _| config["vocab_size"] = rows.into()).err().unwrap().to_string();
        for part in ["model.embed_tokens.weight", &rows.to_string(), "320"] {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
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
    load(|_, _| {}).unwrap().tokenizer().unwrap();
    let refused = load(added(320, false)).unwrap();
    let message = refused.tokenizer().err().unwrap().to_string();
    assert!(message.contains("token 320 `<new320>`") && message.contains("the 320 embeddings"), "{message}");
    // Control tokens that nothing asks for.
    load(added(320, true)).unwrap().tokenizer().unwrap();
}
