//! fp8: `X.weight` in e4m3 with `X.weight_scale_inv` or `X.weight_scale`, which both multiply.
//!
//! A scale is for the whole tensor, for each row, or for each block of `weight_block_size` (the last of a row or column
//! of blocks may be partial).  Rows that are no whole groups of 32 are decoded to f32 when they are read.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::words::{Real, put};
use super::{Kind, Set, TensorMeta, WeightsError, group_of};
use rlx_gguf::BlockFormat;
use rlx_gguf::blocks::{E4M3, Fp8};
use rlx_ir::DType;

/// Which element has which scale, for a weight `[…, rows, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    rows: usize,
    columns: usize,
    /// Rows and columns that share a scale.
    block: (usize, usize),
    scale: Real,
    /// Elements of a block; `None` decodes to f32.
    group: Option<usize>,
}

/// `needed`: a weight without a scale is a mistake.
pub(super) fn collect(set: &mut Set<'_>, block: (usize, usize), needed: bool) -> Result<(), WeightsError> {
    for name in set.bases("", |t| t.dtype() == Some(DType::F8E4M3)) {
        let Some(codes) = set.find(&name).cloned() else { continue };
        let scale = [format!("{name}_scale_inv"), format!("{name}_scale")].into_iter().find_map(|n| set.find(&n).cloned());
        match scale {
            Some(scale) => one(set, &name, codes, scale, block)?,
            None if needed => {
                set.part(&format!("{name}_scale_inv"), &codes)?;
            }
            None => {}
        }
        // For quantised activations, which are not used.
        if let Some(x) = name.strip_suffix(".weight") {
            set.hide(&format!("{x}.input_scale"));
            set.hide(&format!("{x}.activation_scale"));
        }
    }
    Ok(())
}

fn one(set: &mut Set<'_>, name: &str, codes: TensorMeta, scale: TensorMeta, block: (usize, usize)) -> Result<(), WeightsError> {
    let parts = vec![codes.clone(), scale.clone()];
    let Some(real) = Real::of(&scale) else {
        return Err(set.bad(set.list(&parts), format!("a scale of type {}", Real::NAMES)));
    };
    let [outer @ .., rows, columns] = codes.shape.as_slice() else {
        return Err(set.bad(set.list(&parts), "a weight of at least two dimensions"));
    };
    let (rows, columns) = (*rows, *columns);
    let whole = [rows.max(1), columns.max(1)];
    let under = |b: (usize, usize)| outer.iter().copied().chain([rows.div_ceil(b.0), columns.div_ceil(b.1)]).collect::<Vec<_>>();
    let per_row = || outer.iter().copied().chain([rows]).collect::<Vec<_>>();
    let block = if scale.elements() == 1 && outer.is_empty() {
        (whole[0], whole[1])
    } else if scale.shape == under((1, whole[1])) || scale.shape == per_row() {
        (1, whole[1])
    } else if scale.shape == under(block) {
        block
    } else if scale.shape == under((whole[0], whole[1])) {
        (whole[0], whole[1])
    } else {
        let expected =
            format!("one scale, {:?} (per row) or {:?} (per block of {} by {})", under((1, whole[1])), under(block), block.0, block.1);
        return Err(set.bad(set.list(&parts), expected));
    };
    // A row of one block needs no finer groups.
    let along = if block.1 >= columns { columns } else { block.1 };
    let group = group_of(&Fp8::GROUPS, &[columns, along]).filter(|_| columns > 0);
    let dtype = match group.map(Fp8::new).transpose() {
        Ok(Some(fp8)) => DType::Block(BlockFormat::Fp8(fp8)),
        _ => DType::F32,
    };
    let layout = Layout { rows, columns, block, scale: real, group };
    let shape = codes.shape.clone();
    set.make(name.to_owned(), dtype, shape, Kind::Fp8(layout), parts)
}

impl Layout {
    /// `parts`: codes, scales.
    pub fn assemble(self, parts: &[&[u8]], out: &mut [u8]) {
        let [codes, scales] = parts else { return };
        if self.columns == 0 || self.rows == 0 {
            return;
        }
        let group = self.group.unwrap_or(1);
        let bytes = if self.group.is_some() { Fp8::CODES_AT + group } else { 4 };
        let (down, across) = (self.rows.div_ceil(self.block.0), self.columns.div_ceil(self.block.1));
        let rows = codes.chunks_exact(self.columns).zip(out.chunks_exact_mut(self.columns / group * bytes));
        for (i, (row, out)) in rows.enumerate() {
            let first = (i / self.rows * down + i % self.rows / self.block.0) * across;
            for (j, (codes, out)) in row.chunks_exact(group).zip(out.chunks_exact_mut(bytes)).enumerate() {
                let scale = self.scale.get(scales, first + j * group / self.block.1);
                match (self.group, codes) {
                    (None, [code]) => put(out, &[&(scale * E4M3.get(usize::from(*code)).copied().unwrap_or_default()).to_le_bytes()]),
                    _ => put(out, &[&scale.to_le_bytes(), codes]),
                }
            }
        }
    }
}
