//! GPTQ and AWQ: `X.qweight`, `X.qzeros` (words of 32 bits) and `X.scales`; value = scale · (code − zero).
//!
//! GPTQ packs codes along the input (word rows `[in · bits / 32, out]`), zeros along the output, both lowest bits first;
//! its first format stores zeros minus one.  `X.g_idx` says which group an input belongs to; only the plain order is
//! read.  AWQ packs 4-bit codes along the output, with columns 0 2 4 6 1 3 5 7 from the lowest bits on.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::scheme::GptqSettings;
use super::words::{Real, code, put, word};
use super::{Kind, Set, TensorMeta, WeightsError, group_of};
use rlx_gguf::BlockFormat;
use rlx_gguf::blocks::{Affine, ScaleType};
use rlx_ir::DType;

/// A weight `[output, input]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    format: Affine,
    input: usize,
    output: usize,
    /// Inputs that share a scale: a multiple of the format's group.
    group: usize,
    scale: Real,
    /// What is added to a stored zero.
    more: u32,
}

pub(super) fn collect(set: &mut Set<'_>, settings: &GptqSettings) -> Result<(), WeightsError> {
    for x in set.bases(".qweight", |t| t.dtype() == Some(DType::I32)) {
        let parts = parts(set, &x)?;
        let mut all = parts.to_vec();
        all.extend(set.find(&format!("{x}.g_idx")).cloned());
        let [codes, zeros, scales] = &parts;
        let ([words, output], [groups, scaled], [zero_rows, zero_words]) = (two(codes), two(scales), two(zeros));
        let bad = |expected: String| set.bad(set.list(&all), expected);
        // The width of the zeros tells the bits, also where layers differ.
        let bits = zero_words.saturating_mul(32).checked_div(output).unwrap_or(0);
        if output == 0 || bits * output != zero_words.saturating_mul(32) || ![2, 3, 4, 8].contains(&bits) {
            return Err(bad("zeros of 2, 3, 4 or 8 bits for each output".into()));
        }
        let input = words.saturating_mul(32) / bits;
        if words * 32 != input * bits || scaled != output || groups == 0 || zero_rows != groups {
            return Err(bad(format!("qweight [in · {bits} / 32, out], qzeros [groups, out · {bits} / 32] and scales [groups, out]")));
        }
        // Layers may have group sizes of their own; the number of groups tells.
        let group = settings.group.filter(|g| input.div_ceil(*g) == groups).unwrap_or(input / groups);
        finish(set, &x, all, Sizes { bits, input, output, group }, settings.minus_one.into(), Kind::Gptq)?;
    }
    Ok(())
}

pub(super) fn collect_awq(set: &mut Set<'_>, group: Option<usize>) -> Result<(), WeightsError> {
    for x in set.bases(".qweight", |t| t.dtype() == Some(DType::I32)) {
        let parts = parts(set, &x)?;
        let [codes, zeros, scales] = &parts;
        let ([input, words], [groups, output]) = (two(codes), two(scales));
        let bad = |expected: String| set.bad(set.list(&parts), expected);
        if words.checked_mul(8) != Some(output) || groups == 0 || two(zeros) != [groups, words] {
            return Err(bad("qweight [in, out / 8], qzeros [groups, out / 8] and scales [groups, out]".into()));
        }
        let group = group.filter(|g| input.div_ceil(*g) == groups).unwrap_or(input / groups);
        finish(set, &x, parts.to_vec(), Sizes { bits: 4, input, output, group }, 0, Kind::Awq)?;
    }
    Ok(())
}

fn parts(set: &Set<'_>, x: &str) -> Result<[TensorMeta; 3], WeightsError> {
    let Some(codes) = set.find(&format!("{x}.qweight")).cloned() else {
        return Err(set.bad(format!("no {x}.qweight"), "one"));
    };
    let (zeros, scales) = (set.part(&format!("{x}.qzeros"), &codes)?, set.part(&format!("{x}.scales"), &codes)?);
    let all = [codes, zeros, scales];
    let flat = all.iter().all(|t| t.shape.len() == 2);
    let [_, zeros, scales] = &all;
    if !flat || zeros.dtype() != Some(DType::I32) || Real::of(scales).is_none() {
        return Err(set.bad(set.list(&all), format!("matrices: codes and zeros of type i32, scales of type {}", Real::NAMES)));
    }
    Ok(all)
}

