//! The families of this build.

use anyhow::anyhow;
use rlx_core::names::gguf_tensor_resolver;
use rlx_core::registry::{self, Identity, find};
use rlx_core::weights::{Checkpoint, LoadOpts, open_with, register_gguf_tensor_resolver};
use rlx_lm::LmFamily;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

/// A language-model family and its program.
pub struct Entry {
    /// The family.
    pub family: &'static dyn LmFamily,
    /// The flags and help of its program under this name.
    pub command: fn(&str) -> clap::Command,
    /// Its program, run under this name on these arguments; returns the exit code.
    pub run: fn(&str, Vec<OsString>) -> anyhow::Result<u8>,
}

/// One line per family.
const ENTRIES: &[Entry] = &[
    #[cfg(feature = "qwen3")]
    Entry { family: &rlx_qwen3::Qwen3, command: rlx_qwen3::cli::command, run: |program, args| rlx_qwen3::cli::run_as(program, args) },
];

/// Every family of this build.
pub fn all() -> &'static [Entry] {
    ENTRIES
}

/// Makes every family of this build known to [`registry`], and its names to
/// [`open_map`](rlx_core::weights::open_map): what an application registered before stays.
pub fn register() {
    for e in ENTRIES {
        registry::register(e.family);
        for arch in e.family.gguf_architectures() {
            if gguf_tensor_resolver(arch).is_none() {
                register_gguf_tensor_resolver(arch, Arc::new(*e.family.names()));
            }
        }
    }
}

/// The family that answers to an open checkpoint.
///
/// # Errors
/// The checkpoint does not say what it is, or it is something that no family of this build answers to.
pub fn of(checkpoint: &Checkpoint) -> anyhow::Result<&'static Entry> {
    let identity = Identity::of(checkpoint)?;
    let families: Vec<&'static dyn LmFamily> = ENTRIES.iter().map(|e| e.family).collect();
    let found = find(&families, &identity).map_err(|e| anyhow!("{}: {e}", checkpoint.path().display()))?;
    ENTRIES.iter().find(|e| e.family.name() == found.name()).ok_or_else(|| anyhow!("family {} is not registered", found.name()))
}

/// The family that answers to the checkpoint at `path`.
///
/// # Errors
/// As [`of`], and everything that opening a checkpoint may say.
pub fn at(path: &Path, opts: &LoadOpts) -> anyhow::Result<&'static Entry> {
    of(&open_with(opts.clone(), path)?)
}
