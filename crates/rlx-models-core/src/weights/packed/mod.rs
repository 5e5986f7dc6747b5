//! Quantised weights that safetensors files keep as several tensors, presented as one tensor of a block format.
//!
//! `config.json` says which method was used: `quantization` (MLX) or `quantization_config` (Hugging Face).  What belongs
//! to one weight is found by name when a checkpoint is opened, its shapes and types are checked against each other, and
//! the parts give way to one tensor with the logical shape `[…, out, in]`.  Bytes are put together when the tensor is
//! asked for, in one pass over the mapped parts.
//!
//! Methods and tensors that no block format can represent stay as they are in the list and are refused at use, with the
//! reason.  Activations are never quantised the way a checkpoint suggests: scales for them are dropped.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod compressed;
mod fp8;
mod gptq;
mod mlx;
mod scheme;
mod words;

use super::custom::bytes_of;
use super::{StoredType, TensorMeta, WeightsError};
use crate::config::ConfigDoc;
use rlx_ir::DType;
use scheme::Scheme;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// How the weights of a safetensors checkpoint are quantised.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Quantization {
    /// `mlx`, or the `quant_method` of `config.json`.
    pub method: String,
    /// Weights that were put together from several tensors.
    pub weights: usize,
    /// Why the method cannot be used, and what could be done.
    pub refused: Option<String>,
}

/// How the bytes of a weight follow from its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mlx(mlx::Layout),
    Fp8(fp8::Layout),
    Gptq(gptq::Layout),
    Awq(gptq::Layout),
    Compressed(compressed::Layout),
}

/// A weight made of parts.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    kind: Kind,
    /// As the kind wants them.
    pub parts: Vec<Part>,
}

/// Where a part is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub file: u32,
    pub offset: u64,
    pub bytes: u64,
}

/// What became of a weight.
#[derive(Clone, Debug)]
pub(super) enum Made {
    Whole(Recipe),
    /// The reason why not.
    Refused(String),
}

/// The weights of a checkpoint that differ from what its files list.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub quantization: Option<Quantization>,
    made: BTreeMap<String, Made>,
}

impl Packed {
    pub fn get(&self, name: &str) -> Option<&Made> {
        self.made.get(name)
    }
}

/// Replaces the parts of quantised weights in `tensors`, which are sorted by name, by the weights.  `path` is the
/// checkpoint, beside which `config.json` lies, `files` what it consists of; `data` gives the bytes of a small tensor.
pub(super) fn present(
    tensors: &mut Vec<TensorMeta>,
    path: &Path,
    files: &[&Path],
    data: &dyn Fn(&TensorMeta) -> Result<Vec<u8>, WeightsError>,
) -> Result<Packed, WeightsError> {
    let file = path.with_file_name("config.json");
    let doc = if file.exists() { ConfigDoc::open(&file) } else { return Ok(without_config(tensors, files)) };
    let scheme = match doc.and_then(|doc| Scheme::read(&doc)) {
        Ok(Some(scheme)) => scheme,
        Ok(None) => return Ok(without_config(tensors, files)),
        // Settings that nothing here depends on are reported by who reads them.
        Err(_) if !tensors.iter().any(|t| looks_packed(t) || t.dtype() == Some(DType::F8E4M3)) => return Ok(Packed::default()),
        Err(e) => return Err(Box::new(e).into()),
    };
    let mut set = Set { path, files, data, tensors: std::mem::take(tensors), hidden: BTreeSet::new(), new: vec![], made: BTreeMap::new() };
    let done = set.collect(&scheme);
    let (method, refused) = (scheme.method().to_owned(), scheme.refused());
    let packed = set.finish(tensors, method, refused);
    done.map(|()| packed)
}

/// Whether a tensor can only be a part of a quantised weight.
fn looks_packed(t: &TensorMeta) -> bool {
    let packed_codes = t.name.ends_with(".weight") && t.dtype() == Some(DType::U32);
    packed_codes || [".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv"].iter().any(|s| t.name.ends_with(s))
}

/// Without a word on quantisation, nothing may look quantised.
fn without_config(tensors: &[TensorMeta], files: &[&Path]) -> Packed {
    let Some(t) = tensors.iter().find(|t| looks_packed(t)) else {
        return Packed::default();
    };
    let why = format!(
        "tensor {} is part of a quantised weight, but config.json beside the weights has neither quantization nor quantization_config; \
         take the config.json of the release",
        describe(t, files)
    );
    let quantization = Quantization { method: "unknown".into(), weights: 0, refused: Some(why) };
    Packed { quantization: Some(quantization), made: BTreeMap::new() }
}

/// Tensors of a checkpoint while weights are found among them.
struct Set<'a> {
    path: &'a Path,
    files: &'a [&'a Path],
    data: &'a dyn Fn(&TensorMeta) -> Result<Vec<u8>, WeightsError>,
    /// Sorted by name.
    tensors: Vec<TensorMeta>,
    /// Positions of tensors that give way to weights.
    hidden: BTreeSet<usize>,
    new: Vec<TensorMeta>,
    made: BTreeMap<String, Made>,
}

