//! Devices, sessions and compiled graphs; the paged cache and the sequences that live in it.
//!
//! [`Session`] opens a [`Device`] under a profile and compiles graphs into [`CompiledGraph`]s.
//! [`Cache`] hands out blocks of the paged cache to [`SeqId`]s and writes the segments of each
//! call.  Nothing here knows a model family.

mod cache;
mod device;
mod session;
mod traffic;

pub use cache::{Batch, Cache, CacheError, SeqId};
pub use device::{Device, DeviceError};
pub use session::{CompiledGraph, Explain, Memory, RuntimeError, Session, bytes_of_u32};
pub use traffic::{Sequences, Traffic};
