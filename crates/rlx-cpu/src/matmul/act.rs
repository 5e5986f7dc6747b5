//! Activations in the form that a kernel reads.
//!
//! Quantised forms keep rows in tiles, interleaved block by block: a tile of `T` rows is `[blocks][T]` records. Full
//! tiles of [`Level::tile`] rows come first, the rest is split into smaller powers of two ([`tiles`]); a tile that
//! starts at row `m` starts at byte `m * row_bytes`.
//!
//! | form | record |
//! |---|---|
//! | [`ActForm::Q8Block`] of `n` | n × i8, scale f32, scale × sum f32 |
//! | [`ActForm::Q8Super256`] | 256 × i8, sums of 16 as 16 × i16, sums of 32 as 8 × i16, scale f32, padded to 320 |
//!
//! Scales are `max|x| / 127`, numbers are rounded to nearest even.
//!
//! Where a level takes rows in pairs ([`Level::pairs`]), the records of rows `2i` and `2i + 1` of a tile share their
//! numbers: of each 16, the first record has the first eight of both rows, the second record the last eight of both.

use super::panel::{self, Words};
use crate::simd::{Kernel, Level, Simd, dispatch};
use std::mem::MaybeUninit;
use std::ops::Range;

/// A form of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActForm {
    /// As they are; nothing is prepared.
    F32,
    /// Words in the order in which products of many rows read them, tile by tile, in blocks of so many rows.
    Tiles(Words, usize),
    /// int8 with a scale per 32, 64 or 128.
    Q8Block(usize),
    /// int8 with a scale per 256, and the sums that K-quants need.
    Q8Super256,
}

/// Form and place of prepared activations: weights of equal specification can share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActSpec {
    pub(super) form: ActForm,
    pub(super) level: Level,
    pub(super) k: usize,
}

/// Byte offsets in a [`ActForm::Q8Block`] record of `len` elements.
pub(super) mod block {
    pub const fn scale(len: usize) -> usize {
        len
    }
    pub const fn sum(len: usize) -> usize {
        len + 4
    }
    pub const fn bytes(len: usize) -> usize {
        len + 8
    }
}

/// Byte offsets in a [`ActForm::Q8Super256`] record.
pub(super) mod s256 {
    pub const SUMS16: usize = 256;
    pub const SUMS32: usize = 288;
    pub const SCALE: usize = 304;
    pub const BYTES: usize = 320;
}

impl ActSpec {
    /// The form.
    pub fn form(self) -> ActForm {
        self.form
    }

    /// Elements and bytes of a record, where there are records.
    pub(super) fn record(self) -> (usize, usize) {
        match self.form {
            ActForm::F32 => (1, 0),
            ActForm::Tiles(..) => (1, 0),
            ActForm::Q8Block(len) => (len, block::bytes(len)),
            ActForm::Q8Super256 => (256, s256::BYTES),
        }
    }

    /// Bytes of `m` prepared rows; 0 where activations are read as they are.
    pub fn bytes(self, m: usize) -> usize {
        if let ActForm::Tiles(words, _) = self.form {
            return m * words.of(self.k) * 4;
        }
        let (len, bytes) = self.record();
        m * (self.k / len) * bytes
    }

