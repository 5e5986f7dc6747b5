//! Affine formats: packing of their codes, and the product `y += s·sa·(Σ q·a) + bias·sa·(Σ a)` of a group.

use super::act::block;
use super::codes::{Plain, Records, codes2, codes3, codes4, codes5, codes6, codes8};
use super::pack::{Lane, View};
use super::quant::{Quant, float, rows};
use crate::simd::Simd;
use crate::simd::element::{Bf16, Element, F16, F32};
use rlx_gguf::blocks::{Affine, ScaleType};

/// What a word of packed codes holds: `bits` bits, from bit `shift`, of `8 / bits` consecutive chunks from `first`.
#[derive(Clone, Copy)]
struct Plane {
    bits: usize,
    first: usize,
    shift: usize,
}

const fn plane(bits: usize, first: usize, shift: usize) -> Plane {
    Plane { bits, first, shift }
}

const WORDS2: [Plane; 2] = [plane(2, 0, 0), plane(2, 4, 0)];
const WORDS3: [Plane; 3] = [WORDS2[0], WORDS2[1], plane(1, 0, 2)];
const WORDS4: [Plane; 4] = [plane(4, 0, 0), plane(4, 2, 0), plane(4, 4, 0), plane(4, 6, 0)];
const WORDS5: [Plane; 5] = [plane(1, 0, 4), WORDS4[0], WORDS4[1], WORDS4[2], WORDS4[3]];
const WORDS6: [Plane; 6] = [WORDS4[0], WORDS4[1], plane(2, 0, 4), WORDS4[2], WORDS4[3], plane(2, 4, 4)];
const WORDS8: [Plane; 8] = {
    let mut all = [plane(8, 0, 0); 8];
    let mut c = 0;
    while c < 8 {
        all[c].first = c;
        c += 1;
    }
    all
};

/// The words of 32 codes of `bits` bits, in order.
const fn planes(bits: usize) -> &'static [Plane] {
    match bits {
        2 => &WORDS2,
        3 => &WORDS3,
        4 => &WORDS4,
        5 => &WORDS5,
        6 => &WORDS6,
        _ => &WORDS8,
    }
}

/// `byte` in all four bytes.
const fn splat(byte: usize) -> u32 {
    byte as u32 * 0x0101_0101
}

/// What 8-bit codes are changed by: codes less 128, plus the level's bias.
fn flip(bits: usize, i8_bias: u32) -> u32 {
    if bits == 8 { splat(0x80) ^ i8_bias } else { 0 }
}

/// Packs a block.
pub(super) fn pack(a: Affine, raw: &[u8], i8_bias: u32, to: &mut Lane<'_>) {
    let (numbers, codes) = raw.split_at(a.codes_at());
    let (scale, bias) = numbers.split_at(a.scale().bytes());
    to.number(0, scale);
    to.number(1, bias);
    match a.bits() {
        2 => pack_codes::<2>(codes, 0, a.codes_at(), to),
        3 => pack_codes::<3>(codes, 0, a.codes_at(), to),
        4 => pack_codes::<4>(codes, 0, a.codes_at(), to),
        5 => pack_codes::<5>(codes, 0, a.codes_at(), to),
        6 => pack_codes::<6>(codes, 0, a.codes_at(), to),
        _ => pack_codes::<8>(codes, flip(8, i8_bias), a.codes_at(), to),
    }
}

fn pack_codes<const BITS: usize>(codes: &[u8], flip: u32, base: usize, to: &mut Lane<'_>) {
    let words = const { planes(BITS) };
    for (sub, codes) in codes.as_chunks::<BITS>().0.chunks_exact(4).enumerate() {
        let mut chunks = [0; 8];
        for (pair, codes) in chunks.chunks_exact_mut(2).zip(codes) {
            let mut stream = [0; 8];
            stream[..BITS].copy_from_slice(codes);
            let stream = u64::from_le_bytes(stream);
            for (i, chunk) in pair.iter_mut().enumerate() {
                let codes = stream >> (4 * BITS * i);
                *chunk = (0..4).fold(0, |w, i| w | (((codes >> (BITS * i)) as u32 & ((1 << BITS) - 1)) << (8 * i)));
            }
        }
        for (i, p) in words.iter().enumerate() {
            let part = |c: usize| ((chunks[p.first + c] >> p.shift) & splat((1 << p.bits) - 1)) << (p.bits * c);
            let word = (0..8 / p.bits).fold(0, |w, c| w | part(c));
            to.word(base, sub * BITS + i, word ^ flip);
        }
    }
}

