//! Who says what GGUF files call a weight.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{NameTable, Transform};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// What GGUF files of an architecture call the weights of a checkpoint, and how they are arranged there.
/// [`NameTable`] is one; an application may register another with [`register_gguf_tensor_resolver`].
pub trait GgufTensorResolver: Send + Sync {
    /// The GGUF name of a checkpoint name; `None` where the resolver has no opinion.
    fn to_gguf(&self, name: &str) -> Option<(String, Transform)>;
    /// The checkpoint name of a GGUF name; `None` where the resolver has no opinion.
    fn to_hf(&self, gguf: &str) -> Option<(String, Transform)>;
}

impl GgufTensorResolver for NameTable {
    fn to_gguf(&self, name: &str) -> Option<(String, Transform)> {
        NameTable::to_gguf(self, name)
    }
    fn to_hf(&self, gguf: &str) -> Option<(String, Transform)> {
        NameTable::to_hf(self, gguf)
    }
}

impl fmt::Debug for dyn GgufTensorResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GgufTensorResolver")
    }
}

static RESOLVERS: RwLock<BTreeMap<String, Arc<dyn GgufTensorResolver>>> = RwLock::new(BTreeMap::new());

/// Sets who translates the tensor names of GGUF files of this architecture, and returns who did before.
///
/// A registered resolver is asked first, also where a family brings a table of its own; the table answers what the
/// resolver leaves open.
pub fn register_gguf_tensor_resolver(arch: &str, resolver: Arc<dyn GgufTensorResolver>) -> Option<Arc<dyn GgufTensorResolver>> {
    RESOLVERS.write().unwrap_or_else(PoisonError::into_inner).insert(arch.to_owned(), resolver)
}

/// Who translates the tensor names of GGUF files of this architecture.
pub fn gguf_tensor_resolver(arch: &str) -> Option<Arc<dyn GgufTensorResolver>> {
    RESOLVERS.read().unwrap_or_else(PoisonError::into_inner).get(arch).cloned()
}
