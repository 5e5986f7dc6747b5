//! Padding, and elements chosen by an index.

use super::elementwise::{number, set};
use crate::frame::{Frame, MAX_RANK, Step, View, Walk};
use crate::team::Worker;
use rlx_ir::ops::scatter::ScatterMode;
use rlx_ir::{DType, ValueId};

/// Types of indices.
pub(super) fn is_index(d: DType) -> bool {
    matches!(d, DType::I64 | DType::U64 | DType::I32 | DType::U32 | DType::I16 | DType::U16 | DType::I8 | DType::U8)
}

/// Element `i` of an integer tensor as an index; negative numbers become `usize::MAX`.
///
/// # Safety
/// The element exists.
pub(super) unsafe fn index(ptr: *const u8, d: DType, i: usize) -> usize {
    // SAFETY: the caller's promise.
    let v = unsafe {
        match d {
            DType::I64 | DType::U64 => *ptr.cast::<i64>().add(i),
            DType::I32 => i64::from(*ptr.cast::<i32>().add(i)),
            DType::U32 => i64::from(*ptr.cast::<u32>().add(i)),
            DType::I16 => i64::from(*ptr.cast::<i16>().add(i)),
            DType::U16 => i64::from(*ptr.cast::<u16>().add(i)),
            DType::I8 => i64::from(*ptr.cast::<i8>().add(i)),
            _ => i64::from(*ptr.add(i)),
        }
    };
    usize::try_from(v).unwrap_or(usize::MAX)
}

/// Copies `n` elements of `size` bytes between strided rows.
///
/// # Safety
/// The rows hold the elements, and the target belongs to this thread.
unsafe fn copy_row(size: usize, from: (*const u8, usize), to: (*mut u8, usize), n: usize) {
    macro_rules! elements {
        ($t:ty) => {
            // SAFETY: the caller's promise.
            (0..n).for_each(|i| unsafe { *to.0.cast::<$t>().add(i * to.1) = *from.0.cast::<$t>().add(i * from.1) })
        };
    }
    match (size, from.1, to.1) {
        // SAFETY: the caller's promise.
        (_, 1, 1) => unsafe { std::ptr::copy_nonoverlapping(from.0, to.0, n * size) },
        (8, ..) => elements!(u64),
        (4, ..) => elements!(u32),
        (2, ..) => elements!(u16),
        _ => elements!(u8),
    }
}

/// Constant padding around and between elements.
pub(crate) struct PadStep {
    pub dtype: DType,
    pub lo: Vec<usize>,
    /// One per dimension.
    pub interior: Vec<usize>,
    pub value: f64,
    pub x: ValueId,
    pub y: ValueId,
}

impl PadStep {
    /// Where the elements of row `row` of the result come from; `None` where it is all padding.
    fn source(&self, x: &View<'_>, y: &View<'_>, mut row: usize) -> Option<usize> {
        let mut from = 0;
        for d in (0..y.shape.len() - 1).rev() {
            let at = (row % y.shape[d]).checked_sub(self.lo[d])?;
            row /= y.shape[d];
            let step = self.interior[d] + 1;
            if !at.is_multiple_of(step) || at / step >= x.shape[d] {
                return None;
            }
            from += at / step * x.strides[d];
        }
        Some(from)
    }
}

impl Step for PadStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.view(self.y));
        let size = self.dtype.size().unwrap_or(1);
        let Some((&n, outer)) = y.shape.split_last() else {
            if w.ith == 0 {
                // SAFETY: both are single elements.
                unsafe { copy_row(size, (x.ptr, 1), (y.ptr, 1), 1) };
            }
            return;
        };
        let mut value = 0u64;
        let one = View { ptr: std::ptr::from_mut(&mut value).cast(), shape: &[], strides: &[] };
        // SAFETY: 8 bytes hold an element of any type.
        unsafe { set(&one, self.dtype, 0, self.value) };
        let last = outer.len();
        for row in w.share(outer.iter().product()) {
            // SAFETY: row `row` of the dense result is this thread's; `source` checks each coordinate.
            unsafe {
                let to = y.ptr.add(row * n * size);
                copy_row(size, (one.ptr, 0), (to, 1), n);
                if let Some(from) = self.source(&x, &y, row) {
                    let (from, to) = (x.ptr.add(from * size), to.add(self.lo[last] * size));
                    copy_row(size, (from, x.strides[last].max(1)), (to, self.interior[last] + 1), x.shape[last]);
                }
            }
        }
    }
}

