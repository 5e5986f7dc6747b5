//! compressed-tensors: `X.weight_packed` (int32, `pack-quantized`) or `X.weight` (int8, `int-quantized`) with
//! `X.weight_scale` and perhaps `X.weight_zero_point`; value = scale · (code − zero), both signed.
//!
//! Packed codes have half their range added and lie along the input, lowest bits first; packed zeros likewise, along
//! the output.  `X.weight_shape` has the logical shape.  8-bit floats are read as in [`fp8`](super::fp8).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::gptq::plain_order;
use super::words::{Real, code, put};
use super::{Kind, Set, TensorMeta, WeightsError, group_of};
use rlx_gguf::BlockFormat;
use rlx_gguf::blocks::{Affine, ScaleType};
use rlx_ir::DType;

/// How zeros are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeros {
    /// There are none.
    No,
    /// As codes are, along the output.
    Packed,
    Int8,
}

/// A weight `[output, input]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    format: Affine,
    output: usize,
    input: usize,
    /// Scales of a row, and 0 where one scale serves all rows.
    groups: usize,
    rows: usize,
    scale: Real,
    zeros: Zeros,
    /// Codes are int8 rather than packed.
    signed: bool,
    /// The last part is the order of inputs.
    ordered: bool,
}

pub(super) fn collect(set: &mut Set<'_>, bits: Option<usize>) -> Result<(), WeightsError> {
    for x in set.bases(".weight_packed", |_| true) {
        packed(set, &x, bits)?;
    }
    for x in set.bases(".weight", |t| t.dtype() == Some(DType::I8)) {
        if let (Some(codes), Some(_)) = (set.find(&format!("{x}.weight")).cloned(), set.find(&format!("{x}.weight_scale"))) {
            let [output, input] = codes.shape.first_chunk().copied().unwrap_or_default();
            one(set, &x, codes, 8, output, input, true)?;
        }
    }
    Ok(())
}

fn packed(set: &mut Set<'_>, x: &str, bits: Option<usize>) -> Result<(), WeightsError> {
    let Some(codes) = set.find(&format!("{x}.weight_packed")).cloned() else { return Ok(()) };
    let ([output, words], Some(DType::I32), 2) = (codes.shape.first_chunk().copied().unwrap_or_default(), codes.dtype(), codes.shape.len())
    else {
        return Err(set.bad(set.list(&[codes]), "a matrix of type i32"));
    };
    let shape_name = format!("{x}.weight_shape");
    let input = match set.find(&shape_name).cloned() {
        Some(shape) => {
            let found = logical_shape(&shape, &(set.data)(&shape)?);
            set.hide(&shape_name);
            let Some([_, input]) = found.filter(|s| s.first() == Some(&output)) else {
                return Err(
                    set.bad(format!("{} that says {found:?}", set.list(&[codes, shape])), format!("two sizes, the first of them {output}"))
                );
            };
            Some(input)
        }
        None => None,
    };
    let fits = |b: &usize| input.map_or(bits == Some(*b), |n| n.checked_mul(*b) == words.checked_mul(32));
    let Some(bits) = Affine::BITS.into_iter().find(fits) else {
        let why = format!("{words} words for {input:?} inputs are not whole codes of any of {:?} bits without gaps", Affine::BITS);
        set.refuse(&format!("{x}.weight"), &codes, why);
        return Ok(());
    };
    let input = input.unwrap_or(words.saturating_mul(32) / bits);
    one(set, x, codes, bits, output, input, false)
}

fn logical_shape(t: &TensorMeta, bytes: &[u8]) -> Option<[usize; 2]> {
    let read = |i: usize| match t.dtype() {
        Some(DType::I64) => usize::try_from(i64::from_le_bytes(*bytes.as_chunks().0.get(i)?)).ok(),
        Some(DType::I32) => usize::try_from(i32::from_le_bytes(*bytes.as_chunks().0.get(i)?)).ok(),
        _ => None,
    };
    (t.elements() == 2).then_some([read(0)?, read(1)?])
}

