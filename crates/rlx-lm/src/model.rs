//! What a language-model family provides.

use rlx_core::config::{ConfigError, ConfigSource};
use rlx_core::convert::SettingsTable;
use rlx_core::names::{HeadCounts, NameTable};
use rlx_core::registry::Family;
use rlx_flow::LmInputs;
use rlx_ir::{Scope, Val};

/// A family of language models: everything the engine needs to load one.
pub trait LmFamily: Family {
    /// The weights, by checkpoint and GGUF name.
    fn names(&self) -> &'static NameTable;
    /// The settings, by their names in `config.json` and in GGUF metadata, for converters.
    fn settings(&self) -> &'static SettingsTable;
    /// Reads the settings of a checkpoint.  `has` tells whether it has a tensor of a checkpoint name;
    /// `context` is the length the model will be run at (some rope scalings depend on it).
    fn load(&self, src: &ConfigSource, has: &dyn Fn(&str) -> bool, context: usize) -> Result<Box<dyn LmModel>, ConfigError>;
}

/// One model: settings read, ready to build its graph.
pub trait LmModel: Send + Sync {
    /// Rows of the embedding, V.
    fn vocab_size(&self) -> usize;
    /// Trained context length, where the checkpoint says it.
    fn context_length(&self) -> Option<usize>;
    /// Heads, for weight arrangements that depend on them.
    fn heads(&self) -> HeadCounts;
    /// Builds the graph; returns the logits `[R,V]`.
    fn build<'g>(&self, root: &Scope<'g>, io: &LmInputs<'g>) -> Val<'g>;
}
