//! The CPU backend.

pub mod attention;
pub mod matmul;
pub mod simd;
