//! What `config.json` says about quantisation.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::config::{ConfigDoc, ConfigError};
use crate::message::quote;

/// A method of quantisation, with what the tensors alone do not say.
pub(super) enum Scheme {
    Mlx(MlxScheme),
    /// Released gpt-oss checkpoints: `X_blocks` and `X_scales`.
    Mxfp4,
    Fp8 {
        block: (usize, usize),
    },
    Gptq(GptqSettings),
    Awq {
        group: Option<usize>,
    },
    Compressed {
        block: (usize, usize),
        /// Bits of packed codes, where all layers have the same.
        bits: Option<usize>,
    },
    Refused {
        method: String,
        why: String,
    },
}

/// `quantization_config` of GPTQ.
#[derive(Clone, Copy, Debug)]
pub(super) struct GptqSettings {
    /// `None` for one group per row.
    pub group: Option<usize>,
    /// Zero points are stored minus one.
    pub minus_one: bool,
}

/// `quantization` of MLX: settings for all layers, and for single ones by name.
pub(super) struct MlxScheme {
    doc: ConfigDoc,
    default: MlxLayer,
}

/// How a layer is quantised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MlxLayer {
    pub bits: usize,
    pub group: usize,
    pub mode: String,
}

const BLOCK: (usize, usize) = (128, 128);

/// Bits of the codes of several groups of layers.
#[derive(Clone, Copy)]
enum Bits {
    Unsaid,
    All(usize),
    Mixed,
}

impl Bits {
    fn and(self, n: usize) -> Bits {
        match self {
            Bits::Unsaid => Bits::All(n),
            Bits::All(m) if m == n => self,
            Bits::All(_) | Bits::Mixed => Bits::Mixed,
        }
    }
}

impl Scheme {
    /// The method, if any.
    pub fn read(root: &ConfigDoc) -> Result<Option<Scheme>, ConfigError> {
        let text = root.text_config()?;
        for doc in [root, &text] {
            if let Some(q) = doc.opt_object("quantization")? {
                return mlx_or_modelopt(q).map(Some);
            }
            if let Some(q) = doc.opt_object("quantization_config")? {
                return Self::hugging_face(q);
            }
        }
        Ok(None)
    }

    fn hugging_face(q: ConfigDoc) -> Result<Option<Scheme>, ConfigError> {
        let Some(method) = q.opt_string("quant_method")? else {
            return if q.keys().next().is_none() { Ok(None) } else { mlx_or_modelopt(q).map(Some) };
        };
        Ok(Some(match method.as_str() {
            "fp8" | "fbgemm_fp8" => match q.opt_string("fmt")?.as_deref() {
                None | Some("float8_e4m3fn" | "e4m3") => Scheme::Fp8 { block: block_size(&q, "weight_block_size")? },
                Some(other) => return Err(q.unknown("fmt", other, ["float8_e4m3fn", "e4m3"])),
            },
            "gptq" => {
                let format = q.opt_string("checkpoint_format")?.unwrap_or_else(|| "gptq".into());
                if !["gptq", "gptq_v2"].contains(&format.as_str()) {
                    return Ok(Some(refused(
                        &q,
                        "checkpoint_format",
                        &method,
                        format!("checkpoint_format {}: expected gptq or gptq_v2", quote(&format)),
                    )));
                }
                Scheme::Gptq(GptqSettings { group: group_size(&q)?, minus_one: format == "gptq" })
            }
            "awq" => {
                let version = q.opt_string("version")?.unwrap_or_else(|| "gemm".into());
                if !version.eq_ignore_ascii_case("gemm") {
                    return Ok(Some(refused(&q, "version", &method, format!("version {}: expected gemm", quote(&version)))));
                }
                Scheme::Awq { group: group_size(&q)? }
            }
            "compressed-tensors" => return Self::compressed(&q).map(Some),
            "mxfp4" => Scheme::Mxfp4,
            _ => refused(
                &q,
                "quant_method",
                &method,
                "the method is not known; known are compressed-tensors, fp8, fbgemm_fp8, gptq, awq and mxfp4".into(),
            ),
        }))
    }