/// Takes a block out again.
pub(super) fn unpack(a: Affine, from: View<'_>, i8_bias: u32, raw: &mut [u8]) {
    let (numbers, codes) = raw.split_at_mut(a.codes_at());
    let (scale, bias) = numbers.split_at_mut(a.scale().bytes());
    from.number(0, scale);
    from.number(1, bias);
    let (bits, flip) = (a.bits(), flip(a.bits(), i8_bias));
    for (sub, codes) in codes.chunks_exact_mut(4 * bits).enumerate() {
        let mut chunks = [0u32; 8];
        for (i, p) in planes(bits).iter().enumerate() {
            let word = from.word(a.codes_at(), sub * bits + i) ^ flip;
            for c in 0..8 / p.bits {
                chunks[p.first + c] |= ((word >> (p.bits * c)) & splat((1 << p.bits) - 1)) << p.shift;
            }
        }
        for (codes, pair) in codes.chunks_exact_mut(bits).zip(chunks.chunks_exact(2)) {
            let code = |i: usize| u64::from((pair[i / 4] >> (8 * (i % 4))) & 0xff);
            let stream = (0..8).fold(0, |w, i| w | code(i) << (bits * i));
            codes.copy_from_slice(&stream.to_le_bytes()[..bits]);
        }
    }
}

/// The kernel of codes of `BITS` bits.
#[derive(Clone, Copy)]
pub(super) struct Group<const BITS: usize>(pub Affine);

impl<const BITS: usize> Quant for Group<BITS> {
    fn record(self) -> usize {
        block::bytes(self.0.group())
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(self, s: S, _: *const u8, body: *const u8, act: Records, n: usize) -> [S::F; T] {
        // SAFETY: the caller's promise.
        unsafe {
            match self.0.scale() {
                ScaleType::F16 => self.sums::<S, F16, T>(s, body, act, n),
                ScaleType::BF16 => self.sums::<S, Bf16, T>(s, body, act, n),
                ScaleType::F32 => self.sums::<S, F32, T>(s, body, act, n),
            }
        }
    }
}

impl<const BITS: usize> Group<BITS> {
    /// # Safety
    /// As for [`Quant::tile`].
    #[inline(always)]
    unsafe fn sums<S: Simd, E: Element, const T: usize>(self, s: S, body: *const u8, act: Records, n: usize) -> [S::F; T] {
        let (len, record) = (self.0.group(), block::bytes(self.0.group()));
        let (numbers, sub_bytes) = (2 * E::BYTES * S::LANES, 4 * BITS * S::LANES);
        let mut acc = [s.splat(0.0); T];
        let (mut q, mut a) = (body, act);
        for _ in 0..n {
            // SAFETY: the next block of the group and of the tile.
            unsafe {
                let (scale, mut bias) = (E::load(s, q), E::load(s, q.add(numbers / 2)));
                q = q.add(numbers);
                let mut sums = [s.isplat(0); T];
                for sub in 0..len / 32 {
                    let a = a.add(32 * sub);
                    match BITS {
                        2 => codes2(s, &mut sums, q, a, Plain),
                        3 => codes3(s, &mut sums, q, a, Plain),
                        4 => codes4(s, &mut sums, q, a, Plain),
                        5 => codes5(s, &mut sums, q, a, Plain),
                        6 => {
                            codes6(s, &mut sums, q, a, Plain);
                            codes6(s, &mut sums, q.add(12 * S::LANES), a.add(16), Plain);
                        }
                        _ => codes8(s, &mut sums, q, a),
                    }
                    q = q.add(sub_bytes);
                }
                if BITS == 8 && S::I8_BIAS == 0 {
                    // Packed codes are 128 less.
                    bias = s.fma(s.splat(128.0), scale, bias);
                }
                for t in 0..T {
                    let a = a.row::<S>(t);
                    acc[t] = s.fma(float(s, a, block::sum(len)), bias, acc[t]);
                    acc[t] = s.fma(s.mul(s.to_f(sums[t]), float(s, a, block::scale(len))), scale, acc[t]);
                }
                a = a.add(rows::<S, T>() * record);
            }
        }
        acc
    }
}
