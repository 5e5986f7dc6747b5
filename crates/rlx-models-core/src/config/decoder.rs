//! The settings that decoder-only transformers have in common.

use super::{ConfigError, ConfigSource, Key, MAX_SIZE};

/// Most layers of a model.
pub const MAX_LAYERS: usize = 4096;

/// Sizes and switches of a llama-like decoder, range-checked.  A family reads this and adds what is its own.
#[derive(Clone, PartialEq, Debug)]
pub struct DecoderConfig {
    /// Width of the residual stream, E.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks, 1 to [`MAX_LAYERS`].
    pub num_hidden_layers: usize,
    /// Query heads, H.
    pub num_attention_heads: usize,
    /// Key and value heads, K; divides H.
    pub num_key_value_heads: usize,
    /// Elements per head, D; `hidden_size / num_attention_heads` unless given.
    pub head_dim: usize,
    /// Rows of the embedding, V.
    pub vocab_size: usize,
    /// Epsilon of the RMS norms: above 0, at most 1.
    pub rms_norm_eps: f64,
    /// Context length of training, where the configuration says it.
    pub max_position_embeddings: Option<usize>,
    /// Experts of a mixture, where there are any.
    pub experts: Option<Experts>,
    /// The output projection is the embedding; `None` where only the presence of its tensor tells (GGUF).
    pub tie_word_embeddings: Option<bool>,
}

/// A mixture of experts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Experts {
    /// Experts of a layer, at least 1.
    pub total: usize,
    /// Experts that a token is sent to: from 1 to `total`.
    pub used: usize,
}

/// Keys of [`DecoderConfig`], for families that read one of them alone.
pub mod keys {
    use super::Key;
    /// Width of the residual stream.
    pub const HIDDEN: Key = Key::new("hidden_size|n_embd|d_model", "embedding_length");
    /// Width of the feed-forward layer.
    pub const INTERMEDIATE: Key = Key::new("intermediate_size|n_inner|ffn_dim", "feed_forward_length");
    /// Number of blocks; in GGUF files, with those of multi-token prediction.
    pub const LAYERS: Key = Key::new("num_hidden_layers|n_layer|num_layers", "block_count");
    /// Blocks of multi-token prediction that GGUF files count among the blocks.
    pub const MTP_LAYERS: Key = Key::new("", "nextn_predict_layers");
    /// Query heads.
    pub const HEADS: Key = Key::new("num_attention_heads|n_head", "attention.head_count");
    /// Key and value heads.
    pub const KV_HEADS: Key = Key::new("num_key_value_heads|n_head_kv", "attention.head_count_kv");
    /// Elements per head of queries and keys.
    pub const HEAD_DIM: Key = Key::new("head_dim", "attention.key_length");
    /// Elements per head of values.
    pub const VALUE_DIM: Key = Key::new("", "attention.value_length");
    /// Epsilon of RMS norms.
    pub const RMS_EPS: Key = Key::new("rms_norm_eps|layer_norm_epsilon|norm_eps", "attention.layer_norm_rms_epsilon");
    /// Context length of training.
    pub const CONTEXT: Key = Key::new("max_position_embeddings|n_positions|max_sequence_length", "context_length");
    /// Experts of a layer.
    pub const EXPERTS: Key = Key::new("num_experts|num_local_experts|n_routed_experts", "expert_count");
    /// Experts that a token is sent to.
    pub const EXPERTS_USED: Key = Key::new("num_experts_per_tok|num_experts_per_token|top_k_experts|moe_top_k", "expert_used_count");
    /// Whether the output projection is the embedding.
    pub const TIED: Key = Key::new("tie_word_embeddings", "");
}

impl DecoderConfig {
    /// What [`from_source`](Self::from_source) cannot do without.
    pub const REQUIRED: &[Key] = &[
        keys::HIDDEN,
        keys::INTERMEDIATE,
        keys::LAYERS,
        keys::HEADS,
        keys::RMS_EPS,
        Key::new("vocab_size|padded_vocab_size", ""), // GGUF files count their tokens
    ];