    fn compressed(q: &ConfigDoc) -> Result<Scheme, ConfigError> {
        const KNOWN: [&str; 6] = ["pack-quantized", "float-quantized", "int-quantized", "naive-quantized", "mixed-precision", "dense"];
        const METHOD: &str = "compressed-tensors";
        let unknown_format = |doc: &ConfigDoc| {
            let format = doc.opt_string("format")?.filter(|f| !KNOWN.contains(&f.as_str()));
            Ok::<_, ConfigError>(format.map(|f| (f, doc.clone())))
        };
        let mut unknown = unknown_format(q)?;
        if let Some(sparse) = q.opt_object("sparsity_config")?
            && let Some(format) = sparse.opt_string("format")?
            && format != "dense"
        {
            return Ok(refused(&sparse, "format", METHOD, format!("sparsity format {}: only dense weights are read", quote(&format))));
        }
        // Groups are looked at one by one: a file may have very many.
        let (mut bits, mut block) = (Bits::Unsaid, BLOCK);
        if let Some(groups) = q.opt_object("config_groups")? {
            for name in groups.keys() {
                let Some(group) = groups.opt_object(&name)? else { continue };
                unknown = unknown.or(unknown_format(&group)?);
                let Some(weights) = group.opt_object("weights")? else { continue };
                if let Some(n) = weights.opt_usize("num_bits")? {
                    bits = bits.and(n);
                }
                if weights.has("block_structure") {
                    block = block_size(&weights, "block_structure")?;
                }
            }
        }
        if let Some((format, doc)) = unknown {
            return Ok(refused(&doc, "format", METHOD, format!("format {}: expected one of {}", quote(&format), KNOWN.join(", "))));
        }
        Ok(Scheme::Compressed { block, bits: if let Bits::All(n) = bits { Some(n) } else { None } })
    }

    /// Its name, for people.
    pub fn method(&self) -> &str {
        match self {
            Scheme::Mlx(_) => "mlx",
            Scheme::Mxfp4 => "mxfp4",
            Scheme::Fp8 { .. } => "fp8",
            Scheme::Gptq(_) => "gptq",
            Scheme::Awq { .. } => "awq",
            Scheme::Compressed { .. } => "compressed-tensors",
            Scheme::Refused { method, .. } => method,
        }
    }

    /// Why it cannot be used.
    pub fn refused(&self) -> Option<String> {
        match self {
            Scheme::Refused { why, .. } => Some(why.clone()),
            _ => None,
        }
    }
}

/// `doc` has the field that cannot be followed.
fn refused(doc: &ConfigDoc, field: &str, method: &str, why: String) -> Scheme {
    let advice = "take an unquantised, GGUF or MLX release, or dequantise it with the library that wrote it";
    let why = format!("{why} ({} at byte {} of config.json); {advice}", doc.field(field), doc.offset(field));
    Scheme::Refused { method: method.into(), why }
}

fn mlx_or_modelopt(q: ConfigDoc) -> Result<Scheme, ConfigError> {
    if let Some(algorithm) = q.opt_string("quant_algo")? {
        return Ok(refused(&q, "quant_algo", "modelopt", format!("quant_algo {} has no block format here", quote(&algorithm))));
    }
    let default = mlx_layer(&q, None)?;
    Ok(Scheme::Mlx(MlxScheme { doc: q, default }))
}

fn mlx_layer(q: &ConfigDoc, default: Option<&MlxLayer>) -> Result<MlxLayer, ConfigError> {
    let mode = q.opt_string("mode")?.or_else(|| default.map(|d| d.mode.clone())).unwrap_or_else(|| "affine".into());
    // The microscaling modes have sizes of their own.
    let fixed = match mode.as_str() {
        "mxfp4" => Some((4, 32)),
        "mxfp8" => Some((8, 32)),
        "nvfp4" => Some((4, 16)),
        _ => default.map(|d| (d.bits, d.group)),
    };
    let bits = q.opt_usize("bits")?.or(fixed.map(|f| f.0)).ok_or_else(|| q.missing("bits", "2, 3, 4, 5, 6 or 8"))?;
    let group = q.opt_usize("group_size")?.or(fixed.map(|f| f.1)).ok_or_else(|| q.missing("group_size", "32, 64 or 128"))?;
    Ok(MlxLayer { bits, group, mode })
}

impl MlxScheme {
    /// How the layer of one of these names is quantised; `None` when it is said not to be.
    pub fn layer(&self, names: &[&str]) -> Result<Option<MlxLayer>, ConfigError> {
        let Some(name) = names.iter().find(|n| self.doc.has(n)) else {
            return Ok(Some(self.default.clone()));
        };
        match self.doc.raw(name) {
            Some("false") => Ok(None),
            Some("true") => Ok(Some(self.default.clone())),
            _ => match self.doc.opt_object(name)? {
                Some(layer) => mlx_layer(&layer, Some(&self.default)).map(Some),
                None => Ok(None),
            },
        }
    }
}

/// `group_size`; -1 stands for one group per row.
fn group_size(q: &ConfigDoc) -> Result<Option<usize>, ConfigError> {
    if q.raw("group_size") == Some("-1") {
        return Ok(None);
    }
    match q.usize("group_size")? {
        0 => Err(q.invalid("group_size", "at least 1, or -1 for one group per row")),
        n => Ok(Some(n)),
    }
}

fn block_size(q: &ConfigDoc, name: &str) -> Result<(usize, usize), ConfigError> {
    match q.opt_usizes(name)?.as_deref() {
        None => Ok(BLOCK),
        Some([rows, columns]) if *rows > 0 && *columns > 0 => Ok((*rows, *columns)),
        Some(_) => Err(q.invalid(name, "two sizes of at least 1: rows and columns")),
    }
}
