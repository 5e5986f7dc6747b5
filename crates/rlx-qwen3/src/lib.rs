//! Qwen3: dense decoder-only language models, from safetensors (f32, f16, bf16) and GGUF (any block
//! format), tied or untied heads.
//!
//! ```no_run
//! use rlx_qwen3::Qwen3Runner;
//! let mut runner = Qwen3Runner::builder().weights("weights/rlx-tiny-chat").max_seq(512).build()?;
//! let ids = runner.tokenizer()?.encode("Hello", true)?;
//! runner.generate(&ids, 16, |token| { println!("{token}"); true })?;
//! # Ok::<(), rlx_lm::LmError>(())
//! ```

pub mod cli;
mod config;
mod model;
mod names;

pub use config::{Config, SETTINGS};
pub use model::build;
pub use names::NAMES;

use rlx_core::config::{ConfigError, ConfigSource, DecoderConfig, Key};
use rlx_core::convert::SettingsTable;
use rlx_core::names::{HeadCounts, NameTable};
use rlx_core::registry::Family;
use rlx_flow::LmInputs;
use rlx_ir::{Scope, Val};
use rlx_lm::{LmBuilder, LmError, LmFamily, LmModel, LmRunner};

/// The family, for registries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Qwen3;

impl Family for Qwen3 {
    fn name(&self) -> &'static str {
        "qwen3"
    }
    fn model_types(&self) -> &'static [&'static str] {
        &["qwen3"]
    }
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }
    fn gguf_architectures(&self) -> &'static [&'static str] {
        &["qwen3"]
    }
    fn program(&self) -> &'static str {
        "rlx-qwen3"
    }
    fn required_settings(&self) -> &'static [Key] {
        DecoderConfig::REQUIRED
    }
}

impl LmFamily for Qwen3 {
    fn names(&self) -> &'static NameTable {
        &NAMES
    }
    fn settings(&self) -> &'static SettingsTable {
        &SETTINGS
    }
    fn load(&self, src: &ConfigSource, has: &dyn Fn(&str) -> bool, context: usize) -> Result<Box<dyn LmModel>, ConfigError> {
        Ok(Box::new(Config::from_source(src, has, context)?))
    }
}

impl LmModel for Config {
    fn vocab_size(&self) -> usize {
        self.sizes.vocab_size
    }
    fn context_length(&self) -> Option<usize> {
        self.sizes.max_position_embeddings
    }
    fn heads(&self) -> HeadCounts {
        HeadCounts { query: self.sizes.num_attention_heads, key_value: self.sizes.num_key_value_heads }
    }
    fn build<'g>(&self, root: &Scope<'g>, io: &LmInputs<'g>) -> Val<'g> {
        model::build(root, self, io)
    }
}

/// A Qwen3 model, loaded and ready.
pub struct Qwen3Runner;

impl Qwen3Runner {
    /// Says what to load; `build()` loads it.
    pub fn builder() -> LmBuilder {
        LmRunner::builder(&Qwen3)
    }

    /// The model of the Hugging Face Hub that `name` means: `org/repo`, `org/repo:Q4_K_M`, `org/repo@revision`.
    ///
    /// # Errors
    /// Everything that downloading and loading may say.
    pub fn from_pretrained(name: &str) -> Result<LmRunner, LmError> {
        LmRunner::from_pretrained(&Qwen3, name)
    }
}