fn one(set: &mut Set<'_>, x: &str, codes: TensorMeta, bits: usize, output: usize, input: usize, signed: bool) -> Result<(), WeightsError> {
    let scale = set.part(&format!("{x}.weight_scale"), &codes)?;
    let mut parts = vec![codes.clone(), scale.clone()];
    let Some(real) = Real::of(&scale) else {
        return Err(set.bad(set.list(&parts), format!("a scale of type {}", Real::NAMES)));
    };
    let (groups, rows) = match scale.shape.as_slice() {
        [] | [1] | [1, 1] => (1, 1),
        [n, groups] if *n == output && *groups > 0 => (*groups, output),
        [n] if *n == output => (1, output),
        _ => return Err(set.bad(set.list(&parts), format!("one scale, or scales of shape [{output}, groups]"))),
    };
    let mut zeros = Zeros::No;
    if let Some(zero) = set.find(&format!("{x}.weight_zero_point")).cloned() {
        let words = rows.saturating_mul(bits).div_ceil(32);
        zeros = match (zero.dtype(), zero.shape.as_slice()) {
            (Some(DType::I32), [n, g]) if *n == words && *g == groups => Zeros::Packed,
            (Some(DType::I8), _) if zero.elements() == (rows * groups) as u64 => Zeros::Int8,
            _ => {
                parts.push(zero);
                let expected = format!("zeros i32 [{words}, {groups}] or i8 [{rows}, {groups}]");
                return Err(set.bad(set.list(&parts), expected));
            }
        };
        parts.push(zero);
    }
    let order = set.find(&format!("{x}.weight_g_idx")).cloned();
    let ordered = order.is_some();
    parts.extend(order);
    set.hide(&format!("{x}.input_scale"));
    set.hide(&format!("{x}.input_zero_point"));
    let group = if input.is_multiple_of(groups) { input / groups } else { 0 };
    let format = group_of(&Affine::GROUPS, &[input, group]).filter(|_| group > 0).map(|g| Affine::new(bits, g, ScaleType::F32));
    let Some(Ok(format)) = format else {
        let why =
            format!("{input} inputs in {groups} groups with {bits} bits are no whole blocks: expected groups of a size that 32 divides");
        set.refuse(&format!("{x}.weight"), &codes, why);
        return Ok(());
    };
    let layout = Layout { format, output, input, groups, rows, scale: real, zeros, signed, ordered };
    let dtype = DType::Block(BlockFormat::Affine(format));
    set.make(format!("{x}.weight"), dtype, vec![output, input], Kind::Compressed(layout), parts)
}

impl Layout {
    /// `parts`: codes, scales, zeros where there are any, order of inputs where there is one.
    pub fn assemble(self, parts: &[&[u8]], out: &mut [u8]) -> Result<(), String> {
        let [codes, scales, rest @ ..] = parts else { return Ok(()) };
        let (group, bits) = (self.format.group(), self.format.bits());
        if let (true, Some(order)) = (self.ordered, rest.last()) {
            plain_order(order, self.input / self.groups)?;
        }
        let half = 1i32 << (bits - 1);
        let zero = |row: usize, of: usize| match (self.zeros, rest.first()) {
            (Zeros::Packed, Some(zeros)) => code(zeros, of, self.groups, bits, row) as i32,
            (Zeros::Int8, Some(zeros)) => i32::from(zeros.get(row * self.groups + of).copied().unwrap_or_default() as i8) + half,
            _ => half,
        };
        let (across, bytes) = (self.input / group, group * bits / 8);
        let blocks = out.chunks_exact_mut(self.format.block_bytes()).zip(codes.chunks_exact(bytes));
        for (n, (block, codes)) in blocks.enumerate() {
            let (output, at) = (n / across, n % across);
            let (row, of) = (if self.rows == 1 { 0 } else { output }, at * group * self.groups / self.input);
            let scale = self.scale.get(scales, row * self.groups + of);
            let bias = -scale * zero(row, of) as f32;
            put(block, &[&scale.to_le_bytes(), &bias.to_le_bytes(), codes]);
            if self.signed {
                block.iter_mut().skip(self.format.codes_at()).for_each(|c| *c ^= 0x80);
            }
        }
        Ok(())
    }
}
