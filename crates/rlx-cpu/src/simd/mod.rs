//! The vector operations that the CPU kernels are written in, once, for every instruction set.
//!
//! A kernel is generic over [`Simd`] and marked `#[inline(always)]`; [`dispatch`] runs it inside a function compiled
//! for the chosen [`Level`]. Implementations are zero-sized tokens that exist only where the processor has the
//! instructions, so arithmetic methods are safe; only loads and stores through pointers are not.
//!
//! [`Scalar`] is the meaning of every method, in plain arrays. It runs with 8 lanes (the layout of `Avx2<true>`) and
//! with 16 (the layout of [`Avx512`]), so that kernels over layouts of rarer processors are tested on any machine.
//!
//! Every level compiles a kernel anew. So levels that differ from another one only in products of bytes
//! or of bfloat16 ([`Level::base`]) have only these kernels of their own, which [`dispatch_int8`] and [`dispatch_bf16`] run.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod element;
mod level;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use level::Level;
pub use math::{exp, exp_of_negative};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use scalar::Scalar;

/// Vectors of [`LANES`](Simd::LANES) lanes of 32 bits, seen as f32, i32, pairs of i16 or groups of four bytes.
///
/// In matrix kernels a lane is an output row: four consecutive `k` of one row are the four bytes of its lane, and the
/// four activation bytes they meet are broadcast to all lanes.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of 32 bits.
    const LANES: usize;
    /// Activation rows that an int8 kernel keeps in registers at once (a power of two).
    const TILE: usize;
    /// How many [`dot`](Simd::dot)s of 5-bit weights a [`Part`](Simd::Part) holds without overflow (at most 8).
    const U5_DOTS: usize;
    /// The same for 6-bit weights (2 or 4).
    const U6_DOTS: usize;
    /// What is added to signed 8-bit weights when they are packed: 0, or 128 where the dot product wants them unsigned.
    const I8_BIAS: u8;
    /// Whether tiles of several activation rows multiply two chunks of weights with two rows at a time
    /// ([`dot_pair`](Simd::dot_pair)). Weights have no bias then, and the records of two rows are interleaved.
    const PAIRS: bool = false;

    /// `[f32; LANES]`.
    type F: Copy;
    /// `[i32; LANES]`.
    type I: Copy;
    /// `[[u8; 4]; LANES]`.
    type B: Copy;
    /// `[[i16; 2]; LANES]`.
    type W: Copy;
    /// A running sum of products of small unsigned weights and i8 activations, of at most 8 dots of 4-bit weights.
    type Part: Copy;
    /// A factor per lane for [`flush`](Simd::flush).
    type Scale: Copy;
    /// Signed 8-bit weights made ready for [`dot8`](Simd::dot8).
    type W8: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Loads `LANES` floats.
    ///
    /// # Safety
    /// `p` is readable for `LANES` floats; no alignment is asked.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Stores `LANES` floats.
    ///
    /// # Safety
    /// `p` is writable for `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Loads `LANES` half floats and widens them.
    ///
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes; no alignment is asked.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Loads `LANES` bfloat16 and widens them.
    ///
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes; no alignment is asked.
    unsafe fn load_bf16(self, p: *const u16) -> Self::F;
    /// The two bfloat16 of each word, widened: the first ones, then the second ones.
    fn widen_bf16(self, b: Self::B) -> [Self::F; 2];
    /// `sum + a.0 * b.0 + a.1 * b.1` of the two bfloat16 of each word, rounded once or twice.
    #[inline(always)]
    fn dot_bf16(self, sum: Self::F, a: Self::B, b: Self::B) -> Self::F {
        dot_widened(self, sum, a, b)
    }
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Lane-wise maximum; NaN where `b` is NaN, unspecified where `a` is.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise minimum; NaN where `b` is NaN, unspecified where `a` is.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { t } else { e }`, lane-wise.
    fn select_lt(self, a: Self::F, b: Self::F, t: Self::F, e: Self::F) -> Self::F;
    /// Sum of the lanes, in an unspecified order.
    fn sum(self, v: Self::F) -> f32;
    /// Largest lane.
    fn hmax(self, v: Self::F) -> f32;

    /// All lanes `x`.
    fn isplat(self, x: i32) -> Self::I;
    /// `a + b`, wrapping.
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`, wrapping.
    fn isub(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a << N`.
    fn ishl<const N: u32>(self, a: Self::I) -> Self::I;
    /// Nearest float.
    fn to_f(self, a: Self::I) -> Self::F;
    /// Nearest integer, ties to even.
    fn to_i(self, a: Self::F) -> Self::I;
    /// The same bits as floats.
    fn bits_to_f(self, a: Self::I) -> Self::F;
    /// Stores the low byte of each lane, lanes being in -128..=127.
    ///
    /// # Safety
    /// `p` is writable for `LANES` bytes.
    unsafe fn store_i8(self, p: *mut i8, a: Self::I);

    /// Loads `4 * LANES` bytes.
    ///
    /// # Safety
    /// `p` is readable for `4 * LANES` bytes; no alignment is asked.
    unsafe fn load_b(self, p: *const u8) -> Self::B;
    /// Four bytes, in every lane.
    ///
    /// # Safety
    /// `p` is readable for four bytes; no alignment is asked.
    unsafe fn dup4(self, p: *const i8) -> Self::B;
    /// Transposes eight words of [`LANES`](Simd::LANES) rows, the rows `stride` bytes apart: vector `c` is word `c` of
    /// every row.
    ///
    /// # Safety
    /// Every row is readable for 32 bytes; no alignment is asked.
    #[inline(always)]
    unsafe fn load_rows(self, p: *const u8, stride: usize) -> [Self::B; 8] {
        let mut words = [[0u32; 16]; 8];
        for row in 0..Self::LANES {
            // SAFETY: the caller vouches for the row; the arrays have the widest vector's size.
            let row_words = unsafe { p.add(row * stride).cast::<[u32; 8]>().read_unaligned() };
            for c in 0..8 {
                words[c][row] = row_words[c];
            }
        }
        // SAFETY: each array holds a whole vector.
        std::array::from_fn(|c| unsafe { self.load_b(words[c].as_ptr().cast()) })
    }
    /// Stores `4 * LANES` bytes.
    ///
    /// # Safety
    /// `p` is writable for `4 * LANES` bytes; no alignment is asked.
    #[inline(always)]
    unsafe fn store_b(self, p: *mut u8, b: Self::B) {
        const { assert!(size_of::<Self::B>() == 4 * Self::LANES) };
        // SAFETY: the caller's promise; every implementation's vector is its bytes.
        unsafe { p.cast::<Self::B>().write_unaligned(b) }
    }
    /// `(b >> N) & mask` of each byte.
    fn bits_shr<const N: u32>(self, b: Self::B, mask: u8) -> Self::B;
    /// `(b << N) & mask` of each byte.
    fn bits_shl<const N: u32>(self, b: Self::B, mask: u8) -> Self::B;
    /// `a | b`.
    fn or(self, a: Self::B, b: Self::B) -> Self::B;

    /// An empty sum.
    fn part(self) -> Self::Part;
    /// Adds, lane by lane, the four products of weights `w` (unsigned, at most 63) and activations `a` (-127..=127).
    fn dot(self, p: Self::Part, w: Self::B, a: Self::B) -> Self::Part;
    /// [`dot`](Simd::dot) with `N` chunks in turn, the activations being the `4 * N` bytes at `a`.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    unsafe fn dots<const N: usize>(self, mut p: Self::Part, w: [Self::B; N], a: *const i8) -> Self::Part {
        for i in 0..N {
            // SAFETY: the caller's promise.
            p = self.dot(p, w[i], unsafe { self.dup4(a.add(4 * i)) });
        }
        p
    }
    /// Two chunks of weights, made ready for [`dot_pair`](Simd::dot_pair).
    #[inline(always)]
    fn pair(self, w: [Self::B; 2]) -> [Self::B; 2] {
        w
    }
    /// Adds the products of two chunks of signed weights with two rows: at `a` are eight activations of the first row,
    /// then eight of the second. Sums are in an order of their own until [`unpair`](Simd::unpair).
    ///
    /// # Safety
    /// The 16 bytes are readable.
    #[inline(always)]
    unsafe fn dot_pair(self, p: [Self::Part; 2], w: [Self::B; 2], a: *const i8) -> [Self::Part; 2] {
        // SAFETY: the caller's promise.
        unsafe { [self.dots(p[0], w, a), self.dots(p[1], w, a.add(8))] }
    }
    /// What [`dot_pair`](Simd::dot_pair) added up, as a sum of each row.
    #[inline(always)]
    fn unpair(self, p: [Self::Part; 2]) -> [Self::Part; 2] {
        p
    }
    /// `sum + part * scale`.
    fn flush(self, sum: Self::I, p: Self::Part, scale: Self::Scale) -> Self::I;
    /// `part`, as i32.
    fn part_to_i(self, p: Self::Part) -> Self::I;
    /// `w ^ bits` of each byte: adds 128 to signed weights that are being packed, or leaves them.
    fn flip(self, w: Self::B, bits: u8) -> Self::B;
    /// Weights of [`dot8`](Simd::dot8): i8, plus [`I8_BIAS`](Simd::I8_BIAS).
    fn prep8(self, w: Self::B) -> Self::W8;
    /// Adds, lane by lane, the four products of weights (with their bias) and activations (-127..=127).
    fn dot8(self, sum: Self::I, w: Self::W8, a: Self::B) -> Self::I;
    /// [`dot8`](Simd::dot8) with `N` chunks in turn, the activations being the `4 * N` bytes at `a`.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    unsafe fn dots8<const N: usize>(self, mut sum: Self::I, w: [Self::W8; N], a: *const i8) -> Self::I {
        for i in 0..N {
            // SAFETY: the caller's promise.
            sum = self.dot8(sum, w[i], unsafe { self.dup4(a.add(4 * i)) });
        }
        sum
    }

    /// Loads `2 * LANES` bytes as pairs of unsigned numbers.
    ///
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes; no alignment is asked.
    unsafe fn load_pairs_u8(self, p: *const u8) -> Self::W;
    /// Loads `2 * LANES` bytes as pairs of signed numbers.
    ///
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes; no alignment is asked.
    unsafe fn load_pairs_i8(self, p: *const u8) -> Self::W;
    /// One pair of i16, in every lane.
    ///
    /// # Safety
    /// `p` is readable for four bytes; no alignment is asked.
    unsafe fn dup_pair(self, p: *const i16) -> Self::W;
    /// The first of each pair (-128..=255).
    fn first(self, w: Self::W) -> Self::Scale;
    /// The second of each pair (-128..=255).
    fn second(self, w: Self::W) -> Self::Scale;
    /// `sum + a.0 * b.0 + a.1 * b.1`.
    fn madd(self, sum: Self::I, a: Self::W, b: Self::W) -> Self::I;

    /// Loads the first `n` lanes; the others are zero.
    ///
    /// # Safety
    /// `p` is readable for `n` floats, `n <= LANES`.
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::F {
        // SAFETY: the caller's promise; the buffer has the widest vector's size.
        unsafe {
            if n == Self::LANES {
                return self.load(p);
            }
            let mut all = [0f32; 16];
            std::ptr::copy_nonoverlapping(p, all.as_mut_ptr(), n);
            self.load(all.as_ptr())
        }
    }
    /// Stores the first `n` lanes.
    ///
    /// # Safety
    /// `p` is writable for `n` floats, `n <= LANES`.
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::F, n: usize) {
        // SAFETY: the buffer has the widest vector's size; the caller vouches for `p`.
        unsafe {
            if n == Self::LANES {
                self.store(p, v);
            } else {
                let mut all = [0f32; 16];
                self.store(all.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(all.as_ptr(), p, n);
            }
        }
    }
    /// Hints that the cache line of `p` is read soon. `p` need not be readable.
    fn prefetch(self, p: *const u8);
}

/// [`Simd::dot_bf16`] where there is no instruction for it.
#[inline(always)]
fn dot_widened<S: Simd>(s: S, sum: S::F, a: S::B, b: S::B) -> S::F {
    let ([a0, a1], [b0, b1]) = (s.widen_bf16(a), s.widen_bf16(b));
    s.fma(a1, b1, s.fma(a0, b0, sum))
}

/// A computation written over any [`Simd`]. Mark `run` `#[inline(always)]`.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// Runs it.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs `kernel` with the instructions of [`Level::base`], so with its [`Simd::I8_BIAS`].
///
/// # Panics
/// When the processor lacks them.
#[inline]
pub fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level.base() {
        Level::Scalar => scalar8(kernel),
        Level::ScalarWide => scalar16(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::enter(kernel, Avx2::new().expect("the processor has AVX2, FMA and F16C")),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::enter(kernel, Avx512::new().expect("the processor has AVX-512 with VNNI")),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => neon::enter(kernel, Neon::new().expect("the processor has NEON dot products")),
        #[allow(unreachable_patterns)]
        _ => panic!("this build has no {level} kernels"),
    }
}

/// Runs a kernel of products of bytes with all instructions of `level`.
///
/// # Panics
/// When the processor lacks them.
#[inline]
pub fn dispatch_int8<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => avx2::enter_vnni(kernel, Avx2::new().expect("the processor has AVX-VNNI")),
        #[cfg(target_arch = "aarch64")]
        Level::I8mm => neon::enter_i8mm(kernel, Neon::new().expect("the processor has NEON products of matrices of bytes")),
        _ => dispatch(level, kernel),
    }
}

/// Runs a kernel of products of bfloat16 with all instructions of `level`.
///
/// # Panics
/// When the processor lacks them.
#[inline]
pub fn dispatch_bf16<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => avx512::enter_bf16(kernel, Avx512::new().expect("the processor has AVX-512 with BF16")),
        _ => dispatch(level, kernel),
    }
}

#[inline(never)]
fn scalar8<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Scalar::<8, 128>)
}

#[inline(never)]
fn scalar16<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Scalar::<16, 128>)
}
