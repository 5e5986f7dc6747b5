//! Products of packed codes with activation bytes: 32 codes of each lane at a time (16 of 6 bits), for a tile of rows.
//!
//! Chunk `c` is elements `4c..4c+4`; how chunks share words is in [`super::layout`].  `a` points at the activations that
//! the codes meet, in the first of the tile's records, `step` bytes apart.

use crate::simd::Simd;

/// How far before its use a single row's pass over the weights asks for memory.
const AHEAD: usize = 2048;

/// What becomes of a sum that is about to overflow, or complete.
pub(super) trait Flush<S: Simd>: Copy {
    fn flush(self, s: S, sum: S::I, part: S::Part) -> S::I;
}

/// It is added.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl<S: Simd> Flush<S> for Plain {
    #[inline(always)]
    fn flush(self, s: S, sum: S::I, part: S::Part) -> S::I {
        s.iadd(sum, s.part_to_i(part))
    }
}

/// It is multiplied with a factor and added.
#[derive(Clone, Copy)]
pub(super) struct Scaled<S: Simd>(pub S::Scale);

impl<S: Simd> Flush<S> for Scaled<S> {
    #[inline(always)]
    fn flush(self, s: S, sum: S::I, part: S::Part) -> S::I {
        s.flush(sum, part, self.0)
    }
}

/// Word `i` of the codes at `p`; where they pass only once, asking for those to come.
///
/// # Safety
/// The word is readable in all lanes.
#[inline(always)]
unsafe fn word<S: Simd, const T: usize>(s: S, p: *const u8, i: usize) -> S::B {
    let p = p.wrapping_add(i * 4 * S::LANES);
    if T == 1 {
        s.prefetch(p.wrapping_add(AHEAD));
    }
    // SAFETY: the caller's promise.
    unsafe { s.load_b(p) }
}

/// Adds the products of chunks `c`, `c + 1`, … with their activations to the partial sums.
///
/// # Safety
/// The records hold these chunks.
#[inline(always)]
unsafe fn dots<S: Simd, const T: usize, const N: usize>(s: S, part: &mut [S::Part; T], w: [S::B; N], a: *const u8, step: usize, c: usize) {
    for t in 0..T {
        for i in 0..N {
            // SAFETY: the caller's promise.
            part[t] = s.dot(part[t], w[i], unsafe { s.dup4(a.add(t * step + 4 * (c + i)).cast()) });
        }
    }
}

#[inline(always)]
fn flush<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], part: &mut [S::Part; T], end: impl Flush<S>) {
    for t in 0..T {
        sums[t] = end.flush(s, sums[t], part[t]);
        part[t] = s.part();
    }
}

/// Codes of 2 bits: two words of four chunks.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes2<S: Simd, const T: usize>(
    s: S,
    sums: &mut [S::I; T],
    q: *const u8,
    a: *const u8,
    step: usize,
    end: impl Flush<S>,
) {
    let mut part = [s.part(); T];
    for v in 0..2 {
        // SAFETY: the caller's promise.
        unsafe {
            let w = word::<S, T>(s, q, v);
            let w = [s.bits_shr::<0>(w, 3), s.bits_shr::<2>(w, 3), s.bits_shr::<4>(w, 3), s.bits_shr::<6>(w, 3)];
            dots(s, &mut part, w, a, step, 4 * v);
        }
    }
    flush(s, sums, &mut part, end);
}

/// Codes of 3 bits: two words of the lower two bits, a word of upper bits.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes3<S: Simd, const T: usize>(
    s: S,
    sums: &mut [S::I; T],
    q: *const u8,
    a: *const u8,
    step: usize,
    end: impl Flush<S>,
) {
    let mut part = [s.part(); T];
    // SAFETY: the caller's promise.
    unsafe {
        let (l0, l1, high) = (word::<S, T>(s, q, 0), word::<S, T>(s, q, 1), word::<S, T>(s, q, 2));
        let first = [
            s.or(s.bits_shr::<0>(l0, 3), s.bits_shl::<2>(high, 4)),
            s.or(s.bits_shr::<2>(l0, 3), s.bits_shl::<1>(high, 4)),
            s.or(s.bits_shr::<4>(l0, 3), s.bits_shr::<0>(high, 4)),
            s.or(s.bits_shr::<6>(l0, 3), s.bits_shr::<1>(high, 4)),
        ];
        dots(s, &mut part, first, a, step, 0);
        let second = [
            s.or(s.bits_shr::<0>(l1, 3), s.bits_shr::<2>(high, 4)),
            s.or(s.bits_shr::<2>(l1, 3), s.bits_shr::<3>(high, 4)),
            s.or(s.bits_shr::<4>(l1, 3), s.bits_shr::<4>(high, 4)),
            s.or(s.bits_shr::<6>(l1, 3), s.bits_shr::<5>(high, 4)),
        ];
        dots(s, &mut part, second, a, step, 4);
    }
    flush(s, sums, &mut part, end);
}