    /// Reads and checks the settings.
    ///
    /// # Errors
    /// The first setting that is missing, of the wrong type or out of range.
    pub fn from_source(src: &ConfigSource) -> Result<DecoderConfig, ConfigError> {
        let hidden_size = src.size(keys::HIDDEN, MAX_SIZE)?;
        let num_hidden_layers = layers(src)?;
        let num_attention_heads = src.size(keys::HEADS, MAX_SIZE)?;
        let num_key_value_heads = kv_heads(src, num_attention_heads)?;
        let head_dim = head_dim(src, hidden_size, num_attention_heads)?;
        if let Some(v) = src.opt_usize(keys::VALUE_DIM)?
            && v != head_dim
        {
            return Err(src.invalid(keys::VALUE_DIM, v, format_args!("{head_dim}, the width of the keys")));
        }
        if let Some((gguf, _)) = src.gguf()
            && let Some(t) = gguf.find_tensor("token_embd.weight")
            && t.shape.last() != Some(&(hidden_size as u64))
        {
            let expected = format_args!("the row length of token_embd.weight, whose shape is {:?}", t.shape).to_string();
            return Err(src.invalid(keys::HIDDEN, hidden_size, expected));
        }
        Ok(DecoderConfig {
            hidden_size,
            intermediate_size: src.size(keys::INTERMEDIATE, MAX_SIZE)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: src.vocab_size()?,
            rms_norm_eps: rms_norm_eps(src)?,
            max_position_embeddings: src.opt_usize(keys::CONTEXT)?,
            experts: experts(src)?,
            tie_word_embeddings: src.opt_bool(keys::TIED)?,
        })
    }
}

/// The mixture of experts, if there is one; a count of 0 means none.
///
/// # Errors
/// As [`ConfigSource::size`].
pub fn experts(src: &ConfigSource) -> Result<Option<Experts>, ConfigError> {
    let Some(total) = src.opt_usize(keys::EXPERTS)?.filter(|n| *n > 0) else {
        return Ok(None);
    };
    let used = src.size(keys::EXPERTS_USED, total)?;
    Ok(Some(Experts { total, used }))
}

/// The number of blocks that plain decoding runs: those of multi-token prediction come after and do not count.
///
/// # Errors
/// As [`ConfigSource::size`].
pub fn layers(src: &ConfigSource) -> Result<usize, ConfigError> {
    let all = src.size(keys::LAYERS, MAX_LAYERS)?;
    let drafting = src.opt_usize(keys::MTP_LAYERS)?.unwrap_or(0);
    if drafting >= all {
        return Err(src.invalid(keys::MTP_LAYERS, drafting, format_args!("fewer than the {all} blocks")));
    }
    Ok(all - drafting)
}

fn rms_norm_eps(src: &ConfigSource) -> Result<f64, ConfigError> {
    match src.positive(keys::RMS_EPS)? {
        eps if eps <= 1.0 => Ok(eps),
        eps => Err(src.invalid(keys::RMS_EPS, eps, "a finite number above 0 and at most 1")),
    }
}

/// The number of key and value heads: as many as `heads` unless given; a divisor of it.
///
/// # Errors
/// As [`ConfigSource::size`].
pub fn kv_heads(src: &ConfigSource, heads: usize) -> Result<usize, ConfigError> {
    let found = src.opt_usize(keys::KV_HEADS)?.unwrap_or(heads);
    if found == 0 || !heads.is_multiple_of(found) {
        return Err(src.invalid(keys::KV_HEADS, found, format_args!("a divisor of the {heads} attention heads")));
    }
    Ok(found)
}

/// Elements per head: as given, else `hidden / heads`, which must then divide.
///
/// # Errors
/// As [`ConfigSource::size`].
pub fn head_dim(src: &ConfigSource, hidden: usize, heads: usize) -> Result<usize, ConfigError> {
    let dim = match src.opt_usize(keys::HEAD_DIM)? {
        Some(dim) => dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let field = src.field(keys::HEAD_DIM);
            return Err(src.invalid(keys::HIDDEN, hidden, format_args!("a multiple of the {heads} heads, or a value for {field}")));
        }
    };
    // The product is the width of the query projection.
    if dim == 0 || dim.checked_mul(heads).is_none_or(|n| n > MAX_SIZE) {
        return Err(src.invalid(keys::HEAD_DIM, dim, format_args!("at least 1, and {heads} heads of it at most 2^31 wide")));
    }
    Ok(dim)
}
