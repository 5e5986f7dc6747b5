//! Qwen3's settings, from `config.json` (old or new layout) or GGUF metadata.

use rlx_core::config::{ConfigError, ConfigSource, DecoderConfig, Key, RopeArgs, rope};
use rlx_core::convert::{DECODER, SettingsTable};
use rlx_ir::ops::Rope;

/// How the settings are spelled in `config.json` and in GGUF metadata.
pub const SETTINGS: SettingsTable = SettingsTable {
    fields: &[DECODER],
    rope: true,
    implied: &[("hidden_act", r#""silu""#), ("use_sliding_window", "false")],
    told: &[("attention_bias", "model.layers.0.self_attn.q_proj.bias", true), ("tie_word_embeddings", "lm_head.weight", false)],
};

/// A dense Qwen3 model.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sizes.
    pub sizes: DecoderConfig,
    /// Rotary embedding.
    pub rope: Rope,
    /// The attention projections have biases.
    pub attention_bias: bool,
    /// Sliding window per layer; `None` sees everything.
    pub windows: Vec<Option<usize>>,
    /// The output projection is the embedding.
    pub tied: bool,
}

impl Config {
    /// Reads the settings.  `has` tells whether the checkpoint has a tensor; `context` is the length
    /// the model will be run at.
    pub fn from_source(src: &ConfigSource, has: &dyn Fn(&str) -> bool, context: usize) -> Result<Config, ConfigError> {
        let sizes = DecoderConfig::from_source(src)?;
        let mut args = RopeArgs::new(sizes.head_dim);
        args.context = Some(context);
        let rope = rope(src, &args)?;
        let attention_bias = match src.opt_bool(Key::new("attention_bias", ""))? {
            Some(b) => b,
            None => has("model.layers.0.self_attn.q_proj.bias"),
        };
        let windows = windows(src, sizes.num_hidden_layers)?;
        let tied = sizes.tie_word_embeddings.unwrap_or_else(|| !has("lm_head.weight"));
        Ok(Config { sizes, rope, attention_bias, windows, tied })
    }
}

/// Layers from `max_window_layers` on use the window, when `use_sliding_window` says so; the newer
/// `layer_types` says it layer by layer.
fn windows(src: &ConfigSource, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    let Some(doc) = src.hf() else { return Ok(vec![None; layers]) };
    let window = match doc.opt_bool("use_sliding_window")? {
        Some(true) => doc.opt_usize("sliding_window")?,
        _ => None,
    };
    let Some(window) = window else { return Ok(vec![None; layers]) };
    if let Some(types) = doc.opt_strings("layer_types")? {
        if types.len() != layers {
            return Err(doc.invalid("layer_types", format_args!("{layers} entries, one per layer")));
        }
        return Ok(types.iter().map(|t| (t == "sliding_attention").then_some(window)).collect());
    }
    let first = doc.opt_usize("max_window_layers")?.unwrap_or(layers);
    Ok((0..layers).map(|i| (i >= first).then_some(window)).collect())
}
