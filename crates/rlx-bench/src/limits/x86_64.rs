//! Loops for AVX2 and AVX-512.  Registers 0 to 11 (0 to 27 of AVX-512) are sums, the next ones hold factors of 1 in
//! the form that the instruction takes, 16-bit ones, and what is on its way.

use super::{Known, PIECE, Peak, Read};
use std::arch::asm;
use std::arch::is_x86_feature_detected as has;

/// Factors of 1, 16-bit ones, and zero, for broadcasts.
type Ones = [u32; 3];

const F32: Ones = [0x3f80_0000, 0x0001_0001, 0];
const BF16: Ones = [0x3f80_3f80, 0x0001_0001, 0];
const BYTES: Ones = [0x0101_0101, 0x0001_0001, 0];

/// A loop over the registers `$v` of numbers `$sums`: `$n` of `$lanes` sums of type `$sum`.  `$line` is done for each,
/// as number `\r`.
macro_rules! peak {
    ($name:ident, $features:literal, $v:literal, $sums:expr, $n:literal, $lanes:literal, $sum:ty, $ones:expr, $factor:literal, $words:literal, [$($line:literal),+]) => {
        /// # Safety
        /// The processor has the instructions.
        #[target_feature(enable = $features)]
        unsafe fn $name(rounds: u64) -> f64 {
            let ones = $ones;
            let mut sums = [[0 as $sum; $lanes]; $n];
            // SAFETY: reads `ones` and fills `sums`, which are as many and as wide as the registers.
            unsafe {
                asm!(
                    concat!(".irp r, ", $sums), concat!("vpbroadcastd ", $v, "\\r, [rdx + 8]"), ".endr",
                    concat!("vpbroadcastd ", $factor, ", [rdx]"),
                    concat!("vpbroadcastd ", $words, ", [rdx + 4]"),
                    "test rcx, rcx",
                    "jz 3f",
                    ".p2align 5",
                    "2:",
                    concat!(".irp r, ", $sums), $($line,)+ ".endr",
                    "dec rcx",
                    "jnz 2b",
                    "3:",
                    concat!(".irp r, ", $sums), concat!("vmovups [rdi + 4 * ", $lanes, " * \\r], ", $v, "\\r"), ".endr",
                    "vzeroupper",
                    inout("rcx") rounds => _,
                    in("rdi") sums.as_mut_ptr(),
                    in("rdx") ones.as_ptr(),
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
            sums.as_flattened().iter().map(|&s| f64::from(s)).sum()
        }
    };
}

macro_rules! wide {
    ($name:ident, $features:literal, $sum:ty, $ones:expr, [$($line:literal),+]) => {
        peak!($name, $features, "zmm", sums28!(), 28, 16, $sum, $ones, "zmm28", "zmm29", [$($line),+]);
    };
}

macro_rules! narrow {
    ($name:ident, $features:literal, $sum:ty, $ones:expr, [$($line:literal),+]) => {
        peak!($name, $features, "ymm", sums12!(), 12, 8, $sum, $ones, "ymm12", "ymm13", [$($line),+]);
    };
}

macro_rules! sums12 {
    () => {
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    };
}

macro_rules! sums28 {
    () => {
        concat!(sums12!(), ", 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27")
    };
}

wide!(fma_512, "avx512f", f32, F32, ["vfmadd231ps zmm\\r, zmm28, zmm28"]);
narrow!(fma_256, "avx2,fma", f32, F32, ["vfmadd231ps ymm\\r, ymm12, ymm12"]);
wide!(bf16_512, "avx512f,avx512bf16", f32, BF16, ["vdpbf16ps zmm\\r, zmm28, zmm28"]);
wide!(vnni_512, "avx512f,avx512vnni", i32, BYTES, ["vpdpbusd zmm\\r, zmm28, zmm28"]);
narrow!(vnni_256, "avx2,avxvnni", i32, BYTES, ["{{vex}} vpdpbusd ymm\\r, ymm12, ymm12"]);
wide!(
    maddubs_512,
    "avx512f,avx512bw",
    i32,
    BYTES,
    ["vpmaddubsw zmm30, zmm28, zmm28", "vpmaddwd zmm30, zmm30, zmm29", "vpaddd zmm\\r, zmm\\r, zmm30"]
);
narrow!(
    maddubs_256,
    "avx2",
    i32,
    BYTES,
    ["vpmaddubsw ymm14, ymm12, ymm12", "vpmaddwd ymm14, ymm14, ymm13", "vpaddd ymm\\r, ymm\\r, ymm14"]
);

/// Multiply-adds of f32, the fastest first.
pub(super) const F32_PEAKS: &[Known<Peak>] = &[
    Known { kernel: Peak { name: "vfmadd231ps, 512 bits", macs: 28 * 16, run: fma_512 }, available: || has!("avx512f") },
    Known { kernel: Peak { name: "vfmadd231ps, 256 bits", macs: 12 * 8, run: fma_256 }, available: || has!("avx2") && has!("fma") },
];

/// Dot products of bf16.
pub(super) const BF16_PEAKS: &[Known<Peak>] = &[Known {
    kernel: Peak { name: "vdpbf16ps, 512 bits", macs: 28 * 32, run: bf16_512 },
    available: || has!("avx512f") && has!("avx512bf16"),
}];

/// Dot products of bytes, the fastest first.
pub(super) const INT8_PEAKS: &[Known<Peak>] = &[
    Known {
        kernel: Peak { name: "vpdpbusd, 512 bits", macs: 28 * 64, run: vnni_512 },
        available: || has!("avx512f") && has!("avx512vnni"),
    },
    Known {
        kernel: Peak { name: "vpmaddubsw + vpmaddwd + vpaddd, 512 bits", macs: 28 * 64, run: maddubs_512 },
        available: || has!("avx512f") && has!("avx512bw"),
    },
    Known { kernel: Peak { name: "vpdpbusd, 256 bits", macs: 12 * 32, run: vnni_256 }, available: || has!("avx2") && has!("avxvnni") },
    Known {
        kernel: Peak { name: "vpmaddubsw + vpmaddwd + vpaddd, 256 bits", macs: 12 * 32, run: maddubs_256 },
        available: || has!("avx2"),
    },
];

macro_rules! read {
    ($name:ident, $features:literal, $v:literal, $bytes:literal, $loads:expr) => {
        /// # Safety
        /// The processor has the instructions; so many pieces are readable.
        #[target_feature(enable = $features)]
        unsafe fn $name(from: *const u8, pieces: u64) -> u32 {
            let mut sums = [0u32; $bytes];
            // SAFETY: reads the pieces, and fills `sums`, which are four registers.
            unsafe {
                asm!(
                    ".irp r, 0, 1, 2, 3", "vpxor xmm\\r, xmm\\r, xmm\\r", ".endr",
                    "test rcx, rcx",
                    "jz 3f",
                    ".p2align 5",
                    "2:",
                    concat!(".irp i, ", $loads),
                    concat!(".irp r, 0, 1, 2, 3"),
                    concat!("vpaddd ", $v, "\\r, ", $v, "\\r, [rsi + ", $bytes, " * (4 * \\i + \\r)]"),
                    ".endr", ".endr",
                    "add rsi, {piece}",
                    "dec rcx",
                    "jnz 2b",
                    "3:",
                    concat!(".irp r, 0, 1, 2, 3"), concat!("vmovups [rdi + ", $bytes, " * \\r], ", $v, "\\r"), ".endr",
                    "vzeroupper",
                    piece = const PIECE,
                    inout("rcx") pieces => _,
                    inout("rsi") from => _,
                    in("rdi") sums.as_mut_ptr(),
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
            sums.iter().fold(0, |a, &b| a.wrapping_add(b))
        }
    };
}

read!(read_512, "avx512f", "zmm", 64, "0, 1, 2, 3");
read!(read_256, "avx2", "ymm", 32, "0, 1, 2, 3, 4, 5, 6, 7");

/// Loads, the widest first.
pub(super) const READS: &[Known<Read>] = &[
    Known { kernel: Read { name: "512-bit loads", run: read_512 }, available: || has!("avx512f") },
    Known { kernel: Read { name: "256-bit loads", run: read_256 }, available: || has!("avx2") },
];
