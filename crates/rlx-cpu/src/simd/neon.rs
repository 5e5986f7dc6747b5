//! [`Simd`] with Armv8.2 NEON and dot products: 4 lanes; products of bytes go straight to i32 (`sdot`, with I8MM also
//! `smmla`).
//!
//! Half floats and products of bytes are written as assembly, their intrinsics not being stable.

use super::{Kernel, Simd};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// Proof that the processor has NEON with dot products; with `I8MM` also products of matrices of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Neon<const I8MM: bool>(());

impl<const I8MM: bool> Neon<I8MM> {
    /// `None` where the processor lacks any of them.
    #[inline]
    pub fn new() -> Option<Self> {
        let has = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
        (has && (!I8MM || is_aarch64_feature_detected!("i8mm"))).then_some(Neon(()))
    }
}

/// Runs `kernel` in a function compiled for NEON with dot products.
#[inline]
pub(super) fn enter<K: Kernel>(kernel: K, s: Neon<false>) -> K::Out {
    #[target_feature(enable = "neon,dotprod")]
    fn inner<K: Kernel>(kernel: K, s: Neon<false>) -> K::Out {
        kernel.run(s)
    }
    // SAFETY: the token proves that the processor has the features.
    unsafe { inner(kernel, s) }
}

/// Runs `kernel` in a function compiled for NEON with dot products and I8MM.
#[inline]
pub(super) fn enter_i8mm<K: Kernel>(kernel: K, s: Neon<true>) -> K::Out {
    #[target_feature(enable = "neon,dotprod,i8mm")]
    fn inner<K: Kernel>(kernel: K, s: Neon<true>) -> K::Out {
        kernel.run(s)
    }
    // SAFETY: the token proves that the processor has the features.
    unsafe { inner(kernel, s) }
}

/// Calls intrinsics from a method of the token.
macro_rules! with {
    ($($body:tt)*) => {
        // SAFETY: the token proves that the processor has the features; pointers are the method's contract.
        unsafe { $($body)* }
    };
}