    /// Prepares the share of thread `ith` of `nth` of `m` rows `x` of `k` elements. All threads' shares together fill
    /// `act`; they have to be complete before [`Matmul::run`](super::Matmul::run) reads it.
    ///
    /// # Safety
    /// `act` is writable for [`ActSpec::bytes`], aligned for floats, and touched meanwhile by nothing but the other shares.
    ///
    /// # Panics
    /// When `x` is too short.
    pub unsafe fn prepare(self, x: &[f32], m: usize, act: *mut u8, ith: usize, nth: usize) {
        if self.form == ActForm::F32 {
            return;
        }
        assert!(x.len() >= m * self.k, "{} activations, not {m} rows of {}", x.len(), self.k);
        if let ActForm::Tiles(words, block) = self.form {
            let rows = panel::Rows { x: x.as_ptr(), m, k: self.k, block, words };
            // SAFETY: the length is checked; the bytes are the caller's promise.
            return unsafe { panel::prepare(self.level, rows, act.cast(), ith, nth) };
        }
        let len = self.record().0;
        let n_blocks = self.k / len;
        let n = m * n_blocks;
        let mut at = n * ith / nth;
        let end = n * (ith + 1) / nth;
        while at < end {
            let (row, b) = (at / n_blocks, at % n_blocks);
            let count = (n_blocks - b).min(end - at);
            // SAFETY: the records are within the bytes that the caller vouches for.
            unsafe { self.blocks(&x[row * self.k..(row + 1) * self.k], row, m, b..b + count, act) };
            at += count;
        }
    }

    /// Prepares one row `x`, number `row` of `m`, wherever it lies.
    ///
    /// # Safety
    /// As for [`ActSpec::prepare`].
    ///
    /// # Panics
    /// When `x` is too short, or the form is [`ActForm::Tiles`], of several rows together.
    pub unsafe fn prepare_row(self, x: &[f32], row: usize, m: usize, act: *mut u8) {
        let (len, bytes) = self.record();
        assert!(!matches!(self.form, ActForm::Tiles(..)), "rows of tiles are prepared together");
        if bytes > 0 {
            assert!(x.len() >= self.k && row < m, "row {row} of {m}, {} activations of {}", x.len(), self.k);
            // SAFETY: the records are within the bytes that the caller vouches for.
            unsafe { self.blocks(x, row, m, 0..self.k / len, act) };
        }
    }

    /// Quantises blocks of row `x`, number `row` of `m`.
    ///
    /// # Safety
    /// As for [`ActSpec::prepare`].
    unsafe fn blocks(self, x: &[f32], row: usize, m: usize, blocks: Range<usize>, act: *mut u8) {
        let (len, bytes) = self.record();
        let (start, t) = tile_of(row, m, self.level.tile());
        let place = start * (self.k / len) + blocks.start * t + (row - start);
        let quantise = Quantise {
            form: self.form,
            x: x[blocks.start * len..blocks.end * len].as_ptr(),
            // SAFETY: the record is within the bytes that the caller vouches for.
            to: unsafe { act.add(place * bytes) },
            step: t * bytes,
            pair: (self.level.pairs() && t > 1).then_some(Pair { second: (row - start) % 2 == 1, bytes }),
            count: blocks.len(),
        };
        dispatch(self.level, quantise);
    }
}

/// Tiles of `m` rows as (first row, rows): full ones first, then decreasing powers of two.
pub(super) fn tiles(m: usize, full: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == m {
            return None;
        }
        let (start, mut t) = (at, full);
        while t > m - at {
            t /= 2;
        }
        at += t;
        Some((start, t))
    })
}

/// The tile that `row` is in.
fn tile_of(row: usize, m: usize, full: usize) -> (usize, usize) {
    let whole = m / full * full;
    if row < whole {
        return (row / full * full, full);
    }
    let (start, t) = tiles(m - whole, full).find(|(s, t)| row - whole < s + t).expect("the row is below m");
    (whole + start, t)
}

/// Quantises `count` consecutive blocks of one row, writing a record every `step` bytes.
struct Quantise {
    form: ActForm,
    x: *const f32,
    to: *mut u8,
    step: usize,
    pair: Option<Pair>,
    count: usize,
}

/// Which of a pair a row is.
#[derive(Clone, Copy)]
struct Pair {
    second: bool,
    /// Of a record.
    bytes: usize,
}

