//! [`Simd`] in plain arrays: the meaning of every method, and the fallback of processors without vectors.

use super::Simd;
use half::{bf16, f16};
use std::array::from_fn;

/// `L` lanes, 8-bit weights with a bias of `BIAS`: 8 and 128 as [`AvxVnni`](super::Level::AvxVnni), 16 and 128 as
/// [`Avx512`](super::Level::Avx512), 8 and 0 as [`Avx2`](super::Level::Avx2), 4 and 0 as [`Neon`](super::Level::Neon).
#[derive(Clone, Copy, Debug)]
pub struct Scalar<const L: usize, const BIAS: u8>;

/// Runs `body`, which only reads or writes through pointers that the method's caller vouches for.
macro_rules! raw {
    ($($body:tt)*) => {
        // SAFETY: the method's contract is exactly that these accesses are valid.
        unsafe { $($body)* }
    };
}

fn quad<const L: usize>(w: [[u8; 4]; L], a: [[u8; 4]; L], lane: usize, weight: impl Fn(u8) -> i32) -> i32 {
    (0..4).map(|i| weight(w[lane][i]) * i32::from(a[lane][i] as i8)).sum()
}

impl<const L: usize, const BIAS: u8> Simd for Scalar<L, BIAS> {
    const LANES: usize = L;
    const TILE: usize = if L == 8 { 4 } else { 8 };
    const U5_DOTS: usize = if L == 8 && BIAS == 0 { 4 } else { 8 };
    const U6_DOTS: usize = Self::U5_DOTS / 2;
    const I8_BIAS: u8 = BIAS;

    type F = [f32; L];
    type I = [i32; L];
    type B = [[u8; 4]; L];
    type W = [[i16; 2]; L];
    type Part = [i32; L];
    type Scale = [i32; L];
    type W8 = [[u8; 4]; L];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; L]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        raw!(p.cast::<Self::F>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        raw!(p.cast::<Self::F>().write_unaligned(v))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        raw!(p.cast::<[u16; L]>().read_unaligned()).map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        raw!(p.cast::<[u16; L]>().read_unaligned()).map(|b| bf16::from_bits(b).to_f32())
    }
    #[inline(always)]
    fn widen_bf16(self, b: Self::B) -> [Self::F; 2] {
        [0, 2].map(|i| b.map(|word| bf16::from_le_bytes([word[i], word[i + 1]]).to_f32()))
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| mul_add(-a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::F, b: Self::F, t: Self::F, e: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { t[i] } else { e[i] })
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let mut v = v;
        let mut n = L / 2;
        while n > 0 {
            for i in 0..n {
                v[i] += v[i + n];
            }
            n /= 2;
        }
        v[0]
    }
    #[inline(always)]
    fn hmax(self, v: Self::F) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> Self::I {
        [x; L]
    }
    #[inline(always)]
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn isub(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: Self::I) -> Self::I {
        a.map(|x| x << N)
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn bits_to_f(self, a: Self::I) -> Self::F {
        a.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, a: Self::I) {
        raw!(p.cast::<[i8; L]>().write_unaligned(a.map(|x| x as i8)))
    }

    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> Self::B {
        raw!(p.cast::<Self::B>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn dup4(self, p: *const i8) -> Self::B {
        [raw!(p.cast::<[u8; 4]>().read_unaligned()); L]
    }
    #[inline(always)]
    fn bits_shr<const N: u32>(self, b: Self::B, mask: u8) -> Self::B {
        b.map(|q| q.map(|x| (x >> N) & mask))
    }
    #[inline(always)]
    fn bits_shl<const N: u32>(self, b: Self::B, mask: u8) -> Self::B {
        b.map(|q| q.map(|x| (x << N) & mask))
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        from_fn(|i| from_fn(|j| a[i][j] | b[i][j]))
    }

    #[inline(always)]
    fn part(self) -> Self::Part {
        [0; L]
    }
    #[inline(always)]
    fn dot(self, p: Self::Part, w: Self::B, a: Self::B) -> Self::Part {
        from_fn(|i| p[i] + quad(w, a, i, i32::from))
    }
    #[inline(always)]
    fn flush(self, sum: Self::I, p: Self::Part, scale: Self::Scale) -> Self::I {
        from_fn(|i| sum[i] + p[i] * scale[i])
    }
    #[inline(always)]
    fn part_to_i(self, p: Self::Part) -> Self::I {
        p
    }
    #[inline(always)]
    fn flip(self, w: Self::B, bits: u8) -> Self::B {
        w.map(|bytes| bytes.map(|b| b ^ bits))
    }
    #[inline(always)]
    fn prep8(self, w: Self::B) -> Self::W8 {
        w
    }
    #[inline(always)]
    fn dot8(self, sum: Self::I, w: Self::W8, a: Self::B) -> Self::I {
        from_fn(|i| sum[i] + quad(w, a, i, |x| if Self::I8_BIAS == 0 { i32::from(x as i8) } else { i32::from(x) }))
    }

    #[inline(always)]
    unsafe fn load_pairs_u8(self, p: *const u8) -> Self::W {
        raw!(p.cast::<[[u8; 2]; L]>().read_unaligned()).map(|q| q.map(i16::from))
    }
    #[inline(always)]
    unsafe fn load_pairs_i8(self, p: *const u8) -> Self::W {
        raw!(p.cast::<[[i8; 2]; L]>().read_unaligned()).map(|q| q.map(i16::from))
    }
    #[inline(always)]
    unsafe fn dup_pair(self, p: *const i16) -> Self::W {
        [raw!(p.cast::<[i16; 2]>().read_unaligned()); L]
    }
    #[inline(always)]
    fn first(self, w: Self::W) -> Self::Scale {
        w.map(|q| i32::from(q[0]))
    }
    #[inline(always)]
    fn second(self, w: Self::W) -> Self::Scale {
        w.map(|q| i32::from(q[1]))
    }
    #[inline(always)]
    fn madd(self, sum: Self::I, a: Self::W, b: Self::W) -> Self::I {
        from_fn(|i| sum[i] + (0..2).map(|j| i32::from(a[i][j]) * i32::from(b[i][j])).sum::<i32>())
    }
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
}

/// A fused multiply-add without a call into the maths library. The product is exact in f64, so the result differs
/// from one rounding only where the f64 sum falls on a tie.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(c)) as f32
}
