//! Plans a quantised Qwen3 model, then runs it: token ids in, logits and token ids out.
//!
//!     cargo run --release -p rlx-models --example run_qwen3_gguf [WEIGHTS]

use rlx_models::lm::LmError;
use rlx_models::qwen3::Qwen3Runner;

fn main() -> Result<(), LmError> {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/rlx-tiny-chat-gguf");
    let weights = std::env::args().nth(1).unwrap_or_else(|| here.into());
    let builder = Qwen3Runner::builder().weights(weights).max_seq(256).max_memory_gb(8.0);
    println!("a run takes: {}", builder.plan()?.memory);

    let mut runner = builder.build()?;
    let tokenizer = runner.tokenizer()?;
    let prompt = tokenizer.encode("<|im_start|>user\nWhat is 7 times 8?<|im_end|>\n<|im_start|>assistant\n", false)?;

    let logits = runner.predict_logits(&prompt)?;
    let mut best: Vec<(usize, f32)> = logits.into_iter().enumerate().collect();
    best.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (id, logit) in best.iter().take(3) {
        println!("{logit:8.3}  {:?}", tokenizer.token(*id as u32).unwrap_or_default());
    }

    let answer = runner.generate(&prompt, 32, |_| true)?;
    println!("{}", tokenizer.decode(&answer, true)?);
    Ok(())
}
