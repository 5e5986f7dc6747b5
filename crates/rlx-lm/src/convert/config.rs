//! `config.json` and the `general.` family of GGUF metadata.

use super::types::Plan;
use crate::{LmError, LmFamily, Result};
use rlx_core::config::ConfigSource;
use rlx_core::convert::to_json;
use rlx_core::weights::Checkpoint;
use rlx_gguf::BlockFormat;
use rlx_gguf::Value as Gguf;
use rlx_ir::DType;
use serde_json::{Map, Value, json};

/// Metadata that every GGUF file has; `arch` is the architecture.
pub(super) fn general(arch: &str, source: &Checkpoint, plan: &Plan) -> Vec<(String, Gguf)> {
    let n: u64 = plan.tensors.iter().map(super::Planned::elements).sum();
    let entry = |key: &str, value: Gguf| (format!("general.{key}"), value);
    let mut out = vec![entry("architecture", arch.into()), entry("type", "model".into()), entry("name", name(source).into())];
    out.push(entry("size_label", size_label(n).into()));
    out.extend(file_type(plan.main).map(|t| entry("file_type", t.into())));
    out.push(entry("quantization_version", 2u32.into()));
    out
}

/// What the model is called: as its GGUF file says, else as its folder or file is called.
fn name(source: &Checkpoint) -> String {
    if let Some(Gguf::String(name)) = source.gguf().and_then(|g| g.get("general.name")) {
        return name.clone();
    }
    let dir = source.dir().canonicalize().unwrap_or_else(|_| source.dir().into());
    dir.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned())
}

/// `7.0M`, `30B`: at least two digits.
fn size_label(parameters: u64) -> String {
    let n = parameters as f64;
    let (scaled, unit) = match n {
        1e12.. => (n / 1e12, "T"),
        1e9.. => (n / 1e9, "B"),
        1e6.. => (n / 1e6, "M"),
        _ => (n / 1e3, "K"),
    };
    if scaled.round() < 10.0 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// llama.cpp's number for a file whose matrices are mostly of this type.
fn file_type(main: DType) -> Option<u32> {
    Some(match main {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 32,
        DType::Block(BlockFormat::Q8_0) => 7,
        _ => return None,
    })
}

/// Files of weights in a directory, which new ones replace.
pub(super) fn is_weights(name: &str) -> bool {
    let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
    shard || name == "model.safetensors" || name == "model.safetensors.index.json"
}

/// The `config.json` of the converted checkpoint.  That of a Hugging Face directory is kept but for types and
/// quantisation; that of a GGUF file is made from its metadata.
pub(super) fn json(
    family: &dyn LmFamily,
    config: &ConfigSource,
    source: &Checkpoint,
    plan: &Plan,
    affine: Option<(usize, usize)>,
    has: &dyn Fn(&str) -> bool,
) -> Result<Value> {
    let mut object = match config.hf() {
        Some(_) => {
            let path = source.dir().join("config.json");
            let read = std::fs::read(&path).and_then(|b| serde_json::from_slice(&b).map_err(Into::into));
            read.map_err(|source| LmError::Io { file: path, source })?
        }
        None => made(family, config, has)?,
    };
    for stale in ["quantization", "quantization_config", "dtype", "torch_dtype"] {
        object.shift_remove(stale);
    }
    let plain = plan.tensors.iter().map(|t| t.affine().map_or(t.to, super::Affine::scale));
    let dtype = match plain.clone().find(|d| *d == plan.main).or(plain.clone().next()) {
        Some(DType::F16) => "float16",
        Some(DType::BF16) => "bfloat16",
        _ => "float32",
    };
    object.insert("torch_dtype".into(), dtype.into());
    if let Some((bits, group)) = affine {
        let quantization = json!({ "group_size": group, "bits": bits, "mode": "affine" });
        // mlx-lm reads the first, the Hub the second.
        object.insert("quantization".into(), quantization.clone());
        object.insert("quantization_config".into(), quantization);
    }
    Ok(object.into())
}

/// A `config.json` from GGUF metadata.
fn made(family: &dyn LmFamily, config: &ConfigSource, has: &dyn Fn(&str) -> bool) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    object.insert("architectures".into(), json!(family.architectures().first().into_iter().collect::<Vec<_>>()));
    object.insert("model_type".into(), json!(family.model_types().first()));
    object.extend(to_json(family.settings(), config, has)?);
    object.insert("use_cache".into(), true.into());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits() {
        for (n, want) in [(149_888, "150K"), (6_982_912, "7.0M"), (596_049_920, "596M"), (1_720_574_976, "1.7B"), (30_532_122_624, "31B")] {
            assert_eq!(size_label(n), want);
        }
    }

    #[test]
    fn only_weights_are_stale() {
        for (name, want) in [
            ("model.safetensors", true),
            ("model-00001-of-00002.safetensors", true),
            ("model.safetensors.index.json", true),
            ("config.json", false),
            ("adapter_model.safetensors", false),
        ] {
            assert_eq!(is_weights(name), want, "{name}");
        }
    }
}
