//! Checkpoints on disk.
//!
//! One path leads from a file to a tensor: [`resolve_weights`] finds the file and its format, [`open_with`] opens it as
//! a [`Checkpoint`] (tensors by the names they have in the file), and [`open_map`] and [`open_map_with`] put the names
//! of Hugging Face checkpoints over it as a [`WeightMap`].  [`load_weight_map`] also makes sure of the architecture.
//!
//! Opened are a `.safetensors` file, a directory with `model.safetensors` or `model.safetensors.index.json`, a `.gguf`
//! file, a part of a split one, a directory with several, and files of formats added with [`register_format`].  Nothing
//! but headers is read until a tensor is used; views keep the file mapped, so that a backend may hold on to them
//! without copying.  [`LoadOpts::map`] is for tensors in any order, [`LoadOpts::loader`] for handing each over once:
//! see [`Access`].
//!
//! Weights that safetensors files keep in several tensors (MLX, GPTQ, AWQ, compressed-tensors, fp8 with scales) are
//! presented as one tensor of a block format: see [`Quantization`] and [`Checkpoint::quantization`].
//!
//! Files must not be made shorter while they are open: see [`Mapping`].
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod checkpoint;
mod custom;
mod error;
mod fingerprint;
mod index;
mod map;
mod mtp;
mod opts;
mod packed;
mod resolve;
mod safetensors;
mod tensor;

pub use crate::names::{GgufTensorResolver, WeightMap, register_gguf_tensor_resolver};
pub use checkpoint::{Checkpoint, open_with};
pub use custom::{FileTensor, PROBE_BYTES, WeightsReader, register_format};
pub use error::WeightsError;
pub use index::{MAX_INDEX_BYTES, MAX_SHARDS};
pub use map::{Mapping, TensorData};
pub use opts::{Access, LoadOpts, ResolveWeightsOptions, ResolvedWeights, WeightFormat};
pub use packed::Quantization;
pub use resolve::{gguf_files, resolve_weights};
pub use safetensors::{MAX_DIMS, MAX_HEADER_BYTES, MAX_NAME_BYTES};
pub use tensor::{StoredType, TensorMeta, TensorView};

#[cfg(feature = "hub")]
pub(crate) use index::shards_in;
pub(crate) use map::{open_regular, read_small};
#[cfg(feature = "hub")]
pub(crate) use resolve::{among, has_extension, is_index, is_projector, names_quant, part_number};
#[cfg(feature = "hub")]
pub(crate) use safetensors::parse as parse_safetensors;
pub(crate) use safetensors::position;

use crate::message::{nearest, quote};
use crate::registry::Identity;
use rlx_gguf::Gguf;
use std::path::Path;

/// Opens the checkpoint at `path` under the names of Hugging Face checkpoints, for tensors in any order.
///
/// # Errors
/// As [`open_with`].
pub fn open_map(path: impl AsRef<Path>) -> Result<WeightMap, WeightsError> {
    open_map_with(LoadOpts::map(), path)
}

/// Opens the checkpoint at `path` under the names of Hugging Face checkpoints.
///
/// GGUF files are translated by what was registered for their architecture with [`register_gguf_tensor_resolver`];
/// where nothing was, names are those of the file.
///
/// # Errors
/// As [`open_with`].
pub fn open_map_with(opts: LoadOpts, path: impl AsRef<Path>) -> Result<WeightMap, WeightsError> {
    Ok(WeightMap::of_file(open_with(opts, path)?))
}

/// Opens the checkpoint at `path` as [`open_map`] does, if it is of one of these architectures: `general.architecture`
/// of GGUF files, `model_type` or a class in `architectures` of `config.json`.
///
/// # Errors
/// As [`open_with`], [`WeightsError::Config`], and [`WeightsError::Architecture`] when it is none of them.
pub fn load_weight_map(path: impl AsRef<Path>, arches: &[&str]) -> Result<WeightMap, WeightsError> {
    let map = open_map(path)?;
    if let Some(gguf) = map.checkpoint().gguf() {
        gguf_validate_arch(gguf, arches)?;
        return Ok(map);
    }
    let identity = Identity::of(map.checkpoint()).map_err(Box::new)?;
    let names = || identity.model_type.iter().chain(&identity.architectures).map(String::as_str);
    if names().any(|name| arches.contains(&name)) {
        return Ok(map);
    }
    let found = names().next();
    Err(WeightsError::Architecture {
        path: map.checkpoint().path().into(),
        found: identity.to_string(),
        expected: arches.iter().map(|a| (*a).to_owned()).collect(),
        nearest: found.map(|f| nearest(f, arches.iter().copied())).unwrap_or_default(),
    })
}

/// The architecture of a GGUF file, which must be one of `arches`, in the same case.
///
/// # Errors
/// [`WeightsError::Gguf`] when `general.architecture` is missing, empty or no string, [`WeightsError::Architecture`] when
/// it is none of them.
pub fn gguf_validate_arch<'g>(gguf: &'g Gguf, arches: &[&str]) -> Result<&'g str, WeightsError> {
    let found = gguf.architecture()?;
    if arches.contains(&found) {
        return Ok(found);
    }
    Err(WeightsError::Architecture {
        path: gguf.path().unwrap_or(Path::new("GGUF bytes in memory")).into(),
        found: format!("GGUF architecture {}", quote(found)),
        expected: arches.iter().map(|a| (*a).to_owned()).collect(),
        nearest: nearest(found, arches.iter().copied()),
    })
}
