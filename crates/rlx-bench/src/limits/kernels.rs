//! What is measured: one instruction (or the shortest chain of them that makes a dot product) over and over in
//! registers, and reads of memory that do nothing else.
//!
//! Loops are assembly, so that no compiler folds or spills them, with as many independent sums as the registers hold,
//! so that latencies hide behind each other.  All factors are 1: what a kernel returns is how often it multiplied.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod arch {
    use super::{Known, Read};

    pub(super) const F32_PEAKS: &[Known<Peak>] = &[];
    pub(super) const BF16_PEAKS: &[Known<Peak>] = &[];
    pub(super) const INT8_PEAKS: &[Known<Peak>] = &[];
    pub(super) const READS: &[Known<Read>] = &[];
}

use std::hint::black_box;

/// Arithmetic in registers.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// The instructions and their width in bits.
    pub name: &'static str,
    /// Multiplications, each with an addition, of a round.
    macs: u64,
    /// The sum of all products of so many rounds.
    ///
    /// # Safety
    /// The processor has the instructions.
    run: unsafe fn(u64) -> f64,
}

impl Peak {
    /// Multiplies and adds for some rounds; returns the sum of the products, which are 1 each.  Sums are 32-bit
    /// integers that wrap, or 32-bit floats that stop at 2²⁴ each.
    pub fn run(&self, rounds: u64) -> f64 {
        // SAFETY: kernels are made only where the processor has their instructions.
        unsafe { (self.run)(rounds) }
    }

    /// Operations of so many rounds: a multiplication and an addition each.
    pub fn ops(&self, rounds: u64) -> f64 {
        2.0 * self.macs as f64 * rounds as f64
    }
}

/// Reads memory.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// The instructions and their width in bits.
    pub name: &'static str,
    /// The sum of all 32-bit words of so many pieces of [`PIECE`] bytes.
    ///
    /// # Safety
    /// The processor has the instructions, and the pieces are readable.
    run: unsafe fn(*const u8, u64) -> u32,
}

/// Memory is read in pieces of so many bytes.
pub const PIECE: usize = 1024;

impl Read {
    /// The wrapping sum of the 32-bit words of `bytes`, of which there is a multiple of [`PIECE`].
    pub fn run(&self, bytes: &[u8]) -> u32 {
        assert_eq!(bytes.len() % PIECE, 0, "memory is read in pieces of {PIECE} bytes");
        // SAFETY: kernels are made only where the processor has their instructions; the pieces are the slice.
        unsafe { (self.run)(bytes.as_ptr(), (bytes.len() / PIECE) as u64) }
    }
}

/// A kernel, and whether this processor has its instructions.
struct Known<K> {
    kernel: K,
    available: fn() -> bool,
}

const PLAIN_F32: Peak = Peak { name: "f32 in plain loops", macs: 64, run: plain_f32 };
const PLAIN_INT8: Peak = Peak { name: "int8 in plain loops", macs: 64, run: plain_int8 };
const PLAIN_READ: Read = Read { name: "plain loops", run: plain_read };

fn first<K: Copy>(known: &[Known<K>]) -> Option<K> {
    known.iter().find(|k| (k.available)()).map(|k| k.kernel)
}

/// The fastest f32 multiply-add.
pub fn f32() -> Peak {
    first(arch::F32_PEAKS).unwrap_or(PLAIN_F32)
}

/// The fastest dot product of bf16 with f32 sums; `None` where the processor has no instruction for it.
pub fn bf16() -> Option<Peak> {
    first(arch::BF16_PEAKS)
}

/// The fastest dot product of bytes with 32-bit sums.
pub fn int8() -> Peak {
    first(arch::INT8_PEAKS).unwrap_or(PLAIN_INT8)
}

/// The widest loads.
pub fn read() -> Read {
    first(arch::READS).unwrap_or(PLAIN_READ)
}

/// # Safety
/// None is needed.
unsafe fn plain_f32(rounds: u64) -> f64 {
    let mut sums = [0f32; 64];
    for _ in 0..rounds {
        let (a, b) = black_box((1f32, 1f32));
        sums.iter_mut().for_each(|s| *s += a * b);
    }
    sums.iter().map(|&s| f64::from(s)).sum()
}

/// # Safety
/// None is needed.
unsafe fn plain_int8(rounds: u64) -> f64 {
    let mut sums = [0i32; 64];
    for _ in 0..rounds {
        let (a, b) = black_box((1i8, 1i8));
        sums.iter_mut().for_each(|s| *s = s.wrapping_add(i32::from(a) * i32::from(b)));
    }
    sums.iter().map(|&s| f64::from(s)).sum()
}

/// # Safety
/// So many pieces are readable.
unsafe fn plain_read(from: *const u8, pieces: u64) -> u32 {
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(from, pieces as usize * PIECE) };
    let words = bytes.chunks_exact(4).map(|c| u32::from_ne_bytes(c.try_into().expect("4 bytes")));
    words.fold(0, u32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks() -> Vec<Peak> {
        let known = arch::F32_PEAKS.iter().chain(arch::BF16_PEAKS).chain(arch::INT8_PEAKS);
        known.filter(|k| (k.available)()).map(|k| k.kernel).chain([PLAIN_F32, PLAIN_INT8]).collect()
    }

    #[test]
    fn the_sum_of_all_products_is_their_number() {
        for p in peaks() {
            for rounds in [1, 2, 1000] {
                assert_eq!(p.run(rounds), p.ops(rounds) / 2.0, "{} over {rounds} rounds", p.name);
            }
        }
    }

    #[test]
    fn every_word_is_read_once() {
        let bytes: Vec<u8> = (0..7 * PIECE).map(|i| (i * i / 7 + i) as u8).collect();
        let want = bytes.chunks_exact(4).fold(0u32, |s, c| s.wrapping_add(u32::from_ne_bytes(c.try_into().unwrap())));
        let known = arch::READS.iter().filter(|k| (k.available)()).map(|k| k.kernel);
        let kernels: Vec<Read> = known.chain([PLAIN_READ]).collect();
        for k in kernels {
            assert_eq!(k.run(&bytes), want, "{}", k.name);
            assert_eq!(k.run(&[]), 0, "{}", k.name);
        }
    }
}
