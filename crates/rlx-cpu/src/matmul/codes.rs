//! Products of packed codes with activation bytes: 32 codes of each lane at a time (16 of 6 bits), for a tile of rows.
//!
//! Chunk `c` is elements `4c..4c+4`; how chunks share words is in [`super::layout`].  `a` has the activations that the
//! codes meet.  Where rows go in pairs ([`Simd::PAIRS`]),
//! sums are in the order of [`Simd::dot_pair`] until they are flushed.

use crate::simd::Simd;

/// Records of one tile of activation rows, or of two that were prepared one after the other.
#[derive(Clone, Copy)]
pub(super) struct Records {
    /// The first record of each.
    pub tiles: [*const u8; 2],
    /// Bytes from a row's record to the next row's.
    pub step: usize,
}

impl Records {
    /// `bytes` further on in all of them.
    #[inline(always)]
    pub fn add(self, bytes: usize) -> Self {
        Records { tiles: self.tiles.map(|p| p.wrapping_add(bytes)), ..self }
    }

    /// The record of row `t`.
    #[inline(always)]
    pub fn row<S: Simd>(self, t: usize) -> *const u8 {
        self.tiles[t / S::TILE].wrapping_add(t % S::TILE * self.step)
    }
}

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

/// Adds the products of chunks `c`, `c + 1`, … with their activations to the partial sums; `c` and `N` are even.
///
/// # Safety
/// The records hold these chunks.
#[inline(always)]
unsafe fn dots<S: Simd, const T: usize, const N: usize>(s: S, part: &mut [S::Part; T], w: [S::B; N], a: Records, c: usize) {
    if paired::<S, T>() {
        for i in (0..N).step_by(2) {
            let w = s.pair([w[i], w[i + 1]]);
            for t in (0..T).step_by(2) {
                let a = pair_at::<S>(a, c + i, t);
                // SAFETY: the caller's promise.
                [part[t], part[t + 1]] = unsafe { s.dot_pair([part[t], part[t + 1]], w, a.cast()) };
            }
        }
    } else {
        for t in 0..T {
            // SAFETY: the caller's promise.
            part[t] = unsafe { s.dots(part[t], w, a.row::<S>(t).add(4 * c).cast()) };
        }
    }
}

#[inline(always)]
fn flush<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], part: &mut [S::Part; T], end: impl Flush<S>) {
    if paired::<S, T>() {
        for t in (0..T).step_by(2) {
            [part[t], part[t + 1]] = s.unpair([part[t], part[t + 1]]);
        }
    }
    for t in 0..T {
        sums[t] = end.flush(s, sums[t], part[t]);
        part[t] = s.part();
    }
}

/// Whether rows of a tile go in pairs.
const fn paired<S: Simd, const T: usize>() -> bool {
    S::PAIRS && T > 1
}

/// Where chunks `c` and `c + 1` of rows `t` and `t + 1` are, both even: see [`super::act`].
#[inline(always)]
fn pair_at<S: Simd>(a: Records, c: usize, t: usize) -> *const u8 {
    a.row::<S>(t + c / 2 % 2).wrapping_add(c / 4 * 16)
}

/// Codes of 2 bits: two words of four chunks.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes2<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], q: *const u8, a: Records, end: impl Flush<S>) {
    let mut part = [s.part(); T];
    for v in 0..2 {
        // SAFETY: the caller's promise.
        unsafe {
            let w = word::<S, T>(s, q, v);
            let w = [s.bits_shr::<0>(w, 3), s.bits_shr::<2>(w, 3), s.bits_shr::<4>(w, 3), s.bits_shr::<6>(w, 3)];
            dots(s, &mut part, w, a, 4 * v);
        }
    }
    flush(s, sums, &mut part, end);
}

/// Codes of 3 bits: two words of the lower two bits, a word of upper bits.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes3<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], q: *const u8, a: Records, end: impl Flush<S>) {
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
        dots(s, &mut part, first, a, 0);
        let second = [
            s.or(s.bits_shr::<0>(l1, 3), s.bits_shr::<2>(high, 4)),
            s.or(s.bits_shr::<2>(l1, 3), s.bits_shr::<3>(high, 4)),
            s.or(s.bits_shr::<4>(l1, 3), s.bits_shr::<4>(high, 4)),
            s.or(s.bits_shr::<6>(l1, 3), s.bits_shr::<5>(high, 4)),
        ];
        dots(s, &mut part, second, a, 4);
    }
    flush(s, sums, &mut part, end);
}

/// Codes of 4 bits: four words of two chunks.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes4<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], q: *const u8, a: Records, end: impl Flush<S>) {
    let mut part = [s.part(); T];
    for v in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let w = word::<S, T>(s, q, v);
            dots(s, &mut part, [s.bits_shr::<0>(w, 15), s.bits_shr::<4>(w, 15)], a, 2 * v);
        }
    }
    flush(s, sums, &mut part, end);
}

/// Codes of 5 bits: a word of fifth bits, four words of two chunks.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes5<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], q: *const u8, a: Records, end: impl Flush<S>) {
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
            dots(s, &mut part, w, a, 2 * v);
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
pub(super) unsafe fn codes6<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], q: *const u8, a: Records, end: impl Flush<S>) {
    // SAFETY: the caller's promise.
    unsafe {
        let (l0, l1, high) = (word::<S, T>(s, q, 0), word::<S, T>(s, q, 1), word::<S, T>(s, q, 2));
        let w = [
            s.or(s.bits_shr::<0>(l0, 15), s.bits_shl::<4>(high, 48)),
            s.or(s.bits_shr::<4>(l0, 15), s.bits_shl::<2>(high, 48)),
            s.or(s.bits_shr::<0>(l1, 15), s.bits_shr::<0>(high, 48)),
            s.or(s.bits_shr::<4>(l1, 15), s.bits_shr::<2>(high, 48)),
        ];
        if paired::<S, T>() {
            let mut part = [s.part(); T];
            dots(s, &mut part, w, a, 0);
            flush(s, sums, &mut part, end);
            return;
        }
        for t in 0..T {
            let a = a.row::<S>(t).cast::<i8>();
            if S::U6_DOTS < 4 {
                for c in (0..4).step_by(2) {
                    let part = s.dots(s.part(), [w[c], w[c + 1]], a.add(4 * c));
                    sums[t] = end.flush(s, sums[t], part);
                }
            } else {
                sums[t] = end.flush(s, sums[t], s.dots(s.part(), w, a));
            }
        }
    }
}

/// Signed codes of 8 bits with the level's bias: eight words of a chunk.
///
/// # Safety
/// Codes and records are readable.
#[inline(always)]
pub(super) unsafe fn codes8<S: Simd, const T: usize>(s: S, sums: &mut [S::I; T], q: *const u8, a: Records) {
    let mut part = [s.part(); T];
    for c in (0..8).step_by(2) {
        // SAFETY: the caller's promise.
        unsafe {
            let w = [word::<S, T>(s, q, c), word::<S, T>(s, q, c + 1)];
            if paired::<S, T>() {
                dots(s, &mut part, w, a, c);
                continue;
            }
            let w = w.map(|w| s.prep8(w));
            for t in 0..T {
                sums[t] = s.dots8(sums[t], w, a.row::<S>(t).add(4 * c).cast());
            }
        }
    }
    if paired::<S, T>() {
        flush(s, sums, &mut part, Plain);
    }
}
