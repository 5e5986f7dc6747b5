//! MLX: `X.weight` (packed u32), `X.scales` and, in mode `affine`, `X.biases`; group by group along the last dimension.
//!
//! `affine` is value = scale · code + bias, codes lowest bits first.  `mxfp4` and `mxfp8` have power-of-two scales for 32
//! elements, `nvfp4` e4m3 scales for 16.  mlx-rs writes `X.inner.weight` for `X.weight`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::scheme::{MlxLayer, MlxScheme};
use super::words::{power, put};
use super::{Kind, Set, WeightsError};
use rlx_gguf::BlockFormat;
use rlx_gguf::blocks::{Affine, Fp8, ScaleType};
use rlx_ir::DType;

/// What the blocks look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Affine(Affine),
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

pub(super) fn collect(set: &mut Set<'_>, scheme: &MlxScheme) -> Result<(), WeightsError> {
    for base in set.bases(".weight", |t| t.dtype() == Some(DType::U32)) {
        let inner = base.strip_suffix(".inner").filter(|x| set.find(&format!("{x}.scales")).is_some());
        let owner = inner.unwrap_or(&base).to_owned();
        let layer = scheme.layer(&[&owner, &base]).map_err(Box::new)?;
        one(set, &owner, &format!("{base}.weight"), layer)?;
        // mlx-rs also moves the bias inside.
        let bias = (format!("{base}.bias"), format!("{owner}.bias"));
        if base != owner
            && let Some(mut t) = set.find(&bias.0).cloned()
        {
            set.hide(&bias.0);
            t.name = bias.1;
            set.new.push(t);
        }
    }
    Ok(())
}

fn one(set: &mut Set<'_>, owner: &str, weight: &str, layer: Option<MlxLayer>) -> Result<(), WeightsError> {
    let Some(codes) = set.find(weight).cloned() else { return Ok(()) };
    let Some(MlxLayer { bits, group, mode }) = layer else {
        return Err(set.bad(set.list(&[codes]), format!("a weight that is not packed: config.json says false for {owner}")));
    };
    let mut parts = vec![codes.clone(), set.part(&format!("{owner}.scales"), &codes)?];
    if mode == "affine" {
        parts.push(set.part(&format!("{owner}.biases"), &codes)?);
    }
    let all = set.list(&parts);
    let Some((columns, rows)) = codes.shape.split_last().filter(|s| !s.1.is_empty()) else {
        return Err(set.bad(all, "at least two dimensions"));
    };
    let input = columns.checked_mul(32).filter(|n| bits > 0 && n.is_multiple_of(bits)).map(|n| n / bits);
    let Some(input) = input else {
        return Err(set.bad(all, format!("a weight of whole codes of {bits} bits")));
    };
    if group == 0 || !input.is_multiple_of(group) {
        let what = format!("an input dimension divisible by the group size: {input} is not divisible by {group}");
        return Err(set.bad(all, format!("{what}; quantise {owner} with a group size that divides it, or leave it out")));
    }
    let scales: Vec<usize> = rows.iter().copied().chain([input / group]).collect();
    if parts.iter().skip(1).any(|p| p.shape != scales) {
        return Err(set.bad(all, format!("scales and biases of shape {scales:?}: {bits} bits in groups of {group} (config.json)")));
    }
    let types: Vec<Option<DType>> = parts.iter().skip(1).map(|p| p.dtype()).collect();
    let (layout, dtype) = match layout(mode.as_str(), bits, group, &types) {
        Ok(found) => found,
        Err(Refusal::Parts(expected)) => return Err(set.bad(all, expected)),
        Err(Refusal::Format(why)) => {
            set.refuse(&format!("{owner}.weight"), &codes, why);
            return Ok(());
        }
    };
    let shape: Vec<usize> = rows.iter().copied().chain([input]).collect();
    if dtype.row_bytes(input).is_none() {
        set.refuse(
            &format!("{owner}.weight"),
            &codes,
            format!("{mode} rows of {input} elements are not whole blocks of {dtype}; dequantise it or requantise it as affine"),
        );
        return Ok(());
    }
    set.make(format!("{owner}.weight"), dtype, shape, Kind::Mlx(layout), parts)
}

