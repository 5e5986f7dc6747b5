//! The instruction sets, and which of them a processor has.

#[cfg(target_arch = "aarch64")]
use super::Neon;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use std::fmt;
use std::str::FromStr;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain Rust, any processor, over the layout of [`Level::AvxVnni`].
    Scalar,
    /// Plain Rust over the 16-lane layout of [`Level::Avx512`]. It exists to test that layout's kernels anywhere.
    ScalarWide,
    /// AVX2, FMA, F16C.
    Avx2,
    /// [`Level::Avx2`] with AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ, VNNI.
    Avx512,
    /// [`Level::Avx512`] with AVX-512 BF16.
    Avx512Bf16,
    /// Armv8.2 NEON with dot products.
    Neon,
    /// [`Level::Neon`] with products of matrices of bytes.
    I8mm,
}

impl Level {
    /// Every level, of one architecture the slower first; [`Level::Scalar`] is where each processor ends.
    pub const ALL: [Level; 8] =
        [Level::ScalarWide, Level::Scalar, Level::Avx2, Level::AvxVnni, Level::Avx512, Level::Avx512Bf16, Level::Neon, Level::I8mm];

    /// Every level that this processor can run, slowest first; [`Level::ScalarWide`] among them.
    pub fn available() -> Vec<Level> {
        Level::ALL.into_iter().filter(|l| l.is_available()).collect()
    }

    /// The fastest level that this processor can run.
    pub fn detect() -> Level {
        Level::ALL.into_iter().rfind(|l| l.is_available()).unwrap_or(Level::Scalar)
    }

    /// The level whose kernels this one uses for all but certain products: itself, where it has its own.
    pub const fn base(self) -> Level {
        match self {
            Level::AvxVnni => Level::Avx2,
            Level::Avx512Bf16 => Level::Avx512,
            Level::I8mm => Level::Neon,
            level => level,
        }
    }

    /// Whether this processor can run the level.
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar | Level::ScalarWide => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::<false>::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => Avx2::<true>::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::<false>::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => Avx512::<true>::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => Neon::<false>::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Level::I8mm => Neon::<true>::new().is_some(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Lanes of 32 bits.
    pub const fn lanes(self) -> usize {
        match self {
            Level::Scalar | Level::Avx2 | Level::AvxVnni => 8,
            Level::ScalarWide | Level::Avx512 | Level::Avx512Bf16 => 16,
            Level::Neon | Level::I8mm => 4,
        }
    }

    /// [`Simd::I8_BIAS`](super::Simd::I8_BIAS).
    pub const fn i8_bias(self) -> u8 {
        match self {
            Level::Avx2 | Level::Neon | Level::I8mm => 0,
            Level::Scalar | Level::ScalarWide | Level::AvxVnni | Level::Avx512 | Level::Avx512Bf16 => 128,
        }
    }

    /// [`Simd::TILE`](super::Simd::TILE).
    pub const fn tile(self) -> usize {
        match self {
            Level::Scalar | Level::Avx2 | Level::AvxVnni => 4,
            Level::ScalarWide | Level::Avx512 | Level::Avx512Bf16 | Level::Neon | Level::I8mm => 8,
        }
    }

    /// Whether products of many rows with bfloat16 weights multiply bfloat16 ([`Simd::dot_bf16`](super::Simd::dot_bf16)).
    pub const fn dots_bf16(self) -> bool {
        matches!(self, Level::ScalarWide | Level::Avx512Bf16)
    }

    /// [`Simd::PAIRS`](super::Simd::PAIRS).
    pub const fn pairs(self) -> bool {
        matches!(self, Level::I8mm)
    }

    /// The name that [`Level::from_str`] reads.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::ScalarWide => "scalar16",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Neon => "neon",
            Level::I8mm => "i8mm",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Level::ALL.into_iter().find(|l| l.name() == s);
        found.ok_or_else(|| {
            let names: Vec<&str> = Level::ALL.into_iter().filter(|l| *l != Level::ScalarWide).map(Level::name).collect();
            format!("unknown instruction set `{s}` (one of {})", names.join(", "))
        })
    }
}