impl Set<'_> {
    fn collect(&mut self, scheme: &Scheme) -> Result<(), WeightsError> {
        match scheme {
            Scheme::Mlx(scheme) => mlx::collect(self, scheme),
            Scheme::Mxfp4 => mlx::collect_blocks(self),
            Scheme::Fp8 { block } => fp8::collect(self, *block, true),
            Scheme::Gptq(settings) => gptq::collect(self, settings),
            Scheme::Awq { group } => gptq::collect_awq(self, *group),
            Scheme::Compressed { block, bits } => {
                compressed::collect(self, *bits)?;
                fp8::collect(self, *block, false)
            }
            Scheme::Refused { .. } => Ok(()),
        }
    }

    fn finish(self, tensors: &mut Vec<TensorMeta>, method: String, refused: Option<String>) -> Packed {
        let weights = self.made.values().filter(|m| matches!(m, Made::Whole(_))).count();
        let hidden = self.hidden;
        *tensors = self.tensors.into_iter().enumerate().filter(|(i, _)| !hidden.contains(i)).map(|(_, t)| t).collect();
        tensors.extend(self.new);
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Packed { quantization: Some(Quantization { method, weights, refused }), made: self.made }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()
    }

    fn find(&self, name: &str) -> Option<&TensorMeta> {
        self.tensors.get(self.position(name)?)
    }

    /// The names of tensors that end in `suffix`, without it, where `fits`.
    fn bases(&self, suffix: &str, fits: impl Fn(&TensorMeta) -> bool) -> Vec<String> {
        let fitting = self.tensors.iter().filter(|t| fits(t));
        fitting.filter_map(|t| t.name.strip_suffix(suffix).map(str::to_owned)).collect()
    }

    /// The part `name` of the weight whose codes are `codes`.
    fn part(&self, name: &str, codes: &TensorMeta) -> Result<TensorMeta, WeightsError> {
        let found = || format!("{} without {name}", self.describe(codes));
        self.find(name).cloned().ok_or_else(|| self.bad(found(), "both, as the method of config.json writes them"))
    }

    fn hide(&mut self, name: &str) {
        if let Some(at) = self.position(name) {
            self.hidden.insert(at);
        }
    }

    /// Puts a weight in the place of its parts; the first of them has the codes.
    fn make(&mut self, name: String, dtype: DType, shape: Vec<usize>, kind: Kind, parts: Vec<TensorMeta>) -> Result<(), WeightsError> {
        let Some((codes, bytes)) = parts.first().zip(bytes_of(dtype, &shape)) else {
            return Err(self.bad(format!("{dtype} of shape {shape:?}"), "whole blocks of fewer than 2^63 bytes"));
        };
        let (file, offset) = (codes.file, codes.offset);
        for part in &parts {
            self.hide(&part.name);
        }
        // A tensor of the weight's own name can only be one of its parts.
        if self.position(&name).is_some_and(|at| !self.hidden.contains(&at)) {
            return Err(self.bad(format!("{name} beside {}", self.list(&parts)), "one of the two"));
        }
        self.new.push(TensorMeta { name: name.clone(), stored: StoredType::Known(dtype), shape, file, offset, bytes });
        let parts = parts.iter().map(|p| Part { file: p.file, offset: p.offset, bytes: p.bytes }).collect();
        self.made.insert(name, Made::Whole(Recipe { kind, parts }));
        Ok(())
    }

    /// Says why a weight cannot be put together; its parts stay in the list.
    fn refuse(&mut self, name: &str, codes: &TensorMeta, why: impl fmt::Display) {
        self.made.insert(name.to_owned(), Made::Refused(format!("{}: {why}", self.describe(codes))));
    }

    fn describe(&self, t: &TensorMeta) -> String {
        describe(t, self.files)
    }

    fn list(&self, parts: &[TensorMeta]) -> String {
        parts.iter().map(|t| self.describe(t)).collect::<Vec<_>>().join(", ")
    }

    fn bad(&self, found: impl Into<String>, expected: impl Into<String>) -> WeightsError {
        WeightsError::Parts { file: self.path.into(), found: found.into(), expected: expected.into() }
    }
}

/// `X.weight u32 [8, 16] at byte 720`, with the file where there are several.
fn describe(t: &TensorMeta, files: &[&Path]) -> String {
    let name = files.get(t.file as usize).filter(|_| files.len() > 1).and_then(|f| f.file_name());
    let file = name.map(|n| format!(" of {}", n.display())).unwrap_or_default();
    format!("{} {} {:?} at byte {}{file}", crate::message::quote(&t.name), t.stored, t.shape, t.offset)
}

/// The largest size of a group of `sizes` that divides all of `lengths`.
fn group_of(sizes: &[usize], lengths: &[usize]) -> Option<usize> {
    sizes.iter().rev().copied().find(|g| lengths.iter().all(|n| n.is_multiple_of(*g)))
}

impl Recipe {
    /// The bytes of the weight, `bytes` of them; `parts` are those of the parts.
    pub fn assemble(&self, parts: &[&[u8]], bytes: usize) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        out.try_reserve_exact(bytes).map_err(|e| format!("no memory for {bytes} bytes: {e}"))?;
        out.resize(bytes, 0);
        match self.kind {
            Kind::Mlx(layout) => layout.assemble(parts, &mut out),
            Kind::Fp8(layout) => layout.assemble(parts, &mut out),
            Kind::Gptq(layout) => layout.assemble(parts, &mut out)?,
            Kind::Awq(layout) => layout.assemble_awq(parts, &mut out),
            Kind::Compressed(layout) => layout.assemble(parts, &mut out)?,
        }
        Ok(out)
    }
}
