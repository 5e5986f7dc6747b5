//! Float types in memory, widened to f32 as they are loaded.

use super::Simd;
use half::{bf16, f16};

/// An element type that widens to f32.
pub trait Element: 'static {
    const BYTES: usize;
    /// # Safety
    /// `p` is readable for `S::LANES` elements.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;
    /// # Safety
    /// `p` is readable for one element.
    unsafe fn one(p: *const u8) -> f32;
}

pub struct F32;
pub struct F16;
pub struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the method's contract.
        unsafe { s.load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the method's contract.
        unsafe { p.cast::<f32>().read_unaligned() }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the method's contract.
        unsafe { s.load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the method's contract.
        f16::from_bits(unsafe { p.cast::<u16>().read_unaligned() }).to_f32()
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the method's contract.
        unsafe { s.load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the method's contract.
        bf16::from_bits(unsafe { p.cast::<u16>().read_unaligned() }).to_f32()
    }
}
