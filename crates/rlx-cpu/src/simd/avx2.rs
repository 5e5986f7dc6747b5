//! [`Simd`] with AVX2, FMA and F16C: 8 lanes; products of bytes go through i16 (`vpmaddubsw`, `vpmaddwd`), or with
//! AVX-VNNI straight to i32 (`vpdpbusd`).

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C; with `VNNI` also AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// `None` where the processor lacks any of them.
    #[inline]
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        (has && (!VNNI || is_x86_feature_detected!("avxvnni"))).then_some(Avx2(()))
    }
}

/// Runs `kernel` in a function compiled for AVX2.
#[inline]
pub(super) fn enter<K: Kernel>(kernel: K, s: Avx2<false>) -> K::Out {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn inner<K: Kernel>(kernel: K, s: Avx2<false>) -> K::Out {
        kernel.run(s)
    }
    // SAFETY: the token proves that the processor has the features.
    unsafe { inner(kernel, s) }
}

/// Runs `kernel` in a function compiled for AVX2 with AVX-VNNI.
#[inline]
pub(super) fn enter_vnni<K: Kernel>(kernel: K, s: Avx2<true>) -> K::Out {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn inner<K: Kernel>(kernel: K, s: Avx2<true>) -> K::Out {
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

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const TILE: usize = 4;
    // A vpmaddubsw lane is two products: 2*31*127*4 = 31496 and 2*63*127*2 = 32004 fit in i16, as do 2*15*127*8 = 30480.
    const U5_DOTS: usize = if VNNI { 8 } else { 4 };
    const U6_DOTS: usize = if VNNI { 4 } else { 2 };
    const I8_BIAS: u8 = if VNNI { 128 } else { 0 };

    type F = __m256;
    type I = __m256i;
    type B = __m256i;
    type W = __m256i;
    /// i16: two sums per lane. With VNNI, i32.
    type Part = __m256i;
    /// i16, each factor twice. With VNNI, i32.
    type Scale = __m256i;
    /// Magnitudes, and the weights themselves. With VNNI, twice the weights.
    type W8 = (__m256i, __m256i);

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        with!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        with!(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        with!(_mm256_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m256 {
        with!(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m256 {
        with!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))))
    }
    #[inline(always)]
    fn widen_bf16(self, b: __m256i) -> [__m256; 2] {
        with!([_mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)), _mm256_castsi256_ps(_mm256_and_si256(b, _mm256_set1_epi32(-1 << 16))),])
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        with!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        with!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        with!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        with!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        with!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        with!(_mm256_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        with!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        with!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, t: __m256, e: __m256) -> __m256 {
        with!(_mm256_blendv_ps(e, t, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        with! {
            let q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn hmax(self, v: __m256) -> f32 {
        with! {
            let q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_max_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> __m256i {
        with!(_mm256_set1_epi32(x))
    }
    #[inline(always)]
    fn iadd(self, a: __m256i, b: __m256i) -> __m256i {
        with!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn isub(self, a: __m256i, b: __m256i) -> __m256i {
        with!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: __m256i) -> __m256i {
        with!(_mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn to_f(self, a: __m256i) -> __m256 {
        with!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn to_i(self, a: __m256) -> __m256i {
        with!(_mm256_cvtps_epi32(a))
    }
    #[inline(always)]
    fn bits_to_f(self, a: __m256i) -> __m256 {
        with!(_mm256_castsi256_ps(a))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, a: __m256i) {
        with! {
            let w = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            _mm_storel_epi64(p.cast(), _mm_packs_epi16(w, w));
        }
    }

    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> __m256i {
        with!(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_rows(self, p: *const u8, stride: usize) -> [__m256i; 8] {
        // SAFETY: the caller vouches for eight rows of 32 bytes.
        unsafe { transpose8(p, stride) }
    }
    #[inline(always)]
    unsafe fn dup4(self, p: *const i8) -> __m256i {
        with!(_mm256_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn bits_shr<const N: u32>(self, b: __m256i, mask: u8) -> __m256i {
        with!(_mm256_and_si256(_mm256_srl_epi16(b, _mm_cvtsi32_si128(N as i32)), _mm256_set1_epi8(mask as i8)))
    }
    #[inline(always)]
    fn bits_shl<const N: u32>(self, b: __m256i, mask: u8) -> __m256i {
        with!(_mm256_and_si256(_mm256_sll_epi16(b, _mm_cvtsi32_si128(N as i32)), _mm256_set1_epi8(mask as i8)))
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        with!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn part(self) -> __m256i {
        with!(_mm256_setzero_si256())
    }
    #[inline(always)]
    fn dot(self, p: __m256i, w: __m256i, a: __m256i) -> __m256i {
        with!(if VNNI { _mm256_dpbusd_avx_epi32(p, w, a) } else { _mm256_add_epi16(p, _mm256_maddubs_epi16(w, a)) })
    }
    #[inline(always)]
    fn flush(self, sum: __m256i, p: __m256i, scale: __m256i) -> __m256i {
        with!(_mm256_add_epi32(sum, if VNNI { _mm256_mullo_epi32(p, scale) } else { _mm256_madd_epi16(p, scale) }))
    }
    #[inline(always)]
    fn part_to_i(self, p: __m256i) -> __m256i {
        if VNNI { p } else { with!(_mm256_madd_epi16(p, _mm256_set1_epi16(1))) }
    }
    #[inline(always)]
    fn flip(self, w: __m256i, bits: u8) -> __m256i {
        with!(_mm256_xor_si256(w, _mm256_set1_epi8(bits as i8)))
    }
    #[inline(always)]
    fn prep8(self, w: __m256i) -> (__m256i, __m256i) {
        with!((if VNNI { w } else { _mm256_abs_epi8(w) }, w))
    }
    #[inline(always)]
    fn dot8(self, sum: __m256i, w: (__m256i, __m256i), a: __m256i) -> __m256i {
        with! {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sum, w.0, a);
            }
            // |w| <= 128 and |a| <= 127, so a pair of products is at most 32512.
            _mm256_add_epi32(sum, self.part_to_i(_mm256_maddubs_epi16(w.0, _mm256_sign_epi8(a, w.1))))
        }
    }

    #[inline(always)]
    unsafe fn load_pairs_u8(self, p: *const u8) -> __m256i {
        with!(_mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_pairs_i8(self, p: *const u8) -> __m256i {
        with!(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn dup_pair(self, p: *const i16) -> __m256i {
        with!(_mm256_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn first(self, w: __m256i) -> __m256i {
        if VNNI {
            return with!(_mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(w)));
        }
        with!(_mm256_shuffle_epi8(w, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13))))
    }
    #[inline(always)]
    fn second(self, w: __m256i) -> __m256i {
        if VNNI {
            return with!(_mm256_srai_epi32::<16>(w));
        }
        with!(_mm256_shuffle_epi8(w, _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15))))
    }
    #[inline(always)]
    fn madd(self, sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        with!(if VNNI { _mm256_dpwssd_avx_epi32(sum, a, b) } else { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) })
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        with!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }
}

/// The transpose of eight rows of eight words, the rows `stride` bytes apart.
///
/// # Safety
/// The processor has AVX2; every row is readable for 32 bytes.
#[inline(always)]
pub(super) unsafe fn transpose8(p: *const u8, stride: usize) -> [__m256i; 8] {
    with!({
        let row = |r: usize| p.add(r * stride).cast();
        let (r0, r1) = (_mm256_loadu_si256(row(0)), _mm256_loadu_si256(row(1)));
        let (r2, r3) = (_mm256_loadu_si256(row(2)), _mm256_loadu_si256(row(3)));
        let (r4, r5) = (_mm256_loadu_si256(row(4)), _mm256_loadu_si256(row(5)));
        let (r6, r7) = (_mm256_loadu_si256(row(6)), _mm256_loadu_si256(row(7)));
        // Words 0, 1 (and 4, 5 in the upper half) of two rows each; then 2, 3 (and 6, 7).
        let (a0, a1) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpacklo_epi32(r2, r3));
        let (a2, a3) = (_mm256_unpacklo_epi32(r4, r5), _mm256_unpacklo_epi32(r6, r7));
        let (b0, b1) = (_mm256_unpackhi_epi32(r0, r1), _mm256_unpackhi_epi32(r2, r3));
        let (b2, b3) = (_mm256_unpackhi_epi32(r4, r5), _mm256_unpackhi_epi32(r6, r7));
        // One word (and the fourth after it) of rows 0..4, and of rows 4..8.
        let (c0, c1, c2, c3) = (
            (_mm256_unpacklo_epi64(a0, a1), _mm256_unpacklo_epi64(a2, a3)),
            (_mm256_unpackhi_epi64(a0, a1), _mm256_unpackhi_epi64(a2, a3)),
            (_mm256_unpacklo_epi64(b0, b1), _mm256_unpacklo_epi64(b2, b3)),
            (_mm256_unpackhi_epi64(b0, b1), _mm256_unpackhi_epi64(b2, b3)),
        );
        [
            _mm256_permute2x128_si256::<0x20>(c0.0, c0.1),
            _mm256_permute2x128_si256::<0x20>(c1.0, c1.1),
            _mm256_permute2x128_si256::<0x20>(c2.0, c2.1),
            _mm256_permute2x128_si256::<0x20>(c3.0, c3.1),
            _mm256_permute2x128_si256::<0x31>(c0.0, c0.1),
            _mm256_permute2x128_si256::<0x31>(c1.0, c1.1),
            _mm256_permute2x128_si256::<0x31>(c2.0, c2.1),
            _mm256_permute2x128_si256::<0x31>(c3.0, c3.1),
        ]
    })
}
