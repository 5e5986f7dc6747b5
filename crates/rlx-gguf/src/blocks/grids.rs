//! Grid points of the IQ formats, expanded for direct use by kernels.
//!
//! An IQ code is an index into one of these tables; the entry holds the magnitudes (for IQ1 the values) of 4 or 8
//! consecutive elements.

use super::grid_codes as codes;

/// 256 points of 8 magnitudes for `IQ2_XXS`.
pub static IQ2XXS: [[u8; 8]; 256] = expand8(&codes::IQ2XXS);
/// 512 points of 8 magnitudes for `IQ2_XS`.
pub static IQ2XS: [[u8; 8]; 512] = expand8(&codes::IQ2XS);
/// 1024 points of 8 magnitudes for `IQ2_S`.
pub static IQ2S: [[u8; 8]; 1024] = expand8(&codes::IQ2S);
/// 256 points of 4 magnitudes for `IQ3_XXS`.
pub static IQ3XXS: [[u8; 4]; 256] = expand4(&codes::IQ3XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
/// 512 points of 4 magnitudes for `IQ3_S`.
pub static IQ3S: [[u8; 4]; 512] = expand4(&codes::IQ3S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// 2048 points of 8 values in {-1, 0, 1} for `IQ1_S` and `IQ1_M`.
pub static IQ1: [[i8; 8]; 2048] = expand_ternary(&codes::IQ1S);

/// The 16 levels of `IQ4_NL` and `IQ4_XS`.
pub static IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The 8 sign bits that a 7-bit sign index stands for: the eighth makes their number even.
pub const fn signs(index: u8) -> u8 {
    let index = index & 0x7F;
    index | ((index.count_ones() as u8 & 1) << 7)
}

const fn expand8<const N: usize>(codes: &[u16; N]) -> [[u8; 8]; N] {
    let levels = [8, 25, 43, 0];
    let mut out = [[0; 8]; N];
    let mut i = 0;
    while i < N * 8 {
        out[i / 8][i % 8] = levels[(codes[i / 8] >> (i % 8 * 2) & 3) as usize];
        i += 1;
    }
    out
}

const fn expand4<const N: usize>(codes: &[u16; N], levels: [u8; 8]) -> [[u8; 4]; N] {
    let mut out = [[0; 4]; N];
    let mut i = 0;
    while i < N * 4 {
        out[i / 4][i % 4] = levels[(codes[i / 4] >> (i % 4 * 3) & 7) as usize];
        i += 1;
    }
    out
}

const fn expand_ternary<const N: usize>(codes: &[u16; N]) -> [[i8; 8]; N] {
    let mut out = [[0; 8]; N];
    let mut i = 0;
    while i < N * 8 {
        out[i / 8][i % 8] = (codes[i / 8] >> (i % 8 * 2) & 3) as i8 - 1;
        i += 1;
    }
    out
}
