//! Packing whole groups with vectors, for the formats that large models mostly come in.
//!
//! The result is that of [`pack::pack_group`](super::pack::pack_group), several times as fast: eight words of every row
//! are transposed in registers.

use super::layout::Layout;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// Packs a group of which all rows exist; `false` for layouts that have no kernel here.
///
/// # Panics
/// When a length does not fit.
pub(super) fn pack_whole_group(level: Level, layout: Layout, rows: &[u8], row_bytes: usize, dst: &mut [u8]) -> bool {
    let format = match layout {
        Layout::Q8_0 | Layout::Q4K => layout.format(),
        _ => return false,
    };
    let n_blocks = row_bytes / format.block_bytes();
    assert_eq!(rows.len(), level.lanes() * row_bytes, "bytes of a whole group");
    assert!(dst.len() >= layout.group_bytes(level.lanes(), n_blocks * format.block_len()), "bytes of a packed group");
    let (header, body) = dst.split_at_mut(layout.header_bytes(level.lanes(), n_blocks * format.block_len()));
    let used = n_blocks * layout.n_halves() * level.lanes() * 2;
    header[used..].fill(0);
    let group = Group { rows, row_bytes, n_blocks, header, body };
    if layout == Layout::Q8_0 {
        dispatch(level, Q8_0 { group, bias: level.i8_bias() })
    } else {
        dispatch(level, Q4K(group))
    }
    true
}

/// Operands of a kernel.
struct Group<'a> {
    rows: &'a [u8],
    row_bytes: usize,
    n_blocks: usize,
    header: &'a mut [u8],
    body: &'a mut [u8],
}

impl Group<'_> {
    /// Asks for the bytes of the next group that are as far from its rows' starts as `at`, `len` of each row. Rows of
    /// one group are read side by side, in which processors see no stream to run ahead of.
    #[inline(always)]
    fn ask_ahead<S: Simd>(&self, s: S, at: usize, len: usize) {
        for r in S::LANES..2 * S::LANES {
            for line in 0..len.div_ceil(64) {
                s.prefetch(self.rows.as_ptr().wrapping_add(r * self.row_bytes + at + 64 * line));
            }
        }
    }

    /// Copies the f16 number at byte `at` of every row to place `i` of the header.
    #[inline(always)]
    fn halves(&mut self, lanes: usize, at: usize, i: usize) {
        for r in 0..lanes {
            let half = &self.rows[r * self.row_bytes + at..][..2];
            self.header[2 * (i * lanes + r)..][..2].copy_from_slice(half);
        }
    }
}

struct Q8_0<'a> {
    group: Group<'a>,
    /// What is added to the codes.
    bias: u8,
}

impl Kernel for Q8_0<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const BLOCK: usize = 34;
        let Q8_0 { group: mut g, bias } = self;
        for b in 0..g.n_blocks {
            g.ask_ahead(s, b * BLOCK, BLOCK);
            g.halves(S::LANES, b * BLOCK, b);
            let out = &mut g.body[b * 32 * S::LANES..][..32 * S::LANES];
            // SAFETY: every row has the 32 codes of this block, and `out` takes eight vectors.
            unsafe {
                let words = s.load_rows(g.rows.as_ptr().add(b * BLOCK + 2), g.row_bytes);
                for c in 0..8 {
                    s.store_b(out.as_mut_ptr().add(4 * c * S::LANES), s.flip(words[c], bias));
                }
            }
        }
    }
}

struct Q4K<'a>(Group<'a>);

impl Kernel for Q4K<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const BLOCK: usize = 144;
        let mut g = self.0;
        for b in 0..g.n_blocks {
            g.ask_ahead(s, b * BLOCK, BLOCK);
            g.halves(S::LANES, b * BLOCK, 2 * b);
            g.halves(S::LANES, b * BLOCK + 2, 2 * b + 1);
            let out = &mut g.body[b * BLOCK * S::LANES..][..BLOCK * S::LANES];
            for r in 0..S::LANES {
                super::pack::pack_row_scales(&g.rows[r * g.row_bytes + b * BLOCK + 4..][..12], out, S::LANES, r);
            }
            for j in 0..4 {
                // SAFETY: every row has these 32 bytes of codes; `out` takes 32 vectors after the scales.
                unsafe {
                    let words = s.load_rows(g.rows.as_ptr().add(b * BLOCK + 16 + 32 * j), g.row_bytes);
                    let to = out.as_mut_ptr().add(16 * S::LANES + 8 * j * 4 * S::LANES);
                    for v in 0..4 {
                        let (a, b) = (words[2 * v], words[2 * v + 1]);
                        let low = s.or(s.bits_shr::<0>(a, 0x0f), s.bits_shl::<4>(b, 0xf0));
                        let high = s.or(s.bits_shr::<4>(a, 0x0f), s.bits_shr::<0>(b, 0xf0));
                        s.store_b(to.add(4 * v * S::LANES), low);
                        s.store_b(to.add(4 * (4 + v) * S::LANES), high);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::pack;

    #[test]
    fn whole_groups_are_packed_as_row_by_row() {
        for level in Level::available() {
            for layout in [Layout::Q8_0, Layout::Q4K] {
                let (lanes, k) = (level.lanes(), 768);
                let row_bytes = k / layout.block_len() * layout.format().block_bytes();
                let rows: Vec<u8> = (0..lanes * row_bytes).map(|i| (i * 151 + i / 256 * 37) as u8).collect();
                let mut plain = vec![0u8; layout.group_bytes(lanes, k)];
                let mut fast = plain.clone();
                pack::pack_group(layout, &rows, row_bytes, lanes, level.i8_bias(), &mut plain);
                assert!(pack_whole_group(level, layout, &rows, row_bytes, &mut fast));
                assert!(plain == fast, "{layout:?} at {level}");
            }
        }
    }
}