impl Pair {
    /// Writes the numbers of a row to their places in both records, `to` being the row's own.
    ///
    /// # Safety
    /// Both records are writable where this row's numbers go.
    #[inline(always)]
    unsafe fn share(self, numbers: &[[u8; 8]], to: *mut u8) {
        let half = usize::from(self.second);
        for (i, eight) in numbers.iter().enumerate() {
            // SAFETY: of eight numbers, an even count is in the first record, an odd one in the second.
            unsafe { to.sub(half * self.bytes).add(i % 2 * self.bytes + i / 2 * 16 + half * 8).cast::<[u8; 8]>().write_unaligned(*eight) }
        }
    }
}

impl Kernel for Quantise {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for b in 0..self.count {
            // SAFETY: `prepare` checked the rows and was promised the records.
            unsafe {
                let to = self.to.add(b * self.step);
                match self.form {
                    ActForm::F32 | ActForm::Tiles(..) => {}
                    ActForm::Q8Block(len) => {
                        let x = self.x.add(len * b);
                        let (d, sums) = match len {
                            32 => quantise::<S, 32>(s, x, to, self.pair),
                            64 => quantise::<S, 64>(s, x, to, self.pair),
                            _ => quantise::<S, 128>(s, x, to, self.pair),
                        };
                        let sum: i32 = sums.iter().take(len / 16).sum();
                        to.add(block::scale(len)).cast::<f32>().write_unaligned(d);
                        to.add(block::sum(len)).cast::<f32>().write_unaligned(d * sum as f32);
                    }
                    ActForm::Q8Super256 => {
                        let (d, sums) = quantise::<S, 256>(s, self.x.add(256 * b), to, self.pair);
                        let sums16 = sums.map(|v| v as i16);
                        let sums32: [i16; 8] = std::array::from_fn(|i| sums16[2 * i] + sums16[2 * i + 1]);
                        to.add(s256::SUMS16).cast::<[i16; 16]>().write_unaligned(sums16);
                        to.add(s256::SUMS32).cast::<[i16; 8]>().write_unaligned(sums32);
                        to.add(s256::SCALE).cast::<f32>().write_unaligned(d);
                    }
                }
            }
        }
    }
}

/// Quantises `N` floats to i8. Returns the scale and the sums of each 16.
///
/// # Safety
/// `x` is readable for `N` floats, `to` writable for `N` bytes; so is the other record of a pair.
#[inline(always)]
unsafe fn quantise<S: Simd, const N: usize>(s: S, x: *const f32, to: *mut u8, pair: Option<Pair>) -> (f32, [i32; 16]) {
    let mut own = MaybeUninit::<[u8; N]>::uninit();
    let numbers = if pair.is_some() { own.as_mut_ptr().cast() } else { to };
    // SAFETY: all offsets are below N.
    unsafe {
        let zero = s.splat(0.0);
        let (mut top, mut poison) = (zero, zero);
        for i in (0..N).step_by(S::LANES) {
            let v = s.load(x.add(i));
            top = s.max(top, s.max(v, s.sub(zero, v)));
            poison = s.fma(v, zero, poison);
        }
        // NaN and infinite activations make the scale NaN, so they reach the output.
        let d = s.hmax(top) / 127.0 + s.sum(poison);
        // Scales so small that their inverse overflows stand for zeros.
        let inverse = if d > 1e-38 { 1.0 / d } else { 0.0 };
        let factor = s.splat(inverse);
        for i in (0..N).step_by(S::LANES) {
            s.store_i8(numbers.add(i).cast(), s.to_i(s.mul(s.load(x.add(i)), factor)));
        }
        let mut sums = [0; 16];
        for i in 0..N / 16 {
            let q = numbers.add(16 * i).cast::<[i8; 16]>().read_unaligned();
            sums[i] = q.iter().map(|&v| i32::from(v)).sum();
        }
        if let Some(pair) = pair {
            pair.share(own.assume_init_ref().as_chunks().0, to);
        }
        (if inverse == 0.0 { d * 0.0 } else { d }, sums)
    }
}
