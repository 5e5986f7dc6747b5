//! GGUF files, and block formats: ggml's, MLX's affine ones and fp8 with scales.
//!
//! Input: `.gguf` files (one, or the parts of a split set) or bytes in memory.  Output: typed metadata, tensor
//! descriptions and validated byte views of the tensors, and the meaning of every block format as f32.
//! Everything read from a file is checked before it is used: a file that opens has tensors that lie inside it,
//! do not overlap and have the number of bytes that their shape needs.
//!
//! The crate knows no model, no device and no other crate of this workspace.  The container follows the GGUF
//! specification (versions 2 and 3, little endian), the block formats follow ggml's reference dequantisers.
#![deny(missing_docs)]

pub mod blocks;
mod cursor;
mod error;
mod file;
mod header;
mod index;
mod metadata;
pub mod quantize;
mod split;
mod tensor;
mod value;
mod writer;

pub use blocks::{Affine, BlockError, BlockFormat, Fp8, ScaleType};
pub use error::{GgufError, Origin};
pub use file::Gguf;
pub use metadata::Metadata;
pub use tensor::{TensorInfo, TensorType};
pub use value::{Array, FromValue, StringArray, Value};
pub use writer::{GgufStream, GgufWriter};
