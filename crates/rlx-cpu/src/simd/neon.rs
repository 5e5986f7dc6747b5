//! [`Simd`] with Armv8.2 NEON and dot products: 4 lanes; products of bytes go straight to i32 (`sdot`).
//!
//! Half floats and dot products are written as assembly, their intrinsics not being stable.

use super::{Kernel, Simd};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// Proof that the processor has NEON with dot products.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// `None` where the processor lacks it.
    #[inline]
    pub fn new() -> Option<Self> {
        let has = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
        has.then_some(Neon(()))
    }
}

/// Runs `kernel` in a function compiled for NEON with dot products.
#[inline]
pub(super) fn enter<K: Kernel>(kernel: K, s: Neon) -> K::Out {
    #[target_feature(enable = "neon,dotprod")]
    fn inner<K: Kernel>(kernel: K, s: Neon) -> K::Out {
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

impl Simd for Neon {
    const LANES: usize = 4;
    const TILE: usize = 8;
    const U5_DOTS: usize = 8;
    const U6_DOTS: usize = 4;
    const I8_BIAS: u8 = 0;

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
