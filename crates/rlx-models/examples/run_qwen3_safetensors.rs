//! Asks a Qwen3 model in safetensors one question, then goes on with the conversation.
//!
//!     cargo run --release -p rlx-models --example run_qwen3_safetensors [WEIGHTS]

use rlx_models::lm::{Chat, GenerateOptions, LmError};
use rlx_models::qwen3::Qwen3Runner;
use std::io::Write;

fn main() -> Result<(), LmError> {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/rlx-tiny-chat");
    let weights = std::env::args().nth(1).unwrap_or_else(|| here.into());
    let mut runner = Qwen3Runner::builder().weights(weights).max_seq(512).build()?;

    let mut chat = Chat::new(Some("Answer briefly."));
    let options = GenerateOptions { max_tokens: 64, ..GenerateOptions::default() };
    for question in ["My name is Iris.", "What is the capital of Norway?", "What is my name?"] {
        println!("> {question}");
        let done = chat.say(&mut runner, question, &options, &mut |_, _| {}, &mut |text| {
            print!("{text}");
            std::io::stdout().flush().is_ok()
        })?;
        println!("\n  [{} of {} prompt tokens were cached, {:.0} tok/s]", done.cached_tokens, done.prompt_tokens, done.decode_rate());
    }
    Ok(())
}
