//! The CPU backend: one portable binary with kernels for several instruction sets, chosen at run
//! time; all threads walk the same program side by side.
//!
//! [`Cpu`] implements [`rlx_compile::Backend`].  Activations are f32; weights are used as stored or
//! packed once for the processor's dot products ([`matmul`]); caches are paged ([`attention`]).

pub mod attention;
mod backend;
mod frame;
mod load;
pub mod matmul;
pub mod memory;
mod packed_file;
pub mod simd;
mod steps;
pub mod team;
pub mod tuning;
mod weights;

pub use backend::{Cpu, Options};
pub use simd::Level;