fn two(t: &TensorMeta) -> [usize; 2] {
    t.shape.first_chunk().copied().unwrap_or_default()
}

/// What the shapes say of a weight `[output, input]`.
struct Sizes {
    bits: usize,
    input: usize,
    output: usize,
    group: usize,
}

fn finish(
    set: &mut Set<'_>,
    x: &str,
    parts: Vec<TensorMeta>,
    sizes: Sizes,
    more: u32,
    kind: fn(Layout) -> Kind,
) -> Result<(), WeightsError> {
    let Sizes { bits, input, output, group } = sizes;
    let (Some(codes), Some(scale)) = (parts.first(), parts.get(2).and_then(Real::of)) else { return Ok(()) };
    let weight = format!("{x}.weight");
    let whole = group > 0 && input.is_multiple_of(group);
    let format = group_of(&Affine::GROUPS, &[input, group]).filter(|_| whole).map(|g| Affine::new(bits, g, ScaleType::F32));
    let Some(Ok(format)) = format else {
        let why = format!(
            "{input} inputs in groups of {group} with {bits} bits are no whole blocks: expected groups that 32 divides, and inputs that they divide"
        );
        set.refuse(&weight, codes, why);
        return Ok(());
    };
    let layout = Layout { format, input, output, group, scale, more };
    set.make(weight, DType::Block(BlockFormat::Affine(format)), vec![output, input], kind(layout), parts)
}

impl Layout {
    /// One block after the other: scale, bias and codes of `group` inputs of an output; `fill` says the codes.
    fn blocks(self, out: &mut [u8], scales: &[u8], zero: impl Fn(usize, usize) -> u32, fill: impl Fn(usize, usize, &mut [u8])) {
        let group = self.format.group();
        let across = self.input / group;
        for (n, block) in out.chunks_exact_mut(self.format.block_bytes()).enumerate() {
            let (output, at) = (n / across, n % across);
            let of = at * group / self.group;
            let scale = self.scale.get(scales, of * self.output + output);
            // Exact: a scale has at most 24 bits of which 11 are used, a zero at most 9.
            let bias = -scale * zero(of, output) as f32;
            put(block, &[&scale.to_le_bytes(), &bias.to_le_bytes()]);
            if let Some(codes) = block.get_mut(self.format.codes_at()..) {
                fill(output, at, codes);
            }
        }
    }

    /// `parts`: codes, zeros, scales, group of each input.
    pub fn assemble(self, parts: &[&[u8]], out: &mut [u8]) -> Result<(), String> {
        let [codes, zeros, scales, order @ ..] = parts else { return Ok(()) };
        if let [order] = order {
            plain_order(order, self.group)?;
        }
        let bits = self.format.bits();
        let zero = |of: usize, output: usize| code(zeros, of * self.output * bits / 32, 1, bits, output) + self.more;
        let words = self.format.group() * bits / 32;
        self.blocks(out, scales, zero, |output, at, codes_out| {
            for (i, bytes) in codes_out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *bytes = word(codes, (at * words + i) * self.output + output).to_le_bytes();
            }
        });
        Ok(())
    }

    /// `parts`: codes, zeros, scales.
    pub fn assemble_awq(self, parts: &[&[u8]], out: &mut [u8]) {
        let [codes, zeros, scales] = parts else { return };
        let across = self.output / 8;
        let column = |bytes: &[u8], row: usize, output: usize| {
            let place = output % 2 * 4 + output % 8 / 2;
            word(bytes, row * across + output / 8) >> (4 * place) & 15
        };
        let zero = |of: usize, output: usize| column(zeros, of, output);
        let group = self.format.group();
        self.blocks(out, scales, zero, |output, at, codes_out| {
            for (i, byte) in codes_out.iter_mut().enumerate() {
                let row = at * group + 2 * i;
                *byte = (column(codes, row, output) | column(codes, row + 1, output) << 4) as u8;
            }
        });
    }
}

/// Refuses inputs that were sorted by activation before they were grouped.
pub(super) fn plain_order(order: &[u8], group: usize) -> Result<(), String> {
    let all = order.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b));
    match all.enumerate().find(|(i, g)| *g >= 0 && usize::try_from(*g) != Ok(i / group)) {
        Some((i, g)) => Err(format!(
            "input {i} is in group {g}: inputs were sorted by activation (desc_act, actorder), which no block format has; quantise without it"
        )),
        None => Ok(()),
    }
}
