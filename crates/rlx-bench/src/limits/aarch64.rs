//! Loops for NEON.  Registers 0 to 23 are sums; 28 to 30 hold factors of 1 in the form that the instruction takes and
//! what is on its way.

use super::{Known, PIECE, Peak, Read};
use std::arch::asm;
use std::arch::is_aarch64_feature_detected as has;

const F32: u32 = 0x3f80_0000;
const BF16: u32 = 0x3f80_3f80;
const BYTES: u32 = 0x0101_0101;

/// A loop over 24 registers of sums of type `$sum`.  `$line` is done for each, as number `\r`.
macro_rules! peak {
    ($name:ident, $features:literal, $sum:ty, $one:expr, [$($line:literal),+]) => {
        /// # Safety
        /// The processor has the instructions.
        #[target_feature(enable = $features)]
        unsafe fn $name(rounds: u64) -> f64 {
            let mut sums = [[0 as $sum; 4]; 24];
            // SAFETY: fills `sums`, which are as many and as wide as the registers.
            unsafe {
                asm!(
                    concat!(".irp r, ", sums24!()), "movi v\\r\\().2d, #0", ".endr",
                    "dup v28.4s, w2",
                    "cbz x0, 3f",
                    ".p2align 5",
                    "2:",
                    concat!(".irp r, ", sums24!()), $($line,)+ ".endr",
                    "subs x0, x0, #1",
                    "b.ne 2b",
                    "3:",
                    concat!(".irp r, ", sums24!()), "str q\\r, [x1, #(16 * \\r)]", ".endr",
                    inout("x0") rounds => _,
                    in("x1") sums.as_mut_ptr(),
                    in("w2") $one,
                    clobber_abi("C"),
                    options(nostack),
                );
            }
            sums.as_flattened().iter().map(|&s| f64::from(s)).sum()
        }
    };
}

macro_rules! sums24 {
    () => {
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23"
    };
}

peak!(fmla, "neon", f32, F32, ["fmla v\\r\\().4s, v28.4s, v28.4s"]);
peak!(bfdot, "neon,bf16", f32, BF16, ["bfdot v\\r\\().4s, v28.8h, v28.8h"]);
peak!(smmla, "neon,i8mm", i32, BYTES, ["smmla v\\r\\().4s, v28.16b, v28.16b"]);
peak!(sdot, "neon,dotprod", i32, BYTES, ["sdot v\\r\\().4s, v28.16b, v28.16b"]);
peak!(smull, "neon", i32, BYTES, ["smull v29.8h, v28.8b, v28.8b", "smlal2 v29.8h, v28.16b, v28.16b", "sadalp v\\r\\().4s, v29.8h"]);

/// Multiply-adds of f32.
pub(super) const F32_PEAKS: &[Known<Peak>] =
    &[Known { kernel: Peak { name: "fmla, 128 bits", macs: 24 * 4, run: fmla }, available: || has!("neon") }];

/// Dot products of bf16.
pub(super) const BF16_PEAKS: &[Known<Peak>] =
    &[Known { kernel: Peak { name: "bfdot, 128 bits", macs: 24 * 8, run: bfdot }, available: || has!("bf16") }];

/// Dot products of bytes, the fastest first.
pub(super) const INT8_PEAKS: &[Known<Peak>] = &[
    Known { kernel: Peak { name: "smmla, 128 bits", macs: 24 * 32, run: smmla }, available: || has!("i8mm") },
    Known { kernel: Peak { name: "sdot, 128 bits", macs: 24 * 16, run: sdot }, available: || has!("dotprod") },
    Known { kernel: Peak { name: "smull + smlal2 + sadalp, 128 bits", macs: 24 * 16, run: smull }, available: || has!("neon") },
];

/// # Safety
/// So many pieces are readable.
#[target_feature(enable = "neon")]
unsafe fn read_128(from: *const u8, pieces: u64) -> u32 {
    let mut sums = [0u32; 16];
    // SAFETY: reads the pieces, and fills `sums`, which are four registers.
    unsafe {
        asm!(
            ".irp r, 0, 1, 2, 3", "movi v\\r\\().2d, #0", ".endr",
            "cbz x0, 3f",
            ".p2align 5",
            "2:",
            ".rept {loads}",
            "ldp q4, q5, [x1], #32",
            "ldp q6, q7, [x1], #32",
            "add v0.4s, v0.4s, v4.4s", "add v1.4s, v1.4s, v5.4s", "add v2.4s, v2.4s, v6.4s", "add v3.4s, v3.4s, v7.4s",
            ".endr",
            "subs x0, x0, #1",
            "b.ne 2b",
            "3:",
            ".irp r, 0, 1, 2, 3", "str q\\r, [x2, #(16 * \\r)]", ".endr",
            loads = const PIECE / 64,
            inout("x0") pieces => _,
            inout("x1") from => _,
            in("x2") sums.as_mut_ptr(),
            clobber_abi("C"),
            options(nostack),
        );
    }
    sums.iter().fold(0, |a, &b| a.wrapping_add(b))
}

/// Loads.
pub(super) const READS: &[Known<Read>] =
    &[Known { kernel: Read { name: "pairs of 128-bit loads", run: read_128 }, available: || has!("neon") }];