/// `sum + Σ w·a` over the four signed bytes of each lane.
#[inline(always)]
fn sdot(mut sum: int32x4_t, w: uint8x16_t, a: uint8x16_t) -> int32x4_t {
    // SAFETY: only registers; a token exists wherever this is called.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {s:v}.4s, {w:v}.16b, {a:v}.16b",
            s = inout(vreg) sum, w = in(vreg) w, a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// [`sdot`] with the same four activations in every lane: word `LANE` of `a`.
#[inline(always)]
fn sdot_lane<const LANE: usize>(mut sum: int32x4_t, w: uint8x16_t, a: uint8x16_t) -> int32x4_t {
    // SAFETY: only registers; a token exists wherever this is called.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {s:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]",
            s = inout(vreg) sum, w = in(vreg) w, a = in(vreg) a, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// `sum + w · aᵀ`: `w` and `a` are two rows of eight signed bytes, the sums `[w0·a0, w0·a1, w1·a0, w1·a1]`.
#[inline(always)]
fn smmla(mut sum: int32x4_t, w: uint8x16_t, a: uint8x16_t) -> int32x4_t {
    // SAFETY: only registers; this is called with a token of I8MM alone.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {s:v}.4s, {w:v}.16b, {a:v}.16b",
            s = inout(vreg) sum, w = in(vreg) w, a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Products with chunks in turn, several for a load of activations.
///
/// # Safety
/// `a` is readable for `4 * N` bytes.
#[inline(always)]
unsafe fn sdots<const N: usize>(mut sum: int32x4_t, w: [uint8x16_t; N], a: *const i8) -> int32x4_t {
    const { assert!(N.is_multiple_of(2)) };
    for i in (0..N).step_by(if N.is_multiple_of(4) { 4 } else { 2 }) {
        // SAFETY: the caller's promise.
        let a = unsafe { a.cast::<u8>().add(4 * i) };
        if N.is_multiple_of(4) {
            let a = with!(vld1q_u8(a));
            sum = sdot_lane::<1>(sdot_lane::<0>(sum, w[i], a), w[i + 1], a);
            sum = sdot_lane::<3>(sdot_lane::<2>(sum, w[i + 2], a), w[i + 3], a);
        } else {
            // The upper lanes are not named.
            let a = with!(vcombine_u8(vld1_u8(a), vdup_n_u8(0)));
            sum = sdot_lane::<1>(sdot_lane::<0>(sum, w[i], a), w[i + 1], a);
        }
    }
    sum
}

impl<const I8MM: bool> Simd for Neon<I8MM> {
    const LANES: usize = 4;
    const TILE: usize = 8;
    const U5_DOTS: usize = 8;
    const U6_DOTS: usize = 4;
    const I8_BIAS: u8 = 0;
    const PAIRS: bool = I8MM;

    type F = float32x4_t;
    type I = int32x4_t;
    type B = uint8x16_t;
    type W = int16x8_t;
    type Part = int32x4_t;
    type Scale = int32x4_t;
    type W8 = uint8x16_t;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        with!(vdupq_n_f32(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        with!(vld1q_f32(p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        with!(vst1q_f32(p, v))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        with! {
            let half = vld1_u16(p);
            let wide: float32x4_t;
            asm!(
                "fcvtl {o:v}.4s, {i:v}.4h",
                o = out(vreg) wide, i = in(vreg) half,
                options(pure, nomem, nostack, preserves_flags)
            );
            wide
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        with!(vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(p)))))
    }
    #[inline(always)]
    fn widen_bf16(self, b: Self::B) -> [Self::F; 2] {
        with! {
            let words = vreinterpretq_u32_u8(b);
            let (first, second) = (vshlq_n_u32::<16>(words), vandq_u32(words, vdupq_n_u32(!0 << 16)));
            [vreinterpretq_f32_u32(first), vreinterpretq_f32_u32(second)]
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        with!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        with!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        with!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        with!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        with!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        with!(vfmsq_f32(c, a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        with!(vmaxq_f32(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        with!(vminq_f32(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: Self::F, b: Self::F, t: Self::F, e: Self::F) -> Self::F {
        with!(vbslq_f32(vcltq_f32(a, b), t, e))
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        with!(vaddvq_f32(v))
    }
    #[inline(always)]
    fn hmax(self, v: Self::F) -> f32 {
        with!(vmaxvq_f32(v))
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> Self::I {
        with!(vdupq_n_s32(x))
    }
    #[inline(always)]
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I {
        with!(vaddq_s32(a, b))
    }
    #[inline(always)]
    fn isub(self, a: Self::I, b: Self::I) -> Self::I {
        with!(vsubq_s32(a, b))
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: Self::I) -> Self::I {
        with!(vshlq_s32(a, vdupq_n_s32(N as i32)))
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        with!(vcvtq_f32_s32(a))
    }
    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        with!(vcvtnq_s32_f32(a))
    }
    #[inline(always)]
    fn bits_to_f(self, a: Self::I) -> Self::F {
        with!(vreinterpretq_f32_s32(a))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, a: Self::I) {
        with! {
            let half = vmovn_s32(a);
            let bytes = vmovn_s16(vcombine_s16(half, half));
            p.cast::<i32>().write_unaligned(vget_lane_s32::<0>(vreinterpret_s32_s8(bytes)));
        }
    }

    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> Self::B {
        with!(vld1q_u8(p))
    }
    #[inline(always)]
    unsafe fn dup4(self, p: *const i8) -> Self::B {
        with!(vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())))
    }
    #[inline(always)]
    fn bits_shr<const N: u32>(self, b: Self::B, mask: u8) -> Self::B {
        with!(vandq_u8(vshlq_u8(b, vdupq_n_s8(-(N as i8))), vdupq_n_u8(mask)))
    }
    #[inline(always)]
    fn bits_shl<const N: u32>(self, b: Self::B, mask: u8) -> Self::B {
        with!(vandq_u8(vshlq_u8(b, vdupq_n_s8(N as i8)), vdupq_n_u8(mask)))
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        with!(vorrq_u8(a, b))
    }

    #[inline(always)]
    fn part(self) -> Self::Part {
        self.isplat(0)
    }
    #[inline(always)]
    fn dot(self, p: Self::Part, w: Self::B, a: Self::B) -> Self::Part {
        sdot(p, w, a)
    }
    #[inline(always)]
    unsafe fn dots<const N: usize>(self, p: Self::Part, w: [Self::B; N], a: *const i8) -> Self::Part {
        // SAFETY: the caller's promise.
        unsafe { sdots(p, w, a) }
    }
    /// Eight consecutive weights of rows 0 and 1, of rows 2 and 3.
    #[inline(always)]
    fn pair(self, w: [Self::B; 2]) -> [Self::B; 2] {
        if !I8MM {
            return w;
        }
        with! {
            let [a, b] = w.map(|w| vreinterpretq_u32_u8(w));
            [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))]
        }
    }
    #[inline(always)]
    unsafe fn dot_pair(self, p: [Self::Part; 2], w: [Self::B; 2], a: *const i8) -> [Self::Part; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            if !I8MM {
                return [self.dots(p[0], w, a), self.dots(p[1], w, a.add(8))];
            }
            let a = self.load_b(a.cast());
            [smmla(p[0], w[0], a), smmla(p[1], w[1], a)]
        }
    }
    #[inline(always)]
    fn unpair(self, p: [Self::Part; 2]) -> [Self::Part; 2] {
        if I8MM { with!([vuzp1q_s32(p[0], p[1]), vuzp2q_s32(p[0], p[1])]) } else { p }
    }
    #[inline(always)]
    fn flush(self, sum: Self::I, p: Self::Part, scale: Self::Scale) -> Self::I {
        with!(vmlaq_s32(sum, p, scale))
    }
    #[inline(always)]
    fn part_to_i(self, p: Self::Part) -> Self::I {
        p
    }
    #[inline(always)]
    fn flip(self, w: Self::B, bits: u8) -> Self::B {
        with!(veorq_u8(w, vdupq_n_u8(bits)))
    }
    #[inline(always)]
    fn prep8(self, w: Self::B) -> Self::W8 {
        w
    }
    #[inline(always)]
    fn dot8(self, sum: Self::I, w: Self::W8, a: Self::B) -> Self::I {
        sdot(sum, w, a)
    }
    #[inline(always)]
    unsafe fn dots8<const N: usize>(self, sum: Self::I, w: [Self::W8; N], a: *const i8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { sdots(sum, w, a) }
    }

    #[inline(always)]
    unsafe fn load_pairs_u8(self, p: *const u8) -> Self::W {
        with!(vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p))))
    }
    #[inline(always)]
    unsafe fn load_pairs_i8(self, p: *const u8) -> Self::W {
        with!(vmovl_s8(vld1_s8(p.cast())))
    }
    #[inline(always)]
    unsafe fn dup_pair(self, p: *const i16) -> Self::W {
        with!(vreinterpretq_s16_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())))
    }
    #[inline(always)]
    fn first(self, w: Self::W) -> Self::Scale {
        with!(vshrq_n_s32::<16>(vshlq_n_s32::<16>(vreinterpretq_s32_s16(w))))
    }
    #[inline(always)]
    fn second(self, w: Self::W) -> Self::Scale {
        with!(vshrq_n_s32::<16>(vreinterpretq_s32_s16(w)))
    }
    #[inline(always)]
    fn madd(self, sum: Self::I, a: Self::W, b: Self::W) -> Self::I {
        with! {
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            let high = vmull_s16(vget_high_s16(a), vget_high_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, high))
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        with!(asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly)))
    }
}