/// Rows written into a copy of a table.
pub(crate) struct ScatterStep {
    pub name: String,
    pub mode: ScatterMode,
    pub dtype: DType,
    pub index_type: DType,
    pub base: ValueId,
    pub index: ValueId,
    pub updates: ValueId,
    pub y: ValueId,
}

impl Step for ScatterStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (base, updates, y) = (f.view(self.base), f.view(self.updates), f.view(self.y));
        let size = self.dtype.size().unwrap_or(1);
        let (rows, width) = (y.shape[0], y.shape[1..].iter().product::<usize>());
        // Each thread owns rows of the table, so that updates of one row happen in order.
        let mine = w.share(rows);
        // SAFETY: tables are dense and of one shape; these rows are this thread's.
        unsafe {
            let at = mine.start * width * size;
            std::ptr::copy_nonoverlapping(base.ptr.add(at), y.ptr.add(at), mine.len() * width * size);
        }
        for n in 0..updates.shape[0] {
            // SAFETY: there is an index per update.
            let row = unsafe { index(f.ptr(self.index), self.index_type, n) };
            if row >= rows {
                f.report(|| format!("{}: index {row} is outside the table of {rows} rows", self.name));
            }
            if !mine.contains(&row) {
                continue;
            }
            let (to, from) = (row * width, n * width);
            // SAFETY: the row is this thread's.
            unsafe {
                match (self.mode, self.dtype) {
                    (ScatterMode::Set, _) => {
                        std::ptr::copy_nonoverlapping(updates.ptr.add(from * size), y.ptr.add(to * size), width * size)
                    }
                    (ScatterMode::Add, DType::F32) => {
                        let (to, from) = (y.ptr.cast::<f32>().add(to), updates.ptr.cast::<f32>().add(from));
                        (0..width).for_each(|i| *to.add(i) += *from.add(i));
                    }
                    (ScatterMode::Add, d) => {
                        (0..width).for_each(|i| set(&y, d, to + i, number(&y, d, to + i) + number(&updates, d, from + i)));
                    }
                }
            }
        }
    }
}

/// Elements picked along an axis, with an index for every element.
pub(crate) struct GatherAxisStep {
    pub name: String,
    pub axis: usize,
    pub size: usize,
    pub index_type: DType,
    pub x: ValueId,
    pub index: ValueId,
    pub y: ValueId,
}

impl Step for GatherAxisStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, ix, y) = (f.view(self.x), f.view(self.index), f.view(self.y));
        let mut strides = [0; MAX_RANK];
        strides[..x.strides.len()].copy_from_slice(x.strides);
        let step = std::mem::replace(&mut strides[self.axis], 0);
        let n = x.shape[self.axis];
        let walk = Walk::new(y.shape, [(y.shape, y.strides), (ix.shape, ix.strides), (y.shape, &strides[..y.shape.len()])]);
        walk.share(w, |[to, at, from], len| {
            for i in 0..len {
                // SAFETY: the walk stays inside the tensors, the index inside the axis; this share of `y` is this thread's.
                unsafe {
                    let mut pick = index(ix.ptr, self.index_type, at + i * walk.inner(1));
                    if pick >= n {
                        f.report(|| format!("{}: index {pick} is outside axis {} of size {n}", self.name, self.axis));
                        if n == 0 {
                            return;
                        }
                        pick = 0;
                    }
                    let from = x.ptr.add((from + i * walk.inner(2) + pick * step) * self.size);
                    std::ptr::copy_nonoverlapping(from, y.ptr.add((to + i * walk.inner(0)) * self.size), self.size);
                }
            }
        });
    }
}
