//! The rotary embedding in both worlds, from the one [`Rope`] that either is read as.

use super::ConvertError;
use crate::config::ConfigSource;
use rlx_gguf::Value as Gguf;
use rlx_ir::ops::rope::{Rope, RopeScaling};
use serde_json::{Map, Value, json};

fn cannot(src: &ConfigSource, found: impl std::fmt::Debug, format: &'static str) -> ConvertError {
    ConvertError::Setting { file: src.file().into(), field: "the rotary embedding".into(), found: format!("{found:?}"), format }
}

/// What llama.cpp multiplies yarn's factor on cosine and sine with by itself.
fn yarn_default(factor: f64) -> f64 {
    1.0 + 0.1 * factor.max(1.0).ln()
}

/// GGUF keys after the architecture's prefix.
pub(super) fn to_gguf(src: &ConfigSource, rope: &Rope, head_dim: usize) -> Result<Vec<(&'static str, Gguf)>, ConvertError> {
    let f = |v: f64| Gguf::F32(v as f32);
    let n = |v: usize| Gguf::U32(u32::try_from(v).unwrap_or(u32::MAX));
    let mut out = vec![("rope.freq_base", f(rope.theta))];
    if rope.dim != head_dim {
        out.push(("rope.dimension_count", n(rope.dim)));
    }
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => out.extend([("rope.scaling.type", "linear".into()), ("rope.scaling.factor", f(*factor))]),
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate: true, attention_factor } => {
            out.extend([
                ("rope.scaling.type", "yarn".into()),
                ("rope.scaling.factor", f(*factor)),
                ("rope.scaling.original_context_length", n(*original)),
            ]);
            if *attention_factor != yarn_default(*factor) {
                out.push(("rope.scaling.attn_factor", f(attention_factor / yarn_default(*factor))));
            }
            if (*beta_fast, *beta_slow) != (32.0, 1.0) {
                out.extend([("rope.scaling.yarn_beta_fast", f(*beta_fast)), ("rope.scaling.yarn_beta_slow", f(*beta_slow))]);
            }
        }
        other => return Err(cannot(src, other, "GGUF metadata")),
    }
    if !rope.sections.is_empty() {
        if rope.interleave_sections || rope.sections.len() > 4 {
            return Err(cannot(src, rope, "GGUF metadata"));
        }
        let mut sections: Vec<i32> = rope.sections.iter().map(|s| *s as i32).collect();
        sections.resize(4, 0);
        out.push(("rope.dimension_sections", sections.into()));
    }
    Ok(out)
}

/// Members of `config.json`.
pub(super) fn to_json(src: &ConfigSource, rope: &Rope, head_dim: usize) -> Result<Map<String, Value>, ConvertError> {
    let mut out = Map::new();
    out.insert("rope_theta".into(), rope.theta.into());
    let mut scaling = match &rope.scaling {
        RopeScaling::None => Map::new(),
        RopeScaling::Linear { factor } => Map::from_iter([("rope_type".into(), "linear".into()), ("factor".into(), (*factor).into())]),
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, attention_factor } => Map::from_iter([
            ("rope_type".into(), "yarn".into()),
            ("factor".into(), (*factor).into()),
            ("original_max_position_embeddings".into(), (*original).into()),
            ("beta_fast".into(), (*beta_fast).into()),
            ("beta_slow".into(), (*beta_slow).into()),
            ("truncate".into(), (*truncate).into()),
            ("attention_factor".into(), (*attention_factor).into()),
        ]),
        other => return Err(cannot(src, other, "config.json from GGUF metadata")),
    };
    if !rope.sections.is_empty() {
        scaling.entry("rope_type").or_insert("default".into());
        scaling.insert("mrope_section".into(), json!(rope.sections));
    }
    out.insert("rope_scaling".into(), if scaling.is_empty() { Value::Null } else { scaling.into() });
    if rope.dim != head_dim {
        out.insert("partial_rotary_factor".into(), (rope.dim as f64 / head_dim as f64).into());
    }
    Ok(out)
}