/// Codes of 4 bits: four words of two chunks.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes4<S: Simd, const T: usize>(
    s: S,
    sums: &mut [S::I; T],
    q: *const u8,
    a: *const u8,
    step: usize,
    end: impl Flush<S>,
) {
    let mut part = [s.part(); T];
    for v in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let w = word::<S, T>(s, q, v);
            dots(s, &mut part, [s.bits_shr::<0>(w, 15), s.bits_shr::<4>(w, 15)], a, step, 2 * v);
        }
    }
    flush(s, sums, &mut part, end);
}

/// Codes of 5 bits: a word of fifth bits, four words of two chunks.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes5<S: Simd, const T: usize>(
    s: S,
    sums: &mut [S::I; T],
    q: *const u8,
    a: *const u8,
    step: usize,
    end: impl Flush<S>,
) {
    // SAFETY: the caller's promise.
    let fifth = unsafe { word::<S, T>(s, q, 0) };
    let high = [
        (s.bits_shl::<4>(fifth, 16), s.bits_shl::<3>(fifth, 16)),
        (s.bits_shl::<2>(fifth, 16), s.bits_shl::<1>(fifth, 16)),
        (s.bits_shr::<0>(fifth, 16), s.bits_shr::<1>(fifth, 16)),
        (s.bits_shr::<2>(fifth, 16), s.bits_shr::<3>(fifth, 16)),
    ];
    let mut part = [s.part(); T];
    for v in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let w = word::<S, T>(s, q, 1 + v);
            let w = [s.or(s.bits_shr::<0>(w, 15), high[v].0), s.or(s.bits_shr::<4>(w, 15), high[v].1)];
            dots(s, &mut part, w, a, step, 2 * v);
        }
        if (2 * v + 2) % S::U5_DOTS == 0 {
            flush(s, sums, &mut part, end);
        }
    }
}

/// 16 codes of 6 bits: two words of two chunks, a word of upper bits.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes6<S: Simd, const T: usize>(
    s: S,
    sums: &mut [S::I; T],
    q: *const u8,
    a: *const u8,
    step: usize,
    end: impl Flush<S>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (l0, l1, high) = (word::<S, T>(s, q, 0), word::<S, T>(s, q, 1), word::<S, T>(s, q, 2));
        let w = [
            s.or(s.bits_shr::<0>(l0, 15), s.bits_shl::<4>(high, 48)),
            s.or(s.bits_shr::<4>(l0, 15), s.bits_shl::<2>(high, 48)),
            s.or(s.bits_shr::<0>(l1, 15), s.bits_shr::<0>(high, 48)),
            s.or(s.bits_shr::<4>(l1, 15), s.bits_shr::<2>(high, 48)),
        ];
        for t in 0..T {
            let mut part = s.part();
            for c in 0..4 {
                part = s.dot(part, w[c], s.dup4(a.add(t * step + 4 * c).cast()));
                if (c + 1) % S::U6_DOTS == 0 {
                    sums[t] = end.flush(s, sums[t], part);
                    part = s.part();
                }
            }
        }
    }
}

/// Signed codes of 8 bits with the level's bias: eight words of a chunk.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes8<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], q: *const u8, a: *const u8, step: usize) {
    for c in 0..8 {
        // SAFETY: the caller's promise.
        unsafe {
            let w = s.prep8(word::<S, T>(s, q, c));
            for t in 0..T {
                sums[t] = s.dot8(sums[t], w, s.dup4(a.add(t * step + 4 * c).cast()));
            }
        }
    }
}
