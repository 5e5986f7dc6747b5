//! [`Simd`] with AVX-512 F, BW, VL, DQ and VNNI: 16 lanes; products of bytes go straight to i32 (`vpdpbusd`), and with
//! AVX-512 BF16 those of bfloat16 to f32 (`vdpbf16ps`).

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, VL, DQ and VNNI (and with them AVX2, FMA and F16C); with `BF16` also
/// AVX-512 BF16.
#[derive(Clone, Copy, Debug)]
pub struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// `None` where the processor lacks any of them.
    #[inline]
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!BF16 || is_x86_feature_detected!("avx512bf16"));
        has.then_some(Avx512(()))
    }
}

/// Runs `kernel` in a function compiled for AVX-512.
#[inline]
pub(super) fn enter<K: Kernel>(kernel: K, s: Avx512<false>) -> K::Out {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    fn inner<K: Kernel>(kernel: K, s: Avx512<false>) -> K::Out {
        kernel.run(s)
    }
    // SAFETY: the token proves that the processor has the features.
    unsafe { inner(kernel, s) }
}

/// Runs `kernel` in a function compiled for AVX-512 with BF16.
#[inline]
pub(super) fn enter_bf16<K: Kernel>(kernel: K, s: Avx512<true>) -> K::Out {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
    fn inner<K: Kernel>(kernel: K, s: Avx512<true>) -> K::Out {
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

impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = 16;
    const TILE: usize = 8;
    const U5_DOTS: usize = 8;
    const U6_DOTS: usize = 4;
    const I8_BIAS: u8 = 128;

    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    type W = __m512i;
    type Part = __m512i;
    type Scale = __m512i;
    type W8 = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        with!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        with!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        with!(_mm512_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m512 {
        with!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m512 {
        with!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))))
    }
    #[inline(always)]
    fn widen_bf16(self, b: __m512i) -> [__m512; 2] {
        with!([_mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)), _mm512_castsi512_ps(_mm512_and_si512(b, _mm512_set1_epi32(-1 << 16))),])
    }
    #[inline(always)]
    fn dot_bf16(self, sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        if BF16 {
            // SAFETY: any 64 bytes are a vector of 32 bfloat16.
            let pairs = |v| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
            return with!(_mm512_dpbf16_ps(sum, pairs(a), pairs(b)));
        }
        super::dot_widened(self, sum, a, b)
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        with!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        with!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        with!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        with!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        with!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        with!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        with!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        with!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, t: __m512, e: __m512) -> __m512 {
        with!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), e, t))
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        with!(_mm512_reduce_add_ps(v))
    }
    #[inline(always)]
    fn hmax(self, v: __m512) -> f32 {
        with!(_mm512_reduce_max_ps(v))
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> __m512i {
        with!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn iadd(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn isub(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: __m512i) -> __m512i {
        with!(_mm512_slli_epi32::<N>(a))
    }
    #[inline(always)]
    fn to_f(self, a: __m512i) -> __m512 {
        with!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn to_i(self, a: __m512) -> __m512i {
        with!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn bits_to_f(self, a: __m512i) -> __m512 {
        with!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, a: __m512i) {
        with!(_mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(a)))
    }

    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> __m512i {
        with!(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_rows(self, p: *const u8, stride: usize) -> [__m512i; 8] {
        // AVX-512 has all of AVX2.
        with!({
            let (low, high) = (super::avx2::transpose8(p, stride), super::avx2::transpose8(p.add(8 * stride), stride));
            let mut words = [_mm512_setzero_si512(); 8];
            for c in 0..8 {
                words[c] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low[c]), high[c]);
            }
            words
        })
    }
    #[inline(always)]
    unsafe fn dup4(self, p: *const i8) -> __m512i {
        with!(_mm512_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn bits_shr<const N: u32>(self, b: __m512i, mask: u8) -> __m512i {
        with!(_mm512_and_si512(_mm512_srli_epi16::<N>(b), _mm512_set1_epi8(mask as i8)))
    }
    #[inline(always)]
    fn bits_shl<const N: u32>(self, b: __m512i, mask: u8) -> __m512i {
        with!(_mm512_and_si512(_mm512_slli_epi16::<N>(b), _mm512_set1_epi8(mask as i8)))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn part(self) -> __m512i {
        with!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn dot(self, p: __m512i, w: __m512i, a: __m512i) -> __m512i {
        with!(_mm512_dpbusd_epi32(p, w, a))
    }
    #[inline(always)]
    fn flush(self, sum: __m512i, p: __m512i, scale: __m512i) -> __m512i {
        with!(_mm512_add_epi32(sum, _mm512_mullo_epi32(p, scale)))
    }
    #[inline(always)]
    fn part_to_i(self, p: __m512i) -> __m512i {
        p
    }
    #[inline(always)]
    fn flip(self, w: __m512i, bits: u8) -> __m512i {
        with!(_mm512_xor_si512(w, _mm512_set1_epi8(bits as i8)))
    }
    #[inline(always)]
    fn prep8(self, w: __m512i) -> __m512i {
        w
    }
    #[inline(always)]
    fn dot8(self, sum: __m512i, w: __m512i, a: __m512i) -> __m512i {
        with!(_mm512_dpbusd_epi32(sum, w, a))
    }

    #[inline(always)]
    unsafe fn load_pairs_u8(self, p: *const u8) -> __m512i {
        with!(_mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_pairs_i8(self, p: *const u8) -> __m512i {
        with!(_mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn dup_pair(self, p: *const i16) -> __m512i {
        with!(_mm512_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn first(self, w: __m512i) -> __m512i {
        with!(_mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(w)))
    }
    #[inline(always)]
    fn second(self, w: __m512i) -> __m512i {
        with!(_mm512_srai_epi32::<16>(w))
    }
    #[inline(always)]
    fn madd(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        with!(_mm512_dpwssd_epi32(sum, a, b))
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        with!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }
}