/// gpt-oss: `X_blocks` `[…, out, groups, 16]` and `X_scales` `[…, out, groups]`, both u8.
pub(super) fn collect_blocks(set: &mut Set<'_>) -> Result<(), WeightsError> {
    for x in set.bases("_blocks", |t| t.dtype() == Some(DType::U8)) {
        let Some(codes) = set.find(&format!("{x}_blocks")).cloned() else { continue };
        let parts = vec![codes.clone(), set.part(&format!("{x}_scales"), &codes)?];
        match (codes.shape.as_slice(), parts.last()) {
            ([rows @ .., groups, 16], Some(scales))
                if !rows.is_empty() && scales.dtype() == codes.dtype() && scales.shape.starts_with(rows) =>
            {
                if scales.shape.get(rows.len()..) != Some(&[*groups]) {
                    return Err(set.bad(set.list(&parts), "one scale for each block"));
                }
                let shape: Vec<usize> = rows.iter().copied().chain([groups.saturating_mul(32)]).collect();
                set.make(x, DType::Block(BlockFormat::MXFP4), shape, Kind::Mlx(Layout::Mxfp4), parts)?;
            }
            _ => return Err(set.bad(set.list(&parts), "blocks u8 […, out, groups, 16] and scales u8 […, out, groups]")),
        }
    }
    Ok(())
}

enum Refusal {
    /// The parts do not belong together.
    Parts(String),
    /// No block format is the same.
    Format(String),
}

fn layout(mode: &str, bits: usize, group: usize, types: &[Option<DType>]) -> Result<(Layout, DType), Refusal> {
    let block = |b| DType::Block(b);
    if mode == "affine" {
        let scale = match types {
            [Some(DType::F16), Some(DType::F16)] => ScaleType::F16,
            [Some(DType::BF16), Some(DType::BF16)] => ScaleType::BF16,
            [Some(DType::F32), Some(DType::F32)] => ScaleType::F32,
            _ => return Err(Refusal::Parts("scales and biases of one type: f16, bf16 or f32".into())),
        };
        let affine = Affine::new(bits, group, scale).map_err(|e| Refusal::Format(e.to_string()))?;
        return Ok((Layout::Affine(affine), block(BlockFormat::Affine(affine))));
    }
    if types != [Some(DType::U8)] {
        return Err(Refusal::Parts(format!("scales of type u8 for mode {mode}")));
    }
    match (mode, bits, group) {
        ("mxfp4", 4, 32) => Ok((Layout::Mxfp4, block(BlockFormat::MXFP4))),
        ("mxfp8", 8, 32) => {
            let fp8 = Fp8::new(32).map_err(|e| Refusal::Format(e.to_string()))?;
            Ok((Layout::Mxfp8, block(BlockFormat::Fp8(fp8))))
        }
        ("nvfp4", 4, 16) => Ok((Layout::Nvfp4, block(BlockFormat::NVFP4))),
        _ => Err(Refusal::Format(format!(
            "mode {mode} with {bits} bits in groups of {group} is not known; known are affine, mxfp4 (4 bits, groups of 32), mxfp8 (8, 32) and nvfp4 (4, 16)"
        ))),
    }
}

impl Layout {
    /// `parts`: codes, scales, biases.
    pub fn assemble(self, parts: &[&[u8]], out: &mut [u8]) {
        let [codes, scales, rest @ ..] = parts else { return };
        match self {
            Layout::Affine(a) => {
                let (n, biases) = (a.scale().bytes(), rest.first().copied().unwrap_or_default());
                let groups = codes.chunks_exact(a.group() * a.bits() / 8).zip(scales.chunks_exact(n)).zip(biases.chunks_exact(n));
                for (block, ((codes, scale), bias)) in out.chunks_exact_mut(a.block_bytes()).zip(groups) {
                    put(block, &[scale, bias, codes]);
                }
            }
            Layout::Mxfp4 => {
                for ((block, codes), scale) in out.chunks_exact_mut(17).zip(codes.as_chunks::<16>().0).zip(scales.iter()) {
                    put(block, &[&[*scale], &halves(codes)]);
                }
            }
            Layout::Mxfp8 => {
                for ((block, codes), scale) in out.chunks_exact_mut(36).zip(codes.as_chunks::<32>().0).zip(scales.iter()) {
                    put(block, &[&power(*scale).to_le_bytes(), codes]);
                }
            }
            Layout::Nvfp4 => {
                for ((block, codes), scales) in out.chunks_exact_mut(36).zip(codes.as_chunks::<32>().0).zip(scales.as_chunks::<4>().0) {
                    let [a, b, c, d] =
                        [0, 8, 16, 24].map(|at| codes.get(at..).and_then(|c| c.first_chunk::<8>()).map(halves).unwrap_or_default());
                    put(block, &[scales, &a, &b, &c, &d]);
                }
            }
        }
    }
}

/// Neighbouring elements, two to a byte, rearranged as ggml has them: the first half in the low nibbles, the second half
/// in the high ones.
fn halves<const N: usize>(codes: &[u8; N]) -> [u8; N] {
    let element = |i: usize| codes.get(i / 2).map_or(0, |b| if i.is_multiple_of(2) { b & 15 } else { b >> 4 });
    std::array::from_fn(|i| element(i) | element(i + N) << 4)
}
