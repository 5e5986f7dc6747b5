//! Rotary position embedding in GGUF metadata, as llama.cpp reads it.
//!
//! `rope.scaling.type` is `none`, `linear`, `yarn` or `longrope`.  Divisors per frequency are tensors:
//! `rope_freqs.weight` (how llama 3's scaling is stored), `rope_factors_long.weight` and `rope_factors_short.weight`.
//! Yarn's ramp is rounded to whole dimensions and its factor on cosine and sine is
//! `attn_factor × (1 + 0.1 ln factor)`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::decoder::keys;
use super::rope::{RopeArgs, check_dim, longrope_attention};
use super::source::widen;
use super::{ConfigError, ConfigSource, Key};
use rlx_gguf::Gguf;
use rlx_ir::ops::rope::{Rope, RopeScaling};

/// Axes of positions that a file can name: time, height, width and one more.
const MAX_AXES: usize = 4;

const fn key(gguf: &'static str) -> Key {
    Key::new("", gguf)
}

pub(super) fn from_metadata(src: &ConfigSource, gguf: &Gguf, args: &RopeArgs<'_>) -> Result<Rope, ConfigError> {
    let positive = |name: &'static str| match src.opt_f64(key(name))? {
        Some(v) if v <= 0.0 => Err(src.invalid(key(name), v, "a finite number above 0")),
        v => Ok::<_, ConfigError>(v),
    };
    let sliding = args.layer_type == Some("sliding_attention");
    let local = if sliding { positive("rope.freq_base_swa")? } else { None };
    let theta = match local {
        Some(t) => t,
        None => positive("rope.freq_base")?.unwrap_or(args.default_theta),
    };
    let dim = src.opt_usize(key("rope.dimension_count"))?.unwrap_or(args.head_dim);
    check_dim(src, dim, args.head_dim)?;
    let factor = match positive("rope.scaling.factor")? {
        Some(f) => f,
        None => positive("rope.scale_linear")?.unwrap_or(1.0),
    };
    let original = || match src.opt_usize(key("rope.scaling.original_context_length"))? {
        Some(v) if v > 1 => Ok(v),
        Some(v) => Err(src.invalid(key("rope.scaling.original_context_length"), v, "at least 2")),
        None => src.size(keys::CONTEXT, super::MAX_SIZE),
    };
    let attn_factor = positive("rope.scaling.attn_factor")?;
    let divisors = |name: &str| divisors(src, gguf, name, dim);
    let kind = src.opt_string(key("rope.scaling.type"))?;
    let has = |name: &str| gguf.find_tensor(name).is_some();
    let scaling = match kind.as_deref().unwrap_or("none") {
        // Local layers have a base of their own and are never stretched.
        _ if local.is_some() => RopeScaling::None,
        kind if kind == "longrope" || (matches!(kind, "none" | "linear") && has("rope_factors_long.weight")) => {
            let original = original()?;
            let trained = src.opt_usize(keys::CONTEXT)?.unwrap_or(original);
            let long = args.context.unwrap_or(trained) > original;
            let factors = divisors(if long { "rope_factors_long.weight" } else { "rope_factors_short.weight" })?;
            let attention_factor = attn_factor.unwrap_or_else(|| longrope_attention(trained as f64 / original as f64, original));
            RopeScaling::Longrope { factors, attention_factor }
        }
        "none" if has("rope_freqs.weight") => RopeScaling::Longrope { factors: divisors("rope_freqs.weight")?, attention_factor: 1.0 },
        "none" => RopeScaling::None,
        "linear" if factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor },
        "yarn" => RopeScaling::Yarn {
            factor,
            original: original()?,
            beta_fast: positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
            attention_factor: attn_factor.unwrap_or(1.0) * (1.0 + 0.1 * factor.max(1.0).ln()),
        },
        other => {
            let known = ["none", "linear", "yarn", "longrope"].map(str::to_owned).to_vec();
            let (file, field) = (src.file().into(), src.field(key("rope.scaling.type")));
            return Err(ConfigError::Unknown { file, offset: gguf.offset_of(&field), field, found: other.into(), known });
        }
    };
    let sections = sections(src, gguf, dim)?;
    Ok(Rope { dim, theta, style: args.style, scaling, sections, interleave_sections: false })
}

/// Frequencies per position axis, without the unused axes at the end.
fn sections(src: &ConfigSource, gguf: &Gguf, dim: usize) -> Result<Vec<usize>, ConfigError> {
    const KEY: Key = key("rope.dimension_sections");
    if let Some(n) = src.gguf_list(KEY).filter(|&n| n > MAX_AXES) {
        return Err(src.invalid(KEY, format_args!("a list of {n}"), format_args!("at most {MAX_AXES}, one per axis of positions")));
    }
    let mut sections: Vec<usize> = gguf.find(&src.field(KEY))?.unwrap_or_default();
    while sections.last() == Some(&0) {
        sections.pop();
    }
    if sections.len() > 1 && sections.iter().try_fold(0usize, |n, s| n.checked_add(*s)) != Some(dim / 2) {
        return Err(src.invalid(
            KEY,
            format_args!("{:.96}", format!("{sections:?}")),
            format_args!("sections that add up to {} frequencies", dim / 2),
        ));
    }
    Ok(sections)
}

fn divisors(src: &ConfigSource, gguf: &Gguf, name: &str, dim: usize) -> Result<Vec<f64>, ConfigError> {
    let tensor = gguf.tensor(name)?;
    let wrong = || ConfigError::Invalid {
        file: src.file().into(),
        field: name.into(),
        offset: tensor.offset,
        found: format!("{} numbers", tensor.elements()),
        expected: format!("{} finite numbers above 0, one per frequency", dim / 2),
    };
    // Before they are unpacked: a file of blocks is a fraction of what it says.
    if tensor.elements() != dim as u64 / 2 {
        return Err(wrong());
    }
    let factors: Vec<f64> = gguf.tensor_f32(tensor)?.into_iter().map(widen).collect();
    if factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
        return Err(wrong());
    }
    Ok(factors)
}
